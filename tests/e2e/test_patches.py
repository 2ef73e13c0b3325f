"""EnvoyPatchPolicies, as a real Envoy takes or refuses what they make."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.conftest import Site, until

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINTS = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
TABLE = "default/gateway/http"
MANAGER = "$..filters[?(@.name == 'envoy.filters.network.http_connection_manager')]"


def policy(*patches: tuple[str, str, dict[str, Any]], name: str = "patches") -> m.Document:
    return {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyPatchPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "type": "JSONPatch",
            "targetRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gateway"},
            "jsonPatches": [{"type": t, "name": n, "operation": o} for t, n, o in patches],
        },
    }


def programmed(site: Site, name: str = "patches") -> dict[str, Any]:
    """The condition of that type of a policy."""
    [document] = (
        each
        for each in site.laptop.report()["resources"]
        if (each["kind"], each["metadata"]["name"]) == ("EnvoyPatchPolicy", name)
    )
    [condition] = (c for c in document["status"]["ancestors"][0]["conditions"] if c["type"] == "Programmed")
    return condition


async def soon(site: Site, host: str, claim: Callable[[httpx.Response], bool]) -> httpx.Response:
    """The first answer that is as claimed: a connection that was open is that of the former listener."""
    async with asyncio.timeout(DEADLINE_S):
        while not claim(answer := await site.ask(host)):  # noqa: ASYNC110 - only requests tell
            await asyncio.sleep(0.02)
    return answer


async def test_a_patched_listener_answers_in_other_words(site: Site) -> None:
    mapper = {
        "filter": {
            "status_code_filter": {
                "comparison": {"op": "EQ", "value": {"default_value": 404, "runtime_key": "not_found"}}
            }
        },
        "status_code": 406,
        "body": {"inline_string": "nothing here"},
    }
    place = "/default_filter_chain/filters/0/typed_config/local_reply_config"
    changed = policy((LISTENER, TABLE, {"op": "add", "path": place, "value": {"mappers": [mapper]}}))

    await site.apply(changed)
    answer = await soon(site, "nobody.test", lambda answer: answer.status_code != 404)
    assert (answer.status_code, answer.text) == (406, "nothing here")

    await site.delete(changed)
    await soon(site, "nobody.test", lambda answer: answer.status_code == 404)


async def test_a_route_goes_to_a_cluster_that_a_patch_made(site: Site) -> None:
    await site.apply(m.route("patched", f"[{{{m.to('one')}}}]"))
    own = {
        "name": "mine",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "mine",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {
                "address": "127.0.0.1", "port_value": site.two.port}}}}]}],
        },
    }  # fmt: skip
    moved = policy(
        (CLUSTER, "mine", {"op": "add", "path": "", "value": own}),
        (ROUTES, TABLE, {
            "op": "replace",
            "jsonPath": "$.virtual_hosts[?(@.name == 'default/gateway/http/patched_test')]..route",
            "path": "cluster",
            "value": "mine",
        }),
    )  # fmt: skip
    assert (await site.ask("patched.test")).headers["x-backend"] == "one"

    await site.apply(moved)
    await soon(site, "patched.test", lambda answer: answer.headers["x-backend"] == "two")

    await site.delete(moved)
    assert (await site.ask("patched.test")).headers["x-backend"] == "one"


async def test_a_patch_of_endpoints_and_of_a_rules_own_cluster_reaches_envoy(site: Site) -> None:
    """With shared clusters, the rule has a cluster of its own under the name that the patch has."""
    await site.apply(m.route("endpoints", f"[{{{m.to('one')}}}]"))
    own = "httproute/default/endpoints/rule/0"
    moved = policy(
        (ENDPOINTS, own, {
            "op": "replace",
            "path": "/endpoints/0/lb_endpoints/0/endpoint/address/socket_address/port_value",
            "value": site.two.port,
        }),
        (CLUSTER, own, {"op": "replace", "path": "/connect_timeout", "value": "3s"}),
    )  # fmt: skip

    await site.apply(moved)

    assert (await site.ask("endpoints.test")).headers["x-backend"] == "two"
    assert programmed(site)["status"] == "True"
    await site.delete(moved)
    assert (await site.ask("endpoints.test")).headers["x-backend"] == "one"


async def test_a_patch_that_envoy_refuses_says_so_and_hurts_no_other(site: Site) -> None:
    """Only the refused one is taken back, in a resource that others patch and that routes are in."""
    await site.apply(m.route("beside", f"[{{{m.to('one')}}}]"))
    ours = {"op": "add", "jsonPath": MANAGER, "path": "typed_config/via", "value": "ours"}
    bad = policy(
        (LISTENER, TABLE, ours),
        (LISTENER, TABLE, {
            "op": "add", "jsonPath": MANAGER, "path": "typed_config/http_filters/0", "value": {
                "name": "bad", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                    "default_source_code": {"inline_string": "this is no lua"}}}}),
    )  # fmt: skip

    await site.laptop.apply([bad], timeout_s=None)
    await until(lambda: programmed(site)["reason"] == "Refused")

    assert "script load error" in programmed(site)["message"]

    def is_ours(answer: httpx.Response) -> bool:
        assert answer.status_code == 200, "while the bad one is looked for"
        return answer.headers.get("via") == "ours"

    await soon(site, "beside.test", is_ours)
    assert programmed(site)["reason"] == "Refused"
    await site.delete(bad)
    await soon(site, "beside.test", lambda answer: "via" not in answer.headers)


async def test_a_patch_that_names_nothing_says_so_and_the_others_hold(site: Site) -> None:
    place = "/default_filter_chain/filters/0/typed_config/via"
    half = policy(
        (CLUSTER, "nobody", {"op": "remove", "path": "/connect_timeout"}),
        (LISTENER, TABLE, {"op": "add", "path": place, "value": "half"}),
    )
    await site.apply(m.route("half", f"[{{{m.to('one')}}}]"))

    await site.laptop.apply([half], timeout_s=None)
    await until(lambda: programmed(site)["reason"] == "ResourceNotFound")

    await soon(site, "half.test", lambda answer: answer.headers.get("via") == "half")
    await site.delete(half)
