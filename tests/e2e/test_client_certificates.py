"""Certificates of clients: who passes at which port, and what becomes of connections when that changes."""

from __future__ import annotations

import asyncio
import socket
import ssl
from base64 import b64encode
from contextlib import asynccontextmanager
from hashlib import sha256
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from google.protobuf.wrappers_pb2 import StringValue
from msgspec import structs

from moongate.api.envoygateway import EnvoyGateway
from moongate.xds.filter_chains import demands_certificate
from moongate.xds.http_chains import https_settings
from moongate.xds.wire import LISTENER, SECRET, encode, message_field, packed
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.certificates import Authority, Certificate
from tests.e2e.conftest import Site, open_site
from tests.e2e.secret_server import SecretServer, served
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from moongate.attach.envoy_listeners import ChainGroup
    from moongate.engine import Db
    from moongate.xds.filter_chains import ChainSettings

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

HOST = "guarded.test"


class Answer(NamedTuple):
    """What a client got.

    Args:
        status: of HTTP; 0 if the connection was refused or closed instead.
        stays: whether the connection stays open after it.
    """

    status: int
    stays: bool = False


NOTHING = Answer(0)


class Client:
    """An open connection of HTTP/1.1 over TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, host: str = HOST) -> Answer:
        """One request."""
        try:
            self._writer.write(f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
            await self._writer.drain()
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
            await self._reader.readexactly(int(fields["content-length"]))
        except (OSError, asyncio.IncompleteReadError):
            # With TLS 1.3 a client hears only after the handshake that its certificate is refused.
            return NOTHING
        return Answer(int(head.split(" ")[1]), fields.get("connection") != "close")

    async def closed(self) -> None:
        """Return when the gateway has closed the connection."""
        async with asyncio.timeout(DEADLINE_S):
            assert await self._reader.read() == b""


class Clients:
    """Makes connections with and without certificates.

    Args:
        site: the gateway.
        folder: for certificates.
    """

    def __init__(self, site: Site, folder: Path) -> None:
        self._site = site
        self._folder = folder

    @asynccontextmanager
    async def connected(
        self, port: int, shown: Certificate | None = None, *, host: str = HOST
    ) -> AsyncGenerator[Client]:
        """A connection that shows a certificate, or none."""
        context = self._site.authority.client_context()
        if shown is not None:
            at = self._folder / f"{shown.serial}.pem"
            at.write_bytes(shown.pem + shown.key)
            context.load_cert_chain(at)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=host)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()

    async def ask(
        self, port: int, shown: Certificate | None = None, *, host: str = HOST, opened_for: str = ""
    ) -> int:
        """The status of a request on a new connection, perhaps for another name; 0 if there is none."""
        try:
            async with self.connected(port, shown, host=opened_for or host) as client:
                return (await client.ask(host)).status
        except (ssl.SSLError, ConnectionError):
            return 0


@pytest.fixture
def clients(site: Site, tmp_path: Path) -> Clients:
    return Clients(site, tmp_path)


def https(name: str, port: int) -> str:
    """A listener with the certificate for ``HOST``, in YAML."""
    return f"{{name: {name}, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: guarded}}]}}}}"


def asking(name: str, mode: str = "AllowValidOnly", kind: str = "ConfigMap") -> dict[str, Any]:
    """What asks clients for certificates of the authorities in a ConfigMap."""
    ref = {"group": "", "kind": kind, "name": name}
    return {"validation": {"caCertificateRefs": [ref], "mode": mode}}


def guarded(name: str, ports: list[int], default: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    """A Gateway with a listener for each port; ``perPort`` has entries by port."""
    per_port = [{"port": port, "tls": tls} for port, tls in more.pop("per_port", {}).items()]
    tls = {} if default is None else {"tls": {"frontend": {"default": default, "perPort": per_port}}}
    listeners = f"[{', '.join(https(f'at-{port}', port) for port in ports)}]"
    return m.gateway(name, listeners, **tls, **more)


async def serve(site: Site, name: str) -> None:
    """The certificate of the listeners, and a route for ``HOST``."""
    await site.apply(
        site.authority.sign(HOST).secret("guarded"),
        m.route(name, f"[{{{m.to('one')}}}]", hostnames=(HOST,), parents=f"[{{name: {name}}}]"),
    )


async def test_each_port_asks_for_certificates_of_its_own_authorities(site: Site, clients: Clients) -> None:
    ours, theirs = Authority("ours"), Authority("theirs")
    shown = {"none": None, "ours": ours.sign("a"), "theirs": theirs.sign("b")}
    default, other, any_, nobody = (free_port() for _ in range(4))
    gateway = guarded(
        "ports",
        [default, other, any_, nobody],
        asking("ours"),
        per_port={other: asking("theirs"), any_: asking("ours", "AllowInsecureFallback"), nobody: {}},
    )
    await serve(site, "ports")

    await site.apply(m.authorities("ours", ours.pem), m.authorities("theirs", theirs.pem), gateway)

    passed = {
        port: [name for name, each in shown.items() if await clients.ask(port, each) == 200]
        for port in (default, other, any_, nobody)
    }
    assert passed == {default: ["ours"], other: ["theirs"], any_: [*shown], nobody: [*shown]}
    conditions = site.conditions(gateway)
    assert conditions["ResolvedRefs"]["status"] == "True"
    assert conditions["InsecureFrontendValidationMode"]["status"] == "True"
    await site.delete(gateway)


async def test_without_its_authorities_a_port_is_closed_and_the_others_serve(
    site: Site, clients: Clients
) -> None:
    ours = Authority("ours")
    mine, missing = ours.sign("a"), free_port()
    port = free_port()
    gateway = guarded("closing", [port, missing], asking("ours"), per_port={missing: asking("absent")})
    await serve(site, "closing")
    await site.apply(m.authorities("ours", ours.pem), gateway)
    asked = [await clients.ask(port, mine), await clients.ask(missing), await clients.ask(missing, mine)]
    assert asked == [200, 0, 0]

    await site.apply(m.authorities("absent", ours.pem))
    asked = [await clients.ask(missing), await clients.ask(missing, mine)]
    assert asked == [0, 200]

    await site.delete(m.authorities("absent"))
    asked = [await clients.ask(port, mine), await clients.ask(missing), await clients.ask(missing, mine)]
    assert asked == [200, 0, 0]
    await site.delete(gateway)


@pytest.mark.parametrize("drain_time", ["1h", "1s"])
async def test_connections_that_were_checked_less_strictly_drain(
    site: Site, clients: Clients, drain_time: str
) -> None:
    """Each ends with its next answer, or is closed after the drain time: none stays by former authorities."""
    first, second = Authority("first"), Authority("second")
    old, new = first.sign("old"), second.sign("new")
    name, port = f"strict-{drain_time}", free_port()
    proxy = m.policy("EnvoyProxy", name, f"{{shutdown: {{drainTimeout: {drain_time}}}}}")
    del proxy["spec"]["targetRefs"]
    ref = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": name}
    more = {"infrastructure": {"parametersRef": ref}}

    async def ends(client: Client) -> None:
        if drain_time == "1h":
            assert await client.ask() == Answer(200, stays=False)
        else:
            await client.closed()

    await serve(site, name)
    await site.apply(proxy, guarded(name, [port], None, **more))
    async with clients.connected(port) as anybody:
        assert await anybody.ask() == Answer(200, stays=True)

        await site.apply(m.authorities("ours", first.pem), guarded(name, [port], asking("ours"), **more))
        assert await clients.ask(port) == 0
        assert await clients.ask(port, old) == 200
        await ends(anybody)

    async with clients.connected(port, old) as known:
        assert await known.ask() == Answer(200, stays=True)
        before = site.laptop.world.xds()[f"default/{name}"]
        await site.apply(m.authorities("ours", second.pem))
        after = site.laptop.world.xds()[f"default/{name}"]
        assert await clients.ask(port, old) == 0
        assert await clients.ask(port, new) == 200
        await ends(known)

    differing = {
        (type_url, resource)
        for type_url in before
        for resource in before[type_url]
        if before[type_url][resource] != after[type_url][resource]
    }
    assert differing == {
        (SECRET, f"gateway/default/{name}/default/ca.crt"),
        (LISTENER, f"default/{name}/at-{port}"),
    }
    await site.delete(guarded(name, [port], None))


async def test_nobody_passes_unchecked_where_envoy_refuses_the_chain_that_checks(
    site: Site, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was in force asks for no certificate, so it does not stand in for what is asked now."""
    build = https_settings.fn

    def broken(db: Db, group: ChainGroup) -> ChainSettings:
        """The chain with a network filter that Envoy does not know, where it demands certificates."""
        settings = build(db, group)
        if not demands_certificate(settings):
            return settings
        unknown = Filter(name="no.such.filter", typed_config=packed(StringValue(value="x")))
        chain = settings.chain + message_field(FilterChain.FILTERS_FIELD_NUMBER, encode(unknown))
        return structs.replace(settings, chain=chain)

    monkeypatch.setattr(https_settings, "fn", broken)
    ours, port = Authority("ours"), free_port()
    await serve(site, "refused")
    await site.apply(m.authorities("ours", ours.pem), guarded("refused", [port], None))
    assert await clients.ask(port) == 200

    await site.apply(guarded("refused", [port], asking("ours")))
    async with asyncio.timeout(DEADLINE_S):
        while await clients.ask(port):  # noqa: ASYNC110 - only asking shows it
            await asyncio.sleep(0.02)

    assert await clients.ask(port, ours.sign("a")) == 0
    await site.delete(guarded("refused", [port], None))


async def test_who_cannot_be_checked_is_let_in_by_no_other_gateway(tmp_path: Path) -> None:
    """Its hostname is in that of a Gateway that asks for nothing, and so are all of its routes."""
    shipped = EnvoyGateway.shipped()
    assert shipped.envoy_proxy is not None
    merged = structs.replace(shipped.envoy_proxy, merge_backends=None, merge_gateways=True)
    async with open_site(config=structs.replace(shipped, envoy_proxy=merged)) as fleet:
        ours, port = Authority("ours"), free_port()
        own, wide = "a.shared.test", "*.shared.test"
        clients, mine = Clients(fleet, tmp_path), ours.sign("a")
        tls = {"frontend": {"default": asking("ours")}}
        both = "[{name: strict}, {name: loose}]"
        at = f"port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: shared}}]}}"
        await fleet.apply(
            fleet.authority.sign(own, wide).secret("shared"),
            m.authorities("ours", ours.pem),
            m.gateway("strict", f"[{{name: own, hostname: {own}, {at}}}]", tls=tls),
            m.gateway("loose", f"[{{name: wide, hostname: '{wide}', {at}}}]"),
            m.route("own", f"[{{{m.to('one')}}}]", parents=both, hostnames=(own,)),
            m.route("wide", f"[{{{m.to('one')}}}]", parents="[{name: loose}]", hostnames=(wide,)),
        )

        async def answers() -> list[int]:
            """Without and with a certificate, by a connection for another name, and of that name."""
            return [
                await clients.ask(port, host=own),
                await clients.ask(port, mine, host=own),
                await clients.ask(port, host=own, opened_for="b.shared.test"),
                await clients.ask(port, host="b.shared.test"),
            ]

        assert await answers() == [0, 200, 421, 200]
        await fleet.delete(m.authorities("ours", b""))
        assert await answers() == [0, 0, 421, 200]
        await fleet.apply(m.authorities("ours", ours.pem))
        assert await answers() == [0, 200, 421, 200]


@asynccontextmanager
async def beside(servers: SecretServer, socket: Path) -> AsyncGenerator[Site]:
    """A site where Secrets may stand for those of a server, which runs."""
    shipped = EnvoyGateway.shipped()
    apis = structs.replace(shipped.extension_apis, enable_sds_secret_ref=True)
    async with (
        servers.serving(socket),
        open_site(config=structs.replace(shipped, extension_apis=apis)) as other,
    ):
        yield other


async def until_passes(
    clients: Clients, port: int, shown: Certificate | None = None, *, host: str = HOST
) -> None:
    """Return when a client gets an answer: what another server sends is in force at no known time."""
    async with asyncio.timeout(DEADLINE_S):
        while await clients.ask(port, shown, host=host) != 200:  # noqa: ASYNC110 - only asking shows it
            await asyncio.sleep(0.02)


async def test_certificates_may_come_from_another_server(tmp_path: Path) -> None:
    """The listener's own, and the authorities of clients: moongate never has them."""
    ours, servers, socket = Authority("ours"), SecretServer(), tmp_path / "sds"
    async with beside(servers, socket) as other:
        servers.trust("ROOTCA", ours.pem)
        servers.show("default", other.authority.sign(HOST))
        clients, port = Clients(other, tmp_path), free_port()
        await serve(other, "served")
        await other.apply(
            served("guarded", "default", socket),
            served("root", "ROOTCA", socket),
            guarded("served", [port], asking("root", kind="Secret")),
        )

        await until_passes(clients, port, ours.sign("a"))

        assert await clients.ask(port) == 0
        assert await clients.ask(port, Authority("theirs").sign("b")) == 0
        assert not other.laptop.world.xds()["default/served"].get(SECRET)


@pytest.mark.parametrize("fault", ["broken", "certificate"])
async def test_nobody_passes_by_what_another_server_has_in_place_of_authorities(
    tmp_path: Path, fault: str
) -> None:
    """A certificate, as of a mistaken name, or no certificates at all; and all is well when it is mended."""
    ours, servers, socket = Authority("ours"), SecretServer(), tmp_path / "sds"
    async with beside(servers, socket) as other:
        if fault == "broken":
            servers.trust("ROOTCA", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        else:
            servers.show("ROOTCA", ours.sign("default"))
        clients, port, free = Clients(other, tmp_path), free_port(), free_port()
        await serve(other, "served")
        asked = {"per_port": {port: asking("root", kind="Secret")}}

        await other.apply(served("root", "ROOTCA", socket), guarded("served", [port, free], {}, **asked))

        if fault == "certificate":
            # Envoy gives up in the middle where it cannot load what is broken, so others may be without, too.
            assert await clients.ask(free) == 200
        assert [await clients.ask(port), await clients.ask(port, ours.sign("a"))] == [0, 0]
        servers.trust("ROOTCA", ours.pem)
        await until_passes(clients, port, ours.sign("a"))
        assert await clients.ask(port) == 0


async def test_a_server_that_is_not_there_does_not_keep_ports_closed(tmp_path: Path) -> None:
    """Envoy waits for it, with all of its ports, but not for as long as a user waits for a change."""
    servers, socket = SecretServer(), tmp_path / "sds"
    async with beside(servers, socket) as other:
        clients, port, free = Clients(other, tmp_path), free_port(), free_port()
        await serve(other, "alone")
        absent = tmp_path / "absent"
        listeners = [https("free", free), https("at", port).replace("name: guarded", "name: absent")]

        await other.apply(
            served("absent", "default", absent), m.gateway("alone", f"[{', '.join(listeners)}]")
        )

        assert [await clients.ask(free), await clients.ask(port)] == [200, 0]
        servers.show("default", other.authority.sign(HOST))
        async with servers.serving(absent):
            await until_passes(clients, port)


def clients_policy(name: str, validation: str) -> dict[str, Any]:
    """A ClientTrafficPolicy for a Gateway of the same name."""
    return m.policy(
        "ClientTrafficPolicy", name, f"{{tls: {{clientValidation: {{{validation}}}}}}}", f"Gateway/{name}"
    )


NAMED = "caCertificateRefs: [{kind: ConfigMap, name: ours}]"


@pytest.mark.proves("ClientTrafficPolicy", "tls.clientValidation.mode")
async def test_each_mode_of_a_policy_lets_its_clients_pass(site: Site, clients: Clients) -> None:
    ours, theirs = Authority("ours"), Authority("theirs")
    shown = {"none": None, "ours": ours.sign("a"), "theirs": theirs.sign("b")}
    port = free_port()
    gateway = guarded("modes", [port], None)
    await serve(site, "modes")
    await site.apply(m.authorities("ours", ours.pem), gateway)
    passed: dict[str, list[str]] = {}

    for mode in ("RequireAndVerify", "VerifyIfGiven", "RequireAny", "Request"):
        await site.apply(clients_policy("modes", f"{NAMED}, mode: {mode}"))
        passed[mode] = [name for name, each in shown.items() if await clients.ask(port, each) == 200]

    for mode in ("RequireAny", "Request"):
        await site.apply(clients_policy("modes", f"mode: {mode}"))
        passed[f"{mode} alone"] = [n for n, each in shown.items() if await clients.ask(port, each) == 200]

    assert passed == {
        "RequireAndVerify": ["ours"],
        "VerifyIfGiven": ["none", "ours"],
        "RequireAny": ["ours", "theirs"],
        "Request": [*shown],
        "RequireAny alone": ["ours", "theirs"],
        "Request alone": [*shown],
    }
    await site.delete(clients_policy("modes", NAMED), gateway)


@pytest.mark.proves("ClientTrafficPolicy", "tls.clientValidation.optional")
async def test_a_certificate_may_be_optional_as_the_former_field_says(site: Site, clients: Clients) -> None:
    ours, theirs = Authority("ours"), Authority("theirs")
    port = free_port()
    gateway = guarded("optional", [port], None)
    await serve(site, "optional")
    await site.apply(
        m.authorities("ours", ours.pem), gateway, clients_policy("optional", f"{NAMED}, optional: true")
    )

    asked = [await clients.ask(port, each) for each in (None, ours.sign("a"), theirs.sign("b"))]

    assert asked == [200, 200, 0]
    await site.delete(clients_policy("optional", NAMED), gateway)


AWAY = "afar"
"""A namespace other than that of the policy."""


@pytest.mark.proves(
    "ClientTrafficPolicy",
    "tls.clientValidation.caCertificateRefs[].kind",
    "tls.clientValidation.caCertificateRefs[].name",
    "tls.clientValidation.caCertificateRefs[].namespace",
)
async def test_authorities_are_read_where_the_policy_says(site: Site, clients: Clients) -> None:
    """Of one name, but of another kind or in another namespace. Each is another authority."""
    places = {
        "{name: which}": m.secret("which", ca_crt=""),
        "{kind: ConfigMap, name: which}": m.authorities("which"),
        "{kind: ClusterTrustBundle, name: which}": trust_bundle("which"),
        f"{{name: which, namespace: {AWAY}}}": m.secret("which", namespace=AWAY, ca_crt=""),
        "{name: other}": m.secret("other", ca_crt=""),
    }
    authorities = {ref: Authority(ref) for ref in places}
    for ref, document in places.items():
        held = document.get("data") or document.get("stringData") or document["spec"]
        held.update(dict.fromkeys(held, authorities[ref].pem.decode()))
    shown = {ref: authority.sign("a") for ref, authority in authorities.items()}
    port = free_port()
    gateway = guarded("places", [port], None)
    await serve(site, "places")
    grant = m.grant(AWAY, kind="ClientTrafficPolicy", of="default", to_kind="Secret")
    await site.apply(*places.values(), grant, gateway)

    passed: dict[str, list[str]] = {}
    for ref in places:
        await site.apply(clients_policy("places", f"caCertificateRefs: [{ref}]"))
        passed[ref] = [of for of, each in shown.items() if await clients.ask(port, each) == 200]

    assert passed == {ref: [ref] for ref in places}
    await site.delete(clients_policy("places", NAMED), grant, gateway, *places.values())


def trust_bundle(name: str) -> dict[str, Any]:
    """A ClusterTrustBundle that is to be filled."""
    return {
        "apiVersion": "certificates.k8s.io/v1beta1",
        "kind": "ClusterTrustBundle",
        "metadata": {"name": name},
        "spec": {"trustBundle": ""},
    }


@pytest.mark.proves("ClientTrafficPolicy", "tls.clientValidation.crl.refs[].*")
async def test_lists_are_read_where_the_policy_says(site: Site, clients: Clients) -> None:
    """Each revokes another client; one of a group that has no lists lets nobody pass."""
    ours, port = Authority("ours"), free_port()
    shown = {name: ours.sign(name) for name in ("secret", "map", "afar", "other")}
    crl = {name: ours.revoking(each).decode() for name, each in shown.items()}
    map_ = m.authorities("lists")
    map_["data"] = {"ca.crl": crl["map"]}
    lists = (
        m.secret("lists", ca_crl=crl["secret"]),
        m.secret("lists", namespace=AWAY, ca_crl=crl["afar"]),
        m.secret("other", ca_crl=crl["other"]),
        map_,
    )
    gateway = guarded("lists", [port], None)
    grant = m.grant(AWAY, kind="ClientTrafficPolicy", of="default", to_kind="Secret")
    await serve(site, "lists")
    await site.apply(m.authorities("ours", ours.pem), *lists, grant, gateway)

    refused: dict[str, list[str]] = {}
    for ref in (
        "{name: lists}",
        "{kind: ConfigMap, name: lists}",
        f"{{name: lists, namespace: {AWAY}}}",
        "{name: other}",
        "{group: example.com, name: lists}",
    ):
        await site.apply(clients_policy("lists", f"{NAMED}, crl: {{refs: [{ref}]}}"))
        refused[ref] = [name for name, each in shown.items() if await clients.ask(port, each) != 200]

    assert list(refused.values()) == [["secret"], ["map"], ["afar"], ["other"], [*shown]]
    await site.delete(clients_policy("lists", NAMED), grant, gateway, *lists)


@pytest.mark.proves("ClientTrafficPolicy", "tls.clientValidation.crl.onlyVerifyLeafCertificate")
@pytest.mark.parametrize(("only_leaf", "status"), [("true", 200), ("false", 0)])
async def test_authorities_between_may_be_without_a_list(
    site: Site, clients: Clients, only_leaf: str, status: int
) -> None:
    """There is one of the authority that signed the client, and none of that above it."""
    ours, port = Authority("ours"), free_port()
    between = Authority("between", issuer=ours)
    alice, bob = (between.sign(name) for name in ("alice", "bob"))
    shown, revoked = (each._replace(pem=each.pem + between.pem) for each in (alice, bob))
    gateway = guarded("between", [port], None)
    crl = f"crl: {{refs: [{{name: lists}}], onlyVerifyLeafCertificate: {only_leaf}}}"
    await serve(site, "between")
    await site.apply(
        m.authorities("ours", ours.pem),
        m.secret("lists", ca_crl=between.revoking(bob).decode()),
        gateway,
        clients_policy("between", f"{NAMED}, {crl}"),
    )

    assert [await clients.ask(port, each) for each in (shown, revoked)] == [status, 0]
    # A client whose certificate the other authority has signed itself would pass in neither mode.
    assert await clients.ask(port, ours.sign("carol")) == 0
    warning = site.conditions(clients_policy("between", NAMED))["Warning"]
    assert warning["reason"] == "NoRevocationList"
    await site.delete(clients_policy("between", NAMED), gateway)


UPN = "1.3.6.1.4.1.311.20.2.3"
"""The name of a user, as Active Directory has it."""


@pytest.mark.proves("ClientTrafficPolicy", "tls.clientValidation.subjectAltNames.*")
async def test_each_kind_of_names_of_a_certificate_is_compared(site: Site, clients: Clients) -> None:
    """Each matches one of two names, and not where another kind has it."""
    ours, port = Authority("ours"), free_port()
    names = {
        "dnsNames": [x509.DNSName(f"{who}.test") for who in ("ann", "bob")],
        "emailAddresses": [x509.RFC822Name(f"{who}@a.test") for who in ("ann", "bob")],
        "ipAddresses": [x509.IPAddress(ip_address(f"192.0.2.{n}")) for n in (1, 2)],
        "uris": [x509.UniformResourceIdentifier(f"spiffe://a/{who}") for who in ("ann", "bob")],
        "otherNames": [upn(UPN, "ann"), upn(UPN, "bob")],
    }
    shown = {
        (kind, n): ours.sign(others=(name,)) for kind, two in names.items() for n, name in enumerate(two)
    }
    shown["otherNames", 2] = ours.sign(others=(upn("1.2.3.4", "ann"),))
    matches = {
        "dnsNames": ("{type: Exact, value: ann.test}", "{type: Prefix, value: an}"),
        "emailAddresses": ("{type: Exact, value: ann@a.test}", "{type: Prefix, value: an}"),
        "ipAddresses": ("{type: Exact, value: 192.0.2.1}", "{type: Suffix, value: '.1'}"),
        "uris": ("{type: Exact, value: 'spiffe://a/ann'}", "{type: Suffix, value: /ann}"),
        "otherNames": (
            f"{{oid: {UPN}, type: Exact, value: ann}}",
            f"{{oid: {UPN}, type: RegularExpression, value: a.+}}",
        ),
    }
    gateway = guarded("names", [port], None)
    await serve(site, "names")
    await site.apply(m.authorities("ours", ours.pem), gateway)

    passed: list[tuple[str, list[tuple[str, int]]]] = []
    for kind, ways in matches.items():
        for match in ways:
            await site.apply(clients_policy("names", f"{NAMED}, subjectAltNames: {{{kind}: [{match}]}}"))
            passed.append((kind, [at for at, each in shown.items() if await clients.ask(port, each) == 200]))

    assert passed == [(kind, [(kind, 0)]) for kind in matches for _ in range(2)]
    await site.delete(clients_policy("names", NAMED), gateway)


def upn(oid: str, name: str) -> x509.OtherName:
    """A name of a kind of one's own: a string in UTF-8, in DER."""
    return x509.OtherName(x509.ObjectIdentifier(oid), bytes([0x0C, len(name)]) + name.encode())


@pytest.mark.proves(
    "ClientTrafficPolicy",
    "tls.clientValidation.certificateHashes",
    "tls.clientValidation.spkiHashes",
    "tls.clientValidation.allowExpiredCertificate",
)
async def test_conditions_of_a_policy_hold_for_certificates(site: Site, clients: Clients) -> None:
    ours = Authority("ours")
    alice, bob, late = ours.sign("alice.test"), ours.sign("bob.test"), ours.sign("late.test", days=1)
    der = x509.load_pem_x509_certificate(alice.pem)
    spki = der.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    port = free_port()
    gateway = guarded("conditions", [port], None)
    await serve(site, "conditions")
    await site.apply(
        m.authorities("ours", ours.pem),
        m.secret("lists", ca_crl=ours.revoking(bob).decode()),
        gateway,
    )
    conditions = {
        "hash": f"certificateHashes: [{sha256(der.public_bytes(Encoding.DER)).hexdigest()}]",
        "spki": f"spkiHashes: ['{b64encode(sha256(spki).digest()).decode()}']",
        "name": "subjectAltNames: {dnsNames: [{type: Prefix, value: bob}]}",
        "list": "crl: {refs: [{name: lists}]}",
        "expired": "allowExpiredCertificate: true",
    }
    passed: dict[str, list[str]] = {}

    for name, condition in conditions.items():
        await site.apply(clients_policy("conditions", f"{NAMED}, {condition}"))
        passed[name] = [
            who
            for who, each in (("nobody", None), ("alice", alice), ("bob", bob), ("late", late))
            if await clients.ask(port, each) == 200
        ]

    assert passed == {
        "hash": ["alice"],
        "spki": ["alice"],
        "name": ["bob"],
        "list": ["alice"],
        "expired": ["alice", "bob", "late"],
    }
    await site.delete(clients_policy("conditions", NAMED), gateway)


def resumed(
    context: ssl.SSLContext, port: int, session: ssl.SSLSession | None = None
) -> tuple[int, bool, ssl.SSLSession | None]:
    """The status of a request on a new connection (0 for none), if it resumed a session, and its session."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as plain,
            context.wrap_socket(plain, server_hostname=HOST, session=session) as secure,
        ):
            secure.sendall(f"GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: secure.recv(65536), b""))
            status = int(answer.split(b" ", 2)[1]) if answer else 0
            return status, bool(secure.session_reused), secure.session
    except (ssl.SSLError, ConnectionError):
        return 0, False, None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("kind", ["stateless", "stateful", "stateless: {}, stateful"])
async def test_no_session_of_before_outlives_a_check_of_certificates(
    site: Site, tmp_path: Path, version: ssl.TLSVersion, kind: str
) -> None:
    """With resumption on: neither one of before the check, nor of other CAs, nor of before a revocation."""
    ours, theirs, port = Authority("ours"), Authority("theirs"), free_port()
    alice = ours.sign("alice.test")
    (tmp_path / "alice.pem").write_bytes(alice.pem + alice.key)
    gateway = guarded("resuming", [port], None)
    session = f"session: {{resumption: {{{kind}: {{}}}}}}"
    lists = "crl: {refs: [{name: resuming}]}"
    contexts = [site.authority.client_context() for _ in range(2)]
    for context in contexts:
        context.minimum_version = context.maximum_version = version
    nobody, known = contexts
    known.load_cert_chain(tmp_path / "alice.pem")

    def policy(validation: str) -> dict[str, Any]:
        tls = f"{session}, clientValidation: {{{validation}}}" if validation else session
        return m.policy("ClientTrafficPolicy", "resuming", f"{{tls: {{{tls}}}}}", "Gateway/resuming")

    async def ask(
        context: ssl.SSLContext, before: ssl.SSLSession | None = None
    ) -> tuple[int, bool, ssl.SSLSession | None]:
        return await asyncio.to_thread(resumed, context, port, before)

    await serve(site, "resuming")
    await site.apply(
        m.authorities("ours", ours.pem),
        m.secret("resuming", ca_crl=ours.revoking().decode()),
        gateway,
        policy(""),
    )
    _, _, open_ = await ask(nobody)
    resumes = "stateless" in kind or version == ssl.TLSVersion.TLSv1_2
    assert (await ask(nobody, open_))[:2] == (200, resumes)

    await site.apply(policy(f"{NAMED}, {lists}"))
    assert (await ask(nobody, open_))[0] == 0
    status, _, checked = await ask(known)
    assert status == 200
    assert (await ask(known, checked))[:2] == (200, resumes)

    await site.apply(m.secret("resuming", ca_crl=ours.revoking(alice).decode()))
    assert (await ask(known, checked))[0] == 0
    await site.apply(m.secret("resuming", ca_crl=ours.revoking().decode()))
    status, _, checked = await ask(known)
    assert status == 200

    await site.apply(m.authorities("ours", theirs.pem), policy(NAMED))
    assert (await ask(known, checked))[0] == 0
    await site.delete(policy(""), gateway)


async def test_a_client_that_is_revoked_has_to_leave(site: Site, clients: Clients) -> None:
    ours = Authority("ours")
    alice, port = ours.sign("alice.test"), free_port()
    gateway = guarded("revoking", [port], None)
    policy = clients_policy("revoking", f"{NAMED}, crl: {{refs: [{{name: lists}}]}}")
    await serve(site, "revoking")
    await site.apply(
        m.authorities("ours", ours.pem), m.secret("lists", ca_crl=ours.revoking().decode()), gateway, policy
    )
    async with clients.connected(port, alice) as client:
        assert await client.ask() == Answer(200, stays=True)

        await site.apply(m.secret("lists", ca_crl=ours.revoking(alice).decode()))

        assert await client.ask() == Answer(200, stays=False)
    assert await clients.ask(port, alice) == 0
    await site.delete(policy, gateway)


async def test_a_policy_that_breaks_lets_nobody_pass_at_no_moment(site: Site, clients: Clients) -> None:
    """Neither somebody who never passed, nor, once it is broken, anybody."""
    ours, theirs = Authority("ours"), Authority("theirs")
    mine, other, port = ours.sign("a"), theirs.sign("b"), free_port()
    gateway = guarded("breaking", [port], None)
    sound, broken = (clients_policy("breaking", v) for v in (NAMED, "caCertificateRefs: [{name: absent}]"))
    await serve(site, "breaking")
    await site.apply(m.authorities("ours", ours.pem), gateway, sound)
    assert await clients.ask(port, mine) == 200
    answers: set[int] = set()
    done = asyncio.Event()

    async def strangers() -> None:
        while not done.is_set():
            answers.update([await clients.ask(port), await clients.ask(port, other)])

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(strangers())
        for _ in range(3):
            await site.apply(broken)
            assert await clients.ask(port, mine) == 0
            assert site.conditions(broken)["Accepted"]["status"] == "False"
            await site.apply(sound)
            assert await clients.ask(port, mine) == 200
        done.set()

    assert answers == {0}
    await site.delete(sound, gateway)


@pytest.mark.parametrize(
    ("mode", "bare", "showing", "says"),
    [
        ("RequireAndVerify", 0, 0, "end the TLS handshake of all clients."),
        ("VerifyIfGiven", 500, 0, "of clients that show a certificate, and answer other requests with 500."),
        ("RequireAny", 0, 500, "of clients that show no certificate, and answer other requests with 500."),
        ("Request", 500, 500, "All requests of its listeners are answered with 500 until this is fixed."),
    ],
)
async def test_a_policy_without_authorities_does_what_its_status_says(
    site: Site, clients: Clients, mode: str, bare: int, showing: int, says: str
) -> None:
    port, shown = free_port(), Authority("ours").sign("a")
    gateway = guarded("broken", [port], None)
    policy = clients_policy("broken", f"mode: {mode}, caCertificateRefs: [{{name: absent}}]")
    await serve(site, "broken")

    await site.apply(gateway, policy)

    assert site.conditions(policy)["Accepted"]["message"].endswith(says)
    assert await clients.ask(port) == bare
    assert await clients.ask(port, shown) == showing
    await site.delete(policy, gateway)
