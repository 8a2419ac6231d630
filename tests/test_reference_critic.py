"""Closed-form critic gradients against double backward in float64, and the laws of stacking."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mdcm import kernels
from mdcm.kernels.critic import reference

TOLERANCE = 1e-10
ACTIVATIONS = {
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def random_critics(widths, modules=None, *, layer_norm=False, activation="leaky_relu", seed=0, dtype=torch.float64):
    """Critics with parameters of the scale of a trained one; without the axis of modules if modules is None."""
    generator = torch.Generator().manual_seed(seed)
    shape = () if modules is None else (modules,)
    flat = torch.randn(*shape, kernels.critic_size(widths, layer_norm=layer_norm), generator=generator, dtype=dtype)
    critics = kernels.critic_views(flat, widths, layer_norm=layer_norm, activation=activation)
    for weight in critics.weights:
        weight *= 1.3 / math.sqrt(weight.shape[-1])
    for one in critics.biases:
        one *= 0.3
    for gain in critics.gains:
        gain.mul_(0.2).add_(1)
    return critics


def random_rows(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def build(critic):
    """One critic as PyTorch's own modules."""
    layers = []
    for place, (weight, bias) in enumerate(zip(critic.weights, critic.biases, strict=True)):
        linear = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
        linear.weight.data, linear.bias.data = weight.clone(), bias.clone()
        layers.append(linear)
        if critic.gains:
            normal = nn.LayerNorm(len(bias), dtype=weight.dtype)
            normal.weight.data, normal.bias.data = critic.gains[place].clone(), critic.shifts[place].clone()
            layers.append(normal)
        layers.append(ACTIVATIONS[critic.activation]())
    last = nn.Linear(len(critic.out), 1, dtype=critic.out.dtype)
    last.weight.data, last.bias.data = critic.out[None].clone(), critic.offset[None].clone()
    return nn.Sequential(*layers, last)


def double_backward(x, critic, *, penalty=10.0, columns=None, one_sided=False):
    """Loss, norms and gradients of one critic by differentiating twice."""
    network = build(critic)
    rows = len(x) // 3
    fake, real, between = x.split(rows)
    between = between.clone().requires_grad_()
    (g,) = torch.autograd.grad(network(between).sum(), between, create_graph=True)
    norm = (g if columns is None else g * columns).norm(dim=1)
    excess = F.relu(norm - 1) if one_sided else norm - 1
    loss = network(fake).mean() - network(real).mean() + penalty * (excess**2).mean()
    grads = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, materialize_grads=True)
    linear, normal = [], []
    found = iter(grads)
    for layer in network:
        if isinstance(layer, nn.Linear):
            linear.append((next(found), next(found)))
        elif isinstance(layer, nn.LayerNorm):
            normal.append((next(found), next(found)))
    weights, biases = zip(*linear, strict=True)
    gains, shifts = zip(*normal, strict=True) if normal else ((), ())
    return loss.detach(), norm.detach(), [*weights[:-1], *biases[:-1], weights[-1][0], biases[-1][0], *gains, *shifts]


def one_of(critics, module):
    return critics.map(lambda tensor: tensor[module])


def relative(found, true, scale=None):
    """Distance by the norm of the truth, or by a larger scale where the truth is zero."""
    size = float(true.norm()) if scale is None else scale
    return float((found - true).norm()) / max(size, 1e-300)


def agree(x, critic, step, **options):
    """One critic's step against double backward; gradients that vanish are held against the largest one."""
    loss, norm, grads = double_backward(x, critic, **options)
    assert relative(step.loss, loss) <= TOLERANCE
    assert relative(step.norm, norm) <= TOLERANCE
    largest = max(float(grad.norm()) for grad in grads)
    names = [f"tensor {place} of shape {list(grad.shape)}" for place, grad in enumerate(grads)]
    for name, found, true in zip(names, step.grads.tensors(), grads, strict=True):
        assert found.shape == true.shape
        assert relative(found, true, max(float(true.norm()), 1e-6 * largest)) <= TOLERANCE, name


class TestAgainstDoubleBackward:
    @pytest.mark.parametrize("modules", [1, 3])
    @pytest.mark.parametrize("depth", [1, 2, 3])
    @pytest.mark.parametrize("hidden", [1, 5, 64])
    @pytest.mark.parametrize("rows", [1, 7, 33])
    def test_leaky_relu(self, rows, hidden, depth, modules):
        critics = random_critics([6, *[hidden] * depth], modules)
        x = random_rows(modules, 3 * rows, 6)
        step = kernels.critic_loss_and_grads(x, critics)
        for module in range(modules):
            part = kernels.CriticStep(step.loss[module], step.norm[module], one_of(step.grads, module))
            agree(x[module], one_of(critics, module), part)

    @pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "normalised"])
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("depth", [1, 2, 3])
    def test_every_kind(self, depth, activation, layer_norm):
        widths = [7, 16, 9, 12][: depth + 1]
        critic = random_critics(widths, layer_norm=layer_norm, activation=activation, seed=depth)
        for rows in (1, 11):
            x = random_rows(3 * rows, 7)
            agree(x, critic, kernels.critic_loss_and_grads(x, critic))

    @pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "normalised"])
    @pytest.mark.parametrize("activation", ["leaky_relu", "silu"])
    @pytest.mark.parametrize("one_sided", [False, True])
    def test_penalised_columns_and_side(self, one_sided, activation, layer_norm):
        widths = [6, 12, 12]
        # of such a scale that some norms lie below one and some above
        critic = random_critics(widths, layer_norm=layer_norm, activation=activation)
        critic.out.mul_(0.8 if layer_norm else 0.4)
        x = random_rows(3 * 21, 6)
        columns = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
        options = {"columns": columns, "one_sided": one_sided, "penalty": 3.0}
        step = kernels.critic_loss_and_grads(x, critic, **options)
        assert bool((step.norm < 1).any())
        assert bool((step.norm > 1).any())
        agree(x, critic, step, **options)
        with_bools = kernels.critic_loss_and_grads(x, critic, **(options | {"columns": columns.bool()}))
        assert torch.equal(with_bools.loss, step.loss)

    def test_columns_of_each_module(self):
        critics = random_critics([4, 8, 8], 2)
        columns = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]], dtype=torch.bool)
        x = random_rows(2, 15, 4)
        step = kernels.critic_loss_and_grads(x, critics, columns=columns)
        for module in range(2):
            part = kernels.CriticStep(step.loss[module], step.norm[module], one_of(step.grads, module))
            agree(x[module], one_of(critics, module), part, columns=columns[module].double())

    @given(
        rows=st.integers(1, 9),
        widths=st.lists(st.integers(1, 9), min_size=2, max_size=4),
        activation=st.sampled_from(sorted(ACTIVATIONS)),
        penalty=st.floats(0, 100),
        seed=st.integers(0, 2**16),
    )
    def test_any_shape(self, rows, widths, activation, penalty, seed):
        critic = random_critics(widths, activation=activation, seed=seed)
        x = random_rows(3 * rows, widths[0], seed=seed + 1)
        agree(x, critic, kernels.critic_loss_and_grads(x, critic, penalty=penalty), penalty=penalty)

    @pytest.mark.parametrize(("activation", "layer_norm"), [("leaky_relu", False), ("tanh", True)])
    def test_values_and_gradient_in_the_rows(self, activation, layer_norm):
        critics = random_critics([5, 8, 8, 3], 3, activation=activation, layer_norm=layer_norm)
        x = random_rows(3, 10, 5)
        value, g = reference.values_of(x, critics, gradient=True)
        upstream = random_rows(3, 10, seed=4)
        leaf = x.clone().requires_grad_()
        differentiable = kernels.critic_values(leaf, critics)
        (found,) = torch.autograd.grad(differentiable, leaf, upstream)
        assert torch.equal(kernels.critic_values(x, critics), value)
        assert torch.equal(differentiable.detach(), value)
        for module in range(3):
            own = x[module].clone().requires_grad_()
            true = build(one_of(critics, module))(own)[:, 0]
            (true_g,) = torch.autograd.grad(true.sum(), own)
            assert relative(value[module], true.detach()) <= TOLERANCE
            assert relative(g[module], true_g) <= TOLERANCE
            assert relative(found[module], true_g * upstream[module, :, None]) <= TOLERANCE

    def test_many_steps_of_adam_follow_the_same_path(self):
        critic = random_critics([6, 16, 16])
        network = build(critic)
        optimiser = torch.optim.Adam(network.parameters(), 1e-2, betas=(0.5, 0.9))
        flat = torch.zeros(1, kernels.critic_size([6, 16, 16]), dtype=torch.float64)
        ours = kernels.critic_views(flat, [6, 16, 16])
        for view, tensor in zip(ours.tensors(), critic.tensors(), strict=True):
            view.copy_(tensor[None])
        flat.grad = gradient = torch.zeros_like(flat)
        ours_optimiser = torch.optim.Adam([flat], 1e-2, (0.5, 0.9), foreach=False)
        for number in range(60):
            x = random_rows(1, 96, 6, seed=number)
            step = kernels.critic_loss_and_grads(x, ours)
            views = kernels.critic_views(gradient, [6, 16, 16])
            for view, found in zip(views.tensors(), step.grads.tensors(), strict=True):
                view.copy_(found)
            ours_optimiser.step()
            current = [network[0], network[2], network[4]]
            theirs = kernels.CriticParameters(
                tuple(layer.weight.detach().clone() for layer in current[:2]),
                tuple(layer.bias.detach().clone() for layer in current[:2]),
                current[2].weight.detach()[0].clone(),
                current[2].bias.detach()[0].clone(),
            )
            _, _, grads = double_backward(x[0], theirs)
            order = [grads[0], grads[2], grads[1], grads[3], grads[4][None], grads[5][None]]
            for parameter, grad in zip(network.parameters(), order, strict=True):
                parameter.grad = grad
            optimiser.step()
        last = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
        shown = [ours.weights[0], ours.biases[0], ours.weights[1], ours.biases[1], ours.out, ours.offset]
        # rounding grows along the path by the curvature of the loss: 60 steps from 1e-16 end below 1e-10
        assert relative(torch.cat([one.flatten() for one in shown]), last) < 1e-10


class TestLaws:
    @pytest.mark.parametrize(("activation", "layer_norm"), [("leaky_relu", False), ("silu", True)])
    @pytest.mark.parametrize("modules", [1, 3, 8])
    def test_stacked_is_the_loop_over_modules(self, modules, activation, layer_norm):
        critics = random_critics([6, 16, 16], modules, activation=activation, layer_norm=layer_norm)
        x = random_rows(modules, 21, 6)
        together = kernels.critic_loss_and_grads(x, critics)
        apart = [kernels.critic_loss_and_grads(x[m], one_of(critics, m)) for m in range(modules)]
        pairs = [
            (together.loss, torch.stack([one.loss for one in apart])),
            (together.norm, torch.stack([one.norm for one in apart])),
            *(
                (whole, torch.stack(parts))
                for whole, *parts in zip(together.grads.tensors(), *(one.grads.tensors() for one in apart), strict=True)
            ),
        ]
        for whole, parts in pairs:
            assert whole.shape == parts.shape
            assert float((whole - parts).abs().max()) <= 1e-12 * max(1.0, float(parts.abs().max()))

    @pytest.mark.parametrize("activation", ["leaky_relu", "relu"])
    def test_both_forms_agree_on_a_piecewise_linear_critic(self, activation):
        critics = random_critics([6, 9, 9], 2, activation=activation)
        x = random_rows(2, 12, 6)
        straight = reference._straight_step(x, critics, 10.0, None, False)
        bent = reference._bent_step(x, critics, 10.0, None, False)
        for one, other in zip(straight.grads.tensors(), bent.grads.tensors(), strict=True):
            assert relative(one, other, max(1e-6, float(other.norm()))) <= 1e-12

    def test_the_parts_of_fused_kernels_compose_to_the_step(self):
        rows, slope = 5, 0.2
        critics = random_critics([6, 9, 8], 2)
        x = random_rows(2, 3 * rows, 6)
        (w1, w2), (b1, b2) = critics.weights, critics.biases
        signs = torch.tensor([[1 / rows], [-1 / rows], [1.0]], dtype=torch.float64).repeat_interleave(rows, 0)
        h1 = reference.lin_act(x, w1, b1, slope)
        h2 = reference.lin_act(h1, w2, b2, slope)
        a2 = reference.top_delta(h2, critics.out, signs, slope)
        a1 = reference.delta(a2, w2, h1, slope)
        norm, v0, v1 = reference.gp_norm_tangent(a1[:, 2 * rows :], w1, h1[:, 2 * rows :], slope)
        dw, difference = reference.top_reduce(
            reference.tangent(v1, w2, h2[:, 2 * rows :], slope), h2, critics.out, signs
        )
        step = kernels.critic_loss_and_grads(x, critics)
        assert torch.equal(norm, step.norm)
        assert torch.equal(dw, step.grads.out)
        assert torch.allclose(difference + 10 * (norm - 1).square().mean(1), step.loss, rtol=1e-14)
        for layer, (deltas, below, tangents) in enumerate([(a1, x, v0), (a2, h1, v1)]):
            weight, bias = reference.wgrad(deltas, below, tangents)
            assert torch.equal(weight, step.grads.weights[layer])
            assert torch.equal(bias, step.grads.biases[layer])

    def test_float32_is_near_float64(self):
        critics = random_critics([24, 64, 64], 3)
        x = random_rows(3, 3 * 32, 24)
        true = kernels.critic_loss_and_grads(x, critics)
        found = kernels.critic_loss_and_grads(x.float(), critics.map(torch.Tensor.float))
        # sums of at most 96 terms, chained six deep
        tolerance = 6 * 96 * torch.finfo(torch.float32).eps
        for one, other in zip(found.grads.tensors(), true.grads.tensors(), strict=True):
            assert one.dtype == torch.float32
            assert relative(one.double(), other, max(1e-6, float(other.norm()))) < tolerance

    @pytest.mark.parametrize(("activation", "layer_norm"), [("relu", False), ("relu", True)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_dead_critic_has_finite_gradients(self, dtype, activation, layer_norm):
        critic = random_critics([4, 8, 8], activation=activation, layer_norm=layer_norm, dtype=dtype)
        for bias in critic.shifts or critic.biases:
            bias.fill_(-100.0)
        step = kernels.critic_loss_and_grads(random_rows(9, 4, dtype=dtype), critic)
        assert bool((step.norm == 0).all())
        assert float(step.loss) == 10.0
        assert all(float(grad.abs().max()) == 0 for grad in step.grads.tensors())

    @pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-10])
    def test_a_tiny_gradient_does_not_blow_up(self, scale):
        critic = random_critics([4, 8, 8], dtype=torch.float32)
        critic.out.mul_(scale)
        step = kernels.critic_loss_and_grads(random_rows(9, 4, dtype=torch.float32), critic)
        bound = 2 * 10.0 * float(torch.stack([weight.norm() for weight in critic.weights]).prod())
        assert float(step.grads.out.norm()) <= 1.01 * bound + 1e3 * scale

    def test_padding_changes_nothing(self):
        critics = random_critics([5, 8, 8], 2)
        x = random_rows(2, 12, 5)
        padded = kernels.CriticParameters(
            (F.pad(critics.weights[0], (0, 3)), critics.weights[1]), critics.biases, critics.out, critics.offset
        )
        plain = kernels.critic_loss_and_grads(x, critics)
        wide = kernels.critic_loss_and_grads(F.pad(x, (0, 3)), padded)
        assert torch.allclose(plain.loss, wide.loss, rtol=1e-13)
        assert torch.allclose(F.pad(plain.grads.weights[0], (0, 3)), wide.grads.weights[0], rtol=1e-12, atol=1e-14)
        assert float(wide.grads.weights[0][..., 5:].abs().max()) == 0

    def test_permuted_rows_within_the_groups_change_nothing(self):
        critic = random_critics([5, 8, 8])
        x = random_rows(3 * 10, 5)
        order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
        moved = torch.cat([group[order] for group in x.split(10)])
        one, other = kernels.critic_loss_and_grads(x, critic), kernels.critic_loss_and_grads(moved, critic)
        assert torch.allclose(one.norm[order], other.norm, rtol=1e-13)
        for a, b in zip(one.grads.tensors(), other.grads.tensors(), strict=True):
            assert torch.allclose(a, b, rtol=1e-11, atol=1e-13)

    def test_nothing_is_changed_and_twice_is_the_same(self):
        critics = random_critics([5, 8, 8], 2)
        x = random_rows(2, 12, 5)
        before = copy.deepcopy((x, critics.tensors()))
        one, other = kernels.critic_loss_and_grads(x, critics), kernels.critic_loss_and_grads(x, critics)
        assert all(torch.equal(a, b) for a, b in zip(one.grads.tensors(), other.grads.tensors(), strict=True))
        assert torch.equal(x, before[0])
        assert all(torch.equal(a, b) for a, b in zip(critics.tensors(), before[1], strict=True))

    def test_a_second_derivative_is_refused_not_wrong(self):
        critic = random_critics([3, 4])
        leaf = random_rows(2, 3).requires_grad_()
        (g,) = torch.autograd.grad(kernels.critic_values(leaf, critic).sum(), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
            g.square().sum().backward()


class TestFlatParameters:
    @given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.booleans(), st.sampled_from([None, 1, 3]))
    def test_views_cover_the_buffer_without_overlap(self, widths, layer_norm, modules):
        shape = () if modules is None else (modules,)
        flat = torch.zeros(*shape, kernels.critic_size(widths, layer_norm=layer_norm))
        views = kernels.critic_views(flat, widths, layer_norm=layer_norm)
        for view in views.tensors():
            view += 1
            assert view.storage_offset() % 4 == 0
        assert float(flat.max()) == 1
        assert int(flat.sum()) == sum(view.numel() for view in views.tensors())
        assert len(views.gains) == (len(widths) - 1 if layer_norm else 0)

    def test_tensors_round_trip(self):
        critics = random_critics([3, 4, 5], 2, layer_norm=True, activation="tanh")
        again = critics.with_tensors(critics.tensors())
        assert again.activation == "tanh"
        assert all(a is b for a, b in itertools.zip_longest(again.tensors(), critics.tensors()))


class TestBadInput:
    def call(self, **change):
        given = {"x": random_rows(2, 6, 5), "params": random_critics([5, 4, 4], 2)} | change
        return kernels.critic_loss_and_grads(**given)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"x": random_rows(2, 7, 5)}, "three groups of equal size, not 7"),
            ({"x": random_rows(2, 0, 5)}, "three groups of equal size, not 0"),
            ({"x": random_rows(2, 6, 4)}, "do not fit each other"),
            ({"x": random_rows(3, 6, 5)}, "do not fit each other"),
            ({"x": random_rows(6, 5)}, "do not fit each other"),
            ({"x": random_rows(2, 6, 5, dtype=torch.float32)}, "must be of one type"),
            ({"penalty": -1.0}, "penalty -1.0 must not be negative"),
            ({"penalty": math.nan}, "penalty nan"),
            ({"columns": torch.ones(4)}, "columns must be \\[5\\]"),
            ({"columns": torch.ones(3, 5)}, "or one such row per module, not \\[3, 5\\]"),
            ({"params": random_critics([5, 4], 2, activation="gelu")}, "activation must be one of .* not 'gelu'"),
        ],
    )
    def test_refused(self, change, message):
        with pytest.raises(ValueError, match=message):
            self.call(**change)

    def test_tensors_of_critics_that_do_not_fit(self):
        whole = random_critics([5, 4, 4], 2)
        tensors = list(whole.tensors())
        for place in range(len(tensors)):
            wrong = list(tensors)
            wrong[place] = torch.cat([wrong[place], wrong[place]], -1)
            with pytest.raises(ValueError, match="do not fit each other"):
                self.call(params=whole.with_tensors(wrong))

    @pytest.mark.parametrize("widths", [[], [3], [3, 0]])
    def test_widths(self, widths):
        with pytest.raises(ValueError, match="widths must be"):
            kernels.critic_size(widths)

    def test_a_buffer_of_another_size(self):
        with pytest.raises(ValueError, match="need 36 elements each, not 35"):
            kernels.critic_views(torch.zeros(35), [3, 5])
