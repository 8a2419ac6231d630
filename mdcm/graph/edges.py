"""Conversion of edges between names and the integers of the compiled graph, with errors that name the position."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from mdcm import _core
from mdcm.errors import GraphError

__all__ = [
    "ARROW",
    "NO_HUBS",
    "NO_LOCATIONS",
    "Edge",
    "EdgeLocations",
    "as_pairs",
    "check_names",
    "fresh_name",
    "hub_arrays",
    "latent_children",
    "name_pairs",
    "pair_ends",
    "raise_fault",
    "sorted_pairs",
    "suggestion",
]

Edge = tuple[str, str]
Location = tuple[int, int]

ARROW = {"directed": "->", "bidirected": "<->"}


class EdgeLocations:
    """Lines and columns of edges in a text; empty for edges from another source."""

    def __init__(self, directed: Sequence[Location] = (), bidirected: Sequence[Location] = ()) -> None:
        self._locations = {"directed": directed, "bidirected": bidirected}

    def fail(
        self,
        message: str,
        kind: str = "directed",
        i: int = 0,
        *,
        edge: Edge | None = None,
        cycle: tuple[str, ...] | None = None,
    ) -> NoReturn:
        """Raise a GraphError at the line and column of an edge, with the edge and the cycle as attributes."""
        locations = self._locations[kind]
        line, column = locations[i] if i < len(locations) else (None, None)
        where = f"line {line}, column {column}: " if line is not None else ""
        raise GraphError(where + message, cycle=cycle, edge=edge, line=line, column=column)


NO_LOCATIONS = EdgeLocations()


def latent_children(
    latents: Mapping[str, Iterable[str]] | Iterable[tuple[str, Iterable[str]]],
) -> dict[str, dict[str, None]]:
    """Each latent's children, in order."""
    hidden: dict[str, dict[str, None]] = {}
    for name, children in latents.items() if isinstance(latents, Mapping) else latents:
        if name in hidden:
            raise GraphError(f"the latent {name!r} is given twice")
        if isinstance(children, str):
            raise GraphError(f"the children of the latent {name!r} are the text {children!r}; give a list of names")
        hidden[name] = dict.fromkeys(children)
    return hidden


def check_names(names: tuple[str, ...], hidden: dict[str, dict[str, None]], index: Mapping[str, int]) -> None:
    """Refuse names that are empty, given twice or not text, and latents whose children are not nodes."""
    try:
        valid = all(map(str.strip, index))
    except TypeError:  # not text
        valid = False
    if not valid:
        for kind, group in (("node", names), ("latent", tuple(hidden))):
            for i, name in enumerate(group):
                if not isinstance(name, str):
                    raise GraphError(f"{kind} {i} is {name!r}: names are text")
                if not name.strip():
                    raise GraphError(f"{kind} {i} has an empty name")
    if len(index) < len(names) + len(hidden):
        counted: set[str] = set()
        for name in (*names, *hidden):
            if name in counted:
                both = " as a node and as a latent" if name in hidden and name in names else ""
                raise GraphError(f"the node {name!r} is given twice{both}")
            counted.add(name)
    for name, children in hidden.items():
        for child in children:
            if child not in index:
                message = f"the latent {name!r} has the child {child!r}, which is not a node"
                raise GraphError(message + suggestion(child, index), edge=(name, child))
            if child == name:
                raise GraphError(f"the latent {name!r} is its own child", edge=(name, name))


def pair_ends(
    index: dict[str, int], kind: str, pairs: tuple[Edge, ...], locations: EdgeLocations
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The two ends of named edges as node indices."""
    ends = _core.index_pairs(index, pairs)
    if ends is not None:
        return ends
    arrow = ARROW[kind]
    for i, pair in enumerate(pairs):
        if isinstance(pair, str) or not isinstance(pair, tuple | list) or len(pair) != 2:
            locations.fail(f"{kind} edge {i} is {pair!r}: an edge is a pair of names", kind, i)
        for name in pair:
            if not isinstance(name, str) or name not in index:
                edge = (str(pair[0]), str(pair[1]))
                message = f"the edge {pair[0]} {arrow} {pair[1]} names {name!r}, which is not a node"
                locations.fail(message + suggestion(name, index), kind, i, edge=edge)
    raise AssertionError("every pair has two known names")


def raise_fault(
    fault: _core.GraphFault,
    names: Sequence[str],
    directed: tuple[Edge, ...],
    bidirected: tuple[Edge, ...],
    locations: EdgeLocations,
) -> NoReturn:
    """Raise a GraphError that says by name why the compiled graph refused the edges."""
    what, nodes, at = fault.args
    named = tuple(names[v] for v in nodes)
    if what == "cycle":
        cycle = (*named, named[0])
        steps = set(itertools.pairwise(cycle))
        last = max(i for i, edge in enumerate(directed) if edge in steps)
        shown = cycle if len(cycle) <= 12 else (*cycle[:8], f"... ({len(named)} nodes)", cycle[-1])
        message = f"the directed edges have a cycle: {' -> '.join(shown)}"
        locations.fail(message, "directed", last, cycle=cycle, edge=directed[last])
    if what == "self-loop":
        edge = (named[0], named[0])
        kind = "directed" if edge in directed[at : at + 1] else "bidirected"
        locations.fail(f"the edge {named[0]} {ARROW[kind]} {named[0]} joins a node to itself", kind, at, edge=edge)
    if what == "repeated pair":
        message = (
            f"the bidirected edge {named[0]} <-> {named[1]} is given twice; one edge is one hidden confounder, "
            f"and a second one of the same pair adds nothing"
        )
        locations.fail(message, "bidirected", at, edge=bidirected[at])
    locations.fail(f"the graph cannot be built: {what}")


def as_pairs(edges: tuple[Edge, ...]) -> tuple[Edge, ...]:
    """Convert edges given as lists or tuples to tuples."""
    if set(map(type, edges)) <= {tuple}:
        return edges
    return tuple((edge[0], edge[1]) for edge in edges)


def hub_arrays(hubs: Iterable[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Children of latents in the compiled graph's format: offsets and concatenated lists."""
    rows = list(hubs)
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return offsets, np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int32)


NO_HUBS = hub_arrays(())


def name_pairs(names: Sequence[str], first: NDArray[np.int32], second: NDArray[np.int32]) -> tuple[Edge, ...]:
    """Edges by name, from the indices of their ends."""
    return tuple((names[a], names[b]) for a, b in zip(first.tolist(), second.tolist(), strict=True))


def sorted_pairs(pairs: Iterable[Edge], index: Mapping[str, int]) -> list[Edge]:
    """Bidirected edges in the order of the compiled graph."""
    return sorted(
        ((a, b) if index[a] < index[b] else (b, a) for a, b in pairs), key=lambda e: (index[e[0]], index[e[1]])
    )


def fresh_name(pair: Edge, taken: set[str]) -> str:
    """An unused name for a bidirected edge's confounder; it is added to ``taken``."""
    name = f"U[{pair[0]},{pair[1]}]"
    while name in taken:
        name += "'"
    taken.add(name)
    return name


def suggestion(name: object, known: Iterable[str]) -> str:
    """The nearest known name as the end of a message, or an empty text."""
    close = difflib.get_close_matches(name[:200], list(known), n=1) if isinstance(name, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""
