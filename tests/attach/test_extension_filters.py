"""HTTPRouteFilters, judged."""

from __future__ import annotations

import pytest

from moongate.api.base import Ref
from moongate.api.httproutefilter import HTTPRouteFilter
from moongate.api.shared import LocalObjectReference
from moongate.attach.extension_filters import Extension, extension, route_filter
from tests.core import Core
from tests.core import extension as manifest

FILTER = Ref.of(HTTPRouteFilter, "default", "extra")


def route_filter_manifest(spec: str) -> str:
    return manifest("HTTPRouteFilter", "extra", spec)


def judged(spec: str, *others: str) -> Extension:
    return route_filter(Core(route_filter_manifest(spec), *others).db, FILTER)


def config_map(data: str) -> str:
    return f"{{apiVersion: v1, kind: ConfigMap, metadata: {{name: pages, namespace: default}}, {data}}}"


def secret(data: str, *, namespace: str = "default") -> str:
    metadata = f"metadata: {{name: token, namespace: {namespace}}}"
    return f"{{apiVersion: v1, kind: Secret, {metadata}, stringData: {{{data}}}}}"


INJECTION = "{credentialInjection: {credential: {valueRef: {name: token}}}}"
VALUE_REF = "{directResponse: {body: {type: ValueRef, valueRef: {group: '', kind: ConfigMap, name: pages}}}}"


def test_a_filter_says_how_host_and_path_are_rewritten() -> None:
    verdict = judged(
        "{urlRewrite: {hostname: {type: Header, header: x-host}, appendXForwardedHost: false,"
        " path: {type: ReplaceRegexMatch, replaceRegexMatch: {pattern: '^/a', substitution: /b}}}}"
    )

    assert verdict.refused is None
    assert verdict.hostname is not None
    assert verdict.hostname.header == "x-host"
    assert verdict.path is not None
    assert (verdict.path.pattern, verdict.path.substitution) == ("^/a", "/b")
    assert verdict.append_x_forwarded_host is False


def test_a_direct_response_is_200_unless_it_says_otherwise() -> None:
    verdict = judged("{directResponse: {contentType: text/plain, body: {type: Inline, inline: hello}}}")

    assert verdict.response is not None
    assert (verdict.response.status, verdict.response.body) == (200, b"hello")
    assert [header.value for change in verdict.response.headers for header in change.set] == ["text/plain"]


@pytest.mark.parametrize(
    ("data", "body"),
    [
        ("data: {other: x, response.body: yes!}", b"yes!"),
        ("data: {b: second, a: first}", b"first"),
        ("binaryData: {a: aGk=}", b"hi"),
    ],
)
def test_a_body_may_be_in_a_config_map(data: str, body: bytes) -> None:
    verdict = judged(VALUE_REF, config_map(data))

    assert verdict.response is not None
    assert verdict.response.body == body


@pytest.mark.parametrize("others", [(), (config_map("data: {}"),)])
def test_a_body_that_is_nowhere_refuses_the_filter(others: tuple[str, ...]) -> None:
    verdict = judged(VALUE_REF, *others)

    assert verdict.response is None
    assert verdict.refused is not None
    assert "pages" in verdict.refused.message


@pytest.mark.parametrize(
    "spec",
    [
        "{urlRewrite: {path: {type: ReplaceRegexMatch, replaceRegexMatch: {pattern: '(', substitution: x}}}}",
        "{urlRewrite: {hostname: {type: PathRegex, pathRegex: {pattern: '(', substitution: x}}}}",
        r"{urlRewrite: {path: {type: ReplaceRegexMatch, replaceRegexMatch: {pattern: a, substitution: \1}}}}",
        r"{urlRewrite: {hostname: {type: PathRegex, pathRegex: {pattern: /a, substitution: '\1'}}}}",
        "{urlRewrite: {hostname: {type: Header, header: 'no header'}}}",
        "{matches: [{cookies: [{name: a, type: RegularExpression, value: '('}]}]}",
        "{directResponse: {statusCode: 199}}",
        "{directResponse: {statusCode: 600}}",
        "{directResponse: {body: {type: Inline, inline: 'of %REQ(x'}}}",
        "{credentialInjection: {credential: {valueRef: {name: secret}}}}",
        "{credentialInjection: {header: host, credential: {valueRef: {name: token}}}}",
        "{credentialInjection: {header: Content-Length, credential: {valueRef: {name: token}}}}",
        "{credentialInjection: {header: 'a b', credential: {valueRef: {name: token}}}}",
        "{credentialInjection: {header: '', credential: {valueRef: {name: token}}}}",
        "{credentialInjection: {credential: {valueRef: {kind: ConfigMap, name: token}}}}",
        "{credentialInjection: {credential: {valueRef: {name: token, namespace: other}}}}",
    ],
)
def test_a_filter_that_cannot_be_honoured_is_refused(spec: str) -> None:
    verdict = judged(spec, secret("credential: abc"), secret("credential: abc", namespace="other"))

    assert verdict.refused is not None
    assert verdict.refused.reason == "UnsupportedValue"
    assert "abc" not in verdict.refused.message


@pytest.mark.parametrize("value", ["abc", "Bearer a.b-c=", "Basic YTpi", "two  blanks", "\u00e9"])
def test_a_credential_is_the_value_of_a_header(value: str) -> None:
    verdict = judged(INJECTION, secret(f"credential: '{value}'"))

    assert verdict.refused is None
    assert verdict.credential is not None
    assert verdict.of_backend


@pytest.mark.parametrize(
    "data",
    ["password: abc", "credential: ''", "credential: 'abc '", 'credential: "abc\\n"', 'credential: "a\\0bc"'],
)
def test_a_secret_without_a_credential_refuses_the_filter_and_its_content_is_not_said(data: str) -> None:
    verdict = judged(INJECTION, secret(data))

    assert verdict.refused is not None
    assert "Secret default/token" in verdict.refused.message
    assert "abc" not in verdict.refused.message


def test_a_credential_in_another_namespace_wants_a_grant() -> None:
    elsewhere = INJECTION.replace("name: token", "name: token, namespace: other")
    grant = """
        apiVersion: gateway.networking.k8s.io/v1beta1
        kind: ReferenceGrant
        metadata: {name: grant, namespace: other}
        spec:
          from: [{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, namespace: default}]
          to: [{group: '', kind: Secret}]
    """

    assert judged(elsewhere, secret("credential: abc", namespace="other")).faulty
    assert not judged(elsewhere, secret("credential: abc", namespace="other"), grant).faulty


@pytest.mark.parametrize("more", ["directResponse: {}", "matches: [{cookies: [{name: a, value: b}]}]"])
def test_what_a_backend_has_no_place_for_makes_it_a_filter_of_rules(more: str) -> None:
    verdict = judged(
        INJECTION.replace("{credentialInjection", f"{{{more}, credentialInjection"), secret("credential: abc")
    )

    assert not verdict.faulty
    assert not verdict.of_backend


def test_a_filter_that_does_not_exist_is_a_reference_that_leads_nowhere() -> None:
    verdict = route_filter(Core().db, FILTER)

    assert verdict.unresolved is not None
    assert verdict.refused is None


def test_a_filter_of_another_kind_is_refused() -> None:
    verdict = extension(
        Core().db, LocalObjectReference(group="example.com", kind="Mine", name="x"), "default"
    )

    assert verdict.refused is not None
    assert "Mine" in verdict.refused.message


def test_a_config_map_that_changes_changes_the_answer() -> None:
    core = Core(route_filter_manifest(VALUE_REF), config_map("data: {a: old}"))
    before = route_filter(core.db, FILTER)

    core.apply(config_map("data: {a: new}"))
    after = route_filter(core.db, FILTER)

    assert before.response is not None
    assert after.response is not None
    assert (before.response.body, after.response.body) == (b"old", b"new")
