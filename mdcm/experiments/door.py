"""The true model of the front door through a picture: D -> I -> A with D <-> A, where I is a coloured digit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mdcm.experiments.digits import digit_bank

__all__ = ["GRAPH", "Draw", "Exact", "FrontDoor"]

GRAPH = "D -> I -> A; D <-> A"

_STATES = np.array([0.4, 0.3, 0.2, 0.1])
_D1_GIVEN_STATE = np.array([0.9, 0.15, 0.7, 0.1])
_SLOPE = np.array([-1.6, 0.2, 1.5])
_OFFSET = np.array([[1.5, 0.0, -1.2], [-1.2, 0.3, 1.4], [0.2, 1.2, -1.0], [-1.0, -0.5, 1.8]])

# of 60 projections this one has a clear effect of D, and P(A | D) points the other way
_PROJECTION_SEED = 46


@dataclass(frozen=True)
class Draw:
    """Rows of the observed variables.

    Attributes:
        table: Columns D and A, one row per picture.
        images: uint8 ``[n, 3, r, r]``.
    """

    table: pd.DataFrame
    images: NDArray[np.uint8]


@dataclass(frozen=True)
class Exact:
    """Distributions of the true model, computed by summing over all pictures and the confounder.

    Attributes:
        joint: P(D, A), ``[2, 3]``.
        do: P(A | do(D = d)), row d.
        conditional: P(A | D = d), row d: the naive answer.
    """

    joint: NDArray[np.float64]
    do: NDArray[np.float64]
    conditional: NDArray[np.float64]


class FrontDoor:
    """The true model: U -> D -> I -> A <- U, of which U is hidden.

    U has four states. D in {0, 1} depends on U. I shows the digit D, or with probability ``flip`` the other one, in a
    random colour, shift and handwriting. A in {0, 1, 2} depends on a fixed random projection of the pixels, and on U.
    Without flips every picture would have a single possible D, and the data would not determine P(A | do(D)).

    Args:
        resolution: Height and width of the pictures, a multiple of 8.
        flip: Probability of the other digit, between 0 and 1.

    Attributes:
        bank: All possible pictures.

    References:
        Pearl (1995), "Causal diagrams for empirical research", section 3.2 (front-door criterion);
        Rahman & Kocaoglu (2024), section 5.2 (the experiment).

    Example:
        >>> scm = FrontDoor()
        >>> scm.exact().do.round(2)
        array([[0.49, 0.23, 0.28],
               [0.32, 0.25, 0.43]])
    """

    def __init__(self, resolution: int = 16, *, flip: float = 0.1) -> None:
        if not 0.0 <= flip <= 1.0:
            raise ValueError(f"flip is a probability, not {flip}")
        self.flip = flip
        self.bank = digit_bank(resolution, (0, 1))
        coarse = np.random.default_rng(_PROJECTION_SEED).standard_normal((3, 8, 8))
        scale = resolution // 8
        self._weights = coarse.repeat(scale, axis=1).repeat(scale, axis=2)
        projected = self._project(self.bank.images)
        self._center, self._spread = float(projected.mean()), float(projected.std())
        self._bank_outcomes = self.outcome_probabilities(self.bank.images)

    def _project(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        return np.asarray(images.reshape(len(images), -1) @ self._weights.ravel() / 255.0, dtype=np.float64)

    def outcome_probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """P(A | I, U), the true mechanism of A, for each picture and each state of U.

        Args:
            images: uint8 ``[n, 3, r, r]``, real or generated.

        Returns:
            ``[n, 4, 3]``.
        """
        z = (self._project(images) - self._center) / self._spread
        logits = z[:, None, None] * _SLOPE + _OFFSET
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=-1, keepdims=True))

    def do_image(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """P(A | do(I = picture)) for each picture, ``[n, 3]``."""
        return np.asarray(np.einsum("u,nua->na", _STATES, self.outcome_probabilities(images)))

    def exact(self) -> Exact:
        """Exact P(D, A), P(A | do(D)) and P(A | D)."""
        do, joint = np.zeros((2, 3)), np.zeros((2, 3))
        by_digit = [self._bank_outcomes[self.bank.digits == digit].mean(axis=0) for digit in (0, 1)]
        for d in (0, 1):
            given_state = (1 - self.flip) * by_digit[d] + self.flip * by_digit[1 - d]
            do[d] = _STATES @ given_state
            joint[d] = (_STATES * (_D1_GIVEN_STATE if d else 1 - _D1_GIVEN_STATE)) @ given_state
        return Exact(joint, do, joint / joint.sum(axis=1, keepdims=True))

    def _show(self, d: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """Draw indices of pictures from the mechanism of I for given values of D."""
        digits = np.where(generator.random(len(d)) < self.flip, 1 - d, d)
        rows = np.empty(len(d), dtype=np.int64)
        for digit in (0, 1):
            pool = np.flatnonzero(self.bank.digits == digit)
            wanted = digits == digit
            rows[wanted] = pool[generator.integers(len(pool), size=int(wanted.sum()))]
        return rows

    def sample(self, n: int, *, seed: int = 0) -> Draw:
        """Draw n rows of the observed variables D, I and A."""
        generator = np.random.default_rng(seed)
        u = generator.choice(4, size=n, p=_STATES)
        d = (generator.random(n) < _D1_GIVEN_STATE[u]).astype(np.int64)
        rows = self._show(d, generator)
        below = self._bank_outcomes[rows, u].cumsum(axis=1)
        a = (generator.random(n)[:, None] > below[:, :2]).sum(axis=1)
        return Draw(pd.DataFrame({"D": d, "A": a}), self.bank.images[rows])

    def sample_images(self, d: NDArray[np.int64], *, seed: int = 0) -> NDArray[np.uint8]:
        """Draw real pictures from the true mechanism of I, one for each given value of D."""
        images: NDArray[np.uint8] = self.bank.images[self._show(d, np.random.default_rng(seed))]
        return images
