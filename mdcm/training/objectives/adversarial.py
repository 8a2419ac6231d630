"""Adversarial training of a plan: h-nodes of a level together, each until its held-out rows say that it is done.

What one h-node is trained on, and a step of it, is in :mod:`mdcm.training.objectives.critic_problem`; a step of
several at once in :mod:`mdcm.training.objectives.critic_stack`.

References:
    Rahman & Kocaoglu (2024), Algorithms 2, 4 and 7.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mdcm.errors import MdcmError
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.objectives.comparison import Check
from mdcm.training.objectives.critic_problem import AdversarialProblem, Losses, Outcome
from mdcm.training.objectives.critic_stack import Stack
from mdcm.training.objectives.tiles import Size, tiles

if TYPE_CHECKING:
    from mdcm.data import Encoded
    from mdcm.dcm import DCM
    from mdcm.planning import Plan
    from mdcm.training.pooled_rows import Reader

__all__ = [
    "AdversarialConfig",
    "AdversarialProblem",
    "AdversarialTraining",
    "Check",
    "Losses",
    "Outcome",
    "fit_adversarial",
]

Log = Callable[[dict[str, Any]], None]


class Progress(Protocol):
    """Who is told how training goes."""

    def start(self, hnode: tuple[str, ...], steps: int) -> None:
        """An h-node begins; it takes at most this many steps."""

    def step(self, hnode: tuple[str, ...], step: int) -> None:
        """So many steps are done."""

    def finish(self, hnode: tuple[str, ...]) -> None:
        """The h-node is trained."""


class AdversarialTraining:
    """H-nodes trained side by side, each until its steps are done, patience or time is over.

    Args:
        problems: The h-nodes, of one configuration, none an ancestor of another.
        stacked: Whether all are stepped as one, which must be possible (:mod:`mdcm.training.objectives.tiles`);
            otherwise each takes its own step in turn.

    Attributes:
        alive: Places of those that are still trained.

    Raises:
        MdcmError: From :meth:`train`, if a loss or gradient is not finite; the model then holds the best weights of
            every h-node.
    """

    def __init__(self, problems: Sequence[AdversarialProblem], *, stacked: bool = False) -> None:
        self.problems = tuple(problems)
        self.stacked = stacked
        self.alive = list(range(len(problems)))
        self.packed: list[int] = []
        self.stack: Stack | None = None
        self.seconds = [0.0] * len(problems)
        self.outcomes: dict[int, Outcome] = {}

    def train(
        self,
        *,
        progress: Progress | None = None,
        log: Log | None = None,
        look: Callable[[], None] | None = None,
        late: Callable[[], bool] | None = None,
    ) -> list[Outcome]:
        """Train to the end; goes on where :meth:`restore` left off.

        Args:
            progress: Told how it goes.
            log: Receives one record per look at held-out rows, and one per h-node at its end.
            look: Called after every look at held-out rows; the model then holds the best weights so far.
            late: Whether time is over, asked after every step.

        Returns:
            What it came to for those h-nodes that were still trained; the model holds their best weights.
        """
        began = time.monotonic()
        every = max(1, self.problems[0].steps // self.problems[0].config.checks)
        for place in self.alive:
            if progress is not None:
                progress.start(self.problems[place].hnode.variables, self.problems[place].steps)
        self._conclude([place for place in self.alive if self.problems[place].over], began, progress, log)
        while self.alive:
            began = time.monotonic()
            losses = self._step(every)
            step, steps = self.problems[self.alive[0]].done, self.problems[0].steps
            if progress is not None and (step % 10 == 0 or step == steps):
                for place in self.alive:
                    progress.step(self.problems[place].hnode.variables, step)
            due = step % every == 0 or step == steps
            if due:
                self._look(losses, log)
                if look is not None:
                    self._show(look)
            self._account(began)
            began = time.monotonic()
            if due:
                self._conclude([place for place in self.alive if self.problems[place].over], began, progress, log)
            # asked only now, so that a state saved by who is asked misses no look at held-out rows
            if self.alive and late is not None and late():
                if not due:
                    self._look(losses, log)
                self._conclude(list(self.alive), began, progress, log)
        return [self.outcomes[place] for place in sorted(self.outcomes)]

    def _step(self, every: int) -> dict[int, Losses]:
        """The next step, or where several are one to the device so many, up to the next look at held-out rows."""
        done = self.problems[self.alive[0]].done
        try:
            if not self.stacked:
                return {place: self.problems[place].step(done + 1) for place in self.alive}
            stack = self._packed()
            count = min(stack.together, every - done % every, self.problems[0].steps - done)
            losses = dict(zip(self.packed, stack.step(done + 1, count), strict=True))
        except MdcmError:
            for place in self.alive:
                self.problems[place].finish()
            raise
        for place in self.alive:
            self.problems[place].done = done + count
        return losses

    def _packed(self) -> Stack:
        """The stack of all that are trained, made anew once most of it is idle."""
        if self.stack is None or 2 * len(self.alive) < len(self.packed):
            if self.stack is not None:
                self.stack.unpack()
            self._pack(self.alive)
        assert self.stack is not None
        return self.stack

    def _pack(self, places: Sequence[int]) -> None:
        self.packed = list(places)
        self.stack = Stack([self.problems[place] for place in places])
        for own, place in enumerate(places):
            if place not in self.alive:
                self.stack.release(own)

    def _look(self, losses: Mapping[int, Losses], log: Log | None) -> None:
        """Compare with held-out rows, keep what is good, and write it down."""
        for place in self.alive:
            if self.stack is not None:
                self.stack.give_average(self.packed.index(place))
            problem = self.problems[place]
            check = problem.judge()
            if log is not None:
                log({
                    "event": "check", "hnode": list(problem.hnode.variables), "step": problem.done,
                    "heldout": check.mean, "distances": list(check.distances),
                    "critic": losses[place].critic.tolist(), "loss": float(losses[place].generator.sum()),
                    "missing": [list(one) for one in check.missing],
                })  # fmt: skip

    def _show(self, look: Callable[[], None]) -> None:
        with ExitStack() as held:
            for place in self.alive:
                held.enter_context(self.problems[place].holding(self.problems[place].kept))
            look()

    def _account(self, began: float) -> None:
        """Time since then, shared by all that were trained."""
        for place in self.alive:
            self.seconds[place] += (time.monotonic() - began) / len(self.alive)

    def _conclude(self, places: Sequence[int], began: float, progress: Progress | None, log: Log | None) -> None:
        """Put the best weights of these h-nodes into the model, and train them no more."""
        for place in places:
            problem = self.problems[place]
            name = problem.hnode.variables
            check, idle = problem.conclude()
            gaps = problem.gaps()
            self.alive.remove(place)
            if self.stack is not None:
                self.stack.release(self.packed.index(place))
            if progress is not None:
                progress.finish(name)
            self.seconds[place] += time.monotonic() - began
            began = time.monotonic()
            outcome = Outcome(problem.kept_step, check, idle, gaps, round(self.seconds[place], 3))
            self.outcomes[place] = outcome
            if log is not None:
                record: dict[str, Any] = {
                    "event": "trained", "hnode": list(name), "steps": outcome.steps, "heldout": check.mean,
                    "distances": list(check.distances), "missing": [list(one) for one in check.missing],
                    "idle_confounders": list(idle), "seconds": outcome.seconds,
                }  # fmt: skip
                if gaps:
                    record["representations"] = {image: asdict(gap) for image, gap in gaps.items()}
                log(record)

    # ---- checkpoints

    def state(self) -> dict[str, Tensor]:
        """All that :meth:`train` needs to go on as if never stopped, by name, as tensors; copies."""
        if self.stack is not None:
            self.stack.unpack()
        found = {
            f"{place}.{name}": one
            for place, problem in enumerate(self.problems)
            for name, one in problem.state().items()
        }
        # how results are rounded depends on who is stacked
        places = {"alive": self.alive, "packed": self.packed}
        return found | {name: torch.tensor(own, dtype=torch.int64) for name, own in places.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave, with problems made from the same arguments."""
        self.alive = [int(place) for place in state["alive"]]
        named = [*self.alive, *(int(place) for place in state["packed"])]
        if any(place not in range(len(self.problems)) for place in named) or len(set(self.alive)) < len(self.alive):
            raise ValueError(f"it names h-nodes {named}, of which there are {len(self.problems)}")
        for place, problem in enumerate(self.problems):
            prefix = f"{place}."
            problem.restore({k.removeprefix(prefix): one for k, one in state.items() if k.startswith(prefix)})
            if place not in self.alive:
                problem.finish()
        if len(state["packed"]):
            self._pack([int(place) for place in state["packed"]])


def fit_adversarial(
    dcm: DCM,
    plan: Plan,
    data: Mapping[str, Encoded],
    config: AdversarialConfig | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    log: Log | None = None,
    *,
    look: Callable[[], None] | None = None,
    readers: Mapping[str, Reader] | None = None,
    batch_modules: bool = True,
) -> list[Outcome]:
    """Train all h-nodes of a plan, level by level, on one thread.

    H-nodes of a level that can be stepped as one are, with the weights that they have one after another, up to
    rounding.

    Args:
        dcm: The model, changed in place.
        plan: A plan whose fits are all adversarial.
        data: Data sets by name.
        config: Settings.
        seed: Seed; an h-node's own is a function of it and of the smallest position of its variables in the graph.
        progress: Told how it goes.
        log: Receives one record per look at held-out rows and per trained h-node.
        look: Called after every look at held-out rows; the model then holds the best weights so far.
        readers: As for :class:`AdversarialProblem`.
        batch_modules: Whether h-nodes are stepped as one where they can be.

    Returns:
        What became of each h-node, in the order of the plan.

    Raises:
        PlanError: If a fit is not adversarial.
        MdcmError: If a loss or gradient is not finite.

    References:
        Rahman & Kocaoglu (2024), Algorithms 2 and 7; for a joint plan Algorithm 3.

    Example:
        >>> from mdcm.data import Dataset, Schema, encode
        >>> from mdcm.dcm import DCM
        >>> from mdcm.planning import plan
        >>> p = plan("X -> Y", objective="adversarial")
        >>> rows = Dataset({"X": [0, 0, 1, 1], "Y": [0, 1, 1, 1]}, name="d1")
        >>> schema = Schema.infer([rows])
        >>> dcm = DCM(p.graph, schema, {})
        >>> [one.steps for one in fit_adversarial(dcm, p, {"d1": encode(rows, schema)}, AdversarialConfig(steps=3))]
        [3, 3]
    """
    config = config or AdversarialConfig()
    deadline = None if config.max_minutes is None else time.monotonic() + 60 * config.max_minutes
    late = None if deadline is None else lambda: time.monotonic() > deadline
    outcomes: dict[int, Outcome] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for level in plan.levels:
            # mechanisms of h-nodes without a fit are taken as they are
            places = [place for place in level if plan.hnodes[place].fits]
            sizes = [Size.of(dcm, plan.hnodes[place], data) if batch_modules else None for place in places]
            for tile in tiles(sizes, config):
                problems = []
                for place in (places[one] for one in tile):
                    own = min(dcm.position[name] for name in plan.hnodes[place].variables)
                    number = int(np.random.SeedSequence([seed, own]).generate_state(1, np.uint64)[0] >> 1)
                    problems.append(AdversarialProblem(dcm, plan.hnodes[place], data, config, number, readers=readers))
                training = AdversarialTraining(problems, stacked=sizes[tile[0]] is not None)
                found = training.train(progress=progress, log=log, look=look, late=late)
                outcomes |= dict(zip((places[one] for one in tile), found, strict=True))
    finally:
        torch.set_num_threads(threads)
    dcm.eval()
    return [outcomes[index] for index in sorted(outcomes)]
