from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moongate.api.backend import Backend
from moongate.api.backendtlspolicy import BackendTLSPolicy, FaultyBackendTLSPolicy
from moongate.api.base import Ref, Resource
from moongate.api.core import EndpointSlice, Namespace
from moongate.policies.security_policy import FaultySecurityPolicy, SecurityPolicy
from moongate.sources.chunks import Place
from moongate.sources.diagnostics import Diagnostic
from moongate.sources.file_states import Unreadable
from moongate.sources.folder import STDIN, Folder
from tests.sources.manifests import Unfinished, backend, port, route, stream

A, B, C = (Ref.of(Backend, "default", name) for name in "abc")


def ports(folder: Folder) -> dict[str, int]:
    return {ref.name: port(resource) for ref, resource in folder.resources.items()}


def only(folder: Folder) -> Diagnostic:
    (diagnostic,) = folder.diagnostics()
    return diagnostic


class TestBatches:
    def test_a_file_brings_its_resources(self) -> None:
        folder = Folder()

        batch = folder.update("a.yaml", stream(backend("a"), backend("b")))

        assert set(batch) == {A, B}
        assert folder.diagnostics() == ()

    def test_an_edit_brings_what_it_changes_and_parses_nothing_else(self) -> None:
        documents = [backend(f"b{n}") for n in range(500)]
        folder = Folder()
        folder.update("a.yaml", stream(*documents))
        before = folder.parsed
        documents[250] = backend("b250", 9)

        batch = folder.update("a.yaml", stream(*documents))

        assert {ref.name: port(new) for ref, new in batch.items()} == {"b250": 9}
        assert folder.parsed - before == 1

    def test_a_text_that_is_gone_is_forgotten(self) -> None:
        folder = Folder()
        for number in range(1, 20):
            folder.update("a.yaml", backend("a", number))

        assert folder.remembered == 1

    def test_a_comment_above_changes_nothing(self) -> None:
        folder = Folder()
        folder.update("a.yaml", stream(backend("a"), backend("b")))

        assert folder.update("a.yaml", "# hello\n" + stream(backend("a"), backend("b"))) == {}
        assert folder.place(B, "spec.endpoints[0].ip.port") == Place("a.yaml", 20, 15)

    def test_a_file_that_goes_takes_its_resources_along(self) -> None:
        folder = Folder()
        folder.update("a.yaml", stream(backend("a"), backend("b")))

        assert folder.update("a.yaml", None) == {A: None, B: None}

    def test_renaming_a_file_touches_nothing(self) -> None:
        folder = Folder()
        folder.update("a.yaml", backend("a"))

        assert folder.update_many({"a.yaml": None, "z.yaml": backend("a")}) == {}
        assert folder.place(A) == Place("z.yaml", 1, 1)

    def test_resources_without_a_namespace_get_the_given_one(self) -> None:
        folder = Folder(namespace="shop")
        slice_ = (
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\naddressType: IPv4\n"
        )

        folder.update("a.yaml", stream(backend("a"), slice_))

        assert set(folder.resources) == {Ref.of(Backend, "shop", "a"), Ref.of(EndpointSlice, "shop", "s")}

    def test_lists_are_read_through(self) -> None:
        items = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in ("x", "y")]
        nested = {"apiVersion": "v1", "kind": "List", "items": items[1:]}
        folder = Folder()

        folder.update("a.json", json.dumps({"apiVersion": "v1", "kind": "List", "items": [items[0], nested]}))

        assert set(folder.resources) == {Ref.of(Namespace, "", "x"), Ref.of(Namespace, "", "y")}

    def test_the_list_of_one_kind_gives_it_to_its_items(self) -> None:
        folder = Folder()

        folder.update("a.yaml", "apiVersion: v1\nkind: NamespaceList\nitems:\n- metadata: {name: x}\n")

        assert set(folder.resources) == {Ref.of(Namespace, "", "x")}

    def test_standard_input_may_be_json(self) -> None:
        folder = Folder()
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}

        folder.update(
            STDIN, json.dumps(namespace, indent="\t") + json.dumps(namespace | {"metadata": {"name": "y"}})
        )

        assert len(folder.resources) == 2

    def test_the_configuration_is_handed_out_by_itself(self) -> None:
        folder = Folder()
        text = (
            "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyGateway\nprovider: {type: Kubernetes}\n"
        )

        batch = folder.update("a.yaml", text + "gateway:\n  controllerName: example.com/mine\n")

        assert batch == {}
        assert folder.configuration is not None
        assert folder.configuration.gateway.controller_name == "example.com/mine"


class TestPlaces:
    def test_what_is_only_written_with_a_fault_has_a_place(self) -> None:
        """Others may refer to it: it is not missing."""
        folder = Folder()
        folder.update("f.yaml", backend("a", "many"))

        assert folder.faulty_place(A) == Place("f.yaml", 4, 9)
        folder.update("f.yaml", backend("a"))
        assert folder.faulty_place(A) is None
        assert folder.faulty_place(B) is None


class TestLastGoodState:
    def test_a_faulty_document_keeps_its_resource_and_lets_the_others_go_on(self) -> None:
        folder = Folder()
        folder.update("a.yaml", stream(backend("a", 1), backend("b", 1)))

        batch = folder.update("a.yaml", stream(backend("a", "many"), backend("b", 2)))

        assert set(batch) == {B}
        assert ports(folder) == {"a": 1, "b": 2}
        assert only(folder).effect == "Its last good state stays in force."

    def test_a_file_that_does_not_parse_keeps_its_resources(self) -> None:
        folder = Folder()
        folder.update("a.yaml", stream(backend("a"), backend("b")))

        batch = folder.update("a.yaml", "kind: [")

        assert batch == {}
        assert only(folder).place.file == "a.yaml"
        assert only(folder).effect == (
            "The last good state of 2 resources stays in force: Backend default/a, Backend default/b."
        )

    def test_the_place_of_what_cannot_be_read_is_known(self) -> None:
        """What a reference does not find may be there; what is only faulty says itself what it is."""
        folder = Folder()
        folder.update("a.yaml", stream(backend("a", "many")))
        assert folder.unread_place() is None

        folder.update("c.yaml", "kind: [")
        folder.update("b.yaml", stream(backend("b", 1).replace("kind: Backend", "kind: Backand")))

        assert folder.unread_place() == ("b.yaml", 2, 7)
        folder.update("b.yaml", None)
        assert folder.unread_place() == ("c.yaml", 2, 1)

    def test_a_long_document_is_announced_before_it_is_read(self) -> None:
        """Whoever stages it can have a thread read it, so that other tasks go on."""
        folder, long = Folder(), f"# {'x' * 100_000}\n" + backend("b")

        assert list(folder.stage("a.yaml", stream(backend("a"), long))) == [False, True, False]
        assert set(folder.commit()) == {A, B}

    def test_a_document_that_moongate_fails_to_read_costs_nothing_but_itself(self) -> None:
        """Whatever a parser raises that nobody foresaw: the process and the other documents go on."""
        folder = Folder()
        folder.update("a.yaml", stream(backend("a", 1), backend("b", 1)))

        batch = folder.update("a.yaml", stream(backend("a\ud800"), backend("b", 2)))

        assert set(batch) == {B}
        assert ports(folder) == {"a": 1, "b": 2}
        assert "moongate failed to read this document: UnicodeEncodeError" in only(folder).problem.message

    def test_a_document_that_does_not_parse_keeps_what_it_may_have_been(self) -> None:
        """The text does not say which resource it was; the ones beside it go on."""
        folder = Folder()
        folder.update("a.yaml", stream(backend("a", 1), backend("b", 1)))

        folder.update("a.yaml", stream(backend("a", 2), "kind: ["))

        assert ports(folder) == {"a": 2, "b": 1}
        assert "1 resource stays in force: Backend default/b." in only(folder).effect

    def test_a_misspelt_kind_keeps_what_it_was(self) -> None:
        folder = Folder()
        folder.update("a.yaml", backend("a"))

        assert folder.update("a.yaml", backend("a").replace("kind: Backend", "kind: Backand")) == {}
        assert "Backend default/a" in only(folder).effect

    def test_what_is_kept_for_a_broken_file_goes_when_it_is_mended_without_it(self) -> None:
        folder = Folder()
        folder.update("a.yaml", stream(backend("a"), backend("b")))
        folder.update("a.yaml", "kind: [")
        folder.update("a.yaml", "kind: [ [")

        assert folder.update("a.yaml", backend("a")) == {B: None}
        assert folder.diagnostics() == ()

    def test_what_is_kept_for_a_broken_file_goes_with_the_file(self) -> None:
        folder = Folder()
        folder.update("a.yaml", backend("a"))
        folder.update("a.yaml", "kind: [")

        assert folder.update("a.yaml", None) == {A: None}

    @pytest.mark.parametrize("broken", ["kind: [", backend("a") + "\t", Unreadable("Denied.")])
    def test_what_is_kept_for_a_broken_file_stays_when_the_file_is_away_for_a_moment(
        self, broken: str | Unreadable
    ) -> None:
        """A build or ``git checkout`` writes the whole folder anew, or it is moved away and back."""
        folder = Folder()
        folder.update("a.yaml", backend("a"))
        folder.update("a.yaml", broken)

        assert edited(folder, {"a.yaml": None}, {"a.yaml": broken}) == {}
        assert only(folder).effect == "The last good state of 1 resource stays in force: Backend default/a."
        assert folder.update("a.yaml", backend("a")) == {}
        assert folder.update("a.yaml", None) == {A: None}

    @pytest.mark.parametrize("before", [backend("a") + "\t", backend("a")], ids=["broken", "sound"])
    @pytest.mark.parametrize("order", [1, -1])
    def test_what_is_in_a_broken_file_stays_when_the_file_is_renamed(self, before: str, order: int) -> None:
        """It may have been sound before, as with ``git merge`` of a branch that renames it."""
        folder = Folder()
        folder.update("a.yaml", backend("a"))
        folder.update("a.yaml", before)
        edits: list[dict[str, str | None]] = [{"a.yaml": None}, {"b.yaml": backend("a") + "\t"}]

        assert edited(folder, *edits[::order]) == {}
        assert only(folder).effect == "The last good state of 1 resource stays in force: Backend default/a."
        assert folder.update("b.yaml", backend("a") + "\t\t") == {}
        assert folder.update("b.yaml", backend("c")) == {A: None, C: folder.resources[C]}

    def test_what_moves_into_a_broken_file_stays(self) -> None:
        folder = Folder()
        folder.update_many({"a.yaml": stream(backend("a"), backend("b")), "b.yaml": backend("c")})

        assert (
            edited(folder, {"a.yaml": backend("b")}, {"b.yaml": stream(backend("c"), backend("a", "many"))})
            == {}
        )
        assert ports(folder) == {"a": 8080, "b": 8080, "c": 8080}

    @pytest.mark.parametrize(
        "broken", [backend("c") + "\t", route("r", "a") + "\t", "services: {a: {}}", "\ta"]
    )
    def test_what_goes_beside_a_broken_file_that_is_about_something_else_goes(self, broken: str) -> None:
        folder = Folder()
        folder.update("a.yaml", backend("a"))

        assert edited(folder, {"a.yaml": None}, {"b.yaml": broken}) == {A: None}

    def test_what_goes_in_a_later_edit_than_a_file_was_broken_goes(self) -> None:
        folder = Folder()
        folder.update("a.yaml", backend("a"))
        folder.update("b.yaml", backend("a") + "\t")

        assert folder.update("a.yaml", None) == {A: None}

    def test_a_file_that_cannot_be_read_keeps_its_resources(self) -> None:
        folder = Folder()
        folder.update("a.yaml", backend("a"))

        assert folder.update("a.yaml", Unreadable("The file cannot be read: permission denied.")) == {}
        assert str(only(folder)) == (
            "a.yaml:1:1: The file cannot be read: permission denied. "
            "The last good state of 1 resource stays in force: Backend default/a."
        )

    def test_a_new_resource_with_a_fault_is_not_in_force(self) -> None:
        folder = Folder()

        assert folder.update("a.yaml", backend("a", "many")) == {}
        assert folder.update("a.yaml", backend("a", 1)).keys() == {A}

    def test_a_resource_that_moves_while_its_file_is_broken_is_taken_from_where_it_is(self) -> None:
        folder = Folder()
        folder.update("a.yaml", backend("a", 1))
        folder.update("a.yaml", "kind: [")

        folder.update("b.yaml", backend("a", 2))

        assert ports(folder) == {"a": 2}
        assert only(folder).effect == "Nothing of this document is in force."


class TestRepetition:
    def test_the_first_stays_in_force_and_both_places_are_named(self) -> None:
        folder = Folder()
        folder.update("b.yaml", backend("a", 1))

        batch = folder.update("a.yaml", backend("a", 2))

        assert batch == {}
        assert str(only(folder)) == (
            "a.yaml:4:9: Backend default/a: metadata.name: Backend default/a is defined twice: here and at "
            "b.yaml:4:9. Keep one of the two. The definition at b.yaml:4:9 is in force."
        )

    def test_of_two_that_come_together_the_first_file_is_first(self) -> None:
        folder = Folder()

        folder.update_many({"b.yaml": backend("a", 2), "a.yaml": backend("a", 1)})

        assert ports(folder) == {"a": 1}

    def test_the_other_takes_over_when_the_first_goes(self) -> None:
        folder = Folder()
        folder.update("b.yaml", backend("a", 1))
        folder.update("a.yaml", backend("a", 2))

        assert set(folder.update("b.yaml", None)) == {A}
        assert ports(folder) == {"a": 2}
        assert folder.diagnostics() == ()

    def test_editing_the_one_in_force_stays_with_it(self) -> None:
        folder = Folder()
        folder.update("b.yaml", backend("a", 1))
        folder.update("a.yaml", backend("a", 2))

        folder.update("b.yaml", backend("a", 3))

        assert ports(folder) == {"a": 3}

    def test_two_in_one_file_are_reported_even_if_their_texts_are_equal(self) -> None:
        folder = Folder()

        folder.update("a.yaml", "---\n" + stream(backend("a"), backend("a")))

        assert only(folder).place == Place("a.yaml", 15, 9)
        assert "a.yaml:5:9" in only(folder).problem.message

    def test_two_configurations_are_reported(self) -> None:
        folder = Folder()
        text = (
            "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyGateway\nprovider: {type: Kubernetes}\n"
        )

        folder.update_many({"a.yaml": text, "b.yaml": text})

        assert only(folder).place.file == "b.yaml"


names = st.sampled_from(["a.yaml", "b.yaml", "c.yaml"])
documents = st.one_of(
    st.builds(backend, st.sampled_from("abc"), st.integers(1, 3)),
    st.builds(backend, st.sampled_from("abc"), st.just("many")),
    st.sampled_from(["kind: [\n", "# nothing\n"]),
)
edits = st.dictionaries(
    names, st.none() | st.lists(documents, max_size=4).map(lambda d: stream(*d)), max_size=3
)


@pytest.mark.slow
@settings(max_examples=150)
@given(st.lists(edits, max_size=6))
def test_after_any_history_the_batches_add_up_to_what_is_in_force(
    history: list[dict[str, str | None]],
) -> None:
    folder = Folder()
    in_force: dict[Ref, Resource | None] = {}

    for edit in history:
        in_force |= folder.update_many(edit)
        folder.diagnostics()

    assert {ref: new for ref, new in in_force.items() if new is not None} == folder.resources


@pytest.mark.slow
@settings(max_examples=150)
@given(st.lists(edits, max_size=6))
def test_without_faults_and_repetitions_history_does_not_matter(history: list[dict[str, str | None]]) -> None:
    folder = Folder()
    files: dict[str, str | None] = {}
    for edit in history:
        folder.update_many(edit)
        files |= edit
    fresh = Folder()
    fresh.update_many(files)

    if not fresh.diagnostics():
        assert folder.resources == fresh.resources
        assert folder.diagnostics() == ()


LOCKED = Ref.of(SecurityPolicy, "default", "locked")
ORIGINS = "cors: {allowOrigins: ['https://a.test']}"
SLIP = "cors: {allowOriginz: ['https://a.test']}"


def locked(settings: str, target: str = "kind: HTTPRoute, name: shop") -> str:
    return f"""
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {{name: locked}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, {target}}}]
  {settings}
"""


class TestBackendTLSPoliciesWithFaults:
    """Without it, requests would be sent in the clear."""

    def test_one_that_was_never_good_closes_what_it_targets(self) -> None:
        folder = Folder()

        closed = folder.update("a.yaml", to_be_secured("hostnam: a.io"))[SECURED]

        assert isinstance(closed, FaultyBackendTLSPolicy)
        assert [ref.name for ref in closed.spec.target_refs] == ["shop"]
        assert only(folder).effect == "Requests to its targets are answered with 500 until this is fixed."

    def test_once_mended_it_is_what_it_says(self) -> None:
        folder = Folder()
        folder.update("a.yaml", to_be_secured("hostnam: a.io"))

        mended = folder.update("a.yaml", to_be_secured("hostname: a.io, wellKnownCACertificates: System"))

        assert type(mended[SECURED]) is BackendTLSPolicy


def to_be_secured(validation: str) -> str:
    target = "{group: '', kind: Service, name: shop}"
    return (
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {name: tls}\n"
        f"spec: {{targetRefs: [{target}], validation: {{{validation}}}}}\n"
    )


SECURED = Ref.of(BackendTLSPolicy, "default", "tls")


class TestSecurityPoliciesWithFaults:
    """A slip in who may pass is not an open door, also where nothing good is known from before."""

    def test_one_that_was_never_good_closes_what_it_targets(self) -> None:
        folder = Folder()

        closed = folder.update("a.yaml", locked(SLIP))[LOCKED]

        assert isinstance(closed, FaultySecurityPolicy)
        assert [ref.name for ref in closed.spec.target_refs] == ["shop"]
        assert [fault.path for fault in closed.faults] == ["spec.cors.allowOriginz"]
        assert only(folder).effect == "Requests to its targets are answered with 500 until this is fixed."

    def test_once_mended_it_is_what_it_says(self) -> None:
        folder = Folder()
        folder.update("a.yaml", locked(SLIP))

        mended = folder.update("a.yaml", locked(ORIGINS))[LOCKED]

        assert type(mended) is SecurityPolicy

    def test_another_fault_is_reported_in_place_of_the_first(self) -> None:
        folder = Folder()
        folder.update("a.yaml", locked(SLIP))

        closed = folder.update("a.yaml", locked("basicAuth: {}"))[LOCKED]

        assert isinstance(closed, FaultySecurityPolicy)
        assert [fault.path for fault in closed.faults] == ["spec.basicAuth.users"]

    def test_one_that_was_good_stays_as_it_was(self) -> None:
        folder = Folder()
        folder.update("a.yaml", locked(ORIGINS))

        assert folder.update("a.yaml", locked(SLIP)) == {}

    def test_where_the_target_is_at_fault_nobody_knows_what_to_close(self) -> None:
        folder = Folder()

        assert folder.update("a.yaml", locked(ORIGINS, target="kind: Backend, name: shop")) == {}
        assert only(folder).effect == "It is not in force until this is fixed."


class TestNames:
    def test_a_resource_stays_whose_name_became_a_wrong_one(self) -> None:
        """It is not removed, as one of its kind in its file has a fault and no last good state."""
        folder = Folder()
        folder.update("a.yaml", stream(backend("a"), backend("b")))

        assert folder.update("a.yaml", stream(backend("A"), backend("b"))) == {}
        assert only(folder).effect == (
            "It is not in force until this is fixed. "
            "The last good state of 1 resource stays in force: Backend default/a."
        )
        assert folder.update("a.yaml", stream(backend("c"), backend("b")))[A] is None


def edited(folder: Folder, *edits: Mapping[str, str | Unreadable | None]) -> dict[Ref, Resource | None]:
    """What comes of an edit when it is whole, whose files come one after another."""
    batch: dict[Ref, Resource | None] = {}
    for number, files in enumerate(edits):
        for path, text in files.items():
            for _ in folder.stage(path, text):
                pass
        batch |= folder.commit(Unfinished(), begins=number == 0)
    return batch | folder.commit()
