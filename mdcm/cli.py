"""The command ``mdcm``.

Exit codes: 0 done; 1 the answer is no (not identifiable, untrainable, too little support); 2 bad usage or bad input;
130 interrupted, 143 told to terminate. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

# in the order in which help lists their commands
from mdcm.advice import Notice, addressing
from mdcm.commands import experiments, graphs, models, start  # noqa: F401
from mdcm.commands.console import COMMANDS, complain, note, show
from mdcm.errors import LowSupportError, MdcmError, NotIdentifiableError, UntrainableError
from mdcm.printable import printable

__all__ = ["app", "main"]

# of click, or of the click that typer brings along
_UsageError: Any = typer.BadParameter.__base__
_ANSWER_IS_NO = (NotIdentifiableError, UntrainableError, LowSupportError)
_INTERRUPTED = 130
_READER_LEFT = 141


@contextmanager
def _printable_usage() -> Iterator[None]:
    """Errors of usage repeat what was typed, or what the shell made of a pattern."""
    try:
        yield
    except _UsageError as error:
        error.message = printable(error.message, lines=False)
        raise


class _Commands(TyperGroup):
    """Turns what goes wrong in a command into one line on stderr and an exit code."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _printable_usage():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _printable_usage():
            return self._invoke(ctx)

    def _invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            complain("interrupted")
            raise SystemExit(_INTERRUPTED) from None
        except BrokenPipeError:
            # as in `mdcm plan ... | head`; Python would complain once more when it flushes at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(_READER_LEFT) from None
        except MdcmError as error:
            complain(f"error: {error}")
            raise SystemExit(1 if isinstance(error, _ANSWER_IS_NO) else 2) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            complain(f"error: {where}{error.strerror or error}")
            raise SystemExit(2) from None
        except MemoryError:
            complain("error: out of memory")
            raise SystemExit(2) from None
        return result


app = typer.Typer(
    cls=_Commands,
    help="Causal answers from deep generative models, with hidden confounders and images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from mdcm import __version__

        show(f"mdcm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Causal answers from deep generative models, with hidden confounders and images."""


for _function, _examples in COMMANDS:
    app.command(epilog=_examples)(_function)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    if isinstance(message, Notice):
        note(f"note: {message}")
    else:
        complain(f"warning: {message}")


@functools.cache
def _command() -> Any:
    # not app(), which would put an exception hook of its own into the interpreter
    return typer.main.get_command(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with 0, 1, 2 or 130.

    Args:
        arguments: What follows ``mdcm`` on the command line; by default what this program was started with.

    Raises:
        SystemExit: Always, with the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # a terminal that lacks a letter is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    with addressing("shell"), warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = _show_warning
        _command()(args=arguments, prog_name="mdcm")


if __name__ == "__main__":
    main()
