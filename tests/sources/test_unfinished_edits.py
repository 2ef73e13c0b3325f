from __future__ import annotations

from collections.abc import Mapping

import pytest

from moongate.api.backend import Backend
from moongate.api.base import Ref, Resource
from moongate.api.core import EndpointSlice
from moongate.api.httproute import HTTPRoute
from moongate.sources.folder import Folder
from tests.sources.manifests import Unfinished, backend, endpoints, policy, port, route, stream

A, B = (Ref.of(Backend, "default", name) for name in "ab")
ROUTE = Ref.of(HTTPRoute, "default", "r")
SLICE = Ref.of(EndpointSlice, "default", "s")
RENAMED = policy("r").replace("name: p}", "name: q}")


class Away(Unfinished):
    """An edit that is whole, of files that may come back."""

    def unfinished(self, _what: Ref | str, _file: str, /, *, used: bool) -> bool:
        return False


class TestWaiting:
    """An edit over several files comes one file at a time."""

    def test_a_removal_waits_while_all_else_is_in_force(self) -> None:
        folder = Folder()
        folder.update("a.yaml", stream(backend("a", 1), backend("b", 1)))

        for _ in folder.stage("a.yaml", stream(backend("b", 2), backend("c", 2))):
            pass
        batch = folder.commit(Unfinished())

        assert {ref.name: port(new) for ref, new in batch.items()} == {"b": 2, "c": 2}
        assert folder.waiting == {A: "a.yaml"}
        assert folder.commit() == {A: None}

    def test_a_reference_to_what_is_missing_waits_until_it_is_there(self) -> None:
        """The route is read before the Backend that it is moved to."""
        folder = Folder()
        folder.update_many({"r.yaml": route("r", "a"), "b.yaml": backend("a")})

        for _ in folder.stage("r.yaml", route("r", "b")):
            pass
        assert folder.commit(Unfinished()) == {}
        for _ in folder.stage("b.yaml", backend("b")):
            pass
        assert list(folder.commit(Unfinished())) == [ROUTE, B]
        assert folder.commit() == {A: None}

    def test_a_reference_to_what_stays_missing_is_in_force_in_the_end(self) -> None:
        folder = Folder()
        folder.update_many({"r.yaml": route("r", "a"), "b.yaml": backend("a")})

        for _ in folder.stage("r.yaml", route("r", "b")):
            pass
        folder.commit(Unfinished())

        assert list(folder.commit()) == [ROUTE]

    def test_a_new_resource_does_not_wait_for_what_it_refers_to(self) -> None:
        folder = Folder()
        for _ in folder.stage("r.yaml", route("r", "a")):
            pass

        assert list(folder.commit(Unfinished())) == [ROUTE]

    @pytest.mark.parametrize("order", [1, -1])
    def test_a_target_of_a_policy_is_renamed_in_one_piece(self, order: int) -> None:
        """Neither the old nor the new route is ever served without its policy."""
        folder = Folder()
        folder.update_many({"r.yaml": route("old", "a"), "p.yaml": policy("old"), "b.yaml": backend("a")})
        edits = [("r.yaml", route("new", "a")), ("p.yaml", policy("new"))]

        for path, text in edits[::order]:
            for _ in folder.stage(path, text):
                pass
            assert folder.commit(Unfinished()) == {}

        assert {ref.name for ref in folder.commit()} == {"old", "new", "p"}

    def test_what_may_come_back_holds_up_no_other_edit(self) -> None:
        """A folder that is moved away had a policy; edits elsewhere are in force nevertheless."""
        folder = Folder()
        folder.update_many({"away/p.yaml": policy("r"), "r.yaml": route("r", "a"), "b.yaml": backend("a")})

        for _ in folder.stage("away/p.yaml", None):
            pass
        for _ in folder.stage("b.yaml", backend("a", 2)):
            pass

        assert list(folder.commit(Away())) == [A]
        assert [ref.kind for ref in folder.waiting] == ["SecurityPolicy"]

    @pytest.mark.parametrize(
        "others",
        [
            {"p.yaml": None},
            {"p.yaml": policy("missing")},
            {"p.yaml": None, "q.yaml": RENAMED},
        ],
        ids=["goes", "leaves its target", "is renamed"],
    )
    def test_endpoints_do_not_wait_with_a_policy_that_is_not_about_them(
        self, others: Mapping[str, str | None]
    ) -> None:
        folder = beside_a_policy()

        batch = of_edit(folder, {**others, "b.yaml": backend("b", 2), "s.yaml": endpoints("s", "s", 2)})

        assert set(batch) == {B, SLICE}
        assert folder.waiting
        assert set(folder.commit()).isdisjoint(batch)

    @pytest.mark.parametrize(
        ("path", "text"),
        [
            ("a.yaml", backend("a", 2)),
            ("used.yaml", endpoints("used", "used", 2)),
            ("s.yaml", endpoints("s", "used", 2)),
            ("used.yaml", endpoints("used", "s", 2)),
        ],
        ids=["of a Backend", "of a Service", "that come to a Service", "that leave a Service"],
    )
    def test_endpoints_wait_with_a_policy_of_a_route_to_them(self, path: str, text: str) -> None:
        """The new ones may be meant for what the policy is to become."""
        folder = beside_a_policy()

        assert of_edit(folder, {"p.yaml": None, path: text}) == {}
        assert len(folder.commit()) == 2

    @pytest.mark.parametrize(
        "others",
        [
            {"q.yaml": RENAMED.replace("HTTPRoute, name: r", "Gateway, name: g")},
            {"q.yaml": RENAMED.replace("targetRefs: [{", "targetSelectors: [{").replace(", name: r}", "}")},
            {"r.yaml": route("r", "b")},
            {"new.yaml": route("new", "b")},
            {"b.yaml": stream(backend("b"), backend("new"))},
        ],
        ids=["policy of a Gateway", "selecting policy", "route", "new route", "new backend"],
    )
    def test_endpoints_wait_with_what_may_be_about_any_of_them(self, others: Mapping[str, str]) -> None:
        folder = beside_a_policy()

        assert of_edit(folder, {"p.yaml": None, **others, "s.yaml": endpoints("s", "s", 2)}) == {}
        assert SLICE in folder.commit()

    def test_endpoints_that_go_wait_beside_a_policy_as_ever(self) -> None:
        folder = beside_a_policy()

        assert of_edit(folder, {"p.yaml": None, "s.yaml": None}) == {}
        assert folder.commit()[SLICE] is None


def of_edit(folder: Folder, files: Mapping[str, str | None]) -> dict[Ref, Resource | None]:
    """What is in force at once of files that come together, in an edit that goes on."""
    for path, text in files.items():
        for _ in folder.stage(path, text):
            pass
    return folder.commit(Unfinished())


def beside_a_policy() -> Folder:
    """A folder with a policy of a route to a Backend and a Service, and with others beside it."""
    gateway = (
        "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: g}, "
        "spec: {gatewayClassName: eg, listeners: [{name: http, port: 80, protocol: HTTP}]}}\n"
    )
    to = "{group: gateway.envoyproxy.io, kind: Backend, name: a}"
    folder = Folder()
    batch = folder.update_many(
        {
            "gateway.yaml": gateway,
            "r.yaml": route("r", "a").replace(to, f"{to}, {{name: used, port: 80}}"),
            "p.yaml": policy("r"),
            "a.yaml": backend("a"),
            "b.yaml": backend("b"),
            "used.yaml": endpoints("used", "used"),
            "s.yaml": endpoints("s", "s"),
        }
    )
    assert len(batch) == 7
    assert folder.diagnostics() == ()
    return folder
