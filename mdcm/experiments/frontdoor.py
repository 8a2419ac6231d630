"""The front door through a picture, sections 5.2 and F.2: four methods of training compared."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdcm.data import Dataset, Schema
from mdcm.dcm import DCM, MechanismFactory
from mdcm.experiments.digits import COLOURS, DigitJudge, train_judge
from mdcm.experiments.door import GRAPH, FrontDoor
from mdcm.experiments.methods import Clock
from mdcm.experiments.records import Criterion, Experiment, ExperimentRequest, Findings
from mdcm.graph import ADMG
from mdcm.identification import identify
from mdcm.mechanisms import Categorical, ImageGenerator, Pretrained, RectifiedFlow
from mdcm.metrics import frechet_distance, kl_divergence, tv_distance
from mdcm.model import Model, fit
from mdcm.planning import Plan, plan
from mdcm.report.image_grid import grid_png
from mdcm.report.page import Chart, Line, Photo, Picture, Table
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.config import TrainConfig
from mdcm.training.objectives.critic_problem import pixels
from mdcm.training.objectives.likelihood import ComponentLikelihood, ComponentRows

__all__ = ["EXPERIMENT", "Judgement", "do_image_distance", "judge_pictures", "on_real_pictures", "shares"]

# limits of total variation distances and shares
_JOINT, _REAL, _GENERATED, _SHOWN = 0.015, 0.015, 0.03, 0.03
_GAP = 0.003
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


@dataclass(frozen=True)
class _Trained:
    """A trained model with measurements of its training."""

    model: Model
    seconds: float
    steps: int
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class _Outcome:
    """A training and its distances to the truth.

    Attributes:
        label: Name of the method.
        seed: Seed of data and training.
        seconds: Wall-clock time of the training.
        steps: Steps of all levels together.
        joint: Distance of P(D, A), and its divergence in nats.
        real: Distance of P(A | do(D = d)) through real pictures, for both d.
        generated: The same through generated pictures.
        do_image: Mean distance of P(A | do(I = picture)).
        judged: Judgements of the classifier under do(D = 0) and do(D = 1).
        frechet: Fréchet distance of the pictures to real ones in the classifier's features.
        answer: P(A | do(D = d)), row d.
        curve: Seconds and distance of P(D, A) during the training.
        shown: Some pictures under do(D = 0) and do(D = 1).
    """

    label: str
    seed: int
    seconds: float
    steps: int
    joint: tuple[float, float]
    real: tuple[float, float]
    generated: tuple[float, float]
    do_image: float
    judged: tuple[Judgement, Judgement]
    frechet: float
    answer: NDArray[np.float64]
    curve: tuple[tuple[float, float], ...]
    shown: tuple[NDArray[np.uint8], NDArray[np.uint8]]

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the pictures."""
        plain = {**asdict(self), "answer": self.answer.tolist(), "curve": [list(point) for point in self.curve]}
        del plain["shown"]
        return plain


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
    study = _Study(scm, size, judge, request)
    study.run()
    findings = study.findings()
    if "auto" in request.methods:
        with request.stages.stage("without flips"):
            findings.extend(_without_flips(size, request.seeds[0], judged=not request.fast))
    return findings


class _Study:
    """All methods on the same data."""

    def __init__(self, scm: FrontDoor, size: _Size, judge: DigitJudge, request: ExperimentRequest) -> None:
        self.scm, self.size, self.judge, self.request = scm, size, judge, request
        self.truth = scm.exact()
        self.outcomes: list[_Outcome] = []
        self.plans: dict[str, Plan] = {}

    def run(self) -> None:
        """Train all methods and measure their distances."""
        first = self.request.seeds[0]
        # likelihood takes minutes; the slower methods run with a single seed
        runs = [(method, seed) for method in self.request.methods for seed in self.request.seeds]
        runs = [(method, seed) for method, seed in runs if method == "auto" or seed == first]
        self.request.stages.expect(2 * len(runs) + 2)
        for method, seed in runs:
            drawn = self.scm.sample(self.size.rows, seed=seed)
            data = Dataset(drawn.table, images={"I": drawn.images}, name="d1")
            with self.request.stages.stage(f"training {method}"):
                trained = self._train(method, data, seed)
            with self.request.stages.stage(f"judging {method}"):
                self.outcomes.append(self._judged(method, seed, trained))
            rival = next((outcome for outcome in self.outcomes if outcome.label == "adversarial"), None)
            if method.startswith("joint") and rival is not None and not self.request.fast:
                share = min(1.0, rival.seconds / trained.seconds)
                with self.request.stages.stage(f"training {method}, equal time"):
                    trained = self._train(method, data, seed, share=share)
                with self.request.stages.stage(f"judging {method}"):
                    self.outcomes.append(self._judged(f"{method}, equal time", seed, trained))

    def _train(self, method: str, data: Dataset, seed: int, share: float = 1.0) -> _Trained:
        if method == "auto":
            return self._by_likelihood(data, seed)
        graph, joint = ADMG.from_string(GRAPH), method != "adversarial"
        specs, kinds = [data.spec(graph.nodes)], Schema.infer([data]).kinds
        depth = len(plan(graph, specs, objective="adversarial", kinds=kinds).levels)
        steps = max(1, round(share * self.size.steps * (depth if joint else 1)))
        adversarial = AdversarialConfig(
            steps=steps, batch_size=self.size.batch, encoder_steps=self.size.encoder_steps,
            checks=min(self.size.looks, steps),
        )  # fmt: skip
        wide = partial(Categorical, hidden=64)
        mechanisms: dict[str, MechanismFactory] = {"D": wide, "A": wide, "I": ImageGenerator}
        clock = Clock(self._distance)
        model = fit(
            graph,
            data,
            objective="adversarial",
            method="joint" if joint else "minimal",
            mechanisms=mechanisms,
            config=TrainConfig(confounder_states=8, adversarial=adversarial),
            seed=seed,
            device="cpu",
            readers={"I": pixels} if method == "joint" else None,
            on_validation=clock.look,
        )
        self.plans[method] = model.plan
        return _Trained(model, clock.elapsed(), steps * len(model.plan.levels), tuple(clock.curve))

    def _by_likelihood(self, data: Dataset, seed: int) -> _Trained:
        curve = []
        if seed == self.request.seeds[0]:
            for length in self.size.lengths:
                began = time.monotonic()
                short = fit(GRAPH, data, config=TrainConfig(max_steps=length), seed=seed)
                curve.append((time.monotonic() - began, self._distance(short)))
        began = time.monotonic()
        longer = self.size.picture_steps
        mechanisms = None if longer is None else {"I": partial(_Patient, steps_of_training=longer)}
        model = fit(GRAPH, data, mechanisms=mechanisms, config=TrainConfig(max_steps=self.size.max_steps), seed=seed)
        seconds = time.monotonic() - began
        self.plans["auto"] = model.plan
        curve.append((seconds, self._distance(model)))
        steps = sum(record["steps"] for record in model.history if record["event"] == "trained")
        return _Trained(model, seconds, steps, tuple(sorted(curve)))

    def _distance(self, model: Model) -> float:
        """Distance of P(D, A) during the training, from a few rows."""
        return tv_distance(self.truth.joint, _joint(model, self.size.look_rows))

    def _judged(self, label: str, seed: int, trained: _Trained) -> _Outcome:
        size, model, scm = self.size, trained.model, self.scm
        drawn = [model.draw_samples(size.draws, do={"D": d}, seed=seed) for d in (0, 1)]
        joint_shares = _joint(model, size.draws)
        real = [on_real_pictures(model, scm, d, 10 * size.draws, seed) for d in (0, 1)]
        answer = np.stack([shares(samples.table["A"]) for samples in drawn])
        pictures = [samples.images["I"] for samples in drawn]
        like = np.concatenate([
            scm.sample_images(np.full(len(images), d), seed=seed) for d, images in enumerate(pictures)
        ])  # fmt: skip
        frechet = frechet_distance(self.judge.describe(np.concatenate(pictures)), self.judge.describe(like))
        first, second = (judge_pictures(self.judge, images, d) for d, images in enumerate(pictures))
        joint = (tv_distance(self.truth.joint, joint_shares), kl_divergence(self.truth.joint, joint_shares))
        return _Outcome(
            label, seed, trained.seconds, trained.steps, joint,
            _pair(tv_distance(self.truth.do[d], real[d]) for d in (0, 1)),
            _pair(tv_distance(self.truth.do[d], answer[d]) for d in (0, 1)),
            do_image_distance(model, scm, *size.pictures, seed), (first, second), frechet, answer, trained.curve,
            (pictures[0][:_COLUMNS], pictures[1][:_COLUMNS]),
        )  # fmt: skip

    # ---- reporting

    def _of(self, label: str) -> list[_Outcome]:
        return [outcome for outcome in self.outcomes if outcome.label == label]

    def findings(self) -> Findings:
        """Criteria, curves, tables and pictures."""
        return Findings(
            criteria=self._criteria(), charts=[self._curves(), self._effects()],
            tables=[self._answers(), self._pictures()],
            pictures=self._drawings(), photos=[self._photo()],
            notes=[
                f"Pictures have {self.size.resolution} x {self.size.resolution} pixels. The full size of the paper's "
                "comparison is hours of training against critics; what is shown is how far each way comes in minutes.",
                "Against critics, the picture's mechanism is a convolutional generator. The modular and the first "
                "joint method compare pixels; joint-rep compares a representation that was trained beforehand to tell "
                "D and A from the picture, and so has no reason to make pictures that look real. All have the same "
                "networks and steps: as many for all variables at once as for the levels of the modular plan together.",
                "Methods with critics are trained at the first seed only; distances on the way are from "
                f"{self.size.look_rows:,} rows, and their time is not counted.",
            ],
            numbers={"outcomes": [outcome.to_json() for outcome in self.outcomes], "truth": self.truth.do.tolist()},
        )  # fmt: skip

    def _criteria(self) -> list[Criterion]:
        runs = self._of("auto")
        if not runs:
            return []
        note = f"mean over {len(runs)} seeds" if len(runs) > 1 else f"seed {runs[0].seed}"

        def criterion(what: str, values: Sequence[float], limit: float, unit: str = "TVD") -> Criterion:
            worst = f", worst {max(values):.4f}" if len(values) > 1 else ""
            judged = not self.request.fast
            return Criterion(f"auto, {what}", mean(values), limit, unit=unit, note=note + worst, judged=judged)

        flip = self.scm.flip
        digits = [max(max(abs(j.intended - 1 + flip), abs(j.flipped - flip)) for j in run.judged) for run in runs]
        colours = [max(max(abs(share - 1 / 3) for share in j.colours) for j in run.judged) for run in runs]
        criteria = [criterion("P(D, A)", [run.joint[0] for run in runs], _JOINT)]
        for d in (0, 1):
            criteria.append(criterion(f"P(A | do(D={d})) with real pictures", [run.real[d] for run in runs], _REAL))
            criteria.append(criterion(f"P(A | do(D={d})) with its own", [run.generated[d] for run in runs], _GENERATED))
        criteria.append(criterion("share of each digit against the mechanism", digits, _SHOWN, "share"))
        criteria.append(criterion("share of each colour against the mechanism", colours, _SHOWN, "share"))
        return criteria

    def _curves(self) -> Chart:
        first = self.request.seeds[0]
        runs = [outcome for outcome in self.outcomes if outcome.seed == first and "equal" not in outcome.label]
        lines = [Line(run.label, [x for x, _ in run.curve], [y for _, y in run.curve]) for run in runs]
        ends = "; ".join(f"{line.label} ends at {line.y[-1]:.4f} after {line.x[-1]:.0f} s" for line in lines)
        return Chart(
            "Distance of P(D, A) to the truth while it is learned", "seconds of training", "TVD to the truth", lines,
            f"Distance against time, one line per method: {ends}.", log_x=True, log_y=True,
        )  # fmt: skip

    def _effects(self) -> Chart:
        first = [outcome for outcome in self.outcomes if outcome.seed == self.request.seeds[0]]
        names = [f"P(A={a} | do(D={d}))" for d in (0, 1) for a in range(3)]
        lines = [Line("exact", names, self.truth.do.ravel().tolist())]
        lines += [Line(run.label, names, run.answer.ravel().tolist()) for run in first if "equal" not in run.label]
        lines.append(Line("naive: P(A | D)", names, self.truth.conditional.ravel().tolist()))
        return Chart(
            "The effect of D", "", "probability", lines,
            "; ".join(f"{line.label} {', '.join(f'{y:.3f}' for y in line.y)}" for line in lines) + ".", kind="bars",
        )  # fmt: skip

    def _answers(self) -> Table:
        rows: list[list[Any]] = []
        for label in dict.fromkeys(outcome.label for outcome in self.outcomes):
            runs = self._of(label)
            rows.append([
                label, *(mean(run.joint[k] for run in runs) for k in (0, 1)),
                *(mean(run.real[d] for run in runs) for d in (0, 1)),
                *(mean(run.generated[d] for run in runs) for d in (0, 1)), mean(run.do_image for run in runs),
                mean(run.steps for run in runs), mean(run.seconds for run in runs),
            ])  # fmt: skip
        naive = [tv_distance(self.truth.do[d], self.truth.conditional[d]) for d in (0, 1)]
        rows.append(["naive", None, None, None, None, *naive, None, None, None])
        return Table(
            "Distances to the truth",
            ["method", "P(D,A)", "KL, nats", "do(D=0), real", "do(D=1), real", "do(D=0)", "do(D=1)", "do(I)", "steps",
             "seconds"],
            rows, "TVD of P(A | ...), with real pictures put in or with those that the model makes; "
            f"{self.size.rows:,} rows, one thread.",
        )  # fmt: skip

    def _pictures(self) -> Table:
        rows: list[list[Any]] = []
        for label in dict.fromkeys(outcome.label for outcome in self.outcomes):
            for d in (0, 1):
                seen = [outcome.judged[d] for outcome in self._of(label)]
                rows.append([
                    f"{label}, do(D={d})", *(mean(getattr(judged, share) for judged in seen)
                                             for share in ("intended", "flipped", "neither")),
                    *(mean(judged.colours[k] for judged in seen) for k in range(3)),
                    mean(outcome.frechet for outcome in self._of(label)),
                ])  # fmt: skip
        flip = self.scm.flip
        rows.append(["the mechanism", 1 - flip, flip, 0.0, 1 / 3, 1 / 3, 1 / 3, 0.0])
        return Table(
            "What the pictures show", ["", "digit D", "the other", "neither", *COLOURS, "Fréchet distance"], rows,
            f"By a classifier trained apart, which names {self.judge.digit_accuracy:.1%} of held-out real digits and "
            f"{self.judge.colour_accuracy:.1%} of colours correctly; the distance is one of its features.",
        )  # fmt: skip

    def _photo(self) -> Photo:
        sections = {}
        for outcome in self.outcomes:
            if outcome.seed == self.request.seeds[0] and "equal" not in outcome.label:
                for d in (0, 1):
                    sections[f"{_NAMES[outcome.label]}: do(D={d})"] = outcome.shown[d]
        for d in (0, 1):
            real = self.scm.sample_images(np.full(_COLUMNS, d), seed=self.request.seeds[0])
            sections[f"real pictures: do(D={d}), where one in ten shows the other digit"] = real
        return Photo(
            "Pictures under do(D)", grid_png(sections, columns=_COLUMNS),
            "Rows of digits that each method generates with D set to 0 and to 1, and real ones below them.",
        )  # fmt: skip

    def _drawings(self) -> list[Picture]:
        marked = identify(GRAPH, "P(A | do(D))")
        drawn = [Picture("The graph", marked.to_svg(), f"{GRAPH}. P(A | do(D)) = {marked.estimand}.")]
        for method, made in self.plans.items():
            parts = "; ".join("{" + ", ".join(hnode.variables) + "}" for hnode in made.hnodes)
            drawn.append(Picture(f"The plan, {method}", made.to_svg(), f"{len(made.hnodes)} h-nodes: {parts}."))
        return drawn


class _Patient(RectifiedFlow):
    """A rectified flow trained longer than the default: 2 % fewer pictures show neither digit."""

    def __init__(self, *given: Any, steps_of_training: int) -> None:
        super().__init__(*given)
        self._steps_of_training = steps_of_training

    def training_defaults(self, rows: int) -> dict[str, Any]:
        return super().training_defaults(rows) | {"steps": self._steps_of_training}


def _pair(values: Any) -> tuple[float, float]:
    first, second = values
    return float(first), float(second)


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
    losses, answers = {}, {}
    for name, text in (("with a confounder", GRAPH), ("without one", "D -> I -> A")):
        model = _without_picture(text, data, config, seed)
        losses[name] = _negative_log_likelihood(model.dcm, fresh.table, fresh.images)
        answers[name] = np.stack([on_real_pictures(model, scm, d, 10 * size.draws, seed) for d in (0, 1)])
    gap = float(np.mean(losses["without one"] - losses["with a confounder"]))
    rows: list[list[Any]] = [["exact", *truth.do.ravel().tolist(), 0.0, None]]
    for name, answer in answers.items():
        far = mean(tv_distance(truth.do[d], answer[d]) for d in (0, 1))
        rows.append([name, *answer.ravel().tolist(), far, float(np.mean(losses[name]))])
    far = mean(tv_distance(truth.do[d], truth.conditional[d]) for d in (0, 1))
    rows.append(["naive: P(A | D)", *truth.conditional.ravel().tolist(), far, None])
    names = [f"A={a}, D={d}" for d in (0, 1) for a in range(3)]
    return Findings(
        criteria=[Criterion(
            "without flips: what a confounder adds to the likelihood of fresh rows", gap, _GAP, unit="nats per row",
            note="the data do not tell the two models apart, and so do not determine the effect", judged=judged,
        )],
        tables=[Table(
            "Without flips: P(A | do(D)) is not determined", ["", *names, "TVD", "loss, nats"], rows,
            "Real pictures put in. If the picture shows D for certain, the model without a confounder fits as well and "
            "gives the naive answer; that with one gives some answer, and no data could say which is right.",
        )],
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
