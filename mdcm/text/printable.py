r"""Text that may be shown: names and values come from other people's files, and a terminal obeys what it is sent.

Whatever is printed, logged, drawn or raised goes through :func:`printable`; a value that is echoed goes through
:func:`quoted`, so that nobody is shown a megabyte of it.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata

__all__ = ["MOST_SHOWN", "escaped", "printable", "quoted", "shortened"]

# of one value, and of one message, in characters
MOST_SHOWN = 60
_MOST_MESSAGE = 4000
_HARMLESS = re.compile(r"[\x20-\x7e\n\t]*")
_PLAIN_LINE = re.compile(r"[\x20-\x7e]*")
# control characters, what changes the direction of text or cannot be seen, halves of pairs, breaks of lines
_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: str, *, lines: bool = True) -> str:
    r"""Text with every character escaped that a terminal or a browser would obey rather than show.

    Escaped are control characters, among them the escape that begins a terminal's commands; marks that turn the
    direction of text or take no space, which make a name look like another; separators of lines and paragraphs; and
    halves of surrogate pairs. Letters and spaces of all scripts stay, and so does a backslash.

    Args:
        text: The text.
        lines: Whether line feeds and tabs stay; a name in a line of its own has neither.

    Example:
        >>> printable("\x1b[31mred\u202e"), printable("a\nb", lines=False), printable("größe")
        ('\\x1b[31mred\\u202e', 'a\\nb', 'größe')
    """
    if (_HARMLESS if lines else _PLAIN_LINE).fullmatch(text):
        return text
    return "".join(
        repr(letter)[1:-1] if unicodedata.category(letter) in _OBEYED and not (lines and letter in "\n\t") else letter
        for letter in text
    )


def escaped(text: str) -> str:
    r"""Text for HTML, SVG and XML, in content and in attributes.

    Example:
        >>> escaped("a < b\x07")
        'a &lt; b\\x07'
    """
    return html.escape(printable(text))


def quoted(value: object, most: int = MOST_SHOWN) -> str:
    """A value for a message, as ``repr`` shows it, cut where it is long.

    Args:
        value: Any value.
        most: Characters at most, besides the dots where it was cut.

    Example:
        >>> quoted("ab"), quoted("x" * 100, 8), quoted(10**5000)
        ("'ab'", "'xxxxxxx...", 'a number of about 5,001 digits')
    """
    if isinstance(value, int) and value.bit_length() > 4 * most:
        # Python itself refuses to write out the longest
        return f"a number of about {int(value.bit_length() * math.log10(2)) + 1:,} digits"
    if isinstance(value, str | bytes):
        value = value[: most + 1]
    try:
        shown = repr(value)
    except (ValueError, RecursionError):
        # such as a list with a number of thousands of digits
        shown = f"a {type(value).__name__} that cannot be shown"
    return shown if len(shown) <= most else f"{shown[:most]}..."


def shortened(text: str, most: int = _MOST_MESSAGE) -> str:
    """Text whose middle is left out where it is long.

    Example:
        >>> shortened("x" * 30 + "y" * 30, 40)
        'xxxxx [... 50 characters ...] yyyyy'
    """
    if len(text) <= most:
        return text
    kept = max((most - 30) // 2, 1)
    return f"{text[:kept]} [... {len(text) - 2 * kept:,} characters ...] {text[-kept:]}"
