"""Envoys with global rate limits, whose side of them is written here by hand.

Rules have the form of a BackendTrafficPolicy's ``rateLimit.global.rules``. Names and descriptors are those of
Envoy Gateway.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
from google.protobuf.json_format import ParseDict

from moongate.infra.binary import envoy_binary
from moongate.rate_limits.rls_conf_pb2 import RateLimitConfig
from moongate.xds.wire import encode
from tests.deadline import DEADLINE_S
from tests.e2e.backends import Echo
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from tests.e2e.rate_limiters import RateLimiter

Json = dict[str, Any]
_TYPE = "type.googleapis.com/envoy.extensions"
_FILTER = "envoy.filters.http.ratelimit"


class Limited:
    """A gateway with one or several Envoys; ``ports`` has the port of each of their listeners."""

    def __init__(self, limiter: RateLimiter, client: httpx.AsyncClient, backend: Echo) -> None:
        self.limiter = limiter
        self.client = client
        self.backend = backend
        self.ports: list[int] = []

    async def ask(
        self, path: str = "/", *, of: int = 0, method: str = "GET", **headers: str
    ) -> httpx.Response:
        """One request; names of headers have ``_`` for ``-``."""
        url = f"http://127.0.0.1:{self.ports[of]}{path}"
        return await self.client.request(
            method, url, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    async def statuses(self, count: int, path: str = "/", **more: Any) -> list[int]:
        """What some equal requests are answered with, one after another."""
        return [(await self.ask(path, **more)).status_code for _ in range(count)]


@asynccontextmanager
async def limited(
    limiter: RateLimiter,
    folder: Path,
    *rules: Json,
    routes: tuple[str, ...] = ("/",),
    envoys: int = 1,
    listeners: int = 1,
    fail_closed: bool = False,
    filters: tuple[Json, ...] = (),
    client: httpx.AsyncClient | None = None,
    backend_port: int = 0,
) -> AsyncGenerator[Limited]:
    """Envoys whose routes all have these rules.

    Args:
        limiter: counts.
        folder: for files.
        rules: of one policy for all routes.
        routes: the prefixes of their paths.
        envoys: how many Envoys have the same configuration.
        listeners: how many Gateways there are.
        fail_closed: whether requests are refused when nobody counts.
        filters: HTTP filters before the limits.
        client: asks; by default one over kept connections.
        backend_port: of another backend than ``Limited.backend``.
    """
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(httpx.AsyncClient(timeout=DEADLINE_S))
        backend = await stack.enter_async_context(Echo("backend").serving())
        gateway = Limited(limiter, client or own, backend)
        domains: dict[str, RateLimitConfig] = {}
        for n in range(envoys):
            made = [
                _listener(limiter.namespace, f"gw-{m}", routes, rules, filters, fail_closed=fail_closed)
                for m in range(listeners)
            ]
            gateway.ports += [port for port, _, _ in made]
            domains |= {config.domain: config for *_, configs in made for config in configs}
            clusters = [_cluster("backend", _at(backend_port or backend.port)), _service(limiter)]
            static = {"listeners": [each for _, each, _ in made], "clusters": clusters}
            file = folder / f"envoy-{n}.json"
            file.write_text(json.dumps({"static_resources": static}))
            await stack.enter_async_context(_envoy(file, gateway.ports))
        await limiter.publish({name: encode(config) for name, config in domains.items()})
        yield gateway


@asynccontextmanager
async def _envoy(file: Path, ports: list[int]) -> AsyncGenerator[None]:
    arguments = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
    process = await asyncio.create_subprocess_exec(envoy_binary(), "-c", str(file), *arguments)
    try:
        for port in ports:
            async with asyncio.timeout(DEADLINE_S):
                while process.returncode is None:
                    with suppress(OSError):
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                        writer.close()
                        break
                    await asyncio.sleep(0.02)  # no event tells that a foreign process listens
        assert process.returncode is None, "Envoy does not take its configuration"
        yield
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class _Step(NamedTuple):
    """An action of Envoy, and the key and value of the descriptor entry that comes of it."""

    action: Json
    key: str
    value: str = ""


def _steps(n: int, rule: Json) -> list[list[_Step]]:
    """The descriptors of a rule: one for each method."""
    selectors = rule.get("clientSelectors", [])
    headers = [each for selector in selectors for each in selector.get("headers", [])]
    params = [each for selector in selectors for each in selector.get("queryParams", [])]
    methods = [each for selector in selectors for each in selector.get("methods", [])]
    first = [_header(f"rule-{n}-match-{m}", each["name"], each) for m, each in enumerate(headers)]
    last: list[_Step] = []
    for selector in selectors:
        if "path" in selector:
            last.append(_header(f"rule-{n}-path", ":path", selector["path"]))
        if "sourceCIDR" in selector:
            last += _address(selector["sourceCIDR"])
    last += [_param(f"rule-{n}-match-{len(headers) + m}", each) for m, each in enumerate(params)]
    of_methods = [[_header(f"rule-{n}-method", ":method", each)] for each in methods]
    descriptors = [[*first, *of_method, *last] for of_method in of_methods or [[]]]
    return [each or [_generic(f"rule-{n}-match--1")] for each in descriptors]


def _generic(key: str) -> _Step:
    return _Step({"generic_key": {"descriptor_key": key, "descriptor_value": key}}, key, key)


def _header(key: str, name: str, match: Json) -> _Step:
    if match.get("type") == "Distinct":
        return _Step({"request_headers": {"header_name": name, "descriptor_key": key}}, key)
    value: Json = {"name": name, "string_match": _matcher(match)}
    expected = not match.get("invert", False)
    of_value = {"descriptor_key": key, "descriptor_value": key, "headers": [value], "expect_match": expected}
    return _Step({"header_value_match": of_value}, key, key)


def _param(key: str, match: Json) -> _Step:
    if match.get("type") == "Distinct":
        own = {"query_parameter_name": match["name"], "descriptor_key": key}
        return _Step({"query_parameters": own}, key)
    value: Json = {"name": match["name"], "string_match": _matcher(match)}
    expected = not match.get("invert", False)
    of_value = {
        "descriptor_key": key,
        "descriptor_value": key,
        "query_parameters": [value],
        "expect_match": expected,
    }
    return _Step({"query_parameter_value_match": of_value}, key, key)


def _matcher(match: Json) -> Json:
    value = match["value"]
    kind = match.get("type", "Exact")
    return {"exact": value} if kind == "Exact" else {"safe_regex": {"regex": value}}


def _address(source: Json) -> list[_Step]:
    prefix, _, length = source["value"].partition("/")
    matcher: Json = {"ranges": [{"address_prefix": prefix, "prefix_len": int(length)}]}
    matcher |= {"invert_match": True} if source.get("invert") else {}
    shown = f"invert:{source['value']}" if source.get("invert") else source["value"]

    def step(key: str, text: str, value: str) -> _Step:
        own = {"descriptor_key": key, "descriptor_value": text, "address_matcher": matcher}
        return _Step({"remote_address_match": own}, key, value)

    steps = [step("masked_remote_address", shown, shown)]
    if source.get("type") == "Distinct":
        steps.append(step("remote_address", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", ""))
    return steps


def _listener(
    namespace: str,
    gateway: str,
    routes: tuple[str, ...],
    rules: tuple[Json, ...],
    filters: tuple[Json, ...],
    *,
    fail_closed: bool,
) -> tuple[int, Json, list[RateLimitConfig]]:
    port, domain, shared_domain = free_port(), f"{namespace}/{gateway}/http", f"{namespace}/policy"
    configs = {each: RateLimitConfig(name=each, domain=each) for each in (domain, shared_domain)}
    entries: list[Json] = []
    for r, prefix in enumerate(routes):
        own: dict[str, list[Json]] = {}
        counts = {True: 0, False: 0}
        for rule in rules:
            shared = rule.get("shared", False)
            n = counts[shared]
            counts[shared] += 1
            top = f"{shared_domain}/rule/{n}" if shared else f"httproute/{namespace}/shop/rule/{r}/match/0/*"
            at = shared_domain if shared else domain
            for steps in _steps(n, rule):
                whole = [_generic(top), *steps]
                own.setdefault(at, []).extend(_rate_limits(rule, whole))
                _add(configs[at], rule, whole)
        per_route = {
            _filter_name(domain, at): {
                "@type": f"{_TYPE}.filters.http.ratelimit.v3.RateLimitPerRoute",
                "domain": at,
                "rate_limits": limits,
            }
            for at, limits in own.items()
        }
        route = {"match": {"prefix": prefix}, "route": {"cluster": "backend"}}
        entries.append({**route, "typed_per_filter_config": per_route})
    used = [config for config in configs.values() if config.descriptors]
    limits: list[Json] = [
        {
            "name": _filter_name(domain, config.domain),
            "typed_config": {
                "@type": f"{_TYPE}.filters.http.ratelimit.v3.RateLimit",
                "domain": config.domain,
                "timeout": f"{DEADLINE_S}s",
                "failure_mode_deny": fail_closed,
                "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
                "rate_limit_service": {
                    "grpc_service": {"envoy_grpc": {"cluster_name": "ratelimit_cluster"}},
                    "transport_api_version": "V3",
                },
            },
        }
        for config in used
    ]
    router = {"name": "router", "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"}}
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "use_remote_address": True,
        "http_filters": [*filters, *limits, router],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": entries}]},
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return port, {"name": domain, "address": _at(port), "filter_chains": [chain]}, used


def _filter_name(domain: str, at: str) -> str:
    return _FILTER if at == domain else f"{_FILTER}/{at}"


def _rate_limits(rule: Json, steps: list[_Step]) -> list[Json]:
    limit: Json = {"actions": [step.action for step in steps]}
    if "fromMetadata" in rule["limit"]:
        source = rule["limit"]["fromMetadata"]
        key = {"key": source["namespace"], "path": [{"key": source["key"]}]}
        limit["limit"] = {"dynamic_metadata": {"metadata_key": key}}
    cost = rule.get("cost", {})
    limits = [{**limit, **({"hits_addend": _cost(cost["request"])} if "request" in cost else {})}]
    if "response" in cost:
        limits.append({**limit, "hits_addend": _cost(cost["response"]), "apply_on_stream_done": True})
    return limits


def _cost(cost: Json) -> Json:
    if cost["from"] == "Number":
        return {"number": cost["number"]}
    return {"format": f"%DYNAMIC_METADATA({cost['metadata']['namespace']}:{cost['metadata']['key']})%"}


def _add(config: RateLimitConfig, rule: Json, steps: list[_Step]) -> None:
    level: Any = config
    for step in steps:
        known = [each for each in level.descriptors if (each.key, each.value) == (step.key, step.value)]
        level = known[0] if known else level.descriptors.add(key=step.key, value=step.value)
        level.shadow_mode = rule.get("shadowMode", False)
    limit = {"requests_per_unit": rule["limit"]["requests"], "unit": rule["limit"]["unit"].upper()}
    ParseDict(limit, level.rate_limit)


def _at(port: int) -> Json:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, address: Json, **more: Any) -> Json:
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {
        "name": name,
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
        "circuit_breakers": {"thresholds": [{"max_requests": 10_000, "max_pending_requests": 10_000}]},
        **more,
    }


def _service(limiter: RateLimiter) -> Json:
    http = f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions"
    options: Json = {
        http.rpartition("/")[2]: {"@type": http, "explicit_http_config": {"http2_protocol_options": {}}}
    }
    pipe = {"pipe": {"path": str(limiter.socket)}}
    return _cluster("ratelimit_cluster", pipe, typed_extension_protocol_options=options)
