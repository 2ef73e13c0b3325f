"""What Envoy refuses: the chain, filter or route at fault is out of force, and all else goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import httpx
import pytest
from envoy.config.listener.v3.listener_components_pb2 import Filter, FilterChain
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from google.protobuf.wrappers_pb2 import StringValue
from msgspec import structs

from moongate.attach import certificates
from moongate.xds.filters import needed_filters
from moongate.xds.http_chains import https_settings
from moongate.xds.wire import encode, message_field, packed
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.conftest import reference, until
from tests.e2e.test_listeners import serial, tls
from tests.e2e.test_security import htpasswd
from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from moongate.api.base import ListenerId
    from moongate.attach.envoy_listeners import ChainGroup
    from moongate.engine import Db
    from moongate.xds.filter_chains import ChainSettings
    from moongate.xds.filters import ChainFilter
    from tests.e2e.certificates import Certificate
    from tests.e2e.conftest import Site

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

NAMES = ("left", "middle", "right")
BROKEN = "a chain that is broken"
"""A cell with the name of a chain that Envoy is to refuse."""
RULES = f"[{{{m.to('one')}}}]"
KEPT = "What was in force of it stays so; requests to what never was are answered with 500."


def listeners(site: Site, port: int) -> list[m.Document]:
    """Three HTTPS listeners on a port, each with a certificate and a route of its own."""
    entries = [
        f"{{name: {n}, port: {port}, protocol: HTTPS, hostname: {n}.test, "
        f"tls: {{certificateRefs: [{{name: of-{n}}}]}}}}"
        for n in NAMES
    ]
    gateway = m.gateway("chains", f"[{', '.join(entries)}]")
    certificates = [site.authority.sign(f"{n}.test").secret(f"of-{n}") for n in NAMES]
    routes = [m.route(n, RULES, parents=f"[{{name: chains, sectionName: {n}}}]") for n in NAMES]
    return [gateway, *certificates, *routes]


def programmed(site: Site, gateway: m.Document) -> dict[str, str]:
    """The listeners of a Gateway, each with the status of ``Programmed``."""
    document = site.laptop.statuses.document(reference(gateway))
    assert document is not None
    return {
        each["name"]: next(c["status"] for c in each["conditions"] if c["type"] == "Programmed")
        for each in document["status"]["listeners"]
    }


async def test_a_chain_that_envoy_refuses_leaves_the_others_of_its_port_free_to_change(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = https_settings.fn

    def broken(db: Db, group: ChainGroup) -> ChainSettings:
        """The chain with a network filter that Envoy does not know, where a cell says so."""
        settings = build(db, group)
        if db.read(BROKEN) != group.name:
            return settings
        unknown = Filter(name="no.such.filter", typed_config=packed(StringValue(value="x")))
        chain = settings.chain + message_field(FilterChain.FILTERS_FIELD_NUMBER, encode(unknown))
        return structs.replace(settings, chain=chain)

    monkeypatch.setattr(https_settings, "fn", broken)
    port = free_port()
    gateway, *others = listeners(site, port)
    await site.apply(gateway, *others)
    assert {await site.status(f"{n}.test", port=port, tls=True) for n in NAMES} == {200}

    site.laptop.world.write(BROKEN, "default/chains/middle")
    await site.apply(m.route("another", RULES))

    assert programmed(site, gateway) == {"left": "True", "middle": "False", "right": "True"}
    assert "no.such.filter" in str(site.conditions(gateway)["Programmed"])
    assert {await site.status(f"{n}.test", port=port, tls=True) for n in NAMES} == {200}

    users = m.secret("of-chains", _htpasswd=htpasswd(ann="secret"))
    basic = "basicAuth: {users: {name: of-chains}, forwardUsernameHeader: x-user}"
    policy = m.policy("SecurityPolicy", "left", basic, "HTTPRoute/left")
    await site.apply(users, policy)

    assert await site.status("left.test", port=port, tls=True) == 401
    assert await site.status("left.test", port=port, tls=True, auth=("ann", "secret")) == 200
    assert await site.status("middle.test", port=port, tls=True) == 200

    site.laptop.world.write(BROKEN, None)
    await site.delete(m.route("another", RULES))

    assert set(programmed(site, gateway).values()) == {"True"}
    assert await site.status("middle.test", port=port, tls=True) == 200
    await site.delete(gateway, *others, users, policy)


def resolved(site: Site, gateway: m.Document) -> dict[str, str]:
    """The listeners of a Gateway, each with the reason and the message of ``ResolvedRefs``."""
    document = site.laptop.statuses.document(reference(gateway))
    assert document is not None
    return {
        each["name"]: next(
            f"{c['reason']} {c['message']}" for c in each["conditions"] if c["type"] == "ResolvedRefs"
        )
        for each in document["status"]["listeners"]
    }


@pytest.fixture
def unable(site: Site, monkeypatch: pytest.MonkeyPatch) -> Certificate:
    """A certificate that Envoy refuses, and moongate takes: its key may not sign."""
    monkeypatch.setattr(certificates, "_signs", bool)
    return site.authority.sign("left.test", signs=False)


async def test_envoy_serves_the_certificate_before_where_it_refuses_the_next(
    site: Site, unable: Certificate
) -> None:
    """The listener says so. It may be changed meanwhile, also at once with the certificate."""
    port = free_port()
    gateway, *others = listeners(site, port)
    await site.apply(gateway, *others)
    traffic = m.policy(
        "ClientTrafficPolicy", "chains", "timeout: {http: {idleTimeout: 9s}}", "Gateway/chains"
    )

    # Envoy gets them together, and does not say which of them it refuses.
    renewed = {n: site.authority.sign(f"{n}.test") for n in NAMES[1:]}
    await site.apply(
        unable.secret("of-left"), *(each.secret(f"of-{n}") for n, each in renewed.items()), traffic
    )
    await until(lambda: "Envoy refuses Secret default/of-left" in resolved(site, gateway)["left"])
    await until(lambda: set(programmed(site, gateway).values()) == {"True"})

    assert resolved(site, gateway)["left"].startswith("InvalidCertificateRef ")
    assert {n: words.partition(" ")[0] for n, words in resolved(site, gateway).items() if n != "left"} == {
        "middle": "ResolvedRefs",
        "right": "ResolvedRefs",
    }
    assert "PRIVATE" not in str(resolved(site, gateway))
    for name, each in renewed.items():
        async with tls(site, port, f"{name}.test") as (_, connection):
            assert serial(connection) == each.serial
    assert {await site.status(f"{n}.test", port=port, tls=True) for n in NAMES} == {200}
    await site.apply(m.route("left", RULES, parents="[{name: chains}]"))
    assert await site.status("left.test", port=port, tls=True) == 200

    await site.apply(site.authority.sign("left.test").secret("of-left"))
    await until(lambda: resolved(site, gateway)["left"].startswith("ResolvedRefs "))
    await site.delete(traffic)

    assert set(programmed(site, gateway).values()) == {"True"}
    assert {await site.status(f"{n}.test", port=port, tls=True) for n in NAMES} == {200}
    await site.delete(gateway, *others)


async def test_a_listener_goes_without_a_certificate_that_envoy_never_took(
    site: Site, unable: Certificate
) -> None:
    """The others of its port are served, and it is served once the certificate is another one."""
    port = free_port()
    gateway, _, *others = listeners(site, port)

    await site.apply(gateway, unable.secret("of-left"), *others)
    await until(lambda: "Envoy refuses Secret default/of-left" in resolved(site, gateway)["left"])

    assert programmed(site, gateway) == {"left": "False", "middle": "True", "right": "True"}
    assert {await site.status(f"{n}.test", port=port, tls=True) for n in NAMES[1:]} == {200}

    able = site.authority.sign("left.test").secret("of-left")
    await site.apply(able)

    assert set(programmed(site, gateway).values()) == {"True"}
    assert {await site.status(f"{n}.test", port=port, tls=True) for n in NAMES} == {200}
    await site.delete(gateway, able, *others)


async def test_routes_that_rely_on_a_refused_filter_answer_500_and_others_go_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over connections that were open before as well: the chain that Envoy keeps would let everybody pass."""
    needed = needed_filters.fn

    def broken(db: Db, members: tuple[ListenerId, ...]) -> tuple[ChainFilter, ...]:
        """Bound filters with a configuration that Envoy does not know, where a cell says so."""
        said = db.read(BROKEN)
        unknown = packed(StringValue(value="x"))
        return tuple(
            one._replace(body=encode(HttpFilter(name=one.name, typed_config=unknown, disabled=True)))
            if said
            else one
            for one in needed(db, members)
        )

    monkeypatch.setattr(needed_filters, "fn", broken)
    port = free_port()
    gateway = m.gateway("filters", f"[{{name: http, port: {port}, protocol: HTTP}}]")
    parents = "[{name: filters}]"
    await site.apply(
        gateway, *(m.route(n, RULES, parents=parents) for n in ("guarded", "plain")), m.route("nudge", RULES)
    )
    users = m.secret("of-filters", _htpasswd=htpasswd(ann="secret"))
    basic = "basicAuth: {users: {name: of-filters}, forwardUsernameHeader: x-user}"
    policy = m.policy("SecurityPolicy", "guarded", basic, "HTTPRoute/guarded")
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
        assert await site.status("guarded.test", port=port, client=client) == 200

        site.laptop.world.write(BROKEN, value=True)
        await site.apply(users, policy)

        for auth in (None, ("ann", "secret")):
            assert await site.status("guarded.test", port=port, client=client, auth=auth) == 500
        assert await site.status("plain.test", port=port, client=client) == 200
        assert site.conditions(policy)["Programmed"]["status"] == "False"
        await site.apply(m.route("more", RULES, parents=parents))
        assert await site.status("more.test", port=port, client=client) == 200

        site.laptop.world.write(BROKEN, value=None)
        await site.delete(m.route("nudge", RULES))

    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
        assert await site.status("guarded.test", port=port, client=client) == 401
        assert await site.status("guarded.test", port=port, client=client, auth=("ann", "secret")) == 200
        assert "Programmed" not in site.conditions(policy)
    await site.delete(gateway, policy)


def logging_to(route: str, path: str) -> m.Document:
    """A policy whose cluster Envoy takes if it can write the file."""
    log = f"healthCheckLog: {{sinks: [{{type: File, file: {{path: '{path}'}}}}]}}"
    check = f"healthCheck: {{active: {{type: TCP, interval: 60s, tcp: {{}}, {log}}}}}"
    return m.policy("BackendTrafficPolicy", route, check, f"HTTPRoute/{route}")


def refused(site: Site, *documents: m.Document) -> list[str]:
    """The messages of resources that an Envoy refuses, "" for those that none does."""
    return [str(site.conditions(each).get("Programmed", {"message": ""})["message"]) for each in documents]


async def killed(site: Site) -> None:
    """Envoy dies, and serves anew when this returns."""
    before = site.laptop.fleets.report()[0]["envoy"]["pid"]
    os.kill(before, signal.SIGKILL)
    await until(lambda: site.laptop.fleets.report()[0]["envoy"].get("pid") not in (None, before))
    await site.laptop.served()


async def test_a_route_stays_as_it_was_while_envoy_refuses_its_new_cluster(
    site: Site, tmp_path: Path
) -> None:
    """No request fails, the route and the policy say why, and others of its table change meanwhile."""
    route, other = (m.route(name, RULES) for name in ("kept", "beside"))
    await site.apply(route, other)
    policy, good = (logging_to("kept", str(tmp_path / folder / "log")) for folder in ("missing", "."))
    stop, statuses = asyncio.Event(), set[int]()

    async def ask() -> None:
        while not stop.is_set():
            statuses.add(await site.status("kept.test"))

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(ask())
        await site.apply(policy)
        why = f"unable to open file '{tmp_path}/missing/log': No such file or directory. {KEPT}"
        of_route, of_policy = refused(site, route, policy)
        cluster = f"cluster {cluster_of(of_route)}"
        assert of_route == f"Envoy of default/gateway refuses it: {cluster}: {why}"
        assert of_policy == f"Envoy of default/gateway refuses {cluster}, with settings of this policy: {why}"
        await site.apply(m.route("beside", f"[{{{m.to('two')}}}]"))
        assert (await site.reached("beside.test")).by == "two"
        assert refused(site, other) == [""]

        await site.apply(good)
        assert refused(site, route, good) == ["", ""]
        # Another file, of the cluster that it has by now.
        await site.apply(policy)
        assert "missing/log" in "".join(refused(site, route))
        stop.set()
    assert statuses == {200}

    await killed(site)
    assert await site.status("kept.test") == 200, "it has the former cluster again"
    assert "missing/log" in "".join(refused(site, policy))

    await site.delete(policy)
    assert refused(site, route) == [""]
    assert await site.status("kept.test") == 200
    await site.delete(route, other)


def cluster_of(message: str) -> str:
    """The name of the cluster in a message."""
    return message.partition("cluster ")[2].partition(":")[0]


async def test_new_routes_whose_clusters_are_refused_say_each_their_own_reason(
    site: Site, tmp_path: Path
) -> None:
    """Also once Envoy has started anew; and when one is mended, the other stays out."""
    names = ("first", "second", "third")
    routes = [m.route(name, RULES) for name in names]
    policies = [logging_to(name, str(tmp_path / name / "log")) for name in names[:2]]

    for again in (False, True):
        if again:
            await killed(site)
        else:
            await site.apply(*routes, *policies)
        assert [await site.status(f"{name}.test") for name in names] == [500, 500, 200]
        first, second, third = refused(site, *routes)
        assert "first/log" in first
        assert "second" not in first
        assert "second/log" in second
        assert third == ""
        of_first, of_second = refused(site, *policies)
        assert "first/log" in of_first
        assert "second" not in of_first
        assert "second/log" in of_second

    (tmp_path / "first").mkdir()
    await site.apply(logging_to("first", f"{tmp_path}/first/other"))
    assert [await site.status(f"{name}.test") for name in names] == [200, 500, 200]
    assert [bool(said) for said in refused(site, *routes)] == [False, True, False]
    await site.delete(*policies, *routes)


async def test_a_policy_whose_setting_envoy_refuses_in_a_route_says_so(site: Site) -> None:
    """As its route does. A policy that Envoy takes says nothing, nor does one of a route's own mistake."""
    route, other = (m.route(name, RULES) for name in ("shaped", "beside"))
    cors = m.policy("SecurityPolicy", "of-all", "cors: {allowOrigins: ['https://a.test']}", "Gateway/gateway")
    await site.apply(route, other, cors)

    for policy, good in (
        (overriding("body: {inline: '%FOO%'}"), overriding("body: {inline: 'gone'}")),
        (
            overriding("header: {set: [{name: x-why, value: '%FOO%'}]}"),
            overriding("header: {set: [{name: x-why, value: '%PROTOCOL%'}]}"),
        ),
        (tagging("%FOO%"), tagging("%PROTOCOL%")),
    ):
        await site.apply(policy)
        of_route, of_policy, *others = refused(site, route, policy, other, cors)
        assert "FOO" in of_route
        assert of_policy == of_route.replace(
            "refuses it:", "refuses HTTPRoute default/shaped, with settings of this policy:"
        )
        assert others == ["", ""]
        assert await site.status("beside.test") == 200

        await site.apply(good)
        assert refused(site, route, good) == ["", ""]
        assert await site.status("shaped.test") == 200
        await site.delete(good)

    change = "type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x, value: '%FOO%'}]}"
    await site.apply(m.route("shaped", f"[{{filters: [{{{change}}}], {m.to('one')}}}]"))
    of_route, of_policy = refused(site, route, cors)
    assert "FOO" in of_route
    assert of_policy == ""
    await site.delete(route, other, cors)


def overriding(response: str) -> m.Document:
    """A policy that changes the responses of a route."""
    match = "match: {statusCodes: [{value: 404}]}"
    override = f"responseOverride: [{{{match}, response: {{{response}}}}}]"
    return m.policy("BackendTrafficPolicy", "shaping", override, "HTTPRoute/shaped")


def tagging(value: str) -> m.Document:
    """A policy that names the spans of a route."""
    tracing = f"telemetry: {{tracing: {{spanName: {{client: '{value}', server: '{value}'}}}}}}"
    return m.policy("BackendTrafficPolicy", "shaping", tracing, "HTTPRoute/shaped")
