"""Which policies are attached to what, and which policy holds for a request."""

from __future__ import annotations

import json

import pytest

from moongate.api.base import GATEWAY_GROUP, ListenerId, Ref
from moongate.api.httproute import HTTPRoute
from moongate.attach.policies import (
    Applied,
    applied,
    applied_to_gateway,
    applied_to_listener,
    policy_attachments,
    selected,
    selected_shards,
    winner,
)
from moongate.kinds import ref_of
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.store import get
from tests.core import EG, Core, gateway, http
from tests.core import policy as settings

KIND, CLIENTS = "BackendTrafficPolicy", "ClientTrafficPolicy"
HTTP = ListenerId(EG, EG, "http")
SHOP = Ref.of(HTTPRoute, "default", "shop")


def policy(name: str, *targets: str, created: str = "", namespace: str = "default", **spec: str) -> str:
    """A policy; each target is YAML in one line, without its group."""
    refs = "".join(f"\n  - {{group: gateway.networking.k8s.io, {t}}}" for t in targets)
    target_refs = f"\n  targetRefs:{refs}" if targets else ""
    more = "".join(f"\n  {key}: {value}" for key, value in spec.items())
    return f"""
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: {KIND}
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: "{created}"}}
spec:{target_refs}{more}
"""


def route(name: str = "shop", namespace: str = "default", labels: str = "{}") -> str:
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}
spec:
  parentRefs: [{{name: eg, namespace: default}}]
  rules: [{{name: pay}}, {{}}]
"""


def ref(name: str, namespace: str = "default") -> Ref:
    return ref_of(KIND, namespace, name)


def targets(core: Core, policy: str) -> list[Ref]:
    """The targets that the selectors of a policy match, sorted."""
    calls = [(ref(policy), *shard) for shard in selected_shards(core.db, ref(policy))]
    return sorted(target for shard in selected.each(core.db, calls) for target in shard)


GATEWAY = "kind: Gateway, name: eg"
LISTENER = "kind: Gateway, name: eg, sectionName: http"
ROUTE = "kind: HTTPRoute, name: shop"
RULE = "kind: HTTPRoute, name: shop, sectionName: pay"


def test_a_listener_of_a_set_takes_the_policy_of_its_set_and_never_that_of_a_gateways_listener() -> None:
    """Both may have a listener of one name; the set's own listener, the set, then the Gateway decide."""
    core = Core(gateway(http("http")), policy("of-listener", LISTENER), policy("of-gateway", GATEWAY))
    listener = ListenerId(EG, Ref("ListenerSet", "default", "more", GATEWAY_GROUP), "http")

    assert applied_to_listener(core.db, KIND, listener) == Applied(ref("of-gateway"), None)

    core.apply(policy("of-set", "kind: ListenerSet, name: more"))
    assert applied_to_listener(core.db, KIND, listener) == Applied(ref("of-set"), None)

    core.apply(policy("of-its-listener", "kind: ListenerSet, name: more, sectionName: http"))
    assert applied_to_listener(core.db, KIND, listener) == Applied(ref("of-its-listener"), None)


def test_the_most_specific_policy_holds() -> None:
    """Rule over route over listener over Gateway; each level holds when those before it are gone."""
    core = Core(
        gateway(http("http")),
        route(),
        policy("of-gateway", GATEWAY),
        policy("of-listener", LISTENER),
        policy("of-route", ROUTE),
        policy("of-rule", RULE),
    )

    for name in ("of-rule", "of-route", "of-listener", "of-gateway"):
        assert applied(core.db, KIND, HTTP, SHOP, "pay") == Applied(ref(name), None)
        core.delete(KIND, "default", name)

    assert applied(core.db, KIND, HTTP, SHOP, "pay") is None


def test_a_rule_without_that_name_gets_the_policy_of_its_route() -> None:
    core = Core(gateway(http("http")), route(), policy("of-route", ROUTE), policy("of-rule", RULE))

    assert applied(core.db, KIND, HTTP, SHOP, "") == Applied(ref("of-route"), None)


def test_the_oldest_policy_holds_and_among_equals_the_first_by_name() -> None:
    """The order of arrival must not decide: another restart would give another gateway."""
    core = Core(
        gateway(http("http")),
        policy("a", GATEWAY, created="2025-01-02T00:00:00Z"),
        policy("z", GATEWAY, created="2025-01-01T00:00:00Z"),
        policy("b", GATEWAY, created="2025-01-02T00:00:00Z"),
    )

    assert policy_attachments(core.db, EG) == (("", ref("z")),)

    core.delete(KIND, "default", "z")
    assert winner(core.db, KIND, EG, "") == ref("a")


def test_a_policy_that_comes_too_late_disturbs_nobody() -> None:
    """Of hundreds of policies for one target, only the first of each section counts for all others."""
    core = Core(gateway(http("http")), policy("first", GATEWAY, created="2025-01-01T00:00:00Z"))
    assert applied_to_listener(core.db, KIND, HTTP) == Applied(ref("first"), None)

    core.apply(policy("late", GATEWAY, created="2025-01-02T00:00:00Z"))
    with core.ran() as ran:
        assert applied_to_listener(core.db, KIND, HTTP) == Applied(ref("first"), None)

    assert ran == {"policy_attachments": 1, "_targeting": 1}


def test_a_policy_that_merges_names_its_parent() -> None:
    """The closest one above the route: that of the listener, else that of the Gateway."""
    core = Core(
        gateway(http("http")),
        route(),
        policy("of-gateway", GATEWAY),
        policy("of-route", ROUTE, mergeType="StrategicMerge"),
    )
    assert applied(core.db, KIND, HTTP, SHOP, "") == Applied(ref("of-route"), ref("of-gateway"))

    core.apply(policy("of-listener", LISTENER))

    assert applied(core.db, KIND, HTTP, SHOP, "") == Applied(ref("of-route"), ref("of-listener"))


@pytest.mark.parametrize(
    ("merging", "names"),
    [
        ((), ("own", None, None)),
        (("middle",), ("own", None, None)),
        (("own",), ("own", "middle", None)),
        (("own", "middle"), ("own", "middle", "top")),
    ],
)
def test_a_policy_about_clients_names_those_above_it_as_far_as_each_merges_into_the_next(
    merging: tuple[str, ...], names: tuple[str | None, ...]
) -> None:
    targets = {"own": "ListenerSet/more/http", "middle": "ListenerSet/more", "top": "Gateway/eg"}
    core = Core(
        gateway(http("http")),
        *(
            settings(
                CLIENTS, f"{{mergeType: {'JSONMerge' if name in merging else 'null'}}}", name=name, target=at
            )
            for name, at in targets.items()
        ),
    )
    listener = ListenerId(EG, Ref("ListenerSet", "default", "more", GATEWAY_GROUP), "http")

    expected = (ref_of(CLIENTS, "default", name) if name is not None else None for name in names)
    assert applied_to_listener(core.db, CLIENTS, listener) == (*expected,)


def test_a_selector_claims_what_has_the_labels() -> None:
    core = Core(
        gateway(http("http")),
        route(labels="{team: shop}"),
        route("other"),
        policy("by-label", targetSelectors="[{kind: HTTPRoute, matchLabels: {team: shop}}]"),
    )

    assert targets(core, "by-label") == [SHOP]
    assert winner(core.db, KIND, SHOP, "") == ref("by-label")
    assert winner(core.db, KIND, Ref.of(HTTPRoute, "default", "other"), "") is None


LABELS: list[dict[str, str]] = [
    {},
    {"team": "shop"},
    {"team": "shop", "tier": "web"},
    {"team": "ops", "tier": "web"},
    {"tier": "db"},
]


@pytest.mark.parametrize(
    "selector",
    [
        "matchLabels: {}",
        "matchLabels: {team: shop}",
        "matchLabels: {team: shop, tier: web}",
        "matchExpressions: [{key: team, operator: In, values: [shop, ops]}]",
        "matchExpressions: [{key: team, operator: In, values: []}]",
        "matchExpressions: [{key: team, operator: Exists}]",
        "matchExpressions: [{key: team, operator: DoesNotExist}]",
        "matchExpressions: [{key: team, operator: NotIn, values: [shop]}]",
        "matchExpressions: [{key: team, operator: NotIn, values: [shop]}, {key: tier, operator: Exists}]",
        "matchLabels: {tier: web}, matchExpressions: [{key: team, operator: NotIn, values: [shop]}]",
    ],
)
def test_a_selector_finds_what_it_matches_and_is_found_by_it(selector: str) -> None:
    """Both ways lead through indexes of labels; what they find is what the selector says of each route."""
    core = Core(
        gateway(http("http")),
        *(route(f"r{n}", labels=json.dumps(labels)) for n, labels in enumerate(LABELS)),
        route("elsewhere", namespace="other", labels="{team: shop, tier: web}"),
        policy("by-label", targetSelectors=f"[{{kind: HTTPRoute, {selector}}}]"),
    )
    subject = get(core.db, BackendTrafficPolicy, ref("by-label"))
    assert subject is not None
    routes = [Ref.of(HTTPRoute, "default", f"r{n}") for n in range(len(LABELS))]
    matched = [
        each for each, labels in zip(routes, LABELS, strict=True)
        if subject.spec.target_selectors[0].selector.selects(labels)
    ]  # fmt: skip

    assert targets(core, "by-label") == matched
    assert [each for each in routes if winner(core.db, KIND, each, "")] == matched


@pytest.mark.parametrize("shared", ["", "all: web, "])
def test_a_selector_policy_costs_what_it_selects(shared: str) -> None:
    """Of a thousand teams, each with a policy for its own routes, nobody pays for the others. That holds too
    where all have a label in common."""
    teams = range(30)
    core = Core(
        gateway(http("http")),
        *(route(f"r{n}", labels=f"{{{shared}app: a{n}}}") for n in teams),
        *(
            policy(f"p{n}", targetSelectors=f"[{{kind: HTTPRoute, matchLabels: {{{shared}app: a{n}}}}}]")
            for n in teams
        ),
    )
    for n in teams:
        assert winner(core.db, KIND, Ref.of(HTTPRoute, "default", f"r{n}"), "") == ref(f"p{n}")
        targets(core, f"p{n}")

    core.apply(
        policy(
            "younger",
            targetSelectors=f"[{{kind: HTTPRoute, matchLabels: {{{shared}app: a7}}}}]",
            created="2026-01-01T00:00:00Z",
        )
    )
    with core.ran() as ran:
        for n in teams:
            targets(core, f"p{n}")
            winner(core.db, KIND, Ref.of(HTTPRoute, "default", f"r{n}"), "")

    assert ran == {"policy_attachments": 1, "_targeting": 1}


def test_a_selector_reaches_other_namespaces_only_with_a_grant() -> None:
    """Otherwise anybody could put a policy on anybody's routes."""
    selector = "[{kind: HTTPRoute, namespaces: {from: All}}]"
    core = Core(gateway(http("http")), route(), policy("far", namespace="ops", targetSelectors=selector))
    assert winner(core.db, KIND, SHOP, "") is None

    core.apply("""
        apiVersion: gateway.networking.k8s.io/v1beta1
        kind: ReferenceGrant
        metadata: {name: ops}
        spec:
          from: [{group: gateway.envoyproxy.io, kind: BackendTrafficPolicy, namespace: ops}]
          to: [{group: gateway.networking.k8s.io, kind: HTTPRoute}]
    """)

    assert winner(core.db, KIND, SHOP, "") == ref("far", "ops")


def test_a_reference_never_leaves_its_namespace() -> None:
    core = Core(gateway(http("http")), route(), policy("far", ROUTE, namespace="ops"))

    assert winner(core.db, KIND, SHOP, "") is None


def test_editing_what_a_policy_sets_disturbs_nobody_who_is_attached() -> None:
    """Attachment is by name: 5,000 routes must not ask again whose they are because a timeout changed."""
    core = Core(gateway(http("http")), route(), policy("of-gateway", GATEWAY))
    applied(core.db, KIND, HTTP, SHOP, "pay")

    core.apply(policy("of-gateway", GATEWAY, timeout="{http: {requestTimeout: 3s}}"))
    with core.ran() as ran:
        applied(core.db, KIND, HTTP, SHOP, "pay")
        applied_to_listener(core.db, KIND, HTTP)

    assert ran == {"_targeting": 1}


def test_a_route_that_comes_costs_a_selector_one_shard() -> None:
    """Nobody walks all routes to find that one more has the labels; nor if the policy's settings change."""
    selector = "[{kind: HTTPRoute, matchLabels: {team: shop}}]"
    core = Core(
        gateway(http("http")),
        *(route(f"r{n}", labels="{team: shop}") for n in range(200)),
        policy("by-label", targetSelectors=selector),
    )
    before = targets(core, "by-label")

    core.apply(route("new", labels="{team: shop}"))
    with core.ran() as came:
        after = targets(core, "by-label")
    core.apply(policy("by-label", targetSelectors=selector, timeout="{http: {requestTimeout: 3s}}"))
    with core.ran() as edited:
        targets(core, "by-label")

    assert set(after) - set(before) == {Ref.of(HTTPRoute, "default", "new")}
    assert came == dict.fromkeys(("selected", "labels", "age"), 1)
    assert edited == {"_targeting": 1}


def test_a_policy_wins_of_each_target_the_section_that_it_names_there() -> None:
    """What it names of one target says nothing of another."""
    core = Core(gateway(http("http")), route(), policy("both", RULE, GATEWAY, created="2026-01-01T00:00:00Z"))

    assert policy_attachments(core.db, SHOP) == (("pay", ref("both")),)
    assert policy_attachments(core.db, EG) == (("", ref("both")),)
    assert applied_to_gateway(core.db, KIND, EG) == Applied(ref("both"), None)


@pytest.mark.parametrize("own", ["", "namespaces: {from: Same}, "])
def test_a_selector_that_stays_picks_nothing_elsewhere_beside_one_that_does_not(own: str) -> None:
    """The policy is found by the labels of the one that reaches further, and that matches nothing here."""
    asked = "matchLabels: {app: b}, matchExpressions: [{key: closed, operator: DoesNotExist}]"
    selectors = (
        f"[{{kind: HTTPRoute, {own}matchLabels: {{team: a}}}}, "
        f"{{kind: HTTPRoute, namespaces: {{from: All}}, {asked}}}]"
    )
    labels = "{team: a, app: b, closed: 'yes'}"
    core = Core(
        *(gateway(http("http")), route(labels=labels), route(namespace="far", labels=labels)),
        *(policy("two", targetSelectors=selectors), grant("far")),
    )
    far = Ref.of(HTTPRoute, "far", "shop")

    assert winner(core.db, KIND, SHOP, "") == ref("two")
    assert winner(core.db, KIND, far, "") is None
    assert targets(core, "two") == [SHOP]


def test_a_selector_may_ask_for_labels_of_namespaces() -> None:
    labelled = "namespaces: {from: Selector, selector: {matchLabels: {team: a}}}"
    core = Core(
        *(gateway(http("http")), route(namespace="ours"), route(namespace="theirs")),
        *(namespace("ours", "{team: a}"), namespace("theirs", "{team: b}"), grant("ours"), grant("theirs")),
        policy("by-team", targetSelectors=f"[{{kind: HTTPRoute, {labelled}}}]"),
    )

    assert targets(core, "by-team") == [Ref.of(HTTPRoute, "ours", "shop")]


def test_the_shards_of_selected_targets_come_in_one_order() -> None:
    """In each process: what is made of them must be the same bytes."""
    everywhere = "[{kind: HTTPRoute, namespaces: {from: All}}]"
    core = Core(
        gateway(http("http")),
        *(route(namespace=f"n{n}") for n in range(12)),
        policy("all", targetSelectors=everywhere),
    )

    shards = selected_shards(core.db, ref("all"))

    assert len(shards) == 12
    assert list(shards) == sorted(shards)


def namespace(name: str, labels: str) -> str:
    return f"{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {labels}}}}}"


def grant(at: str) -> str:
    """Lets policies of namespace ``default`` target routes of another."""
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {{name: policies, namespace: {at}}}
spec:
  from: [{{group: gateway.envoyproxy.io, kind: {KIND}, namespace: default}}]
  to: [{{group: gateway.networking.k8s.io, kind: HTTPRoute}}]
"""
