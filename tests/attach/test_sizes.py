"""How many exact hostnames listeners have."""

from __future__ import annotations

import pytest

from moongate.attach import sizes
from moongate.attach.routes import hosts_in
from moongate.attach.sizes import is_exact, table_size
from moongate.store import shard
from moongate.world import World
from tests import worlds
from tests.attach.test_scopes import LISTENER, core
from tests.core import Core, gateway, http
from tests.faults import faulty, put_fault

ROUTE_OF_ANY = """
    apiVersion: gateway.networking.k8s.io/v1
    kind: HTTPRoute
    metadata: {name: any, namespace: default}
    spec: {parentRefs: [{name: eg}]}
"""


def test_a_wildcard_is_no_exact_hostname() -> None:
    assert [is_exact(host) for host in ("a.test", "*.test", "*", "")] == [True, False, False, False]


def test_a_table_is_large_by_its_exact_hostnames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "LARGE", 2)

    assert table_size(core("a.test", "*.test").db, (LISTENER,)) == (False, True)
    assert table_size(core("a.test", "b.test").db, (LISTENER,)) == (True, False)


def test_the_hostname_of_a_listener_counts_only_with_a_route_for_it() -> None:
    """A listener without hostname may have routes for any host, but mostly has none."""
    assert not table_size(core("a.test").db, (LISTENER,)).has_others
    assert table_size(Core(gateway(http("http")), ROUTE_OF_ANY).db, (LISTENER,)).has_others


def test_a_listener_that_fails_counts_as_it_last_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "LARGE", 2)
    with faulty():
        world = World.of(worlds.routes_with_services(2))
        for n in range(2):
            put_fault(world, (hosts_in, (worlds.EG, shard(f"h{n}.example.com"))), "before")
        world.pull()

        assert table_size(world.db, (LISTENER,)).large
