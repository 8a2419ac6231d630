"""The suite itself: processes that tests start end with them, Ctrl-C reaches them, workers run whole directories."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from command_line import ending, interruptible
from conftest import pytest_xdist_auto_num_workers

SLEEPERS = {
    "Python": [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"],
    "shell": ["sh", "-c", "echo; exec sleep 60"],
    "deaf": ["sh", "-c", "trap '' INT TERM HUP; echo; exec sleep 60"],
}


def ready(program):
    started = subprocess.Popen(SLEEPERS[program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    started.stdout.readline()
    return started


@pytest.fixture(params=[signal.SIG_IGN, signal.SIG_DFL, signal.default_int_handler], ids=["ignored", "default", "own"])
def handler(request):
    former = signal.signal(signal.SIGINT, request.param)
    yield request.param
    signal.signal(signal.SIGINT, former)


@pytest.mark.parametrize("program", ["Python", "shell"])
def test_ctrl_c_reaches_a_process_whatever_the_tests_do_with_it(handler, program):
    with interruptible(), ending(ready(program)) as started:
        started.send_signal(signal.SIGINT)
        assert started.wait(30) == -signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is handler


def test_ctrl_c_reaches_this_process_whatever_it_did_with_it(handler):
    with interruptible(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("program", SLEEPERS)
def test_no_process_outlives_a_test_that_fails(program):
    started = ready(program)
    with pytest.raises(ZeroDivisionError), ending(started):
        raise ZeroDivisionError
    assert started.returncode == -signal.SIGKILL


def test_a_process_that_ended_by_itself_keeps_its_code():
    with ending(subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])) as started:
        assert started.wait(60) == 7
    assert started.returncode == 7


@pytest.mark.parametrize(
    ("arguments", "some"),
    [
        (["tests"], True),
        (["tests/test_suite.py", "tests"], True),
        (["tests/test_suite.py"], False),
        (["tests/test_suite.py::test_workers", "tests/test_plan.py"], False),
    ],
)
def test_workers_are_for_whole_directories(arguments, some, request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)
    number = pytest_xdist_auto_num_workers(SimpleNamespace(args=arguments))
    assert 1 <= number <= 8 if some else number == 0


def test_one_thread_each():
    assert torch.get_num_threads() == 1
    assert os.environ["OMP_NUM_THREADS"] == "1"
