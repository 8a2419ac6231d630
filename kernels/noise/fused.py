"""Fused rows of uniform numbers: K12 in Triton, one operation of :mod:`mdcm.kernels.noise.reference`.

All that a training step draws, for all h-nodes that take it, in one launch: each row belongs to an h-node, whose seed
it has, so that an h-node draws the same alone and among others. The words are those of the twin, bit for bit.

References:
    Salmon, Moraes, Dror & Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", Philox4x32-10.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from mdcm.kernels import configs
from mdcm.kernels.launch import blocks, jit, launch, vector_of
from mdcm.kernels.noise.reference import STREAM_BATCH, check_seeds

__all__ = ["seeded_uniform"]

_BATCH = tl.constexpr(STREAM_BATCH)


@jit
def _philox4x32(c0: tl.tensor, c1: tl.tensor, c2: tl.tensor, c3: tl.tensor, k0: tl.tensor, k1: tl.tensor) -> Any:
    """Four blocks of words for a counter of four blocks and a key of two numbers, all uint32."""
    multiplier_0: tl.constexpr = 0xD2511F53
    multiplier_1: tl.constexpr = 0xCD9E8D57
    weyl_0: tl.constexpr = 0x9E3779B9
    weyl_1: tl.constexpr = 0xBB67AE85
    for _ in tl.static_range(10):
        high_0 = tl.umulhi(c0, multiplier_0)
        high_1 = tl.umulhi(c2, multiplier_1)
        low_0 = tl.mul(c0, multiplier_0, sanitize_overflow=False)
        low_1 = tl.mul(c2, multiplier_1, sanitize_overflow=False)
        c0 = high_1 ^ c1 ^ k0
        c2 = high_0 ^ c3 ^ k1
        c1 = low_1
        c3 = low_0
        k0 = tl.add(k0, weyl_0, sanitize_overflow=False)
        k1 = tl.add(k1, weyl_1, sanitize_overflow=False)
    return c0, c1, c2, c3


@jit
def _seeded_uniform(
    seeds: tl.tensor,
    sites: tl.tensor,
    step: tl.tensor,
    found: tl.tensor,
    width: tl.tensor,
    tiles: tl.tensor,
    VECTOR: tl.constexpr,
    GROUPS: tl.constexpr,
) -> None:
    """K12; the width is in units of VECTOR elements."""
    width *= VECTOR
    i_r = (tl.program_id(0) // tiles).to(tl.int64)
    first = tl.program_id(0) % tiles * GROUPS
    o_g = first + tl.arange(0, GROUPS)
    zero = tl.zeros_like(o_g).to(tl.uint32)
    seed = tl.load(seeds + i_r)
    w0, w1, w2, w3 = _philox4x32(
        zero,
        zero + tl.load(sites + i_r).to(tl.uint32),
        zero + tl.load(step).to(tl.uint32),
        (o_g + (_BATCH << 28)).to(tl.uint32),
        seed.to(tl.uint32),
        (seed >> 32).to(tl.uint32),
    )
    # the last axis of a join is the fastest
    words = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (4 * GROUPS,))
    o_c = 4 * first + tl.arange(0, 4 * GROUPS)
    b_u = (words >> 8).to(tl.float32) * 5.9604644775390625e-08
    tl.store(found + i_r * width + o_c, b_u, mask=o_c < width)


def seeded_uniform(seeds: Tensor, sites: Tensor, step: Tensor, count: int) -> Tensor:
    """K12: fused form of :func:`mdcm.kernels.noise.reference.seeded_uniform`, which says what it does."""
    check_seeds(seeds, sites, step, count)
    found = torch.empty(len(seeds), count, device=seeds.device, dtype=torch.float32)
    if found.numel():
        config = configs.SHIPPED["seeded_uniform"][0]
        tiles, vector = blocks(count, 4 * config.tile["GROUPS"]), vector_of(count)
        tensors = (seeds.contiguous(), sites.contiguous(), step, found)
        launch(_seeded_uniform, (len(seeds) * tiles,), config, *tensors, count // vector, tiles, VECTOR=vector)
    return found
