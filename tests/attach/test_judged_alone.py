"""What a listener may serve by itself, and what keeps it from it."""

from __future__ import annotations

import pytest

from moongate.attach.listeners import listeners
from tests.core import EG, Core, gateway, https, tls_secret


def verdicts(core: Core) -> dict[str, dict[str, str]]:
    """By listener: condition type → reason, with "!" in front where the condition is False."""
    return {
        each.id.name: {c.type: c.reason if c.status == "True" else f"!{c.reason}" for c in each.conditions}
        for each in listeners(core.db, EG)
    }


FINE = {"Accepted": "Accepted", "Programmed": "Programmed", "ResolvedRefs": "ResolvedRefs"}


@pytest.mark.parametrize(
    ("listener", "expected"),
    [
        pytest.param(
            "{name: a, port: 80, protocol: acme.io/SMTP}",
            {"Accepted": "!UnsupportedProtocol", "Programmed": "!Invalid", "ResolvedRefs": "ResolvedRefs"},
            id="protocol",
        ),
        pytest.param(
            "{name: a, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: TCPRoute}]}}",
            {"Programmed": "!Invalid", "ResolvedRefs": "!InvalidRouteKinds"},
            id="kinds",
        ),
        pytest.param(
            "{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}}",
            {"Programmed": "!Invalid", "ResolvedRefs": "ResolvedRefs"},
            id="no-selector",
        ),
        pytest.param(
            "{name: a, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, "
            "selector: {matchExpressions: [{key: k, operator: Like}]}}}}",
            {"Programmed": "!Invalid", "ResolvedRefs": "ResolvedRefs"},
            id="selector-operator",
        ),
        pytest.param(
            "{name: a, port: 443, protocol: HTTPS}",
            {"Programmed": "!Invalid", "ResolvedRefs": "ResolvedRefs"},
            id="no-tls",
        ),
        pytest.param(
            "{name: a, port: 443, protocol: TLS, tls: {mode: Passthrough, certificateRefs: [{name: c}]}}",
            {"Programmed": "!Invalid", "ResolvedRefs": "ResolvedRefs"},
            id="certificate-of-a-backend",
        ),
    ],
)
def test_a_listener_is_judged_by_itself(listener: str, expected: dict[str, str]) -> None:
    assert verdicts(Core(gateway(listener))) == {"a": expected}


def test_a_wrong_kind_leaves_the_right_ones_supported() -> None:
    kinds = "allowedRoutes: {kinds: [{kind: TCPRoute}, {kind: HTTPRoute}]}"
    core = Core(gateway(f"{{name: a, port: 80, protocol: HTTP, {kinds}}}"))

    assert listeners(core.db, EG)[0].kinds == (("gateway.networking.k8s.io", "HTTPRoute"),)


def test_a_listener_without_a_usable_certificate_is_accepted_but_not_served() -> None:
    core = Core(gateway(https("a", "gone")))
    expected = {"Accepted": "Accepted", "Programmed": "!Invalid", "ResolvedRefs": "!InvalidCertificateRef"}

    assert verdicts(core) == {"a": expected}


def test_a_certificate_of_another_namespace_needs_a_grant() -> None:
    refs = "tls: {certificateRefs: [{name: cert, namespace: vault}]}"
    core = Core(
        gateway(f"{{name: a, port: 443, protocol: HTTPS, {refs}}}"),
        tls_secret("cert", "x.io", namespace="vault"),
    )
    refused = verdicts(core)

    core.apply("""
        apiVersion: gateway.networking.k8s.io/v1beta1
        kind: ReferenceGrant
        metadata: {name: certs, namespace: vault}
        spec:
          from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: default}]
          to: [{group: "", kind: Secret}]
    """)

    assert refused == {"a": {"Programmed": "!Invalid", "ResolvedRefs": "!RefNotPermitted"}}
    assert verdicts(core) == {"a": FINE}
