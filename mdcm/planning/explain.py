"""Explanations of a plan in words: backdoor paths, and c-components that depend on each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from mdcm import _core
from mdcm.data.levels import as_word
from mdcm.graph import ADMG

__all__ = ["braced", "closure_of", "membership", "path_text", "witness_lines"]


def closure_of(
    graph: ADMG, variables: Iterable[str], do: Iterable[str]
) -> tuple[_core.ModularityClosure, NDArray[np.int32]]:
    """Smallest modularity set of variables under do(): the closure with its witnesses, and the added members."""
    closure = _core.ModularityClosure(graph.compiled)
    return closure, closure.run([graph.index(v) for v in variables], [graph.index(v) for v in do])


def path_text(graph: ADMG, path: NDArray[np.int32], ends_bidirected: bool) -> str:
    """Text of a backdoor path, from the child through which it enters back to its start."""
    names = [graph.nodes[v] for v in path.tolist()]
    if ends_bidirected:
        return f"{' ← '.join(names[:-1])} ↔ {names[-1]}"
    return " ← ".join(names)


def witness_lines(graph: ADMG, closure: _core.ModularityClosure, given: set[str], name: str) -> list[str]:
    """Text of the backdoor path that forces a variable into the set, then of those that force its ends."""
    lines: list[str] = []
    pending, seen = [graph._index[name]], set()
    while pending:
        q = pending.pop()
        if q in seen:
            continue
        seen.add(q)
        path, ends_bidirected = closure.witness(q)
        lines.append(f"  {path_text(graph, path, ends_bidirected)}")
        pending += [v for v in (int(path[-1]), int(path[0])) if graph.nodes[v] not in given]
    return lines


def membership(graph: ADMG, variables: Sequence[str], variable: str, method: str) -> str:
    """Explain why a variable is trained together with the others of its h-node."""
    if len(variables) == 1:
        return f"{variable} is alone in its h-node: it shares no confounder and is in no cycle of needs."
    if method == "joint":
        return f"{variable} is trained together with all other variables: the plan is joint."
    inside = set(variables)
    parts = [part for part in graph.c_components() if part <= inside]
    component = next(part for part in parts if variable in part)
    lines = []
    if len(component) > 1:
        shared = sorted(graph.siblings(variable))
        lines.append(
            f"{variable} is in the c-component {braced(sorted(component))}, which is trained together: "
            f"it shares a hidden confounder with {', '.join(shared)}."
        )
    if len(parts) == 1:
        return "\n".join(lines)
    lines.append(f"{braced(variables)} holds {len(parts)} c-components, which need each other trained first:")
    merges, unmerged = _merge_lines(graph, parts)
    if len(unmerged) > 1:
        reason = "joined by the printed edge condition:" if method == "paper" else "merged by hand:"
        merges.append(f"  {reason} {' and '.join(braced(sorted(part)) for part in unmerged)}")
    return "\n".join(lines + merges)


def _merge_lines(graph: ADMG, parts: list[set[str]]) -> tuple[list[str], list[set[str]]]:
    """Replay the contractions inside an h-node: a line with a witness per dependence, and the parts left unmerged."""
    lines: list[str] = []
    while len(parts) > 1:
        part_of = {name: k for k, part in enumerate(parts) for name in part}
        needs: list[set[int]] = []
        for k, part in enumerate(parts):
            closure, added = closure_of(graph, sorted(part), ())
            witnesses: dict[int, str] = {}
            for q in added.tolist():
                other = part_of.get(graph.nodes[q], k)
                if other != k and other not in witnesses:
                    witnesses[other] = path_text(graph, *closure.witness(q))
            lines += [f"  {braced(sorted(part))} needs {braced(sorted(parts[o]))}: {p}" for o, p in witnesses.items()]
            needs.append(set(witnesses))
        merged = _contracted(parts, needs)
        if len(merged) == len(parts):
            break
        parts = merged
    return lines, parts


def _contracted(parts: list[set[str]], needs: list[set[int]]) -> list[set[str]]:
    """Unite parts that reach each other."""
    reach = [set(direct) for direct in needs]
    for k in range(len(parts)):
        for i in range(len(parts)):
            if k in reach[i]:
                reach[i] |= reach[k]
    groups = {frozenset({i, *(j for j in reach[i] if i in reach[j])}) for i in range(len(parts))}
    return [set().union(*(parts[i] for i in group)) for group in sorted(groups, key=min)]


def braced(names: Iterable[str]) -> str:
    """Format names as a set in braces; names of several words are quoted."""
    return f"{{{', '.join(map(as_word, names))}}}"
