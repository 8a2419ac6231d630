"""Encoders of images into a few numbers, for mechanisms with image parents and for critics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdcm.mechanisms.base import float_pixels
from mdcm.mechanisms.probes import Split, TargetHeads, pixels, train_heads

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["EncoderReport", "ImageEncoder", "ImageReader", "train_encoder"]


class ImageReader(nn.Module):
    """Convolutional network from an image to ``features`` numbers.

    A stem of non-overlapping patches does most of the downsampling, so that the network is cheap beside the rest of a
    mechanism; strided convolutions follow until the longer side is at most 4, and then a linear layer.

    Args:
        shape: Channels, height and width of the images, each at least 1.
        features: Numbers per image.
        channels: Width of the stem; twice that afterwards.

    Raises:
        ValueError: If the shape is not three positive numbers, or ``features`` or ``channels`` is below 1.

    Example:
        >>> import torch
        >>> reader = ImageReader((3, 16, 16), features=8)
        >>> reader(torch.zeros(5, 3, 16, 16)).shape
        torch.Size([5, 8])
    """

    def __init__(self, shape: tuple[int, ...], features: int, *, channels: int = 12) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"an image's shape is (channels, height, width), all positive, not {tuple(shape)}")
        if features < 1 or channels < 1:
            raise ValueError(f"features and channels must be at least 1, not {features} and {channels}")
        planes, height, width = shape
        self.shape = (planes, height, width)
        self.features = features
        stem = 4 if max(height, width) >= 16 else 2
        self.padding = (0, -width % stem, 0, -height % stem)
        height, width = -(-height // stem), -(-width // stem)
        layers: list[nn.Module] = [nn.Conv2d(planes, channels, stem, stem), nn.SiLU()]
        channels, inputs = 2 * channels, channels
        while True:
            layers += [nn.Conv2d(inputs, channels, 3, 2, 1), nn.SiLU()]
            height, width, inputs = (height + 1) // 2, (width + 1) // 2, channels
            if max(height, width) <= 4:
                break
        layers += [nn.Flatten(), nn.Linear(channels * height * width, features)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Encode float images ``[n, c, h, w]`` in [-1, 1] as ``[n, features]``."""
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(f"images are {tuple(images.shape[1:])}, but the reader was built for {self.shape}")
        if any(self.padding):
            images = F.pad(images, self.padding, value=-1.0)
        features: Tensor = self.layers(images)
        return features


@dataclass(frozen=True)
class EncoderReport:
    """Predictive performance of an encoder on held-out rows, in nats per row.

    Attributes:
        rows: Number of held-out rows.
        loss: Negative log-likelihood of each target, given the image and the targets before it.
        baseline: Negative log-likelihood of each target by its frequencies or by a normal distribution. The loss is
            below it for a target on which the image is informative.
    """

    rows: int
    loss: Mapping[str, float]
    baseline: Mapping[str, float]


class ImageEncoder(nn.Module):
    """Encoder of an image into a few numbers that predict other variables; trained by :func:`train_encoder`.

    Args:
        shape: Channels, height and width of the images.
        features: Numbers per image.
        channels: Width of the network's stem.

    Attributes:
        report: Predictive performance of the features; None before training.

    Raises:
        ValueError: If the shape is not three positive numbers, or a size is below 1.

    References:
        Rahman & Kocaoglu (2024), sections 5.2 and F.2 (representations of images in modular training).

    Example:
        >>> encoder = ImageEncoder((3, 16, 16), features=4)
        >>> encoder(torch.zeros(5, 3, 16, 16, dtype=torch.uint8)).shape
        torch.Size([5, 4])
    """

    def __init__(self, shape: tuple[int, ...], features: int = 16, *, channels: int = 12) -> None:
        super().__init__()
        self.reader = ImageReader(shape, features, channels=channels)
        self.shape, self.features, self.channels = self.reader.shape, features, channels
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.mean: Tensor
        self.std: Tensor
        self.report: EncoderReport | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Features of images, float32 ``[n, features]``, standardised over the training images.

        Args:
            images: uint8 ``[n, c, h, w]``, or floats in [-1, 1].
        """
        features: Tensor = (self.reader(float_pixels(images)) - self.mean) / self.std
        return features

    def config(self) -> dict[str, int]:
        """Architecture, without the shape of the images."""
        return {"features": self.features, "channels": self.channels}


def train_encoder(
    images: ArrayLike | Tensor,
    targets: Mapping[str, ArrayLike | Tensor],
    *,
    features: int = 16,
    channels: int = 12,
    hidden: int = 64,
    levels: Mapping[str, int] | None = None,
    weights: ArrayLike | Tensor | None = None,
    steps: int = 600,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    holdout: float = 0.1,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> ImageEncoder:
    """Train a small encoder whose features predict several variables jointly.

    Each target is predicted from the features and the targets before it, so that the features retain information on
    the dependence between targets as well. The weights with the smallest validation loss are kept.

    Args:
        images: uint8 ``[n, c, h, w]`` or floats in [-1, 1]; an array may be memory-mapped, and is read in batches.
        targets: Values by name, ``n`` rows each: integer codes ``[n]`` of a categorical variable, floats ``[n]`` or
            ``[n, size]`` of any other.
        features: Numbers per image.
        channels: Width of the network's stem.
        hidden: Width of the hidden layer that predicts a target.
        levels: Number of levels of categorical targets whose levels do not all occur in the data.
        weights: Weight of each row, ``[n]``; None for equal weights.
        steps: Steps of the optimiser.
        batch_size: Images per step.
        learning_rate: Initial learning rate of AdamW, with a cosine schedule.
        holdout: Fraction of the rows held out for validation.
        seed: Seed of initial weights, held-out rows and batches; on one machine with one thread it determines the
            encoder bit for bit.
        device: Device to train on.

    Returns:
        The encoder in evaluation mode, its weights frozen, with its report.

    Raises:
        ValueError: If there are no targets, too few images, or rows that do not match.
        MdcmError: If the loss is no longer finite.

    Example:
        >>> import numpy as np
        >>> images = np.zeros((64, 1, 8, 8), dtype=np.uint8)
        >>> label = np.arange(64) % 2
        >>> images[label == 1, :, 2:6, 2:6] = 255
        >>> encoder = train_encoder(images, {"label": label}, features=2, steps=60, holdout=0.25)
        >>> bool(encoder.report.loss["label"] < 0.1 < encoder.report.baseline["label"])
        True
    """
    split = Split.of(images, targets, levels, weights, holdout, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = ImageEncoder(tuple(images.shape[1:]), features, channels=channels)  # type: ignore[union-attr]
        heads = TargetHeads(split.kinds, split.sizes, features, hidden)
    encoder = encoder.to(device)
    networks = nn.ModuleDict({"reader": encoder.reader, "heads": heads}).to(device)
    losses = train_heads(
        networks,
        lambda indices: encoder.reader(pixels(images, indices, device)),
        split,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        device=device,
    )
    with torch.no_grad():
        raw = torch.cat([encoder.reader(pixels(images, part, device)) for part in torch.split(split.training, 1024)])
        encoder.mean.copy_(raw.mean(0))
        # a constant feature becomes 0
        encoder.std.copy_(raw.std(0, correction=min(1, len(raw) - 1)).clamp_min(1e-6))
    if split.has_validation:
        loss = (losses.cpu() * split.share[:, None]).sum(0)
        base = {name: split.baseline(name) for name in split.columns}
        encoder.report = EncoderReport(len(split.held_out), dict(zip(split.columns, loss.tolist(), strict=True)), base)
    return encoder.requires_grad_(False).eval()
