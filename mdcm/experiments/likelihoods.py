"""Likelihoods of discrete models by plain sums over confounders, and the maximum-likelihood model of a known structure.

It shares no code with the training objectives, which it is used to judge.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from mdcm.scm import DiscreteSCM

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["log_likelihood", "maximum_likelihood"]

_ROW = "r"
_LETTERS = [letter for letter in string.ascii_letters if letter != _ROW]
_BLOCK = 20_000


def log_likelihood(model: DiscreteSCM, table: pd.DataFrame) -> NDArray[np.float64]:
    """Logarithm of P(row) in nats, ``[n]``: a sum over c-components, each summed over its own confounders only.

    Args:
        model: A discrete model whose levels are 0, 1, ...
        table: Complete rows of codes.

    Example:
        >>> from mdcm.graph import ADMG
        >>> from mdcm.scm import random_discrete
        >>> bow = random_discrete(ADMG.from_string("X -> Y; X <-> Y"), levels=2)
        >>> rows = bow.exact(["X", "Y"]).reset_index()
        >>> bool(np.allclose(np.exp(log_likelihood(bow, rows[["X", "Y"]])), rows["probability"]))
        True
    """
    total = np.zeros(len(table))
    tables = {name: torch.from_numpy(array) for name, array in model.tables.items()}
    priors = {name: torch.from_numpy(array) for name, array in model.priors.items()}
    for members in model.graph.c_components():
        for start in range(0, len(table), _BLOCK):
            rows = table.iloc[start : start + _BLOCK]
            codes = {name: torch.tensor(rows[name].to_numpy()) for name in rows.columns}
            total[start : start + _BLOCK] += _factor(model, sorted(members), tables, priors, codes).log().numpy()
    return total


def maximum_likelihood(
    start: DiscreteSCM,
    table: pd.DataFrame,
    *,
    smoothing: float = 0.5,
    iterations: int = 200,
    tolerance: float = 1e-6,
) -> DiscreteSCM:
    """Fit the maximum-likelihood model of a structure by expectation-maximisation.

    Args:
        start: Initial model; the true model leads to the best of the relevant local optima.
        table: Complete rows of codes.
        smoothing: Pseudo-rows in every cell of every table; without any, a new row in an empty cell would have an
            infinite loss.
        iterations: Largest number of iterations of a c-component.
        tolerance: Smallest gain of an iteration in nats per row; smaller gains end the iterations.

    References:
        Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.
    """
    graph = start.graph
    tables = {name: torch.from_numpy(array.copy()) for name, array in start.tables.items()}
    priors = {name: torch.from_numpy(array.copy()) for name, array in start.priors.items()}
    for component in graph.c_components():
        members = sorted(component, key=graph.index)
        scope = list(dict.fromkeys(axis for name in members for axis in start.axes(name) if axis not in priors))
        distinct, counts = np.unique(table[scope].to_numpy(), axis=0, return_counts=True)
        codes = {name: torch.from_numpy(distinct[:, k].copy()) for k, name in enumerate(scope)}
        share = torch.from_numpy(counts / len(table))
        hidden = [name for name in priors if any(name in start.axes(member) for member in members)]
        last = -np.inf
        # without a confounder the first iteration is exact
        for _ in range(iterations if hidden else 1):
            value = _improve(start, members, hidden, tables, priors, codes, share, smoothing / len(table))
            if value - last < tolerance:
                break
            last = value
    return DiscreteSCM(
        graph,
        {name: table.numpy() for name, table in tables.items()},
        {name: prior.numpy() for name, prior in priors.items()},
        levels=start.levels,
    )


def _improve(
    model: DiscreteSCM,
    members: Sequence[str],
    hidden: Sequence[str],
    tables: dict[str, Tensor],
    priors: dict[str, Tensor],
    codes: Mapping[str, Tensor],
    share: Tensor,
    advance: float,
) -> float:
    """One iteration; the expected count of a cell is its probability times the slope of the likelihood in it."""
    ours = {name: tables[name].requires_grad_() for name in members}
    theirs = {name: priors[name].requires_grad_() for name in hidden}
    value = (_factor(model, members, ours, theirs, codes).clamp_min(1e-300).log() * share).sum()
    parameters = [*ours.values(), *theirs.values()]
    slopes = torch.autograd.grad(value, parameters)
    for target, names, part in ((tables, members, slopes), (priors, hidden, slopes[len(members) :])):
        for name, slope in zip(names, part, strict=False):
            old = target[name].detach()
            counts = old * slope + advance
            total = counts.sum(-1, keepdim=True)
            # conditions without rows and pseudo-rows keep their probabilities
            renewed = torch.where(total > 0, counts / total, old)
            target[name] = renewed
    return float(value.detach())


def _factor(
    model: DiscreteSCM,
    members: Sequence[str],
    tables: Mapping[str, Tensor],
    priors: Mapping[str, Tensor],
    codes: Mapping[str, Tensor],
) -> Tensor:
    """Q[members] at every row: the sum over all states of their confounders, one confounder pair at a time."""
    hidden = list(dict.fromkeys(axis for name in members for axis in model.axes(name) if axis in model.priors))
    letter = dict(zip(hidden, _LETTERS, strict=False))
    operands, terms = [], []
    for name in members:
        axes = model.axes(name)
        kept = [axis for axis in axes if axis in letter]
        looked = [axis for axis in axes if axis not in letter]
        array = tables[name].permute([axes.index(axis) for axis in (*looked, *kept)])
        # one slice per row: index the axes of variables, keep those of confounders
        operands.append(array[tuple(codes[axis] for axis in looked)])
        terms.append(_ROW + "".join(letter[axis] for axis in kept))
    for name, sign in letter.items():
        operands.append(priors[name])
        terms.append(sign)
    if len(operands) == 1:
        return operands[0]
    shapes = [np.broadcast_to(0.0, tuple(operand.shape)) for operand in operands]
    path, _ = np.einsum_path(",".join(terms) + "->" + _ROW, *shapes, optimize="greedy")
    for step in path[1:]:
        taken = [(operands[i], terms[i]) for i in step]
        operands = [operand for i, operand in enumerate(operands) if i not in step]
        terms = [term for i, term in enumerate(terms) if i not in step]
        left = {sign for term in terms for sign in term} | {_ROW}
        result = "".join(sorted({sign for _, term in taken for sign in term} & left))
        equation = ",".join(term for _, term in taken) + "->" + result
        operands.append(torch.einsum(equation, *(array for array, _ in taken)))
        terms.append(result)
    return operands[0]


def adjacent_pairs(model: DiscreteSCM) -> list[tuple[str, str]]:
    """Pairs of variables joined by an edge of either kind, each once."""
    graph = model.graph
    pairs = [tuple(sorted(pair, key=graph.index)) for pair in (*graph.directed, *graph.bidirected)]
    for _, children in graph.latents:
        pairs += list(itertools.combinations(sorted(children, key=graph.index), 2))
    return [(first, second) for first, second in dict.fromkeys(pairs)]
