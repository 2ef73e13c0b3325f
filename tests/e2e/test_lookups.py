"""Backends that are hostnames, as their name server sees them: how often they are looked up."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.e2e import manifests as m
from tests.e2e.conftest import Site, until
from tests.e2e.name_servers import NameServer, name_server, proxy_that_asks
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@asynccontextmanager
async def named(site: Site, name: str, dns: str, *, ttl_s: int) -> AsyncGenerator[NameServer]:
    """A route to a backend by its name, on a Gateway whose Envoy asks a server for it."""
    port = free_port()
    ref = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": name}
    async with name_server(ttl_s) as server:
        documents = (
            proxy_that_asks(name, server.port),
            m.gateway(
                name, f"[{{name: http, port: {port}, protocol: HTTP}}]", infrastructure={"parametersRef": ref}
            ),
            m.backend(name, f"fqdn: {{hostname: {name}.example, port: {site.one.port}}}"),
            m.route(name, f"[{{{m.to(name)}}}]", parents=f"[{{name: {name}}}]"),
            m.policy("BackendTrafficPolicy", name, f"dns: {dns}", f"HTTPRoute/{name}"),
        )
        await site.apply(*documents)
        try:
            assert (await site.reached(f"{name}.test", port=port)).by == "one"
            yield server
        finally:
            await site.delete(*documents)


@pytest.mark.proves("BackendTrafficPolicy", "dns.dnsRefreshRate")
async def test_a_name_is_looked_up_as_often_as_a_policy_says(site: Site) -> None:
    """Without the policy it would be twice a minute."""
    dns = "{dnsRefreshRate: 100ms, respectDnsTtl: false}"
    async with named(site, "often", dns, ttl_s=3600) as server:
        await until(lambda: len(server.times) >= 5)


@pytest.mark.proves("BackendTrafficPolicy", "dns.respectDnsTtl")
async def test_a_name_is_looked_up_again_when_its_time_to_live_is_over_unless_a_policy_says_else(
    site: Site,
) -> None:
    """It is a second here, and the policy would ask once an hour."""
    async with named(site, "lives", "{dnsRefreshRate: 1h}", ttl_s=1) as server:
        await until(lambda: len(server.times) >= 2)
    async with named(site, "ignored", "{dnsRefreshRate: 1h, respectDnsTtl: false}", ttl_s=1) as server:
        asked = len(server.times)
        async with named(site, "beside", "{dnsRefreshRate: 1h}", ttl_s=1) as other:
            await until(lambda: len(other.times) >= 3)
        assert len(server.times) == asked
