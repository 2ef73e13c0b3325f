"""Who is served where: hostnames, ports, certificates, and which routes a listener takes."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.callers import Place
from tests.e2e.conftest import Site, reference
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


def http(name: str, port: int, hostname: str = "", more: str = "") -> str:
    """A listener, in YAML."""
    return f"{{name: {name}, port: {port}, protocol: HTTP{named(hostname)}{more}}}"


def https(name: str, port: int, secrets: str, hostname: str = "") -> str:
    """A listener with TLS, in YAML; ``secrets`` are names of Secrets."""
    refs = ", ".join(f"{{name: {each}}}" for each in secrets.split())
    tls = f"tls: {{certificateRefs: [{refs}]}}"
    return f"{{name: {name}, port: {port}, protocol: HTTPS{named(hostname)}, {tls}}}"


def named(hostname: str) -> str:
    return f", hostname: '{hostname}'" if hostname else ""


def at(gateway: str, section: str = "") -> str:
    """``parentRefs``, in YAML."""
    return f"[{{name: {gateway}{f', sectionName: {section}' if section else ''}}}]"


@asynccontextmanager
async def tls(
    site: Site, port: int, name: str, *alpn: str
) -> AsyncGenerator[tuple[str | None, ssl.SSLObject]]:
    """A TLS connection that asks for ``name``: the chosen ALPN protocol, and the connection."""
    context = site.authority.client_context(*alpn)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        tls_object: Any = writer.get_extra_info("ssl_object")
        yield tls_object.selected_alpn_protocol(), tls_object
    finally:
        writer.close()


def serial(connection: ssl.SSLObject) -> int:
    """The number of the certificate that the gateway showed."""
    certificate = connection.getpeercert()
    assert certificate is not None
    return int(str(certificate["serialNumber"]), 16)


async def test_a_route_serves_where_its_hostnames_and_the_listeners_meet(site: Site) -> None:
    port = free_port()
    await site.apply(
        m.gateway("meet", f"[{http('http', port, '*.meet.test')}]"),
        m.route(
            "meet",
            f"[{{{m.to('one')}}}]",
            parents=at("meet"),
            hostnames=("a.meet.test", "*.b.meet.test", "other.test"),
        ),
    )

    hosts = ("a.meet.test", "x.b.meet.test", "y.x.b.meet.test", "b.meet.test", "c.meet.test", "other.test")
    statuses = {host: await site.status(host, port=port) for host in hosts}

    assert statuses == {**dict.fromkeys(hosts[:3], 200), **dict.fromkeys(hosts[3:], 404)}


@pytest.mark.parametrize("after", ["renamed", "behind-another", "alone"])
async def test_a_policy_holds_for_connections_that_are_older_than_their_listener(
    site: Site, after: str
) -> None:
    """Envoy lets them live on for minutes after a listener was replaced, with the routes that it had."""
    name, port = f"old-{after}", free_port()
    own, other = http("http", port), http("other", port, "other.test")
    before = f"[{other}, {own}]" if after == "alone" else f"[{own}]"
    changed = {
        "renamed": f"[{http('web', port)}]",
        "behind-another": f"[{other}, {own}]",
        "alone": f"[{own}]",
    }
    await site.apply(m.gateway(name, before), m.route(name, f"[{{{m.to('one')}}}]", parents=at(name)))
    async with (
        httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as idle,
        httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as busy,
    ):
        for client in (idle, busy):
            assert await site.status(f"{name}.test", port=port, client=client) == 200

        await site.apply(m.gateway(name, changed[after]))
        # It is closed after this answer, as its listener drains; the other one stays open.
        assert await site.status(f"{name}.test", port=port, client=busy) == 200

        body = "basicAuth: {users: {name: none}}"
        await site.apply(m.policy("SecurityPolicy", name, body, f"HTTPRoute/{name}"))
        assert await site.status(f"{name}.test", port=port, client=idle) == 500


async def test_a_route_without_hostnames_serves_those_of_the_listener(site: Site) -> None:
    port = free_port()
    document = m.route("bare", f"[{{{m.to('one')}}}]", parents=at("bare"))
    del document["spec"]["hostnames"]
    await site.apply(m.gateway("bare", f"[{http('http', port, 'bare.test')}]"), document)

    assert await site.status("bare.test", port=port) == 200
    assert await site.status("other.test", port=port) == 404


async def test_a_hostname_matches_with_a_port_and_without_regard_to_case(site: Site) -> None:
    await site.apply(m.route("port", f"[{{{m.to('one')}}}]"))

    assert await site.status("port.test:8080") == 200
    assert await site.status("PORT.test") == 200


async def test_the_more_specific_hostname_wins(site: Site) -> None:
    await site.apply(
        m.route("wide", f"[{{{m.to('one')}}}]", hostnames=("*.wide.test",)),
        m.route("narrow", f"[{{{m.to('two')}}}]", hostnames=("*.b.wide.test",)),
        m.route("own", f"[{{{m.to('three')}}}]", hostnames=("a.b.wide.test",)),
    )

    hosts = ("x.wide.test", "x.b.wide.test", "a.b.wide.test")
    assert [(await site.reached(host)).by for host in hosts] == ["one", "two", "three"]


async def test_listeners_of_a_port_are_apart_by_hostname(site: Site) -> None:
    """What the most specific listener does not serve, no other listener of the port serves in its place."""
    port = free_port()
    await site.apply(
        m.gateway(
            "apart",
            f"[{http('any', port)}, {http('wild', port, '*.apart.test')},"
            f" {http('own', port, 'a.apart.test')}]",
        ),
        m.route("apart-any", f"[{{{m.to('one')}}}]", parents=at("apart", "any"), hostnames=("*.test",)),
        m.route(
            "apart-wild", f"[{{{m.to('two')}}}]", parents=at("apart", "wild"), hostnames=("*.apart.test",)
        ),
        m.route(
            "apart-own",
            f"[{{matches: [{{path: {{value: /own}}}}], {m.to('three')}}}]",
            parents=at("apart", "own"),
            hostnames=("a.apart.test",),
        ),
    )

    assert (await site.reached("b.test", port=port)).by == "one"
    assert (await site.reached("x.apart.test", port=port)).by == "two"
    assert (await site.reached("a.apart.test", "/own", port=port)).by == "three"
    assert await site.status("a.apart.test", "/other", port=port) == 404


async def test_a_hostname_belongs_to_the_narrowest_listener_also_without_routes(site: Site) -> None:
    port = free_port()
    await site.apply(
        m.gateway("left", f"[{http('any', port)}, {http('wild', port, '*.left.test')}]"),
        m.route(
            "left", f"[{{{m.to('one')}}}]", parents=at("left", "any"), hostnames=("*.test", "a.left.test")
        ),
    )

    assert await site.status("x.left.test", port=port) == 404
    assert await site.status("a.left.test", port=port) == 404
    assert await site.status("x.test", port=port) == 200


async def test_listeners_of_several_ports_serve_their_own_routes(site: Site) -> None:
    left, right = free_port(), free_port()
    await site.apply(
        m.gateway("ports", f"[{http('left', left)}, {http('right', right)}]"),
        m.route("left-port", f"[{{{m.to('one')}}}]", parents=at("ports", "left"), hostnames=("ports.test",)),
        m.route(
            "right-port", f"[{{{m.to('two')}}}]", parents=at("ports", "right"), hostnames=("ports.test",)
        ),
    )

    assert (await site.reached("ports.test", port=left)).by == "one"
    assert (await site.reached("ports.test", port=right)).by == "two"


@asynccontextmanager
async def connection(port: int) -> AsyncGenerator[Callable[[], Awaitable[bytes]]]:
    """One connection of HTTP/1.1, and what asks over it: the first line of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask() -> bytes:
        writer.write(b"GET / HTTP/1.1\r\nhost: moved.test\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        return head.partition(b"\r\n")[0]

    try:
        yield ask
    finally:
        writer.close()


async def test_a_route_may_ask_for_the_listeners_of_a_port(site: Site) -> None:
    one, two = free_port(), free_port()
    listeners = ", ".join(f"{{name: p{port}, port: {port}, protocol: HTTP}}" for port in (one, two))
    await site.apply(
        m.gateway("by-port", f"[{listeners}]"),
        m.route("by-port", f"[{{{m.to('one')}}}]", parents=f"[{{name: by-port, port: {two}}}]"),
    )

    assert await site.status("by-port.test", port=one) == 404
    assert await site.status("by-port.test", port=two) == 200


async def test_an_open_listener_gets_another_address_and_keeps_its_connections(site: Site) -> None:
    """Envoy has the address open that stays, so it takes no listener with that and another one."""
    port = free_port()
    listeners = f"[{http('moved', port)}]"
    one, both = (
        m.gateway("moved", listeners, addresses=[{"type": "IPAddress", "value": each} for each in addresses])
        for addresses in (["127.0.0.1"], ["127.0.0.1", "127.0.0.2"])
    )
    await site.apply(one, m.route("moved", f"[{{{m.to('one')}}}]", parents=at("moved")))
    async with connection(port) as ask:
        assert await ask() == b"HTTP/1.1 200 OK"
        for gateway, hosts in ((both, ("127.0.0.1", "127.0.0.2")), (one, ("127.0.0.1",))):
            await site.apply(gateway)
            assert site.conditions(gateway)["Programmed"]["status"] == "True"
            for host in hosts:
                answer = await site.client.get(f"http://{host}:{port}/", headers={"host": "moved.test"})
                assert answer.status_code == 200
            if gateway is both:
                assert await ask() == b"HTTP/1.1 200 OK"
    await site.delete(one)


async def test_listeners_exchange_their_ports(site: Site) -> None:
    """Each meets the other, and neither can go first."""
    ports = free_port(), free_port()
    for left, right in (ports, ports[::-1]):
        gateway = m.gateway("exchanged", f"[{http('left', left)}, {http('right', right)}]")
        await site.apply(
            gateway,
            *(
                m.route(
                    f"{side}-side", f"[{{{m.to(to)}}}]", parents=at("exchanged", side), hostnames=("x.test",)
                )
                for side, to in (("left", "one"), ("right", "two"))
            ),
        )
        assert site.conditions(gateway)["Programmed"]["status"] == "True"
        async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as anew:
            assert (await site.reached("x.test", port=left, client=anew)).by == "one"
            assert (await site.reached("x.test", port=right, client=anew)).by == "two"
    await site.delete(gateway)


async def test_a_listener_takes_the_port_that_another_leaves_at_the_same_time(site: Site) -> None:
    """The other one must not wait for anything that comes only after both."""
    first, second = free_port(), free_port()
    routes = [
        m.route(f"{side}-port", f"[{{{m.to(to)}}}]", parents=at("left", side), hostnames=("x.test",))
        for side, to in (("left", "one"), ("right", "two"))
    ]
    await site.apply(m.gateway("left", f"[{http('left', first)}]"), *routes)
    gateway = m.gateway("left", f"[{http('left', second)}, {http('right', first)}]")
    await site.apply(gateway)

    assert site.conditions(gateway)["Programmed"]["status"] == "True"
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as anew:
        assert (await site.reached("x.test", port=second, client=anew)).by == "one"
        assert (await site.reached("x.test", port=first, client=anew)).by == "two"
    await site.delete(gateway, *routes)


async def test_a_listener_takes_routes_of_namespaces_by_their_labels(site: Site) -> None:
    """Also when a label comes and goes later."""
    port = free_port()
    allowed = ", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: shop}}}}"
    parents = "[{name: labels, namespace: default}]"
    rules = "[{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: here}]}]"
    await site.apply(
        m.namespace("in", team="shop"),
        m.namespace("out", team="other"),
        m.gateway("labels", f"[{http('http', port, '', allowed)}]"),
        *(m.local("here", site.one.port, namespace=each) for each in ("in", "out")),
        m.route("in", rules, namespace="in", parents=parents),
        outside := m.route("out", rules, namespace="out", parents=parents),
    )

    assert await site.status("in.test", port=port) == 200
    assert await site.status("out.test", port=port) == 404
    assert site.conditions(outside)["Accepted"]["reason"] == "NotAllowedByListeners"

    await site.apply(m.namespace("out", team="shop"), m.namespace("in", team="other"))

    assert await site.status("in.test", port=port) == 404
    assert await site.status("out.test", port=port) == 200


async def test_https_is_served_over_http1_and_http2(site: Site) -> None:
    port, certificate = free_port(), site.authority.sign("tls.test")
    await site.apply(
        certificate.secret("tls"),
        m.gateway("tls", f"[{https('https', port, 'tls')}]"),
        m.route("tls", f"[{{{m.to('one')}}}]", parents=at("tls")),
    )
    context = site.authority.client_context()

    async with httpx.AsyncClient(verify=context, http2=True, trust_env=False, timeout=DEADLINE_S) as client:
        two = await site.ask("tls.test", port=port, tls=True, client=client)
    one = await site.ask("tls.test", port=port, tls=True)

    assert (two.http_version, two.status_code) == ("HTTP/2", 200)
    assert (one.http_version, one.status_code) == ("HTTP/1.1", 200)
    assert one.json()["by"] == "one"


async def test_http2_in_clear_text_is_served_with_prior_knowledge(site: Site) -> None:
    await site.apply(m.route("clear", f"[{{{m.to('one')}}}]"))

    async with httpx.AsyncClient(http1=False, http2=True, trust_env=False, timeout=DEADLINE_S) as client:
        answer = await site.ask("clear.test", client=client)

    assert (answer.http_version, answer.status_code) == ("HTTP/2", 200)


async def test_the_certificate_is_chosen_by_the_name_that_the_client_asks_for(site: Site) -> None:
    """By listeners of one port with a hostname each, and among several certificates of one listener."""
    port = free_port()
    sign = site.authority.sign
    certificates = {
        "a": sign("a.sni.test"),
        "wild": sign("*.sni.test"),
        "b": sign("b.test"),
        "c": sign("c.test"),
    }
    await site.apply(
        *(certificate.secret(f"sni-{name}") for name, certificate in certificates.items()),
        m.gateway(
            "sni",
            f"[{https('a', port, 'sni-a', 'a.sni.test')}, {https('wild', port, 'sni-wild', '*.sni.test')},"
            f" {https('rest', port, 'sni-b sni-c')}]",
        ),
        m.route("sni-a", f"[{{{m.to('one')}}}]", parents=at("sni", "a"), hostnames=("a.sni.test",)),
        m.route("sni-wild", f"[{{{m.to('two')}}}]", parents=at("sni", "wild"), hostnames=("*.sni.test",)),
        m.route(
            "sni-rest", f"[{{{m.to('three')}}}]", parents=at("sni", "rest"), hostnames=("b.test", "c.test")
        ),
    )

    shown: dict[str, int] = {}
    for name in ("a.sni.test", "x.sni.test", "b.test", "c.test"):
        async with tls(site, port, name) as (_, connection):
            shown[name] = serial(connection)
    hosts = ("a.sni.test", "x.sni.test", "b.test", "c.test")
    by = [(await site.reached(host, port=port, tls=True)).by for host in hosts]

    assert list(shown.values()) == [certificates[name].serial for name in ("a", "wild", "b", "c")]
    assert by == ["one", "two", "three", "three"]


async def test_bad_certificates_of_a_listener_cost_no_other_and_each_client_gets_its_kind(site: Site) -> None:
    """An RSA and an ECDSA certificate for one name, among others that cannot be served."""
    port, name = free_port(), "kinds.test"
    elliptic, rsa = site.authority.sign(name), site.authority.sign(name, rsa=True)
    broken = elliptic.secret("broken")
    broken["data"]["tls.crt"] = broken["data"]["tls.crt"][:200]
    bad: dict[str, dict[str, Any] | None] = {
        "no PEM block": broken,
        "has expired": site.authority.sign(name, days=1).secret("expired"),
        "does not belong to": elliptic._replace(key=rsa.key).secret("mismatched"),
        "it must be of type": {**elliptic.secret("typed"), "type": "Opaque"},
        "is a second RSA certificate": site.authority.sign(name, rsa=True).secret("second"),
        "does not exist": None,
    }
    refs = ["absent" if each is None else each["metadata"]["name"] for each in bad.values()]
    gateway = m.gateway("kinds", f"[{https('https', port, ' '.join(['rsa', *refs, 'elliptic']))}]")
    await site.apply(
        elliptic.secret("elliptic"),
        rsa.secret("rsa"),
        *(each for each in bad.values() if each is not None),
        gateway,
        m.route("kinds", f"[{{{m.to('one')}}}]", parents=at("kinds")),
    )

    served: list[int] = []
    for ciphers in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"):
        context = site.authority.client_context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        served.append(serial(writer.get_extra_info("ssl_object")))
        writer.close()

    assert served == [elliptic.serial, rsa.serial]
    published = site.laptop.statuses.document(reference(gateway))
    assert published is not None
    conditions = {c["type"]: c for c in published["status"]["listeners"][0]["conditions"]}
    assert conditions["Programmed"]["status"] == "True"
    assert conditions["ResolvedRefs"]["reason"] == "PartiallyInvalidCertificateRef"
    faults = conditions["ResolvedRefs"]["message"].split("tls.certificateRefs")[1:]
    assert [[words for words in bad if words in fault] for fault in faults] == [[words] for words in bad]


@pytest.mark.parametrize("http2", [True, False], ids=["http2", "http1"])
async def test_a_connection_is_reused_for_no_other_listener(site: Site, *, http2: bool) -> None:
    """Its certificate covers both names, but routes and policies are those of its own listener."""
    port, certificate = free_port(), site.authority.sign("a.misdirected.test", "b.misdirected.test")
    await site.apply(
        certificate.secret("misdirected"),
        m.gateway(
            "misdirected",
            f"[{https('a', port, 'misdirected', 'a.misdirected.test')},"
            f" {https('wild', port, 'misdirected', '*.misdirected.test')}]",
        ),
        m.route(
            "misdirected",
            f"[{{{m.to('one')}}}]",
            parents=at("misdirected"),
            hostnames=("*.misdirected.test",),
        ),
    )
    asked = {
        "a.misdirected.test": 200,
        "b.misdirected.test": 421,
        "other.test": 404,
        "A.MISDIRECTED.TEST": 200,
    }

    connection = await Place(port, "a.misdirected.test").connect(http2=http2)
    answered = {host: (await connection.ask(host, {}))[0] for host in asked}
    connection.close()
    wild = await Place(port, "b.misdirected.test").connect(http2=http2)
    answered_wild = [(await wild.ask(host, {}))[0] for host in ("b.misdirected.test", "a.misdirected.test")]
    wild.close()

    assert answered == asked
    assert answered_wild == [200, 421]


async def test_a_certificate_is_replaced_without_closing_a_connection(site: Site) -> None:
    port, old, new = free_port(), site.authority.sign("rotate.test"), site.authority.sign("rotate.test")
    await site.apply(
        old.secret("rotate"),
        m.gateway("rotate", f"[{https('https', port, 'rotate')}]"),
        m.route("rotate", f"[{{{m.to('one')}}}]", parents=at("rotate")),
    )
    context = site.authority.client_context()
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="rotate.test"
    )
    await over(reader, writer)

    await site.apply(new.secret("rotate"))

    await over(reader, writer)
    assert serial(writer.get_extra_info("ssl_object")) == old.serial
    writer.close()
    async with tls(site, port, "rotate.test") as (_, connection):
        assert serial(connection) == new.serial


async def over(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request over a connection that stays open."""
    writer.write(b"GET / HTTP/1.1\r\nhost: rotate.test\r\n\r\n")
    async with asyncio.timeout(DEADLINE_S):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        await reader.readexactly(int(lengths[0].partition(b":")[2]))


async def test_a_listener_without_its_certificate_says_so_and_the_others_serve(site: Site) -> None:
    port, open_ = free_port(), free_port()
    document = m.gateway("lacking", f"[{https('https', port, 'nowhere')}, {http('http', open_)}]")
    await site.apply(document, m.route("lacking", f"[{{{m.to('one')}}}]", parents=at("lacking")))

    published = site.laptop.statuses.document(reference(document))
    assert published is not None
    conditions = {c["type"]: c for c in published["status"]["listeners"][0]["conditions"]}
    assert conditions["ResolvedRefs"]["reason"] == "InvalidCertificateRef"
    assert await site.status("lacking.test", port=open_) == 200

    await site.apply(site.authority.sign("lacking.test").secret("nowhere"))

    assert await site.status("lacking.test", port=port, tls=True) == 200
