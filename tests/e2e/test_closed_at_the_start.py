"""A policy that cannot be read at the start of moongate lets nobody pass, whatever is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest

from moongate.run import Laptop
from moongate.sources.files import Files, load
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Echo
from tests.e2e.broken_policies import A_TAB, FAULTS, POLICY, SHA_OF_TEST
from tests.e2e.conftest import started, until
from tests.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.envoy, pytest.mark.slow]


async def test_a_start_with_a_policy_that_cannot_be_read_lets_nobody_pass(tmp_path: Path) -> None:
    """Until it can be read; and ``validate`` says what requests get meanwhile."""
    port, root = free_port(), tmp_path / "m"
    root.mkdir()
    opened: list[str] = []
    silent: list[str] = []
    async with (
        Echo("one").serving() as one,
        Laptop() as laptop,
        httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client,
    ):

        async def status() -> int:
            answer = await client.get(f"http://127.0.0.1:{port}/", headers={"host": "app.test"})
            return answer.status_code

        base = [
            m.gateway("gateway", f"[{{name: http, port: {port}, protocol: HTTP}}]"),
            m.local("one", one.port),
            m.route("app", f"[{{{m.to('one')}}}]"),
            m.secret("users", _htpasswd=f"ann:{SHA_OF_TEST}"),
        ]
        (root / "base.json").write_bytes(b"\n".join(msgspec.json.encode(each) for each in base))
        for name, text in FAULTS.items():
            path = root / ("policy.json" if "JSON" in name else "policy.yaml")
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
            async with started(laptop, Files([root])):
                if await status() not in (401, 500):
                    opened.append(name)
            if not any("answered with 500 until" in str(each) for each in load([root]).errors):
                silent.append(name)
            path.unlink()
            laptop.put({ref: None for ref in laptop.world.store.resources() if ref.kind == "SecurityPolicy"})
        await laptop.served()
        assert (opened, silent) == ([], [])

        (root / "policy.yaml").symlink_to("nowhere.yaml")
        async with started(laptop, Files([root])):
            assert await status() == 500
            (root / "policy.yaml").unlink()
            (root / "policy.yaml").write_text(POLICY)
            await until(lambda: not laptop.diagnostics())
            await laptop.served()
            assert await status() == 401
            (root / "policy.yaml").write_text(A_TAB)
            await until(lambda: bool(laptop.diagnostics()))
            await laptop.served()
            assert await status() == 401


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("route.yaml", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\tspec: {}\n"),
        ("values.yaml", "replicas: [1\n"),
        ("route.yaml", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: 'UP'}\n"),
    ],
)
def test_a_fault_of_another_kind_closes_nothing(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)

    loaded = load([tmp_path])

    assert loaded.errors
    assert loaded.closed == ()


def test_who_asks_for_it_is_served_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(A_TAB)

    assert load([tmp_path]).closed == ("",)
    assert Files([tmp_path], permissive=True).load().closed == ()
