"""Files of a trained model: its description and weights, read back without executing anything."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mdcm.data import Schema, Variable, check_decodable
from mdcm.data.variables import suggestion
from mdcm.dcm import DCM, MechanismFactory
from mdcm.errors import CheckpointError, PlanError
from mdcm.graph import ADMG
from mdcm.mechanisms import encoded, from_config
from mdcm.model.allocation import AllocationError, Bounded
from mdcm.planning import Plan
from mdcm.sampling import Support
from mdcm.sampling.counts import MOST_KEPT, MOST_KNOTS
from mdcm.storage.run_directory import MODEL, MOST_WEIGHTS, WEIGHTS, read_run, write_run
from mdcm.text.advice import advice
from mdcm.text.documents import either, flag, listed, mapping, number, of_types, optional, record, text, whole
from mdcm.training.config import TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Saved", "check_names", "read_model", "write_model"]


# prefix of the names of arrays that are counts of training rows rather than weights
_SUPPORT = "support."
# limit on the numbers that constructors allocate: a multiple of those in the weight file, and a constant, since some
# initial values are drawn and discarded
_SPARE, _SMALL = 4, 1 << 20
# bytes of a weight file without tensors, and of the entry of each tensor
_HEADER, _NAMED = 1 << 20, 1 << 10


_NAMES = listed(text)
_LEVEL = of_types(bool, int, float, str)
_PAIRS = listed(listed(text, 2))
_VARIABLE = record(
    {"name": text, "kind": text},
    {
        "levels": optional(listed(_LEVEL)), "shape": optional(listed(whole(1), 3)), "dtype": optional(text),
        "origin": optional(text), "mean": optional(either(number(), listed(number()))),
        "scale": optional(either(number(), listed(number()))), "span": optional(listed(number(), 2)),
        "size": optional(whole(1)), "level_type": optional(text),
    },
)  # fmt: skip
_DATASET = record(
    {"name": text, "rows": whole(), "columns": _NAMES, "do": _NAMES, "sha256": text},
)
_ARCHITECTURE = record({"states": mapping(whole(1)), "mechanisms": mapping(mapping())})
_COUNTS = record({"do": _NAMES, "columns": _NAMES, "rows": whole(), "tables": listed(_NAMES)})
# content of model.json besides the checksums
_DESCRIPTION = record(
    {
        "format": whole(),
        "graph": record(
            {"nodes": _NAMES, "directed": _PAIRS, "bidirected": _PAIRS, "latents": mapping(_NAMES)},
        ),
        "variables": listed(_VARIABLE),
        "plan": text,
        "architecture": _ARCHITECTURE,
        "config": mapping(),
        "seed": whole(),
        "datasets": listed(_DATASET),
    },
    {
        "origin": optional(mapping()),
        "versions": mapping(text),
        "ensemble": optional(record({"resampled": flag, "architectures": listed(optional(_ARCHITECTURE))})),
        "support": optional(record({"knots": _NAMES, "datasets": listed(_COUNTS)})),
    },
)


@dataclass(frozen=True)
class Saved:
    """Content of a run directory; attributes as those of :class:`mdcm.Model`."""

    graph: ADMG
    schema: Schema
    plan: Plan
    dcm: DCM
    config: TrainConfig
    seed: int
    datasets: Sequence[Mapping[str, Any]]
    history: Sequence[Mapping[str, Any]]
    origin: Mapping[str, Any] | None
    members: Sequence[DCM]
    resampled: bool
    support: Support | None


def write_model(path: str | Path, saved: Saved) -> None:
    """Write a run directory.

    Args:
        path: Directory, locked by the caller.
        saved: The content.

    Raises:
        CheckpointError: If the path cannot be a run directory.
    """
    graph = saved.graph
    description: dict[str, Any] = {
        "graph": {
            "nodes": list(graph.nodes),
            "directed": [list(edge) for edge in graph.directed],
            "bidirected": [list(edge) for edge in graph.bidirected],
            "latents": {name: list(children) for name, children in graph.latents},
        },
        "variables": saved.schema.to_json(),
        "plan": saved.plan.to_json(),
        "architecture": saved.dcm.architecture(),
        "config": saved.config.to_json(),
        "seed": saved.seed,
        "datasets": saved.datasets,
        "origin": saved.origin,
        "versions": _versions(),
    }
    weights = {key: tensor.cpu() for key, tensor in saved.dcm.state_dict().items()}
    if saved.members:
        shapes = [member.architecture() for member in saved.members]
        shape_of_model = saved.dcm.architecture()
        description["ensemble"] = {
            "resampled": saved.resampled,
            "architectures": [None if shape == shape_of_model else shape for shape in shapes],
        }
        for number, member in enumerate(saved.members):
            prefix = _member_prefix(number)
            weights |= {f"{prefix}{key}": tensor.cpu() for key, tensor in member.state_dict().items()}
    if saved.support is not None:
        description["support"], arrays = saved.support.to_state()
        weights |= {f"{_SUPPORT}{key}": array for key, array in arrays.items()}
    write_run(path, description, weights, saved.history)


def read_model(path: str | Path, mechanisms: Mapping[str, MechanismFactory]) -> Saved:
    """Read a run directory without executing anything in it.

    Args:
        path: Directory that :func:`write_model` wrote.
        mechanisms: Constructors of custom mechanisms.

    Returns:
        Its content, models in evaluation mode.

    Raises:
        CheckpointError: If a file is missing, damaged or from another format version, or if the constructor of a
            custom mechanism is missing.
        PlanError: If a name in ``mechanisms`` is not a node of the graph.
    """
    given = dict(mechanisms)
    description, weights, history = read_run(path, partial(_bytes_described, given=given))
    where, weights_file = Path(path) / MODEL, Path(path) / WEIGHTS
    try:
        _DESCRIPTION(description, "")
        graph = ADMG(
            nodes=description["graph"]["nodes"],
            directed=[tuple(edge) for edge in description["graph"]["directed"]],
            bidirected=[tuple(edge) for edge in description["graph"]["bidirected"]],
            latents=description["graph"]["latents"],
        )
        plan = Plan.from_json(description["plan"])
        if set(plan.graph.nodes) != set(graph.nodes):
            raise ValueError("its plan is for another graph")
        schema = Schema.from_json(description["variables"])
        for node in graph.nodes:
            if node not in schema:
                raise ValueError(f"the variable {node!r} is missing")
        if len(schema) > len(graph.nodes):
            raise ValueError("it has variables that are not nodes of its graph")
        for variable in schema.values():
            check_decodable(variable)
        config = TrainConfig.from_json(description["config"])
        if [spec.name for spec in plan.datasets] != [dataset["name"] for dataset in description["datasets"]]:
            raise ValueError("its plan is for other data sets than it was trained on")
        architecture, seed = description["architecture"], description["seed"]
        dcm = _load_dcm(weights, graph, schema, architecture, given, seed, (where, weights_file))
        members = []
        ensemble = description.get("ensemble") or {"architectures": [], "resampled": True}
        for number, shape in enumerate(ensemble["architectures"]):
            prefix = _member_prefix(number)
            part = {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
            member = _load_dcm(part, graph, schema, shape or architecture, given, seed, (where, weights_file))
            members.append(member.eval())
        origin = description.get("origin")
        saved = Saved(
            graph, schema, plan, dcm.eval(), config, seed, description["datasets"], history, origin, tuple(members),
            bool(ensemble["resampled"]), _load_support(weights, graph, schema, description.get("support")),
        )  # fmt: skip
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{where} does not describe a model: {error} is missing", path=str(where)) from error
    except (TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"{where} does not describe a model: {error}", path=str(where)) from error
    check_names(graph, given)
    return saved


def _bytes_described(description: Mapping[str, Any], given: Mapping[str, MechanismFactory]) -> int:
    """Largest number of bytes of the weights that a description allows, computed without allocating them.

    With custom mechanisms this is the general limit. A description that is not valid is refused later, with a reason.
    """
    try:
        _DESCRIPTION(description, "")
        shape = description["graph"]
        nodes, confounded = shape["nodes"], [tuple(edge) for edge in shape["bidirected"]]
        directed = [tuple(edge) for edge in shape["directed"]]
        graph = ADMG(nodes=nodes, directed=directed, bidirected=confounded, latents=shape["latents"])
        if any(node in given for node in nodes):
            return MOST_WEIGHTS
        schema = Schema.from_json(description["variables"])
        ensemble = description.get("ensemble") or {"architectures": []}
        others = [other for other in ensemble["architectures"] if other is not None]
        sizes = [_bytes_of(graph, schema, each) for each in (description["architecture"], *others)]
        same = len(ensemble["architectures"]) - len(others)
        tensors = sum(count for count, _ in sizes) + same * sizes[0][0]
        total = sum(size for _, size in sizes) + same * sizes[0][1]
    except (CheckpointError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError):
        return _HEADER
    for dataset in (description.get("support") or {"datasets": []})["datasets"]:
        for columns in dataset["tables"]:
            levels = sum(len(schema[name].levels or ()) or MOST_KNOTS for name in columns if name in schema)
            total += (MOST_KEPT + levels) * (4 * len(columns) + 8)
            tensors += 2
    return total + len(schema) * 4 * MOST_KNOTS + _HEADER + (tensors + len(schema)) * _NAMED


def _bytes_of(graph: ADMG, schema: Schema, architecture: Mapping[str, Any]) -> tuple[int, int]:
    """Number of tensors of an architecture, and their bytes; one mechanism of each shape is built to count them."""
    states, configs = architecture["states"], architecture["mechanisms"]
    bounded, known = Bounded(MOST_WEIGHTS), dict[Any, tuple[int, int]]()
    latents: dict[str, list[int]] = {node: [] for node in graph.nodes}
    count = total = 0
    for name, children in graph.confounders:
        count, total = count + 1, total + torch.float32.itemsize * states[name]
        for child in children:
            latents[child].append(states[name])
    for node in graph.nodes:
        parents = [schema[parent] for parent in sorted(graph.parents(node))]
        variables = (schema[node], *parents)
        shapes = [(each.kind, len(each.levels or ()), each.shape, each.size) for each in variables]
        key = json.dumps([configs[node], shapes, latents[node]])
        if key not in known:
            make = _factory(node, configs[node], {}, Path(MODEL), bounded)
            with torch.device("meta"):
                tensors = make(schema[node], parents, latents[node]).state_dict().values()
            known[key] = len(tensors), sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        count, total = count + known[key][0], total + known[key][1]
    return count, total


def _load_support(
    weights: Mapping[str, Tensor], graph: ADMG, schema: Schema, described: Mapping[str, Any] | None
) -> Support | None:
    if described is None:
        return None
    arrays = {key.removeprefix(_SUPPORT): array for key, array in weights.items() if key.startswith(_SUPPORT)}
    return Support.from_state(graph, schema, described, arrays)


def _member_prefix(number: int) -> str:
    return f"member.{number}."


def _versions() -> dict[str, str]:
    names = ("mdcm", "torch", "numpy", "pandas")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def _load_dcm(
    weights: Mapping[str, Tensor],
    graph: ADMG,
    schema: Schema,
    architecture: Mapping[str, Any],
    given: Mapping[str, MechanismFactory],
    seed: int,
    files: tuple[Path, Path],
) -> DCM:
    """Build a model and load its weights; ``files`` are the description and the weight file, for messages."""
    where, weights_file = files
    weights = {key: tensor for key, tensor in weights.items() if not key.startswith(("member.", _SUPPORT))}
    present = sum(tensor.numel() for tensor in weights.values())
    _check_sizes(architecture, present, weights_file)
    bounded = Bounded(_SPARE * present + _SMALL)
    factories = {node: _factory(node, architecture["mechanisms"][node], given, where, bounded) for node in graph.nodes}
    try:
        dcm = DCM(graph, schema, architecture["states"], factories, seed=seed)
    except AllocationError:
        raise _larger(weights_file) from None
    _check_weights(weights, dcm, given, weights_file)
    for key, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            count = int((~tensor.isfinite()).sum())
            raise CheckpointError(
                f"{weights_file} is damaged: {key} holds {count:,} numbers that are not finite; train the model again, "
                "or restore the file",
                path=str(weights_file),
            )
    try:
        dcm.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{weights_file} does not fit {MODEL}: {reason}", path=str(weights_file)) from error
    return dcm


def _larger(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} does not fit {MODEL}: that describes a larger model", path=str(path))


def _check_sizes(architecture: Mapping[str, Any], present: int, path: Path) -> None:
    """Refuse sizes larger than the number of weights in the file, before anything is allocated."""
    configs = architecture["mechanisms"].values()
    sizes = [*architecture["states"].values()]
    sizes += [value for config in configs for value in config.values()]
    encoders = [encoder for config in configs for encoder in config.get("encoders", {}).values()]
    sizes += [value for encoder in encoders for value in encoder.values()]
    if any(isinstance(value, int | float) and not value <= present for value in sizes):
        raise _larger(path)


def _check_weights(weights: Mapping[str, Tensor], dcm: DCM, given: Collection[str], path: Path) -> None:
    """Refuse weights whose shapes differ from the description; custom mechanisms in ``given`` are not checked."""
    custom = tuple(f"_modules_by_position.{dcm.position[node]}." for node in given if node in dcm.position)
    expected = {key: tensor for key, tensor in dcm.state_dict().items() if not key.startswith(custom)}
    for key, tensor in expected.items():
        stored = weights.get(key)
        if stored is None or stored.shape != tensor.shape or stored.dtype != tensor.dtype:
            what = "nothing" if stored is None else f"{stored.dtype} {list(stored.shape)}"
            raise CheckpointError(
                f"{path} does not fit {MODEL}: {key} must be {tensor.dtype} {list(tensor.shape)}, but is {what}",
                path=str(path),
            )


def check_names(graph: ADMG, mechanisms: Iterable[str]) -> None:
    """Raise PlanError unless all names of mechanisms are nodes of the graph."""
    for name in mechanisms:
        if name not in graph:
            raise PlanError(f"mechanisms: {name!r} is not a node of the graph{suggestion(name, graph.nodes)}")


def _factory(
    node: str, config: Mapping[str, Any], given: Mapping[str, MechanismFactory], where: Path, bounded: Bounded
) -> Callable[[Variable, Sequence[Variable], Sequence[int]], Any]:
    if node in given:
        return encoded(given[node], config)
    made = from_config(config)
    if made is None:
        raise CheckpointError(
            f"{where}: the mechanism of {node!r} is of the type {config.get('type')!r}, which mdcm does not have; "
            + advice(
                f"pass it as mechanisms={{{node!r}: ...}}",
                f"load the run in Python, with mdcm.load(..., mechanisms={{{node!r}: ...}})",
            ),
            path=str(where),
        )

    def make(*arguments: Any) -> Any:
        with bounded:
            return made(*arguments)

    return make
