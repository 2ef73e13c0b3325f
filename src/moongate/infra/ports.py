"""Why a listener's port cannot be bound, and what to do about it.

Facts
-----
* the NACK of the listener has the error of Envoy: ``cannot bind '0.0.0.0:80': Permission denied``
* /proc shows the process that holds a port only to the same user (or to root)
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from moongate.xds.refusals import bind_failure

if TYPE_CHECKING:
    from collections.abc import Mapping

_TABLES = {False: ("tcp", "tcp6"), True: ("udp", "udp6")}
"""By whether a port is one of UDP: the tables of /proc/net with its sockets."""
_WAITING = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
"""The state of a socket that takes what anybody sends: of TCP it listens, of UDP it is not connected."""
_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


_ENVOY = "envoy"
"""How the kernel calls an Envoy."""
OTHER_PORT = "set the listener's port to a free one"
"""The advice for a port that is taken, if the port comes from a manifest."""


class PortError(Exception):
    """A port cannot be bound; the message says why, and what to do."""


def explain_bind_failure(
    message: str, envoys: Mapping[int, str] = MappingProxyType({}), *, is_udp: bool = False
) -> str | None:
    """The reason and the advice in one or two sentences; None if ``message`` is about no bind failure.

    Args:
        message: the message of a NACK of Envoy; a bind failure is at its beginning.
        envoys: process id → fleet of the Envoys of this moongate.
        is_udp: whether the port is one of UDP.
    """
    failure = bind_failure(message)
    if failure is None:
        return None
    address, port, why = failure
    if "permission denied" in why.lower():
        return _privileged(port)
    if failure.in_use:
        return _taken(port, envoys, is_udp=is_udp)
    if "cannot assign requested address" in why.lower():
        return (
            f"No interface of this machine has the address {address}, which --bind or the Gateway's "
            "spec.addresses name; use one that it has. --bind goes before spec.addresses."
        )
    return f"Port {port} cannot be bound on {address}: {why.strip().rstrip('.')}."


def _privileged(port: int) -> str:
    first = _first_unprivileged()
    return (
        f"Port {port} is reserved for root: this user may bind ports from {first} on. "
        f"Set the listener's port to {first} or more (for example {_friendly(port)}), or allow it with "
        f"`sudo sysctl net.ipv4.ip_unprivileged_port_start={port}`."
    )


def _friendly(port: int) -> int:
    return {80: 8080, 443: 8443}.get(port, 8000 + port)


def _first_unprivileged() -> int:
    try:
        return int(_UNPRIVILEGED.read_text())
    except (OSError, ValueError):
        return 1024


def _taken(port: int, envoys: Mapping[int, str], *, is_udp: bool) -> str:
    holder = port_holder(port, is_udp=is_udp)
    what, shown = (f"Port {port} of UDP", "-lunp") if is_udp else (f"Port {port}", "-ltnp")
    if holder is None:
        return (
            f"{what} is taken by a process of another user; `sudo ss {shown} 'sport = :{port}'` names it. "
            f"End it, or {OTHER_PORT}."
        )
    pid, name = holder
    if pid in envoys:
        return (
            f"{what} is still open for {envoys[pid]}, whose Envoy (process {pid}) has not given it up. "
            f"Wait for that, or {OTHER_PORT}."
        )
    left = " If an earlier moongate has left it running, `moongate stop` ends it." if name == _ENVOY else ""
    return f"{what} is taken by {name} (process {pid}); end it, or {OTHER_PORT}.{left}"


def port_holder(port: int, *, is_udp: bool = False) -> tuple[int, str] | None:
    """Process id and name of the process that listens on a port; None if we may not see it."""
    sockets = {f"socket:[{inode}]" for table in _TABLES[is_udp] for inode in _listening(table, port)}
    if not sockets:
        return None
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if any(str(fd.readlink()) in sockets for fd in (process / "fd").iterdir()):
                    return int(process.name), (process / "comm").read_text().strip()
            except OSError:
                # It belongs to another user, or has just ended.
                continue
    return None


def _listening(table: str, port: int) -> list[str]:
    try:
        rows = Path("/proc/net", table).read_text().splitlines()[1:]
    except OSError:
        return []
    # Fields: slot, local address, remote address, state, …; the tenth is the inode.
    return [
        fields[9]
        for fields in map(str.split, rows)
        if fields[3] == _WAITING[table] and int(fields[1].rpartition(":")[2], 16) == port
    ]
