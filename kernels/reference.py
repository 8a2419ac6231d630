"""Plain-torch definition of every operation of :mod:`mdcm.kernels`; the ground truth for the fused forms.

The definitions lie by noun in the modules that this one collects. They are written for the reader, run on any device
and in any floating type (float64 as an oracle), never import Triton, and use no second derivative of autograd. A fused
form takes the same arguments and gives the same results up to rounding, from the same random words.

| kernel | here | fused form in |
|---|---|---|
| K1, K2 | ``gumbel_st_fwd``, ``gumbel_st_bwd``; both as ``gumbel_softmax`` | :mod:`mdcm.kernels.gumbel` |
| K3 | ``gumbel_posterior`` | :mod:`mdcm.kernels.gumbel` |
| K4 | ``interp_gather``, and ``batch_index`` for the rows that it draws | :mod:`mdcm.kernels.batch` |
| K5 | ``lin_act`` | :mod:`mdcm.kernels.layers` |
| K6 | ``delta`` of ``top_delta`` | :mod:`mdcm.kernels.layers` |
| K7 | ``gp_norm_tangent`` | :mod:`mdcm.kernels.layers` |
| K8 | ``top_reduce`` of ``tangent`` | :mod:`mdcm.kernels.layers` |
| K9 | ``wgrad`` | :mod:`mdcm.kernels.layers` |
| K5 to K9 | ``critic_loss_and_grads``, ``critic_forward``, ``critic_values`` | :mod:`mdcm.kernels.critic` |
| K10 | ``adam_flat`` | :mod:`mdcm.kernels.adam` |
| K11 | ``lin_bn_relu_fwd``, ``bn_relu_bwd`` | :mod:`mdcm.kernels.generator` |
| K12 | ``seeded_uniform`` | :mod:`mdcm.kernels.noise` |
| noise in K1 to K4 | ``random_words`` and what is made of them | :mod:`mdcm.kernels.rng` |
"""

from __future__ import annotations

from mdcm.kernels.reference_adam import (
    adam_flat,
)
from mdcm.kernels.reference_batch import (
    batch_index,
    interp_gather,
)
from mdcm.kernels.reference_critic import (
    CriticInputGrad,
    CriticStep,
    WGANGPLoss,
    critic_forward,
    critic_input_grad,
    critic_loss_and_grads,
    critic_values,
    wgan_gp_loss,
)
from mdcm.kernels.reference_generator import (
    bn_relu_bwd,
    lin_bn_relu_fwd,
)
from mdcm.kernels.reference_gumbel import (
    GumbelST,
    gumbel_posterior,
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
    STREAM_INTERPOLATION,
    STREAM_POSTERIOR,
    NoiseAddress,
    NoiseMemory,
    Packing,
    gumbel_noise,
    normal_noise,
    packed_gumbel_noise,
    philox4x32,
    random_words,
    remembering,
    rng_state,
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
    "STREAM_INTERPOLATION",
    "STREAM_POSTERIOR",
    "CriticInputGrad",
    "CriticParameters",
    "CriticStep",
    "GumbelST",
    "NoiseAddress",
    "NoiseMemory",
    "Packing",
    "WGANGPLoss",
    "adam_flat",
    "batch_index",
    "bn_relu_bwd",
    "critic_forward",
    "critic_input_grad",
    "critic_loss_and_grads",
    "critic_size",
    "critic_values",
    "critic_views",
    "delta",
    "gp_norm_tangent",
    "gumbel_noise",
    "gumbel_posterior",
    "gumbel_softmax",
    "gumbel_st_bwd",
    "gumbel_st_fwd",
    "interp_gather",
    "lin_act",
    "lin_bn_relu_fwd",
    "normal_noise",
    "packed_gumbel_noise",
    "philox4x32",
    "random_words",
    "remembering",
    "rng_state",
    "seeded_uniform",
    "tangent",
    "top_delta",
    "top_reduce",
    "uniform_noise",
    "wgan_gp_loss",
    "wgrad",
]
