"""Mechanism of a real number or a vector: a conditional spline flow between its value and normal noise."""

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
from mdcm.mechanisms.inputs import Context, normal_places
from mdcm.mechanisms.regression import least_squares, mean_and_spread

__all__ = ["Flow"]

# entries of a vector that are generated one after another; a longer vector goes in two halves, several times
_MOST_PASSES = 16
# size of what the outermost layers add at first: the flow is nearly the identity, yet no layer is cut off
_SLIGHT = 0.1
# least factor by which a transformation scales, as zuko has it
_LEAST_SCALE = 1e-3
# a step sees this share of the rows, between so few and so many: decay then takes away what does not stand out from the
# chance of a sample of that share, which shrinks with the chance in all rows
_SHARE, _FEWEST, _MOST = 1 / 32, 128, 2048
# what a regression may leave of a standard deviation: less is more than a fit should begin with
_LEFT = (0.02, 1.0)
# directions of the context that are shorter than this share of the longest carry no part of the line
_CUTOFF = 1e-3


class _Conditioner(nn.Module):
    """Parameters of one entry's transformation from the context and the entries before it.

    Entries come in groups, and hidden unit k sees the groups before its degree: an entry of group g reads the units of
    degree at most g, and so only entries of groups before its own. The context reaches every unit.
    """

    def __init__(self, size: int, groups: int, *, hidden: int, layers: int, numbers: int, descending: bool) -> None:
        super().__init__()
        self.size, self.groups, self.numbers = size, groups, numbers
        group = torch.arange(size) * groups // size
        if descending:
            group = groups - 1 - group
        # a scalar has nothing before it, and needs no layer of its own but the last
        self.masked = nn.ModuleList()
        degree = torch.arange(hidden) % groups
        below, seen = size, group[None, :] < degree[:, None]
        for _ in range(layers if groups > 1 else 0):
            self.masked.append(_Masked(below, hidden, seen))
            below, seen = hidden, degree[None, :] <= degree[:, None]
        self.steer = nn.ModuleList(nn.Linear(hidden, hidden) for _ in self.masked)
        self.last = _Masked(hidden, size * numbers, (degree[None, :] <= group[:, None]).repeat_interleave(numbers, 0))
        with torch.no_grad():
            self.last.weight.mul_(_SLIGHT)
            self.last.bias.zero_()

    def forward(self, context: Tensor, entries: Tensor) -> Tensor:
        """Numbers ``[..., size, numbers]`` from context ``[..., hidden]`` and entries ``[..., size]``."""
        state = entries
        for layer, steer in zip(self.masked, self.steer, strict=True):
            state = F.silu(layer(state) + steer(context))
        numbers: Tensor = self.last(state if len(self.masked) else context).unflatten(-1, (self.size, self.numbers))
        return numbers


class _Masked(nn.Module):
    """Linear layer some of whose weights are held at zero."""

    def __init__(self, inputs: int, outputs: int, seen: Tensor) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(outputs))
        # a function of the sizes, so not worth a place in a file
        self.register_buffer("seen", seen, persistent=False)
        self.seen: Tensor

    def forward(self, value: Tensor) -> Tensor:
        return F.linear(value, self.weight * self.seen, self.bias)


def _raw_scale(factor: float) -> float:
    """What a transformation must be told to scale by a factor: it limits the logarithm smoothly."""
    wanted = math.log(factor)
    return wanted / (1 - abs(wanted / math.log(_LEAST_SCALE)))


class Flow(Mechanism):
    """``v = T^-1(e; parents, u)`` with normal noise e and a monotone transformation T: a conditional spline flow.

    T shifts and scales each entry and bends it by a rational-quadratic spline on [-5, 5], all by numbers that a network
    reads off the parents and the confounders' states; beyond the spline it is linear. The shift also has a share that
    is linear in the parents. Entries of a vector follow each other: T of one also depends on those before it, and each
    further transformation reverses the order. The density is exact, as is the inverse; given the states of finite
    confounders it is that of a flow, so that summed over them the variable has a mixture of flows. States start out in
    a row, as quantiles of a normal number.

    Args:
        variable: A real variable: values are floats ``[n]``, or ``[n, size]`` of a vector.
        parents: Its parents.
        latents: Number of states of each of its confounders.
        hidden: Width of the network.
        layers: Hidden layers between the parents and the numbers, at least 1.
        bins: Pieces of each spline, at least 2.
        transforms: Transformations in a row; by default 1 for a number, which is enough for any distribution with
            one, and 3 for a vector.

    Raises:
        PlanError: If the variable is not a real number or a vector.
        ValueError: If a size is out of range.

    Complexity:
        One evaluation of the network per transformation for a density. A draw of a vector takes ``size`` of them, or 2
        where it has more than 16 entries.

    References:
        Durkan, Bekasov, Murray & Papamakarios (2019), "Neural spline flows", https://arxiv.org/abs/1906.04032;
        Germain et al. (2015), https://arxiv.org/abs/1502.03509 (masks by degree). Transformations are zuko's.

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
        self.passes = self.size if self.size <= _MOST_PASSES else 2
        self.context = Context(self.parents, self.latents, hidden, ordered=True)
        self.inner = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        # where an entry lies may follow the parents along a straight line, which a few rows are enough to find
        self.line = nn.Linear(hidden, self.size, bias=False)
        with torch.no_grad():
            self.line.weight.mul_(_SLIGHT)
        self.conditioners = nn.ModuleList(
            _Conditioner(
                self.size, self.passes, hidden=hidden, layers=layers, numbers=3 * bins + 1, descending=bool(place % 2)
            )
            for place in range(transforms)
        )
        self.register_buffer("center", torch.zeros(self.size))
        self.register_buffer("spread", torch.ones(self.size))
        self.center: Tensor
        self.spread: Tensor

    @property
    def noise_size(self) -> int:
        """One normal number per entry."""
        return self.size

    @property
    def _first_numbers(self) -> Tensor:
        """What the first transformation adds to its numbers in every row, ``[size, numbers]``: shift, scale, spline."""
        first = self.conditioners[0]
        assert isinstance(first, _Conditioner)
        return first.last.bias.view(self.size, -1)

    def training_defaults(self, rows: int) -> dict[str, Any]:
        """Optimiser settings that suit :meth:`conditional_loss` on so many rows, by name."""
        return super().training_defaults(rows) | {
            # a number that depends on nothing has a spline to bend and nothing else
            "steps": 1600 if self.parents or self.latents or self.size > 1 else 400,
            "batch_size": min(max(round(rows * _SHARE), _FEWEST), _MOST),
            "learning_rate": 2e-3,
            "weight_decay": 0.7,
            # decay sees to it that nothing is overfitted, and a few hundred held-out rows tell less than all others
            "errors": 2.0,
        }

    def decaying(self) -> list[nn.Parameter]:
        """All weights but the line's and the biases: less of them is a flow closer to a line with normal noise."""
        return [one for one in self.parameters() if one.dim() > 1 and one is not self.line.weight]

    def state_weights(self) -> list[nn.Parameter]:
        """What each state of each confounder adds to the first layer, ``[s, hidden]`` each."""
        return list(self.context.states)

    def follow(self, confounder: int) -> bool:
        """Start as a number that one of the confounders nearly determines; see the base class."""
        if self.size > 1:
            return False
        states = self.latents[confounder]
        # what is left to chance shrinks with the distance between states, and all in all the variance is 1
        left = (1 + states) ** -0.5
        places = normal_places(states)
        stretch = math.sqrt((1 - left**2) / float(places.square().mean()))
        with torch.no_grad():
            direction = self.context.states[confounder][-1] / places[-1]
            self.line.weight[0] = -stretch / left * direction / direction.square().sum()
            self._first_numbers[0, 1] = _raw_scale(1 / left)
        return True

    def prepare(self, parents: Mapping[str, Tensor], value: Tensor) -> None:
        """Measure where the values lie, and start as their linear regression on the parents, if nothing is hidden."""
        self.context.prepare(parents)
        rows = value.view(len(value), self.size)
        for buffer, measured in zip((self.center, self.spread), mean_and_spread(rows), strict=True):
            buffer.copy_(measured)
        if not self.latents and not any(parent.kind == "image" for parent in self.parents):
            self._regress(parents, (rows - self.center) / self.spread)

    @torch.no_grad()
    def _regress(self, parents: Mapping[str, Tensor], entries: Tensor) -> None:
        features = torch.cat([torch.ones(len(entries), 1), *self.context.features(parents)], 1).double()
        # a ridge of one row's weight, for levels that were never seen and parents that say the same
        slopes = least_squares(features, entries, ridge=1.0)
        # products one by one, because a library's sum of them may depend on where the rows lie
        left = entries.double().clone()
        for feature, slope in zip(features.T, slopes, strict=True):
            left -= feature[:, None] * slope
        remaining = left.std(0, correction=min(1, len(entries) - 1)).clamp(*_LEFT)
        wanted = -slopes / remaining
        weights = self.context.weights()
        if len(weights):
            # with more features than units some are nearly the same to them, and must not have huge weights
            self.line.weight.copy_(least_squares(weights, wanted[1:], cutoff=_CUTOFF).T)
        self._first_numbers[:, 0] = wanted[0].float()
        self._first_numbers[:, 1] = torch.tensor([_raw_scale(1 / float(one)) for one in remaining])

    @torch.no_grad()
    def start_linear(self, slopes: Tensor, loadings: Tensor, spread: float) -> None:
        """Begin as a line with normal noise, of which confounders that are read as numbers are a part.

        The standardised number is about ``slopes[0] + slopes[1:] @ features + loadings @ u + spread * e``.

        Args:
            slopes: Of a one and of what the first layer is linear in, ``[1 + f]``.
            loadings: Of every confounder, ``[d]``; each has one row of weights in the first layer.
            spread: Standard deviation of what is left.
        """
        wanted = -torch.cat([slopes[1:], loadings]) / spread
        weights = torch.cat([self.context.weights(), *self.context.states])
        if len(weights):
            self.line.weight.copy_(least_squares(weights, wanted[:, None], cutoff=_CUTOFF).T)
        self._first_numbers[0, 0] = float(-slopes[0] / spread)
        self._first_numbers[0, 1] = _raw_scale(1 / spread)

    def _bend(self, conditioner: nn.Module, state: Tensor, line: Tensor | None, entries: Tensor) -> Any:
        from zuko.transforms import (
            ComposedTransform,
            DependentTransform,
            MonotonicAffineTransform,
            MonotonicRQSTransform,
        )

        numbers = conditioner(state, entries.to(state.dtype)).to(entries.dtype)
        shift, scale, widths, heights, slopes = numbers.split([1, 1, self.bins, self.bins, self.bins - 1], dim=-1)
        shift = shift.squeeze(-1) if line is None else shift.squeeze(-1) + line
        affine = MonotonicAffineTransform(shift, scale.squeeze(-1), slope=_LEAST_SCALE)
        return DependentTransform(ComposedTransform(affine, MonotonicRQSTransform(widths, heights, slopes)), 1)

    def _transformation(self, context: Tensor) -> Any:
        """From standardised entries to noise, given each row's parents and states."""
        from zuko.transforms import AutoregressiveTransform, ComposedTransform

        state = F.silu(context)
        for layer in self.inner:
            state = F.silu(layer(state))
        # the transformation that the values come to first has the line
        lines = [self.line(context), *[None] * (self.transforms - 1)]
        return ComposedTransform(
            *(
                AutoregressiveTransform(partial(self._bend, conditioner, state, line), passes=self.passes)
                for conditioner, line in zip(self.conditioners, lines, strict=True)
            )
        )

    def forward(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
        """Values ``[n]``, or ``[n, size]`` of a vector; see the base class."""
        context = self.context(parents, latents, len(noise))
        # in double precision, so that noise which abduction finds gives its value back
        entries = self._transformation(context).inv(noise.double())
        value: Tensor = (entries * self.spread + self.center).to(noise.dtype)
        return value.squeeze(-1) if self.variable.size is None else value

    def abduct(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor, fresh: Tensor) -> Tensor:
        """Noise of each row, ``[n, size]``: the exact inverse, without randomness; see the base class."""
        context = self.context(parents, latents, len(value))
        entries = (value.view(len(value), self.size).double() - self.center) / self.spread
        noise: Tensor = self._transformation(context)(entries)
        return noise.to(value.dtype)

    def _log_density(self, context: Tensor, value: Tensor) -> Tensor:
        entries = (value.view(len(value), self.size) - self.center) / self.spread
        entries = entries.view(len(value), *(1,) * (context.ndim - 2), self.size)
        noise, stretch = self._transformation(context).call_and_ladj(entries.expand(*context.shape[:-1], self.size))
        normal = -0.5 * noise.square().sum(-1) - 0.5 * self.size * math.log(2 * math.pi)
        found: Tensor = normal + stretch - self.spread.log().sum()
        return found

    def log_prob(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor) -> Tensor:
        """Log density of the standardised value in nats, ``[n]``."""
        return self._log_density(self.context(parents, latents, len(value)), value)

    def log_table(self, parents: Mapping[str, Tensor], value: Tensor) -> Tensor:
        """Log density at every combination of confounder states, parents read once; see the base class."""
        return self._log_density(self.context.over_states(parents, len(value)), value)

    def conditional_loss(self, parents: Mapping[str, Tensor], value: Tensor, generator: torch.Generator) -> Tensor:
        """Negative log density of each row; see the base class."""
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
