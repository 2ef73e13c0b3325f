"""Which routes a listener takes, and under which hostnames."""

from __future__ import annotations

import pytest
from msgspec import structs

from moongate.api.base import ListenerId, Ref
from moongate.api.httproute import HTTPRoute
from moongate.api.listenerset import ListenerSet
from moongate.attach.routes import (
    attached_counts,
    attached_hosts,
    attachments,
    hosts,
    intersection,
    reserved,
    routes_at,
    routes_on,
    shards_at,
    wider,
)
from moongate.engine import Failed
from moongate.store import SHARDS, get
from tests.core import EG, Core, allowing, gateway, http, https, listener_set
from tests.routes import WEB, by_default, http_route, route_ref, rule

OWN = ListenerId(EG, EG, "own")


def refusal(core: Core) -> str | None:
    [only] = attachments(core.db, route_ref())
    return only.problem.reason if only.problem is not None else None


def all_routes(core: Core, host: str) -> tuple[Ref, ...]:
    parts = (routes_at(core.db, WEB, host, part) for part in shards_at(core.db, WEB, host))
    return tuple(sorted(route for part in parts for route in part))


def all_hosts(core: Core, listener: ListenerId) -> set[str]:
    return {host for part in range(SHARDS) for host in hosts(core.db, listener, part)}


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("", "", ""),
        ("a.example.com", "", "a.example.com"),
        ("", "a.example.com", "a.example.com"),
        ("a.example.com", "a.example.com", "a.example.com"),
        ("a.example.com", "b.example.com", None),
        ("*.example.com", "a.b.example.com", "a.b.example.com"),
        ("*.example.com", "example.com", None),
        ("*.com", "*.example.com", "*.example.com"),
        ("*.example.com", "*.example.org", None),
        ("*.ample.com", "a.example.com", None),
    ],
)
def test_two_hostnames_meet_in_the_narrower(one: str, other: str, both: str | None) -> None:
    assert intersection(one, other) == both
    assert intersection(other, one) == both


def test_the_wildcards_above_a_hostname_come_narrowest_first() -> None:
    assert wider("a.b.com") == ["*.b.com", "*.com"]
    assert wider("*.b.com") == ["*.com"]


def test_a_route_without_hostnames_takes_the_listeners() -> None:
    core = Core(gateway(http("web", "*.example.com"), http("any", port=81)), http_route())

    assert attached_hosts(core.db, route_ref(), WEB) == ("*.example.com",)
    assert attached_hosts(core.db, route_ref(), ListenerId(EG, EG, "any")) == ("*",)


def test_hostnames_are_narrowed_to_the_listener() -> None:
    core = Core(
        gateway(http("web", "*.example.com")),
        http_route(hostnames=("b.example.com", "a.example.com", "example.org", "*.com")),
    )

    assert attached_hosts(core.db, route_ref(), WEB) == ("*.example.com", "a.example.com", "b.example.com")


def test_a_hostname_belongs_to_the_listener_that_names_it() -> None:
    """GatewayHTTPListenerIsolation: the wildcard listener leaves it to the specific one of its port."""
    core = Core(
        gateway(http("web", "*.example.com"), http("own", "a.example.com")),
        http_route(hostnames=("a.example.com", "b.example.com")),
    )

    assert attached_hosts(core.db, route_ref(), WEB) == ("b.example.com",)
    assert attached_hosts(core.db, route_ref(), OWN) == ("a.example.com",)


@pytest.mark.parametrize("wide", ["", "*.com"])
def test_a_hostname_belongs_to_the_narrowest_listener_that_covers_it(wide: str) -> None:
    """Two virtual hosts with one domain would make Envoy refuse the whole table."""
    core = Core(
        gateway(http("web", wide), http("own", "*.example.com")),
        http_route(hostnames=("a.example.com", "*.b.example.com", "a.com")),
    )

    assert attached_hosts(core.db, route_ref(), WEB) == ("a.com",)
    assert attached_hosts(core.db, route_ref(), OWN) == (
        "*.b.example.com",
        "a.example.com",
    )


def test_a_hostname_of_a_listener_is_its_own_on_its_port_only() -> None:
    """Who asks another port does not mean that listener."""
    core = Core(
        gateway(http("web"), http("own", hostname="a.example.com", port=81)),
        http_route(hostnames=("a.example.com",)),
    )

    assert attached_hosts(core.db, route_ref(), WEB) == ("a.example.com",)
    assert attached_hosts(core.db, route_ref(), OWN) == ("a.example.com",)


def test_a_listener_that_takes_no_route_of_a_namespace_keeps_its_hostnames_from_the_others() -> None:
    everyone = "{name: web, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}"
    core = Core(
        gateway(everyone, http("own", "*.example.com")),
        http_route(namespace="other", hostnames=("a.example.com", "a.com")),
    )

    assert attached_hosts(core.db, route_ref(namespace="other"), WEB) == ("a.com",)


def test_a_route_that_cannot_be_judged_is_not_counted_and_the_others_stay() -> None:
    core = Core(gateway(http("web", "*.com")), http_route(), http_route(name="broken", hostnames=("a.com",)))
    broken = get(core.db, HTTPRoute, route_ref("broken"))
    assert broken is not None
    core.db.put(broken.ref, structs.replace(broken, spec=structs.replace(broken.spec, parent_refs=(None,))))

    assert isinstance(attachments.attempt(core.db, route_ref("broken")), Failed)
    assert attached_counts(core.db, WEB.gateway)[WEB] == 1
    assert all_routes(core, "*.com") == (route_ref(),)


def test_a_route_that_cannot_be_judged_is_among_those_of_its_hostname() -> None:
    """So its requests are refused, instead of falling to a route with a wider match."""
    core = Core(
        gateway(
            http("web"), http("all", port=81).replace("}", ", allowedRoutes: {namespaces: {from: All}}}")
        ),
        http_route(name="broken", hostnames=("a.com",)),
        http_route(name="broken", namespace="other", hostnames=("a.com",)),
    )
    refs = [route_ref("broken"), route_ref("broken", namespace="other")]
    for ref in refs:
        broken = get(core.db, HTTPRoute, ref)
        assert broken is not None
        core.db.put(ref, structs.replace(broken, spec=structs.replace(broken.spec, parent_refs=(None,))))

    assert all_routes(core, "a.com") == (refs[0],), "the listener takes none of another namespace"


def test_listeners_that_share_a_hostname_do_not_take_it_from_a_route_without() -> None:
    """They conflict, which their own status says; the route is attached to both."""
    two = https("two", "secret", hostname="a.example.com", port=80)
    core = Core(gateway(http("web", "a.example.com"), two), http_route())

    assert refusal(core) is None
    assert attached_counts(core.db, WEB.gateway)[WEB] == 1


@pytest.mark.parametrize(
    ("parent", "reason"),
    [
        ("{name: eg}", None),
        ("{name: eg, sectionName: web}", None),
        ("{name: eg, port: 80}", None),
        ("{name: eg, sectionName: gone}", "NoMatchingParent"),
        ("{name: eg, port: 81}", "NoMatchingParent"),
        ("{name: eg, sectionName: web, port: 81}", "NoMatchingParent"),
    ],
)
def test_a_parent_ref_is_narrowed_by_section_and_port(parent: str, reason: str | None) -> None:
    core = Core(gateway(http("web")), http_route(parent=parent))

    assert refusal(core) == reason


def test_a_listener_takes_routes_of_its_own_namespace_only_unless_it_says_more() -> None:
    core = Core(gateway(http("web")), http_route(namespace="other"))

    [only] = attachments(core.db, route_ref(namespace="other"))

    assert only.problem is not None
    assert only.problem.reason == "NotAllowedByListeners"


def test_a_listener_takes_routes_of_the_namespaces_that_it_selects() -> None:
    labels = "{from: Selector, selector: {matchLabels: {shared: 'yes'}}}"
    listener = f"{{name: web, port: 80, protocol: HTTP, allowedRoutes: {{namespaces: {labels}}}}}"
    core = Core(
        gateway(listener),
        http_route(namespace="other"),
        "{apiVersion: v1, kind: Namespace, metadata: {name: other, labels: {shared: 'yes'}}}",
    )

    assert attached_hosts(core.db, route_ref(namespace="other"), WEB) == ("*",)

    core.apply("{apiVersion: v1, kind: Namespace, metadata: {name: other}}")

    assert attached_hosts(core.db, route_ref(namespace="other"), WEB) == ()


def test_hostnames_that_meet_no_listener_are_reported() -> None:
    core = Core(gateway(http("web", "a.example.com")), http_route(hostnames=("b.example.com",)))

    assert refusal(core) == "NoMatchingListenerHostname"


def test_a_parent_that_is_not_ours_is_no_parent() -> None:
    core = Core(gateway(http("web")), http_route(parent="{name: elsewhere}"))

    assert attachments(core.db, route_ref()) == ()


def test_routes_are_found_by_hostname_and_path() -> None:
    core = Core(
        gateway(http("web", "*.example.com")),
        http_route(rule("matches: [{path: {value: /a/}}, {path: {value: /b}}]"), name="two"),
        http_route(rule("matches: [{path: {value: /a}}]"), name="wide", hostnames=("*.com",)),
        http_route(rule("matches: [{path: {value: /a}}]"), name="narrow", hostnames=("a.example.com",)),
        http_route(name="all"),
    )

    def routes(host: str, *path: str) -> list[str]:
        return [route.name for route in routes_on(core.db, WEB, host, (path[0], path[1]))]

    assert routes("*.example.com", "PathPrefix", "/a") == ["two", "wide"]
    assert routes("*.example.com", "PathPrefix", "/b") == ["two"]
    assert routes("*.example.com", "PathPrefix", "/") == ["all"]
    assert routes("*.example.com", "Exact", "/a") == []
    assert routes("a.example.com", "PathPrefix", "/a") == ["narrow"]


def test_a_listener_finds_routes_by_hostname() -> None:
    core = Core(
        gateway(http("web", "*.example.com")),
        http_route(name="wide", hostnames=("*.com",)),
        http_route(name="narrow", hostnames=("a.example.com",)),
        http_route(name="none"),
    )

    assert all_hosts(core, WEB) == {"*.example.com", "a.example.com"}
    assert all_routes(core, "*.example.com") == (route_ref("none"), route_ref("wide"))
    assert all_routes(core, "a.example.com") == (route_ref("narrow"),)


@pytest.mark.parametrize(
    ("listeners", "is_reserved"),
    [
        pytest.param((http("web", "*.a.com"), http("any")), True, id="a-listener-for-all"),
        pytest.param((http("web", "*.a.com"), http("wide", "*.com")), True, id="a-wider-one"),
        pytest.param((http("web", "*.a.com"), http("narrow", "b.a.com")), False, id="a-narrower-one"),
        pytest.param((http("web", "*.a.com"), http("any", port=81)), False, id="another-port"),
        pytest.param((http("web", "*.a.com"),), False, id="alone"),
        pytest.param((https("web", "c", hostname="*.a.com"), https("any", "c")), False, id="https"),
    ],
)
def test_a_hostname_is_reserved_that_would_fall_to_a_wider_listener(
    listeners: tuple[str, ...], is_reserved: bool
) -> None:
    core = Core(gateway(*listeners))

    assert reserved(core.db, WEB, "*.a.com") is is_reserved
    assert not reserved(core.db, WEB, "x.a.com"), "only its own hostname is"


def test_a_parent_ref_without_a_section_means_all_listeners() -> None:
    core = Core(gateway(http("web"), http("alt", port=81)), http_route())

    [only] = attachments(core.db, route_ref())

    assert [listener.name for listener, _ in only.hosts] == ["web", "alt"]


def test_an_edited_match_disturbs_no_attachment() -> None:
    core = Core(gateway(http("web")), http_route(), http_route(name="other"))
    assert attached_counts(core.db, WEB.gateway)[WEB] == 2

    core.apply(http_route(rule("matches: [{path: {value: /new}}]")))
    with core.ran() as ran:
        assert attached_counts(core.db, WEB.gateway)[WEB] == 2

    assert ran == {"attachments_at": 1}


def test_a_gateway_of_another_namespace_is_found_by_its_namespace() -> None:
    core = Core(gateway(http("web")), http_route(parent="{name: eg}", namespace="other"))

    assert attachments(core.db, Ref.of(HTTPRoute, "other", "shop")) == ()


def default_gateway(name: str = "eg", scope: str = "All") -> str:
    return gateway(http("web"), name=name, defaultScope=scope)


def parents(core: Core) -> list[tuple[str, str | None]]:
    return [(each.parent.name, each.parent.section_name) for each in attachments(core.db, route_ref())]


def test_a_route_that_asks_for_them_has_all_default_gateways_as_parents() -> None:
    route = by_default(http_route(hostnames=("a.example.com",)))
    core = Core(default_gateway(), default_gateway("other"), gateway(http("web"), name="plain"), route)

    assert parents(core) == [("eg", None), ("other", None)]
    assert attached_hosts(core.db, route_ref(), WEB) == ("a.example.com",)
    assert all_routes(core, "a.example.com") == (route_ref(),)
    assert all_hosts(core, WEB) == {"a.example.com"}
    assert attached_counts(core.db, EG) == {WEB: 1}
    assert routes_on(core.db, WEB, "a.example.com", ("PathPrefix", "/")) == [route_ref()]


def test_a_default_gateway_takes_no_route_that_does_not_ask() -> None:
    core = Core(default_gateway(), http_route(parent="{name: other}"))

    assert parents(core) == []
    assert all_routes(core, "*") == ()


def test_a_gateway_that_is_named_is_no_parent_by_default_besides() -> None:
    route = by_default(http_route(), "{name: eg, sectionName: web}")
    core = Core(default_gateway(), default_gateway("other"), route)

    assert parents(core) == [("eg", "web"), ("other", None)]
    assert attached_counts(core.db, EG) == {WEB: 1}


def test_a_route_follows_what_becomes_a_default_gateway_and_what_is_none_any_more() -> None:
    core = Core(default_gateway(scope="None"), by_default(http_route()))
    assert (parents(core), all_routes(core, "*")) == ([], ())

    core.apply(default_gateway())
    assert (parents(core), all_routes(core, "*")) == ([("eg", None)], (route_ref(),))

    core.apply(gateway(http("web")))
    assert (parents(core), all_routes(core, "*")) == ([], ())


def test_a_default_gateway_that_does_not_let_a_route_in_says_so() -> None:
    core = Core(default_gateway(), by_default(http_route(namespace="far")))

    [attachment] = attachments(core.db, route_ref(namespace="far"))

    assert attachment.problem is not None
    assert attachment.problem.reason == "NotAllowedByListeners"


SHARED = gateway(http("web"), allowedListeners=allowing("All"))
MORE = Ref.of(ListenerSet, "shop", "more")
OF_SET = "{kind: ListenerSet, name: more, namespace: shop}"


def test_a_route_reaches_the_listeners_of_the_parent_that_it_names_alone() -> None:
    core = Core(
        SHARED,
        listener_set(http("web", port=81), namespace="shop"),
        http_route(),
        http_route(name="more", namespace="shop", parent=OF_SET),
    )
    of_set = ListenerId(EG, MORE, "web")

    assert attached_hosts(core.db, route_ref(), WEB) == ("*",)
    assert attached_hosts(core.db, route_ref(), of_set) == ()
    more = route_ref("more", namespace="shop")
    assert (attached_hosts(core.db, more, WEB), attached_hosts(core.db, more, of_set)) == ((), ("*",))
    assert attached_counts(core.db, MORE) == {of_set: 1}


def test_a_listener_of_a_set_takes_routes_of_the_namespace_of_the_set() -> None:
    core = Core(SHARED, listener_set(http("web", port=81), namespace="shop"), http_route(parent=OF_SET))

    assert refusal(core) == "NotAllowedByListeners"


@pytest.mark.parametrize(
    ("parent", "reason"),
    [
        (OF_SET.replace("}", ", sectionName: web, port: 81}"), None),
        (OF_SET.replace("}", ", sectionName: other}"), "NoMatchingParent"),
        (OF_SET.replace("}", ", port: 80}"), "NoMatchingParent"),
    ],
)
def test_a_parent_ref_to_a_set_is_narrowed_by_section_and_port(parent: str, reason: str | None) -> None:
    anybody = http("web", port=81).replace("}", ", allowedRoutes: {namespaces: {from: All}}}")
    core = Core(SHARED, listener_set(anybody, namespace="shop"), http_route(parent=parent))

    assert refusal(core) == reason


def test_a_route_on_a_set_that_is_not_taken_reaches_nothing() -> None:
    core = Core(gateway(http("web")), listener_set(http("web", port=81), namespace="shop"))
    core.apply(http_route(namespace="shop", parent=OF_SET))

    [only] = attachments(core.db, route_ref(namespace="shop"))
    assert only.problem is not None
    assert only.problem.message == (
        "The ListenerSet has no listener that could be used; its own status tells why."
    )


def test_a_hostname_belongs_to_the_narrowest_listener_of_a_gateway_and_its_sets() -> None:
    core = Core(SHARED, http_route(hostnames=("a.io", "b.io")))
    assert attached_hosts(core.db, route_ref(), WEB) == ("a.io", "b.io")

    core.apply(listener_set(http("own", "a.io"), namespace="shop"))
    assert attached_hosts(core.db, route_ref(), WEB) == ("b.io",)

    core.apply(listener_set(https("own", "gone", hostname="a.io"), namespace="shop"))
    assert attached_hosts(core.db, route_ref(), WEB) == ("a.io", "b.io"), "what is not served takes nothing"
