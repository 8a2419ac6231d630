"""One model that is being trained: what its h-nodes are learned from, by which problem, and how they may grow."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mdcm.dcm import DCM, MechanismFactory, derived_seed
from mdcm.errors import PlanError
from mdcm.mechanisms import Categorical, Mechanism
from mdcm.mechanisms.representations import restore_encoders
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.config import TrainConfig
from mdcm.training.confounder_growth import may_lack_states
from mdcm.training.confounder_states import choose_states, may_double, needs_draws
from mdcm.training.confounders import uninformative
from mdcm.training.fingerprints import hnode_fingerprints
from mdcm.training.normal_confounders import NormalProblem, normal_states, reads_numbers
from mdcm.training.objectives.critic_load import CriticLoad
from mdcm.training.objectives.critic_problem import AdversarialProblem
from mdcm.training.objectives.problems import ComponentProblem, ConditionalProblem, SingleProblem
from mdcm.training.rows import FitRows, fit_rows, held_out_rows
from mdcm.training.stacking import Bank, Module

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data import Encoded, Schema
    from mdcm.graph import ADMG
    from mdcm.planning import HNode, Plan
    from mdcm.training.pooled_rows import Reader

__all__ = ["Member", "Setup"]

# states of confounders of numbers grow so much at most, because a sum over so many is dear
_FACTOR, _MOST_PLACES = 4, 32


@dataclass(frozen=True)
class Setup:
    """What models that are trained together have in common.

    Attributes:
        graph: The ADMG.
        schema: Variables by name.
        plan: What is trained with what, against which data sets.
        config: Settings.
        factories: Constructors of mechanisms that are not the default ones.
        states: Number of states of every confounder, where it is not to be found out.
        device: Where h-nodes are trained.
        readers: For images what critics compare instead, as for :class:`AdversarialProblem`.
    """

    graph: ADMG
    schema: Schema
    plan: Plan
    config: TrainConfig
    factories: Mapping[str, MechanismFactory] | None
    states: Mapping[str, int] | None
    device: torch.device
    readers: Mapping[str, Reader] | None = None

    @property
    def adversarial(self) -> AdversarialConfig:
        """Settings of h-nodes that are trained against critics."""
        settings = self.config.adversarial or AdversarialConfig()
        return settings if self.config.max_steps is None else replace(settings, steps=self.config.max_steps)


class Member:
    """One model that is being trained.

    Args:
        setup: What it has in common with others.
        data: What it is learned from.
        seed: Seed of initial weights, splits and batches.
        init: A trained model and its history: h-nodes of the same fingerprint keep its weights.
        states: Number of states of every confounder that it has by now, if it is not at its beginning.

    Attributes:
        dcm: The model.
        doubled: How often every h-node was begun anew with more states of its confounders.
        former: Held-out loss of every h-node before that.
    """

    def __init__(
        self,
        setup: Setup,
        data: Mapping[str, Encoded],
        seed: int,
        init: tuple[DCM, Sequence[Mapping[str, Any]]] | None = None,
        states: Mapping[str, int] | None = None,
    ) -> None:
        self.setup, self.data, self.seed, self.init = setup, data, seed, init
        self.plan, self.config = setup.plan, setup.config
        self.configurations = _configurations(setup.graph, setup.schema, data)
        self.first_states = setup.states or choose_states(
            setup.graph, setup.schema, self.configurations, self.config.confounder_states
        )
        self.dcm = self._build(self.first_states if states is None else states)
        self.drawn = set(setup.graph.nodes) if self.config.confounder == "monte-carlo" else needs_draws(setup.graph)
        self.doubled = [0] * len(self.plan.hnodes)
        self.former: list[float | None] = [None] * len(self.plan.hnodes)
        if states is None and setup.states is None and self.config.confounder == "gaussian":
            for place, hnode in enumerate(self.plan.hnodes):
                found = normal_states(self.dcm, self.variables(hnode)) if self.is_normal(place) else None
                if found is not None and self.config.confounder_states is None:
                    self.resize(dict.fromkeys(self.confounders(hnode), found))
        self._modules: dict[int, Module] = {}

    @functools.cached_property
    def prints(self) -> list[str]:
        """Fingerprint of every h-node of the plan, of the model as it was at first."""
        return hnode_fingerprints(self.dcm, self.plan, self.data, self.config)

    @functools.cached_property
    def known(self) -> list[Mapping[str, Any] | None]:
        """For every h-node the record of ``init`` of the same fingerprint, or None."""
        initial = {} if self.init is None else {record.get("fingerprint"): record for record in self.init[1]}
        return [initial.get(one) for one in self.prints]

    def _build(self, states: Mapping[str, int]) -> DCM:
        return DCM(self.setup.graph, self.setup.schema, states, self.setup.factories, seed=self.seed)

    # ------------------------------------------------------------------ what an h-node is

    def variables(self, hnode: HNode) -> list[str]:
        """Variables of an h-node in topological order."""
        return [node for node in self.dcm.order if node in hnode.variables]

    def confounders(self, hnode: HNode) -> list[str]:
        """Names of the confounders of an h-node."""
        return [name for name, children in self.dcm.graph.confounders if set(children) & set(hnode.variables)]

    def rows(self, hnode: HNode) -> tuple[FitRows, ...]:
        """What an h-node is learned from."""
        return fit_rows(self.dcm, hnode, self.data)

    def derived(self, purpose: str, hnode: HNode) -> int:
        """Seed of one purpose, which no other h-node changes."""
        return derived_seed(self.seed, purpose, min(self.dcm.position[name] for name in hnode.variables))

    def held_out(self, place: int) -> Tensor | None:
        """Mask of the rows of an h-node that are held out, its data sets one after another; or None."""
        masks = self._held_out(self.plan.hnodes[place])
        return None if masks is None else torch.from_numpy(np.concatenate(list(masks.values())))

    def _held_out(self, hnode: HNode) -> dict[str, NDArray[np.bool_]] | None:
        return held_out_rows(hnode, self.data, self.config.holdout, self.derived("fit", hnode))

    def is_adversarial(self, hnode: HNode) -> bool:
        """Whether an h-node is trained against critics.

        Raises:
            PlanError: If it cannot be, and would have to.
        """
        if all(fit.objective == "likelihood" for fit in hnode.fits):
            return False
        if self.config.confounder == "gaussian" and self.confounders(hnode):
            raise PlanError(
                f"h-node {{{', '.join(hnode.variables)}}} is trained against critics, which Gaussian confounders are "
                "not; use confounder='exact', or variables whose mechanisms have a density"
            )
        (first, *others) = hnode.variables
        # an image without confounders learns better by its mechanism's own loss
        alone = not others and not self.dcm.latents[first] and len(hnode.fits) == 1
        return not alone or _needs_critic(self.dcm.mechanism(first))

    def can_stack(self, hnode: HNode) -> bool:
        """Whether an h-node is made of tables alone, and its likelihood is an exact sum."""
        return (
            all(fit.objective == "likelihood" for fit in hnode.fits)
            and not (self.config.confounder == "gaussian" and self.confounders(hnode))
            and not self.drawn.intersection(hnode.variables)
            and Module.fits_in_a_bank(self.dcm, hnode.variables)
        )

    # ------------------------------------------------------------------ how it is trained

    def module(self, place: int) -> Module:
        """An h-node ready to be stacked."""
        if place not in self._modules:
            hnode = self.plan.hnodes[place]
            self._modules[place] = Module(self.dcm, self.variables(hnode), self.rows(hnode))
        return self._modules[place]

    def forget_modules(self) -> None:
        """Let go of what was made ready, because mechanisms have changed or are trained."""
        self._modules.clear()

    def critic_load(self, place: int) -> CriticLoad | None:
        """What a step of an h-node against critics has to do; None where it is stepped alone."""
        if not self.config.batch_modules:
            return None
        return CriticLoad.of(self.dcm, self.plan.hnodes[place], self.data, self.setup.adversarial)

    def against_critics(self, place: int, *, halved: bool = False) -> AdversarialProblem:
        """An h-node as a problem against critics, with half as many rows per step if so asked."""
        hnode, settings = self.plan.hnodes[place], self.setup.adversarial
        if halved:
            settings = replace(settings, batch_size=_half(settings.batch_size))
        seed = self.derived("batches", hnode)
        readers = self.setup.readers
        return AdversarialProblem(
            self.dcm, hnode, self.data, settings, seed, held_out=self._held_out(hnode), readers=readers
        )

    def problem(self, place: int, *, halved: bool = False) -> SingleProblem:
        """An h-node as a problem of its own, with half as many rows per step if so asked.

        Raises:
            PlanError: If its mechanisms lack what its objective needs.
        """
        hnode = self.plan.hnodes[place]
        seed = self.derived("batches", hnode)
        members = self.variables(hnode)
        mechanisms = [self.dcm.mechanism(name) for name in members]
        likelihood = all(fit.objective == "likelihood" for fit in hnode.fits)
        single = len(members) == 1 and not self.dcm.latents[members[0]]
        dense = all(mechanism.has_density for mechanism in mechanisms)
        fits, device = self.rows(hnode), self.setup.device
        if likelihood and dense and (not single or isinstance(mechanisms[0], Categorical)):
            if self.is_normal(place):
                return _halved(NormalProblem(self.dcm, members, fits, self.config, seed, device), halved)
            draws = self.config.draws if self.drawn.intersection(members) else None
            made: SingleProblem = ComponentProblem(self.dcm, members, fits, self.config, seed, draws, device)
        elif single and len(hnode.fits) == 1 and (likelihood or not _needs_critic(mechanisms[0])):
            made = ConditionalProblem(mechanisms[0], fits[0], self.config, seed, device)
        else:
            raise PlanError(
                f"h-node {{{', '.join(hnode.variables)}}} has confounded variables without a density; confounded "
                "variables must be categorical or have a mechanism with log_prob, or be trained with "
                "objective='adversarial'"
            )
        return _halved(made, halved)

    # ------------------------------------------------------------------ more states

    def can_grow(self, place: int) -> bool:
        """Whether the confounders of an h-node could be given twice the states."""
        hnode = self.plan.hnodes[place]
        if self.setup.states is not None or not self.confounders(hnode):
            return False
        return self.can_stack(hnode) or self._holds_numbers(hnode)

    def _holds_numbers(self, hnode: HNode) -> bool:
        """Whether numbers are among its variables, all have densities, and the sum over states is exact."""
        return (
            all(fit.objective == "likelihood" for fit in hnode.fits)
            and self.config.confounder == "exact"
            and not self.drawn.intersection(hnode.variables)
            and all(self.dcm.mechanism(name).has_density for name in hnode.variables)
            and any(self.dcm.schema[name].kind == "continuous" for name in hnode.variables)
        )

    def is_normal(self, place: int) -> bool:
        """Whether the confounders of an h-node are trained as normal numbers: asked for, or after too few states."""
        hnode = self.plan.hnodes[place]
        if not self.confounders(hnode) or any(fit.objective != "likelihood" for fit in hnode.fits):
            return False
        if self.config.confounder == "gaussian":
            return True
        return self.doubled[place] == 1 and self._more_numbers(place) is not None and self._holds_numbers(hnode)

    def _more_numbers(self, place: int) -> int | None:
        """States of a normal confounder of an h-node, if its mechanisms can read one."""
        variables = self.variables(self.plan.hnodes[place])
        if not all(reads_numbers(self.dcm.mechanism(name)) for name in variables):
            return None
        return normal_states(self.dcm, variables)

    def _wider(self, place: int) -> dict[str, int] | None:
        """Four times the states that an h-node with numbers began with, if a sum over so many can be afforded."""
        hnode = self.plan.hnodes[place]
        states = {name: _FACTOR * self.first_states[name] for name in self.confounders(hnode)}
        combinations = [
            math.prod(states[self.dcm.confounders[index]] for index in self.dcm.latents[name])
            for name in hnode.variables
        ]
        return states if max(combinations) <= _MOST_PLACES else None

    def may_gain(self, place: int) -> bool:
        """Whether more states could change anything, and would fit in memory."""
        hnode = self.plan.hnodes[place]
        if not self.can_stack(hnode):
            if self.doubled[place] == 0:
                return self._more_numbers(place) is not None or self._wider(place) is not None
            return self.doubled[place] == 1 and self.is_normal(place) and self._wider(place) is not None
        module = self.module(place)
        return (
            Bank.suits(module, self.config)
            and may_lack_states(module)
            and may_double(self.dcm.graph, hnode.variables, self.configurations, self.dcm.states)
        )

    def grow(self, place: int, loss: float | None = None) -> None:
        """Begin an h-node anew with more states of its confounders.

        Tables get twice as many. Numbers are tried with normal confounders first, and if those are no better with four
        times the states that they began with.

        Args:
            place: Its place in the plan.
            loss: Its held-out loss.
        """
        hnode = self.plan.hnodes[place]
        self.doubled[place] += 1
        self.former[place] = loss
        if self.can_stack(hnode):
            self.resize({name: 2 * self.dcm.states[name] for name in self.confounders(hnode)})
            return
        normal = self._more_numbers(place) if self.is_normal(place) else None
        wider = self._wider(place)
        if normal is not None:
            self.resize(dict.fromkeys(self.confounders(hnode), normal))
        elif wider is not None:
            self.resize(wider)

    def resize(self, states: Mapping[str, int]) -> None:
        """Begin some confounders, and the mechanisms of their children, anew with other numbers of states."""
        self.dcm.adopt(self._build({**self.dcm.states, **states}), states)

    # ------------------------------------------------------------------ before and after

    def keep(self, place: int) -> bool:
        """Take over the weights of an h-node that another model has trained on the same data in the same way."""
        if self.known[place] is None or self.init is None:
            return False
        hnode, model = self.plan.hnodes[place], self.init[0]
        theirs = {frozenset(children): index for index, (_, children) in enumerate(model.graph.confounders)}
        try:
            states = {
                name: model.states[model.confounders[theirs[frozenset(children)]]]
                for name, children in self.dcm.graph.confounders
                if set(children) & set(hnode.variables)
            }
            if any(self.dcm.states[name] != found for name, found in states.items()):
                self.resize(states)
            for name in hnode.variables:
                restore_encoders(self.dcm.mechanism(name), model.mechanism(name).encoders)
                self.dcm.mechanism(name).load_state_dict(model.mechanism(name).state_dict())
            with torch.no_grad():
                for index, (_, children) in enumerate(self.dcm.graph.confounders):
                    if set(children) & set(hnode.variables):
                        self.dcm.priors[index].copy_(model.priors[theirs[frozenset(children)]])
        except (KeyError, RuntimeError, ValueError):
            return False
        return True

    def complete(self, place: int, record: dict[str, Any]) -> None:
        """Add to the record of a trained h-node what a later training, and its user, need to know."""
        hnode = self.plan.hnodes[place]
        record["fingerprint"] = self.prints[place]
        used = self.confounders(hnode)
        if used and self.is_adversarial(hnode):
            # the problem has compared worlds that differ in the state alone
            record["uninformative"] = list(record.get("idle_confounders", ()))
        elif used:
            record["states"] = {name: self.dcm.states[name] for name in used}
            record["uninformative"] = uninformative(self.dcm, used, self.rows(hnode))
            if self.drawn.intersection(hnode.variables):
                record["draws"] = self.config.draws


def _half(rows: int) -> int:
    return max(1, rows // 2)


def _halved(problem: SingleProblem, halved: bool) -> SingleProblem:
    if halved:
        problem.schedule = replace(problem.schedule, batch_size=_half(problem.schedule.batch_size))
    return problem


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
