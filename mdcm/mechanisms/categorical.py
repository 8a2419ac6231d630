"""Mechanism of a categorical variable: a small network to logits, and a Gumbel race for the value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdcm import kernels
from mdcm.data import Variable
from mdcm.mechanisms.base import Mechanism, NoiseKind, check_depth, check_finite
from mdcm.mechanisms.inputs import ParentInput

__all__ = ["Categorical", "ParentInput", "winning_noise"]

# so many rows of a small network cost less than the lookups of a block of rows
_FEW_COMBINATIONS = 1024
# columns among which the largest is looked for one by one
_FEW_COLUMNS = 16


class Categorical(Mechanism):
    """``v = argmax_k(logits_k(parents, u) + g_k)`` with standard Gumbel noise g, one per level.

    Each confounder is finite: its states enter the first layer through an embedding of their own. Because parents
    and states only meet after the first layer's sum, logits are computed once per distinct parent configuration and
    combination of states, and then looked up per row.

    A network generalises from one combination of parents and states to others, but reaches probabilities near 0 and 1,
    and tables without a pattern, slowly. A mechanism may therefore have a table of its own, a number that is added to
    every logit (:meth:`set_table`).

    Args:
        variable: A categorical variable with K levels.
        parents: Its parents.
        latents: Number of states of each of its confounders.
        hidden: Width of the hidden layers.
        layers: Number of hidden layers, at least 1.
        table: Whether there is a table from the beginning, of zeros.

    Attributes:
        offsets: Added to the logits of every combination of parents and states, ``[c, K]``, the last one running
            fastest; ``[0, K]`` where there is nothing to add.

    Example:
        >>> import torch
        >>> from mdcm.data import Variable
        >>> coin = Variable("coin", "categorical", levels=("heads", "tails"))
        >>> mechanism = Categorical(coin, parents=(), latents=(4,))
        >>> mechanism.table({}, rows=1).shape
        torch.Size([1, 4, 2])
    """

    offsets: Tensor

    noise_kind: ClassVar[NoiseKind] = "gumbel"
    has_density: ClassVar[bool] = True

    def __init__(
        self,
        variable: Variable,
        parents: Sequence[Variable],
        latents: Sequence[int] = (),
        *,
        hidden: int = 32,
        layers: int = 2,
        table: bool = False,
    ) -> None:
        super().__init__(variable, parents, latents)
        if variable.levels is None:
            raise ValueError(f"{variable.name!r} has no levels, so it is not categorical")
        if hidden < 1 or layers < 1:
            raise ValueError(f"hidden and layers must be at least 1, not {hidden} and {layers}")
        check_depth(layers=layers)
        self.hidden = hidden
        self.layers = layers
        self.levels = len(variable.levels)
        share = 1.0 / math.sqrt(max(len(self.parents), 1))
        self.inputs = nn.ModuleList(ParentInput(parent, hidden, share) for parent in self.parents)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.states = nn.ParameterList(nn.Parameter(torch.randn(size, hidden)) for size in self.latents)
        self.inner = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        self.out = nn.Linear(hidden, self.levels)
        self.register_buffer("offsets", torch.zeros(self.combinations if table else 0, self.levels))

    def state_weights(self) -> list[nn.Parameter]:
        """What each state of each confounder adds to the first layer, ``[s, hidden]`` each."""
        return list(self.states)

    @property
    def noise_size(self) -> int:
        """One Gumbel number per level."""
        return self.levels

    @property
    def tabular(self) -> bool:
        """Whether all parents are categorical, so that rows with equal parents share their logits."""
        return all(parent.kind == "categorical" for parent in self.parents)

    def prepare(self, parents: Mapping[str, Tensor], value: Tensor) -> None:
        """Measure the scales of continuous parents, and start from the variable's own frequencies."""
        for module, parent in zip(self.inputs, self.parents, strict=True):
            assert isinstance(module, ParentInput)
            module.prepare(parents[parent.name])
        counts = torch.bincount(value, minlength=self.levels).to(self.out.bias) + 0.5
        with torch.no_grad():
            self.out.bias.copy_((counts / counts.sum()).log())
        self.offsets = self.offsets[:0]

    @property
    def combinations(self) -> int:
        """Combinations of parents and states; of a tabular mechanism alone."""
        return math.prod([*(parent.num_levels for parent in self.parents), *self.latents])

    @torch.no_grad()
    def set_table(self, logs: Tensor) -> None:
        """Have these probabilities at every combination of parents and states, whatever the network says.

        Args:
            logs: Logarithms of the probabilities, ``[c, K]``, the last parent or state running fastest.
        """
        self.out.weight.zero_()
        self.out.bias.zero_()
        self.offsets = logs.to(self.out.bias).reshape(self.combinations, self.levels).clone()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        stored = state_dict.get(f"{prefix}offsets")
        if (
            isinstance(stored, Tensor)
            and stored.shape[1:] == (self.levels,)
            and (len(stored) in (0, self.combinations if self.tabular else 0))
        ):
            # there is a table or none, which only the weights tell
            self.offsets = self.offsets.new_zeros(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def context(self, parents: Mapping[str, Tensor], rows: int) -> Tensor:
        """Parents' share of the first layer, ``[rows, hidden]``."""
        total = self.bias.expand(rows, self.hidden)
        for module, parent in zip(self.inputs, self.parents, strict=True):
            total = total + module(parents[parent.name])
        return total

    def _head(self, first: Tensor) -> Tensor:
        activation = F.silu(first)
        for layer in self.inner:
            activation = F.silu(layer(activation))
        logits: Tensor = self.out(activation)
        return logits

    def table(self, parents: Mapping[str, Tensor], rows: int) -> Tensor:
        """Log probabilities for every row of parents and combination of confounder states.

        Args:
            parents: Value of every parent by name, ``rows`` each.
            rows: Number of rows p.

        Returns:
            ``[p, s_1, ..., s_d, K]``.

        Complexity:
            O(p S^d hidden^2) for d confounders of S states.
        """
        first = self.context(parents, rows).reshape(rows, *(1,) * len(self.states), self.hidden)
        for axis, weight in enumerate(self.states):
            after = len(self.states) - 1 - axis
            first = first + weight.view(len(weight), *(1,) * after, self.hidden)
        logits = self._head(first)
        if len(self.offsets):
            own = self.offsets.view(-1, *self.latents, self.levels)
            logits = logits + own.index_select(0, self._number(parents, (), rows))
        return logits.log_softmax(-1)

    def _number(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], rows: int) -> Tensor:
        """Number of each row's combination of parents and, where they are given, states."""
        columns = [*(parents[parent.name] for parent in self.parents), *latents]
        sizes = [*(parent.num_levels for parent in self.parents), *self.latents]
        number = torch.zeros(rows, dtype=torch.int64, device=self.bias.device)
        for column, size in zip(columns, sizes, strict=False):
            # one-hot rows come from variables and states that are relaxed
            number = number * size + (column.argmax(-1) if column.is_floating_point() else column)
        return number

    def _every_combination(self, sizes: Sequence[int]) -> Tensor:
        """Logits at all combinations of parents and states, the last one running fastest."""
        first = self.bias.expand(1, self.hidden)
        weights = [module.weight for module in self.inputs if isinstance(module, ParentInput)]
        for weight, size in zip([*weights, *self.states], sizes, strict=True):
            first = (first[:, None] + weight[:size]).reshape(-1, self.hidden)
        logits = self._head(first)
        if len(self.offsets):
            logits = logits + self.offsets
        return logits

    def logits(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], rows: int) -> Tensor:
        """Logits of each row at given confounder states, ``[rows, K]``.

        Where there are few combinations of parents and states the network sees each of them once, whatever the number
        of rows: so a row's logits do not depend on how many others there are.
        """
        columns = [*(parents[parent.name] for parent in self.parents), *latents]
        sizes = [*(parent.num_levels for parent in self.parents if parent.levels), *self.latents]
        if (
            self.tabular
            and math.prod(sizes) <= _FEW_COMBINATIONS
            and not any(column.is_floating_point() for column in columns)
        ):
            return F.embedding(self._number(parents, latents, rows), self._every_combination(sizes))
        first = self.context(parents, rows)
        for weight, state in zip(self.states, latents, strict=True):
            # one-hot states carry the gradient of the prior that they were drawn from
            first = first + (state @ weight if state.is_floating_point() else F.embedding(state, weight))
        logits = self._head(first)
        return logits + self.offsets[self._number(parents, latents, rows)] if len(self.offsets) else logits

    def forward(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
        """Codes of the winning levels, int64 ``[n]``; see the base class."""
        logits = check_finite(self.variable, self.logits(parents, latents, len(noise)), "logits")
        return winners(logits + noise)

    def relaxed(
        self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor, temperature: float
    ) -> Tensor:
        """One-hot rows of the winning levels, float ``[n, K]``, with the gradient of the softmax.

        The level is the one that :meth:`forward` gives for the same noise; parents may come as codes or one-hot.

        Raises:
            ValueError: If the temperature is not positive.

        References:
            Jang, Gu & Poole (2017), https://arxiv.org/abs/1611.01144 (straight-through Gumbel-softmax).
        """
        logits = self.logits(parents, latents, len(noise))
        packing = kernels.Packing([self.levels], device=logits.device)
        return kernels.gumbel_softmax(logits, packing, temperature, noise)

    def log_table(self, parents: Mapping[str, Tensor], value: Tensor) -> Tensor:
        """Log probability of each row's code at every combination of states; see the base class."""
        table = self.table(parents, len(value))
        code = value.view(-1, *(1,) * (table.ndim - 1)).expand(*table.shape[:-1], 1)
        return table.gather(-1, code).squeeze(-1)

    def log_prob(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor) -> Tensor:
        """Log probability of the observed codes in nats, ``[n]``."""
        table = self.logits(parents, latents, len(value)).log_softmax(-1)
        return table.gather(-1, value[:, None]).squeeze(-1)

    def abduct(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor, fresh: Tensor) -> Tensor:
        """Gumbel noise given the level that won, drawn exactly; see the base class.

        With p the levels' probabilities and unit exponential clocks E = exp(-fresh), the race is memoryless: the
        winner's clock becomes p_v E_v, any other one E_j + p_j E_v. The winner's own fresh clock has no other part.

        Args:
            parents: Value of every parent by name, ``n`` rows each.
            latents: State of every confounder.
            value: Codes, int64 ``[n]``.
            fresh: Gumbel noise of the prior, ``[n, K]``.

        References:
            Maddison, Tarlow & Minka (2014), A* sampling, section 3; Oberst & Sontag (2019), section 3.
        """
        logits = check_finite(self.variable, self.logits(parents, latents, len(value)), "logits")
        return winning_noise(logits, value, fresh)

    def conditional_loss(self, parents: Mapping[str, Tensor], value: Tensor, generator: torch.Generator) -> Tensor:
        """Negative log probability of each row; see the base class."""
        return -self.log_prob(parents, (), value)

    def config(self) -> dict[str, Any]:
        """Architecture as plain JSON values."""
        table = {"table": True} if len(self.offsets) else {}
        return {"type": "categorical", "hidden": self.hidden, "layers": self.layers} | table


def winners(scores: Tensor) -> Tensor:
    """Column of the largest number of every row, int64 ``[n]``; of equal ones the first, as argmax has it.

    For few columns one comparison of columns after another is many times faster than argmax over short rows.
    """
    if scores.shape[-1] > _FEW_COLUMNS:
        return scores.argmax(-1)
    first, *others = scores.t().contiguous()
    best, index = first, torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    for number, column in enumerate(others, 1):
        index.masked_fill_(column > best, number)
        best = torch.maximum(best, column)
    return index


def winning_noise(logits: Tensor, value: Tensor, fresh: Tensor) -> Tensor:
    """Gumbel noise ``[n, K]`` with which each row's observed level wins; see :meth:`Categorical.abduct`."""
    chosen = torch.arange(logits.shape[-1], device=logits.device) == value[:, None]
    own = fresh.gather(-1, value[:, None])
    shared = logits.log_softmax(-1) - own
    noise = -torch.where(chosen, shared, torch.logaddexp(-fresh, shared))
    # rounding may let another level reach the winner, whose noise is then raised to just above it
    score = logits + noise
    top = score.masked_fill(chosen, -torch.inf).amax(-1, keepdim=True)
    logit = logits.gather(-1, value[:, None])
    limits = torch.finfo(score.dtype)
    above = top + torch.maximum(top.abs(), logit.abs()).mul(4 * limits.eps).clamp_min(limits.tiny)
    return torch.where(chosen & (score <= top), above - logit, noise)
