"""What every mechanism is: a function from parents, confounder noise and own noise to a value."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mdcm.data import Variable
from mdcm.errors import MdcmError

__all__ = ["Mechanism", "check_depth", "check_finite", "edge_padding", "float_pixels"]

NoiseKind = Literal["gumbel", "normal", "none"]
_MOST_LAYERS = 1000


def float_pixels(value: Tensor) -> Tensor:
    """Pixels as mechanisms see them, float32 in [-1, 1], from uint8; any other tensor as it is."""
    return value.float() / 127.5 - 1.0 if value.dtype == torch.uint8 else value


def check_depth(**numbers: int) -> None:
    """Refuse more layers than anybody means: a description read from a file must not build modules without end.

    Raises:
        ValueError: If a number is above 1,000.
    """
    for name, number in numbers.items():
        if number > _MOST_LAYERS:
            raise ValueError(f"{name} must be at most {_MOST_LAYERS:,}, not {number:,}")


def edge_padding(sizes: Sequence[int], multiple: int) -> tuple[int, int, int, int]:
    """Pixels to add left, right, above and below, so that height and width are multiples of a number.

    Example:
        >>> edge_padding((28, 32), 8)
        (0, 0, 0, 4)
    """
    height, width = sizes
    return 0, -width % multiple, 0, -height % multiple


def check_finite(variable: Variable, numbers: Tensor, what: str = "values", *, impossible: bool = False) -> Tensor:
    """Numbers that the mechanism of a variable gave, if they are finite.

    Args:
        variable: The variable.
        numbers: ``n`` rows; whole numbers are always finite.
        what: What they are, for the message.
        impossible: Whether minus infinity, the log probability of what cannot be, is right.

    Returns:
        The same numbers.

    Raises:
        MdcmError: If one is not; an argmax would silently make level 0 of it.

    Example:
        >>> check_finite(Variable("Y", "continuous"), torch.tensor([0.5, -1.0])).tolist()
        [0.5, -1.0]
    """
    if not numbers.is_floating_point():
        return numbers
    if not numbers.numel():
        return numbers
    # a number that is none makes both ends such
    low, high = (float(end) for end in numbers.detach().aminmax())
    if not (high < math.inf if impossible else -math.inf < low and high < math.inf):
        raise MdcmError(
            f"the mechanism of {variable.name!r} gave {what} that are not finite; a value that is set or given may "
            "be far outside of what it was trained on, or its weights are damaged"
        )
    return numbers


class Mechanism(nn.Module, ABC):
    """The function ``v = f(parents, u, e)`` of one variable of a deep causal generative model.

    Values are tensors over rows: int64 codes ``[n]`` for a categorical variable, float32 ``[n]`` for a continuous
    one, float32 ``[n, c, h, w]`` in [-1, 1] for an image. A subclass implements :meth:`forward` and
    :meth:`conditional_loss`; with a tractable density it also implements :meth:`log_prob` and sets ``has_density``.

    Args:
        variable: The variable that this mechanism generates.
        parents: Its parents, in a fixed order.
        latents: Number of states of each latent confounder that points into the variable, in a fixed order.

    Attributes:
        noise_kind: Distribution of the mechanism's own noise.
        noise_size: Number of noise values per row.
        has_density: Whether :meth:`log_prob` is available.
        needs_critic: Whether there is no loss of its own, so that only adversarial training can fit it.
        encoders: Shapes of the encoders through which images among the parents are read, by name.

    References:
        Rahman & Kocaoglu (2024), Definition 4.1.

    Example:
        >>> import mdcm
        >>> class Line(Mechanism):
        ...     noise_size, has_density = 1, True
        ...     def __init__(self, variable, parents, latents=()):
        ...         super().__init__(variable, parents, latents)
        ...         self.slope = nn.Parameter(torch.zeros(()))
        ...     def forward(self, parents, latents, noise):
        ...         return self.slope * parents["X"] + noise[:, 0]
        ...     def log_prob(self, parents, latents, value):
        ...         return torch.distributions.Normal(self.slope * parents["X"], 1.0).log_prob(value)
        ...     def conditional_loss(self, parents, value, generator):
        ...         return -self.log_prob(parents, (), value)
        ...     def config(self):
        ...         return {"type": "Line"}
        >>> rows = {"X": [0, 1] * 50, "Y": [0.5, 1.0, 2.0, 3.5] * 25}
        >>> model = mdcm.fit("X -> Y", rows, mechanisms={"Y": Line}, config=mdcm.TrainConfig(max_steps=5))
        >>> len(model.draw_samples(10, do={"X": 1}))
        10
    """

    noise_kind: ClassVar[NoiseKind] = "normal"
    has_density: ClassVar[bool] = False
    needs_critic: ClassVar[bool] = False

    def __init__(self, variable: Variable, parents: Sequence[Variable], latents: Sequence[int] = ()) -> None:
        super().__init__()
        self.variable = variable
        self.parents = tuple(parents)
        self.latents = tuple(latents)
        self.encoders: dict[str, dict[str, int]] = {}

    @property
    @abstractmethod
    def noise_size(self) -> int:
        """Number of values of own noise per row."""

    @abstractmethod
    def forward(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
        """Generate the variable.

        Args:
            parents: Value of every parent by name, ``n`` rows each.
            latents: State of every latent confounder of the variable, int64 ``[n]`` each.
            noise: Own noise, float32 ``[n, noise_size]`` distributed as ``noise_kind`` says.

        Returns:
            Values of the variable, ``n`` rows.
        """

    @abstractmethod
    def conditional_loss(self, parents: Mapping[str, Tensor], value: Tensor, generator: torch.Generator) -> Tensor:
        """Loss per row, ``[n]``, minimal in expectation at P(variable | parents); for a variable without confounders.

        Args:
            parents: Value of every parent by name, ``n`` rows each.
            value: Observed values of the variable, ``n`` rows.
            generator: Source of the randomness that the loss needs, if any.
        """

    def log_prob(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor) -> Tensor:
        """Log density or log probability of ``value`` in nats, ``[n]``.

        Raises:
            TypeError: If the mechanism has no tractable density.
        """
        raise TypeError(f"the mechanism of {self.variable.name!r} ({type(self).__name__}) has no density")

    def log_table(self, parents: Mapping[str, Tensor], value: Tensor) -> Tensor:
        """Log density of ``value`` at every combination of confounder states, for sums over them.

        Args:
            parents: Value of every parent by name, ``n`` rows each.
            value: Observed values of the variable, ``n`` rows.

        Returns:
            ``[n, s_1, ..., s_d]`` in nats, one axis per confounder; ``[n]`` without any.

        Raises:
            TypeError: If the mechanism has no tractable density.
        """
        if not self.latents:
            return self.log_prob(parents, (), value)
        rows, combinations = len(value), math.prod(self.latents)
        states = torch.cartesian_prod(*(torch.arange(size, device=value.device) for size in self.latents))
        states = states.reshape(combinations, len(self.latents)).repeat(rows, 1)
        wide = {name: parent.repeat_interleave(combinations, 0) for name, parent in parents.items()}
        found = self.log_prob(wide, list(states.T), value.repeat_interleave(combinations, 0))
        return found.view(rows, *self.latents)

    def relaxed(
        self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor, temperature: float
    ) -> Tensor:
        """Generate the variable so that a loss can be differentiated through it.

        Categorical parents come as float ``[n, levels]``, of which one entry is 1, states of confounders likewise as
        ``[n, states]``, and a categorical variable is returned so (straight-through: the value is hard, its gradient
        that of the softmax). Everything else is as in :meth:`forward`, which is what this is unless a subclass says
        otherwise.

        Args:
            parents: Value of every parent by name, ``n`` rows each.
            latents: State of every latent confounder of the variable.
            noise: Own noise.
            temperature: Of the softmax, positive.
        """
        return self.forward(parents, latents, noise)

    def abduct(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor, fresh: Tensor) -> Tensor:
        """Own noise with which :meth:`forward` gives ``value``, drawn from its posterior.

        Args:
            parents: Value of every parent by name, ``n`` rows each.
            latents: State of every latent confounder of the variable.
            value: Observed values, ``n`` rows.
            fresh: Noise of the prior, ``[n, noise_size]``: the source of randomness where the posterior has any.

        Returns:
            Noise, ``[n, noise_size]``.

        Raises:
            TypeError: If the mechanism cannot be inverted.
        """
        raise TypeError(f"the mechanism of {self.variable.name!r} ({type(self).__name__}) cannot be inverted")

    @property
    def can_abduct(self) -> bool:
        """Whether :meth:`abduct` is available."""
        return type(self).abduct is not Mechanism.abduct

    def prepare(self, parents: Mapping[str, Tensor], value: Tensor) -> None:
        """Set what is measured on the training rows rather than learned, such as scales; called before training."""

    def decaying(self) -> list[nn.Parameter]:
        """Parameters that weight decay pulls towards zero while the variable is trained; all, unless said otherwise."""
        return list(self.parameters())

    def follow(self, confounder: int) -> bool:
        """Start as a variable that one of its confounders nearly determines.

        What two children share is found faster from there: the other one has only to be regressed on the states.

        Args:
            confounder: Place of the confounder among those of the variable.

        Returns:
            Whether the mechanism has such a start.
        """
        return False

    def state_weights(self) -> list[nn.Parameter]:
        """What each state of each confounder adds to the first layer, ``[s, hidden]`` each; none if that is no sum."""
        return []

    def training_defaults(self, rows: int) -> dict[str, Any]:
        """Optimiser settings that suit :meth:`conditional_loss` of this mechanism on so many rows, by name."""
        return {
            "steps": 1000,
            "batch_size": 256,
            "learning_rate": 3e-3,
            "weight_decay": 0.0,
            "betas": (0.9, 0.999),
            "ema": 0.99,
            "warmup": 30,
            # standard errors by which a look at held-out rows may be worse than the best one and still be as good
            "errors": 1 / 3,
        }

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Architecture as plain JSON values, enough to build the same mechanism again."""
