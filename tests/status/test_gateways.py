"""What a user reads of Gateways, GatewayClasses and EnvoyProxies."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from moongate.api.base import Condition, Ref
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway, GatewayClass
from moongate.status.gateways import (
    EnvoyState,
    GatewayStatus,
    RefusedListener,
    class_status,
    gateway_status,
    live,
    proxy_status,
)
from tests.core import EG, Core, gateway, gateway_class, http, https, read
from tests.routes import grpc_route

CLASS = Ref.of(GatewayClass, "", "eg")
PROXY = Ref.of(EnvoyProxy, "default", "proxy")
NAMED = {"parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "proxy"}}

ENVOY_PROXY = """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: proxy, namespace: default}
spec: {}
"""
CIRCLE = ENVOY_PROXY.replace(
    "{}",
    "{filterOrder: [{name: envoy.filters.http.cors, before: envoy.filters.http.fault}, "
    "{name: envoy.filters.http.cors, after: envoy.filters.http.fault}]}",
)
UP = EnvoyState(serving=1, addresses=("127.0.0.1",))


def verdicts(conditions: tuple[Condition, ...]) -> dict[str, str]:
    return {c.type: c.reason if c.status == "True" else f"!{c.reason}" for c in conditions}


def lived(text: str, facts: EnvoyState) -> dict[str, str]:
    return verdicts(live_status(text, facts).conditions)


def live_status(text: str, facts: EnvoyState) -> GatewayStatus:
    core = Core(text)
    status = gateway_status(core.db, EG)
    [spec] = read(text)
    assert status is not None
    assert isinstance(spec, Gateway)
    return live(status, spec, facts)


def test_a_status_has_the_shape_of_the_api() -> None:
    core = Core(gateway(http("web")))

    status = msgspec.json.decode(msgspec.json.encode(gateway_status(core.db, EG)))

    group = "gateway.networking.k8s.io"
    assert status["listeners"][0] | {"conditions": []} == {
        "name": "web",
        "supportedKinds": [{"group": group, "kind": "HTTPRoute"}, {"group": group, "kind": "GRPCRoute"}],
        "attachedRoutes": 0,
        "conditions": [],
    }
    assert status["listeners"][0]["conditions"][0] == {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": "The listener is valid.",
        "observedGeneration": 7,
    }


def test_attached_routes_are_counted_even_where_nothing_is_served() -> None:
    core = Core(
        gateway(https("web", "gone")),
        """
        apiVersion: gateway.networking.k8s.io/v1
        kind: HTTPRoute
        metadata: {name: shop, namespace: default}
        spec: {parentRefs: [{name: eg}]}
        """,
    )

    status = gateway_status(core.db, EG)

    assert status is not None
    assert [each.attached_routes for each in status.listeners] == [1]


@pytest.mark.parametrize(("second", "attached"), [("(", 0), ("Add", 1)])
def test_a_grpcroute_is_not_counted_when_no_rule_of_it_is_accepted(second: str, attached: int) -> None:
    rules = [
        {"matches": [{"method": {"type": "RegularExpression", "method": method}}]} for method in ("(", second)
    ]
    core = Core(gateway(http("web")), grpc_route(*rules))

    status = gateway_status(core.db, EG)

    assert status is not None
    assert [each.attached_routes for each in status.listeners] == [attached]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        pytest.param({"infrastructure": NAMED}, "!InvalidParameters", id="no-such-proxy"),
        pytest.param(
            {"addresses": [{"type": "NamedAddress", "value": "a"}]}, "!UnsupportedAddress", id="address"
        ),
    ],
)
def test_a_gateway_that_cannot_be_made_is_not_accepted(spec: dict[str, Any], reason: str) -> None:
    core = Core(gateway(http("web"), **spec))

    status = gateway_status(core.db, EG)

    assert status is not None
    assert verdicts(status.conditions) == {"Accepted": reason}
    assert status.listeners == ()


def test_a_gateway_of_another_controller_has_no_status_of_ours() -> None:
    core = Core(gateway(http("web")).replace("gatewayClassName: eg", "gatewayClassName: other"))

    assert gateway_status(core.db, EG) is None


def test_an_access_log_that_cannot_be_read_is_reported_while_the_gateway_serves() -> None:
    matches = (
        "{telemetry: {accessLog: {settings: [{matches: [')'], sinks: [{type: File, file: {path: /x}}]}]}}}"
    )
    core = Core(gateway(http("web"), infrastructure=NAMED), ENVOY_PROXY.replace("{}", matches))

    status = gateway_status(core.db, EG)

    assert status is not None
    assert verdicts(status.conditions) == {"Accepted": "!InvalidParameters"}
    assert [each.name for each in status.listeners] == ["web"]


def test_a_class_is_accepted_unless_its_parameters_lead_nowhere() -> None:
    core = Core()
    fine = class_status(core.db, CLASS)

    core.apply(gateway_class("gone"))
    broken = class_status(core.db, CLASS)

    assert fine is not None
    assert broken is not None
    assert verdicts(fine.conditions) == {"Accepted": "Accepted", "SupportedVersion": "SupportedVersion"}
    assert verdicts(broken.conditions)["Accepted"] == "!InvalidParameters"
    assert "EnvoyProxy default/gone" in broken.conditions[0].message


@pytest.mark.parametrize(("text", "expected"), [(ENVOY_PROXY, "Accepted"), (CIRCLE, "!InvalidParameters")])
def test_an_envoy_proxy_is_judged_for_each_that_names_it(text: str, expected: str) -> None:
    core = Core(gateway(http("web"), infrastructure=NAMED), gateway(http("web"), name="other"), text)

    status = proxy_status(core.db, PROXY)

    assert status is not None
    assert [(a.ancestor_ref.name, verdicts(a.conditions)) for a in status.ancestors] == [
        ("eg", {"Accepted": expected})
    ]


def test_an_envoy_proxy_that_nobody_names_has_no_status() -> None:
    assert proxy_status(Core(ENVOY_PROXY).db, PROXY) is None


@pytest.mark.parametrize(
    ("listeners", "expected"),
    [
        ([http("web")], "Accepted"),
        ([http("web"), "{name: x, port: 1, protocol: acme.io/X}"], "ListenersNotValid"),
        (["{name: x, port: 1, protocol: acme.io/X}"], "!ListenersNotValid"),
    ],
    ids=["all", "some", "none"],
)
def test_a_gateway_is_accepted_as_its_listeners_are(listeners: list[str], expected: str) -> None:
    assert lived(gateway(*listeners), UP)["Accepted"] == expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (UP, "Programmed"),
        (EnvoyState(serving=0), "!AddressNotAssigned"),
        (EnvoyState(serving=0, addresses=("127.0.0.1",)), "!NoResources"),
        (msgspec.structs.replace(UP, refusals=("cannot bind 0.0.0.0:80",)), "!Invalid"),
    ],
    ids=["serving", "no-address", "starting", "port-taken"],
)
def test_a_gateway_is_programmed_once_an_envoy_serves_it(facts: EnvoyState, expected: str) -> None:
    assert lived(gateway(http("web")), facts)["Programmed"] == expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (UP, ["Programmed", "Programmed"]),
        (EnvoyState(serving=0), ["!Pending", "!Pending"]),
        (EnvoyState(serving=0, start_error="No such flag."), ["!Pending", "!Pending"]),
        (msgspec.structs.replace(UP, late="Envoy hangs.", unopened=("more",)), ["Programmed", "!Pending"]),
        (
            EnvoyState(serving=0, refused_listeners=(RefusedListener("web", "PortUnavailable", "Taken."),)),
            ["!PortUnavailable", "!Pending"],
        ),
    ],
    ids=["serving", "starting", "failed", "late", "refused"],
)
def test_a_listener_is_programmed_once_an_envoy_has_it(facts: EnvoyState, expected: list[str]) -> None:
    """Nothing listens before that, however valid the listener is."""
    listeners = live_status(gateway(http("web"), http("more", port=81)), facts).listeners

    assert [verdicts(each.conditions)["Programmed"] for each in listeners] == expected


def test_a_late_envoy_makes_its_gateway_pending() -> None:
    facts = msgspec.structs.replace(UP, late="Envoy hangs.")

    assert lived(gateway(http("web")), facts) == {"Accepted": "Accepted", "Programmed": "!Pending"}


@pytest.mark.parametrize(
    "text",
    [
        gateway(http("web"), infrastructure=NAMED),
        gateway(http("web"), addresses=[{"type": "NamedAddress", "value": "a"}]),
        gateway("{name: x, port: 1, protocol: acme.io/X}"),
        gateway(https("web", "gone")),
    ],
    ids=["no-such-proxy", "address", "no-such-protocol", "no-certificate"],
)
def test_a_gateway_is_not_programmed_where_nothing_listens(text: str) -> None:
    """Its Envoy may run all the same: it has an older configuration, or serves other Gateways too."""
    assert lived(text, UP)["Programmed"] == "!Invalid"


def test_a_gateway_is_not_programmed_when_envoy_refuses_its_only_listener() -> None:
    refused = RefusedListener("web", "PortUnavailable", "Port 80 is taken.")

    assert (
        lived(gateway(http("web")), msgspec.structs.replace(UP, refused_listeners=(refused,)))["Programmed"]
        == "!Invalid"
    )


def test_a_hostname_cannot_be_assigned() -> None:
    text = gateway(http("web"), addresses=[{"type": "Hostname", "value": "x.io"}])

    assert lived(text, UP)["Programmed"] == "!AddressNotUsable"


def test_sixteen_addresses_are_listed() -> None:
    core = Core(gateway(http("web")))
    status = gateway_status(core.db, EG)
    [spec] = read(gateway(http("web")))
    assert status is not None
    assert isinstance(spec, Gateway)

    shown = live(status, spec, EnvoyState(serving=1, addresses=tuple(f"10.0.0.{n}" for n in range(20))))

    assert len(shown.addresses) == 16


def test_a_listener_that_envoy_refuses_is_valid_and_not_programmed() -> None:
    """The one beside it is: a port that is taken is no fault of the others."""
    refused = RefusedListener("other", "PortUnavailable", "Port 81 is taken.")
    facts = msgspec.structs.replace(UP, refused_listeners=(refused,))

    web, other = live_status(gateway(http("web"), http("other", port=81)), facts).listeners

    assert verdicts(web.conditions)["Programmed"] == "Programmed"
    assert verdicts(other.conditions) == {
        "Accepted": "Accepted",
        "Programmed": "!PortUnavailable",
        "ResolvedRefs": "ResolvedRefs",
    }
