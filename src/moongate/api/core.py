"""The core kinds that a gateway reads: Namespace, Service, EndpointSlice, Secret, ConfigMap.

Real objects of these kinds have dozens of fields more; those that we read are declared, the rest is dropped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, cast

from msgspec import Meta, field

from moongate.api.base import Model, Resource
from moongate.api.shared import PortNumber


class Loose(Model, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Base of objects that others define: what we do not declare is dropped."""


class LooseResource(Resource, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Base of kinds that others define: what we do not declare is dropped."""


class Namespace(LooseResource, frozen=True, kw_only=True):
    """A namespace; its labels are what ``from: Selector`` looks at."""

    KIND: ClassVar[str] = "Namespace"
    CLUSTER_SCOPED: ClassVar[bool] = True
    NAME_IS_LABEL: ClassVar[bool] = True


class ServicePort(Loose, frozen=True, kw_only=True):
    """One port of a Service."""

    name: str = ""
    """May be "" only when the Service has one port."""
    protocol: str = "TCP"
    """``TCP``, ``UDP`` or ``SCTP``."""
    app_protocol: str | None = None
    port: PortNumber
    target_port: int | str | None = None
    """Number or name of the container's port; the same as ``port`` when absent."""
    node_port: Annotated[int, Meta(ge=0, le=65535)] | None = None


class ServiceSpec(Loose, frozen=True, kw_only=True):
    """What a Service listens on and which pods are behind it."""

    type: str = "ClusterIP"
    """``ClusterIP``, ``NodePort``, ``LoadBalancer`` or ``ExternalName``."""
    cluster_ip: str | None = field(default=None, name="clusterIP")
    """"None" for a headless Service."""
    cluster_ips: tuple[str, ...] = field(default=(), name="clusterIPs")
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = field(default_factory=dict[str, str])
    ip_families: tuple[str, ...] = ()
    ip_family_policy: str | None = None
    external_name: str | None = None
    external_ips: tuple[str, ...] = field(default=(), name="externalIPs")
    publish_not_ready_addresses: bool = False
    traffic_distribution: str | None = None
    internal_traffic_policy: str | None = None


class Service(LooseResource, frozen=True, kw_only=True):
    """A Service: a name and ports for a changing set of endpoints."""

    KIND: ClassVar[str] = "Service"
    NAME_IS_LABEL: ClassVar[bool] = True

    spec: ServiceSpec = ServiceSpec()


class EndpointConditions(Loose, frozen=True, kw_only=True):
    """Whether an endpoint takes traffic; an absent ``ready`` means that it does."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ForZone(Loose, frozen=True, kw_only=True):
    """A zone whose clients should use the endpoint."""

    name: str


class EndpointHints(Loose, frozen=True, kw_only=True):
    """Who should use an endpoint."""

    for_zones: tuple[ForZone, ...] = ()


class Endpoint(Loose, frozen=True, kw_only=True):
    """One backend of a Service: addresses that mean the same process."""

    addresses: Annotated[tuple[str, ...], Meta(min_length=1, max_length=100)]
    conditions: EndpointConditions = EndpointConditions()
    hostname: str | None = None
    node_name: str | None = None
    zone: str | None = None
    hints: EndpointHints | None = None


class EndpointPort(Loose, frozen=True, kw_only=True):
    """The port on each endpoint of a slice that a port of the Service leads to."""

    name: str = ""
    """Name of the Service's port."""
    protocol: str = "TCP"
    port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    app_protocol: str | None = None


class EndpointSlice(LooseResource, frozen=True, kw_only=True):
    """Some of the endpoints behind a Service."""

    GROUP: ClassVar[str] = "discovery.k8s.io"
    KIND: ClassVar[str] = "EndpointSlice"

    address_type: str
    """``IPv4``, ``IPv6`` or ``FQDN``."""
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()

    @property
    def service(self) -> str | None:
        """Name of the Service, in the slice's namespace, that the endpoints belong to."""
        return self.metadata.labels.get("kubernetes.io/service-name")


class Secret(LooseResource, frozen=True, kw_only=True):
    """Certificates, keys, passwords."""

    KIND: ClassVar[str] = "Secret"
    PRIVATE: ClassVar[str] = "data"

    type: str = "Opaque"
    data: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Decoded; base64 on the wire."""

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
        plain = document.get("stringData")
        if not isinstance(plain, Mapping):
            return document
        coded = {
            key: base64.b64encode(value.encode()).decode() if isinstance(value, str) else value
            for key, value in cast("Mapping[str, object]", plain).items()
        }
        rest = {key: value for key, value in document.items() if key != "stringData"}
        data = document.get("data")
        if data is not None and not isinstance(data, Mapping):
            return rest  # its shape is judged later
        return rest | {"data": {**cast("Mapping[str, object]", data or {}), **coded}}


class ConfigMap(LooseResource, frozen=True, kw_only=True):
    """Settings and CA certificates as text."""

    KIND: ClassVar[str] = "ConfigMap"

    data: dict[str, str] = field(default_factory=dict[str, str])
    binary_data: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Decoded; base64 on the wire."""
