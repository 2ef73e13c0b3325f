"""The faults behind conditions, each at its own field."""

from __future__ import annotations

from moongate.api.base import Ref
from moongate.api.gateway import Gateway
from moongate.api.httproute import HTTPRoute
from moongate.attach.routes import USE_DEFAULTS
from moongate.status.causes import causes
from moongate.world import World
from moongate.xds.destinations import rule_destination
from tests import faults
from tests.core import GATEWAY_CLASS, gateway, http, https, read

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: default}
spec:
  parentRefs: [{name: eg}]
  rules:
  - matches: [{path: {value: /a}}, {path: {type: RegularExpression, value: "/("}}]
  - backendRefs: [{name: nowhere, port: 80}]
"""

SHOP = Ref.of(HTTPRoute, "default", "shop")
GATEWAY = Ref.of(Gateway, "default", "eg")


def world(*manifests: str) -> World:
    return World.of([resource for text in (GATEWAY_CLASS, *manifests) for resource in read(text)])


def test_a_rule_that_is_refused_is_its_own_fault() -> None:
    """The condition is that of a parent, whose message names no field."""
    held = world(gateway(http("web")), ROUTE)

    caused = causes(held.db, held.store.resources()[SHOP])

    (refused,) = caused["spec.parentRefs[0]", "PartiallyInvalid"]
    (unresolved,) = caused["spec.parentRefs[0]", "ResolvedRefs"]
    assert refused.path == "spec.rules[0]"
    assert unresolved.path == "spec.rules[1].backendRefs[0]"


def test_a_parent_by_default_stands_at_the_field_that_asks_for_it() -> None:
    route = ROUTE.replace("parentRefs: [{name: eg}]", "useDefaultGateways: All")
    held = world(gateway(http("web"), defaultScope="All"), route)

    caused = causes(held.db, held.store.resources()[SHOP])

    assert [fault.path for fault in caused[USE_DEFAULTS, "PartiallyInvalid"]] == ["spec.rules[0]"]


def test_a_certificate_is_the_fault_of_its_listener() -> None:
    held = world(gateway(http("web"), https("tls", "nowhere")))

    (fault,) = causes(held.db, held.store.resources()[GATEWAY])["spec.listeners[1]", "ResolvedRefs"]

    assert fault.path == "spec.listeners[1].tls.certificateRefs[0]"


def test_a_query_that_failed_has_no_causes() -> None:
    """Its status says so; the log goes on with the conditions as they are."""
    with faults.faulty():
        held = world(gateway(http("web")), ROUTE)
        call = next(call for call in faults.calls(held) if call[0] is rule_destination and 1 in call[1])
        faults.put_fault(held, call, "before")

        assert causes(held.db, held.store.resources()[SHOP]) == {}
