"""The command ``mdcm``.

Exit codes: 0 done; 1 the answer is no (not identifiable, untrainable, too little support); 2 bad usage or bad input;
3 unexpected error, with the traceback in a file; 130 interrupted; 129 and 143 terminated by SIGHUP and SIGTERM; 141 the
reader of stdout has closed the pipe. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mdcm.cli import experiments, graphs, models, start  # noqa: F401
from mdcm.cli.console import COMMANDS, complain, flush, note, show, silence
from mdcm.errors import LowSupportError, MdcmError, NotIdentifiableError, UntrainableError
from mdcm.text.advice import Notice, addressing
from mdcm.text.printable import printable

__all__ = ["app", "main"]

_ANSWER_IS_NO = (NotIdentifiableError, UntrainableError, LowSupportError)
_NO, _BAD, _UNEXPECTED, _INTERRUPTED, _READER_LEFT = 1, 2, 3, 130, 141
# sent by a system that shuts down, and by a terminal that is closed
_TERMINATING = ("SIGTERM", "SIGHUP")
_LONGEST = 300
# the base class of usage errors is in a different module in every version of typer
_UsageError: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


class _KeptError(Exception):
    """Wrapper of an exception that click would turn into its own exit code."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class _Commands(TyperGroup):
    """Command group that passes on exceptions unchanged."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _kept():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _kept():
            return super().invoke(ctx)


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, OSError, EOFError) as error:
        raise _KeptError(error) from error


app = typer.Typer(
    cls=_Commands,
    help="Causal answers from deep generative models, with hidden confounders and images.\n\n"
    "Exit codes: 0 done; 1 the answer is no; 2 bad usage or bad input; 3 unexpected error, with the traceback in a "
    "file; 130 interrupted; 129 and 143 terminated; 141 the reader of the results has left.",
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
    pass


_options.__doc__ = app.info.help

# order of the commands in --help
_ORDER = (
    "doctor", "init", "plan", "check", "identify", "train", "query", "sample", "report", "demo", "experiment",
)  # fmt: skip
for _function, _examples in sorted(COMMANDS, key=lambda entry: _ORDER.index(entry[0].__name__)):
    app.command(epilog=_examples)(_function)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    if isinstance(message, Notice):
        note(f"note: {message}")
    else:
        complain(f"warning: {message}")


@functools.cache
def _command() -> Any:
    # app() would install an exception hook in the interpreter
    return typer.main.get_command(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with its exit code.

    Args:
        arguments: Arguments after ``mdcm`` on the command line; those of this process by default.

    Raises:
        SystemExit: Always, with the exit code.
    """
    with _standard_streams(), _terminating(), addressing("shell"), warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = _show_warning
        code = _run(arguments)
    raise SystemExit(code)


def _run(arguments: list[str] | None) -> int:
    """Run a command; an exception becomes one line on stderr and an exit code."""
    try:
        code = _command().main(args=arguments, prog_name="mdcm", standalone_mode=False)
        flush()
    except _KeptError as kept:
        return _report_error(kept.error)
    except BaseException as error:
        return _report_error(error)
    return code if isinstance(code, int) else 0


def _report_error(error: BaseException) -> int:
    """Write the message of an exception to stderr; return the exit code."""
    code = _BAD
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else _UNEXPECTED
    elif isinstance(error, KeyboardInterrupt):
        # the arguments say whether the training is saved
        complain("; ".join(["interrupted", *map(str, error.args)]))
        code = _INTERRUPTED
    elif isinstance(error, BrokenPipeError) and error.filename is None:
        # as in `mdcm plan ... | head`
        silence(sys.stdout)
        code = _READER_LEFT
    elif isinstance(error, _UsageError):
        # the message quotes the arguments, which may hold control characters
        error.message = printable(error.message, lines=False)
        with contextlib.suppress(OSError, ValueError):
            error.show()
    elif isinstance(error, MdcmError):
        complain(f"error: {error}")
        code = _NO if isinstance(error, _ANSWER_IS_NO) else _BAD
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        complain(f"error: {where}{error.strerror or error}")
    elif isinstance(error, MemoryError):
        complain("error: out of memory")
    else:
        complain(_unexpected(error))
        code = _UNEXPECTED
    try:
        # results written before the error
        flush()
    except OSError:
        silence(sys.stdout)
    return code


def _unexpected(error: BaseException) -> str:
    """Message for an unexpected error; writes the traceback to a file."""
    from mdcm import __version__

    text = " ".join(f"{type(error).__name__}: {error}".split())
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    head = f"mdcm {__version__}, Python {platform.python_version()}, {platform.platform()}\n{sys.argv!r}\n\n"
    try:
        handle, file = tempfile.mkstemp(prefix="mdcm-error-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(head + "".join(traceback.format_exception(error)))
    except OSError as failed:
        where = f"the traceback could not be written ({failed.strerror}); TMPDIR names a directory for it"
    else:
        where = f"the traceback is in {file}"
    return f"error: unexpected, a bug in mdcm: {text}; {where}"


@contextlib.contextmanager
def _standard_streams() -> Iterator[None]:
    """Replace closed standard streams, and escape characters that the terminal cannot encode."""
    with contextlib.ExitStack() as stack:
        for number in (0, 1, 2):
            try:
                os.fstat(number)
            except OSError:
                # otherwise the next opened file would get this descriptor and receive output meant for the stream
                os.open(os.devnull, os.O_RDWR)
        if sys.stderr is None:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                # characters that the terminal cannot show are written as escapes
                stream.reconfigure(errors="backslashreplace")
        yield


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """Turn signals that end a process into SystemExit, so that it cleans up and leaves no partial files.

    An ignored signal stays ignored; a second signal ends the process at once.
    """
    former: dict[int, Any] = {}

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        # exit code of the shell for a process ended by a signal
        raise SystemExit(128 + number)

    if threading.current_thread() is threading.main_thread():
        for name in _TERMINATING:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                former[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
