"""Plain regressions, as a reference for fits of numbers with hidden confounders."""

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

# Newton steps of a logistic regression, and its ridge penalty in rows
_STEPS, _RIDGE = 25, 1.0
# likelihood ratio, in nats over all rows, above which a fit is behind: the cost of one direction that is off by two
# standard errors, which the variation between rows would hide
_NATS = 2.0


def is_behind(mean: float, rows: float) -> bool:
    """Whether regressions are better than a fit by more than two nats over all rows.

    Args:
        mean: Nats per row by which regressions are better.
        rows: Effective number of rows.
    """
    # written so that NaN counts as worse
    return not mean * rows <= _NATS


def regression_losses(
    mechanisms: Mapping[str, Mechanism], fits: Sequence[FitRows], held_out: Tensor, tested: Tensor | None = None
) -> Tensor | None:
    """Negative log-likelihood of rows by regressions of every variable on the earlier ones.

    The c-factor of a fit is the product over its variables, in topological order, of their conditional distributions
    given the earlier ones and the parents of all of these. Here each is a regression on numbers, their squares and
    levels: by least squares with normal residuals for a number, logistic for levels. They need no hidden states, so
    that a fit with too few states falls behind where a linear dependence is strong.

    Args:
        mechanisms: Mechanisms of the variables.
        fits: Their rows.
        held_out: Mask of the held-out rows of the h-node, to which regressions are not fitted.
        tested: Rows of the h-node to evaluate; all by default. Regressions have so few coefficients that training rows
            are as informative as held-out ones, and there are ten times as many.

    Returns:
        Losses ``[n]`` of these rows in nats, fit by fit; None if a variable is a vector or an image.

    References:
        Tian & Pearl (2002), A general identification condition for causal effects, lemma 1.
    """
    losses = []
    for fit in fits:
        train = fit.local((~held_out).nonzero().squeeze(1))
        test = torch.arange(len(fit.index)) if tested is None else fit.local(tested)
        assert train is not None
        assert test is not None
        if not len(test):
            continue
        weight = fit.mass(train)
        total = torch.zeros(len(test), dtype=torch.float64)
        known: dict[str, Tensor] = {}
        for name in fit.variables:
            mechanism = mechanisms[name]
            if any(v.kind == "image" or v.size is not None for v in (mechanism.variable, *mechanism.parents)):
                return None
            known |= {parent.name: fit.values[parent.name] for parent in mechanism.parents}
            x = _features(known, len(fit.index))
            y = fit.values[name]
            regression = _logistic if mechanism.variable.kind == "categorical" else _normal
            loss, coefficients = regression(x[train], y[train], weight / weight.mean(), x[test], y[test])
            # correction for overfitting, by one nat over all rows per coefficient (Akaike)
            total += loss + coefficients / effective_rows([weight])
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


def _normal(x: Tensor, y: Tensor, weight: Tensor, x_test: Tensor, y_test: Tensor) -> tuple[Tensor, int]:
    """Losses of test rows by least squares, and the number of coefficients."""
    root = weight.sqrt()[:, None]
    slopes = least_squares(x * root, y.double()[:, None] * root)
    residual = y.double() - (x @ slopes).squeeze(1)
    spread = (residual.square() * weight).mean().sqrt().clamp_min(1e-6)
    score = (y_test.double() - (x_test @ slopes).squeeze(1)) / spread
    return score.square() / 2 + spread.log() + math.log(2 * math.pi) / 2, x.shape[1] + 1


def _logistic(x: Tensor, y: Tensor, weight: Tensor, x_test: Tensor, y_test: Tensor) -> tuple[Tensor, int]:
    """Losses of test rows by one-versus-rest logistic regressions, normalised, and the number of coefficients."""
    levels = int(max(int(y.max()), int(y_test.max()))) + 1
    logits = []
    for level in range(levels):
        hit = (y == level).double()
        slopes = torch.zeros(x.shape[1], 1, dtype=torch.float64)
        for _ in range(_STEPS):
            share = torch.sigmoid(x @ slopes).squeeze(1)
            scale = (weight * share * (1 - share)).clamp_min(1e-9).sqrt()[:, None]
            step = least_squares(x * scale, (weight * (hit - share))[:, None] / scale, ridge=_RIDGE)
            slopes = slopes + step.clamp(-2, 2)
        logits.append((x_test @ slopes).squeeze(1))
    table = F.logsigmoid(torch.stack(logits, 1))
    return -table.log_softmax(1).gather(1, y_test[:, None]).squeeze(1), levels * x.shape[1]
