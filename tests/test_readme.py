"""README's program prints what README says it prints."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_readme_program_prints_its_output(tmp_path):
    match = re.search(r"```python\n(.*?)```\s*```text\n(.*?)```", README.read_text(), re.DOTALL)
    assert match is not None, "README has no program followed by its output"
    program, output = match.groups()
    assert len(program.strip().splitlines()) <= 15
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == output


def test_table_of_results_is_that_of_the_committed_runs():
    table = README.parent / "bench" / "table.py"
    done = subprocess.run([sys.executable, str(table), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
