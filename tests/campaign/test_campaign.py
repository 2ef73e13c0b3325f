"""The campaign: deliberate faults in a folder that moongate serves, one after the other.

Each row of the tables is one fault; ``house`` has the laws that all must keep.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from tests.campaign.fault import Fault, params
from tests.campaign.house import House, house, strays
from tests.campaign.tables import ALL


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[House]:
    """One moongate for all rows."""
    async with house(tmp_path_factory.mktemp("house")) as built, built.running():
        await built.well()
        yield built


@pytest.mark.envoy
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("fault", params(ALL))
async def test_a_fault_of_content_hurts_nothing_else_and_is_said(gateway: House, fault: Fault) -> None:
    """Whoever reads the message once knows what to do, and nothing else has changed meanwhile."""
    async with gateway.steady() as answers:
        await gateway.suffers(fault)
    assert strays(answers)[:5] == []
