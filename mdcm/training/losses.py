"""Losses on held-out rows, their means, and standard errors of differences of means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.training.rows import FitRows

__all__ = ["MIN_ERRORS", "HeldOutLosses", "HeldOutSample", "effective_rows"]

# smallest tolerance of early stopping: standard errors by which a validation may be worse than the best
MIN_ERRORS = 1 / 3


def effective_rows(weights: Iterable[Tensor | NDArray[np.float64]]) -> float:
    """Number of equally weighted rows whose mean varies as much as the weighted mean of these.

    Args:
        weights: Weights of the rows, in any number of parts.

    References:
        Kish (1965), Survey Sampling, section 11.7.

    Example:
        >>> effective_rows([np.ones(10)]), effective_rows([np.array([1.0, 1.0]), np.array([2.0])])
        (10.0, 2.6666666666666665)
    """
    total = squares = 0.0
    for part in weights:
        values = np.asarray(part, dtype=np.float64)
        total, squares = total + float(values.sum()), squares + float(np.square(values).sum())
    return total * total / squares if squares else 0.0


@dataclass(frozen=True)
class HeldOutSample:
    """The rows behind some losses: weights of the mean, and sampling units for its standard error.

    Rows of one sampling unit depend on each other: those of a group, and a row that several fits see. Rows may be
    merged into distinct ones. A unit has one entry for each distinct row that it contributes to. Units that contribute
    to a single distinct row are independent of each other, so that their variances add up: for each distinct row they
    are stored as one entry, the root of their squared shares.

    Attributes:
        weight: Share of each distinct row in the total weight, float64 ``[n]``, sums to one.
        unit: Unit of every entry, int64 ``[e]``.
        row: Distinct row of every entry, int64 ``[e]``.
        share: Share of every entry in the total weight, float64 ``[e]``.
        rows: Effective number of rows, :func:`effective_rows`.
    """

    weight: Tensor
    unit: Tensor
    row: Tensor
    share: Tensor
    rows: float

    @staticmethod
    def build(
        fits: Sequence[FitRows],
        chosen: Sequence[Tensor | None],
        merged: Sequence[tuple[NDArray[np.int64], int]] | None = None,
    ) -> HeldOutSample:
        """Sample of some rows of some fits.

        Args:
            fits: The fits.
            chosen: Chosen rows of each fit, None for all.
            merged: For each fit the distinct row of every chosen row, and the number of distinct rows; by default rows
                are not merged.

        Complexity:
            O(r) for r rows; O(r log r) with groups, or if several fits see the same rows.
        """
        row, weight, unit, start = [], [], [], 0
        for number, (fit, rows) in enumerate(zip(fits, chosen, strict=True)):
            index = fit.index if rows is None else fit.index[rows]
            distinct_row, distinct = (np.arange(len(index)), len(index)) if merged is None else merged[number]
            row.append(distinct_row + start)
            start += distinct
            weight.append(fit.mass(rows).numpy())
            unit.append((index if fit.unit is None else fit.unit if rows is None else fit.unit[rows]).numpy())
        all_rows, mass = np.concatenate(row), np.concatenate(weight)
        single_rows = len(fits) == 1 and fits[0].unit is None
        entries = _entries(np.concatenate(unit), all_rows, mass / mass.sum(), single_rows=single_rows, distinct=start)
        shares = torch.from_numpy(np.bincount(all_rows, mass, start) / mass.sum())
        units, entry_rows, entry_shares = map(torch.from_numpy, entries)
        return HeldOutSample(shares, units, entry_rows, entry_shares, effective_rows(weight))

    def mean(self, values: Tensor) -> float:
        """Weighted mean of values ``[n]``."""
        return float((values.detach().cpu().double() * self.weight).sum())

    def mean_and_error(self, values: Tensor) -> tuple[float, float]:
        """Weighted mean of values ``[n]``, and its standard error over samples of units.

        The variance of a weighted mean of independent units is the sum of their squared contributions (linearised, as
        for a ratio of two sums): with equal weights the variance of the values over their number, with the exponential
        weights of a bootstrap about twice as much.

        References:
            Särndal, Swensson & Wretman (1992), Model Assisted Survey Sampling, section 5.6.
        """
        mean = self.mean(values)
        parts = self.share * (values.detach().cpu().double() - mean)[self.row]
        sums = torch.zeros(int(self.unit.max()) + 1, dtype=torch.float64)
        return mean, float(sums.index_add_(0, self.unit, parts).square().sum().sqrt())


def _entries(
    unit: NDArray[np.int64], row: NDArray[np.int64], share: NDArray[np.float64], *, single_rows: bool, distinct: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Units, distinct rows and shares of the entries; ``single_rows`` if every unit has only one row."""
    several = np.zeros(len(unit), bool)
    if not single_rows:
        unit = np.unique(unit, return_inverse=True)[1].reshape(-1)
        pairs, pair = np.unique(unit * distinct + row, return_inverse=True)
        unit, row = pairs // distinct, pairs % distinct
        share = np.bincount(pair.reshape(-1), share).astype(np.float64)
        several = np.bincount(unit)[unit] > 1
    squares = np.bincount(row[~several], np.square(share[~several]), distinct)
    single = np.flatnonzero(squares)
    first = np.unique(unit[several], return_inverse=True)[1].reshape(-1)
    return (
        np.concatenate([np.arange(len(single)), first + len(single)]),
        np.concatenate([single, row[several]]),
        np.concatenate([np.sqrt(squares[single]), share[several]]),
    )


@dataclass(frozen=True)
class HeldOutLosses:
    """Losses on held-out rows.

    Attributes:
        loss: Loss of each distinct row, ``[n]``.
        sample: The rows.
        errors: Tolerance of :meth:`worse_than`, in standard errors.
    """

    loss: Tensor
    sample: HeldOutSample
    errors: float = MIN_ERRORS

    def __post_init__(self) -> None:
        if self.loss.shape != self.sample.weight.shape:
            raise ValueError(
                f"losses of {len(self.sample.weight):,} rows must be as many, not {tuple(self.loss.shape)}"
            )

    @property
    def mean(self) -> float:
        """Mean loss per row."""
        return self.sample.mean(self.loss)

    @property
    def tensor(self) -> Tensor:
        """Loss of each distinct row, ``[n]``."""
        return self.loss

    def record(self) -> dict[str, float]:
        """Entries of a training record."""
        return {"heldout": self.mean}

    def above(self, other: Tensor) -> tuple[float, float]:
        """Difference of the mean to that of other losses of the same rows, and its standard error."""
        return self.sample.mean_and_error(self.loss.cpu().double() - other.cpu().double())

    def worse_than(self, other: HeldOutLosses) -> bool:
        """Whether the mean is higher than that of others on the same rows by more than ``errors`` standard errors."""
        mean, error = self.above(other.loss)
        # written so that NaN counts as worse
        return not mean <= self.errors * error
