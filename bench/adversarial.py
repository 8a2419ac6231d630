"""Adversarial training where the truth is known: the seven variables of section F.7, and what the order is for.

F.7 is trained from its two data sets with missing columns, module by module and jointly, and read out exactly: total
variation distance to the true distribution of each data set's columns, of all seven variables, and of P(Y0, Y1) under
do(X0). The paper reports distances below 0.10 for the parts and below 0.16 for all seven.

The order: in X -> Z1 -> Z2 -> Y with X <-> Y the pair {X, Y} is matched on P(X, Z1, Z2, Y), for which Z1 and Z2 must
generate. Trained while they are not, it learns to make up for what they do wrong: with the true mechanisms of Z1 and Z2
in their place, P(X, Y | do(Z1, Z2)) tells. Both sides see the same rows and take the same steps.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import mean, median

import numpy as np
import torch
from critics import masks, train
from learning import read_out, seven_variables
from workloads import Measured

import mdcm
from mdcm.data import Dataset, Schema, encode
from mdcm.dcm import DCM
from mdcm.graph import ADMG
from mdcm.mechanisms import Categorical
from mdcm.metrics import tv_distance
from mdcm.planning import DatasetSpec, Plan, plan
from mdcm.scm import DiscreteSCM, random_discrete
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.objectives.critic_problem import AdversarialProblem

__all__ = ["ADVERSARIAL"]

F7_COLUMNS = {"D1": ("X0", "X1", "X2", "W1", "Y1"), "D2": ("X0", "X1", "X2", "W0", "W1", "Y0")}
SEEDS = range(3)
# levels: the goals for parts, for all variables, and for the effect of X0
F7_GOALS: dict[int, tuple[float, float, float]] = {3: (0.07, 0.08, 0.04), 2: (0.04, 0.045, 0.04)}
HIDDEN, STATES = 64, 8
ORDER_GRAPH = "X -> Z1 -> Z2 -> Y; X <-> Y"
ORDER_SEEDS = range(10)
ORDER_CONFIG = AdversarialConfig(steps=3000)
# out of order the distance must be at least three times as large
ORDER_BAR = 1 / 3


def _model(graph: ADMG, datasets: Sequence[Dataset], levels: int, seed: int) -> tuple[DCM, Mapping[str, object]]:
    schema = Schema.infer(datasets, {name: {"levels": list(range(levels))} for name in graph.nodes})
    wide = {name: partial(Categorical, hidden=HIDDEN) for name in graph.nodes}
    dcm = DCM(graph, schema, {name: STATES for name, _ in graph.confounders}, wide, seed=seed)
    return dcm, {str(one.name): encode(one, schema) for one in datasets}


def seven(levels: int, method: str, seed: int, config: AdversarialConfig | None = None) -> dict[str, float]:
    """One run of F.7: distances, and CPU seconds of training."""
    problem = seven_variables(levels)
    datasets = [Dataset(problem.table[list(columns)], name=name) for name, columns in F7_COLUMNS.items()]
    config = config or AdversarialConfig()
    if method == "joint":
        # as many as both levels of the other plan together
        config = replace(config, steps=2 * config.steps)
    began = time.process_time()
    model = mdcm.fit(
        problem.graph, datasets, objective="adversarial", method=method, seed=seed,
        variables={name: {"levels": list(range(levels))} for name in problem.graph.nodes},
        mechanisms={name: partial(Categorical, hidden=HIDDEN) for name in problem.graph.nodes},
        config=mdcm.TrainConfig(confounder_states=STATES, adversarial=config),
    )  # fmt: skip
    seconds = time.process_time() - began
    dcm = model.dcm
    model = read_out(dcm)
    distance = partial(_distance, problem.truth, model)
    return {
        "parts": max(distance(columns) for columns in F7_COLUMNS.values()),
        "joint": distance(problem.graph.nodes),
        "do": max(distance(["Y0", "Y1"], {"X0": level}) for level in range(levels)),
        "seconds": seconds,
    }


def _distance(
    truth: DiscreteSCM, model: DiscreteSCM, names: Sequence[str], do: Mapping[str, int] | None = None
) -> float:
    return tv_distance(truth.exact(list(names), do=do), model.exact(list(names), do=do))


def _f7(levels: int, method: str) -> Iterator[Measured]:
    found = [seven(levels, method, seed) for seed in SEEDS]
    goals = F7_GOALS[levels]
    size = f"{levels} levels, two data sets with columns of the same 20,000 rows, method {method}"
    seeds = f"{SEEDS.start}-{SEEDS.stop - 1}"
    for what, goal in zip(("parts", "joint", "do"), goals, strict=True):
        bar = 1.0 if method == "minimal" else None
        yield Measured("f7-adversarial", f"{what}; {size}", seeds, "TVD", [one[what] for one in found], [goal], bar)
    yield Measured("f7-adversarial", f"time; {size}", seeds, "CPU s", [one["seconds"] for one in found], [300.0], 1.0)


def order(seed: int, config: AdversarialConfig = ORDER_CONFIG, rows: int = 20_000) -> tuple[float, float]:
    """Distance to P(X, Y | do(Z1, Z2)), averaged over do(), with Z1 and Z2 trained before {X, Y}, and without."""
    graph = ADMG.from_string(ORDER_GRAPH)
    truth = random_discrete(graph, levels=3, seed=seed, latent_levels=4)
    datasets = [Dataset(truth.sample(rows, seed=seed), name="d1")]
    p: Plan = plan(graph, [DatasetSpec("d1", rows=rows)], objective="adversarial")
    found = []
    for trained in (True, False):
        dcm, data = _model(graph, datasets, 3, seed)
        for number, hnode in enumerate(p.hnodes):
            if trained or hnode.variables == ("X", "Y"):
                train([AdversarialProblem(dcm, hnode, data, config, 10 * seed + number, held_out=masks(hnode, data))])
        model = read_out(dcm)
        mixed = DiscreteSCM(
            graph, {**model.tables, **{name: truth.tables[name] for name in ("Z1", "Z2")}}, model.priors
        )
        settings = [{"Z1": z1, "Z2": z2} for z1, z2 in np.ndindex(3, 3)]
        found.append(mean(_distance(truth, mixed, ["X", "Y"], do) for do in settings))
    return found[0], found[1]


def _order() -> Iterator[Measured]:
    pairs = [order(seed) for seed in ORDER_SEEDS]
    size = f"P(X, Y | do(Z1, Z2)) in {ORDER_GRAPH}; Z1, Z2 trained first against untrained; 3 levels, 20,000 rows"
    seeds = f"{ORDER_SEEDS.start}-{ORDER_SEEDS.stop - 1}"
    trained, untrained = ([pair[side] for pair in pairs] for side in (0, 1))
    yield Measured("order-adversarial", size, seeds, "TVD", trained, untrained, 1.0)
    yield Measured(
        "order-adversarial", f"median; {size}", seeds, "TVD", [median(trained)], [median(untrained)], ORDER_BAR
    )


ADVERSARIAL = {
    **{
        f"f7-{name}-{method}": partial(_f7, levels, method)
        for levels, name in ((3, "ternary"), (2, "binary"))
        for method in ("minimal", "joint")
    },
    "order-adversarial": _order,
}

if __name__ == "__main__":
    # one run in a process of its own, so that a time limit can be put on it: LEVELS METHOD SEED, or order SEED
    import sys

    torch.set_num_threads(1)
    if sys.argv[1] == "order":
        print(sys.argv[1:], order(int(sys.argv[2])), flush=True)
    else:
        print(sys.argv[1:], seven(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])), flush=True)
