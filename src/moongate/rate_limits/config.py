"""Which limit counts a request: descriptors are matched in the same way as by Envoy's own service.

A configuration (``RateLimitConfig``) is a tree per domain. A request has descriptors, each a list of entries
(key and value), and each descriptor is looked up on its own: entry by entry from the top, at each level first
the key with exactly this value, then the values that end with ``*``, then the key without a value. A limit
applies if the last entry arrives at it: one that stands higher or lower does not.

Facts
-----
* windows are fixed, and begin at multiples of their length since 1970 in UTC. So a week begins on a Thursday,
  a month has 30 days and a year 365
* a descriptor may bring its own limit (a limit from metadata), which applies wherever the domain is known
* ``detailed_metric`` is about statistics that this service does not have

Source: envoyproxy/ratelimit, README.md, "Loading configuration" and "Unit".
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Self, TypeVar

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitResponse
from msgspec import Struct, structs

from moongate.xds.wire import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor as Descriptor

    from moongate.rate_limits.rls_conf_pb2 import RateLimitConfig, RateLimitDescriptor, RateLimitPolicy

_Unit = RateLimitResponse.RateLimit.Unit

SECONDS: Final[Mapping[int, int]] = {
    _Unit.SECOND: 1,
    _Unit.MINUTE: 60,
    _Unit.HOUR: 3600,
    _Unit.DAY: 86_400,
    _Unit.WEEK: 7 * 86_400,
    _Unit.MONTH: 30 * 86_400,
    _Unit.YEAR: 365 * 86_400,
}
"""The length of a window, by unit. The numbers of units are the same in all three protos that have them."""

WILDCARD: Final = "*"


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says where and why."""


class Limit(Struct, frozen=True, kw_only=True):
    """How many requests one bucket may have in a window.

    Args:
        domain: which configuration it is of.
        path: the keys and values from the top of the domain to it; the value is "" where each value has a
            bucket of its own.
        requests: how many.
        unit: of the window.
        shadow: whether requests over the limit pass.
        unlimited: whether nothing is counted.
        name: by which another limit may replace it.
        replaces: the names of the limits that do not count where this one does.
    """

    domain: str
    path: tuple[tuple[str, str], ...]
    requests: int
    unit: int
    shadow: bool = False
    unlimited: bool = False
    name: str = ""
    replaces: tuple[str, ...] = ()

    def bucket(self, entries: Iterable[tuple[str, str]], now: float) -> str:
        """The name of a counter in the window of a moment: the same as Envoy's own service has in Redis."""
        length = SECONDS[self.unit]
        parts = "".join(f"{key}_{value}_" for key, value in entries)
        return f"{self.domain}_{parts}{int(now) // length * length}"

    def ends(self, now: float) -> int:
        """When the window of a moment ends, in seconds since 1970."""
        length = SECONDS[self.unit]
        return (int(now) // length + 1) * length


class Limits:
    """All limits of a configuration. It does not change; a new configuration is another object."""

    def __init__(self, configs: Iterable[RateLimitConfig] = (), former: Limits | None = None) -> None:
        """Read a configuration.

        Args:
            configs: of all domains.
            former: another configuration, of which equal parts are not read again.

        Raises:
            ConfigError: it has a fault, so that none of it can be used.
        """
        self._domains: dict[str, _Node] = {}
        self._read: dict[tuple[str, bytes], _Node] = {}
        """What is below a domain, by its encoding."""
        known = former._read if former is not None else {}  # noqa: SLF001 - another object of this class

        def read(domain: str, descriptor: RateLimitDescriptor) -> _Node:
            at = domain, encode(descriptor)
            node = self._read[at] = known.get(at) or _Node.of(domain, (), descriptor)
            return node

        for config in configs:
            if not config.domain:
                raise ConfigError(f"{config.name}: it has no domain.")
            if config.domain in self._domains:
                raise ConfigError(f"{config.name}: the domain {config.domain!r} is configured twice.")
            below = _below(config.domain, (), config.descriptors, partial(read, config.domain))
            self._domains[config.domain] = _Node.at(None, below)

    def __iter__(self) -> Iterator[Limit]:
        """All limits that count, in the order of the configuration."""
        for node in self._domains.values():
            yield from (limit for limit in node.limits() if not limit.unlimited)

    def over(self, former: Limits) -> Limits:
        """These limits, and those of ``former`` that are not among them."""
        limits = Limits()
        limits._domains = _over(self._domains, former._domains)
        return limits

    def matching(
        self, domain: str, descriptors: Sequence[Descriptor], former: Iterable[Limits] = ()
    ) -> list[Limit | None]:
        """The limit of each descriptor of a request; ``None`` where there is none, or another replaces it.

        Args:
            domain: of the request.
            descriptors: of the request.
            former: have the limits of descriptors that have none here, the first of them that has.
        """
        limits = [self._limit_of(domain, each) for each in descriptors]
        for other in former:
            if None not in limits:
                break
            limits = [
                limit or other._limit_of(domain, each)  # noqa: SLF001 - another object of this class
                for limit, each in zip(limits, descriptors, strict=True)
            ]
        replaced = {name for limit in limits if limit is not None for name in limit.replaces}
        if replaced:
            return [None if limit is not None and limit.name in replaced else limit for limit in limits]
        return limits

    def _limit_of(self, domain: str, descriptor: Descriptor) -> Limit | None:
        top = self._domains.get(domain)
        return top.limit_of(domain, descriptor) if top is not None else None


class _Node(Struct, frozen=True):
    """One level of a domain: the limit that stands there, and what is below, by key and value.

    Args:
        limit: applies if a descriptor ends here.
        below: the next level, by key and value; the value is "" where any value will do.
        wildcards: by key, the beginnings of values with their next level, in the order of the configuration.
    """

    limit: Limit | None
    below: dict[tuple[str, str], _Node]
    wildcards: dict[str, list[tuple[str, _Node]]]

    @classmethod
    def of(cls, domain: str, path: tuple[tuple[str, str], ...], descriptor: RateLimitDescriptor) -> _Node:
        place = (*path, (descriptor.key, descriptor.value))
        policy = descriptor.rate_limit if descriptor.HasField("rate_limit") else None
        limit = _limit(domain, place, policy, shadow=descriptor.shadow_mode) if policy is not None else None
        return cls.at(limit, _below(domain, place, descriptor.descriptors, partial(cls.of, domain, place)))

    @classmethod
    def at(cls, limit: Limit | None, below: dict[tuple[str, str], _Node]) -> Self:
        wildcards: dict[str, list[tuple[str, _Node]]] = {}
        for (key, value), node in below.items():
            if value.endswith(WILDCARD):
                wildcards.setdefault(key, []).append((value.removesuffix(WILDCARD), node))
        return cls(limit, below, wildcards)

    def over(self, former: _Node) -> _Node:
        if self is former:
            return self
        return _Node.at(self.limit or former.limit, _over(self.below, former.below))

    def limits(self) -> Iterator[Limit]:
        if self.limit is not None:
            yield self.limit
        for node in self.below.values():
            yield from node.limits()

    def limit_of(self, domain: str, descriptor: Descriptor) -> Limit | None:
        limit = self._configured(descriptor)
        if not descriptor.HasField("limit") or descriptor.limit.unit not in SECONDS:
            return limit
        # Those who bring a limit of their own are not in shadow.
        path = limit.path if limit is not None else tuple((e.key, e.value) for e in descriptor.entries)
        own = descriptor.limit
        return Limit(domain=domain, path=path, requests=own.requests_per_unit, unit=own.unit)

    def _configured(self, descriptor: Descriptor) -> Limit | None:
        node: _Node = self
        for entry in descriptor.entries:
            below = node.next(entry.key, entry.value)
            if below is None:
                return None
            node = below
        return node.limit

    def next(self, key: str, value: str) -> _Node | None:
        if (node := self.below.get((key, value))) is not None:
            return node
        for beginning, node in self.wildcards.get(key, ()):
            if value.startswith(beginning):
                return node
        return self.below.get((key, ""))


def _below(
    domain: str,
    path: tuple[tuple[str, str], ...],
    descriptors: Iterable[RateLimitDescriptor],
    read: Callable[[RateLimitDescriptor], _Node],
) -> dict[tuple[str, str], _Node]:
    below: dict[tuple[str, str], _Node] = {}
    for each in descriptors:
        if not each.key:
            raise ConfigError(f"{_shown(domain, path)}: a descriptor below it has no key.")
        at = each.key, each.value
        if at in below:
            raise ConfigError(f"{_shown(domain, (*path, at))}: it is configured twice.")
        below[at] = read(each)
    return below


_K = TypeVar("_K")


def _over(nodes: dict[_K, _Node], former: dict[_K, _Node]) -> dict[_K, _Node]:
    """These nodes before the others: of wildcards, the first counts."""
    both = {at: node.over(former[at]) if at in former else node for at, node in nodes.items()}
    return both | {at: node for at, node in former.items() if at not in nodes}


def _limit(
    domain: str, place: tuple[tuple[str, str], ...], policy: RateLimitPolicy, *, shadow: bool
) -> Limit:
    names = tuple(each.name for each in policy.replaces)
    if policy.unlimited == (policy.unit in SECONDS):
        why = "is unlimited, so it has no unit" if policy.unlimited else "needs a unit"
        raise ConfigError(f"{_shown(domain, place)}: the limit {why}; the unit is {policy.unit}.")
    if "" in names or policy.name in names:
        raise ConfigError(f"{_shown(domain, place)}: replaces must name other limits; it is {names}.")
    limit = Limit(
        domain=domain,
        path=place,
        requests=policy.requests_per_unit,
        unit=policy.unit,
        shadow=shadow,
        name=policy.name,
        replaces=names,
    )
    return structs.replace(limit, unlimited=True) if policy.unlimited else limit


def _shown(domain: str, place: Iterable[tuple[str, str]]) -> str:
    return " > ".join((domain, *(f"{key}={value}" if value else key for key, value in place)))
