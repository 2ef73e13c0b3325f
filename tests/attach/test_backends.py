"""What backends lead to, and why some cannot be used."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.api.base import Ref
from moongate.api.core import Service
from moongate.api.gateway import Gateway
from moongate.api.serviceimport import ServiceImport
from moongate.api.shared import BackendObjectReference
from moongate.attach.backends import (
    Backend,
    Endpoint,
    Target,
    backend,
    endpoints,
    kind_problem,
    reached_from,
    section_of,
    target,
)
from tests.core import ON_HOST, Core, extension
from tests.routes import endpoints as slice_of
from tests.routes import service

SHOP = Target("", "Service", "default", "shop", 80)
STATIC = Target("gateway.envoyproxy.io", "Backend", "default", "static", 0)
IMPORTED = Target("multicluster.x-k8s.io", "ServiceImport", "default", "shop", 80)
IMPORT_LABEL = "multicluster.kubernetes.io/service-name"


def backend_resource(spec: str) -> str:
    return extension("Backend", "static", spec)


def imported(spec: str = "{ports: [{name: http, port: 80}], ips: [10.97.0.1]}") -> str:
    return f"""
        apiVersion: multicluster.x-k8s.io/v1alpha1
        kind: ServiceImport
        metadata: {{name: shop, namespace: default}}
        spec: {spec}
    """


def reason(core: Core, of: Target, *, to_service: bool = False) -> str | None:
    problem = backend(core.db, of, to_service).problem
    return problem.reason if problem is not None else None


def test_a_service_leads_to_its_endpoints() -> None:
    core = Core(service("shop", "10.0.0.1", "10.0.0.2"))

    assert backend(core.db, SHOP, False) == Backend()
    assert endpoints(core.db, SHOP, False) == (Endpoint("10.0.0.1", 8080), Endpoint("10.0.0.2", 8080))


def test_an_endpoint_that_is_not_ready_or_goes_away_is_drained() -> None:
    """It is kept, so that requests under way end well; it gets no new ones."""
    core = Core(
        service("shop", ""),
        slice_of("shop", "10.0.0.1", conditions={"ready": False}, zone="a"),
        slice_of("shop", "fd00::1", type_="IPv6", conditions={"serving": True, "terminating": True}),
    )

    all_endpoints = endpoints(core.db, SHOP, False)

    assert all_endpoints == (
        Endpoint("10.0.0.1", 8080, zone="a", draining=True),
        Endpoint("fd00::1", 8080, draining=True),
    )


def test_a_slice_of_another_port_is_none_of_the_backends() -> None:
    core = Core(service("shop", port="{name: metrics}"))

    assert endpoints(core.db, SHOP, False) == ()
    assert backend(core.db, SHOP, False).empty


def test_a_service_may_be_reached_by_its_cluster_ip() -> None:
    core = Core(service("shop", ""))

    assert endpoints(core.db, SHOP, True) == (Endpoint("10.96.0.1", 80),)
    assert not backend(core.db, SHOP, True).empty


def test_a_headless_service_has_no_cluster_ip_to_be_reached_by() -> None:
    core = Core(service("shop", clusterIP="None"))

    assert endpoints(core.db, SHOP, True) == (Endpoint("10.0.0.1", 8080),)


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("kubernetes.io/h2c", Backend(protocol="HTTP2")),
        ("grpc", Backend(protocol="GRPC")),
        ("kubernetes.io/ws", Backend(http1=True)),
        ("kubernetes.io/wss", Backend(http1=True)),
        ("example.com/mine", Backend()),
    ],
)
def test_a_port_says_what_it_speaks(protocol: str, expected: Backend) -> None:
    core = Core(service("shop", port=f"{{appProtocol: {protocol}}}"))

    assert backend(core.db, SHOP, False) == expected


@pytest.mark.parametrize(
    ("manifests", "of", "expected"),
    [
        ((), SHOP, "BackendNotFound"),
        ((service("shop"),), SHOP._replace(port=0), "PortNotSpecified"),
        ((service("shop"),), SHOP._replace(port=81), "PortNotFound"),
        ((service("shop", port="{protocol: UDP}"),), SHOP, "PortNotFound"),
        ((service("shop", type="ExternalName", externalName="example.com"),), SHOP, "UnsupportedValue"),
        ((service("shop"), slice_of("shop", "a.example.com", type_="FQDN")), SHOP, "UnsupportedAddressType"),
        ((), IMPORTED, "BackendNotFound"),
        ((imported(),), IMPORTED._replace(port=81), "PortNotFound"),
        ((), SHOP._replace(kind="Pod"), "InvalidKind"),
        ((), SHOP._replace(group="apps"), "InvalidKind"),
    ],
)
def test_a_backend_that_cannot_be_used_says_why(
    manifests: tuple[str, ...], of: Target, expected: str
) -> None:
    core = Core(*manifests)

    assert reason(core, of) == expected


def test_names_of_slices_are_resolved() -> None:
    core = Core(service("shop", ""), slice_of("shop", "a.example.com", type_="FQDN"))

    assert backend(core.db, SHOP, False).dns


def test_a_service_import_leads_to_the_endpoints_that_are_labelled_for_it() -> None:
    """The endpoints of a Service of the same name are others."""
    core = Core(
        imported(),
        service("shop", "10.0.0.1"),
        slice_of("shop", "10.1.0.1", type_="IPv6", label=IMPORT_LABEL).replace("IPv6", "IPv4"),
    )

    assert endpoints(core.db, IMPORTED, False) == (Endpoint("10.1.0.1", 8080),)
    assert endpoints(core.db, SHOP, False) == (Endpoint("10.0.0.1", 8080),)


def test_a_service_import_may_be_reached_by_its_addresses() -> None:
    core = Core(imported())

    assert endpoints(core.db, IMPORTED, True) == (Endpoint("10.97.0.1", 80),)
    assert endpoints(core.db, IMPORTED, False) == ()


def backend_core(spec: str, **kwargs: Any) -> Core:
    return Core(backend_resource(spec), **kwargs)


def test_a_backend_lists_its_endpoints() -> None:
    spec = "{endpoints: [{ip: {address: 1.2.3.4, port: 90}, zone: a}, {ip: {address: 5.6.7.8, port: 91}}]}"
    core = backend_core(spec, config=ON_HOST)

    assert backend(core.db, STATIC, False) == Backend()
    assert endpoints(core.db, STATIC, False) == (Endpoint("1.2.3.4", 90, zone="a"), Endpoint("5.6.7.8", 91))


def test_a_backend_with_names_is_resolved_and_may_be_a_fallback() -> None:
    spec = "{fallback: true, endpoints: [{fqdn: {hostname: a.example.com, port: 90}}]}"
    core = backend_core(spec, config=ON_HOST)

    assert backend(core.db, STATIC, False) == Backend(dns=True, fallback=True)


def test_backends_are_off_unless_the_configuration_says_otherwise() -> None:
    core = backend_core("{endpoints: [{ip: {address: 1.2.3.4, port: 90}}]}")

    assert reason(core, STATIC) == "UnsupportedValue"


def test_a_unix_socket_is_reached_on_its_own_host_only() -> None:
    core = backend_core("{endpoints: [{unix: {path: /run/app.sock}}]}", config=ON_HOST)

    assert reason(core, STATIC) is None
    assert endpoints(core.db, STATIC, False) == (Endpoint("/run/app.sock", 0),)


def test_a_backend_whose_tls_cannot_be_built_gets_nothing_in_the_clear() -> None:
    cas = "[{group: '', kind: ConfigMap, name: gone}]"
    spec = f"{{tls: {{caCertificateRefs: {cas}}}, endpoints: [{{ip: {{address: 1.2.3.4, port: 90}}}}]}}"
    core = backend_core(spec, config=ON_HOST)

    assert reason(core, STATIC) == "InvalidBackendTLS"


def test_a_backend_that_is_reached_from_a_gateway_has_its_tls() -> None:
    spec = "{tls: {wellKnownCACertificates: System}, endpoints: [{ip: {address: 1.2.3.4, port: 90}}]}"
    core = backend_core(spec, config=ON_HOST)

    reached = reached_from(core.db, Ref.of(Gateway, "default", "shop"), STATIC, False)

    assert reached.tls is not None
    assert reached.tls.validation == reached.validation


def test_a_port_is_known_to_a_policy_by_its_name_and_that_of_a_backend_by_its_number() -> None:
    core = backend_core("{endpoints: [{ip: {address: 1.2.3.4, port: 90}}]}", config=ON_HOST)

    assert section_of(core.db, STATIC._replace(port=90)) == "90"
    assert section_of(core.db, STATIC._replace(port=0)) == ""


def test_the_kind_alone_decides_what_a_reference_means() -> None:
    """As in the reference: manifests that leave the group out go on working."""
    named = Target("", "ServiceImport", "default", "shop", 80)

    assert kind_problem(named) is None
    assert named.ref == Ref.of(ServiceImport, "default", "shop")


def test_a_target_is_in_the_namespace_of_who_names_it_unless_it_says_otherwise() -> None:
    ref = BackendObjectReference(name="shop", port=80)

    assert target(ref, "here") == Target("", "Service", "here", "shop", 80)
    assert target(BackendObjectReference(name="shop", namespace="there"), "here").ref == Ref.of(
        Service, "there", "shop"
    )


def test_metadata_names_the_port_of_what_has_ports() -> None:
    assert (SHOP.section, IMPORTED.section, STATIC.section) == ("80", "80", "")


def test_an_endpoint_that_changes_does_not_change_what_a_route_sees() -> None:
    core = Core(service("shop"))
    before = backend(core.db, SHOP, False)

    core.apply(service("shop", "10.0.0.9"))

    assert endpoints(core.db, SHOP, False) == (Endpoint("10.0.0.9", 8080),)
    assert backend(core.db, SHOP, False) == before
