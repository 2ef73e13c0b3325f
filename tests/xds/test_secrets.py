"""Certificates on their way to Envoy, and nowhere else."""

from __future__ import annotations

from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from moongate.api.base import Ref
from moongate.attach.listeners import listeners
from moongate.kinds import ref_of
from moongate.status.gateways import gateway_status
from moongate.xds.listeners import listener, listener_names
from moongate.xds.secrets import secret, secret_refs
from tests import core as made
from tests.core import EG, EG_FLEET, Core, certificate, gateway, http, https, key_bytes, new_key, tls_secret

CERT = ref_of("Secret", "default", "cert")


def sent(core: Core, ref: Ref = CERT) -> Secret:
    return Secret.FromString(secret(core.db, EG_FLEET, ref).body)


def test_a_certificate_goes_to_envoy_with_its_key_and_staple() -> None:
    key = new_key()
    chain = certificate(key, "x.io")
    data = {"tls.crt": b"a note\n" + chain, "tls.key": key_bytes(key), "tls.ocsp-staple": b"staple"}
    core = Core(gateway(https("a", "cert")), made.secret("cert", data))

    message = sent(core)

    assert message.name == "default/cert"
    assert message.tls_certificate.certificate_chain.inline_bytes == chain
    assert message.tls_certificate.private_key.inline_bytes == key_bytes(key)
    assert message.tls_certificate.ocsp_staple.inline_bytes == b"staple"


def test_only_what_is_served_is_sent() -> None:
    """A Secret that no ready listener serves stays here, and a shared one is sent once."""
    core = Core(
        gateway(https("a", "cert"), https("b", "cert", port=8443), https("c", "gone", port=9443), http("d")),
        tls_secret("cert", "x.io"),
        tls_secret("unused", "y.io"),
    )

    assert secret_refs(core.db, EG_FLEET) == (CERT,)


def test_a_rotated_certificate_changes_its_secret_and_no_listener() -> None:
    core = Core(gateway(https("a", "cert")), tls_secret("cert", "x.io"))
    [_, name] = listener_names(core.db, EG_FLEET)
    before = listener(core.db, EG_FLEET, name), secret(core.db, EG_FLEET, CERT)

    core.apply(tls_secret("cert", "x.io"))
    with core.ran() as ran:
        after = listener(core.db, EG_FLEET, name), secret(core.db, EG_FLEET, CERT)

    assert after[0] == before[0]
    assert after[1].version != before[1].version
    assert "listener" not in ran


def test_no_key_is_in_a_listener_or_a_status() -> None:
    """Not by what works, and not by what does not."""
    key = new_key()
    data = {"tls.crt": certificate(key, "x.io"), "tls.key": key_bytes(key)}
    broken = data | {"tls.crt": certificate(new_key(), "x.io")}
    core = Core(
        gateway(https("a", "good"), https("b", "bad", port=8443)),
        made.secret("good", data),
        made.secret("bad", broken),
    )

    texts = repr(listeners(core.db, EG)) + repr(gateway_status(core.db, EG))

    assert "does not belong" in texts
    assert not any(line in texts for line in key_bytes(key).decode().splitlines())


def test_a_secret_that_is_gone_has_nothing_left() -> None:
    core = Core(gateway(https("a", "cert")), tls_secret("cert", "x.io"))

    core.delete("Secret", "default", "cert")

    assert secret_refs(core.db, EG_FLEET) == ()
    assert not sent(core).HasField("tls_certificate")


def test_secrets_of_a_listener_that_cannot_be_judged_stay_with_envoy() -> None:
    """moongate failed, so which of them Envoy serves is not known; none of them is taken away for it."""
    core = Core(
        gateway(https("a", "broken", hostname="a.io"), https("b", "cert", hostname="b.io", port=8443)),
        tls_secret("cert", "x.io"),
    )
    core.db.put(ref_of("Secret", "default", "broken"), "no Secret: reading it raises")

    assert secret_refs(core.db, EG_FLEET) == (ref_of("Secret", "default", "broken"), CERT)
