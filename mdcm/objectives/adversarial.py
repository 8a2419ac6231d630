"""Adversarial training of an h-node: generators matched on samples to every distribution that its plan names.

Per fit, a critic compares rows over S, Pa(S) and I, where S is the fitted variables and the ancestors A trained before.
Real rows come from the fit's data sets. Generated rows take Pa(S) and I from the same real rows and generate S
ancestrally, with the mechanisms of A as they are: what is matched is P(S | Pa(S), do(I)), and with A fixed that fixes
the c-factor of the fitted variables. All fits of an h-node are trained at once, their losses added up.

Confounders have finitely many states, drawn once per row for all of their children. States, like categorical values,
are one-hot rows with the gradient of a softmax (straight-through), so that a critic's gradient reaches the priors too.

Deviations from the printed algorithm, all deliberate: the penalty is added, not multiplied; critics are initialised
once; the penalty is on the generated columns alone, since the others are the same in both rows; rows are generated
afresh for every critic step; critics are not batch-normalised.

References:
    Rahman & Kocaoglu (2024), Algorithms 3, 4 and 7 and section F.1; Gulrajani et al. (2017),
    https://arxiv.org/abs/1704.00028; Jang, Gu & Poole (2017), https://arxiv.org/abs/1611.01144.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mdcm.errors import MdcmError, PlanError
from mdcm.mechanisms.base import Mechanism
from mdcm.mechanisms.encoder import train_encoder
from mdcm.objectives.comparison import ENERGY_ROWS, Check, compare
from mdcm.objectives.critics import Critics
from mdcm.objectives.generators import Draw, FitSide, Generators, prepare_mechanisms
from mdcm.objectives.pooled import Layout, PooledRows, Reader, split_rows
from mdcm.objectives.settings import AdversarialConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data import Encoded, Variable
    from mdcm.dcm import DCM
    from mdcm.plan import Fit, HNode, Plan

__all__ = [
    "AdversarialConfig",
    "AdversarialProblem",
    "Check",
    "Losses",
    "Outcome",
    "fit_adversarial",
]

Log = Callable[[dict[str, Any]], None]

# purposes of random numbers: what is drawn is a function of (seed, purpose, step)
_INITIAL, _SPLIT, _STEP, _CHECK, _PROBE, _ENCODER = range(6)
_CHECK_ROWS = 20_000
# standard errors by which a look may be worse than the best one and still be taken for as good
_WITHIN = 1 / 3
_LAST_RATE = 0.02


class Progress(Protocol):
    """Who is told how training goes."""

    def start(self, hnode: tuple[str, ...], steps: int) -> None:
        """An h-node begins; it takes at most this many steps."""

    def step(self, hnode: tuple[str, ...], step: int) -> None:
        """So many steps are done."""

    def finish(self, hnode: tuple[str, ...]) -> None:
        """The h-node is trained."""


class Losses(NamedTuple):
    """Losses of one step.

    Attributes:
        critic: Mean over the critic steps of D(fake) - D(real) + penalty, ``[fits]``.
        generator: -D(fake), ``[fits]``.
    """

    critic: Tensor
    generator: Tensor


@dataclass(frozen=True)
class Outcome:
    """What training an h-node came to.

    Attributes:
        steps: Step of the weights that were kept.
        check: How those weights compare with held-out rows.
        idle: Confounders that carry no information: another state changes fewer than two of its children.
        seconds: Wall-clock time.
    """

    steps: int
    check: Check
    idle: tuple[str, ...]
    seconds: float


class AdversarialProblem:
    """One h-node, trained against one critic per fit.

    Making the problem sets what its mechanisms measure on data (:meth:`~mdcm.mechanisms.Mechanism.prepare`) and splits
    every data set; :meth:`train` does the rest. Mechanisms outside the h-node generate in evaluation mode and are left
    as they are. The same seed gives the same weights bit for bit: what is drawn in a step is a function of seed and
    step.

    Args:
        dcm: The model; mechanisms of the fits' ancestors are trained already.
        hnode: What is trained, and the fits.
        data: Data sets by name.
        config: Settings.
        seed: Seed of splits, critics, batches and noise; not negative.
        readers: For every image among the columns of a fit what turns float images ``[n, c, h, w]`` in [-1, 1] into
            a few numbers ``[n, r]`` that the critic compares instead; by default an encoder trained here to predict
            the observed members of the h-node.

    Attributes:
        sides: The fits with their rows.
        generators: What generates.
        parameters: What is trained: parameters of the h-node's mechanisms and the priors of its confounders.
        steps: Steps of the schedule.
        done: Steps taken.
        critics: The critics, one per fit.

    Raises:
        PlanError: If a fit is not adversarial, a categorical mechanism has no relaxed draws, or there is nothing that
            an encoder of an image could learn from.
        MdcmError: From :meth:`step`, if a loss or gradient is not finite.

    References:
        Rahman & Kocaoglu (2024), Algorithm 4.

    Example:
        >>> from mdcm.data import Dataset, Schema, encode
        >>> from mdcm.dcm import DCM
        >>> from mdcm.plan import plan
        >>> p = plan("X -> Y; X <-> Y", objective="adversarial")
        >>> rows = Dataset({"X": [0, 0, 1, 1], "Y": [0, 1, 1, 1]}, name="d1")
        >>> schema = Schema.infer([rows])
        >>> dcm = DCM(p.graph, schema, {"U[X,Y]": 4})
        >>> problem = AdversarialProblem(dcm, p.hnodes[0], {"d1": encode(rows, schema)}, AdversarialConfig(steps=2))
        >>> problem.step(1).generator.shape, problem.critics.width
        (torch.Size([1]), 4)
    """

    def __init__(
        self,
        dcm: DCM,
        hnode: HNode,
        data: Mapping[str, Encoded],
        config: AdversarialConfig | None = None,
        seed: int = 0,
        *,
        readers: Mapping[str, Reader] | None = None,
    ) -> None:
        self.dcm = dcm
        self.hnode = hnode
        self.config = config or AdversarialConfig()
        self.seed = seed
        self.readers = dict(readers or {})
        self.steps = self.config.steps
        self.device = next(dcm.parameters()).device
        self.generator = torch.Generator(self.device)
        self._check_mechanisms()
        used = sorted({name for fit in hnode.fits for name in fit.datasets})
        masks = {
            name: split_rows(data[name], self.config.holdout, [seed, _SPLIT, place]) for place, name in enumerate(used)
        }
        self.sides = [self._side(fit, data, masks) for fit in hnode.fits]
        prepare_mechanisms(dcm, hnode, data, masks)
        self.generators = Generators(dcm, self.sides, hnode.variables)
        self.parameters: list[nn.Parameter] = self.generators.parameters
        self.optimiser = torch.optim.Adam(self.parameters, self.config.learning_rate, self.config.betas, fused=True)
        self.critics = Critics(
            [side.layout.mask(side.compared) for side in self.sides],
            hidden=self.config.hidden,
            layers=self.config.layers,
            betas=self.config.betas,
            penalty=self.config.penalty,
            generator=torch.Generator().manual_seed(self._number(_INITIAL)),
            device=self.device,
        )
        self.decay = 1 - 1 / max(self.config.window * self.steps, 1.0)
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.kept = [weight.clone() for weight in self.average]
        self.kept_step = self.done = self.since = 0
        self.best = math.inf
        # a total variation distance from n rows has a standard deviation of at most 1 / (2 sqrt n)
        variances = [0.25 / side.held.rows for side in self.sides]
        self.tolerance = _WITHIN * math.sqrt(sum(variances)) / len(variances)

    # ---- set-up

    def _check_mechanisms(self) -> None:
        for fit in self.hnode.fits:
            if fit.objective != "adversarial":
                raise PlanError(
                    f"h-node {_braced(self.hnode.variables)} has a fit by {fit.objective}; this trains adversarial "
                    "fits alone"
                )
        for node in self.hnode.variables:
            mechanism = self.dcm.mechanism(node)
            if mechanism.variable.kind == "categorical" and type(mechanism).relaxed is Mechanism.relaxed:
                raise PlanError(
                    f"the mechanism of {node!r} ({type(mechanism).__name__}) has no relaxed draws, so that no gradient "
                    "can reach it from a critic: implement relaxed, or use a Categorical"
                )

    def _side(self, fit: Fit, data: Mapping[str, Encoded], masks: Mapping[str, NDArray[np.bool_]]) -> FitSide:
        dcm = self.dcm
        pooled = [data[name] for name in fit.datasets]
        # a variable that some data sets set, and others do not even observe, is no parent of anything here
        given = {*fit.parents, *(name for name in fit.do if all(name in one for one in pooled))}
        compared = {*fit.variables, *fit.ancestors}
        wanted, pending = set(compared), list(compared)
        while pending:
            # parents that are neither given nor compared are not observed: they are generated all the same
            new = {parent for parent in dcm.parents(pending.pop()) if parent not in given} - wanted
            wanted |= new
            pending += sorted(new)
        columns = [dcm.schema[name] for name in sorted(compared | given)]
        features = {one.name: self._features(one, fit, pooled[0]) for one in columns if one.kind == "image"}
        layout = Layout(columns, features)
        train = PooledRows.build(layout, pooled, [~masks[name] for name in fit.datasets], self.device)
        kept = [masks[name] for name in fit.datasets]
        held = PooledRows.build(layout, pooled, kept, self.device) if any(mask.any() for mask in kept) else train
        order = tuple(node for node in dcm.order if node in wanted)
        return FitSide(fit, order, tuple(sorted(given)), layout, train, held)

    def _features(self, variable: Variable, fit: Fit, data: Encoded) -> int:
        """Number of features of an image, for which an encoder is trained unless there is a reader."""
        name = variable.name
        if name not in self.readers:
            others = [self.dcm.schema[one] for one in self.hnode.variables if one in data and one != name]
            targets = [one for one in others if one.kind != "image"]
            if not targets:
                raise PlanError(
                    f"image {name!r} is a column of the fit {fit}, and no member of the h-node tells an encoder what "
                    "to look for: pass a reader that turns it into a few numbers"
                )
            self.readers[name] = train_encoder(
                data[name],
                {one.name: np.asarray(data[one.name]) for one in targets},
                levels={one.name: one.num_levels for one in targets if one.levels is not None},
                weights=data.weights,
                seed=self._number(_ENCODER),
                device=self.device,
            )
        with torch.no_grad():
            return self.readers[name](torch.zeros(1, *(variable.shape or ()), device=self.device)).shape[1]

    def _number(self, purpose: int, step: int = 0) -> int:
        return int(np.random.SeedSequence([self.seed, purpose, step]).generate_state(1, np.uint64)[0] >> 1)

    # ---- training

    def _batch(self, size: int) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """Real rows of every fit, padded ``[fits, size, width]``, and the values that generated rows take from them."""
        batches, given = [], []
        for side in self.sides:
            # one row from each of ``size`` equal shares of the weight
            uniform = torch.rand(size, generator=self.generator, device=self.device, dtype=torch.float64)
            packed, values = side.train.values(side.train.at((torch.arange(size, device=self.device) + uniform) / size))
            batches.append(side.train.real(packed, values, self.readers))
            given.append({name: values[name] for name in side.given})
        return self._padded(batches), given

    def _padded(self, rows: Sequence[Tensor]) -> Tensor:
        width = self.critics.width
        return torch.stack([nn.functional.pad(one, (0, width - one.shape[1])) for one in rows])

    def _fake(self, draw: Draw) -> Tensor:
        return self._padded(
            [side.layout.pack(one, self.readers) for side, one in zip(self.sides, draw.values, strict=True)]
        )

    def step(self, step: int) -> Losses:
        """One step: the critics as often as the settings say, then the generators.

        Args:
            step: Number of the step, from 1; all that is drawn is a function of it and of the seed.

        Returns:
            The losses, without gradient.

        Raises:
            MdcmError: If a loss or gradient is not finite; the message names h-node, fit and step, and the model holds
                the best weights so far.
        """
        config = self.config
        for node, mechanism in self.generators.mechanisms.items():
            mechanism.train(node in self.hnode.variables)
        self.generator.manual_seed(self._number(_STEP, step))
        share = (step - 1) / self.steps
        first, last = config.temperature
        temperature = last + (first - last) * max(0.0, 1 - share / config.cooling) if config.cooling else last
        rate = _LAST_RATE + (1 - _LAST_RATE) * (0.5 + 0.5 * math.cos(math.pi * share)) if config.decay else 1.0
        size, repeats = config.batch_size, config.critic_steps
        with torch.no_grad():
            critic = self._step_critics(step, temperature, config.critic_learning_rate * rate, repeats)
            _, given = self._batch(size)
        at = self.generator.get_state()
        losses, grads = self._gradients(given, size, temperature)
        if not _finite(losses, grads):
            # which fit it is: the same rows again, one fit after another
            for fit in range(len(self.sides)):
                self.generator.set_state(at)
                if not _finite(*self._gradients(given, size, temperature, [fit])):
                    break
            self._diverged(step, fit, "generator loss or its gradient")
        for parameter, grad in zip(self.parameters, grads, strict=True):
            parameter.grad = grad
        self.optimiser.param_groups[0]["lr"] = config.learning_rate * rate
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.parameters), 1 - min(self.decay, 1 - 1 / (step + 1)))
        self.done = step
        return Losses(critic, losses)

    def _gradients(
        self,
        given: Sequence[Mapping[str, Tensor]],
        rows: int,
        temperature: float,
        fits: Sequence[int] | None = None,
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Generator losses on fresh rows, ``[fits]``, and the gradient of their sum; of all fits by default."""
        fake = self._fake(self.generators.draw(given, rows, temperature, self.generator))
        losses = -self.critics.values(fake).mean(1)
        if fits is not None:
            losses = losses[list(fits)]
        return losses.detach(), torch.autograd.grad(losses.sum(), self.parameters, allow_unused=True)

    def _step_critics(self, step: int, temperature: float, rate: float, repeats: int) -> Tensor:
        size, fits = self.config.batch_size, len(self.sides)
        batches = [self._batch(size) for _ in range(repeats)]
        given = [
            {name: torch.cat([one[fit][name] for _, one in batches]) for name in side.given}
            for fit, side in enumerate(self.sides)
        ]
        # generators do not change between critic steps, so that the rows of all of them are made in one go
        rows = size * repeats
        fakes = self._fake(self.generators.draw(given, rows, temperature, self.generator))
        shares = torch.rand(fits, rows, 1, generator=self.generator, device=self.device)
        losses = torch.zeros(fits, device=self.device)
        for place, (real, _) in enumerate(batches):
            part = slice(place * size, (place + 1) * size)
            found = self.critics.step(fakes[:, part], real, shares[:, part], rate)
            if not bool(found.isfinite().all()):
                self._diverged(step, int((~found.isfinite()).nonzero()[0]), "critic loss or its gradient")
            losses += found / repeats
        return losses

    def _diverged(self, step: int, fit: int, what: str) -> None:
        self.finish()
        raise MdcmError(
            f"training of h-node {_braced(self.hnode.variables)} diverged: the {what} of the fit {self.sides[fit].fit} "
            f"is not finite at step {step}; try learning rates below {self.config.learning_rate:g} and "
            f"{self.config.critic_learning_rate:g}"
        )

    # ---- judging

    def check(self) -> Check:
        """Compare rows of the averaged weights with held-out rows, with the same noise at every look."""
        with torch.no_grad(), self._averaged():
            draw, held = self._judged_rows()
            fakes = [side.layout.pack(one, self.readers) for side, one in zip(self.sides, draw.values, strict=True)]
            return compare(self.sides, fakes, held, self.readers)

    def idle(self) -> tuple[str, ...]:
        """Confounders of the h-node that carry no information; see :meth:`Generators.idle`."""
        with torch.no_grad(), self._averaged():
            draw, _ = self._judged_rows()
            self.generator.manual_seed(self._number(_PROBE))
            return self.generators.idle(draw, self.generator)

    def _judged_rows(self) -> tuple[Draw, list[Tensor]]:
        self.generator.manual_seed(self._number(_CHECK))
        held, given = [], []
        size = _CHECK_ROWS if all(side.layout.categorical for side in self.sides) else ENERGY_ROWS
        for side in self.sides:
            at = side.held.at((torch.arange(size, device=self.device, dtype=torch.float64) + 0.5) / size)
            _, values = side.held.values(at)
            held.append(at)
            given.append({name: values[name] for name in side.given})
        return self.generators.draw(given, size, self.config.temperature[1], self.generator), held

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights in place of the current ones, in evaluation mode."""
        own = [parameter.detach().clone() for parameter in self.parameters]
        for mechanism in self.generators.mechanisms.values():
            mechanism.eval()
        self._assign(self.average)
        try:
            yield
        finally:
            self._assign(own)

    @torch.no_grad()
    def _assign(self, weights: Sequence[Tensor]) -> None:
        for parameter, weight in zip(self.parameters, weights, strict=True):
            parameter.copy_(weight)

    def judge(self) -> tuple[Check, bool]:
        """Check, keep the averaged weights if they are not worse than the best ones, and say whether to stop.

        Weights that are worse by less than a third of the distance's standard error are taken for as good, so that of
        a plateau the latest are kept.
        """
        check = self.check()
        if check.mean <= self.best + self.tolerance:
            self.kept = [weight.clone() for weight in self.average]
            self.kept_step = self.done
        self.since = 0 if check.mean < self.best else self.since + 1
        self.best = min(self.best, check.mean)
        return check, self.since >= self.config.patience

    def finish(self) -> None:
        """Put the best weights into the model, in evaluation mode."""
        self._assign(self.kept)
        for parameter in self.parameters:
            parameter.grad = None
        for mechanism in self.generators.mechanisms.values():
            mechanism.eval()

    def train(
        self,
        *,
        progress: Progress | None = None,
        log: Log | None = None,
        late: Callable[[], bool] | None = None,
    ) -> Outcome:
        """Train until the steps are done, patience or time is over; goes on where :meth:`restore` left off.

        Args:
            progress: Told how it goes.
            log: Receives one record per look at held-out rows, and one at the end.
            late: Whether time is over, asked after every step.

        Returns:
            What it came to; the model holds the best weights.

        Raises:
            MdcmError: If a loss or gradient is not finite.
        """
        name = self.hnode.variables
        began = time.monotonic()
        every = max(1, self.steps // self.config.checks)
        if progress is not None:
            progress.start(name, self.steps)
        stop = self.done >= self.steps or self.since >= self.config.patience
        while not stop:
            losses = self.step(self.done + 1)
            step = self.done
            if progress is not None and (step % 10 == 0 or step == self.steps):
                progress.step(name, step)
            due = step % every == 0 or step == self.steps
            if due:
                stop = self._look(losses, log) or step == self.steps
            # asked only now, so that a state saved by who is asked misses no look at held-out rows
            if not stop and late is not None and late():
                stop = True
                if not due:
                    self._look(losses, log)
        self.average = [weight.clone() for weight in self.kept]
        check, idle = self.check(), self.idle()
        self.finish()
        if progress is not None:
            progress.finish(name)
        outcome = Outcome(self.kept_step, check, idle, round(time.monotonic() - began, 3))
        if log is not None:
            log({
                "event": "trained", "hnode": list(name), "steps": outcome.steps, "heldout": check.mean,
                "distances": list(check.distances), "missing": [list(one) for one in check.missing],
                "idle_confounders": list(idle), "seconds": outcome.seconds,
            })  # fmt: skip
        return outcome

    def _look(self, losses: Losses, log: Log | None) -> bool:
        check, stop = self.judge()
        if log is not None:
            log({
                "event": "check", "hnode": list(self.hnode.variables), "step": self.done, "heldout": check.mean,
                "distances": list(check.distances), "critic": losses.critic.tolist(),
                "loss": float(losses.generator.sum()), "missing": [list(one) for one in check.missing],
            })  # fmt: skip
        return stop

    # ---- checkpoints

    def state(self) -> dict[str, Tensor]:
        """All that :meth:`train` needs to go on as if never stopped, by name, as tensors; copies."""
        found = {f"critics.{name}": tensor for name, tensor in self.critics.state().items()}
        for place, parameter in enumerate(self.parameters):
            found[f"weights.{place}"] = parameter.detach().clone()
            found[f"average.{place}"] = self.average[place].clone()
            found[f"kept.{place}"] = self.kept[place].clone()
            for name, value in self.optimiser.state.get(parameter, {}).items():
                found[f"adam.{place}.{name}"] = value.clone()
        for place, buffer in enumerate(self._buffers()):
            found[f"buffers.{place}"] = buffer.clone()
        found["progress"] = torch.tensor([self.done, self.kept_step, self.since])
        found["best"] = torch.tensor(self.best, dtype=torch.float64)
        return found

    def _buffers(self) -> list[Tensor]:
        return [buffer for node in self.hnode.variables for buffer in self.dcm.mechanism(node).buffers()]

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`state` gave, in a problem made from the same arguments."""
        self.critics.restore({name: state[f"critics.{name}"] for name in self.critics.state()})
        self._assign([state[f"weights.{place}"] for place in range(len(self.parameters))])
        with torch.no_grad():
            for place, buffer in enumerate(self._buffers()):
                buffer.copy_(state[f"buffers.{place}"])
        self.average = [state[f"average.{place}"].clone() for place in range(len(self.parameters))]
        self.kept = [state[f"kept.{place}"].clone() for place in range(len(self.parameters))]
        for place, parameter in enumerate(self.parameters):
            prefix = f"adam.{place}."
            moments = {name.removeprefix(prefix): one.clone() for name, one in state.items() if name.startswith(prefix)}
            if moments:
                self.optimiser.state[parameter] = moments
        self.done, self.kept_step, self.since = (int(one) for one in state["progress"])
        self.best = float(state["best"])


def fit_adversarial(
    dcm: DCM,
    plan: Plan,
    data: Mapping[str, Encoded],
    config: AdversarialConfig | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    log: Log | None = None,
    *,
    readers: Mapping[str, Reader] | None = None,
) -> list[Outcome]:
    """Train all h-nodes of a plan, level by level, on one thread.

    Args:
        dcm: The model, changed in place.
        plan: A plan whose fits are all adversarial.
        data: Data sets by name.
        config: Settings.
        seed: Seed; an h-node's own is a function of it and of the smallest position of its variables in the graph.
        progress: Told how it goes.
        log: Receives one record per look at held-out rows and per trained h-node.
        readers: As for :class:`AdversarialProblem`.

    Returns:
        What became of each h-node, in the order of the plan.

    Raises:
        PlanError: If a fit is not adversarial.
        MdcmError: If a loss or gradient is not finite.

    References:
        Rahman & Kocaoglu (2024), Algorithms 2 and 7; for a joint plan Algorithm 3.

    Example:
        >>> from mdcm.data import Dataset, Schema, encode
        >>> from mdcm.dcm import DCM
        >>> from mdcm.plan import plan
        >>> p = plan("X -> Y", objective="adversarial")
        >>> rows = Dataset({"X": [0, 0, 1, 1], "Y": [0, 1, 1, 1]}, name="d1")
        >>> schema = Schema.infer([rows])
        >>> dcm = DCM(p.graph, schema, {})
        >>> [one.steps for one in fit_adversarial(dcm, p, {"d1": encode(rows, schema)}, AdversarialConfig(steps=3))]
        [3, 3]
    """
    config = config or AdversarialConfig()
    deadline = None if config.max_minutes is None else time.monotonic() + 60 * config.max_minutes
    late = None if deadline is None else lambda: time.monotonic() > deadline
    outcomes: dict[int, Outcome] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for index in itertools.chain.from_iterable(plan.levels):
            hnode = plan.hnodes[index]
            if not hnode.fits:
                # its mechanisms are taken as they are
                continue
            own = min(dcm.position[name] for name in hnode.variables)
            number = int(np.random.SeedSequence([seed, own]).generate_state(1, np.uint64)[0] >> 1)
            problem = AdversarialProblem(dcm, hnode, data, config, number, readers=readers)
            outcomes[index] = problem.train(progress=progress, log=log, late=late)
    finally:
        torch.set_num_threads(threads)
    dcm.eval()
    return [outcomes[index] for index in sorted(outcomes)]


def _finite(losses: Tensor, grads: Sequence[Tensor | None]) -> bool:
    total = sum((grad.sum() for grad in grads if grad is not None), start=losses.sum())
    return bool(total.isfinite())


def _braced(names: Sequence[str]) -> str:
    return "{" + ", ".join(names) + "}"
