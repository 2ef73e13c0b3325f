"""Conversations to begin a test with."""

from __future__ import annotations

import pytest

from tests.ads.conversation import COLD_START, Conversation


@pytest.fixture
def envoy() -> Conversation:
    return Conversation()


@pytest.fixture
def served(envoy: Conversation) -> Conversation:
    """An Envoy that has cluster a, its endpoints, listener l and route configuration r."""
    envoy.play(COLD_START)
    envoy.events()
    return envoy
