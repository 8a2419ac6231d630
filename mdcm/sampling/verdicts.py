"""The query that corresponds to a request for rows, so that identification applies to samples as to answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mdcm.data.levels import plain
from mdcm.data.variables import as_array
from mdcm.query import Expression, Query, Term, Value
from mdcm.sampling.settings import encode_setting

if TYPE_CHECKING:
    from mdcm.data import Schema, Variable
    from mdcm.graph import ADMG

__all__ = ["RequestedDistribution", "question", "rule_of"]

# largest numbers of values set by row, and of combinations of natural values, to identify separately
_MOST_VALUES = 32
_MOST_COMBINATIONS = 256


@dataclass(frozen=True)
class RequestedDistribution:
    """Distribution of a request for rows, as queries.

    Attributes:
        shown: The distribution as text.
        parts: Queries, all of which must be identified, each with the values of its do() terms without a value.
        is_whole: Whether the parts are complete; false if there are too many.
    """

    shown: str
    parts: tuple[tuple[Expression, Mapping[str, Any]], ...]
    is_whole: bool = True


def question(
    graph: ADMG,
    schema: Schema,
    names: Sequence[str],
    do: Mapping[str, Any],
    given: Mapping[str, Any],
    evidence: Mapping[str, Any] | None,
) -> RequestedDistribution | None:
    """Distribution of rows, as queries; None without interventions and evidence, or if no variable is random.

    With a function f of the natural value, the query is counterfactual: the outcome had f(x) been set in the units
    with natural value x.

    Args:
        graph: The ADMG.
        schema: Variables by name.
        names: Variables that are drawn.
        do: Interventions.
        given: Evidence in the world of ``do``.
        evidence: Evidence in the actual world, or None.

    Raises:
        DataError: If a function returns a value that is not a level.

    Example:
        >>> from mdcm.data import Schema, Variable
        >>> from mdcm.graph import ADMG
        >>> graph = ADMG.from_string("X -> Y")
        >>> schema = Schema([Variable("X", "categorical", (0, 1)), Variable("Y", "categorical", (0, 1))])
        >>> print(question(graph, schema, ["X", "Y"], {"X": 1}, {}, None).shown)
        P(Y | do(X=1))
        >>> print(question(graph, schema, ["Y"], {"X": 1}, {}, {"X": 0}).shown)
        P(Y[X=1] | X=0)
    """
    if not (do or given or evidence):
        return None
    if evidence is not None:
        return _of_units(graph, schema, names, do, given, evidence)
    outcomes = tuple(Term(name) for name in names if name not in do and name not in given)
    if not outcomes:
        return None
    settings = tuple(Term(name, None if callable(value) else _value(schema, name, value)) for name, value in do.items())
    known = tuple(Term(name, _value(schema, name, value)) for name, value in given.items())
    expression = Expression(((1, Query("P", outcomes, settings, known)),))
    rules = [name for name, value in do.items() if callable(value)]
    open_ = {name: do[name] for name in rules}
    for name in do:
        several = [] if name in rules else _several(schema, name, do[name])
        if 1 < len(several) <= _MOST_VALUES:
            open_[name] = several
    by_rule = f" with {', '.join(rules)} set by a rule" if rules else ""
    return RequestedDistribution(f"{expression}{by_rule}", ((expression, open_),))


def rule_of(variable: Variable, function: Callable[[Any], Any]) -> dict[Any, Any] | None:
    """Level to which a function maps every level; None without levels or if two calls differ.

    Raises:
        DataError: If the function returns a value that is not a level.
    """
    levels = variable.levels
    if levels is None:
        return None
    rule = encode_setting(variable, function, 1)
    assert callable(rule)
    first, again = (rule(torch.arange(len(levels))).tolist() for _ in range(2))
    return {level: levels[code] for level, code in zip(levels, first, strict=True)} if first == again else None


def _of_units(
    graph: ADMG,
    schema: Schema,
    names: Sequence[str],
    do: Mapping[str, Any],
    given: Mapping[str, Any],
    evidence: Mapping[str, Any],
) -> RequestedDistribution | None:
    """Counterfactual query given evidence, with a part for every natural value of variables set by a rule."""
    seen = {name: _value(schema, name, value) for name, value in evidence.items()}
    known_rules = {name: rule_of(schema[name], value) for name, value in do.items() if callable(value)}
    # a rule that does not depend on the natural value is a constant
    constant = {
        name: next(iter(rule.values())) for name, rule in known_rules.items() if rule and len(set(rule.values())) == 1
    }
    do = {**do, **constant}
    rules = [name for name in graph.topological_order() if callable(do.get(name))]
    fixed = {name: Term(name, _value(schema, name, do[name], set_to=True)) for name in do if name not in rules}
    choices = []
    is_known = set()
    for position, name in enumerate(rules):
        above = {*fixed, *rules[:position]}
        if name in evidence and name not in (graph.descendants(above) if above else ()):
            is_known.add(name)
        choices.append(_choices(schema[name], known_rules[name], seen[name] if name in is_known else None))
    # variables other than descendants of interventions are unchanged
    changed = graph.descendants(do) if do else set()
    drawn = [
        name for name in names if name not in do and name not in given and (name in changed or name not in evidence)
    ]
    if not drawn:
        return None
    shown = ""
    parts: list[tuple[Expression, Mapping[str, Any]]] = []
    for chosen in islice(product(*choices), _MOST_COMBINATIONS):
        world = dict(fixed)
        natural = []
        for name, (before, becomes) in zip(rules, chosen, strict=True):
            if name not in is_known:
                natural.append(Term(name, before, tuple(world.values())))
            world[name] = Term(name, becomes)
        settings = tuple(world[name] for name in do)
        outcomes = tuple(Term(name, None, settings if name in changed else ()) for name in drawn)
        known = tuple(Term(name, value) for name, value in seen.items()) + tuple(
            Term(name, _value(schema, name, value), settings if name in changed else ())
            for name, value in given.items()
            if name in changed or name not in evidence
        )
        parts.append((Expression(((1, Query("P", (*outcomes, *natural), (), known)),)), {}))
        shown = shown or str(Expression(((1, Query("P", outcomes, (), known)),)))
    by_rule = f" with {', '.join(rules)} set by a rule" if rules else ""
    return RequestedDistribution(f"{shown}{by_rule}", tuple(parts), math.prod(map(len, choices)) <= _MOST_COMBINATIONS)


def _choices(
    variable: Variable, rule: Mapping[Any, Any] | None, seen: Value | None
) -> list[tuple[Value | None, Value | None]]:
    """Pairs of a natural value and the value set instead, consistent with the observed value."""
    levels = variable.levels
    if levels is None:
        # an arbitrary natural value and another value that is set
        return [(1.0 if variable.kind != "image" else None, 0.0)]
    pairs = product(levels, repeat=2) if rule is None else rule.items()
    return [(plain(a), plain(b)) for a, b in pairs if seen is None or plain(a) == seen]


def _several(schema: Schema, name: str, value: Any) -> list[Any]:
    """Distinct values that are set by row; empty for a single value, an image or a vector."""
    if schema[name].kind == "image" or schema[name].size is not None:
        return []
    value = as_array(value)
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str):
        return list(dict.fromkeys(np.ravel(np.asarray(value, dtype=object)).tolist()))
    return []


def _value(schema: Schema, name: str, value: Any, *, set_to: bool = False) -> Value | None:
    """Value of a query's term; None for a term without a particular value."""
    variable = schema[name]
    if variable.kind == "image" or variable.size is not None:
        return 0.0 if set_to else None
    entries = _several(schema, name, value)
    if entries:
        return _value(schema, name, entries[0]) if len(entries) == 1 or set_to else None
    return plain(value) if variable.levels is not None else variable.number(value)
