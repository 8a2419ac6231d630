"""Training on a Ray cluster of this machine, against training in this process: the same weights, and the time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import torch
from workloads import Measured, NotEqualError

import mdcm
from mdcm.engines import RayEngine
from mdcm.model import Model
from mdcm.scm import random_discrete

__all__ = ["CLUSTERS"]

H_NODES = 50
ROWS = 20_000
ROUNDS = 3


def _trained(engine: str | RayEngine) -> tuple[Model, float]:
    names = [f"V{place}" for place in range(H_NODES)]
    graph = mdcm.ADMG(nodes=names, directed=list(itertools.pairwise(names)))
    data = random_discrete(graph, levels=3, seed=0).sample(ROWS, seed=0)
    # every h-node a job of its own: stacked, they would be one
    config = mdcm.TrainConfig(batch_modules=False)
    began = time.monotonic()
    model = mdcm.fit(graph, data, config=config, engine=engine, seed=0)
    return model, time.monotonic() - began


def ray() -> Iterator[Measured]:
    """50 h-nodes as tasks of two workers, the cluster already up and once from nothing."""
    import ray as cluster

    here = [_trained("local") for _ in range(ROUNDS)]
    cold = _trained(RayEngine(num_cpus=2))
    cluster.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )  # fmt: skip
    try:
        warm = [_trained(RayEngine()) for _ in range(ROUNDS)]
    finally:
        cluster.shutdown()
    for model, _ in [*warm, cold]:
        for key, value in model.dcm.state_dict().items():
            if not torch.equal(value, here[0][0].dcm.state_dict()[key]):
                raise NotEqualError(f"{key} differs between Ray and this process")
    local = [seconds for _, seconds in here]
    size = f"{H_NODES} h-nodes, {ROWS:,} rows, two workers"
    yield Measured("ray", f"{size}, cluster up", "0", "wall s", [seconds for _, seconds in warm], local, None)
    yield Measured("ray", f"{size}, cluster started", "0", "wall s", [cold[1]], local, None)


CLUSTERS: dict[str, Callable[[], Iterator[Measured]]] = {"ray": ray}
