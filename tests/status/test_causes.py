"""The faults behind conditions, each at its own field."""

from __future__ import annotations

import pytest

from moongate.api.admission import admit_configuration
from moongate.api.base import Ref
from moongate.api.envoygateway import CONTROLLER_NAME
from moongate.api.gateway import Gateway
from moongate.api.httproute import HTTPRoute
from moongate.api.httproutefilter import HTTPRouteFilter
from moongate.attach.routes import USE_DEFAULTS
from moongate.status.causes import causes
from moongate.world import World
from moongate.xds.destinations import rule_destination
from tests import faults
from tests.core import GATEWAY_CLASS, extension, gateway, http, https, read

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: default}
spec:
  parentRefs: [{name: eg}]
  rules:
  - matches: [{path: {value: /a}}, {path: {type: RegularExpression, value: "/("}}]
  - backendRefs: [{name: nowhere, port: 80}]
"""

SHOP = Ref.of(HTTPRoute, "default", "shop")
GATEWAY = Ref.of(Gateway, "default", "eg")


def world(*manifests: str) -> World:
    return World.of([resource for text in (GATEWAY_CLASS, *manifests) for resource in read(text)])


def test_a_rule_that_is_refused_is_its_own_fault() -> None:
    """The condition is that of a parent, whose message names no field."""
    present = world(gateway(http("web")), ROUTE)

    caused = causes(present.db, present.store.resources()[SHOP])

    (refused,) = caused["spec.parentRefs[0]", "PartiallyInvalid"]
    (unresolved,) = caused["spec.parentRefs[0]", "ResolvedRefs"]
    assert refused.problem.path == "spec.rules[0]"
    assert unresolved.problem.path == "spec.rules[1].backendRefs[0]"


BROKEN = "{pattern: '(', substitution: a}"


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (
            f"urlRewrite: {{path: {{type: ReplaceRegexMatch, replaceRegexMatch: {BROKEN}}}}}",
            "spec.urlRewrite.path.replaceRegexMatch",
        ),
        (
            f"urlRewrite: {{hostname: {{type: PathRegex, pathRegex: {BROKEN}}}}}",
            "spec.urlRewrite.hostname",
        ),
        (
            "matches: [{cookies: [{name: a, value: b}, {name: a, type: RegularExpression, value: '('}]}]",
            "spec.matches[0].cookies[1].value",
        ),
        ("directResponse: {body: {type: Inline, inline: '%A('}}", "spec.directResponse.body"),
        (
            "directResponse: {body: {type: ValueRef, valueRef: {group: '', kind: ConfigMap, name: gone}}}",
            "spec.directResponse.body.valueRef",
        ),
        (
            "credentialInjection: {header: 'a b', credential: {valueRef: {name: gone}}}",
            "spec.credentialInjection.header",
        ),
        (
            "credentialInjection: {credential: {valueRef: {name: gone}}}",
            "spec.credentialInjection.credential.valueRef",
        ),
    ],
)
def test_a_fault_of_a_filter_that_a_rule_names_is_the_fault_of_the_filter(spec: str, path: str) -> None:
    """It has no status of its own, and the route has nothing to mend."""
    odd = "{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: odd}"
    rule = f"filters: [{{type: ExtensionRef, extensionRef: {odd}}}]"
    route = f"{ROUTE[: ROUTE.index('  rules:')]}  rules: [{{{rule}}}]\n"
    present = world(gateway(http("web")), route, extension("HTTPRouteFilter", "odd", f"{{{spec}}}"))

    [cause] = causes(present.db, present.store.resources()[SHOP])["spec.parentRefs[0]", "Accepted"]

    assert cause.resource == Ref.of(HTTPRouteFilter, "default", "odd")
    assert cause.problem.path == path
    assert cause.problem.message.endswith(". Requests of rules with this filter are answered with 500.")


def test_a_parent_by_default_stands_at_the_field_that_asks_for_it() -> None:
    route = ROUTE.replace("parentRefs: [{name: eg}]", "useDefaultGateways: All")
    present = world(gateway(http("web"), defaultScope="All"), route)

    caused = causes(present.db, present.store.resources()[SHOP])

    assert [cause.problem.path for cause in caused[USE_DEFAULTS, "PartiallyInvalid"]] == ["spec.rules[0]"]


def test_a_certificate_is_the_fault_of_its_listener() -> None:
    present = world(gateway(http("web"), https("tls", "nowhere")))

    (cause,) = causes(present.db, present.store.resources()[GATEWAY])["spec.listeners[1]", "ResolvedRefs"]

    assert cause.resource == GATEWAY
    assert cause.problem.path == "spec.listeners[1].tls.certificateRefs[0]"


def envoy_proxy(name: str, telemetry: str, more: str = "") -> str:
    return extension("EnvoyProxy", name, f"{{{more}telemetry: {{{telemetry}}}}}")


def named(name: str) -> dict[str, str]:
    return {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": name}


LOGS = "accessLog: {settings: [{matches: ['a =='], sinks: [{type: File, file: {path: /dev/stdout}}]}]}"
SPANS = "tracing: {provider: {type: Zipkin, host: ''}}"
SHARED = "{group: gateway.envoyproxy.io, kind: EnvoyProxy, name: shared, namespace: default}"
OF_CLASS = GATEWAY_CLASS.replace("spec: {", f"spec: {{parametersRef: {SHARED}, ")
AT_LOGS = "spec.telemetry.accessLog.settings[0].matches[0]"
AT_SPANS = "spec.telemetry.tracing.provider.host"


@pytest.mark.parametrize(
    ("own", "shared", "expected"),
    [
        (envoy_proxy("own", LOGS), envoy_proxy("shared", SPANS), {AT_LOGS: "own"}),
        (
            envoy_proxy("own", LOGS, "mergeType: StrategicMerge, "),
            envoy_proxy("shared", SPANS),
            {AT_LOGS: "own", AT_SPANS: "shared"},
        ),
        ("", envoy_proxy("shared", f"{LOGS}, {SPANS}"), {AT_LOGS: "shared", AT_SPANS: "shared"}),
    ],
)
def test_what_is_not_reported_is_the_fault_of_the_envoy_proxy_that_has_the_field(
    own: str, shared: str, expected: dict[str, str]
) -> None:
    """Two may be merged; who looks for the field in the other one does not find it."""
    infrastructure = {"parametersRef": named("own")} if own else {}
    envoy_proxies = [each for each in (own, shared) if each]
    merged = world(OF_CLASS, gateway(http("web"), infrastructure=infrastructure), *envoy_proxies)

    caused = causes(merged.db, merged.store.resources()[GATEWAY])["", "Accepted"]

    assert {cause.problem.path: cause.resource.name for cause in caused} == expected


def test_what_the_configuration_has_stays_a_fault_of_the_gateway() -> None:
    """It is no manifest, so there is no other place for it."""
    configuration, _ = admit_configuration(
        {
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "EnvoyGateway",
            "gateway": {"controllerName": CONTROLLER_NAME},
            "provider": {"type": "Kubernetes"},
            "envoyProxy": {"telemetry": {"tracing": {"provider": {"type": "Zipkin", "host": ""}}}},
        }
    )
    resources = [each for text in (GATEWAY_CLASS, gateway(http("web"))) for each in read(text)]
    configured = World.of(resources, configuration)

    [cause] = causes(configured.db, configured.store.resources()[GATEWAY])["", "Accepted"]

    assert cause.resource == GATEWAY
    assert cause.problem.message.startswith(f"{AT_SPANS} of the EnvoyProxy: ")


def test_a_query_that_failed_has_no_causes() -> None:
    """Its status says so; the log goes on with the conditions as they are."""
    with faults.faulty():
        present = world(gateway(http("web")), ROUTE)
        call = next(call for call in faults.calls(present) if call[0] is rule_destination and 1 in call[1])
        faults.put_fault(present, call, "before")

        assert causes(present.db, present.store.resources()[SHOP]) == {}
