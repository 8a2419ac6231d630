"""Plans: which mechanisms are trained together, in which order, and against which distribution of the data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from mdcm import _core
from mdcm.diagram import Arrow, Box, Diagram
from mdcm.errors import GraphError, PlanError, UntrainableError
from mdcm.graph import ADMG

__all__ = ["DatasetSpec", "Fit", "HNode", "Kind", "Method", "Objective", "Plan", "plan"]

Kind = Literal["categorical", "continuous", "implicit", "image"]
Objective = Literal["auto", "adversarial", "likelihood"]
Method = Literal["minimal"]

_DENSITY = {"categorical": True, "continuous": True, "implicit": False, "image": False}
_FORMAT = "mdcm-plan"
_VERSION = 1


@dataclass(frozen=True, init=False)
class DatasetSpec:
    """What the planner needs to know of a dataset: its columns, its interventions, its size.

    Args:
        name: Name, as it appears in the plan.
        columns: Names of the observed variables; None means every variable.
        do: Variables that were set by intervention: a mapping to the values set, or names alone for every value.
        rows: Number of rows; None means unknown.

    Attributes:
        name: Name.
        columns: Names as a tuple, or None.
        do: For each target the tuple of values set, or None for every value.
        rows: Number of rows, or None.

    Raises:
        PlanError: If the name is empty, the columns or targets are no names, or rows is negative.

    Example:
        >>> DatasetSpec("d2", columns=["PKA", "Mek"], do={"PKA": [2]}, rows=707).do
        {'PKA': (2,)}
    """

    name: str
    columns: tuple[str, ...] | None
    do: dict[str, tuple[Any, ...] | None]
    rows: int | None

    __hash__ = None  # type: ignore[assignment]

    def __init__(
        self,
        name: str,
        columns: Iterable[str] | None = None,
        do: Mapping[str, Iterable[Any] | None] | Iterable[str] = (),
        rows: int | None = None,
    ) -> None:
        if not isinstance(name, str) or not name.strip():
            raise PlanError(f"a dataset's name must be text that is not empty, not {name!r}")
        if isinstance(columns, str) or isinstance(do, str):
            raise PlanError(f"dataset {name!r}: columns and do take several names, not one text")
        if rows is not None and rows < 0:
            raise PlanError(f"dataset {name!r}: rows is {rows}")
        values: dict[str, tuple[Any, ...] | None] = {}
        if isinstance(do, Mapping):
            for target, given in do.items():
                if isinstance(given, str):
                    raise PlanError(f"dataset {name!r}: the values of do({target}) must be a list, not {given!r}")
                values[target] = None if given is None else tuple(given)
                if values[target] == ():
                    raise PlanError(f"dataset {name!r}: do({target}) lists no value")
        else:
            values = dict.fromkeys(do)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "columns", None if columns is None else tuple(columns))
        object.__setattr__(self, "do", values)
        object.__setattr__(self, "rows", rows)


class Fit:
    """One distribution that an h-node's generators are matched to.

    The mechanisms of ``variables`` are trained, those of ``ancestors`` generate along with them as they are, and
    the data's own values stand in for ``parents`` and ``do``: what is matched is
    P(variables, ancestors | parents, do). A likelihood fit has no ancestors.

    Attributes:
        datasets: Names of the datasets whose rows are used, in the order given.
        do: Sorted names of the variables that these datasets intervene on.
        variables: Sorted names of the mechanisms that are trained.
        ancestors: Sorted names of the mechanisms, trained before, that must generate too (the set A).
        parents: Sorted names of the parents of variables and ancestors outside them.
        objective: ``"adversarial"`` or ``"likelihood"``.
    """

    __slots__ = ("_find", "_found", "datasets", "do", "objective", "variables")

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
        self._found: tuple[tuple[str, ...], tuple[str, ...]] | None = None

    def _sets(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        # found on request: all ancestors of a large plan together can be quadratic in the graph
        if self._found is None and self._find is not None:
            self._found, self._find = self._find(), None
        return cast("tuple[tuple[str, ...], tuple[str, ...]]", self._found)

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
        matched = ", ".join((*self.variables, *self.ancestors))
        given = ", ".join((*self.parents, *(f"do({name})" for name in self.do)))
        bar = " | " if given else ""
        return f"{self.objective}: P({matched}{bar}{given}) from {', '.join(self.datasets)}"


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
        level: 0 where nothing must be trained before; otherwise one more than the highest level that it needs.
        fits: What the generators are matched to, all at once.
    """

    variables: tuple[str, ...]
    level: int
    fits: tuple[Fit, ...]


class Plan:
    """What is trained with what, in which order, and against which data; made by :func:`plan`.

    Attributes:
        graph: The graph.
        datasets: The datasets planned for.
        method: How h-nodes were found.
        hnodes: H-nodes, by level and then by the smallest topological position of a member.
        edges: Sorted pairs (s, t) of indices into ``hnodes``: t needs a member of s trained before.
        levels: For each level the indices of its h-nodes; those of one level can be trained at the same time.
        largest: The most mechanisms that are trained together.
        unused: What the plan makes no use of, in words.

    Example:
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
        """Sorted pairs (s, t) of indices into ``hnodes``: t needs a member of s trained before."""
        if self._edges is None:
            self._edges = self._find_edges()
        return self._edges

    def explain(self, index: int, variable: str) -> str:
        """Says what part a variable plays in training an h-node, and why, with the backdoor paths.

        Args:
            index: Index into :attr:`hnodes`.
            variable: Name of the variable.

        Returns:
            One or more lines of text.

        Raises:
            PlanError: If there is no such h-node.
            GraphError: If there is no such variable.

        Example:
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
            return _explain_member(self.graph, hnode, variable)
        lines = []
        for fit in hnode.fits:
            if variable in fit.ancestors:
                under = f" under do({', '.join(fit.do)})" if fit.do else ""
                lines.append(
                    f"{variable} is trained before {_braced(hnode.variables)} and generates along with them{under}: "
                    f"conditioning on {variable} is not intervening on it."
                )
                lines += _witness_lines(self.graph, fit.variables, fit.do, variable)
        if lines:
            return "\n".join(lines)
        if any(variable in fit.parents for fit in hnode.fits):
            return (
                f"{variable} is a parent, and the data's own values stand in for it: "
                f"no backdoor path tells conditioning on it from intervening on it."
            )
        return f"{variable} plays no part in training {_braced(hnode.variables)}."

    def to_json(self, indent: int | None = None) -> str:
        """Writes the plan as JSON.

        Args:
            indent: Spaces per level of nesting; None for one line.

        Returns:
            The text, which :meth:`from_json` reads back.
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
        """Reads a plan that :meth:`to_json` wrote.

        Args:
            text: The JSON text.

        Returns:
            An equal plan.

        Raises:
            PlanError: If the text is no plan, or of another version.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise PlanError(f"the plan is not JSON: {error}") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise PlanError(f"the JSON text is no plan: its 'format' is not {_FORMAT!r}")
        if content.get("version") != _VERSION:
            raise PlanError(f"the plan has version {content.get('version')!r}; this is mdcm for version {_VERSION}")
        try:
            hnodes = tuple(
                HNode(tuple(item["variables"]), int(item["level"]), tuple(_stored_fit(**fit) for fit in item["fits"]))
                for item in content["hnodes"]
            )
            edges = tuple((int(s), int(t)) for s, t in content["edges"])
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
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise PlanError(f"the plan is incomplete or damaged: {error!r}") from error
        return loaded

    def diagram(self) -> Diagram:
        """The h-graph as boxes in columns, one column per level, every edge with the backdoor path that it rests on."""
        boxes = [
            Box(", ".join(h.variables), tuple(str(fit) for fit in h.fits), h.level, f"h-node {i}")
            for i, h in enumerate(self.hnodes)
        ]
        label = [0] * len(self.graph.nodes)
        for i, hnode in enumerate(self.hnodes):
            for name in hnode.variables:
                label[self.graph.index(name)] = i
        arrows = []
        for t, hnode in enumerate(self.hnodes):
            paths: dict[int, str] = {}
            for fit in hnode.fits:
                if not fit.ancestors:
                    continue
                closure = _closure(self.graph, fit.variables, fit.do)
                for q in closure.added.tolist():
                    if label[q] != t and label[q] not in paths:
                        paths[label[q]] = _path_text(self.graph, *closure.witness(q))
            arrows += [Arrow(s, t, path) for s, path in paths.items()]
        return Diagram(tuple(boxes), tuple(sorted(arrows)))

    def to_dot(self) -> str:
        """Writes the h-graph in Graphviz's language, edges labelled with backdoor paths.

        Returns:
            The text.
        """
        return self.diagram().to_dot()

    def to_svg(self) -> str:
        """Draws the h-graph: one column per level, h-nodes as boxes, edges with the backdoor paths they rest on.

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
                lines.append(f"  {i}: {_braced(hnode.variables)}")
                lines += [f"       {fit}" for fit in hnode.fits]
        lines += [f"unused: {text}" for text in self.unused]
        return "\n".join(lines)


def plan(
    graph: ADMG | str,
    datasets: Sequence[DatasetSpec] | None = None,
    *,
    objective: Objective | Mapping[str, Objective] = "auto",
    method: Method = "minimal",
    kinds: Mapping[str, Kind] | None = None,
) -> Plan:
    """Finds what must be trained together, in which order, and what each part is matched to.

    A c-component whose mechanisms all have a density can be fitted by likelihood, alone and without order, because
    the likelihood of the data splits into one term per c-component. Where there is no density, generators are
    matched on samples, and an h-node needs the mechanisms in its smallest modularity set trained before it; h-nodes
    that need each other are merged.

    Args:
        graph: The graph, or its arrow text.
        datasets: What was observed; None means one observational dataset of all variables, called ``d1``.
        objective: ``"auto"`` takes likelihood wherever all mechanisms of the c-component have a density;
            ``"likelihood"`` insists on it, ``"adversarial"`` does without; or one of these by variable.
        method: How h-nodes are found; ``"minimal"`` gives the finest partition.
        kinds: Kind of each variable, categorical unless said. Categorical and continuous mechanisms have a density,
            implicit ones and images have none.

    Returns:
        The plan.

    Raises:
        GraphError: If a name in ``objective`` or ``kinds`` is unknown.
        PlanError: If the options contradict each other or the graph.
        UntrainableError: If no dataset can teach an h-node.

    Complexity:
        O(nodes + edges) per h-node at worst, far less where ancestors are few; memory linear in the graph.

    References:
        Rahman & Kocaoglu (2024), Modular Learning of Deep Causal Generative Models for High-dimensional Causal
        Inference, Algorithms 1 and 2; Tian & Pearl (2002) for the likelihood.

    Example:
        >>> print(plan("D -> I -> A; D <-> A", objective="adversarial"))
        2 h-nodes, at most 2 mechanisms trained together
        level 0
          0: {I}
               adversarial: P(I | D) from d1
        level 1
          1: {A, D}
               adversarial: P(A, D, I) from d1
    """
    graph = ADMG.from_string(graph) if isinstance(graph, str) else graph
    if method not in get_args(Method):
        raise PlanError(f"method is {method!r}; it must be one of {', '.join(map(repr, get_args(Method)))}")
    spec = _one_observational(graph, datasets)
    adversarial = _adversarial(graph, objective, kinds or {})
    hgraph = _core.HGraph(graph._core, adversarial)
    labels = hgraph.labels
    level_of = hgraph.levels
    levels = [np.flatnonzero(level_of == k).tolist() for k in range(int(level_of.max(initial=-1)) + 1)]
    is_adversarial = np.zeros(len(hgraph), dtype=bool)
    is_adversarial[labels] = adversarial[graph._core.c_components()]

    def find_hnodes() -> tuple[HNode, ...]:
        members: list[list[str]] = [[] for _ in range(len(hgraph))]
        for name, h in zip(graph.nodes, labels.tolist(), strict=True):
            members[h].append(name)
        found = []
        for h, group in enumerate(members):
            variables = tuple(sorted(group))
            sample_based = bool(is_adversarial[h])
            kind = "adversarial" if sample_based else "likelihood"
            fit = Fit((spec.name,), (), variables, kind, _finder(graph, variables, sample_based))
            found.append(HNode(variables, int(level_of[h]), (fit,)))
        return tuple(found)

    def find_edges() -> tuple[tuple[int, int], ...]:
        return tuple((s, t) for s, t in hgraph.edges().tolist())

    result = Plan(graph, (spec,), method, levels, int(np.bincount(labels).max(initial=0)), find_hnodes, find_edges)
    _check_served(result, spec)
    return result


def _finder(
    graph: ADMG, variables: tuple[str, ...], sample_based: bool
) -> Callable[[], tuple[tuple[str, ...], tuple[str, ...]]]:
    def find() -> tuple[tuple[str, ...], tuple[str, ...]]:
        ancestors = graph.modularity_set(variables) if sample_based else set()
        inside = ancestors.union(variables)
        return tuple(sorted(ancestors)), tuple(sorted(graph.parents(inside) - inside))

    return find


def _one_observational(graph: ADMG, datasets: Sequence[DatasetSpec] | None) -> DatasetSpec:
    specs = [DatasetSpec("d1")] if datasets is None else list(datasets)
    if not specs:
        raise PlanError("there is no dataset to plan for")
    for spec in specs:
        if not isinstance(spec, DatasetSpec):
            raise PlanError(f"datasets holds {spec!r}; it takes DatasetSpec objects")
    if len(specs) > 1 or specs[0].do:
        raise PlanError("this version plans for one observational dataset, without do()")
    return specs[0]


def _check_served(result: Plan, spec: DatasetSpec) -> None:
    """Refuses the first h-node whose fit needs a column that the dataset lacks."""
    if spec.columns is None or set(spec.columns) >= set(result.graph.nodes):
        return
    for hnode in result.hnodes:
        (fit,) = hnode.fits
        lacking = sorted({*fit.variables, *fit.ancestors, *fit.parents} - set(spec.columns))
        if lacking:
            missing = f"the columns {', '.join(lacking)}" if len(lacking) > 1 else f"the column {lacking[0]}"
            raise UntrainableError(
                f"no dataset can teach {_braced(hnode.variables)}: {spec.name} lacks {missing}",
                hnode=hnode.variables,
                missing={spec.name: missing},
            )


def _adversarial(
    graph: ADMG, objective: Objective | Mapping[str, Objective], kinds: Mapping[str, Kind]
) -> NDArray[np.uint8]:
    """For every c-component whether it is trained adversarially."""
    wanted = _by_variable(graph, "objective", objective, get_args(Objective), "auto")
    density = [_DENSITY[kind] for kind in _by_variable(graph, "kinds", kinds, get_args(Kind), "categorical")]
    labels = graph._core.c_components()
    count = int(labels.max(initial=-1)) + 1

    def first_with(flags: Iterable[bool]) -> NDArray[np.int64]:
        """For every c-component the first member that is flagged, or -1."""
        found = np.full(count, -1)
        members = np.flatnonzero(np.fromiter(flags, dtype=bool, count=len(labels)))[::-1]
        found[labels[members]] = members
        return found

    insists = first_with(want == "likelihood" for want in wanted)
    refuses = first_with(want == "adversarial" for want in wanted)
    without = first_with(not has for has in density)
    for other, why in ((refuses, "asks for 'adversarial'"), (without, "has no density")):
        clash = np.flatnonzero((insists >= 0) & (other >= 0))
        if clash.size:
            a, b = graph.nodes[insists[clash[0]]], graph.nodes[other[clash[0]]]
            same = "" if a == b else f" {a} and {b} are in one c-component and are trained together."
            kind = dict(kinds).get(b)
            detail = f"{b} {why}" + (f" (it is {kind})" if why == "has no density" else "")
            raise PlanError(f"objective 'likelihood' of {a} is impossible: {detail}.{same}")
    return ((refuses >= 0) | (without >= 0)).astype(np.uint8)


def _by_variable(
    graph: ADMG, what: str, given: str | Mapping[str, str], allowed: Sequence[str], default: str
) -> list[str]:
    """One of the allowed words for every variable."""
    chosen: Mapping[str, str] = {} if isinstance(given, str) else given
    if isinstance(given, str):
        default = given
    for name, word in {"": default, **chosen}.items():
        if word not in allowed:
            of = f" of {name}" if name else ""
            raise PlanError(f"{what}{of} is {word!r}; it must be one of {', '.join(map(repr, allowed))}")
    for name in chosen:
        try:
            graph.index(name)
        except GraphError as error:
            raise GraphError(f"{what}: {error}") from None
    return [chosen.get(name, default) for name in graph.nodes]


def _closure(graph: ADMG, variables: Iterable[str], do: Iterable[str]) -> _core.ModularityClosure:
    index = graph._index
    return _core.ModularityClosure(graph._core, [index[v] for v in variables], [index[v] for v in do])


def _path_text(graph: ADMG, path: NDArray[np.int32], ends_bidirected: bool) -> str:
    names = [graph.nodes[v] for v in path.tolist()]
    if ends_bidirected:
        return f"{' ← '.join(names[:-1])} ↔ {names[-1]}"
    return " ← ".join(names)


def _witness_lines(graph: ADMG, variables: Sequence[str], do: Sequence[str], name: str) -> list[str]:
    """The backdoor path that forces a variable, then those that force what it starts and ends at."""
    closure = _closure(graph, variables, do)
    given = set(variables)
    lines: list[str] = []
    pending, seen = [graph._index[name]], set()
    while pending:
        q = pending.pop()
        if q in seen:
            continue
        seen.add(q)
        path, ends_bidirected = closure.witness(q)
        lines.append(f"  {_path_text(graph, path, ends_bidirected)}")
        pending += [v for v in (int(path[-1]), int(path[0])) if graph.nodes[v] not in given]
    return lines


def _explain_member(graph: ADMG, hnode: HNode, variable: str) -> str:
    if len(hnode.variables) == 1:
        return f"{variable} is alone in its h-node: it shares no confounder, and nothing needs it in return."
    inside = set(hnode.variables)
    parts = [part for part in graph.c_components() if part <= inside]
    own = next(part for part in parts if variable in part)
    lines = []
    if len(own) > 1:
        shared = sorted(graph.siblings(variable))
        lines.append(
            f"{variable} is in the c-component {_braced(sorted(own))}, which is trained together: "
            f"it shares a hidden confounder with {', '.join(shared)}."
        )
    if len(parts) == 1:
        return "\n".join(lines)
    lines.append(f"{_braced(hnode.variables)} holds {len(parts)} c-components, which need each other trained before:")
    return "\n".join(lines + _merge_lines(graph, parts))


def _merge_lines(graph: ADMG, parts: list[set[str]]) -> list[str]:
    """Replays the contractions inside one h-node, with a witness for every need."""
    lines: list[str] = []
    while len(parts) > 1:
        where = {name: k for k, part in enumerate(parts) for name in part}
        needs: list[set[int]] = []
        for k, part in enumerate(parts):
            closure = _closure(graph, sorted(part), ())
            found: dict[int, str] = {}
            for q in closure.added.tolist():
                other = where.get(graph.nodes[q], k)
                if other != k and other not in found:
                    found[other] = _path_text(graph, *closure.witness(q))
            lines += [f"  {_braced(sorted(part))} needs {_braced(sorted(parts[o]))}: {p}" for o, p in found.items()]
            needs.append(set(found))
        parts = _contracted(parts, needs)
    return lines


def _contracted(parts: list[set[str]], needs: list[set[int]]) -> list[set[str]]:
    """Unites parts that reach each other; inside an h-node every round unites some."""
    reach = [set(direct) for direct in needs]
    for k in range(len(parts)):
        for i in range(len(parts)):
            if k in reach[i]:
                reach[i] |= reach[k]
    groups = {frozenset({i, *(j for j in reach[i] if i in reach[j])}) for i in range(len(parts))}
    return [set().union(*(parts[i] for i in group)) for group in sorted(groups, key=min)]


def _braced(names: Iterable[str]) -> str:
    return f"{{{', '.join(names)}}}"
