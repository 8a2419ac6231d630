"""The picture of the ranks of the modules, docs/floors.svg, from the table of docs/architecture.md.

python bench/floors.py          # writes the picture
python bench/floors.py --check  # exits with an error where the picture is not that of the table
"""

import re
import sys
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE, PICTURE = DOCS / "architecture.md", DOCS / "floors.svg"

# sizes in pixels
WIDTH, ROW, BOX, MARGIN, LEFT, CHARACTER, GAP = 960, 30, 22, 14, 190, 7.4, 6
COLORS = ["#e8eef5", "#e3f0e6", "#fbf0dc", "#f6e6e6", "#ece6f4"]
# modules that import torch, some of them only in functions
WITH_TORCH = frozenset(
    ("cli", "dcm", "experiments", "kernels", "mechanisms", "model", "report", "sampling", "storage", "training")
)


def floors(page: str) -> list[tuple[int, str, list[str]]]:
    """Rank, part of the package and modules of every row of the table, from the lowest rank up."""
    rows = re.findall(r"^\| (-?\d+) \| ([^|`]+) \| (`[^|]+`) \|$", page, re.MULTILINE)
    if not rows:
        raise SystemExit(f"{PAGE} has no table with the rows | rank | part | `module`, `module` |")
    return sorted((int(rank), part, re.findall(r"`(\w+)`", modules)) for rank, part, modules in rows)


def text(x: float, y: float, words: str, size: int, extra: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}"{extra}>{escape(words)}</text>'


def picture(page: str) -> str:
    rows = floors(page)[::-1]
    parts = list(dict.fromkeys(part for _, part, _ in rows))
    height = 2 * MARGIN + len(rows) * ROW
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif" fill="#222222">',
        "<title>Modules of mdcm by rank: each imports only modules of lower rows</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for part, color in zip(parts, COLORS, strict=True):
        own = [place for place, (_, name, _) in enumerate(rows) if name == part]
        top = MARGIN + own[0] * ROW
        drawn += [
            f'<rect x="{MARGIN}" y="{top + 1}" width="{WIDTH - 2 * MARGIN}" height="{len(own) * ROW - 2}" rx="5" '
            f'fill="{color}"/>',
            text(MARGIN + 10, top + len(own) * ROW / 2 + 4, part, 13, ' font-weight="bold"'),
        ]
    for place, (rank, _, modules) in enumerate(rows):
        top = MARGIN + place * ROW + (ROW - BOX) / 2
        drawn.append(text(LEFT - 12, top + 15, str(rank), 12, ' text-anchor="end" fill="#777777"'))
        x = float(LEFT)
        for name in modules:
            wide = len(name) * CHARACTER + 14
            border = 'stroke="#333333" stroke-width="2"' if name in WITH_TORCH else 'stroke="#b5b5b5"'
            drawn += [
                f'<rect x="{x:g}" y="{top:g}" width="{wide:g}" height="{BOX}" rx="4" fill="#ffffff" {border}/>',
                text(x + wide / 2, top + 15, name, 12, ' text-anchor="middle"'),
            ]
            x += wide + GAP
        if x > WIDTH - MARGIN:
            raise SystemExit(f"the modules of rank {rank} need {x:g} pixels: make the picture wider")
    drawn += [
        text(
            WIDTH - MARGIN - 8,
            height - MARGIN - 10,
            "thick: imports torch",
            12,
            ' text-anchor="end" font-style="italic"',
        ),
        "</svg>",
    ]
    return "\n".join(drawn) + "\n"


def main() -> None:
    made = picture(PAGE.read_text(encoding="utf-8"))
    if "--check" in sys.argv:
        current = PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == made
        sys.exit(0 if current else f"{PICTURE} does not show the table of {PAGE}: run bench/floors.py")
    PICTURE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
