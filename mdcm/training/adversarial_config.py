"""Settings of adversarial training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mdcm.text.limits import MOST_CRITIC, flag, ranged, real, whole
from mdcm.text.printable import quoted

__all__ = ["AdversarialConfig"]

_LAST_RATE = 0.02


@dataclass(frozen=True)
class AdversarialConfig:
    """Settings of adversarial training.

    Every setting has a range, in :data:`mdcm.text.limits.MOST` and :data:`mdcm.text.limits.RANGES`, which errors state.

    Attributes:
        steps: Generator steps per h-node, at most.
        batch_size: Rows per fit and step.
        critic_steps: Critic steps per generator step.
        learning_rate: Highest learning rate of generators and priors.
        critic_learning_rate: Highest learning rate of critics.
        decay: Whether both rates fall to a fiftieth along a cosine.
        betas: Adam's two decay rates, for generators and critics.
        penalty: Factor of the gradient penalty.
        one_sided: Whether only gradients with a norm above 1 are penalised. A critic may then be flat where real and
            generated rows agree; otherwise its gradients have norm 1 there too, in directions that are noise.
        temperature: First and last temperature of the softmax whose gradient stands for that of a draw.
        cooling: Share of the run over which the temperature falls.
        hidden: Units of each hidden layer of a critic.
        layers: Hidden layers of a critic.
        encoder_steps: Training steps of the image encoder of critics and mechanisms, and of the probes that test it.
        window: Averaging window of the kept weights, as a share of all steps; 0 for no averaging.
        checks: Number of validations, which compare generated rows with held-out ones.
        patience: Validations in a row without a new smallest distance after which training stops; by default it takes
            all steps, because the last ones, with a low rate, gain most.

    Raises:
        ValueError: If a value is out of range.

    References:
        Petzka, Fischer & Lukovnikov (2018), https://arxiv.org/abs/1709.08894 (the one-sided penalty).

    Example:
        >>> AdversarialConfig(steps=100).critic_steps, AdversarialConfig.paper().hidden
        (2, 256)
    """

    steps: int = 12_000
    batch_size: int = 200
    critic_steps: int = 2
    learning_rate: float = 5e-4
    critic_learning_rate: float = 3e-3
    decay: bool = True
    betas: tuple[float, float] = (0.5, 0.9)
    penalty: float = 10.0
    one_sided: bool = True
    temperature: tuple[float, float] = (1.0, 0.1)
    cooling: float = 0.8
    hidden: int = 64
    layers: int = 2
    encoder_steps: int = 600
    window: float = 0.05
    checks: int = 40
    patience: int = 40

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "critic_steps", "hidden", "layers", "encoder_steps", "checks", "patience"):
            whole(name, getattr(self, name))
        for name in ("learning_rate", "critic_learning_rate"):
            ranged(name, getattr(self, name))
        ranged("penalty", self.penalty)
        if self.hidden**2 * self.layers > MOST_CRITIC:
            raise ValueError(
                f"{self.layers:,} layers of hidden={self.hidden:,} units make a critic of "
                f"{self.hidden**2 * self.layers:,} weights; at most {MOST_CRITIC:,} are trained"
            )
        for name in ("decay", "one_sided"):
            flag(name, getattr(self, name))
        for name in ("temperature", "betas"):
            pair = getattr(self, name)
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ValueError(f"{name} must be two numbers, not {quoted(pair)}")
            for value in pair:
                ranged(name, value) if name == "temperature" else real(name, value)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), not {self.betas!r}")
        for name in ("window", "cooling"):
            value = getattr(self, name)
            if not (0 <= real(name, value) < 1 or (name == "cooling" and value == 1)):
                most = "1" if name == "cooling" else "below 1"
                raise ValueError(f"{name} must be a number from 0 to {most}, not {quoted(value)}")

    @classmethod
    def paper(cls) -> AdversarialConfig:
        """Settings of section F.1: rate 5e-4, two layers of 256 units, without decay and averaging.

        The number of critic steps and Adam's decay rates, which the paper leaves open, are those of Gulrajani et al.
        (2017), Algorithm 1. Its batch normalisation is left out, because the gradient penalty rules it out in critics.
        """
        return cls(
            learning_rate=5e-4, critic_learning_rate=5e-4, critic_steps=5, hidden=256, decay=False, betas=(0.0, 0.9),
            window=0.0, cooling=1.0, one_sided=False,
        )  # fmt: skip

    def schedule(self, step: int) -> tuple[float, float]:
        """Temperature of a step, counted from 1, and its learning rates as a share of the highest ones."""
        done = (step - 1) / self.steps
        first, last = self.temperature
        temperature = last + (first - last) * max(0.0, 1 - done / self.cooling) if self.cooling else last
        rate = _LAST_RATE + (1 - _LAST_RATE) * (0.5 + 0.5 * math.cos(math.pi * done)) if self.decay else 1.0
        return temperature, rate

    def averaging(self, step: int) -> float:
        """Weight of the new parameters in the running average at a step, counted from 1."""
        return 1 - min(1 - 1 / max(self.window * self.steps, 1.0), 1 - 1 / (step + 1))

    def to_json(self) -> dict[str, Any]:
        """Settings as plain JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> AdversarialConfig:
        """Settings from :meth:`to_json`; unknown names are refused."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown adversarial settings {unknown}")
        settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**settings)
