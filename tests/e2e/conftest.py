"""A gateway of this process with a real Envoy, and upstream servers that say what reached them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from moongate.api.admission import admit
from moongate.api.base import Ref
from moongate.kinds import KINDS, ref_of
from moongate.run import Laptop
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Echo, Request
from tests.e2e.certificates import Authority
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from moongate.api.base import Resource
    from moongate.api.envoygateway import EnvoyGateway
    from moongate.sources.files import Files


class Site:
    """A gateway on one port, three backends behind it, and a client before it.

    ``one``, ``two`` and ``three`` are Backends of those names; the Gateway is called ``gateway``.
    """

    def __init__(self, laptop: Laptop, client: httpx.AsyncClient, authority: Authority) -> None:
        self.laptop = laptop
        self.client = client
        self.authority = authority
        self.port = free_port()
        self.backends = {name: Echo(name) for name in ("one", "two", "three")}

    @property
    def one(self) -> Echo:
        return self.backends["one"]

    @property
    def two(self) -> Echo:
        return self.backends["two"]

    @property
    def three(self) -> Echo:
        return self.backends["three"]

    async def apply(self, *documents: dict[str, Any]) -> None:
        """Put manifests in force; they are when this returns."""
        await self.laptop.apply(documents, timeout_s=DEADLINE_S)

    async def delete(self, *documents: dict[str, Any]) -> None:
        """Take manifests out of force."""
        await self.laptop.delete(*map(reference, documents), timeout_s=DEADLINE_S)

    async def ask(
        self,
        host: str,
        path: str = "/",
        *,
        method: str = "GET",
        port: int = 0,
        tls: bool = False,
        headers: dict[str, str] | None = None,
        client: httpx.AsyncClient | None = None,
        **more: Any,
    ) -> httpx.Response:
        """One request to the gateway: over a connection that is open, but over a new one with TLS."""
        url = f"{'https' if tls else 'http'}://127.0.0.1:{port or self.port}{path}"
        sent = {"host": host, **(headers or {})}
        extensions: dict[str, str] = {}
        if tls:
            # The client takes connections for alike that were opened for several names.
            sent["connection"] = "close"
            extensions["sni_hostname"] = host
        return await (client or self.client).request(method, url, headers=sent, extensions=extensions, **more)

    async def reached(self, host: str, path: str = "/", **more: Any) -> Request:
        """The request that reached the backend; it must have answered 200."""
        answer = await self.ask(host, path, **more)
        assert answer.status_code == 200, answer.text
        return msgspec.json.decode(answer.content, type=Request)

    async def status(self, host: str, path: str = "/", **more: Any) -> int:
        """What one request is answered with."""
        return (await self.ask(host, path, **more)).status_code

    async def statistics(self, pattern: str, gateway: str = "gateway") -> str:
        """The statistics of a gateway's Envoy whose names match a regular expression, one a line."""
        fleets = {fleet["fleet"]: fleet["envoy"] for fleet in self.laptop.fleets.report()}
        admin: str = fleets[f"default/{gateway}"]["admin"]
        # No certificates are loaded, which would take longer than all else here.
        transport = httpx.AsyncHTTPTransport(uds=admin.removeprefix("unix:"), verify=False)
        async with httpx.AsyncClient(transport=transport, timeout=DEADLINE_S) as client:
            return (await client.get("http://envoy/stats", params={"filter": pattern})).text

    def conditions(self, document: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The conditions of a resource, by type: those of its first parent or ancestor, if it has such."""
        reported = self.laptop.statuses.document(reference(document))
        assert reported is not None, f"no status of {reference(document)}"
        status = reported["status"]
        for key in ("parents", "ancestors"):
            if status.get(key):
                status = status[key][0]
        return {c["type"]: c for c in status.get("conditions", [])}

    def of_listener(self, gateway: dict[str, Any], name: str) -> dict[str, str]:
        """The conditions of a listener of a Gateway, by type, each with its message."""
        reported = self.laptop.statuses.document(reference(gateway))
        assert reported is not None, f"no status of {reference(gateway)}"
        [listener] = [each for each in reported["status"]["listeners"] if each["name"] == name]
        return {c["type"]: c["message"] for c in listener["conditions"]}


def admitted(*documents: dict[str, Any]) -> dict[Ref, Resource | None]:
    """Manifests as a batch, for ``Laptop.put``."""
    resources = [admit(document, KINDS, namespace="default").resource for document in documents]
    return {resource.ref: resource for resource in resources if resource is not None}


async def until(claim: Callable[[], bool], *, pause_s: float = 0.01) -> None:
    """Return when ``claim`` holds. For what no event tells: processes, and statuses by facts of Envoy."""
    async with asyncio.timeout(DEADLINE_S):
        while not claim():  # noqa: ASYNC110 - see above
            await asyncio.sleep(pause_s)


@asynccontextmanager
async def started(laptop: Laptop, files: Files) -> AsyncGenerator[None]:
    """The files as moongate has them that starts now."""
    async with asyncio.TaskGroup() as tasks:
        laptop.loaded.clear()
        following = tasks.create_task(laptop.follow(files))
        await laptop.loaded.wait()
        await laptop.served()
        yield
        following.cancel()


def reference(document: dict[str, Any]) -> Ref:
    metadata = document["metadata"]
    return ref_of(document["kind"], metadata.get("namespace", ""), metadata["name"])


@asynccontextmanager
async def open_site(
    access_log: Callable[[bytes], None] = lambda _lines: None, config: EnvoyGateway | None = None
) -> AsyncGenerator[Site]:
    """A site with its Gateway and Backends; ``access_log`` is called with what Envoy logs of requests."""
    async with AsyncExitStack() as stack:
        authority = Authority()
        client = await stack.enter_async_context(
            # Its connections stay open from test to test, as those of users do when manifests change.
            httpx.AsyncClient(verify=authority.client_context(), timeout=DEADLINE_S, trust_env=False)
        )
        laptop = await stack.enter_async_context(Laptop(access_log=access_log, config=config))
        at = Site(laptop, client, authority)
        for each in at.backends.values():
            await stack.enter_async_context(each.serving())
        gateway = m.gateway("gateway", f"[{{name: http, port: {at.port}, protocol: HTTP}}]")
        await at.apply(
            gateway,
            *(m.local(name, each.port) for name, each in at.backends.items()),
        )
        # A port that somebody else has would answer in the place of this gateway, in every test.
        assert at.conditions(gateway)["Programmed"]["status"] == "True"
        yield at


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site() -> AsyncGenerator[Site]:
    """One for all tests of a module: each has routes of its own name, and its own hostname."""
    async with open_site() as at:
        yield at


@pytest.fixture(autouse=True)
def _forget(request: pytest.FixtureRequest) -> None:
    """Backends do not remember what earlier tests asked."""
    if "site" in request.fixturenames:
        for each in request.getfixturevalue("site").backends.values():
            each.forget()
