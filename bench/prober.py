"""The client: asks the same thing again and again, and notes when the answer is the new one."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Self

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE_S = 0.001
"""Between an answer and the next request: with the request itself, the resolution of what is measured."""

DEADLINE_S = 300.0


class Answer(Struct, frozen=True):
    """A response's status and headers, the names in lower case; and its body."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class Prober:
    """An async context manager: one keep-alive connection to one Envoy on loopback."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.fault = ""
        """Why nobody answered the last time that nobody did."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._drop()

    async def ask(self, host: str) -> Answer | None:
        """What a GET of ``/`` is answered; None while nobody does."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            writer.write(f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head[:-4].split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            if headers.get("connection") == "close":
                self._drop()
        except (OSError, asyncio.IncompleteReadError) as error:
            self._drop()
            self.fault = repr(error)
            return None
        return Answer(int(first.split(" ")[1]), headers, body)

    async def until(self, host: str, claim: Callable[[Answer], bool], *, anew: bool = False) -> float:
        """When the answer was first as claimed: seconds of ``perf_counter``.

        Args:
            host: who is asked for.
            claim: what the answer shall be.
            anew: whether each request has a connection of its own, as one that is open stays with the
                listener that took it.

        Raises:
            TimeoutError: it never was, within five minutes.
        """
        answer = None
        try:
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    if anew:
                        self._drop()
                    answer = await self.ask(host)
                    if answer is not None and claim(answer):
                        return perf_counter()
                    await asyncio.sleep(PAUSE_S)
        except TimeoutError:
            raise TimeoutError(
                f"{host} was not served as it should be; the last answer was {answer}."
            ) from None

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
