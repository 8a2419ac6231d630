"""Plain regressions that a fit of numbers with hidden confounders must not be worse than."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from mdcm.mechanisms.regression import least_squares
from mdcm.training.losses import effective_rows

if TYPE_CHECKING:
    from mdcm.mechanisms import Mechanism
    from mdcm.training.rows import FitRows

__all__ = ["is_behind", "regression_losses"]

# Newton's steps of a logistic regression, and its ridge in rows
_STEPS, _RIDGE = 25, 1.0
# nats over all rows by which regressions must be better for another training: a direction in which a fit is off by two
# standard errors costs so much, and is lost among what differs from row to row
_NATS = 2.0


def is_behind(mean: float, rows: float) -> bool:
    """Whether a fit leaves so much to regressions that another one is worth a try: two nats over all of the rows.

    Args:
        mean: Nats per row by which regressions are better.
        rows: Equally weighted rows that the rows are worth.
    """
    # written so that NaN counts as worse
    return not mean * rows <= _NATS


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
        weight = fit.mass(train)
        total = torch.zeros(len(test), dtype=torch.float64)
        known: dict[str, Tensor] = {}
        for name in fit.variables:
            mechanism = mechanisms[name]
            if any(one.kind == "image" or one.size is not None for one in (mechanism.variable, *mechanism.parents)):
                return None
            known |= {parent.name: fit.values[parent.name] for parent in mechanism.parents}
            x = _features(known, len(fit.place))
            y = fit.values[name]
            judge = _logistic if mechanism.variable.kind == "categorical" else _normal
            loss, numbers = judge(x[train], y[train], weight / weight.mean(), x[test], y[test])
            # on rows that it has seen a regression is better by half a row's worth of every number than on others
            total += loss + numbers / effective_rows([weight])
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


def _normal(x: Tensor, y: Tensor, weight: Tensor, at: Tensor, value: Tensor) -> tuple[Tensor, int]:
    root = weight.sqrt()[:, None]
    slopes = least_squares(x * root, y.double()[:, None] * root)
    left = y.double() - (x @ slopes).squeeze(1)
    spread = (left.square() * weight).mean().sqrt().clamp_min(1e-6)
    gap = (value.double() - (at @ slopes).squeeze(1)) / spread
    return gap.square() / 2 + spread.log() + math.log(2 * math.pi) / 2, x.shape[1] + 1


def _logistic(x: Tensor, y: Tensor, weight: Tensor, at: Tensor, value: Tensor) -> tuple[Tensor, int]:
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
    return -table.log_softmax(1).gather(1, value[:, None]).squeeze(1), levels * x.shape[1]
