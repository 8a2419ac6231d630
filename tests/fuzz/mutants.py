"""Run directories and checkpoints of every kind, changed somewhere, with the checksums that the change asks for.

Bytes say what is changed. A mutant is read as whatever it is: a model comes back that can be drawn from, asked and
saved, or an error of mdcm, and nothing else.
"""

import copy
import functools
import hashlib
import json
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load, save

import mdcm
from mdcm.mechanisms import Pretrained
from mdcm.storage import run_directory as rundir
from mdcm.storage.checkpoints import Checkpoints

CONFIG = mdcm.TrainConfig(max_steps=2, checks=1, batch_size=16)
VALUES = (
    None, True, False, 0, 1, -1, 2, 7, 10**9, -(10**18), 10**30, 0.5, -1.5, 1e308, float("nan"), float("inf"), "", "X",
    "Y", "no such", "\x1b[31m", "9" * 50, "float32", "bool", "category", [], [[]], [0], ["X"], {}, {"X": 1}, [None],
)  # fmt: skip


class Choices:
    """Numbers that bytes stand for; zeros when they are used up."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def below(self, bound: int) -> int:
        piece = self.data[self.at : self.at + 2]
        self.at += 2
        return int.from_bytes(piece, "little") % bound if bound > 1 else 0

    def pick(self, options):
        return options[self.below(len(options))]


def table(rows: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "X": rng.integers(0, 2, rows),
            "Y": rng.choice(["a", "b", "c"], rows),
            "N": rng.normal(size=rows),
            "D": pd.to_datetime(rng.integers(0, 900, rows), unit="D"),
        }
    )


def fitted(kind: str, out: Path, **more):
    """A training of one kind, in a run directory."""
    data, options = table(), {"config": CONFIG, "seed": 0}
    if kind == "table":
        return mdcm.fit("X -> Y; X <-> Y", data[["X", "Y"]], out=out, **options, **more)
    if kind == "numbers":
        return mdcm.fit("X -> N -> D; X <-> D", data[["X", "N", "D"]], out=out, **options, **more)
    if kind == "ensemble":
        return mdcm.fit("X -> N", data[["X", "N"]], out=out, ensemble=2, **options, **more)
    if kind == "pretrained":
        graph, columns = "X -> N; N -> Y; X <-> Y", ["X", "N", "Y"]
        return mdcm.fit(graph, data[columns], out=out, mechanisms=MECHANISMS[kind], **options, **more)
    if kind == "image":
        images = {"I": np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)}
        return mdcm.fit("X -> I", mdcm.Dataset(data[["X"]], images=images), out=out, **options, **more)
    datasets = [mdcm.Dataset(data[["X", "Y"]]), mdcm.Dataset(data[["X", "Y"]], do=["X"])]
    return mdcm.fit("X -> Y; X <-> Y", datasets, out=out, **options, **more)


RUNS = ("table", "numbers", "ensemble", "image", "experiment", "pretrained")
UNFINISHED = ("table", "numbers", "experiment", "pretrained")
# mechanisms that a run is loaded with; what they are is no part of it
MECHANISMS = {"pretrained": {"N": Pretrained(lambda parents, noise: 2 * noise[:, 0], noise_size=1)}}


class _Stop(Exception):
    pass


@functools.cache
def folder() -> Path:
    return Path(tempfile.mkdtemp())


@functools.cache
def run_of(kind: str):
    """Description, weights and history of a finished run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted(kind, folder() / kind)
    description, weights, history = rundir.read_run(folder() / kind)
    description.pop("format", None)
    description["plan"] = json.loads(description["plan"])
    return description, weights, history


@functools.cache
def checkpoint_of(kind: str) -> bytes:
    """The checkpoint of a training that was stopped."""
    out = folder() / f"unfinished {kind}"
    between = Checkpoints.between

    def stop(self, snapshot):
        self.write(*snapshot())
        raise _Stop

    Checkpoints.between = stop
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted(kind, out)
    except _Stop:
        pass
    finally:
        Checkpoints.between = between
    (file,) = (out / "checkpoints").iterdir()
    return file.read_bytes()


def change_value(choices: Choices, document) -> None:
    """Change, remove, repeat or exchange something in nested lists and mappings."""
    node, parents = document, []
    while isinstance(node, dict | list) and node:
        key = choices.pick(sorted(node, key=str)) if isinstance(node, dict) else choices.below(len(node))
        parents.append((node, key))
        node = node[key]
        if choices.below(4) == 0:
            break
    if not parents:
        return
    owner, key = parents[-1]
    what = choices.below(5)
    if what == 0:
        del owner[key]
    elif what == 1 and isinstance(owner, list):
        owner.append(copy.deepcopy(owner[key]))
    elif what == 1:
        owner[choices.pick(("X", "extra", ""))] = copy.deepcopy(owner[key])
    elif what == 2 and len(parents) > 1:
        # what stands elsewhere
        other, place = parents[choices.below(len(parents) - 1)]
        owner[key] = copy.deepcopy(other[place]) if other[place] is not owner else None
    else:
        owner[key] = copy.deepcopy(choices.pick(VALUES))


def change_tensor(choices: Choices, tensors) -> None:
    """Change one of some tensors."""
    if not tensors:
        return
    name = choices.pick(sorted(tensors))
    one = tensors[name]
    what = choices.below(8)
    if what == 0:
        del tensors[name]
    elif what == 1:
        tensors[name + ".more"] = one.clone()
    elif what == 2:
        tensors[name] = one.reshape(-1)[:-1].clone()
    elif what == 3:
        tensors[name] = one.to(choices.pick((torch.float64, torch.int64, torch.bool, torch.float16, torch.uint8)))
    elif what == 4:
        tensors[name] = torch.full_like(one, choices.pick((0, 1, -1, 100)))
    elif what == 5 and one.is_floating_point():
        tensors[name] = torch.full_like(one, choices.pick((float("nan"), float("inf"), 1e30, -1e30)))
    elif what == 6:
        tensors[name] = one[None].clone()
    else:
        other = tensors[choices.pick(sorted(tensors))]
        tensors[name] = other.clone()


def mutated_run(data: bytes, out: Path) -> str:
    """Write a run that is like one of ours but for a few changes; the kind of its training."""
    choices = Choices(data)
    kind = choices.pick(RUNS)
    description, weights, history = run_of(kind)
    description, history, weights = copy.deepcopy(description), copy.deepcopy(history), dict(weights)
    for _ in range(1 + choices.below(3)):
        where = choices.below(8)
        if where < 5:
            change_value(choices, description)
        elif where == 5:
            change_value(choices, history)
        else:
            change_tensor(choices, weights)
    if isinstance(description.get("plan"), dict):
        description["plan"] = json.dumps(description["plan"])
    shutil.rmtree(out, ignore_errors=True)
    rundir.write_run(out, description, weights, [one if isinstance(one, dict) else {"event": one} for one in history])
    return kind


def use(run: Path, kind: str) -> None:
    """Load a run, draw from it, ask it and save it."""
    model = mdcm.load(run, MECHANISMS.get(kind))
    samples = model.draw_samples(3, seed=0)
    assert len(samples) == 3
    first = next((name for name in model.graph.nodes if model.schema[name].levels is not None), None)
    if first is not None:
        model.query(f"P({json.dumps(first)})", 20)
    model.save(run.with_name("saved"))


def mutated_checkpoint(data: bytes, out: Path) -> str:
    """Write a checkpoint that is like one of ours but for a few changes; the kind of its training."""
    choices = Choices(data)
    kind = choices.pick(UNFINISHED)
    content = checkpoint_of(kind)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["mdcm"])
    tensors = load(content)
    for _ in range(1 + choices.below(2)):
        if choices.below(3) == 0:
            change_tensor(choices, tensors)
        else:
            change_value(choices, header["state"])
    shutil.rmtree(out, ignore_errors=True)
    (out / "checkpoints").mkdir(parents=True)
    made = save({name: one.contiguous() for name, one in tensors.items()}, metadata={"mdcm": json.dumps(header)})
    (out / "checkpoints" / f"00000001-{hashlib.sha256(made).hexdigest()[:16]}.safetensors").write_bytes(made)
    return kind


def resume(kind: str, out: Path) -> None:
    """Go on from a checkpoint."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted(kind, out, resume=True)
