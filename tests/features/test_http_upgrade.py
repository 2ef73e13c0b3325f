"""Protocols that requests may change to."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from envoy.config.route.v3.route_components_pb2 import Route

from moongate.engine import Db
from moongate.features.base import Effective, RouteEdit
from moongate.features.http_upgrade import FEATURE, ProtocolUpgradeConfig
from tests.features.backends import OWNER, plain


def upgraded(*entries: dict[str, Any], before: tuple[str, ...] = ("websocket",)) -> dict[str, Any]:
    assert FEATURE.route is not None
    message = Route()
    for protocol in before:
        message.route.upgrade_configs.add(upgrade_type=protocol)
    upgrades = tuple(msgspec.convert(entry, ProtocolUpgradeConfig) for entry in entries)
    FEATURE.route(RouteEdit(message), Effective(upgrades, OWNER))
    return plain(message)


def test_the_list_is_all_that_is_let_through() -> None:
    assert upgraded({"type": "spdy/3.1"}) == {"route": {"upgrade_configs": [{"upgrade_type": "spdy/3.1"}]}}
    assert upgraded() == {"route": {}}


def test_calls_of_grpc_change_to_nothing() -> None:
    assert upgraded({"type": "websocket"}, before=()) == {}


@pytest.mark.parametrize(
    ("entry", "config"),
    [
        ({"type": "CONNECT"}, {"upgrade_type": "CONNECT"}),
        ({"type": "connect"}, {"upgrade_type": "connect"}),
        (
            {"type": "CONNECT", "connect": {"terminate": True}},
            {"upgrade_type": "CONNECT", "connect_config": {}},
        ),
        ({"type": "CONNECT", "connect": {"terminate": False}}, {"upgrade_type": "CONNECT"}),
    ],
)
def test_a_tunnel_is_matched_without_a_path(entry: dict[str, Any], config: dict[str, Any]) -> None:
    assert upgraded(entry) == {"match": {"connect_matcher": {}}, "route": {"upgrade_configs": [config]}}


def test_of_a_protocol_that_comes_twice_the_first_entry_counts() -> None:
    """Envoy refuses the second, in upper case too. A merge may bring them together."""
    entries = ({"type": "CONNECT", "connect": {"terminate": True}}, {"type": "a"}, {"type": "connect"})

    assert upgraded(*entries)["route"]["upgrade_configs"] == [
        {"upgrade_type": "CONNECT", "connect_config": {}},
        {"upgrade_type": "a"},
    ]
    upgrades = tuple(msgspec.convert(entry, ProtocolUpgradeConfig) for entry in entries)
    assert FEATURE.hints is not None
    assert [hint.path for hint in FEATURE.hints(upgrades)] == ["[2].type"]


@pytest.mark.parametrize("type_", ["", "a b", "a\n", "ü"])
def test_a_protocol_that_no_header_can_name_is_a_fault(type_: str) -> None:
    upgrades = (ProtocolUpgradeConfig(type="spdy/3.1"), ProtocolUpgradeConfig(type=type_))

    assert FEATURE.check is not None
    problems = FEATURE.check(Db(), Effective(upgrades, OWNER))
    assert [problem.path for problem in problems] == ["[1].type"]
