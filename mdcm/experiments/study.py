"""Experiments with discrete variables: train, answer, and compare with the exact truth and both floors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mdcm.experiments.estimates import Sample, answer_distance, estimand_of, estimation_errors, plug_in
from mdcm.experiments.methods import RATES, Adversarial, Trained, train_adversarial, train_auto
from mdcm.experiments.records import Criterion, ExperimentRequest, Findings
from mdcm.identification import identify
from mdcm.planning import plan
from mdcm.report.page import Chart, Line, Picture, Table
from mdcm.scm import DiscreteSCM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data import Dataset

__all__ = ["Size", "StudyProblem", "drawings", "study"]

_STATED, _AVERAGE = 1.5, 1.2
# steps of short trainings, for the curve of maximum likelihood over time
_LENGTHS = (10, 20, 40, 80, 160)
_TUNING_SHARE = 4
_RANKS = 3
_LONGEST_NAME = 64


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
    lengths: tuple[int, ...] = _LENGTHS


@dataclass(frozen=True)
class StudyProblem:
    """A true model, the data sets drawn from it, and the queries.

    Attributes:
        name: Name in titles; empty if the experiment has a single problem.
        truth: The true model.
        samples: The data sets.
        queries: Queries that they determine.
        limits: Limits of training against critics: "parts", the largest distance of a data set's distribution;
            "joint", that of all variables; "do", the largest distance of a query.
        seconds: Time limit of such a training; 0 for none.
        tuned: Whether learning rates are tuned in the full size.
        fitted: Whether the sampling floor is the limit of the fitted distributions.
        ranked: Queries whose three most probable outcomes must be the true ones, in order.
    """

    name: str
    truth: DiscreteSCM
    samples: tuple[Sample, ...]
    queries: tuple[str, ...]
    limits: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    tuned: bool = True
    fitted: bool = True
    ranked: tuple[str, ...] = ()

    def draw(self, seed: int) -> list[Dataset]:
        """Draw training data with a seed."""
        return [sample.draw(self.truth, 1_000 * seed + index) for index, sample in enumerate(self.samples)]

    def targets(self) -> dict[str, Sample]:
        """Distributions to compare a model on: those of the data sets, and that of all variables."""
        targets = {sample.label: sample for sample in self.samples}
        nodes = self.truth.graph.nodes
        if not any(set(sample.columns) == set(nodes) and not sample.do for sample in self.samples):
            rows = min(sample.rows for sample in self.samples)
            targets["P(all variables)"] = Sample("all", tuple(nodes), rows)
        return targets

    def answers(self, model: DiscreteSCM) -> list[NDArray[np.float64]]:
        """Exact answers of a model to the queries."""
        return [np.asarray(model.answer(query), dtype=np.float64).ravel() for query in self.queries]

    def agreeing(self, right: Sequence[NDArray[np.float64]], others: Sequence[NDArray[np.float64]]) -> int:
        """Number of ranked queries whose most probable outcomes agree, in order."""
        count = 0
        for query, ours, theirs in zip(self.queries, right, others, strict=True):
            if query in self.ranked:
                count += bool((np.argsort(-ours)[:_RANKS] == np.argsort(-theirs)[:_RANKS]).all())
        return count

    def titled(self, text: str) -> str:
        """A title with the name of the problem."""
        return f"{text}, {self.name}" if self.name else text


@dataclass(frozen=True)
class _Outcome:
    """A training and its distances to the truth."""

    label: str
    seed: int
    trained: Trained
    fitted: Mapping[str, Mapping[str, float]]
    answered: Mapping[str, float]
    agreeing: int = 0

    def to_json(self) -> dict[str, Any]:
        trained = self.trained
        return {
            "method": self.label, "seed": self.seed, "seconds": round(trained.seconds, 3), "steps": trained.steps,
            "heldout": trained.heldout, "largest": trained.plan.largest, "fitted": self.fitted,
            "answered": self.answered, "agreeing": self.agreeing,
        }  # fmt: skip


def study(problem: StudyProblem, request: ExperimentRequest, size: Size) -> Findings:
    """Run all methods on a problem.

    Args:
        problem: The problem.
        request: Seeds and methods.
        size: Size of the runs.
    """
    running = _Study(problem, request, size)
    running.run()
    return running.findings()


class _Study:
    def __init__(self, problem: StudyProblem, request: ExperimentRequest, size: Size) -> None:
        self.problem, self.request, self.size = problem, request, size
        self.graph, self.levels = problem.truth.graph, problem.truth.levels
        self.right = problem.answers(problem.truth)
        self.targets = problem.targets()
        self.outcomes: list[_Outcome] = []
        self.curves: dict[str, tuple[tuple[float, float], ...]] = {}
        self.rates: dict[str, float] = {}
        self.floors = np.zeros(len(problem.queries))
        self.tracked = list(self.targets)[-1]
        # distance of the plug-in estimate of the training data, by seed and query
        self.estimates: dict[int, dict[str, float]] = {}

    # ---- running

    def run(self) -> None:
        critics = [method for method in self.request.methods if method != "auto"]
        tuned = self.problem.tuned and not self.request.fast
        runs = len(self.request.seeds) * (len(self.request.methods) + ("joint" in critics and "adversarial" in critics))
        self.request.stages.expect(1 + runs + tuned * len(self.request.methods) + ("auto" in self.request.methods))
        with self._stage("estimation floor"):
            errors = estimation_errors(
                self.problem.truth, self.problem.queries, self.problem.samples, self.size.repeats
            )
            self.floors = errors.mean(axis=0)
            for seed in self.request.seeds:
                data = self.problem.draw(seed)
                self.estimates[seed] = {
                    query: answer_distance(right, plug_in(estimand_of(self.problem.truth, query, data), data))
                    for query, right in zip(self.problem.queries, self.right, strict=True)
                }
        for method in self.request.methods:
            if tuned:
                with self._stage(f"learning rate of {method}"):
                    self._tune(method)
            for seed in self.request.seeds:
                self._train(method, seed)
            if method == "auto":
                with self._stage("curve of auto"):
                    self.curves[method] = self._lengths()
            else:
                self.curves[method] = self._of(method)[0].trained.curve

    def _stage(self, what: str) -> Any:
        return self.request.stages.stage(self.problem.titled(what))

    def _tune(self, method: str) -> None:
        """Choose the learning rate with the smallest held-out loss, at the first seed, in a quarter of the steps."""
        data = self.problem.draw(self.request.seeds[0])
        steps = max(1, self.size.steps // _TUNING_SHARE)
        losses = {}
        for rate in RATES:
            losses[rate] = self._fit(method, data, self.request.seeds[0], rate=rate, steps=steps).heldout
        self.rates[method] = min(losses, key=lambda rate: losses[rate])

    def _fit(self, method: str, data: Sequence[Dataset], seed: int, *, rate: float, steps: int) -> Trained:
        if method == "auto":
            return train_auto(self.graph, data, self.levels, seed, rate=rate)
        joint, budget = method == "joint", Adversarial(steps)
        return train_adversarial(
            self.graph, data, self.levels, seed, budget, joint=joint, rate=rate, distance=self._distance
        )

    def _train(self, method: str, seed: int) -> None:
        data = self.problem.draw(seed)
        rate = self.rates.get(method, 1.0)
        with self._stage(f"training {method}"):
            trained = self._fit(method, data, seed, rate=rate, steps=self.size.steps)
            self.outcomes.append(self._judged(method, seed, trained))
        rival = next((outcome for outcome in self._of("adversarial") if outcome.seed == seed), None)
        if method == "joint" and rival is not None:
            # as many steps as fit into the time of the modular training, at the measured speed
            share = rival.trained.seconds / trained.seconds
            with self._stage("training joint, equal time"):
                steps = max(1, round(self.size.steps * share))
                again = self._fit(method, data, seed, rate=rate, steps=steps)
                self.outcomes.append(self._judged("joint, equal time", seed, again))

    def _judged(self, label: str, seed: int, trained: Trained) -> _Outcome:
        fitted = {name: sample.compare(self.problem.truth, trained.model) for name, sample in self.targets.items()}
        answers = self.problem.answers(trained.model)
        distances = [answer_distance(right, answer) for right, answer in zip(self.right, answers, strict=True)]
        answered = dict(zip(self.problem.queries, distances, strict=True))
        agreeing = self.problem.agreeing(self.right, answers)
        return _Outcome(label, seed, trained, fitted, answered, agreeing)

    def _distance(self, model: DiscreteSCM) -> float:
        return self.targets[self.tracked].compare(self.problem.truth, model)["tvd"]

    def _lengths(self) -> tuple[tuple[float, float], ...]:
        """Seconds and distance of shortened trainings by likelihood, and of the full one."""
        seed = self.request.seeds[0]
        data = self.problem.draw(seed)
        points = []
        for length in self.size.lengths:
            short = train_auto(self.graph, data, self.levels, seed, rate=self.rates.get("auto", 1.0), max_steps=length)
            points.append((short.seconds, self._distance(short.model)))
        last = self._of("auto")[0].trained
        return (*sorted(points), (last.seconds, self._distance(last.model)))

    def _of(self, label: str) -> list[_Outcome]:
        return [outcome for outcome in self.outcomes if outcome.label == label]

    # ---- reporting

    def findings(self) -> Findings:
        labels = list(dict.fromkeys(outcome.label for outcome in self.outcomes))
        queries = self.problem.queries
        return Findings(
            criteria=[*self._auto_criteria(), *self._adversarial_criteria()],
            charts=[self._convergence(), *([self._answer_chart()] if queries else [])],
            tables=[
                self._fitted_table(labels), *([self._answered_table(labels)] if queries else []),
                *(self._outcomes(position) for position in range(len(queries))), self._time_table(labels),
            ],
            pictures=drawings(self.problem),
            numbers={
                self.problem.name or "problem": {
                    "graph": self.graph.to_string(),
                    "outcomes": [outcome.to_json() for outcome in self.outcomes],
                    "estimation_floors": dict(zip(queries, self.floors.tolist(), strict=True)),
                    "plug_in": {str(seed): estimates for seed, estimates in self.estimates.items()},
                    "learning_rates": dict(self.rates),
                    "curves": {name: [list(point) for point in curve] for name, curve in self.curves.items()},
                }
            },
        )  # fmt: skip

    def _auto_criteria(self) -> list[Criterion]:
        runs = self._of("auto")
        criteria = []
        for name in self.targets if runs and self.problem.fitted else ():
            # the floor is an expectation: about half of all data sets exceed it, whatever model is fitted
            values = [run.fitted[name]["tvd"] for run in runs]
            note = f"sampling floor; seed {runs[0].seed}"
            if len(runs) > 1:
                note = f"sampling floor; mean over {len(runs)} seeds, worst {max(values):.4f}"
            floor = runs[0].fitted[name]["floor"]
            criteria.append(Criterion(self.problem.titled(f"auto, {name}"), mean(values), floor, note=note))
        for query, floor in zip(self.problem.queries, self.floors.tolist(), strict=True):
            if not runs:
                break
            criteria.append(Criterion(
                self.problem.titled(f"auto, {query}"), runs[0].answered[query], _STATED * floor,
                note=f"{_STATED} times the estimation floor; seed {runs[0].seed}",
            ))  # fmt: skip
            if len(runs) > 1:
                average = mean(run.answered[query] for run in runs)
                estimate = mean(by_query[query] for by_query in self.estimates.values())
                criteria.append(Criterion(
                    self.problem.titled(f"auto, {query}, on average"), average, _AVERAGE * floor,
                    note=f"{_AVERAGE} times the estimation floor; mean over {len(runs)} seeds; plug-in estimate of the "
                    f"same data {estimate:.4f}",
                ))  # fmt: skip
        if runs and self.problem.ranked:
            criteria.append(Criterion(
                self.problem.titled(f"auto, queries whose {_RANKS} most probable outcomes are the true ones"),
                min(run.agreeing for run in runs), len(self.problem.ranked), ">=", unit="queries", note=_seeds(runs),
                # ranks a sixth apart are within a standard error of the few rows of a fast run
                judged=not self.request.fast,
            ))  # fmt: skip
        return criteria

    def _adversarial_criteria(self) -> list[Criterion]:
        runs = self._of("adversarial")
        limits, judged = self.problem.limits, not self.request.fast
        if not runs or not limits:
            return []
        names = list(self.targets)
        values = {
            "parts": max(run.fitted[name]["tvd"] for run in runs for name in names[: len(self.problem.samples)]),
            "joint": max(run.fitted[names[-1]]["tvd"] for run in runs),
            "do": max(max(run.answered.values()) for run in runs),
        }
        words = {"parts": "worst data set", "joint": "all variables", "do": "worst answer"}
        criteria = [
            Criterion(
                self.problem.titled(f"adversarial, {words[key]}"), values[key], limit, judged=judged, note=_seeds(runs)
            )
            for key, limit in limits.items()
        ]
        if self.problem.seconds:
            seconds = mean(run.trained.seconds for run in runs)
            criteria.append(Criterion(
                self.problem.titled("adversarial, time of a training"), seconds, self.problem.seconds, unit="s",
                judged=judged, note=f"wall-clock, one thread; mean over {len(runs)} seeds",
            ))  # fmt: skip
        return criteria

    def _convergence(self) -> Chart:
        floor = self.outcomes[0].fitted[self.tracked]["floor"]
        lines = [Line(name, [x for x, _ in curve], [y for _, y in curve]) for name, curve in self.curves.items()]
        ends = "; ".join(f"{line.label} reaches {line.y[-1]:.4f} after {line.x[-1]:.1f} s" for line in lines)
        return Chart(
            self.problem.titled(f"Distance to {_short(self.tracked)} while it is learned"), "seconds of training",
            "TVD to the truth", lines,
            f"Distance against time, one line per method: {ends}. Sampling floor {floor:.4f}.",
            levels={"sampling floor": floor}, log_x=True, log_y=True,
        )  # fmt: skip

    def _answer_chart(self) -> Chart:
        labels = list(dict.fromkeys(outcome.label for outcome in self.outcomes))
        queries = self.problem.queries
        # longer names would not fit into the chart
        names = [query if len(query) <= _LONGEST_NAME else f"{query[: _LONGEST_NAME - 1]}…" for query in queries]
        lines = [
            Line(label, names, [mean(run.answered[query] for run in self._of(label)) for query in queries])
            for label in labels
        ]
        lines.append(Line("estimation floor", names, self.floors.tolist()))
        return Chart(
            self.problem.titled("Distance of the answers to the truth"), "", "TVD, mean over seeds", lines,
            "Groups of bars, one per query: " + "; ".join(
                f"{line.label} {', '.join(f'{y:.4f}' for y in line.y)}" for line in lines
            ) + ".", kind="bars",
        )  # fmt: skip

    def _fitted_table(self, labels: Sequence[str]) -> Table:
        rows = []
        for name in self.targets:
            for label in labels:
                runs = self._of(label)
                rows.append([
                    _short(name), label, mean(run.fitted[name]["tvd"] for run in runs),
                    max(run.fitted[name]["tvd"] for run in runs), mean(run.fitted[name]["kl"] for run in runs),
                    runs[0].fitted[name]["floor"],
                ])  # fmt: skip
        return Table(
            self.problem.titled("Fitted distributions"),
            ["distribution", "method", "TVD, mean", "TVD, worst seed", "KL, mean, nats", "sampling floor"], rows,
            "Distances to the exact truth; the model's side is exact too.",
        )  # fmt: skip

    def _answered_table(self, labels: Sequence[str]) -> Table:
        rows = []
        for query, floor in zip(self.problem.queries, self.floors.tolist(), strict=True):
            for label in labels:
                runs = self._of(label)
                distances = [run.answered[query] for run in runs]
                rows.append([query, label, distances[0], mean(distances), max(distances), floor])
            estimates = [by_query[query] for by_query in self.estimates.values()]
            rows.append([query, "plug-in estimate", estimates[0], mean(estimates), max(estimates), floor])
        return Table(
            self.problem.titled("Answers"),
            ["query", "method", f"TVD, seed {self.request.seeds[0]}", "mean", "worst seed", "estimation floor"], rows,
            f"Averaged over the values of do(). The floor is what the plug-in estimate misses the truth by on average "
            f"over {self.size.repeats} fresh data sets.",
        )  # fmt: skip

    def _outcomes(self, position: int) -> Table:
        query = self.problem.queries[position]
        truth = self.problem.truth.answer(query)
        assert isinstance(truth, pd.Series)
        first = [outcome for outcome in self.outcomes if outcome.seed == self.request.seeds[0]]
        data = self.problem.draw(self.request.seeds[0])
        estimate = plug_in(estimand_of(self.problem.truth, query, data), data)
        answers = [np.asarray(outcome.trained.model.answer(query), dtype=np.float64).ravel() for outcome in first]
        order = range(len(truth)) if len(truth) <= 12 else np.argsort(-truth.to_numpy())[:12]
        columns: list[NDArray[Any]] = [truth.to_numpy(), *answers, estimate]
        # levels that are the same in every row are in the title
        index = truth.index.to_frame()
        varies = [level for level in range(index.shape[1]) if index.iloc[:, level].nunique() > 1]
        names = [truth.index.names[level] for level in varies]
        cells = [_cell(names, [_parts(truth.index[k])[level] for level in varies]) for k in order]
        rows = [[cell, *(float(column[k]) for column in columns)] for cell, k in zip(cells, order, strict=True)]
        note = f"seed {first[0].seed}"
        if len(truth) > 12:
            note += f"; the 12 most probable of {len(truth)} outcomes"
        headings = ["outcome", "truth", *(outcome.label for outcome in first), "plug-in estimate"]
        return Table(self.problem.titled(query), headings, rows, note)

    def _time_table(self, labels: Sequence[str]) -> Table:
        rows = []
        for label in labels:
            runs = self._of(label)
            method = label.split(",")[0]
            rows.append([
                label, runs[0].trained.plan.largest, mean(float(run.trained.steps) for run in runs),
                mean(run.trained.seconds for run in runs), self.rates.get(method, 1.0),
            ])  # fmt: skip
        note = (
            "Steps of levels add up; 'joint' takes as many as all levels of 'adversarial' together, 'joint, equal "
            "time' as many as fit into the time that 'adversarial' took. 'auto' stops by itself. "
        )
        if self.rates:
            rates = ", ".join(f"{rate:g}" for rate in RATES)
            note += f"Rates are chosen among {rates} on held-out rows, at the first seed and in a quarter of the steps."
        else:
            note += "Rates are not tuned at this size."
        return Table(
            self.problem.titled("What it took"),
            ["method", "trained together", "steps", "seconds, mean", "learning rate, times the usual"], rows,
            note,
        )  # fmt: skip


def drawings(problem: StudyProblem) -> list[Picture]:
    """Draw the graph with the first query marked, and the plans of both objectives."""
    graph = problem.truth.graph
    specs = [sample.draw(problem.truth, 0).spec(graph.nodes) for sample in problem.samples]
    pictures = []
    if problem.queries:
        marked = identify(graph, problem.queries[0], datasets=specs, levels=problem.truth.levels)
        estimand = f" = {marked.estimand}" if marked.estimand is not None else ""
        pictures.append(Picture(
            "The graph", marked.to_svg(),
            f"{graph.to_string()}. Asked for: {problem.queries[0]}{estimand}.",
        ))  # fmt: skip
    draw = partial(plan, graph, specs, levels=problem.truth.levels)
    for title, made in (("The plan", draw()), ("The plan against critics", draw(objective="adversarial"))):
        parts = "; ".join("{" + ", ".join(hnode.variables) + "}" for hnode in made.hnodes)
        pictures.append(Picture(
            title, made.to_svg(), f"{len(made.hnodes)} h-nodes in {len(made.levels)} levels: {parts}."
        ))  # fmt: skip
    return pictures


def _seeds(runs: Sequence[_Outcome]) -> str:
    if len(runs) == 1:
        return f"seed {runs[0].seed}"
    return f"worst of seeds {', '.join(str(run.seed) for run in runs)}"


def _short(label: str) -> str:
    return label.removeprefix("all: ")


def _parts(values: Any) -> tuple[Any, ...]:
    return values if isinstance(values, tuple) else (values,)


def _cell(names: Sequence[Any], values: Sequence[Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))
