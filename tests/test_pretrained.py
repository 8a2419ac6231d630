"""Mechanisms that exist already: how they are called, that they stay as they are, and pipelines from a folder."""

import copy
import json
import math
import socket

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel
from torch import nn

import mdcm
from mdcm.data import Schema, Variable
from mdcm.dcm import DCM
from mdcm.errors import MdcmError, PlanError
from mdcm.mechanisms import Categorical, Mechanism, Pretrained
from mdcm.mechanisms.pretrained import Frozen

DIGIT = Variable("D", "categorical", levels=(0, 1, 2))
HEIGHT = Variable("H", "continuous", mean=170.0, scale=10.0)
IMAGE = Variable("I", "image", shape=(1, 8, 8))


class Painter(nn.Module):
    """A pretrained conditional generator: label and noise to an image, with what training would change."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(3, 8)
        self.layers = nn.Sequential(
            nn.Linear(8 + 4, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 64)
        )

    def forward(self, condition, noise):
        return torch.tanh(self.layers(torch.cat([condition, noise], 1))).view(-1, 1, 8, 8)


def by_embedding(painter):
    return Pretrained(painter, lambda parents, noise: (parents["D"] @ painter.embedding.weight, noise), noise_size=4)


def noise_for(mechanism, n, seed=0):
    return torch.randn(n, mechanism.noise_size, generator=torch.Generator().manual_seed(seed))


class TestCalling:
    def test_parents_and_values_come_in_their_own_units(self):
        seen = {}

        def grow(parents):
            seen.update(parents)
            return parents["H"] + 20 * parents["D"][:, 2]

        child = Variable("C", "continuous", mean=180.0, scale=5.0)
        mechanism = Pretrained(grow)(child, [HEIGHT, DIGIT])
        made = mechanism({"H": torch.tensor([0.0, 1.0]), "D": torch.tensor([0, 2])}, (), torch.zeros(2, 0))
        assert seen["H"].tolist() == [170, 180]
        assert seen["D"].tolist() == [[1, 0, 0], [0, 0, 1]]
        assert made.tolist() == [-2, 4]

    def test_vectors_have_units_entry_by_entry(self):
        vector = Variable("W", "continuous", size=2, mean=(1.0, 2.0), scale=(10.0, 100.0))
        mechanism = Pretrained(lambda parents: parents["W"] + 10)(
            Variable("V", "continuous", size=2, mean=(11.0, 12.0), scale=(10.0, 1.0)), [vector]
        )
        made = mechanism({"W": torch.ones(3, 2)}, (), torch.zeros(3, 0))
        assert made.tolist() == [[1, 100]] * 3

    @pytest.mark.parametrize(
        "adapter",
        [
            lambda parents, noise: (parents["D"], noise),
            lambda parents, noise: {"label": parents["D"], "z": noise},
            None,
        ],
        ids=["tuple", "names", "none"],
    )
    def test_arguments_as_the_callable_wants_them(self, adapter):
        def two(label, z):
            return label["D"].sum(1) + z[:, 0] if isinstance(label, dict) else label.sum(1) + z[:, 0]

        mechanism = Pretrained(two, adapter, noise_size=1)(Variable("C", "continuous"), [DIGIT])
        assert mechanism({"D": torch.tensor([1])}, (), torch.full((1, 1), 4.0)).tolist() == [5]

    def test_an_adapter_may_give_one_argument(self):
        mechanism = Pretrained(torch.sin, lambda parents, noise: parents["H"])(Variable("C", "continuous"), [HEIGHT])
        assert mechanism({"H": torch.zeros(1)}, (), torch.zeros(1, 0)).item() == pytest.approx(math.sin(170), abs=1e-4)

    def test_a_trailing_one_is_dropped(self):
        mechanism = Pretrained(lambda parents: parents["H"][:, None])(Variable("C", "continuous"), [HEIGHT])
        assert mechanism({"H": torch.zeros(3)}, (), torch.zeros(3, 0)).shape == (3,)

    def test_codes_of_a_categorical_variable(self):
        mechanism = Pretrained(lambda parents: (parents["H"] > 175).long())(DIGIT, [HEIGHT])
        parents, noise = {"H": torch.tensor([0.0, 1.0])}, torch.zeros(2, 0)
        assert mechanism(parents, (), noise).tolist() == [0, 1]
        assert mechanism.relaxed(parents, (), noise, 1.0).tolist() == [[1, 0, 0], [0, 1, 0]]

    @pytest.mark.parametrize(
        ("variable", "made", "message"),
        [
            (IMAGE, torch.zeros(2, 3, 8, 8), r"of 'I' gave a tensor \[2, 3, 8, 8\]; \[2, 1, 8, 8\] is needed"),
            (HEIGHT, torch.zeros(3), r"of 'H' gave a tensor \[3\]; \[2\] is needed"),
            (DIGIT, torch.zeros(2), r"of 'D' must give whole numbers from 0 to 2; .* logits=True"),
            (DIGIT, torch.tensor([0, 3]), r"of 'D' must give whole numbers from 0 to 2"),
        ],
        ids=["image", "rows", "floats", "levels"],
    )
    def test_what_does_not_fit_is_refused(self, variable, made, message):
        with pytest.raises(MdcmError, match=message):
            Pretrained(lambda parents: made)(variable, ())({}, (), torch.zeros(2, 0))

    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (lambda: Pretrained("gan.pt"), TypeError, "must be callable, and str is not"),
            (lambda: Pretrained(print, noise_size=-1), ValueError, "at least 0"),
            (lambda: Pretrained(print, noise_size=2, logits=True), ValueError, "noise of their own"),
            (lambda: Pretrained(print)(DIGIT, (), [8]), PlanError, "'D' has a hidden confounder"),
            (lambda: Pretrained(print, logits=True)(HEIGHT, ()), PlanError, "'H' is continuous, and logits are for"),
        ],
    )
    def test_what_cannot_be_built(self, make, error, message):
        with pytest.raises(error, match=message):
            make()


class TestLogits:
    @pytest.fixture
    def mechanism(self):
        torch.manual_seed(0)
        line = nn.Linear(1, 3)
        return Pretrained(line, lambda parents, noise: parents["H"][:, None] / 100, logits=True)(DIGIT, [HEIGHT])

    def test_draws_have_the_probabilities(self, mechanism):
        n = 20_000
        parents = {"H": torch.ones(n)}
        gumbel = -torch.log(torch.empty(n, 3).exponential_(generator=torch.Generator().manual_seed(0)))
        assert mechanism.noise_kind == "gumbel"
        assert mechanism.noise_size == 3
        share = torch.bincount(mechanism(parents, (), gumbel), minlength=3) / n
        exact = torch.stack([mechanism.log_prob(parents, (), torch.full((n,), k))[0] for k in range(3)]).exp()
        assert float(exact.sum()) == pytest.approx(1, abs=1e-6)
        assert (share - exact).abs().max() < 4 * math.sqrt(0.25 / n)

    def test_abduction_gives_the_level_back(self, mechanism):
        parents = {"H": torch.linspace(-2, 2, 300)}
        first, fresh = (
            -torch.log(torch.empty(300, 3).exponential_(generator=torch.Generator().manual_seed(s))) for s in (0, 1)
        )
        value = mechanism(parents, (), first)
        assert mechanism.can_abduct
        assert torch.equal(mechanism(parents, (), mechanism.abduct(parents, (), value, fresh)), value)

    def test_relaxed_draws_have_a_gradient_in_the_parent(self, mechanism):
        height = torch.zeros(50, requires_grad=True)
        noise = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        drawn = mechanism.relaxed({"H": height}, (), noise, 1.0)
        assert torch.equal(drawn.argmax(1), mechanism({"H": height}, (), noise))
        drawn[:, 0].sum().backward()
        assert height.grad.any()


class TestOffers:
    def test_a_density_in_the_units_of_the_value(self):
        class Bell:
            def __call__(self, parents, noise):
                return 150 + 20 * noise[:, 0]

            def log_prob(self, parents, value):
                return torch.distributions.Normal(150, 20).log_prob(value)

            def invert(self, parents, value, fresh):
                return (value[:, None] - 150) / 20

        mechanism = Pretrained(Bell(), noise_size=1)(HEIGHT, [DIGIT])
        parents, noise = {"D": torch.zeros(200_001, dtype=torch.int64)}, torch.zeros(200_001, 1)
        assert mechanism.has_density
        assert mechanism.can_abduct
        grid = torch.linspace(-20, 20, 200_001)
        assert float(torch.trapezoid(mechanism.log_prob(parents, (), grid).exp(), grid)) == pytest.approx(1, abs=1e-4)
        few = {"D": torch.arange(3)}
        value = mechanism(few, (), torch.tensor([[-1.0], [0.0], [2.0]]))
        found = mechanism.abduct(few, (), value, noise[:3])
        assert torch.allclose(found, torch.tensor([[-1.0], [0.0], [2.0]]), atol=1e-5)

    def test_nothing_is_offered_that_is_not_there(self):
        mechanism = Pretrained(lambda parents, noise: noise[:, 0], noise_size=1)(HEIGHT, ())
        assert not mechanism.has_density
        assert not mechanism.can_abduct
        with pytest.raises(TypeError, match=r"of 'H' \(Frozen\) has no density"):
            mechanism.log_prob({}, (), torch.zeros(1))
        with pytest.raises(TypeError, match=r"of 'H' \(Frozen\) cannot be inverted"):
            mechanism.abduct({}, (), torch.zeros(1), torch.zeros(1, 1))

    def test_without_noise_there_is_nothing_to_find(self):
        mechanism = Pretrained(lambda parents: parents["H"])(HEIGHT, [HEIGHT])
        assert mechanism.can_abduct
        assert mechanism.abduct({"H": torch.zeros(2)}, (), torch.zeros(2), torch.zeros(2, 0)).shape == (2, 0)


class TestUntouched:
    def test_training_through_it_moves_the_parent_and_not_a_bit_of_it(self):
        painter = Painter()
        before = copy.deepcopy(painter.state_dict())
        schema = Schema([DIGIT, IMAGE])
        dcm = DCM(mdcm.ADMG.from_string("D -> I"), schema, {}, {"I": by_embedding(painter)})
        dcm.train()
        digit, image = dcm.mechanism("D"), dcm.mechanism("I")
        assert isinstance(digit, Categorical)
        assert list(image.parameters()) == []
        # brightest for one of the digits: the parent learns to draw that one
        with torch.no_grad():
            light = image({"D": torch.arange(3).repeat_interleave(200)}, (), noise_for(image, 600)).view(3, -1).mean(1)
        optimiser = torch.optim.AdamW(dcm.parameters(), 0.05, weight_decay=0.1)
        generator = torch.Generator().manual_seed(0)
        for _ in range(60):
            gumbel = -torch.log(torch.empty(128, 3).exponential_(generator=generator))
            drawn = digit.relaxed({}, (), gumbel, 0.5)
            made = image.relaxed({"D": drawn}, (), torch.randn(128, 4, generator=generator), 0.5)
            optimiser.zero_grad()
            (-made.mean()).backward()
            optimiser.step()
        probability = digit.table({}, 1).detach().exp().flatten()
        assert int(probability.argmax()) == int(light.argmax())
        assert float(probability.amax()) > 0.9
        after = painter.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before)
        assert all(parameter.grad is None for parameter in painter.parameters())
        assert not painter.training

    def test_an_argmax_label_lets_no_gradient_through(self):
        painter = Painter()
        label = Pretrained(
            painter, lambda parents, noise: (painter.embedding(parents["D"].argmax(1)), noise), noise_size=4
        )(IMAGE, [DIGIT])
        soft = by_embedding(painter)(IMAGE, [DIGIT])
        one_hot = torch.eye(3).requires_grad_()
        hard, open_ = (one.relaxed({"D": one_hot}, (), noise_for(one, 3), 1.0) for one in (label, soft))
        assert torch.equal(hard, open_)
        assert not hard.requires_grad
        (open_ * torch.linspace(0, 1, 64).view(8, 8)).sum().backward()
        assert one_hot.grad.any()

    def test_evaluation_mode_is_kept(self):
        painter = Painter()
        image = by_embedding(painter)(IMAGE, [DIGIT])
        parents, noise = {"D": torch.arange(3)}, noise_for(image, 3)
        first = image(parents, (), noise)
        # in training mode dropout and batch statistics would change it
        painter.train()
        image.train()
        assert torch.equal(image(parents, (), noise), first)

    def test_its_weights_are_no_part_of_the_model(self):
        image = by_embedding(Painter())(IMAGE, [DIGIT])
        assert image.state_dict() == {}
        assert image.config() == {"type": "pretrained"}

    def test_a_model_with_it_moves_to_another_type(self):
        painter = Painter()
        dcm = DCM(mdcm.ADMG.from_string("D -> I"), Schema([DIGIT, IMAGE]), {}, {"I": by_embedding(painter)})
        dcm.double()
        assert painter.embedding.weight.dtype == torch.float64

    def test_fit_trains_around_it(self, tmp_path):
        painter = Painter()
        before = copy.deepcopy(painter.state_dict())
        rng = np.random.default_rng(0)
        digit = rng.choice(3, 300, p=[0.6, 0.3, 0.1])
        with torch.no_grad():
            noise = torch.from_numpy(rng.normal(size=(300, 4))).float()
            shown = painter.eval()(painter.embedding(torch.from_numpy(digit)), noise)
        images = ((shown + 1) * 127.5).round().to(torch.uint8).numpy()
        answer = np.where(rng.random(300) < 0.9, digit, (digit + 1) % 3)
        data = mdcm.Dataset({"D": digit, "A": answer}, images={"I": images})
        config = mdcm.TrainConfig(max_steps=60)
        model = mdcm.fit("D -> I -> A", data, mechanisms={"I": by_embedding(painter)}, config=config)
        assert all(torch.equal(value, before[name]) for name, value in painter.state_dict().items())
        drawn = model.draw_samples(200, do={"D": 1}, seed=0)
        assert drawn.images["I"].shape == (200, 1, 8, 8)
        assert not any("I" in record["hnode"] for record in model.history)
        model.save(tmp_path / "run")
        with pytest.raises(mdcm.errors.CheckpointError, match=r"of the type 'pretrained'.*pass it as mechanisms="):
            mdcm.load(tmp_path / "run")
        again = mdcm.load(tmp_path / "run", mechanisms={"I": by_embedding(painter)})
        same = again.draw_samples(200, do={"D": 1}, seed=0)
        assert np.array_equal(same.images["I"], drawn.images["I"])
        pd.testing.assert_frame_equal(same.table, drawn.table)


class Line(Mechanism):
    """A mechanism of a user's own, in ten lines: a number that is linear in its parents, with normal noise."""

    noise_size, has_density = 1, True

    def __init__(self, variable, parents, latents=()):
        super().__init__(variable, parents, latents)
        self.slope = nn.Parameter(torch.zeros(len(self.parents) + 1))

    def _mean(self, parents, rows):
        return sum(
            (w * parents[p.name] for w, p in zip(self.slope, self.parents, strict=False)), self.slope[-1].expand(rows)
        )

    def forward(self, parents, latents, noise):
        return self._mean(parents, len(noise)) + noise[:, 0]

    def log_prob(self, parents, latents, value):
        return torch.distributions.Normal(self._mean(parents, len(value)), 1.0).log_prob(value)

    def conditional_loss(self, parents, value, generator):
        return -self.log_prob(parents, (), value)

    def config(self):
        return {"type": "tests.Line"}


# the verdict on what is drawn is the subject of test_verdicts.py
@pytest.mark.filterwarnings("ignore:.* (is not determined|is not shown|the answer rests|of the answer|no row of)")
def test_a_mechanism_of_ones_own_is_fitted_asked_and_saved(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000)
    data = pd.DataFrame({"X": x, "Y": 2 * x + rng.normal(size=4000)})
    model = mdcm.fit("X -> Y", data, mechanisms={"Y": Line}, config=mdcm.TrainConfig(max_steps=400, learning_rate=0.03))
    variable = model.schema["Y"]
    slope = float(model.dcm.mechanism("Y").slope[0].detach()) * variable.scale / model.schema["X"].scale
    assert slope == pytest.approx(2, abs=0.1)
    drawn = model.draw_samples(5000, do={"X": 3.0}, seed=0).table["Y"]
    assert drawn.mean() == pytest.approx(6, abs=0.3)
    model.save(tmp_path / "run")
    again = mdcm.load(tmp_path / "run", mechanisms={"Y": Line})
    pd.testing.assert_frame_equal(again.draw_samples(50, seed=1).table, model.draw_samples(50, seed=1).table)


def network(**options):
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        **options,
    )


@pytest.fixture
def folder(tmp_path):
    DDIMPipeline(network(num_class_embeds=3), DDIMScheduler()).save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


class TestPipelines:
    def test_without_network_and_as_diffusers_draws_it(self, folder, monkeypatch):
        def refuse(*_, **__):
            raise AssertionError("nothing may be fetched")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        mechanism = Pretrained.from_diffusers(folder, label="D", steps=10)(IMAGE, [DIGIT])
        assert isinstance(mechanism, Frozen)
        noise = noise_for(mechanism, 3)
        with torch.no_grad():
            made = mechanism({"D": torch.arange(3)}, (), noise)
        # by hand, with the parts as diffusers reads them
        unet = UNet2DModel.from_pretrained(str(folder / "unet"), use_safetensors=True, low_cpu_mem_usage=False).eval()
        scheduler = DDIMScheduler(clip_sample=False)
        scheduler.set_timesteps(10)
        state = noise.view(3, 1, 8, 8)
        with torch.no_grad():
            for step in scheduler.timesteps:
                out = unet(state, step, class_labels=torch.arange(3)).sample
                state = scheduler.step(out, step, state).prev_sample
        assert torch.allclose(made, state.clamp(-1, 1), atol=1e-5)

    def test_a_gradient_reaches_the_label(self, folder):
        mechanism = Pretrained.from_diffusers(folder, label="D", steps=2)(IMAGE, [DIGIT])
        one_hot = torch.eye(3).requires_grad_()
        mechanism.relaxed({"D": one_hot}, (), 0.1 * noise_for(mechanism, 3), 1.0).sum().backward()
        assert one_hot.grad.any()

    def test_it_can_be_inverted(self, folder):
        mechanism = Pretrained.from_diffusers(folder, label="D", steps=10)(IMAGE, [DIGIT])
        parents = {"D": torch.arange(3)}
        with torch.no_grad():
            # random weights make a sampler that folds; smaller ones bend space without folding it
            for parameter in mechanism.source.module.unet.conv_out.parameters():
                parameter.mul_(0.005)
            made = mechanism(parents, (), 0.002 * noise_for(mechanism, 3))
            assert 0.1 < made.abs().max() < 1
            found = mechanism.abduct(parents, (), made, noise_for(mechanism, 3, seed=1))
            # float32 keeps 24 bits of a step, and this sampler magnifies what it makes of noise a hundred times
            assert (mechanism(parents, (), found) - made).abs().max() < 1e-4

    def test_a_scheduler_of_another_kind_and_no_classes(self, tmp_path):
        DDIMPipeline(network(), DDPMScheduler(beta_schedule="squaredcos_cap_v2")).save_pretrained(tmp_path / "p")
        mechanism = Pretrained.from_diffusers(tmp_path / "p", steps=3)(IMAGE, ())
        with torch.no_grad():
            assert mechanism({}, (), noise_for(mechanism, 2)).shape == (2, 1, 8, 8)

    @pytest.mark.parametrize("name", ["my_pipeline.py", "unet/diffusion_pytorch_model.bin", "extra.pkl", "a/b.pt"])
    def test_what_could_run_code_is_refused(self, folder, name):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
        with pytest.raises(MdcmError, match="could run code when it is read"):
            Pretrained.from_diffusers(folder, label="D")

    @pytest.mark.parametrize(
        ("part", "message"),
        [
            ({"unet": ["my_pipeline", "UNet2DModel"]}, "the part 'unet' is"),
            ({"unet": ["diffusers", "UNet2DConditionModel"]}, "the part 'unet' is"),
            ({"vae": ["diffusers", "AutoencoderKL"]}, r"the part 'vae' is .* Pretrained\(function\)"),
            ({"unet": None}, "names the parts"),
        ],
    )
    def test_other_pipelines_are_refused(self, folder, part, message):
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        (folder / "model_index.json").write_text(json.dumps(index | part), encoding="utf-8")
        with pytest.raises(MdcmError, match=message):
            Pretrained.from_diffusers(folder, label="D")

    @pytest.mark.parametrize(
        "change",
        [
            {"block_out_channels": [10**9, 16]},
            {"block_out_channels": [16, 16]},
            {"block_out_channels": "no"},
            {"layers_per_block": 10**8},
            {"num_class_embeds": 10**7},
            {"sample_size": "x"},
            {"sample_size": [8]},
            {"act_fn": 3},
        ],
        ids=str,
    )
    def test_a_description_that_does_not_fit_is_refused(self, folder, change):
        path = folder / "unet" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
        with pytest.raises(MdcmError):
            Pretrained.from_diffusers(folder, label="D")

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("model_index.json", b"[]"),
            ("model_index.json", b"{" * 100_000),
            ("unet/config.json", b"{"),
            ("unet/diffusion_pytorch_model.safetensors", b"abc"),
            ("unet/diffusion_pytorch_model.safetensors", b"\xff" * 64),
            ("scheduler/scheduler_config.json", b"3"),
        ],
    )
    def test_damaged_files_are_named(self, folder, file, content):
        (folder / file).write_bytes(content)
        with pytest.raises(MdcmError, match=str(folder)):
            Pretrained.from_diffusers(folder, label="D")

    def test_a_header_that_promises_more_numbers_than_the_file_holds(self, folder):
        header = json.dumps({"w": {"dtype": "F32", "shape": [10**11], "data_offsets": [0, 4 * 10**11]}}).encode()
        content = len(header).to_bytes(8, "little") + header + bytes(100)
        (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(content)
        with pytest.raises(MdcmError, match="its header says 100,000,000,000 numbers, for which it is too short"):
            Pretrained.from_diffusers(folder, label="D")

    def test_missing_folder_and_wrong_options(self, folder, tmp_path):
        with pytest.raises(MdcmError, match="cannot be read"):
            Pretrained.from_diffusers(tmp_path / "nothing")
        with pytest.raises(MdcmError, match="has 3 classes; name the parent that holds them"):
            Pretrained.from_diffusers(folder)
        with pytest.raises(ValueError, match="steps must be from 1 to 1000, not 0"):
            Pretrained.from_diffusers(folder, label="D", steps=0)
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        with pytest.raises(MdcmError, match=r"holds no diffusion_pytorch_model\.safetensors"):
            Pretrained.from_diffusers(folder, label="D")
