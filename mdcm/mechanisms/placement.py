"""Evaluation of mechanisms on their own device, with arguments and results on the CPU.

Rows, their noise and the states of confounders stay on the CPU, so that they do not depend on the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from mdcm.mechanisms.base import check_finite

if TYPE_CHECKING:
    from torch import Tensor

    from mdcm.dcm import DCM
    from mdcm.mechanisms import Categorical, Mechanism

__all__ = ["abducted", "drawn", "is_placed", "log_density", "place", "tabulated"]

_CPU = torch.device("cpu")


def place(dcm: DCM, device: torch.device) -> None:
    """Move mechanisms that generate or read images to a device, all others to the CPU, where they are faster."""
    for mechanism in dcm.mechanisms.values():
        has_image = any(variable.kind == "image" for variable in (mechanism.variable, *mechanism.parents))
        mechanism.to(device if has_image else _CPU)


def is_placed(dcm: DCM) -> bool:
    """Whether any mechanism is on another device than the CPU."""
    return any(_device(mechanism) != _CPU for mechanism in dcm.mechanisms.values())


def drawn(mechanism: Mechanism, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
    """Values of a variable, computed by its mechanism.

    Raises:
        MdcmError: If a value is not finite.
    """
    device = _device(mechanism)
    if device == _CPU:
        return check_finite(mechanism.variable, mechanism(parents, latents, noise))
    value = mechanism(_moved(parents, device), [state.to(device) for state in latents], noise.to(device)).cpu()
    return check_finite(mechanism.variable, value)


def abducted(
    mechanism: Mechanism, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor, fresh: Tensor
) -> Tensor:
    """Noise consistent with a value; see :meth:`mdcm.mechanisms.Mechanism.abduct`.

    Raises:
        MdcmError: If the noise is not finite.
    """
    device = _device(mechanism)
    if device == _CPU:
        return check_finite(mechanism.variable, mechanism.abduct(parents, latents, value, fresh), "noise")
    states = [state.to(device) for state in latents]
    noise = mechanism.abduct(_moved(parents, device), states, value.to(device), fresh.to(device)).cpu()
    return check_finite(mechanism.variable, noise, "noise")


def log_density(
    mechanism: Mechanism, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor
) -> Tensor:
    """Log density or probability of values, ``[n]``.

    Raises:
        MdcmError: If one of them is NaN or positive infinity.
    """
    device = _device(mechanism)
    if device == _CPU:
        log_prob = mechanism.log_prob(parents, latents, value)
    else:
        log_prob = mechanism.log_prob(
            _moved(parents, device), [state.to(device) for state in latents], value.to(device)
        ).cpu()
    return check_finite(mechanism.variable, log_prob, "densities", impossible=True)


def tabulated(mechanism: Categorical, parents: Mapping[str, Tensor], rows: int) -> Tensor:
    """Log probability of every level at every combination of states, ``[n, s_1, ..., s_d, K]``.

    Raises:
        MdcmError: If one of them is NaN.
    """
    device = _device(mechanism)
    table = mechanism.table(parents if device == _CPU else _moved(parents, device), rows)
    return check_finite(mechanism.variable, table.cpu(), "probabilities", impossible=True)


def _device(mechanism: Mechanism) -> torch.device:
    tensor = next(itertools.chain(mechanism.parameters(), mechanism.buffers()), None)
    return _CPU if tensor is None else tensor.device


def _moved(values: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in values.items()}
