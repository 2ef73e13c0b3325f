from __future__ import annotations

import pytest

from moongate.infra.envoy_log import Entry, LogFolder, Unopened, unopened


def folded(*chunks: bytes) -> list[Entry]:
    folder = LogFolder()
    return [entry for chunk in chunks for entry in folder.feed(chunk)] + list(folder.end())


def entry(level: str, component: str, message: str) -> bytes:
    """As Envoy writes one, with LOG_FORMAT."""
    return f"\x1e{level}\x1f{component}\x1f{message}\x1d\n".encode()


def test_an_entry_has_level_component_and_message() -> None:
    assert folded(entry("critical", "main", "It ends.")) == [Entry("critical", "main", "It ends.")]


def test_trace_is_our_debug() -> None:
    assert folded(entry("trace", "http", "x")) == [Entry("debug", "http", "x")]


def test_an_entry_of_several_lines_stays_one() -> None:
    assert folded(entry("error", "config", "a\n  b\n  c")) == [Entry("error", "config", "a\n  b\n  c")]


def test_the_pieces_in_which_it_comes_do_not_matter() -> None:
    """A pipe cuts where it likes, even within a character."""
    whole = entry("info", "main", "größer") + b"bare\n" + entry("info", "main", "b")

    assert folded(*(whole[at : at + 1] for at in range(len(whole)))) == folded(whole)


def test_what_stands_outside_is_logged_as_it_is() -> None:
    assert folded(b"envoy: error while loading shared libraries\n") == [
        Entry("warning", "stderr", "envoy: error while loading shared libraries")
    ]


def test_the_usage_text_is_left_out() -> None:
    """Two pages after one line that matters."""
    text = b"PARSE ERROR: Argument: --x\n   Couldn't find match\n\nBrief USAGE: \n  envoy [--y]\n"

    assert folded(text) == [
        Entry("warning", "stderr", "PARSE ERROR: Argument: --x\n   Couldn't find match"),
    ]


def test_an_error_that_is_repeated_bare_is_reported_once() -> None:
    text = entry("critical", "main", "error `no such field` in 'a.json'") + b"no such field\n"

    assert len(folded(text)) == 1


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ("config", "delta config for type.googleapis.com/x rejected: Error adding listener"),
        ("config", "listener 'a/b/c' failed to bind or apply socket options: cannot bind '0.0.0.0:80'"),
        ("upstream", "lds: listener 'a/b/c' config rejected: cannot bind '0.0.0.0:80'"),
    ],
)
def test_a_nack_is_noise_here(component: str, message: str) -> None:
    """The stream's other end tells it, with the resources that it is about."""
    text = entry("error", component, message)

    assert folded(text) == []


def test_what_envoy_quotes_of_a_configuration_is_left_out() -> None:
    """It has password digests and keys in it."""
    quote = 'goo.gle/debugonly  \nusers {\n  inline_bytes: "canary"\n}\n'
    words = f"add/update failed: {quote}: Proto constraint validation failed (Route.Name: is empty)"

    (shown,) = folded(entry("warning", "upstream", words))

    assert shown.message == "add/update failed: Proto constraint validation failed (Route.Name: is empty)"


def test_an_entry_without_an_end_is_left_out_after_its_first_line() -> None:
    """A quote of megabytes may come in pieces, of which the later ones have no mark."""
    long = entry("warning", "config", "rejected: goo.gle/debugonly\n" + "canary\n" * 200_000)
    pieces = [long[at : at + 65536] for at in range(0, len(long), 65536)]

    entries = folded(*pieces, entry("info", "main", "It goes on."))

    assert entries == [Entry("warning", "config", "rejected"), Entry("info", "main", "It goes on.")]


@pytest.mark.parametrize(
    ("failure", "why"),
    [("cannot listen() errno=98", "Address already in use"), ("no file descriptors", "no file descriptors")],
)
def test_a_listener_that_could_not_be_opened_is_seen(failure: str, why: str) -> None:
    """Envoy says so in its log alone, after it has acknowledged the listener."""
    message = f"final pre-worker listener init for listener 'default/web/http' failed: {failure}"

    assert unopened(Entry("error", "config", message)) == Unopened("default/web/http", why)


def test_a_text_in_another_entry_drops_no_listener() -> None:
    text = "final pre-worker listener init for listener 'default/web/http' failed: cannot listen() errno=98"

    assert unopened(Entry("error", "lua", text)) is None
    assert unopened(Entry("error", "config", f"gRPC config: {text}")) is None
