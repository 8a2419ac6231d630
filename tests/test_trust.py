"""What SECURITY.md says of code: nothing that is read is executed, and who gives code is named."""

import ast
from pathlib import Path

import numpy as np
import pytest

import mdcm

PACKAGE = Path(mdcm.__file__).parent
# of whom, and why
MAY_IMPORT = {
    # names of the package itself
    "__init__.py",
    # --mechanism, which is trusted
    "experiments/command.py",
}
MAY_UNPICKLE = {
    # what this program sent to a process that it started
    "engines.py",
}
MAY_START = {
    # the process that talks to Ray
    "engines.py",
    # this program, to measure its memory
    "experiments/large.py",
}
UNPICKLING = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def called(tree):
    """Every call, by the name that is called, with its arguments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_nothing_evaluates_a_text():
    for name, tree in modules():
        for function, _ in called(tree):
            assert function not in {"eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"}, name
            assert function not in {"os.system", "os.popen", "runpy.run_path", "runpy.run_module"}, name


def test_nothing_unpickles_what_was_read():
    for name, tree in modules():
        for function, node in called(tree):
            if function in {"np.load", "numpy.load"}:
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert options.get("allow_pickle") == "False", name
            assert function not in {"torch.load", "torch.jit.load", "pd.read_pickle", "yaml.load"}, name
        imported = {
            alias.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
        }
        assert not imported & UNPICKLING or name in MAY_UNPICKLE, name


def test_modules_of_a_name_that_was_read_are_imported_for_mechanisms_alone():
    for name, tree in modules():
        for function, node in called(tree):
            if function.endswith("import_module") and name not in MAY_IMPORT:
                first = node.args[0]
                # the name is in the program, or begins with that of a package that is
                constant = isinstance(first, ast.Constant)
                begun = isinstance(first, ast.JoinedStr) and isinstance(first.values[0], ast.Constant)
                assert constant or (begun and str(first.values[0].value).count(".")), (name, ast.unparse(node))


def test_one_module_starts_processes():
    for name, tree in modules():
        for function, _ in called(tree):
            if function.startswith("subprocess.") or function in {"Popen", "os.fork", "os.execv", "os.spawnv"}:
                assert name in MAY_START, name


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_pickled_objects_are_refused(tmp_path, name):
    class Obeyed:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    content = np.array([Obeyed()], dtype=object)
    if name.endswith("z"):
        np.savez(tmp_path / name, a=content, allow_pickle=True)
    else:
        np.save(tmp_path / name, content, allow_pickle=True)
    with pytest.raises(mdcm.MdcmError):
        mdcm.data.read_images(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_lists_of_names_make_no_more_than_a_million_edges():
    left, right = (", ".join(f"{side}{number}" for number in range(1001)) for side in "vw")
    with pytest.raises(mdcm.GraphError, match=r"these lists make more than 1,000,000 edges"):
        mdcm.ADMG.from_string(f"{left} -> {right}")
