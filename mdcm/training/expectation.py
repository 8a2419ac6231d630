"""Tables of discrete c-components by expectation-maximisation, started from and drawn towards trained networks.

A network finds what combinations of parents have in common from few rows, but ends some way from the maximum of the
likelihood, far away where probabilities are near 0 or 1. From the tables that it stands for, expectation-maximisation
reaches the maximum in closed-form steps. What stays of the network is a Dirichlet prior: at every combination of
parents and states so many pseudo-counts, shared out as the network would. Held-out rows choose how many.

A network that was stopped early, because its interactions would follow noise, is off in its margins too, which even a
few rows determine, and effects along many variables are made of. Calibration scales tables so that expected and
predicted margins agree, of every variable and of it given its parents, and leaves what states do as it is.

The expected counts of the E-step are derivatives of the log-likelihood: ``E[n_j] = theta_j dL / dtheta_j``.

References:
    Deming & Stephan (1940), On a least squares adjustment of a sampled frequency table when the expected marginal
    totals are known (iterative proportional fitting).
    Dempster, Laird & Rubin (1977), Maximum likelihood from incomplete data via the EM algorithm.
    Varadhan & Roland (2008), Simple and globally convergent methods for accelerating the convergence of any EM
    algorithm (SQUAREM, step length S3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdcm.training.config import CPU
from mdcm.training.losses import Losses, Sample
from mdcm.training.objectives.likelihood import contract, elimination_order
from mdcm.training.stacking import Module

__all__ = ["LEAST", "Fitted", "Tables"]

# a cycle of three steps that gains fewer nats than this over all rows, twice in a row, is the last one
_LEAST_GAIN = 0.003
_MOST_CYCLES = 150
# probabilities are kept away from zero, where their logarithms would end
LEAST = 1e-30
# expectations, and rounds of proportional fitting after each, by which margins agree to a few digits
_EXPECTATIONS, _ROUNDS = 12, 4
# largest factor by which a step is stretched
_LONGEST = 256.0
# numbers in the largest array of a step, and in those of all steps together
_CHUNK = 1 << 21
_MOST_NUMBERS = 1 << 26


@dataclass(frozen=True)
class Fitted:
    """Tables and priors of one module.

    Attributes:
        tables: Probabilities of every member, ``[c, K, s_1, ..., s_d]`` over all combinations of its parents, float64.
        priors: Probabilities of the states of every confounder, ``[s]``.
    """

    tables: tuple[Tensor, ...]
    priors: tuple[Tensor, ...]

    def store(self, module: Module) -> None:
        """Write them into the mechanisms of a module."""
        for mechanism, table in zip(module.mechanisms, self.tables, strict=True):
            mechanism.set_table(table.movedim(1, -1).log())
        with torch.no_grad():
            for prior, own in zip(module.priors, self.priors, strict=True):
                prior.copy_(own.log())


class Tables:
    """Several modules of one shape, one of them perhaps several times, as tables that are fitted at once.

    Args:
        modules: The modules; all of them have tables.
        rows: Rows of each that are counted; None stands for all of them.
        starts: Where each begins.
        targets: Probabilities that each is drawn towards, as those of :class:`Fitted`.
        counts: Pseudo-counts per combination of parents and states.
        device: Where it is done.
    """

    def __init__(
        self,
        modules: Sequence[Module],
        rows: Sequence[Tensor | None],
        starts: Sequence[Fitted],
        targets: Sequence[Sequence[Tensor]],
        counts: Sequence[float],
        device: torch.device = CPU,
    ) -> None:
        first = modules[0]
        self.modules, self.device = tuple(modules), device
        self.scopes = first.latents
        self.levels = [mechanism.levels for mechanism in first.mechanisms]
        self.sizes = [[len(start.tables[k]) for start in starts] for k in range(len(self.levels))]
        widths = [max(sizes) for sizes in self.sizes]
        self.targets = [_padded([own[k] for own in targets], width).to(device) for k, width in enumerate(widths)]
        self.strength = torch.tensor(list(counts), dtype=torch.float64, device=device)
        self.position = [
            *(_padded([start.tables[k] for start in starts], width).to(device) for k, width in enumerate(widths)),
            *(torch.stack([start.priors[i] for start in starts]).to(device) for i in range(len(first.priors))),
        ]
        self.parts = []
        work = 0
        for number, places in enumerate(first.shape[1]):
            own = [module.parts[number] for module in modules]
            most = max(part.distinct for part in own)
            slots = []
            for k, place in enumerate(places):
                slot = torch.zeros(len(modules), most, dtype=torch.int64)
                for m, part in enumerate(own):
                    slot[m, : part.distinct] = part.numbers[k] * self.levels[place] + part.slots[k][1]
                slot += torch.arange(len(modules))[:, None] * (widths[place] * self.levels[place])
                slots.append(slot.to(device))
            order = elimination_order([self.scopes[place] for place in places])
            states = [len(first.priors[i]) for i in range(len(first.priors))]
            joint = max((math.prod(states[i] for i in self.scopes[place]) for place in places), default=1)
            work += len(modules) * joint * most
            self.parts.append((places, slots, most, order, max(1, _CHUNK // (len(modules) * joint))))
        self.cycles = min(max(_MOST_NUMBERS // (3 * work), 2), _MOST_CYCLES) if any(self.scopes) else 1
        self.weight, numbers = self._weights(rows)
        self.number = torch.tensor(numbers, dtype=torch.float64, device=device)

    def _weights(self, rows: Sequence[Tensor | None]) -> tuple[list[Tensor], list[int]]:
        found = [module.weights(own) for module, own in zip(self.modules, rows, strict=True)]
        stacked = []
        for number, part in enumerate(self.parts):
            weight = torch.zeros(len(self.modules), part[2], dtype=torch.float64)
            for m, (weights, _) in enumerate(found):
                weight[m, : len(weights[number])] = torch.from_numpy(weights[number])
            stacked.append(weight.to(self.device))
        return stacked, [number for _, number in found]

    def _logs(self, position: Sequence[Tensor], number: int, start: int, stop: int) -> Tensor:
        """Log-likelihood of some merged rows of a part, ``[M, r]``."""
        places, slots, _, order, _ = self.parts[number]
        tables, priors = position[: len(self.levels)], position[len(self.levels) :]
        parts, factors = [], []
        for place, slot in zip(places, slots, strict=True):
            chosen = slot[:, start:stop].reshape(-1)
            entries = tables[place].flatten(0, 2).index_select(0, chosen)
            if self.scopes[place]:
                factors.append((self.scopes[place], entries))
            else:
                parts.append(entries.log())
        if factors:
            parts.append(contract(factors, priors, order))
        total = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
        return total.view(len(self.modules), -1)

    def _counts(self, position: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Log-likelihood at a place, in nats over all rows, ``[M]``, and expected counts of every entry."""
        leaves = [one.detach().requires_grad_() for one in position]
        gradients = [torch.zeros_like(one) for one in position]
        value = torch.zeros(len(self.modules), dtype=torch.float64, device=self.device)
        for number, (_, _, most, _, chunk) in enumerate(self.parts):
            for start in range(0, most, chunk):
                logs = self._logs(leaves, number, start, start + chunk)
                own = (logs * self.weight[number][:, start : start + chunk]).sum(1) * self.number
                for total, one in zip(
                    gradients, torch.autograd.grad(own.sum(), leaves, allow_unused=True), strict=True
                ):
                    if one is not None:
                        total += one
                value += own.detach()
        return value, [own * gradient for own, gradient in zip(position, gradients, strict=True)]

    def _step(self, position: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Penalised log-likelihood at a place, in nats over all rows, ``[M]``, and the place after one step from it."""
        value, counts = self._counts(position)
        after = []
        for k, (own, expected) in enumerate(zip(position, counts, strict=True)):
            if k >= len(self.levels):
                after.append(_normalised(expected, 1))
                continue
            pull = self.targets[k] * _as(self.strength, own)
            value += (pull * own.log()).flatten(1).sum(1)
            after.append(_normalised(expected + pull, 2))
        return value, after

    def calibrate(self) -> list[Fitted]:
        """Scale the tables until expected margins are those that they predict; what each has become.

        Entries of a variable are multiplied by a factor of its level, then by one of its level and of the combination
        of its parents, until predicted counts over the states are those expected of them; pseudo-counts draw the latter
        factor towards 1. Priors become the expected shares of their states.
        """
        position = self.position
        for _ in range(_EXPECTATIONS):
            _, counts = self._counts(position)
            after = []
            for k, (own, expected) in enumerate(zip(position, counts, strict=True)):
                after.append(self._scaled(own, expected) if k < len(self.levels) else _normalised(expected, 1))
            position = after
        return self._unpadded(position)

    def _scaled(self, table: Tensor, expected: Tensor) -> Tensor:
        """One table so that its margins are the expected ones."""
        given = expected.sum(2, keepdim=True)
        states = tuple(range(3, table.dim()))
        for _ in range(_ROUNDS):
            for axes, pseudo in (((1, *states), torch.ones_like(self.strength)), (states, self.strength)):
                predicted = given * table
                wanted, margin = (one.sum(axes, keepdim=True) if axes else one for one in (expected, predicted))
                more = _as(pseudo, table) / table.shape[2]
                # of infinitely many pseudo-counts the factor is 1
                table = _normalised(table * (1 + (wanted - margin) / (margin + more)), 2)
        return table

    def run(self) -> list[Fitted]:
        """Step until no module gains by it; what each has become."""
        position = self.position
        quiet = torch.zeros(len(self.modules), dtype=torch.int64, device=self.device)
        before = torch.full_like(self.number, -math.inf)
        for _ in range(self.cycles):
            value, first = self._step(position)
            if not any(self.scopes):
                # counts are known, so that one step is all
                position = first
                break
            middle, second = self._step(first)
            jump = self._extrapolated(position, first, second)
            there, landed = self._step(jump)
            # as good as the place that it started from, or the plain step is taken; NaN is no better
            better = there >= middle
            moving = quiet < 2
            position = [
                torch.where(_as(moving, old), torch.where(_as(better, old), far, near), old)
                for far, near, old in zip(landed, second, position, strict=True)
            ]
            gain = value - before
            before = value
            quiet = torch.where((gain < _LEAST_GAIN) & moving, quiet + 1, torch.where(moving, 0, quiet))
            if bool((quiet >= 2).all()):
                break
        return self._unpadded(position)

    def _unpadded(self, position: list[Tensor]) -> list[Fitted]:
        """Stay at a place; what every module is there."""
        self.position = position
        return [
            Fitted(
                tuple(position[k][m, : self.sizes[k][m]].cpu() for k in range(len(self.levels))),
                tuple(one[m].cpu() for one in position[len(self.levels) :]),
            )
            for m in range(len(self.modules))
        ]

    def _extrapolated(self, start: Sequence[Tensor], first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
        """Where two steps point to, far along their curve; of logarithms, so that what it gives are probabilities."""
        logs = [[one.log() for one in place] for place in (start, first, second)]
        steps = [b - a for a, b in zip(logs[0], logs[1], strict=True)]
        turns = [c - b - step for b, c, step in zip(logs[1], logs[2], steps, strict=True)]
        squares = [torch.stack([one.square().flatten(1).sum(1) for one in parts]).sum(0) for parts in (steps, turns)]
        length = (squares[0] / squares[1].clamp_min(LEAST)).sqrt().clamp(1.0, _LONGEST)
        found = []
        for k, (log, step, turn) in enumerate(zip(logs[0], steps, turns, strict=True)):
            axis = 2 if k < len(self.levels) else 1
            far = log + 2 * _as(length, log) * step + _as(length, log).square() * turn
            found.append(_normalised((far - far.amax(axis, keepdim=True)).exp(), axis))
        return found

    @torch.no_grad()
    def evaluate(self, samples: Sequence[Sample]) -> list[Losses]:
        """Losses of every module on other rows of its own, as they are judged in training."""
        losses = self.row_losses()
        return [
            Losses(
                torch.cat([one[m, : part.distinct] for one, part in zip(losses, module.parts, strict=True)]),
                sample,
                module.errors,
            )
            for m, (module, sample) in enumerate(zip(self.modules, samples, strict=True))
        ]

    @torch.no_grad()
    def row_losses(self) -> list[Tensor]:
        """Negative log-likelihood of every merged row, ``[M, r]``, for each fit; that of padding means nothing."""
        return [
            -torch.cat([self._logs(self.position, number, a, a + part[4]) for a in range(0, part[2], part[4])], 1)
            for number, part in enumerate(self.parts)
        ]


def _as(value: Tensor, like: Tensor) -> Tensor:
    return value.view(-1, *(1,) * (like.dim() - 1))


def _normalised(values: Tensor, axis: int) -> Tensor:
    values = values / values.sum(axis, keepdim=True)
    # once more, so that what was raised is paid for
    values = values.clamp_min(LEAST)
    return values / values.sum(axis, keepdim=True)


def _padded(tables: Sequence[Tensor], width: int) -> Tensor:
    """Tables of several modules side by side; combinations that one lacks are uniform and meet no row."""
    found = tables[0].new_full((len(tables), width, *tables[0].shape[1:]), 1 / tables[0].shape[1])
    for m, table in enumerate(tables):
        found[m, : len(table)] = table
    return found
