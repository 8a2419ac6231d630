"""Datasets, what is checked before anything is learned from them, and their values as mechanisms see them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from mdcm.errors import DataError
from mdcm.files import file_sha256, read_images, read_table
from mdcm.plan import DatasetSpec
from mdcm.schema import Schema
from mdcm.variables import Kind, Level, Variable, floats, listing, plain, refuse, sorted_levels, storage, suggestion

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Dataset",
    "Kind",
    "Level",
    "Schema",
    "Variable",
    "decode",
    "encode",
    "file_sha256",
    "read_images",
    "read_table",
    "validate",
]

_BLOCK_BYTES = 1 << 24


class Dataset:
    """Rows that were drawn together, from P(V) or under an intervention.

    Args:
        table: Columns by name, one row per unit; may be left out where there are images.
        do: Names of the variables that were set by intervention; their values are read from the columns.
        images: Image variables by name: uint8 ``[n, c, h, w]``, or floats in [0, 1]; may be memory-mapped.
        groups: Rows that belong together (one patient, one plate) and must not be split between training and
            held-out data: a column of the table, or one value per row.
        weights: Weight of every row, positive: a column of the table, or one value per row.
        name: Name in messages and in the plan.
        channels_last: Whether the image arrays are ``[n, h, w, c]``.
        dropna: Whether rows with missing values are left out rather than refused.

    Attributes:
        table: The columns, rows numbered from 0.
        do: Names of the targets as a tuple.
        images: Arrays ``[n, c, h, w]`` by name, views of what was given.
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
        groups: str | ArrayLike | None = None,
        weights: str | ArrayLike | None = None,
        name: str | None = None,
        channels_last: bool = False,
        dropna: bool = False,
    ) -> None:
        self.name = name
        self.dropna = dropna
        if isinstance(do, Mapping):
            raise DataError(
                f"{self.label}: do takes the names of the targets; the values set are read from their columns",
                dataset=name,
            )
        self.do = (do,) if isinstance(do, str) else tuple(do)
        self.images = {str(key): self._image(str(key), value, channels_last) for key, value in (images or {}).items()}
        self.table = self._frame(table)
        for key, array in self.images.items():
            if len(array) != len(self.table):
                raise DataError(
                    f"{self.label}: image {key!r} has {len(array):,} rows, but there are {len(self.table):,}",
                    dataset=name,
                    column=key,
                )
            if key in self.table.columns:
                raise DataError(
                    f"{self.label}: {key!r} is both a column of the table and an image array; drop one of them",
                    dataset=name,
                    column=key,
                )
        if not len(self.table):
            raise DataError(f"{self.label} is empty: it has no rows", dataset=name)
        for target in self.do:
            if target not in self.columns:
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
        """Names of all columns and images."""
        return (*self.table.columns, *self.images)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        do = f", do={list(self.do)}" if self.do else ""
        return f"Dataset({self.name!r}, {len(self):,} rows, columns={list(self.columns)}{do})"

    def spec(self, nodes: Collection[str]) -> DatasetSpec:
        """What the planner needs to know of this dataset: columns, targets with the values set, number of rows.

        Args:
            nodes: Names of the graph's nodes; other columns are left out.

        Example:
            >>> Dataset({"X": [0, 1, 1], "Y": [1, 0, 1]}, do="X", name="trial").spec(["X", "Y"]).do
            {'X': (0, 1)}
        """
        values = {target: self._values_set(target) for target in self.do}
        return DatasetSpec(
            self.name or "d1", columns=[name for name in self.columns if name in nodes], do=values, rows=len(self)
        )

    def _values_set(self, target: str) -> Sequence[Level] | None:
        if target in self.images:
            # images have no list of values; whoever sets them means to cover them
            return None
        column = self.table[target]
        if storage(column, self.label, self.name) == "dates":
            return sorted(set(floats(column).tolist()))
        return sorted_levels({plain(value) for value in column.dropna().unique()})

    @property
    def label(self) -> str:
        """The dataset in words, for messages."""
        return "the dataset" if self.name is None else f"dataset {self.name!r}"

    def _frame(self, table: pd.DataFrame | Mapping[str, Any] | None) -> pd.DataFrame:
        if table is None:
            if not self.images:
                raise DataError(f"{self.label} is empty: give a table, images or both", dataset=self.name)
            return pd.DataFrame(index=range(len(next(iter(self.images.values())))))
        if isinstance(table, Mapping):
            try:
                table = pd.DataFrame(dict(table))
            except ValueError as error:
                raise DataError(f"{self.label}: the columns make no table: {error}", dataset=self.name) from None
        if not isinstance(table, pd.DataFrame):
            raise DataError(
                f"{self.label}: the table must be a pandas DataFrame, not {type(table).__name__}", dataset=self.name
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
        return frame

    def _image(self, key: str, value: ArrayLike, channels_last: bool) -> NDArray[Any]:
        array: NDArray[Any] = np.asanyarray(value)
        where = f"{self.label}: image {key!r}"
        layout = "[n, h, w, c]" if channels_last else "[n, c, h, w]"
        if array.ndim != 4 or 0 in array.shape[1:]:
            hint = "; add the channel axis, array[:, None]" if array.ndim == 3 and not channels_last else ""
            raise DataError(
                f"{where} must be an array {layout}, not one of shape {list(array.shape)}{hint}",
                dataset=self.name,
                column=key,
            )
        if not channels_last and array.shape[1] > 4 and array.shape[3] in {1, 3, 4}:
            raise DataError(
                f"{where} has shape {list(array.shape)}, which looks like [n, h, w, c]: pass channels_last=True",
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
            for start, block in _blocks(array):
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
        refuse(column.isna(), f"{self.label}: {what} is missing", self.name, value if isinstance(value, str) else None)
        return pd.factorize(column)[0].astype(np.int64)

    def _weights(self, value: str | ArrayLike) -> NDArray[np.float64]:
        what, column = self._per_row("weights", value)
        name = value if isinstance(value, str) else None
        try:
            weights = column.to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError):
            raise DataError(f"{self.label}: {what} must be numbers", dataset=self.name, column=name) from None
        # written so that NaN fails too
        bad = pd.Series(~((weights > 0) & np.isfinite(weights)))
        refuse(bad, f"{self.label}: {what} must be positive and finite", self.name, name)
        return weights

    def _restricted(self, name: str, columns: Sequence[str], rows: NDArray[np.bool_] | None) -> Dataset:
        """The same dataset under a name, with these columns and rows only."""
        kept = object.__new__(Dataset)
        kept.name, kept.do, kept.dropna, kept._helpers = name, self.do, False, frozenset()
        kept.table = self.table[[column for column in columns if column in self.table.columns]]
        kept.images = {key: array for key, array in self.images.items() if key in columns}
        kept.groups, kept.weights = self.groups, self.weights
        if rows is not None:
            kept.table = kept.table[rows].reset_index(drop=True)
            kept.images = {key: array[rows] for key, array in kept.images.items()}
            kept.groups = None if self.groups is None else self.groups[rows]
            kept.weights = None if self.weights is None else self.weights[rows]
        return kept


def validate(
    data: pd.DataFrame | Mapping[str, Any] | Dataset | Sequence[Dataset | pd.DataFrame],
    nodes: Sequence[str],
    *,
    unobserved: Collection[str] = (),
) -> tuple[Dataset, ...]:
    """Datasets as a model can use them: named, without extra columns, without missing values.

    Args:
        data: One table or dataset, or several.
        nodes: Names of the graph's nodes.
        unobserved: Nodes that no dataset needs to hold, because their mechanism is given.

    Returns:
        Datasets with the columns that are nodes. One without a name is called d1, d2, ... by its place. Columns
        without any value are taken out, as not observed.

    Raises:
        DataError: If a node is in no dataset; if values are missing or infinite; if a target is no node; if a
            variable never varies; if two datasets have the same name.

    Warns:
        UserWarning: About columns that are no nodes, hold no value at all, or are constant in a dataset.
    """
    if isinstance(data, pd.DataFrame | Dataset | Mapping):
        data = [cast("Dataset | pd.DataFrame", data)]
    if not isinstance(data, list | tuple) or not data:
        kind = "an empty list" if isinstance(data, list | tuple) else type(data).__name__
        raise DataError(f"data must be a DataFrame, a Dataset or a list of them, not {kind}")
    datasets = [item if isinstance(item, Dataset) else Dataset(item) for item in data]
    names = [dataset.name or f"d{place}" for place, dataset in enumerate(datasets, start=1)]
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"{names.count(name)} datasets are called {name!r}; give each a name of its own", dataset=name
            )
    checked = tuple(_validated(dataset, name, nodes) for dataset, name in zip(datasets, names, strict=True))

    observed = {column for dataset in checked for column in dataset.columns}
    for node in nodes:
        if node not in observed and node not in unobserved:
            given = [column for dataset in datasets for column in dataset.columns if column not in nodes]
            raise DataError(
                f"variable {node!r} of the graph is a column of no dataset ({listing(names)}){suggestion(node, given)}",
                dataset=names[0] if len(names) == 1 else None,
                column=node,
            )
    _check_variation(checked)
    return checked


def encode(dataset: Dataset, schema: Mapping[str, Variable]) -> dict[str, NDArray[Any]]:
    """Columns of a dataset as mechanisms see them.

    Args:
        dataset: A dataset without missing values; columns that are not in the schema are left out.
        schema: Variables by name.

    Returns:
        By name: int64 codes ``[n]`` of a categorical variable, float32 ``[n]`` of a continuous one (dates in days
        since 1970), uint8 ``[n, c, h, w]`` of an image (the array itself where it is uint8, memory-mapped or not).

    Raises:
        DataError: If a value is no level, not finite, or an image has another shape.
    """
    return {name: _encode_column(dataset, schema[name]) for name in dataset.columns if name in schema}


def decode(variable: Variable, values: NDArray[Any]) -> pd.Series[Any]:
    """Values as mechanisms see them as a column for people: levels, in the type that the data had.

    Args:
        variable: A variable that is no image.
        values: int codes ``[n]``, or floats ``[n]``.

    Raises:
        TypeError: If the variable is an image.

    Example:
        >>> decode(Variable("A", "categorical", levels=("no", "yes")), np.array([1, 0])).tolist()
        ['yes', 'no']
    """
    if variable.kind == "image":
        raise TypeError(f"variable {variable.name!r} is an image and makes no column")
    if variable.levels is None:
        if variable.dtype is not None and variable.dtype.startswith("datetime"):
            days = pd.to_timedelta(np.asarray(values, dtype=np.float64), unit="D")
            return pd.Series(pd.Timestamp(0) + days, name=variable.name)
        return pd.Series(values, name=variable.name)
    if variable.dtype in {"category", "ordered"}:
        dtype = pd.CategoricalDtype(list(variable.levels), ordered=variable.dtype == "ordered")
        return pd.Series(pd.Categorical.from_codes(np.asarray(values, dtype=np.int64), dtype=dtype), name=variable.name)
    column = pd.Series(list(variable.levels)).take(np.asarray(values)).reset_index(drop=True).rename(variable.name)
    return column if variable.dtype is None else column.astype(cast("Any", variable.dtype))


def _validated(dataset: Dataset, name: str, nodes: Sequence[str]) -> Dataset:
    label = f"dataset {name!r}"
    for target in dataset.do:
        if target not in nodes:
            raise DataError(
                f"{label}: do={list(dataset.do)}, but {target!r} is no node of the graph{suggestion(target, nodes)}",
                dataset=name,
                column=target,
            )
    used = [column for column in dataset.columns if column in nodes]
    extra = [column for column in dataset.columns if column not in nodes and column not in dataset._helpers]
    if not used:
        raise DataError(
            f"{label} has none of the graph's variables: its columns are {listing(dataset.columns)}, "
            f"the graph has {listing(nodes)}",
            dataset=name,
        )
    if extra:
        plural = "columns" if len(extra) > 1 else "column"
        verb = "are no nodes" if len(extra) > 1 else "is no node"
        warnings.warn(f"{label}: {plural} {listing(extra)} {verb} of the graph, ignored", stacklevel=3)

    missing = dataset.table[[column for column in used if column in dataset.table.columns]].isna()
    empty = [column for column in missing.columns if missing[column].all()]
    for column in empty:
        if column in dataset.do:
            raise DataError(
                f"{label}: column {column!r} is a target of the intervention and holds no value; "
                "fill in the values that were set",
                dataset=name,
                column=column,
            )
        warnings.warn(f"{label}: column {column!r} holds no value, so it counts as not observed", stacklevel=3)
    used = [column for column in used if column not in empty]
    missing = missing.drop(columns=empty)
    rows: NDArray[np.bool_] | None = None
    if missing.to_numpy().any():
        if not dataset.dropna:
            column = next(column for column in missing.columns if missing[column].any())
            refuse(
                missing[column],
                f"{label}: column {column!r} has missing values",
                name,
                column,
                advice="; fill them in, or leave such rows out with Dataset(..., dropna=True)",
            )
        rows = np.asarray(~missing.to_numpy(dtype=bool).any(axis=1))
        if not rows.any():
            raise DataError(f"{label}: no row is without missing values, so dropna=True leaves none", dataset=name)
    kept = dataset._restricted(name, used, rows)
    for column in kept.table.columns:
        values = kept.table[column]
        if storage(values, label, name) == "float":
            infinite = pd.Series(np.isinf(floats(values)))
            refuse(infinite, f"{label}: column {column!r} has infinite values", name, column)
    return kept


def _check_variation(datasets: Sequence[Dataset]) -> None:
    """Warn about columns that are constant in one dataset, refuse a variable that is constant in all."""
    constant: dict[str, list[tuple[Dataset, Any]]] = {}
    varies = {target for dataset in datasets for target in dataset.do}
    for dataset in datasets:
        for column, values in dataset.table.items():
            name = str(column)
            if name in dataset.do:
                continue
            if values.nunique() == 1:
                constant.setdefault(name, []).append((dataset, values.iloc[0]))
            else:
                varies.add(name)
    for name, places in constant.items():
        dataset, value = places[0]
        if name not in varies:
            raise DataError(
                f"column {name!r} is {plain(value)!r} in every row of {dataset.label}, and varies in no dataset: "
                "nothing can be learned about it; leave it out of the graph",
                dataset=dataset.name,
                column=name,
            )
        for dataset, value in places:
            warnings.warn(f"{dataset.label}: column {name!r} is constant ({plain(value)!r})", stacklevel=3)


def _encode_column(dataset: Dataset, variable: Variable) -> NDArray[Any]:
    name = variable.name
    if (variable.kind == "image") != (name in dataset.images):
        raise DataError(
            f"{dataset.label}: {name!r} must be {'an image array' if variable.kind == 'image' else 'a column'}",
            dataset=dataset.name,
            column=name,
        )
    if variable.kind == "image":
        array = dataset.images[name]
        if array.shape[1:] != variable.shape:
            raise DataError(
                f"{dataset.label}: image {name!r} has shape {list(array.shape[1:])}, not {list(variable.shape or ())}",
                dataset=dataset.name,
                column=name,
            )
        return array if array.dtype == np.uint8 else _to_uint8(array)
    column = dataset.table[name]
    refuse(column.isna(), f"{dataset.label}: column {name!r} has missing values", dataset.name, name)
    if variable.levels is None:
        with np.errstate(over="ignore"):
            numbers = floats(column).astype(np.float32)
        bad = pd.Series(~np.isfinite(numbers))
        refuse(bad, f"{dataset.label}: column {name!r} has values that are no finite float32", dataset.name, name)
        return numbers
    # through the distinct values, of which there are few
    rows, distinct = pd.factorize(column)
    index = {level: code for code, level in enumerate(variable.levels)}
    codes = np.array([index.get(plain(value), -1) for value in distinct], dtype=np.int64)[rows]
    if (codes < 0).any():
        value = column.iloc[int((codes < 0).argmax())]
        message = f"{dataset.label}: {variable.unknown_level(value)}"
        refuse(pd.Series(codes < 0), message, dataset.name, name)
    return codes


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    pixels = np.empty(array.shape, dtype=np.uint8)
    for start, block in _blocks(array):
        pixels[start : start + len(block)] = np.rint(block * 255)
    return pixels


def _blocks(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Pieces of a possibly memory-mapped array with the row where each starts, a few megabytes each."""
    step = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        yield start, np.asarray(array[start : start + step])
