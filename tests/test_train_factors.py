"""Linear models with normal confounders from second moments, against densities row by row and known estimators."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mdcm.training.factor_models import Equation, LinearFactors, Moments, fit_linear_factors


def moments(columns, equations, share=1.0):
    table = torch.from_numpy(np.column_stack(columns))
    return Moments(table.T @ table / len(table), share, tuple(equations))


def front_door(rows, seed, noise=0.1):
    rng = np.random.default_rng(seed)
    u = rng.normal(size=rows)
    x = u + noise * rng.normal(size=rows)
    z = x + 0.3 * rng.normal(size=rows)
    return x, z, 2 * z - 2 * u + 0.5 * rng.normal(size=rows)


class TestFits:
    @given(st.integers(0, 10_000))
    @settings(max_examples=5)
    def test_the_loss_is_the_mean_log_density_of_the_rows(self, seed):
        rng = np.random.default_rng(seed)
        x, z, y = front_door(200, seed, noise=0.7)
        fitted = fit_linear_factors(
            [Equation(0, (3,), (0,)), Equation(2, (3, 1), (0,))], [moments([x, z, y, np.ones(200)], (0, 1))], 1, seed
        )
        residuals = np.column_stack(
            [x - float(fitted.slopes[0]), y - fitted.slopes[1][0].item() - fitted.slopes[1][1].item() * z]
        )
        covariance = (fitted.loadings @ fitted.loadings.T + fitted.spreads.square().diag()).numpy()
        density = stats.multivariate_normal([0, 0], covariance).logpdf(residuals)
        pull = 1e-6 * float(fitted.loadings.square().sum())
        assert fitted.loss == pytest.approx(-density.mean() + pull, abs=1e-9)
        # no model nearby is better
        for _ in range(5):
            apart = residuals + 0.05 * rng.normal(size=2)
            assert stats.multivariate_normal([0, 0], covariance).logpdf(apart).mean() < density.mean() + 1e-6

    @pytest.mark.parametrize("noise", [0.03, 0.1, 1.0])
    def test_a_front_door_is_the_regression_on_mediator_and_treatment(self, noise):
        """With two children of one confounder the covariance of residuals is free, so that this is the optimum."""
        x, z, y = front_door(1000, 0, noise)
        fitted = fit_linear_factors(
            [Equation(0, (3,), (0,)), Equation(2, (3, 1), (0,))], [moments([x, z, y, np.ones(1000)], (0, 1))], 1
        )
        slopes = np.linalg.lstsq(np.column_stack([z, x, np.ones(1000)]), y, rcond=None)[0]
        assert float(fitted.slopes[1][1]) == pytest.approx(slopes[0], abs=1e-2)

    def test_an_instrument_is_walds_estimate(self):
        rng = np.random.default_rng(0)
        u, z = rng.normal(size=(2, 2000))
        x = z + u + 0.2 * rng.normal(size=2000)
        y = 0.5 * x - 1.5 * u + 0.2 * rng.normal(size=2000)
        z, x, y = (one - one.mean() for one in (z, x, y))
        # columns Z, X, Y and ones
        fitted = fit_linear_factors(
            [Equation(1, (3, 0), (0,)), Equation(2, (3, 1), (0,))], [moments([z, x, y, np.ones(2000)], (0, 1))], 1
        )
        assert float(fitted.slopes[1][1]) == pytest.approx((z @ y) / (z @ x), abs=5e-3)

    def test_experiments_tell_what_a_bow_does_not(self):
        rng = np.random.default_rng(0)

        def sample(rows, x=None):
            u = rng.normal(size=rows)
            x = u + rng.normal(size=rows) if x is None else x
            return x, 0.7 * x + 2 * u + rng.normal(size=rows)

        seen, done = sample(4000), sample(4000, rng.normal(size=4000))
        equations = [Equation(0, (2,), (0,)), Equation(1, (2, 0), (0,))]
        parts = [moments([*seen, np.ones(4000)], (0, 1), 0.5), moments([*done, np.ones(4000)], (1,), 0.5)]
        slope = float(fit_linear_factors(equations, parts, 1).slopes[1][1])
        # by the experiment alone the standard error is that of a spread of sqrt(5)
        assert abs(slope - 0.7) < 4 * np.sqrt(5 / 4000)

    def test_the_posterior_is_that_of_the_joint_normal(self):
        generator = torch.Generator().manual_seed(0)
        loadings = torch.randn(3, 2, generator=generator, dtype=torch.float64)
        spreads = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
        matrix, covariance = LinearFactors((), loadings, spreads, 0.0).posterior([0, 2])
        some = loadings[[0, 2]]
        total = some @ some.T + spreads[[0, 2]].square().diag()
        torch.testing.assert_close(matrix, some.T @ torch.linalg.inv(total))
        eye = torch.eye(2, dtype=torch.float64)
        torch.testing.assert_close(covariance, eye - some.T @ torch.linalg.inv(total) @ some)
