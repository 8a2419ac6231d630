"""What becomes of trained networks as tables: calibrated, or by expectation-maximisation, as held-out rows choose."""

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
from mdcm.training.config import CPU
from mdcm.training.expectation import LEAST, Fitted, Tables
from mdcm.training.losses import Losses
from mdcm.training.objectives.likelihood import distinct_rows
from mdcm.training.stacking import Module, network_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.training.rows import FitRows

__all__ = ["Polished", "Polisher", "frequencies", "unexplained"]

# pseudo-counts per combination of parents and states, of the network's distribution or of the frequencies
_STRENGTHS = (30.0, 8.0, 2.0, 0.5)
# the same where a start of its own knows no network
_FRESH = (2.0, 0.5)
_FRESH_STARTS = 2
# pseudo-counts per combination of parents by which a calibration is held back, with confounders and without
_CALIBRATIONS = (1.0, 10.0)
_CALIBRATIONS_OF_ONE = (math.inf,)
# numbers over all modules and candidates that are stacked
_STACK = 1 << 22
# numbers of states of every confounder from which other starts come, where rows are many enough to tell by
_FEWER_STATES = (2, 3, 4)
_FEWER_STARTS = 3
# rows for each distinct one from which the likelihood of the rows that are learned from says what is biased
_DENSE = 20
# rows for each distinct one at which a candidate may be worse by a standard error on held-out rows, and from which
# these, a few as they are, are not asked
_ROWS_PER_ERROR = 200
_MOST_ERRORS = 2.0
# standard deviations of a chi-square by which it may be expected to be below its mean
_DEVIATIONS = 2.0


@dataclass(frozen=True)
class Polished:
    """What came of one module.

    Attributes:
        fitted: Its tables, fitted to the rows that are not held out.
        target: What they are drawn towards.
        strength: By how many pseudo-counts; infinite where they are those of the calibrated network.
        calibration: Pseudo-counts that hold the calibration of the network back.
        losses: On held-out rows.
        behind: By how many nats per held-out row frequencies are better, and the standard error of that.
        lacking: Whether the fit leaves more of its rows unexplained than the truth may.
    """

    fitted: Fitted
    target: tuple[Tensor, ...]
    strength: float
    calibration: float
    losses: Losses
    behind: tuple[float, float]
    lacking: bool

    @property
    def is_network(self) -> bool:
        """Whether nothing was better than the network, calibrated."""
        return self.strength == math.inf

    def to_json(self) -> dict[str, Any]:
        """What the record of a training says of it."""
        return {
            "pseudo_counts": None if self.is_network else self.strength,
            "calibration": None if math.isinf(self.calibration) else self.calibration,
            "behind_frequencies": list(self.behind),
            "heldout_rows": self.losses.sample.rows,
        }


@dataclass(frozen=True)
class _Candidate:
    """Where one module begins, and what is done from there.

    Attributes:
        module: Its number.
        start: Tables that it begins with.
        target: What expectation-maximisation draws them towards.
        strength: By how many pseudo-counts; infinite where they are calibrated instead.
        calibration: Pseudo-counts that hold a calibration back.
        states: States of every confounder that are used; None stands for all.
    """

    module: int
    start: Fitted
    target: tuple[Tensor, ...]
    strength: float
    calibration: float
    states: int | None = None


@dataclass(frozen=True)
class _Tried:
    """What became of a candidate: its losses on held-out rows, and those of every merged row for each fit."""

    candidate: _Candidate
    fitted: Fitted
    losses: Losses
    rows: list[Tensor]


class Polisher:
    """Makes tables of trained networks, as held-out rows prefer them.

    Args:
        modules: H-nodes of one shape, in the order of their stacked weights.
        held: Held-out rows of each, as a mask.
        seeds: Seed of the starts of each.
        stacked: Gives the weights of the job as :class:`~mdcm.training.stacking.Bank` has them.
        device: Where it is done.
    """

    def __init__(
        self,
        modules: Sequence[Module],
        held: Sequence[Tensor],
        seeds: Sequence[int],
        stacked: Callable[[Sequence[Tensor]], Sequence[Tensor]],
        device: torch.device = CPU,
    ) -> None:
        self.modules, self.seeds, self.stacked, self.device = tuple(modules), tuple(seeds), stacked, device
        self.kept = [(~mask).nonzero().squeeze(1) for mask in held]
        self.samples = [module.sample(mask.nonzero().squeeze(1)) for module, mask in zip(modules, held, strict=True)]

    def choose(self, weights: Sequence[Tensor]) -> list[Polished | None]:
        """Fit tables to the rows that are not held out, in several ways each, and choose by those that are.

        Args:
            weights: Of the networks that these rows have taught.

        Returns:
            What came of every module; None for one without tables.
        """
        networks = self._networks(weights)
        found = self._try(
            [
                _Candidate(m, network, network.tables, math.inf, pseudo)
                for m, network in networks.items()
                for pseudo in (_CALIBRATIONS if any(self.modules[m].latents) else _CALIBRATIONS_OF_ONE)
            ]
        )
        candidates: list[_Candidate] = []
        for m, tried in found.items():
            best = min(tried, key=lambda one: one.losses.mean)
            found[m] = [best]
            base, pseudo = best.fitted, best.candidate.calibration
            candidates += [_Candidate(m, base, base.tables, strength, pseudo) for strength in _STRENGTHS]
            if any(self.modules[m].latents):
                for number in range(_FRESH_STARTS):
                    start, target = _fresh(self.modules[m], base, derived_seed(self.seeds[m], "start", number))
                    candidates += [_Candidate(m, start, target, strength, pseudo) for strength in _FRESH]
                candidates += self._with_fewer_states(m, base, pseudo)
        for m, tried in self._try(candidates).items():
            found[m] += tried
        return [self._polished(m, found[m]) if found.get(m) else None for m in range(len(self.modules))]

    def _with_fewer_states(self, m: int, base: Fitted, pseudo: float) -> Iterator[_Candidate]:
        """Fresh starts whose priors leave most states out; those that are left out stay so."""
        module = self.modules[m]
        if module.worth(self.kept[m]) < _DENSE * module.distinct:
            return
        for states in _FEWER_STATES:
            if states >= min(len(prior) for prior in base.priors):
                return
            for number in range(_FEWER_STARTS):
                start, target = _fresh(module, base, derived_seed(self.seeds[m], "start", states, number))
                priors = [torch.where(torch.arange(len(prior)) < states, prior, 0.0) for prior in start.priors]
                start = Fitted(start.tables, tuple((prior / prior.sum()).clamp_min(LEAST) for prior in priors))
                yield _Candidate(m, start, target, min(_FRESH), pseudo, states)

    def _networks(self, weights: Sequence[Tensor]) -> dict[int, Fitted]:
        """Tables that networks stand for, of every module that has any."""
        stacked = self.stacked(weights)
        return {
            m: _network(module, [one[m] for one in stacked])
            for m, module in enumerate(self.modules)
            if module.has_tables
        }

    def _try(self, candidates: Sequence[_Candidate]) -> dict[int, list[_Tried]]:
        """What becomes of candidates on the rows that are not held out, by module; those that are finite."""
        found: dict[int, list[_Tried]] = {}
        for part in self._stacks(candidates):
            tables, fitted = self._fit(part, self.kept)
            losses = tables.evaluate([self.samples[one.module] for one in part])
            rows = tables.row_losses()
            for number, (one, own, loss) in enumerate(zip(part, fitted, losses, strict=True)):
                if math.isfinite(loss.mean):
                    tried = _Tried(one, own, loss, [each[number] for each in rows])
                    found.setdefault(one.module, []).append(tried)
        return found

    def _polished(self, m: int, tried: Sequence[_Tried]) -> Polished:
        """The best of what was tried for a module."""
        module, kept = self.modules[m], self.kept[m]
        best = _chosen(module, kept, tried)
        one = best.candidate
        # fewer states, where they are preferred, do not say what all of them leave
        alike = [other for other in tried if other.candidate.strength == one.strength]
        wide = min(alike, key=lambda other: _statistic(module, kept, other.rows)[0]) if one.states else best
        return Polished(
            best.fitted,
            one.target,
            one.strength,
            one.calibration,
            best.losses,
            _behind(module, kept, best.losses),
            unexplained(module, kept, wide.rows),
        )

    def refit(self, polished: Sequence[Polished | None], *, everything: bool = True) -> dict[int, Fitted]:
        """Tables that held-out rows have chosen, by number of the module.

        Args:
            polished: What :meth:`choose` found.
            everything: Whether they are fitted on to all rows, from where they are. Networks are left out then: they
                are trained on all rows first, and calibrated by :meth:`calibrate`.
        """
        if not everything:
            return {m: one.fitted for m, one in enumerate(polished) if one is not None}
        return self._on_all_rows(
            [
                _Candidate(m, one.fitted, one.target, one.strength, one.calibration)
                for m, one in enumerate(polished)
                if one is not None and not one.is_network
            ]
        )

    def calibrate(self, weights: Sequence[Tensor], calibrations: Mapping[int, float]) -> dict[int, Fitted]:
        """Tables of networks that all rows have taught, calibrated on all rows.

        Args:
            weights: Of the networks.
            calibrations: Pseudo-counts that hold it back, by number of the module.
        """
        if not calibrations:
            return {}
        networks = self._networks(weights)
        return self._on_all_rows(
            [_Candidate(m, networks[m], networks[m].tables, math.inf, pseudo) for m, pseudo in calibrations.items()]
        )

    def _on_all_rows(self, candidates: Sequence[_Candidate]) -> dict[int, Fitted]:
        found: dict[int, Fitted] = {}
        for part in self._stacks(candidates):
            _, fitted = self._fit(part, [None] * len(self.modules))
            found |= {one.module: own for one, own in zip(part, fitted, strict=True)}
        return found

    def store(self, fitted: Mapping[int, Fitted]) -> None:
        """Write tables into the mechanisms of their modules."""
        for m, one in fitted.items():
            one.store(self.modules[m])

    def _fit(self, candidates: Sequence[_Candidate], rows: Sequence[Tensor | None]) -> tuple[Tables, list[Fitted]]:
        calibrated = candidates[0].strength == math.inf
        tables = Tables(
            [self.modules[one.module] for one in candidates],
            [rows[one.module] for one in candidates],
            [one.start for one in candidates],
            [one.target for one in candidates],
            [one.calibration if calibrated else one.strength for one in candidates],
            self.device,
        )
        return tables, tables.calibrate() if calibrated else tables.run()

    def _stacks(self, candidates: Sequence[_Candidate]) -> list[list[_Candidate]]:
        """Candidates that are fitted at once, those that are calibrated by themselves."""
        found: list[list[_Candidate]] = []
        for calibrated in (True, False):
            stack: list[_Candidate] = []
            size = 0
            for one in candidates:
                if (one.strength == math.inf) is not calibrated:
                    continue
                size = max(size, *(table.numel() for table in one.start.tables), self.modules[one.module].distinct)
                if stack and size * (len(stack) + 1) > _STACK:
                    found.append(stack)
                    stack = []
                stack.append(one)
            if stack:
                found.append(stack)
        return found


def _chosen(module: Module, kept: Tensor, tried: Sequence[_Tried]) -> _Tried:
    """The best of several candidates: of those that held-out rows cannot tell from their favourite, the likeliest.

    Where there are many rows for each distinct one, a tenth of them tells two fits apart much later than all of them
    would, and there is little to overfit: the fewest pseudo-counts that are as good are taken, and of starts the one
    that explains the other rows best, for what it is free to do (Akaike's criterion). There too a candidate is left
    out whose bias, by the other rows, is larger than the variance of their frequencies.
    """
    (shares, _), number = module.weights(kept), module.worth(kept)
    density = number / module.distinct
    if density >= _DENSE:
        tried = [one for one in tried if not _is_biased(module, kept, one.rows)] or tried
    allowed = density / _ROWS_PER_ERROR
    if allowed > _MOST_ERRORS:
        allowed = math.inf
    favourite = min(tried, key=lambda one: one.losses.mean)
    bar = replace(favourite.losses, errors=allowed)
    good = [one for one in tried if allowed == math.inf or not replace(one.losses, errors=allowed).worse_than(bar)]
    fewest = min(one.candidate.strength for one in good)
    free = sum(frequencies(module, part.fit, share)[1] for part, share in zip(module.parts, shares, strict=True))

    def criterion(one: _Tried) -> float:
        own = [rows[: part.distinct].cpu().double().numpy() for rows, part in zip(one.rows, module.parts, strict=True)]
        loss = sum(float(share @ np.where(share > 0, each, 0.0)) for share, each in zip(shares, own, strict=True))
        return number * loss + min(_parameters(module, one.candidate.states), free)

    return min((one for one in good if one.candidate.strength == fewest), key=criterion)


def _parameters(module: Module, states: int | None) -> int:
    """Free numbers of a module whose confounders have so many states."""
    sizes = [len(prior) if states is None else states for prior in module.priors]
    own = [
        math.prod((parent.num_levels for parent in mechanism.parents), start=mechanism.levels - 1)
        * math.prod(sizes[index] for index in scope)
        for mechanism, scope in zip(module.mechanisms, module.latents, strict=True)
    ]
    return sum(own) + sum(size - 1 for size in sizes)


@torch.no_grad()
def _network(module: Module, weights: Sequence[Tensor]) -> Fitted:
    """Tables that trained networks stand for."""
    given = iter(weights)
    tables = []
    for mechanism, scope in zip(module.mechanisms, module.latents, strict=True):
        layers = [next(given) for _ in range(2 + len(scope) + 2 * mechanism.layers)]
        sizes = [parent.num_levels for parent in mechanism.parents]
        codes = np.indices(sizes).reshape(len(sizes), -1) if sizes else np.zeros((0, 1), dtype=np.int64)
        hot = [F.one_hot(torch.from_numpy(code), size).float() for code, size in zip(codes, sizes, strict=True)]
        feature = torch.cat(hot, 1) if hot else torch.zeros(1, 0)
        layers[0] = layers[0][: feature.shape[1]]
        table = network_table([one[None] for one in layers], feature.to(layers[0])[None], len(scope))[0]
        tables.append(table.double().softmax(-1).movedim(-1, 1).contiguous().cpu())
    return Fitted(tuple(tables), tuple(prior.double().softmax(0).cpu() for prior in given))


def _fresh(module: Module, network: Fitted, seed: int) -> tuple[Fitted, tuple[Tensor, ...]]:
    """A random start, whose states have no more than their mean in common with the network's, and that mean."""
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
        apart = 2.0 * normal(*table.shape[1:]) + 0.5 * normal(*table.shape) if scope else torch.zeros(())
        starts.append((mean.log() + apart).softmax(1))
    priors = tuple((0.5 * normal(len(prior))).softmax(0) for prior in network.priors)
    return Fitted(tuple(starts), priors), tuple(targets)


def _behind(module: Module, rows: Tensor, losses: Losses) -> tuple[float, float]:
    """Nats per held-out row by which the frequencies of other rows are better, and their standard error."""
    (shares, _), number = module.weights(rows), module.worth(rows)
    logs = [
        frequencies(module, part.fit, share * number, pseudo=1.0)[0]
        for part, share in zip(module.parts, shares, strict=True)
    ]
    return losses.above(-torch.from_numpy(np.concatenate(logs)))


def unexplained(module: Module, rows: Tensor, losses: Sequence[Tensor]) -> bool:
    """Whether a fit is as far from the frequencies of its rows as the truth may be.

    The likelihood-ratio statistic of the frequencies against the truth is about a chi-square with as many degrees of
    freedom as there are free cells. A fit whose statistic is below all that is likely for it has explained all that
    there is, and some of the noise.

    Args:
        module: The h-node.
        rows: The rows that it was fitted to.
        losses: Negative log-likelihood of every merged row, for each fit.
    """
    statistic, cells = _statistic(module, rows, losses)
    return statistic > cells - _DEVIATIONS * math.sqrt(2 * cells)


def _is_biased(module: Module, rows: Tensor, losses: Sequence[Tensor]) -> bool:
    """Whether a fit is farther from the frequencies of its rows than one may be that is nearer to the truth than they.

    The statistic of :func:`unexplained` is about that of a chi-square, plus what bias adds; frequencies are off by as
    many degrees of freedom.
    """
    statistic, cells = _statistic(module, rows, losses)
    return statistic > 2 * cells + _DEVIATIONS * math.sqrt(2 * cells)


def _statistic(module: Module, rows: Tensor, losses: Sequence[Tensor]) -> tuple[float, int]:
    """Likelihood-ratio statistic of the frequencies against a fit, and their free cells."""
    (shares, _), number = module.weights(rows), module.worth(rows)
    statistic, cells = 0.0, 0
    for part, share, loss in zip(module.parts, shares, losses, strict=True):
        saturated, free = frequencies(module, part.fit, share)
        gap = saturated + loss[: part.distinct].double().cpu().numpy()
        statistic += 2 * number * float(share @ np.where(share > 0, gap, 0.0))
        cells += free
    return statistic, cells


def frequencies(
    module: Module, fit: FitRows, counts: NDArray[np.float64], pseudo: float = 0.0
) -> tuple[NDArray[np.float64], int]:
    """Log of the c-factor by frequencies at every merged row of a fit, and the number of its free cells.

    The product over the variables in topological order of their conditional frequencies given the earlier ones and
    the parents of all of these.

    Args:
        module: The h-node.
        fit: One of its fits.
        counts: How often every merged row is counted.
        pseudo: Pseudo-counts in every condition, as many of each level.

    References:
        Tian & Pearl (2002), A general identification condition for causal effects, lemma 1.
    """
    values, _ = distinct_rows({name: fit.values[name] for name in sorted(fit.values)}, len(fit.place))
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
