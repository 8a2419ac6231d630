"""Identification: whether graph and data determine the answer to a query, with an estimand or a witness."""

from mdcm.identification.decide import Identification, identify
from mdcm.identification.estimand import Estimand
from mdcm.identification.witness import Hedge, InconsistentFactor, UnknownFactor, Witness

__all__ = [
    "Estimand",
    "Hedge",
    "Identification",
    "InconsistentFactor",
    "UnknownFactor",
    "Witness",
    "identify",
]
