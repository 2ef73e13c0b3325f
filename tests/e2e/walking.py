"""A folder that gains and loses each kind in turn, again and again, and must end as it began.

Something in the folder refers to each kind, so that what comes changes what Envoy has.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import indent
from typing import TYPE_CHECKING, Final

import psutil
from msgspec import Struct, structs

from bench.prober import Prober
from moongate.api.envoygateway import EnvoyGateway
from moongate.run import Laptop
from moongate.sources.files import Files
from tests.core import read
from tests.e2e.backends import Echo
from tests.e2e.certificates import Authority
from tests.e2e.conftest import started, until
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping

    from moongate.api.base import Ref

PORTS: Final = ("HTTP", "SECURE", "TLS", "TCP", "UDP", "TEAM", "SET", "SIDE", "OTHER", "PROXIED")

BASE: Final = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gateway}
spec:
  gatewayClassName: moongate
  allowedListeners: {namespaces: {from: Same}}
  listeners:
  - {name: http, port: @HTTP@, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - name: secure
    port: @SECURE@
    protocol: HTTPS
    hostname: secure.test
    tls: {certificateRefs: [{name: certificate}]}
  - {name: tls, port: @TLS@, protocol: TLS, tls: {mode: Passthrough}}
  - {name: tcp, port: @TCP@, protocol: TCP}
  - {name: udp, port: @UDP@, protocol: UDP}
  - name: team
    port: @TEAM@
    protocol: HTTP
    allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other}
spec: {gatewayClassName: other, listeners: [{name: http, port: @OTHER@, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: proxied}
spec:
  gatewayClassName: moongate
  infrastructure: {parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: proxy}}
  listeners: [{name: http, port: @PROXIED@, protocol: HTTP}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: steady}
spec: {endpoints: [{ip: {address: 127.0.0.1, port: @BACKEND@}}]}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: far, namespace: away}
spec: {endpoints: [{ip: {address: 127.0.0.1, port: @BACKEND@}}]}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: verified}
spec: {endpoints: [{ip: {address: 127.0.0.1, port: @BACKEND@}}], tls: {wellKnownCACertificates: System}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: steady}
spec:
  parentRefs: [{name: gateway}]
  hostnames: [steady.test]
  rules: [{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: steady}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: user}
spec:
  parentRefs: [{name: gateway}]
  hostnames: [user.test, secure.test]
  rules:
  - name: service
    matches: [{path: {value: /service}}]
    backendRefs: [{name: stock, port: 80}]
  - name: import
    matches: [{path: {value: /import}}]
    backendRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: stock, port: 80}]
  - name: backend
    matches: [{path: {value: /backend}}]
    backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: one}]
  - name: far
    matches: [{path: {value: /far}}]
    backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: far, namespace: away}]
  - name: filter
    matches: [{path: {value: /filter}}]
    filters:
    - type: ExtensionRef
      extensionRef: {group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: pages}
  - name: page
    matches: [{path: {value: /page}}]
    filters:
    - type: ExtensionRef
      extensionRef: {group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: page}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: HTTPRouteFilter
metadata: {name: page}
spec:
  directResponse:
    body: {type: ValueRef, valueRef: {group: "", kind: ConfigMap, name: page}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: team, namespace: away}
spec:
  parentRefs: [{name: gateway, namespace: default, sectionName: team}]
  rules: [{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: far}]}]
---
apiVersion: v1
kind: Secret
metadata: {name: users}
stringData: {.htpasswd: "a:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M="}
"""
"""What is there all the time."""

_BACKEND: Final = "{group: gateway.envoyproxy.io, kind: Backend, name: steady}"

KINDS_IN_TURN: Final[Mapping[str, str]] = {
    "GatewayClass": """
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: other}
spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
""",
    "Gateway": """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: side}
spec: {gatewayClassName: moongate, listeners: [{name: http, port: @SIDE@, protocol: HTTP}]}
""",
    "ListenerSet": f"""
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {{name: more}}
spec:
  parentRef: {{name: gateway}}
  listeners:
  - {{name: own, port: @SET@, protocol: HTTP}}
  - {{name: named, port: @HTTP@, protocol: HTTP, hostname: named.test}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: of-set}}
spec:
  parentRefs: [{{kind: ListenerSet, name: more}}]
  rules: [{{backendRefs: [{_BACKEND}]}}]
""",
    "EnvoyProxy": """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: proxy}
spec: {concurrency: 1}
""",
    "HTTPRoute": f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: walker}}
spec:
  parentRefs: [{{name: gateway}}]
  hostnames: [walker.test, "*.walker.test"]
  rules: [{{backendRefs: [{_BACKEND}]}}]
""",
    "GRPCRoute": f"""
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: walker}}
spec:
  parentRefs: [{{name: gateway}}]
  hostnames: [grpc.test]
  rules: [{{matches: [{{method: {{service: shop.Cart}}}}], backendRefs: [{_BACKEND}]}}]
""",
    "TLSRoute": f"""
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {{name: walker}}
spec:
  parentRefs: [{{name: gateway, sectionName: tls}}]
  hostnames: [walker.test]
  rules: [{{backendRefs: [{_BACKEND}]}}]
""",
    "TCPRoute": f"""
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {{name: walker}}
spec:
  parentRefs: [{{name: gateway, sectionName: tcp}}]
  rules: [{{backendRefs: [{_BACKEND}]}}]
""",
    "UDPRoute": f"""
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: UDPRoute
metadata: {{name: walker}}
spec:
  parentRefs: [{{name: gateway, sectionName: udp}}]
  rules: [{{backendRefs: [{_BACKEND}]}}]
""",
    "HTTPRouteFilter": """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: HTTPRouteFilter
metadata: {name: pages}
spec: {directResponse: {statusCode: 204}}
""",
    "ReferenceGrant": """
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: guests, namespace: away}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
  to: [{group: gateway.envoyproxy.io, kind: Backend}]
""",
    "Namespace": """
apiVersion: v1
kind: Namespace
metadata: {name: away, labels: {team: a}}
""",
    "Service": """
apiVersion: v1
kind: Service
metadata: {name: stock}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
""",
    "EndpointSlice": """
apiVersion: v1
kind: Service
metadata: {name: stock}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: stock-1, labels: {kubernetes.io/service-name: stock}}
addressType: IPv4
endpoints: [{addresses: [127.0.0.1]}]
ports: [{name: http, port: @BACKEND@}]
""",
    "ServiceImport": """
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceImport
metadata: {name: stock}
spec: {type: ClusterSetIP, ips: [127.0.0.1], ports: [{port: 80}]}
""",
    "Secret": "@CERTIFICATE@",
    "ConfigMap": """
apiVersion: v1
kind: ConfigMap
metadata: {name: page}
data: {response.body: a page}
""",
    "ClusterTrustBundle": """
apiVersion: certificates.k8s.io/v1beta1
kind: ClusterTrustBundle
metadata: {name: roots}
spec:
  trustBundle: |
@AUTHORITY@
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: trusting}
spec:
  targetRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: far}]
  validation:
    hostname: far.test
    caCertificateRefs: [{group: certificates.k8s.io, kind: ClusterTrustBundle, name: roots}]
""",
    "Backend": """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: one}
spec: {endpoints: [{ip: {address: 127.0.0.1, port: @BACKEND@}}]}
""",
    "BackendTLSPolicy": """
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: trusting}
spec:
  targetRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: verified}]
  validation: {hostname: verified.test, wellKnownCACertificates: System}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: verified}
spec:
  parentRefs: [{name: gateway}]
  hostnames: [verified.test]
  rules: [{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: verified}]}]
""",
    "ClientTrafficPolicy": """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ClientTrafficPolicy
metadata: {name: walker}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gateway, sectionName: team}]
  timeout: {http: {requestReceivedTimeout: 7s}}
""",
    "BackendTrafficPolicy": """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: walker}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: user}]
  timeout: {http: {requestTimeout: 7s}}
  circuitBreaker: {maxConnections: 9}
""",
    "SecurityPolicy": """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {name: walker}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: user}]
  basicAuth: {users: {name: users}}
""",
    "EnvoyPatchPolicy": """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyPatchPolicy
metadata: {name: walker}
spec:
  type: JSONPatch
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: gateway}
  jsonPatches:
  - type: type.googleapis.com/envoy.config.route.v3.RouteConfiguration
    name: default/gateway/team
    operation: {op: add, path: /response_headers_to_add, value: [{header: {key: x-patched, value: "1"}}]}
""",
}
"""Kind → what comes and goes: a resource of it, and what it takes for that to have an effect."""


class State(Struct, frozen=True):
    """What a folder has become, and what that takes.

    Args:
        xds: fleet → type URL → name → content version.
        statuses: conditions and reasons, without the times of transitions.
        nodes: cells and results that the engine holds.
        objects: objects that the garbage collector knows, by type, and those that it never looks at.
        blocks: objects of any kind, also those that the garbage collector does not know.
        rss: bytes of moongate's process.
        envoy_rss: bytes of the Envoy that is there all the time.
    """

    xds: dict[str, dict[str, dict[str, str]]]
    statuses: list[str]
    nodes: int
    objects: Counter[str]
    blocks: int
    rss: int
    envoy_rss: int

    def differences(self, later: State) -> Iterator[str]:
        """What is not the same in a later state of the same folder."""
        for fleet in self.xds.keys() | later.xds.keys():
            before, after = self.xds.get(fleet, {}), later.xds.get(fleet, {})
            for url in before.keys() | after.keys():
                changed = before.get(url, {}).items() ^ after.get(url, {}).items()
                yield from (f"{fleet}: {url.rpartition('.')[2]} {name}" for name in sorted(dict(changed)))
        yield from sorted(set(self.statuses) ^ set(later.statuses))
        if self.nodes != later.nodes:
            yield f"results in the engine: {self.nodes}, later {later.nodes}"


class Walk:
    """A folder, moongate that follows it, and the number of requests that were not answered with 200."""

    def __init__(
        self, folder: Path, laptop: Laptop, texts: Mapping[str, str], port: int, backend: Echo
    ) -> None:
        self._folder = folder
        self._backend = backend
        self._laptop = laptop
        self._texts = texts
        self._port = port
        self.asked = 0
        self.failed: list[str] = []

    async def goes_round(self) -> None:
        """Let each kind come and go."""
        for kind, text in self._texts.items():
            file = self._folder / f"{kind}.yaml"
            refs = [resource.ref for resource in read(text)]
            file.write_text(text)
            await self._until_held(refs, held=True)
            file.unlink()
            await self._until_held(refs, held=False)
        self._backend.forget()

    async def _until_held(self, refs: list[Ref], *, held: bool) -> None:
        store = self._laptop.world.store
        await until(lambda: all((ref in store.resources()) == held for ref in refs))
        await self._laptop.served()

    async def asks(self) -> None:
        """Ask the route that is there all the time, again and again, over one connection."""
        async with Prober(self._port) as prober:
            while True:
                answer = await prober.ask("steady.test")
                self.asked += 1
                if answer is None or answer.status != 200:
                    self.failed.append(str(answer))
                await asyncio.sleep(0.005)

    def state(self) -> State:
        world = self._laptop.world
        world.db.collect()
        gc.collect()
        blocks = sys.getallocatedblocks()
        gateways = self._laptop.report()["gateways"]
        (envoy,) = (each["envoy"]["pid"] for each in gateways if each["fleet"] == "default/gateway")
        return State(
            xds={
                fleet: {
                    url: {name: one.version for name, one in named.items()} for url, named in types.items()
                }
                for fleet, types in world.xds().items()
            },
            statuses=sorted(
                re.sub(r"'lastTransitionTime': '[^']*'", "", str(self._laptop.statuses.document(ref)))
                for ref in world.statuses()
            ),
            nodes=len(world.db),
            objects=_objects(),
            blocks=blocks,
            rss=psutil.Process().memory_info().rss,
            envoy_rss=psutil.Process(envoy).memory_info().rss,
        )


def _objects() -> Counter[str]:
    """All objects by type, with those that are excluded from garbage collection: as garbage, they leak."""
    gc.disable()
    try:
        gc.unfreeze()
        return Counter(type(each).__qualname__ for each in gc.get_objects())
    finally:
        gc.freeze()
        gc.enable()


@asynccontextmanager
async def walking() -> AsyncGenerator[Walk]:
    """A folder that is served, with something of each kind that may come."""
    shipped = EnvoyGateway.shipped()
    config = structs.replace(
        shipped, extension_apis=structs.replace(shipped.extension_apis, enable_envoy_patch_policy=True)
    )
    authority = Authority()
    certificate = authority.sign("secure.test")
    ports = {name: free_port() for name in PORTS}
    async with AsyncExitStack() as stack:
        backend = Echo("backend")
        await stack.enter_async_context(backend.serving())
        values = {
            **{name: str(port) for name, port in ports.items()},
            "BACKEND": str(backend.port),
            "CERTIFICATE": json.dumps(certificate.secret("certificate")),
            "AUTHORITY": indent(authority.pem.decode(), "    "),
        }

        def rendered(text: str) -> str:
            for name, value in values.items():
                text = text.replace(f"@{name}@", value)
            return text

        folder = Path(stack.enter_context(TemporaryDirectory()))
        (folder / "base.yaml").write_text(rendered(BASE))
        laptop = await stack.enter_async_context(Laptop(config=config))
        await stack.enter_async_context(started(laptop, Files([folder])))
        texts = {kind: rendered(text) for kind, text in KINDS_IN_TURN.items()}
        walk = Walk(folder, laptop, texts, ports["HTTP"], backend)
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(walk.asks())
            yield walk
            asking.cancel()
