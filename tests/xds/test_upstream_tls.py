"""How clusters speak TLS to their backends, and that nothing is sent in the clear."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret as SecretMessage
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from msgspec import structs

from moongate.api.base import FleetId, Ref
from moongate.api.core import Secret
from moongate.api.envoygateway import RuntimeFlags
from moongate.attach.secret_servers import SDS_SECRET
from moongate.xds.cluster_keys import (
    AuthoritiesSecret,
    CertificateSecret,
    ClusterKey,
    ResourceKey,
    RuleCluster,
    SecretKey,
    SecretServerCluster,
)
from moongate.xds.clusters import cluster, load_assignment, secret_server
from moongate.xds.connection_destinations import connection_destination
from moongate.xds.destinations import rule_destination
from moongate.xds.needed_resources import route_resources
from moongate.xds.secrets import authorities_secret
from moongate.xds.wire import ENDPOINT
from tests import core as made
from tests.attach.test_backend_tls import (
    CA,
    OTHER_CA,
    OURS,
    PROXY,
    WITH_SDS,
    backend,
    config_map,
    gateway_with,
    policy_ref,
    tls_policy,
)
from tests.connections import connection_ref, connection_route, listener_id, raw, tls
from tests.core import (
    EG_FLEET,
    IN_CLUSTER,
    ON_HOST,
    Core,
    extension,
    gateway,
    gateway_class,
    http,
    tls_secret,
)
from tests.routes import SHOP, WEB, as_dict, endpoints, http_route, route_ref, rule, service

APP = "{group: gateway.envoyproxy.io, kind: Backend, name: app}"
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
NAME = "httproute/default/shop/rule/0"
BASE = (gateway(http("web")), service(), config_map())


def sent(core: Core) -> tuple[Cluster, ClusterLoadAssignment]:
    """The only cluster of the route, and its endpoints."""
    [key] = rule_destination(core.db, WEB, route_ref(), 0).clusters()
    return built(core, key)


def built(core: Core, key: ClusterKey) -> tuple[Cluster, ClusterLoadAssignment]:
    message, assignment = cluster(core.db, key), load_assignment(core.db, key)
    assert message is not None
    assert assignment is not None
    return Cluster.FromString(message.body), ClusterLoadAssignment.FromString(assignment.body)


def contexts(message: Cluster) -> list[dict[str, Any]]:
    """The TLS of each backend that has it."""
    made: list[dict[str, Any]] = []
    for match in message.transport_socket_matches:
        context = UpstreamTlsContext()
        assert match.transport_socket.typed_config.Unpack(context)
        made.append(as_dict(context))
    return made


def options(message: Cluster) -> dict[str, Any]:
    http_options = HttpProtocolOptions()
    assert message.typed_extension_protocol_options[OPTIONS].Unpack(http_options)
    return as_dict(http_options)


def marks(assignment: ClusterLoadAssignment) -> list[list[str]]:
    """By backend, the transport sockets that its endpoints name."""
    return [
        [
            each.metadata.filter_metadata["envoy.transport_socket_match"].fields["name"].string_value
            for each in locality.lb_endpoints
        ]
        for locality in assignment.endpoints
    ]


def secrets(core: Core) -> tuple[SecretKey, ...]:
    needed = rule_destination(core.db, WEB, route_ref(), 0).needs()
    return tuple(key for key in needed if isinstance(key, SecretKey))


def test_a_backend_with_a_policy_is_reached_by_tls_alone() -> None:
    core = Core(*BASE, http_route(), tls_policy())

    message, assignment = sent(core)

    assert [match.name for match in message.transport_socket_matches] == [f"{NAME}/tls/0"]
    assert marks(assignment) == [[f"{NAME}/tls/0"]]
    assert message.transport_socket.name == "dummy.transport_socket"
    assert options(message)["auto_config"].keys() == {"http_protocol_options", "http2_protocol_options"}
    [context] = contexts(message)
    assert context["sni"] == "shop.internal"
    checks = context["common_tls_context"]["combined_validation_context"]
    assert checks["validation_context_sds_secret_config"]["name"] == "policy/default-ca"
    assert checks["default_validation_context"]["match_typed_subject_alt_names"] == [
        {"san_type": "DNS", "matcher": {"exact": "shop.internal"}}
    ]
    assert secrets(core) == (AuthoritiesSecret("policy/default-ca", EG_FLEET, policy_ref()),)


def test_backends_with_and_without_tls_share_a_cluster() -> None:
    route = http_route(rule("", "{name: plain, port: 80}", SHOP))
    core = Core(*BASE, service("plain"), route, tls_policy())

    message, assignment = sent(core)

    assert marks(assignment) == [[""], [f"{NAME}/tls/1"]]
    assert not message.HasField("transport_socket")
    assert OPTIONS not in message.typed_extension_protocol_options


def test_no_form_of_a_cluster_gets_the_endpoints_of_another() -> None:
    """While Envoy warms a changed cluster, the old one gets what comes under the name that it asks for."""
    tls, plain = SHOP, "{name: plain, port: 80}"
    flags = RuntimeFlags(enabled=("EndpointsByTLS",))
    config = structs.replace(ON_HOST, runtime_flags=flags, envoy_proxy=None)
    core = Core(*BASE, service("plain"), http_route(), config=config)
    asked: list[str] = []
    for change in (
        http_route(),
        tls_policy(),
        tls_policy(validation=f"{{{OURS}, hostname: other.internal}}"),
        http_route(rule("", plain, tls)),
        http_route(rule("", tls, plain)),
    ):
        core.apply(change)
        message, assignment = sent(core)
        asked.append(message.eds_cluster_config.service_name)
        assert assignment.cluster_name == asked[-1]

    assert asked[0] == NAME
    assert len(set(asked)) == len(asked)
    core.apply(endpoints("shop", "10.0.0.1", "10.0.0.2"))
    assert sent(core)[1].cluster_name == asked[-1], "other endpoints are spoken to in the same way"


def test_endpoints_that_a_patch_names_have_the_name_of_their_cluster() -> None:
    core = Core(*BASE, http_route(), tls_policy(), patched_endpoints(NAME), config=ON_HOST)

    message, assignment = sent(core)

    assert message.eds_cluster_config.service_name == NAME
    assert assignment.cluster_name == NAME


def patched_endpoints(name: str) -> str:
    """A patch of the endpoints of a cluster."""
    operation = "{op: add, path: /policy, value: {overprovisioning_factor: 200}}"
    patch = f"{{type: {ENDPOINT}, name: {name}, operation: {operation}}}"
    target = "{group: gateway.networking.k8s.io, kind: Gateway, name: eg}"
    spec = f"{{type: JSONPatch, targetRef: {target}, jsonPatches: [{patch}]}}"
    return extension("EnvoyPatchPolicy", "patch", spec)


def test_a_backend_whose_authorities_are_missing_gets_its_share_answered_with_500() -> None:
    route = http_route(rule("", "{name: plain, port: 80, weight: 3}", SHOP))
    core = Core(gateway(http("web")), service(), service("plain"), route, tls_policy())

    destination = rule_destination(core.db, WEB, route_ref(), 0)

    assert (destination.status, destination.unavailable, destination.unavailable_status) == (0, 1, 500)
    assert [(each.weight, each.routable) for each in destination.weighted_clusters] == [(3, True), (1, False)]
    assert "1 of 4, is answered with 500" in destination.unresolved[0].message
    broken, assignment = built(core, destination.weighted_clusters[1].key)
    assert not broken.transport_socket_matches
    assert [list(locality.lb_endpoints) for locality in assignment.endpoints] == [[]]


def test_a_broken_certificate_of_the_proxy_closes_the_backend() -> None:
    core = Core(gateway_class("p"), PROXY, *BASE, http_route(), tls_policy())

    destination = rule_destination(core.db, WEB, route_ref(), 0)

    assert destination.status == 500
    assert destination.unresolved[0].reason == "InvalidBackendTLS"
    assert destination.clusters() == ()


def test_a_certificate_is_shown_and_its_secret_is_needed() -> None:
    core = Core(
        gateway_with("{backend: {clientCertificateRef: {name: g}}}").replace("name: a", "name: web"),
        tls_secret("g", "g"),
        service(),
        config_map(),
        http_route(),
        tls_policy(),
    )

    [context] = contexts(sent(core)[0])

    shown = context["common_tls_context"]["tls_certificate_sds_secret_configs"]
    assert [each["name"] for each in shown] == ["default/g"]
    assert [key for key in secrets(core) if isinstance(key, CertificateSecret)] == [
        CertificateSecret(EG_FLEET, Ref.of(Secret, "default", "g"))
    ]


@pytest.mark.parametrize(
    ("tls", "context", "of_request"),
    [
        ("{insecureSkipVerify: true}", {}, True),
        ("{insecureSkipVerify: true, sni: a.io}", {"sni": "a.io"}, False),
        (f"{{{OURS}}}", {"auto_sni_san_validation": True}, True),
        (
            f"{{{OURS}, autoSNIFromEndpointHostname: true}}",
            {"auto_host_sni": True, "auto_sni_san_validation": True},
            False,
        ),
    ],
    ids=["unchecked", "unchecked-name", "of-request", "of-endpoint"],
)
def test_the_server_name_comes_from_where_the_backend_says(
    tls: str, context: dict[str, Any], of_request: bool
) -> None:
    named = (
        backend(tls).replace("port: 443", "port: 443\n    hostname: b.io") if "auto" in tls else backend(tls)
    )
    core = Core(gateway(http("web")), config_map(), http_route(rule("", APP)), named, config=ON_HOST)

    message, _ = sent(core)

    [made] = contexts(message)
    common = made.pop("common_tls_context")
    assert made == context
    assert ("combined_validation_context" in common) is (OURS in tls)
    assert ("upstream_http_protocol_options" in options(message)) is of_request


def test_an_own_server_name_of_the_endpoint_keeps_backends_apart() -> None:
    """Envoy takes the name of the request for all of a cluster, or for none."""
    named = backend(f"{{{OURS}, autoSNIFromEndpointHostname: true}}")
    core = Core(
        *BASE,
        http_route(rule("", APP, SHOP)),
        named.replace("port: 443", "port: 443\n    hostname: b.io"),
        config=ON_HOST,
    )

    assert len(rule_destination(core.db, WEB, route_ref(), 0).clusters()) == 2


def test_authorities_are_one_secret() -> None:
    core = Core(*BASE, http_route(), tls_policy())
    [key] = secrets(core)
    assert isinstance(key, AuthoritiesSecret)

    first = SecretMessage.FromString(authorities_secret(core.db, key).body)
    core.apply(config_map(ca_crt=OTHER_CA))
    second = SecretMessage.FromString(authorities_secret(core.db, key).body)

    assert first.validation_context.trusted_ca.inline_bytes == CA
    assert second.validation_context.trusted_ca.inline_bytes == OTHER_CA
    assert CA not in repr(authorities_secret(core.db, key)).encode()


def test_those_of_the_system_are_a_file() -> None:
    core = Core(*BASE, config=IN_CLUSTER)
    key = AuthoritiesSecret("system_ca_certificates", FleetId(EG_FLEET.owner), None)

    message = SecretMessage.FromString(authorities_secret(core.db, key).body)

    assert message.validation_context.trusted_ca.filename == "/etc/ssl/certs/ca-certificates.crt"


def test_with_merge_backends_the_shared_cluster_has_the_tls() -> None:
    """And its name stays as it is, so a policy that comes or goes changes this cluster in its place."""
    core = Core(*BASE, http_route(), config=ON_HOST)
    [before] = rule_destination(core.db, WEB, route_ref(), 0).clusters()

    core.apply(tls_policy())
    [key] = rule_destination(core.db, WEB, route_ref(), 0).clusters()
    message, assignment = built(core, key)

    assert key == before
    assert key.name == "service/default/shop/80/http"
    assert marks(assignment) == [["service/default/shop/80/http/tls/0"]]
    assert message.transport_socket_matches[0].name == "service/default/shop/80/http/tls/0"


def test_a_policy_re_runs_the_cluster_of_its_backend_alone() -> None:
    routes = [http_route(rule("", f"{{name: s{n}, port: 80}}"), name=f"r{n}") for n in range(10)]
    core = Core(gateway(http("web")), config_map(), *(service(f"s{n}") for n in range(10)), *routes)
    for n in range(10):
        built(core, rule_destination(core.db, WEB, route_ref(f"r{n}"), 0).weighted_clusters[0].key)

    core.apply(tls_policy(target="Service/s3"))
    with core.ran() as ran:
        for n in range(10):
            built(core, rule_destination(core.db, WEB, route_ref(f"r{n}"), 0).weighted_clusters[0].key)

    assert (ran["cluster"], ran["load_assignment"], ran["rule_destination"]) == (1, 1, 1)


def test_a_server_of_secrets_has_a_cluster_and_moongate_no_secret() -> None:
    root = made.secret("a", {"secretName": b"ROOT", "url": b"unix:///run/s"}, type_=SDS_SECRET)
    checks = "{caCertificateRefs: [{group: '', kind: Secret, name: a}], hostname: a.io}"
    core = Core(*BASE, http_route(), tls_policy(validation=checks), root, config=WITH_SDS)

    [context] = contexts(sent(core)[0])
    to = rule_destination(core.db, WEB, route_ref(), 0)
    [server] = (key for key in to.needs() if key not in to.clusters())

    checks_by = context["common_tls_context"]["combined_validation_context"]
    assert checks_by["validation_context_sds_secret_config"]["name"] == "ROOT"
    assert isinstance(server, SecretServerCluster)
    assert server.name == "sds_run_s_" + sha256(b"/run/s").hexdigest()[:32]
    assert as_dict(Cluster.FromString(secret_server(core.db, server).body))["type"] == "STATIC"
    assert secrets(core) == ()


def connected(core: Core, kind: str) -> tuple[Cluster, ClusterLoadAssignment, tuple[ResourceKey, ...]]:
    """The cluster of a route of connections, its endpoints, and what it needs."""
    key, *needs = route_resources(core.db, EG_FLEET, connection_ref(kind))
    assert isinstance(key, RuleCluster)
    return *built(core, key), tuple(needs)


@pytest.mark.parametrize(
    ("kind", "listener"),
    [
        ("TCPRoute", raw("web", "TCP")),
        ("TCPRoute", tls("web", "", "cert")),
        ("TLSRoute", tls("web", "", "cert")),
    ],
)
def test_connections_that_end_here_go_on_by_tls(kind: str, listener: str) -> None:
    core = Core(
        gateway(listener),
        tls_secret("cert", "a.test"),
        service(),
        config_map(),
        connection_route(kind),
        tls_policy(),
    )

    message, assignment, needs = connected(core, kind)

    [context] = contexts(message)
    assert context["sni"] == "shop.internal"
    assert marks(assignment) == [[f"{kind.lower()}/default/shop/rule/-1/tls/0"]]
    assert OPTIONS not in message.typed_extension_protocol_options, "nothing is negotiated"
    assert needs == (AuthoritiesSecret("policy/default-ca", EG_FLEET, policy_ref()),)


def test_what_clients_speak_tls_to_themselves_is_passed_on_as_it_is() -> None:
    core = Core(gateway(tls("web")), service(), config_map(), connection_route("TLSRoute"), tls_policy())

    message, assignment, needs = connected(core, "TLSRoute")

    assert not message.transport_socket_matches
    assert marks(assignment) == [[""]]
    assert needs == ()


def test_a_route_that_passes_tls_on_and_ends_it_sends_nothing_in_the_clear() -> None:
    """Both have one cluster; the listener that passes on has nothing to do with this backend then."""
    listeners = (tls("passed", "a.test"), tls("ended", "b.test", "cert"))
    core = Core(
        gateway(*listeners),
        tls_secret("cert", "b.test"),
        service(),
        config_map(),
        connection_route("TLSRoute"),
        tls_policy(),
    )

    message, assignment, _ = connected(core, "TLSRoute")

    assert len(contexts(message)) == 1
    assert marks(assignment) == [["tlsroute/default/shop/rule/-1/tls/0"]]
    at = connection_destination(core.db, listener_id("passed"), connection_ref("TLSRoute"))
    assert [problem.reason for problem in at.unresolved] == ["InvalidBackendTLS"]
    assert connection_destination(core.db, listener_id("ended"), connection_ref("TLSRoute")).unresolved == ()


def test_a_backend_without_its_authorities_gets_no_connection() -> None:
    core = Core(gateway(raw("web", "TCP")), service(), connection_route("TCPRoute"), tls_policy())

    message, assignment, _ = connected(core, "TCPRoute")

    assert not message.transport_socket_matches
    assert marks(assignment) == []


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("{wellKnownCACertificates: System}", "InvalidBackendTLS"),
        ("{wellKnownCACertificates: System, sni: a.io}", ""),
        ("{wellKnownCACertificates: System, autoSNIFromEndpointHostname: true}", ""),
        (f"{{{OURS}}}", ""),
        ("{insecureSkipVerify: true}", ""),
    ],
)
def test_a_connection_has_no_host_that_a_public_certificate_must_name(settings: str, reason: str) -> None:
    core = Core(
        gateway(raw("web", "TCP")),
        backend(settings).replace("- ip:", "- hostname: a.io\n    ip:"),
        config_map(),
        connection_route("TCPRoute", APP),
        config=ON_HOST,
    )

    destination = connection_destination(core.db, listener_id("web"), connection_ref("TCPRoute"))

    assert [problem.reason for problem in destination.unresolved] == ([reason] if reason else [])
    assert len(destination.members) == (not reason)


def test_datagrams_have_no_tls() -> None:
    core = Core(
        gateway(raw("web", "UDP")),
        service(port="{protocol: UDP}").replace("protocol: TCP", "protocol: UDP"),
        config_map(),
        connection_route("UDPRoute"),
        tls_policy(),
    )

    destination = connection_destination(core.db, listener_id("web"), connection_ref("UDPRoute"))

    assert [problem.reason for problem in destination.unresolved] == ["InvalidBackendTLS"]
    assert "sectionName" in destination.unresolved[0].message
