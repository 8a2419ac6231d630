"""Where a function of two numbers jumps: a cut of each, which makes four cells of nearly constant values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

__all__ = ["best_cut", "cells"]

# a first look is at so many places of each, the next ones at all of them, one after the other
_PLACES, _ROUNDS = 64, 2


def best_cut(first: Floats, second: Floats, values: Floats, weights: Floats) -> tuple[float, float, float]:
    """The cut of two numbers in two that leaves least of the weighted squares of values in the four cells it makes.

    Args:
        first: A number, ``[n]``.
        second: Another, or the same, which makes three cells of it.
        values: ``[n]``.
        weights: Of the rows, ``[n]``, positive.

    Returns:
        Where the first is cut, where the second, and by how much less the weighted sum of squares is in the cells.

    Complexity:
        O(n log n).

    References:
        Breiman, Friedman, Olshen & Stone (1984), Classification and Regression Trees, of which two splits are made at
        once: of a sign of a product neither alone explains anything.

    Example:
        >>> z, w = np.random.default_rng(0).normal(size=(2, 400))
        >>> a, b, gain = best_cut(z, w, np.sign(z * w), np.ones(400))
        >>> abs(a) < 0.05, abs(b) < 0.05, round(gain)
        (True, True, 400)
    """
    ends = [_places(first, _PLACES), _places(second, _PLACES)]
    codes = [np.searchsorted(end, column) for end, column in zip(ends, (first, second), strict=True)]
    shape = (len(ends[0]) + 1, len(ends[1]) + 1)
    flat = codes[0] * shape[1] + codes[1]
    mass, sums = (np.bincount(flat, one, shape[0] * shape[1]).reshape(shape) for one in (weights, weights * values))
    gains = _gains(*(one.cumsum(0).cumsum(1) for one in (mass, sums)))[:-1, :-1]
    row, column = np.unravel_index(int(gains.argmax()), gains.shape) if gains.size else (0, 0)
    cuts = [float(ends[0][row]), float(ends[1][column])] if gains.size else [np.inf, np.inf]
    gain = 0.0
    for _ in range(_ROUNDS):
        for side, (own, other) in enumerate(((first, second), (second, first))):
            cuts[side], gain = _line(own, other <= cuts[1 - side], values, weights)
    return cuts[0], cuts[1], gain


def _places(column: Floats, most: int) -> Floats:
    """Where a column may be cut: between neighbouring values, evenly over the rows."""
    values = np.unique(column)
    between: Floats = (values[1:] + values[:-1]) / 2
    return between if len(between) <= most else between[np.linspace(0, len(between) - 1, most).astype(np.int64)]


def _line(column: Floats, low: NDArray[np.bool_], values: Floats, weights: Floats) -> tuple[float, float]:
    """The best place to cut a column where the other one is cut already, and the gain of both."""
    order = np.argsort(column, kind="stable")
    sides = np.stack([low[order], ~low[order]], 1) * weights[order, None]
    gains = _gains(*(one.cumsum(0).cumsum(1) for one in (sides, sides * values[order, None])))[:-1, 0]
    ordered = column[order]
    gains = np.where(ordered[1:] > ordered[:-1], gains, -np.inf)
    if not len(gains) or not np.isfinite(gains.max()):
        return np.inf, 0.0
    best = int(gains.argmax())
    return float((ordered[best] + ordered[best + 1]) / 2), float(gains[best])


def _gains(mass: Floats, sums: Floats) -> Floats:
    """Sums of squares that four cells explain beyond one mean, from masses and sums up to every place of both."""
    total, everything = mass[-1, -1], sums[-1, -1]
    gains = np.full(mass.shape, -everything * everything / total)
    for part, own in (
        (mass, sums),
        (mass[-1:] - mass, sums[-1:] - sums),
        (mass[:, -1:] - mass, sums[:, -1:] - sums),
        (total - mass[-1:] - mass[:, -1:] + mass, everything - sums[-1:] - sums[:, -1:] + sums),
    ):
        gains += np.where(part > 0, own * own / np.where(part > 0, part, 1.0), 0.0)
    return gains


def cells(first: Floats, second: Floats, cuts: tuple[float, float]) -> Floats:
    """Indicators of the cells that hold rows, ``[n, at most 4]``."""
    numbers = 2 * (first > cuts[0]) + (second > cuts[1])
    return np.asarray((numbers[:, None] == np.unique(numbers)).astype(np.float64))
