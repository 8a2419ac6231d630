"""Fused operations against every other way to compute the same thing: Gumbel races, critics and Adam.

On a GPU the fused forms are measured, eagerly and captured in a graph; on the CPU, where only Triton's interpreter has
them, the twins are, at smaller sizes. Training steps of whole levels are in fused_levels.py, ceilings in roofline.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from critic import PENALTY, double_backward, network_of
from fused_levels import levels
from roofline import roofline
from torch import Tensor
from turns import DEVICE, ON_GPU, Cell, Run, captured, compiled, form, timed_cells, under
from workloads import Measured

from mdcm import kernels
from mdcm.kernels.critic import reference

__all__ = ["FUSED"]

KERNEL = "triton" if ON_GPU else "reference"


# ---- races


def straight_through(logits: Tensor, noise: Tensor, tau: float = 0.5) -> Tensor:
    """Hard draws with the gradient of soft ones, as it is usually written."""
    soft = ((logits + noise) / tau).softmax(-1)
    hard = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return hard - soft.detach() + soft


def _race(n: int, size: int, rows: int) -> Cell:
    generator = torch.Generator(DEVICE).manual_seed(0)
    packing = kernels.Packing([size] * n, device=DEVICE)
    logits, upstream = torch.randn(2, rows, packing.width, generator=generator, device=DEVICE).unbind(0)
    logits = logits.clone().requires_grad_()
    noise = kernels.gumbel_noise(0, torch.arange(rows), 0, packing.width).to(DEVICE)

    def gradient(drawn: Tensor) -> Sequence[Tensor]:
        return drawn.detach(), *torch.autograd.grad(drawn, logits, upstream)

    def loop() -> Sequence[Tensor]:
        parts = []
        for one, own in zip(logits.split(size, 1), noise.split(size, 1), strict=True):
            parts.append(straight_through(one, own))
        return gradient(torch.cat(parts, 1))

    def packed() -> Sequence[Tensor]:
        shape = (rows, n, size)
        return gradient(straight_through(logits.view(shape), noise.view(shape)).flatten(1))

    def compiled_packed() -> Run:
        torch._dynamo.reset()
        draw = torch.compile(lambda: straight_through(logits.view(rows, n, size), noise.view(rows, n, size)).flatten(1))
        return lambda: gradient(draw())

    def ours() -> Sequence[Tensor]:
        return gradient(kernels.gumbel_softmax(logits, packing, 0.5, noise))

    sides = {"a loop over variables": lambda: loop, "packed": lambda: packed, "twin": under(ours, "reference")}
    if ON_GPU:
        sides |= {"fused": under(ours, "triton"), "fused, captured": captured(ours)}
        if rows == 8192 and n == 50:
            sides["packed, compiled"] = compiled_packed
    words = f"{n} variables of {size} levels, {rows:,} rows"
    return Cell("kernels-races", words, "a loop over variables", sides, 1e-5)


def _races() -> Iterator[Cell]:
    if not ON_GPU:
        yield from (_race(n, size, 200) for n, size in ((5, 4), (50, 4), (50, 16)))
        return
    for rows in (200, 8192, 65536):
        for n in (5, 50, 500):
            # a dozen tensors of a GiB at most
            yield from (_race(n, size, rows) for size in (2, 4, 16, 64) if n * size * rows <= 2**28)


# ---- critics


def _value(rows: Tensor, critics: kernels.CriticParameters) -> Tensor:
    for weight, bias in zip(critics.weights, critics.biases, strict=True):
        rows = F.leaky_relu(torch.baddbmm(bias[:, None], rows, weight.mT), critics.slope)
    return torch.baddbmm(critics.offset[:, None, None], rows, critics.out[..., None])[..., 0]


def _loss(x: Tensor, g: Tensor, critics: kernels.CriticParameters) -> Tensor:
    fake, real, _ = x.chunk(3, 1)
    penalty = PENALTY * (torch.linalg.vector_norm(g, dim=2) - 1).square().mean(1)
    return _value(fake, critics).mean(1) - _value(real, critics).mean(1) + penalty


def _critic(modules: int, rows: int, hidden: int, precision: str) -> Cell:
    widths, generator = [24, hidden, hidden], torch.Generator(DEVICE).manual_seed(0)
    critics = kernels.critic_views(torch.zeros(modules, kernels.critic_size(widths), device=DEVICE), widths)
    for tensor, fan in zip(critics.tensors(), [24, hidden, 24, hidden, hidden, hidden], strict=True):
        tensor.uniform_(-(fan**-0.5), fan**-0.5, generator=generator)
    fake, real = torch.randn(2, modules, rows, 24, generator=generator, device=DEVICE).unbind(0)
    x = torch.cat([fake, real, torch.lerp(fake, real, torch.rand(modules, rows, 1, device=DEVICE))], 1)
    between = x[:, 2 * rows :].clone().requires_grad_()
    few = modules * rows <= 2**16
    networks = [network_of(critics.map(lambda one, m=module: one[m])) for module in range(modules if few else 0)]
    leaves = critics.map(lambda one: one.clone().requires_grad_())

    def apart() -> Sequence[Tensor]:
        found = [double_backward(network, one) for network, one in zip(networks, x, strict=True)]
        loss, w1, b1, w2, b2, out, offset = (torch.stack(parts) for parts in zip(*found, strict=True))
        return [loss, w1, w2, b1, b2, out[:, 0], offset[:, 0]]

    def gradients(loss: Tensor) -> Sequence[Tensor]:
        return [loss.detach(), *torch.autograd.grad(loss.sum(), leaves.tensors())]

    def stacked() -> Sequence[Tensor]:
        (g,) = torch.autograd.grad(_value(between, leaves).sum(), between, create_graph=True)
        return gradients(_loss(x, g, leaves))

    def functional() -> Tensor:
        g = torch.func.grad(lambda points: _value(points, leaves).sum())(x[:, 2 * rows :])
        return _loss(x, g, leaves)

    def compiled_functional() -> Run:
        torch._dynamo.reset()
        loss = torch.compile(functional, fullgraph=True)

        def once() -> Sequence[Tensor]:
            with form("reference", precision):
                return gradients(loss())

        return once

    def ours() -> Sequence[Tensor]:
        step = kernels.critic_loss_and_grads(x, critics, penalty=PENALTY)
        return [step.loss, *step.grads.tensors()]

    def closed_form() -> Sequence[Tensor]:
        # not by the rule, which reads the environment: a compiler sees through the twin alone
        step = reference.critic_loss_and_grads(x, critics, penalty=PENALTY)
        return [step.loss, *step.grads.tensors()]

    sides = {
        "double backward, stacked": under(stacked, "reference", precision),
        "closed form": under(closed_form, "reference", precision),
    }
    if few:
        sides["double backward, one by one"] = under(apart, "reference", precision)
    # a compiler takes most of a minute for one shape
    if modules == 1 and rows in (32, 200, 8192):
        sides["closed form, compiled"] = compiled(closed_form, precision)
        sides["torch.func, compiled"] = compiled_functional
    if ON_GPU:
        sides |= {"fused": under(ours, "triton", precision), "fused, captured": captured(ours, precision)}
    baseline = "double backward, one by one" if few else "double backward, stacked"
    words = f"{precision}, {modules} of 2 x {hidden} units, 24 columns, batch {rows:,}"
    # in tf32 a mask flips where a pre-activation is small, and gradients of biases are sums that nearly cancel;
    # bfloat16 has an eighth of its places
    return Cell("kernels-critics", words, baseline, sides, {"tf32": 0.1, "bf16": 0.8}.get(precision, 1e-3))


def _critics() -> Iterator[Cell]:
    if not ON_GPU:
        yield from (_critic(modules, 32, 64, "ieee") for modules in (1, 50))
        return
    for precision in ("ieee", "tf32", "bf16"):
        # with few rows products take no time
        for rows in (200, 1024, 8192) if precision != "bf16" else (1024, 8192):
            # nine tensors of a GiB at most
            fitting = (modules for modules in (1, 5, 50, 500) if modules * rows * 3 * 256 <= 2**29)
            yield from (_critic(modules, rows, 256, precision) for modules in fitting)


# ---- Adam


# ten minutes for all of them
FUSED: dict[str, Callable[[], Iterator[Measured]]] = {
    "kernels-races": lambda: timed_cells(_races(), 120),
    "kernels-critics": lambda: timed_cells(_critics(), 220),
    "kernels-levels": lambda: timed_cells(levels(), 120),
    "kernels-roofline": roofline,
}
