"""One thread per process, fixed seeds, tests over all cores, and Triton's interpreter where there is no GPU."""

import os
from pathlib import Path

# read by libraries when they are first imported, and by the processes that tests start
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import HealthCheck, settings

# read by Triton when it is first imported, so it must be set before anything imports it
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

torch.set_num_threads(1)

# how long an example takes says how busy the machine is
settings.register_profile(
    "fixed", derandomize=True, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("fixed")

# a worker needs up to a gigabyte
_MOST_WORKERS = 8


def pytest_xdist_auto_num_workers(config):
    """As many workers as cores, or none where single files or tests are named: these start at once, under a debugger.

    Example:
        ``pytest`` runs over all cores, ``pytest tests/test_plan.py`` in this process, ``pytest -n 4 FILE`` over four.
    """
    if all(not Path(argument.split("::")[0]).is_dir() for argument in config.args):
        return 0
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, _MOST_WORKERS)


@pytest.fixture
def ctrl_c():
    """SIGINT interrupts, also where the tests themselves ignore it: :func:`command_line.interruptible`."""
    # mdcm is imported by tests that need it
    from command_line import interruptible

    with interruptible():
        yield


@pytest.fixture(scope="class")
def by_drawing():
    """Answers from draws, also where they could be summed up exactly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mdcm.sampling.exact._LARGEST", 0)
        yield
