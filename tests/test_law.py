"""The law: an incremental world answers what a fresh one would, byte for byte, whatever way it came there.

HYPOTHESIS_PROFILE says how hard to try; an example costs some hundredths of a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moongate import names
from moongate.api.base import FleetId, Model, Ref, Resource, fields_of
from moongate.api.envoygateway import EnvoyGateway
from moongate.api.envoypatchpolicy import EnvoyPatchPolicy
from moongate.api.httproute import HTTPRoute
from moongate.api.policy import PolicyTargetReferences
from moongate.attach.fleets import fleets, keeps_what_it_has
from moongate.policies.backend_traffic_policy import BackendTrafficPolicySpec
from moongate.policies.client_traffic_policy import ClientTrafficPolicySpec
from moongate.world import Changes, World
from moongate.xds.wire import CLUSTER, ENDPOINT, LISTENER, XdsResource
from tests.strategies import (
    BASE,
    CLIENTS,
    TRAFFIC,
    Batch,
    batches,
    configs,
    deletes,
    histories,
    quic,
    renamed,
    resource,
)

law = settings(max_examples=max(4, settings().max_examples // 6))

Xds = dict[str, dict[tuple[str, str], XdsResource]]


def held_after(history: Iterable[Batch]) -> list[Resource]:
    """What is in force after some batches."""
    held: Batch = {}
    for batch in history:
        held |= batch
    return [each for each in held.values() if each is not None]


def world(config: EnvoyGateway | None, batch: Batch = BASE) -> World:
    return World.of([each for each in batch.values() if each is not None], config)


def assert_same(warm: World, cold: World) -> None:
    """They agree on every byte and every condition, and nothing in them failed."""
    assert differences(warm, cold) == []
    assert (warm.failures(), cold.failures()) == ({}, {})


def differences(warm: World, cold: World) -> list[str]:
    """What they disagree on, by name: what ``everything`` would show as megabytes.

    The Envoys of a Gateway that is rejected keep what they have, which is history; it is left out. So are the
    statuses of patches then, as they say whether there is what they patch.
    """
    lines: list[str] = []
    xds, fresh = flat(warm), flat(cold)
    for fleet in (xds.keys() | fresh.keys()) - {names.fleet(each) for each in frozen_fleets(warm)}:
        one, other = xds.get(fleet, {}), fresh.get(fleet, {})
        lines += [
            f"{fleet}: {key}: {one.get(key)} != {other.get(key)}"
            for key in one.keys() | other.keys()
            if one.get(key) != other.get(key)
        ]
    if not frozen_fleets(warm):
        limits, fresh_limits = warm.rate_limits(), cold.rate_limits()
        lines += [
            f"limits of {name}"
            for name in limits.keys() | fresh_limits.keys()
            if limits.get(name) != fresh_limits.get(name)
        ]
    statuses, fresh_statuses = (without_history(each.statuses(), warm) for each in (warm, cold))
    lines += [
        f"{ref}: {statuses.get(ref)} != {fresh_statuses.get(ref)}"
        for ref in statuses.keys() | fresh_statuses.keys()
        if statuses.get(ref) != fresh_statuses.get(ref)
    ]
    return sorted(lines)


@law
@given(configs, histories)
def test_incremental_equals_from_scratch(config: EnvoyGateway | None, history: list[Batch]) -> None:
    """After any history of edits, a warm world answers as a cold one would."""
    warm = world(config)
    for batch in history:
        warm.apply(batch)
        warm.pull()

    assert_same(warm, World.of(held_after([BASE, *history]), config))


@law
@given(configs, st.lists(st.tuples(batches, st.integers(0, 60), st.booleans()), min_size=1, max_size=6))
def test_slices_change_nothing(config: EnvoyGateway | None, history: list[tuple[Batch, int, bool]]) -> None:
    """Edits that arrive while the last ones are half digested lead to the same answers.

    What was taken in between, urgent or not, adds up to what there is.
    """
    warm, mirror = World(config), Mirror()
    for batch, steps, urgent in [(BASE, 50, False), *history]:
        warm.apply(batch)
        for _ in islice(warm.settle(urgent=urgent), steps):
            pass
        if urgent:
            mirror.take_urgent(warm)
        else:
            mirror.take(warm.take())
            assert mirror.xds == flat(warm)
            assert mirror.statuses == warm.statuses()
    mirror.take(warm.pull())

    assert_same(warm, World.of(held_after([BASE, *(batch for batch, _, _ in history)]), config))
    assert mirror.xds == flat(warm)
    assert mirror.statuses == warm.statuses()


@law
@given(configs, histories)
def test_all_but_endpoints_is_whole_while_endpoints_wait(
    config: EnvoyGateway | None, history: list[Batch]
) -> None:
    """What is handed out then names no cluster that is not there, and leaves none without endpoints."""
    warm, mirror = World(config), Mirror()
    for n, batch in enumerate([BASE, *history]):
        warm.apply(batch)
        for _ in warm.settle():
            pass
        mirror.take(warm.take())
        cold = World.of(held_after([BASE, *history][: n + 1]), config)
        # The Envoys of a Gateway that is rejected keep what they have, whatever that is.
        for fleet in flat(cold) if not frozen_fleets(warm) else ():
            handed_out, fresh = mirror.xds[fleet], flat(cold)[fleet]
            assert handed_out.keys() >= fresh.keys()
            assert handed_out.keys() - fresh.keys() <= {key for key in handed_out if key[0] == ENDPOINT}
            assert {k: r for k, r in handed_out.items() if k[0] != ENDPOINT} == {
                k: r for k, r in fresh.items() if k[0] != ENDPOINT
            }
        assert without_history(mirror.statuses, warm) == without_history(cold.statuses(), warm)


@law
@given(configs, histories, batches)
def test_undoing_an_edit_restores_the_bytes(
    config: EnvoyGateway | None, history: list[Batch], edit: Batch
) -> None:
    """There is nothing in a world but what follows from its resources.

    And what a rejected Gateway keeps: if it was acceptable with the edit, its Envoys have what was made of it
    then.
    """
    held = BASE | {ref: each for batch in history for ref, each in batch.items()}
    warm = world(config, held)
    fresh, nodes = world(config, held), len(warm.db)

    warm.apply(edit)
    warm.pull()
    warm.apply({ref: held.get(ref) for ref in edit})
    changes = warm.pull()

    left = len(warm.db) - nodes
    assert_same(warm, fresh)
    assert not left or frozen_fleets(warm), "an edit that was undone leaves nothing behind"
    assert not changes.fleets or any(ref.kind in {"Gateway", "GatewayClass", "EnvoyProxy"} for ref in edit)


@law
@given(configs, histories, st.randoms(use_true_random=False))
def test_the_order_of_a_batch_does_not_matter(
    config: EnvoyGateway | None, history: list[Batch], random: Any
) -> None:
    """Files are read in some order, an API server lists in another."""
    resources = held_after([BASE, *history])
    shuffled = list(resources)
    random.shuffle(shuffled)

    assert_same(World.of(shuffled, config), World.of(resources, config))


@law
@given(configs, batches, st.data())
def test_a_batch_that_is_split_gives_the_same(
    config: EnvoyGateway | None, batch: Batch, data: st.DataObject
) -> None:
    """Nor does it matter what arrives together."""
    first = data.draw(st.sets(st.sampled_from(sorted(batch)))) if batch else set[Ref]()
    whole, split = world(config), world(config)
    whole.apply(batch)
    whole.pull()

    for part in (first, batch.keys() - first):
        split.apply({ref: batch[ref] for ref in part})
        split.pull()

    assert_same(split, whole)


@law
@given(configs, histories)
def test_renaming_is_deleting_and_adding(config: EnvoyGateway | None, history: list[Batch]) -> None:
    """All resources of a kind move to other names, and back."""
    held = {each.ref: each for each in held_after([BASE, *history])}
    moved = [
        each
        for ref, each in held.items()
        if ref.kind in {"HTTPRoute", "GRPCRoute", "BackendTrafficPolicy", "Service"}
    ]
    assume(moved)
    warm = world(config, dict(held))
    before = warm.everything()
    away: Batch = {each.ref: None for each in moved}
    away |= {(other := renamed(each, f"{each.metadata.name}-moved")).ref: other for each in moved}

    warm.apply(away)
    warm.pull()
    assert_same(warm, World.of(held_after([dict(held), away]), config))

    warm.apply({ref: held.get(ref) for ref in away})
    warm.pull()
    assert warm.everything() == before


@law
@given(configs, configs, histories)
def test_another_configuration_takes_hold(
    before: EnvoyGateway | None, after: EnvoyGateway | None, history: list[Batch]
) -> None:
    """A changed configuration is an edit like any other."""
    resources = held_after([BASE, *history])
    warm = World.of(resources, before)

    warm.configure(after or EnvoyGateway.shipped())
    warm.pull()

    assert_same(warm, World.of(resources, after))


@law
@given(st.lists(deletes(), max_size=4), histories)
def test_nothing_is_left_when_all_is_deleted(gone: list[tuple[Ref, None]], history: list[Batch]) -> None:
    """What nobody needs is dropped: no fleet, no status, no node but those of an empty world."""
    warm = World()
    warm.pull()
    empty = len(warm.db)
    for batch in [BASE, *history, dict(gone)]:
        warm.apply(batch)
        warm.pull()

    warm.apply(dict.fromkeys(list(warm.store.resources())))
    warm.pull()

    assert warm.everything() == ({}, [], {})
    assert len(warm.db) == empty


def without_history(statuses: Mapping[Ref, Any], warm: World) -> dict[Ref, Any]:
    """Statuses without those that say what the Envoys of a rejected Gateway have."""
    frozen = frozen_fleets(warm)
    return {ref: status for ref, status in statuses.items() if not (frozen and ref.is_a(EnvoyPatchPolicy))}


def frozen_fleets(warm: World) -> list[FleetId]:
    """The fleets of Gateways that are rejected."""
    return [fleet for fleet in fleets(warm.db) if keeps_what_it_has(warm.db, fleet)]


class Mirror:
    """What a client knows that only receives differences."""

    def __init__(self) -> None:
        self.xds: Xds = {}
        self.statuses: dict[Ref, Any] = {}

    def take(self, changes: Changes) -> None:
        for fleet, gateway in changes.fleets.items():
            if gateway is not None:
                self.xds.setdefault(fleet, {})
        for fleet, gone in changes.gone.items():
            for key in gone:
                self.xds.get(fleet, {}).pop(key, None)
        for fleet, put in changes.put.items():
            self.xds[fleet] |= {(each.type_url, each.name): each for each in put}
        for fleet, gateway in changes.fleets.items():
            if gateway is None:
                assert not self.xds.pop(fleet, None), "a fleet that goes has nothing left"
        for ref, status in changes.statuses.items():
            self.statuses.pop(ref, None)
            if status is not None:
                self.statuses[ref] = status

    def take_urgent(self, warm: World) -> None:
        changes = warm.take(urgent=True)
        for fleet, put in changes.put.items():
            expected = endpoints_looked_for(self.xds[fleet])
            for each in put:
                assert each.type_url == ENDPOINT
                assert each.name in expected, "endpoints of a cluster that is not there yet"
        self.take(changes)


def endpoints_looked_for(resources: Mapping[tuple[str, str], XdsResource]) -> set[str]:
    """The names by which the clusters of a fleet look for their endpoints."""
    clusters = (Cluster.FromString(each.body) for (kind, _), each in resources.items() if kind == CLUSTER)
    return {each.eds_cluster_config.service_name or each.name for each in clusters}


def flat(warm: World) -> Xds:
    return {
        fleet: {(type_url, name): each for type_url, named in types.items() for name, each in named.items()}
        for fleet, types in warm.xds().items()
    }


def test_the_base_of_all_histories_works() -> None:
    """A law over worlds in which nothing is attached would prove little."""
    warm = world(None)

    assert warm.failures() == {}
    assert {t.rpartition(".")[2] for types in warm.xds().values() for t in types} == {
        "Listener", "RouteConfiguration", "Cluster", "ClusterLoadAssignment", "Secret",
    }  # fmt: skip


def test_the_histories_have_http3() -> None:
    """Beside the listeners of TCP there are those of UDP, also where two share a port."""
    warm = world(None, BASE | quic())

    assert warm.failures() == {}
    assert {name for kind, name in flat(warm)["default/eg"] if kind == LISTENER} == {
        f"default/eg/{name}" for name in ("web", "tls", "tls-quic", "raw", "raw-quic")
    }


@pytest.mark.parametrize(
    ("settings_of", "spec"),
    [(CLIENTS, ClientTrafficPolicySpec), (TRAFFIC, BackendTrafficPolicySpec)],
    ids=["clients", "traffic"],
)
def test_the_histories_set_every_field(settings_of: list[dict[str, Any]], spec: type[Model]) -> None:
    """What no history sets, no law tries."""
    targets = {each.encode_name for each in fields_of(PolicyTargetReferences)} | {"mergeType"}
    fields = {each.encode_name for each in fields_of(spec)} - targets

    assert fields - {name for each in settings_of for name in each} == set()


def test_a_gateway_that_is_rejected_again_keeps_what_it_had_in_between() -> None:
    """It does not matter that it was rejected before: what was made of it last stays in force."""
    sound, rejected = _sound_and_rejected()
    warm = world(None, BASE | {rejected.ref: rejected})
    assert not flat(warm)["default/eg"]

    warm.apply({sound.ref: sound})
    warm.pull()
    accepted = flat(warm)["default/eg"]
    warm.apply({rejected.ref: rejected})
    warm.pull()

    assert accepted
    assert flat(warm)["default/eg"] == accepted


def test_what_a_rejected_gateway_kept_goes_with_the_rejection() -> None:
    """Its Envoys keep all while it is rejected, and nothing longer: also what ended in the meantime."""
    sound, rejected = _sound_and_rejected()
    held: Batch = BASE | {sound.ref: sound}
    routes: Batch = {ref: None for ref in BASE if ref.kind == "HTTPRoute"}
    warm = world(None, held)
    before = flat(warm)

    warm.apply({rejected.ref: rejected, **routes})
    warm.pull()
    assert flat(warm)["default/eg"] == before["default/eg"]

    warm.apply({sound.ref: sound})
    warm.pull()
    assert_same(warm, world(None, held | routes))


def _sound_and_rejected() -> tuple[Resource, Resource]:
    """A Gateway, and the same with a reference that leads nowhere."""
    ep = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "gone"}
    spec = {"gatewayClassName": "eg", "listeners": [{"name": "web", "port": 80, "protocol": "HTTP"}]}
    sound = resource("Gateway", "default", "eg", {"spec": spec})
    rejected = resource(
        "Gateway", "default", "eg", {"spec": {**spec, "infrastructure": {"parametersRef": ep}}}
    )
    return sound, rejected


def test_a_backend_that_changes_hands_within_a_batch_keeps_its_cluster() -> None:
    """One shard of routes lets go of the cluster, another takes it up: Envoy sees neither."""
    routes = [resource for ref, resource in BASE.items() if ref == Ref.of(HTTPRoute, "default", "r0")]
    assert routes[0] is not None
    only = {ref: each for ref, each in BASE.items() if ref.kind != "HTTPRoute"} | {routes[0].ref: routes[0]}
    warm = world(None, only)
    clusters = set(warm.xds()["default/eg"][CLUSTER])

    for n in range(8):
        other = renamed(routes[0], f"r{n + 1}")
        warm.apply({renamed(routes[0], f"r{n}").ref: None, other.ref: other})
        warm.pull()

    assert set(warm.xds()["default/eg"][CLUSTER]) == clusters


def test_a_mirror_that_moves_to_another_backend_keeps_its_name_only() -> None:
    """Its cluster is named by the place of its filter, whatever it leads to."""

    def mirrored(service: str) -> Resource:
        rule = {
            "filters": [
                {
                    "type": "RequestMirror",
                    "requestMirror": {"backendRef": {"name": service, "port": 8080}},
                }
            ],
            "backendRefs": [{"name": "s0", "port": 8080}],
        }
        spec = {"parentRefs": [{"name": "eg"}], "rules": [rule]}
        return resource("HTTPRoute", "default", "r0", {"spec": spec})

    s1 = resource("Service", "default", "s1", {"spec": {"ports": [{"name": "http", "port": 8080}]}})
    e1 = resource(
        "EndpointSlice",
        "default",
        "e1",
        {
            "metadata": {"labels": {"kubernetes.io/service-name": "s1"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.9.9.9"]}],
            "ports": [{"name": "http", "port": 80}],
        },
    )
    held: Batch = BASE | {each.ref: each for each in (s1, e1, mirrored("s0"))}
    warm = world(None, held)

    edit: Batch = {(moved := mirrored("s1")).ref: moved}
    warm.apply(edit)
    warm.pull()

    assert_same(warm, world(None, held | edit))
