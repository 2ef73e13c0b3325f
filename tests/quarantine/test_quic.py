"""Listeners for HTTP/3 that Envoys refuse alone, or with the one beside them over TCP."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener

from moongate.api.base import Ref
from moongate.api.envoygateway import EnvoyGateway
from moongate.policies.client_traffic_policy import ClientTrafficPolicy
from moongate.policies.security_policy import SecurityPolicy
from moongate.xds.filter_chains import DIRECT_RESPONSE
from tests.core import IN_CLUSTER, ON_HOST
from tests.listeners import client_traffic_policy
from tests.quarantine.test_listeners import (
    BAD_CHAIN,
    BAD_HEADER,
    Fleet,
    bad_chain,
    both,
    dislikes,
    forwarded,
    is_quic,
    manager,
    takes,
)
from tests.xds.test_filters import auth

QUIC = "default/eg/a-quic"
HTTP3 = "http3: {}"


def over_quic(refuses: Callable[[FilterChain], bool]) -> Callable[[Listener], bool]:
    """An Envoy that refuses some chains, but only for QUIC."""
    return lambda listener: is_quic(listener) and any(map(refuses, listener.filter_chains))


def has_bad_filter(chain: FilterChain) -> bool:
    return any(BAD_HEADER in forwarded(one) for one in manager(chain).http_filters)


def serve(*names: str, envoys: int = 1, config: EnvoyGateway = ON_HOST) -> Fleet:
    fleet = Fleet(*names, envoys=envoys, config=config)
    fleet.apply(client_traffic_policy(HTTP3, "a", "first"))
    assert set(fleet.serving(quic=True).values()) == {"open"}
    return fleet


def refuse(fleet: Fleet, refuses: Callable[[Listener], bool]) -> None:
    for each in fleet.envoys.values():
        each.refuses = refuses


@both
def test_a_chain_that_is_refused_over_quic_alone_stays_as_it_was_there(config: EnvoyGateway) -> None:
    """And is as it should be over TCP, as are all others over both."""
    fleet = serve("a", "b", config=config)
    refuse(fleet, over_quic(bad_chain))

    fleet.apply(client_traffic_policy(BAD_CHAIN, "b", "bad"))
    fleet.apply(
        client_traffic_policy(f"{HTTP3}\npath: {{escapedSlashesAction: RejectRequest}}", "a", "first")
    )

    [refusal] = fleet.refusals().values()
    assert refusal.what == f"filter chain default/eg/b of listener {QUIC}"
    assert [listener.name for listener in refusal.listeners] == ["b"]
    assert fleet.serving() == fleet.serving(quic=True) == {"a": "open", "b": "open"}
    tcp, quic = (fleet.envoys["e0"].chains(quic=each) for each in (False, True))
    assert (manager(tcp["default/eg/b"]).merge_slashes, manager(quic["default/eg/b"]).merge_slashes) == (
        False,
        True,
    )
    for chains in tcp, quic:
        assert manager(chains["default/eg/a"]).path_with_escaped_slashes_action


@both
def test_a_chain_that_never_was_good_over_quic_is_left_out_there(config: EnvoyGateway) -> None:
    """QUIC has no chain that only ends connections, and Envoy would refuse one."""
    fleet = Fleet("a", "b", config=config)
    refuse(
        fleet, over_quic(lambda chain: chain.name.endswith("b") or chain.filters[-1].name == DIRECT_RESPONSE)
    )

    fleet.apply(client_traffic_policy(HTTP3, "a", "first"))

    assert fleet.serving() == {"a": "open", "b": "open"}
    assert fleet.serving(quic=True) == {"a": "open", "b": ""}


def test_a_listener_for_quic_that_is_refused_as_such_leaves_the_one_of_tcp() -> None:
    fleet = Fleet("a", "b")
    refuse(fleet, is_quic)

    fleet.apply(client_traffic_policy(HTTP3, "a", "first"))
    fleet.apply(auth("staff", "a", "x-user"))

    assert fleet.serving() == {"a": "guarded", "b": "open"}
    assert fleet.serving(quic=True) == {"a": "", "b": ""}
    assert fleet.quarantine.refusals()
    assert {each.name for refusal in fleet.quarantine.refusals() for each in refusal.listeners} == {"a", "b"}

    refuse(fleet, takes)
    fleet.delete(Ref.of(ClientTrafficPolicy, "default", "first"))
    fleet.apply(client_traffic_policy(HTTP3, "b", "again"))

    assert fleet.quarantine.refusals() == ()
    assert fleet.serving(quic=True) == {"a": "guarded", "b": "open"}


@both
@pytest.mark.parametrize("envoys", [1, 2])
def test_nobody_passes_over_quic_where_only_its_listener_lacks_the_filter(
    config: EnvoyGateway, envoys: int
) -> None:
    """While it is searched, and when it is found; and over TCP the filter is in force in the end."""
    fleet = serve("a", "b", config=config, envoys=envoys)
    refuse(fleet, takes)
    fleet.envoys["e0"].refuses = over_quic(has_bad_filter)
    seen: set[str] = set()

    def watch() -> None:
        routes = fleet.envoys["e0"].routes("a")
        if any("basic" in one for route in routes for one in route.typed_per_filter_config):
            seen.update(each.answers("a", quic=True) for each in fleet.envoys.values())

    fleet.watch = watch
    fleet.apply(auth("staff", "a", BAD_HEADER))

    assert "open" not in seen
    assert fleet.serving() == {"a": "guarded", "b": "open"}
    assert fleet.serving(quic=True) == {"a": "", "b": "open"}
    [refusal] = fleet.quarantine.refusals()
    assert refusal.what.endswith(f"of listener {QUIC}")
    assert [listener.name for listener in refusal.listeners] == ["a"]

    fleet.delete(Ref.of(SecurityPolicy, "default", "staff"))

    assert fleet.quarantine.refusals() == ()
    assert fleet.serving(quic=True) == {"a": "open", "b": "open"}


@both
def test_a_filter_that_is_refused_over_both_closes_its_routes_over_both(config: EnvoyGateway) -> None:
    fleet = serve("a", "b", config=config)
    refuse(fleet, dislikes)

    fleet.apply(auth("staff", "a", BAD_HEADER))

    assert fleet.serving() == {"a": "500", "b": "open"}
    assert fleet.serving(quic=True)["a"] in ("", "500")
    assert fleet.serving(quic=True)["b"] == "open"


def test_routes_are_not_closed_for_a_chain_that_has_left() -> None:
    """What Envoy had for QUIC before would let everybody pass, but it is gone."""
    fleet = serve("a", config=IN_CLUSTER)
    refuse(fleet, over_quic(has_bad_filter))

    fleet.apply(auth("staff", "a", BAD_HEADER))

    assert fleet.envoys["e0"].chains(quic=True) == {}
    assert fleet.serving() == {"a": "guarded"}


def test_what_stands_in_over_quic_may_be_refused_as_well() -> None:
    """A chain changes in its settings and in its filters, and Envoy refuses each change over QUIC."""
    fleet = serve("a", "b")
    refuse(fleet, over_quic(lambda chain: bad_chain(chain) or has_bad_filter(chain)))

    fleet.apply(client_traffic_policy(BAD_CHAIN, "b", "bad"), auth("staff", "b", BAD_HEADER))

    assert fleet.serving() == {"a": "open", "b": "guarded"}
    assert fleet.serving(quic=True) == {"a": "open", "b": ""}
    assert {each.name for one in fleet.quarantine.refusals() for each in one.listeners} == {"b"}

    fleet.delete(Ref.of(SecurityPolicy, "default", "staff"))
    fleet.delete(Ref.of(ClientTrafficPolicy, "default", "bad"))

    assert fleet.quarantine.refusals() == ()
    assert fleet.serving(quic=True) == {"a": "open", "b": "open"}
