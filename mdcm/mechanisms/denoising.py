"""Mechanism of an image without confounders: a denoising diffusion model built on the diffusers library."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdcm.data import Variable
from mdcm.errors import MdcmError, PlanError
from mdcm.mechanisms.base import Mechanism, NoiseKind, check_depth, edge_padding
from mdcm.mechanisms.inputs import Context
from mdcm.mechanisms.inversion import invert

__all__ = ["Diffusion", "denoise_backwards", "diffusers_part", "sampling_steps"]

_TIMES = 1000
_MAX_GROWTH = 4
# channels per attention head, and number of normalisation groups
_GROUP = 8

# output of the denoising network for noisy images at a time step
Network = Callable[[Tensor, Tensor], Tensor]


def diffusers_part(name: str) -> Any:
    """Import a class of diffusers by name.

    Raises:
        MdcmError: If diffusers is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise MdcmError(
            f"diffusion models need diffusers, which does not load ({error}): pip install 'mdcm[diffusers]'"
        ) from error
    return getattr(diffusers, name)


def sampling_steps(network: Network, scheduler: Any, number: int) -> list[Callable[[Tensor], Tensor]]:
    """Steps of the deterministic sampler (DDIM) from noise to an image in [-1, 1].

    Args:
        network: Denoising network: its output for noisy images ``[n, c, h, w]`` at a time step.
        scheduler: A DDIMScheduler.
        number: Number of steps.

    References:
        Song, Meng & Ermon (2021), "Denoising diffusion implicit models", https://arxiv.org/abs/2010.02502.
    """
    scheduler.set_timesteps(number)

    def step(time: Tensor, last: bool, state: Tensor) -> Tensor:
        if not len(state):
            # attention cannot split an empty batch into heads
            return state
        previous: Tensor = scheduler.step(network(state, time), time, state, eta=0.0).prev_sample
        return previous.clamp(-1, 1) if last else previous

    return [partial(step, time, index == number - 1) for index, time in enumerate(scheduler.timesteps)]


@torch.no_grad()
def denoise_backwards(network: Network, scheduler: Any, number: int, image: Tensor, fresh: Tensor) -> Tensor:
    """Invert :func:`sampling_steps`: noise that leads to an image; ``fresh`` supplies what the last step discards."""
    steps = sampling_steps(network, scheduler, number)
    signal = float(scheduler.alphas_cumprod[scheduler.timesteps[-1]])
    return invert(steps, image, math.sqrt(signal) * image + math.sqrt(1 - signal) * fresh)


class Diffusion(Mechanism):
    """Image generated from Gaussian noise by a denoising diffusion model, sampled deterministically (DDIM).

    Needs the extra ``mdcm[diffusers]``. The network is a U-Net that predicts the velocity; the parents are added to its
    time embedding. Given the noise, the image is a deterministic function of the parents. A
    :class:`~mdcm.mechanisms.RectifiedFlow` learns small images faster; use this class for images with fine detail.

    Args:
        variable: An image variable; a size that cannot be halved ``levels - 1`` times is padded for the network.
        parents: Its parents.
        latents: Must be empty: without a density, no confounder can be fitted.
        channels: Channels at full size, a multiple of 8; doubled at each level below, up to four times.
        levels: Number of resolutions of the network, each half the previous.
        blocks: Residual blocks per level.
        steps: Steps of the sampler.

    Raises:
        PlanError: If the variable has a confounder, is not an image, or is too small for the number of levels.
        ValueError: If a number is out of range.
        MdcmError: If diffusers is not installed.

    Complexity:
        ``steps`` evaluations of the network per image.

    References:
        Ho, Jain & Abbeel (2020), https://arxiv.org/abs/2006.11239; Salimans & Ho (2022),
        https://arxiv.org/abs/2202.00512 (velocity); Song, Meng & Ermon (2021), https://arxiv.org/abs/2010.02502.

    Example:
        >>> digit = Variable("D", "categorical", levels=(0, 1))
        >>> model = Diffusion(Variable("I", "image", shape=(1, 8, 8)), [digit], channels=8, levels=2, steps=2)
        >>> model({"D": torch.tensor([0, 1])}, (), torch.zeros(2, model.noise_size)).shape
        torch.Size([2, 1, 8, 8])
    """

    noise_kind: ClassVar[NoiseKind] = "normal"

    def __init__(
        self,
        variable: Variable,
        parents: Sequence[Variable],
        latents: Sequence[int] = (),
        *,
        channels: int = 32,
        levels: int = 3,
        blocks: int = 1,
        steps: int = 25,
    ) -> None:
        super().__init__(variable, parents, latents)
        if variable.shape is None:
            raise PlanError(f"{variable.name!r} is {variable.kind}, and a diffusion model generates images only")
        if self.latents:
            raise PlanError(
                f"the image {variable.name!r} has a hidden confounder; a diffusion model has no density to fit one by"
            )
        if min(channels, levels, blocks) < 1 or channels % _GROUP or not 1 <= steps <= _TIMES:
            raise ValueError(
                f"channels must be a positive multiple of {_GROUP}, levels and blocks at least 1, and steps from 1 to "
                f"{_TIMES}, not {channels}, {levels}, {blocks} and {steps}"
            )
        check_depth(blocks=blocks)
        planes, height, across = variable.shape
        if levels > min(height, across).bit_length():
            raise PlanError(
                f"the image {variable.name!r} is {height} x {across} pixels, which cannot be halved {levels - 1} "
                f"times; use levels={min(height, across).bit_length()} or fewer"
            )
        self.channels, self.levels, self.blocks, self.steps = channels, levels, blocks, steps
        self.shape = variable.shape
        self._padding = edge_padding((height, across), 2 ** (levels - 1))
        self.context = Context(self.parents, (), 4 * channels)
        self.network: nn.Module = diffusers_part("UNet2DModel")(
            sample_size=(height + self._padding[3], across + self._padding[1]),
            in_channels=planes,
            out_channels=planes,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            block_out_channels=tuple(channels * min(2**level, _MAX_GROWTH) for level in range(levels)),
            layers_per_block=blocks,
            norm_num_groups=_GROUP,
            attention_head_dim=_GROUP,
            # add the labels to the time embedding unchanged
            class_embed_type="identity",
        )
        self._scheduler: Any = None

    @property
    def scheduler(self) -> Any:
        """Noise schedule, a DDIMScheduler; created on first use, since it has no weights."""
        if self._scheduler is None:
            self._scheduler = diffusers_part("DDIMScheduler")(
                num_train_timesteps=_TIMES,
                beta_schedule="squaredcos_cap_v2",
                prediction_type="v_prediction",
                clip_sample=False,
                timestep_spacing="trailing",
            )
        return self._scheduler

    @property
    def noise_size(self) -> int:
        """Number of pixels times channels."""
        return math.prod(self.shape)

    def training_defaults(self, rows: int) -> dict[str, Any]:
        """Optimiser settings that suit :meth:`conditional_loss`, by name."""
        return super().training_defaults(rows) | {
            "steps": 6000,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "weight_decay": 1e-4,
            "betas": (0.9, 0.99),
            "ema": 0.995,
            "warmup": 100,
        }

    def prepare(self, parents: Mapping[str, Tensor], value: Tensor) -> None:
        """Measure the scales of continuous parents."""
        self.context.prepare(parents)

    def _denoiser(self, parents: Mapping[str, Tensor], rows: int) -> Network:
        context = self.context(parents, (), rows)

        def network(state: Tensor, time: Tensor) -> Tensor:
            output: Tensor = self.network(F.pad(state, self._padding), time, class_labels=context).sample
            return output[:, :, : self.shape[1], : self.shape[2]]

        return network

    def forward(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
        """Images in [-1, 1], float32 ``[n, c, h, w]``; see the base class."""
        image = noise.view(len(noise), *self.shape)
        for step in sampling_steps(self._denoiser(parents, len(noise)), self.scheduler, self.steps):
            image = step(image)
        return image

    @torch.no_grad()
    def abduct(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor, fresh: Tensor) -> Tensor:
        """Noise from which the sampler generates ``value``, ``[n, noise_size]``, by inverting its steps.

        ``fresh`` supplies what the last step discards. Images like those in the training data are reproduced up to a
        small error, others only as far as the model can generate them.
        """
        network = self._denoiser(parents, len(value))
        return denoise_backwards(network, self.scheduler, self.steps, value, fresh.view_as(value)).flatten(1)

    def conditional_loss(self, parents: Mapping[str, Tensor], value: Tensor, generator: torch.Generator) -> Tensor:
        """Squared error of the velocity at a random time for each row, ``[n]``; see the base class."""
        # drawn on the generator's device, so that results do not depend on the device of the model
        noise = torch.randn(value.shape, generator=generator, device=generator.device).to(value)
        time = torch.randint(_TIMES, (len(value),), generator=generator, device=generator.device).to(value.device)
        noisy = self.scheduler.add_noise(value, noise, time)
        velocity = self.scheduler.get_velocity(value, noise, time)
        predicted = self._denoiser(parents, len(value))(noisy, time)
        error: Tensor = (predicted - velocity).square().mean(dim=(1, 2, 3))
        return error

    def config(self) -> dict[str, Any]:
        """Architecture as plain JSON values."""
        return {
            "type": "diffusion",
            "channels": self.channels,
            "levels": self.levels,
            "blocks": self.blocks,
            "steps": self.steps,
        }
