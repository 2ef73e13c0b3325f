"""Waiting for what another process says."""

from __future__ import annotations

import time

import pytest

from tests.campaign import house

LIMIT_S = 0.2


async def test_a_claim_is_made_again_after_one_that_took_longer_than_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The machine stood still meanwhile, and what the first one says is of the time before."""
    monkeypatch.setattr(house, "DEADLINE_S", LIMIT_S)
    claims: list[str] = ["old"]

    async def claim() -> str:
        if not claims:
            return ""
        time.sleep(2 * LIMIT_S)  # noqa: ASYNC251 - as one that asks moongate for a report
        return claims.pop()

    await house.until(claim)

    assert not claims


async def test_what_stays_amiss_is_said_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house, "DEADLINE_S", LIMIT_S)

    async def claim() -> str:
        return "a reading is missing"

    with pytest.raises(AssertionError, match="a reading is missing"):
        await house.until(claim)
