"""The benchmark itself: that it measures what it says, and judges what it measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from bench.envoy_cost import FORMS
from bench.figures import Leak, Report, Series, Size, p50, p99, shown, verdicts
from bench.scene import Scene
from moongate.sources.files import load

ROOT = Path(__file__).resolve().parents[2]


def series(served_ms: float, floor_ms: float, **others: float) -> Series:
    return Series(
        served_ms=[served_ms],
        floor_ms=[floor_ms],
        cpus_ms=[others.get("cpu_ms", 1.0)],
        envoy_cpus_ms=[1.0],
        bytes=others.get("bytes", 100.0),
        runs=others.get("runs", 9.0),
        functions={},
    )


SIZE = Size(
    routes=5000,
    cold=5.0,
    cold_floor=2.0,
    read=1.0,
    build=1.9,
    translation_cpu=2.9,
    rss=300_000_000,
    peak=300_000_000,
    pss=300_000_000,
    envoy_rss=600_000_000,
    idle_cpu=0.0,
    envoy_idle_cpu=0.0,
    xds_bytes=5_000_000,
    cold_runs=100_000,
    changed=series(240, 200),
    added=series(240, 200),
    endpoint=series(10, 4),
    leak=Leak(changes=2000, before=100, after=104),
)


def missed(*sizes: Size) -> set[str]:
    return {v.name for v in verdicts(Report(machine="", sizes=list(sizes))) if not v.is_met}


def test_figures_within_their_targets_pass() -> None:
    assert not missed(structs.replace(SIZE, routes=100), SIZE)


@pytest.mark.parametrize(
    ("worse", "name"),
    [
        ({"changed": series(251, 200)}, "a changed route is served (p50)"),
        ({"added": series(251, 200)}, "a new route is served (p50)"),
        ({"changed": series(240, 200, runs=18)}, "functions run for a changed route"),
        ({"endpoint": series(26, 4)}, "… is served (p50)"),
        ({"endpoint": series(10, 4, cpu_ms=11)}, "… takes moongate"),
        ({"endpoint": series(10, 4, bytes=2000)}, "an endpoint change sends"),
        ({"translation_cpu": 3.1}, "cold translation (CPU)"),
        ({"rss": 320_000_001}, "memory of moongate"),
        ({"leak": Leak(changes=2000, before=100, after=106)}, "memory after 2,000 changes"),
    ],
)
def test_a_figure_beyond_its_target_is_a_miss(worse: dict[str, object], name: str) -> None:
    assert missed(structs.replace(SIZE, routes=100), structs.replace(SIZE, **worse)) == {name}


def test_percentiles_are_by_nearest_rank() -> None:
    values = [float(n) for n in range(200, 0, -1)]

    assert (p50(values), p99(values)) == (100.5, 198.0)


def test_with_few_values_the_99th_percentile_is_the_greatest() -> None:
    assert p99([1.0, 3.0, 2.0]) == 3.0


def test_figures_of_a_smaller_size_say_that_they_are() -> None:
    """The targets are for 5,000 routes; a quick run must not look like a proof."""
    assert "Judged at 100 routes" in shown(Report(machine="", sizes=[structs.replace(SIZE, routes=100)]))


def test_manifests_of_the_scene_have_no_faults(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 4, [9001, 9002])

    loaded = load([scene.gateway("gateway", 8080), scene.apps])

    assert loaded.diagnostics == ()
    assert sum(ref.kind == "HTTPRoute" for ref in loaded.batch) == 4


def test_an_added_app_can_be_removed_without_a_trace(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 2, [9001, 9002])
    before = sorted(scene.apps.iterdir())

    for edit in (*scene.added(3), *scene.removed(3)):
        edit.write()

    assert sorted(scene.apps.iterdir()) == before


@pytest.mark.envoy
@pytest.mark.slow
def test_a_tiny_run_prints_all_rows(tmp_path: Path) -> None:
    """The benchmark is run by hand, so something must notice when it no longer does."""
    file = tmp_path / "figures.json"
    size = ("--routes", "20", "--changes", "3", "--leak", "0", "--rest", "0.5")

    ran = subprocess.run(
        [sys.executable, "-m", "bench", *size, "--json", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    for row in (
        "cold start",
        "changed route",
        "new route",
        "changed endpoint",
        "floor p50",
        "memory of moongate",
    ):
        assert row in ran.stdout
    (measured,) = msgspec.json.decode(file.read_bytes(), type=Report).sizes
    assert measured.changed.functions["route_entries_of"] == 1
    assert measured.endpoint.functions["load_assignment"] == 1
    assert measured.endpoint.bytes < measured.changed.bytes


@pytest.mark.envoy
@pytest.mark.slow
def test_the_price_of_what_stands_in_a_route_can_be_measured() -> None:
    """Few routes, few changes: that it runs and prints a line for each form."""
    words = [sys.executable, "-m", "bench.envoy_cost", "--routes", "20", "--changes", "1", "--rounds", "1"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)

    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + len(FORMS)
