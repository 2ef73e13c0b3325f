"""What a user reads of Backends."""

from __future__ import annotations

import pytest

from moongate.api.backend import Backend, BackendEndpoint, BackendSpec, FQDNEndpoint
from moongate.api.base import Condition, ObjectMeta, Ref
from moongate.api.envoygateway import EnvoyGateway, ExtensionAPIs
from moongate.attach.gateways import CONFIG
from moongate.engine import Db
from moongate.status.backends import backend_status
from moongate.store import Store
from moongate.world import INDEXES
from tests.core import ON_HOST, Core

BACKEND = Ref.of(Backend, "default", "app")
ENABLED = EnvoyGateway(extension_apis=ExtensionAPIs(enable_backend=True))
"""In a cluster, with Backends switched on."""


def accepted(spec: str, config: EnvoyGateway = ENABLED) -> Condition:
    core = Core(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\n"
        "kind: Backend\n"
        "metadata: {name: app, namespace: default, generation: 4}\n"
        f"spec: {spec}\n",
        config=config,
    )
    status = backend_status(core.db, BACKEND)
    assert status is not None
    [condition] = status.conditions
    return condition


LOOPBACK = "{endpoints: [{ip: {address: 127.0.0.1, port: 8080}}]}"


def test_a_backend_that_can_be_used_is_accepted() -> None:
    assert accepted("{endpoints: [{fqdn: {hostname: app.example.com, port: 80}}]}") == Condition(
        type="Accepted",
        status="True",
        reason="Accepted",
        message="The Backend can be used.",
        observed_generation=4,
    )


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        (LOOPBACK, "127.0.0.1 is a loopback address"),
        ("{endpoints: [{fqdn: {hostname: app, port: 80}}]}", "'app' has only one label"),
        ("{endpoints: [{fqdn: {hostname: 10.0.0.1, port: 80}}]}", "'10.0.0.1' is an IP address"),
    ],
)
def test_an_address_that_leads_nowhere_is_reported(spec: str, part: str) -> None:
    refused = accepted(spec)

    assert (refused.status, refused.reason) == ("False", "Invalid")
    assert part in refused.message


def test_a_wildcard_in_a_backend_that_a_cluster_holds_already_is_reported() -> None:
    """Admission refuses it; an object that is older than the rule comes past."""
    spec = BackendSpec(endpoints=(BackendEndpoint(fqdn=FQDNEndpoint(hostname="*.example.com", port=80)),))
    backend = Backend(metadata=ObjectMeta(name="app", namespace="default"), spec=spec)
    db = Db()
    db.put(CONFIG, ENABLED)
    Store(db, INDEXES).apply({backend.ref: backend})
    status = backend_status(db, BACKEND)

    assert status is not None
    assert "'*.example.com' is not a DNS name" in status.conditions[0].message


def test_on_a_laptop_backends_are_on_this_host() -> None:
    assert accepted(LOOPBACK, ON_HOST).status == "True"


def test_backends_that_are_switched_off_are_not_accepted() -> None:
    refused = accepted(LOOPBACK, EnvoyGateway())

    assert (refused.status, refused.reason) == ("False", "Invalid")
    assert "disabled" in refused.message


def test_a_backend_whose_hosts_are_those_of_requests_is_accepted() -> None:
    assert accepted("{type: DynamicResolver}").status == "True"


def test_a_socket_that_routes_cannot_reach_is_no_fault_of_the_backend() -> None:
    assert accepted("{endpoints: [{unix: {path: /run/app.sock}}]}").status == "True"


def test_a_backend_that_is_gone_has_no_status() -> None:
    assert backend_status(Core().db, BACKEND) is None
