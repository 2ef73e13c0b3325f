"""``python -m bench``: measure, and print a table with the targets beside what was measured."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from time import monotonic
from typing import get_args

import msgspec

from bench.figures import shown
from bench.measure import Plan, measure
from bench.scene import Tables


def main() -> int:
    """The exit status: 0, whatever was measured. Whoever wants to judge reads the table."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--routes", default="100,1000,5000", help="numbers of routes, ascending [%(default)s]"
    )
    parser.add_argument("--changes", type=int, default=50, help="changes of each kind [%(default)s]")
    parser.add_argument(
        "--leak",
        type=int,
        default=2000,
        help="further changes that memory is to survive, 0 for none [%(default)s]",
    )
    parser.add_argument(
        "--rest", type=float, default=5.0, help="seconds in which CPU at rest is measured [%(default)s]"
    )
    parser.add_argument(
        "--tables",
        choices=get_args(Tables),
        default="shipped",
        help="the form of route tables; bench.compare sets two runs beside each other [%(default)s]",
    )
    parser.add_argument("--quick", action="store_true", help="two sizes, few changes: does it work at all?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    parser.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="write cProfile's files of moongate there"
    )
    options = parser.parse_args()
    began = monotonic()

    def say(words: str) -> None:
        print(f"[{monotonic() - began:4.0f} s] {words}", file=sys.stderr, flush=True)

    plan = Plan(
        routes=tuple(sorted(int(n) for n in ("100,1000" if options.quick else options.routes).split(","))),
        changes=10 if options.quick else options.changes,
        leak=200 if options.quick else options.leak,
        rest_s=options.rest,
        tables=options.tables,
        profile=options.profile,
        say=say,
    )
    if plan.profile is not None:
        plan.profile.mkdir(parents=True, exist_ok=True)
    report = asyncio.run(measure(plan))
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    print(shown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
