"""Networks that predict several variables jointly, trained with held-out validation rows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdcm.errors import MdcmError
from mdcm.mechanisms.base import float_pixels

__all__ = ["Split", "TargetHeads", "pixels", "train_heads"]

_HALF_LOG = 0.5 * math.log(2 * math.pi)
# number of validations during training
_VALIDATIONS = 12


class TargetHeads(nn.Module):
    """Autoregressive model of targets: the distribution of each given the features and the targets before it."""

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
        inputs, losses = features, []
        for (name, levels), head in zip(self.levels.items(), self.heads, strict=True):
            output, target = head(inputs), targets[name]
            if levels:
                losses.append(F.cross_entropy(output, target, reduction="none"))
                target = F.one_hot(target, levels).to(features)
            else:
                mean, log_spread = output.chunk(2, dim=1)
                # an even smaller spread would be overfitting
                log_spread = log_spread.clamp_min(-5.0)
                losses.append((0.5 * ((target - mean) / log_spread.exp()).square() + log_spread + _HALF_LOG).sum(1))
            inputs = torch.cat([inputs, target], 1)
        return torch.stack(losses, 1)


@dataclass(frozen=True)
class Split:
    """Targets, and their rows split into training and held-out rows.

    Attributes:
        rows: Number of rows in total.
        columns: Targets by name, continuous targets standardised.
        kinds: Number of levels of each target, 0 for a continuous target.
        training: Indices of the training rows, int64, ascending.
        held_out: Indices of the held-out rows, int64, ascending.
        weight: Weight of every row, float64 ``[rows]``.
        generator: Random number generator of the split and of the batches after it.
    """

    rows: int
    columns: Mapping[str, Tensor]
    kinds: Mapping[str, int]
    training: Tensor
    held_out: Tensor
    weight: Tensor
    generator: torch.Generator

    @staticmethod
    def of(
        images: Any,
        targets: Mapping[str, Any],
        levels: Mapping[str, int] | None,
        weights: Any,
        holdout: float,
        seed: int,
    ) -> Split:
        """Split rows at random.

        Raises:
            ValueError: If there are no targets, too few images, or rows that do not match.
        """
        rows, columns, kinds = _check_targets(images, targets, dict(levels or {}))
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(rows, generator=generator)
        count = min(max(round(holdout * rows), 1), rows - 1) if holdout > 0 else 0
        held_out, training = order[:count].sort().values, order[count:].sort().values
        weight = torch.ones(rows, dtype=torch.float64) if weights is None else torch.as_tensor(weights).double().cpu()
        if weight.shape != (rows,) or not bool((weight >= 0).all()) or not float(weight[training].sum()) > 0:
            raise ValueError(f"weights must be {rows} numbers of at least 0, some of them positive")
        # standardise continuous targets, so that the losses of different targets are comparable
        for name, column in columns.items():
            if not kinds[name]:
                mean, std = column[training].mean(0), column[training].std(0, correction=min(1, len(training) - 1))
                columns[name] = (column - mean) / std.clamp_min(1e-6)
        return Split(rows, columns, kinds, training, held_out, weight, generator)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of entries of each target."""
        return {name: 1 if self.kinds[name] else column.shape[1] for name, column in self.columns.items()}

    @property
    def has_validation(self) -> bool:
        """Whether any held-out row has positive weight."""
        return float(self.weight[self.held_out].sum()) > 0

    @property
    def share(self) -> Tensor:
        """Normalised weight of each held-out row, float64."""
        return self.weight[self.held_out] / self.weight[self.held_out].sum()

    def baseline(self, name: str) -> float:
        """Negative log-likelihood of a target in held-out rows by its frequencies, or by a normal distribution."""
        column, levels = self.columns[name], self.kinds[name]
        if levels:
            counts = torch.bincount(column[self.training], weights=self.weight[self.training], minlength=levels) + 0.5
            loss = -(counts / counts.sum()).log()[column[self.held_out]]
        else:
            # standardised by the mean and the spread of the training rows
            loss = (0.5 * column[self.held_out].double().square() + _HALF_LOG).sum(1)
        return float((loss * self.share).sum())


def train_heads(
    networks: nn.ModuleDict,
    read: Callable[[Tensor], Tensor],
    split: Split,
    *,
    steps: int,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Train networks to predict the targets, and keep the weights with the smallest validation loss.

    Args:
        networks: The networks to train; ``networks["heads"]`` predicts the targets from the result of ``read``.
        read: Features ``[n, features]`` of the rows with the indices int64 ``[n]``.
        split: The targets.
        steps: Steps of the optimiser, AdamW with a cosine schedule.
        batch_size: Rows per step.
        learning_rate: Initial learning rate.
        device: Device of the networks.

    Returns:
        Loss of each target in each held-out row, ``[held, targets]``.

    Raises:
        MdcmError: If the loss is no longer finite.
    """
    heads, weight, training = networks["heads"], split.weight, split.training
    optimiser = torch.optim.AdamW(networks.parameters(), learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    def losses(indices: Tensor) -> Tensor:
        targets = {name: column[indices].to(device) for name, column in split.columns.items()}
        result: Tensor = heads(read(indices), targets)
        return result

    @torch.no_grad()
    def validate() -> Tensor:
        return torch.cat([losses(part) for part in torch.split(split.held_out, 1024)]).double()

    best, best_weights = math.inf, copy.deepcopy(networks.state_dict())
    every = max(1, steps // _VALIDATIONS)
    for step in range(1, steps + 1):
        drawn = torch.multinomial(weight[training], batch_size, replacement=True, generator=split.generator)
        loss = losses(training[drawn]).sum(1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % every == 0 or step == steps:
            score = float((validate().sum(1).cpu() * split.share).sum()) if split.has_validation else -float(step)
            if not math.isfinite(float(loss.detach())) or not math.isfinite(score):
                raise MdcmError(f"training of the image encoder diverged at step {step}; try a lower learning rate")
            if score < best:
                best, best_weights = score, copy.deepcopy(networks.state_dict())
    networks.load_state_dict(best_weights)
    return validate()


def _check_targets(
    images: Any, targets: Mapping[str, Any], levels: dict[str, int]
) -> tuple[int, dict[str, Tensor], dict[str, int]]:
    """Number of rows, the targets as tensors, and the number of levels of each (0 for a continuous target)."""
    if not targets:
        raise ValueError("an encoder needs at least one target")
    if len(getattr(images, "shape", ())) != 4 or len(images) < 2:
        raise ValueError(f"at least two images [n, c, h, w] are needed, not {list(getattr(images, 'shape', ()))}")
    columns, kinds = {}, {}
    for name, values in targets.items():
        column = torch.as_tensor(values if isinstance(values, Tensor) else np.array(values)).detach().cpu()
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


def pixels(images: Any, indices: Tensor, device: torch.device | str) -> Tensor:
    """Select images by index, as floats in [-1, 1], from an array or tensor of uint8 or of such floats."""
    selected = (
        images[indices.to(images.device)] if isinstance(images, Tensor) else torch.from_numpy(images[indices.numpy()])
    )
    return float_pixels(selected.to(device)).float()
