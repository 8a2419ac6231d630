"""Images: what a generator, a diffusion model and an encoder learn, and samplers run backwards."""

import math

import numpy as np
import pytest
import torch

from mdcm.data import Variable
from mdcm.errors import MdcmError
from mdcm.mechanisms import Diffusion, ImageEncoder, ImageGenerator, RectifiedFlow, train_encoder
from mdcm.mechanisms.inversion import fixed_point, invert

COLOUR = Variable("colour", "categorical", levels=("red", "blue"))
FLIPPED = 0.1


def pictures(n, seed=0):
    """The channel that the colour names is lit, with one in ten the other way round, at a random brightness."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.randint(2, (n,), generator=generator)
    shown = torch.where(torch.rand(n, generator=generator) < FLIPPED, 1 - colour, colour)
    lit = 0.4 + 0.5 * torch.rand(n, generator=generator)
    value = torch.full((n, 2, 8, 8), -1.0)
    value[torch.arange(n), shown, 2:6, 2:6] = lit[:, None, None]
    return colour, shown, lit, value


def trained(mechanism, steps, batch, rate):
    colour, _, _, value = pictures(4000)
    mechanism.prepare({"colour": colour}, value)
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.AdamW(mechanism.parameters(), rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = torch.randint(len(value), (batch,), generator=generator)
        loss = mechanism.conditional_loss({"colour": colour[rows]}, value[rows], generator).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return mechanism.eval()


@pytest.fixture(scope="module")
def rectified():
    torch.manual_seed(0)
    return trained(RectifiedFlow(Variable("I", "image", shape=(2, 8, 8)), [COLOUR], width=48, blocks=2), 500, 128, 3e-3)


@pytest.fixture(scope="module")
def diffusion():
    torch.manual_seed(0)
    image = Variable("I", "image", shape=(2, 8, 8))
    return trained(Diffusion(image, [COLOUR], channels=8, levels=2, steps=10), 250, 32, 4e-3)


def noise_for(mechanism, n, seed):
    return torch.randn(n, mechanism.noise_size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["rectified", "diffusion"])
class TestInversion:
    def test_an_image_it_made_comes_back(self, name, request):
        mechanism, n = request.getfixturevalue(name), 40
        parents = {"colour": torch.arange(n) % 2}
        with torch.no_grad():
            made = mechanism(parents, (), noise_for(mechanism, n, 2))
            noise = mechanism.abduct(parents, (), made, noise_for(mechanism, n, 3))
            missed = (mechanism(parents, (), noise) - made).abs().flatten(1)
        assert noise.shape == (n, mechanism.noise_size)
        # pixels have a range of 2; what another noise draws differs by 0.3 on average
        assert float(missed.mean()) < 0.01
        assert float(missed.amax(1).quantile(0.9)) < 0.1

    def test_a_new_image_comes_back_roughly_from_likely_noise(self, name, request):
        mechanism, n = request.getfixturevalue(name), 40
        colour, _, _, value = pictures(n, seed=5)
        with torch.no_grad():
            noise = mechanism.abduct({"colour": colour}, (), value, noise_for(mechanism, n, 3))
            again = mechanism({"colour": colour}, (), noise)
        # these networks were trained for seconds: the error is theirs
        assert float((again - value).abs().mean()) < 0.06
        assert float(noise.std()) == pytest.approx(1, abs=0.3)

    def test_the_counterfactual_keeps_what_the_parent_does_not_change(self, name, request):
        mechanism, n = request.getfixturevalue(name), 40
        colour, shown, _, value = pictures(n, seed=6)
        with torch.no_grad():
            noise = mechanism.abduct({"colour": colour}, (), value, noise_for(mechanism, n, 3))
            other = mechanism({"colour": 1 - colour}, (), noise)
        light = other[:, :, 2:6, 2:6].mean((2, 3))
        usual = shown == colour
        # the other colour now: most of what showed its colour shows the other one
        assert float((light.argmax(1)[usual] != shown[usual]).float().mean()) > 0.5

    def test_it_has_no_other_randomness(self, name, request):
        mechanism = request.getfixturevalue(name)
        colour, _, _, value = pictures(4, seed=7)
        fresh = noise_for(mechanism, 4, 1)
        one, other = (mechanism.abduct({"colour": colour}, (), value, fresh) for _ in range(2))
        assert mechanism.can_abduct
        assert not one.requires_grad
        assert torch.equal(one, other)


def test_a_diffusion_model_learns_a_conditional(diffusion):
    n = 300
    wanted = torch.arange(2).repeat_interleave(n // 2)
    with torch.no_grad():
        made = diffusion({"colour": wanted}, (), noise_for(diffusion, n, 0))
    light = made[:, :, 2:6, 2:6].mean((2, 3))
    assert made.min() >= -1
    assert made.max() <= 1
    # a tenth the other way round, give or take chance and a training of seconds
    assert float((light.argmax(1) != wanted).float().mean()) == pytest.approx(FLIPPED, abs=0.1)
    assert float(light.amax(1).mean()) == pytest.approx(0.65, abs=0.15)
    assert float(light.amin(1).mean()) < -0.8


class TestSteps:
    @pytest.mark.parametrize("slope", [0.1, 0.5, 1.0, 1.9, 7.0])
    def test_a_straight_step_is_solved(self, slope):
        target = torch.linspace(-1, 1, 12).view(3, 4)
        found = fixed_point(lambda x: slope * x, target, torch.zeros(3, 4), rounds=200)
        assert torch.allclose(slope * found, target, atol=1e-4)

    def test_rows_are_solved_apart(self):
        target, slope = torch.ones(2, 1), torch.tensor([[0.5], [12.0]])
        found = fixed_point(lambda x: slope * x, target, torch.zeros(2, 1))
        assert torch.allclose(slope * found, target, atol=1e-4)

    def test_what_cannot_be_reached_stays_near_the_start(self):
        # the step forgets the second entry
        keep = torch.tensor([1.0, 0.0])
        found = fixed_point(lambda x: x * keep, torch.tensor([[0.3, 0.2]]), torch.zeros(1, 2), gain=0.05)
        assert found[0, 0] == pytest.approx(0.3, abs=1e-6)
        assert found[0, 1] == pytest.approx(0.2, abs=1e-6)

    def test_nan_is_never_an_answer(self):
        found = fixed_point(lambda x: torch.sqrt(x), torch.full((1, 1), -1.0), torch.ones(1, 1))
        assert found.isfinite().all()

    def test_steps_are_undone_in_reverse(self):
        steps = [lambda x: 2 * x, lambda x: x + 1, lambda x: 0.5 * x]
        image = torch.full((1, 1, 1, 1), 3.0)
        assert float(invert(steps, image, image)) == pytest.approx(2.5, abs=1e-3)


class TestImageGenerator:
    @pytest.mark.parametrize("shape", [(1, 1, 1), (3, 8, 8), (1, 28, 28), (3, 64, 48), (2, 5, 33)], ids=str)
    def test_every_size(self, shape):
        generator = ImageGenerator(Variable("I", "image", shape=shape), [COLOUR], (3,), channels=4, width=8, noise=5)
        latents = [torch.tensor([0, 2])]
        made = generator({"colour": torch.tensor([0, 1])}, latents, torch.randn(2, 5))
        assert made.shape == (2, *shape)
        assert made.abs().max() < 1

    def test_a_critic_teaches_it_colour_and_cause(self):
        # brightness is the confounder's, the channel the parent's: by matching moments, a critic's simplest kind
        torch.manual_seed(0)
        image = Variable("I", "image", shape=(2, 8, 8))
        generator = ImageGenerator(image, [COLOUR], (2,), channels=8, width=32, noise=8)
        random = torch.Generator().manual_seed(0)
        optimiser = torch.optim.Adam(generator.parameters(), 3e-3)
        colour, state = (torch.arange(4) // 2).repeat(16), (torch.arange(4) % 2).repeat(16)
        wanted = torch.full((64, 2, 8, 8), -0.8)
        wanted[torch.arange(64), colour, 2:6, 2:6] = (state.float() * 1.2 - 0.4)[:, None, None]
        for _ in range(150):
            made = generator({"colour": colour}, [state], torch.randn(64, 8, generator=random))
            loss = (made - wanted).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            made = generator({"colour": colour}, [state], torch.randn(64, 8, generator=random))
        light = made[:, :, 2:6, 2:6].mean((2, 3))
        assert torch.equal(light.argmax(1), colour)
        bright = light.amax(1)
        assert float(bright[state == 1].min()) > float(bright[state == 0].max())


@pytest.fixture(scope="module")
def data():
    _, shown, lit, value = pictures(2000, seed=1)
    label = (shown + (torch.rand(2000, generator=torch.Generator().manual_seed(2)) < 0.2).long()) % 2
    return ((value + 1) * 127.5).round().to(torch.uint8), {"label": label, "light": lit}


@pytest.fixture(scope="module")
def encoder(data):
    return train_encoder(*data, features=4, steps=250, seed=0)


class TestEncoder:
    def test_it_knows_what_the_image_says(self, encoder):
        report = encoder.report
        assert report.rows == 200
        # the label is the channel in 80 of 100 rows; nothing can know more
        noise = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
        error = 3 * math.sqrt(0.16 / 200) * math.log(0.8 / 0.2)
        assert report.loss["label"] == pytest.approx(noise, abs=error + 0.03)
        assert report.baseline["label"] == pytest.approx(math.log(2), abs=0.03)
        # the brightness is there to be read
        assert report.loss["light"] < report.baseline["light"] - 1.5

    def test_features_are_standardised_and_frozen(self, encoder, data):
        features = encoder(data[0])
        assert features.shape == (2000, 4)
        assert features.dtype == torch.float32
        assert features.mean(0).abs().max() < 0.1
        assert ((features.std(0) - 1).abs() < 0.1).all()
        assert not features.requires_grad
        assert not encoder.training
        floats = data[0].float() / 127.5 - 1
        assert torch.allclose(encoder(floats), features, atol=1e-6)

    def test_a_gradient_passes_through_to_the_image(self, encoder):
        image = torch.zeros(1, 2, 8, 8, requires_grad=True)
        encoder(image).sum().backward()
        assert image.grad.any()

    def test_a_seed_makes_the_same_encoder(self, data):
        images, targets = data[0][:200], {name: value[:200] for name, value in data[1].items()}
        state = torch.random.get_rng_state()
        one, again, other = (
            train_encoder(images, targets, features=3, steps=20, seed=s).state_dict() for s in (1, 1, 2)
        )
        assert torch.equal(torch.random.get_rng_state(), state)
        assert all(torch.equal(one[name], again[name]) for name in one)
        assert not all(torch.equal(one[name], other[name]) for name in one)

    def test_the_joint_is_learned_and_not_only_the_margins(self):
        # the image tells whether two coins agree, and nothing of either
        rng = np.random.default_rng(0)
        n = 1500
        a = rng.integers(0, 2, n)
        b = rng.integers(0, 2, n)
        images = np.zeros((n, 1, 8, 8), dtype=np.uint8)
        images[a == b, :, :4] = 255
        encoder = train_encoder(images, {"a": a, "b": b}, features=2, steps=250)
        assert encoder.report.loss["a"] == pytest.approx(math.log(2), abs=0.05)
        assert encoder.report.loss["b"] < 0.1

    def test_weights_and_vectors_and_unseen_levels(self, data):
        images = data[0][:300].numpy()
        vector = np.stack([data[1]["light"][:300].numpy()] * 2, 1)
        targets = {"label": np.zeros(300, dtype=np.int64), "pair": vector}
        weights = np.r_[np.ones(150), np.zeros(150)]
        encoder = train_encoder(images, targets, levels={"label": 3}, weights=weights, steps=20, features=2)
        assert encoder.report.loss["label"] < 1

    def test_without_held_out_rows_there_is_no_report(self, data):
        encoder = train_encoder(data[0][:50], {"label": data[1]["label"][:50]}, steps=3, holdout=0)
        assert encoder.report is None
        assert encoder(data[0][:2]).isfinite().all()

    @pytest.mark.parametrize(
        ("images", "targets", "options", "message"),
        [
            (torch.zeros(4, 1, 8, 8), {}, {}, "at least one target"),
            (torch.zeros(1, 1, 8, 8), {"a": [0]}, {}, "at least two images"),
            (torch.zeros(4, 8, 8), {"a": [0] * 4}, {}, r"not \[4, 8, 8\]"),
            (torch.zeros(4, 1, 8, 8), {"a": [0] * 3}, {}, r"target 'a' has the shape \[3\], and there are 4 images"),
            (torch.zeros(4, 1, 8, 8), {"a": [0, 1, 2, 3]}, {"levels": {"a": 3}}, "one code from 0 to 2"),
            (torch.zeros(4, 1, 8, 8), {"a": [0, 1, -1, 3]}, {}, "one code from 0"),
            (torch.zeros(4, 1, 8, 8), {"a": [0.0, 1.0, math.nan, 3.0]}, {}, "not finite"),
            (torch.zeros(4, 1, 8, 8), {"a": [0] * 4}, {"weights": [0, 0, 0, 0]}, "some of them positive"),
            (torch.zeros(4, 1, 8, 8), {"a": [0] * 4}, {"weights": [1, 1]}, "weights must be 4 numbers"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, images, targets, options, message):
        with pytest.raises(ValueError, match=message):
            train_encoder(images, targets, **options)

    def test_divergence_is_said(self, data):
        with pytest.raises(MdcmError, match="diverged at step"):
            train_encoder(data[0][:100], {"label": data[1]["label"][:100]}, steps=12, learning_rate=1e30)

    def test_an_untrained_one_has_no_report(self):
        assert ImageEncoder((1, 8, 8), 2).report is None
