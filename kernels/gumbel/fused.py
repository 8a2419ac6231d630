"""Fused Gumbel races: K1 and K2 in Triton, the same operations as in :mod:`mdcm.kernels.gumbel.reference`.

Forward, with s = l + G and one variable's levels k,

    draw = onehot(argmax s)    or    p = softmax(s / tau),

backward ``dl = p (y' - <p, y'>) / tau``, for hard draws too.

A program takes PAIRS pairs of a row and a variable of one module, each with its levels padded to a power of two.
Variables of equal padded size run together, in one launch; within a module their pairs lie next to each other, so that
equal variables are read and written in one piece.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from mdcm.kernels import configs
from mdcm.kernels.gumbel import reference
from mdcm.kernels.gumbel.reference import Packing, check_race, differentiable
from mdcm.kernels.launch import blocks, jit, launch

__all__ = ["gumbel_softmax", "gumbel_st_bwd", "gumbel_st_fwd"]


@jit
def _pairs(
    variables: tl.tensor,
    offsets: tl.tensor,
    batch: tl.tensor,
    width: tl.tensor,
    pairs: tl.tensor,
    count: tl.tensor,
    tiles: tl.tensor,
    WIDE: tl.constexpr,
    PAIRS: tl.constexpr,
    LEVELS: tl.constexpr,
) -> Any:
    """Where the levels of this program's pairs lie.

    Returns:
        Number of each level, ``[1, LEVELS]``; its place in the logits, whether it is one of its variable, and whether
        it is to be stored, ``[PAIRS, LEVELS]``.
    """
    i_m = (tl.program_id(0) // tiles).to(tl.int64)
    i_t = tl.program_id(0) % tiles
    if WIDE:
        i_t = i_t.to(tl.int64)
    o_p = i_t * PAIRS + tl.arange(0, PAIRS)
    m_p = o_p < pairs
    # past the end the first pair is computed again and not stored, so that every number is one of the data
    o_p = tl.where(m_p, o_p, 0)
    o_v = tl.load(variables + o_p % count)
    first = tl.load(offsets + o_v)
    size = tl.load(offsets + o_v + 1) - first
    o_r = i_m * batch + (o_p // count).to(tl.int64)
    o_k = tl.arange(0, LEVELS)[None, :]
    m_k = o_k < size[:, None]
    return o_k, (o_r * width + first)[:, None] + o_k, m_k, m_k & m_p[:, None]


@jit
def _gumbel_st_fwd(
    logits: tl.tensor,
    noise: tl.tensor,
    drawn: tl.tensor,
    tau: tl.tensor,
    variables: tl.tensor,
    offsets: tl.tensor,
    batch: tl.tensor,
    width: tl.tensor,
    pairs: tl.tensor,
    count: tl.tensor,
    tiles: tl.tensor,
    HARD: tl.constexpr,
    WIDE: tl.constexpr,
    PAIRS: tl.constexpr,
    LEVELS: tl.constexpr,
) -> None:
    """K1: draws."""
    o_k, o_l, m_k, m_s = _pairs(variables, offsets, batch, width, pairs, count, tiles, WIDE, PAIRS, LEVELS)
    # [PAIRS, LEVELS] from here on
    b_s = tl.load(logits + o_l, mask=m_k, other=float("-inf")) + tl.load(noise + o_l, mask=m_k, other=0.0)
    if HARD:
        b_y = tl.where(o_k == tl.argmax(b_s, axis=1)[:, None], 1.0, 0.0)
    else:
        b_e = tl.exp((b_s - tl.max(b_s, axis=1)[:, None]) / tl.load(tau))
        b_y = b_e / tl.sum(b_e, axis=1)[:, None]
    tl.store(drawn + o_l, b_y, mask=m_s)


@jit
def _gumbel_st_bwd(
    logits: tl.tensor,
    noise: tl.tensor,
    grad: tl.tensor,
    found: tl.tensor,
    tau: tl.tensor,
    variables: tl.tensor,
    offsets: tl.tensor,
    batch: tl.tensor,
    width: tl.tensor,
    pairs: tl.tensor,
    count: tl.tensor,
    tiles: tl.tensor,
    WIDE: tl.constexpr,
    PAIRS: tl.constexpr,
    LEVELS: tl.constexpr,
) -> None:
    """K2: gradient in the logits."""
    _o_k, o_l, m_k, m_s = _pairs(variables, offsets, batch, width, pairs, count, tiles, WIDE, PAIRS, LEVELS)
    # [PAIRS, LEVELS] from here on
    b_s = tl.load(logits + o_l, mask=m_k, other=float("-inf")) + tl.load(noise + o_l, mask=m_k, other=0.0)
    b_dy = tl.load(grad + o_l, mask=m_k, other=0.0)
    temperature = tl.load(tau)
    b_e = tl.exp((b_s - tl.max(b_s, axis=1)[:, None]) / temperature)
    b_p = b_e / tl.sum(b_e, axis=1)[:, None]
    b_inner = tl.sum(b_p * b_dy, axis=1)[:, None]
    tl.store(found + o_l, b_p * (b_dy - b_inner) / temperature, mask=m_s)


# ---- launchers


class _Bucket(NamedTuple):
    """Variables of one padded size: that size, and their places, int32 ``[m]``."""

    levels: int
    variables: Tensor


# kept as long as the packing is, so that a captured graph finds them
_BUCKETS: weakref.WeakKeyDictionary[Packing, tuple[_Bucket, ...]] = weakref.WeakKeyDictionary()


def _buckets(packing: Packing) -> tuple[_Bucket, ...]:
    if packing not in _BUCKETS:
        alike: dict[int, list[int]] = {}
        for place, size in enumerate(packing.sizes):
            alike.setdefault(max(4, 1 << (size - 1).bit_length()), []).append(place)
        _BUCKETS[packing] = tuple(
            _Bucket(levels, torch.tensor(places, dtype=torch.int32, device=packing.device))
            for levels, places in sorted(alike.items())
        )
    return _BUCKETS[packing]


def _fits(logits: Tensor, packing: Packing, tau: float | Tensor) -> bool:
    """Whether the kernels can take it; the rest is left to the twin."""
    small = max(packing.sizes) <= configs.SHIPPED["gumbel_st_fwd"][-1].tile["LEVELS"]
    scalar = not isinstance(tau, Tensor) or tau.numel() == 1
    return logits.dtype == torch.float32 and logits.numel() > 0 and small and scalar


def _run(kernel: Any, name: str, packing: Packing, logits: Tensor, *tensors: Tensor, **constants: bool) -> None:
    """Launch a kernel on the variables of each padded size."""
    batch, width = logits.shape[-2:]
    modules = logits.numel() // (batch * width)
    for levels, variables in _buckets(packing):
        config = configs.race(name, levels)
        count = len(variables)
        tiles = blocks(batch * count, config.tile["PAIRS"])
        given = (logits, *tensors, variables, packing.offsets, batch, width, batch * count, count, tiles)
        wide = tiles * config.tile["PAIRS"] >= 2**31
        launch(kernel, (modules * tiles,), config, *given, **constants, WIDE=wide)


def _on_device(tau: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(tau, Tensor):
        return tau.to(like)
    return torch.full((), tau, dtype=like.dtype, device=like.device)


def gumbel_st_fwd(logits: Tensor, packing: Packing, tau: float | Tensor, noise: Tensor, *, hard: bool = True) -> Tensor:
    """K1: :func:`mdcm.kernels.gumbel.reference.gumbel_st_fwd`, one launch per padded number of levels."""
    check_race(logits, packing, tau, noise)
    if not _fits(logits, packing, tau):
        return reference.gumbel_st_fwd(logits, packing, tau, noise, hard=hard)
    logits, noise = logits.contiguous(), noise.to(logits.dtype).contiguous()
    drawn = torch.empty_like(logits)
    _run(_gumbel_st_fwd, "gumbel_st_fwd", packing, logits, noise, drawn, _on_device(tau, logits), HARD=hard)
    return drawn


def gumbel_st_bwd(logits: Tensor, grad: Tensor, packing: Packing, tau: float | Tensor, noise: Tensor) -> Tensor:
    """K2: :func:`mdcm.kernels.gumbel.reference.gumbel_st_bwd`, one launch per padded number of levels."""
    check_race(logits, packing, tau, noise)
    if not _fits(logits, packing, tau):
        return reference.gumbel_st_bwd(logits, grad, packing, tau, noise)
    logits, noise, grad = (one.to(logits.dtype).contiguous() for one in (logits, noise, grad))
    found = torch.empty_like(logits)
    _run(_gumbel_st_bwd, "gumbel_st_bwd", packing, logits, noise, grad, found, _on_device(tau, logits))
    return found


def gumbel_softmax(
    logits: Tensor, packing: Packing, tau: float | Tensor, noise: Tensor, *, hard: bool = True
) -> Tensor:
    """Fused form of :func:`mdcm.kernels.gumbel.reference.gumbel_softmax`, which says what it does.

    Other types than float32, and variables of more than 1024 levels, are left to the twin.
    """
    return differentiable(logits, packing, tau, noise, hard, (gumbel_st_fwd, gumbel_st_bwd))
