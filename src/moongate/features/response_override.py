"""Put other responses in place of those of backends, or of the gateway's own.

Set by:      BackendTrafficPolicy ``spec.responseOverride``
Precedence:  the most specific policy wins
Envoy:       HTTP filter ``envoy.filters.http.custom_response``
Cases:       response_override.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Final, Literal

from cel.expr.syntax_pb2 import Constant, Expr
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.extensions.filters.http.custom_response.v3.custom_response_pb2 import CustomResponse as Filter
from envoy.extensions.http.custom_response.local_response_policy.v3.local_response_policy_pb2 import (
    LocalResponsePolicy,
)
from envoy.extensions.http.custom_response.redirect_policy.v3.redirect_policy_pb2 import RedirectPolicy
from envoy.type.matcher.v3.http_inputs_pb2 import HttpResponseHeaderMatchInput
from envoy.type.matcher.v3.status_code_input_pb2 import HttpResponseStatusCodeMatchInput
from google.protobuf.message import Message
from msgspec import Meta, structs
from xds.core.v3.extension_pb2 import TypedExtensionConfig
from xds.type.matcher.v3.cel_pb2 import CelMatcher
from xds.type.matcher.v3.http_inputs_pb2 import HttpAttributesCelMatchInput
from xds.type.matcher.v3.matcher_pb2 import Matcher
from xds.type.matcher.v3.string_pb2 import StringMatcher

from moongate.api.base import SET, Model, Rule, unique_by
from moongate.api.core import ConfigMap
from moongate.api.httproute import HTTPPathModifier
from moongate.api.httproutefilter import CustomResponseBody
from moongate.api.shared import HeaderName, Int32, PreciseHostname, StringMatch
from moongate.attach.backends import Target
from moongate.attach.extension_filters import response_body
from moongate.attach.replacements import as_format, path_fault, unfinished_command
from moongate.engine import Db
from moongate.features.base import Effective, Feature, HttpFilter, Reference
from moongate.features.shared import header_fault
from moongate.later_messages import HttpResponseLocalReplyMatchInput
from moongate.problem import Problem
from moongate.regex import regex_fault
from moongate.xds.wire import packed

Predicate = Matcher.MatcherList.Predicate


class StatusCodeRange(Model, frozen=True, kw_only=True):
    """Statuses from ``start`` to ``end``, both included."""

    RULES: ClassVar[tuple[Rule, ...]] = (Rule("self.end > self.start", "end must be greater than start."),)

    start: int
    end: int


class StatusCodeMatch(Model, frozen=True, kw_only=True):
    """One status, or a range of them."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(!has(self.type) || self.type == 'Value')? has(self.value) : true",
            "type Value needs value.",
        ),
        Rule(
            "(has(self.type) && self.type == 'Range')? has(self.range) : true",
            "type Range needs range.",
        ),
    )

    type: Literal["Value", "Range"] = "Value"
    value: int | None = None
    range: StatusCodeRange | None = None


class ResponseHeaderMatch(Model, frozen=True, kw_only=True):
    """A header of the response, and its value."""

    name: HeaderName
    value: StringMatch


class CustomResponseMatch(Model, frozen=True, kw_only=True):
    """The responses that are meant: one of the statuses, if there are any, and all of the headers."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("has(self.statusCodes) || has(self.responseHeaders)", "Set statusCodes or responseHeaders."),
    )

    status_codes: Annotated[tuple[StatusCodeMatch, ...], Meta(min_length=1, max_length=50)] | None = None
    response_headers: Annotated[tuple[ResponseHeaderMatch, ...], Meta(min_length=1, max_length=16)] | None = (
        None
    )


class AddedHeader(Model, frozen=True, kw_only=True):
    """A header and its value, in which Envoy's command operators work."""

    name: HeaderName
    value: Annotated[str, Meta(min_length=1, max_length=4096)]


class AddedHeaders(Model, frozen=True, kw_only=True):
    """Headers of the response: ``set`` replaces, ``add`` appends."""

    set: Annotated[tuple[AddedHeader, ...], Meta(max_length=16), unique_by("name")] = ()
    add: Annotated[tuple[AddedHeader, ...], Meta(max_length=16), unique_by("name")] = ()
    remove: Annotated[tuple[str, ...], Meta(max_length=16), SET] = ()


class CustomResponse(Model, frozen=True, kw_only=True):
    """What the client gets. What is not set stays as it was."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "header": (
            Rule(
                "!has(self.remove) || size(self.remove) == 0",
                "Headers can be added and set here, and not removed.",
            ),
        ),
    }

    content_type: str | None = None
    body: CustomResponseBody | None = None
    header: AddedHeaders | None = None
    status_code: int | None = None


class CustomRedirect(Model, frozen=True, kw_only=True):
    """Where the gateway fetches the response from that the client gets."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "path": (Rule("self.type == 'ReplaceFullPath'", "path.type must be ReplaceFullPath."),),
    }

    scheme: Literal["http", "https"] | None = None
    hostname: PreciseHostname | None = None
    path: HTTPPathModifier | None = None
    port: Int32 | None = None
    status_code: Literal[301, 302] | None = None
    """The status that the client gets with it; 302 when absent."""


class ResponseOverride(Model, frozen=True, kw_only=True):
    """Which responses are replaced, and by what. Of several that match, the first counts."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.response) && !has(self.redirect)) || (!has(self.response) && has(self.redirect))",
            "Set response or redirect.",
        ),
    )

    match: CustomResponseMatch
    response: CustomResponse | None = None
    redirect: CustomRedirect | None = None
    source: Literal["All", "Local", "Backend"] | None = None
    """``Local`` is for responses of the gateway itself, ``Backend`` for others. All when absent."""


ResponseOverrides = tuple[ResponseOverride, ...]

_BODY: Final = "[{}].response.body"
_LAST_PORT: Final = 65535
_BEYOND: Final = 2**31 - 1


def _references(overrides: ResponseOverrides) -> Iterator[Reference]:
    for n, override in enumerate(overrides):
        body = override.response.body if override.response is not None else None
        if body is not None and body.type == "ValueRef" and body.value_ref is not None:
            target = Target("", body.value_ref.kind, "", body.value_ref.name, 0)
            yield Reference(f"{_BODY.format(n)}.valueRef", target, (("", ConfigMap.KIND),))


def check(db: Db, overrides: Effective[ResponseOverrides]) -> Iterator[Problem]:
    """Bodies, statuses and patterns that Envoy cannot have."""
    for n, override in enumerate(overrides.value):
        for m, header in enumerate(override.match.response_headers or ()):
            regex = header.value.value if header.value.type == "RegularExpression" else None
            if regex is not None and (fault := regex_fault(regex)) is not None:
                path = f"[{n}].match.responseHeaders[{m}].value.value"
                yield Problem(path, f"value is {regex!r}, and no regular expression of RE2: {fault}.")
        for problem in _redirect_faults(override.redirect) if override.redirect is not None else ():
            yield problem.under(f"[{n}].redirect")
        if override.response is None:
            continue
        for problem in _header_faults(override.response):
            yield problem.under(f"[{n}].response")
        status = override.response.status_code
        if status is not None and not 200 <= status <= 599:
            message = f"statusCode is {status}; it must be between 200 and 599."
            yield Problem(f"[{n}].response.statusCode", message)
        body = _body(db, overrides, n)
        if isinstance(body, str):
            yield Problem(_BODY.format(n), f"{body[0].upper()}{body[1:]}.")
        elif (command := unfinished_command(body.decode(errors="replace"))) is not None:
            message = f"The command {command!r} does not end with ')%'; a percent sign alone is '%%'."
            yield Problem(_BODY.format(n), message)


def _redirect_faults(redirect: CustomRedirect) -> Iterator[Problem]:
    if redirect.port is not None and not 1 <= redirect.port <= _LAST_PORT:
        yield Problem("port", f"port is {redirect.port}; it must be between 1 and {_LAST_PORT}.")
    path = redirect.path.replace_full_path if redirect.path is not None else None
    if path is not None and (fault := path_fault(path)) is not None:
        yield Problem("path.replaceFullPath", f"replaceFullPath {fault}.")


def _header_faults(response: CustomResponse) -> Iterator[Problem]:
    if response.content_type and (fault := header_fault("Content-Type", response.content_type)) is not None:
        yield Problem("contentType", fault)
    changes = response.header or AddedHeaders()
    for kind, headers in (("add", changes.add), ("set", changes.set)):
        for n, header in enumerate(headers):
            if (fault := header_fault(header.name, header.value)) is not None:
                yield Problem(f"header.{kind}[{n}]", fault)


def _body(db: Db, overrides: Effective[ResponseOverrides], n: int) -> bytes | str:
    response = overrides.value[n].response
    if response is None or response.body is None:
        return b""
    return response_body(db, overrides.owner_of(_BODY.format(n)).namespace, response.body)


def _config(db: Db, overrides: Effective[ResponseOverrides]) -> Filter:
    owner = overrides.owner
    config = Filter()
    for n, override in enumerate(overrides.value):
        entry = config.custom_response_matcher.matcher_list.matchers.add()
        entry.predicate.CopyFrom(_predicate(override))
        policy: Message = RedirectPolicy()
        if override.redirect is not None:
            policy = _redirect(override.redirect)
        elif override.response is not None:
            body = _body(db, overrides, n)
            policy = _response(override.response, body if isinstance(body, bytes) else b"")
        entry.on_match.action.name = (
            f"{owner.kind.lower()}/{owner.namespace}/{owner.name}/responseoverride/rule/{n}"
        )
        entry.on_match.action.typed_config.CopyFrom(packed(policy))
    return config


def _without_bodies(db: Db, overrides: Effective[ResponseOverrides]) -> Filter:
    """As ``_config``, without what is large: responses that are replaced have no body then."""
    bare = tuple(
        structs.replace(each, response=structs.replace(each.response, body=None))
        if each.response is not None
        else each
        for each in overrides.value
    )
    return _config(db, structs.replace(overrides, value=bare))


def _response(response: CustomResponse, body: bytes) -> LocalResponsePolicy:
    policy = LocalResponsePolicy()
    if body:
        formatted = as_format(body)
        try:
            policy.body_format.text_format = formatted.decode()
        except UnicodeDecodeError:
            policy.body_format.text_format_source.inline_bytes = formatted
    if response.content_type:
        policy.response_headers_to_add.append(_header("Content-Type", response.content_type, adds=False))
    if response.status_code is not None:
        policy.status_code.value = response.status_code
    changes = response.header
    for header in changes.add if changes is not None else ():
        policy.response_headers_to_add.append(_header(header.name, header.value, adds=True))
    for header in changes.set if changes is not None else ():
        policy.response_headers_to_add.append(_header(header.name, header.value, adds=False))
    return policy


def _header(name: str, value: str, *, adds: bool) -> HeaderValueOption:
    return HeaderValueOption(
        header=HeaderValue(key=name, value=as_format(value.encode()).decode()),
        append_action=HeaderValueOption.APPEND_IF_EXISTS_OR_ADD
        if adds
        else HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )


def _redirect(redirect: CustomRedirect) -> RedirectPolicy:
    policy = RedirectPolicy()
    action = policy.redirect_action
    action.SetInParent()
    if redirect.scheme is not None:
        action.scheme_redirect = redirect.scheme
    if redirect.hostname is not None:
        action.host_redirect = redirect.hostname
    if redirect.port is not None:
        action.port_redirect = redirect.port
    if redirect.path is not None and redirect.path.replace_full_path is not None:
        action.path_redirect = redirect.path.replace_full_path
    policy.status_code.value = redirect.status_code or 302
    return policy


def _predicate(override: ResponseOverride) -> Predicate:
    match = override.match
    statuses = [_status(code) for code in match.status_codes or ()]
    headers = [_header_match(header) for header in match.response_headers or ()]
    if not headers:
        predicate = _any(statuses)
    elif not statuses:
        predicate = _all(headers)
    else:
        predicate = _all([_any(statuses), _all(headers)])
    if override.source in ("Local", "Backend"):
        local = Predicate()
        local.single_predicate.input.CopyFrom(
            _extension("http-response-local-reply-match-input", HttpResponseLocalReplyMatchInput())
        )
        local.single_predicate.value_match.exact = "true" if override.source == "Local" else "false"
        predicate = _all([predicate, local])
    return predicate


# Envoy refuses a list of one. The reference has such a list for a single header.


def _all(predicates: list[Predicate]) -> Predicate:
    if len(predicates) == 1:
        return predicates[0]
    return Predicate(and_matcher=Predicate.PredicateList(predicate=predicates))


def _any(predicates: list[Predicate]) -> Predicate:
    if len(predicates) == 1:
        return predicates[0]
    return Predicate(or_matcher=Predicate.PredicateList(predicate=predicates))


def _status(code: StatusCodeMatch) -> Predicate:
    predicate = Predicate()
    single = predicate.single_predicate
    if code.type == "Range" and code.range is not None:
        config = CelMatcher()
        config.expr_match.cel_expr_parsed.expr.CopyFrom(_within(code.range))
        single.input.CopyFrom(_extension("http-attributes-cel-match-input", HttpAttributesCelMatchInput()))
        single.custom_match.CopyFrom(_extension("cel-matcher", config))
    else:
        single.input.CopyFrom(
            _extension("http-response-status-code-match-input", HttpResponseStatusCodeMatchInput())
        )
        single.value_match.exact = str(code.value)
    return predicate


def _within(codes: StatusCodeRange) -> Expr:
    """``response.code >= start && response.code <= end``, parsed."""

    def compared(function: str, first: int, bound: int) -> Expr:
        code = Expr(
            id=first + 1,
            select_expr=Expr.Select(
                operand=Expr(id=first, ident_expr=Expr.Ident(name="response")), field="code"
            ),
        )
        # No status lies beyond, and no larger number can be said.
        within = min(max(bound, -_BEYOND), _BEYOND)
        constant = Expr(id=first + 3, const_expr=Constant(int64_value=within))
        return Expr(id=first + 2, call_expr=Expr.Call(function=function, args=[code, constant]))

    parts = [compared("_>=_", 1, codes.start), compared("_<=_", 5, codes.end)]
    return Expr(id=9, call_expr=Expr.Call(function="_&&_", args=parts))


def _header_match(header: ResponseHeaderMatch) -> Predicate:
    predicate = Predicate()
    single = predicate.single_predicate
    config = HttpResponseHeaderMatchInput(header_name=header.name)
    single.input.CopyFrom(_extension("http-response-header-match-input", config))
    single.value_match.CopyFrom(_compared(header.value))
    return predicate


def _compared(match: StringMatch) -> StringMatcher:
    compared = StringMatcher()
    match match.type:
        case "Exact":
            compared.exact = match.value
        case "Prefix":
            compared.prefix = match.value
        case "Suffix":
            compared.suffix = match.value
        case "RegularExpression":
            compared.safe_regex.google_re2.SetInParent()
            compared.safe_regex.regex = match.value
    return compared


def _extension(name: str, config: Message) -> TypedExtensionConfig:
    return TypedExtensionConfig(name=name, typed_config=packed(config))


def _stable(_value: ResponseOverrides | None) -> Filter:
    return Filter()


FEATURE = Feature(
    kind="BackendTrafficPolicy",
    field="response_override",
    model=ResponseOverrides,
    references=_references,
    check=check,
    http_filter=HttpFilter(
        name="envoy.filters.http.custom_response",
        per_policy=True,
        disabled=True,
        chain=_config,
        route=_config,
        stable=_stable,
        chain_says_all=True,
        instead=_without_bodies,
    ),
)
