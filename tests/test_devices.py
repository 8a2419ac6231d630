"""Training on another device: everything is where it belongs, and comes back with the same numbers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from elsewhere import DEVICE, Elsewhere, elsewhere

import mdcm
import mdcm.model.fitting
import mdcm.model.model
from mdcm import PlanError, TrainConfig
from mdcm.data import Dataset
from mdcm.kernels import graphs
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.objectives.critic_problem import AdversarialProblem
from mdcm.training.objectives.critic_stack import Stack
from mdcm.training.objectives.problems import ConditionalProblem
from mdcm.training.stacking import ModuleStack

N = 600


def fit_both(monkeypatch, *args, **kwargs):
    """The same training here and elsewhere."""
    here = mdcm.fit(*args, **kwargs)
    with elsewhere() as device:
        monkeypatch.setattr(mdcm.model.fitting, "training_device", lambda *_: device)
        there = mdcm.fit(*args, **kwargs)
    for name, one in there.dcm.state_dict().items():
        assert type(one.data) is not Elsewhere, name
        assert one.device.type == "cpu", name
    return here, there


def same(here, there):
    for (name, one), other in zip(here.dcm.state_dict().items(), there.dcm.state_dict().values(), strict=True):
        # the same operations on the same numbers
        assert torch.equal(one, other), name
    assert [r.get("heldout") for r in here.history] == [r.get("heldout") for r in there.history]


def binary(n=N, seed=0, names="XZY"):
    rng = np.random.default_rng(seed)
    u = rng.integers(0, 2, n)
    x = (u ^ (rng.random(n) < 0.2)).astype(int)
    z = (x ^ (rng.random(n) < 0.2)).astype(int)
    y = ((z & u) ^ (rng.random(n) < 0.2)).astype(int)
    return {name: one for name, one in {"X": x, "Z": z, "Y": y}.items() if name in names}


class TestElsewhere:
    def test_it_refuses_to_mix(self):
        with elsewhere() as device:
            there = torch.ones(3, device=device)
            assert there.device == DEVICE
            with pytest.raises(RuntimeError, match="two devices"):
                there + torch.ones(3)
            with pytest.raises(RuntimeError, match="another device"):
                torch.rand(3, device=device, generator=torch.Generator())
            with pytest.raises(RuntimeError, match="indices elsewhere"):
                torch.ones(3)[there.long()]
            with pytest.raises((RuntimeError, TypeError)):
                there.numpy()
            assert (there + torch.tensor(1.0)).cpu().tolist() == [2.0, 2.0, 2.0]
            assert there[torch.tensor([0])].device == DEVICE

    def test_gradients(self):
        with elsewhere() as device:
            layer = torch.nn.Linear(3, 2).to(device)
            layer(torch.ones(4, 3, device=device)).sum().backward()
            assert layer.weight.grad.cpu().tolist() == [[4.0] * 3] * 2


class TestTraining:
    @pytest.mark.parametrize("stacked", [True, False])
    def test_tables(self, monkeypatch, stacked):
        config = TrainConfig(max_steps=30, batch_modules=stacked)
        same(*fit_both(monkeypatch, "X -> Z -> Y; X <-> Y", binary(), config=config))

    @pytest.mark.nightly
    def test_tables_with_more_states(self, monkeypatch):
        # the length at which it is asked whether more states would help
        config = TrainConfig(batch_modules=False)
        same(*fit_both(monkeypatch, "X -> Z -> Y; X <-> Y", binary(300), config=config))

    def test_draws_instead_of_sums(self, monkeypatch):
        config = TrainConfig(max_steps=20, confounder="monte-carlo", draws=32)
        same(*fit_both(monkeypatch, "X -> Z -> Y; X <-> Y", binary(), config=config))

    def test_numbers(self, monkeypatch):
        rng = np.random.default_rng(0)
        u = rng.normal(size=N)
        x, z = u + rng.normal(size=N), rng.integers(0, 3, N)
        data = {"X": x, "Z": z, "Y": x + z + u + rng.normal(size=N)}
        same(*fit_both(monkeypatch, "X -> Z -> Y; X <-> Y", data, config=TrainConfig(max_steps=20)))

    @pytest.mark.parametrize("stacked", [True, False])
    def test_against_critics(self, monkeypatch, stacked):
        config = TrainConfig(max_steps=12, batch_modules=stacked)
        same(*fit_both(
            monkeypatch, "X -> Z -> Y; X <-> Y; W -> X", {**binary(), "W": np.arange(N) % 2}, config=config,
            objective="adversarial",
        ))  # fmt: skip

    @pytest.mark.parametrize("objective", ["likelihood", "adversarial"])
    def test_steps_that_could_be_captured(self, monkeypatch, objective):
        # such steps take rates and noise from the device; see test_graphs.py for their capture
        monkeypatch.setattr(graphs, "possible", lambda device: True)
        monkeypatch.setenv("MDCM_GRAPHS", "off")
        config = TrainConfig(max_steps=12)
        same(*fit_both(monkeypatch, "X -> Z -> Y; X <-> Y", binary(), config=config, objective=objective))

    @pytest.mark.parametrize("objective", ["auto", "adversarial"])
    def test_images(self, monkeypatch, objective):
        table = binary(200)
        images = np.zeros((200, 1, 8, 8), dtype=np.uint8)
        images[table["Z"] == 1, :, 2:6] = 200
        data = Dataset({"X": table["X"], "Y": table["Y"]}, images={"I": images})
        config = TrainConfig(max_steps=4, adversarial=AdversarialConfig(encoder_steps=20))
        same(*fit_both(monkeypatch, "X -> I -> Y; X <-> Y", data, config=config, objective=objective))

    def test_killed_and_resumed(self, monkeypatch, tmp_path):
        """What is written down is of the CPU, and goes on elsewhere."""
        table, config = binary(names="XY"), TrainConfig(max_steps=30, checkpoint_seconds=0)

        class Stop:
            def start(self, *_): ...
            def finish(self, *_): ...
            def step(self, hnode, step):
                if step == 20:
                    raise KeyboardInterrupt

        with elsewhere() as device:
            monkeypatch.setattr(mdcm.model.fitting, "training_device", lambda *_: device)
            for objective in ("likelihood", "adversarial"):
                out = tmp_path / objective
                whole = mdcm.fit("X -> Y", table, config=config, objective=objective)
                with pytest.raises(KeyboardInterrupt):
                    mdcm.fit("X -> Y", table, config=config, objective=objective, out=out, progress=Stop())
                again = mdcm.fit("X -> Y", table, config=config, objective=objective, out=out, resume=True)
                for one, other in zip(whole.dcm.state_dict().values(), again.dcm.state_dict().values(), strict=True):
                    assert torch.equal(one, other)


def crowded(monkeypatch, rows, problem, method):
    """Memory of a device that does not suffice for more than so many rows per step, from the third step on."""
    real = getattr(problem, method)

    def used(self, step, *count):
        size = self.config.batch_size if hasattr(self, "config") else self.schedule.batch_size
        if size > rows and step >= 3:
            raise torch.OutOfMemoryError(
                "out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB. See elsewhere."
            )
        return real(self, step, *count)

    monkeypatch.setattr(problem, method, used)


def close(one, other):
    for name, weight in one.dcm.state_dict().items():
        # where the stand-in's tensors lie in memory decides about the last bit of a sum; another size of batches would
        # change the third digit
        torch.testing.assert_close(weight, other.dcm.state_dict()[name], rtol=0, atol=1e-6)


class TestMemory:
    """Where memory runs out: once more from the beginning with half as many rows per step, as if asked for."""

    @pytest.fixture(autouse=True)
    def there(self, monkeypatch):
        with elsewhere() as device:
            monkeypatch.setattr(mdcm.model.fitting, "training_device", lambda *_: device)
            yield

    def numbers(self):
        x = np.random.default_rng(0).normal(size=400)
        return {"X": x, "Y": x + np.random.default_rng(1).normal(size=400)}

    def test_a_mechanism_alone(self, monkeypatch):
        asked = mdcm.fit("X -> Y", self.numbers(), config=TrainConfig(max_steps=8, batch_size=32))
        crowded(monkeypatch, 40, ConditionalProblem, "loss")
        with pytest.warns(UserWarning, match=r"training of \{[XY]\} does not fit in memory \(out of memory. Tried to"):
            found = mdcm.fit("X -> Y", self.numbers(), config=TrainConfig(max_steps=8, batch_size=64))
        close(asked, found)
        assert [record["hnode"] for record in found.history if record["event"] == "halved"] == [["X"], ["Y"]]

    @pytest.mark.parametrize(("stacked", "problem"), [(True, Stack), (False, AdversarialProblem)])
    def test_against_critics(self, monkeypatch, stacked, problem):
        def config(rows):
            return TrainConfig(
                max_steps=6, batch_modules=stacked, adversarial=AdversarialConfig(batch_size=rows, hidden=16)
            )

        def fitted(rows):
            return mdcm.fit("X -> Z; Y -> W", data, config=config(rows), objective="adversarial")

        data = {**binary(200), "W": np.arange(200) % 2}
        asked = fitted(25)
        crowded(monkeypatch, 30, problem, "step")
        with pytest.warns(UserWarning, match="begins anew with half as many rows per step"):
            found = fitted(51)
        close(asked, found)

    def test_not_with_half_either(self, monkeypatch):
        crowded(monkeypatch, 10, ConditionalProblem, "loss")
        with (
            pytest.warns(UserWarning, match="begins anew"),
            pytest.raises(
                mdcm.MdcmError, match=r"not with half as many rows per step either: .* Use a smaller batch_size"
            ),
        ):
            mdcm.fit("X -> Y", self.numbers(), config=TrainConfig(max_steps=8, batch_size=64))

    def test_a_stack_sees_all_rows(self, monkeypatch):
        def full(*_):
            raise torch.OutOfMemoryError("out of memory")

        monkeypatch.setattr(ModuleStack, "losses", full)
        with pytest.raises(mdcm.MdcmError, match=r"\{X\}, \{Y\} does not fit in memory: .* Use batch_modules=False"):
            mdcm.fit("X -> Y", binary(names="XY"), config=TrainConfig(max_steps=4))

    def test_killed_and_resumed(self, monkeypatch, tmp_path):
        class Stop:
            def start(self, *_): ...
            def finish(self, *_): ...
            def step(self, hnode, step):
                if step == 10:
                    raise KeyboardInterrupt

        def fitted(rows, **options):
            return mdcm.fit("X -> Y", self.numbers(), config=replace(config, batch_size=rows), **options)

        config = TrainConfig(max_steps=12, checkpoint_seconds=0)
        asked = fitted(32)
        crowded(monkeypatch, 40, ConditionalProblem, "loss")
        with pytest.warns(UserWarning, match="begins anew"), pytest.raises(KeyboardInterrupt):
            fitted(64, out=tmp_path, progress=Stop())
        with pytest.warns(UserWarning, match=r"training of \{Y\}"):
            again = fitted(64, out=tmp_path, resume=True)
        close(asked, again)


@pytest.fixture(scope="module")
def model():
    table = binary(200)
    images = np.zeros((200, 1, 8, 8), dtype=np.uint8)
    images[table["Z"] == 1, :, 2:6] = 200
    data = Dataset({"X": table["X"], "Y": table["Y"]}, images={"I": images})
    return mdcm.fit("X -> I -> Y; X <-> Y", data, config=TrainConfig(max_steps=6))


class TestDrawing:
    """Mechanisms of images elsewhere, rows and noise here: the same draws, whatever is asked."""

    @pytest.fixture
    def placed(self, model, monkeypatch, tmp_path):
        """The model as it is read again, and drawing elsewhere."""
        model.save(tmp_path / "run")
        with elsewhere() as device:
            monkeypatch.setattr(mdcm.model.model, "training_device", lambda *_: device)
            yield mdcm.load(tmp_path / "run").to("cuda")

    @pytest.mark.parametrize(
        "ask",
        [
            lambda model: model.draw_samples(40, seed=1),
            lambda model: model.draw_samples(40, do={"X": 1}, seed=1),
            # many rows are drawn to be weighed; answers given evidence are always compared below
            pytest.param(lambda model: model.draw_samples(40, given={"Y": 1}, seed=1), marks=pytest.mark.nightly),
            lambda model: model.draw_samples(40, do={"I": np.full((1, 8, 8), 90, np.uint8)}, variables=["Y"]),
            lambda model: model.draw_samples(40, do={"X": lambda natural: 1 - natural}, seed=2),
            lambda model: model.counterfactual_samples(40, evidence={"X": 0, "Y": 1}, do={"X": 1}, seed=1),
        ],
        ids=["rows", "do", "given", "do of an image", "rule", "would have been"],
    )
    # the verdict on what is drawn is the subject of test_verdicts.py
    @pytest.mark.filterwarnings("ignore:.* (is not determined|is not shown|the answer rests|of the answer|no row of)")
    def test_the_same_draws(self, model, placed, ask):
        here, there = ask(model), ask(placed)
        assert here.table.equals(there.table)
        for name, images in here.images.items():
            # rounding decides about the last of 256 levels
            assert np.abs(images.astype(int) - there.images[name]).max() <= 1
            assert (images != there.images[name]).mean() < 0.01

    def test_the_same_answers(self, model, placed):
        for text in ("P(Y | do(X=1))", "P(Y[X=0] | X=1, Y=1)"):
            here, there = (one.query(text, 400, allow_unidentifiable=True) for one in (model, placed))
            assert np.allclose(here.table["probability"], there.table["probability"], atol=1e-6)

    def test_only_what_has_to_do_with_images_goes(self, placed):
        moved = {
            name: any(isinstance(one.data, Elsewhere) for one in mechanism.parameters())
            for name, mechanism in placed.dcm.mechanisms.items()
        }
        assert moved == {"X": False, "I": True, "Y": True}

    def test_saved_from_there_and_back(self, model, placed, tmp_path):
        placed.save(tmp_path / "again")
        for name, one in mdcm.load(tmp_path / "again").dcm.state_dict().items():
            assert torch.equal(one, model.dcm.state_dict()[name]), name

    def test_the_model_itself(self, placed):
        assert placed.to("cuda") is placed

    def test_no_such_device(self, model):
        with pytest.raises(PlanError, match="there is no device 'gpu'"):
            model.to("gpu")
        assert model.to("cpu") is model


class TestNames:
    @pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA card")
    def test_no_card(self, name):
        with pytest.raises(PlanError, match="sees no CUDA card here"):
            mdcm.fit("X -> Y", binary(20, names="XY"), device=name)

    @pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "meta"])
    def test_no_such_device(self, name):
        with pytest.raises(PlanError, match="there is no device"):
            mdcm.fit("X -> Y", binary(20, names="XY"), device=name)
