"""Identification: whether graph and data determine the answer to a query, by which estimand, or why not."""

from mdcm.identify.decide import Identification, identify
from mdcm.identify.estimand import Estimand
from mdcm.identify.witness import Hedge, InconsistentFactor, UnknownFactor, Witness

__all__ = [
    "Estimand",
    "Hedge",
    "Identification",
    "InconsistentFactor",
    "UnknownFactor",
    "Witness",
    "identify",
]
