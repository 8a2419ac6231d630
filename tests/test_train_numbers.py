"""States of confounders of numbers: plain regressions say when there are too few, and they grow."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from napkins import GRAPH as NAPKIN
from napkins import NAPKINS, model_effect

import mdcm
from mdcm.data import Variable
from mdcm.mechanisms import Categorical, Flow
from mdcm.training.fit_warnings import poor_fit_warnings
from mdcm.training.normal_confounders import NormalProblem
from mdcm.training.objectives.problems import ComponentProblem
from mdcm.training.reference import is_behind, regression_losses
from mdcm.training.rows import FitRows


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
        # four numbers are estimated from as many rows as the weights are worth
        rest = weight[~mask]
        worth = 4 * rest.square().sum() / rest.sum().square(), 4 / (twice != 1).sum()
        assert torch.allclose(one - worth[0], again - worth[1], rtol=1e-3)

    def test_there_are_none_for_vectors(self):
        vector = Variable("V", "continuous", size=2)
        rows = fit_rows(V=np.zeros((10, 2)))
        assert regression_losses({"V": Flow(vector, (), (8,))}, [rows], held(10)) is None

    @pytest.mark.parametrize(
        ("gap", "rows", "behind"), [(0.0, 100, False), (0.015, 100, False), (0.025, 100, True), (math.nan, 100, True)]
    )
    def test_two_nats_over_all_rows_are_behind(self, gap, rows, behind):
        assert is_behind(gap, rows) is behind


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

    def test_confounders_become_normal_numbers_where_a_fit_is_behind_regressions(self):
        model = mdcm.fit("X <-> Y", self.table(0.02), mechanisms={"X": Quick, "Y": Quick})
        assert model.dcm.states == {"U[X,Y]": 256}
        assert len(self.grown(model)) == 1
        drawn = model.draw_samples(4000, seed=1).table
        assert np.corrcoef(drawn["X"], drawn["Y"])[0, 1] > 0.998
        mean, error, rows = self.trained(model)["behind_regressions"]
        assert rows == 300
        assert mean < 2 * error

    def test_two_confounders_of_one_number_and_levels(self):
        rng = np.random.default_rng(0)
        u, v = rng.normal(size=(2, 400))
        table = pd.DataFrame({
            "X": u + 0.05 * rng.normal(size=400),
            "Y": u + 0.3 * v + 0.05 * rng.normal(size=400),
            "L": (v + 0.3 * rng.normal(size=400) > 0).astype(int),
        })  # fmt: skip
        with warnings.catch_warnings():
            # so few steps leave something of the levels
            warnings.simplefilter("ignore", UserWarning)
            model = mdcm.fit("X <-> Y; Y <-> L", table, mechanisms={"X": Quick, "Y": Quick})
        assert set(model.dcm.states.values()) == {32}
        drawn = model.draw_samples(4000, seed=1).table.astype(float)
        # levels take more than a few steps, and numbers begin where they belong
        assert drawn["X"].corr(drawn["Y"]) > 0.93

    def test_what_is_left_is_told(self):
        config = mdcm.TrainConfig(confounder_states=2)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            model = mdcm.fit("X <-> Y", self.table(0.02), mechanisms={"X": Quick, "Y": Quick}, config=config)
        (text,) = poor_fit_warnings(model.history)
        assert text in {str(one.message) for one in told}
        assert (
            "plain regressions describe the training rows better than the fit does, in nats per row: {X, Y} by" in text
        )
        assert "confounder='gaussian'" in text

    def test_a_linear_front_door_whose_treatment_the_confounder_nearly_decides(self):
        """The slope that least squares has, where eight states leave a quarter of it."""
        rng = np.random.default_rng(0)
        u = rng.normal(size=800)
        x = u + 0.1 * rng.normal(size=800)
        z = x + 0.3 * rng.normal(size=800)
        y = 2 * z - 2 * u + 0.5 * rng.normal(size=800)
        table = pd.DataFrame({"X": x, "Z": z, "Y": y})
        model = mdcm.fit("X -> Z; Z -> Y; X <-> Y", table, mechanisms=dict.fromkeys("XYZ", Quick))
        with pytest.warns(UserWarning, match="no row of the training data"):
            drawn = [model.draw_samples(4000, do={"X": v}, seed=1).table["Y"].mean() for v in (0.0, 1.0)]
        design = np.column_stack([z, x, np.ones(800)])
        slopes, left = np.linalg.lstsq(design, y, rcond=None)[:2]
        error = math.sqrt(float(left[0]) / 797 * np.linalg.inv(design.T @ design)[0, 0])
        # the effect of X on Z is known ten times as well
        assert abs(drawn[1] - drawn[0] - slopes[0] * np.polyfit(x, z, 1)[0]) < error

    @pytest.mark.parametrize("kind", ["linear-0.9", "linear-0.999"])
    def test_a_napkin_is_within_two_standard_errors_of_the_ratio_of_two_regressions(self, kind):
        """In four steps: what is linear is found where training starts."""
        rows = NAPKINS[kind].sample(1000, 0)
        _, error = NAPKINS[kind].plug_in(rows)
        model = mdcm.fit(NAPKIN, rows, mechanisms=dict.fromkeys("WRXY", Quick))
        assert abs(model_effect(model, 4000) - NAPKINS[kind].truth) < 2 * error

    def trained(self, model):
        return next(record for record in model.history if record["event"] == "trained")

    def test_a_loaded_model_has_the_states_it_has_grown(self, tmp_path):
        model = mdcm.fit("X <-> Y", self.table(0.02), mechanisms={"X": Quick, "Y": Quick})
        model.save(tmp_path / "run")
        assert mdcm.load(tmp_path / "run").dcm.states == model.dcm.states == {"U[X,Y]": 256}

    def test_states_are_tried_again_where_a_normal_number_is_no_better(self, monkeypatch):
        """Two clusters are told apart by states, and by a line in a normal number they are not."""

        class Worse(NormalProblem):
            def evaluate(self):
                found = super().evaluate()
                return replace(found, loss=found.loss + 10)

        monkeypatch.setattr("mdcm.training.ensemble_member.NormalProblem", Worse)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            model = mdcm.fit("X <-> Y", self.table(0.02), mechanisms={"X": Quick, "Y": Quick})
        assert model.dcm.states == {"U[X,Y]": 32}
        assert len(self.grown(model)) == 2

    @pytest.mark.parametrize(
        "config", [{"max_steps": 4}, {"confounder_states": 8}, {"confounder": "gaussian"}], ids=str
    )
    def test_nobody_asks_where_the_number_is_given_or_training_is_cut_short(self, config):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            config = mdcm.TrainConfig(**config)
            model = mdcm.fit("X <-> Y", self.table(0.02), mechanisms={"X": Quick, "Y": Quick}, config=config)
        assert not self.grown(model)

    def test_goes_on_after_a_kill_with_the_same_bits(self, tmp_path):
        config = mdcm.TrainConfig(checkpoint_seconds=0)
        arguments = {"mechanisms": {"X": Quick, "Y": Quick}, "config": config}
        whole = mdcm.fit("X <-> Y", self.table(0.02), **arguments)

        class Stop:
            steps = 0

            def start(self, *_): ...
            def finish(self, *_): ...
            def step(self, hnode, step):
                self.steps += 1
                if self.steps == 2:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            mdcm.fit("X <-> Y", self.table(0.02), **arguments, out=tmp_path / "run", progress=Stop())
        resumed = mdcm.fit("X <-> Y", self.table(0.02), **arguments, out=tmp_path / "run", resume=True)
        assert all(torch.equal(a, b) for a, b in zip(whole.dcm.parameters(), resumed.dcm.parameters(), strict=True))


class TestEqualRows:
    """Regressions are compared row by row with a fit that takes equal rows together."""

    def test_of_tables_whose_confounders_are_drawn(self):
        rng = np.random.default_rng(0)
        u = rng.integers(0, 2, 400)
        table = pd.DataFrame({name: np.where(rng.random(400) < 0.8, u, 1 - u) for name in "ABC"})
        config = mdcm.TrainConfig(confounder="monte-carlo", draws=16)
        # sixteen draws are too few for a sum over the states, which the regressions show
        with pytest.warns(UserWarning, match="plain regressions describe"):
            model = mdcm.fit("A <-> B; B <-> C", table, config=config, ensemble=0)
        (record,) = [one for one in model.history if one["event"] == "trained"]
        mean, error, rows = record["behind_regressions"]
        assert rows == 400
        assert np.isfinite([mean, error]).all()

    def test_values_of_equal_rows_are_one(self):
        table = pd.DataFrame({"X": [0, 0, 1, 1, 0], "Y": [1, 1, 0, 1, 1]})
        model = mdcm.fit("X <-> Y", table, config=mdcm.TrainConfig(max_steps=2))
        rows = fit_rows(**{name: table[name].to_numpy().copy() for name in "XY"})
        problem = ComponentProblem(model.dcm, ["X", "Y"], [rows], model.config, 0)
        problem.validate_on(torch.arange(5))
        values = torch.tensor([3.0, 3.0, 1.0, 2.0, 3.0])
        kept = problem.distinct(values)
        assert len(kept) == len(problem.evaluate().loss) == 3
        # what the mean over the rows is, the mean over distinct rows is as well
        assert problem.sample.mean(kept) == pytest.approx(float(values.mean()))
