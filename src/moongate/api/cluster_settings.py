"""Settings of clusters, which a BackendTrafficPolicy has for routes and an EnvoyProxy for its own backends.

In what merges, ``None`` stands for the CRD's default, so that a merge can tell what somebody said.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta, field

from moongate.api.base import DurationStr, Model, Rule, form, unique_by
from moongate.api.connections import HTTP2Settings, Size, TCPKeepalive
from moongate.api.health_checks import HealthCheck
from moongate.api.shared import Fraction, Int32, PortNumber

LoadBalancerType = Literal[
    "ConsistentHash", "LeastRequest", "Random", "RoundRobin", "BackendUtilization", "DynamicModule"
]


class Header(Model, frozen=True, kw_only=True):
    """A request header."""

    name: str


class QueryParam(Model, frozen=True, kw_only=True):
    """A query parameter."""

    name: str


class Cookie(Model, frozen=True, kw_only=True):
    """A cookie. With a ``ttl``, the gateway sets it when a request has none."""

    name: str
    ttl: DurationStr | None = None
    attributes: dict[str, str] = field(default_factory=dict[str, str])


class ConsistentHash(Model, frozen=True, kw_only=True):
    """Requests with the same hash go to the same endpoint, as long as it exists."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type == 'Header' ? has(self.header) : !has(self.header)",
            "header must be set if type is Header, and only then.",
        ),
        Rule(
            "self.type == 'Headers' ? has(self.headers) : !has(self.headers)",
            "headers must be set if type is Headers, and only then.",
        ),
        Rule(
            "self.type == 'Cookie' ? has(self.cookie) : !has(self.cookie)",
            "cookie must be set if type is Cookie, and only then.",
        ),
        Rule(
            "self.type == 'QueryParams' ? has(self.queryParams) : !has(self.queryParams)",
            "queryParams must be set if type is QueryParams, and only then.",
        ),
    )

    type: Literal["SourceIP", "Header", "Headers", "Cookie", "QueryParams"]
    header: Header | None = None
    """Deprecated: ``headers`` with one entry says the same."""
    headers: tuple[Header, ...] = ()
    cookie: Cookie | None = None
    query_params: tuple[QueryParam, ...] = ()
    # The CRD has the same default as Envoy. With None instead, a merge can see whether a policy sets the
    # field.
    table_size: Annotated[int, Meta(ge=2, le=5_000_011)] | None = None
    """Entries of the Maglev table; a prime number, 65537 when absent."""


class OutOfBandReporting(Model, frozen=True, kw_only=True):
    """Ask endpoints for their load, instead of reading it from responses."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "reporting_period": (
            Rule(
                "duration(self) > duration('0s')",
                "reportingPeriod must be greater than zero.",
            ),
        ),
    }

    reporting_period: DurationStr | None = None
    """10s when absent."""
    port: PortNumber | None = None
    """The port that is asked; that of the endpoint when absent."""
    authority: (
        Annotated[
            str,
            form("^[^\\x00\\n\\r]*$", "one line without a NUL, such as 'load.example.com'", low=1, high=259),
        ]
        | None
    ) = None
    """The authority of the calls; Envoy's own choice when absent."""


class BackendUtilization(Model, frozen=True, kw_only=True):
    """The weight of an endpoint depends on its reported load (ORCA): a less busy one gets more requests."""

    blackout_period: DurationStr | None = None
    """The reports of a new endpoint are ignored for this time; 10s when absent."""
    weight_expiration_period: DurationStr | None = None
    """A report expires after this time; 3m when absent."""
    weight_update_period: DurationStr | None = None
    """How often weights are computed; 1s when absent."""
    error_utilization_penalty_percent: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    """How much errors increase the utilization; 100 is a factor of 1."""
    metric_names_for_computing_utilization: tuple[str, ...] = ()
    keep_response_headers: bool | None = None
    """Whether clients get the load headers of backends; by default not."""
    out_of_band: OutOfBandReporting | None = None


class EndpointOverrideExtractFrom(Model, frozen=True, kw_only=True):
    """The part of a request with its endpoint."""

    header: str | None = None
    """The name of a header with ``IP:port``, or with several of them separated by commas, tried in order."""


class EndpointOverride(Model, frozen=True, kw_only=True):
    """A request may choose its endpoint. If it does not, the load balancer chooses."""

    extract_from: Annotated[tuple[EndpointOverrideExtractFrom, ...], Meta(min_length=1, max_length=10)]


class SlowStart(Model, frozen=True, kw_only=True):
    """The share of a new endpoint grows during ``window``."""

    window: DurationStr


class ForceLocal(Model, frozen=True, kw_only=True):
    """All requests stay in the zone of the proxy, if it has enough endpoints there."""

    min_endpoints_in_zone_threshold: Int32 | None = None
    """How many are enough; 1 when absent."""


class PreferLocal(Model, frozen=True, kw_only=True):
    """Requests stay in the zone of the proxy, as far as its endpoints can take them."""

    min_endpoints_threshold: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    """With fewer endpoints in all zones together, zones are not looked at; 6 when absent."""
    percentage_enabled: Annotated[int, Meta(ge=0, le=100)] | None = None
    """The percentage of requests for which zones are looked at; 100 when absent."""
    force: ForceLocal | None = None


class WeightedZone(Model, frozen=True, kw_only=True):
    """The share of a zone, whatever the number of its endpoints is."""

    zone: str
    weight: Int32


class ZoneAware(Model, frozen=True, kw_only=True):
    """Which zones requests go to."""

    prefer_local: PreferLocal | None = None
    weighted_zones: Annotated[tuple[WeightedZone, ...], unique_by("zone")] = ()
    """The weight of a zone that is not named is 1."""


class DynamicModule(Model, frozen=True, kw_only=True):
    """A load balancer of a dynamic module; not built, here as in Envoy Gateway."""

    name: Annotated[
        str,
        form(
            "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
            "lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit",
            low=1,
            high=253,
        ),
    ]
    lb_policy_name: Annotated[str, Meta(min_length=1, max_length=253)]
    config: Any = None


class LoadBalancer(Model, frozen=True, kw_only=True):
    """How endpoints are chosen. The field with the name of the ``type`` has its settings."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type == 'ConsistentHash' ? has(self.consistentHash) : !has(self.consistentHash)",
            "consistentHash must be set if type is ConsistentHash, and only then.",
        ),
        Rule(
            "self.type == 'BackendUtilization' ? has(self.backendUtilization) : "
            "!has(self.backendUtilization)",
            "backendUtilization must be set if type is BackendUtilization, and only then.",
        ),
        Rule(
            "self.type == 'DynamicModule' ? has(self.dynamicModule) : !has(self.dynamicModule)",
            "dynamicModule must be set if type is DynamicModule, and only then.",
        ),
        Rule(
            "self.type in ['Random', 'ConsistentHash', 'DynamicModule'] ? !has(self.slowStart) : true",
            "slowStart is for the types RoundRobin, LeastRequest and BackendUtilization.",
        ),
        Rule(
            "self.type == 'ConsistentHash' && has(self.zoneAware) ? !has(self.zoneAware.preferLocal) : true",
            "zoneAware.preferLocal is not for type ConsistentHash; weightedZones is.",
        ),
        Rule(
            "self.type == 'BackendUtilization' && has(self.zoneAware) ? "
            "!has(self.zoneAware.preferLocal) : true",
            "zoneAware.preferLocal is not for type BackendUtilization; weightedZones is.",
        ),
        Rule(
            "self.type == 'DynamicModule' ? !has(self.zoneAware) : true",
            "zoneAware is not for type DynamicModule.",
        ),
        Rule(
            "has(self.zoneAware) ? !(has(self.zoneAware.preferLocal) && "
            "has(self.zoneAware.weightedZones)) : true",
            "Set zoneAware.preferLocal or zoneAware.weightedZones, not both.",
        ),
        Rule(
            "self.type == 'DynamicModule' ? !has(self.endpointOverride) : true",
            "endpointOverride is not for type DynamicModule.",
        ),
    )

    type: LoadBalancerType
    consistent_hash: ConsistentHash | None = None
    backend_utilization: BackendUtilization | None = None
    dynamic_module: DynamicModule | None = None
    """Envoy Gateway does not build it either: endpoints are chosen in the same way as without a policy."""
    endpoint_override: EndpointOverride | None = None
    slow_start: SlowStart | None = None
    zone_aware: ZoneAware | None = None


Limit = Annotated[int, Meta(ge=0, le=2**32 - 1)]


class PerEndpointCircuitBreakers(Model, frozen=True, kw_only=True):
    """Limits of each endpoint."""

    # As in CircuitBreaker, None stands for the default, so that a merge can tell what a policy said.
    max_connections: Limit | None = None
    """1024 when absent."""


class RetryBudget(Model, frozen=True, kw_only=True):
    """Retries as a share of the requests in flight; takes the place of ``maxParallelRetries``."""

    percent: Fraction
    min_retry_concurrency: Int32 | None = None
    """Retries that are always allowed; 3 when absent."""


class CircuitBreaker(Model, frozen=True, kw_only=True):
    """Limits of each cluster, of each Envoy."""

    # 1024 is Envoy's own default of these four, and the CRD's. None stands for it, so that a merge can tell
    # what a policy said.
    max_connections: Limit | None = None
    """1024 when absent."""
    max_pending_requests: Limit | None = None
    """1024 when absent."""
    max_parallel_requests: Limit | None = None
    """1024 when absent."""
    max_parallel_retries: Limit | None = None
    """1024 when absent."""
    max_requests_per_connection: Limit | None = None
    """Requests after which a connection is closed; unlimited when absent."""
    per_endpoint: PerEndpointCircuitBreakers | None = None
    retry_budget: RetryBudget | None = None


Trigger = Literal[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
]
"""Conditions of Envoy's ``x-envoy-retry-on`` and ``x-envoy-retry-grpc-on``."""


class RetryOn(Model, frozen=True, kw_only=True):
    """What counts as a failure. When it is set, only the listed status codes are retried."""

    triggers: tuple[Trigger, ...] = ()
    http_status_codes: tuple[Annotated[int, Meta(ge=100, le=599)], ...] = ()


class BackOffPolicy(Model, frozen=True, kw_only=True):
    """The pause before a try: about ``baseInterval`` at first, then growing up to ``maxInterval``."""

    base_interval: DurationStr | None = None
    """25ms when absent."""
    max_interval: DurationStr | None = None
    """Ten times ``baseInterval`` when absent."""


class PerRetryPolicy(Model, frozen=True, kw_only=True):
    """Settings of each try."""

    timeout: DurationStr | None = None
    back_off: BackOffPolicy | None = None


class Retry(Model, frozen=True, kw_only=True):
    """When and how often a request is tried again."""

    # The CRD's default is also what is built for None; so a merge can tell whether a policy said it.
    num_retries: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    """2 when absent."""
    num_attempts_per_priority: Int32 | None = None
    """Tries after which endpoints of another priority have a turn; unlimited when absent or 0."""
    retry_on: RetryOn | None = None
    per_retry: PerRetryPolicy | None = None


class TCPTimeout(Model, frozen=True, kw_only=True):
    """Timeouts of connections to the backend."""

    connect_timeout: DurationStr | None = None
    """The limit for establishing a connection; 10s when absent."""


class HTTPTimeout(Model, frozen=True, kw_only=True):
    """Timeouts of HTTP requests, and of the connections that carry them."""

    connection_idle_timeout: DurationStr | None = None
    """Upstream connections without a request are closed after this; one hour when absent."""
    max_connection_duration: DurationStr | None = None
    """Upstream connections are drained after this; never when absent."""
    request_timeout: DurationStr | None = None
    """The limit for the whole response; 15s when absent, unlimited if "0s"."""
    max_stream_duration: DurationStr | None = None
    """The limit for a request even if data flows; unlimited when absent or "0s"."""
    stream_idle_timeout: DurationStr | None = None
    """How long a request may be idle; the timeout of the listener when absent."""


class Timeout(Model, frozen=True, kw_only=True):
    """Timeouts of requests to backends."""

    tcp: TCPTimeout | None = None
    http: HTTPTimeout | None = None


class ProxyProtocol(Model, frozen=True, kw_only=True):
    """The header that tells the address of a client: ``V1`` is text, ``V2`` binary."""

    version: Literal["V1", "V2"]


class Preconnect(Model, frozen=True, kw_only=True):
    """Connections that are opened before there are requests for them."""

    per_endpoint_percent: Annotated[int, Meta(ge=100, le=300)] | None = None
    """Connections to an endpoint, in percent of what its requests need; 100, which is none before, when
    absent."""
    predictive_percent: Annotated[int, Meta(ge=100, le=2**31 - 1)] | None = None
    """As ``perEndpointPercent``, to the endpoints that will have the next requests."""


class BackendConnection(Model, frozen=True, kw_only=True):
    """Connections to backends."""

    buffer_limit: Size | None = None
    """Bytes that are buffered for each connection; 32Ki when absent."""
    socket_buffer_limit: Size | None = None
    """Has no effect, as in Envoy Gateway."""
    preconnect: Preconnect | None = None


class DNS(Model, frozen=True, kw_only=True):
    """Lookups of hostnames."""

    dns_refresh_rate: DurationStr | None = None
    """How often a name is looked up, unless its time to live says otherwise; 30s when absent."""
    respect_dns_ttl: bool | None = None
    """Whether a name is looked up again when its time to live is over; true when absent."""
    lookup_family: Literal["IPv4", "IPv6", "IPv4Preferred", "IPv6Preferred", "IPv4AndIPv6"] | None = None
    """``IPv4Preferred`` when absent."""


PREDICTED_BY_TURNS: Final = Rule(
    "!((has(self.connection) && has(self.connection.preconnect) && "
    "has(self.connection.preconnect.predictivePercent)) && !(has(self.loadBalancer) && "
    "has(self.loadBalancer.type) && self.loadBalancer.type in ['Random', 'RoundRobin']))",
    "connection.preconnect.predictivePercent needs loadBalancer.type RoundRobin or Random.",
)


class ClusterSettings(Model, frozen=True, kw_only=True):
    """How a cluster treats its backends."""

    RULES: ClassVar[tuple[Rule, ...]] = (PREDICTED_BY_TURNS,)

    load_balancer: LoadBalancer | None = None
    retry: Retry | None = None
    """Of no effect for sinks: what is reported is not sent again, as in the reference."""
    proxy_protocol: ProxyProtocol | None = None
    tcp_keepalive: TCPKeepalive | None = None
    health_check: HealthCheck | None = None
    circuit_breaker: CircuitBreaker | None = None
    timeout: Timeout | None = None
    connection: BackendConnection | None = None
    dns: DNS | None = None
    http2: HTTP2Settings | None = None
