"""Differences of mean losses on held-out rows: their standard errors with weights, groups and several fits."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import mdcm
from mdcm.data import Encoded
from mdcm.training.bootstrap import resampled
from mdcm.training.config import TrainConfig
from mdcm.training.losses import HeldOutLosses, HeldOutSample, effective_rows
from mdcm.training.rows import FitRows
from mdcm.training.rows import fit_rows as rows_of_fits

DRAWS = 4000


def fit_rows(rows, weight=None, place=None, unit=None):
    given = [None if one is None else torch.from_numpy(one) for one in (weight, place, unit)]
    return FitRows(
        ("A",), {"A": torch.zeros(rows)}, given[0], torch.arange(rows) if place is None else given[1], given[2]
    )


def oracle(values, weights, units, seed):
    """Standard deviation of the weighted mean where units are drawn anew, with replacement, a great many times."""
    rng = np.random.default_rng(seed)
    names, unit = np.unique(units, return_inverse=True)
    mass, products = (np.bincount(unit, one) for one in (weights, weights * values))
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
    return float(((counts @ products) / (counts @ mass)).std())


def problem(seed, *, distinct, weighted, grouped, fits):
    """Fits whose rows have one of a few values, or all different ones; a unit has rows of several values."""
    rng = np.random.default_rng(seed)
    count = 600
    made, merged, losses, everything, first = [], [], [], [], 0
    groups = rng.integers(150, size=2 * count) if grouped else None
    spread = rng.normal(size=2 * count)
    for number in range(fits):
        # the second fit sees half of the rows of the first, and others
        place = np.arange(count) + number * count // 2
        unit = place if groups is None else groups[place]
        weight = rng.exponential(size=2 * count)[unit] if weighted else None
        row = rng.integers(distinct, size=count) if distinct else np.arange(count)
        values = rng.normal(size=distinct or count)
        if not distinct:
            values += spread[unit]
        made.append(fit_rows(count, weight, place, None if groups is None else unit))
        merged.append((row, len(values)))
        losses.append(values)
        everything.append((values[row], np.ones(count) if weight is None else weight, unit))
        first += len(values)
    return made, merged, np.concatenate(losses), [np.concatenate(one) for one in zip(*everything, strict=True)]


@pytest.mark.parametrize("fits", [1, 2])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("distinct", [0, 7])
def test_the_error_is_that_of_units_drawn_anew(distinct, weighted, grouped, fits):
    made, merged, losses, (values, weights, units) = problem(
        1, distinct=distinct, weighted=weighted, grouped=grouped, fits=fits
    )
    sample = HeldOutSample.build(made, [None] * fits, merged if distinct else None)
    mean, error = sample.mean_and_error(torch.from_numpy(losses))
    assert mean == pytest.approx(np.average(values, weights=weights))
    assert sample.rows == pytest.approx(weights.sum() ** 2 / np.square(weights).sum())
    # a standard deviation of so many draws is known to 1 / sqrt(2 n), and a ratio is linear to one in so many units
    assert error == pytest.approx(oracle(values, weights, units, 0), rel=4 / math.sqrt(2 * DRAWS) + 4 / len(set(units)))


def test_fresh_data_vary_by_the_error_of_the_bootstrap():
    """Data sets and weights drawn anew: the weighted mean varies by the error, sqrt(2) times that without weights."""
    rng = np.random.default_rng(0)
    rows, means, errors, plain = 300, [], [], []
    for _ in range(2000):
        values, weight = rng.normal(size=rows), rng.exponential(size=rows)
        for given, found in ((weight, errors), (None, plain)):
            sample = HeldOutSample.build([fit_rows(rows, given)], [None])
            mean, error = sample.mean_and_error(torch.from_numpy(values))
            found.append(error)
            if given is not None:
                means.append(mean)
    tolerance = 4 / math.sqrt(2 * 2000) + 4 / rows
    assert np.mean(errors) == pytest.approx(np.std(means), rel=tolerance)
    assert np.mean(errors) / np.mean(plain) == pytest.approx(math.sqrt(2), rel=tolerance)


def test_chosen_rows_are_judged_alone():
    rng = np.random.default_rng(0)
    weight, values = rng.exponential(size=50), torch.from_numpy(rng.normal(size=20))
    chosen = torch.arange(10, 30)
    part = HeldOutSample.build([fit_rows(50, weight)], [chosen]).mean_and_error(values)
    whole = HeldOutSample.build([fit_rows(20, weight[10:30])], [None]).mean_and_error(values)
    assert part == whole


def test_weights_that_are_equal_are_none():
    values = torch.from_numpy(np.random.default_rng(0).normal(size=50))
    unweighted, weighted = (
        HeldOutSample.build([fit_rows(50, w)], [None]).mean_and_error(values) for w in (None, np.full(50, 3.0))
    )
    assert unweighted == pytest.approx(weighted)
    assert unweighted[1] == pytest.approx(float(values.std(correction=0)) / math.sqrt(50))


def losses(values, weight, rows):
    """Losses of distinct rows, each of which stands for a share of the rows."""
    counts = (torch.as_tensor(weight) * rows).round().long()
    merged = torch.arange(len(counts)).repeat_interleave(counts).numpy()
    return HeldOutLosses(values, HeldOutSample.build([fit_rows(len(merged))], [None], [(merged, len(counts))]))


def test_a_difference_within_its_error_is_not_worse():
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(1000, generator=generator)
    weight = torch.full((1000,), 1 / 1000)
    noise = torch.randn(1000, generator=generator)
    noise = (noise - noise.mean()) / noise.std(correction=0)
    best = losses(base, weight, 1000)
    # the standard error of the mean difference is 1 / sqrt(1000), and a third of it is allowed
    for shift, worse in [(-1.0, False), (0.3 / 1000**0.5, False), (0.37 / 1000**0.5, True)]:
        assert losses(base + noise + shift, weight, 1000).worse_than(best) == worse
    assert losses(base * torch.nan, weight, 1000).worse_than(best)
    # merged rows count as often as they stand for rows
    merged = losses(torch.tensor([0.5, 1.5]), [0.5, 0.5], 10_000)
    assert merged.mean == 1.0
    assert losses(torch.tensor([0.523, 1.479]), [0.5, 0.5], 10_000).worse_than(merged)
    few = losses(torch.tensor([0.5, 1.5]), [0.5, 0.5], 4)
    assert not losses(torch.tensor([0.523, 1.479]), [0.5, 0.5], 4).worse_than(few)


def test_losses_of_other_rows_are_refused():
    with pytest.raises(ValueError, match=r"losses of 2 rows must be as many, not \(3,\)"):
        HeldOutLosses(torch.zeros(3), losses(torch.zeros(2), [0.5, 0.5], 10).sample)


def test_rows_of_resampled_data_are_worth_half_as_much():
    data = {"d1": Encoded("d1", {"X": np.zeros(20_000)}, rows=20_000)}
    weights = resampled(data, seed=0)["d1"].weights
    # the mean square of exponential weights is 2, with a standard deviation of sqrt(20) for one row
    assert effective_rows([weights]) == pytest.approx(10_000, rel=4 * math.sqrt(20) / 2 / math.sqrt(20_000))


def test_groups_reach_the_rows_of_a_fit():
    model = mdcm.fit("X -> Y", {"X": [0, 1] * 50, "Y": [0, 0, 1, 1] * 25}, config=TrainConfig(max_steps=2))
    first = Encoded("first", {"X": np.zeros(4, int), "Y": np.zeros(4, int)}, rows=4, groups=np.array([5, 5, 9, 5]))
    second = Encoded("second", {"X": np.zeros(2, int), "Y": np.zeros(2, int)}, rows=2)
    names = ("first", "second")

    class Fit:
        variables, datasets = frozenset("Y"), names

    class HNode:
        fits = (Fit,)

    data = {"first": first, "second": second}
    (found,) = rows_of_fits(model.dcm, HNode, data)
    assert found.unit.tolist() == [0, 0, 1, 0, 4, 5]
    (plain,) = rows_of_fits(model.dcm, HNode, {**data, "first": Encoded("first", dict(first), rows=4)})
    assert plain.unit is None


def test_held_out_rows_with_weights_are_told_as_what_they_are_worth():
    rng = np.random.default_rng(0)
    u = rng.random(2000) < 0.5
    table = pd.DataFrame({"X": (rng.random(2000) < 0.2 + 0.6 * u), "Y": rng.random(2000) < 0.3 + 0.4 * u}).astype(int)
    weights = rng.exponential(size=2000)
    for given, low, high in ((None, 200, 200), (weights, 60, 140)):
        model = mdcm.fit("X <-> Y", mdcm.Dataset(table, weights=given))
        (found,) = [record["heldout_rows"] for record in model.history if record["event"] == "trained"]
        # 200 rows are held out; exponential weights make them worth half, give or take sqrt(5 / 200) of that
        assert low <= found <= high
