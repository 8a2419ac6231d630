"""Many small h-nodes of one shape trained as one: stacked parameters, one optimiser step for all of them.

An h-node's own step is a few dozen operations on a few thousand numbers, and most of its time goes into starting
them. Stacked along a first axis M, the same operations do M h-nodes at once. What differs in size (levels of parents,
configurations, rows) is padded: padded parents and configurations meet no row, and padded rows have weight zero, so
that every module's loss and gradient are those it has alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdcm.dcm import DCM
from mdcm.mechanisms import Categorical
from mdcm.mechanisms.categorical import ParentInput
from mdcm.training.config import CPU, TrainConfig
from mdcm.training.losses import Losses, Sample, effective_rows
from mdcm.training.objectives.likelihood import contract, distinct_rows, elimination_order
from mdcm.training.objectives.problems import FULL_BATCH_ROWS, errors_allowed, full_batch_schedule
from mdcm.training.rows import FitRows

__all__ = ["Bank", "Module", "StackLoad", "network_table"]

# entries of a table beyond which a mechanism stays a network: a few rows of each would be more than most data have
_MOST_ENTRIES = 1 << 17


@dataclass(frozen=True)
class _Part:
    """One fit's rows of one module, equal rows merged.

    Attributes:
        features: For each fitted member the levels of its parents at every configuration, float32 ``[c, t]``, a one
            for each parent.
        slots: For each fitted member the configuration of its parents and its value, ``[r]`` each.
        numbers: For each fitted member the number of its parents' values among all that are possible, ``[r]``; empty
            where :attr:`Module.has_tables` is not.
        inverse: The merged row of every row, numpy int64.
        weight: Weight of every row, or None.
        fit: Where it came from.
    """

    features: tuple[Tensor, ...]
    slots: tuple[tuple[Tensor, Tensor], ...]
    numbers: tuple[Tensor, ...]
    inverse: np.ndarray[Any, Any]
    distinct: int
    fit: FitRows


class Module:
    """One h-node of categorical variables with categorical parents, ready to be stacked.

    Args:
        dcm: The model.
        members: Its variables in topological order.
        fits: The rows of every fit.

    Attributes:
        shape: What modules of one bank have in common.
        sizes: Sizes of its parts, which are padded in a stack.
        has_tables: Whether every mechanism is small enough to be written as a table.
        distinct: Distinct rows of all fits together.
    """

    def __init__(self, dcm: DCM, members: Sequence[str], fits: Sequence[FitRows]) -> None:
        self.members = tuple(members)
        self.mechanisms: list[Categorical] = []
        for name in members:
            mechanism = dcm.mechanism(name)
            assert isinstance(mechanism, Categorical)
            self.mechanisms.append(mechanism)
        used = list(dict.fromkeys(index for name in members for index in dcm.latents[name]))
        self.latents = [tuple(used.index(index) for index in dcm.latents[name]) for name in members]
        self.priors = [dcm.priors[index] for index in used]
        self.confounders = {dcm.confounders[index]: place for place, index in enumerate(used)}
        self.fits = tuple(fits)
        self.has_tables = all(m.combinations * m.levels <= _MOST_ENTRIES for m in self.mechanisms)
        self.parts = [self._part(fit) for fit in fits]
        self.distinct = sum(part.distinct for part in self.parts)
        self.errors = errors_allowed(self.worth(None), self.distinct)
        places = [tuple(self.members.index(name) for name in fit.variables) for fit in fits]
        self.shape = (
            tuple(
                (m.hidden, m.layers, m.levels, own, tuple(len(self.priors[i]) for i in own))
                for m, own in zip(self.mechanisms, self.latents, strict=True)
            ),
            tuple(places),
        )
        self.sizes = tuple(
            (part.distinct, *(len(one) for one in part.features), *(one.shape[1] for one in part.features))
            for part in self.parts
        )

    def cost_at(self, sizes: Sequence[Sequence[int]]) -> int:
        """Numbers in the largest array of a step if its parts had these sizes."""
        largest = 1
        for place, size in zip(self.shape[1], sizes, strict=True):
            for number, member in enumerate(place):
                mechanism = self.mechanisms[member]
                states = int(np.prod([len(self.priors[i]) for i in self.latents[member]], dtype=np.int64))
                largest = max(largest, size[1 + number] * states * mechanism.hidden, size[0] * states)
        return largest

    @staticmethod
    def fits_in_a_bank(dcm: DCM, members: Sequence[str]) -> bool:
        """Whether all mechanisms are plain categorical ones with categorical parents."""
        found = [dcm.mechanism(name) for name in members]
        return all(type(mechanism) is Categorical and mechanism.tabular for mechanism in found)

    def _part(self, fit: FitRows) -> _Part:
        count = len(fit.place)
        values, inverse = distinct_rows({name: fit.values[name] for name in sorted(fit.values)}, count)
        distinct = len(next(iter(values.values())))
        features, slots, numbers = [], [], []
        for name in fit.variables:
            mechanism = self.mechanisms[self.members.index(name)]
            if self.has_tables:
                number = torch.zeros(distinct, dtype=torch.int64)
                for parent in mechanism.parents:
                    number = number * parent.num_levels + values[parent.name]
                numbers.append(number)
            parents, config = distinct_rows(
                {parent.name: values[parent.name] for parent in mechanism.parents}, distinct
            )
            configs = int(config.max()) + 1
            hot = [F.one_hot(parents[p.name], p.num_levels).float() for p in mechanism.parents]
            features.append(torch.cat(hot, 1) if hot else torch.zeros(configs, 0))
            slots.append((config, values[name]))
        return _Part(tuple(features), tuple(slots), tuple(numbers), inverse.numpy(), distinct, fit)

    def prepare(self) -> None:
        """Start every member from its own frequencies."""
        for name, mechanism in zip(self.members, self.mechanisms, strict=True):
            for fit in self.fits:
                if name in fit.variables:
                    mechanism.prepare({p.name: fit.values[p.name] for p in mechanism.parents}, fit.values[name])
                    break

    def weights(self, rows: Tensor | None) -> tuple[list[np.ndarray[Any, Any]], int]:
        """Share of the weight that every merged row has among the given rows, for each fit, and their number."""
        found, number = [], 0
        for part in self.parts:
            local = part.fit.local(rows)
            inverse = part.inverse if local is None else part.inverse[local.numpy()]
            found.append(np.bincount(inverse, part.fit.mass(local).numpy(), part.distinct))
            number += len(inverse)
        total = sum(float(one.sum()) for one in found)
        return [one / total for one in found], number

    def worth(self, rows: Tensor | None) -> float:
        """Equally weighted rows that the given rows are worth; None stands for all of them."""
        return effective_rows(part.fit.mass(part.fit.local(rows)) for part in self.parts)

    def sample(self, rows: Tensor) -> Sample:
        """What losses of the merged rows are where these rows are judged."""
        chosen = [part.fit.local(rows) for part in self.parts]
        merged = [
            (part.inverse if own is None else part.inverse[own.numpy()], part.distinct)
            for part, own in zip(self.parts, chosen, strict=True)
        ]
        return Sample.build(self.fits, chosen, merged)

    def layers(self, place: int) -> list[Tensor]:
        """Weights of one member, with those of its parents joined."""
        mechanism = self.mechanisms[place]
        tables: list[Tensor] = [module.weight for module in mechanism.inputs if isinstance(module, ParentInput)]
        joined = torch.cat(tables) if tables else torch.zeros(0, mechanism.hidden)
        inner = [one for layer in mechanism.inner for one in (layer.weight, layer.bias)]
        return [joined, mechanism.bias, *mechanism.states, *inner, mechanism.out.weight, mechanism.out.bias]

    @torch.no_grad()
    def store(self, place: int, weights: Sequence[Tensor]) -> None:
        """Put weights in the order of :meth:`layers` back, padding left out."""
        mechanism = self.mechanisms[place]
        start = 0
        for module in mechanism.inputs:
            assert isinstance(module, ParentInput)
            module.weight.copy_(weights[0][start : start + len(module.weight)])
            start += len(module.weight)
        for own, found in zip(self.layers(place)[1:], weights[1:], strict=True):
            own.copy_(found)


@dataclass(frozen=True)
class StackLoad:
    """What a step of stacked modules has to do.

    Attributes:
        module: One of them.
        sizes: Sizes of its parts, padded to the largest.
        count: Number of modules.
    """

    module: Module
    sizes: tuple[tuple[int, ...], ...]
    count: int = 1

    @property
    def shape(self) -> Hashable:
        """What modules of one stack have in common."""
        return self.module.shape

    @property
    def order(self) -> tuple[object, ...]:
        """Key by which neighbours differ least in size."""
        return (self.work, self.sizes)

    @property
    def work(self) -> int:
        """Numbers in the largest array of a step."""
        return self.module.cost_at(self.sizes) * self.count

    def stacked(self, other: StackLoad) -> StackLoad:
        """The load of both in one stack."""
        parts = zip(self.sizes, other.sizes, strict=True)
        sizes = tuple(tuple(max(pair) for pair in zip(*part, strict=True)) for part in parts)
        return StackLoad(self.module, sizes, self.count + other.count)


class Bank:
    """Several modules of one shape as one training problem.

    Args:
        modules: The modules.
        config: Settings.
        device: Where it is trained; the mechanisms stay where they are.

    Attributes:
        modules: Those that are still trained.
        parameters: Stacked weights, first axis the modules.
        decays: Weight decay of each of them.
        schedule: Of the optimiser, the same for all.
        refit: Whether to train again on all rows.
    """

    refit = True
    # every step sees all rows
    repeats = True

    def __init__(self, modules: Sequence[Module], config: TrainConfig, device: torch.device = CPU) -> None:
        self.device = device
        for module in modules:
            module.prepare()
        self.all = tuple(modules)
        self.schedule = full_batch_schedule(config)
        self.restart()

    def restart(self) -> None:
        """Train all modules again, from the weights that their mechanisms have."""
        self._stack(self.all)
        self.parameters = [nn.Parameter(one.to(self.device)) for one in self._initial()]
        self.decays = [self.schedule.weight_decay] * len(self.parameters)

    @staticmethod
    def suits(module: Module, config: TrainConfig) -> bool:
        """Whether every step can see all rows of a module."""
        return module.distinct <= max(config.batch_size or 0, FULL_BATCH_ROWS)

    def _stack(self, modules: Sequence[Module]) -> None:
        """Lay out tables, slots and features of these modules side by side, padded to the largest."""
        self.modules = tuple(modules)
        first, count = modules[0], len(modules)
        self.scopes = first.latents
        self.mechanisms = first.mechanisms
        self.inputs = [
            max(sum(p.num_levels for p in m.mechanisms[k].parents) for m in modules) for k in range(len(first.members))
        ]
        self.parts = []
        for number, places in enumerate(first.shape[1]):
            parts = [module.parts[number] for module in modules]
            rows = max(part.distinct for part in parts)
            features, slots = [], []
            for k, place in enumerate(places):
                configs = max(len(part.features[k]) for part in parts)
                levels = self.mechanisms[place].levels
                hot = torch.zeros(count, configs, self.inputs[place])
                slot = torch.zeros(count, rows, dtype=torch.int64)
                for m, part in enumerate(parts):
                    feature, (config, value) = part.features[k], part.slots[k]
                    hot[m, : len(feature), : feature.shape[1]] = feature
                    slot[m, : part.distinct] = config * levels + value
                slot += torch.arange(count)[:, None] * (configs * levels)
                features.append(hot.to(self.device))
                slots.append(slot.view(-1).to(self.device))
            order = elimination_order([self.scopes[place] for place in places])
            self.parts.append((places, features, slots, rows, order))

    def _initial(self) -> list[Tensor]:
        stacked = []
        for place in range(len(self.mechanisms)):
            columns = zip(*(module.layers(place) for module in self.modules), strict=True)
            for number, column in enumerate(columns):
                if number == 0:
                    wide = torch.zeros(len(self.modules), self.inputs[place], column[0].shape[1])
                    for m, one in enumerate(column):
                        wide[m, : len(one)] = one.detach()
                    stacked.append(wide)
                else:
                    stacked.append(torch.stack([one.detach() for one in column]))
        stacked += [torch.stack([m.priors[i].detach() for m in self.modules]) for i in range(len(self.all[0].priors))]
        return stacked

    def narrow(self, kept: Sequence[int]) -> None:
        """Train only these modules from now on; weights, and who judges, must be set anew."""
        widths = self.inputs
        self._stack([self.modules[place] for place in kept])
        # the width of the padded parents stays, so that weights and averages need no other change
        self.inputs, narrow = widths, self.inputs
        for places, features, *_ in self.parts:
            for k, place in enumerate(places):
                features[k] = F.pad(features[k], (0, widths[place] - narrow[place]))
        index = torch.tensor(list(kept))
        self.parameters = [nn.Parameter(one.detach()[index]) for one in self.parameters]

    def _row_weights(self, rows: Sequence[Tensor | None]) -> list[Tensor]:
        found = [module.weights(own) for module, own in zip(self.modules, rows, strict=True)]
        stacked = []
        for number, part in enumerate(self.parts):
            weight = torch.zeros(len(self.modules), part[3])
            for m, (weights, _) in enumerate(found):
                weight[m, : len(weights[number])] = torch.from_numpy(weights[number]).float()
            stacked.append(weight.to(self.device))
        return stacked

    def set_training(self, rows: Sequence[Tensor | None]) -> None:
        """Train every module on these rows of its own from now on; None means all of them."""
        self.weight = self._row_weights(rows)

    def set_validation(self, rows: Sequence[Tensor]) -> None:
        """Validate every module on these rows of its own from now on."""
        self.samples = [module.sample(own) for module, own in zip(self.modules, rows, strict=True)]

    def losses(self, step: int) -> Tensor:
        """Training loss of every module, ``[M]``."""
        return torch.stack(
            [(one * weight).sum(1) for one, weight in zip(self.row_losses(), self.weight, strict=True)]
        ).sum(0)

    @torch.no_grad()
    def validate(self) -> list[Losses]:
        """Losses of every module on its held-out rows."""
        losses = self.row_losses()
        return [
            # without the padding, whose length changes when modules are let go of
            Losses(
                torch.cat([one[m, : part.distinct] for one, part in zip(losses, module.parts, strict=True)]),
                sample,
                module.errors,
            )
            for m, (module, sample) in enumerate(zip(self.modules, self.samples, strict=True))
        ]

    def validation(self, index: int, loss: Tensor) -> Losses:
        """Losses of a module's held-out rows that :meth:`validate` gave before."""
        return Losses(loss, self.samples[index], self.modules[index].errors)

    def row_losses(self) -> list[Tensor]:
        """Negative log-likelihood of every merged row, ``[M, r]``, for each fit; that of padding means nothing."""
        weights = iter(self.parameters)
        layers = []
        for mechanism, scope in zip(self.mechanisms, self.scopes, strict=True):
            layers.append([next(weights) for _ in range(2 + len(scope) + 2 * mechanism.layers)])
        priors = [prior.softmax(1) for prior in weights]
        count = len(self.modules)
        found = []
        for places, features, slots, rows, order in self.parts:
            logs, factors = [], []
            for place, feature, slot in zip(places, features, slots, strict=True):
                scope = self.scopes[place]
                table = network_table(layers[place], feature, len(scope))
                if not scope:
                    logs.append(table.view(-1).index_select(0, slot))
                    continue
                # as for one module alone: one scale per entry of the table, no gradient through it
                entries = table.movedim(-1, 2).flatten(0, 2)
                top = entries.detach().flatten(1).amax(1)
                scaled = (entries - top.view(-1, *(1,) * len(scope))).exp()
                logs.append(top.index_select(0, slot))
                factors.append((scope, scaled.index_select(0, slot)))
            if factors:
                logs.append(contract(factors, priors, order))
            total = torch.stack(logs).sum(0) if len(logs) > 1 else logs[0]
            found.append(-total.view(count, rows))
        return found

    @property
    def weights(self) -> list[Tensor]:
        """Views of the parameters, ``[M, ...]``, without gradient."""
        return [parameter.detach() for parameter in self.parameters]

    def constrain(self) -> None:
        """Leave the parameters as they are: they have no constraints."""

    def store(self, weights: Sequence[Tensor]) -> None:
        """Put stacked weights of all modules, those no longer trained included, into their mechanisms."""
        for m, module in enumerate(self.all):
            given = iter(weights)
            for place, mechanism in enumerate(module.mechanisms):
                number = 2 + len(module.latents[place]) + 2 * mechanism.layers
                module.store(place, [next(given)[m] for _ in range(number)])
            with torch.no_grad():
                for prior, found in zip(module.priors, given, strict=True):
                    prior.copy_(found[m])


def network_table(layers: Sequence[Tensor], feature: Tensor, latents: int) -> Tensor:
    """Log probabilities at every configuration and combination of states, ``[M, c, s_1, ..., s_d, K]``."""
    joined, bias, *rest = layers
    first = torch.baddbmm(bias[:, None], feature, joined)
    states, rest = rest[:latents], rest[latents:]
    shape = list(first.shape[:2])
    first = first.view(*shape, *(1,) * latents, first.shape[-1])
    for axis, weight in enumerate(states):
        modules, size, hidden = weight.shape
        first = first + weight.view(modules, 1, *(1,) * axis, size, *(1,) * (latents - 1 - axis), hidden)
        shape.append(size)
    activation = F.silu(first.reshape(shape[0], -1, first.shape[-1]))
    for weight, offset in zip(rest[:-2:2], rest[1:-2:2], strict=True):
        activation = F.silu(torch.baddbmm(offset[:, None], activation, weight.mT))
    logits = torch.baddbmm(rest[-1][:, None], activation, rest[-2].mT)
    return logits.log_softmax(-1).view(*shape, -1)
