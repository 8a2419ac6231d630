"""Settings of training, and the optimiser schedules that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from mdcm.text.limits import flag, ranged, real, whole
from mdcm.text.printable import quoted
from mdcm.training.adversarial_config import AdversarialConfig

__all__ = ["Confounder", "Schedule", "TrainConfig"]

Confounder = Literal["exact", "gaussian", "monte-carlo"]
# the last learning rate: above zero, so that too short a schedule still makes progress
_LOWEST_RATE = 1e-6


@dataclass(frozen=True)
class TrainConfig:
    """Settings of training; None means the mechanism's or the objective's own default.

    Every setting has a range, in :data:`mdcm.text.limits.MOST` and :data:`mdcm.text.limits.RANGES`, which errors state.

    Attributes:
        max_steps: Steps of the optimiser per h-node.
        batch_size: Rows per step; where at most 4,000 distinct rows exist, every step sees all of them.
        learning_rate: Highest learning rate of the schedule, at most 10 (short linear warm-up, then cosine to zero).
        confounder: "exact" sums over the states of the confounders, "monte-carlo" draws joint states. "gaussian" makes
            every confounder a standard normal variable, which mechanisms read like a parent. It is integrated out by
            importance sampling at every row, starting from the best-fitting linear model; the trained model keeps it
            discretised into many states. "exact" also draws in a c-component where even two states are too many.
        confounder_states: States of every confounder; by default at least 8 and at least the second largest number of
            levels among its children, doubled as long as held-out rows gain by it (tested where training has its full
            length and every step sees all rows), and few enough that the exact sum over states fits in memory. If
            numbers are among its children, and plain regressions of every child on what comes before it describe the
            rows better, the confounders become normal variables as with "gaussian", with up to 256 states; if that is
            not better either, there are four times as many states, up to 32.
        draws: Joint states of the confounders drawn per step where the sum over them is not exact; the
            log-likelihood is biased low by O(1 / draws).
        holdout: Share of the rows that are held out for early stopping.
        refit: Whether to train again on all rows, for the number of steps that the held-out rows favoured, where every
            step sees all rows.
        checks: Number of validations on the held-out rows.
        patience: Validations in a row, all worse than the best, after which training stops.
        max_minutes: Wall-clock limit for all h-nodes together; training then ends early with the weights it has.
        checkpoint_seconds: Seconds between two checkpoints of a training that is saved in a run directory.
        adversarial: Settings of h-nodes that are trained against critics.
        batch_modules: Whether h-nodes of one shape are trained together, which is faster and gives the same weights.

    Raises:
        ValueError: If a value is out of range.

    Example:
        >>> TrainConfig(max_steps=100).patience
        6
    """

    max_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    confounder: Confounder = "exact"
    confounder_states: int | None = None
    draws: int = 256
    holdout: float = 0.1
    refit: bool = True
    checks: int = 30
    patience: int = 6
    max_minutes: float | None = None
    checkpoint_seconds: float = 60.0
    adversarial: AdversarialConfig | None = None
    batch_modules: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.confounder, str) or self.confounder not in get_args(Confounder):
            raise ValueError(
                f"confounder must be one of {', '.join(get_args(Confounder))}, not {quoted(self.confounder)}"
            )
        for name in ("max_steps", "batch_size", "confounder_states", "draws", "checks", "patience"):
            value = getattr(self, name)
            if value is not None:
                whole(name, value)
        for name in ("learning_rate", "max_minutes"):
            value = getattr(self, name)
            if value is not None:
                ranged(name, value)
        for name in ("refit", "batch_modules"):
            flag(name, getattr(self, name))
        if not 0 <= real("holdout", self.holdout) < 1:
            raise ValueError(f"holdout must be a number from 0 to below 1, not {quoted(self.holdout)}")
        ranged("checkpoint_seconds", self.checkpoint_seconds)

    def to_json(self) -> dict[str, Any]:
        """Settings as plain JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"adversarial": None if self.adversarial is None else self.adversarial.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Settings from :meth:`to_json`; unknown names are refused."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown training settings {unknown}; known ones are {sorted(known)}")
        given = values.get("adversarial")
        if given is not None and not isinstance(given, Mapping):
            raise ValueError(f"adversarial must be a mapping of settings, not {quoted(given)}")
        try:
            adversarial = None if given is None else AdversarialConfig.from_json(given)
        except ValueError as error:
            raise ValueError(f"adversarial: {error}") from None
        return cls(**{**values, "adversarial": adversarial})


@dataclass(frozen=True)
class Schedule:
    """Optimiser settings of one h-node.

    Attributes:
        steps: Largest number of steps.
        batch_size: Rows per step.
        learning_rate: Highest learning rate.
        weight_decay: Weight decay of AdamW.
        betas: Decay rates of AdamW.
        ema: Decay of the running average of the weights, smaller in the first steps.
        warmup: Steps of linear warm-up.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    ema: float
    warmup: int

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 1."""
        warm = min(1.0, step / max(self.warmup, 1))
        cosine = 0.5 + 0.5 * math.cos(math.pi * (step - 1) / self.steps)
        return self.learning_rate * warm * cosine + _LOWEST_RATE

    def averaging(self, step: int) -> float:
        """Weight of the new parameters in the running average at a step, counted from 1."""
        return 1 - min(self.ema, 1 - 1 / (step + 1))
