"""What an EnvoyProxy asks of the Envoys of a fleet: the options that they start with, and their bootstrap.

While an EnvoyProxy cannot be used, Envoys keep what it last asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from moongate.api.base import milliseconds
from moongate.attach.bootstraps import amended, with_parts
from moongate.attach.gateways import fleet_proxy_or_failure
from moongate.engine import Failed
from moongate.infra.bootstrap import EnvoyOptions, bootstrap
from moongate.xds.bootstraps import BootstrapParts, bootstrap_parts

if TYPE_CHECKING:
    from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap

    from moongate.api.base import FleetId
    from moongate.engine import Db
    from moongate.infra.rundir import EnvoyFiles


def asked_options(db: Db, fleet: FleetId) -> EnvoyOptions | None:
    """The options of the EnvoyProxy; ``None`` if it cannot be used, and Envoys keep their options."""
    settings = fleet_proxy_or_failure(db, fleet)
    if isinstance(settings, Failed) or settings.problems:
        return None
    spec = settings.spec
    options = EnvoyOptions(
        log_levels=spec.logging.level, concurrency=spec.concurrency, extra_args=spec.extra_args
    )
    timeout = spec.shutdown.drain_timeout if spec.shutdown is not None else None
    if timeout is None:
        return options
    drain_s = -(-milliseconds(timeout) // 1000)
    return structs.replace(options, drain_s=drain_s, listener_drain_s=drain_s)


def at_restart(before: EnvoyOptions, options: EnvoyOptions) -> list[str]:
    """The fields of the EnvoyProxy that differ, and that a running Envoy cannot change."""
    return [
        field
        for field, differs in (
            ("spec.concurrency", options.concurrency != before.concurrency),
            ("spec.extraArgs", options.extra_args != before.extra_args),
            ("spec.shutdown.drainTimeout", options.listener_drain_s != before.listener_drain_s),
        )
        if differs
    ]


def asked_parts(db: Db, fleet: FleetId) -> BootstrapParts | None:
    """What the EnvoyProxy asks of the bootstrap; ``None`` if it cannot be used: Envoys keep it."""
    parts = bootstrap_parts.attempt(db, fleet)
    settings = fleet_proxy_or_failure(db, fleet)
    if isinstance(parts, Failed) or isinstance(settings, Failed) or settings.problems:
        return None
    return parts


def envoy_bootstrap(name: str, files: EnvoyFiles, parts: BootstrapParts) -> Bootstrap:
    """The bootstrap of a fleet's Envoy.

    Args:
        name: the name of the fleet.
        files: those of this Envoy.
        parts: what the EnvoyProxy asks of it.

    Raises:
        PatchError: the EnvoyProxy changes it in a way that it cannot be changed in.
    """
    own = bootstrap(name, node_of(name), xds_socket=files.xds, admin_socket=files.admin)
    whole = with_parts(own, parts.telemetry)
    return amended(whole, parts.changes) if parts.changes is not None else whole


def node_of(name: str) -> str:
    """The node id of a fleet's Envoy."""
    return name.replace("/", "-")
