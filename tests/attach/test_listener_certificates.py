"""Which of the certificates that a listener names it serves."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import rsa

from moongate.api.base import ListenerId, Ref
from moongate.api.core import Secret
from moongate.api.listenerset import ListenerSet
from moongate.attach.listener_certificates import certificate_refs, listener_certificates
from moongate.problem import Problem
from tests.core import EG, Core, allowing, gateway, http, https, listener_set, tls_secret
from tests.routes import WEB


def test_certificates_are_served_in_the_order_of_the_listener() -> None:
    """Two certificates for a name are fine when the kinds of their keys differ."""
    other = rsa.generate_private_key(65537, 2048)
    core = Core(
        gateway(https("web", "two", "one")), tls_secret("one", "x.io"), tls_secret("two", "x.io", key=other)
    )

    certificates = listener_certificates(core.db, WEB)

    assert [ref.name for ref in certificates.served] == ["two", "one"]
    assert certificates.faults == ()


def test_a_second_certificate_of_a_kind_for_a_name_is_left_out() -> None:
    core = Core(gateway(https("web", "one", "two")), tls_secret("one", "x.io"), tls_secret("two", "x.io"))

    certificates = listener_certificates(core.db, WEB)

    assert [ref.name for ref in certificates.served] == ["one"]
    assert certificates.faults == (
        Problem(
            "tls.certificateRefs[1]",
            "Secret default/two is a second ECDSA certificate for x.io, after Secret default/one.",
            "InvalidCertificateRef",
        ),
    )


def test_a_bad_certificate_costs_no_other_of_its_listener() -> None:
    core = Core(gateway(https("web", "gone", "cert")), tls_secret("cert", "x.io"))

    certificates = listener_certificates(core.db, WEB)

    assert [ref.name for ref in certificates.served] == ["cert"]
    assert certificates.sans == ("x.io",)
    assert [fault.path for fault in certificates.faults] == ["tls.certificateRefs[0]"]


def test_a_secret_of_another_namespace_is_usable_only_with_a_grant() -> None:
    core = Core(gateway(https("web", "cert, namespace: elsewhere")))

    [target] = certificate_refs(core.db, WEB)

    assert isinstance(target, Problem)
    assert target.reason == "RefNotPermitted"
    assert target.message.startswith("No ReferenceGrant in namespace elsewhere lets this Gateway use")


def test_a_listener_that_is_gone_has_no_certificates() -> None:
    assert listener_certificates(Core().db, WEB).served == ()


def test_a_secret_for_a_set_needs_a_grant_for_sets() -> None:
    core = Core(
        gateway(http("web"), allowedListeners=allowing("All")),
        listener_set(https("more", "cert, namespace: elsewhere"), namespace="shop"),
    )
    of_set = Ref.of(ListenerSet, "shop", "more")
    listener = ListenerId(EG, of_set, "more")

    [refused] = certificate_refs(core.db, listener)
    assert isinstance(refused, Problem)
    assert refused.reason == "RefNotPermitted"
    assert "lets this ListenerSet use" in refused.message

    core.apply("""
    apiVersion: gateway.networking.k8s.io/v1
    kind: ReferenceGrant
    metadata: {name: certificates, namespace: elsewhere}
    spec:
      from: [{group: gateway.networking.k8s.io, kind: ListenerSet, namespace: shop}]
      to: [{group: "", kind: Secret}]
    """)
    assert certificate_refs(core.db, listener) == (Ref.of(Secret, "elsewhere", "cert"),)
