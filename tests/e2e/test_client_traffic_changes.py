"""ClientTrafficPolicies that come, change, merge and go while requests run: none of them fails."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.e2e import manifests as m
from tests.e2e.callers import KINDS, QUIC_KINDS
from tests.e2e.conftest import Site
from tests.e2e.guarded import watching
from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

FIELDS = (
    "proxyProtocol: {optional: true}",
    "tls: {minVersion: '1.2', maxVersion: '1.3'}",
    "tls: {alpnProtocols: [http/1.1, h2]}",
    "tls: {session: {resumption: {stateless: {}}}}",
    "tls: {fingerprints: [JA3]}",
    "tls: {ecdhCurves: [P-256, X25519]}",
    "connection: {connectionLimit: {value: 500}}",
    "connection: {connectionLimit: {value: 400, maxRequestsPerConnection: 5}}",
    "connection: {connectionLimit: {value: 400, maxConnectionDuration: 1s}}",
    "connection: {connectionLimit: {value: 400, maxStreamDuration: 20s}}",
    "connection: {bufferLimit: 64Ki, maxAcceptPerSocketEvent: 3}",
    "http1: {enableTrailers: true}",
    "http1: {preserveHeaderCase: true}",
    "http1: {http10: {}}",
    "http2: {maxConcurrentStreams: 3, initialStreamWindowSize: 128Ki}",
    "http2: {onInvalidMessage: TerminateStream, connectionKeepalive: {interval: 30s, timeout: 20s}}",
    "timeout: {http: {requestReceivedTimeout: 9s, streamIdleTimeout: 8s}}",
    "timeout: {http: {idleTimeout: 9s}}",
    "timeout: {tcp: {tlsHandshakeTimeout: 9s, connectionInspectionTimeout: 9s}}",
    "headers: {enableEnvoyHeaders: true, earlyRequestHeaders: {set: [{name: x-a, value: b}]}}",
    "headers: {lateResponseHeaders: {set: [{name: x-a, value: b}]}, withUnderscoresAction: Allow}",
    "path: {escapedSlashesAction: KeepUnchanged, disableMergeSlashes: true}",
    "clientIPDetection: {xForwardedFor: {numTrustedHops: 1}}",
    "clientIPDetection: {customHeader: {name: x-ip}}",
    "healthCheck: {path: /ready}",
    "scheme: MatchBackend",
    "grpc: {enableWeb: true}",
)
DRAIN_S, CUT = 5.0, "triggered_delayed_close_timeout"
"""After how long Envoy ends what drains, and the reason that it gives over HTTP/3."""
TARGETS = ("Gateway/clients", "Gateway/clients/secure", "Gateway/clients/plain")


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_request_fails_while_policies_about_clients_change(
    site: Site, tmp_path: Path, seed: int
) -> None:
    """From any field to any other, from a Gateway to a listener and back, merged and not.

    But over HTTP/3, Envoy does not ask connections to end that drain; a slow machine sees it cut them.

    ``tcpKeepalive`` is not among them: a port is closed and opened again for it.
    """
    chance, host = Random(seed), "clients.test"
    plain, secure = free_port(), free_port()
    tls = "tls: {certificateRefs: [{name: clients}]}"
    listeners = (
        f"[{{name: plain, port: {plain}, protocol: HTTP}}, "
        f"{{name: secure, port: {secure}, protocol: HTTPS, hostname: {host}, {tls}}}]"
    )
    gateway = m.gateway("clients", listeners)
    await site.apply(
        site.authority.sign(host).secret("clients"),
        gateway,
        m.route("clients", f"[{{{m.to('one')}}}]", parents="[{name: clients}]"),
        m.policy("ClientTrafficPolicy", "wide", "{http3: {}}", TARGETS[0]),
    )
    origins = [f"http://{host}:{plain}", f"https://{host}:{secure}", f"quic://{host}:{secure}"]
    passing = {origin: frozenset({"anybody"}) for origin in origins}

    async with watching(tmp_path, 0, origins, {"anybody": {}}, pause_s=0.01) as watch:
        await watch.begin(passing)
        for field in chance.sample(FIELDS, len(FIELDS)):
            target = chance.choice(TARGETS)
            name = "wide" if target == TARGETS[0] else target.rpartition("/")[2]
            merge = "" if name == "wide" else chance.choice(["", "mergeType: JSONMerge, "])
            async with watch.change(passing):
                body = f"{{http3: {{}}, {merge}{field}}}"
                await site.apply(m.policy("ClientTrafficPolicy", name, body, target))
            if name != "wide" and chance.random() < 0.3:
                async with watch.change(passing):
                    await site.delete(m.policy("ClientTrafficPolicy", name, "{}", target))
        await watch.end()
    for name in ("secure", "plain", "wide"):
        await site.delete(m.policy("ClientTrafficPolicy", name, "{}", TARGETS[0]))
    await site.delete(gateway)

    cut = Counter(
        (a.kind, a.status, a.error)
        for a in watch.answers
        if a.kind in QUIC_KINDS and CUT in a.error and a.received - a.opened > DRAIN_S
    )
    assert not watch.shut_out() - cut
    assert {answer.kind for answer in watch.answers} == {*KINDS, *QUIC_KINDS}
