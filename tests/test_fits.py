"""Plans for several data sets: figures, counterexamples, and laws on random graphs with random data sets."""

import itertools

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import RandomGraph, admgs

from mdcm import plan
from mdcm.errors import GraphError, PlanError, UntrainableError
from mdcm.graph import ADMG
from mdcm.planning import DatasetSpec, Plan

FIGURE_2 = "X1 -> Z1; Z3 -> Z1; Z1 -> Z2; Z1 -> X2; X1 <-> X2; Z1 <-> Z2; Z1 <-> Z3"
F6 = "PKA -> Mek; PKA -> Erk; PKA -> Akt; Mek -> Erk; Erk -> Akt; PKA <-> Mek"
F7 = """
X0 -> W0; X0 -> W1; X1 -> W1; X2 -> W1; W0 -> Y0; W1 -> Y0; W1 -> Y1
X0 <-> Y0; X1 <-> X2; X2 <-> Y1
"""
F7_DATA = (
    DatasetSpec("D1", columns=["X0", "X1", "X2", "W1", "Y1"]),
    DatasetSpec("D2", columns=["X0", "X1", "X2", "W0", "W1", "Y0"]),
)
MNIST = """
X1 -> X2; X1 -> W; X2 -> W; W -> Y1; W -> Y2; W -> Thick; W -> Color; X1 <-> X2; X2 <-> Color
Y1 -> Image1; Color -> Image1; Thick -> Image1; Y2 -> Image2; Color -> Image2; Thick -> Image2
"""
MNIST_DATA = (DatasetSpec("D1"), DatasetSpec("D2", do={"X1": [0]}), DatasetSpec("D3", do={"X1": [1]}))
DETERMINED = "x -> t -> y; I -> t; x <-> y; I <-> t; I <-> c"


def adversarial(graph, *datasets, **options) -> Plan:
    return plan(graph, datasets, objective="adversarial", **options)


def fits(p: Plan) -> dict[str, list[tuple[str, str, str, str]]]:
    """For every h-node its fits: variables, A, parents, datasets."""
    return {
        " ".join(h.variables): [
            (" ".join(f.variables), " ".join(f.ancestors), " ".join(f.parents), " ".join(f.datasets)) for f in h.fits
        ]
        for h in p.hnodes
    }


# ---------------------------------------------------------------------- figures


def test_plan_figure_2_with_two_datasets_of_section_d_2_1():
    p = adversarial(FIGURE_2, DatasetSpec("d1"), DatasetSpec("d2", do=["Z1"]))
    assert fits(p) == {
        "X1 X2": [("X1 X2", "", "Z1", "d2")],
        "Z1 Z2 Z3": [("Z1 Z2 Z3", "", "X1", "d1"), ("Z2 Z3", "", "Z1", "d2")],
    }
    assert [fit.do for h in p.hnodes for fit in h.fits] == [("Z1",), (), ("Z1",)]
    assert p.edges == ()
    assert p.levels == ((0, 1),)
    assert p.unused == ("column X2 of dataset d1",)


def test_plan_figure_28_with_partly_observed_datasets():
    p = adversarial(F7, *F7_DATA)
    assert fits(p) == {
        "W0": [("W0", "", "X0", "D2")],
        "W1": [("W1", "", "X0 X1 X2", "D1 D2")],
        "X0 Y0": [("X0 Y0", "W0 W1", "X1 X2", "D2")],
        "X1 X2 Y1": [("X1 X2 Y1", "W1", "X0", "D1")],
    }
    assert {(p.hnodes[s].variables, p.hnodes[t].variables) for s, t in p.edges} == {
        (("W0",), ("X0", "Y0")),
        (("W1",), ("X0", "Y0")),
        (("W1",), ("X1", "X2", "Y1")),
    }


def test_plan_figure_28_by_likelihood_uses_what_each_dataset_shows():
    p = plan(F7, F7_DATA)
    assert fits(p) == {
        "W0": [("W0", "", "X0", "D2")],
        "W1": [("W1", "", "X0 X1 X2", "D1 D2")],
        # what a dataset lacks is summed out where nothing that is left descends from it
        "X0 Y0": [("X0 Y0", "", "W0 W1", "D2"), ("X0", "", "", "D1")],
        "X1 X2 Y1": [("X1 X2 Y1", "", "W1", "D1"), ("X1 X2", "", "", "D2")],
    }
    assert p.edges == p.unused == ()


def test_plan_figure_28_jointly():
    p = plan(F7, F7_DATA, method="joint")
    (hnode,) = p.hnodes
    assert hnode.variables == ("W0", "W1", "X0", "X1", "X2", "Y0", "Y1")
    assert [(f.datasets, f.variables, f.ancestors, f.parents, f.objective) for f in hnode.fits] == [
        (("D1",), ("W1", "X0", "X1", "X2", "Y1"), (), (), "adversarial"),
        (("D2",), ("W0", "W1", "X0", "X1", "X2", "Y0"), (), (), "adversarial"),
    ]
    assert (p.edges, p.levels, p.largest) == ((), ((0,),), 7)
    assert Plan.from_json(p.to_json()) == p
    assert "D1" in str(p)
    assert "joint" not in p.to_svg()


def test_joint_takes_what_is_set_from_the_data():
    p = plan("X -> Y; X <-> Y", [DatasetSpec("a"), DatasetSpec("b", do=["X"])], method="joint")
    assert fits(p) == {"X Y": [("X Y", "", "", "a"), ("Y", "", "X", "b")]}
    with pytest.raises(
        UntrainableError, match=r"no dataset can teach \{X, Y\}: X is never observed except where it is set"
    ):
        plan("X -> Y", [DatasetSpec("b", do=["X"])], method="joint")


@pytest.mark.parametrize("objective", ["adversarial", "likelihood"])
def test_plan_sachs_with_pkc_hidden(objective):
    data = [DatasetSpec("D1"), DatasetSpec("D2", columns=["Mek"], do={"PKA": [2]}, rows=707)]
    p = plan(F6, data, objective=objective)
    assert fits(p) == {
        "Mek PKA": [("Mek PKA", "", "", "D1"), ("Mek", "", "PKA", "D2")],
        "Erk": [("Erk", "", "Mek PKA", "D1")],
        "Akt": [("Akt", "", "Erk PKA", "D1")],
    }
    assert [f.do for f in p.hnodes[0].fits] == [(), ("PKA",)]
    assert p.edges == ()


def test_plan_of_section_5_4_with_a_group_made_by_hand():
    kinds = {"Image1": "image", "Image2": "image"}
    apart = adversarial(MNIST, *MNIST_DATA, kinds=kinds)
    assert fits(apart)["Color X1 X2"] == [
        ("Color X1 X2", "W", "", "D1"),
        # the two arms are pooled: together they set every value of X1
        ("Color X2", "W", "X1", "D2 D3"),
    ]
    p = adversarial(MNIST, *MNIST_DATA, kinds=kinds, together=[["W", "X1", "X2", "Color"]])
    assert fits(p)["Color W X1 X2"] == [("Color W X1 X2", "", "", "D1"), ("Color W X2", "", "X1", "D2 D3")]
    assert len(p) == len(apart) - 1
    assert p.edges == ()


# ---------------------------------------------------------------------- counterexamples


def test_one_value_of_an_intervention_teaches_nothing_about_the_others():
    graph = "Z -> Y"
    lone = DatasetSpec("trial", do={"Z": [1]})
    for objective in ("adversarial", "likelihood"):
        p = plan(graph, [DatasetSpec("seen"), lone], objective=objective)
        # it adds rows where another dataset shows the rest
        assert fits(p) == {"Z": [("Z", "", "", "seen")], "Y": [("Y", "", "Z", "seen trial")]}
        with pytest.raises(UntrainableError) as caught:
            plan(graph, [DatasetSpec("marginal", columns=["Z"]), lone], objective=objective)
        assert str(caught.value) == (
            "no dataset can teach {Y}: marginal lacks the column Y; trial sets Z only to 1, not to every combination "
            "of values"
        )
        assert caught.value.missing["trial"] == "sets Z only to 1, not to every combination of values"
        both = [DatasetSpec("marginal", columns=["Z"]), lone, DatasetSpec("control", do={"Z": [0]})]
        assert fits(plan(graph, both, objective=objective))["Y"] == [("Y", "", "Z", "trial control")]
        with pytest.raises(UntrainableError, match="trial sets Z only to 1"):
            plan(graph, both, objective=objective, levels={"Z": [0, 1, 2]})


def test_values_must_cover_every_combination():
    graph = "A -> Y; B -> Y"
    base = DatasetSpec("base", columns=["A", "B"])
    diagonal = [DatasetSpec("d0", do={"A": [0], "B": [0]}), DatasetSpec("d1", do={"A": [1], "B": [1]})]
    with pytest.raises(UntrainableError, match=r"no dataset can teach \{Y\}"):
        adversarial(graph, base, *diagonal)
    rest = [DatasetSpec("d2", do={"A": [0], "B": [1]}), DatasetSpec("d3", do={"A": [1], "B": [0]})]
    assert fits(adversarial(graph, base, *diagonal, *rest))["Y"] == [("Y", "", "A B", "d0 d1 d2 d3")]
    # a table of both columns at their own values covers the product
    assert fits(adversarial(graph, base, DatasetSpec("d", do={"A": [0, 1], "B": [0, 1]})))["Y"][0][3] == "d"


def test_continuous_targets_need_twenty_values_over_the_range():
    graph, kinds = "Z -> Y", {"Z": "continuous"}
    base = DatasetSpec("base", columns=["Z"])

    def teaches(count, **options) -> bool:
        covers = options.pop("covers", False)
        doses = DatasetSpec("doses", do={"Z": [k / 10 for k in range(count)]}, covers=covers)
        try:
            adversarial(graph, base, doses, kinds=kinds, **options)
        except UntrainableError:
            return False
        return True

    assert teaches(20)
    assert not teaches(19)
    assert teaches(2, covers=True)
    assert teaches(30, levels={"Z": (0.0, 2.9)})
    assert not teaches(30, levels={"Z": (0.0, 3.0)})


def test_a_factor_that_only_a_part_of_the_data_shows_is_not_leaned_on():
    # D1 asks for less, but the mechanism of t, which it needs, is known only from the part of D1 without c
    partial = DatasetSpec("D1", columns=["x", "t", "y", "I"], do=["I"])
    p = adversarial(DETERMINED, DatasetSpec("D0"), partial)
    assert fits(p)["x y"] == [("x y", "I t", "", "D0")]
    # with c it is known as well as anything
    p = adversarial(DETERMINED, DatasetSpec("D0"), DatasetSpec("D1", do=["I"]))
    assert fits(p)["x y"] == [("x y", "t", "I", "D1")]
    # t <-> c: now no data show the mechanism of t alone
    p = adversarial(DETERMINED + "; t <-> c", DatasetSpec("D0"), partial)
    assert fits(p) == {"I c t": [("I c t", "", "x", "D0")], "x y": [("x y", "I t", "", "D0")]}
    assert p.unused == ("dataset D1",)


def test_columns_that_are_never_seen_together():
    data = [DatasetSpec("D1", columns=["a"]), DatasetSpec("D2", columns=["b"])]
    for objective in ("adversarial", "likelihood"):
        with pytest.raises(UntrainableError) as caught:
            plan("a <-> b", data, objective=objective)
        assert str(caught.value) == (
            "no dataset can teach {a, b}: D1 lacks the column b; D2 lacks the column a; "
            "a, b are never observed together"
        )
        assert caught.value.hnode == ("a", "b")


def test_summing_out_a_cause_is_not_allowed():
    # without v the rows show P(b | w), which is not P(b | do(w))
    graph = "v -> w -> b; v <-> b"
    p = plan(graph, [DatasetSpec("D0"), DatasetSpec("D1", columns=["w", "b"]), DatasetSpec("D2", columns=["v"])])
    assert fits(p) == {"b v": [("b v", "", "w", "D0"), ("v", "", "", "D2")], "w": [("w", "", "v", "D0")]}
    assert p.unused == ("dataset D1",)


def test_an_intervention_inside_an_hnode_is_named():
    with pytest.raises(UntrainableError) as caught:
        adversarial("X -> Y; X <-> Y", DatasetSpec("trial", do=["X"]))
    assert str(caught.value) == "no dataset can teach {X, Y}: trial sets X by do(), which is inside it"


# ---------------------------------------------------------------------- choices


def test_fewer_ancestors_win_unless_rows_are_few():
    def chosen(few, many):
        p = adversarial(FIGURE_2, DatasetSpec("d1", rows=many), DatasetSpec("d2", do=["Z1"], rows=few))
        return fits(p)["X1 X2"][0][3]

    assert chosen(1_000, 10_000) == "d2"
    assert chosen(999, 10_000) == "d1"
    assert chosen(None, 10_000) == "d2"


def test_equal_ancestors_are_pooled_in_the_order_given():
    data = [DatasetSpec("b", rows=5), DatasetSpec("a", columns=["D", "I", "A"], rows=7), DatasetSpec("c", do=["D"])]
    p = adversarial("D -> I -> A; D <-> A", *data)
    assert fits(p)["I"] == [("I", "", "D", "b a c")]
    assert fits(p)["A D"] == [("A D", "I", "", "b a"), ("A", "", "I", "c")]


# ---------------------------------------------------------------------- options


def test_pretrained_hnodes_need_no_data():
    graph = "D -> I -> A; D <-> A"
    data = DatasetSpec("table", columns=["D", "A", "I"])
    p = adversarial(graph, data, pretrained={"I": "black box"}, kinds={"I": "image"})
    assert fits(p) == {"I": [], "A D": [("A D", "I", "", "table")]}
    assert (p.edges, p.largest) == ((), 2)
    with pytest.raises(PlanError, match="D cannot be a black box: D <-> A is a hidden confounder"):
        adversarial(graph, data, pretrained={"D": "black box"})
    with pytest.raises(PlanError, match="pretrained of I is 'box'; it must be one of 'mechanism', 'black box'"):
        adversarial(graph, data, pretrained={"I": "box"})
    with pytest.raises(GraphError, match="pretrained: the graph has no node 'J'"):
        adversarial(graph, data, pretrained={"J": "mechanism"})
    # part of a c-component: the rest is trained beside it
    p = adversarial(graph, data, pretrained={"D": "mechanism"})
    assert fits(p)["A D"] == [("A D", "I", "", "table")]


def test_merging_by_hand_is_refused_where_it_makes_a_cycle():
    graph = "X -> Z1 -> Z2 -> Y; X <-> Y; X -> E; E -> Z2"
    assert len(adversarial(graph, DatasetSpec("d"))) == 4
    p = adversarial(graph, DatasetSpec("d"), together=[["Z1", "Z2"]])
    assert {h.variables for h in p.hnodes} == {("E",), ("Z1", "Z2"), ("X", "Y")}
    assert "merged by hand: {Z1} and {Z2}" in p.explain(0, "Z1")
    with pytest.raises(GraphError, match="together: the graph has no node 'nobody'"):
        adversarial(graph, DatasetSpec("d"), together=[["X", "nobody"]])
    # {x, y} needs m trained before; h-node {m, n} needs p; merging p with {x, y} closes the circle
    graph = "x -> m -> y; x <-> y; n -> p -> m; m <-> n"
    assert {h.variables for h in adversarial(graph, DatasetSpec("d")).hnodes} == {("m", "n"), ("p",), ("x", "y")}
    with pytest.raises(PlanError) as caught:
        adversarial(graph, DatasetSpec("d"), together=[["p", "x"]])
    assert str(caught.value) == (
        "together: merging by hand makes a cycle, because h-nodes would need each other trained first; all of "
        "{m, n, p, x, y} would have to be one h-node"
    )
    with pytest.raises(PlanError, match="together holds the text 'xy'"):
        adversarial(graph, DatasetSpec("d"), together=["xy"])


def test_requests_that_contradict_the_data():
    with pytest.raises(PlanError, match="two datasets are called 'd'"):
        adversarial("A -> B", DatasetSpec("d"), DatasetSpec("d"))
    with pytest.raises(PlanError, match=r"'d' has do\(Aa\), which is not a node of the graph; did you mean 'A'"):
        adversarial("A -> B", DatasetSpec("d", do=["Aa"]))
    with pytest.raises(PlanError, match=r"method 'paper' plans for observational data only, but dataset 'e' has do"):
        adversarial("A -> B", DatasetSpec("d"), DatasetSpec("e", do=["A"]), method="paper")
    with pytest.raises(GraphError, match="levels: the graph has no node 'Q'"):
        adversarial("A -> B", DatasetSpec("d"), levels={"Q": [0]})


# ---------------------------------------------------------------------- laws on random graphs with random data sets


def as_problem(graph, drawn):
    """Data sets (targets with their values, what is lacking, rows) as the planner and as the oracles take them."""
    specs, plain = [], []
    for j, (values, lacking, rows) in enumerate(drawn):
        columns = frozenset(graph.nodes) - set(lacking)
        specs.append(DatasetSpec(f"d{j}", columns=sorted(columns), do=values, rows=rows))
        ordered = tuple(sorted(values))
        product = frozenset(itertools.product(*(values[t] for t in ordered)))
        plain.append(oracles.Data(ordered, product, columns - set(values)))
    return graph, specs, plain


@st.composite
def problems(draw):
    """Small examples, and dense ones, in which ancestors, interventions and missing columns meet."""
    if draw(st.booleans()):
        return draw(simple_problems())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    nodes = tuple("abcde"[: int(rng.integers(4, 6))])
    slots = list(itertools.combinations(nodes, 2))
    directed = [slot for slot in slots if rng.random() < 0.55]
    bidirected = [slot for slot in slots if rng.random() < 0.2]
    shuffled = tuple(nodes[k] for k in rng.permutation(len(nodes)))
    drawn = []
    for j in range(int(rng.integers(2, 4))):
        targets = rng.permutation(nodes)[: int(rng.integers(1, 3)) if j else 0].tolist()
        values = {t: ((0, 1), (0, 1), (0,), (1,))[int(rng.integers(4))] for t in targets}
        lacking = [v for v in nodes if rng.random() < (0.2 if j else 0.05)]
        drawn.append((values, lacking, (None, 50, 1000)[int(rng.integers(3))]))
    return as_problem(RandomGraph(shuffled, tuple(directed), tuple(bidirected), ()), drawn)


@st.composite
def simple_problems(draw, max_nodes=5, max_datasets=3):
    graph = draw(admgs(min_nodes=2, max_nodes=max_nodes, max_latents=1, max_bidirected=4))
    drawn = []
    for j in range(draw(st.integers(1, max_datasets))):
        targets = draw(st.lists(st.sampled_from(graph.nodes), unique=True, max_size=0 if j == 0 else 2))
        values = {t: draw(st.sampled_from([(0,), (1,), (0, 1)])) for t in targets}
        lacking = draw(st.lists(st.sampled_from(graph.nodes), unique=True, max_size=2 if draw(st.booleans()) else 0))
        drawn.append((values, lacking, draw(st.sampled_from([None, 50, 1000]))))
    return as_problem(graph, drawn)


def planned(graph, specs, **options) -> Plan | UntrainableError:
    levels = dict.fromkeys(graph.nodes, (0, 1))
    try:
        return plan(graph.admg(), specs, **{"objective": "adversarial", "levels": levels, **options})
    except UntrainableError as error:
        return error


@given(problems())
@settings(max_examples=400)
def test_nothing_that_can_be_taught_is_refused_and_nothing_else_is_planned(problem):
    graph, specs, plain = problem
    mixed = graph.mixed()
    p = planned(graph, specs)
    if isinstance(p, UntrainableError):
        assert set(p.missing) == {spec.name for spec in specs}
        assert not oracles.brute_force_servers(mixed, set(p.hnode), plain, 2)
        return
    data = {spec.name: one for spec, one in zip(specs, plain, strict=True)}
    hnode_of = {v: h for h in p.hnodes for v in h.variables}
    shown = [
        (frozenset(fit.variables), data[name].pooled(plain), everywhere(mixed, fit, data, plain))
        for h in p.hnodes
        for fit in h.fits
        for name in fit.datasets
    ]
    for h in p.hnodes:
        wholes = [fit for fit in h.fits if fit.variables == h.variables]
        assert len(wholes) == 1
        assert everywhere(mixed, wholes[0], data, plain)
        assert len({(fit.variables, fit.ancestors) for fit in h.fits}) == len(h.fits)
        for fit in h.fits:
            inside = {*fit.variables, *fit.ancestors}
            assert set(fit.parents) == mixed.parents(inside) - inside
            assert all(hnode_of[v].level < h.level for v in fit.ancestors)
            assert set(fit.do) == {t for name in fit.datasets for t in data[name].targets}
            for name in fit.datasets:
                one = data[name]
                assert not inside & set(one.targets)
                assert inside <= one.columns
                assert set(fit.parents) <= one.known()
                assert oracles.satisfies_rule2(mixed.without_into(one.targets), inside, set(one.targets))
                assert oracles.determined(mixed, set(fit.ancestors), one.pooled(plain), shown)


def everywhere(mixed, fit, data, plain) -> bool:
    """Whether a data set of a fit sets every value of the targets among the fit's parents."""
    return any(data[name].pooled(plain).sets_all(set(fit.parents), 2) for name in fit.datasets)


@given(problems())
@settings(max_examples=100)
def test_what_is_fitted_is_the_c_factor_it_stands_for(problem):
    graph, specs, plain = problem
    p = planned(graph, specs)
    if isinstance(p, UntrainableError):
        return
    data = {spec.name: one for spec, one in zip(specs, plain, strict=True)}
    model = oracles.Enumeration.random(graph.nodes, graph.directed, graph.confounders(), levels=2, states=2, seed=0)
    for h in p.hnodes:
        for fit in h.fits:
            inside = {*fit.variables, *fit.ancestors}
            for name in fit.datasets:
                targets = set(data[name].targets)
                seen = model.conditional(inside, set(fit.parents) - targets, targets)
                assert np.abs(seen - model.factor(inside)).max() < 1e-9


@given(problems())
@settings(max_examples=150)
def test_likelihood_terms_are_what_the_rows_show(problem):
    graph, specs, plain = problem
    mixed = graph.mixed()
    components = oracles.c_components(mixed)
    p = planned(graph, specs, objective="likelihood")
    if isinstance(p, UntrainableError):
        part = set(p.hnode)
        parents = mixed.parents(part) - part
        for one in plain:
            pooled = one.pooled(plain)
            serves = part <= one.columns and parents <= one.known() and not part & set(one.targets)
            assert not (serves and pooled.sets_all(parents, 2))
        return
    assert {frozenset(h.variables) for h in p.hnodes} == components
    assert p.edges == ()
    model = oracles.Enumeration.random(graph.nodes, graph.directed, graph.confounders(), levels=2, states=2, seed=1)
    data = {spec.name: one for spec, one in zip(specs, plain, strict=True)}
    for h in p.hnodes:
        assert sum(fit.variables == h.variables for fit in h.fits) == 1
        for fit in h.fits:
            assert fit.ancestors == ()
            kept = set(fit.variables)
            assert set(fit.parents) == mixed.parents(kept) - kept
            for name in fit.datasets:
                one = data[name]
                assert kept <= one.columns
                assert set(fit.parents) <= one.known()
                rest = set(h.variables) - set(one.targets)
                summed = model._sum(model.factor(rest), rest - kept)
                assert np.abs(summed - model.factor(kept)).max() < 1e-9
        for name, one in data.items():
            # nothing that a data set shows of the c-component is left out
            cut = mixed.without_into(one.targets)
            free = set(h.variables) - set(one.targets)
            lost = {v for v in free if v not in one.columns or not mixed.parents([v]) <= one.known()}
            kept = free - cut.descendants(lost)
            used = [set(fit.variables) for fit in h.fits if name in fit.datasets]
            assert used == ([kept] if kept else [])


@given(st.data())
@settings(max_examples=100)
def test_the_order_found_without_interventions_is_valid_under_all(data):
    graph = data.draw(admgs(min_nodes=2, max_nodes=9, max_bidirected=6))
    admg = graph.admg()
    p = plan(admg, objective="adversarial")
    level = {v: h.level for h in p.hnodes for v in h.variables}
    for _ in range(4):
        do = set(data.draw(st.lists(st.sampled_from(graph.nodes), unique=True, max_size=4)))
        for h in p.hnodes:
            (fit,) = h.fits
            extra = admg.modularity_set(set(h.variables) - do, do)
            assert extra - set(h.variables) <= set(fit.ancestors)
            assert all(level[v] < h.level or v in h.variables for v in extra)


@given(admgs(min_nodes=2, max_nodes=8, max_bidirected=6))
@settings(max_examples=150)
def test_the_paper_method_draws_its_edges_and_keeps_a_safe_order(graph):
    admg, mixed = graph.admg(), graph.mixed()
    p = plan(admg, objective="adversarial", method="paper")
    edges = {(p.hnodes[s].variables, p.hnodes[t].variables) for s, t in p.edges}
    for t in p.hnodes:
        (fit,) = t.fits
        inside = {*fit.variables, *fit.ancestors}
        assert all(v in s.variables and s.level < t.level for v in fit.ancestors for s in p.hnodes if v in s.variables)
        if len(graph.nodes) <= 6:
            assert oracles.satisfies_rule2(mixed, inside, set())
        assert admg.modularity_set(t.variables) <= set(fit.ancestors)
        for s in p.hnodes:
            shared = mixed.parents(t.variables) & set(s.variables)
            if s == t or not shared:
                continue
            if not admg.rule2(t.variables, shared):
                assert (s.variables, t.variables) in edges
    finest = {frozenset(h.variables) for h in plan(admg, objective="adversarial").hnodes}
    for h in p.hnodes:
        assert set(h.variables) == set().union(*(part for part in finest if part & set(h.variables)))
    assert Plan.from_json(p.to_json()) == p
    for i, h in enumerate(p.hnodes):
        for v in graph.nodes:
            assert v in p.explain(i, v) or v in h.variables


@given(problems())
@settings(max_examples=100)
def test_plans_for_data_survive_json_and_explain_everything(problem):
    graph, specs, _ = problem
    for options in ({}, {"method": "joint"}, {"objective": "auto"}):
        p = planned(graph, specs, **options)
        if isinstance(p, UntrainableError):
            continue
        assert Plan.from_json(p.to_json()) == p
        assert p.to_svg() == Plan.from_json(p.to_json()).to_svg()
        for i, h in enumerate(p.hnodes):
            for v in graph.nodes:
                text = p.explain(i, v)
                assert v in text
                if any(v in fit.ancestors for fit in h.fits):
                    assert "trained before" in text


def test_plan_of_datasets_does_not_depend_on_the_order_of_nodes():
    graph = ADMG.from_string(FIGURE_2)
    twin = ADMG(graph.nodes[::-1], graph.directed, graph.bidirected)
    data = [DatasetSpec("d1"), DatasetSpec("d2", do=["Z1"])]
    assert fits(adversarial(graph, *data)) == fits(adversarial(twin, *data))
