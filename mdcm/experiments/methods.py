"""Methods of training compared: by likelihood, against critics by modules, and against critics jointly."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mdcm.experiments.estimates import read_out
from mdcm.mechanisms import Categorical
from mdcm.model import fit
from mdcm.planning import Plan, plan
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.config import TrainConfig

if TYPE_CHECKING:
    from mdcm.data import Dataset
    from mdcm.graph import ADMG
    from mdcm.model import Model
    from mdcm.scm import DiscreteSCM

__all__ = ["RATES", "Adversarial", "Clock", "Trained", "train_adversarial", "train_auto"]

# learning rates that every method is tuned over, as multiples of its usual one
RATES = (0.4, 1.0, 2.5)
_LIKELIHOOD_RATE = 1e-2
# the same networks for both ways of training against critics
_HIDDEN, _STATES = 64, 8

Levels = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Trained:
    """A trained model with measurements of its training.

    Attributes:
        model: Its distribution as tables.
        seconds: Wall-clock time of the training, one thread.
        steps: Total number of steps: the largest of the h-nodes of a level, summed over levels.
        heldout: Mean over h-nodes of the smallest loss or distance on held-out rows.
        curve: Seconds and distance at every validation, if measured.
        plan: The plan.
    """

    model: DiscreteSCM
    seconds: float
    steps: int
    heldout: float
    curve: tuple[tuple[float, float], ...]
    plan: Plan


@dataclass(frozen=True)
class Adversarial:
    """Length of training against critics.

    Attributes:
        steps: Generator steps of a level.
        config: Other settings.
    """

    steps: int
    config: AdversarialConfig = field(default_factory=AdversarialConfig)


def train_auto(
    graph: ADMG,
    datasets: Sequence[Dataset],
    levels: Levels,
    seed: int,
    *,
    rate: float = 1.0,
    max_steps: int | None = None,
) -> Trained:
    """Train with the defaults of :func:`mdcm.fit`.

    Args:
        graph: The ADMG.
        datasets: The data.
        levels: Levels of every variable, including levels that no row has.
        seed: Seed of the training.
        rate: Multiple of the usual learning rate.
        max_steps: Largest number of steps of an h-node.
    """
    # with None the objective chooses its schedule too
    learning_rate = None if rate == 1.0 else rate * _LIKELIHOOD_RATE
    config = TrainConfig(learning_rate=learning_rate, max_steps=max_steps)
    variables = {name: {"levels": list(levels[name])} for name in graph.nodes}
    began = time.monotonic()
    model = fit(graph, list(datasets), variables=variables, config=config, seed=seed)
    seconds = time.monotonic() - began
    trained = [record for record in model.history if record["event"] == "trained"]
    losses = [record["heldout"] for record in trained if record["heldout"] is not None]
    steps = sum(
        max((r["steps"] for r in trained if set(r["hnode"]) in _names(model.plan, level)), default=0)
        for level in model.plan.levels
    )
    mean = sum(losses) / len(losses) if losses else float("nan")
    return Trained(read_out(model.dcm), seconds, steps, mean, (), model.plan)


def _names(made: Plan, level: Sequence[int]) -> list[set[str]]:
    return [set(made.hnodes[index].variables) for index in level]


def train_adversarial(
    graph: ADMG,
    datasets: Sequence[Dataset],
    levels: Levels,
    seed: int,
    budget: Adversarial,
    *,
    joint: bool = False,
    rate: float = 1.0,
    distance: Callable[[DiscreteSCM], float] | None = None,
) -> Trained:
    """Train against critics, by modules or jointly, with the same networks.

    Joint training takes as many steps as all levels of the modular plan together.

    Args:
        graph: The ADMG.
        datasets: The data.
        levels: Levels of every variable.
        seed: Seed of weights and batches.
        budget: Steps.
        joint: Whether to train all mechanisms jointly.
        rate: Multiple of the usual learning rates.
        distance: Distance of a model to the truth, measured during the training; its time is not counted.
    """
    variables = {name: {"levels": list(levels[name])} for name in graph.nodes}
    specs = [dataset.spec(graph.nodes) for dataset in datasets]
    depth = len(plan(graph, specs, objective="adversarial", levels=levels).levels)
    steps = budget.steps * (depth if joint else 1)
    adversarial = replace(
        budget.config, steps=steps, learning_rate=rate * budget.config.learning_rate,
        critic_learning_rate=rate * budget.config.critic_learning_rate,
        checks=min(budget.config.checks, steps),
    )  # fmt: skip
    clock = Clock(None if distance is None else lambda model: distance(read_out(model.dcm)))
    model = fit(
        graph,
        list(datasets),
        objective="adversarial",
        method="joint" if joint else "minimal",
        variables=variables,
        mechanisms={name: partial(Categorical, hidden=_HIDDEN) for name in graph.nodes},
        config=TrainConfig(confounder_states=_STATES, adversarial=adversarial),
        seed=seed,
        device="cpu",
        on_validation=None if distance is None else clock.look,
    )
    seconds = clock.elapsed()
    clock.look(model)
    distances = [record["heldout"] for record in model.history if record["event"] == "trained"]
    heldout = sum(distances) / len(distances)
    total = steps * len(model.plan.levels)
    return Trained(read_out(model.dcm), seconds, total, heldout, tuple(clock.curve), model.plan)


class Clock:
    """Time of a training without that of the measurements during it.

    Args:
        distance: Distance of a model to the truth, or None.

    Attributes:
        curve: Seconds and distance at every measurement.
    """

    def __init__(self, distance: Callable[[Model], float] | None) -> None:
        self._distance = distance
        self._began, self._paused = time.monotonic(), 0.0
        self.curve: list[tuple[float, float]] = []

    def elapsed(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._began - self._paused

    def look(self, model: Model) -> None:
        """Measure the distance of a model."""
        if self._distance is None:
            return
        now = time.monotonic()
        self.curve.append((round(self.elapsed(), 3), self._distance(model)))
        self._paused += time.monotonic() - now
