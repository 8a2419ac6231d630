"""How commands speak: results to stdout, everything else to stderr, and nothing that a terminal would obey."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from mdcm.printable import printable, shortened

__all__ = ["COMMANDS", "command", "complain", "is_quiet", "note", "one_thread", "show", "write"]

_state = {"quiet": False}

# functions in the order in which help lists them, and their examples
COMMANDS: list[tuple[Callable[..., None], str]] = []


def command(*examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command of its name, which knows ``--quiet`` and whose help ends with these examples."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        option = Annotated[
            bool, typer.Option("--quiet", "-q", help="no progress and no notes, only results and errors")
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
    """A result."""
    sys.stdout.write(printable(text if text.endswith("\n") else text + "\n"))


def complain(text: str) -> None:
    """An error or a warning."""
    sys.stderr.write(shortened(printable(text)) + "\n")


def note(text: str) -> None:
    """Something by the way."""
    if not is_quiet():
        complain(text)


def write(target: str, text: str) -> None:
    """Write a result to a file, or to stdout for "-"."""
    if target == "-":
        show(text)
        return
    from mdcm.rundir import replacing

    with replacing(target) as stream:
        stream.write(text.encode("utf-8", "backslashreplace"))
    note(f"wrote {target}")


def one_thread() -> None:
    """Let torch use one thread, unless OMP_NUM_THREADS says otherwise."""
    import torch

    # networks this small run slower on several threads
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
