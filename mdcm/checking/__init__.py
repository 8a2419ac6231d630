"""Whether data contradict a graph: what it implies, each statement tested, the worst violation first.

Of every dataset, one independence per pair of variables that the graph separates, and the inequality of every
instrument; of every two datasets, what they have to share. Two categorical variables given categorical ones are
compared by tables within strata, whose statistic has a mean and variance that are known exactly; all other pairs by the
covariances of what regressions on the separating variables leave.
"""

from mdcm.checking.independences import Independence, implied_independences
from mdcm.checking.report import Check, check, statement
from mdcm.checking.sources import regimes

__all__ = ["Check", "Independence", "check", "implied_independences", "regimes", "statement"]
