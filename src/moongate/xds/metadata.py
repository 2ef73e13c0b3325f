"""``filter_metadata["envoy-gateway"]``: which resource an xDS object stands for, for access logs to show."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from envoy.config.core.v3.base_pb2 import Metadata
from google.protobuf.json_format import MessageToDict

from moongate.api.base import Ref
from moongate.kinds import ref_of
from moongate.xds.wire import encode

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMESPACE = "envoy-gateway"
_ANNOTATIONS = "gateway.envoyproxy.io/"


def shown(given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The annotations that are copied into metadata, without their prefix, sorted."""
    ours = {k: v for k, v in given.items() if k.startswith(_ANNOTATIONS)}
    return tuple(sorted((k.removeprefix(_ANNOTATIONS), v) for k, v in ours.items()))


@lru_cache(maxsize=16_384)
def metadata(
    ref: Ref,
    section: str = "",
    annotated: tuple[tuple[str, str], ...] = (),
    policies: tuple[Ref, ...] = (),
) -> bytes:
    """An encoded ``Metadata`` that names a resource, one section of it, and the policies that shaped it."""
    told = Metadata()
    fields = told.filter_metadata[NAMESPACE].fields
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
    return encode(told)


def resources_of(told: Metadata | None) -> tuple[tuple[Ref, str], ...]:
    """The resources that a ``Metadata`` of ours names, each with its section ("" for none)."""
    if told is None or NAMESPACE not in told.filter_metadata:
        return ()
    document = MessageToDict(told.filter_metadata[NAMESPACE])
    return tuple(
        (ref_of(one["kind"], one.get("namespace", ""), one["name"]), one.get("sectionName", ""))
        for one in document.get("resources", ())
    )
