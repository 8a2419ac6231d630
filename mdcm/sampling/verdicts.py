"""The query that drawn rows would answer, so that the same is said of them as of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mdcm.levels import plain
from mdcm.query import Expression, Query, Term, Value
from mdcm.variables import as_array

if TYPE_CHECKING:
    from mdcm.data import Schema
    from mdcm.graph import ADMG

__all__ = ["question"]


def question(
    graph: ADMG,
    schema: Schema,
    names: Sequence[str],
    do: Mapping[str, Any],
    given: Mapping[str, Any],
    evidence: Mapping[str, Any] | None,
) -> Expression | None:
    """The distribution that rows are drawn from, as a query; None where nothing is set or seen, or nothing is left.

    A function of the natural value makes it one of the third layer: what would have been, had another value been set
    than came about.

    Args:
        graph: The ADMG.
        schema: Variables by name.
        names: Variables that are drawn.
        do: What is set.
        given: What was seen in that world.
        evidence: What was seen in the actual world, or None.

    Example:
        >>> from mdcm.data import Schema, Variable
        >>> from mdcm.graph import ADMG
        >>> graph = ADMG.from_string("X -> Y")
        >>> schema = Schema([Variable("X", "categorical", (0, 1)), Variable("Y", "categorical", (0, 1))])
        >>> print(question(graph, schema, ["X", "Y"], {"X": 1}, {}, None))
        P(Y | do(X=1))
        >>> print(question(graph, schema, ["Y"], {"X": 1}, {}, {"X": 0}))
        P(Y[X=1] | X=0)
    """
    rules = [name for name, value in do.items() if callable(value)]
    if not (do or given or evidence):
        return None
    seen = tuple(Term(name, _value(schema, name, value)) for name, value in (evidence or {}).items())
    if evidence is None and not rules:
        outcomes = tuple(Term(name) for name in names if name not in do and name not in given)
        settings = tuple(Term(name, _value(schema, name, value)) for name, value in do.items())
        known = tuple(Term(name, _value(schema, name, value)) for name, value in given.items())
    else:
        world = tuple(Term(name, _value(schema, name, value, set_to=True)) for name, value in do.items())
        # what nothing that is set leads to is as it was
        changed = graph.descendants(do) if do else set()
        settings = ()
        outcomes = tuple(
            Term(name, None, world if name in changed else ())
            for name in names
            if name not in do and name not in given and (name in changed or name not in (evidence or {}))
        )
        outcomes += tuple(
            Term(name, _natural(schema, name)) for name in rules if outcomes and name not in (evidence or {})
        )
        known = seen + tuple(
            Term(name, _value(schema, name, value), world if name in changed else ())
            for name, value in given.items()
            if name in changed or name not in (evidence or {})
        )
    if not outcomes:
        return None
    return Expression(((1, Query("P", outcomes, settings, known)),))


def _value(schema: Schema, name: str, value: Any, *, set_to: bool = False) -> Value | None:
    """A value as a query has it; None for one that stands for all."""
    variable = schema[name]
    if callable(value):
        levels = variable.levels
        return None if not set_to else plain(levels[0]) if levels else 0.0
    if variable.kind == "image" or variable.size is not None:
        return 0.0 if set_to else None
    value = as_array(value)
    if hasattr(value, "to_numpy"):
        value = value.to_numpy()
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str):
        entries = list(dict.fromkeys(np.ravel(np.asarray(value, dtype=object)).tolist()))
        return _value(schema, name, entries[0]) if len(entries) == 1 or set_to else None
    return plain(value) if variable.levels is not None else variable.number(value)


def _natural(schema: Schema, name: str) -> Value | None:
    """A natural value other than the one that :func:`_value` lets a function give."""
    levels = schema[name].levels
    if levels is None:
        return 1.0 if schema[name].kind != "image" else None
    return plain(levels[1]) if len(levels) > 1 else plain(levels[0])
