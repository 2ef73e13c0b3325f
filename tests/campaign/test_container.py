"""moongate as a container runs it: as process 1, as a user without a home, on a root that may only be read.

``unshare`` gives the namespaces that Docker would give, and nothing has to be installed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import psutil
import pytest

import moongate
from tests.campaign.house import until
from tests.deadline import DEADLINE_S
from tests.e2e.backends import Echo
from tests.ports import free_port
from tests.signals import while_importing

pytestmark = pytest.mark.envoy

NOBODY: Final = 65534

CONTAINER: Final = """\
set -e
mount --make-rprivate /
mount --rbind / root
mount --bind "$1" root/srv
mount --bind "$2" root/opt
mount --bind "$3" root/home
mount --bind gw root/mnt
for place in "" /srv /opt /home /mnt; do mount -o remount,bind,ro "root$place"; done
mount -t tmpfs -o mode=700,uid=65534,gid=65534 none root/media
mount -t tmpfs -o ro none root/tmp
mount -t proc none root/proc
shift 3
exec setsid \
    chroot root setpriv --reuid 65534 --regid 65534 --clear-groups --no-new-privs --bounding-set -all \
    env -i PYTHONPATH=/home:/opt LD_LIBRARY_PATH=/srv/lib "$@"
"""
"""Builds the container in the working directory, and becomes what is given after three folders: Python, the
packages and the sources, which are read where everybody may."""


def needs_namespaces() -> None:
    for program in ("unshare", "setpriv", "chroot", "nsenter", "setsid"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} on this machine")
    trial = subprocess.run(
        ["unshare", "-mpf", "mount", "--make-rprivate", "/"], check=False, capture_output=True
    )
    if trial.returncode:
        pytest.skip("this user may not mount in a namespace (unshare -m needs CAP_SYS_ADMIN)")


PYTHON: Final = Path("/srv") / Path(os.path.realpath(sys.executable)).relative_to(sys.base_prefix)


@asynccontextmanager
async def contained(home: Path) -> AsyncGenerator[psutil.Process]:
    """Serve ``home/gw`` in a container; its process 1."""
    (home / "root").mkdir()
    packages, sources = Path(psutil.__path__[0]).parent, Path(moongate.__path__[0]).parent
    process = await asyncio.create_subprocess_exec(
        *("unshare", "-mpf", "--kill-child", "sh", "-c", CONTAINER, "-"),
        *(sys.base_prefix, str(packages), str(sources)),
        *(str(PYTHON), "-m", "moongate", "run", "/mnt", "--run-dir", "/media/r"),
        cwd=home,
    )
    try:

        async def runs() -> str:
            children = psutil.Process(process.pid).children()
            return "" if children and "python" in children[0].name() else f"there is {children}"

        await until(runs)
        yield psutil.Process(process.pid).children()[0]
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_process_1_of_a_container_serves_drains_and_leaves_no_zombies(tmp_path: Path) -> None:
    """There, a signal without a handler has no effect. An Envoy that died is collected and started
    again, and what others leave behind is collected too."""
    needs_namespaces()
    port = free_port()
    async with (
        Echo("one").serving() as backend,
        httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client,
    ):
        (tmp_path / "gw").mkdir()
        (tmp_path / "gw" / "a.yaml").write_text(MANIFESTS.format(port=port, upstream=backend.port))

        async def serves() -> str:
            try:
                answer = await client.get(f"http://127.0.0.1:{port}/")
            except httpx.TransportError as error:
                return repr(error)
            return "" if answer.status_code == 200 else str(answer.status_code)

        async with contained(tmp_path) as first:
            await until(serves)
            assert first.uids().real == NOBODY
            assert "HOME" not in first.environ()

            orphan = ("nsenter", "-t", str(first.pid), "-p", "sh", "-c", "(sleep 0.1 &)")
            for command in (orphan, (*orphan[:4], "setsid", *orphan[4:])):
                other = await asyncio.create_subprocess_exec(*command)
                assert await other.wait() == 0

            async def alone() -> str:
                children = first.children()
                return "" if len(children) == 1 else str(children)

            await until(alone)

            (ended,) = first.children()
            ended.kill()

            async def collected() -> str:
                children = first.children()
                return "" if children and ended not in children else str(children)

            await until(collected)
            await until(serves)

            backend.go.clear()
            async with asyncio.TaskGroup() as tasks:
                asked = tasks.create_task(client.get(f"http://127.0.0.1:{port}/"))
                await backend.arrived(len(backend.requests) + 1)
                first.send_signal(signal.SIGTERM)

                async def ending() -> str:
                    try:
                        async with httpx.AsyncClient(trust_env=False, timeout=0.2) as other:
                            await other.get(f"http://127.0.0.1:{port}/")
                    except httpx.ConnectError:
                        return ""
                    except httpx.TransportError as error:
                        return f"the port is still open: {error!r}"
                    return "a request is still served"

                await until(ending)
                backend.go.set()
            assert asked.result().status_code == 200


@pytest.mark.parametrize(
    ("command", "status"), [("run", 0), ("validate", 128 + signal.SIGTERM), ("status", 128 + signal.SIGTERM)]
)
def test_process_1_of_a_container_can_be_ended_before_its_command_has_begun(
    command: str, status: int
) -> None:
    """``docker stop`` of a container that has just been started does not wait for ten seconds."""
    needs_namespaces()
    source = while_importing({"moongate.cli": signal.SIGTERM})

    ended = subprocess.run(
        ["unshare", "-pf", "--kill-child", sys.executable, "-c", source, command], check=False
    )

    assert ended.returncode == status


MANIFESTS = """\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: gateway}}
spec:
  gatewayClassName: moongate
  listeners: [{{name: http, port: {port}, protocol: HTTP}}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {{name: one}}
spec:
  endpoints: [{{ip: {{address: 127.0.0.1, port: {upstream}}}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: one}}
spec:
  parentRefs: [{{name: gateway}}]
  rules: [{{backendRefs: [{{group: gateway.envoyproxy.io, kind: Backend, name: one}}]}}]
"""
