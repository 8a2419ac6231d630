"""Images in adversarial fits: critics and mechanisms read the same representation, and a probe says what it misses."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from critics import train

import mdcm
from mdcm.data import Dataset, Schema, Variable, encode
from mdcm.dcm import DCM
from mdcm.errors import CheckpointError
from mdcm.graph import ADMG
from mdcm.mechanisms import Categorical, ImageGenerator, Implicit, Mechanism, train_encoder
from mdcm.mechanisms.representations import encode_images, probe_gap, restore_encoders
from mdcm.planning import DatasetSpec, plan
from mdcm.storage import run_directory as rundir
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.objectives.critic_load import CriticLoad
from mdcm.training.objectives.critic_problem import AdversarialProblem

BRIEF = AdversarialConfig(steps=3, checks=1, batch_size=16, encoder_steps=20)
MEAN = {"I": lambda images: images.mean((2, 3))}


def picture(labels):
    images = np.zeros((len(labels), 1, 8, 8), dtype=np.uint8)
    images[labels == 1, :, 2:6, 2:6] = 255
    return images


def striped(labels, rng):
    """Images whose stripes lie in the direction that the label says, with noise; their mean tells nothing."""
    images = rng.integers(0, 60, (len(labels), 1, 8, 8), dtype=np.uint8)
    images[labels == 0, :, ::2, :] += 150
    images[labels == 1, :, :, ::2] += 150
    return images


class Pictured:
    """I -> A with A <-> D, and a model for it."""

    def __init__(self, rows=300, factories=None):
        rng = np.random.default_rng(0)
        table = pd.DataFrame({"A": rng.integers(0, 2, rows), "D": rng.integers(0, 2, rows)})
        self.dataset = Dataset(table, images={"I": picture(table["A"].to_numpy())}, name="d1")
        self.schema = Schema.infer([self.dataset])
        self.graph = ADMG.from_string("I -> A; A <-> D")
        self.plan = plan(self.graph, [DatasetSpec("d1")], objective="adversarial", kinds={"I": "image"})
        self.dcm = DCM(self.graph, self.schema, {"U[A,D]": 3}, factories)
        self.hnode = next(one for one in self.plan.hnodes if "A" in one.variables)
        self.data = {"d1": encode(self.dataset, self.schema)}

    def problem(self, config=BRIEF, **options):
        return AdversarialProblem(self.dcm, self.hnode, self.data, config, **options)


class TestProblem:
    def test_an_image_is_compared_by_what_a_reader_says(self):
        setting = Pictured()
        problem = setting.problem(readers=MEAN)
        assert problem.critics.width == 2 + 2 + 1
        train([problem])
        # and by an encoder that is trained here, where there is no reader
        assert setting.problem().critics.width > 5
        assert CriticLoad.of(setting.dcm, setting.hnode, setting.data, BRIEF) is None

    @pytest.mark.parametrize("readers", [None, MEAN], ids=["encoder", "reader"])
    def test_a_trained_mechanism_sees_the_representation_alone(self, readers):
        setting = Pictured()
        problem = setting.problem(readers=readers)
        train([problem])
        mechanism = setting.dcm.mechanism("A")
        image = torch.rand(4, 1, 8, 8, requires_grad=True)
        seen = problem.readers["I"](image)
        logits = mechanism.logits({"I": image}, [torch.zeros(4, dtype=torch.int64)], 4)
        # a change of the image that does not change what is read to first order changes no logit
        along = torch.autograd.grad(seen[0].sum(), image, retain_graph=True)[0][0].flatten()
        by_feature = [torch.autograd.grad(one, image, retain_graph=True)[0][0].flatten() for one in seen[0]]
        (slope,) = torch.autograd.grad(logits[0, 0], image)
        slope = slope[0].flatten()
        basis = torch.linalg.qr(torch.stack(by_feature).T.double())[0]
        rest = slope.double() - basis @ (basis.T @ slope.double())
        assert along.norm() > 0
        # float32 gradients through a dozen layers
        assert rest.norm() < 1e-4 * slope.norm()

    def test_the_encoder_is_not_trained_any_more(self):
        setting = Pictured()
        problem = setting.problem()
        before = {name: one.clone() for name, one in problem.readers["I"].state_dict().items()}
        linear = setting.dcm.mechanism("A").inputs[0].reader.linear.weight.detach().clone()
        train([problem])
        after = problem.readers["I"].state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not torch.equal(setting.dcm.mechanism("A").inputs[0].reader.linear.weight, linear)

    def test_the_gap_is_in_the_record(self):
        setting = Pictured(600)
        problem = setting.problem(replace(BRIEF, encoder_steps=100))
        records = train([problem])
        found = records[0]["representations"]["I"]
        gap = problem.gaps()["I"]
        assert found == {"gap": gap.gap, "error": gap.error, "rows": 60}
        # the square says all there is to say
        assert abs(found["gap"]) < 0.1
        json.dumps(records)

    def test_a_mechanism_of_the_users_own_is_left_alone(self):
        class Bright(Mechanism):
            noise_size, noise_kind = 2, "gumbel"

            def __init__(self, variable, parents, latents):
                super().__init__(variable, parents, latents)
                self.slope = torch.nn.Parameter(torch.zeros(2))

            def relaxed(self, parents, latents, noise, temperature):
                return (parents["I"].mean((1, 2, 3))[:, None] * self.slope + noise).softmax(1)

            def forward(self, parents, latents, noise):
                return self.relaxed(parents, latents, noise, 1.0).argmax(1)

            def conditional_loss(self, parents, value, generator):
                raise AssertionError("a critic trains it")

            def config(self):
                return {"type": "Bright"}

        setting = Pictured(factories={"A": Bright})
        train([setting.problem()])
        assert setting.dcm.mechanism("A").encoders == {}

    def test_a_generated_image_is_read_so_too(self):
        rng = np.random.default_rng(0)
        table = pd.DataFrame({"A": rng.integers(0, 2, 200)})
        dataset = Dataset(table, images={"I": picture(table["A"].to_numpy())}, name="d1")
        schema = Schema.infer([dataset])
        graph = ADMG.from_string("I -> A; I <-> A")
        (hnode,) = plan(graph, [DatasetSpec("d1")], objective="adversarial", kinds={"I": "image"}).hnodes
        dcm = DCM(graph, schema, {"U[I,A]": 2}, {"I": partial(ImageGenerator, width=8, channels=4)})
        problem = AdversarialProblem(dcm, hnode, {"d1": encode(dataset, schema)}, BRIEF)
        before = [one.detach().clone() for one in problem.parameters]
        train([problem])
        # the critic's gradient reaches the image through the representation that critic and mechanism share
        assert sum(not torch.equal(a, b) for a, b in zip(before, problem.parameters, strict=True)) > len(before) / 2
        assert dcm.mechanism("A").encoders


class TestProbe:
    def test_what_a_representation_leaves_out_is_found(self):
        rng = np.random.default_rng(1)
        label = rng.integers(0, 2, 2000)
        images = striped(label, rng)
        found = probe_gap(lambda images: images.mean((2, 3)), images, {"label": label}, steps=150)
        # all of one bit, in nats
        assert found.gap == pytest.approx(np.log(2), abs=0.1)
        assert 0 < found.error < 0.05
        assert found.rows == 200

    def test_a_representation_that_keeps_it_has_no_gap(self):
        rng = np.random.default_rng(1)
        label = rng.integers(0, 2, 2000)
        noisy = np.where(rng.random(2000) < 0.1, 1 - label, label)
        images = striped(label, rng)
        encoder = train_encoder(images, {"noisy": noisy}, features=4, steps=150)
        found = probe_gap(encoder, images, {"noisy": noisy}, steps=150)
        # overfitting makes the probe that sees more the worse one
        assert -0.1 < found.gap < 3 * found.error

    def test_weights_and_missing_rows(self):
        rng = np.random.default_rng(2)
        label = rng.integers(0, 2, 200)
        images = picture(label)
        weights = np.ones(200)
        weights[label == 1] = 0
        found = probe_gap(lambda images: images.mean((2, 3)), images, {"label": label}, weights=weights, steps=5)
        assert np.isfinite(found.gap)
        assert probe_gap(MEAN["I"], images, {"label": label}, holdout=0) is None


class TestMechanisms:
    image = Variable("I", "image", shape=(1, 8, 8))

    def encoder(self, features=3):
        label = np.arange(40) % 2
        return train_encoder(picture(label), {"label": label}, features=features, channels=4, steps=2)

    @pytest.mark.parametrize(
        "make",
        [
            lambda image: Categorical(Variable("A", "categorical", levels=(0, 1)), [image], (2,)),
            lambda image: Implicit(Variable("A", "implicit"), [image], (2,)),
        ],
        ids=["categorical", "implicit"],
    )
    def test_encoders_are_given_back(self, make):
        first, second = make(self.image), make(self.image)
        assert encode_images(first, {"I": self.encoder(), "J": MEAN["I"]}) == ("I",)
        assert first.encoders == {"I": {"features": 3, "channels": 4}}
        restore_encoders(second, first.encoders)
        second.load_state_dict(first.state_dict())
        noise = torch.randn(5, first.noise_size)
        inputs = {"I": torch.rand(5, 1, 8, 8)}, [torch.zeros(5, dtype=torch.int64)], noise
        assert torch.equal(first.eval()(*inputs), second.eval()(*inputs))

    def test_the_seed_fixes_the_initial_weights(self):
        encoder = self.encoder()
        before = torch.get_rng_state()
        weights = []
        for seed in (1, 1, 2):
            mechanism = Categorical(Variable("A", "categorical", levels=(0, 1)), [self.image])
            encode_images(mechanism, {"I": encoder}, seed)
            weights.append(mechanism.inputs[0].reader.linear.weight)
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
        del before

    def test_encoders_of_no_image_are_refused(self):
        mechanism = Categorical(Variable("A", "categorical", levels=(0, 1)), [self.image])
        with pytest.raises(ValueError, match="no image 'J'"):
            restore_encoders(mechanism, {"J": {"features": 3, "channels": 4}})


class TestModel:
    def fit(self, config=None, **options):
        config = config or mdcm.TrainConfig(adversarial=BRIEF, max_steps=3)
        table = Pictured(200).dataset.table
        dataset = Dataset(table.assign(B=table["A"]), images={"I": picture(table["A"].to_numpy())}, name="d1")
        return mdcm.fit("I -> A; A <-> D; A -> B", dataset, config=config, objective="adversarial", seed=1, **options)

    def test_a_saved_model_reads_images_as_it_did(self, tmp_path):
        model = self.fit()
        model.save(tmp_path / "run")
        described = json.loads((tmp_path / "run" / "model.json").read_text())["architecture"]["mechanisms"]
        assert described["A"]["encoders"] == {"I": {"features": 16, "channels": 12}}
        assert "encoders" not in described["B"]
        loaded = mdcm.load(tmp_path / "run")
        image = torch.rand(5, 1, 8, 8)
        inputs = {"I": image}, [torch.zeros(5, dtype=torch.int64)], torch.randn(5, 2)
        assert torch.equal(model.dcm.mechanism("A")(*inputs), loaded.dcm.mechanism("A")(*inputs))
        (gap,) = [one["representations"] for one in loaded.history if "representations" in one]
        assert set(gap) == {"I"}
        # its weights are taken over where nothing has changed
        again = self.fit(init=loaded)
        assert all(record.get("kept") for record in again.history if record["event"] == "trained")
        assert torch.equal(model.dcm.mechanism("A")(*inputs), again.dcm.mechanism("A")(*inputs))

    def test_encoders_larger_than_the_weights_are_refused(self, tmp_path):
        self.fit().save(tmp_path / "run")
        path = tmp_path / "run" / "model.json"
        whole = json.loads(path.read_text())
        for encoders in ({"I": {"features": 10**12, "channels": 12}}, {"I": {"colours": 3}}, {"D": {}}, [1], {"I": 3}):
            described = json.loads(json.dumps(whole))
            checksums = described.pop("sha256")
            described["architecture"]["mechanisms"]["A"]["encoders"] = encoders
            described["sha256"] = checksums | {"model.json": rundir._digest(described)}
            path.write_text(json.dumps(described))
            with pytest.raises(CheckpointError):
                mdcm.load(tmp_path / "run")

    def test_training_goes_on_after_an_h_node_with_an_encoder(self, tmp_path):
        config = mdcm.TrainConfig(adversarial=BRIEF, max_steps=3, checkpoint_seconds=0)
        expected = self.fit(config)

        class Stopped(Exception):
            pass

        for last in (1, 2):
            steps = []

            class Told:
                def start(self, hnode, steps):
                    pass

                def step(self, hnode, step, steps=steps, last=last):
                    steps.append(step)
                    if len(steps) == last + 1:
                        raise Stopped

                def finish(self, hnode):
                    pass

            run = tmp_path / str(last)
            with pytest.raises(Stopped):
                self.fit(config, out=run, progress=Told())
            found = self.fit(config, out=run, resume=True)
            state = found.dcm.state_dict()
            assert all(torch.equal(one, state[name]) for name, one in expected.dcm.state_dict().items())
