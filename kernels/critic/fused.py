"""Fused critics: values, and all gradients of the loss with its gradient penalty, in seven launches for all modules.

The operations of :mod:`mdcm.kernels.critic.reference`, by the kernels K5 to K9 of
:mod:`mdcm.kernels.critic.fused_layers`: two of K5 forward, K6 down, K7 for the penalty and up again, K8 for the last
layer and the loss, and K9 for each hidden layer. Critics with two hidden layers of leaky ReLU or ReLU, without
normalisation and in float32, run so; all others run as their twins, which batch modules too. Of rows wider than 128
columns K7 alone is left to its twin.

The values themselves, and the gradient in the rows, are one product each, which PyTorch makes in the precision that it
is set to. Rows and weights are read in pieces of 16 bytes where widths are multiples of four: pad columns to that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mdcm.kernels import configs
from mdcm.kernels.critic import fused_layers as layers
from mdcm.kernels.critic import reference, reference_layers
from mdcm.kernels.critic.parameters import CriticParameters, check_critics, critic_size, critic_views
from mdcm.kernels.critic.reference import CriticInputGrad, CriticStep, check_step, is_straight, slope_of

__all__ = ["critic_loss_and_grads", "critic_values", "values_of"]


def _fits(x: Tensor, params: CriticParameters) -> bool:
    """Whether the kernels can take it; the rest is left to the twin."""
    return x.dtype == torch.float32 and x.numel() > 0 and len(params.weights) == 2 and is_straight(params)


@torch.no_grad()
def _step(x: Tensor, params: CriticParameters, penalty: float, columns: Tensor | None, one_sided: bool) -> CriticStep:
    precision, slope = configs.precision("training"), float(slope_of(params))
    (weight_1, weight_2), out = params.weights, params.out
    modules, rows, width = x.shape
    batch = rows // 3
    # partial gradients, each laid out as parameters are; zero where no gradient is
    widths = [width, weight_1.shape[1], weight_2.shape[1]]
    parts = configs.splits(modules, batch, min(widths[1:]))
    flat = x.new_zeros(parts, modules, critic_size(widths))
    partial = critic_views(flat, widths)
    hidden_1 = layers.lin_act(x, weight_1, params.biases[0], slope, precision)
    hidden_2 = layers.lin_act(hidden_1, weight_2, params.biases[1], slope, precision)
    lowest = layers.delta(hidden_2, out, weight_2, hidden_1, slope, precision, signed=True)
    if width <= configs.SHIPPED["gp_norm_tangent"][-1].tile["INPUTS"]:
        norm, v0, v1 = layers.gp_norm_tangent(
            lowest, weight_1, hidden_1, slope, precision, penalty=penalty, columns=columns, one_sided=one_sided
        )
    else:
        between = [one[:, 2 * batch :] for one in (lowest, hidden_1)]
        norm, v0, v1 = reference_layers.gp_norm_tangent(
            between[0], weight_1, between[1], slope, penalty=penalty, columns=columns, one_sided=one_sided
        )
    loss = layers.top_reduce(
        v1, weight_2, hidden_2, out, norm, partial.out, slope, precision, penalty=penalty, one_sided=one_sided
    )
    layers.wgrad(hidden_2, out, hidden_1, v1, partial.weights[1], partial.biases[1], slope, precision)
    layers.wgrad(lowest, None, x, v0, partial.weights[0], partial.biases[0], slope, precision)
    grads = critic_views(flat[0] if parts == 1 else flat.sum(0), widths)
    return CriticStep(loss.sum(1), norm, params.with_tensors(grads.tensors()))


def critic_loss_and_grads(
    x: Tensor,
    params: CriticParameters,
    *,
    penalty: float = 10.0,
    columns: Tensor | None = None,
    one_sided: bool = False,
) -> CriticStep:
    """Fused form of :func:`mdcm.kernels.critic.reference.critic_loss_and_grads`, which says what it does.

    Gradients are views of one buffer ``[M, P]`` in the layout of :func:`mdcm.kernels.critic_views`.
    """
    rows, critics, chosen, stacked = check_step(x, params, penalty, columns)
    if not _fits(rows, critics):
        return reference.critic_loss_and_grads(x, params, penalty=penalty, columns=columns, one_sided=one_sided)
    step = _step(rows, critics, float(penalty), chosen, one_sided)
    return step if stacked else CriticStep(step.loss[0], step.norm[0], step.grads.map(lambda one: one[0]))


@torch.no_grad()
def values_of(x: Tensor, params: CriticParameters, *, gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Fused form of :func:`mdcm.kernels.critic.reference.values_of`, which says what it does."""
    rows, critics, stacked = check_critics(x, params)
    if not _fits(rows, critics):
        return reference.values_of(x, params, gradient=gradient)
    precision, slope = configs.precision("training" if gradient else "inference"), float(slope_of(critics))
    hidden = rows
    below = []
    for weight, bias in zip(critics.weights, critics.biases, strict=True):
        below.append(hidden)
        hidden = layers.lin_act(hidden, weight, bias, slope, precision)
    value = torch.baddbmm(critics.offset[:, None, None], hidden, critics.out[..., None])[..., 0]
    g = None
    if gradient:
        s = layers.delta(hidden, critics.out, critics.weights[1], below[1], slope, precision, signed=False)
        g = torch.bmm(s, critics.weights[0])
    return (value, g) if stacked else (value[0], None if g is None else g[0])


def critic_values(x: Tensor, params: CriticParameters) -> Tensor:
    """Fused form of :func:`mdcm.kernels.critic.reference.critic_values`, which says what it does."""
    value: Tensor = CriticInputGrad.apply(x, params, values_of)  # type: ignore[no-untyped-call]
    return value
