"""Reasons why a query is not identified: hedges, unknown c-factors and inconsistent worlds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mdcm.graph import ADMG

__all__ = ["Hedge", "InconsistentFactor", "UnknownFactor", "Witness"]


@dataclass(frozen=True)
class Hedge:
    """Two nested c-forests with the same roots: sets of variables that confounders connect.

    Every member of either set is an ancestor of the roots by directed edges inside the set. The interventions are in
    ``outer`` but not in ``inner``, so two models can agree on the observed distribution and disagree on the answer.

    Attributes:
        inner: The smaller c-forest F', sorted.
        outer: The larger c-forest F, sorted.
        roots: Members of ``inner`` without a child inside it, sorted.
        reasons: With several data sets, why each of them does not determine the c-factor of ``inner``.

    References:
        Shpitser & Pearl (2006), Identification of joint interventional distributions, Theorem 4.
    """

    inner: tuple[str, ...]
    outer: tuple[str, ...]
    roots: tuple[str, ...] = field(default=(), compare=False)
    reasons: tuple[str, ...] = field(default=(), compare=False)

    def explain(self) -> str:
        """The reason as text."""
        connected = ", ".join(self.outer)
        cut = ", ".join(v for v in self.outer if v not in self.inner)
        text = (
            f"Hidden confounders connect {connected}, and all of these affect {', '.join(self.inner)}, so that the "
            f"effect of {cut} cannot be separated from confounding. Two models with the same distribution of the data "
            f"disagree on the answer."
        )
        return "\n".join([text, *self.reasons])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": "hedge",
            "inner": self.inner,
            "outer": self.outer,
            "roots": self.roots,
            "reasons": self.reasons,
        }

    def __str__(self) -> str:
        return f"F' = {{{', '.join(self.inner)}}} inside F = {{{', '.join(self.outer)}}}"


@dataclass(frozen=True)
class UnknownFactor:
    """A c-factor that the answer needs and no data set determines.

    Attributes:
        variables: Its variables, sorted.
        parents: Their other parents, sorted.
        reasons: Why each data set does not determine it.
    """

    variables: tuple[str, ...]
    parents: tuple[str, ...]
    reasons: tuple[str, ...] = field(default=(), compare=False)

    def explain(self) -> str:
        """The reason as text."""
        return "\n".join([f"The answer needs {self}, which no data set determines.", *self.reasons])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": "unknown factor",
            "variables": self.variables,
            "parents": self.parents,
            "reasons": self.reasons,
        }

    def __str__(self) -> str:
        bar = f" | do({', '.join(self.parents)})" if self.parents else ""
        return f"P({', '.join(self.variables)}{bar})"


@dataclass(frozen=True)
class InconsistentFactor:
    """A counterfactual factor over worlds that share hidden causes and contradict each other.

    Attributes:
        events: Its events, each a variable in the world that sets its parents.
        variable: The variable that would need two different values.

    References:
        Correa, Lee & Bareinboim (2021), Nested counterfactual identification from arbitrary surrogate experiments.
    """

    events: tuple[str, ...]
    variable: str

    def explain(self) -> str:
        """The reason as text."""
        return (
            f"The answer needs {self}: its events share hidden causes and need two different values of "
            f"{self.variable}, so that no single experiment determines their joint probability."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"kind": "inconsistent factor", "events": self.events, "variable": self.variable}

    def __str__(self) -> str:
        return f"P({', '.join(self.events)})"


Witness = Hedge | UnknownFactor | InconsistentFactor


def roots_of(graph: ADMG, nodes: Sequence[str]) -> tuple[str, ...]:
    """Members of a set of nodes without children in it, sorted."""
    inside = set(nodes)
    return tuple(sorted(v for v in nodes if not graph.children(v) & inside))
