"""Limit how many requests pass in a time: in each Envoy by itself, or in all of them together.

Set by:      BackendTrafficPolicy ``spec.rateLimit``
Precedence:  the most specific policy wins; with ``mergeType: StrategicMerge`` the rules of both hold
Envoy:       ``envoy.filters.http.local_ratelimit`` and ``envoy.filters.http.ratelimit``,
             extensions/filters/http/{local_ratelimit,ratelimit}/v3
Cases:       rate_limit.md beside this file: its reference page and its golden tests

Theory of operation
===================
A rule becomes a descriptor, a list of entries. Envoy makes the same descriptor of a request if each action of
the rule finds what it looks for, and then the limit of the descriptor holds. For a local limit Envoy has both
in the configuration of the route. For a global one it has the actions, and sends descriptors to the rate
limit service; the service is told the limits (``limits``; ``xds.rate_limits`` joins them).

The service counts by domain and descriptor. A rule that is not ``shared`` belongs to the domain of the
listener, and its descriptors begin with the name of the Envoy route; a shared one belongs to the domain of
its policy, and begins with the name of the rule. Each domain that a route needs has a filter of its own, so
that each request makes one call per domain: one for the listener, one for the policy, and one for the policy
that it merges into. Keys and values are those of the reference, so that counters survive a move from there.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from envoy.config.core.v3.base_pb2 import RuntimeFractionalPercent
from envoy.config.core.v3.config_source_pb2 import ApiVersion
from envoy.config.route.v3.route_components_pb2 import RateLimit
from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import (
    DRAFT_VERSION_03,
    OFF,
    LocalRateLimitDescriptor,
    RateLimitDescriptor,
)
from envoy.extensions.filters.http.local_ratelimit.v3.local_rate_limit_pb2 import LocalRateLimit
from envoy.extensions.filters.http.ratelimit.v3.rate_limit_pb2 import RateLimit as GlobalFilter
from envoy.extensions.filters.http.ratelimit.v3.rate_limit_pb2 import RateLimitPerRoute
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.v3.percent_pb2 import FractionalPercent
from envoy.type.v3.token_bucket_pb2 import TokenBucket
from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value
from msgspec import structs
from xds.core.v3.cidr_pb2 import CidrRange

from moongate.api.base import Ref, milliseconds
from moongate.api.core import Secret
from moongate.api.envoygateway import OWN_SERVICE_TIMEOUT
from moongate.api.rate_limits import (
    RateLimitHeaderMatch,
    RateLimitQueryParamMatch,
    RateLimitRule,
    RateLimits,
    RateLimitSelector,
)
from moongate.attach.gateways import CONTROLLER_NAMESPACE, OWN_CERTIFICATE, RATE_LIMIT_SERVICE, config
from moongate.features.base import (
    ChainPlace,
    Effective,
    ExtraCluster,
    Feature,
    HttpFilter,
    ListenerFacts,
    MatchedRule,
    ServiceLimit,
)
from moongate.features.shared import duration
from moongate.later_messages import set_later
from moongate.problem import Problem
from moongate.rate_limits.rls_conf_pb2 import RateLimitDescriptor as ServiceDescriptor
from moongate.rate_limits.rls_conf_pb2 import RateLimitUnit
from moongate.regex import regex_fault
from moongate.store import get
from moongate.xds.wire import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.any_pb2 import Any as AnyMessage

    from moongate.api.rate_limits import RateLimitCostSpecifier, RateLimitPathMatch, Unit
    from moongate.engine import Db

LOCAL_FILTER: Final = "envoy.filters.http.local_ratelimit"
GLOBAL_FILTER: Final = "envoy.filters.http.ratelimit"
CLUSTER: Final = "ratelimit_cluster"

_SECONDS: Final[dict[Unit, int]] = {
    "Second": 1,
    "Minute": 60,
    "Hour": 60 * 60,
    "Day": 24 * 60 * 60,
    "Week": 7 * 24 * 60 * 60,
    "Month": 30 * 24 * 60 * 60,
    "Year": 365 * 24 * 60 * 60,
}
_UNITS: Final[dict[Unit, RateLimitUnit]] = {
    "Second": RateLimitUnit.SECOND,
    "Minute": RateLimitUnit.MINUTE,
    "Hour": RateLimitUnit.HOUR,
    "Day": RateLimitUnit.DAY,
    "Week": RateLimitUnit.WEEK,
    "Month": RateLimitUnit.MONTH,
    "Year": RateLimitUnit.YEAR,
}
_HEADERS_OPTIONS: Final = {"Off": "OFF", "DraftVersion03": "DRAFT_VERSION_03"}
"""Values of ``RateLimit.x_ratelimit_option``."""
_UNLIMITED: Final = 2**32 - 1
_MOST_COST: Final = 1_000_000_000
"""Source: envoy/config/route/v3/route_components.proto, RateLimit.HitsAddend."""
_MOST_DISTINCT: Final = 10_000
"""So many clients are told apart at a time; the one that is silent for longest is forgotten first."""
_STAT_PREFIX: Final = "http_local_rate_limiter"
_SERVICE_HOST: Final = f"envoy-ratelimit.{CONTROLLER_NAMESPACE}.svc.cluster.local"
_SERVICE_PORT: Final = 8081
_CLIENT_ADDRESS: Final = "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"
_SPECIAL: Final = re.compile(r"[\\.+*?()|\[\]{}^$]")
_NO_METADATA: Final = re.compile(r"[%():\x00\r\n]")
"""What would end the operator that reads metadata, or one of its parts."""
_NO_NAME: Final = re.compile(r"[\x00\r\n]")


class _Rule(NamedTuple):
    """A rule of the effective policy.

    Args:
        rule: the rule.
        path: where it stands, below the field.
        owner: the policy that it comes from.
        nth: its index among the rules of the owner.
    """

    rule: RateLimitRule
    path: str
    owner: Ref
    nth: int

    @property
    def domain(self) -> str:
        """The domain of its owner."""
        return f"{self.owner.namespace}/{self.owner.name}"

    @property
    def name(self) -> str:
        """The name that the reference gives it."""
        return f"{self.domain}/rule/{self.nth}"


class _Step(NamedTuple):
    """One entry of a descriptor, with the action that makes it. Without a value each one counts by itself."""

    key: str
    value: str
    action: RateLimit.Action


# -- which rules, and what is wrong with them ---------------------------------------------------------------


def _local_applies(limits: Effective[RateLimits]) -> bool:
    spec = limits.value
    return spec.type == "Local" or (spec.type is None and spec.local is not None)


def _global_applies(limits: Effective[RateLimits]) -> bool:
    spec = limits.value
    return spec.type == "Global" or (spec.type is None and spec.global_ is not None)


def _rules(limits: Effective[RateLimits], half: str) -> list[_Rule]:
    spec = limits.value.global_ if half == "global" else limits.value.local
    counts: dict[Ref, int] = {}
    rules: list[_Rule] = []
    for n, rule in enumerate(spec.rules if spec is not None else ()):
        path = f"{half}.rules[{n}]"
        owner = limits.owner_of(path)
        rules.append(_Rule(rule, path, owner, counts.get(owner, 0)))
        counts[owner] = rules[-1].nth + 1
    return rules


def _own_rules(limits: Effective[RateLimits]) -> list[_Rule]:
    """The global rules with a limit for each route."""
    return [each for each in _rules(limits, "global") if not each.rule.shared]


def _shared_rules(limits: Effective[RateLimits]) -> list[_Rule]:
    """The shared rules of the more specific policy."""
    return [each for each in _rules(limits, "global") if each.rule.shared and each.owner == limits.owner]


def _inherited_rules(limits: Effective[RateLimits]) -> list[_Rule]:
    """The shared rules of the policy that it merges into."""
    return [each for each in _rules(limits, "global") if each.rule.shared and each.owner != limits.owner]


def _default_rule(limits: Effective[RateLimits]) -> _Rule | None:
    """The local rule for what no other rule is for: that of the more specific policy, if it has one."""
    return next((each for each in _rules(limits, "local") if not each.rule.client_selectors), None)


def _check_local(_db: Db, limits: Effective[RateLimits]) -> Iterator[Problem]:
    if limits.value.local is None:
        yield Problem(
            "local", "type is Local, and there are no local limits; set local.rules or remove type."
        )
        return
    rules = _rules(limits, "local")
    default = _default_rule(limits)
    unit: Unit = default.rule.limit.unit if default is not None else "Second"
    for each in rules:
        yield from _selector_problems(each)
        if default is not None and not each.rule.client_selectors:
            if each.path != default.path and each.owner == default.owner:
                message = (
                    "There is more than one rule without clientSelectors; there can be one, for what no "
                    "other rule is for."
                )
                yield Problem(each.path, message)
        elif _SECONDS[each.rule.limit.unit] % _SECONDS[unit]:
            message = (
                f"The unit is {each.rule.limit.unit}; it must be a multiple of {unit}, that of the rule "
                "without clientSelectors."
            )
            yield Problem(f"{each.path}.limit.unit", message)
        if each.rule.limit.requests == 0:
            message = "requests is 0; in Envoy a local limit is at least 1. A global limit may be 0."
            yield Problem(f"{each.path}.limit.requests", message)


def _check_global(db: Db, limits: Effective[RateLimits]) -> Iterator[Problem]:
    if limits.value.global_ is None:
        yield Problem(
            "global", "type is Global, and there are no global limits; set global.rules or remove type."
        )
        return
    if config(db).rate_limit is None:
        message = "There is no rate limit service; rateLimit in the EnvoyGateway configuration enables it."
        yield Problem("global", message)
    for each in _rules(limits, "global"):
        yield from _selector_problems(each)
        cost = each.rule.cost
        for name, specifier in (("request", cost and cost.request), ("response", cost and cost.response)):
            number = specifier.number if specifier else None
            if number is not None and not 0 <= number <= _MOST_COST:
                message = f"The cost is {number}; it must be from 0 to {_MOST_COST}."
                yield Problem(f"{each.path}.cost.{name}.number", message)
            metadata = specifier.metadata if specifier else None
            parts = {"namespace": metadata.namespace, "key": metadata.key} if metadata else {}
            for part, value in parts.items():
                if _NO_METADATA.search(value):
                    message = f"The {part} is {value!r}; it must have no '%', ':', parenthesis or line break."
                    yield Problem(f"{each.path}.cost.{name}.metadata.{part}", message)


def _selector_problems(of: _Rule) -> Iterator[Problem]:
    for n, selector in enumerate(of.rule.client_selectors):
        at = f"{of.path}.clientSelectors[{n}]"
        if selector == RateLimitSelector():
            yield Problem(at, "It is empty; name headers, methods, path, sourceCIDR or queryParams.")
        for m, header in enumerate(selector.headers):
            yield from _value_problems(f"{at}.headers[{m}]", header)
        for m, param in enumerate(selector.query_params):
            yield from _value_problems(f"{at}.queryParams[{m}]", param)
            if param.type != "Distinct" and param.value == "":
                yield Problem(f"{at}.queryParams[{m}].value", "The value is empty; it must have a character.")
        if selector.path is not None and selector.path.type == "RegularExpression":
            yield from _regex_problems(f"{at}.path.value", selector.path.value)
        if selector.source_cidr is not None and _network(selector.source_cidr.value) is None:
            message = (
                f"{selector.source_cidr.value!r} is not a block of addresses with the length of its prefix, "
                "such as '10.0.0.0/8'."
            )
            yield Problem(f"{at}.sourceCIDR.value", message)


def _value_problems(at: str, match: RateLimitHeaderMatch | RateLimitQueryParamMatch) -> Iterator[Problem]:
    if _NO_NAME.search(match.name):
        yield Problem(f"{at}.name", f"The name is {match.name!r}; it must be one line, without NUL.")
    if match.type == "Distinct":
        if match.value is not None:
            yield Problem(f"{at}.value", "With type Distinct each value has its own limit; remove the value.")
        if match.invert:
            message = (
                "With type Distinct each value has its own limit, so there is nothing to invert; to limit "
                "requests without it, use type RegularExpression with the value '.*' and invert."
            )
            yield Problem(f"{at}.invert", message)
    elif match.value is None:
        yield Problem(f"{at}.value", f"With type {match.type} a value is needed.")
    elif match.type == "RegularExpression":
        yield from _regex_problems(f"{at}.value", match.value)


def _regex_problems(at: str, pattern: str) -> Iterator[Problem]:
    if (fault := regex_fault(pattern)) is not None:
        yield Problem(at, f"{fault}.")


def _hints(limits: RateLimits) -> Iterator[Problem]:
    for half in ("local", "global"):
        spec = limits.local if half == "local" else limits.global_
        for n, rule in enumerate(spec.rules if spec is not None else ()):
            at = f"{half}.rules[{n}]"
            if half == "local" and rule.cost is not None and rule.cost.request is not None:
                message = "Locally each request costs 1, whatever this says."
                yield Problem(f"{at}.cost.request", message, "Unused")
            if half == "local" and rule.shared:
                message = "Locally each route has a limit of its own, whatever this says."
                yield Problem(f"{at}.shared", message, "Unused")
            for name in ("path", "sourceCIDR"):
                field = "path" if name == "path" else "source_cidr"
                places = [m for m, s in enumerate(rule.client_selectors) if getattr(s, field) is not None]
                for m in places[:-1]:
                    message = (
                        "All selectors of a rule hold together, and it has one "
                        f"{name}: that of clientSelectors[{places[-1]}]. For another one, write another rule."
                    )
                    yield Problem(f"{at}.clientSelectors[{m}].{name}", message, "Unused")


# -- descriptors --------------------------------------------------------------------------------------------


def _alternatives(rule: RateLimitRule, n: int, masked: str, address: str) -> list[tuple[_Step, ...]]:
    """The descriptors of a rule, each by its entries: one for each method, with equal entries.

    Args:
        rule: the rule.
        n: its number among those that are counted together.
        masked: the key of the entry with the block of a client's address.
        address: the key of the entry with the address.
    """
    selectors = rule.client_selectors
    headers = [header for each in selectors for header in each.headers]
    params = [param for each in selectors for param in each.query_params]
    methods = [method for each in selectors for method in each.methods]
    paths = [each.path for each in selectors if each.path is not None]
    sources = [each.source_cidr for each in selectors if each.source_cidr is not None]
    first = [_header_step(f"rule-{n}-match-{m}", header) for m, header in enumerate(headers)]
    last: list[_Step] = []
    if paths:
        last.append(_matching(f"rule-{n}-path", ":path", _path(paths[-1]), invert=paths[-1].invert))
    if sources:
        network, invert = _network(sources[-1].value), sources[-1].invert
        assert network is not None, "checked"
        block = f"invert:{network}" if invert else str(network)
        last.append(_Step(masked, block, _from_address(masked, block, network, invert=invert)))
        if sources[-1].type == "Distinct":
            action = _from_address(address, _CLIENT_ADDRESS, network, invert=invert)
            last.append(_Step(address, "", action))
    last += [_param_step(f"rule-{n}-match-{len(headers) + m}", param) for m, param in enumerate(params)]
    of_methods = [
        (_matching(f"rule-{n}-method", ":method", StringMatcher(exact=each.value), invert=each.invert),)
        for each in methods
    ]
    return [(*first, *of_method, *last) for of_method in of_methods or [()]]


def _header_step(key: str, match: RateLimitHeaderMatch) -> _Step:
    if match.type == "Distinct":
        action = RateLimit.Action()
        action.request_headers.header_name = match.name
        action.request_headers.descriptor_key = key
        return _Step(key, "", action)
    return _matching(key, match.name, _value(match), invert=match.invert)


def _matching(key: str, header: str, matcher: StringMatcher, *, invert: bool) -> _Step:
    action = RateLimit.Action()
    match = action.header_value_match
    match.descriptor_key = match.descriptor_value = key
    match.expect_match.value = not invert
    match.headers.add(name=header).string_match.CopyFrom(matcher)
    return _Step(key, key, action)


def _param_step(key: str, param: RateLimitQueryParamMatch) -> _Step:
    action = RateLimit.Action()
    if param.type == "Distinct":
        action.query_parameters.query_parameter_name = param.name
        action.query_parameters.descriptor_key = key
        return _Step(key, "", action)
    match = action.query_parameter_value_match
    match.descriptor_key = match.descriptor_value = key
    match.expect_match.value = not param.invert
    match.query_parameters.add(name=param.name).string_match.CopyFrom(_value(param))
    return _Step(key, key, action)


def _from_address(key: str, value: str, network: _Network, *, invert: bool) -> RateLimit.Action:
    block = CidrRange(
        address_prefix=str(network.network_address), prefix_len=UInt32Value(value=network.prefixlen)
    )
    action = RateLimit.Action()
    matcher = {"ranges": [block], "invert_match": invert}
    address = {"descriptor_key": key, "descriptor_value": value, "address_matcher": matcher}
    set_later(action, remote_address_match=address)
    return action


def _value(match: RateLimitHeaderMatch | RateLimitQueryParamMatch) -> StringMatcher:
    message, value = StringMatcher(), match.value or ""
    if match.type == "RegularExpression":
        message.safe_regex.regex = value
    else:
        message.exact = value
    return message


def _path(match: RateLimitPathMatch) -> StringMatcher:
    message = StringMatcher()
    match match.type:
        case "Exact":
            message.exact = match.value
        case "RegularExpression":
            message.safe_regex.regex = match.value
        case "PathPrefix" if match.value == "/":
            message.prefix = "/"
        case "PathPrefix":
            # Not re.escape: it also escapes what RE2 takes literally, and patches compare the text.
            quoted = _SPECIAL.sub(r"\\\g<0>", match.value.removesuffix("/"))
            message.safe_regex.regex = rf"^{quoted}(/.*|\?.*|#.*|;.*|$)"
    return message


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _network(text: str) -> _Network | None:
    """A block of addresses; ``None`` when it is none."""
    if not re.search(r"/[0-9]{1,3}\Z", text) or "%" in text:
        return None
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


# -- local --------------------------------------------------------------------------------------------------


def _local_chain(_db: Db, _limits: Effective[RateLimits]) -> LocalRateLimit:
    return _local_stable(None)


def _local_stable(_limits: RateLimits | None) -> LocalRateLimit:
    """Without limits: those of the routes count."""
    return LocalRateLimit(stat_prefix=_STAT_PREFIX, max_dynamic_descriptors=UInt32Value(value=_MOST_DISTINCT))


def _local_route(limits: Effective[RateLimits], facts: ListenerFacts) -> LocalRateLimit:
    default = _default_rule(limits)
    always = RuntimeFractionalPercent(default_value=FractionalPercent(numerator=100))
    message = LocalRateLimit(
        stat_prefix=_STAT_PREFIX,
        token_bucket=_bucket(_UNLIMITED, "Second")
        if default is None
        else _bucket(default.rule.limit.requests, default.rule.limit.unit),
        filter_enabled=always,
        filter_enforced=always,
        always_consume_default_token_bucket=BoolValue(value=False),
        enable_x_ratelimit_headers=DRAFT_VERSION_03,
    )
    off = default is not None and default.rule.x_rate_limit_headers == "Off"
    if off or not facts.rate_limit_headers:
        message.enable_x_ratelimit_headers = OFF
    selecting = (each.rule for each in _rules(limits, "local") if each.rule.client_selectors)
    for n, rule in enumerate(selecting):
        keys = f"rule-{n}-masked-remote-address", f"rule-{n}-remote-address"
        alternatives = _alternatives(rule, n, *keys)
        for steps in alternatives:
            message.rate_limits.append(_actions(steps, rule))
        message.descriptors.append(_local_descriptor(alternatives[0], rule))
        if any(not step.value for step in alternatives[0]):
            # What the chain says of this does not hold for a route: Envoy would tell 20 apart.
            message.max_dynamic_descriptors.value = _MOST_DISTINCT
    return message


def _local_descriptor(steps: tuple[_Step, ...], rule: RateLimitRule) -> LocalRateLimitDescriptor:
    message = LocalRateLimitDescriptor(
        entries=[RateLimitDescriptor.Entry(key=step.key, value=step.value) for step in steps],
        token_bucket=_bucket(rule.limit.requests, rule.limit.unit),
    )
    if rule.shadow_mode:
        set_later(message, shadow_mode=True)
    return message


def _bucket(requests: int, unit: Unit) -> TokenBucket:
    return TokenBucket(
        max_tokens=requests,
        tokens_per_fill=UInt32Value(value=requests),
        fill_interval=Duration(seconds=_SECONDS[unit]),
    )


def _actions(steps: tuple[_Step, ...], rule: RateLimitRule) -> RateLimit:
    message = RateLimit(actions=[step.action for step in steps])
    if rule.x_rate_limit_headers is not None:
        set_later(message, x_ratelimit_option=_HEADERS_OPTIONS[rule.x_rate_limit_headers])
    return message


# -- global -------------------------------------------------------------------------------------------------


def _global_stable(_limits: RateLimits | None) -> GlobalFilter:
    """The filter without what its chain says, and without limits: those of the routes count."""
    message = GlobalFilter()
    message.rate_limit_service.grpc_service.envoy_grpc.cluster_name = CLUSTER
    message.rate_limit_service.transport_api_version = ApiVersion.V3
    return message


def _in_chain(db: Db, at: ChainPlace, config_: AnyMessage) -> GlobalFilter:
    message = GlobalFilter.FromString(config_.value)
    message.domain = message.domain or at.listener
    message.disable_x_envoy_ratelimited_header = not at.facts.envoy_headers
    message.enable_x_ratelimit_headers = (
        GlobalFilter.DRAFT_VERSION_03 if at.facts.rate_limit_headers else GlobalFilter.OFF
    )
    settings = config(db).rate_limit
    timeout = settings.timeout if settings is not None else None
    if timeout is None and (db.read(RATE_LIMIT_SERVICE) or "").startswith("/"):
        timeout = OWN_SERVICE_TIMEOUT
    if timeout is not None and milliseconds(timeout):
        message.timeout.CopyFrom(duration(timeout))
    message.failure_mode_deny = settings is not None and settings.fail_closed
    return message


def _clusters(db: Db, _limits: Effective[RateLimits]) -> Iterator[ExtraCluster]:
    """The rate limit service."""
    service: str | None = db.read(RATE_LIMIT_SERVICE)
    if service is None:
        host = _SERVICE_HOST if get(db, Secret, OWN_CERTIFICATE) is not None else ""
        yield ExtraCluster(CLUSTER, host=host, port=_SERVICE_PORT, http2=True, own_service=True)
    elif service.startswith("/"):
        yield ExtraCluster(CLUSTER, host=service, http2=True)
    else:
        host, _, port = service.rpartition(":")
        yield ExtraCluster(CLUSTER, host=host.strip("[]"), port=int(port), http2=True)


class _Domain(NamedTuple):
    """What one of the filters for global limits is for: the rules of one domain.

    Args:
        part: sets its filter apart; the one of the listener's domain has none.
        rules: those that it is for.
    """

    part: str
    rules: Callable[[Effective[RateLimits]], list[_Rule]]

    def feature(self) -> Feature[RateLimits]:
        """What these rules are for Envoy and for the service."""
        return Feature(
            kind="BackendTrafficPolicy",
            field="rate_limit",
            model=RateLimits,
            applies=self.applies,
            http_filter=HttpFilter(
                name=GLOBAL_FILTER,
                part=self.part,
                named=self.name if self.part else None,
                chain=self.chain,
                in_chain=_in_chain,
                stable=_global_stable,
                forwarding=self.forwarding,
                of_match=self.of_match,
            ),
            limits=self.limits,
        )

    def applies(self, limits: Effective[RateLimits]) -> bool:
        # As in the reference, where there is any global limit the filter of the listener's domain stands.
        return _global_applies(limits) and (not self.part or bool(self.rules(limits)))

    def name(self, limits: Effective[RateLimits]) -> str:
        return f"{GLOBAL_FILTER}/{self.rules(limits)[0].domain}"

    def chain(self, _db: Db, limits: Effective[RateLimits]) -> GlobalFilter:
        message = _global_stable(None)
        if self.part:
            message.domain = self.rules(limits)[0].domain
        return message

    def forwarding(self, limits: Effective[RateLimits], _facts: ListenerFacts) -> RateLimitPerRoute | None:
        return RateLimitPerRoute() if self.rules(limits) else None

    def of_match(self, limits: Effective[RateLimits], at: MatchedRule) -> RateLimitPerRoute:
        message = RateLimitPerRoute()
        for each, alternatives in self._counted(limits):
            message.domain, key = _counted_as(each, at)
            for steps in alternatives:
                message.rate_limits.extend(_requests_and_responses(_named(key), steps, each.rule))
        return message

    def limits(self, limits: Effective[RateLimits], at: MatchedRule) -> Iterator[ServiceLimit]:
        below: dict[tuple[str, str], ServiceDescriptor] = {}
        for each, alternatives in self._counted(limits):
            place = domain, key = _counted_as(each, at)
            first = below.setdefault(place, ServiceDescriptor(key=key, value=key))
            _add_limit(first, alternatives[0], each.rule)
        for (domain, key), descriptor in below.items():
            yield ServiceLimit(domain, key, encode(descriptor))

    def _counted(self, limits: Effective[RateLimits]) -> Iterator[tuple[_Rule, list[tuple[_Step, ...]]]]:
        """Each rule with its descriptors: one for each method, with equal entries."""
        known: set[tuple[str, ...]] = set()
        for n, each in enumerate(self.rules(limits)):
            everything = (_named(f"rule-{n}-match--1"),)
            alternatives = _alternatives(each.rule, n, "masked_remote_address", "remote_address")
            if not alternatives[0]:
                alternatives = [everything]
            # The entries of addresses have no number: two rules for the same block would be one bucket.
            entries = (
                each.name if each.rule.shared else "",
                *(f"{s.key}={s.value}" for s in alternatives[0]),
            )
            if entries in known:
                alternatives = [(*steps, *everything) for steps in alternatives]
            known.add(entries)
            yield each, alternatives


def _counted_as(each: _Rule, at: MatchedRule) -> tuple[str, str]:
    """The domain of a rule, and the first entry of its descriptors."""
    return (each.domain, each.name) if each.rule.shared else (at.listener, at.route)


def _named(key: str) -> _Step:
    """An entry that all requests of a route have."""
    action = RateLimit.Action()
    action.generic_key.descriptor_key = action.generic_key.descriptor_value = key
    return _Step(key, key, action)


def _requests_and_responses(
    first: _Step, steps: tuple[_Step, ...], rule: RateLimitRule
) -> Iterator[RateLimit]:
    cost, metadata = rule.cost, rule.limit.from_metadata
    message = _actions((first, *steps), rule)
    if metadata is not None:
        message.limit.dynamic_metadata.metadata_key.key = metadata.namespace
        message.limit.dynamic_metadata.metadata_key.path.add(key=metadata.key)
    after = RateLimit()
    after.CopyFrom(message)
    if cost is not None and cost.request is not None:
        message.hits_addend.CopyFrom(_hits(cost.request))
    yield message
    if cost is not None and cost.response is not None:
        after.apply_on_stream_done = True
        after.hits_addend.CopyFrom(_hits(cost.response))
        yield after


def _hits(cost: RateLimitCostSpecifier) -> RateLimit.HitsAddend:
    message = RateLimit.HitsAddend()
    if cost.number is not None:
        message.number.value = cost.number
    if cost.metadata is not None:
        message.format = f"%DYNAMIC_METADATA({cost.metadata.namespace}:{cost.metadata.key})%"
    return message


def _add_limit(above: ServiceDescriptor, steps: tuple[_Step, ...], rule: RateLimitRule) -> None:
    """Add the entries of a descriptor, one below the other; the last has the limit.

    Rules for the same block of addresses have entries in common, which the service must know once.
    """
    for step in steps:
        known = (each for each in above.descriptors if (each.key, each.value) == (step.key, step.value))
        below = next(known, None)
        if below is None:
            below = above.descriptors.add(key=step.key, value=step.value, shadow_mode=bool(rule.shadow_mode))
        above = below
    above.shadow_mode = bool(rule.shadow_mode)
    above.rate_limit.requests_per_unit = rule.limit.requests
    above.rate_limit.unit = _UNITS[rule.limit.unit]


LOCAL = Feature(
    kind="BackendTrafficPolicy",
    field="rate_limit",
    model=RateLimits,
    applies=_local_applies,
    check=_check_local,
    hints=_hints,
    http_filter=HttpFilter(
        name=LOCAL_FILTER, chain=_local_chain, stable=_local_stable, forwarding=_local_route
    ),
)

GLOBAL = structs.replace(_Domain("", _own_rules).feature(), check=_check_global, clusters=_clusters)
SHARED = _Domain("shared", _shared_rules).feature()
INHERITED = _Domain("inherited", _inherited_rules).feature()
