"""Outliers that would dominate a fit of real numbers: detection, description, and clipping."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mdcm.data.variables import Variable, floats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data.dataset import Dataset

__all__ = ["Outliers", "limit_outliers"]

# least ratio of an outlier's distance from the median to that of any other value
_GAP = 10.0
# distance from the median, in interquartile ranges, that never counts as far
_NEAR = 2.0
# largest share of rows that can be outliers: more frequent values are part of the distribution
_SHARE = 0.01
# fewest rows from which quantiles are taken
_FEWEST = 20


@dataclass(frozen=True)
class Outliers:
    """Outliers of a variable, represented by the farthest from the median.

    Attributes:
        variable: Name of the variable, with the entry of a vector: ``W`` or ``W[2]``.
        dataset: Label of the data set of the farthest outlier.
        row: Its row in the user's data.
        value: Its value; days since the origin for dates.
        ranges: Its distance from the median in interquartile ranges.
        limit: Its replacement: the nearest value that is not an outlier.
        count: Number of outliers.
    """

    variable: str
    dataset: str
    row: int
    value: float
    ranges: float
    limit: float
    count: int

    def __str__(self) -> str:
        more = "" if self.count == 1 else f" ({self.count - 1:,} more rows of it are far away)"
        return (
            f"{self.variable!r} in row {self.row} of {self.dataset} is {_shown(self.value)}{more}, {self.ranges:,.0f} "
            f"times the interquartile range from the median, and counts as {_shown(self.limit)}"
        )


def _shown(number: float) -> str:
    return f"{number:,.0f}" if number.is_integer() and abs(number) < 1e15 else f"{number:.6g}"


def limit_outliers(
    datasets: Sequence[Dataset], schema: Mapping[str, Variable]
) -> tuple[tuple[Dataset, ...], list[Outliers]]:
    """Replace outliers of real numbers by the nearest value that is not an outlier.

    Outliers are at most 1 % of the rows, and more than ten times as far from the median as all other values: a heavy
    tail has no such gap, except by chance at its last value. A single outlier can dominate a fit by likelihood. Values
    set by an experiment are intended, and are not changed.

    Args:
        datasets: Validated data sets.
        schema: Variables by name.

    Returns:
        The data sets, unchanged if they have no outliers, and the outliers of each variable.

    Complexity:
        O(n log n) per variable for n rows.

    Example:
        >>> import pandas as pd
        >>> from mdcm.data import Dataset, Schema, validate
        >>> table = pd.DataFrame({"X": [*range(49), 1e6]}, dtype=float)
        >>> datasets = validate(table, ["X"])
        >>> (limited,), outliers = limit_outliers(datasets, Schema.infer(datasets))
        >>> float(limited.table["X"].max()), outliers[0].row
        (48.0, 49)
    """
    changed = list(datasets)
    outliers: list[Outliers] = []
    for name, variable in schema.items():
        if variable.kind not in ("continuous", "implicit"):
            continue
        holders = [k for k, dataset in enumerate(datasets) if name in dataset.columns and name not in dataset.do]
        values = [_numbers(datasets[k], variable) for k in holders]
        for entry in range(variable.size or 1):
            columns = [part[:, entry] for part in values]
            limits = _limits(np.concatenate(columns)) if columns else None
            if limits is None:
                continue
            low, high, _, _ = limits
            bad = [(column < low) | (column > high) for column in columns]
            outliers.append(_describe(variable, entry, [datasets[k] for k in holders], columns, bad, limits))
            for k, column, rows in zip(holders, columns, bad, strict=True):
                if rows.any():
                    changed[k] = _clip(changed[k], variable, entry, column, rows, low, high)
    return tuple(changed), outliers


def _numbers(dataset: Dataset, variable: Variable) -> NDArray[np.float64]:
    """Numbers of a variable, ``[n, entries]``."""
    if variable.size is not None:
        return np.asarray(dataset.arrays[variable.name], dtype=np.float64)
    return floats(dataset.table[variable.name], variable.origin)[:, None]


def _limits(values: NDArray[np.float64]) -> tuple[float, float, float, float] | None:
    """Smallest and largest value without outliers, median, interquartile range; None if there are no outliers."""
    rows = len(values)
    if rows < _FEWEST:
        return None
    lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75])
    distances = np.abs(values - median)
    spread = upper - lower
    if spread == 0 and (distances > 0).any():
        # most rows have the same value, so the spread is that of the others
        spread = float(np.median(distances[distances > 0]))
    if spread == 0:
        return None
    most_outliers = max(1, int(_SHARE * rows))
    farthest = -np.partition(-distances, most_outliers)[: most_outliers + 1]
    farthest[::-1].sort()
    gaps = farthest[:-1] > _GAP * np.maximum(farthest[1:], _NEAR * spread)
    if not gaps.any():
        return None
    inliers = values[distances <= farthest[int(gaps.nonzero()[0][-1]) + 1]]
    return float(inliers.min()), float(inliers.max()), float(median), float(spread)


def _describe(
    variable: Variable,
    entry: int,
    datasets: Sequence[Dataset],
    columns: Sequence[NDArray[np.float64]],
    bad: Sequence[NDArray[np.bool_]],
    limits: tuple[float, float, float, float],
) -> Outliers:
    low, high, median, spread = limits
    distances = [np.where(rows, np.abs(column - median), -1.0) for column, rows in zip(columns, bad, strict=True)]
    farthest = int(np.argmax([part.max() for part in distances]))
    row = int(distances[farthest].argmax())
    dataset, value = datasets[farthest], float(columns[farthest][row])
    return Outliers(
        variable.name if variable.size is None else f"{variable.name}[{entry}]",
        dataset.label,
        row if dataset.rows is None else int(dataset.rows[row]),
        value,
        abs(value - median) / spread,
        high if value > high else low,
        sum(int(rows.sum()) for rows in bad),
    )


def _clip(
    dataset: Dataset,
    variable: Variable,
    entry: int,
    column: NDArray[np.float64],
    rows: NDArray[np.bool_],
    low: float,
    high: float,
) -> Dataset:
    """A copy of a data set with some rows clipped to the lowest and highest value of the other rows."""
    clipped = copy.copy(dataset)
    name = variable.name
    if variable.size is not None:
        array = np.array(clipped.arrays[name])
        array[rows, entry] = np.clip(column[rows], low, high)
        clipped.arrays = {**clipped.arrays, name: array}
        return clipped
    values = clipped.table[name].copy()
    for side, limit in ((column < low, low), (column > high, high)):
        if (side & rows).any():
            # a value copied from another cell keeps the type of the column, such as dates or integers
            others = np.flatnonzero(~rows)
            nearest = others[np.abs(column[others] - limit).argmin()] if len(others) else None
            values[side & rows] = limit if nearest is None else values.iloc[int(nearest)]
    clipped.table = clipped.table.assign(**{name: values})
    return clipped
