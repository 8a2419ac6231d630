"""Where independent pieces of work run: in this process, or on a Ray cluster."""

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

# seconds to wait for tasks that are stopped
_PATIENCE = 20
# seconds after which it is looked whether the cluster is still there
_LOOK = 10.0
# seconds for which the head of a cluster may be away; after 60 Ray ends the process that waits for it
_AWAY = 20.0
_LONGEST = 300


class ClusterError(MdcmError):
    """The cluster that work runs on has failed; what is in checkpoints can be gone on with."""


class Engine(Protocol):
    """Runs independent pieces of work."""

    def open(self) -> AbstractContextManager[None]:
        """Keep ready for several calls of :meth:`map`, rather than to begin and end with each."""

    def map(
        self, function: Callable[[Any, Any], Any], shared: Any, tasks: Sequence[Any], *, gpu: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """``function(shared, task)`` of every task, as they are done.

        Args:
            function: A function of a module, without side effects but for files.
            shared: What all tasks have in common.
            tasks: What each has of its own.
            gpu: Whether a task needs a GPU.

        Yields:
            Place in ``tasks``, and result.

        Raises:
            MdcmError: What the function raised, if it was one.
            OSError: Likewise.
        """


@dataclass(frozen=True)
class RayEngine:
    """Runs tasks on a Ray cluster; a task whose worker is lost is run again.

    A cluster that was joined with ``ray.init`` is used as it is; otherwise one is started on this machine, or the one
    of ``RAY_ADDRESS`` joined, for as long as it is needed. That is done by a process of its own, because Ray ends the
    process that talks to a cluster of which certain parts are lost.

    Args:
        cpus_per_task: CPU cores that a task takes.
        gpus_per_task: GPUs that a task takes, where it needs one; a fraction lets several share one.
        retries: How often a task is run again after its worker was lost.
        num_cpus: CPU cores of a cluster that is started here; those of the machine by default.

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
            ClusterError: If no cluster can be started.
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
        """As :meth:`Engine.map`; the shared part is put in the object store once."""
        if _ray().is_initialized():
            yield from self._map(function, shared, tasks, gpu=gpu)
            return
        with self.open():
            driver = _open.driver
            assert driver is not None
            driver.send((function, shared, tasks, gpu))
            ended = False
            try:
                while (message := driver.receive()) is not None:
                    yield message
                ended = True
            except (ClusterError, MdcmError, OSError):
                ended = True
                raise
            finally:
                if not ended:
                    # of a call that is given up nothing may go on writing files
                    _open.driver = None
                    driver.close()

    @contextmanager
    def _joined(self) -> Iterator[None]:
        """A cluster that this process has joined."""
        ray = _ray()
        with _silenced(ray):
            try:
                with _own_signals():
                    ray.init(
                        num_cpus=self.num_cpus, include_dashboard=False, log_to_driver=False, configure_logging=False,
                        # torch in every worker on one thread, as here
                        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
                    )  # fmt: skip
            except Exception as error:
                # it raises errors of its own, of Python and of the network
                raise ClusterError(f"no Ray cluster can be started or joined: {_brief(error)}") from error
            try:
                yield
            finally:
                ray.shutdown()

    def _map(
        self, function: Callable[[Any, Any], Any], shared: Any, tasks: Sequence[Any], *, gpu: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """As :meth:`map`, in a process that has joined a cluster."""
        ray = _ray()
        with _saying_plainly(ray):
            # to send a function asks the head, and would wait for it
            _refuse_dead(ray)
            common = ray.put(shared)
        remote = ray.remote(
            num_cpus=self.cpus_per_task, num_gpus=self.gpus_per_task if gpu else 0, max_retries=self.retries
        )(_guarded)
        waiting = {remote.remote(function, common, task): place for place, task in enumerate(tasks)}
        is_lost = False
        looked = time.monotonic()
        try:
            while waiting:
                with _saying_plainly(ray):
                    ready, _ = ray.wait(list(waiting), num_returns=1, timeout=_LOOK)
                    if not ready or time.monotonic() - looked > _LOOK:
                        _refuse_dead(ray)
                        looked = time.monotonic()
                    if not ready:
                        continue
                    error, result = ray.get(ready[0])
                place = waiting.pop(ready[0])
                if error is not None:
                    raise error
                yield place, result
        except ClusterError:
            is_lost = True
            raise
        finally:
            if waiting and not is_lost:
                # of a call that is given up nothing may go on writing files
                with _saying_plainly(ray):
                    for one in waiting:
                        ray.cancel(one, force=True)
                    ray.wait(list(waiting), num_returns=len(waiting), timeout=_PATIENCE)


class _Driver:
    """A process that joins a cluster and runs tasks on it for this one.

    Args:
        engine: Settings.
    """

    def __init__(self, engine: RayEngine) -> None:
        self._pickle = _ray().cloudpickle
        own, other = socket.socketpair()
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from mdcm.engines import drive; drive({other.fileno()})"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
                # what is defined here is found there
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},  # noqa: PTH109
                # Ctrl-C is meant for this process, which then closes that one
                start_new_session=True,
            )
        self._connection = Connection(own.detach())
        self.send(engine)

    def send(self, content: Any) -> None:
        """Send what is asked.

        Raises:
            ClusterError: If the process has ended.
        """
        try:
            self._connection.send_bytes(self._pickle.dumps(content))
        except OSError:
            raise _ended() from None

    def receive(self) -> tuple[int, Any] | None:
        """The next result; None after the last one.

        Raises:
            ClusterError: If the process has ended.
            Exception: What was raised there.
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
        """End it, and what it has started."""
        if self._connection.closed:
            return
        self._connection.close()
        try:
            self._process.wait(2 * _PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # parts of a cluster whose head is gone wait for it
            with suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _ended() -> ClusterError:
    return ClusterError("the Ray cluster has failed: a part of it was lost, and Ray has ended the process that used it")


class _Open(threading.local):
    """The driver that a thread has open."""

    driver: _Driver | None = None


_open = _Open()


def drive(handle: int) -> None:
    """Run tasks on a cluster for another process, in one that may be lost: the program of a driver.

    Args:
        handle: A socket that engine and calls come from, and results go to.
    """
    pickle = _ray().cloudpickle
    connection = Connection(handle)
    asked: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        try:
            while True:
                asked.put(connection.recv_bytes())
        except (EOFError, OSError):
            # whoever asked has left
            asked.put(None)
            os.kill(os.getpid(), signal.SIGINT)

    def tell(error: Exception | None, message: Any = None) -> None:
        connection.send_bytes(pickle.dumps((error, message)))

    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=listen, daemon=True).start()
    try:
        engine: RayEngine = pickle.loads(asked.get())
        try:
            with engine._joined():
                tell(None)
                while (call := asked.get()) is not None:
                    function, shared, tasks, gpu = pickle.loads(call)
                    try:
                        for place, result in engine._map(function, shared, tasks, gpu=gpu):
                            tell(None, (place, result))
                        tell(None)
                    except Exception as error:
                        tell(error)
        except Exception as error:
            tell(error)
    except (KeyboardInterrupt, OSError):
        pass


def engine_of(engine: str | Engine) -> Engine | None:
    """The engine of a name; None for this process.

    Args:
        engine: "local", "ray", or an engine.

    Raises:
        PlanError: If there is no such engine.
        MdcmError: If it is "ray" and Ray is not installed.

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
    """The result, or what was refused: Ray would wrap an exception in one of its own."""
    try:
        return None, function(shared, task)
    except (MdcmError, OSError) as error:
        return error, None


@contextmanager
def _saying_plainly(ray: Any) -> Iterator[None]:
    """Turn Ray's own errors into one that says what has happened; a mistake in a task is raised as it was there."""
    errors = ray.exceptions
    try:
        yield
    except errors.RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, Exception) else RuntimeError(_brief(error))) from error
    except errors.WorkerCrashedError as error:
        raise ClusterError(f"workers were lost again and again: {_brief(error)}") from error
    except errors.OutOfMemoryError as error:
        raise ClusterError(f"a worker ran out of memory: {_brief(error)}") from error
    except errors.RayError as error:
        raise ClusterError(f"the Ray cluster has failed: {type(error).__name__}: {_brief(error)}") from error


def _refuse_dead(ray: Any) -> None:
    """Raise if the cluster has no head any more, or no node on which a task that is waited for could run."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    until = time.monotonic() + _AWAY
    while not _answers(host.strip("[]"), int(port)):
        # some heads are started again
        if time.monotonic() > until:
            raise ClusterError("the Ray cluster has failed: its head (GCS) does not answer any more")
        time.sleep(1.0)
    if not any(node.get("Alive") for node in ray.nodes()):
        raise ClusterError("the Ray cluster has failed: no node of it lives any more")


def _answers(host: str, port: int) -> bool:
    """Whether somebody listens there."""
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
    """Keep Ray from writing logs of its processes and advice about its defaults between the results."""
    talk = logging.getLogger("ray")
    driver: Any = getattr(getattr(ray, "_private", None), "worker", None)
    level, told = talk.level, getattr(driver, "print_to_stdstream", None)
    talk.setLevel(logging.CRITICAL)
    try:
        if told is not None:
            driver.print_to_stdstream = lambda *given, **named: None
        yield
    finally:
        talk.setLevel(level)
        if told is not None:
            driver.print_to_stdstream = told


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handler of SIGTERM, for which Ray sets one that ends with a code of its own."""
    former = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and former is not None:
            signal.signal(signal.SIGTERM, former)
