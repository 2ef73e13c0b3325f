"""What stands in place of paths and hosts: what cannot work is found when it is read."""

from __future__ import annotations

import pytest

from moongate.attach.replacements import (
    as_format,
    host_substitution_fault,
    path_fault,
    path_substitution_fault,
    unfinished_command,
)


@pytest.mark.parametrize(
    ("pattern", "substitution"),
    [
        ("^/service/([^/]+)(/.*)$", r"\2/instance/\1"),
        ("^/a", "/b"),
        ("^/api(/.*)$", r"\1"),
        # Of "/foo" it makes nothing, but such requests need not exist.
        ("^/foo", ""),
        (".*", "/x"),
        ("^", "/before"),
        ("/?$", "/"),
        ("$", "/"),
        ("one", "two"),
        ("^/a", r"/b\\c"),
        ("^/a", r"\0/b"),
        ("^/a$", "/b?x=1"),
        ("/api/v1/(.*)", r"/v2/\1"),
        ("^/(a|b)/|^/c/", "/d/"),
        # Of "/" it makes nothing, but it is for the last slash of other paths.
        ("/$", ""),
        ("/+$", ""),
        ("^/[^/]+/", "/"),
        # Of "/a/b" it makes nothing, but it is for longer paths.
        ("^(/[^/]+){2}", ""),
        ("x*", ""),
        ("^/[^/]+/[^/]+/[^/]+(/.*)?", r"\1"),
    ],
)
def test_a_substitution_that_makes_paths_has_no_fault(pattern: str, substitution: str) -> None:
    assert path_substitution_fault(pattern, substitution) is None


@pytest.mark.parametrize(
    ("pattern", "substitution", "words"),
    [
        ("^/a", r"/b\1", r"'^/a' has no group: there is no \1"),
        ("^/(a)", r"/\2", r"has 1 group: there is no \2"),
        ("^/(a)(b)", r"/\9", r"has 2 groups: there is no \9"),
        ("/a", r"/\x", r"where \x means nothing"),
        ("/a", "/\\\u0661", r"means nothing"),
        ("/a", "/b\\", r"a backslash is \\"),
        ("^/api/(.*)$", r"\1", "makes 'a/b' of '/api/a/b'; a path begins with '/'"),
        (r"^/(\d+)", r"\1", "a path begins with '/'"),
        ("^/$", "", "makes '' of '/'"),
        ("^/(?:v1|v2)/(.*)", r"\1", "of '/v1/a/b'"),
        (".*", "x", "a path begins with '/'"),
        (".*", "", "a path begins with '/'"),
        ("x*", "/y", "also matches no characters at all"),
        ("(a|)", "/y", "also matches no characters at all"),
        ("^/a", "/b c", "characters that no path can have"),
        ("^/a", "/ä", "characters that no path can have"),
        ("^/a", "/b#c", "characters that no path can have"),
        ("^/a", "/b\r\nx: y", "characters that no path can have"),
    ],
)
def test_a_substitution_that_cannot_work_in_a_path_is_a_fault(
    pattern: str, substitution: str, words: str
) -> None:
    """Envoy says nothing of it: it changes nothing, or sends what no backend understands."""
    fault = path_substitution_fault(pattern, substitution)

    assert fault is not None
    assert words in fault


@pytest.mark.parametrize(
    ("pattern", "substitution"),
    [
        ("^/(.+)/.+$", r"\1"),
        ("^/([^/]+).*$", r"\1.example.com"),
        ("^/service/([^/]+)/.*$", r"\1.default.svc"),
        (r"^/x/([^\s/]+)/", r"\1"),
        (".*", "inside.test:8080"),
        ("^/.*$", "a_b.test"),
        ("^/.*$", "[::1]:80"),
    ],
)
def test_a_substitution_that_makes_hosts_has_no_fault(pattern: str, substitution: str) -> None:
    assert host_substitution_fault(pattern, substitution) is None


@pytest.mark.parametrize(
    ("pattern", "substitution", "words"),
    [
        ("^/([^/]+)", r"\2", r"there is no \2"),
        ("^/.*$", "in side", "characters that no host can have"),
        ("^/.*$", "http://a", "characters that no host can have"),
        ("^/.*$", r"\0.test", "that is not a host"),
        ("^/.*$", "a:b", "that is not a host"),
    ],
)
def test_a_substitution_that_makes_no_host_is_a_fault(pattern: str, substitution: str, words: str) -> None:
    fault = host_substitution_fault(pattern, substitution)

    assert fault is not None
    assert words in fault


@pytest.mark.parametrize("path", ["x", "", "http://a/", "//a b", "/ä", "/a#b", "/a\n"])
def test_a_path_that_no_request_can_have_is_a_fault(path: str) -> None:
    assert path_fault(path) is not None


@pytest.mark.parametrize("path", ["/", "/a/b", "/a?b=c", "/%C3%A4", "/a;b=(c)"])
def test_a_path_of_a_request_has_no_fault(path: str) -> None:
    assert path_fault(path) is None


@pytest.mark.parametrize(
    "text", ["%REQ(x-a", "of %REQ(x-a) and %RESP(b", "%REQ(x-a)", "%%%REQ(x%", "%REQ(%PROTOCOL%"]
)
def test_a_command_that_does_not_end_is_noticed(text: str) -> None:
    """It would be sent as text, which nobody means who writes it."""
    assert unfinished_command(text) is not None


@pytest.mark.parametrize(
    "text", ["100%", "%%REQ(x", "%REQ(x)%", "%REQ(x):5%", "%PROTOCOL%", "50% (a)", "%a(b"]
)
def test_other_percent_signs_are_no_commands_that_do_not_end(text: str) -> None:
    assert unfinished_command(text) is None


@pytest.mark.parametrize(
    ("text", "formatted"),
    [
        ("100%", "100%%"),
        ("50% of %REQ(x)%", "50%% of %REQ(x)%"),
        ("a%20b%20c", "a%%20b%%20c"),
        ("%req(x)%", "%%req(x)%%"),
        ("{width: 100%}\n{height: 9%}", "{width: 100%%}\n{height: 9%%}"),
        ("%REQ(" * 30_000, "%%REQ(" * 30_000),
        *[(text, text) for text in ("%%", "%REQ(x?y):5%", "%REQ(X)%%PROTOCOL%", "%%%PROTOCOL%", "%NOBODYS%")],
        *[(text, text) for text in ("%START_TIME(%s.%3f)%", "%CEL(size(request.headers))%", "%REQ(a%)%")],
    ],
)
def test_a_percent_sign_that_begins_no_command_stands_for_itself(text: str, formatted: str) -> None:
    """Envoy refuses a route for a lone one; commands are in use with Envoy Gateway, and go on working."""
    assert as_format(text.encode()) == formatted.encode()
