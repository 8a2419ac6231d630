"""Mechanism of a categorical variable: a small network to logits, and a Gumbel race for the value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdcm.data import Variable
from mdcm.mechanisms.base import Mechanism, NoiseKind
from mdcm.mechanisms.encoder import ImageReader

__all__ = ["Categorical", "ParentInput"]


class ParentInput(nn.Module):
    """First layer's share of one parent: its value mapped to ``hidden`` pre-activations.

    Args:
        parent: The parent; a categorical one is looked up, a continuous one standardised, an image read by a small
            convolutional network.
        hidden: Width of the layer.
        scale: Standard deviation of the initial contribution.
    """

    def __init__(self, parent: Variable, hidden: int, scale: float) -> None:
        super().__init__()
        self.parent = parent
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.mean: Tensor
        self.std: Tensor
        self.reader: nn.Module | None = None
        if parent.kind == "categorical":
            assert parent.levels is not None
            self.weight = nn.Parameter(torch.randn(len(parent.levels), hidden) * scale)
        elif parent.kind == "image":
            assert parent.shape is not None
            self.reader = ImageReader(parent.shape, hidden)
        else:
            self.weight = nn.Parameter(torch.randn(1, hidden) * scale)

    def prepare(self, value: Tensor) -> None:
        """Measure the scale of a continuous parent on its training values."""
        if self.parent.kind not in ("categorical", "image"):
            self.mean.copy_(value.mean())
            self.std.copy_(value.std().clamp_min(1e-6))

    def forward(self, value: Tensor) -> Tensor:
        """Contribution of each row, ``[n, hidden]``."""
        if self.parent.kind == "categorical":
            return F.embedding(value, self.weight)
        if self.reader is not None:
            features: Tensor = self.reader(value)
            return features
        return ((value - self.mean) / self.std)[:, None] * self.weight


class Categorical(Mechanism):
    """``v = argmax_k(logits_k(parents, u) + g_k)`` with standard Gumbel noise g, one per level.

    Each confounder is finite: its states enter the first layer through an embedding of their own. Because parents
    and states only meet after the first layer's sum, logits are computed once per distinct parent configuration and
    combination of states, and then looked up per row.

    Args:
        variable: A categorical variable with K levels.
        parents: Its parents.
        latents: Number of states of each of its confounders.
        hidden: Width of the hidden layers.
        layers: Number of hidden layers, at least 1.

    Example:
        >>> import torch
        >>> from mdcm.data import Variable
        >>> coin = Variable("coin", "categorical", levels=("heads", "tails"))
        >>> mechanism = Categorical(coin, parents=(), latents=(4,))
        >>> mechanism.table(mechanism.context({}, rows=1)).shape
        torch.Size([1, 4, 2])
    """

    noise_kind: ClassVar[NoiseKind] = "gumbel"
    has_density: ClassVar[bool] = True

    def __init__(
        self,
        variable: Variable,
        parents: Sequence[Variable],
        latents: Sequence[int] = (),
        *,
        hidden: int = 32,
        layers: int = 2,
    ) -> None:
        super().__init__(variable, parents, latents)
        if variable.levels is None:
            raise ValueError(f"{variable.name!r} has no levels, so it is not categorical")
        if hidden < 1 or layers < 1:
            raise ValueError(f"hidden and layers must be at least 1, not {hidden} and {layers}")
        self.hidden = hidden
        self.layers = layers
        self.levels = len(variable.levels)
        share = 1.0 / math.sqrt(max(len(self.parents), 1))
        self.inputs = nn.ModuleList(ParentInput(parent, hidden, share) for parent in self.parents)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.states = nn.ParameterList(nn.Parameter(torch.randn(size, hidden)) for size in self.latents)
        self.inner = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        self.out = nn.Linear(hidden, self.levels)

    @property
    def noise_size(self) -> int:
        """One Gumbel number per level."""
        return self.levels

    @property
    def tabular(self) -> bool:
        """Whether all parents are categorical, so that rows with equal parents share their logits."""
        return all(parent.kind == "categorical" for parent in self.parents)

    def prepare(self, parents: Mapping[str, Tensor], value: Tensor) -> None:
        """Measure the scales of continuous parents, and start from the variable's own frequencies."""
        for module, parent in zip(self.inputs, self.parents, strict=True):
            assert isinstance(module, ParentInput)
            module.prepare(parents[parent.name])
        counts = torch.bincount(value, minlength=self.levels).to(self.out.bias) + 0.5
        with torch.no_grad():
            self.out.bias.copy_((counts / counts.sum()).log())

    def context(self, parents: Mapping[str, Tensor], rows: int) -> Tensor:
        """Parents' share of the first layer, ``[rows, hidden]``."""
        total = self.bias.expand(rows, self.hidden)
        for module, parent in zip(self.inputs, self.parents, strict=True):
            total = total + module(parents[parent.name])
        return total

    def _head(self, first: Tensor) -> Tensor:
        activation = F.silu(first)
        for layer in self.inner:
            activation = F.silu(layer(activation))
        logits: Tensor = self.out(activation)
        return logits

    def table(self, context: Tensor) -> Tensor:
        """Log probabilities for every row of ``context`` and combination of confounder states.

        Args:
            context: ``[p, hidden]``, from :meth:`context`.

        Returns:
            ``[p, s_1, ..., s_d, K]``.

        Complexity:
            O(p S^d hidden^2) for d confounders of S states.
        """
        first = context.reshape(len(context), *(1,) * len(self.states), self.hidden)
        for axis, weight in enumerate(self.states):
            after = len(self.states) - 1 - axis
            first = first + weight.view(len(weight), *(1,) * after, self.hidden)
        return self._head(first).log_softmax(-1)

    def logits(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], rows: int) -> Tensor:
        """Logits of each row at given confounder states, ``[rows, K]``."""
        first = self.context(parents, rows)
        for weight, state in zip(self.states, latents, strict=True):
            first = first + F.embedding(state, weight)
        return self._head(first)

    def forward(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
        """Codes of the winning levels, int64 ``[n]``; see the base class."""
        return (self.logits(parents, latents, len(noise)) + noise).argmax(-1)

    def log_prob(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor) -> Tensor:
        """Log probability of the observed codes in nats, ``[n]``."""
        table = self.logits(parents, latents, len(value)).log_softmax(-1)
        return table.gather(-1, value[:, None]).squeeze(-1)

    def conditional_loss(self, parents: Mapping[str, Tensor], value: Tensor, generator: torch.Generator) -> Tensor:
        """Negative log probability of each row; see the base class."""
        return -self.log_prob(parents, (), value)

    def config(self) -> dict[str, Any]:
        """Architecture as plain JSON values."""
        return {"type": "categorical", "hidden": self.hidden, "layers": self.layers}
