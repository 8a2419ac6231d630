"""Who may import whom: a module imports only modules of a lower rank, and the graph half imports no torch."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import mdcm

PACKAGE = Path(mdcm.__file__).parent

ROOT = Path(__file__).parent.parent
FLOORS = ROOT / "bench" / "floors.py"


def floors():
    """The script that draws the table of ranks."""
    spec = importlib.util.spec_from_file_location("floors", FLOORS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# a package's own modules may import each other; the facade mdcm/__init__.py is looked at apart
TABLE = floors().floors((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
RANKS = {module: rank for rank, _, modules in TABLE for module in modules}
WITH_TORCH = floors().WITH_TORCH
HEAVY = {"torch", "triton", "safetensors"}
COMMAND_LINE = {"pydantic", "rich", "typer", "ruamel"}
COMMAND_LINE_MODULES = {"progress", "cli"}

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_of(tree: ast.AST, *, top_level: bool = False) -> set[str]:
    """Dotted names of what a module imports when it runs; ``if TYPE_CHECKING`` does not run."""
    found = set()
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        if top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the rank"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        pending += ast.iter_child_nodes(node)
    return found


def own(imported: set[str]) -> set[str]:
    """Modules of this package among dotted names; the package itself where a name is imported from the facade."""
    named = imported - {"mdcm.__version__"}
    parts = (name.split(".") for name in named if name.split(".")[0] == "mdcm")
    return {part[1] if len(part) > 1 and part[1] in RANKS else "mdcm" for part in parts}


def test_table_of_ranks_names_every_module_once_and_nothing_else():
    named = [module for _, _, modules in TABLE for module in modules]
    assert sorted(named) == sorted({module_of(path) for path in FILES} | {"_core", "kernels"})


def test_picture_of_ranks_is_that_of_the_table():
    done = subprocess.run([sys.executable, str(FLOORS), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_picture_shows_every_module_at_its_rank():
    drawn = ElementTree.fromstring((ROOT / "docs" / "floors.svg").read_text(encoding="utf-8"))
    texts = [(float(one.get("y")), one.text) for one in drawn.iter("{http://www.w3.org/2000/svg}text")]
    heights = {text: y for y, text in texts}
    for rank, _, modules in TABLE:
        assert {heights[module] for module in modules} == {heights[str(rank)]}


def test_a_table_without_rows_and_a_row_that_is_too_wide_are_refused():
    with pytest.raises(SystemExit, match="has no table with the rows"):
        floors().picture("| module | rank |")
    wide = ", ".join(f"`module_{number}`" for number in range(20))
    parts = "\n".join(f"| {rank} | part {rank} | `a{rank}` |" for rank in range(4))
    with pytest.raises(SystemExit, match="the modules of rank 9 need"):
        floors().picture(f"{parts}\n| 9 | part 9 | {wide} |")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_lower_ranks(path):
    module = module_of(path)
    assert module in RANKS, f"{module} has no rank yet: give it one in docs/architecture.md and run bench/floors.py"
    for other in own(imports_of(ast.parse(path.read_text(encoding="utf-8")))) - {module}:
        assert other != "mdcm", "modules import from the module that defines a name, not from the facade"
        assert RANKS[other] < RANKS[module], f"{module} ({RANKS[module]}) imports {other} ({RANKS[other]})"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_heavy_packages_only_where_they_belong(path):
    module, tree = module_of(path), ast.parse(path.read_text(encoding="utf-8"))
    anywhere = {name.split(".")[0] for name in imports_of(tree)}
    on_import = {name.split(".")[0] for name in imports_of(tree, top_level=True)}
    if module not in WITH_TORCH:
        assert not anywhere & HEAVY
    if module not in COMMAND_LINE_MODULES:
        assert not on_import & COMMAND_LINE


def test_facade_loads_only_modules_without_torch():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    loaded = own(imports_of(tree, top_level=True))
    assert "errors" in loaded
    assert not loaded & WITH_TORCH


def test_no_two_classes_have_one_name():
    homes: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


def test_no_module_has_the_name_of_a_public_function():
    names = {name for name in mdcm.__all__ if not isinstance(getattr(mdcm, name), type(ast))}
    assert not names & {module_of(path) for path in FILES}


def test_there_are_at_most_ten_ranks_and_twenty_two_modules():
    assert len(TABLE) <= 10
    assert len({module_of(path) for path in FILES}) <= 22


def test_kernels_import_nothing_of_the_package_but_themselves():
    kernels = Path(__file__).parent.parent / "kernels"
    files = sorted(kernels.rglob("*.py"))
    assert files
    for path in files:
        assert own(imports_of(ast.parse(path.read_text(encoding="utf-8")))) <= {"kernels"}


def test_layering_rules_catch_what_they_are_for():
    tree = ast.parse(
        "if TYPE_CHECKING:\n    from mdcm.cli.app import main\nfrom mdcm.model import fit\nfrom mdcm import ADMG\n"
        "def f():\n    import rich.console\n"
    )
    assert own(imports_of(tree)) == {"model", "mdcm"}
    assert "rich.console" in imports_of(tree)
    assert "rich.console" not in imports_of(tree, top_level=True)


def test_graphs_and_plans_load_no_heavy_package():
    program = (
        "import sys, mdcm\n"
        "graph = mdcm.ADMG.from_string('D -> I -> A; D <-> A')\n"
        "plan = mdcm.plan(graph, objective='adversarial')\n"
        "plan.explain(1, 'I'), plan.to_json(), plan.to_svg(), str(plan)\n"
        "heavy = {'torch', 'triton', 'safetensors', 'pydantic', 'rich', 'typer', 'ruamel', 'pandas', 'matplotlib'}\n"
        "print(sorted(heavy & {name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
