"""Distances between distributions, and their expected size in finite samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Distribution = pd.Series[Any] | Mapping[Any, float] | ArrayLike

__all__ = ["energy_distance", "frechet_distance", "kl_divergence", "sampling_floor", "tv_distance"]

# rounding in a table of up to millions of cells
_TOTAL_TOLERANCE = 1e-6
_BLOCK_PAIRS = 1 << 22


def tv_distance(a: Distribution, b: Distribution) -> float:
    """Total variation distance, half the sum of absolute differences of probabilities, between 0 and 1.

    Args:
        a: Probabilities by outcome: a Series or mapping, whose missing outcomes have probability zero, or an array.
        b: In the same form; an array must have the shape of ``a``.

    Raises:
        ValueError: If an argument is not a probability distribution, or the two cannot be aligned.

    Example:
        >>> tv_distance({"x": 0.5, "y": 0.5}, {"x": 1.0})
        0.5
    """
    p, q = _aligned(a, b)
    return float(np.abs(p - q).sum() / 2)


def kl_divergence(real: Distribution, model: Distribution) -> float:
    """Kullback-Leibler divergence of a model from the real distribution in nats, sum of p log(p / q).

    Args:
        real: Probabilities p by outcome, in a form that :func:`tv_distance` takes.
        model: Probabilities q by outcome.

    Returns:
        A number from 0 to infinity; infinity if an outcome of ``real`` has probability zero in ``model``.

    Raises:
        ValueError: If an argument is not a probability distribution, or the two cannot be aligned.

    Example:
        >>> round(kl_divergence([0.5, 0.5], [0.25, 0.75]), 4)
        0.1438
    """
    p, q = _aligned(real, model)
    p, q = p[p > 0], q[p > 0]
    if (q == 0).any():
        return math.inf
    # rounding can make a divergence of zero negative
    return max(0.0, float((p * np.log(p / q)).sum()))


def energy_distance(
    a: ArrayLike, b: ArrayLike, *, weights_a: ArrayLike | None = None, weights_b: ArrayLike | None = None
) -> float:
    """Energy distance of two samples, the root of 2 E|X - Y| - E|X - X'| - E|Y - Y'| with Euclidean norms.

    The expectations are over the two empirical distributions, pairs of a row with itself included, so that the
    distance is zero exactly if these are equal.

    Args:
        a: Sample ``[n]`` or ``[n, d]``.
        b: Sample ``[m]`` or ``[m, d]``.
        weights_a: Non-negative weight per row of ``a``; equal by default.
        weights_b: Non-negative weight per row of ``b``; equal by default.

    Raises:
        ValueError: If a sample is empty or not finite, dimensions differ, or weights do not fit.

    Complexity:
        O((n + m) log(n + m)) for d = 1, else O((n + m)^2 d) time in blocks of bounded memory.

    References:
        Székely & Rizzo (2013), Energy statistics: a class of statistics based on distances.

    Example:
        >>> energy_distance([0.0, 1.0], [0.0, 1.0])
        0.0
        >>> energy_distance([0.0], [2.0])
        2.0
    """
    x, y = _sample("a", a), _sample("b", b)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"samples have different dimensions, {x.shape[1]} and {y.shape[1]}")
    u, v = _normalised("weights_a", weights_a, len(x)), _normalised("weights_b", weights_b, len(y))
    if x.shape[1] == 1:
        return math.sqrt(2 * _cramer(x[:, 0], y[:, 0], u, v))
    squared = 2 * _mean_distance(x, y, u, v) - _mean_distance(x, x, u, u) - _mean_distance(y, y, v, v)
    return math.sqrt(max(0.0, squared))


def frechet_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Fréchet distance of the normal distributions that have the means and covariances of two samples.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``, the square of their Wasserstein-2 distance. Between a
    classifier's features of real and generated images it measures how much the images differ.

    Args:
        a: Sample ``[n, d]``.
        b: Sample ``[m, d]``.

    Raises:
        ValueError: If a sample has fewer than two rows or is not finite, or dimensions differ.

    Complexity:
        O((n + m) d^2 + d^3).

    References:
        Dowson & Landau (1982); Heusel et al. (2017), https://arxiv.org/abs/1706.08500, for images.

    Example:
        >>> frechet_distance([[0.0], [2.0]], [[3.0], [5.0]])
        9.0
    """
    x, y = _sample("a", a), _sample("b", b)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"samples have different dimensions, {x.shape[1]} and {y.shape[1]}")
    if min(len(x), len(y)) < 2:
        raise ValueError("a covariance needs two rows")
    covariances = [np.atleast_2d(np.cov(sample, rowvar=False)) for sample in (x, y)]
    # the trace of the root of a product is that of the root of a symmetric matrix with the same eigenvalues
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariances[1] @ root)
    apart = float(((x.mean(0) - y.mean(0)) ** 2).sum())
    spread = float(np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.sqrt(product.clip(0)).sum())
    return apart + max(0.0, spread)


def sampling_floor(p: Distribution, n: int) -> float:
    """Expected total variation distance between a distribution and the frequencies of n independent draws from it.

    By the normal approximation of each frequency: half the sum of sqrt(2 p (1 - p) / (pi n)).

    Args:
        p: Probabilities by outcome, in a form that :func:`tv_distance` takes.
        n: Number of draws, at least 1.

    Raises:
        ValueError: If p is not a probability distribution or n is not positive.

    Example:
        >>> round(sampling_floor([0.25, 0.25, 0.25, 0.25], 20_000), 4)
        0.0049
    """
    if n < 1:
        raise ValueError(f"the number of draws must be positive, not {n}")
    probabilities = _probabilities("p", _values(p))
    return float(np.sqrt(2 * probabilities * (1 - probabilities) / (math.pi * n)).sum() / 2)


def _values(distribution: Any) -> NDArray[np.float64]:
    if isinstance(distribution, Mapping):
        return np.array(list(distribution.values()), dtype=np.float64)
    return np.asarray(distribution, dtype=np.float64).ravel()


def _probabilities(name: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
    if not values.size:
        raise ValueError(f"{name} has no outcomes")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite")
    if values.min() < -_TOTAL_TOLERANCE:
        raise ValueError(f"{name} holds a negative probability, {values.min():.6g}")
    if abs(values.sum() - 1) > _TOTAL_TOLERANCE:
        raise ValueError(f"{name} sums to {values.sum():.6g}, not to 1")
    return values.clip(0, 1)


def _series(name: str, distribution: pd.Series[Any] | Mapping[Any, float]) -> pd.Series[Any]:
    series = distribution if isinstance(distribution, pd.Series) else pd.Series(dict(distribution), dtype=np.float64)
    if isinstance(series.index, pd.MultiIndex) and series.index.nlevels == 1:
        # a MultiIndex of a single variable is the same as a plain index
        series = series.set_axis(series.index.get_level_values(0))
    if not series.index.is_unique:
        repeated = series.index[series.index.duplicated()][0]
        raise ValueError(f"{name} has the outcome {repeated!r} twice")
    return series.astype(np.float64)


def _aligned(a: Any, b: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    labelled = [isinstance(value, pd.Series | Mapping) for value in (a, b)]
    if all(labelled):
        left, right = _series("the first distribution", a), _series("the second distribution", b)
        right = _reordered(left, right)
        left, right = left.align(right, join="outer", fill_value=0.0)
        p, q = left.to_numpy(), right.to_numpy()
    elif any(labelled):
        raise ValueError("only one distribution has labelled outcomes: give both in the same form")
    else:
        if np.shape(a) != np.shape(b):
            raise ValueError(f"distributions have different shapes, {np.shape(a)} and {np.shape(b)}")
        p, q = _values(a), _values(b)
    return _probabilities("the first distribution", p), _probabilities("the second distribution", q)


def _reordered(left: pd.Series[Any], right: pd.Series[Any]) -> pd.Series[Any]:
    """The second series with its index levels in the order of the first, if all levels have names."""
    ours, theirs = list(left.index.names), list(right.index.names)
    named = None not in ours and None not in theirs
    if len(ours) != len(theirs) or (named and set(ours) != set(theirs)):
        raise ValueError(f"distributions are over different variables, {ours} and {theirs}")
    if named and ours != theirs and isinstance(right.index, pd.MultiIndex):
        return right.reorder_levels([theirs.index(name) for name in ours])
    return right


def _sample(name: str, values: ArrayLike) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim == 1:
        sample = sample[:, None]
    if sample.ndim != 2 or not sample.size:
        raise ValueError(f"sample {name} must be [n] or [n, d] with at least one row, not of shape {np.shape(values)}")
    if not np.isfinite(sample).all():
        raise ValueError(f"sample {name} holds values that are not finite")
    return sample


def _normalised(name: str, weights: ArrayLike | None, rows: int) -> NDArray[np.float64]:
    if weights is None:
        return np.full(rows, 1 / rows)
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (rows,):
        raise ValueError(f"{name} has shape {values.shape}, but there are {rows} rows")
    if not np.isfinite(values).all() or values.min() < 0 or values.sum() <= 0:
        raise ValueError(f"{name} must be finite, not negative, and not all zero")
    normalised: NDArray[np.float64] = values / values.sum()
    return normalised


def _cramer(x: NDArray[np.float64], y: NDArray[np.float64], u: NDArray[np.float64], v: NDArray[np.float64]) -> float:
    """Integral of the squared difference of two weighted empirical distribution functions."""
    points = np.concatenate([x, y])
    order = np.argsort(points, kind="stable")
    difference = np.cumsum(np.concatenate([u, -v])[order])[:-1]
    return float((difference**2 * np.diff(points[order])).sum())


def _mean_distance(
    x: NDArray[np.float64], y: NDArray[np.float64], u: NDArray[np.float64], v: NDArray[np.float64]
) -> float:
    total = 0.0
    step = max(1, _BLOCK_PAIRS // len(y))
    for start in range(0, len(x), step):
        block = x[start : start + step]
        # |x|^2 + |y|^2 - 2xy would lose half the digits of small distances, and the root half again
        squared = np.zeros((len(block), len(y)))
        for axis in range(x.shape[1]):
            squared += np.subtract.outer(block[:, axis], y[:, axis]) ** 2
        total += float(u[start : start + step] @ (np.sqrt(squared) @ v))
    return total
