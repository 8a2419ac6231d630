"""How far generated rows are from held-out ones: what decides when adversarial training stops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mdcm.metrics import energy_distance

if TYPE_CHECKING:
    from mdcm.training.objectives.generators import FitSide
    from mdcm.training.pooled_rows import Reader

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
        tolerance: Difference of mean distances up to which one is as good as the other.
    """

    distances: tuple[float, ...]
    missing: tuple[tuple[str, Any], ...]
    tolerance: float = 0.0

    @property
    def mean(self) -> float:
        """Mean distance over the fits."""
        return sum(self.distances) / len(self.distances)

    @property
    def tensor(self) -> Tensor:
        """The distances, float64 ``[fits]``."""
        return torch.tensor(self.distances, dtype=torch.float64)

    def worse_than(self, other: Check) -> bool:
        """Whether the mean distance is larger than another one's by more than the tolerance."""
        # written so that NaN counts as worse
        return not self.mean <= other.mean + self.tolerance

    def record(self) -> dict[str, Any]:
        """What a training record says of it."""
        missing = [list(level) for level in self.missing]
        return {"heldout": self.mean, "distances": list(self.distances), "missing": missing}


def compare(
    sides: Sequence[FitSide],
    made: Sequence[Mapping[str, Tensor]],
    held: Sequence[Tensor],
    readers: Mapping[str, Reader],
    tolerance: float = 0.0,
) -> Check:
    """Compare generated rows with held-out ones.

    Args:
        sides: The fits.
        made: Values of the generated rows of each fit, ``n`` each, codes of categorical variables.
        held: Held-out rows that their given values come from, int64 ``[n]``.
        readers: What turns images into features.
        tolerance: Of the comparison with another one.
    """
    distances = []
    missing: dict[tuple[str, Any], None] = {}
    for side, values, at in zip(sides, made, held, strict=True):
        distances.append(_variation(side, values) if side.layout.categorical else _energy(side, values, at, readers))
        for variable in side.layout.variables:
            if variable.levels is not None and variable.name in side.compared:
                real = side.train.frequencies[side.layout.slices[variable.name]]
                counts = torch.bincount(values[variable.name], minlength=variable.num_levels)
                never = ((real > _RARE) & (counts == 0)).nonzero().flatten().tolist()
                missing |= {(variable.name, variable.levels[code]): None for code in never}
    return Check(tuple(distances), tuple(missing), tolerance)


def _energy(side: FitSide, made: Mapping[str, Tensor], at: Tensor, readers: Mapping[str, Reader]) -> float:
    fake = side.layout.pack(made, readers)
    chosen = torch.linspace(0, len(at) - 1, min(ENERGY_ROWS, len(at)), device=at.device).long()
    packed, values = side.held.values(at[chosen])
    real = side.held.real(packed, values, readers)
    scale = real.std(0).clamp_min(1e-6)
    return energy_distance((real / scale).cpu().numpy(), (fake[chosen] / scale).cpu().numpy())


def _variation(side: FitSide, made: Mapping[str, Tensor]) -> float:
    names = [variable.name for variable in side.layout.variables]
    sizes = [variable.num_levels for variable in side.layout.variables]
    parts = [list(range(len(sizes)))]
    if side.held.cells() > side.held.rows and len(sizes) > 2:
        compared = {place for place, name in enumerate(names) if name in side.compared}
        parts = [list(pair) for pair in itertools.combinations(range(len(sizes)), 2) if compared & set(pair)]
    weight = side.held.weight.cpu()
    found = []
    for part in parts:
        own = [sizes[place] for place in part]
        real = _cells({names[place]: side.held.codes[names[place]] for place in part}, own)
        fake = _cells({names[place]: made[names[place]] for place in part}, own)
        p = torch.bincount(real.cpu(), weights=weight, minlength=math.prod(own))
        q = torch.bincount(fake.cpu(), minlength=math.prod(own)).double() / len(fake)
        found.append(float((p - q).abs().sum() / 2))
    return sum(found) / len(found)


def _cells(codes: Mapping[str, Tensor], sizes: Sequence[int]) -> Tensor:
    """Number of each row's combination of levels, int64 ``[n]``."""
    (cell, *others) = codes.values()
    for code, size in zip(others, sizes[1:], strict=True):
        cell = cell * size + code
    return cell
