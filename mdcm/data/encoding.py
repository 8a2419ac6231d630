"""Encoding of data sets for mechanisms, and decoding of values drawn from mechanisms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from mdcm.data.dataset import blocks
from mdcm.data.levels import plain, revived
from mdcm.data.specification import DatasetSpec
from mdcm.data.variables import Variable, are_dates, floats, refuse
from mdcm.errors import DataError
from mdcm.text.printable import quoted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data.dataset import Dataset

__all__ = ["Encoded", "check_decodable", "decode", "decode_columns", "encode", "to_spec"]

# longest name of a type, which may list categories
_LONGEST_TYPE = 200


class Encoded(Mapping[str, "NDArray[Any]"]):
    """Encoded data set: an array for each observed variable, made by :func:`encode`.

    Args:
        name: Name of the dataset, as in the plan.
        arrays: Values by variable: int64 codes ``[n]`` if categorical, float32 ``[n]`` if continuous, float32
            ``[n, size]`` of a vector, uint8 ``[n, c, h, w]`` of an image (perhaps memory-mapped).
        rows: Number of rows.
        do: Names of the variables that were set by intervention.
        weights: Weight of each row, float64 ``[n]``, or None if all are equal.
        groups: Group of each row, int64 ``[n]``, or None if each row is its own group.

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
    """Encode a dataset for mechanisms.

    Args:
        dataset: A dataset without missing values; columns that are not in the schema are left out.
        schema: Variables by name.

    Returns:
        By name: int64 codes ``[n]`` of a categorical variable; float32 ``[n]`` of a continuous variable or
        ``[n, size]`` of a vector, minus its mean and divided by its scale; uint8 ``[n, c, h, w]`` of an image, not
        copied if it is uint8. With weights, groups and targets.

    Raises:
        DataError: If a value is not a level or not finite, or an image has another shape.
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
    """Specification of a dataset for the planner, in terms of a schema.

    Args:
        dataset: A dataset; columns that are not in the schema are left out.
        schema: Variables by name.

    Returns:
        Name, columns, number of rows, and for each target the values that were set: levels of a categorical variable
        in their order; numbers of a continuous variable in ascending order (days since its origin for dates, and at
        most 256 of them, including the lowest and highest); None, which means every value, for an image or a vector;
        and the combinations of values of several targets that were set together.

    Raises:
        DataError: If a target is not a variable of the schema, or was set to a value that is not a level.

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
                f"{dataset.label}: do={list(dataset.do)}, but {target!r} is not a variable of the schema",
                dataset=dataset.name,
                column=target,
            )
        variable = schema[target]
        set_values = dataset.values_set(target, variable.origin, as_levels=variable.levels is not None)
        if set_values is not None and variable.levels is not None:
            for value in set_values:
                if value not in variable.levels:
                    raise DataError(
                        f"{dataset.label}: {variable.unknown_level(value)}", dataset=dataset.name, column=target
                    )
            set_values = [level for level in variable.levels if level in set_values]
        values[target] = set_values
    columns = [name for name in dataset.columns if name in schema]
    origins = {target: schema[target].origin for target in values if schema[target].levels is None}
    together = dataset.combinations_set(values, origins)
    return DatasetSpec(dataset.name or "d1", columns=columns, do=values, rows=len(dataset), combinations=together)


def decode(variable: Variable, values: NDArray[Any], known: NDArray[np.float64] | None = None) -> pd.Series[Any]:
    """Decode values of mechanisms to a column with the type of the data.

    Codes become levels, numbers are multiplied by the scale and the mean is added (rounded if the data have an integer
    type), days become dates.

    Args:
        variable: A variable other than an image or a vector.
        values: int codes ``[n]``, or floats ``[n]``.
        known: Exact values of some numbers, float64 ``[k]`` in the variable's units, such as those that were set; they
            are returned without the rounding of float32.

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
        description = "an image" if variable.kind == "image" else "a vector"
        raise TypeError(f"variable {name!r} is {description}, which cannot be decoded to a column")
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
    """Refuse a variable whose type cannot hold its values, so that its draws could not be decoded.

    Raises:
        DataError: If its type does not exist, or changes its levels or numbers.

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
            decoded = decode(variable, np.arange(len(variable.levels)))
            fits = [plain(value) for value in decoded] == [plain(level) for level in variable.levels]
        elif fits:
            kind = decode(variable, np.zeros(1)).dtype.kind
            fits = kind == "M" if variable.origin is not None else kind in "iuf"
    # a file may name any type, and numpy, pandas and pyarrow raise many kinds of errors for unknown names; each means
    # that the values cannot have this type
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
    """Decode a variable to columns by name: its own name, or ``W[0]``, ``W[1]``, ... of a vector W.

    Args:
        variable: A variable other than an image.
        values: int codes ``[n]``, floats ``[n]``, or floats ``[n, size]`` of a vector.
        known: As for :func:`decode`; ignored for a vector.

    Raises:
        TypeError: If the variable is an image.

    Example:
        >>> list(decode_columns(Variable("W", "continuous", size=2), np.zeros((3, 2))))
        ['W[0]', 'W[1]']
    """
    if variable.size is None:
        return {variable.name: decode(variable, values, known)}
    numbers = variable.restore(values)
    names = [f"{variable.name}[{k}]" for k in range(variable.size)]
    return {name: pd.Series(numbers[:, k], name=name) for k, name in enumerate(names)}


def _known_numbers(
    variable: Variable, values: NDArray[Any], numbers: NDArray[np.float64], known: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Replace decoded numbers by known numbers with the same encoding."""
    codes, first = np.unique(variable.standardise(known), return_index=True)
    index = np.searchsorted(codes, values).clip(max=len(codes) - 1)
    return np.where(codes[index] == values, known[first][index], numbers)


def _decode_numbers(variable: Variable, numbers: NDArray[np.float64]) -> pd.Series[Any]:
    name, dtype = variable.name, variable.dtype
    if variable.origin is not None:
        # a double holds 285 years of microseconds exactly
        elapsed = pd.to_timedelta(np.rint(numbers * 86_400e6).astype("int64"), unit="us")
        moments = pd.Series(pd.Timestamp(variable.origin) + elapsed, name=name)
        if dtype is None:
            return moments
        target = pd.api.types.pandas_dtype(dtype)
        if isinstance(target, pd.DatetimeTZDtype):
            return moments.dt.tz_localize("UTC").astype(target)
        return moments.astype(cast("Any", target))
    column = pd.Series(numbers, name=name)
    if dtype is None:
        return column
    target = pd.api.types.pandas_dtype(dtype)
    if pd.api.types.is_integer_dtype(target):
        limits = np.iinfo(getattr(target, "numpy_dtype", target))
        if not np.isfinite(numbers).all():
            return column
        # the largest 64-bit integer rounds up as a double, which is out of range
        column = column.round().clip(float(limits.min), np.nextafter(float(limits.max), 0.0))
    return column.astype(cast("Any", target))


def _encode_column(dataset: Dataset, variable: Variable) -> NDArray[Any]:
    name = variable.name
    form = "image" if variable.kind == "image" else "column" if variable.size is None else "vector"
    names = {"image": [*dataset.images], "column": [*dataset.table.columns], "vector": [*dataset.arrays]}
    if name not in names[form]:
        needed = {"image": "an image array", "column": "a column", "vector": "an array [n, size]"}
        raise DataError(f"{dataset.label}: {name!r} must be {needed[form]}", dataset=dataset.name, column=name)
    if form == "image":
        array = dataset.images[name]
        _check_shape(dataset, variable, array)
        return array if array.dtype == np.uint8 else _to_uint8(array)
    if form == "vector":
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
            expected = "dates" if variable.origin is not None and not are_dates(column) else "numbers"
            raise DataError(
                f"{dataset.label}: {name!r} is {variable.kind}, but column {name!r} does not hold {expected}",
                dataset=dataset.name,
                column=name,
            ) from None
        _refuse_infinite(dataset, name, ~np.isfinite(numbers))
        return numbers
    # convert the distinct values only, of which there are few
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
        noun = "image" if variable.kind == "image" else "array"
        raise DataError(
            f"{dataset.label}: {noun} {variable.name!r} has shape {list(array.shape[1:])}, not {list(shape)}",
            dataset=dataset.name,
            column=variable.name,
        )


def _refuse_infinite(dataset: Dataset, name: str, bad: NDArray[np.bool_]) -> None:
    message = f"{dataset.label}: column {name!r} has values that are not finite in float32"
    refuse(bad, message, dataset.name, name, rows=dataset.rows)


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    pixels = np.empty(array.shape, dtype=np.uint8)
    for start, block in blocks(array):
        pixels[start : start + len(block)] = np.rint(block * 255)
    return pixels
