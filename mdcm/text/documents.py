"""JSON text that somebody else may have written: reading it, and checking what it holds field by field.

What a value must be is said by a check, a function of the value and of where it stands, such as ``text`` or
``listed(whole())``; it raises a ValueError that names the field. This needs no library, so that fitting and loading
have none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from mdcm.text.printable import quoted

__all__ = [
    "Check",
    "anything",
    "either",
    "flag",
    "listed",
    "mapping",
    "number",
    "one_of_kinds",
    "optional",
    "parse_json",
    "record",
    "sequence",
    "text",
    "whole",
]

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}

Check = Callable[[Any, str], None]


def anything(value: Any, where: str) -> None:
    """No condition."""


def text(value: Any, where: str) -> None:
    """A text."""
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a text, not {quoted(value)}")


def flag(value: Any, where: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{where} must be true or false, not {quoted(value)}")


def whole(least: int = 0, most: int = 2**63 - 1) -> Check:
    """A whole number in a range."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{where} must be a whole number from {least:,} to {most:,}, not {quoted(value)}")

    return check


def number(least: float = -math.inf) -> Check:
    """A finite number, not below a bound."""

    def check(value: Any, where: str) -> None:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if not fits or not math.isfinite(value) or value < least:
            bound = "" if least == -math.inf else f" of at least {least:g}"
            raise ValueError(f"{where} must be a finite number{bound}, not {quoted(value)}")

    return check


def optional(inner: Check) -> Check:
    """What fits, or nothing."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            inner(value, where)

    return check


def one_of_kinds(*kinds: type) -> Check:
    """A value of one of some types, numbers among them finite."""

    def check(value: Any, where: str) -> None:
        if type(value) not in kinds or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{where} must be {' or '.join(_WORDS[kind] for kind in kinds)}, not {quoted(value)}")

    return check


def either(first: Check, second: Check) -> Check:
    """What fits the one, or the other where it is a list."""

    def check(value: Any, where: str) -> None:
        (second if isinstance(value, list) else first)(value, where)

    return check


def listed(inner: Check = anything, length: int | None = None) -> Check:
    """A list of what fits, perhaps of a given length."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or (length is not None and len(value) != length):
            size = "" if length is None else f" of {length:,}"
            raise ValueError(f"{where} must be a list{size}, not {quoted(value)}")
        for place, one in enumerate(value):
            inner(one, f"{where}[{place}]")

    return check


def sequence(*inner: Check) -> Check:
    """A list whose entries fit one after another."""
    whole_list = listed(length=len(inner))

    def check(value: Any, where: str) -> None:
        whole_list(value, where)
        for place, (fits, one) in enumerate(zip(inner, value, strict=True)):
            fits(one, f"{where}[{place}]")

    return check


def mapping(inner: Check = anything) -> Check:
    """A mapping of any names to what fits."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be a mapping, not {quoted(value)}")
        for name, one in value.items():
            inner(one, f"{where}[{quoted(name)}]")

    return check


def record(fields: Mapping[str, Check], more: Mapping[str, Check] | None = None, *, open_ended: bool = False) -> Check:
    """A mapping with certain fields, perhaps with ``more`` of them, and no others unless it is ``open_ended``.

    Example:
        >>> record({"name": text, "rows": whole()})({"name": "a", "rows": -1}, "datasets[0]")
        Traceback (most recent call last):
            ...
        ValueError: datasets[0].rows must be a whole number from 0 to 9,223,372,036,854,775,807, not -1
    """
    known = {**(more or {}), **fields}

    def check(value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be a mapping, not {quoted(value)}")
        prefix = f"{where}." if where else ""
        for name in fields:
            if name not in value:
                raise ValueError(f"'{prefix}{name}' is missing")
        for name, one in value.items():
            if open_ended and name not in known:
                continue
            if name not in known:
                raise ValueError(f"{prefix}{quoted(name)} is no field of it")
            known[name](one, f"{prefix}{name}")

    return check


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Args:
        text: The text, bytes as UTF-8.

    Raises:
        ValueError: If it is not JSON, not UTF-8, nested too deeply, or holds a number of more digits than Python reads;
            the message names the place in a few words.

    Example:
        >>> parse_json('{"a": [1, 2]}')
        {'a': [1, 2]}
    """
    try:
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 text, from byte {error.start} on") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
    except ValueError:
        # Python writes of a setting of its own
        raise ValueError("it holds a whole number of thousands of digits") from None
