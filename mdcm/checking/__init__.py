"""Tests of the statements that a graph implies about data, with the strongest violation first.

For every dataset: an independence for each pair of variables that the graph separates, and the inequality of every
instrument. For every two datasets: the distributions that they must share. If a pair and its separating variables are
all categorical, the test is a table within each stratum, whose statistic has an exactly known mean and variance; all
other tests use covariances of residuals of regressions on the separating variables.
"""

from mdcm.checking.independences import Independence, implied_independences
from mdcm.checking.report import Check, check, statement
from mdcm.checking.sources import regimes

__all__ = ["Check", "Independence", "check", "implied_independences", "regimes", "statement"]
