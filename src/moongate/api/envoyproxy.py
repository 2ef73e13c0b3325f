"""EnvoyProxy: what the proxies of a Gateway or GatewayClass are like."""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import field

from moongate.api.base import ENVOY_GROUP, DurationStr, Model, Resource, Rule, Unbuilt
from moongate.api.envoypatchpolicy import JSONPatchOperation
from moongate.api.policy import MergeType
from moongate.api.shared import Int32, LabelSelector
from moongate.api.telemetry import ProxyTelemetry
from moongate.api.tls import BackendTLSConfig

EnvoyFilter = Literal[
    "envoy.filters.http.custom_response",
    "envoy.filters.http.health_check",
    "envoy.filters.http.fault",
    "envoy.filters.http.cors",
    "envoy.filters.http.csrf",
    "envoy.filters.http.header_mutation",
    "envoy.filters.http.ext_authz",
    "envoy.filters.http.api_key_auth",
    "envoy.filters.http.basic_auth",
    "envoy.filters.http.oauth2",
    "envoy.filters.http.jwt_authn",
    "envoy.filters.http.stateful_session",
    "envoy.filters.http.buffer",
    "envoy.filters.http.lua",
    "envoy.filters.http.ext_proc",
    "envoy.filters.http.wasm",
    "envoy.filters.http.dynamic_modules",
    "envoy.filters.http.geoip",
    "envoy.filters.http.rbac",
    "envoy.filters.http.local_ratelimit",
    "envoy.filters.http.ratelimit",
    "envoy.filters.http.bandwidth_limit",
    "envoy.filters.http.grpc_web",
    "envoy.filters.http.grpc_stats",
    "envoy.filters.http.credential_injector",
    "envoy.filters.http.compressor",
    "envoy.filters.http.dynamic_forward_proxy",
]
"""HTTP filters whose place a user may change."""


class FilterPosition(Model, frozen=True, kw_only=True):
    """A filter is moved before, or after, another."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.before) || has(self.after))",
            "A filter is moved by one of before or after.",
        ),
        Rule(
            "(has(self.before) && !has(self.after)) || (!has(self.before) && has(self.after))",
            "A filter is moved by before or after, not by both.",
        ),
    )

    name: EnvoyFilter
    before: EnvoyFilter | None = None
    after: EnvoyFilter | None = None


class MergeBackends(Model, frozen=True, kw_only=True):
    """One cluster for each backend instead of one for each rule: for backends with these labels, or all."""

    selector: LabelSelector | None = None


LOG_COMPONENTS = frozenset(
    {
        *("default", "a2a", "admin", "ai_protocol_manager", "alternate_protocols_cache", "assert", "aws"),
        *("backtrace", "basic_auth", "cache_filter", "client", "compression", "config", "conn_handler"),
        *("connection", "credential_injector", "decompression", "dns", "dubbo", "dynamic_modules"),
        *("envoy_bug", "ext_authz", "ext_proc", "file", "filter", "forward_proxy", "geolocation", "golang"),
        *("grpc", "happy_eyeballs", "hc", "health_checker", "http", "http2", "hystrix", "init", "io"),
        *("ip_tagging", "json_rpc", "jwt", "kafka", "key_value_store", "local_rate_limit", "lua", "main"),
        *("matcher", "mcp", "misc", "mongo", "multi_connection", "notification", "oauth2", "pool", "quic"),
        *("quic_stream", "rate_limit_quota", "rbac", "rds", "redis", "rocketmq", "router", "runtime"),
        *("secret", "sse", "stats", "stats_sinks", "tap", "testing", "thrift", "tracing", "udp", "upstream"),
        *("wasm", "websocket"),
    }
)
"""What logs in Envoy; ``default`` is all of them. An Envoy that is given another does not start."""

ProxyLogLevel = Literal["trace", "debug", "info", "warn", "error", "off", "critical"]


class ProxyLogging(Model, frozen=True, kw_only=True):
    """How much Envoy logs, by component."""

    level: dict[str, ProxyLogLevel] = field(default_factory=lambda: {"default": "warn"})


class ShutdownConfig(Model, frozen=True, kw_only=True):
    """How a proxy lets go of its connections when it stops."""

    drain_timeout: DurationStr | None = None
    """60 s when absent."""
    min_drain_duration: DurationStr | None = None
    """10 s when absent."""
    health_check_failure_delay: DurationStr | None = None


class KubernetesProvider(Model, frozen=True, kw_only=True):
    """The objects in a cluster that proxies run as."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "((has(self.envoyDeployment) && !has(self.envoyDaemonSet)) || "
            "(!has(self.envoyDeployment) && has(self.envoyDaemonSet))) || "
            "(!has(self.envoyDeployment) && !has(self.envoyDaemonSet))",
            "Proxies run as a Deployment or as a DaemonSet: set envoyDeployment or envoyDaemonSet, not both.",
        ),
        Rule(
            "((has(self.envoyHpa) && !has(self.envoyDaemonSet)) || (!has(self.envoyHpa) "
            "&& has(self.envoyDaemonSet))) || (!has(self.envoyHpa) && "
            "!has(self.envoyDaemonSet))",
            "A DaemonSet is not scaled: remove envoyHpa or envoyDaemonSet.",
        ),
    )

    use_listener_port_as_container_port: bool | None = None
    """Envoy then listens on the listener's own port; else 10000 is added to ports below 1024."""
    envoy_deployment: Unbuilt | None = None
    envoy_daemon_set: Unbuilt | None = None
    envoy_service: Unbuilt | None = None
    envoy_service_account: Unbuilt | None = None
    envoy_hpa: Unbuilt | None = None
    envoy_pdb: Unbuilt | None = field(default=None, name="envoyPDB")


class HostProvider(Model, frozen=True, kw_only=True):
    """Envoy as a process on this host."""

    envoy_version: Unbuilt | None = None


class EnvoyProxyProvider(Model, frozen=True, kw_only=True):
    """What proxies run on."""

    type: Literal["Kubernetes", "Host"]
    kubernetes: KubernetesProvider | None = None
    host: HostProvider | None = None


class ProxyBootstrap(Model, frozen=True, kw_only=True):
    """Changes of what Envoy is started with. The field that ``type`` needs holds them."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type == 'JSONPatch' ? self.jsonPatches.size() > 0 : has(self.value)",
            "type JSONPatch needs jsonPatches, and the others need value.",
        ),
    )

    type: Literal["Merge", "Replace", "JSONPatch"] = "Replace"
    value: str | None = None
    """A bootstrap in YAML, with protobuf's names: all of it, or what is merged into moongate's own."""
    json_patches: tuple[JSONPatchOperation, ...] = ()
    """Applied one after another."""


class EnvoyProxySpec(Model, frozen=True, kw_only=True):
    """Settings of proxies."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.luaValidation) || !has(self.lua)",
            "luaValidation is the deprecated form of lua; set one of them.",
        ),
        Rule(
            "!(has(self.mergeGateways) && self.mergeGateways && has(self.mergeBackends))",
            "mergeGateways and mergeBackends exclude each other.",
        ),
    )

    provider: EnvoyProxyProvider | None = None
    logging: ProxyLogging = ProxyLogging()
    telemetry: ProxyTelemetry | None = None
    concurrency: Int32 | None = None
    """Worker threads of Envoy; one for each CPU when absent."""
    extra_args: tuple[str, ...] = ()
    """Appended to Envoy's command line."""
    routing_type: str | None = None
    """``Endpoint`` (the default) sends to pods, ``Service`` to the cluster IP."""
    merge_backends: MergeBackends | None = None
    merge_gateways: bool | None = None
    """All Gateways of a class share their Envoys; read from the class's EnvoyProxy or the configuration."""
    shutdown: ShutdownConfig | None = None
    filter_order: tuple[FilterPosition, ...] = ()
    ip_family: Literal["IPv4", "IPv6", "DualStack"] | None = None
    preserve_route_order: bool | None = None
    """Rules stay in the order of the HTTPRoute instead of Gateway API's precedence."""
    merge_type: MergeType | None = None
    bootstrap: ProxyBootstrap | None = None
    backend_tls: BackendTLSConfig | None = field(default=None, name="backendTLS")
    """How TLS is spoken to backends that have it; it turns TLS on for none."""
    lua: Unbuilt | None = None
    lua_validation: Unbuilt | None = None
    dynamic_modules: Unbuilt | None = None
    geo_ip: Unbuilt | None = field(default=None, name="geoIP")


class EnvoyProxy(Resource, frozen=True, kw_only=True):
    """Settings of proxies, that a Gateway or GatewayClass refers to."""

    GROUP: ClassVar[str] = ENVOY_GROUP
    VERSIONS: ClassVar[tuple[str, ...]] = ("v1alpha1",)
    KIND: ClassVar[str] = "EnvoyProxy"

    spec: EnvoyProxySpec
