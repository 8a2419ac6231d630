"""Tiles and options of every kernel, and the precision of its matrix products: the one place for both.

A kernel has at most four configurations. Which one runs follows from shapes alone, never from a measurement, so that
a result has the same bits on every run; how many modules are stacked is part of the shape. The last two fields are
limits that a test holds code for an H100 to, compiled ahead of time; of 227 KiB of shared memory per multiprocessor, a
limit of 227 / n lets n programs run on each.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

__all__ = ["PRECISIONS", "SHIPPED", "Config", "lin_act", "precision", "race", "splits"]

# plain float32; products of factors rounded to 10 bits of mantissa; three such products for one, which gives nearly
# float32 on tensor cores; and of factors rounded to 7 bits, which is twice as fast. All sums are float32
PRECISIONS = ("ieee", "tf32", "tf32x3", "bf16")


def precision(use: Literal["training", "inference"]) -> str:
    """Precision of matrix products, by the one rule.

    The environment variable ``MDCM_PRECISION`` is one of ieee, tf32, tf32x3 and bf16. If unset or auto, products are in
    tf32 where gradients are made, and in ieee float32 where values are read: an answer must not depend on the card.

    Raises:
        ValueError: If the variable is something else.
    """
    asked = os.environ.get("MDCM_PRECISION", "auto")
    if asked == "auto":
        return "tf32" if use == "training" else "ieee"
    if asked not in PRECISIONS:
        raise ValueError(f"MDCM_PRECISION must be auto, {', '.join(PRECISIONS)}, not {asked!r}")
    return asked


@dataclass(frozen=True)
class Config:
    """How one kernel is compiled.

    Attributes:
        tile: Its sizes by the names of the kernel's arguments.
        warps: Warps per program.
        stages: Depth of the pipeline of loads in loops.
        fusion: Whether a product and a sum may become one instruction, which rounds once. Off where two kernels must
            make the same noise to the last bit.
        stack: Bytes of local memory per thread, for what found no register, that compiled code may need where widths
            are multiples of four.
        shared: Bytes of shared memory per program that it may need.
    """

    tile: MappingProxyType[str, int]
    warps: int = 4
    stages: int = 1
    fusion: bool = False
    stack: int = 0
    shared: int = 0


def _config(warps: int, stages: int, shared: int, *, fusion: bool = True, stack: int = 0, **tile: int) -> Config:
    return Config(MappingProxyType(tile), warps, stages, fusion, stack, shared * 1024)


# elements of a tile of Gumbel races
_RACE = 1024


def _races() -> tuple[Config, ...]:
    return tuple(_config(4, 1, 8, fusion=False, PAIRS=_RACE // levels, LEVELS=levels) for levels in (4, 16, 64, 1024))


SHIPPED: dict[str, tuple[Config, ...]] = {
    "gumbel_st_fwd": _races(),
    "gumbel_st_bwd": _races(),
    "seeded_uniform": (_config(4, 1, 8, fusion=False, GROUPS=256),),
    "lin_act": (
        _config(4, 3, 56, ROWS=64, UNITS=64, INPUTS=32),
        _config(8, 3, 113, ROWS=128, UNITS=128, INPUTS=32),
    ),
    "delta": (_config(4, 3, 75, ROWS=64, UNITS=64, INPUTS=32),),
    # by the number of input columns, all of them in one tile
    "gp_norm_tangent": (
        _config(4, 2, 28, ROWS=32, UNITS=64, INPUTS=16),
        _config(4, 2, 28, ROWS=32, UNITS=64, INPUTS=32),
        _config(4, 2, 37, ROWS=32, UNITS=32, INPUTS=64),
        _config(8, 2, 45, ROWS=32, UNITS=16, INPUTS=128),
    ),
    "top_reduce": (_config(4, 2, 28, stack=8, ROWS=32, UNITS=64, INPUTS=32),),
    "wgrad": (
        _config(4, 2, 56, ROWS=32, UNITS=64, INPUTS=32),
        _config(4, 2, 75, ROWS=32, UNITS=64, INPUTS=64),
    ),
}

# programs that keep an H100's 132 multiprocessors busy: two each
_PROGRAMS = 264
_MAX_SPLITS = 32


def race(name: str, levels: int) -> Config:
    """The configuration of a Gumbel race for a power of two of levels, at least 4.

    Those between two of the shipped ones take the options of the larger, and a tile of as many elements.
    """
    shipped = next(one for one in SHIPPED[name] if one.tile["LEVELS"] >= levels)
    elements = shipped.tile["PAIRS"] * shipped.tile["LEVELS"]
    return replace(shipped, tile=MappingProxyType({"PAIRS": elements // levels, "LEVELS": levels}))


def lin_act(modules: int, rows: int, units: int) -> Config:
    """The larger tile, which reads less, where there are enough of them."""
    small, large = SHIPPED["lin_act"]
    tiles = modules * -(-rows // large.tile["ROWS"]) * -(-units // large.tile["UNITS"])
    return large if tiles >= _PROGRAMS else small


def splits(modules: int, rows: int, units: int) -> int:
    """Number of partial sums over the rows of a critic step: enough to keep the device busy, and no more."""
    tile = SHIPPED["top_reduce"][0].tile
    programs = modules * -(-units // tile["UNITS"])
    return max(1, min(-(-_PROGRAMS // programs), rows // tile["ROWS"], _MAX_SPLITS))
