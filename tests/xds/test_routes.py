"""Route configurations as they are sent."""

from __future__ import annotations

from moongate.api.envoygateway import EnvoyGateway
from moongate.api.envoyproxy import EnvoyProxySpec
from moongate.xds.routes import IN_ORDER, route_configuration
from tests.core import EG_FLEET, Core, gateway, http
from tests.routes import http_route, rule, sent, service, table

KEEP_ORDER = EnvoyGateway(envoy_proxy=EnvoyProxySpec(preserve_route_order=True))


def path(value: str) -> str:
    return f"matches: [{{path: {{value: {value}}}}}]"


def test_routes_of_a_host_are_in_order_of_precedence_over_all_http_routes() -> None:
    core = Core(
        gateway(http("web")),
        service(),
        http_route(rule(path("/a")), name="short"),
        http_route(rule(path("/abc")), name="long"),
    )

    assert [r.match.path_separated_prefix for r in sent(core)] == ["/abc", "/a"]


def test_among_equals_the_oldest_route_wins_then_namespace_and_name() -> None:
    core = Core(
        gateway(http("web")),
        service(),
        http_route(name="b", created="2025-01-01T00:00:00Z"),
        http_route(name="a", created="2025-01-01T00:00:00Z"),
        http_route(name="z", created="2024-01-01T00:00:00Z"),
    )

    assert [r.route.cluster.split("/")[2] for r in sent(core)] == ["z", "a", "b"]


def test_an_envoy_proxy_can_keep_the_order_in_which_rules_are_written() -> None:
    """The oldest route first, then its rules, then their matches, whatever they match on."""
    core = Core(
        gateway(http("web")),
        service(),
        http_route(rule(path("/abc")), name="a", created="2025-01-01T00:00:00Z"),
        http_route(rule(path("/")), rule(path("/ab")), name="z", created="2024-01-01T00:00:00Z"),
        config=KEEP_ORDER,
    )

    assert [r.match.path_separated_prefix or r.match.prefix for r in sent(core)] == ["/", "/ab", "/abc"]


def test_few_virtual_hosts_are_in_the_order_of_their_first_routes() -> None:
    """Patches that name a virtual host by its place go on working."""
    core = Core(
        gateway(http("web")),
        service(),
        http_route(rule(path("/a")), name="short", hostnames=("a.example.com",)),
        http_route(rule(path("/abc")), name="long", hostnames=("b.example.com",)),
    )

    assert [host.domains[0] for host in table(core).virtual_hosts] == ["b.example.com", "a.example.com"]


def test_many_virtual_hosts_are_all_there() -> None:
    names = [f"h{n}.example.com" for n in range(IN_ORDER + 6)]
    routes = [http_route(name=f"r{n}", hostnames=tuple(names[n : n + 10])) for n in range(0, len(names), 10)]
    core = Core(gateway(http("web")), service(), *routes)

    assert sorted(host.domains[0] for host in table(core).virtual_hosts) == sorted(names)


def test_a_listener_without_routes_keeps_its_hostname_from_a_wider_listener() -> None:
    """Or requests for it would be answered by the routes of the other."""
    core = Core(gateway(http("web", "*.a.com"), http("any")), service(), http_route(hostnames=("b.com",)))

    assert {host.domains[0]: len(host.routes) for host in table(core).virtual_hosts} == {
        "*.a.com": 0,
        "b.com": 1,
    }


def test_one_edited_route_is_encoded_again_and_no_other() -> None:
    core = Core(gateway(http("web")), service(), *(http_route(name=f"r{n}") for n in range(20)))
    table(core)

    core.apply(http_route(rule(path("/new")), name="r3"))
    with core.ran() as ran:
        table(core)

    assert ran["route_entries_of"] == 1


def test_there_is_no_table_of_a_name_that_no_listener_has() -> None:
    assert route_configuration(Core(gateway(http("web"))).db, EG_FLEET, "default/eg/gone") is None
