"""Sampling requests of users: interventions, evidence and variables as nodes of a network, results as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mdcm.errors import QueryError
from mdcm.mechanisms.placement import uses_accelerator
from mdcm.sampling.draws import Block, Draws
from mdcm.sampling.samples import Samples, to_samples
from mdcm.sampling.settings import encode_evidence, encode_noise, encode_setting, exact_numbers, known
from mdcm.sampling.worlds import Network
from mdcm.text.limits import seeded

if TYPE_CHECKING:
    from mdcm.dcm import DCM
    from mdcm.engines import Engine
    from mdcm.sampling.support import Basis, Support

__all__ = ["Request"]

# blocks per task of an engine, so many that starting a task costs little
_BLOCKS_PER_TASK = 16


class Request:
    """Request for rows.

    Args:
        dcm: The model.
        num_samples: Number of rows.
        do: Interventions by variable.
        given: Evidence in the world of ``do``.
        evidence: Evidence in the actual world; None for a request about one world.
        noise: Noise given by the user.
        variables: Variables to return, in the world of ``do``.
        seed: Seed of the noise.
        resample: Whether rows of unequal weight are resampled by weight.
        support: Summary of the training data, or None.

    Attributes:
        basis: Training rows behind the samples; None without a summary of the data.

    Raises:
        QueryError: If a name is unknown, or the arguments contradict each other.
        DataError: If a value is invalid.
        LowSupportError: If the evidence is too improbable.
    """

    def __init__(
        self,
        dcm: DCM,
        num_samples: int,
        *,
        do: Mapping[str, Any] | None = None,
        given: Mapping[str, Any] | None = None,
        evidence: Mapping[str, Any] | None = None,
        noise: Mapping[str, Any] | None = None,
        variables: Sequence[str] | None = None,
        seed: int = 0,
        resample: bool = True,
        support: Support | None = None,
    ) -> None:
        seed = seeded(seed)
        self.schema = dcm.schema
        for name, values in {"do": do, "given": given, "evidence": evidence, "noise": noise}.items():
            if values is not None and not isinstance(values, Mapping):
                raise QueryError(f"{name} must be values by variable, as in {name}={{'X': 1}}, not {values!r}")
        settings = {
            name: encode_setting(known(dcm.schema, name), value, num_samples) for name, value in (do or {}).items()
        }
        conditions = encode_evidence(dcm.schema, given or {}, settings)
        actual = encode_evidence(dcm.schema, evidence or {}, {})
        for name, value in settings.items():
            if isinstance(value, Tensor) and len(value) > 1 and (conditions or actual):
                raise QueryError(f"do({name}) with one value per row cannot be combined with evidence")
        if noise and (conditions or actual):
            raise QueryError("noise cannot be given together with evidence, which determines it")
        sizes = {node: dcm.mechanism(node).noise_size for node in dcm.graph.nodes}
        fixed = encode_noise(sizes, dcm.states, noise or {}, num_samples)
        # return numbers given by the user unchanged rather than rounded to float32
        self._exact = exact_numbers(dcm.schema, {**(given or {}), **(do or {})})
        self.names = list(dcm.graph.nodes) if variables is None else list(variables)
        for name in self.names:
            known(dcm.schema, name)
        network = Network(dcm)
        # the actual world comes first: its evidence is conditioned on first
        factual = network.world({}) if evidence is not None else {}
        self._world = network.world(settings)
        nodes: dict[int, Tensor] = {}
        for world, values in ((factual, actual), (self._world, conditions)):
            for name, value in values.items():
                if not torch.equal(nodes.setdefault(world[name], value), value):
                    raise QueryError(
                        f"{name!r} cannot have two values: none of its ancestors is changed by do(); give one value"
                    )
        targets = [self._world[name] for name in self.names]
        where = "" if evidence is None else " under do()"
        shown = [f"{name}={value!r}" for name, value in (evidence or {}).items()]
        shown += [f"{name}={value!r}{where}" for name, value in (given or {}).items()]
        self.draws = Draws(
            network,
            targets,
            nodes,
            num_samples,
            seed,
            resample=resample,
            noise=fixed,
            shown=lambda: ", ".join(shown),
        )
        self.basis: Basis | None = None
        if support is not None:
            self.basis = support.basis(network, targets, nodes, num_samples=num_samples, seed=seed)

    def stream(self, engine: Engine | None = None) -> Iterator[Samples]:
        """Rows in blocks as they are computed; with an engine in parallel, in the same order."""
        if engine is None:
            for part in self._parts(0, len(self.draws)):
                yield self._samples([part])
            return
        tasks = [(first, first + _BLOCKS_PER_TASK) for first in range(0, len(self.draws), _BLOCKS_PER_TASK)]
        pending: dict[int, list[Samples]] = {}
        next_index = 0
        for index, result in engine.map(_draw, self, tasks, gpu=uses_accelerator(self.draws.network.dcm)):
            pending[index] = result
            while next_index in pending:
                yield from pending.pop(next_index)
                next_index += 1

    def whole(self) -> Samples:
        """All rows."""
        return self._samples(list(self._parts(0, len(self.draws))))

    def part(self, first: int, last: int) -> list[Samples]:
        """A range of blocks."""
        return [self._samples([part]) for part in self._parts(first, last)]

    def _parts(self, first: int, last: int) -> Iterator[Block]:
        for block in self.draws.blocks(first, last):
            # keep the requested variables only
            values = {node: block.values[node] for node in self.draws.targets}
            yield Block(values, block.weight, block.rows)

    def _samples(self, parts: Sequence[Block]) -> Samples:
        rows = sum(part.rows for part in parts)
        weights = None if self.draws.is_equal else torch.cat([part.weight for part in parts if part.weight is not None])
        ess = self.draws.ess * rows / self.draws.num_samples if self.draws.is_equal else self.draws.ess
        values = [{name: part.values[self._world[name]] for name in self.names} for part in parts]
        return to_samples(
            self.schema, values, self.names, weights=weights, ess=ess, basis=self.basis, exact=self._exact
        )


def _draw(request: Request, task: tuple[int, int]) -> list[Samples]:
    return request.part(*task)
