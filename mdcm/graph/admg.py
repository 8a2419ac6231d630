"""Acyclic directed mixed graphs by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mdcm.errors import GraphError
from mdcm.graph.construction import GraphParts, Latents, from_arrays, from_names, projected
from mdcm.graph.edges import NO_LOCATIONS, Edge, EdgeLocations, suggestion
from mdcm.graph.formats import (
    GraphRecord,
    format_arrows,
    format_dagitty,
    format_dot,
    format_gml,
    format_graphml,
    from_networkx,
    parse_text,
    read_record,
    to_networkx,
)
from mdcm.graph.queries import GraphQueries, Names
from mdcm.graph.sources import hide_nodes, in_file, refuse_path, refuse_table, text_or_file
from mdcm.storage.disk import as_path

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["ADMG", "read_graph"]


class ADMG(GraphQueries):
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

    __slots__ = ()

    def __init__(
        self,
        nodes: Iterable[str] | None = None,
        directed: Iterable[Edge] = (),
        bidirected: Iterable[Edge] = (),
        latents: Latents | None = None,
    ) -> None:
        self._adopt(from_names(nodes, tuple(directed), tuple(bidirected), latents, NO_LOCATIONS))

    def _adopt(self, parts: GraphParts) -> None:
        self.nodes, self._index, self.latents, self._core, self._directed, self._bidirected, self._ends = parts
        self._confounders = self._closure = None

    @classmethod
    def _from_parts(cls, parts: GraphParts) -> ADMG:
        graph = cls.__new__(cls)
        graph._adopt(parts)
        return graph

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
        locations = EdgeLocations(record.directed_locations, record.bidirected_locations)
        latents = dict.fromkeys(record.latents, ())
        return cls._from_parts(from_names(record.nodes, record.directed, record.bidirected, latents, locations))

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
            refuse_path(graph)
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
        source = text_or_file(text_or_path)
        if isinstance(source, Path):
            return read_graph(source)
        graph = cls.from_string(source)
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
        return to_networkx(self.nodes, self.directed, self.confounders, len(self.latents))

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
        return cls._from_parts(from_arrays(nodes, directed, bidirected))

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
        latent_names = [name for name, _ in self.latents]
        indices = np.flatnonzero(is_observed).astype(np.int32)
        parts = projected(self._core, indices, self.nodes, latent_names, self.bidirected, shared=shared)
        return ADMG._from_parts(parts)

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
    refuse_table(path)
    with in_file(path):
        return ADMG._from_record(hide_nodes(read_record(path), hide))
