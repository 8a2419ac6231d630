"""Trainings on a cluster of which a process is killed: they end with one line or go on, and resumed with the same bits.

The driver is a process of its own, because Ray may end it, and starts a cluster of its own, as ``--engine ray`` does.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from command_line import ending

import mdcm
from mdcm.cli.spec import read_spec

pytest.importorskip("ray")

GRAPH = "X -> Z; Z -> Y; X <-> Y; Y -> W; Z -> W"
# how the processes of a cluster name themselves
PROCESSES = {
    "worker": r"^ray::_guarded",
    "agent": r"^ray::DashboardAgent|/dashboard/agent\.py ",
    "environments": r"^ray::RuntimeEnvAgent|/runtime_env/agent/main\.py ",
    "raylet": r"/raylet/raylet ",
    "head": r"/gcs/gcs_server ",
}
# seconds in which a cluster starts, and in which a training ends whose cluster is gone; a machine may be busy
START, END = 240, 240


def write_spec(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("cluster")
    truth = mdcm.scm.random_discrete(mdcm.ADMG.from_string(GRAPH), levels=2, seed=0)
    truth.sample(600, seed=0).to_csv(folder / "d.csv", index=False)
    path = folder / "spec.yaml"
    path.write_text(
        f'graph: "{GRAPH}"\ndata: [{{path: d.csv}}]\n'
        f"train: {{max_steps: {steps}, holdout: 0, batch_modules: false, checkpoint_seconds: 0.1}}\n"
    )
    return path


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return write_spec(tmp_path_factory, 1_500)


@pytest.fixture(scope="module")
def long_spec(tmp_path_factory):
    # a cluster without its head works for up to half a minute before that is noticed
    return write_spec(tmp_path_factory, 40_000)


def fitted(spec, **options):
    """The model of a spec, trained here."""
    loaded = read_spec(spec)
    return mdcm.fit(loaded.load_graph(), loaded.load_data(), config=loaded.train.config(), **options)


@pytest.fixture(scope="module")
def undisturbed(spec):
    return fitted(spec)


def listing(columns):
    """All processes, a line each."""
    return subprocess.run(
        ["ps", "-e", "-ww", "-o", columns], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def descendants(process):
    """Command lines of all processes below one, by their ids."""
    listed = listing("pid=,ppid=,args=")
    children: dict[int, list[tuple[int, str]]] = {}
    for line in listed:
        number, parent, *command = line.split(None, 2)
        children.setdefault(int(parent), []).append((int(number), " ".join(command)))
    below, pending = {}, [process]
    while pending:
        for number, command in children.get(pending.pop(), []):
            below[number] = command
            pending.append(number)
    return below


@contextlib.contextmanager
def training(spec, out):
    """``mdcm train --engine ray`` once a first checkpoint of a job is there, and the processes of its cluster."""
    # a worker that gives way to everybody else would take minutes on a busy machine
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    arguments = [sys.executable, "-m", "mdcm.cli", "train", str(spec), "--out", str(out), "--engine", "ray"]
    started = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    cluster: dict[int, str] = {}
    try:
        with ending(started):
            deadline = time.monotonic() + START
            while not list(out.glob("checkpoints/job-*/checkpoints/*.safetensors")):
                assert started.poll() is None, started.communicate()
                assert time.monotonic() < deadline, "nothing was written for too long"
                time.sleep(0.01)
            cluster.update(descendants(started.pid))
            yield started, cluster
    finally:
        # agents whose head is gone wait for it
        for line in listing("pid=,args="):
            number, *command = line.split(None, 1)
            if cluster.get(int(number)) == " ".join(command):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(number), signal.SIGKILL)


def kill(cluster, name):
    victims = [number for number, command in cluster.items() if re.search(PROCESSES[name], command)]
    assert victims, sorted(cluster.values())
    for number in victims:
        os.kill(number, signal.SIGKILL)


def assert_same(one, other):
    mine, theirs = one.dcm.state_dict(), other.dcm.state_dict()
    assert mine.keys() == theirs.keys()
    for key in mine:
        assert torch.equal(mine[key], theirs[key]), key


# clusters that fail in ways that need no process to be killed are always tested, in test_engines.py
@pytest.mark.nightly
@pytest.mark.parametrize("name", ["agent", "raylet", "head", "environments"])
def test_a_lost_cluster_ends_the_training_with_one_line_and_resumed_it_is_the_same(request, tmp_path, name):
    spec = request.getfixturevalue("long_spec" if name == "head" else "spec")
    out = tmp_path / "run"
    with training(spec, out) as (started, cluster):
        kill(cluster, name)
        printed, said = started.communicate(timeout=END)
    assert (started.returncode, printed) == (2, ""), said
    assert said.startswith("error: the Ray cluster has failed: ")
    assert said.endswith(f"; what was done is in {out}, and the same command with --resume goes on\n")
    assert said.count("\n") == 1
    assert_same(fitted(spec, out=out, resume=True), fitted(spec))


@pytest.mark.nightly
def test_lost_workers_change_nothing(spec, undisturbed, tmp_path):
    out = tmp_path / "run"
    with training(spec, out) as (started, cluster):
        kill(cluster, "worker")
        _, said = started.communicate(timeout=END)
    assert (started.returncode, said) == (0, f"saved {out}\n")
    assert_same(mdcm.load(out), undisturbed)
