"""Compress responses for clients that accept it.

Set by:      BackendTrafficPolicy ``spec.compressor``, or the older ``spec.compression``
Precedence:  the most specific policy wins; with ``mergeType: StrategicMerge`` entries merge by their type
Envoy:       HTTP filters ``envoy.filters.http.compressor.brotli``, ``….gzip`` and ``….zstd``
Cases:       compressor.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.extensions.compression.brotli.compressor.v3.brotli_pb2 import Brotli
from envoy.extensions.compression.gzip.compressor.v3.gzip_pb2 import Gzip
from envoy.extensions.compression.zstd.compressor.v3.zstd_pb2 import Zstd
from envoy.extensions.filters.http.compressor.v3.compressor_pb2 import Compressor, CompressorPerRoute
from google.protobuf.message import Message
from msgspec import structs

from moongate.api.base import Model
from moongate.api.connections import Size
from moongate.api.shared import quantity
from moongate.engine import Db
from moongate.features.base import Effective, Feature, HttpFilter, RouteEdit
from moongate.problem import Problem
from moongate.xds.wire import packed

CompressorType = Literal["Gzip", "Brotli", "Zstd"]
MAX_LENGTH = 2**32 - 1


class CompressorSettings(Model, frozen=True, kw_only=True):
    """Nothing can be set; that it is there turns a type of compressor on."""


class Compression(Model, frozen=True, kw_only=True):
    """One way to compress. Of several that a client likes as much, the first in the list is chosen."""

    type: CompressorType
    brotli: CompressorSettings | None = None
    gzip: CompressorSettings | None = None
    zstd: CompressorSettings | None = None
    min_content_length: Size | None = None
    """Bytes of a response from which on it is compressed; 30 when absent."""

    @property
    def on(self) -> bool:
        """Whether the field with the name of the type is there, which turns an entry of ``compressor`` on."""
        return {"Gzip": self.gzip, "Brotli": self.brotli, "Zstd": self.zstd}[self.type] is not None


Compressions = tuple[Compression, ...]
_LIBRARIES: Final[dict[CompressorType, type[Message]]] = {"Brotli": Brotli, "Gzip": Gzip, "Zstd": Zstd}
"""In the order of the chain."""


def check(db: Db, entries: Effective[Compressions]) -> Iterator[Problem]:
    """A length that Envoy cannot have."""
    for n, entry in enumerate(entries.value):
        length = entry.min_content_length
        if length is not None and not 0 <= quantity(length) <= MAX_LENGTH:
            message = f"minContentLength is {length}; it must be between 0 and {MAX_LENGTH} bytes."
            yield Problem(f"[{n}].minContentLength", message)


def _feature(type_: CompressorType, *, older: bool) -> Feature[Compressions]:
    """The compressor of a type, as one of the two fields sets it."""

    def entry(entries: Compressions | None) -> tuple[Compression | None, bool]:
        """The entry that counts, and whether it is the first in force."""
        on = [each for each in entries or () if each.on or older]
        of_type = next((each for each in on if each.type == type_), None)
        return of_type, of_type is not None and of_type is on[0]

    def stable(entries: Compressions | None) -> Compressor:
        of_type, first = entry(entries)
        library = TypedExtensionConfig(
            name=f"envoy.compression.{type_.lower()}.compressor", typed_config=packed(_LIBRARIES[type_]())
        )
        config = Compressor(compressor_library=library, choose_first=first)
        if of_type is not None and of_type.min_content_length is not None:
            common = config.response_direction_config.common_config
            common.min_content_length.value = quantity(of_type.min_content_length)
        return config

    def chain(db: Db, entries: Effective[Compressions]) -> Compressor:
        return stable(entries.value)

    def per_route(db: Db, entries: Effective[Compressions]) -> CompressorPerRoute:
        config = CompressorPerRoute()
        config.overrides.response_direction_config.SetInParent()
        return config

    def instead(db: Db, entries: Effective[Compressions]) -> None:
        """Without its compressor a response goes out as it is."""

    def route(edit: RouteEdit, entries: Effective[Compressions]) -> None:
        # So that backends do not compress, and the gateway has something to do.
        if "accept-encoding" not in edit.message.request_headers_to_remove:
            edit.message.request_headers_to_remove.append("accept-encoding")

    alone = structs.replace(Compression(type=type_), **{type_.lower(): CompressorSettings()})
    return Feature(
        kind="BackendTrafficPolicy",
        field="compression" if older else "compressor",
        model=Compressions,
        applies=lambda entries: entry(entries.value)[0] is not None,
        check=check,
        http_filter=HttpFilter(
            name=f"envoy.filters.http.compressor.{type_.lower()}",
            disabled=True,
            chain=chain,
            route=per_route,
            stable=stable,
            forms=((alone,),),
            instead=instead,
        ),
        route=route,
    )


FEATURES: Final = tuple(_feature(type_, older=older) for type_ in _LIBRARIES for older in (False, True))
