"""Regressions on what separates a pair, flexible enough that what they leave carries no trace of it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mdcm.checking.cuts import best_cut, cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

__all__ = ["Regression", "Residuals", "StratumMeans", "leaf_centred", "leaves", "unit_points"]

# widths of bell curves to choose from, in standard deviations of normal scores, and weights of interactions
_WIDTHS = (0.15, 0.4, 1.0, 3.0)
_PAIR_WIDTHS = (0.3, 0.8, 2.5)
_MIXES = (0.1, 1.0, 10.0)
_PENALTIES = np.geomspace(1e-4, 1e3, 22)
# the choice that predicts best is smoother than what leaves least of a mean: the errors of two regressions multiply,
# while those of chance do not
_UNDERSMOOTHING = 0.3
# bell curves of a stage at most, and of one for a pair
_CENTERS, _PAIR_CENTERS = 300, 80
# the choices are made on so many rows, with so many bell curves
_CHOICE_ROWS, _CHOICE_CENTERS = 800, 120
# pairs of so many coordinates are looked at, on more rows
_MOST_PAIRED, _PAIR_ROWS = 6, 2_000
# of the stages that predict best on some rows so many are tried on all, in so many steps at most, as long as the error
# falls by the share of so many rows
_TRIED, _MOST_STEPS, _LEAST_GAIN = 3, 12, 12
# two cuts, or a function of the fit, are a step where the error falls by the share of so many rows beyond what bell
# curves do: places that are looked for among all that there are explain some of mere noise
_LEAST_FREE = 25
# bell curves of a function of the fit
_BENDS = 12
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
    """Ridge regression in stages, whose features and penalties are chosen for every column by cross-validation.

    A stage is a function of all coordinates, a sum of functions of one each, or one of a pair; whichever predicts best
    comes first, then what predicts best what that leaves. Features are bell curves at rows drawn at random, for
    products over coordinates of one plus a bell curve of the distance (or, of a categorical variable, one plus whether
    the levels are the same); the width, and the weight of interactions, are chosen among a few. Bell curves are off on
    both sides of a jump: where a cut in each of two numbers predicts better, a stage is a constant in each of the four
    cells. It is a function of the fit so far where that predicts better. Given the choices a fit is linear in the
    column, so that products of residuals of two columns have the mean zero wherever one of the two fits has no bias,
    and the share of noise that every residual keeps is known. Fits are deliberately less smooth than those that predict
    best.

    Args:
        numbers: Coordinates ``[n, p]``, of about unit variance.
        codes: Levels of categorical variables ``[n, q]``.
        weights: Of the rows, or None.
        groups: Numbers of groups from 0, or None; the choices are made on one row of each.

    Complexity:
        O(n · features²) time and O(n · features) memory per stage, of at most some 300 features.

    References:
        Mallat & Zhang (1993), Matching pursuits with time-frequency dictionaries (steps); Wahba (1990), Spline models
        for observational data (analysis of variance by kernels, generalised cross-validation); Williams & Seeger
        (2001), Using the Nyström method to speed up kernel machines; MacKinnon & White (1985), Some
        heteroskedasticity-consistent covariance matrix estimators (shares kept).
    """

    def __init__(self, numbers: Floats, codes: Codes, weights: Floats | None, groups: Codes | None) -> None:
        self._columns = [*numbers.T, *codes.T.astype(np.float64)]
        self._lines = numbers * _LINE
        self._root = None if weights is None else np.sqrt(weights)
        d = len(self._columns)
        own = np.arange(len(numbers)) if groups is None else np.unique(groups, return_index=True)[1]
        self._copies = len(numbers) / len(own)
        self._own = own[np.random.default_rng(d).permutation(len(own))]
        self._bases: dict[tuple[tuple[_Kernel, ...], int], _Basis] = {}

        every = tuple(range(d))
        widths = _WIDTHS if numbers.shape[1] else _WIDTHS[-1:]
        joint = [(_Kernel(every, width, mix),) for width in widths for mix in (_MIXES if d > 1 else (math.inf,))]
        self._stages = [_Stage(joint, _CHOICE_ROWS)]
        if d > 1:
            mains = [tuple(_Kernel((k,), width, math.inf) for k in every) for width in widths]
            self._stages.append(_Stage(mains, _CHOICE_ROWS))
        if 2 < d <= _MOST_PAIRED:
            for pair in itertools.combinations(every, 2):
                kernels = [(_Kernel(pair, width, math.inf),) for width in _PAIR_WIDTHS]
                self._stages.append(_Stage(kernels, _PAIR_ROWS))

    def residuals(self, columns: Floats) -> Residuals:
        """Columns ``[n, k]`` less their fits."""
        scale = columns.std(axis=0)
        scale[scale == 0] = 1.0
        fits = [self._residual((column - column.mean()) / size) for column, size in zip(columns.T, scale, strict=True)]
        values, kept = (np.stack(parts, axis=1) for parts in zip(*fits, strict=True))
        return Residuals(values * scale, np.maximum(kept, _LEAST_KEPT))

    def _residual(self, column: Floats) -> tuple[Floats, Floats]:
        whole = left = column if self._root is None else column * self._root
        kept, step = np.ones(len(column)), self._step(left, left - whole, 0.0)
        for _ in range(_MOST_STEPS):
            if step is None:
                break
            basis, penalty = step
            left, share = basis.residual(left, penalty * _UNDERSMOOTHING)
            kept *= share
            step = self._step(left, whole - left, _LEAST_GAIN * self._copies / len(column))
        return left if self._root is None else left / self._root, kept

    def _step(self, left: Floats, fit: Floats, gain: float) -> tuple[_Basis, float] | None:
        """What predicts best what is left, and its penalty; None if the error falls by a smaller share than that.

        Args:
            left: What is left of the column, of rows with weights times their roots.
            fit: What is not, likewise.
            gain: The share.
        """
        bar = float(left @ left) / len(left) * (1 - gain) if gain else math.inf
        best = self._bell_step(left, bar)
        for other in (self._cut_step, self._bend_step):
            least = best[0] if best else bar
            best = other(left, fit, least * (1 - _LEAST_FREE * self._copies / len(left))) or best
        if best is None:
            return None
        _, basis, penalty = best
        # copies of a row, as groups have them, make what they overfit look right
        return basis, penalty * self._copies

    def _bell_step(self, left: Floats, bar: float) -> tuple[float, _Basis, float] | None:
        """The error of bell curves that is below a bar, with what they are and their penalty."""
        trials = sorted((self._trial(stage, left) for stage in self._stages), key=lambda trial: trial[0])
        for _, kernels, penalty in trials[:_TRIED]:
            basis = self._basis(kernels)
            error, own = basis.choice(left)
            if error < bar:
                return error, basis, penalty if self._copies > 1 else own
        return None

    def _bend_step(self, left: Floats, fit: Floats, bar: float) -> tuple[float, _Basis, float] | None:
        """The same of a function of the fit so far: a bent sum is no sum, and normal scores bend what was one."""
        root = np.ones(len(left)) if self._root is None else self._root
        value = fit / root
        spread = float(value.std())
        if spread == 0:
            return None
        value = (value - value.mean()) / spread
        centers = np.quantile(value, np.linspace(0, 1, _BENDS))
        best: tuple[float, _Basis, float] | None = None
        for width in _PAIR_WIDTHS:
            bells = np.exp(-(((value[:, None] - centers) / width) ** 2) / 2)
            features = np.hstack([np.full((len(left), 1), _CONSTANT), value[:, None] * _LINE, bells])
            basis = _Basis(features * root[:, None])
            error, penalty = basis.choice(left)
            if error < (best[0] if best else bar):
                best = error, basis, penalty
        return best

    def _cut_step(self, left: Floats, fit: Floats, bar: float) -> tuple[float, _Basis, float] | None:
        """The same of two cuts, whatever the fit."""
        own, numbers = self._own, range(self._lines.shape[1])
        root = np.ones(len(left)) if self._root is None else self._root
        values, weights = (left / root)[own], root[own] ** 2
        best: tuple[float, _Basis, float] | None = None
        pairs = itertools.combinations(numbers, 2) if len(numbers) > 1 else ((k, k) for k in numbers)
        for a, b in pairs if len(numbers) <= _MOST_PAIRED else ():
            first, second = self._columns[a], self._columns[b]
            *cuts, gain = best_cut(first[own], second[own], values, weights)
            if float(values @ (weights * values)) - gain >= bar * len(own):
                continue
            basis = _Basis(cells(first, second, (cuts[0], cuts[1])) * root[:, None])
            error, penalty = basis.choice(left)
            if error < min(bar, best[0] if best else math.inf):
                best = error, basis, penalty
        return best

    def _trial(self, stage: _Stage, left: Floats) -> tuple[float, tuple[_Kernel, ...], float]:
        """The least error of a stage on some rows, as a share of what is left there, with its kernels and penalty."""
        sample = left[self._own[: stage.rows]]
        scores = [(*self._basis(kernels, stage.rows).choice(sample), kernels) for kernels in stage.choices]
        error, penalty, kernels = min(scores, key=lambda score: score[0])
        return error * len(sample) / max(float(sample @ sample), 1e-300), kernels, penalty

    def _basis(self, kernels: tuple[_Kernel, ...], most_rows: int = 0) -> _Basis:
        """Features of every row, or of the first so many of those that choices are made on."""
        if (kernels, most_rows) not in self._bases:
            rows = self._own[:most_rows] if most_rows else np.arange(len(self._lines))
            own = self._own[:most_rows] if most_rows else self._own
            most = min(_CHOICE_CENTERS if most_rows else _CENTERS, len(own) // 3)
            parts = [np.full((len(rows), 1), _CONSTANT)]
            if len(kernels[0].coordinates) == 1:
                parts.append(self._lines[rows])
            parts += [self._bells(rows, own, kernel, max(most // len(kernels), 2)) for kernel in kernels]
            features = np.hstack(parts)
            basis = _Basis(features if self._root is None else features * self._root[rows, None])
            self._bases[kernels, most_rows] = basis
        return self._bases[kernels, most_rows]

    def _bells(self, rows: Codes, own: Codes, kernel: _Kernel, most: int) -> Floats:
        """Combinations of bell curves at some of ``own``, whose products are the kernel's values."""
        if len(kernel.coordinates) == 1:
            # of one coordinate half of the centres are spread evenly over the rows, and half over the values
            order = own[np.argsort(self._columns[kernel.coordinates[0]][own], kind="stable")]
            values = self._columns[kernel.coordinates[0]][order]
            even = np.searchsorted(values, np.linspace(values[0], values[-1], most // 2))
            centers = order[np.unique([*even, *np.linspace(0, len(order) - 1, most - most // 2).astype(np.int64)])]
        else:
            centers = own[: min(most, _PAIR_CENTERS if len(kernel.coordinates) == 2 else most)]
        values, vectors = np.linalg.eigh(self._kernel(centers, centers, kernel))
        used = values > values.max() * 1e-9
        return np.asarray(self._kernel(rows, centers, kernel) @ (vectors[:, used] / np.sqrt(values[used])))

    def _kernel(self, rows: Codes, others: Codes, kernel: _Kernel) -> Floats:
        product: Floats = np.ones((len(rows), len(others)))
        for k in kernel.coordinates:
            ends = self._columns[k][rows][:, None], self._columns[k][others]
            if k < self._lines.shape[1]:
                bell = np.exp(-(((ends[0] - ends[1]) / kernel.width) ** 2) / 2)
            else:
                bell = (ends[0] == ends[1]).astype(np.float64)
            product *= bell if kernel.mix == math.inf else (1 + kernel.mix * bell) / (1 + kernel.mix)
        return product


@dataclass(frozen=True)
class _Kernel:
    """A product over coordinates of bell curves, or of one plus ``mix`` times these."""

    coordinates: tuple[int, ...]
    width: float
    mix: float


@dataclass(frozen=True)
class _Stage:
    """Kernels to choose from on so many rows."""

    choices: Sequence[tuple[_Kernel, ...]]
    rows: int


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
