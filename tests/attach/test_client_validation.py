"""Which certificates a Gateway asks of clients, and what becomes of its listeners."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from moongate.attach.client_validation import (
    ClientAuthorities,
    client_authorities,
    client_authorities_contents,
    client_authorities_problem,
)
from moongate.attach.listeners import listeners
from moongate.problem import Problem
from moongate.status.gateways import gateway_status
from tests.attach.test_backend_tls import CA, OTHER_CA, config_map
from tests.core import EG, Core, builder, gateway, http, https, new_key, tls_secret

OURS = {"group": "", "kind": "ConfigMap", "name": "ours"}
OF_ALL = ClientAuthorities(EG, "default")
CERT = tls_secret("cert", "x.io")
CLOSED = {"Accepted": "!NoValidCACertificate"}


def asking(*refs: dict[str, Any], mode: str = "") -> dict[str, Any]:
    """``tls`` of what asks clients for certificates of some CAs."""
    return {"validation": {"caCertificateRefs": list(refs or (OURS,)), **({"mode": mode} if mode else {})}}


def guarded(*listeners: str, default: Any = None, **ports: Any) -> str:
    """A Gateway with ``tls.frontend``: the default, and entries for ports (``port_8443``)."""
    per_port = [{"port": int(port.removeprefix("port_")), "tls": tls} for port, tls in ports.items()]
    frontend = {"default": asking() if default is None else default, "perPort": per_port}
    return gateway(*(listeners or (https("web", "cert"),)), tls={"frontend": frontend})


def verdicts(core: Core) -> dict[str, dict[str, str]]:
    """By listener: condition type → reason, with "!" in front where the condition is False."""
    return {
        each.id.name: {c.type: c.reason if c.status == "True" else f"!{c.reason}" for c in each.conditions}
        for each in listeners(core.db, EG)
    }


def of_gateway(core: Core) -> dict[str, str]:
    status = gateway_status(core.db, EG)
    assert status is not None
    return {c.type: c.reason if c.status == "True" else f"!{c.reason}" for c in status.conditions}


def test_https_listeners_ask_for_certificates_and_others_do_not() -> None:
    tls = "{name: tls, port: 9443, protocol: TLS, tls: {mode: Terminate, certificateRefs: [{name: cert}]}}"
    core = Core(guarded(https("web", "cert"), http("plain"), tls), CERT, config_map())

    asked = {each.id.name: each.clients for each in listeners(core.db, EG)}

    assert asked["plain"] is None
    assert asked["tls"] is None
    assert asked["web"] is not None
    assert asked["web"].authorities == OF_ALL
    assert asked["web"].only_valid
    assert all(each.ready for each in listeners(core.db, EG))
    assert of_gateway(core) == {"ResolvedRefs": "ResolvedRefs"}


def test_a_port_has_its_own_in_place_of_the_default() -> None:
    """An entry that asks for nothing switches the default off, even one with a fault."""
    core = Core(
        guarded(
            https("a", "cert"),
            https("b", "cert", port=8443),
            https("c", "cert", port=9443),
            default=asking(OURS | {"name": "gone"}),
            port_8443=asking(mode="AllowInsecureFallback"),
            port_9443={},
        ),
        CERT,
        config_map(),
    )

    by_listener = {each.id.name: (each.ready, each.clients) for each in listeners(core.db, EG)}

    assert by_listener["a"][0] is False
    ready, clients = by_listener["b"]
    assert ready
    assert clients is not None
    assert clients.authorities == ClientAuthorities(EG, "8443")
    assert not clients.only_valid
    assert by_listener["c"] == (True, None)
    assert of_gateway(core) == {
        "ResolvedRefs": "!InvalidParameters",
        "InsecureFrontendValidationMode": "ConfigurationChanged",
    }


@pytest.mark.parametrize(
    ("ref", "reason"),
    [
        (OURS | {"name": "gone"}, "InvalidCACertificateRef"),
        (OURS | {"kind": "Service"}, "InvalidCACertificateKind"),
        (OURS | {"namespace": "other"}, "RefNotPermitted"),
        (OURS | {"kind": "Secret", "name": "cert", "namespace": "other"}, "RefNotPermitted"),
    ],
)
def test_without_authorities_the_listener_is_closed(ref: dict[str, str], reason: str) -> None:
    core = Core(guarded(default=asking(ref)), CERT, config_map())

    [web] = listeners(core.db, EG)

    assert not web.ready
    assert verdicts(core) == {
        "web": CLOSED | {"Programmed": f"!{reason}", "ResolvedRefs": f"!{reason}"},
    }
    assert next(fault.path for fault in web.client_faults).startswith(
        "spec.tls.frontend.default.validation.caCertificateRefs[0]"
    )
    assert of_gateway(core) == {"ResolvedRefs": "!InvalidParameters"}


def test_one_bad_reference_of_several_closes_the_listener() -> None:
    core = Core(guarded(default=asking(OURS, OURS | {"name": "gone"})), CERT, config_map())

    assert verdicts(core)["web"]["Programmed"] == "!InvalidCACertificateRef"


def test_a_mode_that_lets_all_pass_is_not_in_force_without_authorities() -> None:
    """Otherwise a typing error in a name would do the same as to ask for nothing."""
    bad = asking(OURS | {"name": "gone"}, mode="AllowInsecureFallback")
    core = Core(guarded(default=bad), CERT)

    assert not listeners(core.db, EG)[0].ready
    assert of_gateway(core) == {"ResolvedRefs": "!InvalidParameters"}


def test_a_grant_heals_and_its_end_closes_again() -> None:
    core = Core(
        guarded(default=asking(OURS | {"namespace": "vault"})),
        CERT,
        config_map().replace("metadata:", "metadata:\n  namespace: vault", 1),
    )
    grant = """
        apiVersion: gateway.networking.k8s.io/v1
        kind: ReferenceGrant
        metadata: {name: g, namespace: vault}
        spec:
          from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: default}]
          to: [{group: "", kind: ConfigMap, name: ours}]
    """
    assert not listeners(core.db, EG)[0].ready

    core.apply(grant)
    assert listeners(core.db, EG)[0].ready

    core.delete("ReferenceGrant", "vault", "g")
    assert not listeners(core.db, EG)[0].ready


def test_other_authorities_leave_the_listener_as_it_is() -> None:
    core = Core(guarded(), CERT, config_map())
    before, contents = listeners(core.db, EG), client_authorities_contents(core.db, OF_ALL)

    core.apply(config_map(ca_crt=OTHER_CA))
    with core.ran() as ran:
        after = listeners(core.db, EG)

    assert after == before
    assert "listeners" not in ran
    assert client_authorities_contents(core.db, OF_ALL) != contents


def test_a_place_that_names_none_has_none() -> None:
    core = Core(gateway(https("web", "cert")), CERT)

    problem = client_authorities(core.db, OF_ALL)

    assert isinstance(problem, Problem)
    assert client_authorities_problem(core.db, OF_ALL) == problem


@pytest.mark.parametrize(("count", "fits"), [(20, True), (24, False)])
def test_the_names_of_authorities_must_fit_into_a_handshake(count: int, *, fits: bool) -> None:
    """Else nobody can connect, and nothing says why."""
    names = [f"{n} {'x' * 3000}" for n in range(count)]
    core = Core(guarded(), CERT, config_map(ca_crt=b"".join(map(of_authority, names)) * 2))

    [judged] = listeners(core.db, EG)

    assert judged.ready is fits
    assert ["fewer CAs" in fault.message for fault in judged.client_faults] == [True] * (not fits)


def of_authority(name: str) -> bytes:
    """A certificate with a long name."""
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.DOMAIN_COMPONENT, name)])
    made = builder(key).subject_name(subject).issuer_name(subject).sign(key, SHA256())
    return made.public_bytes(Encoding.PEM)


def test_no_key_is_in_a_message() -> None:
    """A Secret may hold a key beside the certificate, and CAs are read from it."""
    held = f"{CA.decode()}-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
    core = Core(guarded(), CERT, config_map(ca_crt=held.encode()))

    assert "c2VjcmV0" not in repr(client_authorities(core.db, OF_ALL)) + repr(gateway_status(core.db, EG))
    assert listeners(core.db, EG)[0].ready
