"""Envoy's admin interface, over its Unix socket: is it ready, what is in flight, let it drain."""

from __future__ import annotations

import asyncio
import json
import os
import re
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self

import httpx
from msgspec import Struct, field
from msgspec.json import decode

from moongate.patience import within

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

# Seconds for one answer. They come at once, from the main thread; it is slow only while it
# takes in a big configuration.
_TIMEOUT_S = 10.0
# Seconds for all parts of route tables. Envoy writes 13 MB for 10,000 hostnames, within a second.
_SCOPES_WITHIN_S = 30.0
# Seconds between two looks at what is in flight.
_FIRST_POLL_S, _LONGEST_POLL_S = 0.01, 0.1

_ACTIVE = r"^(http\..*\.downstream_(rq|cx)_active|listener\..*\.downstream_cx_active)$"
_OF_ADMIN = re.compile(r"^(http|listener)\.admin\.|^listener\..*\.worker_\d+\.")


class Admin:
    """A context manager with one connection to one Envoy.

    Every method raises ``httpx.HTTPError`` when Envoy is not there, or no more.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._fd = -1
        self._client = self._first = _client(str(socket))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._first.aclose()
        await self._client.aclose()
        if self._fd >= 0:
            os.close(self._fd)

    def hold(self) -> None:
        """Reach the socket from now on also if its file is removed. Without an effect if it is gone."""
        with suppress(OSError):
            self._fd = os.open(self._socket, os.O_PATH | os.O_CLOEXEC)
            self._client = _client(f"/proc/self/fd/{self._fd}")

    async def live(self) -> bool:
        """Whether Envoy serves: it has its first listeners and clusters, and they are warm."""
        return (await self._ask("GET", "/ready")).is_success

    async def set_log_levels(self, levels: Mapping[str, str]) -> None:
        """Log from now on as much as this says, by component; ``default`` is the level of all others.

        Raises ``httpx.HTTPStatusError`` when it knows no such component; its text says so.
        """
        # The command line knows "warn", this does not.
        named = {name: "warning" if level == "warn" else level for name, level in levels.items()}
        settings = [{"level": named.pop("default", "warning")}]
        if named:
            settings.append({"paths": ",".join(f"{name}:{level}" for name, level in named.items())})
        for setting in settings:
            (await self._ask("POST", "/logging", setting)).raise_for_status()

    async def drain(self) -> None:
        """Accept no more connections, and ask open connections to end after their request.

        A graceful drain alone would keep the listeners open. That is right behind a load balancer. Here
        clients connect directly, and a refused connection is the clearer answer.
        """
        for path in ("/healthcheck/fail", "/drain_listeners?graceful&skip_exit", "/drain_listeners"):
            (await self._ask("POST", path)).raise_for_status()

    async def version(self) -> str:
        """The version of this Envoy, as ``envoy --version`` prints it."""
        return json.loads((await self._ask("GET", "/server_info")).raise_for_status().content)["version"]

    async def scopes(self) -> list[str]:
        """The names of the scopes that this Envoy has, also those that it does not use.

        They come with all that is in them, because Envoy cannot leave out what is within an ``Any``.
        """
        parts = {"resource": "dynamic_scoped_route_configs"}
        answer = await self._ask("GET", "/config_dump", parts, _SCOPES_WITHIN_S)
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return []  # It has never had an HTTP listener.
        dump = decode(answer.raise_for_status().content, type=_Dump)
        return [scope.name for table in dump.configs for scope in table.scoped_route_configs]

    async def idle(self) -> None:
        """Return when it is not busy."""
        pause = _FIRST_POLL_S
        while await self.busy():
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL_S)

    async def busy(self) -> int:
        """The number of HTTP requests in flight, and of connections that are not HTTP.

        Idle keep-alive connections do not count, because otherwise every open browser would delay the end.
        """
        gauges = {"format": "json", "type": "Gauges", "filter": _ACTIVE}
        answer = await self._ask("GET", "/stats", gauges)
        stats: list[dict[str, Any]] = json.loads(answer.content)["stats"]
        requests = http = connections = 0
        for stat in stats:
            name, value = stat.get("name", ""), stat.get("value", 0)
            if _OF_ADMIN.search(name):
                continue
            if name.startswith("listener."):
                connections += value
            elif name.endswith("_rq_active"):
                requests += value
            else:
                http += value
        return requests + max(0, connections - http)

    async def _ask(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        within_s: float | None = None,
    ) -> httpx.Response:
        within_s = _TIMEOUT_S if within_s is None else within_s
        try:
            async with within(within_s):
                return await self._client.request(method, path, params=params)
        except TimeoutError:
            raise httpx.ReadTimeout(f"Envoy has not answered for {within_s:g} s.") from None


class _Scope(Struct):
    name: str


class _Table(Struct):
    scoped_route_configs: list[_Scope] = field(default_factory=list[_Scope])


class _Dump(Struct):
    """What ``/config_dump`` says of scopes."""

    configs: list[_Table] = field(default_factory=list[_Table])


def _client(socket: str) -> httpx.AsyncClient:
    # No proxies of the environment and no certificates: loading those takes longer than Envoy's start.
    transport = httpx.AsyncHTTPTransport(uds=socket, verify=False, trust_env=False)
    return httpx.AsyncClient(
        transport=transport,
        base_url="http://envoy",
        timeout=None,  # noqa: S113 - its own would count standstills; see ``Admin``
        trust_env=False,
    )
