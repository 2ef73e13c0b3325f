"""Where traffic comes in: GatewayClass and Gateway; and ReferenceGrant, by which namespaces share objects."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from msgspec import Meta, field

from moongate.api.base import GATEWAY_GROUP, Model, Resource, Rule, form, unique_by
from moongate.api.shared import (
    ControllerName,
    Group,
    Hostname,
    Kind,
    LabelSelector,
    LocalObjectReference,
    Name,
    NamespaceName,
    ObjectReference,
    ParametersReference,
    PortNumber,
    SecretObjectReference,
    SectionName,
)

AnnotationValue = Annotated[str, Meta(min_length=0, max_length=4096)]
LabelValue = Annotated[
    str,
    form(
        r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$",
        "letters, digits, '-', '_' and '.', beginning and ending with a letter or digit",
        low=0,
        high=63,
    ),
]


class GatewayClassSpec(Model, frozen=True, kw_only=True):
    """Which controller serves the class, and with what parameters (an EnvoyProxy)."""

    controller_name: ControllerName
    parameters_ref: ParametersReference | None = None
    description: Annotated[str, Meta(max_length=64)] | None = None


class GatewayClass(Resource, frozen=True, kw_only=True):
    """A kind of gateway that users may ask for."""

    GROUP: ClassVar[str] = GATEWAY_GROUP
    VERSIONS: ClassVar[tuple[str, ...]] = ("v1", "v1beta1")
    KIND: ClassVar[str] = "GatewayClass"
    CLUSTER_SCOPED: ClassVar[bool] = True

    spec: GatewayClassSpec


class RouteGroupKind(Model, frozen=True, kw_only=True):
    """A kind of route that a listener takes."""

    group: Group = GATEWAY_GROUP
    kind: Kind


class RouteNamespaces(Model, frozen=True, kw_only=True):
    """Namespaces whose routes may attach."""

    from_: Literal["All", "Selector", "Same"] = field(default="Same", name="from")
    selector: LabelSelector | None = None


class AllowedRoutes(Model, frozen=True, kw_only=True):
    """Which routes may attach to a listener; no kinds means those that its protocol suggests."""

    namespaces: RouteNamespaces = RouteNamespaces()
    kinds: Annotated[tuple[RouteGroupKind, ...], Meta(max_length=8)] = ()


class ListenerTLSConfig(Model, frozen=True, kw_only=True):
    """How a listener ends, or passes on, TLS."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.mode == 'Terminate' ? size(self.certificateRefs) > 0 || size(self.options) > 0 : true",
            "mode Terminate needs a certificate: set certificateRefs (or options).",
        ),
    )

    mode: Literal["Terminate", "Passthrough"] = "Terminate"
    certificate_refs: Annotated[tuple[SecretObjectReference, ...], Meta(max_length=64)] = ()
    options: Annotated[dict[str, AnnotationValue], Meta(max_length=16)] = field(
        default_factory=dict[str, AnnotationValue]
    )


class Listener(Model, frozen=True, kw_only=True):
    """One port, protocol and hostname that a Gateway answers on; it or a ListenerSet has it in its spec."""

    name: SectionName
    hostname: Hostname | None = None
    port: PortNumber
    protocol: Annotated[
        str,
        form(
            (
                r"^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9"
                r"]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9]+$"
            ),
            "one of HTTP, HTTPS, TLS, TCP and UDP",
            low=1,
            high=255,
        ),
    ]
    tls: ListenerTLSConfig | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()


class GatewaySpecAddress(Model, frozen=True, kw_only=True):
    """An address that is asked for."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type == 'Hostname' ? (!has(self.value) || "
            r'self.value.matches(r"""^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9'
            ']([-a-z0-9]*[a-z0-9])?)*$""")): true',
            "A value of type Hostname must be a DNS name, in lower case; its first label may be '*'.",
        ),
        # The CRD says this one as a format of ``value``, not in CEL.
        Rule(
            "self.type == 'IPAddress' && has(self.value) ? isIP(self.value) : true",
            "A value of type IPAddress must be an IPv4 or IPv6 address.",
        ),
    )

    type: Annotated[
        str,
        form(
            (
                r"^Hostname|IPAddress|NamedAddress|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0"
                r"-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$"
            ),
            "IPAddress or Hostname",
            low=1,
            high=253,
        ),
    ] = "IPAddress"
    value: Annotated[str, Meta(max_length=253)] | None = None


class GatewayInfrastructure(Model, frozen=True, kw_only=True):
    """Labels and annotations of what is made for a Gateway, and its parameters (an EnvoyProxy)."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "labels": (
            Rule(
                "self.all(key, "
                r'key.matches(r"""^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*['
                'a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$"""))',
                "A label's key is a name of at most 63 characters, with an optional DNS prefix and '/'.",
            ),
            Rule(
                'self.all(key, key.split("/")[0].size() < 253)',
                "The DNS prefix of a label's key must have fewer than 253 characters.",
            ),
        ),
        "annotations": (
            Rule(
                "self.all(key, "
                r'key.matches(r"""^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*['
                'a-z0-9])?)*/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$"""))',
                "The key of an annotation is a name of up to 63 characters, after an optional DNS prefix.",
            ),
            Rule(
                'self.all(key, key.split("/")[0].size() < 253)',
                "The DNS prefix of an annotation's key must have fewer than 253 characters.",
            ),
        ),
    }

    labels: Annotated[dict[str, LabelValue], Meta(max_length=8)] = field(
        default_factory=dict[str, LabelValue]
    )
    annotations: Annotated[dict[str, AnnotationValue], Meta(max_length=16)] = field(
        default_factory=dict[str, AnnotationValue]
    )
    parameters_ref: LocalObjectReference | None = None


class ListenerNamespaces(Model, frozen=True, kw_only=True):
    """Namespaces whose ListenerSets may add listeners."""

    from_: Literal["All", "Selector", "Same", "None"] = field(default="None", name="from")
    selector: LabelSelector | None = None


class AllowedListeners(Model, frozen=True, kw_only=True):
    """Which ListenerSets may add listeners to a Gateway."""

    namespaces: ListenerNamespaces = ListenerNamespaces()


class FrontendTLSValidation(Model, frozen=True, kw_only=True):
    """How certificates of clients are checked."""

    ca_certificate_refs: Annotated[tuple[ObjectReference, ...], Meta(min_length=1, max_length=16)] = field(
        name="caCertificateRefs"
    )
    mode: Literal["AllowValidOnly", "AllowInsecureFallback"] = "AllowValidOnly"


class TLSConfig(Model, frozen=True, kw_only=True):
    """What holds for clients that speak TLS."""

    validation: FrontendTLSValidation | None = None


class TLSPortConfig(Model, frozen=True, kw_only=True):
    """The same for one port, in place of the default."""

    port: PortNumber
    tls: TLSConfig


class FrontendTLSConfig(Model, frozen=True, kw_only=True):
    """TLS towards clients, for all HTTPS listeners and by port."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "per_port": (
            Rule("self.all(t1, self.exists_one(t2, t1.port == t2.port))", "Two entries have the same port."),
        ),
    }

    default: TLSConfig
    per_port: Annotated[tuple[TLSPortConfig, ...], Meta(max_length=64), unique_by("port")] = ()


class GatewayBackendTLS(Model, frozen=True, kw_only=True):
    """TLS towards backends: the certificate that the gateway shows them."""

    client_certificate_ref: SecretObjectReference | None = None


class GatewayTLSConfig(Model, frozen=True, kw_only=True):
    """TLS settings of a whole Gateway."""

    backend: GatewayBackendTLS | None = None
    frontend: FrontendTLSConfig | None = None


LISTENER_RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "self.all(l, l.protocol in ['HTTP', 'TCP', 'UDP'] ? !has(l.tls) : true)",
        "A listener of protocol HTTP, TCP or UDP must not have tls.",
    ),
    Rule(
        "self.all(l, (l.protocol == 'HTTPS' && has(l.tls)) ? (l.tls.mode == '' "
        "|| l.tls.mode == 'Terminate') : true)",
        "tls.mode of an HTTPS listener must be Terminate.",
    ),
    Rule(
        "self.all(l, (l.protocol == 'TLS' ? has(l.tls) && has(l.tls.mode) && l.tls.mode != '' : true))",
        "A listener of protocol TLS needs tls with a mode.",
    ),
    Rule(
        "self.all(l, l.protocol in ['TCP', 'UDP'] ? (!has(l.hostname) || l.hostname == '') : true)",
        "A listener of protocol TCP or UDP must not have a hostname.",
    ),
    Rule(
        "self.all(l1, self.exists_one(l2, l1.name == l2.name))",
        "Two listeners have the same name.",
    ),
)
"""What holds for the listeners of a Gateway and for those of a ListenerSet."""


class GatewaySpec(Model, frozen=True, kw_only=True):
    """Listeners of a Gateway, and what it runs on."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "listeners": (
            *LISTENER_RULES,
            Rule(
                "self.all(l1, self.exists_one(l2, l1.port == l2.port && l1.protocol == "
                "l2.protocol && (has(l1.hostname) && has(l2.hostname) ? l1.hostname == "
                "l2.hostname : !has(l1.hostname) && !has(l2.hostname))))",
                "Two listeners have the same port, protocol and hostname.",
            ),
        ),
        "addresses": (
            Rule(
                "self.all(a1, a1.type == 'IPAddress' && has(a1.value) ? "
                "self.exists_one(a2, a2.type == a1.type && has(a2.value) && a2.value == "
                "a1.value) : true )",
                "Two addresses of type IPAddress have the same value.",
            ),
            Rule(
                "self.all(a1, a1.type == 'Hostname' && has(a1.value) ? "
                "self.exists_one(a2, a2.type == a1.type && has(a2.value) && a2.value == "
                "a1.value) : true )",
                "Two addresses of type Hostname have the same value.",
            ),
        ),
    }

    gateway_class_name: Name
    listeners: Annotated[tuple[Listener, ...], Meta(min_length=1, max_length=64), unique_by("name")]
    addresses: Annotated[tuple[GatewaySpecAddress, ...], Meta(max_length=16)] = ()
    infrastructure: GatewayInfrastructure | None = None
    allowed_listeners: AllowedListeners | None = None
    tls: GatewayTLSConfig | None = None
    default_scope: Literal["All", "None"] | None = None


class Gateway(Resource, frozen=True, kw_only=True):
    """A gateway: listeners that routes attach to."""

    GROUP: ClassVar[str] = GATEWAY_GROUP
    VERSIONS: ClassVar[tuple[str, ...]] = ("v1", "v1beta1")
    KIND: ClassVar[str] = "Gateway"

    spec: GatewaySpec


class ReferenceGrantFrom(Model, frozen=True, kw_only=True):
    """Whose references are trusted."""

    group: Group
    kind: Kind
    namespace: NamespaceName


class ReferenceGrantTo(Model, frozen=True, kw_only=True):
    """What may be referred to, in the grant's namespace; without a name, all of the kind."""

    group: Group
    kind: Kind
    name: Name | None = None


class ReferenceGrantSpec(Model, frozen=True, kw_only=True):
    """Each of ``from`` may refer to each of ``to``."""

    from_: Annotated[tuple[ReferenceGrantFrom, ...], Meta(min_length=1, max_length=16)] = field(name="from")
    to: Annotated[tuple[ReferenceGrantTo, ...], Meta(min_length=1, max_length=16)]


class ReferenceGrant(Resource, frozen=True, kw_only=True):
    """Permission to use objects of this namespace from others."""

    GROUP: ClassVar[str] = GATEWAY_GROUP
    VERSIONS: ClassVar[tuple[str, ...]] = ("v1", "v1beta1", "v1alpha2")
    KIND: ClassVar[str] = "ReferenceGrant"

    spec: ReferenceGrantSpec
