"""The benchmark of what the shipped chain costs a request."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from bench.throughput import ALONE, MANIFESTS, SHIPPED, Run, compared, from_file, load, paired, shown

ROOT = Path(__file__).resolve().parents[2]


def runs(*cpu_us: float) -> list[Run]:
    return [Run(cpu_us=each, per_second=1e6 / each) for each in cpu_us]


def test_each_run_is_compared_with_the_one_next_to_it() -> None:
    """A machine that gets slower in between must not be taken for a slower Envoy."""
    alone, shipped = runs(40, 60, 100), runs(50, 100, 110)

    comparison = compared(SHIPPED, shipped, alone)

    assert (comparison.ratio.median, comparison.cpu_us) == (40 / 50, 100)


def test_more_pairs_give_a_narrower_interval() -> None:
    ratios = [0.9 + n / 100 for n in range(21)]

    few, many = paired(ratios[::5]), paired(ratios)

    assert (few.low, few.high) == pytest.approx((0.9, 1.1))
    assert (many.low, many.high) == pytest.approx((0.96, 1.04))


@pytest.mark.parametrize(("cpu_us", "verdict"), [(101, "PASS"), (103, "MISS")])
def test_the_shipped_chain_is_judged(cpu_us: float, verdict: str) -> None:
    table = shown([compared(SHIPPED, runs(cpu_us, cpu_us), runs(100, 100))])

    assert f"target ≥ 98%: {verdict}" in table


def test_no_other_chain_is_judged() -> None:
    assert "target" not in shown([compared(ALONE, runs(100, 100), runs(100, 100))])


@pytest.mark.parametrize("disabled", [0, 3])
def test_a_static_envoy_differs_in_its_filters_alone(disabled: int) -> None:
    """It has the listener, the route and the cluster that moongate makes, so only filters are compared."""
    static = from_file(MANIFESTS.format(port=8080, upstream=9090), disabled)

    [listener], [cluster] = static.listeners, static.clusters
    hcm = HttpConnectionManager.FromString(listener.default_filter_chain.filters[-1].typed_config.value)
    assert [one.disabled for one in hcm.http_filters] == [True] * disabled + [False]
    assert hcm.http_filters[-1].name == "envoy.filters.http.router"
    assert listener.address.socket_address.port_value == 8080
    assert hcm.use_remote_address.value
    [host] = hcm.route_config.virtual_hosts
    [route] = host.routes
    assert route.route.cluster == cluster.name
    [endpoint] = cluster.load_assignment.endpoints[0].lb_endpoints
    assert endpoint.endpoint.address.socket_address.port_value == 9090


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load makes the load")
@pytest.mark.asyncio
async def test_the_load_asks_for_the_host_and_for_no_other() -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                heads.append((await reader.readuntil(b"\r\n\r\n")).lower())
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        run = await load(os.getpid(), port, requests=3, connections=1, host="a.test")

    assert [re.findall(rb"host: (\S+)", head) for head in heads] == [[b"a.test"]] * 3
    assert 0 < run.p50_ms <= run.p99_ms


def rows_of_a_tiny_run(bench: str, *options: str, timeout_s: float) -> list[str]:
    """The rows of the table that a bench with such a plan prints, heads included."""
    plan = ["--pairs", "2", "--starts", "1", "--requests", "200"]
    command = [sys.executable, "-m", bench, *plan, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=timeout_s)
    return [line for line in done.stdout.splitlines() if line.startswith("| ")]


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load makes the load")
def test_a_tiny_run_prints_a_row_for_each_chain() -> None:
    rows = rows_of_a_tiny_run("bench.throughput", "--disabled", "2", timeout_s=60)

    assert len(rows) == 2 + 4
