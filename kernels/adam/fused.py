"""Fused Adam: K10 in Triton, the operation of :mod:`mdcm.kernels.adam.reference`, one launch for all modules.

With gradient g and t the number of steps,

    m <- m + (1 - b_1) (g - m),    v <- b_2 v + (1 - b_2) g^2,
    p <- p - lr / (1 - b_1^t) m / (sqrt(v / (1 - b_2^t)) + eps).

The corrections are made in float64, where ``1 - b^t`` is exact enough for any b. A module that is not active is not
read at all.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from mdcm.kernels import configs
from mdcm.kernels.adam import reference
from mdcm.kernels.adam.reference import check_adam
from mdcm.kernels.launch import blocks, jit, launch, vector_of

__all__ = ["adam_flat"]


@jit
def _power(base: tl.tensor, exponent: tl.tensor) -> Any:
    """``base`` to a whole power, by squaring."""
    found = base * 0.0 + 1.0
    while exponent > 0:
        found = tl.where(exponent % 2 == 1, found * base, found)
        base *= base
        exponent = exponent // 2
    return found


@jit
def _adam_flat(
    params: tl.tensor,
    grads: tl.tensor,
    first: tl.tensor,
    second: tl.tensor,
    steps: tl.tensor,
    lr: tl.tensor,
    active: tl.tensor,
    size: tl.tensor,
    tiles: tl.tensor,
    eps: tl.tensor,
    BETA_1: tl.constexpr,
    BETA_2: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """K10, after the steps of active modules were counted; the size is in units of VECTOR elements."""
    size *= VECTOR
    i_m = (tl.program_id(0) // tiles).to(tl.int64)
    if tl.load(active + i_m):
        o_i = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
        m_i = o_i < size
        o_p = i_m * size + o_i
        b_g = tl.load(grads + o_p, mask=m_i, other=0.0)
        b_m = tl.load(first + o_p, mask=m_i, other=0.0)
        b_v = tl.load(second + o_p, mask=m_i, other=0.0)
        b_m += (1.0 - BETA_1) * (b_g - b_m)
        b_v = b_v * BETA_2 + (1.0 - BETA_2) * b_g * b_g
        tl.store(first + o_p, b_m, mask=m_i)
        tl.store(second + o_p, b_v, mask=m_i)
        taken = tl.load(steps + i_m)
        unbiased = 1.0 - _power(tl.full((), BETA_1, dtype=tl.float64), taken)
        root = tl.sqrt(1.0 - _power(tl.full((), BETA_2, dtype=tl.float64), taken)).to(tl.float32)
        rate = (tl.load(lr + i_m).to(tl.float64) / unbiased).to(tl.float32)
        b_d = tl.div_rn(tl.sqrt_rn(b_v), root + tl.zeros_like(b_v)) + eps
        b_p = tl.load(params + o_p, mask=m_i, other=0.0)
        tl.store(params + o_p, b_p - tl.div_rn(rate * b_m, b_d), mask=m_i)


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
    """K10: fused form of :func:`mdcm.kernels.adam.reference.adam_flat`, which says what it does.

    Other types than float32, and what is changed in place but does not lie in one piece, are left to the twin.
    """
    check_adam(params, grads, first, second, steps, lr, active, betas, eps)
    changed = (params, first, second)
    if any(one.dtype != torch.float32 for one in (*changed, grads)) or params.numel() == 0:
        fits = False
    else:
        fits = all(one.is_contiguous() for one in (*changed, steps))
    if not fits:
        reference.adam_flat(params, grads, first, second, steps, lr, active, betas=betas, eps=eps)
        return
    steps += active
    config = configs.SHIPPED["adam_flat"][0]
    modules, size = params.shape
    tiles = blocks(size, config.tile["BLOCK"])
    vector = vector_of(size)
    tensors = (*(params, grads.contiguous(), first, second), *(steps, lr.contiguous(), active.contiguous()))
    launch(
        _adam_flat,
        (modules * tiles,),
        config,
        *(*tensors, size // vector, tiles, float(eps)),
        BETA_1=float(betas[0]),
        BETA_2=float(betas[1]),
        VECTOR=vector,
    )
