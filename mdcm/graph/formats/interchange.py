"""Conversion from and to other libraries: digraphs of networkx and pgmpy, and GML and GraphML through networkx."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from mdcm.errors import GraphError
from mdcm.graph.formats.records import GraphRecord, is_hidden

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["format_gml", "format_graphml", "from_networkx", "parse_gml", "parse_graphml", "to_networkx"]

_GML_POSITION = re.compile(r" at \((\d+), (\d+)\)$")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def from_networkx(graph: nx.DiGraph[Any], latents: Iterable[Any] = ()) -> GraphRecord:
    """Read a networkx digraph with hidden nodes.

    Args:
        graph: The digraph. Nodes that are not text are named by their ``str``. A node is hidden if it has the
            attribute ``latent`` or ``unobserved``, ``observed`` set to no, or ``latents`` among its ``roles``, or is
            in the graph's attribute ``latents``, as in pgmpy; hidden roots with two children that also have
            ``bidirected`` become bidirected edges, as do edges with the attribute ``dir="both"`` or
            ``type="bidirected"``.
        latents: More hidden nodes.

    Returns:
        The record, names in the digraph's order.

    Raises:
        GraphError: If the graph or an edge is undirected, two nodes have the same name, a hidden node is not in it,
            or the value of an attribute is neither yes nor no.
    """
    if not graph.is_directed():
        raise GraphError("the networkx graph is undirected; an ADMG needs a DiGraph")
    if undirected := list(getattr(graph, "undirected_edges", ())):
        raise GraphError(f"the edge {undirected[0]} has no direction: the graph represents many; give one of them")
    graph_latents = getattr(graph, "latents", ())
    hidden = dict.fromkeys([latents] if isinstance(latents, str) else latents)
    hidden |= dict.fromkeys(
        graph_latents if isinstance(graph_latents, Collection) and not isinstance(graph_latents, str) else ()
    )
    for node in hidden:
        if node not in graph:
            raise GraphError(f"the latent {node!r} is not a node of the networkx graph")
    names: dict[Any, str] = {}
    pairs: dict[Any, None] = {}
    for node, attributes in graph.nodes(data=True):
        names[node] = str(node)
        try:
            hides = is_hidden(attributes)
        except ValueError as error:
            raise GraphError(f"the node {names[node]!r}: {error}") from error
        if hides:
            hidden[node] = None
            # GML has no truth values: True is read back as 1
            of_pair = str(attributes.get("bidirected")) in {"True", "1"}
            if of_pair and graph.in_degree(node) == 0 and graph.out_degree(node) == 2:
                pairs[node] = None
    if len(set(names.values())) < len(names):
        raise GraphError("two nodes of the networkx graph have the same name as text; relabel them first")
    directed: dict[tuple[str, str], None] = {}
    bidirected = [(names[a], names[b]) for a, b in (tuple(graph.successors(node)) for node in pairs)]
    both: dict[frozenset[str], tuple[str, str]] = {}
    for a, b, attributes in graph.edges(data=True):
        if attributes.get("dir") == "both":
            bidirected.append((names[a], names[b]))
        elif attributes.get("type") == "bidirected":
            # pgmpy stores a bidirected edge as two edges
            both.setdefault(frozenset((names[a], names[b])), (names[a], names[b]))
        elif attributes.get("type") == "undirected":
            raise GraphError(f"the edge {names[a]!r} to {names[b]!r} has no direction")
        elif a not in pairs:
            directed[names[a], names[b]] = None
    bidirected += both.values()
    return GraphRecord(
        nodes=tuple(name for node, name in names.items() if node not in hidden),
        directed=tuple(directed),
        bidirected=tuple(bidirected),
        latents=tuple(names[node] for node in hidden if node not in pairs),
    )


def to_networkx(
    nodes: Iterable[str],
    directed: Iterable[tuple[str, str]],
    confounders: Iterable[tuple[str, tuple[str, ...]]],
    num_latents: int,
) -> nx.DiGraph[str]:
    """Build a networkx digraph in which every confounder is a hidden node.

    Args:
        nodes: Names of the observed variables.
        directed: Directed edges between them.
        confounders: Pairs (name, children): the latents, then the confounders of bidirected edges.
        num_latents: Number of latents.

    Returns:
        The digraph, which :func:`from_networkx` converts back.
    """
    import networkx as nx

    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(nodes)
    graph.add_edges_from(directed)
    for k, (name, children) in enumerate(confounders):
        graph.add_node(name, latent=True, **({"bidirected": True} if k >= num_latents else {}))
        graph.add_edges_from((name, child) for child in children)
    return graph


def parse_gml(text: str) -> GraphRecord:
    """Read GML; names are the labels, hidden nodes and bidirected edges as in :func:`from_networkx`.

    Args:
        text: The text.

    Returns:
        The record.

    Raises:
        GraphError: If networkx cannot read the text, with line and column if it reports them, or the graph is not
            directed.

    Example:
        >>> nodes = 'node [id 0 label "A" latent 1] node [id 1 label "B"]'
        >>> parse_gml(f"graph [directed 1 {nodes} edge [source 0 target 1]]").latents
        ('A',)
    """
    import networkx as nx

    # networkx reads ASCII only; inside strings, a character and its reference are equivalent
    lines = text.removeprefix("\ufeff").encode("ascii", "xmlcharrefreplace").decode().split("\n")
    try:
        graph = nx.parse_gml(lines)
    except Exception as error:
        # networkx does not validate the text, so malformed text can raise any exception
        position = _GML_POSITION.search(str(error))
        line, column = (int(position.group(1)), int(position.group(2))) if position else (None, None)
        where = f"line {line}, column {column}: " if position else ""
        message = _GML_POSITION.sub("", str(error)) or type(error).__name__
        raise GraphError(f"{where}networkx cannot read this GML: {message}", line=line, column=column) from error
    return from_networkx(graph)


def parse_graphml(text: str) -> GraphRecord:
    """Read GraphML; names are the nodes' ids, hidden nodes and bidirected edges as in :func:`from_networkx`.

    Args:
        text: The text.

    Returns:
        The record.

    Raises:
        GraphError: If networkx cannot read the text, with line and column if the XML is malformed, or the graph is
            not directed.
    """
    from xml.etree.ElementTree import ParseError

    import networkx as nx

    try:
        graph = nx.parse_graphml(text.removeprefix("\ufeff"))
    except ParseError as error:
        line, column = error.position[0], error.position[1] + 1
        reason = str(error).partition(":")[0]
        message = f"line {line}, column {column}: this GraphML is not valid XML: {reason}"
        raise GraphError(message, line=line, column=column) from error
    except Exception as error:
        # networkx does not validate the text, so malformed text can raise any exception
        raise GraphError(f"networkx cannot read this GraphML: {error or type(error).__name__}") from error
    return from_networkx(graph)


def format_gml(graph: nx.DiGraph[str]) -> str:
    """Write a digraph with hidden nodes as GML that :func:`parse_gml` reads back.

    Args:
        graph: The digraph, as :meth:`mdcm.graph.ADMG.to_networkx` returns it.

    Returns:
        The text, ASCII only.
    """
    import networkx as nx

    return "\n".join(nx.generate_gml(graph)) + "\n"


def format_graphml(graph: nx.DiGraph[str]) -> str:
    """Write a digraph with hidden nodes as GraphML that :func:`parse_graphml` reads back.

    Args:
        graph: The digraph, as :meth:`mdcm.graph.ADMG.to_networkx` returns it.

    Returns:
        The text.

    Raises:
        GraphError: If a name has a character that XML cannot hold.
    """
    import networkx as nx

    for name in graph:
        if invalid := _NOT_XML.search(name):
            raise GraphError(
                f"the name {name!r} has the character {invalid.group()!r}, which XML cannot hold; rename it"
            )
    return "\n".join(nx.generate_graphml(graph)) + "\n"
