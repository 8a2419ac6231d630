"""Distinct rows of the training data with their counts: a summary for when the data are not available."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data import Encoded, Schema

__all__ = ["MOST_KEPT", "MOST_KNOTS", "CountedRows", "RowTable", "countable", "quantile_knots"]

# quantiles to which numbers are rounded: far more than the neighbourhoods in which rows are counted
_KNOTS = 512
MOST_KNOTS = _KNOTS + 1
# largest number of distinct rows of one table in a file
MOST_KEPT = 20_000
# row codes are packed into 64 bits, with room for another column
_PACKED = 1 << 40


@dataclass(frozen=True)
class RowTable:
    """Distinct rows of some columns.

    Attributes:
        names: The columns.
        codes: int32 ``[k, d]``, sorted: level of a categorical variable, index of the knot of a number.
        counts: Number of training rows equal to each, float64 ``[k]``.
    """

    names: tuple[str, ...]
    codes: NDArray[np.int32]
    counts: NDArray[np.float64]

    @classmethod
    def of(cls, names: Sequence[str], codes: NDArray[np.int32], counts: NDArray[np.float64] | None = None) -> RowTable:
        """Distinct rows of ``codes``, ``[n, d]``, with the sums of their ``counts`` (1 each by default)."""
        packed = np.zeros(len(codes), dtype=np.int64)
        size = 1
        for column in codes.T:
            levels = int(column.max(initial=0)) + 1
            if size * levels > _PACKED:
                # renumber in the same order
                used, packed = np.unique(packed, return_inverse=True)
                size = len(used)
            packed = packed * levels + column
            size *= levels
        _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
        total = np.bincount(inverse.ravel(), weights=counts, minlength=len(first)).astype(np.float64)
        return cls(tuple(names), codes[first], total)

    def project(self, names: Sequence[str]) -> RowTable:
        """Distinct rows of some of the columns."""
        positions = [self.names.index(name) for name in names]
        return RowTable.of(names, self.codes[:, positions], self.counts)

    def thinned(self) -> RowTable:
        """At most 20,000 rows, sampled in proportion to their counts, with every level of every column present."""
        if len(self.counts) <= MOST_KEPT:
            return self
        rng = np.random.default_rng(0)
        total = self.counts.sum()
        drawn = rng.multinomial(MOST_KEPT // 2, self.counts / total).astype(np.float64) * total / (MOST_KEPT // 2)
        for column in self.codes.T:
            _, first = np.unique(column, return_index=True)
            drawn[first] = np.maximum(drawn[first], 1.0)
        is_kept = drawn > 0
        return RowTable(self.names, self.codes[is_kept], drawn[is_kept])


@dataclass(frozen=True)
class CountedRows:
    """Rows of a data set, or tables of the columns that were fitted together.

    Attributes:
        do: Names of the variables that were set.
        columns: Names of the variables that were observed and can be counted.
        size: Number of rows.
        tables: One table of all columns, or several tables of some columns.
    """

    do: frozenset[str]
    columns: frozenset[str]
    size: int
    tables: Sequence[RowTable]
    _projections: dict[tuple[str, ...], RowTable] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, encoded: Encoded, schema: Schema, knots: Mapping[str, NDArray[np.float32]]) -> CountedRows:
        """Rows of an encoded data set, numbers rounded to their knots."""
        names = [name for name in encoded if countable(schema, name)]
        columns = [
            _nearest(knots[name], encoded[name]) if name in knots else encoded[name].astype(np.int32) for name in names
        ]
        codes = np.stack(columns, axis=1) if columns else np.empty((encoded.rows, 0), dtype=np.int32)
        whole = RowTable(tuple(names), codes, np.ones(encoded.rows))
        return cls(frozenset(encoded.do), frozenset(names), encoded.rows, (whole,))

    def table(self, names: Sequence[str]) -> RowTable | None:
        """Distinct rows of some columns, or None if no table holds all of these columns."""
        key = tuple(names)
        if key not in self._projections:
            for table in self.tables:
                if set(key) <= set(table.names):
                    self._projections[key] = table.project(key)
                    break
            else:
                return None
        return self._projections[key]


def countable(schema: Schema, name: str) -> bool:
    """Whether a variable is categorical or a single number, so that rows with equal values can be counted."""
    variable = schema[name]
    return variable.kind != "image" and variable.size is None


def quantile_knots(schema: Schema, datasets: Sequence[Encoded]) -> dict[str, NDArray[np.float32]]:
    """Values to which each number is rounded: its quantiles over all data sets."""
    knots = {}
    for name, variable in schema.items():
        columns = [dataset[name] for dataset in datasets if name in dataset]
        if columns and variable.kind != "categorical" and countable(schema, name):
            levels = np.linspace(0.0, 1.0, _KNOTS + 1)
            # observed values, so that a recurring value is not rounded
            quantiles = np.quantile(np.concatenate(columns), levels, method="inverted_cdf")
            knots[name] = np.unique(quantiles).astype(np.float32)
    return knots


def _nearest(knots: NDArray[np.float32], values: NDArray[Any]) -> NDArray[np.int32]:
    if len(knots) == 1:
        return np.zeros(len(values), dtype=np.int32)
    upper = np.searchsorted(knots, values).clip(1, len(knots) - 1)
    return np.where(values - knots[upper - 1] <= knots[upper] - values, upper - 1, upper).astype(np.int32)
