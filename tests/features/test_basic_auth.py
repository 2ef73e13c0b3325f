"""Passwords are asked for, read from Secrets that may be read, and never shown."""

from __future__ import annotations

import base64

import pytest
from envoy.extensions.filters.http.basic_auth.v3.basic_auth_pb2 import BasicAuth as Filter
from envoy.extensions.filters.http.basic_auth.v3.basic_auth_pb2 import BasicAuthPerRoute

from moongate.api.base import ENVOY_GROUP, ObjectMeta, Ref, Resource
from moongate.api.core import ENCODED_TWICE, Secret
from moongate.api.gateway import ReferenceGrant, ReferenceGrantFrom, ReferenceGrantSpec, ReferenceGrantTo
from moongate.api.shared import SecretObjectReference
from moongate.attach.grants import GRANTS
from moongate.engine import Db
from moongate.features.base import Effective
from moongate.features.basic_auth import FEATURE, BasicAuth
from moongate.policies.effective import feature_problems
from moongate.policies.security_policy import SecurityPolicy
from moongate.store import Store

OWNER = Ref.of(SecurityPolicy, "default", "staff")
HASH = b"{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="
USERS = BasicAuth(users=SecretObjectReference(name="users"))
ELSEWHERE = BasicAuth(users=SecretObjectReference(name="users", namespace="vault"))


def world(*resources: Resource) -> Db:
    db = Db()
    Store(db, (GRANTS,)).apply({r.ref: r for r in resources})
    return db


def users(entries: bytes, namespace: str = "default") -> Secret:
    return Secret(metadata=ObjectMeta(name="users", namespace=namespace), data={".htpasswd": entries})


def grant(
    kind: str = "SecurityPolicy", namespace: str = "default", name: str | None = None
) -> ReferenceGrant:
    return ReferenceGrant(
        metadata=ObjectMeta(name="grant", namespace="vault"),
        spec=ReferenceGrantSpec(
            from_=(ReferenceGrantFrom(group=ENVOY_GROUP, kind=kind, namespace=namespace),),
            to=(ReferenceGrantTo(group="", kind="Secret", name=name),),
        ),
    )


def faults(db: Db, basic_auth: BasicAuth = USERS) -> list[str]:
    """What is wrong with the field."""
    return [problem.message for problem in feature_problems(db, FEATURE, Effective(basic_auth, OWNER))]


def test_good_entries_are_given_to_envoy_as_they_are() -> None:
    entries = b"# night shift\nalice:" + HASH + b"\n\nbob:" + HASH + b"\n"
    db = world(users(entries))

    assert faults(db) == []
    assert FEATURE.http_filter is not None
    config = FEATURE.http_filter.route(db, Effective(USERS, OWNER))
    assert config == BasicAuthPerRoute(users={"inline_bytes": entries})


def test_line_ends_of_windows_do_not_count_as_part_of_a_digest() -> None:
    db = world(users(b"alice:" + HASH + b"\r\nbob:" + HASH + b" \r\n"))

    assert faults(db) == []
    assert FEATURE.http_filter is not None
    config = FEATURE.http_filter.chain(db, Effective(USERS, OWNER))
    assert isinstance(config, Filter)
    assert config.users.inline_bytes == b"alice:" + HASH + b"\nbob:" + HASH + b"\n"


def test_the_backend_learns_the_name_in_the_header_that_was_asked_for() -> None:
    basic_auth = BasicAuth(users=SecretObjectReference(name="users"), forward_username_header="x-user")
    assert FEATURE.http_filter is not None
    config = FEATURE.http_filter.chain(world(users(b"alice:" + HASH)), Effective(basic_auth, OWNER))

    assert isinstance(config, Filter)
    assert config.forward_username_header == "x-user"


@pytest.mark.parametrize(
    "header", ["content-length", "Transfer-Encoding", "connection", "Host", "te", ":path", "a b"]
)
def test_a_name_is_not_forwarded_in_a_header_that_says_how_a_request_is_sent(header: str) -> None:
    """The user's name would be taken for a length or a host, and the request fail or hang."""
    basic_auth = BasicAuth(users=SecretObjectReference(name="users"), forward_username_header=header)
    [message] = faults(world(users(b"alice:" + HASH)), basic_auth)

    assert message.startswith(f"forwardUsernameHeader is {header!r}")


def test_each_policy_has_a_filter_of_its_own_that_is_off_elsewhere() -> None:
    """Otherwise the users of one route would pass on another."""
    assert FEATURE.http_filter is not None
    assert FEATURE.http_filter.disabled
    assert FEATURE.http_filter.instance(OWNER) == "envoy.filters.http.basic_auth/securitypolicy/default/staff"


def test_without_the_secret_there_is_nobody_to_let_in() -> None:
    assert faults(world()) == ["Secret default/users does not exist."]


def test_the_keys_that_the_secret_has_instead_are_named() -> None:
    """``htpasswd`` and ``auth`` are what other programs read."""
    db = world(Secret(metadata=ObjectMeta(name="users", namespace="default"), data={"htpasswd": b"c4n4ry"}))

    [message] = faults(db)

    assert message.endswith(" It has 'htpasswd'.")


@pytest.mark.parametrize("entries", [b"alice:" + HASH + b"\n", b"alice:" + HASH + b"\nbob:" + HASH * 9])
def test_entries_that_are_base64_still_are_reported_as_such(entries: bytes) -> None:
    """As where base64 is written under stringData, with line breaks or without."""
    [message] = faults(world(users(base64.encodebytes(entries))))

    assert message == f"The .htpasswd in Secret default/users {ENCODED_TWICE}."


@pytest.mark.parametrize("entries", [b"", b" \n \n"])
def test_a_secret_without_entries_is_a_problem(entries: bytes) -> None:
    [message] = faults(world(users(entries)))

    assert "has nothing under the key .htpasswd" in message


@pytest.mark.parametrize(
    ("kind", "group"), [("ConfigMap", ""), ("Secret", "example.com")], ids=["kind", "group"]
)
def test_only_a_secret_may_hold_passwords(kind: str, group: str) -> None:
    basic_auth = BasicAuth(users=SecretObjectReference(group=group, kind=kind, name="users"))
    [message] = faults(world(users(b"alice:" + HASH)), basic_auth)

    assert message.endswith("; it must name a Secret.")


def test_a_secret_of_another_namespace_needs_a_grant_there() -> None:
    [message] = faults(world(users(b"alice:" + HASH, "vault")), ELSEWHERE)

    assert "no ReferenceGrant there allows" in message


def test_a_grant_opens_a_secret_of_another_namespace() -> None:
    assert faults(world(users(b"alice:" + HASH, "vault"), grant()), ELSEWHERE) == []


@pytest.mark.parametrize(
    "other", [grant(kind="ClientTrafficPolicy"), grant(namespace="blue"), grant(name="others")]
)
def test_a_grant_for_somebody_or_something_else_opens_nothing(other: ReferenceGrant) -> None:
    [message] = faults(world(users(b"alice:" + HASH, "vault"), other), ELSEWHERE)

    assert "no ReferenceGrant there allows" in message


def test_without_a_grant_nobody_learns_what_secrets_there_are() -> None:
    assert faults(world(), ELSEWHERE) == faults(world(users(b"x", "vault")), ELSEWHERE)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b"hunter2", "is not of the form"),
        (b":" + HASH, "is not of the form"),
        (b"alice:$apr1$hunter2", "has no {SHA} digest"),
        (b"alice:{SHA}hunter2!", "is not 20 bytes in base64"),
        (b"alice:{SHA}aHVudGVyMg==", "is not 20 bytes in base64"),
        (b"bob:" + HASH, "names the user of line 1 again"),
    ],
)
def test_a_bad_entry_is_reported_by_its_line_and_not_by_its_text(line: bytes, fault: str) -> None:
    """Statuses and logs are read by more people than the Secret is."""
    [message] = faults(world(users(b"bob:" + HASH + b"\n" + line)))

    assert message.startswith("Line 2 of .htpasswd in Secret default/users ")
    assert fault in message
    assert not any(word in message for word in ("hunter2", "alice", "bob", "aHVu", HASH.decode()))


def test_every_bad_entry_is_reported_at_once() -> None:
    assert len(faults(world(users(b"a\nb:" + HASH + b"\nc:d\n")))) == 2


def test_a_policy_and_its_effective_value_hold_no_password() -> None:
    """They are logged and shown; the Secret is read only where protobuf is made."""
    assert HASH.decode() not in repr(Effective(USERS, OWNER)) + repr(FEATURE)


@pytest.mark.parametrize("header", ["x user", "x\nuser", ":path", "x-us\u00e9r", "x,y"])
def test_a_header_that_cannot_be_one_fails_the_policy_and_not_the_listener(header: str) -> None:
    basic_auth = BasicAuth(users=SecretObjectReference(name="users"), forward_username_header=header)
    effective = Effective(basic_auth, OWNER)
    assert FEATURE.check is not None

    (problem,) = FEATURE.check(world(users(b"alice:" + HASH)), effective)

    assert problem.path == "forwardUsernameHeader"
    assert repr(header) in problem.message
