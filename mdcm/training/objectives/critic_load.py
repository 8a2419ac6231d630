"""Which h-nodes can be stepped as one against critics, and what a step of them has to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mdcm.mechanisms.categorical import Categorical
from mdcm.training.adversarial_config import AdversarialConfig
from mdcm.training.objectives.critic_problem import generated_and_given

if TYPE_CHECKING:
    from mdcm.data import Encoded
    from mdcm.dcm import DCM
    from mdcm.planning import HNode

__all__ = ["MOST_CRITIC_WORK", "CriticLoad"]

# numbers in the largest array of a step up to which starting operations costs more than doing them
MOST_CRITIC_WORK = 1 << 19


@dataclass(frozen=True)
class CriticLoad:
    """What a step of one h-node, or of several stacked, has to do.

    Attributes:
        shape: Hidden units and layers of all mechanisms that generate, which those of a stack have in common.
        width: Columns of the widest critic.
        fits: Number of fits.
        slots: Mechanisms to evaluate, each once for every fit that it generates for.
        config: Settings.
    """

    shape: tuple[int, int]
    width: int
    fits: int
    slots: int
    config: AdversarialConfig

    @staticmethod
    def of(dcm: DCM, hnode: HNode, data: Mapping[str, Encoded], config: AdversarialConfig) -> CriticLoad | None:
        """Load of an h-node; None where it must be trained alone.

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
        return (
            CriticLoad(shapes.pop(), width, len(hnode.fits), slots, config) if len(shapes) == 1 and not idle else None
        )

    @property
    def order(self) -> tuple[object, ...]:
        """Key by which neighbours differ least in size."""
        return (self.width, self.fits, self.slots)

    @property
    def work(self) -> int:
        """Numbers in the largest array of a step, of a critic's layer or of the layer of all mechanisms."""
        critics = 3 * self.fits * max(self.config.hidden, self.width)
        return self.config.batch_size * max(critics, self.config.critic_steps * self.shape[0] * self.slots)

    def stacked(self, other: CriticLoad) -> CriticLoad:
        """The load of both in one stack, critics padded to the wider one."""
        width = max(self.width, other.width)
        return replace(self, width=width, fits=self.fits + other.fits, slots=self.slots + other.slots)
