"""Why a request is answered with 404, 500 or 503: each entry of the page about it, provoked."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
import pytest_asyncio

from tests.e2e import manifests as m
from tests.e2e.conftest import Site, open_site, until
from tests.ports import free_port

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "find-out-why-404-500-503.md"
_ROW = re.compile(r"^\| <a id=\"([\w-]+)\"></a>(.*?) \| (.*?) \| (.*?) \| (.*?) \|", re.MULTILINE)
_CODE = re.compile(r"`([^`]+)`")


class Log:
    """What Envoy logs, as it comes."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def take(self, lines: bytes) -> None:
        self.entries += [msgspec.json.decode(line) for line in lines.splitlines()]

    async def of(self, field: str, value: str) -> dict[str, Any]:
        """The entry whose field has a value, as soon as it is there."""
        await until(lambda: any(entry.get(field) == value for entry in self.entries))
        return next(entry for entry in self.entries if entry.get(field) == value)


class Watched(NamedTuple):
    """A site, and its access log."""

    site: Site
    log: Log


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched() -> AsyncGenerator[Watched]:
    log = Log()
    async with open_site(log.take) as site:
        yield Watched(site, log)


def rows() -> dict[str, tuple[str, set[str], set[str]]]:
    """What the page says of each cause: the status, and the flags and details that it names."""
    text = PAGE.read_text(encoding="utf-8")
    return {
        name: (status.strip("`"), set(_CODE.findall(flags)), set(_CODE.findall(details)))
        for name, _, status, flags, details in _ROW.findall(text)
    }


def rule(name: str, *fields: str) -> m.Document:
    return m.route(name, f"[{{{', '.join(fields)}}}]")


def policy(kind: str, name: str, body: str) -> m.Document:
    return m.policy(kind, name, body, f"HTTPRoute/{name}")


def to_service(name: str) -> str:
    return f"backendRefs: [{{name: {name}, port: 80}}]"


PATTERN = "matches: [{path: {type: RegularExpression, value: '/('}}]"
NOBODYS = "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: nobodys}"
MISSING_FILTER = f"filters: [{{type: ExtensionRef, extensionRef: {NOBODYS}}}]"
UNBUILT = "jwt: {providers: [{name: a, remoteJWKS: {uri: 'https://a.test/keys'}}]}"
USERS = "basicAuth: {users: {name: nobodys}}"

Manifests = Callable[[Site, str], list[m.Document]]

CAUSES: dict[str, Manifests] = {
    "unknown-host": lambda _site, _name: [],
    "unknown-path": lambda _site, name: [rule(name, "matches: [{path: {value: /other}}]", m.to("one"))],
    "dropped-rule": lambda _site, name: [rule(name, PATTERN, m.to("one"))],
    "missing-backend": lambda _site, name: [rule(name, m.to("nobodys"))],
    "no-backend": lambda _site, name: [rule(name, "matches: [{path: {value: /}}]")],
    "weights-of-zero": lambda _site, name: [rule(name, m.to("one=0", "two=0"))],
    "missing-filter": lambda _site, name: [rule(name, MISSING_FILTER, m.to("one"))],
    "faulty-policy": lambda _site, name: [rule(name, m.to("one")), policy("SecurityPolicy", name, USERS)],
    "unbuilt-guard": lambda _site, name: [rule(name, m.to("one")), policy("SecurityPolicy", name, UNBUILT)],
    "share-of-a-missing-backend": lambda _site, name: [rule(name, m.to("one=1", "nobodys=1000000"))],
    "no-endpoints": lambda _site, name: [m.service(name), rule(name, to_service(name))],
    "nobody-listens": lambda _site, name: [m.local(name, free_port()), rule(name, m.to(name))],
    "unknown-name": lambda _site, name: [
        m.backend(name, "fqdn: {hostname: nobodys.invalid, port: 80}"),
        rule(name, m.to(name)),
    ],
    "port-zero": lambda _site, name: [m.local(name, 0), rule(name, m.to(name))],
    "circuit-breaker": lambda _site, name: [
        rule(name, m.to("one")),
        policy("BackendTrafficPolicy", name, "circuitBreaker: {maxPendingRequests: 0}"),
    ],
    "backend-closes": lambda _site, name: [rule(name, m.to("one"))],
    "backend-stalls": lambda _site, name: [rule(name, "timeouts: {request: 50ms}", m.to("one"))],
    "fault-injection": lambda _site, name: [
        rule(name, m.to("one")),
        policy("BackendTrafficPolicy", name, "faultInjection: {abort: {httpStatus: 503}}"),
    ],
    "answer-of-the-backend": lambda _site, name: [rule(name, m.to("one"))],
}
"""What provokes each cause: a route of its name, if any, and what else it takes."""

FAULTS = {"backend-closes": ["close"], "backend-stalls": ["stall"]}
STATUSES = {"answer-of-the-backend": [503]}


async def test_each_cause_on_the_page_is_provoked() -> None:
    assert {*CAUSES, "no-certificate"} == {*rows()}


@pytest.mark.parametrize("cause", CAUSES)
async def test_a_cause_is_answered_and_logged_as_the_page_says(watched: Watched, cause: str) -> None:
    """Whoever sees a status looks its flags and details up there."""
    site, log = watched
    await site.apply(*CAUSES[cause](site, cause))
    site.one.faults.extend(FAULTS.get(cause, ()))
    site.one.statuses.extend(STATUSES.get(cause, ()))

    status = await site.status(f"{cause}.test")
    entry = await log.of(":authority", f"{cause}.test")

    expected, flags, details = rows()[cause]
    assert (str(status), str(entry["response_code"])) == (expected, expected)
    assert {entry["response_flags"] or "-"} == flags
    assert any(entry["response_code_details"].startswith(detail) for detail in details), entry
    assert entry["listener"] == "default/gateway/http"


async def test_a_handshake_for_a_name_without_certificate_is_logged(watched: Watched) -> None:
    """The client sees a closed connection, and no page of the backend could ever say why."""
    site, log = watched
    port = free_port()
    await site.apply(
        site.authority.sign("shown.test").secret("shown"),
        m.gateway(
            "tls",
            f"[{{name: https, port: {port}, protocol: HTTPS, hostname: shown.test,"
            " tls: {certificateRefs: [{name: shown}]}}]",
        ),
    )

    with pytest.raises(httpx.ConnectError):
        await site.ask("hidden.test", port=port, tls=True)
    entry = await log.of("requested_server_name", "hidden.test")

    _, flags, details = rows()["no-certificate"]
    assert {entry["response_flags"]} == flags
    assert entry["response_code_details"] in details
