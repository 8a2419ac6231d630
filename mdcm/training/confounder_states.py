"""How many states every confounder begins with, and where their exact sum is too large."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mdcm.data.levels import listing
from mdcm.errors import PlanError
from mdcm.training.objectives.likelihood import largest_clique

if TYPE_CHECKING:
    from mdcm.data import Schema
    from mdcm.graph import ADMG

__all__ = ["FEWEST_STATES", "choose_states", "may_double", "needs_draws"]

# most combinations of confounder states in one step of a contraction, and most logits rows of one variable
_MOST_CLIQUE_STATES = 1024
_MOST_TABLE_ROWS = 32768
FEWEST_STATES, _MOST = 8, 256
# rows of a contraction beyond which even two states per confounder are too many: eight times the most above
_MOST_CLIQUE = 13
# where the user asks for a number of states: numbers in a table, and combinations in a step of a contraction
_MOST_NUMBERS = 1 << 27
_MOST_COMBINATIONS = 1 << 22


def _latents(graph: ADMG) -> dict[str, list[int]]:
    return {node: [i for i, (_, children) in enumerate(graph.confounders) if node in children] for node in graph.nodes}


def needs_draws(graph: ADMG) -> set[str]:
    """Variables of c-components in which even two states per confounder make the exact sum too large.

    Example:
        >>> from mdcm.graph import ADMG
        >>> needs_draws(ADMG.from_string("A <-> B"))
        set()
    """
    latents = _latents(graph)
    found: set[str] = set()
    for component in graph.c_components():
        if largest_clique([latents[node] for node in sorted(component)]) > _MOST_CLIQUE:
            found |= set(component)
    return found


def choose_states(
    graph: ADMG,
    schema: Schema,
    configurations: Mapping[str, int],
    requested: int | None = None,
    fewest: int = FEWEST_STATES,
) -> dict[str, int]:
    """Number of states of every confounder.

    Args:
        graph: The ADMG.
        schema: Variables by name.
        configurations: Distinct parent configurations of each variable, or rows of a batch where they are not shared.
        requested: The user's number for all confounders, or None.
        fewest: States of a confounder where nothing asks for more, or for fewer.

    Returns:
        States by confounder: the requested number, or at least ``fewest`` and at least the second largest number of
        levels among its children, reduced for a c-component as far as its exact sum would not fit in memory.

    Raises:
        PlanError: If the tables of so many states, or the exact sum over them, would take too much memory.
    """
    if requested is not None:
        _check_requested(graph, schema, configurations, requested)
        return {name: requested for name, _ in graph.confounders}
    chosen = {}
    for name, children in graph.confounders:
        levels = sorted(len(schema[child].levels or ()) for child in children)
        chosen[name] = min(max(fewest, levels[-2]), _MOST)
    drawn = needs_draws(graph)
    for component in graph.c_components():
        inside = [name for name, children in graph.confounders if set(children) <= set(component)]
        if not inside or component & drawn:
            continue
        most = _most_states(graph, component, configurations)
        for name in inside:
            chosen[name] = min(chosen[name], max(most, 2))
    return chosen


def _check_requested(graph: ADMG, schema: Schema, configurations: Mapping[str, int], requested: int) -> None:
    """Refuse numbers of states that memory is not enough for, before any is taken."""
    latents = _latents(graph)
    for node in graph.nodes:
        if not latents[node]:
            continue
        levels = schema[node].levels
        # only a categorical variable has a table
        size = 1 if levels is None else configurations[node] * len(levels) * requested ** len(latents[node])
        if size > _MOST_NUMBERS:
            raise PlanError(
                f"with confounder_states={requested:,} the table of {node!r} would have {size:,} numbers; "
                f"at most {_MOST_NUMBERS:,} are made"
            )
    drawn = needs_draws(graph)
    for component in graph.c_components():
        size = requested ** max(largest_clique([latents[node] for node in sorted(component)]), 1)
        if not component & drawn and size > _MOST_COMBINATIONS:
            raise PlanError(
                f"with confounder_states={requested:,} the sum for {listing(sorted(component))} would go over {size:,} "
                f"combinations of states; at most {_MOST_COMBINATIONS:,} are gone through"
            )


def may_double(
    graph: ADMG, variables: Iterable[str], configurations: Mapping[str, int], states: Mapping[str, int]
) -> bool:
    """Whether the exact sum over twice the states of all confounders of some c-components fits in memory.

    Args:
        graph: The ADMG.
        variables: Variables of these c-components.
        configurations: As for :func:`choose_states`.
        states: States by confounder.
    """
    inside = set(variables)
    largest = max(2 * states[name] for name, children in graph.confounders if inside.intersection(children))
    parts = [component for component in graph.c_components() if inside.intersection(component)]
    return largest <= min(_MOST, *(_most_states(graph, part, configurations) for part in parts))


def _most_states(graph: ADMG, component: Iterable[str], configurations: Mapping[str, int]) -> int:
    """States of every confounder of a c-component up to which its exact sum fits in memory."""
    latents = _latents(graph)
    names = sorted(component)
    clique = max(largest_clique([latents[node] for node in names]), 1)
    most = int(_MOST_CLIQUE_STATES ** (1 / clique) + 1e-9)
    for node in names:
        if latents[node]:
            most = min(most, int((_MOST_TABLE_ROWS / configurations[node]) ** (1 / len(latents[node])) + 1e-9))
    return most
