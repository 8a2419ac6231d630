"""Parsing of untrusted JSON, and validation of its fields.

A check is a function of a value and its path in the document, such as ``text`` or ``listed(whole())``, that raises a
ValueError with the path if the value is invalid. No library is needed, so fitting and loading depend on none.
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
    "of_types",
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
    """Accept any value."""


def text(value: Any, where: str) -> None:
    """Require a text."""
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a text, not {quoted(value)}")


def flag(value: Any, where: str) -> None:
    """Require true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{where} must be true or false, not {quoted(value)}")


def whole(least: int = 0, most: int = 2**63 - 1) -> Check:
    """Require a whole number in a range."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{where} must be a whole number from {least:,} to {most:,}, not {quoted(value)}")

    return check


def number(least: float = -math.inf) -> Check:
    """Require a finite number of at least a lower bound."""

    def check(value: Any, where: str) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value < least:
            bound = "" if least == -math.inf else f" of at least {least:g}"
            raise ValueError(f"{where} must be a finite number{bound}, not {quoted(value)}")

    return check


def optional(inner: Check) -> Check:
    """Require null, or a value that passes the inner check."""

    def check(value: Any, where: str) -> None:
        if value is not None:
            inner(value, where)

    return check


def of_types(*types: type) -> Check:
    """Require a value of any of the types; a float must be finite."""

    def check(value: Any, where: str) -> None:
        if type(value) not in types or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{where} must be {' or '.join(_WORDS[kind] for kind in types)}, not {quoted(value)}")

    return check


def either(first: Check, second: Check) -> Check:
    """Require that a list passes the second check, and any other value the first."""

    def check(value: Any, where: str) -> None:
        (second if isinstance(value, list) else first)(value, where)

    return check


def listed(inner: Check = anything, length: int | None = None) -> Check:
    """Require a list of values that pass a check, optionally of a certain length."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or (length is not None and len(value) != length):
            size = "" if length is None else f" of {length:,}"
            raise ValueError(f"{where} must be a list{size}, not {quoted(value)}")
        for index, entry in enumerate(value):
            inner(entry, f"{where}[{index}]")

    return check


def sequence(*inner: Check) -> Check:
    """Require a list with a check for each position."""
    check_length = listed(length=len(inner))

    def check(value: Any, where: str) -> None:
        check_length(value, where)
        for index, (check_entry, entry) in enumerate(zip(inner, value, strict=True)):
            check_entry(entry, f"{where}[{index}]")

    return check


def mapping(inner: Check = anything) -> Check:
    """Require a mapping from any names to values that pass a check."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be a mapping, not {quoted(value)}")
        for name, entry in value.items():
            inner(entry, f"{where}[{quoted(name)}]")

    return check


def record(fields: Mapping[str, Check], more: Mapping[str, Check] | None = None, *, open_ended: bool = False) -> Check:
    """Require a mapping with ``fields``, optionally those in ``more``, and no others unless ``open_ended``.

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
        for name, entry in value.items():
            if open_ended and name not in known:
                continue
            if name not in known:
                raise ValueError(f"{prefix}{quoted(name)} is not a known field")
            known[name](entry, f"{prefix}{name}")

    return check


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text.

    Args:
        text: The text; bytes must be UTF-8.

    Raises:
        ValueError: If it is not JSON, not UTF-8, nested too deeply, or has a number with more digits than Python reads;
            the message gives the location.

    Example:
        >>> parse_json('{"a": [1, 2]}')
        {'a': [1, 2]}
    """
    try:
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text, from byte {error.start} on") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
    except ValueError:
        # Python's message refers to an interpreter setting
        raise ValueError("it holds a whole number of thousands of digits") from None
