"""Listeners that a client may take for each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from moongate.api.base import ListenerId, Ref
from moongate.api.gateway import Gateway
from moongate.attach.listeners import listeners
from moongate.attach.secret_servers import SDS_SECRET
from moongate.attach.tls_overlaps import overlap
from moongate.status.gateways import gateway_status
from tests.attach.test_backend_tls import WITH_SDS
from tests.core import EG, Core, extension, gateway, gateway_class, https, secret, tls_secret

if TYPE_CHECKING:
    from moongate.attach.tls_overlaps import Overlap

SERVED = secret("served", {"secretName": b"default", "url": b"unix:///run/s"}, type_=SDS_SECRET)


def overlaps(core: Core, owner: Ref = EG) -> dict[str, Overlap | None]:
    return {each.id.name: overlap(core.db, each.id) for each in listeners(core.db, owner)}


def reasons(core: Core, owner: Ref = EG) -> dict[str, str]:
    return {name: each.reason for name, each in overlaps(core, owner).items() if each is not None}


def test_overlapping_certificates_turn_http2_off_on_all_that_overlap() -> None:
    core = Core(
        gateway(
            https("wide", "wide", hostname="*.x.io"),
            https("one", "one", hostname="a.x.io"),
            https("two", "two", hostname="b.x.io"),
            https("other", "other", hostname="y.io"),
            https("elsewhere", "one", hostname="a.x.io", port=8443),
        ),
        tls_secret("wide", "*.x.io"),
        tls_secret("one", "a.x.io"),
        tls_secret("two", "b.x.io"),
        tls_secret("other", "y.io"),
    )

    assert reasons(core) == dict.fromkeys(("wide", "one", "two"), "OverlappingCertificates")
    assert all(each.http1_only for each in overlaps(core).values() if each is not None)
    status = gateway_status(core.db, EG)
    assert status is not None
    assert [c.reason for c in status.listeners[1].conditions if c.type == "OverlappingTLSConfig"] == [
        "OverlappingCertificates"
    ]


def test_overlapping_hostnames_are_only_reported() -> None:
    core = Core(
        gateway(
            https("wide", "one", hostname="*.x.io"),
            https("narrow", "two", hostname="a.x.io"),
            https("deep", "three", hostname="a.b.x.io"),
        ),
        tls_secret("one", "one.test"),
        tls_secret("two", "two.test"),
        tls_secret("three", "three.test"),
    )

    assert reasons(core) == dict.fromkeys(("wide", "narrow"), "OverlappingHostnames")
    assert not any(each.http1_only for each in overlaps(core).values() if each is not None)


def test_a_listener_for_any_hostname_overlaps_with_all() -> None:
    core = Core(
        gateway(https("any", "one"), https("narrow", "two", hostname="a.x.io")),
        tls_secret("one", "one.test"),
        tls_secret("two", "two.test"),
    )

    assert reasons(core) == dict.fromkeys(("any", "narrow"), "OverlappingHostnames")
    assert {name: each.message for name, each in overlaps(core).items() if each is not None} == {
        "any": "The hostname (any) overlaps with a.x.io of listener narrow.",
        "narrow": "The hostname a.x.io overlaps with (any) of listener any.",
    }


def test_a_listener_that_is_not_served_overlaps_with_none() -> None:
    core = Core(
        gateway(https("one", "one", hostname="a.x.io"), https("two", "gone", hostname="*.x.io")),
        tls_secret("one", "a.x.io"),
    )

    assert reasons(core) == {}


def test_names_of_a_certificate_of_another_server_may_be_those_of_others_on_the_port() -> None:
    core = Core(
        gateway(
            https("served", "served", hostname="*.x.io"),
            https("meets", "meets", hostname="y.io"),
            https("apart", "apart", hostname="z.io"),
            https("alone", "served", port=8443),
        ),
        SERVED,
        tls_secret("meets", "a.x.io"),
        tls_secret("apart", "z.io"),
        config=WITH_SDS,
    )

    assert reasons(core) == dict.fromkeys(("served", "meets"), "SDSCertificateOpaque")
    assert all(each.http1_only for each in overlaps(core).values() if each is not None)


def test_a_certificate_of_another_server_for_any_hostname_meets_all() -> None:
    core = Core(
        gateway(https("served", "served"), https("apart", "apart", hostname="z.io")),
        SERVED,
        tls_secret("apart", "z.io"),
        config=WITH_SDS,
    )

    assert reasons(core) == dict.fromkeys(("served", "apart"), "SDSCertificateOpaque")


def test_merged_gateways_overlap_with_each_other() -> None:
    merged = (extension("EnvoyProxy", "merged", "{mergeGateways: true}"), gateway_class("merged"))
    other = Ref.of(Gateway, "default", "other")
    core = Core(
        *merged,
        gateway(https("one", "one", hostname="a.x.io")),
        gateway(https("wide", "wide", hostname="*.x.io"), name="other"),
        tls_secret("one", "a.x.io"),
        tls_secret("wide", "*.x.io"),
    )

    [overlap] = overlaps(core).values()

    assert reasons(core, other) == {"wide": "OverlappingCertificates"}
    assert overlap is not None
    assert "listener wide of Gateway default/other" in overlap.message


def test_a_listener_that_is_gone_overlaps_with_none() -> None:
    assert overlap(Core(gateway(https("a", "one"))).db, ListenerId(EG, EG, "gone")) is None


@pytest.mark.parametrize(
    ("hostname", "name", "meets"),
    [
        ("*.x.io", "a.x.io", True),
        ("*.x.io", "*.x.io", True),
        ("a.x.io", "*.x.io", True),
        ("x.io", "x.io", True),
        ("*.x.io", "a.b.x.io", False),
        ("*.x.io", "x.io", False),
        ("*.b.x.io", "*.x.io", False),
    ],
)
def test_an_asterisk_of_a_certificate_is_one_label(hostname: str, name: str, meets: bool) -> None:
    """A certificate that is not known is taken for one of the hostname of its listener."""
    core = Core(
        gateway(https("served", "served", hostname=hostname), https("known", "known", hostname="other.io")),
        SERVED,
        tls_secret("known", name),
        config=WITH_SDS,
    )

    assert reasons(core).get("known") == ("SDSCertificateOpaque" if meets else None)
