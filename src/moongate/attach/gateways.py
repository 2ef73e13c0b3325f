"""The Gateways that this controller serves, and their settings: configuration, GatewayClass, EnvoyProxy."""

from __future__ import annotations

import re
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Final

from msgspec import Struct, structs

from moongate.api.base import ENVOY_GROUP, FleetId, ObjectMeta, Ref
from moongate.api.core import Secret
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.envoyproxy import LOG_COMPONENTS, EnvoyProxy, EnvoyProxySpec
from moongate.api.gateway import Gateway, GatewayClass, GatewayClassSpec
from moongate.api.merge import merge, merge_traced
from moongate.api.telemetry import in_namespace
from moongate.attach.bootstraps import bootstrap_problem
from moongate.attach.refused import absence
from moongate.engine import Failed, query
from moongate.problem import Problem
from moongate.regex import regex_fault
from moongate.store import Index, find, get

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moongate.engine import Db

LAPTOP_CLASS = "moongate"
"""A GatewayClass that exists on a laptop without a manifest, so a Gateway and a route are enough."""
CONFIG = "config"
"""The cell of the EnvoyGateway configuration."""
BIND = "bind"
"""The cell with the address on which listeners open: an IP address, ``LOCALHOST``, or ``None`` for all."""
CLOSED = "closed"
"""The cell with the set of what answers each request with 500: routes and Gateways, and namespaces for all of
theirs, "" for all of them."""
AUTHORITIES = "authorities"
"""The cell with the path of the file with the CAs that the proxy's host trusts; or absent, for the usual."""
RATE_LIMIT_SERVICE = "rate-limit-service"
"""The cell with where the rate limit service is: the path of its Unix socket, or ``host:port`` without TLS;
or absent, for the Service of the reference."""
ALL_IPV4, ALL_IPV6 = "0.0.0.0", "::"  # noqa: S104 - a gateway faces all, unless something else is asked for
LOCALHOST = "localhost"
"""Only this machine, unless a Gateway has ``spec.addresses``."""

_SYSTEM_AUTHORITIES: Final = "/etc/ssl/certs/ca-certificates.crt"
CONTROLLER_NAMESPACE: Final = "envoy-gateway-system"
"""Where the EnvoyProxy of the configuration is, as far as it refers to anything."""
OWN_CERTIFICATE: Final = Ref.of(Secret, CONTROLLER_NAMESPACE, "envoy")
"""The certificate that Envoys show to the services of their control plane."""
OWN_AUTHORITIES: Final = "/certs/ca.crt"
"""Where Envoys have the CA that they check those services by."""

_LONGEST_ARGUMENT: Final = 131_071
"""Bytes. Source: execve(2), MAX_ARG_STRLEN without the final NUL."""
_MOST_SHOWN: Final = 60
_OPERATOR = re.compile(r"%[^%]*%")
ROUTE_STAT_OPERATORS: Final = frozenset(
    {"%ROUTE_NAME%", "%ROUTE_NAMESPACE%", "%ROUTE_KIND%", "%ROUTE_RULE_NAME%"}
)
"""What stands for a part of a rule in a policy's ``metrics.routeStatName``."""
STAT_OPERATORS: Final = ROUTE_STAT_OPERATORS | {"%ROUTE_RULE_NUMBER%", "%BACKEND_REFS%"}
"""What stands for a part of a rule in ``metrics.clusterStatName``."""


def _by_controller(gateway_class: GatewayClass) -> Iterator[tuple[str, Ref]]:
    yield gateway_class.spec.controller_name, gateway_class.ref


def _by_class(gateway: Gateway) -> Iterator[tuple[str, Ref]]:
    yield gateway.spec.gateway_class_name, gateway.ref


def _by_proxy(user: GatewayClass | Gateway) -> Iterator[tuple[Ref, Ref]]:
    if (proxy := _proxy_of(user)) is not None:
        yield proxy, user.ref


CLASSES = Index("classes", (GatewayClass,), _by_controller)
"""Controller name → GatewayClasses."""
GATEWAYS = Index("gateways", (Gateway,), _by_class)
"""GatewayClass name → Gateways."""
PROXY_USERS = Index("proxy-users", (GatewayClass, Gateway), _by_proxy)
"""EnvoyProxy → the GatewayClasses and Gateways that name it in ``parametersRef``."""


def laptop_class(configuration: EnvoyGateway) -> GatewayClass:
    """The GatewayClass that a laptop has without its being defined."""
    spec = GatewayClassSpec(controller_name=configuration.gateway.controller_name)
    return GatewayClass(metadata=ObjectMeta(name=LAPTOP_CLASS), spec=spec)


def config(db: Db) -> EnvoyGateway:
    """The EnvoyGateway configuration in force."""
    configured: EnvoyGateway | None = db.read(CONFIG)
    return configured if configured is not None else EnvoyGateway.shipped()


@query
def controller_name(db: Db) -> str:
    """The name that statuses are written under and that GatewayClasses must carry."""
    return config(db).gateway.controller_name


@query
def on_host(db: Db) -> bool:
    """Whether Envoy runs as a process on this host: listeners then bind their own port, not port + 10000."""
    custom = config(db).provider.custom
    return custom is not None and custom.infrastructure is not None and custom.infrastructure.type == "Host"


def system_authorities(db: Db) -> str:
    """The file in which the proxy's host has the CAs that it trusts."""
    path: str | None = db.read(AUTHORITIES)
    return path if path is not None else _SYSTEM_AUTHORITIES


@query
def managed_classes(db: Db) -> tuple[Ref, ...]:
    """GatewayClasses with our controller name."""
    return find(db, CLASSES, controller_name(db))


@query
def managed(db: Db, gateway: Ref) -> bool:
    """Whether a Gateway exists and its class is ours."""
    resource = get(db, Gateway, gateway)
    if resource is None:
        return False
    return Ref.of(GatewayClass, "", resource.spec.gateway_class_name) in managed_classes(db)


class Proxy(Struct, frozen=True):
    """The EnvoyProxy settings of one Gateway, all levels taken together.

    Args:
        spec: what is in force; the defaults where nothing is set. Its references to backends have namespaces.
        problems: references that lead nowhere; with any, the Gateway is not accepted.
        tls_owner: the EnvoyProxy with the certificate that is shown to backends; ``None`` if it is that of
            the configuration, or if there is none.
        owner: the most specific EnvoyProxy that it is made of; ``None`` if that is the configuration's.
    """

    spec: EnvoyProxySpec
    problems: tuple[Problem, ...] = ()
    tls_owner: Ref | None = None
    owner: Ref | None = None


@query
def proxy(db: Db, gateway: Ref) -> Proxy:
    """The EnvoyProxy in force for a Gateway: its own over its class's over the configuration's.

    ``mergeType`` of the Gateway's governs the first step; that of the class's, or else the Gateway's,
    the second. Unset replaces the lower level as a whole, but for ``mergeBackends``: where a level does not
    set it, the next one does. Where the class merges its Gateways, they share their Envoys, so there is no
    EnvoyProxy of their own, and ``mergeBackends`` is not inherited.
    """
    resource = get(db, Gateway, gateway)
    if resource is None:
        return Proxy(config(db).envoy_proxy or EnvoyProxySpec())
    class_name = resource.spec.gateway_class_name
    own, problems = (None, ()) if merges_gateways(db, class_name) else _of_gateway(db, resource)
    if own is None and not problems:
        return class_settings(db, class_name)
    owner = _proxy_of(resource) if own is not None else None
    return structs.replace(_layered(db, class_name, own, problems, _proxy_of(resource)), owner=owner)


def fleet_proxy(db: Db, fleet: FleetId) -> Proxy:
    """The EnvoyProxy in force for the Envoys of a fleet."""
    if fleet.owner.is_a(GatewayClass):
        return class_settings(db, fleet.owner.name)
    return proxy(db, fleet.owner)


def fleet_proxy_or_failure(db: Db, fleet: FleetId) -> Proxy | Failed:
    """The EnvoyProxy in force for the Envoys of a fleet, or why it cannot be known."""
    if fleet.owner.is_a(GatewayClass):
        return class_settings.attempt(db, fleet.owner.name)
    return proxy.attempt(db, fleet.owner)


@query
def class_settings(db: Db, class_name: str) -> Proxy:
    """The EnvoyProxy for Gateways without their own: that of the class, over that of the configuration."""
    resource = get(db, GatewayClass, Ref.of(GatewayClass, "", class_name))
    named = _proxy_of(resource) if resource is not None else None
    owner = named if class_proxy(db, class_name)[0] is not None else None
    return structs.replace(_layered(db, class_name, None, ()), owner=owner)


def merged(class_name: str) -> tuple[str, str]:
    """The cell that says that the Gateways of a class share running Envoys: ``True``; or absent."""
    return ("merged", class_name)


@query
def merges_gateways(db: Db, class_name: str) -> bool:
    """Whether the Gateways of a class share their Envoys. An EnvoyProxy of a Gateway has no say in it.

    An EnvoyProxy of the class that is not valid has: its Gateways go on as they were, and so do their Envoys.
    While there is none where the class names one, its Gateways are together if they were before.
    """
    resource = get(db, GatewayClass, Ref.of(GatewayClass, "", class_name))
    if resource is None or resource.spec.parameters_ref is None:
        shared = config(db).envoy_proxy
        return shared is not None and bool(shared.merge_gateways)
    named = _proxy_of(resource)
    of_class = get(db, EnvoyProxy, named) if named is not None else None
    if of_class is None:
        return db.read(merged(class_name)) is True
    return bool(of_class.spec.merge_gateways)


def _layered(
    db: Db,
    class_name: str,
    of_gateway: EnvoyProxySpec | None,
    gateway_problems: tuple[Problem, ...],
    named: Ref | None = None,
) -> Proxy:
    configured = config(db).envoy_proxy
    default = _reporting_from(configured, CONTROLLER_NAMESPACE) if configured is not None else None
    of_class, class_problems = class_proxy(db, class_name)
    spec, governs = of_class, of_class.merge_type if of_class else None
    if of_gateway is not None:
        spec = merge(of_class, of_gateway, of_gateway.merge_type)
        governs = governs or of_gateway.merge_type
    spec = (merge(default, spec, governs) if spec is not None else default) or EnvoyProxySpec()
    # A class that merges its Gateways inherits no mergeBackends: the two exclude each other.
    levels = (of_class or default,) if merges_gateways(db, class_name) else (spec, of_class, default)
    merging = (level.merge_backends for level in levels if level is not None)
    spec = structs.replace(spec, merge_backends=next((m for m in merging if m is not None), None))
    tls_owner = None
    if _shows_certificate(spec):
        # Of the levels that are in force, the highest that names one.
        tls_owner = named if _shows_certificate(of_gateway) else _proxy_of_class(db, class_name, of_class)
    if gateway_problems or (of_gateway is not None and of_gateway.merge_type is None):
        return Proxy(spec, gateway_problems, tls_owner)
    messages = (f"GatewayClass {class_name} has an error at {p.path}: {p.message}" for p in class_problems)
    problems = tuple(Problem("spec.gatewayClassName", each, "InvalidParameters") for each in messages)
    return Proxy(spec, problems, tls_owner)


def written_in(db: Db, gateway: Ref, path: str) -> Ref | None:
    """The EnvoyProxy that has a field of the settings in force for a Gateway.

    ``None`` if none has it, as it is in the configuration.

    Args:
        db: what is read.
        gateway: the Gateway.
        path: of the field, such as ``spec.telemetry.accessLog``.
    """
    resource = get(db, Gateway, gateway)
    if resource is None:
        return None
    class_name = resource.spec.gateway_class_name
    of_gateway = None if merges_gateways(db, class_name) else _of_gateway(db, resource)[0]
    of_class, of_configuration = class_proxy(db, class_name)[0], config(db).envoy_proxy
    field = path.removeprefix("spec.")
    spec = of_gateway or of_class
    governs = (of_class and of_class.merge_type) or (of_gateway and of_gateway.merge_type)
    if of_gateway is not None and of_class is not None:
        spec, inherited = merge_traced(of_class, of_gateway, of_gateway.merge_type)
        of_gateway = None if _is_below(field, inherited) else of_gateway
    if spec is None or _is_below(field, merge_traced(of_configuration, spec, governs)[1]):
        return None
    return _proxy_of(resource) if of_gateway is not None else class_settings(db, class_name).owner


def _is_below(path: str, others: tuple[str, ...]) -> bool:
    return any(path == other or path.startswith((f"{other}.", f"{other}[")) for other in others)


def _shows_certificate(spec: EnvoyProxySpec | None) -> bool:
    """Whether a level of settings names the certificate that is shown to backends."""
    tls = spec.backend_tls if spec is not None else None
    return tls is not None and tls.client_certificate_ref is not None


def _proxy_of_class(db: Db, class_name: str, spec: EnvoyProxySpec | None) -> Ref | None:
    """The EnvoyProxy of a class, if that is where the certificate for backends is named."""
    resource = (
        get(db, GatewayClass, Ref.of(GatewayClass, "", class_name)) if _shows_certificate(spec) else None
    )
    return None if resource is None else _proxy_of(resource)


@query
def class_proxy(db: Db, class_name: str) -> tuple[EnvoyProxySpec | None, tuple[Problem, ...]]:
    """The EnvoyProxy that a GatewayClass names in ``parametersRef``."""
    resource = get(db, GatewayClass, Ref.of(GatewayClass, "", class_name))
    if resource is None or resource.spec.parameters_ref is None:
        return None, ()
    ref = resource.spec.parameters_ref
    return _named(db, "spec.parametersRef", f"{ref.group}/{ref.kind}", _proxy_of(resource))


@query
def proxy_problems(db: Db, envoy_proxy: Ref) -> tuple[Problem, ...]:
    """The problems of an EnvoyProxy beyond its schema. With any, Gateways that name it are not accepted."""
    resource = get(db, EnvoyProxy, envoy_proxy)
    if resource is None:
        return ()
    if problems := tuple(_command_line_problems(resource.spec)):
        return problems
    if resource.spec.bootstrap is not None and (problem := bootstrap_problem(resource.spec.bootstrap)):
        return (problem,)
    if problems := tuple(_metric_problems(resource.spec)):
        return problems
    after: dict[str, set[str]] = {}
    for n, move in enumerate(resource.spec.filter_order):
        first, last = (move.name, move.before) if move.before is not None else (move.after, move.name)
        if first is None:
            message = f"The entry for {move.name} says neither before nor after which filter it is moved."
            return (Problem(f"spec.filterOrder[{n}]", message, "InvalidParameters"),)
        after.setdefault(last, set()).add(first)
    try:
        TopologicalSorter(after).prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        message = f"The filters of filterOrder are moved in a circle: {circle}."
        return (Problem("spec.filterOrder", message, "InvalidParameters"),)
    return ()


def _metric_problems(spec: EnvoyProxySpec) -> Iterator[Problem]:
    metrics = spec.telemetry.metrics if spec.telemetry is not None else None
    if metrics is None:
        return
    unknown = [
        each for each in _OPERATOR.findall(metrics.cluster_stat_name or "") if each not in STAT_OPERATORS
    ]
    if unknown:
        message = (
            f"There is no operator {', '.join(each[:_MOST_SHOWN] for each in unknown)}; "
            f"there are {', '.join(sorted(STAT_OPERATORS))}."
        )
        yield Problem("spec.telemetry.metrics.clusterStatName", message, "InvalidParameters")
    for n, match in enumerate(metrics.matches):
        fault = regex_fault(match.value) if match.type == "RegularExpression" else None
        if fault is not None:
            yield Problem(f"spec.telemetry.metrics.matches[{n}].value", f"{fault}.", "InvalidParameters")


def _command_line_problems(spec: EnvoyProxySpec) -> Iterator[Problem]:
    """The problems with which Envoy could not start."""
    for component in spec.logging.level:
        if component not in LOG_COMPONENTS:
            near = get_close_matches(component, sorted(LOG_COMPONENTS), 1)
            hint = f"did you mean {near[0]}?" if near else "default is the level of all of them."
            message = f"Envoy has no component {component[:_MOST_SHOWN]!r} that logs; {hint}"
            yield Problem("spec.logging.level", message, "InvalidParameters")
    if spec.concurrency is not None and spec.concurrency < 0:
        message = f"The number of worker threads is {spec.concurrency}; it must be 1 or more."
        yield Problem("spec.concurrency", message, "InvalidParameters")
    for n, argument in enumerate(spec.extra_args):
        if "\0" in argument:
            message = "The argument has a NUL character, which no argument of a program can have."
            yield Problem(f"spec.extraArgs[{n}]", message, "InvalidParameters")
        if (size := len(argument.encode())) > _LONGEST_ARGUMENT:
            message = (
                f"The argument has {size} bytes; a program takes {_LONGEST_ARGUMENT} in one at the most."
            )
            yield Problem(f"spec.extraArgs[{n}]", message, "InvalidParameters")


@query
def rejection(db: Db, gateway: Ref) -> Problem | None:
    """Why a Gateway is rejected, or ``None``. While it is rejected, its last good state stays in force."""
    resource = get(db, Gateway, gateway)
    problem = _rejection(db, gateway, resource) if resource is not None else None
    return problem.saying(_REJECTED) if problem is not None else None


_REJECTED = "Until this is fixed, the Gateway is served as it was before, or not at all if it is new."


def _rejection(db: Db, gateway: Ref, resource: Gateway) -> Problem | None:
    settings = proxy(db, gateway)
    if settings.problems:
        return settings.problems[0]
    merges = merges_gateways(db, resource.spec.gateway_class_name)
    if merges and settings.spec.merge_backends is not None:
        message = "mergeGateways and mergeBackends are both in force; they exclude each other."
        return Problem("spec", message, "InvalidParameters")
    for i, address in enumerate(resource.spec.addresses):
        if address.type not in ("IPAddress", "Hostname"):
            message = (
                f"An address of type {address.type} is not served; it must be an IPAddress or a Hostname."
            )
            return Problem(f"spec.addresses[{i}]", message, "UnsupportedAddress")
    return None


def _of_gateway(db: Db, gateway: Gateway) -> tuple[EnvoyProxySpec | None, tuple[Problem, ...]]:
    ref = gateway.spec.infrastructure.parameters_ref if gateway.spec.infrastructure else None
    if ref is None:
        return None, ()
    return _named(db, "spec.infrastructure.parametersRef", f"{ref.group}/{ref.kind}", _proxy_of(gateway))


def _proxy_of(user: GatewayClass | Gateway) -> Ref | None:
    """The EnvoyProxy that ``parametersRef`` names; ``None`` when it names none, or something else."""
    if isinstance(user, GatewayClass):
        ref = user.spec.parameters_ref
        namespace = (ref.namespace if ref is not None else None) or "default"
    else:
        ref = user.spec.infrastructure.parameters_ref if user.spec.infrastructure else None
        namespace = user.metadata.namespace
    if ref is None or (ref.group, ref.kind) != (ENVOY_GROUP, EnvoyProxy.KIND):
        return None
    return Ref.of(EnvoyProxy, namespace, ref.name)


def _named(
    db: Db, path: str, what: str, ref: Ref | None
) -> tuple[EnvoyProxySpec | None, tuple[Problem, ...]]:
    if ref is None:
        message = f"{what} has no meaning here; it must be {ENVOY_GROUP}/{EnvoyProxy.KIND}."
        return None, (Problem(path, message, "InvalidParameters"),)
    resource = get(db, EnvoyProxy, ref)
    if resource is None:
        return None, (Problem(path, f"{ref} {absence(db, ref)}.", "InvalidParameters"),)
    if problems := proxy_problems(db, ref):
        return None, tuple(Problem(path, f"{ref} is not valid. {p.message}", p.reason) for p in problems)
    return _reporting_from(resource.spec, ref.namespace), ()


def _reporting_from(spec: EnvoyProxySpec, namespace: str) -> EnvoyProxySpec:
    """A spec whose telemetry names backends of a namespace where it names none."""
    return structs.replace(spec, telemetry=in_namespace(spec.telemetry, namespace))
