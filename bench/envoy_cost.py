"""What Envoy pays for: a table of many routes, one of which changes, in several forms.

``python -m bench.envoy_cost`` gives one Envoy the same table in each form by turns, changes one name in it
again and again, and prints Envoy's CPU for a change, and the time until it acknowledges. The forms differ in
one thing each, so that the price of that thing can be read off.
"""

# The stubs of grpcio leave the types of its handler factories open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import argparse
import asyncio
import sys
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.basic_auth.v3.basic_auth_pb2 import BasicAuthPerRoute
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest
from envoy.type.matcher.v3.http_inputs_pb2 import HttpRequestHeaderMatchInput

from bench.floor import BareServer
from bench.measure import cpu_s
from moongate.ads.server import OPTIONS, SERVICE
from moongate.infra.binary import envoy_binary
from moongate.infra.bootstrap import bootstrap
from moongate.infra.process import EnvoyProcess
from moongate.infra.rundir import RunDirectory
from moongate.world import World
from moongate.xds.metadata import metadata
from moongate.xds.wire import LISTENER, ROUTE, XdsResource, encode, packed
from tests import worlds
from tests.core import WHOLE
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Table = RouteConfiguration


def lean(_table: Table) -> None:
    """A route has a name, a match, a cluster."""


def upgrades(table: Table) -> None:
    """Each route allows WebSockets by itself, instead of the connection manager for all."""
    for host in table.virtual_hosts:
        for route in host.routes:
            route.route.upgrade_configs.add(upgrade_type="websocket")


def described_routes(table: Table) -> None:
    """Each route says in metadata which resource it comes from."""
    for host in table.virtual_hosts:
        for n, route in enumerate(host.routes):
            route.metadata.MergeFromString(metadata(worlds.route(n).ref, "rule"))


def described(table: Table) -> None:
    """So does each virtual host."""
    described_routes(table)
    for host in table.virtual_hosts:
        host.metadata.MergeFromString(metadata(worlds.EG, "http"))


def headers(table: Table) -> None:
    """Each route sets a header of the answer."""
    for host in table.virtual_hosts:
        for route in host.routes:
            route.response_headers_to_add.add().header.key = "x-some-header"
            route.response_headers_to_add[0].header.value = "value"


def passwords(table: Table) -> None:
    """Each route has a password of its own."""
    users = BasicAuthPerRoute()
    users.users.inline_bytes = b"ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="
    for host in table.virtual_hosts:
        for route in host.routes:
            route.typed_per_filter_config["envoy.filters.http.basic_auth"].CopyFrom(packed(users))


def long_names(table: Table) -> None:
    """The names of routes and virtual hosts have 200 characters more."""
    for host in table.virtual_hosts:
        host.name += "-" * 200
        for route in host.routes:
            route.name += "-" * 200


def patterns(table: Table) -> None:
    """Each route matches a regular expression."""
    for host in table.virtual_hosts:
        for route in host.routes:
            route.match.Clear()
            route.match.safe_regex.regex = "/some/[a-z]+/of/.*"


def one_host(table: Table) -> None:
    """All routes stand in one virtual host."""
    first, *others = table.virtual_hosts
    for host in others:
        first.routes.extend(host.routes)
    del table.virtual_hosts[1:]
    for n, route in enumerate(first.routes):
        route.match.Clear()
        route.match.path_separated_prefix = f"/r{n}"


def one_tree(table: Table) -> None:
    """So they do, but as a tree by path, in which Envoy looks a route up instead of trying each."""
    one_host(table)
    [host] = table.virtual_hosts
    tree = host.matcher.matcher_tree
    tree.input.name = "path"
    tree.input.typed_config.CopyFrom(packed(HttpRequestHeaderMatchInput(header_name=":path")))
    for route in host.routes:
        leaf = tree.prefix_match_map.map[route.match.path_separated_prefix]
        leaf.action.name = "route"
        leaf.action.typed_config.CopyFrom(packed(route))
    del host.routes[:]


FORMS: Final[tuple[Callable[[Table], None], ...]] = (
    lean,
    upgrades,
    described_routes,
    described,
    headers,
    passwords,
    long_names,
    patterns,
    one_host,
    one_tree,
)


def base(routes: int) -> tuple[Listener, Table]:
    """A listener and its table, as moongate makes them, with nothing in a route that it can do without."""
    world = World.of(worlds.routes_with_backends(routes), WHOLE)
    (types,) = world.xds().values()
    (listener,) = types[LISTENER].values()
    (resource,) = types[ROUTE].values()
    table = Table.FromString(resource.body)
    for host in table.virtual_hosts:
        host.ClearField("metadata")
        for route in host.routes:
            route.ClearField("metadata")
            # A cluster that is not there costs as much as one that is, and Envoy has fewer to keep.
            del route.route.upgrade_configs[:]
    message = Listener.FromString(listener.body)
    message.address.socket_address.port_value = free_port()
    return message, table


class Answers:
    """The server of the floor, that also says when a table was acknowledged."""

    def __init__(self, server: BareServer) -> None:
        self.acknowledged = asyncio.Event()
        self._server = server

    async def stream(self, requests: AsyncIterator[DeltaDiscoveryRequest], context: Any) -> None:
        async def observed() -> AsyncIterator[DeltaDiscoveryRequest]:
            async for request in requests:
                if request.type_url == ROUTE and request.response_nonce:
                    self.acknowledged.set()
                yield request

        await self._server.stream(observed(), context)


async def measure(routes: int, changes: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Form → milliseconds of Envoy's CPU, and until it acknowledges, for one changed route; medians."""
    listener, table = base(routes)
    cpu: dict[str, list[float]] = {form.__name__: [] for form in FORMS}
    passed: dict[str, list[float]] = {form.__name__: [] for form in FORMS}
    server = BareServer()
    answers = Answers(server)
    server.take([XdsResource.of(LISTENER, listener.name, encode(listener))], ())
    server.take([XdsResource.of(ROUTE, table.name, encode(table))], ())
    with RunDirectory() as run:
        grpc_server = grpc.aio.server(options=OPTIONS)
        method = grpc.stream_stream_rpc_method_handler(answers.stream, DeltaDiscoveryRequest.FromString, None)
        grpc_server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"DeltaAggregatedResources": method}),)
        )
        grpc_server.add_insecure_port(f"unix:{run.socket('xds')}")
        await grpc_server.start()
        files = run.envoy("cost")
        start = bootstrap("default/eg", "cost", xds_socket=run.socket("xds"), admin_socket=files.admin)
        async with EnvoyProcess("cost", binary=envoy_binary(None), files=files, bootstrap=start) as envoy:
            await envoy.ready()
            await answers.acknowledged.wait()
            assert envoy.pid is not None
            for turn in range(rounds):
                for form in FORMS:
                    shaped = Table()
                    shaped.CopyFrom(table)
                    form(shaped)
                    for change in range(changes + 1):
                        shaped.virtual_hosts[0].name = f"changed-{turn}-{change}"
                        resource = XdsResource.of(ROUTE, table.name, encode(shaped))
                        responses = server.take([resource], ())
                        answers.acknowledged.clear()
                        before, began = cpu_s(envoy.pid), perf_counter()
                        server.send(responses)
                        await answers.acknowledged.wait()
                        took = perf_counter() - began
                        # The workers, and what is thrown away, come after the acknowledgement.
                        await asyncio.sleep(0.05)
                        if change:  # the first replaces a table of another form
                            passed[form.__name__].append(took * 1000)
                            cpu[form.__name__].append((cpu_s(envoy.pid) - before) * 1000)
            envoy.skip_drain()
        await grpc_server.stop(grace=None)
    return {name: (median(cpu[name]), median(passed[name])) for name in cpu}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.envoy_cost", description=__doc__)
    parser.add_argument("--routes", type=int, default=5000, help="[%(default)s]")
    parser.add_argument("--changes", type=int, default=10, help="of each form in a round [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    options = parser.parse_args()
    figures = asyncio.run(measure(options.routes, options.changes, options.rounds))
    least = figures["lean"][0] or 1
    print(f"| a changed route among {options.routes} | Envoy's CPU | against lean | until acknowledged |")
    print("|---|---|---|---|")
    for form in FORMS:
        cpu, passed = figures[form.__name__]
        print(f"| {form.__doc__} | {cpu:.0f} ms | {cpu / least:.2f} | {passed:.0f} ms |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
