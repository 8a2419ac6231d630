"""Samples in the user's form: a table, images, weights and effective sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from mdcm.data import decode_columns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from mdcm.data import Variable
    from mdcm.sampling.support import Basis

__all__ = ["Samples", "shown_images", "to_samples"]


@dataclass(frozen=True)
class Samples:
    """Rows drawn from a model.

    Attributes:
        table: One column per variable other than images; ``W[0]``, ``W[1]``, ... for a vector W.
        images: uint8 ``[n, c, h, w]`` per image variable.
        weights: Weight of each row, float64 ``[n]`` with sum 1, or None if all are equal.
        ess: Effective sample size: number of equally weighted independent rows with the same precision.
        rows: Effective number of training rows behind the least supported conditional; None if nothing is known of
            the data.
        unseen: Share of the weight without training rows; None if nothing is known of the data.
    """

    table: pd.DataFrame
    images: dict[str, np.ndarray[Any, np.dtype[np.uint8]]]
    weights: np.ndarray[Any, np.dtype[np.float64]] | None
    ess: float
    rows: float | None = None
    unseen: float | None = None

    @property
    def support(self) -> float | None:
        """Alias of :attr:`unseen`."""
        return self.unseen

    def __len__(self) -> int:
        return len(self.table)


def shown_images(value: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pixels in [-1, 1] as bytes."""
    array: np.ndarray[Any, np.dtype[np.uint8]] = ((value + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return array


def to_samples(
    schema: Mapping[str, Variable],
    blocks: Sequence[Mapping[str, Tensor]],
    names: Sequence[str],
    *,
    weights: Tensor | None = None,
    ess: float | None = None,
    basis: Basis | None = None,
    exact: Mapping[str, np.ndarray[Any, np.dtype[np.float64]]] | None = None,
) -> Samples:
    """Decode blocks of rows to a table and images.

    Args:
        schema: Variables by name.
        blocks: Encoded values by name.
        names: Variables to return, in the order of the table's columns.
        weights: Weight of each row, or None.
        ess: Effective sample size; the number of rows by default.
        basis: Training rows behind the samples, if known.
        exact: Numbers given by the user, by variable, to which decoded values are restored.
    """
    columns: dict[str, pd.Series[Any]] = {}
    images = {}
    rows = 0
    for name in names:
        value = torch.cat([block[name] for block in blocks])
        rows = len(value)
        if schema[name].kind == "image":
            images[name] = shown_images(value)
        else:
            columns.update(decode_columns(schema[name], value.numpy(), (exact or {}).get(name)))
    share = None if weights is None else (weights / weights.sum()).numpy()
    table = pd.DataFrame(columns, index=range(rows))
    counts = (None, None) if basis is None else (basis.rows, basis.unseen)
    return Samples(table, images, share, float(rows) if ess is None else ess, *counts)
