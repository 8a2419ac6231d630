"""Critics of Wasserstein GANs: values, and all gradients of the loss with its gradient penalty, in closed form.

A critic is a multilayer perceptron, ``z_l = h_{l-1} W_l' + b_l``, ``h_l = phi(z_l)``, ``D = h_L w + c``, optionally
with layer normalisation before phi. Its gradient in the input is the delta pass ``s_L = w phi'(z_L)``,
``s_l = (s_{l+1} W_{l+1}) phi'(z_l)``, ``g = s_1 W_1``. The penalty ``P = mean psi(|g|)`` is differentiated through that
pass. Each of its steps is linear in s and in W, so the adjoint of the pass is a tangent pass forward,

    v_0 = dP/dg,    v_l = (v_{l-1} W_l') phi'(z_l),    dP/dW_l = s_l' v_{l-1},    dP/dw = sum v_L,

and where phi is piecewise linear nothing else depends on the parameters. A smooth phi, and layer normalisation, bend
the pass: what leaks into z_l then runs backward once more through the network, as in ordinary backpropagation. No
graph is kept and nothing is differentiated twice.

Rows of a critic step are stacked as B generated, B real and B points between them. Everything is stacked over M
modules of equal shape; every function also takes one module without that axis.

References:
    Gulrajani, Ahmed, Arjovsky, Dumoulin & Courville (2017), "Improved training of Wasserstein GANs",
    https://arxiv.org/abs/1704.00028; Pearlmutter (1994), "Fast exact multiplication by the Hessian" (the tangent pass);
    Ba, Kiros & Hinton (2016), "Layer normalization", https://arxiv.org/abs/1607.06450.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mdcm.kernels.critic.parameters import CriticParameters, check_critics
from mdcm.kernels.critic.reference_layers import (
    delta,
    gp_norm_tangent,
    lin_act,
    masked,
    penalty_seed,
    row_signs,
    tangent,
    top_delta,
    top_reduce,
    wgrad,
)

__all__ = [
    "CriticInputGrad",
    "CriticStep",
    "check_step",
    "critic_loss_and_grads",
    "critic_values",
    "is_straight",
    "slope_of",
    "values_of",
]

_NORM_EPSILON = 1e-5


class CriticStep(NamedTuple):
    """What one critic step needs.

    Attributes:
        loss: ``[M]``, mean D(fake) - mean D(real) + penalty * mean psi(norm).
        norm: ``[M, B]``, norm of the gradient in the penalised columns at each point between.
        grads: Gradient of the loss in every parameter.
    """

    loss: Tensor
    norm: Tensor
    grads: CriticParameters


def _straight_step(
    x: Tensor, params: CriticParameters, penalty: float, columns: Tensor | None, one_sided: bool
) -> CriticStep:
    """The step for a piecewise-linear phi without normalisation."""
    rows = x.shape[1] // 3
    slope = slope_of(params)
    signs = row_signs(rows, x)
    hidden = [x]
    for weight, bias in zip(params.weights, params.biases, strict=True):
        hidden.append(lin_act(hidden[-1], weight, bias, slope))
    depth = len(params.weights)
    deltas = [top_delta(hidden[-1], params.out, signs, slope)]
    for place in range(depth - 1, 0, -1):
        deltas.insert(0, delta(deltas[0], params.weights[place], hidden[place], slope))
    between = [one[:, 2 * rows :] for one in hidden]
    norm, *tangents = gp_norm_tangent(
        deltas[0][:, 2 * rows :],
        params.weights[0],
        between[1],
        slope,
        penalty=penalty,
        columns=columns,
        one_sided=one_sided,
    )
    for place in range(1, depth):
        tangents.append(tangent(tangents[-1], params.weights[place], between[place + 1], slope))
    out, difference = top_reduce(tangents[-1], hidden[-1], params.out, signs)
    layers = [wgrad(*layer) for layer in zip(deltas, hidden[:-1], tangents[:-1], strict=True)]
    grads = replace(
        params,
        weights=tuple(weight for weight, _ in layers),
        biases=tuple(bias for _, bias in layers),
        out=out,
        # each real row takes away what a fake row adds
        offset=torch.zeros_like(params.offset),
    )
    return CriticStep(difference + penalty * _psi(norm, one_sided), norm, grads)


def _psi(norm: Tensor, one_sided: bool) -> Tensor:
    excess = norm - 1
    return (excess.clamp_min(0) if one_sided else excess).square().mean(-1)


# ---- the bent form: smooth activations, layer normalisation


def slope_of(params: CriticParameters) -> float:
    """Slope of a piecewise-linear activation below zero."""
    return params.slope if params.activation == "leaky_relu" else 0.0


def _activate(z: Tensor, params: CriticParameters) -> tuple[Tensor, Tensor, Tensor | None]:
    """phi(z), phi'(z) and phi''(z), the last None where it is zero."""
    match params.activation:
        case "tanh":
            value = torch.tanh(z)
            first = 1 - value * value
            return value, first, -2 * value * first
        case "silu":
            gate = torch.sigmoid(z)
            back = 1 - gate
            return z * gate, gate * (1 + z * back), gate * back * (2 + z * (1 - 2 * gate))
        case "softplus":
            gate = torch.sigmoid(z)
            return F.softplus(z), gate, gate * (1 - gate)
    slope = slope_of(params)
    return F.leaky_relu(z, slope), masked(torch.ones_like(z), z, slope), None


class _Normal(NamedTuple):
    """Layer normalisation of rows: standardised values, their standard deviation, and the gain."""

    unit: Tensor
    scale: Tensor
    gain: Tensor

    def project(self, y: Tensor) -> Tensor:
        """``scale`` times the Jacobian of the standardised values, a symmetric matrix, times y."""
        return y - y.mean(-1, keepdim=True) - self.unit * (self.unit * y).mean(-1, keepdim=True)

    def backward(self, y: Tensor) -> Tensor:
        """Gradient before the layer normalisation, of one after it."""
        return self.project(self.gain * y) / self.scale

    def forward(self, t: Tensor) -> Tensor:
        """Tangent of the standardised values."""
        return self.project(t) / self.scale

    def curvature(self, t: Tensor, y: Tensor) -> Tensor:
        """Gradient of ``<t, backward(y)>`` before the layer normalisation, t and y fixed."""
        y = self.gain * y
        projected = self.project(y)
        bent = (
            (t * projected).sum(-1, keepdim=True) * self.unit
            + (self.unit * y).sum(-1, keepdim=True) * self.project(t)
            + (self.unit * t).sum(-1, keepdim=True) * projected
        )
        return bent / (-y.shape[-1] * self.scale.square())

    def rows(self, chosen: slice) -> _Normal:
        return _Normal(self.unit[:, chosen], self.scale[:, chosen], self.gain)


class _Layer(NamedTuple):
    """One hidden layer after the forward pass: its output, phi' and phi'', and its normalisation if it has one."""

    value: Tensor
    first: Tensor
    second: Tensor | None
    normal: _Normal | None


def _layers(x: Tensor, params: CriticParameters) -> list[_Layer]:
    found: list[_Layer] = []
    value = x
    for place, (weight, bias) in enumerate(zip(params.weights, params.biases, strict=True)):
        z = torch.baddbmm(bias[:, None], value, weight.mT)
        normal = None
        if params.gains:
            centred = z - z.mean(-1, keepdim=True)
            scale = (centred.square().mean(-1, keepdim=True) + _NORM_EPSILON).sqrt()
            normal = _Normal(centred / scale, scale, params.gains[place][:, None])
            z = normal.gain * normal.unit + params.shifts[place][:, None]
        found.append(_Layer(*_activate(z, params), normal))
        value = found[-1].value
    return found


def _delta_pass(layers: list[_Layer], params: CriticParameters, seed: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients after and before each activation, u_l and ``a_l = u_l phi'``, and before that its linear part, s_l.

    Returns:
        u_1 .. u_L and s_1 .. s_L.
    """
    upstream, deltas = [], []
    u = seed
    for layer, weight in zip(reversed(layers), reversed(params.weights), strict=True):
        a = u * layer.first
        s = a if layer.normal is None else layer.normal.backward(a)
        upstream.append(u)
        deltas.append(s)
        u = torch.bmm(s, weight)
    return upstream[::-1], deltas[::-1]


def _bent_step(
    x: Tensor, params: CriticParameters, penalty: float, columns: Tensor | None, one_sided: bool
) -> CriticStep:
    """The step for any phi, with or without normalisation."""
    rows = x.shape[1] // 3
    pairs, between = slice(0, 2 * rows), slice(2 * rows, None)
    signs = row_signs(rows, x)
    layers = _layers(x, params)
    upstream, deltas = _delta_pass(layers, params, signs * params.out[:, None])
    below = [x, *(layer.value for layer in layers[:-1])]
    g = torch.bmm(deltas[0][:, between], params.weights[0])
    if columns is not None:
        g *= columns
    norm, v = penalty_seed(g, penalty, one_sided)
    weights, biases, gains, shifts, leaks = [], [], [], [], []
    for place, layer in enumerate(layers):
        weight, bias = wgrad(deltas[place], below[place], v)
        weights.append(weight)
        biases.append(bias)
        first, u = layer.first[:, between], upstream[place][:, between]
        t = torch.bmm(v, params.weights[place].mT)
        bend = torch.zeros_like(t)
        if layer.normal is not None:
            a = upstream[place] * layer.first
            normal = layer.normal.rows(between)
            bend = normal.curvature(t, a[:, between])
            t = normal.forward(t)
            gains.append((a[:, pairs] * layer.normal.unit[:, pairs]).sum(1) + (a[:, between] * t).sum(1))
            shifts.append(a[:, pairs].sum(1))
            t = normal.gain * t
        leaks.append((None if layer.second is None else layer.second[:, between] * u * t, bend))
        v = t * first
    # what the penalty leaks into the network at the points between, last layer first
    h = torch.zeros_like(v)
    for place in reversed(range(len(layers))):
        layer, (leak, bend) = layers[place], leaks[place]
        n = layer.first[:, between] * h
        if leak is not None:
            n += leak
        z = n
        if layer.normal is not None:
            normal = layer.normal.rows(between)
            gains[place] += (n * normal.unit).sum(1)
            shifts[place] += n.sum(1)
            z = normal.backward(n) + bend
        weights[place].baddbmm_(z.mT, below[place][:, between])
        biases[place] += z.sum(1)
        h = torch.bmm(z, params.weights[place])
    out, difference = top_reduce(v, layers[-1].value, params.out, signs)
    grads = params.with_tensors([*weights, *biases, out, torch.zeros_like(params.offset), *gains, *shifts])
    return CriticStep(difference + penalty * _psi(norm, one_sided), norm, grads)


def is_straight(params: CriticParameters) -> bool:
    """Whether critics are piecewise linear in their rows."""
    return params.activation in ("leaky_relu", "relu") and not params.gains


# ---- whole operations


def check_step(
    x: Tensor, params: CriticParameters, penalty: float, columns: Tensor | None
) -> tuple[Tensor, CriticParameters, Tensor | None, bool]:
    """Rows, critics and columns ``[D]`` or ``[M, 1, D]`` of a critic step, and whether modules came stacked.

    Raises:
        ValueError: As :func:`critic_loss_and_grads`.
    """
    stacked_x, critics, stacked = check_critics(x, params)
    if stacked_x.shape[1] == 0 or stacked_x.shape[1] % 3:
        raise ValueError(f"rows must be three groups of equal size, not {stacked_x.shape[1]} rows")
    if not penalty >= 0:
        raise ValueError(f"penalty {penalty} must not be negative")
    if columns is not None:
        if columns.shape not in {(x.shape[-1],), (critics.offset.shape[0], x.shape[-1])}:
            raise ValueError(f"columns must be [{x.shape[-1]}] or one such row per module, not {list(columns.shape)}")
        columns = columns.to(x.dtype)
        columns = columns[:, None] if columns.dim() == 2 else columns
    return stacked_x, critics, columns, stacked


def critic_loss_and_grads(
    x: Tensor,
    params: CriticParameters,
    *,
    penalty: float = 10.0,
    columns: Tensor | None = None,
    one_sided: bool = False,
) -> CriticStep:
    """Loss of a Wasserstein critic with gradient penalty, and its gradient in every parameter, without autograd.

    The loss of a module is mean D(fake) - mean D(real) + penalty * mean psi(r), where r is the norm of the gradient of
    D in the penalised columns at the points between, and psi(r) = (r - 1)^2, or max(0, r - 1)^2 if one-sided. Where r
    is zero the penalty has no gradient.

    Args:
        x: Rows ``[M, 3 B, D]``: generated, real, between; ``[3 B, D]`` for one critic without the axis of
            modules.
        params: M critics of D columns, or one, of the same type as x.
        penalty: Factor of the penalty, not negative.
        columns: True or 1 where a column counts in the norm, ``[D]`` or ``[M, D]``; None for all. Columns that the
            generator only copies have no gradient to be bounded.
        one_sided: Whether only norms above 1 are penalised.

    Returns:
        Loss ``[M]``, norms ``[M, B]``, gradients; without M for one critic.

    Raises:
        ValueError: If shapes or types do not fit, the rows are not three equal groups, or the penalty is negative.

    Complexity:
        4 L matrix products for leaky ReLU and ReLU, 6 L for other activations and with layer normalisation.

    References:
        Gulrajani et al. (2017), https://arxiv.org/abs/1704.00028, Algorithm 1, lines 7 and 9.

    Example:
        >>> from mdcm.kernels import critic_size, critic_views
        >>> critic = critic_views(torch.ones(critic_size([2, 3])), [2, 3])
        >>> step = critic_loss_and_grads(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.5, 0.0]]), critic)
        >>> [round(float(value), 3) for value in (step.loss, step.norm)]
        [108.147, 4.243]
    """
    stacked_x, critics, columns, stacked = check_step(x, params, penalty, columns)
    with torch.no_grad():
        step = (_straight_step if is_straight(critics) else _bent_step)(stacked_x, critics, penalty, columns, one_sided)
    return step if stacked else CriticStep(step.loss[0], step.norm[0], step.grads.map(lambda one: one[0]))


def values_of(x: Tensor, params: CriticParameters, *, gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Values of critics, and the gradient of each row's value in that row if it is asked for; as :func:`critic_values`.

    Returns:
        ``[M, R]`` and ``[M, R, D]``, or ``[R]`` and ``[R, D]``.
    """
    x, params, stacked = check_critics(x, params)
    with torch.no_grad():
        g = None
        if is_straight(params):
            slope = slope_of(params)
            hidden = [x]
            for weight, bias in zip(params.weights, params.biases, strict=True):
                hidden.append(lin_act(hidden[-1], weight, bias, slope))
            top = hidden[-1]
            if gradient:
                s = top_delta(top, params.out, x.new_ones(1, 1), slope)
                for place in range(len(params.weights) - 1, 0, -1):
                    s = delta(s, params.weights[place], hidden[place], slope)
                g = torch.bmm(s, params.weights[0])
        else:
            layers = _layers(x, params)
            top = layers[-1].value
            if gradient:
                _, deltas = _delta_pass(layers, params, params.out[:, None])
                g = torch.bmm(deltas[0], params.weights[0])
        value = torch.baddbmm(params.offset[:, None, None], top, params.out[..., None])[..., 0]
    return (value, g) if stacked else (value[0], None if g is None else g[0])


class CriticInputGrad(torch.autograd.Function):
    """Critic values with their gradient in the rows alone; called by :func:`critic_values`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, params: CriticParameters, form: Callable[..., tuple[Tensor, Tensor | None]]
    ) -> Tensor:
        """Values by a form of :func:`values_of`, and the gradient kept for the backward pass."""
        value, g = form(x, params, gradient=ctx.needs_input_grad[0])
        if g is not None:
            ctx.save_for_backward(g)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """The kept gradient, scaled by that of each value."""
        (g,) = ctx.saved_tensors
        return grad[..., None] * g, None, None


def critic_values(x: Tensor, params: CriticParameters) -> Tensor:
    """Values of critics, differentiable once in the rows; parameters count as constants, as in a generator's step.

    Args:
        x: Rows ``[M, R, D]``, or ``[R, D]`` for one critic.
        params: M critics, or one.

    Returns:
        ``[M, R]``, or ``[R]``.

    Raises:
        ValueError: If shapes or types do not fit.

    Example:
        >>> from mdcm.kernels import critic_size, critic_views
        >>> critic = critic_views(torch.ones(critic_size([2, 3])), [2, 3])
        >>> x = torch.tensor([[1.0, 0.0]], requires_grad=True)
        >>> critic_values(x, critic).sum().backward()
        >>> x.grad
        tensor([[3., 3.]])
    """
    value: Tensor = CriticInputGrad.apply(x, params, values_of)  # type: ignore[no-untyped-call]
    return value
