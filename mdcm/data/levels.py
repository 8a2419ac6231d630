"""Levels of categorical variables: their plain values, and the single rule by which input identifies a level.

Texts are compared exactly, including spaces and case, and numbers as numbers. A text for levels that are numbers, truth
values, dates or intervals, or a number for levels that are texts, is converted if it matches a unique level.
:func:`position` resolves all user input that names a level, in a query, an option, a file or an argument.
"""

from __future__ import annotations

import datetime
import difflib
import fractions
import math
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mdcm.text.printable import MOST_SHOWN, quoted

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "NUMERAL",
    "WORD",
    "Level",
    "LevelError",
    "aligned",
    "as_word",
    "level_type",
    "listing",
    "plain",
    "position",
    "revived",
    "sorted_levels",
    "unknown",
]

Level = bool | int | float | str

# names and values that need no quotes in queries and graphs
WORD = re.compile(r"[\w.]+")
# a leading zero, as in 007, belongs to a label and not to a number
NUMERAL = re.compile(r"(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.])")

_NUMBER = re.compile(r"\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)
_WHOLE = re.compile(r"\s*[+-]?\d+\s*", re.ASCII)
_INTERVAL = re.compile(r"([\[(])\s*(.+?)\s*,\s*(.+?)\s*([\])])")
_CLOSED = {"[]": "both", "[)": "left", "(]": "right", "()": "neither"}


class LevelError(LookupError):
    """A value identifies no level, or several; the message begins with "no level" and lists the levels."""


def as_word(text: str) -> str:
    """A name or text as written in a query: unchanged if it is a single word, else quoted.

    Example:
        >>> as_word("age"), as_word("a=b"), as_word("7")
        ('age', "'a=b'", "'7'")
    """
    if WORD.fullmatch(text) and not NUMERAL.match(text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def plain(value: Any) -> Level:
    """Convert a level to bool, int, float or str; whole floats become ints: 1, 1.0 and np.int8(1) are the same level.

    Dates at midnight become the text of their day, intervals get plain bounds, and other objects become their ``str``.

    Example:
        >>> import pandas as pd
        >>> plain(np.float32(0.1)), plain(Decimal("2.0")), plain(pd.Timestamp("2020-03-01"))
        (0.1, 2, '2020-03-01')
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool | int | float):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.floating) and value.itemsize < 8:
        # the printed number, not its nearest double
        return plain(float(str(value)))
    if isinstance(value, Decimal | fractions.Fraction):
        return plain(float(value)) if value % 1 else int(value)
    if isinstance(value, np.generic) and not isinstance(value, np.datetime64 | np.timedelta64):
        return plain(value.item())
    return str(value) if isinstance(value, str) else _text(value)


def _text(value: Any) -> str:
    # imported here, because graphs and plans work without pandas
    import pandas as pd

    if isinstance(value, np.datetime64 | np.timedelta64):
        value = pd.Timestamp(value) if isinstance(value, np.datetime64) else pd.Timedelta(value)
    if isinstance(value, datetime.datetime) and value is not pd.NaT and value.tzinfo is None:
        moment = pd.Timestamp(value)
        return str(moment.date() if moment == moment.normalize() else moment)
    if isinstance(value, pd.Interval):
        opening, closing = "[" if value.closed_left else "(", "]" if value.closed_right else ")"
        return f"{opening}{plain(value.left)}, {plain(value.right)}{closing}"
    return str(value)


def sorted_levels(levels: Iterable[Level]) -> list[Level]:
    """Levels in ascending order, numbers before strings."""
    return sorted(levels, key=lambda level: (isinstance(level, str), level))


def level_type(values: Iterable[Any]) -> str | None:
    """Name in pandas of the type of values that :func:`plain` converts to texts.

    Args:
        values: Distinct values of a column.

    Returns:
        Such as "datetime64[us]", "interval[float64, right]" or "period[M]", and "date" for Python's dates; None for
        texts, numbers and mixtures.

    Example:
        >>> import pandas as pd
        >>> level_type(pd.cut([1, 4], [0, 2, 5]).categories), level_type(["a", "b"])
        ('interval[int64, right]', None)
    """
    import pandas as pd

    index = pd.Index(list(values))
    if len(index) and all(type(value) is datetime.date for value in index):
        return "date"
    if len(index) and all(isinstance(value, datetime.date | np.datetime64) for value in index):
        try:
            index = pd.DatetimeIndex(index)
        except (TypeError, ValueError):
            return None
    extension = isinstance(index.dtype, pd.DatetimeTZDtype | pd.IntervalDtype | pd.PeriodDtype)
    return str(index.dtype) if extension or index.dtype.kind in "mM" else None


def revived(levels: Sequence[Level], kind: str) -> pd.Index:
    """Convert texts back to values of a type named by :func:`level_type`.

    Raises:
        ValueError: If a text is not a value of the type.

    Example:
        >>> revived(["(0, 2]", "(2, 5]"], "interval[int64, right]")[1]
        Interval(2, 5, closed='right')
    """
    import pandas as pd

    read = _reader(kind)
    values: list[Any] = [read(str(level)) for level in levels]
    index: pd.Index = pd.Index(values, dtype=cast("Any", object if kind == "date" else kind))
    return index


def _reader(kind: str) -> Callable[[str], Any]:
    """Function that converts a text to a value of a type, or raises a ValueError."""
    import pandas as pd

    if kind == "date":
        return lambda text: pd.Timestamp(text).date()
    dtype: Any = pd.api.types.pandas_dtype(kind)
    if isinstance(dtype, pd.PeriodDtype):
        frequency: Any = dtype.freq
        return lambda text: pd.Period(text, freq=frequency)
    if isinstance(dtype, pd.IntervalDtype):
        subtype, closed = cast("np.dtype[Any]", dtype.subtype), dtype.closed
        bound: Callable[[str], Any] = float if subtype.kind in "iuf" else _reader(str(subtype))

        def interval(text: str) -> Any:
            parts = _INTERVAL.fullmatch(text.strip())
            if parts is None or _CLOSED[parts[1] + parts[4]] != closed:
                raise ValueError(f"{text!r} is not an interval closed {closed}")
            return pd.Interval(bound(parts[2]), bound(parts[3]), closed=closed)

        return interval
    if dtype.kind == "m":
        return pd.Timedelta
    zone = getattr(dtype, "tz", None)

    def moment(text: str) -> Any:
        time = pd.Timestamp(text)
        return time.tz_localize(zone) if zone is not None and time.tzinfo is None else time

    return moment


def position(levels: Sequence[Any], value: Any, kind: str | None = None) -> int:
    """Index of the level that a value identifies.

    Args:
        levels: The levels, plain or as stored in a table.
        value: A level, or a text or number that identifies a level.
        kind: Type of levels written as texts, as named by :func:`level_type`.

    Returns:
        Its index in ``levels``.

    Raises:
        LevelError: If the value matches no level, or several.

    Example:
        >>> position([0, 1], "1"), position(["a", "a "], "a "), position(["01", "02"], 2)
        (1, 1, 1)
    """
    known, entry = [plain(level) for level in levels], plain(value)
    equal = [k for k, level in enumerate(known) if isinstance(level, str) == isinstance(entry, str) and level == entry]
    matches = equal or [k for k, level in enumerate(known) if _identifies(entry, level, kind)]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise LevelError(unknown(known, entry))
    raise LevelError(
        f"no level {quoted(entry)} that is unique: the {_noun(entry)} {quoted(entry)} can mean "
        f"{listing(known[k] for k in matches)}; give the level itself, which is quoted in a query"
    )


def _identifies(value: Level, level: Level, kind: str | None) -> bool:
    """Whether a value of another type identifies a level."""
    if isinstance(level, str) and isinstance(value, str):
        if kind is None:
            return False
        try:
            return bool(_reader(kind)(value) == _reader(kind)(level))
        except (TypeError, ValueError):
            return False
    text, other = (level, value) if isinstance(level, str) else (value, level)
    if not isinstance(text, str):
        return False
    if isinstance(other, bool) and text.lower() in {"true", "false"}:
        return text.lower() == str(other).lower()
    number = _number(text)
    return number is not None and number == other


def _number(text: str) -> int | float | None:
    """The number written in a text, or None; only ASCII digits, and no words such as nan."""
    if not _NUMBER.fullmatch(text):
        return None
    if _WHOLE.fullmatch(text) and len(text) < 4000:
        return int(text)
    number = float(text)
    return number if math.isfinite(number) else None


def unknown(levels: Sequence[Level], value: Any) -> str:
    """Message about a value that is not a level: both types if they differ, and the nearest level."""
    entry = plain(value)
    if isinstance(entry, str) and not any(isinstance(level, str | bool) for level in levels):
        # text that is a number is reported as a number
        number = _number(entry)
        entry = entry if number is None else plain(number)
    types = {_noun(level) for level in levels}
    entry_type = f" ({_noun(entry)})" if types != {_noun(entry)} else ""
    level_types = f"the {next(iter(types))}s " if entry_type and len(types) == 1 else ""
    message = f"no level {quoted(entry)}{entry_type}; its levels are {level_types}{listing(levels)}"
    texts = [str(level) for level in levels]
    near = difflib.get_close_matches(str(entry)[:MOST_SHOWN], texts, n=1) if len(texts) <= 1000 else []
    if isinstance(entry, str):
        trimmed = [text for text in texts if text.strip() == entry.strip()]
        folded = [text for text in texts if text.casefold() == entry.casefold()]
        near = trimmed or folded or near
    if not near or near[0] == str(entry):
        return message
    spaces = " (spaces count)" if near[0].strip() == str(entry).strip() else ""
    return f"{message}; did you mean {levels[texts.index(near[0])]!r}?{spaces}"


def _noun(level: Level) -> str:
    return "text" if isinstance(level, str) else "truth value" if isinstance(level, bool) else "number"


def aligned(levels: Sequence[Any], present: Iterable[Level], kind: str | None = None) -> list[Level]:
    """Convert declared levels to the type of the data: numbers to texts if the data are texts, and vice versa.

    Args:
        levels: The declared levels.
        present: Distinct plain values of the data.
        kind: Type of levels written as texts, as named by :func:`level_type`.

    Returns:
        As many plain levels; a level that cannot be converted stays unchanged.

    Example:
        >>> aligned([1, 2, 3], ["1", "2"]), aligned(["1", "2"], [1, 2])
        (['1', '2', '3'], [1, 2])
    """
    values = list(present)
    if not values:
        return [plain(level) for level in levels]
    texts = {isinstance(value, str) for value in values}
    converted: list[Level] = []
    for declared in map(plain, levels):
        level = declared
        if len(texts) == 1 and (kind is not None or isinstance(level, str) not in texts):
            try:
                level = values[position(values, level, kind)]
            except LevelError:
                number = None if not isinstance(level, str) else _number(level)
                level = str(level) if True in texts else level if number is None else plain(number)
        converted.append(level)
    return converted


def listing(values: Iterable[object], most: int = 8) -> str:
    """The first few names or levels, for a message."""
    shown = [quoted(value, 200) for value in values]
    return ", ".join(shown[:most]) + (f", ... ({len(shown):,} in all)" if len(shown) > most else "")
