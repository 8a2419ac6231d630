"""Whether a trained model draws what its data are: asked once after training, and told where it does not.

A loss says how good a fit is only beside that of another fit. Draws can be held against the data themselves: of every
number its distribution, alone and at each level of its discrete parents, and how it depends on what it is drawn from.
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

__all__ = ["Misfit", "compare_draws", "misfits", "questionable", "told"]

# rows of a data set that are held against as many draws; of images fewer, because they may take long to make
_ROWS, _IMAGES = 4000, 200
# fewer rows of a level, or in all, tell too little
_FEWEST = 50
# probability with which a model that draws from the very distribution of the data is told that it does not
_CHANCE = 1e-3
# what may be wrong with a distribution beyond chance: the largest difference of two distribution functions, of
# probabilities, or of moments and spreads in units of the spread
_DISTRIBUTION, _MOMENT = 0.04, 0.07
_MOST_LEVELS = 20
# normal scores at which a regression may bend, so that it follows a wave as well as a line
_BENDS = np.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])


@dataclass(frozen=True)
class Misfit:
    """One way in which draws differ from the data.

    Attributes:
        variable: Name of the variable.
        hnode: Variables of its h-node.
        what: The difference in words, with its size.
        size: By how much, over what is allowed; above 1.
        pretrained: Whether the variable's mechanism was given and not trained.
    """

    variable: str
    hnode: tuple[str, ...]
    what: str
    size: float
    pretrained: bool = False

    def __str__(self) -> str:
        return f"{self.variable!r}: {self.what}"


def told(misfit: Sequence[Misfit]) -> list[str]:
    """Warnings for people: one about what was trained, one about what was given."""
    made = []
    for given in (False, True):
        own = [one for one in misfit if one.pretrained == given]
        if not own:
            continue
        which = "; ".join(map(str, own))
        made.append(
            f"a pretrained mechanism does not draw what the data hold: {which}. It is used as it is, and answers that "
            "rest on it are as wrong; look at its adapter, its units and the order of its levels"
            if given
            else f"the model does not draw what the data hold: {which}. Answers that rest on it are off by as much. "
            "Where a number recurs in many rows, make the variable categorical or leave those rows out; where a "
            "dependence is too weak, raise confounder_states or max_steps; else compare graph and data with mdcm check"
        )
    return made


def questionable(dcm: DCM, plan: Plan, config: TrainConfig) -> list[str]:
    """Variables whose draws are held against the data after a training.

    Those are numbers, and levels that depend on numbers, of h-nodes that are not trained against critics, which
    compare draws themselves; of a training that was cut short only what was given and not trained.
    """
    short = config.max_steps is not None or config.max_minutes is not None
    # the plan has none for what was given
    home = {name: hnode for hnode in plan.hnodes for name in hnode.variables}
    found = []
    for name in dcm.order:
        mechanism, hnode = dcm.mechanism(name), home.get(name)
        if isinstance(mechanism, Frozen):
            found.append(name)
        elif short or hnode is None or not hnode.fits or dcm.schema[name].kind == "image":
            continue
        elif isinstance(mechanism, Categorical) and mechanism.tabular:
            # whose cells are counted elsewhere
            continue
        elif all(fit.objective == "likelihood" for fit in hnode.fits) or not dcm.latents[name]:
            found.append(name)
    return found


@torch.no_grad()
@one_thread()
def misfits(dcm: DCM, plan: Plan, data: Mapping[str, Encoded], seed: int, variables: Sequence[str]) -> list[Misfit]:
    """Variables whose draws are not what the data are, the worst difference of each.

    A variable without confounders is drawn given its parents in the data, row by row; one with confounders with all
    that it depends on, under what the data set's experiment set.

    Args:
        dcm: A trained model.
        plan: What it was trained with.
        data: The data sets by name.
        seed: Seed of the draws.
        variables: Variables that are looked at.

    Returns:
        The differences, in the order of ``variables``.

    Raises:
        MdcmError: If a mechanism draws what is not finite.

    Complexity:
        One draw of at most 4,000 rows per variable and data set, 200 of an image.
    """
    found = []
    for name in variables:
        members = next((one.variables for one in plan.hnodes if name in one.variables), (name,))
        worst: Misfit | None = None
        for encoded in data.values():
            if name not in encoded or name in encoded.do:
                continue
            for what, size in _differences(dcm, members, encoded, name, derived_seed(seed, "fidelity", encoded.name)):
                if worst is None or size > worst.size:
                    pretrained = isinstance(dcm.mechanism(name), Frozen)
                    worst = Misfit(name, tuple(members), what, size, pretrained)
        if worst is not None and worst.size > 1:
            found.append(worst)
    return found


def _differences(dcm: DCM, members: Sequence[str], encoded: Encoded, name: str, seed: int) -> list[tuple[str, float]]:
    """What differs between the draws of a variable and a data set, and by how much over what is allowed."""
    variable = dcm.schema[name]
    before = _before(dcm, members, name)
    confounded = bool(dcm.latents[name])
    if confounded:
        needed = dcm.needed([name, *before], encoded.do)
        if any(dcm.schema[one].kind == "image" and one not in encoded.do for one in needed):
            # it would have to be drawn as well, and is hardly what is wrong
            return []
        if not set(before) <= set(encoded):
            before = []
    elif not set(dcm.parents(name)) <= set(encoded):
        return []
    most = _IMAGES if variable.kind == "image" else _ROWS
    rows = _chosen(encoded, most, seed)
    if len(rows) < _FEWEST:
        return []
    real = {one: tensor(encoded[one])[rows] for one in {name, *before, *encoded.do} if one in encoded}
    numbers = torch.arange(len(rows))
    if confounded:
        # what is set has the values of the rows; everything else is drawn
        do = {one: float_pixels(real[one]) for one in encoded.do if one in real}
        made = dcm.generate(numbers, seed, do, [name, *before])
    else:
        given = {one: float_pixels(tensor(encoded[one])[rows]) for one in dcm.parents(name)}
        made = {**given, **_drawn(dcm, name, given, numbers, seed)}
    return compare_draws(
        _columns(dcm, name, float_pixels(real[name])), _columns(dcm, name, made[name]),
        [(one, *_pair(dcm, one, real, made)) for one in before if dcm.schema[one].kind != "image"],
    )  # fmt: skip


def _before(dcm: DCM, members: Sequence[str], name: str) -> list[str]:
    """What a variable depends on: its parents, and members of its h-node that come earlier, with their parents."""
    ordered = [node for node in dcm.order if node in members] if dcm.latents[name] else [name]
    earlier = ordered[: ordered.index(name)]
    wanted = {parent for node in [*earlier, name] for parent in dcm.parents(node)} | set(earlier)
    return [node for node in dcm.order if node in wanted]


def _chosen(encoded: Encoded, most: int, seed: int) -> Tensor:
    """Rows of a data set, as often as their weights say where they have any."""
    generator = np.random.default_rng(seed)
    if encoded.weights is not None:
        share = encoded.weights / encoded.weights.sum()
        # what weights leave of the rows
        effective = int(1 / np.square(share).sum())
        picked = generator.choice(encoded.rows, min(most, effective), p=share)
    elif encoded.rows > most:
        picked = generator.choice(encoded.rows, most, replace=False)
    else:
        picked = np.arange(encoded.rows)
    return torch.from_numpy(np.sort(picked))


def _drawn(dcm: DCM, name: str, given: Mapping[str, Tensor], rows: Tensor, seed: int) -> dict[str, Tensor]:
    return {name: drawn(dcm.mechanism(name), given, (), dcm.own_noise(name, rows, seed))}


def _pair(dcm: DCM, name: str, real: Mapping[str, Tensor], made: Mapping[str, Tensor]) -> tuple[Any, Any]:
    return _columns(dcm, name, real[name]), _columns(dcm, name, made.get(name, real[name]))


def _columns(dcm: DCM, name: str, values: Tensor) -> dict[str, NDArray[np.float64]] | NDArray[np.int64]:
    """Numbers that stand for the values of a variable, by what they are called; codes of a categorical one."""
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
    made: dict[str, NDArray[np.float64]] | NDArray[np.int64],
    given: Sequence[tuple[str, Any, Any]],
) -> list[tuple[str, float]]:
    """Differences between values of a variable and draws of it.

    Args:
        real: Values: codes of levels, or named columns of numbers.
        made: Draws, likewise.
        given: What the variable depends on: name, values and draws, likewise.

    Returns:
        What differs, and by how much over what chance and a tolerance allow.

    References:
        Smirnov (1948), Table for estimating the goodness of fit of empirical distributions (critical values).

    Example:
        >>> x = np.linspace(-2, 2, 400)
        >>> [round(size, 1) for _, size in compare_draws({"": x}, {"": x + 1}, [])]
        [1.4]
    """
    found: list[tuple[str, float]] = []
    groups = [("", np.ones(_length(real), bool), np.ones(_length(made), bool))]
    for name, seen, again in given:
        if isinstance(seen, np.ndarray):
            levels = np.bincount(seen).argsort()[::-1][:_MOST_LEVELS]
            groups += [(f" at level {level} of {name!r}", seen == level, again == level) for level in levels]
    groups = [one for one in groups if min(one[1].sum(), one[2].sum()) >= _FEWEST]
    tests = len(groups) * (1 if isinstance(real, np.ndarray) else len(real))
    for where, rows, drawn_rows in groups:
        if isinstance(real, np.ndarray) and isinstance(made, np.ndarray):
            found.append(_levels_differ(real[rows], made[drawn_rows], where, tests))
        elif isinstance(real, dict) and isinstance(made, dict):
            for what, column in real.items():
                found.append(_distributions_differ(column[rows], made[what][drawn_rows], what + where, tests))
    found += _dependence_differs(real, made, given)
    return found


def _length(values: dict[str, NDArray[np.float64]] | NDArray[np.int64]) -> int:
    return len(values) if isinstance(values, np.ndarray) else len(next(iter(values.values())))


def _allowed(tests: int) -> float:
    """Standard errors that one of so many differences may have."""
    chance = torch.tensor(_CHANCE / (2 * tests), dtype=torch.float64)
    return -float(torch.special.ndtri(chance))


def _levels_differ(real: NDArray[np.int64], made: NDArray[np.int64], where: str, tests: int) -> tuple[str, float]:
    size = int(max(real.max(), made.max())) + 1
    seen, drawn = (np.bincount(one, minlength=size) / len(one) for one in (real, made))
    pooled = (seen * len(real) + drawn * len(made)) / (len(real) + len(made))
    error = np.sqrt(pooled * (1 - pooled) * (1 / len(real) + 1 / len(made)))
    over = np.abs(seen - drawn) / (_allowed(tests * size) * error + _DISTRIBUTION)
    worst = int(over.argmax())
    return f"level {worst} has {drawn[worst]:.3f} of the draws and {seen[worst]:.3f} of the rows{where}", over[worst]


def _distributions_differ(
    real: NDArray[np.float64], made: NDArray[np.float64], what: str, tests: int
) -> tuple[str, float]:
    points = np.sort(np.concatenate([real, made]))
    gaps = np.abs(
        np.searchsorted(np.sort(real), points, side="right") / len(real)
        - np.searchsorted(np.sort(made), points, side="right") / len(made)
    )
    distance = float(gaps.max())
    chance = math.sqrt(-math.log(_CHANCE / (2 * tests)) / 2 * (1 / len(real) + 1 / len(made)))
    label = f" of {what.strip()}" if what.strip() and not what.startswith(" at") else what
    return (
        f"the distribution functions of draws and rows{label} are {distance:.3f} apart (Kolmogorov-Smirnov; chance "
        f"alone makes less than {chance:.3f})",
        distance / (chance + _DISTRIBUTION),
    )


def _dependence_differs(real: Any, made: Any, given: Sequence[tuple[str, Any, Any]]) -> list[tuple[str, float]]:
    """Whether the regression on what comes before holds in the draws, in normal scores of the rows."""
    if not given:
        return []
    seen, drawn, labels = [np.ones((_length(real), 1))], [np.ones((_length(made), 1))], [""]
    bends: tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]] = ([], [])
    for name, one, other in given:
        for left, right in _scores(one, other):
            curved = not isinstance(one, np.ndarray)
            seen.append(np.stack([left, left**2], 1) if curved else left[:, None])
            drawn.append(np.stack([right, right**2], 1) if curved else right[:, None])
            labels += [name] * (2 if curved else 1)
            if curved:
                for part, score in zip(bends, (left, right), strict=True):
                    part.append(np.maximum(score[:, None] - _BENDS, 0))
    simple = sum(part.shape[1] for part in seen)
    if len(seen[0]) >= 10 * (simple + len(_BENDS) * len(bends[0])):
        seen, drawn = seen + bends[0], drawn + bends[1]
    x, y = np.concatenate(seen, 1), np.concatenate(drawn, 1)
    if len(x) < 10 * x.shape[1]:
        return []
    found = []
    responses = list(_scores(real, made))
    allowed = _allowed(len(responses) * (simple + 1))
    for left, right in responses:
        spread = float(left.std())
        if spread == 0:
            continue
        slopes = np.linalg.lstsq(x, left, rcond=1e-9)[0]
        rest, other = (left - x @ slopes) / spread, (right - y @ slopes) / spread
        own, theirs = float(rest.std()), float(other.std())
        error = math.hypot(*(_error_of_spread(one) for one in (rest, other)))
        found.append(
            (
                f"given {', '.join(repr(name) for name, _, _ in given)} the draws vary by {theirs:.3f} of their spread "
                f"about the regression of the rows, which themselves vary by {own:.3f}",
                abs(own - theirs) / (allowed * error + _MOMENT),
            )
        )
        for place in range(1, simple):
            unit = float(x[:, place].std())
            if unit == 0:
                continue
            middle = x[:, place].mean()
            products = (x[:, place] - middle) / unit * rest, (y[:, place] - middle) / unit * other
            gap = abs(float(products[1].mean() - products[0].mean()))
            error = math.hypot(*(float(one.std()) / math.sqrt(len(one)) for one in products))
            found.append(
                (
                    f"the draws depend on {labels[place]!r} otherwise than the rows, by {gap:.3f} in units of the "
                    "spreads",
                    gap / (allowed * error + _MOMENT),
                )
            )
    return found


def _error_of_spread(rest: NDArray[np.float64]) -> float:
    variance = float(rest.var())
    if variance == 0:
        return 0.0
    fourth = float(((rest - rest.mean()) ** 4).mean())
    return math.sqrt(max(fourth - variance**2, 0.0) / len(rest)) / (2 * math.sqrt(variance))


def _scores(real: Any, made: Any) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Columns for a regression: normal scores by the ranks of the rows; of levels, all but the most frequent."""
    if isinstance(real, np.ndarray):
        levels = np.bincount(real).argsort()[::-1][1:_MOST_LEVELS]
        common = [level for level in levels if (real == level).mean() > 0.01]
        return [((real == level).astype(float), (made == level).astype(float)) for level in common]
    pairs = []
    for what, column in real.items():
        ordered = np.sort(column)

        def score(values: NDArray[np.float64], ordered: NDArray[np.float64] = ordered) -> NDArray[np.float64]:
            rank = (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2
            share = (rank + 0.5) / (len(ordered) + 1)
            return np.asarray(torch.special.ndtri(torch.from_numpy(share)).numpy())

        pairs.append((score(column), score(made[what])))
    return pairs
