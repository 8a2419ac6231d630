"""How long a query of a discrete model takes, summed up exactly and drawn, in turns in one run.

    python bench/queries.py                       # alarm, child, insurance, hailfinder, water, win95pts
    python bench/queries.py alarm --queries 20    # one of them
    python bench/queries.py --rows 1000 10000     # as after a fit, with so many rows at hand

The graphs are those of the bnlearn networks that pgmpy ships, with 1 to 4 nodes with children hidden, the variables
have as many levels as there, and the mechanisms are of random weights: what a query costs does not depend on what was
learned. Queries are P(Y | do(X)), P(Y | do(X), Z) and P(Y | Z) of random variables. Times are CPU milliseconds of
Model.query. With --rows 0 the model has no training data and a query only sums or draws; both ways must agree
within 4.5 standard errors. With data, rows that are drawn from the model, queries are those that are determined, and
the answer must be the one without data bit for bit; what the rest takes is told. Bar: 50 ms for what can be summed up,
in the median with data. Writes bench/results/queries.json unless --dry; the exit code is 1 if a check or the bar is
missed.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import re
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from exact_models import random_model  # noqa: E402
from run import conditions  # noqa: E402

import mdcm  # noqa: E402
from mdcm.sampling import exact  # noqa: E402

NETWORKS = ("alarm", "child", "insurance", "hailfinder", "water", "win95pts")
BAR = 50.0
ERRORS = 4.5
MOST_TRIED = 300
LARGEST = exact._LARGEST
_VARIABLE = re.compile(r"variable\s+(\S+)\s*\{\s*type\s+discrete\s*\[\s*(\d+)\s*\]")


def network(name: str) -> tuple[mdcm.ADMG, dict[str, int]]:
    """Graph of a network, and the number of levels of each variable."""
    found = importlib.util.find_spec("pgmpy")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pgmpy, which ships the networks, is not installed")
    path = Path(found.submodule_search_locations[0]) / "utils" / "example_models" / f"{name}.bif.gz"
    levels = {node: int(size) for node, size in _VARIABLE.findall(gzip.decompress(path.read_bytes()).decode())}
    return mdcm.read_graph(path), levels


def timed(model: Any, text: str, largest: int, **options: bool) -> tuple[Any, float]:
    """An answer and the CPU milliseconds that it took."""
    exact._LARGEST = largest
    began = time.process_time()
    answer = model.query(text, allow_unidentifiable=True, seed=1, **options)
    return answer, 1000 * (time.process_time() - began)


def problem(name: str, hidden: int, seed: int) -> tuple[Any, np.random.Generator]:
    """A model of a network with some of its nodes hidden."""
    rng = np.random.default_rng([seed, hidden])
    graph, levels = network(name)
    inner = [node for node in graph.nodes if graph.descendants([node]) - {node}]
    gone = set(rng.choice(inner, hidden, replace=False).tolist())
    graph = graph.latent_projection([node for node in graph.nodes if node not in gone])
    model = random_model(graph, {node: levels[node] for node in graph.nodes}, 4, seed, spread=0.5)
    model.dcm.float()
    return model, rng


def asked(model: Any, rng: np.random.Generator, number: int) -> str:
    """A random query of one of three forms."""
    while True:
        y, x, z = rng.choice(model.graph.nodes, 3, replace=False)
        if x in model.graph.ancestors([y]):
            return [f"P('{y}' | do('{x}'))", f"P('{y}' | do('{x}'), '{z}')", f"P('{y}' | '{z}')"][number % 3]


def measure(name: str, hidden: int, queries: int, seed: int) -> list[tuple[str, float, float, bool]]:
    """For each query, its text, milliseconds summed up and drawn, and whether both agree."""
    model, rng = problem(name, hidden, seed)
    rows = []
    while len(rows) < queries:
        text = asked(model, rng, len(rows))
        summed, quick = timed(model, text, LARGEST)
        if not summed.exact:
            rows.append((text, float("nan"), float("nan"), True))
            continue
        drawn, slow = timed(model, text, 0)
        gap = np.abs(summed.table["probability"] - drawn.table["probability"])
        rows.append((text, quick, slow, bool((gap <= ERRORS * drawn.table["stderr"]).all())))
    return rows


def with_data(name: str, hidden: int, queries: int, size: int, seed: int) -> list[tuple[str, float, float, bool]]:
    """For each query, its text, milliseconds with and without the data, and whether the answers are the same."""
    model, rng = problem(name, hidden, seed)
    table = model.draw_unjudged(size, seed=seed).table
    data = (mdcm.Dataset(table, name="d1"),)
    rows: list[tuple[str, float, float, bool]] = []
    for _ in range(MOST_TRIED):
        if len(rows) == queries:
            break
        text = asked(model, rng, len(rows))
        if not model.identify(text).identifiable:
            continue
        model.data = ()
        plain, quick = timed(model, text, LARGEST)
        if not plain.exact:
            continue
        model.data = data
        answer, slow = timed(model, text, LARGEST, allow_low_support=True)
        rows.append((text, slow, quick, answer.table["probability"].equals(plain.table["probability"])))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--queries", type=int, default=6, help="of every number of hidden nodes")
    parser.add_argument("--hidden", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--rows", type=int, nargs="*", default=[0, 1_000], help="training rows at hand; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="write nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    good = True
    table = []
    print("network       rows hidden summed  of  ms p50  ms max  other p50  ratio   (other: drawn, or without data)")
    for name in given.networks:
        for size in given.rows:
            for hidden in given.hidden:
                rows = (
                    with_data(name, hidden, given.queries, size, given.seed)
                    if size
                    else measure(name, hidden, given.queries, given.seed)
                )
                summed = [row for row in rows if row[1] == row[1]]
                line: dict[str, Any] = {"network": name, "rows": size, "hidden": hidden}
                line |= {"summed": len(summed), "of": len(rows)}
                if summed:
                    quick, slow = [row[1] for row in summed], [row[2] for row in summed]
                    line |= {
                        "ms": round(statistics.median(quick), 1), "ms_max": round(max(quick), 1),
                        "other_ms": round(statistics.median(slow), 1),
                        "ratio": round(statistics.median(a / b for a, b in zip(slow, quick, strict=True)), 2),
                        "agree": all(row[3] for row in rows),
                    }  # fmt: skip
                    good &= line["agree"] and (line["ms"] if size else line["ms_max"]) <= BAR
                table.append(line)
                shown = [line.get(key, float("nan")) for key in ("ms", "ms_max", "other_ms", "ratio")]
                print(
                    f"{name:<12} {size:>5} {hidden:>6} {len(summed):>6} {len(rows):>3} "
                    f"{shown[0]:>7.1f} {shown[1]:>7.1f} {shown[2]:>10.1f} {shown[3]:>6.2f}",
                    flush=True,
                )
                for text, _, _, agrees in rows:
                    if not agrees:
                        print(f"  {text}: the two answers differ")
    if not given.dry:
        content = {"command": f"python bench/queries.py --queries {given.queries}", "seed": given.seed, "bar_ms": BAR}
        content |= {"conditions": conditions(), "table": table}
        (HERE / "results" / "queries.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
