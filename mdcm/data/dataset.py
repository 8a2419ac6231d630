"""Data sets: rows drawn from the same distribution, with their metadata."""

from __future__ import annotations

import copy
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from mdcm.data.levels import plain, sorted_levels
from mdcm.data.specification import DatasetSpec
from mdcm.data.tables import mask_texts
from mdcm.data.variables import as_array, floats, missing_value_remedy, refuse, storage, suggestion
from mdcm.errors import DataError
from mdcm.text.advice import advice
from mdcm.text.printable import quoted

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from mdcm.data.levels import Level

__all__ = ["Dataset", "blocks"]

BLOCK_BYTES = 1 << 24
# largest number of distinct values of a target in a specification
_MOST_VALUES = 256


class Dataset:
    """Rows drawn from the same distribution: P(V), or that under an intervention.

    Args:
        table: Columns by name, a row per unit; optional if there are images or arrays.
        do: Names of the variables that were set by intervention; their values are read from the columns.
        images: Image variables by name: uint8 ``[n, c, h, w]``, or floats in [0, 1]; may be memory-mapped.
        arrays: Numbers by variable: ``[n]`` is a column, ``[n, size]`` a vector; may be memory-mapped. The columns
            ``W[0]``, ``W[1]``, ... of a table are a vector too, if W is a node of the graph.
        groups: Groups of rows, such as those of a patient, that must not be split between training and held-out data:
            a column of the table, or a value per row.
        weights: Positive weight of each row: a column of the table, or a value per row.
        name: Name in messages and in the plan.
        channels_last: Whether the image arrays are ``[n, h, w, c]``.
        dropna: Whether rows with missing values are left out instead of refused.
        na_values: Texts of the table that mark missing values, besides None and NaN.

    Attributes:
        table: The columns, with rows indexed from 0.
        do: Names of the targets as a tuple.
        images: Arrays ``[n, c, h, w]`` by name, views of the input.
        arrays: Arrays ``[n, size]`` by name, views of the input.
        rows: Indices of the rows in the input, int64 ``[n]``, if some were left out; else None.
        groups: Group of each row, int64 ``[n]``, or None.
        weights: Weight of each row, float64 ``[n]``, or None.
        name: Name; None until :func:`validate` assigns it.
        dropna: Whether rows with missing values are left out.

    Raises:
        DataError: If the parts are inconsistent or invalid.

    Example:
        >>> Dataset(pd.DataFrame({"X": [0, 1], "Y": [1, 1]}), do=["X"], name="trial")
        Dataset('trial', 2 rows, columns=['X', 'Y'], do=['X'])
    """

    def __init__(
        self,
        table: pd.DataFrame | Mapping[str, Any] | None = None,
        do: str | Sequence[str] = (),
        *,
        images: Mapping[str, ArrayLike] | None = None,
        arrays: Mapping[str, ArrayLike] | None = None,
        groups: str | ArrayLike | None = None,
        weights: str | ArrayLike | None = None,
        name: str | None = None,
        channels_last: bool = False,
        dropna: bool = False,
        na_values: Collection[str] = (),
    ) -> None:
        self.name = name
        self.dropna = dropna
        if isinstance(do, Mapping):
            raise DataError(
                f"{self.label}: do takes the names of the targets; the values set are read from their columns",
                dataset=name,
            )
        self.do = (do,) if isinstance(do, str) else tuple(do)
        self.rows: NDArray[np.int64] | None = None
        self.images = {str(key): self._image(str(key), value, channels_last) for key, value in (images or {}).items()}
        self.arrays = {str(key): self._array(str(key), value) for key, value in (arrays or {}).items()}
        self.table = mask_texts(self._frame(table), na_values)
        parts = [(f"image {key!r}", key, array) for key, array in self.images.items()]
        parts += [(f"array {key!r}", key, array) for key, array in self.arrays.items()]
        for description, key, array in parts:
            if len(array) != len(self.table):
                raise DataError(
                    f"{self.label}: {description} has {len(array):,} rows, but there are {len(self.table):,}",
                    dataset=name,
                    column=key,
                )
            if key in self.table.columns or (key in self.images and key in self.arrays):
                first = "a column of the table" if key in self.table.columns else "a vector"
                second = "an image array" if key in self.images else "an array"
                raise DataError(
                    f"{self.label}: {key!r} is both {first} and {second}; drop either", dataset=name, column=key
                )
        for key in [key for key, array in self.arrays.items() if array.ndim == 1]:
            values = np.asarray(self.arrays.pop(key))
            # pandas cannot count values in foreign byte order
            self.table = self.table.assign(**{key: values.astype(values.dtype.newbyteorder("="))})
        if not len(self.table):
            raise DataError(f"{self.label} is empty: it has no rows", dataset=name)
        for target in self.do:
            if target not in self.columns and f"{target}[0]" not in self.columns:
                raise DataError(
                    f"{self.label}: do={list(self.do)}, but there is no column {target!r} to read the values set "
                    f"from{suggestion(target, self.columns)}",
                    dataset=name,
                    column=target,
                )
        if len(set(self.do)) != len(self.do):
            raise DataError(f"{self.label}: do={list(self.do)} names a variable twice", dataset=name)
        # columns used as groups or weights do not count as extra columns
        self._helpers = frozenset(value for value in (groups, weights) if isinstance(value, str))
        self.groups = None if groups is None else self._groups(groups)
        self.weights = None if weights is None else self._weights(weights)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, arrays and images."""
        return (*self.table.columns, *self.arrays, *self.images)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        do = f", do={list(self.do)}" if self.do else ""
        return f"Dataset({self.name!r}, {len(self):,} rows, columns={list(self.columns)}{do})"

    def spec(self, nodes: Collection[str]) -> DatasetSpec:
        """Specification of this dataset for the planner: columns, targets with the values set, number of rows.

        :func:`to_spec` expresses the values as levels of a schema instead.

        Args:
            nodes: Names of the graph's nodes; other columns are left out.

        Returns:
            The specification; dates are days since 1970, and an image or vector counts as set to every value.

        Example:
            >>> Dataset({"X": [0, 1, 1], "Y": [1, 0, 1]}, do="X", name="trial").spec(["X", "Y"]).do
            {'X': (0, 1)}
        """
        values = {target: self.values_set(target) for target in self.do}
        return DatasetSpec(
            self.name or "d1",
            columns=[name for name in self.columns if name in nodes],
            do=values,
            rows=len(self),
            combinations=self.combinations_set(values, dict.fromkeys(values)),
        )

    def values_set(self, target: str, origin: str | None = None, *, as_levels: bool = False) -> list[Level] | None:
        """Distinct values of a column in ascending order, dates as days since an origin.

        Args:
            target: Name of the column.
            origin: Date with day 0, 1970-01-01 by default.
            as_levels: Whether dates are levels too, as texts.

        Returns:
            The values; if there are more than 256 real numbers, 256 of them, including the lowest and the highest.
            None for images and vectors, which have no list of values and count as set to every value.
        """
        if target not in self.table.columns:
            return None
        column = self.table[target]
        kind = storage(column, self.label, self.name, self.rows)
        if (kind == "dates" and not as_levels) or (kind == "str" and origin is not None):
            return _thinned(sorted(set(floats(column, origin).tolist())))
        values = sorted_levels({plain(value) for value in column.dropna().unique()})
        return _thinned(values) if kind == "float" else values

    def combinations_set(
        self, values: Mapping[str, Sequence[Level] | None], origins: Mapping[str, str | None]
    ) -> list[tuple[Level | None, ...]] | None:
        """Combinations of values, as returned by :meth:`values_set`, that were set together.

        Args:
            values: The values of each target, or None.
            origins: Date with day 0 of each target that is a number.

        Returns:
            Distinct combinations in ascending order, with a value of each target in the order of ``values``, which is
            None if the target has no complete list of values. None if fewer than two targets have such a list.
        """
        coded: dict[str, NDArray[np.intp]] = {}
        for name, target_values in values.items():
            if target_values is None:
                continue
            column = self.table[name]
            kind = storage(column, self.label, self.name, self.rows)
            if name in origins and (kind == "dates" or (kind == "str" and origins[name] is not None)):
                numbers, codes = np.unique(floats(column, origins[name]), return_inverse=True)
                distinct: list[Level] = numbers.tolist()
            else:
                codes, levels = pd.factorize(column)
                distinct = [plain(value) for value in levels]
            position = {value: k for k, value in enumerate(target_values)}
            if position.keys() >= set(distinct):
                # -1 marks a missing value
                coded[name] = np.array([*(position[value] for value in distinct), -1], dtype=np.intp)[codes]
        if len(coded) < 2:
            return None
        together = np.unique(np.stack(list(coded.values()), axis=1), axis=0)
        combinations = []
        for row in together[(together >= 0).all(axis=1)].tolist():
            value = {name: (values[name] or ())[code] for name, code in zip(coded, row, strict=True)}
            combinations.append(tuple(value.get(name) for name in values))
        return combinations

    @property
    def label(self) -> str:
        """Description of the dataset for messages."""
        return "the dataset" if self.name is None else f"dataset {self.name!r}"

    def _frame(self, table: pd.DataFrame | Mapping[str, Any] | None) -> pd.DataFrame:
        if table is None:
            arrays = [*self.images.values(), *self.arrays.values()]
            if not arrays:
                raise DataError(f"{self.label} is empty: give a table, images, arrays or all", dataset=self.name)
            return pd.DataFrame(index=range(len(arrays[0])))
        if isinstance(table, Mapping):
            if table and all(isinstance(value, str) or not hasattr(value, "__len__") for value in table.values()):
                key, value = next(iter(table.items()))
                raise DataError(
                    f"{self.label}: column {key!r} is {quoted(value)}, but a column needs a value per row, as in "
                    f"{{{key!r}: [{quoted(value)}, ...]}}",
                    dataset=self.name,
                    column=str(key),
                )
            try:
                table = pd.DataFrame({key: as_array(value) for key, value in table.items()})
            except ValueError as error:
                raise DataError(f"{self.label}: the columns do not make a table: {error}", dataset=self.name) from None
        data: Any = table
        hint = "; mdcm.data.read_table reads a file" if isinstance(data, str | os.PathLike) else ""
        if not isinstance(table, pd.DataFrame):
            raise DataError(
                f"{self.label}: the table must be a pandas DataFrame, not {type(data).__name__}{hint}",
                dataset=self.name,
            )
        if table.columns.nlevels > 1:
            raise DataError(f"{self.label}: column names have several levels; flatten them first", dataset=self.name)
        names = [str(column) for column in table.columns]
        column, times = Counter(names).most_common(1)[0] if names else ("", 1)
        if times > 1:
            raise DataError(
                f"{self.label}: {times} columns are called {column!r}; rename or drop the duplicates",
                dataset=self.name,
                column=column,
            )
        frame = table.reset_index(drop=True)
        frame.columns = pd.Index(names, dtype=object)
        # pandas cannot count values in foreign byte order
        converted = {
            str(name): column.astype(column.dtype.newbyteorder("="))
            for name, column in frame.items()
            if isinstance(column.dtype, np.dtype) and not column.dtype.isnative
        }
        return frame.assign(**converted) if converted else frame

    def _image(self, key: str, value: ArrayLike, channels_last: bool) -> NDArray[Any]:
        array: NDArray[Any] = np.asanyarray(value)
        where = f"{self.label}: image {key!r}"
        layout = "[n, h, w, c]" if channels_last else "[n, c, h, w]"
        if array.ndim == 1 and array.dtype.kind in "OTUS" and all(isinstance(entry, str) for entry in array[:10]):
            raise DataError(
                f"{where} holds texts; mdcm.data.read_pictures makes an array from names of files",
                dataset=self.name,
                column=key,
            )
        if array.ndim != 4 or 0 in array.shape[1:]:
            hint = "; add the channel axis, array[:, None]" if array.ndim == 3 and not channels_last else ""
            raise DataError(
                f"{where} must be an array {layout}, not of shape {list(array.shape)}{hint}",
                dataset=self.name,
                column=key,
            )
        if not channels_last and array.shape[1] > 4 and array.shape[3] in {1, 3, 4}:
            remedy = advice("pass channels_last=True", "write 'channels_last: true' in a spec")
            raise DataError(
                f"{where} has shape {list(array.shape)}, which looks like [n, h, w, c]: {remedy}",
                dataset=self.name,
                column=key,
            )
        if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
            raise DataError(
                f"{where} has dtype {array.dtype}; give uint8 from 0 to 255, or floats from 0 to 1",
                dataset=self.name,
                column=key,
            )
        if channels_last:
            array = np.moveaxis(array, 3, 1)
        if array.dtype != np.uint8:
            for start, block in blocks(array):
                # in this form the test fails for NaN too
                bad = ~((block >= 0) & (block <= 1)).all(axis=(1, 2, 3))
                if bad.any():
                    row = int(bad.argmax())
                    number = float(block[row][~((block[row] >= 0) & (block[row] <= 1))][0])
                    raise DataError(
                        f"{where}: row {start + row} holds {number}; floats must lie in [0, 1] (or give uint8)",
                        dataset=self.name,
                        column=key,
                        row=start + row,
                    )
        return array

    def _array(self, key: str, value: ArrayLike) -> NDArray[Any]:
        array: NDArray[Any] = np.asanyarray(value)
        where = f"{self.label}: array {key!r}"
        if array.ndim not in {1, 2} or (array.ndim == 2 and not array.shape[1]):
            hint = "; pass pictures as images" if array.ndim in {3, 4} else ""
            raise DataError(
                f"{where} must have the shape [n] or [n, size], not {list(array.shape)}{hint}",
                dataset=self.name,
                column=key,
            )
        real = np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)
        if array.ndim == 2 and not (real or array.dtype == np.bool_):
            raise DataError(
                f"{where} has dtype {array.dtype}; a vector holds real numbers", dataset=self.name, column=key
            )
        return array

    def _per_row(self, role: str, value: str | ArrayLike) -> tuple[str, pd.Series[Any]]:
        if isinstance(value, str):
            if value not in self.table.columns:
                raise DataError(
                    f"{self.label}: {role}={value!r} is not a column{suggestion(value, self.columns)}",
                    dataset=self.name,
                    column=value,
                )
            return f"column {value!r} ({role})", self.table[value]
        column = pd.Series(np.asarray(value).ravel())
        if len(column) != len(self.table):
            raise DataError(
                f"{self.label}: {role} has {len(column):,} values for {len(self.table):,} rows", dataset=self.name
            )
        return role, column

    def _groups(self, value: str | ArrayLike) -> NDArray[np.int64]:
        description, column = self._per_row("groups", value)
        if not self.dropna:
            name = value if isinstance(value, str) else None
            refuse(
                column.isna(), f"{self.label}: {description} is missing", self.name, name, remedy=missing_value_remedy()
            )
        # -1 marks a missing group until such rows are left out
        return pd.factorize(column)[0].astype(np.int64)

    def _weights(self, value: str | ArrayLike) -> NDArray[np.float64]:
        description, column = self._per_row("weights", value)
        name = value if isinstance(value, str) else None
        try:
            weights: NDArray[np.float64] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError):
            raise DataError(f"{self.label}: {description} must be numbers", dataset=self.name, column=name) from None
        # in this form the test fails for NaN too
        bad = ~((weights > 0) & np.isfinite(weights))
        if self.dropna:
            bad &= ~np.isnan(weights)
        refuse(bad, f"{self.label}: {description} must be positive and finite", self.name, name)
        return weights

    def restricted(self, name: str, columns: Collection[str], rows: NDArray[np.bool_] | None = None) -> Dataset:
        """The dataset under another name, restricted to some columns and rows, as returned by :func:`validate`.

        Args:
            name: The name.
            columns: Columns to keep; their order does not change.
            rows: Whether each row is kept; all by default.
        """
        restricted = object.__new__(Dataset)
        restricted.name, restricted.do, restricted.dropna, restricted._helpers = name, self.do, False, frozenset()
        restricted.table = self.table[[column for column in self.table.columns if column in columns]]
        restricted.images = {key: array for key, array in self.images.items() if key in columns}
        restricted.arrays = {key: array for key, array in self.arrays.items() if key in columns}
        restricted.groups, restricted.weights, restricted.rows = self.groups, self.weights, self.rows
        if rows is not None:
            restricted.table = restricted.table[rows].reset_index(drop=True)
            restricted.images = {key: array[rows] for key, array in restricted.images.items()}
            restricted.arrays = {key: array[rows] for key, array in restricted.arrays.items()}
            restricted.groups = None if self.groups is None else self.groups[rows]
            restricted.weights = None if self.weights is None else self.weights[rows]
            restricted.rows = np.flatnonzero(rows) if self.rows is None else self.rows[rows]
        return restricted

    def leaving_out(self) -> Dataset:
        """A copy of the dataset with ``dropna=True``.

        Example:
            >>> Dataset({"X": [0, None]}).leaving_out().dropna
            True
        """
        copied = copy.copy(self)
        copied.dropna = True
        return copied

    def gathered(self, nodes: Collection[str]) -> Dataset:
        """The dataset with the columns ``W[0]``, ``W[1]``, ... of every node W combined into a vector.

        Raises:
            DataError: If an index is missing, or a column does not hold numbers.
        """
        vectors: dict[str, NDArray[np.float64]] = {}
        combined: set[str] = set()
        for node in nodes:
            if node in self.columns or f"{node}[0]" not in self.table.columns:
                continue
            entries = [column for column in self.table.columns if re.fullmatch(re.escape(node) + r"\[\d+\]", column)]
            names = [f"{node}[{k}]" for k in range(len(entries))]
            for column in names:
                if column not in entries:
                    raise DataError(
                        f"{self.label}: the vector {node!r} has {len(entries)} columns, but none is called {column!r}",
                        dataset=self.name,
                        column=column,
                    )
                if storage(self.table[column], self.label, self.name, self.rows) not in {"int", "float", "bool"}:
                    raise DataError(
                        f"{self.label}: column {column!r} of the vector {node!r} does not hold numbers",
                        dataset=self.name,
                        column=column,
                    )
            vectors[node] = np.column_stack([floats(self.table[column]) for column in names])
            combined.update(names)
        if not vectors:
            return self
        remaining = [column for column in self.columns if column not in combined]
        gathered = self.restricted(cast("str", self.name), remaining)
        gathered.arrays, gathered.dropna, gathered._helpers = {**gathered.arrays, **vectors}, self.dropna, self._helpers
        return gathered


def _thinned(values: list[Any]) -> list[Any]:
    """At most 256 values, evenly spaced by rank."""
    if len(values) <= _MOST_VALUES:
        return values
    return [values[k] for k in np.linspace(0, len(values) - 1, _MOST_VALUES).round().astype(int)]


def blocks(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the index of the first row and the values of each block of a few megabytes of an array."""
    step = max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        yield start, np.asarray(array[start : start + step])
