"""One large graph, built and planned in this process; prints what it took as JSON.

    python bench/large.py FAMILY NODES ARCS

It loads nothing but the graph half of mdcm, so that the largest memory of the process is that of the graph.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mdcm import _core, plan
from mdcm.graph import ADMG

__all__ = ["FAMILIES", "measure", "random_edges"]

Ends = NDArray[np.int32]


def _distinct(pairs: Ends) -> Ends:
    """Rows of pairs without loops, each pair ascending and once, as two rows of ends."""
    pairs = np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1)
    return np.unique(pairs, axis=0).T.astype(np.int32)


def random_edges(n: int, arcs: int, seed: int) -> tuple[Ends, Ends]:
    """Uniform pairs along a random order, and a third as many confounders as nodes."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(n).astype(np.int32)
    directed, bidirected = (_distinct(rng.integers(0, n, (count, 2))) for count in (arcs, n // 3))
    return order[directed], order[bidirected]


def local_edges(n: int, arcs: int, seed: int) -> tuple[Ends, Ends]:
    """All edges within 20 positions, as in a long process."""
    rng = np.random.default_rng(seed)

    def near(count: int) -> Ends:
        first = rng.integers(0, n, count)
        second = first + rng.integers(1, 21, count)
        return _distinct(np.stack([first, second], 1)[second < n])

    return near(arcs), near(n // 3)


def nested_edges(n: int, arcs: int, seed: int) -> tuple[Ends, Ends]:
    """A chain with a confounder of v_i and v_(n-i) for every i: the sets A together are quadratic."""
    steps = np.arange(n - 1, dtype=np.int32)
    half = np.arange((n - 1) // 2, dtype=np.int32)
    return np.stack([steps, steps + 1]), np.stack([half, n - 1 - half]).astype(np.int32)


FAMILIES: dict[str, Callable[[int, int, int], tuple[Ends, Ends]]] = {
    "random": random_edges,
    "local": local_edges,
    "nested": nested_edges,
}


def memory(which: str) -> float:
    """Memory of this process in MB: ``VmRSS`` now, ``VmHWM`` at most since its mark was reset (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(which))


def measure(family: str, n: int, arcs: int) -> dict[str, float]:
    """One graph, built and planned in this process."""

    directed, bidirected = FAMILIES[family](n, arcs, 0)
    names = [f"v{i}" for i in range(n)]
    before = memory("VmRSS")
    # what was used to draw the edges shall not count
    Path("/proc/self/clear_refs").write_text("5")
    began = time.process_time()
    graph = ADMG.from_edge_index(names, directed, bidirected)
    built = time.process_time()
    made = plan(graph, objective="adversarial")
    planned = time.process_time()
    after = memory("VmHWM")
    # outside the clock: how large all sets A are together, and how many contractions were needed
    training = np.ones(int(graph.compiled.c_components().max()) + 1, dtype=np.uint8)
    group: _core.DatasetGroup = {"targets": [], "columns": None, "domain": [], "boxes": [[]], "rows": -1}
    hgraph = _core.HGraph(graph.compiled, graph.compiled.c_components(), training, [group])
    order = np.argsort(hgraph.labels, kind="stable").astype(np.int32)
    bounds = np.searchsorted(hgraph.labels[order], np.arange(len(hgraph) + 1))
    closure = _core.ModularityClosure(graph.compiled)
    total = sum(len(closure.run(order[a:b])) for a, b in itertools.pairwise(bounds))
    return {
        "edges": float(directed.shape[1] + bidirected.shape[1]),
        "build": built - began,
        "plan": planned - built,
        "memory": after - before,
        "rounds": float(hgraph.rounds),
        "ancestors": float(total),
        "hnodes": float(len(made)),
        "largest": float(made.largest),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
