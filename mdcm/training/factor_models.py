"""Linear models with normal confounders, by maximum likelihood from second moments: where fits of numbers begin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdcm.mechanisms.regression import least_squares

__all__ = ["Equation", "LinearFactors", "Moments", "fit_linear_factors"]

# residual standard deviations below this share of the variable's own are more than a fit should begin with
_LEAST_SPREAD = 0.02
# loadings of the first start, as shares of the standard deviation that a regression leaves, and of the random others
_LOADING, _STARTS, _ITERATIONS = 0.7, 4, 100
# pull of the loadings towards zero, in nats per row: it decides where the rows leave a choice
_PULL = 1e-6


@dataclass(frozen=True)
class Equation:
    """One number as a linear function of features and confounders.

    Attributes:
        value: Its column among the moments.
        features: Columns of its features, that of ones among them.
        confounders: Which of the confounders it depends on.
    """

    value: int
    features: tuple[int, ...]
    confounders: tuple[int, ...]


@dataclass(frozen=True)
class Moments:
    """Second moments of the columns of some rows, and which equations these rows are to be explained by.

    Attributes:
        matrix: Mean of the products of every two columns, float64 ``[k, k]``.
        share: Share of all rows.
        equations: Numbers of the equations.
    """

    matrix: Tensor
    share: float
    equations: tuple[int, ...]


@dataclass(frozen=True)
class LinearFactors:
    """A linear model: ``value = slopes @ features + loadings @ u + spread * e`` with standard normal u and e.

    Attributes:
        slopes: For every equation its slopes, float64 ``[f]`` each.
        loadings: Of every equation on every confounder, zero on others than its own, float64 ``[m, d]``.
        spreads: Standard deviations of what is left, float64 ``[m]``.
        loss: Mean negative log-likelihood of a row in nats.
    """

    slopes: tuple[Tensor, ...]
    loadings: Tensor
    spreads: Tensor
    loss: float

    def posterior(self, equations: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Distribution of the confounders given residuals ``value - slopes @ features`` of some equations.

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
    cost does not depend on the number of rows. Several starts, the best is kept.

    Args:
        equations: What depends on what.
        moments: Of every group of rows with equations of its own.
        confounders: Number of confounders.
        seed: Of the starts.

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
    slopes, left = _regressions(equations, moments)
    own = torch.zeros(len(equations), confounders, dtype=torch.bool)
    for number, equation in enumerate(equations):
        own[number, list(equation.confounders)] = True
    generator = torch.Generator().manual_seed(seed)
    best: LinearFactors | None = None
    for start in range(_STARTS if bool(own.any()) else 1):
        loadings = torch.zeros(own.shape, dtype=torch.float64)
        if start:
            loadings = torch.randn(own.shape, generator=generator, dtype=torch.float64) * 0.5 * left[:, None]
        else:
            # every confounder begins with a child that it nearly determines, as far as there are such children
            leaning: set[int] = set()
            for column in range(confounders):
                able = [n for n in range(len(equations)) if bool(own[n, column]) and n not in leaning]
                for number in able[:1]:
                    leaning.add(number)
                    loadings[number, column] = _LOADING * left[number]
        found = _optimised(equations, moments, own, slopes, loadings, left)
        if best is None or found.loss < best.loss - 1e-9:
            best = found
    assert best is not None
    return best


def _regressions(equations: Sequence[Equation], moments: Sequence[Moments]) -> tuple[list[Tensor], Tensor]:
    """Least squares of every value on its features alone, and the standard deviations that are left."""
    slopes, left = [], []
    for number, equation in enumerate(equations):
        total = torch.stack([m.matrix * m.share for m in moments if number in m.equations]).sum(0)
        weight = sum(m.share for m in moments if number in m.equations)
        features = list(equation.features)
        cross = total[features][:, [equation.value]]
        own = least_squares(total[features][:, features], cross, cutoff=1e-9)
        rest = float(total[equation.value, equation.value] - (own * cross).sum()) / weight
        slopes.append(own.squeeze(1))
        left.append(math.sqrt(max(rest, _LEAST_SPREAD**2)))
    return slopes, torch.tensor(left, dtype=torch.float64)


def _optimised(
    equations: Sequence[Equation],
    moments: Sequence[Moments],
    own: Tensor,
    slopes: Sequence[Tensor],
    loadings: Tensor,
    left: Tensor,
) -> LinearFactors:
    sizes = [len(one) for one in slopes]
    spread = (left.square() - (loadings * own).square().sum(1)).clamp_min((0.3 * left).square().min()).sqrt()
    numbers = torch.cat([*slopes, loadings[own], spread.log()]).requires_grad_(True)

    def parts(vector: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        pieces: list[Tensor] = list(vector.split([*sizes, int(own.sum()), len(sizes)]))  # type: ignore[no-untyped-call]
        full = torch.zeros(own.shape, dtype=torch.float64).masked_scatter(own, pieces[-2])
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
            some = full[list(group.equations)]
            covariance = some @ some.T + spreads[list(group.equations)].square().diag()
            factor = torch.linalg.cholesky(covariance)
            second = residual @ group.matrix @ residual.T
            inner = torch.cholesky_solve(second, factor).diagonal().sum() / 2 + factor.diagonal().log().sum()
            total = total + group.share * (inner + len(rows) * math.log(2 * math.pi) / 2)
        return total

    optimiser = torch.optim.LBFGS([numbers], max_iter=_ITERATIONS, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(numbers)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        each, full, spreads = parts(numbers.detach())
        return LinearFactors(tuple(one.clone() for one in each), full, spreads, float(loss(numbers)))
