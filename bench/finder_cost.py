"""What the ways to a route table cost a proxied request: ``python -m bench.finder_cost``.

One Envoy with one worker has a listener for each way, asked by turns, so that the noise of the machine hits
all alike: one table, a scope that is found at once, and a miss that a Lua filter finds in the scope ``*``,
in variants that differ in one step each. Requests are pipelined, so the figures serve for comparison only.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.figures import plain_table
from bench.measure import cpu_s
from moongate.infra.binary import envoy_binary
from tests.ports import free_port

_TYPE: Final = "type.googleapis.com/envoy"
_ROUTER: Final = {
    "name": "router",
    "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
}
_STAR: Final = """
headers:replace("x-h", own) headers:replace(":authority", "*") h:clearRouteCache()
h:metadata() headers:replace(":authority", own) headers:remove("x-h")"""
_START: Final = 'local headers = h:headers() local own = headers:get(":authority")\n'
_LOWER: Final = """local host = string.lower(own)
if string.find(host, ":[^:]*$") and not string.find(host, ":[^%]:]*%][^:]*$") then
host = string.match(host, "^(.*):[^:]*$") end\n"""

BODIES: Final = {
    "the host is lowered, its port stripped": _START + _LOWER + _STAR,
    "the same if it has capitals or a colon": (
        _START + 'if string.find(own, "[%u:]") then ' + _LOWER + "end" + _STAR
    ),
    "only the scope * (the least that finds it)": _START + _STAR,
}
"""All look once, in the scope ``*``: a Lua filter makes Envoy look by its first ``metadata()`` only."""
STEPS: Final = {
    "exact, Lua runs and does nothing": "",
    "exact, Lua reads the host": _START,
    "exact, Lua writes and removes a header": _START + 'headers:replace("x-h", own) headers:remove("x-h")',
    "exact, Lua clears the route and looks": "h:clearRouteCache() h:metadata()",
}


def _lua(body: str) -> dict[str, Any]:
    return {
        "name": "finder",
        "typed_config": {
            "@type": f"{_TYPE}.extensions.filters.http.lua.v3.Lua",
            "clear_route_cache": False,
            "default_source_code": {"inline_string": f"function envoy_on_request(h)\n{body}\nend"},
        },
    }


def _table(domain: str, action: dict[str, Any], *, off: bool = False) -> dict[str, Any]:
    table: dict[str, Any] = {
        "name": "t",
        "ignore_port_in_host_matching": True,
        "virtual_hosts": [
            {"name": "v", "domains": [domain], "routes": [{"name": "r", "match": {"prefix": "/"}, **action}]}
        ],
    }
    if off:
        table["typed_per_filter_config"] = {
            "finder": {"@type": f"{_TYPE}.config.route.v3.FilterConfig", "disabled": True}
        }
    return table


def _listener(name: str, port: int, routes: dict[str, Any], filters: list[dict[str, Any]]) -> dict[str, Any]:
    hcm = {
        "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "x",
        "http_filters": [*filters, _ROUTER],
        **routes,
    }
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "hcm", "typed_config": hcm}]}],
    }


def _scoped(*, off: bool) -> dict[str, Any]:
    action = {"route": {"cluster": "up"}}
    star = {**_table("*.example.com", action), "vhost_header": "x-h"}
    return {
        "scoped_routes": {
            "name": "t",
            "scope_key_builder": {
                "fragments": [
                    {"header_value_extractor": {"name": ":authority", "element_separator": ":", "index": 0}}
                ]
            },
            "rds_config_source": {"ads": {}, "resource_api_version": "V3"},
            "scoped_route_configurations_list": {
                "scoped_route_configurations": [
                    {
                        "name": key,
                        "key": {"fragments": [{"string_key": key}]},
                        "route_configuration": table,
                    }
                    for key, table in (
                        ("a.example.com", _table("a.example.com", action, off=off)),
                        ("*", star),
                    )
                ]
            },
        }
    }


def ways() -> dict[str, tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """Name → host that is asked for, where the routes are, and the filters before the router."""
    exact, miss = "a.example.com", "b.example.com"
    finder = _lua(BODIES["the host is lowered, its port stripped"])
    cors = {
        "name": "cors",
        "disabled": True,
        "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.cors.v3.Cors"},
    }
    one = {"route_config": _table("*.example.com", {"route": {"cluster": "up"}})}
    return {
        "one table": (exact, one, []),
        "one table, once more": (exact, one, []),
        "scoped, exact": (exact, _scoped(off=False), []),
        "scoped, exact, Lua that the table disables": (exact, _scoped(off=True), [finder]),
        "scoped, exact, that Lua and a disabled filter": (exact, _scoped(off=True), [cors, finder]),
        **{name: (exact, _scoped(off=False), [_lua(body)]) for name, body in STEPS.items()},
        **{f"miss, {name}": (miss, _scoped(off=True), [_lua(body)]) for name, body in BODIES.items()},
    }


def _start(folder: Path, name: str, static: dict[str, Any]) -> subprocess.Popen[bytes]:
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"static_resources": static}))
    return subprocess.Popen(
        [envoy_binary(None), "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    )


def _ask(port: int, host: str, requests: int, depth: int = 32) -> None:
    """Send requests down one connection, several at a time; all must be answered by 200."""
    request = f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(requests // depth):
            connection.sendall(request * depth)
            answers = b""
            while answers.count(b"\r\n\r\n") < depth:
                more = connection.recv(65536)
                if not more:
                    raise RuntimeError(f"{host} on {port}: closed: {answers[-300:]!r}")
                answers += more
            if answers.count(b"HTTP/1.1 200 ") != depth:
                raise RuntimeError(f"{host} on {port}: {answers[:300]!r}")


def _wait(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(port)


def measure(requests: int, rounds: int) -> dict[str, list[float]]:
    """Way → µs of Envoy's CPU for a request, one figure for each round."""
    found: dict[str, list[float]] = {name: [] for name in ways()}
    ports = {name: free_port() for name in found}
    upstream = free_port()
    answer = {"route_config": _table("*", {"direct_response": {"status": 200}})}
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}}
    cluster = {
        "name": "up",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "up",
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
    }
    listeners = [_listener(name, ports[name], routes, fs) for name, (_, routes, fs) in ways().items()]
    with tempfile.TemporaryDirectory() as folder:
        envoys = [
            _start(Path(folder), "up", {"listeners": [_listener("up", upstream, answer, [])]}),
            _start(Path(folder), "it", {"listeners": listeners, "clusters": [cluster]}),
        ]
        try:
            _wait(upstream)
            for port in ports.values():
                _wait(port)
            for turn in range(rounds + 1):
                for name, (host, _, _) in (list if turn % 2 else reversed)(list(ways().items())):
                    before = cpu_s(envoys[1].pid)
                    _ask(ports[name], host, requests)
                    if turn:  # the first makes connections, and warms caches
                        found[name].append((cpu_s(envoys[1].pid) - before) / requests * 1e6)
        finally:
            for envoy in envoys:
                envoy.terminate()
                envoy.wait()
    return found


def shown(found: dict[str, list[float]]) -> str:
    """A table in Markdown; differences are medians over the pairs of a round."""
    rows = [("a proxied request", "Envoy's CPU", "more than one table", "range")]
    for name, values in found.items():
        more = [value - base for value, base in zip(values, found["one table"], strict=True)]
        rows.append(
            (
                name,
                f"{median(values):.1f} µs",
                f"{median(more):+.1f} µs",
                f"{min(more):+.1f} to {max(more):+.1f}",
            )
        )
    return plain_table(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.finder_cost", description=__doc__)
    parser.add_argument("--requests", type=int, default=3200, help="in a run [%(default)s]")
    parser.add_argument("--rounds", type=int, default=9, help="[%(default)s]")
    options = parser.parse_args()
    print(shown(measure(options.requests // 32 * 32, options.rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
