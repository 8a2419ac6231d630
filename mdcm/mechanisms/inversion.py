"""Running a deterministic sampler of images backwards, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["fixed_point", "invert"]

Step = Callable[[Tensor], Tensor]

_ROUNDS = 60
_CLOSE = 1e-5
_PACES = (0.02, 4.0)
# the last step draws what the network knows of images: what is left of a miss that shrinks by less than this share in a
# round is not of its kind, and following it further would only make the noise less likely
_WORTHWHILE = 0.05


@torch.no_grad()
def fixed_point(
    step: Step, target: Tensor, start: Tensor, *, rounds: int = _ROUNDS, close: float = _CLOSE, gain: float = 0.0
) -> Tensor:
    """State from which a step leads to the target: ``x <- x + a (target - step(x))``, the best x of each row.

    A step of a flow is close to the gradient of a convex function. The pace a of each row is the inverse of the slope
    that its last move has shown; a row whose miss grows has overstepped, and goes back to its best state with half
    the pace.

    Args:
        step: Maps states ``[n, ...]`` to states, row by row.
        target: Where the step leads, ``[n, ...]``.
        start: First guess.
        rounds: Most evaluations of the step.
        close: Root mean square of a row's miss, over that of its target where this is below 1, that is good enough.
        gain: Share by which a miss must shrink for a state to count as better.

    References:
        Barzilai & Borwein (1988), "Two-point step size gradient methods".

    Example:
        >>> fixed_point(lambda x: 3.5 * x, torch.ones(1, 1), torch.ones(1, 1)).round(decimals=3)
        tensor([[0.2860]])
    """
    shape = (-1, *(1,) * (start.ndim - 1))

    def inner(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).flatten(1).mean(1)

    enough = close * inner(target, target).sqrt().clamp_max(1.0)
    least = torch.full_like(enough, torch.inf)
    pace = torch.ones_like(enough)
    state = best = start
    best_miss = torch.zeros_like(start)
    for _ in range(rounds):
        miss = target - step(state)
        size = inner(miss, miss).sqrt()
        # the first state always counts, and NaN never does
        better = size < (1 - gain) * least
        moved = state - best
        fitting = inner(moved, moved) / inner(moved, best_miss - miss)
        # no slope to be seen in the first round, and none to follow where it is not positive
        fitting = torch.where((fitting > 0) & fitting.isfinite(), fitting.clamp(*_PACES), 1.0)
        pace = torch.where(better, fitting, 0.5 * pace)
        least = torch.where(better, size, least)
        best, best_miss = (torch.where(better.view(shape), new, old) for new, old in ((state, best), (miss, best_miss)))
        if bool(((least <= enough) | (pace < _PACES[0] / 16)).all()):
            break
        state = best + pace.view(shape) * best_miss
    return best


def invert(steps: Sequence[Step], image: Tensor, start: Tensor) -> Tensor:
    """Noise from which the steps of a sampler lead to an image.

    The last step maps many states to one image, since it forgets the noise that is left; among them one near ``start``
    is taken. Every other step is one to one, and is solved for its state.

    Args:
        steps: The steps of the sampler in the order of sampling.
        image: Where they lead, ``[n, c, h, w]``.
        start: Guess of the state before the last step: the image with fresh noise of that time.

    Returns:
        Noise of the shape of the image.
    """
    state = fixed_point(steps[-1], image, start, gain=_WORTHWHILE)
    for step in reversed(steps[:-1]):
        state = fixed_point(step, state, state)
    return state
