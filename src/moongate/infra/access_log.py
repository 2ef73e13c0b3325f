"""The access log: one readable line per request in a terminal, JSON anywhere else.

Theory of operation
===================
If standard output is a file, Envoy writes to it itself, and no line passes through us.

A terminal, a pipe and a socket (the journal of systemd) have a reader that may stop to read. Envoy would keep
all lines in memory until then, without a limit, and it cannot open a socket. So it writes to a pipe that we
always read, and the lines are handed to a ``LineWriter``. In a terminal at most 100 requests a second are
shown, and the others are counted.

JSON is passed on without being parsed.

Facts
-----
* Envoy opens ``/dev/stdout`` anew, and appends to the file. What we or a shell write to the same file must be
  appended too, or else it would overwrite Envoy's lines; so the file is set to ``O_APPEND``
* a file that another user opened for us may not be opened anew
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from typing import Any

import msgspec

from moongate.line_writer import LineWriter

_MOST_LINES_PER_SECOND = 100

# Source: envoy, "Access logging", RESPONSE_FLAGS; the words are ours.
FLAGS = {
    "DC": "client disconnected",
    "DF": "DNS lookup of the backend",
    "DI": "delayed by fault injection",
    "DO": "dropped by overload of the cluster",
    "DPE": "client broke the protocol",
    "DR": "client reset the stream",
    "DT": "time limit of the request or connection",
    "FI": "aborted by fault injection",
    "IH": "bad value in a checked header",
    "LH": "local health check",
    "LR": "reset by Envoy",
    "NC": "no such cluster",
    "NFCF": "no filter's configuration",
    "NR": "no route",
    "OM": "overloaded",
    "RFCF": "answered from cache",
    "RL": "rate limited",
    "RLSE": "rate limit service",
    "SI": "stream idle too long",
    "UAEX": "denied by the authorization service",
    "UC": "backend closed the connection",
    "UF": "backend cannot be reached",
    "UH": "no healthy backend",
    "UMSDR": "stream open too long",
    "UO": "circuit breaker is open",
    "UPE": "backend broke the protocol",
    "UR": "backend reset the stream",
    "URX": "retries used up",
    "UT": "backend timed out",
}

_OF_CONNECTIONS = {"NR": "no listener has this name, or no certificate for it"}
"""Words for connections that carry no request, such as a TLS handshake that was refused."""

_PLAIN, _BOLD, _DIM = "\x1b[0m", "\x1b[1m", "\x1b[2m"
_STYLE = re.compile(r"\x1b\[\d+m")
_RED, _GREEN, _YELLOW, _CYAN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m"
_COLOURS = {1: _CYAN, 2: _GREEN, 3: _CYAN, 4: _YELLOW, 5: _RED}

_RULE = re.compile(r"^[a-z]+route/([^/]+)/([^/]+)/rule/(-?\d+)")
_CHAIN = re.compile(r"^[a-z]+route/[^/]+/[^/]+$")
_RULE_CLUSTER = re.compile(r"^[a-z]+route/[^/]+/[^/]+/rule/-?[0-9a-f]+(?:/listener/.+)?$")
_RULE_BACKEND = re.compile(r"^[a-z]+route/.*/backend/(\d+)$")
_SHARED = re.compile(r"^(?:backend|service|serviceimport)/([^/]+)/([^/]+)/(\d+)(?:/|$)")
_SWITCHED = 101
_WIDTH = 120
_SHORTEST_PATH = 40

_decoder = msgspec.json.Decoder()


def render(line: bytes, terminal: bool) -> str:
    """One line of Envoy's access log in the form for a reader, without the line end.

    In a terminal: time, method, path, status, duration, error, route and backend. A long path is cut so that
    the line has 120 characters, if enough of the path is left. If the route rewrites the path, the rewritten
    one is shown, because Envoy logs no other. A line that is not a JSON object (the user chose a text format)
    is not changed, and outside of a terminal no line is.
    """
    line = line.rstrip(b"\n")
    if not terminal:
        return line.decode(errors="replace")
    try:
        entry = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _printable(line.decode(errors="replace"))
    if not isinstance(entry, dict):
        return _printable(line.decode(errors="replace"))
    return _line(entry)  # pyright: ignore[reportUnknownArgumentType]  # JSON: anything


def short_route(name: str) -> str:
    """``httproute/shop/cart/rule/0/match/1/host`` as ``shop/cart/0``; other names as they are."""
    match = _RULE.match(name)
    if match is None:
        return name
    namespace, route, rule = match.groups()
    return f"{namespace}/{route}" if rule == "-1" else f"{namespace}/{route}/{rule}"


def short_backend(cluster: str, namespace: str) -> str:
    """The name of a cluster's backend, relative to a namespace; "" for the cluster of a rule.

    >>> short_backend("service/shop/cart/80/http", "shop")
    'cart:80'
    >>> short_backend("backend/shop/cart/0/http", "default")
    'shop/cart'
    >>> short_backend("httproute/shop/cart/rule/0/backend/1", "shop")
    'backendRef 1'
    """
    if one := _RULE_BACKEND.match(cluster):
        return f"backendRef {one[1]}"
    match = _SHARED.match(cluster)
    if match is None:
        return "" if _RULE_CLUSTER.match(cluster) else cluster
    within, name, port = match.groups()
    return f"{'' if within == namespace else f'{within}/'}{name}{'' if port == '0' else f':{port}'}"


def can_append(fd: int) -> bool:
    """Whether Envoy can write to the file of a descriptor itself. If so, writes to it append from now on."""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return False
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_APPEND))
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    except OSError:
        return False
    return True


class AccessLog(LineWriter):
    """A context manager that writes access log lines to a file descriptor.

    Args:
        fd: the file descriptor; it is not closed.
        terminal: whether it is a terminal; see :func:`render`. ``NO_COLOR`` is respected.
    """

    def __init__(self, fd: int = 1, *, terminal: bool | None = None) -> None:
        terminal = os.isatty(fd) if terminal is None else terminal
        super().__init__(fd, "access-log", _ForReader().form if terminal else _as_it_is)


def _as_it_is(lines: bytes, _dropped: int, _last: bool) -> tuple[bytes, bool]:
    # The number cannot stand between lines of JSON; see ``dropped``.
    return lines, False


class _ForReader:
    """Lines for a person: a limited number per second, and the number of the others."""

    def __init__(self) -> None:
        self._coloured = not os.environ.get("NO_COLOR")
        self._unshown = 0
        """The requests of the last second that were not shown."""
        self._second = 0
        self._shown = 0

    def form(self, lines: bytes, dropped: int, last: bool) -> tuple[bytes, bool]:
        second = int(time.monotonic())
        rendered: list[str] = []
        if second != self._second:
            self._second, self._shown = second, 0
            if self._unshown:
                rendered.append(self._rest())
        room = _MOST_LINES_PER_SECOND - self._shown
        # Of a flood, only the lines that are shown are cut into pieces.
        shown = lines.split(b"\n", room)[:-1] if room else []
        self._shown += len(shown)
        rendered += [render(line, True) for line in shown]
        self._unshown += lines.count(b"\n") - len(shown) + dropped
        if self._unshown and last:
            rendered.append(self._rest())
        text = "".join(f"{line}\n" for line in rendered)
        # True asks for another call without lines, which shows the number of the others.
        return (text if self._coloured else _STYLE.sub("", text)).encode(), bool(self._unshown)

    def _rest(self) -> str:
        unshown, self._unshown = self._unshown, 0
        requests = "1 more request" if unshown == 1 else f"{unshown:,} requests"
        return f"{_DIM}+{requests} in this second{_PLAIN}"


def _line(entry: dict[str, Any]) -> str:
    def text(key: str) -> str:
        value = entry.get(key)
        return "" if value is None or value == "-" else _printable(str(value))

    status = entry.get("response_code") or 0
    method, flags, name = text("method"), text("response_flags"), text("route_name")
    words = [f"{_DIM}{_clock(text('start_time'))}{_PLAIN}"]
    if method:
        colour = _COLOURS.get(status // 100 if isinstance(status, int) else 0, _RED)
        path = f"{text(':authority')}{text('x-envoy-origin-path')}"
        words += [f"{_BOLD}{method:<4}{_PLAIN} {path}", f"{colour}{status}{_PLAIN}"]
    else:
        # Not HTTP: for a TCP or TLS connection, show its server name or address, and its bytes.
        path = text("requested_server_name") or text("downstream_local_address")
        network = "UDP" if text("upstream_cluster").startswith("udproute/") else "TCP"
        words.append(f"{_BOLD}{network} {_PLAIN} {path}")
        words.append(f"{text('bytes_received') or 0}B in, {text('bytes_sent') or 0}B out")
    words.append(f"{text('duration') or 0}ms")
    if flags:
        words_of = FLAGS if method else FLAGS | _OF_CONNECTIONS
        reasons = ", ".join(words_of.get(flag, flag) for flag in flags.split(","))
        # After a change of the protocol, to a WebSocket, the end of the connection is no fault.
        words.append(f"{_DIM if status == _SWITCHED else _RED}{reasons} ({flags}){_PLAIN}")
    cluster = text("upstream_cluster")
    # A connection has no route name, but the cluster has the name of its rule.
    rule = _RULE.match(name) or _RULE.match(cluster)
    route = short_route(name or (rule[0] if rule else ""))
    backend = (short_backend(cluster, rule[1] if rule else ""), text("upstream_host"))
    way = [part for part in (_at(text("listener"), rule), route, " ".join(filter(None, backend))) if part]
    if way:
        words.append(f"{_DIM}{' → '.join(way)}{_PLAIN}")
    line = "  ".join(words)
    excess = len(_STYLE.sub("", line)) - _WIDTH
    if excess > 0 and len(path) > _SHORTEST_PATH:
        kept = max(_SHORTEST_PATH, len(path) - excess) - 1
        line = line.replace(path, f"{path[:kept]}…", 1)
    return line


def _at(listener: str, rule: re.Match[str] | None) -> str:
    """``shop/web/http`` without the namespace, if that is the one of the route.

    "" for the chain of a route of connections, which says no more than its cluster.
    """
    if _CHAIN.match(listener):
        return ""
    return listener.removeprefix(f"{rule[1]}/") if rule is not None else listener


def _clock(start: str) -> str:
    """``2026-01-02T03:04:05.678Z`` as ``03:04:05``."""
    return start[11:19] if start[10:11] == "T" else start


def _printable(text: str) -> str:
    """The text with control characters escaped, because a path of a client must not control the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
