"""The messages of Envoy's filter chain filter, which is newer than the messages that are installed.

They are registered, so that whoever reads what moongate wrote knows them: to show a listener, or to patch it.

Source: Envoy, ``envoy/extensions/filters/http/filter_chain/v3/filter_chain.proto``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from envoy.config.core.v3 import extension_pb2
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MessageOptions
from google.protobuf.message_factory import GetMessageClass

from moongate.xds.wire import encode

_PACKAGE: Final = "envoy.extensions.filters.http.filter_chain.v3"
_CONFIG: Final = f"{_PACKAGE}.FilterChainConfig"


def _field(name: str, number: int, message: str = "", *, repeated: bool = False) -> Field:
    """A field with a message of this full name, or a string."""
    return Field(
        name=name,
        number=number,
        label=Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL,
        type=Field.TYPE_MESSAGE if message else Field.TYPE_STRING,
        type_name=f".{message}" if message else None,
    )


def _described() -> FileDescriptorProto:
    file = FileDescriptorProto(
        name=f"{_PACKAGE.replace('.', '/')}/filter_chain.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[extension_pb2.DESCRIPTOR.name],
    )
    chain, entry = f"{_PACKAGE}.FilterChain", "FilterChainsEntry"
    filters = _field("filters", 1, TypedExtensionConfig.DESCRIPTOR.full_name, repeated=True)
    file.message_type.add(name="FilterChain", field=[filters])
    config = file.message_type.add(name="FilterChainConfig")
    named = _field("filter_chains", 2, f"{_CONFIG}.{entry}", repeated=True)
    config.field.extend((_field("filter_chain", 1, chain), named))
    config.nested_type.add(
        name=entry,
        field=(_field("key", 1), _field("value", 2, chain)),
        options=MessageOptions(map_entry=True),
    )
    per_route = (_field("filter_chain", 1, chain), _field("filter_chain_name", 2))
    file.message_type.add(name="FilterChainConfigPerRoute", field=per_route)
    return file


try:
    import_module(f"{_PACKAGE}.filter_chain_pb2")
except ImportError:
    descriptor_pool.Default().AddSerializedFile(encode(_described()))

FilterChainConfig: Final[Any] = GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(_CONFIG))
"""The configuration of a filter chain."""
