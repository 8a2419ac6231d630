"""Objective of h-nodes that are trained against critics, separately or stepped as a stack.

Problem and steps of a single h-node are in :mod:`mdcm.training.objectives.critic_problem`, steps of several h-nodes at
once in :mod:`mdcm.training.objectives.critic_stack`.

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
    """Minimise distances of generated to real rows that critics estimate; validations compare distributions.

    Args:
        problems: The h-nodes, of equal configuration, none an ancestor of another.
        stacked: Whether all are stepped as a stack, which must be possible
            (:class:`~mdcm.training.objectives.critic_load.CriticLoad`); otherwise they are stepped in turn.

    Raises:
        MdcmError: From :meth:`step`, if a loss or gradient is not finite.
    """

    validated = True
    # a training always takes all of its steps, and a second training would take as long
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
        """Train these modules; problems start with their initial weights."""
        self.modules = tuple(modules)

    def restrict(self, modules: Sequence[int]) -> None:
        """Train only these modules from now on; put the best weights of the others into the model."""
        for module in set(self.modules) - set(modules):
            if self.stack is not None:
                self.stack.release(self.packed.index(module))
            self.problems[module].finish()
        self.modules = tuple(modules)

    # ---- steps

    def step(self, done: int, most: int) -> int:
        """Take a step of every module, or several at once if they are a captured graph; return their number."""
        if not self.stacked:
            self._losses = {module: self.problems[module].step(done + 1) for module in self.modules}
            return 1
        stack = self._packed()
        count = min(stack.together, most)
        self._losses = dict(zip(self.packed, stack.step(done + 1, count), strict=True))
        return count

    def _packed(self) -> Stack:
        """Stack of the modules in training, made anew once more than half of it is idle."""
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
        """Losses of critics and generators, all finite."""
        losses = [self._losses[module] for module in self.modules]
        return [{"critic": loss.critic.tolist(), "loss": float(loss.generator.sum())} for loss in losses]

    # ---- held-out rows

    def validate(self) -> list[Distances]:
        """Compare rows of the averaged weights with held-out rows."""
        checks = []
        for module in self.modules:
            if self.stack is not None:
                self.stack.unpack_average(self.packed.index(module))
            checks.append(self.problems[module].check())
        return checks

    def validation(self, module: int, tensor: Tensor) -> Distances:
        """Restore the validation of a module from its distances."""
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
        """Context in which the model has the best weights."""
        with ExitStack() as stack:
            for module in self.modules:
                stack.enter_context(self.problems[module].holding(self.problems[module].kept))
            yield

    def conclude(self) -> dict[int, float]:
        """Leave the best weights as they are."""
        return {}

    def finish(self) -> None:
        """Put the best weights into the model, in evaluation mode."""
        for problem in self.problems:
            problem.finish()

    def summary(self, module: int) -> dict[str, Any]:
        """Distances of the best weights from held-out rows, idle confounders, and gaps of representations."""
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
        """State of the objective; copies."""
        if self.stack is not None:
            self.stack.unpack()
        # rounding depends on which modules are packed
        return {"packed": self.packed}, {
            f"{module}.{name}": tensor
            for module, problem in enumerate(self.problems)
            for name, tensor in problem.state().items()
        }

    def restore(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor], modules: Sequence[int]) -> None:
        """Restore a snapshot, with these modules in training and problems made from the same arguments."""
        _HEADER(header, "job.objective")
        packed = [int(module) for module in header["packed"]]
        check_modules("objective.packed", packed, len(self.problems))
        if packed and not set(modules) <= set(packed):
            raise ValueError(f"job.alive {list(modules)} must be among job.objective.packed {packed}")
        for module, problem in enumerate(self.problems):
            prefix = f"{module}."
            problem.restore({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
        self.restrict(modules)
        if packed:
            self._pack(packed)
