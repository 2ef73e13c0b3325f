"""Ask for a user name and a password (HTTP basic authentication) before a request reaches the backend.

Set by:      SecurityPolicy ``spec.basicAuth``
Precedence:  the most specific policy; with ``mergeType`` the policy that sets ``basicAuth``
Envoy:       ``envoy.filters.http.basic_auth``, extensions/filters/http/basic_auth/v3/basic_auth.proto
Cases:       basic_auth.md beside this file: its reference page and its golden tests

Rules
=====
1. No message, name or exception holds what stands in the Secret: an entry is named by its line number.
2. What Envoy would refuse is refused here, or one bad entry would hold up the whole listener.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.extensions.filters.http.basic_auth.v3.basic_auth_pb2 import BasicAuth as Filter
from envoy.extensions.filters.http.basic_auth.v3.basic_auth_pb2 import BasicAuthPerRoute

from moongate.api.base import Model, Ref
from moongate.api.core import ENCODED_TWICE, Secret
from moongate.api.shared import CONNECTION_HEADERS, SecretObjectReference
from moongate.engine import Db
from moongate.features.base import Effective, Feature, HttpFilter, Reference
from moongate.problem import Problem
from moongate.store import get

KEY = ".htpasswd"
"""The key of the Secret."""
_NOBODY = b"# users come with each route"
"""An htpasswd without users; Envoy refuses an empty one."""
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110, token. Envoy refuses a listener with some other names, and with it all other changes of it."""
SHA1_SIZE = 20
"""Bytes of a SHA-1 digest."""


class BasicAuth(Model, frozen=True, kw_only=True):
    """Users and their passwords, and how the backend learns who called."""

    users: SecretObjectReference
    """A Secret whose ``.htpasswd`` has lines ``user:{SHA}digest``, as ``htpasswd -s`` writes them."""
    forward_username_header: str | None = None
    """Header in which the backend finds the user's name."""


def references(basic_auth: BasicAuth) -> Iterator[Reference]:
    yield Reference.to_secret("users", basic_auth.users)


def check(db: Db, basic_auth: Effective[BasicAuth]) -> Iterator[Problem]:
    """Whether the Secret holds entries that Envoy takes, and the header can be one."""
    header = basic_auth.value.forward_username_header
    if header and not _HEADER.fullmatch(header):
        yield Problem(
            "forwardUsernameHeader",
            f"forwardUsernameHeader is {header!r}; a header's name is letters, digits and hyphens.",
        )
    if header and header.lower() in CONNECTION_HEADERS:
        yield Problem(
            "forwardUsernameHeader",
            f"forwardUsernameHeader is {header!r}, which says how a request is sent;"
            " it must be a header that has no meaning yet, such as x-user.",
        )
    ref = _secret(basic_auth)
    entries = _users(db, basic_auth)
    secret = get(db, Secret, ref)
    if not entries.strip():
        keys = secret.listed_keys if secret is not None and KEY not in secret.data else ""
        yield Problem(
            "users", f"{ref} has nothing under the key {KEY}; it must hold lines user:{{SHA}}digest.{keys}"
        )
    if secret is not None and secret.is_encoded_twice(KEY, b":"):
        yield Problem("users", f"The {KEY} in {ref} {ENCODED_TWICE}.")
        return
    seen: dict[bytes, int] = {}
    for number, line in enumerate(entries.split(b"\n"), start=1):
        if not line or line.startswith(b"#"):
            continue
        if fault := _fault(line):
            yield Problem("users", f"Line {number} of {KEY} in {ref} {fault}.")
            continue
        first = seen.setdefault(line.partition(b":")[0], number)
        if first != number:
            yield Problem("users", f"Line {number} of {KEY} in {ref} names the user of line {first} again.")


def _fault(line: bytes) -> str | None:
    """What is wrong with an entry, without a word of it."""
    user, colon, password = line.partition(b":")
    if not colon or not user:
        return "is not of the form user:{SHA}digest"
    if not password.startswith(b"{SHA}"):
        return "has no {SHA} digest, the only kind that Envoy knows; write it with htpasswd -s"
    try:
        digest = base64.b64decode(password.removeprefix(b"{SHA}"), validate=True)
    except binascii.Error:
        digest = b""
    return None if len(digest) == SHA1_SIZE else "has a {SHA} digest that is not 20 bytes in base64"


def _secret(basic_auth: Effective[BasicAuth]) -> Ref:
    return Reference.to_secret("users", basic_auth.value.users).target_from(basic_auth.owner_of("users")).ref


def _users(db: Db, basic_auth: Effective[BasicAuth]) -> bytes:
    secret = get(db, Secret, _secret(basic_auth))
    entries = secret.data.get(KEY, b"") if secret is not None else b""
    # Envoy counts a carriage return or a blank at the end of a line as part of the digest.
    return b"\n".join(line.strip() for line in entries.split(b"\n"))


def _chain(db: Db, basic_auth: Effective[BasicAuth]) -> Filter:
    return Filter(
        users=DataSource(inline_bytes=_users(db, basic_auth)),
        forward_username_header=basic_auth.value.forward_username_header or "",
    )


def _stable(basic_auth: BasicAuth | None) -> Filter:
    """The header with the user's name stands in the chain alone; users come with each route."""
    header = basic_auth.forward_username_header if basic_auth is not None else None
    return Filter(users=DataSource(inline_bytes=_NOBODY), forward_username_header=header or "")


def _route(db: Db, basic_auth: Effective[BasicAuth]) -> BasicAuthPerRoute:
    return BasicAuthPerRoute(users=DataSource(inline_bytes=_users(db, basic_auth)))


FEATURE = Feature(
    kind="SecurityPolicy",
    field="basic_auth",
    model=BasicAuth,
    references=references,
    check=check,
    http_filter=HttpFilter(
        name="envoy.filters.http.basic_auth",
        per_policy=True,
        disabled=True,
        chain=_chain,
        route=_route,
        stable=_stable,
        chain_says_all=True,
    ),
)
