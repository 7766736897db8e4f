"""Text from outside, made safe to print: on one line, and unable to act on the terminal or to reorder what is read.

Control characters (escape sequences, line breaks, tabs), marks that change the direction of writing, invisible
separators and lone surrogates become visible escapes. Everything else stays as it is.
"""

from __future__ import annotations

import json
import re

_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"
    "\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060\u2066-\u2069\ufeff"  # direction, separators, invisible
    "\ud800-\udfff\U000e0000-\U000e007f]"  # surrogates can't be encoded; tags can't be seen
)
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: object) -> str:
    """`text` on one line, with what is unsafe escaped as a Python string would show it."""
    return _UNSAFE.sub(_escape, str(text))


def printable_lines(text: str) -> str:
    """The same for text of several lines, such as a traceback: its own line breaks stay."""
    return "\n".join(printable(line.expandtabs(4)) for line in re.split("\r?\n", text))


def printable_json(text: str) -> str:
    """JSON text with the same characters as JSON escapes, so that it is safe to print and still the same value. Its own
    line breaks, which only stand between values, stay."""
    return _UNSAFE.sub(_escape_json, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return _NAMED.get(character) or character.encode("unicode_escape").decode()


def _escape_json(match: re.Match[str]) -> str:
    return match[0] if match[0] == "\n" else json.dumps(match[0])[1:-1].replace("\x7f", "\\u007f")
