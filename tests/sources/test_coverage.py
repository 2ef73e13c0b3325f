"""A policy and its target change in two files: at no time is the target without the policy."""

from __future__ import annotations

import pytest

from moongate.api.base import Ref
from moongate.api.httproute import HTTPRoute
from moongate.sources.folder import Folder
from tests.sources.manifests import Unfinished


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
