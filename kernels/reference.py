"""Plain-torch definition of every operation of :mod:`mdcm.kernels`; the ground truth for the fused forms.

The definitions lie by noun in the modules that this one collects. They are written for the reader, run on any device
and in any floating type (float64 as an oracle), never import Triton, and use no second derivative of autograd. A fused
form takes the same arguments and gives the same results up to rounding, from the same random words.

| kernel | here | fused form in |
|---|---|---|
| K1, K2 | ``gumbel_st_fwd``, ``gumbel_st_bwd``; both as ``gumbel_softmax`` | :mod:`mdcm.kernels.gumbel` |
| K5 | ``lin_act`` | :mod:`mdcm.kernels.layers` |
| K6 | ``delta`` of ``top_delta`` | :mod:`mdcm.kernels.layers` |
| K7 | ``gp_norm_tangent`` | :mod:`mdcm.kernels.layers` |
| K8 | ``top_reduce`` of ``tangent`` | :mod:`mdcm.kernels.layers` |
| K9 | ``wgrad`` | :mod:`mdcm.kernels.layers` |
| K5 to K9 | ``critic_loss_and_grads``, ``critic_values`` | :mod:`mdcm.kernels.critic` |
| K10 | ``adam_flat`` | :mod:`mdcm.kernels.adam` |
| K12 | ``seeded_uniform`` | :mod:`mdcm.kernels.noise` |
"""

from __future__ import annotations

from mdcm.kernels.reference_adam import (
    adam_flat,
)
from mdcm.kernels.reference_critic import (
    CriticStep,
    critic_loss_and_grads,
    critic_values,
)
from mdcm.kernels.reference_gumbel import (
    Packing,
    gumbel_softmax,
    gumbel_st_bwd,
    gumbel_st_fwd,
)
from mdcm.kernels.reference_layers import (
    delta,
    gp_norm_tangent,
    lin_act,
    tangent,
    top_delta,
    top_reduce,
    wgrad,
)
from mdcm.kernels.reference_noise import (
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
    seeded_uniform,
    uniform_noise,
)
from mdcm.kernels.reference_parameters import (
    CriticParameters,
    critic_size,
    critic_views,
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
    "adam_flat",
    "critic_loss_and_grads",
    "critic_size",
    "critic_values",
    "critic_views",
    "delta",
    "gp_norm_tangent",
    "gumbel_noise",
    "gumbel_softmax",
    "gumbel_st_bwd",
    "gumbel_st_fwd",
    "lin_act",
    "normal_noise",
    "philox4x32",
    "random_words",
    "remembering",
    "seeded_uniform",
    "tangent",
    "top_delta",
    "top_reduce",
    "uniform_noise",
    "wgrad",
]
