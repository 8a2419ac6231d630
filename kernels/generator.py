"""Fused hidden layer of a generator: K11 in Triton, the operations of :mod:`mdcm.kernels.reference_generator`.

Forward, over the rows of a batch of one module, with z = x W',

    n = (z - mean z) / sqrt(var z + eps),    y = relu(gain n + shift);

backward, with p = dy [y > 0],

    d gain = sum p n,    d shift = sum p,    dz = gain / sqrt(var z + eps) (p - d shift / B - n d gain / B).

A program has all rows of some units in its registers, so that the variance is that of the centred values: exact, and
read only once. Larger batches than the largest tile are left to the twin.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from mdcm.kernels import configs, reference_generator
from mdcm.kernels.configs import Config
from mdcm.kernels.launch import blocks, jit, launch, product, stacked, vector_of
from mdcm.kernels.reference_generator import check_batch

__all__ = ["bn_relu_bwd", "lin_bn_relu_fwd"]


@jit
def _lin_bn_relu_fwd(
    x: tl.tensor,
    weight: tl.tensor,
    gain: tl.tensor,
    shift: tl.tensor,
    running_mean: tl.tensor,
    running_var: tl.tensor,
    output: tl.tensor,
    unit: tl.tensor,
    inverse: tl.tensor,
    x_stride: tl.tensor,
    weight_stride: tl.tensor,
    gain_stride: tl.tensor,
    shift_stride: tl.tensor,
    mean_stride: tl.tensor,
    var_stride: tl.tensor,
    batch: tl.tensor,
    inputs: tl.tensor,
    units: tl.tensor,
    momentum: tl.tensor,
    eps: tl.tensor,
    VECTOR: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    INPUTS: tl.constexpr,
) -> None:
    """K11 forward; sizes, and the strides of rows and weights, are in units of VECTOR elements."""
    inputs *= VECTOR
    units *= VECTOR
    i_m = tl.program_id(0).to(tl.int64)
    o_r, o_k = tl.arange(0, ROWS), tl.arange(0, INPUTS)
    o_n = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    m_r, m_n = (o_r < batch)[:, None], o_n < units
    p_x = x + i_m * x_stride * VECTOR
    p_w = weight + i_m * weight_stride * VECTOR
    b_z = tl.zeros((ROWS, UNITS), dtype=tl.float32)
    for i_k in range(0, inputs, INPUTS):
        m_k = i_k + o_k < inputs
        # [ROWS, INPUTS], [INPUTS, UNITS]
        b_x = tl.load(p_x + o_r[:, None] * inputs + (i_k + o_k)[None, :], mask=m_r & m_k[None, :], other=0.0)
        b_w = tl.load(p_w + o_n[None, :] * inputs + (i_k + o_k)[:, None], mask=m_n[None, :] & m_k[:, None], other=0.0)
        b_z = product(b_x, b_w, b_z, PRECISION)
    # rows past the end are zero so far
    b_mean = tl.sum(b_z, axis=0) / batch
    b_z = tl.where(m_r, b_z - b_mean[None, :], 0.0)
    b_var = tl.sum(b_z * b_z, axis=0) / batch
    b_inverse = 1.0 / tl.sqrt(b_var + eps)
    b_z *= b_inverse[None, :]
    b_gain = tl.load(gain + i_m * gain_stride + o_n, mask=m_n, other=0.0)
    b_shift = tl.load(shift + i_m * shift_stride + o_n, mask=m_n, other=0.0)
    o_z = i_m * batch * units + (o_r[:, None] * units + o_n[None, :])
    tl.store(unit + o_z, b_z, mask=m_r & m_n[None, :])
    b_y = tl.maximum(b_z * b_gain[None, :] + b_shift[None, :], 0.0)
    tl.store(output + o_z, b_y, mask=m_r & m_n[None, :])
    tl.store(inverse + i_m * units + o_n, b_inverse, mask=m_n)
    p_mean = running_mean + i_m * mean_stride + o_n
    p_var = running_var + i_m * var_stride + o_n
    old_mean, old_var = tl.load(p_mean, mask=m_n, other=0.0), tl.load(p_var, mask=m_n, other=0.0)
    unbiased = b_var * (batch / (batch - 1.0))
    tl.store(p_mean, old_mean + momentum * (b_mean - old_mean), mask=m_n)
    tl.store(p_var, old_var + momentum * (unbiased - old_var), mask=m_n)


@jit
def _bn_relu_bwd(
    grad: tl.tensor,
    output: tl.tensor,
    unit: tl.tensor,
    inverse: tl.tensor,
    gain: tl.tensor,
    found: tl.tensor,
    in_gain: tl.tensor,
    in_shift: tl.tensor,
    gain_stride: tl.tensor,
    batch: tl.tensor,
    units: tl.tensor,
    VECTOR: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
) -> None:
    """K11 backward; the number of units is in units of VECTOR elements."""
    units *= VECTOR
    i_m = tl.program_id(0).to(tl.int64)
    o_r = tl.arange(0, ROWS)
    o_n = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    m_n = o_n < units
    m_z = (o_r < batch)[:, None] & m_n[None, :]
    o_z = i_m * batch * units + (o_r[:, None] * units + o_n[None, :])
    # [ROWS, UNITS]
    b_n = tl.load(unit + o_z, mask=m_z, other=0.0)
    b_p = tl.load(grad + o_z, mask=m_z, other=0.0)
    b_p = tl.where(tl.load(output + o_z, mask=m_z, other=0.0) > 0, b_p, 0.0)
    b_gain, b_shift = tl.sum(b_p * b_n, axis=0), tl.sum(b_p, axis=0)
    tl.store(in_gain + i_m * units + o_n, b_gain, mask=m_n)
    tl.store(in_shift + i_m * units + o_n, b_shift, mask=m_n)
    b_scale = tl.load(gain + i_m * gain_stride + o_n, mask=m_n, other=0.0)
    b_scale *= tl.load(inverse + i_m * units + o_n, mask=m_n, other=0.0)
    b_level = (b_shift / batch)[None, :] + b_n * (b_gain / batch)[None, :]
    tl.store(found + o_z, b_scale[None, :] * (b_p - b_level), mask=m_z)


def _config(name: str, batch: int, *tensors: Tensor) -> Config | None:
    """The configuration whose tile holds a batch; None where there is none, or a tensor is not float32."""
    if any(one.dtype != torch.float32 or one.numel() == 0 for one in tensors):
        return None
    return next((one for one in configs.SHIPPED[name] if one.tile["ROWS"] >= batch), None)


@torch.no_grad()
def lin_bn_relu_fwd(
    x: Tensor,
    weight: Tensor,
    gain: Tensor,
    shift: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """K11 forward: fused form of :func:`mdcm.kernels.reference.lin_bn_relu_fwd`, which says what it does."""
    modules, batch, inputs = x.shape
    check_batch(batch)
    config = _config("lin_bn_relu_fwd", batch, x, weight, gain, shift, running_mean, running_var)
    running = (running_mean, running_var)
    # statistics are changed where they lie
    if config is None or any(stacked(one) is not one for one in running):
        return reference_generator.lin_bn_relu_fwd(
            x, weight, gain, shift, running_mean, running_var, momentum=momentum, eps=eps
        )
    x, weight, gain, shift = stacked(x), stacked(weight), stacked(gain), stacked(shift)
    units = weight.shape[1]
    output, unit = x.new_empty(2, modules, batch, units).unbind(0)
    inverse = x.new_empty(modules, units)
    vector = vector_of(inputs, units, x.stride(0), weight.stride(0))
    strides = (x.stride(0) // vector, weight.stride(0) // vector, *(one.stride(0) for one in (gain, shift, *running)))
    launch(
        _lin_bn_relu_fwd,
        (modules, blocks(units, config.tile["UNITS"])),
        config,
        *(x, weight, gain, shift, *running, output, unit, inverse, *strides),
        *(batch, inputs // vector, units // vector, float(momentum), float(eps)),
        VECTOR=vector,
        PRECISION=configs.precision("training"),
    )
    return output, unit, inverse


@torch.no_grad()
def bn_relu_bwd(
    grad: Tensor, output: Tensor, unit: Tensor, inverse: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """K11 backward: fused form of :func:`mdcm.kernels.reference.bn_relu_bwd`, which says what it does."""
    modules, batch, units = grad.shape
    config = _config("bn_relu_bwd", batch, grad, output, unit, inverse, gain)
    if config is None:
        return reference_generator.bn_relu_bwd(grad, output, unit, inverse, gain)
    grad, output, unit, inverse = (one.contiguous() for one in (grad, output, unit, inverse))
    gain = stacked(gain)
    found = torch.empty_like(grad)
    in_gain, in_shift = grad.new_empty(2, modules, units).unbind(0)
    vector = vector_of(units)
    launch(
        _bn_relu_bwd,
        (modules, blocks(units, config.tile["UNITS"])),
        config,
        *(grad, output, unit, inverse, gain, found, in_gain, in_shift),
        *(gain.stride(0), batch, units // vector),
        VECTOR=vector,
    )
    return found, in_gain, in_shift
