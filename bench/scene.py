"""The manifests that are measured: many small apps, each with a hostname and a backend of its own.

Apps with an odd number have a Service, whose EndpointSlice is a file of its own; the others have a Backend.
All of them lead to the same few ports of one upstream: what they cost is theirs nevertheless. Nobody writes
an access log, or each question of the prober would be work for the control plane, whose CPU is measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REVISION = "x-bench-revision"
"""Response header that a route adds: what a changed route changes."""

GATEWAY = """\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: bench}}
spec: {{controllerName: gateway.envoyproxy.io/gatewayclass-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: bench}}
spec:
  gatewayClassName: bench
  infrastructure:
    parametersRef: {{group: gateway.envoyproxy.io, kind: EnvoyProxy, name: bench}}
  listeners:
  - {{name: http, port: {port}, protocol: HTTP}}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {{name: bench}}
spec:
  telemetry:
    accessLog: {{disable: true}}
"""
"""Ends in the spec of an EnvoyProxy."""

Tables = Literal["shipped", "whole", "scoped"]
"""Which form route tables have: as moongate ships it, or all of them the same."""

_SHIPPED = """
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyGateway
provider:
  type: Custom
  custom:
    resource: {{type: File, file: {{paths: ["."]}}}}
    infrastructure: {{type: Host, host: {{}}}}
extensionApis: {{enableBackend: true}}
runtimeFlags: {{enabled: [StableFilterChains, MetadataWhereRead{flag}]}}
envoyProxy: {{mergeBackends: {{}}}}
"""

_CONFIGURATION: Final[Mapping[Tables, str]] = {
    "shipped": "",
    "whole": _SHIPPED.format(flag=""),
    "scoped": _SHIPPED.format(flag=", ScopedTables"),
}

_ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {name}
spec:
  parentRefs:
  - name: bench
  hostnames:
  - {host}
  rules:
  - matches:
    - path: {{type: PathPrefix, value: /}}
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        set:
        - {{name: {header}, value: "{revision}"}}
    backendRefs:
    - {backend}
---
"""

_BACKEND = """\
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata:
  name: {name}
spec:
  endpoints:
  - ip: {{address: 127.0.0.1, port: {port}}}
"""

_SERVICE = """\
apiVersion: v1
kind: Service
metadata:
  name: {name}
spec:
  ports:
  - {{name: http, port: 80, protocol: TCP}}
"""

_SLICE = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  labels:
    kubernetes.io/service-name: {name}
addressType: IPv4
ports:
- {{name: http, port: {port}, protocol: TCP}}
endpoints:
- addresses: [127.0.0.1]
  conditions: {{ready: true}}
"""


class Edit(Struct, frozen=True):
    """One file as it shall be.

    Args:
        path: of the file.
        text: None when it shall be gone.
    """

    path: Path
    text: str | None

    def write(self) -> None:
        """Bring it about at once, as editors and volumes do: the file is never seen half-written."""
        if self.text is None:
            self.path.unlink()
            return
        # A dot keeps it from being read before it has its name.
        draft = self.path.with_name(f".{self.path.name}")
        draft.write_text(self.text)
        draft.replace(self.path)


class Scene:
    """A folder of apps.

    Args:
        folder: an empty folder.
        routes: how many apps there are at first.
        ports: where the upstream listens.
    """

    def __init__(self, folder: Path, routes: int, ports: Sequence[int]) -> None:
        self.routes = routes
        self.apps = folder / "apps"
        self._folder = folder
        self._ports = ports
        self._leads_to: dict[int, int] = {}
        self.apps.mkdir()
        for n in range(routes):
            for edit in self.added(n):
                edit.write()

    def gateway(self, name: str, port: int, tables: Tables = "shipped") -> Path:
        """A file with the Gateway: each Envoy needs a port of its own, so each control plane its own file."""
        path = self._folder / f"{name}.yaml"
        path.write_text(GATEWAY.format(port=port) + _CONFIGURATION[tables])
        return path

    def name(self, n: int) -> str:
        """The name of an app, and of its resources."""
        return f"app-{n:05d}"

    def host(self, n: int) -> str:
        """The hostname of an app."""
        return f"{self.name(n)}.bench.test"

    def added(self, n: int, revision: str = "0") -> tuple[Edit, ...]:
        """All files of an app, the one with its route last."""
        if n % 2:
            return self.endpoint(n, self._ports[0]), self.route(n, revision)
        return (self.route(n, revision),)

    def removed(self, n: int) -> tuple[Edit, ...]:
        """The end of an app."""
        return tuple(Edit(edit.path, None) for edit in reversed(self.added(n)))

    def route(self, n: int, revision: str) -> Edit:
        """An app's route, its answers marked with ``revision``."""
        name = self.name(n)
        if n % 2:
            backend, behind = f"{{name: {name}, port: 80}}", _SERVICE.format(name=name)
        else:
            backend = f"{{group: gateway.envoyproxy.io, kind: Backend, name: {name}}}"
            behind = _BACKEND.format(name=name, port=self._ports[0])
        route = _ROUTE.format(
            name=name, host=self.host(n), header=REVISION, revision=revision, backend=backend
        )
        return Edit(self.apps / f"{name}.yaml", route + behind)

    def endpoint(self, n: int, port: int) -> Edit:
        """The EndpointSlice of an app with an odd number, which leads to ``port``."""
        assert n % 2, f"app {n} has no Service"
        name = self.name(n)
        self._leads_to[n] = port
        return Edit(self.apps / f"{name}-endpoints.yaml", _SLICE.format(name=name, port=port))

    def moved(self, n: int) -> tuple[Edit, int]:
        """The EndpointSlice of an app with an odd number, which leads to another port now; and that port."""
        port = next(p for p in self._ports if p != self._leads_to[n])
        return self.endpoint(n, port), port
