"""One data set: rows that were drawn together, and what they are called."""

from __future__ import annotations

import copy
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from mdcm.advice import advice
from mdcm.errors import DataError
from mdcm.files import without_words
from mdcm.levels import plain, sorted_levels
from mdcm.plan import DatasetSpec
from mdcm.printable import quoted
from mdcm.variables import as_array, floats, leaving_out, refuse, storage, suggestion

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from mdcm.levels import Level

__all__ = ["Dataset", "blocks"]

BLOCK_BYTES = 1 << 24
# numbers of a target that the planner is told of
_MOST_VALUES = 256


class Dataset:
    """Rows that were drawn together, from P(V) or under an intervention.

    Args:
        table: Columns by name, one row per unit; may be left out where there are images.
        do: Names of the variables that were set by intervention; their values are read from the columns.
        images: Image variables by name: uint8 ``[n, c, h, w]``, or floats in [0, 1]; may be memory-mapped.
        arrays: Numbers by variable: ``[n]`` is a further column, ``[n, size]`` a vector; may be memory-mapped. The
            columns ``W[0]``, ``W[1]``, ... of a table are a vector too, where W is a node of the graph.
        groups: Rows that belong together (one patient, one plate) and must not be split between training and
            held-out data: a column of the table, or one value per row.
        weights: Weight of every row, positive: a column of the table, or one value per row.
        name: Name in messages and in the plan.
        channels_last: Whether the image arrays are ``[n, h, w, c]``.
        dropna: Whether rows with missing values are left out rather than refused.
        na_values: Texts of the table that mean that a value is missing; None and NaN always do.

    Attributes:
        table: The columns, rows numbered from 0.
        do: Names of the targets as a tuple.
        images: Arrays ``[n, c, h, w]`` by name, views of what was given.
        arrays: Arrays ``[n, size]`` by name, views of what was given.
        rows: Numbers of the rows in what was given, int64 ``[n]``, where some were left out; else None.
        groups: int64 ``[n]`` group numbers, or None.
        weights: float64 ``[n]``, or None.
        name: Name, or None before :func:`validate` gave one.
        dropna: As given.

    Raises:
        DataError: If the parts do not fit together, or cannot be used.

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
        self.table = without_words(self._frame(table), na_values)
        parts = [(f"image {key!r}", key, array) for key, array in self.images.items()]
        parts += [(f"array {key!r}", key, array) for key, array in self.arrays.items()]
        for what, key, array in parts:
            if len(array) != len(self.table):
                raise DataError(
                    f"{self.label}: {what} has {len(array):,} rows, but there are {len(self.table):,}",
                    dataset=name,
                    column=key,
                )
            if key in self.table.columns or (key in self.images and key in self.arrays):
                other = "a column of the table" if key in self.table.columns else "a vector"
                given = "an image array" if key in self.images else "an array"
                raise DataError(
                    f"{self.label}: {key!r} is both {other} and {given}; drop one of them", dataset=name, column=key
                )
        for key in [key for key, array in self.arrays.items() if array.ndim == 1]:
            values = np.asarray(self.arrays.pop(key))
            # pandas cannot count values of another byte order, which files may have
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
        # columns that serve as groups or weights are no extra columns
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
        """What the planner needs to know of this dataset: columns, targets with the values set, number of rows.

        :func:`to_spec` says the same by a schema, with the values set as its levels.

        Args:
            nodes: Names of the graph's nodes; other columns are left out.

        Returns:
            The description; dates are days since 1970, and every value is meant by a target that is an image or a
            vector.

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
            origin: Where days are counted from, 1970-01-01 by default.
            as_levels: Whether dates are levels too, by their texts.

        Returns:
            The values; of more than 256 numbers that are no levels so many of them, the lowest and the highest
            included. None for images and vectors, which have no list of values: whoever sets them means to cover them.
        """
        if target not in self.table.columns:
            return None
        column = self.table[target]
        found = storage(column, self.label, self.name, self.rows)
        if (found == "dates" and not as_levels) or (found == "str" and origin is not None):
            return _thinned(sorted(set(floats(column, origin).tolist())))
        values = sorted_levels({plain(value) for value in column.dropna().unique()})
        return _thinned(values) if found == "float" else values

    def combinations_set(
        self, values: Mapping[str, Sequence[Level] | None], origins: Mapping[str, str | None]
    ) -> list[tuple[Level | None, ...]] | None:
        """Values that were set together, as :meth:`values_set` has them.

        Args:
            values: The values of every target, or None.
            origins: Of targets that are numbers, where dates are counted from.

        Returns:
            Distinct combinations in order, one value of each target in the order of ``values``; None in the place of a
            target that has no list of values, or one that leaves some out. None where fewer than two targets have
            lists.
        """
        coded: dict[str, NDArray[np.intp]] = {}
        for name, some in values.items():
            if some is None:
                continue
            column = self.table[name]
            kind = storage(column, self.label, self.name, self.rows)
            if name in origins and (kind == "dates" or (kind == "str" and origins[name] is not None)):
                distinct, codes = np.unique(floats(column, origins[name]), return_inverse=True)
                names: list[Level] = distinct.tolist()
            else:
                codes, seen = pd.factorize(column)
                names = [plain(value) for value in seen]
            position = {value: number for number, value in enumerate(some)}
            if position.keys() >= set(names):
                # -1 for a missing value
                coded[name] = np.array([*(position[value] for value in names), -1], dtype=np.intp)[codes]
        if len(coded) < 2:
            return None
        together = np.unique(np.stack(list(coded.values()), axis=1), axis=0)
        found = []
        for row in together[(together >= 0).all(axis=1)].tolist():
            value = {name: (values[name] or ())[code] for name, code in zip(coded, row, strict=True)}
            found.append(tuple(value.get(name) for name in values))
        return found

    @property
    def label(self) -> str:
        """The dataset in words, for messages."""
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
                    f"{self.label}: column {key!r} is {quoted(value)}, and a column holds a value per row, as in "
                    f"{{{key!r}: [{quoted(value)}, ...]}}",
                    dataset=self.name,
                    column=str(key),
                )
            try:
                table = pd.DataFrame({key: as_array(value) for key, value in table.items()})
            except ValueError as error:
                raise DataError(f"{self.label}: the columns make no table: {error}", dataset=self.name) from None
        given: Any = table
        hint = "; mdcm.data.read_table reads a file" if isinstance(given, str | os.PathLike) else ""
        if not isinstance(table, pd.DataFrame):
            raise DataError(
                f"{self.label}: the table must be a pandas DataFrame, not {type(given).__name__}{hint}",
                dataset=self.name,
            )
        if table.columns.nlevels > 1:
            raise DataError(f"{self.label}: column names have several levels; flatten them first", dataset=self.name)
        names = [str(column) for column in table.columns]
        column, times = Counter(names).most_common(1)[0] if names else ("", 1)
        if times > 1:
            raise DataError(
                f"{self.label}: {times} columns are called {column!r}; rename or drop all but one",
                dataset=self.name,
                column=column,
            )
        frame = table.reset_index(drop=True)
        frame.columns = pd.Index(names, dtype=object)
        # pandas cannot count values of another byte order, which files of other machines have
        turned = {
            str(name): column.astype(column.dtype.newbyteorder("="))
            for name, column in frame.items()
            if isinstance(column.dtype, np.dtype) and not column.dtype.isnative
        }
        return frame.assign(**turned) if turned else frame

    def _image(self, key: str, value: ArrayLike, channels_last: bool) -> NDArray[Any]:
        array: NDArray[Any] = np.asanyarray(value)
        where = f"{self.label}: image {key!r}"
        layout = "[n, h, w, c]" if channels_last else "[n, c, h, w]"
        if array.ndim == 1 and array.dtype.kind in "OTUS" and all(isinstance(one, str) for one in array[:10]):
            raise DataError(
                f"{where} holds texts; mdcm.data.read_pictures makes an array of the names of files",
                dataset=self.name,
                column=key,
            )
        if array.ndim != 4 or 0 in array.shape[1:]:
            hint = "; add the channel axis, array[:, None]" if array.ndim == 3 and not channels_last else ""
            raise DataError(
                f"{where} must be an array {layout}, not one of shape {list(array.shape)}{hint}",
                dataset=self.name,
                column=key,
            )
        if not channels_last and array.shape[1] > 4 and array.shape[3] in {1, 3, 4}:
            given = advice("pass channels_last=True", "say so in a spec, with 'channels_last: true'")
            raise DataError(
                f"{where} has shape {list(array.shape)}, which looks like [n, h, w, c]: {given}",
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
                # written so that NaN fails too
                bad = ~((block >= 0) & (block <= 1)).all(axis=(1, 2, 3))
                if bad.any():
                    row = int(bad.argmax())
                    worst = float(block[row][~((block[row] >= 0) & (block[row] <= 1))][0])
                    raise DataError(
                        f"{where}: row {start + row} holds {worst}; floats must lie in [0, 1] (or give uint8)",
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
                    f"{self.label}: {role}={value!r} is no column{suggestion(value, self.columns)}",
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
        what, column = self._per_row("groups", value)
        if not self.dropna:
            name = value if isinstance(value, str) else None
            refuse(column.isna(), f"{self.label}: {what} is missing", self.name, name, remedy=leaving_out())
        # -1 where it is missing, until such rows are left out
        return pd.factorize(column)[0].astype(np.int64)

    def _weights(self, value: str | ArrayLike) -> NDArray[np.float64]:
        what, column = self._per_row("weights", value)
        name = value if isinstance(value, str) else None
        try:
            weights: NDArray[np.float64] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError):
            raise DataError(f"{self.label}: {what} must be numbers", dataset=self.name, column=name) from None
        # written so that NaN fails too
        bad = ~((weights > 0) & np.isfinite(weights))
        if self.dropna:
            bad &= ~np.isnan(weights)
        refuse(bad, f"{self.label}: {what} must be positive and finite", self.name, name)
        return weights

    def restricted(self, name: str, columns: Collection[str], rows: NDArray[np.bool_] | None = None) -> Dataset:
        """The same dataset under a name, with these columns and rows only, as :func:`validate` gives it back.

        Args:
            name: The name.
            columns: Columns that are kept, in the order that they have here.
            rows: Which rows are kept; all by default.
        """
        kept = object.__new__(Dataset)
        kept.name, kept.do, kept.dropna, kept._helpers = name, self.do, False, frozenset()
        kept.table = self.table[[column for column in self.table.columns if column in columns]]
        kept.images = {key: array for key, array in self.images.items() if key in columns}
        kept.arrays = {key: array for key, array in self.arrays.items() if key in columns}
        kept.groups, kept.weights, kept.rows = self.groups, self.weights, self.rows
        if rows is not None:
            kept.table = kept.table[rows].reset_index(drop=True)
            kept.images = {key: array[rows] for key, array in kept.images.items()}
            kept.arrays = {key: array[rows] for key, array in kept.arrays.items()}
            kept.groups = None if self.groups is None else self.groups[rows]
            kept.weights = None if self.weights is None else self.weights[rows]
            kept.rows = np.flatnonzero(rows) if self.rows is None else self.rows[rows]
        return kept

    def leaving_out(self) -> Dataset:
        """The same dataset as one made with ``dropna=True``.

        Example:
            >>> Dataset({"X": [0, None]}).leaving_out().dropna
            True
        """
        made = copy.copy(self)
        made.dropna = True
        return made

    def gathered(self, nodes: Collection[str]) -> Dataset:
        """The same dataset with the columns ``W[0]``, ``W[1]``, ... as the vector W, for every node W of that kind.

        Raises:
            DataError: If a number is left out, or a column holds no numbers.
        """
        vectors: dict[str, NDArray[np.float64]] = {}
        taken: set[str] = set()
        for node in nodes:
            if node in self.columns or f"{node}[0]" not in self.table.columns:
                continue
            entries = [column for column in self.table.columns if re.fullmatch(re.escape(node) + r"\[\d+\]", column)]
            wanted = [f"{node}[{place}]" for place in range(len(entries))]
            for column in wanted:
                if column not in entries:
                    raise DataError(
                        f"{self.label}: the vector {node!r} has {len(entries)} columns, but none is called {column!r}",
                        dataset=self.name,
                        column=column,
                    )
                if storage(self.table[column], self.label, self.name, self.rows) not in {"int", "float", "bool"}:
                    raise DataError(
                        f"{self.label}: column {column!r} of the vector {node!r} holds no numbers",
                        dataset=self.name,
                        column=column,
                    )
            vectors[node] = np.column_stack([floats(self.table[column]) for column in wanted])
            taken.update(wanted)
        if not vectors:
            return self
        made = self.restricted(cast("str", self.name), [column for column in self.columns if column not in taken])
        made.arrays, made.dropna, made._helpers = {**made.arrays, **vectors}, self.dropna, self._helpers
        return made


def _thinned(values: list[Any]) -> list[Any]:
    if len(values) <= _MOST_VALUES:
        return values
    return [values[place] for place in np.linspace(0, len(values) - 1, _MOST_VALUES).round().astype(int)]


def blocks(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Pieces of a possibly memory-mapped array with the row where each starts, a few megabytes each."""
    step = max(1, BLOCK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        yield start, np.asarray(array[start : start + step])
