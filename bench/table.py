"""README's numbers and its plot, from the committed runs in bench/results.

python bench/table.py          # writes both
python bench/table.py --check  # says whether README says what the results say

README has two marked regions: what the experiments came to, and how often intervals cover. Every number in them, and
every comparison in words, is made here.
"""

import json
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README, RESULTS, PLOT = ROOT / "README.md", ROOT / "bench" / "results", ROOT / "docs" / "large.svg"
Run = dict[str, Any]

# what a method of `frontdoor` is measured by, and the share of pictures that show the other digit
_FLIP = 0.1
_FRONT_DOOR: dict[str, Callable[[dict[str, Any]], float]] = {
    "P(D, A)": lambda one: one["joint"][0],
    **{f"P(A | do(D={d})) with real pictures": lambda one, d=d: one["real"][d] for d in (0, 1)},
    **{f"P(A | do(D={d})) with its own": lambda one, d=d: one["generated"][d] for d in (0, 1)},
    "share of each digit against the mechanism": lambda one: max(
        max(abs(j["intended"] - 1 + _FLIP), abs(j["flipped"] - _FLIP)) for j in one["judged"]
    ),
    "share of each colour against the mechanism": lambda one: max(
        abs(share - 1 / 3) for j in one["judged"] for share in j["colours"]
    ),
}


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 1 else f"{value:.4g}"


def listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def read() -> dict[str, Run]:
    """The runs of experiments, by the name of their file."""
    runs = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    return {name: run for name, run in runs.items() if "experiment" in run}


# ---- bars


def met(bar: Run, value: float) -> bool:
    return value <= bar["limit"] if bar["relation"] == "<=" else value >= bar["limit"]


def outcomes(run: Run) -> Iterator[tuple[str, Run]]:
    """The suffix that titles of a problem have, and a training of it."""
    for problem, own in run["numbers"].items():
        if problem == "outcomes":
            yield from (("", one) for one in own)
        elif isinstance(own, dict) and "outcomes" in own:
            yield from (("" if problem == "problem" else f", {problem}", one) for one in own["outcomes"])


def method_of(one: Run) -> str:
    return one.get("method") or one["label"]


def by_method(run: Run) -> dict[str, dict[str, list[Run]]]:
    """Trainings of every method, by the suffix of their problem, in the order in which they were made."""
    own: dict[str, dict[str, list[Run]]] = {}
    for suffix, one in outcomes(run):
        own.setdefault(method_of(one), {}).setdefault(suffix, []).append(one)
    return own


def measured(run: Run, what: str, suffix: str, own: list[Run]) -> float | None:
    """What a bar of `auto` measures, of the trainings of another method; None where only `auto` is measured so."""
    what = what.removesuffix(suffix)
    average = what.endswith(", on average")
    if run["experiment"] == "frontdoor":
        return statistics.mean(map(_FRONT_DOOR[what], own)) if what in _FRONT_DOOR else None
    if run["experiment"] == "covidx":
        errors = [abs(one["effect"] - run["numbers"]["effect"]) for one in own]
        return statistics.mean(errors) if "average" in what else errors[0]
    if "most probable outcomes" in what:
        return min(one["agreeing"] for one in own)
    if what in own[0]["fitted"]:
        return statistics.mean(one["fitted"][what]["tvd"] for one in own)
    what = what.removesuffix(", on average")
    if what not in own[0]["answered"]:
        return None
    answers = [one["answered"][what] for one in own]
    return statistics.mean(answers) if average else answers[0]


def held_to(run: Run, method: str) -> tuple[int, int]:
    """How many of the bars of `auto` a method reaches, and of how many."""
    reached = judged = 0
    for bar in run["bars"]:
        for suffix, own in by_method(run)[method].items():
            if not bar["what"].startswith("auto, ") or not bar["what"].endswith(suffix) or not bar["judged"]:
                continue
            value = measured(run, bar["what"].removeprefix("auto, "), suffix, own)
            if value is not None:
                if method == "auto" and abs(value - bar["value"]) > 1e-9:
                    raise SystemExit(f"{run['command']}: {bar['what']} is {bar['value']}, and {value} by its trainings")
                judged += 1
                reached += met(bar, value)
    return reached, judged


def compares(run: Run) -> bool:
    return len(run.get("methods", ())) > 1


def rows(runs: dict[str, Run]) -> Iterator[str]:
    for run in runs.values():
        judged = [bar for bar in run["bars"] if bar["judged"]]
        missed = [bar for bar in judged if not bar["met"]]

        def share(bar: Run) -> float:
            if bar["value"] is None:
                return float("inf")
            ratio = bar["value"] / bar["limit"] if bar["limit"] else float(bar["value"] > 0)
            return ratio if bar["relation"] == "<=" else 1 / max(ratio, 1e-9)

        shown = missed or [max((bar for bar in judged if bar["relation"] == "<="), key=share)]
        said = "; ".join(
            f"{bar['what']}: {number(bar['value'])} {'≤' if bar['relation'] == '<=' else '≥'} {number(bar['limit'])}"
            + ("" if bar["met"] else " **missed**")
            for bar in shown
        ).replace("|", "\\|")
        reached = f"{len(judged) - len(missed)} of {len(judged)}"
        others = [method for method in by_method(run) if method != "auto"] if compares(run) else []
        if others:
            # that what is recomputed of the others is what the run measured of its own
            held_to(run, "auto")
        same = "; ".join("{}: {} of {}".format(method, *held_to(run, method)) for method in others) or "–"
        cpu = run["machine"]["cpu"].replace("(R)", "").removesuffix(" Processor")
        yield f"| `{run['command']}` | {reached} | {same} | {said} | {run['seconds']:,.0f} s, {cpu} |"


# ---- methods


def trained(run: Run) -> Iterator[tuple[str, str, float, float, float]]:
    """Problem, method, seconds, distance of what was fitted, and distance of the answers, of every training."""
    numbers, name = run["numbers"], run["experiment"]
    for suffix, one in outcomes(run):
        label, method = f"{name}{suffix}", method_of(one)
        if name == "frontdoor":
            yield label, method, one["seconds"], one["joint"][0], statistics.mean(one["generated"])
        elif name == "covidx":
            yield label, method, one["curve"][-1][0], one["distances"][-1], abs(one["effect"] - numbers["effect"])
        else:
            fitted = list(one["fitted"].values())[-1]["tvd"]
            yield label, method, one["seconds"], fitted, statistics.mean(one["answered"].values())


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
        if any(bar["judged"] and bar["what"].startswith(("adversarial, ", "joint")) for bar in run["bars"])
        and compares(run)
    ]
    return (
        f"Bars hold `auto` to limits; critics are judged in {listed(named)} alone, by limits of their own. The next "
        "column says how many of the bars of `auto` they reach, by the same limits."
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
        (made,) = {one["steps"] for _, one in outcomes(run) if method_of(one) == "joint"}
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
    """What the bars that were missed are about."""
    sachs, data = runs["sachs"], runs["sachs-data"]
    query = "P(Akt | do(PKA=2))"
    plug_in = statistics.mean(one[query] for one in sachs["numbers"]["problem"]["plug_in"].values())
    auto = next(bar["value"] for bar in sachs["bars"] if bar["what"] == f"auto, {query}, on average")
    beside = max(bar["value"] for bar in data["bars"] if bar["what"].endswith(", to the best fit of the graph"))
    mek = next(bar["value"] for bar in data["bars"] if bar["what"] == "auto, P(Mek | do(PKA=2)), to the plug-in")
    names = [
        f"`{run['command']}`" for run in runs.values() if any(not bar["met"] and bar["judged"] for bar in run["bars"])
    ]
    if sorted(names) != sorted(f"`{run['command']}`" for run in (sachs, data)):
        raise SystemExit(f"bars are missed in {listed(names)}: say here why")
    return (
        f"The two that are missed: over the three data sets of `sachs` the plug-in estimate of {query} is off by as "
        f"much as the model, {plug_in:.4f} against {auto:.4f}; and no model of the graph fits both tables of real "
        "cells, which `mdcm check` says, so that the model is where the likeliest one is, within "
        f"{beside:.4f} in every query, and that is {mek:.3f} from the table of Mek."
    )


def behind_best(run: Run) -> str:
    """How much farther from the truth the models of `large` are than the best fit of the true structure."""
    own = run["numbers"]["runs"]
    ratios, bare = {}, []
    for size in sorted({one["nodes"] for one in own}):
        means = {
            name: statistics.mean(one["tvd"][name] for one in own if one["nodes"] == size)
            for name in ("auto", "maximum likelihood", "no edges")
        }
        ratios[size] = means["auto"] / means["maximum likelihood"] - 1
        bare.append(means["no edges"] / means["maximum likelihood"])
    costs = {(one["nodes"], one["way"]): one for one in run["numbers"]["costs"]}
    size = max(nodes for nodes, _ in costs)
    modular, joint = costs[size, "adversarial"], costs[size, "joint"]
    if min(ratios.values()) <= 0:
        raise SystemExit("large is as near as the best fit somewhere: say so here")
    each = listed([f"{100 * ratio:.0f} % at {nodes}" for nodes, ratio in ratios.items()])
    return (
        f"Models of random graphs of {min(ratios)} to {max(ratios)} variables are not as near to the truth as the best "
        f"fit of the true structure: farther by {each}. One without edges is {min(bare):.1f} to {max(bare):.1f} "
        "times as far as the best fit. Below, what a step against critics takes, for every h-node by itself and for "
        f"everything at once: at {size} variables module by module takes {modular['seconds per step']:.2f} s against "
        f"{joint['seconds per step']:.2f} s, and {modular['MB']:.0f} MB against {joint['MB']:.0f} MB."
    )


SIDE = """\
The methods side by side: `auto` is ours, `adversarial` and `joint` train against critics, module by module and all at
once. Distances to the exact truth and times on one core, means over seeds; times compare within an experiment only."""
PICTURE = "![Distance to the truth, time and memory against the number of variables](docs/large.svg)"


def wrapped(text: str) -> str:
    """Lines of at most 120 characters, as README's."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def results() -> str:
    runs = read()
    head = [
        "| command | bars reached | critics, by the bars of `auto` | nearest to its limit, or missed | time |",
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
    nearer = [plug_in["rmse"] < ensemble["rmse"] for ensemble, plug_in in pairs]
    verdict = {
        2: "In both the plug-in estimate is nearer to the truth.", 1: "Each is nearer to the truth in one of the two.",
        0: "In both the model is nearer to the truth.",
    }[sum(nearer)]  # fmt: skip
    about = (
        f"`mdcm.fit(..., ensemble={run['members']})` gives answers intervals, for chance in the data and in the "
        f"training. Of {count} random problems (front doors on three variables and ADMGs of four, "
        f"{listed([f'{rows:,}' for rows in run['rows']])} rows), {100 * run['level']:.0f} % intervals cover the exact "
        f"answer as often as this (`bench/coverage.py`). {verdict}"
    )
    head = ["| intervals | of a | cover the truth | mean width | error (RMSE) |", "|---|---|---|---|---|"]
    return "\n".join([wrapped(about), "", *head, *rows])


REGIONS = {
    ("<!-- coverage: made by bench/table.py -->", "<!-- end of coverage -->"): coverage,
    ("<!-- results: made by bench/table.py -->", "<!-- end of results -->"): results,
}


def plot(run):
    """Quality, time and memory of the experiment `large` over the number of variables."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    runs, costs = run["numbers"]["runs"], run["numbers"]["costs"]
    sizes = sorted({one["nodes"] for one in runs})
    own = {size: [one for one in runs if one["nodes"] == size] for size in sizes}
    names = {"auto": "mdcm", "maximum likelihood": "best fit", "no edges": "no edges", "floor": "sampling floor"}
    quality = {
        label: (sizes, [statistics.mean(one["tvd"][name] for one in own[size]) for size in sizes])
        for name, label in names.items()
    }
    seconds = {"mdcm": (sizes, [statistics.mean(one["seconds"] for one in own[size]) for size in sizes])}
    ways = {"adversarial": "module by module", "joint": "all at once"}
    against = [
        {
            label: zip(*((one["nodes"], one[what]) for one in costs if one["way"] == way), strict=True)
            for way, label in ways.items()
        }
        for what in ("seconds per step", "MB")
    ]
    panels = [
        ("Distance of adjacent pairs to the truth", "mean TVD", quality),
        ("Training by likelihood, one core", "seconds", seconds),
        ("A step against critics", "seconds", against[0]),
        ("A step against critics", "MB", against[1]),
    ]
    figure = Figure(figsize=(9, 6), layout="constrained")
    for axes, (title, unit, lines) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for label, (x, y) in lines.items():
            axes.plot(x, y, marker="o", label=label, linestyle="--" if label == "sampling floor" else "-")
        axes.set(title=title, xlabel="variables", ylabel=unit, xscale="log")
        axes.set_xticks(x, [str(one) for one in x])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=0)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=8)
    # so that the same numbers are the same file
    with mpl.rc_context({"svg.hashsalt": "mdcm"}):
        figure.savefig(PLOT, metadata={"Date": None})


def written(text: str) -> str:
    """README with its regions made anew."""
    for (begin, end), make in REGIONS.items():
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return text


def main() -> None:
    text = README.read_text(encoding="utf-8")
    made = written(text)
    if "--check" in sys.argv:
        sys.exit(0 if made == text else "README does not say what bench/results say: run bench/table.py")
    README.write_text(made, encoding="utf-8")
    large = RESULTS / "large.json"
    if large.exists():
        plot(json.loads(large.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
