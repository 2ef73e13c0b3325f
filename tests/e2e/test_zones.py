"""Requests by zones: as often as a policy says, and in the zone of the proxy."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.e2e import manifests as m
from tests.e2e.backends import EchoOverHttp2
from tests.e2e.calls import Call, CallServer
from tests.e2e.conftest import Site, until
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


def zoned(site: Site, name: str, *zones: str) -> m.Document:
    """A Backend whose endpoints are the three backends, each in a zone."""
    return m.backend(
        name,
        *(
            f"ip: {{address: 127.0.0.1, port: {each.port}}}, zone: {zone}"
            for each, zone in zip(site.backends.values(), zones, strict=False)
        ),
    )


def policy(name: str, body: str) -> m.Document:
    return m.policy("BackendTrafficPolicy", name, f"loadBalancer: {body}", f"HTTPRoute/{name}")


async def answers(site: Site, host: str, *, port: int = 0, times: int = 200) -> Counter[str]:
    return Counter([(await site.reached(host, port=port)).by for _ in range(times)])


@pytest.mark.parametrize("kind", ["RoundRobin", "LeastRequest", "Random"])
@pytest.mark.proves(
    "BackendTrafficPolicy",
    "loadBalancer.zoneAware.weightedZones[].zone",
    "loadBalancer.zoneAware.weightedZones[].weight",
)
async def test_zones_get_their_shares_whatever_the_number_of_their_endpoints_is(
    site: Site, kind: str
) -> None:
    weights = "[{zone: a, weight: 9}, {zone: b, weight: 1}]"
    await site.apply(
        zoned(site, "shares", "a", "b", "b"),
        m.route("shares", f"[{{{m.to('shares')}}}]"),
        policy("shares", f"{{type: {kind}, zoneAware: {{weightedZones: {weights}}}}}"),
    )

    shares = await answers(site, "shares.test")

    assert 160 <= shares["one"] <= 195
    assert shares["two"] + shares["three"] == 200 - shares["one"]


async def test_a_hash_chooses_within_the_shares_of_zones(site: Site) -> None:
    weights = "[{zone: a, weight: 8}, {zone: b, weight: 1}]"
    hashed = "consistentHash: {type: Header, header: {name: x-user}}"
    await site.apply(
        zoned(site, "hashed", "a", "b"),
        m.route("hashed", f"[{{{m.to('hashed')}}}]"),
        policy("hashed", f"{{type: ConsistentHash, {hashed}, zoneAware: {{weightedZones: {weights}}}}}"),
    )

    async def users(count: int) -> list[str]:
        return [(await site.reached("hashed.test", headers={"x-user": f"u{n}"})).by for n in range(count)]

    # Ports differ from run to run, and hashes with them: of 90 users, all may be in one zone.
    first = await users(240)

    assert first[:60] == await users(60)
    assert Counter(first)["one"] > 170
    assert set(first) == {"one", "two"}


async def test_backends_of_a_rule_keep_their_weights(site: Site) -> None:
    """Zones are chosen within a backend: each has a cluster of its own."""
    weights = "[{zone: a, weight: 1}, {zone: b, weight: 3}]"
    await site.apply(
        zoned(site, "weighed", "a", "b"),
        m.route("weighed", f"[{{{m.to('weighed=1', 'three=3')}}}]"),
        policy("weighed", f"{{type: RoundRobin, zoneAware: {{weightedZones: {weights}}}}}"),
    )

    shares = await answers(site, "weighed.test")

    assert 110 <= shares["three"] <= 187
    assert shares["two"] > shares["one"]


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "loadBalancer.zoneAware.preferLocal.minEndpointsThreshold",
    "loadBalancer.zoneAware.preferLocal.percentageEnabled",
    "loadBalancer.zoneAware.preferLocal.force.minEndpointsInZoneThreshold",
)
async def test_requests_stay_in_the_zone_of_the_proxy(site: Site) -> None:
    """The proxy compares its own zone with the zones of its fleet, which a bootstrap says on a laptop."""
    port = free_port()
    await site.apply(
        *m.gateway_in_zone("a", "zonal", port),
        zoned(site, "near", "a", "b", "b"),
        m.route("near", f"[{{{m.to('near')}}}]", parents="[{name: zonal}]"),
    )
    assert set(await answers(site, "near.test", port=port, times=80)) == {"one", "two", "three"}

    local = "preferLocal: {minEndpointsThreshold: 1, force: {minEndpointsInZoneThreshold: 1}}"
    await site.apply(policy("near", f"{{type: RoundRobin, zoneAware: {{{local}}}}}"))

    assert set(await answers(site, "near.test", port=port, times=40)) == {"one"}

    everywhere = (
        "preferLocal: {minEndpointsThreshold: 4}",
        # With two endpoints for a zone to be enough, the one that is there gets its share alone.
        "preferLocal: {minEndpointsThreshold: 1, force: {minEndpointsInZoneThreshold: 2}}",
        local.replace("{min", "{percentageEnabled: 0, min", 1),
    )
    for other in everywhere:
        await site.apply(policy("near", f"{{type: RoundRobin, zoneAware: {{{other}}}}}"))

        assert set(await answers(site, "near.test", port=port, times=80)) == {"one", "two", "three"}


class LoadServer(CallServer):
    """Reports the load of an endpoint on a port of its own."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.periods_s: list[int] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        self.calls.append(Call(handler_call_details.method, {}))

        async def answer(message: bytes, _context: object) -> AsyncIterator[bytes]:
            # The message has one field, which is a Duration.
            self.periods_s.append(Duration.FromString(message[2:]).seconds)
            yield b""  # a report without figures
            await asyncio.Event().wait()

        return grpc.unary_stream_rpc_method_handler(answer)  # pyright: ignore[reportArgumentType] - it is async


async def ask_for_load(site: Site, name: str, out_of_band: str) -> None:
    """Serve a route whose backend is asked for its load by calls of their own."""
    utilization = f"backendUtilization: {{outOfBand: {out_of_band}}}"
    await site.apply(
        m.route(name, f"[{{{m.to('one')}}}]"), policy(name, f"{{type: BackendUtilization, {utilization}}}")
    )
    assert await site.status(f"{name}.test") == 200


@pytest.mark.proves(
    "BackendTrafficPolicy",
    "loadBalancer.backendUtilization.outOfBand.port",
    "loadBalancer.backendUtilization.outOfBand.reportingPeriod",
)
async def test_load_is_asked_for_on_a_port_of_its_own(site: Site) -> None:
    """Our protobuf modules do not know the fields that say it; Envoy does."""
    server = LoadServer("load")
    async with server.serving():
        await ask_for_load(site, "asked", f"{{port: {server.port}, reportingPeriod: 7s}}")

        await until(lambda: bool(server.periods_s))

    assert server.calls[0].method == "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics"
    assert server.periods_s[0] == 7


@pytest.mark.proves("BackendTrafficPolicy", "loadBalancer.backendUtilization.outOfBand.authority")
async def test_load_is_asked_for_by_a_name(site: Site) -> None:
    server = EchoOverHttp2("load")
    async with server.serving():
        await ask_for_load(site, "by-name", f"{{port: {server.port}, authority: load.test}}")

        await until(lambda: bool(server.requests))

    assert server.requests[0].header(":authority") == "load.test"
