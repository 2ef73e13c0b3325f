"""An ADS server over a Unix socket, which takes clients for what they say they are."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from moongate.ads.server import AdsServer
from moongate.ads.transports import Identity, Transport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from moongate.ads.events import Event


@asynccontextmanager
async def serving(
    socket: Path, on_event: Callable[[Event], None] | None = None, **options: Any
) -> AsyncGenerator[AdsServer]:
    """A server that listens on ``socket``."""
    ads = AdsServer(on_event, **options)
    async with ads.listen(at(socket)):
        yield ads


def at(socket: Path) -> Transport:
    return Transport(address=f"unix:{socket}", identify=lambda _, node: Identity(node.cluster, node.id))
