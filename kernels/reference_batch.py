"""The rows that a critic step compares: drawn real ones, generated ones, and points between them."""

from __future__ import annotations

import torch
from torch import Tensor

from mdcm.kernels.reference_noise import (
    STREAM_BATCH,
    STREAM_INTERPOLATION,
    NoiseAddress,
    Packing,
    check_address,
    rows_of,
)

__all__ = [
    "batch_index",
    "check_population",
    "check_rows",
    "interp_gather",
]


def batch_index(address: NoiseAddress, population: int) -> Tensor:
    """Uniform row numbers with replacement, ``floor(word * population / 2^32)``, one per batch position and module.

    Args:
        address: Seed, step, batch positions ``[..., B]``, and one site ``[..., 1]``: the module's number.
        population: Number of rows N to draw from, at most 2^31; a row's probability is off by less than 2^-32.

    Returns:
        int64 ``[..., B]`` with values in [0, N).

    Raises:
        ValueError: If the population is out of range, or the address does not have one site.

    Example:
        >>> from mdcm.kernels import rng_state
        >>> address = NoiseAddress(rng_state(0), torch.arange(1000), torch.tensor([0]))
        >>> drawn = batch_index(address, 10)
        >>> int(drawn.min()), int(drawn.max())
        (0, 9)
    """
    check_population(population)
    check_address(address, 1)
    words = Packing([1], device=address.rows.device).words(address, STREAM_BATCH)[..., 0]
    drawn: Tensor = (words * population) >> 32
    return drawn


def check_population(population: int) -> None:
    """Raise ValueError unless rows can be drawn from so many."""
    if not 1 <= population <= 2**31:
        raise ValueError(f"population {population} must be in [1, 2^31]")


def check_rows(codes: Tensor, fake: Tensor, packing: Packing, address: NoiseAddress) -> None:
    """Raise ValueError unless real and generated rows, variables and address fit each other."""
    if fake.dim() < 2 or fake.shape[-1] < packing.width or not fake.is_floating_point():
        raise ValueError(f"fake rows must be floating point [..., B, >= {packing.width}], not {list(fake.shape)}")
    if codes.dim() != fake.dim() or codes.shape[-1] != len(packing) or codes.shape[:-2] != fake.shape[:-2]:
        raise ValueError(
            f"codes must be {[*fake.shape[:-2], 'N', len(packing)]} for fake rows {list(fake.shape)}, "
            f"not {list(codes.shape)}"
        )
    check_population(codes.shape[-2])
    check_address(address, 1)
    rows = rows_of(address)
    if rows != tuple(fake.shape[:-1]):
        raise ValueError(f"the address is of {list(rows)} rows, and fake rows are {list(fake.shape)}")


def interp_gather(codes: Tensor, fake: Tensor, packing: Packing, address: NoiseAddress) -> Tensor:
    """Rows of a critic step: fake ones, real ones drawn by :func:`batch_index`, and a random point between each pair.

    Args:
        codes: Levels of the N real rows, integers ``[..., N, n]``; not checked, since that would wait for the device.
        fake: Generated rows ``[..., B, D]``, D at least T; columns past T are padding, zero in real rows.
        packing: The n variables.
        address: Seed, step, batch positions ``[..., B]`` and one site ``[..., 1]``, the module's number.

    Returns:
        ``[..., 3 B, D]``: fake, real, ``eps real + (1 - eps) fake`` with eps uniform over the multiples of 2^-24 in
        [0, 1).

    Raises:
        ValueError: If shapes do not fit.

    References:
        Gulrajani, Ahmed, Arjovsky, Dumoulin & Courville (2017), "Improved training of Wasserstein GANs",
        https://arxiv.org/abs/1704.00028, Algorithm 1, lines 4 to 6.

    Example:
        >>> from mdcm.kernels import rng_state
        >>> address = NoiseAddress(rng_state(0), torch.arange(2), torch.tensor([0]))
        >>> interp_gather(torch.tensor([[1]]), torch.tensor([[1.0, 0.0]] * 2), Packing([2]), address)[:4]
        tensor([[1., 0.],
                [1., 0.],
                [0., 1.],
                [0., 1.]])
    """
    check_rows(codes, fake, packing, address)
    drawn = batch_index(address, codes.shape[-2])
    level = codes.gather(-2, drawn[..., None].expand(*drawn.shape, len(packing)))
    real = torch.zeros_like(fake)
    real.scatter_(-1, level.long() + packing.offsets[:-1], 1.0)
    words = Packing([1], device=fake.device).words(address, STREAM_INTERPOLATION)
    eps = (words >> 8).to(fake.dtype) * 2.0**-24
    return torch.cat([fake, real, eps * real + (1 - eps) * fake], -2)
