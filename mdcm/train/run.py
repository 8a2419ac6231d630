"""Training by plan: h-nodes level by level, each fitted to exactly the distributions that the plan names.

Several models of one plan, such as those of an ensemble, are trained at once: h-nodes of one shape are stacked,
whichever model they belong to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from mdcm.dcm import DCM, one_thread
from mdcm.errors import CheckpointError
from mdcm.mechanisms.representations import restore_encoders
from mdcm.objectives.adversarial import AdversarialTraining
from mdcm.objectives.tiles import tiles as adversarial_tiles
from mdcm.train.bank import Bank, tiles
from mdcm.train.checkpoints import Checkpoints
from mdcm.train.config import CPU
from mdcm.train.fingerprints import training_fingerprint
from mdcm.train.growth import full_length, more_states_gain
from mdcm.train.loop import Alone, Growth, Progress, Run, Trainer, assign
from mdcm.train.member import Member, Setup

if TYPE_CHECKING:
    from pathlib import Path

    from mdcm.data import Encoded
    from mdcm.plan import HNode

__all__ = ["Source", "train"]

_Snapshot = tuple[dict[str, Any], dict[str, Tensor]]
_Records = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Source:
    """What one model is learned from.

    Attributes:
        data: Data sets by name.
        seed: Seed of initial weights, splits and batches.
        init: A trained model and its history: h-nodes of the same fingerprint keep its weights.
    """

    data: Mapping[str, Encoded]
    seed: int = 0
    init: tuple[DCM, Sequence[Mapping[str, Any]]] | None = None


def train(
    setup: Setup,
    sources: Sequence[Source],
    *,
    progress: Progress | None = None,
    log: _Records | None = None,
    out: str | Path | None = None,
    resume: bool = False,
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

    Returns:
        The trained models, on the CPU and in evaluation mode. Killed at any moment and resumed, training on the CPU
        ends with the same bits.

    Raises:
        PlanError: If an h-node needs an objective that its mechanisms do not have.
        CheckpointError: If the checkpoint is damaged or belongs to another training.
        MdcmError: If a loss is not finite; the message names h-node and step.
        KeyboardInterrupt: If the user pressed Ctrl-C; with ``out``, what was done is saved.
    """
    members = [Member(setup, source.data, source.seed, source.init) for source in sources]
    training = _Training(setup, members, progress, log or (lambda record: None))
    if out is None:
        training.run(None, None)
    else:
        checkpoints = Checkpoints(out, training.fingerprint, setup.config.checkpoint_seconds)
        snapshot = checkpoints.read() if resume else None
        if snapshot is None:
            checkpoints.clear()
        with checkpoints:
            training.run(checkpoints, snapshot)
    return [member.dcm.eval() for member in members]


@dataclass(frozen=True)
class _Job:
    """H-nodes that are trained as one.

    Attributes:
        kind: An h-node alone, a bank of small ones, or problems against critics, which are stepped as one or alone.
        units: Which ones: number of the member times the number of h-nodes, plus the place in the plan; ascending.
    """

    kind: Literal["alone", "bank", "critics", "critic"]
    units: tuple[int, ...]


class _Training:
    """All jobs of a plan in their order, and what is written down of them."""

    def __init__(self, setup: Setup, members: Sequence[Member], progress: Progress | None, log: _Records) -> None:
        self.setup, self.members, self.progress, self.told = setup, members, progress, log
        self.plan, self.config = setup.plan, setup.config
        prints = []
        for member in members:
            kept = [one for one, record in zip(member.prints, member.known, strict=True) if record is not None]
            prints.append(
                training_fingerprint(member.dcm, [*member.prints, *kept], member.seed, self.config.batch_modules)
            )
        self.fingerprint = prints[0] if len(prints) == 1 else "+".join(prints)
        self.history: list[dict[str, Any]] = []
        self.found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        self.elapsed = 0.0

    def log(self, record: dict[str, Any]) -> None:
        self.history.append(record)
        self.found.setdefault((record["event"], *record["hnode"], record.get("member")), []).append(record)
        self.told(record)

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
        return {} if len(self.members) == 1 else {"member": unit // len(self.plan.hnodes)}

    def records(self, unit: int, event: str) -> list[dict[str, Any]]:
        """Records of one kind about a unit."""
        return self.found.get((event, *self.hnode(unit).variables, self.tag(unit).get("member")), [])

    # ------------------------------------------------------------------ the schedule

    def run(self, checkpoints: Checkpoints | None, snapshot: _Snapshot | None) -> None:
        """Train what is not yet trained."""
        header: Mapping[str, Any] = {}
        done = 0
        if snapshot is not None:
            header, _ = snapshot
            try:
                done = int(header["done"])
                self.elapsed = float(header["elapsed"])
                for member, encoders in zip(self.members, header["encoders"], strict=True):
                    for name, one in encoders.items():
                        restore_encoders(member.dcm.mechanism(name), one)
                for record in header["history"]:
                    self.log(record)
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                raise CheckpointError(f"the checkpoint does not fit the model: {error}") from error
        began = time.monotonic() - self.elapsed
        limit = self.config.max_minutes
        deadline = None if limit is None else began + 60 * limit
        number = 0
        for level in self.plan.levels:
            count = len(self.plan.hnodes)
            jobs = self._jobs([k * count + place for k in range(len(self.members)) for place in level])
            while jobs:
                again: list[int] = []
                for job in jobs:
                    number += 1
                    if number <= done:
                        again += self._grow([unit for unit in job.units if self._has_grown(unit)])
                        continue
                    finished = number - 1

                    def between(take: Callable[[], _Snapshot], finished: int = finished) -> None:
                        assert checkpoints is not None
                        checkpoints.between(lambda: self._snapshot(take, finished, time.monotonic() - began))

                    run = Run(self.config, self.progress, self.log, deadline, between if checkpoints else None)
                    with one_thread():
                        if snapshot is not None and number == done + 1:
                            trainer = self._restored(job, run, header, snapshot[1])
                        else:
                            trainer = self._trainer(job, run)
                        trainer.train()
                        for unit in job.units:
                            self.member(unit).dcm.to(CPU)
                        grown = [job.units[one] for one in trainer.grown]
                        for unit in job.units:
                            if unit not in grown:
                                self.member(unit).complete(self.place(unit), self.records(unit, "trained")[-1])
                        again += self._grow(grown)
                jobs = self._jobs(sorted(again)) if again else []
        for member in self.members:
            member.forget_modules()

    def _restored(
        self, job: _Job, run: Run, header: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> Trainer | _Adversarial:
        """The job that was under way, where it was."""
        prefix = "job."
        try:
            for name, own in self._weights().items():
                assign([own], [tensors[name]])
            trainer = self._trainer(job, run)
            trainer.restore(
                header["job"], {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            )
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint does not fit the model: {error}") from error
        return trainer

    def _weights(self) -> dict[str, Tensor]:
        return {
            f"model.{k}.{name}": one
            for k, member in enumerate(self.members)
            for name, one in member.dcm.state_dict().items()
        }

    def _snapshot(self, take: Callable[[], _Snapshot], done: int, elapsed: float) -> _Snapshot:
        header, tensors = take()
        encoders = [
            {name: one.encoders for name, one in member.dcm.mechanisms.items() if one.encoders}
            for member in self.members
        ]
        content = {"done": done, "elapsed": elapsed, "history": self.history, "job": header, "encoders": encoders}
        return content, {
            **{name: one.cpu() for name, one in self._weights().items()},
            **{f"job.{name}": one.cpu() for name, one in tensors.items()},
        }

    # ------------------------------------------------------------------ which h-nodes are trained as one

    def _jobs(self, units: Sequence[int]) -> list[_Job]:
        """What is trained of these units, as one or apart; a function of plan, data and settings alone."""
        for member in self.members:
            member.forget_modules()
        jobs: list[_Job] = []
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
                jobs.append(_Job("alone", (unit,)))
        for found in against.values():
            sizes = [self.member(unit).size(self.place(unit)) for unit in found]
            for tile in adversarial_tiles(sizes, self.setup.adversarial):
                kind: Literal["critics", "critic"] = "critic" if sizes[tile[0]] is None else "critics"
                jobs.append(_Job(kind, tuple(sorted(found[one] for one in tile))))
        for found in small.values():
            for tile in tiles([self.member(unit).module(self.place(unit)) for unit in found]):
                jobs.append(_Job("bank", tuple(sorted(found[one] for one in tile))))
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

    def _trainer(self, job: _Job, run: Run) -> Trainer | _Adversarial:
        if job.kind in {"critic", "critics"}:
            (member,) = {id(self.member(unit)): self.member(unit) for unit in job.units}.values()
            # with the mechanisms that it takes as they are
            member.dcm.to(self.setup.device)
            problems = [member.against_critics(self.place(unit)) for unit in job.units]
            training = AdversarialTraining(problems, stacked=job.kind == "critics")
            return _Adversarial(training, run, self.tag(job.units[0]))
        units = [(self.member(unit), self.place(unit)) for unit in job.units]
        held = [member.held_out(place) for member, place in units]
        trained = (
            Bank([member.module(place) for member, place in units], self.config, self.setup.device)
            if job.kind == "bank"
            else Alone(units[0][0].problem(units[0][1]))
        )
        return Trainer(
            trained,
            [self.hnode(unit).variables for unit in job.units],
            [" and ".join(map(str, self.hnode(unit).fits)) for unit in job.units],
            held,
            run,
            self._growth(job, held, trained),
            tags=[self.tag(unit) for unit in job.units],
        )

    # ------------------------------------------------------------------ more states

    def _growth(self, job: _Job, held: Sequence[Tensor | None], trained: Bank | Alone) -> Growth | None:
        """Who says which h-nodes of a job need more states; None where nobody asks."""
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

        def growth(weights: Sequence[Tensor]) -> list[int]:
            if isinstance(trained, Alone):
                units[0][0].dcm.to(CPU)
                bank = Bank(modules, config, device)
                # once the bank has prepared them, so that it reads these weights and no others
                trained.store(weights)
                bank.restart()
                weights = [parameter.detach() for parameter in bank.parameters]
            found = more_states_gain(modules, weights, masks, asked, config, seeds, device)
            if isinstance(trained, Alone):
                trained.move(device)
            return found

        return growth if asked else None

    def _has_grown(self, unit: int) -> bool:
        """Whether the next training of an h-node that the history knows ended with more states."""
        return len(self.records(unit, "grown")) > self.member(unit).doubled[self.place(unit)]

    def _grow(self, units: Sequence[int]) -> list[int]:
        for unit in units:
            self.member(unit).grow(self.place(unit))
        return list(units)


class _Adversarial:
    """Adversarial problems as a job: they run their own steps, and are asked between them."""

    grown: tuple[int, ...] = ()

    def __init__(self, training: AdversarialTraining, run: Run, tag: Mapping[str, int]) -> None:
        self.training = training
        self.run = run
        self.tag = tag

    def train(self) -> None:
        """Run to the end."""
        log = self.run.log
        self.training.train(progress=self.run.progress, log=lambda record: log({**record, **self.tag}), late=self._late)

    def _late(self) -> bool:
        if self.run.between is not None:
            self.run.between(self.snapshot)
        return self.run.late

    def snapshot(self) -> _Snapshot:
        """All that is needed to go on."""
        return {}, self.training.state()

    def restore(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from a snapshot."""
        self.training.restore(tensors)
