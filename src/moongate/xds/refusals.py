"""What Envoy says of a configuration that it refuses, without the configuration.

Envoy quotes the whole message that it refuses, a route table with all its routes, before it says why. In it
stand password digests and private keys, and what Envoy says is shown in logs and statuses.

Fact: a quote begins with a marker of protobuf's and ends in a line break; line breaks of values are escaped.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_QUOTE: Final = re.compile(
    r"(?:: )?goo\.gle/debug\w+\b.*?(?:\n: (?=Proto constraint validation failed \()|\Z)", re.DOTALL
)
_CONSTRAINT: Final = "Proto constraint validation failed ("
_CAUSED: Final = " | caused by "
_NO_MORE: Final = "Envoy quotes what it refuses, and says no more"
_CANNOT_BIND: Final = re.compile(
    # At the very beginning: what comes later may be a quote of what a user wrote.
    r"(?:Error adding/updating listener\(s\) [^ ]+: )?"
    r"cannot bind '(?P<address>[^']*):(?P<port>\d{1,5})': (?P<why>[^\n]*)"
)


class BindFailure(NamedTuple):
    """Where a listener cannot be opened, and why in the words of the operating system."""

    address: str
    port: int
    why: str

    @property
    def in_use(self) -> bool:
        """Whether some socket has the address."""
        return "address already in use" in self.why.lower()


def of_clusters(lacks: Iterable[tuple[str, str]]) -> str:
    """Why something cannot be in force that needs clusters which Envoy refuses.

    Args:
        lacks: the clusters, each with Envoy's message about it.
    """
    return "; ".join(f"cluster {name}: {why}" for name, why in lacks)


def bind_failure(message: str) -> BindFailure | None:
    """What cannot be bound, if Envoy refuses a listener for that; its message begins with it then."""
    failure = _CANNOT_BIND.match(message)
    return None if failure is None else BindFailure(failure["address"], int(failure["port"]), failure["why"])


def unquoted(message: str) -> str:
    """A message of Envoy without what it quotes."""
    return _QUOTE.sub(lambda quote: ": " if quote.start() > 0 and quote.end() < len(message) else "", message)


def reason(message: str) -> str:
    """Why Envoy refuses something, from its message: of a chain of reasons the one that names the field."""
    text = unquoted(message)
    _, constraint, chain = text.rpartition(_CONSTRAINT)
    why = chain.strip().removesuffix(")").split(_CAUSED)[-1] if constraint else text.strip()
    return why or _NO_MORE  # Envoy cuts long messages off
