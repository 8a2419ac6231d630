"""Rows of a table as tests of independence take them: tables where everything is categorical, residuals elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mdcm.checking.regressions import Regression, Residuals, StratumMeans, leaves, unit_points
from mdcm.checking.statistics import FEWEST_UNITS, covariance_test, table_test

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.checking.independences import Independence
    from mdcm.variables import Variable

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

__all__ = ["Rows"]

# a residual test keeps this many levels apart, and those this frequent; others are pooled
_MOST_LEVELS = 6
_RARE_LEVEL = 20
# units per stratum or coordinate of a regression, and per product of residuals
_ROWS_PER_FEATURE = 20
_ROWS_PER_PRODUCT = 10
# residuals of so many variables, and regressions on so many sets of them, are kept for later tests
_MOST_KEPT, _MOST_LEARNERS = 256, 4
_MOST_MODERATORS = 3
# what is left of a variable that others determine, of variance 1 before
_DETERMINED = 1e-8


@dataclass(frozen=True)
class _Learner:
    """What regresses on some variables: None where rows are too few; leaves of units there; and moderators."""

    regression: StratumMeans | Regression | None
    near: Codes | None
    moderators: Floats


class Rows:
    """Columns of a table, encoded, with the weights and groups of its rows.

    Args:
        values: Codes ``[n]`` of categorical variables, numbers ``[n]`` or ``[n, size]`` of others, by name.
        variables: What they are.
        weights: Positive, ``[n]``; the mean is taken out.
        groups: Numbers of groups from 0, ``[n]``.
    """

    def __init__(
        self,
        values: Mapping[str, NDArray[Any]],
        variables: Mapping[str, Variable],
        weights: Floats | None = None,
        groups: Codes | None = None,
    ) -> None:
        self._values, self._variables = values, variables
        self._weights = None if weights is None else weights / weights.mean()
        self._groups = groups
        self._any = next(iter(values.values()))
        self._units = len(self._any) if groups is None else int(groups.max()) + 1
        self._scores: dict[str, Floats] = {}
        self._left: dict[tuple[str, tuple[str, ...]], Residuals | None] = {}
        self._learners: dict[tuple[str, ...], _Learner] = {}

    def test(self, one: Independence) -> dict[str, Any] | None:
        """Statistic, degrees of freedom, log p and effect; None if the data cannot tell."""
        categorical = all(self._variables[name].kind == "categorical" for name in (one.x, one.y, *one.given))
        if categorical and self._weights is None and self._groups is None:
            return table_test(self._values[one.x], self._values[one.y], self._strata(one.given))
        return self._residual_test(one)

    def _strata(self, given: Sequence[str]) -> Codes:
        """One number per combination of values."""
        strata = np.zeros(len(self._any), dtype=np.int64)
        for name in given:
            strata = strata * self._variables[name].num_levels + self._values[name]
            # numbers stay below rows · levels
            strata = np.unique(strata, return_inverse=True)[1]
        return strata

    def _residual_test(self, one: Independence) -> dict[str, Any] | None:
        if self._units < FEWEST_UNITS:
            return None
        sides = [self._residuals(name, one.given) for name in (one.x, one.y)]
        if sides[0] is None or sides[1] is None:
            return None
        learner = self._learner(one.given)
        moderators = learner.moderators
        num_products = sides[0].values.shape[1] * sides[1].values.shape[1] + moderators.shape[1]
        if self._units < _ROWS_PER_PRODUCT * num_products:
            return None
        return covariance_test(sides[0], sides[1], learner.near, moderators, self._weights, self._groups)

    def _residuals(self, name: str, given: tuple[str, ...]) -> Residuals | None:
        """What a regression on ``given`` leaves of a variable, and of a wave of that; None if it leaves nothing."""
        key = (name, given)
        if key not in self._left:
            while len(self._left) >= _MOST_KEPT:
                self._left.pop(next(iter(self._left)))
            self._left[key] = self._fresh_residuals(name, given)
        return self._left[key]

    def _fresh_residuals(self, name: str, given: tuple[str, ...]) -> Residuals | None:
        columns = self._contrasts(name)
        if not columns.size:
            # one level, but for too few rows
            return None
        learner = self._learner(given).regression
        if learner is None:
            return None
        left = learner.residuals(columns)
        if left.values.var() < _DETERMINED:
            return None
        if self._variables[name].kind == "categorical":
            return left
        # a dependence of spread has no covariance; the wave of the residual's ranks shows it, and its mean is a
        # constant where noise is added, however the variable itself depends on what is given
        ranks = pd.DataFrame(left.values / np.sqrt(left.kept)).rank(pct=True).to_numpy()
        waves = learner.residuals(np.cos(2 * np.pi * ranks))
        return Residuals(np.hstack([left.values, waves.values]), np.hstack([left.kept, waves.kept]))

    def _learner(self, given: tuple[str, ...]) -> _Learner:
        """What regresses on ``given``; the last few are kept."""
        if given not in self._learners:
            while len(self._learners) >= _MOST_LEARNERS:
                self._learners.pop(next(iter(self._learners)))
            self._learners[given] = self._fresh_learner(given)
        return self._learners[given]

    def _fresh_learner(self, given: tuple[str, ...]) -> _Learner:
        rows, most = len(self._any), self._units // _ROWS_PER_FEATURE
        codes = [self._values[name] for name in given if self._variables[name].kind == "categorical"]
        if len(codes) == len(given):
            strata = self._strata(given)
            if int(strata.max()) < most:
                return _Learner(StratumMeans(strata, self._weights), None, np.empty((rows, 0)))
        scores = [self._normal_scores(name) for name in given if self._variables[name].kind != "categorical"]
        numbers = np.hstack([np.empty((rows, 0)), *scores])
        levels = np.stack(codes, axis=1) if codes else np.empty((rows, 0), dtype=np.int64)
        if numbers.shape[1] + levels.shape[1] > most:
            return _Learner(None, None, numbers)
        near = leaves(unit_points(numbers, levels, self._groups))
        regression = Regression(numbers, levels, self._weights, self._groups)
        return _Learner(regression, near, numbers[:, :_MOST_MODERATORS])

    def _normal_scores(self, name: str) -> Floats:
        """Normal scores of a variable's ranks, ``[n, 1]``, or ``[n, size]`` of a vector's entries."""
        if name not in self._scores:
            values = self._values[name]
            ranks = pd.DataFrame(values.reshape(len(values), -1)).rank().to_numpy(dtype=np.float64)
            inverse = NormalDist().inv_cdf
            uniform = (ranks - 0.5) / len(ranks)
            self._scores[name] = np.array([inverse(u) for u in uniform.ravel().tolist()]).reshape(uniform.shape)
        return self._scores[name]

    def _indicators(self, name: str) -> Floats:
        """One column per frequent level but one; the others are pooled."""
        codes = self._values[name]
        counts = np.bincount(codes, minlength=self._variables[name].num_levels)
        kept = [int(level) for level in np.argsort(-counts, kind="stable") if counts[level] >= _RARE_LEVEL]
        kept = kept[:_MOST_LEVELS]
        if len(codes) - counts[kept].sum() < _RARE_LEVEL:
            kept = kept[:-1]
        return np.asarray((codes[:, None] == np.array(kept, dtype=np.int64)).astype(np.float64))

    def _contrasts(self, name: str) -> Floats:
        """What of a variable is regressed on others: normal scores, or indicators of levels."""
        if self._variables[name].kind == "categorical":
            return self._indicators(name)
        return self._normal_scores(name)
