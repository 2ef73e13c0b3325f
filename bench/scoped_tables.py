"""What scoped tables cost a proxied request: ``python -m bench.scoped_tables``.

It runs moongate three times with the same routes: with one table, with one table once more, which shows how
exact a comparison is, and with scoped tables. Their Envoys, of one worker each, are asked in turns for exact
hosts, and for those that Envoy does not find in scoped tables at first: exact hosts in capitals, hosts under
a wildcard, and hosts of a route without hostname. All other is as in ``bench.throughput``.

A run asks for one host, and each turn for others. h2load asks again as soon as it is answered, so the times
of requests are those of an Envoy under full load.
"""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from bench.figures import plain_table, verdict
from bench.throughput import (
    Run,
    by_cpu,
    load,
    moongates_envoy,
    options_of,
    paired,
    plan_of,
    print_measured,
    static_envoy,
    upstream_that_answers,
)
from moongate.infra.rundir import RunDirectory
from tests.e2e import manifests as m
from tests.e2e.differing import with_flags
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bench.throughput import Plan

ONE: Final = "one table"
AGAIN: Final = "one table, once more"
SCOPED: Final = "scoped tables"
FORMS: Final = (ONE, AGAIN, SCOPED)

WILDCARDS: Final = 20


class Kind(Struct, frozen=True):
    """A kind of hosts.

    Args:
        name: what it is.
        host: a host of this kind, by number; there are as many as routes.
        target: throughput by CPU with scoped tables, as a part of that with one table.
    """

    name: str
    host: Callable[[int], str]
    target: float


KINDS: Final = (
    Kind("an exact host", "app-{}.bench.test".format, 0.98),
    Kind("an exact host in capitals", "APP-{}.BENCH.TEST".format, 0.95),
    Kind("a host under a wildcard", lambda n: f"app-{n}.wild-{n % WILDCARDS}.test", 0.95),
    Kind("a host of a route without hostname", "app-{}.elsewhere.test".format, 0.95),
)

TARGET_P99: Final = 1.02
"""p99 for exact hosts with scoped tables, as a part of that with one table."""


def manifests(routes: int) -> Iterator[Mapping[str, Any]]:
    """Routes for all kinds of hosts but the last, for which the Gateway has one already."""
    kinds = {
        "app": [f"app-{n}.bench.test" for n in range(routes)],
        "wild": [f"*.wild-{n}.test" for n in range(WILDCARDS)],
    }
    to_app = "[{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: app}]}]"
    for kind, hosts in kinds.items():
        for n, host in enumerate(hosts):
            yield m.route(f"{kind}-{n}", to_app, hostnames=(host,), parents="[{name: bench}]")


Runs = dict[str, dict[str, list[Run]]]
"""Name of a kind of hosts → form of tables → its runs."""


async def measure(plan: Plan, routes: int) -> Runs:
    """All runs; those of one place in their lists were made next to each other.

    Args:
        plan: how much, for each kind of hosts.
        routes: how many have an exact hostname.
    """
    runs: Runs = {kind.name: {form: [] for form in FORMS} for kind in KINDS}
    for start in range(plan.starts):
        async with AsyncExitStack() as stack:
            run = stack.enter_context(RunDirectory())
            upstream = free_port()
            await static_envoy(stack, run, "upstream", upstream_that_answers(upstream))
            ports = {form: free_port() for form in FORMS}
            pids = {
                form: await moongates_envoy(
                    stack,
                    ports[form],
                    upstream,
                    config=with_flags("ScopedTables") if form == SCOPED else None,
                    more=manifests(routes),
                )
                for form in FORMS
            }
            for turn in range(plan.pairs + 1):
                number = (start * plan.pairs + turn) * 997 % routes
                for kind in KINDS:
                    # There and back again, so that a machine that gets slower hits all alike.
                    for form in FORMS if turn % 2 else reversed(FORMS):
                        host = kind.host(number)
                        made = await load(pids[form], ports[form], plan.requests, plan.connections, host)
                        if turn:  # the first is for connections to the upstream, and caches
                            runs[kind.name][form].append(made)
    return runs


def shown(runs: Runs) -> str:
    """A table in Markdown."""
    heads = ("Envoy's CPU", "throughput by CPU", "95% sure", "requests/s", "p50 / p99", "p99 ratio", "")
    rows: list[tuple[str, ...]] = [("a request for", "", *heads)]
    for kind in KINDS:
        for form, those in runs[kind.name].items():
            base = runs[kind.name][ONE]
            ratio = by_cpu(those, base)
            p50_ms, p99_ms = (median(run.p50_ms for run in those), median(run.p99_ms for run in those))
            p99 = paired(run.p99_ms / one.p99_ms for run, one in zip(those, base, strict=True))
            judged: list[str] = []
            if form == SCOPED:
                is_met = ratio.median >= kind.target
                judged.append(f"target ≥ {kind.target:.0%}: {verdict(is_met=is_met)}")
                if kind is KINDS[0]:
                    judged.append(f"p99 ≤ {TARGET_P99:.0%}: {verdict(is_met=p99.median <= TARGET_P99)}")
            rows.append(
                (
                    kind.name,
                    form,
                    f"{median(run.cpu_us for run in those):.1f} µs",
                    f"{ratio.median:.1%}",
                    f"{ratio.low:.1%} to {ratio.high:.1%}",
                    f"{_rate(those, base):.1%}",
                    f"{p50_ms:.2f} / {p99_ms:.2f} ms",
                    f"{p99.median:.1%}",
                    ", ".join(judged),
                )
            )
    return plain_table(rows)


def _rate(runs: Sequence[Run], base: Sequence[Run]) -> float:
    return median(run.per_second / one.per_second for run, one in zip(runs, base, strict=True))


def main() -> int:
    """Measure, and print the table."""
    parser = options_of("bench.scoped_tables", __doc__, pairs=10, starts=2)
    parser.add_argument("--routes", type=int, default=5_000, help="with exact hostnames [%(default)s]")
    options = parser.parse_args()

    async def table() -> str:
        return shown(await measure(plan_of(options), options.routes))

    return print_measured(table)


if __name__ == "__main__":
    sys.exit(main())
