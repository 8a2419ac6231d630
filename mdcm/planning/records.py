"""Parts of a plan: specifications of data sets, fits, h-nodes, and the plan itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from mdcm import _core
from mdcm.data.levels import as_word
from mdcm.data.specification import DatasetSpec
from mdcm.errors import PlanError
from mdcm.graph import ADMG
from mdcm.graph.diagram import Arrow, Box, Diagram
from mdcm.planning.explain import braced, closure_of, membership, path_text, witness_lines
from mdcm.text.documents import anything, flag, listed, optional, parse_json, record, text, whole
from mdcm.text.printable import quoted

__all__ = ["DatasetSpec", "Fit", "HNode", "Kind", "Method", "Objective", "Plan", "Pretrained"]

Kind = Literal["categorical", "continuous", "implicit", "image"]
Objective = Literal["auto", "adversarial", "likelihood"]
Method = Literal["minimal", "paper", "joint"]
Pretrained = Literal["mechanism", "black box"]

_FORMAT = "mdcm-plan"
_VERSION = 1


class Fit:
    """Distribution that the generators of an h-node are matched to.

    The mechanisms of ``variables`` are trained, those of ``ancestors`` generate along with them unchanged, and
    ``parents`` and ``do`` take their values from the data: the fit matches P(variables, ancestors | parents, do). A
    likelihood fit has no ancestors.

    Attributes:
        datasets: Names of the datasets whose rows are used, in the order of the plan.
        do: Sorted names of the variables that these datasets intervene on.
        variables: Sorted names of the mechanisms that are trained.
        ancestors: Sorted names of the mechanisms, trained earlier, that must generate too (the set A).
        parents: Sorted names of the parents of variables and ancestors outside them.
        objective: ``"likelihood"``; ``"conditional"``, the conditional loss of a mechanism without a density, such as
            flow matching of an image; or ``"adversarial"``, against critics.
    """

    __slots__ = ("_find", "_result", "datasets", "do", "objective", "variables")

    def __init__(
        self,
        datasets: Sequence[str],
        do: Sequence[str],
        variables: Sequence[str],
        objective: str,
        find: Callable[[], tuple[tuple[str, ...], tuple[str, ...]]],
    ) -> None:
        self.datasets = tuple(datasets)
        self.do = tuple(do)
        self.variables = tuple(variables)
        self.objective = objective
        self._find: Callable[[], tuple[tuple[str, ...], tuple[str, ...]]] | None = find
        self._result: tuple[tuple[str, ...], tuple[str, ...]] | None = None

    def _sets(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        # computed on request: all ancestors of a large plan together can be quadratic in the graph
        if self._result is None and self._find is not None:
            self._result, self._find = self._find(), None
        return cast("tuple[tuple[str, ...], tuple[str, ...]]", self._result)

    @property
    def ancestors(self) -> tuple[str, ...]:
        """The set A, sorted."""
        return self._sets()[0]

    @property
    def parents(self) -> tuple[str, ...]:
        """Parents of variables and ancestors outside them, sorted."""
        return self._sets()[1]

    def _key(self) -> tuple[Any, ...]:
        return self.datasets, self.do, self.variables, self.ancestors, self.parents, self.objective

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Fit) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[Any, ...]:
        return _stored_fit, self._key()

    def __repr__(self) -> str:
        fields = ("datasets", "do", "variables", "ancestors", "parents", "objective")
        return f"Fit({', '.join(f'{name}={getattr(self, name)!r}' for name in fields)})"

    def __str__(self) -> str:
        matched = ", ".join(map(as_word, (*self.variables, *self.ancestors)))
        given = ", ".join((*map(as_word, self.parents), *(f"do({as_word(name)})" for name in self.do)))
        bar = " | " if given else ""
        how = "conditional loss" if self.objective == "conditional" else self.objective
        return f"{how}: P({matched}{bar}{given}) from {', '.join(self.datasets)}"


# objectives of a fit, after "auto" is resolved
_OBJECTIVES = ("adversarial", "conditional", "likelihood")


def _check_stored(plan: Plan, edges: Sequence[tuple[int, int]]) -> None:
    """Raise ValueError if a plan refers to variables, data sets or h-nodes that it does not have."""
    nodes, names = set(plan.graph.nodes), {spec.name for spec in plan.datasets}
    if len(names) < len(plan.datasets):
        raise ValueError("two of its data sets have the same name")
    if plan.method not in get_args(Method):
        raise ValueError(f"its method is {quoted(plan.method)}")
    seen: set[str] = set()
    for index, hnode in enumerate(plan.hnodes):
        if not hnode.variables or not seen.isdisjoint(hnode.variables):
            raise ValueError(f"hnodes[{index}] has no variables, or one of an earlier h-node")
        seen.update(hnode.variables)
        for fit in hnode.fits:
            if fit.objective not in _OBJECTIVES:
                raise ValueError(f"hnodes[{index}] has the objective {quoted(fit.objective)}")
            known = {*fit.variables, *fit.ancestors, *fit.parents, *fit.do} <= nodes
            if not known or not set(fit.datasets) <= names or not set(fit.variables) <= set(hnode.variables):
                raise ValueError(f"hnodes[{index}] has a fit of variables or data sets that are not the plan's")
    if not seen <= nodes:
        raise ValueError("an h-node has a variable that is not in its graph")
    if any(not 0 <= end < len(plan.hnodes) for edge in edges for end in edge):
        raise ValueError("an edge joins h-nodes that it does not have")


def _stored_fit(
    datasets: Sequence[str],
    do: Sequence[str],
    variables: Sequence[str],
    ancestors: Sequence[str],
    parents: Sequence[str],
    objective: str,
) -> Fit:
    return Fit(datasets, do, variables, objective, lambda: (tuple(ancestors), tuple(parents)))


@dataclass(frozen=True)
class HNode:
    """Mechanisms that are trained together.

    Attributes:
        variables: Sorted names.
        level: 0 if no h-node must be trained before it; otherwise 1 + the highest level that it depends on.
        fits: Distributions that the generators are matched to simultaneously.
    """

    variables: tuple[str, ...]
    level: int
    fits: tuple[Fit, ...]


_NAMES = listed(text)
_CONTENT = record(
    {
        "format": text,
        "version": whole(),
        "graph": text,
        "method": text,
        "datasets": listed(
            record(
                {"name": text},
                {
                    "columns": optional(_NAMES), "do": anything, "rows": optional(whole()), "covers": flag,
                    "combinations": optional(listed(listed())),
                },
            )
        ),
        "hnodes": listed(
            record(
                {
                    "variables": _NAMES,
                    "level": whole(),
                    "fits": listed(
                        record(
                            {
                                "datasets": _NAMES, "do": _NAMES, "variables": _NAMES, "ancestors": _NAMES,
                                "parents": _NAMES, "objective": text,
                            }
                        )
                    ),
                }
            )
        ),
        "edges": listed(listed(whole(), 2)),
        "unused": listed(),
    }
)  # fmt: skip


class Plan:
    """Groups of mechanisms trained together, their order, and the data they are matched to; made by :func:`plan`.

    Attributes:
        graph: The graph.
        datasets: The datasets planned for.
        method: Method by which the h-nodes were computed.
        hnodes: H-nodes, by level and then by the smallest topological position of a member.
        edges: Sorted pairs (s, t) of indices into ``hnodes``: a member of s must be trained before t.
        levels: Indices of the h-nodes of each level; h-nodes on the same level can be trained at the same time.
        largest: The largest number of mechanisms that are trained together.
        unused: Datasets and columns that the plan does not use, in words.

    Example:
        >>> from mdcm.planning import plan
        >>> p = plan(ADMG.from_string("D -> I -> A; D <-> A"), objective="adversarial")
        >>> [h.variables for h in p.hnodes], p.edges
        ([('I',), ('A', 'D')], ((0, 1),))
    """

    def __init__(
        self,
        graph: ADMG,
        datasets: Sequence[DatasetSpec],
        method: str,
        levels: Sequence[Sequence[int]],
        largest: int,
        hnodes: Callable[[], tuple[HNode, ...]],
        edges: Callable[[], tuple[tuple[int, int], ...]],
    ) -> None:
        self.graph = graph
        self.datasets = tuple(datasets)
        self.method = method
        self.levels = tuple(tuple(level) for level in levels)
        self.largest = largest
        self.unused: tuple[str, ...] = ()
        self._find_hnodes = hnodes
        self._find_edges = edges
        self._hnodes: tuple[HNode, ...] | None = None
        self._edges: tuple[tuple[int, int], ...] | None = None

    @property
    def hnodes(self) -> tuple[HNode, ...]:
        """H-nodes, by level and then by the smallest topological position of a member."""
        if self._hnodes is None:
            self._hnodes = self._find_hnodes()
        return self._hnodes

    @property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Sorted pairs (s, t) of indices into ``hnodes``: a member of s must be trained before t."""
        if self._edges is None:
            self._edges = self._find_edges()
        return self._edges

    def explain(self, index: int, variable: str) -> str:
        """Explain the role of a variable in training an h-node, with the backdoor paths.

        Args:
            index: Index into :attr:`hnodes`.
            variable: Name of the variable.

        Returns:
            One or more lines of text.

        Raises:
            PlanError: If there is no such h-node.
            GraphError: If there is no such variable.

        Example:
            >>> from mdcm.planning import plan
            >>> p = plan(ADMG.from_string("D -> I -> A; D <-> A"), objective="adversarial")
            >>> print(p.explain(1, "I"))
            I is trained before {A, D} and generates along with them: conditioning on I is not intervening on it.
              A ← I ← D
        """
        if not 0 <= index < len(self.hnodes):
            raise PlanError(f"there is no h-node {index}; the plan has {len(self.hnodes)}, numbered from 0")
        self.graph.index(variable)
        hnode = self.hnodes[index]
        if variable in hnode.variables:
            return membership(self.graph, hnode.variables, variable, self.method)
        lines = []
        for fit in hnode.fits:
            if variable in fit.ancestors:
                under = f" under do({', '.join(fit.do)})" if fit.do else ""
                lines.append(
                    f"{variable} is trained before {braced(hnode.variables)} and generates along with them{under}: "
                    f"conditioning on {variable} is not intervening on it."
                )
                closure, added = self._closure(fit)
                if self.graph.index(variable) in added:
                    lines += witness_lines(self.graph, closure, set(fit.variables), variable)
                else:
                    lines[-1] = f"{variable} is a parent that the printed algorithm adds to {braced(hnode.variables)}."
        if lines:
            return "\n".join(lines)
        if any(variable in fit.parents for fit in hnode.fits):
            return (
                f"{variable} is a parent, and its values are taken from the data: "
                f"there is no backdoor path, so conditioning on it equals intervening on it."
            )
        return f"{variable} is not used in training {braced(hnode.variables)}."

    def _closure(self, fit: Fit) -> tuple[_core.ModularityClosure, NDArray[np.int32]]:
        """Closure that determines the ancestors of a fit; the same for all its data sets."""
        do = next((tuple(spec.do) for spec in self.datasets if spec.name in fit.datasets[:1]), ())
        return closure_of(self.graph, fit.variables, do)

    def to_json(self, indent: int | None = None) -> str:
        """Write the plan as JSON.

        Args:
            indent: Spaces per level of nesting; None for a single line.

        Returns:
            The text; :meth:`from_json` reads it back.
        """
        content = {
            "format": _FORMAT,
            "version": _VERSION,
            "graph": self.graph.to_string(),
            "method": self.method,
            "datasets": [
                {
                    "name": spec.name,
                    "columns": spec.columns,
                    "do": spec.do,
                    "rows": spec.rows,
                    "covers": spec.covers,
                    "combinations": spec.combinations,
                }
                for spec in self.datasets
            ],
            "hnodes": [
                {
                    "variables": hnode.variables,
                    "level": hnode.level,
                    "fits": [
                        {
                            "datasets": fit.datasets,
                            "do": fit.do,
                            "variables": fit.variables,
                            "ancestors": fit.ancestors,
                            "parents": fit.parents,
                            "objective": fit.objective,
                        }
                        for fit in hnode.fits
                    ],
                }
                for hnode in self.hnodes
            ],
            "edges": self.edges,
            "unused": self.unused,
        }
        return json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan written by :meth:`to_json`.

        Args:
            text: The JSON text.

        Returns:
            An equal plan.

        Raises:
            PlanError: If the text is not a plan, or of another version.
        """
        try:
            content = parse_json(text)
        except ValueError as error:
            raise PlanError(f"the plan is not JSON: {str(error).removeprefix('it is not JSON: ')}") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise PlanError(f"the JSON text is not a plan: its 'format' is not {_FORMAT!r}")
        if content.get("version") != _VERSION:
            raise PlanError(
                f"the plan has version {quoted(content.get('version'))}; this mdcm reads version {_VERSION}"
            )
        try:
            _CONTENT(content, "")
            hnodes = tuple(
                HNode(tuple(item["variables"]), int(item["level"]), tuple(_stored_fit(**fit) for fit in item["fits"]))
                for item in content["hnodes"]
            )
            edges = tuple((int(s), int(t)) for s, t in content["edges"])
            if any(not 0 <= hnode.level < len(hnodes) for hnode in hnodes):
                # otherwise the list of levels could exhaust memory
                raise ValueError("the level of an h-node is not below the number of h-nodes")
            levels: list[list[int]] = [[] for _ in range(max((h.level for h in hnodes), default=-1) + 1)]
            for i, hnode in enumerate(hnodes):
                levels[hnode.level].append(i)
            loaded = cls(
                ADMG.from_string(content["graph"]),
                [DatasetSpec(**spec) for spec in content["datasets"]],
                content["method"],
                levels,
                max((len(h.variables) for h in hnodes), default=0),
                lambda: hnodes,
                lambda: edges,
            )
            loaded.unused = tuple(content["unused"])
            _check_stored(loaded, edges)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise PlanError(
                f"the plan is incomplete or damaged: {error if isinstance(error, ValueError) else repr(error)}"
            ) from error
        return loaded

    def diagram(self) -> Diagram:
        """The h-graph as boxes, one column per level, with edges labelled by their backdoor paths."""
        boxes = [
            Box(", ".join(h.variables), tuple(str(fit) for fit in h.fits), h.level, f"h-node {i}")
            for i, h in enumerate(self.hnodes)
        ]
        label = [0] * len(self.graph.nodes)
        for i, hnode in enumerate(self.hnodes):
            for name in hnode.variables:
                label[self.graph.index(name)] = i
        paths: dict[tuple[int, int], str] = {}
        for t, hnode in enumerate(self.hnodes):
            for fit in hnode.fits:
                if not fit.ancestors:
                    continue
                closure, added = self._closure(fit)
                for q in added.tolist():
                    if (label[q], t) not in paths:
                        paths[label[q], t] = path_text(self.graph, *closure.witness(q))
        arrows = [Arrow(s, t, paths.get((s, t), "")) for s, t in self.edges]
        return Diagram(tuple(boxes), tuple(sorted(arrows)))

    def to_dot(self) -> str:
        """Write the h-graph in DOT, with edges labelled by their backdoor paths.

        Returns:
            The text.
        """
        return self.diagram().to_dot()

    def to_svg(self) -> str:
        """Draw the h-graph: h-nodes as boxes, one column per level, with edges labelled by their backdoor paths.

        Returns:
            A self-contained SVG document.
        """
        return self.diagram().to_svg()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        mine = (self.graph, self.datasets, self.method, self.hnodes, self.edges, self.unused)
        return mine == (other.graph, other.datasets, other.method, other.hnodes, other.edges, other.unused)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return Plan.from_json, (self.to_json(),)

    def __repr__(self) -> str:
        h, levels = len(self), len(self.levels)
        return f"<Plan: {h} h-nodes on {levels} levels, at most {self.largest} mechanisms trained together>"

    def __len__(self) -> int:
        return sum(map(len, self.levels))

    def __str__(self) -> str:
        mechanisms = f"{self.largest} mechanism{'s' * (self.largest != 1)}"
        lines = [f"{len(self)} h-node{'s' * (len(self) != 1)}, at most {mechanisms} trained together"]
        for k, level in enumerate(self.levels):
            lines.append(f"level {k}")
            for i in level:
                hnode = self.hnodes[i]
                lines.append(f"  {i}: {braced(hnode.variables)}")
                lines += [f"       {fit}" for fit in hnode.fits]
        lines += [f"unused: {text}" for text in self.unused]
        return "\n".join(lines)
