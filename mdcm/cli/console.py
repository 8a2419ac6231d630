"""Output of commands: results to stdout, everything else to stderr, control characters escaped."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, TextIO, cast

import typer

from mdcm.text.printable import printable, shortened

__all__ = [
    "COMMANDS",
    "command",
    "complain",
    "flush",
    "is_quiet",
    "note",
    "one_thread",
    "show",
    "show_json",
    "silence",
    "write",
]

_STDOUT = "standard output"
_state = {"quiet": False}

# functions and their examples
COMMANDS: list[tuple[Callable[..., None], str]] = []


def command(*examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command of its name, with the option ``--quiet`` and examples at the end of its help."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        option = Annotated[
            bool, typer.Option("--quiet", "-q", help="no progress and no notes, only results, warnings and errors")
        ]

        @functools.wraps(function)
        def called(*args: Any, quiet: bool, **kwargs: Any) -> None:
            _state["quiet"] = quiet
            function(*args, **kwargs)

        quiet = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in signature.parameters.values()]
        called.__signature__ = signature.replace(parameters=[*parameters, quiet])  # type: ignore[attr-defined]
        called.__annotations__ = {each.name: each.annotation for each in [*parameters, quiet]}
        del called.__wrapped__
        # \b keeps line breaks, so that commands can be copied
        head = "Example:" if len(examples) == 1 else "Examples:"
        COMMANDS.append((called, "\b\n" + "\n".join([head, *(f"  {line}" for line in examples)])))
        return function

    return register


def is_quiet() -> bool:
    """Whether the running command has the option ``--quiet``."""
    return _state["quiet"]


def show(text: str) -> None:
    """Write a result to stdout.

    Raises:
        OSError: If standard output is closed or cannot be written.
    """
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed, and the result has nowhere to go", _STDOUT)
    with _naming_stdout():
        sys.stdout.write(printable(text if text.endswith("\n") else text + "\n"))


def show_json(content: Any) -> None:
    """Write a result to stdout as strict JSON: NaN becomes null, an infinite number a string.

    Raises:
        OSError: As :func:`show`.
    """
    show(json.dumps(_plain(content), indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        # a NumPy scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    from mdcm.data.levels import plain

    # dates, intervals and other levels, as written in a query
    level = plain(value)
    return _plain(level) if isinstance(level, float) else level


def flush() -> None:
    """Flush standard output.

    Raises:
        OSError: If it cannot be written.
    """
    if sys.stdout is not None:
        with _naming_stdout():
            sys.stdout.flush()


@contextlib.contextmanager
def _naming_stdout() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), _STDOUT) from error


def complain(text: str) -> None:
    """Write an error or a warning to stderr; do nothing if stderr is closed."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(shortened(printable(text)) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        silence(sys.stderr)


def silence(stream: TextIO | None) -> None:
    """Redirect a broken stream to the null device, or Python would report it again when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, cast("TextIO", stream).fileno())
        os.close(nowhere)


def note(text: str) -> None:
    """Write a remark to stderr, unless the command is quiet."""
    if not is_quiet():
        complain(text)


def write(target: str, text: str) -> None:
    """Write a result to a file, or to stdout for "-"."""
    if target == "-":
        show(text)
        return
    from mdcm.storage.run_directory import replacing

    with replacing(target) as stream:
        stream.write(text.encode("utf-8", "backslashreplace"))
    note(f"wrote {target}")


def one_thread() -> None:
    """Set torch to one thread, unless OMP_NUM_THREADS is set."""
    import torch

    # networks this small run slower on several threads
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
