"""A hidden layer of a generator: linear, batch normalisation, ReLU, stacked over modules."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bn_relu_bwd", "check_batch", "lin_bn_relu_fwd"]


def check_batch(rows: int) -> None:
    """Raise ValueError unless a batch has a variance."""
    if rows < 2:
        raise ValueError(f"batch normalisation needs at least 2 rows, not {rows}")


@torch.no_grad()
def lin_bn_relu_fwd(
    x: Tensor,
    weight: Tensor,
    gain: Tensor,
    shift: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """``relu(gain * n + shift)`` with n the columns of ``x W'`` standardised over the batch.

    Running statistics move on. The layer has no bias: standardising would take it away.

    Args:
        x: ``[M, B, H_in]``, B at least 2.
        weight: ``[M, H, H_in]``.
        gain: ``[M, H]``.
        shift: ``[M, H]``.
        running_mean: ``[M, H]``, changed.
        running_var: ``[M, H]``, of the unbiased variance, changed.
        momentum: Share of the batch in the running statistics.
        eps: Added to the variance.

    Returns:
        Output and n, ``[M, B, H]``, and one over the standard deviation, ``[M, H]``.

    Raises:
        ValueError: If the batch has a single row, which has no variance.

    References:
        Ioffe & Szegedy (2015), "Batch normalization", https://arxiv.org/abs/1502.03167, Algorithm 1.

    Example:
        >>> one, zero = torch.ones(1, 1), torch.zeros(1, 1)
        >>> x = torch.tensor([[[1.0], [3.0]]])
        >>> output, _, _ = lin_bn_relu_fwd(x, one[None], one, zero, zero.clone(), one.clone())
        >>> [round(float(value), 3) for value in output.flatten()]
        [0.0, 1.0]
    """
    rows = x.shape[1]
    check_batch(rows)
    z = torch.bmm(x, weight.mT)
    mean = z.mean(1)
    centred = z - mean[:, None]
    variance = centred.square().mean(1)
    inverse = (variance + eps).rsqrt()
    unit = centred * inverse[:, None]
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(variance * (rows / (rows - 1)), momentum)
    return (unit * gain[:, None] + shift[:, None]).relu_(), unit, inverse


@torch.no_grad()
def bn_relu_bwd(
    grad: Tensor, output: Tensor, unit: Tensor, inverse: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of :func:`lin_bn_relu_fwd` before the normalisation, in the gain and in the shift.

    Args:
        grad: Gradient in the output, ``[M, B, H]``.
        output: The output.
        unit: The standardised columns n.
        inverse: One over their standard deviation, ``[M, H]``.
        gain: ``[M, H]``.

    Returns:
        Gradient in ``x W'``, ``[M, B, H]``; in gain and shift, ``[M, H]``.

    References:
        Ioffe & Szegedy (2015), section 3.

    Example:
        >>> one = torch.ones(1, 2, 1)
        >>> bn_relu_bwd(one, one, torch.tensor([[[-1.0], [1.0]]]), one[:, 0], one[:, 0])[2]
        tensor([[2.]])
    """
    passed = torch.where(output > 0, grad, 0.0)
    in_gain = (passed * unit).sum(1)
    in_shift = passed.sum(1)
    rows = grad.shape[1]
    level = in_shift[:, None] / rows + unit * in_gain[:, None] / rows
    return (gain * inverse)[:, None] * (passed - level), in_gain, in_shift
