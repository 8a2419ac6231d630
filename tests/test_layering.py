"""Who may import whom: a module imports only modules of a lower rank, and the graph half imports no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mdcm

PACKAGE = Path(mdcm.__file__).parent

# a package's own modules may import each other; the facade mdcm/__init__.py is looked at apart
RANKS = {
    name: rank
    for rank, names in {
        -1: "printable",
        0: "advice documents errors limits",
        1: "_core delimited disk kernels levels",
        2: "edges formats diagram factors files intervals page pictures progress variables",
        3: "graph texts",
        4: "plan query metrics schema",
        5: "scm",
        6: "identify",
        7: "data rundir",
        8: "allocation checking mechanisms",
        9: "objectives",
        10: "dcm",
        11: "sampling",
        12: "engines",
        13: "train answers",
        14: "answering saved",
        15: "model",
        16: "doctor drafts experiments options report spec",
        17: "provenance",
        18: "commands",
        19: "cli",
    }.items()
    for name in names.split()
}
TORCH_FROM_RANK = 7
HEAVY = {"torch", "triton", "safetensors"}
COMMAND_LINE = {"pydantic", "rich", "typer", "ruamel"}
COMMAND_LINE_MODULES = {"progress", "spec", "drafts", "commands", "cli"}

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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_lower_ranks(path):
    module = module_of(path)
    assert module in RANKS, f"{module} has no rank yet: give it one here and in the picture of the layout"
    for other in own(imports_of(ast.parse(path.read_text(encoding="utf-8")))) - {module}:
        assert other != "mdcm", "modules import from the module that defines a name, not from the facade"
        assert RANKS[other] < RANKS[module], f"{module} ({RANKS[module]}) imports {other} ({RANKS[other]})"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_heavy_packages_only_where_they_belong(path):
    module, tree = module_of(path), ast.parse(path.read_text(encoding="utf-8"))
    anywhere = {name.split(".")[0] for name in imports_of(tree)}
    on_import = {name.split(".")[0] for name in imports_of(tree, top_level=True)}
    if RANKS[module] < TORCH_FROM_RANK:
        assert not anywhere & HEAVY
    if module not in COMMAND_LINE_MODULES:
        assert not on_import & COMMAND_LINE


def test_facade_loads_only_modules_without_torch():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    loaded = own(imports_of(tree, top_level=True))
    assert "errors" in loaded
    assert all(RANKS[module] < TORCH_FROM_RANK for module in loaded)


def test_kernels_import_nothing_of_the_package_but_themselves():
    kernels = Path(__file__).parent.parent / "kernels"
    files = sorted(kernels.rglob("*.py"))
    assert files
    for path in files:
        assert own(imports_of(ast.parse(path.read_text(encoding="utf-8")))) <= {"kernels"}


def test_layering_rules_catch_what_they_are_for():
    tree = ast.parse(
        "if TYPE_CHECKING:\n    from mdcm.cli import main\nfrom mdcm.train import fit\nfrom mdcm import ADMG, plan\n"
        "def f():\n    import rich.console\n"
    )
    assert own(imports_of(tree)) == {"train", "plan", "mdcm"}
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
