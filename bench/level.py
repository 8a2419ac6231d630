"""Training steps of a level of adversarial h-nodes: all as one stack, against one h-node at a time.

Both sides take the same steps on the same rows with the same noise, as ``TrainConfig(batch_modules=...)`` chooses
between them. Batches are small: there the time goes into starting operations. A batch of the default size is there to
show what is left where it goes into doing them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from graphs import Compared
from workloads import NotEqualError

from mdcm.data import Dataset, Schema, encode
from mdcm.dcm import DCM
from mdcm.graph import ADMG
from mdcm.planning import DatasetSpec, plan
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.grouping import group
from mdcm.training.objectives.critic_load import MOST_CRITIC_WORK, CriticLoad
from mdcm.training.objectives.critic_problem import AdversarialProblem
from mdcm.training.objectives.critic_stack import Stack

__all__ = ["LEVEL"]

STEPS = 2
ROWS = 2_000
# one h-node of the level by its members and its graph; copies differ in the numbers of levels
COMPONENTS = {"A": "P{m} -> A{m}; Q{m} -> A{m}", "AB": "P{m} -> A{m} -> B{m}; A{m} <-> B{m}"}
# members, h-nodes, batch: the largest ratio of times that is good enough
SIZES: dict[tuple[str, int, int], float] = {("A", 50, 32): 1 / 5, ("AB", 50, 32): 1 / 5, ("AB", 50, 200): 1.0}


class _Side:
    """The steps of one side; its problems begin anew before each run, so that runs are alike."""

    def __init__(self, members: str, copies: int, batch: int, seed: int, stacked: bool) -> None:
        graph = ADMG.from_string("; ".join(COMPONENTS[members].format(m=m) for m in range(copies)))
        rng = np.random.default_rng(seed)
        table = {name: rng.integers(0, 2 + int(name[1:]) % 2, ROWS) for name in graph.nodes}
        dataset = Dataset(table, name="d1")
        schema = Schema.infer([dataset])
        data = {"d1": encode(dataset, schema)}
        self.dcm = DCM(graph, schema, {name: 8 for name, _ in graph.confounders}, seed=seed)
        p = plan(graph, [DatasetSpec("d1", rows=ROWS)], objective="adversarial")
        hnodes = [one for one in p.hnodes if one.variables[0].startswith("A")]
        config = AdversarialConfig(steps=1000, batch_size=batch)
        self.problems = [AdversarialProblem(self.dcm, one, data, config, m) for m, one in enumerate(hnodes)]
        loads = [CriticLoad.of(self.dcm, one, data, config) if stacked else None for one in hnodes]
        self.tiles = group(loads, MOST_CRITIC_WORK)
        self.stacks = [Stack([self.problems[place] for place in tile]) if stacked else None for tile in self.tiles]
        self.initial = [problem.state() for problem in self.problems]

    def losses(self) -> torch.Tensor:
        """Critic losses of the last of a few first steps, which depend on all that the steps before have trained."""
        for problem, state in zip(self.problems, self.initial, strict=True):
            problem.restore(state)
        found = {}
        for tile, stack in zip(self.tiles, self.stacks, strict=True):
            taken = Stack([self.problems[place] for place in tile]) if stack is not None else None
            for step in range(1, STEPS + 1):
                if taken is not None:
                    found |= dict(zip(tile, taken.step(step), strict=True))
                else:
                    found |= {place: self.problems[place].step(step) for place in tile}
        return torch.cat([found[place].critic for place in range(len(found))])

    def __call__(self) -> None:
        """So many more steps."""
        for tile, stack in zip(self.tiles, self.stacks, strict=True):
            for step in range(1, STEPS + 1):
                if stack is not None:
                    stack.step(step)
                else:
                    for place in tile:
                        self.problems[place].step(step)


def _compared(members: str, copies: int, batch: int, bar: float, seed: int) -> Compared:
    together, apart = (_Side(members, copies, batch, seed, stacked) for stacked in (True, False))

    def fault() -> None:
        torch.set_default_dtype(torch.float64)
        try:
            sides = [_Side(members, copies, batch, seed, stacked) for stacked in (True, False)]
            error = float((sides[0].losses() - sides[1].losses()).abs().max())
        finally:
            torch.set_default_dtype(torch.float32)
        # in double precision, in which no race between two levels is decided by rounding
        if not error < 1e-9:
            raise NotEqualError(f"losses differ by {error:.3g}")

    what = COMPONENTS[members].replace("{m}", "").replace(" ", "")
    size = f"{copies} of {what}, batch {batch}, {len(together.tiles)} tiles; {STEPS} steps one by one"
    return Compared("level-adversarial", size, seed, bar, together, apart, fault)


def _level() -> Iterator[Compared]:
    for (members, copies, batch), bar in SIZES.items():
        yield _compared(members, copies, batch, bar, seed=0)


LEVEL = {"level-adversarial": _level}
