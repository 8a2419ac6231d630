"""Intervals from the answers of an ensemble."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["student_interval", "student_quantile"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)


def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution, by bisection on its distribution function.

    With t = sqrt(degrees) tan(angle) the density is proportional to cos(angle)^(degrees - 1) on a bounded interval.

    Args:
        probability: Between 0 and 1.
        degrees: Degrees of freedom, at least 1.

    Example:
        >>> round(student_quantile(0.95, 19), 4)
        1.7291
    """

    def mass(angle: float) -> float:
        # of the angles between 0 and this one
        return float(0.5 * angle * (_WEIGHTS @ np.cos(0.5 * angle * (_NODES + 1)) ** (degrees - 1)))

    wanted = (2 * abs(probability - 0.5)) * mass(math.pi / 2)
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if mass(middle) < wanted else (low, middle)
    return math.copysign(math.sqrt(degrees) * math.tan(0.5 * (low + high)), probability - 0.5)


def student_interval(
    estimate: ArrayLike,
    members: ArrayLike,
    error: ArrayLike,
    level: float,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intervals about estimates, as wide as the spread of an ensemble's answers and Student's t say.

    With as few members as an ensemble has, their quantiles say less of the tails than their standard deviation.

    Args:
        estimate: Estimates, ``[r]``.
        members: Answers of the members, ``[k, r]``, k at least 2.
        error: Standard errors that the estimates have besides, such as those of draws, ``[r]``.
        level: Probability with which an interval covers the truth.
        bounds: What an answer cannot be below and above.

    Returns:
        Lower and upper ends, ``[r]``.

    References:
        Efron & Tibshirani (1993), An introduction to the bootstrap, chapter 12.

    Example:
        >>> low, high = student_interval([0.5], [[0.4], [0.6]], [0.0], 0.5)
        >>> round(float(low[0]), 4), round(float(high[0]), 4)
        (0.3586, 0.6414)
    """
    centre = np.asarray(estimate, dtype=np.float64)
    answers = np.asarray(members, dtype=np.float64)
    spread = np.hypot(answers.std(axis=0, ddof=1), np.asarray(error, dtype=np.float64))
    reach = student_quantile(0.5 + level / 2, len(answers) - 1) * spread
    return np.clip(centre - reach, *bounds), np.clip(centre + reach, *bounds)
