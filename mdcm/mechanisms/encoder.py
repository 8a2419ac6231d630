"""Reading an image into a few numbers, for mechanisms that have an image among their parents."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ImageReader"]


class ImageReader(nn.Module):
    """Convolutional network from an image to ``features`` numbers.

    A stem of non-overlapping patches does most of the shrinking, so that reading costs little beside the rest of a
    mechanism; strided convolutions go on until the longer side is at most 4, and a linear layer reads what is left.

    Args:
        shape: Channels, height and width of the images; any height and width from 1 on.
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
        channels, wider = 2 * channels, channels
        while True:
            layers += [nn.Conv2d(wider, channels, 3, 2, 1), nn.SiLU()]
            height, width, wider = (height + 1) // 2, (width + 1) // 2, channels
            if max(height, width) <= 4:
                break
        layers += [nn.Flatten(), nn.Linear(channels * height * width, features)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Read float images ``[n, c, h, w]`` in [-1, 1] into ``[n, features]``."""
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(f"images are {tuple(images.shape[1:])}, but the reader was built for {self.shape}")
        if any(self.padding):
            images = F.pad(images, self.padding, value=-1.0)
        features: Tensor = self.layers(images)
        return features
