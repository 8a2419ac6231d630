"""README's table of results and its plot, from the committed runs in bench/results.

python bench/table.py          # writes both
python bench/table.py --check  # says whether README's table is that of the results
"""

import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README, RESULTS, PLOT = ROOT / "README.md", ROOT / "bench" / "results", ROOT / "docs" / "large.svg"
SIDE = """\
The methods side by side: `auto` is ours, `adversarial` and `joint` train against critics, module by module and all at
once. Distances to the exact truth and times on one core, means over seeds; times compare within an experiment only."""
BEGIN, END = "<!-- results: made by bench/table.py -->", "<!-- end of results -->"


def number(value):
    return "–" if value is None else f"{value:.4f}" if abs(value) < 1 else f"{value:.4g}"


def rows():
    for path in sorted(RESULTS.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if "experiment" not in run:
            continue
        judged = [bar for bar in run["bars"] if bar["judged"]]
        missed = [bar for bar in judged if not bar["met"]]

        def share(bar):
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
        cpu = run["machine"]["cpu"].replace("(R)", "").removesuffix(" Processor")
        yield f"| `{run['command']}` | {reached} | {said} | {run['seconds']:,.0f} s, {cpu} |"


def trainings(run):
    """Name of the problem, method, seconds, distance of what was fitted, and distance of the answers, per training."""
    numbers, name = run["numbers"], run["experiment"]
    if name == "frontdoor":
        for one in numbers["outcomes"]:
            yield name, one["label"], one["seconds"], one["joint"][0], statistics.mean(one["generated"])
    elif name == "covidx":
        for one in numbers["outcomes"]:
            yield name, one["label"], one["curve"][-1][0], one["distances"][-1], abs(one["effect"] - numbers["effect"])
    else:
        for problem, own in numbers.items():
            for one in own.get("outcomes", ()) if isinstance(own, dict) else ():
                label = name if problem == "problem" else f"{name}, {problem}"
                fitted = list(one["fitted"].values())[-1]["tvd"]
                yield label, one["method"], one["seconds"], fitted, statistics.mean(one["answered"].values())


def methods():
    """Means over seeds, of runs that compare methods."""
    for path in sorted(RESULTS.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        if len(run.get("methods", ())) < 2:
            continue
        own = {}
        for label, method, *values in trainings(run):
            own.setdefault((label, method), []).append(values)
        for (label, method), values in own.items():
            seconds, fitted, answered = (statistics.mean(column) for column in zip(*values, strict=True))
            yield f"| {label} | {method} | {seconds:,.0f} s | {fitted:.4f} | {answered:.4f} |"


def table():
    head = ["| command | bars reached | nearest to its limit, or missed | time |", "|---|---|---|---|"]
    side = ["| experiment | method | a training takes | fitted distribution | answers |", "|---|---|---|---|---|"]
    return "\n".join([BEGIN, "", *head, *rows(), "", SIDE, "", *side, *methods(), "", END])


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


def main():
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    made = before + table() + after
    if "--check" in sys.argv:
        sys.exit(0 if made == text else "README's table is not that of bench/results: run bench/table.py")
    README.write_text(made, encoding="utf-8")
    large = RESULTS / "large.json"
    if large.exists():
        plot(json.loads(large.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
