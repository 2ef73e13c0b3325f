"""What ``moongate status`` reads: a report of all that is known, over a Unix socket, as JSON."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from moongate.api.gateway import Gateway
from moongate.api.marks import shareable
from moongate.api.route import Route
from moongate.hints import REASONS
from moongate.kinds import ref_of
from moongate.run.private_socket import private_socket
from moongate.sources.diagnostics import without_reported

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
    from pathlib import Path

    from moongate.fleets import Fleets
    from moongate.report.statuses import Statuses
    from moongate.run.log import RunLog
    from moongate.run.rate_limits import RateLimits
    from moongate.sources.diagnostics import Diagnostic
    from moongate.world import World

RESOURCES_AT_ONCE: Final = 100
"""Resources that are looked at, or encoded, before the event loop has its turn: some milliseconds."""


class StatusReport(Struct, frozen=True):
    """The report of a gateway, put together from those who know its parts."""

    world: World
    fleets: Fleets
    statuses: Statuses
    log: RunLog
    rate_limits: RateLimits
    settling: Callable[[], bool]

    def as_data(self) -> dict[str, Any]:
        """The whole report, as plain data."""
        head = self._head(self.log.diagnostics())
        return {**head, "resources": [self._with_spec(d) for d in self._documents()]}

    def encoded(self, limits: dict[str, Any]) -> Iterator[bytes]:
        """The same and rate limits as JSON, in parts of some milliseconds: endpoints do not wait for it."""
        diagnostics: list[Diagnostic] = []
        for n, some in enumerate(self.log.diagnostics_in_steps(), start=1):
            diagnostics += some
            if n % RESOURCES_AT_ONCE == 0:
                yield b""
        head = {**self._head(diagnostics), "rateLimits": limits}
        yield msgspec.json.encode(head).removesuffix(b"}") + b',"resources":['
        comma = b""
        documents = self._documents()
        for n in range(0, len(documents), RESOURCES_AT_ONCE):
            some = documents[n : n + RESOURCES_AT_ONCE]
            encoded = msgspec.json.encode([self._with_spec(d) for d in some])
            yield comma + encoded[1:-1]
            comma = b","
        yield b"]}"

    def figures(self) -> dict[str, Any]:
        """Counts for metrics and benchmarks: runs and seconds by query, what was sent by type."""
        return {
            "runs": dict(self.world.db.counts),
            "seconds": dict(self.world.db.seconds),
            "nodes": len(self.world.db),
            "sent": {t: msgspec.to_builtins(counters) for t, counters in self.fleets.counters.items()},
        }

    def _head(self, diagnostics: Iterable[Diagnostic]) -> dict[str, Any]:
        """The report without its resources, which may be thousands."""
        diagnostics = self._unreported(diagnostics)
        return {
            "version": 1,
            "settling": self.settling(),
            "unserved": self._unserved(),
            "gateways": self.fleets.report(),
            "diagnostics": [str(d) for d in diagnostics if d.problem.reason not in REASONS],
            "hints": [str(d) for d in diagnostics if d.problem.reason in REASONS],
            "rejections": [msgspec.to_builtins(r) for r in self.fleets.rejections()],
            "failures": [
                {"query": f.query, "args": f.args, "id": f.id, "error": f.error}
                for f in self.world.failures().values()
            ],
            "figures": self.figures(),
        }

    def _unreported(self, diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
        """What is wrong with manifests, and is not in the statuses."""
        unreported = without_reported(diagnostics, self.statuses.faulty_fields)
        return [diagnostic for diagnostic in unreported if diagnostic.severity != "info"]

    def _documents(self) -> list[dict[str, Any]]:
        """The statuses of all resources; an empty one for each route that has none, so that it is shown."""
        if self.settling():
            return self.statuses.documents()
        resources = self.world.store.resources()
        routes = (ref for ref, resource in resources.items() if isinstance(resource, Route))
        unserved = sorted(ref for ref in routes if self.statuses.document(ref) is None)
        without = (
            {"kind": ref.kind, "metadata": {"namespace": ref.namespace, "name": ref.name}, "status": {}}
            for ref in unserved
        )
        return [*self.statuses.documents(), *without]

    def _unserved(self) -> list[dict[str, str]]:
        """Gateways whose class is none of this controller, so that they have no status."""
        resources = self.world.store.resources()
        unserved = (ref for ref in resources if ref.is_a(Gateway) and self.statuses.document(ref) is None)
        return [{"namespace": ref.namespace, "name": ref.name} for ref in sorted(unserved)]

    def _with_spec(self, document: dict[str, Any]) -> dict[str, Any]:
        """A status with the spec of its resource, parts of which a table shows beside it."""
        metadata = document["metadata"]
        ref = ref_of(document["kind"], metadata.get("namespace", ""), metadata["name"])
        resource = self.world.store.resources().get(ref)
        spec = getattr(resource, "spec", None)
        return document if spec is None else {**document, "spec": shareable(spec)}


@asynccontextmanager
async def status_socket(path: Path, report: StatusReport) -> AsyncGenerator[None]:
    """Answer each connection with the report of that moment. Only the same user can connect."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            for part in report.encoded(await report.rate_limits.report()):
                writer.write(part)
                await writer.drain()
                # An empty buffer drains without giving way.
                await asyncio.sleep(0)
            writer.close()
            await writer.wait_closed()

    async with private_socket(path, answer):
        yield
