"""Which listeners succeed those that drain."""

from __future__ import annotations

import pytest

from moongate.attach.listeners import ChainKind
from moongate.xds.draining import ChainMatch, draining, draining_tables
from tests.core import EG_FLEET, Core, gateway, http, https, tls_secret

FORMER = "default/eg/former"
SECRET = tls_secret("cert", "*.test")


def successors(core: Core, match: ChainMatch) -> list[str]:
    """The listeners whose routes a connection meets that once came by a match."""
    core.db.put(draining(EG_FLEET), ((FORMER, match, False),))
    (table,) = draining_tables(core.db, EG_FLEET)
    assert table.name == FORMER
    return [member.name for member in table.members]


@pytest.mark.parametrize(
    ("kind", "port", "names"),
    [("HTTP", 10080, ["one", "two"]), ("HTTP", 10081, []), ("HTTPS", 10080, [])],
)
def test_plain_connections_of_a_port_are_alike(kind: ChainKind, port: int, names: list[str]) -> None:
    core = Core(gateway(http("one"), http("two", hostname="two.test")))

    assert successors(core, ChainMatch(kind, port, "")) == names


@pytest.mark.parametrize(
    ("hostname", "names"),
    [
        ("a.test", ["own"]),
        ("b.test", ["wild"]),
        ("c.b.test", ["wild"]),
        ("*.test", ["wild", "own"]),
        ("other.example", ["any"]),
        ("", ["any", "own", "wild"]),
    ],
)
def test_an_encrypted_connection_goes_where_its_hostname_leads(hostname: str, names: list[str]) -> None:
    """As Envoy chooses a chain for a new one: by the narrowest name. A wide chain had several names."""
    core = Core(
        gateway(
            https("own", "cert", hostname="a.test"),
            https("wild", "cert", hostname="*.test"),
            https("any", "cert"),
        ),
        SECRET,
    )

    assert successors(core, ChainMatch("HTTPS", 10443, hostname)) == names


def test_where_no_name_fits_nobody_succeeds() -> None:
    core = Core(gateway(https("own", "cert", hostname="a.test")), SECRET)

    assert successors(core, ChainMatch("HTTPS", 10443, "b.test")) == []
    assert successors(core, ChainMatch("HTTPS", 10443, "*.example")) == []
    assert successors(core, ChainMatch("HTTPS", 10444, "")) == []
    assert successors(core, ChainMatch("HTTP", 10443, "")) == []


def test_nothing_drains_of_which_nothing_is_noted() -> None:
    assert draining_tables(Core(gateway(http("one"))).db, EG_FLEET) == ()
