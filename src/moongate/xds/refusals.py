"""What Envoy says of a configuration that it refuses, without the configuration.

Envoy quotes the whole message that it refuses, a route table with all its routes, before it says why. In it
stand password digests and private keys, and what Envoy says is shown in logs and statuses.

Fact: a quote begins with a marker of protobuf's and ends in a line break; line breaks of values are escaped.
"""

from __future__ import annotations

import re
from typing import Final

_QUOTE: Final = re.compile(
    r"(?:: )?goo\.gle/debug\w+\b.*?(?:\n: (?=Proto constraint validation failed \()|\Z)", re.DOTALL
)
_CONSTRAINT: Final = "Proto constraint validation failed ("
_CAUSED: Final = " | caused by "
_NO_MORE: Final = "Envoy quotes what it refuses, and says no more"


def unquoted(words: str) -> str:
    """What Envoy says, in its words, but for what it quotes."""
    return _QUOTE.sub(lambda quote: ": " if quote.start() > 0 and quote.end() < len(words) else "", words)


def reason(words: str) -> str:
    """Why Envoy refuses something, in its words: of a chain of reasons the one that names the field."""
    said = unquoted(words)
    _, constraint, chain = said.rpartition(_CONSTRAINT)
    why = chain.strip().removesuffix(")").split(_CAUSED)[-1] if constraint else said.strip()
    return why or _NO_MORE  # Envoy cuts long messages off
