"""Generation of rows for the fits of an h-node, differentiable in mechanisms and priors."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mdcm import kernels
from mdcm.mechanisms.base import Mechanism

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data import Encoded
    from mdcm.dcm import DCM
    from mdcm.planning import Fit, HNode
    from mdcm.training.pooled_rows import Layout, PooledRows

__all__ = ["FitSide", "GeneratedRows", "Generators", "gumbel_", "prepare_mechanisms"]

# a confounder affects a child if another state changes the child in more than this share of rows
_CHANGED = 0.01


@dataclass(frozen=True)
class FitSide:
    """A fit with its rows.

    Attributes:
        fit: The fit.
        generated: Generated variables, ancestors before descendants; some may not be in the data.
        given: Variables whose values come from the data.
        layout: Columns of the critic.
        train: Training rows.
        held: Held-out rows; the training rows if none are held out.
    """

    fit: Fit
    generated: tuple[str, ...]
    given: tuple[str, ...]
    layout: Layout
    train: PooledRows
    held: PooledRows

    @property
    def compared(self) -> list[str]:
        """Generated variables that the data contain."""
        return [name for name in self.generated if name in self.layout.slices]


class GeneratedRows(NamedTuple):
    """Generated rows with their noise, from which any variable can be generated again.

    Attributes:
        values: For every fit the values by variable, including given ones, ``n`` rows each.
        states: States of every confounder, one-hot ``[fits * n, states]`` or codes, the fits concatenated.
        noise: Own noise of every variable, for the rows of the fits that generate it.
    """

    values: list[dict[str, Tensor]]
    states: dict[int, Tensor]
    noise: dict[str, Tensor]


class Generators:
    """Mechanisms and priors that generate rows of several fits, each variable for all of its fits at once.

    Args:
        dcm: The model.
        sides: The fits.
        members: Variables whose mechanisms are trained, together with the priors of their confounders.

    Attributes:
        mechanisms: All generating mechanisms, by name, in topological order.
        makers: For every mechanism the indices of the fits that generate it.
        confounders: Indices of the confounders that are drawn.
        trained: Indices of those whose priors are trained.
        parameters: Parameters of the trained mechanisms, then the trained priors.
        states: Columns of each confounder's states in the Gumbel noise.
        raced: Columns of each categorical variable in the Gumbel noise.
        width: Number of columns of the Gumbel noise.
    """

    def __init__(self, dcm: DCM, sides: Sequence[FitSide], members: Collection[str]) -> None:
        self.dcm = dcm
        self.members = [node for node in dcm.order if node in members]
        self.device = next(dcm.parameters()).device
        self.fits = len(sides)
        makers = {node: [fit for fit, side in enumerate(sides) if node in side.generated] for node in dcm.order}
        self.makers = {node: fits for node, fits in makers.items() if fits}
        self.mechanisms: dict[str, Mechanism] = {node: dcm.mechanism(node) for node in self.makers}
        self.confounders = sorted({index for node in self.makers for index in dcm.latents[node]})
        self.trained = sorted({index for node in self.members for index in dcm.latents[node]})
        self.parameters: list[nn.Parameter] = [
            *(p for node in self.members for p in dcm.mechanism(node).parameters() if p.requires_grad),
            *(dcm.priors[index] for index in self.trained),
        ]
        # one noise tensor for the Gumbel-max draws of all states and categorical variables
        sizes = [len(dcm.priors[index]) for index in self.confounders]
        raced = [node for node, mechanism in self.mechanisms.items() if mechanism.noise_kind == "gumbel"]
        spans = _spans([*sizes, *(self.mechanisms[node].noise_size for node in raced)])
        self._packing = kernels.Packing(sizes, device=self.device) if sizes else None
        self.states = dict(zip(self.confounders, spans, strict=False))
        self.raced = dict(zip(raced, spans[len(sizes) :], strict=True))
        self.width = spans[-1].stop if spans else 0

    def draw(
        self, given: Sequence[Mapping[str, Tensor]], race: Tensor, temperature: float, generator: torch.Generator
    ) -> GeneratedRows:
        """Generate rows of every fit, differentiably.

        Args:
            given: For every fit the values of its given variables, ``n`` rows each; categorical ones one-hot.
            race: Gumbel noise of states and of categorical variables, ``[fits * n, width]``.
            temperature: Temperature of the softmax whose gradient stands for that of a draw.
            generator: Source of all other noise.
        """
        states = self._draw_states(race, temperature)
        return self._generate(given, states, race, temperature, generator)

    def sample(self, given: Sequence[Mapping[str, Tensor]], rows: int, generator: torch.Generator) -> GeneratedRows:
        """Generate rows of every fit without a gradient; categorical values and states are codes, given ones too.

        Args:
            given: For every fit the values of its given variables, ``rows`` each.
            rows: Rows of each fit.
            generator: Source of all noise.
        """
        race = torch.empty(self.fits * rows, self.width, device=self.device)
        gumbel_(race.uniform_(generator=generator))
        with torch.no_grad():
            states = {index: (self.dcm.priors[index] + race[:, span]).argmax(1) for index, span in self.states.items()}
            return self._generate(given, states, race, None, generator)

    def _generate(
        self,
        given: Sequence[Mapping[str, Tensor]],
        states: dict[int, Tensor],
        race: Tensor,
        temperature: float | None,
        generator: torch.Generator,
    ) -> GeneratedRows:
        rows = len(race) // self.fits
        values: list[dict[str, Tensor]] = [dict(columns) for columns in given]
        noise: dict[str, Tensor] = {}
        for node, makers in self.makers.items():
            if node in self.raced:
                noise[node] = self._of(node, race[:, self.raced[node]], rows)
            else:
                size = (len(makers) * rows, self.mechanisms[node].noise_size)
                noise[node] = torch.randn(size, generator=generator, device=self.device)
            value = self._value(node, values, states, noise[node], temperature)
            for number, fit in enumerate(makers):
                values[fit][node] = value[number * rows : (number + 1) * rows]
        return GeneratedRows(values, states, noise)

    def _draw_states(self, noise: Tensor, temperature: float) -> dict[int, Tensor]:
        if self._packing is None:
            return {}
        priors = [
            self.dcm.priors[index] if index in self.trained else self.dcm.priors[index].detach()
            for index in self.confounders
        ]
        logits = torch.cat(priors).expand(len(noise), -1)
        race = noise[:, : logits.shape[1]]
        drawn = kernels.gumbel_softmax(logits, self._packing, temperature, race)
        return {index: drawn[:, span] for index, span in self.states.items()}

    def _value(
        self,
        node: str,
        values: Sequence[Mapping[str, Tensor]],
        states: Mapping[int, Tensor],
        noise: Tensor,
        temperature: float | None,
    ) -> Tensor:
        """A variable for all fits that generate it: codes without a temperature, one-hot rows with a temperature."""
        mechanism, makers = self.mechanisms[node], self.makers[node]
        rows = len(noise) // len(makers)
        latents = [self._of(node, states[index], rows) for index in self.dcm.latents[node]]
        parents = {parent: _joined([values[fit][parent] for fit in makers]) for parent in self.dcm.parents(node)}
        if temperature is None:
            drawn: Tensor = mechanism(parents, latents, noise)
            return drawn
        if mechanism.variable.kind != "categorical" or type(mechanism).relaxed is not Mechanism.relaxed:
            return mechanism.relaxed(parents, latents, noise, temperature)
        # a mechanism that reads codes only: it is not trained, and no gradient passes through it
        codes = {
            parent.name: parents[parent.name].argmax(1) if parent.kind == "categorical" else parents[parent.name]
            for parent in mechanism.parents
        }
        drawn = mechanism(codes, [state.argmax(1) for state in latents], noise)
        return nn.functional.one_hot(drawn, mechanism.variable.num_levels).float()

    def _of(self, node: str, value: Tensor, rows: int) -> Tensor:
        """Select the rows of the fits that generate a variable from a tensor of the rows of all fits."""
        makers = self.makers[node]
        if len(makers) == self.fits:
            return value
        return _joined([value[fit * rows : (fit + 1) * rows] for fit in makers])

    def idle(self, draw: GeneratedRows, generator: torch.Generator) -> tuple[str, ...]:
        """Trained confounders that carry no information.

        A confounder makes two children depend on each other. Its state is redrawn while all else stays the same; if
        that changes fewer than two of its children, it induces no dependence.

        Args:
            draw: Generated rows, from :meth:`sample`.
            generator: Source of the new states.
        """
        idle = []
        for index in self.trained:
            if index not in self.confounders:
                continue
            state = draw.states[index]
            other = state[torch.randperm(len(state), generator=generator, device=self.device)]
            children = [node for node in self.members if index in self.dcm.latents[node] and node in self.makers]
            if sum(self._changes(node, draw, {**draw.states, index: other}) for node in children) < 2:
                idle.append(self.dcm.confounders[index])
        return tuple(idle)

    def _changes(self, node: str, draw: GeneratedRows, states: Mapping[int, Tensor]) -> bool:
        before = _joined([draw.values[fit][node] for fit in self.makers[node]])
        after = self._value(node, draw.values, states, draw.noise[node], None)
        if self.mechanisms[node].variable.kind == "categorical":
            return float((before != after).double().mean()) > _CHANGED
        return float((before - after).square().mean()) > _CHANGED**2 * float(before.var())


def gumbel_(uniform: Tensor) -> Tensor:
    """Turn uniform numbers, multiples of 2^-24 in [0, 1), into Gumbel noise, in place."""
    # keep the noise finite at both ends
    return uniform.clamp_(2.0**-25, 1 - 2.0**-24).log_().neg_().log_().neg_()


def prepare_mechanisms(
    dcm: DCM, hnode: HNode, data: Mapping[str, Encoded], masks: Mapping[str, NDArray[np.bool_]]
) -> None:
    """Initialise scales and frequencies of the mechanisms of an h-node on rows that contain a variable and its parents.

    Args:
        dcm: The model.
        hnode: The h-node; mechanisms that involve images or have no such rows are left as they are.
        data: Data sets by name.
        masks: Mask of the held-out rows of every data set of the h-node's fits.
    """
    device = next(dcm.parameters()).device
    for node in hnode.variables:
        needed = (node, *dcm.parents(node))
        rows = {
            name: np.flatnonzero(~masks[name])
            for fit in hnode.fits
            if node in fit.variables
            for name in fit.datasets
            if all(column in data[name] for column in needed) and node not in data[name].do
        }
        if not rows or any(dcm.schema[column].kind == "image" for column in needed):
            continue
        values = {}
        for column in needed:
            parts = [np.asarray(data[name][column])[kept] for name, kept in rows.items()]
            values[column] = torch.from_numpy(np.concatenate(parts)).to(device)
        dcm.mechanism(node).prepare({parent: values[parent] for parent in needed[1:]}, values[node])


def _spans(sizes: Sequence[int]) -> list[slice]:
    ends = list(itertools.accumulate(sizes))
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
