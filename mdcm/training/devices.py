"""The device on which h-nodes are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mdcm.errors import PlanError

if TYPE_CHECKING:
    from mdcm.data import Schema
    from mdcm.planning import Plan

__all__ = ["CPU", "check_device", "training_device"]

CPU = torch.device("cpu")


def training_device(name: str, plan: Plan, schema: Schema) -> torch.device:
    """The device of a name.

    Args:
        name: "cpu", "cuda", "cuda:1", or "auto": the current CUDA card, where there is one, if an h-node of the plan is
            trained against critics or involves images; else the CPU, where the small steps of tables are faster.
        plan: The plan to train.
        schema: Variables by name.

    Raises:
        PlanError: If there is no such device.

    Example:
        >>> from mdcm.data import Dataset, Schema
        >>> from mdcm.planning import plan
        >>> data = Dataset({"X": [0, 1], "Y": [1, 0]})
        >>> training_device("auto", plan("X -> Y"), Schema.infer([data]))
        device(type='cpu')
    """
    check_device(name)
    if name == "auto":
        is_card = torch.cuda.is_available() and _is_heavy(plan, schema)
        return torch.device("cuda", torch.cuda.current_device()) if is_card else CPU
    _, _, number = name.partition(":")
    if name == "cpu":
        return CPU
    return torch.device("cuda", int(number) if number else torch.cuda.current_device())


def check_device(name: str) -> None:
    """Refuse a name of a device that is not "auto" and does not exist.

    Raises:
        PlanError: If there is no such device.
    """
    if name in {"auto", "cpu"}:
        return
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number.isdecimal() if ":" in name else True):
        raise PlanError(f"there is no device {name!r}; use 'auto', 'cpu', 'cuda' or 'cuda:0'")
    if not cards:
        raise PlanError(f"device {name!r}: torch {torch.__version__} sees no CUDA card here; use 'auto' or 'cpu'")
    if number and int(number) >= cards:
        raise PlanError(f"device {name!r}: there are {cards} CUDA cards, the first of which is 'cuda:0'")


def _is_heavy(plan: Plan, schema: Schema) -> bool:
    for hnode in plan.hnodes:
        for fit in hnode.fits:
            names = {*fit.variables, *fit.parents, *fit.ancestors}
            if fit.objective == "adversarial" or any(schema[name].kind == "image" for name in names):
                return True
    return False
