"""Draws of categorical variables by a Gumbel race, their gradient, and their noise given what came out.

With standard Gumbel noise G the level of the largest ``l + G`` follows softmax(l). Variables are packed side by side:
``[..., B, T]`` holds all levels of all variables of B rows, and leading axes are stacked modules of equal shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mdcm.kernels.reference_noise import (
    STREAM_POSTERIOR,
    NoiseAddress,
    Packing,
    check_address,
    packed_gumbel_noise,
    rows_of,
)

__all__ = [
    "GumbelST",
    "check_observed",
    "check_race",
    "gumbel_posterior",
    "gumbel_softmax",
    "gumbel_st_bwd",
    "gumbel_st_fwd",
]


def check_race(
    logits: Tensor, packing: Packing, address: NoiseAddress | None, noise: Tensor | None, tau: float | Tensor = 1.0
) -> None:
    """Raise ValueError unless logits, noise or its address, and temperature fit the packed variables."""
    # one in a tensor may change while a captured graph is replayed, and reading it would wait for the device
    if not isinstance(tau, Tensor) and not tau > 0:
        raise ValueError(f"temperature {tau} must be positive")
    if logits.dim() < 2 or logits.shape[-1] != packing.width or not logits.is_floating_point():
        raise ValueError(
            f"logits must be floating point [..., B, {packing.width}] for {packing}, "
            f"not {logits.dtype} {list(logits.shape)}"
        )
    if (address is None) == (noise is None):
        raise ValueError("give either an address or recorded noise")
    if address is not None:
        check_address(address, len(packing))
        shape = (*rows_of(address), packing.width)
    else:
        assert noise is not None
        shape = tuple(noise.shape)
    if shape != tuple(logits.shape):
        raise ValueError(f"noise {list(shape)} must have the shape of the logits {list(logits.shape)}")


def _noise(logits: Tensor, packing: Packing, address: NoiseAddress | None, noise: Tensor | None) -> Tensor:
    """Noise in the type of the logits: what was recorded, else what lies at the address."""
    if address is not None:
        noise = packed_gumbel_noise(address, packing)
    assert noise is not None
    return noise.to(logits.dtype)


def check_observed(logits: Tensor, observed: Tensor, packing: Packing) -> None:
    """Raise ValueError unless observed levels are integers, one for each row and variable."""
    if observed.shape != (*logits.shape[:-1], len(packing)) or observed.is_floating_point():
        raise ValueError(
            f"observed levels must be integers {[*logits.shape[:-1], len(packing)]}, "
            f"not {observed.dtype} {list(observed.shape)}"
        )


def gumbel_st_fwd(
    logits: Tensor,
    packing: Packing,
    tau: float | Tensor,
    address: NoiseAddress | None = None,
    *,
    noise: Tensor | None = None,
    hard: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw every packed variable: one-hot ``argmax(l + G)`` if hard, else ``softmax((l + G) / tau)``.

    Args:
        logits: ``[..., B, T]``; minus infinity for a level that cannot occur, though not for all of a variable.
        packing: The n variables.
        tau: Temperature, positive; without effect on a hard draw.
        address: Where the Gumbel noise lies.
        noise: Recorded Gumbel noise ``[..., B, T]`` instead of an address.
        hard: Whether draws are one-hot.

    Returns:
        Draws ``[..., B, T]``; the level of the largest ``l + G``, int32 ``[..., B, n]``; the noise, as the logits.

    Raises:
        ValueError: If shapes do not fit, tau is not positive, or not exactly one of address and noise is given.

    References:
        Jang, Gu & Poole (2017), "Categorical reparameterization with Gumbel-softmax",
        https://arxiv.org/abs/1611.01144; Maddison, Mnih & Teh (2017), https://arxiv.org/abs/1611.00712.

    Example:
        >>> logits, noise = torch.tensor([[0.0, 1.0, 0.0, 0.0, 3.0]]), torch.tensor([[2.0, 0.0, 0.0, 0.0, 0.0]])
        >>> drawn, level, _ = gumbel_st_fwd(logits, Packing([2, 3]), 0.5, noise=noise)
        >>> drawn.tolist(), level.tolist()
        ([[1.0, 0.0, 0.0, 0.0, 1.0]], [[0, 2]])
    """
    check_race(logits, packing, address, noise, tau)
    noise = _noise(logits, packing, address, noise)
    scores = logits + noise
    drawn = torch.empty_like(logits)
    level = torch.empty((*logits.shape[:-1], len(packing)), dtype=torch.int32, device=logits.device)
    for part in packing.parts:
        score = part.levels(scores)
        winner = score.argmax(-1)
        part.put_each(level, winner)
        if hard:
            part.put_levels(drawn, torch.zeros_like(score).scatter_(-1, winner[..., None], 1.0))
        else:
            part.put_levels(drawn, (score / tau).softmax(-1))
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
    """Gradient in the logits of a soft draw, and by the straight-through rule of a hard one.

    It is ``p (y' - <p, y'>) / tau`` with ``p = softmax((l + G) / tau)`` and y' the gradient in the draw.

    Args:
        logits: ``[..., B, T]``.
        grad: y', ``[..., B, T]``.
        packing: The n variables.
        tau: Temperature, positive.
        address: Where the Gumbel noise lies.
        noise: Recorded noise instead of an address.

    Returns:
        ``[..., B, T]``; zero where a logit is minus infinity.

    Raises:
        ValueError: As :func:`gumbel_st_fwd`.

    References:
        Jang, Gu & Poole (2017), section 2.2.

    Example:
        >>> logits = torch.zeros(1, 2)
        >>> gumbel_st_bwd(logits, torch.tensor([[1.0, 0.0]]), Packing([2]), 1.0, noise=logits)
        tensor([[ 0.2500, -0.2500]])
    """
    check_race(logits, packing, address, noise, tau)
    scores = logits + _noise(logits, packing, address, noise)
    found = torch.empty_like(logits)
    for part in packing.parts:
        soft = (part.levels(scores) / tau).softmax(-1)
        upstream = part.levels(grad)
        inner = (soft * upstream).sum(-1, keepdim=True)
        part.put_levels(found, soft * (upstream - inner) / tau)
    return found


class GumbelST(torch.autograd.Function):
    """Gumbel-softmax with its gradient in closed form; called by :func:`gumbel_softmax`."""

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
        drawn, level, noise = gumbel_st_fwd(logits, packing, tau, address, noise=noise, hard=hard)
        # a temperature on the device may have been lowered in place by the time of the backward pass
        ctx.tau = tau.clone() if isinstance(tau, Tensor) else tau
        ctx.packing = packing
        ctx.save_for_backward(logits, noise)
        ctx.mark_non_differentiable(level, noise)
        return drawn, level, noise

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of :func:`gumbel_st_bwd` in the logits; temperature and noise have none."""
        logits, noise = ctx.saved_tensors
        return gumbel_st_bwd(logits, grad, ctx.packing, ctx.tau, noise=noise), None, None, None, None, None


def gumbel_softmax(
    logits: Tensor,
    packing: Packing,
    tau: float | Tensor,
    address: NoiseAddress | None = None,
    *,
    noise: Tensor | None = None,
    hard: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw every packed variable by :func:`gumbel_st_fwd`, differentiably once in the logits.

    Hard draws have the gradient of soft ones (straight-through). Temperature and noise are constants.

    Args:
        logits: ``[..., B, T]``.
        packing: The n variables.
        tau: Temperature, positive.
        address: Where the Gumbel noise lies.
        noise: Recorded Gumbel noise ``[..., B, T]`` instead of an address.
        hard: Whether draws are one-hot.

    Returns:
        Draws ``[..., B, T]``, levels int32 ``[..., B, n]``, and the noise, to be recorded.

    Raises:
        ValueError: As :func:`gumbel_st_fwd`, and if the temperature or the noise asks for a gradient.

    References:
        Jang, Gu & Poole (2017), https://arxiv.org/abs/1611.01144.

    Example:
        >>> from mdcm.kernels import rng_state
        >>> logits = torch.zeros(3, 5, requires_grad=True)
        >>> address = NoiseAddress(rng_state(0), torch.arange(3), torch.tensor([0, 1]))
        >>> drawn, level, noise = gumbel_softmax(logits, Packing([2, 3]), 0.7, address)
        >>> drawn[:, 1].sum().backward()
        >>> logits.grad.shape
        torch.Size([3, 5])
    """
    if any(isinstance(one, Tensor) and one.requires_grad for one in (tau, noise)):
        raise ValueError("temperature and noise are constants here: detach them")
    found: tuple[Tensor, Tensor, Tensor] = GumbelST.apply(logits, packing, tau, address, noise, hard)  # type: ignore[no-untyped-call]
    return found


def gumbel_posterior(
    logits: Tensor, observed: Tensor, packing: Packing, address: NoiseAddress
) -> tuple[Tensor, Tensor]:
    """Gumbel noise given that every observed variable came out as it did: an exact draw of ``G | argmax(l + G) = v``.

    With p = softmax(l) and unit exponential clocks E_j, which are those of the prior noise, and E_0, the race is
    memoryless: ``E'_v = p_v E_0``, ``E'_j = E_j + p_j E_0`` for the other levels, ``G = -log E'``. An unobserved
    variable keeps its prior noise, bit for bit.

    Args:
        logits: ``[..., B, T]``.
        observed: Levels, integers ``[..., B, n]``; -1 where not observed.
        packing: The n variables.
        address: Where the noise lies; E_0 lies in ``STREAM_POSTERIOR``.

    Returns:
        Noise ``[..., B, T]`` such that ``argmax(logits + noise)`` is the observed level in the type of the logits, and
        the log probability of each observed level, ``[..., B, n]``, zero where not observed.

    Raises:
        ValueError: If shapes do not fit, a level is out of range, or an observed level has probability zero.

    References:
        Maddison, Tarlow & Minka (2014), "A* sampling", https://arxiv.org/abs/1411.0030, section 3; Oberst & Sontag
        (2019), "Counterfactual off-policy evaluation with Gumbel-max structural causal models",
        https://arxiv.org/abs/1905.05824, section 3.

    Example:
        >>> from mdcm.kernels import rng_state
        >>> logits, observed = torch.zeros(100, 5), torch.tensor([1, -1]).expand(100, 2)
        >>> address = NoiseAddress(rng_state(0), torch.arange(100), torch.tensor([0, 1]))
        >>> noise, log_weight = gumbel_posterior(logits, observed, Packing([2, 3]), address)
        >>> bool((noise[:, 1] > noise[:, 0]).all()), log_weight[0].tolist()
        (True, [-0.6931471824645996, 0.0])
    """
    check_race(logits, packing, address, None)
    check_observed(logits, observed, packing)
    prior = _noise(logits, packing, address, None)
    sizes = packing.offsets.diff()
    if bool(((observed < -1) | (observed >= sizes)).any()):
        raise ValueError("an observed level is neither -1 nor a level of its variable")
    single = Packing([1] * len(packing), device=packing.device)
    log_clock = -packed_gumbel_noise(address, single, stream=STREAM_POSTERIOR).to(logits.dtype)
    noise = torch.empty_like(logits)
    log_weight = torch.empty_like(log_clock)
    for part in packing.parts:
        logit, free = part.levels(logits), part.levels(prior)
        seen = part.each(observed).long()[..., None]
        chosen = torch.arange(part.size, device=logits.device) == seen
        log_p = logit.log_softmax(-1)
        shared = log_p + part.each(log_clock)[..., None]
        found = -torch.where(chosen, shared, torch.logaddexp(-free, shared))
        found = torch.where(seen < 0, free, _lift(logit, found, chosen))
        part.put_levels(noise, found)
        part.put_each(log_weight, log_p.masked_fill(~chosen, 0.0).sum(-1))
    if bool(log_weight.isneginf().any()):
        raise ValueError("an observed level has probability zero")
    return noise, log_weight


def _lift(logit: Tensor, noise: Tensor, chosen: Tensor) -> Tensor:
    """Raise the chosen level's noise where rounding has let another level reach it."""
    score = logit + noise
    top = score.masked_fill(chosen, -torch.inf).amax(-1, keepdim=True)
    own = logit.masked_fill(~chosen, 0.0).sum(-1, keepdim=True)
    # l + (t - l) differs from t by less than two units in the last place of the larger of both
    limits = torch.finfo(logit.dtype)
    above = top + torch.maximum(top.abs(), own.abs()).mul(4 * limits.eps).clamp_min(limits.tiny)
    return torch.where(chosen & (score <= top), above - own, noise)
