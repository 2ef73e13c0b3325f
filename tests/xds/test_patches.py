"""Patches of resources, as entries that can be kept out."""

from __future__ import annotations

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from google.protobuf.duration_pb2 import Duration
from msgspec import structs

from moongate.api.backend import Backend, BackendEndpoint, FQDNEndpoint
from moongate.world import World
from moongate.xds.fallbacks import Fallback, withheld
from moongate.xds.patches import PATCHES, Form, Patch, differing
from moongate.xds.wire import CLUSTER, ROUTE, version
from tests import patching, worlds
from tests.patching import patch
from tests.worlds import EG_FLEET

SHARED = "backend/default/s0/8080/http"
TABLE = "default/eg/http"


def timeout(owner: str, seconds: int) -> Patch:
    return patch(owner, Cluster(connect_timeout=Duration(seconds=seconds)))


def header(owner: str, value: str) -> Patch:
    option = HeaderValueOption(header=HeaderValue(key="x", value=value))
    return patch(owner, RouteConfiguration(response_headers_to_add=[option]))


def world_with(type_url: str, name: str, *patches: Patch) -> World:
    world = World(patches=patching.TRIAL)
    world.apply({each.ref: each for each in worlds.routes_with_backends(1)})
    patching.put(world, type_url, name, *patches)
    world.pull()
    return world


def keep_out(world: World, type_url: str, name: str, **fallbacks: Patch | None) -> None:
    """Keep out the patches of these owners, with what stands in for each."""
    forms = {form.patch.owner.name: form for form in world.patches(EG_FLEET, type_url, name)}
    out = {forms[owner].version: Fallback(good, strict=True) for owner, good in fallbacks.items()}
    world.write(withheld(EG_FLEET, type_url, name, PATCHES), out)
    world.pull()


def seconds(world: World) -> int:
    cluster = world.resource(EG_FLEET, CLUSTER, SHARED)
    assert cluster is not None
    return Cluster.FromString(cluster.body).connect_timeout.seconds


def versions(world: World, type_url: str, name: str) -> list[str]:
    return [form.version for form in world.patches(EG_FLEET, type_url, name)]


def test_patches_are_applied_one_after_the_other() -> None:
    assert seconds(world_with(CLUSTER, SHARED, timeout("one", 1), timeout("two", 2))) == 2
    assert seconds(world_with(CLUSTER, SHARED, timeout("two", 2), timeout("one", 1))) == 1


def test_a_patch_that_is_kept_out_changes_nothing_and_the_others_do() -> None:
    world = world_with(CLUSTER, SHARED, timeout("one", 1), timeout("two", 2))

    keep_out(world, CLUSTER, SHARED, two=None)

    assert seconds(world) == 1


def test_the_last_good_form_of_a_patch_stands_in_for_it() -> None:
    """Before, Envoy had that in force, and it may be there to keep strangers out."""
    world = world_with(CLUSTER, SHARED, timeout("one", 1))

    keep_out(world, CLUSTER, SHARED, one=timeout("one", 3))

    assert seconds(world) == 3


def test_a_last_good_form_that_is_kept_out_itself_stands_in_for_nothing() -> None:
    world = world_with(CLUSTER, SHARED)
    unpatched = seconds(world)
    patching.put(world, CLUSTER, SHARED, timeout("one", 3))
    world.pull()
    (former,) = versions(world, CLUSTER, SHARED)
    patching.put(world, CLUSTER, SHARED, timeout("one", 1))
    world.pull()
    (now,) = versions(world, CLUSTER, SHARED)

    out = {now: Fallback(timeout("one", 3), strict=True), former: Fallback(None, strict=True)}
    world.write(withheld(EG_FLEET, CLUSTER, SHARED, PATCHES), out)
    world.pull()

    assert seconds(world) == unpatched


def test_a_patch_of_what_is_joined_is_the_same_whatever_that_becomes() -> None:
    """What is refused of a table may be one of its routes, which can be kept out."""
    world = world_with(ROUTE, TABLE, header("one", "1"))
    before = versions(world, ROUTE, TABLE)

    world.apply({each.ref: each for each in (worlds.route(1, kind=Backend.KIND), worlds.backend(1))})
    assert ROUTE in {resource.type_url for resource in world.pull().put["default/eg"]}

    assert versions(world, ROUTE, TABLE) == before


def test_a_patch_of_anything_else_is_another_when_that_differs() -> None:
    """Of a cluster nothing but its patches can be kept out, so it may be that they no longer fit."""
    world = world_with(CLUSTER, SHARED, timeout("one", 1))
    before = versions(world, CLUSTER, SHARED)
    patching.put(world, CLUSTER, SHARED, timeout("one", 1), timeout("two", 2))
    world.pull()
    assert versions(world, CLUSTER, SHARED)[:1] == before

    backend = worlds.backend(0)
    endpoint = BackendEndpoint(fqdn=FQDNEndpoint(hostname="a.test", port=8080))
    spec = structs.replace(backend.spec, endpoints=(endpoint,))
    world.apply({backend.ref: structs.replace(backend, spec=spec)})
    assert SHARED in {resource.name for resource in world.pull().put["default/eg"]}

    assert versions(world, CLUSTER, SHARED)[:1] != before


def form(of: Patch, patched: bytes = b"") -> Form:
    return Form(of, version(of.body + patched))


def test_a_suspect_is_what_the_good_version_does_not_have() -> None:
    """With its form there: of the same place of the same owner."""
    one, two, edited = (timeout(*each) for each in (("one", 1), ("two", 2), ("two", 3)))
    moved = patch("two", Cluster.FromString(edited.body), "spec.jsonPatches[1]")

    def suspected(*now: Form) -> list[Patch | None]:
        return [suspect.last_good for suspect in differing((form(one), form(two)), now)]

    assert suspected(form(two), form(one)) == []
    assert suspected(form(one), form(edited)) == [two]
    assert suspected(form(one), form(moved)) == [None]
    assert suspected(form(one, b"on another cluster"), form(two)) == [None], "it cannot stand in for itself"
