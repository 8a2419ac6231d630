"""Checkpoints with the right checksum and the right fingerprint that say what no training can have said."""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load, save

import mdcm
from mdcm import CheckpointError, TrainConfig
from mdcm.storage.checkpoints import Checkpoints
from mdcm.training.adversarial_config import AdversarialConfig

GRAPH = "X -> Z; Z -> Y; X <-> Y"
NAN = float("nan")
KINDS = {
    "likelihood": ({}, TrainConfig(max_steps=6, checks=2, batch_size=64)),
    "critics": (
        {"objective": "adversarial"},
        TrainConfig(max_steps=4, adversarial=AdversarialConfig(checks=2, hidden=8, encoder_steps=1, batch_size=16)),
    ),
}


class _Stop(Exception):
    pass


def fit(kind, out, **more):
    options, config = KINDS[kind]
    rng = np.random.default_rng(0)
    table = pd.DataFrame({name: rng.integers(0, 2, 200) for name in "XZ"}).assign(Y=rng.normal(size=200))
    return mdcm.fit(GRAPH, table, config=config, out=out, **options, **more)


def stopped(kind, out, after):
    """A run directory with the checkpoint of a training that was stopped after some steps."""
    left = [after]
    between = Checkpoints.between

    def stop(self, snapshot):
        left[0] -= 1
        if left[0] == 0:
            self.write(*snapshot())
            raise _Stop
        between(self, snapshot)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "between", stop)
        with pytest.raises(_Stop):
            fit(kind, out)
    (file,) = (out / "checkpoints").iterdir()
    return file.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Of each kind a checkpoint in its first and one in its second job."""
    folder = tmp_path_factory.mktemp("whole")
    return {
        ("likelihood", 0): stopped("likelihood", folder / "a", 3),
        ("likelihood", 1): stopped("likelihood", folder / "b", 14),
        ("critics", 0): stopped("critics", folder / "c", 3),
    }


def forge(content, out, change):
    """The checkpoint with another content, under the name that its checksum asks for."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["mdcm"])
    tensors = load(content)
    change(header["state"], tensors)
    made = save(tensors, metadata={"mdcm": json.dumps(header)})
    folder = Path(out) / "checkpoints"
    folder.mkdir(parents=True)
    file = folder / f"00000001-{hashlib.sha256(made).hexdigest()[:16]}.safetensors"
    file.write_bytes(made)
    return file


def state(**values):
    return lambda header, _: header.update(values)


def job(**values):
    return lambda header, _: header["job"].update(values)


def objective(**values):
    return lambda header, _: header["job"]["objective"].update(values)


def tensor(name, change):
    def changed(_, tensors):
        key = next(key for key in tensors if key.startswith(name))
        tensors[key] = change(tensors[key])

    return changed


FORGED = {
    "done huge": (state(done=10**18), "counts as done, and no record says"),
    "done negative": (state(done=-1), "state.done must be a whole number from 0"),
    "done too far": (state(done=1), "counts as done, and no record says that it was trained"),
    "done a text": (state(done="1"), "state.done must be a whole number"),
    "done a fraction": (state(done=0.5), "state.done must be a whole number"),
    "elapsed endless": (state(elapsed=float("inf")), "state.elapsed must be a finite number"),
    "elapsed negative": (state(elapsed=-1.0), "state.elapsed must be a finite number of at least 0"),
    "history of strangers": (
        state(history=[{"event": "trained", "hnode": ["Q"]}]),
        r"its history speaks of \['Q'\], which is not an h-node",
    ),
    "history of texts": (state(history=["trained"]), r"state.history\[0\] must be a mapping"),
    "no job": (state(job=None), "does not fit the model"),
    "encoders": (state(encoders=[{"X": {"a": 1}}] * 3), "does not fit the model"),
    "a field more": (state(extra=1), "'extra' is not a known field"),
    "step not a number": (job(step=NAN), "job.step must be a whole number"),
    "step huge": (job(step=10**9), "job.step must be at most"),
    "step negative": (job(step=-3), "job.step must be a whole number"),
    "nobody alive": (job(alive=[]), "job.alive must name an h-node"),
    "somebody twice": (job(alive=[0, 0]), "job.alive must name some of"),
    "somebody else": (job(alive=[7]), "job.alive must name some of"),
    "grown": (objective(grown=[99]), "job.objective.grown must name some of"),
    "targets": (job(targets=[10**12]), "job.targets must"),
    "kept": (job(kept_step=[]), "job.kept_step must have"),
    "loss": (job(kept_loss=[NAN, NAN, NAN]), r"job.kept_loss\[0\] must be a finite number"),
    "tables": (objective(tables=[[0, 10**12, 10**12]]), "does not fit the model"),
    "seconds": (job(seconds=-1), "job.seconds must be a finite number"),
    "weights not finite": (
        tensor("model.0.priors", lambda one: one.float() * NAN),
        "holds numbers that are not finite",
    ),
    "weights of another shape": (
        tensor("job.objective.weights.0", lambda one: one[..., :1].clone()),
        "does not fit the model",
    ),
}
AGAINST_CRITICS = {
    "steps": (job(step=10**9), "job.step must be at most 4"),
    "negative": (job(since=[-5]), r"job.since\[0\] must be a whole number"),
    "alive": (job(alive=[99]), "job.alive must name some of"),
    "packed": (objective(packed=[99]), "job.objective.packed must name some of"),
    "packed without who is trained": (objective(packed=[0, 0]), "job.objective.packed must name some of"),
    "best not finite": (tensor("job.best.0", lambda one: one * NAN), "not finite"),
    "best of other fits": (tensor("job.best.0", lambda one: one.repeat(3)), "must have 1 distances"),
    "moments of another shape": (tensor("job.objective.0.moments.0", lambda one: one[:1].clone()), "does not fit"),
}


def refused(kind, content, out, change, match):
    file = forge(content, out, change)
    start = time.process_time()
    with pytest.raises(CheckpointError, match=match) as caught:
        fit(kind, out, resume=True)
    assert time.process_time() - start < 5
    assert str(file) in str(caught.value)
    assert caught.value.path == str(file)
    # and it is still there
    assert file.exists()
    assert not (out / "model.json").exists()


@pytest.mark.parametrize(("change", "match"), FORGED.values(), ids=FORGED.keys())
def test_what_no_training_says_is_refused(whole, tmp_path, change, match):
    refused("likelihood", whole["likelihood", 0], tmp_path / "run", change, match)


@pytest.mark.parametrize(("change", "match"), AGAINST_CRITICS.values(), ids=AGAINST_CRITICS.keys())
def test_against_critics_likewise(whole, tmp_path, change, match):
    refused("critics", whole["critics", 0], tmp_path / "run", change, match)


def test_more_jobs_than_there_are(whole, tmp_path):
    def trained(header, _):
        header.update(done=10**18)
        record = {"event": "trained", "states": {}, "uninformative": []}
        header["history"] += [{**record, "hnode": hnode} for hnode in (["X", "Y"], ["Z"])]

    match = "it says that 1,000,000,000,000,000,000 jobs are done and one is under way, and there are 2"
    refused("likelihood", whole["likelihood", 0], tmp_path / "run", trained, match)


def test_a_record_that_is_taken_away_is_missed(whole, tmp_path):
    content = whole["likelihood", 1]
    assert b'\\"done\\": 1' in content
    forged = lambda header, _: header.update(history=[one for one in header["history"] if one["event"] != "trained"])  # noqa: E731
    refused("likelihood", content, tmp_path / "run", forged, "no record says that it was trained")


@pytest.mark.parametrize(("kind", "place"), [("likelihood", 0), ("likelihood", 1), ("critics", 0)])
def test_what_was_written_is_still_taken(whole, tmp_path, kind, place):
    forge(whole[kind, place], tmp_path / "run", lambda header, tensors: None)
    fit(kind, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "model.json").exists()
