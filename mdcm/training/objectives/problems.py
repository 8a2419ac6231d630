"""Training problems of h-nodes: losses over some of their rows, as functions of the parameters of mechanisms."""

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
from mdcm.training.config import Schedule, TrainConfig
from mdcm.training.devices import CPU
from mdcm.training.losses import MIN_ERRORS, HeldOutLosses, HeldOutSample, effective_rows
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

# largest number of distinct rows for which every step sees all of them
FULL_BATCH_ROWS = 4000
_EVALUATION_ROWS = 2048
_STEPS = 400
_BATCHED_STEPS = 400
_IMAGE_STEPS = 800
# largest tolerance of early stopping, in standard errors: a larger one would excuse overfitting on a few dozen held-out
# rows, and with MIN_ERRORS chance stops a fit early that has nothing to overfit
_MAX_ERRORS = 2.0
# rows per distinct row for which the tolerance is one standard error
_ROWS_PER_ERROR = 20


class Problem(Protocol):
    """Losses of modules that are trained side by side; every tensor has the modules as its first axis.

    Attributes:
        schedule: Schedule of the optimiser.
        parameters: Trained parameters.
        decays: Weight decay of each parameter.
        refit: Whether to train again on all rows.
        device: Device of the parameters.
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
        """Set the training rows of every module; None stands for all rows."""

    def set_validation(self, rows: Sequence[Tensor]) -> None:
        """Set the held-out rows of every module."""

    def losses(self, step: int) -> Tensor:
        """Training losses of one step, ``[M]``."""

    def validate(self) -> list[HeldOutLosses]:
        """Losses of every module on its held-out rows, without gradients."""

    def validation(self, index: int, loss: Tensor) -> HeldOutLosses:
        """Restore an earlier result of :meth:`validate` for one module."""

    def constrain(self) -> None:
        """Project the parameters onto their constraints, after a step."""

    def narrow(self, indices: Sequence[int]) -> None:
        """Train only these modules from now on; training and validation rows must be set again."""

    def restart(self) -> None:
        """Train all modules again."""

    def store(self, weights: Sequence[Tensor]) -> None:
        """Write weights of all modules, including finished ones, into their mechanisms."""


class SingleProblem(ABC):
    """One h-node by itself, trained directly in the parameters of its mechanisms: a stack of one module."""

    schedule: Schedule
    parameters: list[nn.Parameter]
    decays: list[float]
    refit: bool
    device: torch.device
    # batches and noise differ from step to step
    repeats = False
    # the held-out rows, and the tolerance of validations on them
    sample: HeldOutSample
    errors: float

    @abstractmethod
    def train_on(self, rows: Tensor | None) -> None:
        """Set the training rows of the h-node; None stands for all rows."""

    @abstractmethod
    def loss(self, step: int) -> Tensor:
        """Training loss of one step, a scalar."""

    @abstractmethod
    def validate_on(self, rows: Tensor) -> None:
        """Set the held-out rows of the h-node."""

    @abstractmethod
    def evaluate(self) -> HeldOutLosses:
        """Losses on the held-out rows, without gradients."""

    @abstractmethod
    def distinct(self, values: Tensor) -> Tensor:
        """Values of held-out rows, fit by fit, with equal rows merged as by :meth:`evaluate`."""

    @abstractmethod
    def move(self, device: torch.device) -> None:
        """Move the parameters to a device."""

    def constrain(self) -> None:  # noqa: B027
        """No constraints."""

    @property
    def weights(self) -> list[Tensor]:
        """Views of the parameters, ``[1, ...]``, without gradient."""
        return [parameter.detach()[None] for parameter in self.parameters]

    def set_training(self, rows: Sequence[Tensor | None]) -> None:
        """Set the training rows; None stands for all rows."""
        self.train_on(rows[0])

    def set_validation(self, rows: Sequence[Tensor]) -> None:
        """Set the held-out rows."""
        self.validate_on(rows[0])

    def losses(self, step: int) -> Tensor:
        """Training loss of one step, ``[1]``."""
        return self.loss(step).view(1)

    def validate(self) -> list[HeldOutLosses]:
        """Losses on the held-out rows, without gradients."""
        return [self.evaluate()]

    def validation(self, index: int, loss: Tensor) -> HeldOutLosses:
        """Restore an earlier result of :meth:`validate`."""
        return HeldOutLosses(loss, self.sample, self.errors)

    def narrow(self, indices: Sequence[int]) -> None:
        """Keep the only module."""
        assert list(indices) == [0]

    def restart(self) -> None:  # noqa: B027
        """Keep the parameters."""

    def store(self, weights: Sequence[Tensor]) -> None:
        """Write weights, ``[1, ...]``, into the mechanisms."""
        assign(self.weights, weights)
        self.constrain()


@torch.no_grad()
def assign(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy tensors; RuntimeError if shapes differ."""
    for target, source in zip(targets, sources, strict=True):
        if target.shape != source.shape:
            raise RuntimeError(f"a tensor has the shape {list(source.shape)}, not {list(target.shape)}")
        target.copy_(source)


def errors_allowed(rows: float, distinct: int) -> float:
    """Tolerance of early stopping, in standard errors: larger if few distinct rows leave little to overfit.

    Example:
        >>> errors_allowed(100, 50), errors_allowed(1000, 50), errors_allowed(100_000, 50)
        (0.3333333333333333, 1.0, 2.0)
    """
    return min(max(rows / max(distinct, 1) / _ROWS_PER_ERROR, MIN_ERRORS), _MAX_ERRORS)


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
        draws: Number of joint states of the confounders to draw per step; None for the exact sum.
        device: Device of the training; the mechanisms are moved there.

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
        self.parameters = list(self.likelihood.parameters())
        self.tabular = all(isinstance(mechanism, Categorical) for mechanism in self.mechanisms.values())
        self.fits = tuple(fits)
        self.seed = seed
        self.reads_images = any(parent.kind == "image" for m in self.mechanisms.values() for parent in m.parents)
        self.schedule = full_batch_schedule(config)
        rows = sum(len(fit.index) for fit in fits)
        if self.reads_images:
            self.schedule = replace(
                self.schedule,
                batch_size=config.batch_size or 400,
                learning_rate=config.learning_rate or 4e-3,
                weight_decay=1e-3,
            )
        elif not self.tabular:
            # sums of densities over states are costly, and a batch of rows is as informative
            defaults = [m.training_defaults(rows) for m in self.mechanisms.values() if not isinstance(m, Categorical)]
            self.schedule = replace(
                self.schedule,
                steps=config.max_steps or max(int(each["steps"]) for each in defaults),
                batch_size=config.batch_size or min(int(each["batch_size"]) for each in defaults),
                learning_rate=config.learning_rate or min(float(each["learning_rate"]) for each in defaults),
                weight_decay=1e-3,
            )
        self.decays = decays(self.parameters, self.mechanisms.values(), self.schedule.weight_decay, rows)
        self._break_symmetry(len(used))
        self.generator = torch.Generator()
        self.train_on(None)
        # with images or batches, training again costs more than the held-out tenth of the rows is worth
        self.refit = not self.reads_images and (self._full_batch or not self.tabular)
        if config.max_steps is None and not self._full_batch and (self.tabular or self.reads_images):
            # a step on a batch gains less than a step on all rows
            steps = _IMAGE_STEPS if self.reads_images else _BATCHED_STEPS
            self.schedule = replace(self.schedule, steps=steps)
        effective = effective_rows(fit.mass() for fit in self.fits)
        self.errors = errors_allowed(effective, sum(len(part) for part in self.parts))
        if not self.tabular and not self.reads_images:
            self.errors = min(float(each["errors"]) for each in defaults)
        for name, mechanism in self.mechanisms.items():
            values = next((fit.values for fit in fits if name in fit.variables), None)
            if values is not None:
                mechanism.prepare(
                    {parent.name: float_pixels(values[parent.name]) for parent in mechanism.parents},
                    float_pixels(values[name]),
                )
        # after initial measurements, which are made on the device of the rows
        self.move(device)

    def move(self, device: torch.device) -> None:
        """Move the parameters to a device."""
        self.likelihood.to(device)

    @property
    def _full_batch(self) -> bool:
        rows = sum(len(part) for part in self.parts)
        return rows <= max(self.schedule.batch_size, FULL_BATCH_ROWS if self.tabular and not self.reads_images else 0)

    def _break_symmetry(self, confounders: int) -> None:
        """Initialise one child per confounder to be nearly determined by it, where its mechanism can be."""
        determined: set[str] = set()
        for confounder in range(confounders):
            for name, latents in self.likelihood.latents.items():
                free = confounder in latents and name not in determined
                if free and self.mechanisms[name].follow(latents.index(confounder)):
                    determined.add(name)
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

    def train_on(self, rows: Tensor | None) -> None:
        """Set the training rows; None stands for all rows."""
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
        # stratified batches: one row from each of equal shares of the weight of the sorted rows
        self.generator.manual_seed(derived_seed(self.seed, step))
        losses = []
        for part, share, cumulative in zip(self.parts, self.shares, self.cumulative, strict=True):
            size = max(1, round(self.schedule.batch_size * share))
            quantiles = (torch.arange(size) + torch.rand(size, generator=self.generator, dtype=torch.float64)) / size
            chosen = torch.searchsorted(cumulative, quantiles * cumulative[-1]).clamp_max(len(part) - 1)
            losses.append(-self.likelihood(part.select(chosen).to(self.device)).mean())
        return _total(losses, self.shares)

    def validate_on(self, rows: Tensor) -> None:
        """Set the held-out rows."""
        self.held_out = self._parts(rows)
        pairs = [(fit, fit.local(rows)) for fit in self.fits]
        fits, chosen = zip(*((fit, local) for fit, local in pairs if local is None or len(local)), strict=True)
        merged = [part.merged_rows() for part in self.held_out]
        self.sample = HeldOutSample.build(fits, chosen, merged)

    def distinct(self, values: Tensor) -> Tensor:
        """Values of held-out rows, fit by fit, with equal rows merged as by :meth:`evaluate`."""
        parts = torch.split(values, [part.rows for part in self.held_out])
        first = [np.unique(part.merged_rows()[0], return_index=True)[1] for part in self.held_out]
        return torch.cat([part[torch.from_numpy(rows)] for part, rows in zip(parts, first, strict=True)])

    @torch.no_grad()
    def evaluate(self) -> HeldOutLosses:
        """Losses on the held-out rows, without gradients."""
        # the same draws in every validation, so that only the weights differ
        self.likelihood.generator.manual_seed(derived_seed(self.seed, "evaluate"))
        losses = [
            -self.likelihood(part.select(chosen).to(self.device))
            for part in self.held_out
            for chosen in torch.split(torch.arange(len(part)), _EVALUATION_ROWS)
        ]
        return HeldOutLosses(torch.cat(losses), self.sample, self.errors)


def decays(
    parameters: Sequence[nn.Parameter], mechanisms: Iterable[Mechanism], otherwise: float, rows: int
) -> list[float]:
    """Weight decay of each parameter: the mechanism's own for mechanisms other than categorical, else ``otherwise``."""
    by_parameter: dict[nn.Parameter, float] = {}
    for mechanism in mechanisms:
        if not isinstance(mechanism, Categorical):
            by_parameter |= dict.fromkeys(mechanism.parameters(), 0.0)
            by_parameter |= dict.fromkeys(
                mechanism.decaying(), float(mechanism.training_defaults(rows)["weight_decay"])
            )
    return [by_parameter.get(parameter, otherwise) for parameter in parameters]


def _shares(parts: Sequence[ComponentRows]) -> list[float]:
    """Share of each fit's rows in the total weight."""
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
        fit: The rows of the fit.
        config: Settings.
        seed: Seed of batches and of the loss's own noise.
        device: Device of the training; the mechanism is moved there, and so are the rows of every step.
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
        # training again with images takes minutes, and the held-out tenth of the rows adds little
        self.refit = not any(v.kind == "image" for v in (mechanism.variable, *mechanism.parents))
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
        """Move the parameters to a device."""
        self.mechanism.to(device)

    def train_on(self, rows: Tensor | None) -> None:
        """Set the training rows; None stands for all rows."""
        local = self.fit.local(rows)
        self.training = torch.arange(len(self.value)) if local is None else local
        self.probability = None if self.fit.weight is None else self.fit.weight[self.training]

    def _losses(self, rows: Tensor) -> Tensor:
        parents = {name: float_pixels(value[rows].to(self.device)) for name, value in self.inputs.items()}
        return self.mechanism.conditional_loss(parents, float_pixels(self.value[rows].to(self.device)), self.generator)

    def loss(self, step: int) -> Tensor:
        """Training loss of one step, a scalar."""
        self.generator.manual_seed(derived_seed(self.seed, step))
        size = self.schedule.batch_size
        if self.probability is None:
            positions = torch.randint(len(self.training), (size,), generator=self.generator)
        else:
            positions = torch.multinomial(self.probability, size, replacement=True, generator=self.generator)
        return self._losses(self.training[positions]).mean()

    def validate_on(self, rows: Tensor) -> None:
        """Set the held-out rows."""
        held_out = self.fit.local(rows)
        assert held_out is not None
        self.held_out = held_out
        self.sample = HeldOutSample.build([self.fit], [held_out])

    def distinct(self, values: Tensor) -> Tensor:
        """Values of held-out rows, unchanged, because equal rows are not merged."""
        return values

    @torch.no_grad()
    def evaluate(self) -> HeldOutLosses:
        """Losses on the held-out rows, without gradients."""
        # the same noise in every validation, so that only the weights differ
        self.generator.manual_seed(derived_seed(self.seed, "evaluate"))
        losses = torch.cat([self._losses(part) for part in torch.split(self.held_out, _EVALUATION_ROWS)])
        return HeldOutLosses(losses, self.sample, self.errors)
