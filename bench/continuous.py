"""Continuous front doors: energy distance of the fitted P(Y | do(X = x)) to the truth, against a plug-in.

The plug-in knows the true family of the regressions (lines; a step a + b tanh(c x + d) and a parabola) and has only its
numbers to estimate; its mean distance over 20 fresh data sets of the same size is the floor. The model knows the graph
alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from front_doors import FRONT_DOORS, ROWS
from workloads import Measured

import mdcm
from mdcm.metrics import energy_distance

__all__ = ["CONTINUOUS"]

SEEDS = range(1, 9)
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


CONTINUOUS = {f"continuous-{kind}": partial(_front_door, kind) for kind in FRONT_DOORS}
