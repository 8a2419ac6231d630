"""JSON text that somebody else may have written."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["parse_json"]


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Args:
        text: The text, bytes as UTF-8.

    Raises:
        ValueError: If it is no JSON, no UTF-8, nested too deeply, or holds a number of more digits than Python reads;
            the message names the place in a few words.

    Example:
        >>> parse_json('{"a": [1, 2]}')
        {'a': [1, 2]}
    """
    try:
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 text, from byte {error.start} on") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON text: {error}") from None
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
    except ValueError:
        # Python writes of a setting of its own
        raise ValueError("it holds a whole number of thousands of digits") from None
