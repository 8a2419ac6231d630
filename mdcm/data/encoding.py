"""Values of a data set as mechanisms see them, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from mdcm.data.dataset import blocks
from mdcm.errors import DataError
from mdcm.levels import plain, revived
from mdcm.plan import DatasetSpec
from mdcm.printable import quoted
from mdcm.variables import Variable, are_dates, floats, refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data.dataset import Dataset

__all__ = ["Encoded", "check_decodable", "decode", "decode_columns", "encode", "to_spec"]

# of the name of a type, which may list categories
_LONGEST_TYPE = 200


class Encoded(Mapping[str, "NDArray[Any]"]):
    """A data set as mechanisms see it: one array per observed variable, made by :func:`encode`.

    Args:
        name: Name of the dataset, as in the plan.
        arrays: Values by variable: int64 codes ``[n]`` of a categorical variable, float32 ``[n]`` of a continuous one
            or ``[n, size]`` of a vector, uint8 ``[n, c, h, w]`` of an image (perhaps memory-mapped).
        rows: Number of rows.
        do: Names of the variables that were set by intervention.
        weights: Weight of every row, float64 ``[n]``, or None where all are equal.
        groups: Number of the group of every row, int64 ``[n]``, or None where every row is one of its own.

    Example:
        >>> from mdcm.data import Dataset, Schema
        >>> dataset = Dataset({"X": [0, 0, 1], "Y": ["b", "a", "b"]}, do="X", name="trial")
        >>> encoded = encode(dataset, Schema.infer([dataset]))
        >>> encoded["Y"].tolist(), encoded.rows, encoded.columns, encoded.do
        ([1, 0, 1], 3, ('X', 'Y'), ('X',))
    """

    def __init__(
        self,
        name: str,
        arrays: Mapping[str, NDArray[Any]],
        *,
        rows: int,
        do: tuple[str, ...] = (),
        weights: NDArray[np.float64] | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        self.name = name
        self.rows = rows
        self.do = do
        self.weights = weights
        self.groups = groups
        self._arrays = dict(arrays)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the observed variables."""
        return tuple(self._arrays)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"Encoded({self.name!r}, {self.rows:,} rows, columns={list(self.columns)}, do={list(self.do)})"


def encode(dataset: Dataset, schema: Mapping[str, Variable]) -> Encoded:
    """A dataset as mechanisms see it.

    Args:
        dataset: A dataset without missing values; columns that are not in the schema are left out.
        schema: Variables by name.

    Returns:
        By name: int64 codes ``[n]`` of a categorical variable; float32 ``[n]`` of a continuous one and ``[n, size]``
        of a vector, minus its mean and divided by its scale; uint8 ``[n, c, h, w]`` of an image (the array itself
        where it is uint8, memory-mapped or not). Weights, groups and targets come along.

    Raises:
        DataError: If a value is no level, not finite, or an image has another shape.
    """
    arrays = {name: _encode_column(dataset, schema[name]) for name in dataset.columns if name in schema}
    return Encoded(
        dataset.name or "d1",
        arrays,
        rows=len(dataset),
        do=dataset.do,
        weights=dataset.weights,
        groups=dataset.groups,
    )


def to_spec(dataset: Dataset, schema: Mapping[str, Variable]) -> DatasetSpec:
    """What the planner needs to know of a dataset, in the terms of a schema.

    Args:
        dataset: A dataset; columns that are not in the schema are left out.
        schema: Variables by name.

    Returns:
        Name, columns, number of rows, and for every target the values that were set: levels of a categorical
        variable in their order; numbers of a continuous one in ascending order (days since its origin for dates, and
        at most 256 of them, lowest and highest included); None, which means every value, of an image or a vector;
        and, of several targets, which values were set together.

    Raises:
        DataError: If a target is no variable of the schema, or was set to what is no level of it.

    Example:
        >>> from mdcm.data import Dataset, Schema
        >>> dataset = Dataset({"X": ["no", "yes"], "Y": [1, 0]}, do="X", name="trial")
        >>> to_spec(dataset, Schema.infer([dataset], {"X": {"levels": ["yes", "no"]}})).do
        {'X': ('yes', 'no')}
    """
    values = {}
    for target in dataset.do:
        if target not in schema:
            raise DataError(
                f"{dataset.label}: do={list(dataset.do)}, but {target!r} is no variable of the schema",
                dataset=dataset.name,
                column=target,
            )
        variable = schema[target]
        found = dataset.values_set(target, variable.origin, as_levels=variable.levels is not None)
        if found is not None and variable.levels is not None:
            for value in found:
                if value not in variable.levels:
                    raise DataError(
                        f"{dataset.label}: {variable.unknown_level(value)}", dataset=dataset.name, column=target
                    )
            found = [level for level in variable.levels if level in found]
        values[target] = found
    columns = [name for name in dataset.columns if name in schema]
    origins = {target: schema[target].origin for target in values if schema[target].levels is None}
    together = dataset.combinations_set(values, origins)
    return DatasetSpec(dataset.name or "d1", columns=columns, do=values, rows=len(dataset), combinations=together)


def decode(variable: Variable, values: NDArray[Any], known: NDArray[np.float64] | None = None) -> pd.Series[Any]:
    """Values as mechanisms see them as a column for people, in the type that the data had.

    Levels come back as they were, numbers times the scale plus the mean (rounded where the data were whole numbers of
    a whole-number type), dates as dates.

    Args:
        variable: A variable that is no image and no vector.
        values: int codes ``[n]``, or floats ``[n]``.
        known: Numbers that some values stand for, float64 ``[k]`` in the variable's own units, such as those that were
            set; they come back without the rounding of float32.

    Raises:
        TypeError: If the variable is an image or a vector.

    Example:
        >>> decode(Variable("A", "categorical", levels=("no", "yes")), np.array([1, 0])).tolist()
        ['yes', 'no']
        >>> decode(Variable("age", "continuous", dtype="int64", mean=40.0, scale=10.0), np.array([0.51, -1])).tolist()
        [45, 30]
    """
    name = variable.name
    if variable.kind == "image" or variable.size is not None:
        what = "an image" if variable.kind == "image" else "a vector"
        raise TypeError(f"variable {name!r} is {what} and makes no column")
    if variable.levels is None:
        numbers = variable.restore(values)
        return _decode_numbers(variable, numbers if known is None else _known_numbers(variable, values, numbers, known))
    levels = list(variable.levels) if variable.level_type is None else revived(variable.levels, variable.level_type)
    if variable.dtype in {"category", "ordered"}:
        dtype = pd.CategoricalDtype(levels, ordered=variable.dtype == "ordered")
        return pd.Series(pd.Categorical.from_codes(np.asarray(values, dtype=np.int64), dtype=dtype), name=name)
    if variable.level_type is not None:
        return pd.Series(cast("Any", levels).take(np.asarray(values)), name=name)
    column = pd.Series(list(variable.levels)).take(np.asarray(values)).reset_index(drop=True).rename(name)
    return column if variable.dtype is None else column.astype(cast("Any", variable.dtype))


def check_decodable(variable: Variable) -> None:
    """Refuse a variable whose type cannot hold its values, so that no draw of it could be given back.

    Raises:
        DataError: If its type is none, or changes its levels or numbers.

    Example:
        >>> check_decodable(Variable("X", "categorical", levels=(0, 1, 2), dtype="bool"))
        Traceback (most recent call last):
            ...
        mdcm.errors.DataError: variable 'X': its values cannot be of the type 'bool'
    """
    if variable.kind == "image" or variable.size is not None or variable.dtype is None:
        return
    fits = isinstance(variable.dtype, str) and len(variable.dtype) <= _LONGEST_TYPE
    try:
        if fits and variable.levels is not None:
            made = decode(variable, np.arange(len(variable.levels)))
            fits = [plain(value) for value in made] == [plain(level) for level in variable.levels]
        elif fits:
            kind = decode(variable, np.zeros(1)).dtype.kind
            fits = kind == "M" if variable.origin is not None else kind in "iuf"
    # a file may name any type, and numpy, pandas and pyarrow raise errors of many kinds for names they do not know;
    # each means that these values cannot have it, which is what is said below
    except Exception:
        fits = False
    if not fits:
        raise DataError(
            f"variable {variable.name!r}: its values cannot be of the type {quoted(variable.dtype)}",
            column=variable.name,
        )


def decode_columns(
    variable: Variable, values: NDArray[Any], known: NDArray[np.float64] | None = None
) -> dict[str, pd.Series[Any]]:
    """Columns for people by name: one, or ``W[0]``, ``W[1]``, ... of a vector W.

    Args:
        variable: A variable that is no image.
        values: int codes ``[n]``, floats ``[n]``, or floats ``[n, size]`` of a vector.
        known: As for :func:`decode`; not of a vector.

    Raises:
        TypeError: If the variable is an image.

    Example:
        >>> list(decode_columns(Variable("W", "continuous", size=2), np.zeros((3, 2))))
        ['W[0]', 'W[1]']
    """
    if variable.size is None:
        return {variable.name: decode(variable, values, known)}
    numbers = variable.restore(values)
    names = [f"{variable.name}[{place}]" for place in range(variable.size)]
    return {name: pd.Series(numbers[:, place], name=name) for place, name in enumerate(names)}


def _known_numbers(
    variable: Variable, values: NDArray[Any], numbers: NDArray[np.float64], known: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Numbers of which those that a known one is encoded as are that one."""
    codes, first = np.unique(variable.standardise(known), return_index=True)
    at = np.searchsorted(codes, values).clip(max=len(codes) - 1)
    return np.where(codes[at] == values, known[first][at], numbers)


def _decode_numbers(variable: Variable, numbers: NDArray[np.float64]) -> pd.Series[Any]:
    name, dtype = variable.name, variable.dtype
    if variable.origin is not None:
        # a year has 3e13 microseconds, and a double holds more
        since = pd.to_timedelta(np.rint(numbers * 86_400e6).astype("int64"), unit="us")
        moments = pd.Series(pd.Timestamp(variable.origin) + since, name=name)
        if dtype is None:
            return moments
        wanted = pd.api.types.pandas_dtype(dtype)
        if isinstance(wanted, pd.DatetimeTZDtype):
            return moments.dt.tz_localize("UTC").astype(wanted)
        return moments.astype(cast("Any", wanted))
    column = pd.Series(numbers, name=name)
    if dtype is None:
        return column
    wanted = pd.api.types.pandas_dtype(dtype)
    if pd.api.types.is_integer_dtype(wanted):
        limits = np.iinfo(getattr(wanted, "numpy_dtype", wanted))
        if not np.isfinite(numbers).all():
            return column
        # the largest 64-bit number has no double of its own, and the next one is too large
        column = column.round().clip(float(limits.min), np.nextafter(float(limits.max), 0.0))
    return column.astype(cast("Any", wanted))


def _encode_column(dataset: Dataset, variable: Variable) -> NDArray[Any]:
    name = variable.name
    home = "image" if variable.kind == "image" else "column" if variable.size is None else "vector"
    holders = {"image": [*dataset.images], "column": [*dataset.table.columns], "vector": [*dataset.arrays]}
    if name not in holders[home]:
        needed = {"image": "an image array", "column": "a column", "vector": "an array [n, size]"}
        raise DataError(f"{dataset.label}: {name!r} must be {needed[home]}", dataset=dataset.name, column=name)
    if home == "image":
        array = dataset.images[name]
        _check_shape(dataset, variable, array)
        return array if array.dtype == np.uint8 else _to_uint8(array)
    if home == "vector":
        array = dataset.arrays[name]
        _check_shape(dataset, variable, array)
        values = np.empty(array.shape, dtype=np.float32)
        for start, block in blocks(array):
            values[start : start + len(block)] = variable.standardise(block)
        _refuse_infinite(dataset, name, np.asarray(~np.isfinite(values).all(axis=1)))
        return values
    column = dataset.table[name]
    message = f"{dataset.label}: column {name!r} has missing values"
    refuse(column.isna(), message, dataset.name, name, rows=dataset.rows)
    if variable.levels is None:
        try:
            numbers = variable.standardise(floats(column, variable.origin))
        except (TypeError, ValueError):
            what = "dates" if variable.origin is not None and not are_dates(column) else "numbers"
            raise DataError(
                f"{dataset.label}: {name!r} is {variable.kind}, but column {name!r} holds no {what}",
                dataset=dataset.name,
                column=name,
            ) from None
        _refuse_infinite(dataset, name, ~np.isfinite(numbers))
        return numbers
    # through the distinct values, of which there are few
    rows, _ = pd.factorize(column)
    index = {level: code for code, level in enumerate(variable.levels)}
    codes = np.array([index.get(plain(value), -1) for value in column.unique()], dtype=np.int64)[rows]
    if (codes < 0).any():
        value = column.iloc[int((codes < 0).argmax())]
        message = f"{dataset.label}: {variable.unknown_level(value)}"
        refuse(codes < 0, message, dataset.name, name, rows=dataset.rows)
    return codes


def _check_shape(dataset: Dataset, variable: Variable, array: NDArray[Any]) -> None:
    shape = variable.shape or (variable.size,)
    if array.shape[1:] != shape:
        what = "image" if variable.kind == "image" else "array"
        raise DataError(
            f"{dataset.label}: {what} {variable.name!r} has shape {list(array.shape[1:])}, not {list(shape)}",
            dataset=dataset.name,
            column=variable.name,
        )


def _refuse_infinite(dataset: Dataset, name: str, bad: NDArray[np.bool_]) -> None:
    message = f"{dataset.label}: column {name!r} has values that are no finite float32"
    refuse(bad, message, dataset.name, name, rows=dataset.rows)


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    pixels = np.empty(array.shape, dtype=np.uint8)
    for start, block in blocks(array):
        pixels[start : start + len(block)] = np.rint(block * 255)
    return pixels
