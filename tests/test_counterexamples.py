"""Counterexamples to identifiability: found where they must exist, and confirmed by the exact answers of mdcm.scm."""

import numpy as np
import pytest
from counterexamples import Available, Found, Model, compared, two_models
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import admgs

from mdcm.graph import ADMG
from mdcm.query import parse
from mdcm.scm import DiscreteSCM

SEEN = Available({}, None)
DO_X = Available({"X": None}, None)
BOW = "X -> Y; X <-> Y"
FRONT_DOOR = "X -> Z -> Y; X <-> Y"
BACK_DOOR = "Z -> X -> Y; Z -> Y"
NAPKIN = "W1 -> W2 -> X -> Y; W1 <-> X; W1 <-> Y"
SIGNALLING = "PKA -> Mek; PKA -> Erk; PKA -> Akt; Mek -> Erk; Erk -> Akt; PKA <-> Mek"
SIGNALLING_DATA = [SEEN, Available({"PKA": (1,)}, ("Mek",))]
EFFECT = "P(Y | do(X))"
TREATED = "P(Y[X=1]=1 | X=0)"


def as_scm(model: Model) -> DiscreteSCM:
    """The model as the library has it: response types become further variables, which share the confounders."""
    if model.functions is None:
        return DiscreteSCM(model.graph, model.tables, model.priors)
    nodes = model.graph.nodes
    kinds = {v: f"type of {v}" for v in nodes}
    directed = [*model.graph.directed, *((kinds[v], v) for v in nodes)]
    latents = {name: tuple(kinds[v] for v in children) for name, children in model.graph.confounders}
    graph = ADMG([*nodes, *kinds.values()], directed, latents=latents)
    tables = {kinds[v]: model.tables[v] for v in nodes}
    # the axes of a table are the parents, the type among them as the last, and the variable
    tables |= {v: np.eye(model.levels[v])[np.moveaxis(model.functions[v], 0, -1)] for v in nodes}
    return DiscreteSCM(graph, tables, model.priors)


def check(found: Found | None, available, gap: float = 1e-3) -> None:
    """The library's exact answers, by variable elimination, must show the same as the enumeration did."""
    assert found is not None
    assert found.gap >= gap
    assert found.mismatch < 1e-10
    assert found.smallest >= 1e-4
    one, other = as_scm(found.first), as_scm(found.second)
    assert (one.answer(found.query), other.answer(found.query)) == pytest.approx(found.values, abs=1e-10)
    for data in (SEEN, *available):
        for do in data.settings(found.first.levels):
            for columns in {data.columns or found.first.graph.nodes, found.first.graph.nodes}:
                free = [name for name in columns if name not in do]
                ours, theirs = one.exact(free, do=do).to_numpy(), other.exact(free, do=do).to_numpy()
                assert min(ours.min(), theirs.min()) >= 1e-4
                if data in available and columns == (data.columns or found.first.graph.nodes):
                    assert np.abs(ours - theirs).max() < 1e-9


@pytest.mark.parametrize(
    ("graph", "query", "available", "levels"),
    [
        # Shpitser & Pearl (2006), Figure 1
        (BOW, EFFECT, [SEEN], 2),
        ("X -> Z -> Y; X <-> Z", EFFECT, [SEEN], 2),
        ("X -> Z -> Y; Z <-> Y; X <-> Z", EFFECT, [SEEN], 2),
        ("Z -> X -> Y; Z <-> X; Z <-> Y; X <-> Y", EFFECT, [SEEN], 2),
        ("X -> Y; X -> Z -> Y; X <-> Z", EFFECT, [SEEN], 2),
        # conditions, expectations, differences, more levels, a confounder of three
        (NAPKIN, "P(Y | do(X=1), W1=0)", [SEEN], 2),
        (BOW, "E[Y | do(X=1)] - E[Y | do(X=0)]", [SEEN], 2),
        (BOW, "E[Y | do(X)]", [SEEN], 3),
        ("U [latent]; U -> A; U -> B; U -> C; A -> B", "P(B | do(A))", [SEEN], 2),
        # experiments at other values, missing columns, no data
        (BOW, "P(Y | do(X=1))", [SEEN, Available({"X": (0,)}, None)], {"X": 3}),
        (SIGNALLING, "P(Akt | do(PKA=0))", SIGNALLING_DATA, 2),
        (FRONT_DOOR, EFFECT, [Available({}, ("X", "Y"))], 2),
        ("X -> Y", "P(Y)", [], 2),
        # counterfactuals: effect on the treated, probabilities of causation, natural effects
        (BOW, TREATED, [SEEN], 2),
        (BOW, TREATED, [SEEN, DO_X], {"X": 3}),
        ("X -> Y", "P(Y[X=1]=1 | X=0, Y=1)", [SEEN, DO_X], 2),
        ("X -> Y", "P(Y[X=1]=1, Y[X=0]=0)", [SEEN, DO_X], 2),
        ("X -> M -> Y; X -> Y; M <-> Y", "P(Y[X=1, M[X=0]]=1)", [SEEN], 2),
        # more response types than are tried at once
        ("A -> E; B -> E; C -> E; D -> E; A <-> E; B <-> C", "P(E[A=1]=1 | A=0)", [SEEN], 2),
    ],
)
def test_two_models_are_found(graph, query, available, levels):
    check(two_models(ADMG.from_string(graph), query, available, levels=levels), available)


@pytest.mark.parametrize(
    ("graph", "query", "available", "levels"),
    [
        (FRONT_DOOR, EFFECT, [SEEN], 2),
        (BACK_DOOR, EFFECT, [SEEN], 3),
        (NAPKIN, EFFECT, [SEEN], 2),
        (SIGNALLING, "P(Akt | do(PKA=1))", SIGNALLING_DATA, 2),
        (BOW, "P(Y | do(X=0))", [SEEN, Available({"X": (0,)}, None)], {"X": 3}),
        # P(Z | X) and P(Y | do(Z)) are enough
        (FRONT_DOOR, EFFECT, [Available({}, ("X", "Z")), Available({"Z": None}, ("Y",))], 2),
        (FRONT_DOOR, TREATED, [SEEN], 2),
        ("X -> M -> Y; X -> Y", "P(Y[X=1, M[X=0]]=1)", [SEEN], 2),
        # with two levels, P(Y[X=1]=1) - P(Y=1, X=1) is what is missing
        (BOW, TREATED, [SEEN, DO_X], 2),
        # what is known without any data
        (BOW, "P(Y[X=1]=0 | X=1, Y=1)", [], 2),
    ],
)
def test_nothing_is_found_where_the_data_determine_the_answer(graph, query, available, levels):
    assert two_models(ADMG.from_string(graph), query, available, levels=levels, starts=8) is None


@st.composite
def effects(draw):
    graph = draw(admgs(min_nodes=2, max_nodes=4, max_latents=1, max_bidirected=4))
    x, y = draw(st.permutations(graph.nodes))[:2]
    return graph.admg(), x, y


@given(effects())
@settings(max_examples=100)
def test_an_effect_is_refuted_in_both_notations_and_never_by_its_own_experiment(question):
    graph, x, y = question
    asked = f"P('{y}'=1 | do('{x}'=1))"
    found = two_models(graph, asked, [SEEN], starts=8)
    as_counterfactual = two_models(graph, f"P('{y}'['{x}'=1]=1)", [SEEN], starts=8)
    assert (found is None) == (as_counterfactual is None)
    if found is not None:
        check(found, [SEEN])
        check(as_counterfactual, [SEEN])
    assert two_models(graph, asked, [SEEN, Available({x: (1,)}, (y,))], starts=2) is None


def test_the_comparison_sees_models_that_disagree():
    graph = ADMG.from_string(BOW)
    found = two_models(graph, "P(Y=1 | do(X=1))", [SEEN])
    told_apart = compared(found.first, found.second, parse("P(Y=1 | do(X=1))"), [Available({"X": (1,)}, ("Y",))])
    assert told_apart.mismatch == pytest.approx(found.gap)
    tables = {**found.first.tables, "X": np.array([[1.0, 0.0], [1.0, 0.0]])}
    never = Model(graph, found.first.levels, found.first.priors, tables)
    assert compared(never, found.second, parse("P(Y=1 | do(X=0))"), [SEEN]).smallest == 0


def test_the_result_depends_on_the_seed_alone():
    graph = ADMG.from_string(BOW)
    first, again, other = (two_models(graph, EFFECT, [SEEN], seed=seed) for seed in (3, 3, 4))
    assert first.values == again.values != other.values


def test_values_that_are_no_levels_are_refused():
    with pytest.raises(ValueError, match="Y has the levels 0 to 1"):
        two_models(ADMG.from_string(BOW), "P(Y=2 | do(X))", [SEEN])
