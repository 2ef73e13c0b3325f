"""What references to CAs lead to, together."""

from __future__ import annotations

from time import time  # noqa: TID251 - a certificate has dates

import pytest

from moongate.api.base import Ref
from moongate.api.core import Secret
from moongate.attach.authorities import Bundle, bundle, revoked, source, valid_bundle
from moongate.attach.certificates import NOW
from moongate.attach.secret_servers import SDS_SECRET, ServedSecret
from moongate.problem import Problem
from tests.attach.test_backend_tls import CA, OTHER_CA, WITH_SDS, config_map
from tests.core import Core, certificate, new_key, secret
from tests.e2e.certificates import Authority

OURS = source("ConfigMap", "default", "ours")
THEIRS = source("Secret", "default", "theirs")
assert OURS is not None
assert THEIRS is not None
BOTH = (("refs[0]", OURS), ("refs[1]", THEIRS))
SERVED = secret("theirs", {"secretName": b"ROOT", "url": b"unix:///run/s"}, type_=SDS_SECRET)


def test_certificates_of_several_references_add_up() -> None:
    core = Core(config_map(), secret("theirs", {"tls.crt": OTHER_CA, "tls.key": b"never read"}))

    assert bundle(core.db, BOTH) == Bundle(CA + OTHER_CA)


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ("", "does not exist"),
        (secret("theirs", {"a": CA, "b": CA}), "has no ca.crt"),
        (secret("theirs", {"ca.crt": b"nothing"}), "holds no certificate in ca.crt"),
        (SERVED, "must stand alone"),
    ],
)
def test_one_that_leads_nowhere_leaves_none(theirs: str, words: str) -> None:
    problem = bundle(Core(config_map(), theirs, config=WITH_SDS).db, BOTH)

    assert isinstance(problem, Problem)
    assert problem.path == "refs[1]"
    assert problem.reason == "InvalidCACertificateRef"
    assert words in problem.message


def test_a_secret_of_another_server_stands_alone() -> None:
    core = Core(SERVED, config=WITH_SDS)

    assert bundle(core.db, BOTH[1:]) == Bundle(b"", ServedSecret("ROOT", "/run/s"))


def test_kinds_that_can_hold_no_certificate_are_no_source() -> None:
    assert source("Service", "default", "a") is None
    assert source("Secret", "default", "a") == Ref.of(Secret, "default", "a")


def test_a_bundle_of_the_cluster_has_no_namespace() -> None:
    ref = source("ClusterTrustBundle", "default", "roots")

    assert ref is not None
    assert ref.namespace == ""


def test_of_a_bundle_what_has_expired_or_cannot_be_read_is_passed_over() -> None:
    old, broken = certificate(new_key(), common_name="old", days=1), CA.replace(b"MII", b"AAA")
    core = Core(config_map(ca_crt=old + broken + CA), secret("theirs", {"ca.crt": CA}))
    assert valid_bundle(core.db, BOTH) == Bundle(old + CA), "without a clock everything is in date"

    core.db.put(NOW, int(time()) + 10 * 86_400)

    assert valid_bundle(core.db, BOTH) == Bundle(CA), "each once"


def test_a_bundle_of_which_nothing_is_valid_is_none() -> None:
    core = Core(config_map(ca_crt=certificate(new_key(), common_name="old", days=1)))
    core.db.put(NOW, int(time()) + 10 * 86_400)

    problem = valid_bundle(core.db, BOTH[:1])

    assert isinstance(problem, Problem)
    assert problem.path == "refs[0]"
    assert "expired" in problem.message


def test_the_certificate_of_a_server_is_no_authority_for_clients() -> None:
    """Only ``ca.crt``, or what stands alone: a server's own certificate must not let clients in."""
    core = Core(secret("theirs", {"tls.crt": CA, "tls.key": b"never read"}))

    problem = valid_bundle(core.db, BOTH[1:])

    assert isinstance(problem, Problem)
    assert "has no ca.crt" in problem.message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"ca.crl": b"nothing"}, "holds no list of revoked certificates in ca.crl"),
        ({"a": b"", "b": b""}, "has no ca.crl"),
        ({"ca.crl": b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"}, "no list of revoked"),
        ({"ca.crl": b"-----BEGIN X509 CRL-----\nAAAA\n"}, "holds no list"),
    ],
)
def test_a_list_that_cannot_be_read_is_a_fault(data: dict[str, bytes], words: str) -> None:
    problem = revoked(Core(secret("theirs", data, type_="Opaque")).db, BOTH[1:])

    assert isinstance(problem, Problem)
    assert words in problem.message


def test_a_list_is_in_force_until_its_time_ends() -> None:
    crl = Authority().revoking(days=2)
    core = Core(secret("theirs", {"ca.crl": crl}))
    assert revoked(core.db, BOTH[1:]) == crl

    core.db.put(NOW, int(time()) + 10 * 86_400)
    problem = revoked(core.db, BOTH[1:])

    assert isinstance(problem, Problem)
    assert "expired" in problem.message
