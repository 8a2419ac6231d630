"""Numbers far from all others: what counts as one, that it is told, and that a fit is not about it."""

import numpy as np
import pandas as pd
import pytest
import torch

import mdcm
from mdcm.data import Dataset, Schema, limit_outliers, validate

FEW = mdcm.TrainConfig(max_steps=5)


def limited(table, nodes=None, variables=None):
    """Limited data sets and what was found."""
    nodes = list(table.columns) if nodes is None else nodes
    datasets = validate(table, nodes)
    return limit_outliers(datasets, Schema.infer(datasets, variables))


def normal(n=1000, seed=0):
    return np.random.default_rng(seed).normal(size=n)


class TestWhatCounts:
    @pytest.mark.parametrize("value", [1e6, -1e6, 1e300, 60.0])
    def test_a_single_wild_value(self, value):
        x = normal()
        x[17] = value
        (table,), (found,) = limited(pd.DataFrame({"X": x}))
        rest = np.delete(x, 17)
        wanted = rest.max() if value > 0 else rest.min()
        assert table.table["X"][17] == wanted == found.limit
        assert (table.table["X"].drop(17) == rest).all()
        spread = np.subtract(*np.quantile(x, [0.75, 0.25]))
        assert (found.variable, found.row, found.value, found.count) == ("X", 17, value, 1)
        assert found.ranges == pytest.approx(abs(value - np.median(x)) / spread)

    def test_several_of_several_sizes_on_both_sides(self):
        x = normal()
        x[[3, 40, 500, 501]] = [1e4, -9e4, 1e9, 99_999]
        (table,), (found,) = limited(pd.DataFrame({"X": x}))
        rest = np.delete(x, [3, 40, 500, 501])
        assert table.table["X"][[3, 500, 501]].tolist() == [rest.max()] * 3
        assert table.table["X"][40] == rest.min()
        assert (found.row, found.value, found.count) == (500, 1e9, 4)

    def test_beside_a_value_that_most_rows_have(self):
        # a dose: most rows are exactly 0, so that quartiles say nothing
        dose = np.where(np.arange(1000) % 3 == 0, 1 + np.random.default_rng(0).random(1000), 0.0)
        dose[9] = 5e5
        (table,), (found,) = limited(pd.DataFrame({"X": dose}))
        assert found.row == 9
        assert table.table["X"][9] == np.delete(dose, 9).max()

    def test_an_entry_of_a_vector(self):
        array = np.random.default_rng(0).normal(size=(300, 3))
        array[5, 1] = -1e5
        (made,), (found,) = limit_outliers((data := validate(Dataset(arrays={"W": array}), ["W"])), Schema.infer(data))
        assert (found.variable, found.row) == ("W[1]", 5)
        assert made.arrays["W"][5, 1] == np.delete(array[:, 1], 5).min()
        assert array[5, 1] == -1e5
        assert (made.arrays["W"][:, [0, 2]] == array[:, [0, 2]]).all()

    def test_whole_numbers_and_dates_keep_their_type(self):
        generator = np.random.default_rng(0)
        counts = generator.poisson(200, 500)
        counts[7] = 1_000_000
        days = pd.to_datetime("2020-01-01") + pd.to_timedelta(generator.integers(0, 300, 500), unit="D")
        days = days.where(np.arange(500) != 8, pd.Timestamp("2200-01-01"))
        table = pd.DataFrame({"count": counts, "day": days})
        (made,), found = limited(table, variables={"count": {"kind": "continuous"}, "day": {"kind": "continuous"}})
        assert [one.row for one in found] == [7, 8]
        assert made.table.dtypes.tolist() == table.dtypes.tolist()
        assert made.table["count"][7] == np.delete(counts, 7).max()
        assert made.table["day"][8] == table["day"].drop(8).max()

    @pytest.mark.parametrize(
        "values",
        [
            normal(4000),
            np.exp(normal(4000)),
            np.random.default_rng(1).standard_t(3, 4000),
            np.random.default_rng(2).exponential(size=4000),
            np.random.default_rng(3).random(4000) < 0.02,
            np.repeat([0.0, 1e6], [900, 100]),
            np.repeat([0.0, 1.0], [999, 1]),
            np.arange(10.0),
        ],
        ids=["normal", "lognormal", "t3", "exponential", "rare", "two places", "one of ones", "few"],
    )
    def test_tails_and_steps_are_none(self, values):
        values = np.asarray(values, dtype=float)
        datasets = validate(pd.DataFrame({"X": values, "Y": np.arange(len(values)) % 2}), ["X", "Y"])
        schema = Schema.infer(datasets, {"X": {"kind": "continuous"}})
        made, found = limit_outliers(datasets, schema)
        assert not found
        assert all(one is other for one, other in zip(made, datasets, strict=True))

    def test_what_an_experiment_sets_and_levels_are_left_alone(self):
        x = normal()
        trial = x.copy()
        trial[:3] = 1e5
        levels = np.where(np.arange(1000) < 2, 10_000, np.arange(1000) % 3)
        data = [Dataset({"X": x, "L": levels}), Dataset({"X": trial, "L": levels}, do="X")]
        datasets = validate(data, ["X", "L"])
        _, found = limit_outliers(datasets, Schema.infer(datasets))
        assert not found


class TestFit:
    def data(self, value, n=300, seed=0):
        generator = np.random.default_rng(seed)
        z = generator.normal(size=n)
        x = (generator.random(n) < 1 / (1 + np.exp(-z))).astype(int)
        table = pd.DataFrame({"Z": z, "X": x, "Y": x + z + generator.normal(size=n)})
        row = int(np.flatnonzero(x == 0)[4])
        table.loc[row, "Y"] = table["Y"].drop(row).max() if value is None else value
        return table, row

    @pytest.mark.parametrize(("value", "shown"), [(1e6, "1,000,000"), (1e18, r"1e\+18"), (-5432.1, r"-5432\.1")])
    def test_is_the_fit_of_the_nearest_value_bit_for_bit(self, value, shown):
        """Scales, regressions and steps: nothing sees how far away it was."""
        (wild, row), (mended, _) = self.data(value), self.data(None)
        if value < 0:
            mended.loc[row, "Y"] = mended["Y"].drop(row).min()
        graph = "Z -> X -> Y; Z -> Y"
        with pytest.warns(UserWarning, match=rf"'Y' in row {row} of .* is {shown}, .* Correct wrong numbers"):
            found = mdcm.fit(graph, wild, config=FEW)
        wanted = mdcm.fit(graph, mended, config=FEW)
        assert found.schema == wanted.schema
        for name, tensor in wanted.dcm.state_dict().items():
            assert torch.equal(found.dcm.state_dict()[name], tensor), name

    def test_of_a_parent_too(self):
        table, _ = self.data(None)
        wild = table.assign(Z=table["Z"].where(table.index != 11, -1e7))
        with pytest.warns(UserWarning, match="'Z' in row 11 of .* counts as -"):
            found = mdcm.fit("Z -> Y; X -> Y", wild, config=FEW)
        assert found.schema["Z"].span[0] == wild["Z"].drop(11).min()

    def test_rows_are_counted_as_the_user_counts_them(self):
        table, row = self.data(1e6)
        table.loc[0, "X"] = np.nan
        with pytest.warns(UserWarning, match=rf"'Y' in row {row} of"):
            mdcm.fit("X -> Y; Z -> Y", Dataset(table, dropna=True), config=FEW)

    def test_a_loaded_model_knows_its_data_again(self, tmp_path):
        table, _ = self.data(1e6)
        with pytest.warns(UserWarning, match="far from all others"):
            mdcm.fit("Z -> Y; X -> Y", table, config=FEW).save(tmp_path / "run")
        model = mdcm.load(tmp_path / "run")
        model.attach(table)
        model.train_ensemble(2)
        assert len(model.members) == 2

    def test_the_other_arm_keeps_its_mean(self):
        table, _ = self.data(1e6, n=600)
        with pytest.warns(UserWarning, match="far from all others"):
            model = mdcm.fit("Z -> X -> Y; Z -> Y", table, config=mdcm.TrainConfig(max_steps=150))
        answer = model.query("E[Y | do(X=1)]", 20_000, allow_low_support=True)
        # the mean of 1 + Z + e is known from 600 rows up to sqrt(2 / 300), and the linear regression is exact here
        assert abs(answer.value - 1) < 4 * (2 / 300) ** 0.5
