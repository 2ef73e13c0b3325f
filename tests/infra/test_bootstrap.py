"""The command line of Envoy."""

from __future__ import annotations

from pathlib import Path

import pytest

from moongate.infra.bootstrap import EnvoyOptions, arguments, as_json, bootstrap

XDS, ADMIN = Path("/run/m/xds.sock"), Path("/run/m/envoy.sock")


def test_equal_bootstraps_have_equal_files() -> None:
    """So an Envoy that was left running is known to be as one that would be started now."""
    files = [as_json(bootstrap("shop/eg", "n", xds_socket=XDS, admin_socket=ADMIN)) for _ in range(2)]

    assert files[0] == files[1]


def words(options: EnvoyOptions | None = None, *, cpus: int = 2, file: Path = ADMIN) -> tuple[str, ...]:
    return arguments(file, options or EnvoyOptions(), cpus=cpus, log_format="%l %v")


def value(flag: str, options: EnvoyOptions | None = None, *, cpus: int = 2) -> str:
    arguments = words(options, cpus=cpus)
    return arguments[arguments.index(flag) + 1]


@pytest.mark.parametrize(("cpus", "threads"), [(1, "1"), (3, "3"), (64, "4")])
def test_a_laptop_gets_a_thread_per_cpu_up_to_four(cpus: int, threads: str) -> None:
    assert value("--concurrency", cpus=cpus) == threads


def test_a_chosen_concurrency_is_taken() -> None:
    assert value("--concurrency", EnvoyOptions(concurrency=9)) == "9"


def test_the_level_of_all_is_warn_unless_chosen() -> None:
    assert value("--log-level") == "warn"
    assert value("--log-level", EnvoyOptions(log_levels={"default": "info"})) == "info"


def test_components_have_levels_of_their_own() -> None:
    options = EnvoyOptions(log_levels={"default": "info", "upstream": "debug", "jwt": "trace"})

    assert value("--component-log-level", options) == "jwt:trace,upstream:debug"
    assert "--component-log-level" not in words()


def test_connections_of_a_listener_that_changed_have_a_minute_unless_chosen() -> None:
    """In Envoy's own ten minutes they would be served by what was in force then."""
    assert value("--drain-time-s") == "60"
    assert value("--drain-time-s", EnvoyOptions(listener_drain_s=9)) == "9"


def test_envoy_does_not_search_what_it_is_sent_for_unknown_fields() -> None:
    """It would walk over thousands of routes for one that changed."""
    assert "--ignore-unknown-dynamic-fields" in words()


@pytest.mark.parametrize("flag", ["--log-level", "-l"])
def test_an_extra_argument_replaces_ours(flag: str) -> None:
    """Envoy would refuse to start with a flag that comes twice."""
    arguments = words(EnvoyOptions(extra_args=(flag, "trace")))

    assert "warn" not in arguments
    assert arguments[-2:] == (flag, "trace")
