"""Which fleets there are, and what holds for all Envoys of one."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from moongate.api.base import FleetId, Ref
from moongate.api.envoyproxy import EnvoyProxySpec
from moongate.api.gateway import Gateway, GatewayClass
from moongate.attach.envoy_listeners import envoy_listeners
from moongate.attach.fleets import bind_addresses, fleet_of, fleets, keeps_what_it_has, members
from moongate.attach.gateways import BIND, LOCALHOST, merged, proxy
from moongate.attach.listeners import listeners
from tests.attach.test_gateways import CLASS_WITH_PROXY, NAMED, envoy_proxy
from tests.core import (
    EG,
    EG_FLEET,
    GATEWAY_CLASS,
    IN_CLUSTER,
    ON_HOST,
    Core,
    allowing,
    gateway,
    http,
    listener_set,
)

OTHER = Ref.of(Gateway, "default", "other")
MERGED = FleetId(Ref.of(GatewayClass, "", "eg"))


def two(proxy: str = "{mergeGateways: true}", **other: Any) -> Core:
    """Two Gateways of a class, by its EnvoyProxy merged; the second one is older."""
    older = gateway(http("web", port=8080), name="other", **other).replace(
        "generation: 7", "generation: 7\n  creationTimestamp: '2020-01-01T00:00:00Z'"
    )
    younger = gateway(http("web")).replace(
        "generation: 7", "generation: 7\n  creationTimestamp: '2024-01-01T00:00:00Z'"
    )
    return Core(younger, older, CLASS_WITH_PROXY, envoy_proxy("class", proxy), config=IN_CLUSTER)


def test_each_gateway_has_a_fleet_of_its_own() -> None:
    core = two("{}")

    assert fleets(core.db) == (EG_FLEET, FleetId(OTHER))
    assert members(core.db, EG_FLEET) == (EG,)
    assert fleet_of(core.db, EG) == EG_FLEET
    assert members(core.db, MERGED) == ()


def test_merged_gateways_share_the_fleet_of_their_class() -> None:
    """The oldest first: where two Gateways want the same, it wins."""
    core = two()

    assert fleets(core.db) == (MERGED,)
    assert members(core.db, MERGED) == (OTHER, EG)
    assert {fleet_of(core.db, each) for each in (EG, OTHER)} == {MERGED}
    assert members(core.db, EG_FLEET) == ()


def test_the_configuration_may_merge_the_gateways_of_all_classes() -> None:
    core = Core(gateway(http("web")), config=IN_CLUSTER)
    assert IN_CLUSTER.envoy_proxy is None
    core.apply(CLASS_WITH_PROXY, envoy_proxy("class", "{mergeGateways: true}"))
    assert fleets(core.db) == (MERGED,)

    core.delete("EnvoyProxy", "default", "class")

    assert fleets(core.db) == (EG_FLEET,), "what is not there merges nothing"


def test_a_class_without_gateways_has_no_fleet() -> None:
    assert fleets(Core(CLASS_WITH_PROXY, envoy_proxy("class", "{mergeGateways: true}")).db) == ()


def test_a_gateway_that_is_not_ours_is_in_no_fleet() -> None:
    core = Core(gateway(http("web")).replace("Name: eg", "Name: other"))

    assert fleets(core.db) == ()
    assert members(core.db, EG_FLEET) == ()


def test_envoys_listen_for_all_gateways_that_they_serve() -> None:
    listening = envoy_listeners(two().db, MERGED)

    assert [(each.name, each.container_port) for each in listening] == [
        ("default/other/web", 8080),
        ("default/eg/web", 10080),
    ]


def test_a_set_of_an_older_gateway_goes_first_however_young_it_is() -> None:
    """So it is said of the Gateway that it is older: the set is not."""
    core = two(allowedListeners=allowing("All"))
    place = http("own", port=9090)
    of_older = listener_set(place, name="young").replace("name: eg", "name: other")
    younger = gateway(place).replace(
        "generation: 7", "generation: 7\n  creationTimestamp: '2024-01-01T00:00:00Z'"
    )
    core.apply(younger, of_older)

    (lost,) = listeners(core.db, EG)
    conflicted = next(each for each in lost.conditions if each.type == "Conflicted")
    assert (lost.ready, conflicted.reason) == (False, "HostnameConflict")
    assert conflicted.message.startswith(
        "Gateway default/other is older, and its listener own of ListenerSet default/young has the same port "
        "and hostname."
    )


def test_a_port_of_another_protocol_of_an_older_gateway_is_named_as_a_port() -> None:
    """Hostnames make no difference there."""
    core = two()
    young, old = (
        text.replace("generation: 7", f"generation: 7\n  creationTimestamp: '{year}-01-01T00:00:00Z'")
        for text, year in [
            (gateway("{name: own, port: 9090, protocol: TCP}"), 2024),
            (gateway(http("own", port=9090), name="other"), 2020),
        ]
    )
    core.apply(young, old)

    (lost,) = listeners(core.db, EG)
    conflicted = next(each for each in lost.conditions if each.type == "Conflicted")
    assert conflicted.reason == "ProtocolConflict"
    assert conflicted.message.startswith(
        "Gateway default/other is older, and its listener own has the same port."
    )


def test_what_an_older_gateway_does_not_serve_itself_it_takes_from_nobody() -> None:
    core = two()
    place = http("own", port=9090)
    young, old = (
        text.replace("generation: 7", f"generation: 7\n  creationTimestamp: '{year}-01-01T00:00:00Z'")
        for text, year in [
            (gateway(place), 2024),
            (
                gateway(place.replace("}", ", allowedRoutes: {namespaces: {from: Selector}}}"), name="other"),
                2020,
            ),
        ]
    )
    core.apply(young, old)

    assert [each.ready for ref in (OTHER, EG) for each in listeners(core.db, ref)] == [False, True]


def test_a_gateway_has_no_envoy_proxy_of_its_own_where_it_shares_envoys() -> None:
    core = two(infrastructure=NAMED)
    core.apply(envoy_proxy("own", "{concurrency: 7}"))

    assert proxy(core.db, OTHER).spec.concurrency is None


def test_a_fleet_keeps_what_it_has_while_all_its_gateways_are_rejected() -> None:
    """One that is rejected alone does not stop the others."""
    rejected: dict[str, Any] = {"addresses": [{"type": "example.com/other", "value": "x"}]}
    core = two(**rejected)
    assert not keeps_what_it_has(core.db, MERGED)

    core.apply(gateway(http("web"), **rejected))

    assert keeps_what_it_has(core.db, MERGED)


@pytest.mark.parametrize(
    ("bind", "spec", "expected"),
    [
        (None, "{}", ("0.0.0.0",)),
        (None, "{ipFamily: DualStack}", ("::",)),
        (LOCALHOST, "{}", ("127.0.0.1",)),
        (LOCALHOST, "{ipFamily: IPv6}", ("::1",)),
        (LOCALHOST, "{ipFamily: DualStack}", ("127.0.0.1", "::1")),
        ("0.0.0.0", "{}", ("0.0.0.0",)),
        ("0.0.0.0", "{ipFamily: IPv6}", ("::",)),
        ("192.0.2.7", "{ipFamily: IPv6}", ("192.0.2.7",)),
    ],
)
def test_listeners_are_opened_where_the_host_says(
    bind: str | None, spec: str, expected: tuple[str, ...]
) -> None:
    """In a cluster nobody says so, and a pod is open to all; a laptop is not."""
    core = Core(gateway(http("web"), infrastructure=NAMED), envoy_proxy("own", spec), config=ON_HOST)
    core.db.put(BIND, bind)

    assert bind_addresses(core.db, EG_FLEET) == expected


@pytest.mark.parametrize(
    ("bind", "expected"),
    [(None, ("0.0.0.0",)), (LOCALHOST, ("192.0.2.7", "2001:db8::7")), ("0.0.0.0", ("0.0.0.0",))],
)
def test_addresses_of_a_gateway_are_where_it_is_opened_unless_the_host_says_it(
    bind: str | None, expected: tuple[str, ...]
) -> None:
    """In a cluster they are those of its Service."""
    asked = [{"value": "192.0.2.7"}, {"value": "2001:db8::7"}, {"type": "Hostname", "value": "x.io"}]
    core = Core(gateway(http("web"), addresses=asked))
    core.db.put(BIND, bind)

    assert bind_addresses(core.db, EG_FLEET) == expected


def test_where_listeners_are_opened_does_not_depend_on_which_there_are() -> None:
    core = Core(gateway(http("web")))
    core.db.put(BIND, LOCALHOST)
    bind_addresses(core.db, EG_FLEET)

    core.apply(gateway(http("web"), http("other", port=81)))
    with core.ran() as ran:
        assert bind_addresses(core.db, EG_FLEET) == ("127.0.0.1",)

    assert ran["bind_addresses"] == ran["proxy"] == 1
    assert "listeners" not in ran


def test_gateways_stay_together_while_the_settings_of_their_class_are_not_valid() -> None:
    """Or a slip in them would end the Envoys of all Gateways of the class."""
    core = two("{mergeGateways: true, concurrency: -5}")

    assert fleets(core.db) == (MERGED,)
    assert keeps_what_it_has(core.db, MERGED)


def test_gateways_stay_together_while_the_settings_of_their_class_are_gone() -> None:
    """The class still names them, so its Gateways are rejected; running Envoys must not end because of it."""
    core = two()
    core.db.put(merged("eg"), True)

    core.delete("EnvoyProxy", "default", "class")

    assert fleets(core.db) == (MERGED,)
    assert keeps_what_it_has(core.db, MERGED)
    core.apply(GATEWAY_CLASS)
    assert fleets(core.db) == (EG_FLEET, FleetId(OTHER)), "a class that names no settings has no error"


def test_gateways_stay_together_while_their_class_names_another_kind_of_settings() -> None:
    core = two()
    core.db.put(merged("eg"), True)

    core.apply(CLASS_WITH_PROXY.replace("kind: EnvoyProxy", "kind: ConfigMap"))

    assert fleets(core.db) == (MERGED,)
    assert keeps_what_it_has(core.db, MERGED)


def test_gateways_stay_apart_while_the_settings_that_keep_them_apart_are_gone() -> None:
    merging = structs.replace(IN_CLUSTER, envoy_proxy=EnvoyProxySpec(merge_gateways=True))
    core = Core(gateway(http("web")), CLASS_WITH_PROXY, envoy_proxy("class", "{}"), config=merging)
    assert fleets(core.db) == (EG_FLEET,)

    core.delete("EnvoyProxy", "default", "class")

    assert fleets(core.db) == (EG_FLEET,)
    core.apply(GATEWAY_CLASS)
    assert fleets(core.db) == (MERGED,)
