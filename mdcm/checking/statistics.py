"""Tests of conditional independence and of shares: contingency tables, covariances of residuals, and log tails."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mdcm.checking.regressions import leaf_centred

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mdcm.checking.regressions import Residuals

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

__all__ = [
    "FEWEST_UNITS", "covariance_test", "effective_rows", "excess_test", "log_f_tail", "log_gamma_tail",
    "log_hypergeometric_tail", "products", "score_test", "sum_test", "table_test",
]  # fmt: skip

# fewest rows, or groups of rows, of a test
FEWEST_UNITS = 30
# fewest rows of a stratum: the variance is undefined for fewer
_STRATUM_ROWS = 4
_TINY = 1e-300
# bisections of an interval, enough to reach rounding error
_HALVINGS = 200


def products(a: Floats, b: Floats) -> Floats:
    """All products of a column of ``a`` with a column of ``b``, ``[n, p · q]``."""
    return np.asarray((a[:, :, None] * b[:, None, :]).reshape(len(a), -1))


def table_test(x: Codes, y: Codes, strata: Codes) -> dict[str, Any] | None:
    """Pearson's statistic within strata, with less weight for rare levels, and its exact mean and variance.

    The statistic of a stratum of n rows is the sum of (O - E)^2 a b over the cells, where O is a cell's count, E the
    product of its margins r and c divided by n, a = 1 / (r + k), and b = 1 / (c + k); with k = 0 it is Pearson's
    statistic divided by n. A single row in a cell with a tiny expected count would dominate Pearson's statistic, so k
    is sqrt(n) / 2.
    """
    n, rows, columns, count = len(x), int(x.max()) + 1, int(y.max()) + 1, int(strata.max()) + 1
    cells, observed = np.unique((strata * rows + x) * columns + y, return_counts=True)
    row_totals = np.bincount(strata * rows + x, minlength=count * rows).reshape(count, rows)
    column_totals = np.bincount(strata * columns + y, minlength=count * columns).reshape(count, columns)
    stratum, row, column = cells // (rows * columns), cells // columns % rows, cells % columns
    size = row_totals.sum(axis=1).astype(np.float64)
    damping = np.sqrt(size)[:, None] / 2
    left, right = _Margin(row_totals, damping, size), _Margin(column_totals, damping, size)
    used = (size >= _STRATUM_ROWS) & (left.kinds > 1) & (right.kinds > 1)
    if not used.any():
        return None
    expected = row_totals[stratum, row] * column_totals[stratum, column] / size[stratum]
    information = np.bincount(stratum, observed * np.log(observed / expected), minlength=count)[used].sum() / n

    # (O - E)^2 over the cells that hold rows, and E^2 over all others
    weight = left.weights[stratum, row] * right.weights[stratum, column]
    differences = np.bincount(stratum, weight * ((observed - expected) ** 2 - expected**2), minlength=count)
    squares = (left.weights * row_totals**2).sum(axis=1) * (right.weights * column_totals**2).sum(axis=1) / size**2
    mean, variance = _permutation_moments(left, right, size, used)
    # strata are weighted by their rows, as in Pearson's statistic
    statistic = float((size * (differences + squares))[used].sum())
    center, spread = float((size[used] * mean).sum()), float((size[used] ** 2 * variance).sum())
    if spread <= 1e-9 * center**2 / n:
        # every table with these margins has the same statistic
        return None
    dof = 2 * center**2 / spread
    statistic *= dof / center
    chance = ((left.kinds - 1) * (right.kinds - 1))[used].sum() / (2 * n)
    return {
        "test": "table",
        "statistic": statistic,
        "dof": dof,
        "log_p": log_gamma_tail(dof / 2, statistic / 2),
        "effect": max(0.0, float(information - chance)),
    }


class _Margin:
    """Levels of a variable in each stratum, as a kernel: the level's weight for rows of equal level, else 0.

    Attributes:
        weights: Weights of the levels, ``[strata, levels]``.
        kinds: Number of levels that occur.
        trace: Trace of the centred kernel, ``[strata]``.
        square: Sum of its squared entries.
        diagonal: Sum of its squared diagonal entries.
    """

    def __init__(self, totals: Codes, damping: Floats, size: Floats) -> None:
        self.weights: Floats = 1 / (totals + damping)
        self.kinds = (totals > 0).sum(axis=1)
        weighted, share = self.weights * totals, totals / size[:, None]
        inner = (weighted * totals).sum(axis=1) / size
        self.trace = (weighted * (1 - share)).sum(axis=1)
        self.square = inner**2 + (weighted**2 * (1 - 2 * share)).sum(axis=1)
        entries = self.weights * (1 - 2 * share) + (inner / size)[:, None]
        self.diagonal = (totals * entries**2).sum(axis=1)


def _permutation_moments(left: _Margin, right: _Margin, size: Floats, used: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Mean and variance of the trace of the product of two centred kernels over all permutations of the rows."""
    n = size[used]
    mean = left.trace[used] * right.trace[used] / (n - 1)
    pairs, fourth = np.ones_like(n), np.ones_like(n)
    for side in (left, right):
        trace, square, diagonal = side.trace[used], side.square[used], side.diagonal[used]
        pairs *= (n - 1) * square - trace**2
        fourth *= n * (n + 1) * diagonal - (n - 1) * (trace**2 + 2 * square)
    variance = 2 * pairs / ((n - 1) ** 2 * (n + 1) * (n - 2)) + fourth / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))
    return mean, variance


def covariance_test(
    x: Residuals,
    y: Residuals,
    near: Codes | None,
    moderators: Floats,
    weights: Floats | None,
    groups: Codes | None,
) -> dict[str, Any] | None:
    """Test whether products of residuals have mean zero: Hotelling's statistic, over groups if rows have them.

    Args:
        x: Residuals of the first variable.
        y: Residuals of the second variable.
        near: Leaves of the units. If given, residuals of y are compared with those of neighbours, so that common bias
            of the two regressions cancels.
        moderators: Functions of the separating variables, ``[n, c]``; the product of the first two columns is also
            multiplied by each of them, to detect dependences whose sign changes.
        weights: Weights of the rows.
        groups: Group of each row, from 0.
    """
    n, p = x.values.shape
    compared = y.values if near is None else leaf_centred(y.values, near, groups)
    # correct the variance for the degrees of freedom of the fits
    inflation = 1 / np.sqrt(products(x.kept, y.kept))

    def by_unit(scores: Floats) -> Floats:
        scores = np.hstack([scores, scores[:, :1] * moderators])
        weighted = scores if weights is None else scores * weights[:, None]
        if groups is None:
            return weighted
        return np.stack([np.bincount(groups, column) for column in weighted.T], axis=1)

    scores = products(x.values, compared)
    covariance = np.atleast_2d(np.cov(by_unit(scores * inflation), rowvar=False))
    mean = by_unit(scores).mean(axis=0)
    units = n if groups is None else int(groups.max()) + 1
    values, vectors = np.linalg.eigh(covariance)
    used = values > 1e-9 * max(values.max(), _TINY)
    rank = int(used.sum())
    if values.max() <= 1e-12 or units <= rank:
        return None
    white = vectors[:, used] / np.sqrt(values[used])
    direction = mean @ white
    if near is not None:
        # neighbours share the bias of both regressions; as much of it may remain between neighbours
        bias = by_unit(products(x.values, y.values - compared)).mean(axis=0) @ white
        direction -= bias * np.clip(direction @ bias / max(bias @ bias, _TINY), 0, 1)
    squared = units * float(direction @ direction)
    log_p = log_f_tail(squared * (units - rank) / (rank * (units - 1)), rank, units - rank)
    both = np.hstack([x.values, y.values])
    moments = both.T @ (both if weights is None else both * weights[:, None]) / n
    inner = _log_determinant(moments[:p, :p]) + _log_determinant(moments[p:, p:]) - _log_determinant(moments)
    return {
        "test": "residuals",
        "statistic": squared,
        "dof": float(rank),
        "log_p": log_p,
        "effect": max(0.0, inner / 2 - rank / (2 * units)),
    }


def excess_test(hits: int, rows: int, other_hits: int, other_rows: int) -> dict[str, Any]:
    """Fisher's one-sided exact test of whether the first of two shares exceeds the second.

    The p-value is 1 if the first share is not larger. The effect is the information of the difference in nats per row.
    """
    n, total = rows + other_rows, hits + other_hits
    first, second, both = hits / rows, other_hits / other_rows, total / n
    if first <= second:
        return {"test": "fisher", "statistic": 0.0, "dof": 1.0, "log_p": 0.0, "effect": 0.0}
    deviance = 2 * (rows * _relative_entropy(first, both) + other_rows * _relative_entropy(second, both))
    return {
        "test": "fisher",
        "statistic": deviance,
        "dof": 1.0,
        "log_p": log_hypergeometric_tail(hits, rows, total, n),
        "effect": max(0.0, (deviance - 1) / (2 * n)),
    }


def score_test(*sides: tuple[NDArray[np.bool_], Floats, Codes]) -> dict[str, Any]:
    """Score test for weighted or grouped rows: the difference of two shares divided by its standard error.

    Args:
        sides: Hits, weights and groups of the rows of each of two samples. The standard error, over groups, assumes
            that the shares are equal; the tail is that of the normal distribution.
    """
    masses = [float(weights.sum()) for _, weights, _ in sides]
    sums = [float((hits * weights).sum()) for hits, weights, _ in sides]
    (first, second), both = (total / mass for total, mass in zip(sums, masses, strict=True)), sum(sums) / sum(masses)
    no_excess = {"test": "score", "statistic": 0.0, "dof": 1.0, "log_p": 0.0, "effect": 0.0}
    if first <= second:
        return no_excess
    variance, units = 0.0, 0
    for (hits, weights, groups), mass in zip(sides, masses, strict=True):
        parts = np.bincount(groups, weights * (hits - both))
        variance += float((parts**2).sum()) / mass**2
        units += len(parts)
    squared = (first - second) ** 2 / variance
    share = masses[0] / sum(masses)
    information = share * _relative_entropy(first, both) + (1 - share) * _relative_entropy(second, both)
    # the upper tail of the normal distribution is half of the tail of chi-squared
    log_p = log_gamma_tail(0.5, squared / 2) - math.log(2)
    return {**no_excess, "statistic": squared, "log_p": log_p, "effect": max(0.0, information - 1 / (2 * units))}


def effective_rows(weights: Floats) -> float:
    """Effective sample size: the number of equally weighted rows whose mean has the variance of the weighted mean.

    References:
        Kish (1965), Survey Sampling, section 11.7.

    Example:
        >>> effective_rows(np.array([1.0, 1.0, 2.0]))
        2.6666666666666665
    """
    return float(weights.sum() ** 2 / (weights**2).sum())


def sum_test(shares: Sequence[float], sizes: Sequence[float]) -> dict[str, Any]:
    """Score test of whether the probabilities of k events sum to more than k - 1.

    Args:
        shares: Observed share of each event among independent rows, with a sum above k - 1.
        sizes: Numbers of rows.

    Returns:
        The squared excess divided by its variance at the maximum-likelihood estimate without excess, with the tail of
        the normal distribution. The effect is the information of the difference in nats per row.

    References:
        Rao (1948), Large sample tests of statistical hypotheses concerning several parameters.
    """
    complements, number = 1 - np.array(shares), np.array(sizes, dtype=np.float64)
    low, high = 0.0, 1.0
    while _penalized_estimate(complements, number, high).sum() < 1:
        high *= 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _penalized_estimate(complements, number, middle).sum() < 1 else (low, middle)
    estimate = _penalized_estimate(complements, number, high)
    squared = float((1 - complements.sum()) ** 2 / (estimate * (1 - estimate) / number).sum())
    information = sum(n * _relative_entropy(p, q) for n, p, q in zip(number, complements, estimate, strict=True))
    information /= float(number.sum())
    return {
        "test": "score",
        "statistic": squared,
        "dof": 1.0,
        "log_p": log_gamma_tail(0.5, squared / 2) - math.log(2),
        "effect": max(0.0, float(information) - 1 / (2 * float(number.sum()))),
    }


def _penalized_estimate(shares: Floats, sizes: Floats, multiplier: float) -> Floats:
    """Probabilities that maximize the log-likelihood plus a positive multiplier times their sum."""
    lead = multiplier - sizes
    return np.asarray((lead + np.sqrt(lead**2 + 4 * multiplier * sizes * shares)) / (2 * multiplier))


def _relative_entropy(p: float, q: float) -> float:
    """Relative entropy of two Bernoulli distributions; infinite if the second lacks a value of the first."""
    return sum(a * math.log(a / b) if b > 0 else math.inf for a, b in ((p, q), (1 - p, 1 - q)) if a > 0)


def log_hypergeometric_tail(hits: int, drawn: int, marked: int, total: int) -> float:
    """Log of P(K >= hits) for a hypergeometric K, without underflow.

    Args:
        hits: A number above the mean of K, so that the terms decrease.
        drawn: Objects drawn without replacement.
        marked: Marked objects.
        total: All objects.

    Example:
        >>> round(math.exp(log_hypergeometric_tail(2, 2, 2, 4)), 9)
        0.166666667
    """

    def choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    if hits > min(drawn, marked):
        return -math.inf
    first = choose(marked, hits) + choose(total - marked, drawn - hits) - choose(total, drawn)
    term = series = 1.0
    k = hits
    while k < min(drawn, marked) and term > series * 1e-17:
        term *= (marked - k) * (drawn - k) / ((k + 1) * (total - marked - drawn + k + 1))
        series += term
        k += 1
    return min(0.0, first + math.log(series))


def _log_determinant(matrix: Floats) -> float:
    """Log determinant with a small ridge relative to the diagonal, so that constant columns cancel in ratios."""
    ridge = 1e-9 * np.diag(np.maximum(np.diag(matrix), 1e-9))
    return float(np.linalg.slogdet(matrix + ridge)[1])


def log_gamma_tail(shape: float, x: float) -> float:
    """Log of P(G > x) for a gamma variable of unit scale, even if the probability underflows.

    Args:
        shape: Positive; half the degrees of freedom if x is half a χ² statistic.
        x: The value.

    References:
        Abramowitz & Stegun (1964), Handbook of Mathematical Functions, 6.5.29 and 6.5.31.

    Example:
        >>> round(log_gamma_tail(1.0, 5_000.0), 9)
        -5000.0
    """
    if x <= 0:
        return 0.0
    front = shape * math.log(x) - x - math.lgamma(shape)
    if x < shape + 1:
        term = total = 1 / shape
        k = shape
        while term > total * 1e-17:
            k += 1
            term *= x / k
            total += term
        return math.log(max(1 - math.exp(front + math.log(total)), _TINY))
    # the continued fraction by Lentz's method
    b = x + 1 - shape
    c, d = 1 / _TINY, 1 / b
    fraction = d
    for k in range(1, 100_000):
        a = -k * (k - shape)
        b += 2
        d = 1 / _nonzero(a * d + b)
        c = _nonzero(b + a / c)
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return min(0.0, front + math.log(fraction))


def log_f_tail(x: float, upper: float, lower: float) -> float:
    """Log of P(F > x) for Fisher's F, even if the probability underflows.

    Args:
        x: The value.
        upper: Degrees of freedom of the numerator.
        lower: Degrees of freedom of the denominator.

    References:
        Abramowitz & Stegun (1964), Handbook of Mathematical Functions, 26.5.8 and 26.6.2.

    Example:
        >>> round(math.exp(log_f_tail(3.0, 2, 4)), 9)
        0.16
    """
    if x <= 0:
        return 0.0
    a, b = lower / 2, upper / 2
    inside, outside = lower / (lower + upper * x), upper * x / (lower + upper * x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(inside) + b * math.log(outside)
    if inside < (a + 1) / (a + b + 2):
        return min(0.0, front + math.log(_beta_fraction(a, b, inside) / a))
    return math.log(max(1 - math.exp(front) * _beta_fraction(b, a, outside) / b, _TINY))


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function (Lentz)."""
    c, d = 1.0, 1 / _nonzero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / _nonzero(1 + even * d)
        c = _nonzero(1 + even / c)
        fraction *= c * d
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / _nonzero(1 + odd * d)
        c = _nonzero(1 + odd / c)
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return fraction


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
