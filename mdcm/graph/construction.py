"""Construction of a checked, compiled graph from names, from integer arrays, or by latent projection."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdcm import _core
from mdcm.errors import GraphError
from mdcm.graph.edges import (
    ARROW,
    NO_HUBS,
    NO_LOCATIONS,
    Edge,
    EdgeLocations,
    as_pairs,
    check_names,
    fresh_name,
    hub_arrays,
    latent_children,
    name_pairs,
    pair_ends,
    raise_fault,
    sorted_pairs,
)

__all__ = ["GraphParts", "Latents", "from_arrays", "from_names", "projected"]

# the limit of the compiled graph
_MOST_NODES = 1 << 26

Latents = Mapping[str, Iterable[str]] | Iterable[tuple[str, Iterable[str]]]


class GraphParts(NamedTuple):
    """What a graph consists of.

    Attributes:
        nodes: Names of the observed variables, in insertion order.
        position_of: Position of each name in ``nodes``.
        latents: Pairs (name, children) of the named latents.
        compiled: The compiled graph.
        directed: Directed edges by name; None where they are still integers in ``ends``.
        bidirected: Bidirected edges by name; None where they are still integers in ``ends``.
        ends: Tails and heads of the directed edges, first and second ends of the bidirected ones.
    """

    nodes: tuple[str, ...]
    position_of: dict[str, int]
    latents: tuple[tuple[str, tuple[str, ...]], ...]
    compiled: _core.Admg
    directed: tuple[Edge, ...] | None = None
    bidirected: tuple[Edge, ...] | None = None
    ends: tuple[NDArray[np.int32], ...] = ()


def from_names(
    nodes: Iterable[str] | None,
    directed: tuple[Edge, ...],
    bidirected: tuple[Edge, ...],
    latents: Latents | None,
    locations: EdgeLocations,
) -> GraphParts:
    """Check named edges and compile them; ``locations`` gives the line and column of each for messages."""
    hidden = latent_children(latents) if latents else {}
    if isinstance(nodes, str):
        raise GraphError(f"nodes is the text {nodes!r}; give a list of names, or use ADMG.from_string")
    if nodes is None:
        ends = itertools.chain.from_iterable(itertools.chain(directed, bidirected, hidden.values()))
        observed = tuple(name for name in dict.fromkeys(ends) if name not in hidden)
    else:
        observed = tuple(nodes)
    names = observed + tuple(hidden)
    index = {name: i for i, name in enumerate(names)}
    check_names(observed, hidden, index)
    if hidden:
        directed += tuple((name, child) for name, children in hidden.items() for child in children)
    arrays = pair_ends(index, "directed", directed, locations) + pair_ends(index, "bidirected", bidirected, locations)
    directed, bidirected = as_pairs(directed), as_pairs(bidirected)
    try:
        compiled = _core.Admg(len(names), *arrays, *NO_HUBS)
    except _core.GraphFault as fault:
        raise_fault(fault, names, directed, bidirected, locations)
    if compiled.num_directed < len(directed):
        directed = tuple(dict.fromkeys(directed))
    if not hidden:
        return GraphParts(observed, index, (), compiled, directed, bidirected)
    return _with_root_latents(compiled, observed, names, directed, bidirected)


def _with_root_latents(
    compiled: _core.Admg,
    observed: tuple[str, ...],
    names: tuple[str, ...],
    directed: tuple[Edge, ...],
    bidirected: tuple[Edge, ...],
) -> GraphParts:
    """Turn the hidden nodes of ``compiled``, the last in ``names``, into latents that are roots.

    If they all are roots, nothing else changes; otherwise the graph becomes its latent projection.
    """
    children: dict[str, list[str]] = {name: [] for name in names[len(observed) :]}
    for tail, head in directed:
        if tail in children:
            children[tail].append(head)
    heads = {head for _, head in directed}
    if children.keys() & heads or children.keys() & {name for pair in bidirected for name in pair}:
        indices = np.arange(len(observed), dtype=np.int32)
        return projected(compiled, indices, names, (), bidirected, shared=True)
    index = {name: i for i, name in enumerate(observed)}
    directed = tuple(edge for edge in directed if edge[0] not in children)
    latents = tuple((name, tuple(group)) for name, group in children.items() if len(group) > 1)
    compiled = _core.Admg(
        len(observed),
        *pair_ends(index, "directed", directed, NO_LOCATIONS),
        *pair_ends(index, "bidirected", bidirected, NO_LOCATIONS),
        *hub_arrays([[index[child] for child in group] for _, group in latents]),
    )
    return GraphParts(observed, index, latents, compiled, directed, bidirected)


def projected(
    compiled: _core.Admg,
    observed: NDArray[np.int32],
    names: Sequence[str],
    latent_names: Sequence[str],
    bidirected: Iterable[Edge],
    *,
    shared: bool,
) -> GraphParts:
    """Project a graph on some of its nodes and name the latents of the result.

    Args:
        compiled: The graph to project.
        observed: Indices of the nodes to keep, ascending.
        names: Names of its nodes.
        latent_names: Names of its latents.
        bidirected: Its bidirected edges.
        shared: Whether a hidden node that reaches three or more nodes becomes one latent.

    Returns:
        The projection; edges stay integers until they are asked for by name.
    """
    projection = compiled.latent_projection(observed, shared=shared)
    nodes = tuple(names[i] for i in observed.tolist())
    new_index = np.zeros(len(names), dtype=np.int32)
    new_index[observed] = np.arange(len(observed), dtype=np.int32)
    ends = (
        new_index[projection["tails"]],
        new_index[projection["heads"]],
        new_index[projection["first"]],
        new_index[projection["second"]],
    )
    hubs = projection["latent_offsets"], new_index[projection["latent_children"]]
    result = GraphParts(
        nodes, {name: i for i, name in enumerate(nodes)}, (), _core.Admg(len(nodes), *ends, *hubs), ends=ends
    )
    origins = projection["latent_origin"].tolist()
    if not origins:
        return result
    pairs = sorted_pairs(bidirected, {name: i for i, name in enumerate(names)})
    taken = set(names)
    offsets, children = (array.tolist() for array in hubs)
    latents = []
    for k, origin in enumerate(origins):
        if origin < len(latent_names):
            name = latent_names[origin]
        elif origin < len(latent_names) + len(names):
            name = names[origin - len(latent_names)]
        else:
            name = fresh_name(pairs[origin - len(latent_names) - len(names)], taken)
        latents.append((name, tuple(nodes[i] for i in children[offsets[k] : offsets[k + 1]])))
    return result._replace(latents=tuple(latents))


def from_arrays(
    nodes: int | Iterable[str], directed: NDArray[np.integer], bidirected: NDArray[np.integer] | None
) -> GraphParts:
    """Check edges given as integer arrays and compile them."""
    names = tuple(nodes) if isinstance(nodes, Iterable) else _numbered(nodes)
    index = {name: i for i, name in enumerate(names)}
    check_names(names, {}, index)
    no_edges = np.zeros((2, 0), dtype=np.int32)
    tails, heads = _rows("directed", directed, len(names))
    first, second = _rows("bidirected", no_edges if bidirected is None else bidirected, len(names))
    try:
        compiled = _core.Admg(len(names), tails, heads, first, second, *NO_HUBS)
    except _core.GraphFault as fault:
        raise_fault(fault, names, name_pairs(names, tails, heads), name_pairs(names, first, second), NO_LOCATIONS)
    repeated = compiled.num_directed < len(tails)
    edges = tuple(dict.fromkeys(name_pairs(names, tails, heads))) if repeated else None
    return GraphParts(names, index, (), compiled, directed=edges, ends=(tails, heads, first, second))


def _rows(kind: str, edges: NDArray[np.integer], num_nodes: int) -> list[NDArray[np.int32]]:
    """The two rows of an edge array, checked."""
    array = np.asarray(edges)
    if array.ndim != 2 or len(array) != 2 or not (np.issubdtype(array.dtype, np.integer) or not array.size):
        shape = f"{array.dtype} {list(array.shape)}"
        raise GraphError(f"{kind} must be an array of integers of the shape [2, number of edges], not {shape}")
    if array.size and not 0 <= array.min() <= array.max() < num_nodes:
        i = int(np.flatnonzero(((array < 0) | (array >= num_nodes)).any(0))[0])
        edge = f"{array[0, i]} {ARROW[kind]} {array[1, i]}"
        raise GraphError(f"{kind} edge {i} is {edge}, but nodes are numbered from 0 to {num_nodes - 1}")
    return [np.ascontiguousarray(row, dtype=np.int32) for row in array]


def _numbered(count: object) -> tuple[str, ...]:
    """Names "0", "1" and so on for ``count`` nodes."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 0 <= count <= _MOST_NODES:
        raise GraphError(f"nodes must be names, or their number between 0 and {_MOST_NODES:,}, not {count!r}")
    return tuple(map(str, range(int(count))))
