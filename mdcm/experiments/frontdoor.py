"""The front door through a picture, sections 5.2 and F.2: four methods of training compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdcm.data import Dataset
from mdcm.dcm import DCM
from mdcm.experiments.digits import COLOURS, DigitJudge, train_judge
from mdcm.experiments.door import GRAPH, FrontDoor
from mdcm.experiments.methods import Trained, train_against_critics, train_auto
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
from mdcm.experiments.summaries import bar_chart
from mdcm.graph import ADMG
from mdcm.mechanisms import ImageGenerator, Pretrained, RectifiedFlow
from mdcm.metrics import frechet_distance, kl_divergence, tv_distance
from mdcm.model import Model, fit
from mdcm.report.image_grid import grid_png
from mdcm.report.page import Photo
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.config import TrainConfig
from mdcm.training.objectives.critic_problem import pixels
from mdcm.training.objectives.likelihood import ComponentLikelihood, ComponentRows

__all__ = ["EXPERIMENT", "Judgement", "do_image_distance", "judge_pictures", "on_real_pictures", "shares"]

# limits of total variation distances and shares
_JOINT_LIMIT, _REAL_LIMIT, _OWN_LIMIT, _SHOWN_LIMIT = 0.015, 0.015, 0.03, 0.03
_GAP_LIMIT = 0.003
# groups and names of quantities
_THROUGH_REAL, _EFFECT, _PICTURES = "Answers with real pictures", "The effect of D", "What the pictures show"
_UNDETERMINED = "Without flips: P(A | do(D)) is not determined"
_REAL = [f"P(A | do(D={d})) with real pictures" for d in (0, 1)]
_OWN = [f"P(A | do(D={d})) with its own" for d in (0, 1)]
_DIGITS, _COLOURS = "share of each digit against the mechanism", "share of each colour against the mechanism"
_GAP = "log-likelihood of fresh rows beyond that without one"
_COLUMNS = 16
_NAMES = {
    "auto": "likelihood, module by module", "adversarial": "critics, module by module",
    "joint": "critics, all at once, on pixels", "joint-rep": "critics, all at once, on a representation",
}  # fmt: skip


@dataclass(frozen=True)
class Judgement:
    """Judgement of generated pictures by an independent classifier.

    Attributes:
        intended: Share of pictures of the digit D.
        flipped: Share of pictures of the other digit.
        neither: Share of pictures of neither digit.
        colours: Shares of red, green and blue.
    """

    intended: float
    flipped: float
    neither: float
    colours: tuple[float, ...]


@dataclass(frozen=True)
class _Size:
    """Size of a run.

    Attributes:
        resolution: Height and width of the pictures.
        rows: Rows of training data.
        draws: Rows drawn per value of D.
        pictures: Number of real pictures for P(A | do(I = picture)), and draws of A for each.
        judge_steps: Training steps of the classifier.
        steps: Generator steps of a level that is trained against critics.
        batch: Rows of such a step.
        looks: Number of validations at which the distance is measured.
        look_rows: Rows drawn for the measurement.
        lengths: Steps of the shortened trainings for the curve of the likelihood.
        encoder_steps: Training steps of a representation.
        max_steps: Largest number of steps of an h-node trained by likelihood; the default if None.
        picture_steps: The same for the mechanism of the picture.
        variant_steps: The same for the variant without flips.
    """

    resolution: int
    rows: int
    draws: int
    pictures: tuple[int, int]
    judge_steps: int
    steps: int
    batch: int
    looks: int
    look_rows: int
    lengths: tuple[int, ...]
    encoder_steps: int = 600
    max_steps: int | None = None
    picture_steps: int | None = None
    variant_steps: int | None = None


_FULL = _Size(
    16, 40_000, 20_000, (12, 4_000), 1_500, 1_200, 64, 6, 4_000, (200, 1_000), picture_steps=18_000, variant_steps=3_200
)
_FAST = _Size(8, 1_000, 200, (2, 200), 60, 3, 32, 1, 200, (5,), encoder_steps=10, max_steps=20)


def shares(outcomes: pd.Series[int] | NDArray[np.int64]) -> NDArray[np.float64]:
    """P(A) by counting."""
    return np.bincount(np.asarray(outcomes, dtype=np.int64), minlength=3) / len(outcomes)


def _outcomes(model: Model, images: NDArray[np.uint8], seed: int) -> NDArray[np.int64]:
    """Draw A under do(I = picture) for each picture."""
    drawn = model.draw_samples(len(images), do={"I": images}, variables=["A"], seed=seed)
    return np.asarray(drawn.table["A"], dtype=np.int64)


def on_real_pictures(model: Model, scm: FrontDoor, d: int, draws: int, seed: int) -> NDArray[np.float64]:
    """P(A | do(D = d)) of the true mechanism of I and the model's mechanism of A together."""
    return shares(_outcomes(model, scm.sample_images(np.full(draws, d), seed=seed), seed))


def do_image_distance(model: Model, scm: FrontDoor, pictures: int, draws: int, seed: int) -> float:
    """Mean distance of the model's P(A | do(I = picture)) to the truth over a few real pictures."""
    chosen = np.random.default_rng(seed).choice(len(scm.bank), size=pictures, replace=False)
    images = scm.bank.images[chosen]
    outcomes = _outcomes(model, images.repeat(draws, axis=0), seed).reshape(pictures, draws)
    truth = scm.do_image(images)
    return float(np.mean([tv_distance(truth[i], shares(outcomes[i])) for i in range(pictures)]))


def judge_pictures(judge: DigitJudge, images: NDArray[np.uint8], d: int) -> Judgement:
    """Judge pictures generated with D = d."""
    digits, colours = judge.classify(images)
    intended, flipped = float((digits == d).mean()), float((digits == 1 - d).mean())
    named = np.bincount(colours, minlength=len(COLOURS)) / len(colours)
    return Judgement(intended, flipped, float(((digits != 0) & (digits != 1)).mean()), tuple(named.tolist()))


def _run(request: ExperimentRequest) -> Findings:
    size = _FAST if request.fast else _FULL
    if request.resolution is not None:
        size = replace(size, resolution=request.resolution)
    scm = FrontDoor(size.resolution)
    with request.stages.stage("judge"):
        judge = train_judge(size.resolution, steps=size.judge_steps)
    findings = study(_Problem(scm, size, judge, full=not request.fast), request)
    if "auto" in request.methods:
        with request.stages.stage("without flips"):
            findings.extend(_without_flips(size, request.seeds[0], judged=not request.fast))
    return findings


class _Problem(StudyProblem):
    """The front door with the exact truth, and a classifier that judges pictures."""

    experiment = "frontdoor"
    critics_once = True

    def __init__(self, scm: FrontDoor, size: _Size, judge: DigitJudge, *, full: bool) -> None:
        self.scm, self.size, self.judge = scm, size, judge
        self.steps, self.lengths, self.equal_time = size.steps, {"auto": size.lengths}, full
        self.truth = scm.exact()
        self.shown: dict[str, NDArray[np.uint8]] = {}

    def draw(self, seed: int) -> Dataset:
        """Draw training data."""
        drawn = self.scm.sample(self.size.rows, seed=seed)
        return Dataset(drawn.table, images={"I": drawn.images}, name="d1")

    def train(self, method: str, data: Dataset, seed: int, *, rate: float = 1.0, length: int | None = None) -> Trained:
        """Train by a method."""
        size = self.size
        if method == "auto":
            # shortened trainings are for P(D, A), which the mechanism of the picture does not change
            longer = None if length else size.picture_steps
            mechanisms = None if longer is None else {"I": partial(_Patient, steps_of_training=longer)}
            return train_auto(GRAPH, [data], seed, rate=rate, max_steps=length or size.max_steps, mechanisms=mechanisms)
        config = AdversarialConfig(
            # never more than in the full time
            steps=min(length or size.steps, size.steps), batch_size=size.batch, encoder_steps=size.encoder_steps,
            checks=size.looks,
        )  # fmt: skip
        return train_against_critics(
            ADMG.from_string(GRAPH), [data], seed, config, joint=method != "adversarial", rate=rate,
            distances=self.distances, mechanisms={"I": ImageGenerator},
            readers={"I": pixels} if method == "joint" else None,
        )  # fmt: skip

    def distances(self, model: Model) -> dict[str, float]:
        """Distance of P(D, A), from a few rows."""
        return {"P(D, A)": tv_distance(self.truth.joint, _joint(model, self.size.look_rows))}

    def references(self, seeds: Sequence[int]) -> Iterator[Result]:
        """The exact answers, and the naive ones."""
        row = partial(Result, self.experiment)
        for name, table in (("exact", self.truth.do), ("naive", self.truth.conditional)):
            for group, quantity, value, *_ in _cells(table):
                yield row(name, None, group, quantity, value)
        for d in (0, 1):
            naive = tv_distance(self.truth.do[d], self.truth.conditional[d])
            yield row("naive", None, ANSWERS, _OWN[d], naive)
            shown = {"digit D": 1 - self.scm.flip, "the other digit": self.scm.flip, "neither digit": 0.0}
            for what, share in {**shown, **dict.fromkeys(COLOURS, 1 / 3)}.items():
                yield row("exact", None, _PICTURES, f"do(D={d}): {what}", share)
        for d in (0, 1):
            real = self.scm.sample_images(np.full(_COLUMNS, d), seed=seeds[0])
            self.shown[f"real pictures: do(D={d}), where one in ten shows the other digit"] = real

    def measure(self, method: str, trained: Trained, seed: int) -> Iterator[Measured]:
        """Distances of distributions and answers to the truth, and what the pictures show."""
        size, model, scm = self.size, trained.model, self.scm
        drawn = [model.draw_samples(size.draws, do={"D": d}, seed=seed) for d in (0, 1)]
        joint = _joint(model, size.draws)
        yield FITTED, "P(D, A)", tv_distance(self.truth.joint, joint)
        yield "Fitted distributions, KL in nats", "P(D, A), KL", kl_divergence(self.truth.joint, joint)
        for d in (0, 1):
            real = on_real_pictures(model, scm, d, 10 * size.draws, seed)
            yield _THROUGH_REAL, _REAL[d], tv_distance(self.truth.do[d], real)
        yield _THROUGH_REAL, "P(A | do(I))", do_image_distance(model, scm, *size.pictures, seed)
        answer = np.stack([shares(samples.table["A"]) for samples in drawn])
        for d in (0, 1):
            yield ANSWERS, _OWN[d], tv_distance(self.truth.do[d], answer[d])
        yield from _cells(answer)
        pictures = [samples.images["I"] for samples in drawn]
        like = np.concatenate([
            scm.sample_images(np.full(len(images), d), seed=seed) for d, images in enumerate(pictures)
        ])  # fmt: skip
        seen = [judge_pictures(self.judge, images, d) for d, images in enumerate(pictures)]
        for d, judged in enumerate(seen):
            yield _PICTURES, f"do(D={d}): digit D", judged.intended
            yield _PICTURES, f"do(D={d}): the other digit", judged.flipped
            yield _PICTURES, f"do(D={d}): neither digit", judged.neither
            for colour, share in zip(COLOURS, judged.colours, strict=True):
                yield _PICTURES, f"do(D={d}): {colour}", share
        flip = scm.flip
        yield _PICTURES, _DIGITS, max(max(abs(j.intended - 1 + flip), abs(j.flipped - flip)) for j in seen)
        yield _PICTURES, _COLOURS, max(abs(share - 1 / 3) for j in seen for share in j.colours)
        distance = frechet_distance(self.judge.describe(np.concatenate(pictures)), self.judge.describe(like))
        yield _PICTURES, "Fréchet distance to real pictures", distance
        for d, images in enumerate(pictures):
            if method in _NAMES:
                self.shown.setdefault(f"{_NAMES[method]}: do(D={d})", images[:_COLUMNS])

    def criteria(self, results: Sequence[Result], *, full: bool) -> list[Criterion]:
        """Limits of likelihood on average over seeds."""
        held = partial(hold, results, judged=full)
        return [
            *held(["P(D, A)"], {"mean": _JOINT_LIMIT}),
            *held(_REAL, {"mean": _REAL_LIMIT}),
            *held(_OWN, {"mean": _OWN_LIMIT}),
            *held([_DIGITS, _COLOURS], {"mean": _SHOWN_LIMIT}, unit="share"),
        ]

    def findings(self, results: Sequence[Result]) -> Findings:
        """Captions, a chart of the effect, the graph, and pictures of every method."""
        size, judge = self.size, self.judge
        return Findings(
            captions={
                ANSWERS: f"TVD of P(A | do(D)) through the pictures that the model makes; {size.rows:,} rows.",
                _THROUGH_REAL: "TVD of P(A | ...) with real pictures put in.",
                _PICTURES: f"By a classifier trained apart, which names {judge.digit_accuracy:.1%} of held-out real "
                f"digits and {judge.colour_accuracy:.1%} of colours correctly; the distance is one of its features.",
            },
            charts=[
                bar_chart("Distance of the answers to the truth", results),
                bar_chart("The effect of D", results, _EFFECT, "probability"),
            ],
            pictures=[graph_picture(ADMG.from_string(GRAPH), "P(A | do(D))")],
            photos=[Photo(
                "Pictures under do(D)", grid_png(self.shown, columns=_COLUMNS),
                "Rows of digits that each method generates with D set to 0 and to 1, and real ones.",
            )],
            notes=[
                f"Pictures have {size.resolution} x {size.resolution} pixels. The full size of the paper's "
                "comparison is hours of training against critics; what is shown is how far each way comes in minutes.",
                "Against critics, the picture's mechanism is a convolutional generator. The modular and the first "
                "joint method compare pixels; joint-rep compares a representation that was trained beforehand to tell "
                "D and A from the picture, and so has no reason to make pictures that look real. All have the same "
                "networks and steps: as many for all variables at once as for the levels of the modular plan together.",
                "Methods with critics are trained at the first seed only; distances on the way are from "
                f"{size.look_rows:,} rows, and their time is not counted.",
            ],
        )  # fmt: skip


def _cells(table: NDArray[np.float64]) -> Iterator[Measured]:
    for d in (0, 1):
        for a in range(3):
            yield _EFFECT, f"P(A={a} | do(D={d}))", float(table[d, a])


class _Patient(RectifiedFlow):
    """A rectified flow trained longer than the default: 2 % fewer pictures show neither digit."""

    def __init__(self, *given: Any, steps_of_training: int) -> None:
        super().__init__(*given)
        self._steps_of_training = steps_of_training

    def training_defaults(self, rows: int) -> dict[str, Any]:
        return super().training_defaults(rows) | {"steps": self._steps_of_training}


def _joint(model: Model, rows: int) -> NDArray[np.float64]:
    """P(D, A) counted in draws of the model."""
    table = model.draw_samples(rows, variables=["D", "A"], seed=7).table
    code = 3 * table["D"].to_numpy(dtype=np.int64) + table["A"].to_numpy(dtype=np.int64)
    return (np.bincount(code, minlength=6) / rows).reshape(2, 3)


def _without_flips(size: _Size, seed: int, *, judged: bool) -> Findings:
    """Variant in which the picture determines D: a model without a confounder fits as well and answers naively."""
    scm = FrontDoor(size.resolution, flip=0.0)
    truth = scm.exact()
    drawn, fresh = scm.sample(size.rows, seed=seed), scm.sample(size.rows, seed=seed + 500)
    data = Dataset(drawn.table, images={"I": drawn.images}, name="d1")
    # the mechanism of the picture is not needed
    config = TrainConfig(max_steps=size.variant_steps or size.max_steps)
    row = partial(Result, "frontdoor, without flips", group=_UNDETERMINED)
    results = []

    def compared(source: str, given: int | None, answer: NDArray[np.float64]) -> None:
        far = mean(tv_distance(truth.do[d], answer[d]) for d in (0, 1))
        for _, quantity, value, *_ in _cells(answer):
            results.append(row(source, given, quantity=quantity, value=value))
        results.append(row(source, given, quantity="TVD of P(A | do(D))", value=far))

    compared("exact", None, truth.do)
    losses = {}
    for name, text in (("with a confounder", GRAPH), ("without one", "D -> I -> A")):
        model = _without_picture(text, data, config, seed)
        losses[name] = _negative_log_likelihood(model.dcm, fresh.table, fresh.images)
        compared(name, seed, np.stack([on_real_pictures(model, scm, d, 10 * size.draws, seed) for d in (0, 1)]))
        results.append(row(name, seed, quantity="loss of fresh rows, nats", value=float(np.mean(losses[name]))))
    compared("naive", None, truth.conditional)
    gap = float(np.mean(losses["without one"] - losses["with a confounder"]))
    results.append(row("with a confounder", seed, quantity=_GAP, value=gap))
    note = "the data do not tell the two models apart, and so do not determine the effect"
    return Findings(
        results=results,
        criteria=hold(
            results, [_GAP], {"first": _GAP_LIMIT}, method="with a confounder", unit="nats per row", note=note,
            judged=judged,
        ),
        captions={
            _UNDETERMINED: "Real pictures put in. If the picture shows D for certain, the model without a confounder "
            "fits as well and gives the naive answer; that with one gives some answer, and no data could say which is "
            "right.",
        },
    )  # fmt: skip


def _without_picture(text: str, data: Dataset, config: TrainConfig, seed: int) -> Model:
    """Train a model with a frozen stand-in for the picture, since only D and A matter."""
    shape = tuple(int(size) for size in data.images["I"].shape[1:])

    def blank(parents: Mapping[str, Tensor]) -> Tensor:
        return torch.zeros(len(parents["D"]), *shape)

    return fit(text, data, mechanisms={"I": Pretrained(blank)}, config=config, seed=seed)


def _negative_log_likelihood(dcm: DCM, table: pd.DataFrame, images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Negative log-likelihood of D and A given the picture, in nats, for each row."""
    mechanisms = {name: dcm.mechanism(name) for name in ("D", "A")}
    latents = {name: dcm.latents[name] for name in mechanisms}
    likelihood = ComponentLikelihood(mechanisms, latents, list(dcm.priors))
    losses = []
    with torch.no_grad():
        for start in range(0, len(table), 1024):
            part = table.iloc[start : start + 1024]
            values = {name: torch.tensor(part[name].to_numpy(dtype=np.int64)) for name in ("D", "A")}
            values["I"] = torch.from_numpy(images[start : start + 1024])
            losses.append(-likelihood(ComponentRows.build(mechanisms, values, share=False)))
    return torch.cat(losses).double().numpy()


EXPERIMENT = Experiment(
    name="frontdoor",
    title="The front door through a picture",
    section="5.2 and F.2",
    summary="D decides which handwritten digit a picture shows, and the picture decides A; D and A have a hidden "
    "common cause. Four ways of training answer what A would be if D were set.",
    paper="Curves only: training module by module is ahead of training all at once on a representation, and that of "
    "training all at once on pixels, in P(D, A) and in P(A | do(D)).",
    sizes={"full": asdict(_FULL), "fast": asdict(_FAST)},
    run=_run,
    methods=("auto", "adversarial", "joint", "joint-rep"),
    resolutions=(8, 16, 32),
)
