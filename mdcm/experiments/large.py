"""Random graphs of up to 500 variables: quality of the model, and cost of joint training."""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np

from mdcm.data import Dataset
from mdcm.experiments.estimates import read_out
from mdcm.experiments.likelihoods import adjacent_pairs, log_likelihood, maximum_likelihood
from mdcm.experiments.methods import train_against_critics, train_auto
from mdcm.experiments.records import (
    COST,
    FITTED,
    Experiment,
    ExperimentRequest,
    Findings,
    Result,
    hold,
    select,
)
from mdcm.experiments.summaries import plan_picture, size_chart
from mdcm.graph import ADMG
from mdcm.metrics import sampling_floor, tv_distance
from mdcm.planning import plan
from mdcm.report.page import Picture, number
from mdcm.scm import DiscreteSCM, random_discrete
from mdcm.training.adversarial_config import AdversarialConfig

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["EXPERIMENT", "independent", "pair_distances", "random_problem"]

_LEVELS = 3
_MOST_PARENTS = 4
_TVD_LIMIT, _NATS_LIMIT = 1.2, 0.01
_BLOCK = 50_000
_LONGEST = 240.0
# other models, groups and quantities
_BEST, _BARE = "maximum likelihood", "no edges"
_NATS, _STEPS = "Log-likelihood of held-out rows, nats per row", "What a step against critics takes"
_PAIRS, _LOGLIK = "mean TVD of adjacent pairs", "held-out log-likelihood"
_BEHIND, _PEAK = "held-out log-likelihood behind the best fit", "peak memory, MB"
_SECONDS, _MEMORY = "seconds per step of all", "MB on top"


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
    for block_index, start in enumerate(range(0, draws, _BLOCK)):
        size = min(_BLOCK, draws - start)
        # the same seed for all models, so that most of the sampling noise cancels
        block = model.sample(size, seed=1_000_000 + block_index)
        columns = {name: block[name].to_numpy() for name in block}
        for index, (first, second) in enumerate(pairs):
            counts[index] += np.bincount(_LEVELS * columns[first] + columns[second], minlength=_LEVELS**2)
    return counts / draws


def _measure(nodes: int, seed: int, size: _Size, request: ExperimentRequest) -> list[Result]:
    """Train a model; compare it with the best fit and with the model without edges."""
    stages = request.stages
    truth = random_problem(nodes, seed)
    table, heldout = truth.sample(size.rows, seed=2 * seed + 1), truth.sample(size.rows, seed=2 * seed + 2)
    variables = {name: {"levels": list(range(_LEVELS))} for name in truth.graph.nodes}
    with stages.stage(f"training {nodes} variables"):
        data = [Dataset(table, name="d1")]
        trained = train_auto(truth.graph, data, seed, max_steps=size.longest, variables=variables)
        peak = _peak()
    with stages.stage(f"maximum likelihood of {nodes} variables"):
        best = maximum_likelihood(truth, table)
    models = {"auto": read_out(trained.model.dcm), _BEST: best, _BARE: independent(truth, table)}
    with stages.stage(f"comparing models of {nodes} variables"):
        loglik = {name: float(log_likelihood(model, heldout).mean()) for name, model in models.items()}
        loglik["truth"] = float(log_likelihood(truth, heldout).mean())
        tvd = pair_distances(truth, models, size.rows, size.draws)
    floor = tvd.pop("floor")
    row = partial(Result, f"large, {nodes} variables", seed=seed)
    results = [row(name, group=FITTED, quantity=_PAIRS, value=value, floor=floor) for name, value in tvd.items()]
    results += [row(name, group=_NATS, quantity=_LOGLIK, value=value) for name, value in loglik.items()]
    for name in ("auto", _BARE):
        results.append(row(name, group=_NATS, quantity=_BEHIND, value=loglik[_BEST] - loglik[name]))
    cost = {"mechanisms trained together": trained.plan.largest, "time of a training": trained.seconds, _PEAK: peak}
    results += [row("auto", group=COST, quantity=name, value=value) for name, value in cost.items()]
    return [replace(result, seconds=trained.seconds) if result.method == "auto" else result for result in results]


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
    findings = Findings()
    for nodes in size.nodes:
        results = [row for seed in request.seeds for row in _measure(nodes, seed, size, request)]
        findings.results += results
        rules: list[tuple[str, float, dict[str, Any]]] = [
            (_PAIRS, _TVD_LIMIT, {"floor": "sampling floor", "judged": size.longest is None}),
            (_BEHIND, _NATS_LIMIT * nodes, {"unit": "nats per row"}),
        ]
        for quantity, limit, more in rules:
            bare = max(row.value for row in select(results, quantity=quantity, method=_BARE))
            note = f"without edges {number(bare)}"
            findings.criteria += hold(results, [quantity], {"worst": limit}, note=note, **more)
    for nodes in size.compared:
        for way in ("adversarial", "joint"):
            with request.stages.stage(f"cost of {way}"):
                findings.results += _cost(way, nodes, size, apart=not request.fast)
    findings.captions = {
        FITTED: "Mean TVD over adjacent pairs. The floor is the sampling floor.",
        COST: "Seconds are wall-clock of one thread; the peak is of the whole process so far.",
        _STEPS: f"{size.steps} steps of every h-node; memory is what the peak rose by while training.",
    }
    findings.charts = [
        size_chart("Distance of adjacent pairs to the truth", findings.results, _PAIRS, "mean TVD", log=True)
    ]
    if len(size.compared) > 1:
        findings.charts.append(size_chart("A step against critics", findings.results, _SECONDS, "seconds"))
    findings.pictures = _pictures(size.nodes[0])
    findings.notes = [
        "Answers of models this large are counted in draws; everything else is exact.",
        "The best fit is the maximum-likelihood model of the true structure, by expectation-maximisation from the "
        "true parameters, with half a row in every cell in advance.",
        "What training all at once costs is measured in steps of equal kernels, each way in a process of its own.",
    ]
    return findings


def _pictures(nodes: int) -> list[Picture]:
    graph = random_problem(nodes, 0).graph
    return [
        plan_picture("The smallest graph's plan", plan(graph)),
        plan_picture("Its plan against critics", plan(graph, objective="adversarial")),
    ]


def _cost(way: str, nodes: int, size: _Size, *, apart: bool) -> list[Result]:
    """Measure time and memory of a step, in a separate process for an unbiased peak."""
    measured = {"mechanisms trained together": float("nan"), _SECONDS: float("nan"), _MEMORY: float("nan")}
    if not apart:
        measured = _child(way, nodes, size.steps, size.rows)
    else:
        command = [sys.executable, "-m", "mdcm.experiments.large", way, str(nodes), str(size.steps), str(size.rows)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        # failing is a result too
        with suppress(subprocess.TimeoutExpired, subprocess.CalledProcessError):
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, env=environment, timeout=_LONGEST
            )
            measured = json.loads(done.stdout)
    return [Result(f"large, {nodes} variables", way, 0, _STEPS, name, value) for name, value in measured.items()]


def _child(way: str, nodes: int, steps: int, rows: int) -> dict[str, float]:
    # libraries are loaded before the measurement
    small = random_problem(12, 0)
    few = [Dataset(small.sample(100, seed=1), name="d1")]
    joint = way == "joint"
    train_against_critics(small.graph, few, 0, AdversarialConfig(steps=1), joint=joint, levels=small.levels)
    truth = random_problem(nodes, 0)
    data = [Dataset(truth.sample(rows, seed=1), name="d1")]
    before = _peak()
    # work that is done once cancels in the difference of two lengths
    short, trained = (
        train_against_critics(truth.graph, data, 0, AdversarialConfig(steps=count), joint=joint, levels=truth.levels)
        for count in (1, 1 + steps)
    )
    # modular: the steps of all levels add up; joint: one step trains all mechanisms
    share = trained.steps - short.steps if joint else steps
    return {
        "mechanisms trained together": trained.plan.largest,
        _SECONDS: (trained.seconds - short.seconds) / share,
        _MEMORY: _peak() - before,
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
