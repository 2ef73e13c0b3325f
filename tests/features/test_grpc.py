"""A policy decides about gRPC-Web as soon as it speaks of gRPC at all."""

from __future__ import annotations

import pytest

from moongate.attach.route_kinds import KIND_FILTERS
from moongate.features.base import ListenerFacts
from moongate.features.grpc import FEATURE, GRPC_WEB, GRPCSettings


@pytest.mark.parametrize(("enable", "on"), [(None, False), (False, False), (True, True)])
def test_what_is_not_enabled_is_off(enable: bool | None, on: bool) -> None:
    assert FEATURE.listener_facts is not None
    facts = FEATURE.listener_facts(ListenerFacts(stream_idle=True), GRPCSettings(enable_web=enable))

    assert facts == ListenerFacts(stream_idle=True, kind_filters=((GRPC_WEB, on),))


def test_it_is_about_the_filter_that_grpc_routes_bring() -> None:
    assert GRPC_WEB in {one.name for one in KIND_FILTERS}
