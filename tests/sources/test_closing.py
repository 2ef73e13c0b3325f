"""What a document closes that cannot be read and may say who may pass, at the start and later."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moongate.api.backend import Backend
from moongate.api.base import Ref, Resource
from moongate.api.gateway import Gateway
from moongate.api.httproute import HTTPRoute
from moongate.policies.security_policy import SecurityPolicy
from moongate.sources.closing import is_entrance, is_guard
from moongate.sources.file_states import Unreadable
from moongate.sources.folder import Folder
from tests.sources.manifests import Unfinished, backend, policy, route, stream

ROUTE, OTHER, POLICY, A, B = (
    Ref.of(HTTPRoute, "default", "r"),
    Ref.of(HTTPRoute, "default", "o"),
    Ref.of(SecurityPolicy, "default", "p"),
    Ref.of(Backend, "default", "a"),
    Ref.of(Backend, "default", "b"),
)


class FileMayComeBack(Unfinished):
    """An edit of which only a file is still to come."""

    def unfinished(self, _what: Ref | str, _file: str, /, *, used: bool) -> bool:
        return False


class TestWhileAPolicyIsInItsLastGoodState:
    """Its text has a fault, and may be meant for another target than the one that it had."""

    FAULT = "metadata: {name: p}", "metadata: {name: p, zone: a}"

    def edited(self, **files: str | None) -> Folder:
        """After an edit of a sound folder: the policies "p" of the route "o" and "q" of the route "r"."""
        folder = Folder(strict=True)
        folder.update_many(
            {
                "p": policy("o"),
                "q": policy("r").replace("name: p", "name: q"),
                "o": self.served("o"),
                "r": self.served("r"),
                "a": backend("a"),
            }
        )
        for path, text in files.items():
            for _ in folder.stage(path, text):
                pass
            folder.commit(Unfinished(), begins=False)
        folder.commit()
        return folder

    def served(self, name: str, to: str = "a") -> str:
        return route(name, to).replace("spec: {", "spec: {parentRefs: [{name: web}], ")

    def test_another_policy_is_not_removed(self) -> None:
        """Both were made one, and that has a fault."""
        folder = self.edited(q=None, p=policy("r").replace(*self.FAULT))

        q = Ref.of(SecurityPolicy, "default", "q")
        assert folder.closing.held_back == {q: True}
        [message] = [d.problem.message for d in folder.diagnostics() if d.resource == q]
        assert message.startswith("Its removal waits until p is mended")

        folder.update("p", policy("r"))
        assert (folder.closing.held_back, q in folder) == ({}, False)

    @pytest.mark.parametrize("name", ["before", "x-after"])
    def test_a_guarded_route_is_not_open_under_another_name(self, name: str) -> None:
        """A route is renamed, and the policy that names it, where there is a fault then."""
        folder = self.edited(r=self.served(name), q=policy(name).replace("name: p", "name: q, zone: a"))

        assert folder.closing.held_back == {ROUTE: True, Ref.of(HTTPRoute, "default", name): False}
        assert folder.closing.shut == {ROUTE}

    def test_a_guarded_route_is_not_removed_while_the_one_in_its_place_cannot_be_read(self) -> None:
        folder = self.edited(r=None, o=self.served("o").replace("rules", "rulse"))

        assert (folder.closing.held_back, folder.closing.shut) == ({ROUTE: True}, {ROUTE})

    def test_neither_is_it_while_that_one_has_moved_to_another_file(self) -> None:
        folder = self.edited(r=None, o=None, x=self.served("o") + "\t")

        assert (folder.closing.held_back, folder.closing.shut) == ({ROUTE: True}, {ROUTE})

    @pytest.mark.parametrize(
        "text",
        [
            "\t{ROUTE}",
            "apiVersion: gateway.networking.k8s",
            "apiVersion: gateway.networking.k8s.io/v1\nkin",
            "apiVersion: gateway.networking.k8s.io/v1\nkind:",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRuote\nmetadata: {name: x}",
            "apiVersion: gateway.networking.io/v1\nkind: HTTPRoute\nmetadata: {name: x}",
            "apiVersio: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: x}",
        ],
    )
    def test_neither_is_it_when_nothing_can_be_made_out_of_the_one_in_its_place(self, text: str) -> None:
        folder = self.edited(r=None, x=text.replace("{ROUTE}", self.served("x")))

        assert (folder.closing.held_back, folder.closing.shut) == ({ROUTE: True}, {ROUTE})

    def test_neither_is_it_when_its_policy_names_the_one_in_its_place(self) -> None:
        """The policy is in force for the other then, so nothing says any more that the first was guarded."""
        folder = self.edited(r=None, x=self.served("x").replace("rules", "rulse"))
        folder.update("q", policy("x").replace("name: p", "name: q"))

        assert (folder.closing.held_back, folder.closing.shut) == ({ROUTE: True}, {ROUTE})

        folder.update("x", self.served("x"))
        assert (folder.closing.held_back, ROUTE in folder) == ({}, False)

    @pytest.mark.parametrize(
        "text",
        [
            "apiVersion: v1",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gatewy\nmetadata: {name: x}",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRuote\nmetadata: {name: x, namespace: far}",
        ],
    )
    def test_what_is_no_route_of_its_namespace_does_not_keep_it(self, text: str) -> None:
        folder = self.edited(r=None, x=text)

        assert (folder.closing.held_back, ROUTE in folder) == ({}, False)

    def test_a_removal_that_is_held_back_no_more_stays_refused_until_the_edit_is_whole(self) -> None:
        """Its policy is for another route by now, so it would be open."""
        folder = self.edited(r=None, x=self.served("x").replace("rules", "rulse"))
        folder.update("q", policy("x").replace("name: p", "name: q"))

        for path, text in {"x": self.served("x"), "o": None}.items():
            for _ in folder.stage(path, text):
                pass
        folder.commit(Unfinished())

        assert (ROUTE in folder.waiting, folder.closing.shut, folder.diagnostics()) == (True, {ROUTE}, ())

        folder.commit()
        assert (folder.closing.shut, ROUTE in folder) == (frozenset(), False)

    @pytest.mark.parametrize("other", [None, "x"])
    def test_a_route_in_its_last_good_state_keeps_its_policy(self, other: str | None) -> None:
        """The policy goes, or names another route; that one waits as well, since it would be open."""
        edit = {"r": self.served("r").replace("rules", "rulse"), "q": None}
        if other is not None:
            edit |= {"x": self.served(other), "q": policy(other).replace("name: p", "name: q")}
        folder = self.edited(**edit)

        q, x = Ref.of(SecurityPolicy, "default", "q"), Ref.of(HTTPRoute, "default", "x")
        assert folder.closing.held_back == ({q: True} if other is None else {q: False, x: False})
        assert (q in folder, x in folder) == (True, False)

        folder.update("r", self.served("r"))
        assert (folder.closing.held_back, q in folder, x in folder) == (
            {},
            other is not None,
            other is not None,
        )

    def test_all_else_is_in_force(self) -> None:
        """A fault hurts nothing that takes no requests from a policy: a new backend, a route that is changed,
        an unguarded one that is removed, and a policy that is removed while only a route has a fault, or a
        Backend beside another policy that is changed."""
        folder = self.edited(p=policy("r").replace(*self.FAULT), b=backend("b"), r=self.served("r", "b"))
        assert (B in folder, folder.closing.held_back, folder.closing.shut) == (True, {}, frozenset())

        folder = self.edited(q=None, o=self.served("o").replace("rules", "rulse"))
        assert (Ref.of(SecurityPolicy, "default", "q") in folder, folder.closing.held_back) == (False, {})

        changed = policy("o").replace("'*'", "'http://a.test'")
        folder = self.edited(q=None, p=stream(changed, backend("b") + "\t"))
        assert (Ref.of(SecurityPolicy, "default", "q") in folder, folder.closing.held_back) == (False, {})


class TestAtTheStart:
    """A policy that cannot be read at the start closes its routes; an edit comes one file at a time."""

    def closed(self) -> Folder:
        folder = Folder(strict=True)
        folder.update_many({"p.yaml": f"{policy('r')}\t", "r.yaml": route("r", "a"), "b.yaml": backend("a")})
        assert folder.closing.closed == ("",)
        return folder

    @pytest.mark.parametrize("between", [None, "", "# to do\n"])
    def test_what_is_closed_is_not_open_while_its_file_is_replaced(self, between: str | None) -> None:
        """An editor removes a file, or empties it, before it writes it anew."""
        folder = self.closed()

        for _ in folder.stage("p.yaml", between):
            pass
        folder.commit(Unfinished())
        assert (folder.closing.closed, list(folder.closing.reopening)) == (("",), ["p.yaml"])
        for _ in folder.stage("p.yaml", policy("r")):
            pass
        batch = folder.commit(Unfinished())

        assert [ref.kind for ref in batch] == ["SecurityPolicy"]
        assert (folder.closing.closed, list(folder.closing.reopening)) == ((), [])

    def test_a_policy_that_comes_while_moongate_starts_closes_as_one_that_was_there(self) -> None:
        """Its file was away for a moment, as it is written anew."""
        folder = Folder(strict=True)
        folder.update_many({"r.yaml": route("r", "a"), "b.yaml": backend("a")})

        for _ in folder.stage("p.yaml", f"{policy('r')}\t"):
            pass
        folder.commit(Unfinished(), begins=False)
        assert folder.closing.closed == ("",)

        assert len(folder.update("p.yaml", policy("r"))) == 1
        assert (folder.closing.closed, folder.closing.shut) == ((), frozenset())

    def test_what_is_closed_is_open_when_its_file_is_gone(self) -> None:
        folder = self.closed()

        for _ in folder.stage("p.yaml", None):
            pass
        folder.commit(Unfinished())
        folder.commit()

        assert (folder.closing.closed, folder.closing.at_start) == ((), False)

    def test_what_is_closed_is_not_open_while_the_policy_that_was_mended_waits(self) -> None:
        """Another policy goes at the same time, so all changes wait."""
        folder = self.closed()
        folder.update("other.yaml", policy("r").replace("name: p", "name: q"))

        for path, text in {"p.yaml": policy("r"), "other.yaml": None}.items():
            for _ in folder.stage(path, text):
                pass
        assert folder.commit(Unfinished()) == {}
        assert folder.closing.closed == ("",)

        assert len(folder.commit()) == 2
        assert folder.closing.closed == ()

    @pytest.mark.parametrize("fault", [route("r", "a") + "\t", route("r", "a").replace("rules", "rulez")])
    def test_a_route_that_cannot_be_read_closes_the_namespace_of_its_policy(self, fault: str) -> None:
        """Another route may take its requests, and is not protected by the policy."""
        folder = Folder(strict=True)
        folder.update_many({"w.yaml": route("w", "a"), "p.yaml": policy("r"), "r.yaml": fault})

        assert folder.closing.closed == ("default",)
        assert "other routes would take its requests" in folder.diagnostics()[0].effect
        folder.update("r.yaml", route("r", "a"))
        assert folder.closing.closed == ()

    @pytest.mark.parametrize("target", ["w", "r"])
    def test_a_route_that_cannot_be_read_closes_nothing_if_no_policy_misses_one(self, target: str) -> None:
        folder = Folder(strict=True)
        fault = route("r", "a").replace("rules", "rulez")
        files = {"w.yaml": route("w", "a"), "p.yaml": policy(target), "r.yaml": fault}
        if target == "r":
            files["p.yaml"] = backend("a")

        folder.update_many(files)

        assert folder.closing.closed == ()

    def test_a_policy_that_is_defined_twice_in_two_ways_closes_its_namespace(self) -> None:
        """It was copied for another route, and kept its name; the copy comes first by its path."""
        folder = Folder(strict=True)
        folder.update_many({"z": policy("r"), "a": policy("o"), "r": route("r", "a"), "o": route("o", "a")})

        assert folder.closing.closed == ("default",)
        [fault] = folder.diagnostics()
        assert "all requests to the routes and Gateways of namespace default are answered" in fault.effect
        folder.update("a", policy("r"))
        assert folder.closing.closed == (), "both say the same"
        folder.update("a", policy("o").replace("name: p}", "name: q}"))
        assert (folder.closing.closed, folder.diagnostics()) == ((), ())

    def test_a_policy_that_is_sound_in_another_file_closes_nothing(self) -> None:
        folder = Folder(strict=True)
        folder.update_many(
            {"p.yaml": policy("r"), "q.yaml": policy("r").replace("kind: HTTPR", "kind: HttpR")}
        )

        assert folder.closing.closed == ()


GATEWAY = (
    "{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: g}, spec: {"
    "gatewayClassName: moongate, listeners: [{name: http, port: 80, protocol: HTTP}]}}\n"
)
GRANT = (
    "{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g, namespace: z},"
    " spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}], "
    "to: [{group: gateway.envoyproxy.io, kind: Backend}]}}\n"
)
SECRET = "{apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {a: b}}\n"
SLICE = (
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s, labels: "
    "{kubernetes.io/service-name: s}}, addressType: IPv4, endpoints: []}\n"
)
ADDRESS = "endpoints: [{addresses: [127.0.0.1]}]"
BROKEN = f"{policy('r')}\t"
NEW = policy("o").replace("name: p}", "name: q}") + "\t"
"""A policy of another name that cannot be read."""
IN_NAMESPACE = policy("r").replace("kind: HTTPR", "kind: HttpR").replace("name: p}", "name: q, namespace: x}")


class TestLater:
    """One that comes later leaves alone what was served, and nothing is opened beside it."""

    def served(self, **files: str) -> Folder:
        folder = Folder(strict=True)
        folder.update_many({"r": route("r", "a"), "a": backend("a"), **files})
        assert not folder.diagnostics()
        return folder

    def test_a_new_route_is_refused_until_the_policy_can_be_read(self) -> None:
        folder = self.served()

        batch = folder.update_many({"p": BROKEN, "o": route("o", "a")})

        assert (set(batch), folder.closing.shut, folder.closing.closed) == ({OTHER}, {OTHER}, ())
        faults = {each.resource: str(each) for each in folder.diagnostics()}
        assert faults[OTHER].startswith(
            "o:1:1: HTTPRoute default/o: It is new, and not served until p is mended"
        )
        assert faults[OTHER].endswith("Requests to it are answered with 500.")
        assert "until this is fixed what is served stays as it was" in faults[None]
        assert set(folder.update("p", policy("o"))) == {POLICY}
        assert (folder.closing.shut, folder.diagnostics()) == (frozenset(), ())

    @pytest.mark.parametrize("gone", [None, "", "# to do\n"])
    def test_what_waits_for_the_end_of_the_edit_alone_is_not_said_to_wait_for_a_mend(
        self, gone: str | None
    ) -> None:
        """The file that cannot be read is mended already; a new route is refused still, which is said."""
        folder = self.served()
        folder.update_many({"p": BROKEN, "o": route("o", "a"), "r": route("r", "b")})

        for _ in folder.stage("p", gone):
            pass
        folder.commit(FileMayComeBack(), begins=False)

        assert (folder.closing.shut, folder.closing.held_back) == ({OTHER}, {ROUTE: False})
        [only] = map(str, folder.diagnostics())
        assert only == (
            "o:1:1: HTTPRoute default/o: It is new, and not served until the edit is whole: p could not be "
            "read, and may have said who may pass. Requests to it are answered with 500."
        )
        folder.commit()
        assert (folder.closing.shut, folder.closing.held_back) == (frozenset(), {})

    @pytest.mark.parametrize(
        "edit",
        [
            {"p": stream(policy("r").replace("'*'", "'http://x.test'"), NEW)},
            {"p": NEW, "o.yaml": policy("r")},
            {"p": policy("r") + "-- -\n" + NEW},
            {"p": Unreadable("The byte 0xfc is not UTF-8.", text=stream(policy("r"), NEW))},
        ],
        ids=["changed", "moved", "in the same document", "in the same text"],
    )
    def test_a_new_policy_is_not_taken_for_one_that_is_in_force(self, edit: dict[str, str]) -> None:
        """The other policy of its file is edited, or moves, together with it."""
        folder = self.served(p=policy("r"))
        folder.update_many(edit)

        folder.update("o", route("o", "a"))

        assert folder.closing.shut == {OTHER}
        assert POLICY in folder

    def test_it_does_not_matter_which_file_comes_first(self) -> None:
        folder = self.served()
        folder.update("p", BROKEN)
        assert folder.closing.shut == frozenset()

        folder.update("o", route("o", "a"))

        assert folder.closing.shut == {OTHER}

    @pytest.mark.parametrize("order", [1, -1])
    def test_the_files_of_one_edit_come_one_after_another(self, order: int) -> None:
        """What was in force for a moment is taken back."""
        folder = self.served(b=backend("b"), p=policy("w"))
        files = {
            "q": BROKEN.replace("name: p", "name: q"),
            "o": route("o", "a"),
            "r": route("r", "b"),
            "p": None,
        }
        seen: dict[Ref, object] = {}

        for n, path in enumerate([*files][::order]):
            for _ in folder.stage(path, files[path]):
                pass
            seen |= folder.commit(begins=n == 0)

        assert folder.closing.shut == {OTHER}
        assert set(folder.closing.held_back) == {ROUTE, POLICY}
        assert {ref: seen[ref] for ref in seen if seen[ref] is not None}.items() <= folder.resources.items()
        assert folder.resources[ROUTE] == self.served().resources[ROUTE]
        assert POLICY in folder

    def test_a_policy_of_the_same_edit_stays_in_force(self) -> None:
        folder = self.served()
        folder.update("p", policy("r"))
        for _ in folder.stage("p", BROKEN):
            pass

        assert folder.commit(begins=False) == {}
        assert POLICY in folder

    def test_a_second_policy_of_the_same_name_leaves_its_new_route_shut(self) -> None:
        folder = self.served(p=policy("r"))

        folder.update_many({"copy": policy("o"), "o": route("o", "a")})

        assert (folder.closing.shut, POLICY in folder) == ({OTHER}, True)
        folder.update("copy", policy("o").replace("name: p}", "name: q}"))
        assert (folder.closing.shut, folder.diagnostics()) == (frozenset(), ())

    def test_what_is_new_may_be_edited_and_removed(self) -> None:
        folder = self.served()
        folder.update_many({"p": BROKEN, "o": route("o", "a")})

        assert set(folder.update("o", route("o", "b"))) == {OTHER}
        assert folder.update("o", None) == {OTHER: None}
        assert folder.closing.shut == frozenset()

    def test_a_change_waits_and_is_in_force_together_with_the_policy(self) -> None:
        folder = self.served()

        assert folder.update_many({"p": BROKEN, "r": route("r", "b")}) == {}
        [change] = [each for each in folder.diagnostics() if each.resource == ROUTE]
        assert str(change).startswith("r:1:1: HTTPRoute default/r: This waits until p is mended")
        assert change.effect == "What was in force before stays so."
        assert set(folder.update("p", policy("r"))) == {ROUTE, POLICY}

    def test_a_change_that_is_taken_back_waits_no_more(self) -> None:
        folder = self.served()
        folder.update_many({"p": BROKEN, "r": route("r", "b")})

        folder.update("r", route("r", "a"))

        assert folder.closing.held_back == {}

    def test_a_route_that_is_removed_takes_its_requests_and_refuses_them(self) -> None:
        folder = self.served()

        assert folder.update_many({"p": BROKEN, "r": None}) == {}

        assert folder.closing.shut == {ROUTE}
        assert set(folder.update("p", policy("o"))) == {ROUTE, POLICY}
        assert (folder.closing.shut, ROUTE in folder) == (frozenset(), False)

    def test_a_route_whose_file_is_replaced_is_served_meanwhile(self) -> None:
        """An editor removes a file before it writes it anew."""
        folder = self.served()
        folder.update("p", BROKEN)

        for _ in folder.stage("r", None):
            pass
        assert folder.commit(Unfinished()) == {}

        assert folder.closing.shut == frozenset()
        assert list(folder.waiting) == [ROUTE]

    def test_a_removal_that_is_held_back_delays_no_other_change(self) -> None:
        folder = self.served()
        folder.update_many({"p": BROKEN, "r": None})

        for _ in folder.stage("a", backend("a", 2)):
            pass

        assert list(folder.commit(Unfinished())) == [A]
        assert folder.waiting == {}

    @pytest.mark.parametrize("later", [{"p": None}, {"p": policy("r").replace("p}", "other}")}])
    def test_a_policy_stays_in_force(self, later: dict[str, str | None]) -> None:
        """It may be that the document which cannot be read takes its place."""
        folder = self.served(p=policy("r"))

        batch = folder.update_many({**later, "q": BROKEN.replace("name: p", "name: q")})

        assert POLICY not in batch
        assert POLICY in folder

    def test_another_policy_is_in_force_at_once_and_may_be_edited(self) -> None:
        folder = self.served()
        folder.update("q", BROKEN)

        assert set(folder.update("p", policy("r"))) == {POLICY}
        assert set(folder.update("p", policy("o"))) == {POLICY}

    @pytest.mark.parametrize(
        ("before", "after", "waits"),
        [
            ({}, {"b": backend("b")}, False),
            ({"o": route("o", "b")}, {"b": backend("b")}, True),
            ({}, {"a": backend("a", 2)}, False),
            ({}, {"g": GRANT}, True),
            ({"g": GRANT}, {"g": None}, False),
            ({}, {"s": SECRET}, False),
            ({"s": SECRET}, {"s": SECRET.replace("b}", "c}")}, False),
            ({"g": GATEWAY}, {"g": GATEWAY.replace("80", "81")}, True),
            ({"s": SLICE}, {"s": SLICE.replace("endpoints: []", ADDRESS)}, True),
            ({"s": SLICE.replace("endpoints: []", ADDRESS)}, {"s": SLICE}, False),
        ],
    )
    def test_what_could_let_more_requests_through_waits(
        self, before: dict[str, str], after: dict[str, str | None], *, waits: bool
    ) -> None:
        folder = self.served(**before)

        batch = folder.update_many({"p": BROKEN, **after})

        assert (not batch) == waits == bool(folder.closing.held_back)

    @pytest.mark.parametrize(
        ("after", "shut", "waits"),
        [
            ({"o": route("o", "a")}, False, False),
            ({"o": route("o", "a").replace("o}", "o, namespace: x}")}, True, False),
            ({"g": GATEWAY}, False, False),
            ({"r": route("r", "b")}, False, False),
            ({"g": GRANT}, False, True),
            ({"x": backend("b").replace("name: b", "name: b, namespace: x")}, False, False),
        ],
    )
    def test_one_of_a_namespace_concerns_only_that(
        self, after: dict[str, str | None], *, shut: bool, waits: bool
    ) -> None:
        folder = self.served()

        folder.update_many({"p": IN_NAMESPACE, **after})

        assert (bool(folder.closing.shut), bool(folder.closing.held_back)) == (shut, waits)

    def test_a_gateway_elsewhere_is_refused_if_a_route_of_the_namespace_waits_for_it(self) -> None:
        at_gateway = (
            route("o", "a")
            .replace("o}", "o, namespace: x}")
            .replace("spec: {", "spec: {parentRefs: [{name: g, namespace: default}], ")
        )
        folder = self.served(o=at_gateway)

        folder.update_many({"p": IN_NAMESPACE, "g": GATEWAY})

        assert folder.closing.shut == {Ref.of(Gateway, "default", "g")}

    def test_a_last_good_state_holds_nothing_back(self) -> None:
        folder = self.served(p=policy("r"))

        batch = folder.update_many({"p": BROKEN, "o": route("o", "a"), "r": route("r", "b")})

        assert set(batch) == {OTHER, ROUTE}
        assert folder.closing.shut == frozenset()

    def test_a_new_file_that_cannot_be_opened_holds_back_too(self) -> None:
        folder = self.served()

        folder.update("o", route("o", "a"))
        for path, state in {"p": Unreadable("No."), "m": route("m", "a")}.items():
            for _ in folder.stage(path, state):
                pass
        folder.commit()

        assert {ref.name for ref in folder.closing.shut} == {"m"}

    def test_what_is_refused_is_not_served_while_the_file_of_the_policy_is_replaced(self) -> None:
        folder = self.served(b=backend("b"))
        folder.update_many({"p": BROKEN, "o": route("o", "a"), "r": route("r", "b")})

        for _ in folder.stage("p", None):
            pass
        assert folder.commit(Unfinished()) == {}
        assert (folder.closing.shut, list(folder.closing.held_back)) == ({OTHER}, [ROUTE])
        for _ in folder.stage("p", policy("o")):
            pass

        assert set(folder.commit(Unfinished())) == {ROUTE, POLICY}
        assert folder.closing.shut == frozenset()

    def test_who_asks_for_it_has_all_in_force(self) -> None:
        folder = Folder()
        folder.update("r", route("r", "a"))

        folder.update_many({"p": BROKEN, "o": route("o", "a"), "r": route("r", "b")})

        assert (folder.closing.shut, folder.closing.held_back) == (frozenset(), {})


documents = st.sampled_from(
    [
        *(route(name, to) for name in "ro" for to in "ab"),
        *(policy(name) for name in "ro"),
        policy("r").replace("name: p", "name: q"),
        BROKEN,
        BROKEN.replace("name: p", "name: q"),
        policy("r").replace("kind: HTTPR", "kind: HttpR"),
        route("r", "a") + "\t",
        backend("a"),
        backend("b"),
        GATEWAY,
    ]
)
edits = st.dictionaries(
    st.sampled_from("xyz"), st.none() | st.lists(documents, max_size=3).map(lambda d: stream(*d)), max_size=3
)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.lists(st.tuples(st.booleans(), edits), max_size=6))
def test_nothing_is_opened_while_a_policy_cannot_be_read(
    history: list[tuple[bool, dict[str, str | None]]],
) -> None:
    """Each route and Gateway is as it was before the edit, or refuses all requests; each policy is as it was,
    or new. When all can be read again, what waited is in force. The batches say all that."""
    folder = Folder(strict=True)
    closing = folder.closing
    before: dict[Ref, Resource] = {}
    seen: dict[Ref, Resource | None] = {}
    for begins, edit in history:
        if begins and not any(closing.suspects.values()):
            before = {**folder.resources}
        started = not closing.at_start
        for path, text in edit.items():
            for _ in folder.stage(path, text):
                pass
        seen |= folder.commit(begins=begins)
        folder.diagnostics()
        now = folder.resources
        assert {ref: new for ref, new in seen.items() if new is not None} == now
        if not any(closing.suspects.values()):
            assert not closing.closed
            assert closing.outdated or (closing.shut, closing.held_back) == (frozenset(), {})
        elif not closing.closed:
            assert started
            assert all(before.get(r) == now[r] for r in now if is_entrance(r) and r not in closing.shut)
            assert all(now.get(r) is not None for r in before if is_guard(r) or is_entrance(r))
            assert all(now[r] == before[r] or r in closing.shut for r in before if is_entrance(r))
        if not started:
            before = {**now}

    files = {path: text for _, edit in history for path, text in edit.items()}
    fresh = Folder()
    fresh.update_many(files)
    if not fresh.diagnostics():
        assert folder.resources == fresh.resources
        assert folder.diagnostics() == ()
