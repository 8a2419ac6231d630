"""Independences of numbers and mixtures: true ones are rarely rejected whatever the shape, and dependences are seen."""

import numpy as np
import pandas as pd
import pytest
from nonlinear import KINDS, p_value
from scipy import stats

from mdcm.checking import check
from mdcm.checking.cuts import best_cut, cells
from mdcm.checking.regressions import Regression, StratumMeans, leaf_centred, leaves
from mdcm.data import Dataset


class TestRates:
    """A smaller version of bench/check.py: all kinds together, since few tables of each say little."""

    COUNT = 8

    @pytest.mark.parametrize("rows", [500])
    def test_true_graphs_are_rarely_rejected(self, rows):
        p = np.array([p_value(kind, rows, seed) for kind in KINDS for seed in range(self.COUNT)])
        for level in (0.01, 0.05, 0.2):
            assert (p < level).sum() <= stats.binom.ppf(0.999, len(p), level)

    @pytest.mark.parametrize("kind", ["wave", "product", "logit_wave"])
    def test_large_tables_are_no_worse(self, kind):
        p = np.array([p_value(kind, 5_000, seed) for seed in range(4)])
        assert (p < 0.05).sum() <= stats.binom.ppf(0.999, len(p), 0.05)

    def test_dependences_are_seen(self):
        strengths = {"logit_wave": 0.5, "two_logits": 0.5, "chain": 0.5}
        seen = [p_value(kind, 500, seed, strengths.get(kind, 0.4)) < 0.05 for kind in KINDS for seed in range(2)]
        assert sum(seen) >= stats.binom.ppf(0.001, len(seen), 0.9)


class TestDependencesWithoutCorrelation:
    @staticmethod
    def causes(seed):
        rng = np.random.default_rng([seed, 82])
        z, x, noise = rng.normal(size=(3, 800))
        return rng, z, x, noise

    @pytest.mark.parametrize(
        "effect",
        [
            lambda z, x, noise: x**2 + noise,
            lambda z, x, noise: 0.6 * z * x + noise,
            lambda z, x, noise: np.exp(0.5 * x) * noise,
            lambda z, x, noise: np.cos(3 * x) + 0.5 * noise,
        ],
        ids=["square", "sign-changes", "spread", "wave"],
    )
    def test_are_seen_beside_a_common_cause(self, effect):
        for seed in range(2):
            _, z, x, noise = self.causes(seed)
            table = pd.DataFrame({"Z": z, "X": np.sin(3 * z) + x, "Y": np.sin(3 * z) + effect(z, x, noise)})
            assert len(check("X <- Z -> Y", table).rejected) == 1


class TestRegression:
    def test_residuals_are_linear_in_the_column_for_a_given_choice(self):
        rng = np.random.default_rng(0)
        z = rng.normal(size=(300, 1))
        regression = Regression(z, np.empty((300, 0), dtype=np.int64), None, None)
        y = np.sin(3 * z) + 0.3 * rng.normal(size=(300, 1))
        left = regression.residuals(y)
        scaled = regression.residuals(7 - 5 * y)
        assert scaled.values == pytest.approx(-5 * left.values, abs=1e-8)
        assert scaled.kept == pytest.approx(left.kept)

    @pytest.mark.parametrize("n", [300, 2_000])
    @pytest.mark.parametrize("mean", [lambda z, w: np.sin(4 * z), lambda z, w: z * w, lambda z, w: np.sin(3 * z) * w])
    def test_learns_waves_and_products(self, n, mean):
        rng = np.random.default_rng(3)
        z, w, noise = rng.uniform(-1.5, 1.5, n), rng.normal(size=n).clip(-2, 2), 0.3 * rng.normal(size=n)
        regression = Regression(np.stack([z, w], axis=1), np.empty((n, 0), dtype=np.int64), None, None)
        left = regression.residuals((mean(z, w) + noise)[:, None])
        # what is left beside noise, as a share of noise
        assert np.mean((left.values[:, 0] - noise) ** 2) < 0.5 * np.mean(noise**2)

    @pytest.mark.parametrize("noise", [0.1, 0.3])
    def test_learns_the_sign_of_a_product(self, noise):
        """Beside one row on the wrong side of each of two cuts, and four means."""
        rng = np.random.default_rng(0)
        n = 500
        z, error = rng.normal(size=(n, 2)), noise * rng.normal(size=n)
        mean = np.sign(z[:, 0] * z[:, 1])
        left = Regression(z, np.empty((n, 0), dtype=np.int64), None, None).residuals((mean + error)[:, None])
        missed = left.values[:, 0] - error
        assert (np.abs(missed) > 1).sum() <= 2
        assert np.mean(missed[np.abs(missed) < 1] ** 2) < 4 * 4 * noise**2 / n

    def test_learns_a_bent_sum(self):
        rng = np.random.default_rng(0)
        n = 2_000
        z, error = rng.normal(size=(n, 5)), 0.1 * rng.normal(size=n)
        mean = np.tanh(np.sin(2 * z).sum(axis=1))
        left = Regression(z, np.empty((n, 0), dtype=np.int64), None, None).residuals((mean + error)[:, None])
        # a sum of functions leaves more than noise
        assert np.mean((left.values[:, 0] - error) ** 2) < np.mean(error**2)

    @pytest.mark.parametrize("weighted", [False, True])
    def test_shares_kept_are_those_of_noise(self, weighted):
        rng = np.random.default_rng(1)
        z = rng.normal(size=(200, 1))
        weights = rng.choice([0.5, 2.0], 200) if weighted else None
        regression = Regression(z, np.empty((200, 0), dtype=np.int64), weights, None)
        # noise of the variance that the weights speak of
        size = 1.0 if weights is None else 1 / np.sqrt(weights)[:, None]
        columns = size * rng.normal(size=(200, 300))
        left = regression.residuals(columns)
        ratio = float((left.values**2).sum() / ((columns - columns.mean(axis=0)) ** 2).sum())
        # the choice of the smoothness adds to the error, hence the factor 3
        assert ratio == pytest.approx(float(left.kept.mean()), abs=3 * np.sqrt(2 / columns.size))

    def test_means_within_strata_keep_the_rest(self):
        strata, weights = np.array([0, 0, 1, 1, 1, 2]), np.array([1.0, 3, 1, 1, 2, 1])
        left = StratumMeans(strata, weights).residuals(np.array([[1.0], [5], [2], [2], [6], [9]]))
        assert left.values[:, 0] == pytest.approx([-3, 1, -2, -2, 2, 0])
        assert left.kept[:5, 0] == pytest.approx([3 / 4, 1 / 4, 3 / 4, 3 / 4, 1 / 2])


def slow_cut(first, second, values, weights):
    """The same by looking at every pair of places."""

    def places(column):
        ordered = np.unique(column)
        return (ordered[1:] + ordered[:-1]) / 2

    def squares(mask):
        return (weights * values)[mask].sum() ** 2 / weights[mask].sum() if mask.any() else 0.0

    def explained(a, b):
        sides = [(first <= a) == low for low in (True, False)], [(second <= b) == low for low in (True, False)]
        return sum(squares(one & other) for one in sides[0] for other in sides[1]) - squares(np.ones(len(first), bool))

    return max(explained(a, b) for a in places(first) for b in places(second))


class TestCuts:
    @pytest.mark.parametrize("seed", range(20))
    def test_the_gain_is_that_of_its_places_and_at_most_the_best(self, seed):
        rng = np.random.default_rng([seed, 84])
        n = int(rng.integers(5, 40))
        first, second = rng.integers(0, 12, size=(2, n)) / 1.0 if seed % 2 else rng.normal(size=(2, n))
        values, weights = np.sign(first * second) + rng.normal(size=n), rng.uniform(0.5, 2, n)
        a, b, gain = best_cut(first, second, values, weights)
        parts = cells(first, second, (a, b))
        left = (
            values
            - parts @ np.linalg.lstsq(parts * np.sqrt(weights)[:, None], values * np.sqrt(weights), rcond=None)[0]
        )
        mean = np.average(values, weights=weights)
        assert gain == pytest.approx((weights * ((values - mean) ** 2 - left**2)).sum())
        assert gain == pytest.approx(slow_cut(first, second, values, weights))

    def test_columns_that_are_constant_are_not_cut(self):
        a, b, gain = best_cut(np.zeros(9), np.zeros(9), np.arange(9.0), np.ones(9))
        assert (a, b) == (np.inf, np.inf)
        assert gain == 0

    def test_many_rows_are_cut_where_they_jump(self):
        rng = np.random.default_rng(0)
        first, second = rng.uniform(-1, 1, size=(2, 20_000))
        a, b, _ = best_cut(first, second, np.where((first > 0.123) == (second > -0.456), 1.0, -1.0), np.ones(20_000))
        # neighbours are 1e-4 apart on average, and the farthest of so many ten times that
        assert abs(a - 0.123) < 1e-3
        assert abs(b + 0.456) < 1e-3


class TestLeaves:
    @pytest.mark.parametrize("n", [1, 8, 9, 100, 1_001])
    def test_are_small_and_near(self, n):
        points = np.random.default_rng(0).normal(size=(n, 2))
        numbers = leaves(points)
        sizes = np.bincount(numbers)
        assert sizes.max() <= 8
        assert sizes.min() >= min(n, 4)
        if n > 1_000:
            within = sum(points[numbers == k].var(axis=0).sum() * size for k, size in enumerate(sizes))
            assert within < 0.05 * n * points.var(axis=0).sum()

    def test_centring_takes_the_mean_of_the_others(self):
        near = np.array([0, 0, 0, 1])
        columns = np.array([[1.0], [2], [6], [5]])
        assert leaf_centred(columns, near, None)[:, 0] == pytest.approx([-3, -1.5, 4.5, 5])
        # rows of a group are one unit, whose mean counts
        groups = np.array([0, 0, 1, 2, 3])
        columns = np.array([[0.0], [2], [2], [6], [5]])
        assert leaf_centred(columns, near, groups)[:, 0] == pytest.approx([-4, -2, -1.5, 4.5, 5])


class TestWeightsAndGroups:
    def test_groups_keep_the_level_where_causes_are_numbers(self):
        alarms = 0
        for seed in range(30):
            rng = np.random.default_rng([seed, 83])
            rows = np.repeat(np.arange(150), rng.integers(1, 6, size=150))
            table = KINDS["wave"](rng, 150).iloc[rows]
            alarms += len(check("X <- Z -> Y", Dataset(table, groups=rows)).rejected)
        assert alarms <= stats.binom.ppf(0.999, 30, 0.05)

    def test_weights_undo_a_selection_given_a_number(self):
        rng = np.random.default_rng(4)
        z = rng.normal(size=3_000)
        x, y = np.sin(3 * z) + rng.normal(size=3_000), np.cos(3 * z) + rng.normal(size=3_000)
        table = pd.DataFrame({"Z": z, "X": x, "Y": y})
        chance = np.where(x + y > 0.5, 1.0, 0.3)
        seen = rng.random(3_000) < chance
        assert len(check("X <- Z -> Y", table[seen]).rejected) == 1
        assert check("X <- Z -> Y", Dataset(table[seen], weights=1 / chance[seen])).rejected.empty
