"""Structural causal models over discrete variables, with exact answers in all three layers.

Every variable is ``v = F^-1(e | parents, confounders)``: the level at which the cumulative distribution in its row of
the table first exceeds e, its own uniform noise. Since all worlds share this noise, counterfactuals are defined: the
joint probability of the levels of v in several worlds is that of e in the intersection of their intervals, which has a
closed form.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mdcm import query as language
from mdcm.data.inference import Schema
from mdcm.data.levels import Level
from mdcm.data.variables import Variable
from mdcm.elimination import Factor, aligned, check_size, contract
from mdcm.errors import DataError, QueryError
from mdcm.graph.worlds import ParallelWorlds
from mdcm.text.limits import seeded

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from mdcm.graph import ADMG

__all__ = ["DiscreteSCM", "random_discrete"]

Assignment = Mapping[str, Any]

_TOTAL_TOLERANCE = 1e-9
_ROUNDING = 1e-14


class DiscreteSCM:
    """A structural causal model of an ADMG over discrete variables.

    Args:
        graph: The ADMG.
        tables: For every variable P(v | parents, confounders): an array whose axes are the variable's parents in the
            order of ``graph.nodes``, then its confounders in the order of ``graph.confounders``, then its own levels.
        priors: Distribution of every confounder in ``graph.confounders``, by name.
        levels: Values of variables by name; 0, 1, ... by default.

    Attributes:
        graph: The ADMG.
        levels: Values of every variable by name.
        tables: float64 arrays by variable.
        priors: float64 arrays by confounder.

    Raises:
        DataError: If a table is missing, has a wrong shape, or its rows are not distributions.

    References:
        Pearl (2009), Causality, chapter 7 (counterfactuals as abduction, action, prediction).

    Example:
        >>> from mdcm.graph import ADMG
        >>> bow = ADMG.from_string("X -> Y; X <-> Y")
        >>> half = [[1.0, 0.0], [0.0, 1.0]]
        >>> model = DiscreteSCM(bow, {"X": half, "Y": [half, half]}, {"U[X,Y]": [0.5, 0.5]})
        >>> model.exact(["Y"], given={"X": 1}).tolist(), model.exact(["Y"], do={"X": 1}).tolist()
        ([0.0, 1.0], [0.5, 0.5])
    """

    def __init__(
        self,
        graph: ADMG,
        tables: Mapping[str, ArrayLike],
        priors: Mapping[str, ArrayLike] | None = None,
        *,
        levels: Mapping[str, Sequence[Level]] | None = None,
    ) -> None:
        self.graph = graph
        self.priors = _checked_priors(graph, priors or {})
        self._order = graph.topological_order()
        self._parents = {node: tuple(sorted(graph.parents(node), key=graph.index)) for node in self._order}
        self._latents: dict[str, tuple[str, ...]] = {
            node: tuple(name for name, children in graph.confounders if node in children) for node in graph.nodes
        }
        self.tables = self._checked_tables(tables)
        self._schema = self._checked_schema(levels or {})
        self.levels: dict[str, tuple[Level, ...]] = {
            name: variable.levels or () for name, variable in self._schema.items()
        }
        self._upper: dict[str, NDArray[np.float64]] = {}
        for node, table in self.tables.items():
            upper = table.cumsum(axis=-1)
            # the last bound is exactly 1, above every uniform number
            upper[..., -1] = 1.0
            self._upper[node] = upper

    def axes(self, name: str) -> tuple[str, ...]:
        """Names of the axes of a variable's table: parents, confounders, the variable itself."""
        self.graph.index(name)
        return (*self._parents[name], *self._latents[name], name)

    def sample(self, n: int, do: Assignment | None = None, seed: int = 0) -> pd.DataFrame:
        """Independent draws from P(V), or from P(V | do(...)).

        The noise depends only on ``seed``, not on ``do``: row i of two calls with the same seed is the same unit in two
        worlds, so that the pair is a counterfactual draw.

        Args:
            n: Number of rows.
            do: Interventions: a level, or array of n levels, by variable.
            seed: Seed of all noise.

        Returns:
            One column per variable in the order of the graph's nodes.

        Raises:
            DataError: If a value is not a level of its variable.
            ValueError: If the seed is out of range.
        """
        seed = seeded(seed)
        setting = {name: self._do_codes(name, value, n) for name, value in (do or {}).items()}
        states: dict[str, NDArray[np.int64]] = {}
        for index, (name, _) in enumerate(self.graph.confounders):
            # the last number is never 0: numpy treats [seed, 0] as the seed itself, and a user's generator with this
            # seed would draw the same numbers as the confounder
            uniform = np.random.default_rng([seed, index, 1]).random(n)
            bounds = np.cumsum(self.priors[name])[:-1]
            states[name] = np.searchsorted(bounds, uniform, side="right")
        for node in self._order:
            if node in setting:
                states[node] = setting[node]
                continue
            uniform = np.random.default_rng([seed, self.graph.index(node), 2]).random(n)
            rows = tuple(states[name] for name in self.axes(node)[:-1])
            bounds = self._upper[node][rows][..., :-1]
            states[node] = (uniform[:, None] >= bounds).sum(axis=-1)
        columns = {}
        for node in self.graph.nodes:
            columns[node] = pd.Series(list(self.levels[node])).take(states[node]).reset_index(drop=True)
        return pd.DataFrame(columns)

    def exact(
        self,
        variables: str | Sequence[str],
        do: Assignment | Sequence[str] | None = None,
        given: Assignment | Sequence[str] | None = None,
    ) -> pd.Series[float]:
        """Exact P(variables | do(...), given ...).

        Args:
            variables: Names of the variables.
            do: Interventions; names without values mean every level.
            given: Conditions; names without values mean every level.

        Returns:
            Probabilities with a MultiIndex: names without values in ``do`` and ``given``, then ``variables``; a plain
            index for a single name.

        Raises:
            QueryError: If a name is unknown or the condition has probability zero.
            DataError: If a value is not a level of its variable.
            MdcmError: If the graph is too densely connected for an exact answer.

        Complexity:
            Variable elimination: exponential only in the width of the graph with its confounders.
        """
        names = (variables,) if isinstance(variables, str) else tuple(variables)
        query = language.Query("P", tuple(map(language.Term, names)), self._terms(do), self._terms(given))
        return self._table(language.Expression(((1, query),)), query, show_values=False)

    def exact_counterfactual(
        self, outcomes: str | Sequence[str], do: Assignment, evidence: Assignment | None = None
    ) -> pd.Series[float]:
        """Exact P(outcomes had ``do`` been set | evidence in the actual world).

        Args:
            outcomes: Names of variables in the counterfactual world.
            do: Interventions in the counterfactual world.
            evidence: Values observed in the actual world.

        Returns:
            Probabilities, indexed by the outcomes. For several or nested worlds see :meth:`answer`.

        Raises:
            QueryError: If a name is unknown or the evidence has probability zero.
            DataError: If a value is not a level of its variable.
            MdcmError: If the graph is too densely connected for an exact answer.

        Example:
            >>> from mdcm.graph import ADMG
            >>> model = random_discrete(ADMG.from_string("X -> Y; X <-> Y"), levels=2, seed=0)
            >>> seen = {"X": 1, "Y": 0}
            >>> model.exact_counterfactual("Y", do={"X": 1}, evidence=seen).round(9).tolist()
            [1.0, 0.0]
        """
        names = (outcomes,) if isinstance(outcomes, str) else tuple(outcomes)
        network = _Network(self)
        world = network.world_of({name: network.code(name, self._code(name, value)) for name, value in do.items()})
        actual = network.world_of({})
        seen = [(actual[self._known(name)], self._code(name, value)) for name, value in (evidence or {}).items()]
        array = network.probabilities([world[self._known(name)] for name in names], seen)
        return pd.Series(array.ravel(), index=_index(names, [self.levels[name] for name in names]), name="probability")

    def answer(self, query: str | language.Expression) -> pd.Series[float] | float:
        """Exact answer to a query of any layer, in the query language.

        Args:
            query: For example ``P(Y | do(X=1))``, ``P(Y[X=1, M[X=0]] | X=0)``, ``E[Y | do(X=1)] - E[Y | do(X=0)]``.

        Returns:
            A number if every term has a value; otherwise numbers indexed by the terms of do(), of the condition and
            (for a probability) of the outcome.

        Raises:
            QueryError: If the text is malformed, a name is unknown, the condition has probability zero, or the
                expectation is of a variable whose levels are not numbers.
            DataError: If a value is not a level of its variable.

        Example:
            >>> from mdcm.graph import ADMG
            >>> model = random_discrete(ADMG.from_string("X -> Y; X <-> Y"), levels=2, seed=0)
            >>> abs(model.answer("P(Y[X=1]=0 | X=1)") - model.answer("P(Y=0 | X=1)")) < 1e-12
            True
        """
        expression = language.parse(query) if isinstance(query, str) else query
        expression.check(self.graph.nodes)
        if len(expression.terms) == 1 and expression.terms[0][0] == 1 and not expression.query.is_number:
            return self._table(expression, expression.query)
        return float(sum(sign * float(self._table(expression, term).iloc[0]) for sign, term in expression.terms))

    def c_factor(self, names: Iterable[str]) -> NDArray[np.float64]:
        """Q[C] = P(C | do(everything else)), as a function of the parents of C outside of it.

        Args:
            names: The set C; a c-component, or any other set.

        Returns:
            float64: one axis per parent of C outside C, then one per member of C, each in the order of
            ``graph.nodes``. It sums to one over the members, for every value of the parents.

        Raises:
            MdcmError: If C is too densely connected for an exact answer.

        References:
            Tian & Pearl (2002), A general identification condition for causal effects.

        Example:
            >>> from mdcm.graph import ADMG
            >>> model = random_discrete(ADMG.from_string("D -> I -> A; D <-> A"), levels=2)
            >>> model.c_factor(["D", "A"]).shape, model.c_factor(["D", "A"]).sum((1, 2)).round(9).tolist()
            ((2, 2, 2), [1.0, 1.0])
        """
        members = sorted(set(names), key=self.graph.index)
        outside = sorted(self.graph.parents(members) - set(members), key=self.graph.index)
        latents = dict.fromkeys(latent for node in members for latent in self._latents[node])
        factors = [Factor((latent,), self.priors[latent]) for latent in latents]
        factors += [Factor(self.axes(node), self.tables[node]) for node in members]
        table, scale = contract(factors, [*outside, *members])
        return table * math.exp(scale)

    def _table(
        self, expression: language.Expression, query: language.Query, *, show_values: bool = True
    ) -> pd.Series[float]:
        """Answer for all combinations of levels of the terms without a value.

        The index has a level for every term, or only for those without a value.
        """
        for term in query.walk():
            self._known(term.variable)
        conditions = (*query.do, *query.given)
        outcomes = query.outcomes if query.kind == "P" else ()
        choices = [self._choices(term) for term in conditions]
        values = []
        for chosen in itertools.product(*choices):
            codes = [self._code(term.variable, level) for term, level in zip(conditions, chosen, strict=True)]
            network = _Network(self)
            do = {term.variable: network.code(term.variable, code) for term, code in zip(query.do, codes, strict=False)}
            targets = [network.of_term(term, do) for term in query.outcomes]
            given = [network.of_term(term, do) for term in query.given]
            array = network.probabilities(targets, list(zip(given, codes[len(do) :], strict=True)))
            if query.kind == "E":
                array = array @ self._numbers(expression, query.outcomes[0])
            else:
                selected = [[self._code(term.variable, level) for level in self._choices(term)] for term in outcomes]
                array = array[np.ix_(*selected)]
            values.append(array.ravel())
        series = pd.Series(np.concatenate(values), name="probability" if query.kind == "P" else "expectation")
        shown = [term for term in (*conditions, *outcomes) if show_values or term.value is None]
        if shown:
            series.index = _index([term.label for term in shown], list(map(self._choices, shown)))
        return series

    def _terms(self, values: Assignment | Sequence[str] | None) -> tuple[language.Term, ...]:
        if isinstance(values, Mapping):
            return tuple(
                language.Term(name, self.levels[self._known(name)][self._code(name, value)])
                for name, value in values.items()
            )
        return tuple(map(language.Term, (values,) if isinstance(values, str) else values or ()))

    def _choices(self, term: language.Term) -> tuple[Level, ...]:
        if term.value is None:
            return self.levels[term.variable]
        return (self._schema.parse(term.variable, term.value),)

    def _numbers(self, expression: language.Expression, term: language.Term) -> NDArray[np.float64]:
        levels = self.levels[term.variable]
        if any(isinstance(level, str) for level in levels):
            raise expression.error(f"the levels of {term.variable!r} are not numbers, so it has no expectation", term)
        return np.array(levels, dtype=np.float64)

    def _known(self, name: str) -> str:
        if name not in self.tables:
            raise QueryError(f"there is no variable {name!r}; there are {', '.join(map(repr, self.graph.nodes))}")
        return name

    def _code(self, name: str, value: Any) -> int:
        return int(self._schema.code(self._known(name), value))

    def _do_codes(self, name: str, value: Any, n: int) -> NDArray[np.int64]:
        if np.ndim(value) == 0:
            return np.full(n, self._code(name, value), dtype=np.int64)
        if np.shape(value) != (n,):
            raise DataError(f"do({name}=...) has shape {np.shape(value)}, but {n} rows are drawn", column=name)
        return np.array([self._code(name, entry) for entry in np.asarray(value).tolist()], dtype=np.int64)

    def _checked_tables(self, tables: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float64]]:
        for name in tables:
            if name not in self.graph:
                raise DataError(f"tables: there is no variable {name!r} in the graph", column=name)
        arrays: dict[str, NDArray[np.float64]] = {}
        for node in self.graph.nodes:
            if node not in tables:
                raise DataError(f"tables: variable {node!r} has no table", column=node)
            arrays[node] = np.asarray(tables[node], dtype=np.float64)
        sizes = {name: len(prior) for name, prior in self.priors.items()}
        sizes |= {node: array.shape[-1] if array.ndim else 0 for node, array in arrays.items()}
        for node, array in arrays.items():
            axes = self.axes(node)
            expected = tuple(sizes[name] for name in axes)
            if array.shape != expected:
                raise DataError(
                    f"the table of {node!r} must have the axes ({', '.join(axes)}) of sizes {expected}, "
                    f"not {array.shape}",
                    column=node,
                )
            arrays[node] = _distribution(f"the table of {node!r}", array, node)
        return arrays

    def _checked_schema(self, levels: Mapping[str, Sequence[Level]]) -> Schema:
        for name in levels:
            if name not in self.graph:
                raise DataError(f"levels: there is no variable {name!r} in the graph", column=name)
        variables = []
        for node, table in self.tables.items():
            variable = Variable(node, "categorical", tuple(levels.get(node, range(table.shape[-1]))))
            if variable.num_levels != table.shape[-1]:
                raise DataError(
                    f"levels: {node!r} has {variable.num_levels}, but its table has {table.shape[-1]}", column=node
                )
            variables.append(variable)
        return Schema(variables)


def random_discrete(
    graph: ADMG,
    levels: int | Mapping[str, int] = 3,
    seed: int = 0,
    *,
    latent_levels: int = 4,
    concentration: float = 1.0,
    smoothing: float = 0.1,
) -> DiscreteSCM:
    """Random model in which every event has positive probability.

    Every row of every table is drawn from a symmetric Dirichlet distribution and mixed with the uniform distribution.

    Args:
        graph: The ADMG.
        levels: Number of levels of every variable, or by name (3 by default).
        seed: Seed.
        latent_levels: Number of states of every confounder.
        concentration: Parameter of the Dirichlet distributions; small values make strong mechanisms.
        smoothing: Share of the uniform distribution, in (0, 1]; no cell is below smoothing / levels.

    Raises:
        ValueError: If a number is out of its range.
        MdcmError: If a variable has so many parents that its table is too large.

    Example:
        >>> from mdcm.graph import ADMG
        >>> random_discrete(ADMG.from_string("X -> Y"), levels=2).tables["Y"].shape
        (2, 2)
    """
    seed = seeded(seed)
    if not 0 < smoothing <= 1 or concentration <= 0 or latent_levels < 1:
        raise ValueError("smoothing must be in (0, 1], concentration positive and latent_levels at least 1")
    sizes = {node: levels if isinstance(levels, int) else levels.get(node, 3) for node in graph.nodes}
    if min(sizes.values(), default=1) < 1:
        raise ValueError("every variable needs at least one level")
    hidden = {name: latent_levels for name, _ in graph.confounders}

    def rows(shape: Sequence[int], *address: int) -> NDArray[np.float64]:
        rng = np.random.default_rng([seed, *address])
        drawn = rng.dirichlet(np.full(shape[-1], concentration), size=tuple(shape[:-1]))
        return (1 - smoothing) * drawn + smoothing / shape[-1]

    for node in graph.nodes:
        shape = [sizes[parent] for parent in graph.parents(node)]
        shape += [hidden[name] for name, children in graph.confounders if node in children]
        check_size(math.prod([*shape, sizes[node]]))
    priors = {name: rows([size], 0, index) for index, (name, size) in enumerate(hidden.items())}
    tables = {}
    for index, node in enumerate(graph.nodes):
        parents = sorted(graph.parents(node), key=graph.index)
        shape = [sizes[parent] for parent in parents]
        shape += [hidden[name] for name, children in graph.confounders if node in children]
        tables[node] = rows([*shape, sizes[node]], 1, index)
    return DiscreteSCM(graph, tables, priors)


class _Network(ParallelWorlds[int]):
    """Parallel worlds of a query to an exact model; constants are codes of levels."""

    def __init__(self, model: DiscreteSCM) -> None:
        super().__init__(model._parents)
        self.model = model

    def code(self, name: str, code: int) -> int:
        """Node of a variable that is set to a level."""
        return self.constant(name, code, key=code)

    def of_term(self, term: language.Term, do: Mapping[str, int]) -> int:
        """Node of a query's term, in its world."""
        fixed = dict(do)
        for setting in term.world:
            name = setting.variable
            if setting.value is None:
                fixed[name] = self.of_term(setting, do)
            else:
                fixed[name] = self.code(name, self.model._code(name, self.model._choices(setting)[0]))
        return self.world_of(fixed)[term.variable]

    def probabilities(self, targets: Sequence[int], evidence: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
        """P(targets | evidence), with one axis per target.

        Args:
            targets: Nodes.
            evidence: Pairs of a node and the code of its level.

        Raises:
            QueryError: If the evidence has probability zero.
        """
        # set and observed nodes have all their weight on one level
        known: dict[int, int] = {}
        possible = True
        for number, code in evidence:
            constant = self.nodes[number].constant
            possible &= (known.setdefault(number, code) if constant is None else constant) == code
        observed = tuple(known)
        known |= {number: node.constant for number, node in enumerate(self.nodes) if node.constant is not None}
        free = list(dict.fromkeys(number for number in targets if number not in known))
        table, _ = contract(self._factors(self.closure([*free, *observed]), known), free)
        total = table.sum()
        if not possible or total <= 0:
            raise QueryError("the condition has probability zero, so nothing follows from it")
        shape = [len(self.model.levels[self.nodes[number].variable]) for number in targets]
        check_size(math.prod(shape))
        result = np.zeros(shape)
        # a node may occur several times among the targets
        cells = dict(zip(free, np.indices(table.shape), strict=True))
        result[tuple(known[number] if number in known else cells[number] for number in targets)] = table / total
        return result

    def _factors(self, needed: Sequence[int], known: Mapping[int, int]) -> list[Factor]:
        """A factor per variable over its nodes in all worlds, and the distributions of the confounders."""
        factors = []
        latents: dict[str, None] = {}
        for name, numbers in self.copies(needed).items():
            latents.update(dict.fromkeys(self.model._latents[name]))
            factors.append(self._factor(name, numbers, known))
        return [*factors, *(Factor((latent,), self.model.priors[latent]) for latent in latents)]

    def _factor(self, name: str, numbers: Sequence[int], known: Mapping[int, int]) -> Factor:
        if len(numbers) == 1:
            return self._sliced(self.model.tables[name], numbers[0], known)
        upper = self.model._upper[name]
        lower = np.concatenate([np.zeros_like(upper[..., :1]), upper[..., :-1]], axis=-1)
        lowers = [self._sliced(lower, number, known) for number in numbers]
        uppers = [self._sliced(upper, number, known) for number in numbers]
        # all copies have the same uniform noise: their joint event is the intersection of their intervals
        scope = tuple(dict.fromkeys(variable for factor in uppers for variable in factor.variables))
        sizes = {name: n for factor in uppers for name, n in zip(factor.variables, factor.table.shape, strict=True)}
        check_size(math.prod(sizes.values()))
        end = np.minimum.reduce(np.broadcast_arrays(*(aligned(factor, scope) for factor in uppers)))
        start = np.maximum.reduce(np.broadcast_arrays(*(aligned(factor, scope) for factor in lowers)))
        width = end - start
        # equal bounds may differ by rounding; set these widths to 0, since conditioning would amplify them
        return Factor(scope, np.where(width > _ROUNDING, width, 0.0))

    def _sliced(self, table: NDArray[np.float64], number: int, known: Mapping[int, int]) -> Factor:
        """A table of the node's variable, sliced at set and observed values of its parents and itself."""
        node = self.nodes[number]
        axes = (*node.parents, *self.model._latents[node.variable], number)
        scope = tuple(axis for axis in axes if axis not in known)
        return Factor(scope, table[tuple(known.get(axis, slice(None)) for axis in axes)])  # type: ignore[call-overload]


def _index(names: Sequence[str], levels: Sequence[Sequence[Level]]) -> pd.Index[Any]:
    if len(names) == 1:
        return pd.Index(list(levels[0]), name=names[0])
    index: pd.MultiIndex = pd.MultiIndex.from_product([list(values) for values in levels], names=list(names))
    return index


def _checked_priors(graph: ADMG, priors: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float64]]:
    names = [name for name, _ in graph.confounders]
    for name in priors:
        if name not in names:
            raise DataError(
                f"priors: there is no confounder {name!r} in the graph; there are {', '.join(names) or 'none'}"
            )
    checked = {}
    for name in names:
        if name not in priors:
            raise DataError(f"priors: confounder {name!r} has no distribution")
        array = np.asarray(priors[name], dtype=np.float64)
        if array.ndim != 1:
            raise DataError(f"the prior of {name!r} must be a vector, not of shape {array.shape}")
        checked[name] = _distribution(f"the prior of {name!r}", array, None)
    return checked


def _distribution(what: str, array: NDArray[np.float64], column: str | None) -> NDArray[np.float64]:
    if not array.size or not np.isfinite(array).all() or array.min() < 0:
        raise DataError(f"{what} must hold probabilities, finite and not negative", column=column)
    totals = array.sum(axis=-1, keepdims=True)
    if np.abs(totals - 1).max() > _TOTAL_TOLERANCE:
        worst = totals.ravel()[np.abs(totals - 1).argmax()]
        raise DataError(f"{what} must sum to one along its last axis; one row sums to {worst:.6g}", column=column)
    return np.asarray(array / totals)
