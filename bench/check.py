"""How often `check` rejects a true graph, and how often it ranks first what was deleted from one.

Usage, from anywhere, with mdcm and its test requirements installed:

    python bench/check.py                       # everything at full size, about half an hour
    python bench/check.py alarms --graphs 50    # one part, smaller
    python bench/check.py shapes --rows 500     # independences of numbers and mixtures, of one size
    python bench/check.py --out rates.csv       # adds rows to a file

alarms: true graphs with any rejection at level 0.05; bar: at most 0.05 and three standard errors. power: true graphs
less one edge or confounder, among those deletions after which the pair is separable; bar: the pair ranks first in at
least 0.8 of them. Cases are those of tests/test_check.py: 6 to 8 variables, as many arcs as variables and up to three
more, one to three confounders; binary and ternary with random tables, or linear Gaussian. Seeds count from the one
given, 0 for alarms and 1000 for power by default. shapes: of every kind of tests/nonlinear.py, tables whose one
independence is rejected at level 0.05 though it is true, bar: at most 0.07; and half as many that have a dependence.
The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
# cases are those of the tests, so that the two cannot drift apart
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from nonlinear import KINDS, p_value  # noqa: E402
from run import conditions  # noqa: E402
from test_check import CASES, ranks_first, wrong_cases  # noqa: E402

from mdcm.checking import check  # noqa: E402

LEVEL = 0.05
SHAPES_BAR, STRENGTH = 0.07, 0.4
LEVELS = (0.001, 0.01, 0.05, 0.1, 0.5)


def alarms(kind: str, graphs: int, rows: int, seed: int) -> Iterator[dict[str, object]]:
    tables = []
    for number in range(seed, seed + graphs):
        case = CASES[kind](number, rows)
        tables.append(check(case.graph, case.table, level=LEVEL).table)
    rejected = sum(bool(table["rejected"].any()) for table in tables)
    bar = LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / graphs)
    yield row(f"alarms-{kind}", f"{graphs} graphs, {rows} rows", seed, rejected / graphs, f"<= {bar:.3f}")
    p = pd.concat(tables)["p"]
    for level in LEVELS:
        yield row(f"p-below-{level}-{kind}", f"{len(p)} tests, {rows} rows", seed, float((p < level).mean()), "")


def power(kind: str, graphs: int, rows: int, seed: int) -> Iterator[dict[str, object]]:
    first = by_effect = seen = 0
    for pair, wrong, table in wrong_cases(kind, graphs, rows, seed):
        found = check(wrong, table, level=LEVEL).table
        first += ranks_first(found.iloc[0], pair)
        by_effect += ranks_first(found.loc[found["effect"].idxmax()], pair)
        seen += any(ranks_first(one, pair) for one in found[found["rejected"]].to_dict("records"))
    size = f"{graphs} deletions, {rows} rows"
    yield row(f"first-{kind}", size, seed, first / graphs, ">= 0.8")
    yield row(f"first-by-effect-{kind}", size, seed, by_effect / graphs, "")
    yield row(f"pair-rejected-{kind}", size, seed, seen / graphs, "")


def shapes(kind: str, tables: int, rows: int, seed: int) -> Iterator[dict[str, object]]:
    rejected = sum(p_value(kind, rows, seed + k) <= LEVEL for k in range(tables)) / tables
    yield row(f"shape-{kind}", f"{tables} tables, {rows} rows", seed, rejected, f"<= {SHAPES_BAR}")
    count = max(1, tables // 2)
    seen = sum(p_value(kind, rows, seed + k, STRENGTH) <= LEVEL for k in range(count)) / count
    yield row(f"shape-power-{kind}", f"{count} tables, {rows} rows", seed, seen, "")


def row(workload: str, size: str, seed: int, value: float, bar: str) -> dict[str, object]:
    return {"workload": f"check-{workload}", "size": size, "seed": seed, "unit": "share", "value": value, "bar": bar}


def missed(found: dict[str, object]) -> bool:
    sign, _, bound = str(found["bar"]).partition(" ")
    value = float(str(found["value"]))
    return (sign == "<=" and value > float(bound)) or (sign == ">=" and value < float(bound))


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "parts", nargs="*", default=["alarms", "power", "shapes"], metavar="PART", help="alarms, power, shapes"
    )
    parser.add_argument("--graphs", type=int, help="graphs per row instead of 200 (alarms, shapes) and 100 (power)")
    parser.add_argument("--rows", type=int, help="only tables of so many rows")
    parser.add_argument("--kinds", help="only these kinds, separated by commas")
    parser.add_argument("--seed", type=int, help="first seed")
    parser.add_argument("--out", type=Path, help="CSV file that rows are added to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plans = [(alarms, 200, rows, 0) for rows in (2_000, 20_000)] + [(power, 100, 20_000, 1_000)]
    plans += [(shapes, 200, rows, 0) for rows in (500, 5_000)]
    failed = 0
    for part, graphs, rows, seed in plans:
        if part.__name__ not in arguments.parts or rows != (arguments.rows or rows):
            continue
        for kind in KINDS if part is shapes else CASES:
            if arguments.kinds is not None and kind not in arguments.kinds.split(","):
                continue
            began = time.process_time()
            first = seed if arguments.seed is None else arguments.seed
            for found in part(kind, arguments.graphs or graphs, rows, first):
                failed += missed(found)
                note = "  MISSED" if missed(found) else ""
                bar = f"  (bar {found['bar']})" if found["bar"] else ""
                print(f"{found['workload']:32} {found['size']:28} {found['value']:.4f}{bar}{note}", flush=True)
                if arguments.out is not None:
                    write(arguments.out, found | conditions())
            print(f"    {time.process_time() - began:.0f} CPU s", flush=True)
    return 1 if failed else 0


def write(path: Path, found: dict[str, object]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, list(found))
        if new:
            writer.writeheader()
        writer.writerow(found)


if __name__ == "__main__":
    sys.exit(main())
