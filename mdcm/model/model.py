"""What users hold: a trained model that is sampled, asked and saved."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from mdcm import query as language
from mdcm.data import Dataset, Schema, encode, limit_outliers, to_spec, validate
from mdcm.dcm import DCM, MechanismFactory, derived_seed
from mdcm.engines import ClusterError, Engine, engine_of
from mdcm.errors import CheckpointError, DataError, LowSupportError, MdcmError, NotIdentifiableError, PlanError
from mdcm.graph import ADMG
from mdcm.identification import Identification, identify
from mdcm.mechanisms import Pretrained
from mdcm.model.answering import Answering
from mdcm.model.files import Saved, check_names, read_model, write_model
from mdcm.planning import Method, Objective, Plan, check_datasets
from mdcm.planning import plan as make_plan
from mdcm.sampling import Sampler, check_number, place, rule_of
from mdcm.sampling.answers import Answer, surrounded
from mdcm.storage.disk import Folder, as_path
from mdcm.storage.run_directory import (
    ENSEMBLE,
    Journal,
    has_checkpoints,
    is_finished,
    locked,
    refuse_taken,
    remove_checkpoints,
    reserve,
)
from mdcm.text.advice import advice, warn
from mdcm.text.limits import check_ensemble, seeded
from mdcm.training import (
    Progress,
    Setup,
    Source,
    TrainConfig,
    kept_with_another_seed,
    lacking_fits,
    resampled,
    train,
    training_device,
)
from mdcm.training.fidelity import misfits, questionable
from mdcm.training.fidelity import told as warnings_of

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["Answer", "Model", "fit", "load"]

# numbers that are computed for the plug-in estimate beside an answer, some 25 ms
_PLUG_IN_WORK = 1 << 21


class Model(Sampler):
    """A trained deep causal generative model.

    Attributes:
        graph: The ADMG.
        schema: Variables by name.
        plan: What was trained with what.
        dcm: Mechanisms and confounders.
        config: Settings of the training.
        seed: Seed of the training.
        datasets: Name, columns, targets and number of rows of each data set.
        history: Records of the training.
        origin: Where the training data are, as the run directory notes; None where it does not.
        data: The training data, if they are at hand: :func:`fit` keeps them, :meth:`attach` gives them to a model
            that was loaded.
        members: Models of the ensemble that intervals of answers come from; none unless it was asked for.
        resampled: Whether each of them was trained on rows weighted anew, rather than with another seed alone.
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
        # what the plug-in estimate beside an answer is computed from; counts alone are saved with the model
        self.data: tuple[Dataset, ...] = ()
        self.history = [dict(record) for record in history]
        self.members: tuple[DCM, ...] = ()
        self.resampled = True
        self._device = torch.device("cpu")

    def __repr__(self) -> str:
        return f"Model({self.graph!s}; {len(self.plan.hnodes)} h-nodes)"

    def attach(self, data: pd.DataFrame | Dataset | Sequence[Dataset | pd.DataFrame], *, dropna: bool = False) -> None:
        """Give a loaded model its training data, so that answers show the plug-in estimate beside the model's.

        Args:
            data: The data that the model was trained on, as :func:`fit` took them.
            dropna: As :func:`fit` was told.

        Raises:
            DataError: If they are not those data.
        """
        datasets, _ = limit_outliers(validate(data, self.graph.nodes, dropna=dropna), self.schema)
        digests = [_digest(dataset, self.schema) for dataset in datasets]
        if digests != [dataset.get("sha256") for dataset in self.datasets]:
            raise DataError("these are not the data that the model was trained on")
        self.data = tuple(datasets)

    def identify(self, text: str | language.Expression, *, do: Mapping[str, Any] | None = None) -> Identification:
        """Whether the graph and the data sets of the training determine the answer to a query, and how.

        Args:
            text: The query.
            do: Values of terms of do() that have none in the text, as for :meth:`query`. A function of the natural
                value makes it a counterfactual query, of P(Y[X=f(x)], X=x) for every x.

        Raises:
            QueryError: If the query is malformed.
            DataError: If a function returns what is no level.
        """
        expression = language.parse(text) if isinstance(text, str) else text
        fixed: dict[str, list[Any]] = {}
        ruled: dict[str, list[Any]] = {}
        for name, value in (do or {}).items():
            several = isinstance(value, list | tuple | np.ndarray | pd.Series | range)
            values = list(value) if several and self.schema[name].kind != "image" else [value]
            (ruled if any(map(callable, values)) else fixed)[name] = values
        # functions one by one, and values only where not all of them are determined anyway
        found = None
        for chosen in product(*ruled.values()):
            pairs = dict(zip(ruled, chosen, strict=True))
            rules = {name: rule_of(self.schema[name], value) for name, value in pairs.items() if callable(value)}
            plain = {name: [value] for name, value in pairs.items() if not callable(value)}
            found = self._identify(expression, plain, rules)
            if not found.identifiable and fixed:
                found = self._identify(expression, {**plain, **fixed}, rules)
            if not found.identifiable:
                return found
        assert found is not None
        return found

    def _identify(
        self, expression: language.Expression, values: Mapping[str, Sequence[Any]], rules: Mapping[str, Any]
    ) -> Identification:
        """The decision for all of the values, of which the first one that is not determined shows the reason."""
        found = None
        usable = {
            name: some
            for name, some in values.items()
            if self.schema[name].kind in ("categorical", "continuous") and self.schema[name].size is None
        }
        for chosen in product(*usable.values()):
            at = dict(zip(usable, chosen, strict=True))
            found = identify(
                self.graph,
                _with_values(expression, at) if at else expression,
                datasets=self.plan.datasets,
                kinds=self.schema.kinds,
                levels=self.schema.levels,
                rules=rules,
            )
            if not found.identifiable:
                return found
        assert found is not None
        return found

    def to(self, device: str) -> Model:
        """Draw on a device from now on, as far as mechanisms make or read images; the model itself.

        Noise does not depend on the device, so that draws are the same but for rounding, and answers but for the draws
        that rounding decides.

        Args:
            device: As for :func:`fit`: "cpu", "cuda", "cuda:1" or "auto".

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
            place(dcm, self._device)
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
        """Answer a causal query by sampling, after checking that the graph and the data determine the answer.

        Args:
            text: ``P(A | do(D=0))``, ``P(A | do(D))`` for every level of D, ``P(Y | do(X=1), Z=0)``,
                ``E[Y | do(X=1)] - E[Y | do(X=0)]``; of what would have been ``P(A[D=0] | D=1, A=2)``,
                ``P(Y[X=0]=1, Y[X=1]=1)``, ``E[Y[X=1, M[X=0]] - Y[X=0]]``. The expectation of a categorical variable
                needs numeric levels.
            num_samples: Draws per combination of what is set and given, where the answer cannot be summed up exactly.
            do: Values of terms of do() that have none in the text: a list of values gives a table with a row for
                each; a function of the natural value; for an image a picture.
            allow_unidentifiable: Whether to answer all the same where the answer is not determined; it then depends
                on the model that happened to be fitted, and is marked so.
            allow_low_support: Whether to answer all the same, and without a warning, where what is set or given never
                occurs together with what the answer needs, or more than 20 % of its weight lies where no training row
                is. Above 5 %, and below 50 effective rows, there is a warning. No matter in queries that neither set
                nor condition. In a table, combinations that cannot be answered have no number (NaN), with a warning,
                as long as some can.
            level: Probability with which an interval covers the answer, where the model has an ensemble.
            seed: Seed of the draws; terms of a sum with the same evidence use the same noise, so that most of it
                cancels.

        Returns:
            The answer with its standard error, how it is identified and, where all that matters is discrete, the
            plug-in estimate beside it. With an ensemble it has an interval, for chance in the data and in the
            training; of what is not determined, the range of the ensemble's answers, which is at least that wide.

        Raises:
            QueryError: With a caret under the place, if the query is malformed, or does not fit the model.
            NotIdentifiableError: If the graph and the data do not determine the answer.
            LowSupportError: If the evidence is too improbable, or no training rows show what the answer rests on.
            ValueError: If the level is not between 0 and 1, or the seed out of range.
        """
        seed = seeded(seed)
        check_number(num_samples, 2, " (a standard error needs two draws)")
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, not {level!r}")
        expression = language.parse(text)
        expression.check(self.graph.nodes)
        number = int(num_samples)
        answering = Answering(self.dcm, expression, do=do, num_samples=number, seed=seed, support=self._support)
        found = self.identify(expression, do=do)
        if not found.identifiable and not allow_unidentifiable:
            raise NotIdentifiableError(found.explain(), witness=found.witness, experiments=found.experiments)
        answer = answering.answer(found, allow_low_support=allow_low_support)
        if not do:
            plug_in, note = self._plug_in(answer, seed)
            answer = replace(answer, plug_in=plug_in, plug_in_note=note)
            apart = answer.disagreement()
            if apart is not None:
                warn(apart)
        if not self.members:
            return answer
        others: list[Answer] = []
        for member in self.members:
            # the same noise in all of them, so that they differ by what they have learned alone
            asked = Answering(member, expression, do=do, num_samples=number, seed=seed)
            try:
                others.append(asked.answer(found))
            except LowSupportError:
                # evidence that is just probable enough in one model may be too improbable in another
                continue
        return surrounded(answer, others, len(self.members), level)

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
        """Train more models of the same plan, from whose answers the intervals of this model's answers come.

        Every member is trained on all rows with weights drawn anew, one for each row or group of rows (the Bayesian
        bootstrap), and with a seed of its own, and so shows chance in the data as well as in the training. H-nodes of
        all members that have one shape are trained as one, which takes much less than ``members`` times as long.

        Args:
            members: Number of models, at least 2.
            resample: False leaves the weights of rows as they are, so that members differ by their seeds alone.
            mechanisms: As given to :func:`fit`.
            device: As for :func:`fit`.
            engine: As for :func:`fit`.
            seed: Seed of the ensemble; that of the model by default.
            progress: As for :func:`fit`.

        Raises:
            DataError: If the training data are not at hand.
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
            raise DataError("an ensemble is trained on the training data; give them to the model with attach()")
        data = {encoded.name: encoded for encoded in (encode(dataset, self.schema) for dataset in self.data)}
        seeds = [derived_seed(seed, "member", number) for number in range(members)]
        sources = [Source(resampled(data, one) if resample else data, one) for one in seeds]
        where = training_device(device, self.plan, self.schema)
        # the members have the confounders' states that the model was found to need
        setup = Setup(self.graph, self.schema, self.plan, self.config, mechanisms, dict(self.dcm.states), where)
        with _bars(progress) as told:
            self.members = tuple(train(setup, sources, progress=told, out=out, resume=out is not None, engine=engine))
        for member in self.members:
            place(member, self._device)
        self.resampled = resample

    def _plug_in(self, answer: Answer, seed: int) -> tuple[pd.DataFrame | None, str | None]:
        """The estimand's own estimate beside an answer, and what is to be said of it or of its absence."""
        estimand = answer.identification.estimand
        if estimand is None or not self.data:
            return None, None
        try:
            if any(self.schema[name].kind != "categorical" for name in estimand.variables):
                return None, None
            found = estimand.estimate(list(self.data), replicates=100, seed=seed, most_work=_PLUG_IN_WORK)
        except MdcmError as error:
            # the model's answer does not depend on it
            return None, f"left out: {error}"
        note = "; ".join(found.notes) or None
        estimate, model = found.values.to_numpy(), answer.table.iloc[:, -2].to_numpy(dtype=np.float64)
        if found.stderr is None or np.isnan(estimate).all() or len(estimate) != len(model):
            return None, note
        spread = found.stderr.to_numpy()
        both = np.hypot(answer.table.iloc[:, -1].to_numpy(dtype=np.float64), spread)
        gap = model - estimate
        difference = np.divide(gap, both, out=np.zeros_like(gap), where=both > 0)
        columns = {"estimate": estimate, "stderr": spread, "difference": difference, "unseen": found.unseen.to_numpy()}
        return pd.DataFrame(columns), note

    def save(self, path: str | Path) -> None:
        """Save the model as a run directory, which :func:`load` reads.

        Args:
            path: Directory; made if it does not exist, and refused if it holds other things than a run.

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
    """The expression with values for terms of do() that have none."""

    def put(query: language.Query) -> language.Query:
        do = tuple(
            replace(term, value=values[term.variable]) if term.value is None and term.variable in values else term
            for term in query.do
        )
        return replace(query, do=do)

    return replace(expression, terms=tuple((sign, put(query)) for sign, query in expression.terms))


def fit(
    graph: ADMG | str | nx.DiGraph[Any],
    data: pd.DataFrame | Dataset | Sequence[Dataset | pd.DataFrame],
    *,
    plan: Plan | None = None,
    objective: Objective | Mapping[str, Objective] = "auto",
    method: Method = "minimal",
    variables: Mapping[str, Any] | None = None,
    mechanisms: Mapping[str, MechanismFactory] | None = None,
    config: TrainConfig | None = None,
    init: Model | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    device: str = "auto",
    engine: str | Engine = "local",
    seed: int = 0,
    ensemble: int = 0,
    resample: bool = True,
    progress: bool | Progress = False,
    origin: Mapping[str, Any] | None = None,
    dropna: bool = False,
    readers: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] | None = None,
    on_validation: Callable[[Model], None] | None = None,
) -> Model:
    """Train a deep causal generative model of a graph on data.

    Args:
        graph: The ADMG, its arrow text, or a networkx digraph.
        data: One table or data set, or several: under interventions (``Dataset(table, do=["X"])``), with columns
            missing, with weights.
        plan: A plan for these data; made here by default.
        objective: "auto", "likelihood" or "adversarial", or one per variable; what is not a likelihood is trained by
            the mechanism's own loss where the variable is unconfounded.
        method: Of the plan.
        variables: Kinds, levels and shapes that are not to be inferred: ``{"X": {"kind": "categorical"}}``.
        mechanisms: Constructors ``(variable, parents, states of its confounders) -> Mechanism`` by variable.
        config: Settings.
        init: A model trained before: h-nodes whose fits, data and settings are as they were keep its weights, and
            only the others are trained; a warning says so where ``seed`` is another one.
        out: Run directory to save the model in, and checkpoints while it is trained.
        resume: Whether to go on from the checkpoint in ``out``, if there is one; the weights are then those of an
            uninterrupted training bit for bit. A finished run of the same training is loaded.
        force: Whether to replace a finished run in ``out``, once the new one is, or to begin a training anew that was
            not finished; without it and ``resume`` either is refused.
        device: Where to train: "cpu", "cuda" or "cuda:1", or "auto", which is a CUDA card, where there is one, if an
            h-node is trained against critics or has to do with images, and the CPU otherwise, which is faster at
            tables. The model lies on the CPU afterwards.
        engine: "local" trains one thing after another in this process; "ray" trains what need not wait for each other
            at the same time, on a Ray cluster (:class:`mdcm.engines.RayEngine` has settings), with the same weights.
            ``out`` must then be a directory that all machines see.
        seed: Seed of everything random.
        ensemble: Number of models to train besides, so that answers have intervals; see :meth:`Model.train_ensemble`.
        resample: Whether these are trained on rows weighted anew, or differ by their seeds alone.
        progress: True for progress bars on a terminal, or an object that is told.
        origin: Where the data are, noted in ``out``: what :func:`mdcm.cli.provenance.note_origin` says of a spec.
        dropna: Whether rows with missing values are left out rather than refused, in every dataset; one may also say so
            of itself: ``Dataset(table, dropna=True)``.
        readers: For images what critics compare instead: functions of float images ``[n, c, h, w]`` in [-1, 1] that
            return ``[n, r]``. By default an encoder is trained where another variable of the h-node says what to look
            for, and pixels are compared where an image is an h-node by itself.
        on_validation: Called with a copy of the model after every validation on held-out rows, with the best weights
            so far; h-nodes of later levels still have their initial weights. With ``engine="local"`` only.

    Returns:
        The trained model.

    Raises:
        DataError: If the data cannot be used.
        PlanError: If the model cannot be trained as asked, or ``plan`` was made for other data.
        UntrainableError: If the data cannot teach an h-node.
        CheckpointError: If ``out`` cannot hold a run or holds one already, the checkpoint there belongs to another
            training, or another process is writing there.
        KeyboardInterrupt: If the user pressed Ctrl-C; with ``out``, what was done is saved.
        SystemExit: If the process was told to terminate (SIGTERM) and had no handler of its own; likewise.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"X": [0, 1] * 100, "Y": [0, 1, 1, 1] * 50})
        >>> model = fit("X -> Y", table, config=TrainConfig(max_steps=50))
        >>> model.query("P(Y=1 | do(X=0))", num_samples=1000).table.columns.tolist()
        ['X', 'Y', 'probability', 'stderr']
    """
    graph = ADMG.of(graph)
    config = config or TrainConfig()
    if not isinstance(config, TrainConfig):
        raise PlanError(f"config must be such as mdcm.TrainConfig(max_steps=3000), not {type(config).__name__}")
    seed = seeded(seed)
    if ensemble != 0:
        # not after hours of training
        check_ensemble(ensemble)
    datasets = validate(data, graph.nodes, dropna=dropna)
    schema = Schema.infer(datasets, variables, order=graph.nodes)
    datasets, outliers = limit_outliers(datasets, schema)
    if outliers:
        warn(
            f"some numbers are far from all others of their variable, and one of them alone would decide a fit: "
            f"{'; '.join(map(str, outliers))}. Mend what is wrong, or leave its row out; where it is right, give the "
            "model a function of the variable that is not so far away, such as its logarithm"
        )
        # in units of the numbers that remain
        schema = Schema.infer(datasets, variables, order=graph.nodes)
    check_names(graph, mechanisms or {})
    specs = [to_spec(dataset, schema) for dataset in datasets]
    if plan is None:
        plan = make_plan(
            graph,
            specs,
            objective=objective,
            method=method,
            kinds=schema.kinds,
            pretrained={name: "mechanism" for name, one in (mechanisms or {}).items() if isinstance(one, Pretrained)},
            levels=schema.levels,
        )
    elif plan.graph != graph:
        raise PlanError("the plan is for another graph; make it with mdcm.plan from this one")
    else:
        check_datasets(plan, specs, kinds=schema.kinds, levels=schema.levels)
    where, runner = training_device(device, plan, schema), engine_of(engine)
    if on_validation is not None and runner is not None:
        raise PlanError("on_validation is called in the process that trains: use engine='local' with it")
    described = [
        {"name": d.name, "rows": len(d), "columns": list(d.columns), "do": list(d.do), "sha256": _digest(d, schema)}
        for d in datasets
    ]
    with ExitStack() as held:
        model = None
        if out is not None:
            # found out before hours of training rather than after
            reserve(out)
            if not resume and not force:
                refuse_taken(out)
            # what trains may change the directory that it works in
            out = as_path(out, CheckpointError).absolute()
            held.enter_context(locked(out))
            if resume:
                model = _finished(out, graph, plan, config, seed, described, mechanisms)
        if model is None:
            setup = Setup(graph, schema, plan, config, mechanisms, None, where, readers)
            source = Source(
                {encoded.name: encoded for encoded in (encode(dataset, schema) for dataset in datasets)},
                seed,
                None if init is None else (init.dcm, init.history),
            )

            def validated(dcm: DCM) -> None:
                assert on_validation is not None
                on_validation(Model(graph, schema, plan, dcm, config, seed=seed, datasets=described, origin=origin))

            with _naming_resume(out):
                watched = None if on_validation is None else validated
                dcm, history = _trained(setup, source, progress, out, resume, runner, watched)
            for text in lacking_fits(history):
                warn(text)
            stale = None if init is None else kept_with_another_seed(history, init.seed, seed)
            if stale is not None:
                warn(stale)
            model = Model(
                graph, schema, plan, dcm, config, seed=seed, datasets=described, history=history, origin=origin
            )
            # what is counted of them is saved with the model
            model.data = tuple(datasets)
            if out is not None:
                model._save(out)
                remove_checkpoints(out)
                remove_checkpoints(Folder.of(out) / ENSEMBLE)
        model.data = tuple(datasets)
        if ensemble and (len(model.members) != ensemble or model.resampled != resample):
            place = None if out is None else Folder.of(out) / ENSEMBLE
            with _naming_resume(out):
                model._train_ensemble(ensemble, resample, mechanisms, device, runner, seed, progress, place)
            if out is not None and place is not None:
                model._save(out)
                remove_checkpoints(place)
    return model


@contextmanager
def _naming_resume(out: str | Path | None) -> Iterator[None]:
    """Say with the failure of a cluster that what was done is not lost."""
    try:
        yield
    except ClusterError as error:
        if out is None or not (has_checkpoints(out) or has_checkpoints(Path(out) / ENSEMBLE)):
            raise
        how = advice("resume=True", "the same command with --resume")
        raise ClusterError(f"{error}; what was done is in {out}, and {how} goes on") from error


def _trained(
    setup: Setup,
    source: Source,
    progress: bool | Progress,
    out: str | Path | None,
    resume: bool,
    engine: Engine | None,
    on_validation: Callable[[DCM], None] | None,
) -> tuple[DCM, list[dict[str, Any]]]:
    """The trained model and the records of its training."""
    history: list[dict[str, Any]] = []
    with _bars(progress) as told, nullcontext() if out is None else Journal(out) as journal:

        def log(record: dict[str, Any]) -> None:
            history.append(record)
            if journal is not None:
                journal.write(record)

        (dcm,) = train(
            setup, [source], progress=told, log=log, out=out, resume=resume, engine=engine, on_validation=on_validation
        )
        asked = questionable(dcm, setup.plan, setup.config)
        different = misfits(dcm, setup.plan, source.data, source.seed, asked)
        for one in different:
            log({"event": "misfit", "hnode": list(one.hnode), "variable": one.variable, "what": one.what})
    for message in warnings_of(different):
        warn(message)
    return dcm, history


def _finished(
    out: str | Path,
    graph: ADMG,
    plan: Plan,
    config: TrainConfig,
    seed: int,
    described: Sequence[Mapping[str, Any]],
    mechanisms: Mapping[str, MechanismFactory] | None,
) -> Model | None:
    """The run that is already there, if it is the result of the same training."""
    if not is_finished(out) or has_checkpoints(out):
        return None
    found = load(out, mechanisms)
    # when a training ends and is written down is not what is trained
    settings = [replace(one, max_minutes=None, checkpoint_seconds=0.0) for one in (found.config, config)]
    same = (found.graph, found.plan.to_json(), settings[0], found.seed) == (graph, plan.to_json(), settings[1], seed)
    if not same or found.datasets != [dict(one) for one in described]:
        force = advice("force=True instead of resume=True", "--force instead of --resume")
        raise CheckpointError(
            f"{out} holds the finished run of another training, and no checkpoint to go on from; {force} replaces it, "
            "or give another directory",
            path=str(out),
        )
    return found


def _digest(dataset: Dataset, schema: Schema) -> str:
    """Checksum of the values as mechanisms see them, the same for a CSV and a Parquet file of one table."""
    digest = hashlib.sha256()
    for name, array in sorted(encode(dataset, schema).items()):
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode("utf-8", "surrogatepass"))
        for start in range(0, len(array), 4096):
            digest.update(np.ascontiguousarray(array[start : start + 4096]).tobytes())
    return digest.hexdigest()


def _bars(progress: bool | Progress) -> Any:
    if progress is True:
        from mdcm.progress import bars

        return bars(sys.stderr)
    return nullcontext(None if progress is False else progress)


def load(path: str | Path, mechanisms: Mapping[str, MechanismFactory] | None = None) -> Model:
    """Load a run directory; nothing in it is executed.

    Args:
        path: Directory that :meth:`Model.save`, ``fit(out=...)`` or ``mdcm train`` wrote.
        mechanisms: Constructors of the user's own mechanisms, the ones given to :func:`fit`.

    Returns:
        The model.

    Raises:
        CheckpointError: If a file is missing, damaged or from another format version, or if a mechanism of the
            user's own is not given.
        PlanError: If ``mechanisms`` names what is no node of the graph.
    """
    found = read_model(path, mechanisms or {})
    model = Model(
        found.graph,
        found.schema,
        found.plan,
        found.dcm,
        found.config,
        seed=found.seed,
        datasets=found.datasets,
        history=found.history,
        origin=found.origin,
    )
    model.members, model.resampled = tuple(found.members), found.resampled
    model.counted = found.support
    return model
