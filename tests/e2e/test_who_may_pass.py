"""Nobody passes whom both the old and the new configuration refuse, whatever changes, over any connection."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from msgspec import Struct

from tests.e2e import manifests as m
from tests.e2e.callers import KINDS, QUIC_KINDS
from tests.e2e.certificates import Authority
from tests.e2e.conftest import Site, admitted, reference
from tests.e2e.guarded import Passing, Watch, watching
from tests.ports import free_port

pytestmark = [pytest.mark.envoy, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

CHANGES = int(os.environ.get("CHANGES", "500"))
PACE_S = 0.06
HOSTS = ["left.test", "right.test"]
USERS = ("ann", "bob")
EVERYBODY = frozenset({*USERS, "nobody"})
SECRETS = ("one", "two")
CROWD = 200
"""So many users stand in the chain, and not on each route."""
POLICIES = ("first", "second", "third")
TARGETS = ("Gateway/guarded", "HTTPRoute/left", "HTTPRoute/right", "HTTPRoute/left/rule")


class Protection(NamedTuple):
    """A field of SecurityPolicy that asks who calls.

    Args:
        headers: those by which it knows a user.
        secret: the data of a Secret that lets some users pass, and so many that nobody knows.
        field: its value, from the name of that Secret and the header in which the user's name is passed on
            ("" for none).
    """

    headers: Callable[[str], dict[str, str]]
    secret: Callable[[Iterable[str], int], dict[str, str]]
    field: Callable[[str, str], dict[str, Any]]


def _basic_auth_headers(user: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{user}".encode()).decode()}


def _basic_auth_secret(users: Iterable[str], crowd: int) -> dict[str, str]:
    users = [*users, *(f"one of many {n}" for n in range(crowd))]
    digests = {user: base64.b64encode(hashlib.sha1(user.encode()).digest()).decode() for user in users}
    return {"_htpasswd": "".join(f"{user}:{{SHA}}{digest}\n" for user, digest in digests.items())}


def _basic_auth(secret: str, header: str) -> dict[str, Any]:
    return {"users": {"name": secret}, **({"forwardUsernameHeader": header} if header else {})}


PROTECTIONS: dict[str, Protection] = {
    "basicAuth": Protection(_basic_auth_headers, _basic_auth_secret, _basic_auth)
}
"""Field → what a test must know of it; policies ask by any of these, and exchange one for another."""
CREDENTIALS = {
    "nobody": dict[str, str](),
    **{
        user: {k: v for each in PROTECTIONS.values() for k, v in each.headers(user).items()} for user in USERS
    },
}


CHECKS: dict[str, Callable[[frozenset[str]], frozenset[str]]] = {
    "RequireAndVerify": lambda users: users,
    "VerifyIfGiven": lambda users: users | {"nobody"},
    "RequireAny": lambda _: frozenset(USERS),
    "Request": lambda _: EVERYBODY,
}
"""Mode of ``tls.clientValidation`` of a ClientTrafficPolicy → who may connect, if these users' CAs count."""


class Policy(Struct, frozen=True):
    """A SecurityPolicy of the model.

    Args:
        target: what it is attached to.
        field: by which it asks who calls; "" when it lets everybody pass.
        users: those who may pass: a key of ``Model.users``.
        header: the header in which the user's name is passed on; "" for none.
        merges: whether it merges with the Gateway's.
    """

    target: str
    field: str
    users: str
    header: str
    merges: bool

    def document(self, name: str) -> m.Document:
        body: dict[str, Any] = {"cors": {"allowOrigins": ["https://a.test"]}}
        if self.field:
            body = {
                self.field: PROTECTIONS[self.field].field(secret_name(self.field, self.users), self.header)
            }
        if self.merges:
            body["mergeType"] = "StrategicMerge"
        document = m.policy("SecurityPolicy", name, "{}", self.target)
        document["spec"] |= body
        return document


class Model(Struct):
    """Policies and Secrets as they are in force, and who may pass by them.

    A later policy of one target conflicts with the earlier one; to keep the model small it never comes.
    """

    policies: dict[str, Policy]
    users: dict[str, frozenset[str]]

    def passing(self) -> Passing:
        return {host: self._callers(host.removesuffix(".test")) for host in HOSTS}

    def _callers(self, route: str) -> frozenset[str]:
        by_target = {policy.target: policy for policy in self.policies.values()}
        above = by_target.get("Gateway/guarded")
        names = [f"HTTPRoute/{route}/rule"] * (route == "left") + [f"HTTPRoute/{route}"]
        own = next((by_target[name] for name in names if name in by_target), None)
        # Of two that merge, the more specific one decides about a field; who calls must pass all fields.
        merged = [policy for policy in (above, own) if policy is not None and policy.field]
        if own is not None and not own.merges:
            merged = [own] if own.field else []
        asked = {policy.field: self.users[policy.users] for policy in merged}
        return EVERYBODY.intersection(*asked.values())


def change(model: Model, chance: Random, *, headers: bool) -> tuple[list[m.Document], list[m.Document]]:
    """Make one random change of the model.

    Returns:
        What to put and what to delete for it.
    """
    match chance.randrange(5):
        case 0:
            name = chance.choice(SECRETS)
            model.users[name] = frozenset({chance.choice(USERS)})
            crowd = CROWD if headers and chance.random() < 0.5 else 0
            return secrets_of(name, model.users[name], crowd), []
        case 1 if model.policies:
            name = chance.choice(sorted(model.policies))
            gone = model.policies.pop(name)
            return [], [gone.document(name)]
        case _:
            name = chance.choice(POLICIES)
            before = model.policies.pop(name, None)
            taken = {policy.target for policy in model.policies.values()}
            target = chance.choice([t for t in TARGETS if t not in taken])
            policy = Policy(
                target=target,
                field=chance.choice(list(PROTECTIONS)) if chance.random() < 0.8 else "",
                users=chance.choice(SECRETS),
                header=chance.choice(("", "", "x-user", "x-name")) if headers else "",
                merges=target.startswith("HTTPRoute") and chance.random() < 0.4,
            )
            # Half of the time another policy takes the place of the one that goes, in one batch.
            other = next((n for n in POLICIES if n not in model.policies and n != name), None)
            if before is not None and other is not None and chance.random() < 0.5:
                model.policies[other] = policy
                return [policy.document(other)], [before.document(name)]
            model.policies[name] = policy
            return [policy.document(name)], []


def secret_name(field: str, users: str) -> str:
    return f"{field.lower()}-{users}"


def secrets_of(name: str, users: frozenset[str], crowd: int = 0) -> list[m.Document]:
    """The Secrets that let some users pass, one for each field that a policy may ask by."""
    return [
        m.secret(secret_name(field, name), **protection.secret(sorted(users), crowd))
        for field, protection in PROTECTIONS.items()
    ]


async def history(site: Site, folder: Path, seed: int, *, headers: bool) -> Watch:
    """Play a random history of changes under load, and see what came of it."""
    chance, port = Random(seed), free_port()
    model = Model({}, {name: frozenset({user}) for name, user in zip(SECRETS, USERS, strict=True)})
    backend = m.to("one")
    await site.apply(
        m.gateway("guarded", f"[{{name: http, port: {port}, protocol: HTTP}}]"),
        m.route("left", f"[{{name: rule, {backend}}}]", parents="[{name: guarded}]"),
        m.route("right", f"[{{{backend}}}]", parents="[{name: guarded}]"),
        *(secret for name, users in model.users.items() for secret in secrets_of(name, users)),
    )
    async with watching(folder, port, HOSTS, CREDENTIALS) as watch:
        await watch.begin(model.passing())
        for _ in range(CHANGES):
            put, gone = change(model, chance, headers=headers)
            async with watch.change(model.passing()):
                site.laptop.put(admitted(*put) | dict.fromkeys(map(reference, gone)))
                await site.laptop.served()
            # Some changes follow at once, some meet requests.
            await asyncio.sleep(chance.uniform(0, PACE_S))
        await watch.end()
    names = [policy.document(name) for name, policy in model.policies.items()]
    await site.delete(*names, m.gateway("guarded", "[]"))
    assert len(watch.answers) > 5 * CHANGES, "the load met the changes"
    assert {a.status for a in watch.answers} >= {200, 401}
    return watch


@pytest.mark.parametrize("seed", range(int(os.environ.get("SEEDS", "1"))))
async def test_nobody_passes_whom_old_and_new_refuse_and_nobody_else_is_shut_out(
    site: Site, tmp_path: Path, seed: int
) -> None:
    """Policies come, go, change, merge and move, and so do their users."""
    watch = await history(site, tmp_path, seed, headers=False)

    assert watch.strangers() == []
    assert watch.shut_out() == {}


@pytest.mark.parametrize("seed", range(int(os.environ.get("SEEDS", "1"))))
async def test_nobody_passes_on_a_connection_whose_chain_lacks_a_filter(
    site: Site, tmp_path: Path, seed: int
) -> None:
    """Some policies need a filter of their own in the chain, which connections may be too old for.

    They name a header, or have more users than each route can carry.
    """
    watch = await history(site, tmp_path, seed, headers=True)

    assert watch.strangers() == []
    assert {status for _, status, _ in watch.shut_out()} <= {500}


async def test_nobody_passes_at_a_port_that_is_guarded_whenever_it_is_open(
    site: Site, tmp_path: Path
) -> None:
    """A listener moves between two ports, and its policy comes with one of them and goes with it."""
    inside, outside = free_port(), free_port()
    guard = Policy("HTTPRoute/left", "basicAuth", "one", "", merges=False).document("first")
    secrets = secrets_of("one", frozenset({"ann"}))

    def at(port: int) -> m.Document:
        return m.gateway("moving", f"[{{name: http, port: {port}, protocol: HTTP}}]")

    await site.apply(
        at(outside), m.route("left", f"[{{{m.to('one')}}}]", parents="[{name: moving}]"), *secrets, guard
    )
    async with watching(tmp_path, outside, HOSTS[:1], CREDENTIALS) as watch:
        await watch.begin({"left.test": frozenset({"ann"})})
        for _ in range(6):
            async with watch.change({"left.test": frozenset()}):
                site.laptop.put(admitted(at(inside)) | {reference(guard): None})
                await site.laptop.served()
            async with watch.change({"left.test": frozenset({"ann"})}):
                await site.apply(at(outside), guard)
        await watch.end()
    await site.delete(guard, at(inside))

    assert {a.status for a in watch.answers} >= {0, 200, 401}
    assert watch.strangers() == []


class Checking(Struct, frozen=True):
    """A ClientTrafficPolicy of the model of connections.

    Args:
        mode: by which it checks who connects; "" for not at all.
        users: those who may connect by their CAs: a key of ``Connections.users``.
        http3: whether it asks for HTTP/3.
    """

    mode: str
    users: str
    http3: bool

    def document(self, target: str) -> m.Document:
        body: dict[str, Any] = {"http3": {}} if self.http3 else {"scheme": "Preserve"}
        if self.mode:
            refs = [{"kind": "ConfigMap", "name": f"cas-{self.users}"}]
            body["tls"] = {"clientValidation": {"mode": self.mode, "caCertificateRefs": refs}}
        document = m.policy("ClientTrafficPolicy", target.replace("/", "-").lower(), "{}", target)
        document["spec"] |= body
        return document


class Connections(Struct):
    """Policies by target, and the users whose CAs are in each ConfigMap."""

    policies: dict[str, Checking]
    users: dict[str, frozenset[str]]

    def passing(self, port: int) -> Passing:
        of = {
            host: self.policies.get(f"Gateway/checked/{host.removesuffix('.test')}")
            or self.policies.get("Gateway/checked")
            for host in HOSTS
        }
        # A listener that asks for certificates has no HTTP/3; the others have it if one of them asks for it.
        open_ = [host for host, policy in of.items() if policy is None or not policy.mode]
        http3 = any(policy.http3 for host in open_ if (policy := of[host]) is not None)
        passing: Passing = {}
        for host, policy in of.items():
            may = EVERYBODY
            if policy is not None and policy.mode:
                may = CHECKS[policy.mode](self.users[policy.users])
            passing[f"https://{host}:{port}"] = may
            passing[f"quic://{host}:{port}"] = EVERYBODY if http3 and host in open_ else frozenset()
        return passing


@pytest.mark.parametrize("seed", range(int(os.environ.get("SEEDS", "1"))))
async def test_nobody_connects_whose_certificate_old_and_new_refuse(
    site: Site, tmp_path: Path, seed: int
) -> None:
    """CAs are exchanged, checks come and go and change their mode, and with them HTTP/3, which has none."""
    chance, port, changes = Random(seed), free_port(), min(CHANGES, 150)
    cas = {user: Authority(user) for user in USERS}
    certificates: dict[str, str] = {}
    for user, ca in cas.items():
        shown = ca.sign(user)
        at = tmp_path / f"{user}.pem"
        at.write_bytes(shown.pem + shown.key)
        certificates[user] = str(at)
    # At first everybody may connect in each way.
    model = Connections(
        {"Gateway/checked": Checking("", "one", http3=True)},
        {name: frozenset({user}) for name, user in zip(SECRETS, USERS, strict=True)},
    )

    def authorities(name: str) -> m.Document:
        return m.authorities(f"cas-{name}", *(cas[user].pem for user in sorted(model.users[name])))

    listeners = ", ".join(
        f"{{name: {host.removesuffix('.test')}, port: {port}, protocol: HTTPS, hostname: {host}, "
        "tls: {certificateRefs: [{name: checked}]}}"
        for host in HOSTS
    )
    gateway = m.gateway("checked", f"[{listeners}]")
    await site.apply(
        site.authority.sign(*HOSTS).secret("checked"),
        *map(authorities, SECRETS),
        m.route("checked", f"[{{{m.to('one')}}}]", hostnames=tuple(HOSTS), parents="[{name: checked}]"),
        gateway,
        *(policy.document(target) for target, policy in model.policies.items()),
    )
    origins = list(model.passing(port))
    nobody = {user: dict[str, str]() for user in EVERYBODY}
    async with watching(
        tmp_path, port, origins, nobody, pause_s=0.02, certificates=certificates, quic_patience_s=1.0
    ) as watch:
        await watch.begin(model.passing(port))
        for _ in range(changes):
            target = chance.choice(["Gateway/checked", "Gateway/checked/left", "Gateway/checked/right"])
            put: list[m.Document] = []
            gone: list[m.Document] = []
            match chance.randrange(4):
                case 0:
                    name = chance.choice(SECRETS)
                    model.users[name] = frozenset(chance.sample(USERS, chance.randint(1, 2)))
                    put = [authorities(name)]
                case 1 if target in model.policies:
                    gone = [model.policies.pop(target).document(target)]
                case _:
                    mode = chance.choice(["", *CHECKS])
                    model.policies[target] = Checking(mode, chance.choice(SECRETS), chance.random() < 0.6)
                    put = [model.policies[target].document(target)]
            async with watch.change(model.passing(port)):
                site.laptop.put(admitted(*put) | dict.fromkeys(map(reference, gone)))
                await site.laptop.served()
            await asyncio.sleep(chance.uniform(0, 2 * PACE_S))
        await watch.end()
    await site.delete(*(policy.document(target) for target, policy in model.policies.items()), gateway)

    assert len(watch.answers) > 4 * changes, "the load met the changes"
    assert {answer.kind for answer in watch.answers if answer.status == 200} == {*KINDS, *QUIC_KINDS}
    assert watch.stayed() == []
    # A policy that changes its mode and its CAs at once changes two resources of Envoy, one before the other.
    assert [one for one in watch.shut_out(between=False) if one[0] not in QUIC_KINDS] == []


@pytest.mark.parametrize("inserted", [False, True], ids=["changes places", "another is inserted"])
async def test_a_guarded_rule_that_envoy_refuses_stays_guarded_wherever_it_moves(
    site: Site, *, inserted: bool
) -> None:
    """It asks as before, and the rules beside it are served as before."""

    def rule(name: str, path: str, filters: str = "[]") -> str:
        return f"{{name: {name}, matches: [{{path: {{value: {path}}}}}], filters: {filters}, {m.to('one')}}}"

    admin, wide = rule("admin", "/admin"), rule("wide", "/")
    odd = rule("admin", "/admin", f"[{m.tell_client('x', '%NOPE%')}]")
    policy = Policy("HTTPRoute/moved/admin", "basicAuth", "one", "", merges=False).document("moved")
    await site.apply(m.route("moved", f"[{admin}, {wide}]"), *secrets_of("one", frozenset({"ann"})), policy)
    assert await site.status("moved.test", "/admin") == 401

    first = rule("new", "/new") if inserted else wide
    await site.apply(m.route("moved", f"[{first}, {odd}{f', {wide}' if inserted else ''}]"))

    assert site.conditions(m.route("moved", "[]"))["Programmed"]["reason"] == "Refused"
    assert await site.status("moved.test", "/admin") == 401
    assert await site.status("moved.test", "/admin", headers=_basic_auth_headers("ann")) == 200
    assert await site.status("moved.test", "/") == 200
    await site.delete(m.route("moved", "[]"), policy)
