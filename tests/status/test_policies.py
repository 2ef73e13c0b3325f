"""What a user reads of policies: where they hold, what overrides them, what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from moongate.api.base import Ref
from moongate.api.httproute import HTTPRoute
from moongate.kinds import ref_of
from moongate.status.policies import PolicyStatus, overrides, policy_status
from moongate.store import SHARDS
from tests.connections import connection_route, raw
from tests.core import EG, Core, allowing, dump, gateway, http, https, listener_set, load, tls_secret
from tests.listeners import sent
from tests.unbuilt import PROTECTIONS
from tests.xds.test_filters import USERS

ALL = "{name: %s, port: %d, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}"
TWO = gateway(http("a", port=8081), http("b", port=8082))
ONE_PORT = gateway(http("a", hostname="a.example.com"), http("b", hostname="b.example.com"))

LIMITS: dict[str, Any] = {"circuitBreaker": {"maxConnections": 5}}
CORS: dict[str, Any] = {"cors": {"allowOrigins": ["https://a.example.com"]}}

Target = str
"""``Kind/name`` or ``Kind/name/section``."""


def policy(
    kind: str, name: str, *targets: Target, namespace: str = "default", created: str = "", **spec: Any
) -> str:
    """A policy; one without targets has them in ``spec``."""
    if targets:
        spec["targetRefs"] = [reference(target) for target in targets]
    metadata: dict[str, Any] = {"name": name, "namespace": namespace, "generation": 3}
    if created:
        metadata["creationTimestamp"] = created
    api = "gateway.envoyproxy.io/v1alpha1"
    return dump({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec})


def reference(target: Target) -> dict[str, str]:
    keys = ("group", "kind", "name", "sectionName")
    return dict(zip(keys, ("gateway.networking.k8s.io", *target.split("/")), strict=False))


def btp(name: str, *targets: Target, **spec: Any) -> str:
    return policy("BackendTrafficPolicy", name, *targets, **{**LIMITS, **spec})


def ctp(name: str, *targets: Target, **spec: Any) -> str:
    return policy("ClientTrafficPolicy", name, *targets, **spec)


def security(name: str, *targets: Target, **spec: Any) -> str:
    return policy("SecurityPolicy", name, *targets, **{**CORS, **spec})


def route(
    name: str,
    *parents: str,
    rules: Sequence[str] = (),
    namespace: str = "default",
    labels: dict[str, str] | None = None,
    path: str = "/",
    created: str = "",
) -> str:
    """An HTTPRoute; a parent is ``gateway`` or ``gateway/listener``, a rule its name."""
    refs = [
        dict(zip(("namespace", "name", "sectionName"), ("default", *parent.split("/")), strict=False))
        for parent in parents or ("eg",)
    ]
    matches = [{"path": {"type": "PathPrefix", "value": path}}]
    document = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels or {},
            "creationTimestamp": created,
        },
        "spec": {
            "parentRefs": refs,
            "rules": [{"name": rule, "matches": matches} for rule in rules] or [{"matches": matches}],
        },
    }
    return dump(document)


GRANT = """
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: policies, namespace: shop}
spec:
  from: [{group: gateway.envoyproxy.io, kind: BackendTrafficPolicy, namespace: default}]
  to: [{group: gateway.networking.k8s.io, kind: HTTPRoute}]
"""


def status(core: Core, manifest: str) -> PolicyStatus | None:
    document = load(manifest)
    metadata = document["metadata"]
    return policy_status(core.db, ref_of(document["kind"], metadata["namespace"], metadata["name"]))


def conditions(core: Core, manifest: str) -> dict[str, dict[str, str]]:
    """Ancestor, ``name`` or ``name/section`` → condition → reason, with a ``!`` when it is False."""
    judged = status(core, manifest)
    return {
        "/".join(filter(None, (a.ancestor_ref.name, a.ancestor_ref.section_name))): {
            c.type: c.reason if c.status == "True" else f"!{c.reason}" for c in a.conditions
        }
        for a in (judged.ancestors if judged is not None else ())
    }


def message(core: Core, manifest: str, type_: str, at: int = 0) -> str:
    judged = status(core, manifest)
    assert judged is not None
    return next(c.message for c in judged.ancestors[at].conditions if c.type == type_)


OK = {"Accepted": "Accepted"}


def test_a_status_has_the_shape_of_the_api() -> None:
    subject = btp("limits", "Gateway/eg/a")
    core = Core(TWO, subject)

    assert msgspec.json.decode(msgspec.json.encode(status(core, subject))) == {
        "ancestors": [
            {
                "ancestorRef": {
                    "group": "gateway.networking.k8s.io",
                    "kind": "Gateway",
                    "namespace": "default",
                    "name": "eg",
                    "sectionName": "a",
                },
                "controllerName": "gateway.envoyproxy.io/gatewayclass-controller",
                "conditions": [
                    {
                        "type": "Accepted",
                        "status": "True",
                        "reason": "Accepted",
                        "message": "The policy is in force.",
                        "observedGeneration": 3,
                    }
                ],
            }
        ]
    }


@pytest.mark.parametrize("target", ["Gateway/other", "HTTPRoute/other", "GRPCRoute/shop"])
def test_a_target_that_is_not_ours_has_no_status(target: Target) -> None:
    """It may be another controller's: two of them must not write over each other."""
    subject = btp("limits", target)
    core = Core(TWO, subject)

    assert status(core, subject) is None


def test_a_gateway_of_another_class_has_no_status() -> None:
    subject = btp("limits", "Gateway/eg")
    core = Core(gateway(http("web"), gatewayClassName="another"), subject)

    assert status(core, subject) is None


def test_a_route_tells_under_each_parent_as_it_names_it() -> None:
    subject = btp("limits", "HTTPRoute/shop")
    core = Core(TWO, gateway(http("web"), name="other"), route("shop", "eg/a", "other", "theirs"), subject)

    assert conditions(core, subject) == {"eg/a": OK, "other": OK}


def test_of_two_policies_the_older_holds_the_target() -> None:
    older = btp("z", "Gateway/eg", created="2020-01-01T00:00:00Z")
    younger = btp("a", "Gateway/eg", created="2021-01-01T00:00:00Z")
    core = Core(TWO, older, younger)

    assert conditions(core, older) == {"eg": OK}
    assert conditions(core, younger) == {"eg": {"Accepted": "!Conflicted"}}
    assert "BackendTrafficPolicy default/z applies to" in message(core, younger, "Accepted")


def test_of_two_policies_of_one_age_the_first_name_holds_the_target() -> None:
    first, second = security("a", "HTTPRoute/shop"), security("b", "HTTPRoute/shop")
    core = Core(TWO, route("shop"), first, second)

    assert conditions(core, first) == {"eg": OK}
    assert conditions(core, second) == {"eg": {"Accepted": "!Conflicted"}}


def test_a_policy_of_a_section_is_no_conflict_with_one_of_the_whole() -> None:
    part, whole = btp("a", "Gateway/eg/a"), btp("b", "Gateway/eg")
    core = Core(TWO, part, whole)

    assert conditions(core, part) == {"eg/a": OK}
    assert conditions(core, whole) == {"eg": OK | {"Overridden": "Overridden"}}


def test_a_conflict_at_one_target_leaves_the_others_in_force() -> None:
    first, second = btp("a", "Gateway/eg/a"), btp("b", "Gateway/eg/a", "Gateway/eg/b")
    core = Core(TWO, first, second)

    assert conditions(core, second) == {"eg/a": {"Accepted": "!Conflicted"}, "eg/b": OK}


@pytest.mark.parametrize("make", [btp, ctp, security])
def test_a_listener_that_does_not_exist_is_reported(make: Any) -> None:
    subject = make("limits", "Gateway/eg/c")
    core = Core(TWO, subject)

    assert conditions(core, subject) == {"eg/c": {"Accepted": "!TargetNotFound"}}
    expected = "Gateway default/eg has no listener named 'c'; it has a, b. The policy has no effect there."
    assert message(core, subject, "Accepted") == expected


def test_a_rule_that_does_not_exist_is_reported() -> None:
    subject = btp("limits", "HTTPRoute/shop/pay")
    core = Core(TWO, route("shop", rules=["buy"]), subject)

    assert conditions(core, subject) == {"eg": {"Accepted": "!TargetNotFound"}}
    assert "has no rule named 'pay'; it has buy. The policy has no effect" in message(
        core, subject, "Accepted"
    )


def test_a_rule_of_a_route_without_names_is_said_to_need_one() -> None:
    """Envoy's configuration calls rules by their numbers, which are no names."""
    subject = btp("limits", "HTTPRoute/shop/rule-1")
    core = Core(TWO, route("shop"), subject)

    assert message(core, subject, "Accepted") == (
        "HTTPRoute default/shop has no rule named 'rule-1'; none of its rules has a name: give the rule one "
        "in its field name. The policy has no effect there."
    )


def test_a_gateways_policy_tells_which_listeners_and_routes_override_it() -> None:
    subject = security("all", "Gateway/eg")
    core = Core(
        TWO,
        subject,
        security("listener", "Gateway/eg/b"),
        *(
            text
            for name in ("s1", "s2")
            for text in (route(name, "eg/a"), security(name, f"HTTPRoute/{name}"))
        ),
        route("free"),
    )

    assert message(core, subject, "Overridden") == (
        "Other SecurityPolicies override this one for these gateway listeners: [default/eg/b] "
        "and these routes: [default/s1 default/s2]."
    )


def test_a_listeners_policy_tells_only_the_routes_of_that_listener() -> None:
    subject = btp("listener", "Gateway/eg/b")
    routes = (route("one", "eg/a"), route("two", "eg/b"), route("both"))
    core = Core(TWO, subject, *routes, btp("own", "HTTPRoute/one", "HTTPRoute/two", "HTTPRoute/both"))

    assert message(core, subject, "Overridden").endswith("these routes: [default/both default/two].")


def test_a_route_that_no_listener_takes_overrides_nothing() -> None:
    subject = btp("all", "Gateway/eg")
    core = Core(
        TWO,
        subject,
        route("elsewhere", namespace="shop"),
        btp("own", "HTTPRoute/elsewhere", namespace="shop"),
    )

    assert conditions(core, subject) == {"eg": OK}


def test_a_routes_policy_tells_which_rules_override_it() -> None:
    subject = btp("whole", "HTTPRoute/shop")
    core = Core(TWO, route("shop", rules=["buy", "pay"]), subject, btp("rule", "HTTPRoute/shop/pay"))

    expected = "Other BackendTrafficPolicies override this one for these route rules: [pay]."
    assert message(core, subject, "Overridden") == expected


def test_a_client_policy_of_a_gateway_tells_which_sections_override_it() -> None:
    subject = ctp("whole", "Gateway/eg")
    core = Core(TWO, subject, ctp("part", "Gateway/eg/b", "Gateway/eg/nowhere"))

    expected = "Other ClientTrafficPolicies override this one for these gateway listeners: [default/eg/b]."
    assert message(core, subject, "Overridden") == expected


def test_a_client_policy_of_one_listener_among_several_of_a_port_is_invalid() -> None:
    subject = ctp("part", "Gateway/eg/a")
    core = Core(ONE_PORT, subject)

    assert conditions(core, subject) == {"eg/a": {"Accepted": "!Invalid"}}
    assert "shares its port" in message(core, subject, "Accepted")


def test_of_policies_that_set_a_port_as_a_whole_the_oldest_wins_and_the_others_are_told() -> None:
    """Envoy has one limit of buffers for a port, whichever listener is the first in the spec."""
    port = gateway(https("a", "cert", hostname="a.io"), https("b", "cert", hostname="b.io"))
    kind = "ClientTrafficPolicy"
    late = policy(
        kind, "late", "Gateway/eg/a", created="2025-01-01T00:00:00Z", connection={"bufferLimit": "1Mi"}
    )
    early = policy(
        kind, "early", "Gateway/eg/b", created="2024-01-01T00:00:00Z", connection={"bufferLimit": "2Mi"}
    )
    core = Core(port, tls_secret("cert", "x.io"), late, early)

    assert sent(core, "default/eg/a").per_connection_buffer_limit_bytes.value == 2**21
    assert conditions(core, early) == {"eg/b": OK}
    assert conditions(core, late) == {"eg/a": {"Accepted": "!Conflicted"}}
    sentence = "there ClientTrafficPolicy default/early, which has precedence over this policy, sets them"
    assert f"once for port 10443, and {sentence}" in message(core, late, "Accepted")


@pytest.mark.parametrize(
    ("early", "late", "lost"),
    [
        ({"connection": {"bufferLimit": "32Ki"}}, {"connection": {"bufferLimit": "1Mi"}}, "spec.connection"),
        (
            {"connection": {"maxAcceptPerSocketEvent": 0}},
            {"connection": {"maxAcceptPerSocketEvent": 4}},
            "spec.connection",
        ),
        (
            {"timeout": {"tcp": {"connectionInspectionTimeout": "1s"}}},
            {"timeout": {"tcp": {"connectionInspectionTimeout": "2s"}}, "connection": {"bufferLimit": "1Mi"}},
            "spec.timeout",
        ),
        ({"tcpKeepalive": {"probes": 3}}, {"tcpKeepalive": {"probes": 4}}, "spec.tcpKeepalive"),
        ({"proxyProtocol": {"optional": True}}, {"proxyProtocol": {}}, "spec.proxyProtocol"),
        (
            {"tcpKeepalive": {"probes": 3}},
            {"tcpKeepalive": {"probes": 3}, "proxyProtocol": {"optional": True}},
            "",
        ),
        ({"connection": {"bufferLimit": "1Mi"}}, {"connection": {"maxAcceptPerSocketEvent": 4}}, ""),
        (
            {"connection": {"bufferLimit": "1Mi"}},
            {"timeout": {"tcp": {"connectionInspectionTimeout": "1s"}}},
            "",
        ),
        (
            {"connection": {"connectionLimit": {"value": 1}}},
            {"connection": {"connectionLimit": {"value": 2}}},
            "",
        ),
    ],
)
def test_each_setting_of_a_port_belongs_to_the_oldest_policy_that_has_it(
    early: dict[str, Any], late: dict[str, Any], lost: str
) -> None:
    """Also one that is set to the default. A limit of connections belongs to a chain, not to the port."""
    port = gateway(https("a", "cert", hostname="a.io"), https("b", "cert", hostname="b.io"))
    kind = "ClientTrafficPolicy"
    younger = policy(kind, "late", "Gateway/eg/a", created="2025-01-01T00:00:00Z", **late)
    older = policy(kind, "early", "Gateway/eg/b", created="2024-01-01T00:00:00Z", **early)
    core = Core(port, tls_secret("cert", "x.io"), younger, older)

    assert conditions(core, older) == {"eg/b": OK}
    assert conditions(core, younger) == {"eg/a": {"Accepted": "!Conflicted"} if lost else OK}
    if lost:
        assert message(core, younger, "Accepted").startswith(f"{lost}: Envoy has some of these settings")


def test_a_policy_of_a_listener_merges_into_that_of_its_gateway() -> None:
    """Envoy Gateway has no such field: there the policy of a listener repeats all that it wants to keep."""
    limits = {"bufferLimit": "1Mi", "maxAcceptPerSocketEvent": 4}
    wide = ctp(
        "wide", "Gateway/eg", connection=limits, timeout={"tcp": {"connectionInspectionTimeout": "9s"}}
    )
    own = ctp("own", "Gateway/eg/a", mergeType="StrategicMerge", connection={"bufferLimit": "2Mi"})
    core = Core(gateway(http("a", port=80), http("b", port=81)), wide, own)

    of_a, of_b = (sent(core, f"default/eg/{name}") for name in "ab")
    assert [each.per_connection_buffer_limit_bytes.value for each in (of_a, of_b)] == [2**21, 2**20]
    for each in (of_a, of_b):
        assert each.max_connections_to_accept_per_socket_event.value == 4
        assert each.listener_filters_timeout.seconds == 9
    assert conditions(core, own) == {"eg/a": {**OK, "Merged": "Merged"}}
    assert message(core, own, "Merged") == "Merged with policy default/wide."
    assert conditions(core, wide) == {"eg": {**OK, "Merged": "Merged"}}
    assert message(core, wide, "Merged") == (
        "Other ClientTrafficPolicies merge with this one for these listeners: [default/eg/a]."
    )


def test_a_policy_of_a_listener_merges_into_the_next_above_it() -> None:
    """That is the policy of its ListenerSet; what the Gateway's says is then of no account."""
    more = listener_set(http("a", port=81))
    top = ctp("top", "Gateway/eg", connection={"bufferLimit": "1Mi", "maxAcceptPerSocketEvent": 4})
    middle = ctp("middle", "ListenerSet/more", connection={"bufferLimit": "3Mi"})
    own = ctp("own", "ListenerSet/more/a", mergeType="JSONMerge", connection={"maxAcceptPerSocketEvent": 7})
    core = Core(gateway(http("b", port=80), allowedListeners=allowing("All")), more, top, middle, own)

    listener = sent(core, "default/eg/default/more/a")
    assert listener.per_connection_buffer_limit_bytes.value == 3 * 2**20
    assert listener.max_connections_to_accept_per_socket_event.value == 7
    assert message(core, own, "Merged") == "Merged with policy default/middle."


def test_a_policy_of_a_listener_merges_into_what_its_set_and_its_gateway_have_together() -> None:
    """Who reads that each of them merges into the next expects that nothing above is lost."""
    more = listener_set(http("a", port=81))
    top = ctp("top", "Gateway/eg", connection={"bufferLimit": "1Mi", "maxAcceptPerSocketEvent": 4})
    middle = ctp("middle", "ListenerSet/more", mergeType="JSONMerge", connection={"bufferLimit": "3Mi"})
    own = ctp("own", "ListenerSet/more/a", mergeType="JSONMerge", path={"disableMergeSlashes": True})
    core = Core(gateway(http("b", port=80), allowedListeners=allowing("All")), more, top, middle, own)

    listener = sent(core, "default/eg/default/more/a")
    assert listener.per_connection_buffer_limit_bytes.value == 3 * 2**20
    assert listener.max_connections_to_accept_per_socket_event.value == 4
    assert (
        message(core, own, "Merged") == "Merged with policy default/middle. Merged with policy default/top."
    )
    for each in (middle, top):
        assert "merge with this one for these listeners: [default/eg/default/more/a]." in message(
            core, each, "Merged"
        )


def test_a_fault_that_comes_from_two_levels_above_names_the_policy_that_has_it() -> None:
    more = listener_set(http("a", port=81))
    top = ctp("top", "Gateway/eg", tcpKeepalive={"probes": 200})
    middle = ctp("middle", "ListenerSet/more", mergeType="JSONMerge", connection={"bufferLimit": "3Mi"})
    own = ctp("own", "ListenerSet/more/a", mergeType="JSONMerge", path={"disableMergeSlashes": True})
    core = Core(gateway(http("b", port=80), allowedListeners=allowing("All")), more, top, middle, own)

    assert message(core, own, "Accepted").startswith(
        "spec.tcpKeepalive.probes: This comes from ClientTrafficPolicy default/top, into which this policy"
    )


def test_a_fault_that_a_policy_merges_in_names_the_other_policy() -> None:
    wide = ctp("wide", "Gateway/eg", connection={"bufferLimit": "5G"})
    own = ctp("own", "Gateway/eg/a", mergeType="StrategicMerge", path={"disableMergeSlashes": True})
    core = Core(gateway(http("a", port=80)), wide, own)

    assert conditions(core, own) == {"eg/a": {"Accepted": "!Invalid"}}
    assert "comes from ClientTrafficPolicy default/wide" in message(core, own, "Accepted")


def test_settings_of_several_policies_are_in_force_on_one_port() -> None:
    port = gateway(https("a", "cert", hostname="a.io"), https("b", "cert", hostname="b.io"))
    one = ctp("one", "Gateway/eg/a", connection={"bufferLimit": "1Mi"})
    other = ctp("other", "Gateway/eg/b", connection={"maxAcceptPerSocketEvent": 4})
    third = {"timeout": {"tcp": {"connectionInspectionTimeout": "7s"}}}
    core = Core(port, tls_secret("cert", "x.io"), one, other, ctp("third", "Gateway/eg", **third))
    listener = sent(core, "default/eg/a")

    assert listener.per_connection_buffer_limit_bytes.value == 2**20
    assert listener.max_connections_to_accept_per_socket_event.value == 4
    assert not listener.HasField("listener_filters_timeout"), "no listener has the policy of the Gateway"


def test_policies_that_set_a_port_alike_have_no_conflict() -> None:
    port = gateway(https("a", "cert", hostname="a.io"), https("b", "cert", hostname="b.io"))
    one, other = (ctp(f"of-{n}", f"Gateway/eg/{n}", connection={"bufferLimit": "1Mi"}) for n in "ab")
    core = Core(port, tls_secret("cert", "x.io"), one, other)

    assert (conditions(core, one), conditions(core, other)) == ({"eg/a": OK}, {"eg/b": OK})


def test_policies_that_merge_tell_it_on_both_sides() -> None:
    """The route's tells it by listener, since each may have another parent to merge with."""
    whole, part = btp("whole", "Gateway/eg"), btp("part", "Gateway/eg/b")
    subject = btp("own", "HTTPRoute/shop", mergeType="StrategicMerge")
    core = Core(TWO, route("shop"), whole, part, subject)
    merged = {"Merged": "Merged"}

    assert conditions(core, subject) == {"eg": OK, "eg/a": merged, "eg/b": merged}
    assert message(core, subject, "Merged", at=1) == "Merged with policy default/whole."
    assert message(core, subject, "Merged", at=2) == "Merged with policy default/part."
    assert conditions(core, whole) == {"eg": OK | merged | {"Overridden": "Overridden"}}
    assert conditions(core, part) == {"eg/b": OK | merged}
    assert message(core, whole, "Overridden").endswith("these gateway listeners: [default/eg/b].")


def test_a_policy_without_a_parent_to_merge_with_holds_alone() -> None:
    subject = btp("own", "HTTPRoute/shop/pay", mergeType="JSONMerge")
    core = Core(TWO, route("shop", "eg/a", rules=["pay"]), subject)

    assert conditions(core, subject) == {"eg/a": OK}


def test_a_field_without_effect_in_the_reference_is_accepted() -> None:
    subject = ctp("limits", "Gateway/eg", connection={"socketBufferLimit": "1Ki", "bufferLimit": "1Ki"})
    core = Core(TWO, subject)

    assert conditions(core, subject) == {"eg": OK}
    assert sent(core, "default/eg/a").per_connection_buffer_limit_bytes.value == 1024


def test_a_setting_that_is_wrong_is_reported_with_its_path() -> None:
    subject = security("users", "HTTPRoute/shop", basicAuth={"users": {"name": "missing"}})
    core = Core(TWO, route("shop", "eg/a", "eg/b"), subject)

    invalid = {"Accepted": "!Invalid"}
    assert conditions(core, subject) == {"eg/a": invalid, "eg/b": invalid}
    assert message(core, subject, "Accepted").startswith("spec.basicAuth")


def test_a_security_policy_fails_for_what_its_parent_asks_and_nobody_enforces() -> None:
    """Merging is no way around a check that is not built: the route answers 500, and this says why."""
    parent = security("parent", "Gateway/eg", **{PROTECTIONS[0]: {}})
    subject = security("own", "HTTPRoute/shop", mergeType="StrategicMerge")
    core = Core(TWO, route("shop", "eg/a"), parent, subject)

    assert conditions(core, subject)["eg/a"]["Accepted"] == "!Invalid"
    blamed = "This comes from SecurityPolicy default/parent, into which this policy merges. "
    assert message(core, subject, "Accepted").startswith(f"spec.{PROTECTIONS[0]}: {blamed}")


def test_what_is_wrong_with_a_field_of_the_parent_names_the_parent() -> None:
    """Whoever reads the status of the merging policy looks for the field in its manifest in vain."""
    users = {"users": {"name": "missing"}}
    parent = security("parent", "Gateway/eg", basicAuth=users)
    subject = security("own", "HTTPRoute/shop", mergeType="StrategicMerge")
    core = Core(TWO, route("shop", "eg/a"), parent, subject)

    assert message(core, subject, "Accepted") == (
        "spec.basicAuth.users: This comes from SecurityPolicy default/parent, into which this policy merges. "
        "Secret default/missing does not exist. All requests that this policy is for are answered with 500 "
        "until this is fixed."
    )


def test_deprecated_fields_are_reported_with_their_successors() -> None:
    target = reference("Gateway/eg")
    validation = {"clientValidation": {"optional": True}}
    subject = ctp("old", targetRef=target, enableProxyProtocol=False, tls=validation)
    core = Core(TWO, subject)

    assert message(core, subject, "Warning") == (
        "spec.enableProxyProtocol: The field is deprecated: write spec.proxyProtocol.\n"
        "spec.targetRef: The field is deprecated: write spec.targetRefs.\n"
        "spec.tls.clientValidation.optional: The field is deprecated: write spec.tls.clientValidation.mode."
    )


def test_a_policy_without_effect_has_no_warning_about_deprecated_fields() -> None:
    subject = btp("b", targetRef=reference("Gateway/eg"))
    core = Core(TWO, btp("a", "Gateway/eg"), subject)

    assert conditions(core, subject) == {"eg": {"Accepted": "!Conflicted"}}


def test_selectors_reach_another_namespace_only_with_a_grant() -> None:
    selector = {"kind": "HTTPRoute", "matchLabels": {"tier": "web"}, "namespaces": {"from": "All"}}
    subject = btp("limits", targetSelectors=[selector])
    routes = (
        route("here", "eg/a", labels={"tier": "web"}),
        route("plain", "eg/a"),
        route("there", "eg/b", namespace="shop", labels={"tier": "web"}),
    )
    core = Core(gateway(ALL % ("a", 8081), ALL % ("b", 8082)), *routes, subject)

    assert conditions(core, subject) == {"eg/a": OK}

    core.apply(GRANT)

    assert conditions(core, subject) == {"eg/a": OK, "eg/b": OK}


def test_routes_that_a_selector_finds_override_the_gateways_policy() -> None:
    subject = btp("all", "Gateway/eg")
    selector = {"kind": "HTTPRoute", "matchLabels": {"tier": "web"}}
    core = Core(TWO, subject, route("shop", labels={"tier": "web"}), btp("own", targetSelectors=[selector]))

    assert message(core, subject, "Overridden").endswith("these routes: [default/shop].")


def test_ancestors_of_selected_routes_stand_in_the_order_of_their_age() -> None:
    """The routes are judged in shards, which have nothing to do with their age."""
    subject = btp("all", targetSelectors=[{"kind": "HTTPRoute", "matchLabels": {}}])
    names = [f"g{n}" for n in range(9)]
    gateways = [gateway(http("web"), name=name) for name in names]
    routes = [route(f"r{n}", name, created=f"20{30 - n}-01-01T00:00:00Z") for n, name in enumerate(names)]
    core = Core(*gateways, *routes, subject)

    assert list(conditions(core, subject)) == names[::-1]


def test_of_more_than_sixteen_ancestors_those_with_bad_news_stay() -> None:
    names = [f"g{n:02}" for n in range(18)]
    subject = btp("many", *(f"Gateway/{name}" for name in names))
    gateways = [gateway(http("web"), name=name) for name in names]
    core = Core(*gateways, btp("first", "Gateway/g17"), subject)
    ancestors = conditions(core, subject)

    assert len(ancestors) == 16
    assert list(ancestors) == ["g17", *names[:15]]
    assert ancestors["g14"] == OK | {"Aggregated": "Aggregated"}


def test_editing_a_routes_rules_runs_no_status_of_its_policies() -> None:
    subject, whole = btp("own", "HTTPRoute/shop"), btp("all", "Gateway/eg")
    core = Core(TWO, route("shop"), route("other"), btp("others", "HTTPRoute/other"), subject, whole)
    before = conditions(core, subject), conditions(core, whole)

    with core.ran() as ran:
        core.apply(route("shop", path="/new"))
        after = conditions(core, subject), conditions(core, whole)

    assert after == before
    assert "policy_status" not in ran
    assert "overrides" not in ran


def test_a_route_that_gets_a_policy_runs_one_part_of_the_gateways() -> None:
    whole = btp("all", "Gateway/eg")
    core = Core(TWO, *(route(f"r{n}") for n in range(5)), btp("p0", "HTTPRoute/r0"), whole)
    conditions(core, whole)

    with core.ran() as ran:
        core.apply(btp("p1", "HTTPRoute/r1"))
        conditions(core, whole)

    assert ran["overrides"] == 1
    assert ran["policy_status"] == 1


def test_overrides_are_reported_once_however_many_policies_a_route_has() -> None:
    core = Core(
        TWO, route("shop", rules=["pay"]), btp("own", "HTTPRoute/shop"), btp("rule", "HTTPRoute/shop/pay")
    )
    overriding = [o for part in range(SHARDS) for o in overrides(core.db, "BackendTrafficPolicy", EG, part)]

    assert overriding == [(Ref.of(HTTPRoute, "default", "shop"), ("a", "b"), ())]


def test_a_fault_of_a_policy_says_what_requests_get() -> None:
    cidrs = {"xForwardedFor": {"trustedCIDRs": ["10.0.0.0/99"]}}
    subject = ctp("limits", "Gateway/eg", clientIPDetection=cidrs)
    core = Core(TWO, subject)

    fault = message(core, subject, "Accepted")

    assert fault.endswith("All requests of its listeners are answered with 500 until this is fixed.")


@pytest.mark.parametrize(
    ("subject", "effect"),
    [
        (
            btp("times", "TCPRoute/shop", timeout={"tcp": {"connectTimeout": "0s"}}),
            "Connections of TCPRoute default/shop go on without this setting until it is fixed.",
        ),
        (
            security("users", "TCPRoute/shop", basicAuth={"users": {"name": "nobody"}}),
            "All connections of TCPRoute default/shop are closed until this is fixed.",
        ),
    ],
    ids=["keeps-nobody-out", "keeps-somebody-out"],
)
def test_a_fault_of_a_policy_for_connections_says_what_becomes_of_them(subject: str, effect: str) -> None:
    core = Core(gateway(raw("raw", "TCP")), connection_route("TCPRoute"), subject)

    fault = message(core, subject, "Accepted")

    assert effect in fault
    assert "500" not in fault


PLAIN_AND_SECURE = gateway(http("a", port=8081), https("b", "cert", port=8443))


@pytest.mark.parametrize(
    ("served", "target", "warns"),
    [
        (TWO, "Gateway/eg", True),
        (gateway(raw("a", "TCP")), "Gateway/eg", True),
        (PLAIN_AND_SECURE, "Gateway/eg/a", True),
        (PLAIN_AND_SECURE, "Gateway/eg", False),
        (PLAIN_AND_SECURE, "Gateway/eg/b", False),
    ],
)
def test_http3_without_a_listener_of_https_is_said_to_have_no_effect(
    served: str, target: Target, warns: bool
) -> None:
    """Who forgets the certificate would else look for the fault in firewalls that drop UDP."""
    subject = ctp("quic", target, http3={})
    core = Core(served, tls_secret("cert", "x.io"), subject)
    [reasons] = conditions(core, subject).values()

    assert reasons == (OK | {"Warning": "NoHTTPSListener"} if warns else OK)
    if warns:
        assert message(core, subject, "Warning").startswith("spec.http3: HTTP/3 is always encrypted, and")


def test_http3_of_a_gateway_has_no_effect_where_its_listener_of_https_has_a_policy_of_its_own() -> None:
    subject, own = ctp("quic", "Gateway/eg", http3={}), ctp("own", "Gateway/eg/b")
    core = Core(PLAIN_AND_SECURE, tls_secret("cert", "x.io"), subject, own)

    assert conditions(core, subject)["eg"]["Warning"] == "NoHTTPSListener"
    assert "Warning" not in conditions(core, own)["eg/b"]


SECURE = gateway(https("b", "cert", port=8443))
ENDED = "Until this is fixed, its listeners end the TLS handshake of"
ANSWERED = "answer other requests with 500."
ALL_ANSWERED = "All requests of its listeners are answered with 500 until this is fixed."


@pytest.mark.parametrize(
    ("served", "mode", "effect"),
    [
        (SECURE, "RequireAndVerify", f"{ENDED} all clients."),
        (PLAIN_AND_SECURE, "RequireAndVerify", f"{ENDED} all clients, and {ANSWERED}"),
        (SECURE, "VerifyIfGiven", f"{ENDED} clients that show a certificate, and {ANSWERED}"),
        (SECURE, "RequireAny", f"{ENDED} clients that show no certificate, and {ANSWERED}"),
        (SECURE, "Request", ALL_ANSWERED),
        (TWO, "RequireAndVerify", ALL_ANSWERED),
    ],
)
def test_a_fault_of_what_clients_must_show_says_who_is_refused_in_the_handshake(
    served: str, mode: str, effect: str
) -> None:
    """Who looks for answers with 500 in a log does not find them where no connection comes about."""
    subject = ctp(
        "mutual",
        "Gateway/eg",
        tls={"clientValidation": {"mode": mode, "caCertificateRefs": [{"name": "absent"}]}},
    )
    core = Core(served, tls_secret("cert", "x.io"), subject)

    assert message(core, subject, "Accepted").endswith(effect)


def test_a_guard_that_is_not_built_says_what_requests_get() -> None:
    subject = security("keys", "HTTPRoute/shop", jwt={})
    core = Core(TWO, route("shop"), subject)

    assert "routes of this policy answer 500" in message(core, subject, "Accepted")


def test_a_policy_that_is_passed_over_says_that_it_has_no_effect() -> None:
    first, second = btp("a", "Gateway/eg/a"), btp("b", "Gateway/eg/a")
    core = Core(TWO, first, second)

    assert message(core, second, "Accepted").endswith(
        "BackendTrafficPolicy default/a applies to listener a of Gateway default/eg already, and has "
        "precedence over this policy: it is older, or first by name. So this policy has no effect there."
    )


def test_a_policy_that_looks_at_requests_says_that_a_tcp_route_is_closed() -> None:
    guard = security("guard", "TCPRoute/shop", basicAuth={"users": {"name": "users"}})
    core = Core(gateway(raw("raw", "TCP")), connection_route("TCPRoute"), USERS, guard)

    assert conditions(core, guard) == {"eg": {"Accepted": "!Invalid"}}
    assert "spec.basicAuth: It looks at requests, and TCPRoute default/shop takes connections" in message(
        core, guard, "Accepted"
    )


SHARED = gateway(http("a", port=8081), allowedListeners=allowing("All"))
SET = listener_set(http("a", port=8083), http("c", port=8084))


def of_set(text: str, section: str = "") -> str:
    """A route whose parent is the set instead."""
    document = load(text)
    document["spec"]["parentRefs"] = [
        {"kind": "ListenerSet", "name": "more", **({"sectionName": section} if section else {})}
    ]
    return dump(document)


def test_a_policy_of_a_set_is_judged_at_the_set() -> None:
    whole, part = security("whole", "ListenerSet/more"), security("part", "ListenerSet/more/c")
    core = Core(SHARED, SET, whole, part, security("lost", "ListenerSet/more/d"))

    assert conditions(core, whole) == {"more": {**OK, "Overridden": "Overridden"}}
    assert message(core, whole, "Overridden") == (
        "Other SecurityPolicies override this one for these listenerset listeners: [default/more/c]."
    )
    assert conditions(core, part) == {"more/c": OK}
    assert conditions(core, security("lost", "ListenerSet/more/d")) == {
        "more/d": {"Accepted": "!TargetNotFound"}
    }


def test_a_gateways_policy_tells_which_sets_and_their_routes_override_it() -> None:
    subject = btp("all", "Gateway/eg")
    core = Core(
        SHARED,
        SET,
        subject,
        btp("of-set", "ListenerSet/more"),
        of_set(route("shop")),
        btp("own", "HTTPRoute/shop"),
    )

    assert message(core, subject, "Overridden") == (
        "Other BackendTrafficPolicies override this one for these listenersets: [default/more] "
        "and these routes: [default/shop]."
    )


def test_a_routes_policy_merges_with_that_of_the_set_or_else_of_the_gateway() -> None:
    own = btp("own", "HTTPRoute/shop", mergeType="StrategicMerge")
    core = Core(SHARED, SET, of_set(route("shop"), "c"), own, btp("all", "Gateway/eg"))

    assert conditions(core, own)["more/c"]["Merged"] == "Merged"
    assert "Merged with policy default/all" in str(status(core, own))

    core.apply(btp("of-set", "ListenerSet/more"))
    assert "Merged with policy default/of-set" in str(status(core, own))
    assert "Merged" in conditions(core, btp("of-set", "ListenerSet/more"))["more"]
    assert conditions(core, btp("all", "Gateway/eg"))["eg"].get("Merged") is None


def test_a_policy_of_a_set_that_its_gateway_does_not_take_has_no_status() -> None:
    subject = security("whole", "ListenerSet/more")

    assert status(Core(TWO, SET, subject), subject) is None


def test_a_client_policy_of_a_set_that_shares_a_port_with_others_is_invalid() -> None:
    """With the listeners of its own set it may share one: it holds for all of them."""
    subject = ctp("of-set", "ListenerSet/more", timeout={"http": {"idleTimeout": "5s"}})
    alone = listener_set(http("c", "c.io", port=8081), http("d", "d.io", port=8081))
    core = Core(gateway(http("a", "a.io", port=8080), allowedListeners=allowing("All")), alone, subject)

    assert conditions(core, subject) == {"more": OK}

    core.apply(gateway(http("a", "a.io", port=8081), allowedListeners=allowing("All")))
    assert conditions(core, subject) == {"more": {"Accepted": "!Invalid"}}


def test_a_former_field_beside_its_successor_is_no_conflict_with_oneself() -> None:
    both = policy(
        "ClientTrafficPolicy",
        "clients",
        "Gateway/eg",
        proxyProtocol={"optional": True},
        enableProxyProtocol=True,
    )

    assert conditions(Core(gateway(http("a")), both), both)["eg"]["Accepted"] == "Accepted"
