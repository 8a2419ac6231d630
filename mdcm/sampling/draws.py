"""Sampling of rows in blocks, in all worlds of a query, given evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdcm import kernels
from mdcm.dcm import derived_seed, one_thread
from mdcm.errors import LowSupportError
from mdcm.sampling.abduction import Abduction
from mdcm.sampling.weights import effective_size, largest_share, systematic
from mdcm.sampling.worlds import Network, Units

__all__ = ["Block", "Draws"]

# rows per block
_BLOCK = 4096
# the same with images: their networks are fastest on few rows, and 32 images must not cost as much as 4,096
_IMAGE_BLOCK = 64
# most weighted draws per requested row
_DRAWS_PER_SAMPLE = 20
# smallest effective sample size, and largest share of the total weight on a single row
_FEWEST = 100
_LARGEST_SHARE = 0.05


@dataclass(frozen=True)
class Block:
    """Rows that were computed together.

    Attributes:
        values: Values by node, ``n`` rows each.
        weight: Weight of each row, float64 ``[n]``, up to a factor common to all blocks; None if all are equal.
        rows: The number n.
    """

    values: Mapping[int, Tensor]
    weight: Tensor | None
    rows: int


class Draws:
    """Rows of a model, in blocks that are computed on demand.

    Noise is addressed by row index: row i does not depend on the number of rows, unless rows are resampled by weight.

    Args:
        network: Nodes of all worlds.
        targets: Nodes to compute.
        evidence: Observed value of each node, one row each.
        num_samples: Number of rows; with weights, of effective rows.
        seed: Seed of the noise.
        resample: Whether rows of unequal weight are resampled by weight, so that all weights are equal.
        noise: Noise given by the caller, by variable and confounder.
        shown: Description of the evidence, for messages.
        whole: Whether blocks are always computed in full, so that the bits of rows do not depend on their number.

    Attributes:
        ess: Effective sample size.
        probability: Probability of the evidence (density, for continuous variables); 1 without evidence.
        is_equal: Whether all returned rows have the same weight.

    Raises:
        EvidenceError: If evidence cannot be conditioned on.
        LowSupportError: If the evidence has probability zero, or the weights rest on too few rows.
    """

    def __init__(
        self,
        network: Network,
        targets: Sequence[int],
        evidence: Mapping[int, Tensor],
        num_samples: int,
        seed: int,
        *,
        resample: bool = True,
        noise: Mapping[str, Tensor] | None = None,
        shown: Callable[[], str] = lambda: "the evidence",
        whole: bool = True,
    ) -> None:
        self.network = network
        self._whole = whole
        self.targets = list(targets)
        self.num_samples = num_samples
        self.seed = seed
        self._noise = noise
        self._abduction = Abduction(network, evidence, targets)
        self._block = self._block_rows(network.closure([*targets, *evidence]))
        self._chosen: Tensor | None = None
        self.ess = float(num_samples)
        self.probability = 1.0
        self._log_weight = self._evidence_weights(shown) if evidence else None
        if self._log_weight is not None and resample:
            resampling_seed = derived_seed(seed, "systematic")
            uniform = float(
                kernels.uniform_noise(resampling_seed, torch.zeros(1, dtype=torch.int64), 0, kernels.STREAM_BATCH, 1)
            )
            self._chosen = systematic(self._log_weight, num_samples, uniform)
            self.ess = min(self.ess, float(num_samples))
        self.is_equal = self._log_weight is None or resample

    def _block_rows(self, needed: Sequence[int]) -> int:
        """Rows per block; noise is addressed by row, so that this affects speed, and values only by rounding."""
        nodes = [self.network.nodes[number] for number in needed]
        images = any(self.network.dcm.schema[node.variable].kind == "image" and not node.is_set for node in nodes)
        return _IMAGE_BLOCK if images else _BLOCK

    def _evidence_weights(self, shown: Callable[[], str]) -> Tensor | None:
        """Log weight of every proposed row, or None if all weights are equal."""
        block = self._block_rows(self._abduction.order)
        if self._abduction.is_equal:
            # the weight of a single row suffices
            log_weight = self._abducted(torch.arange(1))[1]
            self.probability = math.exp(float(log_weight[0]))
            if self.probability == 0.0 and not bool(log_weight[0].isfinite()):
                raise LowSupportError(f"{shown()} has probability zero in the model", ess=0.0, probability=0.0)
            return None
        most = max(_DRAWS_PER_SAMPLE * self.num_samples, _BLOCK)
        parts: list[Tensor] = []
        drawn = 0
        while drawn < most and (not parts or effective_size(torch.cat(parts)) < max(self.num_samples, _FEWEST)):
            # double the rows before the effective size is computed again
            for _ in range(max(1, drawn // block)):
                if drawn < most:
                    parts.append(self._abducted(torch.arange(drawn, drawn + block))[1])
                    drawn += block
        log_weight = torch.cat(parts)
        self.ess = effective_size(log_weight)
        self.probability = float(torch.logsumexp(log_weight, 0).exp()) / drawn
        share = largest_share(log_weight)
        if self.ess < _FEWEST or share > _LARGEST_SHARE:
            raise LowSupportError(
                f"{drawn:,} draws weighted by {shown()} have an effective sample size of only {self.ess:,.1f}, and the "
                f"largest weight is {share:.1%} of the total (probability of the evidence: {self.probability:.2g}); "
                "draw more samples, or condition on less evidence",
                ess=self.ess,
                probability=self.probability,
            )
        return log_weight

    @torch.no_grad()
    def _abducted(self, rows: Tensor) -> tuple[Units, Tensor]:
        with one_thread():
            return self._abduction(rows, self.seed)

    def __iter__(self) -> Iterator[Block]:
        return self.blocks(0, len(self))

    def __len__(self) -> int:
        """Number of blocks."""
        return -(-self._rows // self._block)

    @property
    def _rows(self) -> int:
        if self._log_weight is None or self._chosen is not None:
            return self.num_samples
        return int(self._log_weight.isfinite().sum())

    def blocks(self, first: int, last: int) -> Iterator[Block]:
        """A range of blocks; each block is the same in every process.

        Args:
            first: Index of the first block.
            last: Index after the last block.
        """
        possible = top = None
        if self._log_weight is not None and self._chosen is None:
            possible = torch.nonzero(self._log_weight.isfinite()).squeeze(1)
            top = self._log_weight.max()
        for start in range(first * self._block, min(last * self._block, self._rows), self._block):
            if self._log_weight is None:
                count = min(self._block, self.num_samples - start)
                # compute the last block in full, so that its rows do not depend on their number
                rows = torch.arange(start, start + (self._block if self._whole else count))
                yield self._compute(rows, None, count)
            elif self._chosen is not None:
                rows = self._chosen[start : start + self._block]
                yield self._compute(rows, start, len(rows))
            else:
                assert possible is not None
                assert top is not None
                rows = possible[start : start + self._block]
                yield self._compute(rows, None, len(rows), (self._log_weight[rows] - top).exp())

    @torch.no_grad()
    def _compute(self, rows: Tensor, first: int | None, count: int, weight: Tensor | None = None) -> Block:
        with one_thread():
            if self._abduction.evidence:
                units, _ = self._abduction(rows, self.seed)
            else:
                units = Units(self.network, rows, self.seed, self._noise)
            if first is not None:
                # copies of a row share only what the evidence determines
                units.continue_at(torch.arange(first, first + len(rows)), derived_seed(self.seed, "resampled"))
            units.compute(self.targets)
        values = units.values if count == len(rows) else {name: value[:count] for name, value in units.values.items()}
        return Block(values, weight, count)
