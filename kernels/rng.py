"""Addressed random numbers inside kernels: the words of :mod:`mdcm.kernels.reference_noise` bit for bit.

The word of index k at (seed, row, site, step, stream) is number ``k mod 4`` of Philox4x32-10 with the seed as key and
the counter (row, site, step, 2^28 stream + floor(k / 4)). With V = (word + 1/2) / 2^32,

    uniform V,    exponential E = -log(1 - V),    Gumbel G = -log E,    normal sqrt(-2 log V_0) (cos, sin)(2 pi V_1).

A Gumbel race is won by a small E, and rare levels win by a tiny one, so E is right to a few units in the last place at
both ends of its range. As in the twin 1 - V is at least 2^-24. Only operations of Triton's language are used and none
of a device library, since its interpreter has none.

References:
    Salmon, Moraes, Dror & Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", Philox4x32-10.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from mdcm.kernels.launch import jit

__all__ = ["exponential", "first_word", "gumbel", "normal_pair", "packed_words", "philox4x32", "uniform", "word_groups"]


@jit
def philox4x32(c0: tl.tensor, c1: tl.tensor, c2: tl.tensor, c3: tl.tensor, k0: tl.tensor, k1: tl.tensor) -> Any:
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
def word_groups(state: tl.tensor, rows: tl.tensor, sites: tl.tensor, groups: tl.tensor, STREAM: tl.constexpr) -> Any:
    """The four words of each group at the addresses that blocks of rows, sites and groups are broadcast to.

    Args:
        state: Seed and step, int64 ``[2]``.
        rows: int64.
        sites: int64.
        groups: int32, number of a word divided by four.
        STREAM: Number of the stream.
    """
    seed = tl.load(state)
    step = tl.load(state + 1)
    shape = tl.zeros_like(rows + sites + groups)
    return philox4x32(
        (rows + shape).to(tl.uint32),
        (sites + shape).to(tl.uint32),
        (step + shape).to(tl.uint32),
        (groups + (STREAM << 28) + shape).to(tl.uint32),
        seed.to(tl.uint32),
        (seed >> 32).to(tl.uint32),
    )


@jit
def packed_words(
    state: tl.tensor, rows: tl.tensor, sites: tl.tensor, STREAM: tl.constexpr, PAIRS: tl.constexpr, LEVELS: tl.constexpr
) -> Any:
    """Words 0 to LEVELS - 1 of each pair of a row and a site, uint32 ``[PAIRS, LEVELS]``; LEVELS is a multiple of 4."""
    groups = tl.arange(0, LEVELS // 4)
    w0, w1, w2, w3 = word_groups(state, rows[:, None], sites[:, None], groups[None, :], STREAM)
    # the last axis of a join is the fastest
    return tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (PAIRS, LEVELS))


@jit
def first_word(state: tl.tensor, rows: tl.tensor, sites: tl.tensor, STREAM: tl.constexpr) -> Any:
    """Word 0 of each pair of a row and a site, uint32."""
    w0, _w1, _w2, _w3 = word_groups(state, rows, sites, tl.zeros_like(rows), STREAM)
    return w0


@jit
def uniform(words: tl.tensor) -> Any:
    """``(word + 1/2) / 2^32`` rounded once to float32: in (0, 1], and 1 for the largest words only."""
    high = (words >> 8).to(tl.float32)
    low = (words & 0xFF).to(tl.float32)
    return (high * 256.0 + (low + 0.5)) * 2.3283064365386963e-10


@jit
def exponential(words: tl.tensor) -> Any:
    """Standard exponential numbers ``-log(1 - V)``, float32, between 1e-10 and 16.64."""
    # both V and 1 - V are exact but for one rounding if computed from the nearer end
    upper = words >= 0x80000000
    near = uniform(tl.where(upper, words ^ 0xFFFFFFFF, words))
    far = 1.0 - near
    # exact, so that log(far) / lost has the error of far taken out of it
    lost = 1.0 - far
    tiny = lost == 0.0
    below = tl.where(tiny, near, -tl.log(far) * (near / tl.where(tiny, 1.0, lost)))
    return tl.where(upper, -tl.log(tl.maximum(near, 5.9604644775390625e-08)), below)


@jit
def gumbel(words: tl.tensor) -> Any:
    """Standard Gumbel numbers, float32, between -2.82 and 22.88."""
    return -tl.log(exponential(words))


@jit
def normal_pair(even: tl.tensor, odd: tl.tensor) -> Any:
    """Two standard normal numbers, float32, of each pair of words 2 i and 2 i + 1."""
    radius = tl.sqrt(-2.0 * tl.log(uniform(even)))
    angle = uniform(odd) * 6.283185307179586
    return radius * tl.cos(angle), radius * tl.sin(angle)
