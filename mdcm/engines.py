"""Where independent pieces of work run: in this process, or on a Ray cluster."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from mdcm.errors import MdcmError, PlanError

__all__ = ["Engine", "RayEngine", "engine_of"]

# seconds to wait for tasks that are stopped
_PATIENCE = 20


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
        """As :meth:`Engine.open`."""
        ray = _ray()
        if ray.is_initialized():
            yield
            return
        talk = logging.getLogger("ray")
        level = talk.level
        # it warns of how its own defaults may change, which nobody here chose
        talk.setLevel(logging.ERROR)
        try:
            ray.init(
                num_cpus=self.num_cpus, include_dashboard=False, log_to_driver=False, configure_logging=False,
                # torch in every worker on one thread, as here
                runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
            )  # fmt: skip
        finally:
            talk.setLevel(level)
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
            common = ray.put(shared)
            remote = ray.remote(
                num_cpus=self.cpus_per_task, num_gpus=self.gpus_per_task if gpu else 0, max_retries=self.retries
            )(_guarded)
            waiting = {remote.remote(function, common, task): place for place, task in enumerate(tasks)}
            try:
                while waiting:
                    (done,), _ = ray.wait(list(waiting), num_returns=1)
                    error, result = _result(ray, done)
                    place = waiting.pop(done)
                    if error is not None:
                        raise error
                    yield place, result
            finally:
                # of a call that is given up nothing may go on writing files
                for one in waiting:
                    ray.cancel(one, force=True)
                if waiting:
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


def _result(ray: Any, reference: Any) -> tuple[MdcmError | OSError | None, Any]:
    try:
        found: tuple[MdcmError | OSError | None, Any] = ray.get(reference)
    except ray.exceptions.WorkerCrashedError as error:
        return MdcmError(f"workers were lost again and again: {' '.join(str(error).split())}"), None
    except ray.exceptions.OutOfMemoryError as error:
        return MdcmError(f"a worker ran out of memory: {' '.join(str(error).split())}"), None
    return found
