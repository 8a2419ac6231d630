"""What a user is told of a training: fits that leave something unexplained, and weights that were not trained anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

__all__ = ["kept_with_another_seed", "lacking_fits"]

# share of good fits of which one would be told by chance: that of two standard errors on one side
_FALSE_ALARMS = 0.0228
# nats over all held-out rows: a likelihood ratio below this says nothing, however sharply it is measured
_LEAST_NATS = 2.0
_MOST_NAMED = 5


def lacking_fits(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is to be said of h-nodes whose held-out rows the frequencies of the other rows explain better than the fit.

    Better by more than two standard errors of the difference where one h-node is tested; of several the bound is that
    at which all of them together raise no more false alarms.

    Args:
        history: Records of a training.

    Returns:
        One sentence with its advice, or none.
    """
    tested = [record for record in history if record["event"] == "trained" and record.get("behind_frequencies")]
    if not tested:
        return []
    bound = NormalDist().inv_cdf(1 - _FALSE_ALARMS / len(tested))
    lacking = []
    for record in tested:
        mean, error = record["behind_frequencies"]
        if mean > bound * error and mean * record["heldout_rows"] > _LEAST_NATS:
            lacking.append((mean, f"{{{', '.join(record['hnode'])}}} by {mean:.2g} ± {error:.1g}"))
    if not lacking:
        return []
    named = [text for _, text in sorted(lacking, reverse=True)]
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    return [
        "the frequencies of the training rows explain held-out rows better than the fit does, in nats per row: "
        f"{', '.join(named[:_MOST_NAMED])}{more}. Answers that rest on it may be off by more than their intervals say. "
        "Give the confounders more states (confounder_states), or see whether the graph holds on these data "
        "(mdcm check)"
    ]


def kept_with_another_seed(history: Sequence[Mapping[str, Any]], before: int, seed: int) -> str | None:
    """What is to be said where weights of an earlier training were kept although another seed was asked for.

    Args:
        history: Records of the training.
        before: Seed of the earlier one.
        seed: Seed of this one.
    """
    kept = [record["hnode"] for record in history if record["event"] == "trained" and record.get("kept")]
    if not kept or before == seed:
        return None
    named = ", ".join(f"{{{', '.join(hnode)}}}" for hnode in kept[:_MOST_NAMED])
    more = f" and {len(kept) - _MOST_NAMED} more" if len(kept) > _MOST_NAMED else ""
    return (
        f"init: {named}{more} keep the weights that seed {before} gave them, because their data and settings are as "
        f"they were; seed={seed} changes nothing about them. Leave init out to train them with the new seed"
    )
