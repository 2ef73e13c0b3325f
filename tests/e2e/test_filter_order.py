"""The order of HTTP filters, seen by its effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e import manifests as m

if TYPE_CHECKING:
    from tests.e2e.conftest import Site

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

ONCE = {"connection": "close"}
"""Connections that are open keep the order with which they were accepted."""
PREFLIGHT = {**ONCE, "origin": "https://a.test", "access-control-request-method": "GET"}
ASK_FIRST = (
    "{name: envoy.filters.http.basic_auth, before: envoy.filters.http.cors}",
    "{name: envoy.filters.http.fault, after: envoy.filters.http.basic_auth}",
)


def proxy(*moves: str) -> m.Document:
    document = m.http_route_filter("ordered", f"{{filterOrder: [{', '.join(moves)}]}}")
    return {**document, "kind": "EnvoyProxy"}


async def test_who_is_asked_for_a_password_first_gets_no_other_answer_without_one(site: Site) -> None:
    parameters = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "ordered"}
    await site.apply(
        proxy(),
        m.gateway(
            "gateway",
            f"[{{name: http, port: {site.port}, protocol: HTTP}}]",
            infrastructure={"parametersRef": parameters},
        ),
        m.secret("users", _htpasswd="ann:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="),
        m.route("order", f"[{{{m.to('one')}}}]"),
        m.policy(
            "SecurityPolicy",
            "order",
            "{basicAuth: {users: {name: users}},"
            " cors: {allowOrigins: ['https://a.test'], allowMethods: [GET]}}",
            "HTTPRoute/order",
        ),
        m.policy(
            "BackendTrafficPolicy", "order", "{faultInjection: {abort: {httpStatus: 418}}}", "HTTPRoute/order"
        ),
    )

    assert await site.status("order.test", headers=ONCE) == 418
    assert await site.status("order.test", method="OPTIONS", headers=PREFLIGHT) == 418

    await site.apply(proxy(ASK_FIRST[1]))

    assert await site.status("order.test", headers=ONCE) == 401
    assert await site.status("order.test", method="OPTIONS", headers=PREFLIGHT) == 200

    await site.apply(proxy(*ASK_FIRST))

    assert await site.status("order.test", headers=ONCE) == 401
    assert await site.status("order.test", method="OPTIONS", headers=PREFLIGHT) == 401
    assert await site.status("order.test", headers=ONCE, auth=("ann", "password")) == 418
