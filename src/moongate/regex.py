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


def group_count(pattern: str) -> int:
    """How many groups a valid pattern has."""
    return re2.compile(pattern, options=_QUIET).groups


def begin_of_matches(pattern: str) -> str:
    """A beginning that texts may have which match a valid pattern from their start; "" if there is none."""
    first: bytes
    first, _ = re2.compile(pattern, options=_QUIET).possiblematchrange(64)
    return first.decode(errors="ignore")


def matches_nothing_anywhere(pattern: str) -> bool:
    """Whether a valid pattern matches no characters in the middle of a path."""
    match = re2.compile(pattern, options=_QUIET).search("//", 1)
    return match is not None and match.start() == match.end() == 1


def replaced(pattern: str, substitution: str, text: str) -> str | None:
    """A text after substitution, as RE2 makes it; ``None`` if a valid pattern does not match at its start.

    Args:
        pattern: what is replaced, wherever it matches.
        substitution: valid, with groups as ``\\1``.
        text: where.
    """
    compiled = re2.compile(pattern, options=_QUIET)
    result, at, last_end = "", 0, -1
    while at <= len(text) and (match := compiled.search(text, at)) is not None:
        if at == 0 and match.start() != 0:
            return None
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
