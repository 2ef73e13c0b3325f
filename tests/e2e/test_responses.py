"""What a BackendTrafficPolicy does to requests and responses on their way, as clients and backends see it."""

from __future__ import annotations

import asyncio
import gzip
from time import monotonic
from typing import Any

import httpx
import pytest

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import EchoOverHttp2
from tests.e2e.callers import Http2
from tests.e2e.conftest import Site
from tests.e2e.lines import serving_lines

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


def on_route(name: str, body: str) -> m.Document:
    """A policy of the route of that name."""
    return m.policy("BackendTrafficPolicy", name, body, f"HTTPRoute/{name}")


async def served(site: Site, name: str, policy: str, rule: str = "", *more: m.Document) -> None:
    """A route to the first backend with a policy."""
    await site.apply(*more, m.route(name, f"[{{{rule}{m.to('one')}}}]"), on_route(name, policy))


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "requestBuffer.limit",
)
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


async def took(site: Site, name: str, size: int) -> float:
    """The time of a request with a body, which comes back in the answer."""
    began = monotonic()
    request = await site.reached(f"{name}.test", method="POST", content=b"x" * size)
    assert len(request.body) == size
    return monotonic() - began


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "bandwidthLimit.request.limit.value",
    "bandwidthLimit.request.limit.unit",
    "bandwidthLimit.response.limit.value",
    "bandwidthLimit.response.limit.unit",
)
@pytest.mark.parametrize("unit", ["{value: 20Ki, unit: Second}", "{value: 1200Ki, unit: Minute}"])
@pytest.mark.parametrize("direction", ["request", "response"])
async def test_a_slow_route_holds_requests_or_responses_back(site: Site, direction: str, unit: str) -> None:
    """Of 40 KiB, the first 20 are free. What is not held back is fast once, even if the machine is slow."""
    name = f"slow-{direction}s"
    await served(site, name, f"bandwidthLimit: {{{direction}: {{limit: {unit}}}}}")
    await took(site, name, 1)

    assert await took(site, name, 40 * 1024) > 0.5

    await site.apply(
        on_route(name, f"bandwidthLimit: {{{direction}: {{limit: {unit.replace('0Ki', '0Mi')}}}}}")
    )

    assert min([await took(site, name, 40 * 1024) for _ in range(5)]) < 0.5


@pytest.mark.proves("BackendTrafficPolicy", "bandwidthLimit.response.responseTrailers.prefix")
async def test_trailers_say_how_long_a_response_was_held_back(site: Site) -> None:
    limit = "{limit: {value: 2Ki, unit: Second}, responseTrailers: {prefix: held}}"
    await served(site, "held-back", f"bandwidthLimit: {{response: {limit}}}")

    connection = Http2(*await asyncio.open_connection("127.0.0.1", site.port))
    fields = {":method": "GET", ":path": "/", ":scheme": "http", ":authority": "held-back.test"}
    # What the backend got stands in its answer.
    answer = await connection.exchange([*fields.items(), ("te", "trailers"), ("x-long", "a" * 4096)])
    connection.close()

    assert b"held-bandwidth-response-delay-ms" in dict(answer.fields)


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "httpUpgrade[].type",
)
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


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "httpUpgrade[].connect.terminate",
)
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


@pytest.mark.proves("BackendTrafficPolicy", "compressor[].type", "compressor[].gzip", "compressor[].brotli")
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


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "compressor[].minContentLength",
)
async def test_short_responses_are_not_compressed(site: Site) -> None:
    await served(site, "long-only", "compressor: [{type: Gzip, gzip: {}, minContentLength: 64Ki}]")

    answer = await site.ask("long-only.test", headers={"accept-encoding": "gzip"})

    assert "content-encoding" not in answer.headers


@pytest.mark.proves("BackendTrafficPolicy", "compressor[].zstd")
async def test_responses_may_be_compressed_by_zstd(site: Site) -> None:
    await served(site, "zstd", "compressor: [{type: Zstd, zstd: {}}]")

    async with site.client.stream(
        "GET",
        f"http://127.0.0.1:{site.port}/",
        headers={"host": "zstd.test", "accept-encoding": "zstd", "x-long": "a" * 500},
    ) as answer:
        body = b"".join([part async for part in answer.aiter_raw()])

    assert answer.headers["content-encoding"] == "zstd"
    assert body.startswith(b"\x28\xb5\x2f\xfd"), "as each frame of it does"


@pytest.mark.proves("BackendTrafficPolicy", "compression[].type", "compression[].minContentLength")
async def test_the_older_field_compresses_too(site: Site) -> None:
    """With it, a type is enough."""

    async def encoding(compression: str, accepted: str) -> str | None:
        await served(site, "older", f"compression: {compression}")
        # A connection that is open when a chain changes lacks its filters, and is answered 500.
        async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
            answer = await site.ask("older.test", headers={"accept-encoding": accepted}, client=client)
        assert answer.status_code == 200
        return answer.headers.get("content-encoding")

    long_only = "[{type: Brotli, minContentLength: 64Ki}, {type: Gzip}]"

    assert await encoding(long_only, "gzip") == "gzip"
    assert await encoding(long_only, "br") is None
    assert await encoding("[{type: Brotli, brotli: {}}]", "br") == "br"
    assert await encoding("[{type: Gzip, gzip: {}}, {type: Zstd, zstd: {}}]", "zstd") == "zstd"


OVERRIDES = """
    responseOverride:
    - match: {statusCodes: [{value: 404}]}
      response: {statusCode: 410, contentType: text/x-gone, body: {inline: "gone: %REQ(:PATH)%, 100%"}}
    - match: {statusCodes: [{type: Range, range: {start: 500, end: 502}}]}
      source: Backend
      response: {body: {type: ValueRef, valueRef: {group: "", kind: ConfigMap, name: page}}}
    - match: {statusCodes: [{value: 503}]}
      source: Local
      response: {statusCode: 200, body: {inline: closed}, header: {add: [{name: x-a, value: b}]}}
    - match: {responseHeaders: [{name: x-backend, value: {type: Prefix, value: thr}}]}
      response: {header: {set: [{name: x-backend, value: hidden}]}}
"""


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "responseOverride[].match.*",
    "responseOverride[].source",
    "responseOverride[].response.contentType",
    "responseOverride[].response.statusCode",
    "responseOverride[].response.body.type",
    "responseOverride[].response.body.inline",
    "responseOverride[].response.body.valueRef.kind",
    "responseOverride[].response.body.valueRef.name",
    "responseOverride[].response.header.set[].name",
    "responseOverride[].response.header.set[].value",
    "responseOverride[].response.header.add[].name",
    "responseOverride[].response.header.add[].value",
)
async def test_responses_are_replaced_by_status_header_and_source(site: Site) -> None:
    page = m.spec("{apiVersion: v1, kind: ConfigMap, metadata: {name: page}, data: {response.body: sorry}}")
    lost = f"[{{matches: [{{path: {{value: /lost}}}}], {m.to('lost')}}}, {{{m.to('one')}}}]"
    await site.apply(page, m.local("lost", 1), m.route("pages", lost), on_route("pages", OVERRIDES))

    site.one.statuses.extend([404, 500, 502, 503, 200])
    gone = await site.ask("pages.test", "/a")
    assert (gone.status_code, gone.text) == (410, "gone: /a, 100%")
    assert gone.headers["content-type"] == "text/x-gone"
    for status in (500, 502):
        broken = await site.ask("pages.test")
        assert (broken.status_code, broken.text) == (status, "sorry")
    own = await site.ask("pages.test")
    assert (own.status_code, "sorry" in own.text) == (503, False), "it is the backend's own"
    assert (await site.ask("pages.test")).headers["x-backend"] == "one"
    local = await site.ask("pages.test", "/lost")
    assert (local.status_code, local.text, local.headers["x-a"]) == (200, "closed", "b")

    await site.apply(m.route("pages", f"[{{{m.to('three')}}}]"))
    assert (await site.ask("pages.test")).headers["x-backend"] == "hidden"


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "responseOverride[].redirect.scheme",
    "responseOverride[].redirect.hostname",
    "responseOverride[].redirect.path.type",
    "responseOverride[].redirect.path.replaceFullPath",
    "responseOverride[].redirect.port",
)
async def test_a_response_is_fetched_elsewhere(site: Site) -> None:
    """From what other routes of the gateway serve. A backend over HTTP/2 sees the scheme, too."""
    pages = EchoOverHttp2("pages")
    async with pages.serving():
        redirect = (
            "{scheme: https, hostname: elsewhere.test, port: 8081, "
            "path: {type: ReplaceFullPath, replaceFullPath: /sorry}}"
        )
        await site.apply(
            m.local("elsewhere", pages.port, appProtocols=["gateway.envoyproxy.io/h2c"]),
            m.route("elsewhere", f"[{{{m.to('elsewhere')}}}]"),
        )
        await served(
            site,
            "fetched",
            f"responseOverride: [{{match: {{statusCodes: [{{value: 500}}]}}, redirect: {redirect}}}]",
        )
        site.one.statuses.append(500)

        answer = await site.ask("fetched.test", "/cart?a=b")

    assert answer.headers["x-backend"] == "pages"
    asked = [pages.requests[-1].header(f":{name}") for name in ("scheme", "authority", "path")]
    assert asked == ["https", "elsewhere.test:8081", "/sorry?a=b"]


@pytest.mark.proves("BackendTrafficPolicy", "responseOverride[].redirect.statusCode")
async def test_a_response_that_is_fetched_has_a_status_of_its_own(site: Site) -> None:
    """If the route that it is fetched from has an override, too; else its status stays as it is."""

    def override(redirect: str) -> str:
        return f"responseOverride: [{{match: {{statusCodes: [{{value: 500}}]}}, redirect: {redirect}}}]"

    moved = "{hostname: status.test, statusCode: 301}"
    await site.apply(m.route("status", f"[{{{m.to('two')}}}]"))
    await served(site, "moved", override(moved))
    site.one.statuses.extend([500] * 3)

    assert await site.status("moved.test") == 200

    await site.apply(on_route("status", override("{hostname: moved.test}")))

    assert await site.status("moved.test") == 301

    await site.apply(on_route("moved", override("{hostname: status.test}")))

    assert await site.status("moved.test") == 302


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


LARGE = f"{{statusCode: 410, body: {{inline: {'x' * 5000}}}}}"
"""What a response becomes, with more than each route can carry."""


@pytest.mark.parametrize(
    ("name", "policy", "before", "after"),
    [
        (
            "short",
            "compressor: [{type: Gzip, gzip: {}, minContentLength: 1Mi}]",
            (200, '{"by":"one"'),
            (200, '{"by":"one"'),
        ),
        (
            "long",
            f"responseOverride: [{{match: {{statusCodes: [{{value: 404}}]}}, response: {LARGE}}}]",
            (404, '{"by":"one"'),
            (410, ""),
        ),
    ],
)
async def test_an_open_connection_is_served_whatever_a_policy_needs_of_the_listener(
    site: Site, name: str, policy: str, before: tuple[int, str], after: tuple[int, str]
) -> None:
    """It has no filter that came after it. One that keeps nobody out is no reason to turn requests away."""
    await site.apply(m.route(name, f"[{{{m.to('one')}}}]"))
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)

    async def asked(status: int) -> tuple[int, str]:
        site.one.statuses.append(status)
        writer.write(f"GET / HTTP/1.1\r\nhost: {name}.test\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        [length] = [line[15:] for line in head.split("\r\n") if line.startswith("content-length:")]
        body = (await reader.readexactly(int(length))).decode()
        return int(head.split(" ")[1]), body[: len('{"by":"one"')]

    assert await asked(before[0]) == before
    await site.apply(on_route(name, policy))

    assert await asked(before[0]) == after
    assert await asked(200) == (200, '{"by":"one"')
    writer.close()


async def test_a_large_page_that_envoy_refuses_takes_no_route_down(site: Site) -> None:
    """Nor does the response show that it replaces. Status of route and policy say what is wrong."""

    def page(text: str) -> m.Document:
        response = f"{{statusCode: 410, body: {{inline: '{text}'}}}}"
        match = "match: {statusCodes: [{value: 404}]}"
        return on_route("refused", f"responseOverride: [{{{match}, response: {response}}}]")

    route = m.route("refused", f"[{{{m.to('one')}}}]")
    await site.apply(route, page("x" * 5000))

    await site.apply(page("y" * 5000 + "%NOPE%"))

    assert await site.status("refused.test") == 200
    site.one.statuses.append(404)
    answer = await site.ask("refused.test")
    assert (answer.status_code, answer.text) == (410, "")
    for each in (route, page("")):
        message = site.conditions(each)["Programmed"]["message"]
        assert "NOPE. Requests are served without it until what Envoy names is mended." in message
    await site.apply(page("z" * 5000))
    site.one.statuses.append(404)
    async with httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as client:
        answer = await site.ask("refused.test", client=client)
    assert answer.text == "z" * 5000


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "telemetry.metrics.routeStatName",
)
async def test_a_route_is_counted_under_its_own_name(site: Site) -> None:
    await served(site, "counted", "telemetry: {metrics: {routeStatName: 'of-%ROUTE_NAME%'}}")
    await site.reached("counted.test")

    assert "of-counted" in await site.statistics("route")
