"""HTTP/1: trailers, upper case in names of headers, HTTP/1.0, and upgrades that are not taken.

Set by:      ClientTrafficPolicy ``spec.http1``
Precedence:  the policy of the listener, else that of the Gateway, as a whole
Envoy:       HTTP connection manager, ``http_protocol_options``; the HTTP/1 options of clusters
Cases:       http1.md beside this file: its reference page and its golden tests

Facts
-----
* trailers and the case of names are lost at the first hop that does not keep them, so what a listener says
  of them also holds for the clusters of its routes
* a route on several listeners has its clusters once, with what the first of its listeners says that says
  anything
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions
from envoy.extensions.http.header_formatters.preserve_case.v3.preserve_case_pb2 import (
    PreserveCaseFormatterConfig,
)

from moongate.api.base import Model
from moongate.api.shared import StringMatch
from moongate.attach.default_hosts import default_host
from moongate.engine import Db
from moongate.features.base import ClusterEdit, Effective, Feature, ManagerEdit
from moongate.features.shared import string_matcher
from moongate.problem import Problem
from moongate.regex import regex_fault
from moongate.xds.wire import packed

if TYPE_CHECKING:
    from moongate.api.base import ListenerId


class HTTP10Settings(Model, frozen=True, kw_only=True):
    """Requests of HTTP/1.0."""

    use_default_host: bool | None = None
    """Whether a request without Host is for the hostname of the listener; if that has none or a wildcard, for
    the only hostname of its routes. Otherwise such a request is answered with 426."""


class HTTP1Settings(Model, frozen=True, kw_only=True):
    """HTTP/1 on a connection."""

    enable_trailers: bool | None = None
    """Whether headers after the body are passed on, in both directions."""
    preserve_header_case: bool | None = None
    """Whether the names of headers keep their upper case, in both directions."""
    http10: HTTP10Settings | None = None
    """Accept HTTP/1.0; otherwise it is answered with 426."""
    disable_safe_max_connection_duration: bool | None = None
    """With ``connection.connectionLimit.maxConnectionDuration``: whether a connection of that age is closed
    between two requests. Otherwise its client learns with the next response that it ends."""
    ignored_upgrade_types: tuple[StringMatch, ...] = ()
    """Protocols that a client may ask to switch to without getting an error: the request is served as if it
    had not asked."""


def check(db: Db, http1: Effective[HTTP1Settings]) -> Iterator[Problem]:
    """Patterns that Envoy would refuse."""
    for n, match in enumerate(http1.value.ignored_upgrade_types):
        fault = regex_fault(match.value) if match.type == "RegularExpression" else None
        if fault is not None:
            yield Problem(f"ignoredUpgradeTypes[{n}].value", fault)


def _check_listener(db: Db, listener: ListenerId, http1: HTTP1Settings) -> Iterator[Problem]:
    if http1.http10 is None or not http1.http10.use_default_host:
        return
    choice = default_host(db, listener)
    if choice.host:
        return
    if choice.candidates:
        why = f"its routes have several, such as {' and '.join(choice.candidates)}"
    else:
        why = "neither it nor a route has one without a wildcard"
    message = (
        f"Listener {listener.name} has no hostname that requests without Host could be for: {why}. Give the "
        "listener a hostname."
    )
    yield Problem("http10.useDefaultHost", message)


_PRESERVE_CASE: Final = TypedExtensionConfig(
    name="preserve_case", typed_config=packed(PreserveCaseFormatterConfig())
)


def _connection_manager(edit: ManagerEdit, http1: Effective[HTTP1Settings]) -> None:
    spec, options = http1.value, Http1ProtocolOptions()
    _apply(options, spec)
    if spec.http10 is not None and spec.http10.use_default_host:
        options.default_host_for_http_10 = edit.default_host()
    options.ignore_http_11_upgrade.extend(map(string_matcher, spec.ignored_upgrade_types))
    if options.ByteSize():
        edit.message.http_protocol_options.CopyFrom(options)
    if spec.disable_safe_max_connection_duration:
        edit.message.http1_safe_max_connection_duration = False


def _cluster(edit: ClusterEdit, http1: Effective[HTTP1Settings]) -> None:
    _apply(edit.http1_options, http1.value)


def _apply(options: Http1ProtocolOptions, spec: HTTP1Settings) -> None:
    """What holds on both sides of the gateway."""
    options.enable_trailers = bool(spec.enable_trailers)
    if spec.preserve_header_case:
        options.header_key_format.stateful_formatter.CopyFrom(_PRESERVE_CASE)
    options.accept_http_10 = spec.http10 is not None


FEATURE = Feature(
    kind="ClientTrafficPolicy",
    field="http1",
    model=HTTP1Settings,
    check=check,
    check_listener=_check_listener,
    cluster=_cluster,
    connection_manager=_connection_manager,
)
