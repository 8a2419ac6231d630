"""Whether answers are refused or warned of exactly where the data do not support them.

Usage, from anywhere, with mdcm and its test requirements installed:

    python bench/support.py                        # 200 problems with and without overlap, and bnlearn's networks
    python bench/support.py --problems 40 --dry    # fewer, nothing written
    python bench/support.py --networks alarm child --rows 1000 --queries 10 --problems 0

A problem is a known model, rows sampled from it, a fit with an ensemble and one effect. There are four kinds, in turn,
half of each without overlap: a confounded treatment and a front door of tables, and a confounded treatment by one
normal covariate, of one table and of a number. What an answer truly rests on follows from the exact distribution and
the rows: an answer that is refused or warned of must have a condition with weight that no row shows, or fewer than 50
effective rows; one that is given in silence must lie in its 90 % interval as often as that says. The networks are those
of the bnlearn repository, as pgmpy has them, with 1 to 4 variables hidden; what is asked is a random effect that is
determined, and the truth is exact. Bars: no false alarm; coverage of silent answers at least 80 %; hardly any answer
about a network refused. Writes bench/results/support.json.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from run import conditions  # noqa: E402

import mdcm  # noqa: E402
from mdcm.scm import DiscreteSCM, random_discrete  # noqa: E402

KINDS = ("table, confounded", "table, front door", "number, confounded", "number that is set")
ROWS = 1_000
DRAWS = 20_000
FEWEST = 50
NETWORKS = ("alarm", "child", "insurance", "hailfinder", "water", "win95pts")


@dataclass(frozen=True)
class Problem:
    """Rows of a known model, and one question.

    Attributes:
        graph: The graph.
        table: The rows.
        text: The question.
        truth: The exact answer.
        rows: Effective rows by the exact distribution of what is asked and the rows that there are.
        unseen: Weight of what no row shows.
    """

    graph: str
    table: pd.DataFrame
    text: str
    truth: float
    rows: float
    unseen: float


def worth(asked: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Effective rows and weight without rows, of exact shares and counts by condition."""
    asked, counts = np.ravel(asked), np.ravel(counts)
    some = (counts > 0) & (asked > 0)
    rows = asked[some].sum() ** 2 / (asked[some] ** 2 / counts[some]).sum() if some.any() else 0.0
    return float(rows), float(asked[(counts == 0)].sum())


def problem(number: int) -> Problem:
    """A problem; its number is the seed of all that is random in it."""
    rng = np.random.default_rng([number, 17])
    kind, lacks = number % 4, number // 4 % 2 == 1
    if kind < 2:
        return table_problem(number, rng, kind == 1, lacks)
    c = rng.normal(size=ROWS)
    effect, slope = rng.normal(size=2)
    if kind == 2:
        cut, steep = rng.normal(0, 0.7), rng.uniform(0.2, 1.5)
        chance = (c > cut).astype(float) if lacks else 1 / (1 + np.exp(-steep * (c - cut)))
        t = (rng.random(ROWS) < chance).astype(int)
        table = pd.DataFrame({"C": c, "T": t, "Y": effect * t + slope * c + rng.normal(size=ROWS)})
        # strata of a twentieth of the covariate's distribution
        stratum = np.searchsorted(np.array([_quantile(k / 20) for k in range(1, 20)]), c)
        counts = np.bincount(stratum[t == 1], minlength=20)
        return Problem("C -> T -> Y; C -> Y", table, "E[Y | do(T=1)]", effect, *worth(np.full(20, 0.05), counts))
    # numbers that were set within (-2, 2), and one that is or is not among them
    t = rng.uniform(-2, 2, ROWS)
    value = round(float(rng.uniform(8, 40) if lacks else rng.uniform(-1.8, 1.8)), 2)
    table = pd.DataFrame({"T": t, "Y": effect * t + rng.normal(size=ROWS)})
    near = np.abs(t - value) < 0.5
    return Problem("T -> Y", table, f"E[Y | do(T={value})]", effect * value, float(near.sum()), float(not near.any()))


def _quantile(level: float) -> float:
    return float(torch.special.ndtri(torch.tensor(level, dtype=torch.float64)))


def table_problem(number: int, rng: np.random.Generator, door: bool, lacks: bool) -> Problem:
    """A confounded treatment or a front door, of levels."""
    graph = mdcm.ADMG.from_string("X -> M -> Y; X <-> Y" if door else "C -> X -> Y; C -> Y")
    made = random_discrete(graph, levels=2 + number // 8 % 2, seed=number)
    tables = dict(made.tables)
    if lacks:
        cause = "M" if door else "X"
        sharp = np.zeros_like(tables[cause])
        # every level of the parent has one level of its own, or the last two of them share one
        for level in range(len(sharp)):
            sharp[level, level if rng.random() < 0.7 else max(level - 1, 0)] = 1.0
        tables[cause] = sharp
    truth = DiscreteSCM(graph, tables, made.priors, levels=made.levels)
    table = truth.sample(ROWS, seed=number)
    first, second = ("X", "M") if door else ("C", "X")
    joint = truth.exact([first, second])
    size = len(truth.levels["X"])
    exact = joint.unstack(second, fill_value=0.0).reindex(index=range(size), columns=range(size), fill_value=0.0)
    counts = pd.crosstab(table[first], table[second]).reindex(index=range(size), columns=range(size), fill_value=0)
    value = int(rng.choice(table["X"].unique()))
    if door:
        mediated = exact.loc[value].to_numpy() / exact.loc[value].sum()
        parts = [
            worth(np.outer(exact.sum(axis=1), mediated), counts.to_numpy()),
            (float((table["X"] == value).sum()), 0.0),
        ]
    else:
        parts = [worth(exact.sum(axis=1).to_numpy(), counts[value].to_numpy())]
    rows, unseen = min(one[0] for one in parts), max(one[1] for one in parts)
    answer = float(truth.exact(["Y"], do={"X": value}).loc[1])
    return Problem(str(graph), table, f"P(Y=1 | do(X={value}))", answer, rows, unseen)


def judged(number: int, members: int) -> dict[str, Any]:
    """What is said of one problem, beside what is true of it."""
    asked = problem(number)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = mdcm.fit(asked.graph, asked.table, seed=number, ensemble=members)
        caught.clear()
        try:
            answer = model.query(asked.text, DRAWS, seed=number)
        except mdcm.LowSupportError as error:
            said, covers, rows, unseen = "refused", None, error.rows, error.unseen
        else:
            rests = [one for one in caught if "rests on" in str(one.message) or "training data" in str(one.message)]
            said = "warned" if rests else "silent"
            covers = bool(answer.low <= asked.truth <= answer.high)
            rows, unseen = answer.rows, answer.unseen
    return {
        "kind": KINDS[number % 4], "overlap": number // 4 % 2 == 0, "said": said, "covers": covers, "rows": rows,
        "unseen": unseen, "true_rows": asked.rows, "true_unseen": asked.unseen,
        # a quarter more, for what the fitted model and its draws are off
        "alarm_is_right": asked.unseen > 0 or asked.rows < 1.25 * FEWEST,
        "lacks": asked.unseen > 0.2 or asked.rows < FEWEST / 2,
    }  # fmt: skip


# ---------------------------------------------------------------------- networks


@dataclass(frozen=True)
class Asked:
    """One question about a network."""

    network: str
    rows: int
    hidden: int
    text: str
    said: str
    error: float | None
    support: float | None
    plug_in_error: float | None
    why: str | None = None


def network(name: str) -> DiscreteSCM:
    """A network of the bnlearn repository as an exact model."""
    found = _of_pgmpy(name)
    graph = mdcm.ADMG(nodes=sorted(found.nodes()), directed=[tuple(edge) for edge in found.edges()])
    tables = {}
    for cpd in found.get_cpds():
        axes = list(cpd.variables)
        order = [*sorted(axes[1:], key=graph.index), axes[0]]
        table = np.asarray(cpd.values, dtype=np.float64).transpose([axes.index(one) for one in order])
        # published with few digits
        tables[cpd.variable] = table / table.sum(-1, keepdims=True)
    return DiscreteSCM(graph, tables)


def _of_pgmpy(name: str) -> Any:
    """The file that pgmpy ships, where it does; later versions fetch it."""
    spec = importlib.util.find_spec("pgmpy")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pgmpy, which has the networks, is not installed")
    path = Path(spec.submodule_search_locations[0]) / "utils" / "example_models" / f"{name}.bif.gz"
    if path.exists():
        from pgmpy.readwrite import BIFReader

        return BIFReader(string=gzip.decompress(path.read_bytes()).decode()).get_model()
    from pgmpy.example_models import load_model

    return load_model(f"bnlearn/{name}")


@dataclass(frozen=True)
class Question:
    """One question about a network, with what it is asked of and the true answer."""

    graph: mdcm.ADMG
    table: pd.DataFrame
    hidden: int
    text: str
    exact: float


def questions(name: str, rows: int, number: int, hidden: Sequence[int], seed: int = 0) -> Iterator[Question]:
    """Identifiable questions about a network, one number of hidden variables after the other."""
    truth = network(name)
    rng = np.random.default_rng([seed, rows, len(truth.graph)])
    table = truth.sample(rows, seed=seed)
    # a column with one value has nothing to tell
    varied = [node for node in truth.graph.nodes if table[node].nunique() > 1]
    for count in hidden:
        parents = [node for node in varied if len(truth.graph.children(node)) > 1]
        away = set(rng.permutation(parents)[:count])
        graph = truth.graph.latent_projection([node for node in varied if node not in away])
        seen = table[list(graph.nodes)]
        asked = 0
        for cause, effect in rng.permutation(
            [(a, b) for b in graph.nodes for a in sorted(graph.ancestors(b)) if a != b]
        ):
            value, outcome = (rng.choice(table[node].unique()).item() for node in (cause, effect))
            text = f"P({effect}={outcome} | do({cause}={value}))"
            if asked >= number / len(hidden):
                break
            if not mdcm.identify(graph, text).identifiable:
                continue
            asked += 1
            yield Question(graph, seen, count, text, float(truth.exact([effect], do={cause: value}).loc[outcome]))


def about(name: str, rows: int, number: int, hidden: Sequence[int], seed: int = 0) -> Iterator[Asked]:
    """Questions about a network, and what models of it answer."""
    model: Any = None
    for question in questions(name, rows, number, hidden, seed):
        if model is None or model.graph != question.graph:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                model = mdcm.fit(question.graph, question.table, seed=seed)
        beside = plug_in_error(question)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                answer = model.query(question.text, DRAWS)
            except mdcm.LowSupportError as error:
                yield Asked(name, rows, question.hidden, question.text, "refused", None, None, beside, str(error))
                continue
        told = any("rests on" in str(one.message) for one in caught)
        error = abs(answer.value - question.exact)
        said = "warned" if told else "silent"
        yield Asked(name, rows, question.hidden, question.text, said, error, answer.rows, beside)


def plug_in_error(question: Question) -> float | None:
    """How far the frequencies in the rows are off, by the estimand; None where they give no number."""
    estimand = mdcm.identify(question.graph, question.text).estimand
    try:
        value = float(estimand.estimate(question.table).values.iloc[0])
    except mdcm.MdcmError:
        return None
    return None if math.isnan(value) else abs(value - question.exact)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--kinds", type=int, nargs="*", default=range(4), help="which kinds of problems, by number")
    parser.add_argument("--members", type=int, default=12)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000, 10_000])
    parser.add_argument("--queries", type=int, default=24, help="of each network at each number of rows")
    parser.add_argument("--hidden", type=int, nargs="*", default=[1, 2, 3, 4], help="numbers of hidden variables")
    parser.add_argument("--part", type=Path, help="file to write instead of bench/results/support.json")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    found = []
    for number in range(given.start, given.start + given.problems):
        if number % 4 not in given.kinds:
            continue
        found.append(judged(number, given.members))
        print(
            number,
            {key: found[-1][key] for key in ("kind", "overlap", "said", "rows", "true_rows", "covers")},
            flush=True,
        )
    table = []
    for kind in KINDS:
        for overlap in (True, False):
            own = [one for one in found if one["kind"] == kind and one["overlap"] is overlap]
            silent = [one for one in own if one["said"] == "silent"]
            if own:
                table.append({
                    "problems": kind, "overlap": overlap, "number": len(own),
                    **{word: sum(one["said"] == word for one in own) for word in ("refused", "warned", "silent")},
                    "false_alarms": sum(one["said"] != "silent" and not one["alarm_is_right"] for one in own),
                    "missed": sum(one["said"] == "silent" and one["lacks"] for one in own),
                    "coverage_of_silent": sum(one["covers"] for one in silent) / len(silent) if silent else None,
                })  # fmt: skip
                print(table[-1])
    asked: list[Asked] = []
    networks = []
    # one part of a long run has a file of its own
    part = HERE / "results" / "support.json" if given.part is None else given.part
    for name in given.networks:
        for rows in given.rows:
            own = list(about(name, rows, given.queries, given.hidden))
            asked += own
            both = [one for one in own if one.error is not None and one.plug_in_error is not None]
            networks.append({
                "network": name, "rows": rows, "queries": len(own),
                **{word: sum(one.said == word for one in own) for word in ("refused", "warned", "silent")},
                "mean_error": _mean([one.error for one in own]),
                "of_both": len(both),
                "mean_error_of_both": _mean([one.error for one in both]),
                "plug_in_mean_error": _mean([one.plug_in_error for one in both]),
                "mean_error_of_warned": _mean([one.error for one in own if one.said == "warned"]),
            })  # fmt: skip
            print(networks[-1], flush=True)
    if not given.dry:
        content = {
            "command": f"python bench/support.py --problems {given.problems} --queries {given.queries}",
            "rows": ROWS, "members": given.members, "cpu_seconds": round(time.process_time() - began, 1),
            "conditions": conditions(), "table": table, "networks": networks, "asked": [asdict(one) for one in asked],
        }  # fmt: skip
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    silent = [one for one in found if one["said"] == "silent"]
    coverage = sum(one["covers"] for one in silent) / len(silent) if silent else math.nan
    alarms = sum(row["false_alarms"] for row in table)
    refused = sum(one.said == "refused" for one in asked)
    print(f"false alarms {alarms}; silent answers cover {coverage:.3f}; networks: {refused} of {len(asked)} refused")
    sys.exit(0 if alarms == 0 and not coverage < 0.8 and refused <= 0.02 * len(asked) else 1)


def _mean(errors: list[float | None]) -> float | None:
    numbers = [one for one in errors if one is not None]
    return round(float(np.mean(numbers)), 5) if numbers else None


if __name__ == "__main__":
    main()
