"""What a Gateway's listeners may serve, and what keeps them from it."""

from __future__ import annotations

import pytest

from moongate.api.base import ListenerId, Ref
from moongate.api.core import Secret
from moongate.api.shared import LabelSelector
from moongate.attach.envoy_listeners import envoy_listeners
from moongate.attach.listeners import attachable, listeners
from moongate.attach.namespaces import namespace_labels, selects
from tests.core import EG, EG_FLEET, Core, gateway, http, https, tls_secret


def verdicts(core: Core) -> dict[str, dict[str, str]]:
    """By listener: condition type → reason, with "!" in front where the condition is False."""
    return {
        each.id.name: {c.type: c.reason if c.status == "True" else f"!{c.reason}" for c in each.conditions}
        for each in listeners(core.db, EG)
    }


FINE = {"Accepted": "Accepted", "Programmed": "Programmed", "ResolvedRefs": "ResolvedRefs"}


def lost(reason: str) -> dict[str, str]:
    return {"Programmed": "!Invalid", "ResolvedRefs": "ResolvedRefs", "Conflicted": reason}


def test_a_plain_listener_is_ready_and_takes_http_and_grpc() -> None:
    core = Core(gateway(http("web")))

    [web] = listeners(core.db, EG)

    assert verdicts(core) == {"web": FINE}
    assert web.ready
    assert [kind for _, kind in web.kinds] == ["HTTPRoute", "GRPCRoute"]
    assert {c.observed_generation for c in web.conditions} == {7}


def test_a_gateway_of_another_class_has_no_listeners() -> None:
    core = Core(gateway(http("web")).replace("gatewayClassName: eg", "gatewayClassName: other"))

    assert listeners(core.db, EG) == ()


def test_a_rejected_gateway_has_no_listeners() -> None:
    named = {"parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "gone"}}
    core = Core(gateway(http("web"), infrastructure=named))

    assert listeners(core.db, EG) == ()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(http("a", "x.io"), http("b", "y.io"), (FINE, FINE), id="hostnames-differ"),
        pytest.param(http("a"), http("b", port=8080), (FINE, FINE), id="ports-differ"),
        pytest.param(
            http("a", port=443),
            "{name: b, port: 443, protocol: TLS, hostname: x.io, tls: {mode: Passthrough}}",
            (lost("ProtocolConflict"), lost("ProtocolConflict")),
            id="http-and-tls-exclude-each-other",
        ),
        pytest.param(
            http("a"),
            "{name: b, port: 80, protocol: TCP}",
            (lost("ProtocolConflict"), lost("ProtocolConflict")),
            id="http-and-tcp-exclude-each-other",
        ),
        pytest.param(
            http("a"),
            "{name: b, port: 80, protocol: UDP}",
            (FINE, FINE),
            id="udp-shares-a-port-with-anything",
        ),
        pytest.param(
            https("a", "cert", hostname="x.io"),
            "{name: b, port: 443, protocol: TLS, hostname: y.io, tls: {mode: Passthrough}}",
            (FINE, FINE),
            id="https-and-tls-share-a-port",
        ),
        pytest.param(
            https("a", "cert", hostname="x.io"),
            "{name: b, port: 443, protocol: TLS, hostname: x.io, tls: {mode: Passthrough}}",
            (lost("HostnameConflict"), lost("HostnameConflict")),
            id="same-hostname-over-tls",
        ),
        pytest.param(
            http("a"),
            http("b", port=10080),
            (
                FINE,
                {
                    "Accepted": "!PortUnavailable",
                    "Programmed": "!PortUnavailable",
                    "ResolvedRefs": "ResolvedRefs",
                },
            ),
            id="a-shifted-port-is-taken",
        ),
    ],
)
def test_listeners_of_a_gateway_conflict(
    first: str, second: str, expected: tuple[dict[str, str], dict[str, str]]
) -> None:
    core = Core(gateway(first, second), tls_secret("cert", "x.io"))

    assert tuple(verdicts(core).values()) == expected


def test_a_faulty_listener_does_not_keep_a_sound_one_from_serving() -> None:
    """Only listeners without a fault of their own take part in conflicts."""
    core = Core(gateway(https("a", "gone", port=80), http("b")))

    assert verdicts(core)["b"] == FINE


def test_relabelling_a_namespace_changes_what_is_selected_and_no_listener() -> None:
    namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: LABEL}}}"
    where = "allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}"
    core = Core(gateway(f"{{name: web, port: 80, protocol: HTTP, {where}}}"), namespace.replace("LABEL", "a"))
    [web] = attachable(core.db, EG)
    assert web.selector is not None
    before = selects(core.db, web.selector, "shop")

    core.apply(namespace.replace("LABEL", "b"))
    with core.ran() as ran:
        after = selects(core.db, web.selector, "shop")
        attachable(core.db, EG)

    assert (before, after) == (True, False)
    assert ran == {"namespace_labels": 1}


def test_a_namespace_that_nobody_declared_has_its_name_as_label() -> None:
    core = Core()

    assert namespace_labels(core.db, "shop") == (("kubernetes.io/metadata.name", "shop"),)
    assert selects(core.db, LabelSelector(match_labels={"kubernetes.io/metadata.name": "shop"}), "shop")


def test_a_rotated_certificate_disturbs_no_route_and_no_listener() -> None:
    core = Core(gateway(https("a", "cert")), tls_secret("cert", "x.io"))
    before = (attachable(core.db, EG), envoy_listeners(core.db, EG_FLEET))

    core.apply(tls_secret("cert", "x.io"))
    with core.ran() as ran:
        after = (attachable(core.db, EG), envoy_listeners(core.db, EG_FLEET))

    assert after == before
    assert "listeners" not in ran


def test_a_listener_that_moongate_fails_to_judge_costs_no_other_listener() -> None:
    """Its own status says so, and Envoy keeps what it has of it: a bug of ours takes nothing away."""
    core = Core(
        gateway(https("a", "broken", hostname="a.test"), https("b", "cert", hostname="b.test")),
        tls_secret("cert", "b.test"),
    )
    core.db.put(Ref.of(Secret, "default", "broken"), "no Secret: reading it raises")

    failed, sound = listeners(core.db, EG)

    assert verdicts(core)["b"] == FINE
    assert verdicts(core)["a"] == {
        "Accepted": "Accepted",
        "Programmed": "!InternalError",
        "ResolvedRefs": "!InternalError",
    }
    assert {c.type: c.status for c in failed.conditions}["ResolvedRefs"] == "Unknown"
    assert next(iter(core.db.failures.values())).id in failed.conditions[1].message
    assert failed.ready
    assert sound.ready


def test_a_fault_that_is_known_counts_although_moongate_fails_to_judge_the_rest() -> None:
    core = Core(gateway(https("a", "broken", port=80), http("b")))
    core.db.put(Ref.of(Secret, "default", "broken"), "no Secret: reading it raises")

    assert verdicts(core)["a"] == lost("ProtocolConflict")
    assert not listeners(core.db, EG)[0].ready


def test_an_edit_of_one_gateway_does_not_judge_another() -> None:
    core = Core(gateway(http("web")), gateway(http("web"), name="other"))
    listeners(core.db, EG)

    core.apply(gateway(http("web"), http("api", port=81), name="other"))
    with core.ran() as ran:
        listeners(core.db, EG)

    assert ran.get("listeners", 0) == 0


def test_a_gateway_owns_the_listeners_of_its_spec() -> None:
    core = Core(gateway(http("web")))

    assert listeners(core.db, EG)[0].id == ListenerId(gateway=EG, owner=EG, name="web")


@pytest.mark.parametrize(
    "manifest",
    [
        gateway(http("web").replace("HTTP", "HTTQ")),
        gateway(http("web"), http("other").replace("protocol: HTTP", "protocol: TCP")),
        gateway(https("web", "gone")),
    ],
)
def test_a_listener_that_is_not_served_says_that_it_serves_nothing(manifest: str) -> None:
    core = Core(manifest)

    for listener in listeners(core.db, EG):
        messages = [condition.message for condition in listener.conditions]
        assert any(each.endswith("The listener serves nothing until this is fixed.") for each in messages)
