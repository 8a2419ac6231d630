"""Train a model by every method and seed, measure its quantities, and hold them to limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mdcm.experiments.methods import RATES, Curve, Trained
from mdcm.experiments.records import COST, FITTED, Criterion, ExperimentRequest, Findings, Result, select
from mdcm.experiments.summaries import convergence, plan_picture
from mdcm.identification import identify
from mdcm.report.page import Picture

if TYPE_CHECKING:
    from mdcm.graph import ADMG
    from mdcm.model import Model

__all__ = ["Measured", "StudyProblem", "graph_picture", "study"]

_TUNING_SHARE = 4

# group, name and value of a quantity, and its floor if there is one
Measured = tuple[str, str, float] | tuple[str, str, float, float | None]


class StudyProblem(ABC):
    """Data, a way to train, and a list of quantities.

    Attributes:
        experiment: Name of the experiment, followed by that of the problem if there are several.
        steps: Generator steps of a level that is trained against critics.
        lengths: Lengths of the shortened trainings behind the curves of methods that are not measured while they train.
        tuned: Whether learning rates are tuned in the full size.
        equal_time: Whether joint training is repeated within the time of modular training.
        critics_once: Whether methods with critics are trained at the first seed only.
    """

    experiment: str
    steps: int
    lengths: Mapping[str, Sequence[int]] = {}
    tuned = False
    equal_time = False
    critics_once = False

    @abstractmethod
    def draw(self, seed: int) -> Any:
        """Draw training data."""

    @abstractmethod
    def references(self, seeds: Sequence[int]) -> Iterable[Result]:
        """Results of other sources than trainings, such as the truth and estimates from the same data."""

    @abstractmethod
    def train(self, method: str, data: Any, seed: int, *, rate: float = 1.0, length: int | None = None) -> Trained:
        """Train by a method.

        Args:
            method: The method.
            data: Training data.
            seed: Seed of the training.
            rate: Multiple of the usual learning rate.
            length: Number of steps: largest by likelihood, of a generator against critics; the usual one by default.
        """

    def distances(self, model: Model) -> Mapping[str, float]:
        """Distances to the truth over a training, for its curve; empty if the truth is unknown."""
        return {}

    @abstractmethod
    def measure(self, method: str, trained: Trained, seed: int) -> Iterable[Measured]:
        """Measure all quantities."""

    @abstractmethod
    def criteria(self, results: Sequence[Result], *, full: bool) -> list[Criterion]:
        """Limits of the quantities; some are judged in the full size only."""

    @abstractmethod
    def findings(self, results: Sequence[Result]) -> Findings:
        """Captions, pictures, photos, notes and further charts and tables."""


def study(problem: StudyProblem, request: ExperimentRequest) -> Findings:
    """Run all methods on a problem.

    Args:
        problem: The problem.
        request: Seeds and methods.
    """
    running = _Study(problem, request)
    running.run()
    return running.findings()


class _Study:
    def __init__(self, problem: StudyProblem, request: ExperimentRequest) -> None:
        self.problem, self.request = problem, request
        self.title = problem.experiment.partition(", ")[2]
        self.results: list[Result] = []
        # the training of each method at its first seed, and the time of every training
        self.first: dict[str, Trained] = {}
        self.seconds: dict[tuple[str, int], float] = {}
        self.curves: dict[str, Curve] = {}
        self.rates: dict[str, float] = {}

    # ---- running

    def run(self) -> None:
        """Train and measure."""
        problem, request = self.problem, self.request
        runs = {method: self._seeds(method) for method in request.methods}
        again = sum(len(seeds) for method, seeds in runs.items() if self._is_repeated(method))
        tuned = problem.tuned and not request.fast
        shortened = sum(method in problem.lengths for method in runs)
        trainings = sum(map(len, runs.values())) + again
        request.stages.expect(1 + 2 * trainings + tuned * len(runs) + shortened)
        with self._stage("references"):
            self.results.extend(problem.references(request.seeds))
        for method, seeds in runs.items():
            if tuned:
                with self._stage(f"learning rate of {method}"):
                    self.rates[method] = self._tuned(method)
            for seed in seeds:
                self._train(method, seed)
            self.curves[method] = self.first[method].curve
            if method in problem.lengths:
                with self._stage(f"curve of {method}"):
                    self.curves[method] = self._shortened(method)

    def _seeds(self, method: str) -> tuple[int, ...]:
        return self.request.seeds[:1] if self.problem.critics_once and method != "auto" else self.request.seeds

    def _is_repeated(self, method: str) -> bool:
        return self.problem.equal_time and method.startswith("joint") and "adversarial" in self.request.methods

    def _stage(self, what: str) -> Any:
        return self.request.stages.stage(f"{what}, {self.title}" if self.title else what)

    def _tuned(self, method: str) -> float:
        """The learning rate with the smallest held-out loss, at the first seed, in a quarter of the steps."""
        seed = self.request.seeds[0]
        data = self.problem.draw(seed)
        # likelihood stops by itself
        length = None if method == "auto" else max(1, self.problem.steps // _TUNING_SHARE)
        losses = {rate: self.problem.train(method, data, seed, rate=rate, length=length).heldout for rate in RATES}
        return min(losses, key=lambda rate: losses[rate])

    def _train(self, method: str, seed: int) -> None:
        data = self.problem.draw(seed)
        trained = self._trained(method, method, data, seed)
        if self._is_repeated(method):
            # as many steps as fit into the time of the modular training, at the measured speed
            share = self.seconds["adversarial", seed] / trained.seconds
            length = max(1, round(self.problem.steps * share))
            self._trained(method, f"{method}, equal time", data, seed, length)

    def _trained(self, method: str, label: str, data: Any, seed: int, length: int | None = None) -> Trained:
        rate = self.rates.get(method, 1.0)
        with self._stage(f"training {label}"):
            trained = self.problem.train(method, data, seed, rate=rate, length=length)
        self.first.setdefault(label, trained)
        self.seconds[label, seed] = trained.seconds
        with self._stage(f"measuring {label}"):
            cost: list[Measured] = [
                (COST, "mechanisms trained together", trained.plan.largest), (COST, "steps", trained.steps),
                (COST, "time of a training", trained.seconds), (COST, "held-out loss", trained.heldout),
                (COST, "learning rate, times the usual", rate),
            ]  # fmt: skip
            for measured in (*self.problem.measure(label, trained, seed), *cost):
                row = Result(self.problem.experiment, label, seed, *measured)
                self.results.append(replace(row, seconds=round(trained.seconds, 3)))
        return trained

    def _shortened(self, method: str) -> Curve:
        """Seconds and distances of shortened trainings, and of the full one."""
        seed = self.request.seeds[0]
        data = self.problem.draw(seed)
        trainings = [self.problem.train(method, data, seed, rate=self.rates.get(method, 1.0), length=length)
                     for length in self.problem.lengths[method]]  # fmt: skip
        points = [(trained.seconds, self.problem.distances(trained.model)) for trained in trainings]
        full = self.first[method]
        return (*sorted(points, key=lambda point: point[0]), (full.seconds, self.problem.distances(full.model)))

    # ---- reporting

    def findings(self) -> Findings:
        """Everything that is on the page."""
        floors = {row.quantity: row.floor for row in select(self.results, group=FITTED)}
        findings = Findings(
            results=self.results,
            criteria=self.problem.criteria(self.results, full=not self.request.fast),
            captions={COST: self._caption()},
            charts=convergence(self.curves, self.title, floors),
        )
        findings.extend(self.problem.findings(self.results))
        for method in self.request.methods:
            findings.pictures.append(plan_picture(f"The plan, {method}", self.first[method].plan))
        return findings

    def _caption(self) -> str:
        parts = ["Seconds are wall-clock, one thread. Steps of levels add up; auto stops by itself."]
        if any(method.startswith("joint") for method in self.request.methods):
            parts.append(
                "Joint training takes as many steps as all levels of adversarial together; with equal time, as many as "
                "fit into the time that adversarial took."
            )
        if self.rates:
            rates = ", ".join(f"{rate:g}" for rate in RATES)
            parts.append(f"Rates are chosen among {rates} on held-out rows, at the first seed and in a quarter of the "
                         "steps.")  # fmt: skip
        return " ".join(parts)


def graph_picture(graph: ADMG, query: str, **given: Any) -> Picture:
    """A graph with a query marked, and the formula of its answer.

    Args:
        graph: The graph.
        query: The query.
        given: Further arguments of :func:`mdcm.identify`.
    """
    marked = identify(graph, query, **given)
    estimand = f" = {marked.estimand}" if marked.estimand is not None else ""
    return Picture("The graph", marked.to_svg(), f"{graph.to_string()}. Asked for: {query}{estimand}.")
