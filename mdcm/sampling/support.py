"""How many training rows stand behind the combinations of values that were sampled."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mdcm.data import encode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data import Dataset, Encoded, Schema
    from mdcm.graph import ADMG
    from mdcm.sampling.worlds import Network

__all__ = ["FEWEST_ROWS", "Support"]

# fewer training rows than this are too few to rest on
FEWEST_ROWS = 10


class Support:
    """Counts of the configurations of every c-component and its parents in the training data.

    Args:
        graph: The ADMG.
        schema: Variables by name.
        datasets: The training data.

    Example:
        >>> from mdcm.data import Dataset, Schema
        >>> from mdcm.graph import ADMG
        >>> data = Dataset({"X": [0] * 30 + [1] * 3, "Y": [0, 1, 1] * 11})
        >>> support = Support(ADMG.from_string("X -> Y"), Schema.infer([data]), [data])
        >>> support.is_low({"X": torch.tensor([0, 1]), "Y": torch.tensor([0, 0])}, 2).tolist()
        [False, True]
    """

    def __init__(self, graph: ADMG, schema: Schema, datasets: Sequence[Dataset]) -> None:
        categorical = {name for name, variable in schema.items() if variable.kind == "categorical"}
        self._schema = schema
        self._scopes = []
        # variables that share a confounder with one and come before it
        self._siblings: dict[str, set[str]] = {name: set() for name in graph.nodes}
        place = {name: number for number, name in enumerate(graph.topological_order())}
        for children in [*graph.bidirected, *(children for _, children in graph.latents)]:
            for one, other in itertools.permutations(children, 2):
                if place[other] < place[one] and other in categorical:
                    self._siblings[one].add(other)
        for members in graph.c_components():
            scope = {*members, *graph.parents(members)} & categorical
            self._scopes.append([name for name in graph.nodes if name in scope])
        self._data: list[Encoded] = [encode(dataset, schema) for dataset in datasets]
        self._counts: dict[tuple[str, ...], tuple[NDArray[np.uint64], NDArray[np.int64]]] = {}

    def companions(self, network: Network, targets: Iterable[int]) -> list[int]:
        """Nodes whose values are needed besides the targets to tell how well these are supported.

        What a variable is like under do() may be known from rows in which another child of its confounder had certain
        values, although that child has no part in the answer. So those that come earlier in topological order count,
        as far as no image has to be generated for them.

        Args:
            network: The nodes of all worlds of the question.
            targets: Nodes that are drawn, with all that they depend on.
        """
        drawn = set(network.closure(targets))
        found: set[int] = set()
        for world in network.worlds:
            for name, number in world.items():
                if number not in drawn or network.nodes[number].is_set:
                    continue
                for sibling in sorted(self._siblings[name]):
                    further = network.closure([world[sibling]], drawn)
                    if not any(self._schema[network.nodes[one].variable].kind == "image" for one in further):
                        found.add(world[sibling])
        return sorted(found - drawn)

    def is_low(self, values: Mapping[str, Tensor], rows: int) -> Tensor:
        """Whether some c-component with its parents is, in a row, as in fewer than 10 training rows; bool ``[n]``.

        Args:
            values: Codes of categorical variables in one world, ``n`` rows each; variables that are missing do not
                count, nor do those of other kinds.
            rows: The number n.
        """
        low = np.zeros(rows, dtype=bool)
        done: set[tuple[str, ...]] = set()
        for scope in self._scopes:
            names = tuple(name for name in scope if name in values)
            if not names or names in done:
                continue
            done.add(names)
            known, counts = self._counted(names)
            if not len(known):
                continue
            code = self._code(names, [values[name].numpy() for name in names])
            place = np.searchsorted(known, code).clip(max=len(known) - 1)
            low |= np.where(known[place] == code, counts[place], 0) < FEWEST_ROWS
        return torch.from_numpy(low)

    def low_anywhere(self, worlds: Iterable[Mapping[str, Tensor]], rows: int) -> Tensor:
        """Whether :meth:`is_low` holds in any of several worlds, bool ``[n]``."""
        low = torch.zeros(rows, dtype=torch.bool)
        for values in worlds:
            low |= self.is_low(values, rows)
        return low

    def _counted(self, names: tuple[str, ...]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        if names not in self._counts:
            codes = [
                self._code(names, [data[name] for name in names])
                for data in self._data
                if all(name in data for name in names)
            ]
            known, counts = np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *codes]), return_counts=True)
            self._counts[names] = (known, counts)
        return self._counts[names]

    def _code(self, names: Sequence[str], columns: Sequence[NDArray[Any]]) -> NDArray[np.uint64]:
        """One number per configuration; where there are more than 2^64 of them, different ones but for a collision."""
        total = np.zeros(len(columns[0]), dtype=np.uint64)
        factor = 1
        for name, column in zip(names, columns, strict=True):
            total += column.astype(np.uint64) * np.uint64(factor % 2**64)
            factor *= self._schema[name].num_levels
            if factor >= 2**64:
                # an odd number, so that no digit of the code is lost
                factor = (factor * 0x9E3779B97F4A7C15 + 1) % 2**64 | 1
        return total
