"""The front door through a picture as a demo: one training, its answers and its pictures."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from mdcm.data import Dataset
from mdcm.errors import CheckpointError
from mdcm.experiments.digits import COLOURS, train_judge
from mdcm.experiments.door import GRAPH, FrontDoor
from mdcm.experiments.frontdoor import Judgement, do_image_distance, judge_pictures, on_real_pictures, shares
from mdcm.graph import ADMG
from mdcm.identification import identify
from mdcm.metrics import sampling_floor, tv_distance
from mdcm.model import fit, load
from mdcm.progress import is_terminal
from mdcm.report.image_grid import grid_png
from mdcm.storage.disk import as_path, replacing
from mdcm.storage.run_directory import is_finished, refuse_taken, reserve
from mdcm.text.advice import advice
from mdcm.training.config import TrainConfig

__all__ = ["DemoResult", "render", "run"]

_FILES = {"digits": "digits.png", "plan": "plan.svg", "metrics": "metrics.json"}


@dataclass(frozen=True)
class DemoResult:
    """Results of the demo; distributions over A have one row per value of D.

    Attributes:
        resolution: Height and width of the pictures.
        rows: Rows of training data.
        draws: Pictures generated per value of D.
        seed: Seed of data, training and sampling.
        flip: Probability that the mechanism of I shows the other digit.
        truth: P(A | do(D)), exact.
        model: P(A | do(D)) of the model, through generated pictures.
        stderr: Monte-Carlo standard error of ``model``.
        model_on_real: The same through real pictures.
        naive: P(A | D), counted in the data.
        floor: Sampling floor of the truth: expected distance of a sample of as many rows from P(A | do(D)).
        tvd: Distance of each answer to the truth, for either value of D.
        tvd_do_image: Mean distance of the model's P(A | do(I = picture)) to the truth, over real pictures.
        judged: Judgements of the classifier under do(D = 0) and do(D = 1).
        judge_digits: Accuracy of the classifier on held-out real digits.
        judge_colours: Its accuracy on their colours.
        seconds: Time of each stage.
        files: Written files, by name.
    """

    resolution: int
    rows: int
    draws: int
    seed: int
    flip: float
    truth: list[list[float]]
    model: list[list[float]]
    stderr: list[list[float]]
    model_on_real: list[list[float]]
    naive: list[list[float]]
    floor: list[float]
    tvd: dict[str, list[float]]
    tvd_do_image: float
    judged: list[Judgement]
    judge_digits: float
    judge_colours: float
    seconds: dict[str, float]
    files: dict[str, str]

    def to_json(self) -> str:
        """Everything as JSON text."""
        return json.dumps(asdict(self), indent=1)


@dataclass(frozen=True)
class _Size:
    """Size of a run.

    Attributes:
        rows: Rows of training data.
        draws: Pictures generated per value of D, for answers, judgements and display.
        real_draws: Real pictures per value of D.
        pictures: Number of real pictures for P(A | do(I = picture)), and draws of A for each.
        judge_steps: Training steps of the classifier.
        config: Settings of the training.
    """

    rows: int
    draws: int
    real_draws: int
    pictures: tuple[int, int]
    judge_steps: int
    config: TrainConfig = field(default_factory=TrainConfig)


_FULL = _Size(rows=40_000, draws=20_000, real_draws=200_000, pictures=(12, 4_000), judge_steps=1_500)
_FAST = _Size(
    rows=2_000, draws=200, real_draws=2_000, pictures=(2, 500), judge_steps=60, config=TrainConfig(max_steps=60)
)
_COLUMNS, _SHOWN = 16, 48


def run(
    out: str | Path,
    *,
    fast: bool = False,
    seed: int = 0,
    resolution: int = 16,
    resume: bool = False,
    force: bool = False,
    progress: bool = False,
) -> DemoResult:
    """Train a model of D -> I -> A, D <-> A on pictures of digits, and compare its answers with the truth.

    Args:
        out: Directory for ``digits.png``, ``plan.svg``, ``metrics.json`` and the trained model in ``model/``.
        fast: Whether to make a small run that only shows that everything works.
        seed: Seed of everything random.
        resolution: Height and width of the pictures, a multiple of 8.
        resume: Whether to continue an unfinished training in ``out``, or use its finished model.
        force: Whether to replace files of an earlier run of the demo in ``out``.
        progress: Whether to show the progress on a terminal.

    Returns:
        Answers, truth and distances.

    Raises:
        MdcmError: If scikit-learn or pillow is not installed.
        CheckpointError: If ``out`` holds an earlier run, or a file of a name that the demo writes, and neither
            ``resume`` nor ``force`` is given; or if ``out/model`` holds anything but a model of the demo.
    """
    size = _FAST if fast else _FULL
    out = as_path(out)
    clock = _Clock(progress)
    with clock.stage("data", "drawing data"):
        # fails before the training if pillow is missing
        grid_png({"": np.zeros((1, 3, 8, 8), dtype=np.uint8)})
        _refuse_taken(out, spared=not resume and not force)
        scm = FrontDoor(resolution)
        truth = scm.exact()
        data = scm.sample(size.rows, seed=seed)
    with clock.stage("training"):
        dataset = Dataset(data.table, images={"I": data.images}, name="digits")
        model = fit(
            GRAPH, dataset, config=size.config, seed=seed, out=out / "model", resume=resume, force=force,
            progress=progress,
        )  # fmt: skip
    with clock.stage("sampling", "drawing pictures under do(D=0) and do(D=1)"):
        drawn = [model.draw_samples(size.draws, do={"D": d}, seed=seed) for d in (0, 1)]
    with clock.stage("real pictures", "putting real pictures in"):
        on_real = np.stack([on_real_pictures(model, scm, d, size.real_draws, seed) for d in (0, 1)])
        tvd_do_image = do_image_distance(model, scm, *size.pictures, seed)
    with clock.stage("judging", "training a classifier to judge the pictures"):
        judge = train_judge(resolution, steps=size.judge_steps)
        judged = [judge_pictures(judge, samples.images["I"], d) for d, samples in enumerate(drawn)]
    answers = {
        "model": np.stack([shares(samples.table["A"]) for samples in drawn]),
        "model_on_real": on_real,
        "naive": np.stack([shares(data.table["A"][data.table["D"] == d]) for d in (0, 1)]),
    }
    files = {name: str(out / file) for name, file in _FILES.items()}
    result = DemoResult(
        resolution=resolution,
        rows=size.rows,
        draws=size.draws,
        seed=seed,
        flip=scm.flip,
        truth=truth.do.tolist(),
        model=answers["model"].tolist(),
        stderr=np.sqrt(answers["model"] * (1 - answers["model"]) / size.draws).tolist(),
        model_on_real=answers["model_on_real"].tolist(),
        naive=answers["naive"].tolist(),
        floor=[sampling_floor(row, size.rows) for row in truth.do],
        tvd={name: [tv_distance(truth.do[d], table[d]) for d in (0, 1)] for name, table in answers.items()},
        tvd_do_image=tvd_do_image,
        judged=judged,
        judge_digits=judge.digit_accuracy,
        judge_colours=judge.colour_accuracy,
        seconds=clock.seconds,
        files=files,
    )
    sections = {}
    for d, samples in enumerate(drawn):
        sections[f"do(D={d}): drawn from the model"] = samples.images["I"][:_SHOWN]
        real = scm.sample_images(np.full(_COLUMNS, d), seed=seed)
        sections[f"do(D={d}): real ones; there too one in ten shows the other digit"] = real
    contents = {
        "digits": grid_png(sections, columns=_COLUMNS),
        "plan": model.plan.to_svg().encode(),
        "metrics": result.to_json().encode(),
    }
    for name, content in contents.items():
        with replacing(files[name], follow=False) as stream:
            stream.write(content)
    return result


def _refuse_taken(out: Path, *, spared: bool) -> None:
    """Refuse to replace files of other programs, and without ``force`` those of the demo too."""
    if spared:
        refuse_taken(out / "model")
        for name in _FILES.values():
            if (out / name).exists():
                raise CheckpointError(
                    f"{out / name} exists and would be replaced: {advice('force=True', '--force')} replaces it, "
                    f"{advice('or give another directory', 'or --out names another directory')}",
                    path=str(out / name),
                )
    elif is_finished(out / "model") and load(out / "model").graph != ADMG.of(GRAPH):
        raise CheckpointError(
            f"{out / 'model'} holds a run of another graph, which is none of the demo; nothing was written, give "
            "another directory",
            path=str(out / "model"),
        )
    reserve(out / "model")


class _Clock:
    """Timer of the stages, which shows the current one on a terminal."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown and is_terminal(sys.stderr)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, doing: str = "") -> Iterator[None]:
        began = time.monotonic()
        with ExitStack() as stack:
            if self._shown and doing:
                from rich.console import Console

                stack.enter_context(Console(stderr=True).status(doing))
            yield
        self.seconds[name] = round(time.monotonic() - began, 1)


def render(result: DemoResult) -> str:
    """Render the results as text for a terminal.

    Args:
        result: DemoResult of :func:`run`.
    """
    lines = [
        f"{GRAPH}, where I is a picture of a handwritten digit, {result.resolution} x {result.resolution} pixels;",
        f"learned from {result.rows:,} rows in which D and A share a hidden cause.",
        "",
        f"{'P(A | do(D))':<32}{'D=0':^23} {'D=1':^23} {'distance to truth':^19}",
        f"{'':<32}{'':1}{'   '.join(f'A={a}' for a in range(3)):^22} {'   '.join(f'A={a}' for a in range(3)):^23}"
        f" {'D=0':^9} {'D=1':^9}",
    ]

    def row(name: str, table: list[list[float]], distances: list[float] | None) -> str:
        cells = "  ".join(" ".join(f"{p:7.3f}" for p in values) for values in table)
        ends = "" if distances is None else "".join(f"{x:10.4f}" for x in distances)
        return f"{name:<30}{cells} {ends}".rstrip()

    lines += [
        row("exact truth", result.truth, None),
        row("model", result.model, result.tvd["model"]),
        row("model, real pictures put in", result.model_on_real, result.tvd["model_on_real"]),
        row("naive: P(A | D) of the data", result.naive, result.tvd["naive"]),
        f"{f'sampling floor, {result.rows:,} rows':<79}" + "".join(f"{x:10.4f}" for x in result.floor),
        "",
        _direction(result),
        f"P(A | do(I = picture)) misses the truth by {result.tvd_do_image:.3f} on average over real pictures.",
        "",
    ]
    for d, seen in enumerate(result.judged):
        named = ", ".join(f"{name} {share:.3f}" for name, share in zip(COLOURS, seen.colours, strict=True))
        lines.append(
            f"Pictures under do(D={d}): digit {d} {seen.intended:.3f} (mechanism {1 - result.flip:.3f}), "
            f"digit {1 - d} {seen.flipped:.3f} ({result.flip:.3f}), neither {seen.neither:.3f}; {named}."
        )
    lines += [
        f"The judge of the pictures is a classifier trained apart; it names {result.judge_digits:.1%} of held-out real "
        "digits correctly.",
        "",
        f"{sum(result.seconds.values()):.0f} s: " + ", ".join(f"{k} {v:.0f}" for k, v in result.seconds.items()) + ".",
        f"The graph determines the answer: {identify(GRAPH, 'P(A | do(D))')}.",
        "The naive P(A | D) is another quantity.",
        "",
        *(f"{name:<8} {path}" for name, path in result.files.items()),
    ]
    return "\n".join(lines)


def _direction(result: DemoResult) -> str:
    effect, naive = (table[1][2] - table[0][2] for table in (result.model, result.naive))
    exact = result.truth[1][2] - result.truth[0][2]
    verdict = "even the sign is wrong" if naive * exact < 0 else "the sign is right"
    return (
        f"Setting D from 0 to 1 changes P(A=2) by {exact:+.3f}; the model says {effect:+.3f}, the naive answer "
        f"{naive:+.3f} ({verdict})."
    )
