"""Dangling references: references to resources that do not exist.

A policy that targets a route by a misspelt name protects no route, and no status reports it. In a cluster the
resource may belong to somebody else, so statuses do not mention it, or say only that it is missing, as Envoy
Gateway does. On a laptop all resources are known, so a name that matches no resource is probably a spelling
mistake. This module reports each such reference and suggests the name that was probably meant. It also hands
out the hints about single resources (``hints``), which no status reports either.

A condition reports some of these references too, in other words and only if the resource has a status. What
both report is reported once, in the words that ``DanglingReference.explaining`` joins. ``moongate run`` and
``moongate validate`` do the same here, so that they say the same.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections import defaultdict
from functools import cached_property, wraps
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple, ParamSpec

from moongate.api.backend import Backend
from moongate.api.backendtlspolicy import BackendTLSPolicy
from moongate.api.base import ENVOY_GROUP, Ref, fields_of
from moongate.api.core import ConfigMap, EndpointSlice, Secret, Service
from moongate.api.envoygateway import CONTROLLER_NAME
from moongate.api.envoypatchpolicy import EnvoyPatchPolicy
from moongate.api.envoyproxy import EnvoyProxy
from moongate.api.gateway import Gateway, GatewayClass
from moongate.api.httproute import HTTPRouteFilter as OfHTTPRoute
from moongate.api.httproutefilter import HTTPRouteFilter
from moongate.api.listenerset import ListenerSet
from moongate.api.route import RequestBackendRef, RequestRule, Route
from moongate.attach.authorities import source
from moongate.attach.backend_tls import certificates_named
from moongate.attach.backends import IMPORT_NAME, SERVICE_NAME, Target, is_loopback, kind_problem, target
from moongate.attach.certificates import Certificate, covers, in_secret
from moongate.attach.client_validation import validations
from moongate.attach.listener_sets import parent_of_set
from moongate.attach.patch_policies import kind_fault, named_by
from moongate.attach.policies import Policy
from moongate.attach.routes import parent_of
from moongate.features import FEATURES
from moongate.hints import CLOSED, UNUSED, hints
from moongate.kinds import UNBUILT_KINDS
from moongate.policies import POLICY_KINDS
from moongate.policies.references import references
from moongate.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from moongate.api.base import Resource
    from moongate.api.route import RouteFilter
    from moongate.api.shared import BackendObjectReference, LocalObjectReference

P = ParamSpec("P")

REASON = "TargetNotFound"
"""Reason of a dangling reference that no status reports."""
MISSING = "NotFound"
"""Reason of a dangling reference that a condition reports too, in fewer words."""
EMPTY = "EndpointsNotFound"
"""Reason of a reference to a Service that exists but has no endpoints."""
ROUTABLE = "NoEndpointSlice"
"""Reason of a reference to a Service without endpoints whose clusterIP may do instead.

Nothing is wrong with it unless a condition says so; then it says what to write.
"""

MOST_QUESTIONS = 100
"""For how many missing names one call suggests another. If more are missing, whole files are absent."""


_WITHIN_NAMESPACE = re.compile(r"spec\.(?:targetRef|infrastructure)|.*\.extensionRef\.")
"""The fields whose references have no namespace."""

_GUARDS = frozenset(kind.KIND for kind in POLICY_KINDS if kind.GUARDS)


_MISSING = re.compile(
    r"^[A-Z]\w+ \S+ (?:does not exist|has no endpoints|is not in force, as its manifest .* \(.*\))\.\s*",
    re.DOTALL,
)
"""How a condition says what a dangling reference says too."""


class _Reference(NamedTuple):
    path: str
    to: Ref
    reason: str = MISSING


class DanglingReference(NamedTuple):
    """A reference to a resource that does not exist, or a hint about a resource.

    It is an error if the resource that is referred to does not exist, because something that is written is
    then not in force. It is a warning if that resource is written with an error or is of a kind that is not
    built yet, because that is reported already, or if it belongs to another controller.
    """

    resource: Ref
    problem: Problem
    severity: Literal["error", "warning"]

    @property
    def field(self) -> str:
        """The field of the reference, as the problem of a condition names it."""
        return self.problem.path.removesuffix(".name")

    def explaining(self, problem: Problem) -> Problem:
        """A problem of a condition in the words of this reference, which say what may have been meant.

        What happens to requests is in the message of the condition alone, so it stays.
        """
        effect = _MISSING.sub("", problem.message)
        return Problem(self.problem.path, f"{self.problem.message} {effect}".strip(), problem.reason)


def dangling_by_resource(
    resources: Mapping[Ref, Resource],
    refs: Iterable[Ref],
    *,
    controller: str = CONTROLLER_NAME,
    faulty: Callable[[Ref], object | None] = lambda _ref: None,
    sliced: Callable[[Ref], bool] | None = None,
    listening: Callable[[int], Iterable[Ref]] | None = None,
    unread: Callable[[], object | None] = lambda: None,
) -> Iterator[tuple[DanglingReference, ...]]:
    """For each of some resources its dangling references.

    To look at thousands takes long: a caller can stop between two of them, and then go on.

    Args:
        resources: all resources in force.
        refs: the resources whose references are checked; those that are not in force have none.
        controller: the controllerName of the GatewayClasses that this controller serves.
        faulty: the place in a file of a resource that has an error and is therefore not in force; or None.
        sliced: whether a Service has an EndpointSlice; if it is absent, all EndpointSlices are searched.
        listening: what has a listener at a port, sorted; if it is absent, all Gateways and ListenerSets are
            searched.
        unread: the place of a document that cannot be read, so that nobody knows what it defines; or None.
    """
    in_force = _InForce(resources, controller, unread)
    sliced = sliced or in_force.sliced
    listening = listening or in_force.listening
    for ref in refs:
        yield tuple(_dangling(resources, ref, in_force, controller, faulty, sliced, listening))


def _in_a_row(
    by_resource: Callable[P, Iterator[tuple[DanglingReference, ...]]],
) -> Callable[P, Iterator[DanglingReference]]:
    @wraps(by_resource)
    def in_a_row(*args: P.args, **kwargs: P.kwargs) -> Iterator[DanglingReference]:
        return chain.from_iterable(by_resource(*args, **kwargs))

    return in_a_row


dangling_references = _in_a_row(dangling_by_resource)
"""The dangling references of all of some resources, from the same arguments."""


def _dangling(
    resources: Mapping[Ref, Resource],
    ref: Ref,
    in_force: _InForce,
    controller: str,
    faulty: Callable[[Ref], object | None],
    sliced: Callable[[Ref], bool],
    listening: Callable[[int], Iterable[Ref]],
) -> Iterator[DanglingReference]:
    if ref.is_a(EnvoyProxy) and ref in resources and ref not in in_force.parameters:
        message = "No parametersRef of a GatewayClass or Gateway names this EnvoyProxy: it has no effect."
        yield DanglingReference(ref, Problem("metadata.name", message, UNUSED), "warning")
    for problem in hints(resources.get(ref)):
        yield DanglingReference(ref, problem, "warning")
    for problem in (
        *_loops(resources.get(ref), resources, listening),
        *_of_no_service(resources.get(ref), in_force),
        *_uncovered(resources.get(ref), resources),
        *_of_no_port(resources.get(ref), resources),
        *_of_wrong_kind(resources.get(ref), in_force),
        *_of_no_zone(resources.get(ref), in_force),
    ):
        yield DanglingReference(ref, problem, "warning")
    for path, to, reason in _references(resources.get(ref)):
        if to not in resources:
            place = faulty(to)
            is_excused = place is not None or (to.group, to.kind) in UNBUILT_KINDS
            if place is not None:
                message = f"{to} is not in force: it is written at {place}, with an error."
            elif is_excused:
                message = f"The kind {to.kind} is not built yet."
            else:
                message = f"There is no {to}.{in_force.question(path, to)}"
            problem = Problem(path, f"{message}{_effect(ref, reason)}", reason)
            yield DanglingReference(ref, problem, "warning" if is_excused else "error")
        elif (other := in_force.controller_of(to)) is not None and other != controller:
            message = (
                f"{to} is of the controller {other!r}, and this one is {controller!r}; "
                "use a class of this controller, or correct spec.controllerName of the class."
            )
            if _likeness(other, controller) > _TYPED_WRONG:
                message += f" Did you mean {controller!r} there?"
            problem = Problem(path, f"{message}{_effect(ref, reason)}", reason)
            yield DanglingReference(ref, problem, "warning")
        elif to.is_a(Service) and in_force.reads_slices(to) and not sliced(to):
            label = f"{SERVICE_NAME}: {to.name}"
            remedy = f"add an EndpointSlice with the label {label}, or {_BACKEND}"
            message = f"{to} has no endpoints: {remedy}."
            problem = Problem(path, message, ROUTABLE if in_force.has_address(to) else EMPTY)
            yield DanglingReference(ref, problem, "warning")


def references_of(resource: object) -> frozenset[Ref]:
    """All resources that a resource refers to, whether they exist or not."""
    return frozenset(to for _, to, _ in _references(resource))


def selecting_nothing(
    resources: Mapping[Ref, Resource], refs: Iterable[Ref], has_status: Callable[[Ref], bool]
) -> Iterator[DanglingReference]:
    """The policies that target by labels alone, and target nothing.

    Args:
        resources: all resources in force.
        refs: the resources that are checked; those that are not in force, or no such policies, are skipped.
        has_status: whether a policy has a status: one without a target has none.
    """
    for ref in refs:
        policy = resources.get(ref)
        if not isinstance(policy, Policy) or not selects_only(policy) or has_status(ref):
            continue
        kinds = " or ".join(dict.fromkeys(selector.kind for selector in policy.spec.target_selectors))
        message = f"No {kinds} that is served here matches, so this policy has no effect until one does."
        if any(
            s.namespaces is not None and s.namespaces.from_ != "Same" for s in policy.spec.target_selectors
        ):
            message += " One in another namespace counts only if a ReferenceGrant there allows it."
        yield DanglingReference(ref, Problem("spec.targetSelectors", message, UNUSED), "warning")


def selects_only(policy: Policy) -> bool:
    """Whether a policy has targets by their labels alone."""
    spec = policy.spec
    return bool(spec.target_selectors) and spec.target_ref is None and not spec.target_refs


_BACKEND = f"use a Backend ({ENVOY_GROUP}) with an ip or fqdn endpoint"


class _Names:
    """A set of names in which the most similar name to a given one can be found quickly.

    In a sorted list, names with the same beginning stand side by side. In a list that is sorted by the
    reversed names, names with the same end do. So a search costs about the same among ten names and among
    ten thousand.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.sorted = sorted(names)
        self._backwards = sorted(name[::-1] for name in self.sorted)

    def like(self, word: str) -> str | None:
        """The name most similar to a word by its beginning and end; None if less than half of it is equal."""
        near = {*_near(self.sorted, word), *(name[::-1] for name in _near(self._backwards, word[::-1]))}
        alike, name = max(((_likeness(word, name), name) for name in sorted(near)), default=(0, ""))
        return name if alike >= 0.5 else None


def _near(names: list[str], word: str) -> list[str]:
    at = bisect(names, word)
    return names[max(at - _NEIGHBOURS, 0) : at + _NEIGHBOURS]


_NEIGHBOURS = 4


def _likeness(one: str, other: str) -> float:
    """The share of two words that is equal, counted from both ends; exchanged letters count half."""
    begin = _begun_alike(one, other)
    left, right = one[begin:], other[begin:]
    end = _begun_alike(left[::-1], right[::-1])
    exchanged = len(left) - end if sorted(left) == sorted(right) else 0
    return (2 * (begin + end) + exchanged) / (len(one) + len(other))


def _begun_alike(one: str, other: str) -> int:
    unlike = (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(unlike, min(len(one), len(other)))


class _InForce:
    """The resources in force, with the lookups that messages about a missing resource need."""

    def __init__(
        self, resources: Mapping[Ref, Resource], controller: str, unread: Callable[[], object | None]
    ) -> None:
        self._resources = resources
        self._controller = controller
        self._unread = unread
        self._asked = 0

    def question(self, path: str, to: Ref) -> str:
        """A suggestion how to correct a reference to a missing resource; "" if there is none.

        Args:
            path: the field with the reference.
            to: the resource that does not exist.
        """
        self._asked += 1
        if self._asked > MOST_QUESTIONS:
            return ""
        if to.is_a(Service) and Ref.of(Backend, to.namespace, to.name) in self._resources:
            return f" Did you mean the Backend of this name? Then say group: {ENVOY_GROUP} and kind: Backend."
        names = self._names.get((to.group, to.kind, to.namespace))
        if names is not None and (close := names.like(to.name)) is not None:
            return f" Did you mean {close!r}?"
        if (elsewhere := self._elsewhere.get((to.group, to.kind, to.name))) is not None:
            if _WITHIN_NAMESPACE.match(path):
                return f" One is in namespace {elsewhere!r}; only one in {to.namespace!r} can be named here."
            return f" One is in namespace {elsewhere!r}: if you mean it, add namespace: {elsewhere} here."
        if self._unread_place is not None:
            return f" It may be in the document that cannot be read, at {self._unread_place}."
        only = (
            f" The only {to.kind} there is {names.sorted[0]!r}."
            if names is not None and len(names.sorted) == 1
            else ""
        )
        if to.is_a(GatewayClass):
            return f"{only} To use this class, add it with controllerName {self._controller!r}."
        if to.is_a(Service) and not only:
            return f" Without a cluster, a Service and its EndpointSlice are manifests, too; or {_BACKEND}."
        return only

    def has(self, ref: Ref) -> bool:
        """Whether a resource is in force."""
        return ref in self._resources

    def controller_of(self, ref: Ref) -> str | None:
        """The controllerName of a GatewayClass; ``None`` for other kinds."""
        resource = self._resources[ref]
        return resource.spec.controller_name if isinstance(resource, GatewayClass) else None

    def reads_slices(self, service: Ref) -> bool:
        """Whether a Service gets its endpoints from EndpointSlices."""
        resource = self._resources[service]
        assert isinstance(resource, Service)
        return resource.spec.type != "ExternalName"

    def has_address(self, service: Ref) -> bool:
        """Whether a Service has an address of its own, which Envoys may use instead of its endpoints."""
        resource = self._resources[service]
        assert isinstance(resource, Service)
        return resource.spec.cluster_ip not in ("", "None", None)

    def sliced(self, service: Ref) -> bool:
        """Whether a Service has an EndpointSlice."""
        return (service.namespace, service.name) in self._sliced

    @cached_property
    def parameters(self) -> frozenset[Ref]:
        """The EnvoyProxies that a GatewayClass or a Gateway refers to."""
        users = (each for each in self._resources.values() if isinstance(each, GatewayClass | Gateway))
        return frozenset(to for each in users for _, to, _ in _references(each) if to.is_a(EnvoyProxy))

    @cached_property
    def zones(self) -> frozenset[str]:
        """The zones in which endpoints are."""
        endpoints = (
            endpoint
            for each in self._resources.values()
            if isinstance(each, Backend | EndpointSlice)
            for endpoint in (each.spec.endpoints if isinstance(each, Backend) else each.endpoints)
        )
        return frozenset(endpoint.zone for endpoint in endpoints if endpoint.zone)

    def listening(self, port: int) -> Iterable[Ref]:
        """The Gateways and ListenerSets with a listener at a port, sorted."""
        return sorted(self._listening.get(port, ()))

    @cached_property
    def _listening(self) -> Mapping[int, set[Ref]]:
        at: dict[int, set[Ref]] = defaultdict(set)
        for gateway in self._resources.values():
            for listener in gateway.spec.listeners if isinstance(gateway, Gateway | ListenerSet) else ():
                at[listener.port].add(gateway.ref)
        return at

    @cached_property
    def _names(self) -> dict[tuple[str, str, str], _Names]:
        names: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for ref in self._resources:
            names[ref.group, ref.kind, ref.namespace].append(ref.name)
        return {key: _Names(each) for key, each in names.items()}

    @cached_property
    def _elsewhere(self) -> dict[tuple[str, str, str], str]:
        """Group, kind and name of each resource, with the first namespace that has one."""
        return {
            (ref.group, ref.kind, ref.name): ref.namespace for ref in sorted(self._resources, reverse=True)
        }

    @cached_property
    def _unread_place(self) -> object | None:
        return self._unread()

    @cached_property
    def _sliced(self) -> frozenset[tuple[str, str | None]]:
        slices = (each for each in self._resources.values() if isinstance(each, EndpointSlice))
        return frozenset((s.metadata.namespace, s.metadata.labels.get(SERVICE_NAME)) for s in slices)


def _references(resource: object) -> Iterator[_Reference]:
    match resource:
        case GatewayClass():
            if resource.spec.parameters_ref is not None:
                namespace = resource.spec.parameters_ref.namespace or "default"
                yield from _parameters("spec.parametersRef", resource.spec.parameters_ref, namespace)
        case Gateway():
            yield from _of_gateway(resource)
        case ListenerSet():
            yield from _of_set(resource)
        case Route():
            yield from _of_route(resource)
        case BackendTLSPolicy():
            for n, aim in enumerate(resource.spec.target_refs):
                if _may_have_tls(aim):
                    yield _aimed(resource, f"spec.targetRefs[{n}]", aim)
            yield from _certificates(resource)
        case EnvoyPatchPolicy():
            if kind_fault(named := named_by(resource)) is None:
                yield _Reference("spec.targetRef.name", named, REASON)
        case Backend() | EnvoyProxy():
            yield from _certificates(resource)
        case HTTPRouteFilter():
            yield from _of_route_filter(resource)
        case Policy():
            yield from (_Reference(path, to) for path, to in references(resource))
            if resource.spec.target_ref is not None:
                yield _aimed(resource, "spec.targetRef", resource.spec.target_ref)
            else:
                for n, aim in enumerate(resource.spec.target_refs):
                    yield _aimed(resource, f"spec.targetRefs[{n}]", aim)
        case _:
            return


def _of_gateway(gateway: Gateway) -> Iterator[_Reference]:
    name = Ref.of(GatewayClass, "", gateway.spec.gateway_class_name)
    yield _Reference("spec.gatewayClassName", name, REASON)
    infrastructure = gateway.spec.infrastructure
    if infrastructure is not None and infrastructure.parameters_ref is not None:
        path = "spec.infrastructure.parametersRef"
        yield from _parameters(path, infrastructure.parameters_ref, gateway.metadata.namespace)
    yield from _certificates(gateway)
    for _, path, validation in validations(gateway):
        for n, ref in enumerate(validation.ca_certificate_refs):
            to = source(ref.kind, ref.namespace or gateway.metadata.namespace, ref.name)
            if to is not None:
                yield _Reference(f"{path}.caCertificateRefs[{n}].name", to)
    yield from _of_listeners(gateway)


def _of_set(listener_set: ListenerSet) -> Iterator[_Reference]:
    if (gateway := parent_of_set(listener_set)) is not None:
        yield _Reference("spec.parentRef.name", gateway, REASON)
    yield from _of_listeners(listener_set)


def _of_listeners(owner: Gateway | ListenerSet) -> Iterator[_Reference]:
    for n, listener in enumerate(owner.spec.listeners):
        for m, ref in enumerate(listener.tls.certificate_refs if listener.tls is not None else ()):
            if (ref.group, ref.kind) == ("", Secret.KIND):
                to = Ref.of(Secret, ref.namespace or owner.metadata.namespace, ref.name)
                yield _Reference(f"spec.listeners[{n}].tls.certificateRefs[{m}].name", to)


def _of_route_filter(resource: HTTPRouteFilter) -> Iterator[_Reference]:
    injection, response = resource.spec.credential_injection, resource.spec.direct_response
    if injection is not None and injection.credential.value_ref.kind == Secret.KIND:
        named = injection.credential.value_ref
        to = Ref.of(Secret, named.namespace or resource.metadata.namespace, named.name)
        yield _Reference("spec.credentialInjection.credential.valueRef.name", to)
    if response is not None and response.body is not None and response.body.value_ref is not None:
        to = Ref.of(ConfigMap, resource.metadata.namespace, response.body.value_ref.name)
        yield _Reference("spec.directResponse.body.valueRef.name", to)


def _certificates(resource: Resource) -> Iterator[_Reference]:
    """The authorities and certificates that a resource names for TLS to backends."""
    yield from (_Reference(f"{path}.name", to) for path, to in certificates_named(resource))


def _parameters(path: str, ref: LocalObjectReference, namespace: str) -> Iterator[_Reference]:
    if (ref.group, ref.kind) == (ENVOY_GROUP, EnvoyProxy.KIND):
        yield _Reference(f"{path}.name", Ref.of(EnvoyProxy, namespace, ref.name))


def _of_route(route: Route) -> Iterator[_Reference]:
    for n, parent in enumerate(route.spec.parent_refs):
        if (to := parent_of(parent, route.metadata.namespace)) is not None:
            yield _Reference(f"spec.parentRefs[{n}].name", to, REASON)
    for n, rule in enumerate(route.spec.rules):
        for m, ref in enumerate(rule.backend_refs):
            yield from _backend(route, f"spec.rules[{n}].backendRefs[{m}]", ref)
            filters = ref.filters if isinstance(ref, RequestBackendRef) else ()
            yield from _of_filters(route, f"spec.rules[{n}].backendRefs[{m}]", filters)
        if isinstance(rule, RequestRule):
            yield from _of_filters(route, f"spec.rules[{n}]", rule.filters)


def _of_filters(route: Route, path: str, filters: Iterable[RouteFilter]) -> Iterator[_Reference]:
    for n, used in enumerate(filters):
        at = f"{path}.filters[{n}]"
        if used.request_mirror is not None:
            yield from _backend(route, f"{at}.requestMirror.backendRef", used.request_mirror.backend_ref)
        auth = used.external_auth if isinstance(used, OfHTTPRoute) else None
        if auth is not None:
            yield from _backend(route, f"{at}.externalAuth.backendRef", auth.backend_ref)
        extension = used.extension_ref
        if extension is not None and (extension.group, extension.kind) == (ENVOY_GROUP, HTTPRouteFilter.KIND):
            to = Ref.of(HTTPRouteFilter, route.metadata.namespace, extension.name)
            yield _Reference(f"{at}.extensionRef.name", to)


def _backend(route: Route, path: str, ref: BackendObjectReference) -> Iterator[_Reference]:
    at = target(ref, route.metadata.namespace)
    if kind_problem(at) is None:
        yield _Reference(f"{path}.name", at.ref)


def _loops(
    resource: Resource | None, resources: Mapping[Ref, Resource], listening: Callable[[int], Iterable[Ref]]
) -> Iterator[Problem]:
    """The endpoints of a Backend at which a Gateway of this machine listens itself."""
    for n, endpoint in enumerate(resource.spec.endpoints if isinstance(resource, Backend) else ()):
        here: list[tuple[str, str, int]] = []
        if endpoint.ip is not None and is_loopback(endpoint.ip.address):
            here.append(("ip", endpoint.ip.address, endpoint.ip.port))
        if endpoint.fqdn is not None and endpoint.fqdn.hostname in _THIS_MACHINE:
            here.append(("fqdn", endpoint.fqdn.hostname, endpoint.fqdn.port))
        for field, host, port in here:
            owners = (resources[ref] for ref in listening(port))
            listeners = (
                f"listener {each.name} of {owner.ref}"
                for owner in owners
                if isinstance(owner, Gateway | ListenerSet)
                for each in owner.spec.listeners
                if each.port == port
            )
            if (listener := next(listeners, None)) is not None:
                message = (
                    f"{host}:{port} is where {listener} listens. Requests come back to it again and "
                    "again, until they fail. Name the port of the backend itself."
                )
                yield Problem(f"spec.endpoints[{n}].{field}.port", message, CLOSED)


def _of_no_service(resource: Resource | None, in_force: _InForce) -> Iterator[Problem]:
    """An EndpointSlice that belongs to no Service, because of its label."""
    if not isinstance(resource, EndpointSlice) or IMPORT_NAME in resource.metadata.labels:
        return
    name = resource.service
    if not name:
        message = f"Without the label {SERVICE_NAME} this EndpointSlice has no Service, and no effect."
        yield Problem("metadata", message, UNUSED)
    elif not in_force.has(service := Ref.of(Service, resource.metadata.namespace, name)):
        at = f"metadata.labels[{SERVICE_NAME}]"
        message = (
            f"There is no {service}, so this EndpointSlice has no effect.{in_force.question(at, service)}"
        )
        yield Problem(at, message, UNUSED)


def _of_wrong_kind(resource: Resource | None, in_force: _InForce) -> Iterator[Problem]:
    """The targets of a policy that are of a kind to which it never applies, so that no status says so."""
    match resource:
        case BackendTLSPolicy():
            for n, aim in enumerate(resource.spec.target_refs):
                if not _may_have_tls(aim):
                    fault = kind_problem(Target(aim.group, aim.kind, "", aim.name, 0))
                    assert fault is not None, "there is no such backend"
                    sentence = f"{fault.message[:1].upper()}{fault.message[1:]}."
                    message = f"{sentence} This policy adds TLS to no requests there."
                    yield Problem(f"spec.targetRefs[{n}]", message, UNUSED)
        case EnvoyPatchPolicy():
            named = named_by(resource)
            gateway = Ref.of(Gateway, resource.metadata.namespace, named.name)
            # Where a Gateway has the name, the status of the policy has the same problem.
            if (fault := kind_fault(named)) is not None and not in_force.has(gateway):
                yield Problem(fault.path, f"{fault.message} This policy changes nothing.", UNUSED)
        case _:
            return


def _of_no_zone(resource: Resource | None, in_force: _InForce) -> Iterator[Problem]:
    """The zones that a policy names, and in which no endpoint of any backend is."""
    if not isinstance(resource, Policy):
        return
    names = {field.name: field.encode_name for field in fields_of(type(resource.spec))}
    for feature in FEATURES:
        if feature.kind != resource.KIND or feature.named_zones is None:
            continue
        value = feature.of(resource.spec)
        for path, zone in feature.named_zones(value) if value is not None else ():
            if zone not in in_force.zones:
                close = _Names(in_force.zones).like(zone)
                question = f" Did you mean {close!r}?" if close is not None else ""
                message = f"No endpoint is in zone {zone!r}.{question} This has no effect until one is."
                yield Problem(f"spec.{names[feature.field]}.{path}", message, UNUSED)


def _may_have_tls(aim: LocalObjectReference) -> bool:
    """Whether a target of a BackendTLSPolicy is of a kind that is a backend, or will be one."""
    backend = Target(aim.group, aim.kind, "", aim.name, 0)
    return kind_problem(backend) is None or (aim.group, aim.kind) in UNBUILT_KINDS


def _of_no_port(resource: Resource | None, resources: Mapping[Ref, Resource]) -> Iterator[Problem]:
    """The ports that a BackendTLSPolicy is for and that its Service has not: no request goes by TLS there."""
    for n, aim in enumerate(resource.spec.target_refs if isinstance(resource, BackendTLSPolicy) else ()):
        assert resource is not None, "it is a policy"
        service = resources.get(Ref(aim.kind, resource.metadata.namespace, aim.name, aim.group))
        if not isinstance(service, Service) or not aim.section_name:
            continue
        ports = [port.name for port in service.spec.ports if port.name]
        if aim.section_name not in ports:
            has = f"; it has {', '.join(ports[:_MOST_NAMES])}" if ports else "; none of its ports has a name"
            message = (
                f"{service.ref} has no port named {aim.section_name!r}{has}. "
                "This policy adds TLS to no requests there."
            )
            yield Problem(f"spec.targetRefs[{n}].sectionName", message, UNUSED)


def _uncovered(resource: Resource | None, resources: Mapping[Ref, Resource]) -> Iterator[Problem]:
    """The listeners whose hostname is in none of their certificates: clients refuse what Envoy serves."""
    if not isinstance(resource, Gateway | ListenerSet):
        return
    for n, listener in enumerate(resource.spec.listeners):
        if not listener.hostname or listener.tls is None or not listener.tls.certificate_refs:
            continue
        secrets = [
            resources.get(Ref.of(Secret, ref.namespace or resource.metadata.namespace, ref.name))
            for ref in listener.tls.certificate_refs
            if (ref.group, ref.kind) == ("", Secret.KIND)
        ]
        certificates = [in_secret(secret) if isinstance(secret, Secret) else None for secret in secrets]
        names = [name for each in certificates if isinstance(each, Certificate) for name in each.sans]
        all_readable = all(isinstance(each, Certificate) for each in certificates) and bool(certificates)
        if all_readable and not any(covers(name, listener.hostname) for name in names):
            has = f"for {', '.join(names[:_MOST_NAMES])}" if names else "without an alternative DNS name"
            message = (
                f"The hostname {listener.hostname} is in no certificate of the listener, which is {has}. "
                "It is served all the same, and clients that check the name end the connection."
            )
            yield Problem(f"spec.listeners[{n}].hostname", message, CLOSED)


_MOST_NAMES = 4
"""How many names of certificates a message lists."""
_TYPED_WRONG = 0.98
"""From what likeness on another name of a controller is probably a slip."""

_THIS_MACHINE = ("localhost", "localhost.localdomain")
"""Names that a machine has for itself."""


def _aimed(policy: Policy | BackendTLSPolicy, path: str, at: LocalObjectReference) -> _Reference:
    return _Reference(f"{path}.name", Ref(at.kind, policy.metadata.namespace, at.name, at.group), REASON)


def _effect(ref: Ref, reason: str) -> str:
    if reason != REASON:
        return ""
    if ref.kind in _GUARDS:
        return " Nothing is guarded by this reference."
    if ref.is_a(BackendTLSPolicy):
        return " This policy adds TLS to no requests there."
    if ref.is_a(Gateway) or ref.is_a(ListenerSet):
        return f" This {ref.kind} is not served."
    return (
        " No request gets to this route through it."
        if ref.kind.endswith("Route")
        else " This policy has no effect there."
    )
