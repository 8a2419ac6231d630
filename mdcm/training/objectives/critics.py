"""Wasserstein critics of several fits, padded to a common width and stepped together."""

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
    """A critic per fit: multilayer perceptrons with leaky ReLU, trained by Adam with a gradient penalty.

    Rows are padded with zeros to the widest fit. The weights of padded columns are zero and have no gradient, so that
    these columns change no value and do not count in the penalty. All critics are then a single stack, stepped by a
    single call; stacks of several h-nodes can be joined and split again without a change.

    Args:
        generated: Mask of the generated columns of every fit, bool ``[columns]``: the penalty is on the gradient in
            these columns only, because the others are the same in real and generated rows.
        hidden: Units of each hidden layer.
        layers: Number of hidden layers, at least 1.
        betas: Decay of Adam's two means.
        penalty: Factor of the penalty (norm - 1)^2.
        one_sided: Whether only norms above 1 are penalised.
        generator: Source of the initial weights; if None, they are zero.
        device: Device of the critics.

    Attributes:
        active: Whether each critic is trained, bool ``[fits]``; the others keep their bits.
        sound: Whether all steps of trained critics were finite, a bool scalar; if not, further steps change nothing.

    Raises:
        ValueError: If there are no fits, or a fit has no generated column.

    References:
        Gulrajani, Ahmed, Arjovsky, Dumoulin & Courville (2017), https://arxiv.org/abs/1704.00028; section 4 there
        says why critics have no batch normalisation.

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
        """Draw initial weights, those of each critic for its own width."""
        for module, mask in enumerate(self.generated):
            fans = [len(mask)] + [self.hidden] * self.layers
            weights = [weight[module] for weight in self._parameters.weights]
            weights[0] = weights[0][:, : len(mask)]
            biases = [bias[module] for bias in self._parameters.biases]
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
        """Take a step of Adam for every critic, without waiting for the device.

        Args:
            fake: Generated rows ``[fits, n, width]``.
            real: Real rows ``[fits, n, width]``.
            share: Share of the real row in each interpolated row, ``[fits, n, 1]`` in [0, 1].
            rate: Learning rate, a number or a tensor on the device.

        Returns:
            Loss before the step, ``[fits]``: mean D(fake) - mean D(real) + penalty; NaN if it or its gradient is not
            finite. If that happens to a trained critic, this step and later steps change no critic.
        """
        x = torch.cat([fake, real, torch.lerp(fake, real, share)], 1)
        result = kernels.critic_loss_and_grads(
            x, self._parameters, penalty=self.penalty, columns=self.columns, one_sided=self.one_sided
        )
        torch._foreach_copy_(self._parts, result.grads.tensors())
        loss: Tensor = result.loss
        # a loss can be finite although its gradient is not
        finite = (self._grads.sum(1) + loss).isfinite()
        self.sound.logical_and_((finite | ~self.active).all())
        self._grads.masked_fill_(~self.active[:, None], 0.0)
        moments = ([self.first], [self.second], self.count)
        adamw_step([self.flat], [self._grads], *moments, rate, self.betas, skip=1.0 - self.sound.float())
        return loss.masked_fill(~finite, torch.nan)

    def release(self, critic: int) -> None:
        """Stop training a critic."""
        self.active[critic] = False
        # with zero moments and gradient a step changes nothing
        self.first[critic] = 0.0
        self.second[critic] = 0.0

    def values(self, fake: Tensor) -> Tensor:
        """Values of generated rows ``[fits, n, width]`` as ``[fits, n]``, differentiable in the rows only."""
        values: Tensor = kernels.critic_values(fake, self._parameters)
        return values

    def state(self) -> dict[str, Tensor]:
        """Weights and optimiser state by name, copies."""
        return {name: getattr(self, name).clone() for name in ("flat", "first", "second", "count")}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Restore a result of :meth:`state`."""
        for name in ("flat", "first", "second", "count"):
            getattr(self, name).copy_(state[name])
        self.sound.fill_(True)

    # ---- critics of several h-nodes as one stack

    @classmethod
    def joined(cls, parts: Sequence[Critics]) -> Critics:
        """Join stacks with equal settings, after equally many steps; weights and moments are copied."""
        masks = [mask for part in parts for mask in part.generated]
        like = parts[0]
        joined = cls(masks, like.hidden, like.layers, like.betas, like.penalty, like.one_sided, device=like.flat.device)
        joined._exchange(parts, out=False)
        return joined

    def split(self, parts: Sequence[Critics]) -> None:
        """Copy weights and moments back to the stacks that were joined."""
        self._exchange(parts, out=True)

    def _exchange(self, parts: Sequence[Critics], *, out: bool) -> None:
        """Copy weights and moments to the parts if ``out``, else from them."""
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
