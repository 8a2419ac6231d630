"""Proof that a query is not identifiable: two explicit models that agree on all available data and differ in the query.

The search walks along a fibre, the set of models with the same available distributions. Everything that is available
is multilinear in the confounders' priors and the variables' tables, so its derivative at a model is a set of marginals
of that model's joint distribution. If the query's gradient has a part outside the span of those derivatives, a step
along that part changes the query and nothing else to first order, and Newton steps lead back to the fibre. Where the
query is a smooth function of what is available, there is no such part at any model and a start ends at once.

What is found is checked by plain enumeration of the hidden states (``Model``), which shares no code with the search.
A result of None proves nothing; it also depends on the numbers of levels, since some queries are identifiable for
variables with two levels alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from mdcm.graph import ADMG
from mdcm.query import Expression, Query, Term, parse

Array = np.ndarray
Setting = dict[str, int]

# available distributions that differ by less are equal; models are on the same fibre to 1e-13, so that a query would
# have to magnify differences by seven orders to pass for one that differs
_EQUAL = 1e-10
# conditions of smaller probability are left alone
_RARE = 1e-4


@dataclass(frozen=True)
class Available:
    """A data set: its targets with the values that were set (None: every value), and its columns (None: all)."""

    do: dict[str, tuple[int, ...] | None] = dataclasses.field(default_factory=dict)
    columns: tuple[str, ...] | None = None

    def settings(self, levels: Mapping[str, int]) -> list[Setting]:
        """All combinations of values that the data set sets."""
        values = [range(levels[name]) if chosen is None else chosen for name, chosen in self.do.items()]
        return [dict(zip(self.do, combination, strict=True)) for combination in itertools.product(*values)]


# ---------------------------------------------------------------------- explicit models, by enumeration


@dataclass(frozen=True)
class Model:
    """A structural causal model with finitely many hidden states.

    Attributes:
        graph: The ADMG.
        levels: Number of levels by variable.
        priors: P(u) by confounder.
        tables: By variable, P(v | parents, confounders) with axes parents, confounders, v, each in the graph's order,
            which is what ``DiscreteSCM`` takes; with ``functions``, P(r | confounders) with axes confounders, r.
        functions: By variable, the level for every response type and parents' values, with axes r, parents.
    """

    graph: ADMG
    levels: dict[str, int]
    priors: dict[str, Array]
    tables: dict[str, Array]
    functions: dict[str, Array] | None = None

    def parents(self, name: str) -> list[str]:
        return [node for node in self.graph.nodes if node in self.graph.parents(name)]

    def confounders(self, name: str) -> list[str]:
        return [latent for latent, children in self.graph.confounders if name in children]

    def joint(self, do: Setting) -> Array:
        """P(V | do), one axis per variable."""
        weights, values = self._simulated(do)
        shape = [self.levels[name] for name in self.graph.nodes]
        cells = np.ravel_multi_index([values[name] for name in self.graph.nodes], shape)
        return np.bincount(cells, weights, minlength=math.prod(shape)).reshape(shape)

    def distribution(self, do: Setting, columns: Sequence[str] | None) -> Array:
        """P(columns | do)."""
        hidden = [k for k, name in enumerate(self.graph.nodes) if columns is not None and name not in columns]
        return self.joint(do).sum(axis=tuple(hidden))

    def answer(self, expression: Expression) -> float:
        """Value of an expression all of whose terms have values."""
        return sum(sign * self._answer(query) for sign, query in expression.terms)

    def _answer(self, query: Query) -> float:
        do = {term.variable: int(term.value) for term in query.do}
        if query.layer == 3:
            weights, units = self._units()
            seen = {term: self._in_world(term, units) for term in (*query.outcomes, *query.given)}
        else:
            weights, values = self._simulated(do)
            seen = {term: values[term.variable] for term in (*query.outcomes, *query.given)}
        for term in query.given:
            weights = weights * (seen[term] == term.value)
        if query.kind == "E":
            return float((weights * seen[query.outcomes[0]]).sum() / weights.sum())
        holds = np.all([seen[term] == term.value for term in query.outcomes], axis=0)
        return float(weights[holds].sum() / weights.sum())

    def _simulated(self, do: Setting) -> tuple[Array, dict[str, Array]]:
        """Probabilities of all hidden states, and the values of all variables in each."""
        if self.functions is not None:
            weights, units = self._units()
            return weights, self._world({name: np.full(len(weights), value) for name, value in do.items()}, units)
        # without response types the values themselves are enumerated beside the confounders' states
        sizes = {name: len(prior) for name, prior in self.priors.items()}
        sizes |= {name: self.levels[name] for name in self.graph.nodes if name not in do}
        values = _grid(sizes)
        count = math.prod(sizes.values())
        values |= {name: np.full(count, value) for name, value in do.items()}
        weights = np.ones(count)
        for name, prior in self.priors.items():
            weights *= prior[values[name]]
        for name in self.graph.nodes:
            if name not in do:
                axes = [*self.parents(name), *self.confounders(name), name]
                weights *= self.tables[name][tuple(values[axis] for axis in axes)]
        return weights, {name: values[name] for name in self.graph.nodes}

    def _units(self) -> tuple[Array, dict[str, Array]]:
        """Probabilities of all hidden states with the response type of every variable in each."""
        assert self.functions is not None
        sizes = {("u", name): len(prior) for name, prior in self.priors.items()}
        sizes |= {("r", name): len(table) for name, table in self.functions.items()}
        states = _grid(sizes)
        weights = np.ones(math.prod(sizes.values()))
        for name, prior in self.priors.items():
            weights *= prior[states["u", name]]
        for name, table in self.tables.items():
            weights *= table[(*(states["u", latent] for latent in self.confounders(name)), states["r", name])]
        return weights, {name: states["r", name] for name in self.graph.nodes}

    def _world(self, settings: Mapping[str, Array], units: Mapping[str, Array]) -> dict[str, Array]:
        assert self.functions is not None
        values: dict[str, Array] = {}
        for name in self.graph.topological_order():
            if name in settings:
                values[name] = settings[name]
            else:
                values[name] = self.functions[name][(units[name], *(values[parent] for parent in self.parents(name)))]
        return values

    def _in_world(self, term: Term, units: Mapping[str, Array]) -> Array:
        settings = {}
        for setting in term.world:
            if setting.value is None:
                settings[setting.variable] = self._in_world(setting, units)
            else:
                settings[setting.variable] = np.full(len(units[term.variable]), int(setting.value))
        return self._world(settings, units)[term.variable]


def _grid(sizes: Mapping) -> dict:
    """All combinations of states, as one flat array per name."""
    cells = np.indices(tuple(sizes.values())).reshape(len(sizes), -1)
    return dict(zip(sizes, cells, strict=True))


@dataclass(frozen=True)
class Found:
    """Two models that agree on everything available and differ in the query.

    Attributes:
        query: The cell of the query in which they differ, with a value for every term.
        first: The model with the smaller answer.
        second: The model with the larger answer.
        values: The two answers.
        gap: Their difference.
        mismatch: Largest difference between two available probabilities.
        smallest: Smallest probability of a cell of P(V) or of P(V | do) at the values set, in either model.
    """

    query: str
    first: Model
    second: Model
    values: tuple[float, float]
    gap: float
    mismatch: float
    smallest: float


def compared(first: Model, second: Model, query: Expression, available: Sequence[Available]) -> Found:
    """What two models have in common and where they differ, by enumeration."""
    mismatch, smallest = 0.0, 1.0
    for data in (Available(), *available):
        for do in data.settings(first.levels):
            one, other = first.joint(do), second.joint(do)
            at = tuple(do.get(name, slice(None)) for name in first.graph.nodes)
            smallest = min(smallest, one[at].min(), other[at].min())
    for data in available:
        for do in data.settings(first.levels):
            difference = first.distribution(do, data.columns) - second.distribution(do, data.columns)
            mismatch = max(mismatch, float(np.abs(difference).max()))
    values = first.answer(query), second.answer(query)
    return Found(str(query), first, second, values, values[1] - values[0], mismatch, float(smallest))


# ---------------------------------------------------------------------- search


def two_models(
    graph: ADMG,
    query: str,
    available: Sequence[Available],
    *,
    levels: Mapping[str, int] | int = 2,
    starts: int = 50,
    seed: int = 0,
    gap: float = 1e-3,
) -> Found | None:
    """Two models with the same available distributions and different answers, or None if no start leads to any.

    Args:
        graph: The ADMG.
        query: In the query language; a term without a value stands for every level, and one cell that differs is
            enough. Levels are 0, 1, ...
        available: The data sets.
        levels: Number of levels, of every variable or by name (2 for those left out).
        starts: Number of models from which the search starts.
        seed: Seed.
        gap: How much the answers must differ.
    """
    sizes = {name: levels if isinstance(levels, int) else levels.get(name, 2) for name in graph.nodes}
    expression = parse(query)
    expression.check(graph.nodes)
    cells = list(_cells(expression, sizes))
    functional = any(one.layer == 3 for one in expression.queries)
    positive = min(1e-4, 0.02 / math.prod(sizes.values()))
    problems: dict[tuple[int, ...], _Problem] = {}
    for start in range(starts):
        rng = np.random.default_rng([seed, start])
        functions = _response_types(graph, sizes, rng, start) if functional else None
        states = _numbers_of_states(graph, sizes, functions, rng, start)
        if functional or states not in problems:
            problems[states] = _Problem(graph, sizes, cells, available, states, functions)
        problem = problems[states]
        pair = problem.pair(rng, start, 2 * gap, positive)
        if pair is not None:
            which, lower, upper = pair
            found = compared(lower, upper, cells[which], available)
            if found.gap >= gap and found.mismatch <= _EQUAL and found.smallest >= positive:
                return found
    return None


def _cells(expression: Expression, levels: Mapping[str, int]) -> Iterator[Expression]:
    """The expression with every combination of values for its terms without one."""
    for term in (one for query in expression.queries for one in query.walk()):
        if term.value is not None and term.value not in range(levels[term.variable]):
            raise ValueError(f"{term} is no level: {term.variable} has the levels 0 to {levels[term.variable] - 1}")
    if len(expression.terms) > 1:
        yield expression
        return
    ((sign, query),) = expression.terms
    parts = (() if query.kind == "E" else query.outcomes, query.do, query.given)
    terms = [term for part in parts for term in part]
    choices = [range(levels[term.variable]) if term.value is None else (term.value,) for term in terms]
    for values in itertools.product(*choices):
        valued = iter([dataclasses.replace(term, value=value) for term, value in zip(terms, values, strict=True)])
        outcomes, do, given = (tuple(itertools.islice(valued, len(part))) for part in parts)
        outcomes = query.outcomes if query.kind == "E" else outcomes
        yield Expression(((sign, dataclasses.replace(query, outcomes=outcomes, do=do, given=given)),))


def _numbers_of_states(
    graph: ADMG, levels: Mapping[str, int], functions: Mapping[str, Array] | None, rng: np.random.Generator, start: int
) -> tuple[int, ...]:
    """Number of states of every confounder; one switches it off, which keeps dense graphs small."""
    atoms = math.prod(levels.values() if functions is None else map(len, functions.values()))
    budget = max(1, (1 << (14 if start < 8 else 16)) // atoms)
    most = (2, 3, 2, 4, 3, 6, 4, 8)[start % 8]
    states = [most] * len(graph.confounders)
    while math.prod(states) > budget:
        large = [k for k, size in enumerate(states) if size > 1]
        states[rng.choice(large)] -= 1
    return tuple(states)


def _response_types(graph: ADMG, levels: Mapping[str, int], rng: np.random.Generator, start: int) -> dict[str, Array]:
    """Functions from the parents' values to a level: all of them where they are few, otherwise some."""
    parents = {name: [levels[node] for node in graph.nodes if node in graph.parents(name)] for name in graph.nodes}
    every = {name: levels[name] ** math.prod(parents[name]) for name in graph.nodes}
    most = (8, 6, 16, 12)[start % 4]
    # room for the confounders' states is left
    while most > 4 and math.prod(min(count, most) for count in every.values()) > 1 << (10 if start < 8 else 12):
        most -= 1
    found = {}
    for name in graph.nodes:
        size, shape = levels[name], parents[name]
        rows = math.prod(shape)
        if every[name] <= most:
            chosen = list(itertools.product(range(size), repeat=rows))
        else:
            # constants give every value a positive probability, sums modulo the number of levels carry the most
            # information, and the others are what no restriction such as monotonicity may exclude
            values = np.indices(shape).reshape(len(shape), -1)
            chosen = [(level,) * rows for level in range(size)]
            for _ in range(1 + (most > size + 1)):
                total = rng.integers(1, size, len(shape)) @ values + rng.integers(size)
                chosen.append(tuple((total % size).tolist()))
            while len(set(chosen)) < most:
                chosen.append(tuple(rng.integers(size, size=rows).tolist()))
        found[name] = np.array(list(dict.fromkeys(chosen))).reshape(-1, *shape)
    return found


@dataclass
class _Factor:
    """How a variable's table enters the atoms of a regime: atom a reads table[row[a], confounders, column[a]]."""

    row: Array
    column: Array
    scatter: sparse.csr_array | None = None


@dataclass
class _Regime:
    """Atoms that exclude each other, and sums of their probabilities.

    With tables the atoms are the values of all variables under one intervention; with response types they are the
    combinations of types, which serve all interventions and worlds.
    """

    factors: dict[int, _Factor]
    size: int
    masks: list[Array] = dataclasses.field(default_factory=list)
    places: list[int] = dataclasses.field(default_factory=list)
    known: dict[bytes, int] = dataclasses.field(default_factory=dict)
    sums: sparse.csr_array | None = None


class _Problem:
    """Available distributions and query of one parametrisation, with their derivatives."""

    def __init__(
        self,
        graph: ADMG,
        levels: dict[str, int],
        cells: Sequence[Expression],
        available: Sequence[Available],
        states: tuple[int, ...],
        functions: dict[str, Array] | None,
    ) -> None:
        self.graph, self.levels, self.states, self.functions = graph, levels, states, functions
        self.nodes = graph.nodes
        self.parents = {v: [p for p in self.nodes if p in graph.parents(v)] for v in self.nodes}
        self.latents = [[k for k, (_, group) in enumerate(graph.confounders) if v in group] for v in self.nodes]
        # a block is a set of distributions along its last axis: first the priors, then the variables' tables, with
        # all parents on the first axis
        self.shapes: list[tuple[int, ...]] = [(size,) for size in states]
        for v, latents in zip(self.nodes, self.latents, strict=True):
            rows = 1 if functions else math.prod(levels[p] for p in self.parents[v])
            columns = len(functions[v]) if functions else levels[v]
            self.shapes.append((rows, *(states[k] for k in latents), columns))
        self.regimes: dict[tuple, _Regime] = {}
        self.worlds: dict[tuple, dict[str, Array]] = {}
        self.count = 0
        for data in available:
            for do in data.settings(levels):
                self._add_distribution(do, data.columns or self.nodes)
        self.num_data = self.count
        self.cells: list[list[tuple[float, int, int | None]]] = [self._ratios(cell) for cell in cells]
        # every cell must stay positive, whether or not a data set shows it
        settings = [do for data in (Available(), *available) for do in data.settings(levels)]
        self.watched = [place for do in settings for place in self._add_distribution(do, self.nodes)]
        for regime in self.regimes.values():
            self._compile(regime)

    # ------------------------------------------------------------------ what is available and what is asked

    def _regime(self, do: Setting) -> _Regime:
        key = () if self.functions else tuple(sorted(do.items()))
        if key not in self.regimes:
            if self.functions:
                types = np.indices([len(table) for table in self.functions.values()]).reshape(len(self.nodes), -1)
                factors = {k: _Factor(np.zeros_like(column), column) for k, column in enumerate(types)}
                self.regimes[key] = _Regime(factors, types.shape[1])
            else:
                ranges = [[do[v]] if v in do else range(self.levels[v]) for v in self.nodes]
                values = dict(zip(self.nodes, np.array(list(itertools.product(*ranges))).T, strict=True))
                factors = {}
                for k, v in enumerate(self.nodes):
                    if v not in do:
                        factors[k] = _Factor(self._flat(self.parents[v], values), values[v])
                self.regimes[key] = _Regime(factors, len(values[self.nodes[0]]))
                self.worlds[key] = values
        return self.regimes[key]

    def _flat(self, names: Sequence[str], values: Mapping[str, Array]) -> Array:
        """Number of the combination of some variables' values."""
        flat = np.zeros_like(values[self.nodes[0]])
        for name in names:
            flat = flat * self.levels[name] + values[name]
        return flat

    def _values(self, settings: Mapping[str, int | Term]) -> dict[str, Array]:
        """Values of all variables in a world, by atom."""
        if not self.functions:
            return self.worlds[tuple(sorted(settings.items()))]
        key = tuple(sorted(settings.items(), key=lambda item: item[0]))
        if key not in self.worlds:
            regime = self._regime({})
            world: dict[str, Array] = {}
            for name in self.graph.topological_order():
                setting = settings.get(name)
                if isinstance(setting, Term):
                    world[name] = self._value(setting)
                elif setting is not None:
                    world[name] = np.full(regime.size, setting)
                else:
                    types = regime.factors[self.nodes.index(name)].column
                    world[name] = self.functions[name][(types, *(world[p] for p in self.parents[name]))]
            self.worlds[key] = world
        return self.worlds[key]

    def _value(self, term: Term) -> Array:
        settings = {one.variable: one if one.value is None else int(one.value) for one in term.world}
        return self._values(settings)[term.variable]

    def _add(self, regime: _Regime, mask: Array) -> int:
        """Place of the probability of some atoms among all sums."""
        place = regime.known.setdefault(mask.tobytes(), self.count)
        if place == self.count:
            regime.masks.append(mask)
            regime.places.append(place)
            self.count += 1
        return place

    def _add_distribution(self, do: Setting, columns: Sequence[str]) -> list[int]:
        regime = self._regime(do)
        flat = self._flat(columns, self._values(do))
        return [self._add(regime, flat == cell) for cell in np.unique(flat)]

    def _ratios(self, expression: Expression) -> list[tuple[float, int, int | None]]:
        """Sum of coefficient * P(numerator) / P(denominator), with None for a denominator of 1."""
        found = []
        for sign, query in expression.terms:
            do = {term.variable: int(term.value) for term in query.do}
            regime = self._regime(do)
            self._values(do)

            def seen(term: Term, do: Setting = do) -> Array:
                return self._value(term) if self.functions else self._values(do)[term.variable]

            given = np.ones(regime.size, dtype=bool)
            for term in query.given:
                given &= seen(term) == term.value
            below = self._add(regime, given) if query.given else None
            if query.kind == "E":
                outcome = query.outcomes[0]
                for level in range(1, self.levels[outcome.variable]):
                    found.append((sign * level, self._add(regime, given & (seen(outcome) == level)), below))
            else:
                for term in query.outcomes:
                    given = given & (seen(term) == term.value)
                found.append((sign, self._add(regime, given), below))
        return found

    def _compile(self, regime: _Regime) -> None:
        masks = np.array(regime.masks)
        sums, atoms = masks.nonzero()
        ones = np.ones(len(sums))
        regime.sums = sparse.csr_array((ones, (sums, atoms)), shape=masks.shape)
        for k, factor in regime.factors.items():
            shape = self.shapes[len(self.states) + k]
            entries = (sums * shape[0] + factor.row[atoms]) * shape[-1] + factor.column[atoms]
            size = (len(masks) * shape[0] * shape[-1], regime.size)
            factor.scatter = sparse.csr_array((ones, (entries, atoms)), shape=size)

    # ------------------------------------------------------------------ values and derivatives

    def evaluate(self, blocks: Sequence[Array]) -> Array:
        """All sums: available probabilities, the query's, and those that must be positive."""
        return self._run(blocks, derivatives=False)[0]

    def differentiate(self, blocks: Sequence[Array]) -> tuple[Array, Array]:
        """All sums with their derivatives by the logarithms of the blocks' entries, before normalisation."""
        return self._run(blocks, derivatives=True)

    def _run(self, blocks: Sequence[Array], *, derivatives: bool) -> tuple[Array, Array]:
        m = len(self.states)
        total = np.zeros(self.count)
        parts = [np.zeros((self.count, *shape)) for shape in self.shapes] if derivatives else []
        for regime in self.regimes.values():
            joint = np.ones((regime.size, *[1] * m))
            for k, factor in regime.factors.items():
                table = np.moveaxis(blocks[m + k], -1, 1)[factor.row, factor.column]
                joint = joint * table.reshape(regime.size, *self._aligned(self.latents[k]))
            for k in range(m):
                joint = joint * blocks[k].reshape(self._aligned([k]))
            total[regime.places] = regime.sums @ joint.reshape(regime.size, -1).sum(axis=1)
            if not derivatives:
                continue
            # the derivative by the logarithm of an entry is the probability that the entry is in use
            for k in range(m):
                others = tuple(1 + j for j in range(m) if j != k)
                parts[k][regime.places] = regime.sums @ joint.sum(axis=others)
            for k, factor in regime.factors.items():
                others = tuple(1 + j for j in range(m) if j not in self.latents[k])
                used = factor.scatter @ joint.sum(axis=others).reshape(regime.size, -1)
                rows, *hidden, columns = self.shapes[m + k]
                used = used.reshape(len(regime.places), rows, columns, *hidden)
                parts[m + k][regime.places] = np.moveaxis(used, 2, -1)
        for block, part in zip(blocks, parts, strict=False):
            part -= block * part.sum(axis=-1, keepdims=True)
        flat = [part.reshape(self.count, -1) for part in parts]
        return total, np.concatenate(flat, axis=1) if flat else total

    def _aligned(self, latents: Sequence[int]) -> list[int]:
        return [size if k in latents else 1 for k, size in enumerate(self.states)]

    def query(self, which: int, total: Array) -> float:
        """Value of a cell of the query."""
        return sum(c * total[top] / (1 if below is None else total[below]) for c, top, below in self.cells[which])

    def query_gradient(self, which: int, total: Array, derivatives: Array) -> Array:
        """Its derivative by the logarithms of the blocks' entries."""
        gradient = np.zeros(derivatives.shape[1])
        for c, top, below in self.cells[which]:
            if below is None:
                gradient += c * derivatives[top]
            else:
                ratio = total[top] / total[below]
                gradient += c * (derivatives[top] - ratio * derivatives[below]) / total[below]
        return gradient

    def moved(self, blocks: Sequence[Array], step: Array) -> list[Array]:
        """The blocks after a step in the logarithms of their entries."""
        ends = np.cumsum([block.size for block in blocks])[:-1]
        found = []
        for block, part in zip(blocks, np.split(step, ends), strict=True):
            block = block * np.exp(part.reshape(block.shape))
            found.append(block / block.sum(axis=-1, keepdims=True))
        return found

    # ------------------------------------------------------------------ starts and steps

    def start(self, rng: np.random.Generator, style: int) -> list[Array]:
        """Random blocks; every second style is near sums modulo the number of levels."""
        blocks = []
        concentration = (1.0, 1.0, 0.3, 0.5)[style % 4]
        smoothing = (0.05, 0.15, 0.1, 0.3)[style // 2 % 4]
        for k, shape in enumerate(self.shapes):
            prior = k < len(self.states)
            drawn = rng.dirichlet(np.full(shape[-1], 3.0 if prior else concentration), size=shape[:-1])
            if style % 2 and not prior:
                drawn = 0.25 * drawn + 0.75 * self._parity(k - len(self.states), rng)
            blocks.append((1 - smoothing) * drawn + smoothing / shape[-1])
        return blocks

    def _parity(self, k: int, rng: np.random.Generator) -> Array:
        v, shape = self.nodes[k], self.shapes[len(self.states) + k]
        parents = [] if self.functions else [self.levels[p] for p in self.parents[v]]
        sizes = [*parents, *shape[1:-1]]
        factors = rng.integers(1, max(2, shape[-1]), len(sizes))
        total = np.tensordot(factors, np.indices(sizes), axes=1) if sizes else np.array(0)
        return np.eye(shape[-1])[(total.reshape(shape[:-1]) + rng.integers(shape[-1])) % shape[-1]]

    def pair(
        self, rng: np.random.Generator, style: int, target: float, positive: float
    ) -> tuple[int, Model, Model] | None:
        """Two models on the fibre of a random one, after the cell of the query in which they differ."""
        blocks = self.start(rng, style)
        total = self.evaluate(blocks)
        uniform = [np.full(shape, 1 / shape[-1]) for shape in self.shapes]
        for _ in range(20):
            if total[self.watched].min() >= 5 * positive:
                break
            blocks = [0.8 * block + 0.2 * flat for block, flat in zip(blocks, uniform, strict=True)]
            total = self.evaluate(blocks)
        which = self._best_cell(blocks)
        if which is None:
            return None
        upper = self._walk(blocks, which, 1, target, positive)
        lower = blocks
        gained = self.query(which, self.evaluate(upper)) - self.query(which, total)
        if gained < target:
            lower = self._walk(blocks, which, -1, target - gained, positive)
        return which, self.model(lower), self.model(upper)

    def _basis(self, derivatives: Array) -> tuple[Array, Array, Array]:
        """Singular value decomposition of the derivatives of what is available, without the zeros.

        Constraints make many singular values zero, which rounding leaves near 1e-16 of the largest.
        """
        left, values, right = np.linalg.svd(derivatives[: self.num_data], full_matrices=False)
        rank = int((values > 1e-12 * values.max(initial=1e-300)).sum())
        return left[:, :rank], values[:rank], right[:rank]

    def _is_defined(self, which: int, total: Array) -> bool:
        return all(below is None or total[below] >= _RARE for _, _, below in self.cells[which])

    def _best_cell(self, blocks: Sequence[Array]) -> int | None:
        """The cell of the query that can change the most while everything available stays."""
        total, derivatives = self.differentiate(blocks)
        _, _, right = self._basis(derivatives)
        best, most = None, 1e-9
        for which in range(len(self.cells)):
            if not self._is_defined(which, total):
                continue
            gradient = self.query_gradient(which, total, derivatives)
            free = gradient - right.T @ (right @ gradient)
            size = float(np.linalg.norm(free))
            if size > max(most, 1e-7 * float(np.linalg.norm(gradient))):
                best, most = which, size
        return best

    def _walk(self, blocks: list[Array], which: int, sign: int, target: float, positive: float) -> list[Array]:
        """Along the fibre, up (or down) the query, until it has changed by the target or no step succeeds."""
        total, derivatives = self.differentiate(blocks)
        wanted = total[: self.num_data].copy()
        first = value = sign * self.query(which, total)
        length = 0.5
        for _ in range(40):
            _, _, right = self._basis(derivatives)
            gradient = sign * self.query_gradient(which, total, derivatives)
            free = gradient - right.T @ (right @ gradient)
            largest = float(np.abs(free).max())
            if largest < 1e-10:
                break
            while length > 1e-3:
                tried = self._returned(self.moved(blocks, free * (length / largest)), wanted)
                if tried is not None:
                    inside = tried[1][self.watched].min() >= 2 * positive and self._is_defined(which, tried[1])
                    if inside and (after := sign * self.query(which, tried[1])) > value:
                        break
                length /= 3
            else:
                break
            blocks, total, derivatives = tried
            value = after
            length = min(2.0, 2 * length)
            if value - first >= target:
                break
        return blocks

    def _returned(self, blocks: list[Array], wanted: Array) -> tuple[list[Array], Array, Array] | None:
        """Back to the fibre by Newton steps, or None."""
        error = math.inf
        for _ in range(8):
            total, derivatives = self.differentiate(blocks)
            missing = wanted - total[: self.num_data]
            now = float(np.abs(missing).max(initial=0.0))
            if now < 1e-13:
                return blocks, total, derivatives
            if now > 0.9 * error:
                return None
            error = now
            left, values, right = self._basis(derivatives)
            step = right.T @ ((left.T @ missing) / values)
            if float(np.abs(step).max()) > 3:
                return None
            blocks = self.moved(blocks, step)
        return None

    def model(self, blocks: Sequence[Array]) -> Model:
        """The explicit model of some blocks."""
        m = len(self.states)
        priors = {name: blocks[k] for k, (name, _) in enumerate(self.graph.confounders)}
        tables = {}
        for k, v in enumerate(self.nodes):
            rows = [] if self.functions else [self.levels[p] for p in self.parents[v]]
            tables[v] = blocks[m + k].reshape(*rows, *self.shapes[m + k][1:])
        return Model(self.graph, self.levels, priors, tables, self.functions)
