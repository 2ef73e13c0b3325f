"""What lets Envoy choose among the parts of a scoped table.

Theory of operation
===================
Envoy rebuilds a route configuration as a whole. So a table with thousands of hostnames stands in parts
(``ScopedRouteConfiguration``), and a change costs Envoy one small part. The connection manager of the chain
subscribes to the parts of its table as a collection, and Envoy looks the part up by ``:authority``, without
the port. All wildcards share a part under a key that no client can send.

For a request whose Host is no key, Envoy finds no route at first. Then the *finder* runs (``finder.lua``): it
looks again with the Host in lower case, then in the part that others share. That one compares a header with
the Host, as another name stands in ``:authority`` while Envoy looks. Every part switches the finder off, so
that it costs nothing where a route is found at once, but that Envoy sees that it is off.

Envoy creates the filters of a request by the route that it found at first. Filters that are off until a route
switches them on do not exist if there was none. So all of them stand behind the finder, too. Each runs there
if the route that the finder found switches it on, which the route's metadata says. The finder and these
filters are one filter of the connection manager, a filter chain, so that all are off at once.

Rules
-----
* a hostname with a part of its own, where no route matches, is no reason to look among others: its virtual
  host is marked (``OWN_SCOPE``)
* a filter that clears the route cache makes Envoy look again by the Host as it was sent; such a filter has to
  be followed by the finder

Source: Envoy, "HTTP Route Scope", "Lua", "Filter Chain" and "Match Delegate" filters; xRFC TP1, collections.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final, NamedTuple

from envoy.config.core.v3.base_pb2 import DataSource, Metadata
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.route.v3.route_components_pb2 import FilterConfig
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from envoy.extensions.common.matching.v3.extension_matcher_pb2 import ExtensionWithMatcher
from envoy.extensions.filters.common.matcher.action.v3.skip_action_pb2 import SkipFilter
from envoy.extensions.filters.http.lua.v3.lua_pb2 import Lua
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpFilter,
    ScopedRds,
    ScopedRoutes,
)
from envoy.extensions.matching.common_inputs.network.v3.network_inputs_pb2 import DynamicMetadataInput
from envoy.extensions.matching.input_matchers.metadata.v3.metadata_pb2 import Metadata as MetadataMatcher
from envoy.type.matcher.v3.http_inputs_pb2 import HttpRequestHeaderMatchInput
from envoy.type.matcher.v3.value_pb2 import ValueMatcher
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.wrappers_pb2 import BoolValue
from xds.core.v3.extension_pb2 import TypedExtensionConfig as XdsExtension
from xds.type.matcher.v3.matcher_pb2 import Matcher
from xds.type.matcher.v3.regex_pb2 import RegexMatcher
from xds.type.matcher.v3.string_pb2 import StringMatcher

from moongate import names
from moongate.attach.scopes import OTHERS_KEY
from moongate.xds.filter_chain_messages import FilterChainConfig
from moongate.xds.wire import encode, packed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envoy.config.core.v3.config_source_pb2 import ConfigSource
    from google.protobuf.message import Message

    from moongate.xds.filters import ChainFilter

FINDER: Final = "moongate.finder"
"""The name of the filter chain for requests whose route is not found at first, of the finder's two filters in
it, and of the metadata that the finder reads of routes and virtual hosts."""
HOST_HEADER: Final = "x-moongate-host"
"""The header that has the Host while Envoy looks among others."""
HOST_HEADERS: Final = ("host", ":authority", HOST_HEADER)
"""What a match on the Host looks at, in one form of tables or the other."""

OWN_SCOPE: Final = Metadata(filter_metadata={FINDER: Struct(fields={"own": Value(bool_value=True)})})
"""The mark of a virtual host that has a part of its own."""


class ScopeHead(NamedTuple):
    """The encoded beginning of a ``ScopedRouteConfiguration``, and of the route configuration within."""

    scope: bytes
    table: bytes


def scoped_routes(chain: str, table: str, source: ConfigSource) -> ScopedRoutes:
    """What a connection manager has instead of the name of a route configuration."""
    key = ScopedRoutes.ScopeKeyBuilder()
    host = key.fragments.add().header_value_extractor
    host.name, host.element_separator, host.index = ":authority", ":", 0
    return ScopedRoutes(
        name=chain,
        scope_key_builder=key,
        rds_config_source=source,
        scoped_rds=ScopedRds(scoped_rds_config_source=source, srds_resources_locator=names.scopes(table)),
    )


def scope_head(table: str, host: str | None) -> ScopeHead:
    """How the part of a hostname begins, or (``None``) the one that others share."""
    message = ScopedRouteConfiguration(name=names.scope(table, names.OTHERS if host is None else host))
    message.key.fragments.add(string_key=OTHERS_KEY if host is None else host)
    return ScopeHead(encode(message), _table_head(names.chain_of_table(table), others=host is None))


@cache
def _table_head(chain: str, *, others: bool) -> bytes:
    message = RouteConfiguration(name=chain, ignore_port_in_host_matching=True)
    # As in tables that are sent alone: the share of a backend that does not exist is answered, not refused.
    message.validate_clusters.value = False
    if others:
        message.vhost_header = HOST_HEADER
    message.typed_per_filter_config[FINDER].CopyFrom(packed(FilterConfig(disabled=True)))
    return encode(message)


def switched_on(filters: Iterable[str]) -> Metadata:
    """The metadata of a route that says which filters it switches on."""
    names_ = Struct(fields={name: Value(bool_value=True) for name in filters})
    return Metadata(filter_metadata={FINDER: Struct(fields={"filters": Value(struct_value=names_)})})


def finding(filters: tuple[ChainFilter, ...]) -> bytes:
    """The encoded filter that stands before all others of a scoped chain.

    Args:
        filters: the others; those that routes switch on stand in it, too.
    """
    all_ = [HttpFilter.FromString(one.body) for one in filters]
    behind = [(one.name, _only_if(_is_on(one.name), one.typed_config)) for one in all_ if one.disabled]
    chain = FilterChainConfig()
    for name, config in (*_finder(), *behind):
        chain.filter_chain.filters.add(name=name, typed_config=packed(config))
    return encode(HttpFilter(name=FINDER, typed_config=packed(chain)))


@cache
def _finder() -> tuple[tuple[str, Message], ...]:
    present = _predicate(
        HttpRequestHeaderMatchInput(header_name=HOST_HEADER),
        StringMatcher(safe_regex=RegexMatcher(google_re2=RegexMatcher.GoogleRE2(), regex=".*")),
    )
    return (FINDER, _lua("first")), (FINDER, _only_if(present, packed(_lua("second"))))


def _lua(function: str) -> Lua:
    source = files("moongate.xds").joinpath("finder.lua").read_text(encoding="utf-8")
    return Lua(
        default_source_code=DataSource(inline_string=f"{source}envoy_on_request = {function}\n"),
        clear_route_cache=BoolValue(value=False),  # the script says when
    )


def _is_on(name: str) -> Matcher.MatcherList.Predicate:
    place = DynamicMetadataInput(filter=FINDER, path=[DynamicMetadataInput.PathSegment(key=name)])
    predicate = Matcher.MatcherList.Predicate()
    predicate.single_predicate.input.CopyFrom(XdsExtension(name="metadata", typed_config=packed(place)))
    matcher = MetadataMatcher(value=ValueMatcher(bool_match=True))
    predicate.single_predicate.custom_match.CopyFrom(
        XdsExtension(name="metadata", typed_config=packed(matcher))
    )
    return predicate


def _predicate(input_: HttpRequestHeaderMatchInput, matches: StringMatcher) -> Matcher.MatcherList.Predicate:
    predicate = Matcher.MatcherList.Predicate()
    predicate.single_predicate.input.CopyFrom(XdsExtension(name="header", typed_config=packed(input_)))
    predicate.single_predicate.value_match.CopyFrom(matches)
    return predicate


def _only_if(condition: Matcher.MatcherList.Predicate, config: AnyMessage) -> ExtensionWithMatcher:
    """A filter that is skipped unless a condition holds."""
    matcher = Matcher()
    unless = matcher.matcher_list.matchers.add()
    unless.predicate.not_matcher.CopyFrom(condition)
    unless.on_match.action.CopyFrom(XdsExtension(name="skip", typed_config=packed(SkipFilter())))
    return ExtensionWithMatcher(
        extension_config=TypedExtensionConfig(name="filter", typed_config=config), xds_matcher=matcher
    )
