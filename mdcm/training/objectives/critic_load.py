"""Which h-nodes can be stacked for training against critics, and the size of their training steps."""

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

# size of the largest array of a step up to which launching operations costs more than executing them
MOST_CRITIC_WORK = 1 << 19


@dataclass(frozen=True)
class CriticLoad:
    """Size of one training step of an h-node, or of several stacked ones.

    Attributes:
        shape: Hidden units and layers of all generating mechanisms, equal within a stack.
        width: Columns of the widest critic.
        fits: Number of fits.
        slots: Number of mechanism evaluations: each mechanism once per fit that it generates for.
        config: Settings.
    """

    shape: tuple[int, int]
    width: int
    fits: int
    slots: int
    config: AdversarialConfig

    @staticmethod
    def of(dcm: DCM, hnode: HNode, data: Mapping[str, Encoded], config: AdversarialConfig) -> CriticLoad | None:
        """Load of an h-node; None if it cannot be stacked.

        It can be stacked if all generating mechanisms are plain categorical ones with categorical parents, without
        tables of offsets, no critic reads images, and every member is generated for some fit.
        """
        shapes: set[tuple[int, int]] = set()
        idle = set(hnode.variables)
        width = slots = 0
        for fit in hnode.fits:
            generated, given = generated_and_given(dcm, fit, data)
            idle -= generated
            for name in generated:
                mechanism = dcm.mechanism(name)
                if type(mechanism) is not Categorical or not mechanism.tabular or len(mechanism.offsets):
                    return None
                shapes.add((mechanism.hidden, mechanism.layers))
            columns = [dcm.schema[name] for name in {*fit.variables, *fit.ancestors} | given]
            if any(variable.kind == "image" for variable in columns):
                return None
            width = max(width, sum(v.size or 1 if v.levels is None else v.num_levels for v in columns))
            slots += len(generated)
        return (
            CriticLoad(shapes.pop(), width, len(hnode.fits), slots, config) if len(shapes) == 1 and not idle else None
        )

    @property
    def order(self) -> tuple[object, ...]:
        """Sort key that puts h-nodes of similar sizes next to each other."""
        return (self.width, self.fits, self.slots)

    @property
    def work(self) -> int:
        """Size of the largest array of a step: a layer of the critics, or a layer of all mechanisms."""
        critics = 3 * self.fits * max(self.config.hidden, self.width)
        return self.config.batch_size * max(critics, self.config.critic_steps * self.shape[0] * self.slots)

    def stacked(self, other: CriticLoad) -> CriticLoad:
        """Load of both in a stack, with critics padded to the larger width."""
        width = max(self.width, other.width)
        return replace(self, width=width, fits=self.fits + other.fits, slots=self.slots + other.slots)
