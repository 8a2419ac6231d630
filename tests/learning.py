"""Problems with a known truth, and the exact maximum-likelihood estimates that a trained model is measured against.

Nothing here uses the objectives under test: likelihoods are plain sums over the states of confounders, and a trained
model is read out into a :class:`DiscreteSCM`, whose answers are exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from mdcm.data import Dataset
from mdcm.graph import ADMG
from mdcm.identification import identify
from mdcm.metrics import sampling_floor, tv_distance
from mdcm.planning import Plan
from mdcm.scm import DiscreteSCM, random_discrete

# variables whose c-factor the rows of a table show, and that table
Part = tuple[Sequence[str], pd.DataFrame]

# cells up to which a c-factor is compared as one table; beyond it, row by row on a sample
MOST_CELLS = 3**13


@dataclass(frozen=True)
class Problem:
    """A true model and rows drawn from it."""

    truth: DiscreteSCM
    table: pd.DataFrame

    @property
    def graph(self) -> ADMG:
        return self.truth.graph


def confounded_chain() -> Problem:
    """Six ternary variables in one c-component: v_i -> v_(i+1), v_i <-> v_(i+1); 20,000 rows."""
    torch.manual_seed(1)
    size, levels, states = 6, 3, 4
    graph = ADMG.from_string("; ".join(f"v{i} -> v{i + 1}; v{i} <-> v{i + 1}" for i in range(size - 1)))
    priors = [_dirichlet(states, alpha=1.0) for _ in range(size - 1)]
    tables = []
    for i in range(size):
        shape = (levels,) * (i > 0) + (states,) * ((i > 0) + (i < size - 1))
        tables.append(_dirichlet(*shape, levels))
    return _drawn(graph, tables, priors, 20_000)


def front_door() -> Problem:
    """X -> Z -> Y with X <-> Y, of 3, 4 and 3 levels and a confounder of 6 states; 20,000 rows."""
    torch.manual_seed(0)
    graph = ADMG.from_string("X -> Z -> Y; X <-> Y")
    prior = _dirichlet(6)
    x, z, y = _dirichlet(6, 3), _dirichlet(3, 4), _dirichlet(4, 6, 3)
    return _drawn(graph, [x, z, y], [prior], 20_000)


def seven_variables(levels: int = 3) -> Problem:
    """The seven-node graph of the paper's section F.7; 20,000 complete rows."""
    torch.manual_seed(100 + levels)
    names = ["X0", "X1", "X2", "W0", "W1", "Y0", "Y1"]
    arrows = "X0 -> W0; X0 -> W1; X1 -> W1; X2 -> W1; W0 -> Y0; W1 -> Y0; W1 -> Y1; X0 <-> Y0; X1 <-> X2; X2 <-> Y1"
    graph = ADMG.from_string("; ".join([*names, arrows]))
    states = 4

    def mixed(*shape: int, alpha: float = 0.7) -> torch.Tensor:
        return _dirichlet(*shape, alpha=alpha) * 0.9 + 0.1 / shape[-1]

    priors = [mixed(states, alpha=1.0) for _ in range(3)]
    tables = []
    for name in names:
        confounders = sum(name in children for _, children in graph.confounders)
        tables.append(mixed(*(levels,) * len(graph.parents(name)), *(states,) * confounders, levels))
    return _drawn(graph, tables, priors, 20_000, torch.Generator().manual_seed(7))


def copies_of_one_coin(flip: float = 0.05, rows: int = 8_000) -> Problem:
    """Four noisy copies of one hidden coin."""
    graph = ADMG.from_string("L [latent]; L -> A; L -> B; L -> C; L -> D")
    copy = np.array([[1 - flip, flip], [flip, 1 - flip]])
    truth = DiscreteSCM(graph, dict.fromkeys(graph.nodes, copy), {"L": [0.5, 0.5]})
    return Problem(truth, truth.sample(rows, seed=0))


def voted(graph: ADMG, least: float = 0.15) -> DiscreteSCM:
    """A binary model that no effect is small in: a variable is one as often as its parents and confounders are.

    The probability of one is ``least`` where none of them is one, ``1 - least`` where all are, and linear between.
    """
    tables = {}
    for node in graph.nodes:
        votes = len(graph.parents(node)) + sum(node in children for _, children in graph.confounders)
        shares = np.indices((2,) * votes).reshape(votes, -1).mean(axis=0) if votes else np.full(1, 0.5)
        ones = (least + (1 - 2 * least) * shares).reshape((2,) * votes)
        tables[node] = np.stack([1 - ones, ones], axis=-1)
    return DiscreteSCM(graph, tables, {name: [0.5, 0.5] for name, _ in graph.confounders})


def without_confounder(truth: DiscreteSCM, pair: Sequence[str]) -> DiscreteSCM:
    """The model in which either child of a confounder has a copy of its own of it, independent of the other's."""
    graph = truth.graph
    (lost,) = (name for name, children in graph.confounders if set(children) == set(pair))
    kept = [(name, children) for name, children in graph.confounders if name != lost]
    tables = {}
    for node in graph.nodes:
        own = [name for name, children in graph.confounders if node in children]
        table = np.asarray(truth.tables[node])
        if lost in own:
            axis = len(graph.parents(node)) + own.index(lost)
            table = np.tensordot(np.asarray(truth.priors[lost]), np.moveaxis(table, axis, 0), 1)
        tables[node] = table
    cut = ADMG(graph.nodes, graph.directed, [tuple(children) for _, children in kept])
    named = zip(cut.confounders, kept, strict=True)
    return DiscreteSCM(cut, tables, {new: truth.priors[old] for (new, _), (old, _) in named})


def pairwise_split(graph: ADMG) -> ADMG:
    """The graph with a confounder of every two children in the place of each latent."""
    pairs = dict.fromkeys(pair for _, children in graph.confounders for pair in itertools.combinations(children, 2))
    return ADMG(graph.nodes, graph.directed, list(pairs))


def random_admg(size: int, arcs: int, confounders: int, seed: int, *, most_parents: int = 4) -> ADMG:
    """Random ADMG with so many arcs and confounded pairs, and at most ``most_parents`` parents per variable."""
    rng = np.random.default_rng(seed)
    pairs = list(itertools.combinations([f"V{i}" for i in range(size)], 2))
    directed: list[tuple[str, str]] = []
    parents = dict.fromkeys((f"V{i}" for i in range(size)), 0)
    for place in rng.permutation(len(pairs)):
        pair = pairs[place]
        if len(directed) < arcs and parents[pair[1]] < most_parents:
            directed.append(pair)
            parents[pair[1]] += 1
    assert len(directed) == arcs, "no graph of that many arcs exists"
    hidden = [pairs[place] for place in sorted(rng.permutation(len(pairs))[:confounders])]
    return ADMG([f"V{i}" for i in range(size)], directed, hidden)


def random_problem(size: int, arcs: int, confounders: int, seed: int, rows: int = 20_000) -> Problem:
    """A random ADMG over ternary variables with confounders of four states, and rows drawn from a random model."""
    truth = random_discrete(random_admg(size, arcs, confounders, seed), levels=3, seed=seed, latent_levels=4)
    return Problem(truth, truth.sample(rows, seed=seed))


@dataclass(frozen=True)
class Experiment:
    """Rows of a true model under an intervention that sets each target to some levels equally often, or none.

    Attributes:
        do: Targets.
        columns: Observed variables, the targets included.
        rows: Number of rows.
        values: Levels that a target is set to; every level where it is not mentioned.
    """

    do: tuple[str, ...]
    columns: tuple[str, ...]
    rows: int
    values: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def settings(self, truth: DiscreteSCM) -> dict[str, tuple[int, ...]]:
        """Levels that each target is set to."""
        return {target: tuple(self.values.get(target, truth.levels[target])) for target in self.do}

    def draw(self, truth: DiscreteSCM, seed: int, name: str | None = None) -> Dataset:
        rng = np.random.default_rng([seed, 77])
        levels = self.settings(truth)
        do = {target: np.asarray(one)[rng.permutation(self.rows) % len(one)] for target, one in levels.items()}
        table = truth.sample(self.rows, do=do or None, seed=seed)
        return Dataset(table[list(self.columns)], do=self.do, name=name)

    def distances(self, truth: DiscreteSCM, model: DiscreteSCM) -> tuple[float, float]:
        """Distance of the model's distribution of such rows from the true one, and that of their frequencies."""
        free = [name for name in self.columns if name not in self.do]
        choices = list(itertools.product(*self.settings(truth).values()))
        exact = []
        for one in (truth, model):
            parts = [one.exact(free, do=dict(zip(self.do, values, strict=True))).to_numpy() for values in choices]
            exact.append(np.concatenate(parts) / len(choices))
        return tv_distance(*exact), sampling_floor(exact[0], self.rows)


def estimation_errors(
    truth: DiscreteSCM, queries: Sequence[str], experiments: Sequence[Experiment], repeats: int = 20
) -> np.ndarray:
    """Distance to the truth of every query's plug-in estimate from fresh data sets of the same sizes and columns.

    The mean over the data sets, the rows of the result, is the estimation floor of each query.

    The estimate is the estimand with the data's frequencies in the place of its probabilities: of an effect, of a
    counterfactual, of whatever the data determine. A query that is a table per value of do() or of a condition has the
    sum over these values.
    """
    specs = [one.draw(truth, 0, f"d{place}").spec(truth.graph.nodes) for place, one in enumerate(experiments)]
    estimands = [identify(truth.graph, one, datasets=specs, levels=truth.levels).estimand for one in queries]
    right = [answer_of(truth, one) for one in queries]
    found = np.zeros((repeats, len(queries)))
    for seed in range(repeats):
        data = fresh(truth, experiments, seed)
        for place, estimand in enumerate(estimands):
            # without the warning of conditions that no row meets: what the estimate makes of them is part of its error
            estimate = np.asarray(estimand.estimate(data).values, dtype=np.float64).ravel()
            found[seed, place] = np.abs(estimate - right[place]).sum() / 2
    return found


def fresh(truth: DiscreteSCM, experiments: Sequence[Experiment], seed: int) -> list[Dataset]:
    """Data sets that no model is trained on."""
    return [one.draw(truth, 10_000 + 100 * seed + place, f"d{place}") for place, one in enumerate(experiments)]


def answer_of(model: DiscreteSCM, query: str) -> np.ndarray:
    """The exact answer as numbers in the order of its index."""
    return np.asarray(model.answer(query), dtype=np.float64).ravel()


def answer_distance(truth: DiscreteSCM, model: DiscreteSCM, query: str) -> float:
    """Half the sum of absolute differences of two exact answers."""
    return float(np.abs(answer_of(model, query) - answer_of(truth, query)).sum() / 2)


def read_out(dcm) -> DiscreteSCM:
    """The distribution of a trained model as tables: every mechanism at every parent value and confounder state."""
    tables = {}
    for node in dcm.graph.nodes:
        mechanism = dcm.mechanism(node)
        sizes = [parent.num_levels for parent in mechanism.parents] + list(mechanism.latents)
        columns = [torch.from_numpy(axis.ravel()) for axis in np.indices(sizes)]
        parents = dict(zip([parent.name for parent in mechanism.parents], columns, strict=False))
        latents = columns[len(mechanism.parents) :]
        with torch.no_grad():
            logits = mechanism.logits(parents, latents, math.prod(sizes)).double()
        tables[node] = logits.softmax(-1).reshape(*sizes, -1).numpy()
    priors = {
        name: prior.detach().double().softmax(0).numpy()
        for name, prior in zip(dcm.confounders, dcm.priors, strict=True)
    }
    return DiscreteSCM(dcm.graph, tables, priors)


def maximum_likelihood(
    graph: ADMG, table: pd.DataFrame, states: int = 4, *, levels: int = 3, seed: int = 0, tolerance: float = 1e-8
) -> DiscreteSCM:
    """The maximum-likelihood model: frequencies where unconfounded, expectation-maximisation where not.

    Args:
        graph: The ADMG.
        table: Codes, one column per variable.
        states: States of every confounder.
        levels: Levels of every variable.
        seed: Seed of the random start.
        tolerance: Iterations end where one gains less than so many nats per row.
    """
    parts = [[(tuple(component), table)] for component in graph.c_components()]
    return _maximum_likelihood(graph, parts, states, levels, seed, tolerance)


def maximum_likelihood_of_plan(
    plan: Plan, data: Sequence[Dataset], states: int = 4, *, levels: int = 3, seed: int = 0, tolerance: float = 1e-8
) -> DiscreteSCM:
    """As :func:`maximum_likelihood`, of all likelihoods that a plan adds up for every c-component."""
    tables = {one.name: one.table for one in data}
    parts = [[(fit.variables, tables[name]) for fit in hnode.fits for name in fit.datasets] for hnode in plan.hnodes]
    return _maximum_likelihood(plan.graph, parts, states, levels, seed, tolerance)


def _maximum_likelihood(
    graph: ADMG, parts: Sequence[Sequence[Part]], states: int, levels: int, seed: int, tolerance: float
) -> DiscreteSCM:
    tables: dict[str, np.ndarray] = {}
    priors: dict[str, np.ndarray] = {}
    for component in parts:
        members = sorted({name for names, _ in component for name in names}, key=graph.index)
        fitted = _Expectation(graph, members, component, states, levels, seed).run(tolerance)
        tables.update(fitted[0])
        priors.update(fitted[1])
    return DiscreteSCM(graph, tables, priors)


def c_factor_at(model: DiscreteSCM, members: Sequence[str], rows: pd.DataFrame) -> np.ndarray:
    """Q[C] of a model at every row, by summing over the states of the confounders of C."""
    codes = {name: torch.tensor(rows[name].to_numpy()) for name in rows}
    tables = {name: torch.from_numpy(model.tables[name]) for name in members}
    priors = {name: torch.from_numpy(prior) for name, prior in model.priors.items()}
    scopes = {name: [axis for axis in model.axes(name) if axis in model.priors] for name in members}
    return _likelihood(tables, priors, scopes, {n: model.axes(n) for n in members}, codes).numpy()


def c_factor_distance(truth: DiscreteSCM, models: Sequence[DiscreteSCM], members: Iterable[str]) -> list[float]:
    """Sum over pa of P(pa) TVD(Q_model(. | pa), Q(. | pa)) of one c-component, for every model.

    Exact where the tables are small; otherwise the mean of |Q_model / Q - 1| / 2 over 50,000 rows drawn from
    P(pa) Q(c | pa), the same rows for every model.
    """
    names = sorted(members, key=truth.graph.index)
    outside = sorted(truth.graph.parents(names) - set(names), key=truth.graph.index)
    if 3 ** (len(names) + len(outside)) <= MOST_CELLS:
        weight = truth.exact(outside).to_numpy() if outside else np.ones(1)
        right = truth.c_factor(names).reshape(len(weight), -1)
        return [
            float(weight @ np.abs(model.c_factor(names).reshape(len(weight), -1) - right).sum(1) / 2)
            for model in models
        ]
    return sampled_c_factor_distance(truth, models, names)


def sampled_c_factor_distance(
    truth: DiscreteSCM, models: Sequence[DiscreteSCM], members: Sequence[str], rows: int = 50_000, seed: int = 1_000_000
) -> list[float]:
    """Monte-Carlo form of :func:`c_factor_distance`."""
    outside = truth.graph.parents(members) - set(members)
    given = truth.sample(rows, seed=seed)
    # the second draw has noise of its own: its members are independent of how their parents came about
    drawn = truth.sample(rows, do={name: given[name].to_numpy() for name in sorted(outside)}, seed=seed + 1)
    right = c_factor_at(truth, members, drawn)
    return [float(np.abs(c_factor_at(model, members, drawn) / right - 1).mean() / 2) for model in models]


def mean_c_factor_distance(truth: DiscreteSCM, models: Sequence[DiscreteSCM]) -> np.ndarray:
    """Mean of :func:`c_factor_distance` over all c-components, for every model."""
    components = truth.graph.c_components()
    return np.mean([c_factor_distance(truth, models, component) for component in components], axis=0)


def critical_chi_square(freedom: int) -> float:
    """Quantile at 1 - 1e-4 by Wilson and Hilferty's cube root: 7 % high at one degree of freedom, 1 % at ten."""
    share = 2 / (9 * freedom)
    return freedom * (1 - share + 3.719 * math.sqrt(share)) ** 3


def chi_square(counts: ArrayLike, probabilities: ArrayLike) -> float:
    """Pearson's statistic of counts against probabilities; cells that should hold fewer than 5 are pooled."""
    observed, expected = np.asarray(counts, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    expected = expected * observed.sum()
    rare = expected < 5
    pooled = expected[rare].sum()
    total = ((observed - expected)[~rare] ** 2 / expected[~rare]).sum()
    return float(total + ((observed[rare].sum() - pooled) ** 2 / pooled if pooled > 0 else 0.0))


def _dirichlet(*shape: int, alpha: float = 0.5) -> torch.Tensor:
    return torch.distributions.Dirichlet(torch.full((shape[-1],), alpha)).sample(shape[:-1])


def _drawn(graph, tables, priors, rows: int, generator: torch.Generator | None = None) -> Problem:
    exact = [np.asarray(array, dtype=np.float64) for array in (*tables, *priors)]
    exact = [array / array.sum(-1, keepdims=True) for array in exact]
    names = [name for name, _ in graph.confounders]
    truth = DiscreteSCM(
        graph,
        dict(zip(graph.nodes, exact, strict=False)),
        dict(zip(names, exact[len(tables) :], strict=True)),
    )
    joint = truth.exact(list(graph.nodes)).to_numpy()
    cells = torch.multinomial(torch.from_numpy(joint.astype(np.float32)), rows, replacement=True, generator=generator)
    shape = [len(truth.levels[node]) for node in graph.nodes]
    codes = np.unravel_index(cells.numpy(), shape)
    return Problem(truth, pd.DataFrame(dict(zip(graph.nodes, codes, strict=True))))


def _likelihood(
    tables: Mapping[str, torch.Tensor],
    priors: Mapping[str, torch.Tensor],
    scopes: Mapping[str, Sequence[str]],
    axes: Mapping[str, Sequence[str]],
    codes: Mapping[str, torch.Tensor],
) -> torch.Tensor:
    """Sum over all states of the confounders of the product of all factors and priors, at every row."""
    letter = {name: chr(ord("A") + i) for i, name in enumerate(dict.fromkeys(itertools.chain(*scopes.values())))}
    operands, terms = [], []
    for name, table in tables.items():
        # one slice of the table per row: the axes of confounders stay, those of variables are looked up
        kept = [axis for axis in axes[name] if axis in letter]
        looked = [axis for axis in axes[name] if axis not in letter]
        place = [list(axes[name]).index(axis) for axis in (*looked, *kept)]
        operands.append(table.permute(place)[tuple(codes[axis] for axis in looked)])
        terms.append("r" + "".join(letter[axis] for axis in kept))
    for name, sign in letter.items():
        operands.append(priors[name])
        terms.append(sign)
    shapes = [np.broadcast_to(0.0, operand.shape) for operand in operands]
    path, _ = np.einsum_path(",".join(terms) + "->r", *shapes, optimize="greedy")
    for step in path[1:]:
        taken = [(operands[i], terms[i]) for i in step]
        operands = [operand for i, operand in enumerate(operands) if i not in step]
        terms = [term for i, term in enumerate(terms) if i not in step]
        left = {sign for term in terms for sign in term} | {"r"}
        result = "".join(sorted({sign for _, term in taken for sign in term} & left))
        subscripts = ",".join(term for _, term in taken) + "->" + result
        operands.append(torch.einsum(subscripts, *(operand for operand, _ in taken)))
        terms.append(result)
    return operands[0]


class _Expectation:
    """Expectation-maximisation of the tables of one c-component, on distinct rows and their counts."""

    def __init__(
        self, graph: ADMG, members: Sequence[str], parts: Sequence[Part], states: int, levels: int, seed: int
    ) -> None:
        rng = np.random.default_rng([seed, graph.index(members[0])])
        hidden = {node: [name for name, children in graph.confounders if node in children] for node in members}
        parents = {node: sorted(graph.parents(node), key=graph.index) for node in members}
        self.axes = {node: (*parents[node], *hidden[node], node) for node in members}
        self.scopes = hidden
        self.tables, self.priors = {}, {}
        for node in members:
            shape = [levels] * len(parents[node]) + [states] * len(hidden[node])
            drawn = (
                rng.dirichlet(np.ones(levels), size=shape) if hidden[node] else np.full((*shape, levels), 1 / levels)
            )
            self.tables[node] = torch.from_numpy(drawn)
        for name in dict.fromkeys(itertools.chain(*hidden.values())):
            self.priors[name] = torch.full((states,), 1 / states, dtype=torch.float64)
        rows = sum(len(table) for _, table in parts)
        self.parts = []
        for own, table in parts:
            names = sorted({*own, *itertools.chain(*(parents[name] for name in own))}, key=graph.index)
            distinct, counts = np.unique(table[names].to_numpy(), axis=0, return_counts=True)
            codes = {name: torch.from_numpy(distinct[:, i].copy()) for i, name in enumerate(names)}
            self.parts.append((sorted(own, key=graph.index), codes, torch.from_numpy(counts / rows)))

    def run(self, tolerance: float, most: int = 2_000) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Iterate, extrapolating from every two steps (Varadhan & Roland 2008, the squared iterative method)."""
        last, safe = -np.inf, self._parameters()
        for _ in range(most):
            start = self._parameters()
            value = self.improve()
            # a jump may overshoot, a step of expectation-maximisation never does
            if value < last:
                self._set(safe)
                start = self._parameters()
                value = self.improve()
            if value - last < tolerance:
                break
            last = value
            once = self._parameters()
            self.improve()
            safe = self._parameters()
            step = torch.cat([(b - a).flatten() for a, b in zip(start, once, strict=True)]).norm()
            bends = [c - 2 * b + a for a, b, c in zip(start, once, safe, strict=True)]
            bend = torch.cat([one.flatten() for one in bends]).norm()
            if bend == 0:
                break
            length = max(float(step / bend), 1.0)
            jumped = []
            for a, b, curve in zip(start, once, bends, strict=True):
                point = (a + 2 * length * (b - a) + length**2 * curve).clamp_min(1e-12)
                jumped.append(point / point.sum(-1, keepdim=True))
            self._set(jumped)
        return (
            {name: table.numpy() for name, table in self.tables.items()},
            {name: prior.numpy() for name, prior in self.priors.items()},
        )

    def _parameters(self) -> list[torch.Tensor]:
        return [p.detach() for p in (*self.tables.values(), *self.priors.values())]

    def _set(self, values: Sequence[torch.Tensor]) -> None:
        self.tables = dict(zip(self.tables, values, strict=False))
        self.priors = dict(zip(self.priors, values[len(self.tables) :], strict=True))

    def improve(self) -> float:
        """One iteration: the expected count of a cell is its probability times the likelihood's slope in it."""
        parameters = [p.requires_grad_() for p in (*self.tables.values(), *self.priors.values())]
        value = torch.zeros((), dtype=torch.float64)
        for own, codes, share in self.parts:
            tables = {name: self.tables[name] for name in own}
            scopes = {name: self.scopes[name] for name in own}
            value = value + (_likelihood(tables, self.priors, scopes, self.axes, codes).log() * share).sum()
        slopes = torch.autograd.grad(value, parameters)
        renewed = []
        for parameter, slope in zip(parameters, slopes, strict=True):
            counts = parameter.detach() * slope
            total = counts.sum(-1, keepdim=True)
            # what no row speaks of stays as it is
            renewed.append(torch.where(total > 0, counts / total, parameter.detach()))
        self._set(renewed)
        return float(value.detach())
