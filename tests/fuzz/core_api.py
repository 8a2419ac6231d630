"""Random calls of every entry point of the compiled core: a value or a Python error comes back, and nothing else.

    python tests/fuzz/core_api.py CALLS [--seed N] [--trace]

Arguments are right ones, nearly right ones (an index too far, a number too many, another dtype) and wrong ones (None,
text, huge and negative numbers, arrays of other shapes, lists that change while they are read). A crash, a hang of 20
seconds and an error of another type than those in EXPECTED end the run; the seed and ``--trace`` then show the call.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from mdcm import _core

EXPECTED = (ValueError, TypeError, IndexError, OverflowError)
INTEGERS = (-(2**63), -(2**31) - 1, -(2**31), -5, -1, 0, 1, 2, 7, 100, 2**31 - 1, 2**31, 2**63, 2**64, 2**200)
DTYPES = (np.int32, np.int64, np.uint8, np.uint64, np.int16, ">i4", np.float64, bool, object, "U3", np.complex64)
SLOWEST = 20


class Shrinking(list[Any]):
    """A list whose first element empties it when it is read as a number."""

    def __init__(self, values: list[Any]) -> None:
        owner = self

        class Trap:
            def __index__(self) -> int:
                owner.clear()
                return 0

            __int__ = __index__

        super().__init__([Trap(), *values])


class Random:
    """Arguments of all kinds from one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        # how many in a hundred arguments are wrong: from call to call, so that deep code is reached as well
        self.wrong = 0

    def below(self, bound: int) -> int:
        return int(self.rng.integers(bound)) if bound > 0 else 0

    def chance(self, percent: float) -> bool:
        return bool(100 * self.rng.random() < percent)

    def pick(self, options: Any) -> Any:
        return options[self.below(len(options))]

    def junk(self) -> Any:
        """Any value at all."""
        return self.pick(
            (
                None, "text", b"bytes", 1.5, float("nan"), True, {}, {"a": 1}, set(), object(), [], [[]], (), [None],
                ["x"], [1.5], (k for k in range(3)), range(3), np.zeros(0), np.zeros((2, 2), np.int32), np.int32(3),
                np.array(3),
                np.array(["a"]), np.arange(6, dtype=np.int32)[::2], Shrinking([1, 2]), iter([1]), self.pick(INTEGERS),
                [self.pick(INTEGERS)], np.frombuffer(b"\0" * 9, np.uint8)[1:].view(np.int32), 10**30, -0.0, type, len,
            )
        )  # fmt: skip

    def number(self, bound: int) -> Any:
        """A number below a bound, mostly."""
        if self.chance(self.wrong):
            return self.pick((self.pick(INTEGERS), bound, bound + 1, -1, self.junk()))
        return self.below(bound)

    def numbers(self, size: int, bound: int, *, distinct: bool = False) -> Any:
        """Numbers below a bound as a list, tuple or array, mostly."""
        if self.chance(self.wrong):
            return self.junk()
        if distinct:
            values = [int(v) for v in self.rng.permutation(max(bound, 0))[:size]]
        else:
            values = [self.below(bound) for _ in range(size)] if bound > 0 else []
        if self.chance(self.wrong) and values:
            values[self.below(len(values))] = self.pick(INTEGERS)
        form = self.below(6)
        try:
            if form == 0:
                return values
            if form == 1:
                return tuple(values)
            if form == 2 and self.chance(self.wrong):
                return np.array(values, dtype=self.pick(DTYPES))
            if form == 3 and self.chance(self.wrong):
                return Shrinking(values)
            if form == 4:
                raw = np.zeros(4 * len(values) + 1, np.uint8)
                shifted = raw[1:].view(np.int32)
                shifted[:] = values
                return shifted
            return np.array(values, dtype=np.int32)
        except (OverflowError, ValueError, TypeError):
            return values

    def graph(self) -> Any:
        """A graph, or an attempt at one."""
        n = self.below(8)
        arcs = self.below(2 * n + 1)
        order = self.rng.permutation(max(n, 1))
        ends = np.sort(self.rng.integers(0, max(n, 1), size=(2, arcs)), axis=0) if n else np.zeros((2, 0), int)
        if not self.chance(self.wrong):
            ends = ends[:, ends[0] != ends[1]]
        tails, heads = (order[row].astype(np.int32) if n else row for row in ends)
        pairs = sorted(
            {tuple(sorted(self.rng.permutation(n)[:2].tolist())) for _ in range(self.below(n))} if n > 1 else ()
        )
        first, second = ([pair[side] for pair in pairs] for side in (0, 1))
        rows = (
            [self.rng.permutation(n)[: 2 + self.below(n - 1)].tolist() for _ in range(self.below(3))] if n > 1 else []
        )
        offsets: Any = np.cumsum([0, *map(len, rows)])
        children: Any = [v for row in rows for v in row]
        if self.chance(self.wrong):
            offsets = self.pick((offsets[1:], offsets[:-1], offsets + 1, -offsets, np.zeros(0, np.int64), self.junk()))
        if self.chance(self.wrong):
            children = self.pick(
                (children[1:], [*children, 0], [*children, *children], self.numbers(3, n), self.junk())
            )
        if self.chance(self.wrong):
            tails = self.pick((tails[1:], self.numbers(3, n), self.junk()))
        count = self.pick((n, n, n, n + 1, -5, 2**31 - 1, self.junk())) if self.chance(self.wrong) else n
        return _core.Admg(count, tails, heads, first, second, offsets, children)

    def group(self, n: int) -> Any:
        """A group of data sets."""
        if self.chance(self.wrong):
            return self.pick((self.junk(), {}, {"targets": []}))
        targets = sorted(self.rng.permutation(n)[: self.below(3)].tolist())
        levels = [self.below(4) for _ in targets]
        group: dict[str, Any] = {
            "targets": targets,
            "columns": None if self.chance(60) else (self.rng.random(n) < 0.8).astype(np.uint8),
            "domain": levels,
            "boxes": [
                [[self.below(max(size, 1) + 1) for _ in range(self.below(4))] for size in levels]
                for _ in range(1 + self.below(2))
            ],
            "rows": self.below(1000) - 1,
        }
        for key in group:
            if self.chance(self.wrong):
                group[key] = self.pick((self.junk(), self.numbers(3, n), [[[self.pick(INTEGERS)]]], -1))
        if self.chance(self.wrong):
            del group[self.pick(list(group))]
        return group

    def groups(self, n: int) -> Any:
        """Groups of data sets."""
        if self.chance(self.wrong):
            return self.junk()
        return [self.group(n) for _ in range(self.below(4))]


def call_graph(r: Random) -> None:
    graph = r.graph()
    n = len(graph)
    few = lambda: r.numbers(r.below(3), n)  # noqa: E731
    calls: list[Callable[[], Any]] = [
        lambda: (graph.num_directed, graph.num_bidirected, graph.num_hubs, graph.topological_order, graph.positions),
        lambda: graph.parents(r.number(n)),
        lambda: graph.children(r.number(n)),
        lambda: graph.siblings(r.number(n)),
        lambda: graph.ancestors(few(), few(), few()),
        lambda: graph.descendants(few(), few(), few()),
        lambda: graph.c_components(few()),
        lambda: graph.m_separated(few(), few(), few(), few(), few()),
        lambda: graph.rule1(few(), few(), few(), few()),
        lambda: graph.rule2(few(), few(), few(), few()),
        lambda: graph.rule3(few(), few(), few(), few()),
        lambda: graph.latent_projection(r.numbers(n, n, distinct=True), r.pick((True, False, r.junk()))),
        lambda: graph.paper_set(few()),
    ]
    r.pick(calls)()


def call_pairs(r: Random) -> None:
    names = [f"v{k}" for k in range(r.below(6))]
    index: Any = {name: r.number(9) for name in names}
    pairs: Any = [
        r.pick(((r.pick(names or [0]), r.pick(names or [0])), ["v0", "v1"], r.junk())) for _ in range(r.below(5))
    ]
    _core.index_pairs(
        r.junk() if r.chance(r.wrong) else index, r.pick((r.junk(), Shrinking(pairs))) if r.chance(r.wrong) else pairs
    )


def call_closure(r: Random) -> None:
    graph = r.junk() if r.chance(r.wrong) else r.graph()
    closure = _core.ModularityClosure(graph)
    n = len(graph)
    if r.chance(r.wrong):
        closure.witness(r.number(max(n, 1)))
    added = closure.run(r.numbers(1 + r.below(2), n), r.numbers(r.below(2), n))
    for v in added.tolist():
        closure.witness(v)
    if r.chance(5):
        closure.witness(r.number(max(n, 1)))


def call_hgraph(r: Random) -> None:
    graph = r.graph()
    n = len(graph)
    labels: Any = graph.c_components()
    parts = int(labels.max(initial=-1)) + 1
    if r.chance(r.wrong):
        labels = r.numbers(n, parts)
    training: Any = np.array([r.below(3) for _ in range(parts)], dtype=np.uint8)
    if r.chance(r.wrong):
        training = r.pick((training[1:], np.append(training, np.uint8(0)), training + np.uint8(2), r.junk()))
    paper = r.pick((False, True, r.junk())) if r.chance(30) else False
    hgraph = _core.HGraph(None if r.chance(r.wrong) else graph, labels, training, r.groups(n), paper)
    _ = (hgraph.labels, hgraph.levels, hgraph.training, hgraph.rounds, hgraph.plain, hgraph.untrained)
    for h in range(len(hgraph)):
        hgraph.fits(h)
    hgraph.edges()
    if r.chance(5):
        hgraph.fits(r.number(max(len(hgraph), 1)))


def call_identification(r: Random) -> None:
    graph = r.graph()
    n = len(graph)
    count, num_worlds = (r.below(4), 1 + r.below(3)) if n else (0, 1)
    values: Any = [(r.number(n), r.number(5)) for _ in range(count)]
    nodes = [*range(n), *(v for v, _ in values)]

    def setting(world: int) -> Any:
        symbol = r.number(n + count)
        node = (
            nodes[symbol]
            if isinstance(symbol, int) and 0 <= symbol < len(nodes) and not r.chance(r.wrong)
            else r.number(n)
        )
        if r.chance(25):
            # another world, an earlier one unless wrong
            return (node, -1, r.number(num_worlds) if r.chance(r.wrong) else r.below(world))
        return (node, symbol, -1)

    def world(number: int) -> Any:
        settings = [setting(number) for _ in range(r.below(3))]
        return settings if r.chance(r.wrong) else list({str(each[0]): each for each in settings}.values())

    worlds: Any = [[], *(world(w) for w in range(1, num_worlds))] if n else [[]]
    atoms: Any = [
        (r.number(n + count), r.number(num_worlds), r.pick((True, False, False))) for _ in range(r.below(4) if n else 0)
    ]
    parts = [values, worlds, atoms]
    if r.chance(r.wrong):
        parts[r.below(3)] = r.junk()
    known = _core.Identification(None if r.chance(r.wrong) else graph, r.groups(n), *parts, r.pick((True, False)))
    _ = (known.verdict, known.failures, known.symbols)
    if known.verdict == "yes" or r.chance(10):
        known.terms()


def call_strata(r: Random) -> None:
    columns, draws, rows = 1 + r.below(4), r.below(30), r.below(30)
    sizes = np.array([1 + r.below(5) for _ in range(columns)], dtype=np.int32)
    bins = [r.rng.integers(0, sizes, size=(count, columns)).astype(np.int32) for count in (draws, rows)]
    arguments: list[Any] = [
        *bins,
        r.rng.random(draws),
        r.rng.integers(0, 9, rows).astype(np.float64),
        sizes,
        r.rng.integers(0, 2, columns).astype(np.uint8),
        1 + r.below(20),
        r.pick((0.0, 1.0, 5.0)),
        r.pick((-0.01, 0.0, 0.01)),
    ]
    for place, right in enumerate(arguments):
        if r.chance(r.wrong):
            wrong = [r.junk(), r.pick(INTEGERS), float("nan"), float("inf")]
            if isinstance(right, np.ndarray):
                other = right.astype(r.pick(DTYPES)) if right.size else right
                missing = right * np.nan if right.dtype == np.float64 else right.T
                wrong += [right[1:], right[:, None], right[::2], other, right - 1, right + 1, missing]
                wrong.append(np.asfortranarray(right))
            arguments[place] = r.pick(wrong)
    _core.grow_strata(*arguments)


CALLS = {
    "graph": call_graph,
    "pairs": call_pairs,
    "closure": call_closure,
    "hgraph": call_hgraph,
    "identification": call_identification,
    "strata": call_strata,
}


def run(calls: int, seed: int, trace: bool = False) -> dict[str, list[int]]:
    """Make random calls.

    Returns:
        By entry point the numbers of calls that came back with a value and with an error.
    """
    counts = {name: [0, 0] for name in CALLS}
    names = list(CALLS)
    for number in range(calls):
        r = Random(seed * 1_000_003 + number)
        r.wrong = r.pick((0, 2, 10))
        name = r.pick(names)
        if trace:
            print(f"call {number}: {name}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback_later(SLOWEST, exit=True)
        try:
            CALLS[name](r)
            counts[name][0] += 1
        except EXPECTED:
            counts[name][1] += 1
        except BaseException:
            print(f"broken: call {number} of seed {seed} ({name})", file=sys.stderr, flush=True)
            raise
    faulthandler.cancel_dump_traceback_later()
    return counts


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("calls", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trace", action="store_true")
    arguments = parser.parse_args()
    faulthandler.enable()
    # numpy's own, where an array of complex numbers is refused
    warnings.simplefilter("ignore")
    for name, (values, errors) in run(arguments.calls, arguments.seed, arguments.trace).items():
        print(f"{name}: {values} values, {errors} errors, nothing broken")


if __name__ == "__main__":
    main()
