"""Sampling from a model: the public methods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mdcm.errors import LowSupportError, NotIdentifiableError, QueryError
from mdcm.query import Expression, Query
from mdcm.sampling.requests import Request
from mdcm.sampling.samples import Samples
from mdcm.sampling.support import Support
from mdcm.sampling.verdicts import RequestedDistribution, question
from mdcm.text.advice import warn
from mdcm.text.limits import MOST_SAMPLES, seeded
from mdcm.text.printable import quoted

if TYPE_CHECKING:
    from mdcm.data import Dataset, Schema
    from mdcm.dcm import DCM
    from mdcm.engines import Engine
    from mdcm.graph import ADMG
    from mdcm.identification import Identification

__all__ = ["Sampler", "check_number"]

# largest number of variables to identify separately if their joint distribution is not identified
_MOST_SEPARATE = 20


def check_number(num_samples: object, least: int, why: str = "") -> None:
    """Check a number of rows.

    Raises:
        QueryError: If it is not a whole number, or is below ``least`` or too large.
    """
    if isinstance(num_samples, bool) or not isinstance(num_samples, int | np.integer) or num_samples < least:
        raise QueryError(f"num_samples must be a whole number of at least {least}{why}, not {num_samples!r}")
    if num_samples > MOST_SAMPLES:
        raise QueryError(f"num_samples must be at most {MOST_SAMPLES:,}, not {quoted(num_samples)}")


class Sampler:
    """Model from which rows are drawn.

    Attributes:
        graph: The ADMG.
        schema: Variables by name.
        dcm: Mechanisms and confounders.
        data: The training data, if available.
        counted: Summary of the training data saved with the model, if the data are not available.
    """

    graph: ADMG
    schema: Schema
    dcm: DCM
    data: tuple[Dataset, ...]
    counted: Support | None = None
    _counted: tuple[tuple[Dataset, ...], Support] | None = None

    def draw_samples(
        self,
        num_samples: int,
        *,
        do: Mapping[str, Any] | None = None,
        given: Mapping[str, Any] | None = None,
        noise: Mapping[str, Any] | None = None,
        variables: Sequence[str] | None = None,
        seed: int = 0,
        resample: bool = True,
        strict: bool = False,
    ) -> Samples:
        """Draw rows from P(V | do(...), given).

        Args:
            num_samples: Number of rows.
            do: Interventions: one value; an array with one value per row; or a function of the natural value of the
                variable in a row. For an image one picture ``[c, h, w]`` or one per row, uint8 or floats in [0, 1].
            given: Evidence in the world of ``do``: values on which to condition.
            noise: Noise at which to evaluate the model: own noise ``[n, size]`` by variable, states (whole numbers)
                ``[n]`` by confounder, as :meth:`draw_noise` returns them; missing noise is drawn.
            variables: Variables to draw; all by default. Omitting an image that no other variable needs saves its cost.
            seed: Seed; row i is the same for every ``num_samples``, unless rows are resampled.
            resample: Whether rows of unequal weight are resampled by weight, so that all weights are equal; False
                returns all rows with their weights, with an effective size of at least ``num_samples`` if possible.
            strict: Whether to raise an error, rather than to warn, if the distribution is not identified or few
                training rows support it.

        Returns:
            A table, uint8 images, and the number of training rows behind them.

        Raises:
            QueryError: If ``num_samples`` is not a positive whole number, or a variable is unknown, is both set and
                conditioned on, or cannot be conditioned on.
            DataError: If a value is not a level, or an array does not have ``num_samples`` rows.
            LowSupportError: If the evidence is too improbable; with ``strict``, if few training rows support it.
            NotIdentifiableError: With ``strict``, if the distribution is not identified.

        References:
            Rahman & Kocaoglu (2024), Algorithm 9; for evidence see :mod:`mdcm.sampling.abduction`.

        Example:
            >>> import mdcm
            >>> table = {"D": [0, 1] * 200, "A": [0, 1, 1, 1] * 100}
            >>> model = mdcm.fit("D -> A", mdcm.Dataset(table), config=mdcm.TrainConfig(max_steps=5))
            >>> model.draw_samples(3, do={"D": 0}, seed=1).table["D"].tolist()
            [0, 0, 0]
            >>> model.draw_samples(3, do={"D": lambda natural: 1 - natural}, given={"A": 1}).table["A"].tolist()
            [1, 1, 1]
        """
        return self._checked_request(
            num_samples, strict, do=do, given=given, noise=noise, variables=variables, seed=seed, resample=resample
        ).whole()

    def counterfactual_samples(
        self,
        num_samples: int,
        *,
        evidence: Mapping[str, Any],
        do: Mapping[str, Any] | None = None,
        given: Mapping[str, Any] | None = None,
        variables: Sequence[str] | None = None,
        seed: int = 0,
        resample: bool = True,
        strict: bool = False,
    ) -> Samples:
        """Draw counterfactual rows: the variables under ``do`` in units with the given evidence.

        Both worlds share the noise, drawn from its posterior given the evidence: a variable whose causes do not change
        keeps its factual value. Two calls with the same evidence and seed draw the same units, unless ``given`` adds
        evidence in the other world.

        Args:
            num_samples: Number of rows.
            evidence: Values observed in the actual world.
            do: Interventions in the other world, as in :meth:`draw_samples`.
            given: Evidence in the other world.
            variables: Variables to draw; all by default.
            seed: Seed of the draws.
            resample: As in :meth:`draw_samples`.
            strict: As in :meth:`draw_samples`.

        Returns:
            The variables in the world of ``do``.

        Raises:
            QueryError: If a variable is unknown, or cannot be conditioned on.
            DataError: If a value is not a level.
            LowSupportError: As in :meth:`draw_samples`.
            NotIdentifiableError: As in :meth:`draw_samples`.

        References:
            Pearl (2009), Causality, theorem 7.1.7 (abduction, action, prediction).

        Example:
            >>> import mdcm
            >>> table = {"D": [0, 1] * 200, "A": [0, 1, 1, 1] * 100}
            >>> model = mdcm.fit("D -> A", mdcm.Dataset(table), config=mdcm.TrainConfig(max_steps=5))
            >>> model.counterfactual_samples(3, evidence={"D": 0, "A": 0}, do={"D": 0}).table["A"].tolist()
            [0, 0, 0]
        """
        return self._checked_request(
            num_samples,
            strict,
            do=do,
            given=given,
            evidence=evidence,
            variables=variables,
            seed=seed,
            resample=resample,
        ).whole()

    def stream_samples(
        self,
        num_samples: int,
        *,
        do: Mapping[str, Any] | None = None,
        given: Mapping[str, Any] | None = None,
        evidence: Mapping[str, Any] | None = None,
        variables: Sequence[str] | None = None,
        seed: int = 0,
        engine: Engine | None = None,
        strict: bool = False,
    ) -> Iterator[Samples]:
        """The rows of :meth:`draw_samples`, or with ``evidence`` of :meth:`counterfactual_samples`, in blocks.

        Args:
            num_samples: Number of rows, however large: only one block is held in memory.
            do: As in :meth:`draw_samples`.
            given: As in :meth:`draw_samples`.
            evidence: As in :meth:`counterfactual_samples`; None for draws of one world.
            variables: Variables to draw; all by default.
            seed: Seed of the draws.
            engine: Engine that computes blocks in parallel, such as :class:`mdcm.engines.RayEngine`; by default blocks
                are computed in turn in this process. The rows are the same.
            strict: As in :meth:`draw_samples`.

        Yields:
            Blocks of up to 4,096 rows, or 64 where there are images.

        Raises:
            MdcmError: As those methods do, before the first block.

        Example:
            >>> import mdcm
            >>> table = {"D": [0, 1] * 200, "A": [0, 1, 1, 1] * 100}
            >>> model = mdcm.fit("D -> A", mdcm.Dataset(table), config=mdcm.TrainConfig(max_steps=5))
            >>> [len(block) for block in model.stream_samples(10_000)]
            [4096, 4096, 1808]
        """
        request = self._checked_request(
            num_samples, strict, do=do, given=given, evidence=evidence, variables=variables, seed=seed
        )
        return request.stream(engine)

    def draw_unjudged(self, num_samples: int, **arguments: Any) -> Samples:
        """Draw samples as :meth:`draw_samples` does, without identification, for callers that report it themselves."""
        return self._request(num_samples, **arguments).whole()

    def draw_noise(self, num_samples: int, *, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
        """Noise of rows, in the form that :meth:`draw_samples` accepts.

        Args:
            num_samples: Number of rows.
            seed: Seed; samples with this seed and with this noise are the same.

        Returns:
            Own noise by variable, float32 ``[n, size]``, and states by confounder, int64 ``[n]``.
        """
        seed = seeded(seed)
        check_number(num_samples, 1)
        rows = torch.arange(int(num_samples))
        with torch.no_grad():
            noise = {node: self.dcm.own_noise(node, rows, seed).numpy() for node in self.graph.nodes}
            for index, name in enumerate(self.dcm.confounders):
                noise[name] = self.dcm.confounder_states(index, rows, seed).numpy()
        return noise

    def identify(self, text: str | Expression, *, do: Mapping[str, Any] | None = None) -> Identification:
        """Decide whether the graph and the training data determine the answer to a query, and how."""
        # implemented by the model, which knows its training data sets
        raise NotImplementedError

    def _request(self, num_samples: int, **arguments: Any) -> Request:
        check_number(num_samples, 1)
        return Request(self.dcm, int(num_samples), support=self._support, **arguments)

    def _checked_request(self, num_samples: int, strict: bool, **arguments: Any) -> Request:
        """A request, after a warning (or error) if its distribution is not identified or lacks support."""
        request = self._request(num_samples, **arguments)
        do, given, evidence = arguments.get("do") or {}, arguments.get("given") or {}, arguments.get("evidence")
        distribution = question(self.graph, self.schema, request.names, do, given, evidence)
        if distribution is None:
            return request
        warnings = []
        refusal = self._refusal(distribution)
        if refusal is not None:
            decision, text = refusal
            if strict:
                if decision is None:
                    raise NotIdentifiableError(text)
                raise NotIdentifiableError(
                    decision.explain(), witness=decision.witness, experiments=decision.experiments
                )
            warnings.append(text)
        basis = request.basis
        if basis is not None and basis.is_low:
            if strict:
                raise LowSupportError(f"{distribution.shown}: {basis}", rows=basis.rows, unseen=basis.unseen)
            warnings.append(f"{distribution.shown}: {basis}")
        if warnings:
            warn("; ".join(warnings))
        return request

    def _refusal(self, distribution: RequestedDistribution) -> tuple[Identification | None, str] | None:
        """The decision that the distribution is not identified, or None if undecided, with an explanation."""
        for expression, do in distribution.parts:
            try:
                decision = self.identify(expression, do=do)
            except QueryError as error:
                if do or len(distribution.parts) > 1:
                    return None, f"whether {distribution.shown} is determined could not be decided: {error}"
                # only the model knows whether this evidence is possible
                continue
            if not decision.identifiable:
                return decision, self._doubt(distribution.shown, expression, do, decision)
        if not distribution.is_whole:
            return None, (
                f"whether {distribution.shown} is determined could not be decided: the rules have too many combinations"
            )
        return None

    def _doubt(self, shown: str, expression: Expression, do: Mapping[str, Any], decision: Identification) -> str:
        """Which variables of the rows are not identified, and why."""
        doubt = "not determined" if decision.identifiable is False else "not shown to be determined"
        query = expression.query
        parts = ""
        # every outcome is identified together with the natural values on which a rule depends
        natural = tuple(term for term in query.outcomes if term.value is not None)
        outcomes = [term for term in query.outcomes if term.value is None]
        if 1 < len(outcomes) <= _MOST_SEPARATE:
            unidentified = []
            for term in outcomes:
                single = Expression(((1, Query("P", (term, *natural), query.do, query.given)),))
                try:
                    is_identified = bool(self.identify(single, do=do).identifiable)
                except QueryError:
                    is_identified = False
                if not is_identified:
                    unidentified.append(term.label)
            parts = (
                f"; by itself, this holds for {', '.join(unidentified)}"
                if unidentified
                else "; each of its variables by itself is determined"
            )
        return (
            f"{shown} is {doubt} by the graph and the data ({decision.witness}): these rows are those of one fitted "
            f"model, and other models that fit as well draw other rows{parts}"
        )

    @property
    def _support(self) -> Support | None:
        if not self.data:
            return self.counted
        if self._counted is None or self._counted[0] is not self.data:
            self._counted = (self.data, Support.of(self.graph, self.schema, self.data))
        return self._counted[1]
