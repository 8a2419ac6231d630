"""Report of a trained model: an HTML page with fits, training, answers and samples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mdcm.checking import Check, check, statement
from mdcm.data import Dataset, encode, validate
from mdcm.errors import LowSupportError, MdcmError, NotIdentifiableError
from mdcm.identification.picture import draw
from mdcm.progress import Stages
from mdcm.query import Expression, parse
from mdcm.report import page
from mdcm.report.image_grid import NO_PICTURES, can_draw_pictures, grid_png
from mdcm.storage.disk import as_path
from mdcm.storage.run_directory import replacing
from mdcm.text.advice import warn
from mdcm.text.limits import seeded
from mdcm.text.printable import escaped
from mdcm.training.fit_warnings import poor_fit_warnings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.model import Answer, Model

__all__ = ["Comparison", "compare", "write_report"]

_MAX_ROWS = 20_000
# smaller for images, which are slow to generate
_MAX_IMAGE_ROWS = 1_000
_BINS = 5
# largest number of cells of a frequency table, as a share of the rows
_CELLS_PER_ROW = 0.2
# multiple of the floor above which a distance counts as far
_FAR = 2.0
_MAX_DRAWN = 60
_MAX_LINES = 6
_MAX_BARS = 8
_MAX_SHOWN = 24
_GRID = 16
_MAX_SIDE = 32


@dataclass(frozen=True)
class Comparison:
    """Distance between a distribution in the model and in the data.

    Attributes:
        variables: Its variables; continuous ones are divided at the quintiles of the data.
        dataset: Name of the data set.
        distance: Total variation distance.
        floor: Expected distance if both samples came from the same distribution.
    """

    variables: tuple[str, ...]
    dataset: str
    distance: float
    floor: float

    @property
    def ratio(self) -> float:
        """Distance as a multiple of the floor."""
        return self.distance / self.floor if self.floor > 0 else math.inf if self.distance > 0 else 0.0


def write_report(
    model: Model,
    path: str | Path,
    *,
    queries: str | Sequence[str] = (),
    data: pd.DataFrame | Dataset | Sequence[Dataset | pd.DataFrame] | None = None,
    title: str = "",
    num_samples: int = 100_000,
    seed: int = 0,
    allow_unidentifiable: bool = False,
    allow_low_support: bool = False,
    progress: bool = False,
    dropna: bool = False,
) -> Path:
    """Write a report of a model as a self-contained HTML file.

    It shows the graph and the plan, the training, distances between distributions of the model and the data with their
    floors, tests of the graph's independences, answers with their intervals, estimands and support (or the reason for
    no answer), and samples.

    Args:
        model: The model. Comparisons with data are left out if the data are not available.
        path: The file.
        queries: A query or several queries.
        data: Held-out data to compare with; by default the training data.
        title: Title of the page; by default the names of the variables.
        num_samples: Draws per answer.
        seed: Seed of all draws.
        allow_unidentifiable: As for :meth:`Model.query`; the answers are marked.
        allow_low_support: As for :meth:`Model.query`.
        progress: Whether to show progress on a terminal.
        dropna: Whether to drop rows of ``data`` with missing values; otherwise they raise an error.

    Returns:
        The path.

    Raises:
        QueryError: If a query is malformed.
        DataError: If the data do not fit the model, or the path is invalid.
        OSError: If the file cannot be written.

    Warns:
        UserWarning: If charts or pictures are left out, because matplotlib or pillow is not installed.

    Example:
        >>> import tempfile
        >>> import mdcm
        >>> table = mdcm.Dataset({"D": [0, 1] * 50, "A": [0, 1, 1, 1] * 25})
        >>> model = mdcm.fit("D -> A", table, config=mdcm.TrainConfig(max_steps=20))
        >>> file = write_report(model, Path(tempfile.mkdtemp()) / "report.html", queries=["P(A | do(D=0))"])
        >>> "P(A | do(D=0))" in file.read_text()
        True
    """
    path, seed = as_path(path), seeded(seed)
    expressions = [parse(text) for text in ([queries] if isinstance(queries, str) else queries)]
    for expression in expressions:
        expression.check(model.graph.nodes, dict(model.graph.latents))
    graph = model.graph
    heldout = (
        None
        if data is None
        else validate(data, graph.nodes, unobserved=graph.nodes, latents=dict(graph.latents), dropna=dropna)
    )
    stages = Stages(progress)
    stages.expect(4 + len(expressions))
    with stages.open():
        writer = _Writer(
            model, expressions, heldout, title, num_samples, seed, stages, allow_unidentifiable, allow_low_support
        )
        html = writer.html()
    omitted = [] if page.can_draw() else [page.NO_CHARTS]
    omitted += [NO_PICTURES] if writer.omits_pictures else []
    if omitted:
        warn("the page is written, but " + ", and ".join(omitted))
    with replacing(path) as stream:
        stream.write(html.encode("utf-8", "backslashreplace"))
    return path


# ---------------------------------------------------------------------- comparison of model and data


def compare(model: Model, datasets: Sequence[Dataset], seed: int = 0) -> list[Comparison]:
    """Compare distributions of a model and of data sets: those that h-nodes were fitted to, and adjacent pairs.

    If a data set sets variables, the model sets them to the same values row by row. Images, vectors and tables with
    more cells than a fifth of the rows are left out.

    Args:
        model: The model.
        datasets: The data sets.
        seed: Seed of the draws.

    Returns:
        Comparisons, in descending order of the ratio of distance to floor.
    """
    comparisons: list[Comparison] = []
    for dataset in datasets:
        comparisons += _compared(model, dataset, seed)
    return sorted(comparisons, key=lambda comparison: -comparison.ratio)


def _compared(model: Model, dataset: Dataset, seed: int) -> Iterator[Comparison]:
    schema = model.schema
    names = [name for name in schema if name in dataset.table.columns and schema[name].size is None]
    images = any(schema[name].kind == "image" for name in model.dcm.needed(names, dataset.do))
    most = _MAX_IMAGE_ROWS if images else _MAX_ROWS
    rows = np.arange(len(dataset))
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    selected = np.isin(np.arange(len(dataset)), rows)
    part = dataset.restricted(dataset.name or "data", dataset.columns, selected)
    do: dict[str, Any] = {
        name: part.images[name] if name in part.images else part.arrays.get(name, part.table.get(name))
        for name in part.do
    }
    # no support check: the data set has rows for the values that it sets
    drawn = model.draw_unjudged(
        len(part),
        do={name: value.to_numpy() if isinstance(value, pd.Series) else value for name, value in do.items()},
        variables=names,
        seed=seed,
    )
    real = encode(Dataset(part.table[names], name=part.name), schema)
    generated = encode(Dataset(drawn.table[names], name=part.name), schema)
    codes = {name: _cut(real[name], generated[name], schema[name].levels is None) for name in names}
    weights = np.ones(len(part)) if part.weights is None else part.weights
    for variables in _distributions(model, dataset, names):
        distance = _distance([codes[name] for name in variables], weights)
        if distance is not None:
            yield Comparison(variables, dataset.name or "data", *distance)


def _distributions(model: Model, dataset: Dataset, names: Sequence[str]) -> list[tuple[str, ...]]:
    """Variables of fits and adjacent pairs, restricted to the columns, unless the data set sets all of them."""
    distributions: dict[tuple[str, ...], None] = {}
    graph, columns, do = model.graph, set(names), set(dataset.do)
    trained_on = {summary["name"] for summary in model.datasets}
    for hnode in model.plan.hnodes:
        for fit in hnode.fits:
            if dataset.name in fit.datasets or dataset.name not in trained_on:
                distributions[tuple(name for name in names if name in {*fit.variables, *fit.parents})] = None
    pairs = [(parent, node) for node in graph.nodes for parent in graph.nodes if parent in graph.parents(node)]
    for _, children in graph.confounders:
        pairs += [(a, b) for k, a in enumerate(children) for b in children[k + 1 :]]
    for pair in pairs:
        if columns.issuperset(pair):
            distributions[tuple(name for name in names if name in pair)] = None
    return [variables for variables in distributions if set(variables) - do]


def _cut(real: NDArray[Any], generated: NDArray[Any], continuous: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Codes of real and generated values; continuous values are binned at quantiles of the real values."""
    if not continuous:
        return real.astype(np.int64), generated.astype(np.int64)
    edges = np.unique(np.quantile(real, np.arange(1, _BINS) / _BINS))
    return np.searchsorted(edges, real), np.searchsorted(edges, generated)


def _distance(
    codes: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], weights: NDArray[np.float64]
) -> tuple[float, float] | None:
    """Distance of two empirical distributions and its floor; None if there are too many cells."""
    rows = len(weights)
    sizes = [int(max(real.max(), generated.max())) + 1 for real, generated in codes]
    if math.prod(sizes) > _CELLS_PER_ROW * rows:
        return None
    shares = []
    for side, weight in ((0, weights), (1, np.ones(rows))):
        cells = np.ravel_multi_index(tuple(pair[side] for pair in codes), sizes)
        shares.append(np.bincount(cells, weights=weight, minlength=math.prod(sizes)) / weight.sum())
    pooled = (shares[0] + shares[1]) / 2
    # the variances of the two samples add up
    variance = pooled * (1 - pooled) * ((weights**2).sum() / weights.sum() ** 2 + 1 / rows)
    floor = float(np.sqrt(2 * variance / np.pi).sum() / 2)
    return float(np.abs(shares[0] - shares[1]).sum() / 2), floor


# ---------------------------------------------------------------------- the page


@dataclass
class _Writer:
    """Writer of the sections of a report."""

    model: Model
    expressions: Sequence[Expression]
    heldout: tuple[Dataset, ...] | None
    title: str
    num_samples: int
    seed: int
    stages: Stages
    allow_unidentifiable: bool = False
    allow_low_support: bool = False
    omits_pictures: bool = False
    notes: list[str] = field(default_factory=list)
    verdict: tuple[str, str] = ("open", "Not compared with data")

    def html(self) -> str:
        """HTML of the page."""
        with self.stages.stage("model and data side by side"):
            fits = self._fits()
        with self.stages.stage("independences"):
            independences = self._independences()
        answers = [self._answer(number, expression) for number, expression in enumerate(self.expressions)]
        with self.stages.stage("samples"):
            samples = self._samples()
        with self.stages.stage("pictures"):
            drawn = self._drawn()
            training = self._training()
        warned = self._warnings()
        parts = [
            *([page.section("What to know first", warned)] if warned else []),
            *([page.section("Answers", f'<div class="grid">{"".join(answers)}</div>')] if answers else []),
            page.section("Graph and plan", drawn),
            page.section("What was fitted, beside the data", fits),
            page.section("What the graph implies, in the data", independences),
            page.section("Training", training),
            *([page.section("Samples", samples)] if samples else []),
            page.section("Data and settings", self._facts()),
        ]
        names = self.title or ", ".join(self.model.graph.nodes)
        shown = names if len(names) < 80 else f"{len(self.model.graph.nodes)} variables"
        kind, text = self.verdict
        rows = sum(int(summary["rows"]) for summary in self.model.datasets)
        head = (
            f'<p class="kicker">Trained model · {rows:,} rows in {len(self.model.datasets)} data '
            f"set{'s' if len(self.model.datasets) != 1 else ''}</p>\n<h1>{escaped(shown)}</h1>\n"
            f'<p class="verdict {kind}">{escaped(text)}</p>'
        )
        return page.document(f"{shown} · mdcm report", head, parts, f"mdcm · {self.model.graph}"[:300])

    # -------------------------------------------------- fitted distributions

    def _fits(self) -> str:
        datasets = self.model.data if self.heldout is None else self.heldout
        if not datasets:
            return _sentence(
                "The training data are not available, so the model cannot be compared with them. They are read from "
                "the spec of the training, or given by --data."
            )
        comparisons = compare(self.model, datasets, self.seed)
        if not comparisons:
            return _sentence("No distribution has few enough cells for a comparison.")
        far = [comparison for comparison in comparisons if comparison.ratio > _FAR]
        # under the null a distance rarely exceeds twice its mean
        self.verdict = (
            ("met", f"All {len(comparisons)} distributions within {_FAR:g} sampling floors of the data")
            if not far
            else ("missed", f"{len(far)} of {len(comparisons)} distributions beyond {_FAR:g} sampling floors")
        )
        source = "held-out data" if self.heldout is not None else "the training data"
        note = (
            f"Total variation distance between draws of the model and {source}. The floor is the expected distance "
            "if both came from the same distribution; continuous variables are divided at the quintiles of the data."
        )
        shown = comparisons[:_MAX_BARS]
        labels = [_joint(comparison.variables, 18) for comparison in shown]
        chart = page.Chart(
            "Farthest from the data",
            "",
            "total variation distance",
            [
                page.Line("model to data", labels, [comparison.distance for comparison in shown]),
                page.Line("floor", labels, [comparison.floor for comparison in shown]),
            ],
            f"The largest ratio of distance to floor is {shown[0].ratio:.2f}, of {_joint(shown[0].variables)}.",
            kind="bars",
        )
        rows = [
            [_joint(comparison.variables), comparison.dataset, comparison.distance, comparison.floor, comparison.ratio]
            for comparison in comparisons[:_MAX_SHOWN]
        ]
        more = f" The {len(comparisons) - _MAX_SHOWN} nearest are not shown." if len(comparisons) > _MAX_SHOWN else ""
        table = page.Table("Distances", ["distribution", "data set", "distance", "floor", "ratio"], rows, note + more)
        return page.charts([chart], "fits") + f'<div class="grid after">{page.table(table, "fits-table")}</div>'

    def _independences(self) -> str:
        datasets = self.model.data if self.heldout is None else self.heldout
        if not datasets:
            return _sentence("The training data are not available.")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                result = check(self.model.graph, list(datasets), variables=self.model.schema)
        except MdcmError as error:
            return _sentence(f"They could not be tested: {error}")
        rejected = len(result.rejected)
        if rejected:
            self.notes.append(
                f"The data contradict {rejected} of {len(result.table)} statements that the graph implies; answers "
                "are right only if the graph is."
            )
        first, *rest = str(result).splitlines()
        html = _sentence(first[0].upper() + first[1:])
        if len(result.table):
            html += f'<div class="grid after">{page.table(_tests(result), "tests")}</div>'
        notes = [line for line in rest if line.startswith(("note:", "one missing"))]
        return html + "".join(_sentence(line.removeprefix("note: ")) for line in notes)

    # -------------------------------------------------- answers

    def _answer(self, number: int, expression: Expression) -> str:
        text = str(expression)
        with self.stages.stage(text), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                answer = self.model.query(
                    expression.text or text,
                    self.num_samples,
                    seed=self.seed,
                    allow_unidentifiable=self.allow_unidentifiable,
                    allow_low_support=self.allow_unidentifiable or self.allow_low_support,
                )
            except NotIdentifiableError as error:
                self.notes.append(f"{text} is not answered: graph and data do not determine it.")
                picture = page.Picture(
                    "Why not", self.model.identify(expression).to_svg(), f"The obstruction to identifying {text}."
                )
                # the message has several lines
                lines = "".join(_sentence(line) for line in str(error).splitlines())
                return (
                    f'<div class="card wide"><h3>{escaped(text)}</h3><p class="verdict missed">Not determined</p>'
                    f"{lines}</div>"
                    + page.pictures([picture], f"why{number}-").replace('class="grid"', 'class="wide"', 1)
                )
            except LowSupportError as error:
                self.notes.append(f"{text} is not answered: too few rows or draws support it.")
                return (
                    f'<div class="card wide"><h3>{escaped(text)}</h3><p class="verdict missed">Too little support</p>'
                    f"{_sentence(str(error))}</div>"
                )
        self.notes += [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
        if answer.doubt is not None:
            self.notes.append(f"{text} is {answer.doubt}: its numbers are those of one fitted model.")
        return _answered(answer, f"answer{number}")

    # -------------------------------------------------- pictures

    def _drawn(self) -> str:
        graph, plan = self.model.graph, self.model.plan
        if len(graph.nodes) > _MAX_DRAWN:
            return _sentence(
                f"{len(graph.nodes)} variables, {len(graph.directed)} arrows and {len(graph.confounders)} hidden "
                f"confounders are more than can be drawn. {len(plan)} h-nodes on {len(plan.levels)} levels, at most "
                f"{plan.largest} mechanisms trained together."
            )
        steps = "; ".join(", ".join(hnode.variables) for hnode in plan.hnodes)
        return page.pictures(
            [
                page.Picture("The graph", draw(graph), f"{graph}. Dashed arcs are hidden confounders."),
                page.Picture("The plan", plan.to_svg(), f"H-nodes in the order in which they are trained: {steps}."),
            ]
        )

    def _training(self) -> str:
        history = self.model.history
        if not history:
            return _sentence("There is no record of the training.")
        trained = {tuple(record["hnode"]): record for record in history if record["event"] == "trained"}
        validations: dict[tuple[str, ...], list[tuple[float, float]]] = {}
        for record in history:
            if record["event"] == "check" and record.get("heldout") is not None:
                validations.setdefault(tuple(record["hnode"]), []).append((record["step"], record["heldout"]))
        order = sorted(validations, key=lambda hnode: -float(trained.get(hnode, {}).get("seconds", 0.0)))
        lines = []
        for hnode in order[:_MAX_LINES]:
            # a second training, on all rows or with more states, restarts the count of steps
            points = _first_run(validations[hnode])
            best = min(value for _, value in points)
            lines.append(
                page.Line(_joint(hnode, 24), [step for step, _ in points], [value - best for _, value in points])
            )
        html = ""
        if lines:
            more = f" Of {len(validations)} h-nodes, the slowest." if len(validations) > _MAX_LINES else ""
            chart = page.Chart(
                "Held-out loss",
                "step",
                "above its lowest, nats per row",
                lines,
                f"Held-out loss of {len(lines)} h-nodes over the steps of their training.{more}",
                log_x=True,
            )
            html += page.charts([chart], "training")
        rows = []
        for planned in self.model.plan.hnodes:
            summary = trained.get(planned.variables)
            if summary is None:
                continue
            states = ", ".join(f"{name}: {count}" for name, count in summary.get("states", {}).items())
            rows.append(
                [
                    _joint(planned.variables, 40),
                    planned.level,
                    summary["steps"],
                    summary.get("heldout"),
                    float(summary["seconds"]),
                    states or "–",
                ]
            )
        total = sum(float(record["seconds"]) for record in trained.values())
        note = f"{total:,.1f} s of training in all." + (
            f" The {len(rows) - _MAX_SHOWN} others are not shown." if len(rows) > _MAX_SHOWN else ""
        )
        columns = ["h-node", "level", "steps", "held-out loss", "seconds", "confounder states"]
        table = page.Table("H-nodes", columns, rows[:_MAX_SHOWN], note)
        return html + (f'<div class="grid after">{page.table(table, "hnodes")}</div>' if rows else "")

    def _samples(self) -> str:
        schema = self.model.schema
        pictured = [
            name for name in schema if schema[name].kind == "image" and max(schema[name].shape or ()) <= _MAX_SIDE
        ]
        if not pictured:
            drawn = self.model.draw_samples(8, seed=self.seed).table
            if not len(drawn.columns) or len(drawn.columns) > _MAX_DRAWN:
                return ""
            columns = list(drawn.columns)
            rows = [[_cell(value) for value in row] for row in drawn.itertuples(index=False)]
            return (
                f'<div class="grid">{page.table(page.Table("Rows drawn from the model", columns, rows), "rows")}</div>'
            )
        photos = []
        for name in pictured:
            sections = {}
            for dataset in self.model.data:
                if name in dataset.images and name not in dataset.do:
                    real = np.asarray(dataset.images[name][:_GRID])
                    sections[f"data: {dataset.name}"] = (
                        real if real.dtype == np.uint8 else np.rint(real * 255).astype(np.uint8)
                    )
                    break
            sections["model"] = self.model.draw_samples(_GRID, variables=[name], seed=self.seed).images[name]
            for do in self._settings(name):
                shown = ", ".join(f"{key}={value}" for key, value in do.items())
                # the distribution of the image may not be identifiable although the query is
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    drawn_images = self.model.draw_samples(_GRID, do=do, variables=[name], seed=self.seed).images[name]
                doubts = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
                self.notes += [f"Pictures of {name} under do({shown}): {doubt}." for doubt in doubts]
                sections[f"model, do({shown})" + (", see the warnings" if doubts else "")] = drawn_images
            if not can_draw_pictures():
                self.omits_pictures = True
                return _sentence(f"{NO_PICTURES[0].upper()}{NO_PICTURES[1:]}.")
            photos.append(page.Photo(name, grid_png(sections), f"Pictures of {name}: {'; '.join(sections)}."))
        return page.photos(photos)

    def _settings(self, image: str) -> list[dict[str, Any]]:
        """Settings of the queries' interventions on ancestors of an image."""
        settings: list[dict[str, Any]] = []
        above = self.model.graph.ancestors([image])
        for expression in self.expressions:
            for query in expression.queries:
                do = {
                    term.variable: self.model.schema.parse(term.variable, term.value)
                    for term in query.do
                    if term.value is not None
                }
                if do and above.intersection(do) and do not in settings:
                    settings.append(do)
        return settings[:4]

    # -------------------------------------------------- words

    def _warnings(self) -> str:
        notes = list(dict.fromkeys(self.notes))
        for record in self.model.history:
            if record["event"] == "trained" and record.get("uninformative"):
                names = ", ".join(record["uninformative"])
                notes.append(f"The data give no evidence of the confounder {names}: a model without it fits as well.")
            if record["event"] == "misfit":
                notes.append(f"Draws of {record['variable']} differ from the data: {record['what']}.")
        notes += [f"{text[0].upper()}{text[1:]}." for text in poor_fit_warnings(self.model.history)]
        notes += [f"Not used by the plan: {text}." for text in self.model.plan.unused]
        return f'<ul class="notes">{"".join(f"<li>{escaped(note)}</li>" for note in notes)}</ul>' if notes else ""

    def _facts(self) -> str:
        model = self.model
        sets = page.Table(
            "Data sets",
            ["name", "rows", "columns", "set by do()"],
            [
                [str(summary["name"]), int(summary["rows"]), len(summary["columns"]), ", ".join(summary["do"]) or "–"]
                for summary in model.datasets
            ],
        )
        rows = []
        for variable in list(model.schema.values())[:_MAX_DRAWN]:
            values = (
                f"{len(variable.levels)} levels: {', '.join(map(str, variable.levels[:6]))}"
                + ("…" if len(variable.levels) > 6 else "")
                if variable.levels is not None
                else " × ".join(map(str, variable.shape))
                if variable.shape is not None
                else f"{variable.size} numbers"
                if variable.size is not None
                else "–"
                if variable.span is None
                else f"{variable.span[0]:.4g} to {variable.span[1]:.4g}"
            )
            rows.append([variable.name, variable.kind, values])
        variables = page.Table("Variables", ["name", "kind", "values"], rows)
        settings = {name: value for name, value in model.config.to_json().items() if value is not None}
        facts = {
            "Seed": model.seed,
            "Ensemble": f"{len(model.members)} models" if model.members else "none",
            "Parameters": f"{sum(parameter.numel() for parameter in model.dcm.parameters()):,}",
            **{name.replace("_", " ").capitalize(): value for name, value in settings.items()},
        }
        return (
            f'<div class="grid">{page.table(sets, "sets")}{page.table(variables, "variables")}'
            f"{page.facts('Settings', facts)}</div>"
        )


def _answered(answer: Answer, name: str) -> str:
    frame = answer.shown().drop(columns=["± plug-in", "standard errors apart"], errors="ignore")
    columns = [str(column) for column in frame.columns]
    rows = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    notes = [answer.note[0].upper() + answer.note[1:] + "."]
    if answer.doubt is not None:
        notes.insert(0, f"{answer.doubt[0].upper()}{answer.doubt[1:]}; one fitted model answers this.")
    if answer.level is not None:
        notes.append(f"low and high: {100 * answer.level:g} % interval, for chance in the data and in the training.")
    if answer.plug_in is not None:
        notes.append("plug-in: the estimand, estimated from frequencies in the data.")
    if answer.plug_in_note is not None:
        notes.append(f"Plug-in: {answer.plug_in_note}.")
    if answer.basis is not None:
        notes.append(f"{answer.basis[0].upper()}{answer.basis[1:]}.")
    notes.append(
        "Exact in the model: nothing was drawn."
        if answer.exact
        else f"± drawing: Monte Carlo error, with an effective sample size of {answer.ess:,.0f} draws."
    )
    return page.table(page.Table(answer.query, columns, rows, " ".join(notes)), name)


def _tests(result: Check) -> page.Table:
    rows = []
    for row in result.table.head(_MAX_SHOWN).to_dict("records"):
        rows.append(
            [
                statement(row),
                str(row["dataset"]),
                float(row["p"]),
                float(row["adjusted_p"]),
                "rejected" if row["rejected"] else "–",
            ]
        )
    more = (
        f"The {len(result.table) - _MAX_SHOWN:,} with the largest p are not shown."
        if len(result.table) > _MAX_SHOWN
        else ""
    )
    return page.Table("What was tested, worst first", ["statement", "data set", "p", "adjusted p", ""], rows, more)


def _first_run(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points up to the first restart of the steps."""
    first: list[tuple[float, float]] = []
    for step, value in points:
        if first and step <= first[-1][0]:
            break
        first.append((step, value))
    return first


def _joint(variables: Sequence[str], most: int = 60) -> str:
    text = ", ".join(variables)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _cell(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _sentence(text: str) -> str:
    return f"<p>{escaped(text)}</p>"
