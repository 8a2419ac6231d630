"""Several adversarial h-nodes stepped as one: stacked mechanisms, one stack of critics, flat parameters.

An h-node's own step is some hundred operations on a few thousand numbers, and most of its time goes into starting
them. Here every operation is done for all h-nodes at once. Mechanisms are stacked by waves: those whose parents lie
before are evaluated together, whatever h-node and fit they belong to, and read their parents from one array in which
every column of every fit has a row. What differs in size (levels, parents, states, columns of critics) is padded with
zeros, and a padded level has noise minus infinity, so that it never wins and has no gradient.

What is drawn is what each h-node draws by itself, so that its weights are those it has alone, up to rounding.

A step takes what changes from one to the next from tensors: its number, rates and temperature, and whether all that
went before was finite, without which it changes nothing. So on a CUDA device several steps are one captured graph
(:mod:`mdcm.kernels.graphs`), and whether they were finite is asked once for all of them.
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


class _Flat:
    """Parameters in rows, with Adam's moments and averages.

    Args:
        trained: Which rows are trained, bool ``[rows]``.
        shapes: Shapes of the tensors that lie one after another in a row.
        config: Settings.

    Attributes:
        active: Which rows are trained now; the others keep every bit, as long as their moments are zero.
        count: Steps taken, float32 ``[1]``.
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
        """The tensors of some rows ``[..., size]``, each ``[..., *shape]``."""
        parts = torch.split(rows, [shape.numel() for shape in self.shapes], -1)
        return [part.view(*rows.shape[:-1], *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def step(self, rate: Tensor, averaging: Tensor, sound: Tensor) -> None:
        """One step of Adam along the gradients, then one of the averages; none unless all is sound."""
        if not len(self.weights):
            return
        self.grads.masked_fill_(~self.active[:, None], 0.0)
        moments = ([self.first], [self.second], self.count)
        adamw_step([self.weights], [self.grads], *moments, rate, self.config.betas, skip=1.0 - sound.float())
        self.average.lerp_(self.weights, averaging)

    def release(self, row: int) -> None:
        """Train one row no more."""
        self.active[row] = False
        self.first[row] = 0.0
        self.second[row] = 0.0

    def finite(self) -> Tensor:
        """Whether the gradient of each row is finite, or of no use, bool ``[rows]``."""
        return self.grads.sum(1).isfinite() | ~self.active


@dataclass(frozen=True)
class _Held:
    """One parameter of a model and where it lies here: views of weights, both moments and average, and their row."""

    parameter: Tensor
    views: Sequence[Tensor]
    flat: _Flat
    row: int

    @staticmethod
    def at(parameter: Tensor, flat: _Flat, row: int, part: int, rows: slice) -> _Held:
        """The parameter lies in these rows of a tensor of a flat row."""
        arrays = (flat.weights, flat.first, flat.second, flat.average)
        return _Held(parameter, [flat.views(array[row])[part][rows] for array in arrays], flat, row)


@dataclass(frozen=True)
class _Wave:
    """Mechanisms that are evaluated at once.

    Attributes:
        rows: Their rows of flat parameters.
        slots: For each evaluation its mechanism, int64 ``[slots]``; None where every mechanism has one.
        inputs: For each evaluation the rows of values that enter its first layer, int64 ``[slots * inputs]``.
        noise: For each evaluation its rows of noise, int64 ``[slots * levels]``.
        leaves: What gradients are taken in, views of the flat parameters.
    """

    rows: slice
    slots: Tensor | None
    inputs: Tensor
    noise: Tensor
    leaves: Sequence[Tensor]


class Stack:
    """Problems stepped as one. It holds their weights, moments and averages until they are given back.

    Args:
        problems: The problems, of one configuration and after equally many steps; all their mechanisms are of one shape
            (:class:`~mdcm.training.objectives.critic_load.CriticLoad`).

    Attributes:
        active: Which problems are still trained.
        together: How many steps are taken in one go.

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

    # ---- where everything lies

    def _set_rows(self) -> None:
        """Rows of data of all fits one after another; a quantile of the k-th fit is looked up at k more."""
        width = self.critics.width
        tables = [F.pad(side.train.packed, (0, width - side.layout.width)) for _, side in self.sides]
        self._table = torch.cat(tables)
        shares = [side.train.cumulative / side.train.cumulative[-1] for _, side in self.sides]
        self._cumulative = torch.cat([place + share for place, share in enumerate(shares)])
        ends = torch.tensor([0, *itertools.accumulate(len(one) for one in tables)], device=self.device)
        self._first, self._last = ends[:-1, None], ends[1:, None] - 1
        self._place = torch.arange(len(self.sides), device=self.device)[:, None]

    def _set_parameters(self) -> None:
        """Mechanisms by waves, and what belongs to each problem."""
        waves: dict[int, list[tuple[int, str]]] = {}
        for m, problem in enumerate(self.problems):
            depth: dict[str, int] = {}
            for node in problem.generators.mechanisms:
                depth[node] = 1 + max((depth.get(parent, -1) for parent in problem.dcm.parents(node)), default=-1)
                waves.setdefault(depth[node], []).append((m, node))
        self._by_wave = [waves[wave] for wave in sorted(waves)]
        instances = list(itertools.chain.from_iterable(self._by_wave))
        self._priors = [(m, index) for m, one in enumerate(self.problems) for index in one.generators.confounders]
        mechanisms = [self._mechanism(m, node) for m, node in instances]
        sizes = [len(self.problems[m].dcm.priors[index]) for m, index in self._priors]
        self._inputs = max(sum(p.num_levels for p in one.parents) + sum(one.latents) for one in mechanisms)
        self._levels = max(one.levels for one in mechanisms)
        self._states = max(sizes, default=1)
        self._packings = {size: kernels.Packing([size], device=self.device) for size in (self._levels, self._states)}
        hidden, layers = mechanisms[0].hidden, mechanisms[0].layers
        inner = [(hidden, hidden), (hidden,)] * (layers - 1)
        shapes = [(self._inputs, hidden), (hidden,), *inner, (self._levels, hidden), (self._levels,)]
        trained = [node in self.problems[m].generators.members for m, node in instances]
        self._flat = _Flat(torch.tensor(trained, device=self.device), shapes, self.config)
        trained = [index in self.problems[m].generators.trained for m, index in self._priors]
        self._flat_priors = _Flat(
            torch.tensor(trained, dtype=torch.bool, device=self.device), [(self._states,)], self.config
        )
        held: list[list[_Held]] = [[] for _ in self.problems]
        for row, ((m, _), mechanism) in enumerate(zip(instances, mechanisms, strict=True)):
            held[m] += [_Held.at(one, self._flat, row, part, rows) for one, part, rows in _tensors(mechanism)]
        for row, (m, index) in enumerate(self._priors):
            prior = self.problems[m].dcm.priors[index]
            held[m].append(_Held.at(prior, self._flat_priors, row, 0, slice(len(prior))))
        self._held = held
        # those that are trained, in the order of the problem's parameters
        self._own = []
        for problem, every in zip(self.problems, held, strict=True):
            by_parameter = {id(one.parameter): one for one in every}
            self._own.append([by_parameter[id(parameter)] for parameter in problem.parameters])

    def _mechanism(self, m: int, node: str) -> Categorical:
        mechanism = self.problems[m].generators.mechanisms[node]
        assert isinstance(mechanism, Categorical)
        return mechanism

    def _set_noise(self) -> None:
        """Uniform numbers of all problems one after another; a last row stays minus infinity."""
        ends = [0, *itertools.accumulate(problem.noise_rows for problem in self.problems)]
        self._spans = [slice(a, b) for a, b in itertools.pairwise(ends)]
        columns = self.config.batch_size * (self.config.critic_steps + 1)
        self._noise = torch.full((ends[-1] + 1, columns), -torch.inf, device=self.device)
        self._addressed = self.problems[0].addressed
        if self._addressed:
            every = zip(*(problem.addresses() for problem in self.problems), strict=True)
            self._seeds, self._sites = (torch.cat(one) for one in every)
        per_fit = [RACES + self.problems[m].generators.width for m, _ in self.sides]
        self._starts = [0, *itertools.accumulate(per_fit)][:-1]
        self._quantiles = self._index([start + QUANTILE for start in self._starts])
        self._shares = self._index([start + SHARE for start in self._starts])

    def _set_waves(self) -> None:
        """For every variable and fit the rows of its columns among all values, and who reads which of them."""
        # values lie so: real rows of each fit, zeros, states, then one wave after another
        width = self.critics.width
        zero = len(self.sides) * width
        rows: list[dict[str | int, range]] = [
            {name: range(place * width + s.start, place * width + s.stop) for name, s in side.layout.slices.items()}
            for place, (_, side) in enumerate(self.sides)
        ]
        fits = [[place for place, (m, _) in enumerate(self.sides) if m == own] for own in range(len(self.problems))]
        after = zero + 1
        slots: list[int] = []
        noise: list[int] = []
        for number, (m, index) in enumerate(self._priors):
            generators = self.problems[m].generators
            for place in fits[m]:
                rows[place][index] = range(after, after + len(generators.dcm.priors[index]))
                noise += self._races(place, generators.states[index], self._states)
                slots.append(number)
                after += self._states
        self._state_slots, self._state_noise = self._index(slots), self._index(noise)
        self._waves: list[_Wave] = []
        start = 0
        for wave in self._by_wave:
            slots, noise, inputs = [], [], []
            for number, (m, node) in enumerate(wave):
                generators = self.problems[m].generators
                read: list[str | int] = [*generators.dcm.parents(node), *generators.dcm.latents[node]]
                for fit in generators.makers[node]:
                    place = fits[m][fit]
                    own = list(itertools.chain.from_iterable(rows[place][one] for one in read))
                    inputs += own + [zero] * (self._inputs - len(own))
                    noise += self._races(place, generators.raced[node], self._levels)
                    rows[place][node] = range(after, after + self._mechanism(m, node).levels)
                    slots.append(number)
                    after += self._levels
            span = slice(start, start := start + len(wave))
            leaves = [one.detach().requires_grad_() for one in self._flat.views(self._flat.weights[span])]
            repeated = None if len(slots) == len(wave) else self._index(slots)
            self._waves.append(_Wave(span, repeated, self._index(inputs), self._index(noise), leaves))
        self._prior_leaf = self._flat_priors.weights.detach().requires_grad_()
        columns: list[int] = []
        for place, (_, side) in enumerate(self.sides):
            own = list(itertools.chain.from_iterable(rows[place][name] for name in side.layout.slices))
            columns += own + [zero] * (width - len(own))
        self._columns = self._index(columns)

    def _set_steps(self) -> None:
        """How steps are taken, and what they leave behind to be looked at."""
        config = self.config
        rates = []
        for step in range(1, config.steps + 1):
            temperature, rate = config.schedule(step)
            both = (config.learning_rate * rate, config.critic_learning_rate * rate)
            rates.append((temperature, *both, config.averaging(step)))
        self._clock = graphs.Clock(rates, self.device, self._noise.dtype)
        self._next = 1
        self._steps = graphs.Repeated(self._take, self.device)
        self.together = together = self._steps.together
        self._critic_losses, self._losses = torch.zeros(2, together, len(self.sides), device=self.device).unbind(0)
        rows = len(self._flat.weights) + len(self._flat_priors.weights)
        self._finite = torch.ones(together, rows, dtype=torch.bool, device=self.device)

    def _races(self, place: int, span: slice, size: int) -> list[int]:
        """Rows of noise of one race, padded with the one that is minus infinity."""
        start = self._starts[place] + RACES
        rows = list(range(start + span.start, start + span.stop))
        return rows + [len(self._noise) - 1] * (size - len(rows))

    def _index(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.int64, device=self.device)

    # ---- taking over and giving back

    @torch.no_grad()
    def _pack(self) -> None:
        for every, own, problem in zip(self._held, self._own, self.problems, strict=True):
            for one in every:
                for view in (one.views[0], one.views[3]):
                    view.copy_(one.parameter)
            moments = (problem.moments, problem.squares, problem.counts)
            for one, average, first, second, count in zip(own, problem.average, *moments, strict=True):
                one.views[3].copy_(average)
                one.flat.count.fill_(float(count))
                one.views[1].copy_(first)
                one.views[2].copy_(second)

    @torch.no_grad()
    def unpack(self) -> None:
        """Give weights, moments, averages and critics back to the problems that are still trained."""
        for m, (own, problem) in enumerate(zip(self._own, self.problems, strict=True)):
            if not self.active[m]:
                continue
            self.give_average(m)
            for index, (one, parameter) in enumerate(zip(own, problem.parameters, strict=True)):
                parameter.copy_(one.views[0])
                problem.moments[index].copy_(one.views[1])
                problem.squares[index].copy_(one.views[2])
                problem.counts[index] = one.flat.count[0]
        self.critics.part([problem.critics for problem in self.problems])

    def give_average(self, m: int) -> None:
        """Give its averaged weights to one problem."""
        torch._foreach_copy_(self.problems[m].average, [one.views[3] for one in self._own[m]])

    def release(self, m: int) -> None:
        """Train one problem no more: it is finished."""
        self.active[m] = False
        for one in self._own[m]:
            one.flat.release(one.row)
        for place, (own, _) in enumerate(self.sides):
            if own == m:
                self.critics.release(place)

    # ---- a step

    def step(self, step: int, count: int = 1) -> list[StepLosses]:
        """Steps of every problem, each the critics as often as the settings say, then the generators.

        Args:
            step: Number of the first of them, from 1.
            count: How many, at most ``together``.

        Returns:
            The losses of each problem in the last of them, without gradient.

        Raises:
            MdcmError: If a loss or gradient is not finite; the message names h-node, fit and step.
        """
        self._clock.set(step - 1, count)
        self._next = step
        self._steps(count)
        self._check(step, count)
        sizes = [len(problem.sides) for problem in self.problems]
        both = (torch.split(one[count - 1].clone(), sizes) for one in (self._critic_losses, self._losses))
        return [StepLosses(*own) for own in zip(*both, strict=True)]

    def _take(self, number: int) -> None:
        """One step, of that number among those that are taken in one go: it may be captured."""
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
            given = F.pad(real.mT.reshape(-1, real.shape[1]), (0, 0, 0, 1))
            # generators do not change between critic steps, so that the rows of all of them are made in one go
            fakes = self._fakes(given[:, :split], self._noise[:, :split], temperature)
            critic = torch.zeros(count, device=self.device)
            parts = (torch.split(one[:, :split], config.batch_size, 1) for one in (fakes, real, share))
            for fake, true, between in zip(*parts, strict=True):
                critic += self.critics.step(fake, true, between, critic_rate) / config.critic_steps
        losses = self._gradients(given[:, split:], self._noise[:, split:], temperature)
        with torch.no_grad():
            finite = torch.cat([self._flat.finite(), self._flat_priors.finite()])
            sound = self.critics.sound
            sound.logical_and_(finite.all()).logical_and_((losses.isfinite() | ~self.critics.active).all())
            for flat in (self._flat, self._flat_priors):
                flat.step(rate, averaging, sound)
            self._critic_losses[number], self._losses[number], self._finite[number] = critic, losses, finite

    def _at(self, quantiles: Tensor) -> Tensor:
        """Row of the table of all fits at quantiles of each fit's weight, ``[fits, n]``."""
        found = torch.searchsorted(self._cumulative, quantiles + self._place, right=True)
        return torch.minimum(torch.maximum(found, self._first), self._last)

    def _fakes(self, given: Tensor, race: Tensor, temperature: Tensor) -> Tensor:
        """Generated rows for the critics, ``[fits, n, width]``.

        Args:
            given: Real values in rows of columns, the last of them zero, ``[rows, n]``.
            race: Gumbel noise, ``[rows, n]``.
            temperature: Of the softmax whose gradient a draw has.
        """
        rows = given.shape[1]
        found = [given]
        if len(self._priors):
            logits = self._prior_leaf.index_select(0, self._state_slots)[:, None].expand(-1, rows, -1)
            found.append(self._drawn(logits, race, self._state_noise, temperature))
        for wave in self._waves:
            values = torch.cat(found)
            weights = wave.leaves
            if wave.slots is not None:
                weights = [one.index_select(0, wave.slots) for one in weights]
            first, bias, *rest = weights
            entered = values.index_select(0, wave.inputs).view(len(first), self._inputs, rows)
            state = torch.baddbmm(bias[:, None], entered.mT, first)
            for weight, bias in zip(rest[::2], rest[1::2], strict=True):
                state = torch.baddbmm(bias[:, None], F.silu(state), weight.mT)
            found.append(self._drawn(state, race, wave.noise, temperature))
        columns = torch.cat(found).index_select(0, self._columns)
        return columns.view(len(self.sides), -1, rows).mT

    def _drawn(self, logits: Tensor, race: Tensor, noise: Tensor, temperature: Tensor) -> Tensor:
        """Levels that win their race in rows of columns, ``[slots * levels, n]``."""
        slots, rows, levels = logits.shape
        own = race.index_select(0, noise).view(slots, levels, rows).mT
        drawn = kernels.gumbel_softmax(logits, self._packings[levels], temperature, own)
        return drawn.mT.reshape(-1, rows)

    def _gradients(self, given: Tensor, race: Tensor, temperature: Tensor) -> Tensor:
        """Generator losses of all fits, ``[fits]``; the gradients of their sum are put into the flat rows."""
        losses = -self.critics.values(self._fakes(given, race, temperature)).mean(1)
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
        """Raise the error of the first of some steps that was not finite; nothing has changed since."""
        if bool(self.critics.sound):
            return
        rows = {(id(one.flat), one.row): m for m, own in enumerate(self._own) for one in own}
        every = [(id(flat), row) for flat in (self._flat, self._flat_priors) for row in range(len(flat.weights))]
        for number in range(count):
            critics, losses = (one[number].isfinite().tolist() for one in (self._critic_losses, self._losses))
            for (m, side), finite in zip(self.sides, critics, strict=True):
                if self.active[m] and not finite:
                    self.unpack()
                    problem = self.problems[m]
                    problem.diverged(step + number, [own is side for own in problem.sides].index(True), CRITIC)
            bad = {m for (m, _), finite in zip(self.sides, losses, strict=True) if self.active[m] and not finite}
            grads = zip(every, self._finite[number].tolist(), strict=True)
            bad |= {rows[place] for place, finite in grads if not finite}
            if bad:
                self.unpack()
                self.problems[min(bad)].blame(step + number)


def _tensors(mechanism: Categorical) -> Iterator[tuple[Tensor, int, slice]]:
    """Parameters of a mechanism, the number of the flat row's tensor in which each lies, and the rows there."""
    start = 0
    inputs = [module.weight for module in mechanism.inputs if isinstance(module, ParentInput)]
    for one in [*inputs, *mechanism.states]:
        yield one, 0, slice(start, start := start + len(one))
    yield mechanism.bias, 1, slice(None)
    part = 2
    for layer in mechanism.inner:
        assert isinstance(layer, nn.Linear)
        yield layer.weight, part, slice(None)
        yield layer.bias, part + 1, slice(None)
        part += 2
    yield mechanism.out.weight, part, slice(mechanism.levels)
    yield mechanism.out.bias, part + 1, slice(mechanism.levels)
