"""Random graphs of up to 500 variables: quality of the model, and cost of joint training."""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mdcm.data import Dataset
from mdcm.experiments.estimates import read_out
from mdcm.experiments.likelihoods import adjacent_pairs, log_likelihood, maximum_likelihood
from mdcm.experiments.methods import Adversarial, train_adversarial
from mdcm.experiments.records import Criterion, Experiment, ExperimentRequest, Findings
from mdcm.graph import ADMG
from mdcm.metrics import sampling_floor, tv_distance
from mdcm.model import fit
from mdcm.planning import Objective, plan
from mdcm.report.page import Chart, Line, Picture, Table
from mdcm.scm import DiscreteSCM, random_discrete
from mdcm.training.config import TrainConfig

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["EXPERIMENT", "independent", "pair_distances", "random_problem"]

_LEVELS = 3
_MOST_PARENTS = 4
_TVD_LIMIT, _NATS_LIMIT = 1.2, 0.01
_BLOCK = 50_000
_LONGEST = 240.0


@dataclass(frozen=True)
class _Size:
    nodes: tuple[int, ...]
    rows: int
    draws: int
    compared: tuple[int, ...]
    steps: int
    longest: int | None = None


_FULL = _Size((20, 50, 100, 200, 500), 20_000, 1_000_000, (20, 50, 100), 20)
_FAST = _Size((12,), 4_000, 100_000, (12,), 2, longest=200)


def random_problem(nodes: int, seed: int) -> DiscreteSCM:
    """A random model of a random graph: 2n arcs, at most 4 parents each, n/3 confounded pairs, three levels.

    Args:
        nodes: Number n of variables, at least 12.
        seed: Seed of graph and model.

    Example:
        >>> graph = random_problem(12, seed=0).graph
        >>> len(graph.directed), len(graph.bidirected)
        (24, 4)
    """
    rng = np.random.default_rng([seed, nodes])
    names = [f"V{i}" for i in range(nodes)]
    every = list(itertools.combinations(names, 2))
    directed: list[tuple[str, str]] = []
    parents = dict.fromkeys(names, 0)
    for index in rng.permutation(len(every)):
        tail, head = every[index]
        if len(directed) < 2 * nodes and parents[head] < _MOST_PARENTS:
            directed.append((tail, head))
            parents[head] += 1
    hidden = [every[index] for index in sorted(rng.permutation(len(every))[: nodes // 3])]
    return random_discrete(ADMG(names, directed, hidden), _LEVELS, seed, latent_levels=4)


def independent(truth: DiscreteSCM, table: pd.DataFrame) -> DiscreteSCM:
    """The model without edges: independent variables with their frequencies."""
    shares = {name: np.bincount(table[name], minlength=_LEVELS) / len(table) for name in truth.graph.nodes}
    return DiscreteSCM(ADMG(list(truth.graph.nodes), []), shares)


def pair_distances(truth: DiscreteSCM, models: Mapping[str, DiscreteSCM], rows: int, draws: int) -> dict[str, float]:
    """Mean distance over adjacent pairs of each model and, as "floor", of a sample of as many rows.

    Graphs of hundreds of variables are too dense for exact sums; both sides are counted in draws, in the full size
    fifty times as many as there are rows.
    """
    pairs = adjacent_pairs(truth)
    right = _pair_shares(truth, pairs, draws)
    distances = {}
    for name, model in models.items():
        shares = _pair_shares(model, pairs, draws)
        distances[name] = mean(tv_distance(a, b) for a, b in zip(right, shares, strict=True))
    return distances | {"floor": mean(sampling_floor(row, rows) for row in right)}


def _pair_shares(model: DiscreteSCM, pairs: Sequence[tuple[str, str]], draws: int) -> NDArray[np.float64]:
    counts = np.zeros((len(pairs), _LEVELS**2))
    for number, start in enumerate(range(0, draws, _BLOCK)):
        size = min(_BLOCK, draws - start)
        # the same seed for all models, so that most of the sampling noise cancels
        block = model.sample(size, seed=1_000_000 + number)
        columns = {name: block[name].to_numpy() for name in block}
        for index, (first, second) in enumerate(pairs):
            counts[index] += np.bincount(_LEVELS * columns[first] + columns[second], minlength=_LEVELS**2)
    return counts / draws


@dataclass(frozen=True)
class _Measured:
    nodes: int
    seed: int
    largest: int
    seconds: float
    peak: float
    tvd: Mapping[str, float]
    loglik: Mapping[str, float]

    @property
    def ratio(self) -> float:
        return self.tvd["auto"] / self.tvd["floor"]

    @property
    def gap(self) -> float:
        """Difference of log-likelihood to the maximum-likelihood model, in nats per row and variable."""
        return (self.loglik["maximum likelihood"] - self.loglik["auto"]) / self.nodes


def _measure(nodes: int, seed: int, size: _Size, request: ExperimentRequest) -> _Measured:
    stages = request.stages
    truth = random_problem(nodes, seed)
    table, heldout = truth.sample(size.rows, seed=2 * seed + 1), truth.sample(size.rows, seed=2 * seed + 2)
    variables = {name: {"levels": list(range(_LEVELS))} for name in truth.graph.nodes}
    with stages.stage(f"training {nodes} variables"):
        began = time.monotonic()
        config = TrainConfig(max_steps=size.longest)
        model = fit(truth.graph, Dataset(table, name="d1"), variables=variables, config=config, seed=seed)
        seconds = time.monotonic() - began
        peak = _peak()
    with stages.stage(f"maximum likelihood of {nodes} variables"):
        best = maximum_likelihood(truth, table)
    models = {"auto": read_out(model.dcm), "maximum likelihood": best, "no edges": independent(truth, table)}
    with stages.stage(f"comparing models of {nodes} variables"):
        loglik = {name: float(log_likelihood(model, heldout).mean()) for name, model in models.items()}
        loglik["truth"] = float(log_likelihood(truth, heldout).mean())
        tvd = pair_distances(truth, models, size.rows, size.draws)
    return _Measured(nodes, seed, model.plan.largest, seconds, peak, tvd, loglik)


def _peak() -> float:
    """Peak memory of the process so far, in MiB."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # getrusage includes the memory of the parent process
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


def _run(request: ExperimentRequest) -> Findings:
    size = _FAST if request.fast else _FULL
    request.stages.expect(3 * len(size.nodes) * len(request.seeds) + 2 * len(size.compared))
    runs = [_measure(nodes, seed, size, request) for nodes in size.nodes for seed in request.seeds]
    costs = []
    for nodes in size.compared:
        for way in ("adversarial", "joint"):
            with request.stages.stage(f"cost of {way}"):
                costs.append(_cost(way, nodes, size, apart=not request.fast))
    by_size = {nodes: [run for run in runs if run.nodes == nodes] for nodes in size.nodes}
    criteria = []
    for nodes, group in by_size.items():
        worst = max(group, key=lambda run: run.ratio)
        criteria.append(Criterion(
            f"{nodes} variables, mean TVD of adjacent pairs", worst.tvd["auto"], _TVD_LIMIT * worst.tvd["floor"],
            judged=size.longest is None,
            note=f"{_TVD_LIMIT} times the sampling floor; worst of seeds {_listed(group)}; without edges "
            f"{worst.tvd['no edges']:.4f}",
        ))  # fmt: skip
        gap = max(group, key=lambda run: run.gap)
        criteria.append(Criterion(
            f"{nodes} variables, held-out log-likelihood behind the best fit", gap.gap * nodes, _NATS_LIMIT * nodes,
            unit="nats per row", note=f"{_NATS_LIMIT} nats per variable; worst of seeds {_listed(group)}; without "
            f"edges {(gap.loglik['maximum likelihood'] - gap.loglik['no edges']):.2f}",
        ))  # fmt: skip
    return Findings(
        criteria=criteria,
        charts=[_quality(by_size), *([_costs(costs)] if len(size.compared) > 1 else [])],
        tables=[_runs_table(runs), _costs_table(costs, size)],
        pictures=_pictures(size.nodes[0]),
        notes=[
            "Answers of models this large are counted in draws; everything else is exact.",
            "The best fit is the maximum-likelihood model of the true structure, by expectation-maximisation from the "
            "true parameters, with half a row in every cell in advance.",
            "What training all at once costs is measured in steps of equal kernels, each way in a process of its own.",
        ],
        numbers={"runs": [asdict(run) for run in runs], "costs": costs},
    )


def _listed(runs: Sequence[_Measured]) -> str:
    return ", ".join(str(run.seed) for run in runs)


def _quality(by_size: Mapping[int, Sequence[_Measured]]) -> Chart:
    sizes = list(by_size)
    names = {"auto": "auto", "maximum likelihood": "best fit", "no edges": "no edges", "floor": "sampling floor"}
    lines = [
        Line(label, sizes, [mean(run.tvd[name] for run in group) for group in by_size.values()], dashed=name == "floor")
        for name, label in names.items()
    ]
    return Chart(
        "Distance of adjacent pairs to the truth", "variables", "mean TVD", lines,
        "Mean distance over pairs against the number of variables: "
        + "; ".join(f"{line.label} {', '.join(f'{y:.4f}' for y in line.y)}" for line in lines) + ".",
        log_x=len(sizes) > 1, log_y=True,
    )  # fmt: skip


def _costs(costs: Sequence[Mapping[str, Any]]) -> Chart:
    lines = [
        Line(way, [cost["nodes"] for cost in costs if cost["way"] == way],
             [cost["seconds per step"] for cost in costs if cost["way"] == way])
        for way in ("adversarial", "joint")
    ]  # fmt: skip
    return Chart(
        "Time of a step against critics", "variables", "seconds", lines,
        "Seconds per step against the number of variables: "
        + "; ".join(f"{line.label} {', '.join(f'{y:.3f}' for y in line.y)}" for line in lines) + ".",
    )  # fmt: skip


def _pictures(nodes: int) -> list[Picture]:
    pictures = []
    for title, objective in (("The smallest graph's plan", "auto"), ("Its plan against critics", "adversarial")):
        made = plan(random_problem(nodes, 0).graph, objective=cast("Objective", objective))
        pictures.append(Picture(
            title, made.to_svg(), f"{len(made.hnodes)} h-nodes of {nodes} variables in {len(made.levels)} levels, at "
            f"most {made.largest} mechanisms trained together.",
        ))  # fmt: skip
    return pictures


def _runs_table(runs: Sequence[_Measured]) -> Table:
    return Table(
        "Quality and cost of a model",
        ["variables", "seed", "largest c-component", "TVD", "floor", "TVD without edges", "nats per variable behind "
         "the best fit", "seconds", "peak MB"],
        [[str(run.nodes), run.seed, run.largest, run.tvd["auto"], run.tvd["floor"], run.tvd["no edges"], run.gap,
          run.seconds, run.peak] for run in runs],
        "Seconds are wall-clock of one thread; the peak is of the whole process so far.",
    )  # fmt: skip


def _costs_table(costs: Sequence[Mapping[str, Any]], size: _Size) -> Table:
    rows = [[str(cost["nodes"]), cost["way"], cost["largest"], cost["seconds per step"], cost["MB"]] for cost in costs]
    return Table(
        "What training against critics costs",
        ["variables", "method", "trained together", "seconds per step of all", "MB on top"], rows,
        f"{size.steps} steps of every h-node; memory is what the peak rose by while training.",
    )  # fmt: skip


def _cost(way: str, nodes: int, size: _Size, *, apart: bool) -> dict[str, Any]:
    """Measure time and memory of a step, in a separate process for an unbiased peak."""
    if not apart:
        return {"way": way, "nodes": nodes, **_child(way, nodes, size.steps, size.rows)}
    command = [sys.executable, "-m", "mdcm.experiments.large", way, str(nodes), str(size.steps), str(size.rows)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    nothing = {"way": way, "nodes": nodes, "largest": None, "seconds per step": float("nan"), "MB": float("nan")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment, timeout=_LONGEST
        )  # fmt: skip
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        # failing is a result too
        return nothing
    return {"way": way, "nodes": nodes, **json.loads(done.stdout)}


def _child(way: str, nodes: int, steps: int, rows: int) -> dict[str, float]:
    # libraries are loaded before the measurement
    small = random_problem(12, 0)
    few = [Dataset(small.sample(100, seed=1), name="d1")]
    train_adversarial(small.graph, few, small.levels, 0, Adversarial(1), joint=way == "joint")
    truth = random_problem(nodes, 0)
    data = [Dataset(truth.sample(rows, seed=1), name="d1")]
    before = _peak()
    # work that is done once cancels in the difference of two lengths
    short, trained = (
        train_adversarial(truth.graph, data, truth.levels, 0, Adversarial(count), joint=way == "joint")
        for count in (1, 1 + steps)
    )
    # modular: the steps of all levels add up; joint: one step trains all mechanisms
    share = trained.steps - short.steps if way == "joint" else steps
    return {
        "largest": trained.plan.largest,
        "seconds per step": (trained.seconds - short.seconds) / share,
        "MB": _peak() - before,
    }


EXPERIMENT = Experiment(
    name="large",
    title="Hundreds of variables",
    section="",
    summary="Random graphs of up to 500 variables of three levels, with two arcs per variable and a third as many "
    "confounded pairs: how near a model comes to the truth and to the best fit of the true structure, and what "
    "training everything at once would cost.",
    paper="",
    sizes={"full": asdict(_FULL), "fast": asdict(_FAST)},
    run=_run,
    methods=("auto",),
)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_child(sys.argv[1], *map(int, sys.argv[2:5]))))
