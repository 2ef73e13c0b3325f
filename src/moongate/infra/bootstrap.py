"""How an Envoy of this machine is started: its bootstrap as a file, and its command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from msgspec import Struct

from moongate.attach.bootstraps import default_bootstrap
from moongate.message_documents import as_document

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from envoy.config.bootstrap.v3.bootstrap_pb2 import Bootstrap


class EnvoyOptions(Struct, frozen=True, kw_only=True):
    """How to run an Envoy, apart from its xDS configuration.

    Args:
        log_levels: level by component, as EnvoyProxy ``spec.logging.level`` has it; ``default`` is
            the level of all components that are not named.
        concurrency: worker threads; None for one per CPU, four at the most.
        drain_s: how long to wait for requests in flight when Envoy ends, in seconds.
        listener_drain_s: how long open connections of a changed or deleted listener may stay, in seconds. New
            connections go to the changed listener at once. Long downloads and WebSockets are cut after this
            time. Envoy also keeps the former listener in memory for this time.
        extra_args: more arguments for Envoy; they override ours.
    """

    log_levels: Mapping[str, str] = {}
    concurrency: int | None = None
    drain_s: int = 5
    listener_drain_s: int = 60
    extra_args: tuple[str, ...] = ()


def bootstrap(fleet: str, node_id: str, *, xds_socket: Path, admin_socket: Path) -> Bootstrap:
    """Our own bootstrap of an Envoy that is reached over these sockets."""
    return default_bootstrap(fleet, node_id, xds_socket=str(xds_socket), admin_socket=str(admin_socket))


def as_json(message: Bootstrap) -> bytes:
    """The bootstrap as the content of the file that Envoy reads: equal ones have equal content."""
    return json.dumps(as_document(message), indent=2, sort_keys=True).encode() + b"\n"


def arguments(bootstrap_file: Path, options: EnvoyOptions, *, cpus: int, log_format: str) -> tuple[str, ...]:
    """Envoy's command line after the binary's name; a flag and its value are two entries.

    Args:
        bootstrap_file: the file of the bootstrap; its name ends in ``.json``.
        options: the options from the EnvoyProxy.
        cpus: CPUs that this process may use.
        log_format: format of Envoy's own log, in spdlog's terms.
    """
    components = [
        f"{name}:{level}" for name, level in sorted(options.log_levels.items()) if name != "default"
    ]
    ours: dict[str, str | None] = {
        "--config-path": str(bootstrap_file),
        "--log-level": options.log_levels.get("default", "warn"),
        "--component-log-level": ",".join(components),
        "--log-format": log_format,
        "--concurrency": str(options.concurrency or max(1, min(cpus, 4))),
        "--drain-strategy": "immediate",
        "--drain-time-s": str(options.listener_drain_s),
        # The default of ten seconds is too long for a user who waits for a line.
        "--file-flush-interval-msec": "100",
        # Without the shared memory and the socket of a hot restart, several Envoys can run on one machine.
        "--disable-hot-restart": None,
        # Otherwise Envoy checks all fields of a changed route table for unknown and deprecated ones, a
        # quarter of its work. We use only fields of the messages that it is built with.
        "--ignore-unknown-dynamic-fields": None,
        # A crash is one log entry, not one for each stack frame.
        "--log-stacktrace-single-entry": None,
    }
    theirs = {_ALIASES.get(argument, argument) for argument in options.extra_args}
    flags: list[str] = []
    for flag, value in ours.items():
        # Envoy refuses a repeated flag.
        if flag not in theirs and value != "":
            flags += [flag] if value is None else [flag, value]
    return (*flags, *options.extra_args)


_ALIASES = {"-c": "--config-path", "-l": "--log-level"}
