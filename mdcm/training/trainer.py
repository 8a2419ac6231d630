"""Training of one job, which is one h-node or a bank of them: when to look, when to stop, what to keep.

All that a job knows between two steps is in its :class:`Trainer`, which can be written down and read back: a training
that was killed goes on with the bits it would have had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from mdcm.errors import MdcmError
from mdcm.kernels import graphs
from mdcm.text.documents import flag, listed, mapping, number, optional, record, sequence, whole
from mdcm.text.printable import quoted
from mdcm.training.config import TrainConfig
from mdcm.training.expectation import Fitted
from mdcm.training.losses import Losses
from mdcm.training.objectives.problems import Problem
from mdcm.training.polish import Polished, Polisher
from mdcm.training.stacking import Bank

__all__ = ["Alone", "Growth", "Progress", "Run", "Trainer"]

# from the weights that held-out rows favoured, and what came of them as tables, to the modules that need more states,
# and what the records of modules say of the question
Growth = Callable[[Sequence[Tensor], Sequence[Polished | None]], tuple[list[int], Mapping[int, dict[str, Any]]]]

_EPS = 1e-8
_PLACES = listed(whole())
# what Trainer.snapshot gives
_HEADER = record(
    {
        "final": flag, "step": whole(), "alive": _PLACES, "since": _PLACES, "kept_step": _PLACES,
        "kept_loss": listed(optional(number())), "targets": _PLACES, "grown": _PLACES,
        "tests": listed(sequence(whole(), mapping())), "tables": listed(sequence(whole(), whole(), whole())),
        "seconds": number(0),
    }
)  # fmt: skip


class Progress(Protocol):
    """Who is told how training goes."""

    def start(self, hnode: tuple[str, ...], steps: int) -> None:
        """An h-node, or several trained as one, begins; it takes at most this many steps."""

    def step(self, hnode: tuple[str, ...], step: int) -> None:
        """So many steps are done."""

    def finish(self, hnode: tuple[str, ...]) -> None:
        """The h-node is trained."""


@dataclass
class Run:
    """What training one job has in common with training the next.

    Attributes:
        config: Settings.
        progress: Told how it goes, or None.
        log: Receives records.
        deadline: When time is over, on the monotonic clock, or None.
        between: Called between two steps with a function that writes the job down; may raise KeyboardInterrupt.
    """

    config: TrainConfig
    progress: Progress | None
    log: Callable[[dict[str, Any]], None]
    deadline: float | None
    between: Callable[[Callable[[], tuple[dict[str, Any], dict[str, Tensor]]]], None] | None = None

    @property
    def late(self) -> bool:
        """Whether the time for training is over."""
        return self.deadline is not None and time.monotonic() > self.deadline


class Alone:
    """One problem in the form of a bank of one."""

    stacked = False

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.parameters = problem.parameters
        self.decays = problem.decays
        self.schedule = problem.schedule
        self.refit = problem.refit

    def begin(self, rows: Sequence[Tensor | None]) -> None:
        """Train on these rows from now on."""
        self.problem.begin(rows[0])

    def hold(self, rows: Sequence[Tensor]) -> None:
        """Judge on these rows from now on."""
        self.problem.hold(rows[0])

    def losses(self, step: int) -> Tensor:
        """Training loss, ``[1]``."""
        return self.problem.loss(step).view(1)

    def evaluate(self) -> list[Losses]:
        """Losses on the held-out rows."""
        return [self.problem.evaluate()]

    def judged(self, own: int, loss: Tensor) -> Losses:
        """Losses of the held-out rows that were found before."""
        return Losses(loss, self.problem.sample, self.problem.errors)

    def move(self, device: torch.device) -> None:
        """Put the parameters on a device."""
        self.problem.move(device)

    def constrain(self) -> None:
        """Put the parameters back to where they may be, after a step."""
        self.problem.constrain()

    def narrow(self, kept: Sequence[int]) -> None:
        """There is nothing to let go of."""
        raise AssertionError("one problem cannot become fewer")

    def store(self, weights: Sequence[Tensor]) -> None:
        """Put weights into the mechanisms."""
        assign(self.parameters, weights)
        self.problem.constrain()


class Trainer:
    """Trains a job: on most rows to learn when to stop, then on all rows for as long.

    Where held-out rows judge, the weights kept are those of the latest look that is not worse than the best one
    (:meth:`Losses.worse_than`): a difference within the error is no reason to stop early.

    Args:
        job: The bank, or the problem alone.
        hnodes: Variables of every module.
        fits: What every module is fitted to, in words.
        held: Held-out rows of every module as a mask, all None where nothing is held out.
        run: What it has in common with other jobs.
        growth: Told the weights that held-out rows favoured, says of which modules the confounders need more states.
        tags: What every record of a module says besides.
        polisher: Turns weights into tables; None where they stay networks.

    Attributes:
        grown: Modules that need more states; they are not trained on all rows, but must be trained anew.
        tables: Tables of modules; of those that have them before the end, networks are not trained on all rows.
    """

    def __init__(
        self,
        job: Bank | Alone,
        hnodes: Sequence[tuple[str, ...]],
        fits: Sequence[str],
        held: Sequence[Tensor | None],
        run: Run,
        growth: Growth | None = None,
        tags: Sequence[Mapping[str, Any]] = (),
        polisher: Polisher | None = None,
    ) -> None:
        self.growth, self.polisher = growth, polisher
        self.tags = tuple(tags) or ({},) * len(hnodes)
        self.grown: list[int] = []
        self.tables: dict[int, Fitted] = {}
        self.tests: dict[int, dict[str, Any]] = {}
        self.job = job
        self.hnodes = tuple(hnodes)
        self.fits = tuple(fits)
        self.held = tuple(held)
        self.run = run
        self.schedule = job.schedule
        self.judged = held[0] is not None
        self.refits = self.judged and run.config.refit and job.refit
        count = len(hnodes)
        self.initial = [parameter.detach().clone() for parameter in job.parameters]
        self.kept = [one.clone() for one in self.initial]
        self.kept_step = [self.schedule.steps] * count
        self.kept_loss: list[float | None] = [None] * count
        self.final = not self.judged
        self.seconds = 0.0
        self.captured: _Captured | None = None
        self._enter()

    def _enter(self) -> None:
        """Begin a phase at its first step."""
        count = len(self.hnodes)
        self.alive = [place for place in range(count) if place not in self.grown and place not in self.tables]
        if len(self.alive) < count and isinstance(self.job, Bank):
            self.job.narrow(self.alive)
        self.step = 0
        self.since = [0] * count
        self.best: list[Losses | None] = [None] * count
        # how far every module goes
        self.targets = [self.schedule.steps] * count if not self.judged or not self.final else list(self.kept_step)
        self._set_rows()
        self.average = [parameter.detach().clone() for parameter in self.job.parameters]
        self.moments = [torch.zeros_like(one) for one in self.average]
        self.squares = [torch.zeros_like(one) for one in self.average]

    def _set_rows(self) -> None:
        # what was captured goes through the tensors of before
        self.captured = None
        held = [self.held[place] for place in self.alive]
        if self.final:
            self.job.begin([None] * len(held))
        else:
            masks = [mask for mask in held if mask is not None]
            self.job.begin([(~mask).nonzero().squeeze(1) for mask in masks])
            self.job.hold([mask.nonzero().squeeze(1) for mask in masks])

    @property
    def _name(self) -> tuple[str, ...]:
        return tuple(name for hnode in self.hnodes for name in hnode)

    def train(self) -> None:
        """Run to the end, put the weights into the mechanisms, and log what came of it."""
        progress, steps = self.run.progress, self.schedule.steps
        if progress is not None:
            progress.start(self._name, steps * (1 + self.refits))
        if not self.final:
            self._optimise(0)
            self._judge_tables()
            if self.refits and not self.run.late and len(self.grown) + len(self.tables) < len(self.hnodes):
                self.final = True
                if isinstance(self.job, Bank):
                    self.job.restart()
                assign(self.job.parameters, self.initial)
                self._enter()
        if self.final:
            self._optimise(steps * self.refits)
        if self.polisher is not None:
            self.tables |= self.polisher.calibrate(self.kept, self._calibrations())
        self.job.store(self.kept)
        if self.polisher is not None:
            self.polisher.store(self.tables)
        if progress is not None:
            progress.finish(self._name)
        for place, hnode in enumerate(self.hnodes):
            self.run.log(
                {
                    # one that needs more states is trained again
                    "event": "grown" if place in self.grown else "trained",
                    "hnode": list(hnode),
                    "steps": self.kept_step[place],
                    "heldout": self.kept_loss[place],
                    # of h-nodes that were trained as one, each has its share
                    "seconds": round(self.seconds / len(self.hnodes), 3),
                    **self.tests.get(place, {}),
                    **self.tags[place],
                }
            )

    def _judge_tables(self) -> None:
        """Make tables of the networks that are better off with them, and ask which modules need more states."""
        if not self.judged or self.run.late:
            return
        began = time.perf_counter()
        polished: list[Polished | None] = []
        if self.polisher is not None:
            polished = self.polisher.choose(self.kept)
            self.tests = {place: one.to_json() for place, one in enumerate(polished) if one is not None}
        if self.growth is not None:
            self.grown, asked = self.growth(self.kept, polished)
            for place, test in asked.items():
                self.tests[place] = {**self.tests.get(place, {}), **test}
        if self.polisher is not None:
            stay = [None if place in self.grown else one for place, one in enumerate(polished)]
            for place, one in enumerate(stay):
                if one is not None:
                    self.kept_loss[place] = one.losses.mean
            self.tables = self.polisher.refit(stay, everything=self.run.config.refit)
        self.seconds += time.perf_counter() - began

    def _calibrations(self) -> dict[int, float]:
        """Pseudo-counts of the calibration of every module that held-out rows leave its network."""
        return {
            place: math.inf if test["calibration"] is None else test["calibration"]
            for place, test in self.tests.items()
            if place not in self.tables and place not in self.grown
        }

    def _optimise(self, done: int) -> None:
        """Run the steps of one phase."""
        every = max(1, self.schedule.steps // self.run.config.checks)
        while self.alive:
            began = time.perf_counter()
            self._follow(self._update(every), every, done)
            self.seconds += time.perf_counter() - began
            if self.run.between is not None and self.alive:
                self.run.between(self.snapshot)

    def _update(self, every: int) -> Tensor:
        """The next step, or where several are one to the device so many, up to the next look; losses before the last.

        A bank sees all rows at every step, so that only rates change from one to the next; where a graph of several
        steps can be captured they come from the device.
        """
        if not (isinstance(self.job, Bank) and graphs.possible(self.job.device)):
            self.step += 1
            step, schedule = self.step, self.schedule
            counts = torch.full((len(self.job.parameters),), float(step - 1), device=self.job.parameters[0].device)
            return self._take(self.job.losses(step), schedule.rate(step), schedule.averaging(step), counts)
        if self.captured is None:
            self.captured = _Captured(self, self.job.device)
        ends = [self.targets[place] for place in self.alive if self.targets[place] > self.step]
        count = min([self.captured.together, every - self.step % every, *(end - self.step for end in ends)])
        losses = self.captured(self.step, count)
        self.step += count
        return losses

    def _take(self, losses: Tensor, rate: float | Tensor, averaging: float | Tensor, counts: Tensor) -> Tensor:
        """One step along the gradient of some losses, after so many; the losses without it."""
        job, betas = self.job, self.schedule.betas
        parameters = job.parameters
        for parameter in parameters:
            parameter.grad = None
        losses.sum().backward()  # type: ignore[no-untyped-call]
        by_decay: dict[float, list[int]] = {}
        for place, (parameter, decay) in enumerate(zip(parameters, job.decays, strict=True)):
            if parameter.grad is not None:
                by_decay.setdefault(decay, []).append(place)
        with torch.no_grad():
            steps = counts.unbind()
            for decay, places in by_decay.items():
                adamw(
                    [parameters[place] for place in places],
                    [parameters[place].grad for place in places],  # type: ignore[misc]
                    [self.moments[place] for place in places],
                    [self.squares[place] for place in places],
                    [],
                    [steps[place] for place in places],
                    fused=True,
                    amsgrad=False,
                    beta1=betas[0],
                    beta2=betas[1],
                    lr=rate,
                    weight_decay=decay,
                    eps=_EPS,
                    maximize=False,
                )
            job.constrain()
            if isinstance(averaging, Tensor):
                # as one operation it would ask the device for the number
                for average, parameter in zip(self.average, parameters, strict=True):
                    average.lerp_(parameter, averaging)
            else:
                torch._foreach_lerp_(self.average, tuple(parameters), averaging)
        return losses.detach()

    def _follow(self, losses: Tensor, every: int, done: int) -> None:
        """After a step: tell, look, keep, and let go of what is finished."""
        step, run = self.step, self.run
        if run.progress is not None and (step % 10 == 0 or step == self.schedule.steps):
            run.progress.step(self._name, done + step)
        late = run.late
        ends = [late or step == self.targets[place] for place in self.alive]
        if not (step % every == 0 or any(ends)):
            return
        self._check_finite(losses)
        judge = not self.final and (step % every == 0 or step == self.schedule.steps or late)
        found: Sequence[Losses | None] = [None] * len(self.alive)
        if judge:
            with _swapped(self.job.parameters, self.average):
                found = self.job.evaluate()
        for own, place in enumerate(self.alive):
            record = {
                "event": "check", "hnode": list(self.hnodes[place]), "step": step, "loss": float(losses[own]),
                **self.tags[place],
            }  # fmt: skip
            seen = found[own]
            if seen is not None:
                record["heldout"] = seen.mean
                self._judge(own, place, seen)
                ends[own] = ends[own] or self.since[place] >= run.config.patience
            if step % every == 0 or ends[own]:
                run.log(record)
        for own, place in enumerate(self.alive):
            # out of time: weights that have seen most of the rows for long enough beat a beginning on all of them
            if self.final and ends[own] and (step == self.targets[place] or not self.judged):
                self._keep(own, place)
        self._release([own for own, end in enumerate(ends) if not end])

    def _judge(self, own: int, place: int, losses: Losses) -> None:
        best = self.best[place]
        if best is None or not losses.worse_than(best):
            self._keep(own, place)
            self.kept_loss[place] = losses.mean
            self.since[place] = 0
        else:
            self.since[place] += 1
        if best is None or losses.mean < best.mean:
            self.best[place] = losses

    @torch.no_grad()
    def _keep(self, own: int, place: int) -> None:
        self.kept_step[place] = self.step
        for kept, average in zip(self.kept, self.average, strict=True):
            if isinstance(self.job, Bank):
                kept[place].copy_(average[own])
            else:
                kept.copy_(average)

    def _release(self, going: Sequence[int]) -> None:
        """Train only those that are not finished; a bank is packed anew once half of it is idle."""
        if len(going) == len(self.alive):
            return
        if not going or not isinstance(self.job, Bank):
            self.alive = [self.alive[own] for own in going]
            return
        self.alive = [self.alive[own] for own in going]
        self.job.narrow(going)
        index = torch.tensor(list(going))
        self.average, self.moments, self.squares = (
            [one[index] for one in tensors] for tensors in (self.average, self.moments, self.squares)
        )
        self._set_rows()

    def _check_finite(self, losses: Tensor) -> None:
        # the loss is that before the step, and a gradient can be infinite where the loss is not
        finite = losses.isfinite()
        for average in self.average:
            own = average.isfinite().flatten(1) if isinstance(self.job, Bank) else average.isfinite().view(1, -1)
            finite = finite & own.all(1)
        if bool(finite.all()):
            return
        bad = int((~finite).nonzero()[0])
        value = float(losses[bad])
        what = "weights are no longer finite" if math.isfinite(value) else f"loss is {value}"
        place = self.alive[bad]
        raise MdcmError(
            f"training of h-node {{{', '.join(self.hnodes[place])}}} ({self.fits[place]}) diverged: its {what} at step "
            f"{self.step}; try a learning rate below {self.schedule.learning_rate:g}"
        )

    def snapshot(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """All that is needed to go on, as plain JSON values and tensors."""
        header = {
            "final": self.final,
            "step": self.step,
            "alive": self.alive,
            "since": self.since,
            "kept_step": self.kept_step,
            "kept_loss": self.kept_loss,
            "targets": self.targets,
            "grown": self.grown,
            "tests": [[place, one] for place, one in self.tests.items()],
            "tables": [[place, len(one.tables), len(one.priors)] for place, one in self.tables.items()],
            "seconds": self.seconds,
        }
        tensors: dict[str, Tensor] = {}
        for name, group in self._groups().items():
            tensors.update({f"{name}.{number}": one for number, one in enumerate(group)})
        # those that are finished are not judged again
        for place in self.alive:
            best = self.best[place]
            if best is not None:
                tensors[f"best.{place}"] = best.loss
        for place, one in self.tables.items():
            tensors |= {f"table.{place}.{k}": table for k, table in enumerate(one.tables)}
            tensors |= {f"prior.{place}.{k}": prior for k, prior in enumerate(one.priors)}
        if isinstance(self.job, Alone) and hasattr(self.job.problem, "state"):
            tensors |= {f"problem.{name}": one for name, one in self.job.problem.state().items()}
        return header, tensors

    def _groups(self) -> dict[str, Sequence[Tensor]]:
        return {
            "weights": [parameter.detach() for parameter in self.job.parameters],
            "average": self.average,
            "moments": self.moments,
            "squares": self.squares,
            "initial": self.initial,
            "kept": self.kept,
        }

    def _check(self, header: Mapping[str, Any]) -> None:
        """Refuse a state that training cannot have come to."""
        count, steps = len(self.hnodes), self.schedule.steps
        for name in ("since", "kept_step", "kept_loss", "targets"):
            if len(header[name]) != count:
                raise ValueError(f"job.{name} must have {count:,} entries, not {len(header[name]):,}")
        for name, values in (("step", [header["step"]]), *((name, header[name]) for name in ("kept_step", "targets"))):
            if any(value > steps for value in values):
                raise ValueError(f"job.{name} must be at most {steps:,}, not {quoted(max(values))}")
        tests, tables = ([one[0] for one in header[name]] for name in ("tests", "tables"))
        named = {"alive": header["alive"], "grown": header["grown"], "tests": tests, "tables": tables}
        for name, places in named.items():
            if len(set(places)) < len(places) or any(place not in range(count) for place in places):
                raise ValueError(f"job.{name} must name some of {count:,} h-nodes, each once, not {quoted(places)}")
        if not header["alive"]:
            raise ValueError("job.alive must name an h-node that is trained")

    def restore(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from where :meth:`snapshot` was taken.

        Raises:
            KeyError: If something is missing.
            ValueError: If a number is of another kind or range.
            RuntimeError: If a tensor has another shape.
        """
        _HEADER(header, "job")
        self._check(header)
        self.final = bool(header["final"])
        # with all modules, of which those that are still trained are then kept
        self._enter()
        self.grown = [int(place) for place in header["grown"]]
        self.tests = {int(place): dict(one) for place, one in header["tests"]}
        self.tables = {
            int(place): Fitted(
                tuple(tensors[f"table.{place}.{k}"] for k in range(members)),
                tuple(tensors[f"prior.{place}.{k}"] for k in range(priors)),
            )
            for place, members, priors in header["tables"]
        }
        self.alive = [int(place) for place in header["alive"]]
        if isinstance(self.job, Bank) and len(self.alive) < len(self.hnodes):
            self.job.narrow(self.alive)
        for name in ("average", "moments", "squares"):
            setattr(self, name, [torch.empty_like(parameter.detach()) for parameter in self.job.parameters])
        for name, group in self._groups().items():
            assign(group, [tensors[f"{name}.{number}"] for number in range(len(group))])
        self._set_rows()
        self.step, self.seconds = int(header["step"]), float(header["seconds"])
        self.since = [int(one) for one in header["since"]]
        self.kept_step = [int(one) for one in header["kept_step"]]
        self.targets = [int(one) for one in header["targets"]]
        self.kept_loss = [None if one is None else float(one) for one in header["kept_loss"]]
        device = self.job.parameters[0].device
        for module, place in enumerate(self.alive):
            loss = tensors.get(f"best.{place}")
            if loss is not None and not self.final:
                self.best[place] = self.job.judged(module, loss.to(device))
        own = {name.removeprefix("problem."): one for name, one in tensors.items() if name.startswith("problem.")}
        if own and isinstance(self.job, Alone):
            self.job.problem.restore(own)  # type: ignore[attr-defined]


class _Captured:
    """Steps of a bank from what lies on the device alone, several of them as one captured graph.

    Args:
        trainer: Whose bank it is; it must be made anew when tensors of the trainer are others.
        device: Where the bank is trained.

    Attributes:
        together: How many steps are taken in one go.
    """

    def __init__(self, trainer: Trainer, device: torch.device) -> None:
        self._trainer = trainer
        schedule, count = trainer.schedule, len(trainer.job.parameters)
        rates = [(schedule.rate(step), schedule.averaging(step)) for step in range(1, schedule.steps + 1)]
        # a rate is read as float32 on a card, and as float64 on the CPU
        self._clock = graphs.Clock(rates, device, torch.float32 if device.type == "cuda" else torch.float64)
        self._counts = torch.zeros(count, device=device)
        self._losses = torch.zeros(len(trainer.alive), device=device)
        self._steps = graphs.Repeated(self._take, device)
        self.together = self._steps.together

    def __call__(self, done: int, count: int) -> Tensor:
        """So many steps after those that are done; losses before the last of them."""
        self._clock.set(done, count)
        self._steps(count)
        return self._losses.clone()

    def _take(self, number: int) -> None:
        trainer = self._trainer
        with torch.no_grad():
            self._counts.copy_(self._clock.number.expand_as(self._counts))
            rate, averaging = self._clock.tick().unbind()
        # the losses of a bank are the same function at every step
        losses = trainer._take(trainer.job.losses(0), rate, averaging.float(), self._counts)
        with torch.no_grad():
            self._losses.copy_(losses)


@torch.no_grad()
def assign(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy numbers, shape by shape."""
    for target, source in zip(targets, sources, strict=True):
        if target.shape != source.shape:
            raise RuntimeError(f"a tensor has the shape {list(source.shape)}, not {list(target.shape)}")
        target.copy_(source)


class _swapped:
    """Puts other weights into parameters for a while."""

    def __init__(self, parameters: Sequence[nn.Parameter], weights: Sequence[Tensor]) -> None:
        self.parameters = parameters
        self.weights = weights

    def __enter__(self) -> None:
        self.own = [parameter.detach().clone() for parameter in self.parameters]
        assign(self.parameters, self.weights)

    def __exit__(self, *exception: object) -> None:
        assign(self.parameters, self.own)
