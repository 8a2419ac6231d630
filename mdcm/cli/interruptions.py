"""Messages of interrupted commands: whether the training is saved, and how to resume it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdcm.cli.console import complain

__all__ = ["saying_nothing_is_saved", "saying_what_is_saved"]

# larger exit codes are those of signals
_SIGNALS = 128


@contextlib.contextmanager
def saying_what_is_saved(run: Path, *, force: bool) -> Iterator[None]:
    """Add to an interruption whether the training is saved in a run directory, and how to resume it.

    Args:
        run: The directory.
        force: Whether the command has ``--force``, so that an earlier training in the directory is not this one.

    Raises:
        KeyboardInterrupt: With the message, if the user pressed Ctrl-C; for other signals it is written to stderr.
    """
    from mdcm.storage.run_directory import ENSEMBLE, checkpoint_names

    def checkpoints() -> list[str]:
        return [*checkpoint_names(run), *checkpoint_names(run / ENSEMBLE)]

    before = _stamp(run), checkpoints()
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        saved = checkpoints()
        how = "the same command with --resume" + (" instead of --force" if force else "") + " goes on"
        if saved and not (force and saved == before[1]):
            text = f"what was done is saved in {run}, and {how}"
        elif _stamp(run) != before[0]:
            text = f"the trained model is saved in {run}, and {how}"
        else:
            text = "nothing was saved" + (f", and what was in {run} is as it was" if any(before) else "")
        _raise_with(error, text)


@contextlib.contextmanager
def saying_nothing_is_saved() -> Iterator[None]:
    """Add to an interruption that nothing was saved.

    Raises:
        KeyboardInterrupt: With the message, if the user pressed Ctrl-C; for other signals it is written to stderr.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        _raise_with(error, "nothing was saved")


def _raise_with(error: BaseException, text: str) -> None:
    """Raise an interruption again, with a message."""
    if isinstance(error, KeyboardInterrupt):
        raise KeyboardInterrupt(text) from error
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > _SIGNALS:
        complain(f"terminated; {text}")
    raise error


def _stamp(run: Path) -> Any:
    """Inode and time of the saved model, which change when it is saved; None if there is none."""
    from mdcm.storage.run_directory import MODEL

    with contextlib.suppress(OSError, ValueError):
        status = os.lstat(run / MODEL)
        return status.st_ino, status.st_mtime_ns
    return None
