"""Chains, diamonds and cones of four-level variables with hidden causes of ten levels, against the exact truth.

    python bench/families.py                                    # all problems, 1,000 rows, seeds 0, 1 and 2
    python bench/families.py chain:17 cone:21 --rows 10000      # some of them
    python bench/families.py --no-em --dry                      # without the reference, nothing written

A problem is a graph, an exact random model of it, and an effect along all of it:

chain    V0 -> V1 -> ... -> Vn, with a hidden cause of V_2k and V_(2k+2) for every k; P(Vn | do(V0)).
diamond  V0 fans out into four branches that meet in Vn, with a hidden cause of every second variable of a branch and
         the second after it, from V0 on; P(Vn | do(V0)).
cone     a triangular lattice: V0 is its tip, each variable is caused by its two neighbours in the row below; hidden
         causes of neighbours in the lowest row, and of every second variable of both sides and the second after it;
         P(V0 | do(Vn)) for the last corner Vn.

Beside the model stands EM with the true graph and the true numbers of hidden levels, the likeliest of several starts.
Distances are mean absolute deviations over all levels of what is set and asked. Bars: every query is answered within
60 s; the mean distance over the seeds is at most 1.2 times that of EM, since one sample of 1,000 rows decides little:
both are as far off as its own margins are. Writes bench/results/families.json; the exit code is 1 if a bar is missed.
Times are CPU times.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from run import conditions  # noqa: E402
from torch import Tensor  # noqa: E402

import mdcm  # noqa: E402
from mdcm.elimination import Elimination, elimination  # noqa: E402
from mdcm.sampling.messages import RowFactor, eliminate  # noqa: E402
from mdcm.scm import DiscreteSCM, random_discrete  # noqa: E402

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVELS, HIDDEN = 4, 10
LARGEST = 1 << 23
PROBLEMS = ("chain:17", "chain:49", "chain:99", "diamond:17", "diamond:65", "cone:21", "cone:45")
SECONDS, RATIO = 60.0, 1.2


@dataclass(frozen=True)
class Problem:
    """A graph, and what is set and asked."""

    name: str
    graph: mdcm.ADMG
    cause: str
    effect: str

    @property
    def query(self) -> str:
        return f"P({self.effect} | do({self.cause}))"


def _every_second(path: Sequence[int]) -> Iterator[tuple[int, int]]:
    return zip(path[::2], path[2::2], strict=False)


def chain(n: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]], int, int]:
    """Arrows, pairs with a hidden cause, what is set, and what is asked."""
    return [(k, k + 1) for k in range(n - 1)], list(_every_second(range(n))), 0, n - 1


def diamond(n: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]], int, int]:
    """As :func:`chain`; the inner variables are dealt to the branches in turn."""
    arrows, pairs = [], []
    for branch in range(4):
        path = [0, *range(1 + branch, n - 1, 4), n - 1]
        arrows += list(itertools.pairwise(path))
        pairs += list(_every_second(path))
    # of a short diamond, branches of one variable have V0 and Vn in common
    return arrows, list(dict.fromkeys(pairs)), 0, n - 1


def cone(n: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]], int, int]:
    """As :func:`chain`; n must be 1 + 2 + ... + rows."""
    rows = math.isqrt(2 * n)
    if rows * (rows + 1) != 2 * n:
        raise ValueError(f"a cone has 3, 6, 10, 15, ... variables, not {n}")
    lattice, start = [], 0
    for size in range(1, rows + 1):
        lattice.append(list(range(start, start + size)))
        start += size
    arrows = [
        (below[place + step], above[place])
        for above, below in itertools.pairwise(lattice)
        for place in range(len(above))
        for step in (0, 1)
    ]
    pairs = list(zip(lattice[-1], lattice[-1][1:], strict=False))
    for side in ([row[0] for row in lattice], [row[-1] for row in lattice]):
        pairs += list(_every_second(side))
    return arrows, pairs, n - 1, 0


FAMILIES = {"chain": chain, "diamond": diamond, "cone": cone}


def problem(name: str) -> Problem:
    """The problem of a name such as ``chain:17``."""
    family, _, size = name.partition(":")
    arrows, pairs, cause, effect = FAMILIES[family](int(size))
    nodes = [f"V{k}" for k in range(int(size))]

    def named(some: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
        return [(nodes[a], nodes[b]) for a, b in some]

    return Problem(name, mdcm.ADMG(nodes, named(arrows), named(pairs)), nodes[cause], nodes[effect])


def truth_of(asked: Problem, seed: int) -> DiscreteSCM:
    """A random model of the problem's graph."""
    return random_discrete(
        asked.graph, levels=LEVELS, latent_levels=HIDDEN, seed=seed, concentration=0.2, smoothing=0.02
    )


def effect_of(scm: DiscreteSCM, asked: Problem) -> NDArray[np.float64]:
    """P(effect | do(cause)) by elimination, one row per level of the cause.

    Where a table would be too large the states of some hidden causes are gone through one by one.
    """
    factors: list[RowFactor] = []
    sizes: dict[Hashable, int] = {node: LEVELS for node in asked.graph.nodes}
    for name, prior in scm.priors.items():
        sizes[name] = len(prior)
        factors.append(RowFactor((name,), torch.from_numpy(prior)[None]))
    needed = asked.graph.intervene([asked.cause]).ancestors([asked.effect])
    for node in needed - {asked.cause}:
        axes, table = scm.axes(node), torch.from_numpy(scm.tables[node])[None]
        if asked.cause in axes:
            place = axes.index(asked.cause)
            table, axes = table.movedim(1 + place, 0)[:, 0], (*axes[:place], *axes[place + 1 :])
        factors.append(RowFactor(axes, table))
    cut: list[str] = []

    def order(cut: Sequence[str]) -> Elimination[Hashable]:
        scopes = [[name for name in factor.scope if name not in cut] for factor in factors]
        return elimination(scopes, [asked.effect], sizes)

    while order(cut).largest > LARGEST:
        cut.append(min((name for name in scm.priors if name not in cut), key=lambda name: order([*cut, name]).cells))
    total = torch.zeros(LEVELS, LEVELS, dtype=torch.float64)
    for states in itertools.product(*(range(sizes[name]) for name in cut)):
        pool = factors
        for name, state in zip(cut, states, strict=True):
            pool = [_at(factor, name, state) for factor in pool]
        found = eliminate(pool, order(cut), sizes, rows=LEVELS, draws=False)
        total += found.rest.expand(LEVELS, LEVELS) * found.log_scale.exp()[:, None]
    return total.numpy()


def _at(factor: RowFactor, name: str, state: int) -> RowFactor:
    if name not in factor.scope:
        return factor
    place = factor.scope.index(name)
    return RowFactor((*factor.scope[:place], *factor.scope[place + 1 :]), factor.table.select(1 + place, state))


class Tables:
    """Tables of a model with the true graph and hidden levels, fitted by EM.

    Args:
        graph: The graph.
        rows: Codes by variable, ``[n]``.
        seed: Seed of the start.
    """

    def __init__(self, graph: mdcm.ADMG, rows: Mapping[str, Tensor], seed: int) -> None:
        self.graph = graph
        self.rows = rows
        self.count = len(next(iter(rows.values())))
        self.parents = {node: sorted(graph.parents(node), key=graph.index) for node in graph.nodes}
        self.latents = {
            node: [name for name, children in graph.confounders if node in children] for node in graph.nodes
        }
        generator = torch.Generator().manual_seed(seed)

        def random(shape: Sequence[int]) -> Tensor:
            drawn = -torch.rand(list(shape), generator=generator, dtype=torch.float64).clamp_min(1e-12).log()
            return drawn / drawn.sum(-1, keepdim=True)

        self.priors = {name: random([HIDDEN]) for name, _ in graph.confounders}
        self.tables = {
            node: random([*[LEVELS] * len(self.parents[node]), *[HIDDEN] * len(self.latents[node]), LEVELS])
            for node in graph.nodes
        }
        for node in graph.nodes:
            if not self.latents[node]:
                counts = torch.zeros(self.tables[node].shape, dtype=torch.float64)
                counts.index_put_(self._cells(node), torch.ones(self.count, dtype=torch.float64), accumulate=True)
                self.tables[node] = _normalised(counts)
        self.components = [
            [node for node in members if self.latents[node]] for members in map(sorted, graph.c_components())
        ]
        self.components = [members for members in self.components if members]
        self.log_likelihood = -math.inf

    def _cells(self, node: str) -> tuple[Tensor, ...]:
        return (*(self.rows[parent] for parent in self.parents[node]), self.rows[node])

    def step(self) -> None:
        """One step of EM, over all components."""
        self.log_likelihood = sum(self._component(members) for members in self.components)

    def _component(self, members: Sequence[str]) -> float:
        latents = list(dict.fromkeys(name for node in members for name in self.latents[node]))
        sizes: dict[Hashable, int] = dict.fromkeys(latents, HIDDEN)
        leaves, factors = {}, []
        for node in members:
            # P(v | parents, u) at each row's values, one row per row; its logarithm's slope is the posterior of u
            order = [*range(len(self.parents[node])), self.tables[node].ndim - 1]
            moved = self.tables[node].permute(*order, *range(len(order) - 1, self.tables[node].ndim - 1))
            leaves[node] = moved[self._cells(node)].requires_grad_()
            factors.append(RowFactor(tuple(self.latents[node]), leaves[node]))
        for name in latents:
            leaves[name] = self.priors[name].expand(self.count, HIDDEN).clone().requires_grad_()
            factors.append(RowFactor((name,), leaves[name]))
        order_ = elimination([factor.scope for factor in factors], (), sizes)
        found = eliminate(factors, order_, sizes, rows=self.count, draws=False).log_total.sum()
        slopes = torch.autograd.grad(found, list(leaves.values()))
        for (name, leaf), slope in zip(leaves.items(), slopes, strict=True):
            # a share is not negative but for rounding, which grows where tables are rescaled
            share = (leaf * slope).detach().clamp_min(0)
            if name in self.priors:
                self.priors[name] = _normalised(share.sum(0))
                continue
            shape = [*[LEVELS] * len(self.parents[name]), LEVELS, *[HIDDEN] * len(self.latents[name])]
            counts = torch.zeros(shape, dtype=torch.float64)
            counts.index_put_(self._cells(name), share, accumulate=True)
            counts = counts.movedim(len(self.parents[name]), -1)
            self.tables[name] = _normalised(counts)
        return float(found.detach())

    def model(self) -> DiscreteSCM:
        """The model of these tables."""
        return DiscreteSCM(
            self.graph,
            {node: table.numpy() for node, table in self.tables.items()},
            {name: prior.numpy() for name, prior in self.priors.items()},
        )


def _normalised(counts: Tensor) -> Tensor:
    """Shares along the last axis, equal ones where nothing was counted."""
    total = counts.sum(-1, keepdim=True)
    return torch.where(total > 0, counts / total.clamp_min(1e-300), torch.full_like(counts, 1 / counts.shape[-1]))


def em(graph: mdcm.ADMG, table: pd.DataFrame, *, starts: int, steps: int, seed: int) -> Tables:
    """The likeliest of several fits by EM; a fit ends where a step gains less than a thousandth of a nat per row."""
    rows = {node: torch.tensor(table[node].to_numpy(dtype=np.int64)) for node in graph.nodes}
    best: Tables | None = None
    for start in range(starts):
        fitted, before = Tables(graph, rows, 1000 * seed + start), -math.inf
        for _ in range(steps):
            fitted.step()
            if fitted.log_likelihood - before < 1e-6 * len(table):
                break
            before = fitted.log_likelihood
        if best is None or fitted.log_likelihood > best.log_likelihood:
            best = fitted
    assert best is not None
    return best


@dataclass(frozen=True)
class Row:
    """What came out for one problem."""

    problem: str
    rows: int
    seed: int
    fit_seconds: float
    query_seconds: float
    exact: bool
    model: float
    em: float | None
    em_seconds: float | None
    plug_in: float | None
    warnings: int


@dataclass(frozen=True)
class Summary:
    """A problem over its seeds: mean distances, their ratio, and the longest query."""

    problem: str
    seeds: int
    fit_seconds: float
    query_seconds: float
    model: float
    em: float | None
    ratio: float | None

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Summary:
        model = float(np.mean([row.model for row in rows]))
        reference = [row.em for row in rows if row.em is not None]
        beside = float(np.mean(reference)) if len(reference) == len(rows) else None
        return cls(
            rows[0].problem, len(rows), max(row.fit_seconds for row in rows), max(row.query_seconds for row in rows),
            model, beside, None if beside is None else model / beside,
        )  # fmt: skip

    @property
    def reached(self) -> bool:
        return self.query_seconds <= SECONDS and (self.ratio is None or self.ratio <= RATIO)


def measure(name: str, rows: int, seed: int, *, starts: int, steps: int, progress: bool) -> Row:
    """One problem, fitted and asked."""
    asked = problem(name)
    scm = truth_of(asked, seed)
    table = scm.sample(rows, seed=seed)
    truth = effect_of(scm, asked).ravel()
    began = time.process_time()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = mdcm.fit(asked.graph, table, variables=_levels(asked.graph), seed=seed, progress=progress)
        fitted = time.process_time()
        answer = model.query(asked.query, allow_low_support=True)
        ended = time.process_time()
    beside = None
    if answer.plug_in is not None:
        beside = float(np.abs(answer.plug_in["estimate"].to_numpy() - truth).mean())
    distance = seconds = None
    if starts:
        reference = em(asked.graph, table, starts=starts, steps=steps, seed=seed).model()
        seconds = time.process_time() - ended
        distance = float(np.abs(effect_of(reference, asked).ravel() - truth).mean())
    found = float(np.abs(answer.table["probability"].to_numpy() - truth).mean())
    return Row(
        name, rows, seed, fitted - began, ended - fitted, answer.exact, found, distance, seconds, beside, len(told)
    )


def _levels(graph: mdcm.ADMG) -> dict[str, dict[str, object]]:
    return {node: {"kind": "categorical", "levels": list(range(LEVELS))} for node in graph.nodes}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="*", default=list(PROBLEMS), metavar="FAMILY:N")
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--starts", type=int, default=2, help="of EM")
    parser.add_argument("--steps", type=int, default=100, help="of EM, at most")
    parser.add_argument("--no-em", action="store_true")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: list[Row] = []
    summaries = []
    for name in given.problems:
        for seed in given.seeds:
            starts = 0 if given.no_em else given.starts
            row = measure(name, given.rows, seed, starts=starts, steps=given.steps, progress=False)
            found.append(row)
            print(json.dumps(asdict(row)), flush=True)
        summaries.append(Summary.of([row for row in found if row.problem == name]))
        print(json.dumps(asdict(summaries[-1]) | {"reached": summaries[-1].reached}), flush=True)
    if not given.dry:
        path = HERE / "results" / "families.json"
        content = {
            "command": f"python bench/families.py --starts {given.starts} --steps {given.steps}",
            "conditions": conditions(), "summary": [asdict(one) for one in summaries],
            "rows": [asdict(row) for row in found],
        }  # fmt: skip
        path.write_text(json.dumps(content, indent=1) + "\n")
    return 0 if all(one.reached for one in summaries) else 1


if __name__ == "__main__":
    sys.exit(main())
