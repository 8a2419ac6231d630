"""Whether data contradict a graph: the independences that it implies, each tested, the worst violation first.

One independence per pair of variables that the graph separates. Two categorical variables given categorical ones are
compared by tables within strata, whose statistic has a mean and variance that are known exactly; all other pairs by
the covariances of what regressions on the separating variables leave.
"""

from mdcm.check.independences import Independence, implied_independences
from mdcm.check.report import Check, check

__all__ = ["Check", "Independence", "check", "implied_independences"]
