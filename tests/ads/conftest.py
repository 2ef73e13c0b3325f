"""Conversations to begin a test with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.ads.conversation import COLD_START, Conversation
from tests.deadline import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


@pytest_asyncio.fixture(autouse=True)
async def _calls_have_ended() -> AsyncGenerator[None]:  # pyright: ignore[reportUnusedFunction]
    """A client that cancels its call hears of the end later.

    If its event loop is closed by then, gRPC fails in the event loop of the next test.
    """
    yield
    if calls := [task for task in asyncio.all_tasks() if "_handle_status_once_received" in repr(task)]:
        await asyncio.wait(calls, timeout=DEADLINE_S)


@pytest.fixture
def envoy() -> Conversation:
    return Conversation()


@pytest.fixture
def served(envoy: Conversation) -> Conversation:
    """An Envoy that has cluster a, its endpoints, listener l and route configuration r."""
    envoy.play(COLD_START)
    envoy.events()
    return envoy
