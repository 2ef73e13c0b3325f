"""A server that Envoy asks who may pass, by gRPC."""

from __future__ import annotations

from typing import Any

import grpc
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from envoy.service.auth.v3.external_auth_pb2 import (
    CheckRequest,
    CheckResponse,
    DeniedHttpResponse,
    OkHttpResponse,
)
from envoy.type.v3.http_status_pb2 import HttpStatus, StatusCode
from google.protobuf.struct_pb2 import Struct
from google.rpc.status_pb2 import Status

from moongate.xds.wire import encode
from tests.e2e.calls import GrpcServer

CHECK = "/envoy.service.auth.v3.Authorization/Check"


class AuthServer(GrpcServer):
    """Lets those pass who say the right ``x-key``, and tells the backend and the client of it.

    Args:
        key: the right one.

    Attributes:
        asked: the requests that it was asked about, oldest first.
        noted: what filters behind get to know of those who pass, as dynamic metadata.
    """

    def __init__(self, key: str = "sesame") -> None:
        self.key = key
        self.asked: list[AttributeContext.HttpRequest] = []
        self.noted = Struct()

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        if handler_call_details.method != CHECK:
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._check, request_deserializer=CheckRequest.FromString, response_serializer=encode
        )

    async def _check(self, request: CheckRequest, _context: Any) -> CheckResponse:
        asked = request.attributes.request.http
        self.asked.append(asked)
        if asked.headers.get("x-key") == self.key:
            ok = OkHttpResponse(
                headers=[_header("x-user", "ali"), _header("content-length", "1"), _header("host", "evil")],
                response_headers_to_add=[_header("x-checked", "yes")],
            )
            return CheckResponse(status=Status(code=0), ok_response=ok, dynamic_metadata=self.noted)
        denied = DeniedHttpResponse(
            status=HttpStatus(code=StatusCode.Unauthorized), headers=[_header("x-why", "key")], body="no key"
        )
        return CheckResponse(status=Status(code=16), denied_response=denied)


def _header(name: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(header=HeaderValue(key=name, value=value))
