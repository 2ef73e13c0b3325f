"""ServiceImport: a Service that other clusters of a cluster set share with this one (KEP-1645)."""

from __future__ import annotations

from typing import ClassVar

from moongate.api.base import Model
from moongate.api.core import BuiltInResource
from moongate.api.shared import PortNumber

MULTICLUSTER_GROUP = "multicluster.x-k8s.io"


class ServiceImportPort(Model, frozen=True, kw_only=True):
    """One port of a ServiceImport."""

    name: str = ""
    """May be "" only when there is one port."""
    protocol: str = "TCP"
    app_protocol: str | None = None
    port: PortNumber


class ServiceImportSpec(Model, frozen=True, kw_only=True):
    """What a ServiceImport listens on."""

    DROPPED: ClassVar[frozenset[str]] = frozenset(
        {
            "internalTrafficPolicy",
            "ipFamilies",
            "sessionAffinity",
            "sessionAffinityConfig",
            "trafficDistribution",
        }
    )

    ports: tuple[ServiceImportPort, ...] = ()
    ips: tuple[str, ...] = ()
    """Its virtual addresses, one per family; none for a headless one."""
    type: str = ""
    """``ClusterSetIP`` or ``Headless``."""


class ServiceImport(BuiltInResource, frozen=True, kw_only=True):
    """A Service of the cluster set; its endpoints are in EndpointSlices with a label that names it."""

    GROUP: ClassVar[str] = MULTICLUSTER_GROUP
    VERSIONS: ClassVar[tuple[str, ...]] = ("v1alpha1",)
    KIND: ClassVar[str] = "ServiceImport"
    NAME_IS_LABEL: ClassVar[bool] = True

    spec: ServiceImportSpec = ServiceImportSpec()
