"""Where requests go: Services, Backends of every kind, weights, grants, and what broken ones answer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from websockets.asyncio.client import connect

from tests.e2e import manifests as m
from tests.e2e.backends import Echo, EchoOverHttp2, websocket_echo
from tests.e2e.conftest import Site
from tests.ports import free_port

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


def to_service(name: str, port: int = 80, namespace: str = "") -> str:
    """A rule's ``backendRefs``, in YAML."""
    more = f", namespace: {namespace}" if namespace else ""
    return f"backendRefs: [{{name: {name}, port: {port}{more}}}]"


async def weighted_clusters(site: Site, host: str, count: int = 200) -> Counter[str]:
    """Who answered, and with what else than 200, of so many requests."""
    answers: Counter[str] = Counter()
    for _ in range(count):
        answer = await site.ask(host)
        answers[answer.headers.get("x-backend", str(answer.status_code))] += 1
    return answers


async def test_a_service_is_reached_at_the_endpoints_of_its_slices(site: Site) -> None:
    await site.apply(
        m.service("s"), m.endpoint_slice("s", site.one.port), m.route("service", f"[{{{to_service('s')}}}]")
    )

    assert (await site.reached("service.test")).by == "one"

    await site.apply(m.endpoint_slice("s", site.two.port))

    assert (await site.reached("service.test")).by == "two"


async def test_a_service_without_endpoints_answers_503_until_one_comes(site: Site) -> None:
    document = m.route("empty", f"[{{{to_service('empty')}}}]")
    await site.apply(m.service("empty"), m.endpoint_slice("empty", 0), document)

    assert await site.status("empty.test") == 503

    await site.apply(m.endpoint_slice("empty", site.one.port))

    assert await site.status("empty.test") == 200

    await site.apply(m.endpoint_slice("empty", 0))

    assert await site.status("empty.test") == 503


async def test_a_service_that_does_not_exist_answers_500_until_it_does(site: Site) -> None:
    document = m.route("missing", f"[{{{to_service('missing')}}}]")
    await site.apply(document)

    assert await site.status("missing.test") == 500
    assert site.conditions(document)["ResolvedRefs"]["reason"] == "BackendNotFound"

    await site.apply(m.service("missing"), m.endpoint_slice("missing", site.one.port))

    assert await site.status("missing.test") == 200


async def test_a_port_that_a_service_lacks_answers_500(site: Site) -> None:
    await site.apply(
        m.service("p"),
        m.endpoint_slice("p", site.one.port),
        m.route("no-port", f"[{{{to_service('p', 81)}}}]"),
    )

    assert await site.status("no-port.test") == 500


async def test_a_rule_without_backends_answers_500(site: Site) -> None:
    await site.apply(m.route("nobody", "[{matches: [{path: {value: /}}]}]"))

    assert await site.status("nobody.test") == 500


async def test_weights_share_the_requests(site: Site) -> None:
    await site.apply(m.route("weights", f"[{{{m.to('one=3', 'two=1', 'three=0')}}}]"))

    answers = await weighted_clusters(site, "weights.test", 400)

    assert answers["three"] == 0
    assert 230 < answers["one"] < 370
    assert answers["one"] + answers["two"] == 400


async def test_a_broken_backend_costs_its_share_and_no_more(site: Site) -> None:
    await site.apply(m.route("half", f"[{{{m.to('one=1', 'not-there=1')}}}]"))

    answers = await weighted_clusters(site, "half.test")

    assert set(answers) == {"one", "500"}
    assert 50 < answers["500"] < 150


async def test_an_empty_backend_costs_its_share_and_no_more(site: Site) -> None:
    refs = "backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}, {name: hollow, port: 80}]"
    await site.apply(m.service("hollow"), m.endpoint_slice("hollow", 0), m.route("hollow", f"[{{{refs}}}]"))

    answers = await weighted_clusters(site, "hollow.test")

    assert set(answers) == {"one", "503"}
    assert 50 < answers["503"] < 150


async def test_a_backend_by_name_is_resolved(site: Site) -> None:
    """On a laptop a name may have one label: ``localhost`` is what people have."""
    await site.apply(
        m.backend("named", f"fqdn: {{hostname: localhost, port: {site.two.port}}}"),
        m.route("named", f"[{{{m.to('named')}}}]"),
    )

    assert (await site.reached("named.test")).by == "two"


async def test_a_backend_on_a_unix_socket_is_reached(site: Site) -> None:
    with TemporaryDirectory(prefix="mg-", dir="/tmp") as folder:
        path = Path(folder, "echo")
        async with Echo("unix").serving(unix=path):
            await site.apply(
                m.backend("unix", f"unix: {{path: {path}}}"), m.route("unix", f"[{{{m.to('unix')}}}]")
            )

            assert (await site.reached("unix.test")).by == "unix"


async def test_a_backend_of_several_endpoints_uses_all(site: Site) -> None:
    await site.apply(m.local("both", site.one.port, site.two.port), m.route("both", f"[{{{m.to('both')}}}]"))

    assert set(await weighted_clusters(site, "both.test", 60)) == {"one", "two"}


async def test_a_backend_that_speaks_http2_in_clear_text_is_spoken_to_so(site: Site) -> None:
    async with EchoOverHttp2("h2c").serving() as upstream:
        await site.apply(
            m.local("h2c", upstream.port, appProtocols=["gateway.envoyproxy.io/h2c"]),
            m.route("h2c", f"[{{{m.to('h2c')}}}]"),
            m.service("h2c", app_protocol="kubernetes.io/h2c"),
            m.endpoint_slice("h2c", upstream.port),
            m.route("h2c-service", f"[{{{to_service('h2c')}}}]"),
        )

        assert (await site.reached("h2c.test")).version == "2"
        assert (await site.reached("h2c-service.test")).version == "2"


async def test_a_websocket_is_passed_through(site: Site) -> None:
    async with websocket_echo() as port:
        await site.apply(
            m.local("ws", port),
            m.route("ws", f"[{{{m.to('ws')}}}]"),
            m.service("ws", app_protocol="kubernetes.io/ws"),
            m.endpoint_slice("ws", port),
            m.route("ws-service", f"[{{{to_service('ws')}}}]"),
        )

        for host in ("ws.test", "ws-service.test"):
            async with connect(f"ws://{host}/", host="127.0.0.1", port=site.port) as socket:
                await socket.send("hello")
                assert await socket.recv() == "hello"


async def test_a_backend_that_nobody_listens_on_answers_503(site: Site) -> None:
    await site.apply(m.local("dead", free_port()), m.route("dead", f"[{{{m.to('dead')}}}]"))

    assert await site.status("dead.test") == 503


async def test_a_backend_of_another_namespace_wants_a_grant(site: Site) -> None:
    document = m.route("granted", f"[{{{to_service('far', 80, 'far')}}}]")
    await site.apply(
        m.service("far", namespace="far"), m.endpoint_slice("far", site.one.port, namespace="far"), document
    )

    assert await site.status("granted.test") == 500
    assert site.conditions(document)["ResolvedRefs"]["reason"] == "RefNotPermitted"

    permission = m.grant("far", kind="HTTPRoute", of="default", to_kind="Service")
    await site.apply(permission)

    assert await site.status("granted.test") == 200

    await site.delete(permission)

    assert await site.status("granted.test") == 500


async def test_backends_learn_who_called_and_over_what(site: Site) -> None:
    await site.apply(m.route("forwarded", f"[{{{m.to('one')}}}]"))

    request = await site.reached("forwarded.test")

    assert request.header("x-forwarded-for")
    assert request.header("x-forwarded-proto") == "http"
    assert request.header("x-request-id")
    assert request.header("host") == "forwarded.test"


async def test_a_route_that_asks_for_default_gateways_is_served_by_one(site: Site) -> None:
    """As long as it is one."""

    def gateway(scope: str) -> m.Document:
        listener = f"[{{name: http, port: {site.port}, protocol: HTTP}}]"
        return m.gateway("gateway", listener, defaultScope=scope)

    asking = m.route("default", f"[{{{m.to('one')}}}]", parents="[]")
    asking["spec"]["useDefaultGateways"] = "All"

    await site.apply(asking)
    assert await site.status("default.test") == 404

    await site.apply(gateway("All"))
    assert await site.status("default.test") == 200
    assert site.conditions(asking)["Accepted"]["status"] == "True"

    await site.apply(gateway("None"))
    assert await site.status("default.test") == 404
