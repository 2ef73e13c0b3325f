"""Responses as they go over the wire: encoded once, and the same bytes written to every stream.

Theory of operation
===================
A changed route table with thousands of routes has megabytes, and hundreds of Envoys need it. Their responses
would differ only in the nonce, with which an answer names its response. So all streams of a fleet share one
numbering, and a response can be sent on every stream whose last response has a smaller number.

A response lives as long as a stream waits for its answer: the streams own it, and this module has only weak
references.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakValueDictionary

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse

from moongate.ads.needs import needs_endpoints
from moongate.xds.wire import encode, field_header

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from moongate.xds.wire import XdsResource

_Contents: TypeAlias = tuple[str, tuple[str, ...], tuple[str, ...]]
_RESOURCES = DeltaDiscoveryResponse.RESOURCES_FIELD_NUMBER


class Response:
    """An encoded ``DeltaDiscoveryResponse``."""

    def __init__(
        self, type_url: str, resources: tuple[XdsResource, ...], gone: tuple[str, ...], number: int
    ) -> None:
        self.number = number
        self.nonce = str(number)
        self._resources = resources
        head = DeltaDiscoveryResponse(type_url=type_url, nonce=self.nonce, removed_resources=gone)
        parts = [encode(head)]
        for resource in resources:
            wire = resource.wire()
            parts += (field_header(_RESOURCES, len(wire)), wire)
        self.wire = b"".join(parts)
        """The bytes that are written."""

    @property
    def names(self) -> Iterable[str]:
        """The names of its resources."""
        return (resource.name for resource in self._resources)

    @cached_property
    def endpoints(self) -> tuple[str, ...]:
        """The names of the endpoints that its clusters need."""
        return tuple(name for r in self._resources if (name := needs_endpoints(r)) is not None)


class Responses:
    """The responses of a fleet that some stream has not answered yet."""

    def __init__(self) -> None:
        self.encoded = 0
        """How many were encoded since the start; also the number of the last."""
        self._under_way: WeakValueDictionary[_Contents, Response] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._under_way)

    def response(
        self, type_url: str, resources: Collection[XdsResource], gone: Iterable[str], *, after: int
    ) -> Response:
        """The response with these contents, to be sent on one stream.

        Args:
            type_url: of all of it.
            resources: what is new or changed.
            gone: names of what is removed.
            after: the number of the last response on the stream; this one has a greater number.
        """
        gone = tuple(gone)
        contents = (type_url, tuple(part for r in resources for part in (r.name, r.version)), gone)
        response = self._under_way.get(contents)
        if response is None or response.number <= after:
            self.encoded += 1
            response = self._under_way[contents] = Response(type_url, tuple(resources), gone, self.encoded)
        return response
