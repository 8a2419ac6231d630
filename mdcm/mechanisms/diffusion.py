"""Mechanism of an image without confounders: a conditional rectified flow from noise to pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdcm.data import Variable
from mdcm.errors import PlanError
from mdcm.mechanisms.base import Mechanism, NoiseKind, check_depth, edge_padding
from mdcm.mechanisms.inputs import ParentInput
from mdcm.mechanisms.inversion import invert

__all__ = ["RectifiedFlow"]

_MULTIPLE = 8
_CONTEXT = 96
_FREQUENCIES = 16
# training times are logit-normal with this mean and standard deviation, so that noisy images get most of the training
_TIME_MEAN, _TIME_SPREAD = -0.3, 1.2
# tuned at 16 x 16 pixels. Neighbouring pixels of a larger image are redundant, so the same information survives more
# noise; the odds would grow with the square root of the number of pixels if all were alike. At 32 x 32 pixels, three
# times the odds of noise were better than twice
_PIXELS, _POWER = 16 * 16, 0.8
# bounds the weight 1 / (1 - t) as t approaches 1
_NEAREST = 0.05


class _Block(nn.Module):
    """Residual block of the dense level, modulated by the context."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.steer = nn.Linear(_CONTEXT, 2 * width)
        self.enter = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(2 * width, width)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, value: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.steer(context).chunk(2, dim=-1)
        normal = F.layer_norm(value, value.shape[-1:])
        change: Tensor = self.leave(F.silu(self.enter(torch.addcmul(shift, normal, 1 + scale))))
        return value + change


class _Network(nn.Module):
    """Prediction of the clean image from a noisy image, time and context, in two levels.

    The dense level compresses the whole image to ``width`` numbers and predicts the image from them: it gets the
    position of a figure right and cannot pass noise through. The convolutional level, on patches, sharpens that
    prediction given the noisy image; it is initialised to change nothing.
    """

    def __init__(self, shape: tuple[int, int, int], *, width: int, blocks: int, channels: int) -> None:
        super().__init__()
        pixels = math.prod(shape)
        self.time = nn.Linear(2 * _FREQUENCIES, _CONTEXT)
        self.context = nn.Linear(_CONTEXT, _CONTEXT)
        self.squeeze = nn.Linear(pixels, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.unfold = nn.Linear(width, pixels)
        last: list[nn.Linear | nn.Conv2d] = [self.unfold]
        self.channels = channels
        if channels:
            # the size must be divisible by that of the patches: pad below and to the right, and crop the result
            self.padding = edge_padding(shape[1:], _MULTIPLE)
            self.patch = math.gcd(shape[1] + self.padding[3], shape[2] + self.padding[1]) // _MULTIPLE
            deep = shape[0] * self.patch**2
            self.read = nn.Conv2d(2 * deep, channels, 3, padding=1)
            self.steer = nn.Linear(_CONTEXT, channels)
            self.sharpen = nn.Conv2d(channels, deep, 3, padding=1)
            last.append(self.sharpen)
        for layer in last:
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        self.register_buffer("frequencies", torch.exp(torch.linspace(0, math.log(60.0), _FREQUENCIES)))
        self.frequencies: Tensor

    def forward(self, image: Tensor, time: Tensor, context: Tensor) -> Tensor:
        phase = time[:, None] * self.frequencies
        context = F.silu(self.time(torch.cat([phase.sin(), phase.cos()], dim=1)) + context)
        context = F.silu(self.context(context))
        whole = self.squeeze(image.flatten(1))
        for block in self.blocks:
            whole = block(whole, context)
        clean: Tensor = self.unfold(self.norm(whole)).view_as(image)
        if self.channels:
            both = F.pad(torch.cat([image, clean], dim=1), self.padding)
            local = self.read(F.pixel_unshuffle(both, self.patch)) + self.steer(context)[:, :, None, None]
            change = F.pixel_shuffle(self.sharpen(F.silu(local)), self.patch)
            clean = clean + change[:, :, : image.shape[2], : image.shape[3]]
        return clean


class RectifiedFlow(Mechanism):
    """Image generated from Gaussian noise by integrating ``dx/dt = (f(x, t, parents) - x) / (1 - t)``, t from 0 to 1.

    The network f predicts the clean image rather than the velocity, because images lie near a set of low dimension
    and noise does not. Given the noise, the image is a deterministic function of the parents.

    Args:
        variable: An image variable, of any height and width.
        parents: Its parents: categorical parents are embedded, continuous parents standardised, images read by a small
            convolutional network.
        latents: Must be empty: without a density, no confounder can be fitted.
        width: Width of the dense level of the network.
        blocks: Residual blocks of the dense level.
        channels: Channels of the convolutional level; 0 omits it.
        steps: Heun steps of the integration; each but the last evaluates the network twice.

    Raises:
        PlanError: If the variable has a confounder or is not an image.
        ValueError: If width, blocks or steps is below 1, or channels below 0.

    Complexity:
        ``2 steps - 1`` evaluations of the network per image.

    References:
        Liu, Gong & Liu (2023), "Flow straight and fast", https://arxiv.org/abs/2209.03003 (rectified flow);
        Esser et al. (2024), https://arxiv.org/abs/2403.03206 (logit-normal times, and their shift with the size);
        Li & He (2025), https://arxiv.org/abs/2511.13720 (predicting the clean image).

    Example:
        >>> import torch
        >>> digit = Variable("D", "categorical", levels=(0, 1))
        >>> flow = RectifiedFlow(Variable("I", "image", shape=(3, 16, 16)), parents=[digit])
        >>> noise = torch.zeros(2, flow.noise_size)
        >>> flow({"D": torch.tensor([0, 1])}, (), noise).shape
        torch.Size([2, 3, 16, 16])
    """

    noise_kind: ClassVar[NoiseKind] = "normal"
    has_density: ClassVar[bool] = False

    def __init__(
        self,
        variable: Variable,
        parents: Sequence[Variable],
        latents: Sequence[int] = (),
        *,
        width: int = 256,
        blocks: int = 4,
        channels: int = 0,
        steps: int = 8,
    ) -> None:
        super().__init__(variable, parents, latents)
        if variable.shape is None:
            raise PlanError(f"{variable.name!r} is {variable.kind}, and a rectified flow generates images only")
        if self.latents:
            raise PlanError(
                f"the image {variable.name!r} has a hidden confounder; a rectified flow has no density to fit one by"
            )
        _, height, across = variable.shape
        if min(width, blocks, steps) < 1 or channels < 0:
            raise ValueError(
                f"width, blocks and steps must be at least 1 and channels at least 0, not {width}, {blocks}, {steps} "
                f"and {channels}"
            )
        check_depth(blocks=blocks)
        self.width, self.blocks, self.channels, self.steps = width, blocks, channels, steps
        self.shape = variable.shape
        self.shift = math.pow(max(1.0, height * across / _PIXELS), _POWER)
        self.inputs = nn.ModuleList(ParentInput(parent, _CONTEXT, 1.0) for parent in self.parents)
        self.network = _Network(self.shape, width=width, blocks=blocks, channels=channels)
        self.register_buffer("mean", torch.zeros(self.shape))
        self.register_buffer("std", torch.ones(()))
        self.mean: Tensor
        self.std: Tensor

    @property
    def noise_size(self) -> int:
        """Number of pixels times channels."""
        return math.prod(self.shape)

    def training_defaults(self, rows: int) -> dict[str, Any]:
        """Optimiser settings that suit :meth:`conditional_loss`, by name."""
        return super().training_defaults(rows) | {
            "steps": 6000,
            "batch_size": 128,
            "learning_rate": 2e-3,
            "weight_decay": 1e-4,
            "betas": (0.9, 0.99),
            "ema": 0.995,
            "warmup": 100,
        }

    def prepare(self, parents: Mapping[str, Tensor], value: Tensor) -> None:
        """Measure the mean image, the spread around it, and the scales of continuous parents."""
        for module, parent in zip(self.inputs, self.parents, strict=True):
            assert isinstance(module, ParentInput)
            module.prepare(parents[parent.name])
        self.mean.copy_(value.mean(dim=0))
        # identical images have no spread
        self.std.copy_((value - self.mean).square().mean().sqrt().clamp_min(1e-3))

    def _context(self, parents: Mapping[str, Tensor], like: Tensor) -> Tensor:
        total = like.new_zeros(1, _CONTEXT)
        for module, parent in zip(self.inputs, self.parents, strict=True):
            total = total + module(parents[parent.name])
        return total

    def _predict(self, image: Tensor, time: Tensor, context: Tensor) -> Tensor:
        """Expected clean image given the noisy image at each row's time, before clamping."""
        column = time[:, None, None, None]
        spread = ((1 - column).square() + (column * self.std).square()).sqrt()
        normal: Tensor = self.network((image - column * self.mean) / spread, time, context)
        return self.mean + self.std * normal

    def _time(self, step: int) -> float:
        """Start time of a step of the integration; the larger the image, the more steps are near the noise."""
        time = step / self.steps
        return time / (time + self.shift * (1 - time))

    def _steps(self, context: Tensor) -> list[Callable[[Tensor], Tensor]]:
        """Steps of the integration, each from the image at its time to the image at the next."""

        def velocity(state: Tensor, time: float) -> Tensor:
            times = state.new_full((len(state),), time)
            return (self._predict(state, times, context) - state) / (1 - time)

        def heun(step: int, state: Tensor) -> Tensor:
            time, following = self._time(step), self._time(step + 1)
            length = following - time
            slope = velocity(state, time)
            ahead = velocity(state + length * slope, following)
            return state + 0.5 * length * (slope + ahead)

        def last(state: Tensor) -> Tensor:
            # an Euler step to t = 1, where the velocity is undefined, ends at the predicted image itself
            times = state.new_full((len(state),), self._time(self.steps - 1))
            return self._predict(state, times, context).clamp(-1, 1)

        return [*(partial(heun, step) for step in range(self.steps - 1)), last]

    def forward(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
        """Images in [-1, 1], float32 ``[n, c, h, w]``; see the base class."""
        image = noise.view(len(noise), *self.shape)
        for step in self._steps(self._context(parents, noise)):
            image = step(image)
        return image

    @torch.no_grad()
    def abduct(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor, fresh: Tensor) -> Tensor:
        """Noise from which the integration generates ``value``, ``[n, noise_size]``, by inverting its steps.

        ``fresh`` supplies what the last step discards. Images like those in the training data are reproduced up to a
        small error, others only as far as the flow can generate them.
        """
        image, time = value.view(len(value), *self.shape), self._time(self.steps - 1)
        start = time * image + (1 - time) * fresh.view_as(image)
        return invert(self._steps(self._context(parents, image)), image, start).flatten(1)

    def conditional_loss(self, parents: Mapping[str, Tensor], value: Tensor, generator: torch.Generator) -> Tensor:
        """Squared error of the clean image at a random time for each row, over 1 - t, ``[n]``; see the base class.

        Unweighted, the error neglects details, which form last; weighted as the error of the velocity, by
        ``(1 - t)^-2``, it neglects everything else.
        """
        # drawn on the generator's device, so that results do not depend on the device of the model
        normal = torch.randn(len(value), generator=generator, device=generator.device).to(value.device)
        time = torch.sigmoid(normal * _TIME_SPREAD + _TIME_MEAN - math.log(self.shift))
        noise = torch.randn(value.shape, generator=generator, device=generator.device).to(value.device)
        column = time[:, None, None, None]
        predicted = self._predict((1 - column) * noise + column * value, time, self._context(parents, value))
        return (predicted - value).square().mean(dim=(1, 2, 3)) / (1 - time).clamp_min(_NEAREST)

    def config(self) -> dict[str, Any]:
        """Architecture as plain JSON values."""
        return {
            "type": "rectified_flow",
            "width": self.width,
            "blocks": self.blocks,
            "channels": self.channels,
            "steps": self.steps,
        }
