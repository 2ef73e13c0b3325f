"""Whether a document that cannot be read may be a policy that says who may pass.

At the start of moongate, no last good state of such a document is known. If it were skipped, the routes that
it protects would be open. So all that it may concern answers 500 until it can be read: the routes and
Gateways of its namespace, or everything if the document does not say its namespace.

Rules
=====
1. A document is judged by its kind if that can be made out: ``kind: SecurityPolcy`` may be a SecurityPolicy,
   ``kind: HTTPRoute`` is none, whatever else is wrong with it. A BackendTLSPolicy counts, too: without it
   requests would be sent in the clear, and to whoever answers.
2. A kind of Envoy Gateway that nobody knows, or that is missing, may be such a policy.
3. A document of any kind of a gateway is one if it has a field that only such a policy has.
4. A ClientTrafficPolicy counts if it mentions ``clientValidation``, or a misspelt one.
5. If a text has no line with a kind, it is judged by all its words. One that is cut off in its apiVersion
   may be such a policy if the beginning is that of its apiVersion.
6. A document that is none of these may be a route by its kind, or by its group or the beginning of its
   apiVersion if it has none.
7. A file of which nothing can be read may contain anything.
"""

from __future__ import annotations

import difflib
import re
from typing import Final

from moongate.api.backendtlspolicy import BackendTLSPolicy
from moongate.api.base import ENVOY_GROUP
from moongate.api.envoygateway import EnvoyGateway
from moongate.attach.route_kinds import ROUTE_TYPES
from moongate.kinds import KINDS, UNBUILT_KINDS
from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from moongate.policies.security_policy import SecurityPolicy

EVERYTHING: Final = ""
"""The scope of a document whose namespace is unknown: all routes. Other scopes are namespaces."""

_ALIKE: Final = 0.8
_KIND: Final = re.compile(r"^[\"']?kind[\"']?[ \t]*:[ \t]*[\"']?([\w-]+(?: [\w-]+)*)", re.MULTILINE)
_ANY_KIND: Final = re.compile(r"\bkind[\"']?[ \t]*:[ \t]*[\"']?([\w-]+)")
_WORD: Final = re.compile(r"\w{9,25}")
_CLIENT_CHECK: Final = "clientValidation"
_FIELD: Final = re.compile(r"\b(?:apiKeyAuth|authorization|basicAuth|extAuth|jwt|oidc)[\"']?[ \t]*:")
"""Fields of a SecurityPolicy that say who may pass. Each is a key, not the value of another."""
_OTHERS: Final = frozenset(
    kind for _, kind in KINDS.keys() | UNBUILT_KINDS | {(ENVOY_GROUP, EnvoyGateway.KIND)}
)
"""All kinds that are known."""
_VERSION: Final = f"{ENVOY_GROUP}/{SecurityPolicy.VERSIONS[0]}"
_ROUTE_VERSIONS: Final = sorted({f"{of.GROUP}/{version}" for of in ROUTE_TYPES for version in of.VERSIONS})
_DATA: Final = frozenset({"ConfigMap", "Secret"})
"""Kinds whose keys users choose."""


def may_guard(text: str) -> bool:
    """Whether a text that is no sound document may be a policy that says who may pass."""
    text = text.replace("\0", "")  # of UTF-16
    named = set(_KIND.findall(text))
    if not named:
        of_envoy = f"{ENVOY_GROUP}/" in text or _is_cut_off(text, _VERSION)
        return of_envoy or _has_field(text) or any(_is_like_kind(w, text) for w in _WORD.findall(text))
    return "List" in named or any(is_like_guard(kind, text) for kind in named)


def guards_in(text: str) -> int:
    """How many such policies a text may have that may have one; its separators may be broken."""
    return max(1, sum(_is_like_kind(kind, text) for kind in _ANY_KIND.findall(text)))


def kinds_in(text: str) -> frozenset[str]:
    """The words of a text that may be the kind of what it defines; all, if none is said to be one."""
    kinds = _KIND.findall(text) or _ANY_KIND.findall(text)[:1]
    if any(kind.endswith("List") for kind in kinds):
        kinds = _ANY_KIND.findall(text)
    return frozenset(kinds or _WORD.findall(text))


def may_route(text: str) -> bool:
    """Whether a text that is no sound document may be a route, and no policy that says who may pass."""
    if may_guard(text):
        return False
    named = set(_KIND.findall(text))
    if not named and any(f"{of.GROUP}/" in text for of in ROUTE_TYPES):
        return True
    is_cut_off = any(_is_cut_off(text, version) for version in _ROUTE_VERSIONS)
    return is_cut_off or any(map(is_like_route, named or set(_WORD.findall(text))))


def is_like_route(kind: str) -> bool:
    """Whether a word may have been meant as the kind of a route."""
    return any(is_like(kind, route_type.KIND) for route_type in ROUTE_TYPES)


def is_like_guard(kind: str, text: str) -> bool:
    """Whether a word may have been meant as the kind of such a policy.

    Args:
        kind: the word.
        text: its document.
    """
    if _is_like_kind(kind, text) or (kind not in _DATA and _has_field(text)):
        return True
    return f"{ENVOY_GROUP}/" in text and not any(is_like(kind, other) for other in _OTHERS)


def _is_like_kind(word: str, text: str) -> bool:
    if is_like(word, SecurityPolicy.KIND) or is_like(word, BackendTLSPolicy.KIND):
        return True
    return is_like(word, ClientTrafficPolicy.KIND) and any(
        is_like(other, _CLIENT_CHECK) for other in _WORD.findall(text)
    )


def _is_cut_off(text: str, version: str) -> bool:
    """Whether a text ends within its apiVersion, which may be a known one."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    key, _, value = "\n".join(lines).strip("{ \n").partition(":")
    key, value = key.strip("\"' "), value.strip("\"' ")
    return key.startswith("api") and (
        version.startswith(value) if key == "apiVersion" else not value and "apiVersion".startswith(key)
    )


def _has_field(text: str) -> bool:
    return _FIELD.search(text) is not None


def is_like(word: str, right: str) -> bool:
    """Whether a word is another, or was probably meant as it."""
    if word == right:
        return True
    return abs(len(word) - len(right)) <= 3 and (
        difflib.SequenceMatcher(None, word.lower(), right.lower()).ratio() >= _ALIKE
    )
