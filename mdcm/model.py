"""What users hold: a trained model that is sampled, asked and saved."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import platform
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from mdcm import query as language
from mdcm.data import Dataset, Schema, Variable, encode, validate
from mdcm.dcm import DCM, MechanismFactory
from mdcm.errors import CheckpointError, DataError, MdcmError, NotIdentifiableError, PlanError, QueryError
from mdcm.graph import ADMG
from mdcm.identify import Identification, identify
from mdcm.mechanisms import from_config
from mdcm.plan import Method, Objective, Plan
from mdcm.plan import plan as make_plan
from mdcm.rundir import MODEL, WEIGHTS, read_run, reserve, write_run
from mdcm.sampling import Samples, draw, encode_do, encode_evidence, known, to_samples
from mdcm.train import Progress, TrainConfig, train
from mdcm.variables import listing, suggestion

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Answer", "Model", "fit", "load"]

# of the tables in answers, besides the variables
_COLUMNS = ("probability", "mean", "stderr")
# longer estimands are no help beside a number
_LONGEST_ESTIMAND = 160


@dataclass(frozen=True)
class Answer:
    """Answer to a causal query, with its Monte-Carlo standard error.

    Attributes:
        query: The query as it was understood.
        table: For probabilities and tables of expectations: one row per combination of levels, with columns for the
            variables of do(), of the evidence and of the outcomes, then "probability" (or "mean") and "stderr".
        value: The number, where the answer is one number; None for a table of several rows.
        stderr: Its standard error, or None.
        ess: Smallest effective sample size behind a row of the answer.
        identification: Whether and how the graph and the data determine the answer.
        support: Share of the draws that rest on too few training rows; None where it was not computed.
        plug_in: The estimand's own estimate from the frequencies in the training data, row by row beside ``table``:
            "estimate", "stderr" (from a bootstrap over the rows), and "difference", that of the model's answer from
            it in standard errors. None where the estimand is not about discrete variables alone, or the data are not
            at hand.
    """

    query: str
    table: pd.DataFrame
    value: float | None
    stderr: float | None
    ess: float
    identification: Identification
    support: float | None = None
    plug_in: pd.DataFrame | None = None

    @property
    def note(self) -> str:
        """What is known of the answer's right to be believed, in one line."""
        found = self.identification
        if found.estimand is None:
            doubt = "not determined" if found.identifiable is False else "not shown to be determined"
            return (
                f"{doubt} by the graph and the data ({found.witness}): other models that fit as well answer otherwise"
            )
        try:
            text = str(found)
        except QueryError:
            return "identifiable"
        return f"identifiable: {text}" if len(text) <= _LONGEST_ESTIMAND else "identifiable"

    def __str__(self) -> str:
        shown = self.table
        if self.value is not None:
            body = f"{self.value:.4f} ± {self.stderr:.4f}"
            if self.plug_in is not None:
                beside = self.plug_in.iloc[0]
                body += (
                    f"\nfrequencies in the data, by the estimand: {beside['estimate']:.4f} ± {beside['stderr']:.4f} "
                    f"({beside['difference']:+.1f} standard errors apart)"
                )
        else:
            if self.plug_in is not None:
                columns = {"plug-in": "estimate", "± stderr": "stderr", "difference": "difference"}
                shown = shown.assign(**{label: self.plug_in[name] for label, name in columns.items()})
            body = shown.to_string(index=False, float_format=lambda number: f"{number:.4f}")
        return f"{self.query}\n{body}\n({self.note})"


class Model:
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
        origin: Path of the spec that it was trained by, relative to the run directory; None where there was none.
        data: The training data, if they are at hand: :func:`fit` keeps them, :meth:`attach` gives them to a model
            that was loaded.
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
        origin: str | None = None,
    ) -> None:
        self.graph = graph
        self.schema = schema
        self.plan = plan
        self.dcm = dcm
        self.config = config
        self.seed = seed
        self.datasets = [dict(dataset) for dataset in datasets]
        self.origin = origin
        # what the plug-in estimate beside an answer is computed from; not saved with the model
        self.data: tuple[Dataset, ...] = ()
        self.history = [dict(record) for record in history]

    def __repr__(self) -> str:
        return f"Model({self.graph!s}; {len(self.plan.hnodes)} h-nodes)"

    def draw_samples(
        self,
        num_samples: int,
        *,
        do: Mapping[str, Any] | None = None,
        given: Mapping[str, Any] | None = None,
        variables: Sequence[str] | None = None,
        seed: int = 0,
    ) -> Samples:
        """Draw rows from P(V | do(...), given).

        Args:
            num_samples: Number of rows.
            do: Values set by intervention: one value, or an array with one value per row; for an image one picture
                ``[c, h, w]`` or one per row, uint8 or floats in [0, 1].
            given: Values of categorical variables that every row agrees with.
            variables: Variables to draw; all by default. Leaving an image out that nothing else needs saves its cost.
            seed: Row i is the same for every ``num_samples``.

        Returns:
            A table, and uint8 images.

        Raises:
            QueryError: If ``num_samples`` is no positive number, a variable is unknown, or is both set and conditioned
                on.
            DataError: If a value is no level, or an array does not have ``num_samples`` rows.
            LowSupportError: If too few draws agree with ``given``.

        Example:
            >>> table = pd.DataFrame({"D": [0, 1] * 50, "A": [0, 1, 1, 1] * 25})
            >>> model = fit("D -> A", table, config=TrainConfig(max_steps=5))
            >>> model.draw_samples(3, do={"D": 0}, seed=1).table["D"].tolist()
            [0, 0, 0]
        """
        _check_number(num_samples, 1)
        fixed = {name: encode_do(known(self.dcm, name), value) for name, value in (do or {}).items()}
        evidence = encode_evidence(self.dcm, given or {}, fixed)
        for name, value in fixed.items():
            if len(value) not in (1, num_samples):
                raise DataError(f"do({name}): {len(value)} values were given for {num_samples} rows", column=name)
            if len(value) > 1 and evidence:
                raise QueryError(f"do({name}) with one value per row cannot be combined with evidence")
        names = list(self.graph.nodes) if variables is None else list(variables)
        for name in names:
            known(self.dcm, name)
        blocks = [block for _, block in draw(self.dcm, int(num_samples), fixed, evidence, seed, names)]
        return to_samples(self.dcm, blocks, names)

    def attach(self, data: pd.DataFrame | Dataset | Sequence[Dataset | pd.DataFrame]) -> None:
        """Give a loaded model its training data, so that answers show the plug-in estimate beside the model's.

        Args:
            data: The data that the model was trained on, as :func:`fit` took them.

        Raises:
            DataError: If they are not those data.
        """
        datasets = validate(data, self.graph.nodes)
        digests = [_digest(dataset, self.schema) for dataset in datasets]
        if digests != [dataset.get("sha256") for dataset in self.datasets]:
            raise DataError("these are not the data that the model was trained on")
        self.data = tuple(datasets)

    def identify(self, text: str | language.Expression) -> Identification:
        """Whether the graph and the data sets of the training determine the answer to a query, and how.

        Args:
            text: The query.

        Raises:
            QueryError: If the query is malformed.
        """
        return identify(
            self.graph, text, datasets=self.plan.datasets, kinds=self.schema.kinds, levels=self.schema.levels
        )

    def query(
        self, text: str, num_samples: int = 100_000, *, allow_unidentifiable: bool = False, seed: int = 0
    ) -> Answer:
        """Answer a causal query by sampling, after checking that the graph and the data determine the answer.

        Args:
            text: ``P(A | do(D=0))``, ``P(A | do(D))`` for every level of D, ``P(Y | do(X=1), Z=0)``,
                ``E[Y | do(X=1)] - E[Y | do(X=0)]``. The expectation of a categorical variable needs numeric levels.
            num_samples: Draws per combination of what is set and given.
            allow_unidentifiable: Whether to answer all the same where the answer is not determined; it then depends
                on the model that happened to be fitted, and is marked so.
            seed: Seed of the draws; both sides of a difference use the same noise, so most of it cancels.

        Returns:
            The answer with its standard error, how it is identified and, where all that matters is discrete, the
            plug-in estimate beside it.

        Raises:
            QueryError: With a caret under the place, if the query is malformed, or does not fit the model.
            NotIdentifiableError: If the graph and the data do not determine the answer.
            LowSupportError: If too few draws agree with the evidence.
        """
        _check_number(num_samples, 2, " (a standard error needs two draws)")
        expression = language.parse(text)
        expression.check(self.graph.nodes)
        for query in expression.queries:
            self._refuse_unanswerable(expression, query)
        found = self.identify(expression)
        if not found.identifiable and not allow_unidentifiable:
            raise NotIdentifiableError(found.explain(), witness=found.witness, experiments=found.experiments)
        (sign, query), *others = expression.terms
        if others or sign < 0 or (query.kind == "E" and query.is_number):
            answer = self._number(expression, found, num_samples, seed)
        else:
            answer = self._table(expression, found, query, num_samples, seed)
        return replace(answer, plug_in=self._plug_in(answer, seed))

    def _plug_in(self, answer: Answer, seed: int) -> pd.DataFrame | None:
        estimand = answer.identification.estimand
        if estimand is None or not self.data:
            return None
        if any(self.schema[name].kind != "categorical" for name in estimand.variables):
            return None
        try:
            estimate, spread = estimand.evaluate_with_error(list(self.data), seed=seed)
        except MdcmError:
            # too densely connected for tables; the model's answer does not depend on it
            return None
        model, error = (answer.table.iloc[:, k].to_numpy(dtype=np.float64) for k in (-2, -1))
        both = np.hypot(error, spread.to_numpy())
        gap = model - estimate.to_numpy()
        difference = np.divide(gap, both, out=np.zeros_like(gap), where=both > 0)
        return pd.DataFrame({"estimate": estimate.to_numpy(), "stderr": spread.to_numpy(), "difference": difference})

    def _refuse_unanswerable(self, expression: language.Expression, query: language.Query) -> None:
        if query.layer == 3:
            raise expression.error("counterfactual queries cannot be answered yet", query)
        set_names = {term.variable for term in query.do}
        for term in query.walk():
            variable = self.schema[term.variable]
            if variable.kind == "image":
                raise expression.error(f"{term.variable!r} is an image; use draw_samples to see it or to set it", term)
            is_outcome = term in query.outcomes
            if variable.kind == "categorical":
                if term.value is not None:
                    self._level(expression, term)
                if is_outcome and query.kind == "E":
                    self._numeric_levels(expression, term)
            elif term.value is None and not (is_outcome and query.kind == "E"):
                raise expression.error(f"{term.variable!r} is {variable.kind}: give it a value, or bin it", term)
            elif is_outcome and query.kind == "P":
                raise expression.error(
                    f"{term.variable!r} is {variable.kind}: ask for its expectation, or bin it", term
                )
        for term in query.given:
            if term.variable in set_names:
                raise expression.error(f"{term.variable!r} is set by do() and cannot be conditioned on as well", term)
            if self.schema[term.variable].kind != "categorical":
                raise expression.error(
                    f"{term.variable!r} is {self.schema[term.variable].kind} and cannot be conditioned on", term
                )

    def _level(self, expression: language.Expression, term: language.Term) -> Any:
        variable = self.schema[term.variable]
        assert term.value is not None
        try:
            level = variable.parse(term.value)
            variable.code(level)
        except DataError as error:
            raise expression.error(str(error), term, value=True) from None
        return level

    def _numeric_levels(self, expression: language.Expression, term: language.Term) -> Tensor:
        levels = self.schema[term.variable].levels or ()
        if not all(isinstance(level, int | float) for level in levels):
            raise expression.error(f"the levels of {term.variable!r} are no numbers, so it has no expectation", term)
        return torch.tensor([float(level) for level in levels], dtype=torch.float64)

    def _choices(self, expression: language.Expression, terms: Sequence[language.Term]) -> list[dict[str, Any]]:
        """All combinations of levels that a list of terms stands for."""
        columns = []
        for term in terms:
            if term.value is not None:
                columns.append([self._level(expression, term)])
            else:
                columns.append(list(self.schema[term.variable].levels or ()))
        return [dict(zip([term.variable for term in terms], values, strict=True)) for values in product(*columns)]

    def _draw(
        self, do: Mapping[str, Any], given: Mapping[str, Any], names: Sequence[str], num_samples: int, seed: int
    ) -> dict[str, Tensor]:
        fixed = {name: encode_do(self.schema[name], value) for name, value in do.items()}
        evidence = encode_evidence(self.dcm, given, fixed)
        blocks = [block for _, block in draw(self.dcm, num_samples, fixed, evidence, seed, names)]
        return {name: torch.cat([block[name] for block in blocks]) for name in names}

    def _table(
        self,
        expression: language.Expression,
        found: Identification,
        query: language.Query,
        num_samples: int,
        seed: int,
    ) -> Answer:
        for term in query.walk():
            if term.variable in _COLUMNS:
                raise expression.error(
                    f"the answer has a column {term.variable!r} of its own; rename the variable", term
                )
        names = [term.variable for term in query.outcomes]
        records = []
        fewest = math.inf
        for do in self._choices(expression, query.do):
            for given in self._choices(expression, query.given):
                drawn = self._draw(do, given, names, num_samples, seed)
                rows = len(drawn[names[0]])
                fewest = min(fewest, rows)
                if query.kind == "E":
                    values = self._numbers(expression, query.outcomes[0], drawn[names[0]])
                    stderr = math.sqrt(_smoothed_variance(values, self._step(expression, query)) / rows)
                    records.append({**do, **given, "mean": float(values.mean()), "stderr": stderr})
                    continue
                for outcome in self._choices(expression, query.outcomes):
                    agree = torch.ones(rows, dtype=torch.bool)
                    for name, level in outcome.items():
                        agree &= drawn[name] == self.schema[name].code(level)
                    share = float(agree.double().mean())
                    # Laplace-smoothed inside the root, so that a share of 0 or 1 does not claim certainty
                    smooth = (share * rows + 1) / (rows + 2)
                    stderr = math.sqrt(smooth * (1 - smooth) / rows)
                    records.append({**do, **given, **outcome, "probability": share, "stderr": stderr})
        table = pd.DataFrame.from_records(records)
        value, error = (float(number) for number in table.iloc[0, -2:]) if len(table) == 1 else (None, None)
        return Answer(str(expression), table, value, error, float(fewest), found)

    def _numbers(self, expression: language.Expression, term: language.Term, values: Tensor) -> Tensor:
        if self.schema[term.variable].kind == "categorical":
            return self._numeric_levels(expression, term)[values]
        return torch.from_numpy(self.schema[term.variable].restore(values.numpy()))

    def _step(self, expression: language.Expression, query: language.Query) -> float:
        """Smallest difference between two values that a row can have; 0 where there is none."""
        if query.kind == "P":
            return 1.0
        if self.schema[query.outcomes[0].variable].kind != "categorical":
            return 0.0
        levels = self._numeric_levels(expression, query.outcomes[0]).sort().values
        return float(levels.diff().min()) if len(levels) > 1 else 0.0

    def _number(self, expression: language.Expression, found: Identification, num_samples: int, seed: int) -> Answer:
        paired = not any(query.given for query in expression.queries)
        total: Tensor | None = None
        value = variance = 0.0
        fewest = step = math.inf
        for sign, query in expression.terms:
            do = self._choices(expression, query.do)[0]
            given = self._choices(expression, query.given)[0]
            names = [term.variable for term in query.outcomes]
            drawn = self._draw(do, given, names, num_samples, seed)
            if query.kind == "E":
                numbers = self._numbers(expression, query.outcomes[0], drawn[names[0]])
            else:
                outcome = self._choices(expression, query.outcomes)[0]
                agree = [drawn[name] == self.schema[name].code(level) for name, level in outcome.items()]
                numbers = torch.stack(agree).all(0).double()
            fewest = min(fewest, len(numbers))
            value += sign * float(numbers.mean())
            step = min(step, self._step(expression, query))
            variance += _smoothed_variance(numbers, step) / len(numbers)
            if paired:
                total = sign * numbers if total is None else total + sign * numbers
        if total is not None:
            # the same rows have the same noise in every term, so errors of the terms cancel row by row
            variance = _smoothed_variance(total, step) / len(total)
        table = pd.DataFrame({"value": [value], "stderr": [math.sqrt(variance)]})
        return Answer(str(expression), table, value, math.sqrt(variance), float(fewest), found)

    def save(self, path: str | Path) -> None:
        """Save the model as a run directory, which :func:`load` reads.

        Args:
            path: Directory; made if it does not exist, and refused if it holds other things than a run.

        Raises:
            CheckpointError: If the path cannot be a run directory.
        """
        graph = {
            "nodes": list(self.graph.nodes),
            "directed": [list(edge) for edge in self.graph.directed],
            "bidirected": [list(edge) for edge in self.graph.bidirected],
            "latents": {name: list(children) for name, children in _latents(self.graph)},
        }
        description = {
            "graph": graph,
            "variables": self.schema.to_json(),
            "plan": self.plan.to_json(),
            "architecture": self.dcm.architecture(),
            "config": self.config.to_json(),
            "seed": self.seed,
            "datasets": self.datasets,
            "origin": self.origin,
            "versions": _versions(),
        }
        write_run(path, description, self.dcm.state_dict(), self.history)


def _smoothed_variance(values: Tensor, step: float) -> float:
    """Variance after one more row a step above the mean and one a step below it.

    Where values are few and most rows agree, all rows of a small sample may, and their own variance would claim
    certainty.
    """
    squares = float((values - values.mean()).square().sum())
    return (squares + 2 * step**2) / (len(values) + 2)


def _check_number(num_samples: object, least: int, why: str = "") -> None:
    if isinstance(num_samples, bool) or not isinstance(num_samples, int | np.integer) or num_samples < least:
        raise QueryError(f"num_samples must be a whole number of at least {least}{why}, not {num_samples!r}")


def _latents(graph: ADMG) -> list[tuple[str, Sequence[str]]]:
    latents = graph.latents
    return list(latents.items()) if isinstance(latents, Mapping) else list(latents)


def _versions() -> dict[str, str]:
    names = ("mdcm", "torch", "numpy", "pandas")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def fit(
    graph: ADMG | str,
    data: pd.DataFrame | Dataset | Sequence[Dataset | pd.DataFrame],
    *,
    plan: Plan | None = None,
    objective: Objective | Mapping[str, Objective] = "auto",
    method: Method = "minimal",
    variables: Mapping[str, Any] | None = None,
    mechanisms: Mapping[str, MechanismFactory] | None = None,
    config: TrainConfig | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool | Progress = False,
    origin: str | None = None,
) -> Model:
    """Train a deep causal generative model of a graph on data.

    Args:
        graph: The ADMG, or its arrow text.
        data: Table, or data set with images.
        plan: A plan for these data; made here by default.
        objective: "auto", "likelihood" or "adversarial", or one per variable; what is not a likelihood is trained by
            the mechanism's own loss where the variable is unconfounded.
        method: Of the plan.
        variables: Kinds, levels and shapes that are not to be inferred: ``{"X": {"kind": "categorical"}}``.
        mechanisms: Constructors ``(variable, parents, states of its confounders) -> Mechanism`` by variable.
        config: Settings.
        out: Run directory to save the model in.
        device: "auto" or "cpu".
        seed: Seed of everything random.
        progress: True for progress bars on a terminal, or an object that is told.
        origin: Path of the spec that names the data, relative to ``out``, noted there.

    Returns:
        The trained model.

    Raises:
        DataError: If the data cannot be used.
        PlanError: If the model cannot be trained as asked.
        UntrainableError: If the data cannot teach an h-node.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"X": [0, 1] * 100, "Y": [0, 1, 1, 1] * 50})
        >>> model = fit("X -> Y", table, config=TrainConfig(max_steps=50))
        >>> model.query("P(Y=1 | do(X=0))", num_samples=1000).table.columns.tolist()
        ['X', 'Y', 'probability', 'stderr']
    """
    if device not in ("auto", "cpu"):
        raise PlanError(f"device {device!r} is not supported yet; use 'auto' or 'cpu'")
    graph = ADMG.from_string(graph) if isinstance(graph, str) else graph
    config = config or TrainConfig()
    datasets = validate(data, graph.nodes)
    if len(datasets) != 1 or datasets[0].do:
        raise PlanError("training on several data sets, or on data under do(), is not supported yet; pass one table")
    schema = Schema.infer(datasets, variables, order=graph.nodes)
    _check_names(graph, mechanisms or {})
    if plan is None:
        plan = make_plan(
            graph,
            [dataset.spec(graph.nodes) for dataset in datasets],
            objective=objective,
            method=method,
            kinds=schema.kinds,
            levels=schema.levels,
        )
    elif plan.graph != graph:
        raise PlanError("the plan is for another graph; make it with mdcm.plan from this one")
    for name in sorted({name for hnode in plan.hnodes for fit in hnode.fits for name in fit.datasets}):
        if name not in {dataset.name for dataset in datasets}:
            raise PlanError(
                f"the plan is for a data set {name!r}, which is not among {listing(d.name for d in datasets)}"
            )
    if out is not None:
        # found out before hours of training rather than after
        reserve(out)
    history: list[dict[str, Any]] = []
    with _bars(progress) as told:
        dcm = train(
            graph, schema, plan, datasets, config, factories=mechanisms, seed=seed, progress=told, log=history.append
        )
    described = [
        {"name": d.name, "rows": len(d), "columns": list(d.columns), "do": list(d.do), "sha256": _digest(d, schema)}
        for d in datasets
    ]
    model = Model(graph, schema, plan, dcm, config, seed=seed, datasets=described, history=history, origin=origin)
    model.data = tuple(datasets)
    if out is not None:
        model.save(out)
    return model


def _digest(dataset: Dataset, schema: Schema) -> str:
    """Checksum of the values as mechanisms see them, the same for a CSV and a Parquet file of one table."""
    digest = hashlib.sha256()
    for name, array in sorted(encode(dataset, schema).items()):
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode("utf-8", "surrogatepass"))
        for start in range(0, len(array), 4096):
            digest.update(np.ascontiguousarray(array[start : start + 4096]).tobytes())
    return digest.hexdigest()


def _bars(progress: bool | Progress) -> Any:
    from contextlib import nullcontext

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
    given = dict(mechanisms or {})
    description, weights, history = read_run(path)
    where, weights_file = Path(path) / MODEL, Path(path) / WEIGHTS
    try:
        graph = ADMG(
            nodes=description["graph"]["nodes"],
            directed=[tuple(edge) for edge in description["graph"]["directed"]],
            bidirected=[tuple(edge) for edge in description["graph"]["bidirected"]],
            latents=description["graph"]["latents"],
        )
        schema = Schema.from_json(description["variables"])
        plan = Plan.from_json(description["plan"])
        if set(plan.graph.nodes) != set(graph.nodes):
            raise ValueError("its plan is for another graph")
        config = TrainConfig.from_json(description["config"])
        architecture, seed = description["architecture"], description["seed"]
        if not isinstance(seed, int):
            raise TypeError(f"its seed is {seed!r}")
        factories = {node: _factory(node, architecture["mechanisms"][node], given, where) for node in graph.nodes}
        states = architecture["states"]
        _check_weights(weights, graph, schema, architecture, given, weights_file)
        dcm = DCM(graph, schema, states, factories, seed=seed)
        try:
            dcm.load_state_dict(weights, strict=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{weights_file} does not fit {MODEL}: {reason}", path=str(weights_file)) from error
        origin = description.get("origin")
        if origin is not None and not isinstance(origin, str):
            raise TypeError(f"its origin is {origin!r}")
        model = Model(
            graph,
            schema,
            plan,
            dcm.eval(),
            config,
            seed=seed,
            datasets=description["datasets"],
            history=history,
            origin=origin,
        )
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{where} does not describe a model: {error} is missing", path=str(where)) from error
    except (TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{where} does not describe a model: {error}", path=str(where)) from error
    _check_names(graph, given)
    return model


def _check_weights(
    weights: Mapping[str, Tensor],
    graph: ADMG,
    schema: Schema,
    architecture: Mapping[str, Any],
    given: Collection[str],
    path: Path,
) -> None:
    """Refuse weights of other shapes than the description asks for, before memory is taken for what it asks for.

    The mechanisms in ``given`` are the user's own, and nothing is known of their shapes.
    """
    present = sum(tensor.numel() for tensor in weights.values())
    asked = [*architecture["states"].values()]
    asked += [value for config in architecture["mechanisms"].values() for value in config.values()]
    if any(isinstance(value, int | float) and value > present for value in asked):
        raise CheckpointError(f"{path} does not fit {MODEL}: that describes a larger model", path=str(path))
    states = {name: int(architecture["states"][name]) for name, _ in graph.confounders}
    expected = {f"priors.{i}": torch.empty(size, device="meta") for i, size in enumerate(states.values())}
    with torch.device("meta"):
        for position, node in enumerate(graph.nodes):
            if node in given:
                continue
            parents = [schema[parent] for parent in graph.nodes if parent in graph.parents(node)]
            sizes = [states[name] for name, children in graph.confounders if node in children]
            factory = from_config(architecture["mechanisms"][node])
            assert factory is not None
            shapes = factory(schema[node], parents, sizes).state_dict()
            expected.update({f"_modules_by_position.{position}.{key}": tensor for key, tensor in shapes.items()})
    for key, tensor in expected.items():
        found = weights.get(key)
        if found is None or found.shape != tensor.shape or found.dtype != tensor.dtype:
            what = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
            raise CheckpointError(
                f"{path} does not fit {MODEL}: {key} must be {tensor.dtype} {list(tensor.shape)}, but is {what}",
                path=str(path),
            )


def _check_names(graph: ADMG, mechanisms: Iterable[str]) -> None:
    for name in mechanisms:
        if name not in graph:
            raise PlanError(f"mechanisms: {name!r} is no node of the graph{suggestion(name, graph.nodes)}")


def _factory(
    node: str, config: Mapping[str, Any], given: Mapping[str, MechanismFactory], where: Path
) -> Callable[[Variable, Sequence[Variable], Sequence[int]], Any]:
    if node in given:
        return given[node]
    made = from_config(config)
    if made is None:
        raise CheckpointError(
            f"{where}: the mechanism of {node!r} is of the type {config.get('type')!r}, which mdcm does not have; "
            f"pass it as mechanisms={{{node!r}: ...}}",
            path=str(where),
        )
    return made
