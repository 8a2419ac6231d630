"""Limits on settings, to reject numbers from a typing error or a hostile file."""

from __future__ import annotations

import operator
from contextlib import suppress

from mdcm.text.printable import quoted

__all__ = [
    "LARGEST_SEED",
    "MOST",
    "MOST_COLUMNS",
    "MOST_CRITIC",
    "MOST_PIXELS",
    "MOST_SAMPLES",
    "RANGES",
    "check_ensemble",
    "flag",
    "most_unpacked",
    "ranged",
    "real",
    "seeded",
    "whole",
]

# upper limit of every setting that is a size or a count: beyond any practical use, but with bounded running time
MOST = {
    "batch_size": 10_000_000,
    "checks": 100_000,
    "confounder_states": 100_000,
    "critic_steps": 1_000,
    "draws": 1_000_000,
    "encoder_steps": 1_000_000_000,
    "ensemble": 10_000,
    "hidden": 65_536,
    "layers": 1_000,
    "max_steps": 1_000_000_000,
    "patience": 100_000,
    "size": 1_000_000,
    "steps": 1_000_000_000,
}
# range of every real setting: whether the lower limit is included ("from") or not ("above"), and both limits; outside
# of it training overflows, stalls or never ends
RANGES = {
    "checkpoint_seconds": ("from", 0, 1e9),
    "critic_learning_rate": ("above", 0, 10),
    "learning_rate": ("above", 0, 10),
    "max_minutes": ("above", 0, 1e7),
    "penalty": ("from", 0, 1e6),
    "temperature": ("from", 1e-3, 1e3),
}
# number of weights of a critic
MOST_CRITIC = 100_000_000
LARGEST_SEED = 2**63 - 1
# number of drawn rows, more than fit on a disk
MOST_SAMPLES = 10**15
# number of values in an image
MOST_PIXELS = 100_000_000
# number of columns of a table in a file, five times the number of human genes
MOST_COLUMNS = 100_000
# unpacked bytes that are always allowed, and unpacked bytes allowed per packed byte
_ALWAYS_UNPACKED, _MAX_RATIO = 1 << 27, 200


def most_unpacked(packed: int) -> int:
    """Largest accepted size of an unpacked file in bytes; a larger size indicates a decompression bomb.

    Args:
        packed: Size of the packed file in bytes.

    Example:
        >>> most_unpacked(1000) >> 20, most_unpacked(10**8)
        (128, 20000000000)
    """
    return max(_ALWAYS_UNPACKED, _MAX_RATIO * packed)


def real(name: str, value: object) -> float:
    """Check that a setting is a number, and return it.

    Raises:
        ValueError: If it is not a number, or NaN; the message begins with the name.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        raise ValueError(f"{name} must be a number, not {quoted(value)}")
    return value


def ranged(name: str, value: object) -> float:
    """Check that a setting is a number in its range in :data:`RANGES`, and return it.

    Raises:
        ValueError: If it is not a number, or outside of the range, which the message states.

    Example:
        >>> ranged("learning_rate", 1e30)
        Traceback (most recent call last):
            ...
        ValueError: learning_rate must be a number above 0 and at most 10, not 1e+30
    """
    bound, least, most = RANGES[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # written so that NaN fails too
    if not is_number or not (least < value <= most or (value == least and bound == "from")):  # type: ignore[operator]
        limits = f"from {least:,g} to {most:,.0f}" if bound == "from" else f"above {least} and at most {most:,.0f}"
        raise ValueError(f"{name} must be a number {limits}, not {quoted(value)}")
    return value  # type: ignore[return-value]


def seeded(value: object) -> int:
    """Check a seed, which may be a NumPy integer, and return it as an int.

    Raises:
        ValueError: If it is not a whole number from 0 to :data:`LARGEST_SEED`.
    """
    number = None
    if not isinstance(value, bool):
        with suppress(TypeError):
            number = operator.index(value)  # type: ignore[arg-type]
    if number is None or not 0 <= number <= LARGEST_SEED:
        raise ValueError(f"seed must be a whole number from 0 to {LARGEST_SEED:,}, not {quoted(value)}")
    return number


def check_ensemble(members: object) -> None:
    """Check the number of members of an ensemble.

    Raises:
        ValueError: If it is not a whole number, or outside of the range, which the message states.
    """
    if not isinstance(members, int) or isinstance(members, bool) or not 2 <= members <= MOST["ensemble"]:
        raise ValueError(f"an ensemble has at least 2 members and at most {MOST['ensemble']:,}, not {quoted(members)}")


def flag(name: str, value: object) -> bool:
    """Check that a setting is true or false, and return it.

    Raises:
        ValueError: If it is neither; the message begins with the name.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {quoted(value)}")
    return value


def whole(name: str, value: object, least: int = 1) -> int:
    """Check that a setting is a whole number in its range, and return it.

    Args:
        name: The setting, a key of :data:`MOST`.
        value: Its value.
        least: Lower limit.

    Raises:
        ValueError: If it is not a whole number, or outside of the range, which the message states.

    Example:
        >>> whole("draws", 256)
        256
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST[name]:
        raise ValueError(f"{name} must be a whole number from {least} to {MOST[name]:,}, not {quoted(value)}")
    return value
