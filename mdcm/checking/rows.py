"""Independence tests on encoded rows: contingency tables if all variables are categorical, else residuals."""

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
    from mdcm.data.variables import Variable

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

__all__ = ["EncodedRows"]

# largest number of levels with an indicator in a residual test, and fewest rows of such a level; others are pooled
_MOST_LEVELS = 6
_RARE_LEVEL = 20
# fewest units per stratum or coordinate of a regression, and per product of residuals
_ROWS_PER_FEATURE = 20
_ROWS_PER_PRODUCT = 10
# cache sizes: residuals of variables, and regressions
_MOST_KEPT, _MOST_LEARNERS = 256, 4
_MOST_MODERATORS = 3
# residual share of the variance below which a variable counts as determined by others
_DETERMINED = 1e-8


@dataclass(frozen=True)
class _Learner:
    """A regression on some variables (None if there are too few rows), leaves of the units, and moderators."""

    regression: StratumMeans | Regression | None
    near: Codes | None
    moderators: Floats


class EncodedRows:
    """Columns of a table, encoded, with the weights and groups of its rows.

    Args:
        values: Codes ``[n]`` of categorical variables, numbers ``[n]`` or ``[n, size]`` of others, by name.
        variables: The variables, by name.
        weights: Positive, ``[n]``; divided by their mean.
        groups: Group of each row, from 0, ``[n]``.
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
        self._num_rows = len(next(iter(values.values())))
        self._num_units = self._num_rows if groups is None else int(groups.max()) + 1
        self._scores: dict[str, Floats] = {}
        self._residuals_of: dict[tuple[str, tuple[str, ...]], Residuals | None] = {}
        self._learners: dict[tuple[str, ...], _Learner] = {}

    def test(self, independence: Independence) -> dict[str, Any] | None:
        """Statistic, degrees of freedom, log p and effect; None if the data are not sufficient."""
        x, y, given = independence.x, independence.y, independence.given
        categorical = all(self._variables[name].kind == "categorical" for name in (x, y, *given))
        if categorical and self._weights is None and self._groups is None:
            return table_test(self._values[x], self._values[y], self._strata(given))
        return self._residual_test(independence)

    def _strata(self, given: Sequence[str]) -> Codes:
        """Index of each row's combination of values."""
        strata = np.zeros(self._num_rows, dtype=np.int64)
        for name in given:
            strata = strata * self._variables[name].num_levels + self._values[name]
            # relabelling keeps the indices below rows · levels
            strata = np.unique(strata, return_inverse=True)[1]
        return strata

    def _residual_test(self, independence: Independence) -> dict[str, Any] | None:
        if self._num_units < FEWEST_UNITS:
            return None
        sides = [self._residuals(name, independence.given) for name in (independence.x, independence.y)]
        if sides[0] is None or sides[1] is None:
            return None
        learner = self._learner(independence.given)
        moderators = learner.moderators
        num_products = sides[0].values.shape[1] * sides[1].values.shape[1] + moderators.shape[1]
        if self._num_units < _ROWS_PER_PRODUCT * num_products:
            return None
        return covariance_test(sides[0], sides[1], learner.near, moderators, self._weights, self._groups)

    def _residuals(self, name: str, given: tuple[str, ...]) -> Residuals | None:
        """Residuals of a variable given others, and of a cosine of their ranks; None if they cannot be tested."""
        key = (name, given)
        if key not in self._residuals_of:
            while len(self._residuals_of) >= _MOST_KEPT:
                self._residuals_of.pop(next(iter(self._residuals_of)))
            self._residuals_of[key] = self._fresh_residuals(name, given)
        return self._residuals_of[key]

    def _fresh_residuals(self, name: str, given: tuple[str, ...]) -> Residuals | None:
        columns = self._contrasts(name)
        if not columns.size:
            # constant, apart from rare levels
            return None
        learner = self._learner(given).regression
        if learner is None:
            return None
        residuals = learner.residuals(columns)
        if residuals.values.var() < _DETERMINED:
            return None
        if self._variables[name].kind == "categorical":
            return residuals
        # a dependence of the spread has no covariance, but the cosine of the residual's ranks shows it; with additive
        # noise its mean is constant, however the variable depends on ``given``
        ranks = pd.DataFrame(residuals.values / np.sqrt(residuals.kept)).rank(pct=True).to_numpy()
        waves = learner.residuals(np.cos(2 * np.pi * ranks))
        return Residuals(np.hstack([residuals.values, waves.values]), np.hstack([residuals.kept, waves.kept]))

    def _learner(self, given: tuple[str, ...]) -> _Learner:
        """The regression on ``given``; the last few are cached."""
        if given not in self._learners:
            while len(self._learners) >= _MOST_LEARNERS:
                self._learners.pop(next(iter(self._learners)))
            self._learners[given] = self._fresh_learner(given)
        return self._learners[given]

    def _fresh_learner(self, given: tuple[str, ...]) -> _Learner:
        rows, most = self._num_rows, self._num_units // _ROWS_PER_FEATURE
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
        """Indicators of the frequent levels; the others are pooled, with the last frequent level if they are few."""
        codes = self._values[name]
        counts = np.bincount(codes, minlength=self._variables[name].num_levels)
        frequent = [int(level) for level in np.argsort(-counts, kind="stable") if counts[level] >= _RARE_LEVEL]
        frequent = frequent[:_MOST_LEVELS]
        if len(codes) - counts[frequent].sum() < _RARE_LEVEL:
            frequent = frequent[:-1]
        return np.asarray((codes[:, None] == np.array(frequent, dtype=np.int64)).astype(np.float64))

    def _contrasts(self, name: str) -> Floats:
        """Columns of a variable to regress on others: normal scores, or indicators of levels."""
        if self._variables[name].kind == "categorical":
            return self._indicators(name)
        return self._normal_scores(name)
