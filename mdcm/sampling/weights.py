"""Importance weights of rows: effective sample size and systematic resampling."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["effective_size", "largest_share", "systematic"]


def effective_size(log_weight: Tensor) -> float:
    """Effective sample size, (sum w)^2 / sum w^2; 0 if all weights are zero.

    References:
        Kong (1992), A note on importance sampling using standardized weights.

    Example:
        >>> effective_size(torch.tensor([0.0, 0.0, -torch.inf]))
        2.0
    """
    weight = _scaled(log_weight)
    squares = float(weight.square().sum())
    return float(weight.sum()) ** 2 / squares if squares > 0 else 0.0


def largest_share(log_weight: Tensor) -> float:
    """Largest weight as a share of the total; 1 if all weights are zero."""
    weight = _scaled(log_weight)
    total = float(weight.sum())
    return float(weight.max()) / total if total > 0 else 1.0


def systematic(log_weight: Tensor, num_samples: int, uniform: float) -> Tensor:
    """Systematic resampling: index i occurs floor(n w_i) or ceil(n w_i) times, with w_i its normalised weight.

    Args:
        log_weight: Log weights, ``[m]``, at least one of them finite.
        num_samples: The number n of indices.
        uniform: A number in [0, 1).

    Returns:
        int64 ``[n]``, ascending.

    References:
        Kitagawa (1996), Monte Carlo filter and smoother for non-Gaussian nonlinear state space models.

    Example:
        >>> systematic(torch.tensor([0.0, -torch.inf, 0.0]), 4, 0.5).tolist()
        [0, 0, 2, 2]
    """
    cumulative = _scaled(log_weight).cumsum(0)
    points = (torch.arange(num_samples, dtype=torch.float64) + uniform) / num_samples * cumulative[-1]
    last = int(torch.nonzero(log_weight.isfinite())[-1])
    return torch.searchsorted(cumulative, points, right=True).clamp_max(last)


def _scaled(log_weight: Tensor) -> Tensor:
    top = log_weight.double().max()
    return (log_weight.double() - top).exp() if bool(top.isfinite()) else torch.zeros(len(log_weight)).double()
