"""Numbers that a person means, as opposed to those that a slip or a hostile file asks for."""

from __future__ import annotations

from mdcm.printable import quoted

__all__ = [
    "LARGEST_SEED",
    "MOST",
    "MOST_COLUMNS",
    "MOST_PIXELS",
    "MOST_SAMPLES",
    "flag",
    "most_unpacked",
    "real",
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
        ValueError: If it is no whole number, too small or too large; the message begins with the name.

    Example:
        >>> whole("draws", 256)
        256
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {quoted(value)}")
    if value > MOST[name]:
        raise ValueError(f"{name} must be at most {MOST[name]:,}, not {quoted(value)}")
    return value
