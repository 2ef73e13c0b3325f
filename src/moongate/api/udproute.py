"""UDPRoute: the datagrams of a port go to backends.

Facts
=====
* Version ``v1`` has one rule. ``v1alpha2`` may have more; such a route is not accepted.

Source: Gateway API, ``UDPRoute``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from moongate.api.base import Resource
from moongate.api.route import ConnectionRoute, ManyRules, OneRule


class UDPRouteV1(ConnectionRoute, frozen=True, kw_only=True):
    """What version ``v1`` allows."""

    spec: OneRule


class UDPRoute(ConnectionRoute, frozen=True, kw_only=True):
    """Routing of all datagrams of a port."""

    VERSIONS: ClassVar[tuple[str, ...]] = ("v1", "v1alpha2")
    KIND: ClassVar[str] = "UDPRoute"
    STRICTER: ClassVar[Mapping[str, type[Resource]]] = {"v1": UDPRouteV1}

    spec: ManyRules
