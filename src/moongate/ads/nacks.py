"""Parsing of NACK messages: which resources of a response Envoy refuses, and why.

Envoy answers for a response as a whole. For listeners and clusters the message names the refused ones, and
Envoy has accepted the others. Of scopes it names only one whose key another has, and for other types it names
none. Envoy truncates long messages.

Facts
-----
* Envoy writes ``Error adding/updating listener(s) `` and then ``NAME: REASON`` for each refused listener, on
  a line of its own; for clusters it separates them with commas
* a reason may quote what a user wrote, such as a log format or the address of a host, as it is. So what looks
  like a further name may be a part of that. Only the first name is certain, and a name after a reason that is
  all Envoy's own: that an address is in use

Source: the messages of Envoy 1.40.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from moongate.xds.refusals import bind_failure

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_BEGINNINGS: Final[Mapping[str, str]] = {
    "Error adding/updating listener(s) ": "\n",
    "Error adding/updating cluster(s) ": ", ",
}
"""How a message begins that names resources, and what separates these."""

_SAME_KEY: Final = re.compile(
    r"Error adding/updating scoped route\(s\): scope key conflict found, "
    r"first scope is '[^']*', second scope is '([^']*)'"
)
"""The second is always one of the response, and the first may be in force already."""


class Blame(NamedTuple):
    """Which resources of a response Envoy refuses.

    Args:
        certain: those that it certainly refuses, each with Envoy's message.
        likely: the others that it seems to name, with what it seems to say of them. They are to be sent
            again apart from the rest, and the answer to that is certain.
    """

    certain: dict[str, str]
    likely: dict[str, str]


def blame(message: str, sent: Collection[str]) -> Blame:
    """Which resources Envoy refuses, as far as the message of a NACK says.

    Args:
        message: the message.
        sent: the names of the resources in the response.
    """
    certain: dict[str, str] = {}
    likely: dict[str, str] = {}
    into = certain
    for name, words in _entries(message, sent):
        into.setdefault(name, words)
        if not _quotes_nobody(name, words):
            into = likely
    if (conflict := _SAME_KEY.fullmatch(message)) is not None and conflict[1] in sent:
        certain[conflict[1]] = message
    if not certain and len(sent) == 1:
        certain = dict.fromkeys(sent, message)
    return Blame(certain, {name: words for name, words in likely.items() if name not in certain})


def meets_a_listener(listener: str, message: str) -> bool:
    """Whether Envoy refuses a listener because another, or its own old version, has its address open.

    Args:
        listener: its name.
        message: what Envoy says about it.
    """
    # At the very beginning: what comes later may be a quote of what a user wrote.
    own = message.removeprefix(f"Error adding/updating listener(s) {listener}: ")
    return own.startswith(f"error adding listener: '{listener}' has duplicate address '")


def meets_a_socket(message: str) -> bool:
    """Whether Envoy refuses a listener because a socket has its address: of another process, or its own."""
    failure = bind_failure(message)
    return failure is not None and failure.in_use


def _entries(message: str, sent: Collection[str]) -> list[tuple[str, str]]:
    """The names in a message, each with what follows it; empty if the message does not begin with one."""
    beginning = next((each for each in _BEGINNINGS if message.startswith(each)), None)
    if beginning is None:
        return []
    separator = _BEGINNINGS[beginning]
    entries: list[tuple[str, str]] = []
    for piece in message.removeprefix(beginning).rstrip("\n").split(separator):
        name, colon, words = piece.partition(": ")
        if colon and name in sent:
            entries.append((name, words))
        elif entries:
            name, words = entries[-1]
            entries[-1] = name, f"{words}{separator}{piece}"
        else:
            return []
    return entries


def _quotes_nobody(name: str, words: str) -> bool:
    """Whether all of a reason is Envoy's own, so that what follows it is as certain."""
    return "\n" not in words and (meets_a_listener(name, words) or bind_failure(words) is not None)
