"""Which rule takes a request: paths, headers, query parameters, methods, and who wins."""

from __future__ import annotations

import pytest

from tests.e2e import manifests as m
from tests.e2e.conftest import Site

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


def matching(name: str, match: str) -> m.Document:
    """A route of one match, to backend ``one``."""
    return m.route(name, f"[{{matches: [{match}], {m.to('one')}}}]")


def first_of(name: str, *matches: str, hostnames: tuple[str, ...] = ()) -> m.Document:
    """A route of rules with one match each, to ``one``, ``two``, ``three`` in their order."""
    rules = [f"{{matches: [{match}], {m.to(to)}}}" for match, to in zip(matches, BACKENDS, strict=False)]
    return m.route(name, f"[{', '.join(rules)}]", hostnames=hostnames)


BACKENDS = ("one", "two", "three")


async def test_an_exact_path_matches_itself_only(site: Site) -> None:
    await site.apply(matching("exact", "{path: {type: Exact, value: /a}}"))

    statuses = {path: await site.status("exact.test", path) for path in ("/a", "/a?x=1", "/a/", "/ab", "/A")}

    assert statuses == {"/a": 200, "/a?x=1": 200, "/a/": 404, "/ab": 404, "/A": 404}


async def test_a_prefix_matches_whole_segments(site: Site) -> None:
    await site.apply(matching("prefix", "{path: {type: PathPrefix, value: /a/}}"))

    statuses = {path: await site.status("prefix.test", path) for path in ("/a", "/a/", "/a/b/c", "/ab", "/")}

    assert statuses == {"/a": 200, "/a/": 200, "/a/b/c": 200, "/ab": 404, "/": 404}


async def test_a_path_regex_matches_the_whole_path_without_the_query(site: Site) -> None:
    await site.apply(matching("regex", "{path: {type: RegularExpression, value: '/v[0-9]+/.*'}}"))

    statuses = {
        path: await site.status("regex.test", path) for path in ("/v1/x", "/v12/?q=1", "/v/x", "/x/v1/")
    }

    assert statuses == {"/v1/x": 200, "/v12/?q=1": 200, "/v/x": 404, "/x/v1/": 404}


async def test_a_header_matches_exactly_and_names_have_no_case(site: Site) -> None:
    await site.apply(matching("header", "{headers: [{name: X-Env, value: blue}]}"))

    assert await site.status("header.test", headers={"x-env": "blue"}) == 200
    assert await site.status("header.test", headers={"x-env": "Blue"}) == 404
    assert await site.status("header.test") == 404


async def test_a_header_regex_matches_the_whole_value(site: Site) -> None:
    await site.apply(
        matching("header-regex", "{headers: [{type: RegularExpression, name: x-env, value: 'b.*e|green'}]}")
    )

    assert await site.status("header-regex.test", headers={"x-env": "bluuue"}) == 200
    assert await site.status("header-regex.test", headers={"x-env": "green"}) == 200
    assert await site.status("header-regex.test", headers={"x-env": "greenish"}) == 404


async def test_all_headers_of_a_match_must_match(site: Site) -> None:
    await site.apply(matching("headers", "{headers: [{name: a, value: '1'}, {name: b, value: '2'}]}"))

    assert await site.status("headers.test", headers={"a": "1", "b": "2"}) == 200
    assert await site.status("headers.test", headers={"a": "1"}) == 404


async def test_of_several_entries_for_one_header_the_first_counts(site: Site) -> None:
    """Names have no case; both entries together would match nothing. Source: Gateway API."""
    await site.apply(
        matching("twice", "{headers: [{name: X-Env, value: blue}, {name: x-env, value: green}]}")
    )

    assert await site.status("twice.test", headers={"x-env": "blue"}) == 200
    assert await site.status("twice.test", headers={"x-env": "green"}) == 404


async def test_query_parameters_that_differ_in_case_are_two(site: Site) -> None:
    await site.apply(matching("cases", "{queryParams: [{name: q, value: a}, {name: Q, value: b}]}"))

    assert await site.status("cases.test", "/?q=a&Q=b") == 200
    assert await site.status("cases.test", "/?q=a") == 404
    assert await site.status("cases.test", "/?Q=b") == 404


async def test_a_query_parameter_matches_exactly(site: Site) -> None:
    await site.apply(matching("query", "{queryParams: [{name: who, value: me}]}"))

    statuses = {
        path: await site.status("query.test", path) for path in ("/?who=me", "/?x&who=me", "/?who=you", "/")
    }

    assert statuses == {"/?who=me": 200, "/?x&who=me": 200, "/?who=you": 404, "/": 404}


async def test_a_query_regex_matches_the_whole_value(site: Site) -> None:
    await site.apply(
        matching("query-regex", "{queryParams: [{type: RegularExpression, name: n, value: '[0-9]+'}]}")
    )

    assert await site.status("query-regex.test", "/?n=12") == 200
    assert await site.status("query-regex.test", "/?n=12a") == 404


async def test_a_method_matches(site: Site) -> None:
    await site.apply(matching("method", "{method: PUT}"))

    assert await site.status("method.test", method="PUT") == 200
    assert await site.status("method.test", method="POST") == 404


async def test_one_of_several_matches_is_enough(site: Site) -> None:
    await site.apply(matching("any", "{path: {value: /a}}, {method: PUT, path: {value: /b}}"))

    assert await site.status("any.test", "/a") == 200
    assert await site.status("any.test", "/b", method="PUT") == 200
    assert await site.status("any.test", "/b") == 404


async def test_the_longer_path_wins_whatever_the_order_of_rules(site: Site) -> None:
    await site.apply(first_of("longer", "{path: {value: /}}", "{path: {value: /a}}", "{path: {value: /a/b}}"))

    assert [(await site.reached("longer.test", path)).by for path in ("/x", "/a", "/a/b/c")] == list(BACKENDS)


async def test_an_exact_path_wins_over_a_longer_prefix_match(site: Site) -> None:
    await site.apply(first_of("exact-first", "{path: {value: /a/b}}", "{path: {type: Exact, value: /a/b}}"))

    assert (await site.reached("exact-first.test", "/a/b")).by == "two"
    assert (await site.reached("exact-first.test", "/a/b/c")).by == "one"


async def test_a_method_wins_over_headers_and_headers_over_parameters(site: Site) -> None:
    await site.apply(
        first_of(
            "specific",
            "{queryParams: [{name: q, value: '1'}]}",
            "{headers: [{name: h, value: '1'}]}",
            "{method: GET}",
        )
    )

    statuses = [
        (await site.reached("specific.test", "/?q=1", headers={"h": "1"})).by,
        (await site.reached("specific.test", "/?q=1", headers={"h": "1"}, method="POST")).by,
        (await site.reached("specific.test", "/?q=1", method="POST")).by,
    ]

    assert statuses == ["three", "two", "one"]


async def test_more_headers_win(site: Site) -> None:
    one, two = "{name: a, value: '1'}", "{name: b, value: '1'}"
    await site.apply(first_of("more", f"{{headers: [{one}]}}", f"{{headers: [{one}, {two}]}}"))

    assert (await site.reached("more.test", headers={"a": "1", "b": "1"})).by == "two"
    assert (await site.reached("more.test", headers={"a": "1"})).by == "one"


async def test_among_equals_the_first_rule_wins_and_then_the_name_of_the_route(site: Site) -> None:
    await site.apply(
        m.route("equal-b", f"[{{{m.to('three')}}}]", hostnames=("equal.test",)),
        first_of("equal-a", "{path: {value: /}}", "{path: {value: /}}", hostnames=("equal.test",)),
    )

    assert (await site.reached("equal.test")).by == "one"


async def test_a_request_that_no_rule_takes_is_answered_404(site: Site) -> None:
    await site.apply(matching("nowhere", "{path: {value: /there}}"))

    assert await site.status("nowhere.test", "/here") == 404
    assert await site.status("unknown.test") == 404
