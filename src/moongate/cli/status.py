"""``moongate status``: the status of each resource in a running moongate, in tables like ``kubectl get``."""

from __future__ import annotations

import json
import os
import shlex
import socket
import struct
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, cast

from cyclopts import Parameter

from moongate.cli.printing import program, say, say_document, say_table
from moongate.cli.usage_errors import REFUSED, USAGE, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

Of = Literal["all", "gateways", "listeners", "routes", "policies", "envoys", "rate-limits"]
Document = dict[str, Any]

SOCKET = "status.sock"
"""The file name of the socket on which a run reports its status, in the folder of the run."""
_TIMEOUT_S = 10.0
_TIMEOUT_OF_EACH_S = 2.0


def status(
    *,
    of: Annotated[Of, Parameter(help="Which of the tables.")] = "all",
    output: Annotated[
        Literal["table", "json", "yaml"], Parameter(name=["--output", "-o"], help="How to print it.")
    ] = "table",
    run_dir: Annotated[
        Path | None,
        Parameter(help="The folder of one run, or the folder that contains the folders of runs."),
    ] = None,
) -> int:
    """Show the status of each resource in a running moongate, with reasons.

    The last column has the message if a resource is not accepted; no column is
    cut. -o json and -o yaml print the whole report, with all conditions.

    For example:

        moongate status
        moongate status --of routes
        moongate status --of envoys
        moongate status -o json | jq '.diagnostics'

    Exits 0 when everything is in force, whatever hints there are, 1 when something
    is not, or not yet, or when no moongate runs, 2 on bad usage.
    """
    _, report = _report(run_of(run_dir) / SOCKET)
    resources: list[Document] = report.get("resources", [])
    if output == "table":
        _say_tables(report, resources, of)
    else:
        if of in _SELECTS:
            report["resources"] = [r for r in resources if _SELECTS[of](r)]
        say_document(report, output)
    degraded = [r for r in resources if any(map(_degraded, _all_conditions(r["status"])))]
    faults = [*report.get("diagnostics", ()), *report.get("failures", ())]
    trouble = report.get("rateLimits", {}).get("service", {}).get("trouble")
    if of != "all":
        _say_what_is_hidden([r for r in degraded if not _SELECTS.get(of, _has_no_table)(r)], len(faults))
    return REFUSED if degraded or faults or trouble or report.get("settling") else 0


def _say_what_is_hidden(degraded: Sequence[Document], faults: int) -> None:
    """Why the exit code is 1, although the tables that were asked for may show nothing bad."""
    names = [f"{r['kind']} {'/'.join(filter(None, _name(r)))}" for r in degraded[:_NAMED]]
    names += [f"{len(degraded) - _NAMED} more"] if len(degraded) > _NAMED else []
    names += [f"{faults} diagnostic{'s' if faults > 1 else ''}"] if faults else []
    if names:
        say(
            f"`{program()} status` shows more that is wrong: {', '.join(names)}.",
            stderr=True,
        )


_NAMED = 3
"""The most resources, or ports, that are named."""


# --- which run ------------------------------------------------------------------------------------


def run_of(run_dir: Path | None) -> Path:
    """The folder of the only run.

    Raises:
        UsageError: no moongate is running, or more than one.
    """
    from moongate.infra.rundir import kept, runs

    if run_dir is not None and (run_dir / SOCKET).exists():
        return run_dir
    running = [folder for folder in runs(run_dir) if (folder / SOCKET).exists()]
    if not running:
        where = f" in {str(run_dir)!r}" if run_dir is not None else ""
        if kept(run_dir):
            message = (
                f"No moongate is running{where}, but Envoys that one has left go on serving: "
                f"`{program()} run PATH --keep-envoys` adopts them, and `{program()} stop` ends them."
            )
            raise UsageError(message, REFUSED)
        raise UsageError(f"No moongate is running{where}; start one with `{program()} run PATH`.", REFUSED)
    if len(running) > 1:
        listed = "".join(
            f"\n    --run-dir {folder}   # {_description(folder / SOCKET)}" for folder in running
        )
        raise UsageError(f"{len(running)} moongates are running; choose one of them:{listed}", USAGE)
    return running[0]


def process_of(run: Path) -> int:
    """The process id of the moongate of a run.

    Raises:
        UsageError: it cannot be reached.
    """
    with connected(run / SOCKET, _TIMEOUT_S) as connection:
        return _process_at(connection)


def _description(path: Path) -> str:
    """How a user can recognize a run: its process, its start time, its ports and its command line."""
    started = datetime.fromtimestamp(path.stat().st_mtime).astimezone()
    since = f"since {started:%Y-%m-%d %H:%M:%S}"
    try:
        pid, report = _report(path, timeout_s=_TIMEOUT_OF_EACH_S)
    except UsageError:
        return f"{since}, does not answer"
    gateways = filter(_SELECTS["gateways"], report.get("resources", ()))
    ports = {listener["port"] for gateway in gateways for listener in gateway["spec"]["listeners"]}
    first = ", ".join(map(str, sorted(ports)[:_NAMED]))
    more = f" and {len(ports) - _NAMED} more" if len(ports) > _NAMED else ""
    listed = f"port{'s' * (len(ports) > 1)} {first}{more}" if ports else "no port"
    return f"pid {pid}, {since}, {listed}: {command_line(pid)}"


def command_line(pid: int) -> str:
    """The command line of a process, and its working directory, because paths may be relative."""
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        folder = Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return "ending"
    argv = [word if argv[n - 1 : n] != ["--redis"] else "[redacted]" for n, word in enumerate(argv)]
    argv = ["--redis=[redacted]" if word.startswith("--redis=") else word for word in argv]
    own = next((n for n, word in enumerate(argv) if Path(word).name == "moongate"), None)
    line = shlex.join(argv if own is None else ["moongate", *argv[own + 1 :]])
    shown = line if len(line) <= _LONGEST_COMMAND else f"{line[: _LONGEST_COMMAND - 1]}…"
    return f"{shown} (in {folder})"


_LONGEST_COMMAND = 160
"""Characters of a command line that are shown; a test run may name a hundred files."""


def _report(path: Path, *, timeout_s: float = _TIMEOUT_S) -> tuple[int, Document]:
    """The process id of a run, and its report."""
    received = bytearray()
    with connected(path, timeout_s) as connection:
        pid = _process_at(connection)
        while chunk := connection.recv(1 << 16):
            received += chunk
    try:
        report = json.loads(received)
    except ValueError:
        raise UsageError(
            f"The moongate of {path.parent} ended its answer early; it may be shutting down.", REFUSED
        ) from None
    if report.get("version") != 1:
        raise UsageError(
            f"The moongate of {path.parent} reports its status in version {report.get('version')}, "
            "this one reads version 1; use the same release of both.",
            REFUSED,
        )
    return pid, report


@contextmanager
def connected(path: Path, timeout_s: float) -> Generator[socket.socket]:
    """A connection to a socket of a run.

    Raises:
        UsageError: it cannot be reached, or does not answer in time.
    """
    pid = 0
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            connection.connect(os.fspath(path))
            pid = _process_at(connection)
            yield connection
    except TimeoutError:
        process = f" (process {pid})" if pid else ""
        resume = f" If it is suspended, `kill -CONT {pid}` lets it go on." if pid else ""
        raise UsageError(
            f"The moongate of {path.parent}{process} does not answer. Its Envoys serve what they have, but "
            f"no change takes effect.{resume}",
            REFUSED,
        ) from None
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError(f"The moongate of {path.parent} cannot be reached: {why}.", REFUSED) from None


def _process_at(connection: socket.socket) -> int:
    # Source: unix(7), SO_PEERCRED: pid, uid and gid of the listening process.
    pid, *_ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid


# --- tables ---------------------------------------------------------------------------------------


class _State(NamedTuple):
    """The statuses of some conditions, with the reasons and messages of those that are degraded."""

    statuses: tuple[str, ...]
    reason: str
    message: str


_SELECTS: dict[str, Callable[[Document], bool]] = {
    "gateways": lambda r: r["kind"] == "Gateway",
    "listeners": lambda r: r["kind"] in ("Gateway", "ListenerSet"),
    "routes": lambda r: r["kind"].endswith("Route"),
    "policies": lambda r: r["kind"].endswith("Policy"),
}


_LISTENER_COLUMNS = (
    "NAMESPACE GATEWAY NAME PORT PROTOCOL HOSTNAME ROUTES ACCEPTED PROGRAMMED RESOLVED REASON MESSAGE"
)


def _say_tables(report: Document, resources: Sequence[Document], of: Of) -> None:
    tables: dict[str, tuple[str, Callable[[Document], Iterator[tuple[str, ...]]]]] = {
        "gateways": ("NAMESPACE NAME CLASS ADDRESS PROGRAMMED REASON MESSAGE", _gateways),
        "listeners": (_LISTENER_COLUMNS, _listeners),
        "routes": ("KIND NAMESPACE NAME HOSTNAMES PARENT ACCEPTED RESOLVED REASON MESSAGE", _routes),
        "policies": ("KIND NAMESPACE NAME TARGET ANCESTOR ACCEPTED REASON MESSAGE", _policies),
        "others": ("KIND NAMESPACE NAME ACCEPTED REASON MESSAGE", _others),
    }
    shown = 0
    for name, (headers, rows_of) in tables.items():
        if of not in ("all", name):
            continue
        selects = _SELECTS.get(name, _has_no_table)
        rows = [row for resource in resources if selects(resource) for row in rows_of(resource)]
        if rows or of == name:
            if shown:
                say("")
            shown += 1
            say_table(name.upper(), headers.split(), rows)
    envoys = [
        _envoy(fleet)
        for fleet in report.get("gateways", ())
        if of == "envoys" or _envoy_state(fleet["envoy"]) != "ready"
    ]
    if of == "envoys" or (of == "all" and envoys):
        if shown:
            say("")
        shown += 1
        say_table("ENVOYS", ["GATEWAY", "PID", "STATE", "RESTARTS", "ADMIN"], envoys)
    limits: Document = report.get("rateLimits", {})
    rows = [_limit(limit) for limit in limits.get("limits", ())]
    if of == "rate-limits" or (of == "all" and rows):
        if shown:
            say("")
        shown += 1
        say_table("RATE LIMITS", ["DOMAIN", "DESCRIPTORS", "LIMIT", "USED", "BUCKETS", "RESET"], rows)
        service: Document = limits.get("service", {})
        if trouble := service.get("trouble"):
            say(f"Requests are not counted: {trouble}")
        if end := service.get("last_end"):
            again = "once" if service["restarts"] == 1 else f"{service['restarts']} times"
            say(f"The service that counts was started again {again}. The last time: {end}")
    if report.get("settling"):
        say(f"{'' if shown else 'Nothing is served yet. '}Manifests are being put in force; ask again.")
    elif not shown:
        unserved = report.get("unserved", ())
        why = (
            f"no Gateway is of a class of this controller ({len(unserved)} of others)"
            if unserved
            else "there is no Gateway, no route and no policy"
        )
        say(f"Nothing is served: {why}.")
    if of == "all":
        _say_lines("DIAGNOSTICS", report.get("diagnostics", ()))
        _say_lines("HINTS", report.get("hints", ()))
        _say_lines(
            "INTERNAL ERRORS",
            (f"{f['query']} ({f['id']}): {f['error']}. This is a bug." for f in report.get("failures", ())),
        )
        _say_lines("REFUSED BY ENVOY", (f"{r['name']}: {r['message']}" for r in report.get("rejections", ())))


def _say_lines(title: str, lines: Iterable[str]) -> None:
    for number, line in enumerate(lines):
        if not number:
            say(f"\n{title}")
        say(" ".join(line.split()))


def _gateways(resource: Document) -> Iterator[tuple[str, ...]]:
    status = resource["status"]
    addresses = ",".join(a["value"] for a in status.get("addresses", ()))
    state = _state(status.get("conditions", ()), "Accepted", "Programmed")
    spec = resource.get("spec", {})
    yield (
        *_name(resource),
        spec.get("gatewayClassName", ""),
        addresses,
        state.statuses[1],
        state.reason,
        state.message,
    )


def _listeners(resource: Document) -> Iterator[tuple[str, ...]]:
    specs = {listener["name"]: listener for listener in resource.get("spec", {}).get("listeners", ())}
    for listener in resource["status"].get("listeners", ()):
        spec = specs.get(listener["name"], {})
        state = _state(listener["conditions"], "Accepted", "Programmed", "ResolvedRefs")
        namespace, owner = _name(resource)
        yield (
            namespace,
            owner if resource["kind"] == "Gateway" else f"{resource['kind']}/{owner}",
            listener["name"],
            str(spec.get("port", "")),
            spec.get("protocol", ""),
            spec.get("hostname", "") or "*",
            str(listener.get("attachedRoutes", 0)),
            *state.statuses,
            state.reason,
            state.message,
        )


def _routes(resource: Document) -> Iterator[tuple[str, ...]]:
    hostnames = ",".join(resource.get("spec", {}).get("hostnames", ())) or "*"
    if not resource["status"].get("parents"):
        refs = resource.get("spec", {}).get("parentRefs", ())
        named = ",".join(f"{ref.get('kind', 'Gateway')}/{_reference(ref, resource)}" for ref in refs)
        why = "No parent of this route is served here" if refs else "The route names no parent"
        yield (
            resource["kind"],
            *_name(resource),
            hostnames,
            named,
            "",
            "",
            "",
            f"{why}: no request comes here.",
        )
    for parent in resource["status"].get("parents", ()):
        state = _state(parent["conditions"], "Accepted", "ResolvedRefs")
        named = _reference(parent["parentRef"], resource)
        yield (
            resource["kind"],
            *_name(resource),
            hostnames,
            named,
            *state.statuses,
            state.reason,
            state.message,
        )


def _policies(resource: Document) -> Iterator[tuple[str, ...]]:
    spec = resource.get("spec", {})
    targets = [*spec.get("targetRefs", ()), *([spec["targetRef"]] if spec.get("targetRef") else ())]
    target = ",".join(f"{t.get('kind', '')}/{_reference(t, resource)}" for t in targets) or "by labels"
    for ancestor in resource["status"].get("ancestors", ()):
        state = _state(ancestor["conditions"], "Accepted")
        yield (
            resource["kind"],
            *_name(resource),
            target,
            _reference(ancestor["ancestorRef"], resource),
            *state.statuses,
            state.reason,
            state.message,
        )


def _envoy(fleet: Document) -> tuple[str, ...]:
    envoy = fleet["envoy"]
    gateways = ",".join(f"{g['namespace']}/{g['name']}" for g in fleet["gateways"])
    pid = "" if envoy["pid"] is None else str(envoy["pid"])
    return gateways, pid, _envoy_state(envoy), str(envoy["restarts"]), envoy["admin"]


def _limit(limit: Document) -> tuple[str, ...]:
    path = " > ".join(f"{key}={value}" if value and value != key else key for key, value in limit["path"])
    shadow = " (shadow)" if limit["shadow"] else ""
    is_counted = limit["used"] is not None
    return (
        limit["domain"],
        path,
        f"{limit['requests']} per {limit['unit'].lower()}{shadow}",
        str(limit["used"]) if is_counted else "unknown",
        str(limit["buckets"]) if is_counted else "",
        f"{limit['reset_s']} s" if is_counted else "",
    )


def _envoy_state(envoy: Document) -> str:
    late_s = envoy.get("unacknowledged_s")
    adopted = ", adopted" if envoy.get("adopted") else ""
    late = "" if late_s is None else f", not acknowledged for {late_s} s"
    return f"{envoy['state']}{adopted}{late}"


def _has_no_table(resource: Document) -> bool:
    return not any(selects(resource) for selects in _SELECTS.values())


def _others(resource: Document) -> Iterator[tuple[str, ...]]:
    """A row for each degradation: what is in force is not listed."""
    degraded = filter(_degraded, _all_conditions(resource["status"]))
    for state in dict.fromkeys(_state(conditions, "Accepted") for conditions in degraded):
        yield (resource["kind"], *_name(resource), *state.statuses, state.reason, state.message)


def _name(resource: Document) -> tuple[str, str]:
    metadata = resource["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _reference(ref: Document, resource: Document) -> str:
    """``namespace/name/section``; the namespace only where it is another one."""
    namespace = ref.get("namespace", "")
    parts = [namespace if namespace != _name(resource)[0] else "", ref["name"], ref.get("sectionName", "")]
    return "/".join(part for part in parts if part)


def _state(conditions: Iterable[Document], *types: str) -> _State:
    by_type = {c["type"]: c for c in conditions}
    bad = [*_degraded(by_type.values()), *_in_vain(by_type.values())]
    # "Programmed" is a consequence of other conditions. Their reasons say more.
    shown = [c for c in bad if c["type"] != "Programmed"] or bad
    first = by_type.get("Programmed") or by_type.get(types[0])
    reason = ",".join(dict.fromkeys(c["reason"] for c in shown)) or (first["reason"] if first else "")
    return _State(
        tuple(by_type[t]["status"] if t in by_type else "Unknown" for t in types),
        reason,
        " ".join(dict.fromkeys(c["message"] for c in shown)),
    )


_GOOD = frozenset({"Accepted", "ResolvedRefs", "Programmed"})
_BAD = frozenset({"Conflicted", "PartiallyInvalid"})


def _degraded(conditions: Iterable[Document]) -> list[Document]:
    """The conditions that say that something is not in force."""
    return [
        c
        for c in conditions
        if (c["type"] in _GOOD and c["status"] != "True") or (c["type"] in _BAD and c["status"] == "True")
    ]


def _in_vain(conditions: Iterable[Document]) -> list[Document]:
    """The conditions that say that requests fail, although all is in force as it is written."""
    failing = {("BackendsAvailable", "False"), ("PortShared", "True")}
    return [c for c in conditions if (c["type"], c["status"]) in failing]


def _all_conditions(tree: Any) -> Iterator[list[Document]]:
    """Every list of conditions in a status."""
    if isinstance(tree, dict):
        for key, value in cast("Document", tree).items():
            if key == "conditions":
                yield value
            else:
                yield from _all_conditions(value)
    elif isinstance(tree, list):
        for value in cast("list[Any]", tree):
            yield from _all_conditions(value)
