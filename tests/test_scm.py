"""Ground-truth models: every exact answer against enumeration of all noise, and the laws of the three layers."""

import itertools
import math
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdcm.elimination import Factor, contract, min_fill_order
from mdcm.errors import DataError, MdcmError, QueryError
from mdcm.graph import ADMG
from mdcm.metrics import tv_distance
from mdcm.scm import DiscreteSCM, random_discrete

FRONT_DOOR = ADMG.from_string("D -> I -> A; D <-> A")


@st.composite
def admgs(draw, largest=5):
    """Small ADMGs, some with a confounder of three children."""
    nodes = [f"V{i}" for i in range(draw(st.integers(2, largest)))]
    pairs = list(itertools.combinations(draw(st.permutations(nodes)), 2))
    directed = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=6))
    bidirected = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=3))
    latents = {}
    if len(nodes) > 2 and draw(st.booleans()):
        latents = {"L": draw(st.permutations(nodes))[:3]}
    return ADMG(nodes, directed, bidirected, latents)


def enumerate_joint(model, do=None):
    """P(V | do) as a dict from value tuples, by summing over all states of all confounders."""
    do = do or {}
    latents = [name for name, _ in model.graph.confounders]
    joint = {}
    for states in itertools.product(*(range(len(model.priors[name])) for name in latents)):
        hidden = dict(zip(latents, states, strict=True))
        weight = math.prod(model.priors[name][state] for name, state in hidden.items())
        for values in itertools.product(*(range(len(model.levels[node])) for node in model.graph.nodes)):
            row = dict(zip(model.graph.nodes, values, strict=True)) | hidden
            p = weight
            for node in model.graph.nodes:
                if node in do:
                    p *= row[node] == do[node]
                else:
                    p *= model.tables[node][tuple(row[axis] for axis in model.axes(node))]
            joint[values] = joint.get(values, 0.0) + p
    return joint


def enumerate_noise(model):
    """All combinations of confounder states and of a midpoint in every piece of every variable's uniform number."""
    latents = [name for name, _ in model.graph.confounders]
    choices = [[(p, state) for state, p in enumerate(model.priors[name])] for name in latents]
    for node in model.graph.nodes:
        cuts = np.unique(np.concatenate([[0.0, 1.0], model.tables[node].cumsum(axis=-1).ravel().clip(0, 1)]))
        choices.append([(right - left, (left + right) / 2) for left, right in itertools.pairwise(cuts)])
    for combination in itertools.product(*choices):
        weight = math.prod(p for p, _ in combination)
        values = [value for _, value in combination]
        yield weight, dict(zip([*latents, *model.graph.nodes], values, strict=True))


def run_world(model, noise, do):
    """Values of all variables in one world, by evaluating the functions one after another."""
    row = {name: state for name, state in noise.items() if name not in model.graph}
    for node in model.graph.topological_order():
        if node in do:
            row[node] = do[node]
            continue
        p = model.tables[node][tuple(row[axis] for axis in model.axes(node)[:-1])]
        row[node] = next((level for level in range(len(p)) if noise[node] < p[: level + 1].sum()), len(p) - 1)
    return row


def marginal(joint, nodes, names):
    places = [nodes.index(name) for name in names]
    table = {}
    for values, p in joint.items():
        key = tuple(values[place] for place in places)
        table[key] = table.get(key, 0.0) + p
    return table


@settings(deadline=None, max_examples=60)
@given(admgs(4), st.integers(0, 10**6), st.data())
def test_exact_equals_enumeration_in_layers_one_and_two(graph, seed, data):
    nodes = list(graph.nodes)
    sizes = {node: data.draw(st.integers(2, 3)) for node in nodes}
    model = random_discrete(graph, sizes, seed, latent_levels=2)
    names = data.draw(st.permutations(nodes))
    split = data.draw(st.integers(1, len(nodes)))
    variables, rest = names[:split], names[split:]
    do = {name: data.draw(st.integers(0, sizes[name] - 1)) for name in rest[::2]}
    seen = {name: data.draw(st.integers(0, sizes[name] - 1)) for name in rest[1::2]}

    joint = enumerate_joint(model, do)
    whole = marginal(joint, nodes, [*variables, *seen])
    kept = {key[: len(variables)]: p for key, p in whole.items() if key[len(variables) :] == tuple(seen.values())}
    total = sum(kept.values())
    answer = model.exact(variables, do=do, given=seen)
    assert list(answer.index.names) == variables
    for key, p in kept.items():
        assert answer.loc[key if len(key) > 1 else key[0]] == pytest.approx(p / total, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(admgs(3), st.integers(0, 10**6), st.data())
def test_exact_counterfactuals_equal_enumeration_of_all_noise(graph, seed, data):
    model = random_discrete(graph, 2, seed, latent_levels=2)
    nodes = list(graph.nodes)
    outcomes = data.draw(st.lists(st.sampled_from(nodes), min_size=1, unique=True))
    do = data.draw(st.dictionaries(st.sampled_from(nodes), st.integers(0, 1), min_size=1, max_size=2))
    seen = data.draw(st.dictionaries(st.sampled_from(nodes), st.integers(0, 1), max_size=3))
    table, total = {}, 0.0
    for weight, noise in enumerate_noise(model):
        actual = run_world(model, noise, {})
        if all(actual[name] == value for name, value in seen.items()):
            other = run_world(model, noise, do)
            key = tuple(other[name] for name in outcomes)
            table[key] = table.get(key, 0.0) + weight
            total += weight
    answer = model.exact_counterfactual(outcomes, do=do, evidence=seen)
    for key in itertools.product(range(2), repeat=len(outcomes)):
        p = table.get(key, 0.0) / total
        assert answer.loc[key if len(key) > 1 else key[0]] == pytest.approx(p, abs=1e-10)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_answers_over_several_and_nested_worlds_equal_enumeration(seed):
    graph = ADMG.from_string("X -> M -> Y; X -> Y; X <-> Y; M <-> Y")
    model = random_discrete(graph, 2, seed, latent_levels=2)
    expected = np.zeros(3)
    conditions = np.zeros(3)
    for weight, noise in enumerate_noise(model):
        actual, one, zero = (run_world(model, noise, do) for do in ({}, {"X": 1}, {"X": 0}))
        mixed = run_world(model, noise, {"X": 1, "M": zero["M"]})
        expected[0] += weight * (mixed["Y"] == 1 and actual["X"] == 0)
        conditions[0] += weight * (actual["X"] == 0)
        expected[1] += weight * (one["Y"] == 1 and zero["Y"] == 0)
        conditions[1] += weight
        expected[2] += weight * (zero["Y"] == 0 and actual["X"] == 1 and one["Y"] == 1)
        conditions[2] += weight * (actual["X"] == 1 and one["Y"] == 1)
    queries = [
        "P(Y[X=1, M[X=0]]=1 | X=0)",
        "P(Y[X=1]=1, Y[X=0]=0)",
        "P(Y[X=0]=0 | X=1, Y[X=1]=1)",
    ]
    for query, p, condition in zip(queries, expected, conditions, strict=True):
        assert model.answer(query) == pytest.approx(p / condition, abs=1e-10), query


@settings(deadline=None, max_examples=60)
@given(admgs(), st.integers(0, 10**6), st.data())
def test_laws_of_the_three_layers(graph, seed, data):
    model = random_discrete(graph, 2, seed, latent_levels=3)
    nodes = list(graph.nodes)
    x, y = data.draw(st.permutations(nodes))[:2]
    value = data.draw(st.integers(0, 1))
    observed = model.exact([y])
    assert observed.sum() == pytest.approx(1, abs=1e-12)
    # do() on what is no ancestor changes nothing
    if x not in graph.ancestors([y]):
        assert tv_distance(model.exact([y], do={x: value}), observed) < 1e-12
    # consistency, effectiveness, and no evidence at all
    seen = {x: value}
    assert tv_distance(model.exact_counterfactual([y], seen, seen), model.exact([y], given=seen)) < 1e-12
    assert model.exact_counterfactual([x], seen, {x: 1 - value}).loc[value] == 1
    assert tv_distance(model.exact_counterfactual([y], seen), model.exact([y], do=seen)) < 1e-12
    # the actual world is a mixture of the worlds after seeing x, and so is the interventional one
    weights = model.exact([x])
    mixture = sum(model.exact_counterfactual([y], seen, {x: other}) * weights.loc[other] for other in (0, 1))
    assert tv_distance(mixture, model.exact([y], do=seen)) < 1e-12
    # composition: setting what would have been anyway
    z = data.draw(st.sampled_from(nodes))
    if z not in {x, y}:
        # set once and let fall as it would: P(Y_x, Z_x) = sum over z of P(Y_xz, Z_x = z) on the diagonal
        joint = model.exact([y, z], do=seen)
        for level in (0, 1):
            both = model.answer(f"P({y}[{x}={value}, {z}={level}]=1, {z}[{x}={value}]={level})")
            assert both == pytest.approx(joint.loc[1, level], abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(admgs(), st.integers(0, 10**6))
def test_the_product_of_c_factors_is_the_joint(graph, seed):
    model = random_discrete(graph, 2, seed, latent_levels=2)
    nodes = list(graph.nodes)
    joint = model.exact(nodes)
    factors = []
    for component in graph.c_components():
        members = [node for node in nodes if node in component]
        outside = [node for node in nodes if node in graph.parents(members) - component]
        table = model.c_factor(component)
        assert table.sum(axis=tuple(range(len(outside), table.ndim))) == pytest.approx(1, abs=1e-12)
        factors.append(((*outside, *members), table))
    for values, p in joint.items():
        row = dict(zip(nodes, values if isinstance(values, tuple) else (values,), strict=True))
        product = math.prod(table[tuple(row[axis] for axis in axes)] for axes, table in factors)
        assert product == pytest.approx(p, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(admgs(), st.integers(0, 10**6), st.data())
def test_a_c_factor_is_the_product_of_those_of_its_c_components(graph, seed, data):
    """Lemma D.7 and Corollary D.8 of Rahman & Kocaoglu (2024), of any set of variables in place of h-nodes."""
    model = random_discrete(graph, 2, seed, latent_levels=2)
    nodes = list(graph.nodes)
    chosen = set(data.draw(st.lists(st.sampled_from(nodes), min_size=1, unique=True)))
    parts = [{node} for node in chosen]
    for _, children in graph.confounders:
        met = [part for part in parts if part & set(children)]
        parts = [part for part in parts if part not in met] + ([set().union(*met)] if met else [])

    def factor(members):
        outside = graph.parents(members) - members
        axes = [node for node in nodes if node in outside] + [node for node in nodes if node in members]
        return axes, model.c_factor(members)

    (axes, whole), factors = factor(chosen), [factor(part) for part in parts]
    for values in itertools.product(range(2), repeat=len(axes)):
        row = dict(zip(axes, values, strict=True))
        product = math.prod(table[tuple(row[axis] for axis in own)] for own, table in factors)
        assert product == pytest.approx(whole[values], abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(admgs(4), st.integers(0, 10**6), st.data())
def test_a_c_factor_of_any_set_is_what_happens_when_its_parents_are_set(graph, seed, data):
    model = random_discrete(graph, 2, seed, latent_levels=2)
    nodes = list(graph.nodes)
    chosen = data.draw(st.lists(st.sampled_from(nodes), min_size=1, unique=True))
    members = [node for node in nodes if node in chosen]
    outside = [node for node in nodes if node in graph.parents(members) - set(members)]
    table = model.c_factor(chosen)
    for values in itertools.product(range(2), repeat=len(outside)):
        expected = model.exact(members, do=dict(zip(outside, values, strict=True)))
        assert table[values].ravel() == pytest.approx(expected.to_numpy(), abs=1e-12)


def test_the_front_door_formula_holds():
    model = random_discrete(FRONT_DOOR, {"D": 2, "I": 4, "A": 3}, seed=3, concentration=0.3)
    joint = model.exact(["D", "I", "A"])
    p_d = model.exact(["D"])
    for d in (0, 1):
        truth = model.exact(["A"], do={"D": d})
        p_i = model.exact(["I"], given={"D": d})
        adjusted = sum(
            p_i.loc[i] * p_d.loc[other] * joint.loc[other, i].to_numpy() / joint.loc[other, i].sum()
            for i in range(4)
            for other in (0, 1)
        )
        assert adjusted == pytest.approx(truth.to_numpy(), abs=1e-12)
        # the formula is put to the test only where the naive answer is wrong
        assert tv_distance(truth, model.exact(["A"], given={"D": d})) > 1e-3


@pytest.mark.parametrize("do", [{}, {"I": 1}])
def test_sampled_frequencies_agree_with_the_exact_ones(do):
    model = random_discrete(FRONT_DOOR, 3, seed=1)
    n = 200_000
    frequencies = model.sample(n, do=do, seed=2).value_counts(normalize=True)
    exact = model.exact(["D", "I", "A"], do=do)
    for values, p in exact.items():
        # 27 cells: five standard errors fail by chance once in 60,000 runs
        assert frequencies.get(values, 0.0) == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / n) + 1e-15)


def test_two_samples_with_one_seed_are_the_same_units_in_two_worlds():
    graph = ADMG.from_string("X -> Z -> Y; X -> Y; X <-> Y; Z <-> Y; W -> X")
    model = random_discrete(graph, 3, seed=5)
    n = 300_000
    actual, other = model.sample(n, seed=7), model.sample(n, do={"X": 2}, seed=7)
    assert (actual["W"] == other["W"]).all()
    unchanged = actual["X"] == 2
    assert (actual[unchanged] == other[unchanged]).all(axis=None)
    kept = (actual["X"] == 0) & (actual["Y"] == 1)
    exact = model.exact_counterfactual(["Y", "Z"], do={"X": 2}, evidence={"X": 0, "Y": 1})
    frequencies = other[kept][["Y", "Z"]].value_counts(normalize=True)
    for values, p in exact.items():
        error = 5 * math.sqrt(p * (1 - p) / kept.sum())
        assert frequencies.get(values, 0.0) == pytest.approx(p, abs=error + 1e-15)


def test_samples_repeat_by_seed_and_take_arrays():
    model = random_discrete(FRONT_DOOR, 2, seed=0)
    pd.testing.assert_frame_equal(model.sample(100, seed=1), model.sample(100, seed=1))
    assert not model.sample(100, seed=1).equals(model.sample(100, seed=2))
    set_ = np.arange(100) % 2
    assert (model.sample(100, do={"D": set_})["D"] == set_).all()
    with pytest.raises(DataError, match="100 rows"):
        model.sample(100, do={"D": [0, 1]})
    with pytest.raises(DataError, match="no level 5"):
        model.sample(3, do={"D": [0, 5, 1]})


def markov_chain(n, levels, seed):
    return random_discrete(
        ADMG([f"v{i}" for i in range(n)], [(f"v{i}", f"v{i + 1}") for i in range(n - 1)]), levels, seed
    )


def test_a_long_chain_is_a_product_of_matrices():
    n = 300
    model = markov_chain(n, 3, seed=0)
    start = time.perf_counter()
    forward = np.eye(3)
    for i in range(100, n):
        forward = forward @ model.tables[f"v{i}"]
    assert model.exact(["v299"], do={"v99": 1}).to_numpy() == pytest.approx(forward[1], abs=1e-12)
    # evidence on every second variable has a probability far below the smallest float
    seen = {f"v{i}": i % 3 for i in range(0, n, 2) if i != 150}
    before, after = model.tables["v149"], model.tables["v150"]
    left = before[148 % 3] @ after
    right = model.tables["v151"] @ model.tables["v152"][:, 152 % 3]
    smoothed = left * right / (left * right).sum()
    assert model.exact(["v150"], given=seen).to_numpy() == pytest.approx(smoothed, abs=1e-12)
    assert time.perf_counter() - start < 20


def test_counterfactuals_on_a_long_confounded_chain():
    n = 120
    names = [f"v{i}" for i in range(n)]
    graph = ADMG(
        names,
        list(itertools.pairwise(names)),
        [(names[i], names[i + 2]) for i in range(0, n - 2, 3)],
        {"L": ["v10", "v11", "v13", "v14"]},
    )
    model = random_discrete(graph, 2, seed=0, latent_levels=3)
    evidence = {f"v{i}": (i // 3) % 2 for i in range(0, n, 4)}
    answer = model.exact_counterfactual(["v30"], do={"v5": 0}, evidence=evidence)
    assert answer.sum() == pytest.approx(1, abs=1e-12)
    # P(Y_x | e) averaged over e is P(Y_x); two disjoint and exhaustive pieces of evidence suffice to see it
    parts = 0.0
    for level in (0, 1):
        weight = model.exact(["v40"]).loc[level]
        parts = parts + weight * model.exact_counterfactual(["v30"], {"v5": 0}, {"v40": level})
    assert tv_distance(parts, model.exact(["v30"], do={"v5": 0})) < 1e-12


def test_a_graph_that_is_too_dense_is_refused_with_the_size():
    nodes = [f"v{i}" for i in range(40)]
    graph = ADMG([*nodes, "Y"], [], list(itertools.pairwise(nodes)), {"L": nodes})
    model = random_discrete(graph, 2, seed=0)
    assert model.exact(["v3"]).sum() == pytest.approx(1)
    with pytest.raises(MdcmError, match="cells"):
        model.exact(nodes)


def test_values_of_any_kind_are_levels():
    tables = {"X": [0.5, 0.5], "Y": [[0.9, 0.1], [0.2, 0.8]]}
    model = DiscreteSCM(ADMG.from_string("X -> Y"), tables, levels={"X": ["no", "yes"], "Y": [10, 20]})
    assert model.levels == {"X": ("no", "yes"), "Y": (10, 20)}
    assert model.exact("Y", do={"X": "yes"}).to_dict() == {10: 0.2, 20: 0.8}
    assert set(model.sample(50)["X"]) == {"no", "yes"}
    assert model.sample(5)["Y"].dtype == np.int64
    assert model.answer("E[Y | do(X=yes)] - E[Y | do(X=no)]") == pytest.approx(18 - 11)
    assert model.answer("P(Y=20 | X='yes')") == pytest.approx(0.8)
    with pytest.raises(DataError, match=r"no level 'yess'.*did you mean 'yes'"):
        model.answer("P(Y | do(X=yess))")
    with pytest.raises(QueryError, match="no expectation") as caught:
        model.answer("E[X]")
    assert caught.value.position == 2


def test_tables_of_answers_cover_every_level():
    model = random_discrete(FRONT_DOOR, {"D": 2, "I": 3, "A": 2}, seed=0)
    table = model.answer("P(A | do(D))")
    assert table.index.names == ["D", "A"]
    assert table.loc[1].to_numpy() == pytest.approx(model.exact("A", do={"D": 1}).to_numpy())
    pd.testing.assert_series_equal(table, model.exact("A", do=["D"]))
    conditional = model.exact(["A"], do={"D": 1}, given=["I"])
    assert conditional.index.names == ["I", "A"]
    assert conditional.groupby("I").sum().to_numpy() == pytest.approx(1)
    shown = model.answer("P(A=1, I | do(D=1))")
    assert shown.index.names == ["D", "A", "I"]
    assert shown.sum() == pytest.approx(model.exact("A", do={"D": 1}).loc[1])
    expectation = model.answer("E[A | do(D)]")
    assert expectation.to_numpy() == pytest.approx([model.exact("A", do={"D": d}).loc[1] for d in (0, 1)])
    worlds = model.answer("P(A[D=0], A[D=1])")
    assert worlds.index.names == ["A[D=0]", "A[D=1]"]
    assert worlds.groupby(level=1).sum().to_numpy() == pytest.approx(model.exact("A", do={"D": 1}).to_numpy())


def test_what_was_set_and_what_was_asked_twice_have_one_value():
    model = random_discrete(FRONT_DOOR, 2, seed=0)
    joint = model.exact(["D", "A"], do={"D": 1})
    assert joint.loc[0].sum() == 0
    assert joint.loc[1].to_numpy() == pytest.approx(model.exact("A", do={"D": 1}).to_numpy())
    # I does not depend on D in the world in which I is set, so both are the same variable
    twice = model.answer("P(D[I=0], D[I=1])")
    assert twice.loc[0, 1] == twice.loc[1, 0] == 0


def test_impossible_conditions_and_unknown_names_are_refused():
    model = DiscreteSCM(ADMG.from_string("X -> Y"), {"X": [1.0, 0.0], "Y": [[1.0, 0.0], [0.0, 1.0]]})
    with pytest.raises(QueryError, match="probability zero"):
        model.exact("Y", given={"X": 1})
    with pytest.raises(QueryError, match="probability zero"):
        model.answer("P(Y=1 | X=0, X[Y=1]=1)")
    with pytest.raises(QueryError, match="no variable 'Q'"):
        model.exact("Q")
    with pytest.raises(QueryError, match="no variable 'Q'"):
        model.exact_counterfactual("Y", {"Q": 1})
    with pytest.raises(QueryError, match="no variable 'Q'"):
        model.answer("P(Y | do(Q=1))")
    with pytest.raises(DataError, match=r"no level 'one' \(text\)"):
        model.exact("Y", do={"X": "one"})


GOOD = {"D": [0.5, 0.5], "I": [[0.5, 0.5]] * 2, "A": np.full((2, 2, 2), 0.5)}


@pytest.mark.parametrize(
    ("change", "priors", "levels", "message"),
    [
        ({}, {}, None, r"confounder 'U\[D,A\]' has no distribution"),
        ({}, {"U": [1.0]}, None, r"no confounder 'U'.*U\[D,A\]"),
        ({}, {"U[D,A]": [[1.0]]}, None, "must be a vector"),
        ({}, {"U[D,A]": [0.5, 0.6]}, None, "sums to 1.1"),
        ({"D": [0.5, 0.5]}, {"U[D,A]": [0.5, 0.5]}, None, r"'D' must have the axes \(U\[D,A\], D\) of sizes \(2, 2\)"),
        ({"D": None}, {"U[D,A]": [1.0]}, None, "'D' has no table"),
        ({"Q": [1.0]}, {"U[D,A]": [1.0]}, None, "no variable 'Q'"),
        ({"D": [[0.5, 0.4]]}, {"U[D,A]": [1.0]}, None, "one row sums to 0.9"),
        ({"D": [[1.5, -0.5]]}, {"U[D,A]": [1.0]}, None, "not negative"),
        ({"D": [[0.5, math.nan]]}, {"U[D,A]": [1.0]}, None, "finite"),
        ({"D": [[0.5, 0.5]]}, {"U[D,A]": [1.0]}, {"D": [1, 2, 3]}, "'D' has 3, but its table has 2"),
        ({"D": [[0.5, 0.5]]}, {"U[D,A]": [1.0]}, {"D": [1, 1]}, "distinct"),
        ({"D": [[0.5, 0.5]]}, {"U[D,A]": [1.0]}, {"Q": [1, 2]}, "no variable 'Q'"),
    ],
)
def test_hand_written_models_are_checked(change, priors, levels, message):
    tables = GOOD | {"A": np.full((2, 1, 2), 0.5)} | change
    tables = {name: table for name, table in tables.items() if table is not None}
    with pytest.raises(DataError, match=message):
        DiscreteSCM(FRONT_DOOR, tables, priors, levels=levels)


def test_random_models_are_positive_and_repeat_by_seed():
    graph = ADMG.from_string("A -> B; L [latent]; L -> A; L -> B; L -> C; B <-> C")
    model = random_discrete(graph, {"A": 2, "B": 4}, seed=3, latent_levels=5, smoothing=0.2, concentration=0.1)
    assert model.axes("B") == ("A", "L", "U[B,C]", "B")
    assert model.tables["B"].shape == (2, 5, 5, 4)
    assert model.tables["C"].shape == (5, 5, 3)
    for name, table in {**model.tables, **model.priors}.items():
        assert table.min() >= 0.2 / table.shape[-1] - 1e-15, name
    again = random_discrete(graph, {"A": 2, "B": 4}, seed=3, latent_levels=5, smoothing=0.2, concentration=0.1)
    assert all((again.tables[name] == table).all() for name, table in model.tables.items())
    assert (random_discrete(graph, seed=4).tables["A"] != random_discrete(graph, seed=3).tables["A"]).any()
    for wrong in ({"smoothing": 0}, {"concentration": 0}, {"latent_levels": 0}, {"levels": 0}):
        with pytest.raises(ValueError, match=r"must be|needs"):
            random_discrete(graph, **wrong)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_contract_equals_one_sum_over_everything(data):
    sizes = {name: data.draw(st.integers(1, 3)) for name in "abcdef"}
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    factors = []
    for scope in data.draw(
        st.lists(st.lists(st.sampled_from("abcdef"), unique=True, max_size=3), min_size=1, max_size=6)
    ):
        factors.append(Factor(tuple(scope), rng.random([sizes[name] for name in scope])))
    present = sorted({name for factor in factors for name in factor.variables})
    keep = data.draw(st.lists(st.sampled_from(present), unique=True)) if present else []
    expected = np.einsum(
        ",".join("".join(factor.variables) for factor in factors) + "->" + "".join(keep),
        *(factor.table for factor in factors),
    )
    table, scale = contract(factors, keep)
    assert table * math.exp(scale) == pytest.approx(expected, rel=1e-10)
    assert sorted([*min_fill_order([factor.variables for factor in factors], keep, sizes), *keep]) == present


def test_contract_refuses_factors_of_different_sizes():
    with pytest.raises(ValueError, match="size 2 in one factor and 3"):
        contract([Factor(("a",), np.ones(2)), Factor(("a",), np.ones(3))], [])


def test_min_fill_does_not_join_the_ends_of_a_star():
    scopes = [("hub", leaf) for leaf in range(50)]
    sizes = {"hub": 3} | dict.fromkeys(range(50), 2)
    assert min_fill_order(scopes, [], sizes).index("hub") >= 49
