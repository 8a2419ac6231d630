"""Rows generated for the fits of an h-node, with a gradient in mechanisms and priors."""

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

__all__ = ["Draw", "FitSide", "Generators", "gumbel_", "prepare_mechanisms"]

# a confounder tells a child something if another state would change the child in more than this share of rows
_MOVED = 0.01


@dataclass(frozen=True)
class FitSide:
    """One fit as its trainer sees it.

    Attributes:
        fit: The fit.
        generated: Variables that are generated, ancestors before descendants; some may not be in the data.
        given: Variables whose values come from the data.
        layout: Columns of the critic.
        train: Rows to train on.
        held: Rows to judge by; those to train on where none are held out.
    """

    fit: Fit
    generated: tuple[str, ...]
    given: tuple[str, ...]
    layout: Layout
    train: PooledRows
    held: PooledRows

    @property
    def compared(self) -> list[str]:
        """Generated variables that the data show."""
        return [name for name in self.generated if name in self.layout.slices]


class Draw(NamedTuple):
    """Generated rows with the noise behind them: all that is needed to make one variable again.

    Attributes:
        values: For every fit the values by variable, given ones included; ``n`` rows of each fit.
        states: States of every confounder, one-hot ``[fits * n, states]`` or codes, the fits one after another.
        noise: Own noise of every variable, for the rows of those fits that generate it.
    """

    values: list[dict[str, Tensor]]
    states: dict[int, Tensor]
    noise: dict[str, Tensor]


class Generators:
    """Mechanisms and priors that generate the rows of several fits, each variable for all of its fits in one call.

    Args:
        dcm: The model.
        sides: The fits.
        members: Variables whose mechanisms are trained; the priors of their confounders are trained too.

    Attributes:
        mechanisms: All mechanisms that generate, by name, in topological order.
        makers: For every mechanism the places of the fits that generate it.
        confounders: Indices of the confounders that are drawn.
        trained: Indices of those whose priors are trained.
        parameters: Parameters of the trained mechanisms, then the trained priors.
        states: Columns of each confounder's states in the noise of the races.
        raced: Columns of each categorical variable there.
        width: Number of those columns.
    """

    def __init__(self, dcm: DCM, sides: Sequence[FitSide], members: Collection[str]) -> None:
        self.dcm = dcm
        self.members = [node for node in dcm.order if node in members]
        self.device = next(dcm.parameters()).device
        self.fits = len(sides)
        makers = {node: [place for place, side in enumerate(sides) if node in side.generated] for node in dcm.order}
        self.makers = {node: places for node, places in makers.items() if places}
        self.mechanisms: dict[str, Mechanism] = {node: dcm.mechanism(node) for node in self.makers}
        self.confounders = sorted({index for node in self.makers for index in dcm.latents[node]})
        self.trained = sorted({index for node in self.members for index in dcm.latents[node]})
        self.parameters: list[nn.Parameter] = [
            *(one for node in self.members for one in dcm.mechanism(node).parameters() if one.requires_grad),
            *(dcm.priors[index] for index in self.trained),
        ]
        # the race of states and of categorical variables is run with one tensor of noise
        sizes = [len(dcm.priors[index]) for index in self.confounders]
        raced = [node for node, mechanism in self.mechanisms.items() if mechanism.noise_kind == "gumbel"]
        spans = _spans([*sizes, *(self.mechanisms[node].noise_size for node in raced)])
        self._packing = kernels.Packing(sizes, device=self.device) if sizes else None
        self.states = dict(zip(self.confounders, spans, strict=False))
        self.raced = dict(zip(raced, spans[len(sizes) :], strict=True))
        self.width = spans[-1].stop if spans else 0

    def draw(
        self, given: Sequence[Mapping[str, Tensor]], race: Tensor, temperature: float, generator: torch.Generator
    ) -> Draw:
        """Generate rows of every fit, with a gradient.

        Args:
            given: For every fit the values of its given variables, ``n`` rows each; categorical ones one-hot.
            race: Gumbel noise of states and of categorical variables, ``[fits * n, width]``.
            temperature: Of the softmax whose gradient a draw has.
            generator: Source of all other noise.
        """
        states = self._draw_states(race, temperature)
        return self._generate(given, states, race, temperature, generator)

    def sample(self, given: Sequence[Mapping[str, Tensor]], rows: int, generator: torch.Generator) -> Draw:
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
    ) -> Draw:
        rows = len(race) // self.fits
        values: list[dict[str, Tensor]] = [dict(one) for one in given]
        own: dict[str, Tensor] = {}
        for node, makers in self.makers.items():
            if node in self.raced:
                own[node] = self._of(node, race[:, self.raced[node]], rows)
            else:
                size = (len(makers) * rows, self.mechanisms[node].noise_size)
                own[node] = torch.randn(size, generator=generator, device=self.device)
            value = self._value(node, values, states, own[node], temperature)
            for place, fit in enumerate(makers):
                values[fit][node] = value[place * rows : (place + 1) * rows]
        return Draw(values, states, own)

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
        """A variable for all fits that generate it: codes without a temperature, one-hot rows with one."""
        mechanism, makers = self.mechanisms[node], self.makers[node]
        rows = len(noise) // len(makers)
        latents = [self._of(node, states[index], rows) for index in self.dcm.latents[node]]
        parents = {parent: _joined([values[fit][parent] for fit in makers]) for parent in self.dcm.parents(node)}
        if temperature is None:
            drawn: Tensor = mechanism(parents, latents, noise)
            return drawn
        if mechanism.variable.kind != "categorical" or type(mechanism).relaxed is not Mechanism.relaxed:
            return mechanism.relaxed(parents, latents, noise, temperature)
        # one that knows codes alone: it is not trained, and no gradient passes through it
        codes = {
            parent.name: parents[parent.name].argmax(1) if parent.kind == "categorical" else parents[parent.name]
            for parent in mechanism.parents
        }
        drawn = mechanism(codes, [state.argmax(1) for state in latents], noise)
        return nn.functional.one_hot(drawn, mechanism.variable.num_levels).float()

    def _of(self, node: str, value: Tensor, rows: int) -> Tensor:
        """Rows of the fits that generate a variable, of a tensor that holds those of all fits one after another."""
        makers = self.makers[node]
        if len(makers) == self.fits:
            return value
        return _joined([value[fit * rows : (fit + 1) * rows] for fit in makers])

    def idle(self, draw: Draw, generator: torch.Generator) -> tuple[str, ...]:
        """Trained confounders that carry no information.

        A confounder is there to make two children depend on each other. Its state is drawn anew, everything else left
        as it is; if that changes fewer than two of its children, nothing depends through it.

        Args:
            draw: Generated rows, from :meth:`sample`.
            generator: Source of the new states.
        """
        found = []
        for index in self.trained:
            if index not in self.confounders:
                continue
            state = draw.states[index]
            other = state[torch.randperm(len(state), generator=generator, device=self.device)]
            children = [node for node in self.members if index in self.dcm.latents[node] and node in self.makers]
            if sum(self._moves(node, draw, {**draw.states, index: other}) for node in children) < 2:
                found.append(self.dcm.confounders[index])
        return tuple(found)

    def _moves(self, node: str, draw: Draw, states: Mapping[int, Tensor]) -> bool:
        before = _joined([draw.values[fit][node] for fit in self.makers[node]])
        after = self._value(node, draw.values, states, draw.noise[node], None)
        if self.mechanisms[node].variable.kind == "categorical":
            return float((before != after).double().mean()) > _MOVED
        return float((before - after).square().mean()) > _MOVED**2 * float(before.var())


def gumbel_(uniform: Tensor) -> Tensor:
    """Gumbel noise in place of numbers that are uniform over multiples of 2^-24 in [0, 1)."""
    # neither end may become infinite
    return uniform.clamp_(2.0**-25, 1 - 2.0**-24).log_().neg_().log_().neg_()


def prepare_mechanisms(
    dcm: DCM, hnode: HNode, data: Mapping[str, Encoded], masks: Mapping[str, NDArray[np.bool_]]
) -> None:
    """Let the mechanisms of an h-node measure scales and frequencies on rows that show them and all of their parents.

    Args:
        dcm: The model.
        hnode: Whose mechanisms are prepared; those with an image among their columns, or in no data set, are not.
        data: Data sets by name.
        masks: For every data set of the h-node's fits which rows are held out.
    """
    device = next(dcm.parameters()).device
    for node in hnode.variables:
        needed = (node, *dcm.parents(node))
        rows = {
            name: np.flatnonzero(~masks[name])
            for fit in hnode.fits
            if node in fit.variables
            for name in fit.datasets
            if all(one in data[name] for one in needed) and node not in data[name].do
        }
        if not rows or any(dcm.schema[one].kind == "image" for one in needed):
            continue
        values = {}
        for one in needed:
            parts = [np.asarray(data[name][one])[kept] for name, kept in rows.items()]
            values[one] = torch.from_numpy(np.concatenate(parts)).to(device)
        dcm.mechanism(node).prepare({one: values[one] for one in needed[1:]}, values[node])


def _spans(sizes: Sequence[int]) -> list[slice]:
    ends = list(itertools.accumulate(sizes))
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
