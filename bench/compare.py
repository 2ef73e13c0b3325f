"""Two versions of moongate beside each other: ``python -m bench.compare --before FILE... --after FILE...``.

The files are those that ``python -m bench --json FILE`` writes, one for each run. On one machine, run both
versions in turns: what else the machine does then hits both alike. Printed is the median over the runs of
each version, their ratio, and whether anything is slower or bigger by more than a tenth.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from bench.figures import Report, Series, Size, p50, table, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

MOST: Final = 1.10
"""How much of a figure the later version may take, the earlier one taking 1."""

_OF_SIZE: Final[Mapping[str, Callable[[Size], float]]] = {
    "cold start (s)": lambda size: size.cold,
    "cold translation (s of CPU)": lambda size: size.translation_cpu,
    "memory of moongate (MB)": lambda size: size.rss / 1e6,
    "memory of its Envoy (MB)": lambda size: size.envoy_rss / 1e6,
}
_OF_SERIES: Final[Mapping[str, Callable[[Series], float]]] = {
    "written → served, p50 (ms)": lambda series: p50(series.served_ms),
    "CPU of moongate (ms)": lambda series: fmean(series.cpus_ms),
    "CPU of its Envoy (ms)": lambda series: fmean(series.envoy_cpus_ms),
    "bytes sent": lambda series: series.bytes,
}


class Comparison(Struct, frozen=True):
    """One figure of both versions, each the median over its runs."""

    name: str
    before: float
    after: float

    @property
    def ratio(self) -> float:
        return self.after / self.before

    @property
    def is_as_fast(self) -> bool:
        """Whether the later version takes at most a tenth more."""
        return self.ratio <= MOST


def comparisons(before: Iterable[Report], after: Iterable[Report]) -> Iterator[Comparison]:
    """All figures, for each number of routes that both versions were measured with."""
    earlier, later = _by_routes(before), _by_routes(after)
    for routes in sorted(earlier.keys() & later.keys()):
        for name, value in _figures():
            yield Comparison(
                f"{routes:,} routes: {name}",
                median(map(value, earlier[routes])),
                median(map(value, later[routes])),
            )


def shown(compared: Iterable[Comparison]) -> str:
    """A table in Markdown."""
    rows = [["", "before", "after", "ratio", ""]]
    rows += [
        [c.name, f"{c.before:,.1f}", f"{c.after:,.1f}", f"{c.ratio:.2f}", verdict(is_met=c.is_as_fast)]
        for c in compared
    ]
    return table(rows)


def _figures() -> Iterator[tuple[str, Callable[[Size], float]]]:
    yield from _OF_SIZE.items()
    for name, of in (("changed route", "changed"), ("new route", "added"), ("changed endpoint", "endpoint")):
        for what, value in _OF_SERIES.items():
            yield f"{name}: {what}", lambda size, of=of, value=value: value(getattr(size, of))


def _by_routes(reports: Iterable[Report]) -> dict[int, list[Size]]:
    sizes: dict[int, list[Size]] = {}
    for report in reports:
        for size in report.sizes:
            sizes.setdefault(size.routes, []).append(size)
    return sizes


def _read(paths: Sequence[Path]) -> list[Report]:
    return [msgspec.json.decode(path.read_bytes(), type=Report) for path in paths]


def main() -> int:
    """Compare, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    for version in ("--before", "--after"):
        parser.add_argument(version, type=Path, nargs="+", required=True, metavar="FILE")
    options = parser.parse_args()
    print(shown(comparisons(_read(options.before), _read(options.after))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
