"""Envoy's listeners, as they are sent."""

from __future__ import annotations

from moongate.api.base import Ref
from moongate.api.core import Secret
from moongate.attach.gateways import BIND
from moongate.xds.filter_chains import HCM
from moongate.xds.listeners import listener, listener_names
from tests.core import EG_FLEET, ON_HOST, Core, gateway, http, https, tls_secret
from tests.listeners import manager, sent

PROXY = {"parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "both"}}


def test_a_plain_listener_has_one_chain_and_safe_defaults() -> None:
    core = Core(gateway(http("web")))

    message = sent(core, "default/eg/web")
    hcm = manager(message.default_filter_chain)

    assert message.address.socket_address.address == "0.0.0.0"
    assert message.address.socket_address.port_value == 10080
    assert message.per_connection_buffer_limit_bytes.value == 32768
    assert message.default_filter_chain.name == "default/eg/web"
    assert (hcm.stat_prefix, hcm.rds.route_config_name) == ("http-10080", "default/eg/web")
    assert hcm.rds.config_source.HasField("ads")
    assert [f.name for f in hcm.http_filters] == ["envoy.filters.http.router"]


def test_dual_stack_listens_on_both_families() -> None:
    core = Core(
        gateway(http("web"), infrastructure=PROXY),
        """
        apiVersion: gateway.envoyproxy.io/v1alpha1
        kind: EnvoyProxy
        metadata: {name: both, namespace: default}
        spec: {ipFamily: DualStack}
        """,
    )

    address = sent(core, "default/eg/web").address.socket_address

    assert (address.address, address.ipv4_compat) == ("::", True)
    assert listener_names(core.db, EG_FLEET)[0] == "envoy-gateway-proxy-ready-::-19003"


def test_a_listener_takes_all_addresses_that_it_is_opened_on() -> None:
    core = Core(gateway(http("web"), addresses=[{"value": "192.0.2.7"}, {"value": "2001:db8::7"}]))
    core.db.put(BIND, "localhost")

    message = sent(core, "default/eg/web")

    first, second = message.address, message.additional_addresses[0].address
    assert (first.socket_address.address, first.socket_address.port_value) == ("192.0.2.7", 10080)
    assert (second.socket_address.address, second.socket_address.port_value) == ("2001:db8::7", 10080)


def test_a_listener_that_could_never_be_judged_has_a_chain_that_ends_its_connections() -> None:
    """Without its chain, a wider one would take its connections. The others of its port are built as ever."""
    core = Core(
        gateway(https("a", "broken", hostname="a.io"), https("wide", "cert"), https("b", "cert", port=8443)),
        tls_secret("cert", "x.io"),
    )
    core.db.put(Ref.of(Secret, "default", "broken"), "no Secret: reading it raises")

    assert listener_names(core.db, EG_FLEET)[1:] == ("default/eg/a", "default/eg/b")
    closed, wide = sent(core, "default/eg/a").filter_chains
    assert (closed.name, list(closed.filter_chain_match.server_names)) == ("default/eg/a", ["a.io"])
    assert [each.name for each in closed.filters] == ["envoy.filters.network.direct_response"]
    assert wide.filters[-1].name == HCM
    assert sent(core, "default/eg/b").filter_chains[0].name == "default/eg/b"


def test_readiness_comes_over_xds_in_a_cluster() -> None:
    """So an Envoy that answers a probe has had its configuration."""
    core = Core(gateway(http("web")))

    ready = sent(core, "envoy-gateway-proxy-ready-0.0.0.0-19003")
    hcm = manager(ready.filter_chains[0])

    assert ready.bypass_overload_manager
    assert [f.name for f in hcm.http_filters] == [
        "envoy.filters.http.health_check",
        "envoy.filters.http.router",
    ]


def test_on_a_host_no_port_is_taken_for_readiness() -> None:
    """Several Gateways' Envoys share the host's ports."""
    core = Core(gateway(http("web", port=8080)), config=ON_HOST)

    assert listener_names(core.db, EG_FLEET) == ("default/eg/web",)


def test_a_listener_that_is_gone_is_named_no_more() -> None:
    core = Core(gateway(http("web"), http("api", port=81)))

    core.apply(gateway(http("web")))

    assert listener_names(core.db, EG_FLEET)[1:] == ("default/eg/web",)


def test_an_unrelated_resource_rebuilds_nothing() -> None:
    core = Core(gateway(http("web")), gateway(http("web"), name="other"))
    before = listener(core.db, EG_FLEET, "default/eg/web")

    core.apply(gateway(http("web", port=81), name="other"), tls_secret("cert", "x.io"))
    with core.ran() as ran:
        after = listener(core.db, EG_FLEET, "default/eg/web")

    assert after == before
    assert "listener" not in ran
