"""Steps that are captured and replayed: the same bits as steps that are started one by one.

Where there is no CUDA device a tape stands in for the graph (see tape.py): it repeats the operations of the captured
step on the same memory, so that whatever a step takes from Python, or asks the device for, shows.
"""

import gc
import weakref

import numpy as np
import pandas as pd
import pytest
import tape
import torch
from critics import Recorder, train, trainer_of
from test_adversarial import equal
from test_adversarial_stack import f7, problems, three

import mdcm
from mdcm.data import Dataset
from mdcm.errors import MdcmError
from mdcm.kernels import graphs
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.objectives.adversarial import AdversarialObjective


@pytest.fixture
def captures(monkeypatch):
    """Every capture, with the number of its replays."""
    made = []

    def capture(body, device):
        replay = tape.capture(body, device)
        made.append(0)
        place = len(made) - 1

        def counted():
            made[place] += 1
            replay()

        return counted

    monkeypatch.setattr(graphs, "possible", lambda device: True)
    monkeypatch.setattr(graphs, "capture", capture)
    return made


class TestTape:
    """What stands in for a graph must itself be right."""

    def test_repeats_on_the_same_memory(self):
        total, given = torch.zeros(2), torch.ones(2)
        kept = []

        def body():
            kept.append((given * 2)[0:1])
            total.add_(given * 2)
            total[0] = total[0] + kept[0][0]

        replay = tape.capture(body, torch.device("cpu"))
        assert total.tolist() == [0, 0]
        given.fill_(3.0)
        replay()
        replay()
        assert total.tolist() == [24, 12]
        assert kept[0].tolist() == [6]

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(lambda: bool(torch.ones(()) > 0), id="asking"),
            pytest.param(lambda: torch.tensor([1, 2]), id="bringing"),
            pytest.param(lambda: torch.ones(3)[torch.ones(3) > 0], id="counting"),
            pytest.param(lambda: torch.rand(3), id="drawing"),
        ],
    )
    def test_refuses_what_a_capture_refuses(self, body):
        with pytest.raises(RuntimeError, match="cannot be captured"):
            tape.capture(body, torch.device("cpu"))

    def test_a_number_of_python_stays_as_it_was(self):
        rate, total = [1.0], torch.zeros(())
        replay = tape.capture(lambda: total.add_(rate[0]), torch.device("cpu"))
        rate[0] = 5.0
        replay()
        assert float(total) == 1


class TestRepeated:
    def test_several_at_once_after_some_by_themselves(self, captures):
        taken = torch.zeros(3)

        def body(number):
            taken[number] += 1

        steps = graphs.Repeated(body, torch.device("cpu"), together=3)
        for count in (1, 3, 2, 3, 3, 3, 1):
            steps(count)
        assert taken.tolist() == [7, 5, 4]
        assert captures == [3]

    @pytest.mark.parametrize("asked", ["off", "possible"])
    def test_one_by_one_where_it_is_off_or_impossible(self, asked, captures, monkeypatch):
        if asked == "off":
            monkeypatch.setenv("MDCM_GRAPHS", "off")
        else:
            monkeypatch.setattr(graphs, "possible", lambda device: False)
        assert graphs.Repeated(lambda number: None, torch.device("cpu")).together == 1

    def test_memory_is_given_back_without_the_collector(self, captures):
        training = AdversarialObjective(problems(three(), CONFIG, 0), stacked=True)
        kept = weakref.ref(training._packed())
        kept().step(1, 10)
        kept().step(11, 10)
        assert captures == [1]
        gc.collect()
        gc.disable()
        try:
            del training
            assert kept() is None
        finally:
            gc.enable()

    def test_unknown_setting(self, monkeypatch):
        monkeypatch.setenv("MDCM_GRAPHS", "on")
        with pytest.raises(ValueError, match="auto or off"):
            graphs.Repeated(lambda number: None, torch.device("cpu"))

    def test_a_device_that_refuses(self, captures):
        total = torch.zeros(())
        asked = []

        def body(number):
            total.add_(1)
            asked.append(bool(total > 0))

        steps = graphs.Repeated(body, torch.device("cpu"), together=2)
        steps(2)
        with pytest.warns(RuntimeWarning, match="could not be captured.*MDCM_GRAPHS=off"):
            steps(2)
        assert steps.together == 1


CONFIG = AdversarialConfig(steps=64, batch_size=8, checks=2)


class TestAdversarial:
    @pytest.mark.parametrize(
        ("setting", "level"),
        [
            pytest.param(three, 0, id="mixed sizes and do"),
            pytest.param(lambda: f7(3), 1, id="ancestors"),
            pytest.param(lambda: f7(2, method="joint"), 0, id="two fits"),
        ],
    )
    def test_the_same_bits_with_and_without(self, setting, level, captures, monkeypatch):
        found = []
        for asked in ("auto", "off"):
            monkeypatch.setenv("MDCM_GRAPHS", asked)
            one = setting()
            log = Recorder()
            train(problems(one, CONFIG, level), stacked=True, log=log)
            records = log.records
            for record in records:
                record.pop("seconds", None)
            found.append((one.weights(), records))
        # 32 steps between two looks: ten by themselves, ten and ten replayed, two by themselves; then three times ten
        assert captures == [5]
        assert equal(found[0][0], found[1][0])
        assert found[0][1] == found[1][1]

    def test_what_is_drawn_is_what_each_draws_alone(self, captures):
        torch.set_default_dtype(torch.float64)
        try:
            found = []
            for stacked in (True, False):
                setting = three()
                every = problems(setting, AdversarialConfig(steps=12, batch_size=16, checks=3), level=0)
                train(every, stacked=stacked)
                found.append(setting.weights())
        finally:
            torch.set_default_dtype(torch.float32)
        assert (
            max(float((found[0][name] - found[1][name]).abs().amax()) for name in found[0] if found[0][name].numel())
            < 1e-9
        )

    def test_fused_forms_neither_ask_nor_bring(self, captures, monkeypatch):
        pytest.importorskip("triton", reason="Triton is not installed: there are no fused forms to test")
        monkeypatch.setenv("MDCM_KERNELS", "triton")
        training = AdversarialObjective(problems(three(), CONFIG, 0), stacked=True)
        stack = training._packed()
        # compiling brings tables to the device, once
        stack.step(1)
        tape.capture(lambda: stack._take(0), torch.device("cpu"))

    def test_stopped_and_resumed(self, captures):
        whole, first, second = (three() for _ in range(3))
        train(problems(whole, CONFIG, 0), stacked=True)
        saved = []

        def between(take):
            saved.append((take(), first.weights()))

        train(problems(first, CONFIG, 0), stacked=True, between=between, late=lambda: len(saved) == 3)
        second.dcm.load_state_dict(saved[2][1])
        again = trainer_of(problems(second, CONFIG, 0), stacked=True)
        again.restore(*saved[2][0])
        assert again.step == 30
        again.train()
        assert equal(whole.weights(), second.weights())

    @pytest.mark.parametrize(
        ("rate", "said"),
        [
            # weights that a step has made infinite show in the next loss: here of the next step, there of the critics'
            # second one in the same
            pytest.param(1, "the generator .* step 26;", id="generator"),
            pytest.param(2, "the critic .* step 25;", id="critic"),
        ],
    )
    def test_the_step_that_was_not_finite_is_named(self, rate, said, captures):
        setting = three()
        every = problems(setting, CONFIG, 0)
        trainer = trainer_of(every, stacked=True)

        def spoil():
            # a rate is infinite in the fifth step of the second graph
            if trainer.step == 20:
                trainer.objective.stack._clock._rates[24, rate] = torch.inf
            return False

        trainer.run.over = spoil

        names = ", ".join(every[0].hnode.variables)
        with pytest.raises(MdcmError, match=rf"h-node \{{{names}\}} diverged: {said}"):
            trainer.train()


class TestLikelihood:
    def data(self):
        rng = np.random.default_rng(0)
        u = rng.integers(0, 2, 800)
        table = pd.DataFrame({name: (rng.random(800) < 0.3 + 0.4 * u).astype(int) for name in "ABCDE"})
        table["F"] = rng.integers(0, 3, 800)
        return Dataset(table, name="d1")

    @pytest.mark.parametrize("patience", [1, 40])
    def test_the_same_bits_with_and_without(self, patience, captures, monkeypatch):
        found = []
        for asked in ("auto", "off"):
            monkeypatch.setenv("MDCM_GRAPHS", asked)
            config = mdcm.TrainConfig(max_steps=130, patience=patience, checks=5)
            model = mdcm.fit("A -> B; C -> D; E -> F; A <-> B; C <-> D", self.data(), config=config, seed=1)
            history = [{k: v for k, v in one.items() if k != "seconds"} for one in model.history]
            found.append((model.dcm.state_dict(), history))
        assert sum(captures) > 10
        assert equal(found[0][0], found[1][0])
        assert found[0][1] == found[1][1]

    def test_as_on_a_device_without_graphs(self, captures, monkeypatch):
        found = []
        for there in (True, False):
            monkeypatch.setattr(graphs, "possible", lambda device, there=there: there)
            config = mdcm.TrainConfig(max_steps=60, checks=3)
            model = mdcm.fit("A -> B; C -> D; A <-> B; C <-> D; E; F", self.data(), config=config, seed=1)
            found.append(model.dcm.state_dict())
        assert captures
        assert (
            max(float((found[0][name] - found[1][name]).abs().amax()) for name in found[0] if found[0][name].numel())
            < 1e-6
        )
