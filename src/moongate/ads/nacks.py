"""Parsing of NACK messages: which resources of a response Envoy refuses, and why.

Envoy answers for a response as a whole. For listeners and clusters the message names the refused ones, and
Envoy has accepted the others; for other types it names none. Envoy truncates long messages.

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
    """The resources that Envoy certainly refuses, each with Envoy's message; often empty.

    Args:
        message: the message of the NACK.
        sent: the names of the resources in the response.
    """
    named = _named(message, sent)
    return named or dict.fromkeys(sent, message) if len(sent) == 1 else named


def meets_a_listener(listener: str, message: str) -> bool:
    """Whether Envoy refuses a listener because another, or its own old version, has its address open.

    Args:
        listener: its name.
        message: what Envoy says of it.
    """
    # At the very beginning: what comes later may be a quote of what a user wrote.
    said = message.removeprefix(f"Error adding/updating listener(s) {listener}: ")
    return said.startswith(f"error adding listener: '{listener}' has duplicate address '")


def meets_a_socket(message: str) -> bool:
    """Whether Envoy refuses a listener because a socket has its address: of another process, or its own."""
    failure = bind_failure(message)
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
