"""How listeners share Envoy's ports, filter chains and route configurations."""

from __future__ import annotations

from moongate.api.envoygateway import EnvoyGateway, RuntimeFlags
from moongate.attach.envoy_listeners import envoy_listeners, route_configurations
from tests.connections import raw, tls
from tests.core import EG_FLEET, ON_HOST, Core, gateway, http, https, tls_secret


def test_plain_listeners_of_a_port_share_everything_and_https_ones_share_the_port() -> None:
    core = Core(
        gateway(http("a", "x.io"), http("b", "y.io"), https("c", "c", hostname="x.io"), https("d", "d")),
        tls_secret("c", "x.io"),
        tls_secret("d", "y.io"),
    )

    plain, tls = envoy_listeners(core.db, EG_FLEET)

    assert (plain.name, plain.container_port) == ("default/eg/a", 10080)
    assert (tls.name, tls.container_port) == ("default/eg/c", 10443)
    assert [(g.kind, g.name, g.stat_prefix, [m.name for m in g.members]) for g in plain.groups] == [
        ("HTTP", "default/eg/a", "http-10080", ["a", "b"])
    ]
    assert [(g.kind, g.name, g.stat_prefix, [m.name for m in g.members]) for g in tls.groups] == [
        ("HTTPS", "default/eg/c", "https-10443", ["c"]),
        ("HTTPS", "default/eg/d", "https-10443", ["d"]),
    ]
    assert [
        (table.name, [m.name for m in table.members]) for table in route_configurations(core.db, EG_FLEET)
    ] == [
        ("default/eg/a", ["a", "b"]),
        ("default/eg/c", ["c"]),
        ("default/eg/d", ["d"]),
    ]


def test_on_a_host_envoy_listens_on_the_listeners_own_port() -> None:
    core = Core(gateway(http("web")), config=ON_HOST)

    assert envoy_listeners(core.db, EG_FLEET)[0].container_port == 80


def test_names_may_follow_the_port_instead_of_the_first_listener() -> None:
    """Scheme ``XDSNameSchemeV2``: ports are those of the listeners, and HTTPS chains keep their names."""
    config = EnvoyGateway(runtime_flags=RuntimeFlags(enabled=("XDSNameSchemeV2",)))
    core = Core(gateway(http("a"), https("c", "c")), tls_secret("c", "x.io"), config=config)

    plain, tls = envoy_listeners(core.db, EG_FLEET)

    assert (plain.name, plain.groups[0].name, plain.groups[0].stat_prefix) == ("tcp-80", "http-80", "http-80")
    assert (tls.name, tls.groups[0].name, tls.groups[0].stat_prefix) == (
        "tcp-443",
        "default/eg/c",
        "https-443",
    )


def test_listeners_of_connections_share_a_port_with_https_and_udp_has_ports_of_its_own() -> None:
    core = Core(
        gateway(
            https("web", "web", hostname="web.io"),
            tls("tls", "a.io"),
            tls("end", "b.io", "web"),
            raw("stream", "TCP", 53),
            raw("packet", "UDP", 53),
        ),
        tls_secret("web", "web.io"),
    )

    of_tls, stream, packet = envoy_listeners(core.db, EG_FLEET)

    assert [(g.kind, g.stat_prefix, g.has_table) for g in of_tls.groups] == [
        ("HTTPS", "https-10443", True),
        ("TLS", "tls-passthrough-10443", False),
        ("TLS", "tls-terminate-10443", False),
    ]
    assert [(e.name, e.container_port, e.is_udp) for e in (stream, packet)] == [
        ("default/eg/stream", 10053, False),
        ("default/eg/packet", 10053, True),
    ]
    assert [table.name for table in route_configurations(core.db, EG_FLEET)] == ["default/eg/web"]


def test_names_by_port_tell_udp_from_tcp() -> None:
    config = EnvoyGateway(runtime_flags=RuntimeFlags(enabled=("XDSNameSchemeV2",)))
    core = Core(gateway(raw("stream", "TCP", 53), raw("packet", "UDP", 53)), config=config)

    assert [each.name for each in envoy_listeners(core.db, EG_FLEET)] == ["tcp-53", "udp-53"]
