"""How many exact hostnames listeners have."""

from __future__ import annotations

import pytest

from moongate.api.base import ListenerId
from moongate.attach import sizes
from moongate.attach.routes import hosts_in
from moongate.attach.sizes import are_large, is_exact
from moongate.store import shard
from moongate.world import World
from tests.attach.test_scopes import LISTENER, core
from tests.core import EG
from tests.faults import faulty, put_fault
from tests.worlds import routes_with_services


def test_a_wildcard_is_no_exact_hostname() -> None:
    assert [is_exact(host) for host in ("a.test", "*.test", "*", "")] == [True, False, False, False]


def test_listeners_are_large_by_their_exact_hostnames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "LARGE", 2)

    assert not are_large(core("a.test", "*.test").db, (LISTENER,))
    assert are_large(core("a.test", "b.test").db, (LISTENER,))


def test_a_listener_that_fails_counts_as_it_last_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "LARGE", 2)
    with faulty():
        world = World.of(routes_with_services(2))
        listener = ListenerId(EG, EG, "http")
        for n in range(2):
            put_fault(world, (hosts_in, (EG, shard(f"h{n}.example.com"))), "before")
        world.pull()

        assert are_large(world.db, (listener,))
