"""Sampling a DCM: aligned blocks of rows under do(), and conditioning on evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mdcm.data import decode
from mdcm.errors import DataError, LowSupportError, QueryError
from mdcm.mechanisms import float_pixels

if TYPE_CHECKING:
    from mdcm.data import Variable
    from mdcm.dcm import DCM

__all__ = ["Samples", "block_rows", "draw", "encode_do", "encode_evidence"]

_BLOCK = 4096
# an image network works best on few rows at a time, and a grid of 32 pictures must not cost 4,096
_IMAGE_BLOCK = 64
_DRAWS_PER_SAMPLE = 20
_FEWEST = 100


@dataclass(frozen=True)
class Samples:
    """Rows drawn from a model.

    Attributes:
        table: One column per variable that is no image.
        images: uint8 ``[n, c, h, w]`` per image variable.
        weights: Weight of each row, or None where all are equal.
        ess: Effective sample size.
        support: Share of the rows that rest on too few training rows; None where it was not computed.
    """

    table: pd.DataFrame
    images: dict[str, np.ndarray[Any, np.dtype[np.uint8]]]
    weights: np.ndarray[Any, np.dtype[np.float64]] | None
    ess: float
    support: float | None = None

    def __len__(self) -> int:
        return len(self.table)


def block_rows(dcm: DCM, needed: set[str], do: Mapping[str, Any]) -> int:
    """Rows per block: noise is addressed by row, so this changes speed, and values only by rounding."""
    images = any(dcm.schema[node].kind == "image" and node not in do for node in needed)
    return _IMAGE_BLOCK if images else _BLOCK


def encode_do(variable: Variable, value: Any) -> Tensor:
    """What a user sets a variable to, as mechanisms see it.

    Args:
        variable: The variable.
        value: One level or number; an array with one per row; for an image one picture ``[c, h, w]`` or one per row,
            uint8 or floats in [0, 1].

    Returns:
        A tensor with one row, or with as many rows as the array.

    Raises:
        DataError: If a value is no level, not finite, or an image has another shape.
    """
    name = variable.name
    if variable.kind == "image":
        array = np.asarray(value)
        if array.ndim == 3:
            array = array[None]
        if array.ndim != 4 or array.shape[1:] != variable.shape:
            raise DataError(
                f"do({name}): an array of shape {variable.shape} or [n, ...] is needed, not {np.shape(value)}",
                column=name,
            )
        if array.dtype == np.uint8:
            return torch.from_numpy(np.ascontiguousarray(array))
        if not np.issubdtype(array.dtype, np.floating) or not ((array >= 0) & (array <= 1)).all():
            raise DataError(f"do({name}): pixels must be uint8, or floats in [0, 1]", column=name)
        return torch.from_numpy(np.rint(array * 255).astype(np.uint8))
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, pd.Series | np.ndarray | list | tuple):
        try:
            column = pd.Series(value)
            codes = {level: variable.code(level) for level in column.unique().tolist()}
        except DataError:
            raise
        except (TypeError, ValueError):
            raise DataError(f"do({name}): a value, or one per row, is needed, not {value!r}", column=name) from None
        if not len(column):
            raise DataError(f"do({name}): the array of values is empty", column=name)
        encoded = column.map(codes).to_numpy()
    else:
        encoded = np.array([variable.code(value)])
    return torch.from_numpy(encoded.astype(np.int64 if variable.kind == "categorical" else np.float32))


def encode_evidence(dcm: DCM, given: Mapping[str, Any], do: Mapping[str, Any]) -> dict[str, int]:
    """Codes of the evidence.

    Raises:
        QueryError: If a variable is unknown, is intervened on, or cannot be conditioned on.
        DataError: If a value is no level.
    """
    evidence = {}
    for name, value in given.items():
        variable = known(dcm, name)
        if name in do:
            raise QueryError(f"{name!r} is set by do() and cannot be conditioned on as well")
        if variable.kind != "categorical":
            raise QueryError(
                f"{name!r} is {variable.kind}, and only categorical variables can be conditioned on; "
                f"to see the effect of a given {name}, set it: do={{{name!r}: ...}}"
            )
        evidence[name] = int(variable.code(value))
    return evidence


def known(dcm: DCM, name: str) -> Variable:
    """Variable of that name.

    Raises:
        QueryError: If there is none.
    """
    if name not in dcm.schema:
        raise QueryError(f"there is no variable {name!r}; the model has {', '.join(map(repr, dcm.graph.nodes))}")
    return dcm.schema[name]


def draw(
    dcm: DCM,
    num_samples: int,
    do: Mapping[str, Tensor],
    evidence: Mapping[str, int],
    seed: int,
    targets: Sequence[str],
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Blocks of rows under do(), those that agree with the evidence.

    Args:
        dcm: The model.
        num_samples: Rows wanted.
        do: Encoded values, one row each or ``num_samples`` rows each.
        evidence: Codes of categorical variables that every row must agree with.
        seed: Seed of the noise; row i is the same whatever ``num_samples``.
        targets: Variables wanted.

    Yields:
        How many rows were drawn for the block, and the targets' values in the rows that agree.

    Raises:
        LowSupportError: If after 20 draws per row wanted fewer than 100 rows (or fewer than wanted) agree.
    """
    wanted = [*targets, *(name for name in evidence if name not in targets)]
    needed = dcm.needed(wanted, do)
    size = block_rows(dcm, needed, do)
    do = {name: value for name, value in do.items() if name in needed}
    accepted = drawn = 0
    most = num_samples * (_DRAWS_PER_SAMPLE if evidence else 1)
    while accepted < num_samples and drawn < most:
        rows = torch.arange(drawn, drawn + size)
        # the last block is computed whole, so that its rows do not depend on how many were asked for
        fixed = {
            name: float_pixels(
                value.expand(size, *value.shape[1:]) if len(value) == 1 else value[rows.clamp_max(len(value) - 1)]
            )
            for name, value in do.items()
        }
        values = dcm.generate(rows, seed, fixed, wanted)
        count = min(size, most - drawn)
        keep = torch.ones(size, dtype=torch.bool)
        keep[count:] = False
        for name, code in evidence.items():
            keep &= values[name] == code
        picked = torch.nonzero(keep).squeeze(1)[: num_samples - accepted]
        accepted += len(picked)
        drawn += count
        yield count, {name: values[name][picked] for name in targets}
    if evidence and accepted < min(num_samples, _FEWEST):
        shown = ", ".join(f"{name}={dcm.schema[name].levels[code]!r}" for name, code in evidence.items())  # type: ignore[index]
        raise LowSupportError(
            f"only {accepted} of {drawn:,} draws agree with {shown}; ask for more samples, or for less evidence",
            ess=float(accepted),
            probability=accepted / drawn,
        )


def to_samples(dcm: DCM, blocks: Sequence[Mapping[str, Tensor]], names: Sequence[str]) -> Samples:
    """Blocks of encoded rows as a table and images for people."""
    columns: dict[str, pd.Series[Any]] = {}
    images = {}
    rows = 0
    for name in names:
        variable = dcm.schema[name]
        value = torch.cat([block[name] for block in blocks])
        rows = len(value)
        if variable.kind == "image":
            images[name] = ((value + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
        else:
            columns[name] = decode(variable, value.numpy())
    return Samples(pd.DataFrame(columns, index=range(rows)), images, None, float(rows))
