"""Training of h-nodes side by side: validation, early stopping and the choice of weights.

An :class:`Objective` defines the loss and takes the steps. The state of a training is in its :class:`Trainer` and the
objective, and can be saved between any two steps: a training that was killed and resumed gives the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from mdcm.text.documents import flag, listed, mapping, number, optional, record, whole
from mdcm.text.printable import quoted

__all__ = ["Objective", "Progress", "Run", "Snapshot", "Trainer", "Validation"]

# plain JSON values and tensors
Snapshot = tuple[dict[str, Any], dict[str, Tensor]]

_INDICES = listed(whole())
# header of Trainer.snapshot
_HEADER = record(
    {
        "final": flag, "step": whole(), "alive": _INDICES, "since": _INDICES, "kept_step": _INDICES,
        "kept_loss": listed(optional(number())), "targets": _INDICES, "seconds": number(0), "objective": mapping(),
    }
)  # fmt: skip


class Progress(Protocol):
    """Receiver of the progress of a training."""

    def start(self, hnode: tuple[str, ...], steps: int) -> None:
        """An h-node, or several trained together, start; they take at most this many steps."""

    def step(self, hnode: tuple[str, ...], step: int) -> None:
        """This many steps are done."""

    def finish(self, hnode: tuple[str, ...]) -> None:
        """The h-node is trained."""


@dataclass
class Run:
    """Receivers and deadline that all jobs of a training share.

    Attributes:
        progress: Receives progress, or None.
        log: Receives records.
        deadline: End of the training on the monotonic clock, or None.
        between: Called between two steps with a function that takes a snapshot; may raise KeyboardInterrupt.
        on_validation: Called after every validation, while the model has the best weights so far.
    """

    progress: Progress | None
    log: Callable[[dict[str, Any]], None]
    deadline: float | None
    between: Callable[[Callable[[], Snapshot]], None] | None = None
    on_validation: Callable[[], None] | None = None

    @property
    def late(self) -> bool:
        """Whether the time for training is over."""
        return self.deadline is not None and time.monotonic() > self.deadline


class Validation(Protocol):
    """Result of a validation on held-out rows."""

    @property
    def mean(self) -> float:
        """Mean loss or distance; smaller is better."""

    @property
    def tensor(self) -> Tensor:
        """Losses or distances, from which :meth:`Objective.validation` restores the result."""

    def worse_than(self, other: Any) -> bool:
        """Whether this result is worse than another one by more than chance explains."""

    def record(self) -> dict[str, Any]:
        """Entries of a training record."""


class Objective(Protocol):
    """Loss of several modules, which are h-nodes numbered from 0, with their weights and optimiser.

    Attributes:
        steps: Largest number of steps.
        checks: Number of validations in all steps.
        patience: Validations in a row, all worse than the best, after which a module is finished.
        validated: Whether there are held-out rows. Without them every module takes all steps.
        refits: Whether modules are trained again on all rows, for the number of steps that held-out rows favoured.
        grown: Modules that need more states of their confounders, and must be trained again with these.
    """

    steps: int
    checks: int
    patience: int
    validated: bool
    refits: bool
    grown: Sequence[int]

    @property
    def finished(self) -> Collection[int]:
        """Modules that need no training on all rows, including those that have grown."""

    def start(self, modules: Sequence[int], *, everything: bool) -> None:
        """Train these modules from their initial weights, on all rows or on those that are not held out."""

    def restrict(self, modules: Sequence[int]) -> None:
        """Train only these modules from now on."""

    def step(self, done: int, most: int) -> int:
        """Take at least one and at most this many steps after those that are done; return how many."""

    def measures(self, step: int) -> list[dict[str, Any]]:
        """Entries of every trained module's record about the last step; raises MdcmError if they are not finite."""

    def validate(self) -> Sequence[Validation]:
        """Validate the averaged weights of every trained module."""

    def validation(self, module: int, tensor: Tensor) -> Validation:
        """Restore the validation of a module from :attr:`Validation.tensor`."""

    def keep(self, module: int) -> None:
        """Remember the averaged weights of a module as the best so far."""

    def showing_kept(self) -> AbstractContextManager[None]:
        """Context in which the model has the best weights."""

    def conclude(self) -> Mapping[int, float]:
        """Post-process the best weights on held-out rows; return the held-out losses that this has changed."""

    def finish(self) -> None:
        """Put the best weights into the model."""

    def summary(self, module: int) -> dict[str, Any]:
        """Entries of a module's last record."""

    def snapshot(self) -> Snapshot:
        """State of the objective."""

    def restore(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor], modules: Sequence[int]) -> None:
        """Restore a snapshot, with these modules in training; :meth:`start` was called for all modules before."""


class Trainer:
    """Train modules without the held-out rows to find the number of steps, then on all rows for that number.

    The kept weights are those of the latest validation that is not worse than the best one
    (:meth:`Validation.worse_than`): a difference within the standard error does not stop training early.

    Args:
        objective: The objective.
        hnodes: Variables of every module.
        run: Receivers and deadline.
        tags: Additional entries of every record of a module.
    """

    def __init__(
        self,
        objective: Objective,
        hnodes: Sequence[tuple[str, ...]],
        run: Run,
        tags: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.objective, self.run = objective, run
        self.hnodes = tuple(hnodes)
        self.tags = tuple(tags) or ({},) * len(hnodes)
        count = len(hnodes)
        self.kept_step = [objective.steps] * count
        self.kept_loss: list[float | None] = [None] * count
        self.final = not objective.validated
        self.seconds = 0.0
        self._enter()

    @property
    def grown(self) -> Sequence[int]:
        """Modules that need more states of their confounders, and must be trained again with these."""
        return self.objective.grown

    def _enter(self) -> None:
        """Start a phase at its first step."""
        count, objective = len(self.hnodes), self.objective
        self.alive = [module for module in range(count) if not (self.final and module in objective.finished)]
        self.step = 0
        # validations since the last one that was kept
        self.since = [0] * count
        self.best: list[Validation | None] = [None] * count
        # last step of every module
        refit = self.final and objective.validated
        self.targets = list(self.kept_step) if refit else [objective.steps] * count
        objective.start(self.alive, everything=self.final)

    @property
    def _name(self) -> tuple[str, ...]:
        return tuple(name for hnode in self.hnodes for name in hnode)

    def train(self) -> None:
        """Train to the end, put the weights into the mechanisms, and log a record of every module."""
        progress, objective = self.run.progress, self.objective
        if progress is not None:
            progress.start(self._name, objective.steps * (1 + objective.refits))
        if not self.final:
            self._optimise(0)
            if not self.run.late:
                began = time.perf_counter()
                for module, loss in objective.conclude().items():
                    self.kept_loss[module] = loss
                self.seconds += time.perf_counter() - began
            if objective.refits and not self.run.late and len(objective.finished) < len(self.hnodes):
                self.final = True
                self._enter()
        if self.final:
            self._optimise(objective.steps * objective.refits)
        objective.finish()
        if progress is not None:
            progress.finish(self._name)
        for module, hnode in enumerate(self.hnodes):
            self.run.log(
                {
                    # a module that needs more states is trained again
                    "event": "grown" if module in self.grown else "trained",
                    "hnode": list(hnode),
                    "steps": self.kept_step[module],
                    "heldout": self.kept_loss[module],
                    # shared equally among h-nodes that were trained together
                    "seconds": round(self.seconds / len(self.hnodes), 3),
                    **objective.summary(module),
                    **self.tags[module],
                }
            )

    def _optimise(self, previous: int) -> None:
        """Take the steps of one phase; progress counts those of the previous phase too."""
        objective = self.objective
        interval = max(1, objective.steps // objective.checks)
        while self.alive:
            began = time.perf_counter()
            ends = [self.targets[module] for module in self.alive if self.targets[module] > self.step]
            most = min([interval - self.step % interval, *(end - self.step for end in ends)])
            self.step += objective.step(self.step, most)
            self._after_step(interval, previous)
            self.seconds += time.perf_counter() - began
            if self.run.between is not None and self.alive:
                self.run.between(self.snapshot)

    def _after_step(self, interval: int, previous: int) -> None:
        """Report progress, validate, keep the best weights, and drop finished modules."""
        step, run, objective = self.step, self.run, self.objective
        if run.progress is not None and (step % 10 == 0 or step == objective.steps):
            run.progress.step(self._name, previous + step)
        late = run.late
        due = step % interval == 0
        ends = [late or step == self.targets[module] for module in self.alive]
        if not (due or any(ends)):
            return
        measures = objective.measures(step)
        results: Sequence[Validation | None] = [None] * len(self.alive)
        if not self.final and (due or step == objective.steps or late):
            results = objective.validate()
        for index, (module, measured, validation) in enumerate(zip(self.alive, measures, results, strict=True)):
            entries = {"event": "check", "hnode": list(self.hnodes[module]), "step": step, **measured}
            if validation is not None:
                entries |= validation.record()
                self._compare(module, validation)
                ends[index] = ends[index] or self.since[module] >= objective.patience
            # out of time: fully trained weights without the held-out rows beat an unfinished training on all rows
            if self.final and ends[index] and (step == self.targets[module] or not objective.validated):
                self._keep(module)
            if due or ends[index]:
                run.log({**entries, **self.tags[module]})
        if run.on_validation is not None and any(validation is not None for validation in results):
            with objective.showing_kept():
                run.on_validation()
        if any(ends):
            self.alive = [module for module, end in zip(self.alive, ends, strict=True) if not end]
            if self.alive:
                objective.restrict(self.alive)

    def _compare(self, module: int, validation: Validation) -> None:
        best = self.best[module]
        if best is None or not validation.worse_than(best):
            self._keep(module)
            self.kept_loss[module] = validation.mean
            self.since[module] = 0
        else:
            self.since[module] += 1
        if best is None or validation.mean < best.mean:
            self.best[module] = validation

    def _keep(self, module: int) -> None:
        self.kept_step[module] = self.step
        self.objective.keep(module)

    def snapshot(self) -> Snapshot:
        """State of the training, as plain JSON values and tensors."""
        objective_header, tensors = self.objective.snapshot()
        header = {
            "final": self.final,
            "step": self.step,
            "alive": self.alive,
            "since": self.since,
            "kept_step": self.kept_step,
            "kept_loss": self.kept_loss,
            "targets": self.targets,
            "seconds": self.seconds,
            "objective": objective_header,
        }
        # finished modules are not validated again
        best = {module: validation for module in self.alive if (validation := self.best[module]) is not None}
        return header, {
            **{f"objective.{name}": tensor for name, tensor in tensors.items()},
            **{f"best.{module}": validation.tensor for module, validation in best.items()},
        }

    def _check(self, header: Mapping[str, Any]) -> None:
        """Raise ValueError if a snapshot's header is not a possible state of this training."""
        count, steps = len(self.hnodes), self.objective.steps
        for name in ("since", "kept_step", "kept_loss", "targets"):
            if len(header[name]) != count:
                raise ValueError(f"job.{name} must have {count:,} entries, not {len(header[name]):,}")
        for name, values in (("step", [header["step"]]), *((name, header[name]) for name in ("kept_step", "targets"))):
            if any(value > steps for value in values):
                raise ValueError(f"job.{name} must be at most {steps:,}, not {quoted(max(values))}")
        check_modules("alive", header["alive"], count)
        if not header["alive"]:
            raise ValueError("job.alive must name an h-node that is trained")

    def restore(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Restore a snapshot.

        Raises:
            KeyError: If an entry is missing.
            ValueError: If a value has the wrong type or range.
            RuntimeError: If a tensor has the wrong shape.
        """
        _HEADER(header, "job")
        self._check(header)
        self.final = bool(header["final"])
        # with all modules; the objective then restricts itself to those that are alive
        self._enter()
        self.alive = [int(module) for module in header["alive"]]
        prefix = "objective."
        state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        self.objective.restore(header["objective"], state, self.alive)
        self.step, self.seconds = int(header["step"]), float(header["seconds"])
        self.since = [int(count) for count in header["since"]]
        self.kept_step = [int(step) for step in header["kept_step"]]
        self.targets = [int(step) for step in header["targets"]]
        self.kept_loss = [None if loss is None else float(loss) for loss in header["kept_loss"]]
        for module in self.alive:
            best = tensors.get(f"best.{module}")
            if best is not None and not self.final:
                if not bool(best.isfinite().all()):
                    raise ValueError(f"job.best.{module} holds numbers that are not finite")
                self.best[module] = self.objective.validation(module, best)


def check_modules(name: str, modules: Sequence[int], count: int) -> None:
    """Raise ValueError if numbers in a snapshot are not distinct module numbers."""
    if len(set(modules)) < len(modules) or any(module not in range(count) for module in modules):
        raise ValueError(f"job.{name} must name some of {count:,} h-nodes, each once, not {quoted(list(modules))}")
