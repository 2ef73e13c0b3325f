"""Which HTTP filters a listener's chain has."""

from __future__ import annotations

import re

import pytest
from envoy.config.route.v3.route_components_pb2 import FilterConfig, Route, VirtualHost
from envoy.extensions.filters.http.basic_auth.v3.basic_auth_pb2 import BasicAuth
from envoy.extensions.filters.http.grpc_stats.v3.config_pb2 import FilterConfig as GrpcStats
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.filters.network.set_filter_state.v3.set_filter_state_pb2 import Config as SetFilterState
from google.protobuf.any_pb2 import Any
from msgspec import structs

from moongate.api.base import ListenerId
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.httproute import HTTPRoute
from moongate.attach.envoy_listeners import TableId, route_configurations
from moongate.engine import Failed
from moongate.features import FEATURES
from moongate.store import get
from moongate.xds.filters import MARK, filters_of, http_filters, lacking, lingering, mark, needed_filters
from moongate.xds.route_entries import fail_closed
from moongate.xds.rule_routes import route_entries_of
from moongate.xds.scoped_chains import FINDER
from tests.core import (
    EG,
    EG_FLEET,
    IN_CLUSTER,
    ON_HOST,
    Core,
    extension,
    gateway,
    gateway_class,
    http,
    policy,
    secret,
)
from tests.routes import WEB, grpc_route, grpc_route_ref, http_route, route_ref, rule, service

CORS = "filters: [{type: CORS, cors: {allowOrigins: ['https://a.example.com']}}]"
POLICY = policy("BackendTrafficPolicy", "faultInjection: {abort: {httpStatus: 418}}")
COMPRESSED = "compressor: [{type: Gzip, gzip: {}, minContentLength: 1Mi}]"
"""A compressor with a setting that no route can carry."""
USERS = secret("users", {".htpasswd": b"ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="}, type_="Opaque")
MANY = secret(
    "users",
    {".htpasswd": b"".join(b"u%d:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n" % n for n in range(200))},
    type_="Opaque",
)
"""More users than each route can carry."""


def auth(name: str, route: str = "shop", header: str = "") -> str:
    forward = f", forwardUsernameHeader: {header}" if header else ""
    spec = f"basicAuth: {{users: {{name: users}}{forward}}}"
    return policy("SecurityPolicy", spec, name=name, target=f"HTTPRoute/{route}")


def chain(core: Core, *listeners: ListenerId) -> list[str]:
    return [one.name for one in http_filters(core.db, "chain", listeners or (WEB,))]


def stable(*manifests: str) -> Core:
    return Core(gateway(http("web")), service(), USERS, *manifests, config=ON_HOST)


STANDING = chain(stable())
"""What stands in every stable chain."""


GRPC = ["envoy.filters.http.grpc_web", "envoy.filters.http.grpc_stats"]


def test_the_filters_of_a_kind_stand_after_those_of_features_while_a_route_of_it_is_served() -> None:
    core = Core(gateway(http("web")), service(), http_route(rule(CORS)), grpc_route())

    assert chain(core) == ["envoy.filters.http.cors", *GRPC]
    assert not any(HttpFilter.FromString(one.body).disabled for one in http_filters(core.db, "chain", (WEB,)))

    core.delete("GRPCRoute", "default", "shop")
    assert chain(core) == ["envoy.filters.http.cors"]


def test_in_a_stable_chain_the_routes_of_a_kind_switch_its_filters_on() -> None:
    """HTTPRoutes do not: a backend of theirs may speak gRPC-Web itself."""
    core = stable(http_route(), grpc_route(name="calls"))

    [entry] = route_entries_of(core.db, WEB, grpc_route_ref("calls"), False)
    [route] = VirtualHost.FromString(entry.body).routes
    on = {name: config.type_url for name, config in route.typed_per_filter_config.items()}

    assert chain(core) == STANDING
    assert on == dict.fromkeys(GRPC, "type.googleapis.com/envoy.config.route.v3.FilterConfig")
    assert [dict(each.typed_per_filter_config) for each in routes(core)] == [{}]


def test_a_stable_chain_keeps_no_statistics_for_each_method_that_anybody_names() -> None:
    def stats_of(core: Core) -> GrpcStats:
        config = GrpcStats()
        last = http_filters(core.db, "chain", (WEB,))[-1]
        assert HttpFilter.FromString(last.body).typed_config.Unpack(config)
        return config

    assert not stats_of(stable(grpc_route())).HasField("stats_for_all_methods")
    assert stats_of(Core(gateway(http("web")), service(), grpc_route())).stats_for_all_methods.value


def test_calls_answer_500_while_their_chain_lacks_a_filter_of_their_kind() -> None:
    core = stable(grpc_route())
    core.db.put(lacking(TableId(EG_FLEET, "default/eg/web")), {GRPC[0]: "refused"})

    [entry] = route_entries_of(core.db, WEB, grpc_route_ref(), False)

    assert VirtualHost.FromString(entry.body).routes[0].direct_response.status == 500


def routes(core: Core) -> list[Route]:
    entries = route_entries_of(core.db, WEB, route_ref(), False)
    return [route for entry in entries for route in VirtualHost.FromString(entry.body).routes]


def test_a_filter_that_no_route_uses_is_not_in_the_chain() -> None:
    assert chain(Core(gateway(http("web")), service(), http_route())) == []


def test_filters_stand_in_the_order_of_the_table_whoever_asks_for_them() -> None:
    core = Core(gateway(http("web")), service(), http_route(rule(CORS)), POLICY)

    assert chain(core) == ["envoy.filters.http.fault", "envoy.filters.http.cors"]


def test_a_filter_that_many_routes_use_is_there_once() -> None:
    core = Core(gateway(http("web")), service(), http_route(rule(CORS)), http_route(rule(CORS), name="more"))

    assert chain(core) == ["envoy.filters.http.cors"]


def test_listeners_that_share_a_connection_manager_have_what_any_of_them_uses() -> None:
    both = gateway(http("web", "a.example.com"), http("alt", "b.example.com"))
    core = Core(both, service(), http_route(rule(CORS), parent="{name: eg, sectionName: alt}"))

    assert chain(core) == []
    assert chain(core, WEB, ListenerId(EG, EG, "alt")) == ["envoy.filters.http.cors"]


def test_a_route_whose_filters_cannot_be_read_leaves_the_others_theirs() -> None:
    core = Core(gateway(http("web")), service(), http_route(rule(CORS)), http_route(name="broken"))
    broken = get(core.db, HTTPRoute, route_ref("broken"))
    assert broken is not None
    core.db.put(broken.ref, structs.replace(broken, spec=structs.replace(broken.spec, rules=(None,))))

    assert isinstance(filters_of.attempt(core.db, WEB, route_ref("broken")), Failed)
    assert chain(core) == ["envoy.filters.http.cors"]


def test_what_stands_in_a_stable_chain_is_what_routes_may_need_in_the_order_of_the_table() -> None:
    filters = (feature.http_filter for feature in FEATURES)
    stems = dict.fromkeys(one.stem for one in filters if one is not None and one.stable)

    assert list(dict.fromkeys(re.sub("/[0-9a-f]{32}$", "", name) for name in STANDING)) == [*stems, *GRPC]


def test_in_a_stable_chain_filters_stand_before_anyone_uses_them() -> None:
    """So neither the first policy nor a changed one touches a listener, and connections live on."""
    core = stable(http_route())

    assert chain(core) == STANDING
    with core.ran() as ran:
        core.apply(auth("staff"), http_route(rule(CORS), name="more"))
        assert chain(core) == STANDING
    assert "http_filters" not in ran


def test_the_filters_that_stand_in_a_stable_chain_do_nothing_by_themselves() -> None:
    filters = http_filters(stable(http_route()).db, "chain", (WEB,))

    assert all(HttpFilter.FromString(one.body).disabled for one in filters)
    assert not any(one.bound for one in filters)
    assert mark(filters) is None


def test_what_a_route_cannot_carry_is_bound_to_the_chain() -> None:
    """Policies that agree on it share the instance, whatever else they say."""
    core = stable(
        http_route(),
        http_route(name="more"),
        http_route(name="other"),
        auth("one", "shop", "x-user"),
        auth("two", "more", "x-user"),
        auth("three", "other", "x-name"),
    )

    bound = [one for one in http_filters(core.db, "chain", (WEB,)) if one.bound]

    assert len(bound) == 2
    headers = {unpacked(one.body).forward_username_header for one in bound}
    assert headers == {"x-user", "x-name"}
    assert not any(b"ann" in one.body for one in bound), "users come with the routes"


def test_what_is_too_large_for_each_route_is_in_the_chain_once() -> None:
    """A Secret is up to 1 MB, and an HTTPRoute up to 2,048 Envoy routes: no process could hold that."""
    core = stable(MANY, http_route(), http_route(name="more"), auth("one"), auth("two", "more"))

    (bound,) = [one for one in http_filters(core.db, "chain", (WEB,)) if one.bound]

    assert b"u199:" in unpacked(bound.body).users.inline_bytes
    first, second = routes(core)
    assert sum(len(route.SerializeToString()) for route in (first, second)) < 2_000
    config = first.typed_per_filter_config[bound.name]
    assert config.type_url.endswith("FilterConfig"), "it switches the filter on, as it stands in the chain"
    assert FilterConfig.FromString(config.value) == FilterConfig(config=Any())
    assert first.match.filter_state
    assert second.direct_response.status == 500

    core.apply(USERS)
    assert chain(core) == STANDING


def test_nobody_can_find_two_settings_that_share_a_bound_filter() -> None:
    """These two agreed in 32 bits; users of one policy could then be named in the header of another's."""
    one, other = "x-50523", "x-78182"
    core = stable(http_route(), http_route(name="more"), auth("one", "shop", one), auth("two", "more", other))

    bound = [unpacked(each.body) for each in http_filters(core.db, "chain", (WEB,)) if each.bound]

    assert {config.forward_username_header for config in bound} == {one, other}


def test_a_route_that_relies_on_a_bound_filter_is_closed_to_connections_without_it() -> None:
    """Such a connection came by an older chain, or by one that Envoy refused to change."""
    core = stable(http_route(), auth("staff", "shop", "x-user"))
    (name,) = [one.name for one in http_filters(core.db, "chain", (WEB,)) if one.bound]

    first, second = routes(core)

    (state,) = first.match.filter_state
    assert (state.key, state.string_match.contains) == (MARK, f"|{name}|")
    assert name in first.typed_per_filter_config
    assert first.HasField("route")
    assert second.direct_response.status == 500
    assert not second.match.filter_state
    del first.match.filter_state[:]
    assert second.match == first.match


def test_a_connection_without_a_filter_that_keeps_nobody_out_is_served_without_it() -> None:
    """It was opened before the chain had the filter: that is no reason to turn requests away."""
    core = stable(http_route(), policy("BackendTrafficPolicy", COMPRESSED))
    (name,) = [one.name for one in http_filters(core.db, "chain", (WEB,)) if one.bound]

    first, second = routes(core)

    assert [name in each.typed_per_filter_config for each in (first, second)] == [True, False]
    assert second.name == f"{first.name}/filter-spared"
    assert not second.match.filter_state
    assert first.match.filter_state
    assert second.route == first.route


@pytest.mark.parametrize(("headers", "told"), [(1, True), (2, False)])
def test_where_a_large_page_is_missing_its_response_has_no_body(headers: int, *, told: bool) -> None:
    """Nor the one that it replaces: a page may be there to hide that. Each route could carry no more."""
    more = ", ".join(f"{{name: x-{n}, value: {'y' * 2500}}}" for n in range(headers))
    page = f"{{statusCode: 410, body: {{inline: {'x' * 5000}}}, header: {{set: [{more}]}}}}"
    override = f"responseOverride: [{{match: {{statusCodes: [{{value: 404}}]}}, response: {page}}}]"
    core = stable(http_route(), policy("BackendTrafficPolicy", override))

    first, second = routes(core)

    standing = "envoy.filters.http.custom_response"
    assert second.name == f"{first.name}/filter-spared"
    assert (standing in second.typed_per_filter_config) is told
    config = second.typed_per_filter_config[standing].SerializeToString()
    assert (b"x-0" in config) is told
    assert b"xxx" not in config


def test_a_scoped_route_switches_on_what_it_says_without_a_large_page() -> None:
    """In a scoped chain only what the metadata of a route names runs for it."""
    page = f"{{statusCode: 410, body: {{inline: {'x' * 5000}}}}}"
    override = f"responseOverride: [{{match: {{statusCodes: [{{value: 404}}]}}, response: {page}}}]"
    core = stable(http_route(), policy("BackendTrafficPolicy", override))

    [entry] = route_entries_of(core.db, WEB, route_ref(), True)
    _, spared = VirtualHost.FromString(entry.body).routes

    switched_on = spared.metadata.filter_metadata[FINDER].fields["filters"].struct_value.fields
    assert list(switched_on) == ["envoy.filters.http.custom_response"]


def test_a_connection_needs_the_filters_that_keep_somebody_out_in_any_case() -> None:
    core = stable(
        http_route(),
        auth("staff", "shop", "x-user"),
        policy("BackendTrafficPolicy", COMPRESSED),
    )

    first, spared, closed = routes(core)

    (needed,) = [state.string_match.contains for state in spared.match.filter_state]
    assert needed.startswith("|envoy.filters.http.basic_auth/")
    assert len(first.match.filter_state) == 2
    assert closed.direct_response.status == 500
    assert not closed.match.filter_state


def test_a_chain_marks_its_connections_with_the_filters_that_are_bound_to_it() -> None:
    core = stable(http_route(), auth("staff", "shop", "x-user"))
    filters = http_filters(core.db, "chain", (WEB,))
    marking = mark(filters)
    assert marking is not None
    config = SetFilterState()
    marking.typed_config.Unpack(config)

    (value,) = config.on_new_connection
    (name,) = [one.name for one in filters if one.bound]

    assert value.object_key == MARK
    assert value.format_string.text_format_source.inline_string == f"|{name}|"


def test_a_closed_entry_takes_all_connections() -> None:
    """An entry that is refused is answered with 500, whether a connection is marked or not."""
    core = stable(http_route(), auth("staff", "shop", "x-user"))
    (entry,) = route_entries_of(core.db, WEB, route_ref(), False)

    (closed,) = VirtualHost.FromString(fail_closed(entry).body).routes

    assert closed.direct_response.status == 500
    assert not closed.match.filter_state


def test_a_filter_that_lingers_stays_in_the_chain_though_no_route_needs_it() -> None:
    core = stable(http_route(), auth("staff", "shop", "x-user"))
    before = http_filters(core.db, "chain", (WEB,))
    core.db.put(lingering(TableId(EG_FLEET, "chain")), tuple(one for one in before if one.bound))
    core.delete("SecurityPolicy", "default", "staff")

    assert http_filters(core.db, "chain", (WEB,)) == before

    core.db.put(lingering(TableId(EG_FLEET, "chain")), None)

    assert chain(core) == STANDING


@pytest.mark.parametrize("config", [ON_HOST, IN_CLUSTER], ids=["stable", "reference"])
def test_routes_are_closed_while_their_chain_lacks_a_filter(config: EnvoyGateway) -> None:
    """Envoy refused the listener that has it; without the filter everybody would pass."""
    policies = (auth("staff", "shop", "x-user"), auth("more", "more"))
    manifests = (service(), USERS, http_route(), http_route(name="more"), *policies)
    core = Core(gateway(http("web")), *manifests, config=config)
    (table,) = route_configurations(core.db, EG_FLEET)
    lacked = {one.name: "no" for one in needed_filters(core.db, (WEB,)) if "more" not in one.name}
    core.db.put(lacking(TableId(EG_FLEET, table.name)), lacked)

    assert {route.direct_response.status for route in routes(core)} == {500}
    entry, *_ = route_entries_of(core.db, WEB, route_ref("more"), False)
    assert VirtualHost.FromString(entry.body).routes[0].HasField("route")


@pytest.mark.parametrize("config", [ON_HOST, IN_CLUSTER], ids=["stable", "reference"])
@pytest.mark.parametrize("compressed", [COMPRESSED, "compressor: [{type: Gzip, gzip: {}}]"])
def test_routes_that_can_do_without_a_filter_are_served_while_their_chain_lacks_it(
    config: EnvoyGateway, compressed: str
) -> None:
    """A compressor that Envoy refuses takes nothing down."""
    compressing = policy("BackendTrafficPolicy", compressed)
    core = Core(gateway(http("web")), service(), http_route(), compressing, config=config)
    (table,) = route_configurations(core.db, EG_FLEET)
    asked_for = http_filters(core.db, table.name, (WEB,))
    core.db.put(lacking(TableId(EG_FLEET, table.name)), {one.name: "no" for one in asked_for})

    served = routes(core)

    assert all(route.HasField("route") for route in served)
    assert not any("compressor" in name for name in served[-1].typed_per_filter_config)


def test_a_route_is_closed_while_nothing_hides_what_a_page_is_to_hide() -> None:
    """With stable chains another instance hides it."""
    override = "responseOverride: [{match: {statusCodes: [{value: 404}]}, response: {body: {inline: a}}}]"
    core = Core(gateway(http("web")), service(), http_route(), policy("BackendTrafficPolicy", override))
    (table,) = route_configurations(core.db, EG_FLEET)
    lacked = {one.name: "no" for one in needed_filters(core.db, (WEB,))}
    assert lacked
    core.db.put(lacking(TableId(EG_FLEET, table.name)), lacked)

    assert {route.direct_response.status for route in routes(core)} == {500}


def unpacked(body: bytes) -> BasicAuth:
    config = BasicAuth()
    HttpFilter.FromString(body).typed_config.Unpack(config)
    return config


def moving(*moves: str, config: EnvoyGateway = ON_HOST) -> list[str]:
    """The chain with some moves of the EnvoyProxy of the class."""
    proxy = extension("EnvoyProxy", "ordered", f"{{filterOrder: [{', '.join(moves)}]}}")
    core = Core(gateway_class("ordered"), proxy, gateway(http("web")), service(), config=config)
    return chain(core)


def move(name: str, where: str, other: str) -> str:
    stem = "envoy.filters.http."
    return f"{{name: {stem}{name}, {where}: {stem}{other}}}"


def types(chain: list[str]) -> list[str]:
    """The types of some filters, each once where its instances stand together."""
    names = [name.removeprefix("envoy.filters.http.").partition("/")[0] for name in chain]
    names = [name for name in names if name in SOME]
    return [name for n, name in enumerate(names) if n == 0 or names[n - 1] != name]


AFTER_ACCESS = ["stateful_session", "local_ratelimit", "ratelimit"]
OF_KINDS = ["grpc_web", "grpc_stats"]
SOME = ("fault", "cors", "ext_authz", "basic_auth", *AFTER_ACCESS, *OF_KINDS)
USUAL = types(STANDING)


@pytest.mark.parametrize(
    ("moves", "expected"),
    [
        ((), USUAL),
        ((move("basic_auth", "before", "cors"),),
         ["fault", "basic_auth", "cors", "ext_authz", *AFTER_ACCESS, *OF_KINDS]),
        ((move("fault", "after", "ext_authz"),),
         ["cors", "ext_authz", "fault", "basic_auth", *AFTER_ACCESS, *OF_KINDS]),
        ((move("ext_authz", "after", "grpc_stats"), move("fault", "after", "ext_authz")),
         ["cors", "basic_auth", *AFTER_ACCESS, *OF_KINDS, "ext_authz", "fault"]),
        ((move("fault", "after", "wasm"), move("lua", "before", "cors")), USUAL),
    ],
)  # fmt: skip
def test_filters_are_moved_one_type_after_another(moves: tuple[str, ...], expected: list[str]) -> None:
    """All instances of a type stay together; of what is not there, a move has no effect."""
    ordered = moving(*moves)

    assert types(ordered) == expected
    assert sorted(ordered) == sorted(STANDING)


def test_another_order_makes_another_chain_and_leaves_the_routes_as_they_are() -> None:
    core = stable(http_route())
    core.apply(gateway_class("ordered"))
    core.apply(extension("EnvoyProxy", "ordered", "{filterOrder: []}"))
    before, routes = (
        http_filters(core.db, "chain", (WEB,)),
        route_entries_of(core.db, WEB, route_ref(), False),
    )

    order = f"{{filterOrder: [{move('fault', 'after', 'cors')}]}}"
    core.apply(extension("EnvoyProxy", "ordered", order))
    with core.ran() as ran:
        after = http_filters(core.db, "chain", (WEB,))
        assert route_entries_of(core.db, WEB, route_ref(), False) == routes

    assert before != after
    assert set(before) == set(after)
    assert "route_entries_of" not in ran


LATE = "headers: {lateResponseHeaders: {remove: [server]}}"
MUTATION = "envoy.filters.http.header_mutation"


@pytest.mark.parametrize("config", [ON_HOST, IN_CLUSTER], ids=["stable", "reference"])
def test_a_policy_of_a_listener_puts_its_filters_into_the_chain_of_this_one_alone(
    config: EnvoyGateway,
) -> None:
    other = ListenerId(EG, EG, "other")
    core = Core(
        gateway(http("web"), http("other", port=81)), service(), http_route(rule(CORS)), config=config
    )
    before, others = chain(core), chain(core, other)

    core.apply(policy("ClientTrafficPolicy", LATE, target="Gateway/eg/web"))

    assert set(chain(core)) - set(before) == {MUTATION}
    assert chain(core, other) == others
    [one] = [one for one in http_filters(core.db, "chain", (WEB,)) if one.name == MUTATION]
    assert not HttpFilter.FromString(one.body).disabled
    assert chain(core).index("envoy.filters.http.cors") < chain(core).index(MUTATION)


def test_no_request_passes_a_listener_that_lacks_a_filter_of_its_policy() -> None:
    core = stable(http_route(), policy("ClientTrafficPolicy", LATE, target="Gateway/eg"))
    assert {route.direct_response.status for route in routes(core)} == {0}

    core.db.put(lacking(TableId(EG_FLEET, "default/eg/web")), {MUTATION: "refused"})

    assert {route.direct_response.status for route in routes(core)} == {500}


@pytest.mark.parametrize("config", [ON_HOST, IN_CLUSTER], ids=["stable", "reference"])
@pytest.mark.parametrize(("grpc", "on"), [("{enableWeb: true}", True), ("{}", False)])
def test_a_policy_of_a_listener_switches_a_filter_of_a_kind_on_or_off_for_all_routes(
    config: EnvoyGateway, grpc: str, on: bool
) -> None:
    clients = policy("ClientTrafficPolicy", f"grpc: {grpc}", target="Gateway/eg")
    core = Core(
        gateway(http("web")), service(), http_route(), grpc_route(name="calls"), clients, config=config
    )
    standing = {one.name: HttpFilter.FromString(one.body) for one in http_filters(core.db, "chain", (WEB,))}
    [entry] = route_entries_of(core.db, WEB, grpc_route_ref("calls"), False)
    [route] = VirtualHost.FromString(entry.body).routes

    assert (GRPC[0] in standing and not standing[GRPC[0]].disabled) is on
    assert GRPC[1] in standing
    if not on:
        assert GRPC[0] not in route.typed_per_filter_config
