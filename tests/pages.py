"""HTML pages as a parser and as a browser see them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """Counts what a reader needs, and keeps what should not be there."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.outside, self.faults = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        if "id" in found:
            self.ids.append(found["id"])
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = found.get(name)
            if value and not value.startswith(("#", "data:")):
                self.outside.append((tag, name, value))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def of(self, tag):
        return [found for name, found in self.tags if name == tag]


def browse(file, folder, width):
    return subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0",
            f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip


def look(report, folder):
    """Open a report in a browser, on a phone and on a desk; the number of its pictures, all of which are seen."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    # one small script of the test measures what the page itself does not
    probe = (
        "<script>const wide = [...document.querySelectorAll('svg, img')].map(s => s.getBoundingClientRect().width);"
        "document.body.dataset.seen = JSON.stringify({over: document.documentElement.scrollWidth - innerWidth,"
        " wide: Math.min(...wide), count: wide.length});</script></body>"
    )
    (folder / "page.html").write_text(report.read_text().replace("</body>", probe))
    (folder / "bad.html").write_text("<script>console.error('seen'); missing()</script>")
    assert "CONSOLE" in browse(folder / "bad.html", folder, 1280).stderr, "complaints would be noticed"
    counts = set()
    for width in (500, 1280):
        done = browse(folder / "page.html", folder, width)
        assert "CONSOLE" not in done.stderr
        seen = json.loads(re.search(r'data-seen="([^"]*)"', done.stdout)[1].replace("&quot;", '"'))
        assert seen["wide"] > 200
        assert seen["over"] <= 0, "the page does not scroll sideways"
        counts.add(seen["count"])
    (count,) = counts
    return count
