"""What references to CAs lead to, together."""

from __future__ import annotations

import pytest

from moongate.api.base import Ref
from moongate.api.core import Secret
from moongate.attach.authorities import Bundle, bundle, source
from moongate.attach.secret_servers import SDS_SECRET, ServedSecret
from moongate.problem import Problem
from tests.attach.test_backend_tls import CA, OTHER_CA, WITH_SDS, config_map
from tests.core import Core, secret

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
    found = bundle(Core(config_map(), theirs, config=WITH_SDS).db, BOTH)

    assert isinstance(found, Problem)
    assert found.path == "refs[1]"
    assert found.reason == "InvalidCACertificateRef"
    assert words in found.message


def test_a_secret_of_another_server_stands_alone() -> None:
    core = Core(SERVED, config=WITH_SDS)

    assert bundle(core.db, BOTH[1:]) == Bundle(b"", ServedSecret("ROOT", "/run/s"))


def test_kinds_that_can_hold_no_certificate_are_no_source() -> None:
    assert source("Service", "default", "a") is None
    assert source("Secret", "default", "a") == Ref.of(Secret, "default", "a")


def test_a_bundle_of_the_cluster_has_no_namespace() -> None:
    found = source("ClusterTrustBundle", "default", "roots")

    assert found is not None
    assert found.namespace == ""
