"""Warnings about a finished training: poor fits, draws that differ from the data, weights that were not retrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdcm.training.fidelity import Misfit

__all__ = ["kept_weights_warning", "misfit_warnings", "poor_fit_warnings"]

# false-alarm rate over all good fits: that of two standard errors on one side
_FALSE_ALARMS = 0.0228
# nats over all held-out rows: a smaller likelihood ratio is not evidence, however small its standard error
_MIN_NATS = 2.0
_MAX_NAMED = 5


def poor_fit_warnings(history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Warnings about h-nodes that a simpler model describes better than the fit.

    Tables are compared with the frequencies of the training rows, on held-out rows; numbers with hidden confounders
    with regressions of each on what comes before it. An h-node is reported if the difference exceeds two standard
    errors; of several, if it exceeds the bound that keeps the rate of false alarms over all of them the same.

    Args:
        history: Records of a training.

    Returns:
        At most one warning per comparison, with advice.
    """
    warnings = []
    behind = _behind(history, "behind_frequencies")
    if behind:
        warnings.append(
            f"the frequencies of the training rows explain held-out rows better than the fit does, {behind}. Answers "
            "that rest on it may be off by more than their intervals say. Give the confounders more states "
            "(confounder_states), or see whether the graph holds on these data (mdcm check)"
        )
    behind = _behind(history, "behind_regressions")
    if behind:
        warnings.append(
            f"plain regressions describe the training rows better than the fit does, {behind}. Answers that rest on "
            "it may be off by more than their intervals say. Give the confounders more states (confounder_states), let "
            "them be normal numbers (confounder='gaussian'), or see whether the graph holds on these data (mdcm check)"
        )
    return warnings


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
    behind = [
        (mean, f"{{{', '.join(hnode)}}} by {mean:.2g} ± {error:.1g}")
        for mean, error, rows, hnode in tested
        if mean > bound * error and mean * rows > _MIN_NATS
    ]
    names = [text for _, text in sorted(behind, reverse=True)]
    return f"in nats per row: {', '.join(names[:_MAX_NAMED])}{_rest(names)}" if names else ""


def _rest(names: Sequence[object]) -> str:
    return f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""


def misfit_warnings(misfits: Sequence[Misfit]) -> list[str]:
    """Warnings about draws that differ from the data: one about trained mechanisms, one about pretrained ones."""
    warnings = []
    for pretrained in (False, True):
        chosen = [misfit for misfit in misfits if misfit.pretrained == pretrained]
        if not chosen:
            continue
        differences = "; ".join(map(str, chosen))
        warnings.append(
            f"a pretrained mechanism does not draw what the data hold: {differences}. It is used as it is, and answers "
            "that rest on it are as wrong; look at its adapter, its units and the order of its levels"
            if pretrained
            else f"the model does not draw what the data hold: {differences}. Answers that rest on it are off by as "
            "much. Where a number recurs in many rows, make the variable categorical or leave those rows out; where a "
            "dependence is too weak, raise confounder_states or max_steps; else compare graph and data with mdcm check"
        )
    return warnings


def kept_weights_warning(history: Sequence[Mapping[str, Any]], before: int, seed: int) -> str | None:
    """Warning about weights that were kept from an earlier training although the seed is another; None without any.

    Args:
        history: Records of the training.
        before: Seed of the earlier training.
        seed: Seed of this training.
    """
    kept = [record["hnode"] for record in history if record["event"] == "trained" and record.get("kept")]
    if not kept or before == seed:
        return None
    names = ", ".join(f"{{{', '.join(hnode)}}}" for hnode in kept[:_MAX_NAMED])
    return (
        f"init: {names}{_rest(kept)} keep the weights that seed {before} gave them, because their data and settings "
        f"are as they were; seed={seed} changes nothing about them. Leave init out to train them with the new seed"
    )
