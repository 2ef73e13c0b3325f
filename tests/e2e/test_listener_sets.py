"""Teams that share a Gateway: each has listeners, certificates, routes and policies of its own."""

from __future__ import annotations

import pytest

from tests.e2e import manifests as m
from tests.e2e.conftest import Site
from tests.e2e.test_listeners import http, https, serial, tls
from tests.ports import free_port

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

ALL = {"namespaces": {"from": "All"}}


async def test_two_teams_serve_by_tls_each_with_its_own_certificate_routes_and_policy(site: Site) -> None:
    """What one team writes does not reach the other: neither its routes nor its policy."""
    port, own = free_port(), free_port()
    signed = {team: site.authority.sign(f"{team}.test") for team in ("red", "blue")}
    await site.apply(
        m.gateway("shared", f"[{http('own', own)}]", allowedListeners=ALL),
        *(
            document
            for team, backend in [("red", "one"), ("blue", "two")]
            for document in (
                m.namespace(team),
                signed[team].secret("cert", team),
                m.listener_set(
                    "more", f"[{https('web', port, 'cert', f'{team}.test')}]", of="shared", namespace=team
                ),
                m.local(backend, site.backends[backend].port, namespace=team),
                m.route(
                    "all",
                    f"[{{{m.to(backend)}}}]",
                    hostnames=("red.test", "blue.test"),
                    parents="[{kind: ListenerSet, name: more}]",
                    namespace=team,
                ),
            )
        ),
    )

    for team, backend in [("red", "one"), ("blue", "two")]:
        answer = await site.ask(f"{team}.test", port=port, tls=True)
        assert (answer.status_code, answer.headers["x-backend"]) == (200, backend)
        async with tls(site, port, f"{team}.test") as (_, connection):
            assert serial(connection) == signed[team].serial
    assert await site.status("red.test", port=own) == 404

    guard = m.policy(
        "SecurityPolicy", "guard", "basicAuth: {users: {name: none}}", "ListenerSet/more", namespace="red"
    )
    await site.apply(guard)
    assert await site.status("red.test", port=port, tls=True) == 500
    assert await site.status("blue.test", port=port, tls=True) == 200
    assert site.conditions(guard)["Accepted"]["status"] == "False"
    await site.delete(guard)
    assert await site.status("red.test", port=port, tls=True) == 200
