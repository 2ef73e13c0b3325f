"""What an API server takes is served: spellings of values that a decoder may be too strict for."""

from __future__ import annotations

import asyncio
import base64

import pytest

from moongate.sources.folder import Folder
from tests.e2e import manifests as m
from tests.e2e.conftest import Site

SHA_OF_TEST = "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M="

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


async def test_a_secret_in_base64_with_line_breaks_asks_for_its_password(site: Site) -> None:
    """``base64`` breaks lines, and a block scalar keeps them; so does what is pasted from a certificate."""
    users = "\n".join(f"user{n}:{SHA_OF_TEST}" for n in range(9))
    lines = base64.encodebytes(users.encode()).decode().splitlines()
    assert len(lines) > 2, "there are line breaks in the middle"
    text = (
        "apiVersion: v1\nkind: Secret\nmetadata: {name: block}\ndata:\n  .htpasswd: |\n    "
        + "\n    ".join(lines)
        + "\n"
    )
    await site.apply(
        m.route("block", f"[{{{m.to('one')}}}]"),
        m.policy("SecurityPolicy", "block", "basicAuth: {users: {name: block}}", "HTTPRoute/block"),
    )
    await site.laptop.apply(text)

    assert await site.status("block.test") == 401
    assert (await site.ask("block.test", auth=("user8", "test"))).status_code == 200


async def test_a_backend_on_the_loopback_of_ipv6_is_reached(site: Site) -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nsix"

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_server(on_connection, "::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with server:
        port = server.sockets[0].getsockname()[1]
        await site.apply(
            m.backend("six", f"ip: {{address: '::1', port: {port}}}"), m.route("six", f"[{{{m.to('six')}}}]")
        )

        assert (await site.ask("six.test")).text == "six"


async def test_a_port_with_a_point_in_json_is_a_port(site: Site) -> None:
    """As programs write it that know only one kind of number; ``kubectl`` takes it."""
    text = (
        '{"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "Backend", "metadata": {"name": "point"}, '
        f'"spec": {{"endpoints": [{{"ip": {{"address": "127.0.0.1", "port": {site.one.port}.0}}}}]}}}}'
    )
    folder = Folder(namespace="default")
    site.laptop.put(folder.update("point.json", text))
    await site.apply(m.route("point", f"[{{{m.to('point')}}}]"))

    assert folder.diagnostics() == ()
    assert (await site.reached("point.test")).by == "one"
