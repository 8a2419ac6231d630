"""What the data determine is learned: random graphs and data, fitted, against exact answers in all three layers.

    python tests/theorem_sweep.py --count 30 --seed 0

prints for every graph how far the model is from the truth, as a multiple of what sampling error does: every
distribution that a data set shows against its sampling floor, three random effects and one counterfactual that the
data determine against their estimation floors. Floors are means over data sets, and so are the distances, over
``--draws`` trainings each on data of its own: a single estimate, the best one included, is now and then twice as far
from the truth as it is on average. The exit code says whether all were within the bars.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from learning import (
    Experiment,
    answer_distance,
    estimation_errors,
    fresh,
    maximum_likelihood_of_plan,
    random_admg,
    read_out,
)

import mdcm
from mdcm.model import Model
from mdcm.scm import DiscreteSCM, random_discrete

# largest multiples of the sampling floor of what is fitted, of the estimation floor of an answer, and of all answers
SHOWN, ANSWERED, ON_AVERAGE = 1.2, 1.5, 1.2
EFFECTS = 3


@dataclass(frozen=True)
class Ratio:
    """Distances from the truth, one per training, and the one that is to be expected of an estimate.

    Attributes:
        what: The distribution or the query.
        distances: Of the models.
        floor: Mean distance of an estimate.
        bar: Largest multiple of the floor that is good enough.
        chance: How often an estimate is farther away than the bar itself, where that was measured.
    """

    what: str
    distances: tuple[float, ...]
    floor: float
    bar: float
    chance: float = 0.0

    @property
    def distance(self) -> float:
        return sum(self.distances) / len(self.distances)

    @property
    def value(self) -> float:
        return self.distance / self.floor

    @property
    def met(self) -> bool:
        return self.value <= self.bar

    def __str__(self) -> str:
        return f"{self.what}: {self.distance:.4f} is {self.value:.2f} x {self.floor:.4f}{'' if self.met else ' MISSED'}"


def random_case(seed: int) -> tuple[DiscreteSCM, list[Experiment], np.random.Generator]:
    """Five to eight ternary variables, a third as many confounders, and three data sets of them."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(5, 9))
    graph = random_admg(size, int(1.4 * size), size // 3, seed)
    truth = random_discrete(graph, levels=3, seed=seed, latent_levels=4)
    names = list(graph.nodes)
    experiments = [Experiment((), tuple(names), 6000)]
    target = str(rng.choice(names))
    experiments.append(Experiment((target,), tuple(names), 3000))
    # a data set that lacks one or two columns, perhaps under do()
    lacking = set(rng.choice(names, size=int(rng.integers(1, 3)), replace=False).tolist())
    do = tuple(n for n in [str(rng.choice(names))] if n not in lacking and rng.random() < 0.5)
    experiments.append(Experiment(do, tuple(n for n in names if n not in lacking), 2000))
    return truth, experiments, rng


def train(truth: DiscreteSCM, experiments: list[Experiment], seed: int = 0) -> tuple[Model, DiscreteSCM]:
    """A model fitted to what the experiments draw, and its distribution as tables."""
    data = [one.draw(truth, 50 + 100 * seed + place, f"d{place}") for place, one in enumerate(experiments)]
    model = mdcm.fit(truth.graph, data, seed=seed)
    return model, read_out(model.dcm)


def shown(truth: DiscreteSCM, models: list[DiscreteSCM], experiments: list[Experiment]) -> list[Ratio]:
    """Every distribution that a data set shows."""
    found = []
    for one in experiments:
        what = f"P({', '.join(one.columns)}{' | do(' + ', '.join(one.do) + ')' if one.do else ''})"
        distances, floors = zip(*(one.distances(truth, model) for model in models), strict=True)
        found.append(Ratio(what, distances, floors[0], SHOWN))
    return found


def random_questions(model: Model, rng: np.random.Generator) -> list[str]:
    """Three effects and one counterfactual that graph and data determine, of a cause on what lies below it."""
    graph = model.graph
    pairs = [
        pair for pair in itertools.permutations(graph.nodes, 2) if pair[0] in graph.ancestors([pair[1]]) - {pair[1]}
    ]
    found: list[str] = []
    for layer, count in ((2, EFFECTS), (3, 1)):
        wanted = len(found) + count
        # few of them are not identifiable, so that a graph without enough is one to look at
        for _ in range(10_000):
            if len(found) == wanted:
                break
            cause, effect = pairs[int(rng.integers(len(pairs)))]
            others = rng.permutation([name for name in graph.nodes if name not in (cause, effect)]).tolist()
            query = (_effect if layer == 2 else _counterfactual)(rng, graph, cause, effect, others)
            if query is not None and query not in found and model.identify(query).identifiable:
                found.append(query)
        assert len(found) == wanted, f"too few questions of layer {layer} in {graph}"
    return found


def _effect(rng: np.random.Generator, graph: mdcm.ADMG, cause: str, effect: str, others: list[str]) -> str:
    form = rng.integers(4)
    above = [name for name in others if name in graph.ancestors([effect])]
    if form == 0:
        return f"P({effect}, {others[0]} | do({cause}))"
    if form == 1 and above:
        return f"P({effect} | do({cause}, {above[0]}))"
    return f"P({effect} | do({cause}))"


def _counterfactual(
    rng: np.random.Generator, graph: mdcm.ADMG, cause: str, effect: str, others: list[str]
) -> str | None:
    x, other = rng.permutation(3)[:2].tolist()
    form = rng.integers(4)
    if form == 0:
        return f"P({effect}[{cause}={x}] | {cause})"
    if form == 1:
        return f"P({effect}[{cause}={x}], {others[0]} | {cause}={other})"
    if form == 2:
        # a joint of two worlds, of two variables that the cause acts upon
        below = [name for name in others if cause in graph.ancestors([name])]
        return f"P({effect}[{cause}={x}], {below[0]}[{cause}={other}])" if below else None
    between = [name for name in others if cause in graph.ancestors([name]) and name in graph.ancestors([effect])]
    return f"P({effect}[{cause}={x}, {between[0]}[{cause}={other}]])" if between else None


def answered(
    truth: DiscreteSCM,
    models: list[DiscreteSCM],
    experiments: list[Experiment],
    queries: list[str],
    bar: float = ANSWERED,
) -> list[Ratio]:
    """Exact answers of trained models, whose noise makes no difference to what is determined."""
    errors = estimation_errors(truth, queries, experiments)
    found = []
    for query, own in zip(queries, errors.T, strict=True):
        distances = tuple(answer_distance(truth, model, query) for model in models)
        floor = float(own.mean())
        found.append(Ratio(query, distances, floor, bar, float((own > bar * floor).mean())))
    return found


def exact_floors(
    model: Model, truth: DiscreteSCM, queries: list[str], experiments: list[Experiment], repeats: int
) -> list[float]:
    """Estimation floors of maximum likelihood on all data together, with the true number of states of confounders."""
    found = []
    for seed in range(repeats):
        fitted = maximum_likelihood_of_plan(model.plan, fresh(truth, experiments, seed), tolerance=1e-6)
        found.append([answer_distance(truth, fitted, query) for query in queries])
    return np.mean(found, 0).tolist()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30, help="number of graphs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first graph; the others follow")
    parser.add_argument("--draws", type=int, default=5, help="trainings per graph, each on data of its own")
    parser.add_argument("--exact", type=int, default=0, help="also maximum likelihood, of so many data sets per graph")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    began = time.perf_counter()
    found: list[Ratio] = []
    graphs = 0
    for seed in range(given.seed, given.seed + given.count):
        truth, experiments, rng = random_case(seed)
        trained = [train(truth, experiments, draw) for draw in range(given.draws)]
        models = [learned for _, learned in trained]
        queries = random_questions(trained[0][0], rng)
        answers = answered(truth, models, experiments, queries)
        ratios = shown(truth, models, experiments) + answers
        print(f"{seed}: {truth.graph}", *ratios, sep="\n    ", flush=True)
        if given.exact:
            floors = exact_floors(trained[0][0], truth, queries, experiments, given.exact)
            for ratio, floor in zip(answers, floors, strict=True):
                print(f"    maximum likelihood, {ratio.what}: {ratio.distance / floor:.2f} x {floor:.4f}", flush=True)
        found += ratios
        graphs += all(ratio.met for ratio in ratios)
    print(
        f"{given.count} graphs from seed {given.seed}, {given.draws} trainings each, "
        f"{time.perf_counter() - began:.0f} s; {graphs} graphs met all bars"
    )
    for bar, what in ((SHOWN, "what data show"), (ANSWERED, "answers")):
        own = [ratio for ratio in found if ratio.bar == bar]
        values = [ratio.value for ratio in own]
        print(
            f"{what}: {sum(ratio.met for ratio in own)} of {len(own)} within {bar} x their floor, mean "
            f"{np.mean(values):.2f}, worst {max(values):.2f}"
        )
    answers = [ratio for ratio in found if ratio.bar == ANSWERED]
    beyond = np.mean([distance > ANSWERED * ratio.floor for ratio in answers for distance in ratio.distances])
    print(
        f"single trainings beyond {ANSWERED} x the floor of an answer: {beyond:.1%}; single plug-in estimates: "
        f"{np.mean([ratio.chance for ratio in answers]):.1%}"
    )
    mean = float(np.mean([ratio.value for ratio in answers]))
    return int(not all(ratio.met for ratio in found) or mean > ON_AVERAGE)


if __name__ == "__main__":
    sys.exit(main())
