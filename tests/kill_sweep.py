"""Trainings that are killed at random moments and resumed, against one that never was: the same bits.

    python tests/kill_sweep.py --count 20 --seed 0

kills the command line with SIGKILL so many times, most of them at a random step and some at a random time, which may
be while it starts, reads the data or writes the model; a run that comes to its end is compared and another one begun.
The exit code says whether every run ended with the weights and the history of the whole one.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import mdcm
from mdcm.model import Model
from mdcm.scm import random_discrete
from mdcm.storage.run_directory import CHECKPOINTS, MODEL

GRAPH = "A -> B -> C -> D; A <-> C; E -> F; E <-> F; C -> G; H"
# a run that takes so long has hung
_SECONDS = 200


def table_of(rows: int = 400) -> pd.DataFrame:
    return random_discrete(mdcm.ADMG.from_string(GRAPH), levels=3, seed=0).sample(rows, seed=0)


def write_spec(folder: Path) -> Path:
    """A training on two data sets, which writes a checkpoint after every step."""
    table_of().to_csv(folder / "d.csv", index=False)
    trial = random_discrete(mdcm.ADMG.from_string(GRAPH), levels=3, seed=0).sample(200, do={"A": 1}, seed=1)
    trial["A"] = 1
    trial.to_csv(folder / "t.csv", index=False)
    path = folder / "spec.yaml"
    path.write_text(
        f'graph: "{GRAPH}"\ndata:\n  - {{path: d.csv}}\n  - {{path: t.csv, do: [A]}}\n'
        "train: {seed: 3, max_steps: 90, checks: 10, checkpoint_seconds: 1.0e-6, batch_size: 64}\n"
    )
    return path


def command(spec: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    """The command line that trains, as a process."""
    program = "import sys; from mdcm.cli.app import main; sys.argv[0] = 'mdcm'; main()"
    arguments = [sys.executable, "-W", "ignore", "-c", program, "train", str(spec), "--out", str(out), *more]
    with (spec.parent / "err.txt").open("w") as err:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=err, env=environment)


def said(spec: Path) -> str:
    """What the last command wrote to its error stream."""
    return (spec.parent / "err.txt").read_text()


def wait_for_checkpoint(process: subprocess.Popen[bytes], out: Path, number: int) -> bool:
    """Until so many checkpoints were written; their files are numbered. False if the process ended before."""
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        names = [entry.name for entry in (out / CHECKPOINTS).iterdir()] if (out / CHECKPOINTS).is_dir() else []
        if any(name[:8].isdigit() and int(name[:8]) >= number for name in names):
            return True
        time.sleep(0.002)
    assert process.poll() is not None, "nothing was written for too long"
    return False


def kill(spec: Path, out: Path, number: int | None, pause: float) -> bool:
    """Train, and kill it so long after a checkpoint, or after its start; False if it came to its end before."""
    process = command(spec, out, "--resume")
    if number is not None:
        wait_for_checkpoint(process, out, number)
    time.sleep(pause)
    process.send_signal(signal.SIGKILL)
    code = process.wait()
    assert code in {0, -signal.SIGKILL}, said(spec)
    return code != 0


def finish(spec: Path, out: Path) -> None:
    """Train to the end."""
    assert command(spec, out, "--resume").wait(_SECONDS) == 0, said(spec)


def whole_run(spec: Path, out: Path) -> Model:
    """A training that nobody disturbs."""
    assert command(spec, out).wait(_SECONDS) == 0, said(spec)
    return mdcm.load(out)


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    return all(torch.equal(first[name], second[name]) for name in first) and first.keys() == second.keys()


def differences(expected: Model, out: Path) -> list[str]:
    """In what a finished run differs from the one that was never killed."""
    found = mdcm.load(out)
    wrong = []
    if not same(expected.dcm.state_dict(), found.dcm.state_dict()):
        wrong.append("other weights")
    histories = [
        [{key: value for key, value in record.items() if key != "seconds"} for record in model.history]
        for model in (expected, found)
    ]
    if histories[0] != histories[1]:
        wrong.append("another history")
    left = sorted(entry.name for entry in out.iterdir())
    if left != ["metrics.jsonl", MODEL, "weights.safetensors"]:
        wrong.append(f"files {left}")
    return wrong


def sweep(folder: Path, count: int, seed: int) -> tuple[int, list[str]]:
    """Kill so many times; number of runs that came to their end, and what was wrong with them."""
    rng = np.random.default_rng(seed)
    spec = write_spec(folder)
    began = time.monotonic()
    expected = whole_run(spec, folder / "whole")
    longest = time.monotonic() - began
    runs, wrong, killed = 0, [], 0
    while killed < count or runs == 0:
        out = folder / f"run{runs}"
        number, ended = 0, False
        while killed < count and not ended:
            number += int(rng.integers(3, 120))
            anywhere = rng.random() < 0.25
            pause = float(rng.random() * (longest if anywhere else 0.02))
            ended = not kill(spec, out, None if anywhere else number, pause)
            killed += not ended
        finish(spec, out)
        runs += 1
        wrong += [f"run {runs}: {one}" for one in differences(expected, out)]
    return runs, wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="number of kills")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        runs, wrong = sweep(Path(folder), given.count, given.seed)
    print(
        f"{given.count} kills, seed {given.seed}, {time.perf_counter() - began:.0f} s: {runs} runs resumed to their "
        f"end, {len(wrong)} differences from the whole one"
    )
    print(*wrong, sep="\n", end="\n" if wrong else "")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
