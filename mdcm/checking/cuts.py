"""Piecewise constant fits to a function of two coordinates: a cut of each, which makes four cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

__all__ = ["best_cut", "cells"]

# candidate cuts of each coordinate in the joint search; rounds of refinement, alternating between the coordinates, over
# all cuts
_CANDIDATES, _ROUNDS = 64, 2


def best_cut(first: Floats, second: Floats, values: Floats, weights: Floats) -> tuple[float, float, float]:
    """The cut of each of two coordinates that minimizes the weighted sum of squares within the four cells.

    Args:
        first: First coordinate, ``[n]``.
        second: Second coordinate, ``[n]``; if equal to the first, the cells are three.
        values: Response, ``[n]``.
        weights: Weights of the rows, ``[n]``, positive.

    Returns:
        The cut of the first coordinate, the cut of the second, and the reduction of the weighted sum of squares.

    Complexity:
        O(n log n).

    References:
        Breiman, Friedman, Olshen & Stone (1984), Classification and Regression Trees. Here two splits are chosen
        jointly, because neither alone explains the sign of a product.

    Example:
        >>> z, w = np.random.default_rng(0).normal(size=(2, 400))
        >>> a, b, gain = best_cut(z, w, np.sign(z * w), np.ones(400))
        >>> abs(a) < 0.05, abs(b) < 0.05, round(gain)
        (True, True, 399)
    """
    candidates = [_candidates(first, _CANDIDATES), _candidates(second, _CANDIDATES)]
    codes = [np.searchsorted(cuts, column) for cuts, column in zip(candidates, (first, second), strict=True)]
    shape = (len(candidates[0]) + 1, len(candidates[1]) + 1)
    flat = codes[0] * shape[1] + codes[1]
    mass, sums = (np.bincount(flat, terms, shape[0] * shape[1]).reshape(shape) for terms in (weights, weights * values))
    gains = _gains(*(table.cumsum(0).cumsum(1) for table in (mass, sums)))[:-1, :-1]
    row, column = np.unravel_index(int(gains.argmax()), gains.shape) if gains.size else (0, 0)
    best = [float(candidates[0][row]), float(candidates[1][column])] if gains.size else [np.inf, np.inf]
    gain = 0.0
    for _ in range(_ROUNDS):
        for side, (coordinate, other) in enumerate(((first, second), (second, first))):
            best[side], gain = _best_cut_given(coordinate, other <= best[1 - side], values, weights)
    return best[0], best[1], gain


def _candidates(column: Floats, limit: int) -> Floats:
    """Candidate cuts of a column: at most ``limit`` midpoints of neighbouring values, evenly spaced by rank."""
    values = np.unique(column)
    midpoints: Floats = (values[1:] + values[:-1]) / 2
    if len(midpoints) <= limit:
        return midpoints
    return midpoints[np.linspace(0, len(midpoints) - 1, limit).astype(np.int64)]


def _best_cut_given(column: Floats, low: NDArray[np.bool_], values: Floats, weights: Floats) -> tuple[float, float]:
    """Best cut of a column for a fixed cut of the other (``low``: rows below that cut), and the gain of both."""
    order = np.argsort(column, kind="stable")
    sides = np.stack([low[order], ~low[order]], 1) * weights[order, None]
    gains = _gains(*(terms.cumsum(0).cumsum(1) for terms in (sides, sides * values[order, None])))[:-1, 0]
    ordered = column[order]
    gains = np.where(ordered[1:] > ordered[:-1], gains, -np.inf)
    if not len(gains) or not np.isfinite(gains.max()):
        return np.inf, 0.0
    best = int(gains.argmax())
    return float((ordered[best] + ordered[best + 1]) / 2), float(gains[best])


def _gains(mass: Floats, sums: Floats) -> Floats:
    """Reduction of the sum of squares by four cell means, per pair of cuts, from cumulative masses and sums."""
    total_mass, total_sum = mass[-1, -1], sums[-1, -1]
    gains = np.full(mass.shape, -total_sum * total_sum / total_mass)
    for cell_mass, cell_sum in (
        (mass, sums),
        (mass[-1:] - mass, sums[-1:] - sums),
        (mass[:, -1:] - mass, sums[:, -1:] - sums),
        (total_mass - mass[-1:] - mass[:, -1:] + mass, total_sum - sums[-1:] - sums[:, -1:] + sums),
    ):
        gains += np.where(cell_mass > 0, cell_sum**2 / np.where(cell_mass > 0, cell_mass, 1.0), 0.0)
    return gains


def cells(first: Floats, second: Floats, cuts: tuple[float, float]) -> Floats:
    """Indicators of the non-empty cells, ``[n, at most 4]``."""
    codes = 2 * (first > cuts[0]) + (second > cuts[1])
    return np.asarray((codes[:, None] == np.unique(codes)).astype(np.float64))
