"""Mechanism of a real number or a vector: a conditional neural spline flow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdcm.data import Variable
from mdcm.errors import PlanError
from mdcm.mechanisms.base import Mechanism, NoiseKind, check_depth
from mdcm.mechanisms.inputs import Context, normal_quantiles
from mdcm.mechanisms.regression import least_squares, mean_and_spread

__all__ = ["Flow"]

# longest vector whose entries are generated in sequence; a longer vector is transformed in two halves, several times
_MAX_PASSES = 16
# factor on the initial weights of the last layers: nearly the identity, but with a gradient to every layer
_INITIAL_SCALE = 0.1
# smallest scale of a transformation, zuko's default
_MIN_SCALE = 1e-3
# batch size as a fraction of the rows, and its bounds: weight decay then removes what does not exceed the sampling
# error of such a batch, which shrinks with that of all rows
_SHARE, _MIN_BATCH, _MAX_BATCH = 1 / 32, 128, 2048
# bounds on the residual standard deviation of the initial regression, lest the fit start too sharp
_RESIDUAL = (0.02, 1.0)
# relative singular value below which a direction of the context is not used by the linear part
_CUTOFF = 1e-3


class _Conditioner(nn.Module):
    """Masked network from the context and the preceding entries to the parameters of each entry's transformation.

    Entries are divided into groups, and a hidden unit of degree k sees the groups before k: the parameters of an entry
    in group g read units of degree at most g, and so only entries of earlier groups. Every unit sees the context.
    """

    def __init__(self, size: int, groups: int, *, hidden: int, layers: int, numbers: int, descending: bool) -> None:
        super().__init__()
        self.size, self.groups, self.numbers = size, groups, numbers
        group = torch.arange(size) * groups // size
        if descending:
            group = groups - 1 - group
        # a scalar has no preceding entries, so the last layer suffices
        self.masked = nn.ModuleList()
        degree = torch.arange(hidden) % groups
        inputs, seen = size, group[None, :] < degree[:, None]
        for _ in range(layers if groups > 1 else 0):
            self.masked.append(_Masked(inputs, hidden, seen))
            inputs, seen = hidden, degree[None, :] <= degree[:, None]
        self.steer = nn.ModuleList(nn.Linear(hidden, hidden) for _ in self.masked)
        self.last = _Masked(hidden, size * numbers, (degree[None, :] <= group[:, None]).repeat_interleave(numbers, 0))
        with torch.no_grad():
            self.last.weight.mul_(_INITIAL_SCALE)
            self.last.bias.zero_()

    def forward(self, context: Tensor, entries: Tensor) -> Tensor:
        """Parameters ``[..., size, numbers]`` given context ``[..., hidden]`` and entries ``[..., size]``."""
        state = entries
        for layer, steer in zip(self.masked, self.steer, strict=True):
            state = F.silu(layer(state) + steer(context))
        numbers: Tensor = self.last(state if len(self.masked) else context).unflatten(-1, (self.size, self.numbers))
        return numbers


class _Masked(nn.Module):
    """Linear layer with a fixed mask on its weights."""

    def __init__(self, inputs: int, outputs: int, seen: Tensor) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(outputs))
        # determined by the sizes, so not saved
        self.register_buffer("seen", seen, persistent=False)
        self.seen: Tensor

    def forward(self, value: Tensor) -> Tensor:
        return F.linear(value, self.weight * self.seen, self.bias)


def _raw_scale(factor: float) -> float:
    """Parameter with which zuko's affine transformation, which bounds the log scale smoothly, scales by a factor."""
    log_scale = math.log(factor)
    return log_scale / (1 - abs(log_scale / math.log(_MIN_SCALE)))


class Flow(Mechanism):
    """``v = T^-1(e; parents, u)`` with normal noise e and a monotone transformation T: a conditional spline flow.

    T shifts and scales each entry and applies a rational-quadratic spline on [-5, 5], linear beyond it; a network
    computes the parameters from the parents and the confounders' states. The shift also has a term that is linear in
    the parents. For a vector, T is autoregressive: it depends on the preceding entries, and each further
    transformation reverses the order. Density and inverse are exact. Given the states of finite confounders the
    distribution is a flow, so summed over them it is a mixture of flows. The embedding of the states is initialised on
    a line, at the quantiles of a normal distribution.

    Args:
        variable: A real variable: values are floats ``[n]``, or ``[n, size]`` of a vector.
        parents: Its parents.
        latents: Number of states of each of its confounders.
        hidden: Width of the network.
        layers: Number of hidden layers, at least 1.
        bins: Bins of each spline, at least 2.
        transforms: Number of composed transformations; by default 1 for a number, which can represent any continuous
            distribution, and 3 for a vector.

    Raises:
        PlanError: If the variable is not a real number or a vector.
        ValueError: If a size is out of range.

    Complexity:
        A density takes one evaluation of the network per transformation, a draw of a vector ``size`` evaluations, or 2
        if it has more than 16 entries.

    References:
        Durkan, Bekasov, Murray & Papamakarios (2019), "Neural spline flows", https://arxiv.org/abs/1906.04032;
        Germain et al. (2015), https://arxiv.org/abs/1502.03509 (masks). The transformations are those of zuko.

    Example:
        >>> weight = Variable("weight", "continuous", mean=70.0, scale=10.0)
        >>> flow = Flow(weight, [Variable("smokes", "categorical", levels=("no", "yes"))])
        >>> parents = {"smokes": torch.tensor([0, 1, 1])}
        >>> value = flow(parents, (), torch.tensor([[-1.0], [0.5], [2.0]]))
        >>> flow.abduct(parents, (), value, torch.zeros(3, 1)).round(decimals=4).squeeze(1).tolist()
        [-1.0, 0.5, 2.0]
        >>> flow.log_prob(parents, (), value).shape
        torch.Size([3])
    """

    noise_kind: ClassVar[NoiseKind] = "normal"
    has_density: ClassVar[bool] = True

    def __init__(
        self,
        variable: Variable,
        parents: Sequence[Variable],
        latents: Sequence[int] = (),
        *,
        hidden: int = 64,
        layers: int = 2,
        bins: int = 8,
        transforms: int | None = None,
    ) -> None:
        super().__init__(variable, parents, latents)
        if variable.kind not in ("continuous", "implicit"):
            raise PlanError(f"{variable.name!r} is {variable.kind}, and a flow generates real numbers only")
        self.size = variable.size or 1
        transforms = (1 if self.size == 1 else 3) if transforms is None else transforms
        if min(hidden, layers, transforms) < 1 or bins < 2:
            raise ValueError(
                f"hidden, layers and transforms must be at least 1 and bins at least 2, not {hidden}, {layers}, "
                f"{transforms} and {bins}"
            )
        check_depth(layers=layers, transforms=transforms)
        self.hidden, self.layers, self.bins, self.transforms = hidden, layers, bins, transforms
        self.passes = self.size if self.size <= _MAX_PASSES else 2
        self.context = Context(self.parents, self.latents, hidden, ordered=True)
        self.inner = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        # a linear shift can be learned from few rows
        self.line = nn.Linear(hidden, self.size, bias=False)
        with torch.no_grad():
            self.line.weight.mul_(_INITIAL_SCALE)
        self.conditioners = nn.ModuleList(
            _Conditioner(
                self.size, self.passes, hidden=hidden, layers=layers, numbers=3 * bins + 1, descending=bool(index % 2)
            )
            for index in range(transforms)
        )
        self.register_buffer("center", torch.zeros(self.size))
        self.register_buffer("spread", torch.ones(self.size))
        self.center: Tensor
        self.spread: Tensor

    @property
    def noise_size(self) -> int:
        """Number of entries."""
        return self.size

    @property
    def _first_bias(self) -> Tensor:
        """Bias of the parameters of the first transformation, ``[size, numbers]``: shift, scale, spline."""
        first = self.conditioners[0]
        assert isinstance(first, _Conditioner)
        return first.last.bias.view(self.size, -1)

    def training_defaults(self, rows: int) -> dict[str, Any]:
        """Default optimiser settings for training on this number of rows, by name."""
        return super().training_defaults(rows) | {
            # a number without inputs has only a spline to learn
            "steps": 1600 if self.parents or self.latents or self.size > 1 else 400,
            "batch_size": min(max(round(rows * _SHARE), _MIN_BATCH), _MAX_BATCH),
            "learning_rate": 2e-3,
            "weight_decay": 0.7,
            # weight decay prevents overfitting, and a few hundred held-out rows are noisier than the training rows
            "errors": 2.0,
        }

    def decaying(self) -> list[nn.Parameter]:
        """Weights apart from the linear part and the biases: decay shrinks the flow to a linear Gaussian model."""
        return [weight for weight in self.parameters() if weight.dim() > 1 and weight is not self.line.weight]

    def state_weights(self) -> list[nn.Parameter]:
        """Embedding of the states of each confounder in the first layer, ``[s, hidden]`` each."""
        return list(self.context.states)

    def follow(self, confounder: int) -> bool:
        """Initialise a number to be nearly determined by one of its confounders; see the base class."""
        if self.size > 1:
            return False
        states = self.latents[confounder]
        # the residual shrinks with the distance between states, and the total variance is 1
        residual = (1 + states) ** -0.5
        quantiles = normal_quantiles(states)
        stretch = math.sqrt((1 - residual**2) / float(quantiles.square().mean()))
        with torch.no_grad():
            direction = self.context.states[confounder][-1] / quantiles[-1]
            self.line.weight[0] = -stretch / residual * direction / direction.square().sum()
            self._first_bias[0, 1] = _raw_scale(1 / residual)
        return True

    def prepare(self, parents: Mapping[str, Tensor], value: Tensor) -> None:
        """Measure mean and spread, and initialise at the linear regression on the parents unless confounded."""
        self.context.prepare(parents)
        rows = value.view(len(value), self.size)
        for buffer, measured in zip((self.center, self.spread), mean_and_spread(rows), strict=True):
            buffer.copy_(measured)
        if not self.latents and not any(parent.kind == "image" for parent in self.parents):
            self._regress(parents, (rows - self.center) / self.spread)

    @torch.no_grad()
    def _regress(self, parents: Mapping[str, Tensor], entries: Tensor) -> None:
        features = torch.cat([torch.ones(len(entries), 1), *self.context.features(parents)], 1).double()
        # a ridge with the weight of a single row, for unseen levels and collinear parents
        slopes = least_squares(features, entries, ridge=1.0)
        # not a matrix product, because a library's summation order may depend on memory alignment
        residuals = entries.double().clone()
        for feature, slope in zip(features.T, slopes, strict=True):
            residuals -= feature[:, None] * slope
        spread = residuals.std(0, correction=min(1, len(entries) - 1)).clamp(*_RESIDUAL)
        target = -slopes / spread
        weights = self.context.weights()
        if len(weights):
            # with more features than units the system is nearly singular; the cutoff prevents huge weights
            self.line.weight.copy_(least_squares(weights, target[1:], cutoff=_CUTOFF).T)
        self._first_bias[:, 0] = target[0].float()
        self._first_bias[:, 1] = torch.tensor([_raw_scale(1 / float(value)) for value in spread])

    @torch.no_grad()
    def start_linear(self, slopes: Tensor, loadings: Tensor, spread: float) -> None:
        """Initialise at a linear Gaussian model of a number with normal confounders.

        The standardised number is about ``slopes[0] + slopes[1:] @ features + loadings @ u + spread * e``.

        Args:
            slopes: Intercept and coefficients of the features of the first layer, ``[1 + f]``.
            loadings: Coefficient of every confounder, ``[d]``; each has a single row of weights in the first layer.
            spread: Residual standard deviation.
        """
        target = -torch.cat([slopes[1:], loadings]) / spread
        weights = torch.cat([self.context.weights(), *self.context.states])
        if len(weights):
            self.line.weight.copy_(least_squares(weights, target[:, None], cutoff=_CUTOFF).T)
        self._first_bias[0, 0] = float(-slopes[0] / spread)
        self._first_bias[0, 1] = _raw_scale(1 / spread)

    def _conditional_spline(self, conditioner: nn.Module, state: Tensor, line: Tensor | None, entries: Tensor) -> Any:
        from zuko.transforms import (
            ComposedTransform,
            DependentTransform,
            MonotonicAffineTransform,
            MonotonicRQSTransform,
        )

        numbers = conditioner(state, entries.to(state.dtype)).to(entries.dtype)
        shift, scale, widths, heights, slopes = numbers.split([1, 1, self.bins, self.bins, self.bins - 1], dim=-1)
        shift = shift.squeeze(-1) if line is None else shift.squeeze(-1) + line
        affine = MonotonicAffineTransform(shift, scale.squeeze(-1), slope=_MIN_SCALE)
        return DependentTransform(ComposedTransform(affine, MonotonicRQSTransform(widths, heights, slopes)), 1)

    def _transformation(self, context: Tensor) -> Any:
        """Transformation of standardised entries to noise, given the context of each row."""
        from zuko.transforms import AutoregressiveTransform, ComposedTransform

        state = F.silu(context)
        for layer in self.inner:
            state = F.silu(layer(state))
        # only the first transformation of the value has the linear part
        lines = [self.line(context), *[None] * (self.transforms - 1)]
        return ComposedTransform(
            *(
                AutoregressiveTransform(partial(self._conditional_spline, conditioner, state, line), passes=self.passes)
                for conditioner, line in zip(self.conditioners, lines, strict=True)
            )
        )

    def forward(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
        """Values ``[n]``, or ``[n, size]`` of a vector; see the base class."""
        context = self.context(parents, latents, len(noise))
        # in double precision, so that abducted noise reproduces its value
        entries = self._transformation(context).inv(noise.double())
        value: Tensor = (entries * self.spread + self.center).to(noise.dtype)
        return value.squeeze(-1) if self.variable.size is None else value

    def abduct(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor, fresh: Tensor) -> Tensor:
        """Noise of each row, ``[n, size]``, by the exact inverse, without randomness; see the base class."""
        context = self.context(parents, latents, len(value))
        entries = (value.view(len(value), self.size).double() - self.center) / self.spread
        noise: Tensor = self._transformation(context)(entries)
        return noise.to(value.dtype)

    def _log_density(self, context: Tensor, value: Tensor) -> Tensor:
        entries = (value.view(len(value), self.size) - self.center) / self.spread
        entries = entries.view(len(value), *(1,) * (context.ndim - 2), self.size)
        noise, stretch = self._transformation(context).call_and_ladj(entries.expand(*context.shape[:-1], self.size))
        normal = -0.5 * noise.square().sum(-1) - 0.5 * self.size * math.log(2 * math.pi)
        log_density: Tensor = normal + stretch - self.spread.log().sum()
        return log_density

    def log_prob(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor) -> Tensor:
        """Log density of the standardised value in nats, ``[n]``."""
        return self._log_density(self.context(parents, latents, len(value)), value)

    def log_table(self, parents: Mapping[str, Tensor], value: Tensor) -> Tensor:
        """Log density at every combination of confounder states, evaluating the parents once; see the base class."""
        return self._log_density(self.context.over_states(parents, len(value)), value)

    def conditional_loss(self, parents: Mapping[str, Tensor], value: Tensor, generator: torch.Generator) -> Tensor:
        """Negative log density of each row, ``[n]``; see the base class."""
        return -self.log_prob(parents, (), value)

    def config(self) -> dict[str, Any]:
        """Architecture as plain JSON values."""
        return {
            "type": "flow",
            "hidden": self.hidden,
            "layers": self.layers,
            "bins": self.bins,
            "transforms": self.transforms,
        }
