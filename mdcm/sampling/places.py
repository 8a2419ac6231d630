"""Mechanisms that are on another device than the rows: what they are given goes there, and what they say comes back.

Rows, their noise and the states of confounders stay on the CPU, where they are the same whatever the device.
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
    """Put those mechanisms on a device that make or read images, and all others on the CPU, where they are faster."""
    for mechanism in dcm.mechanisms.values():
        seen = any(one.kind == "image" for one in (mechanism.variable, *mechanism.parents))
        mechanism.to(device if seen else _CPU)


def is_placed(dcm: DCM) -> bool:
    """Whether some mechanism is not on the CPU."""
    return any(_device(mechanism) != _CPU for mechanism in dcm.mechanisms.values())


def drawn(mechanism: Mechanism, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
    """Values of a variable, as the mechanism makes them.

    Raises:
        MdcmError: If one of them is not finite.
    """
    there = _device(mechanism)
    if there == _CPU:
        return check_finite(mechanism.variable, mechanism(parents, latents, noise))
    value = mechanism(_all(parents, there), [one.to(there) for one in latents], noise.to(there)).cpu()
    return check_finite(mechanism.variable, value)


def abducted(
    mechanism: Mechanism, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor, fresh: Tensor
) -> Tensor:
    """Noise in keeping with a value; see :meth:`mdcm.mechanisms.Mechanism.abduct`.

    Raises:
        MdcmError: If some of it is not finite.
    """
    there = _device(mechanism)
    if there == _CPU:
        return check_finite(mechanism.variable, mechanism.abduct(parents, latents, value, fresh), "noise")
    states = [one.to(there) for one in latents]
    found = mechanism.abduct(_all(parents, there), states, value.to(there), fresh.to(there)).cpu()
    return check_finite(mechanism.variable, found, "noise")


def log_density(
    mechanism: Mechanism, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor
) -> Tensor:
    """Log density or probability of values, ``[n]``.

    Raises:
        MdcmError: If one of them is no number, or infinite but for that of what is impossible.
    """
    there = _device(mechanism)
    if there == _CPU:
        found = mechanism.log_prob(parents, latents, value)
    else:
        found = mechanism.log_prob(_all(parents, there), [one.to(there) for one in latents], value.to(there)).cpu()
    return check_finite(mechanism.variable, found, "densities", impossible=True)


def tabulated(mechanism: Categorical, parents: Mapping[str, Tensor], rows: int) -> Tensor:
    """Log probability of every level at every combination of states, ``[n, s_1, ..., s_d, K]``.

    Raises:
        MdcmError: If one of them is no number.
    """
    there = _device(mechanism)
    table = mechanism.table(parents if there == _CPU else _all(parents, there), rows)
    return check_finite(mechanism.variable, table.cpu(), "probabilities", impossible=True)


def _device(mechanism: Mechanism) -> torch.device:
    one = next(itertools.chain(mechanism.parameters(), mechanism.buffers()), None)
    return _CPU if one is None else one.device


def _all(values: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in values.items()}
