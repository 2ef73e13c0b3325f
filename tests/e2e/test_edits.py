"""Edits as people make them, over several files, under load: no request fails."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest

from moongate.run import Laptop
from moongate.sources.files import Files
from tests.e2e import edits
from tests.e2e import manifests as m
from tests.e2e.edits import EDITS
from tests.e2e.test_no_request_fails import AT_LEAST, constant_load
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

TURNS = 2
DEADLINE_S = 20.0


def state(n: int, ports: list[int], port: int) -> dict[str, str]:
    """The names of a Backend, a Service, its EndpointSlice and a policy change, each in a file of its own.

    By turns, the route stands before what it refers to and after it.
    """
    rules = (
        f"[{{matches: [{{path: {{value: /flip}}}}], filters: [{m.tell_client('x-config', str(n))}], "
        f"backendRefs: [{m.backend_ref(f'b{n}')}, {{name: s{n}, port: 80}}]}}]"
    )
    files = {
        "gateway.yaml": [m.gateway("gateway", f"[{{name: http, port: {port}, protocol: HTTP}}]")],
        "route.yaml": [m.route("flip", rules)],
        "sub/backends.yaml": [m.local(f"b{n}", ports[n % len(ports)])],
        "services.yaml": [m.service(f"s{n}")],
        "slices.yaml": [m.endpoint_slice(f"s{n}", ports[(n + 1) % len(ports)])],
        "z-policy.yaml": [
            m.policy(
                "BackendTrafficPolicy", f"p{n // 6}", "timeout: {tcp: {connectTimeout: 5s}}", "HTTPRoute/flip"
            )
        ],
    }
    names = sorted(files, reverse=bool(n % 4 > 1))
    return {name: _text(files[name]) for name in names}


def _text(documents: list[dict[str, Any]]) -> str:
    return "---\n".join(msgspec.yaml.encode(document).decode() for document in documents)


def tidy(root: Path, files: Mapping[str, str]) -> None:
    """The same state in plain files, whatever an edit made of the folder."""
    for name, text in files.items():
        path = root / name
        if path.is_symlink():
            path.unlink()
        edits.write(path, text)
    for path in root.rglob("*"):
        if path.is_file() and str(path.relative_to(root)) not in files:
            path.unlink()


async def test_no_request_fails_while_files_are_edited(tmp_path: Path) -> None:
    """Each edit renames what a route refers to, over five files, in both orders."""
    root = tmp_path / "m"
    root.mkdir()
    port = free_port()
    spans: list[tuple[str, float, float]] = []
    async with (
        constant_load(tmp_path, port, "flip.test") as load,
        httpx.AsyncClient(trust_env=False) as client,
        Laptop() as laptop,
        asyncio.TaskGroup() as tasks,
    ):
        for name, text in state(0, load.ports, port).items():
            edits.write(root / name, text)
        following = tasks.create_task(laptop.follow(Files([root])))
        await laptop.loaded.wait()
        await laptop.served()
        load.begin()
        for n, edit in enumerate((name for name in EDITS for _ in range(TURNS)), start=1):
            began = monotonic()
            files = state(n, load.ports, port)
            await asyncio.to_thread(EDITS[edit], root, files)
            await answers_of(client, port, n)
            if n % TURNS == 0:
                tidy(root, files)
            spans.append((edit, began, monotonic()))
        await load.end()
        following.cancel()

    failed = {
        edit: [a for a in load.answers if a.status != 200 and began <= a.received <= ended]
        for edit, began, ended in spans
    }
    assert {edit: (len(wrong), wrong[0]) for edit, wrong in failed.items() if wrong} == {}
    assert load.failures() == {}
    assert load.rate >= AT_LEAST


async def answers_of(client: httpx.AsyncClient, port: int, n: int) -> None:
    """Return when state ``n`` is in force."""
    async with asyncio.timeout(DEADLINE_S):
        url, headers = f"http://127.0.0.1:{port}/flip", {"host": "flip.test"}
        while (await client.get(url, headers=headers)).headers.get("x-config") != str(n):
            pass
