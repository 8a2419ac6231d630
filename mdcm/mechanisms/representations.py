"""Mechanisms that read an image through a representation, and a measure of what the representation loses.

A critic that compares images by a few numbers R(I) determines the dependence of the children H of an image on R(I), not
on I. Mechanisms of H that read R(I) instead of I make that assumption part of the model; a probe tests it on held-out
rows.
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

# larger than the default encoder, which has 16 features and 12 channels
_FEATURES, _CHANNELS = 64, 24


class _Encoded(nn.Module):
    """Pre-activations of an image: a frozen representation followed by a trained linear layer."""

    def __init__(self, encoder: Callable[[Tensor], Tensor], features: int, hidden: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.linear = nn.Linear(features, hidden)

    def train(self, mode: bool = True) -> _Encoded:
        """Set the training mode, with the encoder in evaluation mode."""
        super().train(mode)
        if isinstance(self.encoder, nn.Module):
            self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.linear(self.encoder(images))
        return output


def encode_images(
    mechanism: Mechanism, encoders: Mapping[str, Callable[[Tensor], Tensor]], seed: int = 0
) -> tuple[str, ...]:
    """Make a mechanism read its image parents through frozen encoders.

    Applies to mechanisms that read their parents by :class:`ParentInput`; any other is left unchanged.

    Args:
        mechanism: Changed in place. With encoders of :func:`~mdcm.mechanisms.train_encoder` it can be saved.
        encoders: By parent, a function from float images ``[n, c, h, w]`` in [-1, 1] to ``[n, features]``.
        seed: Seed of the initial weights of the layer after the encoder.

    Returns:
        Names of the parents that are read through an encoder.

    Example:
        >>> from mdcm.data import Variable
        >>> from mdcm.mechanisms import Categorical
        >>> image = Variable("I", "image", shape=(1, 8, 8))
        >>> mechanism = Categorical(Variable("A", "categorical", levels=(0, 1)), [image])
        >>> encode_images(mechanism, {"I": lambda images: images.mean((2, 3))})
        ('I',)
    """
    names = []
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
            names.append(name)
    return tuple(dict.fromkeys(names))


def restore_encoders(mechanism: Mechanism, encoders: Mapping[str, Mapping[str, Any]]) -> None:
    """Give a mechanism encoders of a saved architecture, whose weights are loaded afterwards.

    Args:
        mechanism: Changed in place.
        encoders: The saved :attr:`Mechanism.encoders`.

    Raises:
        ValueError: If a name is not that of an image parent.
    """
    shapes = {parent.name: parent.shape for parent in mechanism.parents if parent.shape is not None}
    unknown = sorted(set(encoders) - set(shapes))
    if unknown:
        raise ValueError(f"{mechanism.variable.name!r} has no image {unknown[0]!r} among its parents")
    restored = {name: ImageEncoder(shapes[name], **config) for name, config in encoders.items()}
    if len(encode_images(mechanism, restored)) < len(encoders):
        raise ValueError(f"the mechanism of {mechanism.variable.name!r} reads no image through an encoder")


@dataclass(frozen=True)
class ProbeGap:
    """Predictive information on some variables that an image has beyond its representation, on held-out rows.

    Attributes:
        gap: Mean negative log-likelihood of all targets jointly by a probe on R(I), minus that by a probe on R(I) and
            I, in nats per row; near zero if R(I) is sufficient.
        error: Standard error of the gap.
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
    """Compare a probe on a representation of images with a probe on the representation and the images.

    Both predict the targets jointly, each target from the inputs and the targets before it. The second probe reads the
    representation too, so that only chance and overfitting can make it worse.

    Args:
        encoder: The representation R.
        images: uint8 ``[n, c, h, w]`` or floats in [-1, 1].
        targets: Values by name, as for :func:`~mdcm.mechanisms.train_encoder`.
        levels: Number of levels of categorical targets.
        weights: Weight of each row.
        steps: Steps of the optimiser, for each probe.
        hidden: Width of the hidden layer that predicts a target.
        holdout: Fraction of the rows held out; with the seed of :func:`~mdcm.mechanisms.train_encoder` they are those
            held out from the encoder.
        seed: Seed of the split, the initial weights and the batches.
        device: Device to train on.

    Returns:
        The gap; None if no rows are held out.

    Example:
        >>> import numpy as np
        >>> images = np.zeros((400, 1, 8, 8), dtype=np.uint8)
        >>> label = np.arange(400) % 2
        >>> images[label == 1, :, 2:6, 2:6] = 255
        >>> result = probe_gap(lambda images: images[:, :, 0, 0], images, {"label": label}, steps=60)
        >>> result.gap > 5 * result.error  # a corner does not show the square
        True
    """
    split = Split.of(images, targets, levels, weights, holdout, seed)
    if not split.has_validation:
        return None
    losses = []
    with torch.no_grad():
        parts = torch.split(torch.arange(split.rows), 1024)
        features = torch.cat([encoder(pixels(images, part, device)) for part in parts])
        training = features[split.training.to(features.device)]
        features = (features - training.mean(0)) / training.std(0, correction=min(1, len(training) - 1)).clamp_min(1e-6)
    for with_images in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            width = features.shape[1] + (_FEATURES if with_images else 0)
            networks = nn.ModuleDict({"heads": TargetHeads(split.kinds, split.sizes, width, hidden)})
            if with_images:
                networks["reader"] = ImageReader(tuple(images.shape[1:]), _FEATURES, channels=_CHANNELS)
        networks = networks.to(device)

        def read(indices: Tensor, networks: nn.ModuleDict = networks) -> Tensor:
            encoded = features[indices.to(features.device)]
            if "reader" not in networks:
                return encoded
            return torch.cat([encoded, networks["reader"](pixels(images, indices, device))], 1)

        losses.append(train_heads(networks, read, split, steps=steps, device=device).sum(1))
    difference = (losses[0] - losses[1]).double().cpu()
    share = split.share
    gap = float((difference * share).sum())
    error = float(((difference - gap).square() * share.square()).sum().sqrt())
    return ProbeGap(gap, error, len(split.held_out))
