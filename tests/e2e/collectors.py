"""Where an Envoy reports to: an OpenTelemetry collector, an access log service, and collectors of spans.

The messages of OpenTelemetry are those that xds-protos has, of an older release: a scope is called an
instrumentation library in them. On the wire they are the same.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import grpc.aio
import msgspec
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable

    from google.protobuf.message import Message
    from opentelemetry.proto.common.v1.common_pb2 import KeyValue
    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
    from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """A gRPC server that keeps what it gets.

    Attributes:
        port: where it listens on loopback.
        logs: requests of OpenTelemetry with log records.
        traces: the same with spans.
        metrics: the same with metrics.
        entries: messages of Envoy's own access log service.
        headers: the metadata of each call, by the name of the method.
    """

    def __init__(self) -> None:
        self.port = 0
        self.logs: list[ExportLogsServiceRequest] = []
        self.traces: list[ExportTraceServiceRequest] = []
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.entries: list[StreamAccessLogsMessage] = []
        self.headers: dict[str, dict[str, str]] = {}

    def spans(self) -> list[Span]:
        return [
            span
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.instrumentation_library_spans
            for span in scope.spans
        ]

    def records(self) -> list[LogRecord]:
        return [
            record
            for request in self.logs
            for resource in request.resource_logs
            for scope in resource.instrumentation_library_logs
            for record in scope.logs
        ]

    def metric_names(self) -> set[str]:
        return {
            metric.name
            for request in self.metrics
            for resource in request.resource_metrics
            for scope in resource.instrumentation_library_metrics
            for metric in scope.metrics
        }

    @asynccontextmanager
    async def serving(self, credentials: grpc.ServerCredentials | None = None) -> AsyncGenerator[Collector]:
        """Listen; with TLS, if there are credentials for it."""
        server = grpc.aio.server()
        kinds: tuple[tuple[str, list[Any], type[Message], type[Message]], ...] = (
            ("logs.v1.LogsService", self.logs, ExportLogsServiceRequest, ExportLogsServiceResponse),
            ("trace.v1.TraceService", self.traces, ExportTraceServiceRequest, ExportTraceServiceResponse),
            (
                "metrics.v1.MetricsService",
                self.metrics,
                ExportMetricsServiceRequest,
                ExportMetricsServiceResponse,
            ),
        )
        for name, kept, request, answer in kinds:
            export = grpc.unary_unary_rpc_method_handler(
                self._taking(name, kept, answer()),
                request_deserializer=request.FromString,
                response_serializer=_encoded,
            )
            service = f"opentelemetry.proto.collector.{name}"
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, {"Export": export}),)
            )
        stream = grpc.stream_unary_rpc_method_handler(
            self._take_entries,
            request_deserializer=StreamAccessLogsMessage.FromString,
            response_serializer=_encoded,
        )
        als = {"StreamAccessLogs": stream}
        service = "envoy.service.accesslog.v3.AccessLogService"
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, als),))
        if credentials is None:
            self.port = server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        try:
            yield self
        finally:
            await server.stop(None)

    def _taking(self, service: str, kept: list[Any], answer: Message) -> Any:
        async def take(request: Message, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
            self._keep_headers(service, context)
            kept.append(request)
            return answer

        return take

    async def _take_entries(
        self, messages: AsyncIterator[StreamAccessLogsMessage], context: grpc.aio.ServicerContext[Any, Any]
    ) -> Message:
        self._keep_headers("als", context)
        async for message in messages:
            self.entries.append(message)
        return StreamAccessLogsResponse()

    def _keep_headers(self, service: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.headers[service] = {str(k): str(v) for k, v in context.invocation_metadata() or ()}


def _encoded(message: Message) -> bytes:
    return message.SerializeToString()


class SpanServer:
    """An HTTP server that keeps the spans that are posted to it: as JSON for Zipkin, MessagePack for Datadog.

    Attributes:
        port: where it listens on loopback.
        posted: the path of each request, and its decoded body.
    """

    def __init__(self) -> None:
        self.port = 0
        self.posted: list[tuple[str, Any]] = []

    def spans(self) -> list[dict[str, Any]]:
        """All spans, whatever form they came in."""
        entries: list[Any] = [entry for _, body in self.posted for entry in body]
        # Datadog has a list of spans for each trace, Zipkin has one for all.
        traces: list[list[dict[str, Any]]] = [each if type(each) is list else [each] for each in entries]
        return [span for trace in traces for span in trace]

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[SpanServer]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        writers = self._writers = set[asyncio.StreamWriter]()
        try:
            yield self
        finally:
            server.close()
            for writer in list(writers):
                writer.close()
            await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.split("\r\n")[:-2]
                fields = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
                body = await _body(reader, fields)
                path = first.split(" ")[1]
                if path.endswith(("/spans", "/traces")) and body:
                    is_json = "json" in fields.get("content-type", "")
                    self.posted.append((path, json.loads(body) if is_json else msgspec.msgpack.decode(body)))
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
                )
                await writer.drain()
        self._writers.discard(writer)
        writer.close()


async def _body(reader: asyncio.StreamReader, fields: dict[str, str]) -> bytes:
    if "content-length" in fields:
        return await reader.readexactly(int(fields["content-length"]))
    body = b""
    if fields.get("transfer-encoding") == "chunked":
        while size := int((await reader.readline()).strip(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    return body


def attributes(pairs: Iterable[KeyValue]) -> dict[str, str]:
    """Attributes of OpenTelemetry as a dict."""
    return {pair.key: pair.value.string_value for pair in pairs}
