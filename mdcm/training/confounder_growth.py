"""Growth of confounders: tests, on held-out rows, whether the confounders of an h-node need more states.

There are three tests, each more costly than the last. Could more states help at all, and would they fit in memory? Is
the fit as far from the frequencies of its rows as the truth may be? And do twice the states, split from the trained
ones, gain more on held-out rows than as many more steps with the same states?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mdcm.dcm import derived_seed
from mdcm.training.config import TrainConfig
from mdcm.training.devices import CPU
from mdcm.training.fidelity import misfits
from mdcm.training.losses import HeldOutLosses, effective_rows
from mdcm.training.objectives.problems import full_batch_schedule
from mdcm.training.reference import is_behind, regression_losses
from mdcm.training.stacking import DiscreteModule, ModuleStack
from mdcm.training.table_fitting import FittedTables, unexplained

if TYPE_CHECKING:
    from mdcm.planning import Plan
    from mdcm.training.ensemble_member import EnsembleMember
    from mdcm.training.objectives.loss import Growth
    from mdcm.training.objectives.problems import SingleProblem

__all__ = ["growth_of_numbers", "has_full_length", "may_lack_states", "more_states_gain"]

# share of a training's steps after which twice the states must have gained
_TRIAL = 0.15
# distance of the two halves of a state, as a share of their size
_APART = 0.5
# rows on which a fit is compared with regressions
_COMPARED_ROWS = 20_000


def has_full_length(config: TrainConfig) -> bool:
    """Whether training has at least its default length; a shorter one lacks steps, not states."""
    return full_batch_schedule(config).steps >= full_batch_schedule(TrainConfig()).steps


def may_lack_states(module: DiscreteModule) -> bool:
    """Whether more states could change the fit of an h-node's rows, whatever the mechanisms are.

    The vector of the likelihoods of all rows is a mean over the states of a confounder. By Caratheodory's theorem as
    many states as there are distinct rows therefore suffice.
    """
    return min(len(prior) for prior in module.priors) < module.distinct


def more_states_gain(
    modules: Sequence[DiscreteModule],
    weights: Sequence[Tensor],
    held_out: Sequence[Tensor],
    candidates: Sequence[int],
    config: TrainConfig,
    seeds: Sequence[int],
    device: torch.device = CPU,
    fitted: Sequence[FittedTables | None] = (),
) -> list[int]:
    """H-nodes that gain by twice the states.

    Args:
        modules: H-nodes of one shape.
        weights: Their trained weights, stacked as in :class:`ModuleStack`.
        held_out: Mask of the held-out rows of each.
        candidates: Indices of the h-nodes to test.
        config: Settings.
        seeds: Seed of each h-node.
        device: Device of the training.
        fitted: Fitted tables of each h-node, where they are known.

    Returns:
        Some of ``candidates``.
    """
    stack = ModuleStack(modules, config, device)
    stack.parameters = [nn.Parameter(weight.clone()) for weight in weights]
    _set_rows(stack, held_out)
    lacking = _lacking(stack, held_out)
    for index, tables in enumerate(fitted):
        if tables is not None:
            lacking[index] = tables.lacking
    candidates = [index for index, lacks in enumerate(lacking) if lacks and index in candidates]
    if not candidates:
        return []
    stack.narrow(candidates)
    _set_rows(stack, [held_out[index] for index in candidates])
    weights, seeds = [parameter.detach() for parameter in stack.parameters], [seeds[index] for index in candidates]
    steps = max(1, round(_TRIAL * stack.schedule.steps))
    before = stack.validate()
    same_states = _continued(stack, weights, steps)
    twice_the_states = _continued(stack, _split(stack, weights, seeds), steps)
    return [
        index
        for index, first, same, twice in zip(candidates, before, same_states, twice_the_states, strict=True)
        if _gains(twice, first if first.mean <= same.mean else same)
    ]


def _set_rows(stack: ModuleStack, held_out: Sequence[Tensor]) -> None:
    stack.set_training([(~mask).nonzero().squeeze(1) for mask in held_out])
    stack.set_validation([mask.nonzero().squeeze(1) for mask in held_out])


def _lacking(stack: ModuleStack, held_out: Sequence[Tensor]) -> list[bool]:
    """Whether each network leaves more of its rows unexplained than the truth may."""
    with torch.no_grad():
        losses = stack.row_losses()
    return [
        unexplained(module, (~held_out[m]).nonzero().squeeze(1), [loss[m] for loss in losses])
        for m, module in enumerate(stack.modules)
    ]


def _split(stack: ModuleStack, weights: Sequence[Tensor], seeds: Sequence[int]) -> list[Tensor]:
    """The same model with every state split into two that differ a little."""
    remaining = iter(weights)
    split = []
    for number, (mechanism, scope) in enumerate(zip(stack.mechanisms, stack.scopes, strict=True)):
        split += [next(remaining), next(remaining)]
        for axis in range(len(scope)):
            states = next(remaining)
            shift = torch.empty_like(states)
            for m, seed in enumerate(seeds):
                generator = torch.Generator().manual_seed(derived_seed(seed, number, axis))
                shift[m] = torch.randn(states.shape[1:], generator=generator)
            shift *= _APART * states.square().mean((1, 2), keepdim=True).sqrt()
            split.append(torch.cat([states + shift, states - shift], 1))
        split += [next(remaining) for _ in range(2 * mechanism.layers)]
    split += [torch.cat([prior, prior], 1) for prior in remaining]
    return split


def _continued(stack: ModuleStack, weights: Sequence[Tensor], steps: int) -> list[HeldOutLosses]:
    """Losses on held-out rows after so many more steps from some weights."""
    stack.parameters = [nn.Parameter(weight.clone()) for weight in weights]
    schedule = replace(stack.schedule, steps=steps, warmup=steps // 10)
    optimiser = torch.optim.AdamW(stack.parameters, betas=schedule.betas, weight_decay=schedule.weight_decay)
    for step in range(1, steps + 1):
        optimiser.param_groups[0]["lr"] = schedule.rate(step)
        optimiser.zero_grad()
        stack.losses(step).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return stack.validate()


def _gains(more: HeldOutLosses, fewer: HeldOutLosses) -> bool:
    """Whether the mean is lower by more than the standard error of the paired difference."""
    gain, error = fewer.above(more.loss)
    return gain > error


def growth_of_numbers(
    plan: Plan, member: EnsembleMember, index: int, held_out: Tensor, problem: SingleProblem
) -> Growth | None:
    """Test whether the confounders of an h-node with numbers need more states; None if there is nothing to test.

    They do if the fit is worse than plain regressions, or its draws differ from the data.

    Args:
        plan: The plan.
        member: The model.
        index: Index of the h-node in the plan.
        held_out: Mask of its held-out rows.
        problem: Its training problem.
    """
    hnode, config = plan.hnodes[index], member.config
    if config.max_steps is not None or not member.confounders(hnode):
        return None
    if not all(member.dcm.mechanism(name).has_density for name in hnode.variables):
        return None
    may_gain = config.confounder_states is None and member.can_grow(index) and member.may_gain(index)

    def growth(weights: Sequence[Tensor], fitted: Sequence[FittedTables | None]) -> tuple[list[int], dict[int, Any]]:
        problem.store(weights)
        mechanisms = {name: member.dcm.mechanism(name) for name in hnode.variables}
        fits, held_out_rows = member.rows(hnode), held_out.nonzero().squeeze(1)
        some_rows = torch.arange(len(held_out))[:: math.ceil(len(held_out) / _COMPARED_ROWS)]

        def behind(rows: Tensor) -> tuple[float, float] | None:
            reference = regression_losses(mechanisms, fits, held_out, rows)
            problem.validate_on(rows)
            return None if reference is None else problem.evaluate().above(problem.distinct(reference))

        all_worth, held_out_worth, some_worth = (
            effective_rows(fit.mass(fit.local(rows)) for fit in fits) for rows in (None, held_out_rows, some_rows)
        )
        overall = behind(some_rows)
        # held-out rows show whether the fit has overfitted the others
        held_out_behind = behind(held_out_rows)
        if overall is None or held_out_behind is None:
            return [], {}
        lacks = is_behind(overall[0], all_worth) or is_behind(held_out_behind[0], held_out_worth)
        former_loss = member.loss_before_growth[index]
        if former_loss is None and may_gain and not lacks:
            seed = member.derived("fidelity", hnode)
            lacks = bool(misfits(member.dcm, plan, member.data, seed, hnode.variables))
        if former_loss is not None:
            # the former fit was behind regressions too; grow again only if the new fit is not better
            lacks = lacks and not problem.evaluate().mean <= former_loss
        return [0] if lacks and may_gain else [], {0: {"behind_regressions": [*overall, some_worth]}}

    return growth
