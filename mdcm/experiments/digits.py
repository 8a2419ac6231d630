"""Coloured handwritten digits, and a classifier that judges generated ones.

The digits are real: the 1,797 that scikit-learn ships, 8 x 8 pixels each, from the UCI set of Alpaydin & Kaynak
(1998). They are enlarged, coloured red, green or blue, and shifted by up to one sixteenth of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mdcm.errors import MdcmError

__all__ = ["COLOURS", "DigitBank", "DigitJudge", "digit_bank", "train_judge"]

COLOURS = ("red", "green", "blue")

_HELD_OUT = 360
_BLOCK = 1024
_SPLIT_SEED = 1998


@dataclass(frozen=True)
class DigitBank:
    """Every picture that an experiment may show.

    Attributes:
        images: uint8 ``[n, 3, r, r]``.
        digits: The digit shown, int64 ``[n]``.
        colours: Index into ``COLOURS``, int64 ``[n]``.
    """

    images: NDArray[np.uint8]
    digits: NDArray[np.int64]
    colours: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)


def _load() -> tuple[Tensor, Tensor]:
    """Grey digits in [0, 1], float32 ``[1797, 8, 8]``, and their labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MdcmError(
            "the handwritten digits come with scikit-learn, which is not installed: pip install 'mdcm[demo]'"
        ) from error
    data = load_digits()
    return torch.tensor(data.images / 16.0, dtype=torch.float32), torch.tensor(data.target, dtype=torch.int64)


def _enlarge(grey: Tensor, resolution: int) -> Tensor:
    """Bicubic enlargement ``[n, 8, 8]`` -> ``[n, r, r]`` with a margin as wide as the largest shift."""
    if resolution < 8 or resolution % 8:
        raise ValueError(f"the resolution must be a multiple of 8, at least 8, not {resolution}")
    margin = resolution // 16
    size = resolution - 2 * margin
    large = F.interpolate(grey[:, None], size=(size, size), mode="bicubic", align_corners=False).clamp(0, 1)
    return F.pad(large, (margin,) * 4)[:, 0]


def _shifts(resolution: int) -> list[tuple[int, int]]:
    step = resolution // 16
    steps = (-step, 0, step) if step else (0,)
    return [(down, right) for down in steps for right in steps]


def _paint(grey: Tensor, colours: Tensor) -> Tensor:
    """Colour each row: ``[n, r, r]`` and ``[n]`` -> ``[n, 3, r, r]``."""
    return grey[:, None] * torch.eye(3)[colours][:, :, None, None]


def digit_bank(resolution: int = 16, classes: Sequence[int] = (0, 1)) -> DigitBank:
    """All digits of the given classes in all three colours and all shifts.

    Args:
        resolution: Height and width in pixels, a multiple of 8.
        classes: Digits to keep, 0 to 9.

    Returns:
        The bank; at 16 pixels and more each digit appears 27 times (9 shifts, 3 colours).

    Raises:
        ValueError: If the resolution is no multiple of 8, or a class is no digit.
        MdcmError: If scikit-learn is not installed.

    Example:
        >>> bank = digit_bank(16, classes=(0, 1))
        >>> bank.images.shape, bank.images.dtype
        ((9720, 3, 16, 16), dtype('uint8'))
    """
    if not classes or not all(0 <= k <= 9 for k in classes):
        raise ValueError(f"classes must be digits 0 to 9, not {tuple(classes)}")
    grey, labels = _load()
    keep = torch.isin(labels, torch.tensor(list(classes)))
    grey, labels = _enlarge(grey[keep], resolution), labels[keep]
    images, digits, colours = [], [], []
    for shift in _shifts(resolution):
        moved = torch.roll(grey, shift, dims=(1, 2))
        for colour in range(len(COLOURS)):
            painted = torch.full((len(grey),), colour)
            images.append((_paint(moved, painted) * 255).round().to(torch.uint8))
            digits.append(labels)
            colours.append(painted)
    return DigitBank(torch.cat(images).numpy(), torch.cat(digits).numpy(), torch.cat(colours).numpy())


class DigitJudge(nn.Module):
    """Convolutional classifier of digit and colour, trained apart from any generator.

    Larger pictures are averaged down to 16 x 16 pixels first: the digits have no more detail.

    Args:
        resolution: Height and width of the pictures it reads.

    Attributes:
        digit_accuracy: Share of held-out digits that it names correctly, over all shifts and colours.
        colour_accuracy: The same of colours.
    """

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.side = min(resolution, 16)
        self.digit_accuracy = float("nan")
        self.colour_accuracy = float("nan")
        self.body = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(24, 48, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(48, 64, 3, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(64 * (self.side // 8) ** 2, 128),
            nn.SiLU(),
        )
        self.digit_head = nn.Linear(128, 10)
        self.colour_head = nn.Linear(128, len(COLOURS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the ten digits ``[n, 10]`` and of the colours ``[n, 3]`` for float images in [0, 1]."""
        if self.side < self.resolution:
            images = F.adaptive_avg_pool2d(images, self.side)
        features = self.body(images)
        return self.digit_head(features), self.colour_head(features)

    def classify(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Name digit and colour of each picture.

        Args:
            images: uint8 ``[n, 3, r, r]``.

        Returns:
            Digits and indices into ``COLOURS``, int64 ``[n]`` each.
        """
        digits, colours = [], []
        with torch.no_grad():
            for start in range(0, len(images), _BLOCK):
                digit_logits, colour_logits = self(torch.as_tensor(images[start : start + _BLOCK]).float() / 255)
                digits.append(digit_logits.argmax(1))
                colours.append(colour_logits.argmax(1))
        return torch.cat(digits).numpy(), torch.cat(colours).numpy()


def train_judge(resolution: int = 16, *, steps: int = 1500, seed: int = 0) -> DigitJudge:
    """Train a judge on 1,437 of the digits, all ten classes, and measure it on the other 360.

    Args:
        resolution: Height and width of the pictures it will judge.
        steps: Optimiser steps of 128 pictures each.
        seed: Of weights and batches; the split into training and held-out digits is always the same.

    Returns:
        The judge in evaluation mode, its accuracies measured on held-out digits.

    Raises:
        ValueError: If the resolution is no multiple of 8.
        MdcmError: If scikit-learn is not installed.
    """
    grey, labels = _load()
    grey = _enlarge(grey, resolution)
    order = torch.randperm(len(grey), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    held_out, training = order[:_HELD_OUT], order[_HELD_OUT:]
    shifts = _shifts(resolution)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = DigitJudge(resolution)
    moved = torch.stack([torch.roll(grey, shift, dims=(1, 2)) for shift in shifts])
    optimiser = torch.optim.AdamW(judge.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        rows = training[torch.randint(len(training), (128,), generator=generator)]
        shift = torch.randint(len(shifts), (128,), generator=generator)
        colours = torch.randint(len(COLOURS), (128,), generator=generator)
        images = _paint(moved[shift, rows], colours)
        # generated pictures are never as clean as real ones
        images = images + 0.05 * torch.randn(images.shape, generator=generator)
        digit_logits, colour_logits = judge(images)
        loss = F.cross_entropy(digit_logits, labels[rows]) + F.cross_entropy(colour_logits, colours)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    judge.eval()
    right = {"digit": 0.0, "colour": 0.0}
    trials = [(shift, colour) for shift in range(len(shifts)) for colour in range(len(COLOURS))]
    for shift_index, colour in trials:
        painted = torch.full((_HELD_OUT,), colour)
        images = (_paint(moved[shift_index, held_out], painted) * 255).round().to(torch.uint8)
        named_digits, named_colours = judge.classify(images.numpy())
        right["digit"] += float((named_digits == labels[held_out].numpy()).mean())
        right["colour"] += float((named_colours == colour).mean())
    judge.digit_accuracy = right["digit"] / len(trials)
    judge.colour_accuracy = right["colour"] / len(trials)
    return judge
