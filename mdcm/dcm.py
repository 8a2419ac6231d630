"""The deep causal generative model: a mechanism per variable, and confounder noise shared between children."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mdcm import kernels
from mdcm.errors import PlanError
from mdcm.mechanisms import Categorical, Flow, ImageGenerator, Implicit, Mechanism, RectifiedFlow
from mdcm.mechanisms.base import check_finite
from mdcm.text.limits import seeded

if TYPE_CHECKING:
    from mdcm.data import Schema, Variable
    from mdcm.graph import ADMG

__all__ = ["DCM", "MechanismFactory", "default_mechanism", "derived_seed", "one_thread"]

MechanismFactory = Callable[["Variable", "Sequence[Variable]", "Sequence[int]"], Mechanism]


def derived_seed(seed: int, *address: str | int) -> int:
    """Seed in [0, 2^63) for a purpose: a hash of the run's seed and the purpose's address.

    Raises:
        ValueError: If the run's seed is not a whole number in that range.

    Example:
        >>> derived_seed(0, "initial", 3) == derived_seed(0, "initial", 3) != derived_seed(0, "initial", 4)
        True
    """
    text = "/".join(str(part) for part in (seeded(seed), *address))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def default_mechanism(variable: Variable, parents: Sequence[Variable], latents: Sequence[int]) -> Mechanism:
    """Default mechanism of a variable.

    Probabilities of the levels for a categorical variable, a spline flow for a continuous and a plain network for an
    implicit variable; for an image a rectified flow, or a convolutional generator if it has a confounder.
    """
    if variable.kind == "categorical":
        return Categorical(variable, parents, latents)
    if variable.kind == "continuous":
        return Flow(variable, parents, latents)
    if variable.kind == "implicit":
        return Implicit(variable, parents, latents)
    return ImageGenerator(variable, parents, latents) if latents else RectifiedFlow(variable, parents, latents)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on a single thread inside the block.

    Networks of a few dozen units are slower on several threads, and many times slower on a busy machine.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class DCM(nn.Module):
    """Deep causal generative model of an ADMG.

    Every confounder is a single noise variable with finitely many states and a learned prior; all of its children read
    the same state in the same row. Noise is addressed by (seed, row, variable or confounder), so that any part of a
    sample can be computed again, separately and in any batch.

    Args:
        graph: The ADMG.
        schema: Variables of all nodes by name.
        states: Number of states of every confounder, by name.
        factories: Constructors of mechanisms by variable; :func:`default_mechanism` for the others.
        seed: Seed of the initial weights.

    Attributes:
        mechanisms: Mechanisms by variable.
        priors: Logits of the prior over the states of every confounder, in the graph's order of confounders.

    References:
        Rahman & Kocaoglu (2024), Definition 4.1 and Algorithm 9.
    """

    def __init__(
        self,
        graph: ADMG,
        schema: Schema,
        states: Mapping[str, int],
        factories: Mapping[str, MechanismFactory] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.schema = schema
        self.confounders = tuple(name for name, _ in graph.confounders)
        self.position = {name: index for index, name in enumerate(graph.nodes)}
        self.order = tuple(graph.topological_order())
        self.states = {name: int(states[name]) for name in self.confounders}
        latents: dict[str, list[int]] = {node: [] for node in graph.nodes}
        for index, (_, children) in enumerate(graph.confounders):
            for child in children:
                latents[child].append(index)
        self.latents = {node: tuple(indices) for node, indices in latents.items()}
        self._parents = {node: sorted(graph.parents(node), key=self.position.__getitem__) for node in graph.nodes}
        factories = dict(factories or {})
        # keyed by position, since names may contain characters that keys of modules may not
        self._modules_by_position = nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):
            for node in graph.nodes:
                # seed only the CPU's generator: seeding every device takes longer than making a mechanism
                torch.default_generator.manual_seed(derived_seed(seed, "initial", self.position[node]))
                sizes = [self.states[self.confounders[i]] for i in self.latents[node]]
                make = factories.get(node, default_mechanism)
                mechanism = make(schema[node], [schema[parent] for parent in self._parents[node]], sizes)
                if not isinstance(mechanism, Mechanism):
                    raise PlanError(
                        f"mechanisms: the factory of {node!r} returns a {type(mechanism).__name__}, not a Mechanism"
                    )
                self._modules_by_position[str(self.position[node])] = mechanism
        self.priors = nn.ParameterList(nn.Parameter(torch.zeros(self.states[name])) for name in self.confounders)

    @property
    def mechanisms(self) -> dict[str, Mechanism]:
        """Mechanisms by variable, in the graph's order of nodes."""
        return {node: self.mechanism(node) for node in self.graph.nodes}

    def mechanism(self, node: str) -> Mechanism:
        """Mechanism of a variable."""
        module = self._modules_by_position[str(self.position[node])]
        assert isinstance(module, Mechanism)
        return module

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> torch.nn.modules.module._IncompatibleKeys:
        """Load weights as any module does, but in linear time: every mechanism sees only its own weights.

        Raises:
            RuntimeError: If a shape differs or, with ``strict``, a weight is missing or unexpected.
        """
        start = "_modules_by_position."
        parts: dict[str, dict[str, Any]] = {position: {} for position in self._modules_by_position}
        missing: list[str] = []
        unexpected: list[str] = []
        wrong: list[str] = []
        for key, value in state_dict.items():
            position, _, name = key.removeprefix(start).partition(".")
            if key.startswith(start) and position in parts:
                parts[position][name] = value
            elif not key.startswith("priors."):
                unexpected.append(key)
        parts = {start + position: weights for position, weights in parts.items()}
        parts["priors"] = {key.removeprefix("priors."): v for key, v in state_dict.items() if key.startswith("priors.")}
        for prefix, weights in parts.items():
            if not weights and not strict:
                continue
            try:
                keys = self.get_submodule(prefix).load_state_dict(weights, strict=False, assign=assign)
            except RuntimeError as error:
                wrong.append(f"{prefix}: {error}")
                continue
            missing += [f"{prefix}.{key}" for key in keys.missing_keys]
            unexpected += [f"{prefix}.{key}" for key in keys.unexpected_keys]
        if strict:
            wrong += [f"Missing key: {key}" for key in missing[:1]] + [
                f"Unexpected key: {key}" for key in unexpected[:1]
            ]
        if wrong:
            raise RuntimeError(wrong[0])
        return torch.nn.modules.module._IncompatibleKeys(missing, unexpected)

    def part(self, nodes: Collection[str]) -> dict[str, Tensor]:
        """Weights of some variables and their confounders, by their names in ``state_dict``."""
        weights: dict[str, Tensor] = {}
        for node in sorted(nodes, key=self.position.__getitem__):
            self.mechanism(node).state_dict(destination=weights, prefix=f"_modules_by_position.{self.position[node]}.")
        for index in sorted({index for node in nodes for index in self.latents[node]}):
            weights[f"priors.{index}"] = self.priors[index].detach()
        return weights

    def parents(self, node: str) -> list[str]:
        """Parents of a variable in the order in which its mechanism takes them."""
        return list(self._parents[node])

    def confounder_states(self, index: int, rows: Tensor, seed: int) -> Tensor:
        """State of a confounder in each row, int64 ``[n]``, drawn from its prior at the row's address."""
        uniform = kernels.uniform_noise(
            seed, rows, len(self.graph.nodes) + index, kernels.STREAM_CONFOUNDER, 1
        ).squeeze(1)
        cumulative = self.priors[index].double().softmax(0).cumsum(0)
        # the last bound may be rounded below 1; numbers above it belong to the last state
        return torch.searchsorted(cumulative, uniform).clamp_max(len(cumulative) - 1)

    def own_noise(self, node: str, rows: Tensor, seed: int) -> Tensor:
        """Own noise of a variable in each row, ``[n, noise_size]``, at the row's address."""
        mechanism = self.mechanism(node)
        if mechanism.noise_kind == "gumbel":
            return kernels.gumbel_noise(seed, rows, self.position[node], mechanism.noise_size)
        return kernels.normal_noise(seed, rows, self.position[node], mechanism.noise_size)

    @torch.no_grad()
    @one_thread()
    def generate(
        self,
        rows: Tensor,
        seed: int,
        do: Mapping[str, Tensor] | None = None,
        targets: Iterable[str] | None = None,
    ) -> dict[str, Tensor]:
        """Values of the variables in each row, under do().

        Args:
            rows: Indices of the rows, int64 ``[n]``.
            seed: Seed of the noise.
            do: Values of the variables that are set, ``n`` rows each; their mechanisms are not evaluated.
            targets: Variables to compute, with those that they depend on; all by default.

        Returns:
            Values of these variables by name, in topological order.

        Raises:
            MdcmError: If a mechanism returns a number that is not finite.
        """
        do = dict(do or {})
        needed = self.needed(self.graph.nodes if targets is None else targets, do)
        states: dict[int, Tensor] = {}
        values: dict[str, Tensor] = {}
        for node in self.order:
            if node not in needed:
                continue
            if node in do:
                values[node] = do[node]
                continue
            for index in self.latents[node]:
                if index not in states:
                    states[index] = self.confounder_states(index, rows, seed)
            latents = [states[index] for index in self.latents[node]]
            parents = {parent: values[parent] for parent in self._parents[node]}
            value = self.mechanism(node)(parents, latents, self.own_noise(node, rows, seed))
            values[node] = check_finite(self.schema[node], value)
        return values

    def needed(self, targets: Iterable[str], do: Iterable[str] = ()) -> set[str]:
        """Targets and the variables that they depend on if the variables in ``do`` are set."""
        is_set = set(do)
        needed: set[str] = set()
        pending = list(targets)
        while pending:
            node = pending.pop()
            if node in needed:
                continue
            needed.add(node)
            if node not in is_set:
                pending.extend(self._parents[node])
        return needed

    def adopt(self, other: DCM, confounders: Iterable[str]) -> None:
        """Take over confounders and the mechanisms of their children from another model of the same graph.

        Args:
            other: The model, whose confounders may have other numbers of states.
            confounders: Names of all confounders of some c-components.
        """
        children = dict(self.graph.confounders)
        for name in confounders:
            index = self.confounders.index(name)
            self.states[name] = other.states[name]
            self.priors[index] = other.priors[index]
            for child in children[name]:
                self._modules_by_position[str(self.position[child])] = other.mechanism(child)

    def architecture(self) -> dict[str, Any]:
        """Shapes of mechanisms and confounders as plain JSON values."""
        return {
            "states": dict(self.states),
            "mechanisms": {node: _described(self.mechanism(node)) for node in self.graph.nodes},
        }


def _described(mechanism: Mechanism) -> dict[str, Any]:
    encoders = {"encoders": mechanism.encoders} if mechanism.encoders else {}
    return mechanism.config() | encoders
