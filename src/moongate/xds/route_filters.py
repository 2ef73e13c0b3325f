"""The filters of an HTTPRoute rule: header modifiers, redirect, rewrite, mirrors, CORS, HTTPRouteFilters.

Theory of operation
===================
``read_filters`` judges the filters of a rule once, without building anything: what is valid, and what is
wrong under which condition. ``routes`` then applies what is left to Envoy routes. A filter that is wrong
fails its rule with 500, and says so; the other rules of the route go on.

Filters are read in order. One that answers by itself, or that cannot be honoured at all, ends the reading:
what stands after it would never be reached.

Source: Gateway API, HTTPRouteFilter; the reference's combination rules.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.config.route.v3.route_components_pb2 import RedirectAction, Route, RouteAction
from envoy.type.matcher.v3.regex_pb2 import RegexMatchAndSubstitute
from msgspec import Struct, structs

from moongate.api.httproute import (
    HTTPCORSFilter,
    HTTPPathModifier,
    HTTPRequestRedirectFilter,
    HTTPRouteFilter,
)
from moongate.api.httproutefilter import HTTPHostnameModifier, HTTPRouteMatchFilter, ReplaceRegexMatch
from moongate.api.route import HTTPHeader, HTTPHeaderFilter, RequestBackendRef, RequestRule, RouteFilter
from moongate.api.shared import BackendObjectReference, Fraction
from moongate.attach.extension_filters import DirectResponse, extension
from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from moongate.api.base import Ref
    from moongate.api.httproute import (
        HTTPPathMatch,
        HTTPURLRewriteFilter,
    )
    from moongate.api.route import RouteBackendRef, RouteRule
    from moongate.attach.extension_filters import Extension
    from moongate.engine import Db

_VALUE = re.compile(r"[!-~]+([\t ]?[!-~]+)*")
_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")

_REDIRECTS: Final = {
    301: RedirectAction.MOVED_PERMANENTLY,
    302: RedirectAction.FOUND,
    303: RedirectAction.SEE_OTHER,
    307: RedirectAction.TEMPORARY_REDIRECT,
    308: RedirectAction.PERMANENT_REDIRECT,
}

_FULL, _PREFIX = "ReplaceFullPath", "ReplacePrefixMatch"


class Mirror(Struct, frozen=True):
    """One mirror of a rule.

    Args:
        index: position of the filter in the rule; part of the mirror's cluster name.
        backend: where copies go.
        millionths: share of the requests that are copied, 1 .. 1_000_000; all for ``None``.
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
    """The filters of a rule, judged.

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

    @property
    def failed(self) -> bool:
        """Whether the rule answers 500 for a filter that cannot be honoured."""
        return bool(self.refused or self.unresolved)

    @property
    def forwards(self) -> bool:
        """Whether requests go on to a backend, as far as filters are concerned."""
        return not self.failed and self.direct is None and self.redirect is None


def read_filters(db: Db, route: Ref, rule: RouteRule) -> RuleFilters:
    """Judge the filters of a rule; there are none where a route looks at no requests."""
    draft = _Draft(db, route)
    for n, given in enumerate(rule.filters if isinstance(rule, RequestRule) else ()):
        if not draft.add(n, given):
            break
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
        self._refused: list[Problem] = []
        self._unresolved: list[Problem] = []

    def add(self, n: int, given: RouteFilter) -> bool:
        """Read one more; False if those after it are never reached."""
        path = f"filters[{n}]"
        of_http = given if isinstance(given, HTTPRouteFilter) else None
        match given.type:
            case "RequestHeaderModifier":
                if (headers := given.request_header_modifier) is not None:
                    self._request.append(self._headers(f"{path}.requestHeaderModifier", headers))
            case "ResponseHeaderModifier":
                if (headers := given.response_header_modifier) is not None:
                    self._response.append(self._headers(f"{path}.responseHeaderModifier", headers))
            case "RequestRedirect" if of_http is not None:
                if (redirect := of_http.request_redirect) is not None:
                    self._redirects(f"{path}.requestRedirect", redirect)
            case "URLRewrite" if of_http is not None:
                if (rewrite := of_http.url_rewrite) is not None:
                    self._rewrites(f"{path}.urlRewrite", rewrite)
            case "RequestMirror":
                if (mirror := given.request_mirror) is not None:
                    share = _millionths(mirror.percent, mirror.fraction)
                    if share != 0:
                        self._mirrors.append(Mirror(n, mirror.backend_ref, share))
            case "CORS" if of_http is not None:
                self._cors = of_http.cors or self._cors
            case "ExtensionRef" if given.extension_ref is not None:
                return self._extend(path, extension(self._db, given.extension_ref, self._route.namespace))
            case _:
                told = f"The filter type {given.type!r} is not supported."
                if given.type == "ExtensionRef":
                    told = "A filter of type ExtensionRef needs extensionRef."
                self._refuse(path, told)
                return False
        return True

    def judged(self) -> RuleFilters:
        if self._mirrors and (self._direct is not None or self._redirect is not None):
            other = "a direct response" if self._direct is not None else "requestRedirect"
            told = f"requestMirror cannot go with {other}: what is not forwarded is not copied."
            self._refused.append(Problem("filters", told, "IncompatibleFilters"))
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
        )

    def _refuse(self, path: str, message: str) -> None:
        self._refused.append(Problem(path, message, "UnsupportedValue"))

    def _headers(self, path: str, given: HTTPHeaderFilter) -> HTTPHeaderFilter:
        for fault in _header_faults(given):
            self._refuse(path, fault)
        return _valid_headers(given)

    def _redirects(self, path: str, given: HTTPRequestRedirectFilter) -> None:
        if self._redirect is not None:
            self._refuse(path, "A rule can have one requestRedirect filter, not several.")
        elif (fault := _redirect_fault(given)) is not None:
            self._refuse(path, fault)
        else:
            self._redirect = given

    def _rewrites(self, path: str, given: HTTPURLRewriteFilter) -> None:
        held = self._rewrite or Rewrite()
        several = held.hostname is not None or held.path is not None
        clash = (given.hostname is not None and held.host is not None) or (
            given.path is not None and held.regex is not None
        )
        if (several and (given.hostname is not None or given.path is not None)) or clash:
            self._refuse(path, "Host and path can each be rewritten by one filter of a rule, not by several.")
        elif (fault := _hostname_fault(given.hostname) or _path_fault(given.path)) is not None:
            self._refuse(path, fault)
        else:
            self._rewrite = structs.replace(
                held, hostname=given.hostname or held.hostname, path=given.path or held.path
            )

    def _extend(self, path: str, given: Extension) -> bool:
        if given.unresolved is not None:
            self._unresolved.append(given.unresolved.under(path))
            return False
        if given.refused is not None:
            self._refused.append(given.refused.under(path))
            return False
        if given.matches and self._matches:
            self._refuse(path, "One HTTPRouteFilter of a rule can have matches, not several.")
            return True
        self._matches = given.matches or self._matches
        held = self._rewrite or Rewrite()
        rewrites = given.hostname is not None or given.path is not None
        clash = (given.hostname is not None and held.hostname is not None) or (
            given.path is not None and held.path is not None
        )
        if (rewrites and (held.host is not None or held.regex is not None)) or clash:
            self._refuse(path, "Host and path can each be rewritten by one filter of a rule, not by several.")
            return True
        if rewrites or given.append_x_forwarded_host is not None:
            append = given.append_x_forwarded_host
            self._rewrite = structs.replace(
                held,
                host=given.hostname or held.host,
                regex=given.path or held.regex,
                append_x_forwarded_host=held.append_x_forwarded_host if append is None else append,
            )
        if given.response is not None:
            self._direct = given.response
            self._response += [_valid_headers(headers) for headers in given.response.headers]
        return given.response is None


def backend_filters(ref: RouteBackendRef) -> tuple[RouteFilter, ...]:
    """The filters of a backendRef; there are none where a route looks at no requests."""
    return ref.filters if isinstance(ref, RequestBackendRef) else ()


def rewrite_of(given: RouteFilter) -> HTTPURLRewriteFilter | None:
    """What a filter says of host and path, if it can."""
    return given.url_rewrite if isinstance(given, HTTPRouteFilter) else None


def backend_filter_problem(ref: RouteBackendRef) -> Problem | None:
    """Why no backendRef can have filters like these, if so: judged before what it names."""
    for given in backend_filters(ref):
        rewrite = rewrite_of(given)
        if given.type == "URLRewrite" and rewrite is not None and rewrite.path is not None:
            told = "urlRewrite.path is not supported within a backendRef; a rule can have it"
            return Problem("", told, "UnsupportedRefValue")
        if given.type not in ("RequestHeaderModifier", "ResponseHeaderModifier", "URLRewrite"):
            told = f"the filter {given.type} is not supported within a backendRef"
            return Problem("", told, "UnsupportedRefValue")
    return None


def backend_filter_fault(ref: RouteBackendRef) -> Problem | None:
    """What is wrong with the filters of a backendRef, if anything: judged after what it names."""
    for given in backend_filters(ref):
        faults: list[str] = []
        for headers in (given.request_header_modifier, given.response_header_modifier):
            faults += _header_faults(headers) if headers is not None else ()
        rewrite = rewrite_of(given)
        if rewrite is not None and (fault := _hostname_fault(rewrite.hostname)) is not None:
            faults.append(fault)
        if faults:
            return Problem("", faults[0].removesuffix("."), "InvalidBackendFilters")
    return None


def header_options(filters: Iterable[HTTPHeaderFilter]) -> tuple[list[HeaderValueOption], list[str]]:
    """Envoy's header additions and removals. A name's first mention wins; ``add`` is read before ``set``."""
    options: list[HeaderValueOption] = []
    removed: list[str] = []
    seen: set[str] = set()
    for given in filters:
        for headers, action in (
            (given.add, HeaderValueOption.APPEND_IF_EXISTS_OR_ADD),
            (given.set, HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD),
        ):
            for header in headers:
                if header.name.lower() not in seen:
                    seen.add(header.name.lower())
                    value = HeaderValue(key=header.name, value=header.value)
                    options.append(HeaderValueOption(header=value, append_action=action))
        for name in given.remove:
            if name and name.lower() not in {r.lower() for r in removed}:
                removed.append(name)
    return options, removed


def apply_headers(message: Route, filters: RuleFilters) -> None:
    """Header changes of a rule, which hold for whatever the rule does."""
    for given, add, remove in (
        (filters.request, message.request_headers_to_add, message.request_headers_to_remove),
        (filters.response, message.response_headers_to_add, message.response_headers_to_remove),
    ):
        options, removed = header_options(given)
        add.extend(options)
        remove.extend(removed)


def redirect_action(
    given: HTTPRequestRedirectFilter, match: HTTPPathMatch, listener_port: int
) -> RedirectAction:
    """Envoy's redirect. Ports 80 and 443 are never named; without one, it follows scheme or listener."""
    action = RedirectAction(
        scheme_redirect=given.scheme or None,
        host_redirect=given.hostname or "",
        response_code=_REDIRECTS[given.status_code],
    )
    port = given.port or {"http": 80, "https": 443}.get(given.scheme or "", listener_port)
    if port not in (80, 443):
        action.port_redirect = port
    if given.path is not None:
        if given.path.type == _FULL and given.path.replace_full_path is not None:
            action.path_redirect = given.path.replace_full_path
        elif given.path.type == _PREFIX and (replacement := given.path.replace_prefix_match) is not None:
            if _swallows_prefix(match, replacement):
                action.regex_rewrite.CopyFrom(_without_prefix(match.value))
            else:
                action.prefix_rewrite = _new_prefix(match, replacement)
    return action


def apply_direct_response(message: Route, given: DirectResponse) -> None:
    """An answer of Envoy's own."""
    message.direct_response.status = given.status
    if given.body:
        message.direct_response.body_format.text_format_source.inline_bytes = given.body


def apply_rewrite(action: RouteAction, given: Rewrite, match: HTTPPathMatch) -> None:
    """Host and path as the backend sees them."""
    if given.path is not None:
        _rewrite_path(action, given.path, match)
    elif given.regex is not None:
        action.regex_rewrite.pattern.regex = given.regex.pattern
        action.regex_rewrite.substitution = given.regex.substitution
    if given.hostname is not None:
        action.host_rewrite_literal = given.hostname
    elif given.host is not None:
        _rewrite_host(action, given.host)
    else:
        return
    action.append_x_forwarded_host = given.append_x_forwarded_host is not False


def _rewrite_path(action: RouteAction, path: HTTPPathModifier, match: HTTPPathMatch) -> None:
    if path.type == _FULL and path.replace_full_path is not None:
        action.regex_rewrite.pattern.regex = "^/.*$"
        # What stands there is a path, and not a reference to a group.
        action.regex_rewrite.substitution = path.replace_full_path.replace("\\", r"\\")
    elif path.type == _PREFIX and (replacement := path.replace_prefix_match) is not None:
        if _swallows_prefix(match, replacement):
            action.regex_rewrite.CopyFrom(_without_prefix(match.value))
        else:
            action.prefix_rewrite = _new_prefix(match, replacement)


def _rewrite_host(action: RouteAction, host: HTTPHostnameModifier) -> None:
    if host.type == "Header" and host.header:
        action.host_rewrite_header = host.header
    elif host.type == "Backend":
        action.auto_host_rewrite.value = True
    elif host.path_regex is not None:
        action.host_rewrite_path_regex.pattern.regex = host.path_regex.pattern
        action.host_rewrite_path_regex.substitution = host.path_regex.substitution


def _swallows_prefix(match: HTTPPathMatch, replacement: str) -> bool:
    # Envoy's prefix rewrite to "/" leaves "//" behind (envoyproxy/envoy#26055).
    return match.type == "PathPrefix" and replacement in ("", "/")


def _new_prefix(match: HTTPPathMatch, replacement: str) -> str:
    # A prefix is matched without its last slash, so the slash in front of "/b" stays; but for the prefix "/",
    # which takes that slash with it.
    bare = replacement.removesuffix("/")
    return f"{bare}/" if (match.type, match.value) == ("PathPrefix", "/") else bare


def _without_prefix(prefix: str) -> RegexMatchAndSubstitute:
    rewrite = RegexMatchAndSubstitute(substitution="/")
    # The prefix "/a/" matches the path "/a" as well.
    rewrite.pattern.regex = "^" + quoted(prefix if prefix == "/" else prefix.removesuffix("/")) + r"\/*"
    return rewrite


def quoted(text: str) -> str:
    r"""``text`` as a RE2 pattern that matches just it.

    >>> quoted("/a.b-c")
    '/a\\.b-c'
    """
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)


def _header_faults(given: HTTPHeaderFilter) -> Iterator[str]:
    for header in (*given.add, *given.set):
        if not _nameable(header.name):
            yield _unnameable(header.name)
        elif not _VALUE.fullmatch(header.value):
            yield f"The header {header.name!r} has the value {header.value!r}, which no header may have."
    for name in given.remove:
        if not _nameable(name):
            yield _unnameable(name)


def _valid_headers(given: HTTPHeaderFilter) -> HTTPHeaderFilter:
    def valid(headers: tuple[HTTPHeader, ...]) -> tuple[HTTPHeader, ...]:
        return tuple(h for h in headers if _nameable(h.name) and _VALUE.fullmatch(h.value))

    removed = tuple(name for name in given.remove if _nameable(name))
    return HTTPHeaderFilter(add=valid(given.add), set=valid(given.set), remove=removed)


def _nameable(name: str) -> bool:
    return bool(name) and name.lower() != "host" and "/" not in name and ":" not in name


def _unnameable(name: str) -> str:
    if not name:
        return "A header needs a name."
    return (
        f"The header {name!r} cannot be changed here: names with '/' or ':' are not headers,"
        " and Host is changed with urlRewrite."
    )


def _redirect_fault(given: HTTPRequestRedirectFilter) -> str | None:
    if given.scheme not in (None, "http", "https"):
        return f"scheme is {given.scheme!r}; it must be http or https."
    if given.status_code not in _REDIRECTS:
        return f"statusCode is {given.status_code}; it must be one of {', '.join(map(str, _REDIRECTS))}."
    return _hostname_fault(given.hostname) or _path_type_fault(given.path)


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
    if path is None or path.type in (_FULL, _PREFIX):
        return None
    return f"path.type is {path.type!r}; it must be {_FULL} or {_PREFIX}."


def _path_fault(path: HTTPPathModifier | None) -> str | None:
    if path is None:
        return None
    if (fault := _path_type_fault(path)) is not None:
        return fault
    given = {_FULL: path.replace_full_path, _PREFIX: path.replace_prefix_match}
    wanted = "replaceFullPath" if path.type == _FULL else "replacePrefixMatch"
    if given.pop(path.type) is None or any(value is not None for value in given.values()):
        return f"path.type is {path.type}, so {wanted} must be set, and nothing else."
    return None


def _millionths(percent: int | None, fraction: Fraction | None) -> int | None:
    if fraction is not None:
        return fraction.numerator * 1_000_000 // max(fraction.denominator, 1)
    return percent * 10_000 if percent is not None else None
