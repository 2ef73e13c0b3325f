from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from moongate.cli.status import command_line
from moongate.infra.rundir import RunDirectory
from tests.cli.conftest import Command

GATEWAY_API = "gateway.networking.k8s.io"


def condition(
    type_: str, status: str = "True", reason: str = "", message: str = "All is well."
) -> dict[str, Any]:
    return {"type": type_, "status": status, "reason": reason or type_, "message": message}


GATEWAY: dict[str, Any] = {
    "kind": "Gateway",
    "metadata": {"namespace": "default", "name": "web"},
    "spec": {
        "gatewayClassName": "moongate",
        "listeners": [{"name": "http", "port": 8080, "protocol": "HTTP", "hostname": "*.example.com"}],
    },
    "status": {
        "addresses": [{"type": "IPAddress", "value": "127.0.0.1"}],
        "conditions": [condition("Accepted"), condition("Programmed")],
        "listeners": [
            {
                "name": "http",
                "attachedRoutes": 2,
                "conditions": [condition("Accepted"), condition("Programmed"), condition("ResolvedRefs")],
            }
        ],
    },
}
ROUTE: dict[str, Any] = {
    "kind": "HTTPRoute",
    "metadata": {"namespace": "default", "name": "shop"},
    "spec": {"hostnames": ["a.example.com", "b.example.com"]},
    "status": {
        "parents": [
            {
                "parentRef": {"group": GATEWAY_API, "kind": "Gateway", "name": "web", "sectionName": "http"},
                "conditions": [
                    condition("Accepted"),
                    condition(
                        "ResolvedRefs", "False", "BackendNotFound", "Service default/x\ndoes not exist."
                    ),
                ],
            }
        ]
    },
}
POLICY: dict[str, Any] = {
    "kind": "SecurityPolicy",
    "metadata": {"namespace": "default", "name": "strict"},
    "spec": {"targetRefs": [{"group": GATEWAY_API, "kind": "HTTPRoute", "name": "shop"}]},
    "status": {
        "ancestors": [
            {
                "ancestorRef": {"group": GATEWAY_API, "kind": "Gateway", "namespace": "infra", "name": "web"},
                "conditions": [condition("Accepted", "False", "Invalid", "spec.cors: \x1b[2Jis empty.")],
            }
        ]
    },
}

TABLES = """\
GATEWAYS
NAMESPACE   NAME   CLASS      ADDRESS     PROGRAMMED   REASON       MESSAGE
default     web    moongate   127.0.0.1   True         Programmed   -

LISTENERS
NAMESPACE   GATEWAY   NAME   PORT   PROTOCOL   HOSTNAME        ROUTES   ACCEPTED   PROGRAMMED   RESOLVED   \
REASON       MESSAGE
default     web       http   8080   HTTP       *.example.com   2        True       True         True       \
Programmed   -

ROUTES
KIND        NAMESPACE   NAME   HOSTNAMES                     PARENT     ACCEPTED   RESOLVED   \
REASON            MESSAGE
HTTPRoute   default     shop   a.example.com,b.example.com   web/http   True       False      \
BackendNotFound   Service default/x does not exist.

POLICIES
KIND             NAMESPACE   NAME     TARGET           ANCESTOR    ACCEPTED   REASON    MESSAGE
SecurityPolicy   default     strict   HTTPRoute/shop   infra/web   False      Invalid   \
spec.cors: \\x1b[2Jis empty.

DIAGNOSTICS
shop.yaml:3:1: HTTPRoute default/shop: spec: is wrong.
"""


async def test_tables_tell_what_is_in_force_and_why_something_is_not(
    command: Command, tmp_path: Path
) -> None:
    """Nothing is cut or wrapped, and what manifests say cannot command the terminal."""
    diagnostics = ["shop.yaml:3:1: HTTPRoute default/shop: spec: is wrong."]
    async with running(tmp_path, [GATEWAY, ROUTE, POLICY], diagnostics):
        ended = await asyncio.to_thread(command, "status", "--run-dir", tmp_path)

    assert ended.out == TABLES
    assert ended.code == 1


async def test_a_resource_without_a_table_is_shown_if_it_is_degraded(
    command: Command, tmp_path: Path
) -> None:
    """Otherwise the exit code would be 1, and nothing would say why."""
    closed = condition("Accepted", "False", "Invalid", "spec.tls: TLS is not built yet.")
    backends = [
        {
            "kind": "Backend",
            "metadata": {"namespace": "default", "name": name},
            "status": {"conditions": [of]},
        }
        for name, of in (("open", condition("Accepted")), ("closed", closed))
    ]
    async with running(tmp_path, [GATEWAY, *backends]):
        ended = await asyncio.to_thread(command, "status", "--run-dir", tmp_path)

    assert ended.out.partition("\nOTHERS\n")[2] == (
        "KIND      NAMESPACE   NAME     ACCEPTED   REASON    MESSAGE\n"
        "Backend   default     closed   False      Invalid   spec.tls: TLS is not built yet.\n"
    )
    assert ended.code == 1


@pytest.mark.parametrize("output", ["table", "json"])
async def test_a_table_of_a_part_says_what_is_wrong_with_the_rest(
    command: Command, tmp_path: Path, output: str
) -> None:
    """The exit code is about everything, so it may be 1 where all that is shown is well."""
    closed = condition("Accepted", "False", "Invalid", "wrong")
    backends = [
        {
            "kind": "Backend",
            "metadata": {"namespace": "default", "name": f"b{n}"},
            "status": {"conditions": [closed]},
        }
        for n in range(5)
    ]
    async with running(tmp_path, [GATEWAY, *backends], ["a.yaml:1:1: wrong"]):
        ended = await asyncio.to_thread(
            command, "status", "--run-dir", tmp_path, "--of", "gateways", "-o", output
        )

    assert ended.code == 1
    assert ended.err.startswith(
        "`moongate status` shows more that is wrong: Backend default/b0, Backend default/b1, "
        "Backend default/b2, 2 more, 1 diagnostic."
    )


async def test_a_hint_is_shown_and_is_no_failure(command: Command, tmp_path: Path) -> None:
    """What it is about may be meant: a route with those labels may come later."""
    async with running(tmp_path, [GATEWAY], hints=["p.yaml:5:20: SecurityPolicy default/p: nothing."]):
        ended = await asyncio.to_thread(command, "status", "--run-dir", tmp_path)

    assert ended.out.endswith("\nHINTS\np.yaml:5:20: SecurityPolicy default/p: nothing.\n")
    assert ended.code == 0


async def test_a_route_that_nothing_serves_has_a_row(command: Command, tmp_path: Path) -> None:
    spec = {"parentRefs": [{"kind": "Service", "name": "app"}]}
    mesh = {
        "kind": "HTTPRoute",
        "metadata": {"namespace": "default", "name": "mesh"},
        "spec": spec,
        "status": {},
    }
    lonely = {**mesh, "metadata": {"namespace": "default", "name": "lonely"}, "spec": {}}
    async with running(tmp_path, [mesh, lonely]):
        ended = await asyncio.to_thread(command, "status", "--run-dir", tmp_path, "--of", "routes")

    mesh_row, lonely_row = (" ".join(line.split()) for line in ended.out.splitlines()[2:])
    assert mesh_row.startswith(
        "HTTPRoute default mesh * Service/app - - - No parent of this route is served here"
    )
    assert lonely_row.startswith("HTTPRoute default lonely * - - - - The route names no parent")
    assert all(row.endswith(": no request comes here.") for row in (mesh_row, lonely_row))


async def test_all_well_is_exit_code_0(command: Command, tmp_path: Path) -> None:
    async with running(tmp_path, [GATEWAY]):
        ended = await asyncio.to_thread(command, "status", "--run-dir", tmp_path, "--of", "gateways")

    assert (ended.code, ended.out) == (0, TABLES[: TABLES.index("\nLISTENERS")])


async def test_a_backend_without_endpoints_is_shown_and_is_no_failure(
    command: Command, tmp_path: Path
) -> None:
    """All is in force as it is written; but who meets 503 looks for the reason here."""
    empty = condition(
        "BackendsAvailable", "False", "EndpointsNotFound", "Service default/x has no endpoints."
    )
    parent = {
        "parentRef": {"group": GATEWAY_API, "kind": "Gateway", "name": "web"},
        "conditions": [condition("Accepted"), condition("ResolvedRefs"), empty],
    }
    async with running(tmp_path, [ROUTE | {"status": {"parents": [parent]}}]):
        ended = await asyncio.to_thread(command, "status", "--run-dir", tmp_path)

    assert "EndpointsNotFound   Service default/x has no endpoints." in ended.out
    assert ended.code == 0


async def test_a_port_that_another_envoy_drains_is_shown_and_is_no_failure(
    command: Command, tmp_path: Path
) -> None:
    shared = condition("PortShared", "True", "Draining", "Until noon another Envoy has the port open.")
    listeners = [
        {**listener, "conditions": [*listener["conditions"], shared]}
        for listener in GATEWAY["status"]["listeners"]
    ]
    gateway = GATEWAY | {"status": {**GATEWAY["status"], "listeners": listeners}}
    async with running(tmp_path, [gateway]):
        ended = await asyncio.to_thread(command, "status", "--run-dir", tmp_path)

    assert "Draining" in ended.out
    assert "Until noon another Envoy has the port open." in ended.out
    assert ended.code == 0


async def test_a_table_shows_each_envoy_with_its_admin_socket(command: Command, tmp_path: Path) -> None:
    """Who wants Envoy's own statistics finds there whom to ask. One that is down has no process."""
    gateways = [{"namespace": "default", "name": name} for name in ("api", "web")]
    ready = {"state": "ready", "pid": 7, "restarts": 0, "admin": "/r/a.sock"}
    down = {"state": "starting", "pid": None, "restarts": 3, "admin": "/r/b.sock"}
    fleets = [
        {"fleet": "a", "gateways": gateways, "envoy": ready},
        {"fleet": "b", "gateways": gateways[:1], "envoy": down},
    ]
    async with running(tmp_path, [GATEWAY], fleets=fleets):
        asked = ("status", "--run-dir", tmp_path)
        of_envoys = await asyncio.to_thread(command, *asked, "--of", "envoys")
        of_all = await asyncio.to_thread(command, *asked)

    assert of_envoys.out == (
        "ENVOYS\n"
        "GATEWAY                   PID   STATE      RESTARTS   ADMIN\n"
        "default/api,default/web   7     ready      0          /r/a.sock\n"
        "default/api               -     starting   3          /r/b.sock\n"
    )
    assert of_all.out.partition("\nENVOYS\n")[2] == (
        "GATEWAY       PID   STATE      RESTARTS   ADMIN\n"
        "default/api   -     starting   3          /r/b.sock\n"
    )


async def test_an_envoy_that_owes_an_acknowledgement_is_listed(command: Command, tmp_path: Path) -> None:
    """Its process is there, so "ready" alone would hide that an edit is not in force."""
    late = {"state": "ready", "pid": 7, "restarts": 0, "admin": "/r/a.sock", "unacknowledged_s": 37}
    fleets = [{"fleet": "a", "gateways": [{"namespace": "default", "name": "web"}], "envoy": late}]
    async with running(tmp_path, [GATEWAY], fleets=fleets):
        ended = await asyncio.to_thread(command, "status", "--run-dir", tmp_path)

    assert "default/web   7     ready, not acknowledged for 37 s   0          /r/a.sock\n" in ended.out


def rate_limit(*path: tuple[str, str], **changed: Any) -> dict[str, Any]:
    use = {"requests": 5, "unit": "MINUTE", "shadow": False, "buckets": 1, "used": 7, "reset_s": 20}
    return {"domain": "web/http", "path": path, **use, **changed}


async def test_rate_limits_are_shown_with_their_use(command: Command, tmp_path: Path) -> None:
    """Of several buckets the fullest; nobody knows it of a service that is not moongate's."""
    limits = [
        rate_limit(("a/rule/0", "a/rule/0"), ("remote_address", ""), buckets=3),
        rate_limit(("masked_remote_address", "10.0.0.0/8"), shadow=True),
        rate_limit(("b", "b"), used=None, buckets=None, reset_s=None),
    ]
    async with running(tmp_path, [GATEWAY], limits=limits):
        ended = await asyncio.to_thread(command, "status", "--run-dir", tmp_path, "--of", "rate-limits")

    assert ended.out.splitlines() == [
        "RATE LIMITS",
        "DOMAIN     DESCRIPTORS                        LIMIT                   USED      BUCKETS   RESET",
        "web/http   a/rule/0 > remote_address          5 per minute            7         3         20 s",
        "web/http   masked_remote_address=10.0.0.0/8   5 per minute (shadow)   7         1         20 s",
        "web/http   b                                  5 per minute            unknown   -         -",
    ]
    assert ended.code == 0


async def test_limits_that_are_not_counted_are_not_in_force(command: Command, tmp_path: Path) -> None:
    async with running(tmp_path, [GATEWAY], limits=[rate_limit(("b", "b"))], trouble="Redis is gone."):
        ended = await asyncio.to_thread(command, "status", "--run-dir", tmp_path)

    assert ended.out.endswith("\nRequests are not counted: Redis is gone.\n")
    assert ended.code == 1


@pytest.mark.parametrize(("restarts", "times"), [(1, "once"), (3, "3 times")])
async def test_a_service_that_was_started_again_counts_all_the_same(
    command: Command, tmp_path: Path, restarts: int, times: str
) -> None:
    """What was counted in its memory is lost, which a user may wonder about."""
    service = {"restarts": restarts, "last_end": "It is stopped."}
    async with running(tmp_path, [GATEWAY], limits=[rate_limit(("b", "b"))], service=service):
        ended = await asyncio.to_thread(command, "status", "--run-dir", tmp_path)

    assert ended.out.endswith(
        f"\nThe service that counts was started again {times}. The last time: It is stopped.\n"
    )
    assert ended.code == 0


def shown_line(*words: str) -> str:
    """How the command line of a process with these words is shown."""
    program = "import sys; print('started', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        shown = command_line(process.pid)
        process.communicate()
    return shown


def test_a_long_command_line_is_cut() -> None:
    """In a list of runs, one that names hundreds of files would hide the others."""
    shown = shown_line("moongate", "run", *(f"shop{n}" for n in range(100)))

    assert shown.startswith("moongate run shop0 shop1 ")
    assert len(shown.partition("… (in ")[0]) == 159


def test_an_address_of_redis_is_not_shown_with_a_command_line() -> None:
    """It may have a password, and the list of runs is for everybody to see."""
    shown = shown_line("moongate", "run", "--redis", "redis://:secret@r", "--redis=redis://:secret@r", "shop")

    assert shown.startswith("moongate run --redis '[redacted]' '--redis=[redacted]' shop (in ")


def test_a_moongate_that_does_not_answer_is_named(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped. The socket takes the connection, and then nothing comes."""
    monkeypatch.setattr("moongate.cli.status._report.__kwdefaults__", {"timeout_s": 0.05})
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(os.fspath(tmp_path / "status.sock"))
        silent.listen()

        ended = command("status", "--run-dir", tmp_path)

    assert ended.code == 1
    assert f"(process {os.getpid()}) does not answer" in ended.err
    assert f"kill -CONT {os.getpid()}" in ended.err


@pytest.mark.parametrize("output", ["json", "yaml"])
async def test_programs_get_the_whole(command: Command, tmp_path: Path, output: str) -> None:
    async with running(tmp_path, [GATEWAY, ROUTE, POLICY]):
        asked = ("status", "--run-dir", tmp_path, "-o", output, "--of", "routes")
        ended = await asyncio.to_thread(command, *asked)

    report = json.loads(ended.out) if output == "json" else yaml.safe_load(ended.out)
    assert report["resources"] == [ROUTE]
    assert report["figures"] == {}


async def test_of_several_runs_one_must_be_chosen(command: Command, tmp_path: Path) -> None:
    """Folders have names that nobody gave: what tells runs apart is what they serve, and since when."""
    async with running(tmp_path, [GATEWAY]) as first, running(tmp_path, [GATEWAY]) as second:
        unsure = await asyncio.to_thread(command, "status", "--run-dir", tmp_path)
        chosen = await asyncio.to_thread(command, "status", "--run-dir", second)

    assert unsure.code == 2
    for folder in (first, second):
        assert f"\n    --run-dir {folder}   # pid {os.getpid()}, since " in unsure.err
    assert ", port 8080: " in unsure.err
    assert unsure.err.count(f" (in {Path.cwd()})\n") == 2
    assert chosen.code == 0


async def test_a_bug_of_moongate_is_not_hidden(command: Command, tmp_path: Path) -> None:
    """It is contained, so that all else is well; the id is the one in the log."""
    failure = {"query": "cluster", "args": "shop", "id": "a1b2", "error": "KeyError: 'x'"}
    async with running(tmp_path, [GATEWAY], failures=[failure]):
        ended = await asyncio.to_thread(command, "status", "--run-dir", tmp_path)

    assert ended.code == 1
    assert "\nINTERNAL ERRORS\ncluster (a1b2): KeyError: 'x'." in ended.out


@pytest.mark.parametrize(
    ("unserved", "reason"),
    [
        ([], "there is no Gateway, no route and no policy"),
        (
            [{"namespace": "infra", "name": name} for name in ("a", "b")],
            "no Gateway is of a class of this controller (2 of others)",
        ),
    ],
)
async def test_the_reason_why_nothing_is_served_is_printed(
    command: Command, tmp_path: Path, unserved: list[dict[str, str]], reason: str
) -> None:
    """A user who wrote another class, or nothing at all, needs to know which of the two it was."""
    async with running(tmp_path, [], unserved=unserved):
        ended = await asyncio.to_thread(command, "status", "--run-dir", tmp_path)

    assert ended.out.startswith(f"Nothing is served: {reason}.\n")


async def test_a_run_that_has_not_read_its_manifests_is_not_well(command: Command, tmp_path: Path) -> None:
    """A script waits for exit code 0 before it sends requests."""
    async with running(tmp_path, [], settling=True):
        ended = await asyncio.to_thread(command, "status", "--run-dir", tmp_path)

    assert ended.out == "Nothing is served yet. Manifests are being put in force; ask again.\n"
    assert ended.code == 1


def test_an_error_explains_that_nothing_is_running(command: Command, tmp_path: Path) -> None:
    ended = command("status", "--run-dir", tmp_path)

    assert ended.code == 1
    assert ended.err.startswith("moongate: No moongate is running in ")
    assert ended.err.count("\n") == 1


async def test_an_answer_that_breaks_off_is_an_error(command: Command, tmp_path: Path) -> None:
    async with running(tmp_path, None):
        ended = await asyncio.to_thread(command, "status", "--run-dir", tmp_path)

    assert ended.code == 1
    assert "ended its answer early" in ended.err


@asynccontextmanager
async def running(
    base: Path,
    resources: list[dict[str, Any]] | None,
    diagnostics: list[str] | None = None,
    hints: list[str] | None = None,
    failures: list[dict[str, str]] | None = None,
    unserved: list[dict[str, str]] | None = None,
    settling: bool = False,
    fleets: list[dict[str, Any]] | None = None,
    limits: list[dict[str, Any]] | None = None,
    trouble: str = "",
    service: dict[str, Any] | None = None,
) -> AsyncGenerator[Path]:
    """A run that reports these resources on its socket; with ``None`` it closes the connection at once."""
    report: dict[str, Any] = {
        "version": 1,
        "settling": settling,
        "gateways": fleets or [],
        "resources": resources,
        "diagnostics": diagnostics or [],
        "hints": hints or [],
        "rejections": [],
        "failures": failures or [],
        "unserved": unserved or [],
        "figures": {},
        "rateLimits": {"service": {"trouble": trouble, **(service or {})}, "limits": limits or []},
    }
    body = json.dumps(report).encode() if resources is not None else b""

    async def report_status(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(body)
        await writer.drain()
        writer.close()

    with RunDirectory(base) as run:
        async with await asyncio.start_unix_server(report_status, run.socket("status")):
            yield run.path
