"""Whether confounders need twice the states: asked where a fit leaves something unexplained, decided on held-out rows.

Three questions, each dearer than the one before. Could more states help at all, and would they fit in memory? Is the
fit as far from the frequencies of its rows as the truth may be? And do twice the states, split from those that
are trained, gain more on held-out rows than as many more steps with the same ones?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mdcm.dcm import derived_seed
from mdcm.training.config import CPU, Schedule, TrainConfig
from mdcm.training.fidelity import misfits
from mdcm.training.losses import Losses, effective_rows
from mdcm.training.objectives.problems import full_batch_schedule
from mdcm.training.polish import Polished, unexplained
from mdcm.training.reference import is_behind, regression_losses
from mdcm.training.stacking import Bank, Module

if TYPE_CHECKING:
    from mdcm.planning import Plan
    from mdcm.training.ensemble_member import Member
    from mdcm.training.objectives.loss import Growth
    from mdcm.training.objectives.problems import SingleProblem

__all__ = ["full_length", "growth_of_numbers", "may_lack_states", "more_states_gain"]

# share of a training's steps after which twice the states must have gained
_TRIAL = 0.15
# by how much of their own size the two halves of a state are moved apart
_APART = 0.5
# rows on which a fit is compared with regressions
_JUDGED = 20_000


def full_length(config: TrainConfig) -> bool:
    """Whether training is as long as it is by default: one that was cut short shows what steps lack, not states."""
    return full_batch_schedule(config).steps >= full_batch_schedule(TrainConfig()).steps


def may_lack_states(module: Module) -> bool:
    """Whether more states could change the fit of an h-node's rows, whatever the mechanisms do.

    The likelihoods of all rows together are a mean over the states of a confounder, so that by Caratheodory's theorem
    as many states as there are distinct rows do what any number does.
    """
    return min(len(prior) for prior in module.priors) < module.distinct


def more_states_gain(
    modules: Sequence[Module],
    weights: Sequence[Tensor],
    held: Sequence[Tensor],
    places: Sequence[int],
    config: TrainConfig,
    seeds: Sequence[int],
    device: torch.device = CPU,
    polished: Sequence[Polished | None] = (),
) -> list[int]:
    """Which h-nodes gain by twice the states.

    Args:
        modules: H-nodes of one shape.
        weights: What they have learned, stacked as :class:`Bank` has it.
        held: Held-out rows of each, as a mask.
        places: Those that are asked about.
        config: Settings.
        seeds: Seed of each, by place.
        device: Where to train.
        polished: What came of each as tables, where that is known.

    Returns:
        Some of ``places``.
    """
    bank = Bank(modules, config, device)
    bank.parameters = [nn.Parameter(one.clone()) for one in weights]
    _set_rows(bank, held)
    lacking = _lacking(bank, held)
    for place, table in enumerate(polished):
        if table is not None:
            lacking[place] = table.lacking
    places = [place for place, lacks in enumerate(lacking) if lacks and place in places]
    if not places:
        return []
    bank.narrow(places)
    _set_rows(bank, [held[place] for place in places])
    weights, seeds = [one.detach() for one in bank.parameters], [seeds[place] for place in places]
    steps = max(1, round(_TRIAL * bank.schedule.steps))
    before = bank.validate()
    same = _continued(bank, weights, steps)
    wide = _continued(bank, _split(bank, weights, seeds), steps)
    found = []
    for place, one, other, more in zip(places, before, same, wide, strict=True):
        if _gains(more, one if one.mean <= other.mean else other):
            found.append(place)
    return found


def _set_rows(bank: Bank, held: Sequence[Tensor]) -> None:
    bank.set_training([(~mask).nonzero().squeeze(1) for mask in held])
    bank.set_validation([mask.nonzero().squeeze(1) for mask in held])


def _lacking(bank: Bank, held: Sequence[Tensor]) -> list[bool]:
    """Whether each network leaves more of its rows unexplained than the truth may."""
    with torch.no_grad():
        losses = bank.row_losses()
    return [
        unexplained(module, (~held[m]).nonzero().squeeze(1), [loss[m] for loss in losses])
        for m, module in enumerate(bank.modules)
    ]


def _split(bank: Bank, weights: Sequence[Tensor], seeds: Sequence[int]) -> list[Tensor]:
    """The same model with two states in the place of each, moved apart a little."""
    given = iter(weights)
    found = []
    for number, (mechanism, scope) in enumerate(zip(bank.mechanisms, bank.scopes, strict=True)):
        found += [next(given), next(given)]
        for axis in range(len(scope)):
            own = next(given)
            apart = torch.empty_like(own)
            for m, seed in enumerate(seeds):
                generator = torch.Generator().manual_seed(derived_seed(seed, number, axis))
                apart[m] = torch.randn(own.shape[1:], generator=generator)
            apart *= _APART * own.square().mean((1, 2), keepdim=True).sqrt()
            found.append(torch.cat([own + apart, own - apart], 1))
        found += [next(given) for _ in range(2 * mechanism.layers)]
    found += [torch.cat([prior, prior], 1) for prior in given]
    return found


def _continued(bank: Bank, weights: Sequence[Tensor], steps: int) -> list[Losses]:
    """Losses on held-out rows after so many more steps."""
    bank.parameters = [nn.Parameter(one.clone()) for one in weights]
    own = bank.schedule
    schedule = Schedule(steps, own.batch_size, own.learning_rate, own.weight_decay, own.betas, own.ema, steps // 10)
    optimiser = torch.optim.AdamW(bank.parameters, betas=own.betas, weight_decay=own.weight_decay)
    for step in range(1, steps + 1):
        optimiser.param_groups[0]["lr"] = schedule.rate(step)
        optimiser.zero_grad()
        bank.losses(step).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return bank.validate()


def _gains(more: Losses, fewer: Losses) -> bool:
    """Whether the mean is lower by more than the standard error of the difference, row by row."""
    gain, error = fewer.above(more.loss)
    return gain > error


def growth_of_numbers(plan: Plan, member: Member, place: int, held: Tensor, problem: SingleProblem) -> Growth | None:
    """Whether the confounders of an h-node with numbers need more states; None where nobody asks.

    They do where the fit is behind plain regressions, or does not draw what the data hold.

    Args:
        plan: The plan.
        member: The model.
        place: Place of the h-node in the plan.
        held: Mask of its rows that are held out.
        problem: Its training problem.
    """
    hnode, config = plan.hnodes[place], member.config
    if config.max_steps is not None or not member.confounders(hnode):
        return None
    if not all(member.dcm.mechanism(name).has_density for name in hnode.variables):
        return None
    may_gain = config.confounder_states is None and member.can_grow(place) and member.may_gain(place)

    def growth(weights: Sequence[Tensor], polished: Sequence[Polished | None]) -> tuple[list[int], dict[int, Any]]:
        problem.store(weights)
        mechanisms = {name: member.dcm.mechanism(name) for name in hnode.variables}
        fits, apart = member.rows(hnode), held.nonzero().squeeze(1)
        judged = torch.arange(len(held))[:: math.ceil(len(held) / _JUDGED)]

        def behind(rows: Tensor) -> tuple[float, float] | None:
            reference = regression_losses(mechanisms, fits, held, rows)
            problem.hold(rows)
            return None if reference is None else problem.evaluate().above(problem.distinct(reference))

        worth = [effective_rows(fit.mass(fit.local(rows)) for fit in fits) for rows in (None, apart, judged)]
        everywhere = behind(judged)
        # on rows that it has not seen a fit that has learned their chances by heart shows
        outside = behind(apart)
        if everywhere is None or outside is None:
            return [], {}
        lacks = is_behind(everywhere[0], worth[0]) or is_behind(outside[0], worth[1])
        former = member.former[place]
        if former is None and may_gain and not lacks:
            seed = member.derived("fidelity", hnode)
            lacks = bool(misfits(member.dcm, plan, member.data, seed, hnode.variables))
        if former is not None:
            # what has been tried before is worse than regressions too, and is tried again only if it was better
            lacks = lacks and not problem.evaluate().mean <= former
        return [0] if lacks and may_gain else [], {0: {"behind_regressions": [*everywhere, worth[2]]}}

    return growth
