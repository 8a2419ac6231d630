"""Plans of large graphs: against a plain twin in Python, and how time and memory grow up to a million nodes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from large import random_edges
from workloads import Measured, NotEqualError

from mdcm import plan
from mdcm.graph import ADMG

__all__ = ["PLANS"]

TURNS = 5


def _child(family: str, n: int, arcs: int) -> dict[str, float]:
    """:func:`large.measure` in a process of its own, whose memory nothing else has grown."""
    command = [sys.executable, str(Path(__file__).resolve().parent / "large.py"), family, str(n), str(arcs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


# family, nodes, arcs per node, and how much smaller the graph is that shows how time and memory grow
LARGE = (("random", 1_000_000, 3, 10), ("local", 1_000_000, 3, 10), ("nested", 10_000, 1, 4))


def _large() -> Iterator[Measured]:
    for family, n, density, factor in (
        ("random", 1_000_000, 3, 10),
        ("local", 1_000_000, 3, 10),
        ("nested", 10_000, 1, 4),
    ):
        large, small = _child(family, n, density * n), _child(family, n // factor, density * n // factor)
        size = (
            f"{family}, {n:,} nodes and {int(large['edges']):,} edges: {int(large['hnodes']):,} h-nodes, at most "
            f"{int(large['largest']):,} trained together, {int(large['rounds'])} rounds, {int(large['ancestors']):,} "
            "members of all A"
        )
        less = f"{factor} times as with 1/{factor} of the nodes"
        # memory that is linear grows by the factor, give or take what the allocator rounds
        for key, what, bar in (
            ("build", "CPU s to build", None),
            ("plan", "CPU s to plan", None),
            ("memory", "MB", 1.5),
        ):
            yield Measured(
                "plan-large", size, "0", f"{what}, {less}", [large[key]], [factor * max(small[key], 1e-3)], bar
            )


def _against_twin() -> Iterator[Measured]:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    import oracles

    n = 1_000
    for density in (1.5, 3.0):
        directed, bidirected = random_edges(n, int(density * n), 0)
        graph = ADMG.from_edge_index([f"v{i}" for i in range(n)], directed, bidirected)
        pairs = frozenset(frozenset(pair) for pair in graph.bidirected)
        plain = oracles.Mixed(graph.nodes, frozenset(graph.directed), pairs)
        began = time.process_time()
        parts, edges = oracles.plan_adversarial(plain)
        theirs = time.process_time() - began
        made = plan(graph, objective="adversarial")
        found = {(frozenset(made.hnodes[s].variables), frozenset(made.hnodes[t].variables)) for s, t in made.edges}
        if {frozenset(hnode.variables) for hnode in made.hnodes} != parts or found != edges:
            raise NotEqualError("the plan and its plain twin differ")
        ours = []
        for _ in range(TURNS):
            began = time.process_time()
            for _ in range(20):
                plan(graph, objective="adversarial")
            ours.append((time.process_time() - began) / 20)
        size = f"{n:,} nodes, {directed.shape[1]:,} directed and {bidirected.shape[1]:,} bidirected edges"
        yield Measured("plan", size, "0", "CPU s, plain twin in Python", ours, [theirs], 0.001)


PLANS: dict[str, Callable[[], Iterator[Measured]]] = {"plan": _against_twin, "plan-large": _large}
