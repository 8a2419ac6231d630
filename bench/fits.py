"""How near fitted tables come to the truth: c-factors against frequencies and against exact maximum likelihood.

Usage, from anywhere, with mdcm and its test requirements installed:

    python bench/fits.py                                        # 200 components at 2,000, 20,000 and 500,000 rows
    python bench/fits.py --components 30 --rows 2000 --dry      # fewer, nothing written

A component is a c-component of a random exact model with its parents: chains whose copies err in 2 % of the rows,
chains and instruments of Dirichlet tables, front doors, cliques of one hidden cause, unconfounded tables, and
functions without noise of their own. The number of a component is the seed of all that is random in it. The distance
of a fitted c-factor Q[C](c | pa) is its total variation distance to the exact one, weighted by the true P(pa). Beside
the fit stand the frequencies of the rows and expectation-maximisation from several starts with the true numbers of
states. Bar: the mean distance is at most 1.05 times the smaller of these two's, at every number of rows. Writes
bench/results/fits.json; the exit code is 1 if the bar is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from learning import maximum_likelihood, read_out  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from run import conditions  # noqa: E402

import mdcm  # noqa: E402
from mdcm.data import Variable  # noqa: E402
from mdcm.scm import DiscreteSCM  # noqa: E402

ROWS = (2_000, 20_000, 500_000)
BAR = 1.05
STARTS = 8

Table = NDArray[np.float64]


def _rows(rng: np.random.Generator, shape: Sequence[int], levels: int, alpha: float) -> Table:
    return rng.dirichlet(np.full(levels, alpha), size=tuple(shape))


def _noisy(rng: np.random.Generator, shape: Sequence[int], levels: int, noise: float) -> Table:
    """A random function of all axes, which errs in a share of the rows."""
    value = rng.integers(levels, size=tuple(shape))
    return np.eye(levels)[value] * (1 - noise) + noise / levels


def _model(
    text: str, levels: int, states: int, table: Callable[[Sequence[int]], Table], rng: np.random.Generator
) -> DiscreteSCM:
    graph = mdcm.ADMG.from_string(text)
    hidden = {node: [name for name, children in graph.confounders if node in children] for node in graph.nodes}
    tables = {node: table([levels] * len(graph.parents(node)) + [states] * len(hidden[node])) for node in graph.nodes}
    return DiscreteSCM(graph, tables, {name: rng.dirichlet(np.full(states, 3.0)) for name, _ in graph.confounders})


KINDS = {
    "noisy chain": "A -> B -> C; A <-> B; B <-> C",
    "Dirichlet chain": "A -> B -> C; A <-> B; B <-> C",
    "instrument": "Z -> X -> Y; X <-> Y",
    "front door": "X -> Z -> Y; X <-> Y",
    "one cause": "L [latent]; L -> A; L -> B; L -> C; A -> C",
    "table": "A; B; A -> Y; B -> Y",
    "function": "A; A -> X -> Y; X <-> Y",
    "deterministic table": "A; B; A -> B; A -> Y; B -> Y",
}


def component(number: int) -> tuple[str, DiscreteSCM, int, int]:
    """Kind, truth, and the true numbers of states and levels of a component."""
    kinds = list(KINDS)
    kind = kinds[number % len(kinds)]
    rng = np.random.default_rng([number, 5])
    levels, states = int(rng.integers(2, 5)), int(rng.integers(2, 5))
    alpha = float(rng.choice([0.3, 1.0, 3.0]))

    def table(shape: Sequence[int]) -> Table:
        if kind == "noisy chain":
            return _noisy(rng, shape, levels, 0.02)
        if (kind == "function" and len(shape) > 0) or (kind == "deterministic table" and len(shape) > 1):
            return _noisy(rng, shape, levels, 0.0)
        return _rows(rng, shape, levels, alpha)

    return kind, _model(KINDS[kind], levels, states, table, rng), states, levels


def frequencies(graph: mdcm.ADMG, rows: pd.DataFrame, members: Sequence[str], levels: int) -> Table:
    """The c-factor by frequencies, axes as of :meth:`DiscreteSCM.c_factor`; uniform where no row tells.

    References:
        Tian & Pearl (2002), A general identification condition for causal effects, lemma 1.
    """
    outside = sorted(graph.parents(members) - set(members), key=graph.index)
    names = [*outside, *members]
    order = [node for node in graph.topological_order() if node in names]
    cells = np.indices([levels] * len(names)).reshape(len(names), -1)
    result = np.ones(cells.shape[1])
    seen: set[str] = set()
    for node in order:
        if node not in members:
            continue
        seen |= set(graph.parents([node]))
        given = [name for name in order if name in seen and name != node]
        counts = np.zeros([levels] * (len(given) + 1))
        np.add.at(counts, tuple(rows[name].to_numpy() for name in [*given, node]), 1.0)
        total = counts.sum(-1, keepdims=True)
        share = np.where(total > 0, counts / np.maximum(total, 1), 1 / levels)
        result *= share[tuple(cells[names.index(name)] for name in [*given, node])]
        seen.add(node)
    return result.reshape([levels] * len(names))


def distances(truth: DiscreteSCM, rows: pd.DataFrame, models: Sequence[DiscreteSCM | None], levels: int) -> Table:
    """Mean distance over the c-components of every model; None stands for the frequencies."""
    found = []
    for part in truth.graph.c_components():
        members = sorted(part, key=truth.graph.index)
        outside = sorted(truth.graph.parents(members) - part, key=truth.graph.index)
        weight = truth.exact(outside).to_numpy() if outside else np.ones(1)
        right = truth.c_factor(members).reshape(len(weight), -1)
        own = []
        for model in models:
            factor = frequencies(truth.graph, rows, members, levels) if model is None else model.c_factor(members)
            own.append(float(weight @ np.abs(factor.reshape(len(weight), -1) - right).sum(1) / 2))
        found.append(own)
    return np.mean(found, axis=0)


def best_of(truth: DiscreteSCM, rows: pd.DataFrame, states: int, levels: int, starts: int) -> DiscreteSCM:
    """Maximum likelihood with the true structure, the best of several starts."""
    found: DiscreteSCM | None = None
    best = -np.inf
    counts = rows.value_counts()
    cells = tuple(np.asarray(counts.index.get_level_values(name)) for name in truth.graph.nodes)
    for seed in range(starts if truth.graph.confounders else 1):
        model = maximum_likelihood(truth.graph, rows, states, levels=levels, seed=seed)
        joint = model.exact(list(truth.graph.nodes)).to_numpy().reshape([levels] * len(truth.graph.nodes))
        score = float(counts.to_numpy() @ np.log(np.maximum(joint[cells], 1e-300)))
        if score > best:
            found, best = model, score
    assert found is not None
    return found


def measure(number: int, rows: int, starts: int) -> dict[str, object]:
    kind, truth, states, levels = component(number)
    table = truth.sample(rows, seed=number)
    schema = {name: Variable(name, "categorical", tuple(range(levels))) for name in truth.graph.nodes}
    clock = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = mdcm.fit(truth.graph, table, variables=schema, seed=number, ensemble=0)
    spent = time.process_time() - clock
    exact = best_of(truth, table, states, levels, starts)
    fitted, plug_in, likelihood = distances(truth, table, [read_out(model.dcm), None, exact], levels)
    return {
        "number": number, "kind": kind, "rows": rows, "fit": round(fitted, 6), "frequencies": round(plug_in, 6),
        "maximum likelihood": round(likelihood, 6), "seconds": round(spent, 2),
    }  # fmt: skip


def summary(found: Sequence[dict[str, object]]) -> Iterator[dict[str, object]]:
    for rows, kind in itertools.product(ROWS, [*KINDS, "all"]):
        own = [one for one in found if one["rows"] == rows and kind in {one["kind"], "all"}]
        if not own:
            continue
        means = {key: float(np.mean([one[key] for one in own])) for key in ("fit", "frequencies", "maximum likelihood")}  # type: ignore[misc]
        bound = min(means["frequencies"], means["maximum likelihood"])
        yield {
            "rows": rows, "components": kind, "number": len(own),
            **{key: round(value, 6) for key, value in means.items()},
            "ratio": round(means["fit"] / bound, 4) if bound > 0 else float(means["fit"] > 1e-6),
            "CPU seconds": round(float(np.mean([one["seconds"] for one in own])), 2),  # type: ignore[misc]
        }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--components", type=int, default=200)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--rows", type=int, nargs="*", default=list(ROWS))
    parser.add_argument("--starts", type=int, default=STARTS, help="starts of expectation-maximisation")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    options = parser.parse_args()
    found = []
    for rows in options.rows:
        for number in range(options.start, options.start + options.components):
            found.append(measure(number, rows, options.starts))
            print(json.dumps(found[-1]), flush=True)
    rows_of = list(summary(found))
    print(pd.DataFrame(rows_of).to_string(index=False))
    if not options.dry:
        content = {"conditions": conditions(), "summary": rows_of, "components": found}
        (HERE / "results" / "fits.json").write_text(json.dumps(content, indent=1) + "\n")
    return int(any(one["ratio"] > BAR for one in rows_of if one["components"] == "all"))  # type: ignore[operator]


if __name__ == "__main__":
    sys.exit(main())
