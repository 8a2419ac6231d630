"""Number of states of confounders, limits of the exact sum over them, and confounders that carry no information."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from mdcm.data.levels import listing
from mdcm.errors import PlanError
from mdcm.mechanisms import Categorical
from mdcm.training.losses import effective_rows
from mdcm.training.objectives.likelihood import largest_clique

if TYPE_CHECKING:
    from mdcm.data import Schema
    from mdcm.dcm import DCM
    from mdcm.graph import ADMG
    from mdcm.training.rows import FitRows

__all__ = ["FEWEST_STATES", "choose_states", "dependence", "may_double", "needs_draws", "uninformative"]

# limits of a default: combinations of states in one step of a contraction, and rows of one variable's table
_MAX_CLIQUE_STATES = 1024
_MAX_TABLE_ROWS = 32768
FEWEST_STATES, _MAX_STATES = 8, 256
# size of a clique beyond which even two states per confounder are too many: eight times _MAX_CLIQUE_STATES
_MAX_CLIQUE = 13
# limits of a requested number of states: entries of a table, and combinations in one step of a contraction
_MAX_REQUESTED_ENTRIES = 1 << 27
_MAX_REQUESTED_COMBINATIONS = 1 << 22
# limits of a measured dependence: rows, table entries over all rows, and combinations of states
_DEPENDENCE_ROWS = 512
_DEPENDENCE_ENTRIES = 1 << 20
_DEPENDENCE_COMBINATIONS = 1 << 14


def _latents(graph: ADMG) -> dict[str, list[int]]:
    return {node: [i for i, (_, children) in enumerate(graph.confounders) if node in children] for node in graph.nodes}


def needs_draws(graph: ADMG) -> set[str]:
    """Variables of c-components whose exact sum is too large even with two states per confounder.

    Example:
        >>> from mdcm.graph import ADMG
        >>> needs_draws(ADMG.from_string("A <-> B"))
        set()
    """
    latents = _latents(graph)
    drawn: set[str] = set()
    for component in graph.c_components():
        if largest_clique([latents[node] for node in sorted(component)]) > _MAX_CLIQUE:
            drawn |= set(component)
    return drawn


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
        fewest: Default number of states.

    Returns:
        States by confounder: the requested number, or at least ``fewest`` and at least the second largest number of
        levels among its children, reduced where the exact sum of a c-component would not fit in memory.

    Raises:
        PlanError: If the tables for the requested number of states, or the exact sum over them, need too much memory.
    """
    if requested is not None:
        _check_requested(graph, schema, configurations, requested)
        return {name: requested for name, _ in graph.confounders}
    chosen = {}
    for name, children in graph.confounders:
        levels = sorted(len(schema[child].levels or ()) for child in children)
        chosen[name] = min(max(fewest, levels[-2]), _MAX_STATES)
    drawn = needs_draws(graph)
    for component in graph.c_components():
        inside = [name for name, children in graph.confounders if set(children) <= set(component)]
        if not inside or component & drawn:
            continue
        largest = _max_states(graph, component, configurations)
        for name in inside:
            chosen[name] = min(chosen[name], max(largest, 2))
    return chosen


def _check_requested(graph: ADMG, schema: Schema, configurations: Mapping[str, int], requested: int) -> None:
    """Refuse a number of states that needs too much memory, before any is allocated."""
    latents = _latents(graph)
    for node in graph.nodes:
        if not latents[node]:
            continue
        levels = schema[node].levels
        # only a categorical variable has a table
        size = 1 if levels is None else configurations[node] * len(levels) * requested ** len(latents[node])
        if size > _MAX_REQUESTED_ENTRIES:
            raise PlanError(
                f"with confounder_states={requested:,} the table of {node!r} would have {size:,} numbers; "
                f"at most {_MAX_REQUESTED_ENTRIES:,} are made"
            )
    drawn = needs_draws(graph)
    for component in graph.c_components():
        size = requested ** max(largest_clique([latents[node] for node in sorted(component)]), 1)
        if not component & drawn and size > _MAX_REQUESTED_COMBINATIONS:
            raise PlanError(
                f"with confounder_states={requested:,} the sum for {listing(sorted(component))} would go over {size:,} "
                f"combinations of states; the limit is {_MAX_REQUESTED_COMBINATIONS:,}"
            )


def may_double(
    graph: ADMG, variables: Iterable[str], configurations: Mapping[str, int], states: Mapping[str, int]
) -> bool:
    """Whether the exact sum still fits in memory with twice the states of all confounders of some c-components.

    Args:
        graph: The ADMG.
        variables: Variables of these c-components.
        configurations: As for :func:`choose_states`.
        states: States by confounder.
    """
    inside = set(variables)
    largest = max(2 * states[name] for name, children in graph.confounders if inside.intersection(children))
    components = [component for component in graph.c_components() if inside.intersection(component)]
    return largest <= min(_MAX_STATES, *(_max_states(graph, part, configurations) for part in components))


def _max_states(graph: ADMG, component: Iterable[str], configurations: Mapping[str, int]) -> int:
    """Largest number of states per confounder for which the exact sum of a c-component fits in memory."""
    latents = _latents(graph)
    names = sorted(component)
    clique = max(largest_clique([latents[node] for node in names]), 1)
    largest = int(_MAX_CLIQUE_STATES ** (1 / clique) + 1e-9)
    for node in names:
        if latents[node]:
            largest = min(largest, int((_MAX_TABLE_ROWS / configurations[node]) ** (1 / len(latents[node])) + 1e-9))
    return largest


@torch.no_grad()
def dependence(dcm: DCM, confounder: int, child: str, fits: Sequence[FitRows]) -> float | None:
    """Dependence of a child's distribution on the state of a confounder, between 0 and 1.

    The mean total variation distance between the child's distribution at a state and its mean over the states. The
    mean is taken over some of the rows, the states of this confounder and those of the child's other confounders.

    Args:
        dcm: A trained model.
        confounder: Index of the confounder.
        child: A child of it.
        fits: Rows that the child was trained on.

    Returns:
        The distance; None if it is not computed: for a mechanism that is not a table, or too many joint states.
    """
    mechanism = dcm.mechanism(child)
    sizes = [dcm.states[dcm.confounders[index]] for index in dcm.latents[child]]
    fit = next((fit for fit in fits if child in fit.variables), None)
    if not isinstance(mechanism, Categorical) or not mechanism.tabular or fit is None:
        return None
    combinations = math.prod(sizes)
    if combinations > _DEPENDENCE_COMBINATIONS:
        return None
    count = min(_DEPENDENCE_ROWS, len(fit.index), max(1, _DEPENDENCE_ENTRIES // max(1, combinations)))
    rows = torch.linspace(0, len(fit.index) - 1, count).round().long()
    parents = {parent.name: fit.values[parent.name][rows] for parent in mechanism.parents}
    table = mechanism.table(parents, count).exp()
    axis = dcm.latents[child].index(confounder)
    priors = [dcm.priors[index].softmax(0) for index in dcm.latents[child]]
    # each along its own axis of the table [rows, states..., levels]
    weights = [p.view(*(1,) * (1 + i), -1, *(1,) * (len(sizes) - i)) for i, p in enumerate(priors)]
    mean = (table * weights[axis]).sum(1 + axis, keepdim=True)
    distance = (table - mean).abs().sum(-1, keepdim=True) / 2
    for weight in weights:
        distance = distance * weight
    return float(distance.sum() / count)


def uninformative(dcm: DCM, names: Sequence[str], fits: Sequence[FitRows]) -> list[str]:
    """Confounders that carry no information.

    The dependence that a confounder induces between two children is about the product of their dependences on its
    state. A confounder is reported if this product is within chance, ``rows ** -0.5``, for every two children.

    Args:
        dcm: A trained model.
        names: Names of confounders.
        fits: Rows that their children were trained on.
    """
    rows = max(effective_rows([fit.mass()]) for fit in fits)
    reported = []
    for name in names:
        index = dcm.confounders.index(name)
        children = dict(dcm.graph.confounders)[name]
        measured = [dependence(dcm, index, child, fits) for child in children]
        # a dependence that was not computed counts as strong
        first, second = sorted((1.0 if value is None else value for value in measured), reverse=True)[:2]
        if first * second < rows**-0.5:
            reported.append(name)
    return reported
