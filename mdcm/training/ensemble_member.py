"""One model in training: the rows and training problems of its h-nodes, and the growth of their confounders."""

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
from mdcm.training.confounders import choose_states, may_double, needs_draws, uninformative
from mdcm.training.fingerprints import hnode_fingerprints
from mdcm.training.normal_confounders import NormalProblem, normal_states, reads_numbers
from mdcm.training.objectives.critic_load import CriticLoad
from mdcm.training.objectives.critic_problem import AdversarialProblem
from mdcm.training.objectives.problems import ComponentProblem, ConditionalProblem, SingleProblem
from mdcm.training.rows import FitRows, fit_rows, held_out_rows
from mdcm.training.stacking import DiscreteModule, ModuleStack

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data import Encoded, Schema
    from mdcm.graph import ADMG
    from mdcm.planning import HNode, Plan
    from mdcm.training.pooled_rows import Reader

__all__ = ["EnsembleMember", "TrainingContext"]

# growth factor of the states of confounders of numbers, and their largest number: a sum over more is costly
_FACTOR, _MAX_COMBINATIONS = 4, 32


@dataclass(frozen=True)
class TrainingContext:
    """Inputs that models which are trained together share.

    Attributes:
        graph: The ADMG.
        schema: Variables by name.
        plan: The training plan.
        config: Settings.
        factories: Constructors of mechanisms other than the default ones.
        states: Number of states of every confounder; None if training chooses it.
        device: Device of the training.
        readers: For every image the features that critics compare instead, as for :class:`AdversarialProblem`.
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


class EnsembleMember:
    """One model in training.

    Args:
        context: Inputs that all models share.
        data: Data sets by name.
        seed: Seed of initial weights, splits and batches.
        init: A trained model and its history: h-nodes of the same fingerprint keep its weights.
        states: Current number of states of every confounder; None at the start of a training.

    Attributes:
        dcm: The model.
        growths: For every h-node, how often its training restarted with more states of its confounders.
        loss_before_growth: Held-out loss of every h-node before the last such restart.
    """

    def __init__(
        self,
        context: TrainingContext,
        data: Mapping[str, Encoded],
        seed: int,
        init: tuple[DCM, Sequence[Mapping[str, Any]]] | None = None,
        states: Mapping[str, int] | None = None,
    ) -> None:
        self.context, self.data, self.seed, self.init = context, data, seed, init
        self.plan, self.config = context.plan, context.config
        self.configurations = _configurations(context.graph, context.schema, data)
        self.first_states = context.states or choose_states(
            context.graph, context.schema, self.configurations, self.config.confounder_states
        )
        self.dcm = self._build(self.first_states if states is None else states)
        self.drawn = set(context.graph.nodes) if self.config.confounder == "monte-carlo" else needs_draws(context.graph)
        self.growths = [0] * len(self.plan.hnodes)
        self.loss_before_growth: list[float | None] = [None] * len(self.plan.hnodes)
        if states is None and context.states is None and self.config.confounder == "gaussian":
            for index, hnode in enumerate(self.plan.hnodes):
                count = normal_states(self.dcm, self.variables(hnode)) if self.is_normal(index) else None
                if count is not None and self.config.confounder_states is None:
                    self.resize(dict.fromkeys(self.confounders(hnode), count))
        self._modules: dict[int, DiscreteModule] = {}

    @functools.cached_property
    def fingerprints(self) -> list[str]:
        """Fingerprint of every h-node of the plan, before any growth."""
        return hnode_fingerprints(self.dcm, self.plan, self.data, self.config)

    @functools.cached_property
    def initial_records(self) -> list[Mapping[str, Any] | None]:
        """For every h-node the record of ``init`` with the same fingerprint, or None."""
        records = {} if self.init is None else {record.get("fingerprint"): record for record in self.init[1]}
        return [records.get(fingerprint) for fingerprint in self.fingerprints]

    def _build(self, states: Mapping[str, int]) -> DCM:
        return DCM(self.context.graph, self.context.schema, states, self.context.factories, seed=self.seed)

    # ------------------------------------------------------------------ properties of an h-node

    def variables(self, hnode: HNode) -> list[str]:
        """Variables of an h-node in topological order."""
        return [node for node in self.dcm.order if node in hnode.variables]

    def confounders(self, hnode: HNode) -> list[str]:
        """Names of the confounders of an h-node."""
        return [name for name, children in self.dcm.graph.confounders if set(children) & set(hnode.variables)]

    def rows(self, hnode: HNode) -> tuple[FitRows, ...]:
        """Rows of every fit of an h-node."""
        return fit_rows(self.dcm, hnode, self.data)

    def derived(self, purpose: str, hnode: HNode) -> int:
        """Seed for one purpose of one h-node, whatever other h-nodes there are."""
        return derived_seed(self.seed, purpose, min(self.dcm.position[name] for name in hnode.variables))

    def held_out(self, index: int) -> Tensor | None:
        """Mask of the held-out rows of an h-node, its data sets concatenated; None if no rows are held out."""
        masks = self._held_out(self.plan.hnodes[index])
        return None if masks is None else torch.from_numpy(np.concatenate(list(masks.values())))

    def _held_out(self, hnode: HNode) -> dict[str, NDArray[np.bool_]] | None:
        return held_out_rows(hnode, self.data, self.config.holdout, self.derived("fit", hnode))

    def is_adversarial(self, hnode: HNode) -> bool:
        """Whether an h-node is trained against critics.

        Raises:
            PlanError: If it must be, but its confounders are Gaussian.
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
        conditional = not others and not self.dcm.latents[first] and len(hnode.fits) == 1
        return not conditional or _needs_critic(self.dcm.mechanism(first))

    def can_stack(self, hnode: HNode) -> bool:
        """Whether an h-node consists of plain categorical mechanisms and its likelihood is an exact sum."""
        return (
            all(fit.objective == "likelihood" for fit in hnode.fits)
            and not (self.config.confounder == "gaussian" and self.confounders(hnode))
            and not self.drawn.intersection(hnode.variables)
            and DiscreteModule.supports(self.dcm, hnode.variables)
        )

    # ------------------------------------------------------------------ training problems

    def module(self, index: int) -> DiscreteModule:
        """An h-node as a module that can be stacked."""
        if index not in self._modules:
            hnode = self.plan.hnodes[index]
            self._modules[index] = DiscreteModule(self.dcm, self.variables(hnode), self.rows(hnode))
        return self._modules[index]

    def forget_modules(self) -> None:
        """Drop the cached modules, because mechanisms have changed or are trained."""
        self._modules.clear()

    def critic_load(self, index: int) -> CriticLoad | None:
        """Size of a training step of an h-node against critics; None if it is not stacked."""
        if not self.config.batch_modules:
            return None
        return CriticLoad.of(self.dcm, self.plan.hnodes[index], self.data, self.context.adversarial)

    def adversarial_problem(self, index: int, *, halved: bool = False) -> AdversarialProblem:
        """Training problem of an h-node against critics, with half as many rows per step if ``halved``."""
        hnode, settings = self.plan.hnodes[index], self.context.adversarial
        if halved:
            settings = replace(settings, batch_size=_half(settings.batch_size))
        return AdversarialProblem(
            self.dcm,
            hnode,
            self.data,
            settings,
            self.derived("batches", hnode),
            held_out=self._held_out(hnode),
            readers=self.context.readers,
        )

    def problem(self, index: int, *, halved: bool = False) -> SingleProblem:
        """Training problem of an h-node by a loss, with half as many rows per step if ``halved``.

        Raises:
            PlanError: If its mechanisms have neither densities nor a loss of their own.
        """
        hnode = self.plan.hnodes[index]
        seed = self.derived("batches", hnode)
        members = self.variables(hnode)
        mechanisms = [self.dcm.mechanism(name) for name in members]
        likelihood = all(fit.objective == "likelihood" for fit in hnode.fits)
        single = len(members) == 1 and not self.dcm.latents[members[0]]
        dense = all(mechanism.has_density for mechanism in mechanisms)
        fits, device = self.rows(hnode), self.context.device
        if likelihood and dense and (not single or isinstance(mechanisms[0], Categorical)):
            if self.is_normal(index):
                return _halved(NormalProblem(self.dcm, members, fits, self.config, seed, device), halved)
            draws = self.config.draws if self.drawn.intersection(members) else None
            problem: SingleProblem = ComponentProblem(self.dcm, members, fits, self.config, seed, draws, device)
        elif single and len(hnode.fits) == 1 and (likelihood or not _needs_critic(mechanisms[0])):
            problem = ConditionalProblem(mechanisms[0], fits[0], self.config, seed, device)
        else:
            raise PlanError(
                f"h-node {{{', '.join(hnode.variables)}}} has confounded variables without a density; confounded "
                "variables must be categorical or have a mechanism with log_prob, or be trained with "
                "objective='adversarial'"
            )
        return _halved(problem, halved)

    # ------------------------------------------------------------------ growth of confounders

    def can_grow(self, index: int) -> bool:
        """Whether the confounders of an h-node can be given more states."""
        hnode = self.plan.hnodes[index]
        if self.context.states is not None or not self.confounders(hnode):
            return False
        return self.can_stack(hnode) or self._has_numbers(hnode)

    def _has_numbers(self, hnode: HNode) -> bool:
        """Whether an h-node has numbers among its variables, all with densities, and an exact sum over states."""
        return (
            all(fit.objective == "likelihood" for fit in hnode.fits)
            and self.config.confounder == "exact"
            and not self.drawn.intersection(hnode.variables)
            and all(self.dcm.mechanism(name).has_density for name in hnode.variables)
            and any(self.dcm.schema[name].kind == "continuous" for name in hnode.variables)
        )

    def is_normal(self, index: int) -> bool:
        """Whether the confounders of an h-node are trained as normal variables: by request, or as the first growth."""
        hnode = self.plan.hnodes[index]
        if not self.confounders(hnode) or any(fit.objective != "likelihood" for fit in hnode.fits):
            return False
        if self.config.confounder == "gaussian":
            return True
        return self.growths[index] == 1 and self._normal_states(index) is not None and self._has_numbers(hnode)

    def _normal_states(self, index: int) -> int | None:
        """States of a normal confounder of an h-node; None if its mechanisms cannot read one."""
        variables = self.variables(self.plan.hnodes[index])
        if not all(reads_numbers(self.dcm.mechanism(name)) for name in variables):
            return None
        return normal_states(self.dcm, variables)

    def _wider(self, index: int) -> dict[str, int] | None:
        """Four times the first states of an h-node with numbers; None if the sum over them would be too large."""
        hnode = self.plan.hnodes[index]
        states = {name: _FACTOR * self.first_states[name] for name in self.confounders(hnode)}
        combinations = [
            math.prod(states[self.dcm.confounders[i]] for i in self.dcm.latents[name]) for name in hnode.variables
        ]
        return states if max(combinations) <= _MAX_COMBINATIONS else None

    def may_gain(self, index: int) -> bool:
        """Whether more states could improve the fit, and would fit in memory."""
        hnode = self.plan.hnodes[index]
        if not self.can_stack(hnode):
            if self.growths[index] == 0:
                return self._normal_states(index) is not None or self._wider(index) is not None
            return self.growths[index] == 1 and self.is_normal(index) and self._wider(index) is not None
        module = self.module(index)
        return (
            ModuleStack.accepts(module, self.config)
            and may_lack_states(module)
            and may_double(self.dcm.graph, hnode.variables, self.configurations, self.dcm.states)
        )

    def grow(self, index: int, loss: float | None = None) -> None:
        """Reset an h-node, with more states of its confounders.

        Tables get twice as many. Numbers get normal confounders first, and if those are not better, four times their
        first number of states.

        Args:
            index: Index of the h-node in the plan.
            loss: Its held-out loss.
        """
        hnode = self.plan.hnodes[index]
        self.growths[index] += 1
        self.loss_before_growth[index] = loss
        if self.can_stack(hnode):
            self.resize({name: 2 * self.dcm.states[name] for name in self.confounders(hnode)})
            return
        normal = self._normal_states(index) if self.is_normal(index) else None
        wider = self._wider(index)
        if normal is not None:
            self.resize(dict.fromkeys(self.confounders(hnode), normal))
        elif wider is not None:
            self.resize(wider)

    def resize(self, states: Mapping[str, int]) -> None:
        """Reset some confounders and the mechanisms of their children, with other numbers of states."""
        self.dcm.adopt(self._build({**self.dcm.states, **states}), states)

    # ------------------------------------------------------------------ kept weights and records

    def keep(self, index: int) -> bool:
        """Take over the weights of an h-node of ``init`` with the same fingerprint; whether that was possible."""
        if self.initial_records[index] is None or self.init is None:
            return False
        hnode, model = self.plan.hnodes[index], self.init[0]
        other_index = {frozenset(children): i for i, (_, children) in enumerate(model.graph.confounders)}
        try:
            states = {
                name: model.states[model.confounders[other_index[frozenset(children)]]]
                for name, children in self.dcm.graph.confounders
                if set(children) & set(hnode.variables)
            }
            if any(self.dcm.states[name] != count for name, count in states.items()):
                self.resize(states)
            for name in hnode.variables:
                restore_encoders(self.dcm.mechanism(name), model.mechanism(name).encoders)
                self.dcm.mechanism(name).load_state_dict(model.mechanism(name).state_dict())
            with torch.no_grad():
                for i, (_, children) in enumerate(self.dcm.graph.confounders):
                    if set(children) & set(hnode.variables):
                        self.dcm.priors[i].copy_(model.priors[other_index[frozenset(children)]])
        except (KeyError, RuntimeError, ValueError):
            return False
        return True

    def complete(self, index: int, record: dict[str, Any]) -> None:
        """Add fingerprint, numbers of states and uninformative confounders to the record of a trained h-node."""
        hnode = self.plan.hnodes[index]
        record["fingerprint"] = self.fingerprints[index]
        used = self.confounders(hnode)
        if used and self.is_adversarial(hnode):
            # measured during training by changing the state alone
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
    """Whether the mechanism of an unconfounded variable must be trained against a critic, not by its own loss."""
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
