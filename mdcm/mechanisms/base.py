"""Base class of mechanisms: functions from parents, confounder states and exogenous noise to a value."""

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
_MAX_LAYERS = 1000


def float_pixels(value: Tensor) -> Tensor:
    """Convert uint8 pixels to float32 in [-1, 1]; return any other tensor unchanged."""
    return value.float() / 127.5 - 1.0 if value.dtype == torch.uint8 else value


def check_depth(**depths: int) -> None:
    """Reject implausible depths, so that a configuration from a file cannot build an unbounded number of modules.

    Raises:
        ValueError: If a depth is above 1,000.
    """
    for name, depth in depths.items():
        if depth > _MAX_LAYERS:
            raise ValueError(f"{name} must be at most {_MAX_LAYERS:,}, not {depth:,}")


def edge_padding(sizes: Sequence[int], multiple: int) -> tuple[int, int, int, int]:
    """Padding (left, right, top, bottom) that makes height and width multiples of a number.

    Example:
        >>> edge_padding((28, 32), 8)
        (0, 0, 0, 4)
    """
    height, width = sizes
    return 0, -width % multiple, 0, -height % multiple


def check_finite(variable: Variable, numbers: Tensor, what: str = "values", *, impossible: bool = False) -> Tensor:
    """Return the output of a variable's mechanism if all of it is finite.

    Args:
        variable: The variable.
        numbers: Output, ``n`` rows of any dtype.
        what: Description of the output for the error message.
        impossible: Whether to accept minus infinity, the log probability of an impossible value.

    Returns:
        The same tensor.

    Raises:
        MdcmError: If a number is not finite; an argmax would silently turn it into level 0.

    Example:
        >>> check_finite(Variable("Y", "continuous"), torch.tensor([0.5, -1.0])).tolist()
        [0.5, -1.0]
    """
    if not numbers.is_floating_point() or not numbers.numel():
        return numbers
    # aminmax propagates NaN to both ends
    low, high = (float(end) for end in numbers.detach().aminmax())
    if not (high < math.inf if impossible else -math.inf < low and high < math.inf):
        raise MdcmError(
            f"the mechanism of {variable.name!r} gave {what} that are not finite; an intervened or observed value may "
            "be far outside the training data, or the weights are damaged"
        )
    return numbers


class Mechanism(nn.Module, ABC):
    """The function ``v = f(parents, u, e)`` of a variable of a deep causal generative model.

    Values are tensors over rows: int64 codes ``[n]`` for a categorical variable, float32 ``[n]`` for a continuous
    variable, float32 ``[n, c, h, w]`` in [-1, 1] for an image. A subclass implements :meth:`forward` and
    :meth:`conditional_loss`; with a tractable density it also implements :meth:`log_prob` and sets ``has_density``.

    Args:
        variable: The variable that this mechanism generates.
        parents: Its parents, in a fixed order.
        latents: Number of states of each latent confounder that points into the variable, in a fixed order.

    Attributes:
        noise_kind: Distribution of the exogenous noise.
        noise_size: Number of noise values per row.
        has_density: Whether :meth:`log_prob` is available.
        needs_critic: Whether :meth:`conditional_loss` is unavailable, so that only adversarial training can fit it.
        encoders: Configurations of the encoders that read image parents, by parent.

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
        """Number of noise values per row."""

    @abstractmethod
    def forward(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
        """Generate the variable.

        Args:
            parents: Value of every parent by name, ``n`` rows each.
            latents: State of every latent confounder of the variable, int64 ``[n]`` each.
            noise: Exogenous noise, float32 ``[n, noise_size]`` with the distribution ``noise_kind``.

        Returns:
            Values of the variable, ``n`` rows.
        """

    @abstractmethod
    def conditional_loss(self, parents: Mapping[str, Tensor], value: Tensor, generator: torch.Generator) -> Tensor:
        """Loss per row, ``[n]``, minimal in expectation at P(variable | parents), for a variable without confounders.

        Args:
            parents: Value of every parent by name, ``n`` rows each.
            value: Observed values of the variable, ``n`` rows.
            generator: Random number generator, for losses that are random.
        """

    def log_prob(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor) -> Tensor:
        """Log density or log probability of ``value`` in nats, ``[n]``.

        Raises:
            TypeError: If the mechanism has no tractable density.
        """
        raise TypeError(f"the mechanism of {self.variable.name!r} ({type(self).__name__}) has no density")

    def log_table(self, parents: Mapping[str, Tensor], value: Tensor) -> Tensor:
        """Log density of ``value`` at every combination of confounder states.

        Args:
            parents: Value of every parent by name, ``n`` rows each.
            value: Observed values of the variable, ``n`` rows.

        Returns:
            ``[n, s_1, ..., s_d]`` in nats for d confounders; ``[n]`` without confounders.

        Raises:
            TypeError: If the mechanism has no tractable density.
        """
        if not self.latents:
            return self.log_prob(parents, (), value)
        rows, combinations = len(value), math.prod(self.latents)
        states = torch.cartesian_prod(*(torch.arange(size, device=value.device) for size in self.latents))
        states = states.reshape(combinations, len(self.latents)).repeat(rows, 1)
        repeated = {name: parent.repeat_interleave(combinations, 0) for name, parent in parents.items()}
        log_prob = self.log_prob(repeated, list(states.T), value.repeat_interleave(combinations, 0))
        return log_prob.view(rows, *self.latents)

    def relaxed(
        self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor, temperature: float
    ) -> Tensor:
        """Generate the variable differentiably.

        Categorical parents are one-hot floats ``[n, levels]``, confounder states one-hot floats ``[n, states]``, and a
        categorical variable is returned one-hot (straight-through: a hard value with the gradient of the softmax).
        Otherwise as :meth:`forward`, which is the default implementation.

        Args:
            parents: Value of every parent by name, ``n`` rows each.
            latents: State of every latent confounder of the variable.
            noise: Exogenous noise, float32 ``[n, noise_size]``.
            temperature: Temperature of the softmax, positive.
        """
        return self.forward(parents, latents, noise)

    def abduct(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor, fresh: Tensor) -> Tensor:
        """Draw noise from its posterior given ``value``, so that :meth:`forward` returns ``value`` for it.

        Args:
            parents: Value of every parent by name, ``n`` rows each.
            latents: State of every latent confounder of the variable.
            value: Observed values, ``n`` rows.
            fresh: Noise from the prior, ``[n, noise_size]``, the source of randomness.

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
        """Set quantities that are measured on the training rows, such as scales; called before training."""

    def decaying(self) -> list[nn.Parameter]:
        """Parameters subject to weight decay; all of them by default."""
        return list(self.parameters())

    def follow(self, confounder: int) -> bool:
        """Initialise the variable to be nearly determined by one of its confounders.

        The dependence between two children is learned faster from there: the other child is regressed on the states.

        Args:
            confounder: Position of the confounder in ``latents``.

        Returns:
            Whether the mechanism supports this initialisation.
        """
        return False

    def state_weights(self) -> list[nn.Parameter]:
        """Embedding of the states of each confounder in the first layer, ``[s, hidden]`` each; empty by default."""
        return []

    def training_defaults(self, rows: int) -> dict[str, Any]:
        """Default optimiser settings for training on this number of rows, by name."""
        return {
            "steps": 1000,
            "batch_size": 256,
            "learning_rate": 3e-3,
            "weight_decay": 0.0,
            "betas": (0.9, 0.999),
            "ema": 0.99,
            "warmup": 30,
            # standard errors within which a validation loss counts as equal to the best
            "errors": 1 / 3,
        }

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Architecture as plain JSON values, sufficient to rebuild the mechanism."""
