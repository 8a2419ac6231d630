"""Where independent pieces of work run: in this process, or on a Ray cluster."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
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

    A cluster that was joined with ``ray.init`` is used as it is; otherwise one is started on this machine for as long
    as it is needed.

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
        ray = _ray()
        if ray.is_initialized():
            yield
            return
        with _silenced(ray):
            try:
                with _own_signals(), _quiet_backend():
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

    def map(
        self, function: Callable[[Any, Any], Any], shared: Any, tasks: Sequence[Any], *, gpu: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """As :meth:`Engine.map`; the shared part is put in the object store once."""
        ray = _ray()
        with self.open():
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
def _quiet_backend() -> Iterator[None]:
    """Keep what Ray starts here from writing to standard error, unless a level of its own is asked for.

    It takes the level from the environment, and says so on standard error in whatever language.
    """
    name = "RAY_BACKEND_LOG_LEVEL"
    if name in os.environ:
        yield
        return
    os.environ[name] = "fatal"
    own, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(own, 2)
        os.close(own)
        os.close(nowhere)
        del os.environ[name]


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handler of SIGTERM, for which Ray sets one that ends with a code of its own."""
    former = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and former is not None:
            signal.signal(signal.SIGTERM, former)
