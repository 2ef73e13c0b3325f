"""Types that many kinds share: names, ports, references to other objects, label selectors, quantities."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from msgspec import Meta, field

from moongate.api.base import GATEWAY_GROUP, Model, Rule, form

if TYPE_CHECKING:
    from collections.abc import Mapping

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"

_NAME_OF = "lower-case letters, digits and '-', beginning and ending with a letter or digit"
_DNS_NAME = "a DNS name in lower case, such as 'shop.example.com', without scheme, port or path"

Group = Annotated[
    str,
    form(
        rf"^$|^{_SUBDOMAIN}$",
        "an API group without version, such as 'gateway.envoyproxy.io', or '' for the core group",
        high=253,
    ),
]
"""API group; "" is the core group."""
Kind = Annotated[
    str,
    form(r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$", "a kind, such as 'Service' or 'Backend'", low=1, high=63),
]
Name = Annotated[str, Meta(min_length=1, max_length=253)]
"""Name of an object in the API."""
NamespaceName = Annotated[str, form(rf"^{_LABEL}$", f"a namespace's name: {_NAME_OF}", low=1, high=63)]
SectionName = Annotated[str, form(rf"^{_SUBDOMAIN}$", f"a name: {_NAME_OF}", low=1, high=253)]
"""Name of a listener or a route rule."""
Hostname = Annotated[
    str,
    form(rf"^(\*\.)?{_SUBDOMAIN}$", f"{_DNS_NAME}, or '*.example.com'; none means any", low=1, high=253),
]
"""DNS name whose first label may be ``*``."""
PreciseHostname = Annotated[str, form(rf"^{_SUBDOMAIN}$", _DNS_NAME, low=1, high=253)]
ControllerName = Annotated[
    str,
    form(
        rf"^{_SUBDOMAIN}\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$",
        "a DNS name and a path, such as 'gateway.envoyproxy.io/gatewayclass-controller'",
        low=1,
        high=253,
    ),
]


def origin(pattern: str) -> Meta:
    """Annotation of an origin, as browsers say it; the CRDs differ in their patterns."""
    return form(
        pattern,
        "an origin: scheme and host, such as 'https://shop.example.com' or 'https://*.example.com:8443', "
        "without a path; or '*'",
        low=1,
        high=253,
    )


PortNumber = Annotated[int, Meta(ge=1, le=65535)]
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
HeaderName = Annotated[
    str,
    form(
        r"^[A-Za-z0-9!#$%&'*+\-.^_\x60|~]+$",
        "a name of letters, digits, '-' and what else HTTP allows in names, such as 'x-user'",
        low=1,
        high=256,
    ),
]
HeaderValue = Annotated[
    str,
    form(
        # The strings that the CRD's pattern matches, in a form that takes linear time in Python as well.
        r"^[!-~]+([\t ][!-~]+)*$",
        "printable ASCII characters, with single blanks between them and none at the ends",
        low=1,
        high=4096,
    ),
]
FRAMING_HEADERS: Final = frozenset({"content-length", "transfer-encoding"})
"""Headers that say where a message ends: with a wrong one, a part of it is taken for the next message."""
CONNECTION_HEADERS: Final = FRAMING_HEADERS | frozenset(
    {
        "connection",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
    }
)
"""Headers that say how and where to a request is sent: no place for a value of another meaning."""
CIDR = Annotated[
    str,
    form(
        (
            r"((25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)\.(25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"
            r"\.(25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)\.(25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"
            r"\/([0-9]+))|((([0-9a-fA-F]{1,4}:){7,7}[0-9a-fA-F]{1,4}|([0-9a-fA-F]{1,4}:){1,7}:"
            r"|([0-9a-fA-F]{1,4}:){1,6}:[0-9a-fA-F]{1,4}|([0-9a-fA-F]{1,4}:){1,5}(:[0-9a-fA-F]"
            r"{1,4}){1,2}|([0-9a-fA-F]{1,4}:){1,4}(:[0-9a-fA-F]{1,4}){1,3}|([0-9a-fA-F]{1,4}:)"
            r"{1,3}(:[0-9a-fA-F]{1,4}){1,4}|([0-9a-fA-F]{1,4}:){1,2}(:[0-9a-fA-F]{1,4}){1,5}|["
            r"0-9a-fA-F]{1,4}:((:[0-9a-fA-F]{1,4}){1,6})|:((:[0-9a-fA-F]{1,4}){1,7}|:)|fe80:(:"
            r"[0-9a-fA-F]{0,4}){0,4}%[0-9a-zA-Z]{1,}|::(ffff(:0{1,4}){0,1}:){0,1}((25[0-5]|(2["
            r"0-4]|1{0,1}[0-9]){0,1}[0-9])\.){3,3}(25[0-5]|(2[0-4]|1{0,1}[0-9]){0,1}[0-9])|([0"
            r"-9a-fA-F]{1,4}:){1,4}:((25[0-5]|(2[0-4]|1{0,1}[0-9]){0,1}[0-9])\.){3,3}(25[0-5]|"
            r"(2[0-4]|1{0,1}[0-9]){0,1}[0-9]))\/([0-9]+))"
        ),
        "a block of IPv4 or IPv6 addresses with the length of its prefix, such as '10.0.0.0/8'",
    ),
]
"""Address block of IPv4 or IPv6, "10.0.0.0/8"."""

Quantity = (
    Annotated[
        str,
        form(
            (
                r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?((["
                r"0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
            ),
            "a quantity: a number, perhaps with a unit, such as '32Ki', '500m' or 10",
        ),
    ]
    | int
)
"""Kubernetes quantity, "32Ki", "500m", or a whole number."""

_SUFFIXES: Mapping[str, Decimal] = {
    "": Decimal(1),
    **{
        suffix: Decimal(10) ** power
        for suffix, power in zip("numkMGTPE", (-9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)
    },
    **{f"{suffix}i": Decimal(1024) ** power for power, suffix in enumerate("KMGTPE", start=1)},
}
_QUANTITY = re.compile(r"([+-]?[0-9.]+)(?:[eE]([+-]?[0-9]+)|([KMGTPE]i|[numkMGTPE]|))\Z")


_MOST = Decimal(2**63 - 1)


def quantity(value: str | int) -> int:
    """Size of a quantity in whole units, a fraction rounded up, and no more than 63 bits, as Kubernetes does.

    >>> quantity("32Ki")
    32768
    >>> quantity("1500m")
    2

    Args:
        value: matches ``Quantity``.

    Raises:
        ValueError: it does not.

    Source:
        Kubernetes, "Resource units"; apimachinery ``resource.Quantity.Value``.
    """
    if isinstance(value, int):
        return max(min(value, int(_MOST)), -int(_MOST))
    parts = _QUANTITY.match(value)
    number, power, suffix = parts.groups(default="") if parts is not None else ("", "", "")
    try:
        exponent = min(max(Decimal(power or 0), Decimal(-999)), Decimal(999))
        exact = Decimal(number).scaleb(exponent) * _SUFFIXES[suffix]
    except InvalidOperation:
        raise ValueError(f"{value!r} is not a quantity such as '32Ki', '500m' or '10'.") from None
    if abs(exact) > _MOST:
        return int(_MOST.copy_sign(exact))
    whole = int(exact)
    return whole + (exact > whole)


class Fraction(Model, frozen=True, kw_only=True):
    """A share of something, ``numerator`` of ``denominator``."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.numerator <= self.denominator",
            "The numerator is greater than the denominator; a fraction is at most 1.",
        ),
    )

    numerator: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    denominator: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 100


class StringMatch(Model, frozen=True, kw_only=True):
    """How a string is compared; a regular expression is RE2 and must match the whole string."""

    type: Literal["Exact", "Prefix", "Suffix", "RegularExpression"] = "Exact"
    value: Annotated[str, Meta(min_length=1, max_length=1024)]


class LabelSelectorRequirement(Model, frozen=True, kw_only=True):
    """One expression over labels. No CRD checks the operator: an unknown one selects nothing."""

    key: str
    operator: str
    """``In``, ``NotIn``, ``Exists`` or ``DoesNotExist``."""
    values: tuple[str, ...] = ()

    def selects(self, labels: Mapping[str, str]) -> bool:
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels
            case _:
                return False


class LabelSelector(Model, frozen=True, kw_only=True):
    """Labels that an object must have: all that is said, so that an empty selector selects all."""

    ATOMIC: ClassVar[bool] = True

    match_labels: dict[str, str] = field(default_factory=dict[str, str])
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()

    def selects(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            requirement.selects(labels) for requirement in self.match_expressions
        )


class LocalObjectReference(Model, frozen=True, kw_only=True):
    """An object in the same namespace."""

    group: Group
    kind: Kind
    name: Name


class ParametersReference(LocalObjectReference, frozen=True, kw_only=True):
    """An object that configures a GatewayClass: without a namespace when its kind is cluster-scoped."""

    namespace: NamespaceName | None = None


class ObjectReference(LocalObjectReference, frozen=True, kw_only=True):
    """An object, perhaps of another namespace (which a ReferenceGrant must then allow)."""

    namespace: NamespaceName | None = None


class SecretObjectReference(Model, frozen=True, kw_only=True):
    """A Secret, or what stands for one."""

    NAMES_SECRET: ClassVar[bool] = True

    group: Group = ""
    kind: Kind = "Secret"
    name: Name
    namespace: NamespaceName | None = None


class BackendObjectReference(Model, frozen=True, kw_only=True):
    """What answers requests: a Service by default, or a kind such as Backend."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(size(self.group) == 0 && self.kind == 'Service') ? has(self.port) : true",
            "A reference to a Service needs a port; if a Backend is meant, say its group and kind.",
        ),
    )

    group: Group = ""
    kind: Kind = "Service"
    name: Name
    namespace: NamespaceName | None = None
    port: PortNumber | None = None


class BackendRef(BackendObjectReference, frozen=True, kw_only=True):
    """A backend as Envoy Gateway's own kinds name it: weighted, and perhaps only for when others fail."""

    weight: Annotated[int, Meta(ge=0, le=1_000_000)] = 1
    fallback: bool | None = None


class ParentReference(Model, frozen=True, kw_only=True):
    """What a route attaches to: a Gateway (or ListenerSet), narrowed by section name and port."""

    group: Group = GATEWAY_GROUP
    kind: Kind = "Gateway"
    name: Name
    namespace: NamespaceName | None = None
    section_name: SectionName | None = None
    port: PortNumber | None = None
