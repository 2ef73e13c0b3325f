"""What many small Gateways cost: a thousand teams, each with a Gateway of its own and one route.

``python -m bench.small_worlds`` reads the manifests, translates them, and prints what that took of this
process, which does nothing else. So memory is that of a whole process, the interpreter and all libraries with
it. The garbage collector is off, as it is while moongate starts: it finds nothing then.
"""

from __future__ import annotations

import argparse
import gc
import sys
from time import process_time
from typing import TYPE_CHECKING, Any

import psutil
from msgspec import Struct

from bench.figures import plain_table, verdict
from moongate.api.admission import admit
from moongate.kinds import KINDS
from moongate.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.base import Resource

TARGET_AT = 1000
"""The number of Gateways that the targets are for."""
TARGET_MB = 120
TARGET_CPU_S = 1.5


class Figures(Struct, frozen=True, kw_only=True):
    """Seconds of CPU and bytes.

    Args:
        gateways: how many there are.
        imported: memory of the process when all is imported, and nothing read.
        rss: memory of the process when all is translated.
        read_cpu: manifests checked, and made resources.
        build_cpu: resources put in force, and all xDS and statuses built.
        nodes: cells and results that the engine holds.
        runs: functions run.
    """

    gateways: int
    imported: int
    rss: int
    read_cpu: float
    build_cpu: float
    nodes: int
    runs: int


def manifests(gateways: int) -> Iterator[dict[str, Any]]:
    """A class, and for each Gateway a route, a Service and an EndpointSlice, each team in its namespace."""
    gateway_api = "gateway.networking.k8s.io/v1"
    controller = "gateway.envoyproxy.io/gatewayclass-controller"
    yield _manifest(gateway_api, "GatewayClass", "eg", "", spec={"controllerName": controller})
    for n in range(gateways):
        team = f"team-{n}"
        listener = {"name": "http", "port": 80, "protocol": "HTTP"}
        spec: dict[str, Any] = {"gatewayClassName": "eg", "listeners": [listener]}
        yield _manifest(gateway_api, "Gateway", "eg", team, spec=spec)
        rule = {
            "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
            "backendRefs": [{"name": "app", "port": 8080}],
        }
        spec = {"parentRefs": [{"name": "eg"}], "hostnames": [f"{team}.example.com"], "rules": [rule]}
        yield _manifest(gateway_api, "HTTPRoute", "app", team, spec=spec)
        yield _manifest("v1", "Service", "app", team, spec={"ports": [{"name": "http", "port": 8080}]})
        endpoints = _manifest("discovery.k8s.io/v1", "EndpointSlice", "app-1", team)
        endpoints["metadata"]["labels"] = {"kubernetes.io/service-name": "app"}
        address = f"10.{n >> 8 & 255}.{n & 255}.1"
        yield endpoints | {
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": [address]}],
        }


def measure(gateways: int) -> Figures:
    """Read and translate manifests in this process."""
    process = psutil.Process()
    imported = process.memory_info().rss
    began = process_time()
    resources: dict[Any, Resource] = {}
    for manifest in manifests(gateways):
        admission = admit(manifest, KINDS, namespace="default")
        assert admission.resource is not None, admission.problems
        resources[admission.resource.ref] = admission.resource
    read = process_time()
    world = World()
    world.apply(resources)
    del resources
    world.pull()
    built = process_time()
    assert len(world.xds()) == gateways
    return Figures(
        gateways=gateways,
        imported=imported,
        rss=process.memory_info().rss,
        read_cpu=read - began,
        build_cpu=built - read,
        nodes=len(world.db),
        runs=sum(world.db.counts.values()),
    )


def shown(figures: Figures) -> str:
    """The figures as a table, with the targets beside them."""
    each = figures.gateways
    mb, cpu = figures.rss / 1e6, figures.build_cpu
    rows = [
        (f"{each:,} Gateways with one route each", "", "target"),
        ("memory of the process", f"{mb:.0f} MB", _judged(each, f"< {TARGET_MB} MB", is_met=mb < TARGET_MB)),
        ("… of that, before anything was read", f"{figures.imported / 1e6:.0f} MB", ""),
        (
            "translation",
            f"{cpu:.2f} s of CPU",
            _judged(each, f"< {TARGET_CPU_S} s", is_met=cpu < TARGET_CPU_S),
        ),
        ("… after reading", f"{figures.read_cpu:.2f} s of CPU", ""),
        ("cells and results of a Gateway", f"{figures.nodes / each:.0f}", ""),
        ("functions run for a Gateway", f"{figures.runs / each:.0f}", ""),
    ]
    return plain_table(rows)


def _judged(gateways: int, target: str, *, is_met: bool) -> str:
    return f"{target}: {verdict(is_met=is_met)}" if gateways == TARGET_AT else target


def _manifest(version: str, kind: str, name: str, namespace: str, **parts: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace} if namespace else {"name": name}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **parts}


def main() -> int:
    """Measure, and print the table."""
    gc.disable()
    parser = argparse.ArgumentParser(prog="python -m bench.small_worlds", description=__doc__)
    parser.add_argument("--gateways", type=int, default=TARGET_AT, help="[%(default)s]")
    print(shown(measure(parser.parse_args().gateways)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
