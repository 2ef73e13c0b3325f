"""What ``moongate run`` starts: how it ends, and what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import structlog

from moongate.infra.ports import PortError
from moongate.run import Laptop, LaptopOptions, run_laptop
from tests.core import extension, gateway_class
from tests.deadline import DEADLINE_S
from tests.e2e.backends import Echo
from tests.ports import free_port
from tests.run.conftest import app, sockets, who

if TYPE_CHECKING:
    pass


@pytest.mark.envoy
async def test_a_gateway_that_is_asked_to_stop_leaves_nothing_behind(folder: Path) -> None:
    """SIGTERM to this very process: it is what a terminal and a container send."""
    port, seen = free_port(), list[dict[str, Any]]()

    def served(running: Laptop) -> None:
        seen.append(running.report())
        os.kill(os.getpid(), signal.SIGTERM)

    async with Echo("one").serving() as one:
        options = LaptopOptions(documents=(app(port, one.port),), run_dir=folder)
        async with asyncio.timeout(DEADLINE_S):
            await run_laptop(options, served=served)

    pid = seen[0]["gateways"][0]["envoy"]["pid"]
    assert not psutil.pid_exists(pid)
    assert sockets(folder) == []
    assert await who(port) == ""


@pytest.mark.envoy
async def test_a_run_says_that_it_ends_and_that_it_has(folder: Path) -> None:
    def served(_running: Laptop) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with structlog.testing.capture_logs() as events:
        async with asyncio.timeout(DEADLINE_S):
            await run_laptop(LaptopOptions(documents=(app(free_port(), 1),), run_dir=folder), served=served)

    assert [event["event"] for event in events][-2:] == ["gateway.stopping", "gateway.stopped"]


@pytest.mark.envoy
async def test_a_port_that_is_taken_ends_a_run_without_files(folder: Path) -> None:
    """Nothing that could change would mend it; and it does not say that it stops before it has begun."""
    with structlog.testing.capture_logs() as events, socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(PortError, match=f"Port {port} is taken by .* \\(process {os.getpid()}\\)"):
            async with asyncio.timeout(DEADLINE_S):
                await run_laptop(LaptopOptions(documents=(app(port, 1),), run_dir=folder))

    assert {"gateway.serving", "gateway.stopping"}.isdisjoint(event["event"] for event in events)


@pytest.mark.envoy
async def test_a_run_does_not_end_because_of_the_envoy_of_one_gateway(folder: Path) -> None:
    """Its manifests can be mended while it runs."""
    reports: list[dict[str, Any]] = []

    def served(running: Laptop) -> None:
        reports.append(running.report())
        os.kill(os.getpid(), signal.SIGTERM)

    odd = extension("EnvoyProxy", "odd", "{extraArgs: [--no-such-flag]}")
    proxy = "---\n".join((gateway_class("odd", name="moongate"), odd))
    async with asyncio.timeout(DEADLINE_S):
        await run_laptop(LaptopOptions(documents=(app(free_port(), 1), proxy), run_dir=folder), served=served)

    assert [each["envoy"]["state"] for each in reports[0]["gateways"]] == ["failed"]
