"""Coloured handwritten digits, and a classifier that judges generated ones.

The digits are real: the 1,797 that scikit-learn ships, 8 x 8 pixels each, from the UCI set of Alpaydin & Kaynak
(1998). They are enlarged, coloured red, green or blue, and shifted by up to one sixteenth of the picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mdcm.experiments.handwriting import (
    COLOURS,
    STROKES,
    Handwriting,
    enlarge,
    load_handwriting,
    paint,
    restroke,
    shifts,
)

__all__ = ["COLOURS", "DigitBank", "DigitJudge", "digit_bank", "train_judge"]

_HELD_OUT = 360
_BLOCK = 1024
_SPLIT_SEED = 1998


@dataclass(frozen=True)
class DigitBank:
    """All pictures of the true model.

    Attributes:
        images: uint8 ``[n, 3, r, r]``.
        digits: Digits, int64 ``[n]``.
        colours: Index into ``COLOURS``, int64 ``[n]``.
    """

    images: NDArray[np.uint8]
    digits: NDArray[np.int64]
    colours: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)


def digit_bank(resolution: int = 16, classes: Sequence[int] = (0, 1)) -> DigitBank:
    """All digits of the given classes in all three colours and all shifts.

    Args:
        resolution: Height and width in pixels, a multiple of 8.
        classes: Digits to keep, 0 to 9.

    Returns:
        The bank; at 16 pixels and more each digit appears 27 times (9 shifts, 3 colours).

    Raises:
        ValueError: If the resolution is not a multiple of 8, or a class is not a digit.
        MdcmError: If scikit-learn is not installed.

    Example:
        >>> bank = digit_bank(16, classes=(0, 1))
        >>> bank.images.shape, bank.images.dtype
        ((9720, 3, 16, 16), dtype('uint8'))
    """
    if not classes or not all(0 <= k <= 9 for k in classes):
        raise ValueError(f"classes must be digits 0 to 9, not {tuple(classes)}")
    written = load_handwriting()
    keep = torch.isin(written.labels, torch.tensor(list(classes)))
    grey, labels = enlarge(written.greys[keep], resolution), written.labels[keep]
    images, digits, colours = [], [], []
    for shift in shifts(resolution):
        moved = torch.roll(grey, shift, dims=(1, 2))
        for colour in range(len(COLOURS)):
            painted = torch.full((len(grey),), colour)
            images.append((paint(moved, painted) * 255).round().to(torch.uint8))
            digits.append(labels)
            colours.append(painted)
    return DigitBank(torch.cat(images).numpy(), torch.cat(digits).numpy(), torch.cat(colours).numpy())


class DigitJudge(nn.Module):
    """Convolutional classifier of digit, colour and, optionally, stroke, trained on real digits only.

    Larger pictures are first averaged down to 16 x 16 pixels: the digits have no more detail.

    Args:
        resolution: Height and width of the pictures.
        strokes: Whether to classify strokes as thin or thick.

    Attributes:
        digit_accuracy: Accuracy on held-out digits, over all shifts, colours and strokes.
        colour_accuracy: Accuracy on their colours.
        stroke_accuracy: Accuracy on their strokes; NaN without strokes.
    """

    def __init__(self, resolution: int, *, strokes: bool = False) -> None:
        super().__init__()
        self.resolution = resolution
        self.side = min(resolution, 16)
        self.digit_accuracy = self.colour_accuracy = self.stroke_accuracy = float("nan")
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
        sizes = [10, len(COLOURS), *([len(STROKES)] if strokes else [])]
        self.heads = nn.ModuleList(nn.Linear(128, size) for size in sizes)

    def features(self, images: Tensor) -> Tensor:
        """Features of float images in [0, 1], ``[n, 128]``."""
        if self.side < self.resolution:
            images = F.adaptive_avg_pool2d(images, self.side)
        logits: Tensor = self.body(images)
        return logits

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits of the digits ``[n, 10]``, of the colours ``[n, 3]`` and, optionally, of the strokes ``[n, 2]``."""
        features = self.features(images)
        return [head(features) for head in self.heads]

    def classify(self, images: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
        """Classify digit, colour and, optionally, stroke of each picture.

        Args:
            images: uint8 ``[n, 3, r, r]``.

        Returns:
            Digits, indices into ``COLOURS`` and indices into ``STROKES``, int64 ``[n]`` each.
        """
        parts = [[logits.argmax(1) for logits in self(block)] for block in _blocks(images)]
        return [torch.cat(column).numpy() for column in zip(*parts, strict=True)]

    def describe(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Features for comparing generated pictures with real ones, ``[n, 128]``.

        Args:
            images: uint8 ``[n, 3, r, r]``.
        """
        return torch.cat([self.features(block) for block in _blocks(images)]).double().numpy()


def _blocks(images: NDArray[np.uint8]) -> Iterator[Tensor]:
    with torch.no_grad():
        for start in range(0, len(images), _BLOCK):
            yield torch.as_tensor(images[start : start + _BLOCK]).float() / 255


def train_judge(
    resolution: int = 16,
    *,
    steps: int = 1500,
    seed: int = 0,
    strokes: bool = False,
    handwriting: Handwriting | None = None,
) -> DigitJudge:
    """Train a classifier on all digits but 360 of all ten classes, and measure its accuracy on these.

    Args:
        resolution: Height and width of the pictures.
        steps: Optimiser steps of 128 pictures each.
        seed: Seed of weights and batches; the split into training and held-out digits is always the same.
        strokes: Whether to classify strokes; pictures then have both strokes.
        handwriting: The digits; scikit-learn's by default.

    Returns:
        The classifier in evaluation mode, with its accuracies on held-out digits.

    Raises:
        ValueError: If the resolution is not a multiple of 8, or there are too few digits.
        MdcmError: If scikit-learn is not installed.
    """
    written = load_handwriting() if handwriting is None else handwriting
    if len(written) <= _HELD_OUT:
        raise ValueError(f"more than {_HELD_OUT} digits are needed to train and measure a judge, not {len(written)}")
    labels = written.labels
    grey = restroke(written.greys, resolution) if strokes else enlarge(written.greys, resolution)[None]
    order = torch.randperm(len(written), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    held_out, training = order[:_HELD_OUT], order[_HELD_OUT:]
    moves = shifts(resolution)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = DigitJudge(resolution, strokes=strokes)
    # by stroke, shift and digit
    moved = torch.stack([torch.roll(grey, shift, dims=(2, 3)) for shift in moves], 1)
    optimiser = torch.optim.AdamW(judge.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        rows = training[torch.randint(len(training), (128,), generator=generator)]
        shift = torch.randint(len(moves), (128,), generator=generator)
        colours = torch.randint(len(COLOURS), (128,), generator=generator)
        stroke = torch.randint(2, (128,), generator=generator) if strokes else torch.zeros(128, dtype=torch.int64)
        images = paint(moved[stroke, shift, rows], colours)
        # generated pictures are never as clean as real ones
        images = images + 0.05 * torch.randn(images.shape, generator=generator)
        losses = [
            F.cross_entropy(logits, target)
            for logits, target in zip(judge(images), (labels[rows], colours, stroke), strict=False)
        ]
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    judge.eval()
    trials = list(itertools.product(range(len(moved)), range(len(moves)), range(len(COLOURS))))
    right = np.zeros(3)
    for stroke_index, shift_index, colour in trials:
        painted = torch.full((_HELD_OUT,), colour)
        images = (paint(moved[stroke_index, shift_index, held_out], painted) * 255).round().to(torch.uint8)
        named = judge.classify(images.numpy())
        truth = (labels[held_out].numpy(), colour, stroke_index)
        for index, (predicted, actual) in enumerate(zip(named, truth, strict=False)):
            right[index] += float((predicted == actual).mean()) / len(trials)
    judge.digit_accuracy, judge.colour_accuracy = float(right[0]), float(right[1])
    if strokes:
        judge.stroke_accuracy = float(right[2])
    return judge
