"""What a run logs: each thing once, until it differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import structlog
from msgspec import Struct

from moongate.api.base import Condition, Ref, Resource
from moongate.api.httproute import HTTPRoute
from moongate.api.shared import ParentReference
from moongate.engine import Failed
from moongate.policies.security_policy import SecurityPolicy
from moongate.problem import Problem
from moongate.report.statuses import Statuses
from moongate.report.transitions import Transition
from moongate.run.log import MOST_FAULTS_LOGGED, MOST_LOGGED, RunLog
from moongate.sources.folder import Folder
from moongate.status.causes import Cause
from moongate.status.degraded import Degradation
from moongate.status.policies import PolicyStatus
from moongate.status.routes import ParentStatus, RouteStatus
from tests.core import GATEWAY_CLASS, gateway, http
from tests.routes import REDIRECT
from tests.routes import REDIRECTING as ROUTE

POLICY = """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {name: browsers, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: eg}]
  cors: {allowOrigins: ["https://example.com"]}
"""
SHOP = Ref.of(HTTPRoute, "default", "shop")


@pytest.fixture
def events() -> Iterator[list[Any]]:
    """What is logged, in order."""
    with structlog.testing.capture_logs() as events:
        yield events


class Run:
    """A log with the files that it is about."""

    def __init__(self) -> None:
        self.folder = Folder()
        self.resources: dict[Ref, Resource] = {}
        self._causes: dict[tuple[str, str], tuple[Cause, ...]] = {}
        self.log = RunLog(self.resources, causes=lambda _ref: self._causes)
        self.statuses = Statuses(self.resources)
        self.log.places_from(self.folder)

    def unresolved(self, *problems: Problem, resource: Ref = SHOP) -> None:
        """Let these problems of a resource be why references of the first parent are not resolved."""
        causes = tuple(Cause(resource, problem) for problem in problems)
        self._causes = {("spec.parentRefs[0]", "ResolvedRefs"): causes}

    def write(self, **files: str | None) -> None:
        batch = self.folder.update_many(files)
        for ref, resource in batch.items():
            if resource is None:
                del self.resources[ref]
            else:
                self.resources[ref] = resource
        steps = self.log.loaded(
            self.folder.diagnostics(), batch, files=len(files), resources=len(self.folder)
        )
        for _ in steps:
            pass
        for _ in self.log.search():
            pass

    def settle(self, statuses: Mapping[Ref, Struct | None] = {}) -> None:
        """All statuses are known; these have changed."""
        self.statuses.update(statuses)
        self.log.statuses(statuses)
        self.log.references(self.statuses)


def of(events: list[Any], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == name]


def test_a_fault_is_reported_once_wherever_it_moves_to(events: list[Any]) -> None:
    run, faulty = Run(), ROUTE.replace("parentRefs", "parentRef")

    run.write(a=faulty)
    run.write(a=f"# a comment\n{faulty}")

    (event,) = of(events, "manifest")
    assert event["log_level"] == "error"
    assert "parentRef" in event["message"]


def test_the_end_of_all_faults_is_reported(events: list[Any]) -> None:
    run = Run()
    run.write(classes=GATEWAY_CLASS, gateway=gateway(http("web")), a="kind: [", b="kind: [")

    run.write(a=ROUTE)
    assert of(events, "manifests.mended") == []
    run.write(b="")

    assert len(of(events, "manifests.mended")) == 1


def test_the_end_of_an_error_that_led_to_another_is_reported_once(events: list[Any]) -> None:
    """A Gateway with a typo is missing where a policy targets it; one edit mends both."""
    run, typo = Run(), gateway(http("web")).replace("listeners", "listenrs")
    run.write(classes=GATEWAY_CLASS, gateway=typo, policy=POLICY)
    assert [e["log_level"] for e in of(events, "manifest")] == ["error", "warning"]

    run.write(gateway=gateway(http("web")))

    assert len(of(events, "manifests.mended")) == 1


def test_an_error_that_is_still_looked_for_is_no_end_of_all_errors(events: list[Any]) -> None:
    """One file is mended, and another is gone: what that leads to is known once all is looked through."""
    run = Run()
    run.write(classes=GATEWAY_CLASS, gateway=gateway(http("web")), policy=POLICY, a="kind: [")

    batch = run.folder.update_many({"gateway": None, "a": None})
    for ref in batch:
        del run.resources[ref]
    for _ in run.log.loaded(run.folder.diagnostics(), batch, files=2, resources=2):
        pass
    next(run.log.search())  # then something else was to do
    assert of(events, "manifests.mended") == []
    assert run.log.has_errors
    for _ in run.log.search():
        pass

    assert of(events, "manifests.mended") == []
    assert any("There is no Gateway" in event["message"] for event in of(events, "manifest"))


def test_the_end_of_all_warnings_is_reported_too(events: list[Any]) -> None:
    """Somebody who mends one looks for a line that says so."""
    run, unbuilt = Run(), "{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {name: %s}}"
    run.write(classes=GATEWAY_CLASS, gateway=gateway(http("web")), a=unbuilt % "a", b=unbuilt % "b")

    run.write(a=ROUTE)
    assert of(events, "manifests.mended") == []
    run.write(b="")

    assert len(of(events, "manifests.mended")) == 1


def test_a_warning_that_goes_while_an_error_stays_mends_nothing(events: list[Any]) -> None:
    run, unbuilt = Run(), "{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {name: a}}"
    run.write(classes=GATEWAY_CLASS, gateway=gateway(http("web")), a=unbuilt, b="kind: [")

    run.write(a=ROUTE)

    assert of(events, "manifests.mended") == []


def test_a_hint_that_a_condition_takes_over_is_not_called_mended(events: list[Any]) -> None:
    run = Run()
    empty = Problem(AT_SHOPP, "Service default/app has no endpoints.", "EndpointsNotFound")
    run.unresolved(empty)
    service = "{apiVersion: v1, kind: Service, metadata: {name: app}, spec: {ports: [{port: 80}]}}"
    route = ROUTE.replace(REDIRECT, "backendRefs: [{name: app, port: 80}]")
    run.write(classes=GATEWAY_CLASS, gateway=gateway(http("web")), service=service, route=route)
    run.settle({SHOP: None})
    assert [event["log_level"] for event in of(events, "manifest")] == ["warning"]

    run.settle({SHOP: UNRESOLVED})

    assert of(events, "manifests.mended") == []


def test_an_error_that_makes_room_for_another_is_not_called_mended(events: list[Any]) -> None:
    run = Run()
    run.write(classes=GATEWAY_CLASS, gateway=gateway(http("web")), policy="kind: [")

    run.write(policy=POLICY.replace("name: eg", "name: other"))

    assert of(events, "manifests.mended") == []


def test_a_reference_that_leads_nowhere_is_reported_with_its_place(events: list[Any]) -> None:
    run = Run()

    run.write(route=ROUTE)

    (event,) = of(events, "manifest")
    assert event["message"].startswith("route:5:")
    assert "There is no Gateway default/eg" in event["message"]
    assert [str(diagnostic) for diagnostic in run.log.diagnostics()] == [event["message"]]


def test_a_reference_is_looked_at_again_when_its_target_comes_and_goes(events: list[Any]) -> None:
    """Though the resource that refers to it is not touched."""
    run = Run()
    run.write(classes=GATEWAY_CLASS, gateway=gateway(http("web")), route=ROUTE)
    assert of(events, "manifest") == []

    run.write(gateway=None)
    assert len(of(events, "manifest")) == 1
    run.write(gateway=gateway(http("web")))
    assert run.log.diagnostics() == ()
    run.write(gateway=None)

    assert len(of(events, "manifest")) == 2


def test_a_fault_of_what_no_file_has_any_more_is_not_reported_again(events: list[Any]) -> None:
    """While its removal waits, it is still in force, and other edits look at it again."""
    run = Run()
    run.write(route=ROUTE)
    run.folder.update("route", None)

    run.write(classes=GATEWAY_CLASS)

    assert len(of(events, "manifest")) == 1
    assert run.log.diagnostics(), "it is still known"


def test_a_policy_whose_selectors_match_nothing_is_reported_until_they_do(events: list[Any]) -> None:
    """It has no status that could say so; nor is it said of a policy that names its targets."""
    run = Run()
    selecting = POLICY.replace("targetRefs", "targetSelectors").replace(
        "name: eg}", "matchLabels: {tier: web}}"
    )
    run.write(named=POLICY.replace("browsers", "named"), policy=selecting)

    run.settle()
    run.settle()

    _, event = of(events, "manifest")
    assert "No Gateway that is served here matches, so this policy has no effect" in event["message"]
    assert event["log_level"] == "warning"
    assert event["message"] in map(str, run.log.diagnostics())

    browsers = Ref.of(SecurityPolicy, "default", "browsers")
    run.settle({browsers: PolicyStatus(ancestors=())})
    assert event["message"] not in map(str, run.log.diagnostics())

    run.settle({browsers: None})
    run.write(policy=None)
    run.settle()
    assert event["message"] not in map(str, run.log.diagnostics())


def test_resources_and_changes_are_counted_apart(events: list[Any]) -> None:
    run = Run()
    run.write(classes=GATEWAY_CLASS, gateway=gateway(http("web")))

    run.write(gateway=gateway(http("other")))

    counts = [(e["files"], e["resources"], e["changed"]) for e in of(events, "manifests.loaded")]
    assert counts == [(2, 2, 2), (1, 2, 1)]


def turn(
    n: int = 0,
    *,
    bad: bool = True,
    message: str = "It does not exist.",
    path: str = "spec.parentRefs[0]",
    condition: str = "ResolvedRefs",
    reason: str = "BackendNotFound",
) -> Transition:
    problem = Problem(path, message, reason)
    degradation = Degradation("parent eg", "spec.parentRefs[0]", condition, "False", (problem,), "error")
    return Transition(Ref.of(HTTPRoute, "default", f"shop-{n}" if n else "shop"), degradation, bad)


def test_a_condition_that_turned_bad_has_its_place(events: list[Any]) -> None:
    run = Run()
    run.write(classes=GATEWAY_CLASS, gateway=gateway(http("web")), route=ROUTE)

    run.log.transitions([turn()])

    assert of(events, "status.degraded") == [
        {
            "event": "status.degraded",
            "log_level": "warning",
            "resource": str(SHOP),
            "condition": "ResolvedRefs",
            "status": "False",
            "reason": "BackendNotFound",
            "message": "It does not exist.",
            "field": "spec.parentRefs[0]",
            "at": "route:5:21",
        }
    ]


def test_a_condition_is_logged_at_the_fields_that_cause_it(events: list[Any]) -> None:
    """Whoever mends a route wants the rule, not the parentRef at which the rule is refused."""
    run = Run()
    run.write(classes=GATEWAY_CLASS, gateway=gateway(http("web")), route=ROUTE)
    run.unresolved(Problem("metadata.name", "It is odd.", "Odd"))

    run.log.transitions([turn()])

    (event,) = of(events, "status.degraded")
    assert (event["field"], event["at"]) == ("metadata.name", "route:4:18")
    assert (event["reason"], event["message"]) == ("Odd", "It is odd.")


def test_a_condition_is_logged_at_the_field_of_another_resource_that_causes_it(events: list[Any]) -> None:
    """What an EnvoyProxy says wrongly is a condition of its Gateways, and is mended in the EnvoyProxy."""
    run = Run()
    policy = Ref.of(SecurityPolicy, "default", "browsers")
    run.write(classes=GATEWAY_CLASS, gateway=gateway(http("web")), route=ROUTE, policy=POLICY)
    run.unresolved(Problem("spec.cors", "It is odd.", "Odd"), resource=policy)

    run.log.transitions([turn()])

    (event,) = of(events, "status.degraded")
    assert (event["field"], event["at"]) == ("spec.cors", "policy:7:9")
    assert event["resource"] == "SecurityPolicy default/browsers"
    assert event["condition_of"] == "HTTPRoute default/shop"


def test_a_condition_of_several_references_is_reported_at_each(events: list[Any]) -> None:
    """As ``validate`` does, so each of them has its place."""
    run = Run()
    several = tuple(Problem(f"spec.rules[{n}]", "It does not exist.", "BackendNotFound") for n in (0, 1))
    run.unresolved(*several)

    run.log.transitions([turn()])

    assert [event["field"] for event in of(events, "status.degraded")] == ["spec.rules[0]", "spec.rules[1]"]


SHOPP = "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: shopp}]"
MISSING = "Backend default/shopp does not exist. Requests are answered with 500."
AT_SHOPP = "spec.rules[0].backendRefs[0]"
UNRESOLVED = RouteStatus(
    parents=(
        ParentStatus(
            parent_ref=ParentReference(name="eg"),
            controller_name="moongate",
            conditions=(
                Condition(
                    type="ResolvedRefs",
                    status="False",
                    reason="BackendNotFound",
                    message=MISSING,
                    observed_generation=1,
                ),
            ),
        ),
    )
)


def test_what_may_have_been_meant_goes_with_the_condition(events: list[Any]) -> None:
    """One slip is logged once, at the field where it is made, with what requests get."""
    run = Run()
    shop = (
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: Backend\nmetadata: {name: shop}\n"
        "spec: {endpoints: [{ip: {address: 127.0.0.1, port: 1}}]}"
    )
    route = ROUTE.replace(REDIRECT, SHOPP)
    run.write(classes=GATEWAY_CLASS, gateway=gateway(http("web")), shop=shop, route=route)
    run.unresolved(Problem(AT_SHOPP, MISSING, "BackendNotFound"))

    run.log.transitions([turn()])
    run.settle({SHOP: UNRESOLVED})

    assert of(events, "manifest") == []
    (event,) = of(events, "status.degraded")
    assert event["message"] == (
        "There is no Backend default/shopp. Did you mean 'shop'? Requests are answered with 500."
    )
    column = 1 + route.splitlines()[4].index("shopp")
    assert (event["field"], event["at"]) == (f"{AT_SHOPP}.name", f"route:5:{column}")


def test_a_condition_is_not_explained_by_another_reference(events: list[Any]) -> None:
    """A mirror that is not permitted is not explained by a Backend of another rule."""
    run = Run()
    run.write(classes=GATEWAY_CLASS, gateway=gateway(http("web")), route=ROUTE.replace(REDIRECT, SHOPP))

    run.log.transitions([turn(path="spec.rules[0].filters[0]"), turn(condition="Accepted")])

    assert [event["message"] for event in of(events, "status.degraded")] == ["It does not exist."] * 2


def test_a_missing_backend_of_a_route_without_a_status_is_reported(events: list[Any]) -> None:
    """Its Gateway cannot be read, so no condition speaks of the route; whoever mends it wants both."""
    run = Run()
    run.write(route=ROUTE.replace(REDIRECT, SHOPP))
    assert "There is no Gateway" in of(events, "manifest")[0]["message"]

    run.settle()
    run.settle()

    _, event = of(events, "manifest")
    assert event["message"].endswith(f"{AT_SHOPP}.name: There is no Backend default/shopp.")
    assert len([d for d in map(str, run.log.diagnostics()) if d == event["message"]]) == 1


def test_several_missing_backends_of_a_route_without_a_status_are_reported_in_order(
    events: list[Any],
) -> None:
    run = Run()
    two = SHOPP.replace("}]", "}, {group: gateway.envoyproxy.io, kind: Backend, name: gone}]")
    run.write(route=ROUTE.replace(REDIRECT, two))

    run.settle()

    _, first, second = of(events, "manifest")
    assert "There is no Backend default/shopp." in first["message"]
    assert "There is no Backend default/gone." in second["message"]


def test_a_missing_backend_is_left_to_the_condition_as_soon_as_there_is_one(events: list[Any]) -> None:
    """And reported again when the condition is gone while the Backend is still missing."""
    run = Run()
    run.unresolved(Problem(AT_SHOPP, MISSING, "BackendNotFound"))
    run.write(classes=GATEWAY_CLASS, gateway=gateway(http("web")), route=ROUTE.replace(REDIRECT, SHOPP))

    run.settle({SHOP: UNRESOLVED})
    assert of(events, "manifest") == []
    run.settle({SHOP: None})
    run.write(route=ROUTE)
    run.settle()

    assert ["shopp" in event["message"] for event in of(events, "manifest")] == [True]
    assert len(of(events, "manifests.mended")) == 1


def test_a_condition_that_is_well_again_is_reported(events: list[Any]) -> None:
    """Of what came by a call there is no place to tell."""
    Run().log.transitions([turn(bad=False)])

    (event,) = of(events, "status.recovered")
    assert (event["log_level"], event["resource"], event["condition"]) == ("info", str(SHOP), "ResolvedRefs")
    assert "at" not in event


def test_of_very_many_conditions_some_are_logged_and_the_rest_counted(events: list[Any]) -> None:
    """A backend that thousands share is missing: the terminal stays readable."""
    Run().log.transitions([turn(n) for n in range(1, 5001)])

    assert len(of(events, "status.degraded")) == MOST_LOGGED
    (more,) = of(events, "status.more")
    assert more["count"] == 5000 - MOST_LOGGED


@pytest.mark.parametrize("bad", [True, False])
def test_routes_that_envoy_refuses_with_the_same_words_are_one_line(*, bad: bool, events: list[Any]) -> None:
    """One setting of a policy does that, for thousands of them."""
    refused = [turn(n, bad=bad, message="No.", condition="Programmed", reason="Refused") for n in (1, 2, 3)]
    another = turn(4, bad=bad, message="Other words.", condition="Programmed", reason="Refused")
    at_another = turn(
        1, bad=bad, message="No.", condition="Programmed", reason="Refused", path="spec.parentRefs[1]"
    )

    Run().log.transitions([*refused, another, at_another])

    logged = of(events, "status.degraded" if bad else "status.recovered")
    assert [(each["resource"], each.get("others")) for each in logged] == [
        ("HTTPRoute default/shop-1", 2),
        ("HTTPRoute default/shop-4", None),
        ("HTTPRoute default/shop-1", None),
    ]


def test_where_listeners_can_be_asked_is_reported_once_for_as_long_as_they_can(events: list[Any]) -> None:
    log = Run().log

    log.serving(("http://a",))
    log.serving(("http://a", "http://b"))
    log.serving(("http://b",))
    log.serving(("http://a", "http://b"))

    assert [event["url"] for event in of(events, "gateway.serving")] == ["http://a", "http://b", "http://a"]


def test_a_document_that_fails_to_be_read_is_logged_with_its_frames(events: list[Any]) -> None:
    """It is a bug, and whoever looks for it needs to know where it was raised."""
    folder = Folder()
    folder.update("x.yaml", "a: \ud800")  # no file holds such a text, so no parser expects it

    Run().log.faults("files", folder.diagnostics())

    (event,) = of(events, "manifest")
    assert "UnicodeEncodeError" in event["message"]
    assert "in composed" in event["trace"]


def test_of_thousands_of_faults_the_errors_come_first_and_the_rest_is_counted(events: list[Any]) -> None:
    """A file can hold one in every few bytes; nothing else would go on while they are written out."""
    folder = Folder()
    ignored = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\n"
    folder.update("x.yaml", ignored * MOST_FAULTS_LOGGED + "5")

    Run().log.faults("files", folder.diagnostics())

    first, *_, last = events
    assert "a number" in first["message"]
    assert (last["event"], last["count"]) == ("manifest.more", 1)


def test_a_bug_that_was_contained_is_reported_once(events: list[Any]) -> None:
    log, failed = Run().log, Failed("plan", "(x)", "a1b2", "KeyError: 'x'", "Traceback")

    log.failures([failed])
    log.failures([failed])

    (event,) = of(events, "core.failed")
    assert (event["query"], event["id"]) == ("plan", "a1b2")
