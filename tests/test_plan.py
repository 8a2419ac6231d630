"""Modularity sets and plans: figures, laws on random graphs, exact distributions, and messages."""

import itertools
import json
import pickle
import re
import xml.etree.ElementTree as ET

import numpy as np
import oracles
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import admgs, node_sets

from mdcm import plan
from mdcm.errors import GraphError, PlanError, UntrainableError
from mdcm.graph import ADMG
from mdcm.planning import DatasetSpec, Fit, Plan, check_datasets

FIGURE_2 = "X1 -> Z1; Z3 -> Z1; Z1 -> Z2; Z1 -> X2; X1 <-> X2; Z1 <-> Z2; Z1 <-> Z3"
FRONT_DOOR = "D -> I -> A; D <-> A"
F7 = """
X0 -> W0; X0 -> W1; X1 -> W1; X2 -> W1; W0 -> Y0; W1 -> Y0; W1 -> Y1
X0 <-> Y0; X1 <-> X2; X2 <-> Y1
"""
ASIA = """
asia -> tub; tub -> either; lung -> either; either -> xray; either -> dysp
lung <-> dysp
"""


def summary(p: Plan) -> list[tuple[str, str, str, int]]:
    """Variables, ancestors, parents and level of every h-node that has one fit."""
    rows = []
    for hnode in p.hnodes:
        (fit,) = hnode.fits
        assert fit.variables == hnode.variables
        rows.append((*(" ".join(part) for part in (fit.variables, fit.ancestors, fit.parents)), hnode.level))
    return rows


def adversarial(graph) -> Plan:
    return plan(graph, objective="adversarial")


# ---------------------------------------------------------------------- figures


def test_plan_figure_2():
    p = adversarial(FIGURE_2)
    assert summary(p) == [("Z1 Z2 Z3", "", "X1", 0), ("X1 X2", "Z1 Z3", "", 1)]
    assert p.edges == ((0, 1),)
    assert p.levels == ((0,), (1,))
    assert p.largest == 3


def test_plan_figure_3_front_door():
    p = adversarial(FRONT_DOOR)
    assert summary(p) == [("I", "", "D", 0), ("A D", "I", "", 1)]
    assert p.edges == ((0, 1),)


def test_plan_figure_28_with_complete_data():
    p = adversarial(F7)
    rows = {row[0]: row[1:] for row in summary(p)}
    assert rows == {
        "W0": ("", "X0", 0),
        "W1": ("", "X0 X1 X2", 0),
        "X0 Y0": ("W0 W1", "X1 X2", 1),
        "X1 X2 Y1": ("W1", "X0", 1),
    }
    assert {(p.hnodes[s].variables, p.hnodes[t].variables) for s, t in p.edges} == {
        (("W0",), ("X0", "Y0")),
        (("W1",), ("X0", "Y0")),
        (("W1",), ("X1", "X2", "Y1")),
    }


def test_plan_asia_with_smoke_and_bronc_hidden():
    p = adversarial(ASIA)
    rows = {row[0]: row[1:] for row in summary(p)}
    assert rows.pop("dysp lung") == ("either", "tub", 1)
    assert rows == {
        "asia": ("", "", 0),
        "tub": ("", "asia", 0),
        "either": ("", "lung tub", 0),
        "xray": ("", "either", 0),
    }


def test_plan_orders_ancestors_that_are_no_parents():
    # X -> Z1 -> Z2 -> Y: Z1 is not a parent of {X, Y}, but must be trained before it
    p = adversarial("X -> Z1 -> Z2 -> Y; X <-> Y")
    assert summary(p) == [("Z1", "", "X", 0), ("Z2", "", "Z1", 0), ("X Y", "Z1 Z2", "", 1)]
    assert p.edges == ((0, 2), (1, 2))


def test_plan_orders_what_a_chain_of_confounders_needs():
    # x -> p -> y, q -> r -> y, x <-> y, p <-> q: {x, y} needs r, which no test of single parents finds
    p = adversarial("x -> p -> y; q -> r -> y; x <-> y; p <-> q")
    assert {row[0]: row[1:] for row in summary(p)} == {
        "r": ("", "q", 0),
        "p q": ("", "x", 0),
        "x y": ("p q r", "", 1),
    }


def test_plan_needs_nothing_where_nothing_is_confounded():
    # t -> x -> h, t -> p -> h: x alone fails rule 2, x and p together do not
    p = adversarial("t -> x -> h; t -> p -> h")
    assert all(row[1] == "" for row in summary(p))
    assert p.edges == ()
    assert p.largest == 1


def test_plan_merges_what_needs_each_other():
    p = adversarial("a -> b -> c -> d; a <-> c; b <-> d")
    assert summary(p) == [("a b c d", "", "", 0)]
    assert p.largest == 4


def test_plan_empty_graph():
    p = plan(ADMG([]))
    assert p.hnodes == p.edges == p.levels == ()
    assert p.largest == 0


# ---------------------------------------------------------------------- modularity sets


@given(st.data())
@settings(max_examples=250)
def test_modularity_set_is_the_least_of_all_subsets(data):
    graph = data.draw(admgs(min_nodes=2, max_nodes=5))
    (group,) = data.draw(node_sets(graph.nodes, 1))
    do = set(data.draw(st.lists(st.sampled_from(graph.nodes), unique=True, max_size=3)))
    found = graph.admg().modularity_set(group, do)
    solutions = oracles.modularity_sets(graph.mixed(), group, do)
    assert found == solutions[0]
    assert all(found <= solution for solution in solutions)


@given(st.data())
@settings(max_examples=200)
def test_modularity_set_agrees_with_plain_fixpoint_on_larger_graphs(data):
    graph = data.draw(admgs(min_nodes=6, max_nodes=10, max_bidirected=7))
    group, do = data.draw(node_sets(graph.nodes, 2))
    assert graph.admg().modularity_set(group, do) == oracles.closure(graph.mixed(), group, do)


@given(st.data())
@settings(max_examples=120)
def test_modularity_set_shrinks_under_do(data):
    graph = data.draw(admgs(min_nodes=3, max_nodes=9))
    group, do = data.draw(node_sets(graph.nodes, 2))
    admg = graph.admg()
    assert admg.modularity_set(group, do) <= admg.modularity_set(group)


def mismatch(model, inside: set[str], outside: set[str], do: set[str]) -> float:
    """Largest difference between P(S | Pa(S), do(I)) and P(S | do(Pa(S)), do(I))."""
    seen = model.conditional(inside, outside - do, do)
    truth = model.conditional(inside, set(), do | outside)
    return float(np.abs(seen - truth).max())


@given(st.data())
@settings(max_examples=120)
def test_conditioning_is_intervening_for_the_set_found_and_for_none_smaller(data):
    graph = data.draw(admgs(min_nodes=3, max_nodes=5, max_latents=1, max_bidirected=4))
    (group,) = data.draw(node_sets(graph.nodes, 1))
    do = set(data.draw(st.lists(st.sampled_from(graph.nodes), unique=True, max_size=2)))
    trained = group - do
    assume(trained)
    extra = graph.admg().modularity_set(group, do)
    plain = graph.mixed()
    models = [
        oracles.Enumeration.random(graph.nodes, graph.directed, graph.confounders(), levels=2, states=3, seed=seed)
        for seed in range(3)
    ]

    def worst(added: set[str]) -> float:
        inside = trained | added
        return max(mismatch(model, inside, plain.parents(inside) - inside, do) for model in models)

    # rounding: sums of at most 2^5 * 3^5 products of numbers below 1, and one division by at least 1e-4
    assert worst(extra) < 1e-9
    for left_out in extra:
        assert worst(extra - {left_out}) > 1e-7
    assert not extra or worst(set()) > 1e-7


# ---------------------------------------------------------------------- laws of plans


@given(admgs(min_nodes=2, max_nodes=9, max_bidirected=6))
@settings(max_examples=200)
def test_plan_agrees_with_plain_twin(graph):
    p = adversarial(graph.admg())
    parts, edges = oracles.plan_adversarial(graph.mixed())
    assert {frozenset(h.variables) for h in p.hnodes} == parts
    assert {(frozenset(p.hnodes[s].variables), frozenset(p.hnodes[t].variables)) for s, t in p.edges} == edges


@given(admgs(min_nodes=2, max_nodes=5, max_bidirected=4))
@settings(max_examples=80)
def test_plan_agrees_with_twin_that_tries_all_subsets(graph):
    p = adversarial(graph.admg())
    parts, edges = oracles.plan_adversarial(graph.mixed(), lambda *args: oracles.modularity_sets(*args)[0])
    assert {frozenset(h.variables) for h in p.hnodes} == parts
    assert len(p.edges) == len(edges)


@given(admgs(max_nodes=9, max_bidirected=6), st.sampled_from(["adversarial", "auto", "likelihood"]), st.data())
@settings(max_examples=200)
def test_everything_used_is_trained_before(graph, objective, data):
    kinds = {}
    if objective == "auto":
        kinds = {v: data.draw(st.sampled_from(["categorical", "implicit", "image", "continuous"])) for v in graph.nodes}
    p = plan(graph.admg(), objective=objective, kinds=kinds)
    plain = graph.mixed()
    assert sorted(v for h in p.hnodes for v in h.variables) == sorted(graph.nodes)
    assert p.edges == tuple(sorted(p.edges))
    used = set()
    level = {v: h.level for h in p.hnodes for v in h.variables}
    where = {v: i for i, h in enumerate(p.hnodes) for v in h.variables}
    for i, hnode in enumerate(p.hnodes):
        (fit,) = hnode.fits
        inside = {*fit.variables, *fit.ancestors}
        assert set(fit.parents) == plain.parents(inside) - inside
        assert not set(fit.ancestors) & set(fit.variables)
        assert all(level[v] < hnode.level for v in fit.ancestors)
        used |= {(where[v], i) for v in fit.ancestors}
        if fit.objective == "likelihood":
            assert fit.ancestors == ()
            assert all(kinds.get(v, "categorical") in {"categorical", "continuous"} for v in fit.variables)
        else:
            assert oracles.satisfies_rule2(plain, inside, set()) or len(graph.nodes) > 6
        needs = [p.hnodes[s].level for s, t in p.edges if t == i]
        assert hnode.level == max(needs, default=-1) + 1
    assert set(p.edges) == used
    assert p.levels == tuple(tuple(i for i, h in enumerate(p.hnodes) if h.level == k) for k in range(len(p.levels)))
    assert p.largest == max((len(h.variables) for h in p.hnodes), default=0)


@given(admgs(max_nodes=9))
@settings(max_examples=60)
def test_hnodes_are_ordered_by_level_and_first_position(graph):
    p = adversarial(graph.admg())
    place = {v: k for k, v in enumerate(p.graph.topological_order())}
    keys = [(h.level, min(place[v] for v in h.variables)) for h in p.hnodes]
    assert keys == sorted(keys)


@given(st.data())
@settings(max_examples=120)
def test_partition_and_sets_do_not_depend_on_names_or_order(data):
    graph = data.draw(admgs(min_nodes=2, max_nodes=9, max_bidirected=6))
    new_name = dict(zip(graph.nodes, data.draw(st.permutations(graph.nodes)), strict=True))
    twin = ADMG(
        [new_name[v] for v in data.draw(st.permutations(graph.nodes))],
        [(new_name[a], new_name[b]) for a, b in data.draw(st.permutations(graph.directed))],
        [(new_name[b], new_name[a]) for a, b in graph.bidirected],
        {name: [new_name[v] for v in children[::-1]] for name, children in graph.latents},
    )

    def as_sets(p: Plan, names: dict[str, str]) -> set[tuple[object, ...]]:
        return {
            (
                h.level,
                *(frozenset(names[v] for v in part) for part in (fit.variables, fit.ancestors, fit.parents)),
            )
            for h in p.hnodes
            for fit in h.fits
        }

    assert as_sets(adversarial(twin), {v: v for v in graph.nodes}) == as_sets(adversarial(graph.admg()), new_name)


def test_partition_is_never_coarser_than_needed_at_fifty_nodes():
    rng = np.random.default_rng(50)
    names = [f"v{i}" for i in range(50)]
    for _ in range(5):
        directed = {tuple(sorted(pair)) for pair in rng.integers(0, 50, (100, 2)).tolist() if pair[0] != pair[1]}
        pairs = {tuple(sorted(pair)) for pair in rng.integers(0, 50, (16, 2)).tolist() if pair[0] != pair[1]}
        graph = ADMG(names, [(names[a], names[b]) for a, b in directed], [(names[a], names[b]) for a, b in pairs])
        plain = oracles.Mixed(
            tuple(names),
            frozenset(graph.directed),
            frozenset(frozenset(pair) for pair in graph.bidirected),
        )
        parts, _ = oracles.plan_adversarial(plain)
        assert {frozenset(h.variables) for h in adversarial(graph).hnodes} == parts


# ---------------------------------------------------------------------- objectives


def test_likelihood_needs_no_order():
    p = plan(F7)
    assert p.edges == ()
    assert {row[0]: row[1:] for row in summary(p)} == {
        "W0": ("", "X0", 0),
        "W1": ("", "X0 X1 X2", 0),
        "X0 Y0": ("", "W0 W1", 0),
        "X1 X2 Y1": ("", "W1", 0),
    }
    assert {fit.objective for h in p.hnodes for fit in h.fits} == {"likelihood"}


def test_auto_trains_adversarially_only_where_a_density_is_missing():
    p = plan(FIGURE_2, kinds={"X2": "image"})
    rows = {h.variables: h.fits[0] for h in p.hnodes}
    assert rows["Z1", "Z2", "Z3"].objective == "likelihood"
    assert rows["X1", "X2"].objective == "adversarial"
    assert rows["X1", "X2"].ancestors == ("Z1", "Z3")
    assert p.edges == ((0, 1),)


def test_objective_by_variable():
    p = plan(FRONT_DOOR, objective={"I": "adversarial"})
    assert [(h.variables, h.fits[0].objective) for h in p.hnodes] == [
        (("A", "D"), "likelihood"),
        (("I",), "adversarial"),
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"objective": "gan"}, PlanError, "objective is 'gan'; it must be one of 'auto', 'adversarial', 'likelihood'"),
        ({"objective": {"I": "mle"}}, PlanError, "objective of I is 'mle'; it must be one of"),
        ({"objective": {"Q": "auto"}}, GraphError, "objective: the graph has no node 'Q'"),
        ({"kinds": {"I": "picture"}}, PlanError, "kinds of I is 'picture'; it must be one of 'categorical'"),
        ({"kinds": {"Q": "image"}}, GraphError, "kinds: the graph has no node 'Q'"),
        ({"method": "best"}, PlanError, "method is 'best'; it must be one of 'minimal'"),
        (
            {"objective": "likelihood", "kinds": {"I": "image"}},
            PlanError,
            "objective 'likelihood' of I is impossible: I has no density (it is image).",
        ),
        (
            {"objective": {"D": "likelihood", "A": "adversarial"}},
            PlanError,
            "objective 'likelihood' of D is impossible: A asks for 'adversarial'. D and A are in the same c-component "
            "and are trained together.",
        ),
        ({"datasets": []}, PlanError, "datasets is empty; give at least one"),
        ({"datasets": ["d1"]}, PlanError, "datasets holds 'd1'; it takes DatasetSpec objects"),
    ],
)
def test_bad_requests_say_what_is_wrong(arguments, error, message):
    with pytest.raises(error) as caught:
        plan(FRONT_DOOR, **arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": " "}, "a dataset's name must be non-empty text"),
        ({"name": "d", "columns": "ABC"}, "dataset 'd': columns and do take lists of names, not a text"),
        ({"name": "d", "do": "X"}, "dataset 'd': columns and do take lists of names, not a text"),
        ({"name": "d", "do": {"X": []}}, r"dataset 'd': do\(X\) has an empty list of values"),
        ({"name": "d", "do": {"X": "01"}}, r"dataset 'd': the values of do\(X\) must be a list, not '01'"),
        ({"name": "d", "rows": -1}, "dataset 'd': rows is -1"),
    ],
)
def test_bad_dataset_specs_say_what_is_wrong(arguments, message):
    with pytest.raises(PlanError, match=message):
        DatasetSpec(**arguments)


def test_untrainable_hnode_is_named_with_what_is_missing():
    with pytest.raises(UntrainableError) as caught:
        plan(F7, [DatasetSpec("trial", columns=["X0", "X1", "X2", "W1", "Y0", "Y1"])], objective="adversarial")
    error = caught.value
    assert str(error) == "no dataset can teach {W0}: trial lacks the column W0"
    assert error.hnode == ("W0",)
    assert error.missing == {"trial": "the column W0"}


def test_dataset_name_reaches_the_fits():
    p = plan(FRONT_DOOR, [DatasetSpec("clinic", columns=["A", "I", "D", "extra"], rows=10)])
    assert {fit.datasets for h in p.hnodes for fit in h.fits} == {("clinic",)}
    assert {fit.do for h in p.hnodes for fit in h.fits} == {()}


# ---------------------------------------------------------------------- explanations and files


def steps_of(line: str) -> list[tuple[str, str, str]]:
    tokens = line.split()
    return [(tokens[i], tokens[i + 1], tokens[i + 2]) for i in range(0, len(tokens) - 2, 2)]


@given(admgs(min_nodes=3, max_nodes=9, max_bidirected=6))
@settings(max_examples=200)
def test_explanations_show_backdoor_paths_that_exist(graph):
    p = adversarial(graph.admg())
    plain = graph.mixed()
    for i, hnode in enumerate(p.hnodes):
        (fit,) = hnode.fits
        inside = {*fit.variables, *fit.ancestors}
        for variable in fit.ancestors:
            head, *lines = p.explain(i, variable).split("\n")
            assert head.startswith(f"{variable} is trained before {{{', '.join(fit.variables)}}}")
            for k, line in enumerate(lines):
                steps = steps_of(line)
                assert all(
                    (b, a) in plain.directed if kind == "←" else frozenset({a, b}) in plain.pairs
                    for a, kind, b in steps
                )
                # from a child in S back through q to S, an arrow into q, no node of S in between
                assert steps[0][0] in inside
                assert steps[0][1] == "←"
                assert steps[-1][2] in inside
                assert all(a not in inside for a, _, _ in steps[2:])
                assert [kind for _, kind, _ in steps[:-1]] == ["←"] * (len(steps) - 1)
                assert k > 0 or steps[0][2] == variable
                # the path is open where rule 2 for S without q is read off, so that rule fails
                q = steps[0][2]
                rest = inside - {q}
                outside = plain.parents(rest) - rest
                cut = plain.without_out_of(outside)
                assert q in outside
                assert steps[-1][2] in rest
                assert all(kind == "↔" or (b, a) in cut.directed for a, kind, b in steps[1:])


def test_explain_figure_2():
    p = adversarial(FIGURE_2)
    assert p.explain(1, "Z1").split("\n") == [
        "Z1 is trained before {X1, X2} and generates along with them: conditioning on Z1 is not intervening on it.",
        "  X2 ← Z1 ← X1",
    ]
    assert p.explain(1, "Z3").split("\n")[1:] == ["  Z1 ← Z3 ↔ Z1", "  X2 ← Z1 ← X1"]
    assert p.explain(0, "X1").startswith("X1 is a parent, and its values are taken from the data")
    assert p.explain(0, "X2") == "X2 is not used in training {Z1, Z2, Z3}."
    assert p.explain(0, "Z3") == (
        "Z3 is in the c-component {Z1, Z2, Z3}, which is trained together: it shares a hidden confounder with Z1."
    )
    assert adversarial(FRONT_DOOR).explain(0, "I").startswith("I is alone in its h-node")


def test_explain_merged_hnode_gives_every_need():
    p = adversarial("a -> b -> c -> d; a <-> c; b <-> d")
    assert p.explain(0, "a").split("\n") == [
        "a is in the c-component {a, c}, which is trained together: it shares a hidden confounder with c.",
        "{a, b, c, d} holds 2 c-components, which need each other trained first:",
        "  {a, c} needs {b, d}: c ← b ← a",
        "  {b, d} needs {a, c}: d ← c ← b",
    ]


def test_explain_refuses_unknown_places():
    p = adversarial(FRONT_DOOR)
    with pytest.raises(PlanError, match="there is no h-node 2; the plan has 2, numbered from 0"):
        p.explain(2, "I")
    with pytest.raises(GraphError, match="the graph has no node 'Q'"):
        p.explain(0, "Q")


@given(admgs(max_nodes=8), st.sampled_from(["adversarial", "auto"]))
@settings(max_examples=60)
def test_plan_survives_json_and_pickle(graph, objective):
    spec = DatasetSpec("Daten", columns=[*graph.nodes, "more"], rows=5)
    p = plan(graph.admg(), [spec], objective=objective)
    back = Plan.from_json(p.to_json())
    assert back == p
    assert back.hnodes == p.hnodes
    assert back.levels == p.levels
    assert back.largest == p.largest
    assert str(back) == str(p)
    assert back.to_json() == p.to_json()
    assert pickle.loads(pickle.dumps(p)) == p
    assert all(back.explain(i, v) == p.explain(i, v) for i, v in itertools.product(range(len(p)), graph.nodes))


def test_plans_differ_where_anything_differs():
    assert plan(FRONT_DOOR) != plan(FRONT_DOOR, objective="adversarial")
    assert plan(FRONT_DOOR) != plan("D -> I -> A; D <-> A; B")
    assert plan(FRONT_DOOR) != plan(FRONT_DOOR, [DatasetSpec("other")])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-20], "the plan is not JSON"),
        (lambda text: "[]", "the JSON text is not a plan: its 'format' is not 'mdcm-plan'"),
        (
            lambda text: text.replace('"version": 1', '"version": 99'),
            "the plan has version 99; this mdcm reads version 1",
        ),
        (lambda text: text.replace('"level"', '"height"'), "the plan is incomplete or damaged"),
        (lambda text: text.replace("D -> I", "D => I"), "the plan is incomplete or damaged"),
    ],
)
def test_damaged_json_is_refused(damage, message):
    with pytest.raises(PlanError, match=message):
        Plan.from_json(damage(plan(FRONT_DOOR).to_json()))


def test_json_is_plain_and_complete():
    content = json.loads(plan(FRONT_DOOR, objective="adversarial").to_json())
    assert content["graph"] == FRONT_DOOR
    assert content["hnodes"][1] == {
        "variables": ["A", "D"],
        "level": 1,
        "fits": [
            {
                "datasets": ["d1"],
                "do": [],
                "variables": ["A", "D"],
                "ancestors": ["I"],
                "parents": [],
                "objective": "adversarial",
            }
        ],
    }
    assert content["edges"] == [[0, 1]]


def test_str_lists_levels_hnodes_and_fits():
    assert str(adversarial(FIGURE_2)).split("\n") == [
        "2 h-nodes, at most 3 mechanisms trained together",
        "level 0",
        "  0: {Z1, Z2, Z3}",
        "       adversarial: P(Z1, Z2, Z3 | X1) from d1",
        "level 1",
        "  1: {X1, X2}",
        "       adversarial: P(X1, X2, Z1, Z3) from d1",
    ]
    assert repr(adversarial(FIGURE_2)) == "<Plan: 2 h-nodes on 2 levels, at most 3 mechanisms trained together>"


def test_dot_has_every_hnode_and_every_edge_with_its_path():
    p = adversarial('"a \\"b\\"" -> I -> A; "a \\"b\\"" <-> A')
    dot = p.to_dot()
    assert dot.startswith("digraph plan {")
    assert re.findall(r"h(\d) -> h(\d) \[label=\"(.*)\"\]", dot) == [("0", "1", r"A ← I ← a \"b\"")]
    assert r"{ rank=same; h0; }" in dot


def test_svg_is_well_formed_with_boxes_in_columns_and_labelled_arrows():
    p = adversarial(F7 + "; '<&>' -> X0".replace("'", '"'))
    root = ET.fromstring(p.to_svg())
    ns = {"s": "http://www.w3.org/2000/svg"}
    boxes = [
        (float(r.get("x")), float(r.get("y")), float(r.get("width")), float(r.get("height")))
        for r in root.findall("s:g/s:rect", ns)
    ]
    assert len(boxes) == len(p)
    for h, box in zip(p.hnodes, boxes, strict=True):
        for other, place in zip(p.hnodes, boxes, strict=True):
            if h.level < other.level:
                assert box[0] + box[2] < place[0]
    for a, b in itertools.combinations(boxes, 2):
        apart_x = a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0]
        assert apart_x or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]
    width, height = float(root.get("width")), float(root.get("height"))
    assert all(x + w <= width and y + h <= height for x, y, w, h in boxes)
    arrows = root.findall("s:path", ns)
    assert len(arrows) == len(p.edges)
    texts = ["".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any("Y0 ← W0 ← X0" in text for text in texts)
    assert any("<&>" in text for text in texts)


def test_fit_compares_by_value_and_says_what_is_matched():
    (fit,) = adversarial("A -> B").hnodes[1].fits
    assert isinstance(fit, Fit)
    assert fit == adversarial("A -> B").hnodes[1].fits[0]
    assert hash(fit) == hash(adversarial("A -> B").hnodes[1].fits[0])
    assert str(fit) == "adversarial: P(B | A) from d1"
    assert repr(fit).startswith("Fit(datasets=('d1',), do=(), variables=('B',), ancestors=()")


# ---------------------------------------------------------------------- size


def test_plan_of_fifty_thousand_nodes_stores_no_ancestors():
    n = 50_000
    names = [f"v{i}" for i in range(n)]
    directed = [(names[i], names[i + 1]) for i in range(n - 1)]
    p = adversarial(ADMG(names, directed, [(names[0], names[-1])]))
    assert len(p) == n - 1
    assert p.largest == 2
    (fit,) = p.hnodes[-1].fits
    assert fit.variables == (names[0], names[-1])
    assert len(fit.ancestors) == n - 2
    assert len(p.edges) == n - 2


@pytest.mark.parametrize("level", [-1, 2, 10**100])
def test_levels_that_a_plan_cannot_have_are_refused(level):
    content = json.loads(plan("D -> I -> A; D <-> A", objective="adversarial").to_json())
    content["hnodes"][0]["level"] = level
    with pytest.raises(PlanError, match=r"the level of an h-node is not below the number|hnodes\[0\]\.level must be"):
        Plan.from_json(json.dumps(content))


class TestDataOfAPlan:
    """A plan is for data of the targets, values and columns that it was made for."""

    GRAPH = ADMG.from_string("X -> Y; X <-> Y; X -> Z")

    def made(self, **spec):
        return plan(self.GRAPH, [DatasetSpec("d1"), DatasetSpec("trial", **spec)])

    def check(self, made, *, columns=("X", "Y", "Z"), do=(), kinds=None, further=()):
        mine = [DatasetSpec("d1", ["X", "Y", "Z"]), DatasetSpec("trial", columns, do), *further]
        check_datasets(made, mine, kinds=kinds or {}, levels={} if kinds else {"X": (0, 1, 2), "Z": (0, 1)})

    def test_what_matches_is_taken(self):
        for planned, mine in (
            ({"do": ["X"]}, {"do": {"X": [0, 1, 2]}}),
            ({"do": {"X": [2, 0, 1.0]}}, {"do": ["X"]}),
            ({"do": {"X": [1, 0]}}, {"do": {"X": [0, 1.0]}}),
            ({"columns": ["Y", "Z"], "do": {"X": [1]}}, {"columns": ["Z", "X", "Y"], "do": {"X": (1,)}}),
            # columns that are no nodes are nobody's
            ({"columns": ["X", "Y"]}, {"columns": ["X", "Y", "id"]}),
            ({"do": ["X"]}, {"do": {"X": np.linspace(0, 1, 30)}, "kinds": {"X": "continuous"}}),
        ):
            self.check(self.made(**planned), **mine)

    @pytest.mark.parametrize(
        ("planned", "mine", "message"),
        [
            ({"do": ["X"]}, {}, r"the plan has do\(X\) in data set 'trial', but the data set at hand sets nothing"),
            ({}, {"do": ["X"]}, "the plan has no intervention in data set 'trial', but the data set at hand sets X"),
            ({"do": ["X"]}, {"do": ["Z"]}, r"do\(X\) in data set 'trial', but the data set at hand sets Z"),
            ({"do": ["X"]}, {"do": {"X": [0, 1]}}, r"do\(X\) at every value in .* sets X to 0, 1"),
            ({"do": {"X": [0]}}, {"do": {"X": [1]}}, r"do\(X\) at 0 in .* sets X to 1"),
            ({"do": {"X": [0]}}, {"do": ["X"]}, r"do\(X\) at 0 in .* sets X to every value"),
            ({"do": ["X"]}, {"do": {"X": [0.0, 1.5]}, "kinds": {"X": "continuous"}}, "every value in .* 0.0, 1.5"),
            ({"columns": ["X", "Y", "Z"]}, {"columns": ["X", "Y"]}, "has 'Z' among the columns of data set 'trial'"),
            ({}, {"columns": ["X", "Y"]}, "has 'Z' among the columns"),
            ({"columns": ["X", "Y"]}, {}, "'trial' at hand observes 'Z', which the plan does not have"),
            ({}, {"further": [DatasetSpec("more")]}, "data set 'more' is not among the plan's"),
        ],
    )
    def test_what_differs_is_refused(self, planned, mine, message):
        with pytest.raises(PlanError, match=message):
            self.check(self.made(**planned), **mine)
