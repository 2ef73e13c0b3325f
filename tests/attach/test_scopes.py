"""Which hostnames have a part of their own in scoped tables."""

from __future__ import annotations

import pytest

from moongate.api.base import ListenerId
from moongate.attach import scopes
from moongate.attach.scopes import has_scope, split_hosts
from moongate.store import shard
from tests.core import EG, Core, gateway, http

LISTENER = ListenerId(EG, EG, "http")


ROUTE = """
    apiVersion: gateway.networking.k8s.io/v1
    kind: HTTPRoute
    metadata: {{name: {name}, namespace: default}}
    spec:
      parentRefs: [{{name: eg}}]
      hostnames: [{hosts}]
"""


def core(*hosts: str) -> Core:
    routes = (ROUTE.format(name=f"r{n}", hosts=f"'{host}'") for n, host in enumerate(hosts))
    return Core(gateway(http("http")), *routes)


def test_only_exact_hostnames_have_a_part_of_their_own() -> None:
    db = core("a.test", "*.test").db

    assert has_scope(db, "a.test")
    assert not has_scope(db, "*.test")
    assert not has_scope(db, "")
    assert split_hosts(db, LISTENER, shard("a.test"))[0] == ("a.test",)
    assert split_hosts(db, LISTENER, shard("*.test"))[1] == ("*.test",)


def test_hostnames_of_one_hash_have_none_as_envoy_would_take_one_for_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scopes, "_hashed", len)
    db = core("aa.test", "bb.test", "c.test").db

    assert [has_scope(db, host) for host in ("aa.test", "bb.test", "c.test")] == [False, False, True]


def test_hostnames_of_listeners_have_hashes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A route without hostname is served under that of its listener, a part like any other."""
    monkeypatch.setattr(scopes, "_hashed", len)
    db = Core(gateway(http("all"), http("own", "aa.test")), ROUTE.format(name="r", hosts="'bb.test'")).db

    assert [has_scope(db, host) for host in ("aa.test", "bb.test")] == [False, False]


def test_a_hostname_with_the_hash_of_the_shared_part_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "_hashed", len)
    like = "a" * (len(scopes.OTHERS_KEY) - len(".test")) + ".test"

    assert not has_scope(core(like).db, like)
