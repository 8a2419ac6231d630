"""Training by plan: h-nodes level by level, each fitted to exactly the distributions that the plan names."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mdcm.data import encode
from mdcm.dcm import DCM, MechanismFactory, derived_seed, one_thread
from mdcm.errors import CheckpointError, PlanError
from mdcm.mechanisms import Categorical, Mechanism
from mdcm.mechanisms.representations import restore_encoders
from mdcm.objectives.adversarial import AdversarialConfig, AdversarialProblem, AdversarialTraining
from mdcm.objectives.tiles import Size
from mdcm.objectives.tiles import tiles as adversarial_tiles
from mdcm.train.bank import Bank, Module, tiles
from mdcm.train.checkpoints import Checkpoints
from mdcm.train.config import CPU, TrainConfig
from mdcm.train.confounders import uninformative
from mdcm.train.fingerprints import hnode_fingerprints, training_fingerprint
from mdcm.train.growth import full_length, may_lack_states, more_states_gain
from mdcm.train.loop import Alone, Growth, Progress, Run, Trainer, assign
from mdcm.train.problems import ComponentProblem, ConditionalProblem, Problem
from mdcm.train.rows import HNodeRows
from mdcm.train.states import FEWEST_STATES, choose_states, may_double, needs_draws

if TYPE_CHECKING:
    from pathlib import Path

    from mdcm.data import Dataset, Encoded, Schema
    from mdcm.graph import ADMG
    from mdcm.plan import HNode, Plan

__all__ = ["train"]

# of a Gaussian confounder: the sum over them is an integral but for a few thousandths
_PLACES = 32


def train(
    graph: ADMG,
    schema: Schema,
    plan: Plan,
    datasets: Sequence[Dataset],
    config: TrainConfig,
    *,
    factories: Mapping[str, MechanismFactory] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    log: Callable[[dict[str, Any]], None] | None = None,
    init: tuple[DCM, Sequence[Mapping[str, Any]]] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    device: torch.device = CPU,
) -> DCM:
    """Build a DCM and train every h-node of the plan, level by level.

    Args:
        graph: The ADMG.
        schema: Variables by name.
        plan: What is trained with what, against which data sets.
        datasets: The data, already validated.
        config: Settings.
        factories: Constructors of mechanisms that are not the default ones.
        seed: Seed of initial weights, splits and batches.
        progress: Told how it goes.
        log: Receives one record per look at the held-out rows, and one per finished h-node.
        init: A trained model and its history: h-nodes of the same fingerprint keep its weights.
        out: Run directory to write checkpoints in; they are left there when it is done.
        resume: Whether to go on from the checkpoint in ``out``, if there is one.
        device: Where h-nodes are trained.

    Returns:
        The trained model, on the CPU and in evaluation mode. Killed at any moment and resumed, training on the CPU ends
        with the same bits.

    Raises:
        PlanError: If an h-node needs an objective that its mechanisms do not have.
        CheckpointError: If the checkpoint is damaged or belongs to another training.
        MdcmError: If a loss is not finite; the message names h-node and step.
        KeyboardInterrupt: If the user pressed Ctrl-C; with ``out``, what was done is saved.
    """
    data = {encoded.name: encoded for encoded in (encode(dataset, schema) for dataset in datasets)}
    configurations = _configurations(graph, schema, data)

    def build(states: Mapping[str, int]) -> DCM:
        return DCM(graph, schema, states, factories, seed=seed)

    fewest = _PLACES if config.confounder == "gaussian" else FEWEST_STATES
    dcm = build(choose_states(graph, schema, configurations, config.confounder_states, fewest))
    training = _Training(
        dcm, plan, data, config, seed, progress, log or (lambda record: None), init, build, configurations, device
    )
    if out is None:
        training.run(None, None)
    else:
        checkpoints = Checkpoints(out, training.fingerprint, config.checkpoint_seconds)
        snapshot = checkpoints.read() if resume else None
        if snapshot is None:
            checkpoints.clear()
        with checkpoints:
            training.run(checkpoints, snapshot)
    return dcm.eval()


class _Training:
    """All jobs of a plan in their order, and what is written down of them."""

    def __init__(
        self,
        dcm: DCM,
        plan: Plan,
        data: Mapping[str, Encoded],
        config: TrainConfig,
        seed: int,
        progress: Progress | None,
        log: Callable[[dict[str, Any]], None],
        init: tuple[DCM, Sequence[Mapping[str, Any]]] | None,
        build: Callable[[Mapping[str, int]], DCM],
        configurations: Mapping[str, int],
        device: torch.device,
    ) -> None:
        self.device = device
        self.build, self.configurations = build, configurations
        self.dcm, self.plan, self.data, self.config, self.seed = dcm, plan, data, config, seed
        self.progress, self.told, self.init = progress, log, init
        self.prints = hnode_fingerprints(dcm, plan, data, config)
        initial = {} if init is None else {record.get("fingerprint"): record for record in init[1]}
        self.known = [initial.get(one) for one in self.prints]
        kept = [one for one, record in zip(self.prints, self.known, strict=True) if record is not None]
        self.fingerprint = training_fingerprint(dcm, [*self.prints, *kept], seed, config.batch_modules)
        self.drawn = set(dcm.graph.nodes) if config.confounder == "monte-carlo" else needs_draws(dcm.graph)
        self.history: list[dict[str, Any]] = []
        self.elapsed = 0.0
        # how often the confounders of an h-node were given twice the states
        self.doubled = [0] * len(plan.hnodes)

    def log(self, record: dict[str, Any]) -> None:
        self.history.append(record)
        self.told(record)

    def run(self, checkpoints: Checkpoints | None, snapshot: tuple[dict[str, Any], dict[str, Tensor]] | None) -> None:
        """Train what is not yet trained."""
        header: Mapping[str, Any] = {}
        done = 0
        if snapshot is not None:
            header, _ = snapshot
            try:
                done = int(header["done"])
                self.elapsed = float(header["elapsed"])
                for name, encoders in header.get("encoders", {}).items():
                    restore_encoders(self.dcm.mechanism(name), encoders)
                for record in header["history"]:
                    self.log(record)
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                raise CheckpointError(f"the checkpoint does not fit the model: {error}") from error
        began = time.monotonic() - self.elapsed
        limit = self.config.max_minutes
        deadline = None if limit is None else began + 60 * limit
        place = 0
        for level in self.plan.levels:
            jobs = self._jobs(level)
            while jobs:
                again: list[int] = []
                for job in jobs:
                    place += 1
                    if place <= done:
                        again += self._grow([one for one in job if self._has_grown(one)])
                        continue
                    trained = place - 1

                    def between(
                        take: Callable[[], tuple[dict[str, Any], dict[str, Tensor]]], trained: int = trained
                    ) -> None:
                        assert checkpoints is not None
                        checkpoints.between(lambda: self._snapshot(take, trained, time.monotonic() - began))

                    run = Run(self.config, self.progress, self.log, deadline, between if checkpoints else None)
                    with one_thread():
                        if snapshot is not None and place == done + 1:
                            trainer = self._restored(job, run, header, snapshot[1])
                        else:
                            trainer = self._trainer(job, run)
                        trainer.train()
                        self.dcm.to(CPU)
                        grown = [job[one] for one in trainer.grown]
                        self._finish([one for one in job if one not in grown])
                        again += self._grow(grown)
                jobs = self._jobs(sorted(again)) if again else []

    def _restored(
        self, job: Sequence[int], run: Run, header: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> Trainer | _Adversarial:
        """The job that was under way, where it was."""
        prefix = "job."
        own = self.dcm.state_dict()
        try:
            assign(list(own.values()), [tensors[f"model.{name}"] for name in own])
            trainer = self._trainer(job, run)
            trainer.restore(
                header["job"], {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            )
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint does not fit the model: {error}") from error
        return trainer

    def _snapshot(
        self, take: Callable[[], tuple[dict[str, Any], dict[str, Tensor]]], done: int, elapsed: float
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        header, tensors = take()
        encoders = {name: one.encoders for name, one in self.dcm.mechanisms.items() if one.encoders}
        content = {"done": done, "elapsed": elapsed, "history": self.history, "job": header, "encoders": encoders}
        return content, {
            **{f"model.{name}": one.cpu() for name, one in self.dcm.state_dict().items()},
            **{f"job.{name}": one.cpu() for name, one in tensors.items()},
        }

    # ------------------------------------------------------------------ which h-nodes are trained as one

    def _jobs(self, level: Sequence[int]) -> list[list[int]]:
        """H-nodes of a level, those in one list trained as one; a function of plan, data and settings alone."""
        alone: list[int] = []
        small: list[tuple[int, Module]] = []
        against: dict[int, Size | None] = {}
        for place in level:
            hnode = self.plan.hnodes[place]
            if not hnode.fits or self._keep(place):
                continue
            if self._is_adversarial(hnode):
                against[place] = Size.of(self.dcm, hnode, self.data) if self.config.batch_modules else None
                continue
            if self.config.batch_modules and self._can_stack(hnode):
                module = Module(self.dcm, self._members(hnode), self._rows(hnode).fits)
                if Bank.suits(module, self.config):
                    small.append((place, module))
                    continue
            alone.append(place)
        self.modules = dict(small)
        by_holdout: dict[bool, list[int]] = {}
        for place, _ in small:
            by_holdout.setdefault(self._held(place) is None, []).append(place)
        jobs = [[place] for place in alone]
        places = list(against)
        jobs += [[places[one] for one in tile] for tile in adversarial_tiles([*against.values()], self._adversarial)]
        self.sizes = against
        for places in by_holdout.values():
            found = tiles([self.modules[place] for place in places])
            jobs += [[places[one] for one in tile] for tile in found]
        return sorted((sorted(job) for job in jobs), key=lambda job: job[0])

    def _can_stack(self, hnode: HNode) -> bool:
        return (
            all(fit.objective == "likelihood" for fit in hnode.fits)
            and not (self.config.confounder == "gaussian" and self._confounders(hnode))
            and not self.drawn.intersection(hnode.variables)
            and Module.fits_in_a_bank(self.dcm, hnode.variables)
        )

    def _members(self, hnode: HNode) -> list[str]:
        return [node for node in self.dcm.order if node in hnode.variables]

    def _rows(self, hnode: HNode) -> HNodeRows:
        return HNodeRows.build(self.dcm, hnode, self.data)

    def _id(self, hnode: HNode) -> int:
        return min(self.dcm.position[name] for name in hnode.variables)

    def _held(self, place: int) -> Tensor | None:
        hnode = self.plan.hnodes[place]
        seed = derived_seed(self.seed, "fit", self._id(hnode))
        return self._rows(hnode).held_out(self.config.holdout, seed)

    def _trainer(self, job: Sequence[int], run: Run) -> Trainer | _Adversarial:
        hnodes = [self.plan.hnodes[place] for place in job]
        if job[0] in self.sizes:
            seeds = [derived_seed(self.seed, "batches", self._id(hnode)) for hnode in hnodes]
            # with the mechanisms that it takes as they are
            self.dcm.to(self.device)
            problems = [
                AdversarialProblem(self.dcm, hnode, self.data, self._adversarial, seed)
                for hnode, seed in zip(hnodes, seeds, strict=True)
            ]
            return _Adversarial(AdversarialTraining(problems, stacked=self.sizes[job[0]] is not None), run)
        held = [self._held(place) for place in job]
        names = [hnode.variables for hnode in hnodes]
        fits = [" and ".join(map(str, hnode.fits)) for hnode in hnodes]
        if job[0] in self.modules:
            bank = Bank([self.modules[place] for place in job], self.config, self.device)
            return Trainer(bank, names, fits, held, run, self._growth(job, held, bank))
        alone = Alone(self._problem(hnodes[0]))
        return Trainer(alone, names, fits, held, run, self._growth(job, held, alone))

    @property
    def _adversarial(self) -> AdversarialConfig:
        settings = self.config.adversarial or AdversarialConfig()
        return settings if self.config.max_steps is None else replace(settings, steps=self.config.max_steps)

    def _is_adversarial(self, hnode: HNode) -> bool:
        if all(fit.objective == "likelihood" for fit in hnode.fits):
            return False
        if self.config.confounder == "gaussian" and self._confounders(hnode):
            raise PlanError(
                f"h-node {{{', '.join(hnode.variables)}}} is trained against critics, which Gaussian confounders are "
                "not; use confounder='exact', or variables whose mechanisms have a density"
            )
        (first, *others) = hnode.variables
        # an image without confounders learns better by its mechanism's own loss
        alone = not others and not self.dcm.latents[first] and len(hnode.fits) == 1
        return not alone or _needs_critic(self.dcm.mechanism(first))

    def _problem(self, hnode: HNode) -> Problem:
        seed = derived_seed(self.seed, "batches", self._id(hnode))
        members = self._members(hnode)
        mechanisms = [self.dcm.mechanism(name) for name in members]
        likelihood = all(fit.objective == "likelihood" for fit in hnode.fits)
        single = len(members) == 1 and not self.dcm.latents[members[0]]
        dense = all(mechanism.has_density for mechanism in mechanisms)
        if likelihood and dense and (not single or isinstance(mechanisms[0], Categorical)):
            draws = self.config.draws if self.drawn.intersection(members) else None
            return ComponentProblem(self.dcm, members, self._rows(hnode).fits, self.config, seed, draws, self.device)
        if single and len(hnode.fits) == 1 and (likelihood or not _needs_critic(mechanisms[0])):
            return ConditionalProblem(mechanisms[0], self._rows(hnode).fits[0], self.config, seed, self.device)
        raise PlanError(
            f"h-node {{{', '.join(hnode.variables)}}} has confounded variables without a density; confounded variables "
            "must be categorical or have a mechanism with log_prob, or be trained with objective='adversarial'"
        )

    # ------------------------------------------------------------------ more states

    def _growth(self, job: Sequence[int], held: Sequence[Tensor | None], trained: Bank | Alone) -> Growth | None:
        """Who says which h-nodes of a job need more states; None where nobody asks."""
        config, hnodes = self.config, [self.plan.hnodes[place] for place in job]
        masks = [mask for mask in held if mask is not None]
        if config.confounder_states is not None or not full_length(config) or len(masks) < len(job):
            return None
        if not all(self._can_stack(hnode) and self._confounders(hnode) for hnode in hnodes):
            return None
        modules = [
            self.modules.get(place) or Module(self.dcm, self._members(hnode), self._rows(hnode).fits)
            for place, hnode in zip(job, hnodes, strict=True)
        ]
        graph, states = self.dcm.graph, self.dcm.states
        asked = [
            number
            for number, (hnode, module) in enumerate(zip(hnodes, modules, strict=True))
            if Bank.suits(module, config)
            and may_lack_states(module)
            and may_double(graph, hnode.variables, self.configurations, states)
        ]
        seeds = [derived_seed(self.seed, "states", self._id(hnode)) for hnode in hnodes]

        def growth(weights: Sequence[Tensor]) -> list[int]:
            if isinstance(trained, Alone):
                self.dcm.to(CPU)
                bank = Bank(modules, config, self.device)
                # once the bank has prepared them, so that it reads these weights and no others
                trained.store(weights)
                bank.restart()
                weights = [parameter.detach() for parameter in bank.parameters]
            found = more_states_gain(modules, weights, masks, asked, config, seeds, self.device)
            if isinstance(trained, Alone):
                trained.move(self.device)
            return found

        return growth if asked else None

    def _has_grown(self, place: int) -> bool:
        """Whether the next training of an h-node that the history knows ended with more states."""
        variables = list(self.plan.hnodes[place].variables)
        events = [record for record in self.history if record["event"] == "grown" and record["hnode"] == variables]
        return len(events) > self.doubled[place]

    def _grow(self, places: list[int]) -> list[int]:
        """Give the confounders of some h-nodes twice the states; these h-nodes are untrained again."""
        for place in places:
            self.doubled[place] += 1
            hnode = self.plan.hnodes[place]
            self._resize({name: 2 * self.dcm.states[name] for name in self._confounders(hnode)})
        return places

    def _resize(self, states: Mapping[str, int]) -> None:
        """Begin some confounders, and the mechanisms of their children, anew with other numbers of states."""
        self.dcm.adopt(self.build({**self.dcm.states, **states}), states)

    def _confounders(self, hnode: HNode) -> list[str]:
        return [name for name, children in self.dcm.graph.confounders if set(children) & set(hnode.variables)]

    # ------------------------------------------------------------------ before and after

    def _keep(self, place: int) -> bool:
        """Take over the weights of an h-node that another model has trained on the same data in the same way."""
        record = self.known[place]
        if record is None or self.init is None:
            return False
        hnode, model = self.plan.hnodes[place], self.init[0]
        confounders = {frozenset(children): index for index, (_, children) in enumerate(model.graph.confounders)}
        try:
            theirs = {
                name: model.states[model.confounders[confounders[frozenset(children)]]]
                for name, children in self.dcm.graph.confounders
                if set(children) & set(hnode.variables)
            }
            if any(self.dcm.states[name] != states for name, states in theirs.items()):
                self._resize(theirs)
            for name in hnode.variables:
                restore_encoders(self.dcm.mechanism(name), model.mechanism(name).encoders)
                self.dcm.mechanism(name).load_state_dict(model.mechanism(name).state_dict())
            with torch.no_grad():
                for index, (_, children) in enumerate(self.dcm.graph.confounders):
                    if set(children) & set(hnode.variables):
                        self.dcm.priors[index].copy_(model.priors[confounders[frozenset(children)]])
        except (KeyError, RuntimeError, ValueError):
            return False
        if not any(one.get("fingerprint") == self.prints[place] for one in self.history):
            self.log({**record, "hnode": list(hnode.variables), "kept": True})
        return True

    def _finish(self, job: Sequence[int]) -> None:
        """Complete the records of what was trained."""
        by_hnode = {tuple(record["hnode"]): record for record in self.history if record["event"] == "trained"}
        for place in job:
            hnode = self.plan.hnodes[place]
            record = by_hnode[hnode.variables]
            record["fingerprint"] = self.prints[place]
            used = self._confounders(hnode)
            if used and self._is_adversarial(hnode):
                # the problem has compared worlds that differ in the state alone
                record["uninformative"] = list(record.get("idle_confounders", ()))
            elif used:
                record["states"] = {name: self.dcm.states[name] for name in used}
                record["uninformative"] = uninformative(self.dcm, used, self._rows(hnode).fits)
                if self.drawn.intersection(hnode.variables):
                    record["draws"] = self.config.draws


class _Adversarial:
    """Adversarial problems as a job: they run their own steps, and are asked between them."""

    grown: tuple[int, ...] = ()

    def __init__(self, training: AdversarialTraining, run: Run) -> None:
        self.training = training
        self.run = run

    def train(self) -> None:
        """Run to the end."""
        self.training.train(progress=self.run.progress, log=self.run.log, late=self._late)

    def _late(self) -> bool:
        if self.run.between is not None:
            self.run.between(self.snapshot)
        return self.run.late

    def snapshot(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """All that is needed to go on."""
        return {}, self.training.state()

    def restore(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from a snapshot."""
        self.training.restore(tensors)


def _needs_critic(mechanism: Mechanism) -> bool:
    """Whether a mechanism of an unconfounded variable cannot be trained by a loss of its own."""
    return mechanism.has_density or bool(getattr(mechanism, "needs_critic", False))


def _configurations(graph: ADMG, schema: Schema, data: Mapping[str, Encoded]) -> dict[str, int]:
    sizes = {}
    for node in graph.nodes:
        size = 1
        for parent in graph.parents(node):
            levels = schema[parent].levels
            size = size * len(levels) if levels is not None else 400
        rows = sum(encoded.rows for encoded in data.values() if node in encoded)
        sizes[node] = min(size, max(rows, 1))
    return sizes
