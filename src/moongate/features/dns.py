"""Look up backends that are hostnames: how often, and for which addresses.

Set by:      BackendTrafficPolicy ``spec.dns``
Precedence:  the most specific policy wins; the IP families of a Service go before ``lookupFamily``
Envoy:       ``envoy.cluster.dns``, extensions/clusters/dns/v3; the cache of dynamic resolvers,
             extensions/common/dynamic_forward_proxy/v3
Cases:       dns.md beside this file: its reference page and its golden tests
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moongate.api.base import milliseconds
from moongate.api.cluster_settings import DNS
from moongate.features.base import Effective, Feature, Lookup
from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine import Db


def check(_db: Db, dns: Effective[DNS]) -> Iterator[Problem]:
    rate = dns.value.dns_refresh_rate
    if rate is not None and milliseconds(rate) <= 1:
        yield Problem("dnsRefreshRate", f"dnsRefreshRate is {rate!r}; it must be longer than a millisecond.")


def lookup(before: Lookup, dns: Effective[DNS]) -> Lookup:
    spec = dns.value
    rate = spec.dns_refresh_rate
    return Lookup(
        family=spec.lookup_family or before.family,
        refresh_ms=before.refresh_ms if rate is None else milliseconds(rate),
        respects_ttl=before.respects_ttl if spec.respect_dns_ttl is None else spec.respect_dns_ttl,
        owner=f"{dns.owner.namespace}/{dns.owner.name}",
    )


FEATURE = Feature(
    kind="BackendTrafficPolicy",
    field="dns",
    model=DNS,
    check=check,
    transports=("TCP", "UDP"),
    lookup=lookup,
)
