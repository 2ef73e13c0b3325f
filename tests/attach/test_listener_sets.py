"""Which ListenerSets a Gateway takes."""

from __future__ import annotations

from typing import Any

import pytest

from moongate.api.base import Ref
from moongate.api.listenerset import ListenerSet
from moongate.attach.listener_sets import gateway_of, owners, serving_gateway, set_refusal
from tests.core import EG, Core, allowing, dump, gateway, http, listener_set, load

MORE = Ref.of(ListenerSet, "default", "more")
SHOP = Ref.of(ListenerSet, "shop", "more")
NAMESPACE = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}}"


@pytest.mark.parametrize(
    ("allowed", "own", "other"),
    [
        ({}, False, False),
        ({"allowedListeners": allowing("None")}, False, False),
        ({"allowedListeners": allowing("Same")}, True, False),
        ({"allowedListeners": allowing("All")}, True, True),
        ({"allowedListeners": allowing("Selector", team="a")}, False, True),
        ({"allowedListeners": allowing("Selector")}, False, False),
    ],
)
def test_a_gateway_says_from_where_it_takes_sets(allowed: dict[str, Any], own: bool, other: bool) -> None:
    sets = listener_set(http("a")), listener_set(http("a"), namespace="shop")
    core = Core(gateway(http("web"), **allowed), NAMESPACE, *sets)

    taken = tuple(ref for ref, is_taken in [(MORE, own), (SHOP, other)] if is_taken)
    assert owners(core.db, EG) == (EG, *taken)
    assert [serving_gateway(core.db, ref) for ref in (MORE, SHOP)] == [
        EG if is_taken else None for is_taken in (own, other)
    ]
    refusals = [set_refusal(core.db, EG, ref) for ref in (MORE, SHOP)]
    assert [refusal is None for refusal in refusals] == [own, other]
    assert {refusal.reason for refusal in refusals if refusal is not None} <= {"NotAllowed"}


def test_the_gateway_comes_first_then_the_oldest_set() -> None:
    young = listener_set(http("a"), name="aaa", creationTimestamp="2025-01-01T00:00:00Z")
    old = listener_set(http("a"), name="zzz", creationTimestamp="2024-01-01T00:00:00Z")
    core = Core(gateway(http("web"), allowedListeners=allowing("All")), young, old)

    assert [ref.name for ref in owners(core.db, EG)] == ["eg", "zzz", "aaa"]


def test_a_set_without_a_gateway_of_ours_is_none_of_ours() -> None:
    core = Core(listener_set(http("a")), gateway(http("web"), gatewayClassName="other"))

    assert gateway_of(core.db, MORE) is None
    assert serving_gateway(core.db, MORE) is None


@pytest.mark.parametrize("parent", [{"kind": "ListenerSet"}, {"group": "", "kind": "Service"}])
def test_a_set_has_no_other_parent_than_a_gateway(parent: dict[str, str]) -> None:
    """Neither one of another kind by the name of a Gateway, nor itself."""
    document = load(listener_set(http("a"), name="eg"))
    document["spec"]["parentRef"] |= parent
    core = Core(gateway(http("web"), allowedListeners=allowing("All")), dump(document))

    assert owners(core.db, EG) == (EG,)
    assert gateway_of(core.db, Ref.of(ListenerSet, "default", "eg")) is None


def test_the_sets_of_a_rejected_gateway_are_not_accepted() -> None:
    gone = {"parametersRef": {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "gone"}}
    own = gateway(http("web"), infrastructure=gone, allowedListeners=allowing("All"))
    core = Core(own, listener_set(http("a")))

    refused = set_refusal(core.db, EG, MORE)
    assert refused is not None
    assert refused.reason == "ParentNotAccepted"
