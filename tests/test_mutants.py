"""What the fuzzer reads: changed runs and checkpoints have right checksums, and are models or errors of mdcm."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

import mdcm

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
import mutants

# seconds that no hostile directory may take
LONGEST = 10
pytestmark = pytest.mark.filterwarnings("ignore")


def outcomes(count, seed, act):
    """How many mutants came back as models, and what was said of the others."""
    rng, whole, errors = np.random.default_rng(seed), 0, []
    for _ in range(count):
        start = time.process_time()
        try:
            act(rng.bytes(40))
            whole += 1
        except mdcm.MdcmError as error:
            errors.append(str(error))
        assert time.process_time() - start < LONGEST
    assert not any("its checksum" in error for error in errors)
    assert all(len(error) < 5000 for error in errors)
    return whole, errors


def test_runs(tmp_path):
    def act(data):
        mutants.use(tmp_path / "run", mutants.mutated_run(data, tmp_path / "run"))

    whole, errors = outcomes(60, 0, act)
    assert whole >= 3
    assert len(errors) >= 10


def test_checkpoints(tmp_path):
    def act(data):
        mutants.resume(mutants.mutated_checkpoint(data, tmp_path / "run"), tmp_path / "run")

    whole, errors = outcomes(30, 0, act)
    assert whole >= 1
    assert len(errors) >= 5


@pytest.mark.parametrize("kind", mutants.RUNS)
def test_a_run_without_a_change_is_read(kind, tmp_path):
    mutants.run_of(kind)
    mutants.use(mutants.folder() / kind, kind)
