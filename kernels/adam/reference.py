"""Adam for many modules at once, on flat parameters."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["adam_flat", "check_adam"]


def check_adam(
    params: Tensor,
    grads: Tensor,
    first: Tensor,
    second: Tensor,
    steps: Tensor,
    lr: Tensor,
    active: Tensor,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Raise ValueError unless parameters, gradients and the state of the optimiser fit each other."""
    modules = params.shape[0]
    if params.dim() != 2 or not params.shape == first.shape == second.shape == grads.shape:
        raise ValueError(
            f"params, moments and grads must be [M, P], not {list(params.shape)}, {list(first.shape)}, "
            f"{list(second.shape)} and {list(grads.shape)}"
        )
    if not steps.shape == lr.shape == active.shape == (modules,):
        raise ValueError(
            f"steps, lr and active must be [{modules}], not {list(steps.shape)}, {list(lr.shape)} and "
            f"{list(active.shape)}"
        )
    if steps.dtype != torch.int64 or active.dtype != torch.bool:
        raise ValueError(f"steps must be int64 and active bool, not {steps.dtype} and {active.dtype}")
    if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1 and eps > 0):
        raise ValueError(f"betas {betas} must be in [0, 1), and eps {eps} positive")


@torch.no_grad()
def adam_flat(
    params: Tensor,
    grads: Tensor,
    first: Tensor,
    second: Tensor,
    steps: Tensor,
    lr: Tensor,
    active: Tensor,
    *,
    betas: tuple[float, float] = (0.5, 0.9),
    eps: float = 1e-8,
) -> None:
    """One step of Adam for every active module, in place; the others keep parameters, moments and step bit for bit.

    Args:
        params: ``[M, P]``, changed.
        grads: Gradients ``[M, P]``; those of a module that is not active may hold anything, even NaN.
        first: Moving mean of gradients ``[M, P]``, zero at first, changed.
        second: Moving mean of their squares ``[M, P]``, zero at first, changed.
        steps: Steps taken by each module, int64 ``[M]``, changed.
        lr: Learning rate of each module, ``[M]``.
        active: Whether a module is trained, bool ``[M]``. Like lr and steps it stays on the device.
        betas: Decay of both means, each in [0, 1).
        eps: Added to the root of the second moment, positive.

    Raises:
        ValueError: If shapes or types do not fit, or a decay or eps is out of range.

    References:
        Kingma & Ba (2015), "Adam: a method for stochastic optimization", https://arxiv.org/abs/1412.6980, Algorithm 1.

    Example:
        >>> params, steps = torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)
        >>> moments, active = (torch.zeros(2, 1), torch.zeros(2, 1)), torch.tensor([True, False])
        >>> adam_flat(params, torch.ones(2, 1), *moments, steps, torch.tensor([0.1, 0.1]), active)
        >>> params.tolist(), steps.tolist()
        ([[-0.10000000149011612], [0.0]], [1, 0])
    """
    check_adam(params, grads, first, second, steps, lr, active, betas, eps)
    steps += active
    on = active[:, None]
    first.copy_(torch.where(on, torch.lerp(first, grads, 1 - betas[0]), first))
    second.copy_(torch.where(on, second * betas[1] + (1 - betas[1]) * grads * grads, second))
    # in double precision, where 1 - beta^t is exact enough for any beta
    taken = steps.double()[:, None]
    unbiased = 1 - betas[0] ** taken
    root = (1 - betas[1] ** taken).sqrt()
    rate = (lr.double()[:, None] / unbiased).to(params.dtype)
    change = rate * first / (second.sqrt() / root.to(params.dtype) + eps)
    params.copy_(torch.where(on, params - change, params))
