"""Acyclic directed mixed graphs by name."""

from __future__ import annotations

import dataclasses
import itertools
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mdcm import _core
from mdcm.errors import GraphError
from mdcm.graph.edges import (
    ARROW,
    NO_HUBS,
    NOWHERE,
    Edge,
    Places,
    as_pairs,
    check_names,
    fresh_name,
    hub_arrays,
    latent_children,
    name_pairs,
    pair_ends,
    raise_fault,
    sorted_pairs,
    suggestion,
)
from mdcm.graph.formats import (
    GraphRecord,
    format_arrows,
    format_dagitty,
    format_dot,
    format_gml,
    format_graphml,
    from_networkx,
    is_dot,
    parse_text,
    read_record,
)
from mdcm.storage.disk import as_path
from mdcm.text.printable import shortened

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["ADMG", "read_graph"]

# the limit of the compiled graph
_MOST_NODES = 1 << 26

Names = str | Iterable[str]


# inputs that are often given instead of a graph by mistake
_TABLES = {".csv", ".tsv", ".parquet", ".pq", ".xlsx", ".xls", ".npy"}
_QUERY = re.compile(r"\s*[PE]\s*[(\[]")
_FILE = re.compile(r"[^\n\0>;]{1,1000}\.\w{1,8}")


class ADMG:
    """An acyclic directed mixed graph: variables, directed edges, and hidden confounders.

    A bidirected edge ``A <-> B`` is a separate latent with the children A and B. A latent with more children is
    given by name with its children, and is one confounder, not one per pair. A latent may have parents, latent
    children or bidirected edges: the graph is then replaced by its latent projection, in which every latent keeps
    its name and is a root. A latent that reaches fewer than two variables confounds nothing and is dropped.

    Args:
        nodes: Names of the observed variables, in the order that breaks ties everywhere; None takes them from the
            edges, in order of first appearance.
        directed: Pairs (tail, head). Duplicates count once.
        bidirected: Pairs, in either direction.
        latents: Children of each latent, by name; further children may be given as directed edges.

    Attributes:
        nodes: Names, in insertion order.
        latents: Pairs (name, children) of the named latents, in insertion order.

    Raises:
        GraphError: If there is a cycle, a self-loop, a repeated node, bidirected edge or latent, an edge to an
            unknown node, or an empty name.

    Complexity:
        O(nodes + edges) time and memory; a latent costs as much as it has children.

    References:
        Richardson (2003), Markov properties for acyclic directed mixed graphs, https://doi.org/10.1111/1467-9469.00323

    Example:
        >>> graph = ADMG(nodes=["D", "I", "A"], directed=[("D", "I"), ("I", "A")], bidirected=[("D", "A")])
        >>> graph == ADMG.from_string("D -> I -> A; D <-> A")
        True
        >>> graph.m_separated("D", "A", given="I")
        False
    """

    __slots__ = (
        "_bidirected", "_closure", "_confounders", "_core", "_directed", "_ends", "_index", "latents", "nodes",
    )  # fmt: skip

    nodes: tuple[str, ...]
    latents: tuple[tuple[str, tuple[str, ...]], ...]
    # edges of a projection are stored as integers, tails and heads of both kinds, and named on request
    _directed: tuple[Edge, ...] | None
    _bidirected: tuple[Edge, ...] | None
    _ends: tuple[NDArray[np.int32], ...]
    _closure: _core.ModularityClosure | None

    def __init__(
        self,
        nodes: Iterable[str] | None = None,
        directed: Iterable[Edge] = (),
        bidirected: Iterable[Edge] = (),
        latents: Mapping[str, Iterable[str]] | Iterable[tuple[str, Iterable[str]]] | None = None,
    ) -> None:
        self._build(nodes, tuple(directed), tuple(bidirected), latents, NOWHERE)

    def _build(
        self,
        nodes: Iterable[str] | None,
        directed: tuple[Edge, ...],
        bidirected: tuple[Edge, ...],
        latents: Mapping[str, Iterable[str]] | Iterable[tuple[str, Iterable[str]]] | None,
        places: Places,
    ) -> None:
        hidden = latent_children(latents) if latents else {}
        if isinstance(nodes, str):
            raise GraphError(f"nodes is the text {nodes!r}; give a list of names, or use ADMG.from_string")
        if nodes is None:
            ends = itertools.chain.from_iterable(itertools.chain(directed, bidirected, hidden.values()))
            names = tuple(name for name in dict.fromkeys(ends) if name not in hidden)
        else:
            names = tuple(nodes)
        every = names + tuple(hidden)
        index = {name: i for i, name in enumerate(every)}
        check_names(names, hidden, index)
        if hidden:
            directed += tuple((name, child) for name, children in hidden.items() for child in children)
        arrays = pair_ends(index, "directed", directed, places) + pair_ends(index, "bidirected", bidirected, places)
        directed, bidirected = as_pairs(directed), as_pairs(bidirected)
        try:
            core = _core.Admg(len(every), *arrays, *NO_HUBS)
        except _core.GraphFault as fault:
            raise_fault(fault, every, directed, bidirected, places)
        if core.num_directed < len(directed):
            directed = tuple(dict.fromkeys(directed))
        self.nodes = names
        self._confounders: tuple[tuple[str, tuple[str, ...]], ...] | None = None
        self._closure = None
        if hidden:
            self._index = {name: i for i, name in enumerate(names)}
            self._adopt_latents(core, every, directed, bidirected)
        else:
            self._index, self._core = index, core
            self._directed, self._bidirected, self.latents = directed, bidirected, ()

    def _adopt_latents(
        self, core: _core.Admg, every: tuple[str, ...], directed: tuple[Edge, ...], bidirected: tuple[Edge, ...]
    ) -> None:
        """Turn the hidden nodes of ``core``, the last in ``every``, into latents that are roots.

        If they all are roots, nothing else changes; otherwise the graph becomes its latent projection.
        """
        children: dict[str, list[str]] = {name: [] for name in every[len(self.nodes) :]}
        for tail, head in directed:
            if tail in children:
                children[tail].append(head)
        heads = {head for _, head in directed}
        if children.keys() & heads or children.keys() & {name for pair in bidirected for name in pair}:
            observed = np.arange(len(self.nodes), dtype=np.int32)
            self._adopt_projection(core.latent_projection(observed, shared=True), observed, every, (), bidirected)
            return
        self._directed = tuple(edge for edge in directed if edge[0] not in children)
        self._bidirected = bidirected
        self.latents = tuple((name, tuple(group)) for name, group in children.items() if len(group) > 1)
        self._core = _core.Admg(
            len(self.nodes),
            *pair_ends(self._index, "directed", self._directed, NOWHERE),
            *pair_ends(self._index, "bidirected", self._bidirected, NOWHERE),
            *hub_arrays([[self._index[child] for child in children] for _, children in self.latents]),
        )

    def _adopt_projection(
        self,
        projection: _core.Projection,
        observed: NDArray[np.int32],
        names: Sequence[str],
        latent_names: Sequence[str],
        bidirected: Iterable[Edge],
    ) -> None:
        """Adopt the result of a latent projection and name its latents.

        ``names``, ``latent_names`` and ``bidirected`` belong to the graph that was projected; ``observed`` holds the
        indices of its observed nodes, ascending.
        """
        new_index = np.zeros(len(names), dtype=np.int32)
        new_index[observed] = np.arange(len(observed), dtype=np.int32)
        self._ends = (
            new_index[projection["tails"]],
            new_index[projection["heads"]],
            new_index[projection["first"]],
            new_index[projection["second"]],
        )
        self._directed = self._bidirected = None
        hub_arrays = projection["latent_offsets"], new_index[projection["latent_children"]]
        self._core = _core.Admg(len(observed), *self._ends, *hub_arrays)
        self.latents = ()
        origins = projection["latent_origin"].tolist()
        if not origins:
            return
        pairs = sorted_pairs(bidirected, {name: i for i, name in enumerate(names)})
        taken = set(names)
        offsets, children = (array.tolist() for array in hub_arrays)
        latents = []
        for k, origin in enumerate(origins):
            if origin < len(latent_names):
                name = latent_names[origin]
            elif origin < len(latent_names) + len(names):
                name = names[origin - len(latent_names)]
            else:
                name = fresh_name(pairs[origin - len(latent_names) - len(names)], taken)
            latents.append((name, tuple(self.nodes[i] for i in children[offsets[k] : offsets[k + 1]])))
        self.latents = tuple(latents)

    # ------------------------------------------------------------------ reading and writing

    @classmethod
    def from_string(cls, text: str) -> ADMG:
        """Read arrow text, for example ``"D -> I -> A; D <-> A"``.

        Statements stand on lines of their own or are separated by ``;``. A chain may mix ``->``, ``<-`` and
        ``<->``; a bare name is an isolated node; ``U [latent]`` declares a latent, whose children are the heads of
        its edges; ``#`` starts a comment; unusual names are written in double quotes. A text that begins with
        ``dag {`` or ``digraph {`` is read as dagitty or DOT text, see :func:`mdcm.graph.formats.parse_dot`.

        Args:
            text: The text.

        Returns:
            The graph, nodes in order of first appearance.

        Raises:
            GraphError: If the text cannot be read or is not an ADMG, with line and column.

        Example:
            >>> ADMG.from_string("U [latent]; U -> A; U -> B; U -> C; A -> B").latents
            (('U', ('A', 'B', 'C')),)
        """
        return cls._from_record(parse_text(text))

    @classmethod
    def _from_record(cls, record: GraphRecord) -> ADMG:
        graph = cls.__new__(cls)
        places = Places(record.directed_places, record.bidirected_places)
        graph._build(record.nodes, record.directed, record.bidirected, dict.fromkeys(record.latents, ()), places)
        return graph

    @classmethod
    def of(cls, graph: ADMG | str | nx.DiGraph[Any]) -> ADMG:
        """Convert a graph, its text or a networkx digraph to an ADMG, as the functions of this library do.

        Args:
            graph: A graph, text for :meth:`from_string`, or a digraph for :meth:`from_networkx`.

        Returns:
            The graph; the same object if it is an ADMG already.

        Raises:
            GraphError: If it is of another type, or its text is not a graph.

        Example:
            >>> import networkx as nx
            >>> ADMG.of("X -> Y") == ADMG.of(nx.DiGraph([("X", "Y")]))
            True
        """
        if isinstance(graph, ADMG):
            return graph
        if isinstance(graph, str):
            if _FILE.fullmatch(graph) and Path(graph).is_file():
                raise GraphError(f"{graph!r} is the path of a file, not a graph's text; mdcm.read_graph reads it")
            return cls.from_string(graph)
        import networkx as nx

        if isinstance(graph, nx.Graph):
            return cls.from_networkx(graph)
        raise GraphError(
            f"a graph must be an ADMG, its text or a networkx digraph, not {type(graph).__name__}; give it first, "
            "before data and queries"
        )

    @classmethod
    def parse_or_read(cls, text_or_path: str) -> ADMG:
        """Read the graph argument of a command line: the path of a graph file, its text, or - for standard input.

        Args:
            text_or_path: An existing file's path, or arrow, dagitty or DOT text; "-" for the text in standard input.

        Returns:
            The graph.

        Raises:
            GraphError: If it is neither a graph file nor graph text, or has no variable.

        Example:
            >>> ADMG.parse_or_read("X -> Y").nodes
            ('X', 'Y')
        """
        if text_or_path == "-":
            text_or_path = sys.stdin.read()
            if not text_or_path.strip():
                raise GraphError("standard input is empty; write a graph such as 'X -> Y; X <-> Y'")
            return cls.from_string(text_or_path)
        is_text = any(mark in text_or_path for mark in ("->", "<-", ";", "\n", "→", "←", "↔"))
        if not is_text and not is_dot(text_or_path):
            path = Path(text_or_path)
            _refuse_table(path)
            if _QUERY.match(text_or_path):
                raise GraphError(f"{text_or_path!r} is a query, but a graph is expected here; give the graph first")
            if text_or_path.strip() and path.is_dir():
                raise GraphError(f"{text_or_path} is a directory, not a graph; name a file in it")
            if path.is_file():
                return read_graph(path)
            if path.suffix or len(path.parts) > 1:
                raise GraphError(f"there is no graph file {text_or_path!r}, and it is not a graph's text: no edges")
        graph = cls.from_string(text_or_path)
        if not graph.nodes:
            raise GraphError("the graph has no variable; write one such as 'X -> Y; X <-> Y', or the path of a file")
        return graph

    def to_string(self, separator: str = "; ") -> str:
        r"""Write arrow text that :meth:`from_string` reads back into an equal graph, nodes in the same order.

        Args:
            separator: Text between statements, for example ``"; "`` or ``"\n"``.

        Returns:
            The text.

        Example:
            >>> ADMG(["A", "B", "C"], [("A", "B")]).to_string()
            'A -> B; C'
        """
        return format_arrows(self._record(), separator)

    def to_dagitty(self, positions: Mapping[str, tuple[float, float]] | None = None) -> str:
        """Write dagitty text that :meth:`from_string` reads back into an equal graph, nodes in the same order.

        Args:
            positions: Coordinates of the nodes in a drawing, latents included, as
                :func:`mdcm.graph.formats.read_record` returns them; nodes may be missing.

        Returns:
            The text, one statement per line.

        Example:
            >>> print(ADMG.from_string("X -> Y; X <-> Y").to_dagitty({"X": (0, 1)}), end="")
            dag {
              X [pos="0.0,1.0"]
              Y
              X -> Y
              X <-> Y
            }
        """
        return format_dagitty(self._record(positions))

    def to_dot(self, positions: Mapping[str, tuple[float, float]] | None = None) -> str:
        """Write DOT that :meth:`from_string` reads back into an equal graph, nodes in the same order.

        Args:
            positions: Coordinates of the nodes in a drawing, latents included; nodes may be missing.

        Returns:
            The text, one statement per line; confounding is dashed.

        Example:
            >>> print(ADMG.from_string("X -> Y; X <-> Y").to_dot(), end="")
            digraph {
              X
              Y
              X -> Y
              X -> Y [dir=both, style=dashed]
            }
        """
        return format_dot(self._record(positions))

    def to_gml(self) -> str:
        """Write GML that :func:`read_graph` reads back into an equal graph.

        Returns:
            The text; every confounder is a hidden node, as in :meth:`to_networkx`.
        """
        return format_gml(self.to_networkx())

    def to_graphml(self) -> str:
        """Write GraphML that :func:`read_graph` reads back into an equal graph.

        Returns:
            The text; every confounder is a hidden node, as in :meth:`to_networkx`.

        Raises:
            GraphError: If a name has a character that XML cannot hold.
        """
        return format_graphml(self.to_networkx())

    def _record(self, positions: Mapping[str, tuple[float, float]] | None = None) -> GraphRecord:
        from_latents = tuple((name, child) for name, children in self.latents for child in children)
        latents = tuple(name for name, _ in self.latents)
        for name in positions or ():
            if name not in self._index and name not in latents:
                known = (*self.nodes, *latents)
                raise GraphError(f"there is a position for {name!r}, which is not a node{suggestion(name, known)}")
        return GraphRecord(
            self.nodes, self.directed + from_latents, self.bidirected, latents, positions=dict(positions or {})
        )

    @classmethod
    def from_networkx(cls, graph: nx.DiGraph[Any], latents: Iterable[Any] = ()) -> ADMG:
        """Convert a networkx digraph with hidden nodes.

        Args:
            graph: The digraph. Nodes that are not text are named by their ``str``. A node is hidden if it has the
                attribute ``latent`` (True, 1 or yes) or ``observed`` set to no; hidden roots with two children that
                also have ``bidirected=True`` become bidirected edges, as do edges with the attribute ``dir="both"``.
            latents: More hidden nodes.

        Returns:
            The graph, nodes in the digraph's order.

        Raises:
            GraphError: If the graph is undirected or not an ADMG, two nodes have the same name, a hidden node is not
                in it, or the value of an attribute is neither yes nor no.

        Example:
            >>> import networkx as nx
            >>> ADMG.from_networkx(nx.DiGraph([("U", "X"), ("U", "Y"), ("X", "Y")]), latents=["U"]).latents
            (('U', ('X', 'Y')),)
        """
        return cls._from_record(from_networkx(graph, latents))

    def to_networkx(self) -> nx.DiGraph[str]:
        """Convert to a networkx digraph in which every confounder is a hidden node.

        Returns:
            A DiGraph. Hidden nodes have the attribute ``latent=True``, those of bidirected edges also
            ``bidirected=True``; :meth:`from_networkx` converts them back.

        Example:
            >>> sorted(ADMG.from_string("X -> Y; X <-> Y").to_networkx().edges())
            [('U[X,Y]', 'X'), ('U[X,Y]', 'Y'), ('X', 'Y')]
        """
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from(self.nodes)
        graph.add_edges_from(self.directed)
        for k, (name, children) in enumerate(self.confounders):
            graph.add_node(name, latent=True, **({"bidirected": True} if k >= len(self.latents) else {}))
            graph.add_edges_from((name, child) for child in children)
        return graph

    # ------------------------------------------------------------------ numbers instead of names

    @classmethod
    def from_edge_index(
        cls, nodes: int | Iterable[str], directed: NDArray[np.integer], bidirected: NDArray[np.integer] | None = None
    ) -> ADMG:
        """Build a graph from integer arrays, for graphs whose edges are given by index.

        Args:
            nodes: Names, or the number of nodes, which are then called ``"0"``, ``"1"`` and so on.
            directed: Tails and heads, integers ``[2, m]``; int32 arrays with contiguous rows are not copied.
            bidirected: The two ends of every bidirected edge, integers ``[2, k]``; None for no edge.

        Returns:
            The graph; edges by name are made on request.

        Raises:
            GraphError: If an array has another shape or type, an index is out of range, or the edges do not make an
                ADMG.

        Complexity:
            O(nodes + edges) time and memory.

        Example:
            >>> import numpy as np
            >>> ADMG.from_edge_index(["D", "I", "A"], np.array([[0, 1], [1, 2]]), np.array([[0], [2]])).to_string()
            'D -> I -> A; D <-> A'
        """
        names = tuple(nodes) if isinstance(nodes, Iterable) else _numbered(nodes)
        graph = cls.__new__(cls)
        graph.nodes, graph.latents, graph._confounders, graph._closure = names, (), None, None
        graph._index = {name: i for i, name in enumerate(names)}
        check_names(names, {}, graph._index)
        no_edges = np.zeros((2, 0), dtype=np.int32)
        ends = []
        for kind, given in (("directed", directed), ("bidirected", no_edges if bidirected is None else bidirected)):
            array = np.asarray(given)
            if array.ndim != 2 or len(array) != 2 or not (np.issubdtype(array.dtype, np.integer) or not array.size):
                shape = f"{array.dtype} {list(array.shape)}"
                raise GraphError(f"{kind} must be an array of integers of the shape [2, number of edges], not {shape}")
            if array.size and not 0 <= array.min() <= array.max() < len(names):
                i = int(np.flatnonzero(((array < 0) | (array >= len(names))).any(0))[0])
                edge = f"{array[0, i]} {ARROW[kind]} {array[1, i]}"
                raise GraphError(f"{kind} edge {i} is {edge}, but nodes are numbered from 0 to {len(names) - 1}")
            ends += [np.ascontiguousarray(row, dtype=np.int32) for row in array]
        tails, heads, first, second = graph._ends = tuple(ends)
        graph._directed = graph._bidirected = None
        try:
            graph._core = _core.Admg(len(names), tails, heads, first, second, *hub_arrays(()))
        except _core.GraphFault as fault:
            raise_fault(fault, names, name_pairs(names, tails, heads), name_pairs(names, first, second), NOWHERE)
        if graph._core.num_directed < len(tails):
            graph._directed = tuple(dict.fromkeys(name_pairs(names, tails, heads)))
        return graph

    @property
    def compiled(self) -> _core.Admg:
        """The compiled graph, whose methods take and return node indices, positions in :attr:`nodes`.

        Arrays of type int32 are passed without a copy; results are new arrays or read-only views.

        Example:
            >>> ADMG.from_string("D -> I -> A; D <-> A").compiled.c_components()
            array([0, 1, 0], dtype=int32)
        """
        return self._core

    # ------------------------------------------------------------------ structure

    @property
    def directed(self) -> tuple[Edge, ...]:
        """Directed edges as pairs of names, in insertion order."""
        if self._directed is None:
            self._directed = name_pairs(self.nodes, *self._ends[:2])
        return self._directed

    @property
    def bidirected(self) -> tuple[Edge, ...]:
        """Bidirected edges as pairs of names, in insertion order, without the named latents."""
        if self._bidirected is None:
            self._bidirected = name_pairs(self.nodes, *self._ends[2:])
        return self._bidirected

    @property
    def confounders(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Every hidden confounder as (name, children): the named latents, then one per bidirected edge.

        A bidirected edge's confounder is called ``U[A,B]``, with primes added if that name is taken. The order
        is the insertion order of the latents and of the bidirected edges.
        """
        if self._confounders is None:
            taken = {*self.nodes, *(name for name, _ in self.latents)}
            pairs = tuple((fresh_name(pair, taken), pair) for pair in self.bidirected)
            self._confounders = self.latents + pairs
        return self._confounders

    def index(self, name: str) -> int:
        """Position of a name in :attr:`nodes`.

        Args:
            name: The name.

        Returns:
            The position, from 0.

        Raises:
            GraphError: If there is no such node.
        """
        return self._indices(name)[0]

    def parents(self, names: Names) -> set[str]:
        """Parents of a node, or of any member of a set of nodes (members included where they are parents).

        Args:
            names: A name, or several.

        Returns:
            The names of the parents.
        """
        return {self.nodes[p] for v in self._indices(names) for p in self._core.parents(v).tolist()}

    def children(self, names: Names) -> set[str]:
        """Children of a node, or of any member of a set of nodes.

        Args:
            names: A name, or several.

        Returns:
            The names of the children.
        """
        return {self.nodes[c] for v in self._indices(names) for c in self._core.children(v).tolist()}

    def siblings(self, names: Names) -> set[str]:
        """Nodes that share a hidden confounder with a node, or with any member of a set of nodes.

        Args:
            names: A name, or several.

        Returns:
            The names of the siblings.
        """
        return {self.nodes[s] for v in self._indices(names) for s in self._core.siblings(v).tolist()}

    def ancestors(self, names: Names) -> set[str]:
        """Ancestors of the given nodes, these included.

        Args:
            names: A name, or several.

        Returns:
            The names of the ancestors.

        Complexity:
            O(nodes + edges among the ancestors).
        """
        return self._named(self._core.ancestors(self._indices(names)))

    def descendants(self, names: Names) -> set[str]:
        """Descendants of the given nodes, these included.

        Args:
            names: A name, or several.

        Returns:
            The names of the descendants.

        Complexity:
            O(nodes + edges among the descendants).
        """
        return self._named(self._core.descendants(self._indices(names)))

    def topological_order(self) -> tuple[str, ...]:
        """Topological order by Kahn's algorithm; insertion order breaks ties.

        Returns:
            The names in that order.
        """
        return tuple(self.nodes[v] for v in self._core.topological_order.tolist())

    def c_components(self) -> list[set[str]]:
        """Maximal sets of nodes that hidden confounders connect, also called districts.

        Returns:
            The sets, ordered by their first member in topological order.

        Complexity:
            O(nodes + bidirected edges + children of latents).

        References:
            Tian & Pearl (2002), A general identification condition for causal effects.

        Example:
            >>> [sorted(part) for part in ADMG.from_string("D -> I -> A; D <-> A").c_components()]
            [['A', 'D'], ['I']]
        """
        labels = self._core.c_components().tolist()
        parts: list[set[str]] = [set() for _ in range(max(labels, default=-1) + 1)]
        for name, label in zip(self.nodes, labels, strict=True):
            parts[label].add(name)
        return parts

    # ------------------------------------------------------------------ separation and do-calculus

    def m_separated(self, x: Names, y: Names, given: Names = ()) -> bool:
        """Whether conditioning on ``given`` blocks every path between ``x`` and ``y``.

        Args:
            x: Names.
            y: Names, none of them in ``x``.
            given: Names, none of them in ``x`` or ``y``.

        Returns:
            True if the graph implies that x and y are independent given ``given``.

        Raises:
            GraphError: If a name is unknown or occurs in two of the sets.

        Complexity:
            O(nodes + edges), one breadth-first search.

        References:
            Richardson (2003), Markov properties for acyclic directed mixed graphs, section 2.1.

        Example:
            >>> ADMG.from_string("X -> Z <- Y").m_separated("X", "Y")
            True
        """
        # one set of all indices is cheaper than a search for the overlap, which is rare
        a, b, c = self._indices(x), self._indices(y), self._indices(given)
        if len({*a, *b, *c}) < len(a) + len(b) + len(c):
            self._refuse_overlap(x=a, y=b, given=c)
        return self._core.m_separated(a, b, c)

    def rule1(self, y: Names, z: Names, x: Names = (), w: Names = ()) -> bool:
        """Pearl's first rule: whether the graph implies P(y | do(x), z, w) = P(y | do(x), w).

        Args:
            y: Outcomes.
            z: Observations to drop.
            x: Variables intervened on.
            w: Further observations.

        Returns:
            True if the rule applies.

        Raises:
            GraphError: If a name is unknown or occurs in two of the sets.

        References:
            Pearl (1995), Causal diagrams for empirical research, Theorem 3.
        """
        sets = self._disjoint(y=y, z=z, x=x, w=w)
        return self._core.rule1(sets["y"], sets["z"], sets["x"], sets["w"])

    def rule2(self, y: Names, z: Names, x: Names = (), w: Names = ()) -> bool:
        """Pearl's second rule: whether the graph implies P(y | do(x), do(z), w) = P(y | do(x), z, w).

        Args:
            y: Outcomes.
            z: Interventions to exchange for observations.
            x: Variables intervened on either way.
            w: Further observations.

        Returns:
            True if the rule applies.

        Raises:
            GraphError: If a name is unknown or occurs in two of the sets.

        References:
            Pearl (1995), Causal diagrams for empirical research, Theorem 3.

        Example:
            >>> graph = ADMG.from_string("D -> I -> A; D <-> A")
            >>> graph.rule2("I", "D"), graph.rule2("A", "D")
            (True, False)
        """
        sets = self._disjoint(y=y, z=z, x=x, w=w)
        return self._core.rule2(sets["y"], sets["z"], sets["x"], sets["w"])

    def rule3(self, y: Names, z: Names, x: Names = (), w: Names = ()) -> bool:
        """Pearl's third rule: whether the graph implies P(y | do(x), do(z), w) = P(y | do(x), w).

        Args:
            y: Outcomes.
            z: Interventions to drop.
            x: Variables intervened on either way.
            w: Observations.

        Returns:
            True if the rule applies.

        Raises:
            GraphError: If a name is unknown or occurs in two of the sets.

        References:
            Pearl (1995), Causal diagrams for empirical research, Theorem 3.
        """
        sets = self._disjoint(y=y, z=z, x=x, w=w)
        return self._core.rule3(sets["y"], sets["z"], sets["x"], sets["w"])

    def modularity_set(self, names: Names, do: Names = ()) -> set[str]:
        """The smallest set A of ancestors with which S = names ∪ A satisfies rule 2 for its parents under do().

        Then P(S | Pa(S), do(I)) = P(S | do(Pa(S)), do(I)): mechanisms of S that match the left side, which data show,
        also match the right side. The set is unique, and contained in every other set that satisfies rule 2.

        Args:
            names: Variables whose mechanisms are to be trained; those in ``do`` have none and are left out.
            do: Variables intervened on in the data.

        Returns:
            The names in A.

        Raises:
            GraphError: If a name is unknown.

        Complexity:
            O(nodes + edges) at worst; only nodes that precede the last of ``names`` in topological order are visited.

        References:
            Rahman & Kocaoglu (2024), Modular Learning of Deep Causal Generative Models for High-dimensional Causal
            Inference, Definitions 4.4 and D.1.

        Example:
            >>> ADMG.from_string("D -> I -> A; D <-> A").modularity_set(["D", "A"])
            {'I'}
        """
        if self._closure is None:
            # its scratch memory is as large as the graph, so all calls share one object
            self._closure = _core.ModularityClosure(self._core)
        return self._named(self._closure.run(self._indices(names), self._indices(do)))

    # ------------------------------------------------------------------ new graphs

    def intervene(self, names: Names) -> ADMG:
        """The graph under do(names): without the edges and confounders that point into them.

        Args:
            names: Variables intervened on.

        Returns:
            A new graph over the same nodes. A latent keeps its other children if two or more remain.
        """
        targets = {self.nodes[v] for v in self._indices(names)}
        remaining = ((name, tuple(c for c in children if c not in targets)) for name, children in self.latents)
        return ADMG(
            self.nodes,
            [edge for edge in self.directed if edge[1] not in targets],
            [(a, b) for a, b in self.bidirected if a not in targets and b not in targets],
            {name: children for name, children in remaining if len(children) > 1},
        )

    def latent_projection(self, observed: Names, *, shared: bool = False) -> ADMG:
        """The graph over ``observed`` alone that implies the same about them.

        There is an edge A -> B if a directed path leads from A to B through hidden nodes only, and A and B are
        confounded if a hidden node or a confounder reaches both in that way.

        Args:
            observed: Names of the variables to keep.
            shared: False: a hidden variable becomes one bidirected edge per pair of variables it reaches. True: a
                hidden variable that reaches three or more becomes one latent, which keeps dependences that
                confounders of pairs cannot produce. Named latents stay latents either way.

        Returns:
            A new graph, nodes in the order of this one.

        Raises:
            GraphError: If a name is unknown.

        References:
            Verma & Pearl (1990), Equivalence and synthesis of causal models; Evans (2016), Graphs for margins of
            Bayesian networks (shared latents).

        Example:
            >>> ADMG.from_string("A -> H -> B; H -> C").latent_projection(["A", "B", "C"]).to_string()
            'A -> B; A -> C; B <-> C'
        """
        is_observed = np.zeros(len(self.nodes), dtype=np.bool_)
        is_observed[np.array(self._indices(observed), dtype=np.int32)] = True
        observed_indices = np.flatnonzero(is_observed).astype(np.int32)
        graph = ADMG.__new__(ADMG)
        graph.nodes = tuple(itertools.compress(self.nodes, is_observed.tolist()))
        graph._index = {name: i for i, name in enumerate(graph.nodes)}
        graph._confounders = graph._closure = None
        latent_names = [name for name, _ in self.latents]
        projection = self._core.latent_projection(observed_indices, shared=shared)
        graph._adopt_projection(projection, observed_indices, self.nodes, latent_names, self.bidirected)
        return graph

    # ------------------------------------------------------------------ names and numbers

    def _indices(self, names: Names) -> list[int]:
        index = self._index
        if isinstance(names, str):
            names = (names,)
        elif not isinstance(names, Collection):
            names = tuple(names)
        try:
            return [index[name] for name in names]
        except (KeyError, TypeError):
            unknown = next(name for name in names if not isinstance(name, str) or name not in index)
            raise GraphError(f"the graph has no node {unknown!r}{suggestion(unknown, self.nodes)}") from None

    def _named(self, indices: NDArray[np.int32]) -> set[str]:
        return {self.nodes[v] for v in indices.tolist()}

    def _disjoint(self, **sets: Names) -> dict[str, list[int]]:
        indices = {key: self._indices(names) for key, names in sets.items()}
        self._refuse_overlap(**indices)
        return indices

    def _refuse_overlap(self, **sets: list[int]) -> None:
        set_of: dict[int, str] = {}
        for key, indices in sets.items():
            for v in indices:
                if set_of.setdefault(v, key) != key:
                    raise GraphError(f"{self.nodes[v]!r} is in both {set_of[v]} and {key}; the sets must be disjoint")

    def _same_as(self) -> tuple[frozenset[Any], ...]:
        return (
            frozenset(self.nodes),
            frozenset(self.directed),
            frozenset(frozenset(pair) for pair in self.bidirected),
            frozenset((name, frozenset(children)) for name, children in self.latents),
        )

    def __eq__(self, other: object) -> bool:
        """Graphs are equal if their nodes, edges and latents are, in any order."""
        return self._same_as() == other._same_as() if isinstance(other, ADMG) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._same_as())

    def __len__(self) -> int:
        return len(self.nodes)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __str__(self) -> str:
        return self.to_string()

    def __repr__(self) -> str:
        if len(self.nodes) + len(self.directed) + len(self.bidirected) > 60:
            return (
                f"<ADMG: {len(self.nodes)} nodes, {len(self.directed)} directed and {len(self.bidirected)} bidirected "
                f"edges, {len(self.latents)} latents>"
            )
        return f"ADMG.from_string({self.to_string()!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ADMG, (self.nodes, self.directed, self.bidirected, self.latents)


def _numbered(count: object) -> tuple[str, ...]:
    """Names "0", "1" and so on for ``count`` nodes."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 0 <= count <= _MOST_NODES:
        raise GraphError(f"nodes must be names, or their number between 0 and {_MOST_NODES:,}, not {count!r}")
    return tuple(map(str, range(int(count))))


def read_graph(path: str | Path, hide: Names = ()) -> ADMG:
    """Read a graph from a file.

    The suffix determines the format: ``.dag`` or ``.dagitty`` is dagitty text, ``.dot`` or ``.gv`` DOT, ``.gml`` GML
    and ``.graphml`` GraphML (both read by networkx), ``.bif`` or ``.bif.gz`` the structure of a Bayesian network.
    A file with any other suffix holds arrow text, dagitty or DOT, recognized by its content.

    Args:
        path: The file, UTF-8.
        hide: Names of variables to hide: the graph is replaced by its latent projection without them.

    Returns:
        The graph.

    Raises:
        GraphError: If the file cannot be read, does not hold a graph, or lacks a name in ``hide``; the message names
            the file, and line and column if they are known.
    """
    path = as_path(path, GraphError)
    _refuse_table(path)
    try:
        return ADMG._from_record(_hiding(read_record(path), hide))
    except GraphError as error:
        error.args = (shortened(f"{path}: {error}"),)
        raise


def _refuse_table(path: Path) -> None:
    if path.suffix.lower() in _TABLES:
        raise GraphError(
            f"{path} is a table, but a graph is expected here; give the graph first, as text such as 'X -> Y; X <-> Y' "
            "or as the path of its file"
        )


def _hiding(record: GraphRecord, names: Names) -> GraphRecord:
    """The record with the given names declared latent."""
    hide = dict.fromkeys((names,) if isinstance(names, str) else names)
    known = dict.fromkeys((*record.nodes, *record.latents))
    for name in hide:
        if name not in known:
            raise GraphError(f"the graph has no node {name!r} to hide{suggestion(name, known)}")
    return dataclasses.replace(
        record,
        nodes=tuple(name for name in record.nodes if name not in hide),
        latents=record.latents + tuple(name for name in record.nodes if name in hide),
    )
