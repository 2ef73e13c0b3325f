"""What an EnvoyProxy asks of the Envoys of its fleet."""

from __future__ import annotations

from pathlib import Path

import pytest

from moongate.api.base import FleetId
from moongate.envoy_settings import asked_options, asked_parts, at_restart, envoy_bootstrap
from moongate.infra.bootstrap import EnvoyOptions
from moongate.infra.rundir import EnvoyFiles
from moongate.world import World
from moongate.xds.bootstraps import BootstrapParts
from tests.core import EG, GATEWAY_CLASS, gateway, http, read

FLEET = FleetId(EG)


def asking(*proxies: str) -> World:
    """A Gateway with the EnvoyProxy ``custom``."""
    ref = {"parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "custom"}}
    manifests = (GATEWAY_CLASS, gateway(http("web"), infrastructure=ref), *proxies)
    return World.of(resource for text in manifests for resource in read(text))


def proxy(spec: str) -> str:
    return (
        "{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: EnvoyProxy, "
        f"metadata: {{name: custom, namespace: default}}, spec: {spec}}}"
    )


def test_part_of_a_second_of_draining_is_a_whole_one() -> None:
    """Envoy takes whole seconds, and no request is cut earlier than asked for."""
    world = asking(proxy("{concurrency: 2, shutdown: {drainTimeout: 1500ms}}"))

    options = asked_options(world.db, FLEET)

    assert options is not None
    assert (options.concurrency, options.drain_s, options.listener_drain_s) == (2, 2, 2)


def test_an_envoy_proxy_that_is_missing_asks_for_nothing() -> None:
    """So Envoys keep what they have."""
    world = asking()

    assert asked_options(world.db, FLEET) is None
    assert asked_parts(world.db, FLEET) is None


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (EnvoyOptions(log_levels={"default": "debug"}, drain_s=7), []),
        (EnvoyOptions(concurrency=3), ["spec.concurrency"]),
        (
            EnvoyOptions(extra_args=("--service-node", "x"), listener_drain_s=3),
            ["spec.extraArgs", "spec.shutdown.drainTimeout"],
        ),
    ],
)
def test_what_a_running_envoy_cannot_change_is_named(options: EnvoyOptions, fields: list[str]) -> None:
    assert at_restart(EnvoyOptions(), options) == fields


def test_the_bootstrap_names_the_fleet_and_its_node() -> None:
    files = EnvoyFiles(*map(Path, ("bootstrap", "admin", "xds", "record", "access_log", "log")))

    node = envoy_bootstrap("default/eg", files, BootstrapParts()).node

    assert (node.cluster, node.id) == ("default/eg", "default-eg")
