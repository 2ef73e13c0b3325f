"""What a feature needs besides routes and filters reaches the fleet, is kept in step, and leaves with it."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret as SecretMessage
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from google.protobuf.json_format import MessageToDict

from moongate.api.base import Ref, Resource
from moongate.api.httproute import HTTPRoute
from moongate.world import Changes, World
from moongate.xds.wire import CLUSTER, ENDPOINT, SECRET, XdsResource
from tests.core import GATEWAY_CLASS, gateway, http, read, secret
from tests.features.trial import TrialPolicy, install, trial
from tests.routes import http_route, service

OWN = "securitypolicy/default/trial/trial/0"
KEYS = "trial/default/trial"
ISSUER = "issuer_example_com_443"
FIELD: dict[str, Any] = {
    "keys": {"name": "keys"},
    "backendRefs": [
        {"name": "shop", "port": 80, "weight": 3},
        {"name": "spare", "port": 80, "fallback": True},
        {"name": "spare", "port": 80, "weight": 0},
    ],
    "host": "issuer.example.com",
}


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def world(*more: Resource) -> World:
    texts = (
        GATEWAY_CLASS,
        gateway(http("web")),
        http_route(),
        service("shop"),
        service("spare"),
        secret("keys", {"key": b"k1"}),
    )
    return World.of([*(resource for text in texts for resource in read(text)), *more])


def named(world: World) -> set[tuple[str, str]]:
    """Types and names of what the fleet has for the policy."""
    fleet = world.xds()["default/eg"]
    return {(t, n) for t in fleet for n in fleet[t] if n in (OWN, KEYS, ISSUER)}


def held(world: World, type_: str, name: str) -> XdsResource:
    return world.xds()["default/eg"][type_][name]


def key(world: World) -> bytes:
    """What Envoy has of the Secret."""
    return SecretMessage.FromString(held(world, SECRET, KEYS).body).generic_secret.secret.inline_bytes


def put(changes: Changes) -> set[str]:
    return {resource.name for resource in changes.put.get("default/eg", ())}


POLICY = trial(jwt=FIELD)


def test_clusters_and_secrets_of_a_feature_come_and_go_with_its_policy() -> None:
    built = world(POLICY)

    assert named(built) == {(CLUSTER, OWN), (ENDPOINT, OWN), (CLUSTER, ISSUER), (SECRET, KEYS)}

    built.apply({POLICY.ref: None})
    built.pull()

    assert named(built) == set()


def test_a_policy_of_the_gateway_needs_them_once_for_all_routes() -> None:
    policy = trial(target="Gateway/eg", jwt=FIELD)
    built = world(policy, *read(http_route(name="other")))

    assert named(built) == {(CLUSTER, OWN), (ENDPOINT, OWN), (CLUSTER, ISSUER), (SECRET, KEYS)}

    with built.ran() as ran:
        built.apply({Ref.of(HTTPRoute, "default", "other"): None})
        built.pull()

    assert named(built) == {(CLUSTER, OWN), (ENDPOINT, OWN), (CLUSTER, ISSUER), (SECRET, KEYS)}
    assert "extra_resources" not in ran.counts()


def test_backends_of_a_feature_follow_their_endpoints() -> None:
    built = world(POLICY)
    assignment = ClusterLoadAssignment.FromString(held(built, ENDPOINT, OWN).body)

    weights = [(e.locality.region, e.load_balancing_weight.value, e.priority) for e in assignment.endpoints]
    assert weights == [(f"{OWN}/backend/0", 3, 0), (f"{OWN}/backend/1", 1, 1)]
    assert all(locality.lb_endpoints for locality in assignment.endpoints)

    moved = read(service("shop", "10.9.9.9"))
    built.apply({resource.ref: resource for resource in moved})
    changes = built.pull()

    assert OWN in put(changes)
    assert not {ISSUER, KEYS} & put(changes)
    assert b"10.9.9.9" in held(built, ENDPOINT, OWN).body


def test_a_cluster_may_speak_http2_whatever_its_backends_say() -> None:
    message = Cluster.FromString(held(world(POLICY), CLUSTER, OWN).body)

    [options] = message.typed_extension_protocol_options.values()
    assert "http2ProtocolOptions" in MessageToDict(options)["explicitHttpConfig"]


def test_a_host_of_a_url_is_resolved_and_must_show_a_certificate_for_its_name() -> None:
    message = Cluster.FromString(held(world(POLICY), CLUSTER, ISSUER).body)
    tls = UpstreamTlsContext()
    message.transport_socket.typed_config.Unpack(tls)

    assert message.cluster_type.name == "envoy.cluster.dns"
    [endpoint] = message.load_assignment.endpoints[0].lb_endpoints
    assert endpoint.endpoint.address.socket_address.address == "issuer.example.com"
    assert tls.sni == "issuer.example.com"
    [match] = tls.common_tls_context.validation_context.match_typed_subject_alt_names
    assert match.matcher.exact == "issuer.example.com"


def test_a_host_that_is_an_address_is_not_resolved() -> None:
    built = world(trial(jwt={"host": "192.0.2.7"}))
    message = Cluster.FromString(held(built, CLUSTER, "192_0_2_7_443").body)

    assert message.type == Cluster.STATIC
    assert message.load_assignment.endpoints[0].lb_endpoints


def test_a_secret_that_changes_is_sent_alone() -> None:
    built = world(POLICY)
    assert (
        SecretMessage.FromString(held(built, SECRET, KEYS).body).generic_secret.secret.inline_bytes == b"k1"
    )

    built.apply({resource.ref: resource for resource in read(secret("keys", {"key": b"k2"}))})
    changes = built.pull()

    assert put(changes) == {KEYS}
    assert (
        SecretMessage.FromString(held(built, SECRET, KEYS).body).generic_secret.secret.inline_bytes == b"k2"
    )


def test_what_a_policy_cannot_have_it_does_not_ask_for() -> None:
    """A reference that is not granted must not bring another namespace's keys to Envoy."""
    elsewhere = FIELD | {"keys": {"name": "keys", "namespace": "vault"}}
    policy: TrialPolicy = trial(jwt=elsewhere)

    built = world(policy, *read(secret("keys", {"key": b"k1"}, namespace="vault")))

    assert named(built) == set()
