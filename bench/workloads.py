"""What is measured. Every workload first proves that it computes what its baseline computes."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import mean

import baselines
import numpy as np
import torch
from learning import (
    Problem,
    confounded_chain,
    copies_of_one_coin,
    front_door,
    mean_c_factor_distance,
    pairwise_split,
    random_problem,
    read_out,
    seven_variables,
)
from torch import Tensor

import mdcm
from mdcm import kernels
from mdcm.graph import ADMG
from mdcm.metrics import sampling_floor, tv_distance
from mdcm.model import Model
from mdcm.scm import random_discrete
from mdcm.training.objectives.likelihood import ComponentLikelihood, ComponentRows

__all__ = ["QUALITY", "TIMED", "Measured", "Timed"]

ROWS = 20_000
SEEDS = range(5)


class NotEqualError(Exception):
    """The two sides of a comparison do not compute the same thing, so a time would mean nothing."""


@dataclass(frozen=True)
class Timed:
    """Two ways to compute one thing.

    Attributes:
        name: Name of the workload.
        size: The size, in words.
        seed: Seed of the data.
        ours: One run of the library's way; returns what is compared.
        baseline: One run of the direct way.
        equal: Raises NotEqualError unless the results agree.
    """

    name: str
    size: str
    seed: int
    ours: Callable[[], list[Tensor]]
    baseline: Callable[[], list[Tensor]]
    equal: Callable[[list[Tensor], list[Tensor]], None]


@dataclass(frozen=True)
class Measured:
    """A number about how good a fit is, or how long it took.

    Attributes:
        name: Name of the workload.
        size: The problem, in words.
        seed: Seed, or seeds.
        unit: Unit of all values.
        values: One value per seed.
        baseline: What they are held against, one for all or one per seed.
        bar: Largest ratio of means that is good enough; None where the value is only recorded.
    """

    name: str
    size: str
    seed: str
    unit: str
    values: list[float]
    baseline: list[float]
    bar: float | None


# ---- logit tables over distinct parent configurations


def _component(members: int, seed: int) -> tuple[ComponentLikelihood, dict[str, Tensor]]:
    """A c-component v0 <-> v1 <-> ... in which every member has two ternary parents, and rows of a random model."""
    names = [f"v{i}" for i in range(members)]
    arrows = [f"{a} <-> {b}" for a, b in itertools.pairwise(names)]
    arrows += [f"{parent} -> {name}" for name in names for parent in ("p", "q")]
    graph = ADMG.from_string("; ".join(["p", "q", *names, *arrows]))
    table = random_discrete(graph, levels=3, seed=seed).sample(ROWS, seed=seed)
    model = mdcm.fit(graph, table, config=mdcm.TrainConfig(max_steps=1, checks=1, holdout=0.0, refit=False), seed=seed)
    dcm = model.dcm
    likelihood = ComponentLikelihood(
        {name: dcm.mechanism(name) for name in names}, {name: dcm.latents[name] for name in names}, list(dcm.priors)
    )
    return likelihood, {name: torch.tensor(table[name].to_numpy()) for name in graph.nodes}


def _step(likelihood: ComponentLikelihood, rows: ComponentRows) -> list[Tensor]:
    """Forward and backward: the loss, and its gradient in every parameter."""
    likelihood.zero_grad(set_to_none=True)
    loss = likelihood.loss(rows)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in likelihood.parameters() if p.grad is not None)]


def _same_step(ours: list[Tensor], baseline: list[Tensor]) -> None:
    # float32 sums over as many rows, in another order: errors of their square root are expected, twenty times it is
    # allowed
    tolerance = 20 * math.sqrt(ROWS) * torch.finfo(torch.float32).eps
    for index, (a, b) in enumerate(zip(ours, baseline, strict=True)):
        error = float((a - b).abs().max())
        if not error <= tolerance * max(1.0, float(b.abs().max())):
            raise NotEqualError(f"result {index} differs by {error:.3g}")


def _tables(members: int, batch: int | None) -> Callable[[int], Timed]:
    def build(seed: int) -> Timed:
        likelihood, values = _component(members, seed)
        shared = ComponentRows.build(likelihood.mechanisms, values)
        apart = baselines.rows_apart(likelihood.mechanisms, values)
        if batch is not None:
            # the same rows on both sides: a batch is drawn from rows that are not merged
            chosen = torch.from_numpy(np.random.default_rng(seed).integers(0, ROWS, batch))
            shared = ComponentRows.build(likelihood.mechanisms, {name: value[chosen] for name, value in values.items()})
            apart = apart.select(chosen)
        kept = "all rows" if batch is None else f"a batch of {batch:,} rows"
        tables = max(member.configs for member in shared.members.values())
        return Timed(
            "tables",
            f"c-component of {members}, {kept} of {ROWS:,} ({len(shared):,} distinct, {tables} configurations), "
            f"{likelihood.priors[0].numel()} states",
            seed,
            lambda: _step(likelihood, shared),
            lambda: _step(likelihood, apart),
            _same_step,
        )

    return build


# ---- addressed noise


def _philox(seed: int) -> Timed:
    rows, count = 4096, 64
    place = torch.arange(rows)
    generator = torch.Generator().manual_seed(seed)

    def equal(ours: list[Tensor], baseline: list[Tensor]) -> None:
        # not the same numbers, but the same distribution: Kolmogorov and Smirnov's distance at the level of 1e-4
        for name, drawn in (("ours", ours[0]), ("baseline", baseline[0])):
            ordered = drawn.double().flatten().sort().values
            empirical = torch.arange(1, len(ordered) + 1, dtype=torch.float64) / len(ordered)
            gap = float((torch.special.ndtr(ordered) - empirical).abs().max()) * math.sqrt(len(ordered))
            if gap > math.sqrt(math.log(2e4) / 2):
                raise NotEqualError(f"{name} is not normal: {gap:.2f}")

    return Timed(
        "normal_noise",
        f"{rows} rows of {count} numbers, by address against in sequence",
        seed,
        lambda: [kernels.normal_noise(seed, place, 0, count)],
        lambda: [baselines.sequential_normal(rows, count, generator)],
        equal,
    )


TIMED: dict[str, list[Callable[[int], Timed]]] = {
    "tables": [_tables(members, batch) for batch in (None, 1000) for members in (2, 3, 6)],
    "philox": [_philox],
}


# ---- how near the fits come to the truth


def _fit(problem: Problem, seed: int, **settings: int) -> tuple[Model, float]:
    began = time.process_time()
    model = mdcm.fit(problem.graph, problem.table, config=mdcm.TrainConfig(**settings), seed=seed)
    return model, time.process_time() - began


def _joint(
    name: str, problem: Problem, bar: float, seconds: float, *, in_time: float | None = None, **settings: int
) -> Iterator[Measured]:
    """Distance of the fitted joint over five seeds against its bar, and times against a reference in seconds."""
    names = list(problem.graph.nodes)
    truth = problem.truth.exact(names)
    fits = [_fit(problem, seed, **settings) for seed in SEEDS]
    distances = [tv_distance(truth, read_out(model.dcm).exact(names)) for model, _ in fits]
    size = f"{len(names)} variables, {len(problem.table):,} rows"
    size += "".join(f", {value} {key}" for key, value in settings.items())
    seeds = f"{SEEDS[0]}-{SEEDS[-1]}"
    yield Measured(name, size, seeds, "TVD of the joint, bar", distances, [bar], 1.0)
    floor = tv_distance(truth, problem.table.value_counts(normalize=True))
    yield Measured(name, size, seeds, "TVD of the joint, the rows' frequencies", distances, [floor], None)
    times = [seconds for _, seconds in fits]
    yield Measured(name, size, seeds, "CPU s of one thread, reference", times, [seconds], in_time)


def _chain() -> Iterator[Measured]:
    for states, reference, seconds in ((4, 0.042, 4.0), (8, 0.039, 7.0), (16, 0.032, 18.0)):
        yield from _joint("quality-chain", confounded_chain(), 1.15 * reference, seconds, confounder_states=states)


def _front_door() -> Iterator[Measured]:
    yield from _joint("quality-front-door", front_door(), 1.15 * 0.017, 6.8)


def _seven() -> Iterator[Measured]:
    yield from _joint("quality-seven", seven_variables(), 0.04, 10.0, in_time=1.0)


def _random() -> Iterator[Measured]:
    for seed in range(3):
        problem = random_problem(20, 40, 7, seed)
        model, seconds = _fit(problem, seed)
        began = time.process_time()
        exact = baselines.exact_maximum_likelihood(problem.graph, problem.table)
        exact_seconds = time.process_time() - began
        ours, theirs = mean_c_factor_distance(problem.truth, [read_out(model.dcm), exact])
        largest = max(map(len, problem.graph.c_components()))
        size = f"20 variables, 40 arcs, 7 confounders, largest c-component {largest}, {ROWS:,} rows"
        unit = "mean over c-components of sum_pa P(pa) TVD(Q), exact MLE"
        yield Measured("quality-random", size, str(seed), unit, [float(ours)], [float(theirs)], 1.0)
        yield Measured("quality-random", size, str(seed), "CPU s of one thread, EM", [seconds], [exact_seconds], None)


def _four_children() -> Iterator[Measured]:
    """One latent with four children, and a confounder of every two of them in its place, on the same rows."""
    graph = ADMG.from_string("L [latent]; L -> A; L -> B; L -> C; L -> D; A -> B; C -> D")
    truth = random_discrete(graph, levels=3, seed=2, latent_levels=4)
    problems = (
        ("copies of one coin, 5 % flipped", copies_of_one_coin()),
        ("random, ternary, 2 arcs", Problem(truth, truth.sample(8_000, seed=0))),
    )
    for what, problem in problems:
        names = list(problem.graph.nodes)
        exact = problem.truth.exact(names)
        floor = sampling_floor(exact, len(problem.table))
        for kind, fitted, bar in (
            ("one latent", problem.graph, 1.2), ("six pairs", pairwise_split(problem.graph), None)
        ):  # fmt: skip
            distances = [
                tv_distance(exact, read_out(mdcm.fit(fitted, problem.table, seed=seed).dcm).exact(names))
                for seed in SEEDS
            ]
            size = f"four children, {what}, {len(problem.table):,} rows, fitted with {kind}"
            seeds = f"{SEEDS[0]}-{SEEDS[-1]}"
            yield Measured("quality-four", size, seeds, "TVD of the joint, sampling floor", distances, [floor], bar)


QUALITY: dict[str, Callable[[], Iterator[Measured]]] = {
    "quality-chain": _chain,
    "quality-front-door": _front_door,
    "quality-seven": _seven,
    "quality-random": _random,
    "quality-four": _four_children,
}


def ratio(values: list[float], baseline: list[float]) -> float:
    """Ratio of means."""
    return mean(values) / mean(baseline)
