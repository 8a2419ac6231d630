"""Laws of the rectified flow: what it depends on, where its integrator converges, where its loss is minimal."""

import itertools
import math

import numpy as np
import pytest
import torch

import mdcm
from mdcm.data import Variable
from mdcm.errors import PlanError
from mdcm.mechanisms import RectifiedFlow, from_config
from mdcm.mechanisms.base import Mechanism
from mdcm.mechanisms.encoder import ImageReader
from mdcm.training.adversarial_config import AdversarialConfig

COLOUR = Variable("colour", "categorical", levels=("red", "blue"))
SIZE = Variable("size", "continuous")
SKETCH = Variable("sketch", "image", shape=(1, 8, 8))
PARENTS = {"colour": COLOUR, "size": SIZE, "sketch": SKETCH}


def image(*shape):
    return Variable("picture", "image", shape=shape)


def scrambled(flow, seed=0):
    """A flow whose layers that start at zero no longer are, so that everything can have an effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in flow.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return flow


def some_parents(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "colour": torch.randint(2, (n,), generator=generator),
        "size": torch.randn(n, generator=generator),
        "sketch": torch.rand(n, 1, 8, 8, generator=generator) * 2 - 1,
    }


def noise_for(flow, n, seed=0):
    return torch.randn(n, flow.noise_size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def flow():
    torch.manual_seed(0)
    return scrambled(RectifiedFlow(image(3, 16, 16), list(PARENTS.values()), width=32, blocks=2, channels=4))


class TestForward:
    @pytest.mark.parametrize("channels", [0, 4])
    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16), (2, 8, 24), (1, 40, 24), (3, 64, 64)], ids=str)
    def test_gives_images_in_range(self, shape, channels):
        torch.manual_seed(0)
        flow = scrambled(RectifiedFlow(image(*shape), [COLOUR], width=16, blocks=1, channels=channels, steps=2))
        assert flow.noise_size == math.prod(shape)
        made = flow({"colour": torch.tensor([0, 1, 1])}, (), 5 * noise_for(flow, 3))
        assert made.shape == (3, *shape)
        assert made.dtype == torch.float32
        assert made.min() >= -1
        assert made.max() <= 1

    def test_is_a_function_of_parents_and_noise(self, flow):
        parents, noise = some_parents(6), noise_for(flow, 6)
        first = flow(parents, (), noise)
        torch.manual_seed(123)
        assert torch.equal(flow(parents, (), noise), first)

    def test_rows_do_not_see_each_other(self, flow):
        parents, noise = some_parents(6), noise_for(flow, 6)
        together = flow(parents, (), noise)
        for row in range(6):
            alone = flow({name: value[row : row + 1] for name, value in parents.items()}, (), noise[row : row + 1])
            # matrix products of other sizes round differently; 15 evaluations accumulate it
            assert torch.allclose(alone[0], together[row], atol=1e-4)

    @pytest.mark.parametrize("name", list(PARENTS))
    def test_depends_on_each_parent(self, flow, name):
        parents, noise = some_parents(4), noise_for(flow, 4)
        other = dict(parents) | {name: 1 - parents[name] if name == "colour" else -parents[name]}
        changed = (flow(other, (), noise) - flow(parents, (), noise)).abs().amax(dim=(1, 2, 3))
        assert (changed > 1e-3).all()

    def test_depends_on_the_noise(self, flow):
        parents = {name: value[:1].expand(2, *value.shape[1:]) for name, value in some_parents(1).items()}
        made = flow(parents, (), noise_for(flow, 2))
        assert (made[0] - made[1]).abs().max() > 1e-3

    def test_needs_no_parents(self):
        flow = scrambled(RectifiedFlow(image(1, 8, 8), (), width=8, blocks=1))
        assert flow({}, (), noise_for(flow, 3)).shape == (3, 1, 8, 8)

    def test_gradient_reaches_every_parameter_and_the_parents(self, flow):
        parents = some_parents(4)
        parents["sketch"].requires_grad_()
        flow(parents, (), 0.1 * noise_for(flow, 4)).square().sum().backward()
        for name, tensor in [*flow.named_parameters(), ("sketch", parents["sketch"])]:
            assert tensor.grad is not None, name
            assert tensor.grad.isfinite().all(), name
            assert tensor.grad.any(), name

    @pytest.mark.parametrize("side", [8, 32])
    @pytest.mark.parametrize("spread", [0.2, 0.5])
    def test_integrator_is_of_second_order(self, monkeypatch, spread, side):
        # for pixels that are normal, independent of each other, the flow from z ends at mean + spread * z
        mean = 0.1
        flow = RectifiedFlow(image(1, side, side), (), width=8, blocks=1)
        monkeypatch.setattr(flow, "_predict", normal_posterior(mean, spread))
        noise = torch.linspace(-1.5, 1.5, side**2, dtype=torch.float64)[None]
        errors = []
        for steps in (16, 32, 64):
            # these pixels, unlike those of large images, are settled late, where a shift leaves fewer steps
            flow.steps = steps * round(flow.shift)
            made = flow({}, (), noise).flatten(1)
            errors.append(float((made - mean - spread * noise).abs().max()))
        assert errors[0] < 0.02
        for coarse, fine in itertools.pairwise(errors):
            assert 3.2 < coarse / fine < 4.8, "halving the step divides a second-order error by 4"


def normal_posterior(mean, spread, off=0.0):
    """E[x | (1 - t) z + t x] for x ~ N(mean, spread^2), z ~ N(0, 1), plus a constant error."""

    def predict(noisy, time, context):
        t = time[:, None, None, None].to(noisy)
        gain = t * spread**2 / ((t * spread) ** 2 + (1 - t) ** 2)
        return mean + gain * (noisy - t * mean) + off

    return predict


class TestLoss:
    def test_is_one_number_per_row_from_the_generator_alone(self, flow):
        parents, value = some_parents(5), torch.rand(5, 3, 16, 16) * 2 - 1
        torch.manual_seed(1)
        first = flow.conditional_loss(parents, value, torch.Generator().manual_seed(3))
        torch.manual_seed(2)
        assert first.shape == (5,)
        assert torch.equal(flow.conditional_loss(parents, value, torch.Generator().manual_seed(3)), first)
        assert not torch.equal(flow.conditional_loss(parents, value, torch.Generator().manual_seed(4)), first)

    @pytest.mark.parametrize("off", [-0.05, 0.05])
    def test_is_minimal_at_the_posterior_mean(self, monkeypatch, off):
        n, mean, spread = 4000, 0.1, 0.3
        flow = RectifiedFlow(image(1, 8, 8), (), width=8, blocks=1)
        value = mean + spread * torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        losses = []
        for error in (0.0, off):
            monkeypatch.setattr(flow, "_predict", normal_posterior(mean, spread, error))
            losses.append(flow.conditional_loss({}, value, torch.Generator().manual_seed(1)))
        excess = losses[1] - losses[0]
        assert excess.mean() > 5 * excess.std() / math.sqrt(n)

    def test_gradient_reaches_every_parameter(self, flow):
        value = torch.rand(8, 3, 16, 16) * 2 - 1
        flow.conditional_loss(some_parents(8), value, torch.Generator().manual_seed(0)).mean().backward()
        for name, parameter in flow.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name

    def test_has_no_density(self, flow):
        assert not flow.has_density
        with pytest.raises(TypeError, match=r"mechanism of 'picture' \(RectifiedFlow\) has no density"):
            flow.log_prob({}, (), torch.zeros(1, 3, 16, 16))


class TestPrepare:
    def test_measures_mean_image_and_spread(self):
        value = torch.rand(50, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        flow = RectifiedFlow(image(2, 8, 8), [SIZE], width=8, blocks=1)
        flow.prepare({"size": torch.arange(50.0)}, value)
        assert torch.allclose(flow.mean, value.mean(0))
        assert torch.allclose(flow.std, (value - value.mean(0)).square().mean().sqrt())
        assert flow.inputs[0].mean == pytest.approx(24.5)

    def test_untrained_flow_draws_the_mean_image(self):
        # the network starts at zero, which stands for the mean
        value = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        flow = RectifiedFlow(image(1, 8, 8), (), width=8, blocks=1)
        flow.prepare({}, value)
        assert torch.allclose(flow({}, (), noise_for(flow, 2)), value.mean(0).expand(2, 1, 8, 8), atol=1e-6)

    def test_images_that_are_all_alike(self):
        flow = scrambled(RectifiedFlow(image(1, 8, 8), (), width=8, blocks=1))
        flow.prepare({}, torch.full((10, 1, 8, 8), 0.25))
        made = flow({}, (), noise_for(flow, 5))
        assert (made - 0.25).abs().max() < 0.01


class TestTraining:
    def test_mixture_given_the_parent_is_learned(self):
        # the first channel is lit where the colour is red, with one in ten the other way round
        flipped, n, draws = 0.1, 4000, 1000
        generator = torch.Generator().manual_seed(0)
        colour = torch.randint(2, (n,), generator=generator)
        shown = torch.where(torch.rand(n, generator=generator) < flipped, 1 - colour, colour)
        lit = 0.4 + 0.5 * torch.rand(n, generator=generator)
        value = torch.full((n, 2, 8, 8), -1.0)
        value[torch.arange(n), shown, 2:6, 2:6] = lit[:, None, None]
        torch.manual_seed(0)
        flow = RectifiedFlow(image(2, 8, 8), [COLOUR], width=48, blocks=2)
        flow.prepare({"colour": colour}, value)
        steps = 500
        optimiser = torch.optim.AdamW(flow.parameters(), 3e-3, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            rows = torch.randint(n, (128,), generator=generator)
            loss = flow.conditional_loss({"colour": colour[rows]}, value[rows], generator).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        wanted = torch.arange(2).repeat_interleave(draws)
        with torch.no_grad():
            made = flow({"colour": wanted}, (), noise_for(flow, len(wanted)))
        brightness = made[:, :, 2:6, 2:6].mean(dim=(2, 3))
        seen = brightness.argmax(dim=1)
        standard_error = math.sqrt(flipped * (1 - flipped) * (1 / draws + 2 / n))
        for level in (0, 1):
            share = float((seen[wanted == level] != level).float().mean())
            assert abs(share - flipped) < 5 * standard_error
        # one channel is lit and the other dark, in the range of brightness of the data
        bright, dark = brightness.max(dim=1).values, brightness.min(dim=1).values
        assert float((dark < -0.8).float().mean()) > 0.95
        assert float(bright.mean()) == pytest.approx(0.65, abs=0.05)

    @pytest.mark.parametrize(("side", "odds"), [(8, 1), (16, 1), (32, 3), (64, 9.2)])
    def test_larger_images_are_trained_and_made_with_more_noise(self, side, odds, monkeypatch):
        # the odds t / (1 - t) of every time are so many times smaller than those of 16 x 16 pixels
        flow = RectifiedFlow(image(1, side, side), (), width=8, blocks=1)
        seen = []

        def watched(state, time, context):
            seen.append(time.clone())
            return torch.zeros_like(state)

        monkeypatch.setattr(flow, "_predict", watched)
        flow.conditional_loss({}, torch.zeros(4001, 1, side, side), torch.Generator().manual_seed(0))
        middle = float(seen[0].logit().median())
        # the median of n normal numbers has a standard error of 1.25 / sqrt(n)
        assert middle == pytest.approx(-0.3 - math.log(odds), abs=4 * 1.2 * 1.25 / 4001**0.5 + 0.02)
        seen.clear()
        flow({}, (), torch.zeros(1, side**2))
        starts = torch.cat(seen)[::2]
        true = [k / (k + odds * (8 - k)) for k in range(8)]
        assert starts.tolist() == pytest.approx(true, rel=0.02)

    def test_defaults_name_what_training_reads(self):
        flow = RectifiedFlow(image(1, 8, 8), ())
        assert set(flow.training_defaults(1000)) == set(Mechanism.training_defaults(flow, 1000))


class TestConfig:
    def test_builds_the_same_mechanism_again(self):
        torch.manual_seed(0)
        flow = scrambled(RectifiedFlow(image(3, 16, 16), [COLOUR], width=24, blocks=3, channels=8, steps=3))
        flow.prepare({"colour": torch.tensor([0, 1])}, torch.rand(2, 3, 16, 16))
        again = from_config(flow.config())(flow.variable, [COLOUR], ())
        assert again.config() == flow.config()
        again.load_state_dict(flow.state_dict())
        parents, noise = {"colour": torch.tensor([1, 0])}, noise_for(flow, 2)
        assert torch.equal(again(parents, (), noise), flow(parents, (), noise))


def test_two_pictures_alone_say_what_can_be_done():
    generator = np.random.default_rng(0)
    pictures = {name: generator.integers(0, 255, (40, 1, 8, 8)).astype(np.uint8) for name in "IJ"}
    few = mdcm.TrainConfig(max_steps=2, adversarial=AdversarialConfig(steps=2, encoder_steps=2))
    with pytest.raises(
        PlanError, match=r"arrays=\{'[IJ]': features\}.* such as a label L, confounded with it: . <-> L"
    ):
        mdcm.fit("I <-> J", mdcm.Dataset(images=pictures), config=few)
    # which is so
    vectors = {name: picture.reshape(40, -1)[:, :3] / 255 for name, picture in pictures.items()}
    assert len(mdcm.fit("I <-> J", mdcm.Dataset(arrays=vectors), config=few).draw_samples(3)) == 3


class TestSizes:
    """Any height and width: what the network needs beyond the picture is added inside, and never comes out."""

    SIZES = ((3, 8, 8), (1, 28, 28), (2, 30, 30), (3, 20, 45), (1, 1, 9), (1, 5, 3))

    @pytest.mark.parametrize("channels", [0, 8])
    @pytest.mark.parametrize("shape", SIZES, ids=str)
    def test_pictures_noise_and_loss_have_the_size_of_the_variable(self, shape, channels):
        torch.manual_seed(0)
        flow = RectifiedFlow(image(*shape), [COLOUR], width=16, blocks=1, channels=channels, steps=2)
        parents, noise = {"colour": torch.tensor([0, 1, 1])}, noise_for(flow, 3)
        assert noise.shape == (3, math.prod(shape))
        with torch.no_grad():
            made = flow(parents, (), noise)
            assert made.shape == (3, *shape)
            assert flow.abduct(parents, (), made, torch.zeros_like(noise)).shape == noise.shape
        assert flow.conditional_loss(parents, made, torch.Generator()).shape == (3,)

    @pytest.mark.parametrize("shape", SIZES, ids=str)
    def test_patches_sharpen_every_pixel(self, shape):
        torch.manual_seed(0)
        flow = scrambled(RectifiedFlow(image(*shape), (), width=16, blocks=1, channels=8, steps=1))
        # so small that no pixel is clamped
        flow.std.fill_(0.05)
        noise = noise_for(flow, 2)
        with torch.no_grad():
            sharp = flow(parents={}, latents=(), noise=noise)
            flow.network.sharpen.weight.zero_()
            flow.network.sharpen.bias.zero_()
            plain = flow(parents={}, latents=(), noise=noise)
        # the last row and column as well, which lie next to what is cut off
        assert bool((sharp != plain).all())

    def test_the_edge_beyond_a_picture_has_no_part_in_it(self):
        """A picture of 28 x 28 is not one of 32 x 32 with an edge: the dense level sees its own pixels alone."""
        flow = RectifiedFlow(image(1, 28, 28), (), channels=8)
        assert flow.network.squeeze.in_features == flow.network.unfold.out_features == 28 * 28
        assert flow.network.patch == 4

    @pytest.mark.parametrize("shape", [(1, 28, 28), (1, 20, 45)], ids=str)
    def test_the_default_mechanism_is_fitted_and_drawn_from(self, shape):
        generator = np.random.default_rng(0)
        digit = np.arange(60) % 2
        pictures = (generator.random((60, *shape)) * 100).astype(np.uint8) + (digit * 100).astype(np.uint8)[
            :, None, None, None
        ]
        data = mdcm.Dataset({"D": digit}, images={"I": pictures})
        model = mdcm.fit("D -> I", data, config=mdcm.TrainConfig(max_steps=2))
        assert isinstance(model.dcm.mechanism("I"), RectifiedFlow)
        drawn = model.draw_samples(3, do={"D": 1})
        assert drawn.images["I"].shape == (3, *shape)
        assert drawn.images["I"].dtype == np.uint8


class TestRefusals:
    def test_variable_that_is_no_image(self):
        with pytest.raises(PlanError, match="'colour' is categorical, and a rectified flow generates images only"):
            RectifiedFlow(COLOUR, ())

    def test_confounder(self):
        with pytest.raises(PlanError, match="'picture' has a hidden confounder"):
            RectifiedFlow(image(1, 8, 8), (), [4])

    @pytest.mark.parametrize("option", [{"width": 0}, {"blocks": 0}, {"steps": 0}, {"channels": -1}], ids=str)
    def test_option_out_of_range(self, option):
        with pytest.raises(ValueError, match="must be at least 1 and channels at least 0"):
            RectifiedFlow(image(1, 8, 8), (), **option)


class TestImageReader:
    @pytest.mark.parametrize(
        "shape", [(1, 1, 1), (1, 3, 5), (3, 8, 8), (3, 16, 16), (1, 28, 28), (3, 64, 64), (3, 96, 40)], ids=str
    )
    def test_reads_every_size(self, shape):
        torch.manual_seed(0)
        reader = ImageReader(shape, 7)
        images = torch.rand(4, *shape) * 2 - 1
        images.requires_grad_()
        features = reader(images)
        assert features.shape == (4, 7)
        features.square().sum().backward()
        # every pixel counts
        assert (images.grad != 0).any(dim=0).all()

    def test_stays_small_on_large_images(self):
        small, large = (sum(p.numel() for p in ImageReader((3, r, r), 16).parameters()) for r in (16, 256))
        # 256 times the pixels
        assert large < 8 * small

    @pytest.mark.parametrize(
        ("shape", "features", "message"),
        [((8, 8), 4, "channels, height, width"), ((3, 0, 8), 4, "all positive"), ((3, 8, 8), 0, "at least 1")],
        ids=str,
    )
    def test_refuses_what_it_cannot_be(self, shape, features, message):
        with pytest.raises(ValueError, match=message):
            ImageReader(shape, features)

    def test_refuses_images_of_another_shape(self):
        with pytest.raises(ValueError, match=r"images are \(3, 16, 16\), but the reader was built for \(3, 8, 8\)"):
            ImageReader((3, 8, 8), 4)(torch.zeros(2, 3, 16, 16))
