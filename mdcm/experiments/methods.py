"""Ways of training side by side: by likelihood, against critics module by module, and against critics all at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mdcm.data import Schema, encode
from mdcm.dcm import DCM
from mdcm.experiments.estimates import read_out
from mdcm.mechanisms import Categorical
from mdcm.model import fit
from mdcm.planning import Plan, plan
from mdcm.training import TrainConfig
from mdcm.training.objectives.adversarial import AdversarialConfig, fit_adversarial

if TYPE_CHECKING:
    from mdcm.data import Dataset
    from mdcm.graph import ADMG
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
    """A trained model, and how it became one.

    Attributes:
        model: Its distribution as tables.
        seconds: Wall-clock time of the training, one thread.
        steps: Steps in all: of the h-nodes of a level side by side, of levels one after another.
        heldout: Mean over h-nodes of the smallest loss, or distance, on held-out rows.
        curve: Seconds and distance at looks on the way, where they were asked for.
        plan: What was trained with what.
    """

    model: DiscreteSCM
    seconds: float
    steps: int
    heldout: float
    curve: tuple[tuple[float, float], ...]
    plan: Plan


@dataclass(frozen=True)
class Adversarial:
    """How long critics are trained against.

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
    """Train as :func:`mdcm.fit` does by itself.

    Args:
        graph: The ADMG.
        datasets: The data.
        levels: Levels of every variable, also of those that no row has.
        seed: Seed of the training.
        rate: Multiple of the usual learning rate.
        max_steps: Steps of an h-node at most.
    """
    # at its own rate the objective also chooses what goes with it
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
    return [set(made.hnodes[place].variables) for place in level]


def train_adversarial(
    graph: ADMG,
    datasets: Sequence[Dataset],
    levels: Levels,
    seed: int,
    budget: Adversarial,
    *,
    joint: bool = False,
    rate: float = 1.0,
    look: Callable[[DiscreteSCM], float] | None = None,
) -> Trained:
    """Train against critics, module by module or all at once, with the same networks.

    All at once takes as many steps as the levels of the other plan together.

    Args:
        graph: The ADMG.
        datasets: The data.
        levels: Levels of every variable.
        seed: Seed of weights and batches.
        budget: Steps.
        joint: All at once.
        rate: Multiple of the usual learning rates.
        look: Distance of a model on the way to the truth, whose time is not counted.
    """
    schema = Schema.infer(list(datasets), {name: {"levels": list(levels[name])} for name in graph.nodes})
    specs = [one.spec(graph.nodes) for one in datasets]
    modular = plan(graph, specs, objective="adversarial", levels=schema.levels)
    made = plan(graph, specs, method="joint", levels=schema.levels) if joint else modular
    steps = budget.steps * (len(modular.levels) if joint else 1)
    config = replace(
        budget.config, steps=steps, learning_rate=rate * budget.config.learning_rate,
        critic_learning_rate=rate * budget.config.critic_learning_rate,
        checks=min(budget.config.checks, steps),
    )  # fmt: skip
    factories = {name: partial(Categorical, hidden=_HIDDEN) for name in graph.nodes}
    dcm = DCM(graph, schema, {name: _STATES for name, _ in graph.confounders}, factories, seed=seed)
    data = {str(one.name): encode(one, schema) for one in datasets}
    clock = Clock(None if look is None else lambda: look(read_out(dcm)))
    outcomes = fit_adversarial(dcm, made, data, config, seed, look=clock.look)
    seconds = clock.elapsed()
    clock.look()
    heldout = sum(one.check.mean for one in outcomes) / len(outcomes)
    return Trained(read_out(dcm), seconds, steps * len(made.levels), heldout, tuple(clock.curve), made)


class Clock:
    """Time of a training without the looks at it.

    Args:
        distance: Distance of the model to the truth; None where nobody looks.

    Attributes:
        curve: Seconds and distance at every look.
    """

    def __init__(self, distance: Callable[[], float] | None) -> None:
        self._distance = distance
        self._began, self._paused = time.monotonic(), 0.0
        self.curve: list[tuple[float, float]] = []

    def elapsed(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._began - self._paused

    def look(self) -> None:
        """Take a look."""
        if self._distance is None:
            return
        now = time.monotonic()
        self.curve.append((round(self.elapsed(), 3), self._distance()))
        self._paused += time.monotonic() - now
