"""Ask a server of your own whether a request may pass, before it reaches the backend.

Set by:      HTTPRoute filter of type ``ExternalAuth``
Precedence:  what a SecurityPolicy asks for is asked besides; a request passes when all let it pass
Envoy:       ``envoy.filters.http.ext_authz``, extensions/filters/http/ext_authz/v3/ext_authz.proto
Cases:       external_auth.md beside this file: its reference page and its golden tests

Rules
=====
1. Who cannot be asked lets nobody pass: without an answer it is 403, without such a server 500.
2. What the server says of the request never says how the request is sent, or where to.

Facts
=====
* a route carries the server and how it is asked; Envoy takes the headers that the server sees from the chain
  alone. So there are an instance for HTTP and one for gRPC, and a list of headers makes one more
* a server that speaks HTTP always sees Host, Method, Path, Content-Length and Authorization

Source: GEP-1494; Gateway API, HTTPExternalAuthFilter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutationRules
from envoy.config.core.v3.config_source_pb2 import ApiVersion
from envoy.config.core.v3.grpc_service_pb2 import GrpcService
from envoy.config.core.v3.http_uri_pb2 import HttpUri
from envoy.extensions.filters.http.ext_authz.v3.ext_authz_pb2 import (
    BufferSettings,
    CheckSettings,
    ExtAuthz,
    ExtAuthzPerRoute,
    HttpService,
)
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import ListStringMatcher, StringMatcher
from google.protobuf.duration_pb2 import Duration

from moongate import names
from moongate.api.httproute import GRPCAuthConfig, HTTPExternalAuthFilter, HTTPRouteRule
from moongate.api.shared import BackendObjectReference
from moongate.attach.backends import Target, target
from moongate.features.base import Effective, ExtraBackend, ExtraCluster, Feature, HttpFilter, Native

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.api.route import RouteRule
    from moongate.engine import Db

_TIMEOUT: Final = Duration(seconds=10)
_NOBODY: Final = "nobody.invalid"
"""The cluster of the server that an instance in a chain has, until a route names another: there is none."""
_KEPT: Final = HeaderMutationRules(
    disallow_expression=RegexMatcher(
        regex="content-.*|date|server|(proxy-)?connection|te|trailer|transfer-encoding|upgrade"
    )
)
"""Headers of a request that no server changes, as in its answer they are about the answer. Those that say
where a request goes are kept anyway. The pattern is small enough for the limit that Envoy has by default."""


def native(rule: RouteRule) -> HTTPExternalAuthFilter | None:
    """What a filter of the rule says."""
    filters = rule.filters if isinstance(rule, HTTPRouteRule) else ()
    return next((f.external_auth for f in filters if f.external_auth is not None), None)


def clusters(_db: Db, auth: Effective[HTTPExternalAuthFilter]) -> Iterator[ExtraCluster]:
    """The server; two rules of a route that ask the same one share its cluster."""
    yield ExtraCluster(_cluster(auth), (ExtraBackend(_target(auth)),), http2=auth.value.protocol == "GRPC")


def _target(auth: Effective[HTTPExternalAuthFilter]) -> Target:
    return target(auth.value.backend_ref, auth.owner.namespace)


def _cluster(auth: Effective[HTTPExternalAuthFilter]) -> str:
    at = _target(auth)
    return names.auth_cluster(auth.owner, at.ref, at.port, auth.value.protocol)


def _chain(_db: Db, auth: Effective[HTTPExternalAuthFilter]) -> ExtAuthz:
    return _stable(auth.value)


def _stable(auth: HTTPExternalAuthFilter | None) -> ExtAuthz:
    message = ExtAuthz(transport_api_version=ApiVersion.V3, decoder_header_mutation_rules=_KEPT)
    # Which headers a server sees also depends on what the instance in the chain says that it speaks.
    if auth is not None and auth.protocol == "GRPC":
        message.grpc_service.envoy_grpc.cluster_name = _NOBODY
    else:
        uri = HttpUri(uri=f"http://{_NOBODY}", cluster=_NOBODY, timeout=_TIMEOUT)
        message.http_service.server_uri.CopyFrom(uri)
    allowed = _allowed(auth) if auth is not None else ()
    if allowed:
        message.allowed_headers.CopyFrom(_named(allowed))
    return message


def _allowed(auth: HTTPExternalAuthFilter) -> tuple[str, ...]:
    settings = auth.grpc if auth.protocol == "GRPC" else auth.http
    return tuple(sorted({name.lower() for name in settings.allowed_headers})) if settings is not None else ()


def _named(headers: tuple[str, ...]) -> ListStringMatcher:
    return ListStringMatcher(patterns=[StringMatcher(exact=name, ignore_case=True) for name in headers])


def _route(_db: Db, auth: Effective[HTTPExternalAuthFilter]) -> ExtAuthzPerRoute:
    spec = auth.value
    settings = CheckSettings()
    if spec.protocol == "GRPC":
        settings.grpc_service.CopyFrom(_grpc_service(auth))
    else:
        settings.http_service.CopyFrom(_http_service(auth))
    if spec.forward_body is not None and spec.forward_body.max_size:
        settings.with_request_body.CopyFrom(BufferSettings(max_request_bytes=spec.forward_body.max_size))
    return ExtAuthzPerRoute(check_settings=settings)


def _grpc_service(auth: Effective[HTTPExternalAuthFilter]) -> GrpcService:
    return GrpcService(
        envoy_grpc=GrpcService.EnvoyGrpc(cluster_name=_cluster(auth), authority=_authority(auth)),
        timeout=_TIMEOUT,
    )


def _http_service(auth: Effective[HTTPExternalAuthFilter]) -> HttpService:
    http = auth.value.http
    path = f"/{http.path.strip('/')}" if http is not None and http.path else ""
    uri = HttpUri(uri=f"http://{_authority(auth)}{path}", cluster=_cluster(auth), timeout=_TIMEOUT)
    service = HttpService(server_uri=uri, path_prefix="" if path == "/" else path)
    allowed = http.allowed_response_headers if http is not None else ()
    everything = ListStringMatcher(patterns=[StringMatcher(safe_regex=RegexMatcher(regex=".*"))])
    passed_on = _named(allowed) if allowed else everything
    service.authorization_response.allowed_upstream_headers.CopyFrom(passed_on)
    return service


def _authority(auth: Effective[HTTPExternalAuthFilter]) -> str:
    at = _target(auth)
    return f"{at.name}.{at.namespace}" + (f":{at.port}" if at.port else "")


_BY_GRPC: Final = HTTPExternalAuthFilter(
    protocol="GRPC", backend_ref=BackendObjectReference(name=_NOBODY), grpc=GRPCAuthConfig()
)

FEATURE = Feature(
    model=HTTPExternalAuthFilter,
    native=Native(read=native),
    clusters=clusters,
    http_filter=HttpFilter(
        name="envoy.filters.http.ext_authz",
        part="externalauth",
        per_config=True,
        disabled=True,
        chain=_chain,
        route=_route,
        stable=_stable,
        forms=(_BY_GRPC,),
    ),
)
