"""How kernels are compiled and launched: the one module that meets Triton's own interface.

Importing this imports Triton, so that only the fused forms do. Kernels address memory by pointers and masks alone, and
take what changes from step to step (seed, step, temperature, rates) from tensors on the device: a captured graph may
be replayed, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mdcm.kernels.configs import Config

__all__ = ["INTERPRETED", "blocks", "jit", "launch", "product", "stacked", "vector_of"]


def jit(function: Callable[..., object]) -> Any:
    """``triton.jit`` with a type that a checker knows: any."""
    return triton.jit(function)


def _probe() -> None:
    """A kernel that is never launched."""


# Triton reads TRITON_INTERPRET when it is first imported and decorates every kernel accordingly
INTERPRETED = not isinstance(jit(_probe), triton.JITFunction)
_INTERPRETED = tl.constexpr(INTERPRETED)


@jit
def product(left: tl.tensor, right: tl.tensor, total: tl.tensor | None, PRECISION: tl.constexpr) -> Any:
    """``total + left right`` in float32, of factors that are rounded as :func:`mdcm.kernels.configs.precision` says."""
    if PRECISION == "bf16":
        left, right = left.to(tl.bfloat16), right.to(tl.bfloat16)
        # the interpreter's product takes the bits of bfloat16 numbers for whole numbers; float32 it understands
        if _INTERPRETED:
            left, right = left.to(tl.float32), right.to(tl.float32)
        found = tl.dot(left, right, total, out_dtype=tl.float32)
    else:
        found = tl.dot(left, right, total, input_precision=PRECISION, out_dtype=tl.float32)
    return found


def blocks(count: int, size: int) -> int:
    """Number of blocks of one size that cover so many elements."""
    return -(-count // size)


def vector_of(*sizes: int) -> int:
    """Four if all sizes are multiples of it, so that every row begins at a multiple of 16 bytes; else one.

    Kernels take such sizes in units of that many elements: multiplied back, a compiler sees that addresses align.
    """
    return 1 if any(size % 4 for size in sizes) else 4


def stacked(tensor: Tensor) -> Tensor:
    """The tensor ``[M, ...]`` with every module's part in one piece, at any distance from the next module's."""
    inner = tensor.stride()[1:]
    dense = True
    size = 1
    for length, stride in zip(reversed(tensor.shape[1:]), reversed(inner), strict=True):
        dense = dense and (stride == size or length == 1)
        size *= length
    return tensor if dense else tensor.contiguous()


def launch(kernel: Any, grid: tuple[int, ...], config: Config, *arguments: object, **constants: object) -> None:
    """Run a kernel on the device of its first tensor, with the tile and the options of a configuration."""
    first = next(one for one in arguments if isinstance(one, Tensor))
    with torch.cuda.device_of(first):  # type: ignore[no-untyped-call]
        kernel[grid](
            *arguments,
            **constants,
            **config.tile,
            num_warps=config.warps,
            num_stages=config.stages,
            enable_fp_fusion=config.fusion,
        )
