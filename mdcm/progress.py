"""Progress bars on a terminal: for training, for items, and for the stages of a longer task."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)

from mdcm.text.printable import printable

__all__ = ["Stages", "bars", "counted", "is_terminal"]

T = TypeVar("T")

_LONGEST_NAME = 28
# finished bars that stay visible; a plan may have thousands of h-nodes
_MOST_FINISHED = 8


class _Bars:
    """A progress bar per h-node; old bars are removed."""

    def __init__(self, display: Progress) -> None:
        self._display = display
        self._tasks: dict[tuple[str, ...], TaskID] = {}
        self._finished: deque[TaskID] = deque()

    def start(self, hnode: tuple[str, ...], steps: int) -> None:
        if hnode in self._tasks:
            # training has restarted
            self._display.reset(self._tasks[hnode], total=steps)
        else:
            self._tasks[hnode] = self._display.add_task(_label(hnode), total=steps)

    def step(self, hnode: tuple[str, ...], step: int) -> None:
        self._display.update(self._tasks[hnode], completed=step)

    def finish(self, hnode: tuple[str, ...]) -> None:
        task = self._tasks.pop(hnode)
        done = self._display.tasks[self._display.task_ids.index(task)].completed
        # training may stop before the last step, and a bar that never fills looks like a failure
        self._display.update(task, total=max(done, 1), completed=max(done, 1))
        self._finished.append(task)
        if len(self._finished) > _MOST_FINISHED:
            self._display.remove_task(self._finished.popleft())


def _label(hnode: Sequence[str]) -> str:
    names = printable(", ".join(hnode), lines=False)
    return f"{{{names}}}" if len(names) <= _LONGEST_NAME else f"{{{names[:_LONGEST_NAME]}…}} ({len(hnode)})"


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream exists, is open, and is a terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


@contextmanager
def bars(stream: TextIO | None) -> Iterator[_Bars]:
    """Progress bars with steps and remaining time; hidden if the stream is not a terminal."""
    display = Progress(
        TextColumn("training {task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(file=stream),
        disable=not is_terminal(stream),
    )
    with display:
        yield _Bars(display)


def counted(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Iterate over items, with a progress bar if stderr is a terminal.

    Args:
        items: The items.
        total: Approximate number of items.
        what: Description of the task.
    """
    console = Console(stderr=True)
    return iter(
        track(
            items,
            escape(printable(what, lines=False)),
            total=total,
            console=console,
            transient=True,
            disable=not is_terminal(sys.stderr),
        )
    )


class Stages:
    """Timer for the stages of a task, with a progress bar that shows the current stage.

    Args:
        shown: Whether to show the bar, if stderr is a terminal.

    Attributes:
        seconds: Wall-clock time by stage, in order of occurrence.
    """

    def __init__(self, shown: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self._shown = shown and is_terminal(sys.stderr)
        self._display: Any = None
        self._task: Any = None
        self._expected = 0

    def expect(self, count: int) -> None:
        """Add to the number of expected stages."""
        self._expected += count
        if self._display is not None:
            self._display.update(self._task, total=self._expected)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Show the bar inside the block."""
        if not self._shown:
            yield
            return
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as display:
            self._display = display
            self._task = display.add_task("", total=max(self._expected, 1))
            try:
                yield
            finally:
                self._display = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; times of stages with the same name are added."""
        if self._display is not None:
            self._display.update(self._task, description=printable(name, lines=False))
        began = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - began, 3)
        if self._display is not None:
            self._display.advance(self._task)
