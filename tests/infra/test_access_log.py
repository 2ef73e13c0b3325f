from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from moongate.infra.access_log import AccessLog, can_append, render, short_backend, short_route

ENTRY: dict[str, Any] = {
    "start_time": "2026-01-02T03:04:05.678Z",
    "method": "GET",
    "x-envoy-origin-path": "/cart?id=7",
    "protocol": "HTTP/1.1",
    "response_code": 200,
    "response_flags": "-",
    "bytes_received": 0,
    "bytes_sent": 12,
    "duration": 7,
    "user-agent": "curl",
    ":authority": "shop.example.com",
    "upstream_host": "10.0.0.1:8080",
    "upstream_cluster": "httproute/shop/cart/rule/0",
    "route_name": "httproute/shop/cart/rule/0/match/0/shop_example_com",
}


def seen(**changes: Any) -> str:
    """The line for a terminal, without colours."""
    line = render(json.dumps(ENTRY | changes).encode(), terminal=True)
    return re.sub(r"\x1b\[\d+m", "", line)


def test_a_request_is_one_readable_line() -> None:
    assert seen() == "03:04:05  GET  shop.example.com/cart?id=7  200  7ms  shop/cart/0 → 10.0.0.1:8080"


def test_a_shared_cluster_is_named() -> None:
    """It says which backend of a rule it was, which the route's own cluster does not."""
    assert seen(upstream_cluster="service/shop/cart/80").endswith("shop/cart/0 → cart:80 10.0.0.1:8080")


def test_a_backend_that_was_not_reached_is_named_without_address() -> None:
    line = seen(response_code=503, response_flags="UH", upstream_host=None, upstream_cluster="backend/a/b/0")

    assert line.endswith("no healthy backend (UH)  shop/cart/0 → a/b")


def test_the_gateway_and_its_listener_are_named() -> None:
    """Several Gateways may write to one terminal. The namespace of the route is not said twice."""
    assert "7ms  web/http → shop/cart/0 → 10" in seen(listener="shop/web/http")
    assert "7ms  infra/web/http → shop/cart/0 → 10" in seen(listener="infra/web/http")
    assert seen(
        listener="infra/web/http", route_name=None, upstream_host=None, upstream_cluster=None
    ).endswith("7ms  infra/web/http")


def test_a_handshake_for_a_name_without_certificate_says_so() -> None:
    """The client is told nothing: its connection is closed."""
    entry = {"response_flags": "NR", "requested_server_name": "shop.test", "duration": 0}
    line = re.sub(r"\x1b\[\d+m", "", render(json.dumps(entry).encode(), terminal=True))

    assert "TCP  shop.test" in line
    assert "no listener has this name, or no certificate for it (NR)" in line


def test_a_redirect_goes_to_no_backend() -> None:
    assert seen(response_code=302, upstream_host=None, upstream_cluster=None).endswith(
        "302  7ms  shop/cart/0"
    )


def test_a_long_path_is_cut_so_that_the_line_fits() -> None:
    """The rest of the line is what one looks for; all of the path is in the JSON."""
    line = seen(**{"x-envoy-origin-path": "/" + "a" * 300})

    assert len(line) == 120
    assert "a…  200  7ms  shop/cart/0 → 10.0.0.1:8080" in line


@pytest.mark.parametrize(
    ("cluster", "short"),
    [
        ("service/shop/cart/80/http", "cart:80"),
        ("backend/other/cart/0/http", "other/cart"),
        ("httproute/shop/cart/rule/0", ""),
        ("httproute/shop/cart/rule/c77d2b16", ""),
        ("httproute/shop/cart/rule/0/listener/shop/web/http", ""),
        ("httproute/shop/cart/rule/1c0f/backend/2", "backendRef 2"),
        ("httproute/shop/cart/rule/1c0f/listener/shop/web/http/backend/2", "backendRef 2"),
        ("of-a-patch", "of-a-patch"),
    ],
)
def test_a_backend_is_named_as_its_author_did(cluster: str, short: str) -> None:
    assert short_backend(cluster, "shop") == short


def test_a_flag_is_put_into_words() -> None:
    line = seen(response_code=503, response_flags="UF,URX", upstream_host=None)

    assert "503  7ms  backend cannot be reached, retries used up (UF,URX)  shop/cart/0" in line


def test_a_request_without_route_says_so() -> None:
    line = seen(
        response_code=404, response_flags="NR", route_name="", upstream_host=None, upstream_cluster=None
    )

    assert line == "03:04:05  GET  shop.example.com/cart?id=7  404  7ms  no route (NR)"


def test_a_tcp_connection_is_logged_with_its_name_and_bytes() -> None:
    line = seen(
        **{"method": None, "x-envoy-origin-path": None, "response_code": 0, "bytes_received": 5},
        requested_server_name="db.example.com",
        route_name=None,
        upstream_cluster="tlsroute/shop/db/rule/-1",
    )

    assert line == "03:04:05  TCP  db.example.com  5B in, 12B out  7ms  shop/db → 10.0.0.1:8080"


@pytest.mark.parametrize(("status", "colour"), [(200, 32), (302, 36), (404, 33), (503, 31), (0, 31)])
def test_the_status_has_the_colour_of_its_class(status: int, colour: int) -> None:
    line = render(json.dumps(ENTRY | {"response_code": status}).encode(), terminal=True)

    assert f"\x1b[{colour}m{status}\x1b[0m" in line


@pytest.mark.parametrize(("status", "style"), [(101, 2), (200, 31), (503, 31)])
def test_the_end_of_a_websocket_is_no_fault(status: int, style: int) -> None:
    """Somebody closes the connection at last, and Envoy flags it."""
    line = render(
        json.dumps(ENTRY | {"response_code": status, "response_flags": "UC"}).encode(), terminal=True
    )

    assert f"\x1b[{style}mbackend closed the connection (UC)\x1b[0m" in line


def test_a_path_cannot_steer_the_terminal() -> None:
    """It is written by strangers."""
    assert r"/\x1b[2J" in seen(**{"x-envoy-origin-path": "/\x1b[2J"})


@pytest.mark.parametrize("line", [b"GET / 200", b"[1]", b"7", b'"x"', b"\xff", b""])
def test_a_format_of_the_users_own_passes(line: bytes) -> None:
    assert render(line + b"\n", terminal=True) == line.decode(errors="replace")


def test_elsewhere_the_json_is_not_touched() -> None:
    line = json.dumps(ENTRY).encode()

    assert render(line + b"\n", terminal=False) == line.decode()


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("httproute/ns/name/rule/3/match/0/*", "ns/name/3"),
        ("grpcroute/ns/name/rule/0/match/-1/host", "ns/name/0"),
        ("tcproute/ns/name/rule/-1", "ns/name"),
        ("ready_route", "ready_route"),
    ],
)
def test_a_route_is_named_as_its_author_did(name: str, short: str) -> None:
    assert short_route(name) == short


def test_lines_come_out_as_they_went_in() -> None:
    reader, writer = os.pipe()
    with AccessLog(writer) as log:
        for number in range(100):
            log.write(b'{"n":%d}\n' % number)
    os.close(writer)

    with os.fdopen(reader, "rb") as out:
        assert out.read() == b"".join(b'{"n":%d}\n' % number for number in range(100))


@pytest.mark.slow
def test_a_reader_who_does_not_read_costs_no_memory_and_stops_nobody() -> None:
    """Lines beyond a few megabytes are dropped and counted; writing and closing return."""
    reader, writer = os.pipe()
    piece = b"x" * 1023 + b"\n"
    with AccessLog(writer) as log:
        for _ in range(10_000):
            log.write(piece)

        assert 10_000 - 5 * 1024 < log.dropped < 10_000
    os.close(reader)


def test_a_reader_who_left_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with AccessLog(writer) as log:
        log.write(b"{}\n")
        log.write(b"{}\n")
    os.close(writer)


def test_a_flood_in_a_terminal_is_counted() -> None:
    """No eye follows thousands of lines a second, and colouring them takes from the gateway."""
    reader, writer = os.pipe()
    with AccessLog(writer, terminal=True) as log:
        log.write(b"{}\n" * 1800)
    os.close(writer)

    with os.fdopen(reader, "rb") as out:
        lines = out.read().splitlines()
    assert len(lines) == 101
    assert "+1,700 requests in this second" in lines[-1].decode()


def test_a_terminal_without_colours_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """https://no-color.org: it is the user's wish, whatever the terminal can do."""
    monkeypatch.setenv("NO_COLOR", "1")
    reader, writer = os.pipe()
    with AccessLog(writer, terminal=True) as log:
        log.write(json.dumps(ENTRY).encode() + b"\n")
    os.close(writer)

    with os.fdopen(reader) as out:
        assert out.read() == seen() + "\n"


def test_envoy_appends_to_a_file_itself(tmp_path: Path) -> None:
    """And what others write to the same descriptor is appended too, or else it would overwrite that."""
    with (tmp_path / "log").open("wb", buffering=0) as log:
        assert can_append(log.fileno())

        with (tmp_path / "log").open("ab") as other:
            other.write(b"of Envoy\n")
        log.write(b"ours\n")

    assert (tmp_path / "log").read_text() == "of Envoy\nours\n"


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal", "a full disk", "closed"])
def test_envoy_does_not_write_to_what_it_cannot_append_to(kind: str) -> None:
    """A reader that stops would make Envoy keep all lines, and a socket cannot be opened anew."""
    match kind:
        case "pipe":
            fds = os.pipe()
        case "socket":
            fds = tuple(end.detach() for end in socket.socketpair())
        case "terminal":
            fds = os.openpty()
        case "a full disk":
            fds = (os.open("/dev/full", os.O_WRONLY),)
        case _:
            fds = ()
    try:
        assert not can_append(fds[-1] if fds else 1 << 16)
    finally:
        for fd in fds:
            os.close(fd)


def test_connections_and_datagrams_name_their_route() -> None:
    """The name of the filter chain, which is the listener's of requests, says no more."""
    of = {
        "method": None,
        "response_code": 0,
        "route_name": None,
        "downstream_local_address": "127.0.0.1:5432",
        "upstream_cluster": "tcproute/shop/db/rule/-1",
        "listener": "tcproute/shop/db",
    }

    assert seen(**of) == "03:04:05  TCP  127.0.0.1:5432  0B in, 12B out  7ms  shop/db → 10.0.0.1:8080"
    assert "UDP  127.0.0.1:5432" in seen(**{**of, "upstream_cluster": "udproute/shop/db/rule/-1"})
