"""A policy that cannot be read and comes while moongate runs: what was served stays so, and what is new with
it is not served without it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import httpx
import msgspec
import pytest

from moongate.api.backend import Backend
from moongate.api.base import GATEWAY_GROUP, Ref
from moongate.run import Laptop
from moongate.sources import files as files_source
from moongate.sources.files import Files, load
from tests.deadline import DEADLINE_S
from tests.e2e import manifests as m
from tests.e2e.backends import Echo
from tests.e2e.broken_policies import A_TAB, POLICY, SHA_OF_TEST
from tests.e2e.conftest import started, until
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

OTHER = POLICY.replace("name: users\nspec", "name: others\nspec")
"""Another policy for the same route, which is no copy."""

FIRST = OTHER.replace("name: app", "name: old")


def text(*documents: m.Document) -> str:
    return "\n---\n".join(msgspec.json.encode(each).decode() for each in documents)


def route(name: str, *backends: str, host: str = "") -> str:
    return text(m.route(name, f"[{{{m.to(*backends)}}}]", hostnames=(f"{host or name}.test",)))


_marks = itertools.count()


def mark(root: Path) -> Ref:
    """Write a Backend in place of the one before, which goes when an edit is whole."""
    name = f"mark-{next(_marks)}"
    (root / "mark.json").write_text(text(m.local(name, 1)))
    return Ref.of(Backend, "default", name)


class Case(NamedTuple):
    """Writes, each of some files at once, and what requests get after them; None for a file that goes.

    Args:
        writes: file → text.
        meanwhile: host → status, after all writes.
        mended: the same, once the policy can be read.
        after: host → status, in the end.
        again: whether to try it with a start in between, too.
    """

    writes: tuple[dict[str, str | None], ...]
    meanwhile: dict[str, int]
    mended: dict[str, str | None]
    after: dict[str, int]
    again: bool = False


TWO, SECOND = "<a Backend>", "<a Gateway>"
"""Stand for texts with a port."""
BROKEN: dict[str, str | None] = {"policy.yaml": A_TAB}
SOUND: dict[str, str | None] = {"policy.yaml": POLICY}

CASES = {
    "a new route in the same file": Case(
        ({"policy.yaml": f"{route('app', 'one')}\n---\n{A_TAB}"},),
        {"app": 500, "old": 200},
        {"policy.yaml": f"{route('app', 'one')}\n---\n{POLICY}"},
        {"app": 401, "old": 200},
        again=True,
    ),
    "a new route in another file": Case(
        ({"app.json": route("app", "one"), **BROKEN},), {"app": 500}, SOUND, {"app": 401}, again=True
    ),
    "a new route that is written later": Case(
        (BROKEN, {"app.json": route("app", "one")}), {"app": 500, "old": 200}, SOUND, {"app": 401}, again=True
    ),
    "a new route, and the policy goes away": Case(
        ({"app.json": route("app", "one"), **BROKEN},), {"app": 500}, {"policy.yaml": None}, {"app": 200}
    ),
    "a route that gets another hostname": Case(
        ({"old.json": route("old", "one", host="new"), **BROKEN},),
        {"old": 200, "new": 404},
        SOUND,
        {"old": 404, "new": 200},
    ),
    "a route that is removed, and would leave its requests to a wider one": Case(
        ({"wide.json": route("wide", "one", host="*")}, BROKEN, {"old.json": None}),
        {"old": 500, "wide": 200},
        SOUND,
        {"old": 200, "wide": 200},
    ),
    "a policy that is removed": Case(
        (
            {"app.json": route("app", "one"), **SOUND},
            {"policy.yaml": None, "other.yaml": OTHER.replace("  basicAuth", "\tbasicAuth")},
        ),
        {"app": 401},
        {"other.yaml": OTHER},
        {"app": 401},
    ),
    "a route that cannot be read in a file that is renamed, beside a wider one": Case(
        (
            {"wide.json": route("wide", "one", host="*"), "app.json": route("app", "one"), **SOUND},
            {"app.json": f"{route('app', 'one')},"},
            {"app.json": None, "renamed.json": f"{route('app', 'one')},"},
        ),
        {"app": 401, "wide": 200},
        {"renamed.json": route("app", "one")},
        {"app": 401, "wide": 200},
    ),
    "a new policy in a file whose other policy changes as well": Case(
        (
            {"old.json": route("old", "one"), "policy.yaml": FIRST},
            {"policy.yaml": f"{FIRST}    # changed\n---\n{A_TAB}"},
            {"app.json": route("app", "one")},
        ),
        {"app": 500, "old": 401},
        {"policy.yaml": f"{FIRST}---\n{POLICY}"},
        {"app": 401, "old": 401},
    ),
    "a Backend that a route has missed": Case(
        ({"app.json": route("app", "two")}, {"two.json": TWO, **BROKEN}), {"app": 500}, SOUND, {"app": 401}
    ),
    "a Gateway that a route has missed": Case(
        (
            {"app.json": route("app", "one").replace('"gateway"}', '"second"}')},
            {"second.json": SECOND, **BROKEN},
        ),
        {"app second": 500},
        SOUND,
        {"app second": 401},
    ),
}


async def test_nothing_that_is_new_is_served_without_its_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever opens it: a route, what a route lacks, or what other routes leave. If moongate starts again
    in between, what is new stays closed, until the policy is mended."""
    # Files that are written at once are one edit, however short the pause after it is.
    monkeypatch.setattr(files_source, "SETTLE_USED", 0.1)
    port, second, root = free_port(), free_port(), tmp_path / "m"
    root.mkdir()
    async with (
        Echo("one").serving() as one,
        Laptop() as laptop,
        httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client,
    ):
        texts = {
            TWO: text(m.local("two", one.port)),
            SECOND: text(m.gateway("second", f"[{{name: http, port: {second}, protocol: HTTP}}]")),
        }
        base = text(
            m.gateway("gateway", f"[{{name: http, port: {port}, protocol: HTTP}}]"),
            m.local("one", one.port),
            m.secret("users", _htpasswd=f"ann:{SHA_OF_TEST}"),
        )

        async def statuses(hosts: Iterable[str]) -> dict[str, int]:
            answers: dict[str, int] = {}
            for name in hosts:
                host, _, other = name.partition(" ")
                url = f"http://127.0.0.1:{second if other else port}/"
                answers[name] = (await client.get(url, headers={"host": f"{host}.test"})).status_code
            return answers

        async def write(writes: dict[str, str | None], files: Files) -> None:
            for name, content in writes.items():
                if content is None:
                    (root / name).unlink()
                else:
                    (root / name).write_text(texts.get(content, content))
            folder, written = files.folder, mark(root)
            await until(lambda: written in folder and not folder.waiting)
            await until(lambda: not folder.closing.reopening)
            await laptop.served()

        async def mended(case: Case, files: Files) -> dict[str, int]:
            await write(case.mended, files)
            return await statuses(case.after)

        failed: dict[tuple[str, bool], object] = {}
        for (name, case), again in itertools.product(CASES.items(), (False, True)):
            if again and not case.again:
                continue
            for path in root.iterdir():
                path.unlink()
            (root / "base.yaml").write_text(base)
            (root / "old.json").write_text(route("old", "one"))
            mark(root)
            files = Files([root])
            stay = {Ref("GatewayClass", "", "moongate", GATEWAY_GROUP), *load([root]).batch}
            laptop.put({ref: None for ref in laptop.world.store.resources() if ref not in stay})
            async with started(laptop, files):
                for each in case.writes:
                    await write(each, files)
                meanwhile = await statuses(case.meanwhile)
                after = {} if again else await mended(case, files)
            if again:
                files = Files([root])
                async with started(laptop, files):
                    meanwhile |= await statuses(h for h, status in case.meanwhile.items() if status == 500)
                    after = await mended(case, files)
            if (meanwhile, after) != (case.meanwhile, case.after):
                failed[name, again] = (meanwhile, after)

    assert failed == {}
