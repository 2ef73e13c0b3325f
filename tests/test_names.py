"""The names that patches, dashboards and logs are written against."""

from __future__ import annotations

from moongate import names
from moongate.api.base import GATEWAY_GROUP, FleetId, ListenerId, Ref
from moongate.api.core import Service
from moongate.api.gateway import Gateway
from moongate.api.httproute import HTTPRoute

GATEWAY = Ref.of(Gateway, "default", "eg")
ROUTE = Ref.of(HTTPRoute, "default", "backend")


def test_the_names_are_those_of_the_reference() -> None:
    """The quickstart of Envoy Gateway, resource by resource: an EnvoyPatchPolicy must find them here too."""
    listener = ListenerId(GATEWAY, GATEWAY, "http")
    rule = names.rule(ROUTE, 0)

    assert names.fleet(FleetId(GATEWAY)) == "default/eg"
    assert names.listener(listener) == "default/eg/http"
    assert names.virtual_host(listener, "www.example.com") == "default/eg/http/www_example_com"
    assert rule == "httproute/default/backend/rule/0"
    assert names.route(rule, 0, "www.example.com") == f"{rule}/match/0/www_example_com"
    assert names.backend(rule, 1) == f"{rule}/backend/1"
    assert names.mirror(rule, 2) == f"{rule}-mirror-2"


def test_a_listener_of_a_listener_set_is_named_by_its_gateway_and_its_set() -> None:
    """A set may have a listener of the same name as the Gateway, or as another set."""
    listener_set = Ref("ListenerSet", "shops", "more", GATEWAY_GROUP)
    listener = ListenerId(GATEWAY, listener_set, "http")

    assert names.listener(listener) == "default/eg/shops/more/http"
    assert names.virtual_host(listener, "a.io") == "default/eg/shops/more/http/a_io"


def test_a_merged_backend_is_named_after_itself() -> None:
    """No rule's index is in it, so moving a rule gives no cluster another meaning."""
    app = Ref.of(Service, "default", "app")

    assert names.merged_backend(app, 8080, "HTTP") == "service/default/app/8080/http"
    assert names.merged_backend(app, 8080, "") == "service/default/app/8080"
