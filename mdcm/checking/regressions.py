"""Regressions on what separates a pair, flexible enough that what they leave carries no trace of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

__all__ = ["Regression", "Residuals", "StratumMeans", "leaf_centred", "leaves", "unit_points"]

# kernels to choose from: widths in standard deviations of normal scores, and the share of interactions
_WIDTHS = (0.15, 0.4, 1.0, 3.0)
_MIXES = (0.1, 1.0, 10.0)
_PENALTIES = np.geomspace(1e-4, 1e3, 22)
# the choice that predicts best is smoother than what leaves least of a mean: the errors of two regressions multiply,
# while those of chance do not
_UNDERSMOOTHING = 0.3
_CENTERS = 300
# the kernel is chosen on so many rows with so many centres
_CHOICE_ROWS, _CHOICE_CENTERS = 800, 120
# more coefficients per row than this are never fitted
_MOST_FREEDOM = 0.7
# rows whose fit is all their own show nothing
_LEAST_KEPT = 0.05
# sizes of coefficients of the constant and of straight lines that cost as much as a function of size 1
_CONSTANT, _LINE = 30.0, 3.0
# neighbours, themselves included, that residuals are compared with
_LEAF = 8


@dataclass(frozen=True)
class Residuals:
    """What a regression leaves of some columns.

    Attributes:
        values: Residuals ``[n, k]``.
        kept: Share of independent noise's variance that is left in every residual, ``[n, k]``, above 0, at most 1.
    """

    values: Floats
    kept: Floats


class StratumMeans:
    """Means within strata, which is all that there is to learn from categorical variables.

    Args:
        strata: Number of every row's stratum, from 0, ``[n]``.
        weights: Of the rows, or None.
    """

    def __init__(self, strata: Codes, weights: Floats | None) -> None:
        self._strata, self._weights = strata, weights
        self._mass = np.bincount(strata, weights)
        share = (1.0 if weights is None else weights) / self._mass[strata]
        self._kept: Floats = np.maximum(1 - share, _LEAST_KEPT)

    def residuals(self, columns: Floats) -> Residuals:
        """Columns ``[n, k]`` less their means within strata."""
        weighted = columns if self._weights is None else columns * self._weights[:, None]
        sums = np.stack([np.bincount(self._strata, column) for column in weighted.T], axis=1)
        values = columns - (sums / self._mass[:, None])[self._strata]
        return Residuals(values, np.broadcast_to(self._kept[:, None], values.shape))


class Regression:
    """Kernel ridge regression whose kernel and penalty are chosen for every column by cross-validation.

    The kernel is a product over coordinates, one plus a bell curve of the distance (or, of a categorical variable, one
    plus whether the levels are the same), so that it is a sum of main effects and of interactions of every order; its
    width and the weight of interactions are chosen among a few, and low-rank features at rows drawn at random stand
    for it. All that decides is the value on what is regressed on: for a given choice a fit is linear in the column, so
    that products of residuals of two columns have the mean zero wherever one of the two fits has no bias, and the
    share of noise that every residual keeps is known. Fits are deliberately less smooth than those that predict best.

    Args:
        numbers: Coordinates ``[n, p]``, of about unit variance.
        codes: Levels of categorical variables ``[n, q]``.
        weights: Of the rows, or None.
        groups: Numbers of groups from 0, or None; the choices are made on one row of each.

    Complexity:
        O(n · features²) time and O(n · features) memory, of at most 300 features.

    References:
        Wahba (1990), Spline models for observational data (analysis of variance by kernels, generalised
        cross-validation); Williams & Seeger (2001), Using the Nyström method to speed up kernel machines;
        MacKinnon & White (1985), Some heteroskedasticity-consistent covariance matrix estimators (shares kept).
    """

    def __init__(self, numbers: Floats, codes: Codes, weights: Floats | None, groups: Codes | None) -> None:
        self._numbers, self._codes = numbers, codes
        self._root = None if weights is None else np.sqrt(weights)
        n, coordinates = len(numbers), numbers.shape[1] + codes.shape[1]
        rng = np.random.default_rng(coordinates)
        own = np.arange(n) if groups is None else np.unique(groups, return_index=True)[1]
        self._copies = n / len(own)
        self._centers = own[rng.permutation(len(own))[: min(_CENTERS, len(own) // 3)]]
        self._some = own[rng.permutation(len(own))[:_CHOICE_ROWS]]
        self._kernels = [(width, mix) for width in _WIDTHS for mix in (_MIXES if coordinates > 1 else (1.0,))]
        if not numbers.shape[1]:
            self._kernels = [(1.0, mix) for mix in _MIXES]
        self._trials: list[_Basis] | None = None
        self._bases: dict[int, _Basis] = {}

    def residuals(self, columns: Floats) -> Residuals:
        """Columns ``[n, k]`` less their fits."""
        scale = columns.std(axis=0)
        scale[scale == 0] = 1.0
        fits = [self._residual((column - column.mean()) / size) for column, size in zip(columns.T, scale, strict=True)]
        values, kept = (np.stack(parts, axis=1) for parts in zip(*fits, strict=True))
        return Residuals(values * scale, kept)

    def _residual(self, column: Floats) -> tuple[Floats, Floats]:
        if self._trials is None:
            few = self._some[: min(_CHOICE_CENTERS, len(self._some) // 3)]
            self._trials = [self._basis(self._some, few, *kernel) for kernel in self._kernels]
        rooted = column if self._root is None else column * self._root
        sample = rooted[self._some]
        scores = [basis.choice(sample) for basis in self._trials]
        best = int(np.argmin([error for error, _ in scores]))
        if best not in self._bases:
            self._bases[best] = self._basis(np.arange(len(column)), self._centers, *self._kernels[best])
        basis = self._bases[best]
        # copies of a row, as groups have them, make what they overfit look right
        penalty = scores[best][1] * self._copies if self._copies > 1 else basis.choice(rooted)[1]
        values, kept = basis.residual(rooted, penalty * _UNDERSMOOTHING)
        return values if self._root is None else values / self._root, kept

    def _basis(self, rows: Codes, centers: Codes, width: float, mix: float) -> _Basis:
        values, vectors = np.linalg.eigh(self._kernel(centers, centers, width, mix))
        used = values > values.max() * 1e-9
        bells = self._kernel(rows, centers, width, mix) @ (vectors[:, used] / np.sqrt(values[used]))
        lines = self._numbers[rows] * _LINE
        features = np.hstack([np.full((len(rows), 1), _CONSTANT), lines, bells])
        return _Basis(features if self._root is None else features * self._root[rows][:, None])

    def _kernel(self, rows: Codes, others: Codes, width: float, mix: float) -> Floats:
        product: Floats = np.ones((len(rows), len(others)))
        for column in self._numbers.T:
            distance = (column[rows][:, None] - column[others]) / width
            product *= (1 + mix * np.exp(-(distance**2) / 2)) / (1 + mix)
        for column in self._codes.T:
            product *= np.where(column[rows][:, None] == column[others], 1.0, 1 / (1 + mix))
        return product


class _Basis:
    """Orthonormal combinations of features, and how much of each a penalty leaves."""

    def __init__(self, features: Floats) -> None:
        values, vectors = np.linalg.eigh(features.T @ features)
        used = values > values.max() * 1e-11
        self._values = values[used]
        self._vectors: Floats = features @ (vectors[:, used] / np.sqrt(self._values))

    def choice(self, column: Floats) -> tuple[float, float]:
        """Generalised cross-validation's least error, and the penalty that has it."""
        squares, n = (self._vectors.T @ column) ** 2, len(column)
        shrunk = self._values / (self._values + _PENALTIES[:, None])
        freedom = shrunk.sum(axis=1)
        left = column @ column - (1 - (1 - shrunk) ** 2) @ squares
        errors = np.where(freedom < _MOST_FREEDOM * n, left / n / np.maximum(1 - freedom / n, 1e-9) ** 2, np.inf)
        best = int(np.argmin(errors))
        return float(errors[best]), float(_PENALTIES[best])

    def residual(self, column: Floats, penalty: float) -> tuple[Floats, Floats]:
        """What a penalised fit leaves, and of noise."""
        shrunk = self._values / (self._values + penalty)
        values = column - self._vectors @ (shrunk * (self._vectors.T @ column))
        kept = 1 - (self._vectors**2) @ (2 * shrunk - shrunk**2)
        return values, np.maximum(kept, _LEAST_KEPT)


def leaves(points: Floats) -> Codes:
    """Numbers of small sets of points that are near each other: the leaves of a tree of medians.

    Args:
        points: Coordinates ``[n, p]``. A set is halved along the one in which it reaches farthest.

    Returns:
        From 0, ``[n]``; four to eight points, or all of fewer, share a number.
    """
    numbers = np.zeros(len(points), dtype=np.int64)
    pending, count = [np.arange(len(points))], 0
    while pending:
        rows = pending.pop()
        if len(rows) <= _LEAF:
            numbers[rows] = count
            count += 1
            continue
        inside = points[rows]
        longest = int(np.argmax(inside.max(axis=0) - inside.min(axis=0)))
        order = rows[np.argsort(inside[:, longest], kind="stable")]
        pending += [order[: len(rows) // 2], order[len(rows) // 2 :]]
    return numbers


def leaf_centred(columns: Floats, near: Codes, groups: Codes | None) -> Floats:
    """Columns less the mean of the other units of the same leaf.

    What a regression has not learnt is nearly the same for neighbours and goes; noise stays, and is independent of
    that of the neighbours.

    Args:
        columns: ``[n, k]``.
        near: Leaves of the units, which are groups if there are any and else rows.
        groups: Numbers of groups from 0, ``[n]``, or None.
    """
    units = columns if groups is None else _means(columns, groups)
    size = np.bincount(near)[near][:, None]
    others = (_sums(units, near)[near] - units) / np.maximum(size - 1, 1)
    return columns - (others if groups is None else others[groups])


def _sums(columns: Floats, codes: Codes) -> Floats:
    return np.stack([np.bincount(codes, column) for column in columns.T], axis=1)


def _means(columns: Floats, codes: Codes) -> Floats:
    return np.asarray(_sums(columns, codes) / np.bincount(codes)[:, None])


def unit_points(numbers: Floats, codes: Codes, groups: Codes | None) -> Floats:
    """Where units lie: a categorical variable's levels far from each other, so that they are parted first."""
    points = np.hstack([numbers, 10.0 * codes])
    return points if groups is None else _means(points, groups)
