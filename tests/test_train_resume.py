"""Safety: a training that is killed at any moment and resumed ends with the same bits; Ctrl-C saves; init keeps."""

import json
import signal
import sys

import numpy as np
import pandas as pd
import pytest
from command_line import ending
from kill_sweep import (
    GRAPH,
    command,
    differences,
    finish,
    kill,
    said,
    same,
    table_of,
    wait_for_checkpoint,
    whole_run,
    write_spec,
)

import mdcm
from mdcm import CheckpointError, TrainConfig
from mdcm.data import Dataset
from mdcm.scm import random_discrete
from mdcm.storage.checkpoints import Checkpoints
from mdcm.storage.run_directory import CHECKPOINTS, MODEL

# ten looks, batches in one h-node and full batches in the others, banks of several and alone
CONFIG = TrainConfig(max_steps=150, checks=10, batch_size=64)


def data(rows=400):
    return table_of(rows).assign(T=np.random.default_rng(0).normal(size=rows))


@pytest.fixture
def spec(tmp_path):
    return write_spec(tmp_path)


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.nightly)])
def test_killed_at_random_moments_and_resumed(spec, tmp_path, kills):
    expected = whole_run(spec, tmp_path / "whole")
    out = tmp_path / "run"
    rng = np.random.default_rng(0)
    number = 0
    for _ in range(kills):
        # one is written after every step, so that how many there are does not depend on how fast the machine is
        number += int(rng.integers(3, 40))
        assert kill(spec, out, number, pause=float(rng.random() * 0.02))
        assert not (out / MODEL).exists()
    finish(spec, out)
    assert differences(expected, out) == []
    # a finished run has nothing to go on with, and is what was asked for
    before = (out / MODEL).read_bytes()
    finish(spec, out)
    assert (out / MODEL).read_bytes() == before
    other = command(spec, out, "--resume", "--seed", "9")
    assert other.wait(200) == 2
    assert "finished run of another training" in said(spec)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_saves_and_exits_with_130(spec, tmp_path):
    out = tmp_path / "run"
    spec.write_text(spec.read_text().replace("seconds: 1.0e-6", "seconds: 2").replace("steps: 90", "steps: 50000"))
    with ending(command(spec, out)) as process:
        wait_for_checkpoint(process, out, 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, said(spec)
    saved = f"what was done is saved in {out}, and the same command with --resume goes on"
    assert said(spec) == f"interrupted; {saved}\n"
    with pytest.raises(CheckpointError, match="its training was not finished, fit with resume=True continues it"):
        mdcm.load(out)
    assert len(list((out / CHECKPOINTS).iterdir())) == 1


class _Stop(Exception):
    pass


class TestInProcess:
    """Stopped before every so many steps, without the cost of a process."""

    def stopped(self, monkeypatch, out, after, table, **options):
        """Train for so many steps, write a checkpoint, and die."""
        steps = 0

        def between(self, snapshot):
            nonlocal steps
            steps += 1
            if steps == after:
                self.write(*snapshot())
                raise _Stop

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "between", between)
            try:
                mdcm.fit(options.pop("graph", GRAPH), table, config=CONFIG, out=out, **options)
            except _Stop:
                return True
        return False

    def test_every_phase_goes_on(self, monkeypatch, tmp_path):
        table = data().drop(columns="T")
        expected = mdcm.fit(GRAPH, table, config=CONFIG)
        # a bank that is packed anew, a refit, the last steps
        alive = True
        for number, after in enumerate((1, 140, 151, 220, 400)):
            out = tmp_path / str(number)
            alive = self.stopped(monkeypatch, out, after, table)
            found = mdcm.fit(GRAPH, table, config=CONFIG, out=out, resume=True)
            assert same(expected.dcm.state_dict(), found.dcm.state_dict()), after
            if not alive:
                break

    def test_metrics_grow_while_it_trains(self, monkeypatch, tmp_path):
        """Every line is whole, what was resumed repeats none, and an older run stays what it is until the end."""
        table, run = data().drop(columns="T"), tmp_path / "run"
        metrics = run / "metrics.jsonl"

        def lines():
            return [json.loads(line) for line in metrics.read_text().splitlines()]

        def checks(records):
            return [(one["hnode"], one["step"], one.get("heldout")) for one in records if one["event"] == "check"]

        whole = mdcm.fit(GRAPH, table, config=CONFIG)
        assert self.stopped(monkeypatch, run, 100, table)
        begun = lines()
        assert 0 < len(begun) < len(whole.history)
        assert checks(begun) == checks(whole.history)[: len(checks(begun))]
        # a checkpoint that does not belong to it leaves them alone
        with pytest.raises(CheckpointError, match="belongs to another training"):
            mdcm.fit(GRAPH, table, config=CONFIG, out=run, resume=True, seed=1)
        assert lines() == begun
        assert self.stopped(monkeypatch, run, 60, table, resume=True)
        assert len(lines()) > len(begun)
        assert checks(lines()) == checks(whole.history)[: len(checks(lines()))]
        mdcm.fit(GRAPH, table, config=CONFIG, out=run, resume=True)
        assert checks(lines()) == checks(whole.history)
        # another training in the same place, killed: the run there is still the former one
        before = mdcm.load(run)
        assert self.stopped(monkeypatch, run, 40, table, seed=5, force=True)
        assert len(lines()) < len(whole.history)
        after = mdcm.load(run)
        assert after.history == before.history
        assert same(before.dcm.state_dict(), after.dcm.state_dict())

    def test_a_checkpoint_of_another_training_is_refused(self, monkeypatch, tmp_path):
        table = data().drop(columns="T")
        assert self.stopped(monkeypatch, tmp_path / "run", 5, table)
        for change in (
            {"seed": 1},
            {"config": TrainConfig(max_steps=149, checks=10, batch_size=64)},
        ):
            with pytest.raises(CheckpointError, match="belongs to another training"):
                mdcm.fit(GRAPH, table, **{"config": CONFIG, **change}, out=tmp_path / "run", resume=True)
        changed = table.assign(A=(table["A"] + 1) % 3)
        with pytest.raises(CheckpointError, match="belongs to another training"):
            mdcm.fit(GRAPH, changed, config=CONFIG, out=tmp_path / "run", resume=True)
        # what cannot be resumed is still there
        assert len(list((tmp_path / "run" / CHECKPOINTS).iterdir())) == 1

    @pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-1] + bytes([b[-1] ^ 1])])
    def test_a_damaged_checkpoint_is_named_and_left_alone(self, monkeypatch, tmp_path, damage):
        table = data().drop(columns="T")
        assert self.stopped(monkeypatch, tmp_path / "run", 5, table)
        (file,) = (tmp_path / "run" / CHECKPOINTS).iterdir()
        file.write_bytes(damage(file.read_bytes()))
        with pytest.raises(CheckpointError, match="is damaged") as caught:
            mdcm.fit(GRAPH, table, config=CONFIG, out=tmp_path / "run", resume=True)
        assert caught.value.path == str(file)
        assert file.exists()
        with pytest.raises(CheckpointError, match="was not finished"):
            mdcm.fit(GRAPH, table, config=CONFIG, out=tmp_path / "run")
        # with --force the training begins anew
        mdcm.fit(GRAPH, table, config=CONFIG, out=tmp_path / "run", force=True)
        assert not (tmp_path / "run" / CHECKPOINTS).exists()

    def test_nothing_is_pickled(self, monkeypatch, tmp_path):
        table = data().drop(columns="T")
        assert self.stopped(monkeypatch, tmp_path / "run", 5, table)
        (file,) = (tmp_path / "run" / CHECKPOINTS).iterdir()
        content = file.read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        state = json.loads(header["__metadata__"]["mdcm"])["state"]
        assert {"done", "elapsed", "encoders", "halved", "history", "job"} == set(state)


class TestInit:
    GRAPH = "A -> B; B -> C; A <-> C; D -> E"

    def tables(self):
        return random_discrete(mdcm.ADMG.from_string(self.GRAPH), levels=2, seed=0).sample(500, seed=0)

    def kept(self, model):
        return {tuple(record["hnode"]) for record in model.history if record.get("kept")}

    def test_h_nodes_whose_data_changed_are_trained_and_the_others_kept(self):
        table = self.tables()
        config = TrainConfig(max_steps=40)
        first = mdcm.fit(self.GRAPH, table, config=config)
        with pytest.warns(UserWarning, match="keep the weights that seed 0 gave them"):
            again = mdcm.fit(self.GRAPH, table, config=config, init=first, seed=5)
        assert self.kept(again) == {("A", "C"), ("B",), ("D",), ("E",)}
        assert same(first.dcm.state_dict(), again.dcm.state_dict())
        # E's values enter only E
        changed = mdcm.fit(self.GRAPH, table.assign(E=1 - table["E"]), config=config, init=first)
        assert self.kept(changed) == {("A", "C"), ("B",), ("D",)}
        # a trial on A adds rows to B and a fit to {A, C}
        trial = Dataset(table.iloc[:100].assign(A=np.arange(100) % 2), do="A")
        more = mdcm.fit(self.GRAPH, [table, trial], config=config, init=changed)
        assert self.kept(more) == set() or ("B",) not in self.kept(more)
        other = mdcm.fit(self.GRAPH, table, config=TrainConfig(max_steps=41), init=first)
        assert self.kept(other) == set()

    def test_another_edge_changes_only_its_child(self):
        table = self.tables()
        config = TrainConfig(max_steps=40)
        first = mdcm.fit(self.GRAPH, table, config=config)
        more = mdcm.fit(f"{self.GRAPH}; D -> B", table, config=config, init=first)
        assert self.kept(more) == {("A", "C"), ("D",), ("E",)}
        loaded_names = [record["hnode"] for record in more.history if record["event"] == "trained"]
        assert sorted(map(tuple, loaded_names)) == [("A", "C"), ("B",), ("D",), ("E",)]

    def test_a_saved_model_can_be_begun_from(self, tmp_path):
        table, config = self.tables(), TrainConfig(max_steps=40)
        first = mdcm.fit(self.GRAPH, table, config=config, out=tmp_path)
        again = mdcm.fit(self.GRAPH, table, config=config, init=mdcm.load(tmp_path))
        assert len(self.kept(again)) == 4
        assert same(first.dcm.state_dict(), again.dcm.state_dict())


def test_a_confounder_that_carries_no_information_is_reported():
    rng = np.random.default_rng(0)
    u = rng.random(4000) < 0.5
    noisy = [(rng.random(4000) < np.where(u, 0.85, 0.15)).astype(int) for _ in range(2)]
    table = pd.DataFrame({"A": noisy[0], "B": noisy[1], "C": rng.integers(0, 2, 4000), "D": rng.integers(0, 2, 4000)})
    model = mdcm.fit("A <-> B; C <-> D", table)
    found = {tuple(r["hnode"]): r["uninformative"] for r in model.history if r["event"] == "trained"}
    assert found == {("A", "B"): [], ("C", "D"): ["U[C,D]"]}


def test_an_adversarial_h_node_goes_on_too(monkeypatch, tmp_path):
    table = data(300)[["A", "B", "C"]]
    options = {"graph": "A -> B -> C; A <-> C", "objective": "adversarial"}
    config = TrainConfig(max_steps=6)
    monkeypatch.setattr(sys.modules[__name__], "CONFIG", config)
    expected = mdcm.fit("A -> B -> C; A <-> C", table, objective="adversarial", config=config)
    assert TestInProcess().stopped(monkeypatch, tmp_path, 9, table, **options)
    found = mdcm.fit("A -> B -> C; A <-> C", table, objective="adversarial", config=config, out=tmp_path, resume=True)
    assert same(expected.dcm.state_dict(), found.dcm.state_dict())
    assert {tuple(r["hnode"]) for r in found.history if r["event"] == "trained"} == {("A", "C"), ("B",)}


def test_an_image_goes_on_too(monkeypatch, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    pictures = Dataset(pd.DataFrame({"D": [0, 1, 1] * 20}), images={"I": images})
    config = TrainConfig(max_steps=6, checks=3, batch_size=8)
    monkeypatch.setattr(sys.modules[__name__], "CONFIG", config)
    expected = mdcm.fit("D -> I", pictures, config=config)
    for after in (2, 9):
        out = tmp_path / str(after)
        assert TestInProcess().stopped(monkeypatch, out, after, pictures, graph="D -> I")
        found = mdcm.fit("D -> I", pictures, config=config, out=out, resume=True)
        assert same(expected.dcm.state_dict(), found.dcm.state_dict())


def test_joint_training_on_columns_that_are_never_seen_together(tmp_path):
    table = data(300)[["A", "B", "C"]]
    model = mdcm.fit(
        "A -> B -> C",
        [table[["A", "B"]], table[["B", "C"]]],
        method="joint",
        config=TrainConfig(max_steps=2),
        out=tmp_path,
    )
    assert len(mdcm.load(tmp_path).draw_samples(5).table) == 5
    assert len(model.plan.hnodes) == 1
