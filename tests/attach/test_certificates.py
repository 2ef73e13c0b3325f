"""Whether a Secret can be served, and that nothing that is said about it holds its key."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from moongate.api.base import Ref
from moongate.attach.certificates import NOW, Certificate, Fault, out_of_date
from moongate.attach.certificates import certificate as certificate_in
from tests.core import Core, certificate, key_bytes, new_key, secret, tls_secret

CERT = Ref("Secret", "default", "cert")
KEY = new_key()
CHAIN = certificate(KEY, "x.io", "*.y.io")


def test_a_certificate_stands_for_its_dns_names() -> None:
    core = Core(secret("cert", {"tls.crt": CHAIN, "tls.key": key_bytes(KEY)}))

    assert certificate_in(core.db, CERT) == Certificate("ECDSA", ("x.io", "*.y.io"), ("x.io", "*.y.io"))


def test_without_dns_names_it_stands_for_its_common_name() -> None:
    named = certificate(KEY, common_name="x.io")
    core = Core(secret("cert", {"tls.crt": named, "tls.key": key_bytes(KEY)}))

    assert certificate_in(core.db, CERT) == Certificate("ECDSA", (), ("x.io",))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param({}, "has no tls.crt", id="empty"),
        pytest.param({"tls.crt": CHAIN}, "has no tls.key", id="no-key"),
        pytest.param({"tls.crt": b"x", "tls.key": key_bytes(KEY)}, "no PEM block in tls.crt", id="no-pem"),
        pytest.param(
            {"tls.crt": CHAIN + key_bytes(KEY), "tls.key": key_bytes(KEY)}, "not a certificate", id="chain"
        ),
        pytest.param({"tls.crt": CHAIN, "tls.key": CHAIN}, "no private key", id="certificate-as-key"),
        pytest.param({"tls.crt": CHAIN, "tls.key": key_bytes(new_key())}, "does not belong", id="other-key"),
    ],
)
def test_a_secret_that_cannot_be_served_says_why(data: dict[str, bytes], told: str) -> None:
    core = Core(secret("cert", data))

    found = certificate_in(core.db, CERT)

    assert isinstance(found, Fault)
    assert told in found.told
    assert not leaks(found.told, data.get("tls.key", b""))


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(rsa.generate_private_key(65537, 1024), id="rsa-1024"),
        pytest.param(ed25519.Ed25519PrivateKey.generate(), id="ed25519"),
        pytest.param(ec.generate_private_key(ec.SECP256K1()), id="secp256k1"),
    ],
)
def test_a_key_that_envoy_refuses_is_refused_before(
    key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
) -> None:
    """Envoy rejects the whole secret, and the listener would wait for it for ever."""
    core = Core(tls_secret("cert", "x.io", key=key))

    assert isinstance(certificate_in(core.db, CERT), Fault)


def test_a_secret_of_another_type_is_not_served() -> None:
    core = Core(secret("cert", {"tls.crt": CHAIN, "tls.key": key_bytes(KEY)}, type_="Opaque"))

    assert certificate_in(core.db, CERT) == Fault("is of type Opaque; it must be of type kubernetes.io/tls.")


def test_time_counts_once_somebody_tells_it() -> None:
    core = Core(tls_secret("cert", "x.io"))
    unknown = out_of_date(core.db, CERT)

    core.db.put(NOW, 2**40)

    assert unknown is None
    assert out_of_date(core.db, CERT) == Fault("holds the certificate in tls.crt that has expired.")


def leaks(text: str, key: bytes) -> bool:
    return any(line in text for line in key.decode(errors="replace").splitlines() if len(line) > 20)
