"""Options of the command line that name variables and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mdcm.errors import DataError, QueryError
from mdcm.variables import listing, suggestion

if TYPE_CHECKING:
    from mdcm.schema import Schema

__all__ = ["assignments", "targets"]


def assignments(options: list[str] | None, schema: Schema, flag: str) -> dict[str, Any]:
    """Values by variable of options such as ``X=1``.

    Raises:
        QueryError: If an option is malformed, or its variable or value is unknown.
    """
    values: dict[str, Any] = {}
    for option in options or []:
        cuts = [(option[:at].strip(), option[at + 1 :].strip()) for at, sign in enumerate(option) if sign == "="]
        if not cuts or not cuts[0][0]:
            raise QueryError(f"{flag} {option}: NAME=VALUE is expected, as in {flag} X=1")
        # a name may itself hold an equals sign
        name, text = next((cut for cut in cuts if cut[0] in schema), cuts[0])
        if name not in schema:
            hint = suggestion(name, schema) or f"; the model has {listing(schema)}"
            raise QueryError(f"{flag} {option}: there is no variable {name!r}{hint}")
        if name in values:
            raise QueryError(f"{flag} {option}: {name!r} has two values")
        if schema[name].kind == "image":
            raise QueryError(f"{flag} {option}: {name!r} is an image; set it in Python, with draw_samples(do=...)")
        try:
            values[name] = schema.parse(name, text)
        except DataError as error:
            raise QueryError(f"{flag} {option}: {error}") from None
    return values


def targets(option: str) -> dict[str, list[str] | None]:
    """Targets of an experiment by an option such as ``X,Z=1``; values are compared as text.

    Raises:
        QueryError: If a name or a value is missing.
    """
    found: dict[str, list[str] | None] = {}
    for part in option.split(","):
        name, has_value, value = part.partition("=")
        if not name.strip() or (has_value and not value.strip()):
            raise QueryError(f"--experiment {option}: names are expected, perhaps with a value, as in X,Z=1")
        known = found.get(name.strip()) or []
        found[name.strip()] = [*known, value.strip()] if has_value else None
    return found
