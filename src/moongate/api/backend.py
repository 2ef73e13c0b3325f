"""Backend: endpoints outside of Kubernetes, by DNS name, IP address or Unix socket."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from moongate.api.base import ENVOY_GROUP, Model, Resource, Rule, form
from moongate.api.shared import LocalObjectReference, PreciseHostname
from moongate.api.tls import BackendTLSConfig, WellKnownCACertificates

_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"({_BYTE}\.){{3}}{_BYTE}"
_WORD = "[0-9a-fA-F]{1,4}"
_IPV6 = "|".join(
    (
        rf"({_WORD}:){{7}}{_WORD}",
        rf"({_WORD}:){{6}}{_IPV4}",
        # The double colon stands for two words or more, behind as many words as there are.
        *(rf"({_WORD}:){{{n}}}(:{_WORD}){{1,{7 - n}}}" if n else rf":(:{_WORD}){{1,7}}" for n in range(7)),
        rf"({_WORD}:){{1,7}}:",
        "::",
        *(
            rf"({_WORD}:){{{n}}}(:{_WORD}){{0,{5 - n}}}:{_IPV4}" if n else rf":(:{_WORD}){{0,5}}:{_IPV4}"
            for n in range(6)
        ),
    )
)

EndpointPortNumber = Annotated[int, Meta(ge=0, le=65535)]


class FQDNEndpoint(Model, frozen=True, kw_only=True):
    """A host that is looked up in DNS, and its port."""

    hostname: Annotated[
        str,
        form(
            r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\.?$",
            "a DNS name in lower case, such as 'shop.example.com', without scheme, port or path",
            low=1,
            high=253,
        ),
    ]
    port: EndpointPortNumber


class IPEndpoint(Model, frozen=True, kw_only=True):
    """An IPv4 or IPv6 address and its port."""

    address: Annotated[
        str,
        form(
            # The pattern of the CRD refuses '::1', and takes '010.0.0.1', which Envoy refuses.
            rf"^({_IPV4}|{_IPV6})$",
            "an IPv4 or IPv6 address, such as '127.0.0.1' or '::1', without brackets, zone or leading zeros; "
            "a name goes under fqdn, as its hostname",
            low=3,
            high=45,
        ),
    ]
    port: EndpointPortNumber


class UnixSocket(Model, frozen=True, kw_only=True):
    """A Unix domain socket on the proxy's host."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "path": (
            Rule(
                "size(self) <= 108",
                "The path of a Unix domain socket has at most 108 characters.",
            ),
        ),
    }

    path: str


class BackendEndpoint(Model, frozen=True, kw_only=True):
    """One endpoint, said in exactly one way."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.fqdn) || has(self.ip) || has(self.unix))",
            "An endpoint needs one of fqdn, ip or unix.",
        ),
        Rule(
            "((has(self.fqdn) && !(has(self.ip) || has(self.unix))) || (has(self.ip) && "
            "!(has(self.fqdn) || has(self.unix))) || (has(self.unix) && !(has(self.ip) "
            "|| has(self.fqdn))))",
            "An endpoint has exactly one of fqdn, ip or unix.",
        ),
    )

    fqdn: FQDNEndpoint | None = None
    ip: IPEndpoint | None = None
    unix: UnixSocket | None = None
    hostname: PreciseHostname | None = None
    """Host name of an endpoint that is given by address."""
    zone: str | None = None


class BackendTLSSettings(BackendTLSConfig, frozen=True, kw_only=True):
    """TLS to the backend: what its certificate must be, and how TLS is spoken."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.caCertificateRefs) && size(self.caCertificateRefs) > 0 && "
            'has(self.wellKnownCACertificates) && self.wellKnownCACertificates != "")',
            "Set caCertificateRefs or wellKnownCACertificates, not both.",
        ),
        Rule(
            "!((has(self.insecureSkipVerify) && self.insecureSkipVerify) && "
            "((has(self.caCertificateRefs) && size(self.caCertificateRefs) > 0) || "
            '(has(self.wellKnownCACertificates) && self.wellKnownCACertificates != "")))',
            "insecureSkipVerify checks no certificate, so there must be no caCertificateRefs and no "
            "wellKnownCACertificates.",
        ),
        Rule(
            "!(has(self.sni) && has(self.autoSNIFromEndpointHostname) && self.autoSNIFromEndpointHostname)",
            "Set sni or autoSNIFromEndpointHostname, not both.",
        ),
    )

    ca_certificate_refs: Annotated[tuple[LocalObjectReference, ...], Meta(max_length=8)] = field(
        default=(), name="caCertificateRefs"
    )
    well_known_ca_certificates: WellKnownCACertificates | None = field(
        default=None, name="wellKnownCACertificates"
    )
    insecure_skip_verify: bool = False
    """Any certificate will do, so that anybody on the way may read and change requests."""
    sni: PreciseHostname | None = None
    """The server name that is sent, and that the certificate must be for."""
    auto_sni_from_endpoint_hostname: bool | None = field(default=None, name="autoSNIFromEndpointHostname")
    """The server name is that of the endpoint which a request goes to."""


class BackendSpec(Model, frozen=True, kw_only=True):
    """Where the backend's endpoints are, and what they speak."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type != 'DynamicResolver' || !has(self.endpoints)",
            "A Backend of type DynamicResolver takes its address from the request; remove endpoints.",
        ),
        Rule(
            "self.type != 'DynamicResolver' || !has(self.tls) || "
            "!(has(self.tls.autoSNIFromEndpointHostname) && "
            "self.tls.autoSNIFromEndpointHostname)",
            "A Backend of type DynamicResolver has no endpoints for tls.autoSNIFromEndpointHostname.",
        ),
        Rule(
            "!has(self.tls) || !(has(self.tls.autoSNIFromEndpointHostname) && "
            "self.tls.autoSNIFromEndpointHostname) || self.endpoints.all(e, (!has(e.ip) "
            "&& !has(e.unix)) || has(e.hostname))",
            "With tls.autoSNIFromEndpointHostname, each ip and unix endpoint needs a hostname.",
        ),
    )
    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "endpoints": (
            Rule(
                "self.all(f, has(f.fqdn)) || !self.exists(f, has(f.fqdn))",
                "fqdn endpoints cannot stand beside ip or unix endpoints; make two Backends of them.",
            ),
        ),
    }

    type: Literal["Endpoints", "DynamicResolver"] = "Endpoints"
    endpoints: Annotated[tuple[BackendEndpoint, ...], Meta(min_length=1, max_length=256)] = ()
    app_protocols: tuple[
        Literal["gateway.envoyproxy.io/h2c", "gateway.envoyproxy.io/ws", "gateway.envoyproxy.io/wss"], ...
    ] = ()
    fallback: bool | None = None
    """Used only when the other backends of the rule are unhealthy."""
    tls: BackendTLSSettings | None = None
    """Requests go by TLS."""


class Backend(Resource, frozen=True, kw_only=True):
    """A backend that is not a Service."""

    GROUP: ClassVar[str] = ENVOY_GROUP
    VERSIONS: ClassVar[tuple[str, ...]] = ("v1alpha1",)
    KIND: ClassVar[str] = "Backend"

    spec: BackendSpec
