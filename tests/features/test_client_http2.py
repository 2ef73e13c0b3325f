"""HTTP/2 with clients has the limits that are asked for."""

from __future__ import annotations

import pytest
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)

from moongate.api.connections import HTTP2ConnectionKeepalive, HTTP2Settings
from moongate.engine import Db
from moongate.features.base import Effective, ManagerEdit
from moongate.features.client_http2 import FEATURE, check, hints
from tests.features.listeners import OWNER


def applied(http2: HTTP2Settings) -> HttpConnectionManager:
    """A connection manager whose default is 100 streams at a time."""
    hcm = HttpConnectionManager()
    hcm.http2_protocol_options.max_concurrent_streams.value = 100
    assert FEATURE.connection_manager is not None
    FEATURE.connection_manager(ManagerEdit(hcm, Router()), Effective(http2, OWNER))
    return hcm


def test_what_is_not_said_stays() -> None:
    options = applied(HTTP2Settings(initial_stream_window_size="64Ki")).http2_protocol_options

    assert options.max_concurrent_streams.value == 100
    assert options.initial_stream_window_size.value == 65536
    assert not options.HasField("override_stream_error_on_invalid_http_message")
    assert not options.HasField("connection_keepalive")


@pytest.mark.parametrize(("action", "of_stream"), [("TerminateStream", True), ("TerminateConnection", False)])
def test_a_malformed_message_ends_its_stream_or_the_connection(action: str, of_stream: bool) -> None:
    options = applied(HTTP2Settings(on_invalid_message=action)).http2_protocol_options

    assert options.HasField("override_stream_error_on_invalid_http_message")
    assert options.override_stream_error_on_invalid_http_message.value is of_stream


@pytest.mark.parametrize("size", [65534, "63Ki", 2**31, "2Gi"])
def test_windows_out_of_the_range_of_http2_are_problems(size: str | int) -> None:
    settings = HTTP2Settings(initial_stream_window_size=size, initial_connection_window_size=size)
    paths = [problem.path for problem in check(Db(), Effective(settings, OWNER))]

    assert paths == ["initialStreamWindowSize", "initialConnectionWindowSize"]


@pytest.mark.parametrize("size", [65535, 2**31 - 1])
def test_the_ends_of_the_range_are_allowed(size: int) -> None:
    settings = HTTP2Settings(initial_stream_window_size=size, initial_connection_window_size=size)

    assert list(check(Db(), Effective(settings, OWNER))) == []


@pytest.mark.parametrize(
    ("keepalive", "at"),
    [
        (HTTP2ConnectionKeepalive(interval="10s"), ""),
        (HTTP2ConnectionKeepalive(interval="0s", timeout="1s"), "interval"),
        (HTTP2ConnectionKeepalive(timeout="0s"), "timeout"),
        (HTTP2ConnectionKeepalive(timeout="1s", idle_interval="0s"), "idleInterval"),
    ],
)
def test_pings_need_times_that_envoy_takes(keepalive: HTTP2ConnectionKeepalive, at: str) -> None:
    settings = HTTP2Settings(connection_keepalive=keepalive)
    [problem] = check(Db(), Effective(settings, OWNER))

    assert problem.path == f"connectionKeepalive.{at}".removesuffix(".")


def test_what_has_no_effect_on_connections_of_clients_is_pointed_out() -> None:
    keepalive = HTTP2ConnectionKeepalive(interval="5s", timeout="1s", idle_interval="9s")
    settings = HTTP2Settings(on_invalid_message="Ignore", connection_keepalive=keepalive)

    assert [(hint.path, hint.reason) for hint in hints(settings)] == [
        ("onInvalidMessage", "Unused"),
        ("connectionKeepalive.idleInterval", "Unused"),
    ]
    assert list(hints(HTTP2Settings(on_invalid_message="TerminateStream"))) == []
