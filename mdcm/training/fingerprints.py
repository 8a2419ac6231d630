"""Fingerprints of h-nodes: checksums of all that determines their weights, fits, data, mechanisms and settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mdcm.training.config import TrainConfig

if TYPE_CHECKING:
    from mdcm.data import Encoded
    from mdcm.dcm import DCM
    from mdcm.planning import HNode, Plan

__all__ = ["hnode_fingerprints", "training_fingerprint"]

# settings without influence on what is trained
_IGNORED_SETTINGS = ("max_minutes", "checkpoint_seconds", "batch_modules")


class _Columns:
    """Cached checksums of the columns of the data sets."""

    def __init__(self, data: Mapping[str, Encoded]) -> None:
        self.data = data
        self._cache: dict[tuple[str, str], str] = {}

    def digest(self, dataset: str, column: str) -> str:
        key = dataset, column
        if key not in self._cache:
            self._cache[key] = _array_digest(self.data[dataset][column])
        return self._cache[key]

    def weights_and_groups(self, dataset: str) -> list[str | None]:
        """Checksums of weights and groups."""
        encoded = self.data[dataset]
        return [None if array is None else _array_digest(array) for array in (encoded.weights, encoded.groups)]


def _array_digest(array: np.ndarray[Any, Any]) -> str:
    digest = hashlib.sha256(f"{array.dtype}:{array.shape};".encode())
    for start in range(0, len(array), 4096):
        digest.update(np.ascontiguousarray(array[start : start + 4096]).tobytes())
    return digest.hexdigest()


def hnode_fingerprints(dcm: DCM, plan: Plan, data: Mapping[str, Encoded], config: TrainConfig) -> list[str]:
    """Fingerprint of every h-node of a plan, in the order of the plan.

    H-nodes of equal fingerprints have equal weights, up to the seed, whatever else differs: names of data sets, order
    of variables, other parts of the graph.
    """
    columns = _Columns(data)
    settings = {key: value for key, value in config.to_json().items() if key not in _IGNORED_SETTINGS}
    fingerprints: list[str] = []
    owner: dict[str, int] = {}
    for index, hnode in enumerate(plan.hnodes):
        # the h-nodes that generate along with it must be equal too
        before = sorted({owner[name] for fit in hnode.fits for name in fit.ancestors if name in owner})
        content = {
            "members": [_description(dcm, name) for name in hnode.variables],
            "fits": [
                {
                    "variables": fit.variables,
                    "ancestors": fit.ancestors,
                    "parents": fit.parents,
                    "do": fit.do,
                    "objective": fit.objective,
                    "data": [
                        [
                            *([c, columns.digest(name, c)] for c in _used_columns(dcm, hnode, name, data)),
                            columns.weights_and_groups(name),
                        ]
                        for name in fit.datasets
                    ],
                }
                for fit in hnode.fits
            ],
            "ancestors": [fingerprints[other] for other in before],
            "settings": settings,
        }
        fingerprints.append(hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest())
        owner.update(dict.fromkeys(hnode.variables, index))
    return fingerprints


def _used_columns(dcm: DCM, hnode: HNode, dataset: str, data: Mapping[str, Encoded]) -> list[str]:
    names = {name for fit in hnode.fits for name in (*fit.variables, *fit.ancestors, *fit.parents, *fit.do)}
    names |= {parent for name in hnode.variables for parent in dcm.parents(name)}
    return sorted(names.intersection(data[dataset].columns))


def _description(dcm: DCM, name: str) -> list[Any]:
    confounders = [
        [dcm.states[dcm.confounders[index]], sorted(children)]
        for index, (_, children) in enumerate(dcm.graph.confounders)
        if name in children
    ]
    parents = [dcm.schema[parent].to_json() for parent in dcm.parents(name)]
    return [dcm.schema[name].to_json(), parents, dcm.mechanism(name).config(), confounders]


def training_fingerprint(dcm: DCM, hnodes: list[str], seed: int, batch: bool) -> str:
    """Fingerprint of a whole training, which its checkpoints carry."""
    content = [list(dcm.graph.nodes), list(dcm.confounders), hnodes, seed, batch]
    return hashlib.sha256(json.dumps(content).encode("ascii")).hexdigest()
