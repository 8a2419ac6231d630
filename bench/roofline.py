"""Each fused kernel against the least time that its bytes and products take, by ceilings measured in the same run.

A kernel's bytes are what it must read and write once, its products those of the formulas; their ceilings are a copy of
a GiB, and one large matrix product. Times are of launches captured in a graph, so that starting them costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from turns import DEVICE, ON_GPU, UNIT, captured, form, times_of
from workloads import Measured

from mdcm import kernels

__all__ = ["roofline"]

REPEATED = 10
SLOPE = 0.2


def _ceilings() -> tuple[float, dict[str, float]]:
    """Bytes, and products of two numbers, per millisecond."""
    source = torch.zeros(2**28, device=DEVICE)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / min(times_of({"copy": lambda: [target.copy_(source)]})["copy"])
    a, b = torch.randn(2, 8192, 8192, device=DEVICE).unbind(0)
    products = {}
    for precision in ("ieee", "tf32"):
        with form("reference", precision):
            products[precision] = 8192**3 / min(times_of({"product": lambda: [a @ b]})["product"])
    return bandwidth, products


def _measured(words: str, run: Callable[[], object], floor: float, precision: str = "ieee") -> Measured:
    def repeated() -> list[torch.Tensor]:
        for _ in range(REPEATED):
            run()
        return []

    times = times_of({"kernel": captured(repeated, precision)()})["kernel"]
    return Measured("kernels-roofline", words, "0", UNIT, [one / REPEATED for one in times], [floor], None)


def _layers(
    modules: int, rows: int, precision: str, bandwidth: float, products: dict[str, float]
) -> Iterator[Measured]:
    from mdcm.kernels.critic import fused_layers as layers

    d, h = 32, 256
    flat = 0.05 * torch.randn(modules, kernels.critic_size([d, h, h]), device=DEVICE)
    critics = kernels.critic_views(flat, [d, h, h])
    (w1, w2), (b1, b2), out = critics.weights, critics.biases, critics.out
    parts = kernels.critic_views(torch.zeros(4, modules, flat.shape[1], device=DEVICE), [d, h, h])
    x = torch.randn(modules, 3 * rows, d, device=DEVICE)
    given = {"slope": SLOPE, "precision": precision}
    kept = given | {"penalty": 10.0, "one_sided": False}
    h1 = layers.lin_act(x, w1, b1, **given)
    h2 = layers.lin_act(h1, w2, b2, **given)
    s1 = layers.delta(h2, out, w2, h1, signed=True, **given)
    norm, v0, v1 = layers.gp_norm_tangent(s1, w1, h1, columns=None, **kept)
    below, top = (parts.weights[0], parts.biases[0]), (parts.weights[1], parts.biases[1])
    n = modules * rows
    # elements read and written beside the weights, and products of two numbers
    work = {
        "K5 first": (lambda: layers.lin_act(x, w1, b1, **given), 3 * n * (d + h), 3 * n * d * h),
        "K5 second": (lambda: layers.lin_act(h1, w2, b2, **given), 6 * n * h, 3 * n * h * h),
        "K6": (lambda: layers.delta(h2, out, w2, h1, signed=True, **given), 9 * n * h, 3 * n * h * h),
        "K7": (lambda: layers.gp_norm_tangent(s1, w1, h1, columns=None, **kept), n * (3 * h + d), 2 * n * d * h),
        "K8": (lambda: layers.top_reduce(v1, w2, h2, out, norm, parts.out, **kept), 4 * n * h, n * h * h),
        "K9 second": (lambda: layers.wgrad(h2, out, h1, v1, *top, **given), 6 * n * h, 3 * n * h * h),
        "K9 first": (lambda: layers.wgrad(s1, None, x, v0, *below, **given), 3 * n * (d + h), 3 * n * h * d),
    }
    for name, (run, elements, pairs) in work.items():
        floor = max(4 * elements / bandwidth, pairs / products[precision])
        words = f"{name}; {precision}, {modules} of 2 x {h} units, {d} columns, batch {rows:,}; its floor"
        yield _measured(words, run, floor, precision)


def _races(rows: int, n: int, levels: int, bandwidth: float) -> Iterator[Measured]:
    from mdcm.kernels.gumbel import fused as gumbel

    packing = kernels.Packing([levels] * n, device=DEVICE)
    logits, grad = torch.randn(2, rows, packing.width, device=DEVICE).unbind(0)
    noise = torch.rand(rows, packing.width, device=DEVICE)
    tau, cells = torch.tensor(0.5, device=DEVICE), rows * packing.width
    work = {
        "K1": (lambda: gumbel.gumbel_st_fwd(logits, packing, tau, noise), 12 * cells),
        "K2": (lambda: gumbel.gumbel_st_bwd(logits, grad, packing, tau, noise), 16 * cells),
    }
    for name, (run, size) in work.items():
        words = f"{name}; {n} variables of {levels} levels, {rows:,} rows; its floor"
        yield _measured(words, run, size / bandwidth)


def roofline() -> Iterator[Measured]:
    """Time of every kernel; its baseline is the floor, so that the ratio is how far it is from it."""
    if not ON_GPU:
        print("kernels-roofline   left out: it needs a GPU", flush=True)
        return
    bandwidth, products = _ceilings()
    reached = ", ".join(f"{2 * rate / 1e9:.0f} TFLOP/s in {name}" for name, rate in products.items())
    print(f"ceilings: {bandwidth / 1e9:.2f} TB/s, {reached}", flush=True)
    for modules, rows in ((1, 200), (50, 200), (500, 200), (1, 65536)):
        for precision in ("ieee", "tf32"):
            yield from _layers(modules, rows, precision, bandwidth, products)
    for rows, n, levels in ((8192, 50, 4), (65536, 50, 16), (8192, 50, 64)):
        yield from _races(rows, n, levels, bandwidth)
