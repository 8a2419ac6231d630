"""Tests of the statements that a graph implies about data, with the strongest violation first.

For every dataset: one independence per pair of variables that the graph separates, and the inequality of every
instrument. For every two datasets: the distributions that they must share. Two categorical variables given categorical
ones are tested by tables within strata, whose statistic has an exactly known mean and variance; all other pairs by
covariances of residuals of regressions on the separating variables.
"""

from mdcm.checking.independences import Independence, implied_independences
from mdcm.checking.report import Check, check, statement
from mdcm.checking.sources import regimes

__all__ = ["Check", "Independence", "check", "implied_independences", "regimes", "statement"]
