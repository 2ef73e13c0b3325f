"""Patches that Envoys refuse: found alone, whatever they change, and the resource goes on without them.

Envoys are played: each takes a resource or refuses it as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption, Metadata
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.struct_pb2 import Struct as ProtobufStruct
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from moongate.api.backend import Backend, BackendEndpoint, FQDNEndpoint
from moongate.quarantine import Quarantine
from moongate.world import World
from moongate.xds.wire import CLUSTER, LISTENER, ROUTE, XdsResource
from tests import patching, worlds
from tests.patching import patch
from tests.refusing import WORDS, finished

if TYPE_CHECKING:
    from moongate.xds.patches import Patch

FLEET = worlds.EG_FLEET
SHARED = "backend/default/s0/8080/http"
TABLE = PORT = "default/eg/http"
BAD = "bad"
"""A header or name that Envoys of these tests refuse."""


def metadata(*names: str) -> Metadata:
    return Metadata(filter_metadata={name: ProtobufStruct() for name in names if name})


def of_cluster(owner: str, name: str) -> Patch:
    return patch(owner, Cluster(metadata=metadata(name)))


def of_table(owner: str, name: str) -> Patch:
    option = HeaderValueOption(header=HeaderValue(key="x", value=name))
    return patch(owner, RouteConfiguration(response_headers_to_add=[option] * bool(name)))


def of_listener(owner: str, name: str) -> Patch:
    return patch(owner, Listener(metadata=metadata(name)))


OF = {CLUSTER: of_cluster, ROUTE: of_table, LISTENER: of_listener}
AT = {CLUSTER: SHARED, ROUTE: TABLE, LISTENER: PORT}


def patches_in(resource: XdsResource) -> list[str]:
    """The names that patches have added to a resource."""
    if resource.type_url == ROUTE:
        table = RouteConfiguration.FromString(resource.body)
        return [each.header.value for each in table.response_headers_to_add]
    of = {CLUSTER: Cluster, LISTENER: Listener}[resource.type_url]
    return sorted(of.FromString(resource.body).metadata.filter_metadata)


def dislikes(resource: XdsResource) -> bool:
    """An Envoy that refuses what a patch has given a bad name, and tables with a bad path."""
    table = (
        RouteConfiguration.FromString(resource.body) if resource.type_url == ROUTE else RouteConfiguration()
    )
    paths = [route.match.path_separated_prefix for host in table.virtual_hosts for route in host.routes]
    return f"/{BAD}" in paths or any(name.startswith(BAD) for name in patches_in(resource))


def takes_all(_resource: XdsResource) -> bool:
    return False


class Fleet:
    """A World with two routes, and the Envoys of its one fleet."""

    def __init__(self, *paths: str, envoys: int = 1) -> None:
        self.world = World(patches=patching.TRIAL)
        self.quarantine = Quarantine(self.world)
        self.refuses: dict[str, Callable[[XdsResource], bool]] = {f"e{n}": dislikes for n in range(envoys)}
        self.in_envoys: dict[tuple[str, str, str], XdsResource] = {}
        """What each Envoy has taken, by node, type and name."""
        self.answered: dict[tuple[str, str, str], str] = {}
        self.answers = 0
        self.watch: Callable[[], None] = lambda: None
        """Called after each answer."""
        for node in self.refuses:
            self.quarantine.connected(FLEET, node)
        paths = paths or ("/a", "/b")
        resources = [
            worlds.gateway_class(),
            worlds.gateway(),
            *(worlds.backend(n) for n in range(len(paths))),
            *(worlds.route(n, path, kind=Backend.KIND) for n, path in enumerate(paths)),
        ]
        self.world.apply({each.ref: each for each in resources})

    def patch(self, type_url: str, *patches: Patch) -> None:
        """Patch the resource of a type, and no other; and settle."""
        patching.put(self.world, type_url, AT[type_url], *patches)
        self.settle()

    def settle(self) -> None:
        again = True
        while again:
            self.world.pull()
            again = finished(self.quarantine.review()) or self._answer()

    def _answer(self) -> bool:
        news = False
        for node, refuses in self.refuses.items():
            for type_url, name in AT.items():
                key, at = (node, type_url, name), (FLEET, type_url, name)
                resource = self.world.resource(*at)
                if resource is None or self.answered.get(key) == resource.version:
                    continue
                self.answers, news = self.answers + 1, True
                assert self.answers < 1000, "the search does not come to an end"
                self.answered[key] = resource.version
                if refuses(resource):
                    self.quarantine.refused(FLEET, node, type_url, name, resource.version, WORDS)
                else:
                    self.in_envoys[key] = resource
                    self.quarantine.acknowledged(FLEET, node, type_url, name, resource.version)
                self.watch()
        return news

    def in_force(self, type_url: str, node: str = "e0") -> list[str]:
        """What patches of a resource an Envoy has in force."""
        return patches_in(self.in_envoys[node, type_url, AT[type_url]])

    def is_as_built(self, type_url: str) -> bool:
        """Whether an Envoy has a resource as it is without any patch."""
        cold = World.of(self.world.store.resources().values()).resource(FLEET, type_url, AT[type_url])
        return cold is not None and self.in_envoys["e0", type_url, AT[type_url]].body == cold.body

    def blamed(self) -> set[str]:
        """The resources that are told to be refused."""
        return {ref.name for refusal in self.quarantine.refusals() for ref in refusal.resources}


every_type = pytest.mark.parametrize("type_url", AT, ids=["cluster", "table", "listener"])


@every_type
def test_a_patch_that_is_refused_is_withheld_and_its_resource_goes_on_unpatched(type_url: str) -> None:
    fleet = Fleet()
    fleet.settle()

    fleet.patch(type_url, OF[type_url]("one", BAD))

    assert fleet.is_as_built(type_url)
    (refusal,) = fleet.quarantine.refusals()
    kind = type_url.rpartition(".")[2]
    where = f"{kind} {AT[type_url]}"
    assert refusal.what == f"patch spec.jsonPatches[0] of EnvoyPatchPolicy default/one on {where}"
    assert [ref.name for ref in refusal.resources] == ["one"]
    assert refusal.message == WORDS


@every_type
def test_a_patch_that_is_there_from_the_start_is_found_as_well(type_url: str) -> None:
    """Nothing was ever good, so everything is suspect."""
    fleet = Fleet()

    fleet.patch(type_url, OF[type_url]("one", BAD))

    assert fleet.blamed() == {"one"}
    assert fleet.is_as_built(type_url)


@every_type
def test_of_several_patches_only_the_one_at_fault_is_withheld(type_url: str) -> None:
    fleet = Fleet()
    fleet.settle()

    fleet.patch(type_url, *(OF[type_url](f"p{n}", BAD if n == 5 else f"{n}") for n in range(8)))

    assert fleet.blamed() == {"p5"}
    assert fleet.in_force(type_url) == ["0", "1", "2", "3", "4", "6", "7"]


@every_type
def test_a_patch_that_is_mended_is_in_force(type_url: str) -> None:
    fleet = Fleet()
    fleet.patch(type_url, OF[type_url]("one", BAD))

    fleet.patch(type_url, OF[type_url]("one", "good"))

    assert fleet.in_force(type_url) == ["good"]
    assert fleet.blamed() == set()


@every_type
def test_a_patch_that_is_edited_and_refused_stays_in_its_last_good_form(type_url: str) -> None:
    """It may be there to keep strangers out."""
    fleet = Fleet()
    fleet.patch(type_url, OF[type_url]("one", "good"))

    fleet.patch(type_url, OF[type_url]("one", BAD))

    assert fleet.in_force(type_url) == ["good"]
    assert fleet.blamed() == {"one"}


@every_type
def test_a_refused_patch_that_is_taken_back_is_no_longer_told(type_url: str) -> None:
    fleet = Fleet()
    fleet.patch(type_url, OF[type_url]("one", BAD))

    fleet.patch(type_url)

    assert fleet.blamed() == set()
    assert fleet.is_as_built(type_url)
    fleet.patch(type_url, OF[type_url]("one", BAD))
    assert fleet.blamed() == {"one"}, "it is tried again"


def test_a_bad_route_of_a_patched_table_is_the_culprit_and_not_the_patch() -> None:
    fleet = Fleet("/a", f"/{BAD}", "/c")

    fleet.patch(ROUTE, of_table("one", "1"))

    assert fleet.blamed() == {"r1"}
    assert fleet.in_force(ROUTE) == ["1"]


def test_a_bad_route_and_a_bad_patch_are_both_found() -> None:
    fleet = Fleet("/a", f"/{BAD}", "/c", "/d")

    fleet.patch(ROUTE, of_table("one", BAD), of_table("two", "2"))

    assert fleet.blamed() == {"r1", "one"}
    assert fleet.in_force(ROUTE) == ["2"]


@pytest.mark.parametrize("afterwards", [False, True], ids=["at the start", "later"])
def test_no_new_route_is_in_force_while_a_patch_of_its_table_is_in_doubt(*, afterwards: bool) -> None:
    """The patch may be there to keep strangers out."""
    fleet = Fleet("/a", "/b")
    if afterwards:
        fleet.settle()
        backend, route = worlds.backend(2), worlds.route(2, "/c", kind=Backend.KIND)
        fleet.world.apply({backend.ref: backend, route.ref: route})
    known = {"/a", "/b"} if afterwards else set[str]()
    unguarded: list[set[str]] = []

    def watch() -> None:
        table = fleet.in_envoys.get(("e0", ROUTE, TABLE))
        if table is not None and "guard" not in patches_in(table):
            hosts = RouteConfiguration.FromString(table.body).virtual_hosts
            routes = [route for host in hosts for route in host.routes]
            unguarded.append({r.match.path_separated_prefix for r in routes if r.HasField("route")})

    fleet.watch = watch
    fleet.patch(ROUTE, of_table("one", "guard"), of_table("two", BAD))

    assert fleet.blamed() == {"two"}
    assert fleet.in_force(ROUTE) == ["guard"]
    assert all(paths <= known for paths in unguarded)


def test_while_a_patch_of_a_first_listener_is_in_doubt_that_is_known() -> None:
    """Its entries have to be tried first. Meanwhile no routes are handed out."""
    fleet = Fleet()
    doubts: list[tuple[bool, bool]] = []

    def watch() -> None:
        fleet.quarantine.has_patches_in_doubt(FLEET)
        port = fleet.in_envoys.get(("e0", LISTENER, PORT))
        if port is not None:
            doubts.append(("guard" in patches_in(port), fleet.quarantine.has_patches_in_doubt(FLEET)))

    fleet.watch = watch
    fleet.patch(LISTENER, of_listener("one", "guard"), of_listener("two", BAD))

    assert fleet.blamed() == {"two"}
    assert (False, True) in doubts
    assert (False, False) not in doubts
    assert not fleet.quarantine.has_patches_in_doubt(FLEET)


def by_dns(fleet: Fleet) -> None:
    """Change the cluster that is patched."""
    backend = worlds.backend(0)
    endpoint = BackendEndpoint(fqdn=FQDNEndpoint(hostname="a.test", port=8080))
    spec = structs.replace(backend.spec, endpoints=(endpoint,))
    fleet.world.apply({backend.ref: structs.replace(backend, spec=spec)})
    fleet.settle()


def is_by_dns(resource: XdsResource) -> bool:
    return b"a.test" in resource.body


def test_a_patch_that_no_longer_fits_its_cluster_is_withheld_until_it_does() -> None:
    """The patch did not change. The cluster did, and that cannot be kept out."""
    fleet = Fleet()

    fleet.patch(CLUSTER, of_cluster("one", "1"))
    assert fleet.in_force(CLUSTER) == ["1"]
    fleet.refuses["e0"] = lambda resource: is_by_dns(resource) and bool(patches_in(resource))

    by_dns(fleet)
    assert fleet.blamed() == {"one"}
    assert fleet.is_as_built(CLUSTER)

    backend = worlds.backend(0)
    fleet.world.apply({backend.ref: backend})
    fleet.settle()
    assert fleet.blamed() == set()
    assert fleet.in_force(CLUSTER) == ["1"]


def test_one_envoy_of_two_that_refuses_a_patch_keeps_it_out_for_both() -> None:
    fleet = Fleet(envoys=2)
    fleet.refuses["e1"] = takes_all

    fleet.patch(CLUSTER, of_cluster("one", BAD), of_cluster("two", "2"))

    assert fleet.blamed() == {"one"}
    assert fleet.in_force(CLUSTER, "e0") == fleet.in_force(CLUSTER, "e1") == ["2"]


def test_an_envoy_that_refuses_the_last_good_form_too_is_served_without_the_patch() -> None:
    """Another Envoy, in the place of the one that took it."""
    fleet = Fleet()
    fleet.patch(CLUSTER, of_cluster("one", "good"))
    fleet.patch(CLUSTER, of_cluster("one", BAD))
    fleet.quarantine.disconnected(FLEET, "e0")
    fleet.refuses = {"e1": lambda resource: b"good" in resource.body or dislikes(resource)}
    fleet.quarantine.connected(FLEET, "e1")

    fleet.settle()

    assert fleet.blamed() == {"one"}
    assert fleet.in_force(CLUSTER, "e1") == []


def test_a_patch_with_the_effect_of_a_former_one_is_known_as_another() -> None:
    """Envoy is sent nothing for it, so who is blamed later is what is there then."""
    fleet = Fleet()
    fleet.patch(CLUSTER, of_cluster("one", "good"))
    fleet.patch(CLUSTER, of_cluster("two", "good"))
    fleet.quarantine.disconnected(FLEET, "e0")
    fleet.refuses = {"e1": lambda resource: b"good" in resource.body}
    fleet.quarantine.connected(FLEET, "e1")

    fleet.settle()

    assert fleet.blamed() == {"two"}
    assert fleet.in_force(CLUSTER, "e1") == []


def test_a_cluster_that_is_refused_without_its_patch_as_well_does_not_go_on_for_ever() -> None:
    """Nobody can tell what of it is at fault. When it differs, the patch is tried again."""
    fleet = Fleet()
    fleet.refuses["e0"] = lambda resource: resource.type_url == CLUSTER and not is_by_dns(resource)

    fleet.patch(CLUSTER, of_cluster("one", "1"))
    assert not fleet.quarantine.is_searching(FLEET, CLUSTER, SHARED)

    by_dns(fleet)
    assert fleet.in_force(CLUSTER) == ["1"]
    assert fleet.blamed() == set()


def test_a_search_rests_while_the_resource_cannot_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a bug of moongate: what is handed out then is an older version, which says nothing of the new."""
    failed: list[str] = []
    edited = worlds.route(0, "/new", kind=Backend.KIND)

    def apply(resource: XdsResource | None, type_url: str, name: str, patch: Patch) -> XdsResource:
        assert resource is not None
        if resource.version != built:
            failed.append(resource.version)
            raise RuntimeError("a bug")
        return patching.apply(resource, type_url, name, patch)

    monkeypatch.setattr(patching, "TRIAL", structs.replace(patching.TRIAL, apply=apply))
    fleet = Fleet()
    fleet.settle()
    cold = World.of({**fleet.world.store.resources(), edited.ref: edited}.values()).resource(
        FLEET, ROUTE, TABLE
    )
    assert cold is not None
    built = cold.version

    fleet.world.apply({edited.ref: edited})
    fleet.patch(ROUTE, of_table("needy", BAD))

    assert failed
    assert not fleet.quarantine.is_searching(FLEET, ROUTE, TABLE)
    assert fleet.in_force(ROUTE) == []

    fleet.patch(ROUTE)
    assert fleet.is_as_built(ROUTE)
    assert fleet.blamed() == set()


def test_an_answer_about_a_patch_that_was_taken_back_meanwhile_is_no_matter() -> None:
    fleet = Fleet(envoys=2)
    fleet.patch(ROUTE, of_table("one", "good"))
    fleet.quarantine.refused(FLEET, "e1", ROUTE, TABLE, "of yesterday", WORDS)
    patching.put(fleet.world, ROUTE, TABLE, of_table("one", BAD))
    (sent,) = fleet.world.pull().put["default/eg"]
    assert not finished(fleet.quarantine.review())
    patching.put(fleet.world, ROUTE, TABLE)
    fleet.world.pull()

    fleet.quarantine.refused(FLEET, "e0", ROUTE, TABLE, sent.version, WORDS)

    assert not finished(fleet.quarantine.review())
    assert fleet.blamed() == set()


def test_nothing_is_kept_of_resources_that_are_not_patched() -> None:
    """There may be thousands of clusters."""
    fleet = Fleet()
    fleet.settle()
    assert not fleet.quarantine.searches(FLEET, CLUSTER, SHARED)
    before = fleet.quarantine.versions_kept()
    fleet.patch(CLUSTER, of_cluster("one", BAD))
    assert fleet.quarantine.searches(FLEET, CLUSTER, SHARED)

    fleet.patch(CLUSTER)

    assert fleet.quarantine.versions_kept() == before
    assert fleet.quarantine.facts_kept() == 0


@every_type
def test_a_patch_without_effect_is_no_hindrance(type_url: str) -> None:
    """Envoy is sent nothing for it, so it does not answer."""
    for patches in ((BAD, ""), ("", BAD), ("", ""), ("", BAD, "", BAD + "2", "")):
        fleet = Fleet()
        fleet.patch(type_url, *(OF[type_url](f"p{n}", name) for n, name in enumerate(patches)))

        assert fleet.blamed() == {f"p{n}" for n, name in enumerate(patches) if name}
        assert not fleet.quarantine.is_searching(FLEET, type_url, AT[type_url])


@pytest.mark.slow
@given(
    st.sampled_from(list(AT)),
    st.lists(st.sampled_from(("", BAD)), min_size=1, max_size=9),
    st.integers(1, 3),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_exactly_the_bad_patches_are_found_whichever_they_are(
    type_url: str, names: list[str], envoys: int, afterwards: bool
) -> None:
    fleet = Fleet(envoys=envoys)
    if afterwards:
        fleet.settle()

    fleet.patch(type_url, *(OF[type_url](f"p{n}", f"{name}{n}") for n, name in enumerate(names)))

    assert fleet.blamed() == {f"p{n}" for n, name in enumerate(names) if name}
    assert not fleet.quarantine.is_searching(FLEET, type_url, AT[type_url])
    for node in fleet.refuses:
        assert fleet.in_force(type_url, node) == [f"{n}" for n, name in enumerate(names) if not name]
