"""What the page of rate limits does not show: faults, hints, costs, and what merges."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.api.base import Ref
from moongate.api.envoygateway import EnvoyGateway, RateLimit, RateLimitBackend
from moongate.api.httproute import HTTPPathMatch
from moongate.api.merge import merge_traced
from moongate.api.rate_limits import RateLimits
from moongate.attach.gateways import CONFIG, RATE_LIMIT_SERVICE
from moongate.engine import Db
from moongate.features.base import ChainPlace, Effective, ListenerFacts, MatchedRule
from moongate.features.rate_limit import GLOBAL, INHERITED, LOCAL, SHARED
from moongate.policies.backend_traffic_policy import BackendTrafficPolicy
from moongate.xds.wire import packed
from tests.features.backends import OWNER, effective, faults, plain, refused

HOUR = {"limit": {"requests": 5, "unit": "Hour"}}
WIDE = Ref.of(BackendTrafficPolicy, "default", "wide")


def local(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"local": {"rules": list(rules)}}


def shared(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"global": {"rules": list(rules)}}


def selecting(**selector: Any) -> dict[str, Any]:
    return {**HOUR, "clientSelectors": [selector]}


def local_route(spec: dict[str, Any] | Effective[RateLimits], facts: ListenerFacts | None = None) -> Any:
    value = spec if isinstance(spec, Effective) else effective(LOCAL, spec)
    assert LOCAL.http_filter is not None
    assert LOCAL.http_filter.forwarding is not None
    message = LOCAL.http_filter.forwarding(value, facts or ListenerFacts())
    assert message is not None
    return plain(message)


def merged(wide: dict[str, Any], narrow: dict[str, Any], how: str) -> Effective[RateLimits]:
    """The limits of a policy that merges into another one."""
    value, inherited = merge_traced(effective(LOCAL, wide).value, effective(LOCAL, narrow).value, how)
    return Effective(value, OWNER, tuple((path, WIDE) for path in inherited))


@pytest.mark.parametrize(
    "spec",
    [
        {"type": "Both"},
        {"global": {}},
        local({}),
        local({"limit": {"requests": 1, "unit": "Fortnight"}}),
        local({"limit": {"requests": 2**32, "unit": "Hour"}}),
        local(*[HOUR] * 17),
        shared(*[HOUR] * 257),
        local({**HOUR, "cost": {"response": {"from": "Number", "number": 1}}}),
        local({"limit": {"requests": 1, "unit": "Hour", "fromMetadata": {"namespace": "a", "key": "b"}}}),
        local(selecting()),
        local(selecting(headers=[{"name": ""}])),
        local(selecting(methods=[{"value": "get"}])),
        shared({**HOUR, "cost": {"request": {"from": "Number", "number": 1, "metadata": {}}}}),
    ],
)
def test_what_the_crd_refuses_is_refused(spec: dict[str, Any]) -> None:
    assert refused(LOCAL, spec) != []


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        (selecting(headers=[{"name": "x"}]), "headers[0].value"),
        (selecting(headers=[{"name": "x\n", "value": "a"}]), "headers[0].name"),
        (selecting(headers=[{"name": "x", "type": "RegularExpression", "value": "*"}]), "headers[0].value"),
        (selecting(headers=[{"name": "x", "type": "Distinct", "value": "a"}]), "headers[0].value"),
        (selecting(headers=[{"name": "x", "type": "Distinct", "invert": True}]), "headers[0].invert"),
        (selecting(path={"type": "RegularExpression", "value": "*"}), "path.value"),
        (selecting(sourceCIDR={"value": "10.0.0.0"}), "sourceCIDR.value"),
        (selecting(sourceCIDR={"value": "10.0.0.0/33"}), "sourceCIDR.value"),
        (selecting(sourceCIDR={"value": "10.0.0.0/255.0.0.0"}), "sourceCIDR.value"),
        (selecting(queryParams=[{"name": "q", "value": ""}]), "queryParams[0].value"),
        (selecting(queryParams=[{"name": "q", "type": "Distinct", "value": "a"}]), "queryParams[0].value"),
    ],
)
def test_a_selector_that_envoy_could_not_use_is_a_fault(rule: dict[str, Any], path: str) -> None:
    """Of both kinds of limits: Envoy would refuse the route, or select something else."""
    assert faults(LOCAL, local(rule)) == [f"local.rules[0].clientSelectors[0].{path}"]
    assert faults(GLOBAL, shared(rule)) == [f"global.rules[0].clientSelectors[0].{path}"]


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        ({"type": "Local"}, ["local"]),
        ({"type": "Local", **shared(HOUR)}, ["local"]),
        (local(HOUR, HOUR), ["local.rules[1]"]),
        (local({"limit": {"requests": 0, "unit": "Hour"}}), ["local.rules[0].limit.requests"]),
        (
            local({"limit": {"requests": 1, "unit": "Week"}}, {**selecting(path={}), "limit": {
                "requests": 1, "unit": "Month"}}),
            ["local.rules[1].limit.unit"],
        ),
        (local(selecting(path={}), {**selecting(path={}), "limit": {"requests": 1, "unit": "Second"}}), []),
    ],
)  # fmt: skip
def test_what_a_local_limit_cannot_be_is_a_fault(spec: dict[str, Any], paths: list[str]) -> None:
    assert faults(LOCAL, spec) == paths


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        ({"type": "Global"}, ["global"]),
        (shared({**HOUR, "cost": {"request": {"from": "Number", "number": -1}}}), ["cost.request.number"]),
        (shared({**HOUR, "cost": {"response": {"from": "Number", "number": 2**40}}}),
         ["cost.response.number"]),
        (shared({**HOUR, "cost": {"request": {"from": "Metadata", "metadata": {
            "namespace": "n", "key": "k)"}}}}), ["cost.request.metadata.key"]),
        (shared({"limit": {"requests": 0, "unit": "Hour"}}), []),
    ],
)  # fmt: skip
def test_what_a_global_limit_cannot_be_is_a_fault(spec: dict[str, Any], paths: list[str]) -> None:
    assert [path.removeprefix("global.rules[0].") for path in faults(GLOBAL, spec)] == paths


def test_without_a_service_a_global_limit_is_a_fault() -> None:
    """As in Envoy Gateway: a limit that nobody counts must not look like one."""
    db = Db()
    db.put(CONFIG, EnvoyGateway())
    assert GLOBAL.check is not None

    assert [problem.path for problem in GLOBAL.check(db, effective(GLOBAL, shared(HOUR)))] == ["global"]


@pytest.mark.parametrize(
    ("spec", "paths"),
    [
        (local({**HOUR, "cost": {"request": {"from": "Number", "number": 2}}, "shared": True}),
         ["local.rules[0].cost.request", "local.rules[0].shared"]),
        (shared({**HOUR, "clientSelectors": [{"path": {"value": "/a"}}, {"path": {"value": "/b"}}]}),
         ["global.rules[0].clientSelectors[0].path"]),
        (shared({**HOUR, "shared": True, "cost": {"request": {"from": "Number", "number": 2}}}), []),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_hinted_at(spec: dict[str, Any], paths: list[str]) -> None:
    assert LOCAL.hints is not None
    assert [hint.path for hint in LOCAL.hints(effective(LOCAL, spec).value)] == paths


def test_a_local_limit_is_the_same_whatever_it_says_of_costs_and_of_sharing() -> None:
    costly = {"cost": {"request": {"from": "Number", "number": 2}}, "shared": True}
    selected = selecting(path={"value": "/a"})

    assert local_route(local(HOUR | costly, selected | costly)) == local_route(local(HOUR, selected))


def test_the_listener_says_whether_responses_tell_what_is_left() -> None:
    """Its policy goes before that of a rule."""
    loud = local({**HOUR, "xRateLimitHeaders": "DraftVersion03"})

    assert local_route(loud)["enable_x_ratelimit_headers"] == "DRAFT_VERSION_03"
    assert "enable_x_ratelimit_headers" not in local_route(loud, ListenerFacts(rate_limit_headers=False))


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (RateLimit(backend=RateLimitBackend(type="Memory")), {}),
        (RateLimit(backend=RateLimitBackend(type="Memory"), timeout="0s"), {}),
        (
            RateLimit(backend=RateLimitBackend(type="Memory"), timeout="3s", fail_closed=True),
            {"timeout": "3s", "failure_mode_deny": True},
        ),
    ],
)
def test_the_configuration_says_how_the_service_is_asked(limit: RateLimit, expected: dict[str, Any]) -> None:
    db = Db()
    db.put(CONFIG, EnvoyGateway(rate_limit=limit))
    of_chain = in_chain(db, ListenerFacts())

    assert {name: of_chain[name] for name in ("timeout", "failure_mode_deny") if name in of_chain} == expected


@pytest.mark.parametrize(
    ("service", "timeout"), [("/run/limits.sock", {"timeout": "1s"}), ("localhost:8081", {})]
)
def test_moongates_own_service_has_time_to_answer(service: str, timeout: dict[str, str]) -> None:
    """A request that waits for nobody would pass uncounted; Envoy's 20 ms are too few on a busy laptop."""
    db = Db()
    db.put(CONFIG, EnvoyGateway(rate_limit=RateLimit(backend=RateLimitBackend(type="Memory"))))
    db.put(RATE_LIMIT_SERVICE, service)
    of_chain = in_chain(db, ListenerFacts())

    assert {name: of_chain[name] for name in ("timeout",) if name in of_chain} == timeout


def test_the_policy_of_the_listener_says_which_headers_responses_have() -> None:
    usual = in_chain(Db(), ListenerFacts())
    other = in_chain(Db(), ListenerFacts(envoy_headers=True, rate_limit_headers=False))

    assert usual["enable_x_ratelimit_headers"] == "DRAFT_VERSION_03"
    assert usual["disable_x_envoy_ratelimited_header"] is True
    assert {"enable_x_ratelimit_headers", "disable_x_envoy_ratelimited_header"}.isdisjoint(other)


def in_chain(db: Db, facts: ListenerFacts) -> dict[str, Any]:
    assert GLOBAL.http_filter is not None
    assert GLOBAL.http_filter.in_chain is not None
    raw = packed(GLOBAL.http_filter.chain(db, effective(GLOBAL, shared(HOUR))))
    return plain(GLOBAL.http_filter.in_chain(db, ChainPlace("default/gateway/http", facts), raw))


def test_a_limit_and_a_cost_can_come_from_metadata() -> None:
    of = {"namespace": "n", "key": "k"}
    rule = {
        "limit": {"requests": 5, "unit": "Hour", "fromMetadata": of},
        "cost": {"response": {"from": "Metadata", "metadata": of}},
    }
    assert GLOBAL.http_filter is not None
    assert GLOBAL.http_filter.of_match is not None
    at = MatchedRule("rule", path=HTTPPathMatch(), route="r", listener="l")
    before, after = plain(GLOBAL.http_filter.of_match(effective(GLOBAL, shared(rule)), at))["rate_limits"]

    assert (
        before["limit"]
        == after["limit"]
        == {"dynamic_metadata": {"metadata_key": {"key": "n", "path": [{"key": "k"}]}}}
    )
    assert "hits_addend" not in before
    assert after["hits_addend"] == {"format": "%DYNAMIC_METADATA(n:k)%"}
    assert after["apply_on_stream_done"] is True


@pytest.mark.parametrize("of", ["request", "response"])
def test_a_cost_is_what_is_set_whatever_it_says_it_is_from(of: str) -> None:
    """As in Envoy Gateway."""
    number = {"number": 3}
    metadata = {"metadata": {"namespace": "shop", "key": "size"}}

    def built(source: str, cost: dict[str, Any]) -> Any:
        assert GLOBAL.http_filter is not None
        assert GLOBAL.http_filter.of_match is not None
        limits = effective(GLOBAL, shared({**HOUR, "cost": {of: {"from": source, **cost}}}))
        at = MatchedRule("rule", path=HTTPPathMatch(), route="r", listener="l")
        return plain(GLOBAL.http_filter.of_match(limits, at))

    assert built("Metadata", number) == built("Number", number)
    assert built("Number", metadata) == built("Metadata", metadata)
    assert built("Number", number) != built("Number", metadata)


def test_rules_merge_as_lists_of_which_the_more_specific_comes_first() -> None:
    wide, narrow = local(selecting(path={"value": "/wide"})), local(selecting(path={"value": "/narrow"}))
    of = merged(wide, narrow, "StrategicMerge")

    paths = [limit["actions"][0]["header_value_match"] for limit in local_route(of)["rate_limits"]]
    assert [match["headers"][0]["string_match"]["safe_regex"]["regex"][:6] for match in paths] == [
        "^/narr",
        "^/wide",
    ]


def test_of_two_rules_for_the_rest_that_of_the_more_specific_policy_holds() -> None:
    wide = local({"limit": {"requests": 9, "unit": "Hour"}})
    both = merged(wide, local({"limit": {"requests": 3, "unit": "Hour"}}), "StrategicMerge")
    one = merged(wide, local(selecting(path={"value": "/a"})), "StrategicMerge")
    assert LOCAL.check is not None

    assert list(LOCAL.check(Db(), both)) == []
    assert local_route(both)["token_bucket"]["max_tokens"] == 3
    # In Envoy Gateway it would be lost, and nobody would notice.
    assert local_route(one)["token_bucket"]["max_tokens"] == 9


def test_a_deprecated_type_leaves_out_a_half_of_its_own_policy_alone() -> None:
    of = merged(
        {"type": "Global", **shared(HOUR), **local(HOUR)}, {"type": "Local", **local(HOUR)}, "JSONMerge"
    )

    assert of.value.type is None
    assert LOCAL.applies is not None
    assert GLOBAL.applies is not None
    assert (LOCAL.applies(of), GLOBAL.applies(of)) == (True, True)
    assert of.owner_of("global.rules[0]") == WIDE
    assert of.owner_of("local.rules[0]") == OWNER


def test_a_shared_rule_of_either_policy_has_a_filter_of_its_own() -> None:
    rule = {**HOUR, "shared": True}
    of = merged(shared(rule), shared(rule), "StrategicMerge")

    for feature, name in ((SHARED, "default/backends"), (INHERITED, "default/wide")):
        assert feature.applies is not None
        assert feature.applies(of)
        assert feature.http_filter is not None
        assert feature.http_filter.named is not None
        assert feature.http_filter.named(of) == f"envoy.filters.http.ratelimit/{name}"
    assert INHERITED.applies is not None
    assert not INHERITED.applies(effective(GLOBAL, shared(rule)))
