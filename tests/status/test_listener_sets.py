"""The statuses of ListenerSets."""

from __future__ import annotations

from moongate.api.base import Ref
from moongate.api.listenerset import ListenerSet
from moongate.status.gateways import EnvoyState, RefusedListener, gateway_status
from moongate.status.listener_sets import ListenerSetStatus, listener_set_status, live_set
from tests.core import EG, Core, allowing, gateway, http, https, listener_set

MORE = Ref.of(ListenerSet, "default", "more")
SHARED = gateway(http("web"), allowedListeners=allowing("All"))
UP = EnvoyState(serving=1, addresses=("127.0.0.1",))


def of(core: Core) -> ListenerSetStatus:
    status = listener_set_status(core.db, MORE)
    assert status is not None
    return status


def verdicts(status: ListenerSetStatus, listener: str | None = None) -> dict[str, str]:
    conditions = status.conditions
    if listener is not None:
        [conditions] = [each.conditions for each in status.listeners if each.name == listener]
    assert {c.observed_generation for c in conditions} == {3}
    return {c.type: c.reason if c.status == "True" else f"!{c.reason}" for c in conditions}


def attached(core: Core) -> int:
    status = gateway_status(core.db, EG)
    assert status is not None
    return status.attached_listener_sets


def test_a_set_that_is_taken_has_a_status_for_itself_and_for_each_listener() -> None:
    core = Core(SHARED, listener_set(http("a", port=81)))

    assert verdicts(of(core)) == {"Accepted": "Accepted", "Programmed": "Programmed"}
    assert verdicts(of(core), "a") == {
        "Accepted": "Accepted",
        "Programmed": "Programmed",
        "ResolvedRefs": "ResolvedRefs",
        "Conflicted": "!NoConflicts",
    }
    assert attached(core) == 1


def test_a_set_with_some_listeners_that_are_not_valid_is_accepted_and_says_which() -> None:
    core = Core(SHARED, listener_set(http("a", port=81), http("b"), https("c", "gone")))

    assert verdicts(of(core)) == {"Accepted": "ListenersNotValid", "Programmed": "Programmed"}
    assert of(core).conditions[0].message == "Not valid, so not served: b."
    assert verdicts(of(core), "b") == {
        "Accepted": "!HostnameConflict",
        "Programmed": "!HostnameConflict",
        "ResolvedRefs": "ResolvedRefs",
        "Conflicted": "HostnameConflict",
    }
    assert verdicts(of(core), "c")["Programmed"] == "!ListenersNotValid"
    assert verdicts(of(core), "c")["ResolvedRefs"] == "!InvalidCertificateRef"


def test_a_set_with_no_valid_listener_is_not_accepted_and_does_not_count() -> None:
    core = Core(SHARED, listener_set(http("a")))

    assert verdicts(of(core)) == {"Accepted": "!ListenersNotValid", "Programmed": "!ListenersNotValid"}
    assert attached(core) == 0


def test_a_set_that_is_not_taken_says_why() -> None:
    core = Core(gateway(http("web")), listener_set(http("a", port=81)))

    assert verdicts(of(core)) == {"Accepted": "!NotAllowed", "Programmed": "!NotAllowed"}
    assert of(core).listeners == ()
    assert of(core).conditions[0].message == (
        "spec.parentRef: Gateway default/eg does not take listeners from namespace default: its "
        "spec.allowedListeners.namespaces.from is None."
    )


def test_a_set_of_nobody_has_no_status() -> None:
    assert listener_set_status(Core(listener_set(http("a"))).db, MORE) is None


def test_what_envoy_refuses_is_said_of_the_listener_of_the_set() -> None:
    status = of(Core(SHARED, listener_set(http("a", port=81), http("b", port=82))))
    refused = RefusedListener("a", "PortUnavailable", "Port 81 is taken.")

    shown = live_set(status, EnvoyState(serving=1, refused_listeners=(refused,)), 3)
    assert verdicts(shown, "a")["Programmed"] == "!PortUnavailable"
    assert verdicts(shown)["Programmed"] == "Programmed"
    assert verdicts(live_set(status, EnvoyState(serving=0), 3))["Programmed"] == "!Pending"
    assert live_set(status, UP, 3) == status
