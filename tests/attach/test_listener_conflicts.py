"""Who wins among the listeners of a Gateway and of its ListenerSets."""

from __future__ import annotations

import pytest

from moongate.api.base import ListenerId, Ref
from moongate.api.listenerset import ListenerSet
from moongate.attach.listener_conflicts import Place, conflicts
from tests.core import EG

FIRST = Ref.of(ListenerSet, "shop", "first")
LATER = Ref.of(ListenerSet, "shop", "later")


def place(owner: Ref, name: str, protocol: str = "HTTP", port: int = 80, hostname: str = "") -> Place:
    return Place(ListenerId(EG, owner, name), protocol, port, hostname)


def lost(*places: Place) -> dict[str, str]:
    """The losers with their reasons."""
    return {each.name: reason for each, (reason, _) in conflicts(places, 10_000).items()}


def test_the_gateway_wins_a_hostname_then_the_first_set() -> None:
    assert lost(place(EG, "a"), place(FIRST, "b"), place(LATER, "c")) == dict.fromkeys(
        "bc", "HostnameConflict"
    )
    assert lost(place(FIRST, "b"), place(LATER, "c")) == {"c": "HostnameConflict"}
    assert lost(place(EG, "a", hostname="x.io"), place(FIRST, "b"), place(LATER, "c", hostname="y.io")) == {}


def test_duplicates_within_one_set_all_lose_and_nobody_takes_their_place() -> None:
    assert lost(place(FIRST, "a"), place(FIRST, "b"), place(LATER, "c")) == dict.fromkeys(
        "abc", "HostnameConflict"
    )


def test_the_protocol_of_a_port_is_that_of_the_gateway_then_of_the_first_set() -> None:
    assert lost(place(EG, "a", "HTTP"), place(FIRST, "b", "TCP")) == {"b": "ProtocolConflict"}
    assert lost(place(FIRST, "a", "TLS", hostname="x.io"), place(LATER, "b", "HTTP")) == {
        "b": "ProtocolConflict"
    }
    assert lost(place(EG, "a", "HTTPS"), place(FIRST, "b", "TLS", hostname="x.io")) == {}
    assert lost(place(EG, "a", "TCP"), place(FIRST, "b", "UDP")) == {}


@pytest.mark.parametrize("protocol", ["HTTP", "TCP"])
def test_a_set_that_disagrees_with_itself_takes_the_port_from_nobody(protocol: str) -> None:
    assert lost(place(FIRST, "a", "TCP"), place(FIRST, "b", "HTTP"), place(LATER, "c", protocol)) == {
        "a": "ProtocolConflict",
        "b": "ProtocolConflict",
    }


def test_a_gateway_that_disagrees_with_itself_leaves_the_port_to_nobody() -> None:
    assert lost(place(EG, "a", "TCP"), place(EG, "b", "HTTP"), place(FIRST, "c", "HTTP")) == dict.fromkeys(
        "abc", "ProtocolConflict"
    )


def test_a_port_of_tcp_or_udp_has_one_listener_the_first() -> None:
    for protocol in ("TCP", "UDP"):
        places = (place(EG, "a", protocol), place(FIRST, "b", protocol), place(LATER, "c", protocol))
        assert lost(*places) == dict.fromkeys("bc", "ProtocolConflict")


def test_ports_that_are_one_to_envoy_go_to_the_first() -> None:
    assert lost(place(EG, "a", port=10_080), place(FIRST, "b", port=80)) == {"b": "PortUnavailable"}
    assert lost(place(EG, "a", port=10_080), place(FIRST, "b", "UDP", port=80)) == {}


def test_a_loser_is_told_who_has_its_place() -> None:
    messages = [
        conflict.message for conflict in conflicts((place(FIRST, "a"), place(LATER, "b")), 0).values()
    ]

    assert messages == [
        "Hostname (any) of port 80 belongs to listener a of ListenerSet shop/first, which comes first."
    ]
