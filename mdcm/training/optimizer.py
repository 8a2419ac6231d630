"""Steps of AdamW on stacked weights: the optimiser of all training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.optim.adamw import adamw

__all__ = ["adamw_step"]

_EPS = 1e-8


def adamw_step(
    weights: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    moments: Sequence[Tensor],
    squares: Sequence[Tensor],
    counts: Tensor,
    rate: float | Tensor,
    betas: tuple[float, float],
    decays: Sequence[float] = (),
    skip: Tensor | None = None,
) -> None:
    """Take a step of AdamW in place, without waiting for the device; weights without a gradient stay unchanged.

    A weight whose moments and gradient are all zero keeps its bits, unless it decays.

    Args:
        weights: Weights.
        grads: Gradient of each weight, or None; a first axis of size 1 may be missing.
        moments: First moments, of the shapes of the weights.
        squares: Second moments, likewise.
        counts: Number of earlier steps of each weight, float32.
        rate: Learning rate, a number or a tensor on the device.
        betas: Decays of the moments.
        decays: Weight decay of each weight; zero by default.
        skip: Nonzero to change nothing, a float32 scalar; by default the step is always taken.

    References:
        Loshchilov & Hutter (2019), https://arxiv.org/abs/1711.05101, Algorithm 2.

    Example:
        >>> import torch
        >>> weight, moment, square = torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2)
        >>> adamw_step([weight], [torch.ones(2)], [moment], [square], torch.zeros(1), 0.1, (0.9, 0.999))
        >>> weight
        tensor([[-0.1000, -0.1000]])
    """
    by_decay: dict[float, list[int]] = {}
    for index, (grad, decay) in enumerate(zip(grads, decays or [0.0] * len(grads), strict=True)):
        if grad is not None:
            by_decay.setdefault(decay, []).append(index)
    steps = counts.unbind()
    for decay, indices in by_decay.items():
        adamw(
            [weights[index] for index in indices],
            [grads[index].view_as(weights[index]) for index in indices],  # type: ignore[union-attr]
            [moments[index] for index in indices],
            [squares[index] for index in indices],
            [],
            [steps[index] for index in indices],
            fused=True,
            amsgrad=False,
            beta1=betas[0],
            beta2=betas[1],
            lr=rate,
            weight_decay=decay,
            eps=_EPS,
            maximize=False,
            found_inf=skip,
        )
