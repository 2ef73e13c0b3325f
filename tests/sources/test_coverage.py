"""A policy and its target change in two files: at no time is the target without the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moongate.api.base import Ref
from moongate.api.httproute import HTTPRoute
from moongate.policies.security_policy import SecurityPolicy
from moongate.sources.folder import Folder
from tests.sources.manifests import Unfinished

if TYPE_CHECKING:
    from random import Random


def labelled(labels: str, rest: str = "") -> str:
    return (
        f"{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, "
        f"labels: {labels}}}, spec: {{{rest}}}}}\n"
    )


def listening(name: str, listener: str, labels: str = "{}") -> str:
    return (
        f"{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}, "
        f"labels: {labels}}}, spec: {{gatewayClassName: x, "
        f"listeners: [{{name: {listener}, port: 80, protocol: HTTP}}]}}}}\n"
    )


def guarding(name: str, targets: str) -> str:
    return (
        f"{{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: SecurityPolicy, metadata: {{name: {name}}}, "
        f"spec: {{{targets}, cors: {{allowOrigins: ['*']}}}}}}\n"
    )


def selecting(name: str, labels: str, kind: str = "HTTPRoute") -> str:
    return guarding(name, f"targetSelectors: [{{kind: {kind}, matchLabels: {labels}}}]")


def naming(kind: str, name: str, section: str = "") -> str:
    at = f", sectionName: {section}" if section else ""
    target = f"{{group: gateway.networking.k8s.io, kind: {kind}, name: {name}{at}}}"
    return guarding("p", f"targetRefs: [{target}]")


class Unused(Unfinished):
    """An edit that goes on, but no longer than what nobody needs waits."""

    def stays(self, what: Ref | str, file: str, /, *, used: bool) -> bool:
        return used


ROUTE = Ref.of(HTTPRoute, "default", "r")
GATEWAYS = {f"{name}.yaml": listening(name, "http") for name in ("one", "two")}
TURNS = {
    "label of a route": (
        {"r.yaml": labelled("{turn: a}"), "p.yaml": selecting("p", "{turn: a}")},
        {"r.yaml": labelled("{turn: b}"), "p.yaml": selecting("p", "{turn: b}")},
    ),
    "label of a Gateway": (
        {"g.yaml": listening("g", "http", "{turn: a}"), "p.yaml": selecting("p", "{turn: a}", "Gateway")},
        {"g.yaml": listening("g", "http", "{turn: b}"), "p.yaml": selecting("p", "{turn: b}", "Gateway")},
    ),
    "name of a rule": (
        {"r.yaml": labelled("{}", "rules: [{name: a}]"), "p.yaml": naming("HTTPRoute", "r", "a")},
        {"r.yaml": labelled("{}", "rules: [{name: b}]"), "p.yaml": naming("HTTPRoute", "r", "b")},
    ),
    "name of a listener": (
        {"g.yaml": listening("g", "a"), "p.yaml": naming("Gateway", "g", "a")},
        {"g.yaml": listening("g", "b"), "p.yaml": naming("Gateway", "g", "b")},
    ),
    "parent of a route": (
        {
            **GATEWAYS,
            "r.yaml": labelled("{}", "parentRefs: [{name: one}]"),
            "p.yaml": naming("Gateway", "one"),
        },
        {"r.yaml": labelled("{}", "parentRefs: [{name: two}]"), "p.yaml": naming("Gateway", "two")},
    ),
}
"""What a policy and its target change together: the files before, and those that change."""


def commit(folder: Folder, path: str, text: str | None) -> list[Ref]:
    """What is in force anew when one file of an edit has been read."""
    for _ in folder.stage(path, text):
        pass
    return list(folder.commit(Unfinished()))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("turn", TURNS)
def test_a_target_and_its_policy_change_in_one_piece(turn: str, order: int) -> None:
    """Between the two files, the policy would not hold for the target, and everybody might pass."""
    folder = Folder()
    before, after = TURNS[turn]
    folder.update_many(before)

    first, second = [*after][::order]
    assert commit(folder, first, after[first]) == []
    assert len(commit(folder, second, after[second])) in (0, len(after)), "all or nothing"
    folder.commit()
    whole = Folder()
    whole.update_many(before | after)
    assert folder.resources == whole.resources


WIDER = {
    "from the name of a rule to all": (
        {"r.yaml": labelled("{}", "rules: [{name: a}]"), "p.yaml": naming("HTTPRoute", "r", "a")},
        {"r.yaml": labelled("{}", "rules: [{}]"), "p.yaml": naming("HTTPRoute", "r")},
    ),
    "from a selector to a name": (
        {"r.yaml": labelled("{turn: a}"), "p.yaml": selecting("p", "{turn: a}")},
        {"r.yaml": labelled("{}"), "p.yaml": naming("HTTPRoute", "r")},
    ),
}
"""The policy may come first, because it then holds for the target before and after."""


@pytest.mark.parametrize("turn", WIDER)
def test_only_the_half_of_an_edit_waits_that_takes_a_policy_away(turn: str) -> None:
    before, after = WIDER[turn]
    folder = Folder()
    folder.update_many(before)
    assert commit(folder, "r.yaml", after["r.yaml"]) == []
    assert len(commit(folder, "p.yaml", after["p.yaml"])) == 2

    folder = Folder()
    folder.update_many(before)
    assert len(commit(folder, "p.yaml", after["p.yaml"])) == 1
    assert len(commit(folder, "r.yaml", after["r.yaml"])) == 1


def test_a_rule_may_go_with_the_policy_that_named_it() -> None:
    """Nothing is served without it that was served with it."""
    folder = Folder()
    rules = "rules: [{name: a}, {name: b}]"
    folder.update_many({"r.yaml": labelled("{}", rules), "p.yaml": naming("HTTPRoute", "r", "a")})

    assert commit(folder, "r.yaml", labelled("{}", "rules: [{name: b}]")) == [ROUTE]


def test_a_target_that_moves_to_another_policy_does_not_wait() -> None:
    folder = Folder()
    policies = {f"{turn}.yaml": selecting(turn, f"{{turn: {turn}}}") for turn in "ab"}
    folder.update_many({"r.yaml": labelled("{turn: a}"), **policies})

    assert commit(folder, "r.yaml", labelled("{turn: b}")) == [ROUTE]


def test_a_change_that_takes_a_policy_away_is_in_force_in_the_end() -> None:
    folder = Folder()
    folder.update_many({"r.yaml": labelled("{turn: a}"), "p.yaml": selecting("p", "{turn: a}")})

    assert commit(folder, "r.yaml", labelled("{}")) == []
    assert list(folder.commit()) == [ROUTE]


HOSTS = [("", ""), ("", "a.test"), ("a.test", "a.test"), ("a.test", "*.test"), ("*.test", "a.test")]


@pytest.mark.parametrize(("old", "new"), HOSTS)
def test_a_route_under_a_new_name_waits_for_its_policy(old: str, new: str) -> None:
    """A tool writes the file with the new name, then the policy, and removes the old file last."""
    folder = Folder()
    folder.update_many({"r.yaml": hosting("r", old), "p.yaml": naming("HTTPRoute", "r")})

    assert commit(folder, "b.yaml", hosting("b", new)) == []
    assert commit(folder, "p.yaml", naming("HTTPRoute", "b")) == []
    assert commit(folder, "r.yaml", None) == []
    assert {ref.name for ref in folder.commit()} == {"b", "p", "r"}


@pytest.mark.parametrize(("host", "gateway"), [("c.test", "g"), ("a.test", "h")])
def test_a_new_route_does_not_wait_for_a_policy_of_other_requests(host: str, gateway: str) -> None:
    folder = Folder()
    folder.update_many({"r.yaml": hosting("r", "a.test"), "p.yaml": naming("HTTPRoute", "r")})

    assert len(commit(folder, "b.yaml", hosting("b", host, gateway))) == 1


def test_a_new_route_with_a_policy_does_not_wait() -> None:
    folder = Folder()
    folder.update_many({"r.yaml": hosting("r", "a.test"), "p.yaml": naming("HTTPRoute", "r")})

    both = hosting("b", "a.test") + "---\n" + naming("HTTPRoute", "b").replace("name: p}", "name: q}")
    assert len(commit(folder, "b.yaml", both)) == 2


def hosting(name: str, host: str, gateway: str = "g") -> str:
    hosts = f"hostnames: ['{host}'], " if host else ""
    route = labelled("{}", f"{hosts}parentRefs: [{{name: {gateway}}}]")
    return route.replace("name: r,", f"name: {name},")


def reaching(name: str, host: str) -> str:
    return (
        f"{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: {name}}}, "
        f"spec: {{parentRefs: [{{name: one}}], hostnames: [{host}]}}}}\n"
    )


GUARDED = {**GATEWAYS, "r.yaml": reaching("r", "a.test"), "p.yaml": naming("HTTPRoute", "r")}


def test_a_policy_of_the_gateway_is_none_of_the_route_that_comes_beside_a_guarded_one() -> None:
    """It may say nothing about who may pass."""
    folder = Folder()
    folder.update_many({**GUARDED, "g.yaml": naming("Gateway", "one").replace("name: p}", "name: wide}")})

    assert commit(folder, "a.yaml", reaching("a", "a.test")) == []


def test_a_route_that_comes_to_the_hostname_of_a_guarded_one_waits() -> None:
    folder = Folder()
    folder.update_many({**GUARDED, "o.yaml": reaching("o", "b.test")})

    assert len(commit(folder, "o.yaml", reaching("o", "c.test"))) == 1
    assert commit(folder, "o.yaml", reaching("o", "a.test")) == []


def matching(name: str, *rules: str, host: str = "a.test", gateway: str = "g", labels: str = "{}") -> str:
    """A route with rules as "NAME METHOD PATH", where a path of ``=/a`` is exact, and ``~a`` a pattern."""
    written: list[str] = []
    for rule in rules:
        section, method, path = rule.split(" ")
        types = {"=": "Exact", "~": "RegularExpression"}
        type_, value = types.get(path[0], "PathPrefix"), path.lstrip("=~")
        also = f", method: {method}" if method != "ANY" else ""
        at = f"name: {section}, " if section != "-" else ""
        written.append(f"{{{at}matches: [{{path: {{type: {type_}, value: {value}}}{also}}}]}}")
    hosts = f"hostnames: ['{host}'], " if host else ""
    rest = f"parentRefs: [{{name: {gateway}}}], {hosts}rules: [{', '.join(written)}]"
    return labelled(labels, rest).replace("name: r,", f"name: {name},")


OWN = naming("HTTPRoute", "r")
BESIDE = {
    # What is guarded; a route beside it before and afterwards; whether it waits.
    "a path that the guarded route has": ("- ANY /admin", "- ANY /b", "- ANY /admin", True),
    "a path beneath that of the guarded route": ("- ANY /admin", "- ANY /b", "- ANY /admin/b", True),
    "an exact path beneath": ("- ANY /admin", "- ANY /b", "- ANY =/admin/b", True),
    "a pattern, which may be anything": ("- ANY /admin", "- ANY /b", "- ANY ~/.*", True),
    "any path beside a pattern": ("- ANY ~/a.*", "- ANY /b", "- ANY =/admin", True),
    "a method of the same path": ("- ANY /admin", "- PUT /b", "- PUT /admin", True),
    "no method any more": ("- GET /admin", "- PUT /admin", "- GET /admin", True),
    "another path beside the guarded one": ("- ANY /admin", "- ANY /b", "- ANY /c", False),
    "a path that only begins alike": ("- ANY /admin", "- ANY /b", "- ANY /administrator", False),
    "a path above, where the guarded one wins": ("- ANY /admin", "- ANY /b", "- ANY /", False),
    "another exact path": ("- ANY =/admin", "- ANY =/b", "- ANY =/admin/b", False),
    "another method of the same path": ("- GET /admin", "- PUT /b", "- PUT /admin", False),
    "a part of what was its own": ("- ANY /", "- ANY /b", "- ANY /b/c", False),
    "the same path without a method": ("- GET /admin", "- PUT /admin", "- ANY /admin", False),
}


@pytest.mark.parametrize("case", BESIDE)
def test_a_changed_match_waits_only_if_it_takes_requests_of_a_guarded_route(case: str) -> None:
    """An edit of paths beside a guarded route is in force at once, as any other."""
    guarded, before, after, waits = BESIDE[case]
    folder = Folder()
    files = {"r.yaml": matching("r", guarded), "p.yaml": OWN, "b.yaml": matching("b", before)}
    folder.update_many(files)

    assert len(commit(folder, "b.yaml", matching("b", after))) == int(not waits)


ASIDE = {
    # The guarded route before and afterwards; a route without a policy; whether the edit waits.
    "it narrows": ("- ANY /admin", "- ANY /admin/b", "- ANY /", True),
    "it moves to another path": ("- ANY /admin", "- ANY /b", "- ANY /", True),
    "a rule goes": ("- ANY /admin", "- ANY /b", "- ANY /admin", True),
    "a pattern takes what is left": ("- ANY =/admin", "- ANY /b", "- ANY ~/a.*", True),
    "nobody takes what is left": ("- ANY /admin", "- ANY /admin/b", "- ANY /b", False),
    "it widens": ("- ANY /admin/b", "- ANY /admin", "- ANY /", False),
    "the other had it already": ("- ANY /admin", "- ANY /b", "- ANY /admin/b", False),
}


@pytest.mark.parametrize("case", ASIDE)
def test_a_guarded_route_waits_if_it_leaves_requests_to_a_route_without_a_policy(case: str) -> None:
    """A rule moves to another route, and the policy follows it in the next file."""
    before, after, bare, waits = ASIDE[case]
    folder = Folder()
    folder.update_many({"r.yaml": matching("r", before), "p.yaml": OWN, "b.yaml": matching("b", bare)})

    assert len(commit(folder, "r.yaml", matching("r", after))) == int(not waits)


def test_a_rule_that_widens_still_waits_if_another_wins_what_it_had() -> None:
    folder = Folder()
    files = {"r.yaml": matching("r", "- ANY =/admin"), "b.yaml": matching("b", "- ANY /admin")}
    folder.update_many({**files, "p.yaml": OWN})

    assert commit(folder, "r.yaml", matching("r", "- ANY /")) == []


def test_a_route_that_a_selector_guards_is_not_removed_before_its_requests_are_guarded_elsewhere() -> None:
    """Its removal alone would wait for 50 ms."""
    folder = Folder()
    policy = selecting("p", "{turn: a}")
    route = matching("r", "- ANY /admin", labels="{turn: a}")
    folder.update_many({"r.yaml": route, "p.yaml": policy, "b.yaml": matching("b", "- ANY /")})

    for _ in folder.stage("r.yaml", None):
        pass
    assert list(folder.commit(Unused())) == []


def test_the_rule_counts_that_a_policy_names() -> None:
    """Beside a guarded rule, another rule of the same route may be bare."""
    folder = Folder()
    rules = ("admin ANY /admin", "rest ANY /b")
    files = {"r.yaml": matching("r", *rules), "p.yaml": naming("HTTPRoute", "r", "admin")}
    folder.update_many({**files, "b.yaml": matching("b", "- ANY /c")})

    assert len(commit(folder, "b.yaml", matching("b", "- ANY /b"))) == 1
    assert commit(folder, "b.yaml", matching("b", "- ANY /admin")) == []


def test_a_match_does_not_move_from_a_guarded_rule_to_a_bare_one_before_its_policy() -> None:
    folder = Folder()
    rules = ("admin ANY /admin", "rest ANY /b")
    folder.update_many({"r.yaml": matching("r", *rules), "p.yaml": naming("HTTPRoute", "r", "admin")})

    assert commit(folder, "r.yaml", matching("r", "admin ANY /a", "rest ANY /admin")) == []


LISTENERS = (
    "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: NAME}, "
    "spec: {gatewayClassName: x, listeners: [LISTENERS]}}\n"
)


def gateway(name: str, **hosts: str) -> str:
    """A Gateway with a listener at port 80 for each hostname; ``*`` for all."""
    listeners = ", ".join(
        f"{{name: {listener}, port: 80, protocol: HTTP{f', hostname: {host!r}' if host != '*' else ''}}}"
        for listener, host in hosts.items()
    )
    return LISTENERS.replace("NAME", name).replace("LISTENERS", listeners)


def test_a_hostname_may_come_from_a_listener() -> None:
    """Routes without hostnames at listeners with others have no requests in common."""
    folder = Folder()
    files = {"g.yaml": gateway("g", a="a.test", b="b.test"), "p.yaml": OWN}
    route = matching("r", "- ANY /", host="").replace("name: g}", "name: g, sectionName: a}")
    folder.update_many({**files, "r.yaml": route})
    other = route.replace("metadata: {name: r,", "metadata: {name: b,")

    assert len(commit(folder, "b.yaml", other.replace("Name: a}", "Name: b}"))) == 1
    assert commit(folder, "c.yaml", other.replace("name: b,", "name: c,")) == []


def test_a_narrower_hostname_takes_requests_whatever_is_matched_there() -> None:
    """Envoy looks for the hostname first."""
    folder = Folder()
    folder.update_many({"r.yaml": matching("r", "- ANY /admin", host="*.test"), "p.yaml": OWN})

    assert commit(folder, "b.yaml", matching("b", "- ANY /", host="b.test")) == []


def test_gateways_at_one_port_count_as_one() -> None:
    """Merged Gateways share an Envoy, and a port changes hands between others."""
    folder = Folder()
    gateways = {"g.yaml": gateway("g", http="*"), "h.yaml": gateway("h", http="*")}
    folder.update_many({**gateways, "r.yaml": matching("r", "- ANY /"), "p.yaml": OWN})

    assert commit(folder, "b.yaml", matching("b", "- ANY /", gateway="h")) == []


LISTENING = {
    "a listener comes at the port": (gateway("g", a="*"), gateway("g", a="*", b="a.test"), True),
    "a listener has another hostname": (gateway("g", a="a.test"), gateway("g", a="b.test"), True),
    "a listener has another name": (gateway("g", a="*"), gateway("g", b="*"), True),
    "a listener comes at another port": (
        gateway("g", a="*"),
        gateway("g", a="*", b="*").replace("b, port: 80", "b, port: 81"),
        False,
    ),
    "a listener comes with another hostname": (
        gateway("g", a="a.test"),
        gateway("g", a="a.test", b="b.test"),
        False,
    ),
}


@pytest.mark.parametrize("guards", [naming("Gateway", "g", "a"), OWN], ids=["of a listener", "of a route"])
@pytest.mark.parametrize("case", LISTENING)
def test_a_listener_waits_where_it_may_take_requests_of_what_is_guarded(case: str, guards: str) -> None:
    """The policy of the new listener comes in the next file."""
    before, after, waits = LISTENING[case]
    folder = Folder()
    folder.update_many({"g.yaml": before, "r.yaml": matching("r", "- ANY /"), "p.yaml": guards})

    assert len(commit(folder, "g.yaml", after)) == int(not waits)


def test_a_gateway_waits_that_comes_to_the_port_of_a_guarded_one() -> None:
    folder = Folder()
    folder.update_many({"g.yaml": gateway("g", a="*"), "p.yaml": naming("Gateway", "g")})

    assert commit(folder, "h.yaml", gateway("h", a="a.test")) == []


def adding(**hosts: str) -> str:
    """A ListenerSet ``more`` of Gateway ``g``; else as ``gateway``."""
    own = gateway("more", **hosts).replace("kind: Gateway", "kind: ListenerSet")
    return own.replace("gatewayClassName: x", "parentRef: {name: g}")


SHARED = gateway("g", a="*").replace("spec: {", "spec: {allowedListeners: {namespaces: {from: Same}}, ")


@pytest.mark.parametrize(("port", "waits"), [(80, True), (81, False)])
def test_a_listener_set_waits_where_it_may_take_requests_of_what_is_guarded(port: int, waits: bool) -> None:
    folder = Folder()
    folder.update_many({"g.yaml": SHARED, "r.yaml": matching("r", "- ANY /"), "p.yaml": OWN})
    more = adding(b="a.test").replace("port: 80", f"port: {port}")

    assert len(commit(folder, "m.yaml", more)) == int(not waits)


def test_a_guarded_listener_set_does_not_go_before_its_requests_are_guarded_elsewhere() -> None:
    folder = Folder()
    folder.update_many(
        {"g.yaml": SHARED, "m.yaml": adding(b="a.test"), "p.yaml": naming("ListenerSet", "more")}
    )

    assert commit(folder, "m.yaml", adding(b="b.test")) == []
    assert commit(folder, "g.yaml", SHARED.replace("Same", "None")) == []


FAR_POLICY = selecting("p", "{turn: a}").replace("name: p}", "name: p, namespace: far}")


def far(namespaces: str) -> str:
    return FAR_POLICY.replace("matchLabels", f"namespaces: {namespaces}, matchLabels")


def namespace(labels: str) -> str:
    return f"{{apiVersion: v1, kind: Namespace, metadata: {{name: default, labels: {labels}}}}}\n"


def grant(of: str) -> str:
    return (
        "{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: x}, spec: {"
        f"from: [{{group: gateway.envoyproxy.io, kind: SecurityPolicy, namespace: {of}}}], "
        "to: [{group: gateway.networking.k8s.io, kind: HTTPRoute}]}}\n"
    )


def chosen(env: str) -> str:
    return far(f"{{from: Selector, selector: {{matchLabels: {{env: {env}}}}}}}")


DISTANT = {
    "labels of a namespace": (
        {"n.yaml": namespace("{env: a}"), "p.yaml": chosen("a"), "x.yaml": grant("far")},
        {"n.yaml": namespace("{env: b}"), "p.yaml": chosen("b")},
    ),
    "a grant": (
        {"x.yaml": grant("far"), "p.yaml": far("{from: All}")},
        {"x.yaml": grant("near"), "p.yaml": far("{from: All}").replace("space: far", "space: near")},
    ),
}


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("turn", DISTANT)
def test_a_policy_of_another_namespace_and_what_lets_it_select_change_in_one_piece(
    turn: str, order: int
) -> None:
    before, after = DISTANT[turn]
    folder = Folder()
    folder.update_many({**before, "r.yaml": labelled("{turn: a}")})

    first, second = [*after][::order]
    assert commit(folder, first, after[first]) == []
    commit(folder, second, after[second])
    folder.commit()
    whole = Folder()
    whole.update_many({**before, **after, "r.yaml": labelled("{turn: a}")})
    assert folder.resources == whole.resources


def test_a_namespace_waits_if_a_listener_would_not_take_its_guarded_routes_any_more() -> None:
    """Their requests would go to routes of other namespaces."""
    folder = Folder()
    allowed = "allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {env: a}}}}"
    at = gateway("g", a="*").replace("protocol: HTTP", f"protocol: HTTP, {allowed}")
    files = {"g.yaml": at, "n.yaml": namespace("{env: a}"), "p.yaml": OWN}
    folder.update_many({**files, "r.yaml": matching("r", "- ANY /")})

    assert len(commit(folder, "n.yaml", namespace("{env: a, other: b}"))) == 1
    assert commit(folder, "n.yaml", namespace("{env: b}")) == []


def basic(name: str, targets: str) -> str:
    return asking(guarding(name, targets))


def asking(policy: str) -> str:
    """A policy that asks for a password, in place of one about browsers."""
    return policy.replace("cors: {allowOrigins: ['*']}", "basicAuth: {users: {name: u}}")


USERS = "{apiVersion: v1, kind: Secret, metadata: {name: u}, stringData: {.htpasswd: ''}}\n"
NAMED = "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}]"
ABOVE = NAMED.replace("HTTPRoute, name: r", "Gateway, name: g")
WEAKER = {
    "the policy demands less": (basic("p", NAMED), "p.yaml", guarding("p", NAMED)),
    "an older one demands less": (basic("p", NAMED), "o.yaml", guarding("o", NAMED)),
    "a nearer one demands less": (basic("p", ABOVE), "o.yaml", guarding("o", NAMED)),
    "one of the rule demands less": (
        basic("p", NAMED),
        "o.yaml",
        guarding("o", NAMED.replace("name: r", "name: r, sectionName: a")),
    ),
    "it moves from one that demands to another": (
        basic("p", "targetSelectors: [{kind: HTTPRoute, matchLabels: {turn: a}}]")
        + "---\n"
        + selecting("q", "{turn: b}"),
        "r.yaml",
        matching("r", "a ANY /", labels="{turn: b}"),
    ),
}


@pytest.mark.parametrize("case", WEAKER)
def test_what_a_policy_demands_is_not_dropped_before_another_one_demands_it(case: str) -> None:
    """Of several policies, the nearest one holds, and the oldest of these."""
    before, path, text = WEAKER[case]
    folder = Folder()
    route = matching("r", "a ANY /", labels="{turn: a}")
    folder.update_many({"r.yaml": route, "p.yaml": before, "u.yaml": USERS, "g.yaml": gateway("g", a="*")})

    assert commit(folder, path, text) == []


STRONGER = {
    "a later one demands less": (basic("p", NAMED), "q.yaml", guarding("q", NAMED)),
    "a nearer one demands as much": (basic("p", ABOVE), "o.yaml", basic("o", NAMED)),
    "a nearer one is merged": (
        basic("p", ABOVE),
        "o.yaml",
        guarding("o", NAMED + ", mergeType: StrategicMerge"),
    ),
    "one demands more": (guarding("p", NAMED), "p.yaml", basic("p", NAMED)),
}


@pytest.mark.parametrize("case", STRONGER)
def test_a_policy_that_drops_no_demand_does_not_wait(case: str) -> None:
    before, path, text = STRONGER[case]
    folder = Folder()
    folder.update_many({"r.yaml": matching("r", "a ANY /"), "p.yaml": before, "u.yaml": USERS})

    assert len(commit(folder, path, text)) == 1


BESIDE_IT = NAMED.replace("name: r", "name: b")
LOOSER = {
    # A route that stays, and one that changes; b has a policy of its own, r that of the Gateway.
    "it takes a path of another": ("r", "- ANY /a", "b", "- ANY /b", "- ANY /a"),
    "another leaves a path to it": ("b", "- ANY /", "r", "- ANY /a", "- ANY /a/c"),
}


@pytest.mark.parametrize("case", LOOSER)
def test_requests_do_not_go_where_the_policy_of_their_gateway_does_not_hold(case: str) -> None:
    """The own policy of a route replaces that of its Gateway, and may change only in the next file."""
    other, stays, name, before, after = LOOSER[case]
    folder = Folder()
    files = {f"{other}.yaml": matching(other, stays), f"{name}.yaml": matching(name, before)}
    files |= {"g.yaml": gateway("g", http="*"), "u.yaml": USERS, "p.yaml": basic("p", ABOVE)}
    folder.update_many({**files, "o.yaml": guarding("o", BESIDE_IT)})

    assert commit(folder, f"{name}.yaml", matching(name, after)) == []
    assert len(commit(folder, "o.yaml", basic("o", BESIDE_IT))) == 2


@pytest.mark.parametrize("own", [None, BESIDE_IT + ", mergeType: StrategicMerge"])
def test_requests_may_change_routes_under_the_policy_of_their_gateway(own: str | None) -> None:
    """It holds for a route without a policy of its own, and for one whose policy is merged into it."""
    folder = Folder()
    files = {f"{name}.yaml": matching(name, f"- ANY /{name}") for name in "rb"}
    files |= {"g.yaml": gateway("g", http="*"), "u.yaml": USERS, "p.yaml": basic("p", ABOVE)}
    folder.update_many(files | ({"o.yaml": guarding("o", own)} if own else {}))

    assert len(commit(folder, "b.yaml", matching("b", "- ANY /b", "- ANY /r"))) == 1


REFERRING = "extensionRef: {group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: f}"
FILTER = (
    "{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: HTTPRouteFilter, metadata: {name: f}, "
    "spec: {directResponse: {}}}\n"
)
MOVES = {
    # The policy; the only route, which is at /admin of *.test, afterwards; whether the edit waits.
    "another path": (basic("p", NAMED), matching("r", "a ANY /b", host="*.test"), True),
    "a narrower path": (basic("p", NAMED), matching("r", "a ANY /admin/b", host="*.test"), True),
    "a narrower hostname": (basic("p", NAMED), matching("r", "a ANY /admin"), True),
    "another Gateway": (basic("p", NAMED), matching("r", "a ANY /admin", host="", gateway="h"), True),
    "a filter, which may match on more": (
        basic("p", NAMED),
        matching("r", "a ANY /", host="").replace(
            "matches:", f"filters: [{{type: ExtensionRef, {REFERRING}}}], matches:"
        ),
        True,
    ),
    "one more path": (basic("p", NAMED), matching("r", "b ANY /b", "a ANY /admin", host="*.test"), False),
    "a wider path": (basic("p", NAMED), matching("r", "a ANY /", host="*.test"), False),
    "all hostnames": (basic("p", NAMED), matching("r", "a ANY /admin", host=""), False),
    "it demands nothing": (guarding("p", NAMED), matching("r", "a ANY /b"), False),
    "it is of the Gateway": (basic("p", ABOVE), matching("r", "a ANY /b"), False),
}


@pytest.mark.parametrize("case", MOVES)
def test_what_a_guarded_route_does_not_get_any_more_may_be_for_one_in_the_next_file(case: str) -> None:
    """Then the new route would be without the policy, if the file of the policy is the last one."""
    policy, after, waits = MOVES[case]
    folder = Folder()
    files = {"r.yaml": matching("r", "a ANY /admin", host="*.test"), "p.yaml": policy, "u.yaml": USERS}
    files |= {
        "g.yaml": gateway("g", a="*"),
        "h.yaml": gateway("h", a="*").replace("80", "81"),
        "f.yaml": FILTER,
    }
    folder.update_many(files)

    assert len(commit(folder, "r.yaml", after)) == int(not waits)
    if waits:
        assert commit(folder, "b.yaml", matching("b", "a ANY /admin")) == []
        assert commit(folder, "p.yaml", basic("p", BESIDE_IT)) == []
        assert {ref.name for ref in folder.commit()} == {"r", "b", "p"}


def test_a_route_does_not_take_requests_while_its_policy_waits_for_a_secret() -> None:
    """The policy comes with the route, but its Secret only in the next file."""
    folder = Folder()
    rules = "b ANY /b", "a ANY /"
    files = {
        "r.yaml": matching("r", *rules),
        "p.yaml": naming("HTTPRoute", "r", "a"),
        "q.yaml": guarding("q", NAMED.replace("r}", "x}")),
    }
    folder.update_many(files)

    assert commit(folder, "r.yaml", matching("r", "b ANY /")) == []
    assert commit(folder, "q.yaml", basic("q", NAMED.replace("r}", "r, sectionName: b}"))) == []
    assert len(commit(folder, "u.yaml", USERS)) == 3


def test_a_removal_that_waits_still_takes_requests_meanwhile() -> None:
    """A guarded route takes over the hostname of a bare one, which goes in the same edit."""
    folder = Folder()
    files = {"r.yaml": matching("r", "- ANY /"), "b.yaml": matching("b", "- ANY /"), "p.yaml": OWN}
    folder.update_many(files)

    assert commit(folder, "r.yaml", matching("r", "- ANY /", host="")) == []
    assert commit(folder, "b.yaml", None) == []


class Long(Unfinished):
    """An edit that goes on so long that its first changes wait no longer."""

    def __init__(self, *over: str) -> None:
        self._over = over

    def unfinished(self, what: Ref | str, _file: str, /, *, used: bool) -> bool:
        return str(what).rpartition("/")[2] not in self._over


def test_what_has_waited_long_enough_does_not_wait_for_what_came_later() -> None:
    """A program that writes again and again would hold everything back as long as it runs."""
    folder = Folder()
    routes = {name: labelled("{turn: a}").replace("name: r,", f"name: {name},") for name in ("r", "s")}
    folder.update_many(
        {**{f"{name}.yaml": text for name, text in routes.items()}, "p.yaml": selecting("p", "{turn: a}")}
    )
    assert commit(folder, "r.yaml", routes["r"].replace("turn: a", "turn: b")) == []
    for _ in folder.stage("s.yaml", routes["s"].replace("turn: a", "turn: b")):
        pass

    assert list(folder.commit(Long("r"))) == [ROUTE]
    assert list(folder.commit(Long("r", "s"))) == [Ref.of(HTTPRoute, "default", "s")]


@st.composite
def routes(draw: st.DrawFn, name: str) -> str:
    each = [("x ANY /",), ("x ANY /a",), ("x ANY /", "w ANY /a"), ("w ANY /", "x ANY /a")]
    rules, host = draw(st.sampled_from(each)), draw(st.sampled_from(["a.test", ""]))
    return matching(name, *rules, host=host, labels=f"{{turn: {draw(st.sampled_from('ab'))}}}")


@st.composite
def policies(draw: st.DrawFn, name: str) -> str:
    named = [NAMED, NAMED.replace("name: r", "name: s"), NAMED.replace("name: r", "name: r, sectionName: x")]
    selected = [f"targetSelectors: [{{kind: HTTPRoute, matchLabels: {{turn: {label}}}}}]" for label in "ab"]
    made = guarding(name, draw(st.sampled_from([*named, *selected, ABOVE])))
    return draw(st.sampled_from([made, asking(made)]))


STATES = st.fixed_dictionaries(
    {},
    optional={
        **{f"{name}.yaml": routes(name) for name in "rst"},
        **{f"{name}.yaml": policies(name) for name in "pq"},
    },
)
"""Routes that may take each other's requests, and policies of them and of their Gateway, each in a file."""


def passing(folder: Folder) -> dict[tuple[str, str], bool]:
    """Requests that reach a route, each with whether everybody may pass: of a hostname, to a path."""
    routes = [r for r in folder.resources.values() if isinstance(r, HTTPRoute)]
    policies = sorted(
        (p for p in folder.resources.values() if isinstance(p, SecurityPolicy)),
        key=lambda each: each.metadata.name,
    )
    answers: dict[tuple[str, str], bool] = {}
    for host in ("a.test", "b.test"):
        there = [r for r in routes if host in r.hostnames] or [r for r in routes if not r.hostnames]
        for path in ("/z", "/a"):
            taken = sorted(
                (-len(value), route.metadata.name, rule.name or "", route)
                for route in there
                for rule in route.spec.rules
                if (value := rule.matches[0].path.value) in ("/", path)
            )
            if taken:
                *_, section, route = taken[0]
                answers[host, path] = not any(
                    winning.demands for winning in nearest(policies, route, section)
                )
    return answers


def nearest(policies: list[SecurityPolicy], route: HTTPRoute, section: str) -> list[SecurityPolicy]:
    """The policy that holds for a rule, if there is one."""
    targets = [(each, at) for each in policies for at in each.spec.target_refs]
    of_gateway = [each for each, at in targets if at.kind == "Gateway"]
    named = [(each, at.section_name) for each, at in targets if at.name == route.metadata.name]
    selected = [
        each
        for each in policies
        if any(s.selector.selects(route.metadata.labels) for s in each.spec.target_selectors)
    ]
    of_rule = [each for each, at in named if at == section]
    of_route = [p for p in policies if p in selected or (p, None) in named]
    return (of_rule or of_route or of_gateway)[:1]


@given(STATES, STATES, st.randoms(use_true_random=False))
def test_no_request_passes_that_is_guarded_before_and_after_an_edit(
    before: dict[str, str], after: dict[str, str], random: Random
) -> None:
    """The law of all the cases above: whatever the edit, in whichever order its files come."""
    fixed = {"u.yaml": USERS, "g.yaml": gateway("g", http="*")}
    folder, whole = Folder(), Folder()
    folder.update_many(fixed | before)
    whole.update_many(fixed | after)
    guarded = {each for each, is_open in passing(folder).items() if not is_open}
    guarded &= {each for each, is_open in passing(whole).items() if not is_open}

    files = sorted({*before, *after})
    random.shuffle(files)
    for path in files:
        commit(folder, path, after.get(path))
        assert not any(passing(folder).get(each) for each in guarded)
    folder.commit()
    assert folder.resources == whole.resources


def default(name: str, scope: str) -> str:
    return listening(name, "http").replace(
        "gatewayClassName: x", f"gatewayClassName: x, defaultScope: {scope}"
    )


def test_a_route_that_takes_requests_by_default_waits_for_its_policy() -> None:
    """As one does that names the Gateway: here the bare one is more specific than the guarded one."""
    folder = Folder()
    wide = "hostnames: [a.test], rules: [{matches: [{path: {value: /}}]}]"
    narrow = wide.replace("value: /", "value: /in")
    folder.update_many(
        {
            "g.yaml": default("g", "All"),
            "r.yaml": labelled("{}", f"useDefaultGateways: All, {wide}"),
            "p.yaml": naming("HTTPRoute", "r"),
        }
    )

    new = labelled("{}", f"useDefaultGateways: All, {narrow}").replace("name: r,", "name: new,")

    assert commit(folder, "new.yaml", new) == []
    policy = naming("HTTPRoute", "new").replace("name: p}", "name: q}")
    assert len(commit(folder, "q.yaml", policy)) == 2


@pytest.mark.parametrize(("before", "after"), [("All", "None"), ("None", "All")])
def test_a_gateway_that_changes_its_default_scope_waits_where_something_is_guarded(
    before: str, after: str
) -> None:
    folder = Folder()
    folder.update_many(
        {
            "g.yaml": default("g", before),
            "r.yaml": labelled("{}", "parentRefs: [{name: g}]"),
            "p.yaml": naming("HTTPRoute", "r"),
        }
    )

    assert commit(folder, "g.yaml", default("g", after)) == []
