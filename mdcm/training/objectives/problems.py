"""What is minimised for one h-node: a loss over some of its rows, in the parameters of its mechanisms."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
    "SingleProblem",
    "assign",
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
    """Modules whose losses are minimised side by side; every tensor has the modules as its first axis.

    Attributes:
        schedule: Of the optimiser.
        parameters: What is trained.
        decays: Weight decay of each parameter.
        refit: Whether to train again on all rows.
        device: Where the parameters are.
        repeats: Whether the losses are the same function of the parameters at every step.
    """

    schedule: Schedule
    parameters: list[nn.Parameter]
    decays: list[float]
    refit: bool
    device: torch.device
    repeats: bool

    @property
    def weights(self) -> list[Tensor]:
        """Views of the parameters, ``[M, ...]``, without gradient."""

    def set_training(self, rows: Sequence[Tensor | None]) -> None:
        """Train every module on these rows of its own from now on; None means all of them."""

    def set_validation(self, rows: Sequence[Tensor]) -> None:
        """Validate every module on these rows of its own from now on."""

    def losses(self, step: int) -> Tensor:
        """Training losses of one step, ``[M]``."""

    def validate(self) -> list[Losses]:
        """Losses of every module on its held-out rows, without gradients."""

    def validation(self, index: int, loss: Tensor) -> Losses:
        """Losses of a module's held-out rows that :meth:`validate` gave before."""

    def constrain(self) -> None:
        """Project the parameters onto their constraints, after a step."""

    def narrow(self, indices: Sequence[int]) -> None:
        """Train only these modules from now on; rows must be set anew."""

    def restart(self) -> None:
        """Train all modules again."""

    def store(self, weights: Sequence[Tensor]) -> None:
        """Put weights of all modules, those no longer trained included, into their mechanisms."""


class SingleProblem(ABC):
    """One h-node by itself, whose mechanisms are trained where they are: a stack of one module."""

    schedule: Schedule
    parameters: list[nn.Parameter]
    decays: list[float]
    refit: bool
    device: torch.device
    # batches and noise differ from step to step
    repeats = False
    # of the held-out rows, and the standard errors allowed on them
    sample: Sample
    errors: float

    @abstractmethod
    def begin(self, rows: Tensor | None) -> None:
        """Train on these rows of the h-node from now on; None means all of them."""

    @abstractmethod
    def loss(self, step: int) -> Tensor:
        """Training loss of one step, a scalar."""

    @abstractmethod
    def hold(self, rows: Tensor) -> None:
        """Validate on these rows from now on."""

    @abstractmethod
    def evaluate(self) -> Losses:
        """Losses on the held-out rows, without gradients."""

    @abstractmethod
    def distinct(self, values: Tensor) -> Tensor:
        """Values of held-out rows, fit by fit, as :meth:`evaluate` has them: one for all rows that are equal."""

    @abstractmethod
    def move(self, device: torch.device) -> None:
        """Put the parameters on a device."""

    def constrain(self) -> None:  # noqa: B027
        """Leave the parameters as they are: they have no constraints."""

    @property
    def weights(self) -> list[Tensor]:
        """Views of the parameters, ``[1, ...]``, without gradient."""
        return [parameter.detach()[None] for parameter in self.parameters]

    def set_training(self, rows: Sequence[Tensor | None]) -> None:
        """Train on these rows from now on; None means all of them."""
        self.begin(rows[0])

    def set_validation(self, rows: Sequence[Tensor]) -> None:
        """Validate on these rows from now on."""
        self.hold(rows[0])

    def losses(self, step: int) -> Tensor:
        """Training loss of one step, ``[1]``."""
        return self.loss(step).view(1)

    def validate(self) -> list[Losses]:
        """Losses on the held-out rows, without gradients."""
        return [self.evaluate()]

    def validation(self, index: int, loss: Tensor) -> Losses:
        """Losses of the held-out rows that :meth:`validate` gave before."""
        return Losses(loss, self.sample, self.errors)

    def narrow(self, indices: Sequence[int]) -> None:
        """Keep the one module that there is."""
        assert list(indices) == [0]

    def restart(self) -> None:  # noqa: B027
        """Go on where the parameters are."""

    def store(self, weights: Sequence[Tensor]) -> None:
        """Put weights, ``[1, ...]``, into the mechanisms."""
        assign(self.weights, weights)
        self.constrain()


@torch.no_grad()
def assign(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy numbers, shape by shape."""
    for target, source in zip(targets, sources, strict=True):
        if target.shape != source.shape:
            raise RuntimeError(f"a tensor has the shape {list(source.shape)}, not {list(target.shape)}")
        target.copy_(source)


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


class ComponentProblem(SingleProblem):
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
        """Validate on these rows from now on."""
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


class ConditionalProblem(SingleProblem):
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
        """Validate on these rows from now on."""
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
