"""What the fitted confounders do: one whose states fewer than two children can tell apart carries no information."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mdcm.dcm import DCM
from mdcm.mechanisms import Categorical
from mdcm.training.losses import effective_rows
from mdcm.training.rows import FitRows

__all__ = ["dependence", "uninformative"]

_ROWS = 512


@torch.no_grad()
def dependence(dcm: DCM, confounder: int, child: str, fits: Sequence[FitRows]) -> float | None:
    """How far a child's distribution moves with the state of a confounder, between 0 and 1.

    The mean total variation distance between the child's distribution at a state and its mean over the states, over
    some of the rows, the states of this confounder and those of the child's other ones.

    Args:
        dcm: A trained model.
        confounder: Number of the confounder.
        child: A child of it.
        fits: Rows that the child was trained on.

    Returns:
        The distance; None where it cannot be said: for a mechanism that is not categorical, or many confounders.
    """
    mechanism = dcm.mechanism(child)
    sizes = [dcm.states[dcm.confounders[index]] for index in dcm.latents[child]]
    fit = next((one for one in fits if child in one.variables), None)
    if not isinstance(mechanism, Categorical) or not mechanism.tabular or fit is None:
        return None
    count = min(_ROWS, len(fit.place), max(1, (1 << 20) // max(1, int(torch.tensor(sizes).prod()))))
    if int(torch.tensor(sizes).prod()) > 1 << 14:
        return None
    rows = torch.linspace(0, len(fit.place) - 1, count).round().long()
    parents = {parent.name: fit.values[parent.name][rows] for parent in mechanism.parents}
    table = mechanism.table(parents, count).exp()
    axis = 1 + dcm.latents[child].index(confounder)
    weights = [dcm.priors[index].softmax(0) for index in dcm.latents[child]]
    shaped = [w.view(*(1,) * (1 + place), -1, *(1,) * (len(sizes) - place)) for place, w in enumerate(weights)]
    mean = (table * shaped[axis - 1]).sum(axis, keepdim=True)
    distance = (table - mean).abs().sum(-1, keepdim=True) / 2
    for weight in shaped:
        distance = distance * weight
    return float(distance.sum() / count)


def uninformative(dcm: DCM, names: Sequence[str], fits: Sequence[FitRows]) -> list[str]:
    """Which of the confounders carry no information.

    A confounder makes two children depend on each other by about the product of what each moves with its state. Where
    that is for no two of them more than chance makes in so many rows, the data do not speak for it.

    Args:
        dcm: A trained model.
        names: Names of confounders.
        fits: Rows that their children were trained on.
    """
    rows = max(effective_rows([fit.mass()]) for fit in fits)
    found = []
    for name in names:
        index = dcm.confounders.index(name)
        children = dict(dcm.graph.confounders)[name]
        moved = [dependence(dcm, index, child, fits) for child in children]
        # what cannot be said is no reason to report
        first, second = sorted((1.0 if one is None else one for one in moved), reverse=True)[:2]
        if first * second < rows**-0.5:
            found.append(name)
    return found
