"""Engines: h-nodes as tasks of a local Ray cluster, with the weights of training in this process, whoever is killed."""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from command_line import fail

import mdcm
from mdcm.engines import _CHECK_INTERVAL, _HEAD_TIMEOUT, ClusterError, RayEngine, _answers, engine_of
from mdcm.mechanisms import Categorical
from mdcm.storage.checkpoints import Checkpoints
from mdcm.storage.disk import Folder
from mdcm.text.limits import RANGES
from mdcm.training.adversarial_config import AdversarialConfig

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
    # workers that give way to everybody else take minutes on a busy machine
    os.environ.update(RAY_worker_niceness="0")
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


def pretend(monkeypatch, **answers):
    """Ray without a cluster, of which some calls answer otherwise, or raise."""

    def answering(name, function):
        def call(*args, **kwargs):
            if isinstance(answers.get(name), Exception):
                raise answers[name]
            return answers[name] if name in answers else function(*args, **kwargs)

        return call

    def wait(waiting, **options):
        return waiting[:1], waiting[1:]

    functions = {
        "is_initialized": lambda: True, "init": lambda **settings: None, "put": lambda value: value, "wait": wait,
        "get": lambda reference: reference(), "nodes": lambda: [{"Alive": True}], "cancel": lambda *a, **k: None,
        "get_runtime_context": lambda: SimpleNamespace(gcs_address="127.0.0.1:1"),
    }  # fmt: skip
    monkeypatch.setattr("mdcm.engines._answers", lambda host, port: answers.get("head", True))
    fake = SimpleNamespace(
        exceptions=ray.exceptions,
        remote=lambda **options: lambda function: SimpleNamespace(remote=lambda *given: partial(function, *given)),
        **{name: answering(name, function) for name, function in functions.items()},
    )
    monkeypatch.setattr("mdcm.engines._ray", lambda: fake)
    return fake


class Elsewhere:
    """An engine whose workers have another working directory, and perhaps another disk."""

    def __init__(self, folder, disk=None):
        self.folder, self.disk, self.done = folder, disk, 0

    @contextlib.contextmanager
    def open(self):
        yield

    def map(self, function, shared, tasks, *, gpu=False):
        for number, task in enumerate(tasks):
            if self.disk is not None:
                task = dataclasses.replace(task, files=Folder(self.disk, task.files.parts))
            with contextlib.chdir(self.folder):
                result = function(shared, task)
            self.done += 1
            yield number, result


class TestDirectoriesOfWorkers:
    CONFIG = mdcm.TrainConfig(max_steps=6, checkpoint_seconds=0)

    def test_a_relative_run_is_one_place_for_everybody(self, tmp_path, monkeypatch):
        for name in ("here", "there"):
            (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / "here")
        for seed, more in ((0, {}), (1, {"force": True}), (1, {"resume": True, "ensemble": 2})):
            engine = Elsewhere(tmp_path / "there")
            mdcm.fit(GRAPH, DATA, config=self.CONFIG, out="run", engine=engine, seed=seed, **more)
            assert engine.done or "resume" in more
        assert list((tmp_path / "there").iterdir()) == []
        names = sorted(path.name for path in (tmp_path / "here" / "run").iterdir())
        assert names == ["metrics.jsonl", "model.json", "weights.safetensors"]

    @pytest.mark.parametrize("copied", [False, True])
    def test_a_disk_that_is_not_shared_is_found_out_before_anything_is_written(self, tmp_path, copied):
        for name in ("here", "there", "disk"):
            (tmp_path / name).mkdir()
        if copied:
            # a directory of that name with a file of another training in it
            (tmp_path / "disk" / "checkpoints").mkdir(parents=True)
            (tmp_path / "disk" / "checkpoints" / f"shared-{'0' * 32}").write_text("0" * 32)
        before = sorted((tmp_path / "disk").rglob("*"))
        with pytest.raises(mdcm.MdcmError, match=r"does not see .*disk/checkpoints.*that all machines .* share"):
            mdcm.fit(
                GRAPH, DATA, config=self.CONFIG, out=tmp_path / "here" / "run",
                engine=Elsewhere(tmp_path / "there", tmp_path / "disk"),
            )  # fmt: skip
        assert sorted((tmp_path / "disk").rglob("*")) == before
        # nothing is left that would have to be removed before another try
        mdcm.fit(GRAPH, DATA, config=self.CONFIG, out=tmp_path / "here" / "run")

    def test_a_program_that_changes_its_directory_while_it_trains(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "other").mkdir()
        write = Checkpoints.write

        def wandering(self, *given):
            os.chdir(tmp_path / "other")
            write(self, *given)

        monkeypatch.setattr(Checkpoints, "write", wandering)
        mdcm.fit(GRAPH, DATA, config=self.CONFIG, out="run")
        assert list((tmp_path / "other").iterdir()) == []
        assert (tmp_path / "run" / "model.json").exists()

    def test_what_a_killed_driver_left_is_removed_with_the_checkpoints(self, tmp_path):
        folder = tmp_path / "run" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / f"shared-{'a' * 32}").write_text("a" * 32)
        (folder / f"shared-{'b' * 32}").write_text("mine")
        mdcm.fit(GRAPH, DATA, config=self.CONFIG, out=tmp_path / "run", force=True)
        assert [path.name for path in folder.iterdir()] == [f"shared-{'b' * 32}"]


class Failing(Elsewhere):
    """A cluster that fails after its first task."""

    def map(self, function, shared, tasks, *, gpu=False):
        for number, one in enumerate(super().map(function, shared, tasks, gpu=gpu)):
            if number:
                raise ClusterError("the Ray cluster has failed: none of its nodes is alive")
            yield one


class TestFailingClusters:
    CONFIG = mdcm.TrainConfig(max_steps=30, checkpoint_seconds=0, batch_modules=False)

    @pytest.mark.parametrize("members", [0, 2])
    def test_the_error_says_how_to_go_on_and_that_is_so(self, tmp_path, members):
        expected = mdcm.fit(GRAPH, DATA, config=self.CONFIG, ensemble=members)
        out = tmp_path / "run"
        said = rf"none of its nodes is alive; what was done is in {out}, and resume=True goes on$"
        with pytest.raises(ClusterError, match=said):
            mdcm.fit(GRAPH, DATA, config=self.CONFIG, ensemble=members, out=out, engine=Failing(tmp_path))
        found = mdcm.fit(GRAPH, DATA, config=self.CONFIG, ensemble=members, out=out, resume=True)
        assert_same(found.dcm, expected.dcm)
        for one, other in zip(found.members, expected.members, strict=True):
            assert_same(one, other)

    def test_from_the_shell(self, tmp_path, monkeypatch):
        DATA.to_csv(tmp_path / "d.csv", index=False)
        (tmp_path / "s.yaml").write_text(
            'graph: "X -> Z; Z -> Y; X <-> Y; Y -> W; Z -> W"\ndata: [{path: d.csv}]\n'
            "train: {max_steps: 30, checkpoint_seconds: 0, batch_modules: false}\n"
        )
        monkeypatch.setattr("mdcm.model.fitting.engine_of", lambda name: Failing(tmp_path))
        message = fail(2, "train", tmp_path / "s.yaml", "--out", tmp_path / "run", "--engine", "ray")
        assert message.count("the same command with --resume goes on") == 1
        assert "none of its nodes is alive; what was done is in" in message

    def test_where_nothing_is_saved_nothing_is_promised(self, tmp_path):
        with pytest.raises(ClusterError, match=r"none of its nodes is alive$"):
            mdcm.fit(GRAPH, DATA, config=self.CONFIG, engine=Failing(tmp_path))


def ends(shared, task):
    if task == 1:
        os._exit(1)
    return shared + task


class OddError(Exception):
    """One that does not come back from a process as it was."""

    def __init__(self, first, second):
        super().__init__(first)


def refuses(shared, task):
    raise (mdcm.PlanError("not so") if task else OddError(1, 2))


@pytest.fixture
def driver(monkeypatch):
    """A process that talks to a cluster, of which there is none: it does what it is asked itself."""
    program = (
        "import mdcm.engines as engines, contextlib\n"
        "def run(self, function, shared, tasks, *, gpu=False):\n"
        "    for number, task in enumerate(tasks):\n"
        "        yield number, function(shared, task)\n"
        "engines.RayEngine._map = run\n"
        "engines.RayEngine._joined = lambda self: contextlib.nullcontext()\n"
    )
    started = []
    popen = subprocess.Popen

    def starting(arguments, **options):
        started.append(popen([*arguments[:2], program + arguments[2]], **options))
        return started[-1]

    monkeypatch.setattr("mdcm.engines.subprocess.Popen", starting)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    yield started
    assert all(process.poll() is not None for process in started)


class TestDriver:
    """What talks to Ray is a process that may be lost."""

    def test_results_come_back_and_calls_follow_each_other(self, driver):
        engine = RayEngine()
        with engine.open():
            assert list(engine.map(divmod, 7, [2, 3])) == [(0, (3, 1)), (1, (2, 1))]
            assert list(engine.map(max, 7, [9])) == [(0, 9)]
        assert list(engine.map(max, 7, [9])) == [(0, 9)]
        assert len(driver) == 2

    def test_its_end_is_an_error_that_says_so(self, driver):
        found = []
        with pytest.raises(ClusterError, match="Ray has ended the process that used it"):
            found += RayEngine().map(ends, 7, [0, 1, 2])
        engine = RayEngine()
        with engine.open():
            os.kill(driver[-1].pid, signal.SIGKILL)
            driver[-1].wait()
            with pytest.raises(ClusterError, match="Ray has ended the process that used it"):
                list(engine.map(divmod, 7, [2]))

    def test_errors_are_raised_as_they_were_there(self, driver):
        engine = RayEngine()
        with engine.open(), pytest.raises(ZeroDivisionError):
            list(engine.map(divmod, 7, [0]))
        with engine.open():
            with pytest.raises(mdcm.PlanError, match="not so"):
                list(engine.map(refuses, 7, [1]))
            assert list(engine.map(max, 7, [9])) == [(0, 9)]
        with pytest.raises(Exception, match=r"OddError|missing 1 required"):
            list(engine.map(refuses, 7, [0]))

    def test_a_call_that_is_given_up_ends_it(self, driver):
        engine = RayEngine()
        with engine.open():
            for _ in engine.map(max, 7, [9, 10]):
                break
            assert list(engine.map(max, 7, [9])) == [(0, 9)]
        assert len(driver) == 2

    def test_it_cannot_be_started(self, driver, monkeypatch):
        monkeypatch.setattr("mdcm.engines.sys.executable", "/bin/false")
        with pytest.raises(ClusterError):
            list(RayEngine().map(max, 7, [9]))


class TestErrors:
    def test_starting_a_cluster_is_silent(self, tmp_path):
        program = "from mdcm.engines import RayEngine\nwith RayEngine(num_cpus=1).open():\n    pass"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
        assert (done.stdout, done.stderr) == ("", "")

    def test_what_is_refused_there_is_refused_here(self, cluster, monkeypatch):
        # no rate that is allowed diverges here
        monkeypatch.setitem(RANGES, "learning_rate", ("above", 0, 1e38))
        config = mdcm.TrainConfig(max_steps=60, learning_rate=1e30, batch_modules=False)
        with pytest.raises(mdcm.MdcmError, match="diverged"):
            mdcm.fit(GRAPH, DATA, config=config, engine=cluster)

    @pytest.mark.parametrize("call", ["put", "wait", "get"])
    @pytest.mark.parametrize(
        "error",
        [
            ray.exceptions.RaySystemError("lost"), ray.exceptions.LocalRayletDiedError(),
            ray.exceptions.NodeDiedError("n"), ray.exceptions.WorkerCrashedError(),
            ray.exceptions.OutOfMemoryError("memory"), ray.exceptions.ObjectStoreFullError("x" * 1000),
            ray.exceptions.RayError(),
        ],
        ids=lambda error: type(error).__name__,
    )  # fmt: skip
    def test_errors_of_ray_are_said_plainly(self, monkeypatch, call, error):
        pretend(monkeypatch, **{call: error})
        with pytest.raises(
            ClusterError, match=r"the Ray cluster has failed|workers were lost|a worker ran out"
        ) as told:
            list(RayEngine().map(divmod, 7, [2]))
        assert len(str(told.value)) < 500
        assert isinstance(told.value, mdcm.MdcmError)

    def test_a_cluster_without_a_living_node_is_not_waited_for(self, monkeypatch):
        pretend(monkeypatch, wait=([], []), nodes=[{"Alive": False}])
        with pytest.raises(ClusterError, match="none of its nodes is alive"):
            list(RayEngine().map(divmod, 7, [2]))

    def test_a_cluster_without_a_head_is_given_up_before_ray_ends_this_process(self, monkeypatch):
        monkeypatch.setattr("mdcm.engines._HEAD_TIMEOUT", 0.0)
        pretend(monkeypatch, head=False)
        with pytest.raises(ClusterError, match=r"its head \(GCS\) no longer answers"):
            list(RayEngine().map(divmod, 7, [2]))
        assert _CHECK_INTERVAL + _HEAD_TIMEOUT < 60

    def test_a_head_that_comes_back_is_waited_for(self, monkeypatch):
        pretend(monkeypatch)
        answers = iter([False, False, *[True] * 9])
        monkeypatch.setattr("mdcm.engines._answers", lambda host, port: next(answers))
        monkeypatch.setattr("mdcm.engines.time.sleep", lambda seconds: None)
        assert list(RayEngine().map(divmod, 7, [2])) == [(0, (3, 1))]

    def test_who_answers_and_who_does_not(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            assert _answers("127.0.0.1", port)
        assert not _answers("127.0.0.1", port)

    def test_a_mistake_in_a_task_is_raised_as_it_was_there(self, monkeypatch):
        pretend(monkeypatch, get=ray.exceptions.RayTaskError("divmod", "traceback", ZeroDivisionError("zero")))
        with pytest.raises(ZeroDivisionError, match="zero"):
            list(RayEngine().map(divmod, 1, [0]))

    @pytest.mark.parametrize("error", [RuntimeError("no\nport"), ConnectionError("far"), ValueError("odd")], ids=repr)
    def test_a_cluster_that_cannot_be_started(self, monkeypatch, error):
        pretend(monkeypatch, is_initialized=False, init=error)
        with (
            pytest.raises(ClusterError, match=r"no Ray cluster can be started or joined: [a-z ]+$"),
            RayEngine()._joined(),
        ):
            pass

    def test_the_handler_of_sigterm_stays(self, monkeypatch):
        def init(**settings):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

        before = signal.getsignal(signal.SIGTERM)
        fake = pretend(monkeypatch, is_initialized=False)
        fake.init, fake.shutdown = init, lambda: None
        with RayEngine()._joined():
            assert list(RayEngine()._map(divmod, 7, [2])) == [(0, (3, 1))]
        assert signal.getsignal(signal.SIGTERM) == before

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
