"""Conditional probabilities from discrete data and exact distributions, by source."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mdcm.data.levels import LevelError, plain, position
from mdcm.elimination import check_size
from mdcm.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from mdcm.identification.estimand import Formula
    from mdcm.identification.evaluation import Bounds

__all__ = ["SourceTables", "TableSource"]

# largest number of cell indices, for each row and term, to cache between bootstrap samples
_MOST_CELLS_KEPT = 1 << 25
# row codes are packed into 64 bits, with room for another column
_MOST_PACKED = 1 << 40


@dataclass(frozen=True)
class TableSource:
    """Data sets that set the same variables and observe the same variables.

    Attributes:
        names: Names of the data sets.
        targets: Names of the variables that are set, sorted.
        shown: Whether estimands show the names of the data sets.
    """

    names: tuple[str, ...]
    targets: tuple[str, ...]
    shown: bool = False

    def __str__(self) -> str:
        return ", ".join(self.names) if self.shown else f"do({', '.join(self.targets)})" if self.targets else "P(V)"


@dataclass
class _Part:
    """A table of weighted rows with their groups and counts of equal rows.

    The weights are ``[n]``, or ``[r, n]`` in r bootstrap samples.
    """

    frame: pd.DataFrame
    weights: NDArray[np.float64]
    groups: NDArray[np.int64] | None = None
    count: NDArray[np.float64] | None = None

    @cached_property
    def total(self) -> NDArray[np.float64]:
        """Total weight of every row, multiplied by its count."""
        return self.weights if self.count is None else self.weights * self.count

    @cached_property
    def row_weight(self) -> tuple[NDArray[np.float64], float]:
        """Weight of all rows in every sample, ``[r]``, and their number."""
        rows = self.weights.shape[-1] if self.count is None else float(self.count.sum())
        return np.atleast_2d(self.total).sum(axis=1), rows


class SourceTables:
    """Discrete tables by source.

    Args:
        data: A table (or exact distribution); a mapping from frozensets of targets, or from names of data sets, to
            tables; or a list of data sets, matched by name or by their interventions.
        sources: All sources whose tables define levels.
        used: Sources whose probabilities are needed.
        weights: Weights of the rows: for a single table a sequence or the name of a column, for a mapping a mapping.
        levels: Known levels of variables.

    Attributes:
        replicates: Number of bootstrap samples, or None; all results of bootstrap samples have a leading axis for them.
        evaluated: Cached bounds by formula.

    Raises:
        DataError: If a source has no table, or weights are invalid.
    """

    def __init__(
        self,
        data: Any,
        sources: Sequence[TableSource],
        used: Collection[TableSource],
        weights: Any = None,
        levels: Mapping[str, Sequence[Hashable]] | None = None,
    ) -> None:
        import pandas as pd

        self.replicates: int | None = None
        self.evaluated: dict[Formula, Bounds] = {}
        self._parts: list[_Part] = []
        self._members: dict[TableSource, list[int]] = {}
        if isinstance(data, pd.DataFrame | pd.Series) and len(used) > 1:
            needed = " and ".join(map(str, used))
            raise DataError(f"the estimand needs data of {needed}, but a single table was given")
        part_of_table: dict[int, int] = {}
        for source in [*used, *(source for source in sources if source not in used)]:
            matches = _matching_tables(data, source)
            if not matches and source in used:
                raise DataError(
                    f"the estimand needs data of {source}; give a mapping such as "
                    f"{{frozenset({set(source.targets) or ''}): table}}, or a list of data sets"
                )
            self._members[source] = []
            for number, key, table, table_weights, groups in matches:
                if number not in part_of_table:
                    part_of_table[number] = len(self._parts)
                    self._parts.append(_part(key, table, table_weights, groups, data, weights))
                self._members[source].append(part_of_table[number])
        self._known = {name: list(map(plain, values)) for name, values in (levels or {}).items()}
        self._levels: dict[str, list[Hashable]] = {}
        self._codes: dict[tuple[int, str], NDArray[np.intp]] = {}
        self._cells: dict[Hashable, NDArray[np.int64]] = {}
        self._positions: dict[Hashable, int] = {}
        self._rng: np.random.Generator | None = None
        self._drawn: dict[Hashable, NDArray[np.float64]] = {}

    def compressed(self, names: Collection[str]) -> SourceTables:
        """The tables with equal rows merged.

        Args:
            names: The columns to keep.
        """
        # determine levels from all rows before merging
        for name in filter(self.has, names):
            self.levels(name)
        base = object.__new__(SourceTables)
        base.__dict__ = {**self.__dict__, "_codes": {}, "_cells": {}, "_parts": [], "evaluated": {}}
        for part in self._parts:
            columns = [name for name in part.frame.columns if name in names]
            keys = [self._numbered(part.frame, name) for name in columns]
            # rows must also have equal weights and groups
            keys.append(np.unique(part.weights, return_inverse=True)[1])
            if part.groups is not None:
                keys.append(part.groups)
            first, count = _distinct_rows(keys)
            frame = part.frame[columns].iloc[first]
            for name, codes in zip(columns, keys, strict=False):
                if (id(part.frame), name) in self._codes:
                    base._codes[id(frame), name] = codes[first]
            groups = None if part.groups is None else np.unique(part.groups[first], return_inverse=True)[1]
            base._parts.append(_Part(frame, part.weights[first], groups, count))
        return base

    def _numbered(self, frame: pd.DataFrame, name: str) -> NDArray[np.intp]:
        """Integer codes of a column's values, also if some are missing or not levels."""
        import pandas as pd

        try:
            return self._coded(None, frame, name)
        except DataError:
            # raised again when the column is used
            return pd.factorize(frame[name], use_na_sentinel=False)[0]

    def resampled(self, replicates: int, seed: int, batch: int) -> Iterator[SourceTables]:
        """Samples of the Bayesian bootstrap: every row, or group of rows, has a random weight with mean 1.

        Conditional probabilities are drawn with an additional row spread over the levels, so that a few equal rows do
        not imply certainty; conditions without rows stay unknown.

        Args:
            replicates: Number of samples.
            seed: Seed.
            batch: Largest number of samples per batch.

        Yields:
            SourceTables of the same rows in a batch of samples.

        References:
            Rubin (1981), The Bayesian bootstrap.
        """
        rng = np.random.default_rng(seed)
        for start in range(0, replicates, batch):
            size = min(batch, replicates - start)
            other = object.__new__(SourceTables)
            fresh = {"replicates": size, "_rng": rng, "_drawn": {}, "_parts": [], "evaluated": {}}
            other.__dict__ = {**self.__dict__, **fresh}
            for part in self._parts:
                rows = len(part.weights)
                count = np.ones(rows) if part.count is None else part.count
                if part.groups is None:
                    drawn = rng.standard_exponential(size=(size, rows))
                    several = np.flatnonzero(count != 1)
                    drawn[:, several] = rng.standard_gamma(count[several], size=(size, len(several)))
                else:
                    group_weights = rng.standard_exponential(size=(size, int(part.groups.max()) + 1))
                    drawn = count * group_weights[:, part.groups]
                other._parts.append(_Part(part.frame, part.weights * drawn / count, None, count))
            yield other

    @property
    def num_rows(self) -> int:
        """Number of rows of all tables."""
        return sum(part.weights.shape[-1] for part in self._parts)

    @property
    def is_sample(self) -> bool:
        """Whether these are bootstrap samples."""
        return self.replicates is not None

    def has(self, name: str) -> bool:
        """Whether the levels of a variable are known or a table has it."""
        return name in self._levels or name in self._known or any(name in part.frame for part in self._parts)

    def levels(self, name: str) -> list[Hashable]:
        """Levels of a variable: known levels first, then those of the tables, sorted.

        Levels are converted as in a schema: to plain numbers, booleans and texts, so that 1 and 1.0 are the same level,
        and intervals and dates become texts.
        """
        if name not in self._levels:
            known = list(self._known.get(name, ()))
            columns = [part.frame[name] for part in self._parts if name in part.frame]
            if not columns and not known:
                raise DataError(f"the data have no column {name!r}, which the estimand needs", column=name)
            observed = dict.fromkeys(plain(value) for column in columns for value in _distinct(column))
            additional = [level for level in observed if level not in known]
            # categories keep their order
            if not all(_has_categories(column) for column in columns):
                additional = _sorted(additional)
            self._levels[name] = [*known, *additional]
        return self._levels[name]

    def code(self, name: str, value: object) -> int:
        """Code of a level; a text may identify a number, since values on a command line are texts.

        Raises:
            DataError: If there is no such level.
        """
        key, levels = (name, type(value), value), self.levels(name)
        try:
            if key not in self._positions:
                self._positions[key] = position(levels, value)
            return self._positions[key]
        except LevelError:
            shown = ", ".join(map(str, levels[:10]))
            raise DataError(f"{name}={value} does not occur; its levels are {shown}", column=name) from None

    def counts(
        self, source: TableSource, names: Sequence[str], at: Mapping[str, int] | None = None
    ) -> NDArray[np.float64]:
        """Total weight of every combination of levels, an axis for each name, over the rows with the codes ``at``."""
        shape = [len(self.levels(name)) for name in names]
        size = math.prod(shape)
        check_size(size * (self.replicates or 1))
        total = np.zeros((self.replicates or 1, size))
        for k in self._members.get(source, ()):
            cells = self._cell_indices(source, k, tuple(names), tuple((at or {}).items()), size)
            for row, weights in zip(total, np.atleast_2d(self._parts[k].total), strict=True):
                row += np.bincount(cells, weights=weights, minlength=size + 1)[:size]
        if self.replicates is None:
            return total.reshape(shape)
        # samples are the first axis, and adjacent in memory: sums and products over short axes are then fast
        return np.moveaxis(np.ascontiguousarray(total.T).reshape(*shape, self.replicates), -1, 0)

    def has_rows(
        self, source: TableSource, names: Sequence[str], at: Mapping[str, int] | None = None
    ) -> NDArray[np.bool_]:
        """Whether every combination of levels has rows with the codes ``at``; the same in all samples."""
        occupied = self.counts(source, names, at) > 0
        return occupied if self.replicates is None else occupied[0]

    def conditional(
        self,
        source: TableSource,
        given: Sequence[str],
        names: Sequence[str],
        intervened: Sequence[str] = (),
        at: Mapping[str, int] | None = None,
    ) -> NDArray[np.float64]:
        """P(names | given) under do(intervened) in a source, axes in the order (intervened, given, names).

        Probabilities are NaN if the condition has no rows.

        Args:
            source: The source.
            given: Names of the conditions.
            names: Names of the outcomes.
            intervened: Names of the variables set in the source.
            at: Codes of further variables that are set or conditioned on.
        """
        key = (source, tuple(given), tuple(names), tuple(intervened), tuple((at or {}).items()))
        if key in self._drawn:
            return self._drawn[key]
        counts = self.counts(source, (*intervened, *given, *names), at)
        axes = tuple(range(-len(names), 0))
        total = counts.sum(axis=axes, keepdims=True)
        has_rows = np.broadcast_to(total > 0, counts.shape)
        if self._rng is not None:
            # add a row, spread over the levels at random
            levels = math.prod(counts.shape[axis] for axis in axes)
            shares = _small_gamma(self._rng, 1 / levels, int(has_rows.sum())).reshape(self.replicates or 1, -1)
            additional = self._row_weight(source) * shares
            if additional.size == counts.size:
                counts += additional.reshape(counts.shape)
            else:
                counts[has_rows] += additional.ravel()
            total = counts.sum(axis=axes, keepdims=True)
        share: NDArray[np.float64] = np.divide(counts, total, out=np.full_like(counts, np.nan), where=has_rows)
        if self.is_sample:
            self._drawn[key] = share
        return share

    def _row_weight(self, source: TableSource) -> NDArray[np.float64]:
        """Mean weight of a row in every sample, ``[r, 1]``."""
        parts = [self._parts[k].row_weight for k in self._members[source]]
        return np.asarray(sum(total for total, _ in parts) / sum(rows for _, rows in parts))[:, None]

    def _cell_indices(
        self, source: TableSource, k: int, names: tuple[str, ...], at: tuple[tuple[str, int], ...], size: int
    ) -> NDArray[np.int64]:
        """Index of every row's cell in the table over ``names``; ``size`` for rows with other codes than ``at``."""
        key = (id(self._parts[k].frame), names, at)
        if key not in self._cells:
            frame = self._parts[k].frame
            cells = np.zeros(self._parts[k].weights.shape[-1], dtype=np.int64)
            for name in names:
                cells = cells * len(self.levels(name)) + self._coded(source, frame, name)
            for name, code in at:
                cells[self._coded(source, frame, name) != code] = size
            if sum(map(len, self._cells.values())) + len(cells) > _MOST_CELLS_KEPT:
                return cells
            self._cells[key] = cells
        return self._cells[key]

    def _coded(self, source: TableSource | None, frame: pd.DataFrame, name: str) -> NDArray[np.intp]:
        # the id of the frame is unique while this object holds it
        key = (id(frame), name)
        if key not in self._codes:
            import pandas as pd

            if name not in frame:
                where = f" of {source}" if len(self._parts) > 1 else ""
                raise DataError(f"the data{where} have no column {name!r}, which the estimand needs", column=name)
            # code the distinct values, of which there are few
            rows, distinct = pd.factorize(frame[name])
            code = {level: number for number, level in enumerate(self.levels(name))}
            codes = np.array([*(code[plain(value)] for value in distinct), -1], dtype=np.intp)[rows]
            if (codes < 0).any():
                raise DataError(f"column {name!r} has missing values", column=name, row=int((codes < 0).argmax()))
            self._codes[key] = codes
        return self._codes[key]


def _distinct_rows(keys: Sequence[NDArray[np.intp]]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Index of the first of every set of equal rows, and the number of rows in each set."""
    packed, size = np.zeros(len(keys[0]), dtype=np.int64), 1
    for column in keys:
        levels = int(column.max(initial=0)) + 1
        if size * levels > _MOST_PACKED:
            # renumber in the same order
            used, packed = np.unique(packed, return_inverse=True)
            size = len(used)
        packed = packed * levels + column
        size *= levels
    _, first, count = np.unique(packed, return_index=True, return_counts=True)
    return first, count.astype(np.float64)


def _small_gamma(rng: np.random.Generator, shape: float, size: int) -> NDArray[np.float64]:
    """Gamma variates of a shape below 1: those of shape + 1 times a power of a uniform variate (Stuart's theorem)."""
    return rng.standard_gamma(shape + 1, size) * np.exp(-rng.standard_exponential(size) / shape)


def _sorted(levels: list[Any]) -> list[Any]:
    try:
        return sorted(levels)
    except TypeError:
        return sorted(levels, key=str)


def _distinct(column: pd.Series[Any]) -> list[Any]:
    if _has_categories(column):
        return [column.cat.categories[code] for code in np.unique(column.cat.codes) if code >= 0]
    return list(column.dropna().unique())


def _has_categories(column: pd.Series[Any]) -> bool:
    import pandas as pd

    return isinstance(column.dtype, pd.CategoricalDtype)


# index of the table, key, table, weights and groups of its data set
_Matches = list[tuple[int, Any, Any, Any, Any]]


def _matching_tables(data: Any, source: TableSource) -> _Matches:
    """All tables of a source."""
    import pandas as pd

    if isinstance(data, pd.DataFrame | pd.Series):
        return [(0, None, data, None, None)]
    if isinstance(data, Mapping):
        matches: _Matches = []
        for number, (key, table) in enumerate(data.items()):
            # a text is the name of a data set, another key lists its targets
            if key in source.names if isinstance(key, str) else frozenset(key) == frozenset(source.targets):
                matches.append((number, key, table, None, None))
        return matches
    if isinstance(data, Sequence) and not isinstance(data, str):
        items = [(number, item) for number, item in enumerate(data) if hasattr(item, "table")]
        named = [(number, item) for number, item in items if getattr(item, "name", None) in source.names]
        matching = named or [
            (number, item) for number, item in items if frozenset(getattr(item, "do", ())) == frozenset(source.targets)
        ]
        return [
            (number, None, item.table, getattr(item, "weights", None), getattr(item, "groups", None))
            for number, item in matching
        ]
    raise DataError(
        f"data must be a table, an exact distribution, a mapping or a list of data sets, not {type(data).__name__}"
    )


def _part(key: Any, table: Any, table_weights: Any, groups: Any, data: Any, weights: Any) -> _Part:
    import pandas as pd

    if isinstance(table, pd.Series):
        frame = table.index.to_frame(index=False)
        frame.columns = pd.Index([str(name) for name in table.index.names])
        values = table.to_numpy(dtype=np.float64)
    elif isinstance(table, pd.DataFrame):
        frame = table
        row_weights = weights.get(key) if isinstance(weights, Mapping) else weights
        if table_weights is not None:
            row_weights = table_weights
        elif row_weights is not None and isinstance(data, Mapping) and not isinstance(weights, Mapping | str):
            raise DataError("weights of several tables must be a mapping with the same keys as the tables")
        if isinstance(row_weights, str):
            if row_weights not in table:
                raise DataError(f"weights: the data have no column {row_weights!r}", column=row_weights)
            row_weights = table[row_weights]
        values = np.ones(len(frame)) if row_weights is None else np.asarray(row_weights, dtype=np.float64)
    else:
        raise DataError(f"a table must be a DataFrame or an exact distribution, not {type(table).__name__}")
    if len(values) != len(frame) or not len(frame) or not (values >= 0).all() or not np.isfinite(values).all():
        raise DataError("weights must be a non-negative number for each row, and there must be a row")
    if not values.any():
        raise DataError("weights must not all be 0")
    return _Part(
        frame, values, None if groups is None else np.asarray(pd.factorize(np.asarray(groups))[0], dtype=np.int64)
    )
