"""The closed-form critic step, all modules at once, against differentiating twice, module by module.

The baseline is what a direct implementation runs: PyTorch's own layers, the gradient at the points between with its
graph kept, and a backward pass through the loss. Sizes are those of the fits: small critics at a small batch, where
the time goes into single operations, and a wide one, where it goes into matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from graphs import Compared
from torch import Tensor, nn
from workloads import NotEqualError

from mdcm import kernels

__all__ = ["CRITIC", "PENALTY", "double_backward", "network_of"]

COLUMNS = 24
PENALTY = 10.0
# rows, hidden units, modules: the largest ratio of times that is good enough
SIZES: dict[tuple[int, int, int], float] = {(32, 64, 1): 1 / 1.5, (32, 64, 50): 1 / 5, (200, 256, 1): 1.0}


def network_of(critic: kernels.CriticParameters) -> nn.Sequential:
    """One critic as PyTorch's own modules, on the device of its parameters."""
    layers: list[nn.Module] = []
    for weight in critic.weights:
        layers += [nn.Linear(weight.shape[1], weight.shape[0]), nn.LeakyReLU(critic.slope)]
    network = nn.Sequential(*layers, nn.Linear(len(critic.out), 1))
    state = [one for pair in zip(critic.weights, critic.biases, strict=True) for one in pair]
    for parameter, value in zip(network.parameters(), [*state, critic.out[None], critic.offset[None]], strict=True):
        parameter.data = value.clone()
    return network


def double_backward(network: nn.Sequential, x: Tensor) -> list[Tensor]:
    """Loss of one critic, and its gradient in every parameter, by differentiating twice."""
    fake, real, between = x.chunk(3)
    between = between.detach().requires_grad_()
    (g,) = torch.autograd.grad(network(between).sum(), between, create_graph=True)
    penalty = PENALTY * (g.norm(dim=1) - 1).square().mean()
    loss = network(fake).mean() - network(real).mean() + penalty
    return [loss.detach(), *torch.autograd.grad(loss, list(network.parameters()))]


def _ours(x: Tensor, critics: kernels.CriticParameters) -> list[Tensor]:
    step = kernels.critic_loss_and_grads(x, critics, penalty=PENALTY)
    layers = zip(step.grads.weights, step.grads.biases, strict=True)
    return [step.loss, *(one for layer in layers for one in layer), step.grads.out, step.grads.offset]


def _equal(ours: Sequence[Tensor], baseline: Sequence[Tensor]) -> None:
    # float32: a pre-activation that rounds to the other side of zero changes one term of a sum, so errors are taken by
    # the norm; the last gradient is zero exactly on one side and by cancellation on the other
    for place, (a, b) in enumerate(zip(ours[:-1], baseline[:-1], strict=True)):
        error = float((a - b).norm() / b.norm())
        if not error < 1e-4:
            raise NotEqualError(f"result {place} differs by {error:.3g} of its norm")
    if not float((ours[-1] - baseline[-1]).abs().max()) < 1e-6:
        raise NotEqualError("the gradient of the offset does not vanish on both sides")


def _compared(rows: int, hidden: int, modules: int, bar: float, seed: int) -> Compared:
    generator = torch.Generator().manual_seed(seed)
    widths = [COLUMNS, hidden, hidden]
    critics = kernels.critic_views(torch.zeros(modules, kernels.critic_size(widths)), widths)
    for tensor, fan_in in zip(critics.tensors(), [COLUMNS, hidden, COLUMNS, hidden, hidden, hidden], strict=True):
        tensor.copy_((2 * torch.rand(tensor.shape, generator=generator) - 1) / fan_in**0.5)
    fake, real = torch.randn(2, modules, rows, COLUMNS, generator=generator)
    between = torch.lerp(fake, real, torch.rand(modules, rows, 1, generator=generator))
    x = torch.cat([fake, real, between], 1)
    networks = [network_of(critics.map(lambda one, m=module: one[m])) for module in range(modules)]

    def apart() -> list[list[Tensor]]:
        return [double_backward(network, one) for network, one in zip(networks, x, strict=True)]

    def fault() -> None:
        found = zip(_ours(x, critics), zip(*apart(), strict=True), strict=True)
        _equal(*zip(*((one.flatten(), torch.stack(parts).flatten()) for one, parts in found), strict=True))

    size = f"{modules} of 2 x {hidden} units, {COLUMNS} columns, batch {rows}; double backward one by one"
    return Compared("critic", size, seed, bar, lambda: _ours(x, critics), apart, fault)


def _critics() -> Iterator[Compared]:
    for size, bar in SIZES.items():
        yield _compared(*size, bar, seed=0)


CRITIC = {"critic": _critics}
