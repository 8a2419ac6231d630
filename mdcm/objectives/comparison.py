"""How far generated rows are from held-out ones: what decides when adversarial training stops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mdcm.metrics import energy_distance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.objectives.generators import FitSide
    from mdcm.objectives.pooled import Reader

__all__ = ["Check", "compare"]

# rows of each side in an energy distance, which takes all pairs of them
ENERGY_ROWS = 1_000
# a level is missing if the data have it in more than this share of rows and the generator in none
_RARE = 0.02


@dataclass(frozen=True)
class Check:
    """How generated rows compare with held-out ones.

    Attributes:
        distances: One per fit: total variation distance where everything is categorical, of the joint distribution, or
            averaged over pairs of variables where it has more cells than there are rows; else the energy distance.
        missing: Levels of generated variables that the data have in more than 2 % of rows, and the generator in none.
    """

    distances: tuple[float, ...]
    missing: tuple[tuple[str, Any], ...]

    @property
    def mean(self) -> float:
        """Mean distance over the fits."""
        return sum(self.distances) / len(self.distances)


def compare(
    sides: Sequence[FitSide],
    fakes: Sequence[Tensor],
    held: Sequence[Tensor],
    readers: Mapping[str, Reader],
) -> Check:
    """Compare generated rows with held-out ones.

    Args:
        sides: The fits.
        fakes: Generated rows of each fit, ``[n, width]``.
        held: Held-out rows that their given values come from, int64 ``[n]``.
        readers: What turns images into features.
    """
    distances = []
    missing: dict[tuple[str, Any], None] = {}
    for side, fake, at in zip(sides, fakes, held, strict=True):
        distances.append(_variation(side, fake) if side.layout.categorical else _energy(side, fake, at, readers))
        for variable in side.layout.variables:
            if variable.levels is not None and variable.name in side.compared:
                span = side.layout.slices[variable.name]
                real = side.train.weight.float() @ side.train.packed[:, span]
                never = ((real > _RARE) & (fake[:, span].sum(0) == 0)).nonzero().flatten().tolist()
                missing |= {(variable.name, variable.levels[code]): None for code in never}
    return Check(tuple(distances), tuple(missing))


def _energy(side: FitSide, fake: Tensor, at: Tensor, readers: Mapping[str, Reader]) -> float:
    chosen = torch.linspace(0, len(at) - 1, min(ENERGY_ROWS, len(at)), device=at.device).long()
    packed, values = side.held.values(at[chosen])
    real = side.held.real(packed, values, readers)
    scale = real.std(0).clamp_min(1e-6)
    return energy_distance((real / scale).cpu().numpy(), (fake[chosen] / scale).cpu().numpy())


def _variation(side: FitSide, fake: Tensor) -> float:
    real, made = side.layout.codes(side.held.packed), side.layout.codes(fake)
    weight = side.held.weight.cpu().numpy()
    names = [variable.name for variable in side.layout.variables]
    sizes = [variable.num_levels for variable in side.layout.variables]
    parts = [list(range(len(sizes)))]
    if side.held.cells() > side.held.rows and len(sizes) > 2:
        compared = {place for place, name in enumerate(names) if name in side.compared}
        parts = [list(pair) for pair in itertools.combinations(range(len(sizes)), 2) if compared & set(pair)]
    found = [_table_distance(real[:, part], made[:, part], weight, [sizes[one] for one in part]) for part in parts]
    return sum(found) / len(found)


def _table_distance(
    real: NDArray[np.int64], made: NDArray[np.int64], weight: NDArray[np.float64], sizes: Sequence[int]
) -> float:
    factors = np.array([math.prod(sizes[place + 1 :]) for place in range(len(sizes))], dtype=np.int64)
    cells = math.prod(sizes)
    p = np.bincount(real @ factors, weights=weight, minlength=cells)
    q = np.bincount(made @ factors, minlength=cells) / len(made)
    return float(np.abs(p - q).sum() / 2)
