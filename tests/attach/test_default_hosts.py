"""Requests without a hostname are for the one that stands out, or for none."""

from __future__ import annotations

from moongate.api.base import ListenerId
from moongate.attach.default_hosts import DefaultHost, default_host
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


def chosen(listeners: tuple[str, ...], *routes: str) -> DefaultHost:
    """The choice for the listener ``http``; a route is its hostnames."""
    manifests = (ROUTE.format(name=f"r{n}", hosts=hosts) for n, hosts in enumerate(routes))
    return default_host(Core(gateway(*listeners), *manifests).db, LISTENER)


def test_the_listeners_own_hostname_comes_first() -> None:
    assert chosen((http("http", "a.test"),), "a.test") == DefaultHost("a.test")


def test_of_listeners_that_share_a_chain_the_first_with_an_exact_hostname_counts() -> None:
    shared = (http("http", "*.test"), http("b", "b.test"), http("c", "c.test"))

    assert chosen(shared) == DefaultHost("b.test")


def test_a_listener_of_another_port_says_nothing() -> None:
    assert chosen((http("http"), http("b", "b.test", 81))) == DefaultHost("")


def test_without_one_the_only_exact_hostname_of_routes_counts_however_often_it_stands_there() -> None:
    assert chosen((http("http"),), "a.test", "a.test, '*.a.test'") == DefaultHost("a.test")


def test_of_several_hostnames_none_stands_out() -> None:
    assert chosen((http("http"),), "b.test", "a.test, c.test").host == ""
    assert len(chosen((http("http"),), "b.test", "a.test, c.test").candidates) == 2


def test_wildcards_and_routes_for_any_host_say_nothing() -> None:
    assert chosen((http("http", "*.test"),), "'*.test'") == DefaultHost("")
