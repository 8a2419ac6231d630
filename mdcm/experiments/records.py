"""Records of an experiment: its description, its arguments and its results, as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mdcm.progress import Stages
from mdcm.report.page import Chart, Photo, Picture, Table

__all__ = ["METHODS", "Criterion", "Experiment", "ExperimentRequest", "Findings"]

METHODS = ("auto", "adversarial", "joint", "joint-rep")


@dataclass(frozen=True)
class Criterion:
    """A measured quantity with its limit.

    Attributes:
        what: Name of the quantity.
        value: Measured value; if it is not finite, the limit is missed.
        limit: Upper or lower limit.
        relation: "<=" for an upper limit, ">=" for a lower one.
        unit: Unit of both.
        judged: Whether missing the limit makes the experiment fail. A limit for the full size is shown, but not judged,
            in a fast run.
        note: Conditions of the measurement.
    """

    what: str
    value: float
    limit: float
    relation: Literal["<=", ">="] = "<="
    unit: str = "TVD"
    judged: bool = True
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the value satisfies the limit."""
        if not math.isfinite(self.value):
            return False
        return self.value <= self.limit if self.relation == "<=" else self.value >= self.limit

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with ``met``."""
        value = self.value if math.isfinite(self.value) else None
        return {**asdict(self), "value": value, "met": self.met}


@dataclass
class Findings:
    """Results of an experiment.

    Attributes:
        criteria: Quantities with limits.
        charts: Curves and bar charts.
        tables: Tables.
        pictures: Drawings of graphs and plans.
        photos: Generated images beside real ones.
        notes: Remarks on the results.
        numbers: All other results as plain JSON values.
    """

    criteria: list[Criterion] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    photos: list[Photo] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)

    def extend(self, other: Findings) -> None:
        """Append the results of another part of the experiment."""
        for name in ("criteria", "charts", "tables", "pictures", "photos", "notes"):
            getattr(self, name).extend(getattr(other, name))
        self.numbers.update(other.numbers)


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
