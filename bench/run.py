"""Benchmarks: each first proves that both sides compute the same thing, then times them in turns, in one run.

Usage, from anywhere, with mdcm and its test requirements installed:

    python bench/run.py NAME...          # tables, philox, critic, batched, level-adversarial, or all of one kind:
                                         # graphs, identification, kernels, quality, or all
    python bench/run.py --dry NAME...    # prints without writing to results.csv

Times are CPU seconds of one thread, which a busy machine changes less than the wall clock. The two sides take turns,
so that a change of the machine's speed meets both; p20, p50 and p80 are over the turns. Of kernels on a GPU they are
wall clock, and the unit says so. A row whose check fails is not written, and the exit code is 1. What graphs are
measured against is not required by mdcm: see graphs.py.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
# problems and exact estimates are those of the tests, so that the two cannot drift apart
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import adversarial  # noqa: E402
import batched  # noqa: E402
import clusters  # noqa: E402
import continuous  # noqa: E402
import critic  # noqa: E402
import endtoend  # noqa: E402
import evidence  # noqa: E402
import fused  # noqa: E402
import graphs  # noqa: E402
import identification  # noqa: E402
import level  # noqa: E402
import numpy as np  # noqa: E402
import plans  # noqa: E402
import scale  # noqa: E402
import torch  # noqa: E402
import workloads  # noqa: E402

TURNS = 5
SECONDS_PER_TURN = 0.2
COLUMNS = (
    "date", "workload", "size", "seed", "unit", "p50", "p20", "p80", "baseline_p50", "baseline_p20", "baseline_p80",
    "ratio", "bar", "machine", "cores", "threads", "python", "torch", "numpy", "commit",
)  # fmt: skip


def conditions() -> dict[str, str]:
    """What a number depends on beside its workload."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    if torch.cuda.is_available():
        model += f", {torch.cuda.get_device_name()}"
    describe = ["git", "-C", str(HERE), "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": model,
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "numpy": np.__version__,
        "commit": commit or "unknown",
    }


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median, and the 20th and 80th percentiles."""
    return tuple(float(q) for q in np.percentile(values, [50, 20, 80]))


def time_in_turns(ours: Callable[[], object], baseline: Callable[[], object]) -> tuple[list[float], list[float]]:
    """CPU milliseconds per call of each side, one value per turn."""
    calls = []
    for side in (ours, baseline):
        side()
        began = time.process_time()
        side()
        calls.append(max(1, round(SECONDS_PER_TURN / max(time.process_time() - began, 1e-6))))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(TURNS):
        for side, repeats, found in zip((ours, baseline), calls, times, strict=True):
            began = time.process_time()
            for _ in range(repeats):
                side()
            found.append(1000 * (time.process_time() - began) / repeats)
    return times


def timed(name: str) -> Iterator[dict[str, object]]:
    for seed, build in enumerate(workloads.TIMED[name]):
        work = build(seed)
        work.equal(work.ours(), work.baseline())
        ours, baseline = time_in_turns(work.ours, work.baseline)
        yield row(work.name, work.size, str(work.seed), "CPU ms", ours, baseline, None)


def compared(name: str) -> Iterator[dict[str, object]]:
    for work in {**graphs.GRAPHS, **critic.CRITIC, **batched.BATCHED, **level.LEVEL}[name]():
        if isinstance(work, str):
            print(work, flush=True)
            continue
        fault = work.fault()
        if fault is not None:
            print(
                f"{work.name:18} {work.size}; seed {work.seed}\n    the peer is WRONG: {fault}; not timed", flush=True
            )
            continue
        ours, peer = time_in_turns(work.ours, work.peer)
        yield row(work.name, work.size, str(work.seed), "CPU ms", ours, peer, work.bar)


def quality(name: str) -> Iterator[dict[str, object]]:
    known = {
        **workloads.QUALITY,
        **plans.PLANS,
        **identification.IDENTIFICATION,
        **evidence.EVIDENCE,
        **adversarial.ADVERSARIAL,
        **scale.SCALE,
        **continuous.CONTINUOUS,
        **endtoend.END_TO_END,
        **fused.FUSED,
        **clusters.CLUSTERS,
    }
    for one in known[name]():
        yield row(one.name, one.size, one.seed, one.unit, one.values, one.baseline, one.bar)


def row(
    workload: str, size: str, seed: str, unit: str, ours: list[float], baseline: list[float], bar: float | None
) -> dict[str, object]:
    columns: dict[str, object] = {"workload": workload, "size": size, "seed": seed, "unit": unit}
    for prefix, values in (("", ours), ("baseline_", baseline)):
        columns |= {f"{prefix}p{q}": f"{value:.4g}" for q, value in zip((50, 20, 80), spread(values), strict=True)}
    # times by their medians; what was measured once per seed by means, since bars are on means
    times = unit.startswith(("CPU ms", "GPU ms"))
    quotient = spread(ours)[0] / spread(baseline)[0] if times else workloads.ratio(ours, baseline)
    return columns | {"ratio": f"{quotient:.3g}", "bar": "" if bar is None else f"<= {bar:g}"} | conditions()


def main() -> int:
    """Run what the command line names."""
    measured = {
        **dict.fromkeys(workloads.TIMED, timed),
        **dict.fromkeys(critic.CRITIC, compared),
        **dict.fromkeys(batched.BATCHED, compared),
        **dict.fromkeys(level.LEVEL, compared),
        **dict.fromkeys(graphs.GRAPHS, compared),
        **dict.fromkeys(plans.PLANS, quality),
        **dict.fromkeys(identification.IDENTIFICATION, quality),
        **dict.fromkeys(evidence.EVIDENCE, quality),
        **dict.fromkeys(adversarial.ADVERSARIAL, quality),
        **dict.fromkeys(scale.SCALE, quality),
        **dict.fromkeys(continuous.CONTINUOUS, quality),
        **dict.fromkeys(endtoend.END_TO_END, quality),
        **dict.fromkeys(fused.FUSED, quality),
        **dict.fromkeys(clusters.CLUSTERS, quality),
        **dict.fromkeys(workloads.QUALITY, quality),
    }
    groups = {
        "graphs": [*graphs.GRAPHS, *plans.PLANS],
        "adversarial": list(adversarial.ADVERSARIAL),
        "end-to-end": list(endtoend.END_TO_END),
        "identification": list(identification.IDENTIFICATION),
        "kernels": list(fused.FUSED),
        "quality": list(workloads.QUALITY),
        "all": list(measured),
    }
    known = [*measured, *groups]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--out", type=Path, default=HERE / "results.csv", help="CSV file that rows are added to")
    parser.add_argument("--dry", action="store_true", help="write no file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    failed = 0
    for name in dict.fromkeys(one for given in arguments.names for one in groups.get(given, [given])):
        for found in measured[name](name):
            missed = bool(found["bar"]) and float(str(found["ratio"])) > float(str(found["bar"]).removeprefix("<= "))
            failed += missed
            print(
                f"{found['workload']:18} {found['size']}; seed {found['seed']}\n    {found['p50']} "
                f"[{found['p20']}, {found['p80']}] against {found['baseline_p50']} {found['unit']}, "
                f"ratio {found['ratio']}{'  MISSED' if missed else ''}",
                flush=True,
            )
            if not (arguments.dry or missed):
                write(arguments.out, found)
    return 1 if failed else 0


def write(path: Path, found: dict[str, object]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(found)


if __name__ == "__main__":
    sys.exit(main())
