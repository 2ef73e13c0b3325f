"""A fault that a file has when moongate starts has the effects of one that comes while moongate runs."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from moongate.api.backend import Backend
from moongate.api.base import Ref, Resource
from moongate.api.core import Secret
from moongate.policies.security_policy import FaultySecurityPolicy, SecurityPolicy
from moongate.sources.file_states import LastGood
from moongate.sources.files import Files, Loaded
from moongate.sources.manifests import CONFIGURATION
from tests.e2e.broken_policies import A_TAB, FAULTS, POLICY
from tests.sources.manifests import backend, policy, route, stream
from tests.sources.test_files import port, watching

if TYPE_CHECKING:
    from pathlib import Path

A, B = Ref.of(Backend, "default", "a"), Ref.of(Backend, "default", "b")
USERS = Ref.of(SecurityPolicy, "default", "users")
TAB = "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: Backend\n\tmetadata: {name: a}\n"


class Lives:
    """Several processes one after another, each with the states that the former ones had."""

    def __init__(self, root: Path) -> None:
        self.states: dict[Ref, LastGood] = {}
        self._root = root
        self._files = Files([root])

    def start(self) -> Loaded:
        self._files = Files([self._root])
        self._files.recall(self.states)
        return self.edited()

    def edited(self) -> Loaded:
        """What differs since the last time, in the same process."""
        loaded = self._files.load()
        for ref, state in loaded.states.items():
            self.states.pop(ref, None)
            if state is not None:
                # In plain data, as on a disk.
                self.states[ref] = msgspec.json.decode(msgspec.json.encode(state), type=LastGood)
        return loaded

    @property
    def resources(self) -> dict[Ref, Resource]:
        return dict(self._files.folder.resources)

    @property
    def ports(self) -> dict[str, int | None]:
        return {ref.name: port(resource) for ref, resource in sorted(self.resources.items())}


def _recalling(root: Path, lives: Lives) -> Files:
    """What the next process reads."""
    files = Files([root])
    files.recall(lives.states)
    return files


@pytest.fixture
def lives(tmp_path: Path) -> Lives:
    return Lives(tmp_path)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_policy_with_a_fault_stays_as_it_was(tmp_path: Path, lives: Lives, fault: str) -> None:
    path = tmp_path / ("policy.json" if "JSON" in fault else "policy.yaml")
    text = FAULTS[fault]
    path.write_text(msgspec.json.encode(msgspec.yaml.decode(POLICY)).decode() if "JSON" in fault else POLICY)
    lives.start()
    policy = lives.resources[USERS]
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    loaded = lives.start()

    assert lives.resources[USERS] == policy == loaded.batch[USERS]
    assert loaded.closed == ()
    assert any("in force, as it was at 20" in str(each) for each in loaded.errors)
    assert USERS not in loaded.states
    assert lives.start().batch[USERS] == policy


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_known_stays_closed(tmp_path: Path, lives: Lives, fault: str) -> None:
    """Other states of the folder do not make a policy known."""
    (tmp_path / "a.yaml").write_text(backend("a"))
    lives.start()
    text = FAULTS[fault]
    path = tmp_path / ("policy.json" if "JSON" in fault else "policy.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    loaded = lives.start()

    assert loaded.closed or any(isinstance(each, FaultySecurityPolicy) for each in lives.resources.values())
    assert not any(ref.is_a(SecurityPolicy) for ref in lives.states)


def test_a_state_that_is_known_opens_nothing_else(tmp_path: Path, lives: Lives) -> None:
    """Neither another file's, nor another document's of the same file."""
    (tmp_path / "a.yaml").write_text(backend("a", 1))
    (tmp_path / "policy.yaml").write_text(POLICY)
    lives.start()
    (tmp_path / "a.yaml").write_text(TAB)
    (tmp_path / "policy.yaml").write_text(A_TAB)
    assert lives.start().closed == ()

    (tmp_path / "other.yaml").write_text(A_TAB)
    assert lives.start().closed == ("",)
    assert port(lives.resources[A]) == 1
    (tmp_path / "other.yaml").unlink()

    other = POLICY.replace("name: users\nspec", "name: other\nspec").replace("HTTPRoute", "HttpRoute")
    (tmp_path / "policy.yaml").write_text(stream(POLICY, other))
    assert lives.start().closed == ("default",)


def test_each_document_of_a_file_has_its_own_last_good_state(tmp_path: Path, lives: Lives) -> None:
    """Also if no single text of the file ever had them all."""
    file = tmp_path / "all.yaml"
    file.write_text(stream(backend("a", 1), backend("b", 1)))
    lives.start()
    file.write_text(stream(backend("a", 2), backend("b", "x")))
    lives.edited()
    file.write_text(stream(backend("a", "x"), backend("b", "x"), backend("c", 1)))
    lives.edited()
    assert lives.ports == {"a": 2, "b": 1, "c": 1}

    lives.start()

    assert lives.ports == {"a": 2, "b": 1, "c": 1}


def test_resources_of_a_list_have_their_own(tmp_path: Path, lives: Lives) -> None:
    def listed(*documents: str) -> str:
        items = [msgspec.yaml.decode(each) for each in documents]
        return msgspec.yaml.encode({"apiVersion": "v1", "kind": "List", "items": items}).decode()

    file = tmp_path / "all.yaml"
    file.write_text(listed(backend("a", 1), backend("b", 1)))
    lives.start()
    file.write_text(listed(backend("a", 2), backend("b", "x")))
    lives.edited()
    file.write_text("\t" + listed(backend("a", 3)))

    lives.start()

    assert lives.ports == {"a": 2, "b": 1}


@pytest.mark.parametrize("broken", [False, True])
def test_nothing_comes_back_that_was_removed_meanwhile(tmp_path: Path, lives: Lives, *, broken: bool) -> None:
    """A file, or a document of one that can be read."""
    (tmp_path / "a.yaml").write_text(backend("a", 1))
    (tmp_path / "all.yaml").write_text(stream(backend("b", 1), backend("c", 1), "kind: Namespace\n"))
    lives.start()
    (tmp_path / "a.yaml").unlink()
    end = (
        "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: UP}\n" if broken else ""
    )
    (tmp_path / "all.yaml").write_text(stream(backend("c", 2), end))
    lives.start()
    assert lives.ports == {"c": 2}

    (tmp_path / "a.yaml").write_text(TAB)
    lives.start()

    assert lives.ports == {"c": 2}


def test_a_state_that_is_good_replaces_the_one_that_is_known(tmp_path: Path, lives: Lives) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(backend("a", 1))
    lives.start()
    file.write_text(backend("a", 2))
    lives.start()
    file.write_text(TAB)
    lives.start()
    assert lives.ports == {"a": 2}

    file.write_text(backend("a", 3))
    assert not lives.start().errors
    file.write_text(TAB)
    lives.start()

    assert lives.ports == {"a": 3}


def test_the_time_is_that_of_the_last_good_state(tmp_path: Path, lives: Lives) -> None:
    """Not that of a later start, nor of a move of its file while it has a fault."""
    file = tmp_path / "a.yaml"
    file.write_text(backend("a", 1))
    lives.start()
    lives.states[A] = msgspec.structs.replace(lives.states[A], at=1)
    file.write_text(backend("a", "x"))
    lives.start()
    assert "as it was at 1970-01-01 00:00:01 UTC" in str(lives.start().errors[0])

    (tmp_path / "b.yaml").write_text(backend("a", "x"))
    lives.edited()
    file.write_text("")
    lives.edited()
    assert lives.states[A].file.endswith("b.yaml")

    assert "as it was at 1970-01-01 00:00:01 UTC" in str(lives.start().errors[0])


def test_a_resource_that_moved_to_another_file_is_that_of_the_other(tmp_path: Path, lives: Lives) -> None:
    (tmp_path / "z.yaml").write_text(backend("a", 1))
    lives.start()
    (tmp_path / "z.yaml").write_text(TAB)
    (tmp_path / "b.yaml").write_text(backend("a", 2))

    lives.start()

    assert lives.ports == {"a": 2}


def test_only_what_changed_is_to_be_remembered(tmp_path: Path, lives: Lives) -> None:
    """Not a start without changes, and not an edit of a comment."""
    for n in range(50):
        (tmp_path / f"{n}.yaml").write_text(stream(backend(f"x{n}"), backend(f"y{n}")))
    assert len(lives.start().states) == 100
    assert lives.start().states == {}

    (tmp_path / "7.yaml").write_text(stream(backend("x7", 9), backend("y7")))
    assert [ref.name for ref in lives.edited().states] == ["x7"]
    (tmp_path / "7.yaml").write_text(stream("# a comment\n" + backend("x7", 9), backend("y7")))
    assert lives.edited().states == {}

    (tmp_path / "8.yaml").write_text(stream(backend("x8", 9), backend("y8")))
    assert lives.start().parsed == 100


def test_what_is_secret_is_not_remembered(tmp_path: Path, lives: Lives) -> None:
    """Nothing of a Secret, in whatever form it is written; what needs it stays closed."""
    secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s%d}\nstringData: {password: CANARY}\n"
    (tmp_path / "one.yaml").write_text(stream(backend("a"), secret % 1, backend("b")))
    items = [msgspec.yaml.decode(each) for each in (backend("c"), secret % 2)]
    for kind in ("List", "SecretList"):
        (tmp_path / f"{kind}.json").write_bytes(
            msgspec.json.encode(
                {"apiVersion": "v1", "kind": kind, "items": items if kind == "List" else items[1:]}
            ).replace(b"s2", kind.lower().encode())
        )

    lives.start()

    assert {ref.name for ref in lives.resources if ref.is_a(Secret)} == {"s1", "list", "secretlist"}
    assert {ref.name for ref in lives.states} == {"a", "b", "c"}
    assert "CANARY" not in repr(lives.states)
    (tmp_path / "one.yaml").write_text(stream(backend("a"), "\t" + secret % 1, backend("b")))
    lives.start()
    assert not any(ref.name == "s1" for ref in lives.resources)


def test_the_configuration_is_remembered(tmp_path: Path, lives: Lives) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyGateway\n"
        "gateway: {controllerName: x.test/y}\n"
    )
    good = lives.start().configuration
    assert good is not None
    file.write_text(file.read_text() + "\tx")

    assert lives.start().configuration == good
    assert lives.states.keys() == {CONFIGURATION}


def test_a_guarded_route_that_is_renamed_meanwhile_is_not_open_while_its_policy_has_a_fault(
    tmp_path: Path, lives: Lives
) -> None:
    """The last good state of the policy names the route by its old name. That lasts over further starts, and
    ends when the policy can be read, or the route has its name again."""
    (tmp_path / "route.yaml").write_text(_served("web"))
    (tmp_path / "policy.yaml").write_text(policy("web"))
    assert lives.start().closed == ()

    (tmp_path / "route.yaml").write_text(_served("shop"))
    (tmp_path / "policy.yaml").write_text(f"{policy('shop')}\t")
    assert lives.start().closed == ("default",)
    loaded = lives.start()
    assert loaded.closed == ("default",)
    [fault] = loaded.errors
    assert (
        "so all requests to the routes and Gateways of namespace default are answered with 500"
        in fault.effect
    )

    (tmp_path / "route.yaml").write_text(_served("web"))
    assert lives.start().closed == ()
    (tmp_path / "route.yaml").write_text(_served("shop"))
    assert lives.start().closed == ("default",)
    (tmp_path / "policy.yaml").write_text(policy("shop"))
    assert lives.edited().closed == ()
    assert lives.states.keys() == lives.resources.keys()


def test_a_policy_that_is_joined_meanwhile_with_one_that_has_a_fault_leaves_nothing_open(
    tmp_path: Path, lives: Lives
) -> None:
    (tmp_path / "routes.yaml").write_text(stream(_served("web"), _served("shop")))
    (tmp_path / "p.yaml").write_text(policy("web"))
    (tmp_path / "q.yaml").write_text(policy("shop").replace("name: p}", "name: q}"))
    lives.start()

    (tmp_path / "q.yaml").unlink()
    (tmp_path / "p.yaml").write_text(policy("web").replace("cors", "corz"))
    assert lives.start().closed == ("default",)

    (tmp_path / "p.yaml").write_text(policy("web"))
    assert lives.start().closed == ()


def test_a_policy_in_its_last_good_state_closes_nothing_that_it_still_protects(
    tmp_path: Path, lives: Lives
) -> None:
    """Nor do a new route of other hosts, and the removal of one without a policy."""
    (tmp_path / "route.yaml").write_text(_served("web"))
    (tmp_path / "other.yaml").write_text(_served("other", "other.test"))
    (tmp_path / "policy.yaml").write_text(policy("web"))
    lives.start()

    (tmp_path / "policy.yaml").write_text(f"{policy('web')}\t")
    (tmp_path / "other.yaml").write_text(_served("new", "new.test"))

    assert lives.start().closed == ()


def _served(name: str, host: str = "web.test") -> str:
    return route(name, "a").replace("spec: {", f"spec: {{parentRefs: [{{name: gw}}], hostnames: [{host}], ")


@pytest.mark.slow
async def test_a_guarded_route_that_is_renamed_is_not_open_while_the_folder_of_its_policy_cannot_be_read(
    mine: Path,
) -> None:
    """The policy may name the route by its new name."""
    (mine / "sub").mkdir()
    (mine / "sub" / "policy.yaml").write_text(policy("web"))
    (mine / "route.yaml").write_text(_served("web"))

    async with watching(mine) as watched:
        (mine / "sub").chmod(0)
        (mine / "route.yaml").write_text(_served("shop"))
        await watched.until(lambda: watched.last is not None and bool(watched.last.shut))
        assert watched.last is not None
        [new] = [each for each in watched.last.errors if each.resource and each.resource.name == "shop"]
        names = {ref.name for ref in watched.resources}
        (mine / "sub").chmod(0o700)
        await watched.until(lambda: {ref.name for ref in watched.resources} == {"p", "shop"})

    assert names == {"p", "web"}
    assert "This waits until " in new.problem.message


def test_a_policy_whose_file_or_folder_cannot_be_read_stays_as_it_was(mine: Path) -> None:
    lives = Lives(mine)
    (mine / "sub" / "deep").mkdir(parents=True)
    (mine / "sub" / "deep" / "policy.yaml").write_text(POLICY)
    (mine / "a.yaml").write_text(backend("a"))
    lives.start()

    (mine / "sub").chmod(0)
    (mine / "new").mkdir(mode=0)
    assert lives.start().closed == ("",)

    (mine / "new").rmdir()
    loaded = lives.start()
    assert (loaded.closed, lives.resources.keys()) == ((), {A, USERS})
    assert "What was in it stays in force, as it was at 20" in str(loaded.errors[0])

    (mine / "sub").chmod(0o700)
    (mine / "sub" / "deep" / "policy.yaml").chmod(0)
    loaded = lives.start()
    assert (loaded.closed, lives.resources.keys()) == ((), {A, USERS})

    (mine / "sub" / "deep" / "policy.yaml").unlink()
    assert lives.start().closed == ()
    assert lives.resources.keys() == {A}


async def test_a_folder_that_cannot_be_read_at_the_start_is_followed(mine: Path) -> None:
    """Its last good state stays until it can be read, and then its files count, or that they are gone."""
    lives = Lives(mine)
    (mine / "sub").mkdir()
    (mine / "sub" / "a.yaml").write_text(backend("a", 1))
    (mine / "sub" / "gone.yaml").write_text(backend("gone", 1))
    (mine / "b.yaml").write_text(backend("b", 1))
    lives.start()
    (mine / "sub" / "gone.yaml").unlink()
    (mine / "sub").chmod(0)

    async with watching(_recalling(mine, lives)) as watched:
        assert watched.ports == {"a": 1, "b": 1, "gone": 1}
        (mine / "b.yaml").write_text(backend("b", 2))
        await watched.until(lambda: watched.ports == {"a": 1, "b": 2, "gone": 1})
        (mine / "sub").chmod(0o700)
        (mine / "sub" / "a.yaml").write_text(backend("a", 2))
        await watched.until(lambda: watched.ports == {"a": 2, "b": 2})
        assert watched.last is not None
        assert not watched.last.errors


def test_a_file_may_have_a_name_that_is_no_text(tmp_path: Path, lives: Lives) -> None:
    file = tmp_path / os.fsdecode(b"f\xfcr.yaml")
    file.write_text(backend("a", 1))
    lives.start()
    file.write_text(TAB)

    lives.start()

    assert lives.ports == {"a": 1}


def test_half_a_character_in_a_list_is_no_bug(tmp_path: Path, lives: Lives) -> None:
    """JSON can have it, and it cannot be written."""
    text = r'{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a","annotations":{"x":"\ud800"}}}'
    (tmp_path / "a.json").write_text('{"apiVersion":"v1","kind":"List","items":[' + text + "]}")
    (tmp_path / "b.json").write_text(text.replace('"a"', '"b"'))

    loaded = lives.start()

    assert not [each for each in loaded.errors if "bug" in str(each) or "failed to read" in str(each)]


async def test_a_path_that_is_missing_at_the_start_keeps_its_last_good_state(tmp_path: Path) -> None:
    root, away = tmp_path / "m", tmp_path / "away"
    root.mkdir()
    (root / "a.yaml").write_text(backend("a", 1))
    lives = Lives(root)
    lives.start()
    root.rename(away)

    async with watching(_recalling(root, lives)) as watched:
        assert watched.ports == {"a": 1}
        assert watched.last is not None
        assert "as it was at 20" in str(watched.last.errors[0])
        (away / "a.yaml").write_text(backend("a", 2))
        away.rename(root)
        await watched.until(lambda: watched.ports == {"a": 2})


def test_pipes_and_standard_input_are_not_remembered(tmp_path: Path) -> None:
    """The next process may read something else there."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(backend("a"),))
    writer.start()
    loaded = Files([pipe]).load()
    writer.join()

    assert A in loaded.batch
    assert loaded.states == {A: None}
