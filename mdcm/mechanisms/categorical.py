"""Mechanism of a categorical variable: logits from a small network, the value by the Gumbel-max trick."""

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

# a small network on this many rows costs less than the lookups of a block of rows
_FEW_COMBINATIONS = 1024
# number of columns up to which comparing columns beats argmax
_FEW_COLUMNS = 16


class Categorical(Mechanism):
    """``v = argmax_k(logits_k(parents, u) + g_k)`` with standard Gumbel noise g, one per level.

    Each confounder is finite: its states are embedded and added to the first layer. Because parents and states only
    meet in that sum, logits are computed once per distinct combination of parents and states, and looked up per row.

    A network generalises between combinations of parents and states, but is slow to learn probabilities near 0 and 1
    and tables without a pattern. A mechanism may therefore add a table of offsets to the logits (:meth:`set_table`).

    Args:
        variable: A categorical variable with K levels.
        parents: Its parents.
        latents: Number of states of each of its confounders.
        hidden: Width of the hidden layers.
        layers: Number of hidden layers, at least 1.
        table: Whether to start with a table of zero offsets.

    Attributes:
        offsets: Added to the logits at every combination of parents and states, ``[c, K]``, the last of them varying
            fastest; ``[0, K]`` without a table.

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
        """Embedding of the states of each confounder in the first layer, ``[s, hidden]`` each."""
        return list(self.states)

    @property
    def noise_size(self) -> int:
        """Number of levels: each has a Gumbel variate."""
        return self.levels

    @property
    def tabular(self) -> bool:
        """Whether all parents are categorical, so that rows with equal parents share their logits."""
        return all(parent.kind == "categorical" for parent in self.parents)

    def prepare(self, parents: Mapping[str, Tensor], value: Tensor) -> None:
        """Measure the scales of continuous parents and initialise the output bias at the marginal log frequencies."""
        for module, parent in zip(self.inputs, self.parents, strict=True):
            assert isinstance(module, ParentInput)
            module.prepare(parents[parent.name])
        counts = torch.bincount(value, minlength=self.levels).to(self.out.bias) + 0.5
        with torch.no_grad():
            self.out.bias.copy_((counts / counts.sum()).log())
        self.offsets = self.offsets[:0]

    @property
    def combinations(self) -> int:
        """Number of combinations of parents and states of a tabular mechanism."""
        return math.prod([*(parent.num_levels for parent in self.parents), *self.latents])

    @torch.no_grad()
    def set_table(self, logs: Tensor) -> None:
        """Replace the network by a table of log probabilities.

        Args:
            logs: Log probabilities at every combination of parents and states, ``[c, K]``, the last parent or state
                varying fastest.
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
            # only the stored weights tell whether there is a table
            self.offsets = self.offsets.new_zeros(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def context(self, parents: Mapping[str, Tensor], rows: int) -> Tensor:
        """Contribution of the parents and the bias to the first layer, ``[rows, hidden]``."""
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
        """Log probabilities at every row of parents and combination of confounder states.

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
            offsets = self.offsets.view(-1, *self.latents, self.levels)
            logits = logits + offsets.index_select(0, self._combination_index(parents, (), rows))
        return logits.log_softmax(-1)

    def _combination_index(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], rows: int) -> Tensor:
        """Index of each row's combination of parents and, where given, states, int64 ``[rows]``."""
        columns = [*(parents[parent.name] for parent in self.parents), *latents]
        sizes = [*(parent.num_levels for parent in self.parents), *self.latents]
        index = torch.zeros(rows, dtype=torch.int64, device=self.bias.device)
        for column, size in zip(columns, sizes, strict=False):
            # relaxed variables and states are one-hot
            index = index * size + (column.argmax(-1) if column.is_floating_point() else column)
        return index

    def _all_logits(self, sizes: Sequence[int]) -> Tensor:
        """Logits at all combinations of parents and states, the last of them varying fastest."""
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

        With few combinations of parents and states, the network is evaluated once at each, so that the logits of a
        row do not depend on the number of rows.
        """
        columns = [*(parents[parent.name] for parent in self.parents), *latents]
        sizes = [*(parent.num_levels for parent in self.parents if parent.levels), *self.latents]
        if (
            self.tabular
            and math.prod(sizes) <= _FEW_COMBINATIONS
            and not any(column.is_floating_point() for column in columns)
        ):
            return F.embedding(self._combination_index(parents, latents, rows), self._all_logits(sizes))
        first = self.context(parents, rows)
        for weight, state in zip(self.states, latents, strict=True):
            # one-hot states carry the gradient of their prior
            first = first + (state @ weight if state.is_floating_point() else F.embedding(state, weight))
        logits = self._head(first)
        return logits + self.offsets[self._combination_index(parents, latents, rows)] if len(self.offsets) else logits

    def forward(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
        """Codes of the levels with the largest perturbed logit, int64 ``[n]``; see the base class."""
        logits = check_finite(self.variable, self.logits(parents, latents, len(noise)), "logits")
        return winners(logits + noise)

    def relaxed(
        self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor, temperature: float
    ) -> Tensor:
        """One-hot values, float ``[n, K]``, with the gradient of the softmax.

        The level is that of :meth:`forward` for the same noise; parents may be codes or one-hot.

        Raises:
            ValueError: If the temperature is not positive.

        References:
            Jang, Gu & Poole (2017), https://arxiv.org/abs/1611.01144 (straight-through Gumbel-softmax).
        """
        logits = self.logits(parents, latents, len(noise))
        packing = kernels.Packing([self.levels], device=logits.device)
        return kernels.gumbel_softmax(logits, packing, temperature, noise)

    def log_table(self, parents: Mapping[str, Tensor], value: Tensor) -> Tensor:
        """Log probability of each code at every combination of states; see the base class."""
        table = self.table(parents, len(value))
        code = value.view(-1, *(1,) * (table.ndim - 1)).expand(*table.shape[:-1], 1)
        return table.gather(-1, code).squeeze(-1)

    def log_prob(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor) -> Tensor:
        """Log probability of the observed codes in nats, ``[n]``."""
        table = self.logits(parents, latents, len(value)).log_softmax(-1)
        return table.gather(-1, value[:, None]).squeeze(-1)

    def abduct(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor, fresh: Tensor) -> Tensor:
        """Gumbel noise given the observed level, drawn exactly; see the base class.

        With probabilities p and unit exponential clocks E = exp(-fresh), the race is memoryless: the clock of the
        observed level v becomes p_v E_v, that of any other level j becomes E_j + p_j E_v.

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
        """Negative log probability of each row, ``[n]``; see the base class."""
        return -self.log_prob(parents, (), value)

    def config(self) -> dict[str, Any]:
        """Architecture as plain JSON values."""
        table = {"table": True} if len(self.offsets) else {}
        return {"type": "categorical", "hidden": self.hidden, "layers": self.layers} | table


def winners(scores: Tensor) -> Tensor:
    """Index of the first maximum of every row, int64 ``[n]``.

    With few columns, comparing them in sequence is many times faster than argmax over short rows.
    """
    if scores.shape[-1] > _FEW_COLUMNS:
        return scores.argmax(-1)
    first, *others = scores.t().contiguous()
    best, index = first, torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    for position, column in enumerate(others, 1):
        index.masked_fill_(column > best, position)
        best = torch.maximum(best, column)
    return index


def winning_noise(logits: Tensor, value: Tensor, fresh: Tensor) -> Tensor:
    """Gumbel noise ``[n, K]`` from its posterior given each row's level; see :meth:`Categorical.abduct`."""
    observed = torch.arange(logits.shape[-1], device=logits.device) == value[:, None]
    winner = fresh.gather(-1, value[:, None])
    shared = logits.log_softmax(-1) - winner
    noise = -torch.where(observed, shared, torch.logaddexp(-fresh, shared))
    # rounding may lift another level up to the observed level, whose noise is then raised to just above it
    score = logits + noise
    top = score.masked_fill(observed, -torch.inf).amax(-1, keepdim=True)
    logit = logits.gather(-1, value[:, None])
    limits = torch.finfo(score.dtype)
    above = top + torch.maximum(top.abs(), logit.abs()).mul(4 * limits.eps).clamp_min(limits.tiny)
    return torch.where(observed & (score <= top), above - logit, noise)
