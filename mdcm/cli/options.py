"""Options of the command line that name variables and values."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import TYPE_CHECKING, Any

from mdcm.data.levels import listing
from mdcm.data.variables import suggestion
from mdcm.errors import DataError, QueryError

if TYPE_CHECKING:
    from mdcm.data.inference import Schema

__all__ = ["assignments", "targets"]

_PART = re.compile(r"""((?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^,])*),""", re.DOTALL)


def assignments(options: list[str] | None, schema: Schema, flag: str) -> dict[str, Any]:
    """Parse values of variables given as options such as ``X=1``.

    The value is the text after the sign, spaces included, or the text in the quotes, as in ``X='a '``.

    Raises:
        QueryError: If an option is malformed, or its variable or value is unknown.
    """
    values: dict[str, Any] = {}
    for option in options or []:
        name, text = _split(option, schema)
        if text is None or not name:
            raise QueryError(f"{flag} {option}: NAME=VALUE is expected, as in {flag} X=1")
        if name not in schema:
            hint = suggestion(name, schema) or f"; the model has {listing(schema)}"
            raise QueryError(f"{flag} {option}: there is no variable {name!r}{hint}")
        if name in values:
            raise QueryError(f"{flag} {option}: {name!r} has two values")
        if schema[name].kind == "image":
            raise QueryError(f"{flag} {option}: {name!r} is an image; set it in Python, with draw_samples(do=...)")
        try:
            known = schema[name].levels or ()
            values[name] = schema.parse(name, text if text in known else _unquoted(text))
        except DataError as error:
            raise QueryError(f"{flag} {option}: {error}") from None
    return values


def _split(option: str, names: Container[str] = ()) -> tuple[str, str | None]:
    """Split ``NAME=VALUE``; the value is None without an equals sign.

    A name may contain equals signs and begin or end with spaces; if no known name matches exactly, spaces around it
    are stripped.
    """
    cuts = [(option[:at], option[at + 1 :]) for at, sign in enumerate(option) if sign == "="]
    if not cuts:
        return option.strip(), None
    for shown in (lambda name: name, str.strip):
        for name, value in cuts:
            if shown(name) in names:
                return shown(name), value
    return cuts[0][0].strip(), cuts[0][1]


def _unquoted(text: str) -> str:
    """Remove quotes around a value, as in a query."""
    if len(text) < 2 or text[0] != text[-1] or text[0] not in "'\"":
        return text
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)


def targets(option: str) -> dict[str, list[str] | None]:
    """Parse the targets of an experiment given as an option such as ``X,Z=1``; values are text, perhaps in quotes.

    Raises:
        QueryError: If a name or a value is missing.
    """
    values: dict[str, list[str] | None] = {}
    # a comma in quotes is part of a value; the added comma ends the last part
    for part in _PART.findall(option + ","):
        name, value = _split(part)
        if not name or value == "":
            raise QueryError(f"--experiment {option}: names are expected, perhaps with a value, as in X,Z=1")
        known = values.get(name) or []
        values[name] = None if value is None else [*known, _unquoted(value)]
    return values
