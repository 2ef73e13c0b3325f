"""Preflights are answered with what the policy says."""

from __future__ import annotations

import time

import msgspec
import pytest
from envoy.extensions.filters.http.cors.v3.cors_pb2 import CorsPolicy

from moongate.api.base import Ref
from moongate.api.httproute import HTTPCORSFilter, HTTPRouteFilter, HTTPRouteRule
from moongate.engine import Db
from moongate.features.base import Effective
from moongate.features.cors import CORS, FEATURE, Origin, native
from moongate.policies.security_policy import SecurityPolicy

OWNER = Ref.of(SecurityPolicy, "default", "browsers")


def route(cors: CORS) -> CorsPolicy:
    """The config of a route on which ``cors`` is in force."""
    assert FEATURE.http_filter is not None
    config = FEATURE.http_filter.route(Db(), Effective(cors, OWNER))
    assert isinstance(config, CorsPolicy)
    return config


@pytest.mark.parametrize(
    ("origin", "regex"),
    [
        ("*", ".*"),
        ("https://*", "https://.*"),
        ("https://*.my-shop.example.com:8443", r"https://.*\.my-shop\.example\.com:8443"),
        ("git+ssh://*", r"git\+ssh://.*"),
    ],
)
def test_a_wildcard_becomes_a_pattern_and_all_else_is_literal(origin: str, regex: str) -> None:
    """A dot that matched any character would let https://xexample.com in for https://*.example.com."""
    [match] = route(CORS(allow_origins=(origin,))).allow_origin_string_match

    assert match.safe_regex.regex == regex


def test_an_origin_without_wildcard_is_compared_exactly() -> None:
    [match] = route(CORS(allow_origins=("https://example.com",))).allow_origin_string_match

    assert match.exact == "https://example.com"


def test_methods_in_small_letters_are_noticed_where_a_browser_compares_them() -> None:
    """GET, HEAD and POST need not be allowed, and a star allows all; other methods have any case."""
    assert FEATURE.hints is not None
    noticed = [
        problem.path for problem in FEATURE.hints(CORS(allow_methods=("get", "put", "PATCH", "Purge")))
    ]

    assert noticed == ["allowMethods[1]"]
    assert not list(FEATURE.hints(CORS(allow_methods=("put", "*"))))


def test_a_star_among_methods_or_headers_means_all() -> None:
    """In "*, GET" Envoy would take the star for the name of a method."""
    config = route(
        CORS(allow_methods=("GET", "*"), allow_headers=("*", "x-a"), expose_headers=("x-a", "x-b"))
    )

    assert (config.allow_methods, config.allow_headers, config.expose_headers) == ("*", "*", "x-a, x-b")


def test_max_age_is_written_in_whole_seconds() -> None:
    assert route(CORS(max_age="1m500ms")).max_age == "60"


def test_no_max_age_leaves_it_to_the_browser() -> None:
    assert route(CORS()).max_age == ""


@pytest.mark.parametrize("allowed", [None, False, True])
def test_credentials_are_allowed_or_not_but_never_left_open(allowed: bool | None) -> None:
    config = route(CORS(allow_credentials=allowed))

    assert config.HasField("allow_credentials")
    assert config.allow_credentials.value is (allowed is True)


def test_preflights_of_strangers_do_not_reach_the_backend() -> None:
    config = route(CORS())

    assert config.HasField("forward_not_matching_preflights")
    assert not config.forward_not_matching_preflights.value


def test_a_filter_of_a_route_says_the_same_in_seconds() -> None:
    route_filter = HTTPCORSFilter(
        allow_origins=("https://a.example",),
        allow_methods=("GET",),
        allow_headers=("x-a",),
        expose_headers=("x-b",),
        allow_credentials=True,
        max_age=123456,
    )

    cors = native(HTTPRouteRule(filters=(HTTPRouteFilter(type="CORS", cors=route_filter),)))

    assert cors is not None
    assert route(cors).max_age == "123456"
    assert cors == CORS(
        allow_origins=("https://a.example",),
        allow_methods=("GET",),
        allow_headers=("x-a",),
        expose_headers=("x-b",),
        allow_credentials=True,
        max_age="123456s",
    )


@pytest.mark.parametrize(
    "origin",
    ["*", "https://*", "https://*:8443", "http://localhost", "https://*.a-b.example.com:8443", "app+x://a_b"],
)
def test_what_is_an_origin_is_taken(origin: str) -> None:
    assert msgspec.convert(origin, Origin) == origin


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "example.com",
        "https://",
        "https://a..b",
        "https://.a",
        "https://a.*.b",
        "https://a/b",
        "https://a.",
    ],
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(origin, Origin)


def test_a_nasty_origin_is_refused_in_no_time() -> None:
    """The CRD's own pattern needs exponential time here in an engine that backtracks, as Python's does."""
    before = time.process_time()
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert("https://" + "a" * 240 + "!", Origin)

    assert time.process_time() - before < 1
