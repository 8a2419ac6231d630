"""Numbers that a person means, as opposed to those that a slip or a hostile file asks for."""

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

# of every setting that is a size or a count: far more than anybody trains with, less than what never ends
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
# of every setting that is a number, what it must exceed or may be, and the most that it may be; beyond them training
# overflows, stands still or never ends
RANGES = {
    "checkpoint_seconds": ("from", 0, 1e9),
    "critic_learning_rate": ("above", 0, 10),
    "learning_rate": ("above", 0, 10),
    "max_minutes": ("above", 0, 1e7),
    "penalty": ("from", 0, 1e6),
    "temperature": ("from", 1e-3, 1e3),
}
# weights of one critic
MOST_CRITIC = 100_000_000
LARGEST_SEED = 2**63 - 1
# rows that are drawn; a disk holds fewer
MOST_SAMPLES = 10**15
# numbers in one image
MOST_PIXELS = 100_000_000
# columns of a table in a file; one of every gene has a fifth of them
MOST_COLUMNS = 100_000
# bytes that a packed file may hold in any case, and for each of its own
_ALWAYS_UNPACKED, _MOST_FOR_A_BYTE = 1 << 27, 200


def most_unpacked(packed: int) -> int:
    """Bytes that packed ones may become: a file of a few kilobytes that asks for more was made to take memory.

    Args:
        packed: Bytes as they are packed.

    Example:
        >>> most_unpacked(1000) >> 20, most_unpacked(10**8)
        (128, 20000000000)
    """
    return max(_ALWAYS_UNPACKED, _MOST_FOR_A_BYTE * packed)


def real(name: str, value: object) -> float:
    """A setting that is a number.

    Raises:
        ValueError: If it is none, or not a number; the message begins with the name.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        raise ValueError(f"{name} must be a number, not {quoted(value)}")
    return value


def ranged(name: str, value: object) -> float:
    """A setting that is a number in its range, one of :data:`RANGES`.

    Raises:
        ValueError: If it is no number, or outside of the range, which the message states.

    Example:
        >>> ranged("learning_rate", 1e30)
        Traceback (most recent call last):
            ...
        ValueError: learning_rate must be a number above 0 and at most 10, not 1e+30
    """
    how, least, most = RANGES[name]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    # written so that NaN fails too
    if not number or not (least < value <= most or (value == least and how == "from")):  # type: ignore[operator]
        said = f"from {least:,g} to {most:,.0f}" if how == "from" else f"above {least} and at most {most:,.0f}"
        raise ValueError(f"{name} must be a number {said}, not {quoted(value)}")
    return value  # type: ignore[return-value]


def seeded(value: object) -> int:
    """A seed, which may be a whole number of NumPy's.

    Raises:
        ValueError: If it is no whole number from 0 to :data:`LARGEST_SEED`.
    """
    number = None
    if not isinstance(value, bool):
        with suppress(TypeError):
            number = operator.index(value)  # type: ignore[arg-type]
    if number is None or not 0 <= number <= LARGEST_SEED:
        raise ValueError(f"seed must be a whole number from 0 to {LARGEST_SEED:,}, not {quoted(value)}")
    return number


def check_ensemble(members: object) -> None:
    """Refuse what is no number of members.

    Raises:
        ValueError: If it is no whole number, or outside of the range, which the message states.
    """
    if not isinstance(members, int) or isinstance(members, bool) or not 2 <= members <= MOST["ensemble"]:
        raise ValueError(f"an ensemble has at least 2 members and at most {MOST['ensemble']:,}, not {quoted(members)}")


def flag(name: str, value: object) -> bool:
    """A setting that is true or false.

    Raises:
        ValueError: If it is neither; the message begins with the name.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {quoted(value)}")
    return value


def whole(name: str, value: object, least: int = 1) -> int:
    """A setting that is a whole number in its range.

    Args:
        name: The setting, one of :data:`MOST`.
        value: What was given.
        least: The smallest that it may be.

    Raises:
        ValueError: If it is no whole number, or outside of the range, which the message states.

    Example:
        >>> whole("draws", 256)
        256
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST[name]:
        raise ValueError(f"{name} must be a whole number from {least} to {MOST[name]:,}, not {quoted(value)}")
    return value
