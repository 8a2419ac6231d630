"""What is minimised for one h-node: a loss over some of its rows, in the parameters of its mechanisms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mdcm.dcm import DCM, derived_seed
from mdcm.mechanisms import Categorical, Mechanism, float_pixels
from mdcm.training.config import CPU, Schedule, TrainConfig
from mdcm.training.losses import FEWEST_ERRORS, Losses, Sample, effective_rows
from mdcm.training.objectives.likelihood import ComponentLikelihood, ComponentRows
from mdcm.training.rows import FitRows

__all__ = [
    "FULL_BATCH_ROWS",
    "ComponentProblem",
    "ConditionalProblem",
    "Problem",
    "decays",
    "errors_allowed",
    "full_batch_schedule",
]

# up to this many distinct rows every step sees all of them
FULL_BATCH_ROWS = 4000
_EVALUATION_ROWS = 2048
_STEPS = 400
_BATCHED_STEPS = 400
_READING_STEPS = 800
# standard errors by which a look may be worse than the best one and still be as good, at the most: with two, a few
# dozen held-out rows would excuse any overfitting, and with the fewest, a third, chance stops a fit early that has
# nothing to overfit
_MOST_ERRORS = 2.0
# rows for each distinct one at which a whole standard error is allowed
_ROWS_PER_CELL = 20


class Problem(Protocol):
    """One h-node's training problem: a loss over some of the rows, in some of the parameters."""

    schedule: Schedule
    parameters: list[nn.Parameter]
    decays: list[float]
    refit: bool
    # of the held-out rows, and what is allowed on them
    sample: Sample
    errors: float

    def begin(self, rows: Tensor | None) -> None:
        """Train on these rows of the h-node from now on; None means all of them."""

    def loss(self, step: int) -> Tensor:
        """Training loss of one step, a scalar."""

    def hold(self, rows: Tensor) -> None:
        """Judge on these rows from now on."""

    def evaluate(self) -> Losses:
        """Losses on the held-out rows, without gradients."""

    def distinct(self, values: Tensor) -> Tensor:
        """Values of held-out rows, fit by fit, as :meth:`evaluate` has them: one for all rows that are equal."""

    def move(self, device: torch.device) -> None:
        """Put the parameters on a device."""

    def constrain(self) -> None:
        """Put the parameters back to where they may be, after a step."""


def errors_allowed(rows: float, distinct: int) -> float:
    """Standard errors by which a look may be worse: more where so few distinct rows leave little to overfit.

    Example:
        >>> errors_allowed(100, 50), errors_allowed(1000, 50), errors_allowed(100_000, 50)
        (0.3333333333333333, 1.0, 2.0)
    """
    return min(max(rows / max(distinct, 1) / _ROWS_PER_CELL, FEWEST_ERRORS), _MOST_ERRORS)


def full_batch_schedule(config: TrainConfig) -> Schedule:
    """Schedule of a likelihood over categorical variables, every step of which sees all rows."""
    return Schedule(
        steps=config.max_steps or _STEPS,
        batch_size=config.batch_size or 1000,
        learning_rate=config.learning_rate or 1e-2,
        weight_decay=0.1,
        betas=(0.9, 0.999),
        ema=0.98,
        warmup=30,
    )


class ComponentProblem:
    """Likelihood of a c-component whose mechanisms all have densities, summed over the fits of the plan.

    Args:
        dcm: The model.
        members: Variables of the h-node in topological order.
        fits: The rows of every fit; each adds the c-factor of its own variables at its own rows.
        config: Settings.
        seed: Seed of batches and draws.
        draws: Joint states of the confounders that are drawn per step; None for the exact sum.
        device: Where to train; the mechanisms are moved there.

    Raises:
        TypeError: If a mechanism has no density.
    """

    def __init__(
        self,
        dcm: DCM,
        members: Sequence[str],
        fits: Sequence[FitRows],
        config: TrainConfig,
        seed: int,
        draws: int | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.device = device
        self.mechanisms: dict[str, Mechanism] = {name: dcm.mechanism(name) for name in members}
        used = sorted({index for name in members for index in dcm.latents[name]})
        latents = {name: [used.index(index) for index in dcm.latents[name]] for name in members}
        self.likelihood = ComponentLikelihood(self.mechanisms, latents, [dcm.priors[index] for index in used], draws)
        self.confounders = {dcm.confounders[index]: place for place, index in enumerate(used)}
        self.parameters = list(self.likelihood.parameters())
        self.tabular = all(isinstance(mechanism, Categorical) for mechanism in self.mechanisms.values())
        self.fits = tuple(fits)
        self.seed = seed
        self.seeing = any(parent.kind == "image" for m in self.mechanisms.values() for parent in m.parents)
        self.schedule = full_batch_schedule(config)
        rows = sum(len(fit.place) for fit in fits)
        if self.seeing:
            self.schedule = replace(
                self.schedule,
                batch_size=config.batch_size or 400,
                learning_rate=config.learning_rate or 4e-3,
                weight_decay=1e-3,
            )
        elif not self.tabular:
            # sums of densities over states are costly, and learn as much from a sample of the rows
            own = [one.training_defaults(rows) for one in self.mechanisms.values() if not isinstance(one, Categorical)]
            self.schedule = replace(
                self.schedule,
                steps=config.max_steps or max(int(one["steps"]) for one in own),
                batch_size=config.batch_size or min(int(one["batch_size"]) for one in own),
                learning_rate=config.learning_rate or min(float(one["learning_rate"]) for one in own),
                weight_decay=1e-3,
            )
        self.decays = decays(self.parameters, self.mechanisms.values(), self.schedule.weight_decay, rows)
        self._lean()
        self.generator = torch.Generator()
        self.begin(None)
        # another reading of images, or of as many categorical rows, costs more than a tenth of them is worth
        self.refit = not self.seeing and (self._full_batch or not self.tabular)
        if config.max_steps is None and not self._full_batch and (self.tabular or self.seeing):
            # a step that sees a sample of the rows teaches less than one that sees them all
            steps = _READING_STEPS if self.seeing else _BATCHED_STEPS
            self.schedule = replace(self.schedule, steps=steps)
        worth = effective_rows(fit.mass() for fit in self.fits)
        self.errors = errors_allowed(worth, sum(len(part) for part in self.parts))
        if not self.tabular and not self.seeing:
            self.errors = min(float(one["errors"]) for one in own)
        for name, mechanism in self.mechanisms.items():
            values = next((fit.values for fit in fits if name in fit.variables), None)
            if values is not None:
                mechanism.prepare(
                    {parent.name: float_pixels(values[parent.name]) for parent in mechanism.parents},
                    float_pixels(values[name]),
                )
        # after what is measured on the rows, which happens where they are
        self.move(device)

    def move(self, device: torch.device) -> None:
        """Put the parameters on a device."""
        self.likelihood.to(device)

    def constrain(self) -> None:
        """There is nothing that they may not be."""

    @property
    def _full_batch(self) -> bool:
        rows = sum(len(part) for part in self.parts)
        return rows <= max(self.schedule.batch_size, FULL_BATCH_ROWS if self.tabular and not self.seeing else 0)

    def _lean(self) -> None:
        """Let every confounder start with one child that it nearly determines, where a child can."""
        leaning: set[str] = set()
        for confounder in range(len(self.confounders)):
            for name, latents in self.likelihood.latents.items():
                follows = confounder in latents and name not in leaning
                if follows and self.mechanisms[name].follow(latents.index(confounder)):
                    leaning.add(name)
                    break

    def _parts(self, rows: Tensor | None) -> list[ComponentRows]:
        parts = []
        for fit in self.fits:
            chosen = fit.local(rows)
            if chosen is not None and not len(chosen):
                continue
            values, weight = fit.values, fit.weight
            if chosen is not None:
                values = {name: value[chosen] for name, value in values.items()}
                weight = None if weight is None else weight[chosen]
            parts.append(ComponentRows.build({name: self.mechanisms[name] for name in fit.variables}, values, weight))
        return parts

    def begin(self, rows: Tensor | None) -> None:
        """Train on these rows from now on; None means all of them."""
        self.parts = self._parts(rows)
        self.shares = _shares(self.parts)
        self.cumulative = [part.weight.double().cumsum(0) for part in self.parts]
        if self._full_batch:
            self.parts = [part.to(self.device) for part in self.parts]

    def loss(self, step: int) -> Tensor:
        """Training loss of one step, a scalar."""
        self.likelihood.generator.manual_seed(derived_seed(self.seed, "draws", step))
        if self._full_batch:
            return _total([self.likelihood.loss(part) for part in self.parts], self.shares)
        # one draw from each of as many equal shares of the weight: the rows are sorted, so a batch is spread evenly
        # over the whole table
        self.generator.manual_seed(derived_seed(self.seed, step))
        losses = []
        for part, share, cumulative in zip(self.parts, self.shares, self.cumulative, strict=True):
            size = max(1, round(self.schedule.batch_size * share))
            at = (torch.arange(size) + torch.rand(size, generator=self.generator, dtype=torch.float64)) / size
            chosen = torch.searchsorted(cumulative, at * cumulative[-1]).clamp_max(len(part) - 1)
            losses.append(-self.likelihood(part.select(chosen).to(self.device)).mean())
        return _total(losses, self.shares)

    def hold(self, rows: Tensor) -> None:
        """Judge on these rows from now on."""
        self.held = self._parts(rows)
        seen = [(fit, fit.local(rows)) for fit in self.fits]
        fits, chosen = zip(*((fit, own) for fit, own in seen if own is None or len(own)), strict=True)
        merged = [part.merged_rows() for part in self.held]
        self.sample = Sample.build(fits, chosen, merged)

    def distinct(self, values: Tensor) -> Tensor:
        """Values of held-out rows, fit by fit, as :meth:`evaluate` has them: one for all rows that are equal."""
        parts = torch.split(values, [part.rows for part in self.held])
        first = [np.unique(part.merged_rows()[0], return_index=True)[1] for part in self.held]
        return torch.cat([part[torch.from_numpy(rows)] for part, rows in zip(parts, first, strict=True)])

    @torch.no_grad()
    def evaluate(self) -> Losses:
        """Losses on the held-out rows, without gradients."""
        # the same draws at every look, so that looks differ by the weights alone
        self.likelihood.generator.manual_seed(derived_seed(self.seed, "evaluate"))
        losses = [
            -self.likelihood(part.select(chosen).to(self.device))
            for part in self.held
            for chosen in torch.split(torch.arange(len(part)), _EVALUATION_ROWS)
        ]
        return Losses(torch.cat(losses), self.sample, self.errors)


def decays(
    parameters: Sequence[nn.Parameter], mechanisms: Iterable[Mechanism], otherwise: float, rows: int
) -> list[float]:
    """Weight decay of each parameter: of a mechanism with a density its own, of any other the given one."""
    own: dict[nn.Parameter, float] = {}
    for mechanism in mechanisms:
        if not isinstance(mechanism, Categorical):
            own |= dict.fromkeys(mechanism.parameters(), 0.0)
            own |= dict.fromkeys(mechanism.decaying(), float(mechanism.training_defaults(rows)["weight_decay"]))
    return [own.get(parameter, otherwise) for parameter in parameters]


def _shares(parts: Sequence[ComponentRows]) -> list[float]:
    """Share of the whole weight that each fit's rows have."""
    total = sum(part.total for part in parts)
    return [part.total / total for part in parts]


def _total(losses: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    if len(losses) == 1:
        return losses[0]
    return torch.stack([loss * share for loss, share in zip(losses, shares, strict=True)]).sum()


class ConditionalProblem:
    """The conditional distribution of one unconfounded variable, by its mechanism's own loss.

    Args:
        mechanism: The mechanism.
        fit: The rows that it is learned from.
        config: Settings.
        seed: Seed of batches and of the loss's own noise.
        device: Where to train; the mechanism is moved there, and the rows of every step are.
    """

    def __init__(
        self, mechanism: Mechanism, fit: FitRows, config: TrainConfig, seed: int, device: torch.device = CPU
    ) -> None:
        self.mechanism = mechanism
        self.value = fit.values[mechanism.variable.name]
        self.inputs: Mapping[str, Tensor] = {parent.name: fit.values[parent.name] for parent in mechanism.parents}
        self.parameters = list(mechanism.parameters())
        self.decays = decays(self.parameters, [mechanism], 0.0, len(self.value))
        self.fit = fit
        self.seed = seed
        # a network that shows or reads images takes minutes, and what a tenth of the rows adds to it is small
        self.refit = not any(one.kind == "image" for one in (mechanism.variable, *mechanism.parents))
        defaults = mechanism.training_defaults(len(self.value))
        self.schedule = Schedule(
            steps=config.max_steps or int(defaults["steps"]),
            batch_size=config.batch_size or int(defaults["batch_size"]),
            learning_rate=config.learning_rate or float(defaults["learning_rate"]),
            weight_decay=float(defaults["weight_decay"]),
            betas=(float(defaults["betas"][0]), float(defaults["betas"][1])),
            ema=float(defaults["ema"]),
            warmup=int(defaults["warmup"]),
        )
        self.errors = float(defaults["errors"])
        self.generator = torch.Generator()
        mechanism.prepare({name: float_pixels(value) for name, value in self.inputs.items()}, float_pixels(self.value))
        self.device = device
        self.move(device)

    def move(self, device: torch.device) -> None:
        """Put the parameters on a device."""
        self.mechanism.to(device)

    def constrain(self) -> None:
        """There is nothing that they may not be."""

    def begin(self, rows: Tensor | None) -> None:
        """Train on these rows from now on; None means all of them."""
        local = self.fit.local(rows)
        self.chosen = torch.arange(len(self.value)) if local is None else local
        self.probability = None if self.fit.weight is None else self.fit.weight[self.chosen]

    def _losses(self, rows: Tensor) -> Tensor:
        parents = {name: float_pixels(value[rows].to(self.device)) for name, value in self.inputs.items()}
        return self.mechanism.conditional_loss(parents, float_pixels(self.value[rows].to(self.device)), self.generator)

    def loss(self, step: int) -> Tensor:
        """Training loss of one step, a scalar."""
        self.generator.manual_seed(derived_seed(self.seed, step))
        size = self.schedule.batch_size
        if self.probability is None:
            picked = torch.randint(len(self.chosen), (size,), generator=self.generator)
        else:
            picked = torch.multinomial(self.probability, size, replacement=True, generator=self.generator)
        return self._losses(self.chosen[picked]).mean()

    def hold(self, rows: Tensor) -> None:
        """Judge on these rows from now on."""
        held = self.fit.local(rows)
        assert held is not None
        self.held = held
        self.sample = Sample.build([self.fit], [held])

    def distinct(self, values: Tensor) -> Tensor:
        """Values of held-out rows, as they are: no two of them are taken for equal."""
        return values

    @torch.no_grad()
    def evaluate(self) -> Losses:
        """Losses on the held-out rows, without gradients."""
        # the same noise at every look, so that looks differ by the weights alone
        self.generator.manual_seed(derived_seed(self.seed, "evaluate"))
        losses = torch.cat([self._losses(part) for part in torch.split(self.held, _EVALUATION_ROWS)])
        return Losses(losses, self.sample, self.errors)
