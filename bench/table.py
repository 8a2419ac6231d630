"""The numbers and charts of README and docs/results.md, from the committed runs in bench/results.

python bench/table.py          # writes the marked regions of both pages, and the charts
python bench/table.py --check  # exits with an error that names each page or chart that is not up to date

The regions of README are its claim and a short table; those of docs/results.md are the full tables of the experiments
and of the coverage of intervals. Every number in them, and every comparison in words, is made here.
"""

import json
import math
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mdcm.experiments.records import ANSWERS, COST, FITTED, Criterion, Result, select, summary

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
Run = dict[str, Any]
TIME = "time of a training"
STEPS, SECONDS, MEMORY = "What a step against critics takes", "seconds per step of all", "MB on top"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 1 else f"{value:.4g}"


def listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def read() -> dict[str, Run]:
    """The runs of experiments, by the name of their file, with results and criteria as records."""
    runs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    runs = {name: run for name, run in runs.items() if "experiment" in run}
    for run in runs.values():
        run["results"] = list(map(Result.from_json, run["results"]))
        run["criteria"] = list(map(Criterion.from_json, run["criteria"]))
    return runs


# ---- criteria


def by_method(run: Run) -> list[str]:
    """Methods of training, in the order in which they were run."""
    return list(dict.fromkeys(row.method for row in select(run["results"], quantity=TIME)))


def held_to(run: Run, method: str) -> tuple[int, int]:
    """How many of the criteria of `auto` a method meets, and of how many."""
    met = judged = 0
    for kept in run["criteria"]:
        own = select(run["results"], experiment=kept.experiment, quantity=kept.quantity, method=method)
        if kept.method != "auto" or not kept.judged or not own:
            continue
        value = summary(own, kept.over, kept.relation)
        if method == "auto" and abs(value - kept.value) > 1e-9:
            raise SystemExit(f"{run['command']}: {kept.what} is {kept.value}, and {value} by its trainings")
        judged += 1
        met += kept.admits(value)
    return met, judged


def compares(run: Run) -> bool:
    return len(run.get("methods", ())) > 1


def rows(runs: dict[str, Run]) -> Iterator[str]:
    for run in runs.values():
        judged = [kept for kept in run["criteria"] if kept.judged]
        missed = [kept for kept in judged if not kept.met]

        def share(kept: Criterion) -> float:
            if not math.isfinite(kept.value):
                return float("inf")
            ratio = kept.value / kept.limit if kept.limit else float(kept.value > 0)
            return ratio if kept.relation == "<=" else 1 / max(ratio, 1e-9)

        shown = missed or [max((kept for kept in judged if kept.relation == "<="), key=share)]
        said = "; ".join(
            f"{kept.what}: {number(kept.value)} {'≤' if kept.relation == '<=' else '≥'} {number(kept.limit)}"
            + ("" if kept.met else " **missed**")
            for kept in shown
        ).replace("|", "\\|")
        met = f"{len(judged) - len(missed)} of {len(judged)}"
        others = [method for method in by_method(run) if method != "auto"] if compares(run) else []
        if others:
            # that what is recomputed of the others is what the run measured of its own
            held_to(run, "auto")
        same = "; ".join("{}: {} of {}".format(method, *held_to(run, method)) for method in others) or "–"
        cpu = run["machine"]["cpu"].replace("(R)", "").removesuffix(" Processor")
        yield f"| `{run['command']}` | {met} | {same} | {said} | {run['seconds']:,.0f} s, {cpu} |"


# ---- methods


def trained(run: Run) -> Iterator[tuple[str, str, float, float, float]]:
    """Problem, method, seconds, distance of what was fitted, and distance of the answers, of every training."""
    for time in select(run["results"], quantity=TIME):
        own = select(run["results"], experiment=time.experiment, method=time.method, seed=time.seed)
        fitted = select(own, group=FITTED)[-1].value
        yield time.experiment, time.method, time.value, fitted, mean_of(select(own, group=ANSWERS))


def mean_of(results: list[Result]) -> float:
    return statistics.mean(row.value for row in results)


def methods(runs: dict[str, Run]) -> Iterator[str]:
    """Means over seeds, of runs that compare methods."""
    for run in filter(compares, runs.values()):
        own: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
        for label, method, *values in trained(run):
            own.setdefault((label, method), []).append((values[0], values[1], values[2]))
        for (label, method), values in own.items():
            seconds, fitted, answered = (statistics.mean(column) for column in zip(*values, strict=True))
            yield f"| {label} | {method} | {seconds:,.0f} s | {fitted:.4f} | {answered:.4f} |"


# ---- words


def judged_critics(runs: dict[str, Run]) -> str:
    """Which experiments hold a training against critics to limits of its own."""
    named = [
        f"`{run['experiment']}`"
        for run in runs.values()
        if any(kept.judged and kept.method.startswith(("adversarial", "joint")) for kept in run["criteria"])
        and compares(run)
    ]
    return (
        f"Criteria hold `auto` to limits; critics are judged in {listed(named)} alone, by limits of their own. The "
        "next column says how many of the criteria of `auto` they meet, by the same limits."
    )


def joint_ahead(runs: dict[str, Run]) -> str:
    """Where training everything at once comes nearer than module by module, by how much, and what it has more of."""
    ahead, behind, sure = [], [], []
    for run in filter(compares, runs.values()):
        own: dict[str, list[float]] = {}
        for _, method, _, _, answered in trained(run):
            own.setdefault(method, []).append(answered)
        if not {"adversarial", "joint"} <= own.keys():
            continue
        modular, joint = (statistics.mean(own[method]) for method in ("adversarial", "joint"))
        name = run["experiment"]
        if joint >= modular:
            seeds = "1 seed" if len(own["joint"]) == 1 else f"{len(own['joint'])} seeds"
            behind.append(f"`{name}` ({joint:.4f} against {modular:.4f}, {seeds})")
            continue
        # the same data by the same seeds, so that differences are of pairs
        pairs = [one - other for one, other in zip(own["adversarial"], own["joint"], strict=True)]
        error = statistics.stdev(pairs) / len(pairs) ** 0.5
        sure += [f"`{name}`"] if statistics.mean(pairs) > 2 * error else []
        steps = (run["settings"].get("tables") or run["settings"])["steps"]
        (made,) = {row.value for row in select(run["results"], group=COST, quantity="steps", method="joint")}
        ahead.append(
            f"`{name}` ({joint:.4f} against {modular:.4f}, {statistics.mean(pairs):.4f} ± {error:.4f} nearer; every "
            f"mechanism trained for {made:,} steps against {steps:,})"
        )
    return (
        f"All at once (`joint`), critics come nearer to the answers than module by module (`adversarial`) in "
        f"{listed(ahead)}; differences are means over seeds with their standard errors, beyond two of them in "
        f"{listed(sure or ['none'])}. Both take the same number of steps in all. All at once, every step trains every "
        "mechanism; module by module only those of its level, and what a level gets wrong is frozen and handed on to "
        "the levels after it. Which of the two makes the difference was not measured apart; where the plan has one "
        f"level there is neither. Module by module is nearer in {listed(behind)}."
    )


def resolutions(runs: dict[str, Run]) -> str:
    """At how many pixels the experiments with pictures ran, where the paper has 32 x 32."""
    sizes: dict[int, list[str]] = {}
    for run in runs.values():
        pixels = run["settings"].get("resolution")
        if pixels is not None:
            command = run["command"].removeprefix("mdcm experiment ")
            sizes.setdefault(pixels, []).append(f"`{command}`")
    others = "; ".join(f"at {size} × {size} {listed(names)}" for size, names in sorted(sizes.items()))
    return f"The paper's pictures have 32 × 32 pixels. These runs have theirs {others}."


def missed(runs: dict[str, Run]) -> str:
    """What the criteria that were missed are about."""
    sachs, data = runs["sachs"], runs["sachs-data"]
    query = "P(Akt | do(PKA=2))"
    plug_in = mean_of(select(sachs["results"], method="plug-in estimate", group=ANSWERS, quantity=query))
    auto = mean_of(select(sachs["results"], method="auto", group=ANSWERS, quantity=query))
    kept = {kept.quantity: kept.value for kept in data["criteria"]}
    beside = max(value for quantity, value in kept.items() if quantity.endswith(", to the best fit of the graph"))
    mek = kept["P(Mek | do(PKA=2)), to the plug-in"]
    names = [
        f"`{run['command']}`" for run in runs.values() if any(kept.judged and not kept.met for kept in run["criteria"])
    ]
    if sorted(names) != sorted(f"`{run['command']}`" for run in (sachs, data)):
        raise SystemExit(f"criteria are not met in {listed(names)}: say here why")
    return (
        f"The two that are missed: over the three data sets of `sachs` the plug-in estimate of {query} is off by as "
        f"much as the model, {plug_in:.4f} against {auto:.4f}; and no model of the graph fits both tables of real "
        "cells, which `mdcm check` says, so that the model is where the likeliest one is, within "
        f"{beside:.4f} in every query, and that is {mek:.3f} from the table of Mek."
    )


def by_size(run: Run, **fields: Any) -> dict[int, list[Result]]:
    """Results of `large` by the number of variables."""
    sizes: dict[int, list[Result]] = {}
    for row in select(run["results"], **fields):
        sizes.setdefault(int(row.problem.split()[0]), []).append(row)
    return dict(sorted(sizes.items()))


def behind_best(run: Run) -> str:
    """How much farther from the truth the models of `large` are than the best fit of the true structure."""
    ratios, bare = {}, []
    for size, own in by_size(run, group=FITTED).items():
        auto, best, none = (mean_of(select(own, method=name)) for name in ("auto", "maximum likelihood", "no edges"))
        ratios[size] = auto / best - 1
        bare.append(none / best)
    costs = by_size(run, group=STEPS)
    size = max(costs)
    (modular, m_memory), (joint, j_memory) = (
        [select(costs[size], method=way, quantity=quantity)[0].value for quantity in (SECONDS, MEMORY)]
        for way in ("adversarial", "joint")
    )
    if min(ratios.values()) <= 0:
        raise SystemExit("large is as near as the best fit somewhere: say so here")
    each = listed([f"{100 * ratio:.0f} % at {nodes}" for nodes, ratio in ratios.items()])
    return (
        f"Models of random graphs of {min(ratios)} to {max(ratios)} variables are not as near to the truth as the best "
        f"fit of the true structure: farther by {each}. One without edges is {min(bare):.1f} to {max(bare):.1f} "
        "times as far as the best fit. Below, what a step against critics takes, for every h-node by itself and for "
        f"everything at once: at {size} variables module by module takes {modular:.2f} s against {joint:.2f} s, and "
        f"{m_memory:.0f} MB against {j_memory:.0f} MB."
    )


SIDE = """\
The methods side by side: `auto` is mdcm's default; `adversarial` and `joint` train against critics, module by module
and all at once. In `frontdoor` both compare pixels, and `joint-rep` a representation of them. A run with "equal time"
takes as many steps as fit into the time of `adversarial`. Distances to the exact truth and times on one core, means
over seeds; times compare within an experiment only."""
PICTURE = "![Distance to the truth, time and memory against the number of variables](large.svg)"


def wrapped(text: str) -> str:
    """Break a text into lines of at most 120 characters."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def results() -> str:
    runs = read()
    head = [
        "| command | criteria met | critics, by the criteria of `auto` | nearest to its limit, or missed | time |",
        "|---|---|---|---|---|",
    ]
    side = ["| experiment | method | a training takes | fitted distribution | answers |", "|---|---|---|---|---|"]
    said = [joint_ahead(runs), missed(runs), behind_best(runs["large"])]
    return "\n\n".join([
        f"{wrapped(judged_critics(runs))}\n{wrapped(resolutions(runs))}",
        "\n".join([*head, *rows(runs)]), SIDE, "\n".join([*side, *methods(runs)]), *map(wrapped, said), PICTURE,
    ])  # fmt: skip


def coverage() -> str:
    """How often intervals cover, beside those of the plug-in estimate of the same data."""
    run = json.loads((RESULTS / "coverage.json").read_text(encoding="utf-8"))
    names = {"ensemble": "ensemble", "frequencies": "bootstrap of the plug-in estimate"}
    own = {(row["intervals"], row["answer"]): row for row in run["table"] if row["problems"] == "all"}
    count = max(row["number"] for row in own.values())
    rows = [
        f"| {names[intervals]} | {answer} | {row['coverage']:.3f} ± {row['stderr']:.3f} | {row['width']:.4f} | "
        f"{row['rmse']:.4f} |"
        for (intervals, answer), row in own.items()
    ]
    pairs = [(own["ensemble", answer], own["frequencies", answer]) for answer in ("probability", "difference")]
    ahead = {
        "as near"
        if plug_in["rmse"] == ensemble["rmse"]
        else "plug-in"
        if plug_in["rmse"] < ensemble["rmse"]
        else "model"
        for ensemble, plug_in in pairs
    }
    words = {
        "as near": "In both the model is as near to the truth as the plug-in estimate.",
        "plug-in": "In both the plug-in estimate is nearer to the truth.",
        "model": "In both the model is nearer to the truth.",
    }
    verdict = words[ahead.pop()] if len(ahead) == 1 else "Each is nearer to the truth in one of the two."
    about = (
        f"`mdcm.fit(..., ensemble={run['members']})` gives answers intervals, for chance in the data and in the "
        f"training. Of {count} random problems (front doors on three variables and ADMGs of four, "
        f"{listed([f'{rows:,}' for rows in run['rows']])} rows), {100 * run['level']:.0f} % intervals cover the exact "
        f"answer as often as this (`bench/coverage.py`). {verdict}"
    )
    head = ["| intervals | of a | cover the truth | mean width | error (RMSE) |", "|---|---|---|---|---|"]
    return "\n".join([wrapped(about), "", *head, *rows])


# ---- README

# methods of the short table and of the chart, with their names in the chart
SHOWN = {
    "auto": "auto: mdcm's default",
    "adversarial": "adversarial: critics, module by module",
    "joint": "joint: critics, all at once",
    "joint, equal time": "joint, equal time",
}


def side_by_side(runs: dict[str, Run]) -> dict[str, dict[str, tuple[float, float, int]]]:
    """Distance of the answers, seconds of a training (means over seeds) and number of seeds: by problem and method."""
    own: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for run in filter(compares, runs.values()):
        for label, method, seconds, _, answered in trained(run):
            if method in SHOWN:
                own.setdefault(label, {}).setdefault(method, []).append((answered, seconds))
    return {
        label: {
            method: (statistics.mean(one[0] for one in values), statistics.mean(one[1] for one in values), len(values))
            for method, values in methods.items()
        }
        for label, methods in own.items()
    }


def claim() -> str:
    """What the front door through a picture came to, beside critics."""
    run = read()["frontdoor"]
    own = side_by_side({"frontdoor": run})["frontdoor"]
    distance, seconds, seeds = own["auto"]
    others = {"adversarial": "module by module", "joint, equal time": "all at once"}
    critics = " and ".join(f"{own[method][0]:.4f} {way}" for method, way in others.items())
    if min(own[method][0] for method in others) <= distance:
        raise SystemExit("critics are as near as auto in frontdoor: write another claim")
    times = listed([f"{own[method][1]:.0f}" for method in others])
    (count,) = {own[method][2] for method in others}
    rows, pixels = run["settings"]["rows"], run["settings"]["resolution"]
    return wrapped(
        f"`mdcm experiment frontdoor` learns from {rows:,} pictures of handwritten digits ({pixels} × {pixels} pixels) "
        "whose label and outcome share a hidden cause. Its answers to P(A | do(D)) are off by a total variation "
        f"distance of {distance:.4f} (mean over {seeds} seeds; {seconds:.0f} s of training on one core). Training "
        f"against critics gives {critics} ({count} seed{'s' if count > 1 else ''}; {times} s)."
    )


def coverage_in_short() -> str:
    run = json.loads((RESULTS / "coverage.json").read_text(encoding="utf-8"))
    own = {(row["intervals"], row["answer"]): row for row in run["table"] if row["problems"] == "all"}
    said = []
    for intervals, name in (
        ("ensemble", f"Intervals of an ensemble of {run['members']} models"),
        ("frequencies", "Bootstrap intervals of the plug-in estimate"),
    ):
        shares = " and ".join(
            f"{own[intervals, answer]['coverage']:.3f} ± {own[intervals, answer]['stderr']:.3f} of {answers}"
            for answer, answers in (("probability", "the probabilities"), ("difference", "the differences"))
        )
        errors = " and ".join(f"{own[intervals, answer]['rmse']:.4f}" for answer in ("probability", "difference"))
        said.append(
            f"- {name} at the level {run['level']} cover {shares} of {own[intervals, 'probability']['number']} random "
            f"problems; root mean squared errors {errors}."
        )
    return "\n".join(map(item, said))


def item(text: str) -> str:
    """An item of a list, on as many lines as it needs."""
    return textwrap.fill(text, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def missed_in_short(runs: dict[str, Run]) -> str:
    """How many limits were reached, and which were not, with the number beside the limit."""
    judged = [(run, kept) for run in runs.values() for kept in run["criteria"] if kept.judged]
    lost = [
        f"{kept.quantity} in `{run['command']}` ({number(kept.value)}, limit {number(kept.limit)})"
        for run, kept in judged
        if not kept.met
    ]
    said = f"- {len(judged) - len(lost)} of {len(judged)} limits that were set for the experiments are reached. "
    return item(f"{said}Missed: {listed(lost)}." if lost else f"{said}None is missed.")


def nearest(own: dict[str, dict[str, tuple[float, float, int]]]) -> str:
    """Where a method other than `auto` has the nearest answers, and where `joint` is nearer than `adversarial`."""
    first = {label: min(methods, key=lambda method: methods[method][0]) for label, methods in own.items()}
    others = [f"{label} (`{method}`)" for label, method in first.items() if method != "auto"]
    said = f"`auto` has the nearest answers everywhere{f' but in {listed(others)}' if others else ''}."
    joint = [label for label, one in own.items() if "joint" in one and one["joint"][0] < one["adversarial"][0]]
    if joint:
        said += (
            " Critics all at once (`joint`) are nearer than module by module (`adversarial`) in "
            f"{listed(joint)}, as [Results](docs/results.md) discusses."
        )
    return item(f"- {said}")


def brief() -> str:
    """README's short table, and the lines below it."""
    runs = read()
    own = side_by_side(runs)
    head = [f"| experiment | {' | '.join(f'`{method}`' for method in SHOWN)} |", "|---" * (len(SHOWN) + 1) + "|"]
    rows = []
    for label, methods in own.items():
        cells = []
        for method in SHOWN:
            if method not in methods:
                cells.append("–")
                continue
            distance, seconds, seeds = methods[method]
            cells.append(f"{distance:.4f}, {seconds:,.0f} s" + (", 1 seed" if seeds == 1 else ""))
        rows.append(f"| {label} | {' | '.join(cells)} |")
    lines = [nearest(own), missed_in_short(runs), coverage_in_short(), item(f"- {resolutions(runs)}")]
    return "\n".join([*head, *rows, "", *lines])


# ---- pages and charts

PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {"claim": claim, "short": brief},
    ROOT / "docs" / "results.md": {"results": results, "coverage": coverage},
}


def written(text: str, regions: dict[str, Callable[[], str]]) -> str:
    """A page with its regions made anew."""
    for name, make in regions.items():
        begin, end = f"<!-- {name}: made by bench/table.py -->", f"<!-- end of {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"the page needs the lines {begin} and {end} once each: put them where the text belongs")
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return text


Lines = dict[str, tuple[list[float], list[float]]]


def large_numbers(runs: dict[str, Run]) -> list[tuple[str, str, Lines]]:
    """Title, unit and lines of every panel of the chart of `large`, over the number of variables."""
    run = runs["large"]
    names = {"auto": "mdcm", "maximum likelihood": "best fit", "no edges": "no edges"}

    def over_sizes(**fields: Any) -> tuple[list[float], list[float]]:
        sizes = by_size(run, **fields)
        return list(sizes), [mean_of(own) for own in sizes.values()]

    def of_step(quantity: str) -> Lines:
        ways = {"adversarial": "module by module", "joint": "all at once"}
        return {label: over_sizes(group=STEPS, quantity=quantity, method=way) for way, label in ways.items()}

    quality = {label: over_sizes(group=FITTED, method=name) for name, label in names.items()}
    floors = {size: statistics.mean(row.floor for row in select(own, method="auto") if row.floor is not None)
              for size, own in by_size(run, group=FITTED).items()}  # fmt: skip
    quality["sampling floor"] = list(floors), list(floors.values())
    return [
        ("Distance of adjacent pairs to the truth", "mean TVD", quality),
        ("Training by likelihood, one core", "seconds", {"mdcm": over_sizes(quantity=TIME)}),
        ("A step against critics", "seconds", of_step(SECONDS)),
        ("A step against critics", "MB", of_step(MEMORY)),
    ]


def draw_large(numbers: list[tuple[str, str, Lines]]):
    """Quality, time and memory of the experiment `large` over the number of variables."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (title, unit, lines) in zip(figure.subplots(2, 2).flat, numbers, strict=True):
        for label, (x, y) in lines.items():
            axes.plot(x, y, marker="o", label=label, linestyle="--" if label == "sampling floor" else "-")
        axes.set(title=title, xlabel="variables", ylabel=unit, xscale="log")
        axes.set_xticks(x, [str(one) for one in x])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=0)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8)
    return figure


def draw_methods(numbers: dict[str, dict[str, tuple[float, float, int]]]):
    """Distance of the answers to the truth and seconds of a training, by experiment and method."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter

    looks = {
        "auto": {"color": "#1b6ca8", "marker": "o", "s": 75, "zorder": 4},
        "adversarial": {"color": "#d1742a", "marker": "s", "s": 45, "zorder": 3},
        "joint": {"color": "#7a7a7a", "marker": "D", "s": 40, "zorder": 2},
        "joint, equal time": {"facecolor": "white", "edgecolor": "#7a7a7a", "marker": "D", "s": 40, "zorder": 2},
    }
    labels = list(numbers)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    titles = ("Distance of the answers to the truth", "Training time on one core, in seconds")
    for column, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        for row, label in enumerate(labels):
            drawn = [own[column] for own in numbers[label].values()]
            axes.plot([min(drawn), max(drawn)], [row, row], color="#dddddd", linewidth=2, zorder=1)
        for method, look in looks.items():
            rows = [row for row, label in enumerate(labels) if method in numbers[label]]
            values = [numbers[labels[row]][method][column] for row in rows]
            axes.scatter(values, rows, label=SHOWN[method], **look)
        axes.set_xscale("log")
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="x", color="#eeeeee")
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    panels[0].set_xlabel("total variation distance; covidx: error of the effect", fontsize=9)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)
    return figure


CHARTS: dict[Path, tuple[Callable[[dict[str, Run]], Any], Callable[[Any], Any]]] = {
    ROOT / "docs" / "large.svg": (large_numbers, draw_large),
    ROOT / "docs" / "methods.svg": (side_by_side, draw_methods),
}


def description(numbers: Any) -> str:
    """What a chart carries to say which numbers it shows, to four digits; it is text of the SVG."""

    def rounded(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.4g}")
        if isinstance(value, dict):
            return {key: rounded(one) for key, one in value.items()}
        return [rounded(one) for one in value] if isinstance(value, list | tuple) else value

    return json.dumps(rounded(numbers)).replace('"', "'")


def save(path: Path, figure: Any, numbers: Any) -> None:
    import matplotlib as mpl

    # so that the same numbers are the same file
    with mpl.rc_context({"svg.hashsalt": "mdcm"}):
        figure.savefig(path, metadata={"Date": None, "Description": description(numbers)})


def stale() -> list[str]:
    """Pages and charts that do not show what the results say."""
    runs = read()
    pages = [
        path for path, regions in PAGES.items() if written(path.read_text(encoding="utf-8"), regions)
        != path.read_text(encoding="utf-8")
    ]  # fmt: skip
    charts = [
        path
        for path, (measure, _) in CHARTS.items()
        if not path.exists() or description(measure(runs)) not in path.read_text(encoding="utf-8")
    ]
    return [str(path.relative_to(ROOT)) for path in (*pages, *charts)]


def main() -> None:
    if "--check" in sys.argv:
        behind = stale()
        sys.exit(f"not what bench/results say: {', '.join(behind)}; run bench/table.py" if behind else 0)
    for path, regions in PAGES.items():
        path.write_text(written(path.read_text(encoding="utf-8"), regions), encoding="utf-8")
    runs = read()
    for path, (measure, draw) in CHARTS.items():
        save(path, draw(measure(runs)), measure(runs))


if __name__ == "__main__":
    main()
