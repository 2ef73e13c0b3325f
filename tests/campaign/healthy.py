"""The folder that the campaign hurts: sound manifests in several files, and what requests get from them.

``@NAME@`` stands for a port or for something made when the tests start: see ``rendered``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final

CANARY: Final = "c4n4ry"
"""Stands in each value of a Secret that a row writes, and must never be read anywhere."""

GATEWAY = """\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gateway}
spec:
  gatewayClassName: moongate
  listeners:
  - {name: http, port: @PORT@, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - name: https
    port: @TLS_PORT@
    protocol: HTTPS
    hostname: secure.test
    tls: {certificateRefs: [{name: certificate}]}
"""

SIDE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: aside}
spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: side}
spec:
  gatewayClassName: aside
  infrastructure: {parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: proxy}}
  listeners: [{name: http, port: @SIDE_PORT@, protocol: HTTP}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: proxy}
spec:
  concurrency: 1
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: side}
spec:
  parentRefs: [{name: side}]
  rules: [{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]
"""

BACKENDS = """\
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: one}
spec:
  endpoints:
  - ip: {address: 127.0.0.1, port: @UPSTREAM@}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: two}
spec:
  endpoints:
  - ip: {address: 127.0.0.1, port: @UPSTREAM@}
"""

SHOP = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: shop
  labels: {tier: web}
spec:
  parentRefs:
  - name: gateway
    sectionName: http
  hostnames: [shop.test]
  rules:
  - matches:
    - path: {type: PathPrefix, value: /}
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-shop, value: open}]}
    timeouts: {request: 10s}
    backendRefs:
    - group: gateway.envoyproxy.io
      kind: Backend
      name: two
      weight: 1
"""

LIMITS = """\
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: limits}
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: HTTPRoute
    name: shop
  timeout: {http: {connectionIdleTimeout: 60s}}
  circuitBreaker: {maxConnections: 100}
  retry: {numRetries: 2, retryOn: {triggers: [connect-failure]}}
"""

CLIENTS = """\
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ClientTrafficPolicy
metadata: {name: clients}
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: Gateway
    name: gateway
  timeout: {http: {requestReceivedTimeout: 60s}}
  tls: {minVersion: "1.2"}
"""

PRIVATE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: private}
spec:
  parentRefs: [{name: gateway, sectionName: http}]
  hostnames: [private.test]
  rules: [{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {name: members}
spec:
  targetRefs:
  - group: gateway.networking.k8s.io
    kind: HTTPRoute
    name: private
  basicAuth: {users: {name: users}}
"""

USERS = """\
apiVersion: v1
kind: Secret
metadata: {name: users}
stringData:
  .htpasswd: "member:{SHA}@DIGEST@"
"""

CERTIFICATE = """\
apiVersion: v1
kind: Secret
metadata: {name: certificate}
type: kubernetes.io/tls
data:
  tls.crt: @CERTIFICATE@
  tls.key: @KEY@
"""

SECURE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: secure}
spec:
  parentRefs: [{name: gateway, sectionName: https}]
  hostnames: [secure.test]
  rules: [{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]
"""

STOCK = """\
apiVersion: v1
kind: Service
metadata: {name: stock}
spec:
  clusterIP: 10.96.0.7
  ports:
  - {name: http, port: 80, targetPort: 8080}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: stock-1
  labels: {kubernetes.io/service-name: stock}
addressType: IPv4
endpoints:
- addresses: [127.0.0.1]
ports:
- {name: http, port: @UPSTREAM@}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: stock}
spec:
  parentRefs: [{name: gateway, sectionName: http}]
  hostnames: [stock.test]
  rules:
  - backendRefs: [{name: stock, port: 80}]
"""

AWAY = """\
apiVersion: v1
kind: Namespace
metadata: {name: away, labels: {team: far}}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: far, namespace: away}
spec:
  endpoints:
  - ip: {address: 127.0.0.1, port: @UPSTREAM@}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: guests, namespace: away}
spec:
  from:
  - {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}
  to:
  - {group: gateway.envoyproxy.io, kind: Backend}
"""

GUEST = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: guest}
spec:
  parentRefs: [{name: gateway, sectionName: http}]
  hostnames: [guest.test]
  rules:
  - backendRefs:
    - {group: gateway.envoyproxy.io, kind: Backend, name: far, namespace: away}
"""

PAGES = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: pages}
data:
  closed.txt: We are closed.
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: HTTPRouteFilter
metadata: {name: closed}
spec:
  directResponse:
    statusCode: 200
    body: {type: ValueRef, valueRef: {group: "", kind: ConfigMap, name: pages}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: pages}
spec:
  parentRefs: [{name: gateway, sectionName: http}]
  hostnames: [pages.test]
  rules:
  - filters:
    - type: ExtensionRef
      extensionRef: {group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: closed}
"""

OTHER = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: other}
spec:
  parentRefs: [{name: gateway, sectionName: http}]
  hostnames: [other.test]
  rules: [{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]}]
"""

TURN = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: turn}
spec:
  parentRefs: [{name: gateway, sectionName: http}]
  hostnames: [turn.test]
  rules:
  - filters:
    - {type: ExtensionRef, extensionRef: {group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: turn}}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: HTTPRouteFilter
metadata: {name: turn}
spec:
  directResponse: {body: {type: ValueRef, valueRef: {group: "", kind: ConfigMap, name: turn}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: turn}
data: {response.body: "@TURN@"}
"""
"""What is edited while something is wrong. Of these, the ConfigMap is in force at once whatever that is."""

FILES: Mapping[str, str] = {
    "gateway.yaml": GATEWAY,
    "side.yaml": SIDE,
    "backends.yaml": BACKENDS,
    "shop.yaml": SHOP,
    "limits.yaml": LIMITS,
    "clients.yaml": CLIENTS,
    "private.yaml": PRIVATE,
    "users.yaml": USERS,
    "certificate.yaml": CERTIFICATE,
    "secure.yaml": SECURE,
    "stock.yaml": STOCK,
    "away.yaml": AWAY,
    "guest.yaml": GUEST,
    "pages.yaml": PAGES,
    "other.yaml": OTHER,
}
"""All files but ``turn.yaml``, which the harness edits in each row."""

HEALTHY: Mapping[str, int | str] = {
    "shop": 200,
    "private": 401,
    "member": 200,
    "secure": 200,
    "stock": 200,
    "guest": 200,
    "pages": 200,
    "side": 200,
}
"""What requests get while nothing is wrong: a status, by what is asked for."""


def rendered(text: str, values: Mapping[str, str]) -> str:
    """A text of this module, with its values."""
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def in_base64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()
