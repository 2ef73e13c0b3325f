"""Envoy's listeners, as they are sent."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import TlsParameters
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import DownstreamTlsContext
from google.protobuf.json_format import MessageToDict

from moongate.attach.gateways import BIND
from moongate.xds.listeners import listener, listener_names
from tests.core import EG, ON_HOST, Core, gateway, http, https, tls_secret


def sent(core: Core, name: str) -> Listener:
    found = listener(core.db, EG, name)
    assert found is not None
    return Listener.FromString(found.body)


def manager(chain: FilterChain) -> HttpConnectionManager:
    hcm = HttpConnectionManager()
    assert chain.filters[-1].typed_config.Unpack(hcm)
    return hcm


def tls_of(chain: FilterChain) -> DownstreamTlsContext:
    context = DownstreamTlsContext()
    assert chain.transport_socket.typed_config.Unpack(context)
    return context


def as_dict(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)


def client_traffic_policy(spec: str, section: str = "") -> str:
    at = f", sectionName: {section}" if section else ""
    return f"""
        apiVersion: gateway.envoyproxy.io/v1alpha1
        kind: ClientTrafficPolicy
        metadata: {{name: clients, namespace: default}}
        spec:
          targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: eg{at}}}]
          {spec}
    """


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


def test_an_https_listener_has_a_chain_for_each_name() -> None:
    core = Core(
        gateway(https("a", "cert", hostname="x.io"), https("any", "other")),
        tls_secret("cert", "x.io"),
        tls_secret("other", "y.io"),
    )

    message = sent(core, "default/eg/a")

    assert [list(c.filter_chain_match.server_names) for c in message.filter_chains] == [["x.io"], []]
    assert [manager(c).rds.route_config_name for c in message.filter_chains] == [
        "default/eg/a",
        "default/eg/any",
    ]
    assert [f.name for f in message.listener_filters] == ["envoy.filters.listener.tls_inspector"]
    assert not message.HasField("default_filter_chain")


def test_certificates_are_named_not_held() -> None:
    core = Core(gateway(https("a", "cert")), tls_secret("cert", "x.io"))

    context = tls_of(sent(core, "default/eg/a").filter_chains[0])

    assert [c.name for c in context.common_tls_context.tls_certificate_sds_secret_configs] == ["default/cert"]
    assert list(context.common_tls_context.alpn_protocols) == ["h2", "http/1.1"]
    assert context.disable_stateless_session_resumption
    assert not context.common_tls_context.HasField("tls_params")


def test_without_sni_no_inspector_is_needed() -> None:
    core = Core(gateway(https("a", "cert")), tls_secret("cert", "x.io"))

    assert not sent(core, "default/eg/a").listener_filters


def test_http2_is_not_offered_where_certificates_overlap() -> None:
    core = Core(
        gateway(https("a", "one", hostname="a.x.io"), https("b", "two", hostname="b.x.io")),
        tls_secret("one", "*.x.io"),
        tls_secret("two", "b.x.io"),
    )

    chains = sent(core, "default/eg/a").filter_chains

    assert [list(tls_of(c).common_tls_context.alpn_protocols) for c in chains] == [["http/1.1"]] * 2


def test_a_client_traffic_policy_is_written_over_the_defaults() -> None:
    core = Core(
        gateway(http("web"), https("tls", "cert")),
        tls_secret("cert", "x.io"),
        client_traffic_policy("path: {disableMergeSlashes: true}"),
    )

    assert not manager(sent(core, "default/eg/web").default_filter_chain).merge_slashes


def test_a_client_traffic_policy_fixes_the_tls_versions() -> None:
    """As soon as one covers the listener, even if it says nothing of TLS."""
    core = Core(
        gateway(https("a", "cert")), tls_secret("cert", "x.io"), client_traffic_policy("{}").replace("{}", "")
    )

    params = tls_of(sent(core, "default/eg/a").filter_chains[0]).common_tls_context.tls_params

    assert params.tls_minimum_protocol_version == TlsParameters.TLSv1_2
    assert params.tls_maximum_protocol_version == TlsParameters.TLSv1_3


def test_a_policy_for_one_of_several_plain_listeners_of_a_port_has_no_effect() -> None:
    core = Core(
        gateway(http("a", "x.io"), http("b", "y.io")),
        client_traffic_policy("path: {disableMergeSlashes: true}", section="a"),
    )

    assert manager(sent(core, "default/eg/a").default_filter_chain).merge_slashes


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
    assert listener_names(core.db, EG)[0] == "envoy-gateway-proxy-ready-::-19003"


def test_a_listener_takes_all_addresses_that_it_is_opened_on() -> None:
    core = Core(gateway(http("web"), addresses=[{"value": "192.0.2.7"}, {"value": "2001:db8::7"}]))
    core.db.put(BIND, "localhost")

    message = sent(core, "default/eg/web")

    first, second = message.address, message.additional_addresses[0].address
    assert (first.socket_address.address, first.socket_address.port_value) == ("192.0.2.7", 10080)
    assert (second.socket_address.address, second.socket_address.port_value) == ("2001:db8::7", 10080)


PROXY = {"parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "both"}}


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

    assert listener_names(core.db, EG) == ("default/eg/web",)


def test_a_listener_that_is_gone_is_named_no_more() -> None:
    core = Core(gateway(http("web"), http("api", port=81)))

    core.apply(gateway(http("web")))

    assert listener_names(core.db, EG)[1:] == ("default/eg/web",)


def test_an_unrelated_resource_rebuilds_nothing() -> None:
    core = Core(gateway(http("web")), gateway(http("web"), name="other"))
    before = listener(core.db, EG, "default/eg/web")

    core.apply(gateway(http("web", port=81), name="other"), tls_secret("cert", "x.io"))
    with core.ran() as ran:
        after = listener(core.db, EG, "default/eg/web")

    assert after == before
    assert "listener" not in ran


@pytest.mark.parametrize("refused", ["a", "b"])
def test_a_refused_policy_of_one_listener_leaves_the_gateways_in_force(refused: str) -> None:
    """They share a connection manager: one cannot have its own settings, and the others lose none for it."""
    core = Core(
        gateway(http("a", "a.test"), http("b", "b.test")), _limit("whole", ""), _limit("one", refused)
    )

    (message,) = [sent(core, name) for name in listener_names(core.db, EG) if "ready" not in name]

    filters = [f.name for f in message.default_filter_chain.filters]
    assert filters == ["envoy.filters.network.connection_limit", HCM_NAME]


HCM_NAME = "envoy.filters.network.http_connection_manager"


def _limit(name: str, section: str) -> str:
    at = f", sectionName: {section}" if section else ""
    return f"""
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ClientTrafficPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: eg{at}}}]
  connection: {{connectionLimit: {{value: 7}}}}
"""
