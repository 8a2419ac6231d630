"""Studies of discrete variables: exact distances of tables to the truth, beside sampling and estimation floors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mdcm.experiments.estimates import Sample, answer_distance, estimand_of, estimation_errors, plug_in, read_out
from mdcm.experiments.methods import Distances, Trained, train_against_critics, train_auto
from mdcm.experiments.records import ANSWERS, FITTED, Criterion, Findings, Over, Result, hold
from mdcm.experiments.study import Measured, StudyProblem, graph_picture
from mdcm.experiments.summaries import bar_chart
from mdcm.scm import DiscreteSCM
from mdcm.training.adversarial_config import AdversarialConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data import Dataset
    from mdcm.graph import ADMG
    from mdcm.model import Model

__all__ = ["STATED", "DiscreteProblem", "Size", "train_tables"]

# multiples of the estimation floor that answers are held to, at the first seed and on average
STATED, _AVERAGE = 1.5, 1.2
_RANKS = 3
_LONGEST_TABLE = 12
_PLUG_IN, _TIME = "plug-in estimate", "time of a training"
_DIVERGENCES, _WORST = "Fitted distributions, KL in nats", "Worst distances"
_RANKED = f"queries whose {_RANKS} most probable outcomes are the true ones"


@dataclass(frozen=True)
class Size:
    """Size of a study.

    Attributes:
        rows: Rows of every data set.
        steps: Generator steps of an h-node that is trained against a critic.
        repeats: Fresh data sets behind the estimation floor.
        lengths: Lengths of the trainings behind the curve of maximum likelihood.
    """

    rows: int
    steps: int
    repeats: int
    lengths: tuple[int, ...] = (10, 20, 40, 80, 160)


def train_tables(
    method: str,
    graph: ADMG,
    data: Sequence[Dataset],
    levels: Mapping[str, Sequence[Any]],
    seed: int,
    *,
    steps: int,
    rate: float = 1.0,
    length: int | None = None,
    distances: Distances | None = None,
) -> Trained:
    """Train discrete variables by a method.

    Args:
        method: "auto", "adversarial" or "joint".
        graph: The ADMG.
        data: The data.
        levels: Levels of every variable, including levels that no row has.
        seed: Seed of the training.
        steps: Generator steps of a level.
        rate: Multiple of the usual learning rate.
        length: Another number of steps.
        distances: Distances that are measured while critics train.
    """
    if method == "auto":
        variables = {name: {"levels": list(levels[name])} for name in graph.nodes}
        return train_auto(graph, data, seed, rate=rate, max_steps=length, variables=variables)
    config = AdversarialConfig(steps=length or steps)
    return train_against_critics(
        graph, data, seed, config, joint=method == "joint", rate=rate, levels=levels, distances=distances
    )


@dataclass
class DiscreteProblem(StudyProblem):
    """A true model, the data sets drawn from it, and the queries.

    Attributes:
        experiment: Name of the experiment, followed by that of the problem if there are several.
        truth: The true model.
        samples: The data sets.
        queries: Queries that they determine.
        size: Size of the study.
        limits: Limits of training against critics: of the "worst data set", of "all variables", of the "worst answer",
            and of the "time of a training" in seconds.
        fitted: Whether the sampling floor is the limit of the fitted distributions.
        ranked: Queries whose three most probable outcomes must be the true ones, in order.
    """

    experiment: str
    truth: DiscreteSCM
    samples: tuple[Sample, ...]
    queries: tuple[str, ...]
    size: Size
    limits: Mapping[str, float] = field(default_factory=dict)
    fitted: bool = True
    ranked: tuple[str, ...] = ()

    tuned = True
    equal_time = True

    def __post_init__(self) -> None:
        self.steps = self.size.steps
        self.lengths = {"auto": self.size.lengths}

    @cached_property
    def targets(self) -> dict[str, Sample]:
        """Distributions to compare a model on: those of the data sets, and last that of all variables."""
        targets = {sample.label: sample for sample in self.samples}
        nodes = self.truth.graph.nodes
        if not any(set(sample.columns) == set(nodes) and not sample.do for sample in self.samples):
            rows = min(sample.rows for sample in self.samples)
            targets["P(all variables)"] = Sample("all", tuple(nodes), rows)
        return targets

    @cached_property
    def truths(self) -> dict[str, pd.Series[float]]:
        """True answers to the queries."""
        answers = {query: self.truth.answer(query) for query in self.queries}
        return {query: answer for query, answer in answers.items() if isinstance(answer, pd.Series)}

    @cached_property
    def right(self) -> list[NDArray[np.float64]]:
        """The same as arrays."""
        return [np.asarray(answer, dtype=np.float64).ravel() for answer in self.truths.values()]

    @cached_property
    def floors(self) -> list[float]:
        """Estimation floors of the queries."""
        floors: list[float] = (
            estimation_errors(self.truth, self.queries, self.samples, self.size.repeats).mean(axis=0).tolist()
        )
        return floors

    def answers(self, model: DiscreteSCM) -> list[NDArray[np.float64]]:
        """Exact answers of a model to the queries."""
        return [np.asarray(model.answer(query), dtype=np.float64).ravel() for query in self.queries]

    def draw(self, seed: int) -> list[Dataset]:
        """Draw training data with a seed."""
        return [sample.draw(self.truth, 1_000 * seed + index) for index, sample in enumerate(self.samples)]

    def train(
        self, method: str, data: Sequence[Dataset], seed: int, *, rate: float = 1.0, length: int | None = None
    ) -> Trained:
        """Train by a method."""
        return train_tables(
            method, self.truth.graph, data, self.truth.levels, seed, rate=rate, length=length, steps=self.steps,
            distances=self.distances,
        )  # fmt: skip

    def distances(self, model: Model) -> dict[str, float]:
        """Distance of the last target."""
        name, sample = list(self.targets.items())[-1]
        return {name: sample.compare(self.truth, read_out(model.dcm))["tvd"]}

    def references(self, seeds: Sequence[int]) -> Iterator[Result]:
        """The true answers, and plug-in estimates with their distances."""
        for query, right in zip(self.queries, self.right, strict=True):
            for quantity, value in self._outcomes(query, right):
                yield Result(self.experiment, "truth", None, query, quantity, value)
        for seed in seeds:
            data = self.draw(seed)
            answers = [plug_in(estimand_of(self.truth, query, data), data) for query in self.queries]
            for measured in self._answered(answers):
                yield Result(self.experiment, _PLUG_IN, seed, *measured)

    def measure(self, _method: str, trained: Trained, _seed: int) -> Iterator[Measured]:
        """Distances of all distributions and answers to the truth, and the answers."""
        yield from self.measured(read_out(trained.model.dcm))

    def measured(self, model: DiscreteSCM) -> Iterator[Measured]:
        """Distances of all distributions and answers of tables to the truth, and the answers."""
        fitted = {name: sample.compare(self.truth, model) for name, sample in self.targets.items()}
        for name, compared in fitted.items():
            yield FITTED, name, compared["tvd"], compared["floor"]
            yield _DIVERGENCES, f"{name}, KL", compared["kl"]
        answers = self.answers(model)
        answered = list(self._answered(answers))
        yield from answered
        if self.limits:
            names = list(self.targets)
            yield _WORST, "worst data set", max(fitted[name]["tvd"] for name in names[: len(self.samples)])
            yield _WORST, "all variables", fitted[names[-1]]["tvd"]
            yield _WORST, "worst answer", max(value for group, _, value, *_ in answered if group == ANSWERS)
        if self.ranked:
            ranks = [
                (np.argsort(-right)[:_RANKS] == np.argsort(-answer)[:_RANKS]).all()
                for query, right, answer in zip(self.queries, self.right, answers, strict=True)
                if query in self.ranked
            ]
            yield "Ranks", _RANKED, sum(map(int, ranks))

    def _answered(self, answers: Sequence[NDArray[np.float64]]) -> Iterator[Measured]:
        for query, right, floor, answer in zip(self.queries, self.right, self.floors, answers, strict=True):
            yield ANSWERS, query, answer_distance(right, answer), floor
            for quantity, value in self._outcomes(query, answer):
                yield query, quantity, value

    def _outcomes(self, query: str, answer: NDArray[np.float64]) -> Iterator[tuple[str, float]]:
        """The most probable outcomes of an answer, named by the levels that differ between outcomes."""
        right = self.truths[query]
        order = range(len(right)) if len(right) <= _LONGEST_TABLE else np.argsort(-right.to_numpy())[:_LONGEST_TABLE]
        levels = right.index.to_frame(index=False)
        varies = [column for column in range(levels.shape[1]) if levels.iloc[:, column].nunique() > 1]
        for k in order:
            yield ", ".join(f"{right.index.names[at]!s}={levels.iloc[k, at]!s}" for at in varies), float(answer[k])

    def criteria(self, results: Sequence[Result], *, full: bool) -> list[Criterion]:
        """Limits of fitted distributions, answers and ranks, and of training against critics."""
        # the floor is an expectation: about half of all data sets exceed it, whatever model is fitted
        criteria = hold(results, self.targets if self.fitted else (), {"mean": 1.0}, floor="sampling floor")
        criteria += hold(results, self.queries, {"first": STATED, "mean": _AVERAGE}, floor="estimation floor")
        # ranks a sixth apart are within a standard error of the few rows of a fast run
        criteria += hold(results, [_RANKED], {"worst": len(self.ranked)}, relation=">=", unit="queries", judged=full)
        for name, limit in self.limits.items():
            timed: dict[str, Any] = {"unit": "s", "note": "wall-clock, one thread"} if name == _TIME else {}
            over: Over = "mean" if timed else "worst"
            criteria += hold(results, [name], {over: limit}, method="adversarial", judged=full, **timed)
        return criteria

    def findings(self, results: Sequence[Result]) -> Findings:
        """Captions, a chart of the answers, and the graph."""
        graph = self.truth.graph
        specs = [sample.draw(self.truth, 0).spec(graph.nodes) for sample in self.samples]
        longest = {query: len(right) for query, right in zip(self.queries, self.right, strict=True)}
        return Findings(
            captions={
                FITTED: "TVD to the exact truth; the model's side is exact too. The floor is the sampling floor.",
                ANSWERS: "TVD to the exact truth, averaged over the values of do(). The floor is what the plug-in "
                f"estimate misses the truth by on average over {self.size.repeats} fresh data sets.",
                **{
                    query: f"The {_LONGEST_TABLE} most probable of {count} outcomes."
                    for query, count in longest.items()
                    if count > _LONGEST_TABLE
                },
            },
            charts=[bar_chart("Distance of the answers to the truth", results)] if self.queries else [],
            pictures=[
                graph_picture(graph, query, datasets=specs, levels=self.truth.levels) for query in self.queries[:1]
            ],
        )
