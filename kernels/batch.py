"""Fused rows of a critic step: K4 in Triton, the operation of :mod:`mdcm.kernels.reference_batch`.

For each batch position one real row is drawn, its levels are written as indicators, and a point between it and the
generated row is placed, ``x = eps real + (1 - eps) fake``; the three are stacked. A program takes a block of batch
positions and a block of columns of one module; each column knows its variable, and is 1 if it lies as far from the
variable's first column as the drawn level says.
"""

from __future__ import annotations

import weakref

import torch
import triton.language as tl
from torch import Tensor

from mdcm.kernels import configs, reference_batch, rng
from mdcm.kernels.launch import blocks, jit, launch, stacked, vector_of
from mdcm.kernels.reference_batch import check_rows
from mdcm.kernels.reference_noise import STREAM_BATCH, STREAM_INTERPOLATION, NoiseAddress, Packing

__all__ = ["interp_gather"]

_BATCH = tl.constexpr(STREAM_BATCH)
_INTERPOLATION = tl.constexpr(STREAM_INTERPOLATION)


@jit
def _interp_gather(
    codes: tl.tensor,
    fake: tl.tensor,
    found: tl.tensor,
    state: tl.tensor,
    rows: tl.tensor,
    sites: tl.tensor,
    variable_of: tl.tensor,
    offsets: tl.tensor,
    codes_stride: tl.tensor,
    rows_stride: tl.tensor,
    sites_stride: tl.tensor,
    population: tl.tensor,
    total: tl.tensor,
    batch: tl.tensor,
    width: tl.tensor,
    tiles: tl.tensor,
    VECTOR: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """K4; the width is in units of VECTOR elements."""
    width *= VECTOR
    i_m = (tl.program_id(0) // tiles).to(tl.int64)
    o_b = tl.program_id(0) % tiles * ROWS + tl.arange(0, ROWS)
    m_b = o_b < batch
    o_c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    m_c = o_c < width
    # the address of a position past the end is that of the first, and nothing is stored for it
    i_row = tl.load(rows + i_m * rows_stride + tl.where(m_b, o_b, 0))
    i_site = tl.load(sites + i_m * sites_stride + tl.zeros_like(o_b))
    word = rng.first_word(state, i_row, i_site, _BATCH)
    i_drawn = tl.umulhi(word, tl.full((ROWS,), population, dtype=tl.uint32)).to(tl.int64)
    share = (rng.first_word(state, i_row, i_site, _INTERPOLATION) >> 8).to(tl.float32) * 5.9604644775390625e-08
    # padding belongs to variable -1
    i_v = tl.load(variable_of + o_c, mask=m_c, other=-1)
    m_v = i_v >= 0
    first = tl.load(offsets + i_v, mask=m_v, other=0)
    # [ROWS, COLUMNS] from here on
    p_code = codes + i_m * codes_stride + i_drawn[:, None] * total + i_v[None, :]
    b_level = tl.load(p_code, mask=m_b[:, None] & m_v[None, :], other=-1).to(tl.int32)
    b_real = tl.where(m_v[None, :] & (b_level == (o_c - first)[None, :]), 1.0, 0.0)
    m_x = m_b[:, None] & m_c[None, :]
    o_r = o_b.to(tl.int64)[:, None]
    b_fake = tl.load(fake + (i_m * batch + o_r) * width + o_c[None, :], mask=m_x, other=0.0)
    b_between = share[:, None] * b_real + (1.0 - share)[:, None] * b_fake
    o_r += i_m * 3 * batch
    tl.store(found + o_r * width + o_c[None, :], b_fake, mask=m_x)
    tl.store(found + (o_r + batch) * width + o_c[None, :], b_real, mask=m_x)
    tl.store(found + (o_r + 2 * batch) * width + o_c[None, :], b_between, mask=m_x)


# kept as long as the packing is, so that a captured graph finds them
_VARIABLES: weakref.WeakKeyDictionary[Packing, dict[int, Tensor]] = weakref.WeakKeyDictionary()


def _variables(packing: Packing, width: int) -> Tensor:
    """Variable of each column, int32 ``[width]``; -1 for padding."""
    known = _VARIABLES.setdefault(packing, {})
    if width not in known:
        places = [place for place, size in enumerate(packing.sizes) for _ in range(size)]
        padded = places + [-1] * (width - packing.width)
        known[width] = torch.tensor(padded, dtype=torch.int32, device=packing.device)
    return known[width]


def interp_gather(codes: Tensor, fake: Tensor, packing: Packing, address: NoiseAddress) -> Tensor:
    """K4: fused form of :func:`mdcm.kernels.reference.interp_gather`, which says what it does.

    Codes that many modules share may be an expanded view. Other types of fake rows than float32 are left to the twin.
    """
    check_rows(codes, fake, packing, address)
    if fake.dtype != torch.float32 or fake.numel() == 0:
        return reference_batch.interp_gather(codes, fake, packing, address)
    *lead, batch, width = fake.shape
    state, rows, sites = address
    codes = stacked(codes.reshape(-1, *codes.shape[-2:]))
    rows = (rows.expand(fake.shape[:-1]) if rows.dim() > 1 else rows).contiguous()
    sites = (sites.expand(*lead, 1) if sites.dim() > 1 else sites).contiguous()
    config = configs.SHIPPED["interp_gather"][0]
    tiles = blocks(batch, config.tile["ROWS"])
    found = fake.new_empty(*lead, 3 * batch, width)
    tensors = (codes, fake.contiguous(), found, state, rows, sites, _variables(packing, width), packing.offsets)
    strides = (codes.stride(0), batch if rows.dim() > 1 else 0, 1 if sites.dim() > 1 else 0)
    vector = vector_of(width)
    sizes = (codes.shape[1], len(packing), batch, width // vector, tiles)
    grid = (fake.numel() // (batch * width) * tiles, blocks(width, config.tile["COLUMNS"]))
    launch(_interp_gather, grid, config, *tensors, *strides, *sizes, VECTOR=vector)
    return found
