"""Fused operations of the training and sampling hot paths.

Every operation is a package: ``reference.py`` has its plain-torch twin, which is its definition and runs on any device
and in any floating type, and ``fused.py`` its Triton form, which takes the same arguments. They are two files because
Triton compiles functions from the globals of their module: that has to import Triton, and a twin runs without it. Which
form runs is decided at each call, by one rule, from the environment variable
``MDCM_KERNELS``:

| value | form |
|---|---|
| ``auto``, or unset | the Triton form for tensors on a CUDA device, where Triton is installed; else the twin |
| ``reference`` | the twin |
| ``triton`` | the Triton form; on the CPU that needs Triton's interpreter, ``TRITON_INTERPRET=1`` |

What a Triton form does not cover it hands to its twin: other types than float32, empty batches, critics with other than
two hidden layers, smooth activations or layer normalisation.
Matrix products of the Triton forms have the precision of ``MDCM_PRECISION``: ieee, tf32, tf32x3 or bf16, by default
tf32 where gradients are made and ieee where values are read.

Noise of variables by address, layouts and views have one form only, and the rule leaves them alone. Triton is imported
when a Triton form first runs. Steps that are captured as CUDA graphs are in :mod:`mdcm.kernels.graphs`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch import Tensor

from mdcm.kernels.critic import reference as critic_reference
from mdcm.kernels.critic.parameters import CriticParameters, critic_size, critic_views
from mdcm.kernels.critic.reference import CriticStep
from mdcm.kernels.gumbel import reference as gumbel_reference
from mdcm.kernels.gumbel.reference import Packing
from mdcm.kernels.noise import reference as noise_reference
from mdcm.kernels.noise.reference import (
    STREAM_BATCH,
    STREAM_CONFOUNDER,
    STREAM_EXOGENOUS,
    STREAM_GUMBEL,
    STREAM_POSTERIOR,
    NoiseMemory,
    gumbel_noise,
    normal_noise,
    philox4x32,
    random_words,
    remembering,
    uniform_noise,
)

__all__ = [
    "STREAM_BATCH",
    "STREAM_CONFOUNDER",
    "STREAM_EXOGENOUS",
    "STREAM_GUMBEL",
    "STREAM_POSTERIOR",
    "CriticParameters",
    "CriticStep",
    "NoiseMemory",
    "Packing",
    "critic_loss_and_grads",
    "critic_size",
    "critic_values",
    "critic_views",
    "gumbel_noise",
    "gumbel_softmax",
    "normal_noise",
    "philox4x32",
    "random_words",
    "remembering",
    "seeded_uniform",
    "uniform_noise",
]

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


def _fused(module: str, name: str) -> Callable[..., Any]:
    """A Triton form, of a module that is imported at the first call."""

    def call(*args: object, **kwargs: object) -> Any:
        return getattr(importlib.import_module(f"{__name__}.{module}.fused"), name)(*args, **kwargs)

    return call


# operations with a Triton form, by their package
_MODULES = {
    "critic": ("critic_loss_and_grads", "critic_values"),
    "gumbel": ("gumbel_softmax",),
    "noise": ("seeded_uniform",),
}
# Triton forms by the name of the operation
_FUSED: dict[str, Callable[..., Any]] = {
    name: _fused(module, name) for module, names in _MODULES.items() for name in names
}


@functools.cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _interpreted() -> bool:
    interpreted: bool = importlib.import_module(f"{__name__}.launch").INTERPRETED
    return interpreted


def _form(twin: Callable[..., Any], on_cuda: bool) -> Callable[..., Any]:
    """The one rule: which form of an operation runs."""
    name = twin.__name__
    asked = os.environ.get("MDCM_KERNELS", "auto")
    if asked == "reference":
        return twin
    if asked == "auto":
        return _FUSED[name] if on_cuda and name in _FUSED and _installed() else twin
    if asked != "triton":
        raise ValueError(f"MDCM_KERNELS must be auto, reference or triton, not {asked!r}")
    if name not in _FUSED:
        raise ValueError(f"{name} has no Triton form: unset MDCM_KERNELS, or set it to reference")
    if not _installed():
        raise ImportError("MDCM_KERNELS=triton needs Triton: pip install triton, or unset MDCM_KERNELS")
    if not (on_cuda or _interpreted()):
        raise RuntimeError(
            f"MDCM_KERNELS=triton, but the tensors of {name} are on the CPU: move them to a CUDA device, unset "
            "MDCM_KERNELS, or set TRITON_INTERPRET=1 before Python starts, for Triton's interpreter"
        )
    return _FUSED[name]


def _operation(twin: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    """An operation that runs in the form that the rule names, on the device of its first argument."""

    @functools.wraps(twin)
    def call(*args: _Given.args, **kwargs: _Given.kwargs) -> _Found:
        first = args[0] if args else next(iter(kwargs.values()))
        found: _Found = _form(twin, isinstance(first, Tensor) and first.is_cuda)(*args, **kwargs)
        return found

    return call


critic_loss_and_grads = _operation(critic_reference.critic_loss_and_grads)
critic_values = _operation(critic_reference.critic_values)
gumbel_softmax = _operation(gumbel_reference.gumbel_softmax)
seeded_uniform = _operation(noise_reference.seeded_uniform)
