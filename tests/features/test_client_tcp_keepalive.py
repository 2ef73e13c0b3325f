"""Silent connections are probed as asked, with numbers that Linux takes."""

from __future__ import annotations

import pytest

from moongate.api.connections import TCPKeepalive
from moongate.engine import Db
from moongate.features.base import Effective
from moongate.features.client_tcp_keepalive import FEATURE, check
from tests.features.listeners import OWNER, listener_with

ENABLED = (1, 9, 1)
"""SO_KEEPALIVE of a socket."""


def options(keepalive: TCPKeepalive) -> list[tuple[int, int, int]]:
    """Level, name and value of each option."""
    return [(o.level, o.name, o.int_value) for o in listener_with(FEATURE, keepalive).socket_options]


def problems(keepalive: TCPKeepalive) -> list[str]:
    return [problem.path for problem in check(Db(), Effective(keepalive, OWNER))]


def test_what_is_not_said_is_left_to_the_kernel() -> None:
    assert options(TCPKeepalive()) == [ENABLED]


def test_times_count_in_whole_seconds() -> None:
    asked = TCPKeepalive(probes=3, idle_time="1m1s999ms", interval="1s500ms")

    assert options(asked) == [ENABLED, (6, 6, 3), (6, 4, 61), (6, 5, 1)]


@pytest.mark.parametrize(
    ("keepalive", "at"),
    [
        (TCPKeepalive(probes=0), "probes"),
        (TCPKeepalive(probes=-1), "probes"),
        (TCPKeepalive(probes=128), "probes"),
        (TCPKeepalive(idle_time="999ms"), "idleTime"),
        (TCPKeepalive(interval="32768s"), "interval"),
    ],
)
def test_what_linux_refuses_is_a_problem(keepalive: TCPKeepalive, at: str) -> None:
    assert problems(keepalive) == [at]


def test_the_ends_of_the_ranges_are_allowed() -> None:
    assert problems(TCPKeepalive(probes=1, idle_time="1s", interval="32767s")) == []
    assert problems(TCPKeepalive(probes=127)) == []
