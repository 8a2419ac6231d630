"""Losses on held-out rows, and how sharply a difference of two means of them is known."""

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

__all__ = ["FEWEST_ERRORS", "Losses", "Sample", "effective_rows"]

# standard errors by which a look may be worse than the best one and still be taken for as good, at the least
FEWEST_ERRORS = 1 / 3


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
        own = np.asarray(part, dtype=np.float64)
        total, squares = total + float(own.sum()), squares + float(np.square(own).sum())
    return total * total / squares if squares else 0.0


@dataclass(frozen=True)
class Sample:
    """What losses are losses of: how much each counts in the mean, and which of the rows behind them vary together.

    Rows of one unit depend on each other: those of a group, and one row that several fits see. A unit has entries, one
    for each distinct row that it has a share of. Units that have a share of one and the same distinct row alone are
    independent of each other and add their variances, so that they are one entry here: the root of their squared
    shares.

    Attributes:
        weight: Share of the whole weight that each distinct row stands for, float64 ``[n]``, sums to one.
        unit: Number of the unit of every entry, int64 ``[e]``.
        row: The distinct row of every entry, int64 ``[e]``.
        share: Share of the whole weight that every entry stands for, float64 ``[e]``.
        rows: Equally weighted rows that are worth as much, :func:`effective_rows`.
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
    ) -> Sample:
        """The sample that some rows of some fits are.

        Args:
            fits: The fits.
            chosen: Rows of each that are judged, None for all.
            merged: The distinct row of every judged row of each fit, and the number of distinct rows; by default every
                row is one by itself.

        Complexity:
            O(r) for r rows; O(r log r) where rows are in groups, or several fits see the same rows.
        """
        row, weight, unit, start = [], [], [], 0
        for number, (fit, rows) in enumerate(zip(fits, chosen, strict=True)):
            own = fit.place if rows is None else fit.place[rows]
            places, distinct = (np.arange(len(own)), len(own)) if merged is None else merged[number]
            row.append(places + start)
            start += distinct
            weight.append(fit.mass(rows).numpy())
            unit.append((own if fit.unit is None else fit.unit if rows is None else fit.unit[rows]).numpy())
        at, mass = np.concatenate(row), np.concatenate(weight)
        alone = len(fits) == 1 and fits[0].unit is None
        found = _entries(np.concatenate(unit), at, mass / mass.sum(), alone=alone, distinct=start)
        shares = torch.from_numpy(np.bincount(at, mass, start) / mass.sum())
        numbers, entry_rows, entry_shares = (torch.from_numpy(one) for one in found)
        return Sample(shares, numbers, entry_rows, entry_shares, effective_rows(weight))

    def mean(self, values: Tensor) -> float:
        """Weighted mean of values ``[n]``."""
        return float((values.detach().cpu().double() * self.weight).sum())

    def mean_and_error(self, values: Tensor) -> tuple[float, float]:
        """Weighted mean of values ``[n]``, and the standard error that it has because the units are a sample.

        Of a weighted mean of independent units the variance is the sum of the squares of what each adds to it
        (linearised, as of a ratio of two sums): of equal weights the variance of the values over their number, and of
        the exponential weights of a bootstrap about twice as much.

        References:
            Särndal, Swensson & Wretman (1992), Model Assisted Survey Sampling, section 5.6.
        """
        mean = self.mean(values)
        parts = self.share * (values.detach().cpu().double() - mean)[self.row]
        sums = torch.zeros(int(self.unit.max()) + 1, dtype=torch.float64)
        return mean, float(sums.index_add_(0, self.unit, parts).square().sum().sqrt())


def _entries(
    unit: NDArray[np.int64], row: NDArray[np.int64], share: NDArray[np.float64], *, alone: bool, distinct: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Units, distinct rows and shares of the entries; ``alone`` says that every unit is one row."""
    several = np.zeros(len(unit), bool)
    if not alone:
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
class Losses:
    """Losses on held-out rows.

    Attributes:
        loss: Loss of each distinct row, ``[n]``.
        sample: The rows.
        errors: Standard errors by which a mean may be higher and still be taken for as good.
    """

    loss: Tensor
    sample: Sample
    errors: float = FEWEST_ERRORS

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
        """The losses alone."""
        return self.loss

    def record(self) -> dict[str, float]:
        """What a training record says of them."""
        return {"heldout": self.mean}

    def above(self, other: Tensor) -> tuple[float, float]:
        """By how much the mean is above that of other losses of the same rows, and the standard error of that."""
        return self.sample.mean_and_error(self.loss.cpu().double() - other.cpu().double())

    def worse_than(self, other: Losses) -> bool:
        """Whether the mean is higher than another one's on the same rows by more than ``errors`` standard errors."""
        mean, error = self.above(other.loss)
        # written so that NaN counts as worse
        return not mean <= self.errors * error
