"""Hints: what one resource alone says, that is valid, and that hardly anybody means.

Such a resource has no effect, or quietly answers all requests with an error, or is nothing that the Gateway
API allows. It is in force as it is written, so no condition reports it. The hint says what happens to
requests.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from moongate.api.backend import Backend
from moongate.api.base import fields_of
from moongate.api.core import EndpointSlice
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway
from moongate.api.httproute import HTTPRouteRule
from moongate.api.listenerset import ListenerSet
from moongate.api.route import ConnectionRule, RequestRule, Route, SessionPersistence
from moongate.api.tlsroute import TLSRoute
from moongate.attach.backends import is_ip
from moongate.attach.listener_sets import parent_of_set
from moongate.attach.policies import Policy
from moongate.attach.route_kinds import KIND_FILTERS, route_kind
from moongate.attach.routes import parent_of
from moongate.features import FEATURES
from moongate.problem import Problem
from moongate.xds.sinks import sinks_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moongate.api.base import Resource
    from moongate.api.envoyproxy import FilterPosition
    from moongate.api.gateway import Listener
    from moongate.api.route import RouteRule

UNUSED = "Unused"
"""Reason of a hint: a resource, or a part of one, has no effect."""
CLOSED = "Closed"
"""Reason of a hint: all requests that come this way are answered with an error."""

NOT_PORTABLE = "NotPortable"
"""Reason of a hint: it is served here, as by Envoy Gateway, but the Gateway API rules it out."""

REASONS = frozenset({UNUSED, CLOSED, NOT_PORTABLE})
"""Reasons of hints: what has one is in force as it is written."""

_ANSWERING = ("RequestRedirect", "ExtensionRef")
"""Types of filters that may answer a request, so that its rule needs no backend."""

_FILTERS = frozenset(
    each.name
    for each in (*(one for f in FEATURES for one in (f.http_filter, f.listener_filter)), *KIND_FILTERS)
    if each is not None
)
"""The HTTP filters that a chain may have, by name."""

_PATTERN = re.compile(r"\*|/:\w+")
"""What stands for any text in the paths of other routers: `*` and `:name`. A `{name}` is refused before."""


def hints(resource: Resource | None) -> Iterator[Problem]:
    """The hints about one resource, at their fields."""
    match resource:
        case Route():
            yield from _of_parents(resource)
            for n, hostname in enumerate(resource.hostnames):
                by_name = resource.KIND == TLSRoute.KIND
                yield from _of_hostname(f"spec.hostnames[{n}]", hostname, by_name=by_name)
            for n, rule in enumerate(resource.spec.rules):
                yield from (problem.under(f"spec.rules[{n}]") for problem in _of_rule(resource.KIND, rule))
                yield from (problem.under(f"spec.rules[{n}]") for problem in _of_paths(rule))
        case EnvoyProxy():
            for sink in sinks_of(resource.spec.telemetry, metrics=True):
                if sink.settings is not None and sink.settings.retry is not None:
                    message = "What is reported is sent once; retry has no effect, as in Envoy Gateway."
                    yield Problem(f"{sink.path}.backendSettings.retry", message, UNUSED)
            yield from _of_moves(resource.spec.filter_order)
        case Gateway():
            yield from _of_listeners(resource.spec.listeners)
        case ListenerSet():
            yield from _of_listeners(resource.spec.listeners)
            if parent_of_set(resource) is None:
                message = (
                    f"The parent is a {resource.spec.parent_ref.kind}; only a Gateway takes listeners, so "
                    "these are not served, and no status reports it."
                )
                yield Problem("spec.parentRef", message, UNUSED)
        case Backend():
            for n, endpoint in enumerate(resource.spec.endpoints):
                for kind, at in (("ip", endpoint.ip), ("fqdn", endpoint.fqdn)):
                    if at is not None and at.port == 0:
                        message = "The port is 0, where nothing can listen. Requests are answered with 503."
                        yield Problem(f"spec.endpoints[{n}].{kind}.port", message, CLOSED)
        case EndpointSlice():
            for n, port in enumerate(resource.ports):
                if port.port == 0:
                    message = "The port is 0, where nothing can listen. Requests are answered with 503."
                    yield Problem(f"ports[{n}].port", message, CLOSED)
        case Policy():
            names = {field.name: field.encode_name for field in fields_of(type(resource.spec))}
            for feature in FEATURES:
                if feature.kind == resource.KIND and feature.hints is not None:
                    value = feature.of(resource.spec)
                    for problem in feature.hints(value) if value is not None else ():
                        yield problem.under(f"spec.{names[feature.field]}")
        case _:
            return


def _of_moves(moves: Sequence[FilterPosition]) -> Iterator[Problem]:
    """The moves of filters that never stand in a chain. One that no route uses yet may come."""
    for n, move in enumerate(moves):
        for field, type_ in (("name", move.name), ("before", move.before), ("after", move.after)):
            if type_ is not None and not any(name.startswith(type_) for name in _FILTERS):
                message = f"{type_} is not built yet, and stands in no chain. So this move has no effect."
                yield Problem(f"spec.filterOrder[{n}].{field}", message, UNUSED)


def _of_parents(route: Route) -> Iterator[Problem]:
    if not route.spec.parent_refs and not route.by_default:
        message = "The route names no parent, so no request comes here. Name a Gateway."
        yield Problem("spec.parentRefs", message, UNUSED)
    for n, parent in enumerate(route.spec.parent_refs):
        if parent_of(parent, route.metadata.namespace) is None:
            message = (
                f"The parent is a {parent.kind}; only a Gateway or a ListenerSet is served here, so no "
                "request comes by this parent, and no status reports it."
            )
            yield Problem(f"spec.parentRefs[{n}]", message, UNUSED)


def _of_listeners(listeners: Sequence[Listener]) -> Iterator[Problem]:
    for n, listener in enumerate(listeners):
        by_name = listener.protocol in ("HTTPS", "TLS")
        yield from _of_hostname(f"spec.listeners[{n}].hostname", listener.hostname or "", by_name=by_name)


def _of_hostname(path: str, hostname: str, *, by_name: bool) -> Iterator[Problem]:
    """The hint about an IP address as a hostname.

    Args:
        path: of the hostname.
        hostname: as written.
        by_name: whether the name in the TLS handshake is compared with it, which is never an IP address.
    """
    if not is_ip(hostname):
        return
    if by_name:
        message = (
            f"{hostname} is an IP address. In a TLS handshake no client names one, so no connection comes "
            "here. Without a hostname, any connection to the port does."
        )
        yield Problem(path, message, UNUSED)
    else:
        message = (
            f"{hostname} is an IP address, and the Gateway API allows only names here. Requests whose Host "
            "is this address are served, but another gateway may refuse it. Without a hostname, requests "
            "for any host are taken."
        )
        yield Problem(path, message, NOT_PORTABLE)


def _of_paths(rule: RouteRule) -> Iterator[Problem]:
    """The paths with what other routers replace: here each character stands for itself."""
    for n, match in enumerate(rule.matches if isinstance(rule, HTTPRouteRule) else ()):
        path = match.path
        if path.type != "RegularExpression" and (pattern := _PATTERN.search(path.value)):
            message = (
                f"{pattern[0]!r} stands for itself in a path of type {path.type}, so hardly any request "
                "matches. A PathPrefix takes all that is below it; for a pattern, use RegularExpression."
            )
            yield Problem(f"matches[{n}].path.value", message, UNUSED)


def _of_rule(kind: str, rule: RouteRule) -> Iterator[Problem]:
    if isinstance(rule, ConnectionRule) and not any(ref.weight for ref in rule.backend_refs):
        message = "All backends of the rule have the weight 0. Nothing that comes here goes anywhere."
        yield Problem("backendRefs", message, CLOSED)
    if isinstance(rule, RequestRule) and rule.session_persistence is not None:
        yield from _of_session(rule.session_persistence)
    filters = rule.filters if isinstance(rule, RequestRule) else ()
    if not isinstance(rule, RequestRule) or any(each.type in _ANSWERING for each in filters):
        return
    effect = f"Requests are answered with {route_kind(kind).broken_status}."
    if not rule.backend_refs:
        message = f"The rule has no backend, and no filter that answers; add one of them. {effect}"
        yield Problem("", message, CLOSED)
    elif not any(ref.weight for ref in rule.backend_refs):
        message = f"All backends of the rule have the weight 0. {effect}"
        yield Problem("backendRefs", message, CLOSED)


def _of_session(session: SessionPersistence) -> Iterator[Problem]:
    """The hint about an end that a session never comes to."""
    config = session.cookie_config
    if session.absolute_timeout is None or (config is not None and config.lifetime_type == "Permanent"):
        return
    if session.type == "Header":
        message = "A session of type Header ends when the client leaves the header out; this ends none."
    else:
        message = (
            "The cookie ends with the browser, and this ends none. With cookieConfig: {lifetimeType: "
            "Permanent} the cookie is kept for this time."
        )
    yield Problem("sessionPersistence.absoluteTimeout", message, UNUSED)
