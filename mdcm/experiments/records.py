"""What an experiment is, what it is asked for, and what comes out of it, as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mdcm.progress import Stages
from mdcm.report.page import Chart, Photo, Picture, Table

__all__ = ["METHODS", "Bar", "Experiment", "Findings", "Request"]

METHODS = ("auto", "adversarial", "joint", "joint-rep")


@dataclass(frozen=True)
class Bar:
    """A number that was measured, and what it has to reach.

    Attributes:
        what: What was measured.
        value: The number; not finite where it could not be measured, and then the bar is missed.
        limit: What it must not exceed, or must reach.
        relation: Which of the two.
        unit: Unit of both.
        judged: Whether missing it makes the experiment fail. A bar that only the full size can be held to is shown in
            a fast run, but not judged.
        note: How it came about.
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
        """Whether the number is on the right side of the limit."""
        if not math.isfinite(self.value):
            return False
        return self.value <= self.limit if self.relation == "<=" else self.value >= self.limit

    def to_json(self) -> dict[str, Any]:
        """Plain values, whether it is met among them."""
        value = self.value if math.isfinite(self.value) else None
        return {**asdict(self), "value": value, "met": self.met}


@dataclass
class Findings:
    """What an experiment found out.

    Attributes:
        bars: Numbers that have something to reach.
        charts: Curves.
        tables: Numbers side by side.
        pictures: Graphs and plans.
        photos: Generated pictures, and real ones beside them.
        notes: Sentences that have to be said beside the numbers.
        numbers: Everything else as plain JSON values.
    """

    bars: list[Bar] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    photos: list[Photo] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)

    def extend(self, other: Findings) -> None:
        """Add what another part of the experiment found."""
        for name in ("bars", "charts", "tables", "pictures", "photos", "notes"):
            getattr(self, name).extend(getattr(other, name))
        self.numbers.update(other.numbers)


@dataclass(frozen=True)
class Request:
    """What an experiment is asked for.

    Attributes:
        fast: The small size.
        seeds: Seeds of data and training.
        methods: Ways of training that are compared.
        data: Directory of real data, where the experiment takes any.
        mnist: Directory of the MNIST files, where the experiment shows digits.
        mechanisms: Constructors of mechanisms by variable, where the experiment takes any.
        resolution: Height and width of pictures, where not that of the size.
        stages: Told what is under way.
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
    """One experiment of the paper, or one that it lacks.

    Attributes:
        name: Name of the command.
        title: What is done, in a few words.
        section: Where the paper has it; empty where it does not.
        summary: What is done, and why.
        paper: What the paper reports.
        sizes: Settings of the two sizes, "full" and "fast".
        run: The experiment.
        seeds: Seeds of the two sizes.
        methods: Ways of training that it compares; none where nothing is trained.
        data: What a directory of real data has to hold; empty where it takes none.
        digits: Whether it shows handwritten digits, which may be MNIST's.
        mechanisms: Variables whose mechanism may be given.
        resolutions: Heights and widths of pictures that may be asked for.

    Example:
        >>> def run(request):
        ...     return Findings(bars=[Bar("one", 1.0, 2.0)])
        >>> Experiment("one", "One", "", "", "", {}, run).run(Request()).bars[0].met
        True
    """

    name: str
    title: str
    section: str
    summary: str
    paper: str
    sizes: Mapping[str, Any]
    run: Callable[[Request], Findings]
    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"full": (0, 1, 2), "fast": (0,)})
    methods: tuple[str, ...] = ()
    data: str = ""
    digits: bool = False
    mechanisms: tuple[str, ...] = ()
    resolutions: tuple[int, ...] = ()
