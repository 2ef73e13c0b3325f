"""What all tests share: ``--accept``, which takes what moongate answers as what a page expects.

HYPOTHESIS_PROFILE says how many examples Hypothesis tries: ``quick`` unless it says otherwise, ``default`` in
``make test``, and ``ci`` or ``nightly`` for a long search.
"""

from __future__ import annotations

import gc
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from moongate.api.envoygateway import RuntimeFlags
from tests.cases import Expected, rewrite

# No deadline: a slow machine is no bug of ours, and tests do not judge by the clock.
settings.register_profile("quick", max_examples=12, deadline=None)
settings.register_profile("default", max_examples=60, deadline=None)
settings.register_profile("ci", max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("nightly", parent=settings.get_profile("ci"), max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


# gRPC looks after its threads in each fork. A program that a test starts after code of its own
# (``preexec_fn``) is forked, and has waited for these threads for good where gRPC had been in use before.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# A script starts what is in its background with Ctrl-C ignored, and so would be what tests start: they expect
# it as in a terminal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

gc.disable()  # until all modules are imported


def pytest_collection_finish() -> None:
    """Keep the garbage collector from the modules: they stay, and there are many objects in them."""
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(50_000, 50, 100)


@pytest.fixture
def only_own_garbage() -> None:
    """For tests that look for garbage, or unfreeze objects: what earlier tests left of connections is gone.

    A gateway within a test may have frozen it. Who finds it later would fail by its warnings.
    """
    gc.unfreeze()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Look for garbage once: pytest does so ten times more, and would look at all results each time."""
    gc.collect()
    gc.freeze()


# Otherwise a failing assertion in a module that has no tests of its own does not show its values.
pytest.register_assert_rewrite("tests.ads.conversation")

Accept = Callable[[Expected, Any], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--accept",
        action="store_true",
        help="rewrite the blocks of literate cases that differ from what moongate answers",
    )
    parser.addoption(
        "--scoped",
        action="store_true",
        help="let gateways of this process have scoped tables, however few hostnames they have",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("accept") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--accept rewrites pages: use it in one process, without --numprocesses.")
    if config.getoption("scoped"):
        is_on = RuntimeFlags.on
        RuntimeFlags.on = lambda self, flag: flag == "ScopedTables" or is_on(self, flag)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is asked for by name alone, and what has no meaning in the form of tables that is chosen."""
    if "long" not in (config.getoption("markexpr") or ""):
        skip(items, "long", "it takes minutes: pytest -m long")
    for item in items:
        if item.get_closest_marker("long") is not None:
            item.add_marker(pytest.mark.timeout(0))
    if config.getoption("scoped"):
        skip(items, "whole_tables", "it is about route tables that stand in one piece")


def skip(items: list[pytest.Item], marker: str, reason: str) -> None:
    for item in items:
        if item.get_closest_marker(marker) is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A folder of the test's own, with a path short enough for sockets.

    Pytest's own has in it the user, the test, its process, and how often pytest has run.
    """
    with TemporaryDirectory(prefix="mg-", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def accept(pytestconfig: pytest.Config) -> Iterator[Accept]:
    """Compares a block with the actual value, as data; or notes it to be rewritten after the last test."""
    rewriting = bool(pytestconfig.getoption("accept"))
    changes: list[tuple[Expected, Any]] = []

    def compare(expected: Expected, actual: Any) -> None:
        if expected.value == actual:
            return
        if not rewriting:
            assert expected.value == actual, f"{expected.page.name}: {expected.what} {expected.path}"
        changes.append((expected, actual))

    yield compare
    rewrite(changes)
