"""Steps of a critic's gradients where its activation is piecewise linear, one function for each part of a fused kernel.

What they are for stands in :mod:`mdcm.kernels.critic.reference`. Rows are stacked over M modules of equal shape; those
of a critic step are B generated, B real and B points between them. All tensors are of one floating type.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "delta",
    "gp_norm_tangent",
    "lin_act",
    "masked",
    "penalty_seed",
    "row_signs",
    "tangent",
    "top_delta",
    "top_reduce",
    "wgrad",
]


def masked(grad: Tensor, hidden: Tensor, slope: float) -> Tensor:
    """``grad * phi'(z)``, read off h = phi(z), which has the sign of z."""
    found: Tensor = torch.ops.aten.leaky_relu_backward(grad, hidden, slope, True)
    return found


def lin_act(x: Tensor, weight: Tensor, bias: Tensor, slope: float) -> Tensor:
    """One layer forward, ``phi(x W' + b)`` with phi leaky ReLU.

    Args:
        x: ``[M, R, H_in]``.
        weight: ``[M, H_out, H_in]``.
        bias: ``[M, H_out]``.
        slope: Slope of phi below zero.

    Returns:
        ``[M, R, H_out]``.

    Example:
        >>> lin_act(torch.ones(1, 1, 2), torch.ones(1, 1, 2), torch.tensor([[-3.0]]), 0.5)
        tensor([[[-0.5000]]])
    """
    return F.leaky_relu_(torch.baddbmm(bias[:, None], x, weight.mT), slope)


def row_signs(rows: int, like: Tensor) -> Tensor:
    """Derivative of the loss in D for the rows of a critic step, and 1 for the points between, ``[3 B, 1]``."""
    signs = like.new_ones(3 * rows, 1)
    signs[:rows].fill_(1 / rows)
    signs[rows : 2 * rows].fill_(-1 / rows)
    return signs


def top_delta(hidden: Tensor, out: Tensor, signs: Tensor, slope: float) -> Tensor:
    """Delta of the last hidden layer, ``signs w phi'(z_L)``.

    Args:
        hidden: h_L, ``[M, R, H]``.
        out: w, ``[M, H]``.
        signs: Weight of each row, ``[R, 1]``.
        slope: Slope of phi below zero.

    Returns:
        ``[M, R, H]``.

    Example:
        >>> top_delta(torch.tensor([[[1.0, -1.0]]]), torch.ones(1, 2), torch.ones(1, 1), 0.5)
        tensor([[[1.0000, 0.5000]]])
    """
    return masked(signs * out[:, None], hidden, slope)


def delta(upper: Tensor, weight: Tensor, hidden: Tensor, slope: float) -> Tensor:
    """Delta of the layer below, ``(s_{l+1} W_{l+1}) phi'(z_l)``.

    A fused form for two hidden layers makes ``upper`` from h_2 and w, by :func:`top_delta`, as it goes.

    Args:
        upper: s_{l+1}, ``[M, R, H_{l+1}]``.
        weight: W_{l+1}, ``[M, H_{l+1}, H_l]``.
        hidden: h_l, ``[M, R, H_l]``.
        slope: Slope of phi below zero.

    Returns:
        s_l, ``[M, R, H_l]``.

    Example:
        >>> delta(torch.ones(1, 1, 1), torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[1.0, -1.0]]]), 0.5)
        tensor([[[3., 2.]]])
    """
    return masked(torch.bmm(upper, weight), hidden, slope)


def tangent(below: Tensor, weight: Tensor, hidden: Tensor, slope: float) -> Tensor:
    """Tangent of one layer, ``v_l = (v_{l-1} W_l') phi'(z_l)``.

    Args:
        below: v_{l-1}, ``[M, B, H_{l-1}]``.
        weight: W_l, ``[M, H_l, H_{l-1}]``.
        hidden: h_l, ``[M, B, H_l]``.
        slope: Slope of phi below zero.

    Returns:
        v_l, ``[M, B, H_l]``.

    Example:
        >>> tangent(torch.ones(1, 1, 1), torch.tensor([[[3.0], [4.0]]]), torch.tensor([[[1.0, -1.0]]]), 0.5)
        tensor([[[3., 2.]]])
    """
    return masked(torch.bmm(below, weight.mT), hidden, slope)


def penalty_seed(g: Tensor, penalty: float, one_sided: bool) -> tuple[Tensor, Tensor]:
    """Norm ``[M, B]`` and gradient in g, ``[M, B, D]``, of ``penalty * mean psi(|g|)``; zero at g = 0."""
    norm = torch.linalg.vector_norm(g, dim=-1, keepdim=True)
    excess = norm - 1
    if one_sided:
        excess = excess.clamp_min(0)
    # below this the squares of g are zero, and so is the norm
    unit = g / norm.clamp_min(torch.finfo(g.dtype).tiny ** 0.5)
    return norm[..., 0], unit.mul_(excess.mul_(2 * penalty / g.shape[1]))


def gp_norm_tangent(
    lowest: Tensor,
    weight: Tensor,
    hidden: Tensor,
    slope: float,
    *,
    penalty: float = 10.0,
    columns: Tensor | None = None,
    one_sided: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient norm at the points between, and the first two terms of the tangent pass.

    Args:
        lowest: s_1, ``[M, B, H_1]``.
        weight: W_1, ``[M, H_1, D]``.
        hidden: h_1, ``[M, B, H_1]``.
        slope: Slope of phi below zero.
        penalty: Factor of the penalty.
        columns: 1 where a column is penalised, else 0; ``[D]`` or ``[M, 1, D]``, None for all.
        one_sided: Whether only norms above 1 are penalised.

    Returns:
        The norm r of ``g = s_1 W_1``, ``[M, B]``; ``v_0 = penalty psi'(r) g / (B r)``, ``[M, B, D]``; v_1,
        ``[M, B, H_1]``.

    Example:
        >>> norm, v0, v1 = gp_norm_tangent(torch.ones(1, 1, 1), torch.tensor([[[3.0, 4.0]]]), torch.ones(1, 1, 1), 0.2)
        >>> norm.tolist(), v0.tolist()
        ([[5.0]], [[[48.0, 64.0]]])
    """
    g = torch.bmm(lowest, weight)
    if columns is not None:
        g *= columns
    norm, v0 = penalty_seed(g, penalty, one_sided)
    return norm, v0, tangent(v0, weight, hidden, slope)


def top_reduce(highest: Tensor, hidden: Tensor, out: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient in w, and mean D(fake) - mean D(real).

    A fused form for two hidden layers makes ``highest`` from v_1 and W_2, by :func:`tangent`, as it goes.

    Args:
        highest: v_L, ``[M, B, H]``.
        hidden: h_L, ``[M, 3 B, H]``.
        out: w, ``[M, H]``.
        signs: Weight of each row, ``[3 B, 1]``.

    Returns:
        ``[M, H]`` and ``[M]``.

    Example:
        >>> hidden, signs = torch.tensor([[[3.0], [1.0], [9.0]]]), torch.tensor([[1.0], [-1.0], [1.0]])
        >>> top_reduce(torch.ones(1, 1, 1), hidden, torch.tensor([[2.0]]), signs)
        (tensor([[3.]]), tensor([4.]))
    """
    rows = 2 * highest.shape[1]
    difference = torch.matmul(signs[:rows, 0], hidden[:, :rows])
    return difference + highest.sum(1), (difference * out).sum(-1)


def wgrad(deltas: Tensor, below: Tensor, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient in the weight and bias of one layer.

    Args:
        deltas: s_l, ``[M, 3 B, H_l]``.
        below: h_{l-1}, ``[M, >= 2 B, H_{l-1}]``, of which the fake and real rows count.
        tangents: v_{l-1} at the points between, ``[M, B, H_{l-1}]``.

    Returns:
        ``[M, H_l, H_{l-1}]`` and ``[M, H_l]``.

    Example:
        >>> deltas, below = torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[[1.0], [10.0], [7.0]]])
        >>> wgrad(deltas, below, torch.tensor([[[100.0]]]))
        (tensor([[[321.]]]), tensor([[3.]]))
    """
    rows = 2 * tangents.shape[1]
    compared = deltas[:, :rows]
    weight = torch.bmm(compared.mT, below[:, :rows])
    return weight.baddbmm_(deltas[:, rows:].mT, tangents), compared.sum(1)
