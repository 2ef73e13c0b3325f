"""Keep the requests of a session with the endpoint that had the first of them.

Set by:      HTTPRoute and GRPCRoute ``rules[].sessionPersistence``
Precedence:  no policy has such a field; a session goes before the load balancer of any policy
Envoy:       ``envoy.filters.http.stateful_session``, with a cookie or header that has the endpoint's address
Cases:       session_persistence.md beside this file: its reference page and its golden tests

Facts
=====
* the address stands in the cookie or header, so a session outlives moongate and Envoy
* an endpoint that is gone, or not healthy, is replaced by another, and the client is told of it
* Envoy looks for the endpoint in the cluster that it has chosen by weight. So the backends of a rule share a
  cluster where they can
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.extensions.filters.http.stateful_session.v3.stateful_session_pb2 import (
    StatefulSession,
    StatefulSessionPerRoute,
)
from envoy.extensions.http.stateful_session.cookie.v3.cookie_pb2 import CookieBasedSessionState
from envoy.extensions.http.stateful_session.header.v3.header_pb2 import HeaderBasedSessionState

from moongate.api.httproute import HTTPPathMatch
from moongate.api.route import RequestRule, SessionPersistence
from moongate.features.base import Effective, Feature, HttpFilter, MatchedRule, Native
from moongate.features.shared import duration
from moongate.xds.wire import packed

if TYPE_CHECKING:
    from moongate.api.route import RouteRule
    from moongate.engine import Db

_LITERAL = re.compile(r"[^\\.+*?()|\[\]{}^$]*")


def native(rule: RouteRule) -> SessionPersistence | None:
    return rule.session_persistence if isinstance(rule, RequestRule) else None


def _one_cluster(_session: SessionPersistence) -> bool:
    return True


def _chain(_db: Db, _session: Effective[SessionPersistence]) -> StatefulSession:
    return StatefulSession()


def _stable(_session: SessionPersistence | None) -> StatefulSession:
    return StatefulSession()


def _route(_db: Db, session: Effective[SessionPersistence]) -> StatefulSessionPerRoute:
    return _of_match(session, MatchedRule("session", HTTPPathMatch()))


def _of_match(session: Effective[SessionPersistence], rule: MatchedRule) -> StatefulSessionPerRoute:
    spec = session.value
    name = spec.session_name or rule.name.replace("/", "-")
    if spec.type == "Header":
        kind, state = "header", HeaderBasedSessionState(name=name)
    else:
        kind, state = "cookie", CookieBasedSessionState()
        state.cookie.name, state.cookie.path = name, cookie_path(rule.path)
        lasts = spec.cookie_config is not None and spec.cookie_config.lifetime_type == "Permanent"
        if lasts and spec.absolute_timeout is not None:
            state.cookie.ttl.CopyFrom(duration(spec.absolute_timeout))
    extension = TypedExtensionConfig(name=f"envoy.http.stateful_session.{kind}", typed_config=packed(state))
    return StatefulSessionPerRoute(stateful_session=StatefulSession(session_state=extension))


def cookie_path(path: HTTPPathMatch) -> str:
    """The path of a cookie for all requests that a match on the path takes.

    >>> cookie_path(HTTPPathMatch(type="RegularExpression", value="/carts/[0-9]+/items"))
    '/carts'
    """
    if path.type != "RegularExpression":
        return path.key[1]
    if "|" in path.value:
        return "/"
    literal = _LITERAL.match(path.value)
    begin = literal[0] if literal is not None else ""
    if path.value[len(begin) :].startswith(("*", "?", "{")):
        begin = begin[:-1]  # it may be missing
    return begin.rpartition("/")[0] or "/"


FEATURE = Feature(
    model=SessionPersistence,
    native=Native(read=native),
    one_cluster=_one_cluster,
    http_filter=HttpFilter(
        name="envoy.filters.http.stateful_session",
        disabled=True,
        chain=_chain,
        route=_route,
        of_match=_of_match,
        stable=_stable,
    ),
)
