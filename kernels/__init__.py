"""Fused operations of the training and sampling hot paths.

Every operation has a plain-torch twin in :mod:`mdcm.kernels.reference`, which is its definition and runs on any
device. Which form runs is decided at each call, by one rule: the environment variable ``MDCM_KERNELS`` is
``reference`` or ``triton``, and if unset or ``auto`` the Triton form runs on a CUDA device where the operation has one,
and the twin otherwise. No operation has a Triton form yet, so
asking for one by name is a ``ValueError``.

Noise by address, layouts and views have one form only, and the rule leaves them alone.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from mdcm.kernels import reference
from mdcm.kernels.reference import (
    STREAM_BATCH,
    STREAM_CONFOUNDER,
    STREAM_EXOGENOUS,
    STREAM_GUMBEL,
    STREAM_INTERPOLATION,
    STREAM_POSTERIOR,
    CriticParameters,
    CriticStep,
    NoiseAddress,
    Packing,
    batch_index,
    critic_size,
    critic_views,
    gumbel_noise,
    normal_noise,
    packed_gumbel_noise,
    philox4x32,
    random_words,
    rng_state,
    uniform_noise,
)
from torch import Tensor

__all__ = [
    "STREAM_BATCH",
    "STREAM_CONFOUNDER",
    "STREAM_EXOGENOUS",
    "STREAM_GUMBEL",
    "STREAM_INTERPOLATION",
    "STREAM_POSTERIOR",
    "CriticParameters",
    "CriticStep",
    "NoiseAddress",
    "Packing",
    "adam_flat",
    "batch_index",
    "bn_relu_bwd",
    "critic_forward",
    "critic_input_grad",
    "critic_loss_and_grads",
    "critic_size",
    "critic_values",
    "critic_views",
    "gumbel_noise",
    "gumbel_posterior",
    "gumbel_softmax",
    "interp_gather",
    "lin_bn_relu_fwd",
    "normal_noise",
    "packed_gumbel_noise",
    "philox4x32",
    "random_words",
    "rng_state",
    "uniform_noise",
    "wgan_gp_loss",
]

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")

# Triton forms by the name of the operation; an operation without one runs as its twin
_FUSED: dict[str, Callable[..., Any]] = {}


def _form(twin: Callable[..., Any], on_cuda: bool) -> Callable[..., Any]:
    """The one rule: which form of an operation runs."""
    name = twin.__name__
    asked = os.environ.get("MDCM_KERNELS", "auto")
    if asked == "reference":
        return twin
    if asked == "triton":
        if name not in _FUSED:
            raise ValueError(f"{name} has no Triton form: unset MDCM_KERNELS, or set it to reference")
        return _FUSED[name]
    if asked != "auto":
        raise ValueError(f"MDCM_KERNELS must be auto, reference or triton, not {asked!r}")
    return _FUSED.get(name, twin) if on_cuda else twin


def _operation(twin: Callable[_Given, _Found]) -> Callable[_Given, _Found]:
    """An operation that runs in the form that the rule names, on the device of its first argument."""

    @functools.wraps(twin)
    def call(*args: _Given.args, **kwargs: _Given.kwargs) -> _Found:
        first = args[0] if args else next(iter(kwargs.values()))
        found: _Found = _form(twin, isinstance(first, Tensor) and first.is_cuda)(*args, **kwargs)
        return found

    return call


adam_flat = _operation(reference.adam_flat)
bn_relu_bwd = _operation(reference.bn_relu_bwd)
critic_forward = _operation(reference.critic_forward)
critic_input_grad = _operation(reference.critic_input_grad)
critic_loss_and_grads = _operation(reference.critic_loss_and_grads)
critic_values = _operation(reference.critic_values)
gumbel_posterior = _operation(reference.gumbel_posterior)
gumbel_softmax = _operation(reference.gumbel_softmax)
interp_gather = _operation(reference.interp_gather)
lin_bn_relu_fwd = _operation(reference.lin_bn_relu_fwd)
wgan_gp_loss = _operation(reference.wgan_gp_loss)
