"""Front doors and napkins of numbers whose confounders are hidden, fitted by the graph alone, against plug-ins.

Front doors: energy distance of the fitted P(Y | do(X = x)) to the truth. The plug-in knows the true family of the
regressions (lines; a step a + b tanh(c x + d) and a parabola) and has only its numbers to estimate; its mean distance
over 20 fresh data sets of the same size is the floor.

Napkins (W -> R -> X -> Y; W <-> X; W <-> Y): the error of E[Y | do(X = 1)] - E[Y | do(X = 0)] over what is allowed,
which is 1.2 times the error of a plug-in of the true family on the same rows, or two of its standard errors where that
is more; the largest of the seeds counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from front_doors import FRONT_DOORS, ROWS
from napkins import GRAPH, NAPKINS, model_effect
from workloads import Measured

import mdcm
from mdcm.metrics import energy_distance

__all__ = ["CONTINUOUS"]

SEEDS = range(1, 9)
NAPKIN_SEEDS = range(3)
PLACES = (-1.0, 1.0)


def _front_door(kind: str) -> Iterator[Measured]:
    problem, found = FRONT_DOORS[kind], []
    for seed in SEEDS:
        model = mdcm.fit("X -> Z -> Y; X <-> Y", problem.sample(ROWS, seed))
        for x in PLACES:
            truth = problem.truth(x)
            drawn = model.draw_samples(len(truth), do={"X": x}, variables=["Y"], seed=1).table["Y"].to_numpy()
            found.append(energy_distance(drawn, truth))
    floor = float(np.mean([problem.floor(x) for x in PLACES]))
    size = f"{kind} confounded front door, {ROWS:,} rows; mean over x = -1, 1 and seeds; plug-in of the true family"
    seeds = f"{SEEDS.start}-{SEEDS.stop - 1}"
    yield Measured("continuous-front-door", size, seeds, "energy distance", [float(np.mean(found))], [floor], 1.5)


def _napkin(kind: str) -> Iterator[Measured]:
    problem, found = NAPKINS[kind], []
    for seed in NAPKIN_SEEDS:
        rows = problem.sample(ROWS, seed)
        estimate, error = problem.plug_in(rows)
        allowed = max(1.2 * abs(estimate - problem.truth), 2 * error)
        effect = model_effect(mdcm.fit(GRAPH, rows))
        told = f"{kind}, seed {seed}: {effect:.4f}, plug-in {estimate:.4f} ± {error:.4f}, truth {problem.truth:.4f}"
        print(told, flush=True)
        found.append(abs(effect - problem.truth) / allowed)
    size = f"{kind} napkin, {ROWS:,} rows; effect of X from 0 to 1; largest of the seeds; plug-in of the true family"
    seeds = f"{NAPKIN_SEEDS.start}-{NAPKIN_SEEDS.stop - 1}"
    yield Measured("continuous-napkin", size, seeds, "error over what is allowed", [max(found)], [1.0], 1.0)


CONTINUOUS = {f"continuous-{kind}": partial(_front_door, kind) for kind in FRONT_DOORS} | {
    f"continuous-napkin-{kind}": partial(_napkin, kind) for kind in NAPKINS
}
