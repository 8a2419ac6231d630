"""Napkins of numbers whose effect is known: W -> R -> X -> Y with W <-> X and W <-> Y, both confounders hidden."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import mdcm

__all__ = ["GRAPH", "NAPKINS", "Napkin", "model_effect"]

Numbers = NDArray[np.float64]

GRAPH = "W -> R -> X -> Y; W <-> X; W <-> Y"


@dataclass(frozen=True)
class Napkin:
    """W = (U + V) / sqrt(2) + e, R = W / 2 + e, X = 0.8 R + U + e, Y = X + bend X^2 + V + e; U, V standard normal.

    Attributes:
        correlation: Of U with U + e in X, of V with V + e in Y, and of (U + V) / sqrt(2) with W.
        bend: Of Y in X.
    """

    correlation: float
    bend: float = 0.0

    def sample(self, rows: int, seed: int) -> dict[str, Numbers]:
        """Rows of what is seen."""
        rng = np.random.default_rng(seed)
        spread = math.sqrt(1 / self.correlation**2 - 1)
        u, v, first, second, third = rng.normal(size=(5, rows))
        w = (u + v) / math.sqrt(2) + spread * first
        r = w / 2 + rng.normal(size=rows)
        x = 0.8 * r + u + spread * second
        y = x + self.bend * x**2 + v + spread * third
        return {"W": w, "R": r, "X": x, "Y": y}

    @property
    def truth(self) -> float:
        """Mean of Y under do(X = 1) less that under do(X = 0)."""
        return 1 + self.bend

    def plug_in(self, rows: Mapping[str, Numbers]) -> tuple[float, float]:
        """The same of the napkin formula with least squares of the true family, and its standard error.

        Given W, R acts on Y through X alone and without confounding, so that what Y is beside a line in W has mean zero
        at every R: two-stage least squares with R as instrument, of lines the ratio of two regressions on R and W.

        References:
            Pearl & Mackenzie (2018), The Book of Why, chapter 7 (the napkin).
        """
        w, r, x, y = (rows[name] for name in "WRXY")
        ones = np.ones_like(w)
        powers = [x] if not self.bend else [x, x**2]
        instruments = np.stack([ones, w, r] if not self.bend else [ones, w, r, r**2, r * w, w**2], 1)
        features = np.stack([*powers, ones, w], 1)
        shown = instruments @ np.linalg.lstsq(instruments, features, rcond=None)[0]
        slopes = np.linalg.lstsq(shown, y, rcond=None)[0]
        left = y - features @ slopes
        bread = np.linalg.inv(shown.T @ shown)
        covariance = bread @ (shown.T * left**2) @ shown @ bread
        contrast = np.zeros(len(slopes))
        contrast[: len(powers)] = 1
        return float(contrast @ slopes), math.sqrt(float(contrast @ covariance @ contrast))


def model_effect(model: mdcm.Model, draws: int = 40_000) -> float:
    """Mean of Y under do(X = 1) less that under do(X = 0) by a model; both from the same noise."""
    means = [model.draw_samples(draws, do={"X": x}, variables=["Y"], seed=1).table["Y"].mean() for x in (0.0, 1.0)]
    return float(means[1] - means[0])


NAPKINS = {"linear-0.9": Napkin(0.9), "linear-0.999": Napkin(0.999), "nonlinear-0.9": Napkin(0.9, 0.3)}
