"""Let clients turn a request into a connection of another protocol, or open a tunnel.

Set by:      BackendTrafficPolicy ``spec.httpUpgrade``
Precedence:  the most specific policy wins; without one, WebSockets are let through
Envoy:       ``upgrade_configs`` of a route, and a ``connect_matcher``
Cases:       http_upgrade.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar, Final

from moongate.api.base import Model, Rule
from moongate.features.base import Effective, Feature, RouteEdit
from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine import Db

CONNECT: Final = "CONNECT"
_PROTOCOL: Final = re.compile("[!-~]+")


class ConnectConfig(Model, frozen=True, kw_only=True):
    """What becomes of a tunnel."""

    terminate: bool | None = None
    """Whether the backend gets what is in the tunnel, instead of the request for a tunnel."""


class ProtocolUpgradeConfig(Model, frozen=True, kw_only=True):
    """A protocol that requests may change to."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule("!has(self.connect) || self.type == 'CONNECT'", "connect is for type CONNECT."),
    )

    type: str
    """``websocket``, ``CONNECT``, or what else a client writes into the header ``Upgrade``."""
    connect: ConnectConfig | None = None


ProtocolUpgrades = tuple[ProtocolUpgradeConfig, ...]


def check(_db: Db, upgrades: Effective[ProtocolUpgrades]) -> Iterator[Problem]:
    for n, upgrade in enumerate(upgrades.value):
        if _PROTOCOL.fullmatch(upgrade.type) is None:
            message = (
                f"The type is {upgrade.type!r}; it must be a protocol without blanks, such as 'websocket'."
            )
            yield Problem(f"[{n}].type", message)


def hints(upgrades: ProtocolUpgrades) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for n, upgrade in enumerate(upgrades):
        if first.setdefault(upgrade.type.lower(), f"[{n}]") != f"[{n}]":
            message = (
                f"{upgrade.type!r} is in the list before, in upper or lower case. The first entry counts."
            )
            yield Problem(f"[{n}].type", message, "Unused")


def _route(edit: RouteEdit, upgrades: Effective[ProtocolUpgrades]) -> None:
    # A route whose requests cannot change their protocol, such as one of gRPC, has none of them.
    if not edit.message.route.upgrade_configs:
        return
    del edit.message.route.upgrade_configs[:]
    # Envoy does not distinguish upper and lower case, and refuses a protocol that comes twice.
    first: dict[str, ProtocolUpgradeConfig] = {}
    for upgrade in upgrades.value:
        first.setdefault(upgrade.type.lower(), upgrade)
    for upgrade in first.values():
        config = edit.message.route.upgrade_configs.add(upgrade_type=upgrade.type)
        if upgrade.connect is not None and upgrade.connect.terminate and upgrade.type == CONNECT:
            config.connect_config.SetInParent()
    if any(upgrade.type.upper() == CONNECT for upgrade in upgrades.value):
        edit.message.match.connect_matcher.SetInParent()


FEATURE = Feature(
    kind="BackendTrafficPolicy",
    field="http_upgrade",
    model=ProtocolUpgrades,
    check=check,
    hints=hints,
    route=_route,
)
