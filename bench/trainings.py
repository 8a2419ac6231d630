"""Fits of every kind at two versions of mdcm, which must be as good, and their times.

Usage:

    python bench/trainings.py OLD NEW              # directories of two source trees, each with its compiled core
    python bench/trainings.py OLD NEW --rounds 5   # more rounds; kinds can be named: --kinds tables critics

Every kind of fit runs in a process of its own, old and new in turns. Equal quality comes first: the held-out losses of
all h-nodes must be the same number, or as near to each other as two seeds of the old version are. Prints for every kind
CPU seconds of both (medians) and their ratio, and ends with 1 where a new fit is worse, or slower by more than a tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

SLOWER = 1.1
ROWS = 1_500


def _table() -> Any:
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    hidden = rng.integers(0, 3, ROWS)
    a = (hidden + rng.integers(0, 2, ROWS)) % 3
    b = (a + hidden + (rng.random(ROWS) < 0.2)) % 3
    c = rng.integers(0, 2, ROWS)
    return pd.DataFrame({"A": a, "B": b, "C": c, "D": (c + b + (rng.random(ROWS) < 0.3)) % 2})


def _numbers() -> Any:
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(0)
    hidden = rng.normal(size=ROWS)
    x = hidden + 0.5 * rng.normal(size=ROWS)
    return pd.DataFrame({"X": x, "Y": np.sin(x) + hidden + 0.3 * rng.normal(size=ROWS)})


def _images() -> Any:
    import numpy as np

    import mdcm

    rng = np.random.default_rng(0)
    return mdcm.Dataset({"A": rng.integers(0, 3, 400)}, images={"I": rng.random((400, 1, 16, 16), dtype=np.float32)})


def _critics(**options: Any) -> dict[str, Any]:
    try:
        from mdcm.training.adversarial_config import AdversarialConfig
    except ImportError:
        from mdcm.objectives.adversarial import AdversarialConfig
    import mdcm

    config = mdcm.TrainConfig(adversarial=AdversarialConfig(steps=1_000, checks=10), **options)
    return {"objective": "adversarial", "config": config}


def _config(**options: Any) -> dict[str, Any]:
    import mdcm

    return {"config": mdcm.TrainConfig(**options)}


CONFOUNDED = "A -> B; A <-> B; B -> D; C -> D"
KINDS: dict[str, tuple[str, Callable[[], Any], Callable[[], dict[str, Any]]]] = {
    "tables": (CONFOUNDED, _table, dict),
    "tables, one by one": (CONFOUNDED, _table, lambda: _config(batch_modules=False)),
    "tables, ensemble": (CONFOUNDED, _table, lambda: {"ensemble": 8}),
    "tables, drawn states": (CONFOUNDED, _table, lambda: _config(confounder="monte-carlo", max_steps=100)),
    "number": ("X -> Y", _numbers, dict),
    "numbers, confounded": ("X -> Y; X <-> Y", _numbers, lambda: _config(max_steps=300)),
    "numbers, normal confounder": ("X -> Y; X <-> Y", _numbers, lambda: _config(max_steps=150, confounder="gaussian")),
    "image": ("A -> I", _images, lambda: _config(max_steps=60)),
    "critics": (CONFOUNDED, _table, _critics),
    "critics, one by one": (CONFOUNDED, _table, lambda: _critics(batch_modules=False)),
}


def fitted(kind: str, seed: int) -> dict[str, Any]:
    """CPU seconds of a fit, and the held-out loss of every h-node."""
    import time

    import torch

    import mdcm

    torch.set_num_threads(1)
    graph, data, options = KINDS[kind]
    table, given = data(), options()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # what a first fit imports is not its own
        mdcm.fit(graph, table, **(given | {"config": mdcm.TrainConfig(max_steps=1), "ensemble": 0}))
        began = time.process_time()
        model = mdcm.fit(graph, table, seed=seed, **given)
        seconds = time.process_time() - began
    losses = {"".join(r["hnode"]): r["heldout"] for r in model.history if r["event"] == "trained"}
    return {"seconds": seconds, "losses": losses}


def _run(tree: Path, kind: str, seed: int = 0) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(tree.resolve()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--fit", kind, "--seed", str(seed)]
    # from elsewhere, so that the tree is what is imported
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(old: Path, new: Path, kind: str, rounds: int) -> tuple[dict[str, Any], bool]:
    """Medians of CPU seconds and largest difference of held-out losses; whether new is as good and as fast."""
    sides: dict[str, list[dict[str, Any]]] = {"old": [], "new": []}
    for _ in range(rounds):
        for name, tree in (("old", old), ("new", new)):
            sides[name].append(_run(tree, kind))
    losses = {name: runs[0]["losses"] for name, runs in sides.items()}
    worse = max(losses["new"][hnode] - loss for hnode, loss in losses["old"].items())
    spread = 0.0
    if worse > 0:
        again = _run(old, kind, seed=1)["losses"]
        spread = max(abs(again[hnode] - loss) for hnode, loss in losses["old"].items())
    seconds = {name: statistics.median(run["seconds"] for run in runs) for name, runs in sides.items()}
    ratio = seconds["new"] / seconds["old"]
    row = {
        "kind": kind, "old": round(seconds["old"], 3), "new": round(seconds["new"], 3), "ratio": round(ratio, 3),
        "worse by": round(worse, 6), "another seed": round(spread, 6),
    }  # fmt: skip
    return row, worse <= spread and ratio <= SLOWER


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", type=Path)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fit", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fit is not None:
        print(json.dumps(fitted(given.fit, given.seed)))
        return 0
    if len(given.trees) != 2:
        parser.error("give the directories of two source trees: OLD NEW")
    good = True
    for kind in given.kinds:
        row, passed = compare(*given.trees, kind, given.rounds)
        print(json.dumps(row), flush=True)
        good &= passed
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
