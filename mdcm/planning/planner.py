"""Planning: convert options and data sets to indices for the compiled planner, and its result to a plan."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from mdcm import _core
from mdcm.errors import GraphError, PlanError, UntrainableError
from mdcm.graph import ADMG
from mdcm.planning.explain import braced
from mdcm.planning.pooling import checked, pooled
from mdcm.planning.records import DatasetSpec, Fit, HNode, Kind, Method, Objective, Plan, Pretrained

__all__ = ["plan"]

_DENSITY = {"categorical": True, "continuous": True, "implicit": False, "image": False}
# codes of the objectives in the compiled planner
_LIKELIHOOD, _ADVERSARIAL, _PRETRAINED = 0, 1, 2


def plan(
    graph: ADMG | str,
    datasets: Sequence[DatasetSpec] | None = None,
    *,
    objective: Objective | Mapping[str, Objective] = "auto",
    method: Method = "minimal",
    kinds: Mapping[str, Kind] | None = None,
    pretrained: Mapping[str, Pretrained] | None = None,
    together: Iterable[Iterable[str]] = (),
    levels: Mapping[str, Sequence[Any]] | None = None,
) -> Plan:
    """Determine which mechanisms are trained together, in which order, and which distributions they are matched to.

    A c-component whose mechanisms all have a density can be fitted by likelihood, separately and in any order, because
    the likelihood of the data factorises over the c-components. Without a density, an unconfounded variable is fitted
    by the conditional loss of its mechanism, such as flow matching of an image; otherwise generators are matched on
    samples, and the mechanisms in the smallest modularity set of an h-node must be trained before it; h-nodes that
    depend on each other are merged. Every c-factor is learned from the datasets that determine it: a dataset with an
    intervention inside an h-node determines the rest of it; other interventions may need a smaller modularity set than
    observations do.

    Args:
        graph: The graph, or its arrow text.
        datasets: The datasets; None means a single observational dataset of all variables, called ``d1``.
        objective: ``"auto"`` uses likelihood if all mechanisms of the c-component have a density, ``"likelihood"``
            requires it, ``"adversarial"`` never uses it; a mapping sets the objective by variable.
        method: Definition of the h-nodes. ``"minimal"`` gives the finest partition; ``"paper"`` the h-graph and the
            sets as printed, from observational data, with the edges that make its order safe; ``"joint"`` a single
            h-node with all variables, matched to every dataset on the columns of that dataset.
        kinds: Kind of each variable, categorical by default. Categorical and continuous mechanisms have a density,
            those of kinds implicit and image do not.
        pretrained: Variables whose mechanisms are used unchanged: ``"mechanism"``, or ``"black box"`` for a mechanism
            without a noise input, which is possible only for a variable without confounders.
        together: Groups of variables whose h-nodes are merged by hand.
        levels: Levels of variables that datasets intervene on, to decide whether all of them were set; by default the
            values that any dataset sets, if there are at least two. For a continuous variable (lowest, highest): 20
            distinct values that span this range count as all.

    Returns:
        The plan.

    Raises:
        GraphError: If a name in an option is unknown.
        PlanError: If the options contradict each other or the graph.
        UntrainableError: If no dataset determines the mechanisms of an h-node.

    Complexity:
        O(nodes + edges) per h-node and dataset at worst, far less if ancestors are few; memory linear in the graph.

    References:
        Rahman & Kocaoglu (2024), Modular Learning of Deep Causal Generative Models for High-dimensional Causal
        Inference, Algorithms 1, 2, 3 and 7; Tian & Pearl (2002) for the likelihood.

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
    graph = ADMG.of(graph)
    if method not in get_args(Method):
        raise PlanError(f"method is {method!r}; it must be one of {', '.join(map(repr, get_args(Method)))}")
    specs = checked(graph, datasets)
    kinds, pretrained = dict(kinds or {}), dict(pretrained or {})
    fixed = _pretrained(graph, pretrained)
    if method == "joint":
        return _joint(graph, specs)
    if method == "paper" and any(spec.do for spec in specs):
        name = next(spec.name for spec in specs if spec.do)
        raise PlanError(
            f"method 'paper' plans for observational data only, but dataset {name!r} has do(); use 'minimal'"
        )
    parts, training = _parts(graph, _adversarial(graph, objective, kinds), fixed)
    groups, members = pooled(graph, specs, kinds, dict(levels or {}))
    merged, merged_training = _merge_by_hand(graph, parts, training, together)
    hgraph = _core.HGraph(graph._core, merged, merged_training, groups, method == "paper")
    if merged is not parts:
        alone = _core.HGraph(graph._core, parts, training, groups, method == "paper")
        _check_merged(graph, merged, alone.labels, hgraph.labels)
    if hgraph.untrained is not None:
        _raise_untrained(graph, specs, members, hgraph)
    return _assemble(graph, specs, members, method, hgraph, _with_own_loss(graph, objective, kinds))


def _assemble(
    graph: ADMG,
    specs: Sequence[DatasetSpec],
    members: Sequence[Sequence[int]],
    method: Method,
    hgraph: _core.HGraph,
    conditional: Collection[str],
) -> Plan:
    labels = hgraph.labels
    level_of = hgraph.levels
    levels = [np.flatnonzero(level_of == k).tolist() for k in range(int(level_of.max(initial=-1)) + 1)]
    training = hgraph.training

    def fits_of(h: int, variables: tuple[str, ...]) -> tuple[Fit, ...]:
        adversarial = bool(training[h] == _ADVERSARIAL)
        if training[h] == _PRETRAINED:
            return ()
        kind = "adversarial" if adversarial else "likelihood"
        single_kind = "conditional" if len(variables) == 1 and variables[0] in conditional else kind
        if method == "paper" and adversarial:
            finder = _paper_finder(graph, variables)
            names = _serving_names(specs, {*variables, *finder()[0], *finder()[1]})
            return (Fit(names, (), variables, single_kind, finder),)
        if hgraph.plain:
            names = tuple(spec.name for spec in specs)
            return (Fit(names, (), variables, single_kind, _finder(graph, variables, (), adversarial)),)
        fits = []
        fitted_groups = hgraph.fits(h)
        if len(fitted_groups) == 1:
            kind = single_kind
        for fitted, groups in fitted_groups:
            used = sorted(j for g in groups.tolist() for j in members[g])
            do = sorted({name for j in used for name in specs[j].do})
            cut = tuple(specs[members[groups[0]][0]].do)
            names = tuple(sorted(graph.nodes[v] for v in fitted.tolist()))
            finder = _finder(graph, names, cut, adversarial)
            fits.append(Fit([specs[j].name for j in used], do, names, kind, finder))
        return tuple(fits)

    def find_hnodes() -> tuple[HNode, ...]:
        members_of: list[list[str]] = [[] for _ in range(len(hgraph))]
        for name, h in zip(graph.nodes, labels.tolist(), strict=True):
            members_of[h].append(name)
        hnodes = []
        for h, group in enumerate(members_of):
            variables = tuple(sorted(group))
            hnodes.append(HNode(variables, int(level_of[h]), fits_of(h, variables)))
        return tuple(hnodes)

    def find_edges() -> tuple[tuple[int, int], ...]:
        return tuple((s, t) for s, t in hgraph.edges().tolist())

    trained = np.bincount(labels, minlength=len(hgraph))[training != _PRETRAINED]
    result = Plan(graph, specs, method, levels, int(trained.max(initial=0)), find_hnodes, find_edges)
    if method == "paper":
        _check_served(result)
    if not hgraph.plain or len(specs) > 1:
        result.unused = _unused(result)
    return result


_Sets = tuple[tuple[str, ...], tuple[str, ...]]


def _finder(graph: ADMG, variables: tuple[str, ...], cut: tuple[str, ...], sample_based: bool) -> Callable[[], _Sets]:
    def find() -> _Sets:
        ancestors = graph.modularity_set(variables, cut) if sample_based else set()
        inside = ancestors.union(variables)
        return tuple(sorted(ancestors)), tuple(sorted(graph.parents(inside) - inside))

    return find


def _paper_finder(graph: ADMG, variables: tuple[str, ...]) -> Callable[[], _Sets]:
    def find() -> _Sets:
        ancestors = graph._named(graph._core.paper_set(graph._indices(variables)))
        inside = ancestors.union(variables)
        return tuple(sorted(ancestors)), tuple(sorted(graph.parents(inside) - inside))

    return find


def _joint(graph: ADMG, specs: Sequence[DatasetSpec]) -> Plan:
    """Plan with a single h-node of all variables, and a fit per dataset on the columns observed in it."""
    variables = tuple(sorted(graph.nodes))
    observed = {name for spec in specs for name in _columns(graph, spec) - spec.do.keys()}
    never = sorted(set(graph.nodes) - observed)
    if never:
        missing = {spec.name: _of_columns(sorted(set(graph.nodes) - _columns(graph, spec))) for spec in specs}
        raise UntrainableError(
            f"no dataset can teach {braced(variables)}: {', '.join(never)} is never observed except where it is set",
            hnode=variables,
            missing={name: text for name, text in missing.items() if text},
        )

    def sets(spec: DatasetSpec) -> Callable[[], _Sets]:
        # unobserved variables are generated as well, but not compared
        free = set(graph.nodes) - spec.do.keys()
        return lambda: ((), tuple(sorted(graph.parents(free) - free)))

    fits = tuple(
        Fit((s.name,), sorted(s.do), sorted(_columns(graph, s) - s.do.keys()), "adversarial", sets(s)) for s in specs
    )
    hnodes = (HNode(variables, 0, fits),) if variables else ()
    levels = ((0,),) if variables else ()
    return Plan(graph, specs, "joint", levels, len(variables), lambda: hnodes, tuple)


# ---------------------------------------------------------------------- arguments of the compiled planner


def _columns(graph: ADMG, spec: DatasetSpec) -> set[str]:
    """Variables of the graph among the columns of a dataset, including those it sets."""
    return set(graph.nodes) if spec.columns is None else {name for name in spec.columns if name in graph}


def _pretrained(graph: ADMG, pretrained: Mapping[str, Pretrained]) -> set[str]:
    """Check the option ``pretrained`` and return its variables."""
    for name, source in pretrained.items():
        try:
            graph.index(name)
        except GraphError as error:
            raise GraphError(f"pretrained: {error}") from None
        if source not in get_args(Pretrained):
            words = ", ".join(map(repr, get_args(Pretrained)))
            raise PlanError(f"pretrained of {name} is {source!r}; it must be one of {words}")
        siblings = sorted(graph.siblings(name))
        if source == "black box" and siblings:
            raise PlanError(
                f"{name} cannot be a black box: {name} <-> {siblings[0]} is a hidden confounder, which a mechanism "
                f"without noise input cannot take part in"
            )
    return set(pretrained)


def _parts(graph: ADMG, adversarial: NDArray[np.uint8], fixed: set[str]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Labels of c-components, and the code of the objective of each."""
    labels = graph._core.c_components()
    training = adversarial.copy()
    if fixed:
        is_fixed = np.fromiter((name in fixed for name in graph.nodes), dtype=bool, count=len(labels))
        size = np.bincount(labels, minlength=len(training))
        training[np.bincount(labels[is_fixed], minlength=len(training)) == size] = _PRETRAINED
    return labels, training


def _merge_by_hand(
    graph: ADMG, parts: NDArray[np.int32], training: NDArray[np.uint8], together: Iterable[Iterable[str]]
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Parts after the requested unions; the same objects if no union is requested."""
    leader = np.arange(len(training))
    requested = False
    for group in together:
        if isinstance(group, str):
            raise PlanError(f"together holds the text {group!r}; it takes groups of names, as in [['A', 'B']]")
        try:
            labels = parts[[graph.index(name) for name in group]]
        except GraphError as error:
            raise GraphError(f"together: {error}") from None
        if len(labels):
            requested = True
            united = np.unique(leader[labels])
            leader[np.isin(leader, united)] = united[0]
    if not requested:
        return parts, training
    leaders, new_label = np.unique(leader, return_inverse=True)
    merged_training = np.full(len(leaders), _LIKELIHOOD, dtype=np.uint8)
    np.maximum.at(merged_training, new_label, np.where(training == _PRETRAINED, _LIKELIHOOD, training))
    all_pretrained = np.bincount(new_label, weights=training == _PRETRAINED) == np.bincount(new_label)
    merged_training[all_pretrained] = _PRETRAINED
    return new_label[parts].astype(np.int32), merged_training


def _check_merged(graph: ADMG, merged: NDArray[np.int32], alone: NDArray[np.int32], labels: NDArray[np.int32]) -> None:
    """Raise PlanError if merging by hand makes further h-nodes depend on each other."""
    # h-nodes united by the requested groups
    leader = np.arange(int(alone.max(initial=-1)) + 1)
    for part in range(int(merged.max(initial=-1)) + 1):
        touched = np.unique(leader[alone[merged == part]])
        leader[np.isin(leader, touched)] = touched[0]
    expected = leader[alone]
    for h in range(int(labels.max(initial=-1)) + 1):
        inside = np.flatnonzero(labels == h)
        if len(np.unique(expected[inside])) > 1:
            names = sorted(graph.nodes[v] for v in inside.tolist())
            raise PlanError(
                f"together: merging by hand makes a cycle, because h-nodes would need each other trained first; all "
                f"of {braced(names)} would have to be one h-node"
            )


# ---------------------------------------------------------------------- untrainable h-nodes, unused data


def _of_columns(names: Sequence[str]) -> str:
    return f"the column{'s' * (len(names) > 1)} {', '.join(names)}" if names else ""


def _raise_untrained(
    graph: ADMG, specs: Sequence[DatasetSpec], members: Sequence[Sequence[int]], hgraph: _core.HGraph
) -> NoReturn:
    assert hgraph.untrained is not None
    h, missing_by_group = hgraph.untrained
    variables = tuple(sorted(graph.nodes[v] for v in np.flatnonzero(hgraph.labels == h).tolist()))
    missing: dict[str, str] = {}
    reasons: list[tuple[int, str]] = []
    for group, (kind, nodes) in zip(members, missing_by_group, strict=True):
        names = [graph.nodes[v] for v in nodes.tolist()]
        for j in group:
            spec = specs[j]
            if kind == "columns":
                missing[spec.name], reason = _of_columns(names), f"lacks {_of_columns(names)}"
            elif kind == "inside":
                missing[spec.name] = reason = f"sets {', '.join(names)} by do(), which is inside it"
            elif kind == "values":
                values = "; ".join(f"{name} only to {_listed(spec.do[name])}" for name in names if spec.do.get(name))
                missing[spec.name] = reason = f"sets {values or ', '.join(names)}, not to every combination of values"
            else:
                missing[spec.name] = reason = f"would need {braced(names)} trained first, which no data determine"
            reasons.append((j, f"{spec.name} {reason}"))
    text = "; ".join(reason for _, reason in sorted(reasons))
    lacking = {graph.nodes[v] for kind, nodes in missing_by_group if kind == "columns" for v in nodes.tolist()}
    observed = set().union(*(_columns(graph, spec) for spec in specs if not set(spec.do) & set(variables)))
    if lacking <= observed and all(kind in {"columns", "inside"} for kind, _ in missing_by_group):
        text += f"; {', '.join(sorted(lacking.union(variables)))} are never observed together" if lacking else ""
    raise UntrainableError(f"no dataset can teach {braced(variables)}: {text}", hnode=variables, missing=missing)


def _listed(values: Iterable[Any] | None) -> str:
    return ", ".join(map(str, values or ()))


def _serving_names(specs: Sequence[DatasetSpec], needed: set[str]) -> tuple[str, ...]:
    return tuple(spec.name for spec in specs if spec.columns is None or needed <= set(spec.columns))


def _check_served(result: Plan) -> None:
    """Raise UntrainableError for the first h-node that has no observational dataset with all its columns."""
    for hnode in result.hnodes:
        for fit in hnode.fits:
            if fit.datasets:
                continue
            needed = {*fit.variables, *fit.ancestors, *fit.parents}
            missing = {s.name: _of_columns(sorted(needed - _columns(result.graph, s))) for s in result.datasets}
            text = "; ".join(f"{name} lacks {columns}" for name, columns in missing.items())
            raise UntrainableError(
                f"no dataset can teach {braced(hnode.variables)}: {text}", hnode=hnode.variables, missing=missing
            )


def _unused(result: Plan) -> tuple[str, ...]:
    """Datasets and columns that no fit uses, in words."""
    names = [spec.name for spec in result.datasets]
    used: dict[str, set[str]] = {name: set() for name in names}
    fits = [fit for hnode in result.hnodes for fit in hnode.fits]
    for fit in fits:
        for name in fit.datasets:
            used[name].update(fit.variables, fit.do)
    observed = {spec.name: _columns(result.graph, spec) for spec in result.datasets}
    for fit in fits:
        # ancestors and parents require a search, and usually the variables by themselves use all columns
        if any(not observed[name] <= used[name] for name in fit.datasets):
            for name in fit.datasets:
                used[name].update(fit.ancestors, fit.parents)
    lines = []
    served = {name for fit in fits for name in fit.datasets}
    for name in names:
        rest = sorted(observed[name] - used[name])
        if name not in served:
            lines.append(f"dataset {name}")
        elif rest:
            lines.append(f"{'columns' if len(rest) > 1 else 'column'} {', '.join(rest)} of dataset {name}")
    return tuple(lines)


# ---------------------------------------------------------------------- objectives


def _adversarial(
    graph: ADMG, objective: Objective | Mapping[str, Objective], kinds: Mapping[str, Kind]
) -> NDArray[np.uint8]:
    """Whether each c-component is trained adversarially."""
    objectives = _by_variable(graph, "objective", objective, get_args(Objective), "auto")
    density = np.array([_DENSITY[kind] for kind in get_args(Kind)])[
        _by_variable(graph, "kinds", kinds, get_args(Kind), "categorical")
    ]
    labels = graph._core.c_components()
    count = int(labels.max(initial=-1)) + 1

    def first_with(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The first flagged member of each c-component, or -1."""
        first = np.full(count, -1)
        members = np.flatnonzero(flags)[::-1]
        first[labels[members]] = members
        return first

    requires = first_with(objectives == get_args(Objective).index("likelihood"))
    refuses = first_with(objectives == get_args(Objective).index("adversarial"))
    no_density = first_with(~density)
    for other, reason in ((refuses, "asks for 'adversarial'"), (no_density, "has no density")):
        clash = np.flatnonzero((requires >= 0) & (other >= 0))
        if clash.size:
            a, b = graph.nodes[requires[clash[0]]], graph.nodes[other[clash[0]]]
            same = "" if a == b else f" {a} and {b} are in the same c-component and are trained together."
            kind = dict(kinds).get(b)
            detail = f"{b} {reason}" + (f" (it is {kind})" if reason == "has no density" else "")
            raise PlanError(f"objective 'likelihood' of {a} is impossible: {detail}.{same}")
    return ((refuses >= 0) | (no_density >= 0)).astype(np.uint8)


def _with_own_loss(
    graph: ADMG, objective: Objective | Mapping[str, Objective], kinds: Mapping[str, Kind]
) -> frozenset[str]:
    """Unconfounded variables without a density whose objective is not "adversarial".

    In a single-variable h-node they need no critic: their mechanisms have a conditional loss.
    """
    objectives = objective if not isinstance(objective, str) else dict.fromkeys(graph.nodes, objective)
    return frozenset(
        name
        for name, kind in kinds.items()
        if name in graph and not _DENSITY[kind] and not graph.siblings(name) and objectives.get(name) != "adversarial"
    )


def _by_variable(
    graph: ADMG, option: str, value: str | Mapping[str, str], allowed: Sequence[str], default: str
) -> NDArray[np.intp]:
    """Index into ``allowed`` of the option's value for each variable."""
    chosen: Mapping[str, str] = {} if isinstance(value, str) else value
    if isinstance(value, str):
        default = value
    for name, word in {"": default, **chosen}.items():
        if word not in allowed:
            of = f" of {name}" if name else ""
            raise PlanError(f"{option}{of} is {word!r}; it must be one of {', '.join(map(repr, allowed))}")
    indices = np.full(len(graph), allowed.index(default))
    for name, word in chosen.items():
        try:
            indices[graph.index(name)] = allowed.index(word)
        except GraphError as error:
            raise GraphError(f"{option}: {error}") from None
    return indices
