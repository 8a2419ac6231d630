"""Tables from trained networks: calibrated or fitted by expectation-maximisation, as held-out rows prefer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mdcm.dcm import derived_seed
from mdcm.training.devices import CPU
from mdcm.training.expectation import MIN_PROBABILITY, ComponentTables, TableStack
from mdcm.training.losses import HeldOutLosses
from mdcm.training.objectives.likelihood import distinct_rows
from mdcm.training.stacking import DiscreteModule, network_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.training.rows import FitRows

__all__ = ["FittedTables", "TableFitter", "frequencies", "unexplained"]

# pseudo-counts per combination of parents and states, in the proportions of the network
_STRENGTHS = (30.0, 8.0, 2.0, 0.5)
# pseudo-counts of random starts, and how many such starts there are
_RANDOM_STRENGTHS = (2.0, 0.5)
_RANDOM_STARTS = 2
# pseudo-counts per combination of parents that limit a calibration, with confounders and without
_CALIBRATIONS = (1.0, 10.0)
_CALIBRATIONS_UNCONFOUNDED = (math.inf,)
# size of the tables of all candidates that are stacked
_STACK = 1 << 22
# random starts with fewer states of every confounder, if there are enough rows to tell
_FEWER_STATES = (2, 3, 4)
_FEWER_STATES_STARTS = 3
# rows per distinct row from which the likelihood of the training rows shows bias
_DENSE = 20
# rows per distinct row for which a candidate may be worse by one standard error on held-out rows; and the tolerance
# beyond which these few rows are ignored
_ROWS_PER_ERROR = 200
_MAX_ERRORS = 2.0
# standard deviations of a chi-square that it may lie below its mean
_DEVIATIONS = 2.0


@dataclass(frozen=True)
class FittedTables:
    """Tables chosen for one module.

    Attributes:
        tables: The tables, fitted to the training rows.
        target: Probabilities in whose proportions pseudo-counts are added.
        strength: Number of pseudo-counts; infinite if the tables are those of the calibrated network.
        calibration: Pseudo-counts that limit the calibration of the network.
        losses: Losses on held-out rows.
        behind: Nats per held-out row by which frequencies are better, and their standard error.
        lacking: Whether the fit leaves more of its rows unexplained than the truth may.
    """

    tables: ComponentTables
    target: tuple[Tensor, ...]
    strength: float
    calibration: float
    losses: HeldOutLosses
    behind: tuple[float, float]
    lacking: bool

    @property
    def is_network(self) -> bool:
        """Whether the calibrated network was the best candidate."""
        return self.strength == math.inf

    def to_json(self) -> dict[str, Any]:
        """Entries of a training record."""
        return {
            "pseudo_counts": None if self.is_network else self.strength,
            "calibration": None if math.isinf(self.calibration) else self.calibration,
            "behind_frequencies": list(self.behind),
            "heldout_rows": self.losses.sample.rows,
        }


@dataclass(frozen=True)
class _Candidate:
    """First tables of a module, and how they are fitted.

    Attributes:
        module: Number of the module.
        start: First tables.
        target: Probabilities in whose proportions pseudo-counts are added.
        strength: Number of pseudo-counts; infinite for calibration instead of expectation-maximisation.
        calibration: Pseudo-counts that limit the calibration.
        states: Used states of every confounder; None stands for all.
    """

    module: int
    start: ComponentTables
    target: tuple[Tensor, ...]
    strength: float
    calibration: float
    states: int | None = None


@dataclass(frozen=True)
class _Trial:
    """A fitted candidate.

    Attributes:
        candidate: The candidate.
        tables: Its tables, fitted to the training rows.
        losses: Losses on held-out rows.
        row_losses: Loss of every merged row, for each fit.
    """

    candidate: _Candidate
    tables: ComponentTables
    losses: HeldOutLosses
    row_losses: list[Tensor]


class TableFitter:
    """Fit tables of trained networks, as held-out rows prefer them.

    Args:
        modules: H-nodes of one shape, in the order of their stacked weights.
        held_out: Mask of the held-out rows of each.
        seeds: Seed of the random starts of each.
        stacked: Converts the weights of the job to those of a :class:`~mdcm.training.stacking.ModuleStack`.
        device: Device of the computation.
    """

    def __init__(
        self,
        modules: Sequence[DiscreteModule],
        held_out: Sequence[Tensor],
        seeds: Sequence[int],
        stacked: Callable[[Sequence[Tensor]], Sequence[Tensor]],
        device: torch.device = CPU,
    ) -> None:
        self.modules, self.seeds, self.stacked, self.device = tuple(modules), tuple(seeds), stacked, device
        self.training = [(~mask).nonzero().squeeze(1) for mask in held_out]
        held_out_rows = [mask.nonzero().squeeze(1) for mask in held_out]
        self.samples = [module.sample(rows) for module, rows in zip(modules, held_out_rows, strict=True)]

    def choose(self, weights: Sequence[Tensor]) -> list[FittedTables | None]:
        """Fit several candidate tables per module to the training rows, and choose by the held-out rows.

        Args:
            weights: Weights of the networks, trained on the training rows.

        Returns:
            The chosen tables of every module; None for a module without tables.
        """
        networks = self._networks(weights)
        trials = self._try(
            [
                _Candidate(m, network, network.tables, math.inf, pseudo)
                for m, network in networks.items()
                for pseudo in (_CALIBRATIONS if any(self.modules[m].latents) else _CALIBRATIONS_UNCONFOUNDED)
            ]
        )
        candidates: list[_Candidate] = []
        for m, calibrated in trials.items():
            best = min(calibrated, key=lambda trial: trial.losses.mean)
            trials[m] = [best]
            base, pseudo = best.tables, best.candidate.calibration
            candidates += [_Candidate(m, base, base.tables, strength, pseudo) for strength in _STRENGTHS]
            if any(self.modules[m].latents):
                for number in range(_RANDOM_STARTS):
                    start, target = _random_start(self.modules[m], base, derived_seed(self.seeds[m], "start", number))
                    candidates += [_Candidate(m, start, target, strength, pseudo) for strength in _RANDOM_STRENGTHS]
                candidates += self._with_fewer_states(m, base, pseudo)
        for m, fitted in self._try(candidates).items():
            trials[m] += fitted
        return [self._best(m, trials[m]) if trials.get(m) else None for m in range(len(self.modules))]

    def _with_fewer_states(self, m: int, base: ComponentTables, pseudo: float) -> Iterator[_Candidate]:
        """Random starts whose priors exclude most states; expectation-maximisation keeps these excluded."""
        module = self.modules[m]
        if module.effective_rows(self.training[m]) < _DENSE * module.distinct:
            return
        for states in _FEWER_STATES:
            if states >= min(len(prior) for prior in base.priors):
                return
            for number in range(_FEWER_STATES_STARTS):
                start, target = _random_start(module, base, derived_seed(self.seeds[m], "start", states, number))
                priors = [torch.where(torch.arange(len(prior)) < states, prior, 0.0) for prior in start.priors]
                priors = [(prior / prior.sum()).clamp_min(MIN_PROBABILITY) for prior in priors]
                start = ComponentTables(start.tables, tuple(priors))
                yield _Candidate(m, start, target, min(_RANDOM_STRENGTHS), pseudo, states)

    def _networks(self, weights: Sequence[Tensor]) -> dict[int, ComponentTables]:
        """Tables of the networks, of every module that has tables."""
        stacked = self.stacked(weights)
        return {
            m: _tables_of_network(module, [weight[m] for weight in stacked])
            for m, module in enumerate(self.modules)
            if module.has_tables
        }

    def _try(self, candidates: Sequence[_Candidate]) -> dict[int, list[_Trial]]:
        """Fit candidates to the training rows; trials with finite losses, by module."""
        trials: dict[int, list[_Trial]] = {}
        for stack in self._stacks(candidates):
            fit, tables = self._fit(stack, self.training)
            losses = fit.evaluate([self.samples[candidate.module] for candidate in stack])
            row_losses = fit.row_losses()
            for number, (candidate, table, loss) in enumerate(zip(stack, tables, losses, strict=True)):
                if math.isfinite(loss.mean):
                    trial = _Trial(candidate, table, loss, [rows[number] for rows in row_losses])
                    trials.setdefault(candidate.module, []).append(trial)
        return trials

    def _best(self, m: int, trials: Sequence[_Trial]) -> FittedTables:
        """The best trial of a module."""
        module, rows = self.modules[m], self.training[m]
        best = _choose(module, rows, trials)
        candidate = best.candidate
        # with fewer states the fit may leave more unexplained than one with all states
        equal_strength = [trial for trial in trials if trial.candidate.strength == candidate.strength]
        closest = best
        if candidate.states:
            closest = min(equal_strength, key=lambda trial: _statistic(module, rows, trial.row_losses)[0])
        return FittedTables(
            best.tables,
            candidate.target,
            candidate.strength,
            candidate.calibration,
            best.losses,
            _behind(module, rows, best.losses),
            unexplained(module, rows, closest.row_losses),
        )

    def refit(self, chosen: Sequence[FittedTables | None], *, everything: bool = True) -> dict[int, ComponentTables]:
        """Final tables of modules, by number of the module.

        Args:
            chosen: Result of :meth:`choose`; None for modules to leave out.
            everything: Whether to fit them further, to all rows. Calibrated networks are left out then: the networks
                must be trained on all rows first, and :meth:`calibrate` calibrates them.
        """
        if not everything:
            return {m: fit.tables for m, fit in enumerate(chosen) if fit is not None}
        return self._on_all_rows(
            [
                _Candidate(m, fit.tables, fit.target, fit.strength, fit.calibration)
                for m, fit in enumerate(chosen)
                if fit is not None and not fit.is_network
            ]
        )

    def calibrate(self, weights: Sequence[Tensor], calibrations: Mapping[int, float]) -> dict[int, ComponentTables]:
        """Calibrate the tables of networks on all rows.

        Args:
            weights: Weights of the networks, trained on all rows.
            calibrations: Pseudo-counts that limit the calibration, by number of the module.
        """
        if not calibrations:
            return {}
        networks = self._networks(weights)
        return self._on_all_rows(
            [_Candidate(m, networks[m], networks[m].tables, math.inf, pseudo) for m, pseudo in calibrations.items()]
        )

    def _on_all_rows(self, candidates: Sequence[_Candidate]) -> dict[int, ComponentTables]:
        tables: dict[int, ComponentTables] = {}
        for stack in self._stacks(candidates):
            _, fitted = self._fit(stack, [None] * len(self.modules))
            tables |= {candidate.module: table for candidate, table in zip(stack, fitted, strict=True)}
        return tables

    def store(self, tables: Mapping[int, ComponentTables]) -> None:
        """Write tables into the mechanisms of their modules."""
        for m, component in tables.items():
            component.store(self.modules[m])

    def _fit(
        self, stack: Sequence[_Candidate], rows: Sequence[Tensor | None]
    ) -> tuple[TableStack, list[ComponentTables]]:
        calibrated = stack[0].strength == math.inf
        tables = TableStack(
            [self.modules[candidate.module] for candidate in stack],
            [rows[candidate.module] for candidate in stack],
            [candidate.start for candidate in stack],
            [candidate.target for candidate in stack],
            [candidate.calibration if calibrated else candidate.strength for candidate in stack],
            self.device,
        )
        return tables, tables.calibrate() if calibrated else tables.run()

    def _stacks(self, candidates: Sequence[_Candidate]) -> list[list[_Candidate]]:
        """Group candidates into stacks that are fitted at once, calibrations apart from the others."""
        stacks: list[list[_Candidate]] = []
        for calibrated in (True, False):
            stack: list[_Candidate] = []
            size = 0
            for candidate in candidates:
                if (candidate.strength == math.inf) is not calibrated:
                    continue
                rows = self.modules[candidate.module].distinct
                size = max(size, *(table.numel() for table in candidate.start.tables), rows)
                if stack and size * (len(stack) + 1) > _STACK:
                    stacks.append(stack)
                    stack = []
                stack.append(candidate)
            if stack:
                stacks.append(stack)
        return stacks


def _choose(module: DiscreteModule, rows: Tensor, trials: Sequence[_Trial]) -> _Trial:
    """The best trial: among those that held-out rows cannot distinguish from their favourite, the likeliest.

    With many rows per distinct row, the tenth of them that is held out distinguishes two fits much later than all rows
    would, and there is little to overfit. So the smallest number of pseudo-counts that is as good is taken, and among
    its starts the one with the best Akaike criterion on the training rows. A trial whose bias on the training rows is
    larger than the variance of their frequencies is then excluded, too.
    """
    (shares, _), number = module.weights(rows), module.effective_rows(rows)
    density = number / module.distinct
    if density >= _DENSE:
        trials = [trial for trial in trials if not _is_biased(module, rows, trial.row_losses)] or trials
    errors = density / _ROWS_PER_ERROR
    if errors > _MAX_ERRORS:
        errors = math.inf
    favourite = replace(min(trials, key=lambda trial: trial.losses.mean).losses, errors=errors)
    good = [
        trial
        for trial in trials
        if errors == math.inf or not replace(trial.losses, errors=errors).worse_than(favourite)
    ]
    fewest = min(trial.candidate.strength for trial in good)
    free = sum(frequencies(module, part.fit, share)[1] for part, share in zip(module.parts, shares, strict=True))

    def criterion(trial: _Trial) -> float:
        loss = 0.0
        for row_losses, part, share in zip(trial.row_losses, module.parts, shares, strict=True):
            losses = row_losses[: part.distinct].cpu().double().numpy()
            loss += float(share @ np.where(share > 0, losses, 0.0))
        return number * loss + min(_parameters(module, trial.candidate.states), free)

    return min((trial for trial in good if trial.candidate.strength == fewest), key=criterion)


def _parameters(module: DiscreteModule, states: int | None) -> int:
    """Number of free parameters of a module whose confounders have so many states; None stands for all states."""
    sizes = [len(prior) if states is None else states for prior in module.priors]
    per_member = [
        math.prod((parent.num_levels for parent in mechanism.parents), start=mechanism.levels - 1)
        * math.prod(sizes[index] for index in scope)
        for mechanism, scope in zip(module.mechanisms, module.latents, strict=True)
    ]
    return sum(per_member) + sum(size - 1 for size in sizes)


@torch.no_grad()
def _tables_of_network(module: DiscreteModule, weights: Sequence[Tensor]) -> ComponentTables:
    """Tables of trained networks."""
    remaining = iter(weights)
    tables = []
    for mechanism, scope in zip(module.mechanisms, module.latents, strict=True):
        layers = [next(remaining) for _ in range(2 + len(scope) + 2 * mechanism.layers)]
        sizes = [parent.num_levels for parent in mechanism.parents]
        codes = np.indices(sizes).reshape(len(sizes), -1) if sizes else np.zeros((0, 1), dtype=np.int64)
        hot = [F.one_hot(torch.from_numpy(code), size).float() for code, size in zip(codes, sizes, strict=True)]
        feature = torch.cat(hot, 1) if hot else torch.zeros(1, 0)
        layers[0] = layers[0][: feature.shape[1]]
        table = network_table([layer[None] for layer in layers], feature.to(layers[0])[None], len(scope))[0]
        tables.append(table.double().softmax(-1).movedim(-1, 1).contiguous().cpu())
    return ComponentTables(tuple(tables), tuple(prior.double().softmax(0).cpu() for prior in remaining))


def _random_start(
    module: DiscreteModule, network: ComponentTables, seed: int
) -> tuple[ComponentTables, tuple[Tensor, ...]]:
    """A random start around the network's mean over the states of confounders, and that mean as the target."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    starts, targets = [], []
    for table, scope in zip(network.tables, module.latents, strict=True):
        mean = table
        for axis, index in enumerate(scope):
            prior = network.priors[index].view(-1, *(1,) * (len(scope) - 1 - axis))
            mean = (mean * prior).sum(2 + axis, keepdim=True)
        mean = mean.expand_as(table)
        targets.append(mean.contiguous())
        shift = 2.0 * normal(*table.shape[1:]) + 0.5 * normal(*table.shape) if scope else torch.zeros(())
        starts.append((mean.log() + shift).softmax(1))
    priors = tuple((0.5 * normal(len(prior))).softmax(0) for prior in network.priors)
    return ComponentTables(tuple(starts), priors), tuple(targets)


def _behind(module: DiscreteModule, rows: Tensor, losses: HeldOutLosses) -> tuple[float, float]:
    """Nats per held-out row by which the frequencies of the training rows are better, and their standard error."""
    (shares, _), number = module.weights(rows), module.effective_rows(rows)
    logs = [
        frequencies(module, part.fit, share * number, pseudo=1.0)[0]
        for part, share in zip(module.parts, shares, strict=True)
    ]
    return losses.above(-torch.from_numpy(np.concatenate(logs)))


def unexplained(module: DiscreteModule, rows: Tensor, losses: Sequence[Tensor]) -> bool:
    """Whether a fit is as far from the frequencies of its rows as the truth may be.

    The likelihood-ratio statistic of the frequencies against the truth is about a chi-square with as many degrees of
    freedom as there are free cells. A fit whose statistic is improbably small has explained everything, and some of the
    noise.

    Args:
        module: The h-node.
        rows: The rows it was fitted to.
        losses: Negative log-likelihood of every merged row, for each fit.
    """
    statistic, cells = _statistic(module, rows, losses)
    return statistic > cells - _DEVIATIONS * math.sqrt(2 * cells)


def _is_biased(module: DiscreteModule, rows: Tensor, losses: Sequence[Tensor]) -> bool:
    """Whether a fit is farther from the truth than the frequencies of its rows are.

    The statistic of :func:`unexplained` is about a chi-square plus the contribution of bias; the frequencies' own error
    contributes as many degrees of freedom.
    """
    statistic, cells = _statistic(module, rows, losses)
    return statistic > 2 * cells + _DEVIATIONS * math.sqrt(2 * cells)


def _statistic(module: DiscreteModule, rows: Tensor, losses: Sequence[Tensor]) -> tuple[float, int]:
    """Likelihood-ratio statistic of the frequencies against a fit, and their free cells."""
    (shares, _), number = module.weights(rows), module.effective_rows(rows)
    statistic, cells = 0.0, 0
    for part, share, loss in zip(module.parts, shares, losses, strict=True):
        saturated, free = frequencies(module, part.fit, share)
        gap = saturated + loss[: part.distinct].double().cpu().numpy()
        statistic += 2 * number * float(share @ np.where(share > 0, gap, 0.0))
        cells += free
    return statistic, cells


def frequencies(
    module: DiscreteModule, fit: FitRows, counts: NDArray[np.float64], pseudo: float = 0.0
) -> tuple[NDArray[np.float64], int]:
    """Log of the c-factor of frequencies at every merged row of a fit, and the number of its free cells.

    The c-factor is the product over the variables, in topological order, of their conditional frequencies given the
    earlier ones and the parents of all of these.

    Args:
        module: The h-node.
        fit: One of its fits.
        counts: Count of every merged row.
        pseudo: Pseudo-counts per condition, spread evenly over the levels.

    References:
        Tian & Pearl (2002), A general identification condition for causal effects, lemma 1.
    """
    values, _ = distinct_rows({name: fit.values[name] for name in sorted(fit.values)}, len(fit.index))
    total = np.zeros(len(counts))
    free = 0
    known: dict[str, Tensor] = {}
    for name in fit.variables:
        mechanism = module.mechanisms[module.members.index(name)]
        known |= {parent.name: values[parent.name] for parent in mechanism.parents}
        _, given = distinct_rows(known, len(counts))
        known[name] = values[name]
        _, both = distinct_rows(known, len(counts))
        sums = [np.bincount(group.numpy(), weights=counts) for group in (both, given)]
        free += int((sums[0] > 0).sum()) - int((sums[1] > 0).sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (sums[0][both.numpy()] + pseudo / mechanism.levels) / (sums[1][given.numpy()] + pseudo)
            total += np.log(share)
    return total, free
