"""An X-ray between COVID and pneumonia, sections 5.3 and F.3, with a pre-trained generator."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mdcm.data import Dataset
from mdcm.errors import DataError
from mdcm.experiments.records import Criterion, Experiment, ExperimentRequest, Findings
from mdcm.experiments.xrays import CLASSES, Chest, Rays, StandIn, read_covidx
from mdcm.identification import identify
from mdcm.mechanisms import Categorical, Pretrained
from mdcm.metrics import tv_distance
from mdcm.model import Model, fit
from mdcm.report.image_grid import grid_png
from mdcm.report.page import Chart, Line, Photo, Picture, Table
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

    from mdcm.dcm import MechanismFactory

__all__ = ["EXPERIMENT", "labelled"]

_GRAPH = "C -> X -> N; C <-> N"
_QUERY = "P(N=1 | do(C=1)) - P(N=1 | do(C=0))"
_EFFECT, _COLUMNS = 0.01, 12
_DISTANCES = ("P(C)", "P(N)", "P(N | C)", "P(N, C)")


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


@dataclass(frozen=True)
class _Outcome:
    """A training: its estimate of the effect, and the distances of its distributions to those of the data."""

    label: str
    seed: int
    effect: float
    stderr: float
    distances: tuple[float, ...]
    curve: tuple[tuple[float, tuple[float, ...]], ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _run(request: ExperimentRequest) -> Findings:
    size = _FAST if request.fast else _FULL
    if request.data is None:
        chest = Chest(size.resolution)
        study = _Study(request, size, chest)
    else:
        with request.stages.stage("reading pictures"):
            rays = read_covidx(request.data, size.resolution)
        if rays.table["N"].isna().any():
            raise DataError(
                f"{request.data}: the list has the classes positive and negative ({int(rays.table['C'].sum()):,} of "
                f"{len(rays.table):,} are positive), and does not say which of the negative have pneumonia, which this "
                "experiment asks for; take a list with the classes normal, pneumonia and COVID-19"
            )
        study = _Study(request, size, None, rays)
    study.run()
    return study.findings()


class _Study:
    """Trainings on rows of the stand-in, or on the rows of a directory."""

    def __init__(self, request: ExperimentRequest, size: _Size, chest: Chest | None, rays: Rays | None = None) -> None:
        self.request, self.size, self.chest, self.rays = request, size, chest, rays
        self.outcomes: list[_Outcome] = []
        self.shown: dict[str, NDArray[np.uint8]] = {}
        self.plan: Any = None

    def run(self) -> None:
        """Train and answer."""
        runs = [(method, seed) for method in self.request.methods for seed in self.request.seeds]
        self.request.stages.expect(len(runs))
        for method, seed in runs:
            with self.request.stages.stage(f"{method}"):
                self._train(method, seed)

    def _right(self, rays: Rays) -> NDArray[np.float64]:
        """P(C, N): exact for the stand-in, otherwise that of the data."""
        if self.chest is not None:
            return self.chest.joint()
        counted = np.bincount(2 * rays.table["C"].to_numpy() + rays.table["N"].to_numpy(), minlength=4)
        return np.asarray(counted / len(rays.table)).reshape(2, 2)

    def _mechanism(self, rays: Rays) -> dict[str, MechanismFactory]:
        """Constructor of the mechanism of X: the given one or the stand-in; without any, a flow is trained."""
        if "X" in self.request.mechanisms:
            return {"X": self.request.mechanisms["X"]}
        if self.chest is None:
            return {}
        without = rays.table["N"][rays.table["C"] == 0]
        return {"X": labelled(StandIn(self.chest), float(without.mean()))}

    def _train(self, method: str, seed: int) -> None:
        rays = self.chest.sample(self.size.rows, seed=seed) if self.chest is not None else self.rays
        assert rays is not None
        data = Dataset(rays.table, images={"X": rays.images}, name="d1")
        given, right = self._mechanism(rays), self._right(rays)
        variables = {name: {"levels": [0, 1]} for name in ("C", "N")}
        began = time.monotonic()

        def train(max_steps: int | None, steps: int) -> Model:
            objective: Any = "auto" if method == "auto" else {"C": "adversarial", "N": "adversarial"}
            against = AdversarialConfig(steps=steps, encoder_steps=self.size.encoder_steps, checks=min(10, steps))
            config = TrainConfig(max_steps=max_steps, adversarial=None if method == "auto" else against)
            wide = {} if method == "auto" else dict.fromkeys(("C", "N"), partial(Categorical, hidden=64))
            return fit(
                _GRAPH, data, variables=variables, mechanisms={**wide, **given}, objective=objective, config=config,
                seed=seed,
            )  # fmt: skip

        curve = []
        if seed == self.request.seeds[0]:
            lengths = self.size.lengths if method == "auto" else (self.size.steps // 8, self.size.steps // 3)
            for length in lengths:
                start = time.monotonic()
                short = train(length, 1) if method == "auto" else train(None, max(1, length))
                curve.append((time.monotonic() - start, self._distances(short, right)))
            began = time.monotonic()
        model = train(self.size.max_steps if method == "auto" else None, self.size.steps)
        seconds = time.monotonic() - began
        answer = model.query(_QUERY, self.size.draws, seed=seed, allow_low_support=True)
        assert answer.value is not None
        assert answer.stderr is not None
        distances = self._distances(model, right)
        curve.append((seconds, distances))
        self.outcomes.append(_Outcome(method, seed, answer.value, answer.stderr, distances, tuple(curve), seconds))
        if not self.shown:
            self.plan = model.plan
            for c in (0, 1):
                drawn = model.draw_samples(_COLUMNS, do={"C": c}, seed=seed)
                self.shown[f"do(C={c}), generated"] = drawn.images["X"]
                self.shown[f"C={c}, of the data"] = rays.images[rays.table["C"].to_numpy() == c][:_COLUMNS]

    def _distances(self, model: Model, right: NDArray[np.float64]) -> tuple[float, ...]:
        """Distances of P(C), P(N), P(N | C) averaged over C, and P(N, C)."""
        table = model.draw_samples(self.size.draws, variables=["C", "N"], seed=7).table
        counted = np.bincount(2 * table["C"].to_numpy(dtype=int) + table["N"].to_numpy(dtype=int), minlength=4)
        shares = counted.reshape(2, 2) / len(table)
        given = [
            tv_distance(right[c] / right[c].sum(), shares[c] / shares[c].sum()) for c in (0, 1) if shares[c].sum() > 0
        ]
        return (
            tv_distance(right.sum(1), shares.sum(1)), tv_distance(right.sum(0), shares.sum(0)), mean(given),
            tv_distance(right, shares),
        )  # fmt: skip

    # ---- reporting

    def _of(self, label: str) -> list[_Outcome]:
        return [outcome for outcome in self.outcomes if outcome.label == label]

    def findings(self) -> Findings:
        """Criteria, curves, tables and pictures."""
        identification = identify(_GRAPH, "P(N | do(C))")
        return Findings(
            criteria=self._criteria(), charts=[self._curves(label) for label in self.request.methods],
            tables=[self._effects(), self._table()],
            pictures=[
                Picture("The graph", identification.to_svg(), f"{_GRAPH}. P(N | do(C)) = {identification.estimand}."),
                Picture("The plan", self.plan.to_svg(), f"{len(self.plan.hnodes)} h-nodes."),
            ],
            photos=[Photo(
                "X-rays", grid_png(self.shown, columns=_COLUMNS),
                "Rows of chest pictures with and without COVID, generated and of the data.",
            )],
            notes=self._notes(),
            numbers={"outcomes": [outcome.to_json() for outcome in self.outcomes], **self._exact()},
        )  # fmt: skip

    def _exact(self) -> dict[str, Any]:
        if self.chest is None:
            return {}
        return {"effect": self.chest.effect(), "joint": self.chest.joint().tolist()}

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

    def _criteria(self) -> list[Criterion]:
        runs = self._of("auto")
        if self.chest is None or not runs:
            return []
        errors = [abs(run.effect - self.chest.effect()) for run in runs]
        judged = not self.request.fast
        note = f"true effect {self.chest.effect():.4f}, found {runs[0].effect:.4f}; seed {runs[0].seed}"
        what = "auto, effect of C on N, distance to the truth"
        criteria = [Criterion(what, errors[0], _EFFECT, judged=judged, note=note)]
        if len(runs) > 1:
            note = f"mean over {len(runs)} seeds, worst {max(errors):.4f}"
            criteria.append(Criterion("auto, the same on average", mean(errors), _EFFECT, judged=judged, note=note))
        return criteria

    def _curves(self, label: str) -> Chart:
        run = self._of(label)[0]
        seconds = [at for at, _ in run.curve]
        lines = [Line(name, seconds, [distances[k] for _, distances in run.curve]) for k, name in enumerate(_DISTANCES)]
        ends = ", ".join(f"{line.label} {line.y[-1]:.4f}" for line in lines)
        return Chart(
            f"Distances while it is learned, {label}", "seconds of training", "TVD", lines,
            f"Distance against time of four distributions, which end at {ends}.", log_x=True, log_y=True,
        )  # fmt: skip

    def _effects(self) -> Table:
        rows: list[list[Any]] = []
        if self.chest is not None:
            rows.append(["exact", self.chest.effect(), None, None])
            joint = self.chest.joint()
            naive = joint[1, 1] / joint[1].sum() - joint[0, 1] / joint[0].sum()
            rows.append(["naive: P(N=1 | C=1) - P(N=1 | C=0)", float(naive), None, None])
        rows += [[f"{run.label}, seed {run.seed}", run.effect, run.stderr, run.seconds] for run in self.outcomes]
        rows.append(["the paper, on COVIDx CXR-3", "0.05 to 0.08", None, None])
        return Table("Effect of COVID on pneumonia", ["", "effect", "standard error of draws", "seconds"], rows, _QUERY)

    def _table(self) -> Table:
        rows = [[f"{outcome.label}, seed {outcome.seed}", *outcome.distances] for outcome in self.outcomes]
        against = "the truth" if self.chest is not None else "the data"
        return Table("Fitted distributions", ["", *_DISTANCES], rows, f"TVD to {against}; {self.size.draws:,} draws.")


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
