"""TLSRoute: connections of TLS go to backends, by the hostname that they ask for in the handshake.

Facts
=====
* Versions ``v1`` and ``v1alpha3`` have one rule, and name their hostnames. ``v1alpha2`` may have many rules,
  whose backends are taken together, and need no hostname.

Source: Gateway API, ``TLSRoute``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from msgspec import Meta

from moongate.api.base import Resource, Rule
from moongate.api.route import ConnectionRoute, ManyRules, OneRule
from moongate.api.shared import Hostname


class TLSRouteSpec(ManyRules, frozen=True, kw_only=True):
    """Parents, hostnames and rules of a TLSRoute."""

    hostnames: Annotated[tuple[Hostname, ...], Meta(max_length=1024)] = ()


class TLSRouteSpecV1(OneRule, frozen=True, kw_only=True):
    """As versions ``v1`` and ``v1alpha3`` have it."""

    FIELD_RULES: ClassVar[dict[str, tuple[Rule, ...]]] = {
        "hostnames": (
            Rule("self.all(h, !isIP(h))", "A hostname is a name; TLS clients ask for no IP address."),
            Rule(
                "self.all(h, !h.contains('*') ? "
                "h.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)$') : true)",
                "A hostname has labels of a-z, 0-9 and '-' between dots.",
            ),
            Rule(
                "self.all(h, h.contains('*') ? (h.startsWith('*.') && "
                "h.substring(2).matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?"
                "(\\\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)$')) : true)",
                "A wildcard stands alone as the first label: '*.example.com'.",
            ),
        ),
    }

    hostnames: Annotated[tuple[Hostname, ...], Meta(min_length=1, max_length=1024)]


class TLSRouteV1(ConnectionRoute, frozen=True, kw_only=True):
    """What versions ``v1`` and ``v1alpha3`` allow."""

    spec: TLSRouteSpecV1


class TLSRoute(ConnectionRoute, frozen=True, kw_only=True):
    """Routing of TLS connections by SNI."""

    VERSIONS: ClassVar[tuple[str, ...]] = ("v1", "v1alpha3", "v1alpha2")
    KIND: ClassVar[str] = "TLSRoute"
    STRICTER: ClassVar[Mapping[str, type[Resource]]] = dict.fromkeys(("v1", "v1alpha3"), TLSRouteV1)

    spec: TLSRouteSpec

    @property
    def hostnames(self) -> tuple[str, ...]:
        return self.spec.hostnames
