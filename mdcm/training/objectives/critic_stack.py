"""Stacks of h-nodes that are trained against critics: stacked mechanisms and critics, with flat parameters.

A step of an h-node is some hundred operations on a few thousand numbers, and most of its time is spent on launching
them. Here every operation is done for all h-nodes at once. Mechanisms are evaluated in waves: a wave holds all those,
of any h-node and fit, whose parents are in earlier waves. They read their parents from a single array with a row for
every column of every fit. Different sizes (levels, parents, states, columns of critics) are padded with zeros; a padded
level has noise minus infinity, so that it never wins and has no gradient.

Random numbers are those that each h-node would draw by itself, so that its weights are those without a stack, up to
rounding.

A step reads from tensors what changes from step to step: its number, rates and temperature, and whether all earlier
results were finite; if not, it changes nothing. So on a CUDA device several steps are a single captured graph
(:mod:`mdcm.kernels.graphs`), and the host checks once per graph whether they were finite.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdcm import kernels
from mdcm.kernels import graphs
from mdcm.mechanisms.categorical import Categorical, ParentInput
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.objectives.critic_problem import (
    CRITIC,
    QUANTILE,
    RACES,
    SHARE,
    AdversarialProblem,
    StepLosses,
    stratified,
)
from mdcm.training.objectives.critics import Critics
from mdcm.training.objectives.generators import gumbel_
from mdcm.training.optimizer import adamw_step

__all__ = ["Stack"]


class _FlatParameters:
    """Parameters as rows of a matrix, with their averages and Adam's moments.

    Args:
        trained: Mask of the trained rows, bool ``[rows]``.
        shapes: Shapes of the tensors that form a row.
        config: Settings.

    Attributes:
        active: Mask of the rows in training; the others keep their bits, as long as their moments are zero.
        count: Number of steps taken, float32 ``[1]``.
    """

    def __init__(self, trained: Tensor, shapes: Sequence[tuple[int, ...]], config: AdversarialConfig) -> None:
        self.shapes = tuple(torch.Size(shape) for shape in shapes)
        self.config = config
        self.active = trained
        size, device = sum(shape.numel() for shape in self.shapes), trained.device
        self.weights, self.grads, self.first, self.second, self.average = torch.zeros(
            5, len(trained), size, device=device
        ).unbind(0)
        self.count = torch.zeros(1, device=device)

    def views(self, rows: Tensor) -> list[Tensor]:
        """Tensors of some rows ``[..., size]``, each ``[..., *shape]``."""
        parts = torch.split(rows, [shape.numel() for shape in self.shapes], -1)
        return [part.view(*rows.shape[:-1], *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def step(self, rate: Tensor, averaging: Tensor, sound: Tensor) -> None:
        """Take a step of Adam along the gradients, if ``sound``, then update the averages."""
        if not len(self.weights):
            return
        self.grads.masked_fill_(~self.active[:, None], 0.0)
        moments = ([self.first], [self.second], self.count)
        adamw_step([self.weights], [self.grads], *moments, rate, self.config.betas, skip=1.0 - sound.float())
        self.average.lerp_(self.weights, averaging)

    def release(self, row: int) -> None:
        """Stop training a row."""
        self.active[row] = False
        self.first[row] = 0.0
        self.second[row] = 0.0

    def finite(self) -> Tensor:
        """Whether the gradient of each row is finite or not used, bool ``[rows]``."""
        return self.grads.sum(1).isfinite() | ~self.active


@dataclass(frozen=True)
class _StackedParameter:
    """A parameter of a model, with views of its weights, both moments and average in a stack.

    Attributes:
        parameter: The parameter.
        views: Its weights, first moments, second moments and average.
        flat: The flat parameters that hold them.
        row: Their row.
    """

    parameter: Tensor
    views: Sequence[Tensor]
    flat: _FlatParameters
    row: int

    @staticmethod
    def at(parameter: Tensor, flat: _FlatParameters, row: int, part: int, rows: slice) -> _StackedParameter:
        """Parameter that is in ``rows`` of tensor ``part`` of a flat row."""
        arrays = (flat.weights, flat.first, flat.second, flat.average)
        return _StackedParameter(parameter, [flat.views(array[row])[part][rows] for array in arrays], flat, row)


@dataclass(frozen=True)
class _Wave:
    """Mechanisms that are evaluated at once.

    Attributes:
        rows: Their rows of the flat parameters.
        slots: Mechanism of each evaluation, int64 ``[slots]``; None if every mechanism is evaluated for a single fit.
        inputs: Rows of values that enter the first layer of each evaluation, int64 ``[slots * inputs]``.
        noise: Rows of noise of each evaluation, int64 ``[slots * levels]``.
        leaves: Views of the flat parameters, of which gradients are taken.
    """

    rows: slice
    slots: Tensor | None
    inputs: Tensor
    noise: Tensor
    leaves: Sequence[Tensor]


class Stack:
    """Problems that are stepped together; it holds their weights, moments and averages until :meth:`unpack`.

    Args:
        problems: The problems, of equal configuration and after equally many steps, whose mechanisms all have the same
            shape (:class:`~mdcm.training.objectives.critic_load.CriticLoad`).

    Attributes:
        active: Whether each problem is still trained.
        together: Number of steps per launch.

    References:
        Rahman & Kocaoglu (2024), Algorithm 4, for several h-nodes of a level of Algorithm 7 at once.
    """

    def __init__(self, problems: Sequence[AdversarialProblem]) -> None:
        self.problems = tuple(problems)
        self.config = problems[0].config
        self.device = problems[0].device
        self.active = [True] * len(problems)
        self.sides = [(m, side) for m, problem in enumerate(problems) for side in problem.sides]
        self.critics = Critics.joined([problem.critics for problem in problems])
        self._set_rows()
        self._set_parameters()
        self._set_noise()
        self._set_waves()
        self._set_steps()
        self._pack()

    # ---- layout

    def _set_rows(self) -> None:
        """Concatenate the data rows of all fits; quantiles of fit k are searched with k added."""
        width = self.critics.width
        tables = [F.pad(side.train.packed, (0, width - side.layout.width)) for _, side in self.sides]
        self._table = torch.cat(tables)
        shares = [side.train.cumulative / side.train.cumulative[-1] for _, side in self.sides]
        self._cumulative = torch.cat([fit + share for fit, share in enumerate(shares)])
        ends = torch.tensor([0, *itertools.accumulate(len(table) for table in tables)], device=self.device)
        self._first_row, self._last_row = ends[:-1, None], ends[1:, None] - 1
        self._offsets = torch.arange(len(self.sides), device=self.device)[:, None]

    def _set_parameters(self) -> None:
        """Assign mechanisms to waves, and parameters of all problems to flat rows."""
        waves: dict[int, list[tuple[int, str]]] = {}
        for m, problem in enumerate(self.problems):
            depth: dict[str, int] = {}
            for node in problem.generators.mechanisms:
                depth[node] = 1 + max((depth.get(parent, -1) for parent in problem.dcm.parents(node)), default=-1)
                waves.setdefault(depth[node], []).append((m, node))
        self._by_wave = [waves[wave] for wave in sorted(waves)]
        instances = list(itertools.chain.from_iterable(self._by_wave))
        self._priors = [
            (m, index) for m, problem in enumerate(self.problems) for index in problem.generators.confounders
        ]
        mechanisms = [self._mechanism(m, node) for m, node in instances]
        sizes = [len(self.problems[m].dcm.priors[index]) for m, index in self._priors]
        self._inputs = max(sum(p.num_levels for p in each.parents) + sum(each.latents) for each in mechanisms)
        self._levels = max(mechanism.levels for mechanism in mechanisms)
        self._states = max(sizes, default=1)
        self._packings = {size: kernels.Packing([size], device=self.device) for size in (self._levels, self._states)}
        hidden, layers = mechanisms[0].hidden, mechanisms[0].layers
        inner = [(hidden, hidden), (hidden,)] * (layers - 1)
        shapes = [(self._inputs, hidden), (hidden,), *inner, (self._levels, hidden), (self._levels,)]
        trained = [node in self.problems[m].generators.members for m, node in instances]
        self._flat = _FlatParameters(torch.tensor(trained, device=self.device), shapes, self.config)
        trained = [index in self.problems[m].generators.trained for m, index in self._priors]
        self._flat_priors = _FlatParameters(
            torch.tensor(trained, dtype=torch.bool, device=self.device), [(self._states,)], self.config
        )
        # of each problem, trained or not
        self._stacked: list[list[_StackedParameter]] = [[] for _ in self.problems]
        for row, ((m, _), mechanism) in enumerate(zip(instances, mechanisms, strict=True)):
            self._stacked[m] += [
                _StackedParameter.at(parameter, self._flat, row, part, rows)
                for parameter, part, rows in _tensors(mechanism)
            ]
        for row, (m, index) in enumerate(self._priors):
            prior = self.problems[m].dcm.priors[index]
            self._stacked[m].append(_StackedParameter.at(prior, self._flat_priors, row, 0, slice(len(prior))))
        # only the trained parameters, in the order of the problem's
        self._trained: list[list[_StackedParameter]] = []
        for problem, stacked in zip(self.problems, self._stacked, strict=True):
            by_parameter = {id(each.parameter): each for each in stacked}
            self._trained.append([by_parameter[id(parameter)] for parameter in problem.parameters])

    def _mechanism(self, m: int, node: str) -> Categorical:
        mechanism = self.problems[m].generators.mechanisms[node]
        assert isinstance(mechanism, Categorical)
        return mechanism

    def _set_noise(self) -> None:
        """Lay out the uniform numbers of all problems; an additional last row stays minus infinity."""
        ends = [0, *itertools.accumulate(problem.noise_rows for problem in self.problems)]
        self._spans = [slice(a, b) for a, b in itertools.pairwise(ends)]
        columns = self.config.batch_size * (self.config.critic_steps + 1)
        self._noise = torch.full((ends[-1] + 1, columns), -torch.inf, device=self.device)
        self._addressed = self.problems[0].addressed
        if self._addressed:
            addresses = zip(*(problem.addresses() for problem in self.problems), strict=True)
            self._seeds, self._sites = map(torch.cat, addresses)
        per_fit = [RACES + self.problems[m].generators.width for m, _ in self.sides]
        self._starts = [0, *itertools.accumulate(per_fit)][:-1]
        self._quantiles = self._index([start + QUANTILE for start in self._starts])
        self._shares = self._index([start + SHARE for start in self._starts])

    def _set_waves(self) -> None:
        """Assign the columns of every variable and fit to rows of values, and list the rows that every wave reads."""
        # rows of values: the real columns of each fit, a row of zeros, states, then the waves in order
        width = self.critics.width
        zero = len(self.sides) * width
        rows: list[dict[str | int, range]] = [
            {name: range(fit * width + s.start, fit * width + s.stop) for name, s in side.layout.slices.items()}
            for fit, (_, side) in enumerate(self.sides)
        ]
        # index in the stack of every problem's fits
        fits = [[fit for fit, (m, _) in enumerate(self.sides) if m == k] for k in range(len(self.problems))]
        end = zero + 1
        slots: list[int] = []
        noise: list[int] = []
        for number, (m, index) in enumerate(self._priors):
            generators = self.problems[m].generators
            for fit in fits[m]:
                rows[fit][index] = range(end, end + len(generators.dcm.priors[index]))
                noise += self._races(fit, generators.states[index], self._states)
                slots.append(number)
                end += self._states
        self._state_slots, self._state_noise = self._index(slots), self._index(noise)
        self._waves: list[_Wave] = []
        start = 0
        for wave in self._by_wave:
            slots, noise, inputs = [], [], []
            for number, (m, node) in enumerate(wave):
                generators = self.problems[m].generators
                sources: list[str | int] = [*generators.dcm.parents(node), *generators.dcm.latents[node]]
                for fit in (fits[m][k] for k in generators.makers[node]):
                    read = list(itertools.chain.from_iterable(rows[fit][source] for source in sources))
                    inputs += read + [zero] * (self._inputs - len(read))
                    noise += self._races(fit, generators.raced[node], self._levels)
                    rows[fit][node] = range(end, end + self._mechanism(m, node).levels)
                    slots.append(number)
                    end += self._levels
            span = slice(start, start := start + len(wave))
            leaves = [weights.detach().requires_grad_() for weights in self._flat.views(self._flat.weights[span])]
            repeated = None if len(slots) == len(wave) else self._index(slots)
            self._waves.append(_Wave(span, repeated, self._index(inputs), self._index(noise), leaves))
        self._prior_leaf = self._flat_priors.weights.detach().requires_grad_()
        columns: list[int] = []
        for fit, (_, side) in enumerate(self.sides):
            read = list(itertools.chain.from_iterable(rows[fit][name] for name in side.layout.slices))
            columns += read + [zero] * (width - len(read))
        self._columns = self._index(columns)

    def _set_steps(self) -> None:
        """Set the rates of all steps, and allocate the results of the steps of a launch."""
        config = self.config
        rates = []
        for step in range(1, config.steps + 1):
            temperature, rate = config.schedule(step)
            learning_rates = (config.learning_rate * rate, config.critic_learning_rate * rate)
            rates.append((temperature, *learning_rates, config.averaging(step)))
        self._clock = graphs.Clock(rates, self.device, self._noise.dtype)
        self._next = 1
        self._steps = graphs.Repeated(self._take, self.device)
        self.together = together = self._steps.together
        self._critic_losses, self._losses = torch.zeros(2, together, len(self.sides), device=self.device).unbind(0)
        rows = len(self._flat.weights) + len(self._flat_priors.weights)
        self._finite = torch.ones(together, rows, dtype=torch.bool, device=self.device)

    def _races(self, fit: int, span: slice, size: int) -> list[int]:
        """Rows of noise of a race, padded with the row of minus infinity."""
        start = self._starts[fit] + RACES
        rows = list(range(start + span.start, start + span.stop))
        return rows + [len(self._noise) - 1] * (size - len(rows))

    def _index(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.int64, device=self.device)

    # ---- exchange with the problems

    @torch.no_grad()
    def _pack(self) -> None:
        """Copy weights, moments and averages from the problems."""
        for stacked, trained, problem in zip(self._stacked, self._trained, self.problems, strict=True):
            for each in stacked:
                for view in (each.views[0], each.views[3]):
                    view.copy_(each.parameter)
            moments = (problem.moments, problem.squares, problem.counts)
            for each, average, first, second, count in zip(trained, problem.average, *moments, strict=True):
                each.views[3].copy_(average)
                each.flat.count.fill_(float(count))
                each.views[1].copy_(first)
                each.views[2].copy_(second)

    @torch.no_grad()
    def unpack(self) -> None:
        """Copy weights, moments, averages and critics back to the problems that are still trained."""
        for m, (trained, problem) in enumerate(zip(self._trained, self.problems, strict=True)):
            if not self.active[m]:
                continue
            self.unpack_average(m)
            for index, (each, parameter) in enumerate(zip(trained, problem.parameters, strict=True)):
                parameter.copy_(each.views[0])
                problem.moments[index].copy_(each.views[1])
                problem.squares[index].copy_(each.views[2])
                problem.counts[index] = each.flat.count[0]
        self.critics.split([problem.critics for problem in self.problems])

    def unpack_average(self, m: int) -> None:
        """Copy the averaged weights back to a problem."""
        torch._foreach_copy_(self.problems[m].average, [each.views[3] for each in self._trained[m]])

    def release(self, m: int) -> None:
        """Stop training a problem."""
        self.active[m] = False
        for each in self._trained[m]:
            each.flat.release(each.row)
        for fit, (problem, _) in enumerate(self.sides):
            if problem == m:
                self.critics.release(fit)

    # ---- steps

    def step(self, step: int, count: int = 1) -> list[StepLosses]:
        """Take steps of all problems: in each the steps of the critics, then a step of the generators.

        Args:
            step: Number of the first step, from 1.
            count: Number of steps, at most ``together``.

        Returns:
            The losses of each problem in the last step, without gradient.

        Raises:
            MdcmError: If a loss or gradient is not finite; the message names h-node, fit and step.
        """
        self._clock.set(step - 1, count)
        self._next = step
        self._steps(count)
        self._check(step, count)
        sizes = [len(problem.sides) for problem in self.problems]
        critic = torch.split(self._critic_losses[count - 1].clone(), sizes)
        generator = torch.split(self._losses[count - 1].clone(), sizes)
        return list(map(StepLosses, critic, generator))

    def _take(self, number: int) -> None:
        """Take the step with this number in a launch, which may be captured."""
        config, count = self.config, len(self.sides)
        split = config.batch_size * config.critic_steps
        with torch.no_grad():
            temperature, rate, critic_rate, averaging = self._clock.tick().unbind()
            if self._addressed:
                columns = self._noise.shape[1]
                self._noise[:-1] = kernels.seeded_uniform(self._seeds, self._sites, self._clock.number[0], columns)
            else:
                for problem, span in zip(self.problems, self._spans, strict=True):
                    problem.draw_uniform(self._next + number, self._noise[span])
            uniform = self._noise.index_select(0, self._quantiles)
            share = self._noise.index_select(0, self._shares)[..., None]
            gumbel_(self._noise[:-1])
            at = self._at(stratified(uniform, config.batch_size))
            real = self._table.index_select(0, at.flatten()).view(count, -1, self.critics.width)
            real_values = F.pad(real.mT.reshape(-1, real.shape[1]), (0, 0, 0, 1))
            # the generators do not change between critic steps, so the rows of all these steps are generated at once
            fakes = self._fakes(real_values[:, :split], self._noise[:, :split], temperature)
            critic = torch.zeros(count, device=self.device)
            batches = (torch.split(rows[:, :split], config.batch_size, 1) for rows in (fakes, real, share))
            for fake_rows, real_rows, real_share in zip(*batches, strict=True):
                critic += self.critics.step(fake_rows, real_rows, real_share, critic_rate) / config.critic_steps
        losses = self._gradients(real_values[:, split:], self._noise[:, split:], temperature)
        with torch.no_grad():
            finite = torch.cat([self._flat.finite(), self._flat_priors.finite()])
            sound = self.critics.sound
            sound.logical_and_(finite.all()).logical_and_((losses.isfinite() | ~self.critics.active).all())
            for flat in (self._flat, self._flat_priors):
                flat.step(rate, averaging, sound)
            self._critic_losses[number], self._losses[number], self._finite[number] = critic, losses, finite

    def _at(self, quantiles: Tensor) -> Tensor:
        """Row of the table of all fits at quantiles of each fit's weight, ``[fits, n]``."""
        index = torch.searchsorted(self._cumulative, quantiles + self._offsets, right=True)
        return torch.minimum(torch.maximum(index, self._first_row), self._last_row)

    def _fakes(self, real_values: Tensor, race: Tensor, temperature: Tensor) -> Tensor:
        """Generated rows for the critics, ``[fits, n, width]``.

        Args:
            real_values: Columns of the real rows of all fits, and a last row of zeros, ``[rows, n]``.
            race: Gumbel noise, ``[rows, n]``.
            temperature: Temperature of the softmax whose gradient stands for that of a draw.
        """
        rows = real_values.shape[1]
        computed = [real_values]
        if len(self._priors):
            logits = self._prior_leaf.index_select(0, self._state_slots)[:, None].expand(-1, rows, -1)
            computed.append(self._drawn(logits, race, self._state_noise, temperature))
        for wave in self._waves:
            values = torch.cat(computed)
            weights = wave.leaves
            if wave.slots is not None:
                weights = [tensor.index_select(0, wave.slots) for tensor in weights]
            first, bias, *rest = weights
            inputs = values.index_select(0, wave.inputs).view(len(first), self._inputs, rows)
            state = torch.baddbmm(bias[:, None], inputs.mT, first)
            for weight, bias in zip(rest[::2], rest[1::2], strict=True):
                state = torch.baddbmm(bias[:, None], F.silu(state), weight.mT)
            computed.append(self._drawn(state, race, wave.noise, temperature))
        columns = torch.cat(computed).index_select(0, self._columns)
        return columns.view(len(self.sides), -1, rows).mT

    def _drawn(self, logits: Tensor, race: Tensor, noise: Tensor, temperature: Tensor) -> Tensor:
        """Winners of Gumbel races as one-hot columns, ``[slots * levels, n]``."""
        slots, rows, levels = logits.shape
        gumbel = race.index_select(0, noise).view(slots, levels, rows).mT
        drawn = kernels.gumbel_softmax(logits, self._packings[levels], temperature, gumbel)
        return drawn.mT.reshape(-1, rows)

    def _gradients(self, real_values: Tensor, race: Tensor, temperature: Tensor) -> Tensor:
        """Generator losses of all fits, ``[fits]``; stores the gradients of their sum with the flat parameters."""
        losses = -self.critics.values(self._fakes(real_values, race, temperature)).mean(1)
        leaves = [leaf for wave in self._waves for leaf in wave.leaves]
        if len(self._priors):
            leaves.append(self._prior_leaf)
        grads = iter(torch.autograd.grad(losses.sum(), leaves))
        for wave in self._waves:
            for view in self._flat.views(self._flat.grads[wave.rows]):
                view.copy_(next(grads))
        for grad in grads:
            self._flat_priors.grads.copy_(grad)
        return losses.detach()

    def _check(self, step: int, count: int) -> None:
        """Raise the error of the first of these steps that was not finite; later steps changed nothing."""
        if bool(self.critics.sound):
            return
        problem_of = {(id(each.flat), each.row): m for m, trained in enumerate(self._trained) for each in trained}
        rows = [(id(flat), row) for flat in (self._flat, self._flat_priors) for row in range(len(flat.weights))]
        for number in range(count):
            critics = self._critic_losses[number].isfinite().tolist()
            losses = self._losses[number].isfinite().tolist()
            for (m, side), finite in zip(self.sides, critics, strict=True):
                if self.active[m] and not finite:
                    self.unpack()
                    problem = self.problems[m]
                    problem.diverged(step + number, [other is side for other in problem.sides].index(True), CRITIC)
            bad = {m for (m, _), finite in zip(self.sides, losses, strict=True) if self.active[m] and not finite}
            grads = zip(rows, self._finite[number].tolist(), strict=True)
            bad |= {problem_of[row] for row, finite in grads if not finite}
            if bad:
                self.unpack()
                self.problems[min(bad)].blame(step + number)


def _tensors(mechanism: Categorical) -> Iterator[tuple[Tensor, int, slice]]:
    """Parameters of a mechanism, each with the index of its tensor in a flat row and its rows there."""
    start = 0
    inputs = [module.weight for module in mechanism.inputs if isinstance(module, ParentInput)]
    for weight in [*inputs, *mechanism.states]:
        yield weight, 0, slice(start, start := start + len(weight))
    yield mechanism.bias, 1, slice(None)
    part = 2
    for layer in mechanism.inner:
        assert isinstance(layer, nn.Linear)
        yield layer.weight, part, slice(None)
        yield layer.bias, part + 1, slice(None)
        part += 2
    yield mechanism.out.weight, part, slice(mechanism.levels)
    yield mechanism.out.bias, part + 1, slice(mechanism.levels)
