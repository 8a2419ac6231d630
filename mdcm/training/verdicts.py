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
    """What is to be said of h-nodes that something simpler describes better than the fit does.

    Tables are compared with the frequencies of the training rows on held-out rows, numbers whose confounders are hidden
    with regressions of each on what comes before it. Better by more than two standard errors of the difference where
    one h-node is tested; of several the bound is that at which all of them together raise no more false alarms.

    Args:
        history: Records of a training.

    Returns:
        One sentence with its advice for each of the two, or none.
    """
    found = []
    lacking = _behind(history, "behind_frequencies")
    if lacking:
        found.append(
            f"the frequencies of the training rows explain held-out rows better than the fit does, {lacking}. Answers "
            "that rest on it may be off by more than their intervals say. Give the confounders more states "
            "(confounder_states), or see whether the graph holds on these data (mdcm check)"
        )
    lacking = _behind(history, "behind_regressions")
    if lacking:
        found.append(
            f"plain regressions describe the training rows better than the fit does, {lacking}. Answers that rest on "
            "it may be off by more than their intervals say. Give the confounders more states (confounder_states), let "
            "them be normal numbers (confounder='gaussian'), or see whether the graph holds on these data (mdcm check)"
        )
    return found


def _behind(history: Sequence[Mapping[str, Any]], kind: str) -> str:
    """The h-nodes that are behind by more than chance explains, in words."""
    tested = []
    for record in history:
        if record["event"] == "trained" and record.get(kind):
            mean, error, *rows = record[kind]
            tested.append((mean, error, rows[0] if rows else record["heldout_rows"], record["hnode"]))
    if not tested:
        return ""
    bound = NormalDist().inv_cdf(1 - _FALSE_ALARMS / len(tested))
    lacking = [
        (mean, f"{{{', '.join(hnode)}}} by {mean:.2g} ± {error:.1g}")
        for mean, error, rows, hnode in tested
        if mean > bound * error and mean * rows > _LEAST_NATS
    ]
    named = [text for _, text in sorted(lacking, reverse=True)]
    more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    return f"in nats per row: {', '.join(named[:_MOST_NAMED])}{more}" if named else ""


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
