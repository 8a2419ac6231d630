"""Fused operations of the training and sampling hot paths.

Every operation has a plain-torch twin in :mod:`mdcm.kernels.reference`, which is its definition and runs on any
device.
"""

from __future__ import annotations

from mdcm.kernels.reference import (
    STREAM_BATCH,
    STREAM_CONFOUNDER,
    STREAM_EXOGENOUS,
    STREAM_GUMBEL,
    STREAM_INTERPOLATION,
    STREAM_POSTERIOR,
    gumbel_noise,
    normal_noise,
    philox4x32,
    random_words,
    uniform_noise,
)

__all__ = [
    "STREAM_BATCH",
    "STREAM_CONFOUNDER",
    "STREAM_EXOGENOUS",
    "STREAM_GUMBEL",
    "STREAM_INTERPOLATION",
    "STREAM_POSTERIOR",
    "gumbel_noise",
    "normal_noise",
    "philox4x32",
    "random_words",
    "uniform_noise",
]
