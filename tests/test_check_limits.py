"""What the check of a graph says of inequalities, and of what it does not test."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

from mdcm.checking import check
from mdcm.checking.independences import implies_nothing
from mdcm.checking.instruments import (
    bonets_inequalities,
    instrumental_test,
    instruments,
    pearls_inequalities,
)
from mdcm.checking.report import statement
from mdcm.checking.statistics import _relative_entropy, sum_test
from mdcm.data import Dataset
from mdcm.graph import ADMG

IV = "Z -> X -> Y; X <-> Y"


def allows(joint):
    """Whether some instrument model has P(x, y | z), axes z, x, y: a linear program over what units answer."""
    levels, causes, outcomes = joint.shape
    answers = itertools.product(range(causes), repeat=levels)
    types = list(itertools.product(answers, itertools.product(range(outcomes), repeat=causes)))
    matrix = np.zeros((joint.size, len(types)))
    for k, (cause, outcome) in enumerate(types):
        for z in range(levels):
            cell = np.ravel_multi_index((z, cause[z], outcome[cause[z]]), joint.shape)
            matrix[cell, k] = 1
    return optimize.linprog(np.zeros(len(types)), A_eq=matrix, b_eq=joint.ravel(), bounds=(0, None)).status == 0


def instrument_table(rng, rows, levels=2, outcomes=2):
    """Rows of a random instrument model whose inequality is nearly an equality: x hardly occurs, y is nearly fixed."""
    z, u = rng.integers(0, levels, rows), rng.integers(0, 3, rows)
    table = rng.dirichlet(np.full(2, 0.3), size=(levels, 3))
    x = (rng.random(rows) < table[z, u, 0]).astype(int)
    effect = rng.dirichlet(np.full(outcomes, 0.3), size=(2, 3)).cumsum(axis=2)
    y = (rng.random(rows)[:, None] > effect[x, u]).sum(axis=1).clip(max=outcomes - 1)
    return pd.DataFrame({"Z": z, "X": x, "Y": y})


def violating_table(rows, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.integers(0, 2, rows)
    y = np.where(rng.random(rows) < 0.15, 1 - z, z)
    return pd.DataFrame({"Z": z, "X": (rng.random(rows) < 0.05).astype(int), "Y": y})


class TestInstruments:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (IV, [("Z", "X", "Y")]),
            ("Z <-> X -> Y; X <-> Y", [("Z", "X", "Y")]),
            ("Z -> X -> M -> Y; X <-> Y", [("Z", "X", "Y")]),
            ("Z -> X -> Y; X <-> Y; Z -> Y", []),
            ("Z -> X -> Y; X <-> Y; Z <-> Y", []),
            ("Z -> X -> Y", []),
            ("Z -> X -> Y; X <-> Y; C -> Z; C -> Y", []),
            ("X -> Z; X -> Y; X <-> Y", []),
            ("Z -> X -> Y; U [latent]; U -> X; U -> Y", [("Z", "X", "Y")]),
        ],
    )
    def test_are_found(self, text, expected):
        assert instruments(ADMG.from_string(text)) == expected

    def test_binary_inequality_is_all_that_a_linear_program_asks(self):
        rng = np.random.default_rng(0)
        for _ in range(60):
            joint = rng.dirichlet(np.full(4, 0.4), size=2).reshape(2, 2, 2)
            counts = np.round(joint * 10_000).astype(int)
            z, x, y = (np.repeat(axis.ravel(), counts.ravel()) for axis in np.indices((2, 2, 2)))
            found = instrumental_test(z, x, y)
            pearl = joint.max(axis=0).sum(axis=1).max()
            assert allows(joint) == (pearl <= 1)
            if pearl > 1.05:
                assert found["inequality"].sum == pytest.approx(pearl, abs=2e-4)
                assert found["log_p"] < -5
            if pearl <= 1:
                assert found["log_p"] == 0

    def test_pearl_and_bonet_are_all_that_a_linear_program_asks_of_three_values(self):
        rng = np.random.default_rng(0)
        seen = set()
        for _ in range(200):
            joint = rng.dirichlet(np.full(4, rng.choice([0.3, 0.6, 1.5])), size=3).reshape(3, 2, 2)
            shares = dict(enumerate(joint))
            kept = [
                max(one.sum - one.bound for one in kind(shares)) <= 0
                for kind in (pearls_inequalities, bonets_inequalities)
            ]
            assert allows(joint) == all(kept)
            seen.add(tuple(kept))
        # each of the two says something that the other does not
        assert {(True, True), (True, False), (False, True)} <= seen

    @pytest.mark.parametrize("shape", [(3, 2, 2), (3, 2, 3), (3, 3, 2), (3, 3, 3), (4, 2, 2), (4, 3, 3)])
    def test_no_model_breaks_an_inequality(self, shape):
        """Mixtures of a few kinds of units, which lie on the boundary of what is possible."""
        values, causes, outcomes = shape
        rng = np.random.default_rng(0)
        met = 0
        for _ in range(200):
            kinds = int(rng.integers(1, 5))
            answers, effects = rng.integers(causes, size=(kinds, values)), rng.integers(outcomes, size=(kinds, causes))
            joint = np.zeros(shape)
            for answer, effect, weight in zip(answers, effects, rng.dirichlet(np.ones(kinds)), strict=True):
                joint[np.arange(values), answer, effect[answer]] += weight
            shares = dict(enumerate(joint))
            for one in (*pearls_inequalities(shares), *bonets_inequalities(shares)):
                assert one.sum <= one.bound + 1e-12
                met += one.bound == 2 and one.sum > 2 - 1e-12
        assert met > 0

    @pytest.mark.parametrize("shape", [(3, 2, 2), (3, 2, 3), (3, 3, 2)])
    def test_the_sets_that_are_looked_at_are_the_worst(self, shape):
        rng = np.random.default_rng(1)
        values, causes, outcomes = shape
        joint = rng.dirichlet(np.full(causes * outcomes, 0.5), size=values).reshape(shape)
        found = list(bonets_inequalities(dict(enumerate(joint))))
        sets = [np.array(one) for one in itertools.product([False, True], repeat=outcomes)]
        worst, count = -1.0, 0
        for first, second, third in itertools.permutations(range(values)):
            for cause, other in itertools.permutations(range(causes), 2):
                for inside, parted in itertools.product(sets, sets):
                    total = joint[first, cause] @ inside
                    total += joint[second, cause] @ ~inside + joint[second, other] @ parted
                    total += joint[third, cause] @ ~inside + joint[third, other] @ ~parted
                    worst = max(worst, total)
                    # two orders of the last two are one inequality; empty and full sets say what Pearl's do
                    count += second < third and inside.any() and parted.any() and not (inside.all() or parted.all())
        assert max(one.sum for one in found) == pytest.approx(worst)
        assert {one.comparisons for one in found} == {count}

    @pytest.mark.parametrize("rows", [90, 300, 3_000])
    def test_a_model_on_the_boundary_is_rarely_rejected(self, rows):
        rng = np.random.default_rng([rows, 85])
        rejected = 0
        for _ in range(300):
            # units of three kinds, each of which is in two of three events
            kind = rng.choice(3, rows, p=rng.dirichlet(np.ones(3)))
            z = rng.permutation(np.arange(rows) % 3)
            answers, effects = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]]), np.array([[0, 0], [1, 0], [1, 1]])
            x = answers[kind, z]
            y = effects[kind, x]
            found = instrumental_test(z, x, y)
            rejected += found is not None and found["log_p"] < math.log(0.05)
        assert rejected <= stats.binom.ppf(0.999, 300, 0.05)

    def test_three_values_show_what_two_do_not(self):
        rng = np.random.default_rng(0)
        z = np.arange(900) % 3
        x = np.where(z == 1, rng.integers(0, 2, 900), 0)
        x = np.where(z == 2, rng.integers(0, 2, 900), x)
        y = np.where(z == 0, 1, np.where((z == 2) & (x == 1), 1, 0))
        noise = rng.random(900) < 0.25
        y = np.where(noise & (z == 0), 0, y)
        (row,) = check(IV, pd.DataFrame({"Z": z, "X": x, "Y": y})).rejected.to_dict("records")
        assert row["detail"].endswith("against at most 2")
        assert row["detail"].count("P(") == 3
        assert " or X=1, Y=" in row["detail"]

    @pytest.mark.parametrize("shares", [[0.9, 0.95, 0.5], [1.0, 1.0, 0.3], [0.99, 0.8, 0.7]])
    def test_the_likeliest_probabilities_are_those_of_a_solver(self, shares):
        sizes = np.array([50.0, 80, 200])
        missing = 1 - np.array(shares)

        def loss(q):
            return -(sizes * (missing * np.log(q) + (1 - missing) * np.log(1 - q))).sum()

        start = np.full(3, 1 / 3)
        total = {"type": "eq", "fun": lambda q: q.sum() - 1}
        best = optimize.minimize(loss, start, bounds=[(1e-9, 1 - 1e-9)] * 3, constraints=total, tol=1e-12).x
        expected = (1 - missing.sum()) ** 2 / (best * (1 - best) / sizes).sum()
        found = sum_test(shares, sizes)
        assert found["statistic"] == pytest.approx(expected, rel=1e-3)
        assert found["log_p"] == pytest.approx(stats.norm.logsf(math.sqrt(found["statistic"])))

    @pytest.mark.parametrize(("levels", "outcomes"), [(2, 2), (3, 3)])
    def test_true_models_are_rarely_rejected(self, levels, outcomes):
        rejected = 0
        for seed in range(100):
            table = instrument_table(np.random.default_rng([seed, 84]), 400, levels, outcomes)
            found = instrumental_test(*(table[name].to_numpy() for name in "ZXY"))
            rejected += found is not None and found["log_p"] < math.log(0.05)
        assert rejected <= stats.binom.ppf(0.999, 100, 0.05)

    def test_weights_and_groups_count(self):
        table = violating_table(300)
        z, x, y = (table[name].to_numpy() for name in "ZXY")
        plain = instrumental_test(z, x, y)
        weighted = instrumental_test(z, x, y, np.full(300, 2.0))
        assert weighted["inequality"].sum == pytest.approx(plain["inequality"].sum)
        assert weighted["log_p"] < -10
        rows = np.repeat(np.arange(300), 3)
        grouped = instrumental_test(z[rows], x[rows], y[rows], None, rows)
        assert grouped["log_p"] == pytest.approx(weighted["log_p"])
        few = instrumental_test(z, x, y, None, np.arange(300) % 20)
        assert few is None


class TestWhatIsSaid:
    def test_a_violated_instrument_is_reported(self):
        table = violating_table(2_000)
        found = check(IV, table)
        (row,) = found.rejected.to_dict("records")
        assert (row["kind"], row["x"], row["y"], row["given"]) == ("instrument", "X", "Y", ("Z",))
        shares = [((table["X"] == 0) & (table["Y"] == z))[table["Z"] == z].mean() for z in (0, 1)]
        assert row["detail"] == f"P(X=0, Y=0 | Z=0) + P(X=0, Y=1 | Z=1) = {sum(shares):.3f} against at most 1"
        assert statement(row) == "Z → X → Y alone"
        assert "the bound holds if Z acts on Y only through X, as in the graph" in str(found)
        assert str(found).startswith("1 instrumental inequality tested, 1 rejected at level 0.05")

    @pytest.mark.parametrize("text", ["H -> X; H -> Y; Z -> X -> Y", "Z <-> X; X -> M; M -> Y; X <-> Y"])
    def test_in_other_graphs_too(self, text):
        table = violating_table(1_000)
        assert "instrument" in set(check(text, table).rejected["kind"])
        # three levels, named, and an outcome that is a number
        named = table.assign(Z=np.array(["low", "high"])[table["Z"]], Y=table["Y"] + np.linspace(0, 0.5, 1_000))
        assert "instrument" in set(check(text, named).rejected["kind"])

    def test_an_experiment_on_the_instrument_too(self):
        table = violating_table(1_000)
        assert len(check(IV, Dataset(table, do="Z")).rejected) == 1
        # who sets the cause as well has no instrument
        assert "instrument" not in set(check(IV, Dataset(table, do=["Z", "X"])).table["kind"])

    def test_nothing_is_left_to_contradict_only_where_it_is_so(self):
        table = violating_table(300)
        for text in ("Z -> X -> Y; Z -> Y", "X -> Z -> Y; X <-> Y", "X -> Y; Z -> Y; X <-> Z"):
            found = check(text, table)
            assert found.implies_nothing
            assert str(found) == (
                "nothing to test: the graph allows every distribution of these variables, so no data contradict it"
            )
            assert found.to_json()["implies_nothing"]
        rng = np.random.default_rng(0)
        images = rng.integers(0, 255, (300, 1, 4, 4), dtype=np.uint8)
        left_out = [
            check("X -> Y; X -> I", Dataset(table[["X", "Y"]], images={"I": images})),
            check("X -> Y; X -> Q", table[["X", "Y"]]),
            check("A -> B -> C -> D; B <-> D; A -> C", pd.DataFrame(rng.integers(0, 2, (300, 4)), columns=[*"ABCD"])),
            check("X <-> Y; Y <-> Z; Z <-> X", table),
        ]
        for found in left_out:
            assert not found.implies_nothing
            assert str(found).startswith("nothing was tested: these data neither support nor contradict the graph")
            assert len(found.notes) >= 1

    def test_what_hidden_causes_imply_beyond_the_tests_is_named(self):
        rng = np.random.default_rng(0)
        table = pd.DataFrame(rng.integers(0, 2, (300, 4)), columns=[*"ABCD"])
        verma = check("A -> B -> C -> D; B <-> D; A -> C", table)
        assert verma.notes[-1] == (
            "hidden causes can imply more, which is not tested: equalities of Verma's kind, and inequalities, such as "
            "an instrument's"
        )
        assert check(IV, violating_table(300)).notes[-1].endswith("and inequalities other than an instrument's")
        # without hidden causes independences are all there is
        assert check("A -> B -> C -> D", table).notes == ()

    def test_too_few_rows_for_an_instrument_are_noted(self):
        found = check(IV, violating_table(40))
        assert (
            "too few rows, or too little variation, to test the statement that Z acts on Y only through X"
            in found.notes
        )


class TestImpliesNothing:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("X -> Y", True),
            ("X <-> Y", True),
            ("X; Y", False),
            ("X -> Y; X <-> Y", True),
            ("X -> Z -> Y; X <-> Y", True),
            (IV, False),
            ("X <-> Y; Y <-> Z; Z <-> X", False),
            ("U [latent]; U -> X; U -> Y; U -> Z", True),
            ("A -> B -> C -> D; B <-> D; A -> C", False),
        ],
    )
    def test_of_small_graphs(self, text, expected):
        assert implies_nothing(ADMG.from_string(text)) == expected

    def test_is_true_only_where_every_dependence_is_allowed(self):
        # a graph that separates a pair, given anything, implies something
        for directed in itertools.product([0, 1], repeat=3):
            for bidirected in itertools.product([0, 1], repeat=3):
                pairs = [("A", "B"), ("A", "C"), ("B", "C")]
                graph = ADMG(
                    list("ABC"),
                    [pair for pair, used in zip(pairs, directed, strict=True) if used],
                    [pair for pair, used in zip(pairs, bidirected, strict=True) if used],
                )
                separated = any(
                    graph.m_separated(a, b, given) for a, b in pairs for given in ([], sorted({"A", "B", "C"} - {a, b}))
                )
                assert not (separated and implies_nothing(graph))
                assert not (instruments(graph) and implies_nothing(graph))


@pytest.mark.parametrize(
    ("p", "q"), [(0.3, 0.0), (0.3, 1.0), (1.0, 0.0), (0.0, 0.0), (0.3, 0.3), (0.0, 0.4), (0.2, 0.7)]
)
def test_relative_entropy_of_certain_events_needs_no_warning(p, q):
    # numpy numbers warn where they divide by 0, and warnings are errors here
    expected = stats.entropy([p, 1 - p], [q, 1 - q])
    assert _relative_entropy(np.float64(p), np.float64(q)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_weights_and_a_copy_of_the_instrument(seed):
    rng = np.random.default_rng(seed)
    z = rng.integers(0, 2, 300)
    table = pd.DataFrame({"Z": z, "X": z, "Y": rng.integers(0, 2, 300)})
    check(IV, Dataset(table, weights=rng.exponential(size=300)))
