"""What a user asks to be drawn: interventions, evidence and variables, as nodes of a network and back as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mdcm.errors import QueryError
from mdcm.limits import seeded
from mdcm.sampling.draws import Block, Draws
from mdcm.sampling.places import is_placed
from mdcm.sampling.samples import Samples, to_samples
from mdcm.sampling.settings import encode_evidence, encode_noise, encode_setting, known, numbers_given
from mdcm.sampling.worlds import Network

if TYPE_CHECKING:
    from mdcm.dcm import DCM
    from mdcm.engines import Engine
    from mdcm.sampling.support import Basis, Support

__all__ = ["Request"]

# blocks that a task of an engine computes: enough that starting it costs little
_BLOCKS_PER_TASK = 16


class Request:
    """Rows that a user asks for.

    Args:
        dcm: The model.
        num_samples: Rows wanted.
        do: What is set, by variable.
        given: What was seen in the world of ``do``.
        evidence: What was seen in the actual world; None if all is about one world.
        noise: Noise that the user gives.
        variables: Variables wanted, of the world of ``do``.
        seed: Seed of the noise.
        resample: Whether rows of unequal weight are drawn again by weight.
        support: What is known of the training data, or None.

    Attributes:
        basis: What the rows rest on; None where nothing is known of the data.

    Raises:
        QueryError: If a name is unknown, or the parts contradict each other.
        DataError: If a value cannot be taken.
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
        for what, values in {"do": do, "given": given, "evidence": evidence, "noise": noise}.items():
            if values is not None and not isinstance(values, Mapping):
                raise QueryError(f"{what} must be values by variable, as in {what}={{'X': 1}}, not {values!r}")
        settings = {
            name: encode_setting(known(dcm.schema, name), value, num_samples) for name, value in (do or {}).items()
        }
        seen = encode_evidence(dcm.schema, given or {}, settings)
        actual = encode_evidence(dcm.schema, evidence or {}, {})
        for name, value in settings.items():
            if isinstance(value, Tensor) and len(value) > 1 and (seen or actual):
                raise QueryError(f"do({name}) with one value per row cannot be combined with evidence")
        if noise and (seen or actual):
            raise QueryError("noise that is given cannot be combined with evidence, which decides it")
        sizes = {node: dcm.mechanism(node).noise_size for node in dcm.graph.nodes}
        fixed = encode_noise(sizes, dcm.states, noise or {}, num_samples)
        # a double is no float32, and what somebody gave comes back as it was
        self._exact = numbers_given(dcm.schema, {**(given or {}), **(do or {})})
        self.names = list(dcm.graph.nodes) if variables is None else list(variables)
        for name in self.names:
            known(dcm.schema, name)
        network = Network(dcm)
        # the actual world first: what was seen in it is conditioned on before anything else
        factual = network.world({}) if evidence is not None else {}
        self._world = network.world(settings)
        nodes: dict[int, Tensor] = {}
        for world, values in ((factual, actual), (self._world, seen)):
            for name, value in values.items():
                if not torch.equal(nodes.setdefault(world[name], value), value):
                    raise QueryError(f"{name!r} cannot have two values: do() changes nothing in what it depends on")
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
        """Rows in blocks, as they are computed; by an engine, several at the same time, in the same order."""
        if engine is None:
            for part in self._parts(0, len(self.draws)):
                yield self._samples([part])
            return
        tasks = [(first, first + _BLOCKS_PER_TASK) for first in range(0, len(self.draws), _BLOCKS_PER_TASK)]
        early: dict[int, list[Samples]] = {}
        following = 0
        for place, found in engine.map(_drawn, self, tasks, gpu=is_placed(self.draws.network.dcm)):
            early[place] = found
            while following in early:
                yield from early.pop(following)
                following += 1

    def whole(self) -> Samples:
        """All rows."""
        return self._samples(list(self._parts(0, len(self.draws))))

    def part(self, first: int, last: int) -> list[Samples]:
        """Some of the blocks, by number."""
        return [self._samples([part]) for part in self._parts(first, last)]

    def _parts(self, first: int, last: int) -> Iterator[Block]:
        for block in self.draws.blocks(first, last):
            # no more than what was asked for is kept
            values = {node: block.values[node] for node in self.draws.targets}
            yield Block(values, block.weight, block.rows)

    def _samples(self, parts: Sequence[Block]) -> Samples:
        rows = sum(part.rows for part in parts)
        weights = None if self.draws.is_equal else torch.cat([one.weight for one in parts if one.weight is not None])
        ess = self.draws.ess * rows / self.draws.num_samples if self.draws.is_equal else self.draws.ess
        values = [{name: part.values[self._world[name]] for name in self.names} for part in parts]
        return to_samples(
            self.schema, values, self.names, weights=weights, ess=ess, basis=self.basis, exact=self._exact
        )


def _drawn(request: Request, task: tuple[int, int]) -> list[Samples]:
    return request.part(*task)
