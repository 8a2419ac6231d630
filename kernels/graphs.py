"""Steps that a device is told once and then repeats: CUDA graphs.

A step of a small model is some hundred launches, and starting them takes longer than what they do. A graph is started
as one. It repeats the very launches that were captured: on the same memory, with the numbers that were in Python then.
So a step that can be captured reads and writes tensors that stay where they are, takes what changes from step to step
(its number, rates, noise) from the device, and never asks the device for a value.
"""

from __future__ import annotations

import inspect
import os
import warnings
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Clock", "Repeated", "capture", "possible"]


def possible(device: torch.device) -> bool:
    """Whether steps on a device can be captured, so that they must be written for it."""
    return device.type == "cuda"


class Clock:
    """Number of a training step, and the rates that belong to it, on the device: a captured step reads them there.

    Args:
        rates: Rates of every step, the first of number 1.
        device: Where they lie.
        dtype: Of the rates.

    Attributes:
        number: Number of the step that was begun last, int64 ``[1]``.

    Example:
        >>> clock = Clock([(0.5, 1.0), (0.25, 2.0)], torch.device("cpu"), torch.float64)
        >>> clock.set(1)
        >>> clock.tick().tolist(), clock.number.tolist()
        ([0.25, 2.0], [2])
    """

    def __init__(self, rates: Sequence[Sequence[float]], device: torch.device, dtype: torch.dtype) -> None:
        self.number = torch.zeros(1, dtype=torch.int64, device=device)
        self._rates = torch.tensor(rates, device=device, dtype=dtype)
        self._done = 0

    def set(self, done: int, count: int = 0) -> None:
        """So many steps are done, and so many more are about to be taken."""
        if done != self._done:
            self.number.fill_(done)
        self._done = done + count

    def tick(self) -> Tensor:
        """Begin the next step: its rates."""
        found = self._rates.index_select(0, self.number)[0]
        self.number += 1
        return found


def capture(body: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """What repeats an operation, which is not run now.

    Args:
        body: The operation; it has run before, on another stream than the default one.
        device: Where it runs.

    Raises:
        RuntimeError: If it does what cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    # other threads may use the device meanwhile
    with torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        body()
    return graph.replay


class Repeated:
    """A step that is taken many times; where that is possible, several times at once as a captured graph.

    The environment variable ``MDCM_GRAPHS`` decides: ``auto``, the default, captures on a CUDA device; ``off`` starts
    every step by itself, with the same results. The first steps are taken so in any case, because what is captured must
    have been compiled.

    Args:
        body: One step, given its number among those that are taken at once, from 0. See the module for what it may do.
            The object of a bound method must outlive this.
        device: Where it runs.
        together: Steps in one graph.

    Raises:
        ValueError: If ``MDCM_GRAPHS`` is something else.

    Warns:
        RuntimeWarning: If the device refuses to capture the step; steps are then started one by one.

    Example:
        >>> count = torch.zeros(2, dtype=torch.int64)
        >>> def body(number):
        ...     count[number] += 1
        >>> Repeated(body, torch.device("cpu"), together=2)(2)
        >>> count.tolist()
        [1, 1]
    """

    def __init__(self, body: Callable[[int], None], device: torch.device, together: int = 10) -> None:
        asked = os.environ.get("MDCM_GRAPHS", "auto")
        if asked not in ("auto", "off"):
            raise ValueError(f"MDCM_GRAPHS must be auto or off, not {asked!r}")
        self.together = together if asked == "auto" and possible(device) else 1
        # a method whose object owns this, which as a cycle would hold the graph's memory until the collector comes by
        self._body = weakref.WeakMethod(body) if inspect.ismethod(body) else lambda: body
        self._device = device
        self._warm = False
        self._replay: Callable[[], None] | None = None

    def __call__(self, count: int) -> None:
        """Take so many steps, at most ``together``."""
        if self.together == 1 or count != self.together:
            self._each(count)
        elif self._replay is not None:
            self._replay()
        elif not self._warm:
            self._aside(count)
            self._warm = True
        else:
            self._capture()
            self(count)

    def _each(self, count: int) -> None:
        body = self._body()
        assert body is not None, "the object whose method is a step must outlive it"
        for number in range(count):
            body(number)

    def _aside(self, count: int) -> None:
        """Take steps on a stream of their own, as a capture does: some libraries keep memory for each stream."""
        if self._device.type != "cuda":
            self._each(count)
            return
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            self._each(count)
        torch.cuda.current_stream(self._device).wait_stream(stream)

    def _capture(self) -> None:
        try:
            self._replay = capture(lambda: self._each(self.together), self._device)
        except RuntimeError as error:
            self.together = 1
            warnings.warn(
                f"a training step could not be captured as a CUDA graph, so that steps are started one by one, which "
                f"is slower ({error}); MDCM_GRAPHS=off avoids the attempt",
                RuntimeWarning,
                stacklevel=2,
            )
