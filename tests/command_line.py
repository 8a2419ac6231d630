"""Running the command ``mdcm`` as a person would, in this process or in one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mdcm.cli.app import main


@dataclass(frozen=True)
class Result:
    """What is left of a command: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    def __post_init__(self):
        assert "Traceback" not in self.err + self.out, self.err
        assert "\x1b" not in self.err + self.out, "colours, but there is no terminal"


def call(*arguments: object) -> Result:
    """``mdcm ARGUMENTS`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            return Result(ended.code or 0, out.getvalue(), err.getvalue())
    raise AssertionError("main must end with SystemExit")


def process(*arguments: object, python: tuple[str, ...] = (), **environment: str) -> Result:
    """``mdcm ARGUMENTS`` in a process of its own; ``python`` stands in for ``-m mdcm.cli``."""
    done = subprocess.run(
        [sys.executable, *(python or ("-m", "mdcm.cli")), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    return Result(done.returncode, done.stdout, done.stderr)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT interrupts this process and those that it starts, also where the tests themselves ignore it.

    They ignore it as a background job of a script, and the end of a session under ``nohup``; processes inherit both.
    """
    former = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ending(started: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """A process that ends with the block, also where the block fails or a signal does not reach it."""
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def succeed(*arguments: object) -> Result:
    """:func:`call`, which must end with 0."""
    result = call(*arguments)
    assert result.code == 0, result.err
    return result


def fail(code: int, *arguments: object) -> str:
    """Stderr of :func:`call`, which must end with the code and leave stdout empty."""
    result = call(*arguments)
    assert (result.code, result.out) == (code, ""), result
    return result.err
