"""Training by plan: h-nodes level by level, each fitted to exactly the distribution that the plan names."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mdcm.data import encode
from mdcm.dcm import DCM, MechanismFactory, derived_seed, one_thread
from mdcm.errors import MdcmError, PlanError
from mdcm.mechanisms import Categorical, Mechanism, float_pixels
from mdcm.objectives.likelihood import ComponentLikelihood, ComponentRows, largest_clique

if TYPE_CHECKING:
    from mdcm.data import Dataset, Schema
    from mdcm.graph import ADMG
    from mdcm.plan import HNode, Plan

__all__ = ["Progress", "TrainConfig", "choose_states", "train"]

# most combinations of confounder states in one step of a contraction, and most logits rows of one variable
_MOST_CLIQUE_STATES = 4096
_MOST_TABLE_ROWS = 32768
# up to this many distinct rows every step sees all of them
_FULL_BATCH_ROWS = 4000
_EVALUATION_ROWS = 2048
_STEPS = 400
_BATCHED_STEPS = 1000
_READING_STEPS = 800
_FEWEST_HELD_OUT = 20
_LOWEST_RATE = 1e-6
# looks at the held-out rows in a row that may be worse than the best before training gives up
_PATIENCE = 6
# standard errors by which a look may be worse than the best one and still be taken for as good; with a whole one, a
# few dozen held-out rows would excuse any overfitting, and with none, chance would stop a good fit early
_WITHIN = 1 / 3


@dataclass(frozen=True)
class TrainConfig:
    """Settings of training; None means the mechanism's or the objective's own default.

    Attributes:
        max_steps: Steps of the optimiser per h-node.
        batch_size: Rows per step; where at most 4,000 distinct rows exist, every step sees all of them.
        learning_rate: Highest learning rate of the schedule (short linear warm-up, then cosine to zero).
        confounder_states: States of every confounder; by default at least 8, at least the second largest number of
            levels among its children, and few enough that the exact sum over states fits in memory.
        holdout: Share of the rows that training does not see, to decide when to stop.
        refit: Whether to train again on all rows for as many steps as the held-out rows favoured.
        checks: How many times during training the held-out rows are looked at.
        max_minutes: Wall-clock limit for all h-nodes together; training then ends early with the weights it has.

    Raises:
        ValueError: If a value is out of range.
    """

    max_steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    confounder_states: int | None = None
    holdout: float = 0.1
    refit: bool = True
    checks: int = 30
    max_minutes: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "confounder_states", "checks"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        for name in ("learning_rate", "max_minutes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive, not {value!r}")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout must be in [0, 1), not {self.holdout!r}")

    def to_json(self) -> dict[str, Any]:
        """Settings as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Settings from :meth:`to_json`; unknown names are refused."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown training settings {unknown}; known ones are {sorted(known)}")
        return cls(**values)


class Progress(Protocol):
    """Who is told how training goes."""

    def start(self, hnode: tuple[str, ...], steps: int) -> None:
        """An h-node begins; it takes at most this many steps."""

    def step(self, hnode: tuple[str, ...], step: int) -> None:
        """So many steps are done."""

    def finish(self, hnode: tuple[str, ...]) -> None:
        """The h-node is trained."""


@dataclass(frozen=True)
class Schedule:
    """Optimiser settings of one h-node."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    ema: float
    warmup: int


@dataclass(frozen=True)
class Losses:
    """Losses on held-out rows.

    Attributes:
        loss: Loss of each distinct row, ``[n]``.
        weight: Share of the rows that each stands for, sums to one.
        rows: Number of rows, equal ones counted apart.
    """

    loss: Tensor
    weight: Tensor
    rows: int

    @property
    def mean(self) -> float:
        """Mean loss per row."""
        return float((self.loss * self.weight).sum())

    def worse_than(self, other: Losses) -> bool:
        """Whether the mean is higher than another one's on the same rows by more than a third of its standard error."""
        difference = self.loss - other.loss
        mean = (difference * self.weight).sum()
        variance = ((difference - mean).square() * self.weight).sum() / self.rows
        # written so that NaN counts as worse
        return not float(mean) <= _WITHIN * float(variance.sqrt())


class Problem(Protocol):
    """One h-node's training problem: a loss over some of the rows, in some of the parameters."""

    schedule: Schedule
    parameters: list[nn.Parameter]
    refit: bool

    def begin(self, rows: Tensor | None) -> None:
        """Train on these rows from now on; None means all of them."""

    def loss(self, step: int) -> Tensor:
        """Training loss of one step, a scalar."""

    def hold(self, rows: Tensor) -> None:
        """Judge on these rows from now on."""

    def evaluate(self) -> Losses:
        """Losses on the held-out rows, without gradients."""


class ComponentProblem:
    """Exact likelihood of a c-component of categorical variables."""

    def __init__(
        self,
        dcm: DCM,
        members: Sequence[str],
        values: Mapping[str, Tensor],
        weight: Tensor | None,
        config: TrainConfig,
        seed: int,
    ) -> None:
        self.mechanisms: dict[str, Mechanism] = {name: dcm.mechanism(name) for name in members}
        used = sorted({index for name in members for index in dcm.latents[name]})
        latents = {name: [used.index(index) for index in dcm.latents[name]] for name in members}
        self.likelihood = ComponentLikelihood(self.mechanisms, latents, [dcm.priors[index] for index in used])
        self.parameters = list(self.likelihood.parameters())
        self.values = values
        self.weight = weight
        self.seed = seed
        self.seeing = any(parent.kind == "image" for m in self.mechanisms.values() for parent in m.parents)
        # reading images again costs more than a tenth of the rows is worth
        self.refit = not self.seeing
        self.schedule = Schedule(
            steps=config.max_steps or _STEPS,
            batch_size=config.batch_size or (400 if self.seeing else 1000),
            learning_rate=config.learning_rate or (4e-3 if self.seeing else 1e-2),
            weight_decay=1e-3 if self.seeing else 0.1,
            betas=(0.9, 0.999),
            ema=0.98,
            warmup=30,
        )
        self.generator = torch.Generator()
        self.begin(None)
        if config.max_steps is None and not self._full_batch:
            # a step that sees a sample of the rows teaches less than one that sees them all
            self.schedule = replace(self.schedule, steps=_READING_STEPS if self.seeing else _BATCHED_STEPS)
        for name, mechanism in self.mechanisms.items():
            mechanism.prepare({parent.name: values[parent.name] for parent in mechanism.parents}, values[name])

    @property
    def _full_batch(self) -> bool:
        return len(self.rows) <= max(self.schedule.batch_size, 0 if self.seeing else _FULL_BATCH_ROWS)

    def _rows(self, rows: Tensor | None) -> ComponentRows:
        values, weight = self.values, self.weight
        if rows is not None:
            values = {name: value[rows] for name, value in values.items()}
            weight = None if weight is None else weight[rows]
        return ComponentRows.build(self.mechanisms, values, weight)

    def begin(self, rows: Tensor | None) -> None:
        self.rows = self._rows(rows)
        self.cumulative = self.rows.weight.double().cumsum(0)

    def loss(self, step: int) -> Tensor:
        if self._full_batch:
            return self.likelihood.loss(self.rows)
        # one draw from each of batch_size equal shares of the weight: the rows are sorted, so a batch is spread
        # evenly over the whole table
        self.generator.manual_seed(derived_seed(self.seed, step))
        size = self.schedule.batch_size
        at = (torch.arange(size) + torch.rand(size, generator=self.generator, dtype=torch.float64)) / size
        chosen = torch.searchsorted(self.cumulative, at * self.cumulative[-1]).clamp_max(len(self.rows) - 1)
        loss: Tensor = -self.likelihood(self.rows.select(chosen)).mean()
        return loss

    def hold(self, rows: Tensor) -> None:
        self.held = self._rows(rows)

    @torch.no_grad()
    def evaluate(self) -> Losses:
        parts = torch.split(torch.arange(len(self.held)), _EVALUATION_ROWS)
        losses = torch.cat([-self.likelihood(self.held.select(part)) for part in parts])
        return Losses(losses, self.held.weight, self.held.rows)


class ConditionalProblem:
    """The conditional distribution of one unconfounded variable, by its mechanism's own loss."""

    def __init__(
        self,
        mechanism: Mechanism,
        values: Mapping[str, Tensor],
        weight: Tensor | None,
        config: TrainConfig,
        seed: int,
    ) -> None:
        self.mechanism = mechanism
        self.value = values[mechanism.variable.name]
        self.inputs = {parent.name: values[parent.name] for parent in mechanism.parents}
        self.parameters = list(mechanism.parameters())
        self.weight = weight
        self.seed = seed
        # such a network takes minutes, and what a tenth of the rows adds to it is small
        self.refit = False
        defaults = mechanism.training_defaults()
        self.schedule = Schedule(
            steps=config.max_steps or int(defaults["steps"]),
            batch_size=config.batch_size or int(defaults["batch_size"]),
            learning_rate=config.learning_rate or float(defaults["learning_rate"]),
            weight_decay=float(defaults["weight_decay"]),
            betas=(float(defaults["betas"][0]), float(defaults["betas"][1])),
            ema=float(defaults["ema"]),
            warmup=int(defaults["warmup"]),
        )
        self.generator = torch.Generator()
        mechanism.prepare({name: float_pixels(value) for name, value in self.inputs.items()}, float_pixels(self.value))

    def begin(self, rows: Tensor | None) -> None:
        self.chosen = torch.arange(len(self.value)) if rows is None else rows
        self.probability = None if self.weight is None else self.weight[self.chosen]

    def _losses(self, rows: Tensor) -> Tensor:
        parents = {name: float_pixels(value[rows]) for name, value in self.inputs.items()}
        return self.mechanism.conditional_loss(parents, float_pixels(self.value[rows]), self.generator)

    def loss(self, step: int) -> Tensor:
        self.generator.manual_seed(derived_seed(self.seed, step))
        size = self.schedule.batch_size
        if self.probability is None:
            picked = torch.randint(len(self.chosen), (size,), generator=self.generator)
        else:
            picked = torch.multinomial(self.probability, size, replacement=True, generator=self.generator)
        return self._losses(self.chosen[picked]).mean()

    def hold(self, rows: Tensor) -> None:
        self.held = rows

    @torch.no_grad()
    def evaluate(self) -> Losses:
        # the same noise at every look, so that looks differ by the weights alone
        self.generator.manual_seed(derived_seed(self.seed, "evaluate"))
        weight = torch.ones(len(self.held)) if self.weight is None else self.weight[self.held].float()
        losses = torch.cat([self._losses(part) for part in torch.split(self.held, _EVALUATION_ROWS)])
        return Losses(losses, weight / weight.sum(), len(self.held))


def choose_states(
    graph: ADMG, schema: Schema, configurations: Mapping[str, int], requested: int | None = None
) -> dict[str, int]:
    """Number of states of every confounder.

    Args:
        graph: The ADMG.
        schema: Variables by name.
        configurations: Distinct parent configurations of each variable, or rows of a batch where they are not shared.
        requested: The user's number for all confounders, or None.

    Returns:
        States by confounder: the requested number, or at least 8 and at least the second largest number of levels
        among its children, reduced for a c-component as far as its exact sum would not fit in memory.
    """
    if requested is not None:
        return {name: requested for name, _ in graph.confounders}
    chosen = {}
    for name, children in graph.confounders:
        levels = sorted(len(schema[child].levels or ()) for child in children)
        chosen[name] = min(max(8, levels[-2]), 256)
    latents = {node: [name for name, children in graph.confounders if node in children] for node in graph.nodes}
    number = {name: i for i, (name, _) in enumerate(graph.confounders)}
    for component in graph.c_components():
        inside = [name for name, children in graph.confounders if set(children) <= set(component)]
        if not inside:
            continue
        clique = largest_clique([[number[name] for name in latents[node]] for node in sorted(component)])
        most = int(_MOST_CLIQUE_STATES ** (1 / clique) + 1e-9)
        for node in component:
            if latents[node]:
                most = min(most, int((_MOST_TABLE_ROWS / configurations[node]) ** (1 / len(latents[node])) + 1e-9))
        for name in inside:
            chosen[name] = min(chosen[name], max(most, 2))
    return chosen


def train(
    graph: ADMG,
    schema: Schema,
    plan: Plan,
    datasets: Sequence[Dataset],
    config: TrainConfig,
    *,
    factories: Mapping[str, MechanismFactory] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    log: Callable[[dict[str, Any]], None] | None = None,
) -> DCM:
    """Build a DCM and train every h-node of the plan, level by level.

    Args:
        graph: The ADMG.
        schema: Variables by name.
        plan: What is trained with what, against which data set.
        datasets: The data, already validated.
        config: Settings.
        factories: Constructors of mechanisms that are not the default ones.
        seed: Seed of initial weights, splits and batches.
        progress: Told how it goes.
        log: Receives one record per look at the held-out rows, and one per finished h-node.

    Returns:
        The trained model, in evaluation mode.

    Raises:
        PlanError: If an h-node needs an objective that its mechanisms do not have.
        MdcmError: If a loss is not finite; the message names h-node and step.
    """
    by_name = {dataset.name: dataset for dataset in datasets}
    tensors = {
        name: {key: _tensor(array) for key, array in encode(dataset, schema).items()}
        for name, dataset in by_name.items()
    }
    states = choose_states(graph, schema, _configurations(graph, schema, tensors), config.confounder_states)
    dcm = DCM(graph, schema, states, factories, seed=seed)
    deadline = None if config.max_minutes is None else time.monotonic() + 60 * config.max_minutes
    run = _Run(config, progress, log or (lambda record: None), deadline)
    for hnode in plan.hnodes:
        dataset = by_name[hnode.fits[0].datasets[0]]
        own_seed = derived_seed(seed, "fit", _id(dcm, hnode))
        with one_thread():
            problem = _problem(dcm, hnode, by_name, tensors, config, seed)
            _fit(problem, hnode.variables, len(dataset), dataset.groups, own_seed, run)
    return dcm.eval()


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """View of an array that is only read; a memory-mapped one stays on disk."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(np.ascontiguousarray(array))


def _id(dcm: DCM, hnode: HNode) -> int:
    return min(dcm.position[name] for name in hnode.variables)


def _configurations(graph: ADMG, schema: Schema, tensors: Mapping[str | None, Mapping[str, Tensor]]) -> dict[str, int]:
    sizes = {}
    for node in graph.nodes:
        size = 1
        for parent in graph.parents(node):
            levels = schema[parent].levels
            size = size * len(levels) if levels is not None else 400
        rows = max(len(values[node]) for values in tensors.values() if node in values)
        sizes[node] = min(size, rows)
    return sizes


def _problem(
    dcm: DCM,
    hnode: HNode,
    datasets: Mapping[str | None, Dataset],
    tensors: Mapping[str | None, Mapping[str, Tensor]],
    config: TrainConfig,
    seed: int,
) -> Problem:
    (fit,) = hnode.fits
    (name,) = fit.datasets
    dataset, values = datasets[name], tensors[name]
    weight = None if dataset.weights is None else _tensor(dataset.weights)
    members = [node for node in dcm.order if node in hnode.variables]
    own = derived_seed(seed, "batches", _id(dcm, hnode))
    if all(isinstance(dcm.mechanism(member), Categorical) for member in members):
        return ComponentProblem(dcm, members, values, weight, config, own)
    if len(members) == 1 and not dcm.latents[members[0]]:
        return ConditionalProblem(dcm.mechanism(members[0]), values, weight, config, own)
    raise PlanError(
        f"h-node {{{', '.join(hnode.variables)}}} has confounded variables without a density; only categorical "
        "variables can be confounded so far"
    )


@dataclass(frozen=True)
class _Run:
    """What training one h-node has in common with training the next."""

    config: TrainConfig
    progress: Progress | None
    log: Callable[[dict[str, Any]], None]
    deadline: float | None

    @property
    def late(self) -> bool:
        """Whether the time for training is over."""
        return self.deadline is not None and time.monotonic() > self.deadline


def _fit(
    problem: Problem, hnode: tuple[str, ...], rows: int, groups: np.ndarray[Any, Any] | None, seed: int, run: _Run
) -> None:
    """Train one h-node: on most rows to learn when to stop, then on all rows until then."""
    steps = problem.schedule.steps
    initial = [parameter.detach().clone() for parameter in problem.parameters]
    held = _held_out(rows, groups, run.config.holdout, seed)
    refit = held is not None and run.config.refit and problem.refit
    if run.progress is not None:
        run.progress.start(hnode, steps * (1 + refit))
    began = time.monotonic()
    best_step, best = steps, None
    if held is not None:
        problem.begin(torch.from_numpy(np.flatnonzero(~held)))
        problem.hold(torch.from_numpy(np.flatnonzero(held)))
        best_step, best = _optimise(problem, hnode, steps, run, judged=True)
    if held is None or (refit and not run.late):
        found = [parameter.detach().clone() for parameter in problem.parameters]
        _assign(problem.parameters, initial)
        problem.begin(None)
        reached, _ = _optimise(problem, hnode, best_step, run, judged=False, done=steps * refit)
        if held is not None and reached < best_step:
            # out of time: weights that have seen most of the rows for long enough beat a beginning on all of them
            _assign(problem.parameters, found)
        else:
            best_step = reached
    if run.progress is not None:
        run.progress.finish(hnode)
    seconds = round(time.monotonic() - began, 3)
    run.log({"event": "trained", "hnode": list(hnode), "steps": best_step, "heldout": best, "seconds": seconds})


def _held_out(
    rows: int, groups: np.ndarray[Any, Any] | None, share: float, seed: int
) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """Mask of the held-out rows, whole groups at a time; None where there are too few rows to spare any."""
    units = np.arange(rows) if groups is None else groups
    names = np.unique(units)
    count = round(share * len(names))
    if count < 1 or len(names) - count < 1 or share * rows < _FEWEST_HELD_OUT:
        return None
    picked = np.random.default_rng(seed).permutation(names)[:count]
    return np.isin(units, picked)


def _optimise(
    problem: Problem, hnode: tuple[str, ...], steps: int, run: _Run, *, judged: bool, done: int = 0
) -> tuple[int, float | None]:
    """Run the schedule up to ``steps`` and leave the averaged weights.

    Where held-out rows judge, the weights are those of the latest look that is not worse than the best one by more
    than a third of its standard error: a difference well within the error is no reason to stop early.

    Returns:
        Step of the weights that were kept, and their mean loss on the held-out rows.
    """
    schedule = problem.schedule
    parameters = problem.parameters
    optimiser = torch.optim.AdamW(
        parameters, schedule.learning_rate, schedule.betas, weight_decay=schedule.weight_decay, fused=True
    )
    average = [parameter.detach().clone() for parameter in parameters]
    kept, kept_step, kept_loss = average, steps, None
    best: Losses | None = None
    since = 0
    every = max(1, schedule.steps // run.config.checks)
    step = 0
    while step < steps:
        step += 1
        warm = min(1.0, step / max(schedule.warmup, 1))
        cosine = 0.5 + 0.5 * math.cos(math.pi * (step - 1) / schedule.steps)
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * warm * cosine + _LOWEST_RATE
        loss = problem.loss(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, tuple(parameters), 1 - min(schedule.ema, 1 - 1 / (step + 1)))
        if run.progress is not None and (step % 10 == 0 or step == steps):
            run.progress.step(hnode, done + step)
        late = run.late
        if not (step % every == 0 or step == steps or late):
            continue
        value = float(loss.detach())
        # the loss is that before the step, and a gradient can be infinite where the loss is not
        if not math.isfinite(value) or not all(bool(weight.isfinite().all()) for weight in average):
            what = "weights are no longer finite" if math.isfinite(value) else f"loss is {value}"
            raise MdcmError(
                f"training of h-node {{{', '.join(hnode)}}} diverged: its {what} at step {step}; try a learning rate "
                f"below {schedule.learning_rate:g}"
            )
        record: dict[str, Any] = {"event": "check", "hnode": list(hnode), "step": step, "loss": value}
        if judged:
            with _swapped(parameters, average):
                losses = problem.evaluate()
            record["heldout"] = losses.mean
            if best is None or not losses.worse_than(best):
                kept, kept_step, kept_loss, since = [weight.clone() for weight in average], step, losses.mean, 0
            else:
                since += 1
            if best is None or losses.mean < best.mean:
                best = losses
        run.log(record)
        if late or since >= _PATIENCE:
            break
    if not judged:
        kept, kept_step = average, step
    _assign(parameters, kept)
    return kept_step, kept_loss


@torch.no_grad()
def _assign(parameters: Sequence[nn.Parameter], weights: Sequence[Tensor]) -> None:
    for parameter, weight in zip(parameters, weights, strict=True):
        parameter.copy_(weight)


class _swapped:
    """Puts other weights into parameters for a while."""

    def __init__(self, parameters: Sequence[nn.Parameter], weights: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.weights = weights

    def __enter__(self) -> None:
        self.own = [parameter.detach().clone() for parameter in self.parameters]
        _assign(self.parameters, self.weights)

    def __exit__(self, *exception: object) -> None:
        _assign(self.parameters, self.own)
