"""Networks that predict several variables jointly, on rows of which some are held out to judge by."""

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
# looks at the held-out rows during training
_LOOKS = 12


class TargetHeads(nn.Module):
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


@dataclass(frozen=True)
class Split:
    """Targets in rows to train on and rows to judge by.

    Attributes:
        rows: Number of all rows.
        columns: The targets by name, continuous ones as distances from their mean in standard deviations.
        kinds: Number of levels of each target, 0 for a continuous one.
        chosen: Rows to train on, int64, ascending.
        held: Rows to judge by.
        weight: Weight of every row, float64 ``[rows]``.
        generator: Source of the batches, after that of the split.
    """

    rows: int
    columns: Mapping[str, Tensor]
    kinds: Mapping[str, int]
    chosen: Tensor
    held: Tensor
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
        held, chosen = order[:count].sort().values, order[count:].sort().values
        weight = torch.ones(rows, dtype=torch.float64) if weights is None else torch.as_tensor(weights).double().cpu()
        if weight.shape != (rows,) or not bool((weight >= 0).all()) or not float(weight[chosen].sum()) > 0:
            raise ValueError(f"weights must be {rows} numbers of at least 0, some of them positive")
        # continuous targets as distances from their mean, so that losses of different targets compare
        for name, column in columns.items():
            if not kinds[name]:
                mean, std = column[chosen].mean(0), column[chosen].std(0, correction=min(1, len(chosen) - 1))
                columns[name] = (column - mean) / std.clamp_min(1e-6)
        return Split(rows, columns, kinds, chosen, held, weight, generator)

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers in a row of each target."""
        return {name: 1 if self.kinds[name] else column.shape[1] for name, column in self.columns.items()}

    @property
    def judged(self) -> bool:
        """Whether there are rows to judge by."""
        return float(self.weight[self.held].sum()) > 0

    @property
    def share(self) -> Tensor:
        """Share of each held-out row in their weight, float64."""
        return self.weight[self.held] / self.weight[self.held].sum()

    def baseline(self, name: str) -> float:
        """Negative log-likelihood of a target in held-out rows by its frequencies, or by one normal distribution."""
        column, levels = self.columns[name], self.kinds[name]
        if levels:
            counts = torch.bincount(column[self.chosen], weights=self.weight[self.chosen], minlength=levels) + 0.5
            loss = -(counts / counts.sum()).log()[column[self.held]]
        else:
            # standardised by the mean and the spread of the rows that were trained on
            loss = (0.5 * column[self.held].double().square() + _HALF_LOG).sum(1)
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
    """Train networks to predict the targets; those of the look at held-out rows with the smallest loss are kept.

    Args:
        networks: All that is trained; ``networks["heads"]`` predicts from what ``read`` gives.
        read: What heads see of some rows, int64 ``[n]``: floats ``[n, features]``.
        split: The targets.
        steps: Steps of the optimiser, Adam with a cosine schedule.
        batch_size: Rows per step.
        learning_rate: Of the optimiser.
        device: Where the networks lie.

    Returns:
        Loss of each target in each held-out row, ``[held, targets]``.

    Raises:
        MdcmError: If the loss is no longer finite.
    """
    heads, weight, chosen = networks["heads"], split.weight, split.chosen
    optimiser = torch.optim.AdamW(networks.parameters(), learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    def losses(picked: Tensor) -> Tensor:
        part = {name: column[picked].to(device) for name, column in split.columns.items()}
        found: Tensor = heads(read(picked), part)
        return found

    @torch.no_grad()
    def judge() -> Tensor:
        return torch.cat([losses(part) for part in torch.split(split.held, 1024)]).double()

    best, kept = math.inf, copy.deepcopy(networks.state_dict())
    every = max(1, steps // _LOOKS)
    for step in range(1, steps + 1):
        picked = chosen[torch.multinomial(weight[chosen], batch_size, replacement=True, generator=split.generator)]
        loss = losses(picked).sum(1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % every == 0 or step == steps:
            score = float((judge().sum(1).cpu() * split.share).sum()) if split.judged else -float(step)
            if not math.isfinite(float(loss.detach())) or not math.isfinite(score):
                raise MdcmError(f"training of the image encoder diverged at step {step}; try a lower learning rate")
            if score < best:
                best, kept = score, copy.deepcopy(networks.state_dict())
    networks.load_state_dict(kept)
    return judge()


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


def pixels(images: Any, picked: Tensor, device: torch.device | str) -> Tensor:
    """Some images as floats in [-1, 1], from an array or a tensor of bytes or of such floats."""
    part = images[picked.to(images.device)] if isinstance(images, Tensor) else torch.from_numpy(images[picked.numpy()])
    return float_pixels(part.to(device)).float()
