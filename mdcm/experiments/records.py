"""Records of an experiment: its description, its arguments, and its results as rows of one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from mdcm.progress import Stages
from mdcm.report.page import Chart, Photo, Picture, Table

__all__ = [
    "ANSWERS",
    "COST",
    "FITTED",
    "METHODS",
    "Criterion",
    "Experiment",
    "ExperimentRequest",
    "Findings",
    "Over",
    "Result",
    "hold",
    "select",
    "summary",
]

METHODS = ("auto", "adversarial", "joint", "joint-rep")
# groups of quantities that most experiments have; the last quantity of the first group stands for all of them
FITTED, ANSWERS, COST = "Fitted distributions", "Answers", "What it took"

Over = Literal["first", "mean", "worst"]
Relation = Literal["<=", ">="]


@dataclass(frozen=True)
class Result:
    """A measured quantity: one row of the table of all results.

    Attributes:
        experiment: Name of the experiment, followed by that of the problem if it has several.
        method: Method of training, or another source of the value such as "plug-in estimate".
        seed: Seed of data and training; None if the value depends on none.
        group: Title of the table that shows the quantity.
        quantity: Name of the quantity.
        value: Measured value; NaN if it could not be measured.
        floor: Expected value for the best estimate from the same number of rows; None if it is unknown.
        limit: Limit of the quantity; None if no criterion sets one.
        seconds: Wall-clock time of the training; None without a training.
    """

    experiment: str
    method: str
    seed: int | None
    group: str
    quantity: str
    value: float
    floor: float | None = None
    limit: float | None = None
    seconds: float | None = None

    @property
    def problem(self) -> str:
        """Name of the problem; empty if the experiment has a single one."""
        return self.experiment.partition(", ")[2]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without those that are None; a value that is not finite is null."""
        row = {name: value for name, value in asdict(self).items() if value is not None}
        return row if math.isfinite(self.value) else {**row, "value": None}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Result:
        """Read a row of metrics.json."""
        return cls(**{"seed": None, **row, "value": math.nan if row["value"] is None else row["value"]})


def select(results: Iterable[Result], **fields: Any) -> list[Result]:
    """Results whose fields have the given values.

    Example:
        >>> results = [Result("asia", "auto", seed, ANSWERS, "P(Y)", 0.1) for seed in (0, 1)]
        >>> [result.seed for result in select(results, seed=1)]
        [1]
    """
    return [result for result in results if all(getattr(result, name) == value for name, value in fields.items())]


def summary(results: Sequence[Result], over: Over, relation: Relation = "<=") -> float:
    """Value of the results of several seeds: of the first one, their mean, or the farthest on the wrong side.

    Where the floor depends on the seed, the worst result is the largest multiple of its floor.
    """
    if over == "mean":
        return mean(result.value for result in results)
    return (results[0] if over == "first" else _worst(results, relation)).value


def _worst(results: Sequence[Result], relation: Relation) -> Result:
    if relation == ">=":
        return min(results, key=lambda result: result.value)
    return max(results, key=lambda result: result.value / (result.floor or 1.0))


@dataclass(frozen=True)
class Criterion:
    """A measured quantity with its limit.

    Attributes:
        quantity: Name of the quantity.
        value: Measured value; if it is not finite, the limit is missed.
        limit: Upper or lower limit.
        relation: "<=" for an upper limit, ">=" for a lower one.
        unit: Unit of both.
        judged: Whether missing the limit makes the experiment fail. A limit for the full size is shown, but not judged,
            in a fast run.
        note: Conditions of the measurement.
        experiment: That of the results.
        method: That of the results.
        over: How the value summarises the results of several seeds, as in :func:`summary`.
    """

    quantity: str
    value: float
    limit: float
    relation: Relation = "<="
    unit: str = "TVD"
    judged: bool = True
    note: str = ""
    experiment: str = ""
    method: str = ""
    over: Over = "first"

    @property
    def what(self) -> str:
        """Method, quantity and problem as text."""
        average = "on average" if self.over == "mean" else ""
        parts = (self.method, self.quantity, average, self.experiment.partition(", ")[2])
        return ", ".join(part for part in parts if part)

    @property
    def met(self) -> bool:
        """Whether the value satisfies the limit."""
        return self.admits(self.value)

    def admits(self, value: float) -> bool:
        """Whether a value satisfies the limit."""
        if not math.isfinite(value):
            return False
        return value <= self.limit if self.relation == "<=" else value >= self.limit

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with ``what`` and ``met``."""
        value = self.value if math.isfinite(self.value) else None
        return {"what": self.what, **asdict(self), "value": value, "met": self.met}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Criterion:
        """Read a criterion of metrics.json."""
        fields = {name: value for name, value in row.items() if name not in {"what", "met"}}
        return cls(**{**fields, "value": math.nan if row["value"] is None else row["value"]})


def hold(
    results: Iterable[Result],
    quantities: Iterable[str],
    limits: Mapping[Over, float],
    *,
    method: str = "auto",
    floor: str = "",
    relation: Relation = "<=",
    unit: str = "TVD",
    judged: bool = True,
    note: str = "",
) -> list[Criterion]:
    """Hold the results of a method to limits; empty for empty results.

    Args:
        results: Results of one problem, or of several that are held to the same limits.
        quantities: Names of the quantities.
        limits: Limit of each summary; a single result is held to the first one.
        method: The method.
        floor: Name of the floor that the limits are multiples of; empty if they are none.
        relation: As in :class:`Criterion`.
        unit: Unit of value and limit.
        judged: Whether missing a limit makes the experiment fail.
        note: Further conditions of the measurement.
    """
    results, criteria = list(results), []
    for quantity in quantities:
        own = select(results, quantity=quantity, method=method)
        if not own:
            continue
        first, *others = dict.fromkeys(row.experiment for row in own)
        experiment = first.partition(", ")[0] if others else first
        # of a single result all summaries are the same
        chosen: Mapping[Over, float] = {"first": next(iter(limits.values()))} if len(own) == 1 else limits
        for over, limit in chosen.items():
            said = [note, _seeds(own, over)]
            if floor:
                said.insert(0, floor if limit == 1 else f"{limit} times the {floor}")
                base = (_worst(own, relation) if over == "worst" else own[0]).floor
                assert base is not None
                limit *= base
            estimates = select(results, quantity=quantity, method="plug-in estimate")
            if over == "mean" and estimates:
                said.append(f"plug-in estimate of the same data {summary(estimates, 'mean'):.4f}")
            value = summary(own, over, relation)
            words = "; ".join(filter(None, said))
            criteria.append(Criterion(quantity, value, limit, relation, unit, judged, words, experiment, method, over))
    return criteria


def _seeds(results: Sequence[Result], over: Over) -> str:
    seeds = [str(result.seed) for result in results if result.seed is not None]
    if not seeds:
        return ""
    if over == "first" or len(seeds) == 1:
        return f"seed {seeds[0]}"
    if over == "worst":
        return f"worst of seeds {', '.join(seeds)}"
    return f"mean over {len(seeds)} seeds, worst {summary(results, 'worst'):.4f}"


@dataclass
class Findings:
    """Results of an experiment.

    Attributes:
        results: All measured quantities.
        criteria: Quantities with limits.
        captions: Explanations of groups of quantities.
        charts: Curves and bar charts.
        tables: Tables of text; those of results follow from ``results``.
        pictures: Drawings of graphs and plans.
        photos: Generated images beside real ones.
        notes: Remarks on the results.
    """

    results: list[Result] = field(default_factory=list)
    criteria: list[Criterion] = field(default_factory=list)
    captions: dict[str, str] = field(default_factory=dict)
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    photos: list[Photo] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def extend(self, other: Findings) -> None:
        """Append the results of another part of the experiment."""
        for name in ("results", "criteria", "charts", "tables", "pictures", "photos", "notes"):
            getattr(self, name).extend(getattr(other, name))
        self.captions.update(other.captions)


@dataclass(frozen=True)
class ExperimentRequest:
    """Arguments of a run of an experiment.

    Attributes:
        fast: Whether to run the small size.
        seeds: Seeds of data and training.
        methods: Methods of training to compare.
        data: Directory of real data, if the experiment takes any.
        mnist: Directory of the MNIST files, if the experiment shows digits.
        mechanisms: Constructors of mechanisms by variable, if the experiment takes any.
        resolution: Height and width of images; None for that of the size.
        stages: Progress display of the stages.
    """

    fast: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = METHODS
    data: Path | None = None
    mnist: Path | None = None
    mechanisms: Mapping[str, Any] = field(default_factory=dict)
    resolution: int | None = None
    stages: Stages = field(default_factory=Stages)


@dataclass(frozen=True)
class Experiment:
    """Description of an experiment, of the paper or our own.

    Attributes:
        name: Name for the command line.
        title: Title.
        section: Section of the paper; empty for our own experiments.
        summary: Purpose and design.
        paper: Result reported in the paper.
        sizes: Settings of the two sizes, "full" and "fast".
        run: The experiment.
        seeds: Seeds of the two sizes.
        methods: Methods of training that it compares; empty if nothing is trained.
        data: Required content of a directory of real data; empty if it takes none.
        digits: Whether it shows handwritten digits, and can use those of MNIST.
        mechanisms: Variables with a mechanism that the user may replace.
        resolutions: Heights and widths of images that the user may choose.

    Example:
        >>> def run(request):
        ...     return Findings(criteria=[Criterion("distance", 1.0, 2.0)])
        >>> Experiment("empty", "Empty", "", "", "", {}, run).run(ExperimentRequest()).criteria[0].met
        True
    """

    name: str
    title: str
    section: str
    summary: str
    paper: str
    sizes: Mapping[str, Any]
    run: Callable[[ExperimentRequest], Findings]
    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"full": (0, 1, 2), "fast": (0,)})
    methods: tuple[str, ...] = ()
    data: str = ""
    digits: bool = False
    mechanisms: tuple[str, ...] = ()
    resolutions: tuple[int, ...] = ()
