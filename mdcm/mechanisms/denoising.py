"""Mechanism of an image without confounders: a denoising diffusion model on the U-Net and schedulers of diffusers."""

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
_MOST_GROWTH = 4
# attention heads of diffusers have this many channels, and normalisation as many groups
_HEAD = 8

# the network's output for noisy images at one time
Network = Callable[[Tensor, Tensor], Tensor]


def diffusers_part(name: str) -> Any:
    """A class of diffusers by name, imported when it is needed.

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
        network: Output of the denoising network for noisy images ``[n, c, h, w]`` at a time.
        scheduler: A DDIMScheduler.
        number: Number of steps.

    References:
        Song, Meng & Ermon (2021), "Denoising diffusion implicit models", https://arxiv.org/abs/2010.02502.
    """
    scheduler.set_timesteps(number)

    def step(time: Tensor, last: bool, state: Tensor) -> Tensor:
        if not len(state):
            # attention cannot split nothing into heads
            return state
        found: Tensor = scheduler.step(network(state, time), time, state, eta=0.0).prev_sample
        return found.clamp(-1, 1) if last else found

    return [partial(step, time, place == number - 1) for place, time in enumerate(scheduler.timesteps)]


@torch.no_grad()
def denoise_backwards(network: Network, scheduler: Any, number: int, image: Tensor, fresh: Tensor) -> Tensor:
    """Noise that :func:`sampling_steps` turn into an image; what the last step forgets is taken from ``fresh``."""
    steps = sampling_steps(network, scheduler, number)
    kept = float(scheduler.alphas_cumprod[scheduler.timesteps[-1]])
    return invert(steps, image, math.sqrt(kept) * image + math.sqrt(1 - kept) * fresh)


class Diffusion(Mechanism):
    """Image made from Gaussian noise by a denoising diffusion model, sampled deterministically (DDIM).

    Needs the extra ``mdcm[diffusers]``. The network is a U-Net that predicts the velocity; the parents are added to its
    embedding of the time. Given the noise, the image is a deterministic function of the parents. A
    :class:`~mdcm.mechanisms.RectifiedFlow` learns small images faster; this one is for images with fine detail.

    Args:
        variable: An image variable; a size that cannot be halved ``levels - 1`` times is padded for the network.
        parents: Its parents.
        latents: Must be empty: there is no density, so a confounder could not be fitted.
        channels: Channels at full size, a multiple of 8; doubled at each level below, up to four times.
        levels: Sizes at which the network works, each half of the one before.
        blocks: Residual blocks per level.
        steps: Steps of the sampler.

    Raises:
        PlanError: If the variable has a confounder, is no image, or is smaller than its levels ask for.
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
        if min(channels, levels, blocks) < 1 or channels % _HEAD or not 1 <= steps <= _TIMES:
            raise ValueError(
                f"channels must be a positive multiple of {_HEAD}, levels and blocks at least 1, and steps from 1 to "
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
            block_out_channels=tuple(channels * min(2**level, _MOST_GROWTH) for level in range(levels)),
            layers_per_block=blocks,
            norm_num_groups=_HEAD,
            attention_head_dim=_HEAD,
            # labels are added to the embedding of the time as they are
            class_embed_type="identity",
        )
        self._scheduler: Any = None

    @property
    def scheduler(self) -> Any:
        """The schedule of noise, a DDIMScheduler; made when it is first asked for, since it holds no weights."""
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
        """One normal number per pixel and channel."""
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
            found: Tensor = self.network(F.pad(state, self._padding), time, class_labels=context).sample
            return found[:, :, : self.shape[1], : self.shape[2]]

        return network

    def forward(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
        """Images in [-1, 1], float32 ``[n, c, h, w]``; see the base class."""
        image = noise.view(len(noise), *self.shape)
        for step in sampling_steps(self._denoiser(parents, len(noise)), self.scheduler, self.steps):
            image = step(image)
        return image

    @torch.no_grad()
    def abduct(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor, fresh: Tensor) -> Tensor:
        """Noise that the sampler turns into ``value``, ``[n, noise_size]``, by running it backwards.

        What the last step forgets is taken from ``fresh``. An image of the kind that the model has learned comes back
        up to a small error; of another image, what the model can draw of it.
        """
        network = self._denoiser(parents, len(value))
        return denoise_backwards(network, self.scheduler, self.steps, value, fresh.view_as(value)).flatten(1)

    def conditional_loss(self, parents: Mapping[str, Tensor], value: Tensor, generator: torch.Generator) -> Tensor:
        """Squared error of the velocity at a random time of each row, ``[n]``; see the base class."""
        # from the generator's own device, so that a seed means the same everywhere
        noise = torch.randn(value.shape, generator=generator, device=generator.device).to(value)
        time = torch.randint(_TIMES, (len(value),), generator=generator, device=generator.device).to(value.device)
        noisy = self.scheduler.add_noise(value, noise, time)
        wanted = self.scheduler.get_velocity(value, noise, time)
        predicted = self._denoiser(parents, len(value))(noisy, time)
        error: Tensor = (predicted - wanted).square().mean(dim=(1, 2, 3))
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
