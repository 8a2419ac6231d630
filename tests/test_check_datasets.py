"""What a graph says of two datasets side by side: against exact distributions, and at known rates."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import random_admg
from scipy import stats
from strategies import admgs

from mdcm.checking import check, regimes, statement
from mdcm.checking.independences import Separators
from mdcm.checking.statistics import excess_test, log_hypergeometric_tail, score_test
from mdcm.data import Dataset
from mdcm.graph import ADMG
from mdcm.scm import random_discrete


def regime(truth, targets, seed):
    """Joint distribution of all nodes, axes in their order, where targets are set in some random way together."""
    nodes = truth.graph.nodes
    free = [name for name in nodes if name not in targets]
    policy = np.random.default_rng(seed).dirichlet(np.ones(2 ** len(targets)))
    joint = np.zeros((2,) * len(nodes))
    for share, values in zip(policy, itertools.product(range(2), repeat=len(targets)), strict=True):
        do = dict(zip(targets, values, strict=True))
        part = np.ones(()) if not free else truth.exact(free, do=do or None).to_numpy().reshape((2,) * len(free))
        joint[tuple(do.get(name, slice(None)) for name in nodes)] = share * part
    return joint


def conditional(joint, nodes, y, z):
    """P(y | z) as an array, axes z in order and y last."""
    kept = [nodes.index(name) for name in (*z, y)]
    gone = tuple(k for k in range(len(nodes)) if k not in kept)
    table = np.moveaxis(joint.sum(axis=gone, keepdims=True), kept, range(len(kept))).reshape((2,) * len(kept))
    return table / table.sum(axis=-1, keepdims=True)


@st.composite
def two_targets(draw):
    drawn = draw(admgs(min_nodes=2, max_nodes=5, max_latents=1, max_bidirected=3))
    sets = st.lists(st.sampled_from(drawn.nodes), unique=True, max_size=2)
    return drawn.admg(), draw(sets), draw(sets)


class TestRegimes:
    @settings(max_examples=150, deadline=None)
    @given(two_targets(), st.integers(0, 1_000))
    def test_what_is_separated_is_alike_however_targets_were_set(self, case, seed):
        graph, first, second = case
        truth = random_discrete(graph, levels=2, seed=seed)
        one, other = (regime(truth, targets, [seed, k]) for k, targets in enumerate((first, second)))
        both, name = regimes(graph, first, second)
        separators = Separators(both, both.nodes, ())
        nodes = list(graph.nodes)
        for y in nodes:
            if y in first or y in second:
                continue
            places = sorted(separators.columns.index(both.index(node)) for node in (name, y))
            found = separators.independence(*places)
            if found is not None:
                assert {found.x, found.y} == {name, y}
                assert conditional(one, nodes, y, found.given) == pytest.approx(
                    conditional(other, nodes, y, found.given), abs=1e-9
                )

    @pytest.mark.parametrize(
        ("text", "first", "second", "y", "z"),
        [
            ("X -> Z -> Y; X <-> Y", [], ["X"], "Z", ("X",)),
            ("X -> Y; W -> Y", [], ["X"], "W", ()),
            ("X -> Z -> Y; X <-> Y", ["X"], ["X"], "Y", ("Z",)),
            ("X -> Y; X <-> Y; C -> X; C -> Y", [], ["X"], "C", ()),
            ("X -> Y; X <-> Y", [], [], "Y", ()),
        ],
    )
    def test_finds_what_is_alike(self, text, first, second, y, z):
        both, name = regimes(ADMG.from_string(text), first, second)
        separators = Separators(both, both.nodes, ())
        pair = sorted(separators.columns.index(both.index(node)) for node in (name, y))
        assert separators.independence(*pair).given == z

    def test_do_not_claim_what_confounding_breaks(self):
        both, name = regimes(ADMG.from_string("X -> Y; X <-> Y"), [], ["X"])
        assert not both.m_separated(name, "Y")
        assert not both.m_separated(name, "Y", given="X")

    def test_take_a_name_that_no_variable_has(self):
        both, name = regimes(ADMG.from_string("dataset -> Y"), [], ["dataset"])
        assert name == "dataset_"
        assert both.to_string() == "dataset_ -> dataset -> Y"


class TestShares:
    @given(st.integers(1, 80), st.integers(1, 80), st.data())
    def test_excess_is_fishers_exact_test(self, rows, other_rows, data):
        hits, other = data.draw(st.integers(0, rows)), data.draw(st.integers(0, other_rows))
        found = excess_test(hits, rows, other, other_rows)
        if hits * other_rows <= other * rows:
            assert found["log_p"] == 0
            return
        table = [[hits, rows - hits], [other, other_rows - other]]
        expected = stats.fisher_exact(table, alternative="greater").pvalue
        assert math.exp(found["log_p"]) == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize(
        ("hits", "drawn", "marked", "total"), [(5_000, 9_000, 6_000, 20_000), (900, 1_000, 1_000, 10**6)]
    )
    def test_the_tail_does_not_underflow(self, hits, drawn, marked, total):
        expected = stats.hypergeom.logpmf(np.arange(hits, min(drawn, marked) + 1), total, marked, drawn)
        found = log_hypergeometric_tail(hits, drawn, marked, total)
        assert found == pytest.approx(np.logaddexp.reduce(expected), rel=1e-9)
        assert found < math.log(np.finfo(float).tiny)
        assert log_hypergeometric_tail(7, 6, 9, 20) == -math.inf

    def test_score_is_a_two_sample_test(self):
        rng = np.random.default_rng(0)
        hits, other = rng.random(400) < 0.4, rng.random(300) < 0.3
        sides = [(one, np.ones(len(one)), np.arange(len(one))) for one in (hits, other)]
        found = score_test(*sides)
        pooled = (hits.sum() + other.sum()) / 700
        variance = sum(sum((float(hit) - pooled) ** 2 for hit in one) / len(one) ** 2 for one in (hits, other))
        z = (hits.mean() - other.mean()) / math.sqrt(variance)
        assert found["statistic"] == pytest.approx(z**2)
        assert math.exp(found["log_p"]) == pytest.approx(stats.norm.sf(z))
        # the exact test of the same counts is not far
        exact = excess_test(int(hits.sum()), 400, int(other.sum()), 300)
        assert math.exp(exact["log_p"]) == pytest.approx(stats.norm.sf(z), rel=0.3)
        # the same rows three times are no more evidence
        thrice = [(np.repeat(one, 3), np.repeat(w, 3), np.repeat(g, 3)) for one, w, g in sides]
        assert score_test(*thrice)["statistic"] == pytest.approx(found["statistic"])
        assert score_test(*sides[::-1])["log_p"] == 0


def datasets(graph, seed, rows, targets):
    """Rows as they come, and rows whose targets were set at random."""
    truth = random_discrete(graph, levels=2, seed=seed)
    rng = np.random.default_rng([seed, 5])
    do = {name: rng.integers(0, 2, rows) for name in targets}
    return [
        Dataset(truth.sample(rows, seed=2 * seed), name="seen"),
        Dataset(truth.sample(rows, do=do, seed=2 * seed + 1), do=targets, name="trial"),
    ]


class TestRates:
    @pytest.mark.parametrize("weighted", [False, True])
    def test_true_graphs_are_rarely_rejected(self, weighted):
        count, rejected, tests = 60, 0, {}
        for seed in range(count):
            graph = random_admg(5, 6, 2, seed)
            rng = np.random.default_rng([seed, 6])
            targets = [str(name) for name in rng.choice(graph.nodes, size=1 + seed % 2, replace=False)]
            data = datasets(graph, seed, 800, targets)
            if weighted:
                data = [
                    Dataset(one.table, do=one.do, name=one.name, weights=rng.choice([0.5, 1.5], len(one)))
                    for one in data
                ]
            found = check(graph, data)
            rejected += not found.rejected.empty
            for kind, number in found.table["kind"].value_counts().items():
                tests[kind] = tests.get(kind, 0) + number
        assert rejected <= stats.binom.ppf(0.999, count, 0.05)
        # instruments are few
        assert tests.pop("instrument") > 0
        assert set(tests) == {"independence", "invariance", "consistency"}
        assert min(tests.values()) >= count

    def test_p_of_shares_is_uniform_or_larger_where_they_are_equal(self):
        # nobody has the value unless it is set, and setting it changes nothing: the inequality is an equality
        rng = np.random.default_rng(3)
        p = [
            math.exp(excess_test(int(rng.binomial(300, 0.2)), 300, int(rng.binomial(500, 0.2)), 500)["log_p"])
            for _ in range(2_000)
        ]
        for level in (0.01, 0.05, 0.2):
            share = float(np.mean(np.array(p) <= level))
            assert share <= level + 3 * math.sqrt(level * (1 - level) / 2_000)
            assert share >= level / 3


class TestConflicts:
    GRAPH = ADMG.from_string("X -> Z -> Y; X <-> Y; C -> Y")

    def test_another_population_is_noticed(self):
        seen, _ = datasets(self.GRAPH, 1, 3_000, ["X"])
        other = seen.table.sample(3_000, weights=np.where(seen.table["C"] == 1, 3.0, 1.0), replace=True, random_state=0)
        found = check(self.GRAPH, [seen, Dataset(other, name="later")])
        worst = found.table.iloc[0]
        assert (worst["kind"], worst["y"], worst["given"], worst["dataset"]) == ("invariance", "C", (), "seen, later")
        assert worst["rejected"]
        first = str(found).splitlines()[1]
        assert first.startswith(
            "  1. by the graph, C has the same distribution in seen, later; the data contradict this (p = "
        )

    def test_a_mechanism_that_an_experiment_also_changed_is_noticed(self):
        seen, _ = datasets(self.GRAPH, 1, 3_000, ["X"])
        truth = random_discrete(self.GRAPH, levels=2, seed=1)
        rng = np.random.default_rng(0)
        do = {"X": rng.integers(0, 2, 3_000), "Z": rng.integers(0, 2, 3_000)}
        trial = truth.sample(3_000, do=do, seed=9)
        found = check(self.GRAPH, [seen, Dataset(trial, do=["X"], name="trial")])
        assert {("invariance", "Z", ("X",))} <= {(r.kind, r.y, r.given) for r in found.rejected.itertuples()}

    def test_what_came_by_itself_must_come_when_it_is_set(self):
        graph = ADMG.from_string("X -> Y; X <-> Y")
        rng = np.random.default_rng(0)
        x = rng.integers(0, 2, 2_000)
        seen = pd.DataFrame({"X": x, "Y": np.where(rng.random(2_000) < 0.9, x, 1 - x)})
        # in the trial Y = 1 is rarer under X = 1 than X = 1 and Y = 1 together are without it
        trial = pd.DataFrame({"X": 1, "Y": (rng.random(1_000) < 0.2).astype(int)})
        found = check(graph, [Dataset(trial, do=["X"], name="trial"), Dataset(seen, name="seen")])
        assert found.table[["kind", "x", "y"]].values.tolist() == [["consistency", "X", "Y"]]
        (row,) = found.rejected.to_dict("records")
        had, put = ((seen["X"] == 1) & (seen["Y"] == 1)).mean(), trial["Y"].mean()
        assert row["detail"] == f"P(X=1, Y=1) = {had:.3f} in seen, P(Y=1 | do(X=1)) = {put:.3f} in trial"
        # one of two levels of Y was chosen
        expected = stats.fisher_exact([[had * 2_000, (1 - had) * 2_000], [put * 1_000, (1 - put) * 1_000]], "greater")
        assert row["p"] == pytest.approx(2 * expected.pvalue, rel=1e-6)
        assert row["dataset"] == "trial, seen"
        assert statement(row) == "P(X=·, Y) ≤ P(Y | do(X=·))"
        line = str(found).splitlines()[1]
        assert line.startswith(f"  1. {row['detail']} (p = ")
        assert line.endswith(
            "perhaps the datasets come from two populations, or one of the experiments did more than set X"
        )
        assert str(found).startswith("1 inequality between datasets tested, 1 rejected at level 0.05")

    def test_is_seen_in_numbers_by_their_quarters(self):
        rng = np.random.default_rng(0)
        x = rng.integers(0, 2, 2_000)
        seen = pd.DataFrame({"X": x, "Y": rng.normal(size=2_000) + 5 * x})
        trial = pd.DataFrame({"X": 1, "Y": rng.normal(size=1_000)})
        right = pd.DataFrame({"X": 1, "Y": rng.normal(size=1_000) + 5})
        graph = ADMG.from_string("X -> Y; X <-> Y")
        found, other = (
            check(graph, [Dataset(seen, name="seen"), Dataset(one, do=["X"], name="trial")]) for one in (trial, right)
        )
        assert found.rejected["kind"].tolist() == ["consistency"]
        assert "Y>0.7" in found.rejected["detail"].iloc[0] or "Y>0.6" in found.rejected["detail"].iloc[0]
        assert other.table["kind"].tolist() == ["consistency"]
        assert other.rejected.empty

    def test_is_conditional_on_what_both_set(self):
        graph = ADMG.from_string("W -> X -> Y; W -> Y; X <-> Y")
        truth = random_discrete(graph, levels=2, seed=4)
        rng = np.random.default_rng(0)
        w, x = rng.integers(0, 2, 4_000), rng.integers(0, 2, 4_000)
        less = Dataset(truth.sample(4_000, do={"W": w}, seed=1), do=["W"], name="less")
        more = truth.sample(4_000, do={"W": w, "X": x}, seed=2)
        kept = check(graph, [less, Dataset(more, do=["W", "X"], name="more")])
        assert "consistency" in kept.table["kind"].tolist()
        assert kept.rejected.empty
        swapped = more.assign(Y=np.where(more["X"] == 1, 0, more["Y"]))
        found = check(graph, [less, Dataset(swapped, do=["W", "X"], name="more")])
        detail = found.rejected.query("kind == 'consistency'")["detail"].iloc[0]
        assert detail.startswith("P(X=1, Y=1 | do(W=")
        assert "P(Y=1 | do(W=" in detail

    def test_a_level_of_few_rows_is_left_out_where_rows_are_in_groups(self):
        rng = np.random.default_rng(0)
        rare = np.zeros(300, dtype=int)
        rare[:5] = 1
        data = Dataset(pd.DataFrame({"X": rng.integers(0, 2, 300), "C": rare}), groups=np.arange(300) // 2)
        found = check("X; C", data)
        assert found.table.empty
        assert found.notes == ("too few rows, or too little variation, to test the independence X ⊥ C",)

    def test_groups_keep_the_level(self):
        graph = ADMG.from_string("X -> Y; X <-> Y; C")
        rejected = 0
        for seed in range(40):
            rng = np.random.default_rng([seed, 9])
            seen, trial = datasets(graph, seed, 100, ["X"])
            copies = [np.repeat(np.arange(100), rng.integers(1, 12, 100)) for _ in range(2)]
            data = [
                Dataset(one.table.iloc[rows], do=one.do, name=one.name, groups=rows)
                for one, rows in zip((seen, trial), copies, strict=True)
            ]
            rejected += not check(graph, data).rejected.empty
        assert rejected <= stats.binom.ppf(0.999, 40, 0.05)

    def test_too_few_rows_are_noted(self):
        seen, trial = datasets(self.GRAPH, 3, 25, ["X"])
        found = check(self.GRAPH, [seen, trial])
        assert "consistency" not in found.table["kind"].tolist()
        assert any("of seen, trial, under the targets that only one of them sets" in note for note in found.notes)


class TestVectors:
    def test_are_tested_by_their_entries(self):
        rng = np.random.default_rng(0)
        x, noise = rng.normal(size=2_000), rng.normal(size=(2_000, 3))
        z = noise + np.stack([0 * x, x, 0 * x], axis=1)
        y = z[:, 1] + rng.normal(size=2_000)
        data = Dataset(pd.DataFrame({"X": x, "Y": y}), arrays={"Z": z})
        right = check("X -> Z -> Y", data)
        assert right.table[["x", "y", "given", "test"]].values.tolist() == [["X", "Y", ("Z",), "residuals"]]
        assert right.rejected.empty
        wrong = check("X; Z -> Y", data)
        assert {frozenset(pair) for pair in wrong.rejected[["x", "y"]].values.tolist()} == {
            frozenset("XZ"), frozenset("XY")
        }  # fmt: skip

    def test_of_many_entries_are_noted_where_rows_are_few(self):
        rng = np.random.default_rng(0)
        data = Dataset(pd.DataFrame({"X": rng.normal(size=100)}), arrays={"Z": rng.normal(size=(100, 40))})
        found = check("X; Z", data)
        assert found.table.empty
        assert found.notes == ("too few rows, or too little variation, to test the independence X ⊥ Z",)
