"""Hypothesis strategies for small worlds that are full of ties, and for edits of them.

There are few names, so that edits meet: resources refer to each other or just miss, hostnames overlap,
policies compete. Values are drawn from short lists of parts, as small ones shrink well.
"""

# What Hypothesis draws for the lambdas here is parts of manifests: anything.
# pyright: reportUnknownLambdaType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import structs

from moongate.api.base import ENVOY_GROUP, GATEWAY_GROUP, Ref, Resource
from moongate.api.envoygateway import EnvoyGateway, RuntimeFlags
from moongate.kinds import KINDS, ref_of
from tests.core import certificate, key_bytes, new_key
from tests.e2e.certificates import Authority
from tests.worlds import CONTROLLER

Batch = dict[Ref, Resource | None]
Doc = dict[str, Any]

NAMESPACES = ("default", "other")
_KEYS = (new_key(), new_key())
_AUTHORITIES = (Authority(), Authority())


def resource(kind: str, namespace: str, name: str, doc: Doc) -> Resource:
    """A typed resource of a manifest without ``apiVersion`` and ``kind``."""
    type_ = next(t for (_, k), t in KINDS.items() if k == kind)
    meta = {"name": name, "namespace": "" if type_.CLUSTER_SCOPED else namespace, **doc.get("metadata", {})}
    return msgspec.convert({**doc, "metadata": meta}, type_)


def _clients_of(kind: str, name: str, mode: str = "AllowValidOnly") -> Doc:
    """What asks clients for certificates."""
    return {"validation": {"caCertificateRefs": [_ref(kind, name)], "mode": mode}}


def _tls(*names: str) -> Doc:
    return {"mode": "Terminate", "certificateRefs": [{"name": name} for name in names]}


_PASSTHROUGH: Doc = {"mode": "Passthrough"}


def _from(what: str, **labels: str) -> Doc:
    where: Doc = {"from": what}
    if labels:
        where["selector"] = {"matchLabels": labels}
    return {"namespaces": where}


def _listener(name: str, port: int = 80, **rest: Any) -> Doc:
    return {"name": name, "port": port, "protocol": "HTTPS" if "tls" in rest else "HTTP", **rest}


def _ref(kind: str, name: str, **rest: Any) -> Doc:
    return {"group": ENVOY_GROUP if kind == "Backend" else "", "kind": kind, "name": name, **rest}


_EXTENSION: Doc = {
    "type": "ExtensionRef",
    "extensionRef": {"group": ENVOY_GROUP, "kind": "HTTPRouteFilter", "name": "f0"},
}
_backend_refs = st.builds(
    lambda ref, weight, filters: {**ref, "weight": weight, **({"filters": filters} if filters else {})},
    st.sampled_from(
        [
            _ref("Service", "s0", port=8080),
            _ref("Service", "s1", port=8080),
            _ref("Service", "s0", port=8080, namespace="other"),
            _ref("Service", "s0", port=9),
            _ref("Backend", "b0"),
            _ref("Backend", "b0", namespace="other"),
        ]
    ),
    st.sampled_from([1, 1, 3, 0]),
    st.sampled_from(
        [
            [],
            [],
            [
                {
                    "type": "RequestHeaderModifier",
                    "requestHeaderModifier": {"set": [{"name": "x", "value": "y"}]},
                }
            ],
            [_EXTENSION],
        ]
    ),
)
_mirrors = st.builds(
    lambda ref: {"type": "RequestMirror", "requestMirror": {"backendRef": ref}},
    st.sampled_from(
        [_ref("Service", "s0", port=8080), _ref("Service", "s1", port=8080), _ref("Backend", "b0")]
    ),
)
_asking = st.builds(
    lambda ref, settings: {"type": "ExternalAuth", "externalAuth": {"backendRef": ref, **settings}},
    st.sampled_from([_ref("Service", "s0", port=8080), _ref("Backend", "b0", namespace="other")]),
    st.sampled_from(
        [
            {"protocol": "GRPC", "grpc": {}},
            {"protocol": "GRPC", "grpc": {"allowedHeaders": ["x"]}},
            {"protocol": "HTTP", "http": {}, "forwardBody": {"maxSize": 7}},
        ]
    ),
)
_sessions = st.sampled_from([None, None, {}, {"type": "Header", "sessionName": "x"}, {"sessionName": "a b"}])
_filters = st.lists(
    st.one_of(
        _mirrors,
        _asking,
        st.sampled_from(
            [
                {"type": "RequestRedirect", "requestRedirect": {"scheme": "https"}},
                {
                    "type": "URLRewrite",
                    "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}},
                },
                {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["x"]}},
                {"type": "CORS", "cors": {"allowOrigins": ["https://a.com"], "allowMethods": ["GET"]}},
                {"type": "URLRewrite", "urlRewrite": {"hostname": "up.x.com"}},
                _EXTENSION,
                _EXTENSION,
            ]
        ),
    ),
    max_size=1,
)
_matches = st.lists(
    st.sampled_from(
        [
            {"path": {"type": "PathPrefix", "value": "/"}},
            {"path": {"type": "PathPrefix", "value": "/a"}},
            {"path": {"type": "Exact", "value": "/a"}, "method": "GET"},
            {"path": {"type": "RegularExpression", "value": "/a.*"}},
            {"path": {"type": "RegularExpression", "value": "/("}},
            {"headers": [{"name": "x", "value": "1"}], "queryParams": [{"name": "q", "value": "1"}]},
        ]
    ),
    min_size=1,
    max_size=2,
)
_rules = st.builds(
    lambda name, matches, filters, backends, timeouts, session: {
        "matches": matches,
        "filters": filters,
        "backendRefs": backends,
        **({"name": name} if name else {}),
        **({"timeouts": timeouts} if timeouts else {}),
        **({"sessionPersistence": session} if session is not None else {}),
    },
    st.sampled_from([None, "one", "two"]),
    _matches,
    _filters,
    st.lists(_backend_refs, max_size=2),
    st.sampled_from([None, None, {"request": "3s"}]),
    _sessions,
)
_parents = st.lists(
    st.sampled_from(
        [
            {"name": "eg", "namespace": "default"},
            {"name": "eg", "namespace": "default", "sectionName": "web"},
            {"name": "eg", "namespace": "default", "sectionName": "tls"},
            {"name": "eg", "namespace": "other"},
            {"name": "eg", "namespace": "default", "port": 80},
            {"kind": "ListenerSet", "name": "m0", "namespace": "other"},
            {"kind": "ListenerSet", "name": "m0", "namespace": "other", "sectionName": "web"},
            {"kind": "ListenerSet", "name": "m1", "namespace": "default"},
        ]
    ),
    min_size=1,
    max_size=2,
)
_labelled = st.sampled_from([{}, {}, {"app": "x"}, {"app": "y"}])
_ages = st.sampled_from(["", "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"])


def _meta(labels: Mapping[str, str], age: str = "") -> Doc:
    return {"labels": dict(labels), "creationTimestamp": age}


_by_default = st.sampled_from([{}, {}, {"useDefaultGateways": "All"}, {"useDefaultGateways": "None"}])
_routes = st.builds(
    lambda labels, age, parents, by_default, hosts, rules: {
        "metadata": _meta(labels, age),
        "spec": {"parentRefs": parents, **by_default, "hostnames": hosts, "rules": rules},
    },
    _labelled,
    _ages,
    st.one_of(_parents, st.just([])),
    _by_default,
    st.lists(st.sampled_from(["a.x.com", "*.x.com", "b.com"]), max_size=2, unique=True),
    st.lists(_rules, min_size=1, max_size=2),
)
_grpc_rules = st.builds(
    lambda name, matches, filters, backends, session: {
        "matches": matches,
        "filters": filters,
        "backendRefs": backends,
        **({"name": name} if name else {}),
        **({"sessionPersistence": session} if session is not None else {}),
    },
    st.sampled_from([None, "one"]),
    st.lists(
        st.sampled_from(
            [
                {"method": {"service": "a", "method": "B"}},
                {"method": {"service": "a"}},
                {"method": {"method": "B"}},
                {"method": {"type": "RegularExpression", "service": "a|b"}},
                {"method": {"type": "RegularExpression", "method": "("}},
                {"headers": [{"name": "x", "value": "1"}]},
            ]
        ),
        max_size=2,
    ),
    st.lists(_mirrors, max_size=1),
    st.lists(_backend_refs, max_size=2),
    _sessions,
)
_grpc_routes = st.builds(
    lambda labels, age, parents, hosts, rules: {
        "metadata": _meta(labels, age),
        "spec": {"parentRefs": parents, "hostnames": hosts, "rules": rules},
    },
    _labelled,
    _ages,
    _parents,
    st.lists(st.sampled_from(["a.x.com", "*.x.com", "b.com"]), max_size=2, unique=True),
    st.lists(_grpc_rules, max_size=2),
)


def _connections(*hosts: str) -> st.SearchStrategy[Doc]:
    """Routes of connections; with hostnames if there are any to choose from."""
    return st.builds(
        lambda labels, age, parents, names, rules: {
            "metadata": _meta(labels, age),
            "spec": {
                "parentRefs": parents,
                **({"hostnames": names} if names else {}),
                "rules": [{"backendRefs": refs} for refs in rules],
            },
        },
        _labelled,
        _ages,
        st.lists(
            st.sampled_from(
                [
                    {"name": "eg", "namespace": "default"},
                    {"name": "eg", "namespace": "default", "sectionName": "tls"},
                    {"name": "eg", "namespace": "default", "sectionName": "raw"},
                    {"name": "eg", "namespace": "default", "port": 90},
                    {"kind": "ListenerSet", "name": "m0", "namespace": "other"},
                    {"kind": "ListenerSet", "name": "m1", "namespace": "default", "sectionName": "raw"},
                ]
            ),
            min_size=1,
            max_size=2,
        ),
        st.lists(st.sampled_from(hosts), max_size=2, unique=True) if hosts else st.just([]),
        st.lists(
            st.lists(
                st.builds(
                    lambda ref, weight: {**ref, "weight": weight},
                    st.sampled_from(
                        [
                            _ref("Service", "s0", port=8080),
                            _ref("Service", "s1", port=8080),
                            _ref("Service", "s0", port=53),
                            _ref("Service", "s0", port=8080, namespace="other"),
                            _ref("Backend", "b0"),
                        ]
                    ),
                    st.sampled_from([1, 1, 3, 0]),
                ),
                min_size=1,
                max_size=2,
            ),
            min_size=1,
            max_size=2,
        ),
    )


_gateways = st.builds(
    lambda labels, class_, listeners, proxy, scope, tls, sets: {
        "metadata": _meta(labels),
        "spec": {
            "gatewayClassName": class_,
            "listeners": listeners,
            **({"defaultScope": scope} if scope else {}),
            **({"infrastructure": {"parametersRef": proxy}} if proxy else {}),
            **({"tls": tls} if tls else {}),
            **({"allowedListeners": sets} if sets else {}),
        },
    },
    _labelled,
    st.sampled_from(["eg", "eg", "eg", "foreign"]),
    st.sampled_from(
        [
            [_listener("web", allowedRoutes=_from("All"))],
            [_listener("web")],
            [_listener("web", allowedRoutes=_from("Selector", team="a"))],
            [_listener("web", hostname="*.x.com"), _listener("more", hostname="a.x.com")],
            [_listener("web", hostname="a.x.com", allowedRoutes=_from("All")), _listener("more", port=8080)],
            [_listener("web"), _listener("tls", 443, tls=_tls("cert"), allowedRoutes=_from("All"))],
            [
                _listener("tls", 443, tls=_tls("cert"), hostname="*.x.com"),
                _listener("more", 443, tls=_tls("cert", "gone"), hostname="b.com"),
            ],
            [_listener("web"), _listener("tls", 80, tls=_tls("cert"))],
            [
                _listener("web", 443, tls=_tls("cert"), allowedRoutes=_from("All")),
                _listener("tls", 8443, tls=_tls("cert"), hostname="a.x.com"),
                _listener("net", 443, protocol="UDP", allowedRoutes=_from("All")),
            ],
            [
                _listener("web"),
                _listener("tls", 443, tls=_PASSTHROUGH, protocol="TLS", allowedRoutes=_from("All")),
                _listener("raw", 90, protocol="TCP", allowedRoutes=_from("All")),
                _listener("net", 90, protocol="UDP"),
            ],
            [
                _listener("web", 443, tls=_tls("cert"), hostname="b.com"),
                _listener("tls", 443, tls=_tls("cert"), protocol="TLS", hostname="*.x.com"),
                _listener("raw", 443, tls=_PASSTHROUGH, protocol="TLS", hostname="a.x.com"),
            ],
        ]
    ),
    st.sampled_from([None, None, {"group": ENVOY_GROUP, "kind": "EnvoyProxy", "name": "ep"}]),
    st.sampled_from([None, "All", "None"]),
    st.sampled_from(
        [
            None,
            None,
            {"backend": {"clientCertificateRef": {"name": "cert"}}},
            {"frontend": {"default": _clients_of("ConfigMap", "ca")}},
            {"frontend": {"default": _clients_of("Secret", "cert"), "perPort": [{"port": 443, "tls": {}}]}},
            {
                "frontend": {
                    "default": {},
                    "perPort": [
                        {"port": 443, "tls": _clients_of("ConfigMap", "ca", "AllowInsecureFallback")}
                    ],
                }
            },
        ]
    ),
    st.sampled_from([None, _from("All"), _from("All"), _from("Same"), _from("Selector", team="a")]),
)
_listener_sets = st.builds(
    lambda labels, age, parent, listeners: {
        "metadata": _meta(labels, age),
        "spec": {"parentRef": parent, "listeners": listeners},
    },
    _labelled,
    _ages,
    st.sampled_from([{"name": "eg", "namespace": "default"}, {"name": "eg", "namespace": "other"}]),
    st.sampled_from(
        [
            [_listener("web", allowedRoutes=_from("All"))],
            [_listener("web", hostname="a.x.com", allowedRoutes=_from("All")), _listener("more", port=8080)],
            [_listener("web", hostname="b.com"), _listener("raw", 91, protocol="TCP")],
            [_listener("web", 8080, hostname="*.x.com", allowedRoutes=_from("Selector", team="a"))],
            [_listener("web"), _listener("web2")],
            [_listener("web", 443, tls=_tls("cert"), hostname="a.x.com", allowedRoutes=_from("All"))],
            [_listener("raw", 443, protocol="TCP"), _listener("web", 443, tls=_tls("cert"))],
            [
                _listener("web", 443, tls=_tls("gone"), hostname="c.com"),
                _listener("raw", 443, tls=_PASSTHROUGH, protocol="TLS", allowedRoutes=_from("All")),
            ],
        ]
    ),
)
_targets = st.one_of(
    st.sampled_from(
        [
            {"targetRefs": [{"group": GATEWAY_GROUP, "kind": "Gateway", "name": "eg"}]},
            {"targetRefs": [{"group": GATEWAY_GROUP, "kind": "Gateway", "name": "eg", "sectionName": "web"}]},
            {"targetRefs": [{"group": GATEWAY_GROUP, "kind": "Gateway", "name": "eg", "sectionName": "tls"}]},
            {
                "targetRefs": [
                    {"group": GATEWAY_GROUP, "kind": "Gateway", "name": "eg", "sectionName": "more"}
                ]
            },
            {"targetSelectors": [{"kind": "Gateway", "matchLabels": {"app": "x"}}]},
            {"targetRefs": [{"group": GATEWAY_GROUP, "kind": "ListenerSet", "name": "m0"}]},
            {
                "targetRefs": [
                    {"group": GATEWAY_GROUP, "kind": "ListenerSet", "name": "m0", "sectionName": "web"}
                ]
            },
            {"targetSelectors": [{"kind": "ListenerSet", "matchLabels": {}, "namespaces": {"from": "All"}}]},
        ]
    )
)
_route_targets = st.sampled_from(
    [
        {"targetRefs": [{"group": GATEWAY_GROUP, "kind": "HTTPRoute", "name": "r0"}]},
        {"targetRef": {"group": GATEWAY_GROUP, "kind": "HTTPRoute", "name": "r1"}},
        {"targetRefs": [{"group": GATEWAY_GROUP, "kind": "HTTPRoute", "name": "r0", "sectionName": "one"}]},
        {"targetRefs": [{"group": GATEWAY_GROUP, "kind": "GRPCRoute", "name": "r0"}]},
        {"targetSelectors": [{"kind": "HTTPRoute", "matchLabels": {"app": "x"}}]},
        {"targetRefs": [{"group": GATEWAY_GROUP, "kind": "TCPRoute", "name": "l0"}]},
        {
            "targetSelectors": [
                {"kind": "HTTPRoute", "matchLabels": {"app": "x"}, "namespaces": {"from": "All"}}
            ]
        },
        {
            "targetSelectors": [
                {
                    "kind": "HTTPRoute",
                    "matchLabels": {},
                    "namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}},
                }
            ]
        },
    ]
)
_merging = st.sampled_from(
    [{}, {"mergeType": "StrategicMerge"}, {"mergeType": "JSONMerge"}, {"mergeType": "Replace"}]
)


def _policy(
    settings: list[Doc], targets: st.SearchStrategy[Doc], merge: st.SearchStrategy[Doc] | None = None
) -> st.SearchStrategy[Doc]:
    return st.builds(
        lambda age, target, setting, merge: {
            "metadata": _meta({}, age),
            "spec": {**target, **setting, **merge},
        },
        _ages,
        targets,
        st.sampled_from(settings),
        st.just({}) if merge is None else merge,
    )


_BODY: Doc = {"type": "ValueRef", "valueRef": {"group": "", "kind": "ConfigMap", "name": "ca"}}
TRAFFIC: list[Doc] = [
    {},
    {"timeout": {"tcp": {"connectTimeout": "3s"}}},
    {"timeout": {"http": {"requestTimeout": "7s"}}, "retry": {"numRetries": 2}},
    {"loadBalancer": {"type": "Random"}},
    {"loadBalancer": {"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}}},
    {"circuitBreaker": {"maxConnections": 7}},
    {"faultInjection": {"abort": {"httpStatus": 503, "percentage": 50}}},
    {"routingType": "Service"},
    {"timeout": {"tcp": {"connectTimeout": "0s"}}},
    {"rateLimit": {"local": {"rules": [{"limit": {"requests": 9, "unit": "Hour"}}]}}},
    {"rateLimit": {"global": {"rules": [{"limit": {"requests": 8, "unit": "Day"}}]}}},
    {
        "rateLimit": {
            "global": {
                "rules": [
                    {"limit": {"requests": 7, "unit": "Day"}, "shared": True},
                    {
                        "clientSelectors": [{"methods": [{"value": "GET"}, {"value": "PUT"}]}],
                        "limit": {"requests": 6, "unit": "Second"},
                    },
                ]
            }
        }
    },
    {"healthCheck": {"active": {"type": "HTTP", "http": {"path": "/"}, "overrides": {"port": 9}}}},
    {"healthCheck": {"active": {"type": "GRPC"}, "passive": {}, "panicThreshold": 0}},
    {"loadBalancer": {"type": "RoundRobin", "zoneAware": {"weightedZones": [{"zone": "z", "weight": 3}]}}},
    {"loadBalancer": {"type": "LeastRequest", "zoneAware": {"preferLocal": {}}}},
    {
        "loadBalancer": {
            "type": "BackendUtilization",
            "backendUtilization": {},
            "endpointOverride": {"extractFrom": [{"header": "x"}]},
        }
    },
    {
        "connection": {"preconnect": {"predictivePercent": 150}},
        "loadBalancer": {"type": "Random"},
        "tcpKeepalive": {"probes": 3},
    },
    {"proxyProtocol": {"version": "V2"}, "dns": {"lookupFamily": "IPv6", "respectDnsTtl": False}},
    {"http2": {"maxConcurrentStreams": 7}, "useClientProtocol": True},
    {"http2": {"initialStreamWindowSize": 1}},
    {"bandwidthLimit": {"request": {"limit": {"value": "1Mi", "unit": "Second"}}}},
    {"bandwidthLimit": {"response": {"limit": {"value": "9Mi", "unit": "Minute"}, "responseTrailers": {}}}},
    {"admissionControl": {"samplingWindow": "5s"}},
    {"compressor": [{"type": "Gzip", "gzip": {}}, {"type": "Zstd", "zstd": {}, "minContentLength": 9}]},
    {"compression": [{"type": "Brotli"}]},
    {"responseOverride": [{"match": {"statusCodes": [{"value": 404}]}, "response": {"body": _BODY}}]},
    {
        "responseOverride": [
            {"match": {"statusCodes": [{"value": 503}]}, "redirect": {"hostname": "a.x.com"}},
            {"match": {"statusCodes": [{"value": 500}]}, "response": {"statusCode": 599}, "source": "Local"},
        ]
    },
    {"httpUpgrade": [{"type": "websocket"}, {"type": "CONNECT", "connect": {"terminate": True}}]},
    {"httpUpgrade": []},
    {"requestBuffer": {"limit": "1k"}},
    {"telemetry": {"metrics": {"routeStatName": "%ROUTE_NAME%"}, "tracing": {"tags": {"a": "b"}}}},
    {"telemetry": {"metrics": {"routeStatName": "%NONE%"}}},
    {"timeout": {"http": {"maxStreamDuration": "9s"}}, "retry": {"perRetry": {"timeout": "1s"}}},
]
_SECURITY: list[Doc] = [
    {},
    {"cors": {"allowOrigins": ["https://a.com"], "allowMethods": ["GET"]}},
    {"cors": {"allowOrigins": ["https://b.com"]}, "basicAuth": {"users": {"name": "users"}}},
    {"basicAuth": {"users": {"name": "users"}}},
    {"csrf": {"additionalOrigins": []}},
]
_CA: Doc = {"caCertificateRefs": [_ref("ConfigMap", "ca")]}
_REVOKED: Doc = {"crl": {"refs": [_ref("Secret", "revoked")], "onlyVerifyLeafCertificate": True}}
CLIENTS: list[Doc] = [
    {},
    {"http3": {}},
    {"http3": {}, "tls": {"alpnProtocols": ["h2"], "ciphers": ["ECDHE-RSA-AES128-GCM-SHA256"]}},
    {"tls": {"clientValidation": _CA}},
    {"tls": {"clientValidation": {**_CA, **_REVOKED}}},
    {"tls": {"clientValidation": {**_CA, "optional": True, "allowExpiredCertificate": True}}, "http3": {}},
    {"tls": {"clientValidation": {**_CA, "subjectAltNames": {"dnsNames": [{"value": "a.x.com"}]}}}},
    {"tls": {"clientValidation": {"mode": "RequireAny", "spkiHashes": ["A" * 43 + "="]}}},
    {"tls": {"clientValidation": {"caCertificateRefs": [_ref("ConfigMap", "ca", namespace="other")]}}},
    {"tls": {"clientValidation": _REVOKED}},
    {"tls": {"session": {"resumption": {"stateful": {}}}, "fingerprints": ["JA3"], "ecdhCurves": ["P-256"]}},
    {"tls": {"ciphers": ["none"]}},
    {"tls": {"minVersion": "1.3"}},
    {"timeout": {"http": {"streamIdleTimeout": "5s"}}},
    {"timeout": {"http": {"requestReceivedTimeout": "9s", "idleTimeout": "7s"}}},
    {"timeout": {"http": {"requestHeadersReceivedTimeout": "2s"}, "tcp": {"tlsHandshakeTimeout": "4s"}}},
    {"timeout": {"tcp": {"idleTimeout": "5s", "connectionInspectionTimeout": "3s"}}},
    {"connection": {"bufferLimit": "64Ki", "socketBufferLimit": "1Mi", "maxAcceptPerSocketEvent": 1}},
    {"connection": {"connectionLimit": {"value": 7, "closeDelay": "1s", "maxRequestsPerConnection": 5}}},
    {"connection": {"connectionLimit": {"maxConnectionDuration": "9s", "maxStreamDuration": "8s"}}},
    {"path": {"disableMergeSlashes": True, "escapedSlashesAction": "RejectRequest"}},
    {"clientIPDetection": {"xForwardedFor": {"numTrustedHops": 2}}},
    {"clientIPDetection": {"xForwardedFor": {"trustedCIDRs": ["10.0.0.0/8"]}}},
    {"clientIPDetection": {"xForwardedFor": {"trustedCIDRs": ["10.0.0.0/33"]}}},
    {"clientIPDetection": {"customHeader": {"name": "x-real-ip", "failClosed": True}}},
    {"clientIPDetection": {"directSourceIP": {}}, "http3": {}},
    {"headers": {"lateResponseHeaders": {"remove": ["server"]}, "enableEnvoyHeaders": True}},
    {"headers": {"earlyRequestHeaders": {"set": [{"name": "x", "value": "1"}]}}, "http1": {"http10": {}}},
    {"headers": {"xForwardedClientCert": {"mode": "SanitizeSet", "certDetailsToAdd": ["Subject"]}}},
    {"headers": {"requestID": "Disable", "host": {"stripTrailingHostDot": True}}},
    {"headers": {"preserveXRequestID": True, "withUnderscoresAction": "Allow"}},
    {"headers": {"disableRateLimitHeaders": True, "maxRequestHeaderLimit": "32Ki"}},
    {"headers": {"maxRequestHeaderLimit": 1}},
    {"http1": {"enableTrailers": True, "http10": {"useDefaultHost": True}}},
    {"http1": {"preserveHeaderCase": True, "ignoredUpgradeTypes": [{"value": "h2c"}]}},
    {"http1": {"disableSafeMaxConnectionDuration": True}, "http3": {}, "healthCheck": {"path": "/"}},
    {"grpc": {"enableWeb": True}, "healthCheck": {"path": "/healthz"}},
    {"grpc": {}, "http2": {"maxConcurrentStreams": 7}},
    {"http2": {"onInvalidMessage": "TerminateStream", "initialStreamWindowSize": "64Ki"}},
    {"proxyProtocol": {"optional": True}, "tcpKeepalive": {"probes": 3}},
    {"proxyProtocol": {}, "http3": {}, "tcpKeepalive": {"idleTime": "5s", "interval": "1s"}},
    {"enableProxyProtocol": True, "timeout": {"tcp": {"idleTimeout": "5s"}}, "scheme": "MatchBackend"},
]
_services = st.builds(
    lambda labels, protocol, ip, type_: {
        "metadata": _meta(labels),
        "spec": {
            "type": type_,
            "clusterIP": ip,
            "ports": [
                {"name": "http", "port": 8080, **({"appProtocol": protocol} if protocol else {})},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ],
        },
    },
    _labelled,
    st.sampled_from([None, None, "kubernetes.io/h2c", "kubernetes.io/ws"]),
    st.sampled_from(["10.96.0.1", "None"]),
    st.sampled_from(["ClusterIP", "ClusterIP", "ClusterIP", "ExternalName"]),
)
_slices = st.builds(
    lambda service, type_, addresses, ready: {
        "metadata": _meta({"kubernetes.io/service-name": service}),
        "addressType": type_,
        "endpoints": [
            {"addresses": [a if type_ == "IPv4" else f"h{n}.x"], "conditions": {"ready": ready}, "zone": "z"}
            for n, a in enumerate(addresses)
        ],
        "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}],
    },
    st.sampled_from(["s0", "s1"]),
    st.sampled_from(["IPv4", "IPv4", "FQDN"]),
    st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2"]), max_size=2, unique=True),
    st.sampled_from([True, True, False]),
)
_backends = st.builds(
    lambda labels, endpoints, rest: {
        "metadata": _meta(labels),
        "spec": rest if "type" in rest else {"endpoints": endpoints, **rest},
    },
    _labelled,
    st.lists(
        st.sampled_from(
            [
                {"ip": {"address": "10.1.0.1", "port": 80}},
                {"fqdn": {"hostname": "up.x.com", "port": 80}},
                {"ip": {"address": "127.0.0.1", "port": 80}},
            ]
        ),
        min_size=1,
        max_size=2,
    ),
    st.sampled_from(
        [
            {},
            {"fallback": True},
            {"appProtocols": ["gateway.envoyproxy.io/h2c"]},
            {"type": "DynamicResolver"},
            {"type": "DynamicResolver", "tls": {"caCertificateRefs": [_ref("ConfigMap", "ca")]}},
            {"tls": {}},
            {"tls": {"insecureSkipVerify": True, "clientCertificateRef": {"name": "cert"}}},
            {"tls": {"caCertificateRefs": [_ref("ConfigMap", "ca")], "sni": "up.x.com"}},
        ]
    ),
)
_authorities: st.SearchStrategy[Doc] = st.sampled_from(
    [{"data": {"ca.crt": authority.pem.decode()}} for authority in _AUTHORITIES]
    + [{"data": {"ca.crt": "nonsense"}}, {}]
)
_backend_tls = st.builds(
    lambda age, targets, checks: {
        "metadata": _meta({}, age),
        "spec": {"targetRefs": targets, "validation": {"hostname": "up.x.com", **checks}},
    },
    _ages,
    st.sampled_from(
        [
            [_ref("Service", "s0")],
            [_ref("Service", "s0", sectionName="http")],
            [_ref("Service", "s1"), _ref("Backend", "b0")],
            [_ref("Backend", "b0")],
        ]
    ),
    st.sampled_from(
        [
            {"wellKnownCACertificates": "System"},
            {"caCertificateRefs": [_ref("ConfigMap", "ca")]},
            {"caCertificateRefs": [_ref("ConfigMap", "ca")]},
            {"caCertificateRefs": [_ref("Secret", "cert"), _ref("ClusterTrustBundle", "ca")]},
            {"caCertificateRefs": [_ref("Pod", "ca")]},
        ]
    ),
)
_grants = st.builds(
    lambda kinds, namespace, to: {
        "spec": {"from": [{"group": g, "kind": k, "namespace": namespace} for g, k in kinds], "to": [to]}
    },
    st.sampled_from(
        [
            [(GATEWAY_GROUP, "HTTPRoute"), (GATEWAY_GROUP, "GRPCRoute")],
            [
                (ENVOY_GROUP, "SecurityPolicy"),
                (ENVOY_GROUP, "BackendTrafficPolicy"),
                (ENVOY_GROUP, "EnvoyProxy"),
            ],
            [(GATEWAY_GROUP, "TLSRoute"), (GATEWAY_GROUP, "TCPRoute")],
            [(GATEWAY_GROUP, "ListenerSet"), (ENVOY_GROUP, "SecurityPolicy")],
        ]
    ),
    st.sampled_from(NAMESPACES),
    st.sampled_from(
        [
            {"group": "", "kind": "Service"},
            {"group": ENVOY_GROUP, "kind": "Backend", "name": "b0"},
            {"group": GATEWAY_GROUP, "kind": "HTTPRoute"},
            {"group": GATEWAY_GROUP, "kind": "ListenerSet"},
        ]
    ),
)
_secrets: st.SearchStrategy[Doc] = st.sampled_from(
    [
        {
            "type": "kubernetes.io/tls",
            "data": {"tls.crt": certificate(key, *domains), "tls.key": key_bytes(key)},
        }
        for key, domains in [(_KEYS[0], ("a.x.com",)), (_KEYS[1], ("a.x.com",)), (_KEYS[0], ("b.com",))]
    ]
    + [{"type": "kubernetes.io/tls", "data": {"tls.crt": b"nonsense", "tls.key": b""}}, {"type": "Opaque"}]
)
_revoked: st.SearchStrategy[Doc] = st.sampled_from(
    [{"data": {"ca.crl": authority.revoking()}} for authority in _AUTHORITIES]
    + [{"data": {"ca.crl": b"nonsense"}}, {}]
)
_users: st.SearchStrategy[Doc] = st.sampled_from(
    [
        {"data": {".htpasswd": b"a:{SHA}qvTGHdzF6KLavt4PO0gs2a6pQ00=\n"}},
        {"data": {".htpasswd": b"b:{SHA}qvTGHdzF6KLavt4PO0gs2a6pQ00=\n"}},
        {},
    ]
)
_tokens: st.SearchStrategy[Doc] = st.sampled_from(
    [{"data": {"credential": b"abc"}}, {"data": {"credential": b"def"}}, {"data": {"credential": b"a\n"}}, {}]
)
_injection: Doc = {"credential": {"valueRef": {"name": "token"}}}
_extensions: st.SearchStrategy[Doc] = st.sampled_from(
    [
        {"spec": {"credentialInjection": _injection}},
        {"spec": {"credentialInjection": {**_injection, "overwrite": True, "header": "x-token"}}},
        {"spec": {"credentialInjection": _injection, "directResponse": {"statusCode": 418}}},
        {"spec": {"urlRewrite": {"hostname": {"type": "Header", "header": "x"}}}},
        {"spec": {"matches": [{"cookies": [{"name": "a", "value": "b"}]}]}},
    ]
)
_SINKS = [_ref("Service", "s0", port=8080), _ref("Backend", "b0", namespace="other")]
_TRACED: Doc = {"tracing": {"provider": {"backendRefs": _SINKS}}}
_LOGGED: Doc = {
    "accessLog": {
        "settings": [
            {"sinks": [{"type": "ALS", "als": {"type": "HTTP", "backendRefs": _SINKS[:1]}}]},
            {"matches": ["]"], "sinks": [{"type": "File", "file": {"path": "/dev/stdout"}}]},
        ]
    },
    "metrics": {
        "enableVirtualHostStats": True,
        "sinks": [{"openTelemetry": {"backendRefs": _SINKS[1:]}}],
    },
}
_proxies: st.SearchStrategy[Doc] = st.sampled_from(
    [
        {"spec": {"telemetry": _TRACED}},
        {"spec": {"telemetry": _LOGGED, "mergeType": "JSONMerge"}},
        {"spec": {}},
        {"spec": {"mergeBackends": {}}},
        {"spec": {"mergeBackends": {"selector": {"matchLabels": {"app": "x"}}}}},
        {"spec": {"routingType": "Service"}},
        {"spec": {"backendTLS": {"minVersion": "1.3", "clientCertificateRef": {"name": "cert"}}}},
        {"spec": {"preserveRouteOrder": True}},
        {"spec": {"mergeGateways": True}},
    ]
)
_CLASS_PROXY: Doc = {"group": ENVOY_GROUP, "kind": "EnvoyProxy", "name": "ep", "namespace": "default"}
_classes: st.SearchStrategy[Doc] = st.sampled_from(
    [
        {"spec": {"controllerName": CONTROLLER}},
        {"spec": {"controllerName": CONTROLLER, "parametersRef": _CLASS_PROXY}},
        {"spec": {"controllerName": CONTROLLER, "parametersRef": _CLASS_PROXY}},
        {"spec": {"controllerName": "example.com/another"}},
    ]
)
_namespaces: st.SearchStrategy[Doc] = st.sampled_from(
    [{}, {"metadata": _meta({"team": "a"})}, {"metadata": _meta({"team": "b"})}]
)

_XDS = "type.googleapis.com/envoy.config."
_DELAY: Doc = {"op": "add", "path": "/connect_timeout", "value": "1s"}
_PATCHES: list[tuple[str, str, Doc]] = [
    (
        "listener.v3.Listener",
        "default/eg/web",
        {"op": "add", "path": "/traffic_direction", "value": "INBOUND"},
    ),
    ("listener.v3.Listener", "default/eg/web", {"op": "remove", "path": "/gone"}),
    ("route.v3.RouteConfiguration", "default/eg/web", {"op": "add", "path": "/vhost_header", "value": "x"}),
    ("cluster.v3.Cluster", "httproute/default/r0/rule/0", _DELAY),
    ("cluster.v3.Cluster", "service/default/s0/8080/http", _DELAY),
    ("cluster.v3.Cluster", "", {"op": "add", "path": "", "value": {"name": "mine"}}),
    ("cluster.v3.Cluster", "", {"op": "add", "path": "", "value": {"name": "service/default/s0/8080/http"}}),
]
_patch_policies = st.builds(
    lambda age, kind, patches, priority: {
        "metadata": _meta({}, age),
        "spec": {
            "type": "JSONPatch",
            "targetRef": {"group": GATEWAY_GROUP, "kind": kind, "name": "eg"},
            "priority": priority,
            "jsonPatches": [
                {"type": _XDS + type_, "name": name, "operation": operation}
                for type_, name, operation in patches
            ],
        },
    },
    _ages,
    st.sampled_from(["Gateway", "Gateway", "GatewayClass"]),
    st.lists(st.sampled_from(_PATCHES), max_size=2),
    st.sampled_from([0, 0, -1]),
)

PLACES: tuple[tuple[str, tuple[str, ...], st.SearchStrategy[Doc]], ...] = (
    # Often edited.
    ("HTTPRoute", ("r0", "r1", "r2"), _routes),
    ("HTTPRoute", ("r0", "r1"), _routes),
    ("HTTPRoute", ("r0",), _routes),
    ("GRPCRoute", ("r0", "r1"), _grpc_routes),
    ("Gateway", ("eg",), _gateways),
    ("ListenerSet", ("m0", "m1"), _listener_sets),
    ("TLSRoute", ("l0", "l1", "l2"), _connections("a.x.com", "*.x.com", "b.com")),
    ("TCPRoute", ("l0", "l1"), _connections()),
    ("UDPRoute", ("l0", "l1"), _connections()),
    ("Service", ("s0", "s1"), _services),
    ("EndpointSlice", ("e0", "e1"), _slices),
    ("EndpointSlice", ("e0", "e1"), _slices),
    ("BackendTrafficPolicy", ("p0", "p1"), _policy(TRAFFIC, _targets)),
    ("BackendTrafficPolicy", ("p0", "p1"), _policy(TRAFFIC, _route_targets, _merging)),
    ("SecurityPolicy", ("p0", "p1"), _policy(_SECURITY, _targets)),
    ("SecurityPolicy", ("p0", "p1"), _policy(_SECURITY, _route_targets, _merging)),
    ("ClientTrafficPolicy", ("p0", "p1"), _policy(CLIENTS, _targets, _merging)),
    # Now and then.
    ("EnvoyPatchPolicy", ("p0", "p1"), _patch_policies),
    ("Backend", ("b0",), _backends),
    ("BackendTLSPolicy", ("t0", "t1"), _backend_tls),
    ("ConfigMap", ("ca",), _authorities),
    ("ReferenceGrant", ("g0",), _grants),
    ("Namespace", NAMESPACES, _namespaces),
    ("Secret", ("cert",), _secrets),
    ("Secret", ("revoked",), _revoked),
    ("Secret", ("users",), _users),
    ("Secret", ("token",), _tokens),
    ("HTTPRouteFilter", ("f0",), _extensions),
    ("EnvoyProxy", ("ep",), _proxies),
    ("GatewayClass", ("eg",), _classes),
)
"""What there may be: kind, names, contents."""

_SCOPED = {kind: KINDS[key].CLUSTER_SCOPED for key in KINDS for kind in [key[1]]}


@st.composite
def writes(draw: st.DrawFn) -> tuple[Ref, Resource]:
    """A resource, put in force."""
    kind, names, docs = draw(st.sampled_from(PLACES))
    written = resource(kind, draw(st.sampled_from(NAMESPACES)), draw(st.sampled_from(names)), draw(docs))
    return written.ref, written


@st.composite
def deletes(draw: st.DrawFn) -> tuple[Ref, None]:
    """The end of a resource, which may not be there."""
    kind, names, _ = draw(st.sampled_from(PLACES))
    namespace = "" if _SCOPED[kind] else draw(st.sampled_from(NAMESPACES))
    return ref_of(kind, namespace, draw(st.sampled_from(names))), None


batches: st.SearchStrategy[Batch] = st.lists(
    st.one_of(writes(), writes(), writes(), deletes()), max_size=5
).map(dict)
"""One batch of edits."""
SCOPED = EnvoyGateway(runtime_flags=RuntimeFlags(enabled=("ScopedTables",)))
"""The reference's defaults, but each hostname has a route table of its own."""

configs = st.sampled_from([None, None, EnvoyGateway(), SCOPED])
"""The configuration: as shipped (shared clusters, on a host), or the reference's defaults."""


def base() -> Batch:
    """A small world that works: two Gateways, routes, backends, policies on two levels."""
    docs: list[tuple[str, str, str, Doc]] = [
        ("GatewayClass", "", "eg", {"spec": {"controllerName": CONTROLLER}}),
        ("Namespace", "", "other", {"metadata": _meta({"team": "a"})}),
        ("Secret", "default", "cert", {
            "type": "kubernetes.io/tls",
            "data": {"tls.crt": certificate(_KEYS[0], "a.x.com"), "tls.key": key_bytes(_KEYS[0])},
        }),
        ("Secret", "default", "users", {"data": {".htpasswd": b"a:{SHA}qvTGHdzF6KLavt4PO0gs2a6pQ00=\n"}}),
        ("Gateway", "default", "eg", {"metadata": _meta({"app": "x"}), "spec": {
            "gatewayClassName": "eg",
            "listeners": [
                _listener("web", allowedRoutes=_from("All")),
                _listener("tls", 443, tls=_tls("cert"), hostname="*.x.com"),
                _listener("pass", 443, tls=_PASSTHROUGH, protocol="TLS", hostname="b.com"),
                _listener("raw", 90, protocol="TCP"),
                _listener("net", 90, protocol="UDP"),
            ],
            "tls": {"frontend": {"default": _clients_of("ConfigMap", "ca")}},
            "allowedListeners": _from("All"),
        }}),
        ("ListenerSet", "other", "m0", {"metadata": _meta({"app": "x"}), "spec": {
            "parentRef": {"name": "eg", "namespace": "default"},
            "listeners": [_listener("web", hostname="c.x.com")],
        }}),
        ("HTTPRoute", "other", "r2", {"spec": {
            "parentRefs": [{"kind": "ListenerSet", "name": "m0"}],
            "rules": [{"backendRefs": [_ref("Service", "s0", port=8080)]}],
        }}),
        ("Gateway", "other", "eg", {"spec": {
            "gatewayClassName": "eg",
            "listeners": [_listener("web", 81, allowedRoutes=_from("Selector", team="a"))],
        }}),
        ("Secret", "default", "token", {"data": {"credential": b"abc"}}),
        ("HTTPRouteFilter", "default", "f0", {"spec": {"credentialInjection": _injection}}),
        *((kind, "default", "l0", {"spec": {
            "parentRefs": [{"name": "eg"}],
            "rules": [{"backendRefs": [_ref("Service", "s0", port=port), _ref("Backend", "b0")]}],
        }}) for kind, port in [("TLSRoute", 8080), ("TCPRoute", 8080), ("UDPRoute", 53)]),
        *(("HTTPRoute", namespace, name, {
            "metadata": _meta({"app": "x"} if name == "r0" else {}),
            "spec": {
                "parentRefs": [{"name": "eg", "namespace": parent}],
                "hostnames": hosts,
                "rules": [{
                    "name": "one",
                    "matches": [{"path": {"value": path}}],
                    "backendRefs": [_ref("Service", "s0", port=8080), _ref("Backend", "b0")],
                }],
            },
        }) for namespace, name, parent, hosts, path in [
            ("default", "r0", "default", ["a.x.com"], "/"),
            ("default", "r1", "default", ["*.x.com", "b.com"], "/a"),
            ("other", "r0", "other", [], "/"),
        ]),
        ("GRPCRoute", "default", "r0", {"spec": {
            "parentRefs": [{"name": "eg"}],
            "hostnames": ["b.com"],
            "rules": [{
                "matches": [{"method": {"service": "a"}}],
                "backendRefs": [_ref("Service", "s0", port=8080)],
            }],
        }}),
        *(("Service", n, "s0", {"spec": {"ports": [
            {"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"},
        ]}}) for n in NAMESPACES),
        *(("EndpointSlice", n, "e0", {
            "metadata": _meta({"kubernetes.io/service-name": "s0"}),
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"]}],
            "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        }) for n in NAMESPACES),
        *(("Backend", n, "b0", {"spec": {"endpoints": [{"ip": {"address": "10.1.0.1", "port": 80}}]}})
          for n in NAMESPACES),
        ("BackendTrafficPolicy", "default", "p0", {"spec": {
            "targetRefs": [{"group": GATEWAY_GROUP, "kind": "Gateway", "name": "eg"}],
            "retry": {"numRetries": 1},
        }}),
        ("SecurityPolicy", "default", "p0", {"spec": {
            "targetRefs": [{"group": GATEWAY_GROUP, "kind": "HTTPRoute", "name": "r0"}],
            "mergeType": "StrategicMerge",
            "cors": {"allowOrigins": ["https://a.com"]},
        }}),
        ("BackendTLSPolicy", "default", "t0", {"spec": {
            "targetRefs": [_ref("Backend", "b0")],
            "validation": {"hostname": "up.x.com", "caCertificateRefs": [_ref("ConfigMap", "ca")]},
        }}),
        ("ConfigMap", "default", "ca", {
            "data": {"ca.crt": _AUTHORITIES[0].pem.decode()},
        }),
    ]  # fmt: skip
    resources = [resource(*doc) for doc in docs]
    return {each.ref: each for each in resources}


BASE = base()


def merged_base() -> Batch:
    """``BASE`` with one fleet for both Gateways; they share ports, under hostnames of their own."""
    docs: list[tuple[str, str, str, Doc]] = [
        ("EnvoyProxy", "default", "ep", {"spec": {"mergeGateways": True}}),
        ("GatewayClass", "", "eg", {
            "spec": {"controllerName": CONTROLLER, "parametersRef": _CLASS_PROXY},
        }),
        ("Gateway", "other", "eg", {
            "metadata": _meta({}, "2025-01-01T00:00:00Z"),
            "spec": {"gatewayClassName": "eg", "listeners": [
                _listener("web", hostname="b.com", allowedRoutes=_from("All")),
                _listener("tls", 443, tls=_tls("cert"), hostname="a.x.com", allowedRoutes=_from("All")),
            ]},
        }),
        ("Secret", "other", "cert", {
            "type": "kubernetes.io/tls",
            "data": {"tls.crt": certificate(_KEYS[1], "a.x.com"), "tls.key": key_bytes(_KEYS[1])},
        }),
        ("HTTPRoute", "default", "r2", {"spec": {
            "parentRefs": [{"name": "eg", "namespace": n} for n in NAMESPACES],
            "rules": [{"backendRefs": [_ref("Service", "s0", port=8080)]}],
        }}),
    ]  # fmt: skip
    resources = [resource(*doc) for doc in docs]
    return BASE | {each.ref: each for each in resources}


MERGED_BASE = merged_base()


def quic() -> Batch:
    """HTTP/3 on two listeners of a port, and on one of another port; nobody is asked for a certificate."""
    docs: list[tuple[str, str, str, Doc]] = [
        ("Gateway", "default", "eg", {"metadata": _meta({"app": "x"}), "spec": {
            "gatewayClassName": "eg",
            "listeners": [
                _listener("web", allowedRoutes=_from("All")),
                _listener("tls", 443, tls=_tls("cert"), hostname="*.x.com"),
                _listener("more", 443, tls=_tls("cert"), hostname="b.com"),
                _listener("raw", 8443, tls=_tls("cert")),
            ],
            "allowedListeners": _from("All"),
        }}),
        ("ClientTrafficPolicy", "default", "p0", {"spec": {
            "targetRefs": [{"group": GATEWAY_GROUP, "kind": "Gateway", "name": "eg"}],
            "http3": {},
        }}),
    ]  # fmt: skip
    resources = [resource(*doc) for doc in docs]
    return {each.ref: each for each in resources}


_firsts: st.SearchStrategy[list[Batch]] = st.sampled_from(
    [[], [], [], [quic()], [{ref: each for ref, each in MERGED_BASE.items() if BASE.get(ref) != each}]]
)
"""Nothing, HTTP/3, or one fleet for both Gateways."""
histories: st.SearchStrategy[list[Batch]] = st.builds(
    lambda first, rest: first + rest, _firsts, st.lists(batches, min_size=1, max_size=6)
)
"""Batches, one after another, on top of ``BASE``."""


def renamed(resource: Resource, name: str) -> Resource:
    """The same resource under another name."""
    return structs.replace(resource, metadata=structs.replace(resource.metadata, name=name))
