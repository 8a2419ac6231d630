"""Mechanisms: one generator per variable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from mdcm.mechanisms.base import Mechanism, float_pixels
from mdcm.mechanisms.categorical import Categorical
from mdcm.mechanisms.diffusion import RectifiedFlow

if TYPE_CHECKING:
    from mdcm.data import Variable

__all__ = ["Categorical", "Mechanism", "RectifiedFlow", "float_pixels", "from_config"]


class _Factory(Protocol):
    def __call__(self, variable: Variable, parents: Sequence[Variable], latents: Sequence[int]) -> Mechanism: ...


_TYPES: dict[str, type[Mechanism]] = {"categorical": Categorical, "rectified_flow": RectifiedFlow}


def from_config(config: Mapping[str, Any]) -> _Factory | None:
    """Constructor of the mechanism that :meth:`Mechanism.config` described; None for a type that is not known here."""
    kind = _TYPES.get(str(config.get("type")))
    return None if kind is None else partial(kind, **{key: value for key, value in config.items() if key != "type"})
