"""A fleet whose Envoy is not started."""

from __future__ import annotations

from pathlib import Path

from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap

from moongate.api.base import FleetId
from moongate.infra.bootstrap import EnvoyOptions
from moongate.infra.process import EnvoyProcess
from moongate.infra.rundir import EnvoyFiles
from moongate.running_fleet import RunningFleet
from moongate.world import World
from moongate.xds.bootstraps import BootstrapParts
from tests.core import EG, GATEWAY_CLASS, read


def unstarted(*manifests: str) -> tuple[World, RunningFleet]:
    """The fleet of the Gateway ``default/eg`` of some manifests."""
    world = World.of(resource for text in (GATEWAY_CLASS, *manifests) for resource in read(text))
    options = EnvoyOptions()
    files = EnvoyFiles(*map(Path, ("bootstrap", "admin", "xds", "record", "access_log", "log")))
    process = EnvoyProcess(
        "default/eg",
        binary=Path("envoy"),
        files=files,
        bootstrap=Bootstrap(),
        options=options,
        access_log=lambda _: None,
    )
    return world, RunningFleet(world, FleetId(EG), process, options, BootstrapParts())
