"""What a BackendTrafficPolicy does to requests and responses on their way, as clients and backends see it."""

from __future__ import annotations

import asyncio
import gzip
from time import monotonic
from typing import Any

import pytest

from tests.e2e import manifests as m
from tests.e2e.conftest import Site
from tests.e2e.lines import serving_lines

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


def on_route(name: str, body: str) -> m.Document:
    """A policy of the route of that name."""
    return m.policy("BackendTrafficPolicy", name, body, f"HTTPRoute/{name}")


async def served(site: Site, name: str, policy: str, rule: str = "", *more: m.Document) -> None:
    """A route to the first backend with a policy."""
    await site.apply(*more, m.route(name, f"[{{{rule}{m.to('one')}}}]"), on_route(name, policy))


async def test_a_request_is_held_until_all_of_it_is_there_and_refused_if_it_is_too_large(site: Site) -> None:
    await served(site, "held", "requestBuffer: {limit: 1Ki}")
    parts, more = asyncio.Event(), asyncio.Event()

    async def body() -> Any:
        yield b"a" * 10
        parts.set()
        await more.wait()
        yield b"b" * 10

    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(site.reached("held.test", method="POST", content=body()))
        await parts.wait()
        await asyncio.sleep(0.1)
        assert site.one.requests == []
        more.set()
    assert asked.result().body == "a" * 10 + "b" * 10
    site.one.forget()

    assert await site.status("held.test", method="POST", content=b"x" * 2000) == 413
    assert site.one.requests == []


async def test_a_slow_route_holds_requests_and_responses_back(site: Site) -> None:
    limits = "{request: {limit: {value: 20Ki, unit: Second}}, response: {limit: {value: 20Ki, unit: Second}}}"
    await served(site, "slow", f"bandwidthLimit: {limits}")

    began = monotonic()
    request = await site.reached("slow.test", method="POST", content=b"x" * 30 * 1024)

    # 30 KiB there and back again, of which 20 KiB are free each way.
    assert len(request.body) == 30 * 1024
    assert monotonic() - began > 0.5


async def test_only_upgrades_that_are_named_go_through(site: Site) -> None:
    await served(site, "upgrades", "httpUpgrade: [{type: spdy/3.1}]")
    asked = {"connection": "upgrade", "upgrade": "websocket"}

    assert await site.status("upgrades.test", headers=asked) == 403
    assert site.one.requests == []

    await served(site, "upgrades", "httpUpgrade: [{type: websocket}]")
    request = b"GET / HTTP/1.1\r\nhost: upgrades.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 101 ")


async def test_a_tunnel_ends_at_the_gateway(site: Site) -> None:
    """What is in it reaches the backend as a connection of its own."""
    async with serving_lines("lines") as port:
        await site.apply(
            m.local("lines", port),
            m.route("tunnel", f"[{{{m.to('lines')}}}]"),
            on_route("tunnel", "httpUpgrade: [{type: CONNECT, connect: {terminate: true}}]"),
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(b"CONNECT tunnel.test:80 HTTP/1.1\r\nhost: tunnel.test:80\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        writer.write(b"hello\n")
        line = await reader.readline()
        writer.close()

    assert line.decode().strip().endswith("hello")


@pytest.mark.parametrize(
    ("accepted", "used"),
    [("gzip", "gzip"), ("br", "br"), ("zstd", None), ("identity", None), ("gzip, br", "br")],
)
async def test_a_response_is_compressed_as_the_client_likes_and_the_policy_says(
    site: Site, accepted: str, used: str | None
) -> None:
    compressors = "[{type: Brotli, brotli: {}}, {type: Gzip, gzip: {}}, {type: Zstd}]"
    await served(site, "dense", f"compressor: {compressors}")

    request = site.client.build_request(
        "GET",
        f"http://127.0.0.1:{site.port}/",
        headers={"host": "dense.test", "accept-encoding": accepted, "x-long": "a" * 500},
    )
    answer = await site.client.send(request, stream=True)
    body = b"".join([part async for part in answer.aiter_raw()])
    await answer.aclose()

    assert answer.headers.get("content-encoding") == used
    assert (len(body) < 400) is (used is not None)
    if used == "gzip":
        assert b"x-long" in gzip.decompress(body)
    assert site.one.requests[-1].header("accept-encoding") is None


async def test_short_responses_are_not_compressed(site: Site) -> None:
    await served(site, "long-only", "compressor: [{type: Gzip, gzip: {}, minContentLength: 64Ki}]")

    answer = await site.ask("long-only.test", headers={"accept-encoding": "gzip"})

    assert "content-encoding" not in answer.headers


OVERRIDES = """
    responseOverride:
    - match: {statusCodes: [{value: 404}]}
      response: {statusCode: 410, contentType: text/plain, body: {inline: "gone: %REQ(:PATH)%, 100%"}}
    - match: {statusCodes: [{type: Range, range: {start: 500, end: 502}}]}
      source: Backend
      response: {body: {type: ValueRef, valueRef: {group: "", kind: ConfigMap, name: page}}}
    - match: {statusCodes: [{value: 503}]}
      source: Local
      response: {statusCode: 200, body: {inline: closed}, header: {add: [{name: x-a, value: b}]}}
    - match: {responseHeaders: [{name: x-backend, value: {type: Prefix, value: thr}}]}
      response: {header: {set: [{name: x-backend, value: hidden}]}}
"""


async def test_responses_are_replaced_by_status_header_and_source(site: Site) -> None:
    page = m.spec("{apiVersion: v1, kind: ConfigMap, metadata: {name: page}, data: {response.body: sorry}}")
    lost = f"[{{matches: [{{path: {{value: /lost}}}}], {m.to('lost')}}}, {{{m.to('one')}}}]"
    await site.apply(page, m.local("lost", 1), m.route("pages", lost), on_route("pages", OVERRIDES))

    site.one.statuses.extend([404, 500, 502, 503, 200])
    gone = await site.ask("pages.test", "/a")
    assert (gone.status_code, gone.text) == (410, "gone: /a, 100%")
    assert gone.headers["content-type"] == "text/plain"
    for status in (500, 502):
        broken = await site.ask("pages.test")
        assert (broken.status_code, broken.text) == (status, "sorry")
    assert (await site.ask("pages.test")).status_code == 503, "it is the backend's own"
    assert (await site.ask("pages.test")).headers["x-backend"] == "one"
    local = await site.ask("pages.test", "/lost")
    assert (local.status_code, local.text, local.headers["x-a"]) == (200, "closed", "b")

    await site.apply(m.route("pages", f"[{{{m.to('three')}}}]"))
    assert (await site.ask("pages.test")).headers["x-backend"] == "hidden"


async def test_a_changed_page_is_served_without_a_changed_policy(site: Site) -> None:
    """And no listener changes for it."""
    override = "{type: ValueRef, valueRef: {group: '', kind: ConfigMap, name: live}}"
    policy = (
        f"responseOverride: [{{match: {{statusCodes: [{{value: 404}}]}}, response: {{body: {override}}}}}]"
    )
    text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: live}, data: {response.body: %s}}"
    await served(site, "live", policy, "", m.spec(text % "first"))
    site.one.statuses.extend([404, 404])
    assert (await site.ask("live.test")).text == "first"

    await site.apply(m.spec(text % "second"))

    assert (await site.ask("live.test")).text == "second"


async def test_a_route_is_counted_under_its_own_name(site: Site) -> None:
    await served(site, "counted", "telemetry: {metrics: {routeStatName: 'of-%ROUTE_NAME%'}}")
    await site.reached("counted.test")

    [fleet] = site.laptop.fleets.report()
    admin = fleet["envoy"]["admin"]
    assert "of-counted" in await _stats(admin)


async def _stats(admin: str) -> str:
    import httpx

    transport = httpx.AsyncHTTPTransport(uds=admin.removeprefix("unix:"))
    async with httpx.AsyncClient(transport=transport) as client:
        return (await client.get("http://envoy/stats?filter=route")).text
