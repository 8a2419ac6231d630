"""Identification: decisions against a recursion of its own, estimands against exact answers, hedges, and messages."""

import itertools

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import admgs

from mdcm.errors import DataError, QueryError
from mdcm.graph import ADMG
from mdcm.identify import Hedge, identify
from mdcm.scm import random_discrete

BACK_DOOR = "Z -> X -> Y; Z -> Y"
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
        assert exact_gap(admg, text(y, x, z), x, z) < 1e-10
        assert str(found).startswith("P(")
        assert found.estimand.latex()
    else:
        assert found.estimand is None
        check_hedge(mixed, found.witness)


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


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("P(Q | do(X))", "there is no variable 'Q'"),
        ("E[Y | do(X)]", "identification takes P"),
        ("P(Y[X=1])", "identification takes P"),
    ],
)
def test_other_questions_are_refused(query, message):
    with pytest.raises(QueryError, match=message):
        identify("X -> Y", query)


def test_data_that_do_not_fit():
    estimand = identify("X -> Y", "P(Y | do(X=2))").estimand
    table = random_discrete(ADMG.from_string("X -> Y"), levels=2, seed=0).sample(50)
    with pytest.raises(DataError, match="X=2 does not occur; its levels are 0, 1"):
        estimand.evaluate(table)
    with pytest.raises(DataError, match="the data have no column 'Y'"):
        estimand.evaluate(table[["X"]])
    only = identify(BACK_DOOR, "P(Y | do(X))").estimand
    rows = random_discrete(ADMG.from_string(BACK_DOOR), levels=2, seed=0).sample(200)
    with pytest.warns(UserWarning, match="1 combinations of conditions have no row"):
        only.evaluate(rows[(rows["Z"] == 0) | (rows["X"] == 0)])
