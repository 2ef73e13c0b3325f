"""Whether a document that cannot be read may be a policy that says who may pass.

At the start of moongate, no last good state of such a document is known. If it were skipped, the routes that
it protects would be open. So all that it may concern answers 500 until it can be read: the routes and
Gateways of its namespace, or everything if the document does not say its namespace.

Rules
=====
1. A document is judged by its kind if that can be made out: ``kind: SecurityPolcy`` may be a SecurityPolicy,
   ``kind: HTTPRoute`` is none, whatever else is wrong with it.
2. A ClientTrafficPolicy counts if it mentions ``clientValidation``.
3. If a text has no line with a kind, it is judged by all its words.
4. A file of which nothing can be read may contain anything.
"""

from __future__ import annotations

import difflib
import re
from typing import Final

from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from moongate.policies.security_policy import SecurityPolicy

EVERYTHING: Final = ""
"""The scope of a document whose namespace is unknown: all routes. Other scopes are namespaces."""

_ALIKE: Final = 0.8
_KIND: Final = re.compile(r"^[\"']?kind[\"']?[ \t]*:[ \t]*[\"']?(\w+)", re.MULTILINE)
_WORD: Final = re.compile(r"\w{9,25}")
_CLIENT_CHECK: Final = "clientValidation"


def may_guard(text: str) -> bool:
    """Whether a text that is no sound document may be a policy that says who may pass."""
    kinds = set(_KIND.findall(text)) or set(_WORD.findall(text))
    return any(is_like_guard(kind, text) for kind in kinds) or "List" in kinds


def is_like_guard(kind: str, text: str) -> bool:
    """Whether a word may have been meant as the kind of such a policy.

    Args:
        kind: the word.
        text: its document.
    """
    if _is_like(kind, SecurityPolicy.KIND):
        return True
    return _CLIENT_CHECK in text and _is_like(kind, ClientTrafficPolicy.KIND)


def _is_like(word: str, kind: str) -> bool:
    if word == kind:
        return True
    return abs(len(word) - len(kind)) <= 3 and (
        difflib.SequenceMatcher(None, word.lower(), kind.lower()).ratio() >= _ALIKE
    )
