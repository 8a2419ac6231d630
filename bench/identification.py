"""Identification of P(y | do(x)) and P(y | do(x), z) against the other libraries that decide it.

Decisions come first: ours are checked against the textbook recursion written plainly below, theirs against ours. Every
disagreement is printed with a numeric argument: an estimand evaluated on exact distributions, or two explicit models
that agree on P(V) and differ in the answer. A peer that disagrees on a workload is not timed on it.

A call starts from the library's own graph, already built, and ends with the decision; on our side it takes the query
as text, so parsing is part of it. Our estimand may be put together on first use, so three things are timed: the
decision, the decision with the estimand's terms, and with its text. antecedent decides and shows no formula, so it has
the first only. A call can hang in compiled code, so each is first made in a process of its own, which is ended at 20 s;
a peer that takes longer is left out at that size and above, which is printed.

The peers are no requirements of mdcm:

    pip install --no-deps --target DIRECTORY antecedent pyagrum y0
    PYTHONPATH=DIRECTORY OMP_NUM_THREADS=1 python bench/run.py identification
"""

from __future__ import annotations

import gc
import os
import pickle
import random
import select
import signal
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from graphs import Adjacency, MissingPeerError, RandomGraph, _peer
from questions import (
    Problem,
    Question,
    chain,
    decide,
    factors,
    graph_of,
    nested,
    random_graph,
    random_problem,
    reach,
)
from workloads import Measured, NotEqualError

from mdcm import identify
from mdcm.errors import QueryError
from mdcm.scm import random_discrete

__all__ = ["IDENTIFICATION"]

LIMIT = 20.0
TURNS = 5
SECONDS_PER_TURN = 0.1
# a side whose pass takes longer is timed once, by the call that was made to see its decision
SLOW = 3.0
SIZES = (20, 100, 1_000, 10_000)
DENSITIES = ((1.5, "n/3"), (1.5, "0.8 n"), (3.0, "n/3"), (3.0, "0.8 n"))
BAR = 0.1


# ---- libraries, with one interface


@dataclass(frozen=True)
class Library:
    """How one library is asked: all graphs are built by ``build``, which is not timed.

    Attributes:
        name: Name and version.
        build: From a problem to a function that takes a prepared question and returns what the library answers.
        prepare: The question as the library takes it.
        decided: Whether an answer says "identifiable".
        text: An answer's formula; None where the library shows none.
        general: Whether it takes conditions.
    """

    name: str
    build: Callable[[Problem], Callable[[Any], Any]]
    prepare: Callable[[Question], Any]
    decided: Callable[[Any], bool]
    text: Callable[[Any], str] | None
    general: bool


def _ours() -> Library:
    return Library(
        "mdcm",
        lambda problem: partial(identify, problem.admg()),
        Question.text,
        lambda answer: answer.identifiable,
        lambda answer: str(answer.estimand),
        True,
    )


def _antecedent() -> Library:
    antecedent, version = _peer("antecedent")
    from antecedent.errors import EffectNotIdentified
    from antecedent.estimation import identify as narrow

    certain = {"NonparametricallyIdentified"}

    def build(problem: Problem) -> Callable[[Any], Any]:
        graph = problem.graph
        admg = antecedent.Admg.from_edges(graph.names, graph.named(graph.directed), graph.named(graph.bidirected))

        def ask(query: object) -> object:
            # a negative decision is an exception there
            try:
                return narrow(graph=admg, query=query)
            except EffectNotIdentified:
                return None

        return ask

    def prepare(question: Question) -> object:
        return antecedent.AverageEffect(f"v{question.x[0]}", f"v{question.y[0]}")

    return Library(version, build, prepare, lambda answer: answer is not None and answer.status in certain, None, False)


def _pyagrum() -> Library:
    gum, version = _peer("pyagrum")
    gum.setNumberOfThreads(1)

    def build(problem: Problem) -> Callable[[Any], Any]:
        graph = problem.graph
        # a model of a DAG, without tables, whose sizes are exponential in the number of parents
        dag = gum.DAG()
        dag.addNodes(graph.n)
        for v, name in enumerate(graph.names):
            dag.setName(v, name)
        for a, b in graph.directed:
            dag.addArc(a, b)
        latents = [(f"u{i}", list(pair)) for i, pair in enumerate(graph.named(graph.bidirected))]
        model = gum.CausalModel(dag, latents, True)
        return lambda query: gum.CausalImpact(model, **query)

    def prepare(question: Question) -> dict[str, set[str]]:
        parts = {"on": question.y, "doing": question.x, "knowing": question.z}
        return {key: {f"v{v}" for v in part} for key, part in parts.items()}

    def text(answer: Any) -> str:
        return answer.toLatex()

    return Library(version, build, prepare, lambda answer: answer.isIdentified(), text, True)


def _y0() -> Library:
    _, version = _peer("y0")
    from y0.algorithm.identify import identify_outcomes
    from y0.dsl import Variable
    from y0.graph import NxMixedGraph

    def build(problem: Problem) -> Callable[[Any], Any]:
        graph = problem.graph
        nodes = [Variable(name) for name in graph.names]
        directed, bidirected = (
            [(nodes[a], nodes[b]) for a, b in pairs] for pairs in (graph.directed, graph.bidirected)
        )
        mixed = NxMixedGraph.from_edges(nodes=nodes, directed=directed, undirected=bidirected)
        return lambda query: identify_outcomes(mixed, **query)

    def prepare(question: Question) -> dict[str, set[Variable]]:
        parts = {"outcomes": question.y, "treatments": question.x, "conditions": question.z}
        return {key: {Variable(f"v{v}") for v in part} for key, part in parts.items() if part}

    return Library(version, build, prepare, lambda answer: answer is not None, str, True)


def _libraries() -> list[Library]:
    found = []
    for make in (_antecedent, _pyagrum, _y0):
        try:
            found.append(make())
        except MissingPeerError as missing:
            print(missing, flush=True)
    return found


# ---- calls that may not come back


@dataclass(frozen=True)
class Call:
    """What came of a call: a result, or what went wrong, and CPU seconds."""

    result: Any
    error: str | None
    seconds: float


def _apart(calls: Sequence[Callable[[], Any]], limit: float = LIMIT) -> list[Call]:
    """Makes the calls one after the other in a child process, which is ended when one of them takes too long."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            for call in calls:
                began = time.process_time()
                result, error = None, None
                try:
                    result = call()
                except Exception as fault:
                    error = f"{type(fault).__name__}: {str(fault).splitlines()[0][:80] if str(fault) else ''}"
                sent = pickle.dumps(Call(result, error, time.process_time() - began))
                os.write(write, struct.pack("q", len(sent)))
                view = memoryview(sent)
                while view:
                    view = view[os.write(write, view) :]
        finally:
            os._exit(0)
    os.close(write)
    found: list[Call] = []
    with os.fdopen(read, "rb", buffering=0) as stream:
        for _ in calls:
            # the clock runs on while the other core is busy, and a child that waits for it is not slow
            ready, _, _ = select.select([stream], [], [], 1.5 * limit)
            head = _exactly(stream, 8) if ready else b""
            if len(head) < 8:
                found.append(Call(None, f"over {limit:g} s" if not ready else "died", limit))
                break
            call = pickle.loads(_exactly(stream, struct.unpack("q", head)[0]))
            found.append(call if call.seconds <= limit else Call(None, f"over {limit:g} s", call.seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return found


def _exactly(stream: Any, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count and (part := stream.read(count - len(parts))):
        parts += part
    return bytes(parts)


def _stopped(calls: Sequence[Call]) -> str | None:
    return next((call.error for call in calls if call.error is not None), None)


# ---- disagreements


def _argue(problem: Problem, question: Question) -> str:
    """Who is right about a small graph, in numbers that use no identification algorithm."""
    admg, text = problem.admg(), question.text()
    found = identify(admg, text)
    if found.estimand is None:
        from counterexamples import Available, two_models

        pair = two_models(admg, text, [Available()])
        if pair is None:
            return "UNDECIDED: no two models found"
        low, high = pair.values
        return f"not identifiable: two models whose P(V) differ by {pair.mismatch:.0e} answer {low:.4f} and {high:.4f}"
    gap = 0.0
    asked = [f"v{v}" for v in (*question.x, *question.z)]
    for seed in range(3):
        scm = random_discrete(admg, levels=2, seed=seed)
        answers = found.estimand.evaluate(scm.exact(list(admg.nodes)))
        for cell, value in answers.items():
            values = dict(zip(answers.index.names, cell, strict=True))
            do, given = ({f"v{v}": values[f"v{v}"] for v in part} for part in (question.x, question.z))
            exact = scm.exact([f"v{v}" for v in question.y], do=do, given=given)
            outcome = tuple(values[name] for name in answers.index.names if name not in asked)
            gap = max(gap, abs(float(value) - float(exact.loc[outcome if len(outcome) > 1 else outcome[0]])))
    verdict = "identifiable" if gap < 1e-9 else "WRONG ESTIMAND OF OURS"
    return f"{verdict}: {found.estimand} is off by {gap:.0e} at most in three random models"


def _shrunk(problem: Problem, question: Question, library: Library) -> Problem:
    """A smaller graph of the same disagreement, by leaving out edges and then nodes that nothing touches."""

    def differs(graph: RandomGraph) -> bool:
        small = Problem(problem.family, graph, [question])
        answer = _apart([lambda: library.decided(library.build(small)(library.prepare(question)))], 5.0)[0]
        return answer.error is None and answer.result != identify(small.admg(), question.text()).identifiable

    graph = problem.graph
    for kind in ("directed", "bidirected"):
        for edge in list(getattr(graph, kind)):
            kept = {
                name: [e for e in getattr(graph, name) if name != kind or e != edge]
                for name in ("directed", "bidirected")
            }
            smaller = RandomGraph(graph.n, graph.density, graph.seed, graph.names, **kept)
            graph = smaller if differs(smaller) else graph
    used = sorted(
        {v for pair in (*graph.directed, *graph.bidirected) for v in pair} | {*question.y, *question.x, *question.z}
    )
    number = {v: i for i, v in enumerate(used)}
    arcs, pairs = ([(number[a], number[b]) for a, b in part] for part in (graph.directed, graph.bidirected))
    renamed = Question(*(tuple(number[v] for v in part) for part in (question.y, question.x, question.z)))
    return Problem(problem.family, graph_of(len(used), arcs, pairs), [renamed])


def _show(problem: Problem, question: Question, library: Library, answer: bool) -> None:
    small = _shrunk(problem, question, library) if problem.graph.n <= 100 else problem
    print(
        f"    {library.name} says {'identifiable' if answer else 'not identifiable'} and mdcm the opposite of",
        flush=True,
    )
    if small.graph.n > 8:
        print(
            f"    {question.text()} in {problem.family}, {problem.graph.describe()}; the plain recursion says as mdcm"
        )
        return
    print(
        f"    {small.questions[0].text()} in {small.admg().to_string()}; {_argue(small, small.questions[0])}",
        flush=True,
    )


# ---- workloads


def _decisions() -> Iterator[Measured]:
    """Small random graphs: every decision of every library, and who is right where they differ."""
    rng = random.Random(0)
    problems: dict[str, list[Problem]] = {}
    for seed in range(400):
        n = rng.randint(4, 7)
        graph = random_graph(n, rng.choice((1.0, 1.5)), rng.choice(("n/3", "0.8 n", "arcs")), seed)
        roles = rng.sample(range(n), n)
        y, x = roles[0], roles[1]
        below = reach({x}, Adjacency(graph).children, set(range(n)))
        single = "P(y | do(x)), x an ancestor of y" if y in below else "P(y | do(x)), x no ancestor of y"
        for kind, question in (
            (single, Question((y,), (x,))),
            ("P(y1, y2 | do(x1, x2))", Question(tuple(roles[:2]), tuple(roles[2:4]))),
            ("P(y | do(x), z)", Question((y,), (x,), tuple(roles[2 : 3 + (n > 5)]))),
        ):
            problems.setdefault(kind, []).append(Problem("small", graph, [question]))
    ours = _ours()
    for kind, some in problems.items():
        mine = []
        for problem in some:
            (question,) = problem.questions
            mine.append(bool(ours.build(problem)(ours.prepare(question)).identifiable))
            if mine[-1] != decide(problem.graph, question):
                raise NotEqualError(f"{question.text()} in {problem.admg().to_string()}")
        for library in _libraries():
            if not library.general and not kind.startswith("P(y | do(x)),"):
                continue

            def ask(problem: Problem, library: Library = library) -> bool:
                return library.decided(library.build(problem)(library.prepare(problem.questions[0])))

            calls = _apart([partial(ask, problem) for problem in some])
            failed = [call.error for call in calls if call.error is not None]
            wrong = [k for k, call in enumerate(calls) if call.error is None and call.result != mine[k]]
            for k in wrong[:2]:
                _show(some[k], some[k].questions[0], library, calls[k].result)
            if failed:
                print(f"    {library.name} fails on {len(failed)} of {len(some)}: {failed[0]}", flush=True)
            # every disagreement is argued, though only two are shown
            undecided = sum(
                "UNDECIDED" in (said := _argue(some[k], some[k].questions[0])) or "WRONG" in said for k in wrong
            )
            size = (
                f"{kind}, {len(some)} random graphs of 4 to 7 nodes, {sum(mine)} identifiable, against {library.name}"
            )
            size += f": {len(wrong)} differ, {len(failed)} fail"
            if undecided:
                raise NotEqualError(f"{undecided} disagreements are not settled for us: {size}")
            right = len(calls) - len(failed) - len(wrong)
            yield Measured("identify-decisions", size, "0", "right decisions", [len(some)], [max(right, 1)], None)


class Comparison:
    """Problems of one family in growing sizes, with the peers that still take part."""

    def __init__(self) -> None:
        self.ours = _ours()
        self.peers = _libraries()
        self.gone: set[tuple[str, str]] = set()

    def rows(self, problem: Problem, *, text: bool = False) -> Iterator[Measured]:
        """Decisions compared, then times: of the decision, and with ``text`` of the estimand and of its text."""
        graph = problem.graph
        truths = problem.truths()
        asked = f"{problem.family}: {graph.n:,} nodes, {len(problem.questions)} queries"
        given = f" with {len(problem.questions[0].z)} conditions" if problem.questions[0].z else ""
        asked += f"{given}, {truths.count(False)} not identifiable"
        mine = self._runs(self.ours, problem, self.ours.decided)
        calls = _apart(mine)
        if (stop := _stopped(calls)) is not None:
            raise NotEqualError(f"{asked}: mdcm {stop}")
        if [call.result for call in calls] != truths:
            raise NotEqualError(f"{asked}: decisions {[call.result for call in calls]}, truth {truths}")
        sides: list[tuple[Library, list[Callable[[], Any]], float]] = []
        for library in self.peers:
            if (library.name, problem.family) in self.gone or (problem.questions[0].z and not library.general):
                continue
            runs = self._runs(library, problem, library.decided)
            calls = _apart(runs)
            if (stop := _stopped(calls)) is not None:
                print(f"{library.name} is left out from here on: {stop}; {asked}", flush=True)
                self.gone.add((library.name, problem.family))
                continue
            wrong = [k for k, call in enumerate(calls) if call.result != truths[k]]
            if wrong:
                print(f"{library.name} is WRONG in {len(wrong)} of {len(calls)} and not timed: {asked}", flush=True)
                _show(problem, problem.questions[wrong[0]], library, calls[wrong[0]].result)
                continue
            sides.append((library, runs, sum(call.seconds for call in calls)))
        yield from self._timed(f"{asked}, decision", "identify", graph, mine, sides, BAR if graph.n >= 1_000 else None)
        if not text:
            return
        chosen = [k for k, known in enumerate(truths) if known and self._short(problem, k)]
        if not chosen:
            print(f"no estimand is written: {asked}", flush=True)
            return
        kept = Problem(problem.family, graph, [problem.questions[k] for k in chosen], [True] * len(chosen))
        asked = f"{problem.family}: {graph.n:,} nodes, {len(chosen)} identifiable queries{given}"
        for what, name in (
            ("decision and terms of the estimand", "identify-estimand"),
            ("decision and text of the estimand", "identify-text"),
        ):
            write = name == "identify-text"
            force = self.ours.text if write else (lambda answer: bool(answer.estimand.to_json()))
            mine = self._runs(self.ours, kept, force)
            found = []
            for library, _, _ in sides:
                if library.text is None:
                    continue
                runs = self._runs(library, kept, library.text if write else library.decided)
                calls = _apart(runs)
                if (stop := _stopped(calls)) is None:
                    found.append((library, runs, sum(call.seconds for call in calls)))
                else:
                    print(f"{library.name} is left out: {stop}; {asked}, {what}", flush=True)
            yield from self._timed(f"{asked}, {what}", name, graph, mine, found, None)

    @staticmethod
    def _runs(library: Library, problem: Problem, read: Callable[[Any], Any]) -> list[Callable[[], Any]]:
        ask = library.build(problem)
        return [partial(lambda query: read(ask(query)), library.prepare(question)) for question in problem.questions]

    def _short(self, problem: Problem, k: int) -> bool:
        try:
            str(identify(problem.admg(), problem.questions[k].text()).estimand)
        except QueryError:
            return False
        return True

    @staticmethod
    def _timed(
        size: str,
        name: str,
        graph: RandomGraph,
        mine: list[Callable[[], Any]],
        sides: list[tuple[Library, list[Callable[[], Any]], float]],
        bar: float | None,
    ) -> Iterator[Measured]:
        """CPU milliseconds a query, in turns; the bar is for the fastest peer."""
        if not sides:
            return
        passes = [mine, *(runs for _, runs, _ in sides)]
        expected = [0.0, *(seconds for _, _, seconds in sides)]
        times: list[list[float]] = [[] for _ in passes]
        for _ in range(TURNS):
            for runs, seconds, found in zip(passes, expected, times, strict=True):
                if seconds <= SLOW:
                    # in a process of its own: what pyAgrum leaves on the heap would cost whoever comes next
                    (call,) = _apart([partial(_turn, runs)], 10 * SLOW)
                    if call.error is not None:
                        raise RuntimeError(f"{size}: {call.error}")
                    found.append(1000 * call.result / len(runs))
        for found, seconds in zip(times, expected, strict=True):
            if not found:
                found.append(1000 * seconds / len(mine))
        fastest = min(range(len(sides)), key=lambda i: float(np.median(times[1 + i])))
        for i, (library, _, seconds) in enumerate(sides):
            against = f"{size}, against {library.name}{' (timed once)' if seconds > SLOW else ''}"
            limit = bar if i == fastest else None
            yield Measured(name, against, str(graph.seed), "CPU ms", times[0], times[1 + i], limit)


def _turn(runs: list[Callable[[], Any]]) -> float:
    """CPU seconds of one pass, the mean of as many as fit into a turn, after one that warms up."""
    # a collection would touch, and so copy, every object that the process was started with
    gc.collect()
    gc.freeze()
    once = _pass(runs, 1)
    return _pass(runs, max(1, round(SECONDS_PER_TURN / max(once, 1e-6))))


def _pass(runs: list[Callable[[], Any]], repeats: int) -> float:
    began = time.process_time()
    for _ in range(repeats):
        for run in runs:
            run()
    return (time.process_time() - began) / repeats


def _random_graphs() -> Iterator[Measured]:
    compare = Comparison()
    for density, pairs in DENSITIES:
        for n in SIZES:
            yield from compare.rows(random_problem(n, density, pairs), text=n <= 1_000)


def _conditional() -> Iterator[Measured]:
    compare = Comparison()
    for n in SIZES[:3]:
        yield from compare.rows(random_problem(n, 1.5, "n/3", conditions=2), text=n <= 100)


def _chains() -> Iterator[Measured]:
    compare = Comparison()
    for step in (None, 2):
        for n in SIZES:
            yield from compare.rows(chain(n, step), text=n <= 100)


def _hedges() -> Iterator[Measured]:
    compare = Comparison()
    for n in SIZES:
        yield from compare.rows(random_problem(n, 1.5, "arcs"))
    for family in (nested, factors):
        for hedge in (True, False):
            # antecedent and pyAgrum double their time with every round: at 20 nodes they are out
            for n in (13, *SIZES) if family is nested else SIZES:
                yield from compare.rows(family(n, hedge=hedge))


def _large() -> Iterator[Measured]:
    """Ours alone, the first call on a graph: a bar at 10,000 nodes, and how time grows from there to 100,000."""
    makes: list[tuple[Callable[[int], Problem], bool]] = [
        (partial(chain, step=2), True),
        *((partial(random_problem, density=density, pairs=pairs), False) for density, pairs in DENSITIES),
        (partial(random_problem, density=1.5, pairs="arcs"), False),
        *((partial(family, hedge=hedge), False) for family in (nested, factors) for hedge in (True, False)),
    ]
    for make, bar in makes:
        seconds: dict[int, list[float]] = {}
        for n in (10_000, 100_000):
            problem = make(n)
            truths = problem.truths()
            for _ in range(3):
                # a process and so a state of its own for every measurement
                ours = _ours()
                ask = ours.build(problem)
                query = ours.prepare(problem.questions[0])
                (call,) = _apart([lambda ask=ask, query=query: ask(query).identifiable], 60.0)
                if call.error is not None:
                    print(f"{problem.family}: {n:,} nodes: mdcm {call.error}", flush=True)
                    break
                if call.result != truths[0]:
                    raise NotEqualError(f"{problem.family}: {n:,} nodes: {call.result}")
                seconds.setdefault(n, []).append(call.seconds)
                if call.seconds > SLOW:
                    break
            if n not in seconds:
                break
            size = f"{problem.family}: {n:,} nodes, first call, decision"
            if n == 10_000:
                yield Measured(
                    "identify-large", size, "0", "CPU s of one thread, 0.2 s", seconds[n], [0.2], 1.0 if bar else None
                )
            else:
                small = [10 * float(np.mean(seconds[10_000]))]
                yield Measured(
                    "identify-large", size, "0", "CPU s, 10 times as with 1/10 of the nodes", seconds[n], small, None
                )


def _length(library: Library, problem: Problem, question: Question) -> int:
    assert library.text is not None
    # pyAgrum's answer reads its model, which lives as long as this does
    ask = library.build(problem)
    return len(library.text(ask(library.prepare(question))))


def _sizes() -> Iterator[Measured]:
    """Characters of the estimand of a chain's end on its start."""
    for n in (50, 300):
        problem = chain(n, None)
        (question,) = problem.questions
        (call,) = _apart([partial(_length, _ours(), problem, question)])
        if call.error is not None:
            print(f"mdcm writes no estimand at {n} nodes: {call.error}", flush=True)
            continue
        length = call.result
        for library in _libraries():
            if library.text is None:
                print(f"{library.name} shows no estimand", flush=True)
                continue
            (call,) = _apart([partial(_length, library, problem, question)])
            if call.error is not None:
                print(f"{library.name} writes no estimand at {n} nodes: {call.error}", flush=True)
                continue
            size = f"chain: {n} nodes, {question.text()}, against {library.name}"
            yield Measured("identify-length", size, "0", "characters", [length], [call.result], None)


IDENTIFICATION: dict[str, Callable[[], Iterator[Measured]]] = {
    "identify-decisions": _decisions,
    "identify-random": _random_graphs,
    "identify-conditional": _conditional,
    "identify-chain": _chains,
    "identify-hedges": _hedges,
    "identify-large": _large,
    "identify-length": _sizes,
}
