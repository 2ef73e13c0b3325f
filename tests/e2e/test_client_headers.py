"""ClientTrafficPolicy ``headers``, as clients and backends see it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest
from cryptography import x509

from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Request
from tests.e2e.certificates import Authority
from tests.e2e.conftest import Site, open_site
from tests.e2e.differing import OTHER_FORMS, with_flags
from tests.ports import free_port

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from moongate.api.envoygateway import EnvoyGateway

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


XFCC = "x-forwarded-client-cert"


async def listening(site: Site, name: str, headers: str, *, rules: str = "") -> int:
    """A Gateway with one HTTP listener, that policy, and a route to ``one``; the port."""
    port = free_port()
    await site.apply(
        m.gateway(name, f"[{{name: http, port: {port}, protocol: HTTP}}]"),
        m.route(name, rules or f"[{{{m.to('one')}}}]", parents=f"[{{name: {name}}}]"),
        m.policy("ClientTrafficPolicy", name, f"headers: {headers}", f"Gateway/{name}"),
    )
    return port


@pytest.mark.proves("ClientTrafficPolicy", "headers.earlyRequestHeaders.*")
async def test_requests_are_changed_before_anything_looks_at_them(site: Site) -> None:
    port = await listening(
        site,
        "early",
        "{earlyRequestHeaders: {add: [{name: x-tag, value: two}], set: [{name: x-tenant, value: red}],"
        " addIfAbsent: [{name: x-kept, value: ours}, {name: x-new, value: ours}], remove: [x-internal],"
        " removeOnMatch: [{type: Prefix, value: x-debug-}, {type: RegularExpression, value: 'x-[0-9]+'}]}}",
        rules="[{matches: [{headers: [{name: x-tenant, value: red}]}], " + m.to("two") + "},"
        f" {{{m.to('one')}}}]",
    )
    sent = {
        "x-tag": "one",
        "x-tenant": "blue",
        "x-kept": "theirs",
        "x-internal": "1",
        "X-Debug-Level": "9",
        "x-42": "1",
        "x-forty": "1",
    }

    request = await site.reached("early.test", port=port, headers=sent)

    names = ("x-tag", "x-tenant", "x-kept", "x-new", "x-internal", "x-debug-level", "x-42", "x-forty")
    seen = {name: request.header(name) for name in names}
    assert request.by == "two"
    assert seen == {
        "x-tag": "one, two",
        "x-tenant": "red",
        "x-kept": "theirs",
        "x-new": "ours",
        "x-internal": None,
        "x-debug-level": None,
        "x-42": None,
        "x-forty": "1",
    }


@pytest.mark.slow
async def test_requests_are_changed_before_a_scoped_table_is_looked_up() -> None:
    """For a Host without a table of its own, Envoy looks twice: what was changed holds for both."""
    rules = (
        f"[{{matches: [{{headers: [{{name: x-tenant, value: red}}]}}], {m.to('two')}}}, {{{m.to('one')}}}]"
    )
    async with open_site(config=with_flags("ScopedTables")) as site:
        port = await listening(
            site, "exact", "{earlyRequestHeaders: {set: [{name: x-tenant, value: red}]}}", rules=rules
        )
        await site.apply(m.route("wide", rules, hostnames=("*.wide.test",), parents="[{name: exact}]"))

        requests = [
            await site.reached(host, port=port, headers={"x-tenant": "blue"})
            for host in ("exact.test", "EXACT.test", "any.wide.test")
        ]

        assert [(each.by, each.header("x-tenant")) for each in requests] == [("two", "red")] * 3


async def test_responses_are_changed_also_those_of_envoy_and_only_on_this_listener(site: Site) -> None:
    left, right = free_port(), free_port()
    listeners = ", ".join(
        f"{{name: {name}, port: {port}, protocol: HTTP}}" for name, port in (("left", left), ("right", right))
    )
    late = "{set: [{name: x-served-by, value: us}], remove: [x-backend]}"
    await site.apply(
        m.gateway("late", f"[{listeners}]"),
        m.route("late", f"[{{{m.to('one')}}}]", parents="[{name: late}]"),
        m.policy(
            "ClientTrafficPolicy", "late", f"headers: {{lateResponseHeaders: {late}}}", "Gateway/late/left"
        ),
    )

    changed = await site.ask("late.test", port=left)
    not_found = await site.ask("unknown.test", port=left)
    other = await site.ask("late.test", port=right)

    assert [changed.status_code, not_found.status_code, other.status_code] == [200, 404, 200]
    assert "x-backend" not in changed.headers
    assert [each.headers.get("x-served-by") for each in (changed, not_found, other)] == ["us", "us", None]
    assert other.headers["x-backend"] == "one"


@pytest.mark.proves("ClientTrafficPolicy", "headers.lateResponseHeaders.*")
async def test_responses_are_changed_in_each_way(site: Site) -> None:
    """The backend answers with its name in ``x-backend``."""
    late = (
        "{add: [{name: x-backend, value: more}], set: [{name: x-set, value: ours}],"
        " addIfAbsent: [{name: content-type, value: ours}, {name: x-new, value: ours}], remove: [x-gone],"
        " removeOnMatch: [{type: Prefix, value: x-debug-}, {value: x-exact}]}"
    )
    sent = ("x-set", "x-gone", "x-debug-level", "x-exact", "x-exact-not")
    change = ", ".join(f"{{name: {name}, value: theirs}}" for name in sent)
    modifier = f"{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{change}]}}}}"
    rules = f"[{{filters: [{modifier}], {m.to('one')}}}]"
    port = await listening(site, "ways", f"{{lateResponseHeaders: {late}}}", rules=rules)

    headers = (await site.ask("ways.test", port=port)).headers

    names = ("x-backend", "content-type", "x-new", *sent)
    assert {name: headers.get(name) for name in names} == {
        "x-backend": "one, more",
        "content-type": "application/json",
        "x-new": "ours",
        "x-set": "ours",
        "x-gone": None,
        "x-debug-level": None,
        "x-exact": None,
        "x-exact-not": "theirs",
    }


@pytest.mark.slow
@OTHER_FORMS
async def test_what_envoy_answers_itself_is_changed_in_each_form_of_tables_and_chains(
    config: EnvoyGateway,
) -> None:
    """Probes, preflights and redirects, and what is found under a wildcard."""
    moved = (
        "matches: [{path: {value: /moved}}], filters: [{type: RequestRedirect, requestRedirect: {port: 1}}]"
    )
    cors = "filters: [{type: CORS, cors: {allowOrigins: ['https://a.test']}}]"
    late = "headers: {lateResponseHeaders: {set: [{name: x-served-by, value: us}]}}"
    port, preflight = free_port(), {"origin": "https://a.test", "access-control-request-method": "GET"}
    async with open_site(config=config) as site:
        await site.apply(
            m.gateway("own", f"[{{name: http, port: {port}, protocol: HTTP}}]"),
            m.route(
                "own",
                f"[{{{moved}}}, {{{cors}, {m.to('one')}}}]",
                hostnames=("own.test", "*.wide.test"),
                parents="[{name: own}]",
            ),
            m.policy("ClientTrafficPolicy", "own", f"healthCheck: {{path: /healthz}}\n{late}", "Gateway/own"),
        )

        for host in ("own.test", "any.wide.test"):
            answers = [
                await site.ask(host, port=port),
                await site.ask(host, "/healthz", port=port),
                await site.ask(host, "/moved", port=port),
                await site.ask(host, port=port, method="OPTIONS", headers=preflight),
            ]
            assert [each.status_code for each in answers] == [200, 200, 302, 200]
            assert [each.headers.get("x-served-by") for each in answers] == ["us"] * 4


@pytest.mark.proves("ClientTrafficPolicy", "headers.withUnderscoresAction")
@pytest.mark.parametrize(
    ("action", "status", "seen"),
    [("Allow", 200, "1"), ("RejectRequest", 400, None), ("DropHeader", 200, None)],
)
async def test_headers_with_underscores(site: Site, action: str, status: int, seen: str | None) -> None:
    port = await listening(site, "scores", f"{{withUnderscoresAction: {action}}}")

    answer = await site.ask("scores.test", port=port, headers={"x_user": "1"})

    assert answer.status_code == status
    if status == 200:
        assert msgspec.json.decode(answer.content, type=Request).header("x_user") == seen


FROM_OUTSIDE = {"x-request-id": "mine", "x-forwarded-for": "203.0.113.7"}
"""Envoy trusts a client from inside more: one that is near, and for which no other proxy speaks."""


@pytest.mark.proves("ClientTrafficPolicy", "headers.requestID")
@pytest.mark.parametrize(
    ("request_id", "without", "kept"),
    [
        ("PreserveOrGenerate", True, True),
        ("Preserve", False, True),
        ("Generate", True, False),
        ("Disable", False, True),
    ],
)
async def test_request_ids(site: Site, request_id: str, without: bool, kept: bool) -> None:
    port = await listening(site, "ids", f"{{requestID: {request_id}}}")

    bare = await site.reached("ids.test", port=port)
    named = await site.reached("ids.test", port=port, headers=FROM_OUTSIDE)

    assert (bare.header("x-request-id") is not None) is without
    assert (named.header("x-request-id") == "mine") is kept


@pytest.mark.proves("ClientTrafficPolicy", "headers.preserveXRequestID")
@pytest.mark.parametrize("kept", [False, True])
async def test_the_request_id_of_a_client_is_kept_as_the_former_field_says(site: Site, kept: bool) -> None:
    port = await listening(site, "former-ids", f"{{preserveXRequestID: {str(kept).lower()}}}")

    request = await site.reached("former-ids.test", port=port, headers=FROM_OUTSIDE)

    assert (request.header("x-request-id") == "mine") is kept


@pytest.mark.proves("ClientTrafficPolicy", "headers.disableRateLimitHeaders")
@pytest.mark.parametrize("disabled", [False, True])
async def test_clients_are_told_what_is_left_of_a_rate_limit(site: Site, disabled: bool) -> None:
    port = await listening(site, "left", f"{{disableRateLimitHeaders: {str(disabled).lower()}}}")
    limit = "rateLimit: {local: {rules: [{limit: {requests: 9, unit: Hour}}]}}"
    await site.apply(m.policy("BackendTrafficPolicy", "left", limit, "HTTPRoute/left"))

    answer = await site.ask("left.test", port=port)

    assert answer.status_code == 200
    assert ("x-ratelimit-remaining" in answer.headers) is not disabled


@pytest.mark.proves("ClientTrafficPolicy", "headers.enableEnvoyHeaders")
async def test_envoys_own_headers_are_there_only_if_asked_for(site: Site) -> None:
    port = await listening(site, "envoys", "{enableEnvoyHeaders: true}")

    with_them = await site.ask("envoys.test", port=port)
    other = await listening(site, "plain", "{}")
    without = await site.ask("plain.test", port=other)

    own = "x-envoy-upstream-service-time"
    assert (own in with_them.headers, own in without.headers) == (True, False)


@pytest.mark.proves("ClientTrafficPolicy", "headers.maxRequestHeaderLimit")
async def test_too_many_headers_are_refused(site: Site) -> None:
    port = await listening(site, "many", "{maxRequestHeaderLimit: 2Ki}")

    statuses = [
        await site.status("many.test", port=port, headers={"x-long": "a" * size}) for size in (1024, 3072)
    ]

    assert statuses == [200, 431]


@pytest.mark.proves("ClientTrafficPolicy", "headers.host.stripTrailingHostDot")
@pytest.mark.parametrize(("strip", "status"), [("true", 200), ("false", 404)])
async def test_the_last_dot_of_a_host(site: Site, strip: str, status: int) -> None:
    port = await listening(site, "dotted", f"{{host: {{stripTrailingHostDot: {strip}}}}}")

    answer = await site.ask("dotted.test.", port=port)

    assert answer.status_code == status
    if status == 200:
        assert msgspec.json.decode(answer.content, type=Request).header("host") == "dotted.test"


async def test_a_policy_with_a_header_that_cannot_be_changed_closes_its_listener(site: Site) -> None:
    port = await listening(
        site, "framed", "{earlyRequestHeaders: {set: [{name: content-length, value: '3'}]}}"
    )

    assert await site.status("framed.test", port=port) == 500


@pytest.mark.proves("ClientTrafficPolicy", "headers.xForwardedClientCert.certDetailsToAdd")
@pytest.mark.parametrize("detail", ["Subject", "Cert", "Chain", "DNS", "URI"])
async def test_backends_learn_of_a_certificate_what_the_policy_says(
    site: Site, tmp_path: Path, detail: str
) -> None:
    mode = f"{{mode: SanitizeSet, certDetailsToAdd: [{detail}]}}"
    port, context = await _shown(site, tmp_path, mode)

    request = await _over_tls(port, context, "")

    fields = {part.partition("=")[0] for part in (request.header(XFCC) or "").split(";")}
    assert fields - {"By", "Hash"} == {detail}


@pytest.mark.proves("ClientTrafficPolicy", "headers.xForwardedClientCert.mode")
@pytest.mark.parametrize(
    ("mode", "seen"),
    [
        ("{}", None),
        ("{mode: AlwaysForwardOnly}", 'Subject="CN=liar"'),
        ("{mode: ForwardOnly}", 'Subject="CN=liar"'),
        ("{mode: SanitizeSet, certDetailsToAdd: [Subject]}", "ours"),
        ("{mode: AppendForward, certDetailsToAdd: [Subject]}", "both"),
    ],
)
async def test_backends_learn_of_a_clients_certificate(
    site: Site, tmp_path: Path, mode: str, seen: str | None
) -> None:
    port, context = await _shown(site, tmp_path, mode)

    request = await _over_tls(port, context, 'Subject="CN=liar"')

    header = request.header(XFCC)
    claims, proves = "CN=liar" in (header or ""), "Hash=" in (header or "")
    match seen:
        case "ours":
            assert (claims, proves) == (False, True)
        case "both":
            assert (claims, proves) == (True, True)
        case _:
            assert header == seen


async def _shown(site: Site, tmp_path: Path, mode: str) -> tuple[int, ssl.SSLContext]:
    """The port of a listener that asks for certificates, with that policy, and the context of a client."""
    authority, port = Authority("clients"), free_port()
    ref = {"group": "", "kind": "ConfigMap", "name": "clients"}
    validation = {"validation": {"caCertificateRefs": [ref]}}
    listener = f"{{name: https, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: xfcc}}]}}}}"
    await site.apply(
        site.authority.sign("xfcc.test").secret("xfcc"),
        m.authorities("clients", authority.pem),
        m.gateway("xfcc", f"[{listener}]", tls={"frontend": {"default": validation}}),
        m.route("xfcc", f"[{{{m.to('one')}}}]", parents="[{name: xfcc}]"),
        m.policy("ClientTrafficPolicy", "xfcc", f"headers: {{xForwardedClientCert: {mode}}}", "Gateway/xfcc"),
    )
    shown = authority.sign("alice", others=[x509.UniformResourceIdentifier("spiffe://here/alice")])
    at = tmp_path / "alice.pem"
    at.write_bytes(shown.pem + shown.key)
    context = site.authority.client_context()
    context.load_cert_chain(at)
    return port, context


async def _over_tls(port: int, context: ssl.SSLContext, claim: str) -> Request:
    """What reaches the backend of a request that makes a claim about the certificate of its client."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="xfcc.test"
        )
        writer.write(
            f"GET / HTTP/1.1\r\nhost: xfcc.test\r\nx-forwarded-client-cert: {claim}\r\n\r\n".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("http/1.1 200"), head
        length = next(line for line in head.split("\r\n") if line.startswith("content-length:"))
        body = await reader.readexactly(int(length.partition(":")[2]))
        writer.close()
    return msgspec.json.decode(body, type=Request)


INSIDERS = {
    "x-envoy-internal": "true",
    "x-envoy-retry-on": "5xx",
    "x-envoy-max-retries": "9",
    "x-envoy-upstream-rq-timeout-ms": "7",
    "x-envoy-upstream-rq-per-try-timeout-ms": "7",
    "x-envoy-expected-rq-timeout-ms": "7",
    "x-envoy-hedge-on-per-try-timeout": "true",
    "x-envoy-upstream-alt-stat-name": "mine",
    "x-envoy-force-trace": "1",
    "x-envoy-ip-tags": "vip",
    "x-envoy-original-url": "http://other.test/",
    "x-forwarded-client-cert": "Hash=0;Subject=boss",
}
"""What tells Envoy, or a backend, something that no client may say."""
PASSED_ON = {
    "x-forwarded-proto": "https",
    "x-request-id": "mine",
    "x-envoy-external-address": "203.0.113.9",
    "x-envoy-decorator-operation": "mine",
    "x-envoy-original-path": "/other",
    "x-envoy-original-host": "other.test",
    "x-envoy-downstream-service-cluster": "mine",
    "x-envoy-downstream-service-node": "mine",
}
"""What is the word of the proxies in front, where the address of a client is."""


@pytest.mark.parametrize("headers", ["", ", headers: {requestID: Generate}"], ids=["", "Generate"])
@pytest.mark.parametrize(
    ("way", "trusts"),
    [
        ("directSourceIP: {}", False),
        ("xForwardedFor: {numTrustedHops: 0}", False),
        ("xForwardedFor: {numTrustedHops: 1}", True),
        ("xForwardedFor: {trustedCIDRs: [10.0.0.0/8]}", True),
        ("customHeader: {name: x-client}", True),
    ],
)
async def test_no_client_says_what_only_envoy_may_wherever_its_address_is_read(
    site: Site, way: str, trusts: bool, headers: str
) -> None:
    """Also an address of a private network in a header makes nobody an insider."""
    spec = f"{{clientIPDetection: {{{way}}}{headers}}}"
    policy = m.policy("ClientTrafficPolicy", "insiders", spec, "Gateway/gateway")
    await site.apply(m.route("insiders", f"[{{{m.to('one')}}}]"), policy)
    claims = {"x-client": "10.0.0.1", "x-forwarded-for": "10.0.0.1"}

    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
        said = {**INSIDERS, **PASSED_ON, **claims}
        request = await site.reached("insiders.test", headers=said, client=client)

    received = dict(request.headers)
    assert received.keys().isdisjoint(INSIDERS)
    assert {name for name, value in PASSED_ON.items() if received.get(name) == value} == (
        set(PASSED_ON) if trusts else set()
    )
    await site.delete(policy)


async def test_what_no_proxy_sets_is_removed_by_an_early_mutation(site: Site) -> None:
    """So a request has an ID of Envoy's, though its address is read from a header."""
    removed = f"{{earlyRequestHeaders: {{remove: [{', '.join(PASSED_ON)}]}}}}"
    spec = f"{{clientIPDetection: {{xForwardedFor: {{numTrustedHops: 1}}}}, headers: {removed}}}"
    policy = m.policy("ClientTrafficPolicy", "early-removed", spec, "Gateway/gateway")
    await site.apply(m.route("early-removed", f"[{{{m.to('one')}}}]"), policy)

    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
        request = await site.reached("early-removed.test", headers=PASSED_ON, client=client)

    received = dict(request.headers)
    assert {name for name, value in PASSED_ON.items() if received.get(name) == value} == set()
    assert received["x-request-id"]
    await site.delete(policy)
