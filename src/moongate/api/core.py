"""The kinds of Kubernetes that a gateway reads: Namespace, Service, EndpointSlice, Secret, ConfigMap and
ClusterTrustBundle.

Real objects of these kinds have dozens of fields more. Those that we read are declared, and the names of the
others are in ``DROPPED``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Annotated, Any, ClassVar, Final, Literal, cast

from msgspec import Meta, field

from moongate.api.base import BuiltInStrings, Model, Resource, null_is
from moongate.api.shared import PortNumber
from moongate.problem import Problem


class BuiltInResource(Resource, frozen=True, kw_only=True):
    """Base of the kinds that belong to Kubernetes."""

    BUILT_IN: ClassVar[bool] = True


class Namespace(BuiltInResource, frozen=True, kw_only=True):
    """A namespace; its labels are what ``from: Selector`` looks at."""

    DROPPED: ClassVar[frozenset[str]] = frozenset({"spec"})
    KIND: ClassVar[str] = "Namespace"
    CLUSTER_SCOPED: ClassVar[bool] = True
    NAME_IS_LABEL: ClassVar[bool] = True


class ServicePort(Model, frozen=True, kw_only=True):
    """One port of a Service."""

    name: str = ""
    """May be "" only when the Service has one port."""
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    app_protocol: str | None = None
    port: PortNumber
    target_port: int | str | None = None
    """Number or name of the container's port; the same as ``port`` when absent."""
    node_port: Annotated[int, Meta(ge=0, le=65535)] | None = None


class ServiceSpec(Model, frozen=True, kw_only=True):
    """What a Service listens on and which pods are behind it."""

    DROPPED: ClassVar[frozenset[str]] = frozenset(
        {
            "allocateLoadBalancerNodePorts",
            "externalTrafficPolicy",
            "healthCheckNodePort",
            "ipFamily",  # until Kubernetes 1.19
            "loadBalancerClass",
            "loadBalancerIP",
            "loadBalancerSourceRanges",
            "sessionAffinity",
            "sessionAffinityConfig",
            "topologyKeys",  # until Kubernetes 1.21
        }
    )

    type: str = "ClusterIP"
    """``ClusterIP``, ``NodePort``, ``LoadBalancer`` or ``ExternalName``."""
    cluster_ip: str | None = field(default=None, name="clusterIP")
    """"None" for a headless Service."""
    cluster_ips: tuple[str, ...] = field(default=(), name="clusterIPs")
    ports: tuple[ServicePort, ...] = ()
    selector: BuiltInStrings = field(default_factory=dict[str, str])
    ip_families: tuple[str, ...] = ()
    ip_family_policy: str | None = None
    external_name: str | None = None
    external_ips: tuple[str, ...] = field(default=(), name="externalIPs")
    publish_not_ready_addresses: bool = False
    traffic_distribution: str | None = None
    internal_traffic_policy: str | None = None


class Service(BuiltInResource, frozen=True, kw_only=True):
    """A Service: a name and ports for a changing set of endpoints."""

    KIND: ClassVar[str] = "Service"
    NAME_IS_LABEL: ClassVar[bool] = True

    spec: ServiceSpec = ServiceSpec()


class EndpointConditions(Model, frozen=True, kw_only=True):
    """Whether an endpoint takes traffic; an absent ``ready`` means that it does."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForZone(Model, frozen=True, kw_only=True):
    """A zone whose clients should use the endpoint."""

    name: str


class EndpointHints(Model, frozen=True, kw_only=True):
    """Who should use an endpoint."""

    DROPPED: ClassVar[frozenset[str]] = frozenset({"forNodes"})

    for_zones: tuple[ForZone, ...] = ()


class Endpoint(Model, frozen=True, kw_only=True):
    """One backend of a Service: addresses that mean the same process."""

    DROPPED: ClassVar[frozenset[str]] = frozenset({"deprecatedTopology", "targetRef"})

    addresses: Annotated[tuple[str, ...], Meta(min_length=1, max_length=100)]
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: EndpointHints | None = None


class EndpointPort(Model, frozen=True, kw_only=True):
    """The port on each endpoint of a slice that a port of the Service leads to."""

    name: str = ""
    """Name of the Service's port."""
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    app_protocol: str | None = None


class EndpointSlice(BuiltInResource, frozen=True, kw_only=True):
    """Some of the endpoints behind a Service."""

    GROUP: ClassVar[str] = "discovery.k8s.io"
    KIND: ClassVar[str] = "EndpointSlice"

    address_type: Literal["IPv4", "IPv6", "FQDN"]
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()

    def refused(self, document: Mapping[str, Any]) -> Iterator[Problem]:
        """Addresses of another family, and names of ports that are none, or that stand twice.

        An API server refuses the addresses of this machine as well; on a laptop backends are there.
        """
        del document
        for n, endpoint in enumerate(self.endpoints):
            for m, address in enumerate(endpoint.addresses):
                if not _is_address(address, self.address_type):
                    message = f"{address!r} is not {_ADDRESSES[self.address_type]}, as addressType says."
                    yield Problem(f"endpoints[{n}].addresses[{m}]", message)
        names: dict[str, None] = {}
        for n, port in enumerate(self.ports):
            if port.name in names:
                again = f"is {port.name!r}, as of another port; each must be another"
                yield Problem(f"ports[{n}].name", f"The name {again}.")
            elif port.name and (len(port.name) > 63 or not _LABEL.match(port.name)):
                right = "it must have 1 to 63 characters of a-z, 0-9, '-', and begin and end with none of '-'"
                yield Problem(f"ports[{n}].name", f"The name is {port.name!r}; {right}.")
            names[port.name] = None

    @property
    def service(self) -> str | None:
        """Name of the Service, in the slice's namespace, that the endpoints belong to."""
        return self.metadata.labels.get("kubernetes.io/service-name")


_ADDRESSES: Final = {"IPv4": "an IPv4 address", "IPv6": "an IPv6 address", "FQDN": "the name of a host"}
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
_HOST = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")


def _is_address(address: str, kind: Literal["IPv4", "IPv6", "FQDN"]) -> bool:
    if kind == "FQDN":
        return len(address) <= 253 and _HOST.match(address) is not None
    try:
        # A zone has a meaning only on the machine that wrote it.
        return "%" not in address and f"IPv{ip_address(address).version}" == kind
    except ValueError:
        return False


_KEY = re.compile(r"[-._a-zA-Z0-9]+\Z")


def _odd_keys(document: Mapping[str, Any], *fields: str) -> Iterator[Problem]:
    """The keys of some fields that an API server refuses: each could be the name of a file."""
    for name in fields:
        entries: object = document.get(name)
        for key in cast("Mapping[str, Any]", entries) if isinstance(entries, Mapping) else ():
            if not _KEY.match(key) or len(key) > 253 or key == "." or key.startswith(".."):
                right = "1 to 253 letters, digits, '-', '_' and '.', and not begin with '..'"
                yield Problem(f"{name}[{key}]", f"The key is {key!r}; it must have {right}.")


ENCODED_TWICE = "is base64 still; write it as it is under stringData, or encode it only once under data"
"""The rest of a sentence about a value for which ``Secret.is_encoded_twice`` holds."""
_MOST_KEYS = 5
"""How many keys of a Secret a message names."""


class Secret(BuiltInResource, frozen=True, kw_only=True):
    """Certificates, keys, passwords."""

    KIND: ClassVar[str] = "Secret"
    PRIVATE: ClassVar[bool] = True
    DROPPED: ClassVar[frozenset[str]] = frozenset({"immutable"})

    type: str = "Opaque"
    data: Annotated[
        dict[str, Annotated[bytes, Meta(extra={"form": "plain text goes under stringData"})]],
        null_is(""),
    ] = field(default_factory=dict[str, bytes])
    """Decoded; base64 on the wire."""
    string_data: BuiltInStrings = field(default_factory=dict[str, str])
    """Empty in an admitted Secret: it is folded into ``data``."""

    def refused(self, document: Mapping[str, Any]) -> Iterator[Problem]:
        """Keys that could not be the names of files."""
        return _odd_keys(document, "data", "stringData")

    @property
    def listed_keys(self) -> str:
        """A sentence with its keys, to follow one about a key that is missing; "" without keys."""
        keys = ", ".join(map(repr, sorted(self.data)[:_MOST_KEYS]))
        return f" It has {keys}." if keys else ""

    def is_encoded_twice(self, key: str, word: bytes) -> bool:
        """Whether a value is base64 still, as where base64 was written under ``stringData``.

        Args:
            key: the key of the value.
            word: what the value has to hold, and holds when it is decoded once more.
        """
        data = self.data.get(key, b"")
        if word in data:
            return False
        try:
            return word in base64.b64decode(b"".join(data.split()), validate=True)
        except binascii.Error:
            return False

    def __repr__(self) -> str:
        """Names and keys, never values: it may end up in a log."""
        return (
            f"Secret({self.metadata.namespace}/{self.metadata.name}, {self.type}, keys={sorted(self.data)})"
        )

    def __rich_repr__(self) -> list[tuple[str, object]]:
        name = f"{self.metadata.namespace}/{self.metadata.name}"
        return [("name", name), ("type", self.type), ("keys", sorted(self.data))]

    @classmethod
    def stored(cls, document: dict[str, Any]) -> dict[str, Any]:
        """``stringData`` is folded into ``data``, over entries of the same key."""
        plain: object = document.get("stringData")
        data: object = document.get("data") or dict[str, object]()
        if not isinstance(plain, Mapping) or not isinstance(data, Mapping):
            return document  # its shape is judged later
        texts = {key: text or "" for key, text in cast("Mapping[str, Any]", plain).items()}
        if not all(isinstance(text, str) for text in texts.values()):
            return document  # so that its faults have their places
        coded = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
        rest = {key: value for key, value in document.items() if key != "stringData"}
        return rest | {"data": {**cast("Mapping[str, object]", data), **coded}}


class ConfigMap(BuiltInResource, frozen=True, kw_only=True):
    """Settings and CA certificates as text. Some people keep passwords in it, too, so it is ``PRIVATE``."""

    KIND: ClassVar[str] = "ConfigMap"
    PRIVATE: ClassVar[bool] = True
    DROPPED: ClassVar[frozenset[str]] = frozenset({"immutable"})

    data: BuiltInStrings = field(default_factory=dict[str, str])
    binary_data: Annotated[
        dict[str, Annotated[bytes, Meta(extra={"form": "plain text goes under data"})]], null_is("")
    ] = field(default_factory=dict[str, bytes])
    """Decoded; base64 on the wire."""

    def refused(self, document: Mapping[str, Any]) -> Iterator[Problem]:
        """Keys that could not be the names of files, or that stand in both fields."""
        yield from _odd_keys(document, "data", "binaryData")
        for key in sorted(self.data.keys() & self.binary_data.keys()):
            yield Problem(f"binaryData[{key}]", f"The key {key!r} stands in data, too; keep one of the two.")


class ClusterTrustBundleSpec(Model, frozen=True, kw_only=True):
    """Certificates of CAs, as PEM."""

    signer_name: str | None = None
    """Who signs with them; for those that the name begins with."""
    trust_bundle: str


class ClusterTrustBundle(BuiltInResource, frozen=True, kw_only=True):
    """CAs that a whole cluster may trust."""

    GROUP: ClassVar[str] = "certificates.k8s.io"
    VERSIONS: ClassVar[tuple[str, ...]] = ("v1beta1", "v1alpha1", "v1")
    KIND: ClassVar[str] = "ClusterTrustBundle"
    CLUSTER_SCOPED: ClassVar[bool] = True
    NAME_HAS_SIGNER: ClassVar[bool] = True

    spec: ClusterTrustBundleSpec
