"""Input layers of mechanisms: parents and confounder states as a vector per row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdcm.data.variables import Variable
from mdcm.mechanisms.encoder import ImageReader
from mdcm.mechanisms.regression import mean_and_spread

__all__ = ["Context", "ParentInput", "normal_quantiles"]


def normal_quantiles(count: int) -> Tensor:
    """Medians of ``count`` equally probable parts of the standard normal distribution, ``[count]``, ascending.

    Example:
        >>> [round(quantile, 4) for quantile in normal_quantiles(3).tolist()]
        [-0.9674, 0.0, 0.9674]
    """
    quantiles: Tensor = torch.special.ndtri((torch.arange(count) + 0.5) / count)
    return quantiles


class ParentInput(nn.Module):
    """Contribution of a parent to the first layer: its value mapped to ``hidden`` pre-activations.

    Args:
        parent: The parent; a categorical parent is embedded, a continuous parent standardised, an image read by a
            small convolutional network.
        hidden: Width of the layer.
        scale: Standard deviation of the initial contribution.
    """

    def __init__(self, parent: Variable, hidden: int, scale: float) -> None:
        super().__init__()
        self.parent = parent
        self.hidden = hidden
        entries = () if parent.size is None else (parent.size,)
        self.register_buffer("mean", torch.zeros(entries))
        self.register_buffer("std", torch.ones(entries))
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
            size = parent.size or 1
            self.weight = nn.Parameter(torch.randn(size, hidden) * scale / math.sqrt(size))

    def prepare(self, value: Tensor) -> None:
        """Measure the scale of a continuous parent on its training values."""
        if self.parent.kind not in ("categorical", "image"):
            for buffer, measured in zip((self.mean, self.std), mean_and_spread(value), strict=True):
                buffer.copy_(measured)

    def features(self, value: Tensor) -> Tensor:
        """Features in which the contribution of a non-image parent is linear, ``[n, levels]`` or ``[n, size]``."""
        if self.parent.kind == "categorical":
            return value if value.is_floating_point() else F.one_hot(value, len(self.weight)).float()
        standard: Tensor = (value - self.mean) / self.std
        return standard.view(len(value), len(self.weight))

    def forward(self, value: Tensor) -> Tensor:
        """Contribution of each row, ``[n, hidden]``.

        Args:
            value: Codes ``[n]`` or one-hot floats ``[n, levels]`` of a categorical parent, floats ``[n]`` or
                ``[n, size]`` of a continuous parent, an image ``[n, c, h, w]``.
        """
        if self.parent.kind == "categorical":
            # one-hot rows or mixtures of levels carry a gradient, codes do not
            return value @ self.weight if value.is_floating_point() else F.embedding(value, self.weight)
        if self.reader is not None:
            features: Tensor = self.reader(value)
            return features
        return self.features(value) @ self.weight


class Context(nn.Module):
    """Parents and confounder states summed into ``width`` pre-activations per row.

    Args:
        parents: The parents, in the order of the mechanism.
        latents: Number of states of each confounder.
        width: Numbers per row.
        ordered: Whether to initialise the states of a confounder at normal quantiles on a line, or independently.

    Example:
        >>> context = Context([Variable("X", "categorical", levels=("a", "b"))], (4,), width=8)
        >>> x = torch.tensor([0, 1, 1])
        >>> context({"X": x}, [torch.tensor([3, 0, 2])], 3).shape, context.over_states({"X": x}, 3).shape
        (torch.Size([3, 8]), torch.Size([3, 4, 8]))
    """

    def __init__(
        self, parents: Sequence[Variable], latents: Sequence[int], width: int, *, ordered: bool = False
    ) -> None:
        super().__init__()
        self.parents = tuple(parents)
        self.width = width
        share = 1.0 / math.sqrt(max(len(self.parents), 1))
        self.inputs = nn.ModuleList(ParentInput(parent, width, share) for parent in self.parents)
        self.states = nn.ParameterList(
            nn.Parameter(normal_quantiles(size)[:, None] * torch.randn(width) if ordered else torch.randn(size, width))
            for size in latents
        )
        self.bias = nn.Parameter(torch.zeros(width))

    def prepare(self, parents: Mapping[str, Tensor]) -> None:
        """Measure the scales of continuous parents on their training values."""
        for module, parent in zip(self.inputs, self.parents, strict=True):
            assert isinstance(module, ParentInput)
            module.prepare(parents[parent.name])

    def features(self, parents: Mapping[str, Tensor]) -> list[Tensor]:
        """Features of each parent, ``[n, f]`` each: one-hot levels or standardised numbers."""
        return [module.features(parents[parent.name]) for module, parent in zip(self.inputs, self.parents, strict=True)]  # type: ignore[operator]

    def weights(self) -> Tensor:
        """Weights of all features, ``[f, width]``."""
        return torch.cat([module.weight for module in self.inputs] or [self.bias.new_zeros(0, self.width)])  # type: ignore[misc]

    def _parents_sum(self, parents: Mapping[str, Tensor], rows: int) -> Tensor:
        total = self.bias.expand(rows, self.width)
        for module, parent in zip(self.inputs, self.parents, strict=True):
            total = total + module(parents[parent.name])
        return total

    def forward(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], rows: int) -> Tensor:
        """Context of each row at given confounder states, ``[rows, width]``."""
        total = self._parents_sum(parents, rows)
        for weight, state in zip(self.states, latents, strict=True):
            # one-hot states carry the gradient of their prior
            total = total + (state @ weight if state.is_floating_point() else F.embedding(state, weight))
        return total

    def over_states(self, parents: Mapping[str, Tensor], rows: int) -> Tensor:
        """Context of each row at every combination of confounder states, ``[rows, s_1, ..., s_d, width]``."""
        axes = len(self.states)
        total = self._parents_sum(parents, rows).reshape(rows, *(1,) * axes, self.width)
        for axis, weight in enumerate(self.states):
            total = total + weight.view(len(weight), *(1,) * (axes - 1 - axis), self.width)
        return total
