"""Errors that say what is wrong, where, and what to do.

Attributes carry the evidence, so that programs can act on it. Errors about input are also ``ValueError``, so that code
which does not know mdcm can catch them.
"""

from __future__ import annotations

from mdcm.text.printable import printable, shortened

__all__ = [
    "CheckpointError",
    "DataError",
    "GraphError",
    "LowSupportError",
    "MdcmError",
    "NotIdentifiableError",
    "PlanError",
    "QueryError",
    "UntrainableError",
]


# characters of a query that are shown before and after an error
_AROUND = 200


class MdcmError(Exception):
    """Base class of the errors of mdcm.

    Messages are safe to print and at most a few thousand characters long, whatever names and values they contain.
    """

    def __init__(self, *message: object) -> None:
        super().__init__(*(shortened(printable(part)) if isinstance(part, str) else part for part in message))


class GraphError(MdcmError, ValueError):
    """The graph is not an ADMG, or its text cannot be read.

    Attributes:
        cycle: Names along a directed cycle, the first repeated at the end, or None.
        edge: The invalid edge as a pair of names, or None.
        line: Line of the text, from 1, or None.
        column: Column in that line, from 1, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        cycle: tuple[str, ...] | None = None,
        edge: tuple[str, str] | None = None,
        line: int | None = None,
        column: int | None = None,
    ) -> None:
        super().__init__(message)
        self.cycle = cycle
        self.edge = edge
        self.line = line
        self.column = column


class DataError(MdcmError, ValueError):
    """A table, an image array or a schema is invalid.

    Attributes:
        dataset: Name of the dataset.
        column: Name of the column.
        row: First invalid row, from 0.
        count: Number of invalid rows.
    """

    def __init__(
        self,
        message: str,
        *,
        dataset: str | None = None,
        column: str | None = None,
        row: int | None = None,
        count: int | None = None,
    ) -> None:
        super().__init__(message)
        self.dataset = dataset
        self.column = column
        self.row = row
        self.count = count


class PlanError(MdcmError, ValueError):
    """The request cannot be planned: its options contradict each other or the graph."""


class UntrainableError(PlanError):
    """No dataset can train an h-node.

    Attributes:
        hnode: Names of the h-node's variables.
        missing: What each dataset lacks, by its name.
    """

    def __init__(self, message: str, *, hnode: tuple[str, ...] = (), missing: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.hnode = hnode
        self.missing = dict(missing or {})


class QueryError(MdcmError, ValueError):
    """A causal query cannot be read, or does not fit the model.

    Attributes:
        text: Text of the query, or None.
        position: Offset of the error in the text, from 0, or None.
        length: Length of the error in characters, at least 1.
    """

    def __init__(self, message: str, *, text: str | None = None, position: int | None = None, length: int = 1) -> None:
        if text is not None and position is not None:
            message = f"{message}\n{_excerpt(text, position, max(length, 1))}"
        super().__init__(message)
        self.text = text
        self.position = position
        self.length = length


def _excerpt(text: str, position: int, length: int) -> str:
    """The text around an error, with carets below it."""
    first, last = max(position - _AROUND, 0), position + min(length, _AROUND) + _AROUND
    before = ("..." if first else "") + printable(text[first:position], lines=False)
    inside = printable(text[position : position + min(length, _AROUND)], lines=False)
    after = printable(text[position + min(length, _AROUND) : last], lines=False) + ("..." if last < len(text) else "")
    return f"  {before}{inside}{after}\n  {' ' * len(before)}{'^' * max(len(inside), min(length, _AROUND))}"


class NotIdentifiableError(MdcmError):
    """The graph and the data do not determine the answer.

    Attributes:
        witness: The hedge, the c-factor that no data show, or the inconsistent counterfactual factor.
        experiments: Experiments that would make the answer identifiable, each a tuple of the variables to set.
    """

    def __init__(self, message: str, *, witness: object = None, experiments: tuple[tuple[str, ...], ...] = ()) -> None:
        super().__init__(message)
        self.witness = witness
        self.experiments = experiments


class LowSupportError(MdcmError):
    """Too few draws or too few training rows support an answer.

    Attributes:
        ess: Effective sample size of the draws.
        probability: Estimated probability of the evidence.
        rows: Effective number of training rows.
        unseen: Share of the answer's weight without training rows.
        remedy: How to get an answer nevertheless, as text, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        ess: float | None = None,
        probability: float | None = None,
        rows: float | None = None,
        unseen: float | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message if remedy is None else f"{message}; {remedy}")
        self.ess = ess
        self.probability = probability
        self.rows = rows
        self.unseen = unseen
        self.remedy = remedy


class CheckpointError(MdcmError, ValueError):
    """A run directory cannot be read: a file is missing, damaged or from another format version.

    Attributes:
        path: The file.
    """

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path
