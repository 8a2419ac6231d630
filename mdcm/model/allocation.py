"""A limit on the memory that constructors allocate for sizes read from a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["AllocationError", "Bounded"]


class AllocationError(ValueError):
    """Constructors allocated more numbers than the limit."""


def _of_shape(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    size = kwargs.get("size", args)
    while len(size) == 1 and not isinstance(size[0], int):
        size = size[0]
    return int(math.prod(size))


def _of_range(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    start, end, step = (*args, 1)[:3] if len(args) > 1 else (kwargs.get("start", 0), *(args or [kwargs.get("end")]), 1)
    count: int = math.ceil((end - start) / step)
    return count


_SIZES: dict[Any, Callable[[Sequence[Any], Mapping[str, Any]], int]] = {
    **dict.fromkeys((torch.empty, torch.ones, torch.rand, torch.randn, torch.zeros), _of_shape),
    torch.full: lambda args, kwargs: math.prod(kwargs["size"] if "size" in kwargs else args[0]),
    torch.arange: _of_range,
    torch.linspace: lambda args, kwargs: kwargs["steps"] if "steps" in kwargs else args[2],
    torch.eye: lambda args, kwargs: args[0] * (args[1] if len(args) > 1 else args[0]),
    torch.randperm: lambda args, kwargs: args[0],
}


_INITIAL = {torch.nn.init.kaiming_uniform_, torch.nn.init.uniform_, torch.nn.init.normal_}


class Bounded(TorchFunctionMode):
    """A context that limits the numbers allocated by constructors of modules whose weights are then read from a file.

    Layers of torch are not initialized. The context may be entered several times; the count continues.

    Args:
        most: Largest total of allocated numbers.

    Example:
        >>> with Bounded(100):
        ...     layer = torch.nn.Linear(2, 3)
        >>> with Bounded(100):
        ...     layer = torch.nn.Linear(20, 30)
        Traceback (most recent call last):
            ...
        mdcm.model.allocation.AllocationError: more than 100 numbers are asked for
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.taken = most, 0

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count the numbers of an allocation, then call the function."""
        if function in _INITIAL:
            # initial values would be replaced by those of the file
            return args[0] if args else (kwargs or {})["tensor"]
        size = _SIZES.get(function)
        if size is not None:
            self.taken += max(size(args, kwargs or {}), 0)
            if self.taken > self.most:
                raise AllocationError(f"more than {self.most:,} numbers are asked for")
        return function(*args, **(kwargs or {}))
