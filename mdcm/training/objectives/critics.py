"""Wasserstein critics of several fits, padded to one width and stepped together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mdcm import kernels
from mdcm.training.optimizer import adamw_step

__all__ = ["Critics"]


@dataclass
class Critics:
    """One critic per fit, multilayer perceptrons with leaky ReLU, trained by Adam with a gradient penalty.

    Fits have different columns, so rows are padded with zeros to the widest one. A padded column's weights are zero and
    have no gradient, it changes no value and does not count in the penalty. All critics are then one stack, and a step
    of all of them is one call; those of several h-nodes are joined and parted again without a change.

    Args:
        generated: For every fit and column whether it is generated, bool ``[columns]``: the penalty is on the
            gradient in these columns alone, because the others are the same in real and generated rows.
        hidden: Units of each hidden layer.
        layers: Number of hidden layers, at least 1.
        betas: Decay of Adam's two means.
        penalty: Factor of the penalty (norm - 1)^2.
        one_sided: Whether only norms above 1 are penalised.
        generator: Source of the initial weights, which are zero without one.
        device: Where the critics lie.

    Attributes:
        active: Whether a critic is trained, bool ``[fits]``; one that is released keeps every bit.
        sound: Whether all steps of the critics that were trained were finite, bool without axes. After one that was
            not, steps change nothing.

    Raises:
        ValueError: If there is no fit, or a fit without a generated column.

    References:
        Gulrajani, Ahmed, Arjovsky, Dumoulin & Courville (2017), https://arxiv.org/abs/1704.00028. Batch normalisation
        is not offered: it would make the penalty that of another function (section 4 there).

    Example:
        >>> masks = [torch.tensor([True, True]), torch.tensor([False, True, True])]
        >>> critics = Critics(masks, hidden=8, layers=2, generator=torch.Generator().manual_seed(0))
        >>> fake, real = torch.zeros(2, 5, 3), torch.ones(2, 5, 3)
        >>> critics.step(fake, real, torch.rand(2, 5, 1), rate=1e-3).shape
        torch.Size([2])
    """

    generated: Sequence[Tensor]
    hidden: int = 64
    layers: int = 2
    betas: tuple[float, float] = (0.5, 0.9)
    penalty: float = 10.0
    one_sided: bool = False
    generator: torch.Generator | None = None
    device: torch.device | None = None
    columns: Tensor = field(init=False)
    flat: Tensor = field(init=False)
    first: Tensor = field(init=False)
    second: Tensor = field(init=False)
    count: Tensor = field(init=False)
    active: Tensor = field(init=False)
    sound: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if not self.generated or not all(bool(mask.any()) for mask in self.generated):
            raise ValueError("every critic needs at least one generated column")
        modules, width = len(self.generated), max(len(mask) for mask in self.generated)
        self.columns = torch.zeros(modules, width, device=self.device)
        for row, mask in zip(self.columns, self.generated, strict=True):
            row[: len(mask)] = mask.to(row)
        self._widths = [width] + [self.hidden] * self.layers
        size = kernels.critic_size(self._widths)
        self.flat, self.first, self.second, self._grads = torch.zeros(4, modules, size, device=self.device).unbind(0)
        self.count = torch.zeros(1, device=self.device)
        self.active = torch.ones(modules, dtype=torch.bool, device=self.device)
        self.sound = torch.ones((), dtype=torch.bool, device=self.device)
        self._parameters = kernels.critic_views(self.flat, self._widths)
        self._parts = kernels.critic_views(self._grads, self._widths).tensors()
        if self.generator is not None:
            self._draw(self.generator)

    def _draw(self, generator: torch.Generator) -> None:
        """Initial weights, each critic's own a function of its own width."""
        for module, mask in enumerate(self.generated):
            fans = [len(mask)] + [self.hidden] * self.layers
            weights = [one[module] for one in self._parameters.weights]
            weights[0] = weights[0][:, : len(mask)]
            biases = [one[module] for one in self._parameters.biases]
            ends = [self._parameters.out[module]]
            for fan, tensors in zip(fans, [*zip(weights, biases, strict=True), ends], strict=True):
                for tensor in tensors:
                    drawn = torch.rand(tensor.shape, generator=generator)
                    tensor.copy_((2 * drawn - 1) / fan**0.5)

    @property
    def width(self) -> int:
        """Columns of the widest fit, to which all rows are padded."""
        return self._widths[0]

    @torch.no_grad()
    def step(self, fake: Tensor, real: Tensor, share: Tensor, rate: float | Tensor) -> Tensor:
        """One step of Adam for every critic, without waiting for the device.

        Args:
            fake: Generated rows ``[fits, n, width]``.
            real: Real rows ``[fits, n, width]``.
            share: How much of the real row each point between has, ``[fits, n, 1]`` in [0, 1].
            rate: Learning rate, as a number or on the device.

        Returns:
            Loss before the step, ``[fits]``: mean D(fake) - mean D(real) + penalty; not a number where it or its
            gradient is not finite. If that is so for one that is trained, no critic is changed by this step or by a
            later one.
        """
        x = torch.cat([fake, real, torch.lerp(fake, real, share)], 1)
        found = kernels.critic_loss_and_grads(
            x, self._parameters, penalty=self.penalty, columns=self.columns, one_sided=self.one_sided
        )
        torch._foreach_copy_(self._parts, found.grads.tensors())
        loss: Tensor = found.loss
        # a loss can be finite where its gradient is not
        finite = (self._grads.sum(1) + loss).isfinite()
        self.sound.logical_and_((finite | ~self.active).all())
        self._grads.masked_fill_(~self.active[:, None], 0.0)
        moments = ([self.first], [self.second], self.count)
        adamw_step([self.flat], [self._grads], *moments, rate, self.betas, skip=1.0 - self.sound.float())
        return loss.masked_fill(~finite, torch.nan)

    def release(self, critic: int) -> None:
        """Train one critic no more."""
        self.active[critic] = False
        # without moments a step changes nothing where there is no gradient
        self.first[critic] = 0.0
        self.second[critic] = 0.0

    def values(self, fake: Tensor) -> Tensor:
        """Values of generated rows ``[fits, n, width]`` as ``[fits, n]``, differentiable in the rows alone."""
        values: Tensor = kernels.critic_values(fake, self._parameters)
        return values

    def state(self) -> dict[str, Tensor]:
        """Weights and optimiser state by name, copies."""
        return {name: getattr(self, name).clone() for name in ("flat", "first", "second", "count")}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        for name in ("flat", "first", "second", "count"):
            getattr(self, name).copy_(state[name])
        self.sound.fill_(True)

    # ---- critics of several h-nodes as one stack

    @classmethod
    def joined(cls, parts: Sequence[Critics]) -> Critics:
        """All critics of several stacks of equal layers in one, in their order, each with its weights and moments.

        All of them have taken equally many steps.
        """
        one = parts[0]
        masks = [mask for part in parts for mask in part.generated]
        found = cls(masks, one.hidden, one.layers, one.betas, one.penalty, one.one_sided, device=one.flat.device)
        found._exchange(parts, out=False)
        return found

    def part(self, parts: Sequence[Critics]) -> None:
        """Give weights and moments back to the stacks that were joined."""
        self._exchange(parts, out=True)

    def _exchange(self, parts: Sequence[Critics], *, out: bool) -> None:
        start = 0
        for part in parts:
            span = slice(start, start + len(part.generated))
            start = span.stop
            for name in ("flat", "first", "second"):
                ours = kernels.critic_views(getattr(self, name)[span], self._widths).tensors()
                theirs = kernels.critic_views(getattr(part, name), part._widths).tensors()
                narrow = [ours[0][..., : part.width], *ours[1:]]
                torch._foreach_copy_(theirs, narrow) if out else torch._foreach_copy_(narrow, theirs)
            part.count.copy_(self.count) if out else self.count.copy_(part.count)
