"""How commands speak: results to stdout, everything else to stderr, and nothing that a terminal would obey."""

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
    """Make a function a command of its name, which knows ``--quiet`` and whose help ends with these examples."""

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
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values()]
        called.__signature__ = signature.replace(parameters=[*parameters, quiet])  # type: ignore[attr-defined]
        called.__annotations__ = {one.name: one.annotation for one in [*parameters, quiet]}
        del called.__wrapped__
        # the mark keeps the lines as they are; a command that is wrapped cannot be copied
        head = "Example:" if len(examples) == 1 else "Examples:"
        COMMANDS.append((called, "\b\n" + "\n".join([head, *(f"  {line}" for line in examples)])))
        return function

    return register


def is_quiet() -> bool:
    """Whether the command under way was asked to be quiet."""
    return _state["quiet"]


def show(text: str) -> None:
    """A result.

    Raises:
        OSError: If standard output is closed or cannot be written.
    """
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed, and the result has nowhere to go", _STDOUT)
    with _naming_stdout():
        sys.stdout.write(printable(text if text.endswith("\n") else text + "\n"))


def show_json(content: Any) -> None:
    """A result for machines, in JSON that every reader takes: a number that is missing is null, an infinite one a text.

    Raises:
        OSError: As :func:`show`.
    """
    show(json.dumps(_plain(content), indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        # a number of NumPy's
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    from mdcm.data.levels import plain

    # dates, intervals and what else a level may be, as a query names them
    level = plain(value)
    return _plain(level) if isinstance(level, float) else level


def flush() -> None:
    """Let results reach whoever reads them.

    Raises:
        OSError: If they do not.
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
    """An error or a warning; where standard error is closed, or its reader has left, nobody hears it."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(shortened(printable(text)) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        silence(sys.stderr)


def silence(stream: TextIO | None) -> None:
    """Let a stream that cannot be written lead nowhere; Python would complain once more when it flushes at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, cast("TextIO", stream).fileno())
        os.close(nowhere)


def note(text: str) -> None:
    """Something by the way."""
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
    """Let torch use one thread, unless OMP_NUM_THREADS says otherwise."""
    import torch

    # networks this small run slower on several threads
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
