"""The documentation's programs run and print what stands there, its commands work, and every public name is in it."""

import ast
import contextlib
import functools
import io
import re
import shlex
from pathlib import Path

import pytest
import torch
from command_line import succeed

import mdcm

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "```python\n" in path.read_text(encoding="utf-8"))


# `path::Class.method` of Python, and the same of C++, whose names are looked for as words
REFERENCE = re.compile(r"`([\w/.-]+\.(?:py|cpp|hpp))::([\w.]+)`")


@functools.cache
def lacking(path: str, name: str) -> str | None:
    """Why a reference of a page leads nowhere."""
    file = ROOT / path
    if not file.is_file():
        return f"{path} is not a file"
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return next((f"{path} has no {part}" for part in name.split(".") if not re.search(rf"\b{part}\b", text)), None)
    level = ast.parse(text).body
    for part in name.split("."):
        found = [
            node
            for node in level
            if (isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part)
            or (isinstance(node, ast.Assign) and any(ast.unparse(one) == part for one in node.targets))
        ]
        if not found:
            return f"{path} has no {name}: {part} is not defined there"
        level = getattr(found[-1], "body", [])
    return None


def test_there_are_tutorials():
    assert len(PAGES) >= 9


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_programs_print_what_stands_there(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    namespace = {"__name__": "__main__"}
    try:
        for match in re.finditer(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", page.read_text("utf-8"), re.DOTALL):
            program, output = match.groups()
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(program, str(page), "exec"), namespace)
            assert printed.getvalue() == (output or "")
    finally:
        torch.set_num_threads(threads)


def test_commands_of_the_first_page_work_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    graph = mdcm.ADMG.from_string("X -> Z -> Y; X <-> Y")
    mdcm.scm.random_discrete(graph, levels=2, seed=0).sample(500, seed=0).to_csv("study.csv", index=False)
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / "getting-started.md").read_text("utf-8"), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines() if line.startswith("mdcm ")]
    assert len(commands) >= 9
    for command in commands:
        succeed(*shlex.split(command)[1:])
    assert (tmp_path / "run" / "report.html").exists()


def test_every_public_name_is_in_the_reference():
    reference = (DOCS / "reference.md").read_text("utf-8")
    # modules and errors are documented as a whole
    whole = {"check", "metrics", "scm", "__version__"} | set(mdcm.errors.__all__)
    for name in mdcm.__all__:
        if name not in whole:
            assert f":: mdcm.{name}\n" in reference, name
        assert name.startswith("__") or getattr(mdcm, name).__doc__, name


def test_every_tutorial_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text("utf-8")
    for page in DOCS.rglob("*.md"):
        name = str(page.relative_to(DOCS).with_suffix(""))
        assert name == "index" or re.search(rf"^{name}$", index, re.MULTILINE), name


def test_every_command_is_in_the_table_of_commands():
    table = (DOCS / "commands.md").read_text("utf-8")
    for name in re.findall(r"^  (\w+) +[A-Z]", succeed("--help").out, re.MULTILINE):
        assert f"`mdcm {name}" in table, name


@pytest.mark.parametrize("page", ["architecture", "sources"])
def test_code_that_a_page_names_exists(page):
    references = REFERENCE.findall((DOCS / f"{page}.md").read_text("utf-8"))
    assert len(references) >= 25
    assert [why for one in references if (why := lacking(*one))] == []


def rows_of(text):
    """Cells of every row of every table of sources.md: name, source, code and tests."""
    lines = re.findall(r"^\| (?!-)(.+) \|$", text, re.MULTILINE)
    return [row for row in ([cell.strip() for cell in line.split("|")] for line in lines) if row[3] != "tests"]


def test_every_row_of_sources_names_code_and_tests():
    rows = rows_of((DOCS / "sources.md").read_text("utf-8"))
    assert len(rows) >= 60
    for name, _, code, tests in rows:
        assert REFERENCE.findall(code), name
        assert REFERENCE.findall(tests), name
        assert all(path.startswith("tests/") for path, _ in REFERENCE.findall(tests)), name
        assert not any(path.startswith("tests/") for path, _ in REFERENCE.findall(code)), name


def test_sources_names_every_algorithm_and_numbered_statement_of_the_paper():
    part, _ = (DOCS / "sources.md").read_text("utf-8").split("## Graphs and identification")
    named = set()
    for _, where, *_ in rows_of(part):
        kind = ""
        for word, number in re.findall(r"(section|[A-Z][a-z]{4})|([A-Z]\.\d+|\d+(?:\.\d+)?)", where):
            kind = word or kind
            named.add((kind, number))
    wanted = {"Algor": [str(number) for number in range(1, 11)]}
    wanted["Defin"] = ["3.1", "3.2", "4.1", "4.3", "4.4", "D.1", "D.2", "D.4", "D.5", "D.9", "D.11"]
    wanted["Theor"] = ["4.2", "4.5", "C.3", "D.3", "D.16", "D.17", "D.18"]
    wanted["Propo"] = ["C.7", "D.6", "D.12", "D.13", "D.14", "D.15"]
    wanted |= {"Lemma": ["D.7"], "Corol": ["C.4", "C.6", "D.8"]}
    assert {(kind, number) for kind, numbers in wanted.items() for number in numbers} <= named


@pytest.mark.parametrize("page", ["architecture", "sources"])
def test_files_that_a_page_names_exist(page):
    for path in re.findall(
        r"`((?:mdcm|csrc|kernels|tests|bench|docs)/[\w./-]*)`", (DOCS / f"{page}.md").read_text("utf-8")
    ):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(
    ("path", "name", "why"),
    [
        ("mdcm/model/model.py", "Model.query", None),
        ("mdcm/model/model.py", "Model.ask", "ask is not defined there"),
        ("mdcm/model/model.py", "query", "query is not defined there"),
        ("mdcm/no_model.py", "Model", "is not a file"),
        ("csrc/planning.hpp", "HGraph.Needs", None),
        ("csrc/planning.hpp", "HGraph.Wants", "has no Wants"),
    ],
)
def test_a_reference_that_leads_nowhere_is_noticed(path, name, why):
    found = lacking(path, name)
    assert found is None if why is None else why in found
