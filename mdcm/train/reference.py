"""Plain regressions that a fit of numbers with hidden confounders must not be worse than."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mdcm.mechanisms.regression import least_squares
from mdcm.train.problems import Losses

if TYPE_CHECKING:
    from mdcm.mechanisms import Mechanism
    from mdcm.train.rows import FitRows

__all__ = ["regression_losses", "worse_than_regressions"]

# Newton's steps of a logistic regression, and its ridge in rows
_STEPS, _RIDGE = 25, 1.0
# standard errors by which a fit may be behind, beyond so many nats that another training would not be worth
_ERRORS, _NATS = 2.0, 0.02


def worse_than_regressions(found: Losses, reference: Tensor) -> bool:
    """Whether losses are behind those of regressions by more than 0.02 nats and two standard errors."""
    gap = found.loss.cpu().double() - reference
    weight = found.weight.cpu().double()
    mean = float((gap * weight).sum())
    error = math.sqrt(float(((gap - mean).square() * weight).sum()) / found.rows)
    # written so that NaN counts as worse
    return not mean <= _NATS + _ERRORS * error


def regression_losses(
    mechanisms: Mapping[str, Mechanism], fits: Sequence[FitRows], held: Tensor, judged: Tensor | None = None
) -> Tensor | None:
    """Negative log-likelihood of rows by regressions of every variable on what comes before it.

    The c-factor of a fit is the product over its variables, in topological order, of their conditional distributions
    given the earlier ones and the parents of all of these. Here each is a regression on numbers, their squares and
    levels: by least squares with normal residuals for a number, logistic for levels. No hidden state is needed for
    them, so that a fit with too few states is behind where a linear dependence is strong.

    Args:
        mechanisms: Mechanisms of the variables.
        fits: Their rows.
        held: Mask of the rows of the h-node that are held out, and not regressed on.
        judged: Numbers of the rows that are judged; all by default. Regressions have so few numbers to estimate that
            rows they have seen tell as much as others, and there are ten times as many.

    Returns:
        Losses ``[n]`` in nats of these rows, fit by fit; None where a variable is a vector or an image.

    References:
        Tian & Pearl (2002), A general identification condition for causal effects, lemma 1.
    """
    losses = []
    for fit in fits:
        train = fit.local((~held).nonzero().squeeze(1))
        test = torch.arange(len(fit.place)) if judged is None else fit.local(judged)
        assert train is not None
        assert test is not None
        if not len(test):
            continue
        weight = torch.ones(len(train), dtype=torch.float64) if fit.weight is None else fit.weight[train].double()
        total = torch.zeros(len(test), dtype=torch.float64)
        known: dict[str, Tensor] = {}
        for name in fit.variables:
            mechanism = mechanisms[name]
            if any(one.kind == "image" or one.size is not None for one in (mechanism.variable, *mechanism.parents)):
                return None
            known |= {parent.name: fit.values[parent.name] for parent in mechanism.parents}
            x = _features(known, len(fit.place))
            y = fit.values[name]
            found = _logistic if mechanism.variable.kind == "categorical" else _normal
            total += found(x[train], y[train], weight / weight.mean(), x[test], y[test])
            known[name] = y
        losses.append(total)
    return torch.cat(losses)


def _features(columns: Mapping[str, Tensor], rows: int) -> Tensor:
    """Numbers, their squares and levels, float64 ``[n, k]`` with a column of ones."""
    parts = [torch.ones(rows, 1, dtype=torch.float64)]
    for column in columns.values():
        if column.is_floating_point():
            number = column.double()
            number = (number - number.mean()) / number.std(correction=0).clamp_min(1e-12)
            parts.append(torch.stack([number, number.square()], 1))
        else:
            parts.append(F.one_hot(column)[:, 1:].double())
    return torch.cat(parts, 1)


def _normal(x: Tensor, y: Tensor, weight: Tensor, at: Tensor, value: Tensor) -> Tensor:
    root = weight.sqrt()[:, None]
    slopes = least_squares(x * root, y.double()[:, None] * root)
    left = y.double() - (x @ slopes).squeeze(1)
    spread = (left.square() * weight).mean().sqrt().clamp_min(1e-6)
    gap = (value.double() - (at @ slopes).squeeze(1)) / spread
    return gap.square() / 2 + spread.log() + math.log(2 * math.pi) / 2


def _logistic(x: Tensor, y: Tensor, weight: Tensor, at: Tensor, value: Tensor) -> Tensor:
    """One level against all, normalised: not the best of regressions, and good enough to be behind of."""
    levels = int(max(int(y.max()), int(value.max()))) + 1
    logits = []
    for level in range(levels):
        hit = (y == level).double()
        slopes = torch.zeros(x.shape[1], 1, dtype=torch.float64)
        for _ in range(_STEPS):
            share = torch.sigmoid(x @ slopes).squeeze(1)
            scale = (weight * share * (1 - share)).clamp_min(1e-9).sqrt()[:, None]
            step = least_squares(x * scale, (weight * (hit - share))[:, None] / scale, ridge=_RIDGE)
            slopes = slopes + step.clamp(-2, 2)
        logits.append((at @ slopes).squeeze(1))
    table = F.logsigmoid(torch.stack(logits, 1))
    return -table.log_softmax(1).gather(1, value[:, None]).squeeze(1)
