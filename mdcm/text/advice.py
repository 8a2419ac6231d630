"""Advice in the syntax of the user's interface, and warnings at the user's line of code.

The same option is ``dropna=True`` in Python, ``--dropna`` in the shell and ``dropna: true`` in a spec.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from mdcm.text.printable import printable, shortened

__all__ = ["Notice", "addressing", "advice", "warn"]

Reader = Literal["python", "shell", "spec"]

_reader: ContextVar[Reader] = ContextVar("_reader", default="python")
_PACKAGE = str(Path(__file__).parents[1]) + "/"


class Notice(UserWarning):
    """Information about the data that requires no action, such as a column that is ignored."""


@contextmanager
def addressing(reader: Reader) -> Iterator[None]:
    """Set the interface for which :func:`advice` is worded: Python, the shell, or a spec."""
    token = _reader.set(reader)
    try:
        yield
    finally:
        _reader.reset(token)


def advice(python: str, shell: str, spec: str | None = None) -> str:
    """Select the wording for the current interface; without a wording for specs, that for the shell.

    Example:
        >>> with addressing("shell"):
        ...     advice("dropna=True", "--dropna", "dropna: true")
        '--dropna'
    """
    reader = _reader.get()
    if reader == "python":
        return python
    return shell if reader == "shell" or spec is None else spec


def warn(message: str, category: type[UserWarning] = UserWarning) -> None:
    """Issue a warning that points at the user's line of code, the innermost line outside this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(shortened(printable(message)), category, stacklevel=level + 1)
