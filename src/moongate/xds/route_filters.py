"""What the filters of a rule mean to its Envoy routes: headers, redirect, rewrite, direct response.

Source: envoy/config/route/v3/route_components.proto; the reference's shapes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.config.route.v3.route_components_pb2 import RedirectAction, Route, RouteAction
from envoy.type.matcher.v3.regex_pb2 import RegexMatchAndSubstitute

from moongate.attach.replacements import as_format
from moongate.attach.rule_filters import FULL_PATH, PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moongate.api.httproute import HTTPPathMatch, HTTPPathModifier, HTTPRequestRedirectFilter
    from moongate.api.httproutefilter import HTTPHostnameModifier
    from moongate.api.route import HTTPHeaderFilter
    from moongate.attach.extension_filters import DirectResponse
    from moongate.attach.rule_filters import Rewrite, RuleFilters

_REDIRECTS: Final = {
    301: RedirectAction.MOVED_PERMANENTLY,
    302: RedirectAction.FOUND,
    303: RedirectAction.SEE_OTHER,
    307: RedirectAction.TEMPORARY_REDIRECT,
    308: RedirectAction.PERMANENT_REDIRECT,
}
_WELL_KNOWN: Final = {"http": 80, "https": 443}
"""The port of each scheme that a URL need not name."""


def header_options(filters: Iterable[HTTPHeaderFilter]) -> tuple[list[HeaderValueOption], list[str]]:
    """Envoy's header additions and removals. A name's first mention wins; ``add`` is read before ``set``."""
    options: list[HeaderValueOption] = []
    removed: list[str] = []
    seen: set[str] = set()
    for changes in filters:
        for headers, action in (
            (changes.add, HeaderValueOption.APPEND_IF_EXISTS_OR_ADD),
            (changes.set, HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD),
        ):
            for header in headers:
                if header.name.lower() not in seen:
                    seen.add(header.name.lower())
                    value = HeaderValue(key=header.name, value=as_format(header.value.encode()).decode())
                    options.append(HeaderValueOption(header=value, append_action=action))
        for name in changes.remove:
            if name and name.lower() not in {r.lower() for r in removed}:
                removed.append(name)
    return options, removed


def apply_headers(message: Route, filters: RuleFilters) -> None:
    """Header changes of a rule, which hold for whatever the rule does."""
    for changes, add, remove in (
        (filters.request, message.request_headers_to_add, message.request_headers_to_remove),
        (filters.response, message.response_headers_to_add, message.response_headers_to_remove),
    ):
        options, removed = header_options(changes)
        add.extend(options)
        remove.extend(removed)


class Origin(NamedTuple):
    """Where requests come from, or where a redirect sends them.

    Args:
        scheme: ``http`` or ``https``.
        port: 1 .. 65535.
    """

    scheme: str
    port: int

    @property
    def well_known(self) -> bool:
        """Whether the port is the one that clients use for the scheme when a URL names none."""
        return self.port == _WELL_KNOWN[self.scheme]


def redirect_origin(redirect: HTTPRequestRedirectFilter, listener: Origin) -> Origin:
    """The scheme and port of a redirect. What it does not say is that of its scheme, or of the listener."""
    if redirect.scheme is None:
        return Origin(listener.scheme, redirect.port or listener.port)
    return Origin(redirect.scheme, redirect.port or _WELL_KNOWN[redirect.scheme])


def redirect_action(
    redirect: HTTPRequestRedirectFilter, match: HTTPPathMatch, listener: Origin
) -> RedirectAction:
    """Envoy's redirect. It names its port, unless it is the well-known one of its scheme."""
    action = RedirectAction(
        scheme_redirect=redirect.scheme or None,
        host_redirect=redirect.hostname or "",
        response_code=_REDIRECTS[redirect.status_code],
    )
    origin = redirect_origin(redirect, listener)
    if not origin.well_known:
        action.port_redirect = origin.port
    if redirect.path is not None:
        if redirect.path.type == FULL_PATH and redirect.path.replace_full_path is not None:
            action.path_redirect = redirect.path.replace_full_path
        elif redirect.path.type == PREFIX and (replacement := redirect.path.replace_prefix_match) is not None:
            if _swallows_prefix(match, replacement):
                action.regex_rewrite.CopyFrom(_without_prefix(match.value))
            else:
                action.prefix_rewrite = _new_prefix(match, replacement)
    return action


def without_request_port(message: Route, host: str, port: int) -> tuple[Route, ...]:
    """The Envoy routes of a redirect to a well-known port, under one hostname.

    Envoy keeps the port of a request's Host unless the redirect names a host or a port, and that port belongs
    to the listener. So the redirect names the hostname. Where the hostname is a wildcard, requests whose Host
    has a port match a route before the other, which names the well-known port.

    Args:
        message: the route, whose redirect names no port.
        host: the domain of its virtual host.
        port: the well-known port of the redirect's scheme.
    """
    if message.redirect.host_redirect:
        return (message,)
    if "*" not in host:
        named = Route()
        named.CopyFrom(message)
        named.redirect.host_redirect = host
        return (named,)
    ported = Route()
    ported.CopyFrom(message)
    ported.name = f"{message.name}/port"
    ported.match.headers.add(name=":authority").string_match.safe_regex.regex = ".*:[0-9]*"
    ported.redirect.port_redirect = port
    return (ported, message)


def apply_direct_response(message: Route, response: DirectResponse) -> None:
    """An answer of Envoy's own."""
    message.direct_response.status = response.status
    if response.body:
        message.direct_response.body_format.text_format_source.inline_bytes = as_format(response.body)


def apply_rewrite(action: RouteAction, rewrite: Rewrite, match: HTTPPathMatch) -> None:
    """Host and path as the backend sees them."""
    if rewrite.path is not None:
        _rewrite_path(action, rewrite.path, match)
    elif rewrite.regex is not None:
        action.regex_rewrite.pattern.regex = rewrite.regex.pattern
        action.regex_rewrite.substitution = rewrite.regex.substitution
    if rewrite.hostname is not None:
        action.host_rewrite_literal = rewrite.hostname
    elif rewrite.host is not None:
        _rewrite_host(action, rewrite.host)
    else:
        return
    action.append_x_forwarded_host = rewrite.append_x_forwarded_host is not False


def _rewrite_path(action: RouteAction, path: HTTPPathModifier, match: HTTPPathMatch) -> None:
    if path.type == FULL_PATH and path.replace_full_path is not None:
        action.regex_rewrite.pattern.regex = "^/.*$"
        # What stands there is a path, and not a reference to a group.
        action.regex_rewrite.substitution = path.replace_full_path.replace("\\", r"\\")
    elif path.type == PREFIX and (replacement := path.replace_prefix_match) is not None:
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
