"""A trained model: queries, draws, ensembles, saving and loading."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mdcm import query as language
from mdcm.data import Dataset, Schema, encode, limit_outliers, validate
from mdcm.dcm import DCM, MechanismFactory, derived_seed
from mdcm.engines import Engine, engine_of
from mdcm.errors import DataError, LowSupportError, MdcmError, NotIdentifiableError
from mdcm.graph import ADMG
from mdcm.identification import Identification, identify
from mdcm.model.answering import Answering
from mdcm.model.files import Saved, read_model, write_model
from mdcm.planning import Plan
from mdcm.sampling import Sampler, check_number, move_mechanisms, rule_of
from mdcm.sampling.answers import Answer, with_interval
from mdcm.storage.disk import Folder
from mdcm.storage.run_directory import locked
from mdcm.text.advice import warn
from mdcm.text.limits import check_ensemble, seeded
from mdcm.training.bootstrap import resampled
from mdcm.training.config import TrainConfig
from mdcm.training.devices import training_device
from mdcm.training.ensemble_member import TrainingContext
from mdcm.training.jobs import TrainingData
from mdcm.training.scheduler import train
from mdcm.training.trainer import Progress

__all__ = ["Model", "checksum", "load", "progress_bars"]

# limit on the numbers computed for the plug-in estimate of an answer, about 25 ms
_PLUG_IN_WORK = 1 << 21


class Model(Sampler):
    """A trained deep causal generative model.

    Attributes:
        graph: The ADMG.
        schema: Variables by name.
        plan: H-nodes and the data sets of their fits.
        dcm: Mechanisms and confounders.
        config: Settings of the training.
        seed: Seed of the training.
        datasets: Name, columns, targets and number of rows of each data set.
        history: Records of the training.
        origin: Origin of the training data as recorded in the run directory, or None.
        data: The training data, if available: :func:`mdcm.fit` keeps them, :meth:`attach` adds them to a loaded model.
        members: Models of the ensemble behind the intervals of answers; empty without an ensemble.
        resampled: Whether each of them was trained on reweighted rows; otherwise they differ by their seeds alone.
    """

    def __init__(
        self,
        graph: ADMG,
        schema: Schema,
        plan: Plan,
        dcm: DCM,
        config: TrainConfig,
        *,
        seed: int,
        datasets: Sequence[Mapping[str, Any]],
        history: Sequence[Mapping[str, Any]] = (),
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self.graph = graph
        self.schema = schema
        self.plan = plan
        self.dcm = dcm
        self.config = config
        self.seed = seed
        self.datasets = [dict(dataset) for dataset in datasets]
        self.origin = origin
        # for the plug-in estimate; only their counts are saved with the model
        self.data: tuple[Dataset, ...] = ()
        self.history = [dict(record) for record in history]
        self.members: tuple[DCM, ...] = ()
        self.resampled = True
        self._device = torch.device("cpu")

    def __repr__(self) -> str:
        return f"Model({self.graph!s}; {len(self.plan.hnodes)} h-nodes)"

    def attach(self, data: pd.DataFrame | Dataset | Sequence[Dataset | pd.DataFrame], *, dropna: bool = False) -> None:
        """Add the training data to a loaded model, so that answers include the plug-in estimate.

        Args:
            data: The data that the model was trained on, as for :func:`mdcm.fit`.
            dropna: As for :func:`mdcm.fit`.

        Raises:
            DataError: If the model was trained on other data.
        """
        validated = validate(data, self.graph.nodes, latents=dict(self.graph.latents), dropna=dropna)
        datasets, _ = limit_outliers(validated, self.schema)
        digests = [checksum(dataset, self.schema) for dataset in datasets]
        if digests != [dataset.get("sha256") for dataset in self.datasets]:
            raise DataError("these are not the data that the model was trained on")
        self.data = tuple(datasets)

    def identify(self, text: str | language.Expression, *, do: Mapping[str, Any] | None = None) -> Identification:
        """Whether the graph and the data sets of the training determine the answer to a query, and how.

        Args:
            text: The query.
            do: Values of do() terms without a value in the text, as for :meth:`query`. A function of the natural
                value makes it a counterfactual query, of P(Y[X=f(x)], X=x) for every x.

        Raises:
            QueryError: If the query is malformed.
            DataError: If a function returns a value that is not a level.
        """
        expression = language.parse(text) if isinstance(text, str) else text
        fixed: dict[str, list[Any]] = {}
        ruled: dict[str, list[Any]] = {}
        for name, value in (do or {}).items():
            several = isinstance(value, list | tuple | np.ndarray | pd.Series | range)
            values = list(value) if several and self.schema[name].kind != "image" else [value]
            (ruled if any(map(callable, values)) else fixed)[name] = values
        # values are tried one by one only if the answer is not determined for all of them at once
        result = None
        for chosen in product(*ruled.values()):
            pairs = dict(zip(ruled, chosen, strict=True))
            rules = {name: rule_of(self.schema[name], value) for name, value in pairs.items() if callable(value)}
            plain = {name: [value] for name, value in pairs.items() if not callable(value)}
            result = self._identify(expression, plain, rules)
            if not result.identifiable and fixed:
                result = self._identify(expression, {**plain, **fixed}, rules)
            if not result.identifiable:
                return result
        assert result is not None
        return result

    def _identify(
        self, expression: language.Expression, values: Mapping[str, Sequence[Any]], rules: Mapping[str, Any]
    ) -> Identification:
        """Identification for all values; for the first value that is not identifiable, if there is one."""
        result = None
        usable = {
            name: listed
            for name, listed in values.items()
            if self.schema[name].kind in ("categorical", "continuous") and self.schema[name].size is None
        }
        for chosen in product(*usable.values()):
            setting = dict(zip(usable, chosen, strict=True))
            result = identify(
                self.graph,
                _with_values(expression, setting) if setting else expression,
                datasets=self.plan.datasets,
                kinds=self.schema.kinds,
                levels=self.schema.levels,
                rules=rules,
            )
            if not result.identifiable:
                return result
        assert result is not None
        return result

    def to(self, device: str) -> Model:
        """Move mechanisms that generate or read images to a device; return the model itself.

        Noise does not depend on the device, so draws differ by rounding alone, and answers by the draws that rounding
        changes.

        Args:
            device: As for :func:`mdcm.fit`: "cpu", "cuda", "cuda:1" or "auto".

        Raises:
            PlanError: If there is no such device.

        Example:
            >>> import mdcm
            >>> model = mdcm.fit("X -> Y", {"X": [0, 1] * 20, "Y": [1, 0] * 20}, config=mdcm.TrainConfig(max_steps=5))
            >>> len(model.to("auto").draw_samples(10))
            10
        """
        self._device = training_device(device, self.plan, self.schema)
        for dcm in (self.dcm, *self.members):
            move_mechanisms(dcm, self._device)
        return self

    def query(
        self,
        text: str,
        num_samples: int = 100_000,
        *,
        do: Mapping[str, Any] | None = None,
        allow_unidentifiable: bool = False,
        allow_low_support: bool = False,
        level: float = 0.9,
        seed: int = 0,
    ) -> Answer:
        """Answer a causal query by exact summation or sampling, if the graph and the data determine the answer.

        Args:
            text: ``P(A | do(D=0))``, ``P(A | do(D))`` for every level of D, ``P(Y | do(X=1), Z=0)``,
                ``E[Y | do(X=1)] - E[Y | do(X=0)]``; counterfactuals ``P(A[D=0] | D=1, A=2)``,
                ``P(Y[X=0]=1, Y[X=1]=1)``, ``E[Y[X=1, M[X=0]] - Y[X=0]]``. The expectation of a categorical variable
                needs numeric levels.
            num_samples: Draws per combination of interventions and evidence, if the answer cannot be summed exactly.
            do: Values of do() terms without a value in the text: a list of values gives a table with a row for
                each; a function of the natural value; for an image a picture.
            allow_unidentifiable: Whether to answer even if the answer is not identified; it then depends on the model
                that happened to be fitted, and is marked so.
            allow_low_support: Whether to answer, without a warning, even if interventions or evidence never occur
                together with the conditions of the answer, or more than 20 % of its weight has no training rows. Above
                5 %, or below 50 effective rows, there is a warning. Queries without interventions and evidence are
                always answered. In a table, combinations that cannot be answered are NaN, with a warning, unless
                that is all of them.
            level: Probability with which an interval covers the answer, if the model has an ensemble.
            seed: Seed of the draws; terms of a sum with the same evidence use the same noise, so that most of it
                cancels.

        Returns:
            The answer with its standard error, its identification and, if all variables of the estimand are discrete,
            the plug-in estimate. With an ensemble it has an interval for the randomness of data and training; if it
            is not identified, this is the range of the ensemble's answers, and the true range is at least as wide.

        Raises:
            QueryError: With a caret under the position, if the query is malformed or does not fit the model.
            NotIdentifiableError: If the graph and the data do not determine the answer.
            LowSupportError: If the evidence is too improbable, or too few training rows support the answer.
            ValueError: If the level is not between 0 and 1, or the seed is out of range.
        """
        seed = seeded(seed)
        check_number(num_samples, 2, " (a standard error needs two draws)")
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, not {level!r}")
        expression = language.parse(text)
        expression.check(self.graph.nodes, dict(self.graph.latents))
        number = int(num_samples)
        answering = Answering(self.dcm, expression, do=do, num_samples=number, seed=seed, support=self._support)
        identification = self.identify(expression, do=do)
        if not identification.identifiable and not allow_unidentifiable:
            raise NotIdentifiableError(
                identification.explain(), witness=identification.witness, experiments=identification.experiments
            )
        answer = answering.answer(identification, allow_low_support=allow_low_support)
        if not do:
            plug_in, note = self._plug_in(answer, seed)
            answer = replace(answer, plug_in=plug_in, plug_in_note=note)
            disagreement = answer.disagreement()
            if disagreement is not None:
                warn(disagreement)
        if not self.members:
            return answer
        others: list[Answer] = []
        for member in self.members:
            # the same noise for all members, so that their answers differ by their weights alone
            answering = Answering(member, expression, do=do, num_samples=number, seed=seed)
            try:
                others.append(answering.answer(identification))
            except LowSupportError:
                # evidence that is barely probable enough in one model may be too improbable in another
                continue
        return with_interval(answer, others, len(self.members), level)

    def train_ensemble(
        self,
        members: int = 20,
        *,
        resample: bool = True,
        mechanisms: Mapping[str, MechanismFactory] | None = None,
        device: str = "auto",
        engine: str | Engine = "local",
        seed: int | None = None,
        progress: bool | Progress = False,
    ) -> None:
        """Train more models of the same plan, whose answers give this model's answers intervals.

        Every member is trained on all rows with new random weights, one for each row or group of rows (the Bayesian
        bootstrap), and with its own seed, and so reflects the randomness of the data and of the training. H-nodes of
        one shape are trained together across members, much faster than ``members`` separate trainings.

        Args:
            members: Number of models, at least 2.
            resample: False keeps the weights of rows, so that members differ by their seeds alone.
            mechanisms: As for :func:`mdcm.fit`.
            device: As for :func:`mdcm.fit`.
            engine: As for :func:`mdcm.fit`.
            seed: Seed of the ensemble; that of the model by default.
            progress: As for :func:`mdcm.fit`.

        Raises:
            DataError: If the training data are not available.
            ValueError: If ``members`` is below 2.

        References:
            Rubin (1981), The Bayesian bootstrap; Lakshminarayanan, Pritzel & Blundell (2017), Deep ensembles.

        Example:
            >>> import mdcm
            >>> table = mdcm.Dataset({"D": [0, 1] * 50, "A": [0, 1, 1, 1] * 25})
            >>> model = mdcm.fit("D -> A", table, config=mdcm.TrainConfig(max_steps=50))
            >>> model.train_ensemble(4)
            >>> answer = model.query("P(A=1 | do(D=0))")
            >>> answer.low < answer.value < answer.high
            True
        """
        seed = self.seed if seed is None else seed
        self._train_ensemble(members, resample, mechanisms, device, engine_of(engine), seed, progress)

    def _train_ensemble(
        self,
        members: int,
        resample: bool,
        mechanisms: Mapping[str, MechanismFactory] | None,
        device: str,
        engine: Engine | None,
        seed: int,
        progress: bool | Progress,
        out: Folder | None = None,
    ) -> None:
        check_ensemble(members)
        if not self.data:
            raise DataError("an ensemble is trained on the training data; add them to the model with attach()")
        data = {encoded.name: encoded for encoded in (encode(dataset, self.schema) for dataset in self.data)}
        seeds = [derived_seed(seed, "member", number) for number in range(members)]
        inputs = [TrainingData(resampled(data, each) if resample else data, each) for each in seeds]
        chosen = training_device(device, self.plan, self.schema)
        # members have as many confounder states as the model
        states = dict(self.dcm.states)
        context = TrainingContext(self.graph, self.schema, self.plan, self.config, mechanisms, states, chosen)
        with progress_bars(progress) as reports:
            models = train(context, inputs, progress=reports, out=out, resume=out is not None, engine=engine)
        self.members = tuple(models)
        for member in self.members:
            move_mechanisms(member, self._device)
        self.resampled = resample

    def _plug_in(self, answer: Answer, seed: int) -> tuple[pd.DataFrame | None, str | None]:
        """The plug-in estimate of the estimand, or None, and remarks on it or the reason why it is missing."""
        estimand = answer.identification.estimand
        if estimand is None or not self.data:
            return None, None
        try:
            if any(self.schema[name].kind != "categorical" for name in estimand.variables):
                return None, None
            result = estimand.estimate(list(self.data), replicates=100, seed=seed, most_work=_PLUG_IN_WORK)
        except MdcmError as error:
            # the model's answer does not depend on it
            return None, f"left out: {error}"
        note = "; ".join(result.notes) or None
        estimate, model = result.values.to_numpy(), answer.table.iloc[:, -2].to_numpy(dtype=np.float64)
        if result.stderr is None or np.isnan(estimate).all() or len(estimate) != len(model):
            return None, note
        spread = result.stderr.to_numpy()
        both = np.hypot(answer.table.iloc[:, -1].to_numpy(dtype=np.float64), spread)
        gap = model - estimate
        difference = np.divide(gap, both, out=np.zeros_like(gap), where=both > 0)
        columns = {"estimate": estimate, "stderr": spread, "difference": difference, "unseen": result.unseen.to_numpy()}
        return pd.DataFrame(columns), note

    def save(self, path: str | Path) -> None:
        """Save the model as a run directory, which :func:`load` reads.

        Args:
            path: Directory; created if it does not exist, and refused if it holds anything but a run.

        Raises:
            CheckpointError: If the path cannot be a run directory, or another process is writing there.
        """
        with locked(path):
            self._save(path)

    def _save(self, path: str | Path) -> None:
        saved = Saved(
            self.graph, self.schema, self.plan, self.dcm, self.config, self.seed, self.datasets, self.history,
            self.origin, self.members, self.resampled, self._support,
        )  # fmt: skip
        write_model(path, saved)


def _with_values(expression: language.Expression, values: Mapping[str, Any]) -> language.Expression:
    """Fill in the values of do() terms that have none."""

    def put(query: language.Query) -> language.Query:
        do = tuple(
            replace(term, value=values[term.variable]) if term.value is None and term.variable in values else term
            for term in query.do
        )
        return replace(query, do=do)

    return replace(expression, terms=tuple((sign, put(query)) for sign, query in expression.terms))


def checksum(dataset: Dataset, schema: Schema) -> str:
    """Checksum of the encoded values, the same for a CSV and a Parquet file of one table."""
    digest = hashlib.sha256()
    for name, array in sorted(encode(dataset, schema).items()):
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode("utf-8", "surrogatepass"))
        for start in range(0, len(array), 4096):
            digest.update(np.ascontiguousarray(array[start : start + 4096]).tobytes())
    return digest.hexdigest()


def progress_bars(progress: bool | Progress) -> Any:
    """A context of progress bars on standard error, of the given object, or of None."""
    if progress is True:
        from mdcm.progress import bars

        return bars(sys.stderr)
    return nullcontext(None if progress is False else progress)


def load(path: str | Path, mechanisms: Mapping[str, MechanismFactory] | None = None) -> Model:
    """Load a run directory without executing anything in it.

    Args:
        path: Directory that :meth:`Model.save`, ``fit(out=...)`` or ``mdcm train`` wrote.
        mechanisms: Constructors of custom mechanisms, as given to :func:`mdcm.fit`.

    Returns:
        The model.

    Raises:
        CheckpointError: If a file is missing, damaged or from another format version, or if the constructor of a
            custom mechanism is missing.
        PlanError: If a name in ``mechanisms`` is not a node of the graph.
    """
    saved = read_model(path, mechanisms or {})
    model = Model(
        saved.graph,
        saved.schema,
        saved.plan,
        saved.dcm,
        saved.config,
        seed=saved.seed,
        datasets=saved.datasets,
        history=saved.history,
        origin=saved.origin,
    )
    model.members, model.resampled = tuple(saved.members), saved.resampled
    model.counted = saved.support
    return model
