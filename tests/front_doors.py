"""Front doors of real numbers whose effect is known: U -> X -> Z -> Y <- U, of which U is hidden."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import ndtri

from mdcm.metrics import energy_distance

__all__ = ["FRONT_DOORS", "ROWS", "FrontDoor"]

Numbers = NDArray[np.float64]

ROWS, DRAWS = 4000, 200_000
# quantiles of the normal distribution: a sample without the noise of one
_GRID: Numbers = ndtri((np.arange(DRAWS) + 0.5) / DRAWS)


def _mixed(values: Numbers, seed: int) -> Numbers:
    return np.random.default_rng(seed).permutation(values)


@dataclass(frozen=True)
class FrontDoor:
    """X = U + e, Z = shown(X) + e and Y = felt(Z) + 0.8 U + e, with standard normal U and e.

    Every x leads to every z often enough (the noise of Z is as large as what X does to it), so that no answer is an
    extrapolation.

    Attributes:
        family: The function of numbers and x that ``shown`` is one of.
        numbers: Its numbers.
        powers: Coefficients of Z, Z^2, ... in ``felt``.
        slope: Of U in Y.
    """

    family: Callable[[Numbers, Numbers | float], Numbers]
    numbers: tuple[float, ...]
    powers: tuple[float, ...]
    slope: float = 0.8

    def shown(self, x: Numbers | float) -> Numbers:
        """Mean of Z given X = x."""
        return self.family(np.asarray(self.numbers), x)

    def felt(self, z: Numbers) -> Numbers:
        """What Z = z adds to Y."""
        return sum((one * z ** (place + 1) for place, one in enumerate(self.powers)), np.zeros_like(z))

    def sample(self, rows: int, seed: int) -> dict[str, Numbers]:
        """Rows of what is seen."""
        rng = np.random.default_rng(seed)
        u = rng.normal(size=rows)
        x = u + rng.normal(size=rows)
        z = self.shown(x) + rng.normal(size=rows)
        y = self.felt(z) + self.slope * u + rng.normal(size=rows)
        return {"X": x, "Z": z, "Y": y}

    def truth(self, x: float, *, seen: bool = False) -> Numbers:
        """Y under do(X = x), or of the rows that happen to have X = x, as a large sample without chance."""
        # U given X = x is normal with mean x / 2 and variance 1 / 2
        mean, variance = (x / 2, 1 / 2) if seen else (0.0, 1.0)
        spread = math.sqrt(self.slope**2 * variance + 1)
        return self.felt(self.shown(x) + _GRID) + self.slope * mean + spread * _mixed(_GRID, 0)

    def plug_in(self, rows: Mapping[str, Numbers], x: float) -> Numbers:
        """The front-door formula with least squares of the true family: Z on X, and Y on powers of Z and X."""
        start = np.ones(len(self.numbers))
        fitted = least_squares(lambda numbers: self.family(numbers, rows["X"]) - rows["Z"], start)
        spread = math.sqrt(2 * fitted.cost / (len(rows["X"]) - len(start)))
        features = np.stack([rows["Z"] ** power for power in range(len(self.powers) + 1)] + [rows["X"]], 1)
        slopes = np.linalg.lstsq(features, rows["Y"], rcond=None)[0]
        left = (rows["Y"] - features @ slopes).std(ddof=features.shape[1]) * _mixed(_GRID, 2)
        z = self.family(fitted.x, x) + spread * _GRID
        found: Numbers = np.polyval(slopes[-2::-1], z) + slopes[-1] * _mixed(np.resize(rows["X"], DRAWS), 1) + left
        return found

    def floor(self, x: float) -> float:
        """Mean energy distance of the plug-in to the truth over 20 fresh data sets."""
        found = (self.plug_in(self.sample(ROWS, 1000 + seed), x) for seed in range(20))
        return float(np.mean([energy_distance(one, self.truth(x)) for one in found]))


def _line(numbers: Numbers, x: Numbers | float) -> Numbers:
    return np.asarray(numbers[0] + numbers[1] * np.asarray(x))


def _step(numbers: Numbers, x: Numbers | float) -> Numbers:
    shift, height, steepness, place = numbers
    return np.asarray(shift + height * np.tanh(steepness * np.asarray(x) + place))


FRONT_DOORS = {
    "linear": FrontDoor(_line, (0.0, 0.8), (1.0,)),
    "nonlinear": FrontDoor(_step, (0.0, 1.0, 2.0, 0.0), (0.0, 0.5)),
}
