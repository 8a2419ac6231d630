"""An X-ray between COVID and pneumonia, sections 5.3 and F.3, with a pre-trained generator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np
import torch

from mdcm.data import Dataset
from mdcm.errors import DataError
from mdcm.experiments.methods import Trained, train, train_auto
from mdcm.experiments.records import (
    ANSWERS,
    FITTED,
    Criterion,
    Experiment,
    ExperimentRequest,
    Findings,
    Result,
    hold,
)
from mdcm.experiments.study import Measured, StudyProblem, graph_picture, study
from mdcm.experiments.xrays import CLASSES, Chest, Rays, StandIn, read_covidx
from mdcm.graph import ADMG
from mdcm.mechanisms import Categorical, Pretrained
from mdcm.metrics import tv_distance
from mdcm.report.image_grid import grid_png
from mdcm.report.page import Photo
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.config import TrainConfig

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor

    from mdcm.dcm import MechanismFactory
    from mdcm.model import Model

__all__ = ["EXPERIMENT", "labelled"]

_GRAPH = "C -> X -> N; C <-> N"
_QUERY = "P(N=1 | do(C=1)) - P(N=1 | do(C=0))"
_EFFECT, _COLUMNS = 0.01, 12
_EFFECTS, _ERROR = "Effect of COVID on pneumonia", "effect of C on N, distance to the truth"


@dataclass(frozen=True)
class _Size:
    """Size of a run.

    Attributes:
        resolution: Height and width of the pictures.
        rows: Rows of training data.
        draws: Rows drawn for an answer.
        lengths: Steps of the shortened trainings for the curve of the likelihood.
        steps: Generator steps against a critic.
        encoder_steps: Steps of the representation that the critic compares.
    """

    resolution: int
    rows: int
    draws: int
    lengths: tuple[int, ...]
    steps: int
    encoder_steps: int
    max_steps: int | None = None


_FULL = _Size(32, 30_000, 100_000, (50, 100, 200, 400), 2_000, 600)
_FAST = _Size(16, 1_500, 2_000, (10,), 8, 20, max_steps=60)


def labelled(generator: torch.nn.Module, share: float) -> Pretrained:
    """Make a mechanism of X given C from a generator of three classes.

    C = 1 is the class covid. C = 0 is pneumonia in the given share of the pictures, and normal otherwise, so that
    pictures have their distribution given C.

    Args:
        generator: ``generator(label, noise)`` with indices into ``CLASSES`` as labels, and ``noise_size``.
        share: Share of pneumonia among those without COVID.
    """
    covid, normal, pneumonia = (CLASSES.index(name) for name in ("covid", "normal", "pneumonia"))
    size = int(generator.noise_size)  # type: ignore[arg-type]

    def adapter(parents: Mapping[str, Tensor], noise: Tensor | None) -> tuple[Tensor, Tensor]:
        assert noise is not None
        sick = torch.special.ndtr(noise[:, 0]) < share
        label = torch.where(sick, pneumonia, normal)
        return torch.where(parents["C"][:, 1] > 0.5, covid, label), noise[:, 1:]

    return Pretrained(generator, adapter, noise_size=1 + size)


def _run(request: ExperimentRequest) -> Findings:
    size = _FAST if request.fast else _FULL
    if request.data is None:
        return study(_Problem(request.mechanisms, size, Chest(size.resolution), None), request)
    with request.stages.stage("reading pictures"):
        rays = read_covidx(request.data, size.resolution)
    if rays.table["N"].isna().any():
        raise DataError(
            f"{request.data}: the list has the classes positive and negative ({int(rays.table['C'].sum()):,} of "
            f"{len(rays.table):,} are positive), and does not say which of the negative have pneumonia, which this "
            "experiment asks for; take a list with the classes normal, pneumonia and COVID-19"
        )
    return study(_Problem(request.mechanisms, size, None, rays), request)


class _Problem(StudyProblem):
    """Rows of the stand-in, or the rows of a directory, whose shares then stand for the truth."""

    experiment = "covidx"

    def __init__(
        self, given: Mapping[str, MechanismFactory], size: _Size, chest: Chest | None, rays: Rays | None
    ) -> None:
        self.given, self.size, self.chest, self.rays = given, size, chest, rays
        self.steps = size.steps
        self.lengths = {"auto": size.lengths, "adversarial": (max(1, size.steps // 8), max(1, size.steps // 3))}
        # P(C, N), exact for the stand-in
        self.right = chest.joint() if chest is not None else _shares(self.draw(0).table)
        self.shown: dict[str, NDArray[np.uint8]] = {}

    def draw(self, seed: int) -> Rays:
        """Draw training data."""
        rays = self.chest.sample(self.size.rows, seed=seed) if self.chest is not None else self.rays
        assert rays is not None
        return rays

    def references(self, _seeds: Sequence[int]) -> Iterator[Result]:
        """The exact effect, and the naive one."""
        for c, n in np.ndindex(2, 2) if self.chest is not None else ():
            yield Result(self.experiment, "exact", None, "P(C, N)", f"P(C={c}, N={n})", float(self.right[c, n]))
        if self.chest is not None:
            naive = self.right[1, 1] / self.right[1].sum() - self.right[0, 1] / self.right[0].sum()
            for source, effect in (("exact", self.chest.effect()), ("naive", float(naive))):
                yield Result(self.experiment, source, None, _EFFECTS, "effect of C on N", effect)

    def train(self, method: str, data: Rays, seed: int, *, rate: float = 1.0, length: int | None = None) -> Trained:
        """Train the mechanisms of C and N; that of X is given, or a flow for pictures without any generator."""
        dataset = Dataset(data.table, images={"X": data.images}, name="d1")
        variables = {name: {"levels": [0, 1]} for name in ("C", "N")}
        given = self._generator(data)
        if method == "auto":
            steps = length or self.size.max_steps
            return train_auto(
                _GRAPH, [dataset], seed, rate=rate, max_steps=steps, variables=variables, mechanisms=given
            )
        steps = length or self.steps
        against = AdversarialConfig(steps=steps, encoder_steps=self.size.encoder_steps, checks=min(10, steps))
        return train(
            _GRAPH, [dataset], seed, variables=variables, config=TrainConfig(adversarial=against),
            mechanisms={**dict.fromkeys(("C", "N"), partial(Categorical, hidden=64)), **given},
            objective={"C": "adversarial", "N": "adversarial"},
        )  # fmt: skip

    def _generator(self, rays: Rays) -> dict[str, MechanismFactory]:
        if "X" in self.given:
            return {"X": self.given["X"]}
        if self.chest is None:
            return {}
        without = rays.table["N"][rays.table["C"] == 0]
        return {"X": labelled(StandIn(self.chest), float(without.mean()))}

    def distances(self, model: Model) -> dict[str, float]:
        """Distances of P(C), P(N), P(N | C) averaged over C, and P(N, C)."""
        right = self.right
        shares = _shares(model.draw_samples(self.size.draws, variables=["C", "N"], seed=7).table)
        given = [
            tv_distance(right[c] / right[c].sum(), shares[c] / shares[c].sum()) for c in (0, 1) if shares[c].sum() > 0
        ]
        return {
            "P(C)": tv_distance(right.sum(1), shares.sum(1)), "P(N)": tv_distance(right.sum(0), shares.sum(0)),
            "P(N | C)": mean(given), "P(N, C)": tv_distance(right, shares),
        }  # fmt: skip

    def measure(self, _method: str, trained: Trained, seed: int) -> Iterator[Measured]:
        """Distances of the distributions, and the effect of C on N."""
        model = trained.model
        for name, distance in self.distances(model).items():
            yield FITTED, name, distance
        answer = model.query(_QUERY, self.size.draws, seed=seed, allow_low_support=True)
        assert answer.value is not None
        assert answer.stderr is not None
        yield _EFFECTS, "effect of C on N", answer.value
        yield _EFFECTS, "standard error of draws", answer.stderr
        if self.chest is not None:
            yield ANSWERS, _ERROR, abs(answer.value - self.chest.effect())
        if not self.shown:
            rays = self.draw(seed)
            for c in (0, 1):
                drawn = model.draw_samples(_COLUMNS, do={"C": c}, seed=seed)
                self.shown[f"do(C={c}), generated"] = drawn.images["X"]
                self.shown[f"C={c}, of the data"] = rays.images[rays.table["C"].to_numpy() == c][:_COLUMNS]

    def criteria(self, results: Sequence[Result], *, full: bool) -> list[Criterion]:
        """The limit of the effect's distance to the truth, where that is known."""
        if self.chest is None:
            return []
        note = f"true effect {self.chest.effect():.4f}"
        return hold(results, [_ERROR], {"first": _EFFECT, "mean": _EFFECT}, judged=full, note=note)

    def findings(self, results: Sequence[Result]) -> Findings:
        """Captions, the graph, and pictures of both kinds."""
        against = "the truth" if self.chest is not None else "the data"
        return Findings(
            captions={
                FITTED: f"TVD to {against}; {self.size.draws:,} draws.",
                _EFFECTS: f"{_QUERY}. The paper, on COVIDx CXR-3: 0.05 to 0.08.",
            },
            pictures=[graph_picture(ADMG.from_string(_GRAPH), "P(N | do(C))")],
            photos=[Photo(
                "X-rays", grid_png(self.shown, columns=_COLUMNS),
                "Rows of chest pictures with and without COVID, generated and of the data.",
            )],
            notes=self._notes(),
        )  # fmt: skip

    def _notes(self) -> list[str]:
        notes = []
        if self.chest is not None:
            notes.append(
                "The pictures are not X-rays but a small stand-in with a known truth: two ellipses whose brightness is "
                "the opacity of the lungs. --data DIR reads COVIDx CXR-3, --mechanism X=module:factory a generator."
            )
            notes.append(
                "As in COVIDx, nobody has COVID without pneumonia, and the opacities with and without COVID overlap, "
                "so that every picture occurs with both."
            )
        notes.append(
            "The generator knows three classes and C has two levels. Here C = 0 is shown as pneumonia as often as it "
            "is among the rows with C = 0, which gives pictures their distribution given C. The paper takes the N of "
            "the real row, which makes the picture depend on N as well and adds the arrow N -> X."
        )
        return notes


def _shares(table: pd.DataFrame) -> NDArray[np.float64]:
    """P(C, N) by counting."""
    counted = np.bincount(2 * table["C"].to_numpy(dtype=int) + table["N"].to_numpy(dtype=int), minlength=4)
    return np.asarray(counted / len(table)).reshape(2, 2)


EXPERIMENT = Experiment(
    name="covidx",
    title="An X-ray between COVID and pneumonia",
    section="5.3 and F.3",
    summary="COVID changes the X-ray, and what the X-ray shows decides on pneumonia; the two diagnoses have a hidden "
    "common cause. The generator of X-rays is taken as it is, and only the other two mechanisms are trained.",
    paper="An effect of COVID on pneumonia between 0.05 and 0.08, from COVIDx CXR-3 with a generator found on the web.",
    sizes={"full": asdict(_FULL), "fast": asdict(_FAST)},
    run=_run,
    methods=("auto", "adversarial"),
    data="train.txt with lines 'patient file class source', and the pictures in train/",
    mechanisms=("X",),
)
