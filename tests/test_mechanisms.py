"""What every mechanism owes: shapes, types, dependence on what it is given and on nothing else, and a description."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from learning import chi_square, critical_chi_square

import mdcm
from mdcm.data import Dataset, Variable
from mdcm.dcm import DCM
from mdcm.errors import CheckpointError, PlanError
from mdcm.mechanisms import (
    Categorical,
    Diffusion,
    Flow,
    ImageGenerator,
    Implicit,
    Mechanism,
    RectifiedFlow,
    from_config,
)
from mdcm.mechanisms.inputs import Context, ParentInput

COLOUR = Variable("colour", "categorical", levels=("red", "blue", "green"))
WEIGHT = Variable("weight", "continuous")
PLACE = Variable("place", "continuous", size=3)
SKETCH = Variable("sketch", "image", shape=(1, 8, 8))
PARENTS = [COLOUR, WEIGHT, PLACE, SKETCH]
STATES = (3, 4)

# how to make a small one of each type, and whether it takes confounders
KINDS = {
    "categorical": (Categorical, Variable("v", "categorical", levels=(0, 1, 2, 3)), {"hidden": 16}, True),
    "flow": (Flow, Variable("v", "continuous"), {"hidden": 16, "bins": 4}, True),
    "flow of a vector": (Flow, Variable("v", "continuous", size=3), {"hidden": 16, "bins": 4}, True),
    "implicit": (Implicit, Variable("v", "implicit"), {"hidden": 16}, True),
    "implicit vector": (Implicit, Variable("v", "implicit", size=5), {"hidden": 16}, True),
    "image generator": (
        ImageGenerator,
        Variable("v", "image", shape=(3, 12, 9)),
        {"noise": 6, "width": 16, "channels": 4},
        True,
    ),
    "rectified flow": (RectifiedFlow, Variable("v", "image", shape=(2, 8, 16)), {"width": 16, "blocks": 1}, False),
    "diffusion": (
        Diffusion,
        Variable("v", "image", shape=(2, 8, 16)),
        {"channels": 8, "levels": 2, "steps": 3},
        False,
    ),
}
EACH = pytest.mark.parametrize("kind", KINDS)


def make(kind, parents=PARENTS, seed=0):
    type_, variable, options, confounded = KINDS[kind]
    torch.manual_seed(seed)
    mechanism = type_(variable, parents, STATES if confounded else (), **options)
    with torch.no_grad():
        for parameter in mechanism.parameters():
            # what starts at zero or near it would hide a dependence
            parameter.add_(0.2 * torch.randn(parameter.shape) / max(parameter[0].numel(), 1) ** 0.5)
    return mechanism


def inputs(mechanism, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parents = {
        "colour": torch.randint(3, (n,), generator=generator),
        "weight": torch.randn(n, generator=generator),
        "place": torch.randn(n, 3, generator=generator),
        "sketch": torch.rand(n, 1, 8, 8, generator=generator) * 2 - 1,
    }
    latents = [torch.randint(size, (n,), generator=generator) for size in mechanism.latents]
    noise = torch.randn(n, mechanism.noise_size, generator=generator)
    return {parent.name: parents[parent.name] for parent in mechanism.parents}, latents, noise


def soft(parents):
    """Parents as an adversarial fit gives them: categorical ones one-hot, everything open to a gradient."""
    found = dict(parents)
    if "colour" in found:
        found["colour"] = torch.nn.functional.one_hot(found["colour"], 3).float()
    return {name: value.clone().requires_grad_() for name, value in found.items()}


def row_shape(variable):
    return variable.shape or (() if variable.size is None else (variable.size,))


class TestForward:
    @EACH
    @pytest.mark.parametrize("n", [0, 1, 5])
    def test_shape_and_type(self, kind, n):
        mechanism = make(kind)
        made = mechanism(*inputs(mechanism, n))
        assert made.shape == (n, *row_shape(mechanism.variable))
        assert made.dtype == (torch.int64 if mechanism.variable.levels else torch.float32)

    @EACH
    def test_needs_no_parents(self, kind):
        mechanism = make(kind, parents=())
        assert len(mechanism(*inputs(mechanism, 3))) == 3

    @EACH
    def test_is_a_function_of_its_arguments_row_by_row(self, kind):
        mechanism = make(kind)
        parents, latents, noise = inputs(mechanism, 6)
        together = mechanism(parents, latents, noise)
        torch.manual_seed(7)
        assert torch.equal(mechanism(parents, latents, noise), together)
        rows = torch.tensor([4, 1])
        apart = mechanism({k: v[rows] for k, v in parents.items()}, [u[rows] for u in latents], noise[rows])
        assert torch.allclose(apart.float(), together[rows].float(), atol=1e-4)

    @EACH
    def test_depends_on_parents_states_and_noise(self, kind):
        mechanism = make(kind)
        # a level changes in a few rows only
        parents, latents, noise = inputs(mechanism, 400 if mechanism.variable.levels else 40)
        base = mechanism(parents, latents, noise).float()

        def changes(parents=parents, latents=latents, noise=noise):
            return bool(((mechanism(parents, latents, noise).float() - base).abs() > 1e-5).any())

        for name, value in parents.items():
            other = (value + 1) % 3 if name == "colour" else -3 * value
            assert changes(parents={**parents, name: other}), name
        for place, size in enumerate(mechanism.latents):
            other = [(u + 1) % size if i == place else u for i, u in enumerate(latents)]
            assert changes(latents=other), place
        assert changes(noise=noise + torch.randn(noise.shape, generator=torch.Generator().manual_seed(9)))

    @EACH
    def test_the_same_seed_makes_the_same_weights(self, kind):
        one, other = make(kind, seed=3).state_dict(), make(kind, seed=3).state_dict()
        assert all(torch.equal(one[name], other[name]) for name in one)


class TestRelaxed:
    @EACH
    def test_one_hot_parents_give_what_codes_give(self, kind):
        mechanism = make(kind)
        parents, latents, noise = inputs(mechanism, 20)
        drawn = mechanism.relaxed(soft(parents), latents, noise, 0.5)
        made = mechanism(parents, latents, noise)
        if mechanism.variable.levels:
            assert torch.equal(drawn.sum(1), torch.ones(20))
            assert torch.equal(drawn.argmax(1), made)
        else:
            assert torch.allclose(drawn, made, atol=1e-5)

    @EACH
    def test_gradient_reaches_parameters_and_every_parent(self, kind):
        mechanism = make(kind)
        parents, latents, noise = inputs(mechanism, 30)
        parents = soft(parents)
        made = mechanism.relaxed(parents, latents, noise, 1.0)
        weights = torch.randn(made.shape, generator=torch.Generator().manual_seed(1))
        (made * weights).sum().backward()
        for name, tensor in [*mechanism.named_parameters(), *parents.items()]:
            assert tensor.grad is not None, name
            assert tensor.grad.isfinite().all(), name
            assert tensor.grad.any(), name

    def test_gradient_of_a_categorical_is_that_of_the_softmax(self):
        mechanism = make("categorical").double()
        parents, latents, noise = inputs(mechanism, 7)
        parents = {name: value.double() if value.is_floating_point() else value for name, value in parents.items()}
        weights = torch.randn(7, 4, generator=torch.Generator().manual_seed(2)).double()
        drawn = mechanism.relaxed(parents, latents, noise.double(), 0.7)
        found = torch.autograd.grad((drawn * weights).sum(), mechanism.out.bias)[0]
        logits = mechanism.logits(parents, latents, 7)
        softened = ((logits + noise) / 0.7).softmax(1)
        wanted = torch.autograd.grad((softened * weights).sum(), mechanism.out.bias)[0]
        assert torch.allclose(found, wanted, rtol=1e-10)

    @pytest.mark.parametrize("temperature", [0.0, -1.0])
    def test_temperature_must_be_positive(self, temperature):
        mechanism = make("categorical")
        parents, latents, noise = inputs(mechanism, 2)
        with pytest.raises(ValueError, match="temperature"):
            mechanism.relaxed(parents, latents, noise, temperature)

    def test_frequencies_are_the_probabilities(self):
        mechanism, n = make("categorical", parents=[COLOUR]), 20_000
        latents = [torch.full((n,), 1), torch.full((n,), 2)]
        parents = {"colour": torch.nn.functional.one_hot(torch.full((n,), 1), 3).float()}
        noise = -torch.log(torch.empty(n, 4).exponential_(generator=torch.Generator().manual_seed(0)))
        counts = mechanism.relaxed(parents, latents, noise, 0.1).detach().sum(0)
        exact = mechanism.logits(parents, latents, n)[0].detach().double().softmax(0)
        assert chi_square(counts.numpy(), exact.numpy()) < critical_chi_square(3)


class TestDensityOverStates:
    @pytest.mark.parametrize("kind", ["categorical", "flow", "flow of a vector"])
    def test_it_is_the_density_at_each_combination(self, kind):
        mechanism = make(kind)
        parents, latents, noise = inputs(mechanism, 5)
        value = mechanism(parents, latents, noise)
        table = mechanism.log_table(parents, value)
        assert table.shape == (5, *STATES)
        assert torch.allclose(table, Mechanism.log_table(mechanism, parents, value), atol=1e-5)
        for first, second in [(0, 0), (2, 1), (1, 3)]:
            states = [torch.full((5,), first), torch.full((5,), second)]
            assert torch.allclose(table[:, first, second], mechanism.log_prob(parents, states, value), atol=1e-5)

    def test_without_confounders_it_is_the_density(self):
        flow = Flow(Variable("v", "continuous"), [WEIGHT])
        parents, value = {"weight": torch.randn(4)}, torch.randn(4)
        for table in (flow.log_table(parents, value), Mechanism.log_table(flow, parents, value)):
            assert torch.allclose(table, flow.log_prob(parents, (), value))

    @pytest.mark.parametrize("kind", ["implicit", "image generator", "rectified flow", "diffusion"])
    def test_what_has_no_density_says_so(self, kind):
        mechanism = make(kind)
        parents, latents, noise = inputs(mechanism, 2)
        assert not mechanism.has_density
        with pytest.raises(TypeError, match=r"the mechanism of 'v' .* has no density"):
            mechanism.log_prob(parents, latents, mechanism(parents, latents, noise))


class TestImplicit:
    def test_the_energy_score_learns_a_distribution_with_an_atom(self):
        # zero in rows of three in ten, else around 2 or -2 as the parent says
        n = 4000
        generator = torch.Generator().manual_seed(0)
        colour = torch.randint(2, (n,), generator=generator)
        value = (2.0 * (2 * colour - 1) + 0.3 * torch.randn(n, generator=generator)) * (
            torch.rand(n, generator=generator) < 0.7
        )
        torch.manual_seed(0)
        two = Variable("colour", "categorical", levels=(0, 1))
        mechanism = Implicit(Variable("v", "implicit"), [two], hidden=32)
        mechanism.prepare({"colour": colour}, value)
        optimiser = torch.optim.Adam(mechanism.parameters(), 5e-3)
        for _ in range(600):
            rows = torch.randint(n, (256,), generator=generator)
            loss = mechanism.conditional_loss({"colour": colour[rows]}, value[rows], generator).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            made = mechanism({"colour": torch.ones(n, dtype=torch.int64)}, (), torch.randn(n, 4, generator=generator))
        # a smooth network takes a few of the rows to get from the atom to the rest
        assert float((made.abs() < 0.5).float().mean()) == pytest.approx(0.3, abs=0.08)
        assert float(made[made > 1].mean()) == pytest.approx(2, abs=0.1)
        assert float((made < -0.5).float().mean()) < 0.02

    def test_the_loss_has_a_seed(self):
        mechanism = Implicit(Variable("v", "implicit", size=2), [WEIGHT])
        parents, value = {"weight": torch.randn(6)}, torch.randn(6, 2)
        losses = [mechanism.conditional_loss(parents, value, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
        assert losses[0].shape == (6,)
        assert torch.equal(losses[0], losses[1])
        assert not torch.equal(losses[0], losses[2])


class TestParentInput:
    @pytest.mark.parametrize("parent", PARENTS, ids=lambda parent: parent.name)
    def test_one_row_has_a_scale_too(self, parent):
        module = ParentInput(parent, 4, 1.0)
        value = inputs(make("flow"), 1)[0][parent.name]
        module.prepare(value)
        assert module(value).isfinite().all()

    def test_entries_of_a_vector_have_scales_of_their_own(self):
        module = ParentInput(PLACE, 4, 1.0)
        value = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0, 100.0])
        module.prepare(value + 5)
        assert torch.allclose(module.mean, (value + 5).mean(0), rtol=1e-5)
        assert torch.allclose(module.std, value.std(0), rtol=1e-5)

    def test_a_mixture_of_levels_is_the_mixture_of_their_shares(self):
        module = ParentInput(COLOUR, 4, 1.0)
        mixed = module(torch.tensor([[0.25, 0.75, 0.0]]))
        assert torch.allclose(mixed, 0.25 * module.weight[:1] + 0.75 * module.weight[1:2])

    def test_context_of_states_is_additive(self):
        torch.manual_seed(0)
        context = Context([COLOUR], STATES, 8)
        parents = {"colour": torch.tensor([0, 2])}
        everywhere = context.over_states(parents, 2)
        assert everywhere.shape == (2, *STATES, 8)
        at = context(parents, [torch.tensor([2, 2]), torch.tensor([1, 1])], 2)
        assert torch.allclose(everywhere[:, 2, 1], at)


class TestDescription:
    @EACH
    def test_builds_the_same_mechanism_again(self, kind):
        mechanism = make(kind)
        described = json.loads(json.dumps(mechanism.config()))
        again = from_config(described)(mechanism.variable, mechanism.parents, mechanism.latents)
        assert type(again) is type(mechanism)
        assert again.config() == mechanism.config()
        again.load_state_dict(mechanism.state_dict())
        arguments = inputs(mechanism, 4)
        assert torch.equal(again(*arguments), mechanism(*arguments))

    @EACH
    def test_builds_without_memory(self, kind):
        mechanism = make(kind)
        with torch.device("meta"):
            again = from_config(mechanism.config())(mechanism.variable, mechanism.parents, mechanism.latents)
        shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in mechanism.state_dict().items()}
        assert {name: (tensor.shape, tensor.dtype) for name, tensor in again.state_dict().items()} == shapes
        assert all(tensor.is_meta for tensor in again.state_dict().values())

    @EACH
    def test_defaults_name_what_training_reads(self, kind):
        mechanism = make(kind)
        assert set(mechanism.training_defaults(1000)) == set(Mechanism.training_defaults(mechanism, 1000))

    @pytest.mark.parametrize(
        ("kind", "option"),
        [(kind, {name: number}) for kind, (_, _, options, _) in KINDS.items() for name in options for number in (0, -1)]
        + [("categorical", {"layers": 1001}), ("flow", {"layers": 1001}), ("flow", {"transforms": 10**6})]
        + [("flow", {"bins": 1}), ("implicit", {"layers": 5000}), ("implicit", {"noise": 0})]
        + [("rectified flow", {"blocks": 10**6}), ("diffusion", {"channels": 12}), ("diffusion", {"blocks": 2000})]
        + [("diffusion", {"steps": 1001})],
        ids=str,
    )
    def test_option_out_of_range(self, kind, option):
        type_, variable, _, _ = KINDS[kind]
        with pytest.raises(ValueError, match="must be"):
            type_(variable, (), **option)

    @pytest.mark.parametrize("type_", [Flow, Implicit, ImageGenerator, Diffusion, RectifiedFlow])
    def test_a_variable_of_another_kind(self, type_):
        with pytest.raises(PlanError, match=r"'colour' is categorical, and .* generates"):
            type_(COLOUR, ())

    @pytest.mark.parametrize("type_", [Diffusion, RectifiedFlow])
    def test_an_image_without_density_takes_no_confounder(self, type_):
        with pytest.raises(PlanError, match="'sketch' has a hidden confounder"):
            type_(SKETCH, (), [4])

    def test_an_image_that_cannot_be_halved(self):
        with pytest.raises(PlanError, match="30 x 3 pixels, which cannot be halved 2 times; use levels=2 or fewer"):
            Diffusion(Variable("v", "image", shape=(1, 30, 3)), (), levels=3)
        with pytest.raises(PlanError, match="cannot be halved"):
            Diffusion(Variable("v", "image", shape=(1, 32, 32)), (), levels=10**9)

    @pytest.mark.parametrize("shape", [(1, 28, 28), (1, 30, 11), (2, 9, 8)], ids=str)
    def test_an_image_of_any_size_is_diffused(self, shape):
        mechanism = Diffusion(Variable("v", "image", shape=shape), (), channels=8, levels=3, steps=2)
        noise = torch.randn(2, math.prod(shape), generator=torch.Generator().manual_seed(0))
        assert mechanism.noise_size == noise.shape[1]
        with torch.no_grad():
            made = mechanism({}, (), noise)
            assert made.shape == (2, *shape)
            assert mechanism.abduct({}, (), made, noise).shape == noise.shape
            assert mechanism.conditional_loss({}, made, torch.Generator()).shape == (2,)

    def test_an_image_generator_alone_has_no_loss(self):
        generator = make("image generator")
        assert generator.needs_critic
        with pytest.raises(TypeError, match="image generator of 'v' learns from a critic only"):
            generator.conditional_loss({}, torch.zeros(1, 3, 12, 9), torch.Generator())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory with one mechanism of each built-in type, not trained."""
    rng = np.random.default_rng(0)
    image = {
        "I": rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8),
        "J": rng.integers(0, 256, (40, 1, 8, 8), np.uint8),
    }
    table = {"A": rng.integers(0, 2, 40), "B": rng.normal(size=40), "C": rng.normal(size=40)}
    model = mdcm.fit(
        "A -> B -> C -> I; A -> J",
        Dataset(table, images=image),
        variables={"C": {"kind": "continuous"}},
        mechanisms={
            "C": lambda *given: Implicit(*given, hidden=8),
            "J": lambda *given: Diffusion(*given, channels=8, levels=2, steps=2),
        },
        config=mdcm.TrainConfig(max_steps=1, batch_size=4, holdout=0),
    )
    path = tmp_path_factory.mktemp("run") / "run"
    model.save(path)
    return path, model


class TestSaved:
    def test_every_type_comes_back(self, run):
        path, model = run
        loaded = mdcm.load(path)
        types = {name: type(mechanism).__name__ for name, mechanism in loaded.dcm.mechanisms.items()}
        assert types == {"A": "Categorical", "B": "Flow", "C": "Implicit", "I": "RectifiedFlow", "J": "Diffusion"}
        one, other = model.draw_samples(6, seed=1), loaded.draw_samples(6, seed=1)
        assert one.table.equals(other.table)
        assert all(np.array_equal(one.images[name], other.images[name]) for name in "IJ")

    @pytest.mark.parametrize("node", list("ABCIJ"))
    @pytest.mark.parametrize("bad", [10**12, 999, 10**6, -1, 0, 1.5, "8", None, [8], {"a": 1}, math.inf], ids=repr)
    def test_a_description_that_does_not_fit_is_refused(self, run, node, bad, tmp_path):
        path, _ = run
        described = json.loads((path / "model.json").read_text(encoding="utf-8"))
        for other in path.iterdir():
            if other.name != "model.json" and other.is_file():
                (tmp_path / other.name).write_bytes(other.read_bytes())
        config = described["architecture"]["mechanisms"][node]
        for key in [key for key in config if key != "type"]:
            # how often a sampler steps is in no weight: it is only kept in bounds
            if key == "steps" and bad == 999:
                continue
            before = config[key]
            # the default number of transformations is the one that was saved
            if before == bad or (bad is None and key in ("transforms", "noise")):
                continue
            config[key] = bad
            (tmp_path / "model.json").write_text(json.dumps(described), encoding="utf-8")
            with pytest.raises(CheckpointError):
                mdcm.load(tmp_path)
            config[key] = before
        config["surprise"] = 1
        (tmp_path / "model.json").write_text(json.dumps(described), encoding="utf-8")
        with pytest.raises(CheckpointError):
            mdcm.load(tmp_path)


class TestImports:
    @pytest.mark.parametrize(
        ("program", "absent"),
        [
            ("import mdcm", "torch zuko diffusers"),
            ("import mdcm.mechanisms", "zuko diffusers"),
            (
                "import mdcm, pandas\n"
                "mdcm.fit('A -> B', pandas.DataFrame({'A': [0, 1] * 20, 'B': [0, 1] * 20}), "
                "config=mdcm.TrainConfig(max_steps=1))",
                "zuko diffusers",
            ),
        ],
        ids=["package", "mechanisms", "categorical model"],
    )
    def test_heavy_packages_wait_until_they_are_needed(self, program, absent):
        program += f"\nimport sys; print(sorted(set('{absent}'.split()) & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert (done.stdout.strip(), done.stderr) == ("[]", "")

    def test_an_extra_that_is_missing_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "diffusers", None)
        with pytest.raises(mdcm.errors.MdcmError, match=r"pip install 'mdcm\[diffusers\]'"):
            Diffusion(SKETCH, (), channels=8, levels=2)


def test_a_confounded_image_shares_its_cause_with_a_label():
    image = Variable("I", "image", shape=(1, 8, 8))
    label = Variable("A", "categorical", levels=(0, 1))
    graph = mdcm.ADMG.from_string("I <-> A")
    dcm = DCM(graph, {"I": image, "A": label}, {name: 4 for name, _ in graph.confounders})
    rows = torch.arange(200)
    first = dcm.generate(rows, seed=3)
    with torch.no_grad():
        dcm.priors[0].copy_(torch.tensor([50.0, 0.0, 0.0, 0.0]))
    second = dcm.generate(rows, seed=3)
    moved = dcm.confounder_states(0, rows, 3) == 0
    assert moved.all()
    assert not torch.equal(first["I"], second["I"])
