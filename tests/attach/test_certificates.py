"""Whether a Secret can be served, and that nothing that is said about it holds its key."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509 import ocsp
from hypothesis import given, settings, strategies

from moongate.api.base import Ref
from moongate.api.core import Secret
from moongate.attach.certificates import NOW, Certificate, Fault, Unlisted, out_of_date, reading, unlisted
from moongate.attach.certificates import certificate as certificate_in
from tests.certificates import Odd, pem
from tests.core import Core, builder, certificate, key_bytes, new_key, secret, tls_secret
from tests.e2e.certificates import Authority

CERT = Ref.of(Secret, "default", "cert")
KEY = new_key()
CHAIN = certificate(KEY, "x.io", "*.y.io")
RSA, RSASSA_PSS = (bytes.fromhex(f"2a864886f70d0101{last}") for last in ("010500", "0a3000"))
"""Kinds of keys as DER names them, with their parameters: none, and the usual ones."""
ENCRYPTED = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
DER_KEY = KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def test_a_certificate_stands_for_its_dns_names() -> None:
    core = Core(secret("cert", {"tls.crt": CHAIN, "tls.key": key_bytes(KEY)}))

    assert certificate_in(core.db, CERT) == Certificate("ECDSA", ("x.io", "*.y.io"), ("x.io", "*.y.io"))


def test_without_dns_names_it_stands_for_its_common_name() -> None:
    named = certificate(KEY, common_name="x.io")
    core = Core(secret("cert", {"tls.crt": named, "tls.key": key_bytes(KEY)}))

    assert certificate_in(core.db, CERT) == Certificate("ECDSA", (), ("x.io",))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param({}, "has no tls.crt", id="empty"),
        pytest.param({"tls.crt": CHAIN}, "has no tls.key", id="no-key"),
        pytest.param({"cert.pem": CHAIN, "key.pem": b""}, "It has 'cert.pem', 'key.pem'.", id="other-keys"),
        pytest.param(
            {"tls.crt": base64.b64encode(CHAIN), "tls.key": key_bytes(KEY)},
            "has a tls.crt that is base64 still; write it as it is under stringData",
            id="base64-of-chain",
        ),
        pytest.param(
            {"tls.crt": CHAIN, "tls.key": base64.encodebytes(key_bytes(KEY))},
            "has a tls.key that is base64 still",
            id="base64-of-key",
        ),
        pytest.param({"tls.crt": b"x", "tls.key": key_bytes(KEY)}, "no PEM block in tls.crt", id="no-pem"),
        pytest.param(
            {"tls.crt": CHAIN + key_bytes(KEY), "tls.key": key_bytes(KEY)}, "not a certificate", id="chain"
        ),
        pytest.param({"tls.crt": CHAIN, "tls.key": CHAIN}, "no private key", id="certificate-as-key"),
        pytest.param({"tls.crt": CHAIN, "tls.key": key_bytes(new_key())}, "does not belong", id="other-key"),
        pytest.param(
            {"tls.crt": CHAIN, "tls.key": ENCRYPTED}, "without one, as `openssl", id="encrypted-key"
        ),
        pytest.param(
            {"tls.crt": certificate(new_key(), "ca") + CHAIN, "tls.key": key_bytes(KEY)},
            "belong to the first certificate in tls.crt; a chain begins with",
            id="chain-order",
        ),
    ],
)
def test_a_secret_that_cannot_be_served_says_why(data: dict[str, bytes], words: str) -> None:
    core = Core(secret("cert", data))

    fault = certificate_in(core.db, CERT)

    assert isinstance(fault, Fault)
    assert words in fault.message
    assert not leaks(fault.message, data.get("tls.key", b""))


def test_a_block_without_an_end_costs_no_more_than_its_length() -> None:
    """Whoever looked for the end anew from each beginning would look for hours."""
    begun = b"-----BEGIN CERTIFICATE-----\n" * 20_000
    core = Core(secret("cert", {"tls.crt": begun + CHAIN, "tls.key": begun + key_bytes(KEY)}))

    assert isinstance(certificate_in(core.db, CERT), Certificate)


def test_the_primes_of_a_long_key_are_taken_as_they_are() -> None:
    """To ask whether they are prime takes minutes, in which nothing else goes on; and Envoy does not ask."""
    p, q = 2**7919 * 3 + 1, 2**7901 * 9 + 1  # about as prime as any other odd numbers
    assert isinstance(with_rsa(p, q), Certificate)


@pytest.mark.parametrize("number", ["d", "dmp1", "dmq1", "iqmp"])
def test_a_key_whose_numbers_do_not_belong_together_is_a_fault(number: str) -> None:
    """Envoy would refuse the whole secret for it."""
    fault = with_rsa(2**1279 - 1, 2**2203 - 1, number)

    assert isinstance(fault, Fault)
    assert "do not belong together" in fault.message


@pytest.mark.parametrize(
    ("exponent", "e", "words"),
    [(19937, 65539, "22140 bits; Envoy takes 16384"), (1279, 2**34 + 7, "longer than 33 bits")],
)
def test_an_rsa_key_beyond_what_envoy_takes_is_a_fault(exponent: int, e: int, words: str) -> None:
    fault = with_rsa(2**exponent - 1, 2**2203 - 1, e=e)

    assert isinstance(fault, Fault)
    assert words in fault.message


def with_rsa(p: int, q: int, wrong: str = "", *, e: int = 65537) -> Certificate | Fault:
    """What is said of a Secret with an RSA key of these primes; one of its numbers may be wrong."""
    d = pow(e, -1, (p - 1) * (q - 1))
    numbers = {"d": d, "dmp1": d % (p - 1), "dmq1": d % (q - 1), "iqmp": pow(q, -1, p)}
    numbers |= {wrong: numbers[wrong] + 2} if wrong else {}
    public = rsa.RSAPublicNumbers(e, p * q)
    key = rsa.RSAPrivateNumbers(p=p, q=q, public_numbers=public, **numbers).private_key(
        unsafe_skip_rsa_key_validation=True
    )
    chain = (
        builder(key)
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x.io")]))
        .issuer_name(x509.Name([]))
        .sign(KEY, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    return certificate_in(Core(secret("cert", {"tls.crt": chain, "tls.key": key_bytes(key)})).db, CERT)


ODD = Odd.of(KEY)


@pytest.mark.parametrize(
    ("der", "words"),
    [
        pytest.param(
            ODD.duplicate_extension(), "with two extensions of the same kind", id="duplicate-extension"
        ),
        pytest.param(
            ODD.unknown_version(), "of a version of X.509 that does not exist", id="unknown-version"
        ),
        pytest.param(
            ODD.edi_party_name(), "an alternative name of a kind that is not known", id="edi-party-name"
        ),
        pytest.param(ODD.broken_name(), "has extensions in tls.crt that cannot be read", id="broken-name"),
        pytest.param(
            ODD.broken_subject(), "has a subject in tls.crt that cannot be read", id="broken-subject"
        ),
        pytest.param(ODD.unknown_key(), "whose kind of key is not known", id="unknown-key"),
    ],
)
def test_a_certificate_that_breaks_the_standard_is_a_fault_of_its_secret_alone(
    der: bytes, words: str
) -> None:
    """The library raises something else for each of them, and not all of it is a ``ValueError``."""
    core = Core(secret("cert", {"tls.crt": pem(der), "tls.key": key_bytes(KEY)}))

    fault = certificate_in(core.db, CERT)

    assert isinstance(fault, Fault)
    assert words in fault.message


@settings(max_examples=50, deadline=None)
@given(strategies.data())
def test_a_secret_is_judged_whatever_it_holds_and_its_key_is_not_repeated(
    data: strategies.DataObject,
) -> None:
    """Bytes of a certificate and of its key are changed at random."""
    crt, key = (altered(data, der) for der in (ODD.der, DER_KEY))
    held = {"tls.crt": pem(crt), "tls.key": pem(key, "PRIVATE KEY")}
    core = Core(secret("cert", held))

    judged = certificate_in(core.db, CERT)
    out_of_date(core.db, CERT)

    assert isinstance(judged, Certificate | Fault)
    assert not isinstance(judged, Fault) or not leaks(judged.message, held["tls.key"])


def altered(data: strategies.DataObject, der: bytes) -> bytes:
    changed = bytearray(der)
    places = strategies.integers(0, len(der) - 1)
    for place, value in data.draw(
        strategies.dictionaries(places, strategies.integers(0, 255), max_size=3)
    ).items():
        changed[place] = value
    return bytes(changed)


class Panic(BaseException):
    """As the library's part in Rust raises it: no ``Exception``."""


def test_a_panic_of_the_library_is_a_fault_and_does_not_end_the_process() -> None:
    def panics() -> None:
        raise Panic("with the key in its words")

    assert reading(panics, "cannot be read.") == Fault("cannot be read.")


def test_whoever_ends_the_process_does_so_while_a_certificate_is_read_too() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reading(interrupted, "cannot be read.")


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


def signed(key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> x509.Certificate:
    """A certificate with an extension."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x.io")])
    made = builder(key).subject_name(name).issuer_name(name).add_extension(extension, critical=True)
    return made.sign(key, hashes.SHA256())


def usage(*, signs: bool) -> x509.KeyUsage:
    others = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(digital_signature=signs, crl_sign=True, **others)


def answer(about: x509.Certificate) -> bytes:
    """An OCSP response that says that a certificate is good."""
    day = datetime.now(UTC)  # noqa: TID251 - an answer has a date
    made = ocsp.OCSPResponseBuilder().add_response(
        about,
        about,
        hashes.SHA1(),
        ocsp.OCSPCertStatus.GOOD,
        day,
        None,
        None,
        None,
    )
    made = made.responder_id(ocsp.OCSPResponderEncoding.NAME, about)
    return made.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)


SIGNS = signed(KEY, usage(signs=True))
STAPLED = signed(KEY, x509.TLSFeature([x509.TLSFeatureType.status_request]))


@pytest.mark.parametrize(
    ("leaf", "staple", "words"),
    [
        pytest.param(SIGNS, b"", "", id="signs"),
        pytest.param(signed(KEY, usage(signs=False)), b"", "lacks digitalSignature", id="does-not-sign"),
        pytest.param(STAPLED, b"", "must be stapled", id="without-staple"),
        pytest.param(STAPLED, answer(STAPLED), "", id="stapled"),
        pytest.param(
            x509.load_pem_x509_certificate(certificate(KEY)), b"", "with no name", id="without-name"
        ),
        pytest.param(SIGNS, b"odd", "no OCSP response", id="odd-staple"),
        pytest.param(
            SIGNS,
            ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(
                Encoding.DER
            ),
            "no OCSP response",
            id="unsuccessful-staple",
        ),
        pytest.param(SIGNS, answer(STAPLED), "about another certificate", id="staple-of-another"),
    ],
)
def test_what_envoy_refuses_of_a_certificate_is_refused_before(
    leaf: x509.Certificate, staple: bytes, words: str
) -> None:
    """Its names, its key usage, and the OCSP staple that goes with it."""
    held = {"tls.crt": leaf.public_bytes(Encoding.PEM), "tls.key": key_bytes(KEY), "tls.ocsp-staple": staple}
    core = Core(secret("cert", {name: data for name, data in held.items() if data}))

    judged = certificate_in(core.db, CERT)

    assert isinstance(judged, Fault) == bool(words)
    assert words in str(judged)


@pytest.mark.parametrize("name", ["tls.crt", "tls.key"])
def test_a_key_for_rsassa_pss_alone_is_refused_before(name: str) -> None:
    """The library takes it for any RSA key, and Envoy takes neither such a certificate nor such a key."""
    key = rsa.generate_private_key(65537, 2048)
    held = {"tls.crt": certificate(key, "x.io"), "tls.key": key_bytes(key)}
    (label,) = {line for line in held[name].splitlines() if line.startswith(b"-----BEGIN ")}
    der = base64.b64decode(b"".join(held[name].splitlines()[1:-1]))
    held[name] = pem(der.replace(RSA, RSASSA_PSS), label.decode().strip("- ").removeprefix("BEGIN "))

    judged = certificate_in(Core(secret("cert", held)).db, CERT)

    assert isinstance(judged, Fault)
    assert "RSASSA-PSS" in judged.message


def test_a_secret_of_another_type_is_not_served() -> None:
    core = Core(secret("cert", {"tls.crt": CHAIN, "tls.key": key_bytes(KEY)}, type_="Opaque"))

    assert certificate_in(core.db, CERT) == Fault("is of type Opaque; it must be of type kubernetes.io/tls.")


def test_time_counts_once_somebody_says_it() -> None:
    core = Core(tls_secret("cert", "x.io"))
    unknown = out_of_date(core.db, CERT)

    core.db.put(NOW, 2**40)

    assert unknown is None
    assert out_of_date(core.db, CERT) == Fault(
        "holds the certificate in tls.crt that has expired; it must be renewed."
    )


@pytest.mark.parametrize(
    ("days", "fault"),
    [
        pytest.param(-2, Fault("holds the certificate in tls.crt that is not valid yet."), id="too-early"),
        pytest.param(0, None, id="in-time"),
        pytest.param(29, None, id="in-time-to-the-end"),
        pytest.param(
            31, Fault("holds the certificate in tls.crt that has expired; it must be renewed."), id="too-late"
        ),
    ],
)
def test_a_certificate_has_its_time(days: int, fault: Fault | None) -> None:
    """Certificates of these tests are valid from yesterday on, for 30 days from now."""
    core = Core(tls_secret("cert", "x.io"))
    now = datetime.now(UTC) + timedelta(days=days)  # noqa: TID251 - a certificate has dates
    core.db.put(NOW, int(now.timestamp()))

    assert out_of_date(core.db, CERT) == fault


OURS, THEIRS, FORMER = Authority("ours"), Authority("theirs"), Authority("ours")


@pytest.mark.parametrize(
    ("pem", "missing"),
    [
        pytest.param(OURS.pem, Unlisted((), ()), id="no-lists"),
        pytest.param(OURS.pem + OURS.revoking(), Unlisted((), ()), id="its-list"),
        pytest.param(OURS.pem + OURS.revoking() + THEIRS.revoking(), Unlisted((), ("CN=theirs",)), id="more"),
        pytest.param(OURS.pem + THEIRS.revoking(), Unlisted(("CN=ours",), ("CN=theirs",)), id="another"),
        pytest.param(
            OURS.pem + FORMER.revoking(),
            Unlisted(("CN=ours",), ("CN=ours by another key",)),
            id="another-key",
        ),
        pytest.param(OURS.pem + THEIRS.pem + OURS.revoking(), Unlisted(("CN=theirs",), ()), id="one-of-two"),
    ],
)
def test_an_authority_without_its_list_beside_lists_is_found(pem: bytes, missing: Unlisted) -> None:
    assert unlisted(pem) == missing


def leaks(text: str, key: bytes) -> bool:
    return any(line in text for line in key.decode(errors="replace").splitlines() if len(line) > 20)
