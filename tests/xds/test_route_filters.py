"""What the filters of a rule become in Envoy's routes."""

from __future__ import annotations

from typing import Any

import pytest
from envoy.config.route.v3.route_components_pb2 import RouteAction
from msgspec import convert

from moongate.api.httproute import (
    HTTPPathMatch,
    HTTPPathModifier,
    HTTPRequestRedirectFilter,
)
from moongate.api.route import HTTPHeaderFilter
from moongate.attach.rule_filters import (
    Rewrite,
)
from moongate.xds.route_filters import (
    Origin,
    apply_rewrite,
    header_options,
    quoted,
    redirect_action,
)
from tests.filters import EXTRA, header, judged, url_rewrite
from tests.routes import as_dict

ROOT = HTTPPathMatch()
A = HTTPPathMatch(value="/a")
HTTP = Origin("http", 80)
HTTPS = Origin("https", 443)


def redirect(**fields: Any) -> HTTPRequestRedirectFilter:
    return convert(fields, HTTPRequestRedirectFilter)


def rewritten(*filters: str, extra: str = "", path: HTTPPathMatch = A) -> dict[str, Any]:
    verdict = judged(*filters, extra=extra)
    assert verdict.rewrite is not None
    action = RouteAction()
    apply_rewrite(action, verdict.rewrite, path)
    return as_dict(action)


def test_the_first_mention_of_a_header_wins_and_add_is_read_before_set() -> None:
    one = HTTPHeaderFilter(set=(header("a", "set"),), add=(header("A", "add"),), remove=("r", "R"))
    two = HTTPHeaderFilter(add=(header("a", "late"), header("b", "2")))

    options, removed = header_options([one, two])

    assert [(o.header.key, o.header.value) for o in options] == [("A", "add"), ("b", "2")]
    assert removed == ["r"]


@pytest.mark.parametrize(
    ("spec", "listener", "expected"),
    [
        (redirect(hostname="b.test"), HTTP, {"host_redirect": "b.test", "response_code": "FOUND"}),
        (redirect(statusCode=301), HTTPS, {}),
        (
            redirect(statusCode=308),
            Origin("http", 8080),
            {"port_redirect": 8080, "response_code": "PERMANENT_REDIRECT"},
        ),
        (redirect(scheme="https", statusCode=301), Origin("http", 8080), {"scheme_redirect": "https"}),
        (redirect(scheme="http", statusCode=301), Origin("https", 8443), {"scheme_redirect": "http"}),
        (redirect(port=8443, statusCode=301), HTTP, {"port_redirect": 8443}),
        (redirect(port=80, statusCode=301), HTTP, {}),
        # Ports that are well-known, but not those of the scheme, are named.
        (redirect(port=443, statusCode=301), HTTP, {"port_redirect": 443}),
        (redirect(port=80, statusCode=301), HTTPS, {"port_redirect": 80}),
        (redirect(statusCode=301), Origin("http", 443), {"port_redirect": 443}),
        (
            redirect(scheme="https", port=80, statusCode=301),
            HTTP,
            {"scheme_redirect": "https", "port_redirect": 80},
        ),
    ],
)
def test_a_redirect_names_every_port_but_the_well_known_one_of_its_scheme(
    spec: HTTPRequestRedirectFilter, listener: Origin, expected: dict[str, Any]
) -> None:
    """Source: Gateway API, ``HTTPRequestRedirectFilter.port``."""
    assert as_dict(redirect_action(spec, ROOT, listener)) == expected


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
    assert as_dict(redirect_action(redirect(path=path, statusCode=301), A, HTTP)) == expected


@pytest.mark.parametrize("replacement", ["/x", "/x/"])
def test_a_replacement_of_the_prefix_of_all_paths_ends_in_a_slash(replacement: str) -> None:
    """Or else Envoy would make "/xb" of "/b"."""
    path = HTTPPathModifier(type="ReplacePrefixMatch", replace_prefix_match=replacement)
    action = RouteAction()

    apply_rewrite(action, Rewrite(path=path), ROOT)
    answer = redirect_action(HTTPRequestRedirectFilter(path=path), ROOT, HTTP)

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

    route = rewritten(url_rewrite("{hostname: a.example.com}"), EXTRA, extra=path)

    assert route["host_rewrite_literal"] == "a.example.com"
    assert route["regex_rewrite"] == {"pattern": {"regex": "a"}, "substitution": "b"}


def test_text_is_quoted_for_re2() -> None:
    assert quoted("/a.b+c-d") == r"/a\.b\+c-d"
