"""HTTP/3: a real client over QUIC, and which listeners it reaches."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from google.protobuf.wrappers_pb2 import StringValue
from msgspec import structs

from moongate.xds import listeners, quic
from moongate.xds.wire import encode, message_field, packed
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Request
from tests.e2e.callers import Http3
from tests.e2e.certificates import Authority
from tests.e2e.conftest import until
from tests.e2e.http3 import http3_get
from tests.ports import free_port

if TYPE_CHECKING:
    from moongate.xds.filter_chains import ChainSettings
    from moongate.xds.filters import ChainFilter
    from tests.e2e.conftest import Site

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

ONE, TWO = "one.quic.test", "two.quic.test"


def https(name: str, host: str, port: int) -> str:
    tls = f"{{certificateRefs: [{{name: {name}-cert}}]}}"
    return f"{{name: {name}, port: {port}, protocol: HTTPS, hostname: {host}, tls: {tls}}}"


def http3(name: str, target: str, more: str = "") -> dict[str, Any]:
    return m.policy("ClientTrafficPolicy", name, f"{{http3: {{}}{more}}}", target)


async def serve(site: Site, gateway: str, port: int) -> dict[str, Any]:
    """Two listeners of HTTPS on a port, each with its certificate, route and backend."""
    document = m.gateway(gateway, f"[{https('one', ONE, port)}, {https('two', TWO, port)}]")
    await site.apply(
        site.authority.sign(ONE).secret("one-cert"),
        site.authority.sign(TWO).secret("two-cert"),
        m.route(f"{gateway}-1", f"[{{{m.to('one')}}}]", hostnames=(ONE,), parents=f"[{{name: {gateway}}}]"),
        m.route(f"{gateway}-2", f"[{{{m.to('two')}}}]", hostnames=(TWO,), parents=f"[{{name: {gateway}}}]"),
        document,
    )
    return document


@pytest.mark.proves("ClientTrafficPolicy", "http3")
async def test_a_client_reaches_each_listener_by_its_name_over_http3(site: Site) -> None:
    port = free_port()
    gateway = await serve(site, "quic", port)
    policy = http3("quic", "Gateway/quic/one")
    await site.apply(policy)

    one = await http3_get(site.authority, port, ONE)
    two = await http3_get(site.authority, port, TWO)

    assert (one.status, two.status) == (200, 200)
    assert one.body != two.body
    assert site.conditions(policy)["Accepted"]["status"] == "True"
    await site.delete(policy, gateway)


async def test_a_certificate_may_have_a_key_of_another_curve(site: Site) -> None:
    """Envoy serves it to those who take such a signature; this client takes none of P-521."""
    port = free_port()
    gateway = await serve(site, "curves", port)
    policy = http3("curves", "Gateway/curves")
    larger = site.authority.sign(TWO, curve=ec.SECP521R1()).secret("two-cert")
    await site.apply(site.authority.sign(ONE, curve=ec.SECP384R1()).secret("one-cert"), larger, policy)

    assert (await http3_get(site.authority, port, ONE)).status == 200
    assert await site.status(TWO, port=port, tls=True) == 200
    with pytest.raises(ConnectionError, match="NO_COMMON_SIGNATURE_ALGORITHMS"):
        await http3_get(site.authority, port, TWO)
    await site.delete(policy, gateway)


@pytest.mark.proves("ClientTrafficPolicy", "http3")
async def test_http3_comes_and_goes_beside_open_connections(site: Site) -> None:
    """The first policy leaves the listener that is there; clients learn of the other one by a header."""
    port = free_port()
    gateway = await serve(site, "comes", port)
    policy = http3("comes", "Gateway/comes")
    context = site.authority.client_context()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=ONE)

    async def head() -> str:
        writer.write(f"GET / HTTP/1.1\r\nhost: {ONE}\r\n\r\n".encode())
        text = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(line for line in text.split("\r\n") if line.startswith("content-length: "))
        await reader.readexactly(int(length.partition(": ")[2]))
        return text

    assert "alt-svc" not in await head()

    await site.apply(policy)
    assert f'alt-svc: h3=":{port}"; ma=86400' in await head()
    assert (await http3_get(site.authority, port, ONE)).status == 200

    await site.delete(policy)
    assert "alt-svc" not in await head()
    with pytest.raises((ConnectionError, TimeoutError)):
        await http3_get(site.authority, port, ONE, patience_s=0.4)
    writer.close()
    await site.delete(gateway)


async def test_a_gateway_that_takes_a_port_has_http3_when_the_former_one_has_drained(site: Site) -> None:
    """Both Envoys have the port of UDP open until then; HTTPS goes over without a pause."""
    port = free_port()
    proxy = m.policy("EnvoyProxy", "hasty", "{shutdown: {drainTimeout: 1s}}")
    del proxy["spec"]["targetRefs"]
    ref = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "hasty"}
    listeners = f"[{https('one', ONE, port)}]"
    former = m.gateway("former", listeners, infrastructure={"parametersRef": ref})
    first = m.gateway("first", listeners)
    policies = (http3("former", "Gateway/former"), http3("first", "Gateway/first"))
    parents = "[{name: former}, {name: first}]"
    await site.apply(
        site.authority.sign(ONE).secret("one-cert"),
        m.route("taking", f"[{{{m.to('one')}}}]", hostnames=(ONE,), parents=parents),
        proxy,
        former,
        *policies,
    )
    assert (await http3_get(site.authority, port, ONE)).status == 200

    await site.apply(first)

    assert site.conditions(former)["Programmed"]["status"] == "False"
    assert "the Envoy of default/former has" in site.of_listener(first, "one")["PortShared"]
    assert await site.status(ONE, port=port, tls=True) == 200
    answer = None
    async with asyncio.timeout(DEADLINE_S):
        while answer is None:
            with suppress(TimeoutError):
                answer = await http3_get(site.authority, port, ONE, patience_s=0.5)
    assert answer.status == 200
    await until(lambda: "PortShared" not in site.of_listener(first, "one"))
    await site.delete(*policies, former, first, proxy)


async def test_a_listener_that_checks_its_clients_is_not_reached_over_http3(site: Site) -> None:
    """Its neighbour has HTTP/3, and must be no way around the certificate."""
    port = free_port()
    gateway = await serve(site, "guarding", port)
    ours = Authority("ours")
    validation = ", tls: {clientValidation: {caCertificateRefs: [{kind: ConfigMap, name: quic-ca}]}}"
    guarded = http3("guarded", "Gateway/guarding/one", validation)
    await site.apply(m.authorities("quic-ca", ours.pem), guarded, http3("open", "Gateway/guarding/two"))

    assert (await http3_get(site.authority, port, TWO)).status == 200
    assert (await http3_get(site.authority, port, ONE, asking_for=TWO)).status in (404, 421)
    with pytest.raises((ConnectionError, TimeoutError)):
        await http3_get(site.authority, port, ONE, patience_s=0.4)

    conditions = site.conditions(guarded)
    assert conditions["Accepted"]["status"] == "True"
    assert conditions["Warning"]["reason"] == "UnsupportedHTTP3ClientValidation"
    await site.delete(guarded, http3("open", "Gateway/guarding/two"), gateway)


async def test_a_wider_neighbour_does_not_serve_the_hostname_of_a_listener_that_checks_its_clients(
    site: Site,
) -> None:
    port = free_port()
    listeners = (https("one", ONE, port), https("two", "'*.quic.test'", port))
    document = m.gateway("wide", f"[{', '.join(listeners)}]")
    ours = Authority("ours")
    validation = ", tls: {clientValidation: {caCertificateRefs: [{kind: ConfigMap, name: quic-ca}]}}"
    policies = (http3("narrow", "Gateway/wide/one", validation), http3("wide", "Gateway/wide/two"))
    await site.apply(
        site.authority.sign(ONE).secret("one-cert"),
        site.authority.sign("*.quic.test").secret("two-cert"),
        m.route("wide", f"[{{{m.to('one')}}}]", hostnames=("*.quic.test",), parents="[{name: wide}]"),
        m.authorities("quic-ca", ours.pem),
        document,
        *policies,
    )

    assert (await http3_get(site.authority, port, TWO)).status == 200
    assert (await http3_get(site.authority, port, ONE)).status in (404, 421)
    await site.delete(*policies, document)


async def test_connections_are_limited_over_quic_by_themselves(site: Site) -> None:
    port = free_port()
    gateway = await serve(site, "limited", port)
    policy = http3("limited", "Gateway/limited", ", connection: {connectionLimit: {value: 1}}")
    await site.apply(policy)

    first = await Http3.to(port, ONE, authorities=site.authority.pem)
    assert (await first.ask(ONE, {}))[0] == 200
    with pytest.raises((ConnectionError, TimeoutError)):
        await http3_get(site.authority, port, ONE, patience_s=0.4)
    assert await site.status(ONE, port=port, tls=True) == 200

    first.close()
    await first.wait_closed()
    await site.delete(policy, gateway)


@pytest.mark.parametrize("mode", ["", "ForwardOnly", "AppendForward", "SanitizeSet"])
async def test_a_client_over_http3_cannot_say_whose_certificate_it_has(site: Site, mode: str) -> None:
    """It shows none, so no mode that asks for one on the connection passes such a header on."""
    port = free_port()
    gateway = await serve(site, "saying", port)
    details = f", headers: {{xForwardedClientCert: {{mode: {mode}}}}}" if mode else ""
    policy = http3("saying", "Gateway/saying", details)
    await site.apply(policy)
    said = {"x-forwarded-client-cert": "Hash=0", "x-envoy-retry-on": "5xx", "x-forwarded-for": "10.0.0.1"}

    client = await Http3.to(port, ONE, authorities=site.authority.pem)
    status, _ = await client.ask(ONE, said)
    client.close()
    await client.wait_closed()

    received = dict(msgspec.json.decode(client.body, type=Request).headers)
    assert status == 200
    assert received.keys().isdisjoint({"x-forwarded-client-cert", "x-envoy-retry-on"})
    assert received["x-forwarded-for"].startswith("10.0.0.1,")
    await site.delete(policy, gateway)


async def test_nobody_passes_where_envoy_refuses_a_chain_over_quic_alone_and_https_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its former chain lacks the filter that asks who calls."""
    build = quic.quic_settings

    def broken(settings: ChainSettings, filters: tuple[ChainFilter, ...]) -> ChainSettings | None:
        """The settings with a network filter that Envoy does not know, where the chain asks who calls."""
        built = build(settings, filters)
        if built is None or not any(b"x-user" in one.body for one in filters):
            return built
        unknown = Filter(name="no.such.filter", typed_config=packed(StringValue(value="x")))
        chain = built.chain + message_field(FilterChain.FILTERS_FIELD_NUMBER, encode(unknown))
        return structs.replace(built, chain=chain)

    for module in (quic, listeners):
        monkeypatch.setattr(module, "quic_settings", broken)
    port = free_port()
    gateway = await serve(site, "broken", port)
    policy = http3("broken", "Gateway/broken")
    await site.apply(m.secret("users", _htpasswd="ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n"), policy)
    old = await Http3.to(port, ONE, authorities=site.authority.pem)
    assert (await old.ask(ONE, {}))[0] == 200
    asking = "{basicAuth: {users: {name: users}, forwardUsernameHeader: x-user}}"
    auth = m.policy("SecurityPolicy", "broken", asking, "HTTPRoute/broken-1")

    await site.apply(auth)

    assert await site.status(ONE, port=port, tls=True) == 401
    assert (await http3_get(site.authority, port, TWO)).status == 200
    # The last good settings stand in there, with the filter.
    assert (await http3_get(site.authority, port, ONE)).status == 401
    assert (await old.ask(ONE, {}))[0] == 500
    [refusal] = site.laptop.fleets.refusals()
    assert refusal.what == "filter chain default/broken/one of listener default/broken/one-quic"
    assert [listener.name for listener in refusal.listeners] == ["one"]
    old.close()
    await old.wait_closed()

    await site.delete(auth)
    assert (await http3_get(site.authority, port, ONE)).status == 200
    assert site.laptop.fleets.refusals() == ()
    await site.delete(policy, gateway)
