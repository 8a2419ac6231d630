"""README's table of results and its plot, from the committed runs in bench/results.

python bench/table.py          # writes both
python bench/table.py --check  # says whether README's table is that of the results
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README, RESULTS, PLOT = ROOT / "README.md", ROOT / "bench" / "results", ROOT / "docs" / "large.svg"
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
        yield f"| `{run['command']}` | {reached} | {said} | {run['seconds']:,.0f} s |"


def table():
    head = ["| command | bars reached | nearest to its limit, or missed | time |", "|---|---|---|---|"]
    return "\n".join([BEGIN, "", *head, *rows(), "", END])


def plot(run):
    """Time and quality of the experiment `large` over the number of variables."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, chart in zip(figure.subplots(1, 2), run["charts"][:2], strict=True):
        for line in chart["lines"]:
            axes.plot(line["x"], line["y"], marker="o", label=line["label"], linestyle="--" if line["dashed"] else "-")
        for label, level in chart["levels"].items():
            axes.axhline(level, color="gray", linewidth=1, linestyle=":", label=label)
        axes.set(title=chart["title"], xlabel=chart["x_label"], ylabel=chart["y_label"])
        if chart["log_x"]:
            axes.set_xscale("log")
        if chart["log_y"]:
            axes.set_yscale("log")
        axes.legend(frameon=False, fontsize=8)
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
