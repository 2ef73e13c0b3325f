"""Filters of rules: what is taken of them, what is refused, and what Envoy gets."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from envoy.config.route.v3.route_components_pb2 import RouteAction
from msgspec import convert

from moongate.api.httproute import (
    HTTPBackendRef,
    HTTPPathMatch,
    HTTPPathModifier,
    HTTPRequestRedirectFilter,
    HTTPRouteFilter,
    HTTPRouteRule,
    HTTPURLRewriteFilter,
)
from moongate.api.route import HTTPHeader, HTTPHeaderFilter
from moongate.xds.route_filters import (
    Rewrite,
    RuleFilters,
    apply_rewrite,
    backend_filter_fault,
    backend_filter_problem,
    header_options,
    quoted,
    read_filters,
    redirect_action,
)
from tests.core import Core
from tests.routes import as_dict, route_ref

ROOT = HTTPPathMatch()
A = HTTPPathMatch(value="/a")

ADDS = "{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: X, value: '1'}]}}"
MIRROR = "{type: RequestMirror, requestMirror: {backendRef: {name: copy, port: 80}}}"
REDIRECT = "{type: RequestRedirect, requestRedirect: {hostname: example.com}}"
EXTRA = (
    "{type: ExtensionRef, extensionRef: {group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: extra}}"
)


def read(*filters: str, extra: str = "") -> RuleFilters:
    """The filters of a rule, from YAML; ``extra`` is the spec of the HTTPRouteFilter of that name."""
    given = convert({"filters": [yaml.safe_load(each) for each in filters]}, HTTPRouteRule, strict=False)
    manifest = f"""
        apiVersion: gateway.envoyproxy.io/v1alpha1
        kind: HTTPRouteFilter
        metadata: {{name: extra, namespace: default}}
        spec: {extra}
    """
    core = Core(*([manifest] if extra else []))
    return read_filters(core.db, route_ref(), given)


def redirect(**fields: Any) -> HTTPRequestRedirectFilter:
    return convert(fields, HTTPRequestRedirectFilter)


def rewritten(*filters: str, extra: str = "", path: HTTPPathMatch = A) -> dict[str, Any]:
    found = read(*filters, extra=extra)
    assert found.rewrite is not None
    action = RouteAction()
    apply_rewrite(action, found.rewrite, path)
    return as_dict(action)


def url_rewrite(fields: str) -> str:
    return f"{{type: URLRewrite, urlRewrite: {fields}}}"


def test_header_filters_are_kept_in_order() -> None:
    found = read(ADDS, "{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [Y]}}")

    assert [f.add[0].name for f in found.request] == ["X"]
    assert [f.remove for f in found.response] == [("Y",)]
    assert not found.failed


@pytest.mark.parametrize("name", ["host", "Host", "a/b", "a:b", ""])
def test_a_header_that_cannot_be_changed_is_left_out_and_told(name: str) -> None:
    """The valid ones of the filter still apply, to the 500 that the rule answers then."""
    found = _read_loose(HTTPHeaderFilter(add=(_header(name, "x"), _header("Good", "y"))))

    assert [h.name for f in found.request for h in f.add] == ["Good"]
    assert [p.reason for p in found.refused] == ["UnsupportedValue"]


def test_a_header_with_a_value_that_none_may_have_is_left_out() -> None:
    found = _read_loose(HTTPHeaderFilter(set=(_header("X", "bad\n"), _header("Y", ""))))

    assert found.request == (HTTPHeaderFilter(),)
    assert len(found.refused) == 2


def test_a_filter_that_changes_no_header_is_no_fault() -> None:
    assert not _read_loose(HTTPHeaderFilter()).failed


def test_the_first_mention_of_a_header_wins_and_add_is_read_before_set() -> None:
    one = HTTPHeaderFilter(set=(_header("a", "set"),), add=(_header("A", "add"),), remove=("r", "R"))
    two = HTTPHeaderFilter(add=(_header("a", "late"), _header("b", "2")))

    options, removed = header_options([one, two])

    assert [(o.header.key, o.header.value) for o in options] == [("A", "add"), ("b", "2")]
    assert removed == ["r"]


@pytest.mark.parametrize(
    ("given", "port", "expected"),
    [
        (redirect(hostname="example.com"), 80, {"host_redirect": "example.com", "response_code": "FOUND"}),
        (redirect(statusCode=301), 443, {}),
        (redirect(statusCode=308), 8080, {"port_redirect": 8080, "response_code": "PERMANENT_REDIRECT"}),
        (redirect(scheme="https", statusCode=301), 8080, {"scheme_redirect": "https"}),
        (redirect(port=443, statusCode=301), 8080, {}),
        (redirect(port=8443, statusCode=301), 80, {"port_redirect": 8443}),
    ],
)
def test_a_redirect_names_a_port_only_when_it_must(
    given: HTTPRequestRedirectFilter, port: int, expected: dict[str, Any]
) -> None:
    assert as_dict(redirect_action(given, ROOT, port)) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ({"type": "ReplaceFullPath", "replaceFullPath": "/x"}, {"path_redirect": "/x"}),
        ({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/x"}, {"prefix_rewrite": "/x"}),
        ({"type": "ReplacePrefixMatch", "replacePrefixMatch": "/x/"}, {"prefix_rewrite": "/x"}),
        (
            {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"},
            {"regex_rewrite": {"pattern": {"regex": r"^/a\/*"}, "substitution": "/"}},
        ),
    ],
)
def test_a_redirect_changes_the_path(path: dict[str, str], expected: dict[str, Any]) -> None:
    assert as_dict(redirect_action(redirect(path=path, statusCode=301), A, 80)) == expected


@pytest.mark.parametrize("replacement", ["/x", "/x/"])
def test_a_replacement_of_the_prefix_of_all_paths_ends_in_a_slash(replacement: str) -> None:
    """Or else Envoy would make "/xb" of "/b"."""
    path = HTTPPathModifier(type="ReplacePrefixMatch", replace_prefix_match=replacement)
    action = RouteAction()

    apply_rewrite(action, Rewrite(path=path), ROOT)
    answer = redirect_action(HTTPRequestRedirectFilter(path=path), ROOT, 80)

    assert (action.prefix_rewrite, answer.prefix_rewrite) == ("/x/", "/x/")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            "{hostname: a.example.com}",
            {"host_rewrite_literal": "a.example.com", "append_x_forwarded_host": True},
        ),
        ("{path: {type: ReplacePrefixMatch, replacePrefixMatch: /x/}}", {"prefix_rewrite": "/x"}),
        (
            "{path: {type: ReplacePrefixMatch, replacePrefixMatch: ''}}",
            {"regex_rewrite": {"pattern": {"regex": r"^/a\/*"}, "substitution": "/"}},
        ),
        (
            "{path: {type: ReplaceFullPath, replaceFullPath: /x}}",
            {"regex_rewrite": {"pattern": {"regex": "^/.*$"}, "substitution": "/x"}},
        ),
    ],
)
def test_host_and_path_are_rewritten(fields: str, expected: dict[str, Any]) -> None:
    assert rewritten(url_rewrite(fields)) == expected


@pytest.mark.parametrize(
    ("hostname", "expected"),
    [
        ("{type: Header, header: x-host}", {"host_rewrite_header": "x-host"}),
        ("{type: Backend}", {"auto_host_rewrite": True}),
        (
            "{type: PathRegex, pathRegex: {pattern: '^/(.*)', substitution: '\\1'}}",
            {"host_rewrite_path_regex": {"pattern": {"regex": "^/(.*)"}, "substitution": "\\1"}},
        ),
    ],
)
def test_a_route_filter_takes_the_host_from_elsewhere(hostname: str, expected: dict[str, Any]) -> None:
    extra = f"{{urlRewrite: {{hostname: {hostname}, appendXForwardedHost: false}}}}"

    assert rewritten(EXTRA, extra=extra) == expected


def test_host_and_path_may_be_rewritten_by_a_filter_each() -> None:
    path = "{urlRewrite: {path: {type: ReplaceRegexMatch, replaceRegexMatch: {pattern: a, substitution: b}}}}"

    found = rewritten(url_rewrite("{hostname: a.example.com}"), EXTRA, extra=path)

    assert found["host_rewrite_literal"] == "a.example.com"
    assert found["regex_rewrite"] == {"pattern": {"regex": "a"}, "substitution": "b"}


@pytest.mark.parametrize("first", [True, False])
def test_two_filters_cannot_both_rewrite_the_host(first: bool) -> None:
    filters = [EXTRA, url_rewrite("{hostname: a.example.com}")]
    extra = "{urlRewrite: {hostname: {type: Backend}}}"

    found = read(*(filters if first else filters[::-1]), extra=extra)

    assert [p.reason for p in found.refused] == ["UnsupportedValue"]


def test_a_direct_response_ends_the_reading_of_filters() -> None:
    found = read(EXTRA, ADDS, extra="{directResponse: {statusCode: 404, contentType: text/plain}}")

    assert found.direct is not None
    assert found.request == ()
    assert [h.value for f in found.response for h in f.set] == ["text/plain"]
    assert not found.forwards


@pytest.mark.parametrize("other", [REDIRECT, EXTRA])
def test_what_is_not_forwarded_cannot_be_mirrored(other: str) -> None:
    found = read(MIRROR, other, extra="{directResponse: {statusCode: 404}}")

    assert [p.reason for p in found.refused] == ["IncompatibleFilters"]


def test_a_route_filter_that_does_not_exist_is_unresolved() -> None:
    found = read(EXTRA, ADDS)

    assert [p.path for p in found.unresolved] == ["filters[0]"]
    assert found.refused == ()
    assert found.request == ()


def test_a_filter_that_is_not_supported_is_refused() -> None:
    auth = (
        "{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: auth, port: 80}, http: {}}}"
    )

    found = read(auth)

    assert [p.reason for p in found.refused] == ["UnsupportedValue"]


@pytest.mark.parametrize(
    ("share", "millionths"),
    [
        ("", [None]),
        ("percent: 20,", [200_000]),
        ("percent: 0,", []),
        ("fraction: {numerator: 1, denominator: 3},", [333_333]),
        ("fraction: {numerator: 5},", [50_000]),
    ],
)
def test_a_mirror_may_copy_a_share(share: str, millionths: list[int | None]) -> None:
    mirror = f"{{type: RequestMirror, requestMirror: {{{share} backendRef: {{name: copy, port: 80}}}}}}"

    assert [m.millionths for m in read(mirror).mirrors] == millionths


@pytest.mark.parametrize("hostname", ["-bad.example.com", "1.2.3.4", "Upper.example.com", "a..b"])
def test_a_host_that_is_no_dns_name_is_refused(hostname: str) -> None:
    """Also where an older object has it."""
    rewrite = HTTPRouteFilter(type="URLRewrite", url_rewrite=HTTPURLRewriteFilter(hostname=hostname))

    found = read_filters(Core().db, route_ref(), HTTPRouteRule(filters=(rewrite,)))

    assert [p.reason for p in found.refused] == ["UnsupportedValue"]
    assert found.rewrite is None


def test_values_out_of_their_range_are_told_and_do_no_harm() -> None:
    """An object may be older than the enum that it breaks."""
    odd: Any = "Odd"
    code: Any = 666
    filters = (
        HTTPRouteFilter(type="RequestRedirect", request_redirect=HTTPRequestRedirectFilter(status_code=code)),
        HTTPRouteFilter(type="RequestRedirect", request_redirect=HTTPRequestRedirectFilter(scheme=odd)),
        HTTPRouteFilter(type="URLRewrite", url_rewrite=HTTPURLRewriteFilter(path=HTTPPathModifier(type=odd))),
        HTTPRouteFilter(
            type="URLRewrite", url_rewrite=HTTPURLRewriteFilter(path=HTTPPathModifier(type="ReplaceFullPath"))
        ),
        HTTPRouteFilter(type=odd),
    )

    found = read_filters(Core().db, route_ref(), HTTPRouteRule(filters=filters))

    assert len(found.refused) == len(filters)
    assert found.redirect is None


def test_a_backend_ref_takes_no_filter_that_envoy_has_no_place_for() -> None:
    for each in (
        MIRROR,
        REDIRECT,
        EXTRA,
        url_rewrite("{path: {type: ReplaceFullPath, replaceFullPath: /x}}"),
    ):
        ref = convert({"name": "shop", "filters": [yaml.safe_load(each)]}, HTTPBackendRef)
        problem = backend_filter_problem(ref)
        assert problem is not None
        assert problem.reason == "UnsupportedRefValue"


def test_a_fault_in_a_filter_of_a_backend_ref_is_told() -> None:
    ref = convert(
        {"name": "shop", "filters": [yaml.safe_load(url_rewrite("{hostname: 1.2.3.4}"))]}, HTTPBackendRef
    )

    assert backend_filter_problem(ref) is None
    fault = backend_filter_fault(ref)
    assert fault is not None
    assert fault.reason == "InvalidBackendFilters"


def test_text_is_quoted_for_re2() -> None:
    assert quoted("/a.b+c-d") == r"/a\.b\+c-d"


def _header(name: str, value: str) -> HTTPHeader:
    return HTTPHeader(name=name, value=value)


def _read_loose(given: HTTPHeaderFilter) -> RuleFilters:
    rule = HTTPRouteRule(
        filters=(HTTPRouteFilter(type="RequestHeaderModifier", request_header_modifier=given),)
    )
    return read_filters(Core().db, route_ref(), rule)
