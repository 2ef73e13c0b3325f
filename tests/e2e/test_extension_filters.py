"""Every field of HTTPRouteFilters, and every filter of backendRefs, as a backend or a client sees it.

Credentials have a module of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e import manifests as m

if TYPE_CHECKING:
    from tests.e2e.conftest import Site

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


def extended(name: str, spec: str, *more: str, backends: str = "one") -> tuple[m.Document, m.Document]:
    """An HTTPRouteFilter, and a route of one rule that names it, after other filters."""
    ref = f"{{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: {name}}}"
    filters = ", ".join((*more, f"{{type: ExtensionRef, extensionRef: {ref}}}"))
    route = m.route(name, f"[{{filters: [{filters}], {m.to(*backends.split())}}}]")
    return m.http_route_filter(name, spec), route


def hostname(text: str) -> str:
    return f"{{urlRewrite: {{hostname: {{{text}}}}}}}"


async def test_the_host_is_taken_from_a_header(site: Site) -> None:
    await site.apply(*extended("of-header", hostname("type: Header, header: x-host")))

    request = await site.reached("of-header.test", headers={"x-host": "inside.test"})

    assert request.header("host") == "inside.test"
    assert request.header("x-forwarded-host") == "of-header.test"
    assert (await site.reached("of-header.test")).header("host") == "of-header.test"


async def test_the_host_is_made_from_the_path(site: Site) -> None:
    regex = r"pathRegex: {pattern: '^/([^/]+)/.*$', substitution: '\1.inside.test'}"
    await site.apply(*extended("of-path", hostname(f"type: PathRegex, {regex}")))

    request = await site.reached("of-path.test", "/ann/a?q=1")

    assert (request.header("host"), request.path) == ("ann.inside.test", "/ann/a?q=1")


async def test_the_host_is_that_of_the_endpoint(site: Site) -> None:
    address = f"ip: {{address: 127.0.0.1, port: {site.two.port}}}, hostname: two.inside.test"
    await site.apply(
        m.backend("called", address),
        *extended("of-backend", hostname("type: Backend"), backends="called"),
    )

    request = await site.reached("of-backend.test")

    assert (request.by, request.header("host")) == ("two", "two.inside.test")


async def test_the_former_host_is_kept_back_if_that_is_asked_for(site: Site) -> None:
    rewrite = "{type: URLRewrite, urlRewrite: {hostname: inside.test}}"
    await site.apply(*extended("kept-back", "{urlRewrite: {appendXForwardedHost: false}}", rewrite))

    request = await site.reached("kept-back.test")

    assert (request.header("host"), request.header("x-forwarded-host")) == ("inside.test", None)


async def test_a_part_of_the_path_is_replaced(site: Site) -> None:
    regex = r"{pattern: '^/v(\d+)/(.*)$', substitution: '/\2/of/\1'}"
    spec = f"{{urlRewrite: {{path: {{type: ReplaceRegexMatch, replaceRegexMatch: {regex}}}}}}}"
    await site.apply(*extended("replaced", spec))

    assert (await site.reached("replaced.test", "/v2/cart?q=1")).path == "/cart/of/2?q=1"
    assert (await site.reached("replaced.test", "/cart")).path == "/cart"


async def test_a_direct_response_has_status_body_type_and_headers(site: Site) -> None:
    body = "body: {type: Inline, inline: 'for %REQ(:METHOD)%'}"
    header = "header: {set: [{name: x-set, value: s}], add: [{name: x-add, value: a}]}"
    await site.apply(
        *extended("direct", f"{{directResponse: {{statusCode: 418, contentType: text/x, {body}, {header}}}}}")
    )

    answer = await site.ask("direct.test", method="PUT")

    assert (answer.status_code, answer.text) == (418, "for PUT")
    assert [answer.headers[name] for name in ("content-type", "x-set", "x-add")] == ["text/x", "s", "a"]
    assert site.one.requests == []


async def test_a_direct_response_may_be_in_a_config_map(site: Site) -> None:
    def page(text: str) -> m.Document:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "page"},
            "data": {"response.body": text},
        }

    ref = "valueRef: {group: '', kind: ConfigMap, name: page}"
    await site.apply(
        page("closed"), *extended("page", f"{{directResponse: {{body: {{type: ValueRef, {ref}}}}}}}")
    )

    assert ((answer := await site.ask("page.test")).status_code, answer.text) == (200, "closed")

    await site.apply(page("closed until nine"))

    assert (await site.ask("page.test")).text == "closed until nine"


async def test_cookies_are_matched(site: Site) -> None:
    cookies = "[{name: tier, value: gold}, {name: age, type: RegularExpression, value: '[0-9]+'}]"
    other = "[{name: staff, value: 'yes'}]"
    await site.apply(*extended("cookies", f"{{matches: [{{cookies: {cookies}}}, {{cookies: {other}}}]}}"))

    for cookie, status in (
        ("tier=gold; age=7", 200),
        ("a=b; staff=yes", 200),
        ("tier=gold", 404),
        ("tier=gold; age=x", 404),
        ("staff=yess", 404),
        ("", 404),
    ):
        assert (cookie, await site.status("cookies.test", headers={"cookie": cookie})) == (cookie, status)


async def test_a_backend_ref_changes_headers_of_requests_and_answers_and_the_host(site: Site) -> None:
    request = "{set: [{name: x-set, value: s}], add: [{name: x-add, value: a}], remove: [x-gone]}"
    answer = "{set: [{name: x-told, value: t}], add: [{name: x-more, value: m}], remove: [x-backend]}"
    filters = (
        f"{{type: RequestHeaderModifier, requestHeaderModifier: {request}}},"
        f" {{type: ResponseHeaderModifier, responseHeaderModifier: {answer}}},"
        " {type: URLRewrite, urlRewrite: {hostname: inside.test}}"
    )
    ref = m.backend_ref("one").removesuffix("}") + f", filters: [{filters}]}}"
    await site.apply(m.route("changing", f"[{{backendRefs: [{ref}, {m.backend_ref('two')}]}}]"))

    for _ in range(40):
        answer = await site.ask("changing.test", headers={"x-gone": "1"})
        by_one = answer.headers.get("x-told") == "t"
        assert (answer.headers.get("x-more"), "x-backend" in answer.headers) == (
            ("m", False) if by_one else (None, True)
        )

    def seen(name: str) -> set[tuple[str | None, ...]]:
        names = ("x-set", "x-add", "x-gone", "host")
        return {tuple(map(each.header, names)) for each in site.backends[name].requests}

    assert seen("one") == {("s", "a", None, "inside.test")}
    assert seen("two") == {(None, None, "1", "changing.test")}


async def test_what_a_backend_ref_has_no_place_for_costs_its_share(site: Site) -> None:
    path = "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /x}}}"
    ref = m.backend_ref("one").removesuffix("}") + f", filters: [{path}]}}"
    route = m.route("no-place", f"[{{backendRefs: [{ref}, {m.backend_ref('two')}]}}]")
    await site.apply(route)

    assert {await site.status("no-place.test") for _ in range(40)} == {200, 500}
    assert site.conditions(route)["ResolvedRefs"]["reason"] == "UnsupportedRefValue"
    assert site.one.requests == []
