"""Spans of requests: their names and tags in Envoy's form, as routes and listeners have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from envoy.type.tracing.v3.custom_tag_pb2 import CustomTag

from moongate.attach.replacements import as_format, unfinished_command

if TYPE_CHECKING:
    from moongate.api.telemetry import CustomTag as SpanTag
    from moongate.api.telemetry import SpanSettings


_NO_NAME: Final = "a tag needs a name"


def span_tags(settings: SpanSettings) -> Iterator[CustomTag]:
    """The tags of spans, sorted by name; of two with a name, that of ``tags`` counts."""
    tags = {
        name: _tag(name, tag)
        for name, tag in (settings.custom_tags or {}).items()
        if not _custom_tag_fault(name, tag)
    }
    for name, value in (settings.tags or {}).items():
        if not _text_tag_fault(name, value):
            tags[name] = CustomTag(tag=name, value=_as_format(value))
    yield from (tag for _, tag in sorted(tags.items()))


def span_names(settings: SpanSettings) -> tuple[str, str]:
    """The names of the spans of a request, from the client and to the backend; "" for Envoy's own."""
    if settings.span_name is None:
        return "", ""
    return _span_name(settings.span_name.client), _span_name(settings.span_name.server)


def span_faults(settings: SpanSettings) -> list[tuple[str, str]]:
    """What Envoy would refuse of spans, which no rule of the CRD says: paths, each with the reason."""
    faults = [
        (f"customTags[{name!r}]", _custom_tag_fault(name, tag))
        for name, tag in (settings.custom_tags or {}).items()
    ]
    faults += [
        (f"tags[{name!r}]", _text_tag_fault(name, text)) for name, text in (settings.tags or {}).items()
    ]
    if settings.span_name is not None:
        faults += [
            ("spanName.client", _text_fault(settings.span_name.client)),
            ("spanName.server", _text_fault(settings.span_name.server)),
        ]
    return sorted((path, fault) for path, fault in faults if fault)


def _span_name(text: str) -> str:
    return "" if _text_fault(text) else _as_format(text)


def _as_format(text: str) -> str:
    return as_format(text.encode()).decode()


def _text_fault(text: str) -> str:
    command = unfinished_command(text)
    return "" if command is None else f"the command {command!r} does not end with ')%'"


def _text_tag_fault(name: str, text: str) -> str:
    return _text_fault(text) if name else _NO_NAME


def _tag(name: str, tag: SpanTag) -> CustomTag:
    built = CustomTag(tag=name)
    if tag.type == "Literal" and tag.literal is not None:
        built.literal.value = tag.literal.value
    elif tag.type == "Environment" and tag.environment is not None:
        built.environment.name = tag.environment.name
        built.environment.default_value = tag.environment.default_value or ""
    elif tag.request_header is not None:
        built.request_header.name = tag.request_header.name
        built.request_header.default_value = tag.request_header.default_value or ""
    return built


def _custom_tag_fault(name: str, tag: SpanTag) -> str:
    field = f"{tag.type[:1].lower()}{tag.type[1:]}"
    named = {"Environment": tag.environment, "RequestHeader": tag.request_header}.get(tag.type)
    if not name:
        return _NO_NAME
    if tag.type == "Literal":
        return "" if tag.literal is not None and tag.literal.value else "literal.value is missing or empty"
    return "" if named is not None and named.name else f"{field}.name is missing or empty"
