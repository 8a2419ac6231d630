"""A whole training with and without kernels."""

import subprocess
import sys

import pytest
import torch
from test_optimizer import randn
from test_triton_noise import DEVICE

from mdcm import kernels

# by the norm, for float32 kernels against float64
LIMIT = 2e-6


@pytest.fixture(autouse=True)
def _conditions(monkeypatch):
    """Plain float32 products, and NaN in memory that a kernel is to fill."""
    monkeypatch.setenv("MDCM_PRECISION", "ieee")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def some(*shape, seed=0):
    return randn(*shape, seed=seed, dtype=torch.float32).to(DEVICE)


# ---- a whole training


class Training:
    """Small GANs trained together by the public operations alone, without a step that waits for the device.

    Adam's eps is large: with a small one it takes a full step in the direction of what is only rounding.

    Args:
        dtype: Type of all numbers.
        modules: Number of GANs.
        rows: Rows of a batch.
        hidden: Units of each hidden layer, of both networks.
        sizes: Levels of each variable.
    """

    def __init__(self, dtype, modules=2, rows=24, hidden=16, sizes=(2, 3)):
        self.packing = kernels.Packing(sizes, device=DEVICE)
        cells = torch.tensor([[0] * len(sizes), [size - 1 for size in sizes], [1] * len(sizes)])[[0, 1, 2, 1]]
        parts = [torch.nn.functional.one_hot(cells[:, place], size) for place, size in enumerate(sizes)]
        options = {"dtype": dtype, "device": DEVICE}
        self.real = torch.cat(parts, 1).to(**options)
        self.widths = [self.packing.width, hidden, hidden]
        self.parts = [hidden * 4, hidden, self.packing.width * hidden]
        flat = [
            0.3 * randn(modules, size, seed=place, dtype=torch.float32)
            for place, size in enumerate([kernels.critic_size(self.widths), sum(self.parts)])
        ]
        self.flat_critics, self.flat_generators = (one.to(**options) for one in flat)
        self.critics = kernels.critic_views(self.flat_critics, self.widths)
        self.moments = [
            (torch.zeros_like(flat), torch.zeros_like(flat), torch.zeros((), **options))
            for flat in (self.flat_critics, self.flat_generators)
        ]
        self.latent = randn(modules, rows, 4, seed=9, dtype=torch.float32).to(**options)
        self.seeds = torch.full((modules,), 3, device=DEVICE)
        self.sites = torch.arange(modules, device=DEVICE)
        self.number, self.tau = torch.zeros((), dtype=torch.int64, device=DEVICE), torch.tensor(0.7, **options)

    def numbers(self):
        """Noise of the races, number of the real row and share of it, for every row of a batch."""
        modules, rows, _ = self.latent.shape
        width = self.packing.width
        uniform = kernels.seeded_uniform(self.seeds, self.sites, self.number, rows * (width + 2))
        uniform = uniform.view(modules, rows, width + 2).to(self.latent)
        noise = -(-torch.log1p(-uniform[..., :width].clamp_min(2.0**-25))).log()
        return noise, (4 * uniform[..., width]).long(), uniform[..., width + 1 :]

    def generate(self, flat, noise):
        weight, shift, last = flat.split(self.parts, 1)
        modules, hidden = shift.shape
        layer = torch.baddbmm(shift[:, None], self.latent, weight.view(modules, hidden, 4).mT).relu()
        logits = torch.bmm(layer, last.view(modules, -1, hidden).mT)
        return kernels.gumbel_softmax(logits, self.packing, self.tau, noise)

    def step(self):
        """One step of all critics and one of all generators; the loss of the critics before it."""
        self.number += 1
        noise, drawn, share = self.numbers()
        with torch.no_grad():
            fake = self.generate(self.flat_generators, noise)
        real = self.real[drawn]
        found = kernels.critic_loss_and_grads(torch.cat([fake, real, torch.lerp(fake, real, share)], 1), self.critics)
        grads = torch.zeros_like(self.flat_critics)
        for view, grad in zip(kernels.critic_views(grads, self.widths).tensors(), found.grads.tensors(), strict=True):
            view.copy_(grad)
        self.descend(0, self.flat_critics, grads)
        leaf = self.flat_generators.detach().requires_grad_()
        values = kernels.critic_values(self.generate(leaf, noise), self.critics)
        (grad,) = torch.autograd.grad(-values.mean(1).sum(), leaf)
        self.descend(1, self.flat_generators, grad)
        return found.loss

    @torch.no_grad()
    def descend(self, index, flat, grad):
        """A step of Adam whose division by the size of a gradient is held back, so that rounding stays small."""
        first, second, count = self.moments[index]
        count += 1
        first.lerp_(grad, 0.5)
        second.lerp_(grad.square(), 0.1)
        flat -= 1e-2 * (first / (1 - 0.5**count)) / ((second / (1 - 0.9**count)).sqrt() + 1e-3)

    def losses(self, steps):
        return torch.stack([self.step() for _ in range(steps)]).double()

    def state(self):
        """All that a step changes."""
        return [self.flat_critics, self.flat_generators, self.number, *self.moments[0], *self.moments[1]]


def test_training_follows_the_same_curve_with_and_without_kernels(monkeypatch):
    monkeypatch.setenv("MDCM_KERNELS", "reference")
    exact, twin = Training(torch.float64).losses(8), Training(torch.float32).losses(8)
    monkeypatch.setenv("MDCM_KERNELS", "triton")
    fused = Training(torch.float32).losses(8)
    # it learns, so that there is something to follow
    assert float(exact[0].mean() - exact[-1].mean()) > 1
    # float32 without kernels says what to expect of rounding with them, from one in the last place of the first loss on
    expected = (twin - exact).abs().cummax(0).values.clamp_min(float(exact[0].max()) * 2.0**-23)
    assert bool(((fused - exact).abs() <= 8 * expected).all())


# ---- importing


def test_importing_kernels_and_the_twins_do_not_import_triton():
    program = (
        "import sys, torch\n"
        "from mdcm import kernels\n"
        "critic = kernels.critic_views(torch.ones(kernels.critic_size([2, 3])), [2, 3])\n"
        "kernels.critic_loss_and_grads(torch.ones(3, 2), critic)\n"
        "print('triton' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("False", "")
