"""Distances: laws, closed forms, slow definitions, and what bad input is told."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from mdcm.metrics import energy_distance, frechet_distance, kl_divergence, sampling_floor, tv_distance

probabilities = st.lists(st.floats(0.0, 1.0), min_size=2, max_size=8).filter(lambda p: sum(p) > 0.1)


def normalised(values):
    values = np.asarray(values)
    return values / values.sum()


def pairwise_energy(x, y, u=None, v=None):
    """The definition, one pair at a time."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    u = np.full(len(x), 1 / len(x)) if u is None else normalised(u)
    v = np.full(len(y), 1 / len(y)) if v is None else normalised(v)

    def mean(a, b, wa, wb):
        return sum(wa[i] * wb[j] * math.dist(a[i], b[j]) for i in range(len(a)) for j in range(len(b)))

    return math.sqrt(max(0.0, 2 * mean(x, y, u, v) - mean(x, x, u, u) - mean(y, y, v, v)))


def test_tv_distance_of_series_aligns_by_label_and_counts_missing_as_zero():
    a = pd.Series({"x": 0.2, "y": 0.8})
    b = pd.Series({"y": 0.5, "z": 0.5})
    assert tv_distance(a, b) == pytest.approx(0.5)
    assert tv_distance(a, a.iloc[::-1]) == 0.0
    assert tv_distance(a.to_dict(), b) == pytest.approx(0.5)


def test_tv_distance_aligns_levels_of_a_multiindex_by_name():
    index = pd.MultiIndex.from_product([[0, 1], ["a", "b"]], names=["X", "Y"])
    a = pd.Series([0.1, 0.2, 0.3, 0.4], index=index)
    swapped = a.reorder_levels(["Y", "X"]).sort_index()
    assert tv_distance(a, swapped) == 0.0
    with pytest.raises(ValueError, match="different variables"):
        tv_distance(a, a.rename_axis(["X", "Z"]))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_tv_distance_is_a_metric_and_the_largest_difference_of_an_event(data):
    size = data.draw(st.integers(2, 6))
    p, q, r = (normalised(data.draw(st.lists(st.floats(0.001, 1.0), min_size=size, max_size=size))) for _ in range(3))
    largest = max(sum(p[i] - q[i] for i in range(size) if event >> i & 1) for event in range(2**size))
    assert tv_distance(p, q) == pytest.approx(largest, abs=1e-12)
    assert tv_distance(p, q) == tv_distance(q, p)
    assert tv_distance(p, r) <= tv_distance(p, q) + tv_distance(q, r) + 1e-12
    # Pinsker
    assert tv_distance(p, q) <= math.sqrt(kl_divergence(p, q) / 2) + 1e-9


@settings(deadline=None, max_examples=100)
@given(probabilities)
def test_kl_divergence_of_a_distribution_from_itself_is_zero(values):
    p = normalised(values)
    assert kl_divergence(p, p) == pytest.approx(0.0, abs=1e-12)


def test_kl_divergence_is_infinite_where_the_model_excludes_what_is_real():
    assert kl_divergence({"x": 0.5, "y": 0.5}, {"x": 1.0}) == math.inf
    assert kl_divergence({"x": 1.0}, {"x": 0.5, "y": 0.5}) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([0.5, 0.6], [0.5, 0.5], "sums to 1.1"),
        ([1.5, -0.5], [0.5, 0.5], "negative probability"),
        ([math.nan, 1.0], [0.5, 0.5], "not finite"),
        ([], [], "no outcomes"),
        ([0.5, 0.5], [0.2, 0.3, 0.5], "different shapes"),
        ({"x": 1.0}, [1.0], "labelled"),
        (pd.Series([0.5, 0.5], index=["x", "x"]), {"x": 1.0}, "'x' twice"),
    ],
)
def test_tv_distance_refuses_what_is_no_distribution(a, b, message):
    with pytest.raises(ValueError, match=message):
        tv_distance(a, b)


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_energy_distance_matches_its_definition(data):
    d = data.draw(st.sampled_from([1, 1, 2, 3]))
    number = st.floats(-10, 10).map(lambda value: round(value, 3))
    sample = st.lists(st.lists(number, min_size=d, max_size=d), min_size=1, max_size=12)
    x, y = np.array(data.draw(sample)), np.array(data.draw(sample))
    u = np.array(data.draw(st.lists(st.floats(0.1, 1), min_size=len(x), max_size=len(x))))
    # the root turns an error of eps in the square into one of its root
    tolerance = 20 * math.sqrt(40 * np.finfo(float).eps)
    assert energy_distance(x, y) == pytest.approx(pairwise_energy(x, y), abs=tolerance)
    assert energy_distance(x, y, weights_a=u) == pytest.approx(pairwise_energy(x, y, u), abs=tolerance)
    assert energy_distance(x, x[::-1]) == pytest.approx(0, abs=tolerance)


def test_energy_distance_in_blocks_equals_the_sorted_one():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=3_000), rng.normal(0.3, size=2_500)
    padded = energy_distance(np.c_[x, np.zeros(3_000)], np.c_[y, np.zeros(2_500)])
    assert padded == pytest.approx(energy_distance(x, y), rel=1e-9)


def test_energy_distance_of_shifted_points_is_known():
    # one point each: 2 |x - y|
    assert energy_distance([[0.0, 0.0]], [[3.0, 4.0]]) == pytest.approx(math.sqrt(10))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [1.0], "at least one row"),
        ([[1.0, 2.0]], [1.0], "different dimensions"),
        ([math.inf], [1.0], "not finite"),
    ],
)
def test_energy_distance_refuses_bad_samples(a, b, message):
    with pytest.raises(ValueError, match=message):
        energy_distance(a, b)
    with pytest.raises(ValueError, match="weights_a"):
        energy_distance([1.0, 2.0], [1.0], weights_a=[1.0])


@pytest.mark.parametrize("cells", [2, 4, 64])
def test_sampling_floor_of_equal_cells_has_a_closed_form(cells):
    expected = math.sqrt((cells - 1) / (2 * math.pi * 20_000))
    assert sampling_floor(np.full(cells, 1 / cells), 20_000) == pytest.approx(expected, rel=1e-12)


def test_sampling_floor_is_the_mean_distance_of_frequencies():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(8))
    n, repeats = 5_000, 4_000
    distances = np.abs(rng.multinomial(n, p, size=repeats) / n - p).sum(axis=1) / 2
    error = distances.std() / math.sqrt(repeats)
    # the normal approximation itself is off by O(1 / (n min p)), far below the standard error here
    assert sampling_floor(p, n) == pytest.approx(distances.mean(), abs=4 * error)


def test_sampling_floor_shrinks_by_the_root_of_n():
    p = [0.1, 0.2, 0.7]
    assert sampling_floor(p, 400) == pytest.approx(sampling_floor(p, 100) / 2)
    with pytest.raises(ValueError, match="positive"):
        sampling_floor(p, 0)


class TestFrechetDistance:
    @given(st.integers(0, 2**32 - 1), st.integers(1, 6))
    def test_is_the_closed_form_by_a_general_matrix_root(self, seed, d):
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=(50, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d), rng.normal(size=(40, d))
        left, right = (np.atleast_2d(np.cov(one.T)) for one in (a, b))
        root = np.real(scipy.linalg.sqrtm(left @ right))
        expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(left + right - 2 * root)
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6, abs=1e-6)

    def test_of_a_moved_sample_is_the_squared_move(self):
        a = np.random.default_rng(0).normal(size=(30, 3))
        assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
        assert frechet_distance(a, a + np.array([1, 2, 2])) == pytest.approx(9)

    def test_features_that_never_vary(self):
        a = np.zeros((10, 4))
        assert frechet_distance(a, a + 2) == pytest.approx(16)

    @pytest.mark.parametrize(
        ("a", "b", "message"),
        [
            ([[1.0]], [[1.0], [2.0]], "needs two rows"),
            (np.zeros((3, 2)), np.zeros((3, 3)), "different dimensions, 2 and 3"),
            ([[np.nan], [1.0]], [[1.0], [2.0]], "finite"),
        ],
    )
    def test_bad_samples(self, a, b, message):
        with pytest.raises(ValueError, match=message):
            frechet_distance(a, b)
