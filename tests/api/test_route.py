"""What all route kinds have in common is what their CRDs have in common."""

from __future__ import annotations

from typing import Annotated, ClassVar

import pytest
from msgspec import Meta

from moongate.api.base import ObjectMeta
from moongate.api.route import Route, RouteBackendRef, RouteRule, RouteSpec
from tests.api.crds import differences


class Rule(RouteRule, frozen=True, kw_only=True):
    backend_refs: Annotated[tuple[RouteBackendRef, ...], Meta(min_length=1, max_length=16)]


class Spec(RouteSpec, frozen=True, kw_only=True):
    rules: Annotated[tuple[Rule, ...], Meta(min_length=1, max_length=1)]


class Connections(Route, frozen=True, kw_only=True):
    """A route of connections: it has no hostnames."""

    KIND: ClassVar[str] = "TCPRoute"

    spec: Spec


@pytest.mark.parametrize("kind", ["tcproutes", "udproutes"])
def test_a_route_of_connections_needs_nothing_but_the_base(kind: str) -> None:
    crd = f"gateway-api/experimental/gateway.networking.k8s.io_{kind}.yaml"

    assert differences(Connections, crd) == []


def test_a_route_without_names_is_served_under_all() -> None:
    route = Connections(
        metadata=ObjectMeta(name="shop"), spec=Spec(rules=(Rule(backend_refs=(RouteBackendRef(name="a"),)),))
    )

    assert route.hostnames == ()
