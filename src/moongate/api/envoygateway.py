"""EnvoyGateway: the configuration of moongate itself, a file rather than a resource.

The names are Envoy Gateway's, so that a configuration that was written for it is read as it is.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta, field, structs

from moongate.api.base import ENVOY_GROUP, DurationStr, Model, Rule, Unbuilt
from moongate.api.envoyproxy import EnvoyProxySpec, MergeBackends
from moongate.api.shared import SecretObjectReference

CONTROLLER_NAME = "gateway.envoyproxy.io/gatewayclass-controller"
"""The controller that a GatewayClass must name unless the configuration says otherwise."""

OWN_SERVICE_TIMEOUT: Final = "1s"
"""How long a request waits for the rate limit service of a laptop, unless the configuration says it.

When it is over, the request passes uncounted. Envoy's 20 ms are for a machine that does nothing else: under
2,000 requests a second, with all else on the same two busy cores, one of a hundred takes 250 ms.
"""

RuntimeFlag = Literal[
    "XDSNameSchemeV2",
    "EndpointSliceIndex",
    "PerResourceSystemCASecret",
    "StableFilterChains",  # ours: HTTP filters stand in every chain, and routes switch them on
    "MetadataWhereRead",  # ours: xDS objects say which resource they come from only where that is read
    "ScopedTables",  # ours: each hostname has a route table of its own
    "ScopedLargeTables",  # ours: the same, for listeners with hundreds of hostnames
    "DynamicResolverLocalAddresses",  # ours: clients may name hosts at addresses of the proxy's own machine
    "MisdirectedRequests",  # ours: 421 on a connection that was opened for another listener
    "EndpointsByTLS",  # ours: endpoints with TLS come under a name that tells how it is spoken
    "DrainOnClientCAs",  # ours: connections of clients drain when the CAs change that they were checked by
]
LASTING_FLAGS: Final[tuple[RuntimeFlag, ...]] = ("XDSNameSchemeV2", "StableFilterChains")
"""Flags that hold from the start of a process to its end.

They say under which names listeners and filters are. Connections that are open keep the listener and the
filters by which they came; a route that configures a filter by another name would find none there, and let
everybody pass. The other flags change no name that is built: ``MetadataWhereRead`` changes metadata, which no
filter that asks who calls looks at.
"""
LogLevel = Literal["debug", "info", "warn", "error"]
LogComponent = Literal[
    "default",
    "provider",
    "gateway-api",
    "xds-translator",
    "xds-server",
    "xds",
    "infrastructure",
    "global-ratelimit",
]


class GatewayController(Model, frozen=True, kw_only=True):
    """Which GatewayClasses are ours."""

    controller_name: Annotated[str, Meta(min_length=1)] = CONTROLLER_NAME


class FileResourceProvider(Model, frozen=True, kw_only=True):
    """Files and folders (not the folders within) with manifests; they are watched."""

    paths: Annotated[tuple[str, ...], Meta(min_length=1)]


class ResourceProvider(Model, frozen=True, kw_only=True):
    """Where resources come from."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type == 'File' ? has(self.file) : !has(self.file)",
            "type File, and only it, needs file.paths.",
        ),
    )

    type: Literal["File", "Kubernetes"]
    file: FileResourceProvider | None = None
    kubernetes: Unbuilt | None = None


class HostInfrastructure(Model, frozen=True, kw_only=True):
    """Envoy as a process on this host; where its files are."""

    config_home: str | None = None
    data_home: str | None = None
    state_home: str | None = None
    runtime_dir: str | None = None


class InfrastructureProvider(Model, frozen=True, kw_only=True):
    """What proxies run on."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("self.type == 'Host' ? has(self.host) : !has(self.host)", "type Host, and only it, needs host."),
        Rule("self.type == 'Remote' ? has(self.remote) : true", "type Remote needs remote."),
    )

    type: Literal["Host", "Remote"]
    host: HostInfrastructure | None = None
    remote: Unbuilt | None = None


class CustomProvider(Model, frozen=True, kw_only=True):
    """Resources and proxies outside of a cluster; without infrastructure, others run the proxies."""

    resource: ResourceProvider
    infrastructure: InfrastructureProvider | None = None


class Provider(Model, frozen=True, kw_only=True):
    """Where resources come from and what proxies run on."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("self.type == 'Custom' ? has(self.custom) : true", "type Custom needs custom."),
    )

    type: Literal["Kubernetes", "Custom"]
    kubernetes: Unbuilt | None = None
    custom: CustomProvider | None = None


class Logging(Model, frozen=True, kw_only=True):
    """How much moongate logs, by component, and in which form."""

    level: dict[LogComponent, LogLevel] = field(default_factory=lambda: {"default": "info"})
    encoder: Literal["Text", "JSON"] = "Text"


class ExtensionAPIs(Model, frozen=True, kw_only=True):
    """Kinds and fields that are off unless turned on."""

    enable_envoy_patch_policy: bool = False
    enable_backend: bool = False
    enable_sds_secret_ref: bool = field(default=False, name="enableSDSSecretRef")
    enable_lua: bool = False
    disable_lua: bool | None = None
    """Deprecated form of ``enableLua``."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.disableLua) || self.disableLua != self.enableLua",
            "disableLua and enableLua contradict each other; remove disableLua.",
        ),
    )


class RuntimeFlags(Model, frozen=True, kw_only=True):
    """Switches of behaviour; what is in both lists is off."""

    enabled: tuple[RuntimeFlag, ...] = ()
    disabled: tuple[RuntimeFlag, ...] = ()

    def on(self, flag: RuntimeFlag) -> bool:
        """Whether the flag is on: as listed, else as it is by default."""
        return flag not in self.disabled and (flag in self.enabled or flag == "EndpointSliceIndex")

    def without(self, *flags: RuntimeFlag) -> RuntimeFlags:
        """The same with some flags off."""
        return structs.replace(self, disabled=(*self.disabled, *flags))

    def lasting(self, before: RuntimeFlags) -> tuple[RuntimeFlags, tuple[RuntimeFlag, ...]]:
        """The flags that hold in a process that began with others, and those that wait for its next start."""
        late: tuple[RuntimeFlag, ...] = tuple(
            flag for flag in LASTING_FLAGS if self.on(flag) != before.on(flag)
        )
        if not late:
            return self, ()
        enabled: tuple[RuntimeFlag, ...] = tuple(
            flag for flag in (*self.enabled, *late) if flag not in late or before.on(flag)
        )
        disabled: tuple[RuntimeFlag, ...] = tuple(
            flag for flag in (*self.disabled, *late) if flag not in late or not before.on(flag)
        )
        return RuntimeFlags(enabled=enabled, disabled=disabled), late


class RedisTLS(Model, frozen=True, kw_only=True):
    """The certificate that Redis is shown."""

    certificate_ref: SecretObjectReference | None = None


class SecretKeyRef(Model, frozen=True, kw_only=True):
    """One value of a Secret in the namespace of the configuration."""

    name: str
    key: str
    optional: bool = False


class RedisURLRef(Model, frozen=True, kw_only=True):
    """Where the address of Redis stands, so that it need not stand in the configuration."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.secretKeyRef.optional) || !self.secretKeyRef.optional",
            "secretKeyRef.optional must not be true: without the Secret nobody knows where to count.",
        ),
    )

    secret_key_ref: SecretKeyRef


class RateLimitRedis(Model, frozen=True, kw_only=True):
    """The Redis that counts; several addresses are separated by commas."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("has(self.url) != has(self.urlRef)", "Set exactly one of url and urlRef."),
    )

    url: str | None = None
    url_ref: RedisURLRef | None = None
    tls: RedisTLS | None = None


class RateLimitBackend(Model, frozen=True, kw_only=True):
    """What counts requests: Redis, or (ours) moongate's own service, in memory."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("self.type == 'Redis' ? has(self.redis) : true", "type Redis needs redis."),
    )

    type: Literal["Redis", "Memory"]
    redis: RateLimitRedis | None = None


class RateLimit(Model, frozen=True, kw_only=True):
    """Global rate limits."""

    backend: RateLimitBackend
    timeout: DurationStr | None = None
    """20 ms when absent, or 1 s for the service of a laptop."""
    fail_closed: bool = False
    """Whether a request is refused when the rate limit service does not answer."""
    telemetry: Unbuilt | None = None
    """Metrics and spans of the service that Envoy Gateway deploys in Kubernetes; ours has none."""


class EnvoyGateway(Model, frozen=True, kw_only=True):
    """The whole configuration; an empty one is Envoy Gateway's own default."""

    GROUP: ClassVar[str] = ENVOY_GROUP
    VERSION: ClassVar[str] = "v1alpha1"
    KIND: ClassVar[str] = "EnvoyGateway"

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.extensionManager) && has(self.extensionManagers))",
            "Set extensionManager or extensionManagers, not both.",
        ),
    )

    gateway: GatewayController = GatewayController()
    provider: Provider = Provider(type="Kubernetes")
    logging: Logging = Logging()
    extension_apis: ExtensionAPIs = ExtensionAPIs()
    runtime_flags: RuntimeFlags = RuntimeFlags()
    envoy_proxy: EnvoyProxySpec | None = None
    """The settings below those of Gateways and GatewayClasses."""
    rate_limit: RateLimit | None = None
    admin: Unbuilt | None = None
    telemetry: Unbuilt | None = None
    xds_server: Unbuilt | None = None
    extension_manager: Unbuilt | None = None
    extension_managers: Unbuilt | None = None
    gateway_api: Unbuilt | None = field(default=None, name="gatewayAPI")

    @classmethod
    def shipped(cls) -> EnvoyGateway:
        """The configuration for a laptop: manifests from files, Envoy as a child process, shared clusters.

        The path of the manifests is a placeholder, "."; the command line says which it is.
        """
        return cls(
            provider=Provider(
                type="Custom",
                custom=CustomProvider(
                    resource=ResourceProvider(type="File", file=FileResourceProvider(paths=(".",))),
                    infrastructure=InfrastructureProvider(type="Host", host=HostInfrastructure()),
                ),
            ),
            extension_apis=ExtensionAPIs(enable_backend=True, enable_envoy_patch_policy=True),
            runtime_flags=RuntimeFlags(
                enabled=(
                    "StableFilterChains",
                    "MetadataWhereRead",
                    "ScopedLargeTables",
                    "MisdirectedRequests",
                    "EndpointsByTLS",
                    "DrainOnClientCAs",
                )
            ),
            envoy_proxy=EnvoyProxySpec(merge_backends=MergeBackends()),
            rate_limit=RateLimit(backend=RateLimitBackend(type="Memory"), timeout=OWN_SERVICE_TIMEOUT),
        )

    def on_host(self) -> EnvoyGateway:
        """The configuration with the provider of a laptop, whatever the provider it was written for."""
        return structs.replace(self, provider=EnvoyGateway.shipped().provider)
