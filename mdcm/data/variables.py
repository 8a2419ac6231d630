"""Variables: kinds, levels, and conversion of values to codes."""

from __future__ import annotations

import datetime
import difflib
import math
import numbers
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import pandas as pd

from mdcm.data.levels import Level, LevelError, plain, position, revived, unknown
from mdcm.errors import DataError
from mdcm.text.advice import advice
from mdcm.text.limits import MOST_PIXELS, whole
from mdcm.text.printable import quoted

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "EPOCH",
    "Kind",
    "Variable",
    "are_dates",
    "as_array",
    "days",
    "floats",
    "missing_value_remedy",
    "plain",
    "refuse",
    "storage",
    "suggestion",
]

Kind = Literal["categorical", "continuous", "implicit", "image"]
Storage = Literal["bool", "int", "float", "str", "category", "dates", "levels"]
# longest name for which similar names are suggested
_LONGEST_NAME = 200
# types with less than double precision
_SHORT = {"float16", "float32", "Float32"}
# the default origin of dates
EPOCH = "1970-01-01"


@dataclass(frozen=True)
class Variable:
    """A variable of a model: its name, its kind, and its possible values.

    Attributes:
        name: Name, as in the graph.
        kind: "categorical", "continuous" (real, with a density), "implicit" (real, without a density) or "image".
        levels: Values of a categorical variable in the order of their codes, as plain Python values; else None.
        shape: ``(channels, height, width)`` of an image; else None.
        dtype: Type in which draws are returned: a numpy or pandas name, or "ordered" for an ordered categorical; None
            for the default type.
        origin: Date with day 0 of a variable of dates, as ISO text; None if values are not dates.
        mean: Mean that is subtracted for mechanisms, a number or, for a vector, a tuple; None counts as 0.
        scale: Scale by which centred values are divided for mechanisms, likewise; None counts as 1.
        span: Smallest and largest observed number; None if unknown.
        size: Number of entries of a vector of real numbers; else None.
        level_type: Original type of levels that are dates, intervals or periods written as texts, as named by
            :func:`mdcm.data.levels.level_type`; else None.

    Raises:
        DataError: If the parts contradict each other.

    Example:
        >>> Variable("dose", "categorical", levels=("low", "high")).code("high")
        1
        >>> Variable("weight", "continuous", mean=70.0, scale=10.0).code(85)
        1.5
    """

    name: str
    kind: Kind
    levels: tuple[Level, ...] | None = None
    shape: tuple[int, int, int] | None = None
    dtype: str | None = None
    origin: str | None = None
    mean: float | tuple[float, ...] | None = None
    scale: float | tuple[float, ...] | None = None
    span: tuple[float, float] | None = None
    size: int | None = None
    level_type: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise self._error(f": kind is {self.kind!r}; it must be one of {', '.join(get_args(Kind))}")
        if (self.levels is not None) != (self.kind == "categorical"):
            problem = "needs its levels" if self.kind == "categorical" else f"is {self.kind} and has no levels"
            raise self._error(f" {problem}")
        if self.levels is not None:
            object.__setattr__(self, "levels", tuple(plain(level) for level in self.levels))
            if not self.levels or len(set(self.levels)) != len(self.levels):
                raise self._error(f": levels must be distinct and non-empty, not {list(self.levels)}")
        self._check_level_type()
        self._check_shape()
        self._check_numbers()

    def _error(self, message: str) -> DataError:
        return DataError(f"variable {self.name!r}{message}", column=self.name)

    def _check_level_type(self) -> None:
        if self.level_type is None:
            return
        if self.levels is None:
            raise self._error(f" is {self.kind} and has no type of levels")
        try:
            revived(self.levels, self.level_type)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._error(f": its levels are not values of the type {self.level_type!r}: {error}") from None

    def _check_shape(self) -> None:
        if (self.shape is not None) != (self.kind == "image"):
            raise self._error(" needs its shape" if self.kind == "image" else f" is {self.kind} and has no shape")
        if self.shape is not None:
            if len(self.shape) != 3 or not all(isinstance(side, int | np.integer) and side > 0 for side in self.shape):
                raise self._error(f": shape must be (channels, height, width), not {quoted(self.shape)}")
            if math.prod(map(int, self.shape)) > MOST_PIXELS:
                raise self._error(f": an image has at most {MOST_PIXELS:,} numbers, not {quoted(self.shape)}")
            object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        if self.size is not None:
            try:
                whole("size", self.size)
            except ValueError as error:
                raise self._error(f": {error}") from None

    def _check_numbers(self) -> None:
        attributes = {key: getattr(self, key) for key in ("origin", "mean", "scale", "span", "size")}
        if self.kind not in ("continuous", "implicit"):
            for key, value in attributes.items():
                if value is not None:
                    raise self._error(f" is {self.kind} and has no {key}")
            return
        for key in ("mean", "scale"):
            value = attributes[key]
            if value is None:
                continue
            entries = np.asarray(value, dtype=np.float64)
            if entries.shape != (() if self.size is None else (self.size,)) or not np.isfinite(entries).all():
                needed = "a finite number" if self.size is None else f"{self.size} finite numbers"
                raise self._error(f": {key} must be {needed}, not {value!r}")
            if key == "scale" and not (entries > 0).all():
                raise self._error(f": scale must be positive, not {value!r}")
            object.__setattr__(self, key, float(entries) if self.size is None else tuple(entries.tolist()))
        if self.span is not None:
            low, high = (float(number) for number in self.span)
            if not low <= high:
                raise self._error(f": span must be (lowest, highest), not {self.span!r}")
            object.__setattr__(self, "span", (low, high))
        if self.origin is not None:
            try:
                _moment(self.origin)
            except (TypeError, ValueError):
                raise self._error(f": origin must be a date such as {EPOCH!r}, not {self.origin!r}") from None

    @property
    def num_levels(self) -> int:
        """Number of levels of a categorical variable.

        Raises:
            TypeError: If the variable is not categorical.
        """
        if self.levels is None:
            raise TypeError(f"variable {self.name!r} is {self.kind} and has no levels")
        return len(self.levels)

    def code(self, value: Any) -> int | float:
        """Encode a value for a mechanism: the index of a level, or a number minus ``mean``, divided by ``scale``.

        Args:
            value: A level, or a value that identifies it (:func:`mdcm.data.levels.position`); a real number; or a date
                for a column of dates. numpy scalars count as their Python values.

        Raises:
            DataError: If the value is not a level of a categorical variable or not a finite number, or the variable is
                an image or a vector.
        """
        if self.levels is not None:
            return self._position(value)
        return (self.number(value) - cast("float", self.mean or 0.0)) / cast("float", self.scale or 1.0)

    def number(self, value: Any) -> float:
        """Convert a value of a continuous variable to a real number; a date becomes days since ``origin``.

        Raises:
            DataError: If the value is not a finite number, or the variable is an image or a vector.
        """
        if self.kind == "image" or self.size is not None:
            shape, noun = (self.shape, "an image") if self.kind == "image" else ((self.size,), "a vector")
            raise self._error(f" is {noun}: give an array of shape {shape}, not {value!r}")
        try:
            number = float(value) if self.origin is None else days(value, self.origin)
        except (TypeError, ValueError):
            noun = "number" if self.origin is None else "date"
            raise self._error(f" is {self.kind}: {value!r} is not a {noun}") from None
        if not math.isfinite(number):
            raise self._error(f": {value!r} is not finite")
        return number

    def standardise(self, numbers: ArrayLike) -> NDArray[np.float32]:
        """Standardise real numbers for mechanisms.

        Args:
            numbers: ``[n]``, or ``[n, size]`` of a vector.

        Returns:
            Numbers minus ``mean``, divided by ``scale``, float32 of the same shape; infinite if out of range.

        Example:
            >>> Variable("weight", "continuous", mean=70.0, scale=10.0).standardise([70, 85]).tolist()
            [0.0, 1.5]
        """
        with np.errstate(over="ignore"):
            # in double precision, because dates and large numbers lose their differences in float32
            values = np.asarray(numbers, dtype=np.float64) - np.asarray(self.mean or 0.0)
            return np.asarray(values / np.asarray(self.scale or 1.0), dtype=np.float32)

    def restore(self, values: ArrayLike) -> NDArray[np.float64]:
        """Invert :meth:`standardise`: real numbers from standardised numbers, float64 of the same shape."""
        numbers = np.asarray(values, dtype=np.float64)
        return np.asarray(numbers * np.asarray(self.scale or 1.0) + np.asarray(self.mean or 0.0))

    def parse(self, value: str | float) -> Level:
        """Parse user input as a level or number.

        Args:
            value: Text such as ``"1"``, ``"yes"`` or ``"0.5"``, or a number.

        Returns:
            One of ``levels`` for a categorical variable; else a float, which is days since ``origin`` for a date.

        Raises:
            DataError: If it does not name a level, or is not a number for a continuous variable.

        Example:
            >>> Variable("X", "categorical", levels=(0, 1)).parse("1")
            1
        """
        if self.levels is None:
            return self.number(value)
        return self.levels[self._position(value)]

    def _position(self, value: Any) -> int:
        if self.dtype in _SHORT and isinstance(value, float | str):
            # round to the precision of the column
            with suppress(ValueError):
                value = np.dtype(self.dtype.lower()).type(value)
        try:
            return position(cast("tuple[Level, ...]", self.levels), value, self.level_type)
        except LevelError as error:
            raise self._error(f" has {error}") from None

    def unknown_level(self, value: Any) -> str:
        """Message about a value in data that is not a level."""
        return f"variable {self.name!r} has {unknown(cast('tuple[Level, ...]', self.levels), value)}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values from which :meth:`from_json` builds the same variable."""
        values: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "levels": None if self.levels is None else list(self.levels),
            "shape": None if self.shape is None else list(self.shape),
            "dtype": self.dtype,
        }
        for key in ("origin", "mean", "scale", "span", "size", "level_type"):
            value = getattr(self, key)
            if value is not None:
                values[key] = list(value) if isinstance(value, tuple) else value
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Variable:
        """Build a variable from values of :meth:`to_json`."""
        keys = ("levels", "shape", "dtype", "origin", "mean", "scale", "span", "size", "level_type")
        optional = {key: values.get(key) for key in keys}
        frozen = {key: tuple(value) if isinstance(value, list) else value for key, value in optional.items()}
        return cls(name=values["name"], kind=values["kind"], **cast("Any", frozen))


def _moment(value: Any) -> pd.Timestamp:
    """Parse a date; a date with a time zone is converted to UTC, without the zone."""
    moment = pd.Timestamp(value)
    if pd.isna(moment):
        raise ValueError(f"{value!r} is not a date")
    return moment if moment.tzinfo is None else moment.tz_convert(None)


def days(value: Any, origin: str = EPOCH) -> float:
    """Days from the origin to a date; numbers are returned unchanged.

    Example:
        >>> days("1970-01-02 12:00")
        1.5
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        return float((_moment(value) - _moment(origin)) / pd.Timedelta(days=1))


def storage(
    column: pd.Series[Any], where: str, dataset: str | None = None, rows: NDArray[np.int64] | None = None
) -> Storage:
    """Type of a column's values; "levels" are intervals and periods, which are neither numbers nor texts.

    Args:
        column: The column.
        where: Description of the dataset for messages.
        dataset: Name of the dataset.
        rows: Row numbers for messages, if they are not 0, 1, 2, ...

    Raises:
        DataError: If it holds values of several types, or of an unsupported type.
    """
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    if pd.api.types.is_bool_dtype(dtype):
        return "bool"
    if pd.api.types.is_integer_dtype(dtype):
        return "int"
    if pd.api.types.is_float_dtype(dtype):
        return "float"
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return "dates"
    if isinstance(dtype, pd.IntervalDtype | pd.PeriodDtype):
        return "levels"
    inferred = pd.api.types.infer_dtype(column, skipna=True)
    known: dict[str, Storage] = {
        "string": "str",
        "empty": "str",
        "boolean": "bool",
        "integer": "int",
        "floating": "float",
        "mixed-integer-float": "float",
        "decimal": "float",
        "date": "dates",
        "datetime": "dates",
        "datetime64": "dates",
        "interval": "levels",
        "period": "levels",
    }
    if inferred not in known:
        raise _mixed(column, where, dataset, rows)
    return known[inferred]


def _mixed(column: pd.Series[Any], where: str, dataset: str | None, rows: NDArray[np.int64] | None) -> DataError:
    present = column[column.notna()]
    types = present.map(_type_name).astype(object)
    type_names = sorted({type(value).__name__ for value in present.head(10_000)})
    known = types.isin(["booleans", "numbers", "strings", "dates"])
    # if some values have a supported type, those of other types are reported
    bad = (types != types[known].iloc[0]) if known.any() else ~known
    remedy = "make them all numbers, strings, booleans or dates"
    if (types == "durations").all():
        remedy = "convert them to numbers, as with .dt.total_seconds()"
    try:
        refuse(
            bad.reindex(column.index, fill_value=False),
            f"{where}: column {column.name!r} holds {' and '.join(type_names)} values ({column.dtype})",
            dataset,
            str(column.name),
            remedy=f"; {remedy}",
            rows=rows,
        )
    except DataError as error:
        return error
    # values of two numeric types, such as True among 0 and 1
    return DataError(
        f"{where}: column {column.name!r} holds {' and '.join(type_names)} values ({column.dtype}); {remedy}",
        dataset=dataset,
        column=str(column.name),
    )


def _type_name(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "booleans"
    if isinstance(value, numbers.Real | Decimal):
        return "numbers"
    if isinstance(value, str):
        return "strings"
    if isinstance(value, datetime.date | np.datetime64):
        return "dates"
    return "durations" if isinstance(value, datetime.timedelta | np.timedelta64) else type(value).__name__


def as_array(value: Any) -> Any:
    """Convert a torch tensor to a numpy array; return anything else unchanged."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") and hasattr(value, "cpu") else value


def are_dates(column: pd.Series[Any]) -> bool:
    """Whether every string of a column is an ISO 8601 date, such as 2020-03-01 or 2020-03-01T12:30."""
    try:
        return bool(pd.to_datetime(column, format="ISO8601", utc=True).notna().all())
    except (TypeError, ValueError, OverflowError):
        return False


def floats(column: pd.Series[Any], origin: str | None = None) -> NDArray[np.float64]:
    """Numbers of a column, dates as days since an origin; float64 ``[n]``, NaN for missing values.

    Args:
        column: Numbers, booleans or dates; strings only with an origin, as dates.
        origin: Date with day 0, 1970-01-01 by default.

    Raises:
        ValueError: If a string is neither a number nor a date.
    """
    if storage(column, "") != "dates" and (origin is None or storage(column, "") != "str"):
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    form = "ISO8601" if storage(column, "") == "str" else None
    moments = pd.to_datetime(column, utc=True, format=form)
    start = _moment(origin or EPOCH).tz_localize("UTC")
    return np.asarray((moments - start) / pd.Timedelta(days=1), dtype=np.float64)


def refuse(
    bad: pd.Series[Any] | NDArray[np.bool_],
    message: str,
    dataset: str | None,
    column: str | None,
    *,
    remedy: str = "",
    rows: NDArray[np.int64] | None = None,
) -> None:
    """Raise a DataError if any row is invalid, with the first such row and their number.

    Args:
        bad: Whether each row is invalid.
        message: The problem.
        dataset: Name of the dataset.
        column: Name of the column.
        remedy: The remedy, as the end of the message.
        rows: Row numbers in the user's data, if they are not 0, 1, 2, ...
    """
    flags = np.asarray(bad, dtype=bool)
    if not flags.any():
        return
    first, count = int(flags.argmax()), int(flags.sum())
    row = first if rows is None else int(rows[first])
    where = f"row {row}" if count == 1 else f"{count:,} rows, the first is row {row}"
    raise DataError(
        f"{message} ({where}, counted from 0){remedy}", dataset=dataset, column=column, row=row, count=count
    )


def missing_value_remedy() -> str:
    """Remedies for missing values, as the end of a message."""
    setting = advice("Dataset(..., dropna=True)", "--dropna", "'dropna: true'")
    return f"; fill them in, or leave such rows out with {setting}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """The nearest known name as the end of a message, or an empty text."""
    if len(name) > _LONGEST_NAME:
        # comparison takes quadratic time
        return ""
    names = list(known)
    folded = [other for other in names if other.strip().casefold() == name.strip().casefold() and other != name]
    nearest = folded[:1] or difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
