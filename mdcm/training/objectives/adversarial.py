"""The objective of h-nodes that are trained against critics, each by itself or several stepped as one.

What one h-node is trained on, and a step of it, is in :mod:`mdcm.training.objectives.critic_problem`; a step of several
at once in :mod:`mdcm.training.objectives.critic_stack`.

References:
    Rahman & Kocaoglu (2024), Algorithms 2, 4 and 7.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from torch import Tensor

from mdcm.text.documents import listed, record, whole
from mdcm.training.objectives.comparison import Distances
from mdcm.training.objectives.critic_problem import AdversarialProblem, StepLosses
from mdcm.training.objectives.critic_stack import Stack
from mdcm.training.trainer import Snapshot, check_modules

__all__ = ["AdversarialObjective"]

_HEADER = record({"packed": listed(whole())})


class AdversarialObjective:
    """Minimises distances of generated to real rows, as critics see them; the validation compares distributions.

    Args:
        problems: The h-nodes, of one configuration, none an ancestor of another.
        stacked: Whether all are stepped as one, which must be possible (:class:`Size`); otherwise each takes its own
            step in turn.

    Raises:
        MdcmError: From :meth:`step`, if a loss or gradient is not finite.
    """

    validated = True
    # every training takes all its steps anyway, and a second one would take as long
    refits = False
    grown: Sequence[int] = ()
    finished: Collection[int] = ()

    def __init__(self, problems: Sequence[AdversarialProblem], *, stacked: bool = False) -> None:
        self.problems = tuple(problems)
        config = self.problems[0].config
        self.steps, self.checks, self.patience = config.steps, config.checks, config.patience
        self.stacked = stacked
        self.modules: Sequence[int] = range(len(problems))
        self.packed: list[int] = []
        self.stack: Stack | None = None
        self._losses: dict[int, StepLosses] = {}

    def start(self, modules: Sequence[int], *, everything: bool) -> None:
        """Train these modules; problems are made with their initial weights."""
        self.modules = tuple(modules)

    def restrict(self, modules: Sequence[int]) -> None:
        """Train only these modules from now on; the others have their best weights."""
        for module in set(self.modules) - set(modules):
            if self.stack is not None:
                self.stack.release(self.packed.index(module))
            self.problems[module].finish()
        self.modules = tuple(modules)

    # ---- steps

    def step(self, done: int, most: int) -> int:
        """One step of every module, or where several can be taken as one graph of a device, so many."""
        if not self.stacked:
            self._losses = {module: self.problems[module].step(done + 1) for module in self.modules}
            return 1
        stack = self._packed()
        count = min(stack.together, most)
        self._losses = dict(zip(self.packed, stack.step(done + 1, count), strict=True))
        return count

    def _packed(self) -> Stack:
        """The stack of all that are trained, made anew once most of it is idle."""
        if self.stack is None or 2 * len(self.modules) < len(self.packed):
            if self.stack is not None:
                self.stack.unpack()
            self._pack(self.modules)
        assert self.stack is not None
        return self.stack

    def _pack(self, modules: Sequence[int]) -> None:
        self.packed = list(modules)
        self.stack = Stack([self.problems[module] for module in modules])
        for index, module in enumerate(modules):
            if module not in self.modules:
                self.stack.release(index)

    def measures(self, step: int) -> list[dict[str, Any]]:
        """Losses of critics and generators; :meth:`step` has found them finite."""
        losses = [self._losses[module] for module in self.modules]
        return [{"critic": own.critic.tolist(), "loss": float(own.generator.sum())} for own in losses]

    # ---- held-out rows

    def validate(self) -> list[Distances]:
        """How rows of the averaged weights compare with held-out ones."""
        checks = []
        for module in self.modules:
            if self.stack is not None:
                self.stack.give_average(self.packed.index(module))
            checks.append(self.problems[module].check())
        return checks

    def validation(self, module: int, tensor: Tensor) -> Distances:
        """The comparison that these distances are from."""
        problem = self.problems[module]
        if tensor.shape != (len(problem.sides),):
            raise ValueError(f"job.best.{module} must have {len(problem.sides):,} distances, not {list(tensor.shape)}")
        return Distances(tuple(tensor.tolist()), (), problem.tolerance)

    def keep(self, module: int) -> None:
        """Remember the averaged weights of a module as the best so far."""
        problem = self.problems[module]
        problem.kept = [weight.clone() for weight in problem.average]

    @contextmanager
    def showing_kept(self) -> Iterator[None]:
        """Put the best weights into the model for a while."""
        with ExitStack() as shown:
            for module in self.modules:
                shown.enter_context(self.problems[module].holding(self.problems[module].kept))
            yield

    def conclude(self) -> dict[int, float]:
        """Leave the best weights as they are."""
        return {}

    def finish(self) -> None:
        """Put the best weights into the model, in evaluation mode."""
        for problem in self.problems:
            problem.finish()

    def summary(self, module: int) -> dict[str, Any]:
        """How the best weights compare with held-out rows, idle confounders, and what representations leave out."""
        problem = self.problems[module]
        problem.average = [weight.clone() for weight in problem.kept]
        check = problem.check()
        entries: dict[str, Any] = {**check.record(), "idle_confounders": list(problem.idle())}
        gaps = problem.gaps()
        if gaps:
            entries["representations"] = {image: asdict(gap) for image, gap in gaps.items()}
        return entries

    # ---- checkpoints

    def snapshot(self) -> Snapshot:
        """All that is needed to go on; copies."""
        if self.stack is not None:
            self.stack.unpack()
        # how results are rounded depends on which modules are packed
        return {"packed": self.packed}, {
            f"{module}.{name}": tensor
            for module, problem in enumerate(self.problems)
            for name, tensor in problem.state().items()
        }

    def restore(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor], modules: Sequence[int]) -> None:
        """Go on from a snapshot, with these modules and problems made from the same arguments."""
        _HEADER(header, "job.objective")
        packed = [int(module) for module in header["packed"]]
        check_modules("objective.packed", packed, len(self.problems))
        if packed and not set(modules) <= set(packed):
            raise ValueError(f"job.alive {list(modules)} must be among job.objective.packed {packed}")
        for module, problem in enumerate(self.problems):
            prefix = f"{module}."
            problem.restore({k.removeprefix(prefix): one for k, one in tensors.items() if k.startswith(prefix)})
        self.restrict(modules)
        if packed:
            self._pack(packed)
