"""The filter chains of HTTP and HTTPS listeners, as they are sent."""

from __future__ import annotations

import pytest
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import TlsParameters

from moongate.xds.filter_chains import HCM
from moongate.xds.listeners import listener_names
from tests.core import EG_FLEET, Core, gateway, http, https, tls_secret
from tests.listeners import client_traffic_policy, manager, sent, tls_of


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


@pytest.mark.parametrize("refused", ["a", "b"])
def test_a_refused_policy_of_one_listener_leaves_the_gateways_in_force(refused: str) -> None:
    """They share a connection manager: one cannot have its own settings, and the others lose none for it."""
    limit = "connection: {connectionLimit: {value: 7}}"
    core = Core(
        gateway(http("a", "a.test"), http("b", "b.test")),
        client_traffic_policy(limit, name="whole"),
        client_traffic_policy(limit, name="one", section=refused),
    )

    (message,) = [sent(core, name) for name in listener_names(core.db, EG_FLEET) if "ready" not in name]

    filters = [f.name for f in message.default_filter_chain.filters]
    assert filters == ["envoy.filters.network.connection_limit", HCM]
