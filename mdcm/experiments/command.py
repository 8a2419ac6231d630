"""Run an experiment: check its arguments, write metrics.json and report.html, and print the results."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mdcm.data.variables import suggestion
from mdcm.errors import DataError, MdcmError, PlanError
from mdcm.experiments.handwriting import load_handwriting
from mdcm.experiments.page import render_page, verdict
from mdcm.experiments.records import METHODS, Experiment, ExperimentRequest, Findings
from mdcm.experiments.summaries import result_tables
from mdcm.progress import Stages
from mdcm.report.page import NO_CHARTS, can_draw, number
from mdcm.storage.disk import as_path, replacing
from mdcm.text.advice import warn

__all__ = ["METRICS", "NAMES", "REPORT", "load_experiment", "render", "run_experiment"]

NAMES = ("asia", "complexity", "covidx", "frontdoor", "large", "mnist2", "sachs", "synthetic")
METRICS, REPORT = "metrics.json", "report.html"
_FORMAT = 2


def load_experiment(name: str) -> Experiment:
    """Import the experiment of that name.

    Raises:
        MdcmError: If the experiment is unknown.
    """
    if name not in NAMES:
        hint = suggestion(name, NAMES) or ""
        raise MdcmError(f"there is no experiment {name!r} (there are {', '.join(NAMES)}){hint}")
    module = importlib.import_module(f"mdcm.experiments.{name}")
    experiment: Experiment = module.EXPERIMENT
    return experiment


def run_experiment(
    name: str,
    out: str | Path,
    *,
    fast: bool = False,
    data: str | Path | None = None,
    mnist: str | Path | None = None,
    mechanisms: Sequence[str] = (),
    methods: Sequence[str] = (),
    resolution: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Run an experiment and write ``metrics.json`` and ``report.html``.

    Args:
        name: One of :data:`NAMES`.
        out: Directory, created if it does not exist; files of an earlier run are replaced when the new ones are ready.
        fast: Whether to run the small size, which only shows that everything works.
        data: Directory of real data, for experiments that take any.
        mnist: Directory of the MNIST files, for experiments that show digits; scikit-learn's digits by default.
        mechanisms: ``NAME=module:factory``, for experiments with a replaceable mechanism: the factory returns a
            constructor as in ``mechanisms`` of :func:`mdcm.fit`.
        methods: Methods of training to compare; all methods of the experiment by default.
        resolution: Height and width of the images, for experiments with several.
        progress: Whether to show the progress on a terminal.

    Returns:
        Content of ``metrics.json``.

    Raises:
        MdcmError: If the experiment is unknown.
        DataError: If the experiment does not take such data, or they cannot be used.
        PlanError: If the experiment does not compare such a method.
        OSError: If ``out`` cannot be written.
    """
    experiment = load_experiment(name)
    chosen = _methods(experiment, methods)
    directory = _directory(experiment, data)
    written = _mnist(experiment, mnist)
    given = _mechanisms(experiment, mechanisms)
    _check_resolution(experiment, resolution)
    out = as_path(out)
    if not can_draw():
        warn(f"in the report, {NO_CHARTS}")
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise DataError(f"{out}: cannot be written")
    size = "fast" if fast else "full"
    stages = Stages(progress)
    seeds = experiment.seeds[size]
    began, started = time.monotonic(), datetime.now(UTC)
    with stages.open():
        request = ExperimentRequest(
            fast=fast, seeds=seeds, methods=chosen, data=directory, mnist=written, mechanisms=given,
            resolution=resolution, stages=stages,
        )  # fmt: skip
        findings = experiment.run(request)
    findings.tables += result_tables(findings.results, findings.captions)
    kind, text = verdict(findings.criteria)
    record: dict[str, Any] = {
        "format": _FORMAT,
        "experiment": experiment.name,
        "title": experiment.title,
        "section": experiment.section,
        "summary": experiment.summary,
        "paper": experiment.paper,
        "command": " ".join([
            f"mdcm experiment {name}",
            *(["--fast"] if fast else []),
            *([] if directory is None else ["--data DIR"]),
            *([] if written is None else ["--mnist DIR"]),
            *([] if resolution is None else [f"--resolution {resolution}"]),
            *(f"--mechanism {mechanism}" for mechanism in mechanisms),
            *(f"--method {method}" for method in chosen if chosen != experiment.methods),
        ]),
        "size": size,
        "settings": {**experiment.sizes.get(size, {}), **({} if resolution is None else {"resolution": resolution})},
        "seeds": list(seeds),
        "methods": list(chosen),
        "data": None if directory is None else directory.name,
        "met": kind != "missed",
        "verdict": text,
        "criteria": [criterion.to_json() for criterion in findings.criteria],
        "results": _rows(findings),
        "tables": [asdict(table) for table in findings.tables],
        "charts": [asdict(chart) for chart in findings.charts],
        "notes": findings.notes,
        "machine": _machine(),
        "versions": _versions(),
        "started": started.strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": round(time.monotonic() - began, 2),
        "stages": stages.seconds,
    }  # fmt: skip
    encoded = _encoded(_finite(record)).encode()
    contents = {REPORT: render_page(record, findings).encode(), METRICS: encoded + b"\n"}
    # metrics.json last, so that a report exists whenever it does
    for file, content in contents.items():
        with replacing(out / file, follow=False) as stream:
            stream.write(content)
    plain: dict[str, Any] = json.loads(encoded)
    return plain


def render(record: Mapping[str, Any]) -> str:
    """Render the results as text for a terminal.

    Args:
        record: Result of :func:`run_experiment`.
    """
    lines = [f"{record['title']} ({record['command']}, {record['seconds']:.1f} s)", ""]
    width = max((len(row["what"]) for row in record["criteria"]), default=0)
    for row in record["criteria"]:
        state = ("met" if row["met"] else "missed") if row["judged"] else "not judged"
        sign = "<=" if row["relation"] == "<=" else ">="
        lines.append(f"{row['what']:<{width}}  {number(row['value']):>9} {sign} {number(row['limit']):<9} {state}")
    lines += ["", f"{record['verdict']}."]
    return "\n".join(lines)


def _methods(experiment: Experiment, methods: Sequence[str]) -> tuple[str, ...]:
    for method in methods:
        if method not in METHODS:
            raise PlanError(f"--method is {method!r}; it must be one of {', '.join(METHODS)}")
        if method not in experiment.methods:
            known = (
                f"only {', '.join(experiment.methods)}"
                if experiment.methods
                else "no training, so it takes no --method"
            )
            raise PlanError(f"experiment {experiment.name!r} compares {known}")
    return tuple(method for method in experiment.methods if not methods or method in methods)


def _directory(experiment: Experiment, data: str | Path | None) -> Path | None:
    if data is None:
        return None
    if not experiment.data:
        raise DataError(f"experiment {experiment.name!r} takes no --data; its data are drawn from a known model")
    path = Path(data)
    if not path.is_dir():
        what = "is a file, not a directory" if path.exists() else "does not exist"
        raise DataError(f"--data {path} {what}; it has to hold {experiment.data}")
    return path


def _mnist(experiment: Experiment, mnist: str | Path | None) -> Path | None:
    if mnist is None:
        return None
    if not experiment.digits:
        raise DataError(
            f"experiment {experiment.name!r} takes no --mnist: what it shows is drawn from a known model, which files "
            "of digits with their labels do not replace; mnist2 takes them"
        )
    # raises if files are missing
    load_handwriting(mnist)
    return Path(mnist)


def _check_resolution(experiment: Experiment, resolution: int | None) -> None:
    if resolution is None or resolution in experiment.resolutions:
        return
    if not experiment.resolutions:
        raise DataError(f"experiment {experiment.name!r} takes no --resolution")
    known = ", ".join(str(size) for size in experiment.resolutions)
    raise DataError(f"--resolution is {resolution}; experiment {experiment.name!r} takes one of {known}")


def _mechanisms(experiment: Experiment, texts: Sequence[str]) -> dict[str, Any]:
    """Import constructors given as ``NAME=module:factory``, by variable."""
    made: dict[str, Any] = {}
    for text in texts:
        name, _, where = text.partition("=")
        module, _, factory = where.partition(":")
        if not (name and module and factory):
            raise DataError(f"--mechanism {text!r}: write NAME=module:factory, as in X=mypackage.generators:lungs")
        if name not in experiment.mechanisms:
            takes = ", ".join(experiment.mechanisms) or "no variable"
            raise DataError(f"--mechanism {text!r}: experiment {experiment.name!r} takes mechanisms of {takes}")
        try:
            made[name] = getattr(importlib.import_module(module), factory)()
        except (ImportError, AttributeError) as error:
            raise DataError(f"--mechanism {text!r}: {error}") from error
    return made


def _machine() -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    memory = None
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        name = match[1] if match else name
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (OSError, ValueError):
        pass
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    return {"cpu": name, "cores": os.cpu_count(), "threads": threads, "GiB": memory, "system": platform.system()}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("mdcm", "torch", "numpy", "pandas", "networkx", "matplotlib"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def _rows(findings: Findings) -> list[dict[str, Any]]:
    """All results with the limits of their criteria."""
    limits = {(kept.experiment, kept.quantity): kept.limit for kept in reversed(findings.criteria)}
    return [replace(row, limit=limits.get((row.experiment, row.quantity))).to_json() for row in findings.results]


def _encoded(record: dict[str, Any]) -> str:
    """JSON text in which every result is one line."""
    text = json.dumps({**record, "results": []}, indent=1, allow_nan=False)
    rows = ",\n".join(f"  {json.dumps(row, allow_nan=False)}" for row in record["results"])
    return text.replace('"results": []', f'"results": [\n{rows}\n ]', 1) if rows else text


def _finite(value: Any) -> Any:
    """Replace infinities and NaN by null."""
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value
