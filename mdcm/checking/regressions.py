"""Flexible regressions on the separating set of a pair, whose residuals are tested for dependence."""

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

# candidate widths of Gaussian bumps, in standard deviations of normal scores, and candidate weights of interactions
_WIDTHS = (0.15, 0.4, 1.0, 3.0)
_PAIR_WIDTHS = (0.3, 0.8, 2.5)
_MIXES = (0.1, 1.0, 10.0)
_PENALTIES = np.geomspace(1e-4, 1e3, 22)
# the penalty that predicts best smooths too much: the biases of the two regressions multiply and must be small, while
# their variance matters less
_UNDERSMOOTHING = 0.3
# largest number of bumps of a stage, and of a stage for a pair
_CENTERS, _PAIR_CENTERS = 300, 80
# rows and bumps used in the choice of kernels
_CHOICE_ROWS, _CHOICE_CENTERS = 800, 120
# largest number of coordinates whose pairs are tried, and rows used for them
_MOST_PAIRED, _PAIR_ROWS = 6, 2_000
# stages with the best prediction on a sample that are tried on all rows; largest number of steps; a step must reduce
# the error by the share of this many rows
_TRIED, _MOST_STEPS, _LEAST_GAIN = 3, 12, 12
# two cuts, or a function of the fit, must reduce the error by the share of this many rows more than bumps do, because
# cuts chosen among all candidates explain some noise
_LEAST_FREE = 25
# bumps of a function of the fit
_BENDS = 12
# largest number of coefficients per row
_MOST_FREEDOM = 0.7
# lower bound of the share kept: rows that determine their own fit carry no information
_LEAST_KEPT = 0.05
# scales of the constant and linear features: a coefficient of this size costs as much as a function of size 1
_CONSTANT, _LINEAR = 30.0, 3.0
# largest number of units in a leaf, whose residuals are compared with each other
_LEAF = 8


@dataclass(frozen=True)
class Residuals:
    """Residuals of a regression of some columns.

    Attributes:
        values: Residuals ``[n, k]``.
        kept: Share of the variance of independent noise that remains in each residual, ``[n, k]``, in (0, 1].
    """

    values: Floats
    kept: Floats


class StratumMeans:
    """Regression on categorical variables: means within strata.

    Args:
        strata: Stratum of each row, from 0, ``[n]``.
        weights: Weights of the rows, or None.
    """

    def __init__(self, strata: Codes, weights: Floats | None) -> None:
        self._strata, self._weights = strata, weights
        self._mass = np.bincount(strata, weights)
        share = (1.0 if weights is None else weights) / self._mass[strata]
        self._kept: Floats = np.maximum(1 - share, _LEAST_KEPT)

    def residuals(self, columns: Floats) -> Residuals:
        """Columns ``[n, k]`` minus their means within strata."""
        weighted = columns if self._weights is None else columns * self._weights[:, None]
        sums = np.stack([np.bincount(self._strata, column) for column in weighted.T], axis=1)
        values = columns - (sums / self._mass[:, None])[self._strata]
        return Residuals(values, np.broadcast_to(self._kept[:, None], values.shape))


class Regression:
    """Stagewise ridge regression; features and penalties are chosen for each column by generalised cross-validation.

    A stage is a function of all coordinates, a sum of functions of single coordinates, or a function of a pair. The
    stage that predicts best comes first; each further stage best predicts the residual. Features are Nyström features
    of product kernels at randomly drawn rows: the factor of a coordinate is 1 plus a Gaussian bump of the distance (of
    a categorical variable, 1 plus an indicator of equal levels), with width and interaction weight chosen from a few
    candidates. Bumps fit poorly near a jump, so a stage may also be constant in each of the four cells made by a cut of
    each of two coordinates, or a function of the fit so far, if that predicts better. Given these choices a fit is
    linear in the column, so products of residuals of two columns have mean zero if either fit is unbiased, and the
    share of noise that remains in each residual is known. Fits are deliberately less smooth than those that predict
    best.

    Args:
        numbers: Coordinates ``[n, p]``, of about unit variance.
        codes: Levels of categorical variables ``[n, q]``.
        weights: Weights of the rows, or None.
        groups: Group of each row, from 0, or None; choices use a single row of each group.

    Complexity:
        O(n · features²) time and O(n · features) memory per stage, of at most about 300 features.

    References:
        Mallat & Zhang (1993), Matching pursuits with time-frequency dictionaries (stages); Wahba (1990), Spline models
        for observational data (analysis of variance by kernels, generalised cross-validation); Williams & Seeger
        (2001), Using the Nyström method to speed up kernel machines; MacKinnon & White (1985), Some
        heteroskedasticity-consistent covariance matrix estimators (shares kept).
    """

    def __init__(self, numbers: Floats, codes: Codes, weights: Floats | None, groups: Codes | None) -> None:
        self._columns = [*numbers.T, *codes.T.astype(np.float64)]
        self._linear = numbers * _LINEAR
        self._root_weights = None if weights is None else np.sqrt(weights)
        d = len(self._columns)
        unit_rows = np.arange(len(numbers)) if groups is None else np.unique(groups, return_index=True)[1]
        self._rows_per_unit = len(numbers) / len(unit_rows)
        self._unit_rows = unit_rows[np.random.default_rng(d).permutation(len(unit_rows))]
        self._bases: dict[tuple[tuple[_Kernel, ...], int], _Basis] = {}

        coordinates = tuple(range(d))
        widths = _WIDTHS if numbers.shape[1] else _WIDTHS[-1:]
        mixes = _MIXES if d > 1 else (math.inf,)
        joint = [(_Kernel(coordinates, width, mix),) for width in widths for mix in mixes]
        self._stages = [_Stage(joint, _CHOICE_ROWS)]
        if d > 1:
            additive = [tuple(_Kernel((k,), width, math.inf) for k in coordinates) for width in widths]
            self._stages.append(_Stage(additive, _CHOICE_ROWS))
        if 2 < d <= _MOST_PAIRED:
            for pair in itertools.combinations(coordinates, 2):
                kernels = [(_Kernel(pair, width, math.inf),) for width in _PAIR_WIDTHS]
                self._stages.append(_Stage(kernels, _PAIR_ROWS))

    def residuals(self, columns: Floats) -> Residuals:
        """Columns ``[n, k]`` minus their fits."""
        scale = columns.std(axis=0)
        scale[scale == 0] = 1.0
        fits = [self._residual((column - column.mean()) / size) for column, size in zip(columns.T, scale, strict=True)]
        values, kept = (np.stack(parts, axis=1) for parts in zip(*fits, strict=True))
        return Residuals(values * scale, np.maximum(kept, _LEAST_KEPT))

    def _residual(self, column: Floats) -> tuple[Floats, Floats]:
        weighted = residual = column if self._root_weights is None else column * self._root_weights
        kept, step = np.ones(len(column)), self._step(residual, residual - weighted, 0.0)
        for _ in range(_MOST_STEPS):
            if step is None:
                break
            basis, penalty = step
            residual, share = basis.residual(residual, penalty * _UNDERSMOOTHING)
            kept *= share
            step = self._step(residual, weighted - residual, _LEAST_GAIN * self._rows_per_unit / len(column))
        return residual if self._root_weights is None else residual / self._root_weights, kept

    def _step(self, residual: Floats, fit: Floats, gain: float) -> tuple[_Basis, float] | None:
        """The basis that best predicts the residual, and its penalty; None if the error falls by less than ``gain``.

        Args:
            residual: Residual of the column, times the roots of the weights.
            fit: Fit of the column, times the roots of the weights.
            gain: Least share by which the error must fall.
        """
        bound = float(residual @ residual) / len(residual) * (1 - gain) if gain else math.inf
        best = self._bump_step(residual, bound)
        for find_step in (self._cut_step, self._bend_step):
            least = best[0] if best else bound
            best = find_step(residual, fit, least * (1 - _LEAST_FREE * self._rows_per_unit / len(residual))) or best
        if best is None:
            return None
        _, basis, penalty = best
        # repeated rows of a group would hide overfitting
        return basis, penalty * self._rows_per_unit

    def _bump_step(self, residual: Floats, bound: float) -> tuple[float, _Basis, float] | None:
        """Error, basis and penalty of the best bumps; None if the error is not below ``bound``."""
        trials = sorted((self._trial(stage, residual) for stage in self._stages), key=lambda trial: trial[0])
        for _, kernels, penalty in trials[:_TRIED]:
            basis = self._basis(kernels)
            error, penalty_of_all = basis.choice(residual)
            if error < bound:
                return error, basis, penalty if self._rows_per_unit > 1 else penalty_of_all
        return None

    def _bend_step(self, residual: Floats, fit: Floats, bound: float) -> tuple[float, _Basis, float] | None:
        """The same for a function of the fit so far; normal scores turn additive functions into functions of a sum."""
        root = np.ones(len(residual)) if self._root_weights is None else self._root_weights
        value = fit / root
        spread = float(value.std())
        if spread == 0:
            return None
        value = (value - value.mean()) / spread
        centers = np.quantile(value, np.linspace(0, 1, _BENDS))
        best: tuple[float, _Basis, float] | None = None
        for width in _PAIR_WIDTHS:
            bumps = np.exp(-(((value[:, None] - centers) / width) ** 2) / 2)
            features = np.hstack([np.full((len(residual), 1), _CONSTANT), value[:, None] * _LINEAR, bumps])
            basis = _Basis(features * root[:, None])
            error, penalty = basis.choice(residual)
            if error < (best[0] if best else bound):
                best = error, basis, penalty
        return best

    def _cut_step(self, residual: Floats, fit: Floats, bound: float) -> tuple[float, _Basis, float] | None:
        """The same for two cuts; ``fit`` is not used."""
        rows, numbers = self._unit_rows, range(self._linear.shape[1])
        root = np.ones(len(residual)) if self._root_weights is None else self._root_weights
        values, weights = (residual / root)[rows], root[rows] ** 2
        best: tuple[float, _Basis, float] | None = None
        pairs = itertools.combinations(numbers, 2) if len(numbers) > 1 else ((k, k) for k in numbers)
        for a, b in pairs if len(numbers) <= _MOST_PAIRED else ():
            first, second = self._columns[a], self._columns[b]
            *cuts, gain = best_cut(first[rows], second[rows], values, weights)
            if float(values @ (weights * values)) - gain >= bound * len(rows):
                continue
            basis = _Basis(cells(first, second, (cuts[0], cuts[1])) * root[:, None])
            error, penalty = basis.choice(residual)
            if error < min(bound, best[0] if best else math.inf):
                best = error, basis, penalty
        return best

    def _trial(self, stage: _Stage, residual: Floats) -> tuple[float, tuple[_Kernel, ...], float]:
        """The smallest error of a stage on a sample, relative to the residual there, with its kernels and penalty."""
        sample = residual[self._unit_rows[: stage.rows]]
        scores = [(*self._basis(kernels, stage.rows).choice(sample), kernels) for kernels in stage.choices]
        error, penalty, kernels = min(scores, key=lambda score: score[0])
        return error * len(sample) / max(float(sample @ sample), 1e-300), kernels, penalty

    def _basis(self, kernels: tuple[_Kernel, ...], most_rows: int = 0) -> _Basis:
        """Features of all rows, or of the first ``most_rows`` rows used for choices."""
        if (kernels, most_rows) not in self._bases:
            rows = self._unit_rows[:most_rows] if most_rows else np.arange(len(self._linear))
            candidates = self._unit_rows[:most_rows] if most_rows else self._unit_rows
            most = min(_CHOICE_CENTERS if most_rows else _CENTERS, len(candidates) // 3)
            parts = [np.full((len(rows), 1), _CONSTANT)]
            if len(kernels[0].coordinates) == 1:
                parts.append(self._linear[rows])
            parts += [self._bumps(rows, candidates, kernel, max(most // len(kernels), 2)) for kernel in kernels]
            features = np.hstack(parts)
            basis = _Basis(features if self._root_weights is None else features * self._root_weights[rows, None])
            self._bases[kernels, most_rows] = basis
        return self._bases[kernels, most_rows]

    def _bumps(self, rows: Codes, candidates: Codes, kernel: _Kernel, most: int) -> Floats:
        """Nyström features of a kernel, centred at some of the candidate rows."""
        if len(kernel.coordinates) == 1:
            # for a single coordinate, half of the centres are spread evenly over the rows and half over the values
            order = candidates[np.argsort(self._columns[kernel.coordinates[0]][candidates], kind="stable")]
            values = self._columns[kernel.coordinates[0]][order]
            even = np.searchsorted(values, np.linspace(values[0], values[-1], most // 2))
            centers = order[np.unique([*even, *np.linspace(0, len(order) - 1, most - most // 2).astype(np.int64)])]
        else:
            centers = candidates[: min(most, _PAIR_CENTERS if len(kernel.coordinates) == 2 else most)]
        values, vectors = np.linalg.eigh(self._kernel(centers, centers, kernel))
        used = values > values.max() * 1e-9
        return np.asarray(self._kernel(rows, centers, kernel) @ (vectors[:, used] / np.sqrt(values[used])))

    def _kernel(self, rows: Codes, others: Codes, kernel: _Kernel) -> Floats:
        product: Floats = np.ones((len(rows), len(others)))
        for k in kernel.coordinates:
            first, second = self._columns[k][rows][:, None], self._columns[k][others]
            if k < self._linear.shape[1]:
                bump = np.exp(-(((first - second) / kernel.width) ** 2) / 2)
            else:
                bump = (first == second).astype(np.float64)
            product *= bump if kernel.mix == math.inf else (1 + kernel.mix * bump) / (1 + kernel.mix)
        return product


@dataclass(frozen=True)
class _Kernel:
    """A product over coordinates of Gaussian bumps, or of 1 plus ``mix`` times these, normalized."""

    coordinates: tuple[int, ...]
    width: float
    mix: float


@dataclass(frozen=True)
class _Stage:
    """Candidate kernels, and the number of rows used to choose among them."""

    choices: Sequence[tuple[_Kernel, ...]]
    rows: int


class _Basis:
    """Orthonormal combinations of features, with eigenvalues that a ridge penalty shrinks."""

    def __init__(self, features: Floats) -> None:
        values, vectors = np.linalg.eigh(features.T @ features)
        used = values > values.max() * 1e-11
        self._values = values[used]
        self._vectors: Floats = features @ (vectors[:, used] / np.sqrt(self._values))

    def choice(self, column: Floats) -> tuple[float, float]:
        """The smallest error by generalised cross-validation, and its penalty."""
        squares, n = (self._vectors.T @ column) ** 2, len(column)
        shrunk = self._values / (self._values + _PENALTIES[:, None])
        freedom = shrunk.sum(axis=1)
        remaining = column @ column - (1 - (1 - shrunk) ** 2) @ squares
        errors = np.where(freedom < _MOST_FREEDOM * n, remaining / n / np.maximum(1 - freedom / n, 1e-9) ** 2, np.inf)
        best = int(np.argmin(errors))
        return float(errors[best]), float(_PENALTIES[best])

    def residual(self, column: Floats, penalty: float) -> tuple[Floats, Floats]:
        """Residuals of a ridge fit, and the share of noise that remains in each."""
        shrunk = self._values / (self._values + penalty)
        values = column - self._vectors @ (shrunk * (self._vectors.T @ column))
        kept = 1 - (self._vectors**2) @ (2 * shrunk - shrunk**2)
        return values, np.maximum(kept, _LEAST_KEPT)


def leaves(points: Floats) -> Codes:
    """Indices of small sets of neighbouring points: the leaves of a k-d tree.

    Args:
        points: Coordinates ``[n, p]``. A set is halved along the coordinate with the largest range.

    Returns:
        Leaf of each point, from 0, ``[n]``; a leaf has four to eight points, or all if there are fewer.
    """
    indices = np.zeros(len(points), dtype=np.int64)
    pending, count = [np.arange(len(points))], 0
    while pending:
        rows = pending.pop()
        if len(rows) <= _LEAF:
            indices[rows] = count
            count += 1
            continue
        inside = points[rows]
        longest = int(np.argmax(inside.max(axis=0) - inside.min(axis=0)))
        order = rows[np.argsort(inside[:, longest], kind="stable")]
        pending += [order[: len(rows) // 2], order[len(rows) // 2 :]]
    return indices


def leaf_centred(columns: Floats, near: Codes, groups: Codes | None) -> Floats:
    """Columns minus the mean of the other units of the same leaf.

    The bias of a regression is nearly the same for neighbours and cancels; noise remains, and is independent of that
    of the neighbours.

    Args:
        columns: ``[n, k]``.
        near: Leaf of each unit; units are groups if there are any, else rows.
        groups: Group of each row, from 0, ``[n]``, or None.
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
    """Coordinates of units; levels of a categorical variable are far apart, so that they are separated first."""
    points = np.hstack([numbers, 10.0 * codes])
    return points if groups is None else _means(points, groups)
