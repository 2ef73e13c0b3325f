"""Which Gateway has a port of this machine that several ask for."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.api.base import FleetId, Ref
from moongate.api.gateway import Gateway, GatewayClass
from moongate.attach.envoy_listeners import envoy_listeners
from moongate.attach.fleets import bind_addresses
from moongate.attach.gateways import BIND, LOCALHOST
from moongate.attach.listeners import Listener, listeners
from moongate.world import World
from tests.attach.test_gateways import CLASS_WITH_PROXY, envoy_proxy
from tests.core import EG, GATEWAY_CLASS, IN_CLUSTER, ON_HOST, Core, gateway, http, read
from tests.faults import faulty, put_fault

OTHER = Ref.of(Gateway, "default", "other")
LATER = Ref.of(Gateway, "default", "later")
MERGED = FleetId(Ref.of(GatewayClass, "", "eg"))


def on_host(*manifests: str) -> Core:
    """A machine whose listeners are opened on loopback, unless ``spec.addresses`` says otherwise."""
    core = Core(*manifests, config=ON_HOST)
    core.db.put(BIND, LOCALHOST)
    return core


def made(text: str, when: str) -> str:
    return text.replace("generation: 7", f"generation: 7\n  creationTimestamp: '{when}'")


def at(*addresses: str, name: str, port: int = 8080) -> str:
    """A Gateway with a listener on some addresses of the machine."""
    return gateway(
        http("web", port=port),
        name=name,
        addresses=[{"type": "IPAddress", "value": each} for each in addresses],
    )


def listener(core: Core, ref: Ref = OTHER) -> Listener:
    (only,) = listeners(core.db, ref)
    return only


def reason(core: Core, ref: Ref = OTHER) -> str:
    """The reason of the listener's condition ``Accepted``."""
    return next(c.reason for c in listener(core, ref).conditions if c.type == "Accepted")


def test_of_two_gateways_the_first_by_name_has_the_port() -> None:
    """Files have no times. A restart must not give the port to the other Gateway."""
    core = on_host(gateway(http("web", port=8080)), gateway(http("web", port=8080), name="other"))

    assert (reason(core, EG), reason(core, OTHER)) == ("Accepted", "PortUnavailable")
    assert (listener(core, EG).ready, listener(core, OTHER).ready) == (True, False)


def test_the_older_gateway_has_the_port() -> None:
    core = on_host(
        made(gateway(http("web", port=8080)), "2024-01-01T00:00:00Z"),
        made(gateway(http("web", port=8080), name="other"), "2020-01-01T00:00:00Z"),
    )

    assert (reason(core, EG), reason(core, OTHER)) == ("PortUnavailable", "Accepted")


def test_the_conditions_name_the_gateway_that_has_the_port() -> None:
    core = on_host(gateway(http("mine", port=8080)), gateway(http("web", port=8080), name="other"))
    conditions = {c.type: c for c in listener(core).conditions}

    for type_ in ("Accepted", "Programmed"):
        assert conditions[type_].status == "False"
        assert conditions[type_].message.startswith(
            "Port 8080 of this machine belongs to listener mine of Gateway default/eg, which comes first"
        )


def test_the_port_goes_to_the_next_when_its_gateway_moves_or_goes() -> None:
    one, other, later = (gateway(http("web", port=8080), name=n) for n in ("eg", "other", "later"))
    core = on_host(one, other, later)
    assert [reason(core, ref) for ref in (EG, LATER, OTHER)] == ["Accepted", *["PortUnavailable"] * 2]

    core.apply(gateway(http("web", port=9090)))
    assert [reason(core, ref) for ref in (EG, LATER, OTHER)] == ["Accepted", "Accepted", "PortUnavailable"]

    core.delete("Gateway", "default", "later")
    assert reason(core) == "Accepted"


def test_other_listeners_of_the_later_gateway_are_served() -> None:
    core = on_host(
        gateway(http("web", port=8080)),
        gateway(http("web", port=8080), http("more", port=8081), name="other"),
    )

    (listening,) = envoy_listeners(core.db, FleetId(OTHER))
    assert listening.name == "default/other/more"


def test_a_listener_that_is_not_served_takes_no_port_from_another_gateway() -> None:
    """A fault of one Gateway must not close another one."""
    faulty = "{name: web, port: 8080, protocol: HTTPS}"

    assert reason(on_host(gateway(faulty), gateway(http("web", port=8080), name="other"))) == "Accepted"


@pytest.mark.parametrize(("protocol", "wanted"), [("TCP", "PortUnavailable"), ("UDP", "Accepted")])
def test_a_port_of_udp_is_another_than_that_of_tcp(protocol: str, wanted: str) -> None:
    raw = f"{{name: raw, port: 8080, protocol: {protocol}}}"

    assert reason(on_host(gateway(raw), gateway(http("web", port=8080), name="other"))) == wanted


def test_who_loses_one_port_takes_none_from_others() -> None:
    """``later`` has lost the port itself, so it is not the one that ``other`` loses it to."""
    core = on_host(*(gateway(http("web", port=8080), name=name) for name in ("eg", "later", "other")))

    assert "default/eg" in listener(core, OTHER).conditions[0].message


@pytest.mark.parametrize(
    ("one", "two", "meet"),
    [
        (["127.0.0.1"], ["127.0.0.2"], False),
        (["127.0.0.1"], [], True),
        (["127.0.0.2"], [], False),
        (["0.0.0.0"], ["127.0.0.2"], True),
        (["127.0.0.2"], ["0.0.0.0"], True),
        (["0.0.0.0"], ["::1"], False),
        (["::"], ["::1"], True),
        (["::"], ["0.0.0.0"], False),
        (["127.0.0.2", "127.0.0.3"], ["127.0.0.3", "127.0.0.4"], True),
        (["::1"], ["0:0:0:0:0:0:0:1"], True),
        (["0:0::0"], ["::1"], True),
        (["0:0::0"], ["127.0.0.1"], False),
    ],
)
def test_gateways_on_other_addresses_share_a_port(one: list[str], two: list[str], *, meet: bool) -> None:
    core = on_host(at(*one, name="eg"), at(*two, name="other"))

    assert (reason(core) == "PortUnavailable") is meet


@pytest.mark.parametrize(
    ("one", "two", "meet"),
    [
        ("IPv4", "IPv6", False),
        ("IPv4", "DualStack", True),
        ("IPv6", "DualStack", True),
        ("DualStack", "IPv4", True),
    ],
)
@pytest.mark.parametrize("bind", [LOCALHOST, None])
def test_gateways_of_other_ip_families_share_a_port(
    one: str, two: str, *, meet: bool, bind: str | None
) -> None:
    """Whether listeners are opened on loopback or on all addresses."""

    def of(name: str, family: str) -> list[str]:
        user = {"parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": name}}
        own = gateway(http("web", port=8080), name=name, infrastructure=user)
        return [own, envoy_proxy(name, f"{{ipFamily: {family}}}")]

    core = on_host(*of("eg", one), *of("other", two))
    core.db.put(BIND, bind)

    assert (reason(core) == "PortUnavailable") is meet


def test_udp_and_tcp_are_different_ports() -> None:
    core = on_host(
        gateway("{name: web, port: 8080, protocol: UDP}"), gateway(http("web", port=8080), name="other")
    )

    assert reason(core) == "Accepted"


def test_gateways_of_a_cluster_have_addresses_of_their_own() -> None:
    core = Core(gateway(http("web")), gateway(http("web"), name="other"), config=IN_CLUSTER)

    assert reason(core) == "Accepted"


def test_merged_gateways_share_a_port_and_others_do_not() -> None:
    """The Envoys of a class have the port that its oldest Gateway has, for all of its Gateways."""
    own = gateway(http("web", "c.test", 8080), name="middle").replace("Name: eg", "Name: own")
    core = on_host(
        CLASS_WITH_PROXY,
        envoy_proxy("class", "{mergeGateways: true}"),
        GATEWAY_CLASS.replace("name: eg", "name: own"),
        gateway(http("web", "a.test", 8080)),
        gateway(http("web", "b.test", 8080), name="other"),
        own,
    )

    assert [reason(core, ref) for ref in (EG, OTHER)] == ["Accepted", "Accepted"]
    assert reason(core, Ref.of(Gateway, "default", "middle")) == "PortUnavailable"


def test_a_rejected_gateway_keeps_its_port() -> None:
    """Its Envoy keeps what it has. Another Gateway could not open the port, unless after a restart."""
    rejected: dict[str, Any] = {"addresses": [{"type": "NamedAddress", "value": "x"}]}
    core = on_host(gateway(http("web", port=8080), **rejected), gateway(http("web", port=8080), name="other"))

    assert listeners(core.db, EG) == ()
    assert reason(core) == "PortUnavailable"


def test_a_port_counts_as_taken_where_the_addresses_of_its_gateway_cannot_be_known() -> None:
    """A query that fails is not a Gateway without addresses: both Envoys would open the port."""
    texts = (GATEWAY_CLASS, at("127.0.0.1", name="eg"), at("127.0.0.2", name="other"))
    world = World(ON_HOST)
    world.write(BIND, LOCALHOST)
    world.apply({resource.ref: resource for text in texts for resource in read(text)})
    (before,) = listeners(world.db, OTHER)
    with faulty():
        world = World(ON_HOST)
        world.write(BIND, LOCALHOST)
        put_fault(world, (bind_addresses, (FleetId(EG),)), "before")
        world.apply({resource.ref: resource for text in texts for resource in read(text)})

        (after,) = listeners(world.db, OTHER)

    assert [c.reason for c in before.conditions if c.type == "Accepted"] == ["Accepted"]
    assert [c.reason for c in after.conditions if c.type == "Accepted"] == ["PortUnavailable"]


def test_a_gateway_reads_the_one_that_has_its_port_and_no_other() -> None:
    """Else each of a hundred Gateways on one port would read all those before it."""
    core = on_host(*(gateway(http("web", port=8080), name=f"g{n:03}") for n in range(100)))
    with core.ran() as ran:
        for n in range(100):
            listeners(core.db, Ref.of(Gateway, "default", f"g{n:03}"))

    assert (ran["listeners"], ran["_meet"]) == (100, 99)
