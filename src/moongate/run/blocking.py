"""``with Laptop()``: a gateway for code without asyncio, whose event loop runs in a thread of its own."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from anyio.from_thread import start_blocking_portal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from anyio.from_thread import BlockingPortal

    from moongate.api.base import Ref
    from moongate.run.laptop import Laptop


class BlockingLaptop:
    """A ``Laptop`` whose methods return when they are done: a context manager.

    The thread lives as long as the context. Errors are raised in the caller's thread.
    """

    def __init__(self, laptop: Laptop) -> None:
        self._laptop = laptop
        self._stack = ExitStack()
        self._open: BlockingPortal | None = None

    def __enter__(self) -> Self:
        """Start to serve."""
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal(name="moongate"))
            stack.enter_context(portal.wrap_async_context_manager(self._laptop))
            self._stack = stack.pop_all()
        self._open = portal
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain and end the Envoys, then the thread."""
        self._open = None
        # The error of the block is not one of the event loop, which would print a Ctrl-C with its traceback.
        self._stack.__exit__(None, None, None)

    @property
    def _portal(self) -> BlockingPortal:
        if self._open is None:
            raise RuntimeError("The gateway does not run: use it within `with Laptop() as gateway:`.")
        return self._open

    def apply(
        self,
        manifests: str | Mapping[str, Any] | Iterable[Mapping[str, Any] | None],
        *,
        timeout_s: float | None = 15,
    ) -> None:
        """Put manifests in force, as ``Laptop.apply`` does."""
        self._portal.call(partial(self._laptop.apply, manifests, timeout_s=timeout_s))

    def delete(self, *named: Ref | Mapping[str, Any], timeout_s: float | None = 15) -> None:
        """Take resources out of force, as ``Laptop.delete`` does."""
        self._portal.call(partial(self._laptop.delete, *named, timeout_s=timeout_s))

    def served(self, *, timeout_s: float | None = 15) -> None:
        """Return when every Envoy has acknowledged all changes that were made before the call."""
        self._portal.call(partial(self._laptop.served, timeout_s=timeout_s))

    def urls(self) -> tuple[str, ...]:
        """The URLs on this machine of all listeners that an Envoy has in force."""
        return self._portal.call(self._laptop.urls)

    def status(self, ref: Ref) -> dict[str, Any] | None:
        """The status of a resource, as a document of the API; ``None`` if it has none."""
        return self._portal.call(self._laptop.statuses.document, ref)

    def limits(self) -> dict[str, Any]:
        """The global rate limits with their use in the current window."""
        return self._portal.call(self._laptop.limits)

    def report(self) -> dict[str, Any]:
        """The report that ``moongate status`` shows, as plain data."""
        return self._portal.call(self._laptop.report)
