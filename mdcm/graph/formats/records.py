"""Unchecked content of a graph file: names and edges as written, with line and column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mdcm.errors import GraphError
from mdcm.text.printable import quoted

__all__ = ["MOST_EDGES", "GraphRecord", "Lines", "Location", "error_at", "is_hidden"]

# limit for lists and groups of names in a text: two lists of n names have n squared edges
MOST_EDGES = 1_000_000

Location = tuple[int, int]
"""Line and column in a text, both from 1."""

# attributes of nodes in dagitty, DOT, GML, GraphML and networkx; style=dashed only affects the drawing
_HIDDEN_IF = {"latent": True, "unobserved": True, "observed": False}
# roles of pgmpy's nodes, which may have several
_HIDDEN_ROLES = {"latent", "latents"}
_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class GraphRecord:
    """Names and edges as written in a text.

    Attributes:
        nodes: Observed names in order of first appearance.
        directed: Directed edges; an edge may start or end at a latent.
        bidirected: Bidirected edges.
        latents: Names declared latent, in order of first appearance.
        directed_locations: Line and column of each directed edge's arrow; empty if the source has none.
        bidirected_locations: Line and column of each bidirected edge's arrow; empty if the source has none.
        positions: Coordinates (x, y) of the nodes in a drawing; nodes may be missing.
    """

    nodes: tuple[str, ...]
    directed: tuple[tuple[str, str], ...] = ()
    bidirected: tuple[tuple[str, str], ...] = ()
    latents: tuple[str, ...] = ()
    directed_locations: tuple[Location, ...] = ()
    bidirected_locations: tuple[Location, ...] = ()
    positions: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class Lines:
    r"""Lines and columns of offsets in a text.

    Args:
        text: The text.

    Complexity:
        O(characters between consecutive offsets) time, O(1) memory.

    Example:
        >>> lines = Lines("ab\ncd")
        >>> lines.location(4), lines.location(1)
        ((2, 2), (1, 2))
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at, self._line, self._start = 0, 1, 0

    def location(self, at: int) -> Location:
        """Line and column of an offset, both from 1."""
        first, last = sorted((at, self._at))
        if breaks := self._text.count("\n", first, last):
            self._line += breaks if at > self._at else -breaks
            self._start = self._text.rfind("\n", 0, at) + 1
        self._at = at
        return self._line, at - self._start + 1


def error_at(message: str, location: Location) -> GraphError:
    """Return a GraphError whose message begins with line and column in a text.

    Args:
        message: Description of the error, and how to correct it.
        location: Line and column.

    Returns:
        The error, for the caller to raise.
    """
    line, column = location
    return GraphError(f"line {line}, column {column}: {message}", line=line, column=column)


def is_hidden(attributes: Mapping[str, Any]) -> bool | None:
    """Whether the attributes of a node mark it as hidden: ``latent``, ``unobserved``, a role, or not ``observed``.

    Args:
        attributes: The attributes: truth values, the numbers 0 and 1, or true, false, yes or no in any case. A
            ``latent`` without a value is given as True. ``roles`` is a collection of words that may contain
            ``latents``.

    Returns:
        True or False; None if there is no such attribute.

    Raises:
        ValueError: If an attribute has another value, or two contradict each other.

    Example:
        >>> is_hidden({"observed": "no"}), is_hidden({"style": "dashed"})
        (True, None)
    """
    answers: dict[str, bool] = {}
    for key, hidden_if in _HIDDEN_IF.items():
        if key in attributes:
            word = str(attributes[key]).strip().lower()
            if word not in _WORDS:
                raise ValueError(f"the attribute {key} is {quoted(attributes[key])}; write yes or no")
            answers[key] = _WORDS[word] == hidden_if
    roles = attributes.get("roles")
    if isinstance(roles, list | tuple | set | frozenset) and not _HIDDEN_ROLES.isdisjoint(map(str, roles)):
        answers["roles"] = True
    if len(set(answers.values())) > 1:
        raise ValueError(f"the attributes {' and '.join(answers)} contradict each other")
    return next(iter(answers.values()), None)
