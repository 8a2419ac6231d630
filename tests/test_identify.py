"""Identification: decisions against a recursion of its own, estimands against exact answers, hedges, and messages."""

import itertools
import json
from xml.etree import ElementTree

import numpy as np
import oracles
import pandas as pd
import pytest
from counterexamples import Available, two_models
from hypothesis import given, settings
from hypothesis import strategies as st
from identification_sweep import Case, error_of, sweep
from strategies import admgs

from mdcm.data import Dataset
from mdcm.errors import DataError, PlanError, QueryError
from mdcm.graph import ADMG
from mdcm.identification import Hedge, UnknownFactor, identify
from mdcm.planning import DatasetSpec
from mdcm.scm import random_discrete

BACK_DOOR = "Z -> X -> Y; Z -> Y"
OBSERVED = (DatasetSpec("d0"),)
SURROGATE = "Z -> X -> Y; Z <-> X; Z <-> Y"
NAPKIN = "W1 -> W2 -> X -> Y; W1 <-> X; W1 <-> Y"


def exact_gap(graph: ADMG, query: str, do, given_, seed=0) -> float:
    """Largest difference between the estimand on the exact P(V) and the exact answer."""
    scm = random_discrete(graph, levels=2, seed=seed)
    found = identify(graph, query).estimand.evaluate(scm.exact(list(graph.nodes)))
    outcomes = [name for name in found.index.names if name not in do and name not in given_]
    gap = 0.0
    for values in itertools.product(range(2), repeat=len(do) + len(given_)):
        setting = dict(zip((*do, *given_), values, strict=True))
        truth = scm.exact(outcomes, do={n: setting[n] for n in do}, given={n: setting[n] for n in given_})
        ours = found
        for name, value in setting.items():
            ours = ours.xs(value, level=name)
        gap = max(gap, float(np.abs(ours.to_numpy() - truth.to_numpy()).max()))
    return gap


@st.composite
def questions(draw, max_nodes=6):
    graph = draw(admgs(min_nodes=2, max_nodes=max_nodes, max_latents=1, max_bidirected=5))
    roles = draw(st.permutations(graph.nodes))
    outcomes = draw(st.integers(1, min(2, len(roles) - 1)))
    do = draw(st.integers(1, min(2, len(roles) - outcomes)))
    conditions = draw(st.integers(0, min(2, len(roles) - outcomes - do)))
    cut = (outcomes, outcomes + do, outcomes + do + conditions)
    return graph, roles[: cut[0]], roles[cut[0] : cut[1]], roles[cut[1] : cut[2]]


def text(y, x, z=()) -> str:
    quoted = [[f"'{name}'" for name in part] for part in (y, x, z)]
    return f"P({', '.join(quoted[0])} | do({', '.join(quoted[1])}){''.join(f', {name}' for name in quoted[2])})"


def decided(mixed: oracles.Mixed, y: set[str], x: set[str]) -> bool:
    """The decision by Tian's recursion as the oracles have it."""
    above = mixed.ancestors(y)
    inside = oracles.Mixed(
        tuple(sorted(above)),
        frozenset(e for e in mixed.directed if set(e) <= above),
        frozenset(p for p in mixed.pairs if p <= above),
    )
    free = inside.nodes and set(inside.nodes) - x
    cut = oracles.Mixed(tuple(sorted(free)), frozenset(e for e in inside.directed if set(e) <= free), frozenset())
    relevant = cut.ancestors(y)
    wholes = oracles.c_components(inside)
    return all(
        oracles.identifiable(inside, factor, next(whole for whole in wholes if factor <= whole))
        for factor in oracles.parts_within(inside, relevant)
    )


@given(questions())
@settings(max_examples=300)
def test_decisions_agree_with_the_recursion_and_estimands_with_the_truth(question):
    graph, y, x, z = question
    admg, mixed = graph.admg(), graph.mixed()
    found = identify(admg, text(y, x, z))
    if not z:
        assert found.identifiable == decided(mixed, set(y), set(x))
    if found.identifiable:
        assert found.witness is None
        assert found.experiments == ()
        assert exact_gap(admg, text(y, x, z), x, z) < 1e-10
        assert str(found).startswith("P(")
        assert found.estimand.latex()
    else:
        assert found.estimand is None
        check_hedge(mixed, found.witness)
        if not z:
            # setting the causes themselves shows the answer as it stands
            assert identify(admg, text(y, x, z), experiments=[x]).identifiable


def test_random_questions_of_all_kinds(capsys):
    counts = sweep(1_000, seed=20)
    with capsys.disabled():
        print(f"\n{counts}")
    assert not counts.wrong
    assert sum(counts.identifiable.values()) > 600
    assert sum(counts.tried.values()) > 80
    # the search for two models may miss a pair
    assert len(counts.unresolved) <= 0.01 * sum(counts.tried.values())


def check_hedge(mixed: oracles.Mixed, hedge: Hedge) -> None:
    inner, outer = set(hedge.inner), set(hedge.outer)
    assert inner < outer
    for part in (inner, outer):
        assert oracles.parts_within(mixed, part) == {frozenset(part)}
        within = oracles.Mixed(tuple(sorted(part)), frozenset(e for e in mixed.directed if set(e) <= part), frozenset())
        assert within.ancestors(inner) == part


def test_front_door_napkin_and_bow():
    front = identify("D -> I -> A; D <-> A", "P(A | do(D))")
    assert str(front) == "P(A | do(D)) = sum_{I} P(I | D) sum_{D'} P(D') P(A | D', I)"
    assert front.estimand.latex() == r"\sum_{I} P(I \mid D)\, \sum_{D'} P(D')\, P(A \mid D', I)"
    for graph, query in (("D -> I -> A; D <-> A", "P(A | do(D))"), (NAPKIN, "P(Y | do(X))")):
        do = [query[-3]]
        assert exact_gap(ADMG.from_string(graph), query, do, []) < 1e-12
    # the answer to the napkin is a ratio that does not depend on W2, and is not P(Y | X)
    napkin = identify(NAPKIN, "P(Y | do(X))")
    assert "/" in str(napkin)
    bow = identify("X -> Y; X <-> Y", "P(Y | do(X))")
    assert not bow.identifiable
    assert bow.witness == Hedge(("Y",), ("X", "Y"))
    assert str(bow) == "not identifiable from P(V): F' = {Y} inside F = {X, Y}"


@pytest.mark.parametrize(
    ("graph", "identifiable"),
    [
        # Shpitser & Pearl (2006), Figure 1: not identifiable a to f, identifiable g and h
        ("X -> Y; X <-> Y", False),
        ("X -> Z -> Y; X <-> Z", False),
        ("X -> Z -> Y; Z <-> Y; X <-> Z", False),
        ("Z -> X -> Y; Z <-> X; Z <-> Y; X <-> Y", False),
        ("X -> Y; X -> Z -> Y; X <-> Z", False),
        ("X -> Y; Z <-> X; Z -> Y", True),
        ("X -> Z -> Y; X <-> Y", True),
    ],
)
def test_known_graphs(graph, identifiable):
    found = identify(graph, "P(Y | do(X))")
    assert found.identifiable == identifiable
    if identifiable:
        assert exact_gap(ADMG.from_string(graph), "P(Y | do(X))", ["X"], []) < 1e-12


def test_frequencies_of_data_are_plugged_in():
    scm = random_discrete(ADMG.from_string(BACK_DOOR), levels=2, seed=4)
    data = scm.sample(2_000, seed=0)
    found = identify(BACK_DOOR, "P(Y | do(X=1))").estimand.evaluate(data)
    p_z = data["Z"].value_counts(normalize=True)
    by_hand = sum(p_z[z] * (data["Y"][(data["X"] == 1) & (data["Z"] == z)] == 1).mean() for z in (0, 1))
    assert found[1, 1] == pytest.approx(by_hand, abs=1e-12)
    assert found.index.names == ["X", "Y"]
    weighted = identify(BACK_DOOR, "P(Y | do(X=1))").estimand
    twice = weighted.evaluate(data.iloc[:100], weights=[2.0] * 50 + [1.0] * 50)
    repeated = weighted.evaluate(data.iloc[[*range(50), *range(100)]])
    assert np.allclose(twice, repeated)


def test_a_chain_keeps_its_estimand_small():
    n = 300
    graph = ADMG([f"v{i}" for i in range(n)], [(f"v{i}", f"v{i + 1}") for i in range(n - 1)])
    found = identify(graph, f"P(v{n - 1} | do(v0))")
    assert len(str(found)) < 40 * n
    data = random_discrete(graph, levels=2, seed=0).sample(500, seed=1)
    assert found.estimand.evaluate(data).groupby("v0").sum().to_numpy() == pytest.approx([1, 1])


def test_long_chains_need_no_stack():
    n = 100_000
    steps = np.arange(n - 1, dtype=np.int32)
    graph = ADMG.from_edge_index(n, np.stack([steps, steps + 1]))
    assert identify(graph, f"P('{n - 1}' | do('0'))").identifiable


def error_on(graph: str | ADMG, query: str, specs=OBSERVED, levels=2, seed=0) -> float:
    """How far the estimand on exact data is from the exact answer."""
    admg = ADMG.from_string(graph) if isinstance(graph, str) else graph
    case = Case("named", admg, query, tuple(specs), levels)
    return error_of(case, case.identify(), seed)


MNIST = """
    X1 -> X2; X1 -> W; X2 -> W; W -> Y1; W -> Y2; W -> Thick; W -> Color; X1 <-> X2; X2 <-> Color
    Y1 -> Image1; Color -> Image1; Thick -> Image1; Y2 -> Image2; Color -> Image2; Thick -> Image2
"""
SACHS = "PKA -> Mek; PKA -> Erk; PKA -> Akt; Mek -> Erk; Erk -> Akt; PKA <-> Mek"
SYNTHETIC = """
    X0 -> W0; X0 -> W1; X1 -> W1; X2 -> W1; W0 -> Y0; W1 -> Y0; W1 -> Y1; X0 <-> Y0; X1 <-> X2; X2 <-> Y1
"""
ASIA = "asia -> tub -> either -> xray; lung -> either -> dysp; lung <-> dysp"


@pytest.mark.parametrize(
    ("graph", "query", "identifiable"),
    [
        # Shpitser & Pearl (2007), What counterfactuals can be tested: Figures 3 and 9
        ("X -> W -> Y; D -> Z -> Y; X <-> Y", "P(Y[X=1]=1 | X=0, Z[D=1]=1, D=1)", True),
        ("X -> W -> Y; D -> Z -> Y; X <-> Y", "P(Y[X=1]=1 | X=0, Z[D=0]=1, D=1)", False),
        ("X -> Y", "P(Y[X=1]=1, Y[X=0]=0)", False),
        ("X -> Y", "P(Y[X=1]=1 | X=0)", True),
        ("X -> Y; X <-> Y", "P(Y[X=1]=1 | X=0)", False),
        ("X -> Y; X <-> Y", "P(Y[X=0]=1 | X=0)", True),
        # treatment of the treated through a front door, and not in the napkin
        ("X -> M -> Y; X <-> Y", "P(Y[X=1]=1 | X=0)", True),
        (NAPKIN, "P(Y[X=1]=1 | X=0)", False),
        # Correa, Lee & Bareinboim (2021): effects through a mediator, with and without confounding of it
        ("X -> M -> Y; X -> Y", "P(Y[X=1, M[X=0]]=1)", True),
        ("X -> M -> Y; X -> Y; Z -> X; Z -> Y; Z -> M", "P(Y[X=1, M[X=0]]=1 | Z=0)", True),
        ("X -> M -> Y; X -> Y; M <-> Y", "P(Y[X=1, M[X=0]]=1)", False),
        ("X -> M -> Y; X -> Y; X <-> M", "P(Y[X=1, M[X=0]]=1)", False),
        ("X -> M -> Y; X -> Y; X <-> Y", "P(Y[X=1, M[X=0]]=1)", False),
        # what the event is about is given, or is what it is set to
        ("X -> Y; X <-> Y", "P(X[Y=1]=0 | X=0, Y[X=1]=0)", True),
        ("X -> Y; X <-> Y", "P(Y=1 | do(X=1), X=1)", False),
    ],
)
def test_counterfactuals_of_the_literature(graph, query, identifiable):
    found = identify(graph, query)
    assert found.identifiable == identifiable
    if identifiable:
        assert error_on(graph, query) < 1e-12
    else:
        admg = ADMG.from_string(graph)
        assert any(two_models(admg, query, [Available()], levels=levels) for levels in (2, 3))


@pytest.mark.parametrize(
    ("graph", "query", "experiments", "identifiable"),
    [
        # Bareinboim & Pearl (2012): experiments on a surrogate instead of the cause
        ("X -> Y; Z -> X; Z <-> X; Z <-> Y", "P(Y | do(X))", [["Z"]], True),
        ("X -> Y; Z -> X; X <-> Y; Z <-> X", "P(Y | do(X))", [["Z"]], False),
        ("Z -> X -> Y; Z <-> X; X <-> Y; Z <-> Y", "P(Y | do(X))", [["Z"]], False),
        ("X -> Z -> Y; X <-> Z; X <-> Y", "P(Y | do(X))", [["Z"]], False),
        ("X -> Z -> Y; X <-> Y; Z <-> Y", "P(Y | do(X))", [["Z"]], False),
        ("X -> Z -> Y; T -> Y; T <-> Y", "P(Y | do(X, T))", [["T"]], True),
        # two experiments, each of which shows one part (Lee, Correa & Bareinboim 2019)
        ("X1 -> Y; X2 -> Y; X1 <-> Y; X2 <-> Y", "P(Y | do(X1, X2))", [["X1"], ["X2"]], False),
        ("X1 -> Y1; X2 -> Y2; X1 <-> Y1; X2 <-> Y2; Y1 -> Y2", "P(Y2 | do(X1, X2))", [["X1"], ["X2"]], True),
    ],
)
def test_experiments_of_the_literature(graph, query, experiments, identifiable):
    found = identify(graph, query, experiments=experiments)
    assert found.identifiable == identifiable
    admg = ADMG.from_string(graph)
    available = [Available(), *(Available(dict.fromkeys(targets)) for targets in experiments)]
    assert (two_models(admg, query, available) is None) == identifiable
    if identifiable:
        specs = [DatasetSpec("d0"), *(DatasetSpec(f"e{k}", None, do) for k, do in enumerate(experiments))]
        assert error_on(graph, query, specs) < 1e-12


class TestGraphsOfThePaper:
    def test_the_counterfactual_of_the_digits(self):
        # Eq. 57
        query = "P(Y1, Y2, Color, Thick | X1=0, X2=1)".replace(" | ", "[X1=1, X2=0] | ").replace(
            "P(Y1, Y2, Color, Thick[", "P(Y1[X1=1, X2=0], Y2[X1=1, X2=0], Color[X1=1, X2=0], Thick["
        )
        graph = ADMG.from_string(MNIST).latent_projection(["X1", "X2", "W", "Y1", "Y2", "Thick", "Color"])
        found = identify(graph, query)
        assert found.identifiable
        assert error_on(graph, query) < 1e-12
        by_hand = ["P(W | X1=1, X2=0)", "P(Y1 | W)", "P(Y2 | W)", "P(Thick | W)", "W, X1=0, X2=1"]
        assert all(part in str(found) for part in by_hand)

    def test_asia_with_smoke_and_bronc_hidden(self):
        for query in ("P(dysp | do(lung))", "P(dysp | do(either))"):
            assert identify(ASIA, query).identifiable
            assert error_on(ASIA, query) < 1e-12

    def test_sachs_answers_at_the_value_that_was_set(self):
        four = ["PKA", "Mek", "Erk", "Akt"]
        specs = [DatasetSpec("D1", four), DatasetSpec("D2", ["Mek"], {"PKA": [2]})]
        for name in ("Mek", "Erk", "Akt"):
            query = f"P({name} | do(PKA=2))"
            assert not identify(SACHS, query).identifiable
            found = identify(SACHS, query, datasets=specs)
            assert found.identifiable
            assert "P_{D2}(Mek | do(PKA=2))" in str(found)
            assert error_on(SACHS, query, specs, levels=3) < 1e-12
        for query in ("P(Akt | do(PKA=0))", "P(Akt | do(PKA))"):
            refused = identify(SACHS, query, datasets=specs)
            assert not refused.identifiable
            assert "D2 does not set all values of PKA that are needed" in refused.explain()
        available = [Available({}, tuple(four)), Available({"PKA": (2,)}, ("Mek",))]
        assert two_models(ADMG.from_string(SACHS), "P(Akt | do(PKA=0))", available, levels=3)

    def test_two_data_sets_with_missing_columns(self):
        everything = ADMG.from_string(SYNTHETIC).nodes
        specs = [
            DatasetSpec("D1", [v for v in everything if v not in {"W0", "Y0"}]),
            DatasetSpec("D2", [v for v in everything if v != "Y1"]),
        ]
        for query in ("P(Y0, Y1 | do(X0))", "P(Y1 | do(X1, X2))", "P(W0, Y1 | do(X0), X1)"):
            found = identify(SYNTHETIC, query, datasets=specs)
            assert found.identifiable
            assert error_on(SYNTHETIC, query, specs) < 1e-12
        text = str(identify(SYNTHETIC, "P(W0, Y1 | do(X0), X1)", datasets=specs))
        assert "P_{D1}" in text
        assert "P_{D2}(W0 | X0)" in text


class TestPartialData:
    def test_what_is_never_seen_is_left_out_where_it_does_not_matter(self):
        found = identify("X -> W -> Y", "P(Y | do(X))", datasets=[DatasetSpec("d", ["X", "Y"])])
        assert str(found) == "P(Y | do(X)) = P(Y | X)"

    def test_what_is_not_shown_is_undecided(self):
        specs = [DatasetSpec("d", ["X", "W"]), DatasetSpec("e", ["Y"])]
        found = identify("X -> W -> Y", "P(Y | do(X))", datasets=specs)
        assert found.identifiable is None
        assert found.witness == UnknownFactor(("Y",), ("W",))
        assert str(found).startswith("not shown to be identifiable from d, e: P(Y | do(W))")
        assert "d does not observe Y" in found.explain()

    def test_a_data_set_may_have_nothing_to_do_with_a_projection(self):
        specs = [
            DatasetSpec("a", ["V0"]),
            DatasetSpec("b", ["V2"], ["V1"]),
            DatasetSpec("c", ["V2"], {"V0": [1], "V1": [0, 1]}),
        ]
        found = identify("V0 -> V2 -> V1; V0 <-> V2; V0 <-> V1", "P(V1=1 | do(V2=0))", datasets=specs)
        assert found.identifiable is None

    def test_values_of_several_data_sets_together_cover_a_sum(self):
        graph, query = "X -> Z -> Y; T -> Y; T <-> Y", "P(Y | do(X, T))"
        specs = [
            DatasetSpec("a"),
            DatasetSpec("b", None, {"Z": [0], "T": None}),
            DatasetSpec("c", ["Y"], {"Z": [1], "T": None}),
        ]
        assert not identify(graph, query, datasets=specs[:2]).identifiable
        found = identify(graph, query, datasets=specs)
        assert found.identifiable
        assert error_on(graph, query, specs) < 1e-12
        assert "where b sets it" in str(found)


def test_sums_expectations_and_differences():
    scm = random_discrete(ADMG.from_string(BACK_DOOR), levels=3, seed=2)
    exact = scm.exact(["Z", "X", "Y"])
    for query in ("E[Y | do(X=1)] - E[Y | do(X=0)]", "E[Y | do(X=2)]", "P(Y=1 | do(X=1)) - P(Y=1 | X=1)", "-E[Y]"):
        found = identify(BACK_DOOR, query)
        value = found.estimand.evaluate(exact)
        value = value if isinstance(value, float) else float(value.iloc[0])
        assert value == pytest.approx(float(scm.answer(query)), abs=1e-12)
    by_level = identify(BACK_DOOR, "E[Y | do(X)]").estimand.evaluate(exact)
    assert by_level.to_numpy() == pytest.approx(scm.answer("E[Y | do(X)]").to_numpy())
    text = str(identify(BACK_DOOR, "E[Y | do(X=1)] - E[Y | do(X=0)]"))
    assert text.endswith("= [sum_{Y} Y sum_{Z} P(Z) P(Y | Z, X=1)] - [sum_{Y} Y sum_{Z} P(Z) P(Y | Z, X=0)]")
    assert not identify("X -> Y; X <-> Y", "E[Y | do(X=1)] - E[Y | do(X=0)]").identifiable


def test_helpful_experiments_are_the_smallest():
    # the confounded mediator can be set instead of the cause
    found = identify("X -> Z -> Y; X <-> Y; Z <-> Y; X <-> Z", "P(Y | do(X))")
    assert found.experiments == (("X",),)
    surrogate = identify(SURROGATE, "P(Y | do(X))")
    assert ("Z",) in surrogate.experiments
    pair = identify("A -> Y; B -> Y; A <-> Y; B <-> Y", "P(Y | do(A, B))")
    assert pair.experiments == (("A", "B"),)
    assert "an experiment that sets A and B to all values" in pair.explain()
    assert identify("X -> Y; X <-> Y", "P(Y[X=1]=1 | X=0)").experiments == ()


@given(questions(max_nodes=5))
@settings(max_examples=100)
def test_helpful_experiments_help_and_nothing_smaller_does(question):
    graph, y, x, z = question
    admg = graph.admg()
    found = identify(admg, text(y, x, z))
    for targets in found.experiments:
        assert identify(admg, text(y, x, z), experiments=[targets]).identifiable
    if found.identifiable is False:
        singles = [(v,) for v in admg.nodes if identify(admg, text(y, x, z), experiments=[[v]]).identifiable]
        if singles:
            assert set(found.experiments) == set(singles)


def test_an_estimand_beyond_reading_is_said_to_be_one():
    n = 6_000
    steps, pairs = np.arange(n - 1, dtype=np.int32), np.arange(n - 2, dtype=np.int32)
    graph = ADMG.from_edge_index(n, np.stack([steps, steps + 1]), np.stack([pairs, pairs + 2]))
    found = identify(graph, f"P('{n - 1}' | do('0'))")
    assert found.identifiable
    assert str(found).endswith(
        "is identifiable; the estimand mentions more than four million variables, too many to construct it"
    )
    assert found.to_json()["estimand"]["text"] is None
    with pytest.raises(QueryError, match="more than four million"):
        found.estimand.evaluate(pd.DataFrame({"0": [0]}))


def test_values_that_differ_are_told_apart():
    found = identify("X -> Z -> Y; X <-> Y", "P(Y[X=1]=1 | X=0, Y=0)")
    assert str(found.witness) == "P(X=0, Y[Z]=1, Y[Z']=0)"


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("P(Q | do(X))", "there is no variable 'Q'"),
        ("P(Y | do(X)", "never closed"),
        ("P(Y[X=1] | X=0, X[Y=1]=1)", "the conditions contradict each other"),
    ],
)
def test_other_questions_are_refused(query, message):
    with pytest.raises(QueryError, match=message) as caught:
        identify("X -> Y", query)
    assert "^" in str(caught.value)


def test_experiments_that_are_none():
    for experiments, message in (("X", "is the text 'X'"), (["X"], "lists of names"), ([["Q"]], "'Q'")):
        with pytest.raises(PlanError, match=message):
            identify("X -> Y", "P(Y | do(X))", experiments=experiments)


def test_pictures_mark_the_two_forests():
    svg = identify("X -> Z -> Y; X <-> Z; Z <-> Y", "P(Y | do(X))").to_svg()
    root = ElementTree.fromstring(svg)
    text = " ".join(root.itertext())
    assert "F' = {Y, Z}, the c-forest inside" in text
    assert "X ↔ Z" in text
    for witness in ("P(Y[X=1]=1 | X=0)", "P(Z | do(Y))"):
        ElementTree.fromstring(identify('X -> Y; X <-> Y; "a<b" -> Z', witness).to_svg())


def test_json_holds_the_terms():
    content = json.loads(json.dumps(identify(BACK_DOOR, "P(Y=1 | do(X=0))").to_json()))
    formula = content["estimand"]["formulas"][0]
    assert {"variable": "Y", "value": 1} in formula["symbols"]
    for number, term in enumerate(formula["terms"]):
        assert all(operand < number for operand in term.get("operands", []))
    refused = identify("X -> Y; X <-> Y", "P(Y | do(X))").to_json()
    assert (refused["witness"]["inner"], refused["experiments"]) == (("Y",), [["X"]])


class TestEvaluation:
    def test_tables_of_several_sources(self):
        graph, query = "X -> Z -> Y; T -> Y; T <-> Y", "P(Y | do(X, T))"
        scm = random_discrete(ADMG.from_string(graph), levels=2, seed=3)
        estimand = identify(graph, query, experiments=[["T"]]).estimand
        seen, tried = scm.exact(["X", "T", "Z", "Y"]), scm.exact(["X", "Z", "Y"], do=["T"])
        truth = scm.answer(query).to_numpy()
        assert estimand.evaluate({frozenset(): seen, frozenset({"T"}): tried}).to_numpy() == pytest.approx(truth)
        rows = [scm.sample(4000, seed=1), scm.sample(4000, do={"T": 0}, seed=2), scm.sample(4000, do={"T": 1}, seed=3)]
        data = [Dataset(rows[0]), Dataset(pd.concat(rows[1:]), do=["T"])]
        # a share of at least a tenth of 4,000 rows has a standard error of at most 0.025; four times that
        assert np.abs(estimand.evaluate(data).to_numpy() - truth).max() < 0.1
        with pytest.raises(DataError, match="a single table was given"):
            estimand.evaluate(rows[0])
        with pytest.raises(DataError, match="needs data of do"):
            estimand.evaluate({frozenset(): seen})

    def test_weights_of_data_sets_count(self):
        rows = random_discrete(ADMG.from_string(BACK_DOOR), levels=2, seed=4).sample(300, seed=0)
        weight = np.arange(1, 301) % 3 + 1.0
        estimand = identify(BACK_DOOR, "P(Y | do(X))").estimand
        expected = estimand.evaluate(rows, weights=weight)
        assert not np.allclose(expected, estimand.evaluate(rows))
        assert np.allclose(expected, estimand.evaluate([Dataset(rows, weights=weight)]))
        assert np.allclose(expected, estimand.evaluate({frozenset(): rows}, weights={frozenset(): weight}))
        with pytest.raises(DataError, match="weights of several tables"):
            estimand.evaluate({frozenset(): rows}, weights=weight)

    def test_standard_errors_are_those_of_repeated_sampling(self):
        scm = random_discrete(ADMG.from_string(BACK_DOOR), levels=2, seed=4)
        estimand = identify(BACK_DOOR, "P(Y | do(X=1))").estimand
        drawn = np.array([estimand.evaluate(scm.sample(500, seed=seed)).to_numpy() for seed in range(200)])
        estimate, error = estimand.evaluate_with_error(scm.sample(500, seed=1000), replicates=200)
        assert estimate.index.equals(error.index)
        # two standard deviations from 200 draws, each with a relative standard error of 1/sqrt(400) = 5 %; and
        # 20 % because the second one is estimated at one data set
        assert error.to_numpy() == pytest.approx(drawn.std(axis=0, ddof=1), rel=0.35)

    def test_a_value_that_contradicts_another_has_probability_zero(self):
        found = identify("X -> Y", "P(Y=0 | do(X=1), X=1)")
        assert found.identifiable
        zero = identify("X -> Y; W", "P(Y[X=1]=0, Y[X=1, W=0]=1)")
        assert (str(zero.estimand), float(zero.estimand.evaluate(_two()).iloc[0])) == ("0", 0.0)
        same = identify("X -> Y; W", "P(Y[X=1], Y[X=1, W=0])").estimand
        assert same.evaluate(_two()).to_numpy().reshape(2, 2)[0, 1] == 0.0


def _two() -> pd.DataFrame:
    return random_discrete(ADMG.from_string("X -> Y; W"), levels=2, seed=0).sample(100)


def test_data_that_do_not_fit():
    estimand = identify("X -> Y", "P(Y | do(X=2))").estimand
    table = random_discrete(ADMG.from_string("X -> Y"), levels=2, seed=0).sample(50)
    with pytest.raises(DataError, match="X=2 does not occur; its levels are 0, 1"):
        estimand.evaluate(table)
    with pytest.raises(DataError, match="the data have no column 'Y'"):
        estimand.evaluate(table[["X"]])
    only = identify(BACK_DOOR, "P(Y | do(X))").estimand
    rows = random_discrete(ADMG.from_string(BACK_DOOR), levels=2, seed=0).sample(200)
    with pytest.warns(UserWarning, match=r"no row has Z=1, X=1, on which [\d.]+ % of the weight rests"):
        only.evaluate(rows[(rows["Z"] == 0) | (rows["X"] == 0)])
