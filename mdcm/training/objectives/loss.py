"""Objective of training problems with a loss: stacked weights, moments and averages, and steps of AdamW.

Every tensor of the state has the modules as its first axis; a single h-node is a stack of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from mdcm.errors import MdcmError
from mdcm.kernels import graphs
from mdcm.text.documents import listed, mapping, record, sequence, whole
from mdcm.training.config import TrainConfig
from mdcm.training.expectation import ComponentTables
from mdcm.training.losses import HeldOutLosses
from mdcm.training.objectives.problems import Problem, assign
from mdcm.training.optimizer import adamw_step
from mdcm.training.table_fitting import FittedTables, TableFitter
from mdcm.training.trainer import Snapshot, check_modules

__all__ = ["Growth", "LossObjective"]

# from the best weights and the tables chosen for them to the modules that need more states, and entries of the modules'
# records
Growth = Callable[[Sequence[Tensor], Sequence[FittedTables | None]], tuple[list[int], Mapping[int, dict[str, Any]]]]

_HEADER = record(
    {
        "grown": listed(whole()), "tests": listed(sequence(whole(), mapping())),
        "tables": listed(sequence(whole(), whole(), whole())),
    }
)  # fmt: skip
_STATE = ("average", "moments", "squares", "initial", "kept")


class LossObjective:
    """Minimise the losses of a problem, with averaged weights, and replace networks by tables where these are better.

    Args:
        problem: The training problem.
        names: H-node and fits of every module, for error messages.
        held_out: Mask of the held-out rows of every module; all None if no rows are held out.
        config: Settings.
        growth: Test for modules whose confounders need more states, or None.
        fitter: Fitter that replaces networks by tables; None if they stay networks.

    Attributes:
        tables: Tables of modules; a module with tables is not trained on all rows.
        tests: Entries of every module's record about tables and states.
    """

    def __init__(
        self,
        problem: Problem,
        names: Sequence[str],
        held_out: Sequence[Tensor | None],
        config: TrainConfig,
        growth: Growth | None = None,
        fitter: TableFitter | None = None,
    ) -> None:
        self.problem, self.growth, self.fitter = problem, growth, fitter
        self.names, self.held_out = tuple(names), tuple(held_out)
        self.everything = config.refit
        self.schedule = problem.schedule
        self.steps = self.schedule.steps
        self.checks, self.patience = config.checks, config.patience
        self.validated = held_out[0] is not None
        self.refits = self.validated and config.refit and problem.refit
        self.grown: Sequence[int] = []
        self.tables: dict[int, ComponentTables] = {}
        self.tests: dict[int, dict[str, Any]] = {}
        self.initial = [weight.clone() for weight in problem.weights]
        self.kept = [weight.clone() for weight in self.initial]
        self.modules: Sequence[int] = range(len(names))
        self._started = False
        self._captured: _Captured | None = None
        self._losses = torch.zeros(0)

    # ---- phases

    def start(self, modules: Sequence[int], *, everything: bool) -> None:
        """Train these modules from their initial weights, on all rows or on those that are not held out."""
        problem = self.problem
        if self._started:
            problem.restart()
            assign(problem.weights, self.initial)
        self._started, self._all = True, everything
        if len(modules) < len(self.names):
            problem.narrow(modules)
        self.modules = tuple(modules)
        self._set_rows()
        self.average = [weight.clone() for weight in problem.weights]
        self.moments = [torch.zeros_like(average) for average in self.average]
        self.squares = [torch.zeros_like(average) for average in self.average]

    def _set_rows(self) -> None:
        # a captured graph refers to the previous tensors
        self._captured = None
        held_out = [self.held_out[module] for module in self.modules]
        if self._all:
            self.problem.set_training([None] * len(held_out))
            return
        masks = [mask for mask in held_out if mask is not None]
        self.problem.set_training([(~mask).nonzero().squeeze(1) for mask in masks])
        self.problem.set_validation([mask.nonzero().squeeze(1) for mask in masks])

    def restrict(self, modules: Sequence[int]) -> None:
        """Train only these modules from now on."""
        indices = [self.modules.index(module) for module in modules]
        self.problem.narrow(indices)
        self.modules = tuple(modules)
        chosen = torch.tensor(indices)
        self.average, self.moments, self.squares = (
            [tensor[chosen] for tensor in tensors] for tensors in (self.average, self.moments, self.squares)
        )
        self._set_rows()

    # ---- steps

    def step(self, done: int, most: int) -> int:
        """Take one step, or several at once if they can be captured as one CUDA graph.

        Steps can be captured if the loss is the same function at every step, so that only rates change.
        """
        device = self.problem.device
        if not (self.problem.repeats and graphs.possible(device)):
            step, schedule = done + 1, self.schedule
            counts = torch.full((len(self.average),), float(done), device=device)
            losses = self.problem.losses(step)
            self._losses = self._take(losses, schedule.rate(step), schedule.averaging(step), counts)
            return 1
        if self._captured is None:
            self._captured = _Captured(self, device)
        count = min(self._captured.together, most)
        self._losses = self._captured(done, count)
        return count

    def _take(self, losses: Tensor, rate: float | Tensor, averaging: float | Tensor, counts: Tensor) -> Tensor:
        """Take one step along the gradient of some losses; the detached losses."""
        problem = self.problem
        for parameter in problem.parameters:
            parameter.grad = None
        losses.sum().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            weights, grads = problem.weights, [parameter.grad for parameter in problem.parameters]
            moments = (self.moments, self.squares, counts)
            adamw_step(weights, grads, *moments, rate, self.schedule.betas, problem.decays)
            problem.constrain()
            if isinstance(averaging, Tensor):
                # torch._foreach_lerp_ would copy the weight to the CPU
                for average, weight in zip(self.average, weights, strict=True):
                    average.lerp_(weight, averaging)
            else:
                torch._foreach_lerp_(self.average, weights, averaging)
        return losses.detach()

    def measures(self, step: int) -> list[dict[str, Any]]:
        """The training loss of every module.

        Raises:
            MdcmError: If a loss or an averaged weight is not finite.
        """
        # the loss is from before the step, and a gradient can be infinite where the loss is finite
        finite = self._losses.isfinite()
        for average in self.average:
            finite = finite & average.isfinite().unsqueeze(-1).flatten(1).all(1)
        losses = self._losses.tolist()
        if not bool(finite.all()):
            index = int((~finite).nonzero()[0])
            what = "weights are no longer finite" if math.isfinite(losses[index]) else f"loss is {losses[index]}"
            raise MdcmError(
                f"training of h-node {self.names[self.modules[index]]} diverged: its {what} at step {step}; try a "
                f"learning rate below {self.schedule.learning_rate:g}"
            )
        return [{"loss": loss} for loss in losses]

    # ---- held-out rows

    def validate(self) -> list[HeldOutLosses]:
        """Losses of the averaged weights on held-out rows."""
        weights = self.problem.weights
        current = [weight.clone() for weight in weights]
        assign(weights, self.average)
        results = self.problem.validate()
        assign(weights, current)
        return results

    def validation(self, module: int, tensor: Tensor) -> HeldOutLosses:
        """Restore the validation of a module from its losses."""
        return self.problem.validation(self.modules.index(module), tensor.to(self.problem.device))

    @torch.no_grad()
    def keep(self, module: int) -> None:
        """Remember the averaged weights of a module as the best so far."""
        index = self.modules.index(module)
        for kept, average in zip(self.kept, self.average, strict=True):
            kept[module].copy_(average[index])

    @contextmanager
    def showing_kept(self) -> Iterator[None]:
        """Context in which the model has the best weights."""
        weights = [weight.clone() for weight in self.problem.weights]
        self.problem.store(self.kept)
        try:
            yield
        finally:
            assign(self.problem.weights, weights)

    @property
    def finished(self) -> Collection[int]:
        """Modules that need no training on all rows: those with tables, and those that have grown."""
        return {*self.grown, *self.tables}

    def conclude(self) -> dict[int, float]:
        """Fit tables, and test which modules need more states; held-out losses of the modules with tables."""
        fitted: list[FittedTables | None] = []
        if self.fitter is not None:
            fitted = self.fitter.choose(self.kept)
            self.tests = {module: table.to_json() for module, table in enumerate(fitted) if table is not None}
        if self.growth is not None:
            self.grown, tests = self.growth(self.kept, fitted)
            for module, test in tests.items():
                self.tests[module] = {**self.tests.get(module, {}), **test}
        losses: dict[int, float] = {}
        if self.fitter is not None:
            chosen = [None if module in self.grown else table for module, table in enumerate(fitted)]
            self.tables = self.fitter.refit(chosen, everything=self.everything)
            losses = {module: table.losses.mean for module, table in enumerate(chosen) if table is not None}
        return losses

    # ---- the end

    def finish(self) -> None:
        """Put the best weights into the mechanisms: tables where there are any, else calibrated networks."""
        if self.fitter is not None:
            self.tables |= self.fitter.calibrate(self.kept, self._calibrations())
        self.problem.store(self.kept)
        if self.fitter is not None:
            self.fitter.store(self.tables)

    def _calibrations(self) -> dict[int, float]:
        """Calibration pseudo-counts of every module that keeps its network."""
        return {
            module: math.inf if test["calibration"] is None else test["calibration"]
            for module, test in self.tests.items()
            if module not in self.tables and module not in self.grown
        }

    def summary(self, module: int) -> dict[str, Any]:
        """Entries of a module's record about tables and states."""
        return self.tests.get(module, {})

    # ---- checkpoints

    def snapshot(self) -> Snapshot:
        """State of the objective."""
        header = {
            "grown": list(self.grown),
            "tests": [[module, test] for module, test in self.tests.items()],
            "tables": [[module, len(table.tables), len(table.priors)] for module, table in self.tables.items()],
        }
        tensors = {f"{name}.{k}": tensor for name, group in self._groups().items() for k, tensor in enumerate(group)}
        for module, table in self.tables.items():
            tensors |= {f"table.{module}.{k}": member for k, member in enumerate(table.tables)}
            tensors |= {f"prior.{module}.{k}": prior for k, prior in enumerate(table.priors)}
        return header, tensors

    def _groups(self) -> dict[str, Sequence[Tensor]]:
        return {"weights": self.problem.weights, **{name: getattr(self, name) for name in _STATE}}

    def restore(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor], modules: Sequence[int]) -> None:
        """Restore a snapshot, with these modules in training."""
        _HEADER(header, "job.objective")
        check_modules("objective.grown", header["grown"], len(self.names))
        for name in ("tests", "tables"):
            check_modules(f"objective.{name}", [entry[0] for entry in header[name]], len(self.names))
        self.grown = [int(module) for module in header["grown"]]
        self.tests = {int(module): dict(test) for module, test in header["tests"]}
        self.tables = {
            int(module): ComponentTables(
                tuple(tensors[f"table.{module}.{k}"] for k in range(members)),
                tuple(tensors[f"prior.{module}.{k}"] for k in range(priors)),
            )
            for module, members, priors in header["tables"]
        }
        if len(modules) < len(self.modules):
            self.restrict(modules)
        for name, group in self._groups().items():
            assign(group, [tensors[f"{name}.{k}"] for k in range(len(group))])


class _Captured:
    """Steps captured as a CUDA graph, which reads only tensors on the device.

    Args:
        objective: The objective; when its tensors are replaced, the graph must be captured again.
        device: Device of the training.

    Attributes:
        together: Number of steps per launch.
    """

    def __init__(self, objective: LossObjective, device: torch.device) -> None:
        self._objective = objective
        schedule, count = objective.schedule, len(objective.average)
        rates = [(schedule.rate(step), schedule.averaging(step)) for step in range(1, schedule.steps + 1)]
        # a rate is read as float32 on a card, and as float64 on the CPU
        self._clock = graphs.Clock(rates, device, torch.float32 if device.type == "cuda" else torch.float64)
        self._counts = torch.zeros(count, device=device)
        self._losses = torch.zeros(len(objective.modules), device=device)
        self._steps = graphs.Repeated(self._take, device)
        self.together = self._steps.together

    def __call__(self, done: int, count: int) -> Tensor:
        """Take ``count`` steps after those that are done; losses before the last of them."""
        self._clock.set(done, count)
        self._steps(count)
        return self._losses.clone()

    def _take(self, number: int) -> None:
        objective = self._objective
        with torch.no_grad():
            self._counts.copy_(self._clock.number.expand_as(self._counts))
            rate, averaging = self._clock.tick().unbind()
        # the losses are the same function at every step
        losses = objective._take(objective.problem.losses(0), rate, averaging.float(), self._counts)
        with torch.no_grad():
            self._losses.copy_(losses)
