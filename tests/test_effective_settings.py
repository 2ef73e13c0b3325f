"""What is set for a rule or a listener; ``tests/cli/test_effective.py`` has the rest, as it is shown."""

from __future__ import annotations

from moongate.api.base import Ref
from moongate.api.gateway import Gateway
from moongate.api.httproute import HTTPRoute
from moongate.effective_settings import effective_settings
from tests.core import Core, gateway, http

NOWHERE = """
    apiVersion: gateway.networking.k8s.io/v1
    kind: HTTPRoute
    metadata: {name: lost, namespace: default}
    spec: {parentRefs: [{name: eg, sectionName: none}], rules: [{}]}
"""
ROUTING = """
    apiVersion: gateway.envoyproxy.io/v1alpha1
    kind: BackendTrafficPolicy
    metadata: {name: all, namespace: default}
    spec:
      targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: eg}]
      routingType: Service
"""
CORE = Core(gateway(http("http")), NOWHERE, ROUTING)


def test_a_route_that_no_listener_takes_has_no_settings() -> None:
    assert effective_settings(CORE.db, Ref.of(HTTPRoute, "default", "lost")) == ()


def test_a_field_that_is_no_feature_is_shown_too() -> None:
    scopes = effective_settings(CORE.db, Ref.of(Gateway, "default", "eg"), "http")

    assert scopes is not None
    [[setting]] = [scope.settings for scope in scopes]
    assert (setting.field, setting.value, setting.owner.name) == ("routingType", "Service", "all")


def test_what_does_not_exist_is_not_empty() -> None:
    assert effective_settings(CORE.db, Ref.of(Gateway, "default", "none")) is None
    assert effective_settings(CORE.db, Ref.of(Gateway, "default", "eg"), "none") == ()
