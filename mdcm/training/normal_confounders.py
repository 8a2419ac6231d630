"""Likelihood of numbers whose confounders are normal numbers, by importance sampling at every row.

Finitely many states describe a strong dependence between two numbers badly: along a thin ridge lie as many of them as
it is long. Here a confounder is a standard normal number u that mechanisms read as they read a parent. The c-factor at
a row is the integral ``Q[C](v) = E_u prod_i p_i(v_i | pa_i, u)``, and a proposal that knows the row places a few nodes
where the integrand is: it starts as the posterior of the linear model that fits best, and follows the posterior from
there. The mechanisms start as that linear model too.

Whatever is asked of a trained model sums over states, so that in the end the number is cut into many of them.

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
from mdcm.training.config import CPU, Schedule, TrainConfig
from mdcm.training.factor_models import Equation, Moments, fit_linear_factors
from mdcm.training.losses import Losses, Sample
from mdcm.training.objectives.problems import SingleProblem, decays
from mdcm.training.rows import FitRows

__all__ = ["NormalProblem", "grid", "normal_states", "reads_numbers"]

# nodes at which a row is judged in a step, and when held-out rows are looked at; the share drawn from the prior
_NODES, _CAREFUL, _PRIOR_SHARE = 16, 64, 1 / 8
# standard errors by which a look at held-out rows may be worse than the best one and still be as good
_ERRORS = 1 / 3
# rows evaluated at a time
_EVALUATION_ROWS = 1024
# standard deviations by which the first proposal is wider than the linear model's posterior
_WIDER = 1.25
# the states reach so far
_RANGE = 4.0
# combinations of states of all confounders of one variable; states of a confounder that is alone
_MOST_COMBINATIONS, _MOST_STATES, _FEWEST_STATES = 1024, 256, 8
# as many confounders are integrated at once
_MOST_CONFOUNDERS = 4
_HIDDEN = 32


def reads_numbers(mechanism: Mechanism) -> bool:
    """Whether a mechanism can read a confounder as a number: it takes states as a weighted sum in its first layer."""
    return isinstance(mechanism, (Flow, Categorical)) and not any(
        one.kind == "image" for one in (mechanism.variable, *mechanism.parents)
    )


def normal_states(dcm: DCM, variables: Sequence[str]) -> int | None:
    """States into which normal confounders of these variables are cut; None where they are too many to integrate.

    Example:
        >>> from mdcm.data import Variable
        >>> number = {name: Variable(name, "continuous") for name in "AB"}
        >>> from mdcm.graph import ADMG
        >>> normal_states(DCM(ADMG.from_string("A <-> B"), number, {"U[A,B]": 8}), ["A", "B"])
        256
    """
    if len({index for name in variables for index in dcm.latents[name]}) > _MOST_CONFOUNDERS:
        return None
    most = max(len(dcm.latents[name]) for name in variables)
    states = min(_MOST_STATES, int(_MOST_COMBINATIONS ** (1 / max(most, 1)) + 1e-9))
    return states if states >= _FEWEST_STATES else None


def grid(states: int) -> tuple[Tensor, Tensor]:
    """Places at which a normal number is cut, evenly between -4 and 4, and the logarithms of their probabilities.

    Sums over an even grid of a smooth function times the normal density converge faster than any power of the number
    of places (trapezoidal rule).

    Example:
        >>> places, logs = grid(33)
        >>> round(float((logs.exp() * places.square()).sum()), 3)
        0.999
    """
    places = torch.linspace(-_RANGE, _RANGE, states) if states > 1 else torch.zeros(1)
    return places, (-places.square() / 2).log_softmax(0)


@dataclass
class _Part:
    """Rows of one fit: values as mechanisms and proposal see them.

    Attributes:
        fit: The fit.
        features: What the proposal reads, float32 ``[n, f]``.
        chosen: Rows that are trained on.
        cumulative: Of their weights.
        held: Rows that are judged.
    """

    fit: FitRows
    features: Tensor
    chosen: Tensor
    cumulative: Tensor
    held: Tensor


class NormalProblem(SingleProblem):
    """Likelihood of a c-component whose confounders are standard normal numbers, summed over the fits of the plan.

    Args:
        dcm: The model; its confounders have the states into which the numbers are cut in the end.
        members: Variables of the h-node in topological order.
        fits: The rows of every fit; each adds the c-factor of its own variables at its own rows.
        config: Settings.
        seed: Seed of batches and nodes.
        device: Where to train.

    Raises:
        PlanError: If a mechanism cannot read a number, or there are more confounders than can be integrated at once.
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
        if len(used) > _MOST_CONFOUNDERS:
            raise PlanError(
                f"confounder='gaussian': {{{', '.join(members)}}} share {len(used)} confounders, and at most "
                f"{_MOST_CONFOUNDERS} normal numbers are integrated at once; use confounder='exact'"
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
        seen = {one.name: one for mechanism in confounded for one in (mechanism.variable, *mechanism.parents)}
        self.scales = _Scales(seen, self.fits)
        self.parts = []
        for fit in self.fits:
            read = sorted({one for name in fit.variables if self.latents[name] for one in self._reads(name)})
            self.parts.append(_Part(fit, self.scales.features(read, fit.values), *[torch.arange(0)] * 3))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(seed, "proposals"))
            self.proposals = [_Proposal(part.features.shape[1], self.size) for part in self.parts]
        self._start()
        rows = sum(len(fit.place) for fit in fits)
        own = [one.training_defaults(rows) for one in self.mechanisms.values() if not isinstance(one, Categorical)]
        own = own or [Mechanism.training_defaults(next(iter(self.mechanisms.values())), rows)]
        self.schedule = Schedule(
            steps=config.max_steps or max(int(one["steps"]) for one in own),
            batch_size=config.batch_size or min(int(one["batch_size"]) for one in own),
            learning_rate=config.learning_rate or min(float(one["learning_rate"]) for one in own),
            weight_decay=1e-3,
            betas=(0.9, 0.999),
            ema=0.98,
            warmup=30,
        )
        # a fit that begins near its end has more to lose by going on than to gain
        self.errors = _ERRORS
        learned = [*self.mechanisms.values(), *self.proposals]
        self.parameters = list(dict.fromkeys(parameter for module in learned for parameter in module.parameters()))
        free = {id(one) for module in self.proposals for one in module.parameters()}
        for mechanism in self.mechanisms.values():
            # what a line is made of: decay would pull a strong dependence towards none
            first = mechanism.context.inputs if isinstance(mechanism, Flow) else ()
            free |= {id(one) for module in first for one in module.parameters()}
            free |= {id(one) for one in mechanism.state_weights()}
        given = decays(self.parameters, self.mechanisms.values(), self.schedule.weight_decay, rows)
        self.decays = [0.0 if id(p) in free else one for p, one in zip(self.parameters, given, strict=True)]
        self.refit = True
        self.generator = torch.Generator()
        self.begin(None)
        self.constrain()
        self.move(device)

    def _check(self) -> None:
        for name, mechanism in self._stored.items():
            if not reads_numbers(mechanism):
                raise PlanError(
                    f"confounder='gaussian': the mechanism of {name!r} ({type(mechanism).__name__}) cannot read a "
                    "confounder as a number; use confounder='exact', or a mechanism derived from Flow or Categorical"
                )

    # ------------------------------------------------------------------ the linear model it starts as

    def _reads(self, name: str) -> list[str]:
        """A variable and its parents."""
        return [name, *(parent.name for parent in self.mechanisms[name].parents)]

    def _start(self) -> None:
        """Fit a linear model to the rows, and let mechanisms and proposals begin as it."""
        members = [name for name in self.members if self.latents[name] and self.mechanisms[name].variable.size is None]
        sizes = {name: sum(_width(parent) for parent in self.mechanisms[name].parents) for name in members}
        # the value of every member, a column of ones, and what each member reads of its parents
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
            own = tuple(number for number, name in enumerate(members) if name in fit.variables)
            table = torch.zeros(len(fit.place), int(first[-1]), dtype=torch.float64)
            table[:, len(members)] = 1
            for number in own:
                mechanism = self.mechanisms[members[number]]
                table[:, number] = self.scales.standard(members[number], fit.values[members[number]])
                parents = {parent.name: fit.values[parent.name] for parent in mechanism.parents}
                if parents:
                    at = slice(int(first[number]), int(first[number + 1]))
                    table[:, at] = torch.cat(_inputs(mechanism, parents), 1).double()
            weight = fit.mass()
            tables.append((own, table))
            if own:
                matrix = table.T @ (table * (weight / weight.sum())[:, None])
                moments.append(Moments(matrix, float(weight.sum()), own))
        total = sum(one.share for one in moments)
        moments = [replace(one, share=one.share / total) for one in moments]
        fitted = fit_linear_factors(equations, moments, self.size, derived_seed(self.seed, "factors"))
        for number, name in enumerate(members):
            mechanism = self.mechanisms[name]
            if isinstance(mechanism, Flow):
                loadings = fitted.loadings[number, self.latents[name]]
                mechanism.start_linear(fitted.slopes[number], loadings, float(fitted.spreads[number]))
        for part, proposal, (own, table) in zip(self.parts, self.proposals, tables, strict=True):
            if own:
                matrix, covariance = fitted.posterior(own)
                left = [
                    table[:, number] - table[:, list(equations[number].features)] @ fitted.slopes[number]
                    for number in own
                ]
                proposal.begin(part.features, torch.stack(left, 1) @ matrix.T, covariance * _WIDER**2)

    # ------------------------------------------------------------------ what is minimised

    def move(self, device: torch.device) -> None:
        """Put the parameters on a device."""
        self.device = device
        for module in (*self.mechanisms.values(), *self._stored.values(), *self.proposals):
            module.to(device)

    @torch.no_grad()
    def constrain(self) -> None:
        """Cut the numbers into states: give the model's mechanisms what each state adds to their first layer."""
        for name, mechanism in self._stored.items():
            for weight, direction in zip(mechanism.state_weights(), self.mechanisms[name].state_weights(), strict=True):
                torch.outer(grid(len(weight))[0].to(direction), direction[0], out=weight)

    def begin(self, rows: Tensor | None) -> None:
        """Train on these rows from now on; None means all of them."""
        for part in self.parts:
            local = part.fit.local(rows)
            part.chosen = torch.arange(len(part.fit.place)) if local is None else local
            part.cumulative = part.fit.mass(part.chosen).cumsum(0)
        total = sum(float(part.cumulative[-1]) for part in self.parts if len(part.chosen))
        self.shares = [float(part.cumulative[-1]) / total if len(part.chosen) else 0.0 for part in self.parts]

    def loss(self, step: int) -> Tensor:
        """Training loss of one step, a scalar: of the likelihood, and of the proposals against the posteriors."""
        self.generator.manual_seed(derived_seed(self.seed, step))
        losses = []
        for part, proposal, share in zip(self.parts, self.proposals, self.shares, strict=True):
            if not len(part.chosen):
                continue
            size = max(1, round(self.schedule.batch_size * share))
            at = (torch.arange(size) + torch.rand(size, generator=self.generator, dtype=torch.float64)) / size
            picked = torch.searchsorted(part.cumulative, at * part.cumulative[-1]).clamp_max(len(part.chosen) - 1)
            likelihood, distance = self._judge(part, proposal, part.chosen[picked], _NODES)
            losses.append(share * (distance - likelihood).mean())
        return torch.stack(losses).sum()

    def hold(self, rows: Tensor) -> None:
        """Judge on these rows from now on."""
        for part in self.parts:
            held = part.fit.local(rows)
            assert held is not None
            part.held = held
        self.sample = Sample.build(self.fits, [part.held for part in self.parts])

    def distinct(self, values: Tensor) -> Tensor:
        """Values of held-out rows, as they are: no two of them are taken for equal."""
        return values

    @torch.no_grad()
    def evaluate(self) -> Losses:
        """Losses on the held-out rows, without gradients."""
        # the same nodes at every look, so that looks differ by the weights alone
        self.generator.manual_seed(derived_seed(self.seed, "evaluate"))
        losses = []
        for part, proposal in zip(self.parts, self.proposals, strict=True):
            for rows in torch.split(part.held, _EVALUATION_ROWS):
                losses.append(-self._judge(part, proposal, rows, _CAREFUL)[0])
        return Losses(torch.cat(losses), self.sample, self.errors)

    def _judge(self, part: _Part, proposal: _Proposal, rows: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
        """Log-likelihood of rows, and the cross entropy of the proposal with the posterior, ``[n]`` each."""
        features = part.features[rows].to(self.device)
        place = proposal(features)
        prior = max(1, round(_PRIOR_SHARE * nodes))
        with torch.no_grad():
            noise = _strata(len(rows), nodes - prior, self.size, self.generator).to(self.device)
            wide = _strata(len(rows), prior, self.size, self.generator).to(self.device)
            u = torch.cat([place.at(noise), wide], 1)
            log_normal = -u.square().sum(-1) / 2 - self.size * math.log(2 * math.pi) / 2
            share = prior / nodes
            density = torch.logaddexp(place.log_density(u) + math.log1p(-share), log_normal + math.log(share))
        log_weight = log_normal - density
        flat = u.flatten(0, 1)
        values = {name: value[rows].to(self.device) for name, value in part.fit.values.items()}
        repeated = {name: value.repeat_interleave(nodes, 0) for name, value in values.items()}
        for name in part.fit.variables:
            mechanism = self.mechanisms[name]
            latents = [flat[:, [index]] for index in self.latents[name]]
            given = repeated if latents else values
            parents = {parent.name: given[parent.name] for parent in mechanism.parents}
            found = mechanism.log_prob(parents, latents, given[name])
            log_weight = log_weight + (found.view(-1, nodes) if latents else found[:, None])
        likelihood = log_weight.logsumexp(1) - math.log(nodes)
        posterior = log_weight.detach().softmax(1)
        return likelihood, -(posterior * place.log_density(u)).sum(1)


class _Placed:
    """A normal distribution for every row.

    Args:
        mean: ``[n, d]``.
        factor: Lower triangular ``[n, d, d]``, the covariance is ``factor @ factor'``.
    """

    def __init__(self, mean: Tensor, factor: Tensor) -> None:
        self.mean, self.factor = mean, factor

    def at(self, noise: Tensor) -> Tensor:
        """Points ``[n, s, d]`` at standard normal ones."""
        return self.mean[:, None] + noise @ self.factor.transpose(1, 2)

    def log_density(self, points: Tensor) -> Tensor:
        """Of points ``[n, s, d]``, ``[n, s]``."""
        gap = (points - self.mean[:, None]).transpose(1, 2)
        size = gap.shape[1]
        noise = torch.linalg.solve_triangular(self.factor, gap, upper=False) if size > 1 else gap / self.factor
        scale = self.factor.diagonal(dim1=1, dim2=2).log().sum(1)
        return -noise.square().sum(1) / 2 - scale[:, None] - size * math.log(2 * math.pi) / 2


class _Proposal(nn.Module):
    """Where the confounders of a row probably are: a line in the row's features, and what a network adds."""

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
    def begin(self, features: Tensor, mean: Tensor, covariance: Tensor) -> None:
        """Begin near a mean ``[n, d]`` of every row and with a covariance ``[d, d]``, the same in all rows."""
        ones = torch.ones(len(features), 1, dtype=torch.float64)
        line = least_squares(torch.cat([ones, features.double()], 1), mean)
        self.linear.bias.copy_(line[0])
        self.linear.weight.copy_(line[1:].T)
        factor = torch.linalg.cholesky(covariance)
        self.lower.copy_(factor - factor.diagonal().diag() + factor.diagonal().log().diag())

    def forward(self, features: Tensor) -> _Placed:
        """The distribution of every row."""
        shift, stretch = self.network(features).split(self.size, dim=1)
        scale = self.lower.diagonal().exp()
        factor = self.lower.tril(-1) + scale.diag()
        # a shift of one is a standard deviation
        return _Placed(self.linear(features) + shift * scale, factor * stretch.clamp(-5, 5).exp()[:, :, None])


def _strata(rows: int, nodes: int, size: int, generator: torch.Generator) -> Tensor:
    """Standard normal points ``[rows, nodes, size]``, of which every coordinate has one in each of equal shares."""
    uniform = torch.rand(rows, nodes, size, generator=generator, dtype=torch.float64)
    order = torch.rand(rows, nodes, max(size - 1, 0), generator=generator).argsort(1)
    first = torch.arange(nodes)[None, :, None].expand(rows, nodes, 1)
    strata = torch.cat([first, order], 2)
    normal: Tensor = torch.special.ndtri(((strata + uniform) / nodes).clamp(1e-9, 1 - 1e-9))
    return normal.float()


def _reader(mechanism: Mechanism) -> Mechanism:
    """A mechanism that reads its confounders as numbers, and shares everything else with the given one."""
    states = {id(weight) for weight in mechanism.state_weights()}
    shared = {id(one): one for one in (*mechanism.parameters(), *mechanism.buffers()) if id(one) not in states}
    twin = copy.deepcopy(mechanism, shared)
    twin.latents = (1,) * len(mechanism.latents)
    for weight in twin.state_weights():
        # a direction, as long as a parent's share of the first layer
        weight.data = weight.data[:1] * (math.sqrt(weight.shape[1]) / float(weight.data[:1].norm()))
    return twin


def _inputs(mechanism: Mechanism, parents: Mapping[str, Tensor]) -> list[Tensor]:
    """What the first layer of a mechanism is linear in, ``[n, f]`` per parent."""
    if isinstance(mechanism, Flow):
        return mechanism.context.features(parents)
    assert isinstance(mechanism, Categorical)
    given = [parents[parent.name] for parent in mechanism.parents]
    return [module.features(value) for module, value in zip(mechanism.inputs, given, strict=True)]  # type: ignore[operator]


def _width(variable: Variable) -> int:
    return variable.num_levels if variable.kind == "categorical" else variable.size or 1


class _Scales:
    """Means and standard deviations of numbers and of codes over all rows, with which every fit is read.

    Args:
        variables: Members and their parents.
        fits: The rows.
    """

    def __init__(self, variables: Mapping[str, Variable], fits: Sequence[FitRows]) -> None:
        self.variables = variables
        self.measured = {}
        for name in variables:
            values = [
                fit.values[name].double().flatten(1) if fit.values[name].dim() > 1 else fit.values[name].double()
                for fit in fits
                if name in fit.values
            ]
            self.measured[name] = mean_and_spread(torch.cat(values))

    def standard(self, name: str, value: Tensor) -> Tensor:
        """Values around 0 with a spread of 1, float64; codes of levels count as numbers."""
        mean, spread = self.measured[name]
        return (value.double() - mean) / spread

    def features(self, names: Sequence[str], values: Mapping[str, Tensor]) -> Tensor:
        """What a network reads of some variables, float32 ``[n, f]``: standard numbers, and one-hot rows of levels."""
        parts = []
        for name in names:
            if self.variables[name].kind == "categorical":
                parts.append(F.one_hot(values[name], self.variables[name].num_levels)[:, 1:].float())
            else:
                parts.append(self.standard(name, values[name]).float().view(len(values[name]), -1))
        return torch.cat(parts, 1)
