"""Likelihood of numbers with normally distributed confounders, by importance sampling at every row.

Finitely many states describe a strong dependence between two numbers badly: a thin ridge needs a number of states that
grows with its length. Here a confounder u is standard normal, and mechanisms read it like a parent. The c-factor at a
row is the integral ``Q[C](v) = E_u prod_i p_i(v_i | pa_i, u)``. A proposal conditioned on the row puts a few nodes
where the integrand is large: it starts as the posterior of the best-fitting linear model, and is trained to follow the
posterior. The mechanisms start as that linear model too.

Queries sum over states of confounders, so that a trained normal confounder is discretised into many states.

References:
    Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders, https://arxiv.org/abs/1509.00519 (the
    bound); Bornschein & Bengio (2015), Reweighted wake-sleep, https://arxiv.org/abs/1406.2751 (training of the
    proposal); Veach & Guibas (1995), Optimally combining sampling techniques (the balance heuristic).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdcm.data import Variable
from mdcm.dcm import DCM, derived_seed
from mdcm.errors import PlanError
from mdcm.mechanisms import Categorical, Flow, Mechanism
from mdcm.mechanisms.regression import least_squares, mean_and_spread
from mdcm.training.config import Schedule, TrainConfig
from mdcm.training.devices import CPU
from mdcm.training.factor_models import Equation, Moments, fit_linear_factors
from mdcm.training.losses import HeldOutLosses, HeldOutSample
from mdcm.training.objectives.problems import SingleProblem, decays
from mdcm.training.rows import FitRows

__all__ = ["NormalProblem", "grid", "normal_states", "reads_numbers"]

# nodes per row in a training step and in a validation, and the share of them drawn from the prior
_TRAINING_NODES, _VALIDATION_NODES, _PRIOR_SHARE = 16, 64, 1 / 8
# tolerance of early stopping, in standard errors
_ERRORS = 1 / 3
# rows evaluated at a time
_EVALUATION_ROWS = 1024
# ratio of the first proposal's standard deviations to those of the linear model's posterior
_WIDER = 1.25
# largest state of the grid, in standard deviations
_RANGE = 4.0
# largest number of combinations of states of all confounders of one variable, and limits of the states of each
_MAX_COMBINATIONS, _MAX_STATES, _MIN_STATES = 1024, 256, 8
# largest number of confounders that are integrated at once
_MAX_CONFOUNDERS = 4
_HIDDEN = 32


def reads_numbers(mechanism: Mechanism) -> bool:
    """Whether a mechanism can read a confounder as a number: states enter its first layer as a weighted sum."""
    return isinstance(mechanism, (Flow, Categorical)) and not any(
        variable.kind == "image" for variable in (mechanism.variable, *mechanism.parents)
    )


def normal_states(dcm: DCM, variables: Sequence[str]) -> int | None:
    """Number of states of the normal confounders of these variables; None if there are too many to integrate.

    Example:
        >>> from mdcm.data import Variable
        >>> number = {name: Variable(name, "continuous") for name in "AB"}
        >>> from mdcm.graph import ADMG
        >>> normal_states(DCM(ADMG.from_string("A <-> B"), number, {"U[A,B]": 8}), ["A", "B"])
        256
    """
    if len({index for name in variables for index in dcm.latents[name]}) > _MAX_CONFOUNDERS:
        return None
    dimension = max(len(dcm.latents[name]) for name in variables)
    states = min(_MAX_STATES, int(_MAX_COMBINATIONS ** (1 / max(dimension, 1)) + 1e-9))
    return states if states >= _MIN_STATES else None


def grid(states: int) -> tuple[Tensor, Tensor]:
    """Even grid of a standard normal variable between -4 and 4, and the logarithms of its probabilities.

    Sums over an even grid of a smooth function times the normal density converge faster than any power of the number
    of points (trapezoidal rule).

    Example:
        >>> points, logs = grid(33)
        >>> round(float((logs.exp() * points.square()).sum()), 3)
        0.999
    """
    points = torch.linspace(-_RANGE, _RANGE, states) if states > 1 else torch.zeros(1)
    return points, (-points.square() / 2).log_softmax(0)


@dataclass
class _Part:
    """Rows of one fit.

    Attributes:
        fit: Values as the mechanisms read them.
        features: Values as the proposal reads them, float32 ``[n, f]``.
        training: Training rows.
        cumulative: Running sum of their weights.
        held_out: Held-out rows.
    """

    fit: FitRows
    features: Tensor
    training: Tensor
    cumulative: Tensor
    held_out: Tensor


class NormalProblem(SingleProblem):
    """Likelihood of a c-component with standard normal confounders, summed over the fits of the plan.

    Args:
        dcm: The model; its confounders have the states of the grid.
        members: Variables of the h-node in topological order.
        fits: The rows of every fit; each adds the c-factor of its own variables at its own rows.
        config: Settings.
        seed: Seed of batches and nodes.
        device: Device of the training.

    Raises:
        PlanError: If a mechanism cannot read a number, or there are too many confounders to integrate.
    """

    def __init__(
        self,
        dcm: DCM,
        members: Sequence[str],
        fits: Sequence[FitRows],
        config: TrainConfig,
        seed: int,
        device: torch.device = CPU,
    ) -> None:
        self.members, self.fits, self.seed, self.device = tuple(members), tuple(fits), seed, device
        self._stored = {name: dcm.mechanism(name) for name in members}
        self._check()
        used = sorted({index for name in members for index in dcm.latents[name]})
        if len(used) > _MAX_CONFOUNDERS:
            raise PlanError(
                f"confounder='gaussian': {{{', '.join(members)}}} share {len(used)} confounders, and at most "
                f"{_MAX_CONFOUNDERS} normal numbers are integrated at once; use confounder='exact'"
            )
        self.latents = {name: [used.index(index) for index in dcm.latents[name]] for name in members}
        self.size = len(used)
        for index in used:
            with torch.no_grad():
                dcm.priors[index].copy_(grid(len(dcm.priors[index]))[1])
        for name, mechanism in self._stored.items():
            values = next(fit.values for fit in fits if name in fit.variables)
            mechanism.prepare({parent.name: values[parent.name] for parent in mechanism.parents}, values[name])
        self.mechanisms = {name: _reader(mechanism) for name, mechanism in self._stored.items()}
        confounded = [mechanism for mechanism in self.mechanisms.values() if mechanism.latents]
        variables = {v.name: v for mechanism in confounded for v in (mechanism.variable, *mechanism.parents)}
        self.scales = _Scales(variables, self.fits)
        self.parts = []
        for fit in self.fits:
            read = {node for name in fit.variables if self.latents[name] for node in self._with_parents(name)}
            features = self.scales.features(sorted(read), fit.values)
            self.parts.append(_Part(fit, features, *[torch.arange(0)] * 3))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "proposals"))
            self.proposals = [_Proposal(part.features.shape[1], self.size) for part in self.parts]
        self._start()
        rows = sum(len(fit.index) for fit in fits)
        defaults = [m.training_defaults(rows) for m in self.mechanisms.values() if not isinstance(m, Categorical)]
        defaults = defaults or [Mechanism.training_defaults(next(iter(self.mechanisms.values())), rows)]
        self.schedule = Schedule(
            steps=config.max_steps or max(int(each["steps"]) for each in defaults),
            batch_size=config.batch_size or min(int(each["batch_size"]) for each in defaults),
            learning_rate=config.learning_rate or min(float(each["learning_rate"]) for each in defaults),
            weight_decay=1e-3,
            betas=(0.9, 0.999),
            ema=0.98,
            warmup=30,
        )
        # a small tolerance: a fit that starts near its optimum has little to gain from more steps
        self.errors = _ERRORS
        trained = [*self.mechanisms.values(), *self.proposals]
        self.parameters = list(dict.fromkeys(parameter for module in trained for parameter in module.parameters()))
        undecayed = {id(parameter) for module in self.proposals for parameter in module.parameters()}
        for mechanism in self.mechanisms.values():
            # weights of the linear part: decay would shrink a strong dependence
            first_layer = mechanism.context.inputs if isinstance(mechanism, Flow) else ()
            undecayed |= {id(parameter) for module in first_layer for parameter in module.parameters()}
            undecayed |= {id(weight) for weight in mechanism.state_weights()}
        own_decays = decays(self.parameters, self.mechanisms.values(), self.schedule.weight_decay, rows)
        self.decays = [0.0 if id(p) in undecayed else d for p, d in zip(self.parameters, own_decays, strict=True)]
        self.refit = True
        self.generator = torch.Generator()
        self.train_on(None)
        self.constrain()
        self.move(device)

    def _check(self) -> None:
        for name, mechanism in self._stored.items():
            if not reads_numbers(mechanism):
                raise PlanError(
                    f"confounder='gaussian': the mechanism of {name!r} ({type(mechanism).__name__}) cannot read a "
                    "confounder as a number; use confounder='exact', or a mechanism derived from Flow or Categorical"
                )

    # ------------------------------------------------------------------ initial linear model

    def _with_parents(self, name: str) -> list[str]:
        """A variable and its parents."""
        return [name, *(parent.name for parent in self.mechanisms[name].parents)]

    def _start(self) -> None:
        """Fit a linear model to the rows, and initialise mechanisms and proposals with it."""
        members = [name for name in self.members if self.latents[name] and self.mechanisms[name].variable.size is None]
        sizes = {name: sum(_width(parent) for parent in self.mechanisms[name].parents) for name in members}
        # columns: the value of every member, ones, and each member's features of its parents
        first = torch.tensor([0, *sizes.values()]).cumsum(0) + len(members) + 1
        equations = [
            Equation(
                number,
                (len(members), *range(int(first[number]), int(first[number + 1]))),
                tuple(self.latents[name]),
            )
            for number, name in enumerate(members)
        ]
        tables, moments = [], []
        for fit in self.fits:
            numbers = tuple(number for number, name in enumerate(members) if name in fit.variables)
            table = torch.zeros(len(fit.index), int(first[-1]), dtype=torch.float64)
            table[:, len(members)] = 1
            for number in numbers:
                mechanism = self.mechanisms[members[number]]
                table[:, number] = self.scales.standard(members[number], fit.values[members[number]])
                parents = {parent.name: fit.values[parent.name] for parent in mechanism.parents}
                if parents:
                    columns = slice(int(first[number]), int(first[number + 1]))
                    table[:, columns] = torch.cat(_inputs(mechanism, parents), 1).double()
            weight = fit.mass()
            tables.append((numbers, table))
            if numbers:
                matrix = table.T @ (table * (weight / weight.sum())[:, None])
                moments.append(Moments(matrix, float(weight.sum()), numbers))
        total = sum(part.share for part in moments)
        moments = [replace(part, share=part.share / total) for part in moments]
        fitted = fit_linear_factors(equations, moments, self.size, derived_seed(self.seed, "factors"))
        for number, name in enumerate(members):
            mechanism = self.mechanisms[name]
            if isinstance(mechanism, Flow):
                loadings = fitted.loadings[number, self.latents[name]]
                mechanism.start_linear(fitted.slopes[number], loadings, float(fitted.spreads[number]))
        for part, proposal, (numbers, table) in zip(self.parts, self.proposals, tables, strict=True):
            if numbers:
                matrix, covariance = fitted.posterior(numbers)
                residuals = [
                    table[:, number] - table[:, list(equations[number].features)] @ fitted.slopes[number]
                    for number in numbers
                ]
                proposal.initialise(part.features, torch.stack(residuals, 1) @ matrix.T, covariance * _WIDER**2)

    # ------------------------------------------------------------------ loss

    def move(self, device: torch.device) -> None:
        """Move the parameters to a device."""
        self.device = device
        for module in (*self.mechanisms.values(), *self._stored.values(), *self.proposals):
            module.to(device)

    @torch.no_grad()
    def constrain(self) -> None:
        """Discretise the confounders: write the contribution of each state into the first layers of the mechanisms."""
        for name, mechanism in self._stored.items():
            for weight, direction in zip(mechanism.state_weights(), self.mechanisms[name].state_weights(), strict=True):
                torch.outer(grid(len(weight))[0].to(direction), direction[0], out=weight)

    def train_on(self, rows: Tensor | None) -> None:
        """Set the training rows; None stands for all rows."""
        for part in self.parts:
            local = part.fit.local(rows)
            part.training = torch.arange(len(part.fit.index)) if local is None else local
            part.cumulative = part.fit.mass(part.training).cumsum(0)
        total = sum(float(part.cumulative[-1]) for part in self.parts if len(part.training))
        self.shares = [float(part.cumulative[-1]) / total if len(part.training) else 0.0 for part in self.parts]

    def loss(self, step: int) -> Tensor:
        """Training loss of one step, a scalar: negative log-likelihood plus cross entropy of the proposals."""
        self.generator.manual_seed(derived_seed(self.seed, step))
        losses = []
        for part, proposal, share in zip(self.parts, self.proposals, self.shares, strict=True):
            if not len(part.training):
                continue
            size = max(1, round(self.schedule.batch_size * share))
            quantiles = (torch.arange(size) + torch.rand(size, generator=self.generator, dtype=torch.float64)) / size
            positions = torch.searchsorted(part.cumulative, quantiles * part.cumulative[-1])
            rows = part.training[positions.clamp_max(len(part.training) - 1)]
            likelihood, cross_entropy = self._log_likelihood(part, proposal, rows, _TRAINING_NODES)
            losses.append(share * (cross_entropy - likelihood).mean())
        return torch.stack(losses).sum()

    def validate_on(self, rows: Tensor) -> None:
        """Set the held-out rows."""
        for part in self.parts:
            held_out = part.fit.local(rows)
            assert held_out is not None
            part.held_out = held_out
        self.sample = HeldOutSample.build(self.fits, [part.held_out for part in self.parts])

    def distinct(self, values: Tensor) -> Tensor:
        """Values of held-out rows, unchanged, because equal rows are not merged."""
        return values

    @torch.no_grad()
    def evaluate(self) -> HeldOutLosses:
        """Losses on the held-out rows, without gradients."""
        # the same noise in every validation, so that only the weights differ
        self.generator.manual_seed(derived_seed(self.seed, "evaluate"))
        losses = []
        for part, proposal in zip(self.parts, self.proposals, strict=True):
            for rows in torch.split(part.held_out, _EVALUATION_ROWS):
                losses.append(-self._log_likelihood(part, proposal, rows, _VALIDATION_NODES)[0])
        return HeldOutLosses(torch.cat(losses), self.sample, self.errors)

    def _log_likelihood(self, part: _Part, proposal: _Proposal, rows: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
        """Log-likelihood of rows, and the cross entropy of the proposal with the posterior, ``[n]`` each."""
        features = part.features[rows].to(self.device)
        normal = proposal(features)
        prior = max(1, round(_PRIOR_SHARE * nodes))
        with torch.no_grad():
            noise = _strata(len(rows), nodes - prior, self.size, self.generator).to(self.device)
            wide = _strata(len(rows), prior, self.size, self.generator).to(self.device)
            u = torch.cat([normal.points(noise), wide], 1)
            log_normal = -u.square().sum(-1) / 2 - self.size * math.log(2 * math.pi) / 2
            share = prior / nodes
            density = torch.logaddexp(normal.log_density(u) + math.log1p(-share), log_normal + math.log(share))
        log_weight = log_normal - density
        flat = u.flatten(0, 1)
        values = {name: value[rows].to(self.device) for name, value in part.fit.values.items()}
        repeated = {name: value.repeat_interleave(nodes, 0) for name, value in values.items()}
        for name in part.fit.variables:
            mechanism = self.mechanisms[name]
            latents = [flat[:, [index]] for index in self.latents[name]]
            columns = repeated if latents else values
            parents = {parent.name: columns[parent.name] for parent in mechanism.parents}
            log_prob = mechanism.log_prob(parents, latents, columns[name])
            log_weight = log_weight + (log_prob.view(-1, nodes) if latents else log_prob[:, None])
        likelihood = log_weight.logsumexp(1) - math.log(nodes)
        posterior = log_weight.detach().softmax(1)
        return likelihood, -(posterior * normal.log_density(u)).sum(1)


class _RowNormals:
    """A multivariate normal distribution for every row.

    Args:
        mean: Means ``[n, d]``.
        factor: Cholesky factors of the covariances, lower triangular ``[n, d, d]``.
    """

    def __init__(self, mean: Tensor, factor: Tensor) -> None:
        self.mean, self.factor = mean, factor

    def points(self, noise: Tensor) -> Tensor:
        """Points ``[n, s, d]`` from standard normal noise of the same shape."""
        return self.mean[:, None] + noise @ self.factor.transpose(1, 2)

    def log_density(self, points: Tensor) -> Tensor:
        """Log density ``[n, s]`` of points ``[n, s, d]``."""
        gap = (points - self.mean[:, None]).transpose(1, 2)
        size = gap.shape[1]
        noise = torch.linalg.solve_triangular(self.factor, gap, upper=False) if size > 1 else gap / self.factor
        scale = self.factor.diagonal(dim1=1, dim2=2).log().sum(1)
        return -noise.square().sum(1) / 2 - scale[:, None] - size * math.log(2 * math.pi) / 2


class _Proposal(nn.Module):
    """Normal proposal for the confounders of a row: linear in the row's features, plus the output of a network."""

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.linear = nn.Linear(features, size)
        self.lower = nn.Parameter(torch.eye(size))
        self.network = nn.Sequential(
            nn.Linear(features, _HIDDEN),
            nn.SiLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.SiLU(),
            nn.Linear(_HIDDEN, 2 * size),
        )
        with torch.no_grad():
            last = self.network[-1]
            assert isinstance(last, nn.Linear)
            last.weight.zero_()
            last.bias.zero_()

    @torch.no_grad()
    def initialise(self, features: Tensor, mean: Tensor, covariance: Tensor) -> None:
        """Start near the mean ``[n, d]`` of every row, with one covariance ``[d, d]`` for all rows."""
        ones = torch.ones(len(features), 1, dtype=torch.float64)
        line = least_squares(torch.cat([ones, features.double()], 1), mean)
        self.linear.bias.copy_(line[0])
        self.linear.weight.copy_(line[1:].T)
        factor = torch.linalg.cholesky(covariance)
        self.lower.copy_(factor - factor.diagonal().diag() + factor.diagonal().log().diag())

    def forward(self, features: Tensor) -> _RowNormals:
        """Distribution of every row."""
        shift, stretch = self.network(features).split(self.size, dim=1)
        scale = self.lower.diagonal().exp()
        factor = self.lower.tril(-1) + scale.diag()
        # shifts are in units of standard deviations
        return _RowNormals(self.linear(features) + shift * scale, factor * stretch.clamp(-5, 5).exp()[:, :, None])


def _strata(rows: int, nodes: int, size: int, generator: torch.Generator) -> Tensor:
    """Stratified standard normal points ``[rows, nodes, size]``: a Latin hypercube sample in every row."""
    uniform = torch.rand(rows, nodes, size, generator=generator, dtype=torch.float64)
    order = torch.rand(rows, nodes, max(size - 1, 0), generator=generator).argsort(1)
    first = torch.arange(nodes)[None, :, None].expand(rows, nodes, 1)
    strata = torch.cat([first, order], 2)
    normal: Tensor = torch.special.ndtri(((strata + uniform) / nodes).clamp(1e-9, 1 - 1e-9))
    return normal.float()


def _reader(mechanism: Mechanism) -> Mechanism:
    """A mechanism that reads its confounders as numbers, and shares all other parameters with the given one."""
    states = {id(weight) for weight in mechanism.state_weights()}
    tensors = (*mechanism.parameters(), *mechanism.buffers())
    shared = {id(tensor): tensor for tensor in tensors if id(tensor) not in states}
    twin = copy.deepcopy(mechanism, shared)
    twin.latents = (1,) * len(mechanism.latents)
    for weight in twin.state_weights():
        # one direction, scaled like the weights of a parent
        weight.data = weight.data[:1] * (math.sqrt(weight.shape[1]) / float(weight.data[:1].norm()))
    return twin


def _inputs(mechanism: Mechanism, parents: Mapping[str, Tensor]) -> list[Tensor]:
    """Inputs of the first layer of a mechanism, ``[n, f]`` per parent."""
    if isinstance(mechanism, Flow):
        return mechanism.context.features(parents)
    assert isinstance(mechanism, Categorical)
    columns = [parents[parent.name] for parent in mechanism.parents]
    return [module.features(value) for module, value in zip(mechanism.inputs, columns, strict=True)]  # type: ignore[operator]


def _width(variable: Variable) -> int:
    return variable.num_levels if variable.kind == "categorical" else variable.size or 1


class _Scales:
    """Means and standard deviations of numbers and codes over the rows of all fits.

    Args:
        variables: Members and their parents.
        fits: The rows.
    """

    def __init__(self, variables: Mapping[str, Variable], fits: Sequence[FitRows]) -> None:
        self.variables = variables
        self.moments = {}
        for name in variables:
            values = [
                fit.values[name].double().flatten(1) if fit.values[name].dim() > 1 else fit.values[name].double()
                for fit in fits
                if name in fit.values
            ]
            self.moments[name] = mean_and_spread(torch.cat(values))

    def standard(self, name: str, value: Tensor) -> Tensor:
        """Standardised values, float64; codes of levels count as numbers."""
        mean, spread = self.moments[name]
        return (value.double() - mean) / spread

    def features(self, names: Sequence[str], values: Mapping[str, Tensor]) -> Tensor:
        """Network inputs of some variables, float32 ``[n, f]``: standardised numbers, and one-hot rows of levels."""
        parts = []
        for name in names:
            if self.variables[name].kind == "categorical":
                parts.append(F.one_hot(values[name], self.variables[name].num_levels)[:, 1:].float())
            else:
                parts.append(self.standard(name, values[name]).float().view(len(values[name]), -1))
        return torch.cat(parts, 1)
