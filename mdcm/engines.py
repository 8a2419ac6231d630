"""Engines that run independent tasks in parallel, on a Ray cluster."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from mdcm.errors import MdcmError, PlanError

__all__ = ["ClusterError", "Engine", "RayEngine", "engine_of"]

# seconds to wait for cancelled tasks to stop
_STOP_TIMEOUT = 20
# seconds between checks that the cluster is alive
_CHECK_INTERVAL = 10.0
# seconds without an answer after which the head counts as lost; after 60 Ray ends the process that waits for it
_HEAD_TIMEOUT = 20.0
# characters of Ray's messages that are repeated
_LONGEST = 300


class ClusterError(MdcmError):
    """Failure of the cluster that runs the tasks; work can be resumed from checkpoints."""


class Engine(Protocol):
    """Runs independent tasks."""

    def open(self) -> AbstractContextManager[None]:
        """Context in which all calls of :meth:`map` share resources, rather than start and stop them each time."""

    def map(
        self, function: Callable[[Any, Any], Any], shared: Any, tasks: Sequence[Any], *, gpu: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """``function(shared, task)`` for every task, in order of completion.

        Args:
            function: Module-level function without side effects other than on files.
            shared: Argument common to all tasks.
            tasks: Argument of each task.
            gpu: Whether a task needs a GPU.

        Yields:
            Index in ``tasks``, and result.

        Raises:
            MdcmError: If the function raises it.
            OSError: If the function raises it.
        """


@dataclass(frozen=True)
class RayEngine:
    """Runs tasks on a Ray cluster; a task whose worker is lost is run again.

    A cluster that was joined with ``ray.init`` is used as it is. Otherwise the cluster of ``RAY_ADDRESS`` is joined, or
    a local cluster started, for as long as it is needed. A separate process does so, because Ray ends a process that is
    connected to a cluster which loses certain parts.

    Args:
        cpus_per_task: CPU cores per task.
        gpus_per_task: GPUs per task that needs a GPU; with a fraction several tasks share a GPU.
        retries: Number of times that a task is run again after its worker was lost.
        num_cpus: CPU cores of a local cluster; all of the machine by default.

    References:
        Moritz et al. (2018), Ray: a distributed framework for emerging AI applications.
    """

    cpus_per_task: float = 1.0
    gpus_per_task: float = 0.25
    retries: int = 4
    num_cpus: int | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """As :meth:`Engine.open`.

        Raises:
            ClusterError: If no cluster can be started or joined.
        """
        if _ray().is_initialized() or _open.driver is not None:
            yield
            return
        driver = _open.driver = _Driver(self)
        try:
            driver.receive()
            yield
        finally:
            _open.driver = None
            driver.close()

    def map(
        self, function: Callable[[Any, Any], Any], shared: Any, tasks: Sequence[Any], *, gpu: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """As :meth:`Engine.map`; the shared argument is put in the object store once."""
        if _ray().is_initialized():
            yield from self._map(function, shared, tasks, gpu=gpu)
            return
        with self.open():
            driver = _open.driver
            assert driver is not None
            driver.send((function, shared, tasks, gpu))
            is_complete = False
            try:
                while (message := driver.receive()) is not None:
                    yield message
                is_complete = True
            except (ClusterError, MdcmError, OSError):
                is_complete = True
                raise
            finally:
                if not is_complete:
                    # tasks of an abandoned call must not go on writing files
                    _open.driver = None
                    driver.close()

    @contextmanager
    def _joined(self) -> Iterator[None]:
        """Join a cluster in this process."""
        ray = _ray()
        with _silenced(ray):
            try:
                with _kept_signals():
                    ray.init(
                        num_cpus=self.num_cpus, include_dashboard=False, log_to_driver=False, configure_logging=False,
                        # a single thread of torch per worker, as here
                        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
                    )  # fmt: skip
            except Exception as error:
                # Ray raises its own errors, and those of Python and of the network
                raise ClusterError(f"no Ray cluster can be started or joined: {_brief(error)}") from error
            try:
                yield
            finally:
                ray.shutdown()

    def _map(
        self, function: Callable[[Any, Any], Any], shared: Any, tasks: Sequence[Any], *, gpu: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """Run tasks in a process that has joined a cluster."""
        ray = _ray()
        with _plain_errors(ray):
            # submitting a function would wait for a dead head
            _check_alive(ray)
            common = ray.put(shared)
        remote = ray.remote(
            num_cpus=self.cpus_per_task, num_gpus=self.gpus_per_task if gpu else 0, max_retries=self.retries
        )(_guarded)
        waiting = {remote.remote(function, common, task): index for index, task in enumerate(tasks)}
        is_lost = False
        checked = time.monotonic()
        try:
            while waiting:
                with _plain_errors(ray):
                    ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_CHECK_INTERVAL)
                    if not ready or time.monotonic() - checked > _CHECK_INTERVAL:
                        _check_alive(ray)
                        checked = time.monotonic()
                    if not ready:
                        continue
                    error, result = ray.get(ready[0])
                index = waiting.pop(ready[0])
                if error is not None:
                    raise error
                yield index, result
        except ClusterError:
            is_lost = True
            raise
        finally:
            if waiting and not is_lost:
                # tasks of an abandoned call must not go on writing files
                with _plain_errors(ray):
                    for task in waiting:
                        ray.cancel(task, force=True)
                    ray.wait(list(waiting), num_returns=len(waiting), timeout=_STOP_TIMEOUT)


class _Driver:
    """Process that joins a cluster and runs tasks on it for this process.

    Args:
        engine: The engine, with its settings.
    """

    def __init__(self, engine: RayEngine) -> None:
        self._pickle = _ray().cloudpickle
        local, remote = socket.socketpair()
        with remote:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from mdcm.engines import drive; drive({remote.fileno()})"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[remote.fileno()],
                # it can import all modules that this process can
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},  # noqa: PTH109
                # Ctrl-C reaches only this process, which then closes the other
                start_new_session=True,
            )
        self._connection = Connection(local.detach())
        self.send(engine)

    def send(self, content: Any) -> None:
        """Send an object.

        Raises:
            ClusterError: If the process has ended.
        """
        try:
            self._connection.send_bytes(self._pickle.dumps(content))
        except OSError:
            raise _ended() from None

    def receive(self) -> tuple[int, Any] | None:
        """Receive the next result; None after the last.

        Raises:
            ClusterError: If the process has ended.
            Exception: If it was raised in the process.
        """
        try:
            error, message = self._pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise _ended() from None
        if error is not None:
            raise error
        result: tuple[int, Any] | None = message
        return result

    def close(self) -> None:
        """End the process and all that it started."""
        if self._connection.closed:
            return
        self._connection.close()
        try:
            self._process.wait(2 * _STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # parts of a cluster that lost its head would wait for it
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _ended() -> ClusterError:
    return ClusterError("the Ray cluster has failed: a part of it was lost, and Ray has ended the process that used it")


class _Open(threading.local):
    """Open driver of a thread."""

    driver: _Driver | None = None


_open = _Open()


def drive(handle: int) -> None:
    """Run tasks on a cluster for another process: the main function of a driver.

    Args:
        handle: File descriptor of a socket to the other process, which sends the engine and calls and receives results.
    """
    pickle = _ray().cloudpickle
    connection = Connection(handle)
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                messages.put(connection.recv_bytes())
        except (EOFError, OSError):
            # the other process has ended
            messages.put(None)
            os.kill(os.getpid(), signal.SIGINT)

    def reply(error: Exception | None, result: Any = None) -> None:
        connection.send_bytes(pickle.dumps((error, result)))

    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=listen, daemon=True).start()
    try:
        engine: RayEngine = pickle.loads(messages.get())
        try:
            with engine._joined():
                reply(None)
                while (call := messages.get()) is not None:
                    function, shared, tasks, gpu = pickle.loads(call)
                    try:
                        for indexed_result in engine._map(function, shared, tasks, gpu=gpu):
                            reply(None, indexed_result)
                        reply(None)
                    except Exception as error:
                        reply(error)
        except Exception as error:
            reply(error)
    except (KeyboardInterrupt, OSError):
        pass


def engine_of(engine: str | Engine) -> Engine | None:
    """Engine by name; None for this process.

    Args:
        engine: "local", "ray", or an engine.

    Raises:
        PlanError: If the name is unknown.
        MdcmError: If Ray is needed but not installed.

    Example:
        >>> engine_of("local") is None
        True
    """
    if not isinstance(engine, str):
        return engine
    if engine == "local":
        return None
    if engine != "ray":
        raise PlanError(f"there is no engine {engine!r}; use 'local' or 'ray'")
    if importlib.util.find_spec("ray") is None:
        raise MdcmError("the engine 'ray' needs Ray, which is not installed: pip install 'mdcm[ray]'")
    return RayEngine()


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MdcmError("the engine 'ray' needs Ray, which is not installed: pip install 'mdcm[ray]'") from error


def _guarded(function: Callable[[Any, Any], Any], shared: Any, task: Any) -> tuple[MdcmError | OSError | None, Any]:
    """Expected error of a task, or its result; Ray would wrap a raised error in its own."""
    try:
        return None, function(shared, task)
    except (MdcmError, OSError) as error:
        return error, None


@contextmanager
def _plain_errors(ray: Any) -> Iterator[None]:
    """Replace Ray's errors by a ClusterError that says what happened; raise other errors of a task unchanged."""
    errors = ray.exceptions
    try:
        yield
    except errors.RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, Exception) else RuntimeError(_brief(error))) from error
    except errors.WorkerCrashedError as error:
        raise ClusterError(f"workers were lost repeatedly: {_brief(error)}") from error
    except errors.OutOfMemoryError as error:
        raise ClusterError(f"a worker ran out of memory: {_brief(error)}") from error
    except errors.RayError as error:
        raise ClusterError(f"the Ray cluster has failed: {type(error).__name__}: {_brief(error)}") from error


def _check_alive(ray: Any) -> None:
    """Raise ClusterError if the cluster has lost its head, or all nodes that could run tasks."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    deadline = time.monotonic() + _HEAD_TIMEOUT
    while not _answers(host.strip("[]"), int(port)):
        # the head may be restarting
        if time.monotonic() > deadline:
            raise ClusterError("the Ray cluster has failed: its head (GCS) no longer answers")
        time.sleep(1.0)
    if not any(node.get("Alive") for node in ray.nodes()):
        raise ClusterError("the Ray cluster has failed: none of its nodes is alive")


def _answers(host: str, port: int) -> bool:
    """Whether a server accepts connections at this address."""
    try:
        socket.create_connection((host, port), timeout=5.0).close()
    except OSError:
        return False
    return True


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


@contextmanager
def _silenced(ray: Any) -> Iterator[None]:
    """Suppress logs of Ray's processes, and advice about its defaults."""
    logger = logging.getLogger("ray")
    driver: Any = getattr(getattr(ray, "_private", None), "worker", None)
    level, print_output = logger.level, getattr(driver, "print_to_stdstream", None)
    logger.setLevel(logging.CRITICAL)
    try:
        if print_output is not None:
            driver.print_to_stdstream = lambda *args, **kwargs: None
        yield
    finally:
        logger.setLevel(level)
        if print_output is not None:
            driver.print_to_stdstream = print_output


@contextmanager
def _kept_signals() -> Iterator[None]:
    """Keep the handler of SIGTERM, which Ray replaces by one with another exit code."""
    former = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and former is not None:
            signal.signal(signal.SIGTERM, former)
