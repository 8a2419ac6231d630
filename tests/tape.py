"""A captured graph where there is no device that has one: every operation is recorded, and repeated on the same memory.

What a CUDA graph does to a step this does too: numbers that were in Python when it was recorded stay as they were,
results go to the tensors that had them then, and nothing between two operations runs again. What a capture refuses it
refuses: to tell Python a number, to take one from Python's memory, to find out how many elements a result has, and to
draw from a generator.
"""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# operations that wait for the device, or bring something to it
REFUSED = {
    *("_local_scalar_dense", "is_nonzero", "item", "equal", "nonzero", "masked_select", "unique_dim", "_unique2"),
    *("lift_fresh", "lift_fresh_copy", "uniform_", "normal_", "random_", "exponential_", "bernoulli_", "multinomial"),
    *("randn", "rand", "randint", "randperm"),
}


class Tape(TorchDispatchMode):
    """What was done while this was active; :meth:`replay` does it again."""

    def __init__(self):
        super().__init__()
        self.taken = []
        # by address: what memory held that was there before, and what is new
        self._before, self._made = {}, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        if name in REFUSED or (name in ("index", "index_put_") and _masks(args[1])):
            raise RuntimeError(f"{name} cannot be captured")
        named = {**dict(zip((one.name for one in func._schema.arguments), args, strict=False)), **kwargs}
        for argument in func._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tree_leaves(named.get(argument.name)):
                    self._keep(tensor)
        found = func(*args, **kwargs)
        given = {_address(one) for one in tree_leaves((args, kwargs))}
        self._made |= {_address(one) for one in tree_leaves(found)} - given
        # results are kept, so that no other tensor gets their memory
        self.taken.append((func, args, kwargs, found))
        return found

    def _keep(self, tensor):
        place = _address(tensor)
        if place is not None and place not in self._before and place not in self._made:
            memory = tensor.untyped_storage()
            self._before[place] = (memory, memory.clone())

    def undo(self):
        """Put back what memory held before."""
        for memory, former in self._before.values():
            memory.copy_(former)

    @torch.no_grad()
    def replay(self):
        """Do it all again: in-place operations in place, views as they are, other results to where they were."""
        for func, args, kwargs, kept in self.taken:
            aliases = [one.alias_info for one in func._schema.returns]
            if aliases and all(one is not None and not one.is_write for one in aliases):
                continue
            if func._schema.name.startswith("aten::empty"):
                continue
            found = func(*args, **kwargs)
            pairs = [(kept, found)] if len(aliases) == 1 else list(zip(kept or (), found or (), strict=True))
            for alias, (old, new) in zip(aliases, pairs, strict=True):
                if alias is None:
                    _assign(old, new)


def _address(value):
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else None


def _assign(old, new):
    if isinstance(old, Tensor):
        old.copy_(new)
    elif isinstance(old, list | tuple):
        for one, other in zip(old, new, strict=True):
            _assign(one, other)


def _masks(indices):
    return any(isinstance(one, Tensor) and one.dtype == torch.bool for one in indices)


def capture(body, device):
    """Stands in for :func:`mdcm.kernels.graphs.capture`: what repeats an operation, which is not run now.

    Recording runs it, so afterwards all memory is put back that was there before.
    """
    tape = Tape()
    try:
        with tape:
            body()
    finally:
        tape.undo()
    return tape.replay
