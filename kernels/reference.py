"""Plain-torch definition of every operation of :mod:`mdcm.kernels`; the ground truth for the fused forms.

Random numbers are addressed, not drawn in sequence: the word for (seed, row, site, step, stream, index) is a pure
function of that address. The same row therefore gets the same noise whatever the batch size, and the children of a
shared confounder regenerate the same value without storing it.

References:
    Salmon, Moraes, Dror & Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", Philox4x32-10.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "STREAM_BATCH",
    "STREAM_CONFOUNDER",
    "STREAM_EXOGENOUS",
    "STREAM_GUMBEL",
    "STREAM_INTERPOLATION",
    "STREAM_POSTERIOR",
    "gumbel_noise",
    "normal_noise",
    "philox4x32",
    "random_words",
    "uniform_noise",
]

STREAM_GUMBEL = 1
STREAM_EXOGENOUS = 2
STREAM_CONFOUNDER = 3
STREAM_BATCH = 4
STREAM_INTERPOLATION = 5
STREAM_POSTERIOR = 6

_MASK32 = 0xFFFFFFFF
_MULTIPLIER_0 = 0xD2511F53
_MULTIPLIER_1 = 0xCD9E8D57
_WEYL_0 = 0x9E3779B9
_WEYL_1 = 0xBB67AE85
_ROUNDS = 10
_MAX_SITE = 2**32
_MAX_INDEX = 2**30
_MAX_STREAM = 16


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10: four 32-bit words for every 128-bit counter.

    Args:
        counter: Four int64 tensors of one shape, each holding values in [0, 2^32).
        key: Two integers in [0, 2^32).

    Returns:
        Four int64 tensors of that shape with values in [0, 2^32).

    Example:
        >>> zero = torch.zeros(1, dtype=torch.int64)
        >>> [hex(int(word)) for word in philox4x32((zero, zero, zero, zero), (0, 0))]
        ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # the int64 product wraps, but its bits are those of the unsigned product, and the masks keep only bits
        product_0 = c0 * _MULTIPLIER_0
        product_1 = c2 * _MULTIPLIER_1
        c0 = ((product_1 >> 32) & _MASK32) ^ c1 ^ k0
        c2 = ((product_0 >> 32) & _MASK32) ^ c3 ^ k1
        c1 = product_1 & _MASK32
        c3 = product_0 & _MASK32
        k0 = (k0 + _WEYL_0) & _MASK32
        k1 = (k1 + _WEYL_1) & _MASK32
    return c0, c1, c2, c3


def random_words(seed: int, rows: Tensor, site: int, stream: int, count: int, *, step: int = 0) -> Tensor:
    """Random 32-bit words at (seed, row, site, step, stream, 0 .. count - 1).

    Args:
        seed: 64-bit run seed.
        rows: Row numbers, int64 ``[n]``, each in [0, 2^32).
        site: Number of the variable or of the confounder that the noise belongs to.
        stream: One of the ``STREAM_`` constants.
        count: Words per row.
        step: Training step, 0 when sampling.

    Returns:
        int64 ``[n, count]`` with values in [0, 2^32).

    Raises:
        ValueError: If the address is out of range.
    """
    if not 0 <= site < _MAX_SITE or not 0 <= step < _MAX_SITE:
        raise ValueError(f"site {site} and step {step} must be in [0, 2^32)")
    if not 0 <= stream < _MAX_STREAM:
        raise ValueError(f"stream {stream} must be in [0, {_MAX_STREAM})")
    if not 0 <= count <= _MAX_INDEX:
        raise ValueError(f"at most 2^30 words per row, not {count}")
    groups = -(-count // 4)
    shape = (len(rows), groups)
    index = torch.arange(groups, dtype=torch.int64, device=rows.device) | (stream << 28)
    fixed = torch.tensor([site, step], dtype=torch.int64, device=rows.device)
    counter = (rows[:, None].expand(shape), fixed[0].expand(shape), fixed[1].expand(shape), index.expand(shape))
    words = philox4x32(counter, (seed & _MASK32, (seed >> 32) & _MASK32))
    return torch.stack(words, -1).reshape(len(rows), groups * 4)[:, :count]


def uniform_noise(seed: int, rows: Tensor, site: int, stream: int, count: int, *, step: int = 0) -> Tensor:
    """Uniform numbers in the open interval (0, 1), float64 ``[n, count]``; arguments as for :func:`random_words`."""
    return (random_words(seed, rows, site, stream, count, step=step).double() + 0.5) * 2.0**-32


def gumbel_noise(
    seed: int, rows: Tensor, site: int, count: int, *, stream: int = STREAM_GUMBEL, step: int = 0
) -> Tensor:
    """Standard Gumbel numbers, float32 ``[n, count]``, between -2.82 and 22.88; arguments as for :func:`random_words`.

    The winner of ``argmax(logits + gumbel)`` is the winner of an exponential race, and its clock is close to zero, so
    the exponential numbers are made from uniforms that are accurate there.
    """
    uniform = uniform_noise(seed, rows, site, stream, count, step=step).clamp_max(1 - 2.0**-24)
    return torch.log(-torch.log1p(-uniform)).neg_().float()


def normal_noise(
    seed: int, rows: Tensor, site: int, count: int, *, stream: int = STREAM_EXOGENOUS, step: int = 0
) -> Tensor:
    """Standard normal numbers by Box-Muller, float32 ``[n, count]``; arguments as for :func:`random_words`."""
    uniform = uniform_noise(seed, rows, site, stream, count + count % 2, step=step).float()
    uniform = uniform.clamp(2.0**-33, 1.0)
    radius = torch.sqrt(-2.0 * torch.log(uniform[:, 0::2]))
    angle = uniform[:, 1::2] * (2.0 * torch.pi)
    return torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), -1).flatten(1)[:, :count]
