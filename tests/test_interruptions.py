"""What an interruption says in one line: whether what was done is saved and how it goes on; and that it is so."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import call, ending, succeed

import mdcm
from mdcm.storage.run_directory import CHECKPOINTS, checkpoint_names
from mdcm.training.trainer import Trainer

GRAPH = "X -> Z; Z -> Y; X <-> Y"
DATA = pd.DataFrame({"X": [0, 1] * 200, "Z": [0, 1, 1, 1] * 100, "Y": [0, 0, 1, 1] * 100})
CONFIG = mdcm.TrainConfig(max_steps=8, holdout=0, batch_modules=False)


@pytest.fixture
def spec(tmp_path):
    DATA.to_csv(tmp_path / "d.csv", index=False)
    file = tmp_path / "spec.yaml"
    file.write_text(
        f'graph: "{GRAPH}"\ndata: [{{path: d.csv}}]\ntrain: {{max_steps: 8, holdout: 0, batch_modules: false}}\n'
    )
    return file


def interrupted(program, arguments, is_time, number=signal.SIGINT):
    """Exit code, standard output and standard error of ``mdcm`` that is interrupted when it is time."""
    text = f"import sys\n{textwrap.dedent(program)}\nfrom mdcm.cli.app import main\nmain(sys.argv[1:])"
    started = subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with ending(started):
        deadline = time.monotonic() + 200
        while not is_time():
            assert started.poll() is None, started.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        started.send_signal(number)
        out, err = started.communicate(timeout=100)
    return started.returncode, out, err


WAITING = """
    import pathlib, time
    import mdcm.cli.spec

    def load_data(*given, **named):
        pathlib.Path({marker!r}).touch()
        time.sleep(300)

    mdcm.cli.spec.Spec.load_data = load_data
"""


class TestTraining:
    @pytest.mark.usefixtures("ctrl_c")
    @pytest.mark.parametrize("more", [(), ("--quiet",)])
    @pytest.mark.parametrize(("name", "code", "says"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
    def test_before_a_checkpoint_nothing_is_saved_and_it_says_so(self, spec, tmp_path, more, name, code, says):
        marker = tmp_path / "loading"
        found = interrupted(
            WAITING.format(marker=str(marker)),
            ("train", spec, "--out", tmp_path / "run", *more),
            marker.exists,
            getattr(signal, name),
        )
        assert found == (code, "", f"{says}; nothing was saved\n")
        assert not (tmp_path / "run").exists()

    @pytest.mark.usefixtures("ctrl_c")
    @pytest.mark.parametrize("force", [False, True])
    def test_what_was_done_is_saved_and_goes_on(self, spec, tmp_path, force):
        run = tmp_path / "run"
        text = spec.read_text()
        if force:
            succeed("train", spec, "--out", run)
        spec.write_text(text.replace("max_steps: 8", "max_steps: 60000, checkpoint_seconds: 0.2"))
        found = interrupted(
            "", ("train", spec, "--out", run, *(["--force"] if force else [])), lambda: checkpoint_names(run)
        )
        how = "--resume instead of --force" if force else "--resume"
        said = f"interrupted; what was done is saved in {run}, and the same command with {how} goes on\n"
        assert found == (130, "", said)
        # how long it goes on is no part of what is resumed
        spec.write_text(text.replace("max_steps: 8", "max_steps: 60000, max_minutes: 0.01"))
        succeed("train", spec, "--out", run, "--resume")
        assert mdcm.load(run).history

    @pytest.mark.parametrize("kind", ["finished", "unfinished"])
    def test_force_that_comes_to_nothing_leaves_what_was_there(self, spec, tmp_path, monkeypatch, kind):
        run = tmp_path / "run"
        if kind == "finished":
            succeed("train", spec, "--out", run)
        else:
            (run / CHECKPOINTS).mkdir(parents=True)
            (run / CHECKPOINTS / f"00000001-{'0' * 16}.safetensors").write_text("")
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        monkeypatch.setattr("mdcm.cli.spec.Spec.load_data", stop)
        result = call("train", spec, "--out", run, "--force")
        said = f"interrupted; nothing was saved, and what was in {run} is as it was\n"
        assert (result.code, result.out, result.err) == (130, "", said)
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    def test_an_ensemble_that_is_not_begun(self, spec, tmp_path, monkeypatch):
        run = tmp_path / "run"
        with monkeypatch.context() as patch:
            patch.setattr("mdcm.model.model.Model._train_ensemble", stop)
            result = call("train", spec, "--out", run, "--ensemble", 2)
        said = f"interrupted; the trained model is saved in {run}, and the same command with --resume goes on\n"
        assert (result.code, result.out, result.err) == (130, "", said)
        succeed("train", spec, "--out", run, "--ensemble", 2, "--resume")
        assert len(mdcm.load(run).members) == 2

    @pytest.mark.usefixtures("ctrl_c")
    @pytest.mark.parametrize("members", [0, 2])
    def test_ctrl_c_after_the_last_step_is_obeyed_and_loses_nothing(self, tmp_path, monkeypatch, members):
        expected = mdcm.fit(GRAPH, DATA, config=CONFIG, ensemble=members)
        names, jobs = [], len(expected.plan.hnodes)
        train = Trainer.train

        def trained(self):
            train(self)
            names.append(self.hnodes)
            if len(names) == jobs:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(Trainer, "train", trained)
        with pytest.raises(KeyboardInterrupt):
            mdcm.fit(GRAPH, DATA, config=CONFIG, ensemble=members, out=tmp_path / "run")
        assert len(names) == jobs
        found = mdcm.fit(GRAPH, DATA, config=CONFIG, ensemble=members, out=tmp_path / "run", resume=True)
        # what was trained is not trained again
        assert len(names) == jobs * (1 + members)
        for one, other in zip((found.dcm, *found.members), (expected.dcm, *expected.members), strict=True):
            for key, value in one.state_dict().items():
                assert torch.equal(value, other.state_dict()[key]), key
        assert [record["event"] for record in found.history] == [record["event"] for record in expected.history]


SMALL = """
    from dataclasses import replace
    from mdcm import TrainConfig
    from mdcm.experiments import demo

    demo._FULL = replace(
        demo._FAST, rows=300, draws=64, real_draws=200, pictures=(1, 50), judge_steps=5,
        config=TrainConfig(max_steps=20, checkpoint_seconds=0),
    )
"""


class TestDemo:
    # the training of a spec, which is interrupted and goes on in the same way, is always tested
    @pytest.mark.nightly
    @pytest.mark.usefixtures("ctrl_c")
    def test_its_training_goes_on(self, tmp_path):
        out = tmp_path / "demo"
        arguments = ("demo", "--out", out)
        found = interrupted(SMALL, arguments, lambda: checkpoint_names(out / "model"))
        run = out / "model"
        said = f"interrupted; what was done is saved in {run}, and the same command with --resume goes on\n"
        assert found == (130, "", said)
        text = f"import sys\n{textwrap.dedent(SMALL)}\nfrom mdcm.cli.app import main\nmain(sys.argv[1:])"
        subprocess.run(
            [sys.executable, "-c", text, *map(str, arguments), "--resume"],
            check=True,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert {"digits.png", "plan.svg", "metrics.json", "model"} == {path.name for path in out.iterdir()}

    @pytest.mark.parametrize("kind", ["before", "after"])
    def test_before_and_after_its_training(self, tmp_path, monkeypatch, kind):
        out = tmp_path / "demo"

        def run(*given, **named):
            if kind == "after":
                mdcm.fit(GRAPH, DATA, config=CONFIG, out=out / "model")
            raise KeyboardInterrupt

        monkeypatch.setattr("mdcm.experiments.demo.run", run)
        result = call("demo", "--out", out)
        after = f"the trained model is saved in {out / 'model'}, and the same command with --resume goes on"
        said = after if kind == "after" else "nothing was saved"
        assert (result.code, result.out, result.err) == (130, "", f"interrupted; {said}\n")


def test_an_experiment_saves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("mdcm.experiments.command.run_experiment", stop)
    result = call("experiment", "complexity", "--fast", "--out", tmp_path / "run")
    assert (result.code, result.out, result.err) == (130, "", "interrupted; nothing was saved\n")


def stop(*given, **named):
    raise KeyboardInterrupt


def test_names_of_checkpoints(tmp_path):
    """Those of jobs too, and nothing else."""
    names = [f"{number:08}-{number:016x}.safetensors" for number in range(3)]
    folder = tmp_path / CHECKPOINTS
    (folder / "job-00007" / CHECKPOINTS).mkdir(parents=True)
    (folder / "notes").mkdir()
    for path in (folder / names[0], folder / "job-00007" / CHECKPOINTS / names[1], folder / "notes" / names[2]):
        path.write_bytes(np.zeros(1).tobytes())
    expected = [names[0], f"job-00007/{CHECKPOINTS}/{names[1]}"]
    assert checkpoint_names(tmp_path) == [f"{CHECKPOINTS}/{name}" for name in expected]
