r"""Safe display of untrusted names and values, which could otherwise control a terminal.

Everything that is printed, logged, drawn or raised passes through :func:`printable`; an echoed value passes through
:func:`quoted`, which also limits its length.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata

__all__ = ["MOST_SHOWN", "escaped", "printable", "quoted", "shortened"]

# limits for a value and for a message, in characters
MOST_SHOWN = 60
_MAX_MESSAGE = 4000
_HARMLESS = re.compile(r"[\x20-\x7e\n\t]*")
_PLAIN_LINE = re.compile(r"[\x20-\x7e]*")
# control, format and surrogate characters, line and paragraph separators
_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: str, *, lines: bool = True) -> str:
    r"""Escape every character that a terminal or a browser would interpret rather than show.

    These are control characters, including the one that begins terminal commands; format characters, which are
    invisible or change the direction of text and can make a name look like another; line and paragraph separators;
    and surrogates. Letters and spaces of all scripts are kept, as are backslashes.

    Args:
        text: The text.
        lines: Whether to keep line feeds and tabs; False for a name.

    Example:
        >>> printable("\x1b[31mred\u202e"), printable("a\nb", lines=False), printable("größe")
        ('\\x1b[31mred\\u202e', 'a\\nb', 'größe')
    """
    if (_HARMLESS if lines else _PLAIN_LINE).fullmatch(text):
        return text
    return "".join(
        repr(letter)[1:-1] if unicodedata.category(letter) in _UNSAFE and not (lines and letter in "\n\t") else letter
        for letter in text
    )


def escaped(text: str) -> str:
    r"""Escape text for content and attributes of HTML, SVG and XML.

    Example:
        >>> escaped("a < b\x07")
        'a &lt; b\\x07'
    """
    return html.escape(printable(text))


def quoted(value: object, most: int = MOST_SHOWN) -> str:
    """Format a value for a message by ``repr``, truncated.

    Args:
        value: Any value.
        most: Largest number of characters, not counting the dots that mark a truncation.

    Example:
        >>> quoted("ab"), quoted("x" * 100, 8), quoted(10**5000)
        ("'ab'", "'xxxxxxx...", 'a number of about 5,001 digits')
    """
    if isinstance(value, int) and value.bit_length() > 4 * most:
        # Python does not convert very long integers to text
        return f"a number of about {int(value.bit_length() * math.log10(2)) + 1:,} digits"
    if isinstance(value, str | bytes):
        value = value[: most + 1]
    try:
        shown = repr(value)
    except (ValueError, RecursionError):
        # for example, a list that contains such an integer
        shown = f"a {type(value).__name__} that cannot be shown"
    return shown if len(shown) <= most else f"{shown[:most]}..."


def shortened(text: str, most: int = _MAX_MESSAGE) -> str:
    """Shorten a long text by omitting its middle.

    Example:
        >>> shortened("x" * 30 + "y" * 30, 40)
        'xxxxx [... 50 characters ...] yyyyy'
    """
    if len(text) <= most:
        return text
    kept = max((most - 30) // 2, 1)
    return f"{text[:kept]} [... {len(text) - 2 * kept:,} characters ...] {text[-kept:]}"
