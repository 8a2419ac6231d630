"""Numbers so far from all others that a fit of real numbers would be about them: found, told, and held back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mdcm.variables import Variable, floats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data.dataset import Dataset

__all__ = ["Outliers", "limit_outliers"]

# a value is an outlier where it is so many times as far from the median as any value that is none
_GAP = 10.0
# interquartile ranges from the median within which nothing is far
_NEAR = 2.0
# most of the rows that may be outliers: what more of them have is part of the distribution
_SHARE = 0.01
# fewer rows say nothing of what is usual
_FEWEST = 20


@dataclass(frozen=True)
class Outliers:
    """Outliers of one variable.

    Attributes:
        variable: Its name, with the entry of a vector: ``W`` or ``W[2]``.
        dataset: Label of the data set of the farthest one.
        row: Its row, as the user counts.
        value: Its value; days since the origin for dates.
        ranges: How many interquartile ranges it is from the median.
        limit: The value that it counts as: the nearest one that is none.
        count: How many there are.
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
    """Data sets in which outliers of real numbers have the nearest value that is none.

    An outlier is a value that is more than ten times as far from the median as all others, but for a hundredth of the
    rows at most: a heavy tail has no such gap, except by chance in its very last value. A single one of them decides
    where a fit by likelihood puts all others. What was set by an experiment is as it was meant, and left alone.

    Args:
        datasets: Validated data sets.
        schema: Variables by name.

    Returns:
        The data sets, those without outliers as they are, and what was found, by variable.

    Complexity:
        O(n log n) per variable for n rows.

    Example:
        >>> import pandas as pd
        >>> from mdcm.data import Dataset, Schema, validate
        >>> table = pd.DataFrame({"X": [*range(49), 1e6]}, dtype=float)
        >>> datasets = validate(table, ["X"])
        >>> (limited,), found = limit_outliers(datasets, Schema.infer(datasets))
        >>> float(limited.table["X"].max()), found[0].row
        (48.0, 49)
    """
    changed = list(datasets)
    found: list[Outliers] = []
    for name, variable in schema.items():
        if variable.kind not in ("continuous", "implicit"):
            continue
        holders = [place for place, one in enumerate(datasets) if name in one.columns and name not in one.do]
        values = [_numbers(datasets[place], variable) for place in holders]
        for entry in range(variable.size or 1):
            columns = [part[:, entry] for part in values]
            limits = _limits(np.concatenate(columns)) if columns else None
            if limits is None:
                continue
            low, high, median, spread = limits
            bad = [(column < low) | (column > high) for column in columns]
            found.append(
                _described(name, variable, entry, datasets, holders, columns, bad, (low, high, median, spread))
            )
            for place, column, rows in zip(holders, columns, bad, strict=True):
                if rows.any():
                    changed[place] = _limited(changed[place], variable, entry, column, rows, low, high)
    return tuple(changed), found


def _numbers(dataset: Dataset, variable: Variable) -> NDArray[np.float64]:
    """Numbers of a variable, ``[n, entries]``."""
    if variable.size is not None:
        return np.asarray(dataset.arrays[variable.name], dtype=np.float64)
    return floats(dataset.table[variable.name], variable.origin)[:, None]


def _limits(values: NDArray[np.float64]) -> tuple[float, float, float, float] | None:
    """Smallest and largest value apart from outliers, median, interquartile range; None without outliers."""
    rows = len(values)
    if rows < _FEWEST:
        return None
    lower, median, upper = np.quantile(values, [0.25, 0.5, 0.75])
    far = np.abs(values - median)
    spread = upper - lower
    if spread == 0 and (far > 0).any():
        # most rows have one value, and the others say what is usual beside it
        spread = float(np.median(far[far > 0]))
    if spread == 0:
        return None
    most = max(1, int(_SHARE * rows))
    farthest = -np.partition(-far, most)[: most + 1]
    farthest[::-1].sort()
    gaps = farthest[:-1] > _GAP * np.maximum(farthest[1:], _NEAR * spread)
    if not gaps.any():
        return None
    kept = values[far <= farthest[int(gaps.nonzero()[0][-1]) + 1]]
    return float(kept.min()), float(kept.max()), float(median), float(spread)


def _described(
    name: str,
    variable: Variable,
    entry: int,
    datasets: Sequence[Dataset],
    holders: Sequence[int],
    columns: Sequence[NDArray[np.float64]],
    bad: Sequence[NDArray[np.bool_]],
    limits: tuple[float, float, float, float],
) -> Outliers:
    low, high, median, spread = limits
    far = [np.where(rows, np.abs(column - median), -1.0) for column, rows in zip(columns, bad, strict=True)]
    part = int(np.argmax([one.max() for one in far]))
    row = int(far[part].argmax())
    dataset, value = datasets[holders[part]], float(columns[part][row])
    return Outliers(
        name if variable.size is None else f"{name}[{entry}]",
        dataset.label,
        row if dataset.rows is None else int(dataset.rows[row]),
        value,
        abs(value - median) / spread,
        high if value > high else low,
        sum(int(rows.sum()) for rows in bad),
    )


def _limited(
    dataset: Dataset,
    variable: Variable,
    entry: int,
    column: NDArray[np.float64],
    rows: NDArray[np.bool_],
    low: float,
    high: float,
) -> Dataset:
    """A copy of a data set in which some rows have the lowest or highest value that others have."""
    made = copy.copy(dataset)
    name = variable.name
    if variable.size is not None:
        array = np.array(made.arrays[name])
        array[rows, entry] = np.clip(column[rows], low, high)
        made.arrays = {**made.arrays, name: array}
        return made
    values = made.table[name].copy()
    for side, limit in ((column < low, low), (column > high, high)):
        if (side & rows).any():
            # another cell of the column, so that its type stays, be it of dates or whole numbers
            kept = np.flatnonzero(~rows)
            nearest = kept[np.abs(column[kept] - limit).argmin()] if len(kept) else None
            values[side & rows] = limit if nearest is None else values.iloc[int(nearest)]
    made.table = made.table.assign(**{name: values})
    return made
