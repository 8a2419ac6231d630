"""Distances of generated rows to held-out ones, for early stopping of adversarial training."""

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

__all__ = ["Distances", "compare"]

# rows of each side in an energy distance, which is quadratic in them
ENERGY_ROWS = 1_000
# a level is missing if more than this share of the rows have it, and no generated row
_RARE = 0.02


@dataclass(frozen=True)
class Distances:
    """Distances of generated rows to held-out ones.

    Attributes:
        distances: One per fit. If everything is categorical, the total variation distance of the joint distribution, or
            its mean over pairs of variables if there are more cells than rows; else the energy distance.
        missing: Variable and level, of levels that more than 2 % of the rows have, and no generated row.
        tolerance: Difference of mean distances below which two results count as equal.
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

    def worse_than(self, other: Distances) -> bool:
        """Whether the mean distance is larger than another one by more than the tolerance."""
        # written so that NaN counts as worse
        return not self.mean <= other.mean + self.tolerance

    def record(self) -> dict[str, Any]:
        """Entries of a training record."""
        missing = [list(level) for level in self.missing]
        return {"heldout": self.mean, "distances": list(self.distances), "missing": missing}


def compare(
    sides: Sequence[FitSide],
    generated: Sequence[Mapping[str, Tensor]],
    held_out: Sequence[Tensor],
    readers: Mapping[str, Reader],
    tolerance: float = 0.0,
) -> Distances:
    """Compare generated rows with held-out ones.

    Args:
        sides: The fits.
        generated: Values of the generated rows of each fit, ``n`` each, codes of categorical variables.
        held_out: Held-out rows of their given values, int64 ``[n]``, for each fit.
        readers: Function from images to features, by name.
        tolerance: Tolerance of the result.
    """
    distances = []
    missing: dict[tuple[str, Any], None] = {}
    for side, values, rows in zip(sides, generated, held_out, strict=True):
        if side.layout.categorical:
            distances.append(_total_variation(side, values))
        else:
            distances.append(_energy_distance(side, values, rows, readers))
        for variable in side.layout.variables:
            if variable.levels is not None and variable.name in side.compared:
                real = side.train.frequencies[side.layout.slices[variable.name]]
                counts = torch.bincount(values[variable.name], minlength=variable.num_levels)
                codes = ((real > _RARE) & (counts == 0)).nonzero().flatten().tolist()
                missing |= {(variable.name, variable.levels[code]): None for code in codes}
    return Distances(tuple(distances), tuple(missing), tolerance)


def _energy_distance(
    side: FitSide, generated: Mapping[str, Tensor], rows: Tensor, readers: Mapping[str, Reader]
) -> float:
    fake = side.layout.pack(generated, readers)
    chosen = torch.linspace(0, len(rows) - 1, min(ENERGY_ROWS, len(rows)), device=rows.device).long()
    packed, values = side.held.values(rows[chosen])
    real = side.held.real(packed, values, readers)
    scale = real.std(0).clamp_min(1e-6)
    return energy_distance((real / scale).cpu().numpy(), (fake[chosen] / scale).cpu().numpy())


def _total_variation(side: FitSide, generated: Mapping[str, Tensor]) -> float:
    names = [variable.name for variable in side.layout.variables]
    sizes = [variable.num_levels for variable in side.layout.variables]
    parts = [list(range(len(sizes)))]
    if side.held.cells() > side.held.rows and len(sizes) > 2:
        compared = {column for column, name in enumerate(names) if name in side.compared}
        parts = [list(pair) for pair in itertools.combinations(range(len(sizes)), 2) if compared & set(pair)]
    weight = side.held.weight.cpu()
    distances = []
    for part in parts:
        shape = [sizes[column] for column in part]
        real = _cells([side.held.codes[names[column]] for column in part], shape)
        fake = _cells([generated[names[column]] for column in part], shape)
        p = torch.bincount(real.cpu(), weights=weight, minlength=math.prod(shape))
        q = torch.bincount(fake.cpu(), minlength=math.prod(shape)).double() / len(fake)
        distances.append(float((p - q).abs().sum() / 2))
    return sum(distances) / len(distances)


def _cells(codes: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Index of each row's combination of levels, int64 ``[n]``."""
    cell = codes[0]
    for code, size in zip(codes[1:], sizes[1:], strict=True):
        cell = cell * size + code
    return cell
