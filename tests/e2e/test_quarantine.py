"""What Envoys of one fleet refuse: patches, and routes that only one of two Envoys takes."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import httpx
import pytest
import pytest_asyncio
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import RouteMatch, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher

from moongate.run import Laptop
from moongate.run import laptop as laptop_module
from moongate.world import World
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE
from tests import patching
from tests.ads.client import Client
from tests.ads.laptop import Envoy
from tests.ads.laptop import until as ads_until
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.certificates import Authority
from tests.e2e.conftest import Site, admitted, until
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from google.protobuf.message import Message

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

RULES = f"[{{{m.to('one')}}}]"
FLEET = "default/gateway"
TABLE = "default/gateway/http"


@pytest.fixture
def run_directory() -> Generator[Path]:
    """Where a laptop has its sockets; their paths must be short."""
    with TemporaryDirectory() as path:
        yield Path(path)


@asynccontextmanager
async def serving(
    run_directory: Path, monkeypatch: pytest.MonkeyPatch, *patches: Message
) -> AsyncGenerator[Site]:
    """A gateway whose resources can be patched, and whose listener is from the start."""
    monkeypatch.setattr(laptop_module, "World", partial(World, patches=patching.TRIAL))
    async with (
        httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as client,
        Laptop(run_dir=run_directory) as laptop,
    ):
        site = Site(laptop, client, Authority())
        async with site.one.serving():
            if patches:
                by_owner = (patching.patch(f"p{n}", message) for n, message in enumerate(patches))
                patching.put(laptop.world, LISTENER, TABLE, *by_owner)
            gateway = m.gateway("gateway", f"[{{name: http, port: {site.port}, protocol: HTTP}}]")
            await site.apply(gateway, m.local("one", site.one.port), m.route("plain", RULES))
            yield site


@pytest_asyncio.fixture(loop_scope="module")
async def patched(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Site]:
    """A gateway whose resources can be patched."""
    async with serving(run_directory, monkeypatch) as site:
        yield site


@pytest_asyncio.fixture(loop_scope="module")
async def shared(run_directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Site]:
    """A gateway whose port several Envoys may have open."""
    async with serving(run_directory, monkeypatch, Listener(enable_reuse_port={"value": True})) as site:
        yield site


async def patch(site: Site, type_url: str, name: str, *adds: Message) -> None:
    """Put patches of one resource in force, each of an owner ``pN``; none for none."""
    patches = (patching.patch(f"p{n}", message) for n, message in enumerate(adds))
    patching.put(site.laptop.world, type_url, name, *patches)
    await site.apply(m.route(f"nudge-{len(adds)}", RULES))


def blamed(site: Site) -> dict[str, str]:
    """Whom Envoy's refusals concern, each with Envoy's words."""
    return {ref.name: each.message for each in site.laptop.fleets.refusals() for ref in each.resources}


@pytest.mark.whole_tables
async def test_a_patch_that_envoy_refuses_is_withheld_and_its_table_goes_on(patched: Site) -> None:
    """One with a pattern that is none, beside one that is good."""
    pattern = RouteMatch(safe_regex=RegexMatcher(regex="("))
    bad = VirtualHost(
        name="bad", domains=["bad.test"], routes=[{"match": pattern, "direct_response": {"status": 204}}]
    )
    fine = VirtualHost(
        name="fine",
        domains=["fine.test"],
        routes=[{"match": {"prefix": "/"}, "direct_response": {"status": 204}}],
    )

    await patch(
        patched,
        ROUTE,
        TABLE,
        RouteConfiguration(virtual_hosts=[fine]),
        RouteConfiguration(virtual_hosts=[bad]),
    )

    assert blamed(patched).keys() == {"p1"}
    assert "regex" in blamed(patched)["p1"].lower() or "missing )" in blamed(patched)["p1"]
    assert await patched.status("fine.test") == 204
    assert await patched.status("plain.test") == await patched.status("nudge-2.test") == 200
    assert await patched.status("bad.test") == 404

    await patch(patched, ROUTE, TABLE)
    assert blamed(patched) == {}
    assert await patched.status("fine.test") == 404


async def test_a_patch_of_a_cluster_that_envoy_refuses_is_withheld(patched: Site) -> None:
    """A ring with more entries at the least than at the most."""
    (name,) = (n for n in patched.laptop.world.xds()[FLEET][CLUSTER] if "/one/" in n)
    ring = Cluster(
        lb_policy="RING_HASH",
        ring_hash_lb_config={"minimum_ring_size": {"value": 9}, "maximum_ring_size": {"value": 8}},
    )
    plain = Cluster(connect_timeout={"seconds": 7})

    await patch(
        patched,
        CLUSTER,
        name,
        plain,
        Cluster(outlier_detection={"max_ejection_percent": {"value": 101}}),
        ring,
    )

    assert "p1" in blamed(patched)
    assert "p0" not in blamed(patched)
    resource = patched.laptop.world.xds()[FLEET][CLUSTER][name]
    assert Cluster.FromString(resource.body).connect_timeout.seconds == 7
    assert await patched.status("plain.test") == await patched.status("nudge-3.test") == 200
    assert not patched.laptop.fleets.rejections()


# -- two Envoys ----------------------------------------------------------------

NEWER = "x-newer"
"""A header that the older Envoy does not take."""


class Older:
    """Another Envoy of the fleet, of a version that refuses tables with something new in them.

    Attributes:
        table: the table of routes that it has in force.
        refusals: how many tables it refused.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.table = RouteConfiguration()
        self.refusals = 0

    async def run(self) -> None:
        """Subscribe to all that an Envoy does, and answer until cancelled."""
        for type_url in (CLUSTER, LISTENER):
            await self._client.ask(type_url)
        await self._client.ask(ROUTE, resource_names_subscribe=[TABLE])
        while True:
            response = await self._client.call.read()
            tables = [
                RouteConfiguration.FromString(each.resource.value)
                for each in response.resources
                if response.type_url == ROUTE
            ]
            if any(self._refuses(table) for table in tables):
                self.refusals += 1
                await self._client.refuse(response, "no such header, as far as I know")
                continue
            self.table = tables[-1] if tables else self.table
            await self._client.acknowledge(response)
            clusters = [each.name for each in response.resources if response.type_url == CLUSTER]
            if clusters:
                await self._client.ask(ENDPOINT, resource_names_subscribe=clusters)

    def _refuses(self, table: RouteConfiguration) -> bool:
        routes = (route for host in table.virtual_hosts for route in host.routes)
        return any(added.header.key == NEWER for route in routes for added in route.response_headers_to_add)

    def answers(self) -> dict[str, int]:
        """By hostname, the status that its first route answers with itself; 0 where it sends requests on."""
        return {host.domains[0]: host.routes[0].direct_response.status for host in self.table.virtual_hosts}


def socket_of(run_directory: Path, kind: str) -> Path:
    """The socket of the only fleet of a laptop for xDS, or for the admin interface of its Envoy."""
    (socket,) = run_directory.rglob(f"{kind}-*.sock")
    return socket


@asynccontextmanager
async def older_envoy(socket: Path) -> AsyncGenerator[Older]:
    """Join one to the fleet that a socket is for."""
    client = Client(socket, fleet=FLEET, node="older")
    async with client, asyncio.TaskGroup() as tasks:
        older = Older(client)
        task = tasks.create_task(older.run())
        yield older
        task.cancel()


def newer(name: str) -> m.Document:
    """A route that Envoy takes and the older one does not."""
    return m.route(name, f"[{{filters: [{m.tell_client(NEWER, '1')}], {m.to('one')}}}]")


@pytest.mark.whole_tables
async def test_a_route_that_one_of_two_envoys_refuses_is_found_among_many(
    patched: Site, run_directory: Path
) -> None:
    """They share a configuration: it is out of force for both, and both have all the others."""
    async with older_envoy(socket_of(run_directory, "xds")) as older:
        await until(lambda: "plain.test" in older.answers())
        many = [newer(f"r{n}") if n == 17 else m.route(f"r{n}", RULES) for n in range(32)]

        await patched.apply(*many)

        assert blamed(patched) == {"r17": "no such header, as far as I know"}
        expected = {f"r{n}.test": 500 if n == 17 else 200 for n in range(32)}
        assert {host: await patched.status(host) for host in expected} == expected
        for host, status in expected.items():
            assert older.answers()[host] == (500 if status == 500 else 0)
        assert 1 < older.refusals < 2 * 5 + 2, "halves are tried, and the search has ended"

        await patched.apply(m.route("r17", RULES), newer("plain"))
        assert blamed(patched).keys() == {"plain"}
        assert await patched.status("r17.test") == 200
        answer = await patched.ask("plain.test")
        assert (answer.status_code, NEWER in answer.headers) == (200, False), "its last good form"
        assert older.answers()["plain.test"] == 0


# -- two real Envoys -----------------------------------------------------------


async def hosts(admin: httpx.AsyncClient) -> dict[str, int]:
    """By hostname, the status that the first route of an Envoy answers with; 0 if it sends requests on."""
    dump = (await admin.get("/config_dump")).json()
    configs = [each for part in dump["configs"] for each in part.get("dynamic_route_configs", ())]
    tables = [each["route_config"] for each in configs if "route_config" in each]
    return {
        host["domains"][0]: host["routes"][0].get("direct_response", {}).get("status", 0)
        for table in tables
        for host in table.get("virtual_hosts", ())
        if host.get("routes")
    }


@pytest.mark.whole_tables
async def test_a_search_ends_although_its_envoys_are_killed_and_come_back(
    shared: Site, run_directory: Path
) -> None:
    """First the one that moongate starts again, in the middle of the search, and then the other."""
    own_admin = socket_of(run_directory, "envoy")
    second = Envoy(run_directory, socket_of(run_directory, "xds"), fleet=FLEET, node="second")
    transport = httpx.AsyncHTTPTransport(uds=str(own_admin))

    def refusals() -> int:
        return shared.laptop.figures()["sent"][ROUTE]["nacks"]

    async def has_all(admin: httpx.AsyncClient) -> bool:
        answers = await hosts(admin)
        return {f"r{n}.test": answers.get(f"r{n}.test") for n in range(256)} == expected

    expected = {f"r{n}.test": 500 if n == 17 else 0 for n in range(256)}
    many = [m.route(f"r{n}", RULES) for n in range(256)]
    many[17] = m.route("r17", f"[{{filters: [{m.tell_client('x', '%NOPE%')}], {m.to('one')}}}]")
    async with (
        second,
        httpx.AsyncClient(transport=transport, base_url="http://admin", timeout=DEADLINE_S) as own,
    ):
        await ads_until(lambda: hosts(second.admin))
        before = refusals()
        (report,) = shared.laptop.report()["gateways"]

        shared.laptop.put(admitted(*many))
        await until(lambda: refusals() >= before + 2, pause_s=0.001)
        os.kill(report["envoy"]["pid"], signal.SIGKILL)
        assert blamed(shared) == {}, "the search is under way"
        await until(lambda: refusals() >= before + 3, pause_s=0.001)
        await second.kill()
        await second.start()

        await ads_until(lambda: has_all(second.admin))
        await ads_until(lambda: has_all(own))
        await shared.apply(m.route("plain", RULES))

    assert blamed(shared).keys() == {"r17"}
    assert shared.laptop.report()["gateways"][0]["envoy"]["restarts"] == 1
    assert await shared.status("r17.test") == 500


@pytest.mark.whole_tables
async def test_no_route_is_sent_while_a_patch_of_a_first_listener_is_in_doubt(patched: Site) -> None:
    """The entries of the listener have to be tried first, and without the patch it may let everybody pass."""
    guard = Listener(per_connection_buffer_limit_bytes={"value": 77})
    bad = Listener(listener_filters=[{"name": "unheard-of"}])
    patching.put(
        patched.laptop.world,
        LISTENER,
        "default/other/http",
        *(patching.patch(owner, message) for owner, message in (("guard", guard), ("bad", bad))),
    )
    port = free_port()
    other = m.gateway("other", f"[{{name: http, port: {port}, protocol: HTTP}}]")

    def responses() -> int:
        return patched.laptop.figures()["sent"][ROUTE]["responses"]

    before = responses()
    route = m.route("guarded", RULES, parents="[{name: other}]")
    patched.laptop.put(admitted(other, route))
    await until(lambda: responses() > before, pause_s=0)

    assert blamed(patched).keys() == {"bad"}
    listener = patched.laptop.world.xds()["default/other"][LISTENER]["default/other/http"]
    assert Listener.FromString(listener.body).per_connection_buffer_limit_bytes.value == 77
    await patched.apply(route)
    assert await patched.status("guarded.test", port=port) == 200
