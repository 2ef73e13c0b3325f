"""Patience with Redis."""

from __future__ import annotations

import pytest

from tests.deadline import DEADLINE_S


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine, a handshake may take longer than Envoy waits; here nobody else waits."""
    monkeypatch.setattr("moongate.rate_limits.redis_client.ANSWER_WITHIN_S", DEADLINE_S)
