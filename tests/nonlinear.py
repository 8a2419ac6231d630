"""Tables of pairs that are independent given others, whose means and spreads are no sums of straight lines.

Each kind takes a random generator, a number of rows and the strength of a dependence, 0 for a true graph, and returns
the table; X and Y are the pair, all other columns are causes of both.
"""

import numpy as np
import pandas as pd

from mdcm.checking import check

__all__ = ["KINDS", "graph_of", "p_value"]


def _table(rng, mean, noise, strength, causes, spread=(1.0, 1.0)):
    rows = len(mean)
    x = mean + noise * spread[0] * rng.normal(size=rows)
    y = mean + noise * spread[1] * rng.normal(size=rows) + strength * (x - mean)
    return pd.DataFrame({**causes, "X": x, "Y": y})


def linear(rng, rows, strength=0.0):
    z, w = rng.normal(size=(2, rows))
    return _table(rng, z + w, 1.0, strength, {"Z": z, "W": w})


def wave(rng, rows, strength=0.0):
    """A fork by sin 4Z."""
    z = rng.normal(size=rows)
    return _table(rng, np.sin(4 * z), 0.3, strength, {"Z": z})


def fast_wave(rng, rows, strength=0.0):
    z = rng.uniform(-2, 2, size=rows)
    return _table(rng, np.sin(8 * z), 0.5, strength, {"Z": z})


def step(rng, rows, strength=0.0):
    z = rng.normal(size=rows)
    return _table(rng, 2.0 * (z > 0.3), 0.3, strength, {"Z": z})


def product(rng, rows, strength=0.0):
    """A fork by Z·W."""
    z, w = rng.normal(size=(2, rows))
    return _table(rng, z * w, 0.5, strength, {"Z": z, "W": w})


def threefold(rng, rows, strength=0.0):
    z, w, v = rng.normal(size=(3, rows))
    return _table(rng, z * w * v, 0.5, strength, {"Z": z, "W": w, "V": v})


def diagonal_wave(rng, rows, strength=0.0):
    z, w = rng.normal(size=(2, rows))
    return _table(rng, np.sin(2 * z + 2 * w), 0.5, strength, {"Z": z, "W": w})


def wave_by_level(rng, rows, strength=0.0):
    """A wave whose phase a categorical cause sets."""
    z, c = rng.normal(size=rows), rng.integers(0, 3, rows)
    return _table(rng, np.sin(4 * z + 2 * c), 0.5, strength, {"Z": z, "C": np.array(list("abc"))[c]})


def uneven(rng, rows, strength=0.0):
    """Noise whose size depends on the cause, differently on both sides."""
    z = rng.normal(size=rows)
    return _table(rng, z, 1.0, strength, {"Z": z}, (np.abs(z), np.exp(z / 2)))


def skewed(rng, rows, strength=0.0):
    z = rng.exponential(size=rows)
    x = z + rng.exponential(size=rows)
    return pd.DataFrame({"Z": z, "X": x, "Y": z + np.exp(rng.normal(size=rows)) + strength * (x - z)})


def logit_wave(rng, rows, strength=0.0):
    """A categorical variable whose logit is a wave, and a number."""
    z = rng.normal(size=rows)
    x = rng.random(rows) < 1 / (1 + np.exp(-3 * np.sin(4 * z)))
    y = np.sin(4 * z) + 0.5 * rng.normal(size=rows) + strength * x
    return pd.DataFrame({"Z": z, "X": np.where(x, "yes", "no"), "Y": y})


def two_logits(rng, rows, strength=0.0):
    """Two categorical variables given a number."""
    z = rng.normal(size=rows)
    x, u = rng.random((2, rows)) < 1 / (1 + np.exp(-3 * np.sin(4 * z)))
    y = np.where(rng.random(rows) < strength, x, u)
    return pd.DataFrame({"Z": z, "X": np.where(x, "yes", "no"), "Y": np.where(y, "yes", "no")})


def chain(rng, rows, strength=0.0):
    """X -> Z -> Y, smooth and not monotone."""
    x = rng.normal(size=rows)
    z = np.tanh(2 * x) + 0.5 * np.sin(3 * x) + 0.3 * rng.normal(size=rows)
    return pd.DataFrame({"X": x, "Z": z, "Y": z**2 + np.sin(3 * z) + 0.3 * rng.normal(size=rows) + strength * x})


def sign(rng, rows, strength=0.0):
    """The sign of a product with little noise: four cells, of which two are alike."""
    z, w = rng.normal(size=(2, rows))
    return _table(rng, np.sign(z * w), 0.1, strength, {"Z": z, "W": w})


def five_waves(rng, rows, strength=0.0):
    """A sum of waves in five causes."""
    causes = rng.normal(size=(5, rows))
    return _table(rng, np.sin(2 * causes).sum(axis=0), 0.5, strength, dict(zip("ABCDE", causes, strict=True)))


KINDS = {
    kind.__name__: kind
    for kind in (
        linear, wave, fast_wave, step, product, threefold, diagonal_wave, wave_by_level, uneven, skewed, logit_wave,
        two_logits, chain, sign, five_waves,
    )
}  # fmt: skip


def graph_of(table):
    """The graph of a table, which implies that X and Y are independent given all others, and nothing else."""
    others = [name for name in table if name not in ("X", "Y")]
    # a chain by a single cause implies the same as a fork does
    arrows = [f"{a} -> {b}" for i, a in enumerate(others) for b in [*others[i + 1 :], "X", "Y"]]
    return "; ".join(arrows)


def p_value(kind, rows, seed, strength=0.0):
    """p of the one independence that the true graph implies, on a fresh table."""
    table = KINDS[kind](np.random.default_rng([seed, 81]), rows, strength)
    (p,) = check(graph_of(table), table).table["p"]
    return p
