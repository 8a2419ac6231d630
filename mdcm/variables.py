"""What one variable is: its kind, its levels, and how a value becomes a code."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import pandas as pd

from mdcm.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Kind",
    "Level",
    "Variable",
    "days",
    "floats",
    "listing",
    "plain",
    "refuse",
    "sorted_levels",
    "storage",
    "suggestion",
]

Kind = Literal["categorical", "continuous", "implicit", "image"]
Level = bool | int | float | str
Storage = Literal["bool", "int", "float", "str", "category", "dates"]


@dataclass(frozen=True)
class Variable:
    """One variable of a model: its name, its kind, and the values that it can take.

    Attributes:
        name: Name, as in the graph.
        kind: "categorical", "continuous" (real, with a density), "implicit" (real, without a density) or "image".
        levels: Values of a categorical variable in the order of their codes, as plain Python values; else None.
        shape: ``(channels, height, width)`` of an image; else None.
        dtype: Type in which draws are given back: a numpy or pandas name, or "ordered" for an ordered categorical;
            None for the natural one.

    Example:
        >>> Variable("dose", "categorical", levels=("low", "high")).code("high")
        1
    """

    name: str
    kind: Kind
    levels: tuple[Level, ...] | None = None
    shape: tuple[int, int, int] | None = None
    dtype: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise DataError(
                f"variable {self.name!r}: kind {self.kind!r} is none of {', '.join(get_args(Kind))}", column=self.name
            )
        if (self.levels is not None) != (self.kind == "categorical"):
            needs = "needs its levels" if self.kind == "categorical" else f"is {self.kind} and has no levels"
            raise DataError(f"variable {self.name!r} {needs}", column=self.name)
        if self.levels is not None:
            object.__setattr__(self, "levels", tuple(plain(level) for level in self.levels))
            if not self.levels or len(set(self.levels)) != len(self.levels):
                raise DataError(
                    f"variable {self.name!r}: levels must be distinct and at least one, not {list(self.levels)}",
                    column=self.name,
                )
        if (self.shape is not None) != (self.kind == "image"):
            needs = "needs its shape" if self.kind == "image" else f"is {self.kind} and has no shape"
            raise DataError(f"variable {self.name!r} {needs}", column=self.name)
        if self.shape is not None:
            if len(self.shape) != 3 or min(self.shape) < 1:
                raise DataError(
                    f"variable {self.name!r}: shape must be (channels, height, width), not {self.shape}",
                    column=self.name,
                )
            object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))

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
        """Value as a mechanism sees it: the index of a level, or a real number.

        Args:
            value: A level, a real number, or a date for a column of dates; numpy scalars count as what they hold.

        Raises:
            DataError: If the value is no level of a categorical variable, not a finite number for a continuous one,
                or if the variable is an image.
        """
        if self.kind == "image":
            raise DataError(
                f"variable {self.name!r} is an image: give an array of shape {self.shape}, not {value!r}",
                column=self.name,
            )
        if self.levels is not None:
            try:
                return self.levels.index(plain(value))
            except ValueError:
                raise DataError(self.unknown_level(value), column=self.name) from None
        try:
            number = days(value) if self.dtype is not None and self.dtype.startswith("datetime") else float(value)
        except (TypeError, ValueError):
            raise DataError(
                f"variable {self.name!r} is {self.kind}: {value!r} is no number", column=self.name
            ) from None
        if not math.isfinite(number):
            raise DataError(f"variable {self.name!r}: {value!r} is not finite", column=self.name)
        return number

    def parse(self, value: str | float) -> Level:
        """Level or number that is meant by what somebody typed.

        Args:
            value: Text such as ``"1"``, ``"yes"`` or ``"0.5"``, or a number.

        Returns:
            One of ``levels`` for a categorical variable; a float for a continuous one.

        Raises:
            DataError: If it names no level, or is no number for a continuous variable.

        Example:
            >>> Variable("X", "categorical", levels=(0, 1)).parse("1")
            1
        """
        if self.levels is None:
            return self.code(value)
        text = str(value).strip()
        for level in self.levels:
            if str(level) == text or (isinstance(level, bool) and text.lower() == str(level).lower()):
                return level
        try:
            number = float(text)
        except ValueError:
            pass
        else:
            for level in self.levels:
                if not isinstance(level, str) and level == number:
                    return level
        raise DataError(self.unknown_level(value), column=self.name)

    def unknown_level(self, value: Any) -> str:
        """What to tell somebody who gave a value that is no level."""
        levels = cast("tuple[Level, ...]", self.levels)
        message = f"variable {self.name!r} has no level {plain(value)!r}; its levels are {listing(levels)}"
        return message + suggestion(str(value), [str(level) for level in levels])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values from which :meth:`from_json` builds the same variable."""
        return {
            "name": self.name,
            "kind": self.kind,
            "levels": None if self.levels is None else list(self.levels),
            "shape": None if self.shape is None else list(self.shape),
            "dtype": self.dtype,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Variable:
        """Variable that :meth:`to_json` described."""
        levels, shape = values.get("levels"), values.get("shape")
        return cls(
            name=values["name"],
            kind=values["kind"],
            levels=None if levels is None else tuple(levels),
            shape=None if shape is None else tuple(shape),
            dtype=values.get("dtype"),
        )


def plain(value: Any) -> Level:
    """A level as a bool, int, float or str; whole floats as ints, so that 1, 1.0 and np.int8(1) are one level."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, bool | int | float | str) else str(value)


def days(value: Any) -> float:
    """Days since 1970-01-01 of a date, or a number as it is."""
    try:
        return float(value)
    except (TypeError, ValueError):
        pass
    moment = pd.Timestamp(value)
    moment = moment if moment.tzinfo is None else moment.tz_convert(None)
    return float((moment - pd.Timestamp(0)) / pd.Timedelta(days=1))


def storage(column: pd.Series[Any], where: str, dataset: str | None = None) -> Storage:
    """What sort of values a column without missing values holds."""
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
    }
    if inferred not in known:
        kinds = sorted({type(value).__name__ for value in column.dropna().head(10_000)})
        raise DataError(
            f"{where}: column {column.name!r} holds {' and '.join(kinds)} values ({dtype}); "
            "make them all numbers, strings, booleans or dates",
            dataset=dataset,
            column=str(column.name),
        )
    return known[inferred]


def floats(column: pd.Series[Any]) -> NDArray[np.float64]:
    """Numbers of a column, dates as days since 1970; float64 ``[n]``."""
    if storage(column, "") != "dates":
        return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
    moments = pd.to_datetime(column, utc=True)
    return np.asarray((moments - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1), dtype=np.float64)


def sorted_levels(levels: Iterable[Level]) -> list[Level]:
    """Levels in ascending order, numbers before strings."""
    return sorted(levels, key=lambda level: (isinstance(level, str), level))


def refuse(bad: pd.Series[Any], message: str, dataset: str | None, column: str | None, *, advice: str = "") -> None:
    """Raise a DataError if any row is bad, with the first one and their number."""
    flags = bad.to_numpy(dtype=bool)
    if not flags.any():
        return
    row, count = int(flags.argmax()), int(flags.sum())
    where = f"row {row}" if count == 1 else f"{count:,} rows, the first is row {row}"
    raise DataError(
        f"{message} ({where}, counted from 0){advice}", dataset=dataset, column=column, row=row, count=count
    )


def listing(values: Iterable[object], most: int = 8) -> str:
    """Names or levels for a message, the first few."""
    shown = [repr(value) for value in values]
    return ", ".join(shown[:most]) + (f", ... ({len(shown):,} in all)" if len(shown) > most else "")


def suggestion(name: str, known: Iterable[str]) -> str:
    """The nearest known name as the end of a message, or nothing."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
