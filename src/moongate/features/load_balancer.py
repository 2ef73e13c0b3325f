"""Choose the endpoint that gets a request.

Set by:      BackendTrafficPolicy ``spec.loadBalancer``
Precedence:  the most specific policy wins; without one, the less busy of two random endpoints
Envoy:       ``Cluster.load_balancing_policy``, extensions/load_balancing_policies/*/v3;
             ``RouteAction.hash_policy``; ``TcpProxy.hash_policy``, for a hash of the source address
Cases:       load_balancer.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

import re
from math import isqrt
from typing import TYPE_CHECKING

from envoy.config.cluster.v3.cluster_pb2 import LoadBalancingPolicy
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.route.v3.route_components_pb2 import RouteAction
from envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3 import (
    client_side_weighted_round_robin_pb2 as weighted,
)
from envoy.extensions.load_balancing_policies.least_request.v3.least_request_pb2 import LeastRequest
from envoy.extensions.load_balancing_policies.maglev.v3.maglev_pb2 import Maglev
from envoy.extensions.load_balancing_policies.override_host.v3.override_host_pb2 import OverrideHost
from envoy.extensions.load_balancing_policies.random.v3.random_pb2 import Random
from envoy.extensions.load_balancing_policies.round_robin.v3.round_robin_pb2 import RoundRobin
from envoy.extensions.load_balancing_policies.wrr_locality.v3.wrr_locality_pb2 import WrrLocality

from moongate.api.base import milliseconds
from moongate.api.cluster_settings import (
    BackendUtilization,
    ConsistentHash,
    Cookie,
    EndpointOverride,
    Header,
    LoadBalancer,
    LoadBalancerType,
    OutOfBandReporting,
    PreferLocal,
    QueryParam,
    SlowStart,
    ZoneAware,
)
from moongate.features.base import ClusterEdit, Effective, Feature, RouteEdit, Zones
from moongate.features.shared import by_zone, duration
from moongate.later_messages import set_later
from moongate.problem import Problem
from moongate.xds.wire import packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
    from google.protobuf.message import Message

    from moongate.engine import Db

HashPolicy = RouteAction.HashPolicy

_ORCA_HEADERS = ("endpoint-load-metrics", "endpoint-load-metrics-bin")
"""Headers in which backends report their load, per the Open Request Cost Aggregation standard."""

_BREAK = re.compile(r"[\x00\r\n]")


def check(_db: Db, balancer: Effective[LoadBalancer]) -> Iterator[Problem]:
    spec = balancer.value
    if hashed := _hashed(spec):
        for problem in _check_hash(hashed):
            yield problem.under("consistentHash")
    if spec.endpoint_override is not None:
        for index, source in enumerate(spec.endpoint_override.extract_from):
            if not source.header:
                yield Problem(
                    f"endpointOverride.extractFrom[{index}]",
                    "The entry names no header; an endpoint can be taken from a header only.",
                )
            elif _BREAK.search(source.header):
                yield Problem(f"endpointOverride.extractFrom[{index}].header", _broken(source.header))
    if spec.zone_aware is not None:
        for problem in _check_zones(spec.zone_aware):
            yield problem.under("zoneAware")


def hints(balancer: LoadBalancer) -> Iterator[Problem]:
    if balancer.type == "DynamicModule":
        message = (
            "It is DynamicModule, which Envoy Gateway accepts and does not build, and so does moongate. "
            "Endpoints are chosen as without loadBalancer."
        )
        yield Problem("type", message, "Unused")


def named_zones(balancer: LoadBalancer) -> Iterator[tuple[str, str]]:
    aware = balancer.zone_aware
    for n, each in enumerate(aware.weighted_zones if aware is not None else ()):
        yield f"zoneAware.weightedZones[{n}].zone", each.zone


def zones(balancer: LoadBalancer) -> Zones | None:
    aware = balancer.zone_aware
    if aware is None or balancer.type == "DynamicModule":
        return None
    if aware.weighted_zones:
        return Zones(tuple((each.zone, each.weight) for each in aware.weighted_zones))
    return Zones() if aware.prefer_local is not None else None


def one_cluster(balancer: LoadBalancer) -> bool:
    """Whether a rule needs one cluster: a hash chooses the same endpoint only within one cluster."""
    return balancer.type == "ConsistentHash"


def route(edit: RouteEdit, balancer: Effective[LoadBalancer]) -> None:
    spec = balancer.value
    if hashed := _hashed(spec):
        action = edit.message.route
        action.hash_policy.extend(_hash_policies(hashed))
        # Without this, Envoy uses the hash only to choose an endpoint of a backend, and chooses the backend
        # randomly.
        if action.HasField("weighted_clusters"):
            action.weighted_clusters.use_hash_policy.value = True
    # The reference removes the headers only for policies that target routes. That seems to be an oversight:
    # the headers give the same information away if the policy targets a Gateway.
    if spec.type == "BackendUtilization" and not _utilized(spec).keep_response_headers:
        removed = edit.message.response_headers_to_remove
        removed.extend(name for name in _ORCA_HEADERS if name not in removed)


def tcp_proxy(proxy: TcpProxy, balancer: Effective[LoadBalancer]) -> None:
    hashed = _hashed(balancer.value)
    if hashed is not None and hashed.type == "SourceIP":
        proxy.hash_policy.add().source_ip.SetInParent()


def cluster(edit: ClusterEdit, balancer: Effective[LoadBalancer]) -> None:
    if edit.message.cluster_type.name == "envoy.clusters.dynamic_forward_proxy":
        return  # Each request names its own endpoint, so there is no choice.
    spec = balancer.value
    if spec.type == "DynamicModule":
        return
    override = spec.endpoint_override
    built = _policy(edit, spec) if override is None else _override(edit, spec, override)
    edit.message.load_balancing_policy.CopyFrom(built)


def _hashed(spec: LoadBalancer) -> ConsistentHash | None:
    """The settings of type ConsistentHash. A merge may leave them in a value of another type."""
    return spec.consistent_hash if spec.type == "ConsistentHash" else None


def _utilized(spec: LoadBalancer) -> BackendUtilization:
    return spec.backend_utilization or BackendUtilization()


def _check_hash(hashed: ConsistentHash) -> Iterator[Problem]:
    size = hashed.table_size
    if size is not None and not _is_prime(size):
        yield Problem("tableSize", f"tableSize is {size}; it must be a prime number, such as 65537.")
    # The CRD allows an empty name, but Envoy does not.
    named: dict[str, Header | Cookie | QueryParam | None] = {
        "header": hashed.header,
        **{f"headers[{index}]": header for index, header in enumerate(hashed.headers)},
        "cookie": hashed.cookie,
        **{f"queryParams[{index}]": parameter for index, parameter in enumerate(hashed.query_params)},
    }
    for path, entry in named.items():
        if entry is not None and not entry.name:
            yield Problem(f"{path}.name", "The name is empty; it must say what is hashed.")
        elif entry is not None and not isinstance(entry, QueryParam) and _BREAK.search(entry.name):
            yield Problem(f"{path}.name", _broken(entry.name))
    for name, value in hashed.cookie.attributes.items() if hashed.cookie is not None else ():
        if not name or _BREAK.search(name + value):
            message = f"The attribute {name!r} is {value!r}; neither may have line breaks, and it has a name."
            yield Problem("cookie.attributes", message)


def _broken(name: str) -> str:
    return f"The name is {name!r}; it must have no line breaks and no NUL."


def _check_zones(aware: ZoneAware) -> Iterator[Problem]:
    for n, each in enumerate(aware.weighted_zones):
        if each.weight < 1:
            yield Problem(
                f"weightedZones[{n}].weight",
                f"The weight is {each.weight}; it must be at least 1, as each zone gets a share.",
            )
    local = aware.prefer_local
    if local is None:
        return
    if local.min_endpoints_threshold is not None and local.min_endpoints_threshold < 0:
        message = f"It is {local.min_endpoints_threshold}; it must not be negative."
        yield Problem("preferLocal.minEndpointsThreshold", message)
    least = local.force.min_endpoints_in_zone_threshold if local.force is not None else None
    if least is not None and least < 0:
        message = f"It is {least}; it must not be negative."
        yield Problem("preferLocal.force.minEndpointsInZoneThreshold", message)


def _is_prime(number: int) -> bool:
    return number >= 2 and all(number % divisor for divisor in range(2, isqrt(number) + 1))


def _hash_policies(hashed: ConsistentHash) -> Iterator[HashPolicy]:
    match hashed.type:
        case "SourceIP":
            policy = HashPolicy()
            policy.connection_properties.source_ip = True
            yield policy
        case "Header" | "Headers":
            for header in hashed.headers if hashed.header is None else (hashed.header,):
                yield HashPolicy(header=HashPolicy.Header(header_name=header.name))
        case "Cookie":
            if hashed.cookie is not None:
                yield HashPolicy(cookie=_cookie(hashed.cookie))
        case "QueryParams":
            for parameter in hashed.query_params:
                yield HashPolicy(query_parameter=HashPolicy.QueryParameter(name=parameter.name))


def _cookie(cookie: Cookie) -> HashPolicy.Cookie:
    built = HashPolicy.Cookie(
        name=cookie.name,
        attributes=[
            HashPolicy.CookieAttribute(name=name, value=value)
            for name, value in sorted(cookie.attributes.items())
        ],
    )
    if cookie.ttl is not None:
        built.ttl.CopyFrom(duration(cookie.ttl))
    return built


def _policy(edit: ClusterEdit, spec: LoadBalancer) -> LoadBalancingPolicy:
    locality = by_zone(_local(edit, spec))
    match spec.type:
        case "ConsistentHash":
            maglev, hashed = Maglev(), _hashed(spec)
            if _weighs_localities(edit, spec):
                maglev.locality_weighted_lb_config.SetInParent()
            if hashed is not None and hashed.table_size is not None:
                maglev.table_size.value = hashed.table_size
            return _named("maglev", maglev)
        case "Random":
            return _named("random", Random(locality_lb_config=locality))
        case "RoundRobin":
            round_robin = RoundRobin(locality_lb_config=locality)
            _slow_start(round_robin, spec.slow_start)
            return _named("round_robin", round_robin)
        case "BackendUtilization":
            return _utilization(edit, spec)
        case "LeastRequest" | "DynamicModule":
            least_request = LeastRequest(locality_lb_config=locality)
            _slow_start(least_request, spec.slow_start)
            return _named("least_request", least_request)


def _local(edit: ClusterEdit, spec: LoadBalancer) -> PreferLocal | None:
    """What holds about the zone of the proxy. In a cluster of several backends localities are these."""
    if edit.backends > 1 or _weighs_zones(spec):
        return None
    own = spec.zone_aware.prefer_local if spec.zone_aware is not None else None
    return own if own is not None else edit.local


def _weighs_zones(spec: LoadBalancer) -> bool:
    return spec.zone_aware is not None and bool(spec.zone_aware.weighted_zones)


def _weighs_localities(edit: ClusterEdit, spec: LoadBalancer) -> bool:
    """Whether localities have shares: zones by the policy, or the backends of the cluster by their weights.

    The reference looks at zones only, and so loses the weights of backends with a hash, and by utilization.
    """
    return _weighs_zones(spec) or edit.backends > 1


def _utilization(edit: ClusterEdit, spec: LoadBalancer) -> LoadBalancingPolicy:
    built = weighted.ClientSideWeightedRoundRobin()
    settings = _utilized(spec)
    for target, period in (
        (built.blackout_period, settings.blackout_period),
        (built.weight_expiration_period, settings.weight_expiration_period),
        (built.weight_update_period, settings.weight_update_period),
    ):
        if period is not None and milliseconds(period) > 0:
            target.CopyFrom(duration(period))
    if spec.slow_start is not None and milliseconds(spec.slow_start.window) > 0:
        _slow_start(built, spec.slow_start)
    if settings.error_utilization_penalty_percent is not None:
        built.error_utilization_penalty.value = settings.error_utilization_penalty_percent / 100
    built.metric_names_for_computing_utilization.extend(settings.metric_names_for_computing_utilization)
    if settings.out_of_band is not None:
        _out_of_band(built, settings.out_of_band)
    policy = _named("client_side_weighted_round_robin", built)
    if not _weighs_localities(edit, spec):
        return policy
    # It knows no localities itself.
    return _named("wrr_locality", WrrLocality(endpoint_picking_policy=policy))


def _out_of_band(built: weighted.ClientSideWeightedRoundRobin, reporting: OutOfBandReporting) -> None:
    built.enable_oob_load_report.value = True
    if reporting.reporting_period is not None:
        built.oob_reporting_period.CopyFrom(duration(reporting.reporting_period))
    if reporting.port is not None or reporting.authority is not None:
        config = {"port_value": reporting.port, "authority": reporting.authority}
        set_later(built, oob_reporting_config=config)


def _slow_start(
    built: RoundRobin | LeastRequest | weighted.ClientSideWeightedRoundRobin, slow_start: SlowStart | None
) -> None:
    if slow_start is not None:
        built.slow_start_config.slow_start_window.CopyFrom(duration(slow_start.window))


def _override(edit: ClusterEdit, spec: LoadBalancer, override: EndpointOverride) -> LoadBalancingPolicy:
    bare: dict[LoadBalancerType, LoadBalancingPolicy] = {
        "ConsistentHash": _named("maglev", Maglev()),
        "LeastRequest": _named("least_request", LeastRequest()),
        "Random": _named("random", Random()),
        "RoundRobin": _named("round_robin", RoundRobin()),
        "BackendUtilization": _utilization(edit, spec),
    }
    built = OverrideHost(
        override_host_sources=[
            OverrideHost.OverrideHostSource(header=source.header or "") for source in override.extract_from
        ],
        # The bare ones, which the reference has, know no weights of backends.
        fallback_policy=_policy(edit, spec) if edit.backends > 1 else bare[spec.type],
    )
    return _named("override_host", built)


def _named(name: str, config: Message) -> LoadBalancingPolicy:
    return LoadBalancingPolicy(
        policies=[
            LoadBalancingPolicy.Policy(
                typed_extension_config=TypedExtensionConfig(
                    name=f"envoy.load_balancing_policies.{name}", typed_config=packed(config)
                )
            )
        ]
    )


FEATURE = Feature(
    kind="BackendTrafficPolicy",
    field="load_balancer",
    model=LoadBalancer,
    check=check,
    hints=hints,
    named_zones=named_zones,
    zones=zones,
    one_cluster=one_cluster,
    route=route,
    transports=("TCP", "UDP"),
    cluster=cluster,
    tcp_proxy=tcp_proxy,
)
