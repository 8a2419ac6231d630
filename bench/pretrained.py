"""A frozen image generator stands in for the picture of the digits front door, D -> I -> A with D <-> A.

A generator of digits, conditional on the digit to be shown, is trained beforehand on pictures without any D or A, and
judged by the experiment's classifier. The model then takes it as a black box for I: only D and A are learned from the
data. Printed are the share of right digits, whether the generator's weights are the same bits after the fit, and the
distance of P(A | do(D)) to the exact model. Exits with 1 if a goal is missed.

    python bench/pretrained.py [seed]
"""

from __future__ import annotations

import hashlib
import itertools
import sys
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import mdcm
from mdcm.data import Dataset
from mdcm.experiments.digits import DigitBank, DigitJudge, train_judge
from mdcm.experiments.door import GRAPH, FrontDoor
from mdcm.mechanisms import Mechanism, Pretrained
from mdcm.metrics import sampling_floor, tv_distance

RESOLUTION = 16
ROWS = 20_000
DRAWS = 20_000
JUDGED = 2_000
GENERATOR_STEPS = 2_000
JUDGE_STEPS = 600
RIGHT_GOAL = 0.95
DISTANCE_GOAL = 0.03


class Painter(nn.Module):
    """The black box: a digit, one-hot, and noise to a picture; it knows nothing of the model that it is put into."""

    def __init__(self, flow: Mechanism) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, digit: Tensor, noise: Tensor) -> Tensor:
        return self.flow({"S": digit}, (), noise)


def trained_painter(bank: DigitBank, seed: int) -> Painter:
    """A generator of digits trained on pictures of known digits alone."""
    pictures = Dataset({"S": bank.digits}, images={"I": bank.images})
    config = mdcm.TrainConfig(max_steps=GENERATOR_STEPS)
    return Painter(mdcm.fit("S -> I", pictures, config=config, seed=seed).dcm.mechanism("I"))


def black_box(painter: Painter, flip: float) -> Pretrained:
    """The painter as the mechanism of I: it shows D, or with probability ``flip`` the other digit."""
    bound = float(torch.special.ndtri(torch.tensor(flip, dtype=torch.float64)))

    def adapter(parents: dict[str, Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
        # which digit is shown takes a number of its own, so that the picture's noise says nothing of it
        other = noise[:, -1:] < bound
        return torch.where(other, parents["D"].flip(1), parents["D"]), noise[:, :-1].contiguous()

    return Pretrained(painter, adapter, noise_size=painter.flow.noise_size + 1)


def checksum(module: nn.Module) -> str:
    """SHA-256 of every parameter and buffer, bit for bit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def right_digits(painter: Painter, judge: DigitJudge, seed: int) -> list[float]:
    """Share of pictures on which the judge sees the digit that was asked for, per digit."""
    generator = torch.Generator().manual_seed(seed)
    shares = []
    for digit in (0, 1):
        one_hot = torch.eye(2)[torch.full((JUDGED,), digit)]
        noise = torch.randn(JUDGED, painter.flow.noise_size, generator=generator)
        with torch.no_grad():
            made = painter.eval()(one_hot, noise)
        images = ((made + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
        shares.append(float((judge.classify(images)[0] == digit).mean()))
    return shares


def shares_of(outcomes: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.bincount(outcomes, minlength=3) / len(outcomes)


def run(seed: int) -> bool:
    """Train, fit and measure; whether all goals are met."""
    torch.set_num_threads(1)
    marks = [("start", time.process_time())]

    def mark(name: str) -> None:
        marks.append((name, time.process_time()))

    scm = FrontDoor(RESOLUTION)
    exact = scm.exact()
    painter = trained_painter(scm.bank, seed)
    mark("generator")
    judge = train_judge(RESOLUTION, steps=JUDGE_STEPS, seed=seed)
    right = right_digits(painter, judge, seed)
    mark("judge")
    before = checksum(painter)
    data = scm.sample(ROWS, seed=seed)
    dataset = Dataset(data.table, images={"I": data.images})
    model = mdcm.fit(GRAPH, dataset, mechanisms={"I": black_box(painter, scm.flip)}, seed=seed)
    mark("fit")
    untouched = checksum(painter) == before
    drawn = [
        model.draw_samples(DRAWS, do={"D": d}, variables=["A"], seed=seed).table["A"].to_numpy(dtype=np.int64)
        for d in (0, 1)
    ]
    mark("sampling")
    # the same mechanism of A on pictures of the true mechanism of I: what is left is not the black box's
    on_real = [
        model.draw_samples(
            DRAWS, do={"I": scm.sample_images(np.full(DRAWS, d), seed=seed + 1)}, variables=["A"], seed=seed
        ).table["A"]
        for d in (0, 1)
    ]
    mark("real pictures")
    naive = [shares_of(data.table["A"][data.table["D"] == d].to_numpy()) for d in (0, 1)]
    distances = [tv_distance(exact.do[d], shares_of(drawn[d])) for d in (0, 1)]
    print(f"{GRAPH}, I frozen; {ROWS:,} rows, {DRAWS:,} draws per level, seed {seed}, torch {torch.__version__}")
    print(f"right digits: {right[0]:.4f} of 0, {right[1]:.4f} of 1 (goal {RIGHT_GOAL}); ", end="")
    print(f"the judge is right on {judge.digit_accuracy:.4f} of held-out real digits")
    print(f"weights of the generator untouched: {untouched} (sha256 {before[:16]}...)")
    print(f"trained h-nodes: {[record['hnode'] for record in model.history if record['event'] == 'trained']}")
    for d in (0, 1):
        print(
            f"D={d}: TVD of P(A | do(D={d})) to the exact model {distances[d]:.4f} (goal {DISTANCE_GOAL}); "
            f"with real pictures {tv_distance(exact.do[d], shares_of(on_real[d].to_numpy())):.4f}; "
            f"naive {tv_distance(exact.do[d], naive[d]):.4f}; "
            f"floor of {DRAWS:,} draws {sampling_floor(exact.do[d], DRAWS):.4f}"
        )
    spent = ", ".join(f"{name} {now - then:.1f}" for (_, then), (name, now) in itertools.pairwise(marks))
    print(f"CPU seconds: {marks[-1][1] - marks[0][1]:.0f} ({spent})")
    return untouched and min(right) >= RIGHT_GOAL and max(distances) <= DISTANCE_GOAL


def main() -> int:
    return 0 if run(int(sys.argv[1]) if len(sys.argv) > 1 else 0) else 1


if __name__ == "__main__":
    sys.exit(main())
