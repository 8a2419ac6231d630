"""Mechanisms that see an image through a representation of it, and what the representation leaves out.

A critic compares images by a few numbers R(I). What it then fixes of the children H of an image is their dependence on
R(I), not on I. Mechanisms of H that read R(I) themselves, and not I, make that assumption part of the model; a probe
tells on held-out rows whether it is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mdcm.mechanisms.base import Mechanism
from mdcm.mechanisms.encoder import ImageEncoder, ImageReader
from mdcm.mechanisms.inputs import ParentInput
from mdcm.mechanisms.probes import Split, TargetHeads, pixels, train_heads

__all__ = ["ProbeGap", "encode_images", "probe_gap", "restore_encoders"]

# the probe's own reader, next to an encoder of 16 features and 12 channels
_FEATURES, _CHANNELS = 64, 24


class _Encoded(nn.Module):
    """Image to pre-activations by way of a representation that stays as it is, and a linear layer that is trained."""

    def __init__(self, encoder: Callable[[Tensor], Tensor], features: int, hidden: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.linear = nn.Linear(features, hidden)

    def train(self, mode: bool = True) -> _Encoded:
        """Train the linear layer alone."""
        super().train(mode)
        if isinstance(self.encoder, nn.Module):
            self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.linear(self.encoder(images))
        return found


def encode_images(
    mechanism: Mechanism, encoders: Mapping[str, Callable[[Tensor], Tensor]], seed: int = 0
) -> tuple[str, ...]:
    """Let a mechanism read images among its parents through encoders, which are not trained any more.

    Only mechanisms that take their parents in as those of this package do can be made to; any other is left alone.

    Args:
        mechanism: Changed in place. With encoders of :func:`~mdcm.mechanisms.train_encoder` it can be saved.
        encoders: For every image by name what turns float images ``[n, c, h, w]`` in [-1, 1] into ``[n, features]``.
        seed: Seed of the initial weights of what reads the features.

    Returns:
        Names of the parents that are now read so.

    Example:
        >>> from mdcm.data import Variable
        >>> from mdcm.mechanisms import Categorical
        >>> image = Variable("I", "image", shape=(1, 8, 8))
        >>> mechanism = Categorical(Variable("A", "categorical", levels=(0, 1)), [image])
        >>> encode_images(mechanism, {"I": lambda images: images.mean((2, 3))})
        ('I',)
    """
    found = []
    device = next((parameter.device for parameter in mechanism.parameters()), torch.device("cpu"))
    for module in list(mechanism.modules()):
        if isinstance(module, ParentInput) and module.parent.name in encoders:
            name = module.parent.name
            encoder = encoders[name]
            with torch.no_grad():
                features = encoder(torch.zeros(1, *(module.parent.shape or ()), device=device)).shape[1]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                reader = _Encoded(encoder, features, module.hidden)
            module.reader = reader.to(device)
            if isinstance(encoder, ImageEncoder):
                encoder.requires_grad_(False)
                mechanism.encoders[name] = encoder.config()
            found.append(name)
    return tuple(dict.fromkeys(found))


def restore_encoders(mechanism: Mechanism, encoders: Mapping[str, Mapping[str, Any]]) -> None:
    """Give a mechanism encoders of the same shape as those that another one had, whose weights are then loaded.

    Args:
        mechanism: Changed in place.
        encoders: What :attr:`Mechanism.encoders` was.

    Raises:
        ValueError: If a name is that of no image among its parents.
    """
    shapes = {parent.name: parent.shape for parent in mechanism.parents if parent.shape is not None}
    unknown = sorted(set(encoders) - set(shapes))
    if unknown:
        raise ValueError(f"{mechanism.variable.name!r} has no image {unknown[0]!r} among its parents")
    made = {name: ImageEncoder(shapes[name], **config) for name, config in encoders.items()}
    if len(encode_images(mechanism, made)) < len(encoders):
        raise ValueError(f"the mechanism of {mechanism.variable.name!r} reads no image through an encoder")


@dataclass(frozen=True)
class ProbeGap:
    """How much more an image tells of some variables than its representation does, on rows that neither was made from.

    Attributes:
        gap: Mean of the negative log-likelihood of all targets jointly by a probe on R(I), less that by one on R(I) and
            I, in nats per row; near zero where R(I) keeps what matters.
        error: Its standard error.
        rows: Number of held-out rows.
    """

    gap: float
    error: float
    rows: int


def probe_gap(
    encoder: Callable[[Tensor], Tensor],
    images: Any,
    targets: Mapping[str, Any],
    *,
    levels: Mapping[str, int] | None = None,
    weights: Any = None,
    steps: int = 600,
    hidden: int = 64,
    holdout: float = 0.1,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> ProbeGap | None:
    """Compare a probe on a representation of images with one that sees the images as well.

    Both predict the targets jointly, each from what it reads and from the targets before it. The second one reads the
    representation too, so that it can be worse by chance and by overfitting alone.

    Args:
        encoder: The representation R.
        images: uint8 ``[n, c, h, w]`` or floats in [-1, 1].
        targets: Values by name, as for :func:`~mdcm.mechanisms.train_encoder`.
        levels: Number of levels of categorical targets.
        weights: Weight of each row.
        steps: Steps of the optimiser, for each probe.
        hidden: Width of the layer that predicts a target.
        holdout: Share of the rows that are judged by; with the seed of :func:`~mdcm.mechanisms.train_encoder` they are
            those that the encoder did not see.
        seed: Seed of everything that is random.
        device: Where to train.

    Returns:
        The gap; None where no row is held out.

    Example:
        >>> import numpy as np
        >>> images = np.zeros((400, 1, 8, 8), dtype=np.uint8)
        >>> label = np.arange(400) % 2
        >>> images[label == 1, :, 2:6, 2:6] = 255
        >>> found = probe_gap(lambda images: images[:, :, 0, 0], images, {"label": label}, steps=60)
        >>> found.gap > 5 * found.error  # a corner does not show the square
        True
    """
    split = Split.of(images, targets, levels, weights, holdout, seed)
    if not split.judged:
        return None
    losses = []
    with torch.no_grad():
        everything = torch.arange(split.rows)
        parts = [encoder(pixels(images, part, device)) for part in torch.split(everything, 1024)]
        known = torch.cat(parts)
        chosen = known[split.chosen.to(known.device)]
        known = (known - chosen.mean(0)) / chosen.std(0, correction=min(1, len(chosen) - 1)).clamp_min(1e-6)
    for sees in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            width = known.shape[1] + (_FEATURES if sees else 0)
            networks = nn.ModuleDict({"heads": TargetHeads(split.kinds, split.sizes, width, hidden)})
            if sees:
                networks["reader"] = ImageReader(tuple(images.shape[1:]), _FEATURES, channels=_CHANNELS)
        networks = networks.to(device)

        def read(picked: Tensor, networks: nn.ModuleDict = networks) -> Tensor:
            own = known[picked.to(known.device)]
            if "reader" not in networks:
                return own
            return torch.cat([own, networks["reader"](pixels(images, picked, device))], 1)

        losses.append(train_heads(networks, read, split, steps=steps, device=device).sum(1))
    difference = (losses[0] - losses[1]).double().cpu()
    share = split.share
    gap = float((difference * share).sum())
    error = float(((difference - gap).square() * share.square()).sum().sqrt())
    return ProbeGap(gap, error, len(split.held))
