"""Overlap of two distributions of the same variables: effective number of rows, and regions without rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mdcm import _core

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Column", "Overlap", "overlap", "overlaps"]

# half the width of the neighbourhood of a number, in robust standard deviations of the rows
_REACH = 0.5
# smallest expected number of rows of a stratum, which is then empty by chance with probability e^-5
_EXPECTED = 5.0
# largest share of the draws in empty strata by chance, if every combination of levels is a stratum
_CHANCE = 0.01
# largest probability, times the number of combinations, that one with draws has no rows by chance
_MISSED = 0.05
# least share of the draws of a combination without rows that chance explains, to be mentioned
_WORTH_SAYING = 0.05
_MOST_STRATA = 32
# combinations of levels, summed over cases, to count for several cases at once
_MOST_COUNTED = 1 << 20
# loss of divergence (by half a row) that a split may have, since it may enable a later split that gains
_LEAST = 0.01
_BINS = 32
# interquartile range and 10-90 % range of a normal distribution, in standard deviations
_QUARTILES = 1.349
_TEN_TO_NINETY = 2.563
# largest number of strata without rows in a message
_MOST_SHOWN = 3


@dataclass(frozen=True)
class Column:
    """A variable in draws and in rows.

    Attributes:
        name: Its name.
        draws: Values in the draws, ``[N]``: codes of levels, or numbers.
        rows: Values in the distinct rows, ``[k]``.
        levels: Labels of the levels; None for a number.
        is_fixed: Whether every draw has the same value, set or observed.
        mean: Mean subtracted from a number.
        scale: Scale by which a number was divided.
    """

    name: str
    draws: NDArray[Any]
    rows: NDArray[Any]
    levels: Sequence[Any] | None
    is_fixed: bool
    mean: float = 0.0
    scale: float = 1.0

    @property
    def is_constant(self) -> bool:
        """Whether all draws have the same value."""
        return self.is_fixed or (self.levels is not None and bool((self.draws == self.draws[0]).all()))

    def shown(self, value: float) -> str:
        """A value in the user's units, as text."""
        return str(self.levels[int(value)]) if self.levels is not None else f"{value * self.scale + self.mean:.4g}"


@dataclass(frozen=True)
class Overlap:
    """Coverage of draws by rows.

    Attributes:
        rows: Effective number of rows, ``(sum w)^2 / sum w^2`` with w the ratio of the draws' density to the rows'.
        unseen: Share of the draws in regions without rows.
        missing: Descriptions of these regions, the largest share first; if there are none, of combinations of levels
            that have no rows, perhaps by chance.
        is_empty: Whether no row has the values that all draws share.
    """

    rows: float
    unseen: float
    missing: tuple[str, ...] = ()
    is_empty: bool = False


def overlap(columns: Sequence[Column], weights: NDArray[np.float64], counts: NDArray[np.float64]) -> Overlap:
    """Coverage of draws by rows of the same variables.

    Values that all draws share, such as interventions, select rows: those with the same level, or within half a
    robust standard deviation of the number. In the other variables the ratio w of the two densities is taken to be
    constant in strata: the combinations of levels, if so few that hardly any is empty by chance, and otherwise the
    leaves of a tree that separates draws from rows. The tree is grown on one half of both and evaluated on the other,
    and vice versa, so that no leaf is selected for being empty. A combination of levels without rows counts as well,
    however few the rows are, if its share of the draws is so large that chance hardly explains it. With shares q of
    the draws and n rows in each stratum
    the effective number of rows is ``(sum q)^2 / sum q^2 / n``.

    Args:
        columns: The variables.
        weights: Weight of every draw, ``[N]``.
        counts: Number of rows equal to every distinct row, ``[k]``.

    Complexity:
        O(strata x columns x (N + k)).

    References:
        Kish (1965), Survey sampling, section 8.2, for the effective number; Rosenbaum & Rubin (1984), Reducing bias
        in observational studies using subclassification on the propensity score; Athey & Imbens (2016), Recursive
        partitioning for heterogeneous causal effects, for trees evaluated on other rows than those they are grown on.

    Example:
        >>> draws, rows = np.array([0, 0, 1, 1]), np.array([0, 1])
        >>> column = Column("C", draws, rows, ("no", "yes"), is_fixed=False)
        >>> overlap([column], np.full(4, 0.25), np.array([300.0, 100.0])).rows
        300.0
    """
    share = weights / weights.sum()
    matches = np.ones(len(counts), dtype=bool)
    fixed_texts, unmatched = [], []
    for column in columns:
        if not column.is_constant:
            continue
        agrees, text, unmatched_text = _agreeing(column, counts)
        matches &= agrees
        fixed_texts.append(text)
        if unmatched_text is not None:
            unmatched.append(unmatched_text)
    matched = float(counts[matches].sum())
    if matched == 0:
        return Overlap(0.0, 1.0, tuple(unmatched) or (" with ".join(fixed_texts),), is_empty=True)
    rest = [column for column in columns if not column.is_constant]
    if not rest:
        return Overlap(matched, 0.0)
    rest = [Column(c.name, c.draws, c.rows[matches], c.levels, False, c.mean, c.scale) for c in rest]
    counts = counts[matches]
    cells = _Cells.of(rest, share, counts)
    if cells is not None and cells.are_fine:
        effective, unseen, missing = cells.overlap()
    else:
        effective, unseen, missing = _leaves(rest, share, counts)
        empty = {} if cells is None else cells.empty()
        if sum(empty.values()) > unseen:
            unseen, missing = sum(empty.values()), empty
        elif not unseen and cells is not None:
            missing = cells.empty(by_chance=True)
    ordered = sorted(missing, key=missing.__getitem__, reverse=True)[:_MOST_SHOWN]
    return Overlap(min(effective, matched), unseen, tuple(" with ".join([*fixed_texts, region]) for region in ordered))


def overlaps(columns: Sequence[Column], weights: NDArray[np.float64], counts: NDArray[np.float64]) -> list[Overlap]:
    """Coverage of the draws of several cases, such as values that are set, by the same rows.

    Args:
        columns: The variables; their draws are ``[cases, N]``.
        weights: Weight of every draw, ``[cases, N]``.
        counts: Number of rows equal to every distinct row, ``[k]``.

    Returns:
        Result of :func:`overlap` for each case.

    Complexity:
        O(cases x columns x N) if all combinations of levels have rows, and that of :func:`overlap` otherwise.
    """
    results = _overlaps_by_counts(columns, weights, counts)
    for case, result in enumerate(results):
        if result is None:
            case_columns = [replace(column, draws=column.draws[case]) for column in columns]
            results[case] = overlap(case_columns, weights[case], counts)
    return results  # type: ignore[return-value]


def _overlaps_by_counts(
    columns: Sequence[Column], weights: NDArray[np.float64], counts: NDArray[np.float64]
) -> list[Overlap | None]:
    """Overlap of every case in which all combinations of levels have rows; None for the others."""
    cases = len(weights)
    shape = [len(column.levels) for column in columns if column.levels is not None]
    size = math.prod(shape)
    if len(shape) < len(columns) or cases * size > _MOST_COUNTED:
        return [None] * cases
    draws, observed = np.zeros(weights.shape, dtype=np.int64), np.zeros(len(counts), dtype=np.int64)
    for column, levels in zip(columns, shape, strict=True):
        draws, observed = draws * levels + column.draws, observed * levels + column.rows
    draws += size * np.arange(cases)[:, None]
    share = weights / weights.sum(axis=1, keepdims=True)
    shares = np.bincount(draws.ravel(), weights=share.ravel(), minlength=cases * size).reshape(cases, size)
    rows = np.bincount(observed, weights=counts, minlength=size).astype(np.float64)
    constant = np.array([column.is_fixed | (column.draws == column.draws[:, :1]).all(axis=1) for column in columns])
    results: list[Overlap | None] = []
    for case in range(cases):
        index = tuple(
            int(column.draws[case, 0]) if fixed else slice(None)
            for column, fixed in zip(columns, constant[:, case], strict=True)
        )
        matched = float(rows.reshape(shape)[index].sum())
        case_share = shares[case]
        has_empty = bool(((rows == 0) & (case_share > 0)).any())
        if matched == 0 or (not constant[:, case].all() and (has_empty or not _is_fine(case_share, matched))):
            results.append(None)
        elif constant[:, case].all():
            results.append(Overlap(matched, 0.0))
        else:
            results.append(Overlap(min(_effective_rows(case_share, rows, 0.0), matched), 0.0))
    return results


def _is_fine(shares: NDArray[np.float64], rows: float) -> bool:
    """Whether rows distributed like the draws would leave hardly any stratum empty by chance."""
    return float((shares * np.exp(-rows * shares)).sum()) <= _CHANCE


def _agreeing(column: Column, counts: NDArray[np.float64]) -> tuple[NDArray[np.bool_], str, str | None]:
    """Mask of the rows with the value that all draws share, that value as text, and a message if no row has it."""
    value = column.draws[0]
    text = f"{column.name}={column.shown(value)}"
    if column.levels is not None:
        agrees = column.rows == value
        return agrees, text, None if agrees.any() else text
    reach = _REACH * _spread(column.rows, counts)
    agrees = np.abs(column.rows - value) <= reach
    unmatched_text = None
    if not agrees.any():
        low, high = column.shown(column.rows.min()), column.shown(column.rows.max())
        unmatched_text = (
            f"{text} or within {reach * column.scale:.3g} of it ({column.name} goes from {low} to {high} there)"
        )
    return agrees, text, unmatched_text


def _spread(values: NDArray[Any], counts: NDArray[np.float64]) -> float:
    """Robust standard deviation of rows, also if half of them or more have the same value."""
    order = np.argsort(values)
    ordered, below = values[order].astype(np.float64), counts[order].cumsum() / counts.sum()
    low, first_quartile, third_quartile, high = (
        float(ordered[min(int(np.searchsorted(below, level)), len(ordered) - 1)]) for level in (0.1, 0.25, 0.75, 0.9)
    )
    if third_quartile > first_quartile:
        return (third_quartile - first_quartile) / _QUARTILES
    if high > low:
        return (high - low) / _TEN_TO_NINETY
    mean = float(np.average(values, weights=counts))
    return math.sqrt(float(np.average((values - mean) ** 2, weights=counts)))


def _effective_rows(shares: NDArray[np.float64], rows: NDArray[np.float64], correction: float) -> float:
    """``(sum q)^2 / sum q^2 / n`` over strata with rows; the correction removes the bias of 1 / n for random n."""
    occupied = rows > 0
    if not occupied.any():
        return 0.0
    return float(shares[occupied].sum() ** 2 / (shares[occupied] ** 2 / (rows[occupied] + correction)).sum())


# ---------------------------------------------------------------------- combinations of levels


@dataclass(frozen=True)
class _Cells:
    """Combinations of levels that draws or rows have.

    Attributes:
        columns: The variables.
        shares: Share of the draws in every combination, ``[c]``.
        rows: Number of rows in every combination, ``[c]``.
        first: Index of a draw of every combination that draws have, ``[c]``.
    """

    columns: Sequence[Column]
    shares: NDArray[np.float64]
    rows: NDArray[np.float64]
    first: NDArray[np.intp]

    @classmethod
    def of(cls, columns: Sequence[Column], share: NDArray[np.float64], counts: NDArray[np.float64]) -> _Cells | None:
        """Combinations of levels; None if a column is a number or the combinations have no code."""
        if any(column.levels is None for column in columns):
            return None
        codes = np.zeros(len(share) + len(counts), dtype=np.int64)
        size = 1
        for column in columns:
            size *= len(column.levels or ())
            if size > 1 << 40:
                return None
            codes = codes * len(column.levels or ()) + np.concatenate([column.draws, column.rows])
        used, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        shares = np.bincount(inverse[: len(share)], weights=share, minlength=len(used)).astype(np.float64)
        rows = np.bincount(inverse[len(share) :], weights=counts, minlength=len(used)).astype(np.float64)
        return cls(columns, shares, rows, first)

    @property
    def are_fine(self) -> bool:
        """Whether hardly any combination would be empty by chance."""
        return _is_fine(self.shares, float(self.rows.sum()))

    def overlap(self) -> tuple[float, float, Mapping[str, float]]:
        """Effective rows, share of the draws without rows, and the share of every combination without rows."""
        empty = self._described((self.rows == 0) & (self.shares > 0))
        return _effective_rows(self.shares, self.rows, 0.0), float(self.shares[self.rows == 0].sum()), empty

    def empty(self, *, by_chance: bool = False) -> dict[str, float]:
        """Share of every combination that has no rows, if rows distributed like the draws would hardly miss it.

        Args:
            by_chance: Whether to list those that chance explains instead, from a share of 5 % on.
        """
        drawn = self.shares > 0
        chance = np.exp(self.rows.sum() * np.log1p(-np.minimum(self.shares, 1 - 1e-12)))
        hardly = chance * drawn.sum() <= _MISSED
        return self._described(
            drawn & (self.rows == 0) & (~hardly & (self.shares >= _WORTH_SAYING) if by_chance else hardly)
        )

    def _described(self, selected: NDArray[np.bool_]) -> dict[str, float]:
        # a combination without rows occurs first among the draws
        return {
            " with ".join(f"{c.name}={c.shown(c.draws[self.first[k]])}" for c in self.columns): float(self.shares[k])
            for k in np.flatnonzero(selected)
        }


# ---------------------------------------------------------------------- trees


def _leaves(
    columns: Sequence[Column], share: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[float, float, Mapping[str, float]]:
    """Overlap with the leaves of two trees, each grown on one half and evaluated on the other."""
    # divide the copies of every distinct row between the halves, with a fixed seed
    first = np.random.default_rng(0).binomial(counts.round().astype(np.int64), 0.5).astype(np.float64)
    even = np.arange(len(share)) % 2 == 0
    halves = [(np.where(even, share, 0.0), first), (np.where(even, 0.0, share), counts - first)]
    binned = _Binned.of(columns, share)
    effective, unseen = 0.0, 0.0
    missing: dict[str, float] = {}
    for growing, evaluation in (halves, halves[::-1]):
        tree = _Tree(columns, binned, *growing)
        size = tree.size
        shares = np.bincount(tree.leaf_of_draw, weights=evaluation[0], minlength=size)
        if shares.sum() == 0:
            continue
        shares = shares / shares.sum()
        rows = np.bincount(tree.leaf_of_row, weights=evaluation[1], minlength=size).astype(np.float64)
        effective += _effective_rows(shares, rows, (size - 1) / size)
        # empty in both halves
        is_empty = (shares > 0) & (np.bincount(tree.leaf_of_row, weights=counts, minlength=size) == 0)
        unseen += float(shares[is_empty].sum()) / 2
        texts = tree.texts() if is_empty.any() else []
        for leaf in np.flatnonzero(is_empty).tolist():
            missing[texts[leaf]] = missing.get(texts[leaf], 0.0) + float(shares[leaf]) / 2
    return effective, unseen, missing


@dataclass(frozen=True)
class _Binned:
    """Binned columns: levels of a categorical variable, or intervals of a number.

    Attributes:
        draws: Bin of every draw, int32 ``[N, d]``.
        rows: Bin of every row, int32 ``[k, d]``.
        edges: Edges between the intervals of each number; None for levels.
        sizes: Number of bins of each column.
    """

    draws: NDArray[np.int32]
    rows: NDArray[np.int32]
    edges: Sequence[NDArray[np.float64] | None]
    sizes: NDArray[np.int32]

    @classmethod
    def of(cls, columns: Sequence[Column], share: NDArray[np.float64]) -> _Binned:
        edges = [_edges(column, share) for column in columns]
        sizes = [
            len(column.levels or ()) if column_edges is None else len(column_edges) + 1
            for column, column_edges in zip(columns, edges, strict=True)
        ]
        draws, rows = (
            np.stack(
                [
                    column if column_edges is None else np.searchsorted(column_edges, column)
                    for column, column_edges in zip(side, edges, strict=True)
                ],
                axis=1,
            ).astype(np.int32)
            for side in ([column.draws for column in columns], [column.rows for column in columns])
        )
        return cls(draws, rows, edges, np.array(sizes, dtype=np.int32))


def _edges(column: Column, share: NDArray[np.float64]) -> NDArray[np.float64] | None:
    if column.levels is not None:
        return None
    order = np.argsort(column.draws)
    below = share[order].cumsum()
    positions = np.searchsorted(below, np.arange(1, _BINS) / _BINS).clip(max=len(order) - 1)
    return np.unique(column.draws[order][positions]).astype(np.float64)


class _Tree:
    """Tree of strata, grown by splitting one column at a time where draws and rows differ most.

    Attributes:
        leaf_of_draw: Leaf of every draw, ``[N]``.
        leaf_of_row: Leaf of every row, ``[k]``.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        binned: _Binned,
        share: NDArray[np.float64],
        counts: NDArray[np.float64],
    ) -> None:
        self._columns = columns
        self._binned = binned
        # intervals are ordered, levels are not
        ordered = np.array([edges is not None for edges in binned.edges], dtype=np.uint8)
        share = share / max(float(share.sum()), 1e-300)
        # the leaf to split, the column, and the bins that stay in this leaf; the other bins become the next leaf
        self._splits, self.leaf_of_draw, self.leaf_of_row = _core.grow_strata(
            binned.draws, binned.rows, share, counts, binned.sizes, ordered, _MOST_STRATA, _EXPECTED, _LEAST
        )

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._splits) + 1

    def texts(self) -> list[str]:
        """Description of every leaf."""
        bins: list[dict[int, NDArray[np.bool_]]] = [{}]
        for leaf, column, stays in self._splits:
            left = stays.astype(bool)
            before = bins[leaf].get(column, np.ones(len(left), dtype=bool))
            bins.append({**bins[leaf], column: before & ~left})
            bins[leaf] = {**bins[leaf], column: before & left}
        return [self._description(leaf_bins) for leaf_bins in bins]

    def _description(self, bins: Mapping[int, NDArray[np.bool_]]) -> str:
        parts = []
        for index, inside in bins.items():
            column, edges = self._columns[index], self._binned.edges[index]
            if edges is None:
                labels = [column.shown(k) for k in np.flatnonzero(inside).tolist()]
                parts.append(
                    f"{column.name}={labels[0]}" if len(labels) == 1 else f"{column.name} in {', '.join(labels)}"
                )
                continue
            low, high = int(np.flatnonzero(inside)[0]), int(np.flatnonzero(inside)[-1])
            below = f"{column.shown(edges[low - 1])} < " if low > 0 else ""
            above = f" <= {column.shown(edges[high])}" if high < len(edges) else ""
            if below and not above:
                parts.append(f"{column.name} > {column.shown(edges[low - 1])}")
            elif below or above:
                parts.append(f"{below}{column.name}{above}")
        return " with ".join(parts) or "anything"
