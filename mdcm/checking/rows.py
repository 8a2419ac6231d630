"""Rows of a table as tests of independence take them: tables where everything is categorical, residuals elsewhere."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mdcm.checking.statistics import centred, covariance_test, products, regressed, table_test

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mdcm.checking.independences import Independence
    from mdcm.variables import Variable

    Floats = NDArray[np.float64]
    Codes = NDArray[np.int64]

__all__ = ["FEWEST_UNITS", "Rows"]

# fewer rows, or groups of them, than this show nothing
FEWEST_UNITS = 30
# a residual test keeps this many levels apart, and those this frequent; others are pooled
_MOST_LEVELS = 6
_RARE_LEVEL = 20
# rows per coefficient of a regression, and per product of residuals
_ROWS_PER_FEATURE = 20
_ROWS_PER_PRODUCT = 10
_MOST_RAMPS = 60
# what is left of a variable that others determine, of variance 1 before
_DETERMINED = 1e-8


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
        self._scores: dict[str, Floats] = {}

    def test(self, one: Independence) -> dict[str, Any] | None:
        """Statistic, degrees of freedom, log p and effect; None if the data cannot tell."""
        categorical = all(self._variables[name].kind == "categorical" for name in (one.x, one.y, *one.given))
        strata = self._strata(one.given) if categorical else None
        if strata is not None and self._weights is None and self._groups is None:
            return table_test(self._values[one.x], self._values[one.y], strata)
        return self._residual_test(one, strata)

    def _strata(self, given: Sequence[str]) -> Codes:
        """One number per combination of values."""
        strata = np.zeros(len(next(iter(self._values.values()))), dtype=np.int64)
        for name in given:
            strata = strata * self._variables[name].num_levels + self._values[name]
            # numbers stay below rows · levels
            strata = np.unique(strata, return_inverse=True)[1]
        return strata

    def _residual_test(self, one: Independence, strata: Codes | None) -> dict[str, Any] | None:
        columns = [self._contrasts(name) for name in (one.x, one.y)]
        if not all(block.size for block in columns):
            # one level, but for too few rows
            return None
        units = len(columns[0]) if self._groups is None else int(self._groups.max()) + 1
        most = units // _ROWS_PER_FEATURE
        left: Callable[[Floats], Floats]
        if strata is not None and int(strata.max()) < most:
            fitted = int(strata.max()) + 1
            left = functools.partial(centred, strata=strata, weights=self._weights)
        else:
            features = self._features(one.given, most)
            if features is None:
                return None
            fitted = features.shape[1]
            left = functools.partial(regressed, features=features, weights=self._weights)
        residuals = [left(block) for block in columns]
        if any(block.var() < _DETERMINED for block in residuals):
            return None
        for side, name in enumerate((one.x, one.y)):
            if self._variables[name].kind != "categorical":
                # a dependence of spread has no covariance; the wave of the residual's ranks shows it, and its mean is
                # a constant where noise is added, however the variable itself depends on what is given
                ranks = pd.DataFrame(residuals[side]).rank(pct=True).to_numpy()
                residuals[side] = np.hstack([residuals[side], left(np.cos(2 * np.pi * ranks))])
        num_products = residuals[0].shape[1] * residuals[1].shape[1]
        if units < max(FEWEST_UNITS, _ROWS_PER_PRODUCT * num_products):
            return None
        return covariance_test(residuals[0], residuals[1], fitted, self._weights, self._groups)

    def _normal_scores(self, name: str) -> Floats:
        """Normal scores of a variable's ranks, ``[n, 1]``, or ``[n, size]`` of a vector's entries."""
        if name not in self._scores:
            values = self._values[name]
            ranks = pd.DataFrame(values.reshape(len(values), -1)).rank().to_numpy(dtype=np.float64)
            inverse = NormalDist().inv_cdf
            uniform = (ranks - 0.5) / len(ranks)
            self._scores[name] = np.array([inverse(u) for u in uniform.ravel().tolist()]).reshape(uniform.shape)
        return self._scores[name]

    def _indicators(self, name: str, *, pooled: bool) -> Floats:
        """One column per level but one: every level, or the frequent ones with the others pooled."""
        codes = self._values[name]
        counts = np.bincount(codes, minlength=self._variables[name].num_levels)
        least, most = (_RARE_LEVEL, _MOST_LEVELS) if pooled else (1, len(counts))
        kept = [int(level) for level in np.argsort(-counts, kind="stable") if counts[level] >= least][:most]
        if len(codes) - counts[kept].sum() < least:
            kept = kept[:-1]
        return np.asarray((codes[:, None] == np.array(kept, dtype=np.int64)).astype(np.float64))

    def _contrasts(self, name: str) -> Floats:
        """What of a variable is regressed on others: normal scores, or indicators of levels."""
        if self._variables[name].kind == "categorical":
            return self._indicators(name, pooled=True)
        return self._normal_scores(name)

    def _features(self, given: Sequence[str], most: int) -> Floats | None:
        """Regressors ``[n, k]``: a constant, splines and indicators, and products of pairs where rows are enough."""
        n = len(next(iter(self._values.values())))
        knots = int(np.clip(round(n ** (1 / 3) / 2), 2, 9))
        single: list[Floats] = [np.ones((n, 1))]
        leading: list[Floats] = []
        for name in given:
            if self._variables[name].kind == "categorical":
                single.append(self._indicators(name, pooled=False))
                leading.append(single[-1])
                continue
            places = [NormalDist().inv_cdf((k + 1) / (knots + 1)) for k in range(knots)]
            for scores in self._normal_scores(name).T:
                hinges = np.maximum(scores[:, None] - np.array(places), 0.0)
                single.append(np.hstack([scores[:, None], hinges]))
                leading.append(np.stack([scores, np.maximum(scores, 0.0)], axis=1))
        size = sum(block.shape[1] for block in single)
        if size > most:
            return None
        for i, first in enumerate(leading):
            for second in leading[:i]:
                size += first.shape[1] * second.shape[1]
                if size <= most:
                    single.append(products(first, second))
        if len(leading) > 1 and size < most:
            # ramps in random directions: what no sum of functions of one or two variables is
            blocks = np.hstack(leading)
            ramps = min(most - size, _MOST_RAMPS)
            rng = np.random.default_rng(len(leading))
            directions = rng.normal(size=(blocks.shape[1], ramps)) / math.sqrt(len(leading))
            single.append(np.maximum(blocks @ directions + rng.normal(size=ramps), 0.0))
        return np.hstack(single)
