"""Inversion of a deterministic sampler of images, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["fixed_point", "invert"]

Step = Callable[[Tensor], Tensor]

_ROUNDS = 60
_TOLERANCE = 1e-5
_STEP_SIZES = (0.02, 4.0)
# the range of the last step is the images that the network can generate: once an iteration reduces the residual by less
# than this fraction, the rest lies outside that range, and further iterations only make the noise less likely
_MIN_GAIN = 0.05


@torch.no_grad()
def fixed_point(
    step: Step, target: Tensor, start: Tensor, *, rounds: int = _ROUNDS, close: float = _TOLERANCE, gain: float = 0.0
) -> Tensor:
    """Solve ``step(x) = target`` by the iteration ``x <- x + a (target - step(x))``; return the best x of each row.

    A step of a flow is close to the gradient of a convex function, so the step size a of each row is that of Barzilai
    and Borwein; a row whose residual grows returns to its best state with half the step size.

    Args:
        step: Map from states ``[n, ...]`` to states that treats rows independently.
        target: Value of the step to reach, ``[n, ...]``.
        start: Initial state, ``[n, ...]``.
        rounds: Maximal number of evaluations of the step.
        close: Root mean square residual to reach, relative to that of the target if the latter is below 1.
        gain: Fraction by which a residual must shrink for a state to count as better.

    References:
        Barzilai & Borwein (1988), "Two-point step size gradient methods".

    Example:
        >>> fixed_point(lambda x: 3.5 * x, torch.ones(1, 1), torch.ones(1, 1)).round(decimals=3)
        tensor([[0.2860]])
    """
    shape = (-1, *(1,) * (start.ndim - 1))

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).flatten(1).mean(1)

    tolerance = close * inner(target, target).sqrt().clamp_max(1.0)
    best_norm = torch.full_like(tolerance, torch.inf)
    step_size = torch.ones_like(tolerance)
    state = best = start
    best_residual = torch.zeros_like(start)
    for _ in range(rounds):
        residual = target - step(state)
        norm = inner(residual, residual).sqrt()
        # always true for the first state, never for NaN
        better = norm < (1 - gain) * best_norm
        moved = state - best
        secant = inner(moved, moved) / inner(moved, best_residual - residual)
        # undefined in the first round; negative where the step is not monotone
        secant = torch.where((secant > 0) & secant.isfinite(), secant.clamp(*_STEP_SIZES), 1.0)
        step_size = torch.where(better, secant, 0.5 * step_size)
        best_norm = torch.where(better, norm, best_norm)
        best = torch.where(better.view(shape), state, best)
        best_residual = torch.where(better.view(shape), residual, best_residual)
        if bool(((best_norm <= tolerance) | (step_size < _STEP_SIZES[0] / 16)).all()):
            break
        state = best + step_size.view(shape) * best_residual
    return best


def invert(steps: Sequence[Step], image: Tensor, start: Tensor) -> Tensor:
    """Noise from which a sampler generates an image, found by inverting its steps in reverse order.

    The last step discards the remaining noise and so maps many states to the same image; the solution is near
    ``start``. Every other step is injective.

    Args:
        steps: The steps of the sampler in the order of sampling.
        image: Result of the last step, ``[n, c, h, w]``.
        start: Initial guess of the state before the last step: the image with fresh noise of that time.

    Returns:
        Noise of the shape of the image.
    """
    state = fixed_point(steps[-1], image, start, gain=_MIN_GAIN)
    for step in reversed(steps[:-1]):
        state = fixed_point(step, state, state)
    return state
