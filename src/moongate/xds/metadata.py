"""``filter_metadata["envoy-gateway"]``: which resource an xDS object stands for, for access logs to show.

Envoy reads it again with each table that changes, and of a table of thousands it is most of the work. So in
the configuration that moongate ships (runtime flag ``MetadataWhereRead``) it is there only where something of
the configuration reads it. Without the flag it is everywhere, as in the reference.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

from envoy.config.core.v3.base_pb2 import Metadata
from google.protobuf.json_format import MessageToDict

from moongate.attach.gateways import config, fleet_proxy
from moongate.engine import query
from moongate.kinds import ref_of
from moongate.xds.wire import encode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moongate.api.base import FleetId, Ref
    from moongate.api.envoyproxy import EnvoyProxySpec
    from moongate.engine import Db

NAMESPACE = "envoy-gateway"
_ANNOTATIONS = "gateway.envoyproxy.io/"

Holder = Literal["route", "virtual_host", "cluster", "endpoint"]
"""What has metadata; ``endpoint`` is a locality of endpoints."""

_READ_BY: Final[Mapping[Holder, tuple[str, str]]] = {
    "route": ("METADATA(ROUTE", "route_metadata"),
    "virtual_host": ("METADATA(VIRTUAL_HOST", "virtual_host_metadata"),
    "cluster": ("METADATA(CLUSTER", "cluster_metadata"),
    "endpoint": ("METADATA(UPSTREAM_HOST", "upstream_host_metadata"),
}
"""How formats of access logs and of spans, and CEL expressions, name it."""


@query
def holders(db: Db, fleet: FleetId) -> tuple[Holder, ...]:
    """What is to have metadata in a fleet."""
    if not config(db).runtime_flags.on("MetadataWhereRead"):
        return tuple(_READ_BY)
    expressions = _expressions(fleet_proxy(db, fleet).spec)
    return tuple(holder for holder, names in _READ_BY.items() if any(name in expressions for name in names))


def _expressions(spec: EnvoyProxySpec) -> str:
    """All formats and conditions of access logs, and the tags and names of spans."""
    logs = spec.telemetry.access_log if spec.telemetry is not None else None
    tracing = spec.telemetry.tracing if spec.telemetry is not None else None
    parts = list((tracing.tags or {}).values()) if tracing is not None else []
    if tracing is not None and tracing.span_name is not None:
        parts += (tracing.span_name.client, tracing.span_name.server)
    for setting in logs.settings if logs is not None and not logs.disable else ():
        parts += setting.matches
        if setting.format is not None:
            parts += (setting.format.text or "", *(setting.format.json or {}).values())
    return "\n".join(parts)


def shown(annotations: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The annotations that are copied into metadata, without their prefix, sorted."""
    ours = {k: v for k, v in annotations.items() if k.startswith(_ANNOTATIONS)}
    return tuple(sorted((k.removeprefix(_ANNOTATIONS), v) for k, v in ours.items()))


@lru_cache(maxsize=16_384)
def metadata(
    ref: Ref,
    section: str = "",
    annotated: tuple[tuple[str, str], ...] = (),
    policies: tuple[Ref, ...] = (),
) -> bytes:
    """An encoded ``Metadata`` that names a resource, one section of it, and the policies that shaped it."""
    message = Metadata()
    fields = message.filter_metadata[NAMESPACE].fields
    # Field by field: protobuf's way from a dict is most of the time that a cluster takes.
    resource = fields["resources"].list_value.values.add().struct_value
    named = (("kind", ref.kind), ("name", ref.name), ("namespace", ref.namespace), ("sectionName", section))
    for key, text in named:
        if text:
            resource.fields[key].string_value = text
    for key, text in annotated:
        resource.fields["annotations"].struct_value.fields[key].string_value = text
    for policy in policies:
        shaping = fields["policies"].list_value.values.add().struct_value
        for key, text in (("kind", policy.kind), ("name", policy.name), ("namespace", policy.namespace)):
            shaping.fields[key].string_value = text
    return encode(message)


def resources_of(message: Metadata | None) -> tuple[tuple[Ref, str], ...]:
    """The resources that a ``Metadata`` of ours names, each with its section ("" for none)."""
    if message is None or NAMESPACE not in message.filter_metadata:
        return ()
    document = MessageToDict(message.filter_metadata[NAMESPACE])
    return tuple(
        (ref_of(one["kind"], one.get("namespace", ""), one["name"]), one.get("sectionName", ""))
        for one in document.get("resources", ())
    )
