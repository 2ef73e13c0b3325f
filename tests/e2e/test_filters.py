"""What a rule does to requests and answers: headers, redirects, rewrites, mirrors."""

from __future__ import annotations

import pytest

from tests.e2e import manifests as m
from tests.e2e.conftest import Site, until
from tests.ports import free_port

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]


def filtering(name: str, *filters: str, match: str = "path: {value: /}", backends: str = "one") -> m.Document:
    """A route of one rule with filters."""
    refs = f", {m.to(*backends.split())}" if backends else ""
    return m.route(name, f"[{{matches: [{{{match}}}], filters: [{', '.join(filters)}]{refs}}}]")


def redirect(text: str) -> str:
    return f"{{type: RequestRedirect, requestRedirect: {{{text}}}}}"


def rewrite(text: str) -> str:
    return f"{{type: URLRewrite, urlRewrite: {{{text}}}}}"


def mirror(name: str, more: str = "") -> str:
    ref = f"{{group: gateway.envoyproxy.io, kind: Backend, name: {name}}}"
    return f"{{type: RequestMirror, requestMirror: {{backendRef: {ref}{more}}}}}"


def extension(name: str) -> str:
    ref = f"{{group: gateway.envoyproxy.io, kind: HTTPRouteFilter, name: {name}}}"
    return f"{{type: ExtensionRef, extensionRef: {ref}}}"


async def test_request_headers_are_set_added_and_removed(site: Site) -> None:
    change = "set: [{name: x-set, value: new}], add: [{name: x-add, value: more}], remove: [x-gone]"
    await site.apply(
        filtering("request", f"{{type: RequestHeaderModifier, requestHeaderModifier: {{{change}}}}}")
    )

    request = await site.reached("request.test", headers={"x-set": "old", "x-add": "some", "x-gone": "1"})

    assert request.header("x-set") == "new"
    assert (request.header("x-add") or "").replace(" ", "") == "some,more"
    assert request.header("x-gone") is None


async def test_response_headers_are_set_added_and_removed(site: Site) -> None:
    change = (
        "set: [{name: content-type, value: text/x}], add: [{name: x-add, value: more}], remove: [x-backend]"
    )
    await site.apply(
        filtering("response", f"{{type: ResponseHeaderModifier, responseHeaderModifier: {{{change}}}}}")
    )

    answer = await site.ask("response.test")

    assert answer.headers["content-type"] == "text/x"
    assert answer.headers["x-add"] == "more"
    assert "x-backend" not in answer.headers


async def test_a_percent_sign_in_a_header_is_one_and_a_command_is_one(site: Site) -> None:
    change = "set: [{name: x-share, value: 100% of %PROTOCOL%}]"
    await site.apply(
        filtering("percent", f"{{type: ResponseHeaderModifier, responseHeaderModifier: {{{change}}}}}")
    )

    answer = await site.ask("percent.test")

    assert answer.headers["x-share"] == "100% of HTTP/1.1"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("%NOBODYS%", "NOBODYS. What was in force"),
        ("%REQ%", "REQ requires parameters. What was in force"),
    ],
)
async def test_a_command_that_envoy_does_not_know_is_answered_500_and_named(
    site: Site, value: str, words: str
) -> None:
    """Only Envoy knows all of its commands, so it is asked; the rest of the table goes on."""
    route = filtering("command", m.tell_client("x-command", value))
    await site.apply(route)

    assert await site.status("command.test") == 500
    await until(lambda: "Programmed" in site.conditions(route))
    assert words in site.conditions(route)["Programmed"]["message"]


async def test_headers_can_be_changed_for_one_backend_of_several(site: Site) -> None:
    """The filters of a backendRef are of the requests that this backend gets."""
    backends = (
        "{group: gateway.envoyproxy.io, kind: Backend, name: two, filters: [{type: RequestHeaderModifier,"
        " requestHeaderModifier: {set: [{name: x-to, value: two}]}}]}"
    )
    other = "{group: gateway.envoyproxy.io, kind: Backend, name: one}"
    await site.apply(m.route("each", f"[{{backendRefs: [{other}, {backends}]}}]"))

    headers = {
        (request.by, request.header("x-to"))
        for request in [await site.reached("each.test") for _ in range(60)]
    }

    assert headers == {("one", None), ("two", "two")}


@pytest.mark.parametrize(
    ("text", "status", "location"),
    [
        ("scheme: https", 302, "https://moved.test/a/b?q=1"),
        ("hostname: other.test, statusCode: 301", 301, "http://other.test:{port}/a/b?q=1"),
        ("port: 8888", 302, "http://moved.test:8888/a/b?q=1"),
        ("port: 80", 302, "http://moved.test/a/b?q=1"),
        ("port: 443", 302, "http://moved.test:443/a/b?q=1"),
        ("scheme: https, port: 80", 302, "https://moved.test:80/a/b?q=1"),
        ("scheme: https, port: 443", 302, "https://moved.test/a/b?q=1"),
        ("scheme: http", 302, "http://moved.test/a/b?q=1"),
        ("path: {type: ReplaceFullPath, replaceFullPath: /x}", 302, "http://moved.test:{port}/x?q=1"),
        ("path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}", 302, "http://moved.test:{port}/x/b?q=1"),
        (
            "path: {type: ReplacePrefixMatch, replacePrefixMatch: /x/}",
            302,
            "http://moved.test:{port}/x/b?q=1",
        ),
        ("path: {type: ReplacePrefixMatch, replacePrefixMatch: /}", 302, "http://moved.test:{port}/b?q=1"),
        (
            "scheme: https, hostname: other.test, port: 444, statusCode: 308",
            308,
            "https://other.test:444/a/b?q=1",
        ),
        ("hostname: other.test, statusCode: 307", 307, "http://other.test:{port}/a/b?q=1"),
        ("hostname: other.test, statusCode: 303", 303, "http://other.test:{port}/a/b?q=1"),
    ],
)
async def test_a_redirect_names_where_to_go(site: Site, text: str, status: int, location: str) -> None:
    """Only what it says differs; the query is kept."""
    await site.apply(filtering("moved", redirect(text), match="path: {value: /a}", backends=""))

    answer = await site.ask("moved.test", "/a/b?q=1")

    assert answer.status_code == status
    assert answer.headers["location"] == location.format(port=site.port)


@pytest.mark.parametrize(
    ("text", "host", "location"),
    [
        ("scheme: https", "to.test:8080", "https://to.test/a/b"),
        ("scheme: https", "to.test:443", "https://to.test/a/b"),
        ("scheme: https", "TO.test:8080", "https://to.test/a/b"),
        ("scheme: https", "x.wild.test", "https://x.wild.test/a/b"),
        # Envoy cannot take a port off; it can replace it by the one that clients use anyway.
        ("scheme: https", "x.wild.test:8080", "https://x.wild.test:443/a/b"),
        ("scheme: http", "x.wild.test:8080", "http://x.wild.test:80/a/b"),
        ("scheme: https", "x.wild.test:", "https://x.wild.test:443/a/b"),
        ("scheme: https", "[::1]", "https://[::1]/a/b"),
        ("scheme: https", "[::1]:8080", "https://[::1]:443/a/b"),
        ("scheme: https, port: 8443", "[::1]:8080", "https://[::1]:8443/a/b"),
        ("scheme: https", "127.0.0.1:8080", "https://127.0.0.1:443/a/b"),
        ("scheme: https, hostname: other.test", "x.wild.test:8080", "https://other.test/a/b"),
        ("scheme: https, port: 8443", "to.test:8080", "https://to.test:8443/a/b"),
        ("", "to.test:8080", "http://to.test:{port}/a/b"),
        ("", "x.wild.test", "http://x.wild.test:{port}/a/b"),
        (
            "scheme: https, path: {type: ReplacePrefixMatch, replacePrefixMatch: /z}",
            "x.wild.test:8080",
            "https://x.wild.test:443/z/b",
        ),
        (
            "scheme: https, path: {type: ReplaceFullPath, replaceFullPath: /z}",
            "to.test:8080",
            "https://to.test/z",
        ),
    ],
)
async def test_a_redirect_never_keeps_the_port_of_the_request(
    site: Site, text: str, host: str, location: str
) -> None:
    """That port is the one of the listener, where nobody speaks the scheme to which the redirect leads."""
    for name, hostnames in (("to", ("to.test",)), ("wild", ("*.wild.test",)), ("all", ())):
        document = filtering(name, redirect(text), match="path: {value: /a}", backends="")
        document["spec"]["hostnames"] = list(hostnames)
        await site.apply(document)

    answer = await site.ask(host, "/a/b")

    assert answer.headers["location"] == location.format(port=site.port)


async def test_a_redirect_from_https_leads_to_the_port_of_its_listener_or_scheme(site: Site) -> None:
    """Several listeners share the route, and each is a different place."""
    port, other = free_port(), free_port()
    await site.apply(
        site.authority.sign("*.shown.test").secret("shown"),
        m.gateway(
            "several",
            f"[{{name: a, port: {other}, protocol: HTTP}}, {{name: b, port: {port}, protocol: HTTPS,"
            " tls: {certificateRefs: [{name: shown}]}}]",
        ),
        *(
            m.route(
                name,
                f"[{{filters: [{redirect(text)}]}}]",
                hostnames=(f"{name}.shown.test",),
                parents="[{name: several}]",
            )
            for name, text in (
                ("stay", "path: {type: ReplaceFullPath, replaceFullPath: /x}"),
                ("plain", "scheme: http"),
            )
        ),
    )

    locations = [
        (await site.ask(host, port=at, tls=tls)).headers["location"]
        for host in ("stay.shown.test", "plain.shown.test")
        for at, tls in ((other, False), (port, True))
    ]

    assert locations == [
        f"http://stay.shown.test:{other}/x",
        f"https://stay.shown.test:{port}/x",
        "http://plain.shown.test/",
        "http://plain.shown.test/",
    ]


async def test_a_rewrite_gives_the_backend_another_host(site: Site) -> None:
    await site.apply(filtering("rewrite-host", rewrite("hostname: inside.test")))

    request = await site.reached("rewrite-host.test", "/a")

    assert (request.header("host"), request.path) == ("inside.test", "/a")
    assert request.header("x-forwarded-host") == "rewrite-host.test"


async def test_a_rewrite_replaces_the_whole_path(site: Site) -> None:
    full = rewrite(r"path: {type: ReplaceFullPath, replaceFullPath: '/new\1'}")
    await site.apply(filtering("rewrite-full", full, match="path: {value: /a}"))

    assert (await site.reached("rewrite-full.test", "/a/b/c?q=1")).path == r"/new\1?q=1"


@pytest.mark.parametrize(
    ("prefix", "replacement", "asked", "reaching"),
    [
        ("/a", "/x", "/a/b", "/x/b"),
        ("/a", "/x", "/a", "/x"),
        ("/a", "/x/", "/a/b", "/x/b"),
        ("/a/", "/x", "/a/b?q=1", "/x/b?q=1"),
        ("/a", "/", "/a/b", "/b"),
        ("/a", "/", "/a", "/"),
        ("/a/", "/", "/a", "/"),
        ("/", "/x", "/b", "/x/b"),
    ],
)
async def test_a_rewrite_replaces_the_prefix(
    site: Site, prefix: str, replacement: str, asked: str, reaching: str
) -> None:
    """Slashes neither double nor vanish, whichever side has them."""
    rewriting = rewrite(f"path: {{type: ReplacePrefixMatch, replacePrefixMatch: {replacement}}}")
    await site.apply(filtering("rewrite-prefix", rewriting, match=f"path: {{value: {prefix}}}"))

    assert (await site.reached("rewrite-prefix.test", asked)).path == reaching


@pytest.mark.parametrize(
    ("pattern", "substitution"), [("^/(a)", r"/\2"), ("^/a", r"/\x"), ("^/(.*)$", r"\1"), ("b*", "/c")]
)
async def test_a_substitution_that_cannot_work_is_answered_500_and_the_status_says_why(
    site: Site, pattern: str, substitution: str
) -> None:
    """Envoy would take it, and send the request as it is, or as nobody can read it."""
    replace = f"{{pattern: '{pattern}', substitution: '{substitution}'}}"
    route = filtering("substitution", extension("substitution"))
    await site.apply(
        m.http_route_filter(
            "substitution",
            f"{{urlRewrite: {{path: {{type: ReplaceRegexMatch, replaceRegexMatch: {replace}}}}}}}",
        ),
        route,
    )

    assert await site.status("substitution.test", "/a/b") == 500

    accepted = site.conditions(route)["Accepted"]
    assert accepted["status"] == "False"
    assert "HTTPRouteFilter default/substitution cannot be used: in urlRewrite.path, " in accepted["message"]
    assert accepted["message"].endswith("Requests of rule 0 are answered with 500.")


async def test_a_mirror_gets_a_copy_and_its_answer_is_ignored(site: Site) -> None:
    await site.apply(filtering("mirror", mirror("two")))
    site.two.statuses.extend([500])

    request = await site.reached("mirror.test", "/a", method="POST", content=b"hello")
    await site.two.arrived(1)

    assert request.by == "one"
    assert (site.two.requests[0].path, site.two.requests[0].body) == ("/a", "hello")


async def test_a_mirror_can_be_turned_to_another_backend(site: Site) -> None:
    await site.apply(filtering("turned", mirror("two")))

    await site.apply(filtering("turned", mirror("three")))
    await site.ask("turned.test")
    await site.three.arrived(1)

    assert site.two.requests == []


async def test_several_mirrors_get_a_copy_each(site: Site) -> None:
    await site.apply(filtering("mirrors", mirror("two"), mirror("three")))

    assert (await site.reached("mirrors.test")).by == "one"
    await site.two.arrived(1)
    await site.three.arrived(1)


async def test_a_mirror_that_leads_nowhere_is_dropped_and_the_rule_goes_on(site: Site) -> None:
    """Source: Gateway API, ``HTTPRequestMirrorFilter``."""
    route = filtering("mirror-gone", mirror("gone"), mirror("two"))
    await site.apply(route)

    assert (await site.reached("mirror-gone.test")).by == "one"
    await site.two.arrived(1)

    resolved = site.conditions(route)["ResolvedRefs"]
    assert (resolved["status"], resolved["reason"]) == ("False", "BackendNotFound")
    assert resolved["message"].endswith("Requests are served, but not copied.")


async def test_a_mirror_of_a_share_gets_that_share(site: Site) -> None:
    await site.apply(filtering("share", mirror("two", ", percent: 50")))

    for _ in range(200):
        await site.ask("share.test")

    assert 50 < len(site.two.requests) < 150


async def test_a_mirror_of_nothing_gets_nothing(site: Site) -> None:
    await site.apply(filtering("none", mirror("two", ", percent: 0"), mirror("three")))

    await site.ask("none.test", "/none")
    await site.three.arrived(1)

    # Copies of an earlier test may come late.
    assert [request for request in site.two.requests if request.path == "/none"] == []


async def test_a_filter_that_is_not_known_answers_500_and_says_so(site: Site) -> None:
    """The other rules of the route go on."""
    unknown = "{type: ExtensionRef, extensionRef: {group: example.com, kind: Nothing, name: x}}"
    document = m.route(
        "unknown",
        f"[{{matches: [{{path: {{value: /x}}}}], filters: [{unknown}], {m.to('one')}}}, {{{m.to('two')}}}]",
    )
    await site.apply(document)

    assert await site.status("unknown.test", "/x") == 500
    assert (await site.reached("unknown.test", "/")).by == "two"
    assert "Nothing" in " ".join(c["message"] for c in site.conditions(document).values())
