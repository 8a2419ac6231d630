"""Sampling from a model: under interventions, given evidence, and in several worlds at once."""

from mdcm.mechanisms.placement import move_mechanisms
from mdcm.sampling.abduction import Abduction, EvidenceError, check_evidence
from mdcm.sampling.draws import Block, Draws
from mdcm.sampling.exact import Posterior, event_probability, posterior
from mdcm.sampling.requests import Request
from mdcm.sampling.sampler import Sampler, check_number
from mdcm.sampling.samples import Samples, to_samples
from mdcm.sampling.settings import (
    Rule,
    Setting,
    encode_evidence,
    encode_noise,
    encode_setting,
    encode_values,
    known,
)
from mdcm.sampling.support import FEWEST_ROWS, MOST_CASES, MOST_UNSEEN, Basis, Support
from mdcm.sampling.verdicts import rule_of
from mdcm.sampling.weights import effective_size, largest_share, systematic
from mdcm.sampling.worlds import Network, Units
from mdcm.sampling.writing import Written, write_samples

__all__ = [
    "FEWEST_ROWS",
    "MOST_CASES",
    "MOST_UNSEEN",
    "Abduction",
    "Basis",
    "Block",
    "Draws",
    "EvidenceError",
    "Network",
    "Posterior",
    "Request",
    "Rule",
    "Sampler",
    "Samples",
    "Setting",
    "Support",
    "Units",
    "Written",
    "check_evidence",
    "check_number",
    "effective_size",
    "encode_evidence",
    "encode_noise",
    "encode_setting",
    "encode_values",
    "event_probability",
    "known",
    "largest_share",
    "move_mechanisms",
    "posterior",
    "rule_of",
    "systematic",
    "to_samples",
    "write_samples",
]
