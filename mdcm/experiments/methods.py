"""Methods of training compared: by likelihood, against critics by modules, and against critics jointly."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from mdcm.data import Schema
from mdcm.mechanisms import Categorical
from mdcm.model import fit
from mdcm.planning import plan
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.config import TrainConfig

if TYPE_CHECKING:
    from mdcm.data import Dataset
    from mdcm.graph import ADMG
    from mdcm.model import Model
    from mdcm.planning import Plan

__all__ = ["RATES", "Curve", "Distances", "Trained", "train", "train_against_critics", "train_auto"]

# learning rates that every method is tuned over, as multiples of its usual one
RATES = (0.4, 1.0, 2.5)
_LIKELIHOOD_RATE = 1e-2
# the same networks for both ways of training against critics
_HIDDEN, _STATES = 64, 8

# distances of a model to the truth, by quantity
Distances = Callable[["Model"], Mapping[str, float]]
# seconds of training, and distances then
Curve = Sequence[tuple[float, Mapping[str, float]]]


@dataclass(frozen=True)
class Trained:
    """A trained model with measurements of its training.

    Attributes:
        model: The model.
        seconds: Wall-clock time of the training, one thread.
        steps: Total number of steps: the largest of the h-nodes of a level, summed over levels.
        curve: Seconds and distances at every validation, if measured.
    """

    model: Model
    seconds: float
    steps: int
    curve: Curve = ()

    @property
    def plan(self) -> Plan:
        """The plan of the training."""
        return self.model.plan

    @property
    def heldout(self) -> float:
        """Mean over h-nodes of the smallest loss or distance on held-out rows."""
        losses = [record["heldout"] for record in _records(self.model) if record["heldout"] is not None]
        return sum(losses) / len(losses) if losses else float("nan")


def _records(model: Model) -> list[dict[str, Any]]:
    return [record for record in model.history if record["event"] == "trained"]


def _steps(model: Model) -> int:
    levels = [[set(model.plan.hnodes[index].variables) for index in level] for level in model.plan.levels]
    records = _records(model)
    return sum(
        max((record["steps"] for record in records if set(record["hnode"]) in level), default=0) for level in levels
    )


def train(
    graph: ADMG | str, datasets: Sequence[Dataset], seed: int, *, distances: Distances | None = None, **settings: Any
) -> Trained:
    """Train with :func:`mdcm.fit`.

    Args:
        graph: The ADMG.
        datasets: The data.
        seed: Seed of the training.
        distances: Distances of a model to the truth, measured at every validation; their time is not counted.
        settings: Further arguments of :func:`mdcm.fit`.
    """
    began, paused = time.monotonic(), 0.0
    curve: list[tuple[float, Mapping[str, float]]] = []

    def look(model: Model) -> None:
        nonlocal paused
        assert distances is not None
        now = time.monotonic()
        curve.append((round(now - began - paused, 3), distances(model)))
        paused += time.monotonic() - now

    if distances is not None:
        settings["on_validation"] = look
    model = fit(graph, list(datasets), seed=seed, **settings)
    seconds = time.monotonic() - began - paused
    if distances is not None:
        look(model)
    return Trained(model, seconds, _steps(model), tuple(curve))


def train_auto(
    graph: ADMG | str,
    datasets: Sequence[Dataset],
    seed: int,
    *,
    rate: float = 1.0,
    max_steps: int | None = None,
    **settings: Any,
) -> Trained:
    """Train with the defaults of :func:`mdcm.fit`.

    Args:
        graph: The ADMG.
        datasets: The data.
        seed: Seed of the training.
        rate: Multiple of the usual learning rate.
        max_steps: Largest number of steps of an h-node.
        settings: Further arguments of :func:`mdcm.fit`.
    """
    # with None the objective chooses its schedule too
    learning_rate = None if rate == 1.0 else rate * _LIKELIHOOD_RATE
    config = TrainConfig(learning_rate=learning_rate, max_steps=max_steps)
    return train(graph, datasets, seed, config=config, **settings)


def train_against_critics(
    graph: ADMG,
    datasets: Sequence[Dataset],
    seed: int,
    config: AdversarialConfig,
    *,
    joint: bool = False,
    rate: float = 1.0,
    distances: Distances | None = None,
    levels: Mapping[str, Sequence[Any]] | None = None,
    mechanisms: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Trained:
    """Train against critics, by modules or jointly, with the same networks.

    Joint training takes as many steps as all levels of the modular plan together.

    Args:
        graph: The ADMG.
        datasets: The data.
        seed: Seed of weights and batches.
        config: Generator steps of a level, and other settings.
        joint: Whether to train all mechanisms jointly.
        rate: Multiple of the usual learning rates.
        distances: As in :func:`train`.
        levels: Levels of every variable; inferred from the data by default.
        mechanisms: Constructors of mechanisms that are not tables.
        settings: Further arguments of :func:`mdcm.fit`.
    """
    specs = [dataset.spec(graph.nodes) for dataset in datasets]
    kinds = None if levels else Schema.infer(list(datasets)).kinds
    depth = len(plan(graph, specs, objective="adversarial", kinds=kinds, levels=levels).levels)
    steps = config.steps * (depth if joint else 1)
    adversarial = replace(
        config, steps=steps, learning_rate=rate * config.learning_rate,
        critic_learning_rate=rate * config.critic_learning_rate, checks=min(config.checks, steps),
    )  # fmt: skip
    if levels:
        settings["variables"] = {name: {"levels": list(levels[name])} for name in graph.nodes}
    trained = train(
        graph, datasets, seed, distances=distances, objective="adversarial", method="joint" if joint else "minimal",
        mechanisms={name: partial(Categorical, hidden=_HIDDEN) for name in graph.nodes} | dict(mechanisms or {}),
        config=TrainConfig(confounder_states=_STATES, adversarial=adversarial), device="cpu", **settings,
    )  # fmt: skip
    # the history counts steps up to the best weights
    return replace(trained, steps=steps * len(trained.plan.levels))
