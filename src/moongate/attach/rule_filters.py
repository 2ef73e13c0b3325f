"""Checks of a rule's filters: their valid settings, and their problems by condition.

Theory of operation
===================
``rule_filters`` checks the filters of a rule, once for all readers, and builds nothing; ``xds.route_filters``
applies the valid settings to Envoy routes. A rule with a faulty filter answers 500, and the status reports
the fault; the other rules of the route are served.

Filters are read in order. After a filter that answers the request itself, or a faulty one, the following
filters are not read, because no request would reach them.

Source: Gateway API, HTTPRouteFilter; Envoy Gateway's rules for combinations.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from msgspec import Struct, structs

from moongate.api.httproute import (
    HTTPCORSFilter,
    HTTPExternalAuthFilter,
    HTTPPathModifier,
    HTTPRequestRedirectFilter,
    HTTPRouteFilter,
)
from moongate.api.httproutefilter import HTTPHostnameModifier, HTTPRouteMatchFilter, ReplaceRegexMatch
from moongate.api.route import (
    HTTPHeader,
    HTTPHeaderFilter,
    RequestBackendRef,
    RequestRule,
    Route,
    RouteFilter,
)
from moongate.api.shared import CONNECTION_HEADERS, FRAMING_HEADERS, BackendObjectReference, Fraction
from moongate.attach.backends import named, permitted, target, why_empty
from moongate.attach.extension_filters import DirectResponse, extension
from moongate.attach.replacements import path_fault, unfinished_command
from moongate.attach.route_kinds import route_kind
from moongate.engine import query
from moongate.problem import Problem
from moongate.store import get

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.base import Ref
    from moongate.api.httproute import HTTPURLRewriteFilter
    from moongate.api.route import RouteBackendRef, RouteRule, SessionPersistence
    from moongate.api.shared import LocalObjectReference
    from moongate.attach.extension_filters import Extension
    from moongate.engine import Db

REDIRECT_STATUSES: Final = (301, 302, 303, 307, 308)
FULL_PATH: Final = "ReplaceFullPath"
PREFIX: Final = "ReplacePrefixMatch"
"""Types of a path modifier."""

MOST_BODY: Final = 2**32 - 1
"""Bytes of a body that an external server may be shown: what Envoy can say."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110, token: the name of a header or cookie."""
_HEADER_VALUE = re.compile(r"[!-~]+([\t ][!-~]+)*")
_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")


class Mirror(Struct, frozen=True):
    """One mirror of a rule.

    Args:
        index: position of the filter in the rule; part of the mirror's cluster name.
        backend: where copies go.
        millionths: share of the requests that are copied, 0 .. 1_000_000; all for ``None``.
    """

    index: int
    backend: BackendObjectReference
    millionths: int | None


class Rewrite(Struct, frozen=True):
    """Host and path as the backend sees them, all filters of a rule taken together.

    Args:
        hostname: a literal host.
        path: a literal path, or beginning of it.
        host: where the host is taken from, as an HTTPRouteFilter says it.
        regex: what is replaced in the path, as an HTTPRouteFilter says it.
        append_x_forwarded_host: whether a rewritten host is passed on as well; it is for ``None``.
    """

    hostname: str | None = None
    path: HTTPPathModifier | None = None
    host: HTTPHostnameModifier | None = None
    regex: ReplaceRegexMatch | None = None
    append_x_forwarded_host: bool | None = None


class RuleFilters(Struct, frozen=True):
    """The filters of a rule, judged; what is wrong with its sessionPersistence counts as a fault of them.

    Args:
        request: header changes on the way in, in order; only what is valid of them.
        response: header changes on the way out, likewise.
        direct: answered by Envoy itself.
        redirect: answered instead of forwarding.
        rewrite: host and path as the backend sees them.
        mirrors: where copies go.
        cors: the rule's own CORS settings.
        matches: what requests must have besides what the rule's matches say; any one of them.
        refused: faults that make the rule unacceptable: condition ``Accepted``.
        unresolved: references that lead nowhere: condition ``ResolvedRefs``.
        without_endpoints: backends of filters that have none: condition ``BackendsAvailable``.
    """

    request: tuple[HTTPHeaderFilter, ...] = ()
    response: tuple[HTTPHeaderFilter, ...] = ()
    direct: DirectResponse | None = None
    redirect: HTTPRequestRedirectFilter | None = None
    rewrite: Rewrite | None = None
    mirrors: tuple[Mirror, ...] = ()
    cors: HTTPCORSFilter | None = None
    matches: tuple[HTTPRouteMatchFilter, ...] = ()
    refused: tuple[Problem, ...] = ()
    unresolved: tuple[Problem, ...] = ()
    without_endpoints: tuple[Problem, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether the rule answers 500 because of a faulty filter."""
        return bool(self.refused or self.unresolved)

    @property
    def forwards(self) -> bool:
        """Whether requests go on to a backend, as far as filters are concerned."""
        return not self.failed and self.direct is None and self.redirect is None


_NO_FILTERS: Final = RuleFilters()


def rule_filters(db: Db, route: Route, index: int) -> RuleFilters:
    """The filters of a rule; there are none where a route looks at no requests."""
    rule = route.spec.rules[index]
    if not isinstance(rule, RequestRule) or not (rule.filters or rule.session_persistence):
        return _NO_FILTERS
    return _rule_filters(db, route.ref, index)


@query
def _rule_filters(db: Db, route: Ref, index: int) -> RuleFilters:
    resource = get(db, Route, route)
    if resource is None or index >= len(resource.spec.rules):
        return _NO_FILTERS
    return judged_filters(db, route, resource.spec.rules[index])


def judged_filters(db: Db, route: Ref, rule: RouteRule) -> RuleFilters:
    """Judge the filters of a rule, and how it keeps sessions."""
    draft = _Draft(db, route)
    if not isinstance(rule, RequestRule):
        return _NO_FILTERS
    if rule.session_persistence is not None:
        draft.keep(rule.session_persistence)
    filters = iter(enumerate(rule.filters))
    for n, each in filters:
        if not draft.add(n, each):
            break
    for n, each in filters:
        draft.ask(n, each)  # a server is asked before any answer, wherever its filter stands
    return draft.judged()


class _Draft:
    """The filters of a rule that were read so far."""

    def __init__(self, db: Db, route: Ref) -> None:
        self._db = db
        self._route = route
        self._request: list[HTTPHeaderFilter] = []
        self._response: list[HTTPHeaderFilter] = []
        self._direct: DirectResponse | None = None
        self._redirect: HTTPRequestRedirectFilter | None = None
        self._rewrite: Rewrite | None = None
        self._mirrors: list[Mirror] = []
        self._cors: HTTPCORSFilter | None = None
        self._matches: tuple[HTTPRouteMatchFilter, ...] = ()
        self._asked = False
        self._refused: list[Problem] = []
        self._unresolved: list[Problem] = []
        self._without_endpoints: list[Problem] = []

    def add(self, n: int, route_filter: RouteFilter) -> bool:
        """Read one more; False if those after it are never reached."""
        path = f"filters[{n}]"
        of_http = route_filter if isinstance(route_filter, HTTPRouteFilter) else None
        self.ask(n, route_filter)
        match route_filter.type:
            case "RequestHeaderModifier":
                if (headers := route_filter.request_header_modifier) is not None:
                    self._request.append(self._headers(f"{path}.requestHeaderModifier", headers))
            case "ResponseHeaderModifier":
                if (headers := route_filter.response_header_modifier) is not None:
                    self._response.append(self._headers(f"{path}.responseHeaderModifier", headers))
            case "RequestMirror":
                if (mirror := route_filter.request_mirror) is not None:
                    share = _millionths(mirror.percent, mirror.fraction)
                    self._mirrors.append(Mirror(n, mirror.backend_ref, share))
            case "ExtensionRef" if (ref := route_filter.extension_ref) is not None:
                return self._extend(path, extension(self._db, ref, self._route.namespace))
            case "RequestRedirect" if of_http is not None:
                if (redirect := of_http.request_redirect) is not None:
                    self._redirects(f"{path}.requestRedirect", redirect)
            case "URLRewrite" if of_http is not None:
                if (rewrite := of_http.url_rewrite) is not None:
                    self._rewrites(f"{path}.urlRewrite", rewrite)
            case "ExternalAuth" if of_http is not None:
                pass
            case "CORS" if of_http is not None:
                self._cors = of_http.cors or self._cors
            case "ExtensionRef":
                self._refuse(path, "A filter of type ExtensionRef needs extensionRef.")
                return False
            case _:
                self._refuse(path, f"The filter type {route_filter.type!r} is not supported.")
                return False
        return True

    def ask(self, n: int, route_filter: RouteFilter) -> None:
        """Read which server is asked who may pass, if the filter says it."""
        if not isinstance(route_filter, HTTPRouteFilter):
            return
        if route_filter.external_auth is not None:
            self._asks(f"filters[{n}].externalAuth", route_filter.external_auth)
        elif route_filter.type == "ExternalAuth":
            self._refuse(f"filters[{n}]", "A filter of type ExternalAuth needs externalAuth.")

    def keep(self, session: SessionPersistence) -> None:
        """Read how sessions are kept."""
        name, path = session.session_name or "", "sessionPersistence.sessionName"
        if name and not _TOKEN.fullmatch(name):
            self._refuse(path, f"sessionName is {name!r}; it must be letters, digits and hyphens.")
        elif session.type == "Header" and name.lower() in CONNECTION_HEADERS:
            message = f"sessionName is {name!r}, a header that says how a request is sent; take another."
            self._refuse(path, message)

    def judged(self) -> RuleFilters:
        mirrored = any(mirror.millionths != 0 for mirror in self._mirrors)
        if mirrored and (self._direct is not None or self._redirect is not None):
            other = "a direct response" if self._direct is not None else "requestRedirect"
            message = f"requestMirror cannot go with {other}: what is not forwarded is not copied."
            self._refused.append(Problem("filters", message, "IncompatibleFilters"))
        return RuleFilters(
            request=tuple(self._request),
            response=tuple(self._response),
            direct=self._direct,
            redirect=self._redirect,
            rewrite=self._rewrite,
            mirrors=tuple(self._mirrors),
            cors=self._cors,
            matches=self._matches,
            refused=tuple(self._refused),
            unresolved=tuple(self._unresolved),
            without_endpoints=tuple(self._without_endpoints),
        )

    def _refuse(self, path: str, message: str) -> None:
        self._refused.append(Problem(path, message, "UnsupportedValue"))

    def _headers(self, path: str, headers: HTTPHeaderFilter) -> HTTPHeaderFilter:
        for fault in _header_faults(headers):
            self._refuse(path, fault)
        return _valid_headers(headers)

    def _redirects(self, path: str, redirect: HTTPRequestRedirectFilter) -> None:
        if self._redirect is not None:
            self._refuse(path, "A rule can have one requestRedirect filter, not several.")
        elif (fault := _redirect_fault(redirect)) is not None:
            self._refuse(path, fault)
        else:
            self._redirect = redirect

    def _rewrites(self, path: str, rewrite: HTTPURLRewriteFilter) -> None:
        before = self._rewrite or Rewrite()
        several = before.hostname is not None or before.path is not None
        clash = (rewrite.hostname is not None and before.host is not None) or (
            rewrite.path is not None and before.regex is not None
        )
        if (several and (rewrite.hostname is not None or rewrite.path is not None)) or clash:
            self._refuse(path, "Host and path can each be rewritten by one filter of a rule, not by several.")
        elif (fault := _hostname_fault(rewrite.hostname) or _path_fault(rewrite.path)) is not None:
            self._refuse(path, fault)
        else:
            self._rewrite = structs.replace(
                before, hostname=rewrite.hostname or before.hostname, path=rewrite.path or before.path
            )

    def _asks(self, path: str, auth: HTTPExternalAuthFilter) -> None:
        if self._asked:
            self._refuse(path, "A rule can have one externalAuth filter, not several.")
            return
        self._asked = True
        if (fault := _auth_fault(auth)) is not None:
            self._refuse(path, fault)
        at = target(auth.backend_ref, self._route.namespace)
        judged = named(at, permitted(self._db, self._route, at, False))
        if judged.problem is not None:
            self._unresolved.append(judged.problem.under(f"{path}.backendRef"))
        elif judged.empty:
            why = why_empty(self._db, at)
            message = f"{at.ref} has no endpoints{why}. Nobody can be asked, so nobody passes."
            self._without_endpoints.append(Problem(f"{path}.backendRef", message, "EndpointsNotFound"))

    def _extend(self, path: str, extra: Extension) -> bool:
        if extra.unresolved is not None:
            self._unresolved.append(extra.unresolved.under(f"{path}.extensionRef"))
            return False
        if extra.refused is not None:
            self._refused.append(extra.refused.under(path))
            return False
        if extra.matches and self._matches:
            self._refuse(path, "One HTTPRouteFilter of a rule can have matches, not several.")
            return True
        self._matches = extra.matches or self._matches
        before = self._rewrite or Rewrite()
        rewrites = extra.hostname is not None or extra.path is not None
        clash = (extra.hostname is not None and before.hostname is not None) or (
            extra.path is not None and before.path is not None
        )
        if (rewrites and (before.host is not None or before.regex is not None)) or clash:
            self._refuse(path, "Host and path can each be rewritten by one filter of a rule, not by several.")
            return True
        if rewrites or extra.append_x_forwarded_host is not None:
            append = extra.append_x_forwarded_host
            self._rewrite = structs.replace(
                before,
                host=extra.hostname or before.host,
                regex=extra.path or before.regex,
                append_x_forwarded_host=before.append_x_forwarded_host if append is None else append,
            )
        least = route_kind(self._route.kind).least_direct_status
        if extra.response is not None and extra.response.status < least:
            message = (
                f"The direct response has the status {extra.response.status}, which tells a client of a "
                f"{self._route.kind} that all went well, but it has no message. Take {least} or higher."
            )
            self._refuse(path, message)
        elif extra.response is not None:
            self._direct = extra.response
            self._response += [self._headers(path, headers) for headers in extra.response.headers]
        return extra.response is None


def _auth_fault(auth: HTTPExternalAuthFilter) -> str | None:
    if auth.protocol == "GRPC" and auth.grpc is None:
        return "protocol GRPC needs grpc."
    if auth.protocol == "HTTP" and auth.http is None:
        return "protocol HTTP needs http."
    size = auth.forward_body.max_size if auth.forward_body is not None else None
    if size is not None and not 0 <= size <= MOST_BODY:
        return f"forwardBody.maxSize is {size}; it must be from 0 to {MOST_BODY} bytes."
    return None


def backend_filters(ref: RouteBackendRef) -> tuple[RouteFilter, ...]:
    """The filters of a backendRef; there are none where a route looks at no requests."""
    return ref.filters if isinstance(ref, RequestBackendRef) else ()


def extension_refs(filters: tuple[RouteFilter, ...]) -> tuple[LocalObjectReference, ...]:
    """The HTTPRouteFilters that some filters name, each once."""
    return tuple(dict.fromkeys(each.extension_ref for each in filters if each.extension_ref is not None))


def rewrite_of(route_filter: RouteFilter) -> HTTPURLRewriteFilter | None:
    """The rewrite of host and path that a filter asks for, if it is valid."""
    return route_filter.url_rewrite if isinstance(route_filter, HTTPRouteFilter) else None


def backend_filter_problem(db: Db, route: Ref, ref: RouteBackendRef) -> Problem | None:
    """Why a backendRef cannot have these filters, or ``None``. Checked before the backend is resolved."""
    for each in backend_filters(ref):
        if each.extension_ref is not None:
            extra = extension(db, each.extension_ref, route.namespace)
            if not (extra.faulty or extra.of_backend):
                message = (
                    "an HTTPRouteFilter within a backendRef can have credentialInjection and nothing else"
                )
                return Problem("", message, "UnsupportedRefValue")
            continue
        rewrite = rewrite_of(each)
        if each.type == "URLRewrite" and rewrite is not None and rewrite.path is not None:
            message = "urlRewrite.path is not supported within a backendRef; a rule can have it"
            return Problem("", message, "UnsupportedRefValue")
        if each.type not in ("RequestHeaderModifier", "ResponseHeaderModifier", "URLRewrite"):
            message = f"the filter {each.type} is not supported within a backendRef"
            return Problem("", message, "UnsupportedRefValue")
    return None


def backend_filter_fault(db: Db, route: Ref, ref: RouteBackendRef) -> Problem | None:
    """The problem of a backendRef's filters, or ``None``. Checked after the backend is resolved."""
    for each in backend_filters(ref):
        faults: list[str] = []
        if each.extension_ref is not None:
            extra = extension(db, each.extension_ref, route.namespace)
            faults += [fault.message for fault in (extra.unresolved, extra.refused) if fault is not None]
        for headers in (each.request_header_modifier, each.response_header_modifier):
            faults += _header_faults(headers) if headers is not None else ()
        rewrite = rewrite_of(each)
        if rewrite is not None and (fault := _hostname_fault(rewrite.hostname)) is not None:
            faults.append(fault)
        if faults:
            return Problem("", faults[0].removesuffix("."), "InvalidBackendFilters")
    return None


def _header_faults(headers: HTTPHeaderFilter) -> Iterator[str]:
    for header in (*headers.add, *headers.set):
        if not _nameable(header.name):
            yield _unnameable(header.name)
        elif header.name.lower() in FRAMING_HEADERS:
            yield f"The header {header.name!r} says where a message ends, and cannot be set here."
        elif not _HEADER_VALUE.fullmatch(header.value):
            yield f"The header {header.name!r} has the value {header.value!r}, which no header may have."
        elif (command := unfinished_command(header.value)) is not None:
            yield (
                f"The header {header.name!r} has the value {header.value!r}, where the command {command!r} "
                "does not end with ')%'; a percent sign that begins no command is '%%'."
            )
    for name in headers.remove:
        if not _nameable(name):
            yield _unnameable(name)


def _valid_headers(changes: HTTPHeaderFilter) -> HTTPHeaderFilter:
    def valid(headers: tuple[HTTPHeader, ...]) -> tuple[HTTPHeader, ...]:
        return tuple(h for h in headers if _settable(h.name) and _HEADER_VALUE.fullmatch(h.value))

    removed = tuple(name for name in changes.remove if _nameable(name))
    return HTTPHeaderFilter(add=valid(changes.add), set=valid(changes.set), remove=removed)


def _nameable(name: str) -> bool:
    return bool(name) and name.lower() != "host" and "/" not in name and ":" not in name


def _settable(name: str) -> bool:
    return _nameable(name) and name.lower() not in FRAMING_HEADERS


def _unnameable(name: str) -> str:
    if not name:
        return "A header needs a name."
    return (
        f"The header {name!r} cannot be changed here: names with '/' or ':' are not headers,"
        " and Host is changed with urlRewrite."
    )


def _redirect_fault(redirect: HTTPRequestRedirectFilter) -> str | None:
    if redirect.scheme not in (None, "http", "https"):
        return f"scheme is {redirect.scheme!r}; it must be http or https."
    if redirect.status_code not in REDIRECT_STATUSES:
        statuses = ", ".join(map(str, REDIRECT_STATUSES))
        return f"statusCode is {redirect.status_code}; it must be one of {statuses}."
    path = redirect.path
    return _hostname_fault(redirect.hostname) or _path_type_fault(path) or _path_text_fault(path)


def _hostname_fault(hostname: str | None) -> str | None:
    if hostname is None:
        return None
    if not _DNS_NAME.fullmatch(hostname) or len(hostname) > 253:
        return f"hostname is {hostname!r}; it must be a DNS name in lower case."
    try:
        ipaddress.ip_address(hostname)
    except ValueError:
        return None
    return f"hostname is {hostname!r}, an IP address; it must be a DNS name."


def _path_type_fault(path: HTTPPathModifier | None) -> str | None:
    if path is None or path.type in (FULL_PATH, PREFIX):
        return None
    return f"path.type is {path.type!r}; it must be {FULL_PATH} or {PREFIX}."


def _path_fault(path: HTTPPathModifier | None) -> str | None:
    if path is None:
        return None
    if (fault := _path_type_fault(path)) is not None:
        return fault
    values = {FULL_PATH: path.replace_full_path, PREFIX: path.replace_prefix_match}
    field = "replaceFullPath" if path.type == FULL_PATH else "replacePrefixMatch"
    if values.pop(path.type) is None or any(value is not None for value in values.values()):
        return f"path.type is {path.type}, so {field} must be set, and nothing else."
    return _path_text_fault(path)


def _path_text_fault(path: HTTPPathModifier | None) -> str | None:
    if path is None:
        return None
    if path.replace_full_path is not None and (fault := path_fault(path.replace_full_path)) is not None:
        return f"path.replaceFullPath {fault}."
    # An empty replacement takes the prefix off.
    if path.replace_prefix_match and (fault := path_fault(path.replace_prefix_match)) is not None:
        return f"path.replacePrefixMatch {fault}."
    return None


def _millionths(percent: int | None, fraction: Fraction | None) -> int | None:
    if fraction is not None:
        return fraction.numerator * 1_000_000 // max(fraction.denominator, 1)
    return percent * 10_000 if percent is not None else None
