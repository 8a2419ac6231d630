"""Mechanism of a real number or a vector without a density: a small network from noise to values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdcm.data import Variable
from mdcm.errors import PlanError
from mdcm.mechanisms.base import Mechanism, NoiseKind, check_depth
from mdcm.mechanisms.inputs import Context
from mdcm.mechanisms.regression import mean_and_spread

__all__ = ["Implicit"]

_MIN_NOISE = 4


class Implicit(Mechanism):
    """``v = f(parents, u, e)`` with normal noise e and a multilayer perceptron f; no density, no inverse.

    Unlike a flow, it can represent atoms, gaps and values on a surface. It is meant for adversarial training; without a
    confounder it can also be trained by the energy score, which needs no critic.

    Args:
        variable: A real variable: values are floats ``[n]``, or ``[n, size]`` of a vector.
        parents: Its parents.
        latents: Number of states of each of its confounders.
        hidden: Width of the network.
        layers: Number of hidden layers, at least 1.
        noise: Number of noise values per row; by default the number of entries, but at least 4.

    Raises:
        PlanError: If the variable is not a real number or a vector.
        ValueError: If a size is below 1.

    References:
        Rahman & Kocaoglu (2024), section F.1; Gneiting & Raftery (2007), section 4.2 (energy score, strictly proper).

    Example:
        >>> mechanism = Implicit(Variable("W", "implicit", size=3), [Variable("X", "continuous")], latents=(8,))
        >>> noise = torch.zeros(2, mechanism.noise_size)
        >>> mechanism({"X": torch.tensor([0.5, -1.0])}, [torch.tensor([7, 0])], noise).shape
        torch.Size([2, 3])
    """

    noise_kind: ClassVar[NoiseKind] = "normal"

    def __init__(
        self,
        variable: Variable,
        parents: Sequence[Variable],
        latents: Sequence[int] = (),
        *,
        hidden: int = 64,
        layers: int = 2,
        noise: int | None = None,
    ) -> None:
        super().__init__(variable, parents, latents)
        if variable.kind not in ("continuous", "implicit"):
            raise PlanError(f"{variable.name!r} is {variable.kind}, and this network generates real numbers only")
        self.size = variable.size or 1
        noise = max(_MIN_NOISE, self.size) if noise is None else noise
        if min(hidden, layers, noise) < 1:
            raise ValueError(f"hidden, layers and noise must be at least 1, not {hidden}, {layers} and {noise}")
        check_depth(layers=layers)
        self.hidden, self.layers, self.noise = hidden, layers, noise
        self.context = Context(self.parents, self.latents, hidden)
        self.enter = nn.Linear(noise, hidden, bias=False)
        self.inner = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        self.out = nn.Linear(hidden, self.size)
        self.register_buffer("center", torch.zeros(self.size))
        self.register_buffer("spread", torch.ones(self.size))
        self.center: Tensor
        self.spread: Tensor

    @property
    def noise_size(self) -> int:
        """Number of noise values per row."""
        return self.noise

    def training_defaults(self, rows: int) -> dict[str, Any]:
        """Optimiser settings that suit :meth:`conditional_loss`, by name."""
        return super().training_defaults(rows) | {"steps": 2000, "batch_size": 512}

    def prepare(self, parents: Mapping[str, Tensor], value: Tensor) -> None:
        """Measure mean and spread of the values, and the scales of continuous parents."""
        self.context.prepare(parents)
        rows = value.view(len(value), self.size)
        for buffer, measured in zip((self.center, self.spread), mean_and_spread(rows), strict=True):
            buffer.copy_(measured)

    def _entries(self, context: Tensor, noise: Tensor) -> Tensor:
        state = F.silu(context + self.enter(noise))
        for layer in self.inner:
            state = F.silu(layer(state))
        entries: Tensor = self.out(state)
        return entries

    def forward(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
        """Values ``[n]``, or ``[n, size]`` of a vector; see the base class."""
        value = self._entries(self.context(parents, latents, len(noise)), noise) * self.spread + self.center
        return value.squeeze(-1) if self.variable.size is None else value

    def conditional_loss(self, parents: Mapping[str, Tensor], value: Tensor, generator: torch.Generator) -> Tensor:
        """Energy score ``(|x - v| + |x' - v|) / 2 - |x - x'| / 2`` of two draws x, x', ``[n]``; see the base class."""
        context = self.context(parents, (), len(value))
        target = (value.view(len(value), self.size) - self.center) / self.spread
        noise = torch.randn(2, len(value), self.noise, generator=generator, device=generator.device)
        first, second = self._entries(context, noise.to(value))
        distance = torch.linalg.vector_norm(first - target, dim=1) + torch.linalg.vector_norm(second - target, dim=1)
        score: Tensor = (distance - torch.linalg.vector_norm(first - second, dim=1)) / 2
        return score

    def config(self) -> dict[str, Any]:
        """Architecture as plain JSON values."""
        return {"type": "implicit", "hidden": self.hidden, "layers": self.layers, "noise": self.noise}
