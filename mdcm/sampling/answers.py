"""Answers to causal queries: tables with errors, intervals and effective numbers of rows, and their text form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mdcm.errors import LowSupportError, QueryError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from mdcm.identification import Identification

__all__ = ["Answer", "shown_date", "student_interval", "student_quantile", "with_interval"]

# longest estimand shown beside a number
_LONGEST_ESTIMAND = 160
# smallest share of unseen weight to mention
_SHOWN_SHARE = 0.005
# largest plausible difference between model and plug-in, in standard errors
_MOST_APART = 10.0
# Gauss-Legendre rule on [-1, 1]
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(200)


@dataclass(frozen=True)
class Answer:
    """Answer to a causal query, with its Monte-Carlo standard error, which is 0 if the answer is exact.

    Attributes:
        query: The query as parsed.
        table: For probabilities and tables of expectations: one row per combination of levels, with columns for the
            variables of do(), of the evidence and of the outcomes (with their worlds, ``Y[X=1]``), then "probability"
            (or "mean") and "stderr".
        value: The number, if the answer is a single number; None for a table of several rows.
        stderr: Its standard error, or None.
        ess: Smallest effective sample size behind a row of the answer; infinite if the answer is exact.
        identification: Whether and how the graph and the data determine the answer.
        rows: Effective number of training rows behind the least supported conditional of the answer
            (:mod:`mdcm.sampling.support`), the smallest over the rows of the answer; None if nothing is known of the
            data.
        unseen: Share of the weight without training rows, the largest over the conditionals and the rows of the
            answer; None if nothing is known of the data.
        total: Number of training rows.
        plug_in: Estimate of the estimand from the frequencies in the training data, with the rows of ``table``:
            "estimate", "stderr" (from a bootstrap over the rows), "difference" (model minus estimate, in standard
            errors) and "unseen" (share of the weight without training rows); NaN in rows without an estimate. None if
            there is no estimand, it has variables that are not discrete, or the data are not available.
        plug_in_note: Remarks on the plug-in estimate: conditions without training rows, or why it is missing.
        level: Probability with which the interval covers the answer; None without an ensemble, and if the answer is
            not identified.
        low: Lower end of the interval, if the answer is a single number; ``table`` has columns "low" and "high". If
            the answer is not identified, this is the lowest answer of the ensemble: the answers of all models that
            fit as well vary at least as much.
        high: Upper end of the interval.
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
        """Whether the answer was computed by exact summation, without sampling error."""
        return math.isinf(self.ess)

    @property
    def support(self) -> float | None:
        """Alias of :attr:`unseen`."""
        return self.unseen

    @property
    def note(self) -> str:
        """Whether the answer is identified, and by which estimand, in one line."""
        identification = self.identification
        if identification.estimand is None:
            doubt = "not determined" if identification.identifiable is False else "not shown to be determined"
            return (
                f"{doubt} by the graph and the data ({identification.witness}): other models that fit as well give "
                "other answers"
            )
        try:
            text = str(identification)
        except QueryError:
            return "identifiable"
        return f"identifiable: {text}" if len(text) <= _LONGEST_ESTIMAND else "identifiable"

    @property
    def doubt(self) -> str | None:
        """Text that the answer is not determined, or None if it is."""
        if self.identification.identifiable:
            return None
        return "not determined" if self.identification.identifiable is False else "not shown to be determined"

    @property
    def basis(self) -> str | None:
        """Text about the training rows behind the answer, or None if nothing is known of them."""
        if self.rows is None or self.unseen is None or self.total is None:
            return None
        without_rows = f", and {self.unseen:.0%} of its weight on none" if self.unseen >= _SHOWN_SHARE else ""
        return f"rests on about {self.rows:,.0f} of {self.total:,} rows{without_rows}"

    def __str__(self) -> str:
        prefix = "" if self.doubt is None else f"{self.doubt}; one fitted model answers"
        if self.value is not None:
            body = f"{prefix} {self._number(self.value)}".lstrip()
            if self.low is not None and self.high is not None:
                body += f", {self._interval} [{self._number(self.low)}, {self._number(self.high)}]"
            days = "" if self.origin is None else " days"
            body += " (exact in the model)" if self.exact else f" (± {self.stderr:.4f}{days} from drawing)"
            if self.plug_in is not None:
                plug_in = self.plug_in.iloc[0]
                body += (
                    f"\nfrequencies in the data, by the estimand: {self._number(plug_in['estimate'])} ± "
                    f"{plug_in['stderr']:.4f}{days} "
                    f"({plug_in['difference']:+.1f} standard errors apart)"
                )
        else:
            body = self.shown().to_string(index=False, float_format=lambda number: f"{number:.4f}")
            if prefix:
                body = f"{prefix}:\n{body}"
            if self.exact:
                body += "\nexact in the model, so without sampling error"
            if "low" in self.table:
                body += f"\nlow and high: {self._interval}"
        if self.plug_in_note is not None:
            body += f"\nfrequencies in the data, by the estimand: {self.plug_in_note}"
        basis = "" if self.basis is None else f"\n({self.basis})"
        return f"{self.query}\n{body}\n({self.note}){basis}"

    def shown(self) -> pd.DataFrame:
        """The table for display, with the interval before the sampling error and the plug-in estimate last."""
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
        """A number as text, or the date for a number of days."""
        if self.origin is None or not math.isfinite(value):
            return f"{value:.4f}"
        return shown_date(value, self.origin)

    def disagreement(self) -> str | None:
        """Text that model and plug-in estimate differ by too many standard errors, or None."""
        if self.plug_in is None:
            return None
        difference = self.plug_in["difference"].abs()
        if not (difference > _MOST_APART).any():
            return None
        row = int(difference.fillna(0.0).to_numpy().argmax())
        plug_in, answered = self.plug_in.iloc[row], float(self.table.iloc[row][self._column])
        where = "" if len(self.table) == 1 else f" (row {row} of the table)"
        return (
            f"{self.query}: the model answers {answered:.4f}{where}, and the estimand's frequencies in the data "
            f"{plug_in['estimate']:.4f} ± {plug_in['stderr']:.4f}, {difference.iloc[row]:.0f} standard errors apart: "
            "one of them is wrong. Train longer or with more data, or check the fit in a report"
        )

    @property
    def _column(self) -> str:
        return next(name for name in ("probability", "mean", "value") if name in self.table)

    @property
    def _interval(self) -> str:
        return "at least this wide:" if self.level is None else f"{100 * self.level:g} % interval"


def shown_date(days: float, origin: str) -> str:
    """Date a number of days after another, to the minute."""
    try:
        moment = (pd.Timestamp(origin) + pd.Timedelta(days=days)).round("min")
    except (OverflowError, ValueError):
        return f"{days:.4f} days since {origin}"
    return f"{moment:%Y-%m-%d}" if moment == moment.normalize() else f"{moment:%Y-%m-%d %H:%M}"


def with_interval(answer: Answer, others: Sequence[Answer], size: int, level: float) -> Answer:
    """Add an interval, from the answers of an ensemble, to an answer.

    Args:
        answer: Answer of the model.
        others: Answers of the ensemble's members, without those that have none.
        size: Number of members.
        level: Probability with which the interval covers the answer, if it is identified.

    Raises:
        LowSupportError: If fewer than half of the members, or fewer than two, have an answer.
    """
    if len(others) < max(2, size / 2):
        raise LowSupportError(
            f"{answer.query}: only {len(others)} of {size} models of the ensemble have enough draws for an answer; "
            "ask with more draws",
            ess=answer.ess,
        )
    column, error = answer.table.columns[-2], answer.table["stderr"].to_numpy(dtype=np.float64)
    centre = answer.table[column].to_numpy(dtype=np.float64)
    answers = np.stack([other.table[column].to_numpy(dtype=np.float64) for other in others])
    if answer.identification.identifiable:
        bounds = (0.0, 1.0) if column == "probability" else (-math.inf, math.inf)
        low, high = student_interval(centre, answers, error, level, bounds)
    else:
        combined = np.vstack([centre, answers])
        low, high = combined.min(axis=0), combined.max(axis=0)
    single = answer.value is not None
    return replace(
        answer,
        table=answer.table.assign(low=low, high=high),
        level=level if answer.identification.identifiable else None,
        low=float(low[0]) if single else None,
        high=float(high[0]) if single else None,
    )


def student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution, by bisection on its distribution function.

    With t = sqrt(degrees) tan(angle) the density is proportional to cos(angle)^(degrees - 1) on a bounded interval.

    Args:
        probability: Between 0 and 1.
        degrees: Degrees of freedom, at least 1.

    Example:
        >>> round(student_quantile(0.95, 19), 4)
        1.7291
    """

    def mass(angle: float) -> float:
        # of the angles from 0 to ``angle``, without normalisation
        return float(0.5 * angle * (_WEIGHTS @ np.cos(0.5 * angle * (_NODES + 1)) ** (degrees - 1)))

    target = (2 * abs(probability - 0.5)) * mass(math.pi / 2)
    low, high = 0.0, math.pi / 2
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if mass(middle) < target else (low, middle)
    return math.copysign(math.sqrt(degrees) * math.tan(0.5 * (low + high)), probability - 0.5)


def student_interval(
    estimate: ArrayLike,
    members: ArrayLike,
    error: ArrayLike,
    level: float,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intervals around estimates, from the spread of an ensemble's answers and Student's t distribution.

    An ensemble has too few members for quantiles of their answers to estimate the tails.

    Args:
        estimate: Estimates, ``[r]``.
        members: Answers of the members, ``[k, r]``, k at least 2.
        error: Further standard errors of the estimates, such as those of sampling, ``[r]``.
        level: Probability with which an interval covers the truth.
        bounds: Smallest and largest possible answer.

    Returns:
        Lower and upper ends, ``[r]``.

    References:
        Efron & Tibshirani (1993), An introduction to the bootstrap, chapter 12.

    Example:
        >>> low, high = student_interval([0.5], [[0.4], [0.6]], [0.0], 0.5)
        >>> round(float(low[0]), 4), round(float(high[0]), 4)
        (0.3586, 0.6414)
    """
    centre = np.asarray(estimate, dtype=np.float64)
    answers = np.asarray(members, dtype=np.float64)
    spread = np.hypot(answers.std(axis=0, ddof=1), np.asarray(error, dtype=np.float64))
    reach = student_quantile(0.5 + level / 2, len(answers) - 1) * spread
    return np.clip(centre - reach, *bounds), np.clip(centre + reach, *bounds)
