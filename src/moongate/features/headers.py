"""Headers of requests as they come in and of responses as they leave, and which are let through.

Set by:      ClientTrafficPolicy ``spec.headers``
Precedence:  the policy of the listener, else that of the Gateway, as a whole
Envoy:       HTTP connection manager; ``envoy.http.early_header_mutation.header_mutation``;
             ``envoy.filters.http.header_mutation``; ``envoy.filters.http.router``
Cases:       headers.md beside this file: its reference page and its golden tests

Facts
-----
* what ``earlyRequestHeaders`` changes is changed before anything looks at the request: routes match on it,
  and so do access logs and traces
* of several changes of one header the first is made, in the order add, set, addIfAbsent; what is removed is
  removed after that
* a value may have Envoy's commands, such as ``%DOWNSTREAM_REMOTE_ADDRESS%``
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal

from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.protocol_pb2 import HttpProtocolOptions
from envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import (
    HeaderMutation as HeaderMutationFilter,
)
from envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import Mutations
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import (
    HeaderMutation as EarlyHeaderMutation,
)
from msgspec import Meta, field, structs

from moongate.api.base import SET, Model, Rule, deprecated, unique_by
from moongate.api.connections import Size
from moongate.api.shared import HeaderName, StringMatch, quantity
from moongate.attach.replacements import as_format
from moongate.engine import Db
from moongate.features.base import Effective, Feature, ListenerFacts, ListenerHttpFilter, ManagerEdit
from moongate.features.shared import HEADER_NAME, header_fault, string_matcher
from moongate.problem import Problem
from moongate.regex import matches_whole, regex_fault
from moongate.xds.wire import packed

if TYPE_CHECKING:
    from google.protobuf.message import Message

MAX_HEADERS_KIB: Final = 8192
"""The most that Envoy takes."""

_OF_REQUESTS: Final = (":method", ":scheme", ":authority", ":path")
_OF_RESPONSES: Final = (":status",)


class AddedHeader(Model, frozen=True, kw_only=True):
    """A header and its value."""

    name: HeaderName
    value: Annotated[str, Meta(min_length=1, max_length=4096)]


Added = Annotated[tuple[AddedHeader, ...], Meta(min_length=1, max_length=64), unique_by("name")]


class HTTPHeaderFilter(Model, frozen=True, kw_only=True):
    """Changes of headers."""

    set: Added | None = None
    """The header has this value, whatever it had before."""
    add: Added | None = None
    """The header has this value besides those that it had before."""
    add_if_absent: Added | None = None
    """The header has this value if it had none before."""
    remove: Annotated[tuple[str, ...], Meta(min_length=1, max_length=64), SET] | None = None
    remove_on_match: Annotated[tuple[StringMatch, ...], Meta(min_length=1, max_length=64)] | None = None
    """Headers whose names match; they are compared in lower case."""


CertDetail = Literal["Subject", "Cert", "Chain", "DNS", "URI"]


class XForwardedClientCert(Model, frozen=True, kw_only=True):
    """What a backend learns of a client's certificate, in the header ``X-Forwarded-Client-Cert``."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.certDetailsToAdd) && self.certDetailsToAdd.size() > 0) ? "
            "(self.mode == 'AppendForward' || self.mode == 'SanitizeSet') : true",
            "certDetailsToAdd is for the modes AppendForward and SanitizeSet; the others add nothing.",
        ),
    )

    mode: Literal["Sanitize", "ForwardOnly", "AppendForward", "SanitizeSet", "AlwaysForwardOnly"] | None = (
        None
    )
    """``Sanitize`` (the header is removed) when not set."""
    cert_details_to_add: Annotated[tuple[CertDetail, ...], Meta(max_length=5)] = ()


class HostSettings(Model, frozen=True, kw_only=True):
    """How the Host of a request is cleaned before it is matched."""

    strip_trailing_host_dot: bool | None = None
    """``shop.example.com.`` is taken for ``shop.example.com``."""


class HeaderSettings(Model, frozen=True, kw_only=True):
    """Headers of requests and responses."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.preserveXRequestID) && has(self.requestID))",
            "Set requestID alone; preserveXRequestID: true is requestID: PreserveOrGenerate.",
        ),
    )

    enable_envoy_headers: bool | None = None
    """Whether requests and responses may have ``x-envoy-…`` headers of Envoy's own. No when not set."""
    disable_rate_limit_headers: bool | None = None
    """Whether responses do not say how much of a rate limit is left."""
    x_forwarded_client_cert: XForwardedClientCert | None = None
    with_underscores_action: Literal["Allow", "RejectRequest", "DropHeader"] | None = None
    """For headers with ``_`` in their names. ``RejectRequest`` (with 400) when not set."""
    preserve_x_request_id: Annotated[bool, deprecated("requestID")] | None = field(
        default=None, name="preserveXRequestID"
    )
    request_id: Literal["PreserveOrGenerate", "Preserve", "Generate", "Disable"] | None = field(
        default=None, name="requestID"
    )
    """Whether Envoy makes the header ``X-Request-ID``, and whether it keeps that of a client. When not set,
    it makes one, and replaces that of a client from outside."""
    early_request_headers: HTTPHeaderFilter | None = None
    """Before routes are matched."""
    late_response_headers: HTTPHeaderFilter | None = None
    """After all else that changes a response."""
    host: HostSettings | None = None
    max_request_header_limit: Size | None = None
    """Bytes of all headers of a request together, from 1Ki to 8192Ki, rounded up to whole KiB. With more a
    request is answered with 431. 60Ki when not set."""


def check(db: Db, headers: Effective[HeaderSettings]) -> Iterator[Problem]:
    """Headers that cannot be changed, or not to that value; and sizes out of Envoy's range."""
    spec = headers.value
    if (limit := spec.max_request_header_limit) is not None:
        size = quantity(limit)
        if not 1024 <= size <= MAX_HEADERS_KIB * 1024:
            message = f"maxRequestHeaderLimit is {limit}; it must be from 1Ki to {MAX_HEADERS_KIB}Ki."
            yield Problem("maxRequestHeaderLimit", message)
    for name, changes, kept in (
        ("earlyRequestHeaders", spec.early_request_headers, _OF_REQUESTS),
        ("lateResponseHeaders", spec.late_response_headers, _OF_RESPONSES),
    ):
        if changes is not None:
            yield from (fault.under(name) for fault in _faults(changes, kept))


def _faults(changes: HTTPHeaderFilter, kept: tuple[str, ...]) -> Iterator[Problem]:
    """What is wrong with changes of headers.

    Args:
        changes: the changes.
        kept: the names of what every message must have, which Envoy takes for headers.
    """
    if changes == HTTPHeaderFilter():
        yield Problem("", "No header is changed; set one of set, add, addIfAbsent, remove and removeOnMatch.")
    for kind, headers in (("add", changes.add), ("set", changes.set), ("addIfAbsent", changes.add_if_absent)):
        for n, header in enumerate(headers or ()):
            if (fault := header_fault(header.name, header.value)) is not None:
                yield Problem(f"{kind}[{n}]", fault)
    for n, name in enumerate(changes.remove or ()):
        if HEADER_NAME.fullmatch(name) is None or name.lower() == "host":
            message = f"{name!r} is not the name of a header that can be removed."
            yield Problem(f"remove[{n}]", message)
    for n, match in enumerate(changes.remove_on_match or ()):
        fault = regex_fault(match.value) if match.type == "RegularExpression" else None
        lost = next((name for name in kept if fault is None and _matches(match, name)), None)
        if lost is not None:
            fault = (
                f"{match.value!r} matches {lost!r} as well, without which Envoy serves nothing; names of "
                "headers begin with no colon, so '[^:].*' are all of them."
            )
        if fault is not None:
            yield Problem(f"removeOnMatch[{n}].value", fault)


def _matches(match: StringMatch, name: str) -> bool:
    match match.type:
        case "Prefix":
            return name.startswith(match.value)
        case "Suffix":
            return name.endswith(match.value)
        case "RegularExpression":
            return matches_whole(match.value, name)
        case _:
            return name == match.value


_UNDERSCORES: Final = {
    "Allow": HttpProtocolOptions.ALLOW,
    "RejectRequest": HttpProtocolOptions.REJECT_REQUEST,
    "DropHeader": HttpProtocolOptions.DROP_HEADER,
}
_FORWARDING: Final = {
    "Sanitize": HttpConnectionManager.SANITIZE,
    "ForwardOnly": HttpConnectionManager.FORWARD_ONLY,
    "AppendForward": HttpConnectionManager.APPEND_FORWARD,
    "SanitizeSet": HttpConnectionManager.SANITIZE_SET,
    "AlwaysForwardOnly": HttpConnectionManager.ALWAYS_FORWARD_ONLY,
}
_REQUEST_IDS: Final = {
    "PreserveOrGenerate": (True, True),
    "Preserve": (False, True),
    "Generate": (True, False),
    "Disable": (False, False),
}
"""Whether Envoy makes an id; and if it makes one, whether it keeps that of a client instead."""


def _connection_manager(edit: ManagerEdit, headers: Effective[HeaderSettings]) -> None:
    spec, hcm = headers.value, edit.message
    edit.router.suppress_envoy_headers = not spec.enable_envoy_headers
    hcm.common_http_protocol_options.headers_with_underscores_action = _UNDERSCORES[
        spec.with_underscores_action or "RejectRequest"
    ]
    if spec.x_forwarded_client_cert is not None:
        _forward_certificates(hcm, spec.x_forwarded_client_cert)
    request_id = spec.request_id or ("PreserveOrGenerate" if spec.preserve_x_request_id else None)
    if request_id is not None:
        makes, hcm.preserve_external_request_id = _REQUEST_IDS[request_id]
        hcm.generate_request_id.value = makes
    if spec.early_request_headers is not None:
        hcm.early_header_mutation_extensions.append(
            TypedExtensionConfig(
                name="envoy.http.early_header_mutation.header_mutation",
                typed_config=packed(EarlyHeaderMutation(mutations=_mutations(spec.early_request_headers))),
            )
        )
    if spec.host is not None:
        hcm.strip_trailing_host_dot = bool(spec.host.strip_trailing_host_dot)
    if spec.max_request_header_limit is not None:
        hcm.max_request_headers_kb.value = -(-quantity(spec.max_request_header_limit) // 1024)


def _forward_certificates(hcm: HttpConnectionManager, spec: XForwardedClientCert) -> None:
    hcm.forward_client_cert_details = _FORWARDING[spec.mode or "Sanitize"]
    added = spec.cert_details_to_add
    if not added or spec.mode not in ("AppendForward", "SanitizeSet"):
        return
    details = hcm.set_current_client_cert_details
    details.cert, details.chain = "Cert" in added, "Chain" in added
    details.dns, details.uri = "DNS" in added, "URI" in added
    if "Subject" in added:
        details.subject.value = True


def _mutations(changes: HTTPHeaderFilter) -> Iterator[HeaderMutation]:
    """The changes in the order in which Envoy makes them."""
    seen: set[str] = set()
    for headers, action in (
        (changes.add, HeaderValueOption.APPEND_IF_EXISTS_OR_ADD),
        (changes.set, HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD),
        (changes.add_if_absent, HeaderValueOption.ADD_IF_ABSENT),
    ):
        for header in headers or ():
            if header.name.lower() not in seen:
                seen.add(header.name.lower())
                value = HeaderValue(key=header.name, value=as_format(header.value.encode()).decode())
                yield HeaderMutation(append=HeaderValueOption(header=value, append_action=action))
    for name in dict.fromkeys(name.lower() for name in changes.remove or ()):
        yield HeaderMutation(remove=name)
    for match in changes.remove_on_match or ():
        yield HeaderMutation(remove_on_match=HeaderMutation.RemoveOnMatch(key_matcher=string_matcher(match)))


def _late(headers: HeaderSettings) -> Message | None:
    if headers.late_response_headers is None:
        return None
    return HeaderMutationFilter(
        mutations=Mutations(response_mutations=_mutations(headers.late_response_headers))
    )


def _facts(facts: ListenerFacts, headers: HeaderSettings) -> ListenerFacts:
    return structs.replace(
        facts,
        envoy_headers=bool(headers.enable_envoy_headers),
        rate_limit_headers=not headers.disable_rate_limit_headers,
    )


FEATURE = Feature(
    kind="ClientTrafficPolicy",
    field="headers",
    model=HeaderSettings,
    check=check,
    listener_facts=_facts,
    listener_filter=ListenerHttpFilter(name="envoy.filters.http.header_mutation", chain=_late),
    connection_manager=_connection_manager,
)
