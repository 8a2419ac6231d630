"""Random questions to random graphs and data: estimands against exact answers, refusals against pairs of models.

    python tests/identification_sweep.py --count 20000 --seed 0

prints how many were identifiable and how far their estimands were from the truth, how many were refused, and for how
many of these two models that agree on all data and disagree on the answer were found.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import sys
import time
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
from counterexamples import Available, two_models

from mdcm import query as language
from mdcm.errors import QueryError
from mdcm.graph import ADMG
from mdcm.identification import Identification, identify
from mdcm.planning import DatasetSpec
from mdcm.scm import DiscreteSCM, random_discrete

KINDS = ("effect", "conditional", "experiments", "partial", "counterfactual")
TOLERANCE = 1e-10
# pairs of models are looked for in graphs up to this size
LARGEST_REFUTED = 5


@dataclass(frozen=True)
class Case:
    """A question, and the data for it."""

    kind: str
    graph: ADMG
    query: str
    specs: tuple[DatasetSpec, ...]
    levels: int

    def identify(self) -> Identification:
        return identify(self.graph, self.query, datasets=self.specs, levels=self.domains())

    def domains(self) -> dict[str, list[int]]:
        return {name: list(range(self.levels)) for name in self.graph.nodes}

    def available(self) -> list[Available]:
        return [Available(dict(spec.do), spec.columns) for spec in self.specs]

    def __str__(self) -> str:
        data = "; ".join(f"{spec.name}: do={spec.do}, columns={spec.columns}" for spec in self.specs)
        return f"[{self.kind}, {self.levels} levels] {self.graph} | {self.query} | {data}"


@dataclass
class Counts:
    """What a sweep found."""

    asked: collections.Counter = field(default_factory=collections.Counter)
    identifiable: collections.Counter = field(default_factory=collections.Counter)
    refused: collections.Counter = field(default_factory=collections.Counter)
    undecided: collections.Counter = field(default_factory=collections.Counter)
    refuted: collections.Counter = field(default_factory=collections.Counter)
    tried: collections.Counter = field(default_factory=collections.Counter)
    worst: float = 0.0
    wrong: list[str] = field(default_factory=list)
    unresolved: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = []
        for kind in KINDS:
            lines.append(
                f"{kind:>15}: {self.asked[kind]:6} asked, {self.identifiable[kind]:6} identifiable, "
                f"{self.refused[kind]:6} not, {self.undecided[kind]:5} undecided; two models for "
                f"{self.refuted[kind]} of {self.tried[kind]}"
            )
        lines.append(f"largest error of an estimand: {self.worst:.1e}; wrong: {len(self.wrong)}")
        lines += [f"  WRONG {case}" for case in self.wrong]
        lines.append(f"refusals without two models: {len(self.unresolved)}")
        lines += [f"  UNRESOLVED {case}" for case in self.unresolved]
        return "\n".join(lines)


def random_graph(rng: np.random.Generator, largest: int) -> ADMG:
    n = int(rng.integers(2, largest + 1))
    names = [f"V{k}" for k in range(n)]
    order = rng.permutation(names).tolist()
    arcs, pairs = rng.uniform(0.25, 0.7), rng.uniform(0.1, 0.5)
    directed = [pair for pair in itertools.combinations(order, 2) if rng.random() < arcs]
    bidirected = [pair for pair in itertools.combinations(order, 2) if rng.random() < pairs]
    latents = {}
    if n > 3 and rng.random() < 0.2:
        latents["L"] = rng.choice(names, size=3, replace=False).tolist()
    return ADMG(names, directed, bidirected, latents)


def random_case(rng: np.random.Generator, kind: str, largest: int = 7) -> Case:
    graph = random_graph(rng, largest)
    # three levels tell apart what two cannot, and cost more
    levels = 3 if len(graph) <= 4 and rng.random() < 0.3 else 2
    if kind == "counterfactual":
        query = counterfactual(rng, graph, levels)
    else:
        query = effect(rng, graph, levels, conditions=int(rng.integers(0, 3)) if kind != "effect" else 0)
    specs = [DatasetSpec("d0")]
    if kind in {"experiments", "partial"} or (kind == "counterfactual" and rng.random() < 0.5):
        specs = [] if kind == "partial" else specs
        for k in range(int(rng.integers(1, 4))):
            specs.append(random_spec(rng, graph, levels, f"d{k + 1}", kind == "partial"))
    return Case(kind, graph, query, tuple(specs), levels)


def random_spec(rng: np.random.Generator, graph: ADMG, levels: int, name: str, partial: bool) -> DatasetSpec:
    targets = rng.choice(graph.nodes, size=int(rng.integers(0, min(3, len(graph)))), replace=False).tolist()
    do = {}
    for target in targets:
        some = rng.permutation(levels)[: int(rng.integers(1, levels + 1))]
        do[target] = None if rng.random() < 0.4 else sorted(some.tolist())
    columns = None
    if partial:
        seen = [v for v in graph.nodes if v not in do and rng.random() < 0.75]
        columns = seen or [next(v for v in graph.nodes if v not in do)]
    return DatasetSpec(name, columns, do)


def effect(rng: np.random.Generator, graph: ADMG, levels: int, conditions: int) -> str:
    names = rng.permutation(graph.nodes).tolist()
    y = names[: 1 + int(len(names) > 2 and rng.random() < 0.3)]
    rest = names[len(y) :]
    x = rest[: int(rng.integers(1, min(3, len(rest) + 1)))]
    z = rest[len(x) : len(x) + conditions]

    def event(name: str) -> str:
        return name if rng.random() < 0.6 else f"{name}={rng.integers(levels)}"

    given = "".join(f", {event(name)}" for name in z)
    return f"P({', '.join(map(event, y))} | do({', '.join(map(event, x))}){given})"


def counterfactual(rng: np.random.Generator, graph: ADMG, levels: int) -> str:
    """Events in up to three worlds, some of them given, some of their settings nested."""
    names = list(graph.nodes)

    def value() -> str:
        return str(rng.integers(levels))

    def world(owner: str, depth: int = 0) -> str:
        others = [name for name in names if name != owner]
        size = int(rng.integers(0 if depth == 0 else 1, min(2, len(others)) + 1))
        settings = []
        for name in rng.permutation(others)[:size]:
            inner = world(name, depth + 1) if depth == 0 and rng.random() < 0.25 else ""
            settings.append(f"{name}{inner}" if inner else f"{name}={value()}")
        return f"[{', '.join(settings)}]" if settings else ""

    events = []
    for _ in range(int(rng.integers(1, 4))):
        name = str(rng.choice(names))
        events.append(f"{name}{world(name)}={value()}")
    asked = int(rng.integers(1, len(events) + 1))
    given = ", ".join(events[asked:])
    return f"P({', '.join(events[:asked])}{f' | {given}' if given else ''})"


def exact_data(case: Case, scm: DiscreteSCM) -> list[SimpleNamespace]:
    """The exact distribution of every data set, at the values that it sets."""
    found = []
    for spec in case.specs:
        columns = [v for v in (spec.columns or case.graph.nodes) if v not in spec.do]
        choices = [range(case.levels) if values is None else values for values in spec.do.values()]
        parts = []
        for setting in itertools.product(*choices):
            do = dict(zip(spec.do, setting, strict=True))
            part = scm.exact(columns, do=do)
            frame = part.index.to_frame(index=False)
            frame.columns = columns
            parts.append(frame.assign(**do, weight=part.to_numpy()))
        table = pd.concat(parts)
        series = table.set_index([*columns, *spec.do])["weight"]
        series.index.names = [*columns, *spec.do]
        if len(series.index.names) == 1:
            series.index = pd.MultiIndex.from_arrays([series.index], names=series.index.names)
        found.append(SimpleNamespace(name=spec.name, do=tuple(spec.do), table=series))
    return found


def error_of(case: Case, found: Identification, seed: int) -> float:
    """How far the estimand on exact data is from the exact answer."""
    scm = random_discrete(case.graph, levels=case.levels, seed=seed, latent_levels=3)
    truth = scm.answer(case.query)
    ours = found.estimand.evaluate(exact_data(case, scm))
    exact = np.atleast_1d(np.asarray(truth, dtype=np.float64))
    return float(np.abs(ours.to_numpy() - exact).max())


def sweep(count: int, seed: int, *, kinds: tuple[str, ...] = KINDS, starts: int = 20) -> Counts:
    """Asks ``count`` questions of every kind in turn."""
    counts = Counts()
    for trial in range(count):
        rng = np.random.default_rng([seed, trial])
        kind = kinds[trial % len(kinds)]
        case = random_case(rng, kind, largest=LARGEST_REFUTED if trial % 3 == 0 else 7)
        try:
            language.parse(case.query)
            found = case.identify()
        except QueryError:
            continue
        counts.asked[kind] += 1
        if found.identifiable:
            counts.identifiable[kind] += 1
            try:
                error = error_of(case, found, trial)
            except QueryError:
                # the condition contradicts itself only by the values of what is set
                continue
            counts.worst = max(counts.worst, error)
            if error > TOLERANCE:
                counts.wrong.append(f"{error:.1e} {case}")
            continue
        counts.refused[kind] += found.identifiable is False
        counts.undecided[kind] += found.identifiable is None
        if found.identifiable is False and len(case.graph) <= LARGEST_REFUTED:
            counts.tried[kind] += 1
            if refuted(case, starts, trial):
                counts.refuted[kind] += 1
            else:
                counts.unresolved.append(str(case))
    return counts


def refuted(case: Case, starts: int, seed: int) -> bool:
    # few levels are searched fastest; what two leave determined by subtraction, a third one does not
    for fewest in (2, 3):
        small, levels = relabelled(case, fewest)
        if two_models(small.graph, small.query, small.available(), levels=levels, starts=starts, seed=seed):
            return True
    return bool(two_models(case.graph, case.query, case.available(), levels=3, starts=starts, seed=seed))


def relabelled(case: Case, fewest: int) -> tuple[Case, dict[str, int]]:
    """The case with as few levels as its values need: a decision does not depend on what values are called."""
    expression = language.parse(case.query)
    values: dict[str, set[int]] = {name: set() for name in case.graph.nodes}
    for query in expression.queries:
        for term in query.walk():
            if term.value is not None:
                values[term.variable].add(int(term.value))
    for spec in case.specs:
        for name, some in spec.do.items():
            if some is not None and len(some) < case.levels:
                values[name].update(some)
    code = {name: {value: k for k, value in enumerate(sorted(some))} for name, some in values.items()}
    levels = {name: max(fewest, len(some)) for name, some in values.items()}

    def renamed(term: language.Term) -> language.Term:
        value = None if term.value is None else code[term.variable][int(term.value)]
        return replace(term, value=value, world=tuple(map(renamed, term.world)))

    query = expression.query
    parts = {key: tuple(map(renamed, getattr(query, key))) for key in ("outcomes", "do", "given")}
    specs = []
    for spec in case.specs:
        do = {
            name: None if some is None or len(some) >= case.levels else [code[name][value] for value in some]
            for name, some in spec.do.items()
        }
        specs.append(DatasetSpec(spec.name, spec.columns, do))
    return replace(case, query=str(replace(query, **parts)), specs=tuple(specs)), levels


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--starts", type=int, default=50)
    parser.add_argument("--kind", action="append", choices=KINDS)
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    counts = sweep(given.count, given.seed, kinds=tuple(given.kind or KINDS), starts=given.starts)
    print(f"{given.count} questions, seed {given.seed}, {time.perf_counter() - began:.0f} s\n{counts}")
    tried = sum(counts.tried.values())
    return int(bool(counts.wrong) or len(counts.unresolved) > 0.01 * max(tried, 1))


if __name__ == "__main__":
    sys.exit(main())
