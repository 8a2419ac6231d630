"""A device that is somewhere else: its tensors keep their numbers on the CPU, and refuse to meet tensors of the CPU.

It stands in for an accelerator where there is none: that a program puts everything where it belongs shows in the
errors it does not raise, and that it computes the same shows in the numbers. Rules are those of a CUDA device: numbers
without a dimension may come from the CPU, as may indices; copies go either way; a generator must be of the device.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["DEVICE", "Elsewhere", "elsewhere"]

# a device type that autograd needs nothing of
DEVICE = torch.device("meta")
_CPU = torch.device("cpu")
_MAY_MIX = {"copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_", "set_"}
# generators by identity, kept alive so that no other one gets the same
_there: dict[int, torch.Generator] = {}
_Generator = torch.Generator


class Elsewhere(Tensor):
    """A tensor of the device, around one of the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        made = Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"Elsewhere({self.inner})"


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """Sees what no operation shows: tensors made of numbers, and generators, which are other objects in C++."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and torch.device(kwargs.get("device") or _CPU).type == DEVICE.type:
            # made of numbers, so that no operation shows it
            return func(*args, **kwargs | {"device": _CPU}).to(DEVICE)
        if func is Tensor.tolist and isinstance(args[0], Elsewhere):
            return args[0].inner.tolist()
        found = func(*args, **kwargs)
        for one in tree_leaves((args, kwargs)):
            if isinstance(one, _Generator) and (id(one) in _there) != isinstance(found, Elsewhere):
                raise RuntimeError(f"{func}: a generator of another device")
        return found


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    leaves = tree_leaves((args, kwargs))
    tensors = [one for one in leaves if isinstance(one, Tensor)]
    there = any(isinstance(one, Elsewhere) for one in tensors)
    here = any(not isinstance(one, Elsewhere) and one.dim() > 0 for one in tensors)
    if there and here and (name not in _MAY_MIX or not isinstance(tensors[0], Elsewhere | Tensor)):
        raise RuntimeError(f"{func}: tensors on two devices")
    if name.startswith("index") and there and not isinstance(tensors[0], Elsewhere):
        raise RuntimeError(f"{func}: indices elsewhere")
    device = kwargs.get("device")
    goes = there if device is None else torch.device(device).type == DEVICE.type
    if name == "copy_":
        goes = isinstance(args[0], Elsewhere)

    def inner(one: Any) -> Any:
        return one.inner if isinstance(one, Elsewhere) else one

    changed = {key: tree_map(inner, value) for key, value in kwargs.items()}
    if device is not None:
        changed["device"] = _CPU
    found = func(*tree_map(inner, args), **changed)
    if name.endswith("_") and not name.startswith("_"):
        return args[0]
    if (name.startswith("_foreach") and name.endswith("_")) or name in ("_fused_adamw_", "_fused_adam_"):
        return None
    return tree_map(lambda one: Elsewhere(one) if type(one) is Tensor else one, found) if goes else found


class _Kind(type):
    def __instancecheck__(cls, one: Any) -> bool:
        return isinstance(one, _Generator)


class _Generators(metaclass=_Kind):
    """In the place of torch.Generator, which cannot be of a device that is not there."""

    def __new__(cls, device: Any = "cpu") -> Any:
        made = _Generator()
        if torch.device(device).type == DEVICE.type:
            _there[id(made)] = made
        return made


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """The device, for as long as the block lasts."""
    former = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    adam = sys.modules["torch.optim.adam"]
    check = adam._device_dtype_check_for_fused
    adam._device_dtype_check_for_fused = lambda *_, **__: None
    torch.Generator = _Generators  # type: ignore[misc,assignment]
    try:
        with _Calls(), _Mode():
            yield DEVICE
    finally:
        adam._device_dtype_check_for_fused = check
        torch.Generator = _Generator  # type: ignore[misc]
        torch.__future__.set_swap_module_params_on_conversion(former)
        _there.clear()
