"""What a graph file says, before anything judges it: names and edges as they stand, with their places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mdcm.errors import GraphError

__all__ = ["GraphRecord", "Place", "error_at", "is_hidden"]

Place = tuple[int, int]
"""Line and column in a text, both from 1."""

# what attributes of nodes are called in dagitty, DOT, GML, GraphML and networkx; style=dashed is drawing, no statement
_HIDDEN_IF = {"latent": True, "unobserved": True, "observed": False}
# of pgmpy's nodes, which may have several roles
_HIDDEN_ROLES = {"latent", "latents"}
_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class GraphRecord:
    """Names and edges as a text gives them.

    Attributes:
        nodes: Observed names in order of first appearance.
        directed: Directed edges; an edge may start or end at a latent.
        bidirected: Bidirected edges.
        latents: Names declared latent, in order of first appearance.
        directed_places: Place of each directed edge's arrow; empty where the source has no places.
        bidirected_places: The same for the bidirected edges.
        positions: Where a drawing has the nodes, as (x, y); not every node needs to have one.
    """

    nodes: tuple[str, ...]
    directed: tuple[tuple[str, str], ...] = ()
    bidirected: tuple[tuple[str, str], ...] = ()
    latents: tuple[str, ...] = ()
    directed_places: tuple[Place, ...] = ()
    bidirected_places: tuple[Place, ...] = ()
    positions: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def error_at(message: str, place: Place) -> GraphError:
    """A GraphError whose message begins with a place in a text.

    Args:
        message: What is wrong, and what to do.
        place: Line and column.

    Returns:
        The error, to be raised.
    """
    line, column = place
    return GraphError(f"line {line}, column {column}: {message}", line=line, column=column)


def is_hidden(attributes: Mapping[str, Any]) -> bool | None:
    """Whether a node's attributes say that it is hidden: ``latent``, ``unobserved``, a role, or not ``observed``.

    Args:
        attributes: The attributes: truth values, the numbers 0 and 1, or true, false, yes or no in any case. A
            ``latent`` without a value is given as True. ``roles`` is a collection of words, of which ``latents`` is
            one.

    Returns:
        The answer; None where no attribute says anything.

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
                raise ValueError(f"the attribute {key} is {attributes[key]!r}; write yes or no")
            answers[key] = _WORDS[word] == hidden_if
    roles = attributes.get("roles")
    if isinstance(roles, list | tuple | set | frozenset) and not _HIDDEN_ROLES.isdisjoint(map(str, roles)):
        answers["roles"] = True
    if len(set(answers.values())) > 1:
        raise ValueError(f"the attributes {' and '.join(answers)} contradict each other")
    return next(iter(answers.values()), None)
