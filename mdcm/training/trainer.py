"""Training of h-nodes side by side: when to validate, when to stop, which weights to keep.

What is minimised, and how a step is taken, is an :class:`Objective`. All that a training knows between two steps is in
its :class:`Trainer` and the objective, which can be written down and read back: a training that was killed goes on
with the bits it would have had.
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
from mdcm.training.config import TrainConfig

__all__ = ["Objective", "Progress", "Run", "Snapshot", "Trainer", "Validation"]

# plain JSON values and tensors
Snapshot = tuple[dict[str, Any], dict[str, Tensor]]

_INDICES = listed(whole())
# what Trainer.snapshot gives
_HEADER = record(
    {
        "final": flag, "step": whole(), "alive": _INDICES, "since": _INDICES, "kept_step": _INDICES,
        "kept_loss": listed(optional(number())), "targets": _INDICES, "seconds": number(0), "objective": mapping(),
    }
)  # fmt: skip


class Progress(Protocol):
    """Receiver of the progress of a training."""

    def start(self, hnode: tuple[str, ...], steps: int) -> None:
        """An h-node, or several trained as one, begins; it takes at most this many steps."""

    def step(self, hnode: tuple[str, ...], step: int) -> None:
        """So many steps are done."""

    def finish(self, hnode: tuple[str, ...]) -> None:
        """The h-node is trained."""


@dataclass
class Run:
    """What training one job has in common with training the next.

    Attributes:
        config: Settings.
        progress: Receives progress, or None.
        log: Receives records.
        deadline: End of the training on the monotonic clock, or None.
        between: Called between two steps with a function that takes a snapshot; may raise KeyboardInterrupt.
        on_validation: Called after every validation, while the model has the best weights so far.
    """

    config: TrainConfig
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
    """How weights do on held-out rows."""

    @property
    def mean(self) -> float:
        """Loss or distance; less is better."""

    @property
    def tensor(self) -> Tensor:
        """What :meth:`Objective.validation` makes the same validation from."""

    def worse_than(self, other: Any) -> bool:
        """Whether this is worse than another validation by more than chance explains."""

    def record(self) -> dict[str, Any]:
        """Entries of a training record."""


class Objective(Protocol):
    """What is minimised for several modules, which are h-nodes numbered from 0, and the weights that came of it.

    Attributes:
        steps: Steps at most.
        checks: Validations during all steps.
        patience: Validations in a row, all worse than the best, after which a module is finished.
        validated: Whether there are held-out rows. Without them every module takes all steps.
        refits: Whether modules are trained again on all rows, for as many steps as the held-out rows preferred.
        grown: Modules that need more states of their confounders, and must be trained anew.
    """

    steps: int
    checks: int
    patience: int
    validated: bool
    refits: bool
    grown: Sequence[int]

    @property
    def finished(self) -> Collection[int]:
        """Modules that need no training on all rows, those that have grown among them."""

    def start(self, modules: Sequence[int], *, everything: bool) -> None:
        """Train these modules from their initial weights, on all rows or on those that are not held out."""

    def restrict(self, modules: Sequence[int]) -> None:
        """Train only these modules from now on."""

    def step(self, done: int, most: int) -> int:
        """Take steps after those that are done, at least one and at most so many; how many it took."""

    def measures(self, step: int) -> list[dict[str, Any]]:
        """Entries of the record of every trained module, about the last step; raises MdcmError if not finite."""

    def validate(self) -> Sequence[Validation]:
        """How the averaged weights of every trained module do on held-out rows."""

    def validation(self, module: int, tensor: Tensor) -> Validation:
        """The validation of a module that :attr:`Validation.tensor` is from."""

    def keep(self, module: int) -> None:
        """Remember the averaged weights of a module as the best so far."""

    def showing_kept(self) -> AbstractContextManager[None]:
        """Put the best weights into the model for a while."""

    def conclude(self) -> Mapping[int, float]:
        """Decide what becomes of the best weights; held-out losses of the modules for which that has changed them."""

    def finish(self) -> None:
        """Put the best weights into the model."""

    def summary(self, module: int) -> dict[str, Any]:
        """Entries of the last record of a module."""

    def snapshot(self) -> Snapshot:
        """All that is needed to go on."""

    def restore(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor], modules: Sequence[int]) -> None:
        """Go on from a snapshot, with these modules; :meth:`start` was called for all of them before."""


class Trainer:
    """Trains modules: on most rows to learn when to stop, then on all rows for as long.

    Where there are held-out rows, the weights kept are those of the latest validation that is not worse than the best
    one (:meth:`Validation.worse_than`): a difference within the error is no reason to stop early.

    Args:
        objective: What is minimised.
        hnodes: Variables of every module.
        run: What it has in common with other trainings.
        tags: Entries that every record of a module has besides.
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
        """Modules that need more states of their confounders, and must be trained anew."""
        return self.objective.grown

    def _enter(self) -> None:
        """Begin a phase at its first step."""
        count, objective = len(self.hnodes), self.objective
        self.alive = [module for module in range(count) if not (self.final and module in objective.finished)]
        self.step = 0
        self.since = [0] * count
        self.best: list[Validation | None] = [None] * count
        # how far every module goes
        refit = self.final and objective.validated
        self.targets = list(self.kept_step) if refit else [objective.steps] * count
        objective.start(self.alive, everything=self.final)

    @property
    def _name(self) -> tuple[str, ...]:
        return tuple(name for hnode in self.hnodes for name in hnode)

    def train(self) -> None:
        """Run to the end, put the weights into the mechanisms, and log what came of it."""
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
                    # one that needs more states is trained again
                    "event": "grown" if module in self.grown else "trained",
                    "hnode": list(hnode),
                    "steps": self.kept_step[module],
                    "heldout": self.kept_loss[module],
                    # of h-nodes that were trained as one, each has its share
                    "seconds": round(self.seconds / len(self.hnodes), 3),
                    **objective.summary(module),
                    **self.tags[module],
                }
            )

    def _optimise(self, done: int) -> None:
        """Take the steps of one phase, after so many of the phase before."""
        objective = self.objective
        every = max(1, objective.steps // objective.checks)
        while self.alive:
            began = time.perf_counter()
            ends = [self.targets[module] for module in self.alive if self.targets[module] > self.step]
            most = min([every - self.step % every, *(end - self.step for end in ends)])
            self.step += objective.step(self.step, most)
            self._follow(every, done)
            self.seconds += time.perf_counter() - began
            if self.run.between is not None and self.alive:
                self.run.between(self.snapshot)

    def _follow(self, every: int, done: int) -> None:
        """After a step: report progress, validate, keep the best weights, and let go of what is finished."""
        step, run, objective = self.step, self.run, self.objective
        if run.progress is not None and (step % 10 == 0 or step == objective.steps):
            run.progress.step(self._name, done + step)
        late = run.late
        due = step % every == 0
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
                self._judge(module, validation)
                ends[index] = ends[index] or self.since[module] >= objective.patience
            # out of time: weights that have seen most of the rows for long enough beat a beginning on all of them
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

    def _judge(self, module: int, validation: Validation) -> None:
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
        """All that is needed to go on, as plain JSON values and tensors."""
        own, tensors = self.objective.snapshot()
        header = {
            "final": self.final,
            "step": self.step,
            "alive": self.alive,
            "since": self.since,
            "kept_step": self.kept_step,
            "kept_loss": self.kept_loss,
            "targets": self.targets,
            "seconds": self.seconds,
            "objective": own,
        }
        # those that are finished are not validated again
        best = {module: validation for module in self.alive if (validation := self.best[module]) is not None}
        return header, {
            **{f"objective.{name}": tensor for name, tensor in tensors.items()},
            **{f"best.{module}": validation.tensor for module, validation in best.items()},
        }

    def _check(self, header: Mapping[str, Any]) -> None:
        """Refuse a state that training cannot have come to."""
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
        """Go on from where :meth:`snapshot` was taken.

        Raises:
            KeyError: If something is missing.
            ValueError: If a number is of another kind or range.
            RuntimeError: If a tensor has another shape.
        """
        _HEADER(header, "job")
        self._check(header)
        self.final = bool(header["final"])
        # with all modules, of which those that are still trained are then kept
        self._enter()
        self.alive = [int(module) for module in header["alive"]]
        prefix = "objective."
        own = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
        self.objective.restore(header["objective"], own, self.alive)
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
    """Refuse numbers in a snapshot that do not name some of the modules, each once."""
    if len(set(modules)) < len(modules) or any(module not in range(count) for module in modules):
        raise ValueError(f"job.{name} must name some of {count:,} h-nodes, each once, not {quoted(list(modules))}")
