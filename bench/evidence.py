"""Rare evidence: rows from the posterior in closed form, against drawing rows and keeping those that agree.

The baseline is what the paper and most packages do: ancestral rows in blocks, and the evidence as a filter. Both sides
draw from the same model, whose mechanisms are known tables, and must agree with its exact posterior before they count.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from exact_models import model_of
from workloads import Measured, NotEqualError

from mdcm import ADMG
from mdcm.model import Model
from mdcm.scm import DiscreteSCM

__all__ = ["EVIDENCE"]

SEEDS = 3
ROWS = 100_000
REJECTED = 2_000_000
BLOCK = 4096
GRAPH = "A -> B -> C -> D; A <-> C; B <-> D"
SEEN = {"B": 1, "D": 1}
# at least 500 times the effective draws per second
BAR = 1 / 500


def _problem(seed: int) -> DiscreteSCM:
    """Binary variables and confounders of four states, with P(B = 1, D = 1) near 1e-4."""
    rng = np.random.default_rng(seed)

    def table(*shape: int, rare: float) -> np.ndarray:
        one = rare * rng.uniform(0.3, 2.0, shape)
        return np.stack([1 - one, one], axis=-1)

    tables = {
        "A": table(4, rare=0.4),
        "B": table(2, 4, rare=0.01),
        "C": table(2, 4, rare=0.4),
        "D": table(2, 4, rare=0.01),
    }
    priors = {"U[A,C]": rng.dirichlet([2] * 4), "U[B,D]": rng.dirichlet([2] * 4)}
    return DiscreteSCM(ADMG.from_string(GRAPH), tables, priors)


def _rejection(model: Model, seed: int) -> np.ndarray:
    """Values of A in the rows that agree."""
    kept = []
    codes = SEEN.items()
    for start in range(0, REJECTED, BLOCK):
        values = model.dcm.generate(torch.arange(start, start + BLOCK), seed)
        agree = torch.stack([values[name] == code for name, code in codes]).all(0)
        kept.append(values["A"][agree])
    return torch.cat(kept).numpy()


def _closed_form(model: Model, seed: int) -> np.ndarray:
    drawn = model.draw_samples(ROWS, given=SEEN, seed=seed)
    if drawn.ess != ROWS:
        raise NotEqualError(f"{drawn.ess:,.0f} effective rows of {ROWS:,}")
    return drawn.table["A"].to_numpy()


def _milliseconds(draw: Callable[[], np.ndarray], exact: float) -> float:
    """CPU milliseconds per row, all rows being of equal weight, once they agree with the exact share of A = 1."""
    began = time.process_time()
    rows = draw()
    spent = time.process_time() - began
    error = math.sqrt(exact * (1 - exact) / len(rows))
    if not abs((rows == 1).mean() - exact) <= 4 * error:
        raise NotEqualError(f"a share of {(rows == 1).mean():.4f} of {len(rows):,} rows, where {exact:.4f} is exact")
    return 1000 * spent / len(rows)


def _evidence() -> Iterator[Measured]:
    ours, baseline, chances = [], [], []
    for seed in range(SEEDS):
        scm = _problem(seed)
        model = model_of(scm)
        chances.append(float(scm.exact(list(SEEN)).loc[tuple(SEEN.values())]))
        exact = float(scm.exact("A", given=SEEN)[1])
        ours.append(_milliseconds(lambda m=model, s=seed: _closed_form(m, s), exact))
        baseline.append(_milliseconds(lambda m=model, s=seed: _rejection(m, s), exact))
    size = f"4 binary variables in 2 c-components, P(evidence) {min(chances):.2g} to {max(chances):.2g}; rejection"
    yield Measured("evidence", size, f"0-{SEEDS - 1}", "CPU ms per effective row", ours, baseline, BAR)


EVIDENCE = {"evidence": _evidence}
