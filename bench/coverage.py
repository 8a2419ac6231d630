"""How often the intervals of an ensemble cover the exact answer.

Usage, from anywhere, with mdcm and its test requirements installed:

    python bench/coverage.py                              # 200 problems, K = 20
    python bench/coverage.py --problems 20 --dry          # fewer, nothing written
    python bench/coverage.py --start 100 --problems 100   # the second half

A problem is an exact random model, data sampled from it, a model fitted to them with an ensemble, and two answers: one
probability under do(), and one difference of two. Even numbers are the front door on three variables, odd ones random
ADMGs of four in which the effect of an ancestor is determined and not only read off. The number of a problem is the
seed of all that is random in it. Beside it stands what the bootstrap of the estimand's own frequencies gives. Bar: 90 %
intervals cover between 80 % and 97 %. Writes bench/results/coverage.json; the exit code is 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from run import conditions  # noqa: E402

import mdcm  # noqa: E402
from mdcm.sampling.answers import student_quantile  # noqa: E402

LEVEL = 0.9
BARS = (0.80, 0.97)
MEMBERS = 20
DRAWS = 50_000
ROWS = (1_000, 2_000)
KINDS = ("front door, 3 variables", "random ADMG, 4 variables")


@dataclass(frozen=True)
class Interval:
    """One interval and what it should cover."""

    kind: str
    answer: str
    by: str
    truth: float
    estimate: float
    low: float
    high: float

    @property
    def covers(self) -> bool:
        return self.low <= self.truth <= self.high


def graph_of(number: int) -> tuple[mdcm.ADMG, str, str]:
    """Graph, cause and effect of a problem."""
    if number % 2 == 0:
        return mdcm.ADMG.from_string("X -> Z; Z -> Y; X <-> Y"), "X", "Y"
    rng = np.random.default_rng(number)
    nodes = ["A", "B", "C", "D"]
    pairs = [(nodes[i], nodes[j]) for i in range(4) for j in range(i + 1, 4)]
    while True:
        directed = [pair for pair in pairs if rng.random() < 0.55]
        bidirected = [pair for pair in pairs if rng.random() < 0.3]
        graph = mdcm.ADMG(nodes=nodes, directed=directed, bidirected=bidirected)
        for cause, effect in pairs:
            if not bidirected or cause not in graph.ancestors([effect]):
                continue
            # not merely a conditional probability
            if graph.rule2([effect], [cause]):
                continue
            if mdcm.identify(graph, f"P({effect} | do({cause}))").identifiable:
                return graph, cause, effect


def intervals(number: int, members: int) -> Iterator[Interval]:
    graph, cause, effect = graph_of(number)
    truth = mdcm.scm.random_discrete(graph, levels=2 + number % 4 // 2, seed=number)
    rows = ROWS[number // 4 % 2]
    kind = KINDS[number % 2]
    exact = [truth.exact([effect], do={cause: value}).to_numpy() for value in (0, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = mdcm.fit(graph, truth.sample(rows, seed=number), seed=number, ensemble=members)
        single = f"P({effect}=1 | do({cause}=1))"
        asked = {
            "probability": (single, float(exact[1][1])),
            "difference": (f"{single} - P({effect}=1 | do({cause}=0))", float(exact[1][1] - exact[0][1])),
        }
        for answer, (text, value) in asked.items():
            found = model.query(text, DRAWS, level=LEVEL, allow_low_support=True, seed=number)
            yield Interval(kind, answer, "ensemble", value, found.value, found.low, found.high)
            plug_in = found.plug_in.iloc[0]
            reach = student_quantile(0.5 + LEVEL / 2, 10_000) * plug_in["stderr"]
            centre = float(plug_in["estimate"])
            yield Interval(kind, answer, "frequencies", value, centre, centre - reach, centre + reach)


def summary(found: list[Interval]) -> list[dict[str, object]]:
    rows = []
    for by in ("ensemble", "frequencies"):
        for kind in (*KINDS, "all"):
            for answer in ("probability", "difference"):
                own = [one for one in found if one.by == by and one.answer == answer and kind in {one.kind, "all"}]
                if not own:
                    continue
                share = sum(one.covers for one in own) / len(own)
                rows.append({
                    "intervals": by, "problems": kind, "answer": answer, "number": len(own),
                    "coverage": round(share, 4),
                    "stderr": round(math.sqrt(max(share * (1 - share), 1 / len(own) / 4) / len(own)), 4),
                    "width": round(float(np.median([one.high - one.low for one in own])), 4),
                    "rmse": round(float(np.sqrt(np.mean([(one.estimate - one.truth) ** 2 for one in own]))), 4),
                })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--members", type=int, default=MEMBERS)
    parser.add_argument("--dry", action="store_true", help="write nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    found: list[Interval] = []
    for number in range(given.start, given.start + given.problems):
        found += intervals(number, given.members)
        if sys.stderr.isatty():
            print(f"\r{number + 1 - given.start} of {given.problems}", end="", file=sys.stderr)
    table = summary(found)
    for row in table:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    # all problems together, the two answers each
    judged = [row["coverage"] for row in table if row["intervals"] == "ensemble" and row["problems"] == "all"]
    met = all(BARS[0] <= share <= BARS[1] for share in judged)
    print(f"{'met' if met else 'MISSED'}: {LEVEL:.0%} intervals cover {judged}, asked for {BARS[0]} to {BARS[1]}")
    if not given.dry:
        content = {
            "command": f"python bench/coverage.py --problems {given.problems} --start {given.start}",
            "members": given.members, "level": LEVEL, "bars": BARS, "draws": DRAWS, "rows": ROWS,
            "cpu_seconds": round(time.process_time() - began, 1), "conditions": conditions(), "table": table,
        }  # fmt: skip
        (HERE / "results" / "coverage.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
