"""Random numbers that are addressed, not drawn in sequence.

The word for (seed, row, site, step, stream, index) is a pure function of that address. The same row therefore gets the
same noise whatever the batch size, and the children of a shared confounder regenerate the same value without storing
it.

References:
    Salmon, Moraes, Dror & Shaw (2011), "Parallel random numbers: as easy as 1, 2, 3", Philox4x32-10.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = [
    "STREAM_BATCH",
    "STREAM_CONFOUNDER",
    "STREAM_EXOGENOUS",
    "STREAM_GUMBEL",
    "STREAM_POSTERIOR",
    "NoiseMemory",
    "check_seeds",
    "gumbel_noise",
    "normal_noise",
    "philox4x32",
    "random_words",
    "remembering",
    "seeded_uniform",
    "uniform_noise",
]

STREAM_GUMBEL = 1
STREAM_EXOGENOUS = 2
STREAM_CONFOUNDER = 3
STREAM_BATCH = 4
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

# rows and numbers at one address, by that address and the number of rows
NoiseMemory = dict[tuple[int, ...], tuple[Tensor, Tensor]]
_memory: ContextVar[NoiseMemory | None] = ContextVar("noise", default=None)
_MOST_REMEMBERED_ROWS = 4096
_MOST_REMEMBERED = 512


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int | Tensor, int | Tensor]
) -> tuple[Tensor, ...]:
    """Philox4x32-10: four 32-bit words for every 128-bit counter.

    Args:
        counter: Four int64 tensors, broadcast to one shape, each holding values in [0, 2^32).
        key: Two integers in [0, 2^32), or int64 tensors that are broadcast against the counter.

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
    memory = _memory.get()
    if memory is None or len(rows) > _MOST_REMEMBERED_ROWS or rows.device.type != "cpu":
        return _uniform(random_words(seed, rows, site, stream, count, step=step))
    key = (seed, site, stream, count, step, len(rows))
    known = memory.get(key)
    if known is None or not torch.equal(known[0], rows):
        if len(memory) >= _MOST_REMEMBERED:
            memory.clear()
        memory[key] = known = (rows.clone(), _uniform(random_words(seed, rows, site, stream, count, step=step)))
    return known[1].clone()


@contextmanager
def remembering(memory: NoiseMemory) -> Iterator[None]:
    """Uniform numbers that were made at an address inside the block are those made before, with the same bits.

    Args:
        memory: Where they are kept, at most some 50 MB of them for a few numbers per row; empty at first.

    Example:
        >>> memory: NoiseMemory = {}
        >>> with remembering(memory):
        ...     first = uniform_noise(1, torch.arange(3), 0, STREAM_GUMBEL, 2)
        ...     again = uniform_noise(1, torch.arange(3), 0, STREAM_GUMBEL, 2)
        >>> len(memory), torch.equal(first, again)
        (1, True)
    """
    token = _memory.set(memory)
    try:
        yield
    finally:
        _memory.reset(token)


def _uniform(words: Tensor) -> Tensor:
    return (words.double() + 0.5) * 2.0**-32


def _gumbel(uniform: Tensor) -> Tensor:
    return torch.log(-torch.log1p(-uniform.clamp_max(1 - 2.0**-24))).neg_().float()


def gumbel_noise(
    seed: int, rows: Tensor, site: int, count: int, *, stream: int = STREAM_GUMBEL, step: int = 0
) -> Tensor:
    """Standard Gumbel numbers, float32 ``[n, count]``, between -2.82 and 22.88; arguments as for :func:`random_words`.

    The winner of ``argmax(logits + gumbel)`` is the winner of an exponential race, and its clock is close to zero, so
    the exponential numbers are made from uniforms that are accurate there.
    """
    return _gumbel(uniform_noise(seed, rows, site, stream, count, step=step))


def normal_noise(
    seed: int, rows: Tensor, site: int, count: int, *, stream: int = STREAM_EXOGENOUS, step: int = 0
) -> Tensor:
    """Standard normal numbers by Box-Muller, float32 ``[n, count]``; arguments as for :func:`random_words`."""
    uniform = uniform_noise(seed, rows, site, stream, count + count % 2, step=step).float()
    uniform = uniform.clamp(2.0**-33, 1.0)
    radius = torch.sqrt(-2.0 * torch.log(uniform[:, 0::2]))
    angle = uniform[:, 1::2] * (2.0 * torch.pi)
    return torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), -1).flatten(1)[:, :count]


def seeded_uniform(seeds: Tensor, sites: Tensor, step: Tensor, count: int) -> Tensor:
    """Rows of uniform numbers, each with a seed of its own: word k of row r is that at (seed_r, 0, site_r, step, k).

    Args:
        seeds: Seeds, int64 ``[r]``; of one in [2^63, 2^64) the number that has its bits.
        sites: Number of each row among those of its seed, int64 ``[r]`` in [0, 2^32).
        step: Training step, int64 without axes, in [0, 2^32); on the device, so that a captured graph can count it.
        count: Numbers in each row, at most 2^30.

    Returns:
        Multiples of 2^-24 in [0, 1), float32 ``[r, count]``, in the stream ``STREAM_BATCH``.

    Raises:
        ValueError: If shapes or types do not fit, or there are too many numbers in a row.

    Example:
        >>> seeds, sites = torch.tensor([7, 7]), torch.tensor([0, 1])
        >>> seeded_uniform(seeds, sites, torch.tensor(3), 5).shape
        torch.Size([2, 5])
    """
    check_seeds(seeds, sites, step, count)
    groups = torch.arange(-(-count // 4), dtype=torch.int64, device=seeds.device) | (STREAM_BATCH << 28)
    shape = (len(seeds), len(groups))
    counter = (torch.zeros_like(groups).expand(shape), sites[:, None].expand(shape), step.expand(shape), groups)
    words = philox4x32(counter, ((seeds & _MASK32)[:, None], ((seeds >> 32) & _MASK32)[:, None]))
    return (torch.stack(words, -1).flatten(1)[:, :count] >> 8).float() * 2.0**-24


def check_seeds(seeds: Tensor, sites: Tensor, step: Tensor, count: int) -> None:
    """Raise ValueError unless seeds, sites and step fit each other."""
    if seeds.dim() != 1 or seeds.shape != sites.shape or step.dim():
        raise ValueError(
            f"seeds and sites must be [r] and the step a scalar, not {list(seeds.shape)}, {list(sites.shape)} and "
            f"{list(step.shape)}"
        )
    if any(one.dtype != torch.int64 for one in (seeds, sites, step)):
        raise ValueError(f"seeds, sites and step must be int64, not {[one.dtype for one in (seeds, sites, step)]}")
    if not 0 <= count <= _MAX_INDEX:
        raise ValueError(f"at most 2^30 numbers per row, not {count}")
