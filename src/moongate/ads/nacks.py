"""Who is to blame for a refusal: what Envoy says of the resources of a response that it refused.

Envoy answers for a response as a whole. Of listeners and clusters it names those that it refused, and has
taken the rest; of other types it says only that something is wrong. It cuts long messages off.

Source: the messages of Envoy 1.40.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from moongate.xds.refusals import bind_failure

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_NAMED = re.compile(r"^Error adding/updating (?:listener|cluster)\(s\) ")


def culprits(message: str, sent: Collection[str]) -> dict[str, str]:
    """The resources that are refused for certain, and Envoy's words about each; often empty.

    Args:
        message: of the refusal.
        sent: the names of the resources in the response.
    """
    named = _named(message, sent)
    return named or dict.fromkeys(sent, message) if len(sent) == 1 else named


def meets_a_listener(words: str) -> bool:
    """Whether a listener is refused because one of this Envoy, which may be itself, has its address open."""
    return "has duplicate address" in words


def meets_a_socket(words: str) -> bool:
    """Whether a listener is refused because a socket has its address: somebody's, or one not closed yet."""
    failure = bind_failure(words)
    return failure is not None and failure.in_use


def _named(message: str, sent: Iterable[str]) -> dict[str, str]:
    if not _NAMED.match(message):
        return {}
    rest = _NAMED.sub(", ", message)
    starts = sorted(
        (min(places), name)
        for name in sent
        if (places := [at for before in (", ", "\n") if (at := rest.find(f"{before}{name}: ")) >= 0])
    )
    ends = [at for at, _ in starts[1:]] + [len(rest)]
    return {
        name: rest[at:end].strip(", \n").removeprefix(f"{name}: ")
        for (at, name), end in zip(starts, ends, strict=True)
    }
