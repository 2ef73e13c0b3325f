"""Connections are counted, aged and buffered as the policy says."""

from __future__ import annotations

import pytest
from envoy.extensions.filters.network.connection_limit.v3.connection_limit_pb2 import (
    ConnectionLimit as ConnectionLimitFilter,
)
from google.protobuf.duration_pb2 import Duration

from moongate.engine import Db
from moongate.features.base import Effective
from moongate.features.connection import FEATURE, ClientConnection, ConnectionLimit, check
from tests.features.listeners import OWNER, chain_with, listener_with, manager_with, plain


def problems(connection: ClientConnection) -> list[str]:
    return [problem.path for problem in check(Db(), Effective(connection, OWNER))]


def test_connections_over_the_limit_are_held_back_before_http_sees_them() -> None:
    limit = ConnectionLimit(value=3, close_delay="10s")
    [first] = chain_with(FEATURE, ClientConnection(connection_limit=limit)).message.filters
    config = ConnectionLimitFilter()
    first.typed_config.Unpack(config)

    assert first.name == "envoy.filters.network.connection_limit"
    assert config.max_connections.value == 3
    assert config.delay == Duration(seconds=10)
    assert config.stat_prefix == "http-8080"


def test_the_age_of_connections_and_requests_is_limited() -> None:
    limit = ConnectionLimit(
        max_connection_duration="300s", max_requests_per_connection=100, max_stream_duration="200s"
    )
    connection = ClientConnection(connection_limit=limit)
    options = manager_with(FEATURE, connection).common_http_protocol_options

    assert options.max_connection_duration == Duration(seconds=300)
    assert options.max_requests_per_connection.value == 100
    assert options.max_stream_duration == Duration(seconds=200)
    assert chain_with(FEATURE, connection) == plain()


def test_old_http1_connections_end_with_a_response_and_not_between_two() -> None:
    limit = ConnectionLimit(max_connection_duration="300s")
    hcm = manager_with(FEATURE, ClientConnection(connection_limit=limit))

    assert hcm.http1_safe_max_connection_duration


@pytest.mark.parametrize(("asked", "size"), [("50M", 50_000_000), ("32Ki", 32768), (65536, 65536)])
def test_the_buffer_of_a_connection_has_the_size_that_is_asked_for(asked: str | int, size: int) -> None:
    listener = listener_with(FEATURE, ClientConnection(buffer_limit=asked))

    assert listener.per_connection_buffer_limit_bytes.value == size


@pytest.mark.parametrize("asked", ["100G", "4Gi", -1, 2**32])
def test_a_buffer_that_envoy_cannot_count_is_a_problem(asked: str | int) -> None:
    assert problems(ClientConnection(buffer_limit=asked)) == ["bufferLimit"]


def test_a_buffer_just_below_that_is_none() -> None:
    assert problems(ClientConnection(buffer_limit=2**32 - 1)) == []


def test_a_policy_about_connections_keeps_the_defaults_that_it_does_not_change() -> None:
    connection = ClientConnection()

    assert chain_with(FEATURE, connection) == plain()
    assert listener_with(FEATURE, connection) == listener_with(FEATURE, None)
    assert manager_with(FEATURE, connection) == manager_with(FEATURE, None)


def test_zero_accepts_all_connections_that_wait() -> None:
    listener = listener_with(FEATURE, ClientConnection(max_accept_per_socket_event=0))

    assert not listener.HasField("max_connections_to_accept_per_socket_event")


def test_negative_counts_are_problems() -> None:
    limit = ConnectionLimit(max_requests_per_connection=-1)
    connection = ClientConnection(max_accept_per_socket_event=-1, connection_limit=limit)

    assert problems(connection) == ["maxAcceptPerSocketEvent", "connectionLimit.maxRequestsPerConnection"]


def test_the_size_of_a_socket_is_pointed_out() -> None:
    assert FEATURE.hints is not None
    connection = ClientConnection(socket_buffer_limit="1Mi")

    assert [(hint.path, hint.reason) for hint in FEATURE.hints(connection)] == [
        ("socketBufferLimit", "Unused")
    ]
    assert listener_with(FEATURE, connection) == listener_with(FEATURE, None)
    assert manager_with(FEATURE, connection) == manager_with(FEATURE, None)
