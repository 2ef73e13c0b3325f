"""References that lead nowhere."""

from __future__ import annotations

from typing import NoReturn

import pytest

from moongate.api.backend import Backend
from moongate.api.base import Ref, Resource
from moongate.api.httproute import HTTPRoute
from moongate.attach.policies import Policy
from moongate.dangling import EMPTY, MOST_QUESTIONS, REASON, dangling_references
from moongate.policies import POLICY_KINDS
from tests.attach.test_backend_tls import config_map, tls_policy
from tests.core import (
    GATEWAY_CLASS,
    certificate,
    extension,
    gateway,
    http,
    https,
    key_bytes,
    new_key,
    read,
    secret,
    tls_secret,
)
from tests.routes import REDIRECT
from tests.routes import REDIRECTING as ROUTE

POLICY = """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {name: staff, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}]
  cors: {allowOrigins: ["https://example.com"]}
"""

SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: app, namespace: default}
spec: {ports: [{port: 80}]}
"""

ROUTE_TO_SERVICE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: app, namespace: default}
spec: {parentRefs: [{name: eg}], rules: [{backendRefs: [{name: app, port: 80}]}]}
"""

SOUND = (GATEWAY_CLASS, gateway(http("http")), ROUTE, POLICY)


def messages(*manifests: str) -> list[str]:
    in_force = {resource.ref: resource for text in manifests for resource in read(text)}
    return [
        f"{ref}: {problem.path}: {problem.message}"
        for ref, problem, _ in dangling_references(in_force, in_force)
    ]


class NeverLookedThrough(dict[Ref, Resource]):
    """What is held, for those who ask for single resources."""

    def values(self) -> NoReturn:
        raise AssertionError("all that is held was looked through")


@pytest.mark.parametrize("sliced", [True, False])
def test_the_endpoints_of_one_service_are_asked_for_alone(sliced: bool) -> None:
    """Among thousands of resources, a change of one route must not cost a walk over all."""
    resources = read(ROUTE_TO_SERVICE), read(SERVICE)
    held = NeverLookedThrough({each.ref: each for read_here in resources for each in read_here})
    route, *_ = (ref for ref in held if ref.is_a(HTTPRoute))
    asked: list[Ref] = []

    def has_slices(service: Ref) -> bool:
        asked.append(service)
        return sliced

    ends = [end.problem.reason for end in dangling_references(held, [route], sliced=has_slices)]
    problems = [reason for reason in ends if reason != REASON]

    assert problems == ([] if sliced else [EMPTY])
    assert [str(service) for service in asked] == ["Service default/app"]


def test_the_gateways_at_one_port_are_asked_for_alone() -> None:
    """A new Backend on this machine must not cost a walk over all resources either."""
    backend = """
        apiVersion: gateway.envoyproxy.io/v1alpha1
        kind: Backend
        metadata: {name: app, namespace: default}
        spec: {endpoints: [{ip: {address: 127.0.0.1, port: 80}}, {ip: {address: 127.0.0.1, port: 81}}]}
    """
    gateways = read(gateway(http("http")))
    held = NeverLookedThrough({each.ref: each for each in (*gateways, *read(backend))})

    ends = dangling_references(
        held,
        [ref for ref in held if ref.is_a(Backend)],
        listening=lambda port: [each.ref for each in gateways if port == 80],
    )

    assert [end.problem.path for end in ends] == ["spec.endpoints[0].ip.port"]


def test_references_that_lead_somewhere_are_not_reported() -> None:
    assert messages(*SOUND) == []


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        (
            "kind: HTTPRoute, name: shop}]\n  cors",
            "kind: HTTPRoute, name: shpo}]\n  cors",
            (
                "SecurityPolicy default/staff: spec.targetRefs[0].name: There is no HTTPRoute default/shpo."
                " Did you mean 'shop'? Nothing is guarded by this reference."
            ),
        ),
        (
            "parentRefs: [{name: eg}]",
            "parentRefs: [{name: ge}]",
            (
                "HTTPRoute default/shop: spec.parentRefs[0].name: There is no Gateway default/ge."
                " Did you mean 'eg'? No request gets to this route through it."
            ),
        ),
        (
            "gatewayClassName: eg",
            "gatewayClassName: envoy",
            (
                "Gateway default/eg: spec.gatewayClassName: There is no GatewayClass envoy."
                " The only GatewayClass there is 'eg'. To use this class, add it with controllerName"
                " 'gateway.envoyproxy.io/gatewayclass-controller'. This Gateway is not served."
            ),
        ),
    ],
)
def test_a_slip_in_a_reference_is_reported(right: str, wrong: str, expected: str) -> None:
    """A password guard with a typo would guard nothing, and everything would look fine."""
    assert messages(*(text.replace(right, wrong) for text in SOUND)) == [expected]


def test_a_resource_of_the_same_name_in_another_namespace_is_named() -> None:
    """Who never saw Kubernetes does not think of namespaces, and sees a name that is right."""
    of_route, of_policy = messages(
        GATEWAY_CLASS, gateway(http("http")), ROUTE.replace("namespace: default", "namespace: apps"), POLICY
    )

    assert of_route == (
        "HTTPRoute apps/shop: spec.parentRefs[0].name: There is no Gateway apps/eg. One is in namespace "
        "'default': if you mean it, add namespace: default here. No request gets to this route through it."
    )
    assert of_policy == (
        "SecurityPolicy default/staff: spec.targetRefs[0].name: There is no HTTPRoute default/shop. One is "
        "in namespace 'apps'; only one in 'default' can be named here. Nothing is guarded by this reference."
    )


def test_a_filter_that_a_rule_or_a_backend_names_is_looked_for() -> None:
    """Only in the namespace of the route, for an extensionRef names no other."""
    ref = (
        "{type: ExtensionRef, extensionRef: {group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: %s}}"
    )
    route = f"""
        apiVersion: gateway.networking.k8s.io/v1
        kind: HTTPRoute
        metadata: {{name: shop, namespace: default}}
        spec:
          parentRefs: [{{name: eg}}]
          rules:
          - filters: [{ref % "pages"}]
            backendRefs: [{{name: app, port: 80, filters: [{ref % "closd"}]}}, {{name: app, port: 80}}]
    """
    pages, closed = (
        f"""
        apiVersion: gateway.envoyproxy.io/v1alpha1
        kind: HTTPRouteFilter
        metadata: {{name: {name}, namespace: {namespace}}}
        spec: {{directResponse: {{statusCode: 503}}}}
        """
        for name, namespace in (("pages", "apps"), ("closed", "default"))
    )
    reported = messages(GATEWAY_CLASS, gateway(http("http")), route, pages, closed)

    assert [message for message in reported if "extensionRef" in message] == [
        (
            "HTTPRoute default/shop: spec.rules[0].backendRefs[0].filters[0].extensionRef.name: There is no "
            "HTTPRouteFilter default/closd. Did you mean 'closed'?"
        ),
        (
            "HTTPRoute default/shop: spec.rules[0].filters[0].extensionRef.name: There is no HTTPRouteFilter "
            "default/pages. One is in namespace 'apps'; only one in 'default' can be named here."
        ),
    ]


def test_a_server_that_is_to_be_asked_and_does_not_exist_is_named() -> None:
    auth = "{protocol: HTTP, backendRef: {name: gatekeper, port: 80}, http: {}}"
    route = f"""
        apiVersion: gateway.networking.k8s.io/v1
        kind: HTTPRoute
        metadata: {{name: shop, namespace: default}}
        spec:
          parentRefs: [{{name: eg}}]
          rules: [{{filters: [{{type: ExternalAuth, externalAuth: {auth}}}]}}]
    """
    server = """
        apiVersion: v1
        kind: Service
        metadata: {name: gatekeeper, namespace: default}
        spec: {ports: [{port: 80}]}
    """

    [reported] = [m for m in messages(GATEWAY_CLASS, gateway(http("http")), route, server) if "Auth" in m]

    assert "spec.rules[0].filters[0].externalAuth.backendRef.name: There is no Service" in reported
    assert "Did you mean 'gatekeeper'?" in reported


def test_what_a_document_that_cannot_be_read_may_define_is_not_said_to_be_nowhere() -> None:
    """A tab in one file makes all references to what is in it dangle: the tab is the cause."""
    held = {resource.ref: resource for text in (ROUTE, POLICY) for resource in read(text)}

    first, *_ = dangling_references(held, held, unread=lambda: "web.yaml:5:1")
    slip = POLICY.replace("name: shop", "name: shpo")
    likely = {resource.ref: resource for text in (ROUTE, slip) for resource in read(text)}
    *_, last = dangling_references(likely, likely, unread=lambda: "web.yaml:5:1")

    assert first.problem.message == (
        "There is no Gateway default/eg. It may be in the document that cannot be read, at web.yaml:5:1. "
        "No request gets to this route through it."
    )
    assert "Did you mean 'shop'?" in last.problem.message


def test_a_target_of_a_kind_that_is_not_built_is_not_said_to_be_missing() -> None:
    """It may well be there; moongate does not read it."""
    held = {
        resource.ref: resource
        for resource in read("""
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: sure, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.x-k8s.io, kind: XBackend, name: app}]
  validation: {hostname: app.example.com, wellKnownCACertificates: System}
""")
    }

    [(_, problem, severity)] = dangling_references(held, held)

    assert (problem.message, severity) == (
        "The kind XBackend is not built yet. This policy adds TLS to no requests there.",
        "warning",
    )


@pytest.mark.parametrize("kind", POLICY_KINDS, ids=lambda kind: kind.KIND)
def test_a_target_that_is_not_there_is_reported_for_each_kind_of_policy(kind: type[Policy]) -> None:
    policy = f"""
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: {kind.KIND}
metadata: {{name: settings, namespace: default}}
spec: {{targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: ge}}]}}
"""

    [message] = messages(GATEWAY_CLASS, gateway(http("http")), policy)

    assert "spec.targetRefs[0].name: There is no Gateway default/ge. Did you mean 'eg'?" in message


PATCH = """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyPatchPolicy
metadata: {name: patch, namespace: default}
spec: {type: JSONPatch, targetRef: {group: gateway.networking.k8s.io, kind: KIND, name: NAME}}
"""


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("Gateway", "ge", "spec.targetRef.name: There is no Gateway default/ge. Did you mean 'eg'?"),
        ("GatewayClass", "ge", "spec.targetRef.name: There is no GatewayClass ge."),
        (
            "HTTPRoute",
            "shop",
            "spec.targetRef: The target is a HTTPRoute of group gateway.networking.k8s.io;",
        ),
        ("HTTPRoute", "eg", None),
        ("Gateway", "eg", None),
    ],
)
def test_a_patch_whose_target_is_nowhere_is_reported_unless_its_status_says_so(
    kind: str, name: str, expected: str | None
) -> None:
    said = messages(GATEWAY_CLASS, gateway(http("http")), PATCH.replace("KIND", kind).replace("NAME", name))

    assert expected in said[0] if expected else not said, said


def test_a_target_that_never_is_a_backend_is_told_from_one_that_is_missing() -> None:
    pod = tls_policy(target="Pod/shop")

    assert messages(pod, config_map()) == [
        (
            "BackendTLSPolicy default/policy: spec.targetRefs[0]: The kind is 'Pod'; it must be one of "
            "Service, ServiceImport, Backend. This policy adds TLS to no requests there."
        )
    ]


def test_the_users_of_a_password_guard_are_looked_for() -> None:
    guarded = POLICY + "  basicAuth: {users: {name: stuff}}\n"
    secret = "{apiVersion: v1, kind: Secret, metadata: {name: staff, namespace: default}}"

    assert messages(GATEWAY_CLASS, gateway(http("http")), ROUTE, guarded, secret) == [
        (
            "SecurityPolicy default/staff: spec.basicAuth.users.name: There is no Secret default/stuff."
            " Did you mean 'staff'?"
        )
    ]


def test_what_a_route_filter_reads_is_looked_for() -> None:
    credential = "{credentialInjection: {credential: {valueRef: {name: tokn}}}}"
    page = "{directResponse: {body: {type: ValueRef, valueRef: {group: '', kind: ConfigMap, name: pag}}}}"
    held = (
        "{apiVersion: v1, kind: Secret, metadata: {name: token, namespace: default}}",
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: page, namespace: default}}",
    )
    filters = (
        extension("HTTPRouteFilter", name, spec) for name, spec in (("token", credential), ("page", page))
    )

    assert sorted(messages(*held, *filters)) == [
        (
            "HTTPRouteFilter default/page: spec.directResponse.body.valueRef.name: There is no ConfigMap"
            " default/pag. Did you mean 'page'?"
        ),
        (
            "HTTPRouteFilter default/token: spec.credentialInjection.credential.valueRef.name: There is no"
            " Secret default/tokn. Did you mean 'token'?"
        ),
    ]


def test_what_is_written_with_an_error_is_reported_with_its_place() -> None:
    held = {resource.ref: resource for resource in read(ROUTE)}

    ((_, problem, _),) = dangling_references(held, held, faulty=lambda ref: f"{ref.name}.yaml:3:1")

    assert (
        problem.message == "Gateway default/eg is not in force: it is written at eg.yaml:3:1, with an error. "
        "No request gets to this route through it."
    )


def test_an_envoy_proxy_that_nobody_names_is_reported() -> None:
    """It looks as if it were in force."""
    proxy = """
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: tuned, namespace: default}
spec: {concurrency: 2}
"""
    ref = "parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: tuned, namespace: default}"

    assert messages(GATEWAY_CLASS, gateway(http("http")), proxy) == [
        (
            "EnvoyProxy default/tuned: metadata.name: No parametersRef of a GatewayClass or Gateway names "
            "this EnvoyProxy: it has no effect."
        )
    ]
    assert messages(GATEWAY_CLASS.replace("spec: {", f"spec: {{{ref}, "), gateway(http("http")), proxy) == []


def test_a_class_of_another_controller_is_reported() -> None:
    """Nothing would be served, and nothing would say why."""
    others = GATEWAY_CLASS.replace("gateway.envoyproxy.io/gatewayclass-controller", "example.com/nginx")

    assert messages(others, gateway(http("http"))) == [
        (
            "Gateway default/eg: spec.gatewayClassName: GatewayClass eg is of the controller "
            "'example.com/nginx', and this one is 'gateway.envoyproxy.io/gatewayclass-controller'; "
            "use a class of this controller, or correct spec.controllerName of the class."
            " This Gateway is not served."
        )
    ]


def test_where_whole_files_are_absent_not_every_name_is_puzzled_over() -> None:
    """Looking each of thousands up among thousands would take minutes."""
    routes = [
        ROUTE.replace("name: shop", f"name: r{n}").replace("eg", "ge") for n in range(MOST_QUESTIONS + 1)
    ]

    *asked, last = messages(GATEWAY_CLASS, gateway(http("http")), *routes)

    assert all("Did you mean 'eg'?" in line for line in asked)
    assert last.endswith("There is no Gateway default/ge. No request gets to this route through it.")


def test_a_slip_is_found_among_hundreds_of_names() -> None:
    """Looking a name up costs the same among ten and ten thousand, so nothing waits for it."""
    services = [
        f"apiVersion: v1\nkind: Service\nmetadata: {{name: number-{n}-service}}\nspec: {{ports: []}}"
        for n in range(300)
    ]
    slips = {"nubmer-77-service": "number-77-service", "number-78-servixe": "number-78-service"}
    slips |= {"xumber-79-service": "number-79-service", "number-199-servic": "number-199-service"}
    routes = [
        ROUTE.replace("name: shop", f"name: r{n}").replace(
            REDIRECT, f"backendRefs: [{{name: {slip}, port: 80}}]"
        )
        for n, slip in enumerate(slips)
    ]

    lines = messages(GATEWAY_CLASS, gateway(http("http")), *services, *routes)

    assert [line.rpartition("Did you mean ")[2] for line in lines] == [f"{n!r}?" for n in slips.values()]


@pytest.mark.parametrize(
    ("kind", "address", "port", "loops"),
    [
        ("ip", "127.0.0.1", 80, True),
        ("ip", "0.0.0.0", 80, True),
        ("ip", "127.0.0.1", 81, False),
        ("ip", "10.0.0.1", 80, False),
        ("fqdn", "localhost", 80, True),
        ("fqdn", "localhost", 81, False),
        ("fqdn", "app.example.com", 80, False),
    ],
)
def test_a_backend_that_is_the_gateway_itself_is_noticed(
    kind: str, address: str, port: int, loops: bool
) -> None:
    field = "address" if kind == "ip" else "hostname"
    backend = f"""
        apiVersion: gateway.envoyproxy.io/v1alpha1
        kind: Backend
        metadata: {{name: app, namespace: default}}
        spec: {{endpoints: [{{{kind}: {{{field}: {address}, port: {port}}}}}]}}
    """

    lines = messages(GATEWAY_CLASS, gateway(http("http")), backend)

    expected = (
        f"Backend default/app: spec.endpoints[0].{kind}.port: {address}:{port} is where listener http of "
        "Gateway default/eg listens. Requests come back to it again and again, until they fail. Name "
        "the port of the backend itself."
    )
    assert lines == ([expected] if loops else [])


SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: app-1, namespace: default, labels: {%s: app}}
addressType: IPv4
endpoints: [{addresses: [127.0.0.1]}]
ports: [{port: 3000}]
"""
LABEL = "kubernetes.io/service-name"


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (SLICE % LABEL, None),
        (SLICE % "multicluster.kubernetes.io/service-name", None),
        (
            SLICE % "kubernetes.io/servicename",
            f"metadata: Without the label {LABEL} this EndpointSlice has no Service, and no effect.",
        ),
        (
            (SLICE % LABEL).replace(": app}", ": appp}"),
            (
                f"metadata.labels[{LABEL}]: There is no Service default/appp, so this EndpointSlice has no "
                "effect. Did you mean 'app'?"
            ),
        ),
    ],
)
def test_an_endpoint_slice_of_no_service_is_noticed(manifest: str, message: str | None) -> None:
    """The Service then has no endpoints although they are written, and its routes answer 503."""
    expected = [] if message is None else [f"EndpointSlice default/app-1: {message}"]

    assert messages(SERVICE, manifest) == expected


@pytest.mark.parametrize(
    ("hostname", "sans", "covered"),
    [
        ("shop.example.com", ("shop.example.com",), True),
        ("shop.example.com", ("*.example.com",), True),
        ("shop.example.com", ("other.example.com", "SHOP.example.com"), True),
        ("*.example.com", ("a.example.com",), True),
        ("", ("other.example.com",), True),
        ("shop.example.com", ("example.com", "*.shop.example.com", "a.test"), False),
        ("a.b.example.com", ("*.example.com",), False),
        ("*.example.com", ("example.com",), False),
    ],
)
def test_a_listener_whose_name_no_certificate_has_is_noticed(
    hostname: str, sans: tuple[str, ...], covered: bool
) -> None:
    """Envoy serves it; clients that check the name, which is nearly all, end the connection."""
    manifests = (GATEWAY_CLASS, gateway(https("tls", "cert", hostname=hostname)), tls_secret("cert", *sans))

    assert messages(*manifests) == ([] if covered else [uncovered(hostname, f"for {', '.join(sans)}")])


def test_a_common_name_covers_no_hostname() -> None:
    """Clients have not looked at it for years."""
    key = new_key()
    named = secret("cert", {"tls.crt": certificate(key, common_name="a.test"), "tls.key": key_bytes(key)})
    listener = gateway(https("tls", "cert", hostname="a.test"))

    expected = [uncovered("a.test", "without an alternative DNS name")]
    assert messages(GATEWAY_CLASS, listener, named) == expected


def uncovered(hostname: str, has: str) -> str:
    return (
        f"Gateway default/eg: spec.listeners[0].hostname: The hostname {hostname} is in no certificate of "
        f"the listener, which is {has}. It is served all the same, and clients that check the name end "
        "the connection."
    )


def test_a_certificate_that_cannot_be_used_is_reported_as_that_alone() -> None:
    manifests = (
        GATEWAY_CLASS,
        gateway(https("tls", "cert", hostname="a.test")),
        tls_secret("cert", "b.test"),
    )

    assert messages(*(each.replace("tls.key", "key") for each in manifests)) == []


def test_a_controller_that_is_misspelt_is_asked_for() -> None:
    """A controller of its own may have a similar name, so it is only asked."""
    misspelt, other = (
        messages(GATEWAY_CLASS.replace("gatewayclass-controller", name), gateway(http("http")))
        for name in ("gatewayclass-controler", "gatewayclass-controller-2")
    )

    meant = "Did you mean 'gateway.envoyproxy.io/gatewayclass-controller' there?"
    assert [meant in line for line in misspelt] == [True]
    assert ["Did you mean" in line for line in other] == [False]


def test_what_a_policy_for_tls_names_is_looked_for() -> None:
    """A target that does not exist leaves requests to the one that was meant in the clear."""
    target, authority = messages(tls_policy(target="Backend/shopp"))

    assert "spec.targetRefs[0].name: There is no Backend default/shopp. This policy adds TLS to no" in target
    assert authority.endswith("caCertificateRefs[0].name: There is no ConfigMap default/ours.")


def test_a_port_that_the_target_of_a_policy_for_tls_has_not_is_reported() -> None:
    """Its number, say, where the name is asked for: requests would go on in the clear."""
    named = SERVICE.replace("{port: 80}", "{name: http, port: 80}, {name: grpc, port: 81}")
    text = tls_policy(target="Service/app/80")

    [said] = (each for each in messages(named, text, config_map()) if "sectionName" in each)
    assert "Service default/app has no port named '80'; it has http, grpc. This policy adds TLS to no" in said
    assert not any(
        "sectionName" in each for each in messages(named, text.replace("'80'", "grpc"), config_map())
    )


def weighing(*zones: str) -> str:
    weights = ", ".join(f"{{zone: {zone}, weight: 9}}" for zone in zones)
    target = "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: shop}]"
    balancer = f"loadBalancer: {{type: RoundRobin, zoneAware: {{weightedZones: [{weights}]}}}}"
    return extension("BackendTrafficPolicy", "zones", f"{{{target}, {balancer}}}")


ZONED_BACKEND = extension("Backend", "app", "{endpoints: [{ip: {address: 10.0.0.1, port: 1}, zone: west}]}")
ZONED_SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: app, namespace: default, labels: {kubernetes.io/service-name: app}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.2], zone: east}]
ports: [{port: 1}]
"""


@pytest.mark.parametrize(
    ("zones", "questions"),
    [
        (["west", "east"], {}),
        (["west", "eastt"], {1: " Did you mean 'east'?"}),
        (["Zurich"], {0: ""}),
    ],
)
def test_the_weight_of_a_zone_in_which_no_endpoint_is_has_no_effect(
    zones: list[str], questions: dict[int, str]
) -> None:
    """All endpoints of the zone that was meant have the weight 1 then, as if nobody had named it."""
    lines = messages(*SOUND, SERVICE, ZONED_SLICE, ZONED_BACKEND, weighing(*zones))

    assert lines == [
        f"BackendTrafficPolicy default/zones: spec.loadBalancer.zoneAware.weightedZones[{n}].zone: "
        f"No endpoint is in zone {zones[n]!r}.{question} This has no effect until one is."
        for n, question in questions.items()
    ]
