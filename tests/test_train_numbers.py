"""States of confounders of numbers: plain regressions say when there are too few, and they grow."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import mdcm
from mdcm.data import Variable
from mdcm.mechanisms import Categorical, Flow
from mdcm.train.problems import Losses
from mdcm.train.reference import regression_losses, worse_than_regressions
from mdcm.train.rows import FitRows


def fit_rows(**columns):
    values = {name: torch.from_numpy(column) for name, column in columns.items()}
    return FitRows(tuple(columns), values, None, torch.arange(len(next(iter(columns.values())))))


def held(rows, every=5):
    return torch.arange(rows) % every == 0


def judged(rows, every=5):
    return held(rows, every).nonzero().squeeze(1)


class TestRegressions:
    ROWS = 20_000

    def test_numbers_have_the_density_of_the_truth(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=self.ROWS)
        y = 1 + 2 * x - 0.5 * x**2 + 0.3 * rng.normal(size=self.ROWS)
        number = Variable("X", "continuous"), Variable("Y", "continuous")
        mechanisms = {"X": Flow(number[0], (), (8,)), "Y": Flow(number[1], [number[0]], (8,))}
        found = regression_losses(mechanisms, [fit_rows(X=x, Y=y)], held(self.ROWS), judged(self.ROWS)).numpy()
        left = (y - 1 - 2 * x + 0.5 * x**2) / 0.3
        truth = ((x**2 + left**2) / 2 + math.log(2 * math.pi) + math.log(0.3))[::5]
        # each of five numbers that are estimated costs half a row's worth
        assert abs((found - truth).mean()) < 5 * 5 / self.ROWS

    def test_levels_have_the_probability_of_the_truth(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=self.ROWS)
        p = 1 / (1 + np.exp(-1 - 2 * x))
        y = (rng.random(self.ROWS) < p).astype(np.int64)
        number = Variable("X", "continuous")
        mechanisms = {
            "X": Flow(number, (), (8,)),
            "Y": Categorical(Variable("Y", "categorical", levels=(0, 1)), [number], (8,)),
        }
        found = regression_losses(mechanisms, [fit_rows(X=x, Y=y)], held(self.ROWS), judged(self.ROWS)).numpy()
        truth = (x**2 / 2 + math.log(2 * math.pi) / 2 - np.log(np.where(y, p, 1 - p)))[::5]
        assert abs((found - truth).mean()) < 5 * 5 / self.ROWS

    def test_weights_count_as_rows(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(2, 400))
        twice = np.repeat(np.arange(400), np.where(np.arange(400) % 2, 1, 2))
        mechanisms = {"Y": Flow(Variable("Y", "continuous"), [Variable("X", "continuous")], (8,))}
        values = {"X": torch.from_numpy(x), "Y": torch.from_numpy(y)}
        weight = torch.from_numpy(np.where(np.arange(400) % 2, 1.0, 2.0))
        weighted = FitRows(("Y",), values, weight, torch.arange(400))
        repeated = FitRows(("Y",), {name: one[twice] for name, one in values.items()}, None, torch.arange(len(twice)))
        mask = torch.zeros(400, dtype=torch.bool)
        mask[1] = True
        one = regression_losses(mechanisms, [weighted], mask, torch.tensor([1]))
        again = regression_losses(mechanisms, [repeated], torch.from_numpy(twice == 1), torch.tensor([2]))
        assert torch.allclose(one, again, rtol=1e-3)

    def test_there_are_none_for_vectors(self):
        vector = Variable("V", "continuous", size=2)
        rows = fit_rows(V=np.zeros((10, 2)))
        assert regression_losses({"V": Flow(vector, (), (8,))}, [rows], held(10)) is None

    @pytest.mark.parametrize(("gap", "worse"), [(0.0, False), (0.1, False), (0.3, True), (math.nan, True)])
    def test_two_standard_errors_are_behind(self, gap, worse):
        # the standard error of a difference of spread 1 over 100 rows is .1
        difference = np.random.default_rng(0).normal(size=100)
        difference = (difference - difference.mean()) / difference.std() + gap
        found = Losses(torch.from_numpy(difference), torch.full((100,), 0.01), 100)
        assert worse_than_regressions(found, torch.zeros(100, dtype=torch.float64)) is worse


class Quick(Flow):
    """A flow that is trained for a moment by default."""

    steps = 4

    def training_defaults(self, rows):
        return super().training_defaults(rows) | {"steps": self.steps}


class TestGrowth:
    def table(self, spread, n=300, seed=0):
        rng = np.random.default_rng(seed)
        u = rng.normal(size=n)
        return pd.DataFrame({"X": u + spread * rng.normal(size=n), "Y": u + spread * rng.normal(size=n)})

    def grown(self, model):
        return [record for record in model.history if record["event"] == "grown"]

    @pytest.mark.parametrize("mixed", [False, True])
    def test_states_grow_where_a_fit_is_behind_regressions_and_what_is_left_is_told(self, mixed):
        table = self.table(0.02)
        if mixed:
            table["L"] = (table["Y"] > 0).astype(int)
        graph = "X <-> Y; Y <-> L; X <-> L" if mixed else "X <-> Y"
        with pytest.warns(UserWarning, match=r"does not draw what the data hold: .*'Y': .* raise confounder_states"):
            model = mdcm.fit(graph, table, mechanisms={"X": Quick, "Y": Quick})
        # of two confounders of one number the combinations count
        assert set(model.dcm.states.values()) == ({8} if mixed else {32})
        assert len(self.grown(model)) == (0 if mixed else 1)

    def test_a_loaded_model_has_the_states_it_has_grown(self, tmp_path):
        with pytest.warns(UserWarning, match="does not draw"):
            model = mdcm.fit("X <-> Y", self.table(0.02), mechanisms={"X": Quick, "Y": Quick})
        model.save(tmp_path / "run")
        assert mdcm.load(tmp_path / "run").dcm.states == model.dcm.states == {"U[X,Y]": 32}

    @pytest.mark.parametrize(
        "config", [{"max_steps": 4}, {"confounder_states": 8}, {"confounder": "gaussian"}], ids=str
    )
    def test_nobody_asks_where_the_number_is_given_or_training_is_cut_short(self, config):
        config = mdcm.TrainConfig(**config)
        if config.max_steps:
            model = mdcm.fit("X <-> Y", self.table(0.02), mechanisms={"X": Quick, "Y": Quick}, config=config)
        else:
            with pytest.warns(UserWarning, match="does not draw"):
                model = mdcm.fit("X <-> Y", self.table(0.02), mechanisms={"X": Quick, "Y": Quick}, config=config)
        assert not self.grown(model)
