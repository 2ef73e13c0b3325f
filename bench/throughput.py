"""What the chain that moongate ships costs a request of a plain route, which uses none of its filters.

``python -m bench.throughput`` asks several Envoys the same thing in turns. One is configured by moongate as
shipped. The others have the same listener, route and cluster in a file, and differ in their HTTP filters: the
router alone, which all are compared with; the router alone once more, which shows how exact a comparison is;
and the router behind numbers of filters that are disabled.

What is compared is Envoy's CPU for a request, in pairs of runs next to each other: one thread serves what its
CPU allows, and what else the machine does changes CPU less than it changes requests per second.

h2load makes the load (Debian: ``nghttp2-client``); an Envoy that answers by itself is the upstream.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import sys
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack
from math import floor, sqrt
from statistics import median
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, Final

import psutil
from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import DirectResponseAction, Route, RouteMatch, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.cors.v3.cors_pb2 import Cors
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from msgspec import Struct

from bench.figures import p50, p99, plain_table, verdict
from bench.measure import cpu_s
from bench.scene import GATEWAY
from moongate.api.envoygateway import EnvoyGateway
from moongate.infra.binary import envoy_binary
from moongate.infra.bootstrap import EnvoyOptions, bootstrap
from moongate.infra.process import EnvoyProcess
from moongate.infra.rundir import RunDirectory
from moongate.report.logs import configure
from moongate.run import Laptop
from moongate.sources.folder import Folder
from moongate.world import World
from moongate.xds.filter_chains import HCM
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, packed
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

TARGET: Final = 0.98
"""Throughput of the shipped chain, as a part of that of the router alone."""

ALONE: Final = "the router alone"
AGAIN: Final = "the router alone, once more"
SHIPPED: Final = "the chain that moongate ships"

MANIFESTS: Final = (
    GATEWAY
    + """\
  concurrency: 1
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: app}}
spec:
  parentRefs: [{{name: bench}}]
  rules:
  - backendRefs: [{{group: gateway.envoyproxy.io, kind: Backend, name: app}}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {{name: app}}
spec:
  endpoints:
  - ip: {{address: 127.0.0.1, port: {upstream}}}
"""
)


class Run(Struct, frozen=True):
    """One run of load.

    Args:
        cpu_us: Envoy's CPU for a request.
        per_second: requests per second.
        p50_ms, p99_ms: of the time that a request took; 0 when nobody asks.
    """

    cpu_us: float
    per_second: float
    p50_ms: float = 0
    p99_ms: float = 0


class Ratio(Struct, frozen=True):
    """The median of ratios that were measured in pairs, and what it is between with a confidence of 95%."""

    median: float
    low: float
    high: float


class Comparison(Struct, frozen=True):
    """How one Envoy's throughput compares with that of the router alone, by CPU.

    Args:
        name: what is compared.
        cpu_us: CPU for a request, the median of all runs.
        per_second: requests per second, the median of all runs.
        ratio: below 1 it takes more CPU than the router alone.
    """

    name: str
    cpu_us: float
    per_second: float
    ratio: Ratio


def paired(ratios: Iterable[float]) -> Ratio:
    """What ratios say that were each measured in two runs next to each other."""
    ratios = sorted(ratios)
    count = len(ratios)
    # Of the pairs, about half are below the true median: a binomial distribution, here by its normal one.
    outside = max(0, floor(count / 2 - 0.98 * sqrt(count)))
    return Ratio(median(ratios), ratios[outside], ratios[-1 - outside])


def by_cpu(runs: Sequence[Run], base: Sequence[Run]) -> Ratio:
    """The throughput of runs by CPU, as a part of those that were made next to them."""
    return paired(one.cpu_us / run.cpu_us for run, one in zip(runs, base, strict=True))


def compared(name: str, runs: Sequence[Run], alone: Sequence[Run]) -> Comparison:
    """Runs of one Envoy beside those of the router alone that were made next to them."""
    return Comparison(
        name,
        cpu_us=median(run.cpu_us for run in runs),
        per_second=median(run.per_second for run in runs),
        ratio=by_cpu(runs, alone),
    )


def shown(comparisons: Iterable[Comparison]) -> str:
    """A table in Markdown, with the target beside the chain that moongate ships."""
    rows = [("a request of a plain route", "Envoy's CPU", "requests/s", "throughput by CPU", "95% sure", "")]
    for one in comparisons:
        judged = ""
        if one.name == SHIPPED:
            judged = f"target ≥ {TARGET:.0%}: {verdict(is_met=one.ratio.median >= TARGET)}"
        rows.append(
            (
                one.name,
                f"{one.cpu_us:.1f} µs",
                f"{one.per_second:,.0f}",
                f"{one.ratio.median:.1%}",
                f"{one.ratio.low:.1%} to {one.ratio.high:.1%}",
                judged,
            )
        )
    return plain_table(rows)


def from_file(manifests: str, disabled: int) -> Bootstrap.StaticResources:
    """What moongate makes of manifests, as the static part of a bootstrap.

    Args:
        manifests: one Gateway with one listener, and one route to one backend.
        disabled: how many HTTP filters stand before the router; there are no others.
    """
    folder = Folder(namespace="default")
    batch = folder.update("<manifests>", manifests)
    assert not folder.diagnostics(), folder.diagnostics()
    world = World(EnvoyGateway.shipped().on_host())
    world.apply(batch)
    world.pull()
    [types] = world.xds().values()
    [listener] = (Listener.FromString(one.body) for one in types[LISTENER].values())
    [table] = (RouteConfiguration.FromString(one.body) for one in types[ROUTE].values())
    [cluster] = (Cluster.FromString(one.body) for one in types[CLUSTER].values())
    for one in types.get(ENDPOINT, {}).values():
        cluster.ClearField("eds_cluster_config")
        cluster.type = Cluster.STATIC
        cluster.load_assignment.CopyFrom(ClusterLoadAssignment.FromString(one.body))

    [network_filter] = (one for one in listener.default_filter_chain.filters if one.name == HCM)
    hcm = HttpConnectionManager.FromString(network_filter.typed_config.value)
    router = hcm.http_filters[-1]
    del hcm.http_filters[:]
    hcm.http_filters.extend(
        HttpFilter(name=f"envoy.filters.http.disabled.{n}", typed_config=packed(Cors()), disabled=True)
        for n in range(disabled)
    )
    hcm.http_filters.append(router)
    hcm.route_config.CopyFrom(table)
    network_filter.typed_config.CopyFrom(packed(hcm))
    return Bootstrap.StaticResources(listeners=[listener], clusters=[cluster])


def upstream_that_answers(port: int) -> Bootstrap.StaticResources:
    """An Envoy that answers all requests by itself, on a listener as moongate makes it."""
    static = from_file(MANIFESTS.format(port=port, upstream=port), disabled=0)
    network_filter = static.listeners[0].default_filter_chain.filters[-1]
    hcm = HttpConnectionManager.FromString(network_filter.typed_config.value)
    answer = Route(match=RouteMatch(prefix="/"), direct_response=DirectResponseAction(status=200))
    hcm.route_config.CopyFrom(
        RouteConfiguration(virtual_hosts=[VirtualHost(name="all", domains=["*"], routes=[answer])])
    )
    network_filter.typed_config.CopyFrom(packed(hcm))
    return Bootstrap.StaticResources(listeners=[static.listeners[0]])


async def static_envoy(
    stack: AsyncExitStack, run: RunDirectory, name: str, static: Bootstrap.StaticResources
) -> int:
    """The process id of a new Envoy, which is ready; it ends with the stack."""
    files = run.envoy(name)
    start = bootstrap("default/bench", name, xds_socket=run.socket("xds"), admin_socket=files.admin)
    start.ClearField("dynamic_resources")
    start.static_resources.CopyFrom(static)
    envoy = await stack.enter_async_context(
        EnvoyProcess(
            name,
            binary=envoy_binary(None),
            files=files,
            bootstrap=start,
            options=EnvoyOptions(concurrency=1),
        )
    )
    stack.callback(envoy.skip_drain)
    await envoy.ready()
    assert envoy.pid is not None
    return envoy.pid


async def moongates_envoy(
    stack: AsyncExitStack,
    port: int,
    upstream: int,
    *,
    config: EnvoyGateway | None = None,
    more: Iterable[Mapping[str, Any]] = (),
) -> int:
    """The process id of a new Envoy that moongate configures, which serves; it ends with the stack.

    Args:
        stack: what it ends with.
        port, upstream: where it listens, and where its backend does.
        config: instead of the configuration that moongate ships.
        more: manifests beside those of the Gateway with one route.
    """
    before = {child.pid for child in psutil.Process().children()}
    laptop = await stack.enter_async_context(Laptop(config=config))
    stack.callback(laptop.skip_drain)
    await laptop.apply(MANIFESTS.format(port=port, upstream=upstream))
    await laptop.apply(more, timeout_s=None)
    [envoy] = (child for child in psutil.Process().children() if child.pid not in before)
    return envoy.pid


async def load(pid: int, port: int, requests: int, connections: int, host: str | None = None) -> Run:
    """One run of load on an Envoy.

    Args:
        pid, port: of the Envoy.
        requests, connections: how many.
        host: what the requests ask for, and how long each takes is measured; by default neither.

    Raises:
        RuntimeError: not all requests were answered by 200; the message holds what h2load says.
    """
    with NamedTemporaryFile() as log:
        before = cpu_s(pid)
        h2load = await asyncio.create_subprocess_exec(
            "h2load",
            "--h1",
            f"--requests={requests}",
            f"--clients={connections}",
            *(() if host is None else (f"--header=:authority: {host}", f"--log-file={log.name}")),
            f"http://127.0.0.1:{port}/",
            stdout=PIPE,
        )
        report = (await h2load.communicate())[0].decode()
        cpu = cpu_s(pid) - before
        # A line is: the start, the status, µs until the end.
        took_ms = [int(line.split()[2]) / 1000 for line in log]
    rate = re.search(r"finished in .*, ([\d.]+) req/s", report)
    if rate is None or f"status codes: {requests} 2xx" not in report:
        raise RuntimeError(f"h2load for {host} on port {port}: {report}")
    return Run(
        cpu_us=cpu / requests * 1e6,
        per_second=float(rate[1]),
        p50_ms=p50(took_ms) if took_ms else 0,
        p99_ms=p99(took_ms) if took_ms else 0,
    )


class Plan(Struct, frozen=True, kw_only=True):
    """How much to measure.

    Args:
        pairs: runs of each Envoy after each start.
        starts: how often all Envoys are started anew: where a process has its memory changes its speed, too.
        requests: in a run.
        connections: of the load.
    """

    pairs: int
    starts: int
    requests: int
    connections: int


async def measure(plan: Plan, disabled: Sequence[int] = ()) -> list[Comparison]:
    """All Envoys, the router alone first.

    Args:
        plan: how much.
        disabled: numbers of disabled filters, each for an Envoy of its own.
    """
    chains = {ALONE: 0, AGAIN: 0, **{f"{n} disabled before the router": n for n in disabled}}
    runs: dict[str, list[Run]] = {name: [] for name in (SHIPPED, *chains)}
    for _ in range(plan.starts):
        async with AsyncExitStack() as stack:
            run = stack.enter_context(RunDirectory())
            upstream = free_port()
            await static_envoy(stack, run, "upstream", upstream_that_answers(upstream))
            ports = {name: free_port() for name in runs}
            pids = {SHIPPED: await moongates_envoy(stack, ports[SHIPPED], upstream)}
            for name, count in chains.items():
                manifests = MANIFESTS.format(port=ports[name], upstream=upstream)
                static = from_file(manifests, count)
                pids[name] = await static_envoy(stack, run, f"static-{len(pids)}", static)
            await _turns(plan, pids, ports, runs)
    return [compared(name, runs[name], runs[ALONE]) for name in (ALONE, AGAIN, SHIPPED, *list(chains)[2:])]


async def _turns(
    plan: Plan, pids: Mapping[str, int], ports: Mapping[str, int], runs: Mapping[str, list[Run]]
) -> None:
    for name in pids:  # connections to the upstream, and caches
        await load(pids[name], ports[name], plan.requests, plan.connections)
    names = list(pids)
    for turn in range(plan.pairs):
        # There and back again, so that a machine that gets slower hits all alike.
        for name in names if turn % 2 == 0 else reversed(names):
            runs[name].append(await load(pids[name], ports[name], plan.requests, plan.connections))


def options_of(bench: str, about: str | None, *, pairs: int, starts: int) -> argparse.ArgumentParser:
    """The command line of a bench with such a plan.

    Args:
        bench: the name of its module.
        about: what it does.
        pairs: runs unless the command line says how many.
        starts: likewise.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {bench}", description=about)
    parser.add_argument("--pairs", type=int, default=pairs, help="of runs after each start [%(default)s]")
    parser.add_argument("--starts", type=int, default=starts, help="of all Envoys [%(default)s]")
    parser.add_argument("--requests", type=int, default=8_000, help="in a run [%(default)s]")
    parser.add_argument("--connections", type=int, default=64, help="[%(default)s]")
    return parser


def plan_of(options: argparse.Namespace) -> Plan:
    """What the command line says of how much to measure."""
    return Plan(
        pairs=options.pairs,
        starts=options.starts,
        requests=options.requests,
        connections=options.connections,
    )


def print_measured(table: Callable[[], Coroutine[Any, Any, str]]) -> int:
    """Measure, and print the table; the exit code."""
    if shutil.which("h2load") is None:
        print("h2load makes the load, and is not installed (Debian: apt install nghttp2-client).")
        return 2
    configure("json")  # what moongate logs goes to standard error
    print(f"{os.cpu_count()} cores; load average before the start {os.getloadavg()[0]:.1f}\n")
    print(asyncio.run(table()))
    return 0


def main() -> int:
    """Measure, and print the table."""
    parser = options_of("bench.throughput", __doc__, pairs=20, starts=3)
    parser.add_argument(
        "--disabled", default="", metavar="N,N…", help="measure chains with N disabled filters, too"
    )
    options = parser.parse_args()
    disabled = [int(n) for n in options.disabled.split(",") if n]

    async def table() -> str:
        return shown(await measure(plan_of(options), disabled))

    return print_measured(table)


if __name__ == "__main__":
    sys.exit(main())
