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
from mdcm.training.config import CPU
from mdcm.training.confounder_growth import full_length, growth_of_numbers, more_states_gain
from mdcm.training.ensemble_member import Member, Setup
from mdcm.training.fingerprints import training_fingerprint
from mdcm.training.grouping import group
from mdcm.training.jobs import Job, Outcome, Shared, Source, State, Task
from mdcm.training.objectives.adversarial import AdversarialObjective
from mdcm.training.objectives.critic_load import MOST_CRITIC_WORK
from mdcm.training.objectives.loss import Growth, LossObjective
from mdcm.training.objectives.problems import Problem, SingleProblem
from mdcm.training.polish import Polished, Polisher
from mdcm.training.sharing import refuse_unshared, shown
from mdcm.training.stacking import Bank, StackLoad
from mdcm.training.trainer import Progress, Run, Snapshot, Trainer

if TYPE_CHECKING:
    from mdcm.engines import Engine
    from mdcm.planning import HNode

__all__ = ["Source", "train"]

_Records = Callable[[dict[str, Any]], None]

_Stacked = Callable[[Sequence[Tensor]], Sequence[Tensor]]

_ROOM = {
    "alone": "Use a smaller batch_size, or device='cpu'",
    "bank": "Use batch_modules=False, or device='cpu'",
    "critic": "Use a smaller batch_size of AdversarialConfig, or device='cpu'",
    "critics": "Use batch_modules=False, a smaller batch_size of AdversarialConfig, or device='cpu'",
}


def train(
    setup: Setup,
    sources: Sequence[Source],
    *,
    progress: Progress | None = None,
    log: _Records | None = None,
    out: str | Path | Folder | None = None,
    resume: bool = False,
    engine: Engine | None = None,
    on_validation: Callable[[DCM], None] | None = None,
) -> list[DCM]:
    """Build a model for every source and train every h-node of the plan in each, level by level.

    Args:
        setup: Graph, plan and settings, which all of them have in common.
        sources: Data and seed of each. A model gets the weights that it has when it is trained alone, up to rounding.
        progress: Told how it goes.
        log: Receives one record per look at the held-out rows, and one per finished h-node; of several models every
            record says which "member" it is about, from 0.
        out: Run directory to write checkpoints in; they are left there when it is done.
        resume: Whether to go on from the checkpoint in ``out``, if there is one.
        engine: Where jobs of a level run, none of which waits for another; one after another here by default. Every
            job then has checkpoints of its own, so that ``out`` must be seen by all workers.
        on_validation: Called after every validation of a job here, with a copy of the first model as it would be if
            training ended then.

    Returns:
        The trained models, on the CPU and in evaluation mode. Killed at any moment and resumed, training on the CPU
        ends with the same bits.

    Raises:
        PlanError: If an h-node needs an objective that its mechanisms do not have.
        CheckpointError: If the checkpoint is damaged or belongs to another training.
        MdcmError: If a loss is not finite; the message names h-node and step.
        KeyboardInterrupt: If the user pressed Ctrl-C; with ``out``, what was done is saved.
    """
    members = {k: Member(setup, source.data, source.seed, source.init) for k, source in enumerate(sources)}
    training = _Training(setup, members, len(members), progress, log or (lambda record: None))
    training.on_validation = on_validation
    if engine is not None:
        if out is not None and not resume:
            remove_checkpoints(out)
        with engine.open():
            training.run_elsewhere(engine, sources, out)
    elif out is None:
        training.run(None, None)
    else:
        checkpoints = Checkpoints(out, training.fingerprint, setup.config.checkpoint_seconds)
        snapshot = checkpoints.read() if resume else None
        if snapshot is None:
            checkpoints.clear()
        training.source = checkpoints.source
        with checkpoints:
            training.run(checkpoints, snapshot)
    return [member.dcm.eval() for member in members.values()]


class _Training:
    """All jobs of a plan in their order, and what is written down of them."""

    def __init__(
        self, setup: Setup, members: Mapping[int, Member], total: int, progress: Progress | None, log: _Records
    ) -> None:
        self.setup, self.members, self.total, self.progress, self.told = setup, members, total, progress, log
        self.plan, self.config = setup.plan, setup.config
        self.history: list[dict[str, Any]] = []
        self.found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        self.elapsed = 0.0
        self.halved = False
        self.source: Path | None = None
        self.on_validation: Callable[[DCM], None] | None = None

    def log(self, record: dict[str, Any]) -> None:
        self.history.append(record)
        self.found.setdefault((record["event"], *record["hnode"], record.get("member")), []).append(record)
        self.told(record)

    @property
    def fingerprint(self) -> str:
        """Of the whole training, which a checkpoint belongs to."""
        prints = []
        for member in self.members.values():
            kept = [one for one, record in zip(member.prints, member.known, strict=True) if record is not None]
            prints.append(
                training_fingerprint(member.dcm, [*member.prints, *kept], member.seed, self.config.batch_modules)
            )
        return prints[0] if len(prints) == 1 else hashlib.sha256("".join(prints).encode()).hexdigest()

    # ------------------------------------------------------------------ units

    def member(self, unit: int) -> Member:
        """The model that a unit belongs to."""
        return self.members[unit // len(self.plan.hnodes)]

    def place(self, unit: int) -> int:
        """The place of a unit in the plan."""
        return unit % len(self.plan.hnodes)

    def hnode(self, unit: int) -> HNode:
        """The h-node that a unit is."""
        return self.plan.hnodes[self.place(unit)]

    def tag(self, unit: int) -> dict[str, int]:
        """What tells a unit's records from those of the same h-node of another model."""
        return {} if self.total == 1 else {"member": unit // len(self.plan.hnodes)}

    def records(self, unit: int, event: str) -> list[dict[str, Any]]:
        """Records of one kind about a unit."""
        return self.found.get((event, *self.hnode(unit).variables, self.tag(unit).get("member")), [])

    # ------------------------------------------------------------------ the schedule

    def run(self, checkpoints: Checkpoints | None, snapshot: Snapshot | None) -> None:
        """Train what is not yet trained."""
        header: Mapping[str, Any] = {}
        done = 0
        if snapshot is not None:
            header, _ = snapshot
            try:
                done = int(header["done"])
                self.elapsed = float(header["elapsed"])
                for member, encoders in zip(self.members.values(), header["encoders"], strict=True):
                    for name, one in encoders.items():
                        restore_encoders(member.dcm.mechanism(name), one)
                for record in self._known(header["history"]):
                    self.log(record)
            except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
                raise self._misfit(error) from error
        began = time.monotonic() - self.elapsed
        deadline = self._deadline(began)
        number = 0
        for level in self.plan.levels:
            jobs = self._jobs(self._units(level))
            while jobs:
                again: list[int] = []
                for job in jobs:
                    number += 1
                    if number <= done:
                        self._check_done(job)
                        again += self._grow([unit for unit in job.units if self._has_grown(unit)])
                        continue
                    finished = number - 1

                    def between(take: Callable[[], Snapshot], finished: int = finished) -> None:
                        assert checkpoints is not None
                        checkpoints.between(lambda: self._snapshot(take, finished, time.monotonic() - began))

                    watched = None if self.on_validation is None else self._validated
                    run = Run(self.config, self.progress, self.log, deadline, between if checkpoints else None, watched)
                    with one_thread():
                        grown = self.finish(job, run, snapshot if number == done + 1 else None)
                        self._complete([unit for unit in job.units if unit not in grown])
                        again += self._grow(grown)
                jobs = self._jobs(sorted(again)) if again else []
        ended = snapshot is not None and header["job"] is None
        if done != number if ended else done >= max(number, 1):
            rest = "no other" if ended else "one"
            raise self._misfit(f"it says that {done:,} jobs are done and {rest} is under way, and there are {number:,}")
        if snapshot is not None and ended:
            self.load(snapshot)
        if checkpoints is not None:
            checkpoints.end(lambda: self._snapshot(lambda: (None, {}), number, time.monotonic() - began))
        for member in self.members.values():
            member.forget_modules()

    def _validated(self) -> None:
        assert self.on_validation is not None
        self.on_validation(copy.deepcopy(self.members[0].dcm).to(CPU).eval())

    def _misfit(self, reason: object) -> CheckpointError:
        """What to tell of a checkpoint that is whole and does not belong to what is trained."""
        name = "the checkpoint" if self.source is None else str(self.source)
        return CheckpointError(f"{name} does not fit the model: {reason}", path=None if self.source is None else name)

    def _known(self, history: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
        """Records of a checkpoint, all of which must be about h-nodes of this plan."""
        known = {(hnode.variables, tag) for hnode in self.plan.hnodes for tag in self._tags()}
        for record in history:
            if (tuple(record["hnode"]), record.get("member")) not in known:
                raise ValueError(f"its history speaks of {quoted(record['hnode'])}, which is no h-node of it")
        return history

    def _tags(self) -> list[int | None]:
        return [None] if self.total == 1 else list(range(self.total))

    def _check_done(self, job: Job) -> None:
        """Refuse a checkpoint by which a job is done of which there is no record."""
        for unit in job.units:
            if not self.records(unit, "trained") and not self._has_grown(unit):
                names = ", ".join(self.hnode(unit).variables)
                raise self._misfit(f"{{{names}}} counts as done, and no record says that it was trained")

    def finish(self, job: Job, run: Run, snapshot: Snapshot | None) -> list[int]:
        """Train one job to its end, on from a snapshot if there is one.

        Where the memory of a device does not suffice, it is begun anew, once, with half as many rows per step.

        Returns:
            The units that need more states and are to be trained again.

        Raises:
            MdcmError: If that does not suffice either.
        """
        self.halved = snapshot is not None and bool(snapshot[0].get("halved"))
        # to begin anew from
        before = {}
        if snapshot is None and self.setup.device != CPU:
            before = {unit: {key: one.clone() for key, one in self._own(unit).items()} for unit in job.units}
        grown = self._attempt(job, run, snapshot)
        if isinstance(grown, str):
            names = ", ".join(f"{{{', '.join(self.hnode(unit).variables)}}}" for unit in job.units)
            if not before or job.kind == "bank":
                raise MdcmError(f"training of {names} does not fit in memory: {grown}. {_ROOM[job.kind]}")
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
                    f"{_ROOM[job.kind]}"
                )
        return grown

    def _attempt(self, job: Job, run: Run, snapshot: Snapshot | None) -> list[int] | str:
        """Train one job; if that does not fit in memory, what is said of it."""
        try:
            trainer = self._trainer(job, run) if snapshot is None else self._restored(job, run, *snapshot)
            trainer.train()
            return [job.units[one] for one in trainer.grown]
        except torch.OutOfMemoryError as error:
            return ". ".join(str(error).split(". ")[:3]).rstrip(".") or "out of memory"
        finally:
            # once each, because every visit goes through the whole model
            for member in {id(self.member(unit)): self.member(unit) for unit in job.units}.values():
                member.dcm.to(CPU)

    def run_elsewhere(self, engine: Engine, sources: Sequence[Source], out: str | Path | Folder | None) -> None:
        """Train everything, the jobs of a level wherever an engine runs them."""
        deadline = self._deadline(time.monotonic())
        shared = Shared(self.setup, {k: replace(one, init=None) for k, one in enumerate(sources)}, self.total)
        fingerprint = None if out is None else self.fingerprint
        with nullcontext() if out is None else shown(Folder.of(out)) as proof:
            self._run_elsewhere(engine, shared, deadline, out, fingerprint, proof)

    def _run_elsewhere(
        self,
        engine: Engine,
        shared: Shared,
        deadline: float | None,
        out: str | Path | Folder | None,
        fingerprint: str | None,
        proof: str | None,
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
                    tasks.append(Task(job, self._states(job), files, f"{fingerprint}/{number}", left, proof))
                names = [tuple(name for unit in job.units for name in self.hnode(unit).variables) for job in jobs]
                if self.progress is not None:
                    for name in names:
                        self.progress.start(name, 1)
                outcomes: dict[int, Outcome] = {}
                gpu = self.setup.device.type == "cuda"
                for place, outcome in engine.map(_work, shared, tasks, gpu=gpu):
                    outcomes[place] = outcome
                    if self.progress is not None:
                        self.progress.step(names[place], 1)
                        self.progress.finish(names[place])
                again: list[int] = []
                # as if they had run here, one after another
                for place, job in enumerate(jobs):
                    again += self._absorb(job, outcomes[place])
                jobs = self._jobs(sorted(again)) if again else []
        for member in self.members.values():
            member.forget_modules()

    def _absorb(self, job: Job, outcome: Outcome) -> list[int]:
        """Take over what a job has become; the units that are to be trained again."""
        for k, state in outcome.states.items():
            dcm = self.members[k].dcm
            for name, encoders in state.encoders.items():
                restore_encoders(dcm.mechanism(name), encoders)
            for unit in job.units:
                if self.members[k] is self.member(unit):
                    dcm.load_state_dict({key: state.weights[key] for key in self._own(unit)}, strict=False)
        for record in outcome.records:
            self.log(record)
        grown = list(outcome.grown)
        self._complete([unit for unit in job.units if unit not in grown])
        return self._grow(grown)

    def _own(self, unit: int) -> dict[str, Tensor]:
        """The weights that training a unit changes, by their names in the model."""
        return self.member(unit).dcm.part(self.hnode(unit).variables)

    def _states(self, job: Job) -> dict[int, State]:
        """All that has been learned so far of the models that a job is about."""
        found = {}
        for k in sorted({unit // len(self.plan.hnodes) for unit in job.units}):
            member = self.members[k]
            dcm, doubled = member.dcm, member.doubled
            encoders = {name: one.encoders for name, one in dcm.mechanisms.items() if one.encoders}
            found[k] = State(dict(dcm.states), dict(dcm.state_dict()), encoders, list(doubled), list(member.former))
        return found

    def _units(self, level: Sequence[int]) -> list[int]:
        return [k * len(self.plan.hnodes) + place for k in self.members for place in level]

    def _deadline(self, began: float) -> float | None:
        limit = self.config.max_minutes
        return None if limit is None else began + 60 * limit

    def _complete(self, units: Sequence[int]) -> None:
        for unit in units:
            self._check_finite(unit)
            self.member(unit).complete(self.place(unit), self.records(unit, "trained")[-1])

    def _check_finite(self, unit: int) -> None:
        """Let no h-node pass that has learned what is no number; looks during training see the averages alone."""
        for key, one in self._own(unit).items():
            if one.is_floating_point() and not bool(one.isfinite().all()):
                hnode = self.hnode(unit)
                raise MdcmError(
                    f"training of h-node {{{', '.join(hnode.variables)}}} ({' and '.join(map(str, hnode.fits))}) ended "
                    f"with weights that are not finite ({key}); try a smaller learning_rate, or look at its data for "
                    "values far from all others"
                )

    def load(self, snapshot: Snapshot) -> None:
        """Take over the weights of a snapshot.

        Raises:
            CheckpointError: If they do not fit.
        """
        try:
            for member, encoders in zip(self.members.values(), snapshot[0]["encoders"], strict=True):
                for name, one in encoders.items():
                    restore_encoders(member.dcm.mechanism(name), one)
            for k, member in self.members.items():
                prefix = f"model.{k}."
                own = {key.removeprefix(prefix): one for key, one in snapshot[1].items() if key.startswith(prefix)}
                member.dcm.load_state_dict(own)
        except CheckpointError:
            raise
        except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise self._misfit(error) from error

    def _restored(self, job: Job, run: Run, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Trainer:
        """The job that was under way, where it was."""
        prefix = "job."
        self.load((dict(header), dict(tensors)))
        try:
            trainer = self._trainer(job, run)
            trainer.restore(
                header["job"], {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            )
        except CheckpointError:
            raise
        except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise self._misfit(error) from error
        return trainer

    def _weights(self) -> dict[str, Tensor]:
        return {
            f"model.{k}.{name}": one
            for k, member in self.members.items()
            for name, one in member.dcm.state_dict().items()
        }

    def _snapshot(
        self, take: Callable[[], tuple[dict[str, Any] | None, dict[str, Tensor]]], done: int, elapsed: float
    ) -> Snapshot:
        """What is written down: of the job that is under way what ``take`` gives, None where all are done."""
        header, tensors = take()
        encoders = [
            {name: one.encoders for name, one in member.dcm.mechanisms.items() if one.encoders}
            for member in self.members.values()
        ]
        content = {
            "done": done, "elapsed": elapsed, "history": self.history, "job": header, "encoders": encoders,
            "halved": self.halved,
        }  # fmt: skip
        return content, {
            **{name: one.cpu() for name, one in self._weights().items()},
            **{f"job.{name}": one.cpu() for name, one in tensors.items()},
        }

    # ------------------------------------------------------------------ which h-nodes are trained as one

    def _jobs(self, units: Sequence[int]) -> list[Job]:
        """What is trained of these units, as one or apart; a function of plan, data and settings alone."""
        for member in self.members.values():
            member.forget_modules()
        jobs: list[Job] = []
        small: dict[bool, list[int]] = {}
        against: dict[int, list[int]] = {}
        for unit in units:
            member, place, hnode = self.member(unit), self.place(unit), self.hnode(unit)
            if not hnode.fits or self._keep(unit):
                continue
            if member.is_adversarial(hnode):
                # those of one model only, because their records name the h-node alone
                against.setdefault(unit // len(self.plan.hnodes), []).append(unit)
            elif (
                self.config.batch_modules and member.can_stack(hnode) and Bank.suits(member.module(place), self.config)
            ):
                small.setdefault(member.held_out(place) is None, []).append(unit)
            else:
                jobs.append(Job("alone", (unit,)))
        for found in against.values():
            loads = [self.member(unit).critic_load(self.place(unit)) for unit in found]
            for indices in group(loads, MOST_CRITIC_WORK):
                kind: Literal["critics", "critic"] = "critic" if loads[indices[0]] is None else "critics"
                jobs.append(Job(kind, tuple(sorted(found[index] for index in indices))))
        for found in small.values():
            modules = [self.member(unit).module(self.place(unit)) for unit in found]
            for indices in group([StackLoad(module, module.sizes) for module in modules]):
                jobs.append(Job("bank", tuple(sorted(found[index] for index in indices))))
        return sorted(jobs, key=lambda job: job.units[0])

    def _keep(self, unit: int) -> bool:
        member, place = self.member(unit), self.place(unit)
        record = member.known[place]
        if record is None or not member.keep(place):
            return False
        prints = [one.get("fingerprint") for one in self.records(unit, "trained")]
        if member.prints[place] not in prints:
            self.log({**record, "hnode": list(self.hnode(unit).variables), "kept": True, **self.tag(unit)})
        return True

    def _trainer(self, job: Job, run: Run) -> Trainer:
        hnodes, tags = [self.hnode(unit).variables for unit in job.units], [self.tag(unit) for unit in job.units]
        if job.kind in {"critic", "critics"}:
            (member,) = {id(self.member(unit)): self.member(unit) for unit in job.units}.values()
            # with the mechanisms that it takes as they are
            member.dcm.to(self.setup.device)
            problems = [member.against_critics(self.place(unit), halved=self.halved) for unit in job.units]
            return Trainer(AdversarialObjective(problems, stacked=job.kind == "critics"), hnodes, run, tags)
        units = [(self.member(unit), self.place(unit)) for unit in job.units]
        held = [member.held_out(place) for member, place in units]
        every = [self.hnode(unit) for unit in job.units]
        names = [f"{{{', '.join(hnode.variables)}}} ({' and '.join(map(str, hnode.fits))})" for hnode in every]
        problem: Problem
        if job.kind == "bank":
            problem = Bank([member.module(place) for member, place in units], self.config, self.setup.device)
            growth = self._growth_of_tables(job, held, _as_they_are)
            polisher = self._polisher(job, held, _as_they_are)
        else:
            problem = alone = units[0][0].problem(units[0][1], halved=self.halved)
            growth = self._growth_of_one(job, held, alone)
            polisher = self._polisher(job, held, partial(self._stacked, job.units[0], alone))
        return Trainer(LossObjective(problem, names, held, self.config, growth, polisher), hnodes, run, tags)

    # ------------------------------------------------------------------ more states

    def _growth_of_one(self, job: Job, held: Sequence[Tensor | None], problem: SingleProblem) -> Growth | None:
        """Decides whether an h-node that is trained alone needs more states; None where nobody asks."""
        (unit,) = job.units
        member, place, (mask,) = self.member(unit), self.place(unit), held
        if member.can_stack(self.hnode(unit)):
            return self._growth_of_tables(job, held, partial(self._stacked, unit, problem))
        if mask is None or not full_length(self.config):
            return None
        return growth_of_numbers(self.plan, member, place, mask, problem)

    def _growth_of_tables(self, job: Job, held: Sequence[Tensor | None], stacked: _Stacked) -> Growth | None:
        """Decides which h-nodes of tables need more states; None where nobody asks."""
        config = self.config
        masks = [mask for mask in held if mask is not None]
        if config.confounder_states is not None or not full_length(config) or len(masks) < len(job.units):
            return None
        units = [(self.member(unit), self.place(unit)) for unit in job.units]
        if not all(member.can_grow(place) for member, place in units):
            return None
        modules = [member.module(place) for member, place in units]
        asked = [number for number, (member, place) in enumerate(units) if member.may_gain(place)]
        seeds = [member.derived("states", self.plan.hnodes[place]) for member, place in units]
        device = self.setup.device

        def growth(weights: Sequence[Tensor], polished: Sequence[Polished | None]) -> tuple[list[int], dict[int, Any]]:
            return more_states_gain(modules, stacked(weights), masks, asked, config, seeds, device, polished), {}

        return growth if asked else None

    def _polisher(self, job: Job, held: Sequence[Tensor | None], stacked: _Stacked) -> Polisher | None:
        """Who turns the networks of a job into tables; None where they stay as they are."""
        masks = [mask for mask in held if mask is not None]
        units = [(self.member(unit), self.place(unit)) for unit in job.units]
        if not full_length(self.config) or len(masks) < len(units):
            return None
        if not all(member.can_stack(self.plan.hnodes[place]) for member, place in units):
            return None
        modules = [member.module(place) for member, place in units]
        seeds = [member.derived("starts", self.plan.hnodes[place]) for member, place in units]
        if not any(module.has_tables for module in modules):
            return None
        return Polisher(modules, masks, seeds, stacked, self.setup.device)

    def _stacked(self, unit: int, problem: SingleProblem, weights: Sequence[Tensor]) -> Sequence[Tensor]:
        """Weights of an h-node that is trained alone, as a bank has them."""
        self.member(unit).dcm.to(CPU)
        bank = Bank([self.member(unit).module(self.place(unit))], self.config, self.setup.device)
        # once the bank has prepared them, so that it reads these weights and no others
        problem.store(weights)
        bank.restart()
        problem.move(self.setup.device)
        return bank.weights

    def _has_grown(self, unit: int) -> bool:
        """Whether the next training of an h-node that the history knows ended with more states."""
        return len(self.records(unit, "grown")) > self.member(unit).doubled[self.place(unit)]

    def _grow(self, units: Sequence[int]) -> list[int]:
        for unit in units:
            member, place = self.member(unit), self.place(unit)
            member.grow(place, self.records(unit, "grown")[member.doubled[place]].get("heldout"))
        return list(units)


def _as_they_are(weights: Sequence[Tensor]) -> Sequence[Tensor]:
    return weights


# ---------------------------------------------------------------------- jobs that run elsewhere


def _work(shared: Shared, task: Task) -> Outcome:
    """Run one job, on from its last checkpoint if a worker that had it was lost."""
    if task.files is not None and task.proof is not None:
        refuse_unshared(task.files, task.proof)
    setup = shared.setup
    if setup.device.type == "cuda":
        # a worker sees the card that it was given, and no other
        setup = replace(setup, device=torch.device("cuda", 0))
    members = {}
    for k, state in task.states.items():
        source = shared.sources[k]
        members[k] = member = Member(setup, source.data, source.seed, states=state.states)
        for name, encoders in state.encoders.items():
            restore_encoders(member.dcm.mechanism(name), encoders)
        member.dcm.load_state_dict(state.weights)
        member.doubled, member.former = list(state.doubled), list(state.former)
    records: list[dict[str, Any]] = []
    training = _Training(setup, members, shared.total, None, records.append)
    checkpoints = snapshot = None
    if task.files is not None:
        checkpoints = Checkpoints(task.files, task.fingerprint, setup.config.checkpoint_seconds)
        snapshot = checkpoints.read()
        training.source = checkpoints.source
    if snapshot is not None:
        for record in snapshot[0]["history"]:
            training.log(record)
        if snapshot[0]["job"] is None:
            # it was done already, and only its result was lost
            training.load(snapshot)
            return Outcome(tuple(snapshot[0]["grown"]), records, training._states(task.job))

    def between(take: Callable[[], Snapshot]) -> None:
        assert checkpoints is not None
        checkpoints.between(lambda: training._snapshot(take, 0, 0.0))

    deadline = None if task.seconds is None else time.monotonic() + task.seconds
    run = Run(setup.config, None, training.log, deadline, between if checkpoints else None)
    with one_thread():
        grown = tuple(training.finish(task.job, run, snapshot))
    if checkpoints is not None:
        header, tensors = training._snapshot(lambda: ({}, {}), 0, 0.0)
        checkpoints.write({**header, "job": None, "grown": grown}, tensors)
    return Outcome(grown, records, training._states(task.job))
