"""Support of an answer in the training data: the conditionals from which it is computed, and their effective rows.

The model answers from conditionals P(v | b), one for each variable on which the answer depends. Let T be the variables
up to v in topological order, among the ancestors of the query's variables, that are joined to v by hidden confounders,
and b the variables in T and all their parents, without v. Data on these determine P(v | b) wherever b occurs,
whatever is set elsewhere (Tian & Pearl 2002, lemma 1; Richardson et al. 2023, for graphs with hidden variables in
general). So b must occur wherever the answer gives weight to it: positivity.

**Values of b with weight in the answer.** With x set, a parent outside T has its value under do(x): x itself if it is
set. A variable in T that is set has its *natural* value instead, since v depends on it through the confounder alone.
For the front door X -> M -> Y, X <-> Y the answer is sum_m P(m | x) sum_x' P(x') P(y | m, x'): b is (m, x') with m
under do(x) and x' natural.

**Effective number of rows.** A mean over b in the query's distribution Q(b) is estimated from rows in which b has
distribution P(b) with weights w = Q(b) / P(b), as precisely as from n_eff = (sum w)^2 / sum w^2 equal rows. All factors
of Q that do not depend on the intervention cancel against those of P. For a parent x that is set,
w = 1[X = x] / P(x | rest of b) remains, the inverse of the propensity; for the front door w = P(m | x) / P(m | x').
The model draws b from Q, the rows are distributed as P, and :mod:`mdcm.sampling.strata` compares the two. Given
evidence, draws are from the posterior, and v, which the evidence changes as well, is compared together with b.

The support of the answer is that of its weakest conditional: the fewest rows and the largest share without rows.

References:
    Tian & Pearl (2002), A general identification condition for causal effects; Bhattacharya, Nabi & Shpitser (2022),
    Semiparametric inference for causal effects in graphical models with hidden variables, for the dual weights;
    Richardson, Evans, Robins & Shpitser (2023), Nested Markov properties for acyclic directed mixed graphs; Petersen et
    al. (2012), Diagnosing and responding to violations in the positivity assumption.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mdcm import kernels
from mdcm.data import encode
from mdcm.dcm import one_thread
from mdcm.errors import LowSupportError
from mdcm.sampling.abduction import Abduction, EvidenceError
from mdcm.sampling.counts import CountedRows, RowTable, countable, quantile_knots
from mdcm.sampling.draws import Draws
from mdcm.sampling.strata import Column, Overlap, overlaps

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from mdcm.data import Dataset, Schema
    from mdcm.graph import ADMG
    from mdcm.sampling.worlds import Network

__all__ = ["FEWEST_ROWS", "MOST_CASES", "MOST_UNSEEN", "Basis", "Support"]

# fewer effective rows than this cause a warning
FEWEST_ROWS = 50
# larger shares of the weight without rows cause a warning (first) or an error (second)
MOST_UNSEEN = (0.05, 0.2)
# largest number of cases, such as values that are set, in a computation
MOST_CASES = 64
# draws per case for the comparison with the rows
_DRAWS = 2048


@dataclass(frozen=True)
class Basis:
    """Training rows behind an answer.

    Attributes:
        rows: Effective number of training rows behind its weakest conditional.
        total: Number of training rows.
        unseen: Largest share of a conditional's weight without rows.
        missing: Descriptions of the conditions without rows, those with most weight first; if nothing is unseen, of
            conditions that perhaps have no row by chance.
        is_empty: Whether no row has the combination of interventions and evidence that the answer needs.
    """

    rows: float
    total: int
    unseen: float = 0.0
    missing: tuple[str, ...] = ()
    is_empty: bool = False

    @property
    def is_refused(self) -> bool:
        """Whether the rows are too few for an answer."""
        return self.is_empty or self.unseen > MOST_UNSEEN[1]

    @property
    def is_low(self) -> bool:
        """Whether the answer needs a warning."""
        return self.is_refused or self.unseen > MOST_UNSEEN[0] or self.rows < FEWEST_ROWS

    def __str__(self) -> str:
        if self.is_empty:
            missing = " or ".join(self.missing)
            return f"no row of the training data has {missing}, so the data say nothing about the answer"
        support = f"rests on about {self.rows:,.0f} of {self.total:,} rows"
        if self.unseen > MOST_UNSEEN[0]:
            where = f" ({'; '.join(self.missing)})" if self.missing else ""
            return (
                f"{self.unseen:.0%} of the answer's weight lies where no row of the training data is{where}, so that "
                f"the model extrapolates; the rest {support}"
            )
        if self.missing and self.rows < FEWEST_ROWS:
            return f"the answer {support}, none of them with {' or '.join(self.missing)}"
        return f"the answer {support}"

    @classmethod
    def weakest(cls, parts: Iterable[Basis], total: int) -> Basis:
        """Basis of an answer that is computed from several parts."""
        parts = [*parts, cls(float(total), total)]
        worst = max(parts, key=lambda part: (part.is_empty, part.unseen))
        fewest = min(parts, key=lambda part: part.rows)
        missing = worst.missing if worst.is_empty or worst.unseen else fewest.missing
        return cls(fewest.rows, total, worst.unseen, missing, worst.is_empty)


# variables in which draws and rows of a conditional are compared: column names and nodes of the query
_Family = tuple[tuple[str, int], ...]


class Support:
    """Counts of values that occur together in the training data.

    Args:
        graph: The ADMG.
        schema: Variables by name.
        rows: Rows of every data set.
        knots: Values to which numbers are rounded.

    Example:
        >>> from mdcm.data import Dataset, Schema
        >>> from mdcm.graph import ADMG
        >>> data = Dataset({"X": [0] * 30 + [1] * 3, "Y": [0, 1, 1] * 11})
        >>> support = Support.of(ADMG.from_string("X -> Y"), Schema.infer([data]), [data])
        >>> support.total, support.rows[0].table(["X"]).counts.tolist()
        (33, [30.0, 3.0])
    """

    def __init__(
        self, graph: ADMG, schema: Schema, rows: Sequence[CountedRows], knots: Mapping[str, NDArray[np.float32]]
    ) -> None:
        self.graph = graph
        self.schema = schema
        self.rows = tuple(rows)
        self.knots = dict(knots)
        self.total = sum(dataset.size for dataset in rows)
        self._noise: kernels.NoiseMemory = {}
        self._order = {name: number for number, name in enumerate(graph.topological_order())}
        self._siblings: dict[str, set[str]] = {name: set() for name in graph.nodes}
        for _, children in graph.confounders:
            for name in children:
                self._siblings[name].update(children)

    @classmethod
    def of(cls, graph: ADMG, schema: Schema, datasets: Sequence[Dataset]) -> Support:
        """Counts of encoded data sets."""
        encoded = [encode(dataset, schema) for dataset in datasets]
        knots = quantile_knots(schema, encoded)
        return cls(graph, schema, [CountedRows.of(dataset, schema, knots) for dataset in encoded], knots)

    def compact(self) -> Support:
        """Reduced copy for a file: counts of the columns that were fitted together."""
        return Support(self.graph, self.schema, [self._compacted(rows) for rows in self.rows], self.knots)

    def _compacted(self, rows: CountedRows) -> CountedRows:
        free = set(self.graph.nodes) - rows.do
        scopes: dict[frozenset[str], None] = {}
        done: set[str] = set()
        for name in self.graph.nodes:
            if name not in done and name in rows.columns and name in free:
                members = self._joined(name, free)
                done |= members
                scopes[rows.columns.intersection({*members, *self.graph.parents(members)})] = None
        tables = [rows.table([name for name in self.graph.nodes if name in scope]) for scope in scopes]
        return CountedRows(
            rows.do, rows.columns, rows.size, tuple(table.thinned() for table in tables if table is not None)
        )

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Contents of a file: plain JSON values, and arrays by name."""
        described: dict[str, Any] = {"knots": list(self.knots), "datasets": []}
        arrays = {f"knots.{k}": torch.from_numpy(knots) for k, knots in enumerate(self.knots.values())}
        for j, rows in enumerate(self.compact().rows):
            tables = [list(table.names) for table in rows.tables]
            described["datasets"].append(
                {"do": sorted(rows.do), "columns": sorted(rows.columns), "rows": rows.size, "tables": tables}
            )
            for k, table in enumerate(rows.tables):
                arrays[f"{j}.{k}.codes"] = torch.from_numpy(table.codes)
                arrays[f"{j}.{k}.counts"] = torch.from_numpy(table.counts)
        return described, arrays

    @classmethod
    def from_state(
        cls, graph: ADMG, schema: Schema, described: Mapping[str, Any], arrays: Mapping[str, Tensor]
    ) -> Support:
        """Restore from the results of :meth:`to_state`.

        Raises:
            ValueError: If the parts are not consistent with each other, the graph or the variables.
            KeyError: If a part is missing.
        """
        knots = {name: _array(arrays, f"knots.{k}", torch.float32, 1) for k, name in enumerate(described["knots"])}
        for name, values in knots.items():
            if name not in schema or not len(values) or not np.isfinite(values).all() or (np.diff(values) <= 0).any():
                raise ValueError(f"its values of {name!r} are not in order")
        sizes = {
            name: len(knots[name]) if schema[name].levels is None else schema[name].num_levels
            for name in schema
            if countable(schema, name) and (schema[name].levels is not None or name in knots)
        }
        rows = []
        for j, entry in enumerate(described["datasets"]):
            do, columns, size = frozenset(entry["do"]), frozenset(entry["columns"]), entry["rows"]
            if not do <= set(graph.nodes) or not columns <= set(sizes) or not isinstance(size, int) or size < 0:
                raise ValueError("its counts refer to variables that it does not have")
            tables = []
            for k, names in enumerate(entry["tables"]):
                codes = _array(arrays, f"{j}.{k}.codes", torch.int32, 2)
                counts = _array(arrays, f"{j}.{k}.counts", torch.float64, 1)
                if not columns.issuperset(names) or codes.shape != (len(counts), len(names)):
                    raise ValueError("its counts do not have the shape that it states")
                most = np.array([sizes[name] for name in names])
                if (codes < 0).any() or (codes >= most).any() or not (np.isfinite(counts) & (counts > 0)).all():
                    raise ValueError("its counts refer to values that its variables do not have")
                tables.append(RowTable(tuple(names), codes, counts))
            rows.append(CountedRows(do, columns, size, tuple(tables)))
        return cls(graph, schema, rows, knots)

    def _joined(self, name: str, among: Collection[str]) -> set[str]:
        """A variable and those joined to it by hidden confounders."""
        joined, pending = {name}, [name]
        while pending:
            for other in self._siblings[pending.pop()]:
                if other in among and other not in joined:
                    joined.add(other)
                    pending.append(other)
        return joined

    # ------------------------------------------------------------------ variables of the comparison

    def _families(
        self, network: Network, targets: Collection[int], evidence: Collection[int]
    ) -> list[dict[_Family, list[CountedRows]]]:
        """Families to compare, with their data sets, for every variable on which the answer depends."""
        nodes = network.nodes
        closure = set(network.closure([*targets, *evidence]))
        conditioned = set(network.closure(evidence))
        above = self.graph.ancestors({nodes[number].variable for number in closure})
        worlds = list(network.worlds)
        factual = network.world({})
        families: list[dict[_Family, list[CountedRows]]] = []
        done: set[int] = set()
        for world in worlds:
            for name, number in world.items():
                if number not in closure or number in done or not network.is_natural(world, name):
                    continue
                done.add(number)
                by_family: dict[_Family, list[CountedRows]] = {}
                backup: dict[_Family, list[CountedRows]] = {}
                for rows in self.rows:
                    if name not in rows.columns or name in rows.do:
                        continue
                    family, is_clean = self._family(network, world, name, above, rows, number in conditioned)
                    (by_family if is_clean else backup).setdefault(family, []).append(rows)
                chosen = by_family or backup
                if not chosen:
                    continue
                is_observational = not evidence and all(
                    factual[column] == node for family in chosen for column, node in family
                )
                families.append(
                    {(): [rows for group in chosen.values() for rows in group]} if is_observational else chosen
                )
        return families

    def _family(
        self,
        network: Network,
        world: Mapping[str, int],
        name: str,
        above: set[str],
        rows: CountedRows,
        with_value: bool,
    ) -> tuple[_Family, bool]:
        """Family in which to compare P(v | b), for a variable in a world and the rows of a data set."""
        before = self._order[name]
        joined = self._joined(name, {v for v in above if self._order[v] <= before and v not in rows.do})
        parents = self.graph.parents(joined)
        is_clean = True
        family = []
        for column in sorted((joined | parents) - {name}, key=self._order.__getitem__):
            node = world[column]
            if column in joined and not network.is_natural(world, column):
                if column in parents:
                    # both the set and the natural value matter: rows show both only where they are equal
                    is_clean = False
                else:
                    node = network.natural(world, column)
            if column not in rows.columns:
                is_clean = is_clean and not countable(self.schema, column)
            elif countable(self.schema, column):
                family.append((column, node))
        if with_value and countable(self.schema, name):
            family.append((name, world[name]))
        return tuple(family), is_clean

    # ------------------------------------------------------------------ the comparison

    def basis(
        self,
        network: Network,
        targets: Collection[int],
        evidence: Mapping[int, Tensor],
        *,
        num_samples: int,
        seed: int,
    ) -> Basis:
        """Training rows behind an answer about some nodes.

        Args:
            network: Nodes of all worlds of the query.
            targets: Nodes of the answer.
            evidence: Observed value of each node.
            num_samples: Draws of the answer, for which the evidence is probable enough.
            seed: Seed of the draws that are compared with the rows.
        """
        with kernels.remembering(self._noise):
            families = self._families(network, targets, evidence)
            drawable = self._drawable(network, families)
            values, weights, drawable = self._drawn(network, drawable, targets, evidence, num_samples, seed)
            (basis,) = self._compared(network, families, drawable, values, weights, evidence)
        return basis

    def bases(
        self, network: Network, targets: Collection[int], evidence: Mapping[int, Tensor], cases: int, seed: int
    ) -> list[Basis] | None:
        """Training rows behind the answers in several cases, in one computation; None if weights differ by row.

        Args:
            network: Nodes of all worlds of the query, set to one value or one per case.
            targets: Nodes of the answer.
            evidence: Observed value of each node, one or one per case.
            cases: Number of cases, up to :data:`MOST_CASES`.
            seed: Seed of the draws that are compared with the rows.

        Returns:
            Result of :meth:`basis` for each case, up to rounding.
        """
        if any(node.rule is not None for node in network.nodes):
            return None
        families = self._families(network, targets, evidence)
        drawable = self._drawable(network, families)
        with kernels.remembering(self._noise), one_thread(), torch.no_grad():
            try:
                abduction = Abduction(network, evidence, drawable, cases=cases)
            except EvidenceError:
                return None
            if not abduction.is_equal:
                return None
            units, _ = abduction(torch.arange(_DRAWS), seed)
            units.compute(drawable)
        values = {node: units.values[node].view(cases, _DRAWS).numpy() for node in drawable}
        return self._compared(network, families, drawable, values, np.ones((cases, _DRAWS)), evidence)

    def _drawable(self, network: Network, families: Sequence[Mapping[_Family, object]]) -> set[int]:
        """Nodes of families that can be drawn without drawing an image."""
        images = {number for number in range(len(network.nodes)) if self._is_drawn_image(network, number)}
        nodes = {node for by_family in families for family in by_family for _, node in family}
        return {node for node in nodes if not images.intersection(network.closure([node]))}

    def _compared(
        self,
        network: Network,
        families: Sequence[Mapping[_Family, Sequence[CountedRows]]],
        drawable: Collection[int],
        values: Mapping[int, NDArray[Any]],
        weights: NDArray[np.float64],
        evidence: Mapping[int, Tensor],
    ) -> list[Basis]:
        """Training rows behind the answer in every case, from its draws, ``[cases, N]``."""
        cases = len(weights)
        parts: list[list[Basis]] = [[] for _ in range(cases)]
        for by_family in families:
            effective, compared = np.zeros(cases), []
            for family, rows in by_family.items():
                drawn = tuple((column, node) for column, node in family if node in drawable)
                overlaps_by_case = self._overlaps(network, drawn, rows, values, weights, evidence)
                if overlaps_by_case is not None:
                    effective += [overlap.rows for overlap in overlaps_by_case]
                    compared.append(overlaps_by_case)
            for case in range(cases if compared else 0):
                best = min(
                    (by_case[case] for by_case in compared), key=lambda overlap: (overlap.is_empty, overlap.unseen)
                )
                parts[case].append(Basis(float(effective[case]), self.total, best.unseen, best.missing, best.is_empty))
        return [Basis.weakest(case_parts, self.total) for case_parts in parts]

    def _is_drawn_image(self, network: Network, number: int) -> bool:
        node = network.nodes[number]
        return self.schema[node.variable].kind == "image" and not node.is_set

    def _drawn(
        self,
        network: Network,
        wanted: set[int],
        targets: Collection[int],
        evidence: Mapping[int, Tensor],
        num_samples: int,
        seed: int,
    ) -> tuple[dict[int, NDArray[Any]], NDArray[np.float64], set[int]]:
        """Draws of nodes and their weights, ``[1, N]``, and the nodes that could be drawn."""
        constants = [network.nodes[number].constant for number in network.closure(wanted)]
        per_row = [len(value) for value in constants if value is not None and len(value) > 1]
        number = min([_DRAWS, *per_row])
        known = {node for node in wanted if network.nodes[node].constant is not None} | wanted.intersection(evidence)
        if wanted <= known and not per_row:
            values = {node: self._constant(network, node, evidence)[None] for node in wanted}
            return values, np.ones((1, 1)), wanted
        try:
            blocks = list(self._blocks(network, wanted, evidence, number, num_samples, seed))
        except EvidenceError:
            # a natural value in a further world can make conditioning impossible
            wanted = wanted.intersection(network.closure([*targets, *evidence]))
            blocks = list(self._blocks(network, wanted, evidence, number, num_samples, seed))
        values = {node: torch.cat([block.values[node] for block in blocks]).numpy()[None] for node in wanted}
        if any(block.weight is None for block in blocks):
            weights = np.ones(sum(block.rows for block in blocks))
        else:
            weights = torch.cat([block.weight for block in blocks if block.weight is not None]).numpy()
        return values, weights[None], wanted

    def _blocks(
        self, network: Network, wanted: set[int], evidence: Mapping[int, Tensor], number: int, most: int, seed: int
    ) -> Draws:
        try:
            return Draws(network, sorted(wanted), evidence, number, seed, resample=False, whole=False)
        except LowSupportError:
            if most <= number:
                raise
            return Draws(network, sorted(wanted), evidence, most, seed, resample=False, whole=False)

    def _constant(self, network: Network, node: int, evidence: Mapping[int, Tensor]) -> NDArray[Any]:
        value = evidence[node] if node in evidence else network.nodes[node].constant
        assert value is not None
        return value[:1].numpy()

    def _overlaps(
        self,
        network: Network,
        family: _Family,
        rows: Sequence[CountedRows],
        values: Mapping[int, NDArray[Any]],
        weights: NDArray[np.float64],
        evidence: Mapping[int, Tensor],
    ) -> list[Overlap] | None:
        """Coverage of the draws of every case by rows; None if no table holds all columns."""
        cases = len(weights)
        if not family:
            return [Overlap(float(sum(dataset.size for dataset in rows)), 0.0)] * cases
        # a variable may occur in two worlds, but has a single value in rows
        names = list(dict.fromkeys(column for column, _ in family))
        tables = [table for dataset in rows if (table := dataset.table(names)) is not None]
        if not tables:
            return None
        table = tables[0]
        if len(tables) > 1:
            codes = np.concatenate([part.codes for part in tables])
            counts = np.concatenate([part.counts for part in tables])
            table = RowTable.of(names, codes, counts)
        if not len(table.counts):
            return None
        columns = []
        for column, node in family:
            variable, codes = self.schema[column], table.codes[:, names.index(column)]
            constant = network.nodes[node].constant
            is_fixed = node in evidence or (constant is not None and len(constant) in {1, cases})
            if variable.levels is not None:
                columns.append(Column(column, values[node], codes, variable.levels, is_fixed))
            else:
                numbers = self.knots[column][codes]
                mean, scale = float(variable.mean or 0.0), float(variable.scale or 1.0)  # type: ignore[arg-type]
                columns.append(Column(column, values[node], numbers, None, is_fixed, mean, scale))
        return overlaps(columns, weights, table.counts)


def _array(arrays: Mapping[str, Tensor], name: str, dtype: torch.dtype, axes: int) -> NDArray[Any]:
    value = arrays[name]
    if value.dtype != dtype or value.ndim != axes:
        raise ValueError(f"its array {name} is {value.dtype} {list(value.shape)}")
    array: NDArray[Any] = value.numpy()
    return array
