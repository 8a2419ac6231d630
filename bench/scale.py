"""A model of 200 variables: time and memory of training, quality against the plug-in estimate, speed of sampling."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from learning import Problem, c_factor_at, random_problem, read_out
from workloads import Measured

import mdcm
from mdcm.graph import ADMG

__all__ = ["SCALE"]

NODES, ARCS, CONFOUNDERS, ROWS = 200, 400, 66, 20_000
DRAWN = 20_000
SAMPLES = 100_000


def _around(graph: ADMG, variable: str, members: set[str]) -> set[str]:
    """Members that confounders connect with a variable, by way of members only."""
    found, pending = {variable}, [variable]
    while pending:
        node = pending.pop()
        for _, children in graph.confounders:
            if node in children:
                new = (set(children) & members) - found
                found |= new
                pending += new
    return found


def _plug_in(problem: Problem, names: list[str], drawn: pd.DataFrame) -> np.ndarray:
    """The c-factor as a product of the data's conditional frequencies (Tian & Pearl 2002), at drawn rows."""
    graph, table = problem.graph, problem.table
    product = np.ones(len(drawn))
    for place, name in enumerate(names):
        around = _around(graph, name, set(names[: place + 1]))
        conditions = sorted((around | graph.parents(around)) - {name})

        def numbers(rows: pd.DataFrame, conditions: list[str] = conditions) -> np.ndarray:
            code = np.zeros(len(rows), dtype=np.int64)
            for condition in conditions:
                code = code * 3 + rows[condition].to_numpy()
            return code

        seen, asked = numbers(table), numbers(drawn)
        _, code = np.unique(np.concatenate([seen, asked]), return_inverse=True)
        counts = np.zeros((code.max() + 1, 3))
        np.add.at(counts, (code[: len(seen)], table[name].to_numpy()), 1)
        total = counts.sum(1)[code[len(seen) :]]
        hits = counts[code[len(seen) :], drawn[name].to_numpy()]
        # what was never seen is anybody's guess
        product *= np.where(total > 0, hits / np.maximum(total, 1), 1 / 3)
    return product


def _distances(problem: Problem, model: mdcm.Model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every c-component: mean TVD of the model's c-factor and of the plug-in's to the truth, and its size."""
    ours = read_out(model.dcm)
    order = {name: place for place, name in enumerate(problem.graph.topological_order())}
    given = problem.truth.sample(DRAWN, seed=1_000_000)
    found = []
    for component in problem.graph.c_components():
        names = sorted(component, key=order.__getitem__)
        outside = problem.graph.parents(names) - set(names)
        drawn = problem.truth.sample(DRAWN, do={name: given[name].to_numpy() for name in outside}, seed=1_000_001)
        right = c_factor_at(problem.truth, names, drawn)
        estimates = (c_factor_at(ours, names, drawn), _plug_in(problem, names, drawn))
        found.append((*(np.abs(one / right - 1).mean() / 2 for one in estimates), len(names)))
    model_side, frequencies, sizes = np.array(found).T
    return model_side, frequencies, sizes


def _scale() -> Iterator[Measured]:
    problem = random_problem(NODES, ARCS, CONFOUNDERS, 0, ROWS)
    size = f"{NODES} ternary variables, {ARCS} arcs, {CONFOUNDERS} confounders, {ROWS:,} rows"
    began = time.process_time()
    model = mdcm.fit(problem.graph, problem.table)
    trained = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    yield Measured("scale-train", size, "0", "CPU s of one thread, 60 s", [trained], [60.0], 1.0)
    yield Measured("scale-memory", f"{size}, whole process", "0", "peak MB, 1 GB", [peak], [1000.0], 1.0)
    began = time.process_time()
    model.draw_samples(SAMPLES, seed=0)
    drawn = time.process_time() - began
    yield Measured(
        "scale-sample", f"{size}; {SAMPLES:,} rows drawn", "0", "CPU s of one thread, 10 s", [drawn], [10.0], 1.0
    )
    ours, frequencies, sizes = _distances(problem, model)
    unit = "mean TVD of c-factors, against frequencies"
    yield Measured("scale-quality", f"{size}, all c-components", "0", unit, [ours.mean()], [frequencies.mean()], 1.0)
    alone = sizes == 1
    yield Measured(
        "scale-quality", f"{size}, singletons", "0", unit, [ours[alone].mean()], [frequencies[alone].mean()], 1.25
    )


SCALE: dict[str, Callable[[], Iterator[Measured]]] = {"scale": _scale}
