"""Fused Gumbel races: K1, K2 and K3 in Triton, the same operations as in :mod:`mdcm.kernels.reference_gumbel`.

Forward, with s = l + G and one variable's levels k,

    level = argmax s,    draw = onehot(level)  or  p = softmax(s / tau),

backward ``dl = p (y' - <p, y'>) / tau``, for hard draws too; G is made again from its address rather than kept. Given
an observed level v, with log p = log softmax(l) and exponential clocks E_j and E_0,

    -G_v = log p_v + log E_0,    -G_j = log(E_j + p_j E_0).

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
from torch.autograd.function import once_differentiable

from mdcm.kernels import configs, reference_gumbel, rng
from mdcm.kernels.launch import blocks, jit, launch
from mdcm.kernels.reference_gumbel import check_observed, check_race
from mdcm.kernels.reference_noise import STREAM_GUMBEL, STREAM_POSTERIOR, NoiseAddress, Packing

__all__ = ["GumbelST", "gumbel_posterior", "gumbel_softmax", "gumbel_st_bwd", "gumbel_st_fwd"]

_GUMBEL = tl.constexpr(STREAM_GUMBEL)
_POSTERIOR = tl.constexpr(STREAM_POSTERIOR)


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
    """Where the pairs of this program lie.

    Returns:
        The module; of each pair its row in the batch, variable, row over all modules, and whether it exists; of each
        level its number, place in the logits, and whether it exists, ``[PAIRS, LEVELS]``.
    """
    i_m = (tl.program_id(0) // tiles).to(tl.int64)
    i_t = tl.program_id(0) % tiles
    if WIDE:
        i_t = i_t.to(tl.int64)
    o_p = i_t * PAIRS + tl.arange(0, PAIRS)
    m_p = o_p < pairs
    # past the end the first pair is computed again and not stored, so that every number is one of the data
    o_p = tl.where(m_p, o_p, 0)
    o_b = (o_p // count).to(tl.int64)
    o_v = tl.load(variables + o_p % count)
    first = tl.load(offsets + o_v)
    size = tl.load(offsets + o_v + 1) - first
    o_r = i_m * batch + o_b
    o_k = tl.arange(0, LEVELS)[None, :]
    return i_m, o_b, o_v, o_r, m_p, o_k, (o_r * width + first)[:, None] + o_k, o_k < size[:, None]


@jit
def _gumbel_st_fwd(
    logits: tl.tensor,
    noise: tl.tensor,
    drawn: tl.tensor,
    level: tl.tensor,
    tau: tl.tensor,
    state: tl.tensor,
    rows: tl.tensor,
    sites: tl.tensor,
    variables: tl.tensor,
    offsets: tl.tensor,
    rows_stride: tl.tensor,
    sites_stride: tl.tensor,
    batch: tl.tensor,
    width: tl.tensor,
    total: tl.tensor,
    pairs: tl.tensor,
    count: tl.tensor,
    tiles: tl.tensor,
    HARD: tl.constexpr,
    RECORDED: tl.constexpr,
    WIDE: tl.constexpr,
    PAIRS: tl.constexpr,
    LEVELS: tl.constexpr,
) -> None:
    """K1: draws and levels; noise is read where it is recorded, else written."""
    i_m, o_b, o_v, o_r, m_p, o_k, o_l, m_k = _pairs(
        variables, offsets, batch, width, pairs, count, tiles, WIDE, PAIRS, LEVELS
    )
    # [PAIRS, LEVELS] from here on
    b_l = tl.load(logits + o_l, mask=m_k, other=float("-inf"))
    if RECORDED:
        b_g = tl.load(noise + o_l, mask=m_k, other=0.0)
    else:
        i_row = tl.load(rows + i_m * rows_stride + o_b)
        i_site = tl.load(sites + i_m * sites_stride + o_v)
        b_g = rng.gumbel(rng.packed_words(state, i_row, i_site, _GUMBEL, PAIRS, LEVELS))
        tl.store(noise + o_l, b_g, mask=m_k & m_p[:, None])
    b_s = b_l + b_g
    i_win = tl.argmax(b_s, axis=1)
    tl.store(level + o_r * total + o_v, i_win.to(tl.int32), mask=m_p)
    if HARD:
        b_y = tl.where(o_k == i_win[:, None], 1.0, 0.0)
    else:
        b_e = tl.exp((b_s - tl.max(b_s, axis=1)[:, None]) / tl.load(tau))
        b_y = b_e / tl.sum(b_e, axis=1)[:, None]
    tl.store(drawn + o_l, b_y, mask=m_k & m_p[:, None])


@jit
def _gumbel_st_bwd(
    logits: tl.tensor,
    noise: tl.tensor,
    grad: tl.tensor,
    found: tl.tensor,
    tau: tl.tensor,
    state: tl.tensor,
    rows: tl.tensor,
    sites: tl.tensor,
    variables: tl.tensor,
    offsets: tl.tensor,
    rows_stride: tl.tensor,
    sites_stride: tl.tensor,
    batch: tl.tensor,
    width: tl.tensor,
    total: tl.tensor,
    pairs: tl.tensor,
    count: tl.tensor,
    tiles: tl.tensor,
    RECORDED: tl.constexpr,
    WIDE: tl.constexpr,
    PAIRS: tl.constexpr,
    LEVELS: tl.constexpr,
) -> None:
    """K2: gradient in the logits."""
    i_m, o_b, o_v, _o_r, m_p, _o_k, o_l, m_k = _pairs(
        variables, offsets, batch, width, pairs, count, tiles, WIDE, PAIRS, LEVELS
    )
    # [PAIRS, LEVELS] from here on
    b_l = tl.load(logits + o_l, mask=m_k, other=float("-inf"))
    b_dy = tl.load(grad + o_l, mask=m_k, other=0.0)
    if RECORDED:
        b_g = tl.load(noise + o_l, mask=m_k, other=0.0)
    else:
        i_row = tl.load(rows + i_m * rows_stride + o_b)
        i_site = tl.load(sites + i_m * sites_stride + o_v)
        b_g = rng.gumbel(rng.packed_words(state, i_row, i_site, _GUMBEL, PAIRS, LEVELS))
    b_s = b_l + b_g
    temperature = tl.load(tau)
    b_e = tl.exp((b_s - tl.max(b_s, axis=1)[:, None]) / temperature)
    b_p = b_e / tl.sum(b_e, axis=1)[:, None]
    b_inner = tl.sum(b_p * b_dy, axis=1)[:, None]
    tl.store(found + o_l, b_p * (b_dy - b_inner) / temperature, mask=m_k & m_p[:, None])


@jit
def _gumbel_posterior(
    logits: tl.tensor,
    observed: tl.tensor,
    noise: tl.tensor,
    log_weight: tl.tensor,
    state: tl.tensor,
    rows: tl.tensor,
    sites: tl.tensor,
    variables: tl.tensor,
    offsets: tl.tensor,
    rows_stride: tl.tensor,
    sites_stride: tl.tensor,
    batch: tl.tensor,
    width: tl.tensor,
    total: tl.tensor,
    pairs: tl.tensor,
    count: tl.tensor,
    tiles: tl.tensor,
    WIDE: tl.constexpr,
    PAIRS: tl.constexpr,
    LEVELS: tl.constexpr,
) -> None:
    """K3: noise given what was observed, and the log probability of that."""
    i_m, o_b, o_v, o_r, m_p, o_k, o_l, m_k = _pairs(
        variables, offsets, batch, width, pairs, count, tiles, WIDE, PAIRS, LEVELS
    )
    LOWEST: tl.constexpr = -3.4028234663852886e38
    i_row = tl.load(rows + i_m * rows_stride + o_b)
    i_site = tl.load(sites + i_m * sites_stride + o_v)
    i_seen = tl.load(observed + o_r * total + o_v)
    # [PAIRS, 1]
    shared = tl.log(rng.exponential(rng.first_word(state, i_row, i_site, _POSTERIOR)))[:, None]
    m_seen = (i_seen >= 0)[:, None]
    # [PAIRS, LEVELS] from here on
    m_win = o_k == i_seen[:, None]
    b_l = tl.load(logits + o_l, mask=m_k, other=float("-inf"))
    b_g = rng.gumbel(rng.packed_words(state, i_row, i_site, _GUMBEL, PAIRS, LEVELS))
    b_c = b_l - tl.max(b_l, axis=1)[:, None]
    b_p = b_c - tl.log(tl.sum(tl.exp(b_c), axis=1))[:, None]
    # a level that cannot occur has a late clock rather than none: the difference of two infinities is not a number
    b_t = tl.maximum(b_p, LOWEST) + shared
    # log(E_j + p_j E_0)
    high = tl.maximum(-b_g, b_t)
    b_joint = high + tl.log(1.0 + tl.exp(tl.minimum(-b_g, b_t) - high))
    b_post = -tl.where(m_win, b_t, b_joint)
    # where rounding has let another level reach the observed one, its noise is raised: l + (t - l) differs from t by
    # less than two units in the last place of the larger of both
    b_s = b_l + b_post
    others = tl.max(tl.where(m_win, LOWEST, b_s), axis=1)[:, None]
    own = tl.sum(tl.where(m_win, b_l, 0.0), axis=1)[:, None]
    lift = tl.maximum(tl.maximum(tl.abs(others), tl.abs(own)) * 4.76837158203125e-07, 1.1754943508222875e-38)
    b_post = tl.where(m_win & (b_s <= others), (others + lift) - own, b_post)
    b_post = tl.where(m_seen, b_post, b_g)
    tl.store(noise + o_l, b_post, mask=m_k & m_p[:, None])
    tl.store(log_weight + o_r * total + o_v, tl.sum(tl.where(m_win, b_p, 0.0), axis=1), mask=m_p)


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


def _fits(logits: Tensor, packing: Packing, tau: float | Tensor = 1.0) -> bool:
    """Whether the kernels can take it; the rest is left to the twin."""
    small = max(packing.sizes) <= configs.SHIPPED["gumbel_st_fwd"][-1].tile["LEVELS"]
    scalar = not isinstance(tau, Tensor) or tau.numel() == 1
    return logits.dtype == torch.float32 and logits.numel() > 0 and small and scalar


def _run(
    kernel: Any,
    name: str,
    packing: Packing,
    address: NoiseAddress | None,
    logits: Tensor,
    *tensors: Tensor,
    **constants: bool,
) -> None:
    """Launch a kernel on the variables of each padded size."""
    batch, width = logits.shape[-2:]
    modules = logits.numel() // (batch * width)
    if address is None:
        # not read
        state = rows = sites = packing.offsets
    else:
        state, rows, sites = address
        if rows.dim() > 1:
            rows = rows.expand(logits.shape[:-1])
        if sites.dim() > 1:
            sites = sites.expand(*logits.shape[:-2], len(packing))
    rows, sites = rows.contiguous(), sites.contiguous()
    strides = [one.shape[-1] if one.dim() > 1 else 0 for one in (rows, sites)]
    for levels, variables in _buckets(packing):
        config = configs.race(name, levels)
        count = len(variables)
        tiles = blocks(batch * count, config.tile["PAIRS"])
        places = (state, rows, sites, variables, packing.offsets)
        sizes = (*strides, batch, width, len(packing), batch * count, count, tiles)
        wide = tiles * config.tile["PAIRS"] >= 2**31
        launch(kernel, (modules * tiles,), config, logits, *tensors, *places, *sizes, **constants, WIDE=wide)


def _on_device(tau: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(tau, Tensor):
        return tau.to(like)
    return torch.full((), tau, dtype=like.dtype, device=like.device)


def gumbel_st_fwd(
    logits: Tensor,
    packing: Packing,
    tau: float | Tensor,
    address: NoiseAddress | None = None,
    *,
    noise: Tensor | None = None,
    hard: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """K1: :func:`mdcm.kernels.reference.gumbel_st_fwd`, one launch per padded number of levels."""
    check_race(logits, packing, address, noise, tau)
    if not _fits(logits, packing, tau):
        return reference_gumbel.gumbel_st_fwd(logits, packing, tau, address, noise=noise, hard=hard)
    logits = logits.contiguous()
    recorded = noise is not None
    noise = torch.empty_like(logits) if noise is None else noise.to(logits.dtype).contiguous()
    drawn = torch.empty_like(logits)
    level = torch.empty((*logits.shape[:-1], len(packing)), dtype=torch.int32, device=logits.device)
    tensors = (logits, noise, drawn, level, _on_device(tau, logits))
    _run(_gumbel_st_fwd, "gumbel_st_fwd", packing, address, *tensors, HARD=hard, RECORDED=recorded)
    return drawn, level, noise


def gumbel_st_bwd(
    logits: Tensor,
    grad: Tensor,
    packing: Packing,
    tau: float | Tensor,
    address: NoiseAddress | None = None,
    *,
    noise: Tensor | None = None,
) -> Tensor:
    """K2: :func:`mdcm.kernels.reference.gumbel_st_bwd`; noise is made again where an address is given."""
    check_race(logits, packing, address, noise, tau)
    if not _fits(logits, packing, tau):
        return reference_gumbel.gumbel_st_bwd(logits, grad, packing, tau, address, noise=noise)
    logits, grad = logits.contiguous(), grad.to(logits.dtype).contiguous()
    recorded = noise is not None
    noise = logits if noise is None else noise.to(logits.dtype).contiguous()
    found = torch.empty_like(logits)
    tensors = (logits, noise, grad, found, _on_device(tau, logits))
    _run(_gumbel_st_bwd, "gumbel_st_bwd", packing, address, *tensors, RECORDED=recorded)
    return found


class GumbelST(torch.autograd.Function):
    """K1 and K2 as one differentiable operation; called by :func:`gumbel_softmax`."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        packing: Packing,
        tau: float | Tensor,
        address: NoiseAddress | None,
        noise: Tensor | None,
        hard: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draws, levels and noise of :func:`gumbel_st_fwd`."""
        drawn, level, found = gumbel_st_fwd(logits, packing, tau, address, noise=noise, hard=hard)
        # step and temperature on the device may have moved on in place by the time of the backward pass
        ctx.tau = tau.clone() if isinstance(tau, Tensor) else tau
        ctx.packing = packing
        kept = (found,) if address is None else (address.rng.clone(), address.rows, address.sites)
        ctx.save_for_backward(logits, *kept)
        ctx.mark_non_differentiable(level, found)
        return drawn, level, found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of :func:`gumbel_st_bwd` in the logits; temperature and noise have none."""
        logits, *kept = ctx.saved_tensors
        address, noise = (None, kept[0]) if len(kept) == 1 else (NoiseAddress(*kept), None)
        return gumbel_st_bwd(logits, grad, ctx.packing, ctx.tau, address, noise=noise), None, None, None, None, None


def gumbel_softmax(
    logits: Tensor,
    packing: Packing,
    tau: float | Tensor,
    address: NoiseAddress | None = None,
    *,
    noise: Tensor | None = None,
    hard: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fused form of :func:`mdcm.kernels.reference.gumbel_softmax`, which says what it does.

    Other types than float32, and variables of more than 1024 levels, are left to the twin.
    """
    if any(isinstance(one, Tensor) and one.requires_grad for one in (tau, noise)):
        raise ValueError("temperature and noise are constants here: detach them")
    found: tuple[Tensor, Tensor, Tensor] = GumbelST.apply(logits, packing, tau, address, noise, hard)  # type: ignore[no-untyped-call]
    return found


def gumbel_posterior(
    logits: Tensor, observed: Tensor, packing: Packing, address: NoiseAddress
) -> tuple[Tensor, Tensor]:
    """K3: fused form of :func:`mdcm.kernels.reference.gumbel_posterior`, which says what it does.

    Whether the evidence is possible is looked at once, after the launch, and not while a graph is captured.
    """
    check_race(logits, packing, address, None)
    check_observed(logits, observed, packing)
    if not _fits(logits, packing):
        return reference_gumbel.gumbel_posterior(logits, observed, packing, address)
    logits, observed = logits.contiguous(), observed.to(torch.int64).contiguous()
    noise = torch.empty_like(logits)
    log_weight = torch.empty(observed.shape, dtype=logits.dtype, device=logits.device)
    _run(_gumbel_posterior, "gumbel_posterior", packing, address, logits, observed, noise, log_weight)
    if not (logits.is_cuda and torch.cuda.is_current_stream_capturing()):
        unknown = ((observed < -1) | (observed >= packing.offsets.diff())).any()
        if bool(unknown | log_weight.isneginf().any()):
            raise ValueError(
                "an observed level is neither -1 nor a level of its variable"
                if bool(unknown)
                else "an observed level has probability zero"
            )
    return noise, log_weight
