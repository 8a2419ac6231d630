"""Reading an image into a few numbers: for mechanisms that have an image among their parents, and for critics."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdcm.errors import MdcmError
from mdcm.mechanisms.base import float_pixels

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["EncoderReport", "ImageEncoder", "ImageReader", "train_encoder"]

_HALF_LOG = 0.5 * math.log(2 * math.pi)
# looks at the held-out rows during training
_LOOKS = 12


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


@dataclass(frozen=True)
class EncoderReport:
    """What an encoder could tell of rows that it was not trained on, in nats per row.

    Attributes:
        rows: Number of held-out rows.
        loss: Negative log-likelihood of each target, given the image and the targets before it.
        baseline: The same without the image and without the other targets: by frequencies, or by one normal
            distribution. A target about which the image says something has a loss below it.
    """

    rows: int
    loss: Mapping[str, float]
    baseline: Mapping[str, float]


class ImageEncoder(nn.Module):
    """Image to a few numbers that tell what it has to say about other variables; made by :func:`train_encoder`.

    Args:
        shape: Channels, height and width of the images.
        features: Numbers per image.
        channels: Width of the network's stem.

    Attributes:
        report: How well the features predict the targets, or None before training.

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
        self.shape, self.features = self.reader.shape, features
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))
        self.mean: Tensor
        self.std: Tensor
        self.report: EncoderReport | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Features of images, float32 ``[n, features]``, each of mean 0 and spread 1 over the training images.

        Args:
            images: uint8 ``[n, c, h, w]``, or floats in [-1, 1].
        """
        features: Tensor = (self.reader(float_pixels(images)) - self.mean) / self.std
        return features


class _Heads(nn.Module):
    """Joint distribution of the targets given features: each target given the features and the targets before it."""

    def __init__(self, levels: Mapping[str, int], sizes: Mapping[str, int], features: int, hidden: int) -> None:
        super().__init__()
        self.levels, self.sizes = dict(levels), dict(sizes)
        self.heads = nn.ModuleList()
        width = features
        for name in sizes:
            out = levels[name] or 2 * sizes[name]
            self.heads.append(nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, out)))
            width += levels[name] or sizes[name]

    def forward(self, features: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Negative log-likelihood of each target in each row, ``[n, targets]``."""
        seen, losses = features, []
        for (name, levels), head in zip(self.levels.items(), self.heads, strict=True):
            found, target = head(seen), targets[name]
            if levels:
                losses.append(F.cross_entropy(found, target, reduction="none"))
                target = F.one_hot(target, levels).to(features)
            else:
                mean, log_spread = found.chunk(2, dim=1)
                # far below the spread of the target, a smaller one only tells of chance
                log_spread = log_spread.clamp_min(-5.0)
                losses.append((0.5 * ((target - mean) / log_spread.exp()).square() + log_spread + _HALF_LOG).sum(1))
            seen = torch.cat([seen, target], 1)
        return torch.stack(losses, 1)


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
    """Train a small encoder whose features tell what an image says about several variables jointly.

    Each target is predicted from the features and from the targets before it, so that the features keep what the image
    tells of their dependence too. The weights kept are those of the look at held-out rows with the smallest loss.

    Args:
        images: uint8 ``[n, c, h, w]`` or floats in [-1, 1]; an array may be memory-mapped, and is read in batches.
        targets: Values by name, ``n`` rows each: integer codes ``[n]`` of a categorical variable, floats ``[n]`` or
            ``[n, size]`` of others.
        features: Numbers per image.
        channels: Width of the network's stem.
        hidden: Width of the layer that predicts a target.
        levels: Number of levels of categorical targets, where the data do not show them all.
        weights: Weight of each row, ``[n]``; None for equal weights.
        steps: Steps of the optimiser.
        batch_size: Images per step.
        learning_rate: Of the optimiser, Adam, with a cosine schedule.
        holdout: Share of the rows that are not trained on.
        seed: Seed of initial weights, held-out rows and batches: the same one gives the same encoder, bit for bit, on
            one machine and one thread.
        device: Where to train.

    Returns:
        The encoder in evaluation mode, its weights frozen, with its report.

    Raises:
        ValueError: If there are no targets, too few images, or rows that do not match.
        MdcmError: If the loss is no longer finite.

    Example:
        >>> images = np.zeros((64, 1, 8, 8), dtype=np.uint8)
        >>> label = np.arange(64) % 2
        >>> images[label == 1, :, 2:6, 2:6] = 255
        >>> encoder = train_encoder(images, {"label": label}, features=2, steps=60, holdout=0.25)
        >>> bool(encoder.report.loss["label"] < 0.1 < encoder.report.baseline["label"])
        True
    """
    rows, columns, kinds = _check_targets(images, targets, dict(levels or {}))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(rows, generator=generator)
    count = min(max(round(holdout * rows), 1), rows - 1) if holdout > 0 else 0
    held, chosen = order[:count].sort().values, order[count:].sort().values
    weight = torch.ones(rows, dtype=torch.float64) if weights is None else torch.as_tensor(weights).double().cpu()
    if weight.shape != (rows,) or not bool((weight >= 0).all()) or not float(weight[chosen].sum()) > 0:
        raise ValueError(f"weights must be {rows} numbers of at least 0, some of them positive")
    # continuous targets as distances from their mean, so that losses of different targets compare
    for name, column in columns.items():
        if not kinds[name]:
            mean, std = column[chosen].mean(0), column[chosen].std(0, correction=min(1, len(chosen) - 1))
            columns[name] = (column - mean) / std.clamp_min(1e-6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = ImageEncoder(tuple(images.shape[1:]), features, channels=channels)  # type: ignore[union-attr]
        sizes = {name: 1 if kinds[name] else column.shape[1] for name, column in columns.items()}
        heads = _Heads(kinds, sizes, features, hidden)
    encoder, heads = encoder.to(device), heads.to(device)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    def losses(picked: Tensor) -> Tensor:
        part = {name: column[picked].to(device) for name, column in columns.items()}
        found: Tensor = heads(encoder.reader(_pixels(images, picked, device)), part)
        return found

    @torch.no_grad()
    def judge() -> Tensor:
        share = (weight[held] / weight[held].sum()).to(device)
        parts = [losses(part) for part in torch.split(held, 1024)]
        return (torch.cat(parts).double() * share[:, None]).sum(0)

    best, kept = math.inf, copy.deepcopy((encoder.state_dict(), heads.state_dict()))
    every = max(1, steps // _LOOKS)
    for step in range(1, steps + 1):
        picked = chosen[torch.multinomial(weight[chosen], batch_size, replacement=True, generator=generator)]
        loss = losses(picked).sum(1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % every == 0 or step == steps:
            score = float(judge().sum()) if count and float(weight[held].sum()) > 0 else -float(step)
            if not math.isfinite(float(loss.detach())) or not math.isfinite(score):
                raise MdcmError(f"training of the image encoder diverged at step {step}; try a lower learning rate")
            if score < best:
                best, kept = score, copy.deepcopy((encoder.state_dict(), heads.state_dict()))
    encoder.load_state_dict(kept[0])
    heads.load_state_dict(kept[1])
    with torch.no_grad():
        seen = torch.cat([encoder.reader(_pixels(images, part, device)) for part in torch.split(chosen, 1024)])
        encoder.mean.copy_(seen.mean(0))
        # a feature that never moves stays 0
        encoder.std.copy_(seen.std(0, correction=min(1, len(seen) - 1)).clamp_min(1e-6))
    if count and float(weight[held].sum()) > 0:
        base = {name: _baseline(column, kinds[name], weight, chosen, held) for name, column in columns.items()}
        encoder.report = EncoderReport(count, dict(zip(columns, judge().tolist(), strict=True)), base)
    return encoder.requires_grad_(False).eval()


def _check_targets(
    images: Any, targets: Mapping[str, Any], levels: dict[str, int]
) -> tuple[int, dict[str, Tensor], dict[str, int]]:
    """Number of rows, the targets as tensors, and the number of levels of each (0 for a continuous one)."""
    if not targets:
        raise ValueError("an encoder needs at least one target")
    if len(getattr(images, "shape", ())) != 4 or len(images) < 2:
        raise ValueError(f"at least two images [n, c, h, w] are needed, not {list(getattr(images, 'shape', ()))}")
    columns, kinds = {}, {}
    for name, given in targets.items():
        column = torch.as_tensor(np.array(given) if not isinstance(given, Tensor) else given).detach().cpu()
        if len(column.shape) not in (1, 2) or len(column) != len(images):
            raise ValueError(f"target {name!r} has the shape {list(column.shape)}, and there are {len(images)} images")
        if column.is_floating_point():
            columns[name], kinds[name] = column.float().view(len(column), -1), 0
        else:
            columns[name], kinds[name] = column.long(), levels.get(name, int(column.max()) + 1)
            if column.ndim != 1 or int(column.min()) < 0 or int(column.max()) >= kinds[name]:
                raise ValueError(f"target {name!r} must hold one code from 0 to {kinds[name] - 1} per row")
        if not bool(columns[name].isfinite().all()):
            raise ValueError(f"target {name!r} holds values that are not finite")
    return len(images), columns, kinds


def _pixels(images: Any, picked: Tensor, device: torch.device | str) -> Tensor:
    part = images[picked.to(images.device)] if isinstance(images, Tensor) else torch.from_numpy(images[picked.numpy()])
    return float_pixels(part.to(device)).float()


def _baseline(column: Tensor, levels: int, weight: Tensor, chosen: Tensor, held: Tensor) -> float:
    share = weight[held] / weight[held].sum()
    if levels:
        counts = torch.bincount(column[chosen], weights=weight[chosen], minlength=levels) + 0.5
        loss = -(counts / counts.sum()).log()[column[held]]
    else:
        # standardised by the mean and the spread of the rows that were trained on
        loss = (0.5 * column[held].double().square() + _HALF_LOG).sum(1)
    return float((loss * share).sum())
