"""How long a query of a discrete model takes, summed up exactly and drawn, in turns in one run.

    python bench/queries.py                       # alarm, child, insurance, hailfinder, water, win95pts
    python bench/queries.py alarm --queries 20    # one of them

The graphs are those of the bnlearn networks that pgmpy ships, with 1 to 4 nodes with children hidden, the variables
have as many levels as there, and the mechanisms are of random weights: what a query costs does not depend on what was
learned. Queries are P(Y | do(X)), P(Y | do(X), Z) and P(Y | Z) of random variables. Times are CPU milliseconds of
Model.query without training data, so without plug-in and support. Checks that both agree within 4.5 standard errors.
Bar: 50 ms for what can be summed up. The exit code is 1 if a check or the bar is missed.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
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

import mdcm  # noqa: E402
from mdcm.sampling import exact  # noqa: E402

NETWORKS = ("alarm", "child", "insurance", "hailfinder", "water", "win95pts")
BAR = 50.0
ERRORS = 4.5
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


def timed(model: Any, text: str, largest: int) -> tuple[Any, float]:
    """An answer and the CPU milliseconds that it took."""
    exact._LARGEST = largest
    began = time.process_time()
    answer = model.query(text, allow_unidentifiable=True, seed=1)
    return answer, 1000 * (time.process_time() - began)


def measure(name: str, hidden: int, queries: int, seed: int) -> list[tuple[str, float, float, bool]]:
    """For each query, its text, milliseconds summed up and drawn, and whether both agree."""
    rng = np.random.default_rng([seed, hidden])
    graph, levels = network(name)
    inner = [node for node in graph.nodes if graph.descendants([node]) - {node}]
    gone = set(rng.choice(inner, hidden, replace=False).tolist())
    graph = graph.latent_projection([node for node in graph.nodes if node not in gone])
    model = random_model(graph, {node: levels[node] for node in graph.nodes}, 4, seed, spread=0.5)
    model.dcm.float()
    rows = []
    while len(rows) < queries:
        y, x, z = rng.choice(graph.nodes, 3, replace=False)
        if x not in graph.ancestors([y]):
            continue
        text = [f"P('{y}' | do('{x}'))", f"P('{y}' | do('{x}'), '{z}')", f"P('{y}' | '{z}')"][len(rows) % 3]
        summed, quick = timed(model, text, LARGEST)
        if not summed.exact:
            rows.append((text, float("nan"), float("nan"), True))
            continue
        drawn, slow = timed(model, text, 0)
        gap = np.abs(summed.table["probability"] - drawn.table["probability"])
        rows.append((text, quick, slow, bool((gap <= ERRORS * drawn.table["stderr"]).all())))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--queries", type=int, default=6, help="of every number of hidden nodes")
    parser.add_argument("--hidden", type=int, nargs="*", default=[1, 4])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    good = True
    print("network      hidden summed  of  ms p50  ms max drawn p50  ratio")
    for name in given.networks:
        for hidden in given.hidden:
            rows = measure(name, hidden, given.queries, given.seed)
            summed = [row for row in rows if row[1] == row[1]]
            good &= all(row[3] and row[1] <= BAR for row in summed)
            if not summed:
                print(f"{name:<12} {hidden:>6} {0:>6} {len(rows):>3}")
                continue
            quick, slow = [row[1] for row in summed], [row[2] for row in summed]
            ratio = statistics.median(a / b for a, b in zip(slow, quick, strict=True))
            print(
                f"{name:<12} {hidden:>6} {len(summed):>6} {len(rows):>3} {statistics.median(quick):>7.1f} "
                f"{max(quick):>7.1f} {statistics.median(slow):>9.1f} {ratio:>6.1f}",
                flush=True,
            )
            for text, _, _, agrees in rows:
                if not agrees:
                    print(f"  {text}: the two answers differ")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
