"""What people are told besides results: advice in the words of where they work, and warnings at the line they wrote.

In Python one passes ``dropna=True``, in the shell ``--dropna``, and in a spec one writes ``dropna: true``.
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
    """Something to know about the data that needs no change, such as a column that is left out."""


@contextmanager
def addressing(reader: Reader) -> Iterator[None]:
    """Word advice for somebody who works in Python, in the shell, or in a spec that a command reads."""
    token = _reader.set(reader)
    try:
        yield
    finally:
        _reader.reset(token)


def advice(python: str, shell: str, spec: str | None = None) -> str:
    """The words for who is addressed; those for the shell also where there are none for a spec.

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
    """Warn at the line outside this package that led here, which is the user's."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(shortened(printable(message)), category, stacklevel=level + 1)
