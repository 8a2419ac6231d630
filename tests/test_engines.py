"""Engines: h-nodes as tasks of a local Ray cluster, with the weights of training in this process, whoever is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import fail

import mdcm
from mdcm.engines import RayEngine, engine_of
from mdcm.mechanisms import Categorical
from mdcm.objectives.adversarial import AdversarialConfig

ray = pytest.importorskip("ray")

# Ray's own modules warn, and its sockets are closed by its own processes
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

GRAPH = mdcm.ADMG.from_string("X -> Z; Z -> Y; X <-> Y; Y -> W; Z -> W")
TRUTH = mdcm.scm.random_discrete(GRAPH, levels=2, seed=0)
DATA = TRUTH.sample(600, seed=0)


@pytest.fixture(scope="module")
def cluster():
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}},
    )  # fmt: skip
    yield RayEngine()
    ray.shutdown()


def assert_same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for key in mine:
        assert torch.equal(mine[key], theirs[key]), key


def untimed(history):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history]


class Fragile(Categorical):
    """Kills its process once, in the middle of training, and leaves a note."""

    def __init__(self, variable, parents, latents, *, note):
        super().__init__(variable, parents, latents)
        self.note, self.calls = Path(note), 0

    def log_prob_table(self, *args, **kwargs):
        self._risk()
        return super().log_prob_table(*args, **kwargs)

    def forward(self, *args, **kwargs):
        self._risk()
        return super().forward(*args, **kwargs)

    def log_prob(self, *args, **kwargs):
        self._risk()
        return super().log_prob(*args, **kwargs)

    def table(self, *args, **kwargs):
        self._risk()
        return super().table(*args, **kwargs)

    def _risk(self):
        self.calls += 1
        if self.training and self.calls == 20 and not self.note.exists():
            self.note.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)


class TestSameWeights:
    @pytest.mark.parametrize("batch", [True, False])
    def test_likelihood(self, cluster, batch):
        config = mdcm.TrainConfig(max_steps=60, batch_modules=batch)
        here = mdcm.fit(GRAPH, DATA, config=config, ensemble=2)
        there = mdcm.fit(GRAPH, DATA, config=config, ensemble=2, engine=cluster)
        assert_same(here.dcm, there.dcm)
        for one, other in zip(here.members, there.members, strict=True):
            assert_same(one, other)
        assert untimed(here.history) == untimed(there.history)

    def test_growing_confounders(self, cluster):
        """H-nodes that are trained again with more states come back from the workers as such."""
        graph = mdcm.ADMG(nodes=["A", "B", "C"], latents={"U": ["A", "B", "C"]})
        states = torch.arange(4_000) % 16
        data = pd.DataFrame({"A": states % 4, "B": states // 4, "C": (states * 7 % 16) % 4})
        config = mdcm.TrainConfig(batch_modules=False)
        here, there = (mdcm.fit(graph, data, config=config, engine=engine) for engine in ("local", cluster))
        assert_same(here.dcm, there.dcm)
        assert here.dcm.states == there.dcm.states

    def test_critics_on_trained_ancestors(self, cluster):
        config = mdcm.TrainConfig(max_steps=6, adversarial=AdversarialConfig(batch_size=32))
        here, there = (
            mdcm.fit(GRAPH, DATA, objective="adversarial", config=config, engine=engine)
            for engine in ("local", cluster)
        )
        assert len(here.plan.levels) > 1
        assert_same(here.dcm, there.dcm)
        assert untimed(here.history) == untimed(there.history)


class TestDraws:
    @pytest.mark.parametrize(
        "asked", [{}, {"do": {"X": 1}}, {"given": {"W": 1}}, {"evidence": {"X": 1, "Y": 0}, "do": {"X": 0}}], ids=str
    )
    # the verdict on what is drawn is the subject of test_verdicts.py
    @pytest.mark.filterwarnings("ignore:.* (is not determined|is not shown|the answer rests|of the answer|no row of)")
    def test_rows_are_the_same_and_in_order(self, cluster, monkeypatch, asked):
        monkeypatch.setattr("mdcm.sampling.draws._BLOCK", 64)
        monkeypatch.setattr("mdcm.sampling.requests._BLOCKS_PER_TASK", 3)
        model = mdcm.fit(GRAPH, DATA, config=mdcm.TrainConfig(max_steps=20))
        here, there = (
            pd.concat([block.table for block in model.stream_samples(1_000, engine=engine, **asked)], ignore_index=True)
            for engine in (None, cluster)
        )
        assert len(here) == 1_000
        pd.testing.assert_frame_equal(here, there)


class TestLostWorkers:
    @pytest.mark.parametrize("saved", [False, True])
    def test_a_killed_worker_changes_nothing(self, cluster, tmp_path, saved):
        def fitted(note, engine, out=None):
            factory = {"Y": lambda *given: Fragile(*given, note=note)}
            config = mdcm.TrainConfig(max_steps=60, checkpoint_seconds=0)
            return mdcm.fit(GRAPH, DATA, mechanisms=factory, config=config, engine=engine, out=out)

        (tmp_path / "unharmed").write_text("")
        here = fitted(tmp_path / "unharmed", "local")
        there = fitted(tmp_path / "killed", cluster, tmp_path / "run" if saved else None)
        assert int((tmp_path / "killed").read_text()) != os.getpid()
        assert_same(here.dcm, there.dcm)
        assert untimed(here.history) == untimed(there.history)
        if saved:
            names = sorted(path.name for path in (tmp_path / "run").iterdir())
            assert names == ["metrics.jsonl", "model.json", "weights.safetensors"]

    def test_resumed_by_another_driver(self, cluster, tmp_path, monkeypatch):
        config = mdcm.TrainConfig(max_steps=60, checkpoint_seconds=0, batch_modules=False)
        expected = mdcm.fit(GRAPH, DATA, config=config)

        class Halfway(RayEngine):
            def map(self, function, shared, tasks, *, gpu=False):
                for number, one in enumerate(super().map(function, shared, tasks, gpu=gpu)):
                    if number == 1:
                        raise KeyboardInterrupt
                    yield one

        out = tmp_path / "run"
        with pytest.raises(KeyboardInterrupt):
            mdcm.fit(GRAPH, DATA, config=config, engine=Halfway(), out=out)
        assert list((out / "checkpoints").iterdir())
        found = mdcm.fit(GRAPH, DATA, config=config, engine=cluster, out=out, resume=True)
        assert_same(found.dcm, expected.dcm)


class TestErrors:
    def test_starting_a_cluster_is_silent(self, tmp_path):
        program = "from mdcm.engines import RayEngine\nwith RayEngine(num_cpus=1).open():\n    pass"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert (done.stdout, done.stderr) == ("", "")

    def test_what_is_refused_there_is_refused_here(self, cluster):
        config = mdcm.TrainConfig(max_steps=60, learning_rate=1e30, batch_modules=False)
        with pytest.raises(mdcm.MdcmError, match="diverged"):
            mdcm.fit(GRAPH, DATA, config=config, engine=cluster)

    def test_names(self, tmp_path):
        assert isinstance(engine_of("ray"), RayEngine)
        with pytest.raises(mdcm.PlanError, match="'local' or 'ray'"):
            engine_of("spark")
        DATA.to_csv(tmp_path / "d.csv", index=False)
        (tmp_path / "s.yaml").write_text("graph: 'X -> Y'\ndata: [{path: d.csv}]\n")
        assert "'spark'" in fail(2, "train", tmp_path / "s.yaml", "--out", tmp_path / "r", "--engine", "spark")

    def test_without_ray_the_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "ray", None)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(mdcm.MdcmError, match=r"mdcm\[ray\]"):
            engine_of("ray")
