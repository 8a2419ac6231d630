"""Conditional probabilities of discrete data, and of exact distributions, by source."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mdcm.errors import DataError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["Source", "Tables"]


@dataclass(frozen=True)
class Source:
    """Data sets that intervene on the same variables and observe the same ones.

    Attributes:
        names: Names of the data sets.
        targets: Names of the variables that they set, sorted.
        shown: Whether an estimand names the data sets of its factors.
    """

    names: tuple[str, ...]
    targets: tuple[str, ...]
    shown: bool = False

    def __str__(self) -> str:
        return ", ".join(self.names) if self.shown else f"do({', '.join(self.targets)})" if self.targets else "P(V)"


@dataclass
class _Part:
    """One table of a source: weighted rows."""

    frame: pd.DataFrame
    weights: NDArray[np.float64]


class Tables:
    """Tables of the sources that an estimand uses.

    Args:
        data: One table (or exact distribution) where one source is enough; a mapping from frozensets of targets, or
            from names of data sets, to tables; or a list of data sets, matched by name or by their interventions.
        sources: All sources.
        used: Numbers of those that are needed.
        weights: Weights of the rows: for one table a sequence, for a mapping a mapping.
        levels: Levels that are known without the data.

    Raises:
        DataError: If a source has no table, or weights are no weights.
    """

    def __init__(
        self,
        data: Any,
        sources: Sequence[Source],
        used: Collection[int],
        weights: Any = None,
        levels: Mapping[str, Sequence[Hashable]] | None = None,
    ) -> None:
        import pandas as pd

        self.empty = 0
        self._sources = sources
        self._parts: dict[int, list[_Part]] = {}
        for number in sorted(used):
            found = _find(data, sources, number, used)
            if not found:
                raise DataError(
                    f"the estimand needs data of {sources[number]}; give a mapping such as "
                    f"{{frozenset({set(sources[number].targets) or ''}): table}}, or a list of data sets"
                )
            self._parts[number] = [_part(key, table, own, data, weights) for key, table, own in found]
        # tables of other sources may show levels
        self._frames = [part.frame for parts in self._parts.values() for part in parts]
        for number in range(len(sources)):
            if number not in self._parts and not isinstance(data, pd.DataFrame | pd.Series):
                found = _find(data, sources, number, used)
                self._frames += [_part(key, table, own, data, weights).frame for key, table, own in found]
        self._known = levels or {}
        self._levels: dict[str, list[Hashable]] = {}
        self._codes: dict[tuple[int, str], NDArray[np.intp]] = {}

    def resampled(self, names: Collection[str], replicates: int, seed: int) -> Iterator[Tables]:
        """Bootstrap samples of the rows, drawn from the distinct ones.

        Args:
            names: Columns that matter; rows that agree in them are one.
            replicates: Number of samples.
            seed: Seed.

        Yields:
            Tables of as many rows as there are; a row of weight w is drawn as often as any other and counts w.
        """
        import pandas as pd

        base = object.__new__(Tables)
        base.__dict__ = dict(self.__dict__)
        base._codes = {}
        counts: list[NDArray[np.float64]] = []
        base._parts = {}
        for number, parts in self._parts.items():
            base._parts[number] = []
            for part in parts:
                columns = [name for name in part.frame.columns if name in names]
                # weights tell rows apart as well
                frame = (
                    part.frame[columns].assign(**{"": part.weights}) if columns else pd.DataFrame({"": part.weights})
                )
                distinct = frame.groupby([*columns, ""], observed=True, dropna=False).size().rename(None).reset_index()
                counts.append(distinct.iloc[:, -1].to_numpy(dtype=np.float64))
                base._parts[number].append(_Part(distinct[columns], distinct[""].to_numpy(dtype=np.float64)))
        rng = np.random.default_rng(seed)
        for _ in range(replicates):
            other = object.__new__(Tables)
            other.__dict__ = dict(base.__dict__)
            drawn = iter([rng.multinomial(int(c.sum()), c / c.sum()).astype(np.float64) for c in counts])
            other._parts = {
                number: [_Part(part.frame, part.weights * next(drawn)) for part in parts]
                for number, parts in base._parts.items()
            }
            yield other

    def has(self, name: str) -> bool:
        """Whether anything is known of the levels of a variable."""
        return name in self._known or any(name in frame for frame in self._frames)

    def levels(self, name: str) -> list[Hashable]:
        """The levels of a variable: those known beforehand, then those of any table, sorted."""
        if name not in self._levels:
            import pandas as pd

            columns = [pd.Series(frame[name].unique()) for frame in self._frames if name in frame]
            known = list(self._known.get(name, ()))
            if not columns and not known:
                raise DataError(f"the data have no column {name!r}, which the estimand needs", column=name)
            found = pd.concat(columns).dropna().unique().tolist() if columns else []
            more = [level for level in found if level not in known]
            try:
                more.sort()
            except TypeError:
                more.sort(key=str)
            self._levels[name] = [*known, *more]
        return self._levels[name]

    def code(self, name: str, value: object, as_text: Any) -> int:
        """Number of a level; a value typed on a command line is text, whatever the levels are.

        Raises:
            DataError: If there is no such level.
        """
        levels = self.levels(name)
        for i, level in enumerate(levels):
            if level == value or as_text(level) == as_text(value):
                return i
        shown = ", ".join(map(str, levels[:10]))
        raise DataError(f"{name}={value} does not occur; its levels are {shown}", column=name)

    def counts(self, source: int, names: Sequence[str]) -> NDArray[np.float64]:
        """Total weight of every combination of levels, one axis per name."""
        shape = [len(self.levels(name)) for name in names]
        total = np.zeros(math.prod(shape))
        for k, part in enumerate(self._parts[source]):
            place = np.zeros(len(part.weights), dtype=np.int64)
            for name, size in zip(names, shape, strict=True):
                place = place * size + self._coded(source, k, name)
            total += np.bincount(place, weights=part.weights, minlength=len(total))
        return total.reshape(shape)

    def conditional(
        self, source: int, given: Sequence[str], names: Sequence[str], done: Sequence[str] = ()
    ) -> NDArray[np.float64]:
        """P(names | given) under do(done) in a source, axes in the order (done, given, names).

        It is 0 where the condition has no row; such combinations are counted, except at values that were never set.
        """
        counts = self.counts(source, (*done, *given, *names))
        total = counts.sum(axis=tuple(range(len(done) + len(given), counts.ndim)), keepdims=True)
        is_set = total.sum(axis=tuple(range(len(done), total.ndim)), keepdims=True) > 0
        self.empty += int(((total == 0) & is_set).sum())
        share: NDArray[np.float64] = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
        return share

    def _coded(self, source: int, k: int, name: str) -> NDArray[np.intp]:
        # codes belong to the frame, whose address may be used again but not while this object holds it
        key = (id(self._parts[source][k].frame), name)
        if key not in self._codes:
            import pandas as pd

            frame = self._parts[source][k].frame
            if name not in frame:
                where = f" of {self._sources[source]}" if len(self._parts) > 1 else ""
                raise DataError(f"the data{where} have no column {name!r}, which the estimand needs", column=name)
            codes = np.asarray(pd.Index(self.levels(name)).get_indexer(pd.Index(frame[name])), dtype=np.intp)
            if (codes < 0).any():
                raise DataError(f"column {name!r} has missing values", column=name, row=int((codes < 0).argmax()))
            self._codes[key] = codes
        return self._codes[key]


_Found = list[tuple[Any, Any, Any]]


def _find(data: Any, sources: Sequence[Source], number: int, used: Collection[int]) -> _Found:
    """(key, table, weights of its own) of every table that belongs to a source."""
    import pandas as pd

    source = sources[number]
    if isinstance(data, pd.DataFrame | pd.Series):
        if len(used) > 1:
            needed = " and ".join(str(sources[k]) for k in sorted(used))
            raise DataError(f"the estimand needs data of {needed}, and one table was given")
        return [(None, data, None)]
    if isinstance(data, Mapping):
        found: _Found = []
        for key, table in data.items():
            # a text is a name, anything else lists what was set
            if key in source.names if isinstance(key, str) else frozenset(key) == frozenset(source.targets):
                found.append((key, table, None))
        return found
    if isinstance(data, Sequence) and not isinstance(data, str):
        items = list(data)
        named = [item for item in items if getattr(item, "name", None) in source.names and hasattr(item, "table")]
        chosen = named or [
            item
            for item in items
            if hasattr(item, "table") and frozenset(getattr(item, "do", ())) == frozenset(source.targets)
        ]
        return [(None, item.table, getattr(item, "weights", None)) for item in chosen]
    raise DataError(
        f"data must be a table, an exact distribution, a mapping or a list of data sets, not {type(data).__name__}"
    )


def _part(key: Any, table: Any, own: Any, data: Any, weights: Any) -> _Part:
    import pandas as pd

    if isinstance(table, pd.Series):
        frame = table.index.to_frame(index=False)
        frame.columns = pd.Index([str(name) for name in table.index.names])
        values = table.to_numpy(dtype=np.float64)
    elif isinstance(table, pd.DataFrame):
        frame = table
        given = weights.get(key) if isinstance(weights, Mapping) else weights
        if own is not None:
            given = table[own] if isinstance(own, str) else own
        elif given is not None and isinstance(data, Mapping) and not isinstance(weights, Mapping):
            raise DataError("weights of several tables are given by the same keys as the tables")
        values = np.ones(len(frame)) if given is None else np.asarray(given, dtype=np.float64)
    else:
        raise DataError(f"a table must be a DataFrame or an exact distribution, not {type(table).__name__}")
    if len(values) != len(frame) or not len(frame) or not (values >= 0).all() or not np.isfinite(values).all():
        raise DataError("weights must be one non-negative number per row, and there must be a row")
    return _Part(frame, values)
