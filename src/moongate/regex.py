"""RE2, the regular expressions that Envoy speaks."""

# google-re2 brings no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import re2

_QUIET = re2.Options()
_QUIET.log_errors = False


@lru_cache(maxsize=4096)
def regex_fault(pattern: str) -> str | None:
    """Why Envoy would refuse a pattern, ``None`` if it would not."""
    try:
        re2.compile(pattern, options=_QUIET)
    except re2.error as error:
        reason: bytes = error.args[0]
        message = reason.decode(errors="replace")
        return f"{pattern!r} is not a regular expression of RE2: {message}"
    return None


def matches_in(pattern: str, text: str) -> bool:
    """Whether a valid pattern matches anywhere in a text."""
    return re2.compile(pattern, options=_QUIET).search(text) is not None


def matches_whole(pattern: str, text: str) -> bool:
    """Whether a valid pattern matches all of a text."""
    return re2.compile(pattern, options=_QUIET).fullmatch(text) is not None


def group_count(pattern: str) -> int:
    """How many groups a valid pattern has."""
    return re2.compile(pattern, options=_QUIET).groups


def begin_of_matches(pattern: str) -> str:
    """Printable ASCII that texts may begin with which match a valid pattern from their start; "" if none."""
    matching: tuple[bytes, bytes] = re2.compile(pattern, options=_QUIET).possiblematchrange(64)
    # The first of all texts that match has unprintable characters wherever a class like [^/] takes them.
    return re.split("[^!-~]", matching[0].decode("latin-1"), maxsplit=1)[0]


def matches_nothing_anywhere(pattern: str) -> bool:
    """Whether a valid pattern matches no characters in the middle of a path."""
    match = re2.compile(pattern, options=_QUIET).search("//", 1)
    return match is not None and match.start() == match.end() == 1


def matches_at_start(pattern: str, text: str) -> bool:
    """Whether the first match of a valid pattern is at the start of a text."""
    match = re2.compile(pattern, options=_QUIET).search(text)
    return match is not None and match.start() == 0


def replaced(pattern: str, substitution: str, text: str) -> str | None:
    """A text after substitution, as RE2 makes it; ``None`` if a valid pattern does not match.

    Args:
        pattern: what is replaced, wherever it matches.
        substitution: valid, with groups as ``\\1``.
        text: where.
    """
    compiled = re2.compile(pattern, options=_QUIET)
    result, at, last_end = "", 0, -1
    while at <= len(text) and (match := compiled.search(text, at)) is not None:
        result += text[at : match.start()]
        if match.start() == match.end() == last_end:
            # No empty match right after another one.
            result, at = result + text[at : at + 1], at + 1
            continue
        result, at, last_end = result + _expanded(match, substitution), match.end(), match.end()
    return result + text[at:] if last_end >= 0 else None


def _expanded(match: Any, substitution: str) -> str:
    parts = re.split(r"\\(.)", substitution)
    parts[1::2] = [part if part == "\\" else match.group(int(part)) or "" for part in parts[1::2]]
    return "".join(parts)
