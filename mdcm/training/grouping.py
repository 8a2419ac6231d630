"""Which h-nodes are trained as one stack: those of one shape and of similar sizes, as many as pay."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol, Self

__all__ = ["MOST_WORK", "Load", "group"]

# numbers in the largest array of a step up to which starting operations costs more than doing them
MOST_WORK = 1 << 18
# padding may make the arrays of a stack so much larger than those of its h-nodes together
_MOST_PADDING = 1.5


class Load(Protocol):
    """What a step of one h-node, or of several stacked, has to do."""

    @property
    def shape(self) -> Hashable:
        """What h-nodes of one stack have in common."""

    @property
    def order(self) -> tuple[object, ...]:
        """Key by which neighbours differ least in size."""

    @property
    def work(self) -> int:
        """Numbers in the largest array of a step."""

    def stacked(self, other: Self) -> Self:
        """The load of both in one stack, padded to the larger one."""


def group(loads: Sequence[Load | None], most_work: int = MOST_WORK) -> list[list[int]]:
    """Group h-nodes into stacks.

    Args:
        loads: Load of every h-node, None for one that is trained alone.
        most_work: Numbers in the largest array of a step up to which more h-nodes are added to a stack.

    Returns:
        Indices in ``loads``; those of one list are trained as one.

    Complexity:
        O(n log n) in the number of h-nodes.
    """
    by_shape: dict[Hashable, list[tuple[tuple[object, ...], int, Load]]] = {}
    groups: list[list[int]] = []
    for index, load in enumerate(loads):
        if load is None:
            groups.append([index])
        else:
            by_shape.setdefault(load.shape, []).append((load.order, index, load))
    for members in by_shape.values():
        stack: list[int] = []
        together: Load | None = None
        own = 0
        for _, index, load in sorted(members, key=lambda member: member[:2]):
            wider = load if together is None else together.stacked(load)
            most = max(_MOST_PADDING * (own + load.work), most_work / 8)
            if stack and wider.work > min(most_work, most):
                groups.append(stack)
                stack, wider, own = [], load, 0
            stack.append(index)
            together, own = wider, own + load.work
        groups.append(stack)
    return groups
