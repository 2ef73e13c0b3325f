"""The listener for HTTP/3: its names, its chains, and whom it does not serve."""

from __future__ import annotations

import pytest
from envoy.config.core.v3.address_pb2 import SocketAddress
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.quic.v3.quic_transport_pb2 import QuicDownstreamTransport
from msgspec import structs

from moongate import names
from moongate.api.base import ListenerId
from moongate.policies.http_listeners import http3_conflict, http3_dropped, http3_port
from moongate.world import World
from moongate.xds.listeners import listener, listener_names
from tests.attach.test_client_validation import CERT
from tests.core import (
    EG,
    EG_FLEET,
    GATEWAY_CLASS,
    IN_CLUSTER,
    ON_HOST,
    Core,
    gateway,
    http,
    https,
    policy,
    read,
)
from tests.listeners import sent

ONE = https("one", "cert", hostname="one.io")
TWO = https("two", "cert", hostname="two.io")


def http3(more: str = "", *, name: str = "policy", target: str = "Gateway/eg") -> str:
    return policy("ClientTrafficPolicy", f"{{http3: {{}}{more}}}", name=name, target=target)


def hostnames(core: Core, name: str) -> list[str]:
    return [chain.filter_chain_match.server_names[0] for chain in sent(core, name).filter_chains]


def at(name: str) -> ListenerId:
    return ListenerId(EG, EG, name)


@pytest.mark.parametrize(
    ("beside", "name"),
    [
        ("default/eg/web", "default/eg/web-quic"),
        ("default/eg/tcp-443", "default/eg/tcp-443-quic"),
        ("tcp-443", "udp-443"),
    ],
)
def test_it_is_named_after_the_listener_beside_it(beside: str, name: str) -> None:
    assert names.quic(beside) == name


def test_by_port_it_is_named_after_the_port_of_udp() -> None:
    flags = structs.replace(IN_CLUSTER.runtime_flags, enabled=("XDSNameSchemeV2",))
    core = Core(gateway(ONE), CERT, http3(), config=structs.replace(IN_CLUSTER, runtime_flags=flags))

    assert {"tcp-443", "udp-443"} <= set(listener_names(core.db, EG_FLEET))


def test_a_policy_of_one_listener_opens_the_port_for_all_of_them() -> None:
    core = Core(gateway(ONE, TWO, http("plain")), CERT, http3(target="Gateway/eg/two"))

    assert hostnames(core, "default/eg/one-quic") == ["one.io", "two.io"]
    assert [http3_port(core.db, at(name)) for name in ("one", "two", "plain")] == [443, 443, 0]


def test_its_chains_are_those_of_the_listener_beside_it() -> None:
    core = Core(gateway(ONE), CERT, http3())
    message = sent(core, "default/eg/one-quic")
    [chain], [beside] = message.filter_chains, sent(core, "default/eg/one").filter_chains
    transport, manager, other = QuicDownstreamTransport(), HttpConnectionManager(), HttpConnectionManager()
    chain.transport_socket.typed_config.Unpack(transport)
    chain.filters[-1].typed_config.Unpack(manager)
    beside.filters[-1].typed_config.Unpack(other)

    assert message.address.socket_address.protocol == SocketAddress.UDP
    assert message.drain_type == Listener.MODIFY_ONLY
    assert message.udp_listener_config.HasField("quic_options")
    assert chain.transport_socket.name == "envoy.transport_sockets.quic"
    common = transport.downstream_tls_context.common_tls_context
    assert list(common.alpn_protocols) == ["h3"]
    assert [each.name for each in common.tls_certificate_sds_secret_configs] == ["default/cert"]
    assert manager.codec_type == HttpConnectionManager.HTTP3
    manager.ClearField("codec_type")
    manager.ClearField("http3_protocol_options")
    assert manager == other


def test_the_first_policy_leaves_the_listener_that_is_open() -> None:
    timeout = policy("ClientTrafficPolicy", "{path: {}}", target="Gateway/eg")
    core = Core(gateway(ONE), CERT, timeout, config=ON_HOST)
    before = sent(core, "default/eg/one")

    core.apply(http3())

    assert sent(core, "default/eg/one") == before


def test_a_listener_that_checks_its_clients_has_none() -> None:
    more = ", tls: {clientValidation: {mode: RequireAny}}"
    core = Core(gateway(ONE, TWO), CERT, http3(more, target="Gateway/eg/one"))
    assert listener(core.db, EG_FLEET, "default/eg/one-quic") is None
    assert [http3_dropped(core.db, at(name)) for name in ("one", "two")] == [True, False]

    core.apply(http3(name="other", target="Gateway/eg/two"))

    assert hostnames(core, "default/eg/one-quic") == ["two.io"]
    assert [http3_port(core.db, at(name)) for name in ("one", "two")] == [0, 443]


def test_a_policy_that_cannot_be_checked_has_none_either() -> None:
    """What is asked of clients counts, also where it cannot be built."""
    more = ", tls: {clientValidation: {caCertificateRefs: [{name: absent}]}}"
    core = Core(gateway(ONE), CERT, http3(more))

    assert listener(core.db, EG_FLEET, "default/eg/one-quic") is None


def test_a_listener_of_udp_keeps_its_port() -> None:
    udp = "{name: dns, port: 443, protocol: UDP}"
    core = Core(gateway(ONE, udp), CERT, http3())

    problem = http3_conflict(core.db, at("one"))

    assert listener(core.db, EG_FLEET, "default/eg/one-quic") is None
    assert problem is not None
    assert problem.path == "spec.http3"
    assert http3_conflict(Core(gateway(ONE), CERT, http3()).db, at("one")) is None


def test_a_policy_of_one_listener_builds_one_chain_for_quic() -> None:
    """A port may have hundreds of chains."""
    world = World(ON_HOST)
    hosts = [f"h{n}" for n in range(5)]
    gateways = gateway(*(https(host, "cert", hostname=f"{host}.io") for host in hosts))
    documents = (GATEWAY_CLASS, gateways, CERT, http3(name="all"))
    world.apply({each.ref: each for text in documents for each in read(text)})
    world.pull()

    with world.ran() as ran:
        own = http3(", path: {disableMergeSlashes: true}", name="own", target="Gateway/eg/h3")
        world.apply({each.ref: each for each in read(own)})
        world.pull()

    counts = ran.counts()
    assert (counts["chain_part"], counts["_quic_part"], counts["listener"]) == (1, 1, 2)
    assert "listener_head" not in counts
