"""Grouping of h-nodes into stacks: equal shapes, similar sizes, and no more work per step than pays."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol, Self

__all__ = ["MOST_WORK", "Load", "group"]

# size of the largest array of a step up to which launching operations costs more than executing them
MOST_WORK = 1 << 18
# largest ratio of the padded arrays of a stack to those of its h-nodes by themselves
_MAX_PADDING = 1.5


class Load(Protocol):
    """Size of one training step of an h-node, or of several stacked ones."""

    @property
    def shape(self) -> Hashable:
        """Shape that all h-nodes of a stack must share."""

    @property
    def order(self) -> tuple[object, ...]:
        """Sort key that puts h-nodes of similar sizes next to each other."""

    @property
    def work(self) -> int:
        """Size of the largest array of a step."""

    def stacked(self, other: Self) -> Self:
        """Load of both in one stack, padded to the larger one."""


def group(loads: Sequence[Load | None], most_work: int = MOST_WORK) -> list[list[int]]:
    """Group h-nodes into stacks.

    Args:
        loads: Load of every h-node, None for one that is trained by itself.
        most_work: Largest size of the arrays of a stack.

    Returns:
        Stacks, as lists of indices in ``loads``.

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
        total: Load | None = None
        unpadded = 0
        for _, index, load in sorted(members, key=lambda member: member[:2]):
            wider = load if total is None else total.stacked(load)
            limit = max(_MAX_PADDING * (unpadded + load.work), most_work / 8)
            if stack and wider.work > min(most_work, limit):
                groups.append(stack)
                stack, wider, unpadded = [], load, 0
            stack.append(index)
            total, unpadded = wider, unpadded + load.work
        groups.append(stack)
    return groups
