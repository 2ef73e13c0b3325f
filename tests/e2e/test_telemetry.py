"""Access logs, spans and statistics really arrive where an EnvoyProxy sends them."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc
import httpx
import msgspec
import pytest
import pytest_asyncio

from moongate.run import Laptop
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Echo
from tests.e2e.certificates import Authority
from tests.e2e.collectors import Collector, SpanServer, attributes
from tests.e2e.conftest import until
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

ADDRESS = "127.0.61.1"
"""An address of its own: the port for Prometheus is always the same."""
OTEL = """
            type: OpenTelemetry
            backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: collector}]
            openTelemetry: {resourceAttributes: {team: shop}}
"""


class Place:
    """A gateway that reports to a collector, with a backend behind it."""

    def __init__(self, laptop: Laptop, folder: Path) -> None:
        self.laptop = laptop
        self.port = free_port()
        self.file = folder / "access.log"
        self.collector = Collector()
        self.spans = SpanServer()
        self.echo = Echo("one")

    async def ask(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
            url = f"http://{ADDRESS}:{self.port}{path}"
            return await client.get(url, headers={"host": "one.test", "x-user": "ann"})

    async def report(self, provider: str) -> None:
        """Put the EnvoyProxy in force, with spans to another provider."""
        await self.laptop.apply([self.proxy(provider)])

    def proxy(self, provider: str) -> dict[str, Any]:
        backend = "{group: gateway.envoyproxy.io, kind: Backend, name: collector}"
        telemetry = f"""
        accessLog:
          settings:
          - format: {{type: Text, text: "%REQ(:PATH)% %RESPONSE_CODE%\\n"}}
            matches: ["request.path.startsWith('/logged')"]
            sinks: [{{type: File, file: {{path: "{self.file}"}}}}]
          - format: {{text: "to %REQ(:PATH)%", json: {{code: "%RESPONSE_CODE%"}}}}
            type: Route
            sinks:
            - type: OpenTelemetry
              openTelemetry:
                backendRefs: [{backend}]
                resourceAttributes: {{cluster: c1}}
                headers: [{{name: x-token, value: "s3cret %%"}}]
          - type: Route
            sinks:
            - type: ALS
              als: {{type: HTTP, backendRefs: [{backend}], http: {{requestHeaders: [x-user]}}}}
            - type: ALS
              als: {{type: TCP, logName: connections, backendRefs: [{backend}]}}
        tracing:
          tags: {{user: "%REQ(X-USER)%"}}
          spanName: {{client: "in %REQ(:PATH)%", server: "out %REQ(:PATH)%"}}
          provider: {provider}
        metrics:
          prometheus: {{compression: {{type: Gzip}}}}
          enableVirtualHostStats: true
          enablePerEndpointStats: true
          sinks:
          - type: OpenTelemetry
            openTelemetry: {{backendRefs: [{backend}], resourceAttributes: {{cluster: c1}}}}
        """
        spec = {"telemetry": m.spec(telemetry)}
        metadata = {"name": "reporting", "namespace": "default"}
        return {"apiVersion": m.ENVOY, "kind": "EnvoyProxy", "metadata": metadata, "spec": spec}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Place]:
    """One for all tests: to start an Envoy with other statistics takes a second."""
    async with AsyncExitStack() as stack:
        laptop = await stack.enter_async_context(Laptop(bind=ADDRESS))
        at = Place(laptop, tmp_path_factory.mktemp("logs"))
        for each in (at.collector, at.spans, at.echo):
            await stack.enter_async_context(each.serving())
        ref = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "reporting"}
        listeners = f"[{{name: http, port: {at.port}, protocol: HTTP}}]"
        await laptop.apply(
            [
                at.proxy(OTEL),
                m.gateway("gateway", listeners, infrastructure={"parametersRef": ref}),
                m.local("collector", at.collector.port),
                m.local("spans", at.spans.port),
                m.local("one", at.echo.port),
                m.route("one", f"[{{{m.to('one')}}}]"),
            ]
        )
        yield at


def of_spans(kind: str) -> str:
    return f"{{type: {kind}, backendRefs: [{{group: gateway.envoyproxy.io, kind: Backend, name: spans}}]}}"


async def test_opentelemetry_gets_access_logs(place: Place) -> None:
    """With a text and attributes, and the headers that the collector asks for."""
    assert (await place.ask("/otel-log")).status_code == 200
    text = "to /otel-log"
    await until(lambda: any(record.body.string_value == text for record in place.collector.records()))

    resource = place.collector.logs[-1].resource_logs[0]
    record = next(each for each in place.collector.records() if each.body.string_value == text)
    assert attributes(record.attributes)["code"] == "200"
    assert attributes(resource.resource.attributes)["cluster"] == "c1"
    assert place.collector.headers["logs.v1.LogsService"]["x-token"] == "s3cret %%"


async def test_an_access_log_service_gets_entries_of_requests_and_of_connections(place: Place) -> None:
    await place.ask("/als")
    await until(lambda: any(e.http_logs.log_entry for e in place.collector.entries))
    await until(lambda: any(e.tcp_logs.log_entry for e in place.collector.entries))

    entries = [entry for e in place.collector.entries for entry in e.http_logs.log_entry]
    assert any(entry.request.request_headers["x-user"] == "ann" for entry in entries)
    names = {e.identifier.log_name for e in place.collector.entries if e.HasField("identifier")}
    assert names == {"default/reporting", "connections"}


async def test_a_file_gets_the_requests_that_meet_the_condition(place: Place) -> None:
    await place.ask("/unlogged")
    await place.ask("/logged")
    await until(lambda: place.file.exists() and "/logged" in place.file.read_text())

    assert place.file.read_text().splitlines() == ["/logged 200"]


async def test_opentelemetry_gets_spans(place: Place) -> None:
    await place.ask("/span")
    await until(lambda: any(span.name == "out /span" for span in place.collector.spans()))
    await until(lambda: any(span.name == "in /span" for span in place.collector.spans()))

    span = next(span for span in place.collector.spans() if span.name == "in /span")
    assert attributes(span.attributes)["user"] == "ann"
    resource = attributes(place.collector.traces[-1].resource_spans[0].resource.attributes)
    assert (resource["service.name"], resource["team"]) == ("gateway.default", "shop")


SAMPLED: dict[str, tuple[str, dict[str, str], bool]] = {
    "all": ("{}", {}, True),
    "none": ("{samplingFraction: {numerator: 0}}", {}, False),
    "one-of-one": ("{samplingFraction: {numerator: 1, denominator: 1}}", {}, True),
    "hardly-any": ("{samplingFraction: {numerator: 1, denominator: 1000000}}", {}, False),
    "those-that-ask": (
        "{samplingFraction: {numerator: 0}, clientSamplingFraction: {numerator: 1, denominator: 1}}",
        {"x-client-trace-id": "1"},
        True,
    ),
    "hardly-those-that-ask": (
        "{samplingFraction: {numerator: 0}, clientSamplingFraction: {numerator: 1, denominator: 1000000}}",
        {"x-client-trace-id": "1"},
        False,
    ),
    "none-at-all": ("{overallSamplingFraction: {numerator: 0}}", {}, False),
    "one-of-one-overall": ("{overallSamplingFraction: {numerator: 1, denominator: 1}}", {}, True),
    "hardly-any-overall": ("{overallSamplingFraction: {numerator: 1, denominator: 1000000}}", {}, False),
}
"""The ``tracing`` of a policy, the headers of a request, and whether it has a span."""


def tracing(name: str, body: str) -> tuple[m.Document, m.Document]:
    """A route whose policy says which requests have spans, and what these say."""
    policy = m.policy("BackendTrafficPolicy", name, f"telemetry: {{tracing: {body}}}", f"HTTPRoute/{name}")
    return m.route(name, f"[{{{m.to('one')}}}]"), policy


@pytest.mark.slow
@pytest.mark.proves(
    "BackendTrafficPolicy",
    "telemetry.tracing.samplingFraction.*",
    "telemetry.tracing.clientSamplingFraction.*",
    "telemetry.tracing.overallSamplingFraction.*",
)
async def test_a_policy_says_which_requests_have_spans(place: Place) -> None:
    await place.laptop.apply([each for name in SAMPLED for each in tracing(name, SAMPLED[name][0])])
    url = f"http://{ADDRESS}:{place.port}/sampled"
    # Over one connection, so by one worker of Envoy, which sends its spans in order.
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
        for name, (_, headers, _) in SAMPLED.items():
            answer = await client.get(url, headers={"host": f"{name}.test", **headers})
            assert answer.status_code == 200
        await client.get(f"{url}-last", headers={"host": "one.test"})
    await until(lambda: any("/sampled-last" in str(span) for span in place.collector.spans()))

    hosts = {
        urlsplit(attributes(span.attributes).get("http.url", "")).hostname for span in place.collector.spans()
    }
    assert {name for name in SAMPLED if f"{name}.test" in hosts} == {
        name for name, (_, _, traced) in SAMPLED.items() if traced
    }


SPAN = """
tags: {caller: "%REQ(X-USER)%"}
customTags:
  literal: {type: Literal, literal: {value: fixed}}
  header: {type: RequestHeader, requestHeader: {name: x-user, defaultValue: nobody}}
  missing: {type: RequestHeader, requestHeader: {name: x-missing, defaultValue: nobody}}
  variable: {type: Environment, environment: {name: PATH, defaultValue: none}}
  unset: {type: Environment, environment: {name: NO_SUCH_VARIABLE, defaultValue: none}}
spanName: {client: "asked for %REQ(:PATH)%", server: "went to %REQ(:PATH)%"}
"""


@pytest.mark.slow
@pytest.mark.proves(
    "BackendTrafficPolicy",
    "telemetry.tracing.tags",
    "telemetry.tracing.customTags[].*",
    "telemetry.tracing.spanName.client",
    "telemetry.tracing.spanName.server",
)
async def test_a_policy_says_what_spans_are_called_and_what_they_say(place: Place) -> None:
    await place.laptop.apply([*tracing("spelled", msgspec.json.encode(m.spec(SPAN)).decode())])
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
        headers = {"host": "spelled.test", "x-user": "ann"}
        await client.get(f"http://{ADDRESS}:{place.port}/spelled", headers=headers)
    names = {"asked for /spelled", "went to /spelled"}
    await until(lambda: names <= {span.name for span in place.collector.spans()})

    span = next(span for span in place.collector.spans() if span.name == "asked for /spelled")
    expected = {
        "caller": "ann",
        "literal": "fixed",
        "header": "ann",
        "missing": "nobody",
        "variable": os.environ["PATH"],
        "unset": "none",
    }
    assert expected.items() <= attributes(span.attributes).items()


async def test_opentelemetry_gets_statistics(place: Place) -> None:
    await place.ask("/counted")
    await until(lambda: any("upstream_rq_total" in name for name in place.collector.metric_names()))

    [resource] = place.collector.metrics[-1].resource_metrics
    assert attributes(resource.resource.attributes)["cluster"] == "c1"


async def test_prometheus_gets_statistics_and_nothing_else_of_the_admin_interface(place: Place) -> None:
    await place.ask("/scraped")
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client:
        answer = await client.get(f"http://{ADDRESS}:19001/stats/prometheus")
        other = await client.get(f"http://{ADDRESS}:19001/config_dump")
        posted = await client.post(f"http://{ADDRESS}:19001/stats/prometheus")

    assert answer.headers["content-encoding"] == "gzip"
    assert 'envoy_cluster_upstream_rq_total{envoy_cluster_name="backend/default/one' in answer.text
    assert "envoy_cluster_endpoint_rq_total{" in answer.text
    assert "envoy_vhost_vcluster_upstream_rq" in answer.text
    assert (other.status_code, posted.status_code) == (404, 404)


async def test_zipkin_and_then_datadog_get_spans(place: Place) -> None:
    """Another provider needs no other Envoy."""
    pid = place.laptop.fleets.report()[0]["envoy"]["pid"]
    await place.report(of_spans("Zipkin"))
    await place.ask("/zipkin")
    await until(lambda: any(span.get("name") == "in /zipkin" for span in place.spans.spans()))

    span = next(span for span in place.spans.spans() if span.get("name") == "in /zipkin")
    assert span["tags"]["user"] == "ann"
    assert {path for path, _ in place.spans.posted} == {"/api/v2/spans"}

    place.spans.posted.clear()
    await place.report(of_spans("Datadog"))
    await place.ask("/datadog")
    await until(lambda: any("/datadog" in str(span) for span in place.spans.spans()))

    span = next(span for span in place.spans.spans() if "in /datadog" in str(span))
    assert span["service"] == "gateway.default"
    assert span["meta"]["user"] == "ann"
    assert place.laptop.fleets.report()[0]["envoy"]["pid"] == pid


ALL_TO_SINKS = """
accessLog:
  settings:
  - format: {type: Text, text: "%REQ(:PATH)%"}
    type: Route
    sinks:
    - type: OpenTelemetry
      openTelemetry: {backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: strict}]}
    - type: OpenTelemetry
      openTelemetry: {backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: stranger}]}
    - type: ALS
      als: {type: HTTP, backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: strict}]}
    - type: ALS
      als: {type: HTTP, backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: stranger}]}
tracing:
  spanName: {client: "in %REQ(:PATH)%", server: "out %REQ(:PATH)%"}
  provider:
    type: OpenTelemetry
    backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: strict}]
"""


async def test_requests_do_not_wait_for_sinks_that_never_answer(place: Place) -> None:
    """A server whose process stands still, so that connections open and nothing is read; and none at all."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = place.proxy(OTEL)
        proxy["spec"] = {"telemetry": m.spec(ALL_TO_SINKS)}
        await place.laptop.apply(
            [
                proxy,
                m.local("strict", silent.getsockname()[1]),
                m.local("stranger", free_port()),
            ]
        )

        answers = await asyncio.gather(*(place.ask(f"/{n}") for n in range(20)))

    assert {answer.status_code for answer in answers} == {200}


async def test_reports_go_by_tls_to_a_collector_that_demands_a_certificate() -> None:
    """Each side checks the other: a collector with another name gets nothing."""
    authority, collector, stranger = Authority(), Collector(), Collector()

    def shown_by(name: str) -> grpc.ServerCredentials:
        own = authority.sign(name)
        return grpc.ssl_server_credentials(
            [(own.key, own.pem)], root_certificates=authority.pem, require_client_auth=True
        )

    def backend(name: str, port: int) -> dict[str, Any]:
        cas = {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "ours"}]}
        return m.local(name, port, tls={**cas, "sni": "collector.test"})

    def sink(kind: str, field: str, name: str) -> str:
        ref = f"{{group: gateway.envoyproxy.io, kind: Backend, name: {name}}}"
        return f"{{type: {kind}, {field}: {{backendRefs: [{ref}]{', type: HTTP' * (kind == 'ALS')}}}}}"

    sinks = [sink(*of, name) for of in (("OpenTelemetry", "openTelemetry"), ("ALS", "als"))
             for name in ("collector", "stranger")]  # fmt: skip
    settings = f"{{settings: [{{type: Route, format: {{text: seen}}, sinks: [{', '.join(sinks)}]}}]}}"
    certificate = "{clientCertificateRef: {name: own}}"
    proxy = {
        "apiVersion": m.ENVOY,
        "kind": "EnvoyProxy",
        "metadata": {"name": "secure", "namespace": "default"},
        "spec": m.spec(f"{{telemetry: {{accessLog: {settings}}}, backendTLS: {certificate}}}"),
    }
    port, ref = free_port(), {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "secure"}
    listeners = f"[{{name: http, port: {port}, protocol: HTTP}}]"
    async with (
        collector.serving(shown_by("collector.test")),
        stranger.serving(shown_by("stranger.test")),
        Laptop() as laptop,
        httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client,
    ):
        await laptop.apply(
            [
                proxy,
                m.gateway("gateway", listeners, infrastructure={"parametersRef": ref}),
                m.authorities("ours", authority.pem),
                authority.sign("envoy.test").secret("own"),
                backend("collector", collector.port),
                backend("stranger", stranger.port),
                m.route("one", "[{filters: [{type: RequestRedirect, requestRedirect: {hostname: b.test}}]}]"),
            ]
        )
        answer = await client.get(f"http://127.0.0.1:{port}/", headers={"host": "one.test"})
        assert answer.status_code == 302
        await until(lambda: bool(collector.records() and collector.entries))

    assert [record.body.string_value for record in collector.records()] == ["seen"]
    assert any(entry.http_logs.log_entry for entry in collector.entries)
    assert (stranger.headers, stranger.logs, stranger.entries) == ({}, [], [])
