"""Training by plan: h-nodes level by level, each fitted to exactly the distributions that the plan names.

Several models of one plan, such as those of an ensemble, are trained at once: h-nodes of one shape are stacked,
whichever model they belong to.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from mdcm.dcm import DCM, one_thread
from mdcm.errors import CheckpointError, MdcmError
from mdcm.mechanisms.representations import restore_encoders
from mdcm.storage.checkpoints import Checkpoints
from mdcm.storage.disk import Folder
from mdcm.storage.run_directory import CHECKPOINTS, remove_checkpoints
from mdcm.text.advice import warn
from mdcm.text.printable import quoted
from mdcm.training.confounder_growth import growth_of_numbers, has_full_length, more_states_gain
from mdcm.training.devices import CPU
from mdcm.training.ensemble_member import EnsembleMember, TrainingContext
from mdcm.training.fingerprints import training_fingerprint
from mdcm.training.grouping import group
from mdcm.training.jobs import (
    Job,
    JobResult,
    ModelState,
    SharedInputs,
    Task,
    TrainingData,
    check_shared_directory,
    shared_marker,
)
from mdcm.training.objectives.adversarial import AdversarialObjective
from mdcm.training.objectives.critic_load import MOST_CRITIC_WORK
from mdcm.training.objectives.loss import Growth, LossObjective
from mdcm.training.objectives.problems import Problem, SingleProblem
from mdcm.training.stacking import ModuleStack, StackLoad
from mdcm.training.table_fitting import FittedTables, TableFitter
from mdcm.training.trainer import Progress, Run, Snapshot, Trainer

if TYPE_CHECKING:
    from mdcm.engines import Engine
    from mdcm.planning import HNode

__all__ = ["train"]

_Log = Callable[[dict[str, Any]], None]

# from the weights of a job to the stacked weights of a ModuleStack
_Stacking = Callable[[Sequence[Tensor]], Sequence[Tensor]]

_MEMORY_ADVICE = {
    "single": "Use a smaller batch_size, or device='cpu'",
    "stack": "Use batch_modules=False, or device='cpu'",
    "critic": "Use a smaller batch_size of AdversarialConfig, or device='cpu'",
    "critics": "Use batch_modules=False, a smaller batch_size of AdversarialConfig, or device='cpu'",
}


def train(
    context: TrainingContext,
    inputs: Sequence[TrainingData],
    *,
    progress: Progress | None = None,
    log: _Log | None = None,
    out: str | Path | Folder | None = None,
    resume: bool = False,
    engine: Engine | None = None,
    on_validation: Callable[[DCM], None] | None = None,
) -> list[DCM]:
    """Build one model per data input and train every h-node of the plan in each, level by level.

    Args:
        context: Graph, plan and settings, which all models share.
        inputs: Data and seed of each model. Its weights are those it has when it is trained by itself, up to rounding.
        progress: Receives progress.
        log: Receives one record per validation and one per finished h-node; with several models every record names its
            "member", counted from 0.
        out: Run directory for checkpoints; they are left there at the end.
        resume: Whether to continue from the checkpoint in ``out``, if there is one.
        engine: Runs the jobs of a level, which are independent of each other; by default they run one after another in
            this process. Every job then has its own checkpoints, so that all workers must see ``out``.
        on_validation: Called after every validation in this process, with a copy of the first model as it would be if
            training ended then.

    Returns:
        The trained models, on the CPU and in evaluation mode. Training on the CPU that was killed and resumed ends with
        the same bits.

    Raises:
        PlanError: If an h-node needs an objective that its mechanisms do not support.
        CheckpointError: If the checkpoint is damaged or belongs to another training.
        MdcmError: If a loss is not finite; the message names h-node and step.
        KeyboardInterrupt: If the user pressed Ctrl-C; with ``out``, a checkpoint is saved first.
    """
    members = {k: EnsembleMember(context, each.data, each.seed, each.init) for k, each in enumerate(inputs)}
    training = _Training(context, members, len(members), progress, log or (lambda record: None))
    training.on_validation = on_validation
    if engine is not None:
        if out is not None and not resume:
            remove_checkpoints(out)
        with engine.open():
            training.run_on_engine(engine, inputs, out)
    elif out is None:
        training.run(None, None)
    else:
        checkpoints = Checkpoints(out, training.fingerprint, context.config.checkpoint_seconds)
        snapshot = checkpoints.read() if resume else None
        if snapshot is None:
            checkpoints.clear()
        training.source = checkpoints.source
        with checkpoints:
            training.run(checkpoints, snapshot)
    return [member.dcm.eval() for member in members.values()]


class _Training:
    """All jobs of a plan in their order, with their records and checkpoints."""

    def __init__(
        self,
        context: TrainingContext,
        members: Mapping[int, EnsembleMember],
        total: int,
        progress: Progress | None,
        log: _Log,
    ) -> None:
        self.context, self.members, self.total, self.progress, self._receiver = context, members, total, progress, log
        self.plan, self.config = context.plan, context.config
        self.history: list[dict[str, Any]] = []
        self._records: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        self.elapsed = 0.0
        self.halved = False
        self.source: Path | None = None
        self.on_validation: Callable[[DCM], None] | None = None

    def log(self, record: dict[str, Any]) -> None:
        self.history.append(record)
        self._records.setdefault((record["event"], *record["hnode"], record.get("member")), []).append(record)
        self._receiver(record)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the whole training, which its checkpoints carry."""
        fingerprints = []
        for member in self.members.values():
            known = zip(member.fingerprints, member.initial_records, strict=True)
            kept = [fingerprint for fingerprint, record in known if record is not None]
            fingerprints.append(
                training_fingerprint(member.dcm, [*member.fingerprints, *kept], member.seed, self.config.batch_modules)
            )
        return fingerprints[0] if len(fingerprints) == 1 else hashlib.sha256("".join(fingerprints).encode()).hexdigest()

    # ------------------------------------------------------------------ units: an h-node of a member

    def member(self, unit: int) -> EnsembleMember:
        """The model that a unit belongs to."""
        return self.members[unit // len(self.plan.hnodes)]

    def index(self, unit: int) -> int:
        """The index of a unit's h-node in the plan."""
        return unit % len(self.plan.hnodes)

    def hnode(self, unit: int) -> HNode:
        """The h-node of a unit."""
        return self.plan.hnodes[self.index(unit)]

    def tag(self, unit: int) -> dict[str, int]:
        """Entry of a unit's records that distinguishes models of an ensemble."""
        return {} if self.total == 1 else {"member": unit // len(self.plan.hnodes)}

    def records(self, unit: int, event: str) -> list[dict[str, Any]]:
        """Records of one kind about a unit."""
        return self._records.get((event, *self.hnode(unit).variables, self.tag(unit).get("member")), [])

    # ------------------------------------------------------------------ in this process

    def run(self, checkpoints: Checkpoints | None, snapshot: Snapshot | None) -> None:
        """Run all jobs, or those that a snapshot leaves."""
        header: Mapping[str, Any] = {}
        done = 0
        if snapshot is not None:
            header, _ = snapshot
            try:
                done = int(header["done"])
                self.elapsed = float(header["elapsed"])
                for member, encoders in zip(self.members.values(), header["encoders"], strict=True):
                    for name, encoder in encoders.items():
                        restore_encoders(member.dcm.mechanism(name), encoder)
                for record in self._checked(header["history"]):
                    self.log(record)
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise self._mismatch(error) from error
        began = time.monotonic() - self.elapsed
        deadline = self._deadline(began)
        number = 0
        for level in self.plan.levels:
            jobs = self._jobs(self._units(level))
            while jobs:
                grown: list[int] = []
                for job in jobs:
                    number += 1
                    if number <= done:
                        self._check_done(job)
                        grown += self._grow([unit for unit in job.units if self._has_grown(unit)])
                        continue
                    finished = number - 1

                    def between(take: Callable[[], Snapshot], finished: int = finished) -> None:
                        assert checkpoints is not None
                        checkpoints.between(lambda: self._snapshot(take, finished, time.monotonic() - began))

                    callback = None if self.on_validation is None else self._validated
                    run = Run(self.progress, self.log, deadline, between if checkpoints else None, callback)
                    with one_thread():
                        units = self.run_job(job, run, snapshot if number == done + 1 else None)
                        self._complete([unit for unit in job.units if unit not in units])
                        grown += self._grow(units)
                jobs = self._jobs(sorted(grown)) if grown else []
        ended = snapshot is not None and header["job"] is None
        if done != number if ended else done >= max(number, 1):
            rest = "no other" if ended else "one"
            raise self._mismatch(
                f"it says that {done:,} jobs are done and {rest} is under way, and there are {number:,}"
            )
        if snapshot is not None and ended:
            self.load(snapshot)
        if checkpoints is not None:
            checkpoints.end(lambda: self._snapshot(lambda: (None, {}), number, time.monotonic() - began))
        for member in self.members.values():
            member.forget_modules()

    def _validated(self) -> None:
        assert self.on_validation is not None
        self.on_validation(copy.deepcopy(self.members[0].dcm).to(CPU).eval())

    def _mismatch(self, reason: object) -> CheckpointError:
        """Error about an intact checkpoint that does not belong to this training."""
        name = "the checkpoint" if self.source is None else str(self.source)
        return CheckpointError(f"{name} does not fit the model: {reason}", path=None if self.source is None else name)

    def _checked(self, history: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """Records of a checkpoint; ValueError unless all are about h-nodes of this plan."""
        known = {(hnode.variables, tag) for hnode in self.plan.hnodes for tag in self._tags()}
        for record in history:
            if (tuple(record["hnode"]), record.get("member")) not in known:
                raise ValueError(f"its history speaks of {quoted(record['hnode'])}, which is not an h-node of it")
        return history

    def _tags(self) -> list[int | None]:
        return [None] if self.total == 1 else list(range(self.total))

    def _check_done(self, job: Job) -> None:
        """Refuse a checkpoint that counts a job as done but has no record of it."""
        for unit in job.units:
            if not self.records(unit, "trained") and not self._has_grown(unit):
                names = ", ".join(self.hnode(unit).variables)
                raise self._mismatch(f"{{{names}}} counts as done, and no record says that it was trained")

    def run_job(self, job: Job, run: Run, snapshot: Snapshot | None) -> list[int]:
        """Train one job to its end, from a snapshot if there is one.

        If a device runs out of memory, the job restarts once with half as many rows per step.

        Returns:
            The units that need more states and must be trained again.

        Raises:
            MdcmError: If memory does not suffice for that either.
        """
        self.halved = snapshot is not None and bool(snapshot[0].get("halved"))
        # initial weights, for a restart
        before = {}
        if snapshot is None and self.context.device != CPU:
            before = {unit: {k: weight.clone() for k, weight in self._weights_of(unit).items()} for unit in job.units}
        grown = self._attempt(job, run, snapshot)
        if isinstance(grown, str):
            names = ", ".join(f"{{{', '.join(self.hnode(unit).variables)}}}" for unit in job.units)
            if not before or job.kind == "stack":
                raise MdcmError(f"training of {names} does not fit in memory: {grown}. {_MEMORY_ADVICE[job.kind]}")
            for unit, weights in before.items():
                self.member(unit).dcm.load_state_dict(weights, strict=False)
                self.member(unit).forget_modules()
                self.log({"event": "halved", "hnode": list(self.hnode(unit).variables), "why": grown, **self.tag(unit)})
            warn(
                f"training of {names} does not fit in memory ({grown}); it begins anew with half as many rows per step"
            )
            self.halved = True
            torch.cuda.empty_cache()
            grown = self._attempt(job, run, None)
            if isinstance(grown, str):
                raise MdcmError(
                    f"training of {names} does not fit in memory, not with half as many rows per step either: {grown}. "
                    f"{_MEMORY_ADVICE[job.kind]}"
                )
        return grown

    def _attempt(self, job: Job, run: Run, snapshot: Snapshot | None) -> list[int] | str:
        """Train one job; the units that must grow, or the message of an out-of-memory error."""
        try:
            trainer = self._trainer(job, run) if snapshot is None else self._restored(job, run, *snapshot)
            trainer.train()
            return [job.units[module] for module in trainer.grown]
        except torch.OutOfMemoryError as error:
            return ". ".join(str(error).split(". ")[:3]).rstrip(".") or "out of memory"
        finally:
            # once per member, because each call goes through the whole model
            for member in {id(self.member(unit)): self.member(unit) for unit in job.units}.values():
                member.dcm.to(CPU)

    # ------------------------------------------------------------------ on an engine

    def run_on_engine(self, engine: Engine, inputs: Sequence[TrainingData], out: str | Path | Folder | None) -> None:
        """Run all jobs on an engine, those of a level side by side."""
        deadline = self._deadline(time.monotonic())
        shared = SharedInputs(self.context, {k: replace(each, init=None) for k, each in enumerate(inputs)}, self.total)
        fingerprint = None if out is None else self.fingerprint
        with nullcontext() if out is None else shared_marker(Folder.of(out)) as marker:
            self._run_levels(engine, shared, deadline, out, fingerprint, marker)

    def _run_levels(
        self,
        engine: Engine,
        shared: SharedInputs,
        deadline: float | None,
        out: str | Path | Folder | None,
        fingerprint: str | None,
        marker: str | None,
    ) -> None:
        number = 0
        for level in self.plan.levels:
            jobs = self._jobs(self._units(level))
            while jobs:
                tasks = []
                for job in jobs:
                    number += 1
                    files = None if out is None else Folder.of(out) / CHECKPOINTS / f"job-{number:05}"
                    left = None if deadline is None else deadline - time.monotonic()
                    tasks.append(Task(job, self._states(job), files, f"{fingerprint}/{number}", left, marker))
                names = [tuple(name for unit in job.units for name in self.hnode(unit).variables) for job in jobs]
                if self.progress is not None:
                    for name in names:
                        self.progress.start(name, 1)
                results: dict[int, JobResult] = {}
                gpu = self.context.device.type == "cuda"
                for index, result in engine.map(_run_task, shared, tasks, gpu=gpu):
                    results[index] = result
                    if self.progress is not None:
                        self.progress.step(names[index], 1)
                        self.progress.finish(names[index])
                # in the order in which they would have run here
                grown: list[int] = []
                for index, job in enumerate(jobs):
                    grown += self._absorb(job, results[index])
                jobs = self._jobs(sorted(grown)) if grown else []
        for member in self.members.values():
            member.forget_modules()

    def _absorb(self, job: Job, result: JobResult) -> list[int]:
        """Take over the result of a job; the units that must be trained again."""
        for k, state in result.states.items():
            dcm = self.members[k].dcm
            for name, encoders in state.encoders.items():
                restore_encoders(dcm.mechanism(name), encoders)
            for unit in job.units:
                if self.members[k] is self.member(unit):
                    dcm.load_state_dict({key: state.weights[key] for key in self._weights_of(unit)}, strict=False)
        for record in result.records:
            self.log(record)
        grown = list(result.grown)
        self._complete([unit for unit in job.units if unit not in grown])
        return self._grow(grown)

    def _weights_of(self, unit: int) -> dict[str, Tensor]:
        """Weights that training a unit changes, by name in the model."""
        return self.member(unit).dcm.part(self.hnode(unit).variables)

    def _states(self, job: Job) -> dict[int, ModelState]:
        """Learned state of every model of a job."""
        states = {}
        for k in sorted({unit // len(self.plan.hnodes) for unit in job.units}):
            member = self.members[k]
            states[k] = ModelState(
                dict(member.dcm.states),
                dict(member.dcm.state_dict()),
                _encoders(member.dcm),
                list(member.growths),
                list(member.loss_before_growth),
            )
        return states

    def _units(self, level: Sequence[int]) -> list[int]:
        return [k * len(self.plan.hnodes) + index for k in self.members for index in level]

    def _deadline(self, began: float) -> float | None:
        limit = self.config.max_minutes
        return None if limit is None else began + 60 * limit

    def _complete(self, units: Sequence[int]) -> None:
        for unit in units:
            self._check_finite(unit)
            self.member(unit).complete(self.index(unit), self.records(unit, "trained")[-1])

    def _check_finite(self, unit: int) -> None:
        """Raise MdcmError if a weight is not finite; validations during training see averaged weights only."""
        for key, weight in self._weights_of(unit).items():
            if weight.is_floating_point() and not bool(weight.isfinite().all()):
                hnode = self.hnode(unit)
                raise MdcmError(
                    f"training of h-node {{{', '.join(hnode.variables)}}} ({' and '.join(map(str, hnode.fits))}) ended "
                    f"with weights that are not finite ({key}); try a smaller learning_rate, or look at its data for "
                    "values far from all others"
                )

    def load(self, snapshot: Snapshot) -> None:
        """Take over the weights of a snapshot.

        Raises:
            CheckpointError: If they do not fit the models.
        """
        try:
            for member, encoders in zip(self.members.values(), snapshot[0]["encoders"], strict=True):
                for name, encoder in encoders.items():
                    restore_encoders(member.dcm.mechanism(name), encoder)
            for k, member in self.members.items():
                member.dcm.load_state_dict(_with_prefix(f"model.{k}.", snapshot[1]))
        except CheckpointError:
            raise
        except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise self._mismatch(error) from error

    def _restored(self, job: Job, run: Run, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Trainer:
        """Trainer of the unfinished job of a snapshot, restored to the same step."""
        self.load((dict(header), dict(tensors)))
        try:
            trainer = self._trainer(job, run)
            trainer.restore(header["job"], _with_prefix("job.", tensors))
        except CheckpointError:
            raise
        except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise self._mismatch(error) from error
        return trainer

    def _weights(self) -> dict[str, Tensor]:
        return {
            f"model.{k}.{name}": weight
            for k, member in self.members.items()
            for name, weight in member.dcm.state_dict().items()
        }

    def _snapshot(
        self, take: Callable[[], tuple[dict[str, Any] | None, dict[str, Tensor]]], done: int, elapsed: float
    ) -> Snapshot:
        """Snapshot of the training; ``take`` gives that of the unfinished job, with header None if there is none."""
        header, tensors = take()
        encoders = [_encoders(member.dcm) for member in self.members.values()]
        content = {
            "done": done, "elapsed": elapsed, "history": self.history, "job": header, "encoders": encoders,
            "halved": self.halved,
        }  # fmt: skip
        return content, {
            **{name: weight.cpu() for name, weight in self._weights().items()},
            **{f"job.{name}": tensor.cpu() for name, tensor in tensors.items()},
        }

    # ------------------------------------------------------------------ jobs and trainers

    def _jobs(self, units: Sequence[int]) -> list[Job]:
        """Group units into jobs; a function of plan, data and settings alone."""
        for member in self.members.values():
            member.forget_modules()
        jobs: list[Job] = []
        stackable: dict[bool, list[int]] = {}
        adversarial: dict[int, list[int]] = {}
        for unit in units:
            member, index, hnode = self.member(unit), self.index(unit), self.hnode(unit)
            if not hnode.fits or self._keep(unit):
                continue
            if member.is_adversarial(hnode):
                # separately for every model, because their records do not name the member
                adversarial.setdefault(unit // len(self.plan.hnodes), []).append(unit)
            elif (
                self.config.batch_modules
                and member.can_stack(hnode)
                and ModuleStack.accepts(member.module(index), self.config)
            ):
                stackable.setdefault(member.held_out(index) is None, []).append(unit)
            else:
                jobs.append(Job("single", (unit,)))
        for chosen in adversarial.values():
            loads = [self.member(unit).critic_load(self.index(unit)) for unit in chosen]
            for indices in group(loads, MOST_CRITIC_WORK):
                kind: Literal["critics", "critic"] = "critic" if loads[indices[0]] is None else "critics"
                jobs.append(Job(kind, tuple(sorted(chosen[index] for index in indices))))
        for chosen in stackable.values():
            modules = [self.member(unit).module(self.index(unit)) for unit in chosen]
            for indices in group([StackLoad(module, module.sizes) for module in modules]):
                jobs.append(Job("stack", tuple(sorted(chosen[index] for index in indices))))
        return sorted(jobs, key=lambda job: job.units[0])

    def _keep(self, unit: int) -> bool:
        """Take over the weights of ``init`` for a unit of the same fingerprint; whether that was possible."""
        member, index = self.member(unit), self.index(unit)
        record = member.initial_records[index]
        if record is None or not member.keep(index):
            return False
        logged = [record.get("fingerprint") for record in self.records(unit, "trained")]
        if member.fingerprints[index] not in logged:
            self.log({**record, "hnode": list(self.hnode(unit).variables), "kept": True, **self.tag(unit)})
        return True

    def _trainer(self, job: Job, run: Run) -> Trainer:
        hnodes, tags = [self.hnode(unit).variables for unit in job.units], [self.tag(unit) for unit in job.units]
        if job.kind in {"critic", "critics"}:
            (member,) = {id(self.member(unit)): self.member(unit) for unit in job.units}.values()
            # the whole model, because mechanisms of ancestors generate too
            member.dcm.to(self.context.device)
            problems = [member.adversarial_problem(self.index(unit), halved=self.halved) for unit in job.units]
            return Trainer(AdversarialObjective(problems, stacked=job.kind == "critics"), hnodes, run, tags)
        units = [(self.member(unit), self.index(unit)) for unit in job.units]
        held_out = [member.held_out(index) for member, index in units]
        names = [
            f"{{{', '.join(hnode.variables)}}} ({' and '.join(map(str, hnode.fits))})"
            for hnode in map(self.hnode, job.units)
        ]
        problem: Problem
        if job.kind == "stack":
            problem = ModuleStack([member.module(index) for member, index in units], self.config, self.context.device)
            growth = self._growth_of_tables(job, held_out, _unchanged)
            fitter = self._table_fitter(job, held_out, _unchanged)
        else:
            problem = single = units[0][0].problem(units[0][1], halved=self.halved)
            growth = self._growth_of_single(job, held_out, single)
            fitter = self._table_fitter(job, held_out, partial(self._stacked, job.units[0], single))
        return Trainer(LossObjective(problem, names, held_out, self.config, growth, fitter), hnodes, run, tags)

    # ------------------------------------------------------------------ tables and growth

    def _growth_of_single(self, job: Job, held_out: Sequence[Tensor | None], problem: SingleProblem) -> Growth | None:
        """Test whether an h-node that is trained by itself needs more states; None if there is nothing to test."""
        (unit,) = job.units
        member, (mask,) = self.member(unit), held_out
        if member.can_stack(self.hnode(unit)):
            return self._growth_of_tables(job, held_out, partial(self._stacked, unit, problem))
        if mask is None or not has_full_length(self.config):
            return None
        return growth_of_numbers(self.plan, member, self.index(unit), mask, problem)

    def _growth_of_tables(self, job: Job, held_out: Sequence[Tensor | None], stacked: _Stacking) -> Growth | None:
        """Test which h-nodes of tables need more states; None if there is nothing to test."""
        config = self.config
        masks = [mask for mask in held_out if mask is not None]
        if config.confounder_states is not None or not has_full_length(config) or len(masks) < len(job.units):
            return None
        units = [(self.member(unit), self.index(unit)) for unit in job.units]
        if not all(member.can_grow(index) for member, index in units):
            return None
        modules = [member.module(index) for member, index in units]
        candidates = [number for number, (member, index) in enumerate(units) if member.may_gain(index)]
        seeds = [member.derived("states", self.plan.hnodes[index]) for member, index in units]
        device = self.context.device

        def growth(
            weights: Sequence[Tensor], fitted: Sequence[FittedTables | None]
        ) -> tuple[list[int], dict[int, Any]]:
            return more_states_gain(modules, stacked(weights), masks, candidates, config, seeds, device, fitted), {}

        return growth if candidates else None

    def _table_fitter(self, job: Job, held_out: Sequence[Tensor | None], stacked: _Stacking) -> TableFitter | None:
        """The fitter that turns the networks of a job into tables; None if they stay networks."""
        masks = [mask for mask in held_out if mask is not None]
        units = [(self.member(unit), self.index(unit)) for unit in job.units]
        if not has_full_length(self.config) or len(masks) < len(units):
            return None
        if not all(member.can_stack(self.plan.hnodes[index]) for member, index in units):
            return None
        modules = [member.module(index) for member, index in units]
        seeds = [member.derived("starts", self.plan.hnodes[index]) for member, index in units]
        if not any(module.has_tables for module in modules):
            return None
        return TableFitter(modules, masks, seeds, stacked, self.context.device)

    def _stacked(self, unit: int, problem: SingleProblem, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """Weights of an h-node that is trained by itself, as the weights of a :class:`ModuleStack`."""
        self.member(unit).dcm.to(CPU)
        stack = ModuleStack([self.member(unit).module(self.index(unit))], self.config, self.context.device)
        # after the stack has prepared the mechanisms, which changes their weights
        problem.store(weights)
        stack.restart()
        problem.move(self.context.device)
        return stack.weights

    def _has_grown(self, unit: int) -> bool:
        """Whether the history has a growth of a unit that its model does not have yet."""
        return len(self.records(unit, "grown")) > self.member(unit).growths[self.index(unit)]

    def _grow(self, units: Sequence[int]) -> list[int]:
        for unit in units:
            member, index = self.member(unit), self.index(unit)
            member.grow(index, self.records(unit, "grown")[member.growths[index]].get("heldout"))
        return list(units)


def _unchanged(weights: Sequence[Tensor]) -> Sequence[Tensor]:
    return weights


def _encoders(dcm: DCM) -> dict[str, Any]:
    """Encoders of all mechanisms that have any."""
    return {name: mechanism.encoders for name, mechanism in dcm.mechanisms.items() if mechanism.encoders}


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names have a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


# ---------------------------------------------------------------------- workers


def _run_task(shared: SharedInputs, task: Task) -> JobResult:
    """Run one job in a worker, from its last checkpoint if there is one."""
    if task.files is not None and task.marker is not None:
        check_shared_directory(task.files, task.marker)
    context = shared.context
    if context.device.type == "cuda":
        # a worker sees only the card that it was given
        context = replace(context, device=torch.device("cuda", 0))
    members = {}
    for k, state in task.states.items():
        data = shared.data[k]
        members[k] = member = EnsembleMember(context, data.data, data.seed, states=state.states)
        for name, encoders in state.encoders.items():
            restore_encoders(member.dcm.mechanism(name), encoders)
        member.dcm.load_state_dict(state.weights)
        member.growths, member.loss_before_growth = list(state.growths), list(state.loss_before_growth)
    records: list[dict[str, Any]] = []
    training = _Training(context, members, shared.total, None, records.append)
    checkpoints = snapshot = None
    if task.files is not None:
        checkpoints = Checkpoints(task.files, task.fingerprint, context.config.checkpoint_seconds)
        snapshot = checkpoints.read()
        training.source = checkpoints.source
    if snapshot is not None:
        for record in snapshot[0]["history"]:
            training.log(record)
        if snapshot[0]["job"] is None:
            # the job was done, and only its result was lost
            training.load(snapshot)
            return JobResult(tuple(snapshot[0]["grown"]), records, training._states(task.job))

    def between(take: Callable[[], Snapshot]) -> None:
        assert checkpoints is not None
        checkpoints.between(lambda: training._snapshot(take, 0, 0.0))

    deadline = None if task.seconds is None else time.monotonic() + task.seconds
    run = Run(None, training.log, deadline, between if checkpoints else None)
    with one_thread():
        grown = tuple(training.run_job(task.job, run, snapshot))
    if checkpoints is not None:
        header, tensors = training._snapshot(lambda: ({}, {}), 0, 0.0)
        checkpoints.write({**header, "job": None, "grown": grown}, tensors)
    return JobResult(grown, records, training._states(task.job))
