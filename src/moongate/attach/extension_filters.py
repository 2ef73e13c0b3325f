"""Resolution of a rule's ``extensionRef``: a checked HTTPRouteFilter with the resources that it names.

Rules
=====
1. If the filter has a fault, the rule that uses it answers 500, and the status of its route says why.
2. A filter that does not exist is a dangling reference, like a backend that does not exist.
3. The CRD's rules are checked again, because an object may be older than the rule that it breaks.

Source: Envoy Gateway, ``HTTPRouteFilterSpec``; the reference for which key of a ConfigMap is the body.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from moongate.api.base import ENVOY_GROUP, Ref
from moongate.api.core import ConfigMap, Secret
from moongate.api.httproutefilter import (
    HTTPCredentialInjectionFilter,
    HTTPDirectResponseFilter,
    HTTPHostnameModifier,
    HTTPRouteFilter,
    HTTPRouteMatchFilter,
    PathRegex,
    ReplaceRegexMatch,
)
from moongate.api.route import HTTPHeader, HTTPHeaderFilter
from moongate.api.shared import CONNECTION_HEADERS
from moongate.attach.grants import granted
from moongate.attach.refused import absence
from moongate.attach.replacements import (
    host_substitution_fault,
    path_substitution_fault,
    unfinished_command,
)
from moongate.engine import query
from moongate.problem import Problem
from moongate.regex import regex_fault
from moongate.store import get

if TYPE_CHECKING:
    from moongate.api.httproutefilter import CustomResponseBody, HTTPURLRewriteFilter
    from moongate.api.shared import LocalObjectReference, SecretObjectReference
    from moongate.engine import Db

_HEADER_NAME: Final = re.compile(r":?[!#$%&'*+.^_`|~0-9A-Za-z-]+")

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(rb"(?![\t ])[\t -~\x80-\xff]+(?<![\t ])")

CREDENTIAL_KEY: Final = "credential"
"""The key of a Secret that holds a credential."""
BODY_KEY: Final = "response.body"
"""The key of a ConfigMap that holds a response; where it is missing, the first one is taken."""


class DirectResponse(Struct, frozen=True):
    """An answer of Envoy's own.

    Args:
        status: its status code.
        body: its bytes.
        headers: what is changed of its headers, in order.
    """

    status: int
    body: bytes
    headers: tuple[HTTPHeaderFilter, ...]


class Extension(Struct, frozen=True):
    """A checked HTTPRouteFilter.

    Args:
        hostname: where the host that the backend sees is taken from.
        path: how the path that the backend sees is made.
        append_x_forwarded_host: ``None`` where it does not say.
        response: answered instead of forwarding.
        credential: what backends get in a header.
        matches: what requests must have besides.
        refused: what is wrong with it, as a route says it; the rest has no meaning then.
        fault: the same, at its field in the filter; ``None`` if there is no such filter.
        unresolved: there is no such filter.
    """

    hostname: HTTPHostnameModifier | None = None
    path: ReplaceRegexMatch | None = None
    append_x_forwarded_host: bool | None = None
    response: DirectResponse | None = None
    credential: HTTPCredentialInjectionFilter | None = None
    matches: tuple[HTTPRouteMatchFilter, ...] = ()
    refused: Problem | None = None
    fault: Problem | None = None
    unresolved: Problem | None = None

    @property
    def faulty(self) -> bool:
        """Whether it cannot be used."""
        return self.refused is not None or self.unresolved is not None

    @property
    def of_backend(self) -> bool:
        """Whether all that it asks for can be done for one backend of several."""
        of_rule = (self.hostname, self.path, self.append_x_forwarded_host, self.response)
        return self.credential is not None and not self.matches and not any(x is not None for x in of_rule)


def extension(db: Db, ref: LocalObjectReference, namespace: str) -> Extension:
    """The filter that a reference in a route of ``namespace`` names."""
    if (ref.group, ref.kind) != (ENVOY_GROUP, HTTPRouteFilter.KIND):
        message = (
            f"extensionRef names {ref.kind} of the group {ref.group!r}; "
            f"it must be an {HTTPRouteFilter.KIND} of {ENVOY_GROUP}."
        )
        return Extension(refused=Problem("", message, "UnsupportedValue"))
    return route_filter(db, Ref.of(HTTPRouteFilter, namespace, ref.name))


@query
def route_filter(db: Db, ref: Ref) -> Extension:
    """An HTTPRouteFilter, checked."""
    resource = get(db, HTTPRouteFilter, ref)
    if resource is None:
        return Extension(unresolved=Problem("", f"{ref} {absence(db, ref)}.", "UnsupportedValue"))
    spec = resource.spec
    problem = next(
        (fault for fault in (_rewrite_fault(spec.url_rewrite), _match_fault(spec.matches)) if fault), None
    )
    credential = spec.credential_injection
    if problem is None and credential is not None:
        problem = _credential_fault(db, ref, credential)
    response = (
        _response(db, ref.namespace, spec.direct_response) if spec.direct_response is not None else None
    )
    if isinstance(response, Problem):
        problem, response = problem or response, None
    if problem is not None:
        refused = Problem("", f"{ref} cannot be used: {problem.message}.", "UnsupportedValue")
        return Extension(refused=refused, fault=problem)
    rewrite = spec.url_rewrite
    return Extension(
        hostname=rewrite.hostname if rewrite is not None else None,
        path=rewrite.path.replace_regex_match if rewrite is not None and rewrite.path is not None else None,
        append_x_forwarded_host=rewrite.append_x_forwarded_host if rewrite is not None else None,
        response=response,
        credential=credential,
        matches=spec.matches,
    )


def _credential_fault(db: Db, filter_: Ref, injection: HTTPCredentialInjectionFilter) -> Problem | None:
    """Why a credential cannot be given to backends; nothing of its value is said."""
    header, named = injection.header, injection.credential.value_ref
    if header is not None and (_TOKEN.fullmatch(header) is None or header.lower() in CONNECTION_HEADERS):
        message = (
            f"credentialInjection.header is {header!r}; it must be the name of a header, and of none that "
            "says how or where to a request is sent"
        )
        return Problem("spec.credentialInjection.header", message)
    message = _unreadable_credential(db, filter_, named)
    return Problem("spec.credentialInjection.credential.valueRef", message) if message is not None else None


def _unreadable_credential(db: Db, filter_: Ref, named: SecretObjectReference) -> str | None:
    """Why there is no credential where a filter names one."""
    if (named.group, named.kind) != ("", Secret.KIND):
        return f"credentialInjection.credential.valueRef names a {named.kind}; it must name a Secret"
    ref = Ref.of(Secret, named.namespace or filter_.namespace, named.name)
    if not granted(db, ENVOY_GROUP, HTTPRouteFilter.KIND, filter_.namespace, ref):
        return (
            f"its credential is in {ref}; no ReferenceGrant there allows an HTTPRouteFilter of namespace "
            f"{filter_.namespace} to refer to it"
        )
    secret = get(db, Secret, ref)
    if secret is None:
        return f"its credential is in {ref}, which {absence(db, ref)}"
    if not secret.data.get(CREDENTIAL_KEY):
        return f"its credential is in {ref}, which has nothing under the key {CREDENTIAL_KEY}"
    if _VALUE.fullmatch(secret.data[CREDENTIAL_KEY]) is None:
        return (
            f"its credential is in {ref}; what stands there under {CREDENTIAL_KEY} is no value of a header, "
            "which is one line of printable characters without blanks at its ends"
        )
    return None


def _rewrite_fault(rewrite: HTTPURLRewriteFilter | None) -> Problem | None:
    if rewrite is None:
        return None
    if rewrite.path is not None:
        replace = rewrite.path.replace_regex_match
        if replace is None or not replace.pattern:
            return Problem("spec.urlRewrite.path", "urlRewrite.path needs replaceRegexMatch with a pattern")
        fault = regex_fault(replace.pattern) or path_substitution_fault(replace.pattern, replace.substitution)
        if fault is not None:
            return Problem("spec.urlRewrite.path.replaceRegexMatch", f"in urlRewrite.path, {fault}")
    message = _hostname_fault(rewrite.hostname) if rewrite.hostname is not None else None
    return Problem("spec.urlRewrite.hostname", message) if message is not None else None


def _hostname_fault(hostname: HTTPHostnameModifier) -> str | None:
    match hostname.type:
        case "Header":
            if not hostname.header:
                return "urlRewrite.hostname of type Header needs header"
            if _HEADER_NAME.fullmatch(hostname.header) is None:
                return f"urlRewrite.hostname.header is {hostname.header!r}, which is not the name of a header"
            return None
        case "Backend":
            return None
        case "PathRegex":
            regex = hostname.path_regex or PathRegex(pattern="", substitution="")
            if not regex.pattern or not regex.substitution:
                return (
                    "urlRewrite.hostname of type PathRegex needs pathRegex with a pattern and a substitution"
                )
            fault = regex_fault(regex.pattern) or host_substitution_fault(regex.pattern, regex.substitution)
            return f"in urlRewrite.hostname, {fault}" if fault is not None else None
    return f"urlRewrite.hostname has the type {hostname.type!r}; it must be Header, Backend or PathRegex"


def _match_fault(matches: tuple[HTTPRouteMatchFilter, ...]) -> Problem | None:
    for n, match in enumerate(matches):
        for m, cookie in enumerate(match.cookies):
            fault = regex_fault(cookie.value) if cookie.type == "RegularExpression" else None
            if fault is not None:
                return Problem(f"spec.matches[{n}].cookies[{m}].value", f"in matches, {fault}")
    return None


def _response(db: Db, namespace: str, spec: HTTPDirectResponseFilter) -> DirectResponse | Problem:
    """The answer, or what is wrong with it."""
    status = 200 if spec.status_code is None else spec.status_code
    if not 200 <= status <= 599:
        message = f"directResponse.statusCode is {status}; it must be from 200 to 599"
        return Problem("spec.directResponse.statusCode", message)
    body = response_body(db, namespace, spec.body) if spec.body is not None else b""
    if isinstance(body, str):
        field = "body.valueRef" if spec.body is not None and spec.body.value_ref is not None else "body"
        return Problem(f"spec.directResponse.{field}", body)
    if (command := unfinished_command(body.decode(errors="replace"))) is not None:
        message = (
            f"in directResponse.body, the command {command!r} does not end with ')%'; "
            "a percent sign that begins no command is '%%'"
        )
        return Problem("spec.directResponse.body", message)
    headers: list[HTTPHeaderFilter] = []
    if spec.content_type is not None:
        headers.append(HTTPHeaderFilter(set=(HTTPHeader(name="Content-Type", value=spec.content_type),)))
    if spec.header is not None:
        headers.append(spec.header)
    return DirectResponse(status, body, tuple(headers))


def response_body(db: Db, namespace: str, spec: CustomResponseBody) -> bytes | str:
    """The body of an answer that Envoy gives by itself; or, as a text, why there is none."""
    if spec.type != "ValueRef":
        return (spec.inline or "").encode()
    if spec.value_ref is None:
        return "a body of type ValueRef needs valueRef"
    ref = Ref.of(ConfigMap, namespace, spec.value_ref.name)
    config_map = get(db, ConfigMap, ref)
    if config_map is None:
        return f"its body is in {ref}, which {absence(db, ref)}"
    if BODY_KEY in config_map.data or config_map.data:
        return config_map.data.get(BODY_KEY, config_map.data[min(config_map.data)]).encode()
    if config_map.binary_data:
        return config_map.binary_data[min(config_map.binary_data)]
    return f"its body is in {ref}, which is empty; it needs the key {BODY_KEY}"
