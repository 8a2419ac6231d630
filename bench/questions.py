"""Questions of effects to families of graphs, and their decisions by the textbook recursion, written plainly."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from graphs import Adjacency, Pair, RandomGraph

from mdcm.graph import ADMG

__all__ = [
    "Problem",
    "Question",
    "chain",
    "decide",
    "factors",
    "graph_of",
    "nested",
    "random_graph",
    "random_problem",
    "reach",
]

QUERIES = 5


@dataclass(frozen=True)
class Question:
    """P(y | do(x), z), nodes as numbers; names are those of the graph."""

    y: tuple[int, ...]
    x: tuple[int, ...]
    z: tuple[int, ...] = ()

    def text(self) -> str:
        y, x, z = (", ".join(f"v{v}" for v in part) for part in (self.y, self.x, self.z))
        return f"P({y} | do({x}){', ' if z else ''}{z})"


@dataclass(frozen=True)
class Problem:
    """A graph and what is asked of it; ``known`` are the answers where the plain recursion would take too long."""

    family: str
    graph: RandomGraph
    questions: list[Question]
    known: list[bool] | None = None

    def admg(self) -> ADMG:
        ends = [
            np.array(pairs, dtype=np.int32).reshape(-1, 2).T for pairs in (self.graph.directed, self.graph.bidirected)
        ]
        return ADMG.from_edge_index(self.graph.names, *ends)

    def truths(self) -> list[bool]:
        return self.known or [decide(self.graph, question) for question in self.questions]


# ---- the decision, plainly


def decide(graph: RandomGraph, question: Question) -> bool:
    """IDC, then Tian's recursion, as in the papers: with sets, and nothing saved."""
    x, z = set(question.x), set(question.z)
    while moved := {v for v in z if _rule2(graph, set(question.y), v, x, z - {v})}:
        x, z = x | {min(moved)}, z - {min(moved)}
    adjacency = Adjacency(graph)
    y = set(question.y) | z
    above = reach(y, adjacency.parents, set(range(graph.n)))
    relevant = reach(y, adjacency.parents, above - x)
    # every c-component once, by all of its members
    wholes = {v: whole for whole in _parts(above, adjacency.siblings) for v in whole}
    for factor in _parts(relevant, adjacency.siblings):
        current = wholes[next(iter(factor))]
        while True:
            up = reach(factor, adjacency.parents, current)
            if up == factor:
                break
            if up == current:
                return False
            current = reach(factor, adjacency.siblings, up)
    return True


def _parts(nodes: set[int], siblings: Sequence[Sequence[int]]) -> list[set[int]]:
    found: list[set[int]] = []
    seen: set[int] = set()
    for v in sorted(nodes):
        if v not in seen:
            found.append(reach({v}, siblings, nodes))
            seen |= found[-1]
    return found


def reach(start: set[int], neighbours: Sequence[Sequence[int]], inside: set[int]) -> set[int]:
    found, open_ = set(start), list(start)
    while open_:
        for w in neighbours[open_.pop()]:
            if w in inside and w not in found:
                found.add(w)
                open_.append(w)
    return found


def _rule2(graph: RandomGraph, y: set[int], moved: int, x: set[int], rest: set[int]) -> bool:
    directed = [(a, b) for a, b in graph.directed if b not in x and a != moved]
    bidirected = [pair for pair in graph.bidirected if not x.intersection(pair)]
    cut = RandomGraph(graph.n, graph.density, graph.seed, graph.names, directed, bidirected)
    return y.isdisjoint(Adjacency(cut).connected([moved], x | rest))


# ---- graphs


def graph_of(n: int, directed: Iterable[Pair], bidirected: Iterable[Pair], seed: int = 0) -> RandomGraph:
    arcs = list(directed)
    return RandomGraph(n, len(arcs) / n, seed, [f"v{i}" for i in range(n)], arcs, list(bidirected))


def random_graph(n: int, density: float, pairs: str, seed: int) -> RandomGraph:
    """As in graphs.py, but for the number of bidirected edges; "arcs" confounds half of all arcs."""
    rng = random.Random(f"{n} {density} {pairs} {seed}")
    order = rng.sample(range(n), n)

    def draw(count: int) -> list[Pair]:
        found: dict[Pair, None] = {}
        count = min(count, n * (n - 1) // 2)
        while len(found) < count:
            a, b = sorted(rng.sample(range(n), 2))
            found[order[a], order[b]] = None
        return list(found)

    arcs = draw(int(density * n))
    if pairs == "arcs":
        return graph_of(n, arcs, rng.sample(arcs, len(arcs) // 2), seed)
    return graph_of(n, arcs, draw({"n/3": n // 3, "0.8 n": 4 * n // 5}[pairs]), seed)


def questions_below(graph: RandomGraph, count: int, conditions: int = 0) -> list[Question]:
    """x at random among nodes with descendants, y among those, conditions anywhere else."""
    rng = graph.generator("queries")
    children = Adjacency(graph).children
    everything = set(range(graph.n))
    found: list[Question] = []
    while len(found) < count:
        x = rng.randrange(graph.n)
        below = sorted(reach({x}, children, everything) - {x})
        if below:
            y = rng.choice(below)
            z = rng.sample(sorted(everything - {x, y}), conditions)
            found.append(Question((y,), (x,), tuple(z)))
    return found


def random_problem(n: int, density: float, pairs: str, seed: int = 0, conditions: int = 0) -> Problem:
    graph = random_graph(n, density, pairs, seed)
    name = (
        f"random, {density:g} n arcs, {'half of them confounded' if pairs == 'arcs' else f'{pairs} confounded pairs'}"
    )
    return Problem(name, graph, questions_below(graph, QUERIES if n <= 1_000 else 3, conditions))


def chain(n: int, step: int | None) -> Problem:
    """v_0 -> v_1 -> ..., every v_i <-> v_(i + step)."""
    pairs = [] if step is None else [(i, i + step) for i in range(n - step)]
    name = "chain" if step is None else f"chain, v_i <-> v_(i+{step})"
    return Problem(name, graph_of(n, [(i, i + 1) for i in range(n - 1)], pairs), [Question((n - 1,), (0,))])


def nested(n: int, *, hedge: bool) -> Problem:
    """Every round of "ancestors, then c-component" takes away two nodes, and the next two matter only then.

    Inside the c-component, a_1 has no way to x, for w is not in it; without a_1, b_1 is not in it either; b_1 was the
    only way from a_2 to x; and so on. x itself hangs on y, which makes a hedge of the last two, or on the last a.
    """
    depth = (n - 3) // 2
    y, x, w = 0, 1, 2
    a = [3 + 2 * i for i in range(depth)]
    b = [4 + 2 * i for i in range(depth)]
    arcs = [(x, y), (w, x), (a[0], w), *((v, x) for v in b), *zip(a[1:], b[:-1], strict=True)]
    pairs = [*((v, y) for v in a), *zip(a, b, strict=True), (x, y if hedge else a[-1])]
    name = f"nested, {'a hedge of two nodes' if hedge else 'identifiable'} after n/2 rounds"
    return Problem(name, graph_of(2 * depth + 3, arcs, pairs), [Question((y,), (x,))], [not hedge])


def factors(n: int, *, hedge: bool) -> Problem:
    """One c-component that falls into n factors without x, each with the whole of it to start from.

    The effect of x on the chain goes through s, which is not in the c-component; with an arc from x to the last node
    of the chain, that node's factor is the only one that has a hedge.
    """
    x, s, y = 0, 1, n - 1
    arcs = [(x, s), *((v, v + 1) for v in range(1, n - 1)), *([(x, y)] if hedge else [])]
    name = f"n factors of one c-component, {'the last one with a hedge' if hedge else 'identifiable'}"
    return Problem(name, graph_of(n, arcs, [(x, v) for v in range(2, n)]), [Question((y,), (x,))], [not hedge])
