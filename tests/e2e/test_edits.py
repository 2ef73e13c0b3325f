"""Edits as people make them, over several files, under load: no request fails."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from contextlib import asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest

from moongate.run import Laptop
from moongate.sources.files import SETTLE_USED, Files
from tests.deadline import DEADLINE_S
from tests.e2e import edits
from tests.e2e import manifests as m
from tests.e2e.certificates import Authority, Certificate
from tests.e2e.conftest import started
from tests.e2e.edits import EDITS
from tests.e2e.test_no_request_fails import AT_LEAST, constant_load
from tests.e2e.test_security import htpasswd
from tests.ports import free_port

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, Mapping
    from pathlib import Path
    from typing import Any

pytestmark = [pytest.mark.envoy, pytest.mark.slow]

TURNS = 2
MEMBER = htpasswd(member="open sesame")


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


def guarded(n: int, ports: list[int], port: int, tls_port: int, certificate: Certificate) -> dict[str, str]:
    """The names of two Secrets and a Namespace change, and a label with its selector, each in its file."""
    listeners = (
        f"[{{name: http, port: {port}, protocol: HTTP}}, {{name: https, port: {tls_port}, protocol: HTTPS, "
        f"tls: {{certificateRefs: [{{name: c{n}}}]}}}}]"
    )
    far = f"{{group: gateway.envoyproxy.io, kind: Backend, name: far, namespace: n{n}}}"
    private = m.route("private", f"[{{backendRefs: [{far}]}}]")
    private["metadata"]["labels"] = {"turn": f"t{n}"}
    selector = f"[{{group: gateway.networking.k8s.io, kind: HTTPRoute, matchLabels: {{turn: t{n}}}}}]"
    policy = m.policy("SecurityPolicy", "members", f"basicAuth: {{users: {{name: u{n}}}}}")
    policy["spec"].pop("targetRefs")
    policy["spec"]["targetSelectors"] = m.spec(selector)
    files = {
        "certificates.yaml": [certificate.secret(f"c{n}")],
        "far/backends.yaml": [
            m.namespace(f"n{n}"),
            m.local("far", ports[n % len(ports)], namespace=f"n{n}"),
        ],
        "gateway.yaml": [m.gateway("gateway", listeners)],
        "grants.yaml": [m.grant(f"n{n}", kind="HTTPRoute", of="default", to_kind="Backend")],
        "policy.yaml": [policy],
        "private.yaml": [private],
        "route.yaml": [
            m.route(
                "flip",
                f"[{{matches: [{{path: {{value: /flip}}}}], filters: [{m.tell_client('x-config', str(n))}], "
                f"backendRefs: [{far}]}}]",
            )
        ],
        "users.yaml": [m.secret(f"u{n}", _htpasswd=MEMBER)],
    }
    names = sorted(files, reverse=bool(n % 2))
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
    async with constant_load(tmp_path, port, "flip.test") as load:
        for name, text in state(0, load.ports, port).items():
            edits.write(root / name, text)
        async with serving(root) as client:
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

    failed = [
        (edit, [a for a in load.answers if a.status != 200 and began <= a.received <= ended])
        for edit, began, ended in spans
    ]
    assert [(edit, len(wrong), wrong[0]) for edit, wrong in failed if wrong] == []
    assert load.failures() == {}
    assert len(load.answers) >= AT_LEAST * len(spans)


@asynccontextmanager
async def serving(root: Path) -> AsyncGenerator[httpx.AsyncClient]:
    """A client before a gateway that follows a folder, whose manifests are in force."""
    async with (
        httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S) as client,
        Laptop() as laptop,
        started(laptop, Files([root])),
    ):
        yield client


async def answers_of(client: httpx.AsyncClient, port: int, n: int) -> None:
    """Return when state ``n`` is in force."""
    async with asyncio.timeout(DEADLINE_S):
        url, headers = f"http://127.0.0.1:{port}/flip", {"host": "flip.test"}
        while (await client.get(url, headers=headers)).headers.get("x-config") != str(n):
            pass


async def test_no_request_fails_while_what_guards_is_renamed(tmp_path: Path) -> None:
    """Certificate, users, Namespace with its grant, label with its selector: nobody fails, nobody gets in."""
    root = tmp_path / "m"
    root.mkdir()
    port, tls_port = free_port(), free_port()
    authority = Authority()
    certificate = authority.sign("private.test")
    context = authority.client_context()
    odd: list[tuple[str, int | str]] = []
    edit = ""

    async def knock(stop: asyncio.Event) -> None:
        """By turns, ask with a password and without, over a new connection."""
        members = {"authorization": f"Basic {b64encode(b'member:open sesame').decode()}"}
        while not stop.is_set():
            for headers, status in ((members, 200), ({}, 401)):
                answer = await over_tls(tls_port, context, headers)
                if answer != status:
                    odd.append((edit, answer))
            await asyncio.sleep(0.01)

    async with constant_load(tmp_path, port, "flip.test") as load:
        for name, text in guarded(0, load.ports, port, tls_port, certificate).items():
            edits.write(root / name, text)
        async with serving(root) as client, asyncio.TaskGroup() as tasks:
            load.begin()
            stop = asyncio.Event()
            knocking = tasks.create_task(knock(stop))
            for n, edit in enumerate(EDITS, start=1):
                files = guarded(n, load.ports, port, tls_port, certificate)
                await asyncio.to_thread(EDITS[edit], root, files)
                await answers_of(client, port, n)
                tidy(root, files)
            stop.set()
            await knocking
            await load.end()

    assert odd == []
    assert load.failures() == {}
    assert len(load.answers) >= AT_LEAST * len(EDITS)


async def test_a_guarded_route_that_is_renamed_file_by_file_lets_nobody_in(tmp_path: Path) -> None:
    """The new file comes first, then the policy, then the old file goes, with pauses as of a slow disk."""
    root = tmp_path / "m"
    root.mkdir()
    port = free_port()
    fixed = [
        m.gateway("gateway", f"[{{name: http, port: {port}, protocol: HTTP}}]"),
        m.local("far", free_port()),
        m.secret("users", _htpasswd=MEMBER),
    ]
    edits.write(root / "fixed.yaml", _text(fixed))

    def write(n: int) -> None:
        """The new name sorts before the old one, so that its route would take all requests."""
        rules = f"[{{backendRefs: [{m.backend_ref('far')}]}}]"
        route = m.route(f"r{9 - n}", rules, hostnames=("private.test",))
        edits.write(root / f"r{9 - n}.yaml", _text([route]))

    def guard(n: int) -> None:
        users = "basicAuth: {users: {name: users}}"
        policy = m.policy("SecurityPolicy", "members", users, f"HTTPRoute/r{9 - n}")
        edits.write(root / "policy.yaml", _text([policy]))

    write(0)
    guard(0)
    statuses: list[int] = []
    async with serving(root) as client:

        async def knock(seconds: float) -> None:
            until = monotonic() + seconds
            while monotonic() < until:
                answer = await client.get(f"http://127.0.0.1:{port}/", headers={"host": "private.test"})
                statuses.append(answer.status_code)

        for n in range(1, 4):
            write(n)
            await knock(0.2)
            guard(n)
            await knock(0.2)
            (root / f"r{10 - n}.yaml").unlink()
            await knock(1.5 * SETTLE_USED)

    assert set(statuses) == {401}


def ruled(name: str, *rules: str, host: str, parent: str = "gateway") -> dict[str, Any]:
    """A route with rules as "NAME PATH"."""
    written = (rule.split() for rule in rules)
    each = [f"{{name: {at}, matches: [{{path: {{value: {path}}}}}], {m.to('far')}}}" for at, path in written]
    route = m.route(name, f"[{', '.join(each)}]", hostnames=(host,), parents=f"[{{name: {parent}}}]")
    route["metadata"]["labels"] = {"name": name}
    return route


def members(*targets: str) -> dict[str, Any]:
    """A policy that lets nobody pass without a password."""
    name = targets[0].split("/")[1]
    return m.policy("SecurityPolicy", name, "basicAuth: {users: {name: users}}", *targets)


def members_of(name: str, env: str, namespace: str = "far") -> dict[str, Any]:
    """The same from another namespace, for a route in namespaces with a label."""
    policy = m.policy("SecurityPolicy", name, "basicAuth: {users: {name: users}}", namespace=namespace)
    del policy["spec"]["targetRefs"]
    where = f"{{from: Selector, selector: {{matchLabels: {{env: {env}}}}}}}" if env else "{from: All}"
    policy["spec"]["targetSelectors"] = m.spec(
        "[{group: gateway.networking.k8s.io, kind: HTTPRoute, "
        f"matchLabels: {{name: {name}}}, namespaces: {where}}}]"
    )
    return policy


def hearing(port: int, **hosts: str) -> dict[str, Any]:
    """A Gateway with a listener for each hostname; "" for all."""
    listeners = [
        f"{{name: {name}, port: {port}, protocol: HTTP{f', hostname: {host}' if host else ''}}}"
        for name, host in hosts.items()
    ]
    return m.gateway("other", f"[{', '.join(listeners)}]")


def allowing(of: str) -> dict[str, Any]:
    return m.grant("default", kind="SecurityPolicy", of=of, to_kind="HTTPRoute")


def halves(other: int) -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], str]]:
    """Edits over two files: what is there before, what each file brings, and the requests nobody may make.

    Args:
        other: the port of another Gateway than ``gateway``.
    """
    both = "HTTPRoute/grown", "HTTPRoute/b"
    return {
        "the match of a route grows": (
            [members(both[0]), ruled("grown", "a /admin", host="a.test"), ruled("b", "a /b", host="a.test")],
            [ruled("b", "a /admin/b", host="a.test"), members(*both)],
            "a.test/admin/b",
        ),
        "a guarded route narrows": (
            [members(both[0]), ruled("grown", "a /admin", host="b.test"), ruled("b", "a /", host="b.test")],
            [ruled("grown", "a /admin/b", host="b.test"), members(*both)],
            "b.test/admin",
        ),
        "a match moves to another rule": (
            [members("HTTPRoute/c/a"), ruled("c", "a /admin", "b /b", host="c.test")],
            [ruled("c", "a /a", "b /admin", host="c.test"), members("HTTPRoute/c/a", "HTTPRoute/c/b")],
            "c.test/admin",
        ),
        "a namespace has another label": (
            [m.namespace("default", env="a"), members_of("d", "a"), ruled("d", "a /", host="d.test")],
            [m.namespace("default", env="b"), members_of("d", "b")],
            "d.test/",
        ),
        "a grant is for another namespace": (
            [allowing("far"), members_of("e", ""), ruled("e", "a /", host="e.test")],
            [allowing("near"), members_of("e", "", "near")],
            "e.test/",
        ),
        "a route moves to another Gateway": (
            [members("Gateway/gateway"), ruled("g", "a /", host="g.test")],
            [ruled("g", "a /", host="g.test", parent="other"), members("Gateway/other")],
            "g.test/",
        ),
        "a listener takes a hostname": (
            [members("Gateway/other/a"), ruled("f", "a /", host="f.test", parent="other")],
            [hearing(other, a="", b="f.test"), members("Gateway/other/a", "Gateway/other/b")],
            "f.test/",
        ),
    }


async def test_no_request_passes_between_two_files_of_an_edit(tmp_path: Path) -> None:
    """Each time, the first file alone would open what the policy in the second one is to guard.

    Nothing listens behind the routes: 503 is the answer to whom the policy has let pass.
    """
    root = tmp_path / "m"
    root.mkdir()
    port, other = free_port(), free_port()
    fixed = [
        m.gateway("gateway", f"[{{name: http, port: {port}, protocol: HTTP}}]"),
        hearing(other, a=""),
        m.local("far", free_port()),
        m.secret("users", _htpasswd=MEMBER),
        *(m.secret("users", namespace=namespace, _htpasswd=MEMBER) for namespace in ("far", "near")),
        m.namespace("default", env="a"),
        allowing("far"),
    ]

    def put(documents: list[dict[str, Any]]) -> None:
        for document in documents:
            name = f"{document['kind']}-{document['metadata']['name']}.yaml".lower()
            edits.write(root / name, _text([document]))

    put([each for each in fixed if each["kind"] != "Secret"])
    edits.write(root / "secrets.yaml", _text([each for each in fixed if each["kind"] == "Secret"]))
    statuses: dict[str, set[int]] = {}
    async with serving(root) as client:

        async def asked(url: str) -> set[int]:
            host, _, path = url.partition("/")
            urls = (f"http://127.0.0.1:{at}/{path}" for at in (port, other))
            answers = [await client.get(url, headers={"host": host}) for url in urls]
            return {answer.status_code for answer in answers}

        for edit, (before, (first, second), url) in halves(other).items():
            put(before)
            written = monotonic()
            async with asyncio.timeout(DEADLINE_S):
                while await asked(url) != {401, 404}:  # noqa: ASYNC110 - no event tells of workers of Envoy
                    await asyncio.sleep(0.01)
            # No event tells that an edit is over.
            await asyncio.sleep(max(0, written + 1.5 * SETTLE_USED - monotonic()))
            seen = statuses[edit] = set[int]()
            for document, seconds in ((first, 0.1), (second, 1.5 * SETTLE_USED)):
                put([document])
                until = monotonic() + seconds
                while monotonic() < until:
                    seen |= await asked(url)
            for path in root.glob("httproute-*.yaml"):
                path.unlink()

    # At the other Gateway, nobody serves the hostname.
    assert statuses == {edit: {401, 404} for edit in statuses}


async def over_tls(port: int, context: ssl.SSLContext, headers: Mapping[str, str]) -> int | str:
    """The status of a request over a connection of its own, or how it failed."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="private.test"
        )
        try:
            writer.write(f"GET / HTTP/1.1\r\nhost: private.test\r\nconnection: close\r\n{lines}\r\n".encode())
            return int((await reader.readline()).split(b" ")[1])
        finally:
            writer.close()
    except (OSError, IndexError) as error:
        return repr(error)
