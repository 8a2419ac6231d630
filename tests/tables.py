"""Tables, pictures and refusals that several tests of data need."""

import numpy as np
import pytest

from mdcm.data import (
    Dataset,
    Schema,
)
from mdcm.errors import DataError


def refused(match, function, *args, **kwargs):
    """The DataError that a call ends with, whose message must match."""
    with pytest.raises(DataError, match=match) as caught:
        function(*args, **kwargs)
    return caught.value


def infer(values, **variables):
    return Schema.infer([Dataset({"X": values})], variables or None)["X"]


def pixels(n=4, c=3, h=5, w=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size=(n, c, h, w), dtype=np.uint8)
