"""Draws of categorical variables by a Gumbel race, and their gradient.

With standard Gumbel noise G the level of the largest ``l + G`` follows softmax(l). Variables are packed side by side:
``[..., B, T]`` holds all levels of all variables of B rows, and leading axes are stacked modules of equal shape.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = [
    "GumbelST",
    "PackedPart",
    "Packing",
    "check_race",
    "differentiable",
    "gumbel_softmax",
    "gumbel_st_bwd",
    "gumbel_st_fwd",
]


class PackedPart(NamedTuple):
    """The m variables of one size K among packed ones.

    Attributes:
        size: Number of levels K.
        columns: int64 ``[m * K]``, the columns of the variables; None where these are all variables.
    """

    size: int
    columns: Tensor | None

    def levels(self, packed: Tensor) -> Tensor:
        """The variables' columns, from ``[..., T]`` to ``[..., m, K]``."""
        chosen = packed if self.columns is None else packed[..., self.columns]
        return chosen.reshape((*packed.shape[:-1], chosen.shape[-1] // self.size, self.size))

    def put_levels(self, packed: Tensor, found: Tensor) -> None:
        """Write ``[..., m, K]`` to the variables' columns of ``[..., T]``."""
        packed[..., slice(None) if self.columns is None else self.columns] = found.flatten(-2)


class Packing:
    """Where each of n categorical variables lies among T packed columns: K_0 columns, then K_1 columns, and so on.

    Args:
        sizes: Number of levels of every variable, each at least 1.
        device: Where its index tensors lie.

    Attributes:
        sizes: The sizes as given.
        width: Number of columns T, the sum of all sizes.
        offsets: int32 ``[n + 1]``, first column of each variable, and T.
        parts: The variables by size, so that equal ones are reduced at once, without padding.

    Raises:
        ValueError: If ``sizes`` is empty or holds a size below 1.

    Example:
        >>> packing = Packing([2, 3])
        >>> packing.width, packing.offsets.tolist()
        (5, [0, 2, 5])
    """

    def __init__(self, sizes: Sequence[int], *, device: torch.device | str | None = None) -> None:
        if not sizes or min(sizes) < 1:
            raise ValueError(f"sizes must name at least one variable, each of at least one level, not {list(sizes)}")
        self.sizes = tuple(sizes)
        starts = [0, *itertools.accumulate(self.sizes)]
        self.width = starts[-1]
        self.offsets = torch.tensor(starts, dtype=torch.int32, device=device)
        self.device = self.offsets.device
        columns: dict[int, list[int]] = {}
        for start, size in zip(starts, self.sizes, strict=False):
            columns.setdefault(size, []).extend(range(start, start + size))
        if len(columns) == 1:
            self.parts: tuple[PackedPart, ...] = (PackedPart(self.sizes[0], None),)
        else:
            self.parts = tuple(
                PackedPart(size, torch.tensor(own, dtype=torch.int64, device=device)) for size, own in columns.items()
            )

    def __len__(self) -> int:
        return len(self.sizes)

    def __repr__(self) -> str:
        return f"Packing({list(self.sizes)})"


def check_race(logits: Tensor, packing: Packing, tau: float | Tensor, noise: Tensor) -> None:
    """Raise ValueError unless logits, noise and temperature fit the packed variables."""
    # one in a tensor may change while a captured graph is replayed, and reading it would wait for the device
    if not isinstance(tau, Tensor) and not tau > 0:
        raise ValueError(f"temperature {tau} must be positive")
    if logits.dim() < 2 or logits.shape[-1] != packing.width or not logits.is_floating_point():
        raise ValueError(
            f"logits must be floating point [..., B, {packing.width}] for {packing}, "
            f"not {logits.dtype} {list(logits.shape)}"
        )
    if noise.shape != logits.shape:
        raise ValueError(f"noise {list(noise.shape)} must have the shape of the logits {list(logits.shape)}")


def gumbel_st_fwd(logits: Tensor, packing: Packing, tau: float | Tensor, noise: Tensor, *, hard: bool = True) -> Tensor:
    """Draw every packed variable: one-hot ``argmax(l + G)`` if hard, else ``softmax((l + G) / tau)``.

    Args:
        logits: ``[..., B, T]``; minus infinity for a level that cannot occur, though not for all of a variable.
        packing: The n variables.
        tau: Temperature, positive; without effect on a hard draw.
        noise: Gumbel noise G, ``[..., B, T]``.
        hard: Whether draws are one-hot.

    Returns:
        Draws ``[..., B, T]``.

    Raises:
        ValueError: If shapes do not fit, or tau is not positive.

    References:
        Jang, Gu & Poole (2017), "Categorical reparameterization with Gumbel-softmax",
        https://arxiv.org/abs/1611.01144; Maddison, Mnih & Teh (2017), https://arxiv.org/abs/1611.00712.

    Example:
        >>> logits, noise = torch.tensor([[0.0, 1.0, 0.0, 0.0, 3.0]]), torch.tensor([[2.0, 0.0, 0.0, 0.0, 0.0]])
        >>> gumbel_st_fwd(logits, Packing([2, 3]), 0.5, noise).tolist()
        [[1.0, 0.0, 0.0, 0.0, 1.0]]
    """
    check_race(logits, packing, tau, noise)
    scores = logits + noise.to(logits.dtype)
    drawn = torch.empty_like(logits)
    for part in packing.parts:
        score = part.levels(scores)
        if hard:
            part.put_levels(drawn, torch.zeros_like(score).scatter_(-1, score.argmax(-1, keepdim=True), 1.0))
        else:
            part.put_levels(drawn, (score / tau).softmax(-1))
    return drawn


def gumbel_st_bwd(logits: Tensor, grad: Tensor, packing: Packing, tau: float | Tensor, noise: Tensor) -> Tensor:
    """Gradient in the logits of a soft draw, and by the straight-through rule of a hard one.

    It is ``p (y' - <p, y'>) / tau`` with ``p = softmax((l + G) / tau)`` and y' the gradient in the draw.

    Args:
        logits: ``[..., B, T]``.
        grad: y', ``[..., B, T]``.
        packing: The n variables.
        tau: Temperature, positive.
        noise: Gumbel noise G, ``[..., B, T]``.

    Returns:
        ``[..., B, T]``; zero where a logit is minus infinity.

    Raises:
        ValueError: As :func:`gumbel_st_fwd`.

    References:
        Jang, Gu & Poole (2017), section 2.2.

    Example:
        >>> logits = torch.zeros(1, 2)
        >>> gumbel_st_bwd(logits, torch.tensor([[1.0, 0.0]]), Packing([2]), 1.0, logits)
        tensor([[ 0.2500, -0.2500]])
    """
    check_race(logits, packing, tau, noise)
    scores = logits + noise.to(logits.dtype)
    found = torch.empty_like(logits)
    for part in packing.parts:
        soft = (part.levels(scores) / tau).softmax(-1)
        upstream = part.levels(grad)
        inner = (soft * upstream).sum(-1, keepdim=True)
        part.put_levels(found, soft * (upstream - inner) / tau)
    return found


class GumbelST(torch.autograd.Function):
    """A forward and a backward form as one differentiable operation; called by :func:`gumbel_softmax`."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        packing: Packing,
        tau: float | Tensor,
        noise: Tensor,
        hard: bool,
        forms: tuple[Callable[..., Tensor], Callable[..., Tensor]],
    ) -> Tensor:
        """Draws of the form of :func:`gumbel_st_fwd`."""
        draw, ctx.gradient = forms
        # a temperature on the device may have been lowered in place by the time of the backward pass
        ctx.tau = tau.clone() if isinstance(tau, Tensor) else tau
        ctx.packing = packing
        ctx.save_for_backward(logits, noise)
        return draw(logits, packing, tau, noise, hard=hard)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient in the logits by the form of :func:`gumbel_st_bwd`; temperature and noise have none."""
        logits, noise = ctx.saved_tensors
        return ctx.gradient(logits, grad, ctx.packing, ctx.tau, noise), None, None, None, None, None


def differentiable(
    logits: Tensor,
    packing: Packing,
    tau: float | Tensor,
    noise: Tensor,
    hard: bool,
    forms: tuple[Callable[..., Tensor], Callable[..., Tensor]],
) -> Tensor:
    """Draws by given forms of :func:`gumbel_st_fwd` and of its gradient.

    Raises:
        ValueError: As :func:`gumbel_softmax`.
    """
    if any(isinstance(one, Tensor) and one.requires_grad for one in (tau, noise)):
        raise ValueError("temperature and noise are constants here: detach them")
    drawn: Tensor = GumbelST.apply(logits, packing, tau, noise, hard, forms)  # type: ignore[no-untyped-call]
    return drawn


def gumbel_softmax(
    logits: Tensor, packing: Packing, tau: float | Tensor, noise: Tensor, *, hard: bool = True
) -> Tensor:
    """Draw every packed variable by :func:`gumbel_st_fwd`, differentiably once in the logits.

    Hard draws have the gradient of soft ones (straight-through). Temperature and noise are constants.

    Args:
        logits: ``[..., B, T]``.
        packing: The n variables.
        tau: Temperature, positive.
        noise: Gumbel noise ``[..., B, T]``.
        hard: Whether draws are one-hot.

    Returns:
        Draws ``[..., B, T]``.

    Raises:
        ValueError: As :func:`gumbel_st_fwd`, and if the temperature or the noise asks for a gradient.

    References:
        Jang, Gu & Poole (2017), https://arxiv.org/abs/1611.01144.

    Example:
        >>> from mdcm.kernels import gumbel_noise
        >>> logits, noise = torch.zeros(3, 5, requires_grad=True), gumbel_noise(0, torch.arange(3), 0, 5)
        >>> gumbel_softmax(logits, Packing([2, 3]), 0.7, noise)[:, 1].sum().backward()
        >>> logits.grad.shape
        torch.Size([3, 5])
    """
    return differentiable(logits, packing, tau, noise, hard, (gumbel_st_fwd, gumbel_st_bwd))
