"""HTTP/1 is spoken as asked, on both sides of the gateway."""

from __future__ import annotations

import pytest
from envoy.config.core.v3.protocol_pb2 import Http1ProtocolOptions
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from moongate.api.shared import StringMatch
from moongate.engine import Db
from moongate.features.base import Effective, ManagerEdit
from moongate.features.http1 import FEATURE, HTTP1Settings, HTTP10Settings, check
from tests.features.listeners import OWNER, manager_with


def options(http1: HTTP1Settings, host: str = "") -> Http1ProtocolOptions:
    hcm = HttpConnectionManager()
    assert FEATURE.connection_manager is not None
    FEATURE.connection_manager(ManagerEdit(hcm, Router(), lambda: host), Effective(http1, OWNER))
    return hcm.http_protocol_options


@pytest.mark.parametrize(
    "http1",
    [
        HTTP1Settings(),
        HTTP1Settings(enable_trailers=False, preserve_header_case=False),
        HTTP1Settings(disable_safe_max_connection_duration=True),
    ],
)
def test_a_policy_that_asks_for_nothing_leaves_envoys_defaults(http1: HTTP1Settings) -> None:
    assert not manager_with(FEATURE, http1).HasField("http_protocol_options")


@pytest.mark.parametrize(
    ("use", "host", "default"), [(None, "a.test", ""), (False, "a.test", ""), (True, "a.test", "a.test")]
)
def test_a_default_host_is_only_for_those_who_ask_for_one(use: bool | None, host: str, default: str) -> None:
    asked = options(HTTP1Settings(http10=HTTP10Settings(use_default_host=use)), host)

    assert asked.accept_http_10
    assert asked.default_host_for_http_10 == default


def test_old_connections_are_closed_between_requests_only_if_asked() -> None:
    hcm = HttpConnectionManager(http1_safe_max_connection_duration=True)
    assert FEATURE.connection_manager is not None
    for disable, safe in ((False, True), (True, False)):
        http1 = HTTP1Settings(disable_safe_max_connection_duration=disable)
        FEATURE.connection_manager(ManagerEdit(hcm, Router()), Effective(http1, OWNER))
        assert hcm.http1_safe_max_connection_duration is safe


def test_a_pattern_that_is_none_is_a_problem() -> None:
    match = StringMatch(type="RegularExpression", value="h2c(")
    settings = HTTP1Settings(ignored_upgrade_types=(StringMatch(value="x("), match))
    [problem] = check(Db(), Effective(settings, OWNER))

    assert problem.path == "ignoredUpgradeTypes[1].value"
