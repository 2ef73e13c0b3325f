"""Names that Envoy does not take are found before it gets them."""

from __future__ import annotations

import pytest
from msgspec import convert

from moongate.api.tls import TLSSettings
from moongate.attach.tls_names import TLS_1_3, unknown_names
from tests.tls_names import TAKEN, UNKNOWN


def written(field: str, names: tuple[str, ...]) -> TLSSettings:
    return convert({field: names}, TLSSettings)


@pytest.mark.parametrize(("field", "names", "wrong"), UNKNOWN)
def test_a_name_that_envoy_does_not_take_is_a_problem_of_its_entry(
    field: str, names: tuple[str, ...], wrong: str
) -> None:
    """Envoy would refuse a whole listener or cluster for it, and name no field."""
    [problem] = unknown_names(written(field, names))

    assert problem.path == f"{field}[1]"
    assert problem.message.startswith(f"{wrong!r} ")


@pytest.mark.parametrize(("field", "names"), TAKEN)
def test_a_name_that_envoy_takes_is_no_problem(field: str, names: tuple[str, ...]) -> None:
    assert list(unknown_names(written(field, names))) == []


def test_ciphers_of_tls_1_3_alone_are_a_problem() -> None:
    """They are offered whatever the list says, and the list would hold nothing else."""
    [problem] = unknown_names(TLSSettings(ciphers=TLS_1_3))

    assert problem.path == "ciphers"
    assert "name one for TLS up to 1.2, or none" in problem.message


@pytest.mark.parametrize("protocol", ["", "x" * 256])
def test_a_protocol_that_no_hello_can_hold_is_a_problem(protocol: str) -> None:
    [problem] = unknown_names(TLSSettings(alpn_protocols=("h2", protocol)))

    assert problem.path == "alpnProtocols[1]"
