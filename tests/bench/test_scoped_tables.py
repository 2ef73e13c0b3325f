"""The benchmark of what scoped tables cost a request."""

from __future__ import annotations

import shutil

import pytest

from bench.scoped_tables import AGAIN, FORMS, KINDS, ONE, SCOPED, Runs, manifests, shown
from bench.throughput import Run
from tests.bench.test_throughput import rows_of_a_tiny_run


def runs(scoped_us: float, scoped_p99_ms: float = 5.0) -> Runs:
    """Two runs of each kind and form; those with one table take 100 µs, and 5 ms."""
    one = Run(cpu_us=100, per_second=8000, p50_ms=2, p99_ms=5)
    scoped = Run(cpu_us=scoped_us, per_second=8000, p50_ms=2, p99_ms=scoped_p99_ms)
    made = {ONE: [one, one], AGAIN: [one, one], SCOPED: [scoped, scoped]}
    return {kind.name: made for kind in KINDS}


def judged(table: str) -> list[str]:
    """The last cell of the rows of scoped tables."""
    return [line.split(" | ")[-1].rstrip("| ") for line in table.splitlines() if f"| {SCOPED} |" in line]


def test_exact_hosts_may_cost_less_than_others() -> None:
    exact, *others = judged(shown(runs(scoped_us=104)))

    assert exact.startswith("target ≥ 98%: MISS")
    assert others == ["target ≥ 95%: PASS"] * 3


@pytest.mark.parametrize(("p99_ms", "verdict"), [(5.05, "PASS"), (5.2, "MISS")])
def test_p99_is_judged_for_exact_hosts_alone(p99_ms: float, verdict: str) -> None:
    exact, *others = judged(shown(runs(100, p99_ms)))

    assert exact.endswith(f"p99 ≤ 102%: {verdict}")
    assert not any("p99" in other for other in others)


def test_one_table_is_not_judged() -> None:
    table = shown(runs(200))

    assert table.count("target") == len(KINDS)


def test_there_is_a_route_for_each_kind_of_hosts() -> None:
    """Of the last kind are hosts that no route names: they are those of the Gateway's first route."""
    hostnames = [each["spec"]["hostnames"][0] for each in manifests(50)]

    exact, capitals, wild, other = (kind.host(33) for kind in KINDS)
    assert exact in hostnames
    assert capitals not in hostnames
    assert capitals.lower() == exact
    assert f"*.{wild.split('.', 1)[1]}" in hostnames
    assert f"*.{other.split('.', 1)[1]}" not in hostnames


@pytest.mark.envoy
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load makes the load")
def test_a_tiny_run_prints_a_row_for_each_kind_and_form() -> None:
    rows = rows_of_a_tiny_run("bench.scoped_tables", "--routes", "30", timeout_s=120)

    assert len(rows) == 2 + len(KINDS) * len(FORMS)
