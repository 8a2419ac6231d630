"""Mechanism of an image that may be confounded: a convolutional generator for adversarial training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdcm.data import Variable
from mdcm.errors import PlanError
from mdcm.mechanisms.base import Mechanism, NoiseKind
from mdcm.mechanisms.inputs import Context

__all__ = ["ImageGenerator"]

# largest side of the grid from which the image is upsampled
_MAX_GRID = 4
_MAX_GROWTH = 4


class _Grow(nn.Module):
    """Layer that doubles height and width, modulated by the context."""

    def __init__(self, before: int, after: int, width: int) -> None:
        super().__init__()
        self.convolve = nn.Conv2d(before, after, 3, padding=1)
        # over all channels of each image, so that rows are independent
        self.norm = nn.GroupNorm(1, after, affine=False)
        self.steer = nn.Linear(width, 2 * after)

    def forward(self, value: Tensor, context: Tensor) -> Tensor:
        grown: Tensor = self.norm(self.convolve(F.interpolate(value, scale_factor=2.0)))
        scale, shift = self.steer(context)[:, :, None, None].chunk(2, dim=1)
        return F.leaky_relu(grown * (1 + scale) + shift, 0.2)


class ImageGenerator(Mechanism):
    """Image generated from noise, parents and confounder states by upsampling convolutions; no density.

    The generator of a conditional WGAN-GP: it is trained against a critic, alone or with the other variables of its
    c-component. It has no batch normalisation, so an image depends on its own row only.

    Args:
        variable: An image variable of any size; values are float32 ``[n, c, h, w]`` in (-1, 1).
        parents: Its parents.
        latents: Number of states of each of its confounders.
        noise: Number of noise values per row.
        width: Width of the context, the sum of parents, confounders and noise.
        channels: Channels before the last layer; up to four times as many at lower resolutions.

    Raises:
        PlanError: If the variable is not an image.
        ValueError: If a size is below 1.

    References:
        Gulrajani et al. (2017), https://arxiv.org/abs/1704.00028 (WGAN-GP); Radford, Metz & Chintala (2016),
        https://arxiv.org/abs/1511.06434; Rahman & Kocaoglu (2024), sections 5.2 and F.2.

    Example:
        >>> image = Variable("I", "image", shape=(1, 28, 28))
        >>> generator = ImageGenerator(image, [Variable("D", "categorical", levels=(0, 1))], latents=(8,))
        >>> noise = torch.zeros(2, generator.noise_size)
        >>> generator({"D": torch.tensor([0, 1])}, [torch.tensor([7, 0])], noise).shape
        torch.Size([2, 1, 28, 28])
    """

    noise_kind: ClassVar[NoiseKind] = "normal"
    needs_critic: ClassVar[bool] = True

    def __init__(
        self,
        variable: Variable,
        parents: Sequence[Variable],
        latents: Sequence[int] = (),
        *,
        noise: int = 64,
        width: int = 128,
        channels: int = 32,
    ) -> None:
        super().__init__(variable, parents, latents)
        if variable.shape is None:
            raise PlanError(f"{variable.name!r} is {variable.kind}, and an image generator generates images only")
        if min(noise, width, channels) < 1:
            raise ValueError(f"noise, width and channels must be at least 1, not {noise}, {width} and {channels}")
        self.noise, self.width, self.channels = noise, width, channels
        self.shape = variable.shape
        planes, height, across = self.shape
        doublings = 0
        while max(height, across) > _MAX_GRID:
            height, across, doublings = -(-height // 2), -(-across // 2), doublings + 1
        depths = [channels * min(2**left, _MAX_GROWTH) for left in range(doublings, -1, -1)]
        self.grid = (depths[0], height, across)
        self.context = Context(self.parents, self.latents, width)
        self.enter = nn.Linear(noise, width, bias=False)
        self.mix = nn.Linear(width, width)
        self.seed = nn.Linear(width, depths[0] * height * across)
        self.grow = nn.ModuleList(_Grow(before, after, width) for before, after in pairwise(depths))
        self.out = nn.Conv2d(depths[-1], planes, 3, padding=1)

    @property
    def noise_size(self) -> int:
        """Number of noise values per row."""
        return self.noise

    def training_defaults(self, rows: int) -> dict[str, Any]:
        """Optimiser settings of the generator in adversarial training, by name."""
        return super().training_defaults(rows) | {
            "steps": 4000,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "betas": (0.5, 0.9),
            "ema": 0.995,
        }

    def prepare(self, parents: Mapping[str, Tensor], value: Tensor) -> None:
        """Measure the scales of continuous parents."""
        self.context.prepare(parents)

    def forward(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
        """Images in (-1, 1), float32 ``[n, c, h, w]``; see the base class."""
        context = F.leaky_relu(self.context(parents, latents, len(noise)) + self.enter(noise), 0.2)
        context = F.leaky_relu(self.mix(context), 0.2)
        state = F.leaky_relu(self.seed(context), 0.2).view(-1, *self.grid)
        for layer in self.grow:
            state = layer(state, context)
        _, height, across = self.shape
        # crop sizes that are not a power of two times the grid
        return torch.tanh(self.out(state)[:, :, :height, :across])

    def conditional_loss(self, parents: Mapping[str, Tensor], value: Tensor, generator: torch.Generator) -> Tensor:
        """Not available: the generator is trained against a critic.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            f"the image generator of {self.variable.name!r} learns from a critic only: choose the adversarial "
            "objective for it, or a RectifiedFlow"
        )

    def config(self) -> dict[str, Any]:
        """Architecture as plain JSON values."""
        return {"type": "image_generator", "noise": self.noise, "width": self.width, "channels": self.channels}
