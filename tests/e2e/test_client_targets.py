"""ClientTrafficPolicy: for which listeners it is, by names and by labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e import manifests as m
from tests.ports import free_port

if TYPE_CHECKING:
    from tests.e2e.conftest import Site

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

GROUP = "group: gateway.networking.k8s.io"


def keeping(name: str, targets: str) -> m.Document:
    """A policy for some targets, in YAML, under which ``//`` stays in paths."""
    spec = {**m.spec(targets), "path": {"disableMergeSlashes": True}}
    return {**m.policy("ClientTrafficPolicy", name, "{}"), "spec": spec}


async def kept(site: Site, host: str, ports: dict[str, int]) -> set[str]:
    """The listeners on which ``//`` stays; each is asked over a new connection."""
    close = {"connection": "close"}
    paths = {
        name: (await site.reached(host, "/a//b", port=port, headers=close)).path
        for name, port in ports.items()
    }
    assert {*paths.values()} <= {"/a//b", "/a/b"}
    return {name for name, path in paths.items() if path == "/a//b"}


def http(name: str, port: int) -> str:
    return f"{{name: {name}, port: {port}, protocol: HTTP}}"


TARGETS = [
    ("kind: Gateway, name: aimed", {"left", "right", "set"}),
    ("kind: Gateway, name: aimed, sectionName: left", {"left"}),
    ("kind: ListenerSet, name: aimed", {"set"}),
    ("kind: ListenerSet, name: aimed, sectionName: absent", set[str]()),
    ("kind: Gateway, name: beside", {"beside"}),
]


@pytest.mark.proves(
    "ClientTrafficPolicy",
    "targetRef.kind",
    "targetRef.name",
    "targetRef.sectionName",
    "targetRefs[].kind",
    "targetRefs[].name",
    "targetRefs[].sectionName",
)
async def test_a_policy_is_for_the_listeners_of_the_targets_that_it_names(site: Site) -> None:
    """A Gateway and a ListenerSet of the same name, and another Gateway."""
    ports = {name: free_port() for name in ("left", "right", "set", "beside")}
    own = ", ".join(http(name, ports[name]) for name in ("left", "right"))
    await site.apply(
        m.gateway("aimed", f"[{own}]", allowedListeners={"namespaces": {"from": "Same"}}),
        m.listener_set("aimed", f"[{http('left', ports['set'])}]", of="aimed"),
        m.gateway("beside", f"[{http('left', ports['beside'])}]"),
        m.route(
            "aimed",
            f"[{{{m.to('one')}}}]",
            parents="[{name: aimed}, {kind: ListenerSet, name: aimed}, {name: beside}]",
        ),
    )

    for target, expected in TARGETS:
        for targets in (f"targetRef: {{{GROUP}, {target}}}", f"targetRefs: [{{{GROUP}, {target}}}]"):
            policy = keeping("aiming", targets)
            await site.apply(policy)
            assert await kept(site, "aimed.test", ports) == expected, targets
            await site.delete(policy)


FAR = "namespaces: {from: Selector, selector: {matchLabels: {place: far}}}"
NEAR = (
    "namespaces: {from: Selector, "
    "selector: {matchExpressions: [{key: place, operator: In, values: [near, here]}]}}"
)
ALL = "{namespaces: {from: All}}"
SELECTORS = [
    ("kind: Gateway, matchLabels: {tier: a}", {"a"}),
    ("kind: ListenerSet, matchLabels: {tier: a}", {"set"}),
    ("kind: Gateway, matchExpressions: [{key: tier, operator: In, values: [a, b]}]", {"a", "b", "set"}),
    ("kind: Gateway, matchExpressions: [{key: other, operator: Exists}]", {"b", "set"}),
    ("kind: Gateway, matchLabels: {tier: a}, namespaces: {from: All}", {"a", "far", "near"}),
    (f"kind: Gateway, matchLabels: {{tier: a}}, {FAR}", {"far"}),
    (f"kind: Gateway, matchLabels: {{tier: a}}, {NEAR}", {"near"}),
]


@pytest.mark.slow
@pytest.mark.proves(
    "ClientTrafficPolicy",
    "targetSelectors[].kind",
    "targetSelectors[].matchLabels",
    "targetSelectors[].matchExpressions[].*",
    "targetSelectors[].namespaces.*",
)
async def test_a_policy_is_for_the_targets_that_its_selectors_select(site: Site) -> None:
    """By kind, by labels, and by namespaces, where a grant of the other namespace allows it.

    The ListenerSet is a part of ``b``.
    """
    labels = {
        "a": {"tier": "a"},
        "b": {"tier": "b", "other": ""},
        "far": {"tier": "a"},
        "near": {"tier": "a"},
    }
    ports = {name: free_port() for name in (*labels, "set")}
    documents: list[m.Document] = []
    for name, own in labels.items():
        namespace = name if name in ("far", "near") else "default"
        if namespace != "default":
            documents += [
                m.namespace(namespace, place=namespace),
                m.grant(namespace, kind="ClientTrafficPolicy", of="default", to_kind="Gateway"),
            ]
        gateway = m.gateway(
            name,
            f"[{{name: http, port: {ports[name]}, protocol: HTTP, allowedRoutes: {ALL}}}]",
            namespace=namespace,
            allowedListeners={"namespaces": {"from": "Same"}},
        )
        gateway["metadata"]["labels"] = own
        documents.append(gateway)
    parts = m.listener_set("parts", f"[{http('http', ports['set'])}]", of="b")
    parts["metadata"]["labels"] = labels["a"]
    parents = ", ".join(
        f"{{name: {name}, namespace: {name if name in ('far', 'near') else 'default'}}}" for name in labels
    )
    await site.apply(
        *documents,
        parts,
        m.route("labels", f"[{{{m.to('one')}}}]", parents=f"[{parents}, {{kind: ListenerSet, name: parts}}]"),
    )

    for selector, expected in SELECTORS:
        policy = keeping("selecting", f"targetSelectors: [{{{GROUP}, {selector}}}]")
        await site.apply(policy)
        assert await kept(site, "labels.test", ports) == expected, selector
        await site.delete(policy)
