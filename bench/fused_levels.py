"""A whole training step of a level of small GANs: one by one in PyTorch's own modules, stacked, fused, and captured.

The stacked GANs are those of the tests, so that what is timed is what is tested. All sides take the same first steps
from the same weights and the same noise, and their losses are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from critic import double_backward, network_of
from torch import Tensor, nn
from turns import ON_GPU, Cell, Run, captured, form, under

__all__ = ["levels"]

# steps whose losses are compared
STEPS = 3
SIZES = (2, 3, 4, 3)


class OneByOne:
    """The GANs of ``test_triton_training.Training``, each by PyTorch's own modules and optimiser.

    Indices, shares and noise of every step are made beforehand: this side does not pay for them.
    """

    def __init__(self, level) -> None:
        self.level, self.taken = level, 0
        self.generators, self.critics, self.optimisers, self.numbers = [], [], [], []
        for module, flat in enumerate(level.flat_generators):
            weight, shift, last = flat.split(level.parts)
            hidden, width = len(shift), level.packing.width
            first, top = nn.Linear(4, hidden), nn.Linear(hidden, width, False)
            values = (weight.view(hidden, 4), shift, last.view(width, hidden))
            parameters = (first.weight, first.bias, top.weight)
            for parameter, value in zip(parameters, values, strict=True):
                parameter.data = value.clone()
            self.generators.append(nn.Sequential(first, nn.ReLU(), top))
            self.critics.append(network_of(level.critics.map(lambda one, m=module: one[m])))
            pair = (self.critics[-1], self.generators[-1])
            self.optimisers.append([torch.optim.Adam(one.parameters(), 1e-2, (0.5, 0.9), 1e-3) for one in pair])
        for _ in range(STEPS):
            level.number += 1
            self.numbers.append(level.numbers())

    def _draw(self, generator: nn.Module, latent: Tensor, noise: Tensor) -> Tensor:
        parts = []
        for logit, own in zip(generator(latent).split(SIZES, 1), noise.split(SIZES, 1), strict=True):
            soft = ((logit + own) / 0.7).softmax(-1)
            hard = F.one_hot(soft.argmax(-1), soft.shape[-1]).float()
            parts.append(hard - soft.detach() + soft)
        return torch.cat(parts, 1)

    def step(self) -> Tensor:
        """One step of every critic and every generator; the losses of the critics before it."""
        noises, drawn, shares = self.numbers[self.taken % STEPS]
        self.taken += 1
        losses = []
        for m, (generator, critic, (ours, theirs)) in enumerate(
            zip(self.generators, self.critics, self.optimisers, strict=True)
        ):
            latent = self.level.latent[m]
            with torch.no_grad():
                fake = self._draw(generator, latent, noises[m])
            real = self.level.real[drawn[m]]
            loss, *grads = double_backward(critic, torch.cat([fake, real, torch.lerp(fake, real, shares[m])]))
            for parameter, grad in zip(critic.parameters(), grads, strict=True):
                parameter.grad = grad
            ours.step()
            theirs.zero_grad()
            critic.requires_grad_(False)
            (-critic(self._draw(generator, latent, noises[m])).mean()).backward()
            critic.requires_grad_(True)
            theirs.step()
            losses.append(loss)
        return torch.stack(losses)


def _after(first: Tensor, run: Run) -> Run:
    """A run that returns the losses of the first steps once, to be compared, and then goes on."""
    kept = [first]
    return lambda: [kept.pop()] if kept else run()


def _level(modules: int) -> Cell:
    from test_triton_training import Training

    rows, hidden = (200, 256) if ON_GPU else (32, 32)

    def build():
        return Training(torch.float32, modules=modules, rows=rows, hidden=hidden, sizes=SIZES)

    def one_by_one() -> Run:
        side = OneByOne(build())
        return _after(torch.stack([side.step() for _ in range(STEPS)]), lambda: [side.step()])

    def stacked(kernel: str, replayed: bool) -> Run:
        with form(kernel):
            level = build()
            first = level.losses(STEPS)

        def step() -> Sequence[Tensor]:
            return [level.step()]

        return _after(first, (captured(step) if replayed else under(step, kernel))())

    sides = {"one by one": one_by_one, "twins, stacked": lambda: stacked("reference", False)}
    if ON_GPU:
        sides |= {"fused": lambda: stacked("triton", False), "fused, captured": lambda: stacked("triton", True)}
    words = f"{modules} GANs of {len(SIZES)} variables, batch {rows}, {hidden} units"
    return Cell("kernels-levels", words, "one by one", sides, 1e-3)


def levels() -> Iterator[Cell]:
    """Levels of more and more GANs."""
    for modules in (5, 20, 100, 500) if ON_GPU else (5, 20):
        yield _level(modules)
