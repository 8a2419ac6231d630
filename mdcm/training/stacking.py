"""Stacks of small h-nodes of one shape: stacked parameters, and one optimiser step for all of them.

A training step of one small h-node is a few dozen operations on a few thousand numbers, and most of its time is launch
overhead. Stacked along a first axis M, the same operations train M h-nodes at once. Different sizes (levels of parents,
configurations, rows) are padded: padded parents and configurations occur in no row, and padded rows have weight zero,
so that loss and gradient of every module are the same as without the stack.
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
from mdcm.training.config import TrainConfig
from mdcm.training.devices import CPU
from mdcm.training.losses import HeldOutLosses, HeldOutSample, effective_rows
from mdcm.training.objectives.likelihood import contract, distinct_rows, elimination_order
from mdcm.training.objectives.problems import FULL_BATCH_ROWS, errors_allowed, full_batch_schedule
from mdcm.training.rows import FitRows

__all__ = ["DiscreteModule", "ModuleStack", "StackLoad", "network_table"]

# largest table, in entries, that replaces a network: most data sets have fewer rows than a few per entry
_MOST_ENTRIES = 1 << 17


@dataclass(frozen=True)
class _Part:
    """Rows of one fit of a module, with equal rows merged.

    Attributes:
        features: For each fitted member the one-hot levels of its parents at every configuration, float32 ``[c, t]``.
        slots: For each fitted member the configuration of its parents and its value, ``[r]`` each.
        numbers: For each fitted member the index of its parents' values among all combinations, ``[r]``; empty without
            :attr:`DiscreteModule.has_tables`.
        inverse: Merged row of every row, numpy int64.
        distinct: Number r of merged rows.
        fit: The unmerged rows.
    """

    features: tuple[Tensor, ...]
    slots: tuple[tuple[Tensor, Tensor], ...]
    numbers: tuple[Tensor, ...]
    inverse: np.ndarray[Any, Any]
    distinct: int
    fit: FitRows


class DiscreteModule:
    """An h-node of categorical variables with categorical parents, which can be stacked.

    Args:
        dcm: The model.
        members: Variables of the h-node in topological order.
        fits: The rows of every fit.

    Attributes:
        shape: Shape that all modules of a stack must share.
        sizes: Sizes of its parts, which are padded in a stack.
        has_tables: Whether every mechanism is small enough for a table.
        distinct: Number of distinct rows of all fits together.
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
        self.fits = tuple(fits)
        self.has_tables = all(m.combinations * m.levels <= _MOST_ENTRIES for m in self.mechanisms)
        self.parts = [self._part(fit) for fit in fits]
        self.distinct = sum(part.distinct for part in self.parts)
        self.errors = errors_allowed(self.effective_rows(None), self.distinct)
        fitted = [tuple(self.members.index(name) for name in fit.variables) for fit in fits]
        self.shape = (
            tuple(
                (m.hidden, m.layers, m.levels, scope, tuple(len(self.priors[i]) for i in scope))
                for m, scope in zip(self.mechanisms, self.latents, strict=True)
            ),
            tuple(fitted),
        )
        self.sizes = tuple(
            (part.distinct, *(len(feature) for feature in part.features), *(f.shape[1] for f in part.features))
            for part in self.parts
        )

    def cost_at(self, sizes: Sequence[Sequence[int]]) -> int:
        """Size of the largest array of a step if the parts had these sizes."""
        largest = 1
        for fitted, size in zip(self.shape[1], sizes, strict=True):
            for number, member in enumerate(fitted):
                mechanism = self.mechanisms[member]
                states = int(np.prod([len(self.priors[i]) for i in self.latents[member]], dtype=np.int64))
                largest = max(largest, size[1 + number] * states * mechanism.hidden, size[0] * states)
        return largest

    @staticmethod
    def supports(dcm: DCM, members: Sequence[str]) -> bool:
        """Whether all mechanisms are plain categorical ones with categorical parents."""
        mechanisms = [dcm.mechanism(name) for name in members]
        return all(type(mechanism) is Categorical and mechanism.tabular for mechanism in mechanisms)

    def _part(self, fit: FitRows) -> _Part:
        count = len(fit.index)
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
        """Initialise every member with its frequencies."""
        for name, mechanism in zip(self.members, self.mechanisms, strict=True):
            for fit in self.fits:
                if name in fit.variables:
                    mechanism.prepare({p.name: fit.values[p.name] for p in mechanism.parents}, fit.values[name])
                    break

    def weights(self, rows: Tensor | None) -> tuple[list[np.ndarray[Any, Any]], int]:
        """For each fit the share of every merged row in the weight of the given rows; and the number of these."""
        weights, number = [], 0
        for part in self.parts:
            local = part.fit.local(rows)
            inverse = part.inverse if local is None else part.inverse[local.numpy()]
            weights.append(np.bincount(inverse, part.fit.mass(local).numpy(), part.distinct))
            number += len(inverse)
        total = sum(float(weight.sum()) for weight in weights)
        return [weight / total for weight in weights], number

    def effective_rows(self, rows: Tensor | None) -> float:
        """Effective number of the given rows; None stands for all rows."""
        return effective_rows(part.fit.mass(part.fit.local(rows)) for part in self.parts)

    def sample(self, rows: Tensor) -> HeldOutSample:
        """Sample of the given rows, for losses of the merged rows."""
        chosen = [part.fit.local(rows) for part in self.parts]
        merged = [
            (part.inverse if local is None else part.inverse[local.numpy()], part.distinct)
            for part, local in zip(self.parts, chosen, strict=True)
        ]
        return HeldOutSample.build(self.fits, chosen, merged)

    def layers(self, member: int) -> list[Tensor]:
        """Weights of one member, with those of its parents concatenated."""
        mechanism = self.mechanisms[member]
        tables: list[Tensor] = [module.weight for module in mechanism.inputs if isinstance(module, ParentInput)]
        joined = torch.cat(tables) if tables else torch.zeros(0, mechanism.hidden)
        inner = [parameter for layer in mechanism.inner for parameter in (layer.weight, layer.bias)]
        return [joined, mechanism.bias, *mechanism.states, *inner, mechanism.out.weight, mechanism.out.bias]

    @torch.no_grad()
    def store(self, member: int, weights: Sequence[Tensor]) -> None:
        """Write weights in the order of :meth:`layers` into the mechanism, without padding."""
        mechanism = self.mechanisms[member]
        start = 0
        for module in mechanism.inputs:
            assert isinstance(module, ParentInput)
            module.weight.copy_(weights[0][start : start + len(module.weight)])
            start += len(module.weight)
        for parameter, weight in zip(self.layers(member)[1:], weights[1:], strict=True):
            parameter.copy_(weight)


@dataclass(frozen=True)
class StackLoad:
    """Size of one training step of stacked modules.

    Attributes:
        module: One of them.
        sizes: Sizes of its parts, padded to the largest.
        count: Number of modules.
    """

    module: DiscreteModule
    sizes: tuple[tuple[int, ...], ...]
    count: int = 1

    @property
    def shape(self) -> Hashable:
        """Shape that all modules of a stack must share."""
        return self.module.shape

    @property
    def order(self) -> tuple[object, ...]:
        """Sort key that puts modules of similar sizes next to each other."""
        return (self.work, self.sizes)

    @property
    def work(self) -> int:
        """Size of the largest array of a step."""
        return self.module.cost_at(self.sizes) * self.count

    def stacked(self, other: StackLoad) -> StackLoad:
        """Load of both in one stack."""
        parts = zip(self.sizes, other.sizes, strict=True)
        sizes = tuple(tuple(max(pair) for pair in zip(*part, strict=True)) for part in parts)
        return StackLoad(self.module, sizes, self.count + other.count)


class ModuleStack:
    """Several modules of one shape as one training problem.

    Args:
        modules: The modules.
        config: Settings.
        device: Device of the training; the mechanisms stay on theirs.

    Attributes:
        all: All modules.
        modules: The modules in training.
        parameters: Stacked weights; the modules are the first axis.
        decays: Weight decay of each parameter.
        schedule: Schedule of the optimiser.
        refit: Whether to train again on all rows.
    """

    refit = True
    # every step sees all rows
    repeats = True

    def __init__(self, modules: Sequence[DiscreteModule], config: TrainConfig, device: torch.device = CPU) -> None:
        self.device = device
        for module in modules:
            module.prepare()
        self.all = tuple(modules)
        self.schedule = full_batch_schedule(config)
        self.restart()

    def restart(self) -> None:
        """Train all modules again, from the weights of their mechanisms."""
        self._stack(self.all)
        self.parameters = [nn.Parameter(weight.to(self.device)) for weight in self._initial()]
        self.decays = [self.schedule.weight_decay] * len(self.parameters)

    @staticmethod
    def accepts(module: DiscreteModule, config: TrainConfig) -> bool:
        """Whether every step can see all rows of a module."""
        return module.distinct <= max(config.batch_size or 0, FULL_BATCH_ROWS)

    def _stack(self, modules: Sequence[DiscreteModule]) -> None:
        """Stack features and slots of these modules, padded to the largest."""
        self.modules = tuple(modules)
        first, count = modules[0], len(modules)
        self.scopes = first.latents
        self.mechanisms = first.mechanisms
        self.inputs = [
            max(sum(p.num_levels for p in m.mechanisms[k].parents) for m in modules) for k in range(len(first.members))
        ]
        self.parts = []
        for number, members in enumerate(first.shape[1]):
            parts = [module.parts[number] for module in modules]
            rows = max(part.distinct for part in parts)
            features, slots = [], []
            for k, member in enumerate(members):
                configs = max(len(part.features[k]) for part in parts)
                levels = self.mechanisms[member].levels
                hot = torch.zeros(count, configs, self.inputs[member])
                slot = torch.zeros(count, rows, dtype=torch.int64)
                for m, part in enumerate(parts):
                    feature, (config, value) = part.features[k], part.slots[k]
                    hot[m, : len(feature), : feature.shape[1]] = feature
                    slot[m, : part.distinct] = config * levels + value
                slot += torch.arange(count)[:, None] * (configs * levels)
                features.append(hot.to(self.device))
                slots.append(slot.view(-1).to(self.device))
            order = elimination_order([self.scopes[member] for member in members])
            self.parts.append((members, features, slots, rows, order))

    def _initial(self) -> list[Tensor]:
        stacked = []
        for member in range(len(self.mechanisms)):
            layers = zip(*(module.layers(member) for module in self.modules), strict=True)
            for number, layer in enumerate(layers):
                if number == 0:
                    padded = torch.zeros(len(self.modules), self.inputs[member], layer[0].shape[1])
                    for m, weight in enumerate(layer):
                        padded[m, : len(weight)] = weight.detach()
                    stacked.append(padded)
                else:
                    stacked.append(torch.stack([weight.detach() for weight in layer]))
        stacked += [torch.stack([m.priors[i].detach() for m in self.modules]) for i in range(len(self.all[0].priors))]
        return stacked

    def narrow(self, indices: Sequence[int]) -> None:
        """Train only these modules from now on; training and validation rows must be set again."""
        widths = self.inputs
        self._stack([self.modules[index] for index in indices])
        # the padded width of the parents stays, so that weights and averages keep their shapes
        self.inputs, narrow = widths, self.inputs
        for members, features, *_ in self.parts:
            for k, member in enumerate(members):
                features[k] = F.pad(features[k], (0, widths[member] - narrow[member]))
        kept = torch.tensor(list(indices))
        self.parameters = [nn.Parameter(parameter.detach()[kept]) for parameter in self.parameters]

    def _row_weights(self, rows: Sequence[Tensor | None]) -> list[Tensor]:
        weights_of = [module.weights(chosen)[0] for module, chosen in zip(self.modules, rows, strict=True)]
        stacked = []
        for number, part in enumerate(self.parts):
            weight = torch.zeros(len(self.modules), part[3])
            for m, weights in enumerate(weights_of):
                weight[m, : len(weights[number])] = torch.from_numpy(weights[number]).float()
            stacked.append(weight.to(self.device))
        return stacked

    def set_training(self, rows: Sequence[Tensor | None]) -> None:
        """Set the training rows of every module; None stands for all rows."""
        self.weight = self._row_weights(rows)

    def set_validation(self, rows: Sequence[Tensor]) -> None:
        """Set the held-out rows of every module."""
        self.samples = [module.sample(chosen) for module, chosen in zip(self.modules, rows, strict=True)]

    def losses(self, step: int) -> Tensor:
        """Training loss of every module, ``[M]``."""
        return torch.stack(
            [(loss * weight).sum(1) for loss, weight in zip(self.row_losses(), self.weight, strict=True)]
        ).sum(0)

    @torch.no_grad()
    def validate(self) -> list[HeldOutLosses]:
        """Losses of every module on its held-out rows."""
        losses = self.row_losses()
        return [
            # without the padding, whose length changes when modules are dropped
            HeldOutLosses(
                torch.cat([loss[m, : part.distinct] for loss, part in zip(losses, module.parts, strict=True)]),
                sample,
                module.errors,
            )
            for m, (module, sample) in enumerate(zip(self.modules, self.samples, strict=True))
        ]

    def validation(self, index: int, loss: Tensor) -> HeldOutLosses:
        """Restore an earlier result of :meth:`validate` for one module."""
        return HeldOutLosses(loss, self.samples[index], self.modules[index].errors)

    def row_losses(self) -> list[Tensor]:
        """Negative log-likelihood of every merged row, ``[M, r]`` for each fit; values of padding are undefined."""
        weights = iter(self.parameters)
        layers = []
        for mechanism, scope in zip(self.mechanisms, self.scopes, strict=True):
            layers.append([next(weights) for _ in range(2 + len(scope) + 2 * mechanism.layers)])
        priors = [prior.softmax(1) for prior in weights]
        count = len(self.modules)
        losses = []
        for members, features, slots, rows, order in self.parts:
            logs, factors = [], []
            for member, feature, slot in zip(members, features, slots, strict=True):
                scope = self.scopes[member]
                table = network_table(layers[member], feature, len(scope))
                if not scope:
                    logs.append(table.view(-1).index_select(0, slot))
                    continue
                # as without a stack: one scale per entry of the table, no gradient through it
                entries = table.movedim(-1, 2).flatten(0, 2)
                top = entries.detach().flatten(1).amax(1)
                scaled = (entries - top.view(-1, *(1,) * len(scope))).exp()
                logs.append(top.index_select(0, slot))
                factors.append((scope, scaled.index_select(0, slot)))
            if factors:
                logs.append(contract(factors, priors, order))
            total = torch.stack(logs).sum(0) if len(logs) > 1 else logs[0]
            losses.append(-total.view(count, rows))
        return losses

    @property
    def weights(self) -> list[Tensor]:
        """Views of the parameters, ``[M, ...]``, without gradient."""
        return [parameter.detach() for parameter in self.parameters]

    def constrain(self) -> None:
        """No constraints."""

    def store(self, weights: Sequence[Tensor]) -> None:
        """Write stacked weights of all modules, including finished ones, into their mechanisms."""
        for m, module in enumerate(self.all):
            remaining = iter(weights)
            for member, mechanism in enumerate(module.mechanisms):
                number = 2 + len(module.latents[member]) + 2 * mechanism.layers
                module.store(member, [next(remaining)[m] for _ in range(number)])
            with torch.no_grad():
                for prior, weight in zip(module.priors, remaining, strict=True):
                    prior.copy_(weight[m])


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
