"""What was measured, the targets, and how both are shown."""

from __future__ import annotations

from statistics import fmean, median
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TARGET_AT = 5000
"""The number of routes that the targets are for."""


class Series(Struct, frozen=True, kw_only=True):
    """One kind of change, made again and again, with moongate and at the floor in turns.

    Args:
        served_ms: file written → served, by change.
        floor_ms: sent by the bare server → served, by change.
        cpus_ms: CPU of moongate, by change.
        envoy_cpus_ms: CPU of its Envoy, by change.
        bytes: sent for a change, at the mean.
        runs: functions run for a change, at the mean.
        functions: the same by name.
    """

    served_ms: list[float]
    floor_ms: list[float]
    cpus_ms: list[float]
    envoy_cpus_ms: list[float]
    bytes: float
    runs: float
    functions: dict[str, float]

    @property
    def cpu_ms(self) -> float:
        return fmean(self.cpus_ms)

    @property
    def envoy_cpu_ms(self) -> float:
        return fmean(self.envoy_cpus_ms)


class Leak(Struct, frozen=True, kw_only=True):
    """Memory of moongate in bytes, before and after many further changes; both after a collection."""

    changes: int
    before: int
    after: int

    @property
    def growth(self) -> float:
        return self.after / self.before - 1


class Size(Struct, frozen=True, kw_only=True):
    """All that was measured with one number of routes. Seconds and bytes, unless a name says otherwise.

    Args:
        cold: start of moongate → the last route is served.
        cold_floor: the same for the bare server, whose resources are ready: Envoy's own start.
        read, build: of a translation in a fresh process: manifests to resources, resources to xDS.
        translation_cpu: its CPU.
        rss, peak, pss: memory of moongate after the start, while nothing changes.
        envoy_rss: memory of its Envoy.
        idle_cpu, envoy_idle_cpu: CPU while nothing changes, as a share of one core.
        xds_bytes: of all resources together.
    """

    routes: int
    cold: float
    cold_floor: float
    read: float
    build: float
    translation_cpu: float
    rss: int
    peak: int
    pss: int
    envoy_rss: int
    idle_cpu: float
    envoy_idle_cpu: float
    xds_bytes: int
    cold_runs: int
    changed: Series
    added: Series
    endpoint: Series
    leak: Leak | None = None


class Report(Struct, frozen=True, kw_only=True):
    """A whole run of the benchmark."""

    machine: str
    sizes: list[Size]


class Verdict(Struct, frozen=True):
    """Whether one figure meets its target."""

    name: str
    target: str
    measured: str
    is_met: bool


def p50(values: Sequence[float]) -> float:
    return median(values)


def p99(values: Sequence[float]) -> float:
    """The 99th percentile by nearest rank: with fewer than a hundred values, the greatest."""
    return sorted(values)[min(len(values) - 1, -(-99 * len(values) // 100) - 1)]


def verdicts(report: Report) -> Iterator[Verdict]:
    """The targets at 5,000 routes, judged by the biggest size that was measured."""
    small, big = report.sizes[0], report.sizes[-1]
    for name, series in (("a changed route", big.changed), ("a new route", big.added)):
        limit = p50(series.floor_ms) + 50
        served = p50(series.served_ms)
        yield Verdict(
            f"{name} is served (p50)", f"floor + 50 = {limit:.0f} ms", f"{served:.0f} ms", served <= limit
        )
    if small is not big:
        for name, before, after in (
            ("changed route", small.changed, big.changed),
            ("new route", small.added, big.added),
            ("endpoint", small.endpoint, big.endpoint),
        ):
            yield Verdict(
                f"functions run for a {name}".replace("a endpoint", "an endpoint"),
                f"as with {small.routes:,} routes: {before.runs:.1f}",
                f"{after.runs:.1f}",
                after.runs <= before.runs * 1.05 + 1,
            )
    endpoint = big.endpoint
    yield Verdict(
        "an endpoint change sends", "< 2,000 bytes", f"{endpoint.bytes:.0f} bytes", endpoint.bytes < 2000
    )
    yield Verdict("… takes moongate", "< 10 ms of CPU", f"{endpoint.cpu_ms:.1f} ms", endpoint.cpu_ms < 10)
    served = p50(endpoint.served_ms)
    yield Verdict("… is served (p50)", "< 25 ms", f"{served:.1f} ms", served < 25)
    cpu = big.translation_cpu
    yield Verdict("cold translation (CPU)", "< 3 s", f"{cpu:.2f} s", cpu < 3)
    yield Verdict("memory of moongate", "< 320 MB", f"{_mb(big.rss)} MB", big.rss < 320e6)
    if big.leak is not None:
        leak = big.leak
        yield Verdict(
            f"memory after {leak.changes:,} changes",
            f"{_mb(leak.before)} MB ± 5%",
            f"{_mb(leak.after)} MB ({leak.growth:+.1%})",
            abs(leak.growth) <= 0.05,
        )


def shown(report: Report) -> str:
    """The report as a table for a terminal, and for a page in Markdown."""
    heads = ["", *(f"{size.routes:,} routes" for size in report.sizes)]
    rows: list[list[str]] = []

    def row(name: str, cells: list[str]) -> None:
        rows.append([name, *cells])

    sizes = report.sizes
    row("cold start → last route served", [f"{s.cold:.2f} s" for s in sizes])
    row("… floor: Envoy's own", [f"{s.cold_floor:.2f} s" for s in sizes])
    row(
        "cold translation: read + build (CPU)",
        [f"{s.read:.2f} + {s.build:.2f} ({s.translation_cpu:.2f}) s" for s in sizes],
    )
    row("… functions run", [f"{s.cold_runs:,}" for s in sizes])
    row("… xDS built", [f"{s.xds_bytes / 1e6:.1f} MB" for s in sizes])
    row(
        "memory of moongate: RSS (PSS, peak)",
        [f"{_mb(s.rss)} ({_mb(s.pss)}, {_mb(s.peak)}) MB" for s in sizes],
    )
    row("memory of its Envoy: RSS", [f"{_mb(s.envoy_rss)} MB" for s in sizes])
    row("CPU of a core at rest (of its Envoy)", [f"{s.idle_cpu:.1%} ({s.envoy_idle_cpu:.1%})" for s in sizes])
    for name, of in (("changed route", "changed"), ("new route", "added"), ("changed endpoint", "endpoint")):
        series: list[Series] = [getattr(s, of) for s in sizes]
        row(f"{name}: written → served p50 / p99", [_ms(s.served_ms) for s in series])
        row("… floor p50 / p99", [_ms(s.floor_ms) for s in series])
        row("… CPU of moongate (of its Envoy)", [f"{s.cpu_ms:.1f} ({s.envoy_cpu_ms:.1f}) ms" for s in series])
        row("… bytes sent", [f"{s.bytes:,.0f}" for s in series])
        row("… functions run", [f"{s.runs:.1f}" for s in series])
    if any(s.leak for s in sizes):
        row("memory before → after further changes", [_leaked(s.leak) for s in sizes])
    figures = table([heads, *rows])
    judged = [["target at 5,000 routes", "", "measured", ""]]
    judged += [[v.name, v.target, v.measured, verdict(is_met=v.is_met)] for v in verdicts(report)]
    at = sizes[-1].routes
    note = "" if at == TARGET_AT else f"\nJudged at {at:,} routes, so the targets say little.\n"
    return f"{report.machine}\n\n{figures}\n\n{table(judged)}\n{note}"


def table(rows: list[list[str]]) -> str:
    """Rows as a table in Markdown, the first being its head."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def plain_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table for a page in Markdown, without padding; the first is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"|{' --- |' * len(rows[0])}")
    return "\n".join(lines)


def verdict(*, is_met: bool) -> str:
    """Whether a figure meets its target, in a word."""
    return "PASS" if is_met else "MISS"


def _ms(values: Sequence[float]) -> str:
    return f"{p50(values):.1f} / {p99(values):.1f} ms"


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f}"


def _leaked(leak: Leak | None) -> str:
    if leak is None:
        return ""
    return f"{_mb(leak.before)} → {_mb(leak.after)} MB ({leak.growth:+.1%}, {leak.changes:,} changes)"
