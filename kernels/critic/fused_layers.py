"""Fused steps of a critic's gradients: K5 to K9 in Triton, for two hidden layers with leaky ReLU and many modules.

With ``phi'`` read off the sign of h, and sigma = 1/B for generated rows, -1/B for real ones, 1 for points between,

    K5  h_l = phi(h_{l-1} W_l' + b_l)
    K6  s_1 = ((sigma w phi'(h_2)) W_2) phi'(h_1)                    s_2, in the inner brackets, is never stored
    K7  g = s_1 W_1,  r = |g|,  v_0 = penalty psi'(r) g / (B r),  v_1 = (v_0 W_1') phi'(h_1)     points between only
    K8  dw = sum sigma h_2 + sum v_2,  v_2 = (v_1 W_2') phi'(h_2)                    v_2 is never stored; and the loss
    K9  dW_l = s_l' [h_{l-1}; v_{l-1}],  db_l = sum s_l                                        s_2 is made again

Why this is the gradient stands in :mod:`mdcm.kernels.critic.reference`. Tensors are float32 and sums are kept in
float32; factors of matrix products are rounded as PRECISION says. Sums over rows in K8 and K9 are split into S partial
ones, each with a place of its own in memory: nothing is added atomically, so that results have the same bits in every
run. Axis 0 of a grid counts modules, and row tiles within them.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from mdcm.kernels import configs
from mdcm.kernels.launch import blocks, jit, launch, product, stacked, vector_of

__all__ = ["delta", "gp_norm_tangent", "lin_act", "top_reduce", "wgrad"]


@jit
def _bend(grad: tl.tensor, hidden: tl.tensor, slope: tl.tensor) -> Any:
    """``grad phi'(z)``, read off h = phi(z), which has the sign of z."""
    return grad * tl.where(hidden > 0, 1.0, slope)


@jit
def _sign(row: tl.tensor, batch: tl.tensor) -> Any:
    """Derivative of the loss in the value of a row: generated, real, or between."""
    share = 1.0 / batch
    return tl.where(row < batch, share, tl.where(row < 2 * batch, -share, 1.0))


@jit
def _lin_act(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    found: tl.tensor,
    x_stride: tl.tensor,
    weight_stride: tl.tensor,
    bias_stride: tl.tensor,
    rows: tl.tensor,
    inputs: tl.tensor,
    units: tl.tensor,
    tiles: tl.tensor,
    slope: tl.tensor,
    VECTOR: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    INPUTS: tl.constexpr,
) -> None:
    """K5. Strides and sizes along rows are in units of VECTOR elements, here and below."""
    inputs *= VECTOR
    units *= VECTOR
    i_m = (tl.program_id(0) // tiles).to(tl.int64)
    i_r = tl.program_id(0) % tiles * ROWS
    o_r, o_k = tl.arange(0, ROWS), tl.arange(0, INPUTS)
    o_n = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    m_r, m_n = (i_r + o_r < rows)[:, None], (o_n < units)[None, :]
    p_x = x + i_m * x_stride * VECTOR + i_r.to(tl.int64) * inputs
    p_w = weight + i_m * weight_stride * VECTOR
    b_z = tl.zeros((ROWS, UNITS), dtype=tl.float32)
    for i_k in range(0, inputs, INPUTS):
        m_k = i_k + o_k < inputs
        # [ROWS, INPUTS], [INPUTS, UNITS]
        b_x = tl.load(p_x + o_r[:, None] * inputs + (i_k + o_k)[None, :], mask=m_r & m_k[None, :], other=0.0)
        b_w = tl.load(p_w + o_n[None, :] * inputs + (i_k + o_k)[:, None], mask=m_n & m_k[:, None], other=0.0)
        b_z = product(b_x, b_w, b_z, PRECISION)
    b_z += tl.load(bias + i_m * bias_stride * VECTOR + o_n, mask=o_n < units, other=0.0)[None, :]
    p_y = found + (i_m * rows + i_r) * units
    tl.store(p_y + o_r[:, None] * units + o_n[None, :], tl.where(b_z > 0, b_z, b_z * slope), mask=m_r & m_n)


@jit
def _delta(
    hidden: tl.tensor,
    out: tl.tensor,
    weight: tl.tensor,
    below: tl.tensor,
    found: tl.tensor,
    out_stride: tl.tensor,
    weight_stride: tl.tensor,
    batch: tl.tensor,
    rows: tl.tensor,
    inputs: tl.tensor,
    units: tl.tensor,
    tiles: tl.tensor,
    slope: tl.tensor,
    SIGNED: tl.constexpr,
    VECTOR: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    INPUTS: tl.constexpr,
) -> None:
    """K6, from the inputs h_2 to the units of h_1; without SIGNED every sigma is 1."""
    inputs *= VECTOR
    units *= VECTOR
    i_m = (tl.program_id(0) // tiles).to(tl.int64)
    i_r = tl.program_id(0) % tiles * ROWS
    o_r, o_k = tl.arange(0, ROWS), tl.arange(0, INPUTS)
    o_n = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    m_r, m_n = (i_r + o_r < rows)[:, None], (o_n < units)[None, :]
    p_h = hidden + (i_m * rows + i_r) * inputs
    p_o = out + i_m * out_stride * VECTOR
    p_w = weight + i_m * weight_stride * VECTOR
    b_s = tl.zeros((ROWS, UNITS), dtype=tl.float32)
    for i_k in range(0, inputs, INPUTS):
        m_k = i_k + o_k < inputs
        # [ROWS, INPUTS], [INPUTS, UNITS]
        b_h = tl.load(p_h + o_r[:, None] * inputs + (i_k + o_k)[None, :], mask=m_r & m_k[None, :], other=0.0)
        b_o = tl.load(p_o + i_k + o_k, mask=m_k, other=0.0)[None, :]
        b_w = tl.load(p_w + (i_k + o_k)[:, None] * units + o_n[None, :], mask=m_n & m_k[:, None], other=0.0)
        b_s = product(_bend(b_o, b_h, slope), b_w, b_s, PRECISION)
    if SIGNED:
        b_s *= _sign(i_r + o_r, batch)[:, None]
    o_s = (i_m * rows + i_r) * units + (o_r[:, None] * units + o_n[None, :])
    b_h = tl.load(below + o_s, mask=m_r & m_n, other=0.0)
    tl.store(found + o_s, _bend(b_s, b_h, slope), mask=m_r & m_n)


@jit
def _gp_norm_tangent(
    lowest: tl.tensor,
    weight: tl.tensor,
    hidden: tl.tensor,
    columns: tl.tensor,
    norm: tl.tensor,
    v0: tl.tensor,
    v1: tl.tensor,
    weight_stride: tl.tensor,
    columns_stride: tl.tensor,
    batch: tl.tensor,
    inputs: tl.tensor,
    units: tl.tensor,
    tiles: tl.tensor,
    slope: tl.tensor,
    penalty: tl.tensor,
    CHOSEN: tl.constexpr,
    ONE_SIDED: tl.constexpr,
    VECTOR: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    INPUTS: tl.constexpr,
) -> None:
    """K7, all inputs in one tile; the points between are the last third of the rows. CHOSEN if columns count."""
    inputs *= VECTOR
    units *= VECTOR
    i_m = (tl.program_id(0) // tiles).to(tl.int64)
    i_r = tl.program_id(0) % tiles * ROWS
    o_r, o_d, o_k = tl.arange(0, ROWS), tl.arange(0, INPUTS), tl.arange(0, UNITS)
    m_r, m_d = i_r + o_r < batch, o_d < inputs
    p_s = lowest + (i_m * 3 * batch + 2 * batch + i_r) * units
    p_h = hidden + (i_m * 3 * batch + 2 * batch + i_r) * units
    p_w = weight + i_m * weight_stride * VECTOR
    b_g = tl.zeros((ROWS, INPUTS), dtype=tl.float32)
    for i_k in range(0, units, UNITS):
        m_k = i_k + o_k < units
        # [ROWS, UNITS], [UNITS, INPUTS]
        b_s = tl.load(p_s + o_r[:, None] * units + (i_k + o_k)[None, :], mask=m_r[:, None] & m_k[None, :], other=0.0)
        b_w = tl.load(p_w + (i_k + o_k)[:, None] * inputs + o_d[None, :], mask=m_k[:, None] & m_d[None, :], other=0.0)
        b_g = product(b_s, b_w, b_g, PRECISION)
    if CHOSEN:
        b_g *= tl.load(columns + i_m * columns_stride + o_d, mask=m_d, other=0.0)[None, :]
    b_r = tl.sqrt(tl.sum(b_g * b_g, axis=1))
    tl.store(norm + i_m * batch + i_r + o_r, b_r, mask=m_r)
    b_e = b_r - 1.0
    if ONE_SIDED:
        b_e = tl.maximum(b_e, 0.0)
    # below this the squares of g are zero, and so is the norm
    b_v = b_g * (b_e * (2.0 * penalty / batch) / tl.maximum(b_r, 1.0842021724855044e-19))[:, None]
    tl.store(
        v0 + (i_m * batch + i_r) * inputs + (o_r[:, None] * inputs + o_d[None, :]),
        b_v,
        mask=m_r[:, None] & m_d[None, :],
    )
    p_v = v1 + (i_m * batch + i_r) * units
    for i_k in range(0, units, UNITS):
        m_k = i_k + o_k < units
        o_h = o_r[:, None] * units + (i_k + o_k)[None, :]
        m_h = m_r[:, None] & m_k[None, :]
        # [INPUTS, UNITS], [ROWS, UNITS]
        b_w = tl.load(p_w + (i_k + o_k)[None, :] * inputs + o_d[:, None], mask=m_k[None, :] & m_d[:, None], other=0.0)
        b_h = tl.load(p_h + o_h, mask=m_h, other=0.0)
        b_t = product(b_v, b_w, None, PRECISION)
        tl.store(p_v + o_h, _bend(b_t, b_h, slope), mask=m_h)


@jit
def _top_reduce(
    highest: tl.tensor,
    weight: tl.tensor,
    hidden: tl.tensor,
    out: tl.tensor,
    norm: tl.tensor,
    found: tl.tensor,
    loss: tl.tensor,
    weight_stride: tl.tensor,
    out_stride: tl.tensor,
    found_stride: tl.tensor,
    batch: tl.tensor,
    inputs: tl.tensor,
    units: tl.tensor,
    slope: tl.tensor,
    penalty: tl.tensor,
    ONE_SIDED: tl.constexpr,
    VECTOR: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    INPUTS: tl.constexpr,
) -> None:
    """K8, from the inputs v_1 to the units of h_2: of every S-th tile of rows, S the size of axis 2."""
    inputs *= VECTOR
    units *= VECTOR
    modules, parts = tl.num_programs(0), tl.num_programs(2)
    i_m, i_s = tl.program_id(0).to(tl.int64), tl.program_id(2)
    o_r, o_k = tl.arange(0, ROWS), tl.arange(0, INPUTS)
    o_n = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    m_n = o_n < units
    p_h = hidden + i_m * 3 * batch * units
    p_v = highest + i_m * batch * inputs
    p_w = weight + i_m * weight_stride * VECTOR
    b_o = tl.zeros((UNITS,), dtype=tl.float32)
    for i_r in range(i_s * ROWS, 2 * batch, parts * ROWS):
        o_h = (i_r + o_r).to(tl.int64)[:, None] * units + o_n[None, :]
        m_r = i_r + o_r < 2 * batch
        # [ROWS, UNITS]
        b_h = tl.load(p_h + o_h, mask=m_r[:, None] & m_n[None, :], other=0.0)
        b_o += tl.sum(b_h * _sign(i_r + o_r, batch)[:, None], axis=0)
    # mean D(generated) - mean D(real), of these units and rows
    b_w = tl.load(out + i_m * out_stride * VECTOR + o_n, mask=m_n, other=0.0)
    difference = tl.sum(b_o * b_w, axis=0)
    for i_r in range(i_s * ROWS, batch, parts * ROWS):
        m_r = i_r + o_r < batch
        o_b = (i_r + o_r).to(tl.int64)[:, None]
        b_t = tl.zeros((ROWS, UNITS), dtype=tl.float32)
        for i_k in range(0, inputs, INPUTS):
            m_k = i_k + o_k < inputs
            # [ROWS, INPUTS], [INPUTS, UNITS]
            b_v = tl.load(p_v + o_b * inputs + (i_k + o_k)[None, :], mask=m_r[:, None] & m_k[None, :], other=0.0)
            b_k = tl.load(
                p_w + o_n[None, :] * inputs + (i_k + o_k)[:, None], mask=m_n[None, :] & m_k[:, None], other=0.0
            )
            b_t = product(b_v, b_k, b_t, PRECISION)
        # [ROWS, UNITS]
        b_h = tl.load(p_h + (2 * batch + o_b) * units + o_n[None, :], mask=m_r[:, None] & m_n[None, :], other=0.0)
        b_o += tl.sum(_bend(b_t, b_h, slope), axis=0)
        # the programs of the first units take the penalty of these rows too
        if tl.program_id(1) == 0:
            b_e = tl.load(norm + i_m * batch + i_r + o_r, mask=m_r, other=1.0) - 1.0
            if ONE_SIDED:
                b_e = tl.maximum(b_e, 0.0)
            difference += penalty / batch * tl.sum(b_e * b_e, axis=0)
    tl.store(found + (i_s * modules + i_m) * found_stride * VECTOR + o_n, b_o, mask=m_n)
    tl.store(loss + (i_m * parts + i_s) * tl.num_programs(1) + tl.program_id(1), difference)


@jit
def _wgrad(
    deltas: tl.tensor,
    out: tl.tensor,
    below: tl.tensor,
    tangents: tl.tensor,
    found: tl.tensor,
    bias: tl.tensor,
    out_stride: tl.tensor,
    below_stride: tl.tensor,
    found_stride: tl.tensor,
    batch: tl.tensor,
    inputs: tl.tensor,
    units: tl.tensor,
    tiles: tl.tensor,
    slope: tl.tensor,
    TOP: tl.constexpr,
    VECTOR: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    INPUTS: tl.constexpr,
) -> None:
    """K9, of every S-th tile of rows. If TOP, deltas holds h_2, of which ``sigma w phi'(h_2)`` is made here."""
    inputs *= VECTOR
    units *= VECTOR
    modules, parts = tl.num_programs(0), tl.num_programs(2) // tiles
    i_m, i_s = tl.program_id(0).to(tl.int64), tl.program_id(2) // tiles
    i_c = tl.program_id(2) % tiles
    o_r = tl.arange(0, ROWS)
    o_n = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    o_c = i_c * INPUTS + tl.arange(0, INPUTS)
    m_n, m_c = o_n < units, o_c < inputs
    p_s = deltas + i_m * 3 * batch * units
    p_x = below + i_m * below_stride * VECTOR
    p_v = tangents + i_m * batch * inputs
    b_o = tl.zeros((UNITS,), dtype=tl.float32)
    if TOP:
        b_o = tl.load(out + i_m * out_stride * VECTOR + o_n, mask=m_n, other=0.0)
    b_w = tl.zeros((UNITS, INPUTS), dtype=tl.float32)
    b_b = tl.zeros((UNITS,), dtype=tl.float32)
    for i_r in range(i_s * ROWS, 2 * batch, parts * ROWS):
        m_r = i_r + o_r < 2 * batch
        o_b = (i_r + o_r).to(tl.int64)
        # [UNITS, ROWS], [ROWS, INPUTS]
        b_s = tl.load(p_s + o_b[None, :] * units + o_n[:, None], mask=m_r[None, :] & m_n[:, None], other=0.0)
        if TOP:
            b_sign = tl.where(m_r, _sign(i_r + o_r, batch), 0.0)
            b_s = _bend(b_o[:, None] * b_sign[None, :], b_s, slope)
        b_x = tl.load(p_x + o_b[:, None] * inputs + o_c[None, :], mask=m_r[:, None] & m_c[None, :], other=0.0)
        b_w = product(b_s, b_x, b_w, PRECISION)
        b_b += tl.sum(b_s, axis=1)
    for i_r in range(i_s * ROWS, batch, parts * ROWS):
        m_r = i_r + o_r < batch
        o_b = (i_r + o_r).to(tl.int64)
        # [UNITS, ROWS], [ROWS, INPUTS]
        b_s = tl.load(
            p_s + (2 * batch + o_b)[None, :] * units + o_n[:, None], mask=m_r[None, :] & m_n[:, None], other=0.0
        )
        if TOP:
            b_s = tl.where(m_r[None, :], _bend(b_o[:, None], b_s, slope), 0.0)
        b_v = tl.load(p_v + o_b[:, None] * inputs + o_c[None, :], mask=m_r[:, None] & m_c[None, :], other=0.0)
        b_w = product(b_s, b_v, b_w, PRECISION)
    i_p = (i_s * modules + i_m) * found_stride * VECTOR
    tl.store(found + i_p + (o_n[:, None] * inputs + o_c[None, :]), b_w, mask=m_n[:, None] & m_c[None, :])
    if i_c == 0:
        tl.store(bias + i_p + o_n, b_b, mask=m_n)


# ---- launchers


def _apart(parts: Tensor) -> int:
    """Distance of two modules' gradients in a view of partial ones ``[S, M, ...]``."""
    return parts.stride(0) // parts.shape[1] if parts.shape[0] > 1 else parts.stride(1)


def _in_units(vector: int, *sizes: int) -> list[int]:
    return [size // vector for size in sizes]


def lin_act(x: Tensor, weight: Tensor, bias: Tensor, slope: float, precision: str) -> Tensor:
    """K5: :func:`mdcm.kernels.critic.reference_layers.lin_act`.

    Args:
        x: ``[M, R, H_in]``.
        weight: ``[M, H_out, H_in]``.
        bias: ``[M, H_out]``.
        slope: Slope of the activation below zero.
        precision: Of the matrix product; see :func:`mdcm.kernels.configs.precision`.

    Returns:
        ``[M, R, H_out]``.
    """
    x, weight, bias = stacked(x), stacked(weight), stacked(bias)
    modules, rows, inputs = x.shape
    units = weight.shape[1]
    config = configs.lin_act(modules, rows, units)
    strides = [one.stride(0) for one in (x, weight, bias)]
    vector = vector_of(inputs, units, *strides)
    tiles = blocks(rows, config.tile["ROWS"])
    found = x.new_empty(modules, rows, units)
    launch(
        _lin_act,
        (modules * tiles, blocks(units, config.tile["UNITS"])),
        config,
        *(x, weight, bias, found, *_in_units(vector, *strides), rows, *_in_units(vector, inputs, units), tiles, slope),
        VECTOR=vector,
        PRECISION=precision,
    )
    return found


def delta(
    hidden: Tensor, out: Tensor, weight: Tensor, below: Tensor, slope: float, precision: str, *, signed: bool
) -> Tensor:
    """K6: :func:`mdcm.kernels.critic.reference_layers.delta` of :func:`mdcm.kernels.critic.reference_layers.top_delta`.

    Args:
        hidden: h_2, ``[M, R, H_2]``, in one piece.
        out: w, ``[M, H_2]``.
        weight: W_2, ``[M, H_2, H_1]``.
        below: h_1, ``[M, R, H_1]``, in one piece.
        slope: Slope of the activation below zero.
        precision: Of the matrix product.
        signed: Whether rows are those of a critic step, with their signs; else every row counts as one.

    Returns:
        s_1, ``[M, R, H_1]``.
    """
    out, weight = stacked(out), stacked(weight)
    modules, rows, inputs = hidden.shape
    units = below.shape[2]
    config = configs.SHIPPED["delta"][0]
    strides = [one.stride(0) for one in (out, weight)]
    vector = vector_of(inputs, units, *strides)
    tiles = blocks(rows, config.tile["ROWS"])
    found = torch.empty_like(below)
    sizes = (*_in_units(vector, *strides), rows // 3, rows, *_in_units(vector, inputs, units), tiles)
    launch(
        _delta,
        (modules * tiles, blocks(units, config.tile["UNITS"])),
        config,
        *(hidden, out, weight, below, found, *sizes, slope),
        SIGNED=signed,
        VECTOR=vector,
        PRECISION=precision,
    )
    return found


def gp_norm_tangent(
    lowest: Tensor,
    weight: Tensor,
    hidden: Tensor,
    slope: float,
    precision: str,
    *,
    penalty: float,
    columns: Tensor | None,
    one_sided: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """K7: :func:`mdcm.kernels.critic.reference_layers.gp_norm_tangent` of the last third of the rows.

    Args:
        lowest: s_1, ``[M, 3 B, H_1]``, in one piece.
        weight: W_1, ``[M, H_1, D]``, D at most 128.
        hidden: h_1, ``[M, 3 B, H_1]``, in one piece.
        slope: Slope of the activation below zero.
        precision: Of the matrix products.
        penalty: Factor of the penalty.
        columns: 1 where a column is penalised, else 0; ``[D]`` or ``[M, 1, D]``, None for all.
        one_sided: Whether only norms above 1 are penalised.

    Returns:
        The norm ``[M, B]``, v_0 ``[M, B, D]`` and v_1 ``[M, B, H_1]``.
    """
    weight = stacked(weight)
    modules, units, inputs = weight.shape
    batch = lowest.shape[1] // 3
    config = next(one for one in configs.SHIPPED["gp_norm_tangent"] if one.tile["INPUTS"] >= inputs)
    vector = vector_of(inputs, units, weight.stride(0))
    tiles = blocks(batch, config.tile["ROWS"])
    norm = lowest.new_empty(modules, batch)
    v0, v1 = lowest.new_empty(modules, batch, inputs), lowest.new_empty(modules, batch, units)
    chosen = lowest if columns is None else columns.contiguous()
    chosen_stride = inputs if columns is not None and columns.dim() == 3 else 0
    sizes = (weight.stride(0) // vector, chosen_stride, batch, *_in_units(vector, inputs, units), tiles)
    launch(
        _gp_norm_tangent,
        (modules * tiles,),
        config,
        *(lowest, weight, hidden, chosen, norm, v0, v1, *sizes, slope, penalty),
        CHOSEN=columns is not None,
        ONE_SIDED=one_sided,
        VECTOR=vector,
        PRECISION=precision,
    )
    return norm, v0, v1


def top_reduce(
    highest: Tensor,
    weight: Tensor,
    hidden: Tensor,
    out: Tensor,
    norm: Tensor,
    found: Tensor,
    slope: float,
    precision: str,
    *,
    penalty: float,
    one_sided: bool,
) -> Tensor:
    """K8: ``top_reduce`` of ``tangent`` of :mod:`mdcm.kernels.critic.reference_layers`, and the loss.

    Args:
        highest: v_1, ``[M, B, H_1]``, in one piece.
        weight: W_2, ``[M, H_2, H_1]``.
        hidden: h_2, ``[M, 3 B, H_2]``, in one piece.
        out: w, ``[M, H_2]``.
        norm: Norms of the gradient at the points between, ``[M, B]``.
        found: Partial gradients in w, ``[S, M, H_2]``, filled; any view with the units of a module in one piece.
        slope: Slope of the activation below zero.
        precision: Of the matrix product.
        penalty: Factor of the penalty.
        one_sided: Whether only norms above 1 are penalised.

    Returns:
        Parts of the loss, ``[M, -1]``.
    """
    weight, out = stacked(weight), stacked(out)
    modules, units, inputs = weight.shape
    batch, parts = highest.shape[1], found.shape[0]
    config = configs.SHIPPED["top_reduce"][0]
    strides = (weight.stride(0), out.stride(0), _apart(found))
    vector = vector_of(inputs, units, *strides)
    tiles = blocks(units, config.tile["UNITS"])
    loss = highest.new_empty(modules, parts * tiles)
    sizes = (*_in_units(vector, *strides), batch, *_in_units(vector, inputs, units))
    launch(
        _top_reduce,
        (modules, tiles, parts),
        config,
        *(highest, weight, hidden, out, norm, found, loss, *sizes, slope, penalty),
        ONE_SIDED=one_sided,
        VECTOR=vector,
        PRECISION=precision,
    )
    return loss


def wgrad(
    deltas: Tensor,
    out: Tensor | None,
    below: Tensor,
    tangents: Tensor,
    found: Tensor,
    bias: Tensor,
    slope: float,
    precision: str,
) -> None:
    """K9: :func:`mdcm.kernels.critic.reference_layers.wgrad`.

    Args:
        deltas: s_l, ``[M, 3 B, H_l]``, in one piece; h_l of the last layer if w is given.
        out: w, ``[M, H_l]``, for the last layer, whose deltas follow from it and h_l; None for another layer.
        below: h_{l-1}, ``[M, 3 B, H_{l-1}]``, of which the generated and real rows count.
        tangents: v_{l-1}, ``[M, B, H_{l-1}]``, in one piece.
        found: Partial gradients in W_l, ``[S, M, H_l, H_{l-1}]``, filled; any view with a module's in one piece.
        bias: Partial gradients in b_l, ``[S, M, H_l]``, filled, as far apart as those in W_l.
        slope: Slope of the activation below zero.
        precision: Of the matrix products.
    """
    below = stacked(below)
    out = None if out is None else stacked(out)
    modules, units = deltas.shape[0], deltas.shape[2]
    batch, inputs = tangents.shape[1:]
    shipped = configs.SHIPPED["wgrad"]
    config = next((one for one in shipped if one.tile["INPUTS"] >= inputs), shipped[-1])
    strides = (0 if out is None else out.stride(0), below.stride(0), _apart(found))
    vector = vector_of(inputs, units, *strides)
    tiles = blocks(inputs, config.tile["INPUTS"])
    sizes = (*_in_units(vector, *strides), batch, *_in_units(vector, inputs, units), tiles)
    launch(
        _wgrad,
        (modules, blocks(units, config.tile["UNITS"]), tiles * found.shape[0]),
        config,
        *(deltas, deltas if out is None else out, below, tangents, found, bias, *sizes, slope),
        TOP=out is not None,
        VECTOR=vector,
        PRECISION=precision,
    )
