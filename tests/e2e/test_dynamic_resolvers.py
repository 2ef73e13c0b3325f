"""Requests that say themselves where they go, and where they must not get by that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from msgspec import structs

from moongate.api.envoygateway import EnvoyGateway, RuntimeFlags
from tests.e2e import manifests as m
from tests.e2e.backends import EchoOverHttp2, EchoOverTls
from tests.e2e.conftest import Site, open_site
from tests.e2e.lines import asked, serving_lines
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path
    from typing import Any

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


def resolver(name: str, **more: Any) -> m.Document:
    """A Backend of type DynamicResolver."""
    document = m.backend(name, type="DynamicResolver", **more)
    del document["spec"]["endpoints"]
    return document


def to_any_host(name: str, path: str, *, filters: str = "", backend: str = "any") -> m.Document:
    """A route for all hostnames."""
    route = m.route(name, f"[{{matches: [{{path: {{value: {path}}}}}], {filters}{m.to(backend)}}}]")
    del route["spec"]["hostnames"]
    return route


def extension(name: str) -> str:
    """A filter of a rule, in YAML: an HTTPRouteFilter."""
    ref = f"{{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: {name}}}"
    return f"{{type: ExtensionRef, extensionRef: {ref}}}"


def rewrite(hostname: str) -> str:
    """The ``filters`` of a rule, in YAML: the host is taken from somewhere, by an HTTPRouteFilter."""
    return f"filters: [{extension(hostname)}], "


def literal(hostname: str) -> str:
    return f"filters: [{{type: URLRewrite, urlRewrite: {{hostname: {hostname}}}}}], "


FROM_HEADER = m.http_route_filter("from-header", "{urlRewrite: {hostname: {type: Header, header: x-where}}}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lenient() -> AsyncGenerator[Site]:
    """A gateway whose configuration lets clients reach its own machine, as the hosts of tests are there."""
    shipped = EnvoyGateway.shipped()
    enabled = (*shipped.runtime_flags.enabled, "DynamicResolverLocalAddresses")
    config = structs.replace(shipped, runtime_flags=RuntimeFlags(enabled=enabled))
    async with open_site(config=config) as at:
        await at.apply(resolver("any"), to_any_host("any", "/"))
        yield at


async def test_a_request_goes_to_the_host_that_it_names(lenient: Site) -> None:
    for host, echo in (
        ("localhost", lenient.one),
        ("a.localhost", lenient.two),
        ("127.0.0.1", lenient.three),
    ):
        request = await lenient.reached(f"{host}:{echo.port}")
        assert (request.by, request.header("host")) == (echo.name, f"{host}:{echo.port}")


async def test_the_host_may_be_taken_from_a_header(lenient: Site) -> None:
    await lenient.apply(FROM_HEADER, to_any_host("of-header", "/header", filters=rewrite("from-header")))

    for echo in (lenient.one, lenient.two):
        where = f"a.localhost:{echo.port}"
        request = await lenient.reached("public.test", "/header", headers={"x-where": where})
        assert (request.by, request.header("host")) == (echo.name, where)


async def test_a_resolver_speaks_http2_and_tls_to_the_host_that_is_named(
    lenient: Site, tmp_path: Path
) -> None:
    secure = EchoOverTls("secure", tmp_path)
    secure.show(lenient.authority.sign("a.localhost"))
    async with EchoOverHttp2("h2c").serving() as h2c, secure.serving():
        await lenient.apply(
            m.authorities("ours", lenient.authority.pem),
            resolver("h2c", appProtocols=["gateway.envoyproxy.io/h2c"]),
            to_any_host("h2c", "/h2c", backend="h2c"),
            resolver(
                "secure", tls={"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ours"}]}
            ),
            to_any_host("secure", "/secure", backend="secure"),
        )

        assert (await lenient.reached(f"localhost:{h2c.port}", "/h2c")).version == "2"
        assert (await lenient.reached(f"a.localhost:{secure.port}", "/secure")).by == "secure"
        assert secure.asked[-1] == "a.localhost"
        # The certificate must be for the host that the request names.
        assert await lenient.status(f"b.localhost:{secure.port}", "/secure") == 503


async def test_no_host_that_a_client_chooses_gets_a_credential(lenient: Site) -> None:
    """The author of the route has to say which hosts may."""
    rule = "{{matches: [{{path: {{value: /token}}}}], filters: [{}], {}}}"
    token, header = (extension(name) for name in ("token", "from-header"))
    own = ("a.localhost",)
    await lenient.apply(
        m.secret("token", credential="Bearer inside"),
        m.http_route_filter("token", "{credentialInjection: {credential: {valueRef: {name: token}}}}"),
        FROM_HEADER,
    )
    where = f"a.localhost:{lenient.two.port}"

    async def asked(filters: str, hostnames: tuple[str, ...], *, of_backend: str = "") -> int:
        ref = f"backendRefs: [{m.backend_ref('any').removesuffix('}')}, filters: [{of_backend}]}}]"
        route = m.route("token", f"[{rule.format(filters, ref)}]", hostnames=hostnames)
        await lenient.apply(route)
        return await lenient.status(where, "/token", headers={"x-where": where})

    assert await asked(token, own) == 200
    assert lenient.two.requests[-1].header("authorization") == "Bearer inside"
    lenient.two.forget()
    assert await asked(f"{token}, {header}", own) == 500
    assert await asked(token, ("*.localhost",)) == 500
    assert await asked("", ("*.localhost",), of_backend=token) == 500
    assert lenient.two.requests == []
    await lenient.delete(m.route("token", "[]"))


LOCAL = (
    "localhost",
    "LOCALHOST",
    "a.localhost",
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "169.254.169.254",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "100.100.100.200",
)
"""Hosts that lead to the proxy's own machine, or to what is there for it alone."""
NO_HOST = ("2130706433", "0x7f000001", "127.1", "x@127.0.0.1", "127.0.0.1%00", "[::1%25lo]", "@shop")
"""What other programs may take for such a host, and Envoy looks up as a name that nobody has."""


async def test_no_spelling_of_a_local_address_leads_there(site: Site) -> None:
    await site.apply(resolver("any"), to_any_host("any", "/"), FROM_HEADER)
    await site.apply(to_any_host("header", "/header", filters=rewrite("from-header")))

    for host in LOCAL:
        for port in (site.one.port, site.port):
            assert (host, await site.status(f"{host}:{port}")) == (host, 403)
        where = {"x-where": f"{host}:{site.one.port}"}
        assert (host, await site.status("public.test", "/header", headers=where)) == (host, 403)
    upgrade = {"connection": "upgrade", "upgrade": "websocket"}
    assert await site.status(f"localhost:{site.one.port}", headers=upgrade) == 403
    for host in NO_HOST:
        assert (host, await site.status(f"{host}:{site.one.port}")) == (host, 503)
    for host in ("unix:///run/envoy.sock", "unix:/run/envoy.sock"):
        assert (host, await site.status(host)) == (host, 400)

    assert site.one.requests == []


async def test_calls_of_grpc_are_guarded_as_well(site: Site) -> None:
    route = m.grpc_route("calls", f"[{{{m.to('any')}}}]", hostnames=("localhost",))
    await site.apply(resolver("any"), route)

    answer = await site.ask(
        f"localhost:{site.one.port}",
        "/a.B/C",
        method="POST",
        headers={"content-type": "application/grpc", "te": "trailers"},
    )

    assert answer.headers["grpc-status"] == "7"  # PERMISSION_DENIED
    assert site.one.requests == []


async def test_a_hostname_that_the_route_names_itself_may_lead_anywhere(site: Site) -> None:
    """Nobody but the author of the route says where its requests go; port 80 answers nobody here."""
    await site.apply(resolver("any"), to_any_host("own", "/own", filters=literal("localhost")))

    assert await site.status("public.test", "/own") == 503

    await site.apply(to_any_host("own", "/own"))

    assert await site.status(f"localhost:{site.one.port}", "/own") == 403


async def test_a_resolver_beside_other_backends_is_refused(site: Site) -> None:
    route = m.route("beside", f"[{{{m.to('any', 'one')}}}]")
    await site.apply(resolver("any"), route)

    assert await site.status("beside.test") == 500
    resolved = site.conditions(route)["ResolvedRefs"]
    assert (resolved["status"], resolved["reason"]) == ("False", "InvalidBackendRef")


async def test_nothing_is_copied_to_a_resolver(site: Site) -> None:
    """The copy has no client that the guard could judge."""
    ref = "{group: gateway.envoyproxy.io, kind: Backend, name: any}"
    mirror = f"filters: [{{type: RequestMirror, requestMirror: {{backendRef: {ref}}}}}]"
    route = m.route("copied", f"[{{{mirror}, {m.to('one')}}}]", hostnames=("localhost",))
    await site.apply(resolver("any"), route)

    assert (await site.reached(f"localhost:{site.two.port}")).by == "one"
    assert site.conditions(route)["ResolvedRefs"]["reason"] == "UnsupportedValue"
    assert site.two.requests == []


def at_port(port: int) -> m.Document:
    """A patch: connections go to another port than 443, which tests cannot open."""
    patch = {
        "type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "default/by-name/tls",
        "operation": {
            "op": "replace",
            "jsonPath": "$..filters[?(@.name == 'envoy.filters.network.sni_dynamic_forward_proxy')]",
            "path": "/typed_config/port_value",
            "value": port,
        },
    }
    return {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyPatchPolicy",
        "metadata": {"name": "at-port", "namespace": "default"},
        "spec": {
            "type": "JSONPatch",
            "targetRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "by-name"},
            "jsonPatches": [patch],
        },
    }


@pytest.mark.parametrize("guarded", [False, True])
async def test_connections_go_to_the_host_of_the_handshake_and_not_to_the_own_machine(
    lenient: Site, site: Site, *, guarded: bool
) -> None:
    at = site if guarded else lenient
    port, hosts = free_port(), ("a.localhost", "b.localhost")
    trusting = at.authority.client_context()
    async with serving_lines("inside", at.authority.sign(*hosts)) as inside:
        route = m.connections("TLSRoute", "by-name", "by-name", hostnames=("*.localhost",))
        tls = f"[{{name: tls, port: {port}, protocol: TLS, tls: {{mode: Passthrough}}}}]"
        await at.apply(resolver("by-name"), m.gateway("by-name", tls), route, at_port(inside))

        for host in hosts:
            assert await asked(port, trusting, host) == (None if guarded else "inside")

        # Another backend takes the place of all hosts, and gives it back.
        await at.apply(
            m.local("plain", inside),
            m.connections(
                "TLSRoute", "by-name", "plain", parents="[{name: by-name}]", hostnames=("*.localhost",)
            ),
        )
        assert await asked(port, trusting, "a.localhost") == "inside"
        await at.apply(route)
        assert await asked(port, trusting, "b.localhost") == (None if guarded else "inside")
