"""Routes that take connections: TCP, TLS passed on and ended here, and UDP."""

from __future__ import annotations

import os
import socket
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from moongate.infra.ports import PortError
from tests.e2e import manifests as m
from tests.e2e.conftest import Site, until
from tests.e2e.lines import asked, datagram, line_to, serving_datagrams, serving_lines
from tests.e2e.standstills import measures_time
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.e2e.certificates import Certificate

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


def tcp(name: str, port: int) -> str:
    """A listener, in YAML."""
    return f"{{name: {name}, port: {port}, protocol: TCP}}"


def udp(name: str, port: int) -> str:
    """A listener, in YAML."""
    return f"{{name: {name}, port: {port}, protocol: UDP}}"


def tls(name: str, port: int, hostname: str = "", secret: str = "") -> str:
    """A listener, in YAML, that passes TLS on if it has no Secret."""
    mode = f"{{certificateRefs: [{{name: {secret}}}]}}" if secret else "{mode: Passthrough}"
    named = f", hostname: '{hostname}'" if hostname else ""
    return f"{{name: {name}, port: {port}, protocol: TLS{named}, tls: {mode}}}"


@asynccontextmanager
async def lines(site: Site, *names: str, certificate: Certificate | None = None) -> AsyncGenerator[None]:
    """Backends of these names, with servers of lines behind them."""
    async with AsyncExitStack() as stack:
        for name in names:
            port = await stack.enter_async_context(serving_lines(name, certificate))
            await site.apply(m.local(name, port))
        yield


async def test_an_open_connection_outlives_a_change_of_backends(site: Site) -> None:
    """A change of the backends changes the cluster and no filter chain; a chain that changes is drained."""
    port = free_port()
    async with lines(site, "old", "new"):
        await site.apply(m.gateway("swap", f"[{tcp('tcp', port)}]"), m.connections("TCPRoute", "swap", "old"))
        async with line_to(port) as line:
            assert await line.ask("a") == "old:a"

            await site.apply(m.connections("TCPRoute", "swap", "new"))

            assert await asked(port) == "new"
            assert await line.ask("b") == "old:b"
    await site.delete(m.gateway("swap", "[]"))


async def test_a_route_appears_and_disappears_at_run_time(site: Site) -> None:
    port = free_port()
    gateway, route = m.gateway("ebb", f"[{tcp('tcp', port)}]"), m.connections("TCPRoute", "ebb", "tide")
    async with lines(site, "tide"):
        await site.apply(gateway)
        assert await asked(port) is None

        await site.apply(route)
        async with line_to(port) as line:
            assert await line.ask("1") == "tide:1"

            await site.delete(route)
            assert await asked(port) is None
            assert await line.ask("2") == "tide:2", "it has time to end"
    assert site.conditions(gateway)["Programmed"]["status"] == "True"


async def test_the_oldest_route_of_a_listener_gets_its_connections(site: Site) -> None:
    port = free_port()
    older = m.connections("TCPRoute", "older", "first", parents="[{name: two}]")
    younger = m.connections(
        "TCPRoute", "a-younger", "second", parents="[{name: two}]", created="2026-02-01T00:00:00Z"
    )
    async with lines(site, "first", "second"):
        await site.apply(m.gateway("two", f"[{tcp('tcp', port)}]"), older, younger)
        assert await asked(port) == "first"
        accepted = site.conditions(younger)["Accepted"]
        assert (accepted["status"], "TCPRoute default/older" in accepted["message"]) == ("True", True)

        await site.delete(older)
        assert await asked(port) == "second"


async def test_weights_divide_connections_and_a_broken_backend_gets_none(site: Site) -> None:
    port = free_port()
    route = m.connections("TCPRoute", "share", "many=3", "few", "none=0", "gone=5")
    async with lines(site, "many", "few", "none"):
        await site.apply(m.gateway("share", f"[{tcp('tcp', port)}]"), route)

        counts = Counter([await asked(port) for _ in range(160)])

    assert counts.keys() == {"many", "few"}
    assert counts["many"] > counts["few"]
    assert site.conditions(route)["ResolvedRefs"]["reason"] == "BackendNotFound"


async def test_tls_is_passed_on_by_the_narrowest_hostname(site: Site) -> None:
    """The client sees the certificate of the backend; another name is closed."""
    port, trusting = free_port(), site.authority.client_context()
    certificate = site.authority.sign("*.pass.test", "*.x.pass.test", "pass.test")
    parents = "[{name: pass}]"
    async with lines(site, "exact", "wild", "deep", certificate=certificate):
        await site.apply(
            m.gateway("pass", f"[{tls('tls', port)}]"),
            m.connections("TLSRoute", "exact", "exact", hostnames=("a.pass.test",), parents=parents),
            m.connections("TLSRoute", "wild", "wild", hostnames=("*.pass.test",), parents=parents),
            m.connections("TLSRoute", "deep", "deep", hostnames=("*.x.pass.test",), parents=parents),
        )

        hosts = ("a.pass.test", "b.pass.test", "c.x.pass.test", "pass.test")
        answers = [await asked(port, trusting, host) for host in hosts]
        assert answers == ["exact", "wild", "deep", None]

        # Envoy replaces the chains that differ, and leaves the connections of the others alone.
        async with line_to(port, trusting, "a.pass.test") as line:
            assert await line.ask("1") == "exact:1"
            await site.apply(
                m.connections("TLSRoute", "wild", "wild", hostnames=("b.pass.test",), parents=parents)
            )
            assert await asked(port, trusting, "d.pass.test") is None
            assert await line.ask("2") == "exact:2"


async def test_tls_ends_here_with_the_certificate_of_the_name(site: Site) -> None:
    port, trusting = free_port(), site.authority.client_context()
    secrets = {name: site.authority.sign(f"{name}.end.test") for name in ("a", "b")}
    wide = site.authority.sign("*.end.test")
    listeners = [
        *(tls(name, port, f"{name}.end.test", f"end-{name}") for name in secrets),
        tls("wide", port, "*.end.test", "end-wide"),
    ]
    async with lines(site, "plain-a", "plain-b", "plain-wide"):
        await site.apply(
            *(certificate.secret(f"end-{name}") for name, certificate in secrets.items()),
            wide.secret("end-wide"),
            m.gateway("end", f"[{', '.join(listeners)}]"),
            m.connections("TCPRoute", "end-a", "plain-a", parents="[{name: end, sectionName: a}]"),
            m.connections(
                "TLSRoute",
                "end-b",
                "plain-b",
                hostnames=("b.end.test",),
                parents="[{name: end, sectionName: b}]",
            ),
            m.connections(
                "TLSRoute",
                "end-wide",
                "plain-wide",
                hostnames=("c.end.test",),
                parents="[{name: end, sectionName: wide}]",
            ),
        )
        seen: dict[str, tuple[str | None, int]] = {}
        for name in ("a", "b", "c"):
            async with line_to(port, trusting, f"{name}.end.test") as line:
                shown = line.writer.get_extra_info("ssl_object").getpeercert()
                seen[name] = (await line.ask("x"), int(shown["serialNumber"], 16))
        other = await asked(port, trusting, "d.end.test")

    assert seen == {
        "a": ("plain-a:x", secrets["a"].serial),
        "b": ("plain-b:x", secrets["b"].serial),
        "c": ("plain-wide:x", wide.serial),
    }
    assert other is None


async def test_tls_and_https_share_a_port(site: Site) -> None:
    port, trusting = free_port(), site.authority.client_context()
    certificate = site.authority.sign("web.both.test")
    refs = "tls: {certificateRefs: [{name: both}]}"
    https = f"{{name: web, port: {port}, protocol: HTTPS, hostname: web.both.test, {refs}}}"
    async with lines(site, "raw", certificate=site.authority.sign("raw.both.test")):
        await site.apply(
            certificate.secret("both"),
            m.gateway("both", f"[{https}, {tls('tls', port, '*.both.test')}]"),
            m.route(
                "web.both", f"[{{{m.to('one')}}}]", parents="[{name: both}]", hostnames=("web.both.test",)
            ),
            m.connections("TLSRoute", "both", "raw", hostnames=("raw.both.test",)),
        )

        assert (await site.reached("web.both.test", port=port, tls=True)).by == "one"
        assert await asked(port, trusting, "raw.both.test") == "raw"
        assert await asked(port, trusting, "other.both.test") is None


async def test_tls_that_ends_here_and_tls_that_is_passed_on_share_a_port(site: Site) -> None:
    port, trusting = free_port(), site.authority.client_context()
    parents = "[{{name: mixed, sectionName: {}}}]"
    async with lines(site, "ended"), lines(site, "passed", certificate=site.authority.sign("b.mixed.test")):
        await site.apply(
            site.authority.sign("a.mixed.test").secret("mixed"),
            m.gateway(
                "mixed",
                f"[{tls('end', port, 'a.mixed.test', 'mixed')}, {tls('pass', port, 'b.mixed.test')}]",
            ),
            *(
                m.connections(
                    "TLSRoute", to, to, hostnames=(f"{name}.mixed.test",), parents=parents.format(section)
                )
                for name, section, to in (("a", "end", "ended"), ("b", "pass", "passed"))
            ),
        )

        assert await asked(port, trusting, "a.mixed.test") == "ended"
        assert await asked(port, trusting, "b.mixed.test") == "passed"


async def test_datagrams_and_connections_share_the_number_of_a_port(site: Site) -> None:
    port = free_port()
    listeners = f"[{tcp('tcp', port)}, {udp('udp', port)}]"
    async with (
        lines(site, "stream"),
        serving_datagrams("old-packet") as old,
        serving_datagrams("packet") as new,
    ):
        await site.apply(
            m.local("old-packet", old),
            m.local("packet", new),
            m.gateway("net", listeners),
            m.connections("TCPRoute", "net", "stream"),
            m.connections("UDPRoute", "net", "old-packet"),
        )
        assert await asked(port) == "stream"
        assert await datagram(port, "ping") == "old-packet:ping"

        await site.apply(m.connections("UDPRoute", "net", "packet"))
        assert await datagram(port, "ping") == "packet:ping"

        await site.delete(m.connections("UDPRoute", "net"))
        assert await datagram(port, "ping", wait_s=0.3) is None


@measures_time()
async def test_while_another_envoy_drains_a_port_of_udp_the_status_says_so(site: Site) -> None:
    """Packets go to either of them until then, and nothing else would say why some are lost.

    The drain time must not be over before that is seen.
    """
    port, more, other = free_port(), free_port(), free_port()
    proxy = m.policy("EnvoyProxy", "hasty", "{shutdown: {drainTimeout: 2s}}")
    del proxy["spec"]["targetRefs"]
    hasty = {"parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "hasty"}}
    async with serving_datagrams("packet") as packet:
        former = m.gateway("former", f"[{udp('udp', port)}]", infrastructure=hasty)
        moved = m.gateway("former", f"[{udp('udp', more)}]", infrastructure=hasty)
        taking = m.gateway("latter", f"[{udp('udp', port)}]")
        backend = m.local("packet", packet)
        routes = [m.connections("UDPRoute", name, "packet") for name in ("former", "latter")]
        await site.apply(proxy, former, m.gateway("latter", f"[{udp('udp', other)}]"), backend, *routes)
        assert await datagram(port, "ping") == "packet:ping"

        await site.apply(moved, taking)
        assert len(sockets_of_udp(port)) == 2
        message = site.of_listener(taking, "udp")["PortShared"]
        assert f"the Envoy of default/former has port {port} of UDP open, too" in message
        assert "shutdown.drainTimeout" in message
        assert "PortShared" not in site.of_listener(moved, "udp")

        await until(lambda: "PortShared" not in site.of_listener(taking, "udp"))
        assert len(sockets_of_udp(port)) == 1
        assert await datagram(port, "ping") == "packet:ping"
        await site.delete(moved, taking, proxy, backend, *routes)


def sockets_of_udp(port: int) -> set[str]:
    """The Envoys that have a port of UDP open."""
    lines = Path("/proc/net/udp").read_text(encoding="utf-8").splitlines()[1:]
    inodes = {
        f"socket:[{line.split()[9]}]" for line in lines if int(line.split()[1].split(":")[1], 16) == port
    }
    holders: set[str] = set()
    for each in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if str(each.readlink()) in inodes:
                holders.add(each.parts[2])
    return holders


async def test_a_port_of_udp_that_another_program_has_is_named(site: Site) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("0.0.0.0", 0))
        port = other.getsockname()[1]
        gateway = m.gateway("taken", f"[{udp('udp', port)}]")

        with pytest.raises(PortError, match=f"Port {port} of UDP is taken by .*process {os.getpid()}"):
            await site.apply(gateway)
    await site.delete(gateway)
