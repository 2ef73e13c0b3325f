"""RE2, the regular expressions that Envoy speaks."""

# google-re2 brings no types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from functools import lru_cache

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
