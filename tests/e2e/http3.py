"""A client of HTTP/3."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from tests.deadline import DEADLINE_S
from tests.e2e.callers import Http3

if TYPE_CHECKING:
    from tests.e2e.certificates import Authority


class Http3Answer(NamedTuple):
    """What a request got."""

    status: int
    body: bytes


async def http3_get(
    authority: Authority,
    port: int,
    host: str,
    path: str = "/",
    *,
    asking_for: str = "",
    patience_s: float = DEADLINE_S,
) -> Http3Answer:
    """One request over HTTP/3 on a new connection.

    Args:
        authority: what the client trusts.
        port: of UDP.
        host: of the request.
        path: of the request.
        asking_for: the hostname of the handshake, if it is another one.
        patience_s: how long to wait for an answer.

    Raises:
        ConnectionError: the handshake fails.
        TimeoutError: nobody answers.
    """
    async with asyncio.timeout(patience_s):
        client = await Http3.to(port, asking_for or host, authorities=authority.pem)
        try:
            status, _ = await client.ask(host, {}, path)
        finally:
            client.close()
            await client.wait_closed()
        return Http3Answer(status, client.body)
