"""Slow and independent: what the library computes fast, from the definitions, in plain Python and numpy.

Nothing here imports mdcm. A graph is given by its nodes, its directed edges as a set of pairs, and its confounded
pairs as a set of frozensets (a latent counts as all pairs of its children); numeric oracles take every confounder
with its children.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Pairs = frozenset[frozenset[str]]
Directed = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Mixed:
    """A mixed graph as plain sets."""

    nodes: tuple[str, ...]
    directed: Directed
    pairs: Pairs

    def parents(self, group: Iterable[str]) -> set[str]:
        return {a for a, b in self.directed if b in set(group)}

    def without_into(self, group: Iterable[str]) -> Mixed:
        cut = set(group)
        directed = frozenset(e for e in self.directed if e[1] not in cut)
        return Mixed(self.nodes, directed, frozenset(p for p in self.pairs if not p & cut))

    def without_out_of(self, group: Iterable[str]) -> Mixed:
        cut = set(group)
        return Mixed(self.nodes, frozenset(e for e in self.directed if e[0] not in cut), self.pairs)

    def ancestors(self, group: Iterable[str]) -> set[str]:
        found = set(group)
        while more := self.parents(found) - found:
            found |= more
        return found

    def descendants(self, group: Iterable[str]) -> set[str]:
        found = set(group)
        while more := {b for a, b in self.directed if a in found} - found:
            found |= more
        return found


# ---------------------------------------------------------------------- separation


def paths(graph: Mixed, start: str, end: str) -> Iterator[list[tuple[str, str, str]]]:
    """All paths without repeated nodes, as steps (from, kind of edge, to) with kind in ->, <-, <->."""
    steps: dict[str, list[tuple[str, str, str]]] = {v: [] for v in graph.nodes}
    for a, b in sorted(graph.directed):
        steps[a].append((a, "->", b))
        steps[b].append((b, "<-", a))
    for pair in graph.pairs:
        a, b = sorted(pair)
        steps[a].append((a, "<->", b))
        steps[b].append((b, "<->", a))

    def extend(path: list[tuple[str, str, str]], visited: set[str]) -> Iterator[list[tuple[str, str, str]]]:
        last = path[-1][2] if path else start
        if last == end:
            yield list(path)
            return
        for step in steps[last]:
            if step[2] not in visited:
                yield from extend([*path, step], visited | {step[2]})

    yield from extend([], {start})


def is_open(graph: Mixed, path: Sequence[tuple[str, str, str]], given: set[str]) -> bool:
    """Whether conditioning leaves a path open: colliders have a descendant in it, other nodes are not in it."""
    above = graph.ancestors(given)
    for left, right in itertools.pairwise(path):
        collider = left[1] in {"->", "<->"} and right[1] in {"<-", "<->"}
        if collider != (left[2] in given) and not (collider and left[2] in above):
            return False
    return True


def separated(graph: Mixed, x: Iterable[str], y: Iterable[str], given: Iterable[str]) -> bool:
    """m-separation by enumeration of paths."""
    z = set(given)
    return not any(is_open(graph, path, z) for a in x for b in y for path in paths(graph, a, b))


def rule1(g: Mixed, y: set[str], z: set[str], x: set[str], w: set[str]) -> bool:
    return separated(g.without_into(x), y, z, x | w)


def rule2(g: Mixed, y: set[str], z: set[str], x: set[str], w: set[str]) -> bool:
    return separated(g.without_into(x).without_out_of(z), y, z, x | w)


def rule3(g: Mixed, y: set[str], z: set[str], x: set[str], w: set[str]) -> bool:
    cut = g.without_into(x)
    free = {v for v in z if v not in cut.ancestors(w)}
    return separated(cut.without_into(free), y, z, x | w)


# ---------------------------------------------------------------------- components and projections


def c_components(graph: Mixed) -> set[frozenset[str]]:
    """Merging of overlapping sets until none overlap."""
    parts = [frozenset({v}) for v in graph.nodes]
    for pair in graph.pairs:
        touched = [part for part in parts if part & pair]
        parts = [part for part in parts if not part & pair] + [frozenset().union(*touched)]
    return set(parts)


def project(graph: Mixed, observed: Iterable[str]) -> Mixed:
    """Latent projection by its definition, path by path (Verma & Pearl 1990)."""
    kept = tuple(v for v in graph.nodes if v in set(observed))
    directed, pairs = set(), set()
    for a, b in itertools.permutations(kept, 2):
        for path in paths(graph, a, b):
            inner = [step[2] for step in path[:-1]]
            if set(inner) & set(kept):
                continue
            kinds = [step[1] for step in path]
            if all(kind == "->" for kind in kinds):
                directed.add((a, b))
            # arrowheads at both ends and no collider between: <- ... <-, at most one <->, -> ... ->
            turns = [k for k in range(len(kinds)) if kinds[k] == "<->"]
            ups = len([kind for kind in kinds if kind == "<-"])
            shape = ["<-"] * ups + ["<->"] * len(turns) + ["->"] * (len(kinds) - ups - len(turns))
            into_both = kinds[0] in {"<-", "<->"} and kinds[-1] in {"->", "<->"}
            if kinds == shape and len(turns) <= 1 and into_both:
                pairs.add(frozenset({a, b}))
    return Mixed(kept, frozenset(directed), frozenset(pairs))


# ---------------------------------------------------------------------- modularity sets and plans


def subsets(items: Iterable[str]) -> Iterator[set[str]]:
    ordered = sorted(items)
    for size in range(len(ordered) + 1):
        yield from map(set, itertools.combinations(ordered, size))


def satisfies_rule2(graph: Mixed, inside: set[str], do: set[str]) -> bool:
    """P(S | do(Pa(S)), do(I)) = P(S | Pa(S), do(I)) by rule 2."""
    outside = graph.parents(inside) - inside - do
    return rule2(graph, inside, outside, do, set())


def modularity_sets(graph: Mixed, group: set[str], do: set[str]) -> list[set[str]]:
    """Every A outside H and I with which H ∖ I satisfies rule 2, smallest first."""
    trained = group - do
    cut = graph.without_into(do)
    candidates = cut.ancestors(trained) - group - do
    return [extra for extra in subsets(candidates) if satisfies_rule2(graph, trained | extra, do)]


def closure(graph: Mixed, group: set[str], do: set[str]) -> set[str]:
    """The least fixpoint that is the smallest modularity set, as written in the theorem."""
    cut = graph.without_into(do)
    inside = set(group) - do
    while True:
        siblings = {v for pair in cut.pairs if pair & inside for v in pair}
        below = cut.descendants(inside | siblings)
        forced = (cut.parents(inside) & below) - inside - do
        if not forced:
            return inside - group
        inside |= forced


def plan_adversarial(
    graph: Mixed, modularity: Callable[[Mixed, set[str], set[str]], set[str]] = closure
) -> tuple[set[frozenset[str]], set[tuple[frozenset[str], frozenset[str]]]]:
    """H-nodes and edges: merge what needs each other until nothing does."""
    parts = c_components(graph)
    while True:
        needs = {part: modularity(graph, set(part), set()) for part in parts}
        after = {part: {other for other in parts if other != part and other & needs[part]} for part in parts}
        edges = {(other, part) for part in parts for other in after[part]}
        reach = {part: set(after[part]) for part in parts}
        changed = True
        while changed:
            changed = False
            for part in parts:
                more = set().union(*(reach[other] for other in reach[part])) - reach[part] if reach[part] else set()
                if more:
                    reach[part] |= more
                    changed = True
        merged = {
            frozenset().union(part, *(other for other in parts if other in reach[part] and part in reach[other]))
            for part in parts
        }
        if merged == parts:
            return parts, edges
        parts = merged


# ---------------------------------------------------------------------- data sets


def parts_within(graph: Mixed, group: Iterable[str]) -> set[frozenset[str]]:
    """C-components of the graph over some nodes alone."""
    inside = set(group)
    return c_components(Mixed(tuple(sorted(inside)), frozenset(), frozenset(p for p in graph.pairs if p <= inside)))


def identifiable(graph: Mixed, factor: frozenset[str], source: frozenset[str]) -> bool:
    """Whether Q[factor] is a function of Q[source], by Tian's recursion; the factor is one c-component by itself."""
    part = next(part for part in parts_within(graph, source) if factor <= part)
    within = Mixed(tuple(part), frozenset(e for e in graph.directed if set(e) <= part), frozenset())
    above = frozenset(within.ancestors(factor))
    if above == factor:
        return True
    return above != part and identifiable(graph, factor, above)


@dataclass(frozen=True)
class Data:
    """A data set: what it sets, to which combinations of values, and what it observes."""

    targets: tuple[str, ...]
    values: frozenset[tuple[int, ...]]
    columns: frozenset[str]

    def known(self) -> set[str]:
        return self.columns | set(self.targets)

    def sets_all(self, group: set[str], levels: int) -> bool:
        places = [k for k, name in enumerate(self.targets) if name in group]
        return len({tuple(value[k] for k in places) for value in self.values}) == levels ** len(places)

    def pooled(self, others: Iterable[Data]) -> Data:
        """All values of the data sets with the same targets and columns."""
        alike = [d for d in others if (d.targets, d.known()) == (self.targets, self.known())]
        return Data(self.targets, frozenset().union(*(d.values for d in alike)), self.columns)


def determined(graph: Mixed, extra: set[str], data: Data, shown: Iterable[tuple[frozenset[str], Data, bool]]) -> bool:
    """Whether every c-component of A under do() is a function of what is trained: the c-factors of all c-components,
    and those that data sets show, each at the values that its data set sets or, where it says so, at all."""
    cut = graph.without_into(data.targets)
    components = c_components(graph)
    for factor in parts_within(cut, extra):
        whole = next(part for part in components if factor <= part)
        sources = [whole] + [s for s, by, everywhere in shown if everywhere or by == data]
        if not any(factor <= source and identifiable(graph, factor, source) for source in sources):
            return False
    return True


def brute_force_servers(
    graph: Mixed, group: set[str], datasets: Sequence[Data], levels: int
) -> list[tuple[Data, set[str]]]:
    """Every data set and every A with which it can teach the observational c-factor of a group."""
    datasets = list(dict.fromkeys(data.pooled(datasets) for data in datasets))
    shown: list[tuple[frozenset[str], Data, bool]] = []

    @functools.cache
    def candidates(target: frozenset[str], data: Data) -> list[tuple[set[str], bool]]:
        found = []
        outside = set(graph.nodes) - target - set(data.targets)
        for extra in subsets(outside):
            inside = target | extra
            parents = graph.parents(inside) - inside
            if not inside | parents <= data.known() or not inside <= data.columns:
                continue
            if satisfies_rule2(graph.without_into(data.targets), set(inside), set(data.targets)):
                found.append((extra, data.sets_all(parents & set(data.targets), levels)))
        return found

    def ways(target: set[str], data: Data) -> list[tuple[set[str], bool]]:
        return [way for way in candidates(frozenset(target), data) if determined(graph, way[0], data, shown)]

    grown = True
    while grown:
        grown = False
        for part in c_components(graph):
            for data in datasets:
                kept = part - set(data.targets)
                if not kept or kept == part:
                    continue
                for factor in [kept, *parts_within(graph.without_into(data.targets), kept)]:
                    for _, everywhere in ways(set(factor), data):
                        if (frozenset(factor), data, everywhere) not in shown:
                            shown.append((frozenset(factor), data, everywhere))
                            grown = True
    return [
        (data, extra)
        for data in datasets
        if not group & set(data.targets)
        for extra, everywhere in ways(group, data)
        if everywhere
    ]


# ---------------------------------------------------------------------- exact distributions by enumeration


@dataclass(frozen=True)
class Enumeration:
    """A random positive discrete causal model, every distribution by brute force over all values.

    Observed variable k is axis k of every table. ``factors[k]`` is P(v_k | parents, confounders) over the observed
    axes followed by one axis per confounder.
    """

    names: tuple[str, ...]
    levels: int
    factors: tuple[np.ndarray, ...]
    prior: np.ndarray

    @classmethod
    def random(
        cls,
        nodes: Sequence[str],
        directed: Iterable[tuple[str, str]],
        confounders: Sequence[Sequence[str]],
        levels: int,
        states: int,
        seed: int,
    ) -> Enumeration:
        rng = np.random.default_rng(seed)
        n, m = len(nodes), len(confounders)
        edges = set(directed)
        factors = []
        for k, name in enumerate(nodes):
            shape = [levels if j == k or (other, name) in edges else 1 for j, other in enumerate(nodes)]
            shape += [states if name in children else 1 for children in confounders]
            # bounded away from 0 and 1, but far from uniform, so that violations show
            weights = rng.exponential(size=shape) + 0.05
            factors.append(weights / weights.sum(axis=k, keepdims=True))
        prior = np.ones([1] * (n + m))
        for j in range(m):
            weights = rng.exponential(size=states) + 0.2
            prior = prior * (weights / weights.sum()).reshape([states if i == n + j else 1 for i in range(n + m)])
        return cls(tuple(nodes), levels, tuple(factors), prior)

    def factor(self, group: Iterable[str]) -> np.ndarray:
        """Q[C], the c-factor P(C | do(everything else)), as a table over all observed variables."""
        chosen = set(group)
        joint = self.prior
        for k, name in enumerate(self.names):
            if name in chosen:
                joint = joint * self.factors[k]
        n = len(self.names)
        joint = np.broadcast_to(joint, [self.levels] * n + list(joint.shape[n:]))
        return joint.sum(axis=tuple(range(n, joint.ndim)))

    def conditional(self, group: set[str], given: set[str], do: set[str]) -> np.ndarray:
        """P(group | given, do) as a table over all observed variables, constant in the others."""
        joint = self.factor(set(self.names) - do)
        rest = set(self.names) - group - given - do
        top = self._sum(joint, rest)
        return top / self._sum(top, group)

    def _sum(self, table: np.ndarray, group: set[str]) -> np.ndarray:
        axes = tuple(k for k, name in enumerate(self.names) if name in group)
        return table.sum(axis=axes, keepdims=True) if axes else table


def total_probability(model, outcomes, do, given) -> float:
    """P(outcomes | do, given) in a discrete model: the sum over every value of all variables and states."""
    import torch

    dcm, nodes = model.dcm, list(model.graph.nodes)
    sizes = [model.schema[node].num_levels for node in nodes] + [dcm.states[name] for name in dcm.confounders]
    grid = torch.cartesian_prod(*map(torch.arange, sizes)).reshape(-1, len(sizes))
    values = dict(zip(nodes, grid.T, strict=False))
    states = grid.T[len(nodes) :]
    weight = torch.ones(len(grid), dtype=torch.float64)
    with torch.no_grad():
        for state, prior in zip(states, dcm.priors, strict=True):
            weight = weight * prior.double().softmax(0)[state]
        for node in nodes:
            if node in do:
                weight = weight * (values[node] == do[node])
                continue
            parents = {parent: values[parent] for parent in dcm.parents(node)}
            latents = [states[index] for index in dcm.latents[node]]
            logits = dcm.mechanism(node).logits(parents, latents, len(grid)).double()
            weight = weight * logits.softmax(1).gather(1, values[node][:, None])[:, 0]
    seen, hit = (sum(values[n] == v for n, v in some.items()) == len(some) for some in (given, {**given, **outcomes}))
    return float((weight * hit).sum() / (weight * seen).sum())


def grow_strata(draw_bins, row_bins, share, counts, sizes, ordered, most, expected, least):
    """Strata of two samples as ``_core.grow_strata`` finds them: every split in two of every leaf is tried.

    Of levels all splits in two are tried, not those in the order of a ratio. Returns splits and leaves likewise.
    """
    total = counts.sum()

    def part(q, n):
        return q * np.log(q * (total + 1) / (n + 0.5)) if q > 0 else 0.0

    def best(draws, rows):
        q_all, n_all = share[draws].sum(), counts[rows].sum()
        found = (0.0, -1, None)
        if q_all <= 0 or n_all < 2 * expected:
            return found
        for column, size in enumerate(sizes):
            if ordered[column]:
                sides = [np.arange(size) < k for k in range(1, size)]
            else:
                sides = [np.array(side) for side in itertools.product([False, True], repeat=int(size))]
            for left in sides:
                q = share[draws][left[draw_bins[draws, column]]].sum()
                n = counts[rows][left[row_bins[rows, column]]].sum()
                ratio = n_all / q_all
                if max(q * ratio, n) < expected or max((q_all - q) * ratio, n_all - n) < expected:
                    continue
                gain = part(q, n) + part(q_all - q, n_all - n) - part(q_all, n_all) + least
                if gain > found[0]:
                    found = (gain, column, left)
        return found

    leaves = [(np.arange(len(share)), np.arange(len(counts)))]
    gains = []
    while len(leaves) < most:
        tried = [best(*leaf) for leaf in leaves]
        k = max(range(len(leaves)), key=lambda k: tried[k][0])
        gain, column, left = tried[k]
        if column < 0:
            break
        gains.append(gain)
        draws, rows = leaves[k]
        inside = left[draw_bins[draws, column]], left[row_bins[rows, column]]
        leaves[k] = draws[inside[0]], rows[inside[1]]
        leaves.append((draws[~inside[0]], rows[~inside[1]]))
    return gains, leaves
