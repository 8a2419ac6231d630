"""Training of an h-node against critics: the rows that are compared, steps of training, and validation.

For each fit, a critic compares rows over S, Pa(S) and I, where S is the fitted variables and the ancestors A trained
before. Real rows come from the fit's data sets. Generated rows take Pa(S) and I from the same real rows and generate S
ancestrally, with the mechanisms of A unchanged. This matches P(S | Pa(S), do(I)) and so, since A is fixed, the c-factor
of the fitted variables. All fits of an h-node are trained together, and their losses are added.

Confounders have finitely many states, drawn once per row for all of their children. States, like categorical values,
are one-hot rows with the gradient of a softmax (straight-through), so that a critic's gradient reaches the priors too.

Deliberate deviations from the printed algorithm: the penalty is added, not multiplied; critics are initialised once;
the penalty is on the generated columns only, since the others are the same in both rows; new rows are generated for
every critic step; critics have no batch normalisation.

References:
    Rahman & Kocaoglu (2024), Algorithms 3, 4 and 7 and section F.1; Gulrajani et al. (2017),
    https://arxiv.org/abs/1704.00028; Jang, Gu & Poole (2017), https://arxiv.org/abs/1611.01144.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from mdcm import kernels
from mdcm.dcm import derived_seed
from mdcm.errors import MdcmError, PlanError
from mdcm.kernels import graphs
from mdcm.mechanisms.base import Mechanism
from mdcm.mechanisms.encoder import train_encoder
from mdcm.mechanisms.representations import ProbeGap, encode_images, probe_gap
from mdcm.text.advice import advice
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.objectives.comparison import ENERGY_ROWS, Distances, compare
from mdcm.training.objectives.critics import Critics
from mdcm.training.objectives.generators import FitSide, GeneratedRows, Generators, gumbel_, prepare_mechanisms
from mdcm.training.objectives.problems import assign
from mdcm.training.optimizer import adamw_step
from mdcm.training.pooled_rows import Layout, PooledRows, Reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data import Encoded, Variable
    from mdcm.dcm import DCM
    from mdcm.planning import Fit, HNode

__all__ = ["AdversarialProblem", "StepLosses", "generated_and_given", "pixels"]

# rows of a validation if everything is categorical
_CHECK_ROWS = 20_000
# standard errors by which a validation may be worse than the best and still count as equal
_WITHIN = 1 / 3
# rows of uniform numbers of a fit: quantile of the real row, share of the real row, and the first row of the races
QUANTILE, SHARE, RACES = range(3)
CRITIC, GENERATOR = "critic", "generator"


class StepLosses(NamedTuple):
    """Losses of a step.

    Attributes:
        critic: Mean over the critic steps of D(fake) - D(real) + penalty, ``[fits]``.
        generator: -D(fake), ``[fits]``.
    """

    critic: Tensor
    generator: Tensor


class AdversarialProblem:
    """Training problem of an h-node, with a critic per fit.

    The constructor prepares the mechanisms on data (:meth:`~mdcm.mechanisms.Mechanism.prepare`), and a
    :class:`~mdcm.training.trainer.Trainer` of an :class:`~mdcm.training.objectives.adversarial.AdversarialObjective`
    trains them. Mechanisms outside the h-node generate in evaluation mode and stay unchanged. The same seed gives the
    same weights bit for bit: random numbers of a step are a function of seed and step.

    Args:
        dcm: The model; mechanisms of the fits' ancestors are already trained.
        hnode: The h-node, with its fits.
        data: Data sets by name.
        config: Settings.
        seed: Seed of critics, batches and noise; not negative.
        held_out: Mask of the held-out rows of every data set, bool ``[n]``. By default no rows are held out, and
            validations use training rows.
        readers: For every image among the columns of a fit, a function from float images ``[n, c, h, w]`` in [-1, 1]
            to features ``[n, r]``, which the critic compares instead. By default an encoder trained here to predict
            the observed members of the h-node, or the pixels if the image is an h-node by itself. Mechanisms of members
            read the same features instead of the image (:func:`~mdcm.mechanisms.representations.encode_images`),
            because a critic that sees only these can only teach how they depend on these.

    Attributes:
        sides: The fits with their rows.
        generators: Mechanisms and priors that generate rows.
        parameters: Trained parameters: those of the h-node's mechanisms, and the priors of its confounders.
        average: Averaged weights.
        kept: Best averaged weights so far.
        steps: Steps of the schedule.
        critics: The critics of all fits.
        addressed: Whether uniform numbers are a function of their addresses, which a captured graph can evaluate;
            otherwise they come from PyTorch's generator, which is faster on the CPU.

    Raises:
        PlanError: If a fit is not adversarial, a categorical mechanism has no relaxed draws, or an encoder of an image
            has nothing to predict.
        MdcmError: From :meth:`step`, if a loss or gradient is not finite.

    References:
        Rahman & Kocaoglu (2024), Algorithm 4.

    Example:
        >>> from mdcm.data import Dataset, Schema, encode
        >>> from mdcm.dcm import DCM
        >>> from mdcm.planning import plan
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
        held_out: Mapping[str, NDArray[np.bool_]] | None = None,
        readers: Mapping[str, Reader] | None = None,
    ) -> None:
        self.dcm = dcm
        self.hnode = hnode
        self.config = config or AdversarialConfig()
        self.seed = seed
        self.readers = dict(readers or {})
        # for every image, the data set on which its representation is tested
        self._image_data: dict[str, Encoded] = {}
        self.steps = self.config.steps
        self.device = next(dcm.parameters()).device
        self.generator = torch.Generator(self.device)
        self.addressed = graphs.possible(self.device)
        self._steps = derived_seed(self.seed, "steps")
        self._check_mechanisms()
        used = sorted({name for fit in hnode.fits for name in fit.datasets})
        masks = {name: np.zeros(data[name].rows, np.bool_) if held_out is None else held_out[name] for name in used}
        self.sides = [self._side(fit, data, masks) for fit in hnode.fits]
        prepare_mechanisms(dcm, hnode, data, masks)
        for node in hnode.variables:
            encode_images(dcm.mechanism(node), self.readers, derived_seed(self.seed, "encoder"))
        self.generators = Generators(dcm, self.sides, hnode.variables)
        self.parameters: list[nn.Parameter] = self.generators.parameters
        self.critics = Critics(
            [side.layout.mask(side.compared) for side in self.sides],
            hidden=self.config.hidden,
            layers=self.config.layers,
            betas=self.config.betas,
            penalty=self.config.penalty,
            one_sided=self.config.one_sided,
            generator=torch.Generator().manual_seed(derived_seed(self.seed, "critics")),
            device=self.device,
        )
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.kept = [weight.clone() for weight in self.average]
        self.moments = [torch.zeros_like(weight) for weight in self.average]
        self.squares = [torch.zeros_like(weight) for weight in self.average]
        self.counts = torch.zeros(len(self.average), device=self.device)
        # a total variation distance from n rows has a standard deviation of at most 1 / (2 sqrt n)
        variances = [0.25 / side.held.rows for side in self.sides]
        self.tolerance = _WITHIN * math.sqrt(sum(variances)) / len(variances)

    # ---- set-up

    def _check_mechanisms(self) -> None:
        for fit in self.hnode.fits:
            if fit.objective == "likelihood":
                raise PlanError(
                    f"h-node {braced(self.hnode.variables)} has a fit by {fit.objective}, but only adversarial fits "
                    "are trained here"
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
        compared = {*fit.variables, *fit.ancestors}
        generated, given = generated_and_given(dcm, fit, data)
        columns = [dcm.schema[name] for name in sorted(compared | given)]
        images = [variable for variable in columns if variable.kind == "image"]
        features = {image.name: self._features(image, fit, pooled[0]) for image in images}
        layout = Layout(columns, features)
        train = PooledRows.build(layout, pooled, [~masks[name] for name in fit.datasets], self.device)
        held_out = [masks[name] for name in fit.datasets]
        held = PooledRows.build(layout, pooled, held_out, self.device) if any(m.any() for m in held_out) else train
        order = tuple(node for node in dcm.order if node in generated)
        return FitSide(fit, order, tuple(sorted(given)), layout, train, held)

    def _features(self, variable: Variable, fit: Fit, data: Encoded) -> int:
        """Number of features of an image; trains an encoder if there is no reader."""
        name = variable.name
        targets = self._targets(name, data)
        if name not in self.readers and self.hnode.variables == (name,):
            # without other members there is nothing to predict, and no other mechanism to train with it
            self.readers[name] = pixels
        if name not in self.readers:
            if not targets:
                how = advice(f"Dataset(..., arrays={{{name!r}: features}})", "their file under 'arrays' in the spec")
                raise PlanError(
                    f"image {name!r} is a column of the fit {fit}, and no other variable of the h-node tells an "
                    f"encoder what to look for in it. Give the model a vector in its place, features of your own "
                    f"choice: {how}; or add to the graph what you know of the "
                    f"image, such as a label L, confounded with it: {name} <-> L"
                )
            self.readers[name] = train_encoder(
                data[name],
                targets,
                **self._encoder_options(data, targets),
            )
        self._image_data.setdefault(name, data)
        with torch.no_grad():
            return self.readers[name](torch.zeros(1, *(variable.shape or ()), device=self.device)).shape[1]

    def _targets(self, image: str, data: Encoded) -> dict[str, NDArray[Any]]:
        """Values of the h-node's other members in a data set, without images."""
        others = [name for name in self.hnode.variables if name in data and name != image]
        return {name: np.asarray(data[name]) for name in others if self.dcm.schema[name].kind != "image"}

    def _levels(self, names: Iterable[str]) -> dict[str, int]:
        """Numbers of levels of the variables that have levels."""
        variables = [self.dcm.schema[name] for name in names]
        return {variable.name: variable.num_levels for variable in variables if variable.levels is not None}

    def _encoder_options(self, data: Encoded, targets: Iterable[str]) -> dict[str, Any]:
        """Options shared by the training of an encoder and of the probes that test it."""
        return {
            "levels": self._levels(targets),
            "weights": data.weights,
            "steps": self.config.encoder_steps,
            "seed": derived_seed(self.seed, "encoder"),
            "device": self.device,
        }

    def gaps(self) -> dict[str, ProbeGap]:
        """Advantage of a probe that sees an image over a probe that sees its representation, by image."""
        gaps = {}
        for name, data in self._image_data.items():
            targets = self._targets(name, data)
            if targets:
                gaps[name] = probe_gap(
                    self.readers[name],
                    data[name],
                    targets,
                    **self._encoder_options(data, targets),
                )
        return {name: gap for name, gap in gaps.items() if gap is not None}

    # ---- steps

    @property
    def noise_rows(self) -> int:
        """Number of rows of uniform numbers of a step, each with a number for every generated row of a fit."""
        return len(self.sides) * (RACES + self.generators.width)

    def addresses(self) -> tuple[Tensor, Tensor]:
        """Seed and site of each row of uniform numbers, int64 ``[noise_rows]``, if they are addressed."""
        sites = torch.arange(self.noise_rows, device=self.device)
        return torch.full_like(sites, self._steps), sites

    def draw_uniform(self, step: int, out: Tensor) -> None:
        """Draw all uniform numbers of a step, ``[noise_rows, n]``, a function of seed and step only.

        For every fit: quantiles of the real rows, shares of the real rows in interpolated rows, and the races.
        """
        self.generator.manual_seed(self._steps + step)
        if self.addressed:
            number = torch.full((), step, dtype=torch.int64, device=self.device)
            out.copy_(kernels.seeded_uniform(*self.addresses(), number, out.shape[1]))
        else:
            out.uniform_(generator=self.generator)

    def _batch(self, step: int) -> _Batch:
        """Rows and noise of a step."""
        config, fits = self.config, len(self.sides)
        size, parts = config.batch_size, config.critic_steps + 1
        uniform = torch.empty(self.noise_rows, size * parts, device=self.device)
        self.draw_uniform(step, uniform)
        uniform = uniform.view(fits, -1, size * parts)
        rows, given = [], []
        for side, at in zip(self.sides, stratified(uniform[:, QUANTILE], size), strict=True):
            packed, values = side.train.values(side.train.at(at))
            rows.append(side.train.real(packed, values, self.readers))
            given.append({name: values[name] for name in side.given})
        share = uniform[:, SHARE, :, None].clone()
        race = gumbel_(uniform[:, RACES:]).mT.contiguous()
        return _Batch(self._padded(rows), given, share, race)

    def _padded(self, rows: Sequence[Tensor]) -> Tensor:
        width = self.critics.width
        return torch.stack([nn.functional.pad(part, (0, width - part.shape[1])) for part in rows])

    def _fake(self, batch: _Batch, temperature: float) -> Tensor:
        draw = self.generators.draw(batch.given, batch.race.flatten(0, 1), temperature, self.generator)
        return self._padded(
            [side.layout.pack(values, self.readers) for side, values in zip(self.sides, draw.values, strict=True)]
        )

    def step(self, step: int) -> StepLosses:
        """Take a step: ``critic_steps`` steps of the critics, then a step of the generators.

        Args:
            step: Number of the step, from 1; random numbers are a function of it and the seed.

        Returns:
            The losses, without gradient.

        Raises:
            MdcmError: If a loss or gradient is not finite; the message names h-node, fit and step.
        """
        config = self.config
        for node, mechanism in self.generators.mechanisms.items():
            mechanism.train(node in self.hnode.variables)
        temperature, rate = config.schedule(step)
        split = config.batch_size * config.critic_steps
        with torch.no_grad():
            batch = self._batch(step)
            critic = self._step_critics(step, batch.part(0, split), temperature, config.critic_learning_rate * rate)
        last = batch.part(split, split + config.batch_size)
        generator_state = self.generator.get_state()
        losses, grads = self._gradients(last, temperature)
        if not _finite(losses, grads):
            self.generator.set_state(generator_state)
            self.blame(step, last)
        with torch.no_grad():
            moments = (self.moments, self.squares, self.counts)
            adamw_step(self.parameters, grads, *moments, config.learning_rate * rate, config.betas)
            torch._foreach_lerp_(self.average, list(self.parameters), config.averaging(step))
        return StepLosses(critic, losses)

    def _gradients(
        self, batch: _Batch, temperature: float, fits: Sequence[int] | None = None
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """Generator losses on fresh rows, ``[fits]``, and the gradient of their sum; of all fits by default."""
        losses = -self.critics.values(self._fake(batch, temperature)).mean(1)
        if fits is not None:
            losses = losses[list(fits)]
        return losses.detach(), torch.autograd.grad(losses.sum(), self.parameters, allow_unused=True)

    def _step_critics(self, step: int, batch: _Batch, temperature: float, rate: float) -> Tensor:
        # the generators do not change between critic steps, so the rows of all these steps are generated at once
        fakes = self._fake(batch, temperature)
        losses = torch.zeros(len(self.sides), device=self.device)
        batches = (torch.split(rows, self.config.batch_size, 1) for rows in (fakes, batch.real, batch.share))
        for fake, real, share in zip(*batches, strict=True):
            loss = self.critics.step(fake, real, share, rate)
            if not bool(loss.isfinite().all()):
                self.diverged(step, int((~loss.isfinite()).nonzero()[0]), CRITIC)
            losses += loss / self.config.critic_steps
        return losses

    def blame(self, step: int, batch: _Batch | None = None) -> NoReturn:
        """Find the fit whose generator loss or gradient is not finite, and raise the error.

        Args:
            step: Number of the step, in which the critics have already been stepped.
            batch: Its rows, if available.
        """
        config = self.config
        if batch is None:
            split = config.batch_size * config.critic_steps
            batch = self._batch(step).part(split, split + config.batch_size)
        generator_state = self.generator.get_state()
        temperature, _ = config.schedule(step)
        for fit in range(len(self.sides)):
            # the same random numbers for every fit
            self.generator.set_state(generator_state)
            if not _finite(*self._gradients(batch, temperature, [fit])):
                break
        self.diverged(step, fit, GENERATOR)

    def diverged(self, step: int, fit: int, what: str) -> NoReturn:
        """Raise the error that names h-node, fit and step."""
        raise MdcmError(
            f"training of h-node {braced(self.hnode.variables)} diverged: the {what} loss or its gradient of the fit "
            f"{self.sides[fit].fit} is not finite at step {step}; try learning rates below "
            f"{self.config.learning_rate:g} and {self.config.critic_learning_rate:g}"
        )

    # ---- validation

    def check(self) -> Distances:
        """Compare rows of the averaged weights with held-out rows, with the same noise in every validation."""
        with torch.no_grad(), self.holding(self.average):
            draw, held = self._validation_rows()
            return compare(self.sides, draw.values, held, self.readers, self.tolerance)

    def idle(self) -> tuple[str, ...]:
        """Confounders of the h-node that carry no information; see :meth:`Generators.idle`."""
        with torch.no_grad(), self.holding(self.average):
            draw, _ = self._validation_rows()
            self.generator.manual_seed(derived_seed(self.seed, "idle"))
            return self.generators.idle(draw, self.generator)

    def _validation_rows(self) -> tuple[GeneratedRows, list[Tensor]]:
        """Generated rows, and the held-out rows that their given values are from."""
        self.generator.manual_seed(derived_seed(self.seed, "validation"))
        held, given = [], []
        size = _CHECK_ROWS if all(side.layout.categorical for side in self.sides) else ENERGY_ROWS
        for side in self.sides:
            rows = side.held.at((torch.arange(size, device=self.device, dtype=torch.float64) + 0.5) / size)
            held.append(rows)
            given.append(side.held.plain(rows, side.given))
        return self.generators.sample(given, size, self.generator), held

    @contextmanager
    def holding(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Context in which the model has these weights, in evaluation mode."""
        current = [parameter.detach().clone() for parameter in self.parameters]
        for mechanism in self.generators.mechanisms.values():
            mechanism.eval()
        self._assign(weights)
        try:
            yield
        finally:
            self._assign(current)

    @torch.no_grad()
    def _assign(self, weights: Sequence[Tensor]) -> None:
        for parameter, weight in zip(self.parameters, weights, strict=True):
            parameter.copy_(weight)

    def finish(self) -> None:
        """Put the best weights into the model, in evaluation mode."""
        self._assign(self.kept)
        for mechanism in self.generators.mechanisms.values():
            mechanism.eval()

    # ---- checkpoints

    def state(self) -> dict[str, Tensor]:
        """State from which training continues as if never stopped: tensors by name, copies."""
        state = {f"critics.{name}": tensor for name, tensor in self.critics.state().items()}
        for name, tensors in self._groups().items():
            state |= {f"{name}.{index}": tensor.detach().clone() for index, tensor in enumerate(tensors)}
        return state

    def _groups(self) -> dict[str, Sequence[Tensor]]:
        return {
            "weights": self.parameters,
            "average": self.average,
            "kept": self.kept,
            "moments": self.moments,
            "squares": self.squares,
            "counts": [self.counts],
            "buffers": self._buffers(),
        }

    def _buffers(self) -> list[Tensor]:
        return [buffer for node in self.hnode.variables for buffer in self.dcm.mechanism(node).buffers()]

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore a result of :meth:`state`, in a problem made from the same arguments."""
        self.critics.restore({name: state[f"critics.{name}"] for name in self.critics.state()})
        for name, tensors in self._groups().items():
            assign([tensor.detach() for tensor in tensors], [state[f"{name}.{k}"] for k in range(len(tensors))])


@dataclass(frozen=True)
class _Batch:
    """Rows and noise of a step, ``n`` per fit.

    Attributes:
        real: Real rows for the critics, ``[fits, n, width]``.
        given: Given values of the generated rows, for every fit.
        share: Share of the real row in each interpolated row, ``[fits, n, 1]``.
        race: Gumbel noise of the races, ``[fits, n, columns]``.
    """

    real: Tensor
    given: Sequence[Mapping[str, Tensor]]
    share: Tensor
    race: Tensor

    def part(self, start: int, stop: int) -> _Batch:
        """A range of rows."""
        given = [{name: value[start:stop] for name, value in values.items()} for values in self.given]
        return _Batch(self.real[:, start:stop], given, self.share[:, start:stop], self.race[:, start:stop])


def stratified(uniform: Tensor, size: int) -> Tensor:
    """Quantiles of real rows, float64 ``[..., n]``: from each of ``size`` equal shares of the weight in turn."""
    stratum = torch.arange(uniform.shape[-1], device=uniform.device) % size
    return (stratum + uniform.double()) / size


def generated_and_given(dcm: DCM, fit: Fit, data: Mapping[str, Encoded]) -> tuple[set[str], set[str]]:
    """Variables that are generated for a fit, and those whose values come from its rows."""
    pooled = [data[name] for name in fit.datasets]
    # exclude variables that some data sets set and others do not observe: they are not parents of anything here
    given = {*fit.parents, *(name for name in fit.do if all(name in dataset for dataset in pooled))}
    generated = {*fit.variables, *fit.ancestors}
    pending = list(generated)
    while pending:
        # parents that are neither given nor compared are not observed, but must be generated
        new = {parent for parent in dcm.parents(pending.pop()) if parent not in given} - generated
        generated |= new
        pending += sorted(new)
    return generated, given


def braced(names: Sequence[str]) -> str:
    """Names of an h-node for messages."""
    return "{" + ", ".join(names) + "}"


def pixels(images: Tensor) -> Tensor:
    """Pixels of images, ``[n, c * h * w]``."""
    return images.flatten(1)


def _finite(losses: Tensor, grads: Sequence[Tensor | None]) -> bool:
    total = sum((grad.sum() for grad in grads if grad is not None), start=losses.sum())
    return bool(total.isfinite())
