"""Mechanisms: the generators of variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mdcm.mechanisms.base import Mechanism, float_pixels
from mdcm.mechanisms.categorical import Categorical
from mdcm.mechanisms.denoising import Diffusion
from mdcm.mechanisms.diffusion import RectifiedFlow
from mdcm.mechanisms.encoder import ImageEncoder, train_encoder
from mdcm.mechanisms.flow import Flow
from mdcm.mechanisms.generator import ImageGenerator
from mdcm.mechanisms.implicit import Implicit
from mdcm.mechanisms.pretrained import Frozen, Pretrained
from mdcm.mechanisms.representations import restore_encoders

if TYPE_CHECKING:
    from mdcm.data import Variable

__all__ = [
    "Categorical",
    "Diffusion",
    "Flow",
    "Frozen",
    "ImageEncoder",
    "ImageGenerator",
    "Implicit",
    "Mechanism",
    "Pretrained",
    "RectifiedFlow",
    "encoded",
    "float_pixels",
    "from_config",
    "train_encoder",
]


_Factory = Callable[["Variable", "Sequence[Variable]", "Sequence[int]"], Mechanism]

_TYPES: dict[str, _Factory] = {
    "categorical": Categorical,
    "diffusion": Diffusion,
    "flow": Flow,
    "image_generator": ImageGenerator,
    "implicit": Implicit,
    "rectified_flow": RectifiedFlow,
}


def from_config(config: Mapping[str, Any]) -> _Factory | None:
    """Return the constructor of a built-in mechanism with this :meth:`Mechanism.config`; None for any other type."""
    kind = _TYPES.get(str(config.get("type")))
    rest = {key: value for key, value in config.items() if key not in ("type", "encoders")}
    return None if kind is None else encoded(partial(kind, **rest), config)


def encoded(make: _Factory, config: Mapping[str, Any]) -> _Factory:
    """Return a constructor that also restores the image encoders named in a configuration, if there are any."""
    if not config.get("encoders"):
        return make

    def construct(variable: Variable, parents: Sequence[Variable], latents: Sequence[int]) -> Mechanism:
        mechanism = make(variable, parents, latents)
        restore_encoders(mechanism, config["encoders"])
        return mechanism

    return construct
