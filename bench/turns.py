"""Many ways to compute one thing: each first held against a baseline, then all timed in turns.

On a GPU a time is wall clock from an idle device to an idle device, starting of operations included; on the CPU it is
CPU time of one thread. A table of cells stops when the time that it was given is used up, and says what it left out.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from workloads import Measured

__all__ = [
    "DEVICE",
    "ON_GPU",
    "UNIT",
    "Cell",
    "Run",
    "captured",
    "compiled",
    "form",
    "timed_cells",
    "times_of",
    "under",
]

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
UNIT = "GPU ms" if ON_GPU else "CPU ms"
TURNS = 5
SECONDS_PER_TURN = 0.03

Run = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Cell:
    """One problem, and the ways to solve it.

    Attributes:
        name: Name of the workload.
        size: The problem in words.
        baseline: Name of the side that the others are measured against.
        sides: What makes each side ready to run, by its name; a run returns what is compared.
        limit: Largest error by the norm that still counts as the same thing.
    """

    name: str
    size: str
    baseline: str
    sides: dict[str, Callable[[], Run]]
    limit: float


def _clock() -> float:
    if ON_GPU:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def _error(found: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """Largest error by the norm; a truth that vanishes is held against one."""
    errors = []
    for a, b in zip(found, true, strict=True):
        if not bool(torch.isfinite(a).all()):
            return float("inf")
        size = float(b.double().norm())
        errors.append(float((a.double() - b.double()).norm()) / (size if size > 1e-6 else 1.0))
    return max(errors)


def times_of(sides: dict[str, Run]) -> dict[str, list[float]]:
    """Milliseconds per run of each side, one value per turn."""
    calls = {}
    for name, run in sides.items():
        run()
        began = _clock()
        run()
        calls[name] = max(1, min(1000, round(SECONDS_PER_TURN / max(_clock() - began, 1e-6))))
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(TURNS):
        for name, run in sides.items():
            began = _clock()
            for _ in range(calls[name]):
                run()
            times[name].append(1000 * (_clock() - began) / calls[name])
    return times


def _right_sides(cell: Cell) -> dict[str, Run]:
    """The sides that compute what the baseline computes; what is wrong with the others is printed."""
    ready: dict[str, Run] = {}
    true: list[Tensor] = []
    for name in sorted(cell.sides, key=lambda one: one != cell.baseline):
        try:
            run = cell.sides[name]()
            found = [one.clone() for one in run()]
        except Exception as error:  # a side that cannot run is a result too
            fault = f"FAILS: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        else:
            true = true or found
            error = _error(found, true)
            if error <= cell.limit:
                ready[name] = run
                continue
            fault = f"is WRONG by {error:.2g} of the norm"
        print(f"{cell.name:18} {cell.size}\n    {name} {fault}; not timed", flush=True)
    return ready


def timed_cells(cells: Iterator[Cell], seconds: float) -> Iterator[Measured]:
    """Every side of every cell against its baseline, until the time is used up."""
    began = time.perf_counter()
    for cell in cells:
        if time.perf_counter() - began > seconds:
            print(f"{cell.name:18} {cell.size}\n    left out: the time is used up", flush=True)
            continue
        times = times_of(_right_sides(cell))
        baseline = times.pop(cell.baseline, None)
        for name, values in times.items() if baseline else ():
            yield Measured(
                cell.name, f"{name}; {cell.size}; against {cell.baseline}", "0", UNIT, values, baseline, None
            )


# ---- forms


@contextlib.contextmanager
def form(kernel: str, precision: str = "ieee") -> Iterator[None]:
    """Which form of an operation runs, and the precision of all matrix products, PyTorch's own too."""
    asked = {"MDCM_KERNELS": kernel, "MDCM_PRECISION": precision}
    before = {name: os.environ.get(name) for name in asked}
    products = torch.get_float32_matmul_precision()
    os.environ.update(asked)
    torch.set_float32_matmul_precision({"tf32": "high", "bf16": "medium"}.get(precision, "highest"))
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def under(run: Run, kernel: str, precision: str = "ieee") -> Callable[[], Run]:
    """A side that runs in one form."""

    def ready() -> Run:
        def once() -> Sequence[Tensor]:
            with form(kernel, precision):
                return run()

        return once

    return ready


def compiled(run: Run, precision: str = "ieee") -> Callable[[], Run]:
    """A side that torch.compile sees through as one graph."""

    def ready() -> Run:
        torch._dynamo.reset()
        whole = torch.compile(run, fullgraph=True)

        def once() -> Sequence[Tensor]:
            with form("reference", precision):
                return whole()

        return once

    return ready


def captured(run: Run, precision: str = "ieee") -> Callable[[], Run]:
    """A side of fused forms, whose launches are captured once and replayed."""

    def ready() -> Run:
        with form("triton", precision):
            # kernels must be compiled before they can be captured
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    run()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                found = run()

        def replay() -> Sequence[Tensor]:
            graph.replay()
            return found

        return replay

    return ready
