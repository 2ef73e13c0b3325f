"""Fields that Envoy knows, but not the messages that we have, go through JSON documents and back."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster, LoadBalancingPolicy
from envoy.config.core.v3.base_pb2 import Metadata
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.route.v3.route_components_pb2 import RateLimit, Route, RouteMatch, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2 import LocalRateLimit
from envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3 import (
    client_side_weighted_round_robin_pb2 as weighted,
)
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from google.protobuf.json_format import ParseError
from google.protobuf.struct_pb2 import Struct
from xds.core.v3.cidr_pb2 import CidrRange

from moongate.later_messages import set_later
from moongate.message_documents import as_document, from_document
from moongate.xds.wire import encode, packed

both = pytest.mark.parametrize("snake_case", [False, True])


def table() -> RouteConfiguration:
    """Routes that match by cookies, and limits with all that is newer."""
    limit = RateLimit()
    set_later(limit, x_ratelimit_option="DRAFT_VERSION_03")
    for invert in (True, False):
        matcher = {"ranges": [CidrRange(address_prefix="10.0.0.0")], "invert_match": invert}
        address = {"descriptor_key": "key", "descriptor_value": "value", "address_matcher": matcher}
        set_later(limit.actions.add(), remote_address_match=address)
    local = LocalRateLimit(stat_prefix="x")
    set_later(local.descriptors.add(), shadow_mode=True)
    route = Route(name="one", match=RouteMatch(prefix="/"))
    for name, value in (("session", StringMatcher(exact="abc")), ("other", StringMatcher(prefix="x"))):
        set_later(route.match, cookies=[{"name": name, "string_match": value}])
    route.route.rate_limits.append(limit)
    route.typed_per_filter_config["limit/of-a.route"].CopyFrom(packed(local))
    metadata = Metadata(filter_metadata={"x": Struct()})
    plain = Route(name="two", metadata=metadata)
    plain.match.prefix = "/"
    return RouteConfiguration(
        name="table", virtual_hosts=[VirtualHost(name="host", domains=["*"], routes=[plain, route])]
    )


def cluster() -> Cluster:
    built = weighted.ClientSideWeightedRoundRobin()
    set_later(built, oob_reporting_config={"port_value": 8080, "authority": "load.test"})
    entry = TypedExtensionConfig(name="weighted", typed_config=packed(built))
    policies = [LoadBalancingPolicy.Policy(typed_extension_config=entry)]
    return Cluster(name="c", load_balancing_policy=LoadBalancingPolicy(policies=policies))


@both
@pytest.mark.parametrize("kind", [RouteConfiguration, Cluster])
def test_what_is_written_is_read_as_it_was(kind: Any, *, snake_case: bool) -> None:
    message = table() if kind is RouteConfiguration else cluster()
    document = as_document(message, snake_case=snake_case)

    read: Any = from_document(document, kind)

    assert read == message
    assert encode(read) == encode(message)


def test_they_have_the_names_of_envoy() -> None:
    of_host = as_document(table(), snake_case=True)["virtual_hosts"][0]
    plain, route = of_host["routes"]

    assert "cookies" not in plain["match"]
    assert route["match"]["cookies"] == [
        {"name": "session", "string_match": {"exact": "abc"}},
        {"name": "other", "string_match": {"prefix": "x"}},
    ]
    [limit] = route["route"]["rate_limits"]
    assert limit["x_ratelimit_option"] == "DRAFT_VERSION_03"
    assert limit["actions"][0]["remote_address_match"] == {
        "descriptor_key": "key",
        "descriptor_value": "value",
        "address_matcher": {"ranges": [{"address_prefix": "10.0.0.0"}], "invert_match": True},
    }
    assert route["typed_per_filter_config"]["limit/of-a.route"]["descriptors"] == [{"shadow_mode": True}]
    [policy] = as_document(cluster())["loadBalancingPolicy"]["policies"]
    reporting = {"portValue": 8080, "authority": "load.test"}
    assert policy["typedExtensionConfig"]["typedConfig"]["oobReportingConfig"] == reporting


def test_they_are_read_under_both_names_and_by_themselves() -> None:
    for name in ("oob_reporting_config", "oobReportingConfig"):
        type_ = f"type.googleapis.com/{weighted.ClientSideWeightedRoundRobin.DESCRIPTOR.full_name}"
        config = {"@type": type_, name: {"port_value": 8080, "authority": "load.test"}}
        policy = {"typed_extension_config": {"name": "weighted", "typed_config": config}}
        document = {"name": "c", "load_balancing_policy": {"policies": [policy]}}
        assert from_document(document, Cluster) == cluster()


WRONG: list[Any] = [
    {"virtual_hosts": [{"routes": [{"match": {"cookies": [{"no": "such"}]}}]}]},
    {"virtual_hosts": [{"routes": [{"match": {"cookies": 3}}]}]},
    {"virtual_hosts": {"routes": 3}},
    {"virtual_hosts": [3]},
    {"virtual_hosts": [{"typed_per_filter_config": {"x": {"@type": "no/such.Type"}}}]},
    {"virtual_hosts": [{"typed_per_filter_config": {"x": {"@type": 3}}}]},
    {"no": {"such": "field"}},
]


@pytest.mark.parametrize("document", WRONG, ids=str)
def test_what_means_no_message_is_refused(document: Any) -> None:
    with pytest.raises((ParseError, TypeError, AttributeError, ValueError)):
        from_document(document, RouteConfiguration)


def test_a_document_is_not_changed_by_reading_it() -> None:
    document = as_document(table())
    before = as_document(table())

    from_document(document, RouteConfiguration)

    assert document == before
