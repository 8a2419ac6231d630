"""Which adversarial h-nodes of a level are stacked: those of one shape, of similar sizes, not too many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mdcm.mechanisms.categorical import Categorical
from mdcm.training.objectives.critic_problem import generated_and_given

if TYPE_CHECKING:
    from mdcm.data import Encoded
    from mdcm.dcm import DCM
    from mdcm.planning import HNode
    from mdcm.training.adversarial_config import AdversarialConfig

__all__ = ["Size", "tiles"]

# numbers in the largest array of a step up to which starting operations costs more than doing them
_TILE = 1 << 19
# padding may make the arrays of a stack so much larger than those of its h-nodes together
_MOST_PADDING = 1.5


class Size(NamedTuple):
    """What decides which h-nodes are stacked.

    Attributes:
        shape: Hidden units and layers of all mechanisms that generate, which those of a stack have in common.
        width: Columns of the widest critic.
        fits: Number of fits.
        slots: Mechanisms to evaluate, each once for every fit that it generates for.
    """

    shape: tuple[int, int]
    width: int
    fits: int
    slots: int

    @staticmethod
    def of(dcm: DCM, hnode: HNode, data: Mapping[str, Encoded]) -> Size | None:
        """Size of an h-node; None where it must be trained alone.

        It can be stacked if everything that generates is a plain categorical mechanism with categorical parents and no
        table of its own, no critic looks at an image, and every member is generated for some fit.
        """
        shapes: set[tuple[int, int]] = set()
        idle = set(hnode.variables)
        width = slots = 0
        for fit in hnode.fits:
            wanted, given = generated_and_given(dcm, fit, data)
            idle -= wanted
            for name in wanted:
                mechanism = dcm.mechanism(name)
                if type(mechanism) is not Categorical or not mechanism.tabular or len(mechanism.offsets):
                    return None
                shapes.add((mechanism.hidden, mechanism.layers))
            columns = [dcm.schema[name] for name in {*fit.variables, *fit.ancestors} | given]
            if any(variable.kind == "image" for variable in columns):
                return None
            width = max(width, sum(v.size or 1 if v.levels is None else v.num_levels for v in columns))
            slots += len(wanted)
        return Size(shapes.pop(), width, len(hnode.fits), slots) if len(shapes) == 1 and not idle else None


def tiles(sizes: Sequence[Size | None], config: AdversarialConfig) -> list[list[int]]:
    """Which h-nodes are stacked.

    Args:
        sizes: Sizes of all h-nodes, None for one that is trained alone.
        config: Settings.

    Returns:
        Places in ``sizes``; those of one tile are trained as one.
    """
    by_shape: dict[tuple[int, int], list[int]] = {}
    for place, size in enumerate(sizes):
        if size is not None:
            by_shape.setdefault(size.shape, []).append(place)
    found = [[place] for place, size in enumerate(sizes) if size is None]
    for places in by_shape.values():
        tile: list[int] = []
        # neighbours differ least in size
        for place in sorted(places, key=lambda place: (sizes[place], place)):
            wider = [size for one in [*tile, place] if (size := sizes[one]) is not None]
            padded = _cost(wider, config)
            own = sum(_cost([size], config) for size in wider)
            if tile and (padded > _TILE or padded > _MOST_PADDING * own):
                found.append(tile)
                tile = []
            tile.append(place)
        found.append(tile)
    return found


def _cost(stacked: Sequence[Size], config: AdversarialConfig) -> int:
    """Numbers in the largest array of a step, of a critic's layer or of the layer of all mechanisms."""
    critics = 3 * sum(size.fits for size in stacked) * max(config.hidden, *(size.width for size in stacked))
    hidden, _ = stacked[0].shape
    return config.batch_size * max(critics, config.critic_steps * hidden * sum(size.slots for size in stacked))
