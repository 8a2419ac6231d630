"""Training steps of many small h-nodes: all as one stack, against one at a time.

Both sides take the same steps of the same optimiser on the same rows. Sizes are those of a plan's singletons: a few
dozen distinct rows, networks of a few dozen units, where the time goes into starting operations; and one c-component
that is large enough by itself, where stacking must at least not be slower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from graphs import Compared
from torch import Tensor
from torch.optim import AdamW
from workloads import NotEqualError

from mdcm.data import Schema, Variable
from mdcm.dcm import DCM
from mdcm.graph import ADMG
from mdcm.mechanisms import Categorical
from mdcm.training.config import TrainConfig
from mdcm.training.grouping import group
from mdcm.training.objectives.problems import ComponentProblem
from mdcm.training.rows import FitRows
from mdcm.training.stacking import DiscreteModule, ModuleStack, StackLoad

__all__ = ["BATCHED"]

STEPS = 3
CONFIG = TrainConfig()


def _problems(
    component: str, copies: int, rows: int, hidden: int, seed: int
) -> tuple[DCM, list[list[FitRows]], list[list[str]]]:
    """So many copies of one c-component, each with distinct rows of its own."""
    members = sorted({name for name in component.replace("->", " ").replace("<->", " ").replace(";", " ").split()})
    text = "; ".join(
        " ".join(f"{word}{m}" if word in members else word for word in component.replace(";", " ; ").split())
        for m in range(copies)
    )
    graph = ADMG.from_string(text)
    schema = Schema([Variable(name, "categorical", (0, 1, 2)) for name in graph.nodes])
    factories = dict.fromkeys(
        graph.nodes, lambda variable, parents, latents: Categorical(variable, parents, latents, hidden=hidden)
    )
    dcm = DCM(graph, schema, {name: 8 for name, _ in graph.confounders}, factories, seed=seed)
    rng = np.random.default_rng(seed)
    fits, inside = [], []
    for m in range(copies):
        names = [f"{name}{m}" for name in members]
        cells = rng.choice(3 ** len(names), size=rows, replace=rows > 3 ** len(names))
        values = {name: torch.from_numpy((cells // 3**place) % 3) for place, name in enumerate(names)}
        own = [node for node in dcm.order if node in names and (graph.parents(node) or dcm.latents[node])]
        fits.append([FitRows(tuple(own), values, None, torch.arange(rows))])
        inside.append(own)
    return dcm, fits, inside


class _Side:
    """The steps of one side; the weights are put back before each run, so that runs are alike."""

    def __init__(
        self, parameters: Sequence[Sequence[Tensor]], losses: Sequence[object], begin: Sequence[object]
    ) -> None:
        self.parameters, self.losses = parameters, losses
        self.initial = [[one.detach().clone() for one in group] for group in parameters]
        for start in begin:
            start()

    def __call__(self) -> list[Tensor]:
        found = []
        for parameters, initial, loss in zip(self.parameters, self.initial, self.losses, strict=True):
            with torch.no_grad():
                for one, value in zip(parameters, initial, strict=True):
                    one.copy_(value)
            optimiser = AdamW(parameters, 1e-2, weight_decay=0.1, fused=True)
            for step in range(1, STEPS + 1):
                optimiser.zero_grad(set_to_none=True)
                value = loss(step)
                value.sum().backward()
                optimiser.step()
            found.append(value.detach().view(-1))
        return found


def _compared(component: str, copies: int, rows: int, hidden: int, bar: float, seed: int) -> Compared:
    dcm, fits, members = _problems(component, copies, rows, hidden, seed)
    modules = [DiscreteModule(dcm, own, fit) for own, fit in zip(members, fits, strict=True)]
    found = group([StackLoad(module, module.sizes) for module in modules])
    stacks = [ModuleStack([modules[place] for place in tile], CONFIG) for tile in found]
    alone = [ComponentProblem(dcm, own, fit, CONFIG, 0) for own, fit in zip(members, fits, strict=True)]
    ours = _Side(
        [stack.parameters for stack in stacks],
        [stack.losses for stack in stacks],
        [lambda stack=stack: stack.set_training([None] * len(stack.modules)) for stack in stacks],
    )
    theirs = _Side([one.parameters for one in alone], [one.loss for one in alone], [])

    def fault() -> None:
        order = torch.tensor([place for tile in found for place in tile])
        together, apart = torch.cat(ours()), torch.cat(theirs())[order]
        error = float((together - apart).abs().max())
        # losses of size one in float32, after three steps whose size does not depend on the gradient's
        if not error < 1e-4:
            raise NotEqualError(f"losses differ by {error:.3g}")

    what = component.replace(" ", "")
    size = f"{copies} of {what}, {rows} rows, {hidden} units, {len(found)} tiles; {STEPS} steps one by one"
    return Compared("batched", size, seed, bar, ours, theirs, fault)


def _batched() -> Iterator[Compared]:
    yield _compared("P -> A; Q -> A; R -> A; S -> A", 50, 32, 64, 1 / 5, seed=0)
    yield _compared("P -> A; Q -> B; A -> B; A <-> B", 20, 81, 32, 1.0, seed=1)
    yield _compared("P -> A; Q -> B; A -> B; R -> A; S -> B; A <-> B", 4, 700, 32, 1.1, seed=2)


BATCHED = {"batched": _batched}
