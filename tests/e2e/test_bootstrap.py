"""Another bootstrap starts another Envoy, if one would start with it; if not, the one that runs goes on."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from tests.e2e import manifests as m
from tests.e2e.conftest import Site, until

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

REF = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "started"}


def proxy(bootstrap: dict[str, Any] | None) -> m.Document:
    spec = {"bootstrap": bootstrap} if bootstrap is not None else {}
    metadata = {"name": "started", "namespace": "default"}
    return {"apiVersion": m.ENVOY, "kind": "EnvoyProxy", "metadata": metadata, "spec": spec}


def merged(value: str) -> m.Document:
    return proxy({"type": "Merge", "value": value})


class Started:
    """The Gateway with an EnvoyProxy of its own."""

    def __init__(self, site: Site) -> None:
        self.site = site
        listeners = f"[{{name: http, port: {site.port}, protocol: HTTP}}]"
        self.gateway = m.gateway("gateway", listeners, infrastructure={"parametersRef": REF})

    async def apply(self, *documents: m.Document) -> None:
        await self.site.apply(*documents, self.gateway, m.route("one", f"[{{{m.to('one')}}}]"))

    def pid(self) -> int | None:
        return self.site.laptop.fleets.report()[0]["envoy"]["pid"]

    def state(self) -> str:
        return self.site.laptop.fleets.report()[0]["envoy"]["state"]

    def programmed(self) -> dict[str, Any]:
        return self.site.conditions(self.gateway)["Programmed"]

    async def serves(self) -> None:
        await until(lambda: self.state() == "ready")
        assert await self.site.status("one.test") == 200


async def test_a_changed_bootstrap_starts_another_envoy(site: Site) -> None:
    """A request that is under way is completed by the former one."""
    started = Started(site)
    await started.apply(proxy(None))
    before = started.pid()

    patch = {"op": "add", "path": "/layered_runtime/layers/0/static_layer/test.flag", "value": True}
    site.one.go.clear()
    async with asyncio.TaskGroup() as tasks:
        under_way = tasks.create_task(site.status("one.test"))
        await site.one.arrived(1)
        tasks.create_task(started.apply(proxy({"type": "JSONPatch", "jsonPatches": [patch]})))
        await until(lambda: started.state() == "draining")
        site.one.go.set()
    await until(lambda: started.pid() not in (None, before))

    assert under_way.result() == 200
    await started.serves()
    await until(lambda: started.programmed()["status"] == "True")

    # As it was, for those who come next: what is asked for last is what Envoy runs with.
    now = started.pid()
    await started.apply(proxy(None))
    await until(lambda: started.pid() not in (None, now))
    await started.serves()


async def test_what_must_stay_is_refused_in_the_status(site: Site) -> None:
    started = Started(site)
    await started.apply(proxy(None))
    await until(lambda: started.pid() is not None)
    await started.serves()
    before = started.pid()

    await started.apply(merged("node: {cluster: somebody/else}"))

    accepted = site.conditions(started.gateway)["Accepted"]
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidParameters")
    assert "node.id and node.cluster cannot be modified" in accepted["message"]
    assert site.conditions(proxy(None))["Accepted"]["status"] == "False"
    await started.serves()
    assert started.pid() == before


async def test_what_envoy_refuses_leaves_it_running(site: Site) -> None:
    started = Started(site)
    await started.apply(proxy(None))
    await started.serves()
    before = started.pid()

    twice = "{name: twice, type: STATIC, connect_timeout: 1s}"
    await started.apply(merged(f"static_resources: {{clusters: [{twice}, {twice}]}}"))
    await until(lambda: started.programmed()["status"] == "False")

    assert "Its bootstrap, and the former one stays: " in started.programmed()["message"]
    await started.serves()
    assert started.pid() == before

    await started.apply(proxy(None))
    await until(lambda: started.programmed()["status"] == "True")
    assert started.pid() == before


async def test_what_envoy_does_not_start_with_is_taken_back(site: Site) -> None:
    """That a port is taken, Envoy finds out only when it starts."""
    started = Started(site)
    await started.apply(proxy(None))
    await started.serves()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"{{socket_address: {{address: 127.0.0.1, port_value: {taken.getsockname()[1]}}}}}"
        static = f"{{name: mine, address: {address}, enable_reuse_port: false, filter_chains: [{{}}]}}"
        await started.apply(merged(f"static_resources: {{listeners: [{static}]}}"))
        await until(lambda: "former one stays" in started.programmed()["message"])

        await started.serves()
    await started.apply(proxy(None))
    await until(lambda: started.programmed()["status"] == "True")
