"""The graph algorithms against the fastest other libraries, on random ADMGs.

Every comparison is preceded by a check of both sides against a plain search in Python; a peer that is wrong is shown
as such and not timed. Names are text on our side, and on theirs where that is their interface; otherwise numbers.
Graphs are built before the clock starts, except where building is what is measured.

The peers are no requirements of mdcm: the extra ``bench`` names them, and one that is missing is skipped aloud. They
need no place in the environment either:

    pip install --no-deps --target DIRECTORY ciflypy igraph texttable antecedent pyagrum
    PYTHONPATH=DIRECTORY python bench/run.py graphs
"""

from __future__ import annotations

import importlib
import importlib.metadata
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

import networkx as nx
import numpy as np
from workloads import NotEqualError

from mdcm.graph import ADMG

__all__ = ["GRAPHS", "Compared"]

DENSITIES = (1.5, 3.0)
SIZES = (20, 100, 1_000, 20_000, 100_000)
QUERIES = 5

Pair = tuple[int, int]


@dataclass(frozen=True)
class Compared:
    """One operation of ours and the same one of another library.

    Attributes:
        name: Name of the workload.
        size: The problem and the peer with its version, in words.
        seed: Seed of the graph.
        bar: Largest ratio of times, ours to theirs, that is good enough; None where it is only recorded.
        ours: One run of ours.
        peer: One run of theirs.
        fault: Raises NotEqualError unless our answers are right, and says what is wrong with theirs, if anything.
    """

    name: str
    size: str
    seed: int
    bar: float | None
    ours: Callable[[], object]
    peer: Callable[[], object]
    fault: Callable[[], str | None]


# ---- graphs and queries


@dataclass(frozen=True)
class RandomGraph:
    """Distinct uniform pairs, directed along a random order of the nodes; a third as many bidirected ones as nodes."""

    n: int
    density: float
    seed: int
    names: list[str]
    directed: list[Pair]
    bidirected: list[Pair]

    @classmethod
    def draw(cls, n: int, density: float, seed: int) -> RandomGraph:
        rng = random.Random(seed)
        order = rng.sample(range(n), n)

        def pairs(count: int) -> list[Pair]:
            found: dict[Pair, None] = {}
            while len(found) < count:
                a, b = sorted(rng.sample(range(n), 2))
                found[order[a], order[b]] = None
            return list(found)

        return cls(n, density, seed, [f"v{i}" for i in range(n)], pairs(int(density * n)), pairs(n // 3))

    def generator(self, purpose: str) -> random.Random:
        """Numbers of their own for each purpose: drawn from the graph's, they would follow its order."""
        return random.Random(f"{purpose} {self.seed}")

    def named(self, pairs: Iterable[Pair]) -> list[tuple[str, str]]:
        return [(self.names[a], self.names[b]) for a, b in pairs]

    def admg(self) -> ADMG:
        return ADMG(self.names, self.named(self.directed), self.named(self.bidirected))

    def describe(self) -> str:
        return f"{self.n:,} nodes, {len(self.directed):,} directed and {len(self.bidirected):,} bidirected edges"


@dataclass(frozen=True)
class Query:
    """Is x separated from y given z? And the answer."""

    x: list[int]
    y: list[int]
    z: list[int]
    separated: bool


class Adjacency:
    """Neighbours as lists, for the plain searches that both sides are checked against."""

    def __init__(self, graph: RandomGraph) -> None:
        self.parents: list[list[int]] = [[] for _ in range(graph.n)]
        self.children: list[list[int]] = [[] for _ in range(graph.n)]
        self.siblings: list[list[int]] = [[] for _ in range(graph.n)]
        for a, b in graph.directed:
            self.children[a].append(b)
            self.parents[b].append(a)
        for a, b in graph.bidirected:
            self.siblings[a].append(b)
            self.siblings[b].append(a)

    def connected(self, x: Iterable[int], z: set[int]) -> set[int]:
        """Every node that some walk from x reaches that z leaves open."""
        seen: set[tuple[int, bool]] = set()
        open_ = [(v, False) for v in x]
        while open_:
            state = open_.pop()
            if state in seen:
                continue
            seen.add(state)
            v, at_head = state
            # a collider passes a walk on when it is given, every other node when it is not
            if at_head == (v in z):
                open_ += [(p, False) for p in self.parents[v]]
                open_ += [(s, True) for s in self.siblings[v]]
            if v not in z:
                open_ += [(c, True) for c in self.children[v]]
        return {v for v, _ in seen}


def draw_queries(graph: RandomGraph) -> tuple[list[Query], str]:
    """Queries whose answer is yes, so that no search may stop early, as many whose answer is no, and their sizes.

    x and z are drawn first, y from what they do not connect (or do). A graph of 20 nodes has few such queries of full
    size; where none is found, as in a dense one, the sets are smaller.
    """
    adjacency = Adjacency(graph)
    rng = graph.generator("queries")
    for x_size, y_size, z_size in ((5, 5, 10), (2, 2, 4), (1, 1, 2)):
        found: list[Query] = []
        for _ in range(50_000 if graph.n <= 100 else QUERIES):
            drawn = rng.sample(range(graph.n), x_size + z_size)
            x, z = drawn[:x_size], drawn[x_size:]
            reached = adjacency.connected(x, set(z))
            inside = sorted(reached.difference(drawn))
            outside = sorted(set(range(graph.n)) - reached.union(drawn))
            if len(outside) < y_size:
                continue
            found.append(Query(x, rng.sample(outside, y_size), z, True))
            if inside:
                found.append(Query(x, rng.sample(inside, min(y_size, len(inside))), z, False))
            if sum(query.separated for query in found) == QUERIES:
                break
        count = sum(query.separated for query in found)
        if count:
            return found, f"{count} queries of {x_size}/{y_size}/{z_size}"
    raise RuntimeError(f"no separated queries in {graph.describe()}")


# ---- peers


class MissingPeerError(Exception):
    """The other library is not installed."""


def _peer(module: str) -> tuple[ModuleType, str]:
    try:
        return importlib.import_module(module), f"{module} {importlib.metadata.version(module)}"
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        raise MissingPeerError(f"{module} is skipped: {error}") from error


# the first row that matches an arriving and a leaving edge decides: between two arrowheads a node passes a walk on when
# it is given, and otherwise when it is not
_CIFLY_RULES = """
EDGES --> <--, <->
SETS X, Z
START <-- AT X
OUTPUT ...
-->, <-> | <--, <-> | current in Z
... | ... | current not in Z
"""

Separated = Callable[[Query], bool]


def _cifly_separation(graph: RandomGraph) -> tuple[Separated, str]:
    cifly, version = _peer("ciflypy")
    rules = cifly.Ruletable(_CIFLY_RULES, table_as_string=True)
    built = cifly.Graph({"-->": graph.directed, "<->": graph.bidirected}, rules)
    reach = cifly.reach
    return lambda query: set(query.y).isdisjoint(reach(built, {"X": query.x, "Z": query.z}, rules)), version


def _pyagrum_separation(graph: RandomGraph) -> tuple[Separated, str]:
    gum, version = _peer("pyagrum")
    dag = gum.DAG()
    dag.addNodes(graph.n + len(graph.bidirected))
    for a, b in graph.directed:
        dag.addArc(a, b)
    for latent, pair in enumerate(graph.bidirected, start=graph.n):
        for end in pair:
            dag.addArc(latent, end)
    return lambda query: dag.dSeparation(query.x, query.y, query.z), f"{version}, latents as nodes"


# ---- workloads


def _m_separation() -> Iterator[Compared | str]:
    for density in DENSITIES:
        for n in SIZES:
            graph = RandomGraph.draw(n, density, seed=n)
            queries, sizes = draw_queries(graph)
            for make in (_cifly_separation, _pyagrum_separation):
                try:
                    theirs, version = make(graph)
                except MissingPeerError as missing:
                    yield str(missing)
                    continue
                for way, ours in (("names", _by_name(graph)), ("int32 arrays", _by_number(graph))):
                    # the bar is for names, against the fastest peer
                    bar = 0.5 if density == max(DENSITIES) and n >= 1_000 else 1.0
                    yield _separation(
                        f"{graph.describe()}, {sizes} {way}, separated, against {version}",
                        graph.seed,
                        bar if way == "names" and make is _cifly_separation else None,
                        queries,
                        ours,
                        theirs,
                    )


def _by_name(graph: RandomGraph) -> Callable[[Query], Callable[[], bool]]:
    admg = graph.admg()

    def prepare(query: Query) -> Callable[[], bool]:
        x, y, z = ([graph.names[v] for v in group] for group in (query.x, query.y, query.z))
        return lambda: admg.m_separated(x, y, z)

    return prepare


def _by_number(graph: RandomGraph) -> Callable[[Query], Callable[[], bool]]:
    core = graph.admg()._core

    def prepare(query: Query) -> Callable[[], bool]:
        x, y, z = (np.array(group, dtype=np.int32) for group in (query.x, query.y, query.z))
        return lambda: core.m_separated(x, y, z)

    return prepare


def _separation(
    size: str,
    seed: int,
    bar: float | None,
    queries: Sequence[Query],
    ours: Callable[[Query], Callable[[], bool]],
    theirs: Separated,
) -> Compared:
    prepared = [(ours(query), query) for query in queries]
    asked = [(ask, query) for ask, query in prepared if query.separated]

    def fault() -> str | None:
        for ask, query in prepared:
            if ask() != query.separated:
                raise NotEqualError(f"m_separated({query.x}, {query.y}, {query.z}) is {query.separated}")
        wrong = sum(theirs(query) != query.separated for query in queries)
        return f"{wrong} of {len(queries)} answers" if wrong else None

    return Compared(
        "m_separated",
        size,
        seed,
        bar,
        lambda: [ask() for ask, _ in asked],
        lambda: [theirs(query) for _, query in asked],
        fault,
    )


def _partition(labels: Iterable[int]) -> list[int]:
    """The same partition, its parts numbered in order of appearance."""
    number: dict[int, int] = {}
    return [number.setdefault(label, len(number)) for label in labels]


def _c_components() -> Iterator[Compared | str]:
    try:
        igraph, version = _peer("igraph")
    except MissingPeerError as missing:
        yield str(missing)
        return
    for n in SIZES:
        graph = RandomGraph.draw(n, min(DENSITIES), seed=n)
        core = graph.admg()._core
        other = igraph.Graph(n=n, edges=graph.bidirected, directed=False)

        def labels(other: object = other) -> list[int]:
            return other.connected_components(mode="weak").membership

        def fault(
            graph: RandomGraph = graph, core: object = core, labels: Callable[[], list[int]] = labels
        ) -> str | None:
            adjacency = Adjacency(graph)
            truth = [-1] * graph.n
            for root in range(graph.n):
                open_ = [root]
                while open_:
                    v = open_.pop()
                    if truth[v] < 0:
                        truth[v] = root
                        open_ += adjacency.siblings[v]
            if _partition(core.c_components().tolist()) != _partition(truth):
                raise NotEqualError("c_components")
            return None if _partition(labels()) == _partition(truth) else "another partition"

        yield Compared(
            "c_components",
            f"{graph.describe()}, label array, against {version} on the bidirected part",
            graph.seed,
            1.0,
            core.c_components,
            labels,
            fault,
        )


NamedPairs = tuple[Sequence[tuple[str, str]], Sequence[tuple[str, str]]]
NamedEdges = tuple[set[tuple[str, str]], set[frozenset[str]]]


def _project(graph: RandomGraph, observed: set[int]) -> NamedEdges:
    """Latent projection of the directed part, hidden node by hidden node."""
    adjacency = Adjacency(graph)

    def below(v: int) -> set[int]:
        found: set[int] = set()
        seen: set[int] = set()
        open_ = list(adjacency.children[v])
        while open_:
            c = open_.pop()
            if c in observed:
                found.add(c)
            elif c not in seen:
                seen.add(c)
                open_ += adjacency.children[c]
        return found

    names = graph.names
    directed = {(names[v], names[c]) for v in observed for c in below(v)}
    pairs: set[frozenset[str]] = set()
    for h in range(graph.n):
        if h not in observed:
            children = sorted(below(h))
            pairs |= {frozenset({names[a], names[b]}) for i, a in enumerate(children) for b in children[:i]}
    return directed, pairs


def _antecedent_edges(graph: object) -> NamedPairs:
    nodes = graph.nodes()
    directed = [(parent, v) for v in nodes for parent in graph.parents(v)]
    return directed, [(v, s) for v in nodes for s in graph.bidirected_neighbors(v)]


def _latent_projection() -> Iterator[Compared | str]:
    try:
        antecedent, version = _peer("antecedent")
    except MissingPeerError as missing:
        yield str(missing)
        return
    for density in DENSITIES:
        for n in SIZES:
            if n > 20_000:
                yield f"latent_projection at {n:,} nodes is skipped: {version} takes over 20 s a call, minutes to build"
                continue
            drawn = RandomGraph.draw(n, density, seed=n)
            graph = RandomGraph(n, density, n, drawn.names, drawn.directed, [])
            observed = sorted(graph.generator("observed").sample(range(n), n - n // 10))
            named = [graph.names[v] for v in observed]
            admg = graph.admg()
            dag = antecedent.Dag.from_edges(graph.names, graph.named(graph.directed))

            def ours(admg: ADMG = admg, named: list[str] = named) -> ADMG:
                return admg.latent_projection(named)

            def theirs(dag: object = dag, named: list[str] = named) -> object:
                return dag.latent_project(named)

            def fault(
                graph: RandomGraph = graph,
                observed: list[int] = observed,
                ours: Callable[[], ADMG] = ours,
                theirs: Callable[[], object] = theirs,
            ) -> str | None:
                truth = _project(graph, set(observed))
                found = ours()
                if (set(found.directed), set(map(frozenset, found.bidirected))) != truth:
                    raise NotEqualError("latent_projection")
                directed, pairs = _antecedent_edges(theirs())
                same = set(directed) == truth[0] and set(map(frozenset, pairs)) == truth[1]
                return None if same else "other edges"

            def ours_read(ours: Callable[[], ADMG] = ours) -> NamedPairs:
                found = ours()
                return found.directed, found.bidirected

            def theirs_read(theirs: Callable[[], object] = theirs) -> NamedPairs:
                return _antecedent_edges(theirs())

            size = f"{n:,} nodes, {len(graph.directed):,} directed edges, {n // 10:,} latents"
            # both sides give a graph that holds numbers; the second row also reads its edges, as pairs of names
            bar = 0.1 if n >= 1_000 else None
            yield Compared("latent_projection", f"{size}, against {version}", n, bar, ours, theirs, fault)
            size += ", edges read by name"
            yield Compared("latent_projection", f"{size}, against {version}", n, None, ours_read, theirs_read, fault)


def _construction() -> Iterator[Compared | str]:
    for density in DENSITIES:
        for n in SIZES:
            graph = RandomGraph.draw(n, density, seed=n)
            names, directed, bidirected = graph.names, graph.named(graph.directed), graph.named(graph.bidirected)

            def ours(names: list[str] = names, directed: list = directed, bidirected: list = bidirected) -> ADMG:
                return ADMG(names, directed, bidirected)

            # two graphs, for these are never slower to build than one with a hidden node for each bidirected edge
            def theirs(
                names: list[str] = names, directed: list = directed, bidirected: list = bidirected
            ) -> tuple[nx.DiGraph, nx.Graph]:
                arcs, pairs = nx.DiGraph(), nx.Graph()
                arcs.add_nodes_from(names)
                arcs.add_edges_from(directed)
                pairs.add_nodes_from(names)
                pairs.add_edges_from(bidirected)
                return arcs, pairs

            def fault(
                graph: RandomGraph = graph,
                ours: Callable[[], ADMG] = ours,
                theirs: Callable[[], tuple[nx.DiGraph, nx.Graph]] = theirs,
            ) -> str | None:
                truth = (graph.n, len(graph.directed), len(graph.bidirected))
                built = ours()
                if (len(built), built._core.num_directed, built._core.num_bidirected) != truth:
                    raise NotEqualError("construction")
                arcs, pairs = theirs()
                found = (arcs.number_of_nodes(), arcs.number_of_edges(), pairs.number_of_edges())
                return None if found == truth and pairs.number_of_nodes() == graph.n else "other numbers of edges"

            yield Compared(
                "construction",
                f"{graph.describe()}, lists of names, against networkx {nx.__version__}",
                graph.seed,
                # below that size both sides spend their time on calls, not on edges
                0.2 if n >= 100 else None,
                ours,
                theirs,
                fault,
            )


GRAPHS: dict[str, Callable[[], Iterator[Compared | str]]] = {
    "m-separation": _m_separation,
    "c-components": _c_components,
    "latent-projection": _latent_projection,
    "construction": _construction,
}
