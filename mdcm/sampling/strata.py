"""Two distributions of the same variables side by side: how many rows of one a row of the other is worth, and where."""

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
# rows that a stratum must be expected to hold, so that one without any is no accident: e^-5
_EXPECTED = 5.0
# share that the rows may leave out by chance, where every combination of levels is a stratum of its own
_CHANCE = 0.01
_MOST_STRATA = 32
# combinations of levels that are counted for several cases at once, in all of these together
_MOST_COUNTED = 1 << 20
# loss of divergence that a split may have, which is by half a row; it may make way for one that gains
_LEAST = 0.01
_BINS = 32
# quartiles of a normal distribution are so many standard deviations apart
_QUARTILES = 1.349
_TEN_TO_NINETY = 2.563
# strata without rows that are described
_MOST_TOLD = 3


@dataclass(frozen=True)
class Column:
    """One variable in draws and in rows.

    Attributes:
        name: Its name.
        draws: Values in the draws, ``[N]``: codes of levels, or numbers.
        rows: Values in the distinct rows, ``[k]``.
        levels: Labels of the levels; None for a number.
        is_fixed: Whether every draw has the value that was set or seen.
        mean: Of a number, of what was taken off it.
        scale: Of a number, by which it was divided.
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
        """Whether all draws agree in it."""
        return self.is_fixed or (self.levels is not None and bool((self.draws == self.draws[0]).all()))

    def shown(self, value: float) -> str:
        """A value for people."""
        return str(self.levels[int(value)]) if self.levels is not None else f"{value * self.scale + self.mean:.4g}"


@dataclass(frozen=True)
class Overlap:
    """How rows cover draws.

    Attributes:
        rows: Effective number of rows, ``(sum w)^2 / sum w^2`` with w the ratio of the draws' density to the rows'.
        unseen: Share of the draws where no row is.
        missing: Where that is, the largest share first, in words.
        is_empty: Whether no row agrees with what all draws agree in.
    """

    rows: float
    unseen: float
    missing: tuple[str, ...] = ()
    is_empty: bool = False


def overlap(columns: Sequence[Column], weights: NDArray[np.float64], counts: NDArray[np.float64]) -> Overlap:
    """How rows cover draws of the same variables.

    What all draws agree in, such as a value that is set, selects rows: those with that level, or within half a robust
    standard deviation of that number. On the rest the ratio w of the two densities is taken constant in strata: the
    combinations of levels, where these are so few that by chance hardly any would be without rows, and otherwise the
    leaves of a tree that tells draws from rows. It is grown on one half of both and read off on the other, and the
    other way round, so that a leaf is not without rows because it was chosen to be. With shares q of the draws and n
    rows in each stratum the effective number of rows is ``(sum q)^2 / sum q^2 / n``.

    Args:
        columns: The variables.
        weights: Weight of every draw, ``[N]``.
        counts: Rows like every distinct one, ``[k]``.

    Complexity:
        O(strata x columns x (N + k)).

    References:
        Kish (1965), Survey sampling, section 8.2, for the effective number; Rosenbaum & Rubin (1984), Reducing bias
        in observational studies using subclassification on the propensity score; Athey & Imbens (2016), Recursive
        partitioning for heterogeneous causal effects, for trees read off on other rows than they were grown on.

    Example:
        >>> draws, rows = np.array([0, 0, 1, 1]), np.array([0, 1])
        >>> column = Column("C", draws, rows, ("no", "yes"), is_fixed=False)
        >>> overlap([column], np.full(4, 0.25), np.array([300.0, 100.0])).rows
        300.0
    """
    share = weights / weights.sum()
    kept = np.ones(len(counts), dtype=bool)
    told, alone = [], []
    for column in columns:
        if not column.is_constant:
            continue
        agrees, text, single = _agreeing(column, counts)
        kept &= agrees
        told.append(text)
        if single is not None:
            alone.append(single)
    matched = float(counts[kept].sum())
    if matched == 0:
        return Overlap(0.0, 1.0, tuple(alone) or (" with ".join(told),), is_empty=True)
    rest = [column for column in columns if not column.is_constant]
    if not rest:
        return Overlap(matched, 0.0)
    rest = [Column(c.name, c.draws, c.rows[kept], c.levels, False, c.mean, c.scale) for c in rest]
    counts = counts[kept]
    found = _cells(rest, share, counts)
    if found is None:
        found = _leaves(rest, share, counts)
    effective, unseen, missing = found
    ordered = sorted(missing, key=missing.__getitem__, reverse=True)[:_MOST_TOLD]
    return Overlap(min(effective, matched), unseen, tuple(" with ".join([*told, one]) for one in ordered))


def overlaps(columns: Sequence[Column], weights: NDArray[np.float64], counts: NDArray[np.float64]) -> list[Overlap]:
    """How the same rows cover the draws of several cases, such as values that are set.

    Args:
        columns: The variables; their draws are ``[cases, N]``.
        weights: Weight of every draw, ``[cases, N]``.
        counts: Rows like every distinct one, ``[k]``.

    Returns:
        For each case what :func:`overlap` returns of it.

    Complexity:
        O(cases x columns x N) where all rows and no strata are to be described, and that of :func:`overlap` otherwise.
    """
    found = _counted(columns, weights, counts)
    for case, one in enumerate(found):
        if one is None:
            own = [replace(column, draws=column.draws[case]) for column in columns]
            found[case] = overlap(own, weights[case], counts)
    return found  # type: ignore[return-value]


def _counted(
    columns: Sequence[Column], weights: NDArray[np.float64], counts: NDArray[np.float64]
) -> list[Overlap | None]:
    """Overlap of every case whose strata are the combinations of levels and all have rows; None for the others."""
    cases = len(weights)
    shape = [len(column.levels) for column in columns if column.levels is not None]
    size = math.prod(shape)
    if len(shape) < len(columns) or cases * size > _MOST_COUNTED:
        return [None] * cases
    drawn, seen = np.zeros(weights.shape, dtype=np.int64), np.zeros(len(counts), dtype=np.int64)
    for column, levels in zip(columns, shape, strict=True):
        drawn, seen = drawn * levels + column.draws, seen * levels + column.rows
    drawn += size * np.arange(cases)[:, None]
    share = weights / weights.sum(axis=1, keepdims=True)
    shares = np.bincount(drawn.ravel(), weights=share.ravel(), minlength=cases * size).reshape(cases, size)
    rows = np.bincount(seen, weights=counts, minlength=size).astype(np.float64)
    constant = np.array([column.is_fixed | (column.draws == column.draws[:, :1]).all(axis=1) for column in columns])
    found: list[Overlap | None] = []
    for case in range(cases):
        place = tuple(
            int(column.draws[case, 0]) if fixed else slice(None)
            for column, fixed in zip(columns, constant[:, case], strict=True)
        )
        matched = float(rows.reshape(shape)[place].sum())
        own = shares[case]
        without = bool(((rows == 0) & (own > 0)).any())
        if matched == 0 or (not constant[:, case].all() and (without or not _is_fine(own, matched))):
            found.append(None)
        elif constant[:, case].all():
            found.append(Overlap(matched, 0.0))
        else:
            found.append(Overlap(min(_worth(own, rows, 0.0), matched), 0.0))
    return found


def _is_fine(shares: NDArray[np.float64], rows: float) -> bool:
    """Whether so many rows, were they like the draws, would leave out hardly any stratum by chance."""
    return float((shares * np.exp(-rows * shares)).sum()) <= _CHANCE


def _agreeing(column: Column, counts: NDArray[np.float64]) -> tuple[NDArray[np.bool_], str, str | None]:
    """Rows that agree with what all draws agree in, what that is, and what it is where it alone has no row."""
    value = column.draws[0]
    text = f"{column.name}={column.shown(value)}"
    if column.levels is not None:
        agrees = column.rows == value
        return agrees, text, None if agrees.any() else text
    reach = _REACH * _spread(column.rows, counts)
    agrees = np.abs(column.rows - value) <= reach
    single = None
    if not agrees.any():
        low, high = column.shown(column.rows.min()), column.shown(column.rows.max())
        single = f"{text} or within {reach * column.scale:.3g} of it ({column.name} goes from {low} to {high} there)"
    return agrees, text, single


def _spread(values: NDArray[Any], counts: NDArray[np.float64]) -> float:
    """Robust standard deviation of rows; of what varies, where half of them or more have one value."""
    order = np.argsort(values)
    ordered, below = values[order].astype(np.float64), counts[order].cumsum() / counts.sum()
    tenth, quarter, third, last = (
        float(ordered[min(int(np.searchsorted(below, level)), len(ordered) - 1)]) for level in (0.1, 0.25, 0.75, 0.9)
    )
    if third > quarter:
        return (third - quarter) / _QUARTILES
    if last > tenth:
        return (last - tenth) / _TEN_TO_NINETY
    mean = float(np.average(values, weights=counts))
    return math.sqrt(float(np.average((values - mean) ** 2, weights=counts)))


def _worth(shares: NDArray[np.float64], rows: NDArray[np.float64], correction: float) -> float:
    """``(sum q)^2 / sum q^2 / n`` over strata with rows; the correction makes 1 / n of a random n right on average."""
    some = rows > 0
    if not some.any():
        return 0.0
    return float(shares[some].sum() ** 2 / (shares[some] ** 2 / (rows[some] + correction)).sum())


# ---------------------------------------------------------------------- combinations of levels


def _cells(
    columns: Sequence[Column], share: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[float, float, Mapping[str, float]] | None:
    """Overlap with every combination of levels a stratum; None where these are too many for the rows."""
    if any(column.levels is None for column in columns):
        return None
    both = np.zeros(len(share) + len(counts), dtype=np.int64)
    size = 1
    for column in columns:
        size *= len(column.levels or ())
        if size > 1 << 40:
            return None
        both = both * len(column.levels or ()) + np.concatenate([column.draws, column.rows])
    used, first, back = np.unique(both, return_index=True, return_inverse=True)
    shares = np.bincount(back[: len(share)], weights=share, minlength=len(used)).astype(np.float64)
    rows = np.bincount(back[len(share) :], weights=counts, minlength=len(used)).astype(np.float64)
    if not _is_fine(shares, float(counts.sum())):
        return None
    missing = {}
    for k in np.flatnonzero((rows == 0) & (shares > 0)):
        # a combination without rows was drawn
        place = int(first[k])
        missing[" with ".join(f"{column.name}={column.shown(column.draws[place])}" for column in columns)] = shares[k]
    return _worth(shares, rows, 0.0), float(shares[rows == 0].sum()), missing


# ---------------------------------------------------------------------- trees


def _leaves(
    columns: Sequence[Column], share: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[float, float, Mapping[str, float]]:
    """Overlap with the leaves of two trees, each grown on one half and read off on the other."""
    # every distinct row is dealt out to the halves, the same way whenever it is asked
    first = np.random.default_rng(0).binomial(counts.round().astype(np.int64), 0.5).astype(np.float64)
    even = np.arange(len(share)) % 2 == 0
    halves = [(np.where(even, share, 0.0), first), (np.where(even, 0.0, share), counts - first)]
    binned = _Binned.of(columns, share)
    effective, unseen = 0.0, 0.0
    missing: dict[str, float] = {}
    for grown, read in (halves, halves[::-1]):
        tree = _Tree(columns, binned, *grown)
        size = tree.size
        shares = np.bincount(tree.leaf_of_draw, weights=read[0], minlength=size)
        if shares.sum() == 0:
            continue
        shares = shares / shares.sum()
        rows = np.bincount(tree.leaf_of_row, weights=read[1], minlength=size).astype(np.float64)
        effective += _worth(shares, rows, (size - 1) / size)
        # neither half has a row there
        without = (shares > 0) & (np.bincount(tree.leaf_of_row, weights=counts, minlength=size) == 0)
        unseen += float(shares[without].sum()) / 2
        texts = tree.texts() if without.any() else []
        for leaf in np.flatnonzero(without).tolist():
            missing[texts[leaf]] = missing.get(texts[leaf], 0.0) + float(shares[leaf]) / 2
    return effective, unseen, missing


@dataclass(frozen=True)
class _Binned:
    """Columns in few bins each: the levels of a variable, or intervals of a number.

    Attributes:
        draws: Bin of every draw, int32 ``[N, d]``.
        rows: Bin of every row, int32 ``[k, d]``.
        edges: Of each number, where its intervals meet; None for levels.
        sizes: Bins of each column.
    """

    draws: NDArray[np.int32]
    rows: NDArray[np.int32]
    edges: Sequence[NDArray[np.float64] | None]
    sizes: NDArray[np.int32]

    @classmethod
    def of(cls, columns: Sequence[Column], share: NDArray[np.float64]) -> _Binned:
        edges = [_edges(column, share) for column in columns]
        sizes = [
            len(column.levels or ()) if some is None else len(some) + 1
            for column, some in zip(columns, edges, strict=True)
        ]
        draws, rows = (
            np.stack(
                [
                    side if some is None else np.searchsorted(some, side)
                    for side, some in zip(sides, edges, strict=True)
                ],
                axis=1,
            ).astype(np.int32)
            for sides in ([column.draws for column in columns], [column.rows for column in columns])
        )
        return cls(draws, rows, edges, np.array(sizes, dtype=np.int32))


def _edges(column: Column, share: NDArray[np.float64]) -> NDArray[np.float64] | None:
    if column.levels is not None:
        return None
    order = np.argsort(column.draws)
    below = share[order].cumsum()
    places = np.searchsorted(below, np.arange(1, _BINS) / _BINS).clip(max=len(order) - 1)
    return np.unique(column.draws[order][places]).astype(np.float64)


class _Tree:
    """Strata found by splitting, one column at a time, where draws and rows differ most.

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
        # intervals stay in their order; levels may be put in any
        ordered = np.array([edges is not None for edges in binned.edges], dtype=np.uint8)
        share = share / max(float(share.sum()), 1e-300)
        # leaf that is split, column, bins that stay in it; the others become the next leaf
        self._splits, self.leaf_of_draw, self.leaf_of_row = _core.grow_strata(
            binned.draws, binned.rows, share, counts, binned.sizes, ordered, _MOST_STRATA, _EXPECTED, _LEAST
        )

    @property
    def size(self) -> int:
        """Number of leaves."""
        return len(self._splits) + 1

    def texts(self) -> list[str]:
        """What every leaf is in words."""
        bins: list[dict[int, NDArray[np.bool_]]] = [{}]
        for leaf, column, stays in self._splits:
            left = stays.astype(bool)
            before = bins[leaf].get(column, np.ones(len(left), dtype=bool))
            bins.append({**bins[leaf], column: before & ~left})
            bins[leaf] = {**bins[leaf], column: before & left}
        return [self._words(one) for one in bins]

    def _words(self, bins: Mapping[int, NDArray[np.bool_]]) -> str:
        parts = []
        for place, inside in bins.items():
            column, edges = self._columns[place], self._binned.edges[place]
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
