"""Answers to causal queries: tables with errors, intervals and what they rest on, and how people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mdcm.errors import LowSupportError, QueryError
from mdcm.intervals import student_interval

if TYPE_CHECKING:
    from mdcm.identify import Identification

__all__ = ["Answer", "shown_date", "surrounded"]

# longer estimands are no help beside a number
_LONGEST_ESTIMAND = 160
# a share that is worth a word
_SHOWN_SHARE = 0.005
# standard errors between the model and the plug-in beyond which one of them must be wrong
_MOST_APART = 10.0


@dataclass(frozen=True)
class Answer:
    """Answer to a causal query, with its Monte-Carlo standard error, which is 0 where nothing was drawn.

    Attributes:
        query: The query as it was understood.
        table: For probabilities and tables of expectations: one row per combination of levels, with columns for the
            variables of do(), of the evidence and of the outcomes (with their worlds, ``Y[X=1]``), then "probability"
            (or "mean") and "stderr".
        value: The number, where the answer is one number; None for a table of several rows.
        stderr: Its standard error, or None.
        ess: Smallest effective sample size behind a row of the answer; infinite where nothing was drawn.
        identification: Whether and how the graph and the data determine the answer.
        rows: Effective number of training rows behind it: as many equal ones would tell as much about the least known
            conditional that it is made of (:mod:`mdcm.sampling.support`); the fewest over the rows of the answer.
            None where nothing is known of the data.
        unseen: Share of its weight where no training row is, the largest over the conditionals and the rows of the
            answer; None where nothing is known of the data.
        total: Number of training rows.
        plug_in: The estimand's own estimate from the frequencies in the training data, row by row beside ``table``:
            "estimate", "stderr" (from a bootstrap over the rows), "difference", that of the model's answer from it in
            standard errors, and "unseen", the share of its weight that no row shows; NaN in rows without an estimate.
            None where the estimand is not about discrete variables alone, the data are not at hand, or there is none.
        plug_in_note: What is to be said of it: the conditions that no row shows, or why it is left out.
        level: Probability with which the interval covers the answer; None where there is no ensemble, and where the
            answer is not determined.
        low: Lower end of the interval, where the answer is one number; ``table`` has columns "low" and "high". Where
            the graph and the data do not determine the answer, it is the lowest answer of the ensemble: what other
            models answer that fit as well spreads at least as widely.
        high: Upper end.
        origin: Date from which the expectation of a variable of dates counts its days, as ISO text; None for a
            difference, which is a number of days, and for variables of other kinds.
    """

    query: str
    table: pd.DataFrame
    value: float | None
    stderr: float | None
    ess: float
    identification: Identification
    rows: float | None = None
    unseen: float | None = None
    total: int | None = None
    plug_in: pd.DataFrame | None = None
    level: float | None = None
    low: float | None = None
    high: float | None = None
    plug_in_note: str | None = None
    origin: str | None = None

    @property
    def exact(self) -> bool:
        """Whether the answer was summed up in the model, so that it has no error of drawing."""
        return math.isinf(self.ess)

    @property
    def support(self) -> float | None:
        """Another name of :attr:`unseen`."""
        return self.unseen

    @property
    def note(self) -> str:
        """What is known of the answer's right to be believed, in one line."""
        found = self.identification
        if found.estimand is None:
            doubt = "not determined" if found.identifiable is False else "not shown to be determined"
            return (
                f"{doubt} by the graph and the data ({found.witness}): other models that fit as well answer otherwise"
            )
        try:
            text = str(found)
        except QueryError:
            return "identifiable"
        return f"identifiable: {text}" if len(text) <= _LONGEST_ESTIMAND else "identifiable"

    @property
    def doubt(self) -> str | None:
        """That the answer is not determined, in words; None where it is."""
        if self.identification.identifiable:
            return None
        return "not determined" if self.identification.identifiable is False else "not shown to be determined"

    @property
    def basis(self) -> str | None:
        """How many training rows are behind the answer, in words; None where nothing is known of them."""
        if self.rows is None or self.unseen is None or self.total is None:
            return None
        none = f", and {self.unseen:.0%} of its weight on none" if self.unseen >= _SHOWN_SHARE else ""
        return f"rests on about {self.rows:,.0f} of {self.total:,} rows{none}"

    def __str__(self) -> str:
        lead = "" if self.doubt is None else f"{self.doubt}; one fitted model answers"
        if self.value is not None:
            body = f"{lead} {self._number(self.value)}".lstrip()
            if self.low is not None and self.high is not None:
                body += f", {self._interval} [{self._number(self.low)}, {self._number(self.high)}]"
            days = "" if self.origin is None else " days"
            body += " (exact in the model)" if self.exact else f" (± {self.stderr:.4f}{days} from drawing)"
            if self.plug_in is not None:
                beside = self.plug_in.iloc[0]
                body += (
                    f"\nfrequencies in the data, by the estimand: {self._number(beside['estimate'])} ± "
                    f"{beside['stderr']:.4f}{days} "
                    f"({beside['difference']:+.1f} standard errors apart)"
                )
        else:
            body = self.shown().to_string(index=False, float_format=lambda number: f"{number:.4f}")
            if lead:
                body = f"{lead}:\n{body}"
            if self.exact:
                body += "\nexact in the model, so without an error of drawing"
            if "low" in self.table:
                body += f"\nlow and high: {self._interval}"
        if self.plug_in_note is not None:
            body += f"\nfrequencies in the data, by the estimand: {self.plug_in_note}"
        rests = "" if self.basis is None else f"\n({self.basis})"
        return f"{self.query}\n{body}\n({self.note}){rests}"

    def shown(self) -> pd.DataFrame:
        """The table for people: the interval before the error of drawing, which is called so, and then the plug-in."""
        ends = [name for name in ("low", "high") if name in self.table]
        table = self.table[[name for name in self.table if name not in ("stderr", *ends)] + ends].copy()
        if self.origin is not None:
            for name in {"mean", "value", *ends} & set(table):
                table[name] = table[name].map(self._number)
        if not self.exact:
            table["± drawing" if self.origin is None else "± drawing, days"] = self.table["stderr"]
        if self.plug_in is not None and len(self.plug_in) == len(table):
            columns = {"plug-in": "estimate", "± plug-in": "stderr", "standard errors apart": "difference"}
            table = table.assign(**{label: self.plug_in[name].to_numpy() for label, name in columns.items()})
        return table

    def _number(self, value: float) -> str:
        """A number, or the date that so many days are."""
        if self.origin is None or not math.isfinite(value):
            return f"{value:.4f}"
        return shown_date(value, self.origin)

    def disagreement(self) -> str | None:
        """That the model's answer and the frequencies' are too far apart for both to be right, or None."""
        if self.plug_in is None:
            return None
        apart = self.plug_in["difference"].abs()
        if not (apart > _MOST_APART).any():
            return None
        place = int(apart.fillna(0.0).to_numpy().argmax())
        beside, answered = self.plug_in.iloc[place], float(self.table.iloc[place][self._column])
        where = "" if len(self.table) == 1 else f" (row {place} of the table)"
        return (
            f"{self.query}: the model answers {answered:.4f}{where}, and the estimand's frequencies in the data "
            f"{beside['estimate']:.4f} ± {beside['stderr']:.4f}, {apart.iloc[place]:.0f} standard errors apart: one of "
            "them is wrong. Train longer or with more data, or see in a report what was fitted badly"
        )

    @property
    def _column(self) -> str:
        return next(name for name in ("probability", "mean", "value") if name in self.table)

    @property
    def _interval(self) -> str:
        return "at least this wide:" if self.level is None else f"{100 * self.level:g} % interval"


def shown_date(days: float, origin: str) -> str:
    """The date that is so many days after another, to the minute."""
    try:
        moment = (pd.Timestamp(origin) + pd.Timedelta(days=days)).round("min")
    except (OverflowError, ValueError):
        return f"{days:.4f} days since {origin}"
    return f"{moment:%Y-%m-%d}" if moment == moment.normalize() else f"{moment:%Y-%m-%d %H:%M}"


def surrounded(answer: Answer, others: Sequence[Answer], asked: int, level: float) -> Answer:
    """An answer with the interval that the answers of an ensemble give it.

    Args:
        answer: The model's.
        others: Those of the ensemble's members, as far as they have one.
        asked: How many were asked.
        level: Probability with which the interval covers the answer, where it is determined.

    Raises:
        LowSupportError: If fewer than half of the members, or fewer than two, have an answer.
    """
    if len(others) < max(2, asked / 2):
        raise LowSupportError(
            f"{answer.query}: only {len(others)} of {asked} models of the ensemble have enough draws for an answer; "
            "ask with more draws",
            ess=answer.ess,
        )
    column, error = answer.table.columns[-2], answer.table["stderr"].to_numpy(dtype=np.float64)
    centre = answer.table[column].to_numpy(dtype=np.float64)
    answers = np.stack([one.table[column].to_numpy(dtype=np.float64) for one in others])
    if answer.identification.identifiable:
        bounds = (0.0, 1.0) if column == "probability" else (-math.inf, math.inf)
        low, high = student_interval(centre, answers, error, level, bounds)
    else:
        everyone = np.vstack([centre, answers])
        low, high = everyone.min(axis=0), everyone.max(axis=0)
    single = answer.value is not None
    return replace(
        answer,
        table=answer.table.assign(low=low, high=high),
        level=level if answer.identification.identifiable else None,
        low=float(low[0]) if single else None,
        high=float(high[0]) if single else None,
    )
