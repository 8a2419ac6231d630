"""Adam on flat parameters against PyTorch's own."""

import pytest
import torch

from mdcm import kernels

BETAS = (0.5, 0.9)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def state(modules=3, size=11, *, dtype=torch.float64):
    zero = torch.zeros(modules, size, dtype=dtype)
    return {
        "params": randn(modules, size, dtype=dtype),
        "first": zero.clone(),
        "second": zero.clone(),
        "steps": torch.zeros(modules, dtype=torch.int64),
        "lr": torch.tensor([1e-3, 1e-1, 1.0], dtype=dtype)[:modules],
        "active": torch.ones(modules, dtype=torch.bool),
    }


class TestAdam:
    @pytest.mark.parametrize("betas", [BETAS, (0.0, 0.9), (0.9, 0.999)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_is_the_adam_of_pytorch(self, dtype, betas):
        ours = state(dtype=dtype)
        theirs = [row.clone().requires_grad_() for row in ours["params"]]
        optimisers = [
            torch.optim.Adam([row], float(lr), betas=betas, foreach=False)
            for row, lr in zip(theirs, ours["lr"], strict=True)
        ]
        for step in range(20):
            # gradients of very different size, and exact zeros
            grads = randn(3, 11, seed=step, dtype=dtype) * torch.logspace(-8, 3, 11, dtype=dtype)
            grads[:, 3] = 0
            kernels.adam_flat(grads=grads, **ours, betas=betas)
            for row, grad, optimiser in zip(theirs, grads, optimisers, strict=True):
                row.grad = grad.clone()
                optimiser.step()
        assert ours["steps"].tolist() == [20] * 3
        found, true = ours["params"], torch.stack(theirs).detach()
        # one rounding of a parameter of size 10 per step
        assert float((found - true).abs().max()) <= 20 * 4 * 10 * torch.finfo(dtype).eps

    def test_a_module_that_is_not_active_keeps_its_bits(self):
        ours = state()
        active = torch.tensor([True, False, True])
        kernels.adam_flat(grads=randn(3, 11, seed=1), **ours)
        before = {name: tensor.clone() for name, tensor in ours.items()}
        grads = randn(3, 11, seed=2)
        grads[1] = torch.nan
        kernels.adam_flat(grads=grads, **(ours | {"active": active}))
        for name in ("params", "first", "second", "steps"):
            assert torch.equal(ours[name][1], before[name][1])
            assert not torch.equal(ours[name][0], before[name][0])
            assert bool(torch.isfinite(ours[name]).all())

    def test_modules_do_not_see_each_other(self):
        together, apart = state(), state()
        for step in range(3):
            grads = randn(3, 11, seed=step)
            active = torch.tensor([True, step != 1, True])
            kernels.adam_flat(grads=grads, **(together | {"active": active}))
            for module in range(3):
                own = {name: tensor[module : module + 1] for name, tensor in apart.items()}
                kernels.adam_flat(grads=grads[module : module + 1], **(own | {"active": active[module : module + 1]}))
        for name in ("params", "first", "second", "steps"):
            assert torch.equal(together[name], apart[name])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"grads": torch.zeros(3, 10)}, "must be \\[M, P\\]"),
            ({"grads": torch.zeros(1, 3, 11)}, "must be \\[M, P\\]"),
            ({"first": torch.zeros(2, 11)}, "must be \\[M, P\\]"),
            ({"lr": torch.zeros(2)}, "steps, lr and active must be \\[3\\]"),
            ({"steps": torch.zeros(3)}, "steps must be int64"),
            ({"active": torch.ones(3)}, "active bool"),
            ({"betas": (1.0, 0.9)}, "must be in \\[0, 1\\)"),
            ({"betas": (0.5, -0.1)}, "must be in \\[0, 1\\)"),
            ({"eps": 0.0}, "eps 0.0 positive"),
        ],
    )
    def test_refused(self, change, message):
        with pytest.raises(ValueError, match=message):
            kernels.adam_flat(**({"grads": torch.zeros(3, 11)} | state() | change))
