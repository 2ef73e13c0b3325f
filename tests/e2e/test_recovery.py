"""What breaks is reported and contained: Envoy's end, refused routes, taken ports, a killed moongate."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import pytest

from moongate.api.base import FleetId
from moongate.infra.ports import PortError
from moongate.run import Laptop
from moongate.xds.draining import draining_tables
from moongate.xds.wire import ENDPOINT, SCOPE
from tests import worlds
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.conftest import Site, admitted, reference, until
from tests.e2e.test_listeners import at, http
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


GATEWAY = m.gateway("gateway", "[]")


def refused(name: str, *, path: str = "/") -> dict[str, Any]:
    """A route that passes all our checks, and that Envoy refuses: it knows no such value for a header."""
    tag = m.tell_client("x", "%NOPE%")
    return m.route(name, f"[{{matches: [{{path: {{value: {path}}}}}], filters: [{tag}], {m.to('one')}}}]")


def envoy_of(laptop: Laptop, fleet: str = "default/gateway") -> dict[str, Any]:
    """State, process id and restarts of a Gateway's Envoy."""
    return next(g["envoy"] for g in laptop.report()["gateways"] if g["fleet"] == fleet)


async def test_a_killed_envoy_comes_back_with_the_same_configuration(site: Site) -> None:
    await site.apply(m.route("killed", f"[{{{m.to('one')}}}]"))
    before = envoy_of(site.laptop)

    os.kill(before["pid"], signal.SIGKILL)
    await until(
        lambda: envoy_of(site.laptop)["state"] == "ready" and envoy_of(site.laptop)["pid"] != before["pid"]
    )
    await site.laptop.served()

    assert envoy_of(site.laptop)["restarts"] == before["restarts"] + 1
    assert (await site.reached("killed.test")).by == "one"


async def test_an_envoy_that_starts_anew_has_moved_listeners_and_nothing_of_before(site: Site) -> None:
    """Until then, tables were kept for connections that drain at the former ports."""
    ports = free_port(), free_port()
    for one, two in (ports, ports[::-1]):
        listeners = f"[{http('one', one)}, {http('two', two)}]"
        await site.apply(
            m.gateway("moved", listeners), m.route("moved", f"[{{{m.to('one')}}}]", parents=at("moved"))
        )
    gateway = m.gateway("moved", listeners)
    fleet = FleetId(reference(gateway))
    assert draining_tables(site.laptop.world.db, fleet)

    os.kill(envoy_of(site.laptop, "default/moved")["pid"], signal.SIGKILL)
    await until(lambda: not draining_tables(site.laptop.world.db, fleet))
    await site.laptop.served()

    assert [await site.status("moved.test", port=port) for port in ports] == [200, 200]
    await site.delete(gateway)


async def test_an_envoy_whose_gateway_is_empty_comes_back_ready(site: Site) -> None:
    """Its last listener has lost its certificate. Envoy waits for an answer, also where that is empty."""
    port = free_port()
    tls = "tls: {certificateRefs: [{name: none}]}"
    await site.apply(m.gateway("emptied", f"[{{name: http, port: {port}, protocol: HTTP}}]"))
    await site.apply(m.gateway("emptied", f"[{{name: http, port: {port}, protocol: HTTPS, {tls}}}]"))
    before = envoy_of(site.laptop, "default/emptied")

    os.kill(before["pid"], signal.SIGKILL)
    await until(lambda: envoy_of(site.laptop, "default/emptied")["restarts"] > before["restarts"])
    await site.laptop.served()
    assert envoy_of(site.laptop, "default/emptied")["state"] == "ready"

    await site.apply(m.gateway("emptied", f"[{{name: http, port: {port}, protocol: HTTP}}]"))
    assert await site.status("nobody.test", port=port) == 404
    await site.delete(m.gateway("emptied", "[]"))


async def test_a_change_made_while_envoy_is_down_is_served_when_it_is_back(site: Site) -> None:
    await site.apply(m.route("down", f"[{{{m.to('one')}}}]"))

    os.kill(envoy_of(site.laptop)["pid"], signal.SIGKILL)
    await site.apply(m.route("down", f"[{{{m.to('two')}}}]"))

    assert (await site.reached("down.test")).by == "two"


async def test_a_stopped_envoy_catches_up(site: Site) -> None:
    """What changed while it did not listen is what it is sent then, and nobody else waits for it."""
    await site.apply(m.route("stopped", f"[{{{m.to('one')}}}]"))
    pid = envoy_of(site.laptop)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        for n in range(1, 101):
            tag = m.tell_client("x-n", str(n))
            site.laptop.put(admitted(m.route("stopped", f"[{{filters: [{tag}], {m.to('two')}}}]")))
            await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await site.laptop.served(timeout_s=0.1)
    finally:
        os.kill(pid, signal.SIGCONT)
    await site.laptop.served()

    answer = await site.ask("stopped.test")
    assert (answer.headers["x-backend"], answer.headers["x-n"]) == ("two", "100")
    assert envoy_of(site.laptop)["pid"] == pid


async def test_a_route_that_envoy_refuses_is_taken_out_alone(site: Site) -> None:
    """The other routes of the table go on changing, and the status has Envoy's words."""
    bad, good = refused("bad"), m.route("good", f"[{{{m.to('one')}}}]")
    await site.apply(good, bad)
    await site.apply(m.route("good", f"[{{{m.to('two')}}}]"))

    assert (await site.reached("good.test")).by == "two"
    assert await site.status("bad.test") == 500
    programmed = site.conditions(bad)["Programmed"]
    assert (programmed["status"], programmed["reason"]) == ("False", "Refused")
    assert "NOPE" in programmed["message"]
    assert "Programmed" not in site.conditions(good)
    assert "NOPE" in site.conditions(GATEWAY)["Programmed"]["message"]

    await site.delete(bad)

    assert site.conditions(GATEWAY)["Programmed"]["status"] == "True"


async def test_a_policy_for_many_routes_that_envoy_refuses_costs_a_few_answers(site: Site) -> None:
    """Each answer is a whole table read in vain, and meanwhile all routes are served as before."""
    routes = [m.route(f"tagged-{n}", f"[{{{m.to('one')}}}]") for n in range(40)]
    await site.apply(*routes)
    counters = r"rds\.default/gateway/http\.update_rejected$"
    before = int((await site.statistics(counters)).rpartition(" ")[2])
    tagging = m.policy(
        "BackendTrafficPolicy",
        "tagging",
        "telemetry: {tracing: {tags: {a: '%NOPE%'}}}",
        "Gateway/gateway",
    )

    await site.apply(tagging)
    rejected = int((await site.statistics(counters)).rpartition(" ")[2]) - before

    assert rejected <= 12
    assert {await site.status(f"tagged-{n}.test") for n in range(40)} == {200}
    message = site.conditions(tagging)["Programmed"]["message"]
    assert "more, with settings of this policy" in message
    await site.delete(tagging, *routes[1:])
    assert "Programmed" not in site.conditions(routes[0])


async def test_the_requests_of_a_refused_route_do_not_fall_to_a_wider_one(site: Site) -> None:
    """What was refused may be the one that is closed to strangers."""
    wide = m.route("wide", f"[{{{m.to('one')}}}]", hostnames=("fall.test",))
    bad = refused("fall", path="/admin")
    await site.apply(wide, bad)

    assert await site.status("fall.test", "/admin/x") == 500
    assert await site.status("fall.test", "/elsewhere") == 200

    await site.delete(wide, bad)


async def test_a_refused_edit_leaves_the_last_good_form_of_a_route_in_force(site: Site) -> None:
    good = m.route("edited", f"[{{matches: [{{path: {{value: /}}}}], {m.to('three')}}}]")
    await site.apply(good)
    await site.apply(refused("edited"))

    assert (await site.reached("edited.test")).by == "three"
    assert site.conditions(good)["Programmed"]["reason"] == "Refused"

    await site.apply(m.route("edited", f"[{{{m.to('two')}}}]"))

    assert (await site.reached("edited.test")).by == "two"
    assert "Programmed" not in site.conditions(good)


async def test_two_refused_routes_among_many_are_both_found(site: Site) -> None:
    """They come in one batch with thirty good ones, and in one virtual host with some of them."""
    good = [m.route(f"many-{n}", f"[{{{m.to('one')}}}]") for n in range(30)]
    bad = [refused("bad-1"), refused("bad-2")]
    beside = m.route(
        "beside", f"[{{matches: [{{path: {{value: /x}}}}], {m.to('one')}}}]", hostnames=("bad-1.test",)
    )
    await site.apply(*good[:15], bad[0], beside, *good[15:], bad[1])

    assert [await site.status(f"many-{n}.test") for n in range(30)] == [200] * 30
    assert await site.status("bad-1.test", "/x") == 200
    assert [await site.status(f"bad-{n}.test") for n in (1, 2)] == [500, 500]
    assert [site.conditions(each)["Programmed"]["reason"] for each in bad] == ["Refused"] * 2
    assert not any("Programmed" in site.conditions(each) for each in (*good, beside))

    await site.delete(*good, *bad, beside)


async def test_a_refusal_outlives_the_end_of_envoy(site: Site) -> None:
    """A new Envoy has no last good form; it must come up with the good routes all the same."""
    good, bad = m.route("left", f"[{{{m.to('one')}}}]"), refused("right")
    await site.apply(good, bad)
    before = envoy_of(site.laptop)

    os.kill(before["pid"], signal.SIGKILL)
    await until(
        lambda: envoy_of(site.laptop)["state"] == "ready" and envoy_of(site.laptop)["pid"] != before["pid"]
    )
    await site.laptop.served()

    assert await site.status("left.test") == 200
    assert site.conditions(bad)["Programmed"]["reason"] == "Refused"

    await site.delete(bad)


async def test_a_taken_port_is_reported_with_what_to_do_and_other_gateways_work(site: Site) -> None:
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))
        holder.listen()
        taken, free = holder.getsockname()[1], free_port()
        blocked = m.gateway("blocked", f"[{{name: http, port: {taken}, protocol: HTTP}}]")
        other = m.gateway("other", f"[{{name: http, port: {free}, protocol: HTTP}}]")
        with pytest.raises(PortError):
            await site.apply(
                blocked,
                other,
                m.route("port", f"[{{{m.to('one')}}}]", parents="[{name: blocked}, {name: other}]"),
            )

        programmed = site.conditions(blocked)["Programmed"]
        assert programmed["status"] == "False"
        assert f"Listener default/blocked/http: Port {taken} is taken by" in programmed["message"]
        assert "set the listener's port to a free one" in programmed["message"]
        assert site.conditions(other)["Programmed"]["status"] == "True"
        assert (await site.reached("port.test", port=free)).by == "one"
        assert site.conditions(GATEWAY)["Programmed"]["status"] == "True"

        await site.apply(
            m.gateway("blocked", f"[{{name: http, port: {(moved := free_port())}, protocol: HTTP}}]")
        )

        assert site.conditions(blocked)["Programmed"]["status"] == "True"
        assert (await site.reached("port.test", port=moved)).by == "one"
    await site.delete(blocked, other)


async def test_a_gateway_that_is_deleted_frees_its_port_and_ends_its_envoy(site: Site) -> None:
    port = free_port()
    brief = m.gateway("brief", f"[{{name: http, port: {port}, protocol: HTTP}}]")
    await site.apply(brief)
    pid = envoy_of(site.laptop, "default/brief")["pid"]

    await site.delete(brief)
    await until(lambda: not psutil.pid_exists(pid))

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
    assert [g["fleet"] for g in site.laptop.report()["gateways"]] == ["default/gateway"]


PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from moongate.run import Laptop

async def main():
    async with Laptop(run_dir=Path(sys.argv[1])) as laptop:
        await laptop.apply(json.loads(sys.argv[2]))
        print(json.dumps(laptop.report()["gateways"][0]["envoy"]["pid"]), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_moongate_leaves_no_envoy_and_the_next_one_works(site: Site) -> None:
    """Nothing of the first is in the way of the second: no process, no port, no socket, no lock."""
    port = free_port()
    manifests = [
        m.gateway("gateway", f"[{{name: http, port: {port}, protocol: HTTP}}]"),
        m.local("one", site.one.port),
        m.route("app", f"[{{{m.to('one')}}}]"),
    ]
    with TemporaryDirectory(prefix="mg-", dir="/tmp") as folder:
        async with moongate(folder, manifests) as (first, envoy):
            assert (await site.reached("app.test", port=port)).by == "one"
            first.kill()
            await first.wait()
            await until(lambda: ended(envoy))

        async with moongate(folder, manifests) as (_, second):
            assert second != envoy
            assert (await site.reached("app.test", port=port)).by == "one"


@asynccontextmanager
async def moongate(folder: str, manifests: Any) -> AsyncGenerator[tuple[asyncio.subprocess.Process, int]]:
    """A gateway in a process of its own, serving; and its Envoy's process id."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", PROGRAM, folder, msgspec.json.encode(manifests).decode()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            line = await process.stdout.readuntil(b"\n")
            while not line.strip().isdigit():  # the log comes the same way
                line = await process.stdout.readuntil(b"\n")
        yield process, int(line)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def ended(pid: int) -> bool:
    """Whether a process has ended; who should have reaped it is not our concern."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.slow
async def test_endpoints_do_not_wait_for_a_long_recomputation(site: Site) -> None:
    """A policy of the Gateway changes 1,000 routes; an EndpointSlice that comes meanwhile is sent at once."""
    port = free_port()
    async with Laptop() as laptop:
        made = [r for r in worlds.routes_with_services(1000) if r.ref != worlds.EG]
        laptop.put({r.ref: r for r in (*made, worlds.gateway(worlds.http_listener("http", port)))})
        await laptop.served(timeout_s=60)
        sent, routes = laptop.fleets.counters[ENDPOINT], laptop.fleets.counters[SCOPE]

        laptop.put(
            admitted(
                m.policy("BackendTrafficPolicy", "all", "timeout: {http: {requestTimeout: 9s}}", "Gateway/eg")
            )
        )
        slices = laptop.slices
        await until(lambda: laptop.slices > slices, pause_s=0)
        before, routes_before = sent.resources, routes.resources
        moved = worlds.endpoint_slice(987, last_octet=99)
        laptop.put({moved.ref: moved})
        await until(lambda: sent.resources > before, pause_s=0)

        assert (sent.resources, routes.resources) == (before + 1, routes_before)
        await laptop.served(timeout_s=60)
        assert routes.resources > routes_before, "the routes were still to be recomputed"
