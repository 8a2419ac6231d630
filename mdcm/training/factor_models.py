"""Maximum likelihood of linear models with normal confounders from second moments: first fits of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdcm.mechanisms.regression import least_squares

__all__ = ["Equation", "LinearFactors", "Moments", "fit_linear_factors"]

# smallest residual standard deviation of a start, as a share of the variable's standard deviation
_LEAST_SPREAD = 0.02
# loading of the first start, as a share of the residual standard deviation; number of starts; iterations of each
_LOADING, _STARTS, _ITERATIONS = 0.7, 4, 100
# ridge penalty of the loadings, in nats per row, which makes the optimum unique
_PULL = 1e-6


@dataclass(frozen=True)
class Equation:
    """Linear equation of one variable in features and confounders.

    Attributes:
        value: Column of the variable.
        features: Columns of its features, including the column of ones.
        confounders: Indices of its confounders.
    """

    value: int
    features: tuple[int, ...]
    confounders: tuple[int, ...]


@dataclass(frozen=True)
class Moments:
    """Second moments of some rows, and the equations that apply to these rows.

    Attributes:
        matrix: Mean products of every two columns, float64 ``[k, k]``.
        share: Share of these rows in all rows.
        equations: Indices of the equations.
    """

    matrix: Tensor
    share: float
    equations: tuple[int, ...]


@dataclass(frozen=True)
class LinearFactors:
    """A linear model: ``value = slopes @ features + loadings @ u + spread * e`` with standard normal u and e.

    Attributes:
        slopes: Slopes of every equation, float64 ``[f]`` each.
        loadings: Loadings of every equation, zero for confounders that it does not depend on, float64 ``[m, d]``.
        spreads: Residual standard deviations, float64 ``[m]``.
        loss: Mean negative log-likelihood of a row in nats.
    """

    slopes: tuple[Tensor, ...]
    loadings: Tensor
    spreads: Tensor
    loss: float

    def posterior(self, equations: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Posterior of the confounders given residuals ``value - slopes @ features`` of some equations.

        Returns:
            Matrix ``[d, m']`` from residuals to the mean, and the covariance ``[d, d]``.
        """
        loadings, spreads = self.loadings[list(equations)], self.spreads[list(equations)]
        scaled = loadings / spreads[:, None] ** 2
        covariance = torch.linalg.inv(torch.eye(loadings.shape[1], dtype=torch.float64) + loadings.T @ scaled)
        return covariance @ scaled.T, covariance


def fit_linear_factors(
    equations: Sequence[Equation], moments: Sequence[Moments], confounders: int, seed: int = 0
) -> LinearFactors:
    """Maximum likelihood of a linear model with normal confounders.

    The c-factor of the equations at a row is the normal density of their residuals, whose covariance is
    ``L L' + diag(spread ** 2)`` for loadings L. Its mean over rows is a function of second moments alone, so that the
    cost does not depend on the number of rows. The best of several starts is kept.

    Args:
        equations: The equations.
        moments: Moments of every group of rows to which the same equations apply.
        confounders: Number of confounders.
        seed: Seed of the random starts.

    Returns:
        The best of several local optima.

    Complexity:
        O(m^3 + m k^2) per iteration, for m equations and k columns.

    References:
        Bollen (1989), Structural equations with latent variables, chapter 4.

    Example:
        >>> x = torch.tensor([-1.0, -0.5, 0.5, 1.0], dtype=torch.float64)
        >>> columns = torch.stack([x, 2 * x + torch.tensor([0.1, -0.1, -0.1, 0.1]), torch.ones(4)], 1)
        >>> moments = Moments(columns.T @ columns / 4, 1.0, (0,))
        >>> fitted = fit_linear_factors([Equation(1, (2, 0), ())], [moments], 0)
        >>> fitted.slopes[0].round(decimals=3).tolist(), round(float(fitted.spreads[0]), 3)
        ([0.0, 2.0], 0.1)
    """
    slopes, spreads = _regressions(equations, moments)
    free = torch.zeros(len(equations), confounders, dtype=torch.bool)
    for number, equation in enumerate(equations):
        free[number, list(equation.confounders)] = True
    generator = torch.Generator().manual_seed(seed)
    best: LinearFactors | None = None
    for start in range(_STARTS if bool(free.any()) else 1):
        loadings = torch.zeros(free.shape, dtype=torch.float64)
        if start:
            loadings = torch.randn(free.shape, generator=generator, dtype=torch.float64) * 0.5 * spreads[:, None]
        else:
            # every confounder starts with one child that it nearly determines, as long as there are enough children
            determined: set[int] = set()
            for column in range(confounders):
                children = [n for n in range(len(equations)) if bool(free[n, column]) and n not in determined]
                for number in children[:1]:
                    determined.add(number)
                    loadings[number, column] = _LOADING * spreads[number]
        model = _optimised(equations, moments, free, slopes, loadings, spreads)
        if best is None or model.loss < best.loss - 1e-9:
            best = model
    assert best is not None
    return best


def _regressions(equations: Sequence[Equation], moments: Sequence[Moments]) -> tuple[list[Tensor], Tensor]:
    """Least squares of every value on its features, and the residual standard deviations."""
    slopes, spreads = [], []
    for number, equation in enumerate(equations):
        total = torch.stack([m.matrix * m.share for m in moments if number in m.equations]).sum(0)
        weight = sum(m.share for m in moments if number in m.equations)
        features = list(equation.features)
        cross = total[features][:, [equation.value]]
        solution = least_squares(total[features][:, features], cross, cutoff=1e-9)
        variance = float(total[equation.value, equation.value] - (solution * cross).sum()) / weight
        slopes.append(solution.squeeze(1))
        spreads.append(math.sqrt(max(variance, _LEAST_SPREAD**2)))
    return slopes, torch.tensor(spreads, dtype=torch.float64)


def _optimised(
    equations: Sequence[Equation],
    moments: Sequence[Moments],
    free: Tensor,
    slopes: Sequence[Tensor],
    loadings: Tensor,
    spreads: Tensor,
) -> LinearFactors:
    """Local optimum by L-BFGS from some parameters; ``free`` marks the loadings that may differ from zero."""
    sizes = [len(slope) for slope in slopes]
    floor = (0.3 * spreads).square().min()
    residual_spread = (spreads.square() - (loadings * free).square().sum(1)).clamp_min(floor).sqrt()
    parameters = torch.cat([*slopes, loadings[free], residual_spread.log()]).requires_grad_(True)

    def parts(vector: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        pieces: list[Tensor] = list(vector.split([*sizes, int(free.sum()), len(sizes)]))  # type: ignore[no-untyped-call]
        full = torch.zeros(free.shape, dtype=torch.float64).masked_scatter(free, pieces[-2])
        return pieces[:-2], full, (pieces[-1].exp().square() + _LEAST_SPREAD**2).sqrt()

    def loss(vector: Tensor) -> Tensor:
        each, full, spreads = parts(vector)
        total = _PULL * full.square().sum()
        for group in moments:
            rows = []
            for number in group.equations:
                row = torch.zeros(len(group.matrix), dtype=torch.float64)
                row = row.index_put((torch.tensor(equations[number].features),), -each[number])
                rows.append(row.index_add(0, torch.tensor([equations[number].value]), row.new_ones(1)))
            residual = torch.stack(rows)
            loadings = full[list(group.equations)]
            covariance = loadings @ loadings.T + spreads[list(group.equations)].square().diag()
            factor = torch.linalg.cholesky(covariance)
            second = residual @ group.matrix @ residual.T
            inner = torch.cholesky_solve(second, factor).diagonal().sum() / 2 + factor.diagonal().log().sum()
            total = total + group.share * (inner + len(rows) * math.log(2 * math.pi) / 2)
        return total

    optimiser = torch.optim.LBFGS([parameters], max_iter=_ITERATIONS, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(parameters)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        own_slopes, full, fitted_spreads = parts(parameters.detach())
        copies = tuple(slope.clone() for slope in own_slopes)
        return LinearFactors(copies, full, fitted_spreads, float(loss(parameters)))
