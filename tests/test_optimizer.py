"""Steps of the optimiser against PyTorch's own, module by module."""

import pytest
import torch

from mdcm.training.optimizer import adamw_step


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def state(*shape, dtype=torch.float64):
    weights = randn(*shape, dtype=dtype)
    return [weights], [torch.zeros_like(weights)], [torch.zeros_like(weights)]


@pytest.mark.parametrize("betas", [(0.5, 0.9), (0.0, 0.9), (0.9, 0.999)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stacked_modules_take_the_steps_that_each_takes_alone(dtype, decay, betas):
    (weights,), moments, squares = state(3, 11, dtype=dtype)
    alone = [row.clone().requires_grad_() for row in weights]
    optimisers = [torch.optim.AdamW([row], 1e-2, betas=betas, weight_decay=decay, foreach=False) for row in alone]
    counts = torch.zeros(1)
    for step in range(20):
        # gradients of very different size, and exact zeros
        grads = randn(3, 11, seed=step, dtype=dtype) * torch.logspace(-8, 3, 11, dtype=dtype)
        grads[:, 3] = 0
        adamw_step([weights], [grads], moments, squares, counts, 1e-2, betas, [decay])
        for row, grad, optimiser in zip(alone, grads, optimisers, strict=True):
            row.grad = grad.clone()
            optimiser.step()
    assert counts.tolist() == [20]
    # one rounding of a parameter of size 4 per step
    assert float((weights - torch.stack(alone).detach()).abs().max()) <= 20 * 4 * 4 * torch.finfo(dtype).eps


def test_a_row_without_moments_and_gradient_keeps_its_bits():
    (weights,), moments, squares = state(3, 11)
    counts = torch.zeros(1)
    adamw_step([weights], [randn(3, 11, seed=1)], moments, squares, counts, 1e-2, (0.5, 0.9))
    moments[0][1] = squares[0][1] = 0
    before = weights.clone()
    for step in range(5):
        grads = randn(3, 11, seed=2 + step)
        grads[1] = 0
        adamw_step([weights], [grads], moments, squares, counts, 1e-2, (0.5, 0.9))
    assert torch.equal(weights[1], before[1])
    assert not torch.equal(weights[0], before[0])


@pytest.mark.parametrize("rate", [1e-2, torch.tensor(1e-2, dtype=torch.float64)], ids=["number", "tensor"])
def test_skipping_changes_nothing(rate):
    weights, moments, squares = state(3, 11)
    counts = torch.zeros(1)
    step = (weights, [randn(3, 11, seed=1)], moments, squares, counts, rate, (0.5, 0.9))
    adamw_step(*step, skip=torch.zeros(()))
    assert counts.tolist() == [1]
    before = [tensor.clone() for tensor in (*weights, *moments, *squares, counts)]
    adamw_step(*step, skip=torch.ones(()))
    assert all(torch.equal(a, b) for a, b in zip(before, (*weights, *moments, *squares, counts), strict=True))


def test_a_gradient_may_lack_the_axis_of_a_single_module():
    (stacked,), moments, squares = state(1, 4, 2)
    plain = stacked[0].clone()
    others = [torch.zeros_like(plain)], [torch.zeros_like(plain)]
    grad = randn(4, 2, seed=1)
    adamw_step([stacked], [grad], moments, squares, torch.zeros(1), 1e-2, (0.9, 0.999))
    adamw_step([plain], [grad], *others, torch.zeros(1), 1e-2, (0.9, 0.999))
    assert torch.equal(stacked[0], plain)


def test_a_weight_without_a_gradient_stays_and_takes_no_step():
    (weights,), moments, squares = state(2, 3)
    other, counts = torch.ones(2, 3), torch.zeros(2)
    adamw_step(
        [weights, other], [randn(2, 3, seed=1), None], [*moments, torch.zeros(2, 3)], [*squares, torch.zeros(2, 3)],
        counts, 1e-2, (0.9, 0.999), [0.0, 0.5],
    )  # fmt: skip
    assert counts.tolist() == [1, 0]
    assert torch.equal(other, torch.ones(2, 3))
