"""Secrets that stand for those of another server."""

from __future__ import annotations

import pytest

from moongate.api.base import Ref
from moongate.api.core import Secret
from moongate.attach.certificates import Fault
from moongate.attach.secret_servers import SDS_SECRET, ServedSecret, served_secret
from tests.attach.test_backend_tls import WITH_SDS
from tests.core import Core, secret

REF = Ref.of(Secret, "default", "a")


def server_of(core: Core) -> ServedSecret | Fault | None:
    return served_secret(core.db, REF)


def test_a_secret_names_the_server_and_what_it_calls_the_secret() -> None:
    core = Core(
        secret("a", {"secretName": b"ROOT", "url": b"unix:///run/s"}, type_=SDS_SECRET), config=WITH_SDS
    )

    assert server_of(core) == ServedSecret("ROOT", "/run/s")


def test_other_secrets_hold_their_data_themselves() -> None:
    assert server_of(Core(config=WITH_SDS)) is None
    assert server_of(Core(secret("a", {"url": b"unix:///run/s"}), config=WITH_SDS)) is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"url": b"unix:///run/s"}, "no secretName"),
        ({"secretName": b"a\x00b", "url": b"unix:///run/s"}, "no secretName"),
        ({"secretName": b"a"}, "no url"),
        ({"secretName": b"a", "url": b"/run/s"}, "no url"),
        ({"secretName": b"a", "url": b"https://s.io"}, "no url"),
        ({"secretName": b"a", "url": b"unix://s.io/run/s"}, "no url"),
        ({"secretName": b"a", "url": b"unix:///" + b"s" * 120}, "no url"),
    ],
)
def test_one_that_names_no_server_is_at_fault(data: dict[str, bytes], words: str) -> None:
    judged = server_of(Core(secret("a", data, type_=SDS_SECRET), config=WITH_SDS))

    assert isinstance(judged, Fault)
    assert words in judged.message


def test_they_are_off_unless_they_are_switched_on() -> None:
    judged = server_of(Core(secret("a", {"secretName": b"a", "url": b"unix:///s"}, type_=SDS_SECRET)))

    assert isinstance(judged, Fault)
    assert "extensionApis.enableSDSSecretRef" in judged.message
