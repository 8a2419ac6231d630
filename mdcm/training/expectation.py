"""Tables of discrete c-components by expectation-maximisation, starting from trained networks and shrunk towards them.

A network learns what combinations of parents have in common from few rows, but stops short of the maximum of the
likelihood, far short where probabilities are near 0 or 1. Starting from its tables, expectation-maximisation reaches
the maximum in closed-form steps. The network remains as a Dirichlet prior: pseudo-counts at every combination of
parents and states, in the proportions of the network. Held-out rows choose their number.

A network that was stopped early, before its interactions fit noise, is off in its margins too. Even a few rows
determine these, and effects along many variables depend on them. Calibration scales tables until expected and predicted
margins agree, of every variable and of every variable given its parents, and leaves the effects of states unchanged.

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

from mdcm.training.devices import CPU
from mdcm.training.losses import HeldOutLosses, HeldOutSample
from mdcm.training.objectives.likelihood import contract, elimination_order
from mdcm.training.stacking import DiscreteModule

__all__ = ["MIN_PROBABILITY", "ComponentTables", "TableStack"]

# iteration stops after two cycles of three steps in a row that gain fewer nats than this over all rows
_MIN_GAIN = 0.003
_MAX_CYCLES = 150
# lower bound of probabilities, so that their logarithms are finite
MIN_PROBABILITY = 1e-30
# E-steps of a calibration, and rounds of proportional fitting after each: margins then agree to a few digits
_EXPECTATIONS, _ROUNDS = 12, 4
# largest step length of SQUAREM
_MAX_STEP = 256.0
# size of the largest array of a step, and of the arrays of all steps together
_CHUNK = 1 << 21
_MAX_TOTAL = 1 << 26


@dataclass(frozen=True)
class ComponentTables:
    """Tables and priors of one module.

    Attributes:
        tables: Probabilities of every member at all combinations of its parents, float64 ``[c, K, s_1, ..., s_d]``.
        priors: Probabilities of the states of every confounder, ``[s]``.
    """

    tables: tuple[Tensor, ...]
    priors: tuple[Tensor, ...]

    def store(self, module: DiscreteModule) -> None:
        """Write them into the mechanisms of a module."""
        for mechanism, table in zip(module.mechanisms, self.tables, strict=True):
            mechanism.set_table(table.movedim(1, -1).log())
        with torch.no_grad():
            for logits, prior in zip(module.priors, self.priors, strict=True):
                logits.copy_(prior.log())


class TableStack:
    """Tables of several modules of one shape, fitted at once; a module may occur several times.

    Args:
        modules: The modules; all of them have tables.
        rows: Rows to fit of each module; None stands for all rows.
        starts: First tables of each.
        targets: Probabilities in whose proportions pseudo-counts are added, shaped as in :class:`ComponentTables`.
        counts: Pseudo-counts of each per combination of parents and states.
        device: Device of the computation.
    """

    def __init__(
        self,
        modules: Sequence[DiscreteModule],
        rows: Sequence[Tensor | None],
        starts: Sequence[ComponentTables],
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
        self.targets = [_padded([target[k] for target in targets], width).to(device) for k, width in enumerate(widths)]
        self.strength = torch.tensor(list(counts), dtype=torch.float64, device=device)
        self.position = [
            *(_padded([start.tables[k] for start in starts], width).to(device) for k, width in enumerate(widths)),
            *(torch.stack([start.priors[i] for start in starts]).to(device) for i in range(len(first.priors))),
        ]
        self.parts = []
        work = 0
        for number, members in enumerate(first.shape[1]):
            parts = [module.parts[number] for module in modules]
            size = max(part.distinct for part in parts)
            slots = []
            for k, member in enumerate(members):
                slot = torch.zeros(len(modules), size, dtype=torch.int64)
                for m, part in enumerate(parts):
                    slot[m, : part.distinct] = part.numbers[k] * self.levels[member] + part.slots[k][1]
                slot += torch.arange(len(modules))[:, None] * (widths[member] * self.levels[member])
                slots.append(slot.to(device))
            order = elimination_order([self.scopes[member] for member in members])
            states = [len(first.priors[i]) for i in range(len(first.priors))]
            joint = max((math.prod(states[i] for i in self.scopes[member]) for member in members), default=1)
            work += len(modules) * joint * size
            self.parts.append((members, slots, size, order, max(1, _CHUNK // (len(modules) * joint))))
        self.cycles = min(max(_MAX_TOTAL // (3 * work), 2), _MAX_CYCLES) if any(self.scopes) else 1
        self.weight, numbers = self._weights(rows)
        self.number = torch.tensor(numbers, dtype=torch.float64, device=device)

    def _weights(self, rows: Sequence[Tensor | None]) -> tuple[list[Tensor], list[int]]:
        weighted = [module.weights(chosen) for module, chosen in zip(self.modules, rows, strict=True)]
        stacked = []
        for number, part in enumerate(self.parts):
            weight = torch.zeros(len(self.modules), part[2], dtype=torch.float64)
            for m, (weights, _) in enumerate(weighted):
                weight[m, : len(weights[number])] = torch.from_numpy(weights[number])
            stacked.append(weight.to(self.device))
        return stacked, [number for _, number in weighted]

    def _log_likelihood(self, position: Sequence[Tensor], number: int, start: int, stop: int) -> Tensor:
        """Log-likelihood of some merged rows of a part, ``[M, r]``."""
        members, slots, _, order, _ = self.parts[number]
        tables, priors = position[: len(self.levels)], position[len(self.levels) :]
        parts, factors = [], []
        for member, slot in zip(members, slots, strict=True):
            chosen = slot[:, start:stop].reshape(-1)
            entries = tables[member].flatten(0, 2).index_select(0, chosen)
            if self.scopes[member]:
                factors.append((self.scopes[member], entries))
            else:
                parts.append(entries.log())
        if factors:
            parts.append(contract(factors, priors, order))
        total = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
        return total.view(len(self.modules), -1)

    def _counts(self, position: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Log-likelihood of parameters, in nats over all rows, ``[M]``, and expected counts of every entry."""
        leaves = [parameter.detach().requires_grad_() for parameter in position]
        gradients = [torch.zeros_like(parameter) for parameter in position]
        value = torch.zeros(len(self.modules), dtype=torch.float64, device=self.device)
        for number, (_, _, size, _, chunk) in enumerate(self.parts):
            for start in range(0, size, chunk):
                logs = self._log_likelihood(leaves, number, start, start + chunk)
                part = (logs * self.weight[number][:, start : start + chunk]).sum(1) * self.number
                grads = torch.autograd.grad(part.sum(), leaves, allow_unused=True)
                for gradient, grad in zip(gradients, grads, strict=True):
                    if grad is not None:
                        gradient += grad
                value += part.detach()
        return value, [parameter * gradient for parameter, gradient in zip(position, gradients, strict=True)]

    def _step(self, position: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Penalised log-likelihood, in nats over all rows, ``[M]``, and the parameters after one EM step."""
        value, counts = self._counts(position)
        after = []
        for k, (table, expected) in enumerate(zip(position, counts, strict=True)):
            if k >= len(self.levels):
                after.append(_normalised(expected, 1))
                continue
            pseudo = self.targets[k] * _as(self.strength, table)
            value += (pseudo * table.log()).flatten(1).sum(1)
            after.append(_normalised(expected + pseudo, 2))
        return value, after

    def calibrate(self) -> list[ComponentTables]:
        """Scale the tables until expected and predicted margins agree; return the scaled tables of every module.

        Entries of a variable are multiplied by a factor per level, then by one per level and combination of its
        parents, until predicted counts, summed over the states, equal the expected ones; pseudo-counts shrink the
        second factor towards 1. Priors become the expected shares of their states.
        """
        position = self.position
        for _ in range(_EXPECTATIONS):
            _, counts = self._counts(position)
            after = []
            for k, (table, expected) in enumerate(zip(position, counts, strict=True)):
                after.append(self._scaled(table, expected) if k < len(self.levels) else _normalised(expected, 1))
            position = after
        return self._unpadded(position)

    def _scaled(self, table: Tensor, expected: Tensor) -> Tensor:
        """Scale one table to the expected margins (iterative proportional fitting)."""
        totals = expected.sum(2, keepdim=True)
        states = tuple(range(3, table.dim()))
        for _ in range(_ROUNDS):
            for axes, pseudo in (((1, *states), torch.ones_like(self.strength)), (states, self.strength)):
                predicted = totals * table
                target, margin = (
                    counts.sum(axes, keepdim=True) if axes else counts for counts in (expected, predicted)
                )
                prior = _as(pseudo, table) / table.shape[2]
                # with infinitely many pseudo-counts the factor is 1
                table = _normalised(table * (1 + (target - margin) / (margin + prior)), 2)
        return table

    def run(self) -> list[ComponentTables]:
        """Iterate until no module gains; return the tables of every module."""
        position = self.position
        quiet = torch.zeros(len(self.modules), dtype=torch.int64, device=self.device)
        before = torch.full_like(self.number, -math.inf)
        for _ in range(self.cycles):
            value, first = self._step(position)
            if not any(self.scopes):
                # without confounders the counts are known and one step is exact
                position = first
                break
            middle, second = self._step(first)
            value_of_jump, landed = self._step(self._extrapolated(position, first, second))
            # otherwise the plain step is taken; NaN compares as False
            better = value_of_jump >= middle
            moving = quiet < 2
            position = [
                torch.where(_as(moving, old), torch.where(_as(better, old), far, near), old)
                for far, near, old in zip(landed, second, position, strict=True)
            ]
            gain = value - before
            before = value
            quiet = torch.where((gain < _MIN_GAIN) & moving, quiet + 1, torch.where(moving, 0, quiet))
            if bool((quiet >= 2).all()):
                break
        return self._unpadded(position)

    def _unpadded(self, position: list[Tensor]) -> list[ComponentTables]:
        """Set the parameters; return the tables of every module without padding."""
        self.position = position
        return [
            ComponentTables(
                tuple(position[k][m, : self.sizes[k][m]].cpu() for k in range(len(self.levels))),
                tuple(prior[m].cpu() for prior in position[len(self.levels) :]),
            )
            for m in range(len(self.modules))
        ]

    def _extrapolated(self, start: Sequence[Tensor], first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
        """SQUAREM extrapolation of two EM steps, of logarithms so that the results are probabilities."""
        logs = [[parameter.log() for parameter in position] for position in (start, first, second)]
        steps = [b - a for a, b in zip(logs[0], logs[1], strict=True)]
        turns = [c - b - step for b, c, step in zip(logs[1], logs[2], steps, strict=True)]
        squares = [torch.stack([part.square().flatten(1).sum(1) for part in parts]).sum(0) for parts in (steps, turns)]
        length = (squares[0] / squares[1].clamp_min(MIN_PROBABILITY)).sqrt().clamp(1.0, _MAX_STEP)
        extrapolated = []
        for k, (log, step, turn) in enumerate(zip(logs[0], steps, turns, strict=True)):
            axis = 2 if k < len(self.levels) else 1
            far = log + 2 * _as(length, log) * step + _as(length, log).square() * turn
            extrapolated.append(_normalised((far - far.amax(axis, keepdim=True)).exp(), axis))
        return extrapolated

    @torch.no_grad()
    def evaluate(self, samples: Sequence[HeldOutSample]) -> list[HeldOutLosses]:
        """Losses of every module on a sample of its rows."""
        losses = self.row_losses()
        return [
            HeldOutLosses(
                torch.cat([loss[m, : part.distinct] for loss, part in zip(losses, module.parts, strict=True)]),
                sample,
                module.errors,
            )
            for m, (module, sample) in enumerate(zip(self.modules, samples, strict=True))
        ]

    @torch.no_grad()
    def row_losses(self) -> list[Tensor]:
        """Negative log-likelihood of every merged row, ``[M, r]`` for each fit; values of padding are undefined."""
        losses = []
        for number, (_, _, size, _, chunk) in enumerate(self.parts):
            starts = range(0, size, chunk)
            logs = [self._log_likelihood(self.position, number, start, start + chunk) for start in starts]
            losses.append(-torch.cat(logs, 1))
        return losses


def _as(value: Tensor, like: Tensor) -> Tensor:
    return value.view(-1, *(1,) * (like.dim() - 1))


def _normalised(values: Tensor, axis: int) -> Tensor:
    values = values / values.sum(axis, keepdim=True)
    # and once more after the lower bound
    values = values.clamp_min(MIN_PROBABILITY)
    return values / values.sum(axis, keepdim=True)


def _padded(tables: Sequence[Tensor], width: int) -> Tensor:
    """Stack tables of several modules, padded with uniform entries that no row uses."""
    padded = tables[0].new_full((len(tables), width, *tables[0].shape[1:]), 1 / tables[0].shape[1])
    for m, table in enumerate(tables):
        padded[m, : len(table)] = table
    return padded
