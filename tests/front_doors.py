"""Front doors of real numbers whose effect is known: U -> X -> Z -> Y <- U, of which U is hidden."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
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
    """

    shown: Callable[[Numbers | float], Numbers]
    felt: Callable[[Numbers], Numbers]
    slope: float = 0.8

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
        """The front-door formula with least squares of the true family: Z on shown(X), and Y on felt(Z) and X."""
        ones = np.ones(len(rows["X"]))
        first = np.stack([ones, self.shown(rows["X"])], 1)
        second = np.stack([ones, self.felt(rows["Z"]), rows["X"]], 1)
        a, b = (np.linalg.lstsq(f, rows[n], rcond=None)[0] for f, n in ((first, "Z"), (second, "Y")))
        z = a[0] + a[1] * self.shown(x) + (rows["Z"] - first @ a).std(ddof=2) * _GRID
        left = (rows["Y"] - second @ b).std(ddof=3) * _mixed(_GRID, 2)
        found: Numbers = b[0] + b[1] * self.felt(z) + b[2] * _mixed(np.resize(rows["X"], DRAWS), 1) + left
        return found

    def floor(self, x: float) -> float:
        """Mean energy distance of the plug-in to the truth over 20 fresh data sets."""
        found = (self.plug_in(self.sample(ROWS, 1000 + seed), x) for seed in range(20))
        return float(np.mean([energy_distance(one, self.truth(x)) for one in found]))


FRONT_DOORS = {
    "linear": FrontDoor(lambda x: np.asarray(0.8 * x), lambda z: z),
    "nonlinear": FrontDoor(lambda x: np.tanh(2 * np.asarray(x)), lambda z: z**2 / 2),
}
