"""Training of a model on data: checks, plan, run directory, training and ensemble."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from mdcm.data import Dataset, Schema, encode, limit_outliers, to_spec, validate
from mdcm.dcm import DCM, MechanismFactory
from mdcm.engines import ClusterError, Engine, engine_of
from mdcm.errors import CheckpointError, PlanError
from mdcm.graph import ADMG
from mdcm.mechanisms import Pretrained
from mdcm.model.files import check_names
from mdcm.model.model import Model, checksum, load, progress_bars
from mdcm.planning import Method, Objective, Plan, check_datasets
from mdcm.planning import plan as make_plan
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
from mdcm.training.config import TrainConfig
from mdcm.training.devices import training_device
from mdcm.training.ensemble_member import TrainingContext
from mdcm.training.fidelity import misfits, variables_to_compare
from mdcm.training.fit_warnings import kept_weights_warning, misfit_warnings, poor_fit_warnings
from mdcm.training.jobs import TrainingData
from mdcm.training.scheduler import train
from mdcm.training.trainer import Progress

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["fit"]


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
        method: Method of the plan.
        variables: Kinds, levels and shapes that override the inferred ones: ``{"X": {"kind": "categorical"}}``.
        mechanisms: Constructors ``(variable, parents, states of its confounders) -> Mechanism`` by variable.
        config: Settings of the training.
        init: A model trained before: h-nodes with the same fits, data and settings keep its weights, and only the
            others are trained, with a warning if its seed differs from ``seed``.
        out: Run directory to save the model in, and checkpoints while it is trained.
        resume: Whether to continue from the checkpoint in ``out``, if there is one; the weights are then bit for bit
            those of an uninterrupted training. A finished run of the same training is loaded.
        force: Whether to replace a finished run in ``out`` once the new one is finished, or to restart an unfinished
            training; without it and ``resume`` both are refused.
        device: Device of the training: "cpu", "cuda" or "cuda:1"; "auto" is a CUDA card, if there is one and an h-node
            is trained against critics or has images, and otherwise the CPU, which is faster for tables. The model is
            on the CPU afterwards.
        engine: "local" trains h-nodes in this process; "ray" trains independent h-nodes at the same time on a Ray
            cluster (:class:`mdcm.engines.RayEngine` has settings), with the same weights. ``out`` must then be a
            directory that all machines see.
        seed: Seed of everything random.
        ensemble: Number of further models to train for intervals of answers; see :meth:`Model.train_ensemble`.
        resample: Whether to train these on reweighted rows; otherwise they differ by their seeds alone.
        progress: True for progress bars on a terminal, or an object with the methods of a progress reporter.
        origin: Origin of the data, recorded in ``out``, as :func:`mdcm.cli.provenance.note_origin` returns it.
        dropna: Whether to drop rows with missing values in all data sets instead of refusing them;
            ``Dataset(table, dropna=True)`` does so in one.
        readers: Features that critics compare in place of images: functions of float images ``[n, c, h, w]`` in
            [-1, 1] that return ``[n, r]``. By default an encoder is trained if the h-node has other variables, and
            pixels are compared if the image is an h-node by itself.
        on_validation: Called with a copy of the model after every validation on held-out rows, with the best weights
            so far; h-nodes of later levels still have their initial weights. With ``engine="local"`` only.

    Returns:
        The trained model.

    Raises:
        DataError: If the data cannot be used.
        PlanError: If the model cannot be trained with these arguments, or ``plan`` was made for other data.
        UntrainableError: If no data set determines an h-node.
        CheckpointError: If ``out`` cannot hold a run or holds one already, its checkpoint belongs to another training,
            or another process is writing there.
        KeyboardInterrupt: If the user pressed Ctrl-C; with ``out``, a checkpoint is saved.
        SystemExit: If the process received SIGTERM and had no handler for it; with ``out``, a checkpoint is saved.

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
        # before the training, not after it
        check_ensemble(ensemble)
    datasets = validate(data, graph.nodes, latents=dict(graph.latents), dropna=dropna)
    schema = Schema.infer(datasets, variables, order=graph.nodes)
    datasets, outliers = limit_outliers(datasets, schema)
    if outliers:
        warn(
            f"some numbers are far from all others of their variable, and a single one would decide a fit: "
            f"{'; '.join(map(str, outliers))}. Correct wrong numbers or drop their rows; if they are right, give the "
            "model a function of the variable with a smaller range, such as its logarithm"
        )
        # the scale of the numbers that remain
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
            pretrained={name: "mechanism" for name, made in (mechanisms or {}).items() if isinstance(made, Pretrained)},
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
        {"name": d.name, "rows": len(d), "columns": list(d.columns), "do": list(d.do), "sha256": checksum(d, schema)}
        for d in datasets
    ]
    with ExitStack() as held:
        model = None
        if out is not None:
            # refuse the directory before the training rather than after it
            reserve(out)
            if not resume and not force:
                refuse_taken(out)
            # a mechanism may change the working directory
            out = as_path(out, CheckpointError).absolute()
            held.enter_context(locked(out))
            if resume:
                model = _finished(out, graph, plan, config, seed, described, mechanisms)
        if model is None:
            context = TrainingContext(graph, schema, plan, config, mechanisms, None, where, readers)
            inputs = TrainingData(
                {encoded.name: encoded for encoded in (encode(dataset, schema) for dataset in datasets)},
                seed,
                None if init is None else (init.dcm, init.history),
            )

            def validated(dcm: DCM) -> None:
                assert on_validation is not None
                on_validation(Model(graph, schema, plan, dcm, config, seed=seed, datasets=described, origin=origin))

            with _naming_resume(out):
                watched = None if on_validation is None else validated
                dcm, history = _trained(context, inputs, progress, out, resume, runner, watched)
            for text in poor_fit_warnings(history):
                warn(text)
            kept = None if init is None else kept_weights_warning(history, init.seed, seed)
            if kept is not None:
                warn(kept)
            model = Model(
                graph, schema, plan, dcm, config, seed=seed, datasets=described, history=history, origin=origin
            )
            # their counts are saved with the model
            model.data = tuple(datasets)
            if out is not None:
                model._save(out)
                remove_checkpoints(out)
                remove_checkpoints(Folder.of(out) / ENSEMBLE)
        model.data = tuple(datasets)
        if ensemble and (len(model.members) != ensemble or model.resampled != resample):
            folder = None if out is None else Folder.of(out) / ENSEMBLE
            with _naming_resume(out):
                model._train_ensemble(ensemble, resample, mechanisms, device, runner, seed, progress, folder)
            if out is not None and folder is not None:
                model._save(out)
                remove_checkpoints(folder)
    return model


@contextmanager
def _naming_resume(out: str | Path | None) -> Iterator[None]:
    """Add to the error of a cluster that the training can be resumed."""
    try:
        yield
    except ClusterError as error:
        if out is None or not (has_checkpoints(out) or has_checkpoints(Path(out) / ENSEMBLE)):
            raise
        how = advice("resume=True", "the same command with --resume")
        raise ClusterError(f"{error}; what was done is in {out}, and {how} goes on") from error


def _trained(
    context: TrainingContext,
    inputs: TrainingData,
    progress: bool | Progress,
    out: str | Path | None,
    resume: bool,
    engine: Engine | None,
    on_validation: Callable[[DCM], None] | None,
) -> tuple[DCM, list[dict[str, Any]]]:
    """Train the model; return it with the records of the training."""
    history: list[dict[str, Any]] = []
    with progress_bars(progress) as reports, nullcontext() if out is None else Journal(out) as journal:

        def log(record: dict[str, Any]) -> None:
            history.append(record)
            if journal is not None:
                journal.write(record)

        (dcm,) = train(
            context,
            [inputs],
            progress=reports,
            log=log,
            out=out,
            resume=resume,
            engine=engine,
            on_validation=on_validation,
        )
        suspects = variables_to_compare(dcm, context.plan, context.config)
        found_misfits = misfits(dcm, context.plan, inputs.data, inputs.seed, suspects)
        for misfit in found_misfits:
            log({"event": "misfit", "hnode": list(misfit.hnode), "variable": misfit.variable, "what": misfit.what})
    for message in misfit_warnings(found_misfits):
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
    """Load the finished run in ``out``; None if there is none.

    Raises:
        CheckpointError: If it is the run of another training.
    """
    if not is_finished(out) or has_checkpoints(out):
        return None
    model = load(out, mechanisms)
    # time limits and checkpoint intervals do not change what is trained
    settings = [replace(each, max_minutes=None, checkpoint_seconds=0.0) for each in (model.config, config)]
    same = (model.graph, model.plan.to_json(), settings[0], model.seed) == (graph, plan.to_json(), settings[1], seed)
    if not same or model.datasets != [dict(dataset) for dataset in described]:
        force = advice("force=True instead of resume=True", "--force instead of --resume")
        raise CheckpointError(
            f"{out} holds the finished run of another training, and no checkpoint to go on from; {force} replaces it, "
            "or give another directory",
            path=str(out),
        )
    return model
