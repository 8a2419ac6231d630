"""Comparison of a trained model's draws with the data, made once after training.

A loss measures a fit only relative to another fit. Draws can be compared with the data themselves: for every number
its distribution, overall and at each level of its discrete parents, and its dependence on what it is drawn from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mdcm.dcm import DCM, derived_seed, one_thread
from mdcm.mechanisms import Categorical, float_pixels
from mdcm.mechanisms.placement import drawn
from mdcm.mechanisms.pretrained import Frozen
from mdcm.training.rows import tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.data import Encoded
    from mdcm.planning import Plan
    from mdcm.training.config import TrainConfig

__all__ = ["Misfit", "compare_draws", "misfits", "variables_to_compare"]

# rows of a data set that are compared with as many draws; fewer of images, which may take long to draw
_ROWS, _IMAGES = 4000, 200
# smallest number of rows, of a level or in total, that are compared
_MIN_ROWS = 50
# probability of a false alarm for a model that draws from the very distribution of the data
_FALSE_ALARM = 1e-3
# tolerances beyond chance: of distribution functions and probabilities, and of moments and standard deviations in
# units of the standard deviation
_DISTRIBUTION, _MOMENT = 0.04, 0.07
_MAX_LEVELS = 20
# knots of the linear splines of a regression, in normal scores, so that it follows a wave as well as a line
_KNOTS = np.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])


@dataclass(frozen=True)
class Misfit:
    """One way in which draws differ from the data.

    Attributes:
        variable: Name of the variable.
        hnode: Variables of its h-node.
        what: Description of the difference, with its size.
        size: Ratio of the difference to the allowed one; above 1.
        pretrained: Whether the variable's mechanism is pretrained.
    """

    variable: str
    hnode: tuple[str, ...]
    what: str
    size: float
    pretrained: bool = False

    def __str__(self) -> str:
        return f"{self.variable!r}: {self.what}"


def variables_to_compare(dcm: DCM, plan: Plan, config: TrainConfig) -> list[str]:
    """Variables whose draws are compared with the data after a training.

    These are pretrained variables and, after a training of full length, numbers and levels that depend on numbers, in
    h-nodes that are not trained against critics, which compare draws themselves.
    """
    cut_short = config.max_steps is not None or config.max_minutes is not None
    # pretrained variables have no h-node
    hnode_of = {name: hnode for hnode in plan.hnodes for name in hnode.variables}
    chosen = []
    for name in dcm.order:
        mechanism, hnode = dcm.mechanism(name), hnode_of.get(name)
        if isinstance(mechanism, Frozen):
            chosen.append(name)
        elif cut_short or hnode is None or not hnode.fits or dcm.schema[name].kind == "image":
            continue
        elif isinstance(mechanism, Categorical) and mechanism.tabular:
            # its cells are counted elsewhere
            continue
        elif all(fit.objective == "likelihood" for fit in hnode.fits) or not dcm.latents[name]:
            chosen.append(name)
    return chosen


@torch.no_grad()
@one_thread()
def misfits(dcm: DCM, plan: Plan, data: Mapping[str, Encoded], seed: int, variables: Sequence[str]) -> list[Misfit]:
    """Variables whose draws differ from the data, with the worst difference of each.

    A variable without confounders is drawn given its parents in the data, row by row. One with confounders is drawn
    together with all that it depends on, under the interventions of the data set.

    Args:
        dcm: A trained model.
        plan: The plan it was trained by.
        data: The data sets by name.
        seed: Seed of the draws.
        variables: Variables to compare.

    Returns:
        The differences, in the order of ``variables``.

    Raises:
        MdcmError: If a mechanism draws values that are not finite.

    Complexity:
        One draw of at most 4,000 rows per variable and data set, 200 of an image.
    """
    results = []
    for name in variables:
        members = next((hnode.variables for hnode in plan.hnodes if name in hnode.variables), (name,))
        worst: Misfit | None = None
        for encoded in data.values():
            if name not in encoded or name in encoded.do:
                continue
            for what, size in _differences(dcm, members, encoded, name, derived_seed(seed, "fidelity", encoded.name)):
                if worst is None or size > worst.size:
                    pretrained = isinstance(dcm.mechanism(name), Frozen)
                    worst = Misfit(name, tuple(members), what, size, pretrained)
        if worst is not None and worst.size > 1:
            results.append(worst)
    return results


def _differences(dcm: DCM, members: Sequence[str], encoded: Encoded, name: str, seed: int) -> list[tuple[str, float]]:
    """Differences between draws of a variable and a data set, each with its ratio to the allowed difference."""
    variable = dcm.schema[name]
    causes = _causes(dcm, members, name)
    confounded = bool(dcm.latents[name])
    if confounded:
        needed = dcm.needed([name, *causes], encoded.do)
        if any(dcm.schema[node].kind == "image" and node not in encoded.do for node in needed):
            # images would have to be drawn as well
            return []
        if not set(causes) <= set(encoded):
            causes = []
    elif not set(dcm.parents(name)) <= set(encoded):
        return []
    rows = _sampled_rows(encoded, _IMAGES if variable.kind == "image" else _ROWS, seed)
    if len(rows) < _MIN_ROWS:
        return []
    real = {node: tensor(encoded[node])[rows] for node in {name, *causes, *encoded.do} if node in encoded}
    numbers = torch.arange(len(rows))
    if confounded:
        # set variables have the values of the rows; everything else is drawn
        do = {node: float_pixels(real[node]) for node in encoded.do if node in real}
        draws = dcm.generate(numbers, seed, do, [name, *causes])
    else:
        parents = {node: float_pixels(tensor(encoded[node])[rows]) for node in dcm.parents(name)}
        draws = {**parents, name: drawn(dcm.mechanism(name), parents, (), dcm.own_noise(name, numbers, seed))}
    return compare_draws(
        _columns(dcm, name, float_pixels(real[name])),
        _columns(dcm, name, draws[name]),
        [
            (node, _columns(dcm, node, real[node]), _columns(dcm, node, draws.get(node, real[node])))
            for node in causes
            if dcm.schema[node].kind != "image"
        ],
    )


def _causes(dcm: DCM, members: Sequence[str], name: str) -> list[str]:
    """Variables on which a variable depends: its parents, and earlier members of its h-node with their parents."""
    ordered = [node for node in dcm.order if node in members] if dcm.latents[name] else [name]
    earlier = ordered[: ordered.index(name)]
    causes = {parent for node in [*earlier, name] for parent in dcm.parents(node)} | set(earlier)
    return [node for node in dcm.order if node in causes]


def _sampled_rows(encoded: Encoded, most: int, seed: int) -> Tensor:
    """At most so many rows of a data set, drawn in proportion to their weights."""
    generator = np.random.default_rng(seed)
    if encoded.weights is not None:
        share = encoded.weights / encoded.weights.sum()
        # effective sample size of the weighted rows
        effective = int(1 / np.square(share).sum())
        picked = generator.choice(encoded.rows, min(most, effective), p=share)
    elif encoded.rows > most:
        picked = generator.choice(encoded.rows, most, replace=False)
    else:
        picked = np.arange(encoded.rows)
    return torch.from_numpy(np.sort(picked))


def _columns(dcm: DCM, name: str, values: Tensor) -> dict[str, NDArray[np.float64]] | NDArray[np.int64]:
    """Values of a variable as named columns of numbers; codes if it is categorical."""
    variable = dcm.schema[name]
    if variable.levels is not None:
        return np.asarray(values.numpy(), dtype=np.int64)
    if variable.kind == "image":
        flat = values.double().flatten(2)
        means, spreads = flat.mean(2).numpy(), flat.std((1, 2)).numpy()
        return {f"brightness of channel {c}": means[:, c] for c in range(means.shape[1])} | {"contrast": spreads}
    if variable.size is not None:
        return {f"entry {k}": column for k, column in enumerate(values.double().numpy().T)}
    return {"": values.double().numpy()}


def compare_draws(
    real: dict[str, NDArray[np.float64]] | NDArray[np.int64],
    draws: dict[str, NDArray[np.float64]] | NDArray[np.int64],
    given: Sequence[tuple[str, Any, Any]],
) -> list[tuple[str, float]]:
    """Differences between values of a variable and draws of it.

    Args:
        real: Values: codes of levels, or named columns of numbers.
        draws: Draws, likewise.
        given: Name, values and draws of every variable on which it depends.

    Returns:
        Descriptions of differences, each with the ratio of its size to what chance and a tolerance allow.

    References:
        Smirnov (1948), Table for estimating the goodness of fit of empirical distributions (critical values).

    Example:
        >>> x = np.linspace(-2, 2, 400)
        >>> [round(size, 1) for _, size in compare_draws({"": x}, {"": x + 1}, [])]
        [1.4]
    """
    differences: list[tuple[str, float]] = []
    groups = [("", np.ones(_length(real), bool), np.ones(_length(draws), bool))]
    for name, values, drawn_values in given:
        if isinstance(values, np.ndarray):
            levels = np.bincount(values).argsort()[::-1][:_MAX_LEVELS]
            groups += [(f" at level {level} of {name!r}", values == level, drawn_values == level) for level in levels]
    groups = [group for group in groups if min(group[1].sum(), group[2].sum()) >= _MIN_ROWS]
    tests = len(groups) * (1 if isinstance(real, np.ndarray) else len(real))
    for where, rows, drawn_rows in groups:
        if isinstance(real, np.ndarray) and isinstance(draws, np.ndarray):
            differences.append(_level_difference(real[rows], draws[drawn_rows], where, tests))
        elif isinstance(real, dict) and isinstance(draws, dict):
            for what, column in real.items():
                part = column[rows], draws[what][drawn_rows]
                differences.append(_distribution_difference(*part, what + where, tests))
    return differences + _dependence_differences(real, draws, given)


def _length(values: dict[str, NDArray[np.float64]] | NDArray[np.int64]) -> int:
    return len(values) if isinstance(values, np.ndarray) else len(next(iter(values.values())))


def _allowed(tests: int) -> float:
    """Largest number of standard errors that chance explains in so many tests (Bonferroni)."""
    tail = torch.tensor(_FALSE_ALARM / (2 * tests), dtype=torch.float64)
    return -float(torch.special.ndtri(tail))


def _level_difference(real: NDArray[np.int64], draws: NDArray[np.int64], where: str, tests: int) -> tuple[str, float]:
    size = int(max(real.max(), draws.max())) + 1
    p, q = (np.bincount(codes, minlength=size) / len(codes) for codes in (real, draws))
    pooled = (p * len(real) + q * len(draws)) / (len(real) + len(draws))
    error = np.sqrt(pooled * (1 - pooled) * (1 / len(real) + 1 / len(draws)))
    ratio = np.abs(p - q) / (_allowed(tests * size) * error + _DISTRIBUTION)
    worst = int(ratio.argmax())
    return f"level {worst} has {q[worst]:.3f} of the draws and {p[worst]:.3f} of the rows{where}", ratio[worst]


def _distribution_difference(
    real: NDArray[np.float64], draws: NDArray[np.float64], what: str, tests: int
) -> tuple[str, float]:
    points = np.sort(np.concatenate([real, draws]))
    gaps = np.abs(
        np.searchsorted(np.sort(real), points, side="right") / len(real)
        - np.searchsorted(np.sort(draws), points, side="right") / len(draws)
    )
    distance = float(gaps.max())
    chance = math.sqrt(-math.log(_FALSE_ALARM / (2 * tests)) / 2 * (1 / len(real) + 1 / len(draws)))
    label = f" of {what.strip()}" if what.strip() and not what.startswith(" at") else what
    return (
        f"the distribution functions of draws and rows{label} are {distance:.3f} apart (Kolmogorov-Smirnov; chance "
        f"alone makes less than {chance:.3f})",
        distance / (chance + _DISTRIBUTION),
    )


def _dependence_differences(real: Any, draws: Any, given: Sequence[tuple[str, Any, Any]]) -> list[tuple[str, float]]:
    """Differences from the regression on what comes before, which is fitted to normal scores of the rows."""
    if not given:
        return []
    x_parts, y_parts, labels = [np.ones((_length(real), 1))], [np.ones((_length(draws), 1))], [""]
    x_splines: list[NDArray[np.float64]] = []
    y_splines: list[NDArray[np.float64]] = []
    for name, values, drawn_values in given:
        numeric = not isinstance(values, np.ndarray)
        for x, y in _scores(values, drawn_values):
            x_parts.append(np.stack([x, x**2], 1) if numeric else x[:, None])
            y_parts.append(np.stack([y, y**2], 1) if numeric else y[:, None])
            labels += [name] * (2 if numeric else 1)
            if numeric:
                x_splines.append(np.maximum(x[:, None] - _KNOTS, 0))
                y_splines.append(np.maximum(y[:, None] - _KNOTS, 0))
    terms = sum(part.shape[1] for part in x_parts)
    if len(x_parts[0]) >= 10 * (terms + len(_KNOTS) * len(x_splines)):
        x_parts, y_parts = x_parts + x_splines, y_parts + y_splines
    features, drawn_features = np.concatenate(x_parts, 1), np.concatenate(y_parts, 1)
    if len(features) < 10 * features.shape[1]:
        return []
    differences = []
    responses = list(_scores(real, draws))
    allowed = _allowed(len(responses) * (terms + 1))
    for response, drawn_response in responses:
        spread = float(response.std())
        if spread == 0:
            continue
        slopes = np.linalg.lstsq(features, response, rcond=1e-9)[0]
        residual = (response - features @ slopes) / spread
        drawn_residual = (drawn_response - drawn_features @ slopes) / spread
        variation, drawn_variation = float(residual.std()), float(drawn_residual.std())
        error = math.hypot(_error_of_spread(residual), _error_of_spread(drawn_residual))
        differences.append(
            (
                f"given {', '.join(repr(name) for name, _, _ in given)} the draws vary by {drawn_variation:.3f} of "
                f"their spread about the regression of the rows, which themselves vary by {variation:.3f}",
                abs(variation - drawn_variation) / (allowed * error + _MOMENT),
            )
        )
        for column in range(1, terms):
            unit = float(features[:, column].std())
            if unit == 0:
                continue
            middle = features[:, column].mean()
            products = (features[:, column] - middle) / unit * residual
            drawn_products = (drawn_features[:, column] - middle) / unit * drawn_residual
            gap = abs(float(drawn_products.mean() - products.mean()))
            errors = [float(part.std()) / math.sqrt(len(part)) for part in (products, drawn_products)]
            differences.append(
                (
                    f"the draws depend on {labels[column]!r} otherwise than the rows, by {gap:.3f} in units of the "
                    "spreads",
                    gap / (allowed * math.hypot(*errors) + _MOMENT),
                )
            )
    return differences


def _error_of_spread(residual: NDArray[np.float64]) -> float:
    """Standard error of a standard deviation."""
    variance = float(residual.var())
    if variance == 0:
        return 0.0
    fourth = float(((residual - residual.mean()) ** 4).mean())
    return math.sqrt(max(fourth - variance**2, 0.0) / len(residual)) / (2 * math.sqrt(variance))


def _scores(real: Any, draws: Any) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Columns of a regression: normal scores by the ranks of the rows; indicators of all levels but the commonest."""
    if isinstance(real, np.ndarray):
        levels = np.bincount(real).argsort()[::-1][1:_MAX_LEVELS]
        common = [level for level in levels if (real == level).mean() > 0.01]
        return [((real == level).astype(float), (draws == level).astype(float)) for level in common]
    pairs = []
    for what, column in real.items():
        ordered = np.sort(column)

        def score(values: NDArray[np.float64], ordered: NDArray[np.float64] = ordered) -> NDArray[np.float64]:
            rank = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
            share = (rank + 0.5) / (len(ordered) + 1)
            return np.asarray(torch.special.ndtri(torch.from_numpy(share)).numpy())

        pairs.append((score(column), score(draws[what])))
    return pairs
