"""``moongate quickstart``: an example gateway with two upstreams."""

from __future__ import annotations

import asyncio
import shlex
import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from moongate.cli.printing import program, saying_aside
from moongate.cli.run import PORT, AccessLog, Bind, EnvoyBinary, LogFormat, RunDir, checked_address
from moongate.cli.usage_errors import REFUSED, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from moongate.run import Laptop

FIRST_PORT = 8080
_PORTS_TRIED = 100


def quickstart(
    *,
    port: Annotated[
        int | None, PORT, Parameter(help="The port to listen on. Default: the first free port from 8080.")
    ] = None,
    show: Annotated[bool, Parameter(negative="", help="Print the manifests that are served, too.")] = False,
    bind: Bind = "localhost",
    envoy: EnvoyBinary = None,
    run_dir: RunDir = None,
    log_format: LogFormat = "auto",
    access_log: AccessLog = "stdout",
) -> int:
    """Serve an example, until Ctrl-C: a Gateway, routes, and two small upstreams.

    The upstreams run in this process, and their answers show the request. No file
    is written to your folders, and no file stays behind.

    For example:

        moongate quickstart
        moongate quickstart --port 9000 --show

    Exits 0 when ended by Ctrl-C or SIGTERM, 1 when it cannot run, 2 on bad usage.
    """
    checked_address(bind)
    chosen = _free_port(bind) if port is None else _checked_free(bind, port)

    from moongate.report.logs import logging_aside

    with logging_aside(log_format):
        asyncio.run(_served(chosen, access_log, show=show, bind=bind, envoy=envoy, run_dir=run_dir))
    return 0


async def _served(
    port: int, access_log: AccessLog, *, show: bool, bind: str, envoy: EnvoyBinary, run_dir: RunDir
) -> None:
    from moongate.cli.upstreams import upstream
    from moongate.run import LaptopOptions, run_laptop

    async with AsyncExitStack() as stack:
        say = stack.enter_context(saying_aside())
        ports = {name: await stack.enter_async_context(upstream(name)) for name in ("apple", "banana")}
        text = manifests(port, ports["apple"], ports["banana"])
        if show:
            say(text)

        def served(running: Laptop) -> None:
            say(_what_to_try(bind, port, run_dir))

        options = LaptopOptions(
            documents=(text,), bind=bind, envoy=envoy, run_dir=run_dir, access_log=access_log == "stdout"
        )
        await run_laptop(options, served=served)


def _what_to_try(bind: str, port: int, run_dir: Path | None) -> str:
    host = "localhost" if bind == "0.0.0.0" else f"[{bind}]" if ":" in bind else bind  # noqa: S104 - compared
    url = f"http://{host}:{port}"
    status = f"{program()} status" + (
        f" --run-dir {shlex.quote(str(run_dir))}" if run_dir is not None else ""
    )
    calls = {
        f"curl {url}/": "apple answers",
        f"curl {url}/banana/split": "banana answers, for the path /split",
        f"curl {url}/fruit": "apple answers 3 of 4 requests, banana the others",
        f"curl -i {url}/old": "a redirect",
        status: "the status of each resource",
    }
    width = max(map(len, calls))
    alone = ", for this machine only" if bind == "localhost" else ""
    return "\n".join(
        (
            f"\nA gateway listens on {url}{alone}. In another terminal:\n",
            *(f"    {call:{width}}   # {answer}" for call, answer in calls.items()),
            "\nPress Ctrl-C to stop.\n",
        )
    )


def manifests(port: int, apple: int, banana: int) -> str:
    """The manifests that are served.

    Args:
        port: of the Gateway.
        apple: port of the upstream with most of the traffic.
        banana: port of the other one.
    """
    return f"""\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: moongate}}
spec: {{controllerName: gateway.envoyproxy.io/gatewayclass-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: quickstart}}
spec:
  gatewayClassName: moongate
  listeners:
  - {{name: http, protocol: HTTP, port: {port}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: fruit}}
spec:
  parentRefs:
  - {{name: quickstart}}
  rules:
  - matches:
    - path: {{type: PathPrefix, value: /banana}}
    filters:
    - type: URLRewrite
      urlRewrite: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: /}}}}
    backendRefs:
    - {{group: gateway.envoyproxy.io, kind: Backend, name: banana}}
  - matches:
    - path: {{type: PathPrefix, value: /fruit}}
    backendRefs:
    - {{group: gateway.envoyproxy.io, kind: Backend, name: apple, weight: 3}}
    - {{group: gateway.envoyproxy.io, kind: Backend, name: banana, weight: 1}}
  - matches:
    - path: {{type: Exact, value: /old}}
    filters:
    - type: RequestRedirect
      requestRedirect: {{path: {{type: ReplaceFullPath, replaceFullPath: /banana/new}}, statusCode: 302}}
  - backendRefs:
    - {{group: gateway.envoyproxy.io, kind: Backend, name: apple}}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {{name: apple}}
spec:
  endpoints:
  - ip: {{address: 127.0.0.1, port: {apple}}}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {{name: banana}}
spec:
  endpoints:
  - ip: {{address: 127.0.0.1, port: {banana}}}
"""


# --- ports ----------------------------------------------------------------------------------------


def _free_port(bind: str) -> int:
    for port in range(FIRST_PORT, FIRST_PORT + _PORTS_TRIED):
        if _fault_of(bind, port) is None:
            return port
    last = FIRST_PORT + _PORTS_TRIED - 1
    raise UsageError(
        f"All ports from {FIRST_PORT} to {last} are taken; name a free one with --port.", REFUSED
    )


def _checked_free(bind: str, port: int) -> int:
    fault = _fault_of(bind, port)
    if fault is not None:
        from moongate.infra.ports import explain_bind_failure

        # The message that Envoy would write in this case is explained in one place.
        explained = explain_bind_failure(f"cannot bind '{bind}:{port}': {fault}")
        raise UsageError(
            (explained or f"Port {port} cannot be bound: {fault}.").replace(
                "set the listener's port to a free one", "name a free one with --port"
            ),
            REFUSED,
        )
    return port


def _fault_of(bind: str, port: int) -> str | None:
    """Why no process can listen on a port now; ``None`` if one can."""
    with socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET) as probe:
        # Envoy sets this too, so connections that ended just now do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
            probe.listen(1)
        except OSError as error:
            return error.strerror or str(error)
    return None
